//! Faces: ways for others to use an LU without linking this library.
//!
//! A face sees an LU as a flat device of bytes: a size, reads, writes, flushes. It promises that nothing a
//! client sends can hurt the LU, the process or another client. It refuses to know members, levels, and where
//! its LU came from.

pub mod nbd;
