//! Who may connect, how many at a time, what is watched meanwhile, and how it all ends.
//!
//! A thread accepts, a thread watches the LU for its journal, each connection has one of its own. Promises:
//! at most [`CONNECTIONS`] at a time; other users are turned away. When [`Server::leave`] returns no thread
//! is left and the LU is not referred to any more, but its place is still taken, so that who asked for the
//! stop can be told how it went. Refuses to know what is asked.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFlags, eventfd};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{SocketFlags, accept_with};

use crate::Lu;
use crate::error::{Error, ErrorKind, Result};

use super::folder::Seat;
use super::journal::{EventKind, Journal};
use super::line::{Lines, is, wait};
use super::session::serve;
use super::wire::{Answer, Failure, Holding, to_line};
use super::{CONNECTIONS, PATIENCE};

/// How long to let the system recover when it cannot give another descriptor.
const RESPITE: Duration = Duration::from_millis(100);

/// How often to look whether something has happened to the LU.
const LOOK: Duration = Duration::from_millis(500);

/// Answers for an LU. Dropped, it leaves without a word to who asked for a stop.
pub struct Server {
    shared: Option<Arc<Shared>>,
    threads: Vec<JoinHandle<()>>,
    seat: Option<Arc<Seat>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("seat", &self.seat).finish_non_exhaustive()
    }
}

/// What the connections share.
pub(super) struct Shared {
    pub(super) lu: Arc<Lu>,
    pub(super) holding: Holding,
    pub(super) journal: Journal,
    /// Held while a change is made: they come one after the other.
    pub(super) changing: Mutex<()>,
    /// Connections that wait for work or events.
    pub(super) streams: AtomicUsize,
    /// Rung once, when the server leaves, and never silenced.
    pub(super) bell: OwnedFd,
    stop_wanted: AtomicBool,
    /// Who wants to know how the stop went.
    to_tell: Mutex<Vec<Lines>>,
}

impl Server {
    /// Answers for `lu` at a socket in `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] if another process answers for an LU of this UUID; [`ErrorKind::Refused`] if the
    /// folder is somebody else's, open to others, or a link; [`ErrorKind::Usage`] if its path is too long;
    /// [`ErrorKind::Io`] if the system refuses the means.
    pub fn start(lu: Arc<Lu>, folder: impl AsRef<Path>, holding: Holding) -> Result<Server> {
        let failed =
            |error: io::Error| Error::new(ErrorKind::Io, "cannot start to answer").with_source(error);
        let seat = Arc::new(Seat::take(folder.as_ref(), lu.uuid())?);
        let bell =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| failed(e.into()))?;
        let shared = Arc::new(Shared {
            journal: Journal::new(lu.status()),
            lu,
            holding,
            changing: Mutex::new(()),
            streams: AtomicUsize::new(0),
            bell,
            stop_wanted: AtomicBool::new(false),
            to_tell: Mutex::default(),
        });
        // From here on a failure ends what has been started.
        let mut server =
            Server { shared: Some(shared.clone()), threads: Vec::new(), seat: Some(seat.clone()) };
        let own = shared.clone();
        let watcher = thread::Builder::new().name("control watch".into()).spawn(move || own.watch());
        server.threads.push(watcher.map_err(failed)?);
        let acceptor =
            thread::Builder::new().name("control accept".into()).spawn(move || accept(&shared, &seat));
        server.threads.push(acceptor.map_err(failed)?);
        Ok(server)
    }

    /// Has a client asked to let go of the LU?
    pub fn stop_wanted(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.stop_wanted.load(SeqCst))
    }

    /// Lets nobody in any more, finishes the changes under way, closes the connections and lets go of the LU.
    /// Who asked for the stop waits for the [`Farewell`].
    pub fn leave(mut self) -> Farewell {
        let to_tell = self.end();
        Farewell { to_tell, _seat: self.seat.take() }
    }

    fn end(&mut self) -> Vec<Lines> {
        let Some(shared) = self.shared.take() else { return Vec::new() };
        #[expect(clippy::host_endian_bytes, reason = "the kernel wants a number in its own byte order")]
        let one = 1u64.to_ne_bytes();
        // Can only fail if the counter is full, and then it has been rung.
        let _ = rustix::io::write(&shared.bell, &one);
        for thread in self.threads.drain(..) {
            // A panic there has been printed already.
            let _ = thread.join();
        }
        std::mem::take(&mut *lock(&shared.to_tell))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// The place of an LU whose server has left, until those who asked for the stop know how it went. Dropped,
/// the place is free.
#[derive(Debug)]
#[must_use = "those who asked for the stop wait"]
pub struct Farewell {
    to_tell: Vec<Lines>,
    _seat: Option<Arc<Seat>>,
}

impl Farewell {
    /// Tells how the stop went, and frees the place.
    pub fn say(self, stopped: &Result<()>) {
        let answer = match stopped {
            Ok(()) => Answer::Done,
            Err(error) => Answer::Error(error.into()),
        };
        let Farewell { to_tell, _seat: seat } = self;
        // First of all, so that who is told finds nobody here.
        drop(seat);
        let Ok(line) = to_line(&answer) else { return };
        for mut client in to_tell {
            // He may have gone.
            let _ = client.write(&line, Instant::now() + PATIENCE);
        }
    }
}

impl Shared {
    /// Tells the journal what happens, until the bell rings.
    fn watch(&self) {
        loop {
            match wait(&self.bell, PollFlags::IN, Some(Instant::now() + LOOK), None) {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => self.look(),
                _ => return,
            }
        }
    }

    /// Writes down what is different now.
    pub(super) fn look(&self) {
        self.journal.observe(|| self.lu.status());
    }

    /// Does the server leave?
    pub(super) fn is_leaving(&self) -> bool {
        is(&self.bell, PollFlags::IN)
    }

    /// `client` wants the LU to be let go of, and to know when it is.
    pub(super) fn want_stop(&self, mut client: Lines) {
        let mut to_tell = lock(&self.to_tell);
        if to_tell.len() == CONNECTIONS {
            return turn_away(&mut client, &Error::new(ErrorKind::Busy, "the LU is being stopped"));
        }
        to_tell.push(client);
        drop(to_tell);
        self.journal.note(EventKind::Stop, "asked to stop".into());
        self.stop_wanted.store(true, SeqCst);
    }

    /// All of one connection. Why it ends is between it and its client.
    fn welcome(&self, socket: OwnedFd) {
        let Ok(peer) = socket_peercred(&socket) else { return };
        let (user, own) = (peer.uid, rustix::process::geteuid());
        let mut client = Lines::new(socket);
        if user != own && !user.is_root() {
            let text = format!("user {} is not who holds this LU", user.as_raw());
            return turn_away(&mut client, &Error::new(ErrorKind::Refused, text));
        }
        serve(self, client, peer.pid.as_raw_nonzero().get());
    }
}

/// Lets clients in until the bell rings, then waits until all have gone.
fn accept(shared: &Arc<Shared>, seat: &Seat) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    while wait(seat.listener(), PollFlags::IN, None, Some(&shared.bell)).is_ok() {
        threads.retain(|thread| !thread.is_finished());
        match accept_with(seat.listener(), SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) if threads.len() < CONNECTIONS => {
                let shared = shared.clone();
                let thread = thread::Builder::new().name("control".into());
                // Without a thread there is no connection: the client sees it closed.
                threads.extend(thread.spawn(move || shared.welcome(socket)));
            }
            Ok(socket) => {
                let text = format!("{CONNECTIONS} clients are connected already");
                turn_away(&mut Lines::new(socket), &Error::new(ErrorKind::Busy, text));
            }
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
            Err(_) => thread::sleep(RESPITE),
        }
    }
    for thread in threads {
        // A panic there has been printed already.
        let _ = thread.join();
    }
}

/// Says why not, as far as that goes without waiting: a new socket has room for it.
fn turn_away(client: &mut Lines, error: &Error) {
    if let Ok(line) = to_line(&Answer::Error(Failure::from(error))) {
        let _ = client.write(&line, Instant::now());
    }
}

/// A lock whose holder died has nothing half-done in it here.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
