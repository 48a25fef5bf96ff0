//! The only floor that moves bytes: disks, the memory they read into and write from, and the ways to drive
//! them.
//!
//! A [`Backend`] is a set of disks, numbered by [`DiskId`]. [`Backend::queue`] opens one queue's way to all
//! of them, a [`Disks`]: submit operations, kick, reap completions. An operation takes its buffer along
//! ([`IoBuf`]) and the completion brings it back, so no borrowed memory waits in the kernel.
//!
//! | module | what it is |
//! |---|---|
//! | [`buffers`] | names for memory, the pool, parity over named spans |
//! | [`mod@file`] | files and block devices: opening, claims, identity; io_uring or plain system calls |
//! | [`claim`] | who holds a disk |
//! | [`memory`] | disks in memory |
//! | [`faulty`], [`traced`] | wrappers around any backend: faults, and a record of what was done |
//! | [`overlay`] | a wrapper that shows some sectors otherwise than they are |
//! | [`blocking`] | read, write, flush one after the other: for metadata |
//!
//! Promises. Each submitted operation completes exactly once, whatever happens to the disk. A transfer is
//! done whole or reported as failed: short ones are continued, interrupted ones repeated. A flush completes
//! when all writes *completed before it was submitted* are durable; operations in flight together have no
//! order. Nothing is read or written beyond a disk's [`DiskInfo::size`]. The hot path does not allocate.
//!
//! Refuses to know: what is on the disks. A disk never knows a stripe.

pub mod blocking;
pub mod buffers;
pub mod claim;
pub mod cpu;
pub mod faulty;
pub mod file;
pub mod memory;
pub mod overlay;
pub mod traced;

pub(crate) mod bell;
mod inline;
mod pins;
mod plain;
mod runs;
mod slots;
#[cfg(test)]
mod tests;
mod uring;

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

pub use blocking::Blocking;
pub use buffers::{AlignedBuf, Arena, IoBuf, Lent, Memory, RegionId, Span, lend, lend_const};
pub use file::{Access, FileBackend, FileDisk, Identity, IoMode};
pub use memory::MemoryBackend;
pub use pins::MOST_PINNED;
pub use runs::Transfers;

use crate::engine::Wake;
use crate::error::Result;
use crate::units::{DiskLba, SECTOR, Sectors};

/// One queue's way to the disks of a backend. Driven by one thread at a time, not always the same.
///
/// The order of calls: any number of [`submit`](Disks::submit), then [`kick`](Disks::kick), then
/// [`reap`](Disks::reap) until everything is back. Dropping it waits for what the kernel has in hand.
pub trait Disks: Send {
    /// Queues `op`; its completion carries `ticket`, whose meaning is the caller's. Never blocks, never
    /// refuses; what is beyond the depth the queue was opened with waits inside (and may cost an allocation).
    /// An operation that cannot be done, on an unknown disk or past its end, fails in its completion.
    fn submit(&mut self, ticket: u64, op: Op);

    /// Hands over what was submitted, in one system call where io_uring drives the disks. Disks without
    /// asynchronous I/O work right here: everything for them is complete on return.
    fn kick(&mut self);

    /// Appends completions to `out`, in any order. With `wait`, and if none is there, kicks and sleeps until
    /// one comes, a [`waker`](Disks::waker) wakes, or the time is over. May also return early without any of
    /// these (a signal, a transfer that had to be continued). A wake that comes while nobody sleeps ends the
    /// next reap.
    ///
    /// True if it was woken: then there may be news that came after the caller looked for them last, and no further
    /// call tells of it.
    fn reap(&mut self, out: &mut Vec<Done>, wait: Option<Duration>) -> bool;

    /// Operations submitted and not yet reaped.
    fn in_flight(&self) -> usize;

    /// Interrupts a waiting [`reap`](Disks::reap) from any thread. Outlives the queue.
    fn waker(&self) -> Arc<dyn Wake>;

    /// Makes a disk known that was added to the backend after this queue was opened.
    fn attach(&mut self, id: DiskId);

    /// Lets go of a disk: operations submitted from now on fail as [`Failure::is_gone`]; those in flight
    /// complete. A file or device is closed when its backend and all queues have let go and nothing is in
    /// flight.
    fn detach(&mut self, id: DiskId);

    /// Tells of memory that operations will lie in again and again, so that a ring can register it: the kernel then finds
    /// and pins its pages once and not for each transfer of a disk with direct I/O. Registered is what is used, up to
    /// [`MOST_PINNED`] bytes in a queue; all the rest works as before, also where the system allows less or
    /// nothing (of `RLIMIT_MEMLOCK`, a process uses a quarter). Memory that is registered stays mapped until the queue is closed, or until
    /// other memory is registered after its last user has gone.
    fn register(&mut self, memory: &Arena) {
        let _ = memory;
    }

    /// Buffers for operations here: [`AlignedBuf::several`], [registered](Disks::register).
    ///
    /// # Errors
    /// As [`AlignedBuf::several`].
    fn buffers(&mut self, count: usize, len: usize) -> Result<Vec<AlignedBuf>> {
        let buffers = AlignedBuf::several(count, len)?;
        buffers.first().and_then(AlignedBuf::arena).into_iter().for_each(|arena| self.register(arena));
        Ok(buffers)
    }

    /// Readable when something may be reaped, for poll loops and async runtimes. Disks without asynchronous
    /// I/O complete in [`kick`](Disks::kick) and do not make it readable: reap without waiting before
    /// sleeping on it.
    fn event_fd(&self) -> Option<BorrowedFd<'_>>;
}

/// A set of disks, from which queues are opened. Disks may be added while queues are open
/// ([`Disks::attach`]); numbers are never used again.
pub trait Backend: Send + Sync {
    /// How many disks there have been: ids are below this.
    fn len(&self) -> usize;

    /// Not one disk yet?
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is known of a disk, also of one since removed.
    ///
    /// # Panics
    /// If there never was a disk `id`.
    fn info(&self, id: DiskId) -> DiskInfo;

    /// Opens a queue to all disks for about `depth` operations in flight.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if the system refuses the means (descriptors, memory, io_uring where it
    /// is insisted on).
    fn queue(&self, depth: usize) -> Result<Box<dyn Disks>>;

    /// What the disks had to do for queues that are closed by now, after neighbouring operations were joined;
    /// `None` if nobody counts.
    fn transfers(&self) -> Option<Transfers> {
        None
    }
}

impl<B: Backend + ?Sized> Backend for &B {
    fn len(&self) -> usize {
        (**self).len()
    }
    fn info(&self, id: DiskId) -> DiskInfo {
        (**self).info(id)
    }
    fn queue(&self, depth: usize) -> Result<Box<dyn Disks>> {
        (**self).queue(depth)
    }
    fn transfers(&self) -> Option<Transfers> {
        (**self).transfers()
    }
}

impl<B: Backend + ?Sized> Backend for Arc<B> {
    fn len(&self) -> usize {
        (**self).len()
    }
    fn info(&self, id: DiskId) -> DiskInfo {
        (**self).info(id)
    }
    fn queue(&self, depth: usize) -> Result<Box<dyn Disks>> {
        (**self).queue(depth)
    }
    fn transfers(&self) -> Option<Transfers> {
        (**self).transfers()
    }
}

/// A disk's number in its backend.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DiskId(pub u16);

impl DiskId {
    /// As an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "disk {}", self.0)
    }
}

/// What is known of a disk.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct DiskInfo {
    /// The path as it was given, or another name to show.
    pub name: String,
    /// Whole blocks only.
    pub size: Sectors,
    /// The smallest I/O, in bytes: a power of two, at least 512. Offsets and lengths are multiples of it.
    pub block: u32,
    /// What addresses of buffers must be a multiple of, in bytes. 1: anything.
    pub memory_align: u32,
    /// What sort of thing it is.
    pub kind: DiskKind,
    /// The page cache is bypassed.
    pub direct: bool,
    /// Asynchronous I/O would cost a worker thread per operation, so it is done by plain system calls in
    /// [`Disks::kick`].
    pub inline: bool,
    /// [`Op::Zero`] moves no bytes: as far as is known, the disk makes zeroes by itself.
    pub zeroes: bool,
    /// Several writes with FUA at a time cost less than the same without it and a flush after them. So it is with block
    /// devices: they know FUA, or the kernel makes one flush of all that is in flight. To a file each is an `fdatasync`.
    pub prefers_fua: bool,
}

impl DiskInfo {
    /// A disk that takes any memory and works inline; the rest is for its maker to adjust.
    pub fn new(name: impl Into<String>, size: Sectors, block: u32, kind: DiskKind) -> DiskInfo {
        DiskInfo {
            name: name.into(),
            size,
            block,
            memory_align: 1,
            kind,
            direct: true,
            inline: true,
            zeroes: false,
            prefers_fua: false,
        }
    }
}

/// What sort of thing a disk is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum DiskKind {
    /// A regular file.
    File,
    /// A block device.
    Block,
    /// Memory of this process.
    Memory,
    /// Something else: a disk of an embedding program's own making.
    Other,
}

/// An operation on a disk. Buffers are a whole number of the disk's blocks, and so is `at`.
#[derive(Debug)]
pub enum Op {
    /// Fills `buf`, made by [`Memory::io_read_into`].
    Read {
        /// Which disk.
        disk: DiskId,
        /// From where.
        at: DiskLba,
        /// To fill.
        buf: IoBuf,
    },
    /// Writes `buf`.
    Write {
        /// Which disk.
        disk: DiskId,
        /// To where.
        at: DiskLba,
        /// What to write.
        buf: IoBuf,
        /// Complete only when the data is durable ("force unit access").
        fua: bool,
    },
    /// Has a range read as zeroes from now on, as after a write of zeroes. The disk may free what it kept there;
    /// one that cannot be relied on to give zeroes then is written to.
    Zero {
        /// Which disk.
        disk: DiskId,
        /// From where.
        at: DiskLba,
        /// How many.
        sectors: Sectors,
    },
    /// Makes all writes durable that completed before this was submitted.
    Flush {
        /// Which disk.
        disk: DiskId,
    },
}

/// An [`Op`] without its operands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum OpKind {
    /// [`Op::Read`].
    Read,
    /// [`Op::Write`].
    Write,
    /// [`Op::Zero`].
    Zero,
    /// [`Op::Flush`].
    Flush,
}

impl Op {
    /// Which disk.
    pub fn disk(&self) -> DiskId {
        match *self {
            Op::Read { disk, .. } | Op::Write { disk, .. } | Op::Zero { disk, .. } | Op::Flush { disk } => {
                disk
            }
        }
    }

    /// What it does.
    pub fn kind(&self) -> OpKind {
        match self {
            Op::Read { .. } => OpKind::Read,
            Op::Write { .. } => OpKind::Write,
            Op::Zero { .. } => OpKind::Zero,
            Op::Flush { .. } => OpKind::Flush,
        }
    }

    /// From where and how many bytes; nothing for a flush.
    pub fn place(&self) -> Option<(DiskLba, usize)> {
        match self {
            Op::Read { at, buf, .. } | Op::Write { at, buf, .. } => Some((*at, buf.len())),
            Op::Zero { at, sectors, .. } => Some((*at, sectors.bytes() as usize)),
            Op::Flush { .. } => None,
        }
    }

    /// A write that asks for durability?
    pub fn is_fua(&self) -> bool {
        matches!(self, Op::Write { fua: true, .. })
    }

    /// The buffer, for the completion.
    pub fn into_buf(self) -> Option<IoBuf> {
        match self {
            Op::Read { buf, .. } | Op::Write { buf, .. } => Some(buf),
            Op::Zero { .. } | Op::Flush { .. } => None,
        }
    }

    /// The completion of this operation.
    pub fn done(self, ticket: u64, result: Result<(), Failure>) -> Done {
        Done { ticket, result, buf: self.into_buf() }
    }

    /// What every disk refuses.
    ///
    /// # Errors
    /// `EINVAL` if it is not whole sectors, `EFAULT` for reading into a buffer made to write from; beyond
    /// `size`, `ENOSPC` for a write and [`Failure::SHORT`] for a read.
    pub fn check(&self, size: Sectors) -> Result<(), Failure> {
        let Some((at, len)) = self.place() else { return Ok(()) };
        if !(len as u64).is_multiple_of(SECTOR) {
            return Err(Failure::from_errno(libc::EINVAL));
        }
        match (self, at.checked_add(Sectors(len as u64 / SECTOR))) {
            (Op::Read { buf, .. }, _) if !buf.is_into() => Err(Failure::from_errno(libc::EFAULT)),
            (_, Some(end)) if end.0 <= size.0 => Ok(()),
            (Op::Write { .. } | Op::Zero { .. }, _) => Err(Failure::from_errno(libc::ENOSPC)),
            _ => Err(Failure::SHORT),
        }
    }
}

/// A completion.
#[derive(Debug)]
#[must_use = "the buffer has to be handed back"]
pub struct Done {
    /// The ticket of the submission.
    pub ticket: u64,
    /// How it went. After a failed read or write, the content of the buffer or of the disk there is unknown.
    pub result: Result<(), Failure>,
    /// The buffer of a read or write, for [`Memory::done`].
    pub buf: Option<IoBuf>,
}

/// Why a disk could not do an operation.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Failure {
    errno: i32,
    short: bool,
}

impl Failure {
    /// The disk ended before the transfer did, or does not get on with it.
    pub const SHORT: Failure = Failure { errno: libc::EIO, short: true };

    /// The disk is not there (any more).
    pub const GONE: Failure = Failure::from_errno(libc::ENODEV);

    /// The failure the system names `errno`.
    pub const fn from_errno(errno: i32) -> Failure {
        Failure { errno, short: false }
    }

    /// The system's number for it; `EIO` for a short transfer.
    pub const fn errno(self) -> i32 {
        self.errno
    }

    /// A transfer that ended early, without a reason?
    pub const fn is_short(self) -> bool {
        self.short
    }

    /// Is the whole disk gone, rather than one place on it bad?
    pub const fn is_gone(self) -> bool {
        matches!(self.errno, libc::ENODEV | libc::ENXIO | libc::ESHUTDOWN | libc::ENOMEDIUM | libc::EBADF)
    }
}

impl From<rustix::io::Errno> for Failure {
    fn from(errno: rustix::io::Errno) -> Failure {
        Failure::from_errno(errno.raw_os_error())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.short {
            true => f.write_str("the transfer ended early"),
            false => std::io::Error::from_raw_os_error(self.errno).fmt(f),
        }
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Failure({self})")
    }
}

impl std::error::Error for Failure {}
