//! A connection after its handshake: one thread, one queue of the LU, one socket that never blocks it.
//!
//! The thread turns in a loop: take requests off the socket, drive the queue, put replies on the socket, and
//! sleep when none of the three moves. Payloads go from the socket into the buffer that the LU writes from,
//! and from the buffer that the LU read into to the socket. As the queue is driven whatever the socket does,
//! a client that does not read its replies holds up nobody else.
//!
//! Promises: at most [`REQUESTS`] requests and [`REQUEST_BYTES`], and one more, are held, and never more than its
//! [`Share`] of the server's memory; every request that was read is answered unless the connection breaks; a
//! payload that is not whole is never written. When the server stops, requests under way are finished and later
//! ones refused. Refuses to know how it was agreed upon what is served.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use crate::Lu;
use crate::disk::AlignedBuf;
use crate::disk::bell::timespec;
use crate::error::{Error, ErrorKind, Result};
use crate::lu::{Completion, Queue};

use super::super::kept::Kept;
use super::budget::{OWN_BYTES, Share};
use super::handshake::{Headers, Terms};
use super::intake::{Arrived, Intake};
use super::outbox::{Outbox, Reply};
use super::transport::Transport;
use super::wire::{Command, Errno, Request, flag};
use super::{PATIENCE_SECONDS, REQUEST_BYTES, REQUESTS};

/// Bytes of zeroes that are written at a time where no holes are wanted: whole stripes of most LUs.
const ZEROES: u64 = 1 << 20;

/// Bytes that are made zero, or discarded, at a time: other requests of the connection come in between.
const PUNCHED: u64 = 64 << 20;

/// How long a client may keep others waiting for memory, or take its last replies.
const PATIENCE: Duration = Duration::from_secs(PATIENCE_SECONDS);

/// How often to look whether it does.
const LOOK: Duration = Duration::from_secs(1);

/// How long to keep buffers for requests that do not come.
const KEEPING: Duration = Duration::from_millis(200);

/// How long to sleep while something is under way: after that, whoever holds a lock that is waited for is
/// helped along.
const NAP: Duration = Duration::from_millis(10);

/// A connection. See the [module's text](self).
pub(super) struct Connection<'a> {
    // Before the queue, so that it is closed before the queue lets go of the disks.
    queue_fd: Option<OwnedFd>,
    queue: Queue,
    lu: &'a Lu,
    read_only: bool,
    terms: Terms,
    socket: BorrowedFd<'a>,
    transport: Transport<'a>,
    /// Readable when the server stops.
    bell: BorrowedFd<'a>,
    /// Once it stops: how long the client has to take its last replies.
    leaving: Option<Instant>,
    intake: Intake,
    outbox: Outbox,
    /// The write whose payload is on its way.
    coming: Option<Coming>,
    /// What the LU works on, by the queue's cookie.
    jobs: Vec<Option<Job>>,
    free: Vec<usize>,
    /// Bytes of buffers that requests and replies hold.
    held: usize,
    kept: Kept,
    /// What it may hold and keep.
    share: Share<'a>,
    /// A request that waits for memory; nothing is read behind it.
    delayed: Option<Request>,
    /// Since when the client has taken no reply and brought no payload to its end, though there is one to be
    /// taken or brought.
    stalled: Option<Instant>,
}

/// A write that waits for its payload.
struct Coming {
    request: Request,
    /// What it holds.
    cost: usize,
    refusal: Option<Errno>,
}

/// A request the LU works on.
struct Job {
    request: Request,
    /// What it holds until it is answered.
    cost: usize,
    /// A zeroing or discard has come this far, in bytes of the LU.
    at: u64,
    /// It is the flush behind a zeroing or discard that is to be stable.
    settles: bool,
}

impl Job {
    /// One that is a single operation of the LU's.
    fn new(request: Request, cost: usize) -> Job {
        Job { request, cost, at: request.offset, settles: false }
    }
}

impl<'a> Connection<'a> {
    /// A connection over `transport`, whose socket is `socket`, and is not blocking. `bell` is readable when it is time to go.
    ///
    /// # Errors
    /// Those of [`Lu::queue`]; [`ErrorKind::Io`] if the system has no descriptor left.
    pub(super) fn new(
        lu: &'a Lu,
        read_only: bool,
        terms: Terms,
        socket: BorrowedFd<'a>,
        transport: Transport<'a>,
        share: Share<'a>,
        bell: BorrowedFd<'a>,
    ) -> Result<Connection<'a>> {
        let queue = lu.queue(REQUESTS)?;
        // A copy: to sleep on the queue's own would be to keep others from driving it meanwhile.
        let queue_fd = queue.event_fd(|fd| fd.map(|fd| fd.try_clone_to_owned()).transpose());
        let queue_fd = queue_fd.map_err(|error| {
            Error::new(ErrorKind::Io, "no descriptor for a connection").with_source(error)
        })?;
        Ok(Connection {
            queue_fd,
            queue,
            lu,
            read_only,
            terms,
            socket,
            transport,
            bell,
            leaving: None,
            intake: Intake::new(terms.headers == Headers::Extended),
            outbox: Outbox::new(),
            coming: None,
            jobs: (0..REQUESTS).map(|_| None).collect(),
            free: (0..REQUESTS).rev().collect(),
            held: 0,
            kept: Kept::new(REQUESTS),
            share,
            delayed: None,
            stalled: None,
        })
    }

    /// Serves until the client leaves, cannot be understood, or the server stops.
    ///
    /// # Errors
    /// Why the connection broke.
    pub(super) fn serve(mut self) -> io::Result<()> {
        let mut done = Vec::new();
        loop {
            let mut moved = self.take_requests()?;
            self.queue.poll(&mut done, None);
            for completion in done.drain(..) {
                moved = true;
                self.finish(completion);
            }
            moved |= self.send_replies()?;
            if self.is_over() {
                self.transport.close();
                return Ok(());
            }
            self.settle();
            if !moved {
                self.sleep(&mut done)?;
            }
        }
    }

    fn take_requests(&mut self) -> io::Result<bool> {
        let mut moved = false;
        while self.intake.is_amid_payload() || self.has_room() {
            let arrived = match self.delayed.take() {
                Some(request) => Some(Arrived::Head(request)),
                None => self.intake.next(&mut self.transport)?,
            };
            match arrived {
                None => break,
                Some(Arrived::Head(request)) => {
                    if self.extended() && self.carries(&request) && request.length > REQUEST_BYTES.into() {
                        // To take in what may be 2^64 bytes, only to throw them away, is no way out.
                        return Err(io::Error::new(
                            io::ErrorKind::InvalidData,
                            "a payload too long to be meant",
                        ));
                    }
                    let refusal = self.refusal(&request);
                    let cost = if refusal.is_none() { self.cost(&request) } else { 0 };
                    if !self.admit(&request, cost) {
                        self.delayed = Some(request);
                        break;
                    }
                    self.begin(request, cost, refusal);
                }
                Some(Arrived::Payload(payload)) => {
                    self.stalled = None;
                    self.write(payload);
                }
            }
            moved = true;
        }
        Ok(moved)
    }

    /// Takes the `cost` of a request, if it can be had.
    fn admit(&mut self, request: &Request, cost: usize) -> bool {
        let held = self.held + cost;
        // A buffer that is kept becomes the request's.
        let reuses = matches!(request.command, Command::Read | Command::Write) && self.kept.has(cost);
        let kept = self.kept.bytes() - if reuses { cost } else { 0 };
        if !self.share.hold(held + kept) {
            self.kept.shrink(0);
            if !self.share.hold(held) {
                return false;
            }
        }
        self.held = held;
        true
    }

    /// Gives back what is not held any more; what others wait for is not kept.
    fn settle(&mut self) {
        if self.share.is_wanted() {
            self.kept.shrink(0);
        }
        self.share.hold_at_most(self.held + self.kept.bytes());
    }

    fn has_room(&self) -> bool {
        let requests = REQUESTS - self.free.len() + self.outbox.len();
        requests < REQUESTS && self.held < REQUEST_BYTES as usize
    }

    fn send_replies(&mut self) -> io::Result<bool> {
        let mut moved = false;
        while let Some(reply) = self.outbox.next_sent(&mut self.transport)? {
            moved = true;
            self.stalled = None;
            self.held -= reply.cost;
            if let Some((buffer, _)) = reply.data {
                self.kept.keep(buffer);
            }
        }
        self.transport.push()?;
        Ok(moved)
    }

    fn is_over(&self) -> bool {
        let sent = self.outbox.len() == 0 && !self.transport.is_pending();
        let answered = self.free.len() == REQUESTS && self.delayed.is_none() && sent;
        let leaving = self.intake.has_ended() || self.leaving.is_some();
        (leaving && answered) || self.leaving.is_some_and(|until| Instant::now() >= until)
    }

    /// When to look again whether the client keeps others waiting, who need the memory that is held for it.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] if it has for too long.
    fn look_again(&mut self) -> io::Result<Option<Duration>> {
        if self.outbox.len() == 0 && !self.intake.is_amid_payload() {
            self.stalled = None;
            return Ok(None);
        }
        let stalled = self.stalled.get_or_insert_with(Instant::now).elapsed();
        if stalled >= PATIENCE && self.share.is_wanted() {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "others wait for the memory that this one holds",
            ));
        }
        Ok(Some(LOOK))
    }

    /// Sleeps until the socket, the queue or the server wants something.
    ///
    /// # Errors
    /// The system's, and [`io::ErrorKind::TimedOut`] if the client has kept others waiting for too long.
    fn sleep(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        let patience = self.look_again()?;
        let keeping = (self.kept.bytes() > OWN_BYTES).then_some(KEEPING);
        // The bell, asked for nothing, stands in for what is not waited for. (A socket asked for nothing
        // would still tell that the client has hung up, again and again.)
        let silence = (self.bell, PollFlags::empty());
        let wanted = self.wanted();
        let socket = if wanted.is_empty() { silence } else { (self.socket, wanted) };
        let queue = self.queue_fd.as_ref().map_or(silence, |fd| (fd.as_fd(), PollFlags::IN));
        let bell = if self.leaving.is_none() { (self.bell, PollFlags::IN) } else { silence };
        let mut fds = [socket, queue, bell].map(|(fd, wanted)| PollFd::from_borrowed_fd(fd, wanted));

        let working = self.queue.in_flight() > 0;
        let left = self.leaving.map(|until| until.saturating_duration_since(Instant::now()));
        let nap = (working || self.delayed.is_some()).then_some(NAP);
        let wait = [nap, left, patience, keeping].into_iter().flatten().min();
        let woken = match poll(&mut fds, wait.map(timespec).as_ref()) {
            Err(rustix::io::Errno::INTR) => return Ok(()),
            woken => woken?,
        };
        let [socket, _, bell] = fds.map(|fd| fd.revents());
        let broken = PollFlags::HUP | PollFlags::ERR;
        if socket.intersects(PollFlags::IN | broken) {
            self.intake.set_readable();
        }
        if socket.intersects(PollFlags::OUT | broken) {
            self.outbox.set_writable();
        }
        if bell.contains(PollFlags::IN) {
            self.leaving = Some(Instant::now() + PATIENCE);
        }
        if woken == 0 && keeping.is_some() && !working {
            self.kept.shrink(OWN_BYTES);
        }
        if woken == 0 && working {
            // With a wait, so that it drives other queues whose locks this one may wait for.
            self.queue.poll(done, Some(Duration::from_millis(1)));
        }
        Ok(())
    }

    /// What the socket is good for now.
    fn wanted(&self) -> PollFlags {
        let heeds = self.delayed.is_none() && !self.intake.has_ended();
        let reads = heeds && (self.intake.is_amid_payload() || self.has_room());
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, reads);
        wanted.set(PollFlags::OUT, self.outbox.len() > 0 || self.transport.is_pending());
        wanted
    }
}

/// Requests.
impl Connection<'_> {
    /// What `request` holds from here to its answer: the buffer that its data, or zeroes, are in.
    fn cost(&self, request: &Request) -> usize {
        let len = || self.lu.cut(request.offset, request.length as usize).len;
        match request.command {
            Command::Read | Command::Write => len(),
            Command::WriteZeroes if request.has(flag::NO_HOLE) => len().min(ZEROES as usize),
            Command::WriteZeroes => self.lu.block_size() as usize,
            _ => 0,
        }
    }

    fn extended(&self) -> bool {
        self.terms.headers == Headers::Extended
    }

    /// Do `request.length` bytes of payload follow? Behind a WRITE they do, also if an extended header does not
    /// say so: QEMU's does not.
    fn carries(&self, request: &Request) -> bool {
        request.command == Command::Write || (self.extended() && request.has(flag::PAYLOAD_LEN))
    }

    /// Begins a request whose `cost` is held.
    fn begin(&mut self, request: Request, cost: usize, refusal: Option<Errno>) {
        match (request.command, refusal) {
            (Command::Disconnect, _) => self.intake.end(),
            (Command::Write, None) => {
                let blocks = self.lu.cut(request.offset, request.length as usize);
                let head = blocks.keep.head as usize;
                let buffer = self.kept.take(blocks.len);
                self.intake.expect(buffer, head, request.length as usize);
                self.coming = Some(Coming { request, cost, refusal });
            }
            (_, Some(_)) if self.carries(&request) => {
                self.intake.discard(request.length as usize);
                self.coming = Some(Coming { request, cost, refusal });
            }
            (_, Some(error)) => self.answer(&Job::new(request, cost), Some(error)),
            (Command::BlockStatus, None) => {
                self.outbox.push(Reply::allocated(&request, self.terms.headers));
            }
            (Command::Read | Command::WriteZeroes | Command::Trim, None) if request.length == 0 => {
                self.answer(&Job::new(request, cost), None);
            }
            (Command::Read, None) => self.read(request, cost),
            (Command::WriteZeroes, None) => self.zero(Job::new(request, cost), None),
            (Command::Trim, None) => self.discard(Job::new(request, cost)),
            // Nothing was ever written that a flush could make stable.
            (Command::Flush, None) if !self.read_only => self.flush(Job::new(request, cost)),
            // A hint, and what `refusal` has refused.
            (Command::Flush | Command::Cache | Command::Other(_), None) => {
                self.answer(&Job::new(request, cost), None);
            }
        }
    }

    /// Why `request` cannot be done, as far as that can be seen from outside.
    fn refusal(&self, request: &Request) -> Option<Errno> {
        use Command::{BlockStatus, Cache, Disconnect, Flush, Other, Read, Trim, Write, WriteZeroes};
        let known = match request.command {
            Read => flag::FUA | if self.terms.headers == Headers::Simple { 0 } else { flag::DF },
            Write => flag::FUA | if self.extended() { flag::PAYLOAD_LEN } else { 0 },
            Flush | Trim | Cache => flag::FUA,
            WriteZeroes => flag::FUA | flag::NO_HOLE | flag::FAST_ZERO,
            BlockStatus => flag::FUA | flag::REQ_ONE,
            Disconnect => return None,
            Other(_) => return Some(Errno::Inval),
        };
        let changes = matches!(request.command, Write | WriteZeroes | Trim);
        let moves = matches!(request.command, Read | Write);
        let end = request.offset.checked_add(request.length);
        let is_past_end = request.command != Flush && end.is_none_or(|end| end > self.lu.size());
        if self.leaving.is_some() {
            Some(Errno::Shutdown)
        } else if changes && self.read_only {
            Some(Errno::Perm)
        } else if request.has(!known) || (moves && request.length > REQUEST_BYTES.into()) {
            Some(Errno::Inval)
        } else if is_past_end {
            Some(if matches!(request.command, Write | WriteZeroes) { Errno::NoSpc } else { Errno::Inval })
        } else if request.command == BlockStatus && (!self.terms.allocation || request.length == 0) {
            Some(Errno::Inval)
        } else if request.has(flag::FAST_ZERO) && (request.has(flag::NO_HOLE) || !self.lu.zeroes_fast()) {
            Some(Errno::NotSup) // Zeroes would be written: that is no faster than to write them.
        } else {
            None
        }
    }

    fn read(&mut self, request: Request, cost: usize) {
        let blocks = self.lu.cut(request.offset, request.length as usize);
        let buffer = self.kept.take(blocks.len);
        self.start(Job::new(request, cost), |queue, cookie| queue.read(cookie, buffer, blocks.start));
    }

    /// A write's payload is here, or has gone by.
    fn write(&mut self, payload: Option<AlignedBuf>) {
        let Some(Coming { request, cost, refusal }) = self.coming.take() else { return };
        let job = Job::new(request, cost);
        let buffer = match payload {
            Some(buffer) if request.length > 0 => buffer,
            _ => return self.answer(&job, refusal),
        };
        let blocks = self.lu.cut(request.offset, request.length as usize);
        self.start(job, |queue, cookie| {
            queue.write_part(cookie, buffer, blocks.start, request.has(flag::FUA), blocks.keep)
        });
    }

    /// Zeroes the next part; where zeroes are written, with `zeroes` if they fit.
    fn zero(&mut self, job: Job, zeroes: Option<AlignedBuf>) {
        let Job { request, at, .. } = job;
        let end = request.end();
        let block = u64::from(self.lu.block_size());
        let whole = if end == self.lu.size() { end } else { end - end % block };
        if !request.has(flag::NO_HOLE) && at.is_multiple_of(block) && at < whole {
            let part_end = whole.min(at - at % PUNCHED + PUNCHED);
            let job = Job { at: part_end, ..job };
            return self.start(job, |queue, cookie| queue.write_zeroes(cookie, at, part_end - at));
        }
        // What is no whole block.
        let most = if request.has(flag::NO_HOLE) { ZEROES } else { block };
        let part_end = (at - at % most + most).min(end);
        let blocks = self.lu.cut(at, (part_end - at) as usize);
        let zeroes = zeroes.filter(|zeroes| zeroes.len() == blocks.len);
        let zeroes = zeroes.unwrap_or_else(|| AlignedBuf::new(blocks.len));
        self.start(Job { at: part_end, ..job }, |queue, cookie| {
            queue.write_part(cookie, zeroes, blocks.start, false, blocks.keep)
        });
    }

    /// Discards the next part. Parts begin and end where whole stripes do.
    fn discard(&mut self, job: Job) {
        let Job { request, at, .. } = job;
        let end = request.end();
        let most = PUNCHED.next_multiple_of(self.lu.discard_unit());
        let part_end = end.min(at - at % most + most);
        let job = Job { at: part_end, ..job };
        self.start(job, |queue, cookie| queue.discard(cookie, at, part_end - at));
    }

    fn flush(&mut self, job: Job) {
        self.start(job, Queue::flush);
    }

    /// Hands a job to the queue, or answers why that cannot be.
    fn start(&mut self, job: Job, submit: impl FnOnce(&mut Queue, u64) -> Result<()>) {
        let Some(index) = self.free.pop() else { return self.answer(&job, Some(Errno::Io)) };
        match submit(&mut self.queue, index as u64) {
            Ok(()) => self.jobs[index] = Some(job),
            Err(error) => {
                self.free.push(index);
                self.answer(&job, Some(errno(&error)));
            }
        }
    }

    /// The queue is done with a job.
    fn finish(&mut self, completion: Completion) {
        let index = completion.cookie as usize;
        let Some(job) = self.jobs[index].take() else { return };
        self.free.push(index);
        let Job { request, at, settles, .. } = job;
        let buffer = completion.buffer;
        match (request.command, completion.result) {
            (Command::Read, Ok(())) => {
                if let Some(buffer) = buffer {
                    self.answer_read(&job, buffer);
                }
            }
            (Command::WriteZeroes, Ok(())) if !settles && at < request.end() => {
                // Bytes that were kept may have come into the buffers of parts that are no whole blocks.
                let block = u64::from(self.lu.block_size());
                let whole = at.is_multiple_of(block) && request.offset.is_multiple_of(block);
                self.zero(job, buffer.filter(|_| whole));
            }
            (Command::Trim, Ok(())) if !settles && at < request.end() => self.discard(job),
            (Command::WriteZeroes | Command::Trim, Ok(())) if !settles && request.has(flag::FUA) => {
                self.flush(Job { settles: true, ..job });
            }
            (Command::WriteZeroes, result) => self.answer(&job, result.err().as_ref().map(errno)),
            (_, result) => {
                if let Some(buffer) = buffer {
                    self.kept.keep(buffer);
                }
                self.answer(&job, result.err().as_ref().map(errno));
            }
        }
    }

    /// The job's bytes are the reply's until it is sent.
    fn answer_read(&mut self, &Job { request, cost, .. }: &Job, buffer: AlignedBuf) {
        let head = self.lu.cut(request.offset, request.length as usize).keep.head as usize;
        let range: Range<usize> = head..head + request.length as usize;
        let mut reply = Reply::data(&request, buffer, range, self.terms.headers);
        reply.cost = cost;
        self.outbox.push(reply);
    }

    fn answer(&mut self, &Job { request, cost, .. }: &Job, error: Option<Errno>) {
        self.held -= cost;
        self.outbox.push(Reply::plain(&request, error, self.terms.headers));
    }
}

/// What the client is told of an error of the LU's.
fn errno(error: &Error) -> Errno {
    match error.kind() {
        ErrorKind::Usage => Errno::Inval,
        ErrorKind::Busy => Errno::Shutdown,
        _ => Errno::Io,
    }
}
