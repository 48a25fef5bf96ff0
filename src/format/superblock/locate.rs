//! Finding the superblock of a disk among its three possible places.

use alloc::vec::Vec;

use super::{Minor, Refusal, SLOT_BYTES, Superblock};
use crate::error::{Error, Result};
use crate::format::signature;
use crate::units::{DiskLba, Sectors};

/// A superblock, and the slot it was read from.
#[derive(Clone, Debug)]
pub struct Found {
    /// The facts.
    pub superblock: Superblock,
    /// Where it is.
    pub at: DiskLba,
    /// The whole slot, [`SLOT_BYTES`] long: what [`Superblock::write_into`] is to be given.
    pub slot: Vec<u8>,
    /// What the other places hold, if it is not nothing: a valid, older superblock (`None`), or one that is
    /// refused.
    pub others: Vec<(Minor, Option<Refusal>)>,
}

/// Why no superblock was found.
#[derive(Debug, thiserror::Error)]
pub enum NotFound {
    /// There is none, or none that may be used. The refusal that tells the most.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// None was found and a place could not be read.
    #[error(transparent)]
    Read(Error),
}

impl NotFound {
    /// Is there simply no md superblock on this disk?
    pub fn absent(&self) -> bool {
        matches!(self, NotFound::Refused(refusal) if refusal.absent())
    }
}

impl From<NotFound> for Error {
    fn from(not_found: NotFound) -> Error {
        match not_found {
            NotFound::Refused(refusal) => refusal.into(),
            NotFound::Read(error) => error,
        }
    }
}

/// Finds the superblock of a disk of `disk` sectors. `read` fills the buffer it is handed from a sector on;
/// it is asked for whole sectors that lie on the disk.
///
/// If several places hold an undamaged superblock, the one created last counts, as with mdadm, places being
/// tried in the order 1.0, 1.1, 1.2. It counts also if it is refused then: an older one beneath it must not
/// be taken for the member. A place that cannot be read matters only if no other one has a superblock.
///
/// # Errors
/// [`NotFound::Refused`] with the most telling reason, and [`NotFound::Read`] if reading is the reason.
pub fn locate(
    mut read: impl FnMut(DiskLba, &mut [u8]) -> Result<()>,
    disk: Sectors,
) -> Result<Found, NotFound> {
    let mut unreadable = None;
    let mut refused = Refusal::NoPlace { minor: Minor::V1_2, disk };
    let mut newest: Option<Found> = None;
    let mut others = Vec::new();

    for minor in Minor::ALL {
        let Some(at) = minor.offset(disk) else { continue };
        let mut slot = alloc::vec![0; SLOT_BYTES];
        if let Err(error) = read(at, &mut slot) {
            unreadable = Some(error);
            continue;
        }
        match Superblock::decode(&slot, minor, disk) {
            Err(refusal) => {
                refused = more_telling(refused, refusal);
                if !refusal.absent() {
                    others.push((minor, Some(refusal)));
                }
            }
            Ok(superblock) => {
                let older = newest.as_ref().is_some_and(|found| found.superblock.ctime >= superblock.ctime);
                if older {
                    others.push((minor, None));
                } else if let Some(found) = newest.replace(Found { superblock, at, slot, others: Vec::new() })
                {
                    others.push((found.superblock.minor, None));
                }
            }
        }
    }

    if let Some(found) = newest {
        Superblock::parse(&found.slot, found.superblock.minor, disk)?;
        return Ok(Found { others, ..found });
    }
    if let Some(error) = unreadable {
        return Err(NotFound::Read(error));
    }
    if refused.absent()
        && let Some(foreign) = signature::foreign_raid(disk, &mut read).map_err(NotFound::Read)?
    {
        refused = Refusal::Foreign(foreign);
    }
    Err(NotFound::Refused(refused))
}

/// Of two reasons the one that came closer to a superblock; of two equally close ones the first.
fn more_telling(first: Refusal, second: Refusal) -> Refusal {
    let closeness = |refusal: &Refusal| match refusal {
        Refusal::NoPlace { .. } | Refusal::Short { .. } => 0,
        Refusal::Magic { .. } => 1,
        Refusal::MajorVersion { .. } => 2,
        Refusal::Misplaced { .. } => 3,
        _ => 4,
    };
    if closeness(&second) > closeness(&first) { second } else { first }
}
