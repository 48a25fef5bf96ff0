//! Who may connect, how many at a time, and how it all ends.
//!
//! One thread accepts; each connection has a thread of its own. Promises: at most [`CONNECTIONS`] at a time,
//! further ones are closed at once; a client that does not come to its point within [`PATIENCE_SECONDS`] is
//! closed; what one connection suffers no other notices. [`Server::stop`] returns when no thread is left:
//! requests that were under way have been answered, or their clients did not take the answers in time.
//! Refuses to know requests.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{
    set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl, set_tcp_nodelay,
};
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send};

use crate::Lu;
use crate::disk::bell::{Bell, timespec};
use crate::engine::Wake;
use crate::error::{Error, ErrorKind, Result};

use super::budget::Budget;
use super::connection::Connection;
use super::handshake::{Agreed, Export, Security, Terms, greet, negotiate};
use super::transport::Transport;
use super::{CONNECTIONS, Listener, PATIENCE_SECONDS};

/// How long to let the system recover when it cannot give another descriptor.
const RESPITE: Duration = Duration::from_millis(100);

/// How long a client over TCP may be quiet before it is asked whether it is there, and to answer.
const QUIET: Duration = Duration::from_secs(60);

/// Smallest block that clients are told to prefer: what file systems use.
const PREFERRED: u32 = 4096;

/// A server of one LU. Dropped, it is stopped.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    lu: Arc<Lu>,
    export: Export,
    /// Clients are served under TLS only.
    #[cfg(feature = "tls")]
    tls: Option<super::Tls>,
    /// Rung once, when the server stops, and never silenced: it wakes every thread that sleeps on it.
    bell: Bell,
    connections: AtomicUsize,
    budget: Budget,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("export", &self.export).finish_non_exhaustive()
    }
}

impl Server {
    /// Serves `lu` to whoever connects to `listener`; with `read_only`, as it must be for an LU that is open
    /// for reading, without changing it.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if the system has no thread or descriptor left.
    pub fn start(lu: Arc<Lu>, read_only: bool, listener: Listener) -> Result<Server> {
        let failed = |error: io::Error| Error::new(ErrorKind::Io, "cannot start to serve").with_source(error);
        let export = Export {
            name: lu.name().to_owned(),
            description: format!("uraid LU {}", lu.uuid()),
            size: lu.size(),
            preferred: lu.block_size().max(PREFERRED),
            read_only,
        };
        let bell = Bell::new().map_err(failed)?;
        let shared = Arc::new(Shared {
            lu,
            export,
            #[cfg(feature = "tls")]
            tls: listener.tls().cloned(),
            bell,
            connections: AtomicUsize::new(0),
            budget: Budget::new(),
        });
        let own = shared.clone();
        let acceptor = thread::Builder::new().name("nbd accept".into()).spawn(move || accept(&own, listener));
        Ok(Server { shared, acceptor: Some(acceptor.map_err(failed)?) })
    }

    /// Connections at the moment.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Stops: nobody is let in any more, the socket's file is removed, requests under way are finished, later
    /// ones answered "shutting down", connections closed. Takes at most [`PATIENCE_SECONDS`] and what the
    /// LU's disks need.
    pub fn stop(self) {}
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.bell.wake();
        if let Some(acceptor) = self.acceptor.take() {
            // A panic there has been printed already.
            let _ = acceptor.join();
        }
    }
}

/// Lets clients in until the bell rings, then waits until all have gone.
fn accept(shared: &Arc<Shared>, listener: Listener) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    while wait(&listener, PollFlags::IN, shared, None).is_ok() {
        threads.retain(|thread| !thread.is_finished());
        match accept_with(&listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) if threads.len() < CONNECTIONS => {
                let shared = shared.clone();
                let is_tcp = listener.is_tcp();
                let thread = thread::Builder::new().name("nbd".into());
                // Without a thread there is no connection: the client sees it closed.
                threads.extend(thread.spawn(move || shared.welcome(&socket, is_tcp)));
            }
            // One too many; or it has gone already.
            Ok(_) | Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
            Err(_) => thread::sleep(RESPITE),
        }
    }
    drop(listener);
    for thread in threads {
        // A panic there has been printed already.
        let _ = thread.join();
    }
}

impl Shared {
    /// All of one connection. Why it ends is between it and its client: the other side is gone, or is not
    /// understood.
    fn welcome(&self, socket: &OwnedFd, is_tcp: bool) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let _ = self.serve(socket, is_tcp);
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    fn serve(&self, socket: &OwnedFd, is_tcp: bool) -> io::Result<()> {
        if is_tcp {
            set_tcp_nodelay(socket, true)?;
            // Else a client whose machine is gone would take a place for ever.
            set_socket_keepalive(socket, true)?;
            set_tcp_keepidle(socket, QUIET)?;
            set_tcp_keepintvl(socket, QUIET / 6)?;
            set_tcp_keepcnt(socket, 6)?;
        }
        let until = Instant::now() + Duration::from_secs(PATIENCE_SECONDS);
        let mut stream = Stream { socket, shared: self, until };
        let zeros = greet(&mut stream)?;
        match negotiate(&mut stream, &self.export, self.security(), zeros)? {
            Agreed::Serve(terms) => self.attend(socket, Transport::Clear(socket.as_fd()), terms),
            Agreed::Secure => self.secure(&mut stream, zeros),
            Agreed::Leave => Ok(()),
        }
    }

    fn attend(&self, socket: &OwnedFd, transport: Transport<'_>, terms: Terms) -> io::Result<()> {
        let (read_only, share, bell) = (self.export.read_only, self.budget.share(), self.bell.as_fd());
        Connection::new(&self.lu, read_only, terms, socket.as_fd(), transport, share, bell)
            .map_err(io::Error::other)?
            .serve()
    }

    #[cfg(feature = "tls")]
    fn security(&self) -> Security {
        if self.tls.is_some() { Security::Wanted } else { Security::Clear }
    }

    /// The handshake once more, under TLS.
    #[cfg(feature = "tls")]
    fn secure(&self, stream: &mut Stream<'_>, zeros: bool) -> io::Result<()> {
        let Some(tls) = &self.tls else { return Ok(()) };
        let mut connection = tls.accept(stream)?;
        let mut secured = rustls::Stream::new(&mut connection, stream);
        let agreed = negotiate(&mut secured, &self.export, Security::Secured, zeros)?;
        let Agreed::Serve(terms) = agreed else { return Ok(()) };
        let socket = stream.socket;
        let secured = super::tls::Secured::new(connection, socket.as_fd());
        self.attend(socket, Transport::Secured(Box::new(secured)), terms)
    }

    #[cfg(not(feature = "tls"))]
    fn security(&self) -> Security {
        Security::Clear
    }

    /// Without TLS nobody gets here.
    #[cfg(not(feature = "tls"))]
    fn secure(&self, _: &mut Stream<'_>, _: bool) -> io::Result<()> {
        Ok(())
    }
}

/// A socket as a stream that fails when time is up or the bell rings.
struct Stream<'a> {
    socket: &'a OwnedFd,
    shared: &'a Shared,
    until: Instant,
}

impl Read for Stream<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            wait(self.socket, PollFlags::IN, self.shared, Some(self.until))?;
            match recv(self.socket, &mut *buf, RecvFlags::empty()) {
                Err(Errno::AGAIN) => {}
                got => return Ok(got?.1),
            }
        }
    }
}

impl Write for Stream<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        loop {
            wait(self.socket, PollFlags::OUT, self.shared, Some(self.until))?;
            match send(self.socket, buf, SendFlags::NOSIGNAL) {
                Err(Errno::AGAIN) => {}
                sent => return Ok(sent?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits until `fd` is `ready`.
///
/// # Errors
/// If the bell rings before, or `until` comes.
fn wait(fd: impl AsFd, ready: PollFlags, shared: &Shared, until: Option<Instant>) -> io::Result<()> {
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut fds = [PollFd::new(&fd, ready), PollFd::new(&shared.bell, PollFlags::IN)];
        match poll(&mut fds, left.map(timespec).as_ref()) {
            Err(Errno::INTR) => continue,
            woken => woken?,
        };
        if !fds[1].revents().is_empty() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if !fds[0].revents().is_empty() {
            return Ok(());
        }
    }
}
