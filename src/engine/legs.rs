//! Which copy is read.
//!
//! Promises: a read that goes on where the newest one of a member ended goes to that member, so that neighbours
//! are one transfer, a disk that seeks need not, and readahead sees a stream; but only while that member has no
//! more than [`AHEAD`] to do beyond the one with the least. All other reads go to the member that has
//! the least to do, of equals to the first copy: of `far` layouts that is the one that is striped. So a stream
//! of many reads in flight uses all legs in turns, and random ones spread.
//!
//! Refuses to know whether a copy is good: who has to do without falls back to the others.

use alloc::vec::Vec;

use crate::geometry::{Cell, StripeMap};
use crate::plan::Rows;
use crate::units::{MemberLba, Sectors, Slot};

/// Sectors, in reads like the one in question, that a member may have to do beyond the others and still be the one
/// that goes on: 64 KiB, so that small reads of a stream become one transfer while large ones use all legs.
const AHEAD: u32 = 128;

/// What each member has to do, and where its newest read ends; by slot.
pub(super) struct Legs(Vec<(u32, MemberLba)>);

impl Legs {
    pub(super) fn new(slots: usize) -> Legs {
        Legs(alloc::vec![(0, MemberLba(u64::MAX)); slots])
    }

    /// The copy to read `rows` from; cell 0 where there are no copies.
    pub(super) fn choose(&self, map: &StripeMap<'_>, rows: Rows) -> u16 {
        if map.parities() > 0 || map.cells() < 2 {
            return 0;
        }
        self.choose_of((0..map.cells()).map(|index| map.cell(index)), rows)
    }

    /// The copy to read `rows` from, of these.
    #[inline(always)]
    pub(super) fn choose_of(&self, copies: impl Iterator<Item = Cell>, rows: Rows) -> u16 {
        let (mut least, mut goes_on) = ((0, u32::MAX), None);
        for (index, copy) in (0..).zip(copies) {
            let (busy, end) = self.0[copy.slot.index()];
            if end == copy.at + Sectors(u64::from(rows.start)) {
                goes_on = Some((index, busy));
            }
            if busy < least.1 {
                least = (index, busy);
            }
        }
        goes_on.filter(|&(_, busy)| busy <= least.1 + AHEAD / rows.len().max(1)).unwrap_or(least).0
    }

    /// A member reads `sectors` from `at` on.
    #[inline]
    pub(super) fn begin(&mut self, slot: Slot, at: MemberLba, sectors: u32) {
        let (busy, end) = &mut self.0[slot.index()];
        *busy += 1;
        *end = at + Sectors(u64::from(sectors));
    }

    /// A member has something to do that is no read.
    #[inline]
    pub(super) fn begin_other(&mut self, slot: Slot) {
        self.0[slot.index()].0 += 1;
    }

    /// Has a member nothing to do?
    pub(super) fn is_idle(&self, slot: Slot) -> bool {
        self.0[slot.index()].0 == 0
    }

    /// What a member had to do has ended.
    #[inline]
    pub(super) fn end(&mut self, slot: Slot) {
        self.0[slot.index()].0 -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{Geometry, Layout, Shape};
    use crate::units::{Lba, Level};

    /// Takes `count` reads of `sectors` by `lba`, all in flight; of each the slot.
    fn taken(layout: &str, slots: u16, count: u64, sectors: u32, lba: impl Fn(u64) -> u64) -> Vec<u16> {
        let level = Level::Raid10;
        let layout = Layout::parse(level, layout).unwrap().md_number();
        let component = Sectors(128 * 1024);
        let shape = Shape { level, layout, chunk: Sectors(128), slots, component, members: &[] };
        let geometry = Geometry::new(&shape).unwrap();
        let mut legs = Legs::new(slots.into());
        let read = |number| {
            let place = geometry.locate(Lba(lba(number))).unwrap();
            let map = geometry.stripe(place.stripe);
            let cell = map.cell(legs.choose(&map, Rows::new(place.row, place.row + sectors)));
            legs.begin(cell.slot, cell.at + Sectors(place.row.into()), sectors);
            cell.slot.0
        };
        (0..count).map(read).collect()
    }

    #[test]
    fn a_stream_uses_all_legs_in_long_runs() {
        // One pair: the reads of a stream change sides only now and then.
        let slots = taken("n2", 2, 64, 8, |number| number * 8);
        let changes = slots.windows(2).filter(|pair| pair[0] != pair[1]).count();
        let second = slots.iter().filter(|&&slot| slot == 1).count();
        assert!((24..=40).contains(&second), "{second} of 64 on one leg: {slots:?}");
        assert!(changes <= 4, "{changes} changes: {slots:?}");
        // Large ones do not wait for one leg while the other has nothing to do.
        let slots = taken("n2", 2, 8, 128, |number| number * 128);
        assert_eq!(slots.iter().filter(|&&slot| slot == 1).count(), 4, "{slots:?}");
    }

    #[test]
    fn a_stream_of_one_at_a_time_stays_on_its_leg() {
        let mut legs = Legs::new(2);
        let shape = Shape {
            level: Level::Raid1,
            layout: 0,
            chunk: Sectors(0),
            slots: 2,
            component: Sectors(1 << 20),
            members: &[],
        };
        let geometry = Geometry::new(&shape).unwrap();
        let mut read = |row: u32, begun_elsewhere: Option<u16>| {
            let map = geometry.stripe(geometry.locate(Lba(0)).unwrap().stripe);
            let slot = map.cell(legs.choose(&map, Rows::new(row, row + 8))).slot;
            let slot = begun_elsewhere.map_or(slot, Slot);
            legs.begin(slot, map.cell(slot.0).at + Sectors(row.into()), 8);
            legs.end(slot);
            slot.0
        };
        read(64, Some(1));
        assert_eq!([read(72, None), read(80, None), read(8, None), read(88, None)], [1, 1, 0, 1]);
    }

    #[test]
    fn random_reads_spread() {
        let slots = taken("n2", 2, 512, 8, |number| number * 7919 % 8000 * 16);
        let second = slots.iter().filter(|&&slot| slot == 1).count();
        assert!((240..=272).contains(&second), "{second} of 512 on one leg");
    }

    #[test]
    fn a_stream_of_far_is_striped_over_all_from_the_first_copies() {
        // A chunk is eight of these reads.
        let slots = taken("f2", 4, 64, 16, |number| number * 16);
        let first: Vec<u16> = (0..64).map(|number| number / 8 % 4).collect();
        assert_eq!(slots, first);
    }
}
