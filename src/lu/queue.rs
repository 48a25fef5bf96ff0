//! Queues: an engine, a ring and memory, driven by one thread at a time.
//!
//! [`Core`] is what every queue is inside, also the keeper's. A [`Cell`] is a core behind a try-lock, so that whoever waits
//! for a lock it holds can drive it. [`Queue`] is the face for batched submission with buffers of its own; the blocking
//! calls of [`Lu`](super::Lu) borrow a cell from the pool.
//!
//! A request gets from its caller to the engine's table, and an operation from there to the disks, in registers: the small
//! functions on the way are inlined by force, here and below. Handed on in memory it is written field by field and read back
//! in larger pieces, which a CPU cannot take from its store buffer: it waits until they have reached the cache, a few nanoseconds
//! each time, which was a third of what a request cost. For the same reason what only a panic shows is not referred to there.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use crate::disk::{AlignedBuf, DiskId, Disks, Done, Lent, Memory, Op, RegionId, Span};
use crate::engine::{
    Bytes, Engine, Holder, Keep, Limits, Log, MOST_SUMS, Note, Port, QueueId, Reply, Request, Ring, Wake,
};
use crate::error::{Error, ErrorKind, Result};
use crate::format::ppl::{Entry, HEADER_BYTES};
use crate::plan::{LOG_ROWS, View};
use crate::planted::{Bug, planted};
use crate::units::{Lba, MemberLba, SECTOR, Sectors, Slot};

use super::board::{Board, Health, lock};

/// Tickets with this bit are the owner's own operations, not the engine's.
pub(super) const OWN: u64 = 1 << 63;

/// Most bytes of scratch memory in one queue, unless the geometry needs more for a single row of blocks.
pub(super) const SCRATCH: usize = 8 << 20;

/// Bands in flight in one queue.
const BANDS: usize = 64;

/// Bytes under way to be summed up where all disks answer while they are asked: half of a small L2 cache.
const CACHED: u64 = 256 << 10;

/// How long a waiter sleeps before it looks whether it should drive other queues.
const PATIENCE: Duration = Duration::from_millis(10);

/// An engine with its disks and its memory.
pub(super) struct Core {
    engine: Engine,
    pub side: Side,
    done: Vec<Done>,
    /// Completions of the owner's own operations.
    pub own: Vec<(u64, bool)>,
    queue: QueueId,
}

/// The engine's world: all of a core but the engine.
pub(super) struct Side {
    pub disks: Box<dyn Disks>,
    pub memory: Memory,
    pub board: Arc<Board>,
    health: Arc<Health>,
    /// Operations on a slot without a disk end at once.
    instant: Vec<(u64, bool)>,
    wakes: bool,
    /// By slot: the buffer for records of its log, once one was written from here.
    records: Vec<Option<RegionId>>,
    /// By disk, of those that have been in a slot: does it prefer FUA to flushes?
    fua: Vec<Option<bool>>,
}

impl Core {
    pub(super) fn new(board: &Arc<Board>, depth: usize) -> Result<Core> {
        let geometry = board.geometry.clone();
        let queue = board.shared.join().ok_or_else(|| {
            Error::new(ErrorKind::Busy, "too many queues are open on this LU; close one first")
        })?;
        let block = board.block / SECTOR as u32;
        let cells = usize::from(geometry.cells());
        let slots = usize::from(geometry.slots());
        let unit = geometry.unit().0.max(u64::from(block));
        // Rows in a band such that the lanes of one operation fit a quarter of the memory.
        let lanes = cells + 2;
        let mut fair = (board.scratch / 4 / lanes / SECTOR as usize) as u64;
        let mut step = u64::from(block);
        if let Some(log) = &board.log {
            // And its partial parity fits one record.
            fair = fair.min(u64::from(lock(log).log.most_parity()) / SECTOR);
            step = step.max(LOG_ROWS.into());
        }
        let band_rows = (fair.min(unit) / step * step).max(step) as u32;
        let scratch = board.scratch.max(2 * lanes * band_rows as usize * SECTOR as usize + (1 << 16));
        let health = board.health();
        let mut members = health.wires.iter().flatten().map(|wire| wire.disk);
        let unsummed = if members.all(|disk| board.backend.info(disk).inline) { CACHED } else { u64::MAX };
        let (requests, read_only) = (depth.max(1), board.read_only);
        let limits = Limits { requests, bands: BANDS, band_rows, block, read_only, unsummed };
        let engine = Engine::new(geometry, board.shared.clone(), queue, health.view.clone(), limits);
        let mut disks = board.backend.queue(BANDS * 4).inspect_err(|_| board.shared.leave(queue))?;
        // The keeper has a buffer for every member besides, and the log may have one.
        let memory = Memory::new(depth + 2 * BANDS + MOST_SUMS + 2 * slots + 64, scratch);
        memory.arena().into_iter().for_each(|pool| disks.register(pool));
        let mut side = Side {
            disks,
            memory,
            board: board.clone(),
            health,
            instant: Vec::with_capacity(16),
            wakes: false,
            records: vec![None; slots],
            fua: Vec::new(),
        };
        side.look_at_disks();
        let own = Vec::with_capacity(16);
        Ok(Core { engine, side, done: Vec::with_capacity(256), own, queue })
    }

    /// See [`Engine::begin_flush`].
    pub(super) fn begin_flush(&mut self) -> u64 {
        self.engine.begin_flush()
    }

    /// See [`Engine::end_flush`]; wakes who waits.
    pub(super) fn end_flush(&mut self, begun: u64) {
        if self.engine.end_flush(begun) {
            self.side.board.wake_queues();
        }
    }

    /// Submits a request. The caller has made sure that there is room.
    #[inline(always)]
    pub(super) fn submit(&mut self, cookie: u64, request: Request) -> Result<(), Request> {
        self.engine.submit(cookie, request)
    }

    pub(super) fn has_room(&self) -> bool {
        self.engine.has_room()
    }

    pub(super) fn has_replies(&self) -> bool {
        self.engine.has_replies()
    }

    #[inline(always)]
    pub(super) fn reply(&mut self) -> Option<Reply> {
        self.engine.reply()
    }

    /// Runs the engine until nothing more moves. With `wait`, sleeps once for a completion or a wake.
    pub(super) fn pump(&mut self, wait: Option<Duration>) {
        let mut wait = wait;
        loop {
            self.engine.run(&mut self.side);
            let mut moved = self.finish_instant();
            self.side.disks.kick();
            let sleep = wait.take().filter(|_| !moved && !self.has_replies());
            // Who is woken after the engine has looked has to have it look again.
            moved |= self.side.disks.reap(&mut self.done, sleep);
            moved |= self.deliver();
            moved |= self.finish_instant();
            // (What is idle does not need to be asked again.)
            if !moved || self.engine.is_idle() {
                break;
            }
        }
        if std::mem::take(&mut self.side.wakes) {
            self.side.board.wake_queues();
        }
    }

    fn deliver(&mut self) -> bool {
        let moved = !self.done.is_empty();
        for done in self.done.drain(..) {
            if let Some(buf) = done.buf {
                self.side.memory.done(buf);
            }
            if done.ticket & OWN != 0 {
                self.own.push((done.ticket, done.result.is_ok()));
            } else {
                self.engine.complete(done.ticket, done.result.is_ok(), &mut self.side);
            }
        }
        moved
    }

    fn finish_instant(&mut self) -> bool {
        let moved = !self.side.instant.is_empty();
        while let Some((tag, ok)) = self.side.instant.pop() {
            self.engine.complete(tag, ok, &mut self.side);
        }
        moved
    }
}

impl Core {
    /// Runs until nothing is under way. Held replies and lock waits need others: `meanwhile` may drive them. For them it
    /// waits a while; for its disks as long as it takes, for nobody else will look at what they have to say.
    fn drain(&mut self, mut meanwhile: impl FnMut()) {
        let patience = Instant::now() + Duration::from_secs(10);
        while !self.engine.is_idle()
            && !self.side.board.is_abandoned()
            && (self.side.disks.in_flight() > 0 || Instant::now() < patience)
        {
            self.pump(Some(PATIENCE));
            meanwhile();
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.drain(|| {});
        if self.engine.is_idle() {
            self.side.board.shared.leave(self.queue);
        }
    }
}

fn span(bytes: Bytes) -> Span {
    Span { region: RegionId::from_raw(bytes.region), offset: bytes.offset, len: bytes.len }
}

fn bytes(region: RegionId, len: u32) -> Bytes {
    Bytes { region: region.raw(), offset: 0, len }
}

impl Side {
    /// Notes what is known of disks that are new here.
    fn look_at_disks(&mut self) {
        for disk in self.health.wires.iter().flatten().map(|wire| wire.disk) {
            if self.fua.len() <= disk.index() {
                self.fua.resize(disk.index() + 1, None);
            }
            self.fua[disk.index()].get_or_insert_with(|| self.board.backend.info(disk).prefers_fua);
        }
    }
}

impl Port for Side {
    fn read(&mut self, tag: u64, slot: Slot, at: MemberLba, into: Bytes) {
        let Some(wire) = self.health.wire(slot) else { return self.instant.push((tag, false)) };
        let buf = self.memory.io_read_into(span(into));
        self.disks.submit(tag, Op::Read { disk: wire.disk, at: wire.data_offset + Sectors(at.0), buf });
    }

    fn write(&mut self, tag: u64, slot: Slot, at: MemberLba, from: Bytes, fua: bool) -> Holder {
        let Some(wire) = self.health.wire(slot) else {
            self.instant.push((tag, true));
            return Holder::NOBODY;
        };
        let buf = self.memory.io_write_from(span(from));
        let at = wire.data_offset + Sectors(at.0);
        self.disks.submit(tag, Op::Write { disk: wire.disk, at, buf, fua });
        Holder(wire.disk.0.into())
    }

    fn zero(&mut self, tag: u64, slot: Slot, at: MemberLba, sectors: Sectors) -> Holder {
        let Some(wire) = self.health.wire(slot) else {
            self.instant.push((tag, true));
            return Holder::NOBODY;
        };
        let at = wire.data_offset + Sectors(at.0);
        self.disks.submit(tag, Op::Zero { disk: wire.disk, at, sectors });
        Holder(wire.disk.0.into())
    }

    fn prefers_fua(&self, slot: Slot) -> bool {
        let disk = self.health.wire(slot).map(|wire| wire.disk.index());
        disk.and_then(|disk| self.fua.get(disk).copied().flatten()).unwrap_or(false)
    }

    fn flush(&mut self, tag: u64, slot: Slot) -> Holder {
        match self.health.wire(slot) {
            Some(wire) => self.disks.submit(tag, Op::Flush { disk: wire.disk }),
            None => self.instant.push((tag, true)),
        }
        self.holder(slot)
    }

    fn holder(&self, slot: Slot) -> Holder {
        self.health.wire(slot).map_or(Holder::NOBODY, |wire| Holder(wire.disk.0.into()))
    }

    fn fold(
        &mut self,
        targets: &[Bytes],
        terms: &mut dyn Iterator<Item = (Bytes, [u8; 2])>,
        accumulate: bool,
    ) {
        let kernels = self.board.kernels;
        let terms = terms.map(|(bytes, coef)| (span(bytes), coef));
        match *targets {
            [p, q] => self.memory.fold(&kernels, &[span(p), span(q)], terms, accumulate),
            [p] => self.memory.fold(&kernels, &[span(p)], terms, accumulate),
            _ => {}
        }
    }

    fn copy(&mut self, to: Bytes, from: Bytes) {
        self.memory.copy(span(to), span(from));
    }

    fn alloc(&mut self, bytes: u32) -> Option<u32> {
        self.memory.pool_alloc(bytes).map(RegionId::raw)
    }

    fn free(&mut self, region: u32) {
        self.memory.pool_free(RegionId::from_raw(region));
    }

    fn log<R>(&mut self, ask: impl FnOnce(&mut Log) -> R) -> Option<R> {
        self.board.log.as_ref().map(|book| ask(&mut lock(book).log))
    }

    fn log_join(
        &mut self,
        queue: QueueId,
        slot: Slot,
        entries: &mut dyn ExactSizeIterator<Item = (Entry, Option<Bytes>)>,
        parity: u32,
    ) -> Option<u64> {
        let book = self.board.log.as_ref()?;
        let memory = &self.memory;
        let mut entries = entries.map(|(entry, bytes)| (entry, bytes.map(|bytes| memory.bytes(span(bytes)))));
        lock(book).join(queue, slot, &mut entries, parity)
    }

    fn log_write(&mut self, tag: u64, slot: Slot, copy: Option<u64>) -> Option<Holder> {
        let holder = self.holder(slot);
        let book = self.board.log.as_ref()?;
        let wire = self.health.wires[slot.index()];
        let place = wire.and_then(|wire| Some((wire.disk, wire.log?)));
        let mut book = lock(book);
        if !book.log.is_ready(slot) {
            return None;
        }
        let ring = place.map_or(Ring { length: Sectors(0), multiple: false }, |(_, log)| log.ring);
        // Laid out as its own is; else it cannot have it.
        let number = self.health.view.replacement_number(slot);
        let second = self.health.wire(number).filter(|_| copy.is_some());
        let second = second.and_then(|wire| Some((wire.disk, wire.log.filter(|log| log.ring == ring)?)));
        let begun = book.log.begin(slot, holder, second.map(|_| self.holder(number)), ring);
        let room = HEADER_BYTES + book.log.most_parity() as usize;
        let region = match self.records[slot.index()] {
            None => self.memory.insert_owned(AlignedBuf::new(room)),
            region => region,
        };
        self.records[slot.index()] = region;
        let (Some(region), Some((disk, log))) = (region, place) else {
            book.record(slot, begun.generation, &mut []);
            self.instant.extend([Some(tag), copy].into_iter().flatten().map(|tag| (tag, false)));
            return Some(holder);
        };
        let record = Span { region, offset: 0, len: HEADER_BYTES as u32 + begun.parity };
        book.record(slot, begun.generation, self.memory.bytes_mut(record));
        drop(book);
        let buf = self.memory.io_write_from(record);
        let fua = !planted(Bug::LogNotFua);
        self.disks.submit(tag, Op::Write { disk, at: log.at + begun.at, buf, fua });
        if let Some(copy) = copy {
            match second {
                Some((disk, log)) => {
                    let buf = self.memory.io_write_from(record);
                    self.disks.submit(copy, Op::Write { disk, at: log.at + begun.at, buf, fua: true });
                }
                None => self.instant.push((copy, false)),
            }
        }
        Some(holder)
    }

    fn view(&mut self) -> Arc<View> {
        self.health = self.board.health();
        // A disk that was added after this queue was opened; known ones stay as they are.
        for wire in self.health.wires.iter().flatten() {
            self.disks.attach(wire.disk);
        }
        self.look_at_disks();
        self.health.view.clone()
    }

    fn wake_others(&mut self) {
        self.wakes = true;
    }

    fn ask_dirty(&mut self) {
        self.board.tell_keeper(|inbox| inbox.dirty_wanted = true);
    }

    fn member_failed(&mut self, slot: Slot, holder: Holder) {
        let Ok(disk) = u16::try_from(holder.0) else { return };
        self.board.tell_keeper(|inbox| inbox.failed.push((slot, DiskId(disk))));
    }

    fn record(&mut self, note: Note) {
        let Ok(disk) = u16::try_from(note.holder.0) else { return };
        self.board.tell_keeper(|inbox| inbox.blocks.push((note, DiskId(disk))));
    }

    fn read_failed(&mut self, slot: Slot, _at: MemberLba, _sectors: Sectors) {
        self.board.count_read_error(slot);
    }
}

/// A core that others may drive while its owner is away.
pub(super) struct Cell {
    core: Mutex<Core>,
    waker: Arc<dyn Wake>,
    board: Arc<Board>,
}

impl Cell {
    pub(super) fn open(board: &Arc<Board>, depth: usize) -> Result<Arc<Cell>> {
        let core = Core::new(board, depth)?;
        let waker = core.side.disks.waker();
        let cell = Arc::new(Cell { core: Mutex::new(core), waker: waker.clone(), board: board.clone() });
        board.add_cell(&cell, waker);
        Ok(cell)
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        lock(&self.core)
    }

    /// Lets go of a disk that is no member any more.
    pub(super) fn detach(&self, disk: DiskId) {
        self.core().side.disks.detach(disk);
    }

    /// Moves on what nobody else is moving on. An owner who sleeps on the descriptor is told of what is finished.
    pub(super) fn nudge(&self) {
        let mut core = match self.core.try_lock() {
            Ok(core) => core,
            Err(TryLockError::Poisoned(core)) => core.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        core.pump(None);
        if core.has_replies() {
            self.waker.wake();
        }
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        self.board.drop_waker(&self.waker);
    }
}

/// Cells for blocking calls: made when needed, at most `most`, used again.
pub(super) struct Pool {
    board: Arc<Board>,
    idle: Mutex<(Vec<Arc<Cell>>, usize)>,
    freed: Condvar,
    most: usize,
}

/// What a blocking call wants.
#[derive(Clone, Copy)]
pub(super) enum Want {
    Read,
    Write { keep: Keep, fua: bool },
    Zero(Sectors),
    Flush,
}

impl Pool {
    pub(super) fn new(board: Arc<Board>) -> Pool {
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
        Pool { board, idle: Mutex::default(), freed: Condvar::new(), most: (2 * cpus).min(32) }
    }

    fn borrow(&self) -> Result<Arc<Cell>> {
        let mut idle = lock(&self.idle);
        loop {
            if let Some(cell) = idle.0.pop() {
                return Ok(cell);
            }
            if idle.1 < self.most {
                idle.1 += 1;
                drop(idle);
                return Cell::open(&self.board, 4).inspect_err(|_| lock(&self.idle).1 -= 1);
            }
            idle = self.freed.wait(idle).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn give_back(&self, cell: Arc<Cell>) {
        lock(&self.idle).0.push(cell);
        self.freed.notify_one();
    }

    /// Closes all idle queues.
    pub(super) fn clear(&self) {
        let mut idle = lock(&self.idle);
        idle.1 -= idle.0.len();
        idle.0.clear();
    }

    /// Does one thing and waits for its end.
    pub(super) fn run(&self, lba: Lba, memory: Option<Lent>, want: Want) -> Result<()> {
        let cell = self.borrow()?;
        let result = run_one(&self.board, &cell, lba, memory, want);
        self.give_back(cell);
        result
    }
}

fn run_one(board: &Board, cell: &Arc<Cell>, lba: Lba, memory: Option<Lent>, want: Want) -> Result<()> {
    let mut core = cell.core();
    let mut region = None;
    let mut place = Bytes::NONE;
    if let Some(lent) = memory {
        let len = lent.len() as u32;
        let id = core
            .side
            .memory
            .insert_lent(lent)
            .ok_or_else(|| Error::new(ErrorKind::Busy, "no room for another buffer in this queue"))?;
        region = Some(id);
        place = bytes(id, len);
    }
    let sectors = Sectors(u64::from(place.len) / SECTOR);
    let request = match want {
        Want::Read => Request::Read { lba, sectors, memory: place },
        Want::Write { keep, fua } => Request::Write { lba, sectors, memory: place, fua, keep },
        Want::Zero(sectors) => Request::Zero { lba, sectors },
        Want::Flush => Request::Flush,
    };
    let mut result = Err(Error::new(ErrorKind::Busy, "the queue is full"));
    if core.submit(0, request).is_ok() {
        core.pump(None);
        let reply = loop {
            if let Some(reply) = core.reply() {
                break reply;
            }
            core.pump(Some(PATIENCE));
            if !core.has_replies() {
                // A row this queue waits for may be held by a queue whose owner is busy elsewhere.
                board.nudge_cells(Some(cell));
            }
        };
        result = reply.result.map_err(|trouble| Error::new(ErrorKind::Io, trouble.to_string()));
    }
    if let Some(id) = region {
        drop(core.side.memory.remove_lent(id));
    }
    result
}

/// Batched, asynchronous access with buffers that travel with their requests.
///
/// Submit any number of requests (up to the depth), then [`poll`](Queue::poll): the batch is merged and planned together,
/// handed to the kernel at once, and what is finished comes back with its buffer. Requests of one batch are not ordered
/// among themselves; a flush covers what was *acknowledged* before it was submitted. [`event_fd`](Queue::event_fd) becomes readable when
/// polling would get on.
pub struct Queue {
    cell: Arc<Cell>,
    board: Arc<Board>,
    in_flight: usize,
    /// It waits for what others have in hand: counted on the board.
    stuck: bool,
}

impl Drop for Queue {
    /// Finishes what is under way; its results are lost. Here and not when the cell goes, which may be in another queue's
    /// hands, whose rows this one may wait for.
    fn drop(&mut self) {
        self.set_stuck(false);
        self.cell.core().drain(|| self.board.nudge_cells(Some(&self.cell)));
    }
}

/// What is asked of a [`Queue`], with its buffer.
#[derive(Debug)]
pub(super) enum Ask {
    Read { buffer: AlignedBuf, offset: u64 },
    Write { buffer: AlignedBuf, offset: u64, fua: bool, keep: Keep },
    Zero { offset: u64, len: u64 },
    Discard { offset: u64, len: u64 },
    Flush,
}

impl Ask {
    #[inline(always)]
    pub(super) fn into_buffer(self) -> Option<AlignedBuf> {
        match self {
            Ask::Read { buffer, .. } | Ask::Write { buffer, .. } => Some(buffer),
            Ask::Zero { .. } | Ask::Discard { .. } | Ask::Flush => None,
        }
    }
}

/// The end of a request on a [`Queue`].
#[derive(Debug)]
pub struct Completion {
    /// The number given with the request.
    pub cookie: u64,
    /// The request's buffer; `None` for a flush.
    pub buffer: Option<AlignedBuf>,
    /// How it ended.
    pub result: Result<()>,
}

impl Queue {
    pub(super) fn open(board: &Arc<Board>, depth: usize) -> Result<Queue> {
        let depth = depth.clamp(1, 4096);
        let cell = Cell::open(board, depth)?;
        let board = board.clone();
        Ok(Queue { cell, board, in_flight: 0, stuck: false })
    }

    /// `count` zeroed buffers of `len` bytes, rounded up to 512, in one stretch of memory that the queue's ring has registered,
    /// where there is a ring: requests with them cost less where disks are used with direct I/O. They are buffers like others
    /// otherwise: they may go to other queues, and outlive this one. Registered is up to
    /// [`MOST_PINNED`](crate::disk::MOST_PINNED) bytes in a queue, and in a process a quarter of `RLIMIT_MEMLOCK` if that counts for its user; the queue keeps
    /// what is registered until it is closed, or is asked for more after all buffers of one call are gone.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] if that does not fit the address space, [`ErrorKind::Io`] if the system has no memory.
    pub fn buffers(&mut self, count: usize, len: usize) -> Result<Vec<AlignedBuf>> {
        self.cell.core().side.disks.buffers(count, len)
    }

    /// Reads `buffer.len()` bytes from byte `offset` of the LU into `buffer`.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] if offset or length are no multiples of the LU's block size (the last block of an LU may be shorter)
    /// or reach past its end;
    /// [`ErrorKind::Busy`] if `depth` requests are under way. The buffer is then lost to the caller only in name: it is dropped.
    pub fn read(&mut self, cookie: u64, buffer: AlignedBuf, offset: u64) -> Result<()> {
        self.start(cookie, Ask::Read { buffer, offset }).map_err(|(error, _)| error)
    }

    /// Writes `buffer` to byte `offset` of the LU; with `fua`, stable when it completes.
    ///
    /// # Errors
    /// As [`Queue::read`]; [`ErrorKind::Usage`] also if the LU is open for reading only.
    pub fn write(&mut self, cookie: u64, buffer: AlignedBuf, offset: u64, fua: bool) -> Result<()> {
        self.write_part(cookie, buffer, offset, fua, Keep::default())
    }

    /// [`write`](Queue::write), but for the bytes at both ends that `keep` says.
    pub(crate) fn write_part(
        &mut self,
        cookie: u64,
        buffer: AlignedBuf,
        offset: u64,
        fua: bool,
        keep: Keep,
    ) -> Result<()> {
        self.start(cookie, Ask::Write { buffer, offset, fua, keep }).map_err(|(error, _)| error)
    }

    /// Has `len` bytes from byte `offset` of the LU read as zeroes, as [`Lu::write_zeroes_at`](super::Lu::write_zeroes_at).
    ///
    /// # Errors
    /// As [`Queue::write`].
    pub fn write_zeroes(&mut self, cookie: u64, offset: u64, len: u64) -> Result<()> {
        self.start(cookie, Ask::Zero { offset, len }).map_err(|(error, _)| error)
    }

    /// Gives up what is in `len` bytes from byte `offset`, any alignment, as [`Lu::discard_at`](super::Lu::discard_at).
    ///
    /// # Errors
    /// As [`Queue::write`].
    pub fn discard(&mut self, cookie: u64, offset: u64, len: u64) -> Result<()> {
        self.start(cookie, Ask::Discard { offset, len }).map_err(|(error, _)| error)
    }

    /// Makes stable what was acknowledged before, on any queue of the LU.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] if `depth` requests are under way.
    pub fn flush(&mut self, cookie: u64) -> Result<()> {
        self.start(cookie, Ask::Flush).map_err(|(error, _)| error)
    }

    /// Starts what was submitted and appends what is finished to `done`. With `wait`, sleeps up to that long if nothing is.
    pub fn poll(&mut self, done: &mut Vec<Completion>, wait: Option<Duration>) {
        let before = done.len();
        let cell = self.cell.clone();
        let mut core = cell.core();
        core.pump(None);
        self.take(&mut core, done);
        if let Some(wait) = wait.filter(|_| done.len() == before) {
            self.sleep(&mut core, done, wait);
        }
        // (What its own disks have in hand makes the descriptor readable, and then it is polled again.)
        let stuck = core.engine.waits_for_others() && core.side.disks.in_flight() == 0;
        drop(core);
        self.set_stuck(stuck);
    }

    fn sleep(&mut self, core: &mut Core, done: &mut Vec<Completion>, wait: Duration) {
        let before = done.len();
        let until = Instant::now().checked_add(wait);
        while done.len() == before && self.in_flight() > 0 {
            let left = until.map_or(PATIENCE, |until| until.saturating_duration_since(Instant::now()));
            core.pump(Some(left.min(PATIENCE)));
            self.take(core, done);
            if done.len() > before || left.is_zero() {
                return;
            }
            // What this queue waits for may be held by one whose owner is busy elsewhere.
            self.board.nudge_cells(Some(&self.cell));
        }
    }

    /// Has the keeper drive other queues while this one waits for them, since its owner may sleep on the descriptor.
    fn set_stuck(&mut self, stuck: bool) {
        if std::mem::replace(&mut self.stuck, stuck) != stuck {
            self.board.count_stuck(stuck);
        }
    }

    /// Could another request be submitted?
    #[cfg(feature = "async")]
    pub(super) fn has_room(&self) -> bool {
        self.cell.core().has_room()
    }

    /// Requests under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Has all work ended, also what goes on after the replies (repairs)?
    #[cfg(feature = "sim")]
    pub(crate) fn is_idle(&self) -> bool {
        self.cell.core().engine.is_idle()
    }

    /// Calls `with` with a descriptor that is readable when [`poll`](Queue::poll) would get on, if the disks have one. After a
    /// poll without waiting it is safe to sleep on it: also what others hold this queue up with makes it readable.
    pub fn event_fd<R>(&self, with: impl FnOnce(Option<BorrowedFd<'_>>) -> R) -> R {
        with(self.cell.core().side.disks.event_fd())
    }

    #[cold]
    fn past_end(&self, offset: u64, len: u64) -> Error {
        let size = self.board.geometry.size().bytes();
        let text = format!("{len} bytes at {offset} reach past the end of the LU ({size} bytes)");
        Error::new(ErrorKind::Usage, text)
    }

    #[inline(always)]
    fn check(&self, offset: u64, len: u64) -> Result<(Lba, Sectors)> {
        let block = u64::from(self.board.block);
        let end = offset.checked_add(len);
        let size = self.board.geometry.size().bytes();
        // (A power of two, and no division for each request.)
        let is_multiple = |bytes: u64| bytes & (block - 1) == 0;
        // An LU whose size is no multiple of the block ends in a shorter one.
        let is_whole = is_multiple(len) || end == Some(size);
        if len == 0 || !is_multiple(offset) || !is_whole {
            return Err(self.misplaced(offset, len));
        }
        if end.is_none_or(|end| end > size) {
            return Err(self.past_end(offset, len));
        }
        Ok((Lba(offset / SECTOR), Sectors(len / SECTOR)))
    }

    #[cold]
    fn misplaced(&self, offset: u64, len: u64) -> Error {
        let block = self.board.block;
        let text =
            format!("offset {offset} and length {len} must be multiples of {block} bytes, and not empty");
        Error::new(ErrorKind::Usage, text)
    }

    /// What is asked, but for its memory.
    ///
    /// # Errors
    /// Those of [`Queue::read`] and [`Queue::write`], but for a full queue.
    #[inline(always)]
    pub(super) fn request(&self, ask: &Ask) -> Result<Request> {
        if self.board.is_closing() {
            return Err(Error::new(ErrorKind::Busy, "the LU is being stopped"));
        }
        if !matches!(ask, Ask::Read { .. } | Ask::Flush) {
            super::refuse_read_only(&self.board)?;
        }
        if let Ask::Read { buffer, .. } | Ask::Write { buffer, .. } = ask
            && u32::try_from(buffer.len()).is_err()
        {
            return Err(Error::new(ErrorKind::Usage, "a buffer of 4 GiB or more; use smaller ones"));
        }
        let memory = Bytes::NONE;
        Ok(match *ask {
            Ask::Read { ref buffer, offset } => {
                let (lba, sectors) = self.check(offset, buffer.len() as u64)?;
                Request::Read { lba, sectors, memory }
            }
            Ask::Write { ref buffer, offset, fua, keep } => {
                let (lba, sectors) = self.check(offset, buffer.len() as u64)?;
                Request::Write { lba, sectors, memory, fua, keep }
            }
            Ask::Zero { offset, len } => {
                let (lba, sectors) = self.check(offset, len)?;
                Request::Zero { lba, sectors }
            }
            Ask::Discard { offset, len } => {
                let end = offset.checked_add(len).filter(|&end| end <= self.board.geometry.size().bytes());
                let end = end.ok_or_else(|| self.past_end(offset, len))?;
                let range = self.board.discardable(offset..end);
                let sectors = Sectors(range.end.saturating_sub(range.start) / SECTOR);
                Request::Zero { lba: Lba(range.start / SECTOR), sectors }
            }
            Ask::Flush => Request::Flush,
        })
    }

    /// Submits what is asked; what cannot be comes back with its buffer.
    #[inline(always)]
    pub(super) fn start(&mut self, cookie: u64, ask: Ask) -> Result<(), (Error, Option<AlignedBuf>)> {
        let mut request = match self.request(&ask) {
            Ok(request) => request,
            Err(error) => return Err((error, ask.into_buffer())),
        };
        let buffer = ask.into_buffer();
        let mut core = self.cell.core();
        if !core.has_room() {
            return Err((Error::new(ErrorKind::Busy, "the queue is full: poll it first"), buffer));
        }
        if let (Some(buffer), Request::Read { memory, .. } | Request::Write { memory, .. }) =
            (buffer, &mut request)
        {
            let len = buffer.len() as u32;
            let id = core.side.memory.insert_owned(buffer);
            *memory = bytes(id.expect("the memory was made for as many buffers as requests"), len);
        }
        core.submit(cookie, request).expect("there was room");
        self.in_flight += 1;
        Ok(())
    }

    fn take(&mut self, core: &mut Core, done: &mut Vec<Completion>) {
        while let Some(reply) = core.reply() {
            self.in_flight -= 1;
            let region = reply.memory.map(|memory| RegionId::from_raw(memory.region));
            let buffer = region.map(|region| core.side.memory.remove_owned(region));
            let result = reply.result.map_err(|trouble| Error::new(ErrorKind::Io, trouble.to_string()));
            done.push(Completion { cookie: reply.cookie, buffer, result });
        }
    }
}
