//! The superblocks of an LU that is open for writing: what they say now, and the bytes that go to disk next.
//!
//! All members that are not faulty carry the same table of roles and the same event count. One *round* writes them all;
//! nothing counts as recorded before a round has ended. Two rules of md's are kept here: the event count rises by one
//! with every round (a failure takes two, so that the failed member is certainly stale even for a kernel that tolerates a
//! lag of one); and the microseconds of the update time are never zero, which no kernel writes, so that it can be told
//! later whether somebody else has written.

use crate::disk::DiskId;
use crate::format::badblocks::BadBlocks;
use crate::format::superblock::{Features, Found, Role, Superblock, Time};
use crate::units::{DiskLba, MemberLba, SECTOR, Sectors, Slot};

use super::board::Wire;
use super::log::LogPlace;

/// One member that gets its superblock written.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub disk: DiskId,
    pub name: String,
    pub superblock: Superblock,
    /// The slot's bytes; what is not ours in them stays.
    bytes: Vec<u8>,
    block: u32,
    /// Its bad ranges, and whether the list on disk says something else.
    bad: BadBlocks,
    bad_changed: bool,
}

impl Member {
    pub(super) fn new(
        disk: DiskId,
        name: String,
        superblock: Superblock,
        bytes: Vec<u8>,
        block: u32,
        bad: BadBlocks,
    ) -> Member {
        Member { disk, name, superblock, bytes, block, bad, bad_changed: false }
    }

    /// Adds a range of the data area to the list. False if there is no room for it: the member cannot be kept then.
    pub(super) fn add_bad(&mut self, at: MemberLba, length: Sectors) -> bool {
        self.bad.insert(self.superblock.data_offset + Sectors(at.0), length);
        self.bad_changed = true;
        self.superblock.features = self.superblock.features.with(Features::BAD_BLOCKS);
        self.encode_bad().is_some()
    }

    /// Takes a range of the data area off the list.
    pub(super) fn remove_bad(&mut self, at: MemberLba, length: Sectors) {
        self.bad.remove(self.superblock.data_offset + Sectors(at.0), length);
        self.bad_changed = true;
        if self.bad.is_empty() {
            self.superblock.features = self.superblock.features.without(Features::BAD_BLOCKS);
        }
    }

    /// The list and where it goes, whole blocks; `None` if there is no place for it or not enough.
    fn encode_bad(&self) -> Option<(DiskLba, Vec<u8>)> {
        let area = self.superblock.bblog_area()?;
        let capacity = (area.length.bytes() / 8) as usize;
        let bytes = self.bad.emit(self.superblock.bblog.shift, capacity).ok()?;
        Some((area.start, bytes))
    }

    /// The list to be written before the superblock that speaks of it, if it changed.
    pub(super) fn take_bad(&mut self) -> Option<(DiskLba, Vec<u8>)> {
        let changed = std::mem::take(&mut self.bad_changed);
        changed.then(|| self.encode_bad()).flatten()
    }

    /// It missed nothing but what the bitmap marks, and is being brought up to date.
    pub(super) fn lacks_only_marked(&self) -> bool {
        self.superblock.features.contains(Features::RECOVERY_BITMAP)
    }

    /// Its bad ranges, from the start of the disk.
    pub(super) fn bad(&self) -> &BadBlocks {
        &self.bad
    }

    /// Where its copy of the write-intent bitmap goes, if it has one that counts: spares do not.
    pub(super) fn bitmap_at(&self) -> Option<DiskLba> {
        self.active().and_then(|_| self.superblock.bitmap_at())
    }

    /// The slot this member fills, if it fills one.
    pub(super) fn slot(&self) -> Option<Slot> {
        self.active().filter(|_| !self.is_replacement())
    }

    /// The slot whose disk this one is to replace.
    pub(super) fn replaces(&self) -> Option<Slot> {
        self.active().filter(|_| self.is_replacement())
    }

    /// The number by which it goes in the view ([`View::device`](crate::plan::View::device)).
    pub(super) fn number(&self) -> Option<Slot> {
        let slots = self.superblock.raid_disks as u16;
        self.slot().or_else(|| self.replaces().map(|slot| Slot(slot.0 + slots)))
    }

    fn active(&self) -> Option<Slot> {
        match self.superblock.my_role() {
            Role::Active(slot) => Some(slot),
            _ => None,
        }
    }

    fn is_replacement(&self) -> bool {
        self.superblock.features.contains(Features::REPLACEMENT)
    }

    /// It fills the slot itself from now on.
    fn take_over(&mut self) {
        self.superblock.features = self.superblock.features.without(Features::REPLACEMENT);
    }

    /// Takes over what `facts` says about the LU as a whole.
    fn take_facts(&mut self, facts: &Superblock) {
        let sb = &mut self.superblock;
        (sb.events, sb.resync_offset, sb.size) = (facts.events, facts.resync_offset, facts.size);
        sb.roles.clone_from(&facts.roles);
    }

    /// What would be read of it now.
    pub(super) fn into_found(self, before: &Found) -> Found {
        Found { superblock: self.superblock, slot: self.bytes, ..before.clone() }
    }

    /// Where its superblock goes.
    pub(super) fn at(&self) -> DiskLba {
        self.superblock.super_offset
    }

    /// The bytes to write there: whole blocks, as few as hold the superblock.
    pub(super) fn encode(&mut self) -> &[u8] {
        self.superblock.write_into(&mut self.bytes);
        let used = self.superblock.bytes_used().next_multiple_of(self.block.max(SECTOR as u32) as usize);
        &self.bytes[..used.min(self.bytes.len())]
    }
}

/// All members that are written.
#[derive(Clone, Debug)]
pub(super) struct Members {
    pub list: Vec<Member>,
    pub events: u64,
    /// Something was changed that no round has recorded yet.
    pub changed: bool,
    /// A power cut in the middle of a round left somebody behind. It has to catch up before the count rises: two behind it
    /// would be stale, and left alone it would say something else of the LU.
    pub lags: bool,
}

impl Members {
    /// From members whose superblocks were just read; the freshest's word about the LU is taken for all,
    /// `filled` says who fills which slot, and `replacing` who is to replace the disk in one.
    pub(super) fn new(
        mut list: Vec<Member>,
        freshest: DiskId,
        filled: impl Iterator<Item = (DiskId, Slot)>,
        replacing: impl Iterator<Item = DiskId>,
    ) -> Members {
        let facts = list.iter().find(|m| m.disk == freshest).map(|m| m.superblock.clone());
        let events = facts.as_ref().map_or(0, |facts| facts.events);
        let mut lags = false;
        if let Some(facts) = facts {
            for member in &mut list {
                lags |= member.active().is_some() && member.superblock.events != events;
                member.take_facts(&facts);
            }
        }
        let mut members = Members { list, events, changed: false, lags };
        // One may not know it yet: the round that says so was cut short.
        for disk in replacing {
            let Some(member) = members.list.iter_mut().find(|m| m.disk == disk) else { continue };
            let sb = &mut member.superblock;
            members.changed |= !sb.features.contains(Features::REPLACEMENT);
            sb.features = sb.features.with(Features::REPLACEMENT);
        }
        // A stale member that was let in fills its slot also by the table from now on.
        for (disk, slot) in filled {
            let Some(member) = members.list.iter_mut().find(|m| m.disk == disk) else { continue };
            let (number, promoted) = (member.superblock.dev_number, member.is_replacement());
            member.take_over();
            if promoted {
                // The disk it was to replace is gone.
                members.set_roles(slot, Role::Faulty);
            }
            if members.list[0].superblock.role_of(number) != Role::Active(slot) {
                members.set_role(number, Role::Active(slot));
            }
        }
        members
    }

    /// What the superblocks say of how far redundancy agrees; `None` without members.
    pub(super) fn resync_offset(&self) -> Option<Sectors> {
        self.list.first().map(|member| member.superblock.resync_offset)
    }

    /// Does the table of roles say that somebody fills `slot`?
    pub(super) fn counts_on(&self, slot: Slot) -> bool {
        !self.numbers_of(slot).is_empty()
    }

    /// The numbers to which the table of roles gives `slot`; a replacement does not have it yet.
    fn numbers_of(&self, slot: Slot) -> Vec<u32> {
        let roles = self.list.first().map_or(&[][..], |member| &member.superblock.roles);
        let second = self.list.iter().find(|member| member.replaces() == Some(slot));
        let second = second.map(|member| member.superblock.dev_number);
        let has_it = |&(number, &role): &(u32, &u16)| role == slot.0 && Some(number) != second;
        (0u32..).zip(roles).filter(has_it).map(|(number, _)| number).collect()
    }

    /// Gives everybody who has `slot` another role.
    fn set_roles(&mut self, slot: Slot, role: Role) {
        for number in self.numbers_of(slot) {
            self.set_role(number, role);
        }
    }

    pub(super) fn set_resync_offset(&mut self, offset: Sectors) {
        for member in &mut self.list {
            member.superblock.resync_offset = offset;
        }
    }

    /// Gives `dev_number` a role in everybody's table.
    pub(super) fn set_role(&mut self, dev_number: u32, role: Role) {
        for member in &mut self.list {
            if let Some(entry) = member.superblock.roles.get_mut(dev_number as usize) {
                *entry = role.raw();
            }
        }
        self.changed = true;
    }

    /// How far the member that goes by `number` is good; `None`: all of it.
    pub(super) fn set_watermark(&mut self, number: Slot, watermark: Option<MemberLba>) {
        for member in self.list.iter_mut().filter(|m| m.number() == Some(number)) {
            let sb = &mut member.superblock;
            let before = (sb.features, sb.recovery_offset);
            sb.features = match watermark {
                Some(_) => sb.features.with(Features::RECOVERY_OFFSET),
                None => sb.features.without(Features::RECOVERY_OFFSET.with(Features::RECOVERY_BITMAP)),
            };
            sb.recovery_offset = Sectors(watermark.map_or(0, |w| w.0));
            self.changed |= before != (sb.features, sb.recovery_offset);
        }
    }

    /// A slot whose disk is not there any more: whoever had it is faulty from now on. Its own superblock is not touched,
    /// and that is how it is recognised as stale later. A disk that was to replace it has the slot then, and is returned.
    pub(super) fn fail_slot(&mut self, slot: Slot) -> Option<DiskId> {
        let holders = self.numbers_of(slot);
        // Before the table says otherwise: a member knows its slot from there.
        self.list.retain(|member| member.slot() != Some(slot));
        for number in holders {
            self.set_role(number, Role::Faulty);
        }
        self.changed = true;
        let heir = self.list.iter_mut().find(|member| member.replaces() == Some(slot))?;
        heir.take_over();
        Some(heir.disk)
    }

    /// A spare that fits shall replace the disk in `slot`; nothing on it is good yet. False if it is no such spare.
    pub(super) fn start_replacing(&mut self, slot: Slot, disk: DiskId) -> bool {
        let need = self.list.iter().find_map(|m| m.slot().map(|_| m.superblock.size));
        let spare = self.list.iter_mut().find(|m| m.disk == disk);
        let Some(spare) = spare.filter(|m| m.superblock.my_role() == Role::Spare) else { return false };
        if need.is_none_or(|need| spare.superblock.data_size < need) {
            return false;
        }
        spare.superblock.features = spare.superblock.features.with(Features::REPLACEMENT);
        let (number, second) =
            (spare.superblock.dev_number, Slot(slot.0 + spare.superblock.raid_disks as u16));
        self.set_role(number, Role::Active(slot));
        self.set_watermark(second, Some(MemberLba(0)));
        true
    }

    /// A disk that cannot even take a superblock, and is no data member: it is faulty.
    pub(super) fn fail_disk(&mut self, disk: DiskId) {
        let Some(index) = self.list.iter().position(|member| member.disk == disk) else { return };
        let member = self.list.remove(index);
        self.set_role(member.superblock.dev_number, Role::Faulty);
    }

    /// A disk joins as a spare; its superblock has its own number and the LU's facts.
    pub(super) fn join(&mut self, mut member: Member) {
        let number = member.superblock.dev_number;
        if let Some(other) = self.list.first() {
            member.take_facts(&other.superblock);
        }
        self.list.push(member);
        self.set_role(number, Role::Spare);
    }

    /// A spare that fits fills `slot` from now on; nothing on it is good yet. `None` if there is no spare.
    pub(super) fn activate_spare(&mut self, slot: Slot) -> Option<DiskId> {
        let model = &self.list.iter().find(|m| m.slot().is_some())?.superblock;
        let (need, logs) = (model.size, model.features.has_ppl());
        let spare = self.list.iter().find(|m| {
            let sb = &m.superblock;
            sb.my_role() == Role::Spare && sb.data_size >= need && sb.features.has_ppl() == logs
        })?;
        let (disk, number) = (spare.disk, spare.superblock.dev_number);
        // Whoever had the slot before has it no more, also where it was never recorded as faulty.
        self.set_roles(slot, Role::Faulty);
        self.set_role(number, Role::Active(slot));
        self.set_watermark(slot, None);
        self.set_watermark(slot, Some(MemberLba(0)));
        Some(disk)
    }

    /// Whoever had `dev_number` is no longer called faulty. False if it was not.
    pub(super) fn forgive(&mut self, dev_number: u32) -> bool {
        let role = self.list.first().map(|member| member.superblock.role_of(dev_number));
        let faulty = role == Some(Role::Faulty);
        if faulty {
            self.set_role(dev_number, Role::Spare);
        }
        faulty
    }

    /// A member that left fills `slot` again; on it is good what the bitmap does not mark.
    pub(super) fn take_back(&mut self, mut member: Member, slot: Slot) {
        if let Some(other) = self.list.first() {
            member.take_facts(&other.superblock);
        }
        member.superblock.features = member.superblock.features.with(Features::RECOVERY_BITMAP);
        let number = member.superblock.dev_number;
        self.set_roles(slot, Role::Faulty);
        self.list.push(member);
        self.set_role(number, Role::Active(slot));
        self.set_watermark(slot, Some(MemberLba(0)));
    }

    /// Everything for the next round: a new event count and time on all. Whoever lags gets the others' count first.
    pub(super) fn stamp(&mut self, now: Time) {
        self.events += u64::from(!std::mem::take(&mut self.lags));
        let now = Time { micros: now.micros.max(1), ..now };
        for member in &mut self.list {
            member.superblock.events = self.events;
            member.superblock.utime = now;
        }
        self.changed = false;
    }

    /// The member that goes by `number`.
    pub(super) fn numbered(&mut self, number: Slot) -> Option<&mut Member> {
        self.list.iter_mut().find(|member| member.number() == Some(number))
    }

    pub(super) fn wire(&self, number: Slot) -> Option<Wire> {
        let member = self.list.iter().find(|member| member.number() == Some(number))?;
        let sb = &member.superblock;
        Some(Wire { disk: member.disk, data_offset: sb.data_offset, log: LogPlace::of(sb) })
    }
}
