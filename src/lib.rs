//! Software RAID in user space, in Linux md's own on-disk format.
//!
//! The crate is a stack of floors; each knows only those below it, and neighbours do not know each other:
//!
//! | floor | modules | what it is |
//! |---|---|---|
//! | 1 | [`units`], [`error`] | the words |
//! | 2 | [`geometry`], [`parity`], [`mod@format`] | three sciences that do not know each other |
//! | 3 | [`plan`] | what to do with a stripe, as a plain value |
//! | 4 | [`engine`], [`recovery`] | when to do it: a state machine without I/O |
//! | 5 | `disk` | the only floor that moves bytes |
//! | 6 | `lu` | an LU: create, assemble, superblocks, failure, queues; these as futures (feature `async`) |
//! | 7 | `serve` | an LU for others: NBD (feature `nbd`), FUSE (`fuse`), the control socket (`control`) |
//! | 7 | `sim` | the simulator that all of this has to survive (feature `sim`) |
//!
//! Floors 1 to 4 are pure: `no_std` with `alloc`, no file, clock, thread, randomness or CPU detection. They build alone
//! with `--no-default-features`. The rationale is in [`manual`].
#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

pub mod error;
pub mod units;

mod planted;

pub mod format;
pub mod geometry;
pub mod parity;

pub mod plan;

pub mod engine;
pub mod recovery;

#[cfg(feature = "std")]
pub mod disk;

#[cfg(feature = "std")]
pub mod lu;

#[cfg(any(feature = "nbd", feature = "fuse", feature = "control"))]
pub mod serve;

#[cfg(feature = "sim")]
pub mod sim;

pub mod manual;

pub use error::{Error, ErrorKind, Result};
#[cfg(feature = "std")]
pub use lu::Lu;

/// The examples of the README, kept compiling and running.
#[cfg(all(doctest, feature = "std"))]
#[doc = include_str!("../README.md")]
struct Readme;
