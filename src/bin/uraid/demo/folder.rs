//! Where the demonstration's files are: a folder that goes away.

use std::io;
use std::path::{Path, PathBuf};

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

#[cfg(test)]
mod tests {
    use super::*;

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
