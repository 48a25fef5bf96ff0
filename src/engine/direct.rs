//! Requests that need no plan: no band, nothing read to be written again.
//!
//! Most requests of most LUs are these: reads whose rows are good on one member, and whole blocks written where there is no
//! parity, to the only copy or to all of them. They are sent as they are, with nothing on record but the request; one of
//! several stripes is sent piece by piece, each a request of its own. And small reads of what a lost disk had, if all others of the
//! stripe are good: these are read, the first to where the sum is to be, and added up. Promises: whatever such a request meets
//! (a failing disk, a writer of the same rows), it goes on as a band like all others, so that there is one place for what
//! is difficult. Refuses to know how that is done.
//!
//! A read of the only copy needs no look at the row lock: what it finds is what the last write left or one
//! under way is about to leave, and no other member could tell it otherwise. Of a mirror, two reads could be
//! served by legs that differ while a write is under way, and see it come and go: that is looked at. So it is where several members
//! are summed up; and whom to believe must be known from after that look, for a write that ended before it may have been
//! one that failed somewhere. A write takes the lock: somebody else may be merging parts of a block into what was there before, and
//! copies must not end up in different orders. If a copy could not be written the band that tells of it takes the lock over, so
//! that nobody sees the one and then the other.

use core::ops::Range;

use super::machine::{Active, Engine, Kind as OpKind, State, tag};
use super::{Bytes, Keep, Observed, Port, Regions, Request};
use crate::geometry::Place;
use crate::plan::{self, Fault, Piece, Rows};
use crate::planted::{Bug, planted};
use crate::units::{MemberLba, Sectors, Slot, Stripe};

/// Stands in a tag where other operations have their index; which copy it is stands in the place of their life.
pub(super) const DIRECT: usize = 0x7ffd;

/// Most copies that are written directly, a bit each, and most members that are summed up.
pub(super) const MOST_COPIES: u16 = 32;

/// Most sums that are made without a band: each has a block of scratch memory.
pub(crate) const MOST_SUMS: usize = 64;

/// Most pieces of longer requests that are under way by themselves. What is beyond goes as bands.
pub(super) const MOST_PARTS: usize = 256;

/// Such a request under way.
#[derive(Clone, Copy)]
pub(super) struct Direct {
    stripe: Stripe,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    /// Where from, and, of a mirror, how often its rows had been locked.
    Read { slot: Slot, at: MemberLba, seen: Option<Observed> },
    /// The sum of several: how often their rows had been locked, and the memory for all of these but the first, which is
    /// read to where the sum is to be.
    Sum { seen: Observed, lanes: Option<u32>, failed: bool },
    /// Its row lock, the regions it is counted in, and which copies could not be written, a bit each.
    Write { mask: u32, regions: Option<Regions>, failed: u32 },
}

impl Direct {
    pub(super) const NONE: Direct =
        Direct { stripe: Stripe(0), kind: Kind::Read { slot: Slot(0), at: MemberLba(0), seen: None } };
}

impl Engine {
    /// Sends a request to the members it needs. False if it is not that simple.
    pub(super) fn start_directly(&mut self, index: u32, port: &mut impl Port) -> bool {
        let active = &self.requests[index as usize];
        if active.cut > 0 || active.is_difficult || !self.needs_no_plan(&active.request) {
            return false;
        }
        match active.request {
            Request::Read { sectors, memory, .. } => {
                self.read_directly(index, active.place, sectors, memory, port)
            }
            Request::Write { sectors, memory, fua, .. } => {
                self.write_directly(index, active.place, sectors, memory, fua, port)
            }
            _ => false,
        }
    }

    /// Is it of the sort that is sent as it is, if its rows allow that?
    fn needs_no_plan(&self, request: &Request) -> bool {
        match *request {
            Request::Read { .. } => true,
            Request::Write { keep, .. } => {
                self.copies > 0 && keep == Keep::default() && !self.shared.is_broken()
            }
            _ => false,
        }
    }

    /// Sends a request of several stripes piece by piece, each as a request of its own. Only where all members are well:
    /// elsewhere the pieces of a stripe are to be planned together, or the same would be read twice. False if something
    /// of it is left, which goes on as bands.
    pub(super) fn start_in_parts(&mut self, index: u32, port: &mut impl Port) -> bool {
        let Active { request, is_difficult, .. } = self.requests[index as usize];
        let (Request::Read { lba, sectors, .. } | Request::Write { lba, sectors, .. }) = request else {
            return false;
        };
        if is_difficult || self.is_part(index) || !self.needs_no_plan(&request) {
            return false;
        }
        self.refresh_view(port);
        if !self.view.is_whole() {
            return false;
        }
        loop {
            let done = Sectors(self.requests[index as usize].cut);
            let rest = sectors - done;
            if rest == Sectors(0) {
                return done > Sectors(0);
            }
            let Some(place) = self.geometry.locate(lba + done) else { return false };
            let rows = self.geometry.stripe(place.stripe).rows() - place.row;
            let len = rest.min(Sectors(rows.into()));
            if len == sectors {
                return false;
            }
            let Some(part) = self.free_parts.pop() else { return false };
            let (request, cookie) = (request.part(done, len), index.into());
            self.requests[part as usize] = Active::new(cookie, request, place);
            self.requests[index as usize].cut += len.0;
            self.requests[index as usize].left += 1;
            if !self.start_directly(part, port) {
                self.uncut.push_back(part);
            }
        }
    }

    /// Is it not a request but a part of one?
    pub(super) fn is_part(&self, index: u32) -> bool {
        index as usize >= self.limits.requests
    }

    fn read_directly(
        &mut self,
        index: u32,
        place: Place,
        sectors: Sectors,
        memory: Bytes,
        port: &mut impl Port,
    ) -> bool {
        self.refresh_view(port);
        let (stripe, copies) = (place.stripe, self.geometry.copies());
        let Some(rows) = rows_from(self.geometry.rows(stripe), place.row, sectors) else { return false };
        let nth = |index| self.geometry.cell(stripe, index);
        let cell = match copies > 1 && self.is_plain {
            true => nth(self.legs.choose_of((0..copies).map(nth), rows)),
            false => nth(place.cell),
        };
        let is_well = self.is_plain || (copies == 1 && self.view.members[cell.slot.index()].is_well());
        let (slot, at) = if is_well {
            (cell.slot, cell.at + Sectors(u64::from(rows.start)))
        } else {
            let piece = Piece { data: place.cell, rows };
            match self.who_has(stripe, piece) {
                Some(found) => found,
                None => return self.read_sum(index, stripe, piece, memory, port),
            }
        };
        let locks = &self.shared.locks;
        let seen = (copies > 1).then(|| locks.observe(stripe, locks.mask(rows)));
        if seen == Some(None) {
            return false;
        }
        port.read(tag(DIRECT, 0) | u64::from(index), slot, at, memory);
        self.legs.begin(slot, at, rows.len());
        self.begin_direct(index, 1, Direct { stripe, kind: Kind::Read { slot, at, seen: seen.flatten() } })
    }

    /// Who has a piece as it is, and where; for views that say something.
    #[inline(never)]
    fn who_has(&self, stripe: Stripe, piece: Piece) -> Option<(Slot, MemberLba)> {
        let map = self.geometry.stripe(stripe);
        plan::direct(&map, &self.view, self.legs.choose(&map, piece.rows), piece)
    }

    /// Reads what a lost disk had: the others, to be summed up.
    fn read_sum(
        &mut self,
        index: u32,
        stripe: Stripe,
        piece: Piece,
        memory: Bytes,
        port: &mut impl Port,
    ) -> bool {
        // (Bands that wait come first, for they may wait for memory. What is longer than a band has to be cut.)
        if self.sources == 0
            || self.sums == MOST_SUMS
            || self.has_enough_to_sum()
            || !self.waiting.is_empty()
            || piece.rows.len() > self.limits.band_rows
        {
            return false;
        }
        let map = self.geometry.stripe(stripe);
        let Some(sources) = plan::summed(&map, &self.view, piece) else { return false };
        let locks = &self.shared.locks;
        let Some(seen) = locks.observe(stripe, locks.mask(piece.rows)) else { return false };
        if self.shared.epoch() != self.view.epoch {
            return false;
        }
        let lanes = match self.sources {
            1 => None,
            count => match port.alloc(u32::from(count - 1) * memory.len) {
                None => return false,
                lanes => lanes,
            },
        };
        let first = self.first_taken(index);
        for (n, (slot, at)) in (0u16..).zip(sources) {
            let into = n.checked_sub(1).map_or(memory, |lane| lane_of(lanes, lane, memory.len));
            self.taken[first + usize::from(n)].0 = slot;
            port.read(tag(DIRECT, n) | u64::from(index), slot, at, into);
            self.legs.begin(slot, at, piece.rows.len());
        }
        self.sums += 1;
        self.unsummed += u64::from(self.sources) * u64::from(memory.len);
        let kind = Kind::Sum { seen, lanes, failed: false };
        self.begin_direct(index, self.sources, Direct { stripe, kind })
    }

    /// The reads of a sum are back.
    fn sum_up(&mut self, index: u32, memory: Bytes, lanes: Option<u32>, good: bool, port: &mut impl Port) {
        (self.directs, self.sums) = (self.directs - 1, self.sums - 1);
        self.unsummed -= u64::from(self.sources) * u64::from(memory.len);
        if good && lanes.is_some() {
            let mut terms = (0..self.sources - 1).map(|lane| (lane_of(lanes, lane, memory.len), [1; 2]));
            port.fold(&[memory], &mut terms, true);
        }
        if let Some(lanes) = lanes {
            port.free(lanes);
        }
        if good {
            return self.answer(index);
        }
        self.requests[index as usize].is_difficult = true;
        self.uncut.push_back(index);
    }

    /// Where the places in [`taken`](Engine::taken) of a request begin.
    fn first_taken(&self, index: u32) -> usize {
        index as usize * usize::from(self.copies.max(self.sources))
    }

    fn write_directly(
        &mut self,
        index: u32,
        place: Place,
        sectors: Sectors,
        memory: Bytes,
        fua: bool,
        port: &mut impl Port,
    ) -> bool {
        self.refresh_view(port);
        let stripe = place.stripe;
        let Some(rows) = rows_from(self.geometry.rows(stripe), place.row, sectors) else { return false };
        let redundant = self.copies > 1;
        if !(self.is_plain || self.is_plain_everywhere(stripe, rows))
            || (redundant && !self.shared.begin_write(self.queue))
        {
            return false;
        }
        let intent = self.shared.intent();
        let regions = intent.and_then(|intent| {
            let regions = intent.regions(self.positions(stripe, rows));
            intent.begin(regions).then_some(regions)
        });
        let counted = regions.is_some() == intent.is_some() || planted(Bug::BitSetLate);
        let mask = self.shared.locks.mask(rows);
        let locked = counted && self.shared.locks.try_lock(stripe, mask);
        // With the lock, and only then, the view may be acted on.
        if !locked || self.shared.epoch() != self.view.epoch {
            let rows = locked.then_some(mask);
            if self.shared.let_go(self.queue, stripe, rows, redundant, regions) {
                port.wake_others();
            }
            return false;
        }
        let first = self.first_taken(index);
        for (copy, taken) in (0..self.copies).zip(&mut self.taken[first..]) {
            let cell = self.geometry.cell(stripe, copy);
            let at = cell.at + Sectors(u64::from(rows.start));
            self.legs.begin_other(cell.slot);
            let tag = tag(DIRECT, copy) | u64::from(index);
            *taken = (cell.slot, port.write(tag, cell.slot, at, memory, fua));
        }
        let kind = Kind::Write { mask, regions, failed: 0 };
        self.begin_direct(index, self.copies, Direct { stripe, kind })
    }

    /// Can rows be written alike to all who have them? For views that say something.
    #[inline(never)]
    fn is_plain_everywhere(&self, stripe: Stripe, rows: Rows) -> bool {
        plan::is_plain_everywhere(&self.geometry.stripe(stripe), &self.view, rows)
    }

    /// Rows of a stripe as md counts them for the write-intent bitmap.
    #[inline(never)]
    fn positions(&self, stripe: Stripe, rows: Rows) -> Range<u64> {
        let start = self.geometry.stripe(stripe).sync_start();
        start + u64::from(rows.start)..start + u64::from(rows.end)
    }

    fn begin_direct(&mut self, index: u32, operations: u16, direct: Direct) -> bool {
        self.directs += 1;
        self.requests[index as usize].left = operations.into();
        self.direct[index as usize] = direct;
        true
    }

    /// Such a request has ended, on one of its members.
    pub(super) fn complete_direct(&mut self, index: u32, copy: u16, ok: bool, port: &mut impl Port) {
        let taken = self.first_taken(index);
        let Direct { stripe, kind } = &mut self.direct[index as usize];
        let (stripe, active) = (*stripe, &mut self.requests[index as usize]);
        active.left -= 1;
        match kind {
            Kind::Read { slot, at, seen } => {
                self.directs -= 1;
                self.legs.end(*slot);
                if let (false, Request::Read { sectors, .. }) = (ok, active.request) {
                    active.fault = Some(*slot);
                    port.read_failed(*slot, *at, sectors);
                }
                let undisturbed = seen.is_none_or(|seen| self.shared.locks.unchanged(stripe, seen));
                if ok && undisturbed {
                    return self.answer(index);
                }
                active.is_difficult = true;
                self.uncut.push_back(index);
            }
            Kind::Sum { seen, lanes, failed } => {
                let Request::Read { sectors, memory, .. } = active.request else { return };
                let (slot, _) = self.taken[taken + usize::from(copy)];
                self.legs.end(slot);
                if !ok {
                    *failed = true;
                    active.fault = Some(slot);
                    // (With parity all cells of a stripe are at the same place.)
                    let at = self.geometry.stripe(stripe).cell(0).at;
                    port.read_failed(slot, at + Sectors(active.place.row.into()), sectors);
                }
                if active.left == 0 {
                    let good = !*failed && self.shared.locks.unchanged(stripe, *seen);
                    let lanes = *lanes;
                    self.sum_up(index, memory, lanes, good, port);
                }
            }
            Kind::Write { mask, regions, failed } => {
                let (slot, _) = self.taken[taken + usize::from(copy)];
                self.legs.end(slot);
                *failed |= u32::from(!ok) << copy;
                if active.left > 0 {
                    return;
                }
                if *failed != 0 {
                    self.failed_directs.push(index);
                    return self.adopt_failed(port);
                }
                self.directs -= 1;
                let counted = self.geometry.is_redundant();
                if self.shared.let_go(self.queue, stripe, Some(*mask), counted, *regions) {
                    port.wake_others();
                }
                self.answer(index);
            }
        }
    }

    /// Makes direct writes that failed somewhere bands whose writes have just ended, as far as there is room for these.
    pub(super) fn adopt_failed(&mut self, port: &mut impl Port) {
        while let Some(&index) = self.failed_directs.last() {
            let Direct { stripe, kind: Kind::Write { mask, regions, failed } } = self.direct[index as usize]
            else {
                return;
            };
            let active = &self.requests[index as usize];
            let (place, Request::Write { sectors, memory, keep, fua, .. }) = (active.place, active.request)
            else {
                return;
            };
            let Some(number) = self.take_any_op(OpKind::Write, stripe) else { return };
            self.failed_directs.pop();
            self.directs -= 1;
            self.attach(number, Some(index), memory, keep);
            let first = self.first_taken(index);
            let op = &mut self.ops[number as usize];
            let rows = Rows::new(place.row, place.row + sectors.0 as u32);
            op.pieces.push(Piece { data: place.cell, rows });
            plan::write_all_copies(&self.geometry.stripe(stripe), rows, &mut op.plan);
            for (copy, &(slot, holder)) in self.taken[first..].iter().take(self.copies.into()).enumerate() {
                op.holders.push(holder);
                if failed >> copy & 1 == 1 {
                    op.failed.push((slot, holder));
                    op.failed_writes.push(copy as u32);
                }
            }
            (op.mask, op.locked, op.fua) = (mask, true, fua);
            (op.counted, op.regions) = (self.geometry.is_redundant(), regions);
            op.state = State::Scatter;
            self.scattered(number as usize, port);
        }
    }

    /// What is known of the rows of a request's piece from a direct read that failed.
    pub(super) fn fault_of(&self, index: u32, rows: Rows) -> Option<Fault> {
        self.requests[index as usize].fault.map(|slot| Fault { slot, rows })
    }
}

/// Of memory for several reads of `len` bytes, that for one of them.
fn lane_of(lanes: Option<u32>, lane: u16, len: u32) -> Bytes {
    Bytes { region: lanes.unwrap_or(u32::MAX), offset: u32::from(lane) * len, len }
}

/// So many rows of a stripe that has `all`, if they are in it.
#[inline(always)]
fn rows_from(all: u32, row: u32, sectors: Sectors) -> Option<Rows> {
    let end = u64::from(row) + sectors.0;
    (end <= u64::from(all)).then(|| Rows::new(row, end as u32))
}
