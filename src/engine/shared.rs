//! What the queues of one LU share: row locks, the health epoch, the write intent and what is known of flushes. Atomics only, nobody ever waits here.

use alloc::vec::Vec;
use core::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Relaxed, Release, SeqCst},
};

use super::flushes::Flushes;
use super::intent::{IntentMap, Regions};
use super::locks::RowLocks;
use crate::geometry::Geometry;
use crate::units::Stripe;

/// State shared by all queues of one LU and its keeper.
pub struct Shared {
    /// Who may change which rows.
    pub locks: RowLocks,
    /// Whose flush can be believed.
    pub flushes: Flushes,
    epoch: AtomicU64,
    /// Superblocks on disk say "dirty": writes may go out.
    dirty: AtomicBool,
    /// False where there is nothing to resync after a crash, so that nobody has to be told before a write.
    tracks_intent: bool,
    /// Writers also wait for the marks of their regions, where there is a write-intent bitmap.
    intent: Option<IntentMap>,
    /// A flush failed and there is no redundancy to hide it behind: what was unflushed is gone, and stays reported.
    flush_lost: AtomicBool,
    /// Superblocks cannot be written where it matters: no more promises can be made.
    broken: AtomicBool,
    gates: Vec<Gate>,
}

/// One queue's count of writes, on a cache line that only this queue writes to.
#[repr(align(64))]
#[derive(Default)]
struct Gate {
    used: AtomicBool,
    in_flight: AtomicU32,
    total: AtomicU64,
    /// Requests of clients. Written by whoever drives the queue, so that no read-modify-write is needed.
    requests: AtomicU64,
}

/// A queue's place in [`Shared`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueId(usize);

impl QueueId {
    pub(super) fn index(self) -> usize {
        self.0
    }

    #[cfg(test)]
    pub(super) fn nth(n: usize) -> QueueId {
        QueueId(n)
    }
}

impl Shared {
    /// For up to `queues` queues on an LU of this shape, clean, at `epoch`.
    pub fn new(geometry: &Geometry, queues: usize, epoch: u64) -> Shared {
        Shared {
            locks: RowLocks::new(geometry.unit().0 as u32),
            flushes: Flushes::new(queues, 2 * usize::from(geometry.slots())),
            epoch: AtomicU64::new(epoch),
            dirty: AtomicBool::new(false),
            tracks_intent: geometry.is_redundant(),
            intent: None,
            flush_lost: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            gates: (0..queues).map(|_| Gate::default()).collect(),
        }
    }

    /// With a write-intent bitmap, of which `map` is what writers see.
    pub fn with_intent(self, map: Option<IntentMap>) -> Shared {
        Shared { intent: map, ..self }
    }

    /// The write-intent bitmap as writers see it, if there is one.
    pub fn intent(&self) -> Option<&IntentMap> {
        self.intent.as_ref()
    }

    /// A place for one more queue, or `None` if all are taken.
    pub fn join(&self) -> Option<QueueId> {
        let free = |gate: &Gate| gate.used.compare_exchange(false, true, SeqCst, SeqCst).is_ok();
        self.gates.iter().position(free).map(QueueId)
    }

    /// Gives a queue's place back. It has no writes in flight.
    pub fn leave(&self, queue: QueueId) {
        self.gates[queue.0].used.store(false, SeqCst);
    }

    /// The health epoch. A queue that holds a row lock and sees the epoch of its view may plan with that view.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(SeqCst)
    }

    /// Publishes that there is a newer view. The view itself must be there before.
    pub fn set_epoch(&self, epoch: u64) {
        self.epoch.store(epoch, SeqCst);
    }

    // --- write intent ---------------------------------------------------------------------------------------------
    //
    // A writer counts itself in, then looks whether the LU is marked dirty. The keeper takes the mark away, then looks
    // whether a writer is counted in. Whichever comes second sees the other.

    /// Counts a write in. False if the LU is not marked dirty on disk yet: then the write is not counted and must wait.
    pub fn begin_write(&self, queue: QueueId) -> bool {
        let gate = &self.gates[queue.0];
        // (Nobody else drives the queue meanwhile.) The first of several makes the keeper see that the queue writes; the others
        // need not: until all have ended it finds one or the other number, and none of them is zero.
        match gate.in_flight.load(Relaxed) {
            0 => {
                gate.in_flight.swap(1, SeqCst);
            }
            more => gate.in_flight.store(more + 1, Relaxed),
        }
        if !self.tracks_intent || self.dirty.load(SeqCst) {
            gate.total.store(gate.total.load(Relaxed).wrapping_add(1), Release);
            return true;
        }
        self.end_write(queue);
        false
    }

    /// Counts a write out.
    pub fn end_write(&self, queue: QueueId) {
        let gate = &self.gates[queue.0];
        // All that the write did comes before. Whoever sees this too late takes it to be under way still.
        gate.in_flight.store(gate.in_flight.load(Relaxed) - 1, Release);
    }

    /// Gives back what a write held: rows that it had locked, its place in the count, and in those of its regions. True if
    /// somebody may be sleeping for the rows.
    #[must_use = "sleepers must be woken"]
    pub(super) fn let_go(
        &self,
        queue: QueueId,
        stripe: Stripe,
        rows: Option<u32>,
        counted: bool,
        regions: Option<Regions>,
    ) -> bool {
        let wake = rows.is_some_and(|mask| self.locks.unlock(stripe, mask));
        if counted {
            self.end_write(queue);
        }
        if let (Some(map), Some(regions)) = (&self.intent, regions) {
            map.end(regions);
        }
        wake
    }

    /// Writes begun since the start, on all queues: unchanged for a while means idle.
    pub fn writes_begun(&self) -> u64 {
        self.gates.iter().map(|gate| gate.total.load(SeqCst)).sum()
    }

    /// A client's request has come, on a queue that nobody else drives meanwhile.
    pub fn note_request(&self, queue: QueueId) {
        let requests = &self.gates[queue.0].requests;
        requests.store(requests.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// Requests of clients since the start, on all queues, about: unchanged for a while means that nobody is kept waiting.
    pub fn requests_begun(&self) -> u64 {
        self.gates.iter().fold(0, |sum, gate| sum.wrapping_add(gate.requests.load(Relaxed)))
    }

    /// Is the LU marked dirty?
    pub fn is_dirty(&self) -> bool {
        self.dirty.load(SeqCst)
    }

    /// The superblocks say "dirty", durably: writes may go out.
    pub fn set_dirty(&self) {
        self.dirty.store(true, SeqCst);
    }

    /// Takes the dirty mark away if no write is in flight. From then on writes wait; only then may "clean" be written.
    pub fn try_clean(&self) -> bool {
        self.dirty.store(false, SeqCst);
        let idle = self.gates.iter().all(|gate| gate.in_flight.load(SeqCst) == 0);
        if !idle {
            self.dirty.store(true, SeqCst);
        }
        idle
    }

    // --- flush ----------------------------------------------------------------------------------------------------

    /// A flush failed where nothing stands in for the member.
    pub fn set_flush_lost(&self) {
        self.flush_lost.store(true, SeqCst);
    }

    /// The state of the LU can no longer be recorded: writes fail from now on, also those that are held.
    pub fn set_broken(&self) {
        self.broken.store(true, SeqCst);
    }

    /// Has recording the state failed?
    pub fn is_broken(&self) -> bool {
        self.broken.load(SeqCst)
    }

    /// Has a flush failed for good?
    pub fn flush_lost(&self) -> bool {
        self.flush_lost.load(SeqCst)
    }
}
