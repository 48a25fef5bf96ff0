//! Floor 2, the disk format: bytes into facts and facts into bytes, for everything md keeps outside the data.
//!
//! Each module is one structure on disk. Parsing trusts nothing: every length, offset and count is checked
//! before it is used, no input makes it panic, and a refusal is a typed value that names the field and what
//! it held. Writing touches only the bytes a structure owns; what we do not understand survives.
//!
//! The floor decides nothing. Whether a dirty, stale or half-reshaped member may be used, and how the
//! superblocks of several members become one LU, is the business of the floor that opens LUs. It reads no
//! disk either: where bytes are needed, a function that reads them is handed in.
//!
//! | module | what it reads and writes |
//! |---|---|
//! | [`superblock`] | the superblock, v1.0 to v1.2; why one is refused; finding it on a disk |
//! | [`bitmap`] | the write-intent bitmap |
//! | [`badblocks`] | the bad-block list |
//! | [`ppl`] | headers of the partial parity log |
//! | [`placement`] | where a new LU's structures go, frozen |
//! | [`signature`] | what else a disk may carry: what would be lost by writing to it |

use crate::units::{DiskLba, Sectors};

pub mod badblocks;
pub mod bitmap;
pub mod placement;
pub mod ppl;
pub mod signature;
pub mod superblock;

pub use superblock::{Refusal, Superblock, locate};

/// A run of sectors of a disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Area {
    /// First sector.
    pub start: DiskLba,
    /// How many sectors.
    pub length: Sectors,
}

impl Area {
    /// The area from `start`, `length` long.
    pub const fn new(start: DiskLba, length: Sectors) -> Area {
        Area { start, length }
    }

    /// The first sector behind the area; saturates at the end of the address space.
    pub const fn end(self) -> DiskLba {
        DiskLba(self.start.0.saturating_add(self.length.0))
    }

    /// Have the two at least one sector in common?
    pub fn overlaps(self, other: Area) -> bool {
        self.start.max(other.start) < self.end().min(other.end())
    }
}
