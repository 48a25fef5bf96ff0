//! Faces: ways for others to use an LU without linking this library.
//!
//! A face sees an LU as a flat device of bytes: a size, reads, writes, flushes. It promises that nothing a
//! client sends can hurt the LU, the process or another client. It refuses to know members, levels, and where
//! its LU came from. (The control socket passes on what is said of members, and decides nothing about them.)

#[cfg(feature = "control")]
pub mod control;
#[cfg(feature = "fuse")]
pub mod fuse;
#[cfg(any(feature = "nbd", feature = "fuse"))]
mod kept;
#[cfg(feature = "nbd")]
pub mod nbd;
