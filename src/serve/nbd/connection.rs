//! A connection after its handshake: one thread, one queue of the LU, one socket that never blocks it.
//!
//! The thread turns in a loop: take requests off the socket, drive the queue, put replies on the socket, and
//! sleep when none of the three moves. Payloads go from the socket into the buffer that the LU writes from,
//! and from the buffer that the LU read into to the socket. As the queue is driven whatever the socket does,
//! a client that does not read its replies holds up nobody else.
//!
//! Promises: at most [`REQUESTS`] requests and [`REQUEST_BYTES`], and one more, are held, and no more than the
//! server's [`Budget`] has; every request that
//! was read is answered unless the connection breaks; a payload that is not whole is never written. When the
//! server stops, requests under way are finished and later ones refused. Refuses to know how it was agreed
//! upon what is served.

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
use super::budget::{Budget, Held};
use super::handshake::Terms;
use super::intake::{Arrived, Intake};
use super::outbox::{Outbox, Reply};
use super::transport::Transport;
use super::wire::{Command, Errno, Request, flag};
use super::{PATIENCE_SECONDS, REQUEST_BYTES, REQUESTS};

/// Bytes of zeroes that are written at a time where no holes are wanted: whole stripes of most LUs.
const ZEROES: u64 = 1 << 20;

/// Bytes that are made zero, or discarded, at a time: other requests of the connection come in between.
const PUNCHED: u64 = 64 << 20;

/// How long a client may take none of its replies while memory is short.
const STALL: Duration = Duration::from_secs(PATIENCE_SECONDS);

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
    /// Buffers of requests and replies.
    held: Held<'a>,
    /// A request that waits for memory; nothing is read behind it.
    delayed: Option<Request>,
    /// Since when the client has not taken a byte of its replies.
    stalled: Option<Instant>,
    kept: Kept,
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
    /// Bytes it holds.
    cost: usize,
    /// A zeroing or discard has come this far, in bytes of the LU.
    at: u64,
    /// It is the flush behind a zeroing or discard that is to be stable.
    settles: bool,
}

impl Job {
    /// One that is a single operation of the LU's.
    fn new(request: Request, cost: usize) -> Job {
        Job { request, cost, at: 0, settles: false }
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
        budget: &'a Budget,
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
            intake: Intake::new(),
            outbox: Outbox::new(),
            coming: None,
            jobs: (0..REQUESTS).map(|_| None).collect(),
            free: (0..REQUESTS).rev().collect(),
            held: Held::of(budget),
            delayed: None,
            stalled: None,
            kept: Kept::new(REQUESTS),
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
            if !moved {
                self.sleep(&mut done)?;
            }
        }
    }

    fn take_requests(&mut self) -> io::Result<bool> {
        let mut moved = false;
        if let Some(request) = self.delayed.take_if(|request| self.held.try_take(cost(self.lu, request))) {
            moved = true;
            self.begin(request);
        }
        while self.intake.is_amid_payload() || self.has_room() {
            let Some(arrived) = self.intake.next(&mut self.transport)? else { break };
            moved = true;
            match arrived {
                Arrived::Head(request) if !self.held.try_take(cost(self.lu, &request)) => {
                    self.delayed = Some(request);
                }
                Arrived::Head(request) => self.begin(request),
                Arrived::Payload(payload) => self.write(payload),
            }
        }
        Ok(moved)
    }

    fn has_room(&self) -> bool {
        let requests = REQUESTS - self.free.len() + self.outbox.len();
        requests < REQUESTS && self.held.bytes() < REQUEST_BYTES as usize && self.delayed.is_none()
    }

    fn send_replies(&mut self) -> io::Result<bool> {
        let mut moved = false;
        while let Some(reply) = self.outbox.next_sent(&mut self.transport)? {
            moved = true;
            self.held.give_back(reply.cost);
            if let Some((buffer, _)) = reply.data {
                self.kept.keep(buffer);
            }
        }
        self.transport.push()?;
        if self.outbox.len() == 0 || self.outbox.has_advanced() {
            self.stalled = None;
        } else if self.stalled.get_or_insert_with(Instant::now).elapsed() >= STALL && self.held.is_short() {
            // Others wait for the memory that its replies hold.
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(moved)
    }

    fn is_over(&self) -> bool {
        let sent = self.outbox.len() == 0 && !self.transport.is_pending();
        let answered = self.free.len() == REQUESTS && sent;
        let leaving = self.intake.has_ended() || self.leaving.is_some();
        (leaving && answered) || self.leaving.is_some_and(|until| Instant::now() >= until)
    }

    /// Sleeps until the socket, the queue or the server wants something.
    fn sleep(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
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
        let looks_again = match (working || self.delayed.is_some(), self.stalled) {
            (true, _) => Some(NAP),
            (false, Some(_)) => Some(STALL / 4),
            (false, None) => None,
        };
        let wait = looks_again.into_iter().chain(left).min();
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
            self.leaving = Some(Instant::now() + Duration::from_secs(PATIENCE_SECONDS));
        }
        if woken == 0 && working {
            // With a wait, so that it drives other queues whose locks this one may wait for.
            self.queue.poll(done, Some(Duration::from_millis(1)));
        }
        Ok(())
    }

    /// What the socket is good for now.
    fn wanted(&self) -> PollFlags {
        let reads = !self.intake.has_ended() && (self.intake.is_amid_payload() || self.has_room());
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, reads);
        wanted.set(PollFlags::OUT, self.outbox.len() > 0 || self.transport.is_pending());
        wanted
    }
}

/// Requests.
impl Connection<'_> {
    /// Begins a request, whose cost is held.
    fn begin(&mut self, request: Request) {
        let refusal = self.refusal(&request);
        if refusal.is_some() || request.length == 0 {
            self.held.give_back(cost(self.lu, &request));
        }
        match (request.command, refusal) {
            (Command::Disconnect, _) => self.intake.end(),
            (Command::Write, None) => {
                let blocks = self.lu.cut(request.offset, request.length as usize);
                let (head, cost) = (blocks.keep.head as usize, blocks.len);
                let buffer = self.kept.take(blocks.len);
                self.intake.expect(buffer, head, request.length as usize);
                self.coming = Some(Coming { request, cost, refusal });
            }
            (Command::Write, Some(_)) => {
                self.intake.discard(request.length as usize);
                self.coming = Some(Coming { request, cost: 0, refusal });
            }
            (_, Some(error)) => self.answer(request, Some(error)),
            (Command::BlockStatus, None) => {
                self.outbox.push(Reply::allocated(request.cookie, request.length));
            }
            (Command::Read | Command::WriteZeroes | Command::Trim, None) if request.length == 0 => {
                self.answer(request, None);
            }
            (Command::Read, None) => self.read(request),
            (Command::WriteZeroes, None) => self.zero(request, request.offset, None),
            (Command::Trim, None) => self.discard(request, request.offset),
            // Nothing was ever written that a flush could make stable.
            (Command::Flush, None) if !self.read_only => self.flush(Job::new(request, 0)),
            // A hint, and what `refusal` has refused.
            (Command::Flush | Command::Cache | Command::Other(_), None) => self.answer(request, None),
        }
    }

    /// Why `request` cannot be done, as far as that can be seen from outside.
    fn refusal(&self, request: &Request) -> Option<Errno> {
        use Command::{BlockStatus, Cache, Disconnect, Flush, Other, Read, Trim, Write, WriteZeroes};
        let known = match request.command {
            Read => flag::FUA | if self.terms.structured { flag::DF } else { 0 },
            Write | Flush | Trim | Cache => flag::FUA,
            WriteZeroes => flag::FUA | flag::NO_HOLE | flag::FAST_ZERO,
            BlockStatus => flag::FUA | flag::REQ_ONE,
            Disconnect => return None,
            Other(_) => return Some(Errno::Inval),
        };
        let changes = matches!(request.command, Write | WriteZeroes | Trim);
        let carries = matches!(request.command, Read | Write);
        let end = request.offset.checked_add(request.length.into());
        let is_past_end = request.command != Flush && end.is_none_or(|end| end > self.lu.size());
        if self.leaving.is_some() {
            Some(Errno::Shutdown)
        } else if changes && self.read_only {
            Some(Errno::Perm)
        } else if request.has(!known) || (carries && request.length > REQUEST_BYTES) {
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

    fn read(&mut self, request: Request) {
        let blocks = self.lu.cut(request.offset, request.length as usize);
        let buffer = self.kept.take(blocks.len);
        self.start(Job::new(request, blocks.len), |queue, cookie| queue.read(cookie, buffer, blocks.start));
    }

    /// A write's payload is here, or has gone by.
    fn write(&mut self, payload: Option<AlignedBuf>) {
        let Some(Coming { request, cost, refusal }) = self.coming.take() else { return };
        let buffer = match payload {
            Some(buffer) if request.length > 0 => buffer,
            _ => return self.answer(request, refusal),
        };
        let blocks = self.lu.cut(request.offset, request.length as usize);
        self.start(Job::new(request, cost), |queue, cookie| {
            queue.write_part(cookie, buffer, blocks.start, request.has(flag::FUA), blocks.keep)
        });
    }

    /// Zeroes the next part from `at` on; where zeroes are written, with `zeroes` if they fit.
    fn zero(&mut self, request: Request, at: u64, zeroes: Option<AlignedBuf>) {
        let end = request.end();
        let block = u64::from(self.lu.block_size());
        let whole = if end == self.lu.size() { end } else { end - end % block };
        if !request.has(flag::NO_HOLE) && at.is_multiple_of(block) && at < whole {
            let part_end = whole.min(at - at % PUNCHED + PUNCHED);
            let job = Job { at: part_end, ..Job::new(request, 0) };
            return self.start(job, |queue, cookie| queue.write_zeroes(cookie, at, part_end - at));
        }
        // What is no whole block.
        let most = if request.has(flag::NO_HOLE) { ZEROES } else { block };
        let part_end = (at - at % most + most).min(end);
        let blocks = self.lu.cut(at, (part_end - at) as usize);
        let zeroes = zeroes.filter(|zeroes| zeroes.len() == blocks.len);
        let zeroes = zeroes.unwrap_or_else(|| AlignedBuf::new(blocks.len));
        self.held.take(blocks.len);
        self.start(Job { at: part_end, ..Job::new(request, blocks.len) }, |queue, cookie| {
            queue.write_part(cookie, zeroes, blocks.start, false, blocks.keep)
        });
    }

    /// Discards the next part from `at` on. Parts begin and end where whole stripes do.
    fn discard(&mut self, request: Request, at: u64) {
        let end = request.end();
        let most = PUNCHED.next_multiple_of(self.lu.discard_unit());
        let part_end = end.min(at - at % most + most);
        let job = Job { at: part_end, ..Job::new(request, 0) };
        self.start(job, |queue, cookie| queue.discard(cookie, at, part_end - at));
    }

    fn flush(&mut self, job: Job) {
        self.start(job, Queue::flush);
    }

    /// Hands a job, whose cost is held, to the queue, or answers why that cannot be.
    fn start(&mut self, job: Job, submit: impl FnOnce(&mut Queue, u64) -> Result<()>) {
        let Some(index) = self.free.pop() else {
            self.held.give_back(job.cost);
            return self.answer(job.request, Some(Errno::Io));
        };
        match submit(&mut self.queue, index as u64) {
            Ok(()) => self.jobs[index] = Some(job),
            Err(error) => {
                self.held.give_back(job.cost);
                self.free.push(index);
                self.answer(job.request, Some(errno(&error)));
            }
        }
    }

    /// The queue is done with a job.
    fn finish(&mut self, completion: Completion) {
        let index = completion.cookie as usize;
        let Some(Job { request, cost, at, settles }) = self.jobs[index].take() else { return };
        self.free.push(index);
        let buffer = match (request.command, completion.result.is_ok(), completion.buffer) {
            // The reply holds it on.
            (Command::Read, true, Some(buffer)) => return self.answer_read(request, buffer, cost),
            (_, _, buffer) => buffer,
        };
        self.held.give_back(cost);
        match (request.command, completion.result) {
            (Command::WriteZeroes, Ok(())) if !settles && at < request.end() => {
                // Bytes that were kept may have come into the buffers of parts that are no whole blocks.
                let block = u64::from(self.lu.block_size());
                let whole = at.is_multiple_of(block) && request.offset.is_multiple_of(block);
                self.zero(request, at, buffer.filter(|_| whole));
            }
            (Command::Trim, Ok(())) if !settles && at < request.end() => self.discard(request, at),
            (Command::WriteZeroes | Command::Trim, Ok(())) if !settles && request.has(flag::FUA) => {
                self.flush(Job { settles: true, ..Job::new(request, 0) });
            }
            (Command::WriteZeroes, result) => self.answer(request, result.err().as_ref().map(errno)),
            (_, result) => {
                if let Some(buffer) = buffer {
                    self.kept.keep(buffer);
                }
                self.answer(request, result.err().as_ref().map(errno));
            }
        }
    }

    fn answer_read(&mut self, request: Request, buffer: AlignedBuf, cost: usize) {
        let head = self.lu.cut(request.offset, request.length as usize).keep.head as usize;
        let range: Range<usize> = head..head + request.length as usize;
        let mut reply = Reply::data(request.cookie, request.offset, buffer, range, self.terms.structured);
        reply.cost = cost;
        self.outbox.push(reply);
    }

    fn answer(&mut self, request: Request, error: Option<Errno>) {
        self.outbox.push(Reply::plain(request.cookie, error, self.terms.structured));
    }
}

/// Bytes that a request will hold.
fn cost(lu: &Lu, request: &Request) -> usize {
    match request.command {
        // (What reaches past the end is refused, and holds nothing.)
        Command::Read | Command::Write if request.end() <= lu.size() => {
            lu.cut(request.offset, request.length as usize).len
        }
        _ => 0,
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
