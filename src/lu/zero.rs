//! Ranges that become zero, or that nobody needs any more, without their bytes being moved.
//!
//! Promises: both leave zeroes behind, as a write of zeroes would: redundancy agrees, a crash leaves old or new per
//! sector, the next flush makes it stable. On the disks whole rows become holes, data and parity alike: nothing is
//! read and nothing summed up. Rows of which a part keeps its content are written like any others.
//!
//! What a disk gives back for a range it was told to *discard* is not relied on: holes are punched, which files and
//! devices only do if they promise zeroes, and where they refuse, zeroes are written. A discard, which is a hint,
//! does nothing there.

use std::ops::Range;

use super::board::Board;
use super::queue::Want;
use super::{Lu, refuse_read_only};
use crate::error::Result;
use crate::units::{Lba, SECTOR, Sectors};

impl Lu {
    /// Has `len` bytes from byte `offset` read as zeroes, any alignment. Stable after the next [`flush`](Lu::flush).
    ///
    /// # Errors
    /// As [`Lu::write_at`].
    pub fn write_zeroes_at(&self, offset: u64, len: u64) -> Result<()> {
        refuse_read_only(&self.board)?;
        self.check(offset, len)?;
        let end = offset + len;
        let whole = self.board.whole(offset..end, self.block_size().into());
        let zeroes =
            |range: Range<u64>| self.write_at(&vec![0; (range.end - range.start) as usize], range.start);
        if whole.is_empty() {
            // Less than two blocks.
            return zeroes(offset..end);
        }
        zeroes(offset..whole.start)?;
        self.zero(&whole)?;
        zeroes(whole.end..end)
    }

    /// Gives up what is in the `len` bytes from byte `offset`: whole [units](Lu::discard_unit) of it become zero if the
    /// disks do that by themselves, all else stays as it is.
    ///
    /// # Errors
    /// As [`Lu::write_at`].
    pub fn discard_at(&self, offset: u64, len: u64) -> Result<()> {
        refuse_read_only(&self.board)?;
        self.check(offset, len)?;
        match self.board.discardable(offset..offset + len) {
            range if range.is_empty() => Ok(()),
            range => self.zero(&range),
        }
    }

    /// In bytes: what the ends of a discard should be multiples of. The data of a stripe where there is parity, else a block.
    pub fn discard_unit(&self) -> u64 {
        self.board.discard_unit()
    }

    /// Do all disks make zeroes by themselves, as far as is known? Then [`write_zeroes_at`](Lu::write_zeroes_at) is faster
    /// than a write.
    pub fn zeroes_fast(&self) -> bool {
        self.board.zeroes_fast()
    }

    fn zero(&self, range: &Range<u64>) -> Result<()> {
        let sectors = Sectors((range.end - range.start) / SECTOR);
        self.pool.run(Lba(range.start / SECTOR), None, Want::Zero(sectors))
    }
}

impl Board {
    fn discard_unit(&self) -> u64 {
        let (geometry, block) = (&self.geometry, u64::from(self.block));
        match geometry.parities() {
            0 => block,
            _ => (geometry.unit().bytes() * u64::from(geometry.data_cells())).max(block),
        }
    }

    fn zeroes_fast(&self) -> bool {
        self.health().wires.iter().flatten().all(|wire| self.backend.info(wire.disk).zeroes)
    }

    /// What a discard of these bytes, which are inside, is to do.
    pub(super) fn discardable(&self, range: Range<u64>) -> Range<u64> {
        if self.zeroes_fast() { self.whole(range, self.discard_unit()) } else { 0..0 }
    }

    /// The whole units in a range of bytes. An LU whose size is no multiple of the unit ends in a shorter one.
    fn whole(&self, range: Range<u64>, unit: u64) -> Range<u64> {
        let end =
            if range.end == self.geometry.size().bytes() { range.end } else { range.end - range.end % unit };
        range.start.next_multiple_of(unit)..end
    }
}
