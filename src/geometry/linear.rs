//! Linear: members one after the other, each cut into runs of one unit.
//!
//! The last run of a member is shorter where its length is no multiple of the unit; a run never spans two
//! members.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::divide::Divisor;
use crate::units::{MemberLba, Slot};

/// The members' places in the LU.
#[derive(Clone, Debug)]
pub(super) struct Linear {
    unit: Divisor,
    /// By slot.
    extents: Box<[Extent]>,
    size: u64,
    runs: u64,
}

/// One member: where it starts in the LU, in sectors and in runs, and its length in sectors.
#[derive(Clone, Copy, Debug)]
struct Extent {
    lba: u64,
    run: u64,
    length: u64,
}

/// One run of a member. Lengths and addresses in sectors.
pub(super) struct Run {
    pub(super) slot: Slot,
    pub(super) at: MemberLba,
    pub(super) lba: u64,
    pub(super) rows: u32,
}

impl Linear {
    /// Members of these lengths, in slot order. `None` if their sum does not fit 64 bits.
    pub(super) fn new(unit: Divisor, lengths: &[u64]) -> Option<Linear> {
        let (mut size, mut runs) = (0u64, 0u64);
        let mut extents = Vec::with_capacity(lengths.len());
        for &length in lengths {
            extents.push(Extent { lba: size, run: runs, length });
            size = size.checked_add(length)?;
            runs += length.div_ceil(unit.get());
        }
        Some(Linear { unit, extents: extents.into_boxed_slice(), size, runs })
    }

    /// Sectors of the LU.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Runs in the LU.
    pub(super) fn runs(&self) -> u64 {
        self.runs
    }

    /// Sectors used on `slot`.
    pub(super) fn used(&self, slot: Slot) -> u64 {
        self.extents.get(slot.index()).map_or(0, |extent| extent.length)
    }

    /// The run and the row in it of sector `lba` of the LU, which lies inside it.
    pub(super) fn locate(&self, lba: u64) -> (u64, u64) {
        let slot = self.extents.partition_point(|extent| extent.lba <= lba) - 1;
        let extent = self.extents[slot];
        let (run, row) = self.unit.div_rem(lba - extent.lba);
        (extent.run + run, row)
    }

    /// Where run `number` lies; it is less than [`Linear::runs`].
    pub(super) fn run(&self, number: u64) -> Run {
        let slot = self.extents.partition_point(|extent| extent.run <= number) - 1;
        let extent = self.extents[slot];
        let at = (number - extent.run) * self.unit.get();
        Run {
            slot: Slot(slot as u16),
            at: MemberLba(at),
            lba: extent.lba + at,
            rows: (extent.length - at).min(self.unit.get()) as u32,
        }
    }

    /// The run and the row in it at sector `at` of `slot`.
    pub(super) fn find(&self, slot: Slot, at: u64) -> Option<(u64, u64)> {
        let extent = self.extents.get(slot.index()).filter(|extent| at < extent.length)?;
        let (run, row) = self.unit.div_rem(at);
        Some((extent.run + run, row))
    }
}
