//! Copies of programs that are run.
#![allow(unreachable_pub)]

use std::path::Path;
use std::process::Command;

/// Not by this process, whose other threads start children meanwhile: what inherits a descriptor that writes to a program keeps it
/// from being run.
pub fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let copied = Command::new("cp").arg(from.as_ref()).arg(to.as_ref()).status().unwrap();
    assert!(copied.success());
}
