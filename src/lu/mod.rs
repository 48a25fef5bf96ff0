//! An LU: what a server sees as one disk. Made by [`Lu::create`], found again by [`Lu::assemble`].
//!
//! This floor joins the others: superblocks become a geometry and a view of the members (`assemble`), queues drive
//! engines over disks (`queue`), and one keeper per LU that is open for writing marks it dirty and clean, records
//! failures and runs recovery (`keeper`). Together with the program it is the only place that picks defaults.
//!
//! ```no_run
//! use uraid::{Lu, lu::Access};
//!
//! # fn main() -> uraid::Result<()> {
//! let lu = Lu::assemble().beside("disks/d0.img").access(Access::Write).open()?;
//! lu.write_at(b"hello", 4096)?;
//! lu.flush()?;
//! let mut bytes = [0; 5];
//! lu.read_at(&mut bytes, 4096)?;
//! assert_eq!(&bytes, b"hello");
//! lu.stop()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Promises
//! Calls may come from any number of threads. A read returns what the last acknowledged write left, or what a write in
//! flight is about to leave, per sector; there is no order between sectors. [`Lu::flush`] covers everything acknowledged
//! before it. A member whose write or flush fails is failed: the reply waits until the others have recorded it
//! durably. With [`Policy::Ppl`] (RAID5) the partial parity log is replayed after a crash of the host: nothing is resynced, and
//! a member may be lost in the same crash. Else redundancy is resynced: with [`Policy::Bitmap`] where was being written, with
//! none everywhere; a parity LU that loses a member in the same crash is refused at the next start.

mod admin;
mod assemble;
mod bitmap;
mod board;
mod change;
mod create;
#[cfg(feature = "async")]
pub mod futures;
mod keeper;
mod log;
mod look;
pub(crate) mod machine;
mod measure;
mod members;
mod open;
mod queue;
mod readd;
pub mod status;
mod ways_out;
mod zero;

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::disk::{AlignedBuf, FileBackend, lend, lend_const};
use crate::engine::Keep;
use crate::error::{Error, ErrorKind, Result};
use crate::format::superblock::Uuid;
use crate::units::{Lba, Level, SECTOR, Slot};

pub use crate::disk::{Access as DiskAccess, IoMode};
pub use change::{Change, Changed, DiskName};
pub use create::Create;
#[cfg(feature = "async")]
pub use futures::{AsyncQueue, Driver};
pub use look::{Inspection, Scanned, inspect, scan};
pub use measure::Extent;
pub use open::{Access, Assemble};
pub use queue::{Completion, Queue};
pub use status::{Marked, MemberState, MemberStatus, Policy, State, Status, Work, WorkKind};

use board::{Board, lock};
use queue::{Pool, Want};
use status::Describe;

/// Most bytes handed to an engine as one request; longer calls are cut.
const LONGEST: usize = 32 << 20;

/// An open LU. See the [module's text](self).
pub struct Lu {
    pool: Pool,
    board: Arc<Board>,
    describe: Describe,
    keeper: Mutex<Option<JoinHandle<()>>>,
    /// The disks below any wrapper: where they are added and let go.
    files: Arc<FileBackend>,
}

/// Which part of a call is done block by block, and which bytes of the blocks at its ends are not the caller's.
pub(crate) struct Cut {
    pub(crate) start: u64,
    pub(crate) len: usize,
    pub(crate) keep: Keep,
}

impl Lu {
    /// Begins making an LU named `name` (up to 32 bytes, stored in the superblocks).
    pub fn create(name: impl Into<String>, level: Level) -> Create {
        Create::new(name.into(), level)
    }

    /// Begins assembling an LU from its members.
    pub fn assemble() -> Assemble {
        Assemble::default()
    }

    /// Its name, without md's "homehost:".
    pub fn name(&self) -> &str {
        &self.describe.name
    }

    /// Its identity.
    pub fn uuid(&self) -> Uuid {
        self.describe.uuid
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.board.geometry.size().bytes()
    }

    /// Its logical block size in bytes: the largest of its members'. Calls of this size and alignment cost nothing extra.
    pub fn block_size(&self) -> u32 {
        self.board.block
    }

    /// Reads `buf.len()` bytes from byte `offset`, any alignment.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] past the end; [`ErrorKind::Io`] if redundancy cannot give the data back.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.check(offset, buf.len() as u64)?;
        let mut offset = offset;
        for part in buf.chunks_mut(LONGEST) {
            let cut = self.cut(offset, part.len());
            if cut.keep == Keep::default() && self.is_aligned(part.as_ptr()) {
                lend(part, |lent| self.pool.run(Lba(offset / SECTOR), Some(lent), Want::Read))?;
            } else {
                let mut bounce = AlignedBuf::new(cut.len);
                lend(&mut bounce, |lent| self.pool.run(Lba(cut.start / SECTOR), Some(lent), Want::Read))?;
                let head = cut.keep.head as usize;
                part.copy_from_slice(&bounce[head..head + part.len()]);
            }
            offset += part.len() as u64;
        }
        Ok(())
    }

    /// Writes `buf` at byte `offset`, any alignment; bytes around it in the same block stay as they are. Stable after the
    /// next [`flush`](Lu::flush).
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] past the end or if the LU is open for reading; [`ErrorKind::Io`] if members failed beyond what the
    /// level survives: each sector then holds its old or its new content.
    pub fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        refuse_read_only(&self.board)?;
        self.check(offset, buf.len() as u64)?;
        let mut offset = offset;
        for part in buf.chunks(LONGEST) {
            let cut = self.cut(offset, part.len());
            let (lba, want) = (Lba(cut.start / SECTOR), Want::Write { keep: cut.keep, fua: false });
            if cut.keep == Keep::default() && self.is_aligned(part.as_ptr()) {
                lend_const(part, |lent| self.pool.run(lba, Some(lent), want))?;
            } else {
                let mut bounce = AlignedBuf::new(cut.len);
                let head = cut.keep.head as usize;
                bounce[head..head + part.len()].copy_from_slice(part);
                lend(&mut bounce, |lent| self.pool.run(lba, Some(lent), want))?;
            }
            offset += part.len() as u64;
        }
        Ok(())
    }

    /// Makes stable everything acknowledged before, by any thread or queue.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if a member could not flush and nothing stands in for it; it then stays failed.
    pub fn flush(&self) -> Result<()> {
        self.pool.run(Lba(0), None, Want::Flush)
    }

    /// A queue of its own for up to `depth` requests in flight (at most 4096).
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] if too many are open, [`ErrorKind::Io`] if the system refuses the means.
    pub fn queue(&self, depth: usize) -> Result<Queue> {
        Queue::open(&self.board, depth)
    }

    /// How it is now.
    pub fn status(&self) -> Status {
        self.describe.now(&self.board)
    }

    /// Waits until no resync or rebuild is under way or about to begin, calling `progress` now and then; if that returns
    /// false, pauses the work at a checkpoint and returns.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if the LU can no longer record its state.
    pub fn wait_for_work(&self, progress: &mut dyn FnMut(Work) -> bool) -> Result<()> {
        if !self.watch_work(&mut |work| work.is_none_or(&mut *progress))? {
            self.pause_work();
            // Until it has: what it meets on the way to its checkpoint belongs to what the caller is about to tell.
            self.watch_work(&mut |_| true)?;
        }
        Ok(())
    }

    /// Watches until no resync or rebuild is under way or about to begin, calling `progress` every few milliseconds with
    /// what is under way; `None` between two stretches. If that returns false, stops watching, and the work goes on.
    /// True if there is nothing left to watch: all is done, or [paused](Lu::pause_work).
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if the LU can no longer record its state.
    pub fn watch_work(&self, progress: &mut dyn FnMut(Option<Work>) -> bool) -> Result<bool> {
        loop {
            if self.board.shared.is_broken() {
                return Err(Error::new(ErrorKind::Io, "the superblocks cannot be written"));
            }
            let work = *lock(&self.board.work);
            if work.is_none() && (self.board.is_settled() || lock(&self.keeper).is_none()) {
                return Ok(true);
            }
            if !progress(work) {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Pauses long work at a checkpoint, what is under way and what would begin later; a pause does not outlive the
    /// opening of the LU.
    pub fn pause_work(&self) {
        self.board.tell_keeper(|inbox| inbox.pause = true);
    }

    /// Goes on with long work that was paused, from where it was.
    pub fn resume_work(&self) {
        self.board.tell_keeper(|inbox| (inbox.pause, inbox.resume) = (false, true));
    }

    /// Finishes what is under way, flushes, marks the LU clean and lets go of its disks.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if the flush failed or the state could not be recorded: what was written since the last flush may
    /// be lost.
    pub fn stop(self) -> Result<()> {
        let flushed = if self.board.read_only { Ok(()) } else { self.flush() };
        self.shut_down();
        if self.board.shared.is_broken() {
            return Err(Error::new(ErrorKind::Io, "stopped, but the superblocks could not be written"));
        }
        flushed
    }

    fn shut_down(&self) {
        self.board.close();
        self.pool.clear();
        if let Some(keeper) = lock(&self.keeper).take() {
            self.board.tell_keeper(|inbox| inbox.stop = true);
            // The keeper only ends by itself; a panic in it has been printed already.
            let _ = keeper.join();
        }
    }

    fn check(&self, offset: u64, len: u64) -> Result<()> {
        let size = self.size();
        match offset.checked_add(len) {
            Some(end) if end <= size => Ok(()),
            _ => {
                let text = format!("{len} bytes at {offset} reach past the end of the LU ({size} bytes)");
                Err(Error::new(ErrorKind::Usage, text))
            }
        }
    }

    /// The blocks around `len` bytes at `offset`, which are inside.
    pub(crate) fn cut(&self, offset: u64, len: usize) -> Cut {
        let block = u64::from(self.board.block);
        let start = offset - offset % block;
        let end = (offset + len as u64).next_multiple_of(block);
        // An LU whose size is no multiple of the block ends in a shorter one.
        let end = end.min(self.size());
        let keep = Keep { head: (offset - start) as u32, tail: (end - offset - len as u64) as u32 };
        Cut { start, len: (end - start) as usize, keep }
    }

    fn is_aligned(&self, at: *const u8) -> bool {
        at.addr().is_multiple_of(self.describe.memory_align)
    }
}

impl Drop for Lu {
    fn drop(&mut self) {
        self.shut_down();
    }
}

fn refuse_read_only(board: &Board) -> Result<()> {
    if board.read_only {
        return Err(Error::new(ErrorKind::Usage, "the LU is open for reading only"));
    }
    if board.is_closing() {
        return Err(Error::new(ErrorKind::Busy, "the LU is being stopped"));
    }
    Ok(())
}

/// Slots named for people: "slot 1", "slots 1 and 3".
fn slots_named(slots: &[Slot]) -> String {
    let numbers: Vec<String> = slots.iter().map(|slot| slot.0.to_string()).collect();
    match &numbers[..] {
        [one] => format!("slot {one}"),
        [most @ .., last] => format!("slots {} and {last}", most.join(", ")),
        [] => "no slot".into(),
    }
}
