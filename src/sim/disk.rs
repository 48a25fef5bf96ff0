//! Simulated disks: what a drive with a volatile cache may do, and nothing it may not.
//!
//! A *platter* is one drive. Every write leaves a version of each of its sectors in the cache; a flush makes the versions of
//! writes completed before it durable, FUA its own. At a power cut any version of a sector since the last flush may be the one
//! that is found, whatever happened to its neighbours: writes tear, and are reordered without limit. Operations move a few
//! sectors at a time, forwards or backwards, in an order that the seed decides; each completes exactly once.
//!
//! Faults are put here by the governor: sectors that cannot be read until they are written, reads and writes that fail
//! (a write perhaps half done), a flush that fails and loses the cache, a drive that hangs, that vanishes, or that says it
//! wrote a superblock and did not, or wrote it elsewhere. When the power is gone everything fails.
//!
//! Refuses to know: what is on the disks, what is promised, and time (it is told).

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Random;
use crate::disk::{Backend, DiskId, DiskInfo, DiskKind, Disks, Done, Failure, Op, OpKind};
use crate::engine::Wake;
use crate::error::Result;
use crate::units::{DiskLba, SECTOR, Sectors};

/// Where the partial parity logs of members are that are as small as the simulator's: behind the superblock, up to the data.
const LOGS: std::ops::Range<u64> = 16..4096;

const PAGE: u64 = 8;
const PAGE_BYTES: usize = (PAGE * SECTOR) as usize;

/// Eight sectors; `None` is all zeroes.
type Page = Option<Arc<[u8; PAGE_BYTES]>>;

/// The bytes of a sector.
pub(super) type Bytes = [u8; SECTOR as usize];

/// What may go wrong with a platter, and how much of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    /// Sectors that cannot be read until they are written.
    pub latent: BTreeSet<u64>,
    /// One read in so many fails; 0: none does.
    pub transient: u32,
    /// Writes that fail from now on, perhaps half done.
    pub refused_writes: u32,
    /// The next flush fails, and what was not durable may be lost.
    pub lost_flush: bool,
    /// The next write to a superblock is acknowledged and lost.
    pub lost_superblock: bool,
    /// Nothing moves before this time.
    pub hangs_until: Duration,
    /// Pulled out.
    pub gone: bool,
}

/// What has gone wrong so far, for the totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Struck {
    /// Reads of unreadable sectors.
    pub latent: u64,
    /// Reads that failed once.
    pub transient: u64,
    /// Writes that failed.
    pub writes: u64,
    /// Flushes that failed and lost the cache.
    pub flushes: u64,
    /// Superblocks acknowledged and lost.
    pub superblocks: u64,
    /// Operations on a disk that was pulled out.
    pub gone: u64,
}

/// One version of a sector that a cache holds.
struct Version {
    /// Which write it is from.
    write: u64,
    /// The place of that write in the order of completion; `u64::MAX` while it is under way or if it failed.
    done: u64,
    /// A flush of it failed: it is read back, and no later flush makes it durable.
    lost: bool,
    bytes: Box<Bytes>,
}

/// One drive.
struct Platter {
    size: u64,
    block: u32,
    /// What is durable; `None` is all zeroes.
    pages: Vec<Page>,
    /// By sector, oldest version first.
    cache: BTreeMap<u64, Vec<Version>>,
    completed: u64,
    faults: Faults,
    /// A write or flush failed: whoever wrote has been told.
    refused: bool,
    /// A superblock was lost and none has been written since.
    lags: bool,
    prefers_fua: bool,
}

impl Platter {
    fn durable(&self, sector: u64) -> Bytes {
        let mut bytes = [0; SECTOR as usize];
        if let Some(Some(page)) = self.pages.get((sector / PAGE) as usize) {
            let at = (sector % PAGE * SECTOR) as usize;
            bytes.copy_from_slice(&page[at..at + SECTOR as usize]);
        }
        bytes
    }

    fn newest(&self, sector: u64) -> Bytes {
        match self.cache.get(&sector).and_then(|versions| versions.last()) {
            Some(version) => *version.bytes,
            None => self.durable(sector),
        }
    }

    fn harden(&mut self, sector: u64, bytes: &Bytes) {
        let page = &mut self.pages[(sector / PAGE) as usize];
        let page = page.get_or_insert_with(|| Arc::new([0; PAGE_BYTES]));
        let at = (sector % PAGE * SECTOR) as usize;
        Arc::make_mut(page)[at..at + SECTOR as usize].copy_from_slice(bytes);
    }

    /// Makes the newest version of `sector` that `covered` says yes to durable; older ones are no more.
    fn harden_where(&mut self, sector: u64, covered: impl Fn(&Version) -> bool) {
        let Some(versions) = self.cache.get_mut(&sector) else { return };
        let Some(last) = versions.iter().rposition(covered) else { return };
        let bytes = *versions[last].bytes;
        versions.drain(..=last);
        if versions.is_empty() {
            self.cache.remove(&sector);
        }
        self.harden(sector, &bytes);
    }

    fn flush(&mut self, covers: u64) {
        let sectors: Vec<u64> = self.cache.keys().copied().collect();
        for sector in sectors {
            self.harden_where(sector, |version| version.done <= covers);
        }
    }

    /// A flush has failed: of what it was to make durable, some is only read back from now on.
    fn lose_flushed(&mut self, covers: u64, random: &mut Random) {
        let all = random.one_in(2);
        for version in self.cache.values_mut().flatten() {
            if version.done <= covers && (all || random.one_in(2)) {
                (version.lost, version.done) = (true, u64::MAX);
            }
        }
    }

    /// Any version of any sector survives.
    fn lose_cache(&mut self, random: &mut Random) {
        let mode = random.below(5);
        let cache = std::mem::take(&mut self.cache);
        // All of some stretch of time, or a choice for each sector.
        let until = random.below(self.completed + 2);
        for (sector, mut versions) in cache {
            versions.retain(|version| !version.lost);
            let keep = match mode {
                0 => 0,
                1 => versions.len(),
                2 => versions.iter().filter(|version| version.done <= until).count(),
                _ => random.below(versions.len() as u64 + 1) as usize,
            };
            if keep > 0 {
                let bytes = *versions[keep - 1].bytes;
                self.harden(sector, &bytes);
            }
        }
    }
}

/// An operation under way.
struct Flight {
    queue: usize,
    ticket: u64,
    platter: usize,
    op: Op,
    write: u64,
    /// For a flush: writes completed when it was submitted.
    covers: u64,
    moved: u64,
    backwards: bool,
    failure: Option<Failure>,
    /// Fails, or is not done at all, when so many sectors are moved.
    fails_after: Option<u64>,
    /// Acknowledged, and not where it should be: nowhere, or so many sectors further on.
    lost: bool,
    astray: Option<u64>,
}

struct Port {
    ready: Vec<Done>,
    in_flight: usize,
    woken: Arc<AtomicBool>,
}

struct Inner {
    platters: Vec<Platter>,
    /// Which of them prefer FUA to flushes, by number modulo eight: none, all, or some.
    fua: u8,
    ports: Vec<Port>,
    flights: Vec<Flight>,
    random: Random,
    /// Everything completes at once and in order: for looking.
    calm: bool,
    dead: bool,
    /// Writes to partial parity logs were under way when the power went.
    tore_log: bool,
    /// Completions until the power goes.
    cut_in: Option<u64>,
    now: Duration,
    writes: u64,
    trace: u64,
    operations: u64,
    struck: Struck,
}

/// All platters, and what is under way on them. A clone is another handle.
#[derive(Clone)]
pub(super) struct SimDisks(Arc<Mutex<Inner>>);

/// Some of the platters under the numbers that one process knows them by.
pub(super) struct Offered {
    disks: SimDisks,
    platters: Arc<Mutex<Vec<usize>>>,
}

impl SimDisks {
    pub(super) fn new(seed: u64) -> SimDisks {
        SimDisks(Arc::new(Mutex::new(Inner {
            platters: Vec::new(),
            fua: [0, 0, 0xff, 0xb2][(seed % 4) as usize],
            ports: Vec::new(),
            flights: Vec::new(),
            random: Random::new(seed),
            calm: false,
            dead: false,
            tore_log: false,
            cut_in: None,
            now: Duration::ZERO,
            writes: 0,
            trace: 0xcbf2_9ce4_8422_2325,
            operations: 0,
            struck: Struck::default(),
        })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new drive, of zeroes, or of `junk` from sector `from` on.
    pub(super) fn add(&self, size: u64, block: u32, junk: Option<(u64, u64)>) -> usize {
        let mut inner = self.inner();
        let mut platter = Platter {
            size,
            block,
            pages: vec![None; size.div_ceil(PAGE) as usize],
            cache: BTreeMap::new(),
            completed: 0,
            faults: Faults::default(),
            refused: false,
            lags: false,
            prefers_fua: inner.fua >> (inner.platters.len() % 8) & 1 == 1,
        };
        if let Some((from, seed)) = junk {
            let mut random = Random::new(seed);
            for sector in from..size {
                let mut bytes = [0; SECTOR as usize];
                let word = random.next().to_le_bytes();
                bytes.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&word));
                platter.harden(sector, &bytes);
            }
        }
        inner.platters.push(platter);
        inner.platters.len() - 1
    }

    /// How many drives there are.
    pub(super) fn count(&self) -> usize {
        self.inner().platters.len()
    }

    /// A backend of these platters, numbered in their order.
    pub(super) fn offer(&self, platters: Vec<usize>) -> Arc<Offered> {
        Arc::new(Offered { disks: self.clone(), platters: Arc::new(Mutex::new(platters)) })
    }

    /// The drives as somebody would find them who looked now: copies, calm.
    pub(super) fn copy(&self) -> SimDisks {
        let inner = self.inner();
        let copy = SimDisks::new(0);
        let mut other = copy.inner();
        other.calm = true;
        for platter in &inner.platters {
            let mut fresh = Platter {
                size: platter.size,
                block: platter.block,
                pages: platter.pages.clone(),
                cache: BTreeMap::new(),
                completed: 0,
                faults: Faults { latent: platter.faults.latent.clone(), ..Faults::default() },
                refused: false,
                lags: false,
                prefers_fua: platter.prefers_fua,
            };
            for (&sector, versions) in &platter.cache {
                if let Some(last) = versions.last() {
                    fresh.harden(sector, &last.bytes);
                }
            }
            other.platters.push(fresh);
        }
        drop(other);
        copy
    }

    /// Do the platters hold the same bytes as those of `other`?
    pub(super) fn same_bytes(&self, other: &SimDisks) -> bool {
        let (a, b) = (self.inner(), other.inner());
        a.platters.iter().zip(&b.platters).all(|(a, b)| {
            let same = |(x, y): (&Page, &Page)| match (x, y) {
                (Some(x), Some(y)) => Arc::ptr_eq(x, y) || x == y,
                (None, None) => true,
                (Some(x), None) | (None, Some(x)) => x.iter().all(|&byte| byte == 0),
            };
            a.pages.iter().zip(&b.pages).all(same)
        })
    }

    /// A sector as it would be read now.
    pub(super) fn peek(&self, platter: usize, sector: u64) -> Bytes {
        self.inner().platters[platter].newest(sector)
    }

    /// A log is damaged.
    pub(super) fn tear_log(&self) {
        self.inner().tore_log = true;
    }

    /// Changes bits of a sector behind everybody's back.
    pub(super) fn rot(&self, platter: usize, sector: u64, byte: usize) {
        let mut inner = self.inner();
        let platter = &mut inner.platters[platter];
        let mut bytes = platter.newest(sector);
        bytes[byte % SECTOR as usize] ^= 0x10;
        platter.cache.remove(&sector);
        platter.harden(sector, &bytes);
    }

    /// Looks at or changes a platter's faults.
    pub(super) fn faults<R>(&self, platter: usize, with: impl FnOnce(&mut Faults) -> R) -> R {
        with(&mut self.inner().platters[platter].faults)
    }

    /// Has a write or flush to it failed?
    pub(super) fn refused(&self, platter: usize) -> bool {
        self.inner().platters[platter].refused
    }

    /// Is its superblock older than it should be?
    pub(super) fn lags(&self, platter: usize) -> bool {
        self.inner().platters[platter].lags
    }

    /// It is in order again, as far as it is itself concerned.
    pub(super) fn heal(&self, platter: usize) {
        let mut inner = self.inner();
        inner.platters[platter].faults = Faults::default();
        inner.platters[platter].refused = false;
    }

    pub(super) fn set_now(&self, now: Duration) {
        self.inner().now = now;
    }

    /// From here on chance comes from `seed`.
    pub(super) fn reseed(&self, seed: u64) {
        self.inner().random = Random::new(seed);
    }

    /// The power goes after so many more completions.
    pub(super) fn cut_in(&self, completions: u64) {
        self.inner().cut_in = Some(completions);
    }

    pub(super) fn is_dead(&self) -> bool {
        self.inner().dead
    }

    /// The power goes now.
    pub(super) fn cut(&self) {
        self.inner().cut();
    }

    /// The process dies: what it had handed over may still be done, and caches stay as they are.
    pub(super) fn kill(&self) {
        let mut inner = self.inner();
        inner.note_log();
        inner.spill();
        // The drives go on without it: for a later flush, these writes are over. What a flush has lost is not read back any
        // more: nobody is left who was told, and what is in a cache only could not be told from what is not.
        for platter in &mut inner.platters {
            for versions in platter.cache.values_mut() {
                versions.retain(|version| !version.lost);
            }
            platter.cache.retain(|_, versions| !versions.is_empty());
            platter.completed += 1;
            let done = platter.completed;
            let open = platter
                .cache
                .values_mut()
                .flatten()
                .filter(|version| version.done == u64::MAX && !version.lost);
            open.for_each(|version| version.done = done);
        }
        inner.dead = true;
    }

    /// The power is back; so is the patience of those that hung.
    pub(super) fn restart(&self) {
        let mut inner = self.inner();
        (inner.dead, inner.cut_in) = (false, None);
        inner.flights.clear();
        for platter in &mut inner.platters {
            platter.faults.hangs_until = Duration::ZERO;
        }
    }

    /// The queue opened last.
    pub(super) fn newest_queue(&self) -> usize {
        self.inner().ports.len().saturating_sub(1)
    }

    /// Logs are whole again.
    pub(super) fn mend_log(&self) {
        self.inner().tore_log = false;
    }

    /// May the last crash have left a partial parity log half written?
    pub(super) fn tore_log(&self) -> bool {
        self.inner().tore_log
    }

    /// Shall the queue be run?
    pub(super) fn is_woken(&self, queue: usize) -> bool {
        let inner = self.inner();
        inner.ports[queue].woken.load(Relaxed) || !inner.ports[queue].ready.is_empty()
    }

    /// The queue is about to be run.
    pub(super) fn answer(&self, queue: usize) {
        self.inner().ports[queue].woken.store(false, Relaxed);
    }

    pub(super) fn wake(&self, queue: usize) {
        self.inner().ports[queue].woken.store(true, Relaxed);
    }

    /// Is there an operation that could get on now?
    pub(super) fn can_move(&self) -> bool {
        let inner = self.inner();
        inner.flights.iter().any(|flight| inner.moves(flight))
    }

    /// When the next one that hangs would get on.
    pub(super) fn next_move(&self) -> Option<Duration> {
        let inner = self.inner();
        inner.flights.iter().map(|flight| inner.platters[flight.platter].faults.hangs_until).min()
    }

    /// Moves one operation on, if one can.
    pub(super) fn advance(&self) {
        self.inner().advance();
    }

    /// Nothing is under way on any platter.
    pub(super) fn is_quiet(&self) -> bool {
        self.inner().flights.is_empty()
    }

    /// Takes something into the trace.
    pub(super) fn note(&self, word: u64) {
        self.inner().note(word);
    }

    /// All that happened, in one number.
    pub(super) fn trace(&self) -> u64 {
        self.inner().trace
    }

    pub(super) fn operations(&self) -> u64 {
        self.inner().operations
    }

    pub(super) fn struck(&self) -> Struck {
        self.inner().struck
    }
}

impl Offered {
    fn all(&self) -> MutexGuard<'_, Vec<usize>> {
        self.platters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The platter behind a number.
    pub(super) fn platter(&self, disk: DiskId) -> usize {
        self.all()[disk.index()]
    }

    /// Gives a platter a new number.
    pub(super) fn plug(&self, platter: usize) -> DiskId {
        let mut platters = self.all();
        platters.push(platter);
        DiskId((platters.len() - 1) as u16)
    }
}

impl Inner {
    fn note(&mut self, word: u64) {
        self.trace = (self.trace ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    fn moves(&self, flight: &Flight) -> bool {
        self.dead || self.platters[flight.platter].faults.hangs_until <= self.now
    }

    fn advance(&mut self) {
        let movable: Vec<usize> =
            (0..self.flights.len()).filter(|&index| self.moves(&self.flights[index])).collect();
        if movable.is_empty() {
            return;
        }
        let index =
            if self.calm { movable[0] } else { movable[self.random.below(movable.len() as u64) as usize] };
        if self.step(index) {
            self.land(index);
        }
    }

    /// Moves some sectors of a flight; true when it is at its end.
    fn step(&mut self, index: usize) -> bool {
        let faults = &self.platters[self.flights[index].platter].faults;
        if self.dead || faults.gone {
            self.struck.gone += u64::from(!self.dead);
            self.flights[index].failure = Some(Failure::GONE);
            return true;
        }
        let Some((at, len)) = self.flights[index].op.place() else { return true };
        let sectors = len as u64 / SECTOR;
        let most = if self.calm { sectors } else { 1 + self.random.below(sectors) };
        for _ in 0..most {
            let flight = &self.flights[index];
            if flight.moved == sectors || flight.failure.is_some() {
                break;
            }
            if flight.fails_after == Some(flight.moved) {
                self.flights[index].failure = Some(Failure::from_errno(libc::EIO));
                break;
            }
            let nth = if flight.backwards { sectors - 1 - flight.moved } else { flight.moved };
            self.move_sector(index, at.0 + nth, nth as usize);
            self.flights[index].moved += 1;
        }
        let flight = &self.flights[index];
        flight.failure.is_some() || flight.moved == sectors
    }

    fn move_sector(&mut self, index: usize, sector: u64, nth: usize) {
        let flight = &mut self.flights[index];
        let platter = &mut self.platters[flight.platter];
        let range = nth * SECTOR as usize..(nth + 1) * SECTOR as usize;
        match &mut flight.op {
            Op::Read { buf, .. } => {
                if platter.faults.latent.contains(&sector) {
                    self.struck.latent += 1;
                    flight.failure = Some(Failure::from_errno(libc::EIO));
                    buf.bytes_mut()[range].fill(0xdb);
                } else {
                    buf.bytes_mut()[range].copy_from_slice(&platter.newest(sector));
                }
            }
            Op::Write { .. } | Op::Zero { .. } => {
                let sector = match (flight.lost, flight.astray) {
                    (false, _) => sector,
                    (true, Some(further)) => sector + further,
                    (true, None) => return,
                };
                let mut bytes = [0; SECTOR as usize];
                if let Op::Write { buf, .. } = &flight.op {
                    bytes.copy_from_slice(&buf.bytes()[range]);
                }
                platter.faults.latent.remove(&sector);
                if self.calm {
                    return platter.harden(sector, &bytes);
                }
                let version =
                    Version { write: flight.write, done: u64::MAX, lost: false, bytes: Box::new(bytes) };
                platter.cache.entry(sector).or_default().push(version);
            }
            Op::Flush { .. } => {}
        }
    }

    /// A flight is at its end.
    fn land(&mut self, index: usize) {
        let flight = self.flights.swap_remove(index);
        let platter = &mut self.platters[flight.platter];
        let mut failure = flight.failure;
        match &flight.op {
            op @ (Op::Write { .. } | Op::Zero { .. }) if failure.is_none() && !flight.lost => {
                platter.completed += 1;
                let done = platter.completed;
                let (at, len) = op.place().unwrap_or_default();
                for sector in at.0..at.0 + len as u64 / SECTOR {
                    for version in platter.cache.get_mut(&sector).into_iter().flatten() {
                        if version.write == flight.write {
                            version.done = done;
                        }
                    }
                    if op.is_fua() {
                        platter.harden_where(sector, |version| version.write == flight.write);
                    }
                }
            }
            Op::Flush { .. } if failure.is_none() => {
                if std::mem::take(&mut platter.faults.lost_flush) {
                    platter.lose_flushed(flight.covers, &mut self.random);
                    self.struck.flushes += 1;
                    failure = Some(Failure::from_errno(libc::EIO));
                } else {
                    platter.flush(flight.covers);
                }
            }
            _ => {}
        }
        if matches!(flight.op, Op::Write { at, fua: true, .. } if at.0 <= 8) && failure.is_none() {
            platter.lags = flight.lost;
        }
        let changes = !matches!(flight.op, Op::Read { .. });
        if failure.is_some() && changes && !self.dead {
            platter.refused = true;
            self.tore_log |= flight.op.place().is_some_and(|(at, _)| LOGS.contains(&at.0));
        }
        let (place, _) = flight.op.place().unwrap_or((DiskLba(0), 0));
        self.note(flight.platter as u64 | place.0 << 8 | u64::from(failure.is_some()) << 60);
        self.operations += 1;
        let result = failure.map_or(Ok(()), Err);
        self.deliver(flight.queue, flight.op.done(flight.ticket, result));
        if let Some(left) = &mut self.cut_in {
            *left = left.saturating_sub(1);
            if *left == 0 && !self.dead {
                self.cut();
            }
        }
    }

    fn deliver(&mut self, queue: usize, done: Done) {
        let port = &mut self.ports[queue];
        port.ready.push(done);
        port.woken.store(true, Relaxed);
    }

    /// Some sectors of what is under way reach their platters yet.
    fn spill(&mut self) {
        for index in 0..self.flights.len() {
            let flight = &self.flights[index];
            let kind = flight.op.kind();
            let Some((at, len)) = flight.op.place() else { continue };
            if !matches!(kind, OpKind::Write | OpKind::Zero)
                || self.platters[flight.platter].faults.gone
                || flight.fails_after.is_some()
            {
                continue;
            }
            let likely = self.random.below(3);
            for nth in 0..len as u64 / SECTOR {
                if likely > 0 && self.random.below(3) < likely {
                    self.move_sector(index, at.0 + nth, nth as usize);
                }
            }
        }
    }

    /// Is something of a partial parity log half written?
    fn note_log(&mut self) {
        let torn = |flight: &Flight| matches!(flight.op, Op::Write { at, .. } if LOGS.contains(&at.0));
        self.tore_log |= self.flights.iter().any(torn);
    }

    fn cut(&mut self) {
        self.note_log();
        self.spill();
        for platter in &mut self.platters {
            platter.lose_cache(&mut self.random);
        }
        self.dead = true;
        self.cut_in = None;
    }

    fn submit(&mut self, queue: usize, ticket: u64, platter: Option<usize>, op: Op) {
        self.ports[queue].in_flight += 1;
        let drive = platter.map(|platter| &mut self.platters[platter]);
        let refused = match &drive {
            None => Some(Failure::GONE),
            Some(_) if self.dead => Some(Failure::GONE),
            Some(drive) => match op.place() {
                Some((at, len)) if !(at.bytes() | len as u64).is_multiple_of(u64::from(drive.block)) => {
                    Some(Failure::from_errno(libc::EINVAL))
                }
                _ => op.check(Sectors(drive.size)).err(),
            },
        };
        let (Some(drive), None) = (drive, refused) else {
            let result = Err(refused.unwrap_or(Failure::GONE));
            return self.deliver(queue, op.done(ticket, result));
        };
        let (mut fails_after, mut lost, mut astray) = (None, false, None);
        match &op {
            Op::Read { buf, .. }
                if drive.faults.transient > 0 && self.random.one_in(drive.faults.transient.into()) =>
            {
                self.struck.transient += 1;
                fails_after = Some(self.random.below(buf.len() as u64 / SECTOR));
            }
            Op::Write { .. } | Op::Zero { .. } if drive.faults.refused_writes > 0 => {
                drive.faults.refused_writes -= 1;
                // (Whoever wrote is about to be told: nothing more may be asked of the others from now on.)
                drive.refused = true;
                self.struck.writes += 1;
                let (_, len) = op.place().unwrap_or_default();
                fails_after = Some(self.random.below(len as u64 / SECTOR));
            }
            Op::Write { at, fua: true, .. } if at.0 <= 8 && drive.faults.lost_superblock => {
                drive.faults.lost_superblock = false;
                drive.lags = true;
                self.struck.superblocks += 1;
                lost = true;
                if self.random.one_in(2) {
                    // Into what follows the superblock: the bitmap or the log, where there is one.
                    astray = Some(8);
                    self.tore_log = true;
                }
            }
            _ => {}
        }
        self.writes += 1;
        let flight = Flight {
            queue,
            ticket,
            platter: platter.unwrap_or_default(),
            op,
            write: self.writes,
            covers: drive.completed,
            moved: 0,
            backwards: !self.calm && self.random.one_in(2),
            failure: None,
            fails_after,
            lost,
            astray,
        };
        self.flights.push(flight);
    }
}

struct Bell(Arc<AtomicBool>);

impl Wake for Bell {
    fn wake(&self) {
        self.0.store(true, Relaxed);
    }
}

impl Backend for Offered {
    fn len(&self) -> usize {
        self.all().len()
    }

    fn info(&self, id: DiskId) -> DiskInfo {
        let platter = self.platter(id);
        let inner = self.disks.inner();
        let drive = &inner.platters[platter];
        let info = DiskInfo::new(format!("sim{platter}"), Sectors(drive.size), drive.block, DiskKind::Other);
        DiskInfo { prefers_fua: drive.prefers_fua, inline: false, ..info }
    }

    fn queue(&self, _depth: usize) -> Result<Box<dyn Disks>> {
        let woken = Arc::new(AtomicBool::new(true));
        let mut inner = self.disks.inner();
        inner.ports.push(Port { ready: Vec::new(), in_flight: 0, woken: woken.clone() });
        let queue = inner.ports.len() - 1;
        drop(inner);
        let (disks, names) = (self.disks.clone(), self.platters.clone());
        let attached = self.all().iter().map(|&platter| Some(platter)).collect();
        Ok(Box::new(SimQueue { disks, queue, attached, woken, names }))
    }
}

struct SimQueue {
    disks: SimDisks,
    queue: usize,
    /// By the disk's number; `None` was let go of.
    attached: Vec<Option<usize>>,
    woken: Arc<AtomicBool>,
    names: Arc<Mutex<Vec<usize>>>,
}

impl Disks for SimQueue {
    fn submit(&mut self, ticket: u64, op: Op) {
        let platter = self.attached.get(op.disk().index()).copied().flatten();
        self.disks.inner().submit(self.queue, ticket, platter, op);
    }

    fn kick(&mut self) {}

    fn reap(&mut self, out: &mut Vec<Done>, wait: Option<Duration>) -> bool {
        let mut inner = self.disks.inner();
        // Whoever waits is answered before it returns: nobody else runs meanwhile, but for the disks.
        while wait.is_some()
            && inner.ports[self.queue].ready.is_empty()
            && inner.ports[self.queue].in_flight > 0
        {
            let hangs =
                inner.flights.iter().map(|flight| inner.platters[flight.platter].faults.hangs_until).min();
            inner.now = inner.now.max(hangs.unwrap_or_default());
            inner.advance();
        }
        let calm = inner.calm;
        while calm && !inner.flights.is_empty() {
            inner.advance();
        }
        let port = &mut inner.ports[self.queue];
        port.in_flight -= port.ready.len();
        out.append(&mut port.ready);
        // Nobody runs in between who could wake it.
        false
    }

    fn in_flight(&self) -> usize {
        self.disks.inner().ports[self.queue].in_flight
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(Bell(self.woken.clone()))
    }

    fn attach(&mut self, id: DiskId) {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        while self.attached.len() <= id.index() {
            let next = names.get(self.attached.len()).copied();
            self.attached.push(next);
        }
    }

    fn detach(&mut self, id: DiskId) {
        if let Some(platter) = self.attached.get_mut(id.index()) {
            *platter = None;
        }
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Drop for SimQueue {
    fn drop(&mut self) {
        let queue = self.queue;
        self.disks.inner().flights.retain(|flight| flight.queue != queue);
    }
}
