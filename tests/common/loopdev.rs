//! A file as a block device of this machine, for tests that need the real block layer: `/dev/loopN` with
//! direct I/O.
//!
//! [`LoopDevice`] is attached when made and detached when dropped. It needs root and util-linux and says so
//! loudly when it has not got them; no test skips itself. Nothing is known here of what is on the device.

#![allow(dead_code, reason = "each test crate uses its own part")]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A loop device over a file; detached on drop.
#[derive(Debug)]
pub(crate) struct LoopDevice {
    path: PathBuf,
}

impl LoopDevice {
    /// Attaches `file` with direct I/O and logical blocks of `block_bytes` (512 to 4096, a power of two). The
    /// file's size must be a multiple of it: the rest could not be reached.
    ///
    /// Panics if this is not root, losetup is missing, or the file system of `file` knows no direct I/O.
    pub(crate) fn attach(file: impl AsRef<Path>, block_bytes: u32) -> LoopDevice {
        let file = file.as_ref();
        assert_eq!(effective_user(), 0, "loop devices need root: run the tests as root");
        let size = file.metadata().unwrap_or_else(|error| panic!("{}: {error}", file.display())).len();
        assert_eq!(size % u64::from(block_bytes), 0, "{} is not whole blocks", file.display());
        let name = losetup(&[
            "--find".as_ref(),
            "--show".as_ref(),
            "--direct-io=on".as_ref(),
            format!("--sector-size={block_bytes}").as_ref(),
            file,
        ]);
        let device = LoopDevice { path: PathBuf::from(name.trim()) };
        // losetup carries on with buffered I/O when the kernel refuses direct I/O; a test of direct I/O must
        // not.
        assert_eq!(
            device.attribute("loop/dio"),
            "1",
            "no direct I/O on {}: another file system?",
            file.display()
        );
        assert_eq!(device.attribute("queue/logical_block_size"), block_bytes.to_string());
        device
    }

    /// The device node, `/dev/loopN`.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn attribute(&self, name: &str) -> String {
        let device = self.path.file_name().expect("losetup names a device node");
        let file = Path::new("/sys/block").join(device).join(name);
        std::fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
            .trim()
            .to_owned()
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let detached = Command::new("losetup").arg("--detach").arg(&self.path).status();
        // A second panic would abort the test run and hide the first one's words.
        if !std::thread::panicking() {
            assert!(detached.is_ok_and(|status| status.success()), "cannot detach {}", self.path.display());
        }
    }
}

fn losetup(arguments: &[&Path]) -> String {
    let output = Command::new("losetup")
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("cannot run losetup (package util-linux): {error}"));
    assert!(output.status.success(), "losetup: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("losetup names a device node")
}

fn effective_user() -> u32 {
    std::fs::metadata("/proc/self").expect("/proc is mounted").uid()
}
