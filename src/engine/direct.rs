//! Reads that need nothing but one disk operation: no band, no plan, no scratch memory.
//!
//! Most requests of most LUs are these. One whose wanted rows are good on one member is sent there as it is,
//! with nothing on record but its request. Promises: whatever such a read meets (a failing disk, a writer of
//! the same rows of a mirror), the request goes on as a band like all others, so that there is one place for
//! what is difficult. Refuses to know how that is done.
//!
//! A read of the only copy needs no look at the row lock: what it finds is what the last write left or one
//! under way is about to leave, and no other member could tell it otherwise. Of a mirror, two reads could be
//! served by legs that differ while a write is under way, and see it come and go: that is looked at.

use super::machine::{Engine, tag};
use super::{Bytes, Observed, Port, Request};
use crate::plan::{self, Fault, Piece, Rows};
use crate::units::{Lba, Sectors, Slot, Stripe};

/// Stands in a tag where other operations have their index.
pub(super) const DIRECT: usize = 0x7ffd;

/// A read under way.
#[derive(Clone, Copy)]
pub(super) struct Direct {
    /// Where it went.
    pub(super) slot: Slot,
    stripe: Stripe,
    /// Of a mirror: how often its rows had been locked.
    seen: Option<Observed>,
}

impl Direct {
    pub(super) const NONE: Direct = Direct { slot: Slot(0), stripe: Stripe(0), seen: None };
}

impl Engine {
    /// Sends a read to the one member it needs. False if it is not that simple.
    pub(super) fn read_directly(&mut self, index: u32, port: &mut impl Port) -> bool {
        let active = &self.requests[index as usize];
        let Request::Read { lba, sectors, memory } = active.request else { return false };
        if active.cut > 0 || active.is_difficult || sectors.0 == 0 {
            return false;
        }
        self.refresh_view(port);
        let Some(piece) = self.single_piece(lba, sectors) else { return false };
        self.send(index, piece, memory, port)
    }

    fn single_piece(&self, lba: Lba, sectors: Sectors) -> Option<(Stripe, Piece)> {
        let place = self.geometry.locate(lba)?;
        let end = u64::from(place.row) + sectors.0;
        let whole = end <= u64::from(self.geometry.stripe(place.stripe).rows());
        let rows = Rows::new(place.row, end as u32);
        whole.then_some((place.stripe, Piece { data: place.cell, rows }))
    }

    fn send(
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
        let leg = super::machine::least_busy(&map, &self.busy);
        let Some((slot, at)) = plan::direct(&map, &self.view, leg, piece) else { return false };
        self.direct[index as usize] = Direct { slot, stripe, seen };
        self.requests[index as usize].left = 1;
        self.busy[slot.index()] += 1;
        self.directs += 1;
        port.read(tag(DIRECT, 0) | u64::from(index), slot, at, memory);
        true
    }

    /// Such a read has ended.
    pub(super) fn complete_direct(&mut self, index: u32, ok: bool, port: &mut impl Port) {
        let Direct { slot, stripe, seen } = self.direct[index as usize];
        self.directs -= 1;
        self.busy[slot.index()] -= 1;
        self.requests[index as usize].left = 0;
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
