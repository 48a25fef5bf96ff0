//! The control socket: whoever holds an LU is asked about it, and told to change it, by other processes.
//!
//! ```no_run
//! use std::path::Path;
//! use std::sync::Arc;
//! use uraid::serve::control::{Client, Holding, Server};
//! use uraid::{Lu, lu::Access};
//!
//! # fn main() -> uraid::Result<()> {
//! let lu = Arc::new(Lu::assemble().beside("/srv/d0.img").access(Access::Write).open()?);
//! let folder = Path::new("/run/user/1000/uraid");
//! let server = Server::start(lu.clone(), folder, Holding::default())?;
//! // Meanwhile, in another process:
//! let status = Client::connect(folder, lu.uuid())?.status()?;
//! // ... until server.stop_wanted(), or for reasons of one's own:
//! let farewell = server.leave();
//! if let Some(lu) = Arc::into_inner(lu) {
//!     farewell.say(&lu.stop());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What is spoken
//! JSON, a document a line. A client asks, the holder answers: any number of lines that say how it gets on,
//! then one that is last. Then the client may ask again. [`Request`](wire::Request) and
//! [`Answer`](wire::Answer) are the documents.
//!
//! # Promises
//! - The socket of an LU is named by its UUID in a folder that is its owner's alone (`folder`); there is one
//!   at a time, and what a dead holder left is replaced. Who connects is the same user or root.
//! - A client that says nothing, or takes no answers, for [`PATIENCE_SECONDS`] is dropped. There are at most
//!   [`CONNECTIONS`] at a time, and at most [`STREAMS`] of them are for work or events to wait for: `status`
//!   and `stop` always find a place. A question has at most [`REQUEST_BYTES`], an answer at most
//!   [`ANSWER_BYTES`]; what is no question ends its connection, and nothing else.
//! - Changes are made one after the other, each as [`Lu::carry_out`](crate::Lu::carry_out) says, also while
//!   the LU is read and written. A client that is gone takes nothing back.
//!
//! Refuses to know what an LU is held for.
//!
//! | file | what it is |
//! |---|---|
//! | [`wire`] | the documents; pure |
//! | `line` | lines in and out of a socket, within a time and a length |
//! | `folder` | where sockets are, whose that place has to be, and that there is one per LU |
//! | `journal` | what happened: a ring of events |
//! | `server`, `session` | who may connect, how many, how it ends; one connection |
//! | `client` | the other side |

use std::time::Duration;

mod client;
mod folder;
mod journal;
mod line;
mod server;
mod session;
pub mod wire;

pub use client::Client;
pub use folder::held;
pub use journal::{Event, EventKind};
pub use server::{Farewell, Server};
pub use wire::Holding;

/// Connections at a time. More are told so and closed.
pub const CONNECTIONS: usize = 16;

/// Connections that wait for work or events, of [`CONNECTIONS`].
pub const STREAMS: usize = 8;

/// Seconds a client may be silent between two questions, and may take to take an answer.
pub const PATIENCE_SECONDS: u64 = 10;

/// Longest question, in bytes, with its newline.
pub const REQUEST_BYTES: usize = 64 << 10;

/// Longest answer, in bytes, with its newline: the status of an LU with all the members md can count.
pub const ANSWER_BYTES: usize = 1 << 20;

/// Events that are remembered; older ones are forgotten.
pub const EVENTS: usize = 1024;

const PATIENCE: Duration = Duration::from_secs(PATIENCE_SECONDS);
