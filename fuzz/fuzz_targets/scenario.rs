//! Random operations, faults and power cuts on an LU, against the simulator's oracle: a scenario that a fuzzer changes event
//! by event. Nothing may be promised and not kept, whatever the bytes.
#![no_main]

use uraid::sim::{Scenario, run};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let scenario = Scenario::from_bytes(data);
    assert_eq!(run(&scenario).violation, None, "{scenario}");
});
