//! When to do it: a state machine that carries plans out. It does no I/O, knows no disk and touches no payload; it moves
//! names of buffers through a [`Port`].
//!
//! The grammar of an [`Engine`]: [`submit`](Engine::submit) takes a request or says that it is full;
//! [`run`](Engine::run) forms bands from what was submitted and starts all that can start, calling the port;
//! [`complete`](Engine::complete) tells it that a disk operation is done; [`reply`](Engine::reply) gives out what is
//! finished. `run` is also to be called after another queue's wake or a new health epoch.
//!
//! A request is cut into *pieces* (runs of rows of one data cell). Pieces of all submitted requests that fall into the
//! same rows of the same stripe are merged into one *band* and planned together: neighbouring small writes become one
//! reconstruct-write or a full stripe. A write that finds its rows locked joins the band that waits for them. (What needs no
//! plan goes past all this, see `direct`.)
//!
//! The life of an operation (one band):
//!
//! ```text
//!        (write) counted in; LU and regions marked?      rows locked / seen free     reads     folds, writes
//! formed ------------> Intent ---------------------------> Lock --------> Gather -------> Scatter ----> done
//!                        ^ ask the keeper                   ^  ^ no memory    | a read failed: plan      | a write failed:
//!                        +---- wake ----+                   +--+ ------------+  again without it         v
//!                                                                                       Hold until the survivors say so
//! ```
//!
//! With a partial parity log ([`Log`]) a stage lies between folds and writes: `Gather -> Log -> Scatter`, in which the write
//! waits until what the log needs of it is durable.
//!
//! What must hold, and where it is kept:
//! - A lock lives from plan to last write; after taking it the epoch is looked at again, so a plan made under a lock is
//!   never older than what the previous holder knew.
//! - The reply to a write that skipped a failed member waits until the view says that the member is missing. The view
//!   says so only when the superblocks of the survivors do.
//! - The reply to a write that made bad blocks good waits until that is recorded. So does the error of a write that failed
//!   on a member nothing stands in for: its rows go on the list of bad blocks, or what others lost there would be made
//!   up from bytes that do not belong together.
//! - A flush is believed when all that were under way on any queue at its end have been looked at ([`Flushes`]).
//! - Reads that depend on more than one cell, or that could have been served by another copy, are checked against the
//!   row lock's counter and done again if somebody wrote meanwhile: a value once read does not flip back.

mod direct;
mod flushes;
mod intent;
mod legs;
mod locks;
mod log;
mod machine;
mod shared;
mod waiting;

#[cfg(test)]
mod tests;

pub(crate) use direct::MOST_SUMS;
pub use flushes::{Flushes, Flushing};
pub use intent::{IntentMap, Regions};
pub use locks::{Observed, RowLocks};
pub use log::{Begun, Log, MOST_PARITY, RecordState, Ring, Step};
pub use machine::{Engine, Limits};
pub use shared::{QueueId, Shared};

use alloc::sync::Arc;

use crate::format::ppl::Entry;
use crate::plan::{Rows, View};
use crate::units::{Lba, MemberLba, Sectors, Slot, Stripe};

/// Wakes a queue that sleeps in its reap. Called from any thread.
pub trait Wake: Send + Sync {
    /// The queue shall look again.
    fn wake(&self);
}

/// A run of bytes in memory the port knows by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bytes {
    /// The region.
    pub region: u32,
    /// Bytes from its start.
    pub offset: u32,
    /// How many bytes.
    pub len: u32,
}

impl Bytes {
    /// No memory.
    pub const NONE: Bytes = Bytes { region: 0, offset: 0, len: 0 };

    /// `len` bytes from `offset` within these.
    pub const fn slice(self, offset: u32, len: u32) -> Bytes {
        Bytes { region: self.region, offset: self.offset + offset, len }
    }
}

/// What a client wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Read `sectors` at `lba` into `memory`.
    Read {
        /// First sector.
        lba: Lba,
        /// How many; at least one block.
        sectors: Sectors,
        /// Where to.
        memory: Bytes,
    },
    /// Write `sectors` at `lba` from `memory`, which nobody changes until the reply.
    Write {
        /// First sector, a multiple of the LU's block.
        lba: Lba,
        /// How many, a multiple of the LU's block.
        sectors: Sectors,
        /// Where from.
        memory: Bytes,
        /// Stable when acknowledged.
        fua: bool,
        /// The bytes at both ends that are not the client's and are to be kept as they are on the LU.
        keep: Keep,
    },
    /// Have `sectors` at `lba` read as zeroes; as [`Write`](Request::Write), without moving them through memory.
    Zero {
        /// First sector, a multiple of the LU's block.
        lba: Lba,
        /// How many, a multiple of the LU's block; none is possible.
        sectors: Sectors,
    },
    /// Everything acknowledged before this was submitted, on any queue, becomes stable.
    Flush,
    /// Make every cell of these rows right that may not be believed (resync, rebuild).
    Fill {
        /// The stripe.
        stripe: Stripe,
        /// Its rows.
        rows: Rows,
    },
}

impl Request {
    /// `len` sectors of a read or a write of whole blocks, from `skip` sectors into it; anything else as it is.
    fn part(self, skip: Sectors, len: Sectors) -> Request {
        let cut = |memory: Bytes| memory.slice(skip.bytes() as u32, len.bytes() as u32);
        match self {
            Request::Read { lba, memory, .. } => {
                Request::Read { lba: lba + skip, sectors: len, memory: cut(memory) }
            }
            Request::Write { lba, memory, fua, keep, .. } => {
                Request::Write { lba: lba + skip, sectors: len, memory: cut(memory), fua, keep }
            }
            other => other,
        }
    }
}

/// How many bytes of the first and last block of a write are not the client's. Each is less than a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Keep {
    /// At the start of the first block.
    pub head: u32,
    /// At the end of the last block.
    pub tail: u32,
}

/// The end of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply {
    /// The number the client gave with the request.
    pub cookie: u64,
    /// The memory of a read or write.
    pub memory: Option<Bytes>,
    /// How it ended.
    pub result: Result<(), Trouble>,
}

/// Why a request failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Trouble {
    /// More members are missing or bad at this place than the level survives.
    #[error("{0}")]
    Lost(#[from] crate::plan::Lost),
    /// A member failed and nothing stands in for it.
    #[error("{0} failed and nothing stands in for it there")]
    Member(Slot),
    /// A flush failed earlier and what was not flushed then may be gone.
    #[error("an earlier flush failed: what was written before it may be lost")]
    FlushLost,
    /// The superblocks cannot be written, so no write can be promised.
    #[error(
        "the superblocks of the remaining members cannot be written, so nothing can be promised any more"
    )]
    Broken,
}

/// Who fills a slot: a number that the port gives a meaning. A spare that takes over is another holder, so that a late
/// failure of its predecessor is not blamed on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holder(pub u32);

impl Holder {
    /// An empty slot has this one.
    pub const NOBODY: Holder = Holder(u32::MAX);
}

/// Blocks of a member to be put on its list of bad ones, or to be taken off because they were written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Note {
    /// By the number a plan gives it.
    pub slot: Slot,
    /// Who was written to.
    pub holder: Holder,
    /// The first sector, in the data area.
    pub at: MemberLba,
    /// How many.
    pub sectors: Sectors,
    /// On the list, or off it.
    pub bad: bool,
}

impl Note {
    /// Does `view` say what the note says?
    fn is_in(&self, view: &View) -> bool {
        let (start, end) = (self.at, self.at + self.sectors);
        let Some(member) = view.device(self.slot) else { return true };
        if self.bad {
            member.bad.iter().any(|range| range.0 <= start && end <= range.1)
        } else {
            member.bad.iter().all(|range| range.1 <= start || end <= range.0)
        }
    }
}

/// What an engine asks of the world. Nothing here waits.
pub trait Port {
    /// Reads from `slot`'s data area; ends in [`Engine::complete`] with `tag`.
    fn read(&mut self, tag: u64, slot: Slot, at: MemberLba, into: Bytes);
    /// Writes to `slot`'s data area; with `fua`, stable when complete. A slot that is empty by now is skipped: its absence
    /// is on record.
    fn write(&mut self, tag: u64, slot: Slot, at: MemberLba, from: Bytes, fua: bool) -> Holder;
    /// Has `sectors` of `slot` read as zeroes, else as [`write`](Port::write).
    fn zero(&mut self, tag: u64, slot: Slot, at: MemberLba, sectors: Sectors) -> Holder;
    /// Do writes to `slot` with FUA cost less than a flush after them?
    fn prefers_fua(&self, slot: Slot) -> bool;
    /// Makes stable what `slot` has completed.
    fn flush(&mut self, tag: u64, slot: Slot) -> Holder;
    /// Who fills `slot` in the newest view.
    fn holder(&self, slot: Slot) -> Holder;
    /// `targets[i] = sum of coef[i] * term` (added to what is there if `accumulate`); done on return.
    fn fold(
        &mut self,
        targets: &[Bytes],
        terms: &mut dyn Iterator<Item = (Bytes, [u8; 2])>,
        accumulate: bool,
    );
    /// Copies bytes; done on return.
    fn copy(&mut self, to: Bytes, from: Bytes);
    /// Scratch memory, or `None` if there is none now. At least one operation's worth is there when nothing is lent out.
    fn alloc(&mut self, bytes: u32) -> Option<u32>;
    /// Gives scratch memory back.
    fn free(&mut self, region: u32);
    /// Asks the log that the LU's queues share; `None` if it has none.
    fn log<R>(&mut self, ask: impl FnOnce(&mut Log) -> R) -> Option<R>;
    /// A write joins the next record of `slot`'s log, [`Log::join`] and [`Log::push`], with its entries and the bytes of
    /// partial parity of each, which are copied and summed up into [`Entry::checksum`]. The record's number, or `None` if it
    /// is full. Done on return.
    fn log_join(
        &mut self,
        queue: QueueId,
        slot: Slot,
        entries: &mut dyn ExactSizeIterator<Item = (Entry, Option<Bytes>)>,
        parity: u32,
    ) -> Option<u64>;
    /// Writes the record that `slot`'s log asks for, [`Log::begin`]: header and partial parity in one operation with FUA.
    /// `None` if the log does not ask any more, for another queue was faster: that is looked at, the record begun and its
    /// bytes taken in one go. Ends in [`Engine::complete`] with `tag`. Only while somebody fills the slot. With `copy` the same goes to the log of the
    /// disk that is to replace the slot's, and ends with that tag.
    fn log_write(&mut self, tag: u64, slot: Slot, copy: Option<u64>) -> Option<Holder>;
    /// The newest view of the LU's health.
    fn view(&mut self) -> Arc<View>;
    /// Locks were given back that other queues may be sleeping for.
    fn wake_others(&mut self);
    /// A write waits for the LU to be marked dirty, or for the marks of its regions.
    fn ask_dirty(&mut self);
    /// A write or flush to whoever filled `slot` then failed. Called for every such failure.
    fn member_failed(&mut self, slot: Slot, holder: Holder);
    /// Something is to be recorded, durably, of blocks that are stable before. It is done when the view says so.
    fn record(&mut self, note: Note);
    /// Rows of `slot` could not be read. They are served from redundancy where there is any.
    fn read_failed(&mut self, slot: Slot, at: MemberLba, sectors: Sectors);
}
