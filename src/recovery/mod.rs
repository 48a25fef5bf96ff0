//! Walks over the LU that make redundancy whole: resync after creation or a crash, rebuild of a slot. [`replay`] does with
//! a partial parity log what would else take a resync.
//!
//! A [`Walk`] is a value that says which rows to fill next and how far everything is done; it does no I/O of its own. Whoever
//! drives it hands its rows to an engine as ordinary low-priority work and tells it what came back. Many rows may be
//! under way; the watermark is the first that is not done.

pub mod replay;

use alloc::collections::VecDeque;

use crate::geometry::Geometry;
use crate::plan::Rows;
use crate::units::{MemberLba, Sectors, Slot, Stripe};

/// What a walk makes whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Goal {
    /// Redundancy of every stripe. Positions count as md's `resync_offset` does.
    Resync,
    /// One slot. Positions are sectors of its data area.
    Rebuild(Slot),
}

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
}

impl Walk {
    /// A walk from position `from`, with at most `most` rows under way.
    pub fn new(geometry: &Geometry, goal: Goal, from: u64, most: usize) -> Walk {
        let step = geometry.unit().0.max(1);
        let end = match goal {
            Goal::Resync => step.saturating_mul(geometry.stripes()),
            Goal::Rebuild(slot) => geometry.member_used(slot).0,
        };
        // What was under way at a checkpoint may be half done: begin with its whole stripe.
        let next = (from / step * step).min(end);
        Walk { goal, step, next, end, window: VecDeque::with_capacity(most), most }
    }

    /// What for.
    pub fn goal(&self) -> Goal {
        self.goal
    }

    /// The next rows to fill and the position that stands for them in [`done`](Self::done). `None` if enough are under
    /// way, or nothing is left.
    pub fn next(&mut self, geometry: &Geometry) -> Option<(u64, Stripe, Rows)> {
        while self.next < self.end && self.window.len() < self.most {
            let position = self.next;
            self.next += self.step;
            let stripe = match self.goal {
                Goal::Resync => Some(Stripe(position / self.step)),
                Goal::Rebuild(slot) => geometry.find(slot, MemberLba(position)).map(|place| place.stripe),
            };
            // A part of the member that the layout does not use has nothing to be filled with.
            self.window.push_back((position, stripe.is_none()));
            if let Some(stripe) = stripe {
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
        while let Some((position, ..)) = walk.next(&geometry) {
            walk.done(position);
        }
        assert!(walk.is_finished());
        assert_eq!(walk.watermark(), 160);
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
