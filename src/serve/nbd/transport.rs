//! The bytes of a connection after its handshake, in the clear or not.
//!
//! Never waits: what the socket does not have or take now is [`WouldBlock`](io::ErrorKind::WouldBlock). Promises: in the
//! clear nothing is copied; under TLS no more than a record or four are held in either direction, and what does not come
//! from the one who shook hands is an error. Refuses to know what the bytes say.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::BorrowedFd;

use rustix::io::readv;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

#[cfg(feature = "tls")]
use super::tls::Secured;

/// A socket that does not block, and how its bytes are protected.
pub(super) enum Transport<'a> {
    /// Not at all.
    Clear(BorrowedFd<'a>),
    #[cfg(feature = "tls")]
    Secured(Box<Secured<'a>>),
}

impl Transport<'_> {
    /// Reads into `parts`: how much, nothing at the end.
    ///
    /// # Errors
    /// The socket's.
    pub(super) fn receive(&mut self, parts: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match self {
            Transport::Clear(socket) => Ok(readv(*socket, parts)?),
            #[cfg(feature = "tls")]
            Transport::Secured(secured) => secured.receive(parts),
        }
    }

    /// Takes bytes from `parts`: how many.
    ///
    /// # Errors
    /// The socket's.
    pub(super) fn send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Transport::Clear(socket) => clear(*socket, parts),
            #[cfg(feature = "tls")]
            Transport::Secured(secured) => secured.send(parts),
        }
    }

    /// Does it read and send as much at a time as the socket has and takes? Then less than was asked for means that there
    /// is no more now.
    pub(super) fn is_greedy(&self) -> bool {
        matches!(self, Transport::Clear(_))
    }

    /// Has it taken bytes that are not in the socket yet?
    pub(super) fn is_pending(&self) -> bool {
        match self {
            Transport::Clear(_) => false,
            #[cfg(feature = "tls")]
            Transport::Secured(secured) => secured.is_pending(),
        }
    }

    /// Puts these into the socket, as far as it takes them.
    ///
    /// # Errors
    /// The socket's.
    pub(super) fn push(&mut self) -> io::Result<()> {
        match self {
            Transport::Clear(_) => Ok(()),
            #[cfg(feature = "tls")]
            Transport::Secured(secured) => secured.push(),
        }
    }

    /// Tells the other side that nothing more comes, if there is a way to.
    pub(super) fn close(&mut self) {
        match self {
            Transport::Clear(_) => {}
            #[cfg(feature = "tls")]
            Transport::Secured(secured) => secured.close(),
        }
    }
}

/// Sends to a socket. A client that is gone is an error here, never a signal.
pub(super) fn clear(socket: BorrowedFd<'_>, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    Ok(sendmsg(socket, parts, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)?)
}
