//! Where a server listens: addresses as people write them, sockets as the kernel has them, URIs for clients.
//!
//! Promises: a Unix socket has mode 0600 before anybody can connect to it; the file of a server that is gone
//! is replaced, that of one that lives never, also if two start at once; TCP beyond this
//! machine is only listened on with TLS or by whoever says [`Reach::Network`]. Refuses to know what is spoken.

use std::fmt::Write;
use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

use crate::error::{Error, ErrorKind, Result};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// How long to wait for others who make or replace a socket in the same folder, and how often to look.
const TURN: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(5);

/// An address to listen on: `unix:PATH` or `tcp:HOST:PORT`, an IPv6 host in brackets. Port 0 is any that is
/// free.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// A socket in the file system.
    Unix(PathBuf),
    /// A host's name or number, and a port.
    Tcp(String, u16),
}

/// Who may be able to connect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// Processes of this machine.
    Local,
    /// Everybody the network lets through: nothing is encrypted, nobody is asked for a password.
    Network,
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Address> {
        let wrong = || {
            let wanted = "an address is unix:PATH or tcp:HOST:PORT (tcp:[::1]:10809 for IPv6)";
            Error::new(ErrorKind::Usage, format!("'{text}': {wanted}"))
        };
        match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Ok(Address::Unix(path.into())),
            Some(("tcp", rest)) => {
                let (host, port) = rest.rsplit_once(':').ok_or_else(wrong)?;
                let port = port.parse().map_err(|_| wrong())?;
                let bare = match host.strip_prefix('[') {
                    Some(inside) => inside.strip_suffix(']').ok_or_else(wrong)?,
                    None if host.contains(':') => return Err(wrong()),
                    None => host,
                };
                if bare.is_empty() { Err(wrong()) } else { Ok(Address::Tcp(bare.to_owned(), port)) }
            }
            _ => Err(wrong()),
        }
    }
}

/// A socket that is listened on. Dropped, it is closed and its file removed.
#[derive(Debug)]
pub struct Listener {
    // Before the socket, so that its file is removed while it lives: nobody takes it for a dead server's, and
    // puts his own there, at the moment it is removed.
    place: Place,
    fd: OwnedFd,
    #[cfg(feature = "tls")]
    tls: Option<super::Tls>,
}

#[derive(Debug)]
enum Place {
    Unix(SocketFile),
    Tcp(SocketAddr),
}

impl Listener {
    /// Listens on `address`, for this machine only.
    ///
    /// # Errors
    /// As [`bind_within`](Listener::bind_within).
    pub fn bind(address: &Address) -> Result<Listener> {
        Listener::bind_within(address, Reach::Local)
    }

    /// Listens on `address`.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] if somebody else does, [`ErrorKind::Refused`] if the address can be reached from
    /// farther than `reach`, [`ErrorKind::NotFound`] for a host nobody knows, [`ErrorKind::Usage`] for a path
    /// that is no socket or too long, [`ErrorKind::Io`] for what the system refuses.
    pub fn bind_within(address: &Address, reach: Reach) -> Result<Listener> {
        let (fd, place) = match address {
            Address::Unix(path) => bind_unix(path),
            Address::Tcp(host, port) => bind_tcp(host, *port, reach),
        }?;
        Ok(Listener {
            fd,
            place,
            #[cfg(feature = "tls")]
            tls: None,
        })
    }

    /// Listens on `address`, which may be reached from anywhere: whoever connects is told nothing before TLS.
    ///
    /// # Errors
    /// As [`bind_within`](Listener::bind_within).
    #[cfg(feature = "tls")]
    pub fn bind_secured(address: &Address, tls: super::Tls) -> Result<Listener> {
        Ok(Listener { tls: Some(tls), ..Listener::bind_within(address, Reach::Network)? })
    }

    /// What to serve with, if not in the clear.
    #[cfg(feature = "tls")]
    pub(super) fn tls(&self) -> Option<&super::Tls> {
        self.tls.as_ref()
    }

    /// What URIs call the protocol.
    fn scheme(&self) -> &'static str {
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return "nbds";
        }
        "nbd"
    }

    /// What clients connect to: the URI of `export` here.
    pub fn uri(&self, export: &str) -> String {
        let (export, scheme) = (escaped(export.as_bytes(), b""), self.scheme());
        match &self.place {
            Place::Unix(file) => {
                let path = escaped(file.path.as_os_str().as_bytes(), b"/");
                format!("{scheme}+unix:///{export}?socket={path}")
            }
            Place::Tcp(at) => format!("{scheme}://{at}/{export}"),
        }
    }

    /// Is it TCP?
    pub(super) fn is_tcp(&self) -> bool {
        matches!(self.place, Place::Tcp(_))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A socket's file of our own making, removed when dropped if it is still that one.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path) == Some(self.identity) {
            // A file that cannot be removed is one that the next server replaces.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

fn bind_unix(path: &Path) -> Result<(OwnedFd, Place)> {
    // A client may be in another folder.
    let path = std::path::absolute(path).map_err(|error| at_path(path, error))?;
    let name = SocketAddrUnix::new(path.as_path()).map_err(|_| {
        Error::new(ErrorKind::Usage, format!("{}: too long for a socket's path", path.display()))
    })?;
    let _turn = take_turn(&path)?;
    make_way(&path, &name)?;
    let fd = unix_socket().map_err(|error| at_path(&path, error.into()))?;
    bind(&fd, &name).map_err(|error| at_path(&path, error.into()))?;
    let identity = identity(&path).ok_or_else(|| at_path(&path, io::ErrorKind::NotFound.into()))?;
    let file = SocketFile { path, identity };
    // Before it listens: until then nobody can connect.
    fs::set_permissions(&file.path, Permissions::from_mode(0o600))
        .and_then(|()| Ok(listen(&fd, BACKLOG)?))
        .map_err(|error| at_path(&file.path, error))?;
    Ok((fd, Place::Unix(file)))
}

/// Locks the folder of `path` for as long as the file is open. To look whether a socket is dead, remove it,
/// and listen on one's own is one step then: else a second server could look between, find the first one's
/// socket that is bound and not listened on yet, and remove it for a dead one.
///
/// The folder, and not a file in it, so that nothing is left behind.
fn take_turn(path: &Path) -> Result<File> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let failed = |error: io::Error| at_path(folder, error);
    let file = File::open(folder).map_err(failed)?;
    let until = Instant::now() + TURN;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < until => thread::sleep(LOOK),
            Err(TryLockError::WouldBlock) => {
                let text = format!("{}: another process has this folder locked", folder.display());
                return Err(Error::new(ErrorKind::Busy, text));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
}

/// Removes what a dead server left at `path`; a living one is an error.
fn make_way(path: &Path, name: &SocketAddrUnix) -> Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(Error::new(ErrorKind::Usage, format!("{} is there and is no socket", path.display())));
    }
    let probe = unix_socket().map_err(|error| at_path(path, error.into()))?;
    match connect(&probe, name) {
        Err(Errno::CONNREFUSED) => fs::remove_file(path).map_err(|error| at_path(path, error)),
        Err(Errno::NOENT) => Ok(()),
        // Connected, or its queue is full: somebody is there.
        Ok(()) | Err(Errno::AGAIN) => {
            Err(Error::new(ErrorKind::Busy, format!("{}: a server listens there", path.display())))
        }
        Err(error) => Err(at_path(path, error.into())),
    }
}

fn unix_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

fn at_path(path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::AddrInUse => ErrorKind::Busy,
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        _ => ErrorKind::Io,
    };
    Error::new(kind, format!("{}: {error}", path.display())).with_source(error)
}

fn bind_tcp(host: &str, port: u16, reach: Reach) -> Result<(OwnedFd, Place)> {
    let failed = |kind: ErrorKind, error: io::Error| {
        Error::new(kind, format!("{host} port {port}: {error}")).with_source(error)
    };
    let found = (host, port).to_socket_addrs().map_err(|error| failed(ErrorKind::NotFound, error))?;
    let addresses: Vec<SocketAddr> = found.collect();
    if reach == Reach::Local && !addresses.iter().all(|address| address.ip().is_loopback()) {
        let text =
            format!("{host} can be reached from other machines, and NBD in the clear asks nobody who he is");
        return Err(Error::new(ErrorKind::Refused, text));
    }
    let listener = TcpListener::bind(&addresses[..]).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => failed(ErrorKind::Busy, error),
        _ => failed(ErrorKind::Io, error),
    })?;
    let place = listener.local_addr().and_then(|at| listener.set_nonblocking(true).map(|()| at));
    let place = Place::Tcp(place.map_err(|error| failed(ErrorKind::Io, error))?);
    Ok((listener.into(), place))
}

/// `bytes` as part of a URI: letters, digits, `-._~` and what `also` has as they are.
fn escaped(bytes: &[u8], also: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || also.contains(&byte) {
            text.push(byte.into());
        } else {
            // A String takes everything.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

impl From<&Path> for Address {
    fn from(path: &Path) -> Address {
        Address::Unix(path.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_people_write_them() {
        let parse = |text: &str| text.parse::<Address>().ok();
        assert_eq!(parse("unix:/run/a:b"), Some(Address::Unix("/run/a:b".into())));
        assert_eq!(parse("tcp:localhost:10809"), Some(Address::Tcp("localhost".into(), 10809)));
        assert_eq!(parse("tcp:[::1]:0"), Some(Address::Tcp("::1".into(), 0)));
        for wrong in [
            "",
            "unix:",
            "/a",
            "tcp:",
            "tcp:a",
            "tcp::1",
            "tcp:a:b",
            "tcp:a:70000",
            "tcp:::1:5",
            "tcp:[::1:5",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_socket_is_private_and_vanishes_with_its_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a b");
        let address = Address::from(path.as_path());
        let listener = Listener::bind(&address).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let uri = listener.uri("da ta");
        assert!(uri.starts_with("nbd+unix:///da%20ta?socket=/") && uri.ends_with("/a%20b"), "{uri}");
        assert_eq!(Listener::bind(&address).unwrap_err().kind(), ErrorKind::Busy, "it lives");
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_dead_server_left_is_replaced_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let listener = Listener::bind(&path.as_path().into()).unwrap();
        // Somebody has put something else in its place meanwhile: that is not ours to remove.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        drop(listener);
        assert_eq!(Listener::bind(&path.as_path().into()).unwrap_err().kind(), ErrorKind::Usage);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_race_for_a_dead_server_s_place_has_one_winner() {
        use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (holding, held) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for killed in [true, false, true, false] {
                let (path, holding, held) = (&path, &holding, &held);
                scope.spawn(move || {
                    while held.load(SeqCst) < 400 {
                        let Ok(listener) = Listener::bind(&path.as_path().into()) else { continue };
                        assert_eq!(holding.fetch_add(1, SeqCst), 0, "a living server's place was taken");
                        held.fetch_add(1, SeqCst);
                        let name = SocketAddrUnix::new(path.as_path()).unwrap();
                        // (Those who come in vain knock: there may be no room for one more.)
                        let reached = connect(unix_socket().unwrap(), &name);
                        assert!(matches!(reached, Ok(()) | Err(Errno::AGAIN)), "{reached:?}");
                        rustix::net::accept(&listener.fd).expect("the socket at the path is another's");
                        holding.fetch_sub(1, SeqCst);
                        if killed {
                            // Its file stays behind.
                            std::mem::forget(listener.place);
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn a_folder_that_stays_locked_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let lock = File::open(folder.path()).unwrap();
        lock.lock().unwrap();
        let error = Listener::bind(&folder.path().join("s").as_path().into()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(error.to_string().contains("locked"), "{error}");
    }

    #[test]
    fn tcp_stays_on_this_machine_unless_told() {
        let any = Address::Tcp("0.0.0.0".into(), 0);
        assert_eq!(Listener::bind(&any).unwrap_err().kind(), ErrorKind::Refused);
        assert!(Listener::bind_within(&any, Reach::Network).is_ok());
        let listener = Listener::bind(&Address::Tcp("127.0.0.1".into(), 0)).unwrap();
        let uri = listener.uri("data");
        let port: u16 =
            uri.strip_prefix("nbd://127.0.0.1:").unwrap().strip_suffix("/data").unwrap().parse().unwrap();
        let same = Address::Tcp("127.0.0.1".into(), port);
        assert_eq!(Listener::bind(&same).unwrap_err().kind(), ErrorKind::Busy);
    }
}
