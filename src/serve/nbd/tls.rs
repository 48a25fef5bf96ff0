//! TLS: who we are, whom we believe, and a connection's bytes under it.
//!
//! Certificates are where QEMU, libnbd and nbdkit have them: a folder with `server-cert.pem`, `server-key.pem` and, if
//! clients have to show a certificate, the `ca-cert.pem` that has signed theirs and perhaps the `ca-crl.pem` of those not
//! valid any more. Promises: with a [`Tls`] nothing is said of the LU in the clear; nothing is kept by which a later
//! connection would be believed without a handshake of its own. Refuses to know NBD.

use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::net::{RecvFlags, recv};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, ServerConnection};

use crate::error::{Error, ErrorKind, Result};

use super::transport::clear;

/// Bytes that a connection holds at most, not yet encrypted or not yet sent.
const HELD: usize = 64 << 10;

/// Parts of at most 4 KiB that are read in a row without a byte of content in them. A record has four or five; more is
/// somebody who keeps this side busy with nothing, and from everything else.
const EMPTY_PARTS: usize = 64;

/// Certificates to serve with.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ServerConfig>,
    asks_clients: bool,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("asks_clients", &self.asks_clients).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads `server-cert.pem`, `server-key.pem` and, if they are there, `ca-cert.pem` and `ca-crl.pem` of `folder`: once,
    /// so that new ones are for a new server.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if one of the first two is missing, [`ErrorKind::Usage`] for a file without what it should
    /// hold, a key of another certificate, one that everybody may read, or a `ca-crl.pem` without `ca-cert.pem`;
    /// [`ErrorKind::Io`] if they cannot be read.
    pub fn load(folder: impl AsRef<Path>) -> Result<Tls> {
        let folder = folder.as_ref();
        let (own, key) = (folder.join("server-cert.pem"), folder.join("server-key.pem"));
        let (authority, revoked) = (folder.join("ca-cert.pem"), folder.join("ca-crl.pem"));
        let chain = all_of::<CertificateDer<'_>>(&own, "no certificate")?;
        let mut file = File::open(&key).map_err(|error| unread(&key, error))?;
        // Of the file that is open, and read: another may be there a moment later.
        let mode = file.metadata().map_err(|error| unread(&key, error))?.permissions().mode();
        if mode & 0o007 != 0 {
            let text = format!("{}: everybody may use this key: chmod o= it", key.display());
            return Err(Error::new(ErrorKind::Usage, text));
        }
        let secret = PrivateKeyDer::from_pem_reader(&mut file);
        let secret = secret.map_err(|error| unfit(&key, "no private key", error))?;
        let provider = Arc::new(default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| Error::new(ErrorKind::Io, format!("TLS: {error}")))?;
        let asks_clients = authority.exists();
        let builder = if asks_clients {
            let mut roots = RootCertStore::empty();
            for certificate in all_of::<CertificateDer<'_>>(&authority, "no certificate")? {
                roots.add(certificate).map_err(|error| wrong(&authority, &error))?;
            }
            let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            if revoked.exists() {
                let lists = all_of::<CertificateRevocationListDer<'_>>(&revoked, "no list of certificates")?;
                // Lists of the authorities between are rare; that of the one who has signed has to be there.
                verifier = verifier.with_crls(lists).only_check_end_entity_revocation();
            }
            let verifier = verifier.build().map_err(|error| wrong(&authority, &error))?;
            builder.with_client_cert_verifier(verifier)
        } else if revoked.exists() {
            return Err(wrong(&revoked, &"there is no ca-cert.pem that it could be of"));
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_single_cert(chain, secret).map_err(|error| wrong(&own, &error))?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Tls { config: Arc::new(config), asks_clients })
    }

    /// Do clients have to show a certificate?
    pub fn asks_clients(&self) -> bool {
        self.asks_clients
    }

    /// Shakes hands over a stream that waits.
    ///
    /// # Errors
    /// Those of the stream; [`io::ErrorKind::InvalidData`] for a client that cannot be understood or believed.
    pub(super) fn accept(&self, stream: &mut (impl Read + Write)) -> io::Result<ServerConnection> {
        let mut connection = ServerConnection::new(self.config.clone()).map_err(io::Error::other)?;
        connection.set_buffer_limit(Some(HELD));
        while connection.is_handshaking() {
            if connection.complete_io(stream)? == (0, 0) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(connection)
    }
}

/// All of one kind in a file: one at least.
fn all_of<T: PemObject>(path: &Path, nothing: &str) -> Result<Vec<T>> {
    let all = T::pem_file_iter(path).and_then(Iterator::collect::<std::result::Result<Vec<T>, _>>);
    let all = all.map_err(|error| unfit(path, nothing, error))?;
    if all.is_empty() {
        return Err(Error::new(ErrorKind::Usage, format!("{}: {nothing}", path.display())));
    }
    Ok(all)
}

fn unfit(path: &Path, what: &str, error: pem::Error) -> Error {
    match error {
        pem::Error::Io(error) => unread(path, error),
        error => Error::new(ErrorKind::Usage, format!("{}: {what}: {error}", path.display())),
    }
}

fn unread(path: &Path, error: io::Error) -> Error {
    let kind = if error.kind() == io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Io };
    Error::new(kind, format!("{}: {error}", path.display())).with_source(error)
}

fn wrong(path: &Path, error: &dyn fmt::Display) -> Error {
    let path: PathBuf = path.into();
    Error::new(ErrorKind::Usage, format!("{}: {error}", path.display()))
}

/// A connection that has shaken hands, over a socket that does not block.
pub(super) struct Secured<'a> {
    connection: ServerConnection,
    socket: Socket<'a>,
}

impl<'a> Secured<'a> {
    pub(super) fn new(connection: ServerConnection, socket: BorrowedFd<'a>) -> Secured<'a> {
        Secured { connection, socket: Socket(socket) }
    }

    pub(super) fn receive(&mut self, parts: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        for _ in 0..EMPTY_PARTS {
            match self.connection.reader().read_vectored(parts) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The end without a farewell is one, too: nothing is made of half a request.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                got => return got,
            }
            self.connection.read_tls(&mut self.socket)?;
            let understood = self.connection.process_new_packets();
            // There may be something to say to that, an alert above all.
            self.push()?;
            understood.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "records without content"))
    }

    pub(super) fn send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.push()?;
        if self.is_pending() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = self.connection.writer().write_vectored(parts)?;
        self.push()?;
        Ok(taken)
    }

    pub(super) fn is_pending(&self) -> bool {
        self.connection.wants_write()
    }

    pub(super) fn push(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut self.socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => drop(sent?),
            }
        }
        Ok(())
    }

    pub(super) fn close(&mut self) {
        self.connection.send_close_notify();
        // Whoever does not take it knows already.
        let _ = self.push();
    }
}

/// The socket, for rustls.
struct Socket<'a>(BorrowedFd<'a>);

impl Read for Socket<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(recv(self.0, buf, RecvFlags::empty())?.1)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        clear(self.0, &[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        clear(self.0, parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
