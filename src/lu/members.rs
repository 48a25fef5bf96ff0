//! The superblocks of an LU that is open for writing: what they say now, and the bytes that go to disk next.
//!
//! All members that are not faulty carry the same table of roles and the same event count. One *round* writes them all;
//! nothing counts as recorded before a round has ended. Two rules of md's are kept here: the event count rises by one
//! with every round and by two when a member fails, so that the failed member is certainly stale even for a kernel that
//! tolerates a lag of one; and the microseconds of the update time are never zero, which no kernel writes, so that
//! it can be told later whether somebody else has written.

use crate::disk::DiskId;
use crate::format::superblock::{Features, Role, Superblock, Time};
use crate::units::{DiskLba, MemberLba, SECTOR, Sectors, Slot};

use super::board::Wire;

/// One member that gets its superblock written.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub disk: DiskId,
    pub name: String,
    pub superblock: Superblock,
    /// The slot's bytes; what is not ours in them stays.
    bytes: Vec<u8>,
    block: u32,
}

impl Member {
    pub(super) fn new(
        disk: DiskId,
        name: String,
        superblock: Superblock,
        bytes: Vec<u8>,
        block: u32,
    ) -> Member {
        Member { disk, name, superblock, bytes, block }
    }

    /// The slot this member fills, if it fills one.
    pub(super) fn slot(&self) -> Option<Slot> {
        match self.superblock.my_role() {
            Role::Active(slot) => Some(slot),
            _ => None,
        }
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
}

impl Members {
    /// From members whose superblocks were just read; the freshest's word about the LU is taken for all.
    pub(super) fn new(mut list: Vec<Member>, freshest: DiskId) -> Members {
        let facts = list.iter().find(|m| m.disk == freshest).map(|m| m.superblock.clone());
        let events = facts.as_ref().map_or(0, |facts| facts.events);
        if let Some(facts) = facts {
            for member in &mut list {
                let sb = &mut member.superblock;
                (sb.events, sb.resync_offset, sb.size) = (facts.events, facts.resync_offset, facts.size);
                sb.roles.clone_from(&facts.roles);
            }
        }
        Members { list, events, changed: false }
    }

    pub(super) fn resync_offset(&self) -> Sectors {
        self.list.first().map_or(Sectors::MAX, |m| m.superblock.resync_offset)
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

    /// How far the rebuilding member in `slot` is good; `None`: all of it.
    pub(super) fn set_watermark(&mut self, slot: Slot, watermark: Option<MemberLba>) {
        for member in self.list.iter_mut().filter(|m| m.slot() == Some(slot)) {
            let sb = &mut member.superblock;
            sb.features = match watermark {
                Some(_) => sb.features.with(Features::RECOVERY_OFFSET),
                None => sb.features.without(Features::RECOVERY_OFFSET.with(Features::RECOVERY_BITMAP)),
            };
            sb.recovery_offset = Sectors(watermark.map_or(0, |w| w.0));
        }
        self.changed = true;
    }

    /// A slot whose disk is not there any more: whoever had it is faulty from now on. Its own superblock is not touched,
    /// and that is how it is recognised as stale later.
    pub(super) fn fail_slot(&mut self, slot: Slot) {
        let holders: Vec<u32> = self.list.first().map_or(Vec::new(), |member| {
            let roles = member.superblock.roles.iter().enumerate();
            roles.filter(|&(_, &role)| role == slot.0).map(|(i, _)| i as u32).collect()
        });
        self.list.retain(|member| member.slot() != Some(slot));
        for dev_number in holders {
            self.set_role(dev_number, Role::Faulty);
        }
        self.changed = true;
    }

    /// A disk that cannot even take a superblock, and is no data member: it is faulty.
    pub(super) fn fail_disk(&mut self, disk: DiskId) {
        let Some(index) = self.list.iter().position(|member| member.disk == disk) else { return };
        let member = self.list.remove(index);
        self.set_role(member.superblock.dev_number, Role::Faulty);
    }

    /// Everything for the next round: a new event count and time on all.
    pub(super) fn stamp(&mut self, raise: u64, now: Time) {
        self.events += raise;
        let now = Time { micros: now.micros.max(1), ..now };
        for member in &mut self.list {
            member.superblock.events = self.events;
            member.superblock.utime = now;
        }
        self.changed = false;
    }

    pub(super) fn wire(&self, slot: Slot) -> Option<Wire> {
        let member = self.list.iter().find(|member| member.slot() == Some(slot))?;
        Some(Wire { disk: member.disk, data_offset: member.superblock.data_offset })
    }
}
