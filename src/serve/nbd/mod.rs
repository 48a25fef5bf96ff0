//! An LU as a network block device: a server of the NBD protocol, fixed newstyle, over a Unix socket or TCP.
//!
//! ```no_run
//! use std::sync::Arc;
//! use uraid::serve::nbd::{Address, Listener, Server};
//! use uraid::{Lu, lu::Access};
//!
//! # fn main() -> uraid::Result<()> {
//! let lu = Arc::new(Lu::assemble().beside("disks/d0.img").access(Access::Write).open()?);
//! let address: Address = "unix:/run/data.sock".parse()?;
//! let server = Server::start(lu.clone(), false, Listener::bind(&address)?)?;
//! // ... serve, until
//! server.stop();
//! if let Some(lu) = Arc::into_inner(lu) {
//!     lu.stop()?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What is spoken
//! Options: LIST, INFO, GO, EXPORT_NAME, ABORT, STARTTLS, STRUCTURED_REPLY, EXTENDED_HEADERS, LIST_META_CONTEXT and
//! SET_META_CONTEXT (`base:allocation`); all others are answered "unsupported". Commands: READ, WRITE, FLUSH, WRITE_ZEROES,
//! TRIM, CACHE, BLOCK_STATUS, DISC. There is one export, the LU, by its name or the empty name. With a
//! `Tls` (feature `tls`, [`Listener`]) a client is told nothing before it has begun TLS and, if the server has an
//! authority, shown a certificate. Without, nothing is encrypted and nobody is asked who he is: a Unix socket has
//! mode 0600, and TCP beyond this machine is for whoever says [`Reach::Network`].
//!
//! # Promises
//! - A reply of success to WRITE, and then of success to a FLUSH sent after it on *any* connection, means
//!   stable: what [`Lu::flush`](crate::Lu::flush) promises. A WRITE or WRITE_ZEROES with FUA is stable with
//!   its own reply.
//! - Any offset and length is served; blocks of [`Lu::block_size`](crate::Lu::block_size) cost least.
//! - Requests of one connection are worked on together, up to [`REQUESTS`] and [`REQUEST_BYTES`] and one more
//!   of at most that size, and answered as they end, in any order. Beyond that the client is not read from:
//!   it waits, nobody else.
//! - All connections together hold at most [`SERVER_BYTES`] of payload, buffers that are kept for the next
//!   requests included; 1 MiB of it is each connection's own, whatever the others do. A client that others
//!   wait for, since it takes no reply and brings no payload to its end for [`PATIENCE_SECONDS`], is closed; if
//!   nobody waits it may take its time.
//! - TRIM and WRITE_ZEROES leave holes in the disks, whole stripes without a byte being moved
//!   ([`Lu::discard_at`](crate::Lu::discard_at), [`Lu::write_zeroes_at`](crate::Lu::write_zeroes_at)). With NO_HOLE
//!   zeroes are written; FAST_ZERO is refused then, and where the disks make no zeroes by themselves.
//! - `base:allocation` says "allocated" of everything, since that is what is known; CACHE is a hint that changes
//!   nothing.
//!
//! | file | what it is |
//! |---|---|
//! | [`wire`] | the protocol's bytes, in and out; pure |
//! | `handshake` | options, until both sides know what is served; any stream |
//! | `connection` | requests and replies: one thread, one queue of the LU, one socket |
//! | `budget` | the memory that all connections share |
//! | `intake`, `outbox` | its two directions, bytes that come in parts and go in parts |
//! | `tls`, `transport` | their bytes, encrypted or as they are |
//! | `server` | who may connect, how many, and how it all ends |
//! | `address` | where to listen |

mod address;
mod budget;
mod connection;
mod handshake;
mod intake;
mod outbox;
mod server;
#[cfg(feature = "tls")]
mod tls;
mod transport;
pub mod wire;

pub use address::{Address, Listener, Reach};
pub use server::Server;
#[cfg(feature = "tls")]
pub use tls::Tls;

/// Connections at a time, those that are not done with their handshake counted. More are closed at once.
pub const CONNECTIONS: usize = 64;

/// Requests of one connection that have been read and not been answered.
pub const REQUESTS: usize = 128;

/// Most bytes of one READ or WRITE, and of payload that is held for one connection before it is read from
/// again.
pub const REQUEST_BYTES: u32 = 32 << 20;

/// Most bytes of payload that all connections of a server hold together. TLS adds some 100 KiB for each.
pub const SERVER_BYTES: usize = 256 << 20;

/// Seconds a client may take from its connection to its first request, to take its last replies when the
/// server stops, and to take one reply or bring one payload to its end while others wait for the memory.
pub const PATIENCE_SECONDS: u64 = 10;
