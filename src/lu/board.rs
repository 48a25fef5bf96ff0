//! What the queues of an LU and its keeper share, and how they reach each other.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, mpsc};

use crate::disk::{Backend, DiskId};
use crate::engine::{Note, Shared, Wake};
use crate::error::Result;
use crate::geometry::Geometry;
use crate::parity::Kernels;
use crate::plan::View;
use crate::units::{DiskLba, Slot};

use super::log::{Book, LogPlace};
use super::members::Member;
use super::queue::{Cell, SCRATCH};
use super::status::{Row, Work};

/// The view and where its slots are, at one epoch.
#[derive(Debug)]
pub(super) struct Health {
    pub view: Arc<View>,
    /// By number: the slots', then those of the replacements, if there are any.
    pub wires: Vec<Option<Wire>>,
}

impl Health {
    /// The disk that goes by `number` in the view; `None` if nobody does.
    #[inline(always)]
    pub(super) fn wire(&self, number: Slot) -> Option<&Wire> {
        self.wires.get(number.index())?.as_ref()
    }
}

/// The disk behind a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wire {
    pub disk: DiskId,
    pub data_offset: DiskLba,
    /// Its partial parity log.
    pub log: Option<LogPlace>,
}

/// What queues tell the keeper.
#[derive(Default)]
pub(super) struct Inbox {
    /// A write waits for the LU, or regions of it, to be marked dirty.
    pub dirty_wanted: bool,
    /// Members whose writes or flushes failed: the slot, and who filled it then.
    pub failed: Vec<(Slot, DiskId)>,
    /// Blocks that are bad, or good again, and whose they were then.
    pub blocks: Vec<(Note, DiskId)>,
    /// Stop: finish, write "clean", end.
    pub stop: bool,
    /// Do not go on with recovery; checkpoint instead.
    pub pause: bool,
    /// Go on with recovery after a pause.
    pub resume: bool,
    /// Changes of membership, in order.
    pub changes: Vec<Change>,
}

/// A change of membership that somebody waits for.
pub(super) struct Change {
    pub what: What,
    /// Told when it is on disk, or why it cannot be.
    pub done: mpsc::Sender<Result<()>>,
}

/// What is to change.
pub(super) enum What {
    /// A new member, its structures written, joins as a spare.
    Join(Box<Member>),
    /// A member that left takes its slot again: only what the bitmap marks is copied to it.
    Return(Box<Member>, Slot),
    /// A spare or a faulty member is forgotten.
    Forget(DiskId),
    /// A spare begins to replace the disk in a slot, which serves until it is done.
    Replace(Slot, DiskId),
}

pub(super) struct Board {
    pub geometry: Arc<Geometry>,
    pub shared: Arc<Shared>,
    pub backend: Arc<dyn Backend>,
    pub kernels: Kernels,
    /// The LU's logical block, in bytes.
    pub block: u32,
    pub read_only: bool,
    /// Bytes of scratch memory in each queue, at least.
    pub scratch: usize,
    /// The partial parity log, while the LU is written and has one.
    pub log: Option<Mutex<Book>>,
    health: Mutex<Arc<Health>>,
    wakers: Mutex<Vec<Arc<dyn Wake>>>,
    keeper: Mutex<Option<Arc<dyn Wake>>>,
    inbox: Mutex<Inbox>,
    cells: Mutex<Vec<Weak<Cell>>>,
    read_errors: Vec<AtomicU64>,
    /// All disks that were offered or added, and what became of them.
    pub roster: Mutex<Vec<Row>>,
    /// Chunks the write-intent bitmap marks.
    chunks_marked: AtomicU64,
    /// Long work under way, and why the last one could not be done in full.
    pub work: Mutex<Option<Work>>,
    pub notes: Mutex<Vec<String>>,
    /// Bytes of the LU that recovery could not give back: ranges in order, apart from each other.
    lost: Mutex<Vec<Range<u64>>>,
    closing: AtomicBool,
    /// The disks are gone for good, as after a power cut: nothing under way will come to its end.
    abandoned: AtomicBool,
    /// The keeper has nothing to do and was not told anything since.
    settled: AtomicBool,
    /// Queues that wait for what other queues have in hand.
    stuck: AtomicUsize,
}

/// A lock whose holder died has nothing half-done in it here: all of these hold plain values.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    #[allow(clippy::too_many_arguments, reason = "all that it holds and cannot find out")]
    pub(super) fn new(
        geometry: Arc<Geometry>,
        shared: Arc<Shared>,
        backend: Arc<dyn Backend>,
        kernels: Kernels,
        block: u32,
        read_only: bool,
        log: Option<Book>,
        health: Health,
    ) -> Board {
        let slots = usize::from(geometry.slots());
        Board {
            geometry,
            shared,
            backend,
            kernels,
            block,
            read_only,
            scratch: SCRATCH,
            log: log.map(Mutex::new),
            health: Mutex::new(Arc::new(health)),
            wakers: Mutex::default(),
            keeper: Mutex::default(),
            inbox: Mutex::default(),
            cells: Mutex::default(),
            read_errors: (0..slots).map(|_| AtomicU64::new(0)).collect(),
            roster: Mutex::default(),
            chunks_marked: AtomicU64::new(0),
            work: Mutex::default(),
            notes: Mutex::default(),
            lost: Mutex::default(),
            closing: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            stuck: AtomicUsize::new(0),
        }
    }

    pub(super) fn health(&self) -> Arc<Health> {
        lock(&self.health).clone()
    }

    /// Makes a new view the one that counts, and wakes everybody who may be waiting for it.
    pub(super) fn publish(&self, health: Health) {
        let epoch = health.view.epoch;
        let mut current = lock(&self.health);
        *current = Arc::new(health);
        // Whoever knows of it has to find that others can know: a queue may plan anew until its view is as new.
        self.shared.set_epoch(epoch);
        drop(current);
        self.wake_queues();
    }

    pub(super) fn wake_queues(&self) {
        for waker in lock(&self.wakers).iter() {
            waker.wake();
        }
    }

    pub(super) fn wake_keeper(&self) {
        if let Some(waker) = &*lock(&self.keeper) {
            waker.wake();
        }
    }

    pub(super) fn set_keeper(&self, waker: Option<Arc<dyn Wake>>) {
        *lock(&self.keeper) = waker;
    }

    /// Changes the inbox and wakes the keeper.
    pub(super) fn tell_keeper(&self, change: impl FnOnce(&mut Inbox)) {
        let mut inbox = lock(&self.inbox);
        self.settled.store(false, SeqCst);
        change(&mut inbox);
        drop(inbox);
        self.wake_keeper();
    }

    /// The keeper found nothing to do in what it took last.
    pub(super) fn settle(&self) {
        let inbox = lock(&self.inbox);
        let told = !inbox.failed.is_empty() || !inbox.blocks.is_empty() || !inbox.changes.is_empty();
        let empty = !inbox.dirty_wanted && !inbox.resume && !told;
        self.settled.store(empty, SeqCst);
    }

    /// Has the keeper nothing to do?
    pub(super) fn is_settled(&self) -> bool {
        self.settled.load(SeqCst)
    }

    /// The keeper empties its inbox; lasting wishes stay.
    pub(super) fn take_inbox(&self) -> Inbox {
        let mut inbox = lock(&self.inbox);
        let lasting = Inbox { stop: inbox.stop, pause: inbox.pause, ..Inbox::default() };
        std::mem::replace(&mut inbox, lasting)
    }

    pub(super) fn add_cell(&self, cell: &Arc<Cell>, waker: Arc<dyn Wake>) {
        lock(&self.wakers).push(waker);
        let mut cells = lock(&self.cells);
        cells.retain(|cell| cell.strong_count() > 0);
        cells.push(Arc::downgrade(cell));
    }

    pub(super) fn drop_waker(&self, waker: &Arc<dyn Wake>) {
        lock(&self.wakers).retain(|other| !Arc::ptr_eq(other, waker));
    }

    /// Drives the queues nobody else is driving, except `own`: for somebody who waits for what they hold.
    pub(super) fn nudge_cells(&self, own: Option<&Arc<Cell>>) {
        self.each_cell(|cell| {
            if own.is_none_or(|own| !Arc::ptr_eq(own, cell)) {
                cell.nudge();
            }
        });
    }

    /// A queue begins to wait for what others have in hand, or is done with it.
    pub(super) fn count_stuck(&self, begins: bool) {
        if !begins {
            self.stuck.fetch_sub(1, SeqCst);
        } else if self.stuck.fetch_add(1, SeqCst) == 0 {
            self.wake_keeper();
        }
    }

    /// Does any queue wait for what others have in hand?
    pub(super) fn has_stuck_queues(&self) -> bool {
        self.stuck.load(SeqCst) > 0
    }

    /// Does something to every open queue.
    pub(super) fn each_cell(&self, mut act: impl FnMut(&Arc<Cell>)) {
        for index in 0.. {
            // Not under the lock: a cell may be dropped here, and that takes a while.
            let Some(cell) = lock(&self.cells).get(index).map(Weak::upgrade) else { return };
            if let Some(cell) = cell {
                act(&cell);
            }
        }
    }

    pub(super) fn count_read_error(&self, slot: Slot) {
        if let Some(count) = self.read_errors.get(slot.index()) {
            count.fetch_add(1, SeqCst);
        }
    }

    pub(super) fn read_errors(&self, slot: Slot) -> u64 {
        self.read_errors.get(slot.index()).map_or(0, |count| count.load(SeqCst))
    }

    pub(super) fn set_chunks_marked(&self, chunks: u64) {
        self.chunks_marked.store(chunks, SeqCst);
    }

    pub(super) fn chunks_marked(&self) -> u64 {
        self.chunks_marked.load(SeqCst)
    }

    /// Bytes of the LU are lost.
    pub(super) fn add_lost(&self, bytes: Range<u64>) {
        join_range(&mut lock(&self.lost), bytes);
    }

    /// Bytes of the LU that were lost have been written again.
    pub(super) fn forget_lost(&self, bytes: Range<u64>) {
        let mut lost = lock(&self.lost);
        let rest = |range: &Range<u64>| {
            let before = range.start..range.end.min(bytes.start);
            let after = range.start.max(bytes.end)..range.end;
            [before, after].into_iter().filter(|part| part.start < part.end)
        };
        *lost = lost.iter().flat_map(rest).collect();
    }

    pub(super) fn lost(&self) -> Vec<Range<u64>> {
        lock(&self.lost).clone()
    }

    /// No new requests from now on.
    pub(super) fn close(&self) {
        self.closing.store(true, SeqCst);
    }

    /// Nobody waits any more for what is under way.
    #[cfg(feature = "sim")]
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, SeqCst);
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.load(SeqCst)
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(SeqCst)
    }
}

/// Adds `new` to `ranges`, which stay in order and apart from each other.
fn join_range(ranges: &mut Vec<Range<u64>>, mut new: Range<u64>) {
    let first = ranges.partition_point(|range| range.end < new.start);
    let behind = ranges.partition_point(|range| range.start <= new.end);
    if let [met @ .., last] = &ranges[first..behind] {
        new.start = new.start.min(met.first().unwrap_or(last).start);
        new.end = new.end.max(last.end);
    }
    ranges.splice(first..behind, [new]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "a list of ranges is meant")]
    fn ranges_stay_in_order_and_apart() {
        let mut ranges = Vec::new();
        for (new, all) in [
            (20..30, vec![20..30]),
            (40..50, vec![20..30, 40..50]),
            (0..10, vec![0..10, 20..30, 40..50]),
            (22..25, vec![0..10, 20..30, 40..50]),
            (30..40, vec![0..10, 20..50]),
            (5..60, vec![0..60]),
            (60..61, vec![0..61]),
        ] {
            join_range(&mut ranges, new);
            assert_eq!(ranges, all);
        }
    }
}
