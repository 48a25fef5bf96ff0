//! What the planner knows of the members: health per slot, bad ranges, how far redundancy is in sync. Nothing of disks.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::StripeSet;
use crate::units::{MemberLba, Sectors, Slot, SlotSet};

/// The health of an LU at one epoch. A change makes a new view with a higher epoch; views are never edited in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Rises with every change of health.
    pub epoch: u64,
    /// By slot.
    pub members: Vec<Member>,
    /// Disks that are becoming copies of those in slots, to take their places (md's replacements). Empty, or by slot,
    /// `Missing` where there is none. They are written with their slot, and read where its own disk cannot be.
    ///
    /// In plans a slot's replacement goes by the number `members.len()` above the slot's: see [`View::device`].
    pub replacements: Vec<Member>,
    /// Redundancy agrees below this sector: of the LU where [`Geometry::synced_unit_is_lu`], of the members elsewhere.
    /// `u64::MAX` when everything is in sync.
    ///
    /// [`Geometry::synced_unit_is_lu`]: crate::geometry::Geometry::synced_unit_is_lu
    pub synced_below: u64,
    /// Of what is not below [`synced_below`](View::synced_below), only these stripes may disagree: what a write-intent
    /// bitmap names. `None`: all.
    pub suspects: Option<Arc<StripeSet>>,
    /// Writes go to the partial parity log first (RAID5 only). They do while all redundancy is in sync: a log that holds
    /// entries says to md that nothing else needs a resync after a crash.
    pub logs: bool,
}

/// One slot, as the planner sees it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Member {
    /// Is there a disk, and how much of it may be read?
    pub presence: Presence,
    /// Sectors of the data area that must not be read until they are written (md's bad-block list), sorted, not overlapping.
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

impl Member {
    /// Is there a disk, and has it all that it should?
    pub fn is_well(&self) -> bool {
        self.presence == Presence::Present && self.bad.is_empty()
    }

    /// Is there a disk that has what it should up to `end`?
    pub fn reaches(&self, end: MemberLba) -> bool {
        match self.presence {
            Presence::Present => true,
            Presence::Below(watermark) => end <= watermark,
            Presence::Missing => false,
        }
    }

    /// Puts `sectors` from `at` on the list of bad blocks.
    pub fn mark_bad(&mut self, at: MemberLba, sectors: Sectors) {
        self.bad.push((at, at + sectors));
        self.bad.sort();
        // Neighbours become one.
        self.bad.dedup_by(|next, last| {
            let joins = next.0 <= last.1;
            if joins {
                last.1 = last.1.max(next.1);
            }
            joins
        });
    }

    /// Takes `sectors` from `at` off the list; ranges that stick out are cut or split.
    pub fn mark_good(&mut self, at: MemberLba, sectors: Sectors) {
        let (start, end) = (at, at + sectors);
        let rest = |&(a, b): &(MemberLba, MemberLba)| {
            [(a, b.min(start)), (a.max(end), b)].into_iter().filter(|part| part.0 < part.1)
        };
        self.bad = self.bad.iter().flat_map(rest).collect();
    }
}

impl View {
    /// All `slots` present and in sync.
    pub fn healthy(slots: u16) -> View {
        let member = Member { presence: Presence::Present, ..Member::default() };
        View {
            epoch: 0,
            members: alloc::vec![member; usize::from(slots)],
            replacements: Vec::new(),
            synced_below: u64::MAX,
            suspects: None,
            logs: false,
        }
    }

    /// Are all members there and all of them to be believed, everywhere, and is none about to be replaced?
    pub fn is_whole(&self) -> bool {
        self.synced_below == u64::MAX
            && self.members.iter().all(Member::is_well)
            && self.replacements.iter().all(|member| member.presence == Presence::Missing)
    }

    /// Who goes by a number: a slot's own disk, or the one that is to replace it.
    pub fn device(&self, number: Slot) -> Option<&Member> {
        self.devices().nth(number.index())
    }

    /// The same, to be changed.
    pub fn device_mut(&mut self, number: Slot) -> Option<&mut Member> {
        self.members.iter_mut().chain(&mut self.replacements).nth(number.index())
    }

    /// All disks by their numbers: first the slots', then the replacements.
    pub fn devices(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().chain(&self.replacements)
    }

    /// The disk that is to replace `slot`'s, and its number.
    pub fn replacement(&self, slot: Slot) -> Option<(Slot, &Member)> {
        let member = self.replacements.get(slot.index())?;
        (member.presence != Presence::Missing).then(|| (self.replacement_number(slot), member))
    }

    /// The number of `slot`'s replacement, whether there is one or not.
    pub fn replacement_number(&self, slot: Slot) -> Slot {
        Slot(slot.0 + self.members.len() as u16)
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
