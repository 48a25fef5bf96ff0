//! Flushes of several queues: when the result of one can be believed.
//!
//! A disk that has lost what it was to make stable tells one of those who asked, once; to all others it may say "done".
//! So a flush that succeeded is believed only when the results of all flushes that were under way at its end, on any
//! queue, have been looked at: a failure among them is on record by then, and counts for all.
//!
//! The order of calls: [`begin`](Flushes::begin) before the disks are asked, [`note_failed`](Flushes::note_failed) for
//! every failure, [`end`](Flushes::end), then nothing is believed before [`are_settled`](Flushes::are_settled).

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use super::Holder;
use super::shared::QueueId;
use crate::units::Slot;

/// What is known of flushes on all queues of an LU.
pub struct Flushes {
    /// Counts beginnings and ends.
    clock: AtomicU64,
    /// By queue: when the oldest flush began whose result it has not looked at; 0: there is none.
    oldest: Vec<AtomicU64>,
    /// Queues that wait for others' results.
    waiting: AtomicU32,
    /// By number: the disk that did not flush, plus one, until another one does not; 0: none.
    failed: Vec<AtomicU64>,
}

/// The flushes of one queue whose results it has not looked at: when they began.
pub struct Flushing {
    queue: QueueId,
    begun: Vec<u64>,
}

impl Flushing {
    /// None, for this queue.
    pub fn new(queue: QueueId) -> Flushing {
        Flushing { queue, begun: Vec::with_capacity(16) }
    }
}

impl Flushes {
    pub(super) fn new(queues: usize, numbers: usize) -> Flushes {
        let zeroes = |n: usize| (0..n).map(|_| AtomicU64::new(0)).collect();
        Flushes {
            clock: AtomicU64::new(1),
            oldest: zeroes(queues),
            waiting: AtomicU32::new(0),
            failed: zeroes(numbers),
        }
    }

    /// Now, later than everything before.
    pub fn now(&self) -> u64 {
        self.clock.fetch_add(1, SeqCst)
    }

    /// A flush is about to begin: when, for its end.
    pub fn begin(&self, own: &mut Flushing) -> u64 {
        let now = self.now();
        own.begun.push(now);
        self.show(own);
        now
    }

    /// The results of the flush that began at `begun` have been looked at. True if somebody may be waiting for that.
    #[must_use = "who waits must be woken"]
    pub fn end(&self, own: &mut Flushing, begun: u64) -> bool {
        own.begun.retain(|&other| other != begun);
        self.show(own);
        self.waiting.load(SeqCst) > 0
    }

    fn show(&self, own: &Flushing) {
        let oldest = own.begun.iter().copied().min().unwrap_or(0);
        self.oldest[own.queue.index()].store(oldest, SeqCst);
    }

    /// Have the results of all flushes that began before `then` been looked at?
    pub fn are_settled(&self, then: u64) -> bool {
        self.oldest.iter().map(|oldest| oldest.load(SeqCst)).all(|oldest| oldest == 0 || oldest > then)
    }

    /// A queue is about to wait for others' results. It must look once more after this.
    pub fn sleep(&self) {
        self.waiting.fetch_add(1, SeqCst);
    }

    /// The queue does not wait any more.
    pub fn awake(&self) {
        self.waiting.fetch_sub(1, SeqCst);
    }

    /// A flush failed: what it was to make stable is gone from the disk, which goes by `number`.
    pub fn note_failed(&self, number: Slot, holder: Holder) {
        self.failed[number.index()].store(u64::from(holder.0) + 1, SeqCst);
    }

    /// Has a flush of this disk failed, whatever number it went by?
    pub fn has_failed(&self, holder: Holder) -> bool {
        self.failed.iter().any(|failed| failed.load(SeqCst) == u64::from(holder.0) + 1)
    }

    /// The disk has been taken out and is a member anew.
    pub fn forgive(&self, holder: Holder) {
        for failed in &self.failed {
            let _ = failed.compare_exchange(u64::from(holder.0) + 1, 0, SeqCst, SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_waits_for_those_that_were_under_way_at_its_end() {
        let flushes = Flushes::new(2, 4);
        let [mut a, mut b] = [0, 1].map(|n| Flushing::new(QueueId::nth(n)));
        let (first, second) = (flushes.begin(&mut a), flushes.begin(&mut b));
        let third = flushes.begin(&mut a);
        assert!(!flushes.end(&mut a, third), "nobody waits");
        let then = flushes.now();
        assert!(!flushes.are_settled(then));
        flushes.sleep();
        assert!(flushes.end(&mut b, second));
        let later = flushes.begin(&mut b);
        assert!(!flushes.are_settled(then), "the first is open");
        assert!(flushes.end(&mut a, first));
        assert!(flushes.are_settled(then), "what began since does not count");
        flushes.awake();
        assert!(!flushes.end(&mut b, later));
        assert!(flushes.are_settled(flushes.now()));
    }

    #[test]
    fn a_failure_counts_for_the_disk() {
        let flushes = Flushes::new(1, 2);
        flushes.note_failed(Slot(1), Holder(7));
        assert!(flushes.has_failed(Holder(7)) && !flushes.has_failed(Holder(0)));
        flushes.forgive(Holder(7));
        assert!(!flushes.has_failed(Holder(7)));
    }
}
