//! Files and block devices by io_uring: one ring per queue, one system call per batch.
//!
//! Promises. [`Disks::kick`] costs one `io_uring_enter` for the whole batch. Disks that cannot complete
//! without blocking ([`DiskInfo::inline`](super::DiskInfo::inline)) are served by plain system calls in the
//! same kick, after the ring has its share. Descriptors are registered with the ring where the kernel allows.
//! Dropping the queue waits for everything the kernel has in hand, and lets go of all files before it
//! returns.
//!
//! Queues move between threads, so the ring is not bound to one (no `SINGLE_ISSUER`, no `DEFER_TASKRUN`). A
//! thread that ends takes work with it that the kernel has queued but not begun in its name: such operations
//! come back cancelled and are submitted again.
//!
//! Needs Linux 5.11 (waiting with a timeout); what later kernels offer is used if it is there.
//!
//! Room: a submission entry and a completion entry are reserved for each operation in the ring and for the
//! wake-up poll, so neither queue of the ring can overflow. More operations than that wait in front of it.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::{Fd, Fixed, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::bell::Bell;
use super::file::{FileDisk, Files};
use super::plain::{self, Progress, RETRIES, progress};
use super::slots::Slots;
use super::{DiskId, Disks, Done, Failure, IoBuf, Op};
use crate::engine::Wake;
use crate::units::DiskLba;

/// Operations in the ring at a time, at most; the kernel's own limit is 32768 entries.
const MOST_IN_RING: usize = 4096;

/// The rest of a flight's operation for a file, registered or not (the two are of different types).
macro_rules! entry {
    ($flight:expr, $file:expr) => {
        match &$flight.op {
            Op::Read { at, buf, .. } => {
                let (ptr, len, offset) = rest(*at, buf, $flight.done);
                opcode::Read::new($file, ptr, len).offset(offset).build()
            }
            Op::Write { at, buf, fua, .. } => {
                let (ptr, len, offset) = rest(*at, buf, $flight.done);
                let flags = if *fua { libc::RWF_DSYNC } else { 0 };
                opcode::Write::new($file, ptr, len).offset(offset).rw_flags(flags).build()
            }
            Op::Flush { .. } => opcode::Fsync::new($file).flags(FsyncFlags::DATASYNC).build(),
        }
    };
}

/// Address, length and place on the disk (in bytes) of what is left of a transfer of which `done` bytes are
/// done.
fn rest(at: DiskLba, buf: &IoBuf, done: usize) -> (*mut u8, u32, u64) {
    (buf.as_ptr().wrapping_add(done), (buf.len() - done) as u32, at.bytes() + done as u64)
}

/// Completions of the wake-up poll carry this in place of a slot.
const WAKE: u64 = u64::MAX;

pub(super) struct UringQueue {
    ring: IoUring,
    files: Arc<Files>,
    disks: Vec<Option<Attached>>,
    /// Length of the ring's table of registered files; zero if there is none.
    registered: usize,
    /// Also disks that are better served inline go through the ring.
    insist: bool,
    /// In the ring.
    flights: Slots<Flight>,
    /// For the ring, when there is room.
    waiting: VecDeque<(u64, Op)>,
    /// For inline disks, at the next kick.
    inline: VecDeque<(u64, Op)>,
    /// Complete without the ring.
    ready: VecDeque<Done>,
    bell: Arc<Bell>,
    /// The kernel keeps the wake-up poll armed (5.13).
    multishot: bool,
    /// How many disks are detached and have operations in flight.
    leaving: usize,
}

struct Attached {
    disk: Arc<FileDisk>,
    target: Target,
    inline: bool,
    /// Operations in the ring or waiting for it.
    in_flight: usize,
    /// Detached: takes no more, and goes when those in flight are back.
    leaving: bool,
}

/// How the ring knows a file.
#[derive(Clone, Copy)]
enum Target {
    Registered(u32),
    Plain(RawFd),
}

/// An operation in the ring.
struct Flight {
    ticket: u64,
    op: Op,
    target: Target,
    block: u32,
    /// Bytes transferred so far.
    done: usize,
    /// How often it came back without having got anywhere.
    retries: u32,
}

impl UringQueue {
    /// Opens a ring for about `depth` operations in flight to all of `files`. With `insist`, no disk is
    /// served inline.
    pub(super) fn open(files: Arc<Files>, depth: usize, insist: bool) -> io::Result<UringQueue> {
        let depth = depth.clamp(1, MOST_IN_RING);
        let ring = open_ring((depth as u32 + 1).next_power_of_two())?;
        if !ring.params().is_feature_ext_arg() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel's is too old"));
        }
        let known = files.len();
        let table = (known + 16).next_power_of_two();
        let registered = ring.submitter().register_files_sparse(table as u32).map_or(0, |()| table);
        let mut queue = UringQueue {
            ring,
            disks: Vec::with_capacity(table),
            registered,
            insist,
            flights: Slots::new(depth),
            waiting: VecDeque::with_capacity(depth),
            inline: VecDeque::with_capacity(depth),
            ready: VecDeque::with_capacity(depth),
            bell: Arc::new(Bell::new()?),
            multishot: true,
            leaving: 0,
            files,
        };
        for index in 0..known {
            queue.attach(DiskId(index as u16));
        }
        arm_wake(&mut queue.ring.submission(), &queue.bell, true);
        // Some sandboxes allow the set-up and forbid the rest: find out now.
        queue.ring.submit()?;
        Ok(queue)
    }

    fn attached(&mut self, id: DiskId) -> Option<&mut Attached> {
        self.disks.get_mut(id.index())?.as_mut()
    }

    /// Puts an operation for an attached disk into the ring, which has room.
    fn launch(&mut self, ticket: u64, op: Op) {
        let Some(attached) = self.attached(op.disk()) else {
            // Cannot be: a disk stays until its operations are back.
            return self.ready.push_back(op.done(ticket, Err(Failure::GONE)));
        };
        let (target, block) = (attached.target, attached.disk.block());
        let slot = self.flights.insert(Flight { ticket, op, target, block, done: 0, retries: 0 });
        if let Some(flight) = self.flights.get_mut(slot) {
            push(&mut self.ring.submission(), &flight.entry(slot));
        }
    }

    /// Gives the kernel what is in the submission queue. If it has no memory for it now, the next call tries
    /// again.
    fn hand_over(&mut self) {
        while !self.ring.submission().is_empty() {
            match self.ring.submit() {
                Ok(_) => {}
                Err(e) if e.raw_os_error() == Some(libc::EINTR) => {}
                Err(e) => return enter_failed(&e),
            }
        }
    }

    /// Takes completions from the ring, and puts in what was continued or waited for room. Was the queue
    /// woken?
    fn collect(&mut self, out: &mut Vec<Done>) -> bool {
        let mut woken = false;
        let (_, mut submission, completion) = self.ring.split();
        for answer in completion {
            if answer.user_data() == WAKE {
                woken = true;
                if !cqueue::more(answer.flags()) {
                    self.multishot &= answer.result() != -libc::EINVAL;
                    self.bell.silence();
                    arm_wake(&mut submission, &self.bell, self.multishot);
                }
                self.bell.answer();
                continue;
            }
            let slot = answer.user_data() as usize;
            let Some(flight) = self.flights.get_mut(slot) else { continue };
            match flight.advance(answer.result()) {
                None => push(&mut submission, &flight.entry(slot)),
                Some(result) => {
                    if let Some(Flight { ticket, op, .. }) = self.flights.remove(slot) {
                        if let Some(Some(attached)) = self.disks.get_mut(op.disk().index()) {
                            attached.in_flight -= 1;
                        }
                        out.push(op.done(ticket, result));
                    }
                }
            }
        }
        drop(submission);
        if self.leaving > 0 {
            self.release();
        }
        while !self.waiting.is_empty() && !self.flights.is_full() {
            if let Some((ticket, op)) = self.waiting.pop_front() {
                self.launch(ticket, op);
            }
        }
        woken
    }

    /// Lets go of detached disks whose operations are back.
    fn release(&mut self) {
        for disk in &mut self.disks {
            let Some(attached) = disk.as_ref().filter(|a| a.leaving && a.in_flight == 0) else { continue };
            if let Target::Registered(index) = attached.target {
                // Takes out what was put in; at worst the file stays open as long as the ring.
                let _ = self.ring.submitter().register_files_update(index, &[-1]);
            }
            *disk = None;
            self.leaving -= 1;
        }
    }

    /// Hands over and sleeps until a completion or a wake, at most for `wait`.
    fn sleep(&mut self, wait: Duration) {
        let wait = wait.min(Duration::from_secs(86_400));
        let time = Timespec::new().sec(wait.as_secs()).nsec(wait.subsec_nanos());
        match self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time)) {
            Ok(_) => {}
            Err(e) if matches!(e.raw_os_error(), Some(libc::ETIME | libc::EINTR)) => {}
            Err(e) => enter_failed(&e),
        }
    }
}

impl Disks for UringQueue {
    fn submit(&mut self, ticket: u64, op: Op) {
        let full = self.flights.is_full();
        let (refused, inline) = match self.attached(op.disk()) {
            Some(attached) if !attached.leaving => {
                let refused = op.check(attached.disk.size()).err();
                attached.in_flight += usize::from(refused.is_none() && !attached.inline);
                (refused, attached.inline)
            }
            _ => (Some(Failure::GONE), false),
        };
        match refused {
            Some(failure) => self.ready.push_back(op.done(ticket, Err(failure))),
            None if inline => self.inline.push_back((ticket, op)),
            None if full => self.waiting.push_back((ticket, op)),
            None => self.launch(ticket, op),
        }
    }

    fn kick(&mut self) {
        self.hand_over();
        while let Some((ticket, mut op)) = self.inline.pop_front() {
            let result = match self.attached(op.disk()) {
                Some(attached) => plain::execute(&attached.disk, &mut op),
                None => Err(Failure::GONE),
            };
            self.ready.push_back(op.done(ticket, result));
        }
    }

    fn reap(&mut self, out: &mut Vec<Done>, wait: Option<Duration>) {
        let before = out.len();
        let woken = self.collect(out);
        out.extend(self.ready.drain(..));
        if out.len() == before && !woken {
            match wait {
                Some(wait) => {
                    self.kick();
                    if self.ready.is_empty() {
                        self.sleep(wait);
                    }
                }
                // The kernel holds completions back until this thread comes by.
                None if self.ring.submission().taskrun() => self.sleep(Duration::ZERO),
                None => return,
            }
            self.collect(out);
            out.extend(self.ready.drain(..));
        }
        // What was continued or found room in `collect`.
        self.hand_over();
    }

    fn in_flight(&self) -> usize {
        self.flights.len() + self.waiting.len() + self.inline.len() + self.ready.len()
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.bell.clone()
    }

    fn attach(&mut self, id: DiskId) {
        if self.disks.len() <= id.index() {
            self.disks.resize_with(id.index() + 1, || None);
        }
        let Some(disk) = self.files.get(id) else { return };
        if let Some(attached) = &mut self.disks[id.index()] {
            self.leaving -= usize::from(std::mem::take(&mut attached.leaving));
            return;
        }
        let fd = disk.as_fd().as_raw_fd();
        let in_table = id.index() < self.registered
            && self.ring.submitter().register_files_update(id.0.into(), &[fd]).is_ok();
        let target = if in_table { Target::Registered(id.0.into()) } else { Target::Plain(fd) };
        let inline = disk.info().inline && !self.insist;
        self.disks[id.index()] = Some(Attached { disk, target, inline, in_flight: 0, leaving: false });
    }

    fn detach(&mut self, id: DiskId) {
        self.kick();
        if let Some(attached) = self.attached(id)
            && !attached.leaving
        {
            attached.leaving = true;
            self.leaving += 1;
            self.release();
        }
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the ring's descriptor is open as long as the ring, which stays borrowed.
        Some(unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) })
    }
}

impl Drop for UringQueue {
    fn drop(&mut self) {
        self.waiting.clear();
        let mut out = Vec::new();
        while self.flights.len() > 0 {
            let passes = |e: &io::Error| {
                matches!(e.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ENOMEM))
            };
            match self.ring.submit_and_wait(1) {
                // The buffers stay valid even so: what is not handed back to its `Memory` is never freed.
                Err(e) if !passes(&e) => break,
                _ => self.collect(&mut out),
            };
        }
        // A closed ring lets go of its files some time later; claims on them have to end now.
        if self.registered > 0 {
            let _ = self.ring.submitter().unregister_files();
        }
    }
}

impl Flight {
    /// Takes in the kernel's answer: the result, or nothing if there is more to ask for.
    fn advance(&mut self, answer: i32) -> Option<Result<(), Failure>> {
        let len = self.op.place().map_or(0, |(_, len)| len);
        let answer = if answer < 0 { Err(-answer) } else { Ok(answer as usize) };
        let (before, finished) = (self.done, answer.is_ok_and(|n| self.done + n >= len));
        match progress(answer, before, len, self.block) {
            Progress::Failed(failure) => return Some(Err(failure)),
            Progress::To(_) if finished => return Some(Ok(())),
            Progress::To(done) => self.done = done,
        }
        if self.done > before {
            return None;
        }
        self.retries += 1;
        (self.retries > RETRIES).then_some(Err(Failure::from_errno(libc::EAGAIN)))
    }

    /// What is left to do, as an entry for the ring.
    fn entry(&self, slot: usize) -> squeue::Entry {
        let entry = match self.target {
            Target::Registered(index) => entry!(self, Fixed(index)),
            Target::Plain(fd) => entry!(self, Fd(fd)),
        };
        entry.user_data(slot as u64)
    }
}

/// A ring with as much of what later kernels offer as this one knows.
fn open_ring(entries: u32) -> io::Result<IoUring> {
    let mut newest = IoUring::builder();
    newest.setup_cqsize(entries * 2).setup_submit_all().setup_coop_taskrun().setup_taskrun_flag();
    newest.build(entries).or_else(|e| match e.raw_os_error() {
        Some(libc::EINVAL) => IoUring::builder().setup_cqsize(entries * 2).build(entries),
        _ => Err(e),
    })
}

/// Has the ring complete [`WAKE`] when the bell is rung.
fn arm_wake(submission: &mut squeue::SubmissionQueue<'_>, bell: &Bell, multishot: bool) {
    let poll = opcode::PollAdd::new(Fd(bell.as_fd().as_raw_fd()), libc::POLLIN as u32).multi(multishot);
    push(submission, &poll.build().user_data(WAKE));
}

/// The only way into the ring: for the entry of a [`Flight`] in the table, or the wake-up poll.
fn push(submission: &mut squeue::SubmissionQueue<'_>, entry: &squeue::Entry) {
    // SAFETY: a flight keeps its `IoBuf`, whose memory is valid and its own, until the kernel's completion
    // takes the flight out of the table; its disk keeps the file open as long. The poll has no memory, and
    // its descriptor lives as long as the ring's queue.
    let pushed = unsafe { submission.push(entry) };
    pushed.expect("the ring has an entry for each slot and one for the poll");
}

/// Short of memory, or completions unread: both pass. Nothing else can happen to a ring that was set up, and
/// the operations in it would never come back.
fn enter_failed(error: &io::Error) {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => std::thread::sleep(Duration::from_millis(1)),
        _ => panic!("io_uring_enter failed: {error}"),
    }
}
