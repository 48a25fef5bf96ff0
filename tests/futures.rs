//! Queues as futures: under tokio on one thread, and under an executor of a few lines. Content is checked, disks fail meanwhile,
//! futures are dropped at all moments, and the queue is fuller than it is deep.

#![allow(unsafe_code, reason = "tokio asks for a promise that a descriptor stays open")]

#[path = "common/pattern.rs"]
mod pattern;

use std::future::Future;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker, ready};

use pattern::pattern;
use rustix::event::{PollFd, PollFlags, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;
use uraid::disk::faulty::{Faults, Faulty};
use uraid::disk::traced::{Trace, Traced};
use uraid::disk::{AlignedBuf, DiskId, OpKind};
use uraid::lu::{AsyncQueue, Driver, IoMode, Policy, Queue, State};
use uraid::units::Level;
use uraid::{ErrorKind, Lu, Result};

const BLOCK: usize = 4096;

/// What the disks below an LU are watched and broken with.
struct Below {
    faults: Faults,
    trace: Trace,
}

fn make(folder: &Path, level: Level, io: IoMode) -> (Lu, Below) {
    let below = Arc::new(Mutex::new(None));
    let handle = below.clone();
    let create = Lu::create("test", level).disk_size(16 << 20).policy(Policy::None).io(io);
    let create = (0..4).fold(create, |create, n| create.disk(folder.join(format!("d{n}"))));
    let lu = create.through(move |disks| {
        let traced = Traced::new(disks, 1 << 16);
        let trace = traced.trace();
        let faulty = Faulty::new(traced, 1);
        *handle.lock().unwrap() = Some(Below { faults: faulty.faults(), trace });
        Arc::new(faulty)
    });
    let lu = lu.make().unwrap();
    let below = below.lock().unwrap().take().expect("the disks were wrapped");
    (lu, below)
}

fn filled(seed: u64) -> AlignedBuf {
    let mut buffer = AlignedBuf::new(BLOCK);
    buffer.copy_from_slice(&pattern(BLOCK, seed));
    buffer
}

/// What block `n` of the LU holds.
fn block(lu: &Lu, n: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK];
    lu.read_at(&mut bytes, n * BLOCK as u64).unwrap();
    bytes
}

/// Runs `body` on one thread of tokio's.
fn on_tokio<T>(body: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap().block_on(body)
}

fn spawn(queue: Queue) -> (AsyncQueue, JoinHandle<Result<()>>) {
    let (queue, driver) = AsyncQueue::new(queue).unwrap();
    // SAFETY: an `OwnedFd` keeps its descriptor open.
    let fd = unsafe { AsyncFd::register_with_interest(driver.event_fd().unwrap(), Interest::READABLE) };
    let fd = fd.unwrap();
    let driver = tokio::spawn(driver.run(move |cx| {
        ready!(fd.poll_read_ready(cx))?.clear_ready();
        Poll::Ready(Ok(()))
    }));
    (queue, driver)
}

/// Polls a future once.
fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Writes its blocks again and again and reads them back, and returns what they hold at last.
async fn client(queue: AsyncQueue, part: u64, parts: u64, rounds: u64) -> Vec<(u64, u64)> {
    let (mut held, mut buffer) = (Vec::new(), AlignedBuf::new(BLOCK));
    for round in 0..rounds {
        let (place, seed) = (part + parts * (round % 5), part * 1000 + round);
        let offset = place * BLOCK as u64;
        buffer.copy_from_slice(&pattern(BLOCK, seed));
        let (result, back) = queue.write(offset, buffer, round.is_multiple_of(7)).await;
        result.unwrap();
        if round.is_multiple_of(4) {
            queue.flush().await.unwrap();
        }
        let (result, back) = queue.read(offset, back).await;
        result.unwrap();
        assert!(back[..] == pattern(BLOCK, seed), "block {place} of round {round}");
        buffer = back;
        held.retain(|&(other, _)| other != place);
        held.push((place, seed));
    }
    held
}

#[test]
fn many_tasks_and_a_disk_that_fails_meanwhile() {
    for io in [IoMode::Auto, IoMode::Uring, IoMode::Plain] {
        let folder = tempfile::tempdir().unwrap();
        let (lu, below) = make(folder.path(), Level::Raid5, io);
        let held = on_tokio(async {
            // Twenty-four tasks on a queue for eight, and another queue on the same rows.
            let (queue, driver) = spawn(lu.queue(8).unwrap());
            let (other, other_driver) = spawn(lu.queue(64).unwrap());
            let run = |n: u64| {
                tokio::spawn(client(if n.is_multiple_of(3) { &other } else { &queue }.clone(), n, 24, 40))
            };
            let clients: Vec<_> = (0..24).map(run).collect();
            let (result, _) = queue.read(0, AlignedBuf::new(BLOCK)).await;
            result.unwrap();
            below.faults.set_gone(DiskId(1), true);
            drop((queue, other));
            let mut held = Vec::new();
            for client in clients {
                held.extend(client.await.unwrap());
            }
            driver.await.unwrap().unwrap();
            other_driver.await.unwrap().unwrap();
            held
        });
        assert_eq!(lu.status().state, State::Degraded, "{io:?}");
        assert_eq!(held.len(), 24 * 5);
        for (place, seed) in held {
            assert!(block(&lu, place) == pattern(BLOCK, seed), "{io:?}: block {place}");
        }
        lu.stop().unwrap();
    }
}

#[test]
fn blocking_calls_on_the_thread_of_a_queue_that_holds_their_rows() {
    let folder = tempfile::tempdir().unwrap();
    let (lu, _) = make(folder.path(), Level::Raid5, IoMode::Uring);
    on_tokio(async {
        let (queue, driver) = spawn(lu.queue(8).unwrap());
        for round in 0..20 {
            let mut first = pin!(queue.write(0, filled(round), false));
            assert!(poll_once(first.as_mut()).is_pending());
            tokio::task::yield_now().await;
            // Nobody drives the queue meanwhile but this call itself.
            lu.write_at(&pattern(BLOCK, 1000 + round), 0).unwrap();
            let (result, _) = first.await;
            result.unwrap();
            let now = block(&lu, 0);
            assert!(now == pattern(BLOCK, round) || now == pattern(BLOCK, 1000 + round));
        }
        drop(queue);
        driver.await.unwrap().unwrap();
    });
    lu.stop().unwrap();
}

#[test]
fn a_queue_nobody_polls_does_not_hold_up_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let (lu, _) = make(folder.path(), Level::Raid5, IoMode::Uring);
    lu.write_at(&[1], 0).unwrap();
    for round in 0..8 {
        let mut careless = lu.queue(4).unwrap();
        careless.write(0, filled(round), 0, false).unwrap();
        careless.poll(&mut Vec::new(), None);
        on_tokio(async {
            let (queue, driver) = spawn(lu.queue(4).unwrap());
            let (result, _) = queue.write(0, filled(100 + round), false).await;
            result.unwrap();
            drop(queue);
            driver.await.unwrap().unwrap();
        });
        assert_eq!(block(&lu, 0), pattern(BLOCK, 100 + round));
        drop(careless);
    }
    lu.stop().unwrap();
}

#[test]
fn futures_may_be_dropped_at_any_time() {
    let folder = tempfile::tempdir().unwrap();
    let (lu, _) = make(folder.path(), Level::Raid5, IoMode::Uring);
    on_tokio(async {
        let (queue, driver) = spawn(lu.queue(4).unwrap());
        // Never polled: nothing happens.
        drop(queue.write(0, filled(1), false));
        assert!(block(&lu, 0).iter().all(|&byte| byte == 0));
        for round in 0..50 {
            // Sixteen for a queue of four: some are dropped while they wait, some under way, some when they are done.
            let mut dropped: Vec<_> =
                (0..16).map(|n| Box::pin(queue.write(n * BLOCK as u64, filled(n + 1), false))).collect();
            for future in &mut dropped {
                assert!(poll_once(future.as_mut()).is_pending());
            }
            for _ in 0..round % 5 {
                tokio::task::yield_now().await;
            }
            drop(dropped);
            // The queue has room for others.
            let (result, _) = queue.write((16 + round) * BLOCK as u64, filled(round), true).await;
            result.unwrap();
        }
        for n in 0..16 {
            let now = block(&lu, n);
            assert!(now == pattern(BLOCK, n + 1) || now.iter().all(|&byte| byte == 0), "block {n} is torn");
        }
        drop(queue);
        driver.await.unwrap().unwrap();
    });
    for round in 0..50 {
        assert!(block(&lu, 16 + round) == pattern(BLOCK, round));
    }
    lu.stop().unwrap();
}

#[test]
fn what_is_polled_in_one_turn_is_one_batch() {
    let folder = tempfile::tempdir().unwrap();
    let (lu, below) = make(folder.path(), Level::Raid5, IoMode::Plain);
    on_tokio(async {
        let (queue, driver) = spawn(lu.queue(64).unwrap());
        let (result, _) = queue.write(0, filled(0), false).await;
        result.unwrap();
        below.trace.clear();
        // A whole stripe, in pieces: nothing has to be read for its parity if these are planned together.
        let write = |n: u64| {
            let queue = queue.clone();
            tokio::spawn(async move { queue.write(n * BLOCK as u64, filled(n), false).await.0 })
        };
        let pieces: Vec<_> = (0..48).map(write).collect();
        for piece in pieces {
            piece.await.unwrap().unwrap();
        }
        drop(queue);
        driver.await.unwrap().unwrap();
    });
    assert_eq!(below.trace.records().iter().filter(|record| record.kind == OpKind::Read).count(), 0);
    for n in 0..48 {
        assert!(block(&lu, n) == pattern(BLOCK, n));
    }
    lu.stop().unwrap();
}

#[test]
fn zeroes_discards_and_refusals() {
    let folder = tempfile::tempdir().unwrap();
    let (lu, _) = make(folder.path(), Level::Raid5, IoMode::Auto);
    let size = lu.size();
    on_tokio(async {
        let (queue, driver) = spawn(lu.queue(4).unwrap());
        let (result, mut buffer) = queue.write(4096, filled(9), true).await;
        result.unwrap();
        // The buffer comes back, whatever is wrong.
        for offset in [1, size, u64::MAX - 4095] {
            let (result, back) = queue.read(offset, buffer).await;
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Usage);
            assert!(back[..] == pattern(BLOCK, 9));
            buffer = back;
        }
        assert_eq!(queue.write_zeroes(0, 1).await.unwrap_err().kind(), ErrorKind::Usage);
        assert_eq!(queue.discard(size, 1).await.unwrap_err().kind(), ErrorKind::Usage);
        queue.write_zeroes(4096, 4096).await.unwrap();
        queue.discard(0, size).await.unwrap();
        queue.flush().await.unwrap();
        let (result, buffer) = queue.read(4096, buffer).await;
        result.unwrap();
        assert!(buffer.iter().all(|&byte| byte == 0));
        drop(queue);
        driver.await.unwrap().unwrap();
    });
    lu.stop().unwrap();
}

#[test]
fn a_driver_that_is_dropped_finishes_what_is_under_way() {
    let folder = tempfile::tempdir().unwrap();
    let (lu, _) = make(folder.path(), Level::Raid5, IoMode::Uring);
    let (queue, driver) = AsyncQueue::new(lu.queue(4).unwrap()).unwrap();
    let mut running = Box::pin(driver.run(|_| Poll::Pending));
    let mut writes: Vec<_> =
        (0..8).map(|n| Box::pin(queue.write(n * BLOCK as u64, filled(n), false))).collect();
    for write in &mut writes {
        assert!(poll_once(write.as_mut()).is_pending());
    }
    // Four are submitted, four wait.
    assert!(poll_once(running.as_mut()).is_pending());
    drop(running);
    for (n, write) in writes.iter_mut().enumerate() {
        let Poll::Ready((result, buffer)) = poll_once(write.as_mut()) else {
            panic!("write {n} is not done")
        };
        assert_eq!(result.as_ref().err().map(uraid::Error::kind), (n >= 4).then_some(ErrorKind::Busy));
        assert!(buffer[..] == pattern(BLOCK, n as u64));
        let is_there = block(&lu, n as u64) == pattern(BLOCK, n as u64);
        assert_eq!(is_there, n < 4);
    }
    let mut late = pin!(queue.flush());
    assert!(matches!(poll_once(late.as_mut()), Poll::Ready(Err(error)) if error.kind() == ErrorKind::Busy));
    lu.stop().unwrap();
}

#[test]
fn a_busy_queue_cannot_become_asynchronous() {
    let folder = tempfile::tempdir().unwrap();
    let (lu, _) = make(folder.path(), Level::Raid5, IoMode::Auto);
    let mut queue = lu.queue(4).unwrap();
    queue.read(0, AlignedBuf::new(BLOCK), 0).unwrap();
    let refused = AsyncQueue::new(queue);
    assert!(matches!(refused, Err(error) if error.kind() == ErrorKind::Usage));
    lu.stop().unwrap();
}

/// Is set when its task is to be polled.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The whole executor: two tasks and a descriptor.
fn block_on<T>(fd: &OwnedFd, driver: impl Future<Output = Result<()>>, body: impl Future<Output = T>) -> T {
    let (mut driver, mut body) = (pin!(driver), pin!(body));
    let [drives, works] = [(); 2].map(|()| Arc::new(Flag(AtomicBool::new(true))));
    let (mut result, mut driven) = (None, false);
    while result.is_none() || !driven {
        if result.is_none() && works.0.swap(false, Ordering::SeqCst) {
            let waker = Waker::from(works.clone());
            if let Poll::Ready(value) = body.as_mut().poll(&mut Context::from_waker(&waker)) {
                result = Some(value);
            }
        } else if !driven && drives.0.swap(false, Ordering::SeqCst) {
            let waker = Waker::from(drives.clone());
            if let Poll::Ready(ended) = driver.as_mut().poll(&mut Context::from_waker(&waker)) {
                ended.unwrap();
                driven = true;
            }
        } else {
            poll(&mut [PollFd::new(fd, PollFlags::IN)], None).unwrap();
            drives.0.store(true, Ordering::SeqCst);
        }
    }
    result.expect("the loop ends with it")
}

#[test]
fn an_executor_of_a_few_lines_will_do() {
    for io in [IoMode::Uring, IoMode::Plain] {
        let folder = tempfile::tempdir().unwrap();
        let (lu, below) = make(folder.path(), Level::Raid5, io);
        let (queue, driver): (AsyncQueue, Driver) = AsyncQueue::new(lu.queue(4).unwrap()).unwrap();
        let fd = driver.event_fd().unwrap();
        // (It asks the driver after each sleep anyway.)
        let driver = driver.run(|_| Poll::Pending);
        let held = block_on(&fd, driver, async move {
            let held = client(queue.clone(), 0, 1, 20).await;
            below.faults.set_gone(DiskId(2), true);
            let more = client(queue, 5, 1, 20).await;
            [held, more].concat()
        });
        for (place, seed) in held {
            assert!(block(&lu, place) == pattern(BLOCK, seed), "{io:?}: block {place}");
        }
        assert_eq!(lu.status().state, State::Degraded);
        lu.stop().unwrap();
    }
}
