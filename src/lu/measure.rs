//! What somebody needs who measures an LU against its disks: where the members' data lies, and what a request
//! should cost.

use crate::disk::DiskId;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{self, Cost};
use crate::units::{DiskLba, Lba, SECTOR, Sectors, Slot};

use super::Lu;

/// The part of a member's disk that holds data of the LU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// By its number among the LU's disks, which is also that of the backend an LU is opened
    /// [`through`](super::Assemble::through).
    pub disk: DiskId,
    /// Where it begins.
    pub start: DiskLba,
    /// How long it is.
    pub length: Sectors,
}

impl Lu {
    /// The data areas of the members that fill slots now, by slot.
    pub fn extents(&self) -> Vec<Extent> {
        let geometry = &self.board.geometry;
        let health = self.board.health();
        let extent = |slot: Slot| {
            let wire = health.wire(slot)?;
            Some(Extent { disk: wire.disk, start: wire.data_offset, length: geometry.member_used(slot) })
        };
        (0..geometry.slots()).filter_map(|slot| extent(Slot(slot))).collect()
    }

    /// What reading (or with `write`, writing) `len` bytes at `offset` should cost in disk operations as things
    /// stand, without log and bitmap. Both in bytes, multiples of 512.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] past the end; [`ErrorKind::Io`] if redundancy cannot give the data.
    pub fn cost(&self, offset: u64, len: u64, write: bool) -> Result<Cost> {
        self.check(offset, len)?;
        let view = self.board.health().view.clone();
        let (lba, sectors) = (Lba(offset / SECTOR), Sectors::from_bytes_floor(len));
        plan::cost(&self.board.geometry, &view, lba, sectors, write)
            .map_err(|lost| Error::new(ErrorKind::Io, lost.to_string()))
    }

    /// What rebuilding a lost member should cost for each of its stripes, as [`plan::rebuild_cost`].
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if the level has no redundancy.
    pub fn rebuild_cost(&self) -> Result<Cost> {
        plan::rebuild_cost(&self.board.geometry, Slot(0))
            .map_err(|lost| Error::new(ErrorKind::Io, lost.to_string()))
    }
}
