//! One suite for all ways to drive disks: whatever the backend, the same promises.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tempfile::TempDir;

use super::faulty::{Effect, Fault, Faulty};
use super::file::create_sparse;
use super::traced::Traced;
use super::*;

const SIZE: Sectors = Sectors(4096);
const FOREVER: Duration = Duration::from_secs(60);

/// Everything that holds for any backend with two or more zeroed disks of [`SIZE`].
fn suite(backend: &dyn Backend) {
    random_operations_agree_with_a_model(backend, 1);
    random_operations_agree_with_a_model(backend, 64);
    more_than_the_depth_waits(backend);
    what_cannot_be_done_fails(backend);
    waking_ends_a_sleep(backend);
    queues_move_between_threads(backend);
    readiness_is_seen_from_outside(backend);
    detached_disks_are_gone(backend);
    metadata_of_any_length(backend);
    dropping_with_io_in_flight(backend);
}

struct Rig {
    queue: Box<dyn Disks>,
    memory: Memory,
    out: Vec<Done>,
}

impl Rig {
    fn new(backend: &dyn Backend, depth: usize) -> Rig {
        let (mut queue, memory) = (backend.queue(depth).unwrap(), Memory::new(256, 8 << 20));
        queue.register(memory.arena().unwrap());
        Rig { queue, memory, out: Vec::new() }
    }

    /// A region of the pool with each byte `fill`.
    fn filled(&mut self, len: u32, fill: u8) -> Span {
        let region = self.memory.pool_alloc(len).expect("the pool is large enough");
        let span = self.memory.whole(region);
        self.memory.bytes_mut(span).fill(fill);
        span
    }

    fn read(&mut self, ticket: u64, disk: DiskId, at: u64, span: Span) {
        let buf = self.memory.io_read_into(span);
        self.queue.submit(ticket, Op::Read { disk, at: DiskLba(at), buf });
    }

    fn write(&mut self, ticket: u64, disk: DiskId, at: u64, span: Span, fua: bool) {
        let buf = self.memory.io_write_from(span);
        self.queue.submit(ticket, Op::Write { disk, at: DiskLba(at), buf, fua });
    }

    fn zero(&mut self, ticket: u64, disk: DiskId, at: u64, sectors: u64) {
        self.queue.submit(ticket, Op::Zero { disk, at: DiskLba(at), sectors: Sectors(sectors) });
    }

    /// Drives the queue until something is complete.
    fn complete(&mut self) -> Vec<(u64, Result<(), Failure>)> {
        self.queue.kick();
        while self.out.is_empty() {
            self.queue.reap(&mut self.out, Some(FOREVER));
        }
        let mut results = Vec::new();
        for done in self.out.drain(..) {
            results.push((done.ticket, done.result));
            if let Some(buf) = done.buf {
                self.memory.done(buf);
            }
        }
        results
    }

    fn complete_all(&mut self) -> Vec<(u64, Result<(), Failure>)> {
        let mut results = Vec::new();
        while self.queue.in_flight() > 0 {
            results.append(&mut self.complete());
        }
        results
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

/// Reads and writes in flight, and what the disks should hold.
struct Model {
    content: [Vec<u8>; 2],
    flying: BTreeMap<u64, Transfer>,
}

#[derive(Clone, Copy)]
struct Transfer {
    disk: DiskId,
    at: u64,
    span: Span,
    kind: OpKind,
}

impl Transfer {
    fn bytes(&self) -> std::ops::Range<usize> {
        let start = (self.at * SECTOR) as usize;
        start..start + self.span.len as usize
    }

    fn clashes(&self, other: &Transfer) -> bool {
        let (a, b) = (self.bytes(), other.bytes());
        self.disk == other.disk && a.start < b.end && b.start < a.end
    }
}

impl Model {
    /// Starts from what is there.
    fn new(rig: &mut Rig) -> Model {
        let content = [DiskId(0), DiskId(1)].map(|disk| {
            let span = rig.filled(SIZE.bytes() as u32, 0xff);
            rig.read(7, disk, 0, span);
            assert_eq!(rig.complete_all(), [(7, Ok(()))]);
            let content = rig.memory.bytes(span).to_vec();
            rig.memory.pool_free(span.region);
            content
        });
        Model { content, flying: BTreeMap::new() }
    }

    fn finish(&mut self, rig: &mut Rig) {
        for (ticket, result) in rig.complete() {
            assert_eq!(result, Ok(()), "ticket {ticket}");
            let Some(t) = self.flying.remove(&ticket) else { continue };
            let held = &mut self.content[t.disk.index()][t.bytes()];
            match t.kind {
                OpKind::Read => assert!(rig.memory.bytes(t.span) == held, "read of {} at {}", t.disk, t.at),
                OpKind::Write => held.copy_from_slice(rig.memory.bytes(t.span)),
                _ => held.fill(0),
            }
            rig.memory.pool_free(t.span.region);
        }
    }
}

/// Operations in flight together do not overlap: their order would be open.
fn random_operations_agree_with_a_model(backend: &dyn Backend, depth: usize) {
    let mut rig = Rig::new(backend, depth);
    let mut model = Model::new(&mut rig);
    let mut random = Random(depth as u64);
    let block = u64::from(backend.info(DiskId(0)).block) / SECTOR;
    for round in 0..300 {
        let longest = [64, 4, 4, 4][random.below(4) as usize];
        let len = block * (1 + random.below(longest));
        let span = rig.filled((len * SECTOR) as u32, round as u8 | 1);
        let at = block * random.below((SIZE.0 - len) / block + 1);
        let disk = DiskId(random.below(2) as u16);
        let kind = [OpKind::Read, OpKind::Read, OpKind::Write, OpKind::Write, OpKind::Zero];
        let t = Transfer { disk, at, span, kind: kind[random.below(5) as usize] };
        while rig.queue.in_flight() >= depth || model.flying.values().any(|other| other.clashes(&t)) {
            model.finish(&mut rig);
        }
        match t.kind {
            OpKind::Read => rig.read(round, t.disk, at, span),
            OpKind::Write => rig.write(round, t.disk, at, span, random.below(4) == 0),
            _ => rig.zero(round, t.disk, at, len),
        }
        model.flying.insert(round, t);
        if random.below(16) == 0 {
            rig.queue.submit(1_000_000 + round, Op::Flush { disk: t.disk });
        }
    }
    while rig.queue.in_flight() > 0 {
        model.finish(&mut rig);
    }
    assert!(model.flying.is_empty());
    let after = Model::new(&mut rig);
    assert!(after.content == model.content);
}

fn more_than_the_depth_waits(backend: &dyn Backend) {
    let mut rig = Rig::new(backend, 2);
    let block = backend.info(DiskId(0)).block;
    for ticket in 0..100 {
        let span = rig.filled(block, ticket as u8);
        rig.write(ticket, DiskId(0), ticket * u64::from(block) / SECTOR, span, false);
    }
    assert_eq!(rig.queue.in_flight(), 100);
    let mut tickets: Vec<u64> = rig
        .complete_all()
        .into_iter()
        .map(|(ticket, result)| {
            assert_eq!(result, Ok(()));
            ticket
        })
        .collect();
    tickets.sort_unstable();
    assert!(tickets.into_iter().eq(0..100));
}

fn what_cannot_be_done_fails(backend: &dyn Backend) {
    let mut rig = Rig::new(backend, 8);
    let block = backend.info(DiskId(0)).block;
    let span = rig.filled(block * 2, 3);
    let (one, last) = (span.part(0, block), SIZE.0 - u64::from(block) / SECTOR);

    rig.write(0, DiskId(0), last, span, false);
    assert_eq!(rig.complete_all(), [(0, Err(Failure::from_errno(libc::ENOSPC)))], "files do not grow");
    rig.read(1, DiskId(0), last, span);
    assert_eq!(rig.complete_all(), [(1, Err(Failure::SHORT))]);
    rig.read(2, DiskId(0), u64::MAX, one);
    rig.write(3, DiskId(999), 0, one.part(0, 0), false);
    let results = rig.complete_all();
    assert_eq!(results.len(), 2);
    assert!(results.contains(&(2, Err(Failure::SHORT))) && results.contains(&(3, Err(Failure::GONE))));
    // Not whole sectors; a buffer that must not be changed.
    rig.write(4, DiskId(0), 0, span.part(0, 100), false);
    assert_eq!(rig.complete_all(), [(4, Err(Failure::from_errno(libc::EINVAL)))]);
    let buf = rig.memory.io_write_from(one);
    rig.queue.submit(5, Op::Read { disk: DiskId(0), at: DiskLba(0), buf });
    assert!(rig.complete_all()[0].1.is_err());
    // The queue is as good as before, and nothing at all is something that can be transferred.
    rig.write(6, DiskId(0), last, one, true);
    assert_eq!(rig.complete_all(), [(6, Ok(()))]);
    rig.read(7, DiskId(0), SIZE.0, span.part(0, 0));
    assert_eq!(rig.complete_all(), [(7, Ok(()))]);
}

fn waking_ends_a_sleep(backend: &dyn Backend) {
    let mut rig = Rig::new(backend, 4);
    let waker = rig.queue.waker();
    for round in 0..20 {
        let started = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                if round % 4 == 0 {
                    std::thread::sleep(Duration::from_millis(2));
                }
                waker.wake();
                waker.wake();
            });
            rig.queue.reap(&mut rig.out, Some(FOREVER));
        });
        assert!(rig.out.is_empty() && started.elapsed() < FOREVER / 2);
        // Take in the second wake, if it came as one of its own.
        rig.queue.reap(&mut rig.out, Some(Duration::ZERO));
    }
    // Nobody asleep: the next sleep ends at once, the one after it lasts.
    waker.wake();
    let started = Instant::now();
    rig.queue.reap(&mut rig.out, Some(FOREVER));
    assert!(started.elapsed() < FOREVER / 2);
    let started = Instant::now();
    rig.queue.reap(&mut rig.out, Some(Duration::from_millis(10)));
    assert!(started.elapsed() >= Duration::from_millis(9), "nothing to wake for");
    drop(rig);
    waker.wake();
}

/// Submitted by a thread that is gone when the completions are reaped.
fn queues_move_between_threads(backend: &dyn Backend) {
    let block = backend.info(DiskId(0)).block;
    let mut rig = Rig::new(backend, 32);
    for round in 0..5u64 {
        rig = std::thread::scope(|scope| {
            let submitter = scope.spawn(move || {
                for ticket in 0..16 {
                    let span = rig.filled(block, round as u8);
                    rig.write(ticket, DiskId(1), ticket * u64::from(block) / SECTOR, span, ticket % 3 == 0);
                    rig.queue.submit(100 + ticket, Op::Flush { disk: DiskId(1) });
                }
                rig.queue.kick();
                rig
            });
            submitter.join().unwrap()
        });
        let results = rig.complete_all();
        assert_eq!(results.len(), 32);
        assert!(results.iter().all(|(_, result)| result.is_ok()), "{results:?}");
        let waker = rig.queue.waker();
        waker.wake();
        let started = Instant::now();
        rig.queue.reap(&mut rig.out, Some(FOREVER));
        assert!(started.elapsed() < FOREVER / 2, "the wake-up outlives the thread that made it");
    }
}

fn readiness_is_seen_from_outside(backend: &dyn Backend) {
    let mut rig = Rig::new(backend, 4);
    let block = backend.info(DiskId(0)).block;
    let readable = |queue: &dyn Disks, wait: i64| {
        let fd = queue.event_fd().expect("these have one");
        poll(&mut [PollFd::new(&fd.as_fd(), PollFlags::IN)], Some(&Timespec { tv_sec: wait, tv_nsec: 0 }))
            == Ok(1)
    };
    assert!(!readable(&*rig.queue, 0));
    let span = rig.filled(block, 1);
    rig.write(1, DiskId(0), 0, span, false);
    rig.queue.kick();
    rig.queue.reap(&mut rig.out, None);
    while rig.out.is_empty() {
        assert!(readable(&*rig.queue, 60));
        rig.queue.reap(&mut rig.out, None);
    }
    assert_eq!(rig.complete(), [(1, Ok(()))]);
    rig.queue.waker().wake();
    assert!(readable(&*rig.queue, 60));
    // After the wake is taken in by a reap, it is quiet again, whether that one would have slept or not.
    assert!(rig.queue.reap(&mut rig.out, Some(FOREVER)));
    assert!(!readable(&*rig.queue, 0));
    rig.queue.waker().wake();
    assert!(readable(&*rig.queue, 60));
    assert!(rig.queue.reap(&mut rig.out, None));
    assert!(!readable(&*rig.queue, 0));
    assert!(!rig.queue.reap(&mut rig.out, None), "told once");
}

fn detached_disks_are_gone(backend: &dyn Backend) {
    let mut rig = Rig::new(backend, 4);
    let block = backend.info(DiskId(0)).block;
    let span = rig.filled(block, 1);
    rig.write(1, DiskId(0), 0, span, false);
    rig.queue.detach(DiskId(0));
    assert_eq!(rig.complete_all(), [(1, Ok(()))], "what was in flight completes");
    rig.write(2, DiskId(0), 0, span, false);
    assert_eq!(rig.complete_all(), [(2, Err(Failure::GONE))]);
    rig.write(3, DiskId(1), 0, span, false);
    assert_eq!(rig.complete_all(), [(3, Ok(()))]);
    rig.queue.detach(DiskId(0));
    rig.queue.attach(DiskId(0));
    rig.queue.attach(DiskId(1));
    rig.write(4, DiskId(0), 0, span, false);
    assert_eq!(rig.complete_all(), [(4, Ok(()))]);
}

fn metadata_of_any_length(backend: &dyn Backend) {
    let disks = Blocking::new(backend).unwrap();
    let disk = DiskId(1);
    let mut model = vec![0u8; SIZE.bytes() as usize];
    disks.write_exact(disk, DiskLba(0), &model, false).unwrap();
    let mut random = Random(3);
    for round in 1..40u8 {
        let at = random.below(SIZE.0 - 1000);
        let len = random.below(if round % 8 == 0 { 300_000 } else { 5000 }) as usize;
        let bytes = vec![round; len];
        disks.write_exact(disk, DiskLba(at), &bytes, round % 2 == 0).unwrap();
        model[(at * SECTOR) as usize..][..len].copy_from_slice(&bytes);
        let from = random.below(SIZE.0 - 1000);
        let mut read = vec![0; len + 1];
        disks.read_exact(disk, DiskLba(from), &mut read).unwrap();
        assert!(read == model[(from * SECTOR) as usize..][..len + 1]);
    }
    disks.flush(disk).unwrap();
    let mut all = vec![0xff; model.len()];
    disks.read_exact(disk, DiskLba(0), &mut all).unwrap();
    assert!(all == model);

    let error = disks.read_exact(disk, DiskLba(SIZE.0 - 1), &mut [0; 513]).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Io);
    assert!(error.to_string().contains(&backend.info(disk).name), "{error}");
    assert!(disks.write_exact(disk, DiskLba(u64::MAX), &[0], false).is_err());
    disks.write_exact(disk, SIZE_END, &[], false).unwrap();
}

const SIZE_END: DiskLba = DiskLba(SIZE.0);

fn dropping_with_io_in_flight(backend: &dyn Backend) {
    for kick in [false, true] {
        let mut rig = Rig::new(backend, 16);
        let block = backend.info(DiskId(0)).block;
        for ticket in 0..20 {
            let span = rig.filled(block, 0);
            rig.read(ticket, DiskId(0), 0, span);
        }
        if kick {
            rig.queue.kick();
        }
        // First the queue, then the memory, which knows that it may still be written to and stays.
        drop(rig);
    }
}

// -----------------------------------------------------------------------------------------------------------
// The backends
// -----------------------------------------------------------------------------------------------------------

fn files(mode: IoMode, dir: &Path, direct: bool) -> FileBackend {
    let backend = FileBackend::new(mode);
    for name in ["a", "b"] {
        create_sparse(dir.join(name), SIZE).unwrap();
        let open = if direct { FileDisk::open } else { FileDisk::open_buffered };
        let disk = open(dir.join(name), Access::Exclusive).unwrap();
        backend.add(disk).unwrap();
    }
    backend
}

/// Where the build lives: a file system on a disk, hopefully. And the one in memory, if there is one.
fn dirs() -> Vec<TempDir> {
    let build = std::env::current_exe().unwrap();
    let here = tempfile::tempdir_in(build.parent().unwrap()).unwrap();
    std::iter::once(here).chain(tempfile::tempdir_in("/dev/shm").ok()).collect()
}

/// Containers may forbid it; then there is nothing to test.
fn uring_is_allowed() -> bool {
    FileBackend::new(IoMode::Uring).queue(1).is_ok()
}

#[test]
fn uring_keeps_the_promises() {
    if uring_is_allowed() {
        for dir in dirs() {
            suite(&files(IoMode::Uring, dir.path(), true));
        }
    }
}

/// With a thread of the kernel's that is awake, and one that has to be woken again and again.
#[test]
fn a_polled_ring_keeps_the_promises() {
    for idle in [1, 1000].map(Duration::from_millis) {
        suite(&files(IoMode::Polled { idle }, dirs()[0].path(), true));
    }
}

#[test]
fn uring_keeps_the_promises_through_the_page_cache() {
    if uring_is_allowed() {
        suite(&files(IoMode::Uring, dirs()[0].path(), false));
    }
}

#[test]
fn plain_calls_keep_the_promises() {
    for dir in dirs() {
        suite(&files(IoMode::Plain, dir.path(), true));
    }
}

#[test]
fn the_automatic_choice_keeps_the_promises() {
    for dir in dirs() {
        suite(&files(IoMode::Auto, dir.path(), true));
    }
}

/// One disk in the ring, one inline.
#[test]
fn a_mixed_queue_keeps_the_promises() {
    let dirs = dirs();
    let backend = FileBackend::new(IoMode::Auto);
    for (i, dir) in [&dirs[0], dirs.last().unwrap()].into_iter().enumerate() {
        let path = dir.path().join(format!("mixed{i}"));
        create_sparse(&path, SIZE).unwrap();
        backend.add(FileDisk::open_buffered(&path, Access::Exclusive).unwrap()).unwrap();
    }
    suite(&backend);
}

#[test]
fn memory_keeps_the_promises() {
    suite(&MemoryBackend::with_disks(2, SIZE, 512));
    suite(&MemoryBackend::with_disks(2, SIZE, 4096));
}

#[test]
fn wrappers_keep_the_promises() {
    suite(&Traced::new(MemoryBackend::with_disks(2, SIZE, 512), 100));
    suite(&Faulty::new(MemoryBackend::with_disks(2, SIZE, 4096), 0));
    let shuffled = Faulty::new(Traced::new(files(IoMode::Auto, dirs()[0].path(), true), 0), 9);
    shuffled.faults().add(Fault::new(Effect::Hold(5)).one_in(3));
    random_operations_agree_with_a_model(&shuffled, 32);
    more_than_the_depth_waits(&shuffled);
    queues_move_between_threads(&shuffled);
    metadata_of_any_length(&shuffled);
    assert!(shuffled.faults().struck() > 0);
}

#[test]
fn backends_pass_for_themselves_behind_pointers() {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::with_disks(2, SIZE, 512));
    more_than_the_depth_waits(&Traced::new(backend.clone(), 4));
    assert_eq!((backend.len(), backend.is_empty()), (2, false));
}

#[test]
fn blocks_are_enforced_in_memory() {
    let backend = MemoryBackend::with_disks(1, Sectors(17), 4096);
    assert_eq!(backend.info(DiskId(0)).size, Sectors(16));
    let mut rig = Rig::new(&backend, 4);
    let span = rig.filled(4096, 1);
    rig.write(1, DiskId(0), 1, span, false);
    assert_eq!(rig.complete_all(), [(1, Err(Failure::from_errno(libc::EINVAL)))]);
    rig.write(2, DiskId(0), 0, span.part(0, 512), false);
    assert_eq!(rig.complete_all(), [(2, Err(Failure::from_errno(libc::EINVAL)))]);
}

#[test]
fn disks_come_and_go_while_queues_are_open() {
    for mode in [IoMode::Auto, IoMode::Plain] {
        let dir = &dirs()[0];
        let backend = FileBackend::new(mode);
        let mut rig = Rig::new(&backend, 4);
        // More than the ring's table has room for.
        for i in 0..40u16 {
            let path = dir.path().join(format!("{i}"));
            create_sparse(&path, SIZE).unwrap();
            let id = backend.add(FileDisk::open(&path, Access::Exclusive).unwrap()).unwrap();
            assert_eq!(id, DiskId(i));
            let span = rig.filled(4096, i as u8);
            rig.write(1, id, 0, span, true);
            assert_eq!(rig.complete_all(), [(1, Err(Failure::GONE))], "not yet attached");
            rig.queue.attach(id);
            rig.write(2, id, 0, span, true);
            assert_eq!(rig.complete_all(), [(2, Ok(()))]);
            assert_eq!(std::fs::read(&path).unwrap()[..4096], vec![i as u8; 4096]);
            rig.memory.pool_free(span.region);
        }
        for i in 0..40u16 {
            let path = dir.path().join(format!("{i}"));
            backend.remove(DiskId(i));
            assert_eq!(FileDisk::open(&path, Access::Shared).unwrap_err().kind(), crate::ErrorKind::Busy);
            rig.queue.detach(DiskId(i));
            FileDisk::open(&path, Access::Exclusive).expect("the claim has ended");
            assert_eq!(backend.info(DiskId(i)).name, path.display().to_string());
        }
    }
}

/// Somebody cuts a file off that we hold: an error, not a wait and not stale bytes.
#[test]
fn a_file_that_shrinks_ends_transfers_short() {
    for mode in [IoMode::Auto, IoMode::Plain] {
        let dir = &dirs()[0];
        let backend = files(mode, dir.path(), true);
        let cut = std::fs::File::options().write(true).open(dir.path().join("a")).unwrap();
        cut.set_len(12288).unwrap();
        let mut rig = Rig::new(&backend, 4);
        let span = rig.filled(16384, 1);
        rig.read(1, DiskId(0), 0, span);
        assert_eq!(rig.complete_all(), [(1, Err(Failure::SHORT))]);
        rig.read(2, DiskId(0), 0, span.part(0, 12288));
        assert_eq!(rig.complete_all(), [(2, Ok(()))]);
    }
}

/// Neighbours go to the disk as one, come back one by one, and fail one by one.
#[test]
fn neighbours_are_one_transfer() {
    for mode in [IoMode::Uring, IoMode::Auto, IoMode::Plain] {
        for dir in dirs() {
            if mode == IoMode::Uring && !uring_is_allowed() {
                continue;
            }
            let backend = files(mode, dir.path(), true);
            let mut rig = Rig::new(&backend, 32);
            let span = rig.filled(65536, 7);
            for n in 0..16 {
                rig.write(n, DiskId(0), n * 8, span.part(n as u32 * 4096, 4096), false);
            }
            let mut ended = rig.complete_all();
            ended.sort_by_key(|&(ticket, _)| ticket);
            assert_eq!(ended, (0..16).map(|n| (n, Ok(()))).collect::<Vec<_>>());
            // In the other order they are no neighbours.
            for n in (0..4).rev() {
                rig.read(n, DiskId(0), n * 8, span.part(n as u32 * 4096, 4096));
            }
            assert_eq!(rig.complete_all().len(), 4);
            let cut = std::fs::File::options().write(true).open(dir.path().join("a")).unwrap();
            cut.set_len(8192).unwrap();
            for n in 0..4 {
                rig.read(n, DiskId(0), n * 8, span.part(n as u32 * 4096, 4096));
            }
            let mut ended = rig.complete_all();
            ended.sort_by_key(|&(ticket, _)| ticket);
            let short = Err(Failure::SHORT);
            assert_eq!(ended, [(0, Ok(())), (1, Ok(())), (2, short), (3, short)]);
            drop(rig);
            let Transfers { reads, writes, flushes, .. } = backend.transfers().unwrap();
            assert_eq!((reads, writes, flushes), (4 + 1 + 4, 1, 0), "{mode:?}");
        }
    }
}

/// A file loses what is zeroed, in as few calls as there are runs; one that refuses is written to, whoever asks.
#[test]
fn zeroes_are_holes_where_the_disk_makes_them() {
    use std::os::unix::fs::MetadataExt;
    for mode in [IoMode::Uring, IoMode::Plain] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, vec![7; SIZE.bytes() as usize]).unwrap();
        for refuses in [false, true] {
            let backend = FileBackend::new(mode);
            let disk = FileDisk::open(&path, Access::Exclusive).unwrap();
            assert!(disk.info().zeroes);
            let id = backend.add(disk).unwrap();
            if refuses {
                backend.disk(id).unwrap().refuses_to_zero();
            }
            assert_eq!(backend.info(id).zeroes, !refuses);
            let mut rig = Rig::new(&backend, 32);
            let first = if refuses { 2048 } else { 0 };
            for n in 0..8 {
                rig.zero(n, id, first + n * 128, 128);
            }
            // More than is written at a time, and no multiple of it.
            rig.zero(8, id, first + 1024, 16);
            let mut ended = rig.complete_all();
            ended.sort_by_key(|&(ticket, _)| ticket);
            assert_eq!(ended, (0..9).map(|n| (n, Ok(()))).collect::<Vec<_>>(), "{mode:?}");
            drop(rig);
            if !refuses {
                assert_eq!(backend.transfers().unwrap().zeroes, 1, "{mode:?}");
                let held = std::fs::metadata(&path).unwrap().blocks();
                assert!(held <= SIZE.0 - 1024, "{held} sectors are left");
            }
        }
        let bytes = std::fs::read(&path).unwrap();
        let zeroed = |sector: u64| sector % 2048 < 1040;
        for (sector, bytes) in (0..).zip(bytes.chunks_exact(512)) {
            assert!(bytes.iter().all(|&byte| byte == if zeroed(sector) { 0 } else { 7 }), "sector {sector}");
        }
        assert_eq!(bytes.len() as u64, SIZE.bytes());
    }
}

#[test]
fn answers_of_the_kernel_are_understood() {
    use super::plain::{Progress, progress};
    let to = |answer, done, block| match progress(answer, done, 16384, block) {
        Progress::To(to) => Ok(to),
        Progress::Failed(failure) => Err(failure),
    };
    assert_eq!(to(Ok(16384), 0, 512), Ok(16384));
    assert_eq!(to(Ok(8192), 8192, 4096), Ok(16384));
    assert_eq!(to(Ok(5000), 0, 512), Ok(4608));
    assert_eq!(to(Ok(5000), 4096, 4096), Ok(8192), "goes on at a block");
    assert_eq!(to(Ok(100), 4096, 4096), Ok(4096), "no progress");
    assert_eq!(to(Ok(0), 4096, 4096), Err(Failure::SHORT));
    for again in [libc::EINTR, libc::EAGAIN, libc::ECANCELED] {
        assert_eq!(to(Err(again), 512, 512), Ok(512));
    }
    assert_eq!(to(Err(libc::EIO), 0, 512), Err(Failure::from_errno(libc::EIO)));
    assert!(matches!(progress(Ok(0), 0, 0, 512), Progress::To(0)), "a flush");
}

/// Lent memory goes to the disk and back without a copy.
#[test]
fn lent_memory_is_read_into() {
    let backend = MemoryBackend::with_disks(1, SIZE, 512);
    backend.poke(DiskId(0), DiskLba(3), &[5; 512]);
    let mut bytes = [0; 1024];
    lend(&mut bytes, |lent| {
        let mut rig = Rig::new(&backend, 1);
        let region = rig.memory.insert_lent(lent).unwrap();
        let span = rig.memory.whole(region);
        rig.read(0, DiskId(0), 3, span);
        assert_eq!(rig.complete_all(), [(0, Ok(()))]);
        drop(rig.memory.remove_lent(region));
    });
    assert_eq!((bytes[0], bytes[511], bytes[512]), (5, 5, 0));
}

// -----------------------------------------------------------------------------------------------------------
// Registered memory
// -----------------------------------------------------------------------------------------------------------

/// Bytes of a buffer.
const LEN: usize = 64 << 10;

/// A pattern's place and size on a disk are those of buffer `n`.
fn transfer(disks: &mut dyn Disks, disk: u16, n: usize, write: bool, buffer: AlignedBuf) -> AlignedBuf {
    let mut memory = Memory::new(1, 0);
    let region = memory.insert_owned(buffer).unwrap();
    let (disk, at, span) = (DiskId(disk), DiskLba((n * LEN) as u64 / SECTOR), memory.whole(region));
    let op = match write {
        true => Op::Write { disk, at, buf: memory.io_write_from(span), fua: n == 1 },
        false => Op::Read { disk, at, buf: memory.io_read_into(span) },
    };
    disks.submit(0, op);
    let mut out = Vec::new();
    while out.is_empty() {
        disks.reap(&mut out, Some(FOREVER));
    }
    let done = out.pop().unwrap();
    done.result.unwrap();
    memory.done(done.buf.unwrap());
    memory.remove_owned(region)
}

/// Writes each byte of the buffers as `fill` and reads it back into them.
fn go_round(disks: &mut dyn Disks, disk: u16, fill: u8, buffers: Vec<AlignedBuf>) -> Vec<AlignedBuf> {
    let turn = |(n, mut buffer): (usize, AlignedBuf)| {
        buffer.fill(fill);
        let mut buffer = transfer(disks, disk, n, true, buffer);
        buffer.fill(!fill);
        let buffer = transfer(disks, disk, n, false, buffer);
        assert!(buffer.iter().all(|&byte| byte == fill), "buffer {n} of {fill}");
        buffer
    };
    buffers.into_iter().enumerate().map(turn).collect()
}

/// Two disks with direct I/O, if there are such and rings may register memory: more of it than the other tests, whose rings
/// are the same user's, can use up together.
fn registering(dir: &Path) -> Option<FileBackend> {
    let backend = files(IoMode::Uring, dir, true);
    let mut ring = backend.ring(1).ok()?;
    let mut buffers = ring.buffers((32 << 20) / LEN, LEN).unwrap();
    buffers.truncate(1);
    go_round(&mut ring, 0, 1, buffers);
    (ring.pinned() > 0).then_some(backend)
}

/// Whatever was dropped and whatever lies where it was: what is on the disk is what is in the buffer.
#[test]
fn what_lies_where_registered_memory_was_is_not_taken_for_it() {
    let dir = &dirs()[0];
    let Some(backend) = registering(dir.path()) else { return };
    let mut ring = backend.ring(4).unwrap();
    let mut kept = Vec::new();
    for fill in 0..40 {
        let buffers = ring.buffers(4, LEN).unwrap();
        let mut buffers = go_round(&mut ring, 0, fill, buffers);
        if fill % 8 == 0 {
            kept.extend(buffers.pop().map(|buffer| (fill, buffer)));
        }
        drop(buffers);
        // Not registered, in new mappings and in what the allocator gives.
        let buffers = AlignedBuf::several(4, LEN).unwrap();
        drop(go_round(&mut ring, 1, fill + 100, buffers));
        let buffers = (0..4).map(|_| AlignedBuf::new(LEN)).collect();
        drop(go_round(&mut ring, 1, fill + 200, buffers));
        assert_eq!(std::fs::read(dir.path().join("a")).unwrap()[..4 * LEN], vec![fill; 4 * LEN]);
        assert!(ring.pinned() <= (kept.len() + 1) * 4 * LEN, "what nobody uses is let go");
    }
    for (fill, buffer) in kept {
        assert!(buffer.iter().all(|&byte| byte == fill));
        go_round(&mut ring, 0, !fill, vec![buffer]);
    }
}

#[test]
fn registered_buffers_outlive_their_queue_and_serve_others() {
    let dirs = [tempfile::tempdir_in(dirs()[0].path().parent().unwrap()).unwrap(), dirs().remove(0)];
    let [Some(here), Some(there)] = dirs.each_ref().map(|dir| registering(dir.path())) else { return };
    let mut ring = here.ring(4).unwrap();
    let buffers = ring.buffers(3, LEN).unwrap();
    assert_eq!(ring.pinned(), 0, "not before they are used");
    let buffers = go_round(&mut ring, 0, 1, buffers);
    assert_eq!(ring.pinned(), 3 * LEN);
    let (mut other, mut inline) = (there.ring(4).unwrap(), there.open_queue(4, IoMode::Plain).unwrap());
    let buffers = go_round(&mut other, 0, 2, buffers);
    assert_eq!(other.pinned(), 0, "never told of them");
    drop(ring);
    let buffers = go_round(&mut other, 0, 3, buffers);
    let buffers = go_round(&mut *inline, 0, 4, buffers);
    other.register(buffers[0].arena().unwrap());
    other.register(buffers[2].arena().unwrap());
    let buffers = go_round(&mut other, 1, 5, buffers);
    assert_eq!(other.pinned(), 3 * LEN);
    // The buffers first, or the queue, with transfers in flight or without.
    let mut memory = Memory::new(3, 0);
    for buffer in buffers {
        let region = memory.insert_owned(buffer).unwrap();
        let span = memory.whole(region);
        let op = Op::Read { disk: DiskId(0), at: DiskLba(0), buf: memory.io_read_into(span) };
        other.submit(0, op);
    }
    other.kick();
    drop(memory);
    drop(other);
}

/// A pool is registered where it is used, and given back.
#[test]
fn pools_are_registered_piece_by_piece() {
    let dir = &dirs()[0];
    let Some(backend) = registering(dir.path()) else { return };
    let mut ring = backend.ring(4).unwrap();
    for fill in 1..5 {
        let mut memory = Memory::new(8, 8 << 20);
        ring.register(memory.arena().unwrap());
        let mut out = Vec::new();
        for turn in 1..4 {
            let region = memory.pool_alloc(2 << 20).unwrap();
            let span = memory.whole(region).part(0, LEN as u32);
            memory.bytes_mut(span).fill(fill * 10 + turn);
            let op =
                Op::Write { disk: DiskId(0), at: DiskLba(0), buf: memory.io_write_from(span), fua: true };
            ring.submit(0, op);
            while out.is_empty() {
                ring.reap(&mut out, Some(FOREVER));
            }
            out.drain(..).for_each(|done| memory.done(done.buf.unwrap()));
            let bytes = std::fs::read(dir.path().join("a")).unwrap();
            assert!(bytes[..LEN].iter().all(|&byte| byte == fill * 10 + turn));
            assert_eq!(ring.pinned(), usize::from(turn) * (2 << 20));
        }
    }
}

#[test]
fn what_is_pinned_is_bounded() {
    let Some(backend) = registering(dirs()[0].path()) else { return };
    let mut ring = backend.ring(4).unwrap();
    let large = ring.buffers(1, MOST_PINNED + 1).unwrap();
    assert!(large[0].arena().is_some());
    let mut held = Vec::new();
    for fill in 0..100 {
        let buffers = ring.buffers(2, LEN).unwrap();
        held.push(go_round(&mut ring, 0, fill, buffers));
        assert!(ring.pinned() <= MOST_PINNED.min(held.len() * 2 * LEN));
    }
    drop(large);
    held.truncate(1);
    let buffers = ring.buffers(1, LEN).unwrap();
    go_round(&mut ring, 0, 0, buffers);
    assert_eq!(ring.pinned(), 3 * LEN);
}
