//! Where control sockets are: a folder that is its owner's alone, in it a socket and a lock file per LU,
//! named by its UUID, so that whoever reads a member's superblock finds its holder.
//!
//! Promises: a folder that is somebody else's, open to others, or a link is not used. A socket belongs to
//! whoever has the lock file locked, and he alone removes what is there: a dead holder's socket is replaced,
//! a living one's never, and there is no moment in which two could think it theirs.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

use crate::error::{Error, ErrorKind, Result};
use crate::format::superblock::Uuid;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;

/// The place of one LU's socket: listened on, locked, and cleared away when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    listener: OwnedFd,
    socket: PathBuf,
    lock_path: PathBuf,
    /// Locked as long as it is open. Removed while it is: see [`lock`].
    _lock: File,
}

impl Seat {
    /// Takes the place of LU `uuid` in `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] if a living holder has it, [`ErrorKind::Refused`] if the folder is not its owner's
    /// alone, [`ErrorKind::Usage`] if its path is too long for a socket, [`ErrorKind::Io`] for what the
    /// system refuses.
    pub(super) fn take(folder: &Path, uuid: Uuid) -> Result<Seat> {
        make(folder)?;
        let lock_path = folder.join(format!("{uuid}.lock"));
        let locked = lock(&lock_path)?;
        let socket = socket_path(folder, uuid);
        let failed = |error: io::Error| at_path(&socket, error);
        let address = address(&socket)?;
        match fs::remove_file(&socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = stream_socket().map_err(|error| failed(error.into()))?;
        bind(&listener, &address).map_err(|error| failed(error.into()))?;
        let seat = Seat { listener, socket: socket.clone(), lock_path, _lock: locked };
        // Before it is listened on: until then nobody can connect.
        fs::set_permissions(&socket, Permissions::from_mode(0o600)).map_err(failed)?;
        listen(&seat.listener, BACKLOG).map_err(|error| failed(error.into()))?;
        Ok(seat)
    }

    /// What is listened on.
    pub(super) fn listener(&self) -> impl AsFd {
        self.listener.as_fd()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // What cannot be removed the next holder replaces.
        let _ = fs::remove_file(&self.socket);
        let _ = fs::remove_file(&self.lock_path);
    }
}

/// The UUIDs of LUs that have, or had, a holder with a socket in `folder`; none if there is no such folder. A
/// holder that was killed leaves its socket behind: [`Client::connect`](super::Client::connect) tells.
///
/// # Errors
/// [`ErrorKind::Refused`] if the folder is open to others, [`ErrorKind::Io`] if it cannot be read.
pub fn held(folder: impl AsRef<Path>) -> Result<Vec<Uuid>> {
    let folder = folder.as_ref();
    if !is_there(folder)? {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| at_path(folder, error))? {
        let name = entry.map_err(|error| at_path(folder, error))?.file_name();
        let uuid = name.to_str().and_then(|name| name.strip_suffix(".sock"));
        found.extend(uuid.and_then(|uuid| uuid.parse::<Uuid>().ok()));
    }
    found.sort_by_key(|uuid| uuid.0);
    Ok(found)
}

/// Connects to the holder of LU `uuid`; a non-blocking socket.
///
/// # Errors
/// [`ErrorKind::NotFound`] if nobody is there, [`ErrorKind::Busy`] if too many want to connect,
/// [`ErrorKind::Refused`] if the folder is open to others.
pub(super) fn reach(folder: &Path, uuid: Uuid) -> Result<OwnedFd> {
    let nobody = || Error::new(ErrorKind::NotFound, format!("nobody holds LU {uuid}"));
    if !is_there(folder)? {
        return Err(nobody());
    }
    let path = socket_path(folder, uuid);
    let socket = stream_socket().map_err(|error| at_path(&path, error.into()))?;
    match connect(&socket, &address(&path)?) {
        Ok(()) => Ok(socket),
        Err(Errno::NOENT | Errno::CONNREFUSED) => Err(nobody()),
        Err(Errno::AGAIN) => {
            Err(Error::new(ErrorKind::Busy, format!("the holder of LU {uuid} lets nobody in")))
        }
        Err(error) => Err(at_path(&path, error.into())),
    }
}

fn socket_path(folder: &Path, uuid: Uuid) -> PathBuf {
    folder.join(format!("{uuid}.sock"))
}

fn address(path: &Path) -> Result<SocketAddrUnix> {
    SocketAddrUnix::new(path).map_err(|_| {
        Error::new(ErrorKind::Usage, format!("{}: too long for a socket's path", path.display()))
    })
}

fn stream_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Makes the folder, or makes sure that it is ours alone.
fn make(folder: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(at_path(folder, error)),
        _ => {}
    }
    let ours = rustix::process::geteuid().as_raw();
    check(folder, &fs::symlink_metadata(folder).map_err(|error| at_path(folder, error))?, ours)
}

/// Is there a folder of sockets, and is it one to be trusted? Root trusts whoever owns it.
fn is_there(folder: &Path) -> Result<bool> {
    let metadata = match fs::symlink_metadata(folder) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(at_path(folder, error)),
    };
    let own = rustix::process::geteuid();
    check(folder, &metadata, if own.is_root() { metadata.uid() } else { own.as_raw() })?;
    Ok(true)
}

fn check(folder: &Path, metadata: &fs::Metadata, owner: u32) -> Result<()> {
    let refused = |why: String| Err(Error::new(ErrorKind::Refused, format!("{}: {why}", folder.display())));
    if !metadata.is_dir() {
        return refused("is no folder (a link is none)".into());
    }
    if metadata.uid() != owner {
        return refused(format!("belongs to user {}, not to {owner}", metadata.uid()));
    }
    match metadata.mode() & 0o077 {
        0 => Ok(()),
        _ => refused(format!("is open to others: chmod 700 {}", folder.display())),
    }
}

/// Locks the file at `path`, made if it is not there.
///
/// Whoever has the lock may remove the file. So having locked a file means nothing if it is not at `path` any
/// more: it was somebody's who has gone since, and the next one is opened.
fn lock(path: &Path) -> Result<File> {
    let failed = |error: io::Error| at_path(path, error);
    let nofollow = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    loop {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nofollow)
            .open(path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let text = format!("{}: another process answers for this LU already", path.display());
                return Err(Error::new(ErrorKind::Busy, text));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let own = file.metadata().map_err(failed)?;
        match fs::symlink_metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == (own.dev(), own.ino()) => return Ok(file),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

fn at_path(path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => ErrorKind::Refused,
        _ => ErrorKind::Io,
    };
    Error::new(kind, format!("{}: {error}", path.display())).with_source(error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const LU: Uuid = Uuid([7; 16]);

    #[test]
    fn one_at_a_time_and_nothing_is_left() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("run");
        assert!(held(&folder).unwrap().is_empty());
        assert_eq!(reach(&folder, LU).unwrap_err().kind(), ErrorKind::NotFound);
        let seat = Seat::take(&folder, LU).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
        assert_eq!(Seat::take(&folder, LU).unwrap_err().kind(), ErrorKind::Busy);
        assert_eq!(held(&folder).unwrap(), [LU]);
        reach(&folder, LU).unwrap();
        drop(seat);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }

    #[test]
    fn what_a_dead_holder_left_is_replaced() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("run");
        make(&folder).unwrap();
        drop(std::os::unix::net::UnixListener::bind(socket_path(&folder, LU)).unwrap());
        fs::write(folder.join(format!("{LU}.lock")), "").unwrap();
        assert_eq!(reach(&folder, LU).unwrap_err().kind(), ErrorKind::NotFound);
        let _seat = Seat::take(&folder, LU).unwrap();
        reach(&folder, LU).unwrap();
    }

    #[test]
    fn a_race_for_a_place_has_one_winner() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("run");
        make(&folder).unwrap();
        let holding = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    use std::sync::atomic::Ordering::SeqCst;
                    for _ in 0..200 {
                        let Ok(_seat) = Seat::take(&folder, LU) else { continue };
                        assert_eq!(holding.fetch_add(1, SeqCst), 0);
                        reach(&folder, LU).unwrap();
                        holding.fetch_sub(1, SeqCst);
                    }
                });
            }
        });
    }

    #[test]
    fn a_folder_that_is_not_ours_alone_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let (open, link, file) =
            (parent.path().join("open"), parent.path().join("link"), parent.path().join("f"));
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, Permissions::from_mode(0o750)).unwrap();
        symlink(parent.path(), &link).unwrap();
        fs::write(&file, "").unwrap();
        for folder in [open, link, file] {
            assert_eq!(Seat::take(&folder, LU).unwrap_err().kind(), ErrorKind::Refused);
            assert_eq!(held(&folder).unwrap_err().kind(), ErrorKind::Refused);
            assert_eq!(reach(&folder, LU).unwrap_err().kind(), ErrorKind::Refused);
        }
        let long = parent.path().join("x".repeat(100));
        assert_eq!(Seat::take(&long, LU).unwrap_err().kind(), ErrorKind::Usage);
    }
}
