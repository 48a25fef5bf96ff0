//! The hot path does not allocate: after a warm-up, reads and writes on a queue cost no allocation, on any level, in
//! no thread. A counting allocator around the system's tells.
//!
//! One test only in this file: the count is of the whole process.
#![allow(unsafe_code, reason = "an allocator cannot be written without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use uraid::Lu;
use uraid::disk::AlignedBuf;
use uraid::lu::{Completion, IoMode, Policy, Queue};
use uraid::units::Level;

/// The system's allocator, counted.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: everything is handed on to the system's allocator as it came; counting touches no memory but the counter's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, SeqCst);
        // SAFETY: the caller's promises are the ones asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the ones asked for.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, SeqCst);
        // SAFETY: the caller's promises are the ones asked for.
        unsafe { System.realloc(at, layout, new_size) }
    }
}

const DEPTH: usize = 32;

/// For the warm-up, and once more to be counted.
const REQUESTS: usize = 2500;

/// A load that brings its own buffers and takes them back.
struct Load {
    queue: Queue,
    buffers: Vec<AlignedBuf>,
    done: Vec<Completion>,
    size: u64,
    state: u64,
}

impl Load {
    fn next(&mut self, below: u64) -> u64 {
        self.state = self.state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.state >> 33) % below
    }

    /// Batches of `DEPTH` reads, writes or flushes until `requests` are done.
    fn run(&mut self, requests: usize) {
        for _ in 0..requests / DEPTH {
            let sequential = self.next(4) == 0;
            let start = self.next(self.size / 4096 - DEPTH as u64 * 4) * 4096;
            let mut cookie = 0;
            while let Some(buffer) = self.buffers.pop() {
                let offset = match sequential {
                    true => start + cookie * 4096,
                    false => self.next((self.size - buffer.len() as u64) / 4096) * 4096,
                };
                match sequential || self.next(2) == 0 {
                    true => self.queue.write(cookie, buffer, offset, cookie == 3).unwrap(),
                    false => self.queue.read(cookie, buffer, offset).unwrap(),
                }
                cookie += 1;
            }
            while self.queue.in_flight() > 0 {
                self.queue.poll(&mut self.done, Some(Duration::from_millis(100)));
                for done in self.done.drain(..) {
                    assert!(done.result.is_ok());
                    self.buffers.extend(done.buffer);
                }
            }
        }
    }
}

fn allocations_of(folder: &Path, level: Level, io: IoMode, policy: Policy) -> (u64, usize) {
    let create = (0..4).fold(Lu::create("quiet", level).disk_size(24 << 20), |create, i| {
        create.disk(folder.join(format!("{level}-{policy}-{io:?}-{i}")))
    });
    let lu = create.io(io).policy(policy).make().unwrap();
    let mut buffers: Vec<AlignedBuf> = (0..DEPTH).map(|i| AlignedBuf::new(4096 << (i % 3))).collect();
    buffers.shrink_to_fit();
    let queue = lu.queue(DEPTH).unwrap();
    let mut load = Load { queue, buffers, done: Vec::with_capacity(DEPTH), size: lu.size(), state: 7 };
    load.run(REQUESTS);
    let before = ALLOCATIONS.load(SeqCst);
    load.run(REQUESTS);
    (ALLOCATIONS.load(SeqCst) - before, REQUESTS)
}

#[test]
fn reads_and_writes_do_not_allocate() {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    for io in [IoMode::Plain, IoMode::Uring] {
        for level in [Level::Raid0, Level::Raid1, Level::Raid5, Level::Raid6, Level::Raid10] {
            let (allocations, requests) = allocations_of(folder.path(), level, io, Policy::None);
            assert_eq!(allocations, 0, "{level} with {io:?}: in {requests} requests");
        }
        let (allocations, requests) = allocations_of(folder.path(), Level::Raid5, io, Policy::Ppl);
        assert_eq!(allocations, 0, "raid5 with a log and {io:?}: in {requests} requests");
    }
}
