//! Row locks: who may change which rows of which stripe, shared by all queues of an LU.
//!
//! A table of words, keyed by a hash of the stripe; bit `b` of a word stands for the `b`-th 64th of the stripe's rows.
//! Taking a lock without contention is one compare-and-swap and one add. Two stripes may share a word: then they wait for
//! each other without need, which costs time and never correctness. An operation holds at most one word at a time, so
//! there is no order to keep and no deadlock.
//!
//! Readers take no lock. They *observe* a word, read, and ask whether it is *unchanged*: nobody locked any of its rows
//! meanwhile. If not, they read again holding the lock, so a reader cannot be starved.

use alloc::vec::Vec;
use core::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};

use crate::plan::Rows;
use crate::units::Stripe;

/// 256 KiB an LU. With 64 queues of 32 small writes each, one lock in thirty meets another's without need.
const WORDS: usize = 1 << WORD_BITS;
const WORD_BITS: u32 = 12;

/// One word and the number of times a lock was taken in it. On a cache line of its own.
#[repr(align(64))]
#[derive(Default)]
struct Word {
    held: AtomicU64,
    taken: AtomicU64,
}

/// The table. See the module's text.
pub struct RowLocks {
    words: Vec<Word>,
    rows_per_bit: u32,
    /// Queues that sleep until some lock is given back.
    sleepers: AtomicUsize,
}

/// What a reader saw of a word that was free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Observed(u64);

impl RowLocks {
    /// Locks for stripes of up to `rows` rows.
    pub fn new(rows: u32) -> RowLocks {
        let words = (0..WORDS).map(|_| Word::default()).collect();
        RowLocks { words, rows_per_bit: rows.div_ceil(64).max(1), sleepers: AtomicUsize::new(0) }
    }

    /// The bits that stand for `rows`.
    pub fn mask(&self, rows: Rows) -> u64 {
        if rows.is_empty() {
            return 0;
        }
        let first = (rows.start / self.rows_per_bit).min(63);
        let last = ((rows.end - 1) / self.rows_per_bit).min(63);
        (u64::MAX >> (63 - (last - first))) << first
    }

    /// Takes the rows in `mask`, all or none.
    pub fn try_lock(&self, stripe: Stripe, mask: u64) -> bool {
        let word = self.word(stripe);
        let mut held = word.held.load(SeqCst);
        while held & mask == 0 {
            match word.held.compare_exchange_weak(held, held | mask, SeqCst, SeqCst) {
                Ok(_) => {
                    word.taken.fetch_add(1, SeqCst);
                    return true;
                }
                Err(now) => held = now,
            }
        }
        false
    }

    /// Gives back rows that [`try_lock`](Self::try_lock) took. True if somebody may be sleeping for them.
    #[must_use = "sleepers must be woken"]
    pub fn unlock(&self, stripe: Stripe, mask: u64) -> bool {
        let before = self.word(stripe).held.fetch_and(!mask, SeqCst);
        debug_assert_eq!(before & mask, mask, "unlocks rows that are not locked");
        self.sleepers.load(SeqCst) > 0
    }

    /// Looks at the rows in `mask` before an unlocked read. `None` while somebody holds one of them.
    pub fn observe(&self, stripe: Stripe, mask: u64) -> Option<Observed> {
        let word = self.word(stripe);
        let taken = word.taken.load(SeqCst);
        (word.held.load(SeqCst) & mask == 0).then_some(Observed(taken))
    }

    /// True if nobody took a lock in the word since `seen`, so that what was read in between is of one piece.
    pub fn unchanged(&self, stripe: Stripe, seen: Observed) -> bool {
        self.word(stripe).taken.load(SeqCst) == seen.0
    }

    /// A queue announces that it is about to sleep for a lock. It must try once more after this and before it sleeps.
    pub fn sleep(&self) {
        self.sleepers.fetch_add(1, SeqCst);
    }

    /// The queue no longer waits for any lock.
    pub fn awake(&self) {
        self.sleepers.fetch_sub(1, SeqCst);
    }

    /// Fetches the stripe's word into the cache: it will be wanted soon.
    pub fn touch(&self, stripe: Stripe) {
        // Nothing depends on the value, so nothing waits for it.
        let _ = self.word(stripe).held.load(Relaxed);
    }

    fn word(&self, stripe: Stripe) -> &Word {
        let hash = stripe.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - WORD_BITS);
        &self.words[hash as usize % WORDS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_map_to_bits() {
        let locks = RowLocks::new(128);
        assert_eq!(locks.mask(Rows::new(0, 128)), u64::MAX);
        assert_eq!(locks.mask(Rows::new(0, 1)), 1);
        assert_eq!(locks.mask(Rows::new(2, 4)), 2);
        assert_eq!(locks.mask(Rows::new(126, 128)), 1 << 63);
        assert_eq!(locks.mask(Rows::default()), 0);
        let tiny = RowLocks::new(8);
        assert_eq!(tiny.mask(Rows::new(0, 8)), 0xff);
    }

    #[test]
    fn all_or_none_and_readers_notice() {
        let locks = RowLocks::new(128);
        let (s, a, b) = (Stripe(5), 0b0110, 0b1100);
        let seen = locks.observe(s, a).unwrap();
        assert!(locks.try_lock(s, a));
        assert!(!locks.try_lock(s, b));
        assert!(locks.observe(s, b).is_none());
        assert!(!locks.unchanged(s, seen));
        assert!(!locks.unlock(s, a), "nobody sleeps");
        let seen = locks.observe(s, b).unwrap();
        assert!(locks.unchanged(s, seen));
        locks.sleep();
        assert!(locks.try_lock(s, b) && locks.unlock(s, b));
        locks.awake();
    }
}
