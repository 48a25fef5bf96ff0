//! Files and block devices by plain system calls: `preadv2`, `pwritev2`, `fdatasync`.
//!
//! Everywhere io_uring is forbidden (containers), and where it gains nothing: on file systems that cannot
//! complete without blocking, io_uring hands each operation to a worker thread.
//!
//! Promises: a transfer is whole or failed; interrupted calls are repeated, short ones continued.
//!
//! Zeroes are asked for by punching a hole, which file systems and block devices do only where they promise
//! that it reads as zeroes ("discard" promises nothing, and is not used). Where they refuse, zeroes are
//! written.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate, fdatasync};
use rustix::io::{Errno, ReadWriteFlags, preadv2, pwritev2};

use super::file::{FileDisk, Files};
use super::inline::Execute;
use super::runs::{MOST_PARTS, Run, Transfers};
use super::{DiskId, Failure, Op, OpKind};
use crate::units::{DiskLba, Sectors};

/// How often an operation that is not getting anywhere ("try again", no whole block transferred) is repeated.
pub(super) const RETRIES: u32 = 64;

/// The files of a queue without io_uring.
pub(super) struct Plain {
    files: Arc<Files>,
    disks: Vec<Option<Arc<FileDisk>>>,
}

impl Plain {
    pub(super) fn new(files: Arc<Files>) -> Plain {
        let disks = files.all();
        Plain { files, disks }
    }
}

impl Execute for Plain {
    const JOINS: bool = true;

    fn execute_joined(&mut self, run: &mut Run) -> bool {
        let disk = run.first().map(|op| op.disk().index());
        match disk.and_then(|index| self.disks.get(index)) {
            Some(Some(disk)) => execute_joined(disk, run),
            _ => false,
        }
    }

    fn end(&mut self, did: Transfers) {
        self.files.count(did);
    }

    fn execute(&mut self, op: &mut Op) -> Result<(), Failure> {
        match self.disks.get(op.disk().index()) {
            Some(Some(disk)) => execute(disk, op),
            _ => Err(Failure::GONE),
        }
    }

    fn attach(&mut self, id: DiskId) {
        if self.disks.len() <= id.index() {
            self.disks.resize(id.index() + 1, None);
        }
        self.disks[id.index()] = self.files.get(id);
    }

    fn detach(&mut self, id: DiskId) {
        if let Some(disk) = self.disks.get_mut(id.index()) {
            *disk = None;
        }
    }
}

/// Does `op` on `disk`, whole, now.
pub(super) fn execute(disk: &FileDisk, op: &mut Op) -> Result<(), Failure> {
    op.check(disk.size())?;
    match op {
        Op::Read { at, buf, .. } => {
            let (at, bytes) = (at.bytes(), buf.bytes_mut());
            transfer(bytes.len(), disk.block(), |done| {
                let rest = &mut [IoSliceMut::new(&mut bytes[done..])];
                preadv2(disk, rest, at + done as u64, ReadWriteFlags::empty())
            })
        }
        Op::Write { at, buf, fua, .. } => {
            let (at, bytes) = (at.bytes(), buf.bytes());
            let flags = flags(*fua);
            transfer(bytes.len(), disk.block(), |done| {
                pwritev2(disk, &[IoSlice::new(&bytes[done..])], at + done as u64, flags)
            })
        }
        Op::Zero { at, sectors, .. } => zero(disk, *at, *sectors),
        Op::Flush { .. } => loop {
            match fdatasync(disk) {
                Err(Errno::INTR) => continue,
                result => return Ok(result?),
            }
        },
    }
}

/// How a hole is punched.
pub(super) const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);

/// Has the disk make zeroes by itself. False if it has to be written to.
fn punch(disk: &FileDisk, at: DiskLba, bytes: u64) -> bool {
    while disk.zeroes() {
        match fallocate(disk, PUNCH, at.bytes(), bytes) {
            Ok(()) => return true,
            Err(Errno::INTR) => {}
            // Whatever is wrong: if it is the disk, writing will tell.
            Err(_) => disk.refuses_to_zero(),
        }
    }
    false
}

fn zero(disk: &FileDisk, at: DiskLba, sectors: Sectors) -> Result<(), Failure> {
    const PIECE: usize = 64 << 10;
    #[repr(align(4096))]
    struct Zeroes([u8; PIECE]);
    static ZEROES: Zeroes = Zeroes([0; PIECE]);

    let bytes = sectors.bytes();
    if punch(disk, at, bytes) {
        return Ok(());
    }
    let all = [IoSlice::new(&ZEROES.0); MOST_PARTS];
    transfer(bytes as usize, disk.block(), |done| {
        let (at, left) = (at.bytes() + done as u64, bytes as usize - done);
        match left / PIECE {
            0 => pwritev2(disk, &[IoSlice::new(&ZEROES.0[..left])], at, ReadWriteFlags::empty()),
            pieces => pwritev2(disk, &all[..pieces.min(MOST_PARTS)], at, ReadWriteFlags::empty()),
        }
    })
}

/// Does a run of several operations in one call. False if that did not do all of it.
pub(super) fn execute_joined(disk: &FileDisk, run: &mut Run) -> bool {
    let refused = run.parts_mut().iter().any(|(_, op)| op.check(disk.size()).is_err());
    let (false, Some(first), all) = (refused, run.first(), run.bytes()) else { return false };
    let Some((at, _)) = first.place() else { return false };
    let (place, at, flags) = (at, at.bytes(), flags(first.is_fua()));
    let answer = match first.kind() {
        OpKind::Read => {
            let mut room = std::array::from_fn(|_| IoSliceMut::new(&mut []));
            let count = run.slices_mut(&mut room);
            preadv2(disk, &mut room[..count], at, ReadWriteFlags::empty())
        }
        OpKind::Write => {
            let mut room = std::array::from_fn(|_| IoSlice::new(&[]));
            let count = run.slices(&mut room);
            pwritev2(disk, &room[..count], at, flags)
        }
        OpKind::Zero => return punch(disk, place, all as u64),
        OpKind::Flush => return false,
    };
    answer == Ok(all)
}

fn flags(fua: bool) -> ReadWriteFlags {
    if fua { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() }
}

/// Calls `step` with the bytes done so far until all `len` are done.
fn transfer(
    len: usize,
    block: u32,
    mut step: impl FnMut(usize) -> Result<usize, Errno>,
) -> Result<(), Failure> {
    let (mut done, mut retries) = (0, 0);
    while done < len {
        match progress(step(done).map_err(Errno::raw_os_error), done, len, block) {
            Progress::To(to) if to > done => done = to,
            Progress::To(_) if retries < RETRIES => retries += 1,
            Progress::To(_) => return Err(Failure::from_errno(libc::EAGAIN)),
            Progress::Failed(failure) => return Err(failure),
        }
    }
    Ok(())
}

/// What an answer of the kernel means for a transfer.
pub(super) enum Progress {
    /// So many bytes are done in all; the rest is to be asked for.
    To(usize),
    /// That was it.
    Failed(Failure),
}

/// The one place that reads the kernel's answer, for io_uring too. `done` of `len` bytes were done before.
pub(super) fn progress(answer: Result<usize, i32>, done: usize, len: usize, block: u32) -> Progress {
    match answer {
        Ok(0) if len > 0 => Progress::Failed(Failure::SHORT),
        Ok(n) if done + n >= len => Progress::To(len),
        // Direct I/O goes on at the start of a block.
        Ok(n) => Progress::To(done + n - (done + n) % block as usize),
        // Cancelled: the thread that submitted it to io_uring is gone before the work was begun.
        Err(libc::EINTR | libc::EAGAIN | libc::ECANCELED) => Progress::To(done),
        Err(errno) => Progress::Failed(Failure::from_errno(errno)),
    }
}
