//! One read, write or flush after the other, each waited for: for metadata.
//!
//! Promises: any place and length in bytes; the I/O below is whole blocks of the disk, a write of part of a
//! block reads the rest first. Errors name the disk and the place. Any thread may call; calls take turns.
//!
//! Refuses to know: what is read and written.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{AlignedBuf, Backend, DiskId, Disks, Done, Failure, Memory, Op, RegionId, Span};
use crate::error::{Error, ErrorKind, Result};
use crate::units::{DiskLba, SECTOR};

/// Bytes moved at a time: a multiple of every block size.
const WINDOW: u32 = 256 * 1024;

/// A queue of its own to the disks of a backend, driven by blocking calls.
pub struct Blocking<B> {
    backend: B,
    inner: Mutex<Inner>,
}

struct Inner {
    queue: Box<dyn Disks>,
    memory: Memory,
    window: RegionId,
    done: Vec<Done>,
}

impl<B: Backend> Blocking<B> {
    /// Opens the queue. `backend` may be an owned one, an `Arc` or a reference.
    ///
    /// # Errors
    /// As [`Backend::queue`].
    pub fn new(backend: B) -> Result<Blocking<B>> {
        let mut memory = Memory::new(1, 0);
        let window = memory.insert_owned(AlignedBuf::new(WINDOW as usize)).expect("room for one region");
        let inner = Inner { queue: backend.queue(1)?, memory, window, done: Vec::with_capacity(1) };
        Ok(Blocking { backend, inner: Mutex::new(inner) })
    }

    /// The backend.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Fills `bytes` from `disk`, from `at` on.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io), with the [`Failure`] as its source, also if the range is past the end.
    pub fn read_exact(&self, disk: DiskId, at: DiskLba, bytes: &mut [u8]) -> Result<()> {
        let len = bytes.len();
        self.windows(disk, at, len, |inner, window| {
            inner.transfer(disk, window, false, false)?;
            let held = inner.memory.bytes(inner.span(window.inner_offset(), window.inner_len()));
            bytes[window.done..window.done + held.len()].copy_from_slice(held);
            Ok(())
        })
        .map_err(|failure| self.error("read", disk, at, len, failure))
    }

    /// Writes `bytes` to `disk`, from `at` on; with `fua`, durably. Not atomic towards others that write the
    /// same block.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io), with the [`Failure`] as its source, also if the range is past the end.
    pub fn write_exact(&self, disk: DiskId, at: DiskLba, bytes: &[u8], fua: bool) -> Result<()> {
        let len = bytes.len();
        self.windows(disk, at, len, |inner, window| {
            if window.is_partial() {
                inner.transfer(disk, window, false, false)?;
            }
            let span = inner.span(window.inner_offset(), window.inner_len());
            inner.memory.write_bytes(span, &bytes[window.done..window.done + span.len as usize]);
            inner.transfer(disk, window, true, fua)
        })
        .map_err(|failure| self.error("write", disk, at, len, failure))
    }

    /// Makes all that was written to `disk` durable.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io), with the [`Failure`] as its source.
    pub fn flush(&self, disk: DiskId) -> Result<()> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.run(Op::Flush { disk }).map_err(|failure| {
            let name = self.backend.info(disk).name;
            Error::new(ErrorKind::Io, format!("{name}: cannot flush: {failure}")).with_source(failure)
        })
    }

    /// Makes a disk known that was added to the backend later.
    pub fn attach(&self, disk: DiskId) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).queue.attach(disk);
    }

    /// Lets go of a disk.
    pub fn detach(&self, disk: DiskId) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).queue.detach(disk);
    }

    /// Calls `each` for the windows of whole blocks that cover `len` bytes from `at`.
    fn windows(
        &self,
        disk: DiskId,
        at: DiskLba,
        len: usize,
        mut each: impl FnMut(&mut Inner, Window) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let info = self.backend.info(disk);
        let block = u64::from(info.block);
        let start = at.0.checked_mul(SECTOR).ok_or(Failure::SHORT)?;
        let end =
            start.checked_add(len as u64).filter(|&end| end <= info.size.bytes()).ok_or(Failure::SHORT)?;
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut from = start;
        while from < end {
            let first = from - from % block;
            let last = end.next_multiple_of(block).min(first + u64::from(WINDOW));
            let to = end.min(last);
            each(&mut inner, Window { first, last, from, to, done: (from - start) as usize })?;
            from = to;
        }
        Ok(())
    }

    fn error(&self, what: &str, disk: DiskId, at: DiskLba, len: usize, failure: Failure) -> Error {
        let name = self.backend.info(disk).name;
        let text = format!("{name}: cannot {what} {len} bytes at {at}: {failure}");
        Error::new(ErrorKind::Io, text).with_source(failure)
    }
}

/// Whole blocks `first..last` on the disk, of which `from..to` is asked for; all in bytes. `done` bytes came
/// before.
#[derive(Clone, Copy)]
struct Window {
    first: u64,
    last: u64,
    from: u64,
    to: u64,
    done: usize,
}

impl Window {
    fn len(self) -> u32 {
        (self.last - self.first) as u32
    }

    fn inner_offset(self) -> u32 {
        (self.from - self.first) as u32
    }

    fn inner_len(self) -> u32 {
        (self.to - self.from) as u32
    }

    fn is_partial(self) -> bool {
        (self.from, self.to) != (self.first, self.last)
    }
}

impl Inner {
    fn span(&self, offset: u32, len: u32) -> Span {
        Span { region: self.window, offset, len }
    }

    fn transfer(&mut self, disk: DiskId, window: Window, write: bool, fua: bool) -> Result<(), Failure> {
        let (span, at) = (self.span(0, window.len()), DiskLba(window.first / SECTOR));
        let op = match write {
            true => Op::Write { disk, at, buf: self.memory.io_write_from(span), fua },
            false => Op::Read { disk, at, buf: self.memory.io_read_into(span) },
        };
        self.run(op)
    }

    fn run(&mut self, op: Op) -> Result<(), Failure> {
        self.queue.submit(0, op);
        self.queue.kick();
        while self.done.is_empty() {
            self.queue.reap(&mut self.done, Some(Duration::from_secs(1)));
        }
        let mut result = Ok(());
        for done in self.done.drain(..) {
            result = done.result;
            if let Some(buf) = done.buf {
                self.memory.done(buf);
            }
        }
        result
    }
}

impl<B> std::fmt::Debug for Blocking<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Blocking")
    }
}
