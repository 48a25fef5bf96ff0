//! An LU that is held and served: opened, answered for at the control socket, exported, and in the end let go
//! of clean. What `export` does with one LU and `daemon` with several.
//!
//! It starts also with members absent, since a server that does not come up at three in the morning helps
//! nobody; what happens to members is told on standard error.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use uraid::lu::Status;
use uraid::serve::control::{self, Holding};
use uraid::serve::fuse::{self, Folder};
use uraid::serve::nbd::{self, Address, Listener, Reach, Tls};
use uraid::{ErrorKind, Lu};

use crate::console::Console;
use crate::failure::{Failure, Outcome};
use crate::holder;
use crate::target::{Leave, Target, Writing};

/// How soon a signal is heeded.
pub(crate) const HEED: Duration = Duration::from_millis(50);

/// How often to look whether something has happened to the members.
const LOOK: Duration = Duration::from_secs(1);

/// How an LU is served: in one way at least.
pub(crate) struct Service<'a> {
    /// Over NBD, there.
    pub(crate) nbd: Option<&'a Address>,
    /// As a file in this folder.
    pub(crate) fuse: Option<&'a Path>,
    /// For reading, changing no byte of any member.
    pub(crate) read_only: bool,
    /// To other machines, too.
    pub(crate) insecure: bool,
    /// Under TLS, with the certificates of this folder.
    pub(crate) tls: Option<&'a Path>,
    pub(crate) leave: &'a Leave,
}

/// An LU that is held and served.
pub(crate) struct Hold {
    lu: Arc<Lu>,
    control: Option<control::Server>,
    nbd: Option<nbd::Server>,
    fuse: Option<fuse::Server>,
    read_only: bool,
    uri: Option<String>,
    /// How it was when it was looked at last, and when.
    seen: (Status, Instant),
}

/// It, for programs.
#[derive(Serialize)]
pub(crate) struct Report<'a> {
    name: &'a str,
    uuid: String,
    size_bytes: u64,
    read_only: bool,
    /// What clients of the block device connect to.
    uri: Option<&'a str>,
    /// The file that is the LU.
    file: Option<&'a Path>,
}

impl Hold {
    /// Opens the LU and serves it.
    ///
    /// # Errors
    /// Those of opening and of listening; refused for other machines without leave.
    pub(crate) fn start(target: Target, service: &Service<'_>, console: &Console) -> Outcome<Hold> {
        // Whoever asks about the LU may be in another folder.
        let target = target.absolute()?;
        // Before the LU is opened, which may change its members: nobody is answered until it is served.
        let listener = service.nbd.map(|address| service.listen(address, console)).transpose()?;
        let folder = service.fuse.map(Folder::prepare).transpose()?;
        let lu = Arc::new(service.open(&target, console)?);
        let serve = |folder: Folder| fuse::Server::start(Arc::clone(&lu), service.read_only, &folder);
        let fuse = folder.map(serve).transpose()?;
        let uri = listener.as_ref().map(|listener| listener.uri(lu.name()));
        let file = fuse.as_ref().map(|fuse| fuse.file().display().to_string());
        let exports = uri.iter().cloned().chain(file).collect();
        // Before anybody connects: a client that uses it may administer it.
        let control = service.control(&lu, &target.label, exports, console)?;
        let serve = |listener: Listener| nbd::Server::start(Arc::clone(&lu), service.read_only, listener);
        let nbd = listener.map(serve).transpose()?;
        let seen = (lu.status(), Instant::now());
        Ok(Hold { lu, control, nbd, fuse, read_only: service.read_only, uri, seen })
    }

    /// Says where it is served, a line each.
    pub(crate) fn tell(&self, console: &Console) -> Outcome {
        let file = self.fuse.as_ref().map(|fuse| fuse.file().display().to_string());
        self.uri.iter().chain(&file).try_for_each(|place| console.line(place))
    }

    /// It, for programs.
    pub(crate) fn report(&self) -> Report<'_> {
        let Hold { lu, read_only, .. } = self;
        let (uri, file) = (self.uri.as_deref(), self.fuse.as_ref().map(fuse::Server::file));
        let uuid = lu.uuid().to_string();
        Report { name: lu.name(), uuid, size_bytes: lu.size(), read_only: *read_only, uri, file }
    }

    /// Has somebody asked to let go of it, or unmounted it?
    pub(crate) fn is_over(&self) -> bool {
        let stop_wanted = self.control.as_ref().is_some_and(control::Server::stop_wanted);
        stop_wanted || self.fuse.as_ref().is_some_and(fuse::Server::has_ended)
    }

    /// Tells now and then what has happened.
    pub(crate) fn watch(&mut self, console: &Console) {
        let (status, looked) = &self.seen;
        if looked.elapsed() < LOOK {
            return;
        }
        let now = self.lu.status();
        for warning in now.warnings.iter().filter(|warning| !status.warnings.contains(warning)) {
            console.complain(format_args!("{}: warning: {warning}", now.name));
        }
        if now.state != status.state {
            console.remark(format_args!("{}: {} now", now.name, crate::show::state(&now)));
        }
        self.seen = (now, Instant::now());
    }

    /// Finishes what is under way, marks the LU clean, and lets go of it.
    pub(crate) fn let_go(self, console: &Console) -> Outcome {
        let name = self.lu.name().to_owned();
        drop(self.nbd);
        // Whoever still has the file open loses it; the LU is none the worse for that.
        if let Some(Err(error)) = self.fuse.map(fuse::Server::stop) {
            console.complain(error);
        }
        let farewell = self.control.map(control::Server::leave);
        let stopped = match Arc::into_inner(self.lu) {
            Some(lu) => lu.stop(),
            None => Err(uraid::Error::new(ErrorKind::Io, format!("{name} is still in use"))),
        };
        if let Some(farewell) = farewell {
            farewell.say(&stopped);
        }
        stopped.map_err(Failure::from)
    }
}

impl Service<'_> {
    fn listen(&self, address: &Address, console: &Console) -> Outcome<Listener> {
        if let Some(folder) = self.tls {
            let tls = Tls::load(folder)?;
            if !tls.asks_clients() && matches!(address, Address::Tcp(..)) {
                let folder = folder.display();
                console.remark(format_args!("{folder} has no ca-cert.pem: whoever can connect is served"));
            }
            return Ok(Listener::bind_secured(address, tls)?);
        }
        let reach = if self.insecure { Reach::Network } else { Reach::Local };
        Listener::bind_within(address, reach).map_err(|error| {
            let failure = Failure::from(error);
            match failure.kind() {
                Some(ErrorKind::Refused) => failure.remedy(
                    "serve it under TLS: --tls DIR; or, if the network between is yours alone: --insecure",
                ),
                _ => failure,
            }
        })
    }

    fn open(&self, target: &Target, console: &Console) -> Outcome<Lu> {
        match self.read_only {
            true => target.open(self.leave, console),
            false => target.open_for_writing(&Writing::also_degraded(self.leave), console),
        }
    }

    /// Answers for the LU, so that it can be administered while it is served. Without a place to answer at it
    /// is served nevertheless, unless that place was chosen.
    fn control(
        &self,
        lu: &Arc<Lu>,
        label: &str,
        exports: Vec<String>,
        console: &Console,
    ) -> Outcome<Option<control::Server>> {
        let label = (label != lu.name()).then(|| label.to_owned());
        let holding = Holding { label, exports, read_only: self.read_only };
        match control::Server::start(Arc::clone(lu), holder::folder(), holding) {
            Ok(server) => Ok(Some(server)),
            // Several may hold an LU for reading; one of them answers.
            Err(error) if self.read_only && error.kind() == ErrorKind::Busy => Ok(None),
            Err(error) if holder::is_folder_chosen() => Err(error.into()),
            Err(error) => {
                console.complain(format_args!("{}: nobody can administer it meanwhile: {error}", lu.name()));
                console.further("a folder of your own for that: URAID_RUNTIME_DIR");
                Ok(None)
            }
        }
    }
}
