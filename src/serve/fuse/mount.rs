//! Where a file system of ours may be mounted, and how it goes again.
//!
//! Promises: nobody's files are hidden, and only what is ours and dead is taken away. Refuses to know what is served.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::{UnmountFlags, unmount};

use crate::error::{Error, ErrorKind, Result};

/// What the sources of our mounts begin with.
pub(super) const SOURCE: &str = "uraid:";

/// An empty directory, to be mounted on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Looks at `folder`. What a server of ours that was killed has left mounted there is cleared away.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] if it is no directory or not empty, [`ErrorKind::NotFound`] if it is not there,
    /// [`ErrorKind::Busy`] if something is mounted there, [`ErrorKind::Io`] if it cannot be looked at.
    pub fn prepare(folder: impl AsRef<Path>) -> Result<Folder> {
        prepare(folder.as_ref()).map(Folder)
    }

    /// Where it is: an absolute path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

fn prepare(folder: &Path) -> Result<PathBuf> {
    if is_dead(folder) && is_ours(folder) {
        detach(folder);
    }
    let cannot = |error: io::Error| {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::NotADirectory => ErrorKind::Usage,
            _ => ErrorKind::Io,
        };
        Error::new(kind, format!("{}: cannot be mounted on: {error}", folder.display())).with_source(error)
    };
    let mut entries = fs::read_dir(folder).map_err(cannot)?;
    let path = folder.canonicalize().map_err(cannot)?;
    if mounted(&path).is_some() {
        let text = format!("{}: something is mounted there", path.display());
        return Err(Error::new(ErrorKind::Busy, text));
    }
    if entries.next().is_some() {
        let text = format!("{}: is not empty: its files could not be reached meanwhile", path.display());
        return Err(Error::new(ErrorKind::Usage, text));
    }
    Ok(path)
}

/// Takes a mount out of the tree of files, whoever uses it.
pub(super) fn detach(folder: &Path) {
    if unmount(folder, UnmountFlags::DETACH).is_ok() {
        return;
    }
    // Ordinary users have a helper for that. If it fails, the mount is seen to be there.
    let helper =
        Command::new("fusermount3").args(["-u", "-z", "-q", "--"]).arg(folder).stderr(Stdio::null()).status();
    drop(helper);
}

/// Why the system did not let a file system be mounted.
pub(super) fn refused(folder: &Path, error: io::Error) -> Error {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => {
            "; an ordinary user needs fusermount3 (Debian package fuse3), and the system /dev/fuse"
        }
        io::ErrorKind::PermissionDenied => "; /dev/fuse and the folder must be yours to use",
        _ => "",
    };
    let text = format!("{}: cannot mount: {error}{remedy}", folder.display());
    Error::new(ErrorKind::Io, text).with_source(error)
}

/// Has the server of what is mounted there gone?
fn is_dead(folder: &Path) -> bool {
    fs::metadata(folder).is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN))
}

fn is_ours(folder: &Path) -> bool {
    // A dead mount cannot be resolved itself; what it is in can be.
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let path = parent.canonicalize().ok().zip(folder.file_name()).map(|(parent, name)| parent.join(name));
    path.and_then(|path| mounted(&path)).is_some_and(|source| source.starts_with(SOURCE))
}

/// The source of what is mounted on `path`, an absolute one, last.
fn mounted(path: &Path) -> Option<String> {
    let table = fs::read("/proc/self/mountinfo").ok()?;
    let lines = table.split(|&byte| byte == b'\n');
    lines.rev().find_map(|line| mount_of(line, path))
}

/// The source of the mount that a line of `mountinfo` tells of, if it is on `path`: the fifth word, and the second behind
/// the lone dash.
fn mount_of(line: &[u8], path: &Path) -> Option<String> {
    let mut words = line.split(|&byte| byte == b' ');
    let point = unescape(words.nth(4)?);
    if OsStr::from_bytes(&point) != path.as_os_str() {
        return None;
    }
    let source = words.skip_while(|word| *word != b"-").nth(2)?;
    Some(String::from_utf8_lossy(source).into_owned())
}

/// Blanks and the like are written as a backslash and three octal digits.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&byte, after)) = rest.split_first() {
        let octal =
            after.get(..3).filter(|_| byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(code) => {
                bytes.push(code);
                rest = &after[3..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_their_place() {
        let line = b"36 35 98:0 / /mnt/with\\040blank rw,noatime master:1 - fuse uraid:data rw";
        assert_eq!(mount_of(line, Path::new("/mnt/with blank")).as_deref(), Some("uraid:data"));
        assert_eq!(mount_of(line, Path::new("/mnt/with")), None);
        assert_eq!(mount_of(b"", Path::new("/")), None);
        assert!(mounted(Path::new("/proc")).is_some());
    }

    #[test]
    fn only_an_empty_folder_will_do() {
        let dir = tempfile::tempdir().unwrap();
        let kind = |path: &Path| prepare(path).unwrap_err().kind();
        assert_eq!(kind(&dir.path().join("absent")), ErrorKind::NotFound);
        assert!(prepare(dir.path()).is_ok());
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!((kind(&file), kind(dir.path())), (ErrorKind::Usage, ErrorKind::Usage));
        assert_eq!(kind(Path::new("/proc")), ErrorKind::Busy);
    }
}
