//! Files and block devices by io_uring: one ring per queue, few system calls for a batch.
//!
//! Promises. [`Disks::kick`] costs one `io_uring_enter` for a few operations at a time, so that disks begin with the first of
//! a batch while the last are being put together, and one for a whole batch while something has to become durable. Disks that cannot complete
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
//! Neighbouring operations of a kick are one entry, with several buffers unless these are neighbours, too. Transfers of
//! [registered](Disks::register) memory, to and from disks with direct I/O, have the kernel pin no pages ([`Pins`]).
//!
//! With a thread of the kernel's that takes submissions (`SQPOLL`, [`IoMode::Polled`](super::IoMode::Polled)) a kick costs no
//! system call while that is awake. Polling for completions (`IOPOLL`) is left out: few devices can, and such a ring takes
//! neither flushes nor the wake-up poll.
//!
//! Room: a submission entry and a completion entry are reserved for each run of operations in the ring and for the
//! wake-up poll, so neither queue of the ring can overflow. More operations than that wait in front of it.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::{Fd, Fixed, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, Submitter, cqueue, opcode, squeue};

use super::bell::Bell;
use super::file::{FileDisk, Files};
use super::pins::Pins;
use super::plain::{self, PUNCH, Progress, RETRIES, progress};
use super::runs::{Run, Runs, Transfers};
use super::slots::Slots;
use super::{Arena, DiskId, Disks, Done, Failure, Op, OpKind};
use crate::engine::Wake;

/// Operations in the ring at a time, at most; the kernel's own limit is 32768 entries.
const MOST_IN_RING: usize = 4096;

/// So many operations do not wait for the rest of their batch: the disks begin while that is still being put into the ring.
/// (With loop devices and 32 reads in flight that is a fifth more. While something has to become durable, whole batches are
/// better: the kernel makes one flush for all that are there, and what comes together shares a record of the log.)
const EARLY: usize = 4;

/// The entry for an [`Asked`] of a file, registered or not (the two are of different types).
macro_rules! entry {
    ($asked:expr, $file:expr) => {
        match $asked {
            Asked::Read(Stretch { ptr, len, pin: None }, at) => {
                opcode::Read::new($file, ptr, len).offset(at).build()
            }
            Asked::Read(Stretch { ptr, len, pin: Some(pin) }, at) => {
                opcode::ReadFixed::new($file, ptr, len, pin).offset(at).build()
            }
            Asked::Write(Stretch { ptr, len, pin: None }, at, flags) => {
                opcode::Write::new($file, ptr, len).offset(at).rw_flags(flags).build()
            }
            Asked::Write(Stretch { ptr, len, pin: Some(pin) }, at, flags) => {
                opcode::WriteFixed::new($file, ptr, len, pin).offset(at).rw_flags(flags).build()
            }
            Asked::ReadAll(Pieces { vector, count, pin: None }, at) => {
                opcode::Readv::new($file, vector, count).offset(at).build()
            }
            Asked::ReadAll(Pieces { vector, count, pin: Some(pin) }, at) => {
                opcode::ReadvFixed::new($file, vector, count, pin).offset(at).build()
            }
            Asked::WriteAll(Pieces { vector, count, pin: None }, at, flags) => {
                opcode::Writev::new($file, vector, count).offset(at).rw_flags(flags).build()
            }
            Asked::WriteAll(Pieces { vector, count, pin: Some(pin) }, at, flags) => {
                opcode::WritevFixed::new($file, vector, count, pin).offset(at).rw_flags(flags).build()
            }
            Asked::Zero(at, len) => {
                opcode::Fallocate::new($file, len).offset(at).mode(PUNCH.bits() as i32).build()
            }
            Asked::Flush => opcode::Fsync::new($file).flags(FsyncFlags::DATASYNC).build(),
        }
    };
}

/// What a flight asks of the kernel: memory, place on the disk in bytes, flags.
enum Asked {
    Read(Stretch, u64),
    Write(Stretch, u64, i32),
    ReadAll(Pieces, u64),
    WriteAll(Pieces, u64, i32),
    /// Place and length in bytes.
    Zero(u64, u64),
    Flush,
}

/// Memory in one piece, and the number by which the ring knows it, if it does.
struct Stretch {
    ptr: *mut u8,
    len: u32,
    pin: Option<u16>,
}

/// Memory in several pieces, and the number by which the ring knows what they all lie in, if it does.
struct Pieces {
    vector: *const libc::iovec,
    count: u32,
    pin: Option<u16>,
}

/// The flags of a write.
fn flags(fua: bool) -> i32 {
    if fua { libc::RWF_DSYNC } else { 0 }
}

/// Completions of the wake-up poll carry this in place of a slot.
const WAKE: u64 = u64::MAX;

pub(super) struct UringQueue {
    // Before what its registered memory is kept by.
    ring: IoUring,
    pins: Pins,
    /// A thread of the kernel's takes submissions.
    polled: bool,
    files: Arc<Files>,
    disks: Vec<Option<Attached>>,
    /// Length of the ring's table of registered files; zero if there is none.
    registered: usize,
    /// Also disks that are better served inline go through the ring.
    insist: bool,
    /// In the ring.
    flights: Slots<Flight>,
    /// Operations in the ring.
    flying: usize,
    /// Runs in the ring that have to be durable.
    durable: usize,
    /// For the ring, at the next kick or when there is room.
    waiting: Runs,
    /// For inline disks, at the next kick.
    inline: Runs,
    /// Complete without the ring.
    ready: VecDeque<Done>,
    bell: Arc<Bell>,
    /// The kernel keeps the wake-up poll armed (5.13).
    multishot: bool,
    /// How many disks are detached and have operations in flight.
    leaving: usize,
    did: Transfers,
}

struct Attached {
    disk: Arc<FileDisk>,
    target: Target,
    inline: bool,
    direct: bool,
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

/// A run of operations in the ring.
struct Flight {
    run: Box<Run>,
    target: Target,
    block: u32,
    /// Registered memory is worth it.
    direct: bool,
    /// Bytes transferred so far.
    done: usize,
    /// How often it came back without having got anywhere.
    retries: u32,
}

impl UringQueue {
    /// Opens a ring for about `depth` operations in flight to all of `files`. With `insist`, no disk is
    /// served inline. With `polled`, a thread of the kernel's takes submissions, if there may be one, and sleeps after that
    /// time without any.
    pub(super) fn open(
        files: Arc<Files>,
        depth: usize,
        insist: bool,
        polled: Option<Duration>,
    ) -> io::Result<UringQueue> {
        let depth = depth.clamp(1, MOST_IN_RING);
        let ring = open_ring((depth as u32 + 1).next_power_of_two(), polled)?;
        if !ring.params().is_feature_ext_arg() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel's is too old"));
        }
        let known = files.len();
        let table = (known + 16).next_power_of_two();
        let registered = ring.submitter().register_files_sparse(table as u32).map_or(0, |()| table);
        let mut queue = UringQueue {
            polled: ring.params().is_setup_sqpoll(),
            ring,
            pins: Pins::default(),
            disks: Vec::with_capacity(table),
            registered,
            insist,
            flights: Slots::new(depth),
            flying: 0,
            durable: 0,
            waiting: Runs::new(depth, true),
            // Where all are inline there is no ring: these are few, and make room when they come.
            inline: Runs::new(0, true),
            ready: VecDeque::with_capacity(depth),
            bell: Arc::new(Bell::new()?),
            multishot: true,
            leaving: 0,
            did: Transfers::default(),
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

    /// Bytes it has pinned.
    #[cfg(test)]
    pub(super) fn pinned(&self) -> usize {
        self.pins.pinned()
    }

    fn attached(&mut self, id: DiskId) -> Option<&mut Attached> {
        self.disks.get_mut(id.index())?.as_mut()
    }

    /// Puts what waits into the ring, as far as that has room, and gives the kernel all but the last few.
    fn launch(&mut self) {
        let mut put = 0;
        while !self.waiting.is_empty() && !self.flights.is_full() {
            let Some(mut run) = self.waiting.pop() else { return };
            let disk = run.first().map(|op| op.disk().index());
            let Some(Some(attached)) = disk.and_then(|index| self.disks.get(index)) else {
                // Cannot be: a disk stays until its operations are back.
                self.ready.extend(run.end(Err(Failure::GONE)));
                continue;
            };
            let (target, block, direct) = (attached.target, attached.disk.block(), attached.direct);
            self.flying += run.count();
            run.first().into_iter().for_each(|op| self.did.count(op));
            self.durable += usize::from(run.is_durable());
            put += usize::from(run.count() == 1);
            let slot = self.flights.insert(Flight { run, target, block, direct, done: 0, retries: 0 });
            if let Some(flight) = self.flights.get_mut(slot) {
                let (submitter, mut submission, _) = self.ring.split();
                push(&mut submission, &flight.entry(slot, &mut self.pins, &submitter));
            }
            if put == EARLY && self.durable == 0 {
                self.enter();
                put = 0;
            }
        }
    }

    /// Gives the kernel all there is room for. If it has no memory for it now, the next call tries again.
    fn hand_over(&mut self) {
        self.launch();
        self.enter();
    }

    fn enter(&mut self) {
        while !self.ring.submission().is_empty() {
            match self.ring.submit() {
                // It takes them when it comes to them.
                Ok(_) if self.polled => return,
                Ok(_) => {}
                Err(e) if e.raw_os_error() == Some(libc::EINTR) => {}
                Err(e) => return enter_failed(&e),
            }
        }
    }

    /// Takes completions from the ring, and puts in what was continued. Was the queue woken? What waits for room,
    /// or is to be tried once more, goes in with the next [`hand_over`](Self::hand_over).
    fn collect(&mut self, out: &mut Vec<Done>) -> bool {
        let mut woken = false;
        let (submitter, mut submission, completion) = self.ring.split();
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
                None => push(&mut submission, &flight.entry(slot, &mut self.pins, &submitter)),
                Some(result) => {
                    let Some(Flight { mut run, .. }) = self.flights.remove(slot) else { continue };
                    self.flying -= run.count();
                    self.durable -= usize::from(run.is_durable());
                    let apart = result.is_err() && run.count() > 1;
                    for (ticket, op) in run.drain() {
                        if apart {
                            self.waiting.push_alone(ticket, op);
                            continue;
                        }
                        if let Some(Some(attached)) = self.disks.get_mut(op.disk().index()) {
                            attached.in_flight -= 1;
                            if result.is_err() && op.kind() == OpKind::Zero {
                                attached.disk.refuses_to_zero();
                                self.inline.push_alone(ticket, op);
                                continue;
                            }
                        }
                        out.push(op.done(ticket, result));
                    }
                    self.waiting.recycle(run);
                }
            }
        }
        drop(submission);
        if self.leaving > 0 {
            self.release();
        }
        woken
    }

    /// Does a run of an inline disk.
    fn work(&mut self, run: &mut Run) {
        let disk = run.first().and_then(|op| self.disks.get(op.disk().index()));
        let Some(Some(Attached { disk, .. })) = disk else {
            return self.ready.extend(run.end(Err(Failure::GONE)));
        };
        let (together, alone) = (
            |disk: &mut &FileDisk, run: &mut Run| plain::execute_joined(disk, run),
            |disk: &mut &FileDisk, op: &mut Op| plain::execute(disk, op),
        );
        run.carry_out(&mut &**disk, together, alone, &mut self.did, &mut self.ready);
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
        let (refused, inline) = match self.attached(op.disk()) {
            Some(attached) if !attached.leaving => {
                let refused = op.check(attached.disk.size()).err();
                // A disk that cannot make zeroes is written to.
                let inline = attached.inline || (op.kind() == OpKind::Zero && !attached.disk.zeroes());
                attached.in_flight += usize::from(refused.is_none() && !inline);
                (refused, inline)
            }
            _ => (Some(Failure::GONE), false),
        };
        match refused {
            Some(failure) => self.ready.push_back(op.done(ticket, Err(failure))),
            None if inline => self.inline.push(ticket, op),
            None => self.waiting.push(ticket, op),
        }
    }

    fn kick(&mut self) {
        self.hand_over();
        while let Some(mut run) = self.inline.pop() {
            self.work(&mut run);
            self.inline.recycle(run);
        }
    }

    fn reap(&mut self, out: &mut Vec<Done>, wait: Option<Duration>) -> bool {
        let before = out.len();
        let mut woken = self.collect(out);
        out.extend(self.ready.drain(..));
        if out.len() == before && !woken {
            let asked = match wait {
                Some(wait) => {
                    self.kick();
                    if self.ready.is_empty() {
                        self.sleep(wait);
                    }
                    true
                }
                // The kernel holds completions back until this thread comes by.
                None if self.ring.submission().taskrun() => {
                    self.sleep(Duration::ZERO);
                    true
                }
                None => false,
            };
            if asked {
                woken = self.collect(out);
            }
        }
        // What was continued, taken apart or found room in `collect`.
        self.kick();
        out.extend(self.ready.drain(..));
        woken
    }

    fn in_flight(&self) -> usize {
        self.flying + self.waiting.operations() + self.inline.operations() + self.ready.len()
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
        let info = disk.info();
        let (inline, direct) = (info.inline && !self.insist, info.direct);
        self.disks[id.index()] =
            Some(Attached { disk, target, inline, direct, in_flight: 0, leaving: false });
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

    fn register(&mut self, memory: &Arena) {
        self.pins.add(&self.ring.submitter(), memory);
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
        if self.flights.len() == 0 {
            self.pins.end(&self.ring.submitter());
        }
        // A closed ring lets go of its files some time later; claims on them have to end now.
        if self.registered > 0 {
            let _ = self.ring.submitter().unregister_files();
        }
        self.files.count(self.did);
    }
}

impl Flight {
    /// Takes in the kernel's answer: the result, or nothing if there is more to ask for. What several operations
    /// ask for together is done whole or has failed.
    fn advance(&mut self, answer: i32) -> Option<Result<(), Failure>> {
        let len = self.run.bytes();
        let zeroed = answer == 0 && self.run.first().is_some_and(|op| op.kind() == OpKind::Zero);
        let answer = match answer {
            ..0 => Err(-answer),
            _ if zeroed => Ok(len),
            _ => Ok(answer as usize),
        };
        if self.run.count() > 1 {
            return Some(if answer == Ok(len) { Ok(()) } else { Err(Failure::SHORT) });
        }
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
    fn entry(&mut self, slot: usize, pins: &mut Pins, submitter: &Submitter<'_>) -> squeue::Entry {
        let asked = self.asked(pins, submitter);
        let entry = match self.target {
            Target::Registered(index) => entry!(asked, Fixed(index)),
            Target::Plain(fd) => entry!(asked, Fd(fd)),
        };
        entry.user_data(slot as u64)
    }

    fn pieces(&mut self, pins: &mut Pins, submitter: &Submitter<'_>) -> Pieces {
        let mut pin = None;
        if self.direct && pins.are_for_vectors(submitter) {
            let mut places = self.run.buffers().map(|(ptr, len)| pins.find(submitter, ptr, len));
            pin = places.next().flatten().filter(|&first| places.all(|place| place == Some(first)));
        }
        let (vector, count) = self.run.vector();
        Pieces { vector, count, pin }
    }

    fn asked(&mut self, pins: &mut Pins, submitter: &Submitter<'_>) -> Asked {
        let (direct, done, bytes) = (self.direct, self.done, self.run.bytes());
        let stretch = self.run.stretch().map(|start| {
            let (ptr, len) = (start.wrapping_add(done), bytes - done);
            let pin = if direct { pins.find(submitter, ptr, len) } else { None };
            Stretch { ptr, len: len as u32, pin }
        });
        match (self.run.first(), stretch) {
            (Some(Op::Read { at, .. }), Some(memory)) => Asked::Read(memory, at.bytes() + done as u64),
            (Some(Op::Write { at, fua, .. }), Some(memory)) => {
                Asked::Write(memory, at.bytes() + done as u64, flags(*fua))
            }
            (Some(&Op::Read { at, .. }), None) => Asked::ReadAll(self.pieces(pins, submitter), at.bytes()),
            (Some(&Op::Write { at, fua, .. }), None) => {
                Asked::WriteAll(self.pieces(pins, submitter), at.bytes(), flags(fua))
            }
            (Some(Op::Zero { at, .. }), _) => Asked::Zero(at.bytes(), bytes as u64),
            (Some(Op::Flush { .. }) | None, _) => Asked::Flush,
        }
    }
}

/// A ring with as much of what later kernels offer as this one knows; with a thread of the kernel's for it if one is wanted
/// and may be.
fn open_ring(entries: u32, polled: Option<Duration>) -> io::Result<IoUring> {
    if let Some(idle) = polled {
        let idle = u32::try_from(idle.as_millis()).unwrap_or(u32::MAX).max(1);
        if let Ok(ring) = IoUring::builder().setup_cqsize(entries * 2).setup_sqpoll(idle).build(entries) {
            return Ok(ring);
        }
    }
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
    // SAFETY: a flight keeps its run's `IoBuf`s, whose memory is valid and its own, and the list of them, until the kernel's
    // completion takes the flight out of the table; its disk keeps the file open as long. What it names by number is what
    // `Pins` has there, and that stays until nobody uses it. The poll has no memory, and its descriptor lives as long as the
    // ring's queue.
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
