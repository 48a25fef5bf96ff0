//! An LU as a file: a FUSE file system with one file in it, which is the LU.
//!
//! For whatever wants a path, and with `losetup --direct-io=on` a real block device where the kernel has neither
//! nbd nor ublk:
//!
//! ```no_run
//! use std::sync::Arc;
//! use uraid::serve::fuse::{Folder, Server};
//! use uraid::{Lu, lu::Access};
//!
//! # fn main() -> uraid::Result<()> {
//! let lu = Arc::new(Lu::assemble().beside("disks/d0.img").access(Access::Write).open()?);
//! let server = Server::start(lu.clone(), false, &Folder::prepare("/run/data")?)?;
//! println!("{}", server.file().display());
//! // ... serve, until
//! server.stop()?;
//! if let Some(lu) = Arc::into_inner(lu) {
//!     lu.stop()?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Promises
//! - The file is named after the LU and as large. It can be read and written at any offset, belongs to whoever
//!   mounts it and is nobody else's business (mode 0600; 0400 for reading only). It cannot grow or shrink.
//! - Nothing is cached: what was written is on its way to the disks when the call returns, and stable after `fsync`,
//!   at once if the file was opened with `O_SYNC` or `O_DSYNC`.
//! - Holes that are punched are zero, and free the members ([`Lu::write_zeroes_at`](crate::Lu::write_zeroes_at)).
//! - Many requests are under way at once. One that waits for a disk holds up no other.
//! - A stop finishes what is under way. If somebody still has the file open then, he keeps a file that only gives
//!   errors, as if its disk had been pulled out; all that was acknowledged is stable.
//!
//! | file | what it is |
//! |---|---|
//! | `mount` | where it may be mounted, and what a killed server has left there |
//! | `volume` | the file system: names, attributes, who may do what |
//! | `lane` | reads, writes and flushes on a queue of the LU |

mod lane;
mod mount;
mod volume;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fuser::{Config, MountOption, Session, SessionUnmounter};

use crate::Lu;
use crate::error::{Error, ErrorKind, Result};

pub use mount::Folder;
use volume::{Shared, Volume};

/// How long a stop waits for the kernel to say that nobody uses the file any more.
const PATIENCE: Duration = Duration::from_secs(2);

/// A mounted LU. Dropped, it is stopped.
pub struct Server {
    file: PathBuf,
    folder: PathBuf,
    shared: Arc<Shared>,
    unmounter: SessionUnmounter,
    session: Option<JoinHandle<io::Result<()>>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Server {
    /// Mounts `lu` at `folder`; with `read_only`, as it must be for an LU that is open for reading, without a way to
    /// change it.
    ///
    /// # Errors
    /// Those of [`Lu::queue`]; [`ErrorKind::Io`] if the system does not let it be mounted.
    pub fn start(lu: Arc<Lu>, read_only: bool, folder: &Folder) -> Result<Server> {
        let folder = folder.path().to_owned();
        let shared = Arc::new(Shared::new(lu, read_only)?);
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName(format!("{}{}", mount::SOURCE, shared.name())),
            MountOption::NoSuid,
            MountOption::NoDev,
            MountOption::NoExec,
            if read_only { MountOption::RO } else { MountOption::RW },
        ];
        config.n_threads = Some(shared.lanes());
        config.clone_fd = true;
        let volume = Volume::new(shared.clone());
        let mut session =
            Session::new(volume, &folder, &config).map_err(|error| mount::refused(&folder, error))?;
        let unmounter = session.unmount_callable();
        let file = folder.join(shared.name());
        let run = thread::Builder::new().name("fuse".into()).spawn(move || session.run());
        let session = run
            .map_err(|error| Error::new(ErrorKind::Io, "no thread for the file system").with_source(error))?;
        Ok(Server { file, folder, shared, unmounter, session: Some(session) })
    }

    /// The file that is the LU.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Has somebody else unmounted it, or has it failed? [`stop`](Server::stop) tells.
    pub fn has_ended(&self) -> bool {
        self.session.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Stops: requests under way are finished, later ones fail, the LU is let go of, and the folder is as it was.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] if somebody still had the file open. He is left with errors; everything else is done.
    /// [`ErrorKind::Io`] if it had ended by itself, because the system took away what it needs.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        let Some(session) = self.session.take() else { return Ok(()) };
        // A stop of a file that nobody uses fails nobody's request.
        let is_free = session.is_finished() || self.unmounter.unmount().is_ok();
        self.shared.leave();
        if !is_free {
            mount::detach(&self.folder);
        }
        let until = Instant::now() + PATIENCE;
        while !session.is_finished() && Instant::now() < until {
            thread::sleep(Duration::from_millis(2));
        }
        if !session.is_finished() {
            let text = format!("{}: is still in use, and gives nothing but errors now", self.file.display());
            return Err(Error::new(ErrorKind::Busy, text));
        }
        // What ends a session well is that it was unmounted.
        let ended = session.join().unwrap_or_else(|_| Err(io::Error::other("a thread of its panicked")));
        ended.map_err(|error| {
            let text = format!("{}: was not served to the end: {error}", self.file.display());
            Error::new(ErrorKind::Io, text).with_source(error)
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Whoever wants to know calls `stop`.
        let _ = self.end();
    }
}
