//! Requests that need nothing but one disk operation: no band, no plan, no scratch memory.
//!
//! Most requests of most LUs are these: reads whose rows are good on one member, and whole blocks written where
//! there is no redundancy. They are sent as they are, with nothing on record but the request. Promises:
//! whatever such a read meets (a failing disk, a writer of the same rows of a mirror), the request goes on as a
//! band like all others, so that there is one place for what is difficult. Refuses to know how that is done.
//!
//! A read of the only copy needs no look at the row lock: what it finds is what the last write left or one
//! under way is about to leave, and no other member could tell it otherwise. Of a mirror, two reads could be
//! served by legs that differ while a write is under way, and see it come and go: that is looked at. A write
//! takes the lock: somebody else may be merging parts of a block into what was there before.

use super::machine::{Engine, tag};
use super::{Bytes, Holder, Keep, Observed, Port, Request, Trouble};
use crate::plan::{self, Fault, Piece, Rows};
use crate::units::{Lba, MemberLba, Sectors, Slot, Stripe};

/// Stands in a tag where other operations have their index.
pub(super) const DIRECT: usize = 0x7ffd;

/// Such a request under way.
#[derive(Clone, Copy)]
pub(super) struct Direct {
    /// Where it went.
    slot: Slot,
    at: MemberLba,
    stripe: Stripe,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    /// Of a mirror: how often its rows had been locked.
    Read(Option<Observed>),
    /// Its row lock, and who took it.
    Write(u64, Holder),
}

impl Direct {
    pub(super) const NONE: Direct =
        Direct { slot: Slot(0), at: MemberLba(0), stripe: Stripe(0), kind: Kind::Read(None) };
}

impl Engine {
    /// Sends a request to the one member it needs. False if it is not that simple.
    pub(super) fn start_directly(&mut self, index: u32, port: &mut impl Port) -> bool {
        let active = &self.requests[index as usize];
        if active.cut > 0 || active.is_difficult {
            return false;
        }
        let (lba, sectors, memory, write) = match active.request {
            Request::Read { lba, sectors, memory } => (lba, sectors, memory, None),
            Request::Write { lba, sectors, memory, fua, keep }
                if !self.geometry.is_redundant() && keep == Keep::default() && !self.shared.is_broken() =>
            {
                (lba, sectors, memory, Some(fua))
            }
            _ => return false,
        };
        self.refresh_view(port);
        let Some(direct) = self.send(lba, sectors, memory, write, tag(DIRECT, 0) | u64::from(index), port)
        else {
            return false;
        };
        self.legs.begin(direct.slot, direct.at, sectors.0 as u32);
        self.directs += 1;
        self.requests[index as usize].left = 1;
        self.direct[index as usize] = direct;
        true
    }

    /// Sends it, a write with its FUA, if one member has all of it.
    fn send(
        &self,
        lba: Lba,
        sectors: Sectors,
        memory: Bytes,
        write: Option<bool>,
        tag: u64,
        port: &mut impl Port,
    ) -> Option<Direct> {
        let place = self.geometry.locate(lba)?;
        let map = self.geometry.stripe(place.stripe);
        let end = u64::from(place.row) + sectors.0;
        if end > u64::from(map.rows()) {
            return None;
        }
        let rows = Rows::new(place.row, end as u32);
        let leg = self.legs.choose(&map, rows);
        let (slot, at) = plan::direct(&map, &self.view, leg, Piece { data: place.cell, rows })?;
        let (locks, stripe) = (&self.shared.locks, place.stripe);
        let kind = match write {
            None => {
                let mirrored = self.geometry.copies() > 1;
                let seen = if mirrored { Some(locks.observe(stripe, locks.mask(rows))?) } else { None };
                port.read(tag, slot, at, memory);
                Kind::Read(seen)
            }
            Some(fua) => {
                let mask = locks.mask(rows);
                if !locks.try_lock(stripe, mask) {
                    return None;
                }
                Kind::Write(mask, port.write(tag, slot, at, memory, fua))
            }
        };
        Some(Direct { slot, at, stripe, kind })
    }

    /// Such a request has ended.
    pub(super) fn complete_direct(&mut self, index: u32, ok: bool, port: &mut impl Port) {
        let Direct { slot, at, stripe, kind } = self.direct[index as usize];
        self.directs -= 1;
        self.legs.end(slot);
        let active = &mut self.requests[index as usize];
        active.left = 0;
        match kind {
            Kind::Read(seen) => {
                if let (false, Request::Read { sectors, .. }) = (ok, active.request) {
                    active.fault = Some(slot);
                    port.read_failed(slot, at, sectors);
                }
                let undisturbed = seen.is_none_or(|seen| self.shared.locks.unchanged(stripe, seen));
                if ok && undisturbed {
                    return self.answer(index);
                }
                active.is_difficult = true;
                self.uncut.push_back(index);
            }
            Kind::Write(mask, holder) => {
                if self.shared.locks.unlock(stripe, mask) {
                    port.wake_others();
                }
                if !ok {
                    // Nothing stands in for it.
                    port.member_failed(slot, holder);
                    active.trouble = Some(Trouble::Member(slot));
                }
                self.answer(index);
            }
        }
    }

    /// What is known of the rows of a request's piece from a direct read that failed.
    pub(super) fn fault_of(&self, index: u32, rows: Rows) -> Option<Fault> {
        self.requests[index as usize].fault.map(|slot| Fault { slot, rows })
    }
}
