//! (being written)
pub mod cpu;
