//! The load, on an LU or on raw disks, and what came of it.
//!
//! Both drivers turn in the same loop: submit all that is free, take what is done, look at the clock once a
//! turn. Latency is taken of every request at small depth, else of one in sixteen, since looking at the clock
//! costs as much as a request to memory does.

use std::sync::{Barrier, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use uraid::disk::{AlignedBuf, Backend, Memory, Op, RegionId};
use uraid::lu::Extent;
use uraid::units::{SECTOR, Sectors};
use uraid::{ErrorKind, Lu};

use super::{Pattern, Work};
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;

/// How long to sleep for a completion before the clock is looked at.
const NAP: Duration = Duration::from_millis(20);

/// Up to this depth every request's latency is taken.
const SHALLOW: u16 = 4;

/// Longest latency that is told from longer ones, in nanoseconds.
const LONGEST: u64 = 60_000_000_000;

/// One request in so many, beyond.
const SAMPLE: u64 = 16;

/// A load.
#[derive(Clone)]
pub(super) struct Load {
    pattern: Pattern,
    /// Bytes in a request.
    pub(super) bs: u64,
    depth: u16,
    threads: u16,
    until: Until,
    /// Bytes of the LU.
    size: u64,
    /// Ends with the rebuild that is under way, if that is sooner.
    while_busy: bool,
}

/// When a run ends.
#[derive(Clone, Copy)]
enum Until {
    After(Duration),
    /// Requests, in all.
    Requests(u64),
}

/// What a load runs on.
pub(super) enum Driver<'a> {
    Lu(&'a Lu),
    /// The members' data areas, of which that share is used that `share` bytes of the LU take.
    Raw {
        backend: &'a dyn Backend,
        extents: Vec<Extent>,
        share: u64,
    },
}

/// What came of a run.
#[derive(Clone, Default)]
pub(super) struct Figures {
    pub(super) requests: u64,
    pub(super) bytes: u64,
    pub(super) elapsed: Duration,
    /// CPU time of the process, the kernel's part included.
    pub(super) cpu: Duration,
    /// Of requests, in nanoseconds.
    pub(super) latency: Option<Histogram<u64>>,
}

impl Figures {
    /// Bytes per second.
    pub(super) fn speed(&self) -> f64 {
        self.bytes as f64 / self.elapsed.as_secs_f64()
    }

    /// Requests per second.
    pub(super) fn iops(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }

    /// Nanoseconds of CPU time for a request.
    pub(super) fn cpu_per_request(&self) -> f64 {
        self.cpu.as_nanos() as f64 / self.requests.max(1) as f64
    }
}

impl Load {
    /// # Errors
    /// Usage if not even one request fits `size` bytes.
    pub(super) fn new(work: &Work, size: u64) -> Outcome<Load> {
        if size < work.bs {
            return Err(Failure::usage(format!("--bs {} is more than there is: {size} bytes", work.bs)));
        }
        let Work { rw, bs, depth, threads, runtime, .. } = *work;
        Ok(Load { pattern: rw, bs, depth, threads, until: Until::After(runtime), size, while_busy: false })
    }

    /// The same, reading only or writing only.
    pub(super) fn only(&self, write: bool) -> Load {
        Load { pattern: self.pattern.only(write), ..self.clone() }
    }

    /// The same, for so many requests.
    pub(super) fn for_requests(&self, count: u64) -> Load {
        Load { until: Until::Requests(count.div_ceil(self.threads.into())), ..self.clone() }
    }

    /// The same, but no longer than a resync or rebuild of the LU is under way.
    pub(super) fn while_busy(&self) -> Load {
        Load { while_busy: true, ..self.clone() }
    }

    /// Offsets in the LU at which requests may come, and whether each writes: a fair sample.
    pub(super) fn sample(&self) -> Vec<(u64, bool)> {
        let mut places = Places::new(self, 0);
        (0..256).map(|_| (places.next(self.size / self.bs) * self.bs, places.writes())).collect()
    }

    /// Requests that lie one after the other are merged where that saves something.
    pub(super) fn is_sequential(&self) -> bool {
        !self.pattern.is_random()
    }

    /// Bytes of the LU in use.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Does it write, read?
    pub(super) fn directions(&self) -> (bool, bool) {
        (self.pattern.writes(), self.pattern.reads())
    }

    pub(super) fn run(&self, on: &Driver<'_>, interrupt: &Interrupt) -> Outcome<Figures> {
        let start = Barrier::new(self.threads.into());
        let sum: Mutex<Outcome<Figures>> = Mutex::new(Ok(Figures::default()));
        let cpu = cpu_time();
        std::thread::scope(|scope| {
            for number in 0..self.threads {
                let (start, sum) = (&start, &sum);
                scope.spawn(move || {
                    let result = match on {
                        Driver::Lu(lu) => self.on_lu(lu, number, start, interrupt),
                        Driver::Raw { backend, extents, share } => {
                            let disks = Raw { backend: *backend, extents, size: *share };
                            self.on_disks(&disks, number, start, interrupt)
                        }
                    };
                    let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                    add(&mut sum, result);
                });
            }
        });
        let mut figures = sum.into_inner().unwrap_or_else(PoisonError::into_inner)?;
        interrupt.check()?;
        figures.cpu = cpu_time().saturating_sub(cpu);
        Ok(figures)
    }

    fn on_lu(&self, lu: &Lu, number: u16, start: &Barrier, interrupt: &Interrupt) -> Outcome<Figures> {
        let opened = lu.queue(self.depth.into());
        start.wait();
        let mut queue = opened?;
        let mut places = Places::new(self, number);
        let slots = self.size / self.bs;
        let mut meter = Meter::new(self, interrupt);
        let mut free = queue.buffers(self.depth.into(), self.bs as usize)?;
        fill(&mut free);
        let mut done = Vec::with_capacity(free.len());
        while meter.goes_on(free.len()) {
            if self.while_busy && lu.watch_work(&mut |_| false)? {
                meter.over = true;
                if free.len() == usize::from(self.depth) {
                    break;
                }
            }
            while !meter.is_over()
                && let Some(buffer) = free.pop()
            {
                let (offset, cookie) = (places.next(slots) * self.bs, meter.begin());
                match places.writes() {
                    true => queue.write(cookie, buffer, offset, false)?,
                    false => queue.read(cookie, buffer, offset)?,
                }
            }
            queue.poll(&mut done, Some(NAP));
            for completion in done.drain(..) {
                completion.result?;
                meter.end(completion.cookie);
                free.extend(completion.buffer);
            }
        }
        Ok(meter.figures())
    }

    fn on_disks(
        &self,
        on: &Raw<'_>,
        number: u16,
        start: &Barrier,
        interrupt: &Interrupt,
    ) -> Outcome<Figures> {
        let opened = on.backend.queue(self.depth.into());
        start.wait();
        let mut disks = opened?;
        let mut memory = Memory::new(self.depth.into(), 0);
        let mut places = Places::new(self, number);
        let mut meter = Meter::new(self, interrupt);
        let mut buffers = disks.buffers(self.depth.into(), self.bs as usize)?;
        fill(&mut buffers);
        let mut free: Vec<RegionId> =
            buffers.into_iter().map_while(|buffer| memory.insert_owned(buffer)).collect();
        let mut done = Vec::with_capacity(free.len());
        let slots = on.slots(self.bs);
        while meter.goes_on(free.len()) {
            while !meter.is_over()
                && let Some(region) = free.pop()
            {
                let (place, cookie) = (places.next(slots), meter.begin());
                let (write, span) = (places.writes(), memory.whole(region));
                let extent = on.extents[(place % on.extents.len() as u64) as usize];
                let at = extent.start + Sectors(place / on.extents.len() as u64 * self.bs / SECTOR);
                let disk = extent.disk;
                let op = match write {
                    true => Op::Write { disk, at, buf: memory.io_write_from(span), fua: false },
                    false => Op::Read { disk, at, buf: memory.io_read_into(span) },
                };
                disks.submit(cookie, op);
            }
            disks.kick();
            disks.reap(&mut done, Some(NAP));
            for done in done.drain(..) {
                let failed = |failure| Failure::of(ErrorKind::Io, format!("a raw disk: {failure}"));
                done.result.map_err(failed)?;
                meter.end(done.ticket);
                if let Some(buf) = done.buf {
                    free.push(buf.span().region);
                    memory.done(buf);
                }
            }
        }
        Ok(meter.figures())
    }
}

/// Disks to be measured raw.
struct Raw<'a> {
    backend: &'a dyn Backend,
    extents: &'a [Extent],
    /// Bytes of the LU that are in use.
    size: u64,
}

impl Raw<'_> {
    /// Requests of `bs` bytes that fit the disks, on all of them together.
    fn slots(&self, bs: u64) -> u64 {
        let shortest = self.extents.iter().map(|extent| extent.length.bytes()).min().unwrap_or(0);
        let disks = self.extents.len() as u64;
        disks * (shortest.min(self.size) / bs).max(1)
    }
}

fn add(sum: &mut Outcome<Figures>, more: Outcome<Figures>) {
    match (&mut *sum, more) {
        (Ok(sum), Ok(more)) => {
            sum.requests += more.requests;
            sum.bytes += more.bytes;
            sum.elapsed = sum.elapsed.max(more.elapsed);
            match (&mut sum.latency, more.latency) {
                (Some(sum), Some(more)) => {
                    // Both have the same bounds.
                    let _ = sum.add(more);
                }
                (sum, more) => *sum = sum.take().or(more),
            }
        }
        (Ok(_), Err(error)) => *sum = Err(error),
        (Err(_), _) => {}
    }
}

/// Where the next request goes.
struct Places {
    random: bool,
    writes: bool,
    reads: bool,
    next: u64,
    state: u64,
}

impl Places {
    fn new(load: &Load, thread: u16) -> Places {
        let (writes, reads) = load.directions();
        // Threads that go in order begin in different places.
        let next = load.size / load.bs * u64::from(thread) / u64::from(load.threads);
        let state = 0x9E37_79B9_7F4A_7C15 ^ u64::from(thread + 1) << 32;
        Places { random: load.pattern.is_random(), writes, reads, next, state }
    }

    /// A number below `slots`.
    fn next(&mut self, slots: u64) -> u64 {
        if !self.random {
            let place = self.next % slots;
            self.next += 1;
            return place;
        }
        self.step();
        ((u128::from(self.state) * u128::from(slots)) >> 64) as u64
    }

    /// Does the request at the place given last write?
    fn writes(&mut self) -> bool {
        match (self.writes, self.reads) {
            (true, true) => {
                self.step();
                self.state >> 63 == 1
            }
            (writes, _) => writes,
        }
    }

    /// xorshift64*, good enough to go anywhere, and nearly free.
    fn step(&mut self) {
        let mut x = self.state;
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.state = x.wrapping_mul(0x2545_F491_4F6C_DD1D);
    }
}

/// Counts requests and takes times.
struct Meter<'a> {
    load: &'a Load,
    interrupt: &'a Interrupt,
    begun: u64,
    ended: u64,
    /// When the requests began whose latency is taken, by their number.
    since: Vec<Instant>,
    every: u64,
    latency: Histogram<u64>,
    start: Instant,
    now: Instant,
    over: bool,
}

impl<'a> Meter<'a> {
    fn new(load: &'a Load, interrupt: &'a Interrupt) -> Meter<'a> {
        let now = Instant::now();
        let latency = Histogram::new_with_bounds(1, LONGEST, 3).expect("bounds in order, and three digits");
        let every = if load.depth <= SHALLOW { 1 } else { SAMPLE };
        let since = vec![now; usize::from(load.depth) + 1];
        Meter { load, interrupt, begun: 0, ended: 0, since, every, latency, start: now, now, over: false }
    }

    /// Is there more to do, or to wait for, when `free` buffers are free?
    fn goes_on(&mut self, free: usize) -> bool {
        self.now = Instant::now();
        self.over = self.interrupt.caught().is_some()
            || match self.load.until {
                Until::After(time) => self.now - self.start >= time,
                Until::Requests(count) => self.begun >= count,
            };
        !self.over || free < usize::from(self.load.depth)
    }

    fn is_over(&self) -> bool {
        self.over || matches!(self.load.until, Until::Requests(count) if self.begun >= count)
    }

    /// The cookie of the next request: zero, or where the time is kept at which it began.
    fn begin(&mut self) -> u64 {
        self.begun += 1;
        if !self.begun.is_multiple_of(self.every) {
            return 0;
        }
        let place = self.begun / self.every % (self.since.len() as u64 - 1) + 1;
        self.since[place as usize] = Instant::now();
        place
    }

    fn end(&mut self, cookie: u64) {
        self.ended += 1;
        if cookie > 0 {
            let nanoseconds = self.since[cookie as usize].elapsed().as_nanos() as u64;
            self.latency.saturating_record(nanoseconds.max(1));
        }
    }

    fn figures(self) -> Figures {
        Figures {
            requests: self.ended,
            bytes: self.ended * self.load.bs,
            elapsed: self.start.elapsed(),
            cpu: Duration::ZERO,
            latency: Some(self.latency),
        }
    }
}

/// CPU time this process has used.
pub(super) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Fills buffers with what no layer below can make smaller.
fn fill(buffers: &mut [AlignedBuf]) {
    for (state, buffer) in (1u64..).zip(buffers) {
        let mut state = state;
        for byte in buffer.iter_mut() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (state >> 56) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(rw: Pattern) -> Load {
        let work = Work {
            rw,
            bs: 4096,
            depth: 32,
            threads: 1,
            runtime: Duration::from_secs(1),
            rounds: 1,
            size: None,
        };
        Load::new(&work, 1 << 20).unwrap()
    }

    #[test]
    fn requests_go_where_they_should() {
        let sequential = load(Pattern::Read).sample();
        assert_eq!(sequential[..3], [(0, false), (4096, false), (8192, false)]);
        let random = load(Pattern::Randrw).sample();
        assert!(random.iter().all(|&(offset, _)| offset < 1 << 20 && offset % 4096 == 0));
        let writes = random.iter().filter(|place| place.1).count();
        assert!((64..192).contains(&writes), "{writes} of {}", random.len());
        let mut distinct: Vec<u64> = random.iter().map(|place| place.0).collect();
        distinct.sort_unstable();
        distinct.dedup();
        assert!(distinct.len() > 128, "only {} places", distinct.len());
    }

    #[test]
    fn a_request_longer_than_the_lu_is_refused() {
        assert!(Load::new(&Work { bs: 2 << 20, ..work_of(&load(Pattern::Read)) }, 1 << 20).is_err());
    }

    fn work_of(load: &Load) -> Work {
        Work {
            rw: load.pattern,
            bs: load.bs,
            depth: load.depth,
            threads: load.threads,
            runtime: Duration::from_secs(1),
            rounds: 1,
            size: None,
        }
    }
}
