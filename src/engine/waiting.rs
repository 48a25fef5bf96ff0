//! Which operations wait, in their order.
//!
//! Most requests find nobody who waits for the same stripe. They learn so from a few bits and do not look through all others of
//! their batch: that was a tenth of the instructions a small write took.

use alloc::collections::VecDeque;

use crate::units::Stripe;

/// Operations that wait, oldest first.
pub(super) struct Waiting {
    operations: VecDeque<u32>,
    /// A bit for the hash of each of their stripes, so that most requests need not look through them. Those that have gone have
    /// theirs until the next turn.
    stripes: [u64; 4],
}

impl Waiting {
    pub(super) fn new(most: usize) -> Waiting {
        Waiting { operations: VecDeque::with_capacity(most), stripes: [0; 4] }
    }

    pub(super) fn push_back(&mut self, index: u32, stripe: Stripe) {
        let (word, bit) = Waiting::place(stripe);
        self.stripes[word] |= bit;
        self.operations.push_back(index);
    }

    /// How many they are, all of whom are about to be taken out, and put back if they have to wait on.
    pub(super) fn begin_turn(&mut self) -> usize {
        self.stripes = [0; 4];
        self.operations.len()
    }

    pub(super) fn pop_front(&mut self) -> Option<u32> {
        self.operations.pop_front()
    }

    /// False if none of them is about this stripe.
    pub(super) fn may_have(&self, stripe: Stripe) -> bool {
        let (word, bit) = Waiting::place(stripe);
        self.stripes[word] & bit != 0
    }

    fn place(stripe: Stripe) -> (usize, u64) {
        let hash = stripe.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56;
        (hash as usize / 64, 1 << (hash % 64))
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &u32> {
        self.operations.iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_who_waits_is_overlooked() {
        let mut waiting = Waiting::new(8);
        let mut present: VecDeque<(u32, Stripe)> = VecDeque::new();
        let mut state = 1u64;
        let mut sure = 0;
        for index in 0..2000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let stripe = Stripe(state >> 40);
            waiting.push_back(index, stripe);
            present.push_back((index, stripe));
            if state >> 33 & 3 == 3 {
                // Half of them go.
                for turn in 0..waiting.begin_turn() {
                    let (index, stripe) = present.pop_front().unwrap();
                    assert_eq!(waiting.pop_front(), Some(index));
                    if turn % 2 == 0 {
                        waiting.push_back(index, stripe);
                        present.push_back((index, stripe));
                    }
                }
            }
            assert!(present.iter().all(|&(_, stripe)| waiting.may_have(stripe)));
            assert_eq!(waiting.is_empty(), present.is_empty());
            sure += u32::from(!waiting.may_have(Stripe(index.into())));
        }
        assert!(waiting.iter().eq(present.iter().map(|(index, _)| index)));
        assert!(sure > 1000, "of strangers only {sure} of 2000 were known to be");
    }
}
