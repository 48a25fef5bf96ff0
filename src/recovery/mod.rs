//! Walks over the LU that make redundancy whole: resync after creation or a crash, rebuild of a slot, filling the disk that
//! is to replace another. [`replay`] does with a partial parity log what would else take a resync.
//!
//! A [`Walk`] is a value that says which rows to fill next and how far everything is done; it does no I/O of its own. Whoever
//! drives it hands its rows to an engine as ordinary low-priority work and tells it what came back. Many rows may be
//! under way; the watermark is the first that is not done.

pub mod replay;

use alloc::collections::VecDeque;
use alloc::sync::Arc;

use crate::geometry::Geometry;
use crate::plan::{Rows, StripeSet};
use crate::units::{MemberLba, Sectors, Slot, Stripe};

/// What a walk makes whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Goal {
    /// Redundancy of every stripe. Positions count as md's `resync_offset` does.
    Resync,
    /// One slot. Positions are sectors of its data area.
    Rebuild(Slot),
    /// The disk that is to replace the slot's. Positions are sectors of its data area.
    Replace(Slot),
}

/// Positions passed over in one call, at most: whoever drives a walk has other things to do, too.
const MOST_SKIPS: u32 = 1 << 20;

/// One walk. Positions are in sectors and rise; rows are handed out in their order and may end in any.
#[derive(Clone, Debug)]
pub struct Walk {
    goal: Goal,
    step: u64,
    next: u64,
    end: u64,
    /// Handed out and not yet passed by the watermark: start, done.
    window: VecDeque<(u64, bool)>,
    most: usize,
    /// Only these stripes, and how many steps they are, about.
    only: Option<(Arc<StripeSet>, u64)>,
    /// Steps handed out.
    filled: u64,
}

impl Walk {
    /// A walk from position `from`, with at most `most` rows under way.
    pub fn new(geometry: &Geometry, goal: Goal, from: u64, most: usize) -> Walk {
        let step = geometry.unit().0.max(1);
        let end = match goal {
            Goal::Resync => step.saturating_mul(geometry.stripes()),
            Goal::Rebuild(slot) | Goal::Replace(slot) => geometry.member_used(slot).0,
        };
        // What was under way at a checkpoint may be half done: begin with its whole stripe.
        let next = (from / step * step).min(end);
        Walk { goal, step, next, end, window: VecDeque::with_capacity(most), most, only: None, filled: 0 }
    }

    /// Fills the stripes of `set` only: what a write-intent bitmap names. The others count as done.
    pub fn only(mut self, geometry: &Geometry, set: Arc<StripeSet>) -> Walk {
        let all = set.count();
        let steps = match self.goal {
            Goal::Resync => all - set.count_below(Stripe(self.next / self.step)),
            // On one slot lie as many of their cells as on any other.
            Goal::Rebuild(_) | Goal::Replace(_) => {
                (all * u64::from(geometry.cells())).div_ceil(u64::from(geometry.slots().max(1)))
            }
        };
        self.only = Some((set, steps));
        self
    }

    /// From now on at most `most` rows (at least one) are under way; those that are more come to their end.
    pub fn set_most(&mut self, most: usize) {
        self.most = most.max(1);
    }

    /// What for.
    pub fn goal(&self) -> Goal {
        self.goal
    }

    /// The next rows to fill and the position that stands for them in [`done`](Self::done). `None` if enough are under
    /// way, or nothing is left.
    pub fn next(&mut self, geometry: &Geometry) -> Option<(u64, Stripe, Rows)> {
        let mut skips = 0;
        while self.next < self.end && self.window.len() < self.most && skips < MOST_SKIPS {
            skips += 1;
            if let Some((set, _)) = &self.only
                && (self.goal == Goal::Resync || !geometry.synced_unit_is_lu())
            {
                // A position tells its stripe here.
                let next = set.next_from(Stripe(self.next / self.step));
                self.next = next.map_or(self.end, |stripe| (stripe.0 * self.step).min(self.end));
                if self.next == self.end {
                    break;
                }
            }
            let position = self.next;
            self.next += self.step;
            let stripe = match self.goal {
                Goal::Resync => Some(Stripe(position / self.step)),
                Goal::Rebuild(slot) | Goal::Replace(slot) => {
                    geometry.find(slot, MemberLba(position)).map(|place| place.stripe)
                }
            };
            let stripe =
                stripe.filter(|&stripe| self.only.as_ref().is_none_or(|(set, _)| set.contains(stripe)));
            // A part of the member that the layout does not use has nothing to be filled with.
            self.window.push_back((position, stripe.is_none()));
            if let Some(stripe) = stripe {
                self.filled += 1;
                return Some((position, stripe, Rows::new(0, geometry.stripe(stripe).rows())));
            }
            self.pass_done();
        }
        None
    }

    /// The rows handed out at `position` are filled (or given up).
    pub fn done(&mut self, position: u64) {
        if let Some(entry) = self.window.iter_mut().find(|entry| entry.0 == position) {
            entry.1 = true;
        }
        self.pass_done();
    }

    /// Everything below is done.
    pub fn watermark(&self) -> u64 {
        self.window.front().map_or(self.next, |entry| entry.0).min(self.end)
    }

    /// Sectors handed out so far and to be handed out in all, where only some stripes are filled.
    pub fn selected(&self) -> Option<(u64, u64)> {
        let (_, steps) = self.only.as_ref()?;
        let all = if self.is_finished() { self.filled } else { self.filled.max(*steps) };
        Some((self.filled * self.step, all * self.step))
    }

    /// All positions there are.
    pub fn end(&self) -> Sectors {
        Sectors(self.end)
    }

    /// Nothing left and nothing under way.
    pub fn is_finished(&self) -> bool {
        self.window.is_empty() && self.next >= self.end
    }

    /// Nothing under way.
    pub fn is_quiet(&self) -> bool {
        self.window.is_empty()
    }

    fn pass_done(&mut self) {
        while self.window.front().is_some_and(|entry| entry.1) {
            self.window.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{Layout, Shape};
    use crate::units::Level;
    use alloc::vec::Vec;

    fn geometry(level: Level, layout: &str, slots: u16) -> Geometry {
        let layout = Layout::parse(level, layout).unwrap().md_number();
        let component = Sectors(8 * 20);
        Geometry::new(&Shape { level, layout, chunk: Sectors(8), slots, component, members: &[] }).unwrap()
    }

    #[test]
    fn watermark_is_the_first_not_done() {
        let geometry = geometry(Level::Raid5, "left-symmetric", 4);
        let mut walk = Walk::new(&geometry, Goal::Resync, 13, 3);
        let rows: Vec<_> = core::iter::from_fn(|| walk.next(&geometry)).collect();
        assert_eq!(
            rows.iter().map(|r| r.0).collect::<Vec<_>>(),
            [8, 16, 24],
            "begins with the stripe of sector 13"
        );
        walk.done(16);
        assert_eq!(walk.watermark(), 8);
        walk.done(8);
        assert_eq!(walk.watermark(), 24);
        walk.done(24);
        assert!(walk.is_quiet() && !walk.is_finished());
        walk.set_most(0);
        let (alone, ..) = walk.next(&geometry).unwrap();
        assert!(walk.next(&geometry).is_none(), "one is under way");
        walk.set_most(3);
        let (next, ..) = walk.next(&geometry).unwrap();
        walk.done(alone);
        walk.done(next);
        while let Some((position, ..)) = walk.next(&geometry) {
            walk.done(position);
        }
        assert!(walk.is_finished());
        assert_eq!(walk.watermark(), 160);
    }

    #[test]
    fn only_the_stripes_named_are_filled() {
        for (level, layout, slots) in
            [(Level::Raid5, "ls", 4), (Level::Raid10, "f2", 3), (Level::Raid1, "", 3)]
        {
            let geometry = match level {
                Level::Raid1 => {
                    let component = Sectors(2048 * 20);
                    let shape = Shape { level, layout: 0, chunk: Sectors(0), slots, component, members: &[] };
                    Geometry::new(&shape).unwrap()
                }
                _ => geometry(level, layout, slots),
            };
            let set = Arc::new(StripeSet::new([2..5, 11..12]));
            for goal in [Goal::Resync, Goal::Rebuild(Slot(1))] {
                let mut walk = Walk::new(&geometry, goal, 0, 3).only(&geometry, set.clone());
                let mut seen = Vec::new();
                while !walk.is_finished() {
                    if let Some((position, stripe, _)) = walk.next(&geometry) {
                        seen.push(stripe.0);
                        walk.done(position);
                    }
                }
                let there = |stripe: &u64| {
                    goal == Goal::Resync || geometry.stripe(Stripe(*stripe)).cell_of(Slot(1)).is_some()
                };
                let mut expected: Vec<u64> = [2, 3, 4, 11].into_iter().filter(there).collect();
                seen.sort();
                expected.sort();
                assert_eq!(seen, expected, "{level} {goal:?}");
                assert_eq!(walk.watermark(), walk.end().0);
                let sectors = seen.len() as u64 * geometry.unit().0;
                assert_eq!(walk.selected(), Some((sectors, sectors)));
            }
        }
    }

    #[test]
    fn a_rebuild_reaches_every_stripe_of_the_slot() {
        for (level, layout, slots) in [
            (Level::Raid10, "f2", 3),
            (Level::Raid10, "n2", 5),
            (Level::Raid10, "o2", 4),
            (Level::Raid6, "ls", 5),
        ] {
            let geometry = geometry(level, layout, slots);
            for slot in 0..slots {
                let slot = Slot(slot);
                let mut walk = Walk::new(&geometry, Goal::Rebuild(slot), 0, 4);
                let mut seen = Vec::new();
                while let Some((position, stripe, _)) = walk.next(&geometry) {
                    seen.push(stripe);
                    walk.done(position);
                }
                assert!(walk.is_finished());
                let mut expected: Vec<_> = (0..geometry.stripes())
                    .map(Stripe)
                    .filter(|&s| geometry.stripe(s).cell_of(slot).is_some())
                    .collect();
                seen.sort();
                expected.sort();
                assert_eq!(seen, expected, "{level} {layout} {slot}");
            }
        }
    }
}
