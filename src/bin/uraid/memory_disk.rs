//! Disks that are files in memory: they come without a folder, go with the process, and can be made to fail.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, SealFlags};
use uraid::ErrorKind;

use crate::failure::{Failure, Outcome};

/// A disk in memory. Plain files cannot be made to fail: one that was cut short grows again with the next
/// write, and reads as zeroes in between, which is no lost disk but a lying one. A sealed file in memory
/// cannot grow.
pub(crate) struct MemoryDisk {
    file: File,
}

impl MemoryDisk {
    /// A disk of `bytes`, all zero.
    pub(crate) fn make(bytes: u64) -> Outcome<MemoryDisk> {
        let failed = |error: io::Error| Failure::of(ErrorKind::Io, format!("no disk in memory: {error}"));
        let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC;
        let file =
            File::from(rustix::fs::memfd_create("uraid-disk", flags).map_err(|error| failed(error.into()))?);
        file.set_len(bytes).map_err(failed)?;
        Ok(MemoryDisk { file })
    }

    /// Where others can open it, as long as it exists.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    /// From now on every read and write fails, through whatever it was opened. Nothing can be written in
    /// between.
    pub(crate) fn lose(&self) -> Outcome {
        let failed = |error: io::Error| Failure::of(ErrorKind::Io, format!("cannot lose the disk: {error}"));
        rustix::fs::fcntl_add_seals(&self.file, SealFlags::GROW).map_err(|error| failed(error.into()))?;
        self.file.set_len(0).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_lost_disk_fails_everywhere_for_good() {
        let disk = MemoryDisk::make(1 << 20).unwrap();
        let other = File::options().read(true).write(true).open(disk.path()).unwrap();
        other.write_all_at(b"here", 4096).unwrap();
        disk.lose().unwrap();
        for offset in [0, 4096, (1 << 20) - 4, 1 << 30] {
            assert!(other.write_all_at(b"gone", offset).is_err());
            assert!(other.read_exact_at(&mut [0; 4], offset).is_err());
        }
    }
}
