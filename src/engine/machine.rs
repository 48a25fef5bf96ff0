//! The engine itself. See the text of [`super`] for its grammar and the life of an operation.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::direct::{DIRECT, Direct, MOST_COPIES, MOST_PARTS};
use super::legs::Legs;
use super::waiting::Waiting;
use super::{
    Bytes, Flushing, Holder, Keep, Note, Observed, Port, QueueId, RecordState, Regions, Reply, Request,
    Shared, Step, Trouble,
};
use crate::format::ppl::{Entry, MAX_ENTRIES};
use crate::geometry::{Geometry, Place};
use crate::plan::{self, Base, Buf, Fault, Fold, Heal, LogPart, Piece, Plan, Presence, Rows, View, Want};
use crate::planted::{Bug, planted};
use crate::units::{Lba, SECTOR, Sectors, Slot, SlotSet, Stripe};

/// Most pieces in one band.
const MAX_PIECES: usize = 64;

// Each piece begins and ends an entry at most: any band fits one record of the log.
const _: () = assert!(2 * MAX_PIECES < MAX_ENTRIES);

/// Stands in a tag where other operations have their index: the log's own writes and flushes, by slot.
const LOG_WRITE: usize = 0x7fff;
const LOG_FLUSH: usize = 0x7ffe;

// No band has a number like these.
const _: () = assert!(DIRECT < LOG_FLUSH && LOG_FLUSH < LOG_WRITE);

/// The place of what has none.
const NOWHERE: Place = Place { stripe: Stripe(0), cell: 0, row: 0 };

/// Limits of one engine, fixed when it is made.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests taken before `submit` says full.
    pub requests: usize,
    /// Bands in flight.
    pub bands: usize,
    /// Rows in a band: what fits the scratch memory. A multiple of the LU's block; with a log also of [`plan::LOG_ROWS`], and
    /// no more than a record has room for.
    pub band_rows: u32,
    /// The LU's block, in sectors.
    pub block: u32,
    /// Nothing may be written, not even a repair.
    pub read_only: bool,
    /// Bytes that may be under way to be summed up before no more are asked for. Where disks answer while they are asked,
    /// having more under way gains nothing, and what was read should be in the CPU's cache still when it is summed up.
    pub unsummed: u64,
}

/// One queue's engine.
pub struct Engine {
    pub(super) geometry: Arc<Geometry>,
    pub(super) shared: Arc<Shared>,
    pub(super) queue: QueueId,
    pub(super) limits: Limits,
    pub(super) view: Arc<View>,
    /// The view says nothing of anybody: all members are well, and none is better than another.
    pub(super) is_plain: bool,
    pub(super) requests: Vec<Active>,
    free_requests: Vec<u32>,
    /// Places behind those of requests, for pieces of them that are sent each by itself.
    pub(super) free_parts: Vec<u32>,
    /// Requests not yet cut into bands to their end, oldest first.
    pub(super) uncut: VecDeque<u32>,
    /// By request: what it is without a band, if that is all.
    pub(super) direct: Vec<Direct>,
    /// Such requests under way.
    pub(super) directs: usize,
    /// Those of them that are sums.
    pub(super) sums: usize,
    /// Copies of everything; zero if writes need more than these, or they are too many to be written directly.
    pub(super) copies: u16,
    /// Whose sum a lost cell is: all others of a stripe but Q. Zero if there is no parity, or they are too many.
    pub(super) sources: u16,
    /// By request, of such writes and sums, and copy or source: who has it in hand.
    pub(super) taken: Vec<(Slot, Holder)>,
    /// Such writes that failed and wait for a band that tells of it.
    pub(super) failed_directs: Vec<u32>,
    pub(super) ops: Vec<Op>,
    free_ops: Vec<u32>,
    /// Operations in `Intent`, `Lock` or `Memory`.
    pub(super) waiting: Waiting,
    holding: Vec<u32>,
    /// Operations in `Log`.
    logging: Vec<u32>,
    /// By number: the log's write and flush under way.
    log_flights: Vec<LogFlight>,
    /// By slot: writes of its record still under way, and whether its own disk has taken it.
    log_parts: Vec<(u8, bool)>,
    log_flying: usize,
    /// Flushes for the log that have ended and are not believed yet, or failed, and the failure is not durable.
    log_unflushed: Vec<LogFlushed>,
    /// Flushes under way here.
    flushing: Flushing,
    /// How many have ended here and are not believed yet, and whether that was announced.
    unsettled: usize,
    awaits_flushes: bool,
    /// Requests that have ended, until their replies are taken.
    ended: VecDeque<u32>,
    pub(super) legs: Legs,
    asleep_for_locks: bool,
    /// Bytes that are being read to be summed up.
    pub(super) unsummed: u64,
    /// Since the waiting operations were looked at last.
    something_ended: bool,
}

/// What the log has under way on a disk.
#[derive(Clone, Copy)]
struct LogFlight {
    /// Whom its write went to.
    writer: Holder,
    /// Whom its flush went to, the log's stamp of it, and when it began.
    flusher: Holder,
    stamp: u64,
    begun: u64,
}

/// A flush for the log that has ended.
#[derive(Clone, Copy)]
struct LogFlushed {
    slot: Slot,
    holder: Holder,
    stamp: u64,
    /// When it ended, while that matters.
    ended: Option<u64>,
}

/// A request under way, or a part of one.
#[derive(Clone, Copy)]
pub(super) struct Active {
    /// The client's; of a part, the place of its request.
    cookie: u64,
    pub(super) request: Request,
    /// Of its first sector.
    pub(super) place: Place,
    /// Sectors already cut into bands.
    pub(super) cut: u64,
    /// Pieces not finished.
    pub(super) left: u32,
    pub(super) trouble: Option<Trouble>,
    /// A direct read of it did not do.
    pub(super) is_difficult: bool,
    /// Who could not read it then; of several, the last.
    pub(super) fault: Option<Slot>,
}

impl Active {
    pub(super) fn new(cookie: u64, request: Request, place: Place) -> Active {
        Active { cookie, request, place, cut: 0, left: 0, trouble: None, is_difficult: false, fault: None }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Free,
    Intent,
    Lock,
    Memory,
    Gather,
    Log,
    Scatter,
    Hold,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Read,
    Write,
    Zero,
    Fill,
    Flush,
}

impl Kind {
    /// Does it bring new content?
    fn is_write(self) -> bool {
        matches!(self, Kind::Write | Kind::Zero)
    }
}

/// Who a piece belongs to and where its bytes are.
#[derive(Clone, Copy)]
struct Source {
    /// `None`: the engine's own work.
    request: Option<u32>,
    memory: Bytes,
    keep: Keep,
}

pub(super) struct Op {
    pub(super) state: State,
    kind: Kind,
    /// Tells completions of an earlier life of this place from those of the present one.
    life: u16,
    stripe: Stripe,
    pub(super) pieces: Vec<Piece>,
    sources: Vec<Source>,
    /// Pieces of other requests, set aside because the band as a whole could not be had; their turn comes later.
    aside: Vec<(Piece, Source)>,
    /// For `Fill`: its rows.
    fill: Rows,
    /// The blocks at the edges of unaligned writes, read before the write is planned.
    edges: Vec<Piece>,
    reading_edges: bool,
    pub(super) plan: Plan,
    faults: Vec<Fault>,
    /// The epoch in which what could not be read was given a second chance.
    looked_again: Option<u64>,
    fault_seen: bool,
    /// The log is to be told of it.
    told: bool,
    /// Bytes that are being read to be summed up.
    unsummed: u64,
    /// Redundancy agreed when it was planned.
    in_sync: bool,
    /// The slot with its parity, and its number in that slot's log, once the log knows of it.
    log: Option<(Slot, u64)>,
    /// Of a flush: for the log.
    stamp: u64,
    /// Of a flush: when it began, until its results have been looked at; then when it ended, until it is believed.
    begun: Option<u64>,
    ended: Option<u64>,
    /// Who took the writes (or flushes), in their order; and who failed to.
    pub(super) holders: Vec<Holder>,
    pub(super) failed: Vec<(Slot, Holder)>,
    /// Which writes failed, by their place in the plan.
    pub(super) failed_writes: Vec<u32>,
    /// The slots whose writes went out with FUA.
    stable: SlotSet,
    /// What has to be on record before the reply.
    notes: Vec<Note>,
    pub(super) mask: u32,
    pub(super) locked: bool,
    /// Must lock although it only reads: an unlocked read was disturbed.
    insist: bool,
    seen: Option<Observed>,
    pub(super) counted: bool,
    /// The regions it is counted in, where there is a write-intent bitmap.
    pub(super) regions: Option<Regions>,
    lanes: Option<u32>,
    left: u32,
    pub(super) fua: bool,
    trouble: Option<Trouble>,
}

impl Op {
    fn new(cells: usize, slots: usize) -> Op {
        Op {
            state: State::Free,
            kind: Kind::Read,
            life: 0,
            stripe: Stripe(0),
            pieces: Vec::with_capacity(MAX_PIECES),
            sources: Vec::with_capacity(MAX_PIECES),
            aside: Vec::with_capacity(MAX_PIECES),
            fill: Rows::default(),
            edges: Vec::with_capacity(2 * MAX_PIECES),
            reading_edges: false,
            plan: Plan::with_room_for_pieces(cells, MAX_PIECES),
            faults: Vec::with_capacity(4),
            looked_again: None,
            fault_seen: false,
            told: false,
            unsummed: 0,
            in_sync: false,
            log: None,
            stamp: 0,
            begun: None,
            ended: None,
            holders: Vec::with_capacity((2 * MAX_PIECES + 2 + 2 * cells).max(2 * slots)),
            failed: Vec::with_capacity(4),
            failed_writes: Vec::new(),
            stable: SlotSet::EMPTY,
            notes: Vec::new(),
            mask: 0,
            locked: false,
            insist: false,
            seen: None,
            counted: false,
            regions: None,
            lanes: None,
            left: 0,
            fua: false,
            trouble: None,
        }
    }

    /// Ready for a new band.
    fn reset(&mut self, kind: Kind, stripe: Stripe) {
        self.kind = kind;
        self.stripe = stripe;
        self.aside.clear();
        self.fill = Rows::default();
        self.faults.clear();
        self.looked_again = None;
        self.fua = false;
        self.restart();
    }

    /// Ready for other pieces of the same stripe, with what is known of it.
    fn restart(&mut self) {
        // A fill needs no mark: after a crash its rows are not taken to be in sync (or rebuilt) anyway.
        self.state = if self.kind.is_write() { State::Intent } else { State::Lock };
        self.life = self.life.wrapping_add(1);
        self.pieces.clear();
        self.sources.clear();
        self.edges.clear();
        self.reading_edges = false;
        self.fault_seen = false;
        self.told = false;
        self.log = None;
        self.holders.clear();
        self.failed.clear();
        self.failed_writes.clear();
        self.notes.clear();
        self.mask = 0;
        self.locked = false;
        self.insist = false;
        self.seen = None;
        self.counted = false;
        self.regions = None;
        self.lanes = None;
        self.left = 0;
        self.trouble = None;
    }

    /// Leaves only the pieces of one request in the band, so that what one of them asks for in vain does not fail the
    /// others. False if they are all of one request.
    fn set_others_aside(&mut self) -> bool {
        let Some(first) = self.sources.first().map(|source| source.request) else { return false };
        let before = self.sources.len();
        for i in (1..before).rev() {
            if self.sources[i].request != first {
                self.aside.push((self.pieces.remove(i), self.sources.remove(i)));
            }
        }
        self.edges.clear();
        self.reading_edges = false;
        self.sources.len() < before
    }

    /// Leaves only pieces in the band that one record of the log can tell; the others' turn comes when these are written.
    fn set_untellable_aside(&mut self) {
        let mut count = 1;
        while count < self.pieces.len() {
            if plan::expressible(&self.pieces[..=count]) {
                count += 1;
            } else {
                self.aside.push((self.pieces.remove(count), self.sources.remove(count)));
            }
        }
    }

    /// Goes on with the next request that was set aside. False if there is none.
    fn take_aside(&mut self) -> bool {
        let Some(next) = self.aside.last().map(|(_, source)| source.request) else { return false };
        self.restart();
        for i in (0..self.aside.len()).rev() {
            if self.aside[i].1.request == next {
                let (piece, source) = self.aside.remove(i);
                self.pieces.push(piece);
                self.sources.push(source);
            }
        }
        true
    }

    /// Turns into one that writes again what could not be read: a sector that is rewritten is usually well, and if not,
    /// the member fails. False if all could be read.
    fn become_repair(&mut self) -> bool {
        if self.faults.is_empty() || self.kind == Kind::Fill {
            return false;
        }
        self.kind = Kind::Fill;
        self.restart();
        self.fill = self.faults.iter().fold(Rows::default(), |hull, fault| hull.hull(fault.rows));
        true
    }

    /// What could not be read once may have been written again since, before another member failed: before it is called
    /// lost it is read once more. False if that has been done in this epoch, or nothing failed.
    fn look_again(&mut self, epoch: u64) -> bool {
        if self.faults.is_empty() || self.kind == Kind::Fill || self.looked_again == Some(epoch) {
            return false;
        }
        self.faults.clear();
        self.looked_again = Some(epoch);
        true
    }

    /// Never, but for a planted bug: a repair.
    fn goes_unlocked(&self) -> bool {
        planted(Bug::RepairWithoutLock) && self.kind == Kind::Fill && !self.faults.is_empty()
    }

    /// Writes failed and nothing stands in for who failed: what there is now, old or new or neither, must not be used to
    /// make up for what others lost. Once these rows are on record as bad, nobody does.
    fn note_torn_rows(&mut self, port: &mut impl Port) {
        for io in self.failed_writes.drain(..) {
            let (io, holder) = (self.plan.scatter[io as usize], self.holders[io as usize]);
            let sectors = Sectors(u64::from(io.rows.len()));
            let note = Note { slot: io.slot, holder, at: io.at, sectors, bad: true };
            if self.failed.contains(&(io.slot, holder)) {
                port.record(note);
                self.notes.push(note);
            }
        }
    }

    fn rows(&self) -> Rows {
        self.pieces.iter().fold(self.fill, |hull, piece| hull.hull(piece.rows))
    }
}

impl Engine {
    /// An engine for one queue of the LU. `view` is its present health.
    pub fn new(
        geometry: Arc<Geometry>,
        shared: Arc<Shared>,
        queue: QueueId,
        view: Arc<View>,
        limits: Limits,
    ) -> Engine {
        let cells = usize::from(geometry.cells());
        let slots = usize::from(geometry.slots());
        let request = Active::new(0, Request::Flush, NOWHERE);
        let is_direct = geometry.parities() == 0 && geometry.cells() <= MOST_COPIES;
        let copies = if is_direct { geometry.cells() } else { 0 };
        let is_summed = geometry.parities() > 0 && geometry.data_cells() <= MOST_COPIES;
        let sources = if is_summed { geometry.data_cells() } else { 0 };
        let places = limits.requests + MOST_PARTS;
        // One for direct writes that failed: all others may be waiting for the rows that these hold.
        let bands = limits.bands + usize::from(copies > 0);
        Engine {
            copies,
            sources,
            taken: alloc::vec![(Slot(0), Holder(0)); places * usize::from(copies.max(sources))],
            failed_directs: Vec::with_capacity(places),
            // Replacements have numbers of their own.
            legs: Legs::new(2 * usize::from(geometry.slots())),
            geometry,
            shared,
            queue,
            limits,
            is_plain: is_plain(&view),
            view,
            requests: alloc::vec![request; places],
            free_requests: (0..limits.requests as u32).rev().collect(),
            free_parts: (limits.requests as u32..places as u32).rev().collect(),
            uncut: VecDeque::with_capacity(places),
            direct: alloc::vec![Direct::NONE; places],
            directs: 0,
            sums: 0,
            ops: (0..bands).map(|_| Op::new(cells, slots)).collect(),
            free_ops: (0..bands as u32).rev().collect(),
            waiting: Waiting::new(bands),
            holding: Vec::with_capacity(bands),
            logging: Vec::with_capacity(bands),
            log_flights: alloc::vec![
                LogFlight { writer: Holder(0), flusher: Holder(0), stamp: 0, begun: 0 };
                2 * slots
            ],
            log_parts: alloc::vec![(0, true); slots],
            log_flying: 0,
            log_unflushed: Vec::with_capacity(2 * slots),
            flushing: Flushing::new(queue),
            unsettled: 0,
            awaits_flushes: false,
            ended: VecDeque::with_capacity(limits.requests),
            asleep_for_locks: false,
            unsummed: 0,
            something_ended: false,
        }
    }

    /// Takes a request; the reply carries `cookie`. Nothing is started before [`run`](Self::run).
    ///
    /// # Errors
    /// The request comes back if the engine is full: run it and take replies first.
    ///
    /// # Panics
    /// If a range reaches past the end of the LU: callers check that, because only they can say it well.
    #[inline(always)]
    pub fn submit(&mut self, cookie: u64, request: Request) -> Result<(), Request> {
        if let Request::Read { lba, sectors, .. }
        | Request::Write { lba, sectors, .. }
        | Request::Zero { lba, sectors } = request
        {
            let end = lba.0.checked_add(sectors.0);
            assert!(end.is_some_and(|end| end <= self.geometry.size().0), "request past the end");
        }
        let Some(index) = self.free_requests.pop() else { return Err(request) };
        if !matches!(request, Request::Fill { .. }) {
            self.shared.note_request(self.queue);
        }
        let place = match request {
            Request::Read { lba, .. } | Request::Write { lba, .. } => self.geometry.locate(lba),
            _ => None,
        };
        if let Some(place) = place
            && (matches!(request, Request::Write { .. }) || self.geometry.copies() > 1)
        {
            // Its rows will be locked or looked at.
            self.shared.locks.touch(place.stripe);
        }
        self.requests[index as usize] = Active::new(cookie, request, place.unwrap_or(NOWHERE));
        self.uncut.push_back(index);
        Ok(())
    }

    /// Forms bands from what was submitted and starts everything that can start.
    pub fn run(&mut self, port: &mut impl Port) {
        self.look_at_held(port);
        loop {
            // Before others take the bands that have become free: these hold rows.
            self.adopt_failed(port);
            self.cut(port);
            self.start_waiting(port);
            // What came to its end may have made room.
            while !self.uncut.is_empty() && self.has_room_for_band() {
                self.cut(port);
                self.start_waiting(port);
            }
            self.drive_log(port);
            self.await_flushes(port);
            if !self.something_ended {
                return;
            }
        }
    }

    /// A disk operation is done. `ok` tells whether all its bytes were moved.
    pub fn complete(&mut self, tag: u64, ok: bool, port: &mut impl Port) {
        let (index, life, io) = ((tag >> 48) as usize, (tag >> 32) as u16, tag as u32 as usize);
        if index >= LOG_FLUSH {
            return self.complete_log(index, Slot(io as u16), ok, port);
        }
        if index == DIRECT {
            return self.complete_direct(io as u32, life, ok, port);
        }
        let Some(op) = self.ops.get_mut(index).filter(|op| op.life == life && op.left > 0) else {
            debug_assert!(false, "completion of nothing");
            return;
        };
        op.left -= 1;
        match op.state {
            State::Gather => {
                let io = op.plan.gather[io];
                self.legs.end(io.slot);
                if !ok {
                    op.faults.push(Fault { slot: io.slot, rows: io.rows });
                    op.fault_seen = true;
                    port.read_failed(io.slot, io.at, Sectors(u64::from(io.rows.len())));
                }
                if op.left == 0 {
                    self.gathered(index, port);
                }
            }
            State::Scatter => {
                // A flush has no plan: its operations are numbered by slot.
                let slot = if op.kind == Kind::Flush { Slot(io as u16) } else { op.plan.scatter[io].slot };
                self.legs.end(slot);
                let failure = (slot, op.holders[io]);
                let ok = ok || (op.kind == Kind::Flush && planted(Bug::FlushRetried));
                if !ok && !op.failed.contains(&failure) {
                    op.failed.push(failure);
                }
                if !ok && op.kind == Kind::Flush {
                    self.shared.flushes.note_failed(slot, failure.1);
                }
                if !ok {
                    op.failed_writes.push(io as u32);
                }
                if op.left == 0 {
                    self.scattered(index, port);
                }
            }
            state => debug_assert!(false, "completion in {state:?}"),
        }
    }

    /// The next finished request. Only now there is room for another.
    #[inline(always)]
    pub fn reply(&mut self) -> Option<Reply> {
        let index = self.ended.pop_front()?;
        self.free_requests.push(index);
        let Active { cookie, ref request, trouble, .. } = self.requests[index as usize];
        let memory = match *request {
            Request::Read { memory, .. } | Request::Write { memory, .. } => Some(memory),
            _ => None,
        };
        Some(Reply { cookie, memory, result: trouble.map_or(Ok(()), Err) })
    }

    /// Is there a finished request?
    pub fn has_replies(&self) -> bool {
        !self.ended.is_empty()
    }

    /// Nothing submitted is unfinished (replies may still wait to be taken).
    pub fn is_idle(&self) -> bool {
        self.free_ops.len() == self.ops.len()
            && self.uncut.is_empty()
            && self.directs == 0
            && self.log_flying == 0
    }

    /// Does it wait for rows, or flushes, that other queues have in hand?
    pub fn waits_for_others(&self) -> bool {
        self.asleep_for_locks || self.awaits_flushes
    }

    /// The owner is about to flush disks by itself: see [`Flushes::begin`](super::Flushes::begin).
    pub fn begin_flush(&mut self) -> u64 {
        self.shared.flushes.begin(&mut self.flushing)
    }

    /// It has looked at the results: see [`Flushes::end`](super::Flushes::end).
    #[must_use = "who waits must be woken"]
    pub fn end_flush(&mut self, begun: u64) -> bool {
        self.shared.flushes.end(&mut self.flushing, begun)
    }

    /// Could [`submit`](Self::submit) take one more?
    pub fn has_room(&self) -> bool {
        !self.free_requests.is_empty()
    }

    // --- requests into bands --------------------------------------------------------------------------------------

    fn cut(&mut self, port: &mut impl Port) {
        while let Some(&index) = self.uncut.front() {
            if self.start_directly(index, port) || self.start_in_parts(index, port) {
                self.uncut.pop_front();
                continue;
            }
            if !self.cut_request(index, port) {
                return;
            }
            self.uncut.pop_front();
            if self.requests[index as usize].left == 0 {
                self.answer(index);
            }
        }
    }

    /// Cuts a request to its end; false if there is no room for another band.
    fn cut_request(&mut self, index: u32, port: &mut impl Port) -> bool {
        let active = self.requests[index as usize];
        match active.request {
            Request::Flush => {
                let Some(op) = self.take_op(Kind::Flush, Stripe(0)) else { return false };
                self.attach(op, Some(index), Bytes::NONE, Keep::default());
                self.start_flush(op as usize, port);
                true
            }
            Request::Fill { stripe, rows } => {
                let end = rows.end.min(self.geometry.stripe(stripe).rows());
                while rows.start + (self.requests[index as usize].cut as u32) < end {
                    let start = rows.start + self.requests[index as usize].cut as u32;
                    let window = Rows::new(start, end.min(self.window_end(start)));
                    let Some(op) = self.take_op(Kind::Fill, stripe) else { return false };
                    self.ops[op as usize].fill = window;
                    self.attach(op, Some(index), Bytes::NONE, Keep::default());
                    self.wait(op);
                    self.requests[index as usize].cut += u64::from(window.len());
                }
                true
            }
            Request::Read { lba, sectors, memory } => {
                self.cut_range(index, Kind::Read, lba, sectors, memory, false, Keep::default())
            }
            Request::Write { lba, sectors, memory, fua, keep } => {
                self.cut_range(index, Kind::Write, lba, sectors, memory, fua, keep)
            }
            Request::Zero { lba, sectors } => {
                self.cut_range(index, Kind::Zero, lba, sectors, Bytes::NONE, false, Keep::default())
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of three request kinds that are cut alike")]
    fn cut_range(
        &mut self,
        index: u32,
        kind: Kind,
        lba: Lba,
        sectors: Sectors,
        memory: Bytes,
        fua: bool,
        keep: Keep,
    ) -> bool {
        loop {
            let done = self.requests[index as usize].cut;
            if done >= sectors.0 {
                return true;
            }
            let Some(place) = self.geometry.locate(lba + Sectors(done)) else { return true };
            let stripe_rows = self.geometry.stripe(place.stripe).rows();
            let end = u64::from(stripe_rows.min(self.window_end(place.row)));
            let end = end.min(u64::from(place.row) + (sectors.0 - done)) as u32;
            let piece = Piece { data: place.cell, rows: Rows::new(place.row, end) };
            let length = u64::from(piece.rows.len());
            let Some(op) = self.band_for(kind, place.stripe, piece) else { return false };
            let memory = match kind {
                Kind::Zero => Bytes::NONE,
                _ => memory.slice((done * SECTOR) as u32, (length * SECTOR) as u32),
            };
            let keep = Keep {
                head: if done == 0 { keep.head } else { 0 },
                tail: if done + length == sectors.0 { keep.tail } else { 0 },
            };
            self.attach(op, Some(index), memory, keep);
            let fault = self.fault_of(index, piece.rows);
            let op = &mut self.ops[op as usize];
            op.faults.extend(fault);
            op.pieces.push(piece);
            op.fua |= fua;
            self.requests[index as usize].cut += length;
        }
    }

    /// The row at which the band that holds `row` ends.
    fn window_end(&self, row: u32) -> u32 {
        (row / self.limits.band_rows + 1).saturating_mul(self.limits.band_rows)
    }

    /// A band that still waits and can take `piece`, or a new one.
    fn band_for(&mut self, kind: Kind, stripe: Stripe, piece: Piece) -> Option<u32> {
        let window = piece.rows.start / self.limits.band_rows;
        let ops = &self.ops;
        let joins = |&&index: &&u32| {
            let op = &ops[index as usize];
            op.kind == kind
                && op.stripe == stripe
                && matches!(op.state, State::Intent | State::Lock)
                && !op.insist
                && op.aside.is_empty()
                && op.pieces.len() < MAX_PIECES
                && op.rows().start / self.limits.band_rows == window
                && !op.pieces.iter().any(|p| p.data == piece.data && p.rows.overlaps(piece.rows))
        };
        // A write and a zeroing of the same rows keep their order, too.
        let bars = |&index: &u32| {
            let op = &ops[index as usize];
            op.kind != kind
                && op.kind.is_write()
                && kind.is_write()
                && op.stripe == stripe
                && op.rows().overlaps(piece.rows)
        };
        // The newest first: a later write must not slip in before an earlier one to the same rows.
        if self.waiting.may_have(stripe)
            && let Some(&index) = self.waiting.iter().rev().take_while(|&index| !bars(index)).find(joins)
        {
            return Some(index);
        }
        let index = self.take_op(kind, stripe)?;
        self.wait(index);
        Some(index)
    }

    fn wait(&mut self, index: u32) {
        self.waiting.push_back(index, self.ops[index as usize].stripe);
    }

    fn take_op(&mut self, kind: Kind, stripe: Stripe) -> Option<u32> {
        if !self.has_room_for_band() {
            return None;
        }
        self.take_any_op(kind, stripe)
    }

    /// Is there a free operation but for the one that failed direct writes need?
    fn has_room_for_band(&self) -> bool {
        self.free_ops.len() > self.ops.len() - self.limits.bands
    }

    /// The same, and if it is the last.
    pub(super) fn take_any_op(&mut self, kind: Kind, stripe: Stripe) -> Option<u32> {
        let index = self.free_ops.pop()?;
        self.ops[index as usize].reset(kind, stripe);
        Some(index)
    }

    pub(super) fn attach(&mut self, op: u32, request: Option<u32>, memory: Bytes, keep: Keep) {
        self.ops[op as usize].sources.push(Source { request, memory, keep });
        if let Some(request) = request {
            self.requests[request as usize].left += 1;
        }
    }

    // --- starting -------------------------------------------------------------------------------------------------

    fn start_waiting(&mut self, port: &mut impl Port) {
        self.try_waiting(port);
        let lock = |&index: &u32| self.ops[index as usize].state == State::Lock;
        let blocked = !self.has_enough_to_sum() && self.waiting.iter().any(lock);
        if blocked && !self.asleep_for_locks {
            // Announce, then look once more: a lock given back in between would wake nobody.
            self.shared.locks.sleep();
            self.asleep_for_locks = true;
            self.try_waiting(port);
        } else if !blocked && self.asleep_for_locks {
            self.shared.locks.awake();
            self.asleep_for_locks = false;
        }
    }

    /// Tries every waiting operation once more, as long as one of them ending lets another begin.
    fn try_waiting(&mut self, port: &mut impl Port) {
        self.something_ended = true;
        while core::mem::take(&mut self.something_ended) {
            for _ in 0..self.waiting.begin_turn() {
                let Some(index) = self.waiting.pop_front() else { break };
                // (All take their turn, so that they stay in order.)
                if self.has_enough_to_sum() || !self.start(index as usize, port) {
                    self.wait(index);
                }
            }
        }
    }

    /// Then what waits is started when that is done.
    pub(super) fn has_enough_to_sum(&self) -> bool {
        self.unsummed >= self.limits.unsummed
    }

    /// Takes an operation from its waiting state as far as it goes; false if it has to wait on.
    fn start(&mut self, index: usize, port: &mut impl Port) -> bool {
        let op = &mut self.ops[index];
        if op.state == State::Intent {
            if self.shared.is_broken() {
                op.trouble = Some(Trouble::Broken);
                self.finish(index, port);
                return true;
            }
            op.state = State::Lock;
        }
        // Pieces may have joined since it was counted in.
        if op.kind.is_write() && op.state == State::Lock && !op.locked && !self.count_in(index) {
            port.ask_dirty();
            return false;
        }
        let op = &mut self.ops[index];
        if op.state == State::Lock {
            if !op.locked {
                // Pieces may have joined since the last attempt.
                let rows = if self.view.logs { op.rows().logged() } else { op.rows() };
                op.mask = self.shared.locks.mask(rows);
            }
            if op.kind == Kind::Read && !self.geometry.is_redundant() {
                // One copy of everything: the disk itself keeps the order. (Not so for writes: an unaligned one reads
                // its edges first, and must not undo what is written to them meanwhile.)
            } else if op.kind == Kind::Read && !op.insist {
                op.seen = self.shared.locks.observe(op.stripe, op.mask);
                if op.seen.is_none() {
                    return false;
                }
            } else if !op.locked && !op.goes_unlocked() {
                if !self.shared.locks.try_lock(op.stripe, op.mask) {
                    return false;
                }
                op.locked = true;
            }
        }
        self.plan_and_gather(index, port)
    }

    /// Counts a write in, with the LU and with the regions of its rows. If a mark is missing it is wanted from then on, and
    /// the write is back in `Intent`.
    fn count_in(&mut self, index: usize) -> bool {
        let op = &mut self.ops[index];
        let marked = op.counted || self.shared.begin_write(self.queue);
        op.counted = marked;
        if let Some(map) = self.shared.intent() {
            let start = self.geometry.stripe(op.stripe).sync_start();
            let rows = op.rows();
            let regions = map.regions(start + u64::from(rows.start)..start + u64::from(rows.end));
            if !marked {
                // One round writes both marks.
                map.want(regions);
            } else if op.regions != Some(regions) {
                if let Some(before) = op.regions.take() {
                    map.end(before);
                }
                op.regions = map.begin(regions).then_some(regions);
            }
        }
        let all_set = op.regions.is_some() == self.shared.intent().is_some() || planted(Bug::BitSetLate);
        let ready = marked && all_set;
        if !ready {
            op.state = State::Intent;
        }
        ready
    }

    /// Plans and starts the reads. False if scratch memory is short: the operation then waits for some.
    fn plan_and_gather(&mut self, index: usize, port: &mut impl Port) -> bool {
        self.refresh_view(port);
        let block = self.limits.block;
        let op = &mut self.ops[index];
        if op.kind.is_write() && self.view.logs {
            op.set_untellable_aside();
        }
        if op.kind == Kind::Write && op.edges.is_empty() && !op.reading_edges {
            let unaligned = op.pieces.iter().zip(&op.sources).filter(|(_, s)| s.keep != Keep::default());
            for (piece, source) in unaligned {
                edge_blocks(piece, source.keep, block, &mut op.edges);
            }
            op.reading_edges = !op.edges.is_empty();
        }
        let map = self.geometry.stripe(op.stripe);
        let want = match op.kind {
            _ if op.reading_edges => Want::Read(&op.edges),
            Kind::Read => Want::Read(&op.pieces),
            Kind::Write => Want::Write(&op.pieces),
            Kind::Zero => Want::Zero(&op.pieces),
            Kind::Fill | Kind::Flush => Want::Fill(op.fill),
        };
        let leg = self.legs.choose(&map, op.rows());
        if let Err(lost) = plan::plan(&map, &self.view, &op.faults, leg, want, &mut op.plan) {
            if op.look_again(self.view.epoch) || op.set_others_aside() {
                return self.plan_and_gather(index, port);
            }
            op.trouble = Some(lost.into());
            self.finish(index, port);
            return true;
        }
        let lane = op.plan.lane_rows() * SECTOR as u32;
        let edges = if op.reading_edges { op.edges.len() as u32 * block * SECTOR as u32 } else { 0 };
        let bytes = u32::from(op.plan.lanes) * lane + edges;
        if bytes > 0 {
            op.lanes = port.alloc(bytes);
            if op.lanes.is_none() {
                op.state = State::Memory;
                return false;
            }
        }
        op.state = State::Gather;
        // What fills in rows that are in sync writes what is there already.
        op.in_sync = self.view.synced_below == u64::MAX;
        let news = op.kind.is_write() || !op.in_sync;
        op.told = self.view.logs && news && op.kind != Kind::Read && !op.reading_edges;
        op.left = op.plan.gather.len() as u32;
        if !op.plan.fold.is_empty() {
            op.unsummed = op.plan.gather.iter().map(|io| u64::from(io.rows.len()) * SECTOR).sum();
            self.unsummed += op.unsummed;
        }
        let tag = tag(index, op.life);
        for (i, io) in op.plan.gather.iter().enumerate() {
            let bytes = resolve(op, block, io.buf, io.rows.len());
            self.legs.begin(io.slot, io.at, io.rows.len());
            port.read(tag | i as u64, io.slot, io.at, bytes);
        }
        if op.left == 0 {
            self.gathered(index, port);
        }
        true
    }

    pub(super) fn refresh_view(&mut self, port: &mut impl Port) {
        if self.shared.epoch() != self.view.epoch {
            self.view = port.view();
            self.is_plain = is_plain(&self.view);
        }
    }

    // --- stages ---------------------------------------------------------------------------------------------------

    /// All reads are back: fold, then write, or plan again around what could not be read.
    fn gathered(&mut self, index: usize, port: &mut impl Port) {
        let block = self.limits.block;
        let op = &mut self.ops[index];
        self.unsummed -= core::mem::take(&mut op.unsummed);
        if core::mem::take(&mut op.fault_seen) {
            if !self.geometry.is_redundant() {
                let slot = op.faults.pop().map(|fault| fault.slot);
                op.faults.clear();
                if op.set_others_aside() {
                    return self.again(index, port);
                }
                op.trouble = slot.map(Trouble::Member);
                return self.finish(index, port);
            }
            return self.again(index, port);
        }
        for fold in &op.plan.fold {
            run_fold(op, block, fold, port);
        }
        if op.reading_edges {
            merge_edges(op, block, port);
            op.reading_edges = false;
            // The write itself starts afresh: it may well succeed where a read just failed.
            return self.again(index, port);
        }
        if op.kind == Kind::Read {
            let undisturbed = op.locked
                || op.seen.is_none_or(|seen| self.shared.locks.unchanged(op.stripe, seen))
                || (op.plan.is_direct_read() && self.geometry.copies() == 1);
            if undisturbed {
                return self.finish(index, port);
            }
            op.insist = true;
            op.state = State::Lock;
            return self.again(index, port);
        }
        let op = &self.ops[index];
        if op.told && !self.enter_log(index, port) {
            return;
        }
        self.scatter(index, port);
    }

    /// Starts the writes.
    fn scatter(&mut self, index: usize, port: &mut impl Port) {
        let block = self.limits.block;
        let op = &mut self.ops[index];
        op.state = State::Scatter;
        op.holders.clear();
        op.stable = SlotSet::EMPTY;
        op.left = op.plan.scatter.len() as u32;
        // The next record has to wait until these writes are durable.
        let logged = op.log.is_some() && !op.plan.log.is_empty();
        let tag = tag(index, op.life);
        for (i, io) in op.plan.scatter.iter().enumerate() {
            self.legs.begin_other(io.slot);
            let (tag, sectors) = (tag | i as u64, io.rows.len());
            let holder = if io.buf.base == Base::Zero {
                port.zero(tag, io.slot, io.at, Sectors(sectors.into()))
            } else {
                let fua = op.fua || (logged && port.prefers_fua(io.slot));
                if fua {
                    op.stable.insert(io.slot);
                }
                port.write(tag, io.slot, io.at, resolve(op, block, io.buf, sectors), fua)
            };
            op.holders.push(holder);
        }
        if op.left == 0 {
            self.scattered(index, port);
        }
    }

    /// Frees the memory and plans once more.
    fn again(&mut self, index: usize, port: &mut impl Port) {
        if let Some(region) = self.ops[index].lanes.take() {
            port.free(region);
        }
        if !self.start(index, port) {
            self.wait(index as u32);
        }
    }

    /// All writes are done. If one failed, the member is reported and the reply held; so it is if blocks that were bad are
    /// good now, until that is on record.
    pub(super) fn scattered(&mut self, index: usize, port: &mut impl Port) {
        if self.ops[index].kind == Kind::Flush {
            self.flush_ended(index, port);
            if !self.is_flush_believed(index, port) {
                self.unsettled += 1;
                self.ops[index].state = State::Hold;
                self.holding.push(index as u32);
                return;
            }
        }
        let op = &mut self.ops[index];
        let heals = if op.kind.is_write() { &op.plan.heals[..] } else { &[] };
        if op.failed.is_empty() && heals.is_empty() {
            return self.finish(index, port);
        }
        for &(slot, holder) in &op.failed {
            port.member_failed(slot, holder);
        }
        if planted(Bug::AckBeforeFailureDurable) {
            return self.finish(index, port);
        }
        let well = |heal: &&Heal| op.failed.iter().all(|&(slot, _)| slot != heal.slot);
        for heal in heals.iter().filter(well) {
            let Heal { slot, at, sectors } = *heal;
            let note = Note { slot, holder: port.holder(slot), at, sectors, bad: false };
            port.record(note);
            op.notes.push(note);
        }
        op.state = State::Hold;
        self.holding.push(index as u32);
        self.look_at_held(port);
    }

    /// The results of a flush have been looked at.
    fn flush_ended(&mut self, index: usize, port: &mut impl Port) {
        let flushes = &self.shared.flushes;
        if let Some(begun) = self.ops[index].begun.take()
            && flushes.end(&mut self.flushing, begun)
        {
            port.wake_others();
        }
        self.ops[index].ended = Some(flushes.now());
    }

    /// Is it known by now whether a flush that has ended failed, also from what other queues were told? Who failed it is then
    /// in its list.
    fn is_flush_believed(&mut self, index: usize, port: &mut impl Port) -> bool {
        let (op, flushes) = (&mut self.ops[index], &self.shared.flushes);
        let Some(ended) = op.ended else { return true };
        if planted(Bug::FlushRetried) {
            op.ended = None;
            return true;
        }
        if !flushes.are_settled(ended) && !planted(Bug::FlushAnsweredEarly) {
            return false;
        }
        op.ended = None;
        for number in (0..2 * self.geometry.slots()).map(Slot) {
            let failure = (number, port.holder(number));
            let there = self.view.device(number).is_some_and(|m| m.presence != Presence::Missing);
            if there && flushes.has_failed(failure.1) && !op.failed.contains(&failure) {
                op.failed.push(failure);
            }
        }
        if op.failed.is_empty() && self.view.logs {
            let (stamp, slots) = (op.stamp, 2 * self.geometry.slots());
            port.log(|log| (0..slots).for_each(|slot| log.flushed(Slot(slot), stamp)));
        }
        true
    }

    /// Asks to be woken while flushes wait to be believed.
    fn await_flushes(&mut self, port: &mut impl Port) {
        if self.unsettled > 0 && !self.awaits_flushes {
            // Announce, then look once more: a flush that ended in between would wake nobody.
            self.shared.flushes.sleep();
            self.awaits_flushes = true;
            self.look_at_held(port);
            self.look_at_unflushed(port);
        }
        if self.unsettled == 0 && self.awaits_flushes {
            self.shared.flushes.awake();
            self.awaits_flushes = false;
        }
    }

    /// Lets go what was held for a failure that is durable by now, or that nothing can stand in for.
    fn look_at_held(&mut self, port: &mut impl Port) {
        if self.holding.is_empty() {
            return;
        }
        self.refresh_view(port);
        let broken = self.shared.is_broken();
        let incomplete = self.view.incomplete();
        let mut i = 0;
        while let Some(&index) = self.holding.get(i) {
            if self.ops[index as usize].ended.is_some() {
                if !self.is_flush_believed(index as usize, port) {
                    i += 1;
                    continue;
                }
                self.unsettled -= 1;
                for &(slot, holder) in &self.ops[index as usize].failed {
                    port.member_failed(slot, holder);
                }
            }
            let op = &mut self.ops[index as usize];
            // Somebody else in the slot, or nobody: the failure of the one before is on record.
            let fills = |number: Slot, holder: Holder| {
                let device = self.view.device(number);
                device.is_some_and(|member| member.presence != Presence::Missing)
                    && port.holder(number) == holder
            };
            for failure in &mut op.failed {
                // Who was to replace another may have taken over since.
                if let Some(slot) = failure.0.0.checked_sub(self.geometry.slots()).map(Slot)
                    && fills(slot, failure.1)
                {
                    failure.0 = slot;
                }
            }
            op.failed.retain(|&(slot, holder)| fills(slot, holder));
            // Without a disk that only replaces another nothing is lost.
            let loses = |slot: Slot| {
                slot.0 < self.geometry.slots() && !self.geometry.tolerates(&incomplete.with(slot))
            };
            let beyond = |failure: &&(Slot, Holder)| broken || loses(failure.0);
            let spent = op.failed.iter().copied().find(|failure| beyond(&failure));
            if let Some((slot, _)) = spent {
                op.trouble.get_or_insert(Trouble::Member(slot));
                if op.kind == Kind::Flush {
                    self.shared.set_flush_lost();
                } else if !broken && self.geometry.is_redundant() {
                    op.note_torn_rows(port);
                }
            }
            if self.shared.flush_lost() && op.notes.iter().any(|note| !note.bad) {
                op.trouble.get_or_insert(Trouble::FlushLost);
            } else if !broken {
                op.notes.retain(|note| port.holder(note.slot) == note.holder && !note.is_in(&self.view));
                if !op.notes.is_empty() || (spent.is_none() && !op.failed.is_empty()) {
                    i += 1;
                    continue;
                }
            } else if !op.notes.is_empty() {
                op.trouble.get_or_insert(Trouble::Broken);
            }
            self.holding.swap_remove(i);
            self.finish(index as usize, port);
        }
    }

    fn start_flush(&mut self, index: usize, port: &mut impl Port) {
        self.refresh_view(port);
        if self.shared.flush_lost() {
            self.ops[index].trouble = Some(Trouble::FlushLost);
            return self.finish(index, port);
        }
        let op = &mut self.ops[index];
        op.state = State::Scatter;
        op.begun = Some(self.shared.flushes.begin(&mut self.flushing));
        if self.view.logs {
            op.stamp = port.log(|log| log.now()).unwrap_or_default();
        }
        let tag = tag(index, op.life);
        for (slot, member) in self.view.devices().enumerate() {
            let mut holder = Holder::NOBODY;
            let skipped = planted(Bug::FlushSkipsIdle) && self.legs.is_idle(Slot(slot as u16));
            if member.presence != Presence::Missing && !skipped {
                op.left += 1;
                self.legs.begin_other(Slot(slot as u16));
                holder = port.flush(tag | slot as u64, Slot(slot as u16));
            }
            op.holders.push(holder);
        }
        if op.left == 0 {
            self.scattered(index, port);
        }
    }

    // --- the log --------------------------------------------------------------------------------------------------

    /// Tells the log of a write. False if it has to wait until it is logged, or was planned anew.
    fn enter_log(&mut self, index: usize, port: &mut impl Port) -> bool {
        let op = &mut self.ops[index];
        if op.plan.log.is_empty() {
            let slot = parity_slot(&self.geometry, op.stripe);
            let in_sync = op.in_sync;
            let passed = port.log(|log| log.pass(slot, in_sync));
            op.log = passed.flatten().map(|number| (slot, number));
            if passed == Some(None) {
                // Redundancy agrees by now, and the logs say so.
                self.again(index, port);
                return false;
            }
            return true;
        }
        // Not at once: others that are just as far share the record.
        op.state = State::Log;
        self.logging.push(index as u32);
        self.join_log(index, port);
        false
    }

    fn join_log(&mut self, index: usize, port: &mut impl Port) {
        let op = &self.ops[index];
        let (slot, block) = (parity_slot(&self.geometry, op.stripe), self.limits.block);
        let parity = op.plan.log.iter().map(LogPart::parity_bytes).sum();
        let mut entries = op.plan.log.iter().map(|part| {
            let entry = Entry {
                data_sector: part.at,
                pp_size: part.parity_bytes(),
                data_size: part.data_bytes(),
                parity_disk: u32::from(slot.0),
                checksum: 0,
            };
            (entry, part.parity.map(|buf| resolve(op, block, buf, part.rows.len())))
        });
        let number = port.log_join(self.queue, slot, &mut entries, parity);
        self.ops[index].log = number.map(|number| (slot, number));
    }

    /// Lets go what is logged by now, and does what is next for what is not.
    fn drive_log(&mut self, port: &mut impl Port) {
        self.look_at_unflushed(port);
        if self.logging.is_empty() {
            return;
        }
        self.refresh_view(port);
        let mut i = 0;
        while let Some(&index) = self.logging.get(i) {
            let index = index as usize;
            let verdict = self.log_verdict(index, port);
            if verdict == Verdict::Wait {
                i += 1;
                continue;
            }
            self.logging.swap_remove(i);
            match verdict {
                Verdict::Fail(trouble) => {
                    self.ops[index].trouble = Some(trouble);
                    self.finish(index, port);
                }
                Verdict::Again => {
                    if leave_log(&mut self.ops[index], self.queue, port) {
                        port.wake_others();
                    }
                    self.again(index, port);
                }
                Verdict::Go | Verdict::Wait => self.scatter(index, port),
            }
        }
    }

    fn log_verdict(&mut self, index: usize, port: &mut impl Port) -> Verdict {
        let slot = parity_slot(&self.geometry, self.ops[index].stripe);
        if self.shared.flush_lost() {
            return Verdict::Fail(Trouble::FlushLost);
        }
        if self.ops[index].log.is_none() {
            self.lead(slot, port);
            self.join_log(index, port);
        }
        let Some((_, number)) = self.ops[index].log else { return Verdict::Wait };
        let state = port.log(|log| log.state(slot, number));
        match state.unwrap_or(RecordState::Written) {
            RecordState::Written => Verdict::Go,
            RecordState::Pending => {
                self.lead(slot, port);
                Verdict::Wait
            }
            // A log that cannot be written is a member that failed. What was to be logged there is planned without it.
            RecordState::Failed(holder) => {
                let members = &self.view.members;
                let incomplete = self.view.incomplete();
                if members[slot.index()].presence == Presence::Missing || port.holder(slot) != holder {
                    Verdict::Again
                } else if self.shared.is_broken() || !self.geometry.tolerates(&incomplete.with(slot)) {
                    Verdict::Fail(Trouble::Member(slot))
                } else {
                    Verdict::Wait
                }
            }
        }
    }

    /// Does what is next to get the group of `slot` on disk, unless somebody is at it.
    fn lead(&mut self, slot: Slot, port: &mut impl Port) {
        let there = |engine: &Self, slot: Slot| {
            engine.view.device(slot).is_some_and(|member| member.presence != Presence::Missing)
        };
        if !there(self, slot) {
            if port.log(|log| log.abandon(slot)) == Some(true) {
                port.wake_others();
            }
            return;
        }
        loop {
            match port.log(|log| log.step(slot)) {
                None | Some(Step::Wait) => return,
                Some(Step::Flush(other, stamp)) if there(self, other) => {
                    let begun = self.shared.flushes.begin(&mut self.flushing);
                    let flusher = port.flush(tag(LOG_FLUSH, 0) | u64::from(other.0), other);
                    let flight = &mut self.log_flights[other.index()];
                    *flight = LogFlight { flusher, stamp, begun, ..*flight };
                    self.log_flying += 1;
                }
                // Nobody is there who could forget.
                Some(Step::Flush(other, stamp)) => end_log_flush(other, stamp, port),
                Some(Step::Write) => {
                    // Who is to replace the slot's disk has its log, too, when it takes over.
                    let second = self.view.replacement(slot).map(|(number, _)| number);
                    let second = second.filter(|&number| there(self, number));
                    let copy = second.map(|number| tag(LOG_WRITE, 0) | u64::from(number.0));
                    let own = tag(LOG_WRITE, 0) | u64::from(slot.0);
                    let Some(holder) = port.log_write(own, slot, copy) else { continue };
                    self.log_flights[slot.index()].writer = holder;
                    self.log_parts[slot.index()] = (1, true);
                    self.log_flying += 1;
                    if let Some(number) = second {
                        self.log_flights[number.index()].writer = port.holder(number);
                        self.log_parts[slot.index()].0 += 1;
                        self.log_flying += 1;
                    }
                }
            }
        }
    }

    /// A write or flush of the log's own has ended.
    fn complete_log(&mut self, what: usize, slot: Slot, ok: bool, port: &mut impl Port) {
        let LogFlight { writer, flusher, stamp, begun } = self.log_flights[slot.index()];
        let holder = if what == LOG_WRITE { writer } else { flusher };
        if !ok {
            port.member_failed(slot, holder);
        }
        if what == LOG_WRITE {
            self.log_flying -= 1;
            let own = Slot(slot.0 % self.geometry.slots());
            let (left, good) = &mut self.log_parts[own.index()];
            *left -= 1;
            // A copy that failed is a replacement that fails.
            *good &= ok || slot != own;
            let (left, good) = (*left, *good);
            if left == 0 && port.log(|log| log.written(own, good)) == Some(true) {
                port.wake_others();
            }
        } else {
            let flushes = &self.shared.flushes;
            if !ok {
                flushes.note_failed(slot, holder);
            }
            if flushes.end(&mut self.flushing, begun) {
                port.wake_others();
            }
            // Under way until it is believed, or on record that the member is gone.
            self.unsettled += 1;
            self.log_unflushed.push(LogFlushed { slot, holder, stamp, ended: Some(flushes.now()) });
            self.look_at_unflushed(port);
        }
    }

    /// Flushes for the log that have ended: can they be believed? If they failed, has that been recorded, or can nothing
    /// stand in?
    fn look_at_unflushed(&mut self, port: &mut impl Port) {
        if self.log_unflushed.is_empty() {
            return;
        }
        self.refresh_view(port);
        let incomplete = self.view.incomplete();
        for i in (0..self.log_unflushed.len()).rev() {
            let LogFlushed { slot, holder, stamp, ended } = self.log_unflushed[i];
            if let Some(ended) = ended {
                if !self.shared.flushes.are_settled(ended) {
                    continue;
                }
                self.log_unflushed[i].ended = None;
                self.unsettled -= 1;
            }
            let there = self.view.device(slot).is_some_and(|member| member.presence != Presence::Missing);
            if there && port.holder(slot) == holder && self.shared.flushes.has_failed(holder) {
                let replaces = slot.0 >= self.geometry.slots();
                let bearable = replaces || self.geometry.tolerates(&incomplete.with(slot));
                if !self.shared.is_broken() && bearable {
                    continue;
                }
                // For the log it stays under way for ever: nothing is logged any more.
                self.shared.set_flush_lost();
                port.wake_others();
            } else {
                end_log_flush(slot, stamp, port);
            }
            self.log_flying -= 1;
            self.log_unflushed.swap_remove(i);
        }
    }

    // --- the end --------------------------------------------------------------------------------------------------

    fn finish(&mut self, index: usize, port: &mut impl Port) {
        self.something_ended = true;
        let op = &mut self.ops[index];
        op.state = State::Free;
        if let Some(region) = op.lanes.take() {
            port.free(region);
        }
        let mut wake = leave_log(op, self.queue, port);
        let rows = core::mem::take(&mut op.locked).then_some(op.mask);
        let (counted, regions) = (core::mem::take(&mut op.counted), op.regions.take());
        wake |= self.shared.let_go(self.queue, op.stripe, rows, counted, regions);
        let trouble = op.trouble;
        for i in 0..self.ops[index].sources.len() {
            if let Some(request) = self.ops[index].sources[i].request {
                self.end_piece(request, trouble);
            }
        }
        let op = &mut self.ops[index];
        if op.take_aside() || (trouble.is_none() && !self.limits.read_only && op.become_repair()) {
            self.wait(index as u32);
        } else {
            self.free_ops.push(index as u32);
        }
        if wake {
            port.wake_others();
        }
    }

    pub(super) fn answer(&mut self, index: u32) {
        if !self.is_part(index) {
            return self.ended.push_back(index);
        }
        let Active { cookie, trouble, .. } = self.requests[index as usize];
        self.free_parts.push(index);
        self.end_piece(cookie as u32, trouble);
    }

    /// A piece of a request has ended; with its last piece so does the request.
    fn end_piece(&mut self, request: u32, trouble: Option<Trouble>) {
        let active = &mut self.requests[request as usize];
        active.left -= 1;
        active.trouble = active.trouble.or(trouble);
        if active.left == 0 && !self.uncut.contains(&request) {
            self.answer(request);
        }
    }
}

/// Is there nothing that a request has to look at a view for?
fn is_plain(view: &View) -> bool {
    view.is_whole() && !view.members.iter().any(|member| member.avoid)
}

/// What becomes of an operation that waits for the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Wait,
    Go,
    Again,
    Fail(Trouble),
}

/// The slot with the parity of a stripe.
fn parity_slot(geometry: &Geometry, stripe: Stripe) -> Slot {
    let map = geometry.stripe(stripe);
    map.cell(map.cells() - 1).slot
}

/// Tells the log, if it knows of the operation, that its writes have ended. True if other queues may go on now.
fn leave_log(op: &mut Op, queue: QueueId, port: &mut impl Port) -> bool {
    let Some((slot, number)) = op.log.take() else { return false };
    let well = op.failed.is_empty() && op.trouble.is_none();
    let stable = |io: &&plan::Io| well && io.buf.base != Base::Zero && op.stable.contains(io.slot);
    let written = op.plan.scatter.iter().take(op.holders.len());
    let unflushed = written.filter(|io| !stable(io)).map(|io| io.slot);
    port.log(|log| log.done(queue, slot, number, unflushed)).unwrap_or_default()
}

fn end_log_flush(slot: Slot, stamp: u64, port: &mut impl Port) {
    let ended = |log: &mut super::Log| {
        log.flushed(slot, stamp);
        log.flush_ended(slot)
    };
    if port.log(ended) == Some(true) {
        port.wake_others();
    }
}

/// The tag of an operation's first disk operation.
pub(super) fn tag(index: usize, life: u16) -> u64 {
    (index as u64) << 48 | u64::from(life) << 32
}

/// The blocks of `piece` that hold bytes to keep: its first, its last, or the one that is both.
fn edge_blocks(piece: &Piece, keep: Keep, block: u32, edges: &mut Vec<Piece>) {
    let first = Rows::new(piece.rows.start, piece.rows.start + block);
    let last = Rows::new(piece.rows.end - block, piece.rows.end);
    if keep.head > 0 {
        edges.push(Piece { data: piece.data, rows: first });
    }
    if keep.tail > 0 && !(keep.head > 0 && first == last) {
        edges.push(Piece { data: piece.data, rows: last });
    }
}

/// Copies the bytes that are to be kept from the edge blocks into the client's memory.
fn merge_edges(op: &Op, block: u32, port: &mut impl Port) {
    let block_bytes = block * SECTOR as u32;
    let mut next = 0;
    for (piece, source) in op.pieces.iter().zip(&op.sources) {
        let (memory, keep) = (source.memory, source.keep);
        let same = piece.rows.len() == block;
        let edge = |n: u32| {
            let rows = block;
            resolve(op, block, Buf { base: Base::Client(n), sector: 0 }, rows)
        };
        if keep.head > 0 {
            port.copy(memory.slice(0, keep.head), edge(next).slice(0, keep.head));
            next += u32::from(!(same && keep.tail > 0));
        }
        if keep.tail > 0 {
            let to = memory.slice(memory.len - keep.tail, keep.tail);
            port.copy(to, edge(next).slice(block_bytes - keep.tail, keep.tail));
            next += 1;
        }
    }
}

/// The memory a plan's buffer stands for. While edges are read, the "client" is the scratch behind the lanes.
fn resolve(op: &Op, block: u32, buf: Buf, sectors: u32) -> Bytes {
    let bytes = |n: u32| n * SECTOR as u32;
    let lane_bytes = bytes(op.plan.lane_rows());
    let scratch = |offset: u32| Bytes { region: op.lanes.unwrap_or(u32::MAX), offset, len: bytes(sectors) };
    match buf.base {
        Base::Lane(lane) => scratch(u32::from(lane) * lane_bytes + bytes(buf.sector)),
        Base::Client(n) if op.reading_edges => {
            scratch(u32::from(op.plan.lanes) * lane_bytes + n * bytes(block) + bytes(buf.sector))
        }
        Base::Client(n) => op.sources[n as usize].memory.slice(bytes(buf.sector), bytes(sectors)),
        Base::Zero => Bytes::NONE,
    }
}

fn run_fold(op: &Op, block: u32, fold: &Fold, port: &mut impl Port) {
    let mut targets = [Bytes { region: 0, offset: 0, len: 0 }; 2];
    let mut count = 0;
    for buf in fold.target.iter().flatten() {
        targets[count] = resolve(op, block, *buf, fold.sectors);
        count += 1;
    }
    let terms = &op.plan.terms[fold.terms.start as usize..fold.terms.end as usize];
    let mut terms = terms.iter().map(|term| (resolve(op, block, term.buf, fold.sectors), term.coef));
    port.fold(&targets[..count], &mut terms, fold.accumulate);
}
