//! Row locks: who may change which rows of which stripe, shared by all queues of an LU.
//!
//! A table of words, keyed by a hash of the stripe; bit `b` of a word's lower half stands for the `b`-th 32nd of the stripe's
//! rows (rounded up to a power of two), its upper half counts how often a lock was taken. Taking a lock without contention is one
//! compare-and-swap, giving it back one more. Two stripes may share a word: then they wait for each other without need, which costs time and never
//! correctness. An operation holds at most one word at a time, so there is no order to keep and no deadlock.
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

/// 64 KiB an LU: every random write meets another word, so they should stay in the cache. They share its lines for the same
/// reason; queues that write to random places find half of all lines with another CPU either way. With 64 queues of 32 small
/// writes each, one lock in sixty meets another's without need.
const WORDS: usize = 1 << WORD_BITS;
const WORD_BITS: u32 = 13;

/// One more lock was taken. (A reader would have to look on through 2^32 of them to miss that.)
const TAKEN: u64 = 1 << 32;

/// The table. See the module's text.
pub struct RowLocks {
    words: Vec<AtomicU64>,
    /// Rows that one bit stands for: a power of two, and this is its exponent.
    shift: u32,
    /// Queues that sleep until some lock is given back.
    sleepers: AtomicUsize,
}

/// What a reader saw of a word that was free: how often it had been taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Observed(u32);

impl RowLocks {
    /// Locks for stripes of up to `rows` rows.
    pub fn new(rows: u32) -> RowLocks {
        let words = (0..WORDS).map(|_| AtomicU64::new(0)).collect();
        RowLocks {
            words,
            shift: rows.div_ceil(u32::BITS).max(1).next_power_of_two().trailing_zeros(),
            sleepers: AtomicUsize::new(0),
        }
    }

    /// The bits that stand for `rows`.
    pub fn mask(&self, rows: Rows) -> u32 {
        if rows.is_empty() {
            return 0;
        }
        let first = (rows.start >> self.shift).min(31);
        let last = ((rows.end - 1) >> self.shift).min(31);
        (u32::MAX >> (31 - (last - first))) << first
    }

    /// Takes the rows in `mask`, all or none.
    pub fn try_lock(&self, stripe: Stripe, mask: u32) -> bool {
        let (word, mask) = (self.word(stripe), u64::from(mask));
        let mut before = word.load(SeqCst);
        while before & mask == 0 {
            let locked = before.wrapping_add(TAKEN) | mask;
            match word.compare_exchange_weak(before, locked, SeqCst, SeqCst) {
                Ok(_) => return true,
                Err(now) => before = now,
            }
        }
        false
    }

    /// Gives back rows that [`try_lock`](Self::try_lock) took. True if somebody may be sleeping for them.
    #[must_use = "sleepers must be woken"]
    pub fn unlock(&self, stripe: Stripe, mask: u32) -> bool {
        let mask = u64::from(mask);
        let before = self.word(stripe).fetch_and(!mask, SeqCst);
        debug_assert_eq!(before & mask, mask, "unlocks rows that are not locked");
        self.sleepers.load(SeqCst) > 0
    }

    /// Looks at the rows in `mask` before an unlocked read. `None` while somebody holds one of them.
    pub fn observe(&self, stripe: Stripe, mask: u32) -> Option<Observed> {
        let word = self.word(stripe).load(SeqCst);
        (word & u64::from(mask) == 0).then_some(Observed((word / TAKEN) as u32))
    }

    /// True if nobody took a lock in the word since `seen`, so that what was read in between is of one piece.
    pub fn unchanged(&self, stripe: Stripe, seen: Observed) -> bool {
        (self.word(stripe).load(SeqCst) / TAKEN) as u32 == seen.0
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
        let _ = self.word(stripe).load(Relaxed);
    }

    fn word(&self, stripe: Stripe) -> &AtomicU64 {
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
        assert_eq!(locks.mask(Rows::new(0, 128)), u32::MAX);
        assert_eq!(locks.mask(Rows::new(0, 1)), 1);
        assert_eq!(locks.mask(Rows::new(4, 8)), 2);
        assert_eq!(locks.mask(Rows::new(124, 128)), 1 << 31);
        assert_eq!(locks.mask(Rows::default()), 0);
        let tiny = RowLocks::new(8);
        assert_eq!(tiny.mask(Rows::new(0, 8)), 0xff);
    }

    /// Whatever the number of rows: in order, all of them, and who has a row in common has a bit in common.
    #[test]
    fn rows_in_common_are_bits_in_common() {
        for rows in [1, 7, 31, 32, 33, 100, 127, 129, 1000, 2048] {
            let locks = RowLocks::new(rows);
            let bits: Vec<u32> = (0..rows).map(|row| locks.mask(Rows::new(row, row + 1))).collect();
            assert!(bits.iter().all(|bit| bit.count_ones() == 1) && bits.is_sorted(), "{rows}");
            for (start, end) in [(0, rows), (rows / 3, rows), (rows / 2, rows / 2 + 1)] {
                let all = bits[start as usize..end as usize].iter().fold(0, |all, bit| all | bit);
                assert_eq!(locks.mask(Rows::new(start, end)), all, "{start} to {end} of {rows}");
            }
        }
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
