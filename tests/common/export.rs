//! Servers as processes: `uraid export` and the like, running until a test has done with them.

#![allow(dead_code, unreachable_pub, reason = "each test crate uses its own part")]

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a server may take to end.
const LONG: Duration = Duration::from_secs(60);

/// A running server. Dropped, it is killed, and what it has mounted unmounted.
pub struct Export {
    child: Child,
    /// The first line it says: where it serves.
    pub place: String,
    mounted: Option<PathBuf>,
}

impl Drop for Export {
    fn drop(&mut self) {
        self.kill();
        if let Some(folder) = &self.mounted {
            // It may have been unmounted already.
            let mut umount = Command::new("umount");
            let _ = umount.args(["--lazy", "--quiet"]).arg(folder).stderr(Stdio::null()).status();
        }
    }
}

impl Export {
    /// Starts it and waits until it serves.
    #[track_caller]
    pub fn start(mut command: Command) -> Export {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut place = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut place).unwrap();
        let export = Export { child, place: place.trim().to_owned(), mounted: None };
        if export.place.is_empty() {
            let (code, told) = export.end();
            panic!("{command:?}: {code:?}: {told}");
        }
        export
    }

    /// It mounts that folder.
    pub fn mounts(self, folder: PathBuf) -> Export {
        let mut export = self;
        export.mounted = Some(folder);
        export
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills it. What it has mounted stays.
    pub fn kill(&mut self) {
        // It may have gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal and waits for the end: exit code and standard error.
    pub fn signal(self, name: &str) -> (Option<i32>, String) {
        let pid = self.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
        self.end()
    }

    /// Waits for its end: exit code and standard error.
    pub fn end(mut self) -> (Option<i32>, String) {
        let start = Instant::now();
        let code = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status.code(),
                None => assert!(start.elapsed() < LONG, "it does not end"),
            }
            thread::sleep(Duration::from_millis(5));
        };
        let mut told = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
        (code, told)
    }
}
