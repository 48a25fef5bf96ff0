//! Reads, writes, zeroes and flushes of the file, on a queue of the LU.
//!
//! A request is submitted by the thread that took it from the kernel. What the disks have done by then is answered
//! there and then; the rest by a thread of the lane's own, which sleeps until the queue has something for it. So a
//! disk that answers at once costs no change of threads, and one that does not holds up nobody.
//!
//! Promises: every request is answered once; at most [`DEPTH`] are under way, and who brings one more waits. Refuses
//! to know files.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fuser::{Errno, ReplyData, ReplyEmpty, ReplyWrite};
use rustix::event::{PollFd, PollFlags, poll};

use crate::Lu;
use crate::disk::AlignedBuf;
use crate::disk::bell::{Bell, timespec};
use crate::engine::Wake;
use crate::error::{Error, ErrorKind, Result};
use crate::lu::{Completion, Queue};

use super::super::kept::Kept;

/// Requests under way in one lane.
const DEPTH: usize = 64;

/// How long to sleep while something is under way: after that, whoever holds a lock that is waited for is helped along.
const NAP: Duration = Duration::from_millis(10);

/// A queue, and who answers what it has done.
pub(super) struct Lane {
    state: Arc<State>,
    answerer: Option<JoinHandle<()>>,
}

struct State {
    work: Mutex<Work>,
    /// Rung when something stays under way while the answerer sleeps for good, and at the end.
    bell: Bell,
    queue_fd: Option<OwnedFd>,
}

struct Work {
    queue: Queue,
    jobs: Vec<Option<Job>>,
    free: Vec<usize>,
    done: Vec<Completion>,
    kept: Kept,
    /// The answerer looks again soon by itself.
    naps: bool,
    ended: bool,
}

enum Job {
    /// Which bytes of the buffer were asked for.
    Read(ReplyData, Range<usize>),
    Write(ReplyWrite, u32),
    Flush(ReplyEmpty),
    /// A part of it.
    Zero(Arc<Zeroing>),
}

/// A request that several jobs carry out. The last of them answers it.
struct Zeroing {
    reply: Option<ReplyEmpty>,
    failed: AtomicBool,
}

impl Drop for Zeroing {
    fn drop(&mut self) {
        match self.reply.take() {
            Some(reply) if *self.failed.get_mut() => reply.error(Errno::EIO),
            Some(reply) => reply.ok(),
            None => {}
        }
    }
}

impl Job {
    fn refuse(self, errno: Errno) {
        match self {
            Job::Read(reply, _) => reply.error(errno),
            Job::Write(reply, _) => reply.error(errno),
            Job::Flush(reply) => reply.error(errno),
            Job::Zero(zeroing) => zeroing.failed.store(true, Ordering::Relaxed),
        }
    }
}

impl Lane {
    pub(super) fn open(lu: &Lu) -> Result<Lane> {
        let failed = |error: io::Error| Error::new(ErrorKind::Io, "cannot start to serve").with_source(error);
        let queue = lu.queue(DEPTH)?;
        // A copy: to sleep on the queue's own would be to keep others from driving it meanwhile.
        let queue_fd =
            queue.event_fd(|fd| fd.map(|fd| fd.try_clone_to_owned()).transpose()).map_err(failed)?;
        let work = Work {
            queue,
            jobs: (0..DEPTH).map(|_| None).collect(),
            free: (0..DEPTH).rev().collect(),
            done: Vec::new(),
            kept: Kept::new(DEPTH),
            naps: false,
            ended: false,
        };
        let state = Arc::new(State { work: Mutex::new(work), bell: Bell::new().map_err(failed)?, queue_fd });
        let own = state.clone();
        let answerer = thread::Builder::new().name("fuse answer".into()).spawn(move || own.answer());
        Ok(Lane { state, answerer: Some(answerer.map_err(failed)?) })
    }

    /// Reads `len` bytes at `offset`, which are inside the LU.
    pub(super) fn read(&self, lu: &Lu, offset: u64, len: usize, reply: ReplyData) {
        let blocks = lu.cut(offset, len);
        let head = blocks.keep.head as usize;
        let mut work = self.state.room();
        let buffer = work.kept.take(blocks.len);
        let job = Job::Read(reply, head..head + len);
        work.start(job, |queue, cookie| queue.read(cookie, buffer, blocks.start));
        self.state.turn(work);
    }

    /// Writes `bytes`, which are some, at `offset`, all of it inside the LU; with `fua`, stable when answered.
    pub(super) fn write(&self, lu: &Lu, offset: u64, bytes: &[u8], fua: bool, reply: ReplyWrite) {
        let blocks = lu.cut(offset, bytes.len());
        let head = blocks.keep.head as usize;
        let mut work = self.state.room();
        let mut buffer = work.kept.take(blocks.len);
        buffer[head..head + bytes.len()].copy_from_slice(bytes);
        let job = Job::Write(reply, bytes.len() as u32);
        work.start(job, |queue, cookie| queue.write_part(cookie, buffer, blocks.start, fua, blocks.keep));
        self.state.turn(work);
    }

    /// Has the bytes in `range`, which are some and inside the LU, read as zeroes.
    pub(super) fn zero(&self, lu: &Lu, range: Range<u64>, reply: ReplyEmpty) {
        let zeroing = Arc::new(Zeroing { reply: Some(reply), failed: AtomicBool::new(false) });
        let block = u64::from(lu.block_size());
        let start = range.start.next_multiple_of(block);
        let end = if range.end == lu.size() { range.end } else { range.end - range.end % block };
        // What is no whole block is written.
        let edges = if start <= end { [range.start..start, end..range.end] } else { [range, 0..0] };
        for edge in edges.into_iter().filter(|edge| !edge.is_empty()) {
            let blocks = lu.cut(edge.start, (edge.end - edge.start) as usize);
            let zeroes = AlignedBuf::new(blocks.len);
            self.submit(Job::Zero(zeroing.clone()), |queue, cookie| {
                queue.write_part(cookie, zeroes, blocks.start, false, blocks.keep)
            });
        }
        if start < end {
            self.submit(Job::Zero(zeroing), |queue, cookie| queue.write_zeroes(cookie, start, end - start));
        }
    }

    pub(super) fn flush(&self, reply: ReplyEmpty) {
        self.submit(Job::Flush(reply), Queue::flush);
    }

    fn submit(&self, job: Job, submit: impl FnOnce(&mut Queue, u64) -> Result<()>) {
        let mut work = self.state.room();
        work.start(job, submit);
        self.state.turn(work);
    }
}

impl Drop for Lane {
    /// Answers what is under way.
    fn drop(&mut self) {
        let mut work = self.state.work();
        while work.queue.in_flight() > 0 {
            work.advance(Some(NAP));
        }
        work.ended = true;
        drop(work);
        self.state.bell.wake();
        if let Some(answerer) = self.answerer.take() {
            // A panic there has been printed already.
            let _ = answerer.join();
        }
    }
}

impl State {
    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The work, with room for one more request.
    fn room(&self) -> MutexGuard<'_, Work> {
        let mut work = self.work();
        while work.free.is_empty() {
            work.advance(Some(NAP));
        }
        work
    }

    /// Starts what was submitted, answers what is done, and leaves the rest to the answerer.
    fn turn(&self, mut work: MutexGuard<'_, Work>) {
        work.advance(None);
        let wakes = work.queue.in_flight() > 0 && !work.naps;
        work.naps |= wakes;
        drop(work);
        if wakes {
            self.bell.wake();
        }
    }

    /// The answerer's life.
    fn answer(&self) {
        let mut helps = None;
        loop {
            let mut work = self.work();
            work.advance(helps.take());
            if work.ended {
                return;
            }
            work.naps = work.queue.in_flight() > 0;
            let nap = work.naps.then(|| timespec(NAP));
            drop(work);
            let bell = PollFd::new(&self.bell, PollFlags::IN);
            let queue = match &self.queue_fd {
                Some(fd) => PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN),
                None => PollFd::new(&self.bell, PollFlags::empty()),
            };
            let mut fds = [bell, queue];
            let woken = poll(&mut fds, nap.as_ref());
            if fds[0].revents().contains(PollFlags::IN) {
                self.bell.silence();
                self.bell.answer();
            }
            if woken == Ok(0) {
                // With a wait, so that it drives other queues whose locks this one may wait for.
                helps = Some(Duration::from_millis(1));
            }
        }
    }
}

impl Work {
    fn start(&mut self, job: Job, submit: impl FnOnce(&mut Queue, u64) -> Result<()>) {
        let Some(index) = self.free.pop() else { return job.refuse(Errno::EBUSY) };
        match submit(&mut self.queue, index as u64) {
            Ok(()) => self.jobs[index] = Some(job),
            Err(_) => {
                self.free.push(index);
                job.refuse(Errno::EIO);
            }
        }
    }

    fn advance(&mut self, wait: Option<Duration>) {
        self.queue.poll(&mut self.done, wait);
        for completion in self.done.drain(..) {
            let index = completion.cookie as usize;
            let Some(job) = self.jobs[index].take() else { continue };
            self.free.push(index);
            match (job, completion.result) {
                (Job::Read(reply, range), Ok(())) => match &completion.buffer {
                    Some(buffer) => reply.data(&buffer[range]),
                    None => reply.error(Errno::EIO),
                },
                (Job::Write(reply, len), Ok(())) => reply.written(len),
                (Job::Flush(reply), Ok(())) => reply.ok(),
                (Job::Zero(zeroing), Ok(())) => drop(zeroing),
                (job, Err(_)) => job.refuse(Errno::EIO),
            }
            if let Some(buffer) = completion.buffer {
                self.kept.keep(buffer);
            }
        }
    }
}
