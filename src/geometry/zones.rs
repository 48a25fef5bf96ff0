//! RAID0: members of unequal length, striped as long as each lasts.
//!
//! A *zone* is a range of member chunks over which the same members are still there: the first as long as the
//! shortest member, the next until the second shortest ends, and so on. Inside a zone chunks go round its
//! members in slot order. All numbers here are counted in chunks.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::divide::Divisor;
use crate::units::Slot;

/// The zones of a RAID0.
#[derive(Clone, Debug)]
pub(super) struct Zones {
    zones: Box<[Zone]>,
    /// By slot.
    lengths: Box<[u64]>,
    size: u64,
}

#[derive(Clone, Debug)]
struct Zone {
    /// First chunk of the LU in this zone.
    first: u64,
    /// First chunk of the members in this zone.
    at: u64,
    /// The members, in slot order.
    slots: Box<[u16]>,
    /// How many members.
    width: Divisor,
    /// Which of them the zone's first chunk lies on; md's original layout starts where the LU's chunk number
    /// says.
    turn: u64,
}

/// How a second zone with several members begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ZoneStart {
    /// On the zone's first member.
    FirstMember,
    /// On the member that the LU's chunk number modulo the width names.
    ChunkNumber,
}

impl Zones {
    /// Members of these lengths, none zero, in slot order. `None` if their sum does not fit 64 bits.
    pub(super) fn new(lengths: &[u64], start: ZoneStart) -> Option<Zones> {
        let size = lengths.iter().try_fold(0u64, |sum, &length| sum.checked_add(length))?;
        let mut ends: Vec<u64> = lengths.to_vec();
        ends.sort_unstable();
        ends.dedup();

        let (mut first, mut at) = (0, 0);
        let mut zones = Vec::with_capacity(ends.len());
        for end in ends {
            let slots: Box<[u16]> = lengths
                .iter()
                .zip(0u16..)
                .filter(|&(&length, _)| length > at)
                .map(|(_, slot)| slot)
                .collect();
            let width = Divisor::new(slots.len() as u64);
            let turn = match start {
                ZoneStart::FirstMember => 0,
                ZoneStart::ChunkNumber => width.div_rem(first).1,
            };
            zones.push(Zone { first, at, slots, width, turn });
            first += (end - at) * width.get();
            at = end;
        }
        Some(Zones { zones: zones.into_boxed_slice(), lengths: lengths.into(), size })
    }

    /// Does the place of any chunk depend on [`ZoneStart`]? Not with one zone, nor if the second has one
    /// member only.
    pub(super) fn start_matters(&self) -> bool {
        self.zones.get(1).is_some_and(|zone| zone.slots.len() > 1)
    }

    /// Chunks of the LU.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Chunks used on `slot`.
    pub(super) fn used(&self, slot: Slot) -> u64 {
        self.lengths.get(slot.index()).copied().unwrap_or(0)
    }

    /// Slot and member chunk of the LU's chunk `number`, which is less than [`Zones::size`].
    #[inline]
    pub(super) fn chunk(&self, number: u64) -> (Slot, u64) {
        // Equal members make one zone: the usual case skips the search.
        let index = if self.zones.len() == 1 {
            0
        } else {
            self.zones.partition_point(|zone| zone.first <= number) - 1
        };
        let zone = &self.zones[index];
        let (row, turned) = zone.width.div_rem(number - zone.first);
        let index = turned + zone.turn;
        let index = if index >= zone.width.get() { index - zone.width.get() } else { index };
        (Slot(zone.slots[index as usize]), zone.at + row)
    }

    /// The LU's chunk that lies in chunk `at` of `slot`.
    pub(super) fn find(&self, slot: Slot, at: u64) -> Option<u64> {
        if at >= self.used(slot) {
            return None;
        }
        let zone = &self.zones[self.zones.partition_point(|zone| zone.at <= at) - 1];
        let index = zone.slots.binary_search(&slot.0).ok()? as u64;
        let turned =
            if index >= zone.turn { index - zone.turn } else { index + zone.width.get() - zone.turn };
        Some(zone.first + (at - zone.at) * zone.width.get() + turned)
    }
}
