//! Feeds `nbd`; what it promises is said there.
#![no_main]

#[path = "../../tests/common/fuzz_bodies.rs"]
mod fuzz_bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_bodies::nbd(data));
