//! What the planner knows of the members: health per slot, bad ranges, how far redundancy is in sync. Nothing of disks.

use alloc::vec::Vec;

use crate::units::{MemberLba, Slot, SlotSet};

/// The health of an LU at one epoch. A change makes a new view with a higher epoch; views are never edited in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Rises with every change of health.
    pub epoch: u64,
    /// By slot.
    pub members: Vec<Member>,
    /// Redundancy agrees below this sector: of the LU where [`Geometry::synced_unit_is_lu`], of the members elsewhere.
    /// `u64::MAX` when everything is in sync.
    ///
    /// [`Geometry::synced_unit_is_lu`]: crate::geometry::Geometry::synced_unit_is_lu
    pub synced_below: u64,
    /// Writes go to the partial parity log first (RAID5 only). They do while all redundancy is in sync: a log that holds
    /// entries says to md that nothing else needs a resync after a crash.
    pub logs: bool,
}

/// One slot, as the planner sees it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Member {
    /// Is there a disk, and how much of it may be read?
    pub presence: Presence,
    /// Sectors of the data area that must not be read or written (md's bad-block list), sorted, not overlapping.
    pub bad: Vec<(MemberLba, MemberLba)>,
    /// Read only when no other copy is there (md's write-mostly).
    pub avoid: bool,
}

/// Is a slot filled, and how far?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Presence {
    /// No disk: neither read nor written.
    #[default]
    Missing,
    /// Read and written.
    Present,
    /// Being rebuilt: read below the watermark, written everywhere.
    Below(MemberLba),
}

impl View {
    /// All `slots` present and in sync.
    pub fn healthy(slots: u16) -> View {
        let member = Member { presence: Presence::Present, ..Member::default() };
        View {
            epoch: 0,
            members: alloc::vec![member; usize::from(slots)],
            synced_below: u64::MAX,
            logs: false,
        }
    }

    /// Slots without a disk.
    pub fn missing(&self) -> SlotSet {
        self.slots_where(|member| member.presence == Presence::Missing)
    }

    /// Slots that cannot stand in for a lost one: missing, or still being rebuilt.
    pub fn incomplete(&self) -> SlotSet {
        self.slots_where(|member| member.presence != Presence::Present)
    }

    fn slots_where(&self, test: impl Fn(&Member) -> bool) -> SlotSet {
        let slots = self.members.iter().enumerate().filter(|(_, member)| test(member));
        slots.map(|(i, _)| Slot(i as u16)).collect()
    }
}
