//! The `uraid` program.
fn main() {}
