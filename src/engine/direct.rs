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

use super::machine::{Engine, least_busy, tag};
use super::{Bytes, Holder, Keep, Observed, Port, Request, Trouble};
use crate::plan::{self, Fault, Piece, Rows};
use crate::units::{Lba, Sectors, Slot, Stripe};

/// Stands in a tag where other operations have their index.
pub(super) const DIRECT: usize = 0x7ffd;

/// Such a request under way.
#[derive(Clone, Copy)]
pub(super) struct Direct {
    /// Where it went.
    slot: Slot,
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
    pub(super) const NONE: Direct = Direct { slot: Slot(0), stripe: Stripe(0), kind: Kind::Read(None) };
}

impl Engine {
    /// Sends a request to the one member it needs. False if it is not that simple.
    pub(super) fn start_directly(&mut self, index: u32, port: &mut impl Port) -> bool {
        let active = &self.requests[index as usize];
        if active.cut > 0 || active.is_difficult {
            return false;
        }
        match active.request {
            Request::Read { lba, sectors, memory } => {
                self.refresh_view(port);
                let piece = self.single_piece(lba, sectors);
                piece.is_some_and(|piece| self.send_read(index, piece, memory, port))
            }
            Request::Write { lba, sectors, memory, fua, keep } => {
                if self.geometry.is_redundant() || keep != Keep::default() || self.shared.is_broken() {
                    return false;
                }
                self.refresh_view(port);
                let piece = self.single_piece(lba, sectors);
                piece.is_some_and(|piece| self.send_write(index, piece, memory, fua, port))
            }
            Request::Flush | Request::Fill { .. } => false,
        }
    }

    fn single_piece(&self, lba: Lba, sectors: Sectors) -> Option<(Stripe, Piece)> {
        let place = self.geometry.locate(lba)?;
        let end = u64::from(place.row) + sectors.0;
        let whole = end <= u64::from(self.geometry.stripe(place.stripe).rows());
        let rows = Rows::new(place.row, end as u32);
        whole.then_some((place.stripe, Piece { data: place.cell, rows }))
    }

    fn send_read(
        &mut self,
        index: u32,
        (stripe, piece): (Stripe, Piece),
        memory: Bytes,
        port: &mut impl Port,
    ) -> bool {
        let map = self.geometry.stripe(stripe);
        let mut seen = None;
        if self.geometry.copies() > 1 {
            seen = self.shared.locks.observe(stripe, self.shared.locks.mask(piece.rows));
            if seen.is_none() {
                return false;
            }
        }
        let leg = least_busy(&map, &self.busy);
        let Some((slot, at)) = plan::direct(&map, &self.view, leg, piece) else { return false };
        self.note_direct(index, Direct { slot, stripe, kind: Kind::Read(seen) });
        port.read(tag(DIRECT, 0) | u64::from(index), slot, at, memory);
        true
    }

    fn send_write(
        &mut self,
        index: u32,
        (stripe, piece): (Stripe, Piece),
        memory: Bytes,
        fua: bool,
        port: &mut impl Port,
    ) -> bool {
        let map = self.geometry.stripe(stripe);
        let Some((slot, at)) = plan::direct(&map, &self.view, 0, piece) else { return false };
        let mask = self.shared.locks.mask(piece.rows);
        if !self.shared.locks.try_lock(stripe, mask) {
            return false;
        }
        let holder = port.write(tag(DIRECT, 0) | u64::from(index), slot, at, memory, fua);
        self.note_direct(index, Direct { slot, stripe, kind: Kind::Write(mask, holder) });
        true
    }

    fn note_direct(&mut self, index: u32, direct: Direct) {
        self.busy[direct.slot.index()] += 1;
        self.directs += 1;
        self.requests[index as usize].left = 1;
        self.direct[index as usize] = direct;
    }

    /// Such a request has ended.
    pub(super) fn complete_direct(&mut self, index: u32, ok: bool, port: &mut impl Port) {
        let Direct { slot, stripe, kind } = self.direct[index as usize];
        self.directs -= 1;
        self.busy[slot.index()] -= 1;
        self.requests[index as usize].left = 0;
        match kind {
            Kind::Read(seen) => {
                let undisturbed = seen.is_none_or(|seen| self.shared.locks.unchanged(stripe, seen));
                if ok && undisturbed {
                    return self.answer(index);
                }
                let active = &mut self.requests[index as usize];
                active.is_difficult = true;
                active.fault = (!ok).then_some(slot);
                self.uncut.push_back(index);
                if !ok {
                    self.tell_unread(slot, index, port);
                }
            }
            Kind::Write(mask, holder) => {
                if self.shared.locks.unlock(stripe, mask) {
                    port.wake_others();
                }
                if !ok {
                    // Nothing stands in for it.
                    port.member_failed(slot, holder);
                    self.requests[index as usize].trouble = Some(Trouble::Member(slot));
                }
                self.answer(index);
            }
        }
    }

    /// Counts the rows that a direct read could not get.
    fn tell_unread(&self, slot: Slot, index: u32, port: &mut impl Port) {
        let Request::Read { lba, sectors, .. } = self.requests[index as usize].request else { return };
        let Some((stripe, piece)) = self.single_piece(lba, sectors) else { return };
        let map = self.geometry.stripe(stripe);
        let Some(cell) = map.cell_of(slot) else { return };
        let at = map.cell(cell).at + Sectors(u64::from(piece.rows.start));
        port.read_failed(slot, at, sectors);
    }

    /// What is known of the rows of a request's piece from a direct read that failed.
    pub(super) fn fault_of(&self, index: u32, rows: Rows) -> Option<Fault> {
        self.requests[index as usize].fault.map(|slot| Fault { slot, rows })
    }
}
