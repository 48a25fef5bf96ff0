//! A guest with the real md driver, for tests that ask the kernel what it thinks of our bytes, and us of its.
//!
//! [`Guest`] puts `tests/kernel/uml` behind a builder; the script's head says what a guest sees. What a test
//! runs is bash text with the words of `tests/kernel/helpers.sh` at hand. A start costs three to five
//! seconds, so a test puts as many arrays into one guest as it can: up to 16 images as disks, any number with
//! [`Guest::writable`] and `attach`. Nothing here is skipped: a missing package is a panic that names it.

#![allow(dead_code, reason = "each test crate uses its own part")]

use std::path::Path;
use std::process::{Command, Stdio};

/// Images a guest takes as disks; more are attached inside as loop devices.
pub(crate) const MAX_DISKS: usize = 16;

/// The runner's exit status when the time was up.
pub(crate) const OUT_OF_TIME: i32 = 124;

/// The runner's exit status when there was no guest, or it died before the command ended.
const NO_GUEST: i32 = 125;

/// A guest to be: what it is given. Every [`run`](Guest::run) boots a new one.
#[derive(Clone)]
pub(crate) struct Guest {
    arguments: Vec<String>,
    disks: usize,
}

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Output {
    /// Exit status of the command; [`OUT_OF_TIME`] if its time was up.
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Guest {
    /// A guest with all of md's modules loaded and 300 seconds to live.
    pub(crate) fn new() -> Guest {
        Guest { arguments: vec![], disks: 0 }.with("-m", "md").seconds(300)
    }

    /// `image` becomes the next disk; `$DISKS` in the guest lists their names in this order.
    pub(crate) fn disk(mut self, image: impl AsRef<Path>) -> Guest {
        self.disks += 1;
        assert!(self.disks <= MAX_DISKS, "a guest has {MAX_DISKS} disks; attach the others as loop devices");
        self.with("-d", utf8(image.as_ref()))
    }

    /// The guest may write to the host folder `folder`, at the same path.
    pub(crate) fn writable(self, folder: impl AsRef<Path>) -> Guest {
        self.with("-w", utf8(folder.as_ref()))
    }

    /// Loads these kernel modules too; "dm" stands for the device-mapper targets that fail, delay and log.
    pub(crate) fn modules(self, names: &str) -> Guest {
        self.with("-m", names)
    }

    /// Time for boot and command together.
    pub(crate) fn seconds(self, seconds: u32) -> Guest {
        self.with("-t", &seconds.to_string())
    }

    /// When the command ends the guest dies as in a power failure: nothing is synced, no array is stopped.
    pub(crate) fn pull_the_plug(mut self) -> Guest {
        self.arguments.push("-k".into());
        self
    }

    /// Boots, runs `script` under `set -e` with the helpers at hand, and waits for the end.
    ///
    /// Panics, with the reason and the end of the guest's console, if there was no guest to run it.
    pub(crate) fn run(&self, script: &str) -> Output {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernel");
        let output = Command::new(format!("{folder}/uml"))
            .args(&self.arguments)
            .arg("-c")
            .arg(format!("set -e -o pipefail; . {folder}/helpers.sh\n{script}"))
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("cannot run {folder}/uml: {error}"));
        let output = Output {
            status: output.status.code().expect("the runner was killed by a signal"),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        assert_ne!(output.status, NO_GUEST, "no guest:\n{}{}", output.stdout, output.stderr);
        output
    }

    fn with(mut self, option: &str, value: &str) -> Guest {
        self.arguments.extend([option.to_owned(), value.to_owned()]);
        self
    }
}

impl Output {
    /// The same, having ended with 0; else a panic that shows all the command said.
    #[track_caller]
    pub(crate) fn success(self) -> Output {
        assert_eq!(self.status, 0, "the command failed:\n{}{}", self.stdout, self.stderr);
        self
    }

    /// The rest of each line of stdout that starts with `word` and a blank, as `scrub` and `content` print
    /// them.
    pub(crate) fn values(&self, word: &str) -> Vec<&str> {
        self.stdout
            .lines()
            .filter_map(|line| line.strip_prefix(word)?.strip_prefix(' '))
            .map(str::trim)
            .collect()
    }

    /// The value of the only line that starts with `word`.
    #[track_caller]
    pub(crate) fn value(&self, word: &str) -> &str {
        match self.values(word)[..] {
            [value] => value,
            ref values => panic!("{} lines start with {word:?}:\n{}", values.len(), self.stdout),
        }
    }
}

fn utf8(path: &Path) -> &str {
    path.to_str().unwrap_or_else(|| panic!("a path the guest cannot be told: {path:?}"))
}
