//! Where the demonstration's disks are: a folder that goes away, and a disk that can be made to fail.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, SealFlags};
use uraid::ErrorKind;

use crate::failure::{Failure, Outcome};

/// A new folder, removed with all that is in it when dropped, unless it is to be kept.
pub(super) struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    /// Makes one in `parent` that did not exist before.
    pub(super) fn make(parent: &Path, keep: bool) -> Outcome<Folder> {
        let id = std::process::id();
        for attempt in 0..100 {
            let path = parent.join(format!("uraid-demo-{id}-{attempt}"));
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(Folder { path, keep }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Failure::file(&path, &error)),
            }
        }
        Err(Failure::of(ErrorKind::Io, format!("{}: too many demonstrations", parent.display())))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file of the disk in `slot`.
    pub(super) fn disk(&self, slot: usize) -> PathBuf {
        self.path.join(format!("disk{slot}.img"))
    }

    /// Removes it now, and says if that failed.
    pub(super) fn remove(&self) -> Outcome {
        if self.keep {
            return Ok(());
        }
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Failure::file(&self.path, &error)),
            _ => Ok(()),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Whoever wanted to know has called it before.
        let _ = self.remove();
    }
}

/// A disk in memory. Plain files cannot be made to fail: one that was cut short grows again with the next
/// write, and reads as zeroes in between, which is no lost disk but a lying one. A sealed file in memory
/// cannot grow.
pub(super) struct MemoryDisk {
    file: File,
}

impl MemoryDisk {
    /// A disk of `bytes`, all zero.
    pub(super) fn make(bytes: u64) -> Outcome<MemoryDisk> {
        let failed = |error: io::Error| Failure::of(ErrorKind::Io, format!("no disk in memory: {error}"));
        let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC;
        let file = File::from(
            rustix::fs::memfd_create("uraid-demo-disk", flags).map_err(|error| failed(error.into()))?,
        );
        file.set_len(bytes).map_err(failed)?;
        Ok(MemoryDisk { file })
    }

    /// Where others can open it, as long as it exists.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    /// From now on every read and write fails, through whatever it was opened. Nothing can be written in
    /// between.
    pub(super) fn lose(&self) -> Outcome {
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

    #[test]
    fn a_folder_goes_away() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::make(parent.path(), false).unwrap();
        std::fs::write(folder.disk(0), "x").unwrap();
        let path = folder.path().to_owned();
        drop(folder);
        assert!(!path.exists());
    }
}
