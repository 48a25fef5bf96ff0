//! A [`Queue`] for async programs (feature `async`): futures that own their buffers, under any executor.
//!
//! [`AsyncQueue::new`] makes two of a queue: the handle, whose calls are futures, and the [`Driver`], a task that has to run
//! beside them. The driver sleeps on the queue's descriptor by way of the runtime's own reactor, so that this needs neither
//! a thread nor a dependency: `run` is given a function that asks whether the descriptor is readable, one line with tokio's
//! `AsyncFd`, with `async_io::Async` (smol), or with whatever polls descriptors elsewhere.
//!
//! # Promises
//! A future may be dropped at any time: before it was first polled nothing happens; later the request may or may not
//! be done, and its buffer stays with the queue until the disks have let go of it. Nothing blocks but the drop of a
//! driver amid work. Requests polled for the first time in one turn of the executor are one batch: merged, planned and
//! submitted together. As on the queue they have no order among themselves, and a flush covers what was *acknowledged*
//! before it was first polled. If more requests are made than the queue is deep, the rest wait, oldest first.
//!
//! Refuses to know: runtimes, and time. A request has no deadline; race it with a timer and drop it.
//!
//! # Example
//! ```
//! use std::task::{Poll, ready};
//! use tokio::io::{Interest, unix::AsyncFd};
//! use uraid::{Lu, disk::AlignedBuf, lu::AsyncQueue, units::Level};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! let mut create = Lu::create("data", Level::Raid5).disk_size(8 << 20);
//! for disk in ["d0", "d1", "d2"] {
//!     create = create.disk(folder.path().join(disk));
//! }
//! let lu = create.make()?;
//! let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
//! runtime.block_on(async {
//!     let (queue, driver) = AsyncQueue::new(lu.queue(64)?)?;
//!     // SAFETY: an `OwnedFd` keeps its descriptor open.
//!     let fd = unsafe { AsyncFd::register_with_interest(driver.event_fd()?, Interest::READABLE)? };
//!     let driver = tokio::spawn(driver.run(move |cx| {
//!         ready!(fd.poll_read_ready(cx))?.clear_ready();
//!         Poll::Ready(Ok(()))
//!     }));
//!
//!     let mut buffer = AlignedBuf::new(4096);
//!     buffer.fill(7);
//!     let (result, buffer) = queue.write(0, buffer, false).await;
//!     result?;
//!     queue.flush().await?;
//!     let (result, buffer) = queue.read(0, buffer).await;
//!     result?;
//!     assert!(buffer.iter().all(|&byte| byte == 7));
//!
//!     drop(queue); // and its driver ends
//!     driver.await??;
//!     Ok::<(), Box<dyn std::error::Error>>(())
//! })?;
//! lu.stop()?;
//! # Ok(())
//! # }
//! ```
//! With smol the function is `move |cx| fd.poll_readable(cx)`, where `fd` is `async_io::Async::new_nonblocking(driver.event_fd()?)?`.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::disk::AlignedBuf;
use crate::engine::Keep;
use crate::error::{Error, ErrorKind, Result};

use super::board::lock;
use super::queue::{Ask, Completion, Queue};

/// How a request ended, and its buffer if it has one.
type Outcome = (Result<()>, Option<AlignedBuf>);

/// The handle of an async queue; clones are handles of the same one. See the [module's text](self).
///
/// Offsets are in bytes of the LU and, like lengths, multiples of [`Lu::block_size`](super::Lu::block_size) (the last block of
/// an LU may be shorter). Besides the errors of [`Queue`] all calls give [`ErrorKind::Busy`] once the driver is gone.
pub struct AsyncQueue {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Handles there are: without any the driver ends.
    handles: AtomicUsize,
}

struct State {
    /// `None` once the driver is gone.
    queue: Option<Queue>,
    places: Vec<Place>,
    free: Vec<usize>,
    /// Places of requests that are not submitted yet, oldest first.
    backlog: VecDeque<usize>,
    /// The driver, while it sleeps.
    driver: Option<Waker>,
    done: Vec<Completion>,
}

/// What has become of a request, kept from the first poll of its future to the last.
enum Place {
    Free,
    Waiting(Ask, Waker),
    UnderWay(Waker),
    Done(Outcome),
    /// Its future was dropped; it is in the backlog or under way.
    Left,
}

impl AsyncQueue {
    /// Makes a queue, on which nothing is under way, asynchronous. The driver has to [run](Driver::run) for the handle's futures to get on.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] if requests are under way.
    pub fn new(queue: Queue) -> Result<(AsyncQueue, Driver)> {
        if queue.in_flight() > 0 {
            let text = "requests are under way on this queue; poll it until they are done, then make it asynchronous";
            return Err(Error::new(ErrorKind::Usage, text));
        }
        let state = State {
            queue: Some(queue),
            places: Vec::new(),
            free: Vec::new(),
            backlog: VecDeque::new(),
            driver: None,
            done: Vec::new(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), handles: AtomicUsize::new(1) });
        let driver = Driver { shared: shared.clone(), wakers: Vec::new() };
        Ok((AsyncQueue { shared }, driver))
    }

    /// Buffers that the queue's ring has registered, as [`Queue::buffers`].
    ///
    /// # Errors
    /// As [`Queue::buffers`].
    pub fn buffers(&self, count: usize, len: usize) -> Result<Vec<AlignedBuf>> {
        let mut state = lock(&self.shared.state);
        state.queue.as_mut().ok_or_else(gone)?.buffers(count, len)
    }

    /// Fills `buffer` from byte `offset`.
    ///
    /// # Errors
    /// As [`Queue::read`]; the buffer comes back in any case.
    pub async fn read(&self, offset: u64, buffer: AlignedBuf) -> (Result<()>, AlignedBuf) {
        with_buffer(self.ask(Ask::Read { buffer, offset }).await)
    }

    /// Writes `buffer` to byte `offset`; with `fua`, stable when it is done.
    ///
    /// # Errors
    /// As [`Queue::write`]; the buffer comes back in any case.
    pub async fn write(&self, offset: u64, buffer: AlignedBuf, fua: bool) -> (Result<()>, AlignedBuf) {
        with_buffer(self.ask(Ask::Write { buffer, offset, fua, keep: Keep::default() }).await)
    }

    /// Makes stable what was acknowledged before, on any queue of the LU.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if a member could not flush and nothing stands in for it.
    pub async fn flush(&self) -> Result<()> {
        self.ask(Ask::Flush).await.0
    }

    /// Has `len` bytes from byte `offset` read as zeroes, as [`Lu::write_zeroes_at`](super::Lu::write_zeroes_at).
    ///
    /// # Errors
    /// As [`Queue::write`].
    pub async fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        self.ask(Ask::Zero { offset, len }).await.0
    }

    /// Gives up what is in `len` bytes from byte `offset`, any alignment, as [`Lu::discard_at`](super::Lu::discard_at).
    ///
    /// # Errors
    /// As [`Queue::write`].
    pub async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.ask(Ask::Discard { offset, len }).await.0
    }

    fn ask(&self, ask: Ask) -> Asked<'_> {
        Asked { shared: &self.shared, phase: Phase::New(ask) }
    }
}

impl Clone for AsyncQueue {
    fn clone(&self) -> AsyncQueue {
        self.shared.handles.fetch_add(1, SeqCst);
        AsyncQueue { shared: self.shared.clone() }
    }
}

impl Drop for AsyncQueue {
    fn drop(&mut self) {
        if self.shared.handles.fetch_sub(1, SeqCst) == 1 {
            let driver = lock(&self.shared.state).driver.take();
            driver.into_iter().for_each(Waker::wake);
        }
    }
}

fn with_buffer((result, buffer): Outcome) -> (Result<()>, AlignedBuf) {
    (result, buffer.expect("a transfer's buffer comes back with it"))
}

fn gone() -> Error {
    Error::new(ErrorKind::Busy, "the queue's driver is gone; keep it running as long as the queue is used")
}

/// One request.
struct Asked<'a> {
    shared: &'a Shared,
    phase: Phase,
}

enum Phase {
    New(Ask),
    /// In this place.
    Asked(usize),
    Over,
}

impl Future for Asked<'_> {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let shared = self.shared;
        let mut state = lock(&shared.state);
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::New(ask) => {
                let refused = match &state.queue {
                    Some(queue) => queue.request(&ask).err(),
                    None => Some(gone()),
                };
                if let Some(error) = refused {
                    return Poll::Ready((Err(error), ask.into_buffer()));
                }
                let place = state.insert(Place::Waiting(ask, cx.waker().clone()));
                state.backlog.push_back(place);
                self.phase = Phase::Asked(place);
                let driver = state.driver.take();
                drop(state);
                driver.into_iter().for_each(Waker::wake);
                Poll::Pending
            }
            Phase::Asked(place) => match state.look(place, cx.waker()) {
                Some(outcome) => Poll::Ready(outcome),
                None => {
                    self.phase = Phase::Asked(place);
                    Poll::Pending
                }
            },
            Phase::Over => panic!("a request was polled after its end"),
        }
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if let Phase::Asked(place) = self.phase {
            let left = lock(&self.shared.state).leave(place);
            // (A buffer is let go without the lock.)
            drop(left);
        }
    }
}

impl State {
    fn insert(&mut self, place: Place) -> usize {
        match self.free.pop() {
            Some(index) => {
                self.places[index] = place;
                index
            }
            None => {
                self.places.push(place);
                self.places.len() - 1
            }
        }
    }

    fn take(&mut self, index: usize) -> Place {
        self.free.push(index);
        std::mem::replace(&mut self.places[index], Place::Free)
    }

    /// How the request in a place ended; if it has not, `waker` is called when it does.
    fn look(&mut self, index: usize, waker: &Waker) -> Option<Outcome> {
        match &mut self.places[index] {
            Place::Waiting(_, known) | Place::UnderWay(known) => {
                known.clone_from(waker);
                None
            }
            Place::Done(_) | Place::Free | Place::Left => match self.take(index) {
                Place::Done(outcome) => Some(outcome),
                _ => unreachable!("a place is its future's until that has the outcome"),
            },
        }
    }

    /// The future of the request in a place is dropped; what need not be kept comes back.
    fn leave(&mut self, index: usize) -> Place {
        match self.places[index] {
            Place::Done(_) => self.take(index),
            _ => std::mem::replace(&mut self.places[index], Place::Left),
        }
    }

    /// A request is over: whoever waits for it is to be woken.
    fn finish(&mut self, index: usize, outcome: Outcome, wakers: &mut Vec<Waker>) {
        match std::mem::replace(&mut self.places[index], Place::Done(outcome)) {
            Place::Waiting(_, waker) | Place::UnderWay(waker) => wakers.push(waker),
            Place::Free | Place::Done(_) | Place::Left => drop(self.take(index)),
        }
    }

    /// Submits what waits, as far as there is room, and takes what is finished, until nothing more moves.
    fn turn(&mut self, wait: Option<Duration>, wakers: &mut Vec<Waker>) {
        loop {
            self.submit(wakers);
            let Some(queue) = &mut self.queue else { return };
            let mut done = std::mem::take(&mut self.done);
            queue.poll(&mut done, wait);
            let moved = !done.is_empty();
            for Completion { cookie, buffer, result } in done.drain(..) {
                self.finish(cookie as usize, (result, buffer), wakers);
            }
            self.done = done;
            if !moved || self.backlog.is_empty() {
                return;
            }
        }
    }

    fn submit(&mut self, wakers: &mut Vec<Waker>) {
        while let Some(queue) = self.queue.as_mut().filter(|queue| queue.has_room()) {
            let Some(index) = self.backlog.pop_front() else { return };
            match std::mem::replace(&mut self.places[index], Place::Left) {
                Place::Waiting(ask, waker) => {
                    self.places[index] = Place::UnderWay(waker);
                    if let Err((error, buffer)) = queue.start(index as u64, ask) {
                        self.finish(index, (Err(error), buffer), wakers);
                    }
                }
                _ => drop(self.take(index)),
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.queue.as_ref().map_or(0, Queue::in_flight)
    }
}

/// What moves an [`AsyncQueue`]: a task to run beside its users.
///
/// Dropped before its end (as a runtime does when it is shut down) it finishes what is under way, blocking meanwhile; what was
/// not submitted, and all that is asked later, fails.
#[must_use = "the queue's futures get on only while its driver runs"]
pub struct Driver {
    shared: Arc<Shared>,
    wakers: Vec<Waker>,
}

impl Driver {
    /// A descriptor, the caller's own, that becomes readable when the driver would get on: to be registered with the reactor.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if the system has none left, [`ErrorKind::Usage`] if the disks have none (those of an embedding program's
    /// own making).
    pub fn event_fd(&self) -> Result<OwnedFd> {
        let state = lock(&self.shared.state);
        let queue = state.queue.as_ref().ok_or_else(gone)?;
        let copy = queue.event_fd(|fd| fd.map(|fd| fd.try_clone_to_owned()));
        let copy =
            copy.ok_or_else(|| Error::new(ErrorKind::Usage, "these disks have no descriptor to wait on"))?;
        copy.map_err(|error| Error::new(ErrorKind::Io, "no descriptor for an async queue").with_source(error))
    }

    /// Drives the queue until its last handle is gone and all is done.
    ///
    /// `readable` asks the reactor whether [`event_fd`](Driver::event_fd) has become readable since it was asked last: ready if so,
    /// else pending, and the task is woken when it is. Ready without need costs a turn and does no harm.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] with what `readable` failed with.
    pub async fn run(
        mut self,
        mut readable: impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>,
    ) -> Result<()> {
        poll_fn(|cx| self.turn(cx, &mut readable)).await
    }

    fn turn(
        &mut self,
        cx: &mut Context<'_>,
        readable: &mut impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>,
    ) -> Poll<Result<()>> {
        let failed = |error| Error::new(ErrorKind::Io, "cannot wait for an async queue").with_source(error);
        // First to be woken by whatever comes from now on, then to look.
        let mut readiness = readable(cx);
        if let Poll::Ready(Ok(())) = readiness {
            readiness = readable(cx);
        }
        let mut state = lock(&self.shared.state);
        state.turn(None, &mut self.wakers);
        state.driver = Some(cx.waker().clone());
        let idle = state.in_flight() == 0 && state.backlog.is_empty();
        let over = idle && self.shared.handles.load(SeqCst) == 0;
        drop(state);
        self.wakers.drain(..).for_each(Waker::wake);
        match readiness {
            _ if over => Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(failed(error))),
            Poll::Ready(Ok(())) => {
                // After the others' turn.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let mut state = lock(&self.shared.state);
        while let Some(index) = state.backlog.pop_front() {
            let buffer = match std::mem::replace(&mut state.places[index], Place::Left) {
                Place::Waiting(ask, waker) => {
                    state.places[index] = Place::UnderWay(waker);
                    ask.into_buffer()
                }
                _ => None,
            };
            state.finish(index, (Err(gone()), buffer), &mut self.wakers);
        }
        while state.in_flight() > 0 {
            state.turn(Some(Duration::from_secs(1)), &mut self.wakers);
        }
        let queue = state.queue.take();
        drop(state);
        // (It may have repairs to finish.)
        drop(queue);
        self.wakers.drain(..).for_each(Waker::wake);
    }
}
