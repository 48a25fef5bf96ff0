//! What a request costs in disk operations, by the plans that would be made for it: what a measured speed is to
//! be compared with.
//!
//! Counts what the level asks for and nothing else: no log, no bitmap, no superblock. Refuses to know how long
//! an operation takes.

use alloc::vec::Vec;
use core::ops::Add;

use crate::geometry::Geometry;
use crate::units::{Lba, MemberLba, Sectors, Slot, Stripe};

use super::{Lost, Piece, Plan, Presence, Rows, View, Want, plan};

/// Disk operations and what they move.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cost {
    /// Read operations.
    pub reads: u64,
    /// Write operations.
    pub writes: u64,
    /// What the reads move.
    pub read: Sectors,
    /// What the writes move.
    pub written: Sectors,
}

impl Add for Cost {
    type Output = Cost;

    fn add(self, other: Cost) -> Cost {
        Cost {
            reads: self.reads + other.reads,
            writes: self.writes + other.writes,
            read: self.read + other.read,
            written: self.written + other.written,
        }
    }
}

/// The cost of reading, or with `write` of writing, `sectors` from `lba` on as one request while nothing else is
/// under way. Each stripe it touches is planned as a whole.
///
/// # Errors
/// [`Lost`] if the view's members cannot give the data.
pub fn cost(geometry: &Geometry, view: &View, lba: Lba, sectors: Sectors, write: bool) -> Result<Cost, Lost> {
    // The log widens reads to its own units: that is its cost, not the level's.
    let view = View { logs: false, ..view.clone() };
    let (mut sum, mut out) = (Cost::default(), Plan::with_room_for(usize::from(geometry.cells())));
    let mut pieces: Vec<Piece> = Vec::new();
    let mut done = 0;
    while let Some(place) = geometry.locate(lba + Sectors(done)).filter(|_| done < sectors.0) {
        let stripe = geometry.stripe(place.stripe);
        let end = (u64::from(place.row) + (sectors.0 - done)).min(stripe.rows().into()) as u32;
        pieces.push(Piece { data: place.cell, rows: Rows::new(place.row, end) });
        done += u64::from(end - place.row);
        let next = geometry.locate(lba + Sectors(done)).filter(|_| done < sectors.0);
        if next.is_some_and(|next| next.stripe == place.stripe) {
            continue;
        }
        let want = if write { Want::Write(&pieces) } else { Want::Read(&pieces) };
        plan(&stripe, &view, &[], 0, want, &mut out)?;
        pieces.clear();
        sum = sum + of(&out);
    }
    Ok(sum)
}

/// The cost of rebuilding what `slot` has of one stripe, its first, while all others are well.
///
/// # Errors
/// [`Lost`] if the others cannot give it.
pub fn rebuild_cost(geometry: &Geometry, slot: Slot) -> Result<Cost, Lost> {
    let mut view = View::healthy(geometry.slots());
    if let Some(member) = view.members.get_mut(slot.index()) {
        member.presence = Presence::Below(MemberLba(0));
    }
    let place = geometry.find(slot, MemberLba(0));
    let stripe = geometry.stripe(place.map_or(Stripe(0), |place| place.stripe));
    let mut out = Plan::with_room_for(usize::from(geometry.cells()));
    plan(&stripe, &view, &[], 0, Want::Fill(Rows::new(0, stripe.rows())), &mut out)?;
    Ok(of(&out))
}

fn of(plan: &Plan) -> Cost {
    let length = |ios: &[super::Io]| Sectors(ios.iter().map(|io| u64::from(io.rows.len())).sum());
    Cost {
        reads: plan.gather.len() as u64,
        writes: plan.scatter.len() as u64,
        read: length(&plan.gather),
        written: length(&plan.scatter),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{Layout, Shape};
    use crate::units::{Level, SlotSet};

    /// Four members of 4 MiB, chunks of 64 KiB.
    fn costs(level: Level, gone: Option<u16>, lba: u64, sectors: u64, write: bool) -> Cost {
        let component = Sectors(8192);
        let members = [component; 4];
        let layout = Layout::default_for(level).md_number();
        let chunk = if crate::geometry::has_chunk(level) { Sectors(128) } else { Sectors(0) };
        let shape = Shape { level, layout, chunk, slots: 4, component, members: &members };
        let geometry = Geometry::new(&shape).unwrap();
        let mut view = View::healthy(4);
        let missing: SlotSet = gone.map(Slot).into_iter().collect();
        for slot in missing.iter() {
            view.members[slot.index()].presence = crate::plan::Presence::Missing;
        }
        cost(&geometry, &view, Lba(lba), Sectors(sectors), write).unwrap()
    }

    #[test]
    fn a_rebuild_reads_what_the_level_needs() {
        for (level, read, written) in [
            (Level::Raid1, 2048, 2048),
            (Level::Raid10, 128, 128),
            (Level::Raid5, 384, 128),
            // One parity is enough.
            (Level::Raid6, 256, 128),
        ] {
            let layout = Layout::default_for(level).md_number();
            let chunk = if crate::geometry::has_chunk(level) { Sectors(128) } else { Sectors(0) };
            let component = Sectors(8192);
            let shape = Shape { level, layout, chunk, slots: 4, component, members: &[] };
            let geometry = Geometry::new(&shape).unwrap();
            for slot in 0..4 {
                let cost = rebuild_cost(&geometry, Slot(slot)).unwrap();
                assert_eq!((cost.read.0, cost.written.0), (read, written), "{level}, slot {slot}");
            }
        }
    }

    #[test]
    fn the_rules_of_thumb() {
        let counts = |cost: Cost| (cost.reads, cost.writes, cost.read.0, cost.written.0);
        assert_eq!(counts(costs(Level::Raid0, None, 8, 8, true)), (0, 1, 0, 8));
        assert_eq!(counts(costs(Level::Raid1, None, 8, 8, true)), (0, 4, 0, 32));
        assert_eq!(counts(costs(Level::Raid10, None, 8, 8, true)), (0, 2, 0, 16));
        assert_eq!(counts(costs(Level::Raid5, None, 8, 8, true)), (2, 2, 16, 16));
        assert_eq!(counts(costs(Level::Raid5, None, 0, 384, true)), (0, 4, 0, 512), "a full stripe");
        // Of four disks a write to one block reads the one other block, or three old ones.
        assert_eq!(counts(costs(Level::Raid6, None, 8, 8, true)), (1, 3, 8, 24));
        assert_eq!(counts(costs(Level::Raid5, None, 8, 8, false)), (1, 0, 8, 0));
    }

    #[test]
    fn a_degraded_stripe_is_read_once() {
        // Whatever is missing, three chunks give the three chunks of data.
        for gone in 0..4 {
            let cost = costs(Level::Raid5, Some(gone), 0, 384, false);
            assert_eq!((cost.reads, cost.read.0), (3, 384), "{gone}");
        }
        // One block in four has to be computed, from three others: half as much again on average.
        let blocks = (0..4u64).map(|slot| costs(Level::Raid5, Some(slot as u16), 8, 8, false).reads);
        assert_eq!(blocks.sum::<u64>(), 6);
    }
}
