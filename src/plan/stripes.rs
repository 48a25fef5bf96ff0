//! A set of stripes, as runs in order: where redundancy may disagree, or what a member missed. A write-intent
//! bitmap tells it; the planner asks whether a stripe is in it, a recovery walk which one comes next.
//!
//! Never changed once made, so that many views share one. Both questions are a binary search and allocate
//! nothing.

use alloc::vec::Vec;
use core::ops::Range;

use crate::units::Stripe;

/// Stripes, none of them twice.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StripeSet {
    /// In order and apart from each other, each with the number of stripes before it.
    runs: Vec<(Range<u64>, u64)>,
}

impl StripeSet {
    /// The stripes in `runs`, which come in the order of their starts and may overlap or touch.
    pub fn new(runs: impl IntoIterator<Item = Range<u64>>) -> StripeSet {
        let mut set: Vec<(Range<u64>, u64)> = Vec::new();
        for run in runs.into_iter().filter(|run| run.start < run.end) {
            match set.last_mut() {
                Some((last, _)) if run.start <= last.end => last.end = last.end.max(run.end),
                last => {
                    let before = last.map_or(0, |(run, before)| *before + (run.end - run.start));
                    set.push((run, before));
                }
            }
        }
        StripeSet { runs: set }
    }

    /// Is `stripe` in it?
    pub fn contains(&self, stripe: Stripe) -> bool {
        self.next_from(stripe) == Some(stripe)
    }

    /// The first of its stripes that is not below `stripe`.
    pub fn next_from(&self, stripe: Stripe) -> Option<Stripe> {
        let index = self.runs.partition_point(|(run, _)| run.end <= stripe.0);
        self.runs.get(index).map(|(run, _)| Stripe(run.start.max(stripe.0)))
    }

    /// How many stripes there are.
    pub fn count(&self) -> u64 {
        self.count_below(Stripe(u64::MAX))
    }

    /// How many of them are below `stripe`.
    pub fn count_below(&self, stripe: Stripe) -> u64 {
        let index = self.runs.partition_point(|(run, _)| run.start < stripe.0);
        let Some((run, before)) = index.checked_sub(1).and_then(|index| self.runs.get(index)) else {
            return 0;
        };
        before + (run.end.min(stripe.0) - run.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_joined_found_and_counted() {
        let set = StripeSet::new([2..4, 4..5, 4..4, 9..12, 10..11]);
        let inside = [2, 3, 4, 9, 10, 11];
        for stripe in 0..15 {
            assert_eq!(set.contains(Stripe(stripe)), inside.contains(&stripe), "{stripe}");
            let next = inside.into_iter().find(|&inside| inside >= stripe).map(Stripe);
            assert_eq!(set.next_from(Stripe(stripe)), next, "{stripe}");
            let below = inside.into_iter().filter(|&inside| inside < stripe).count() as u64;
            assert_eq!(set.count_below(Stripe(stripe)), below, "{stripe}");
        }
        assert_eq!((set.count(), StripeSet::default().count()), (6, 0));
    }
}
