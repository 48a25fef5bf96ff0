//! An LU that is held and served: opened, answered for at the control socket, exported, and in the end let go
//! of clean. What `export` does with one LU and `daemon` with several.
//!
//! It starts also with members absent, since a server that does not come up at three in the morning helps
//! nobody; what happens to members is told on standard error.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use uraid::lu::Status;
use uraid::serve::control::{self, Holding};
use uraid::serve::nbd::{Address, Listener, Reach, Server};
use uraid::{ErrorKind, Lu};

use crate::console::Console;
use crate::failure::{Failure, Outcome};
use crate::holder;
use crate::target::{Leave, Target, Writing};

/// How soon a signal is heeded.
pub(crate) const HEED: Duration = Duration::from_millis(50);

/// How often to look whether something has happened to the members.
const LOOK: Duration = Duration::from_secs(1);

/// How an LU is served.
pub(crate) struct Service<'a> {
    pub(crate) nbd: &'a Address,
    /// For reading, changing no byte of any member.
    pub(crate) read_only: bool,
    /// To other machines, too.
    pub(crate) insecure: bool,
    pub(crate) leave: &'a Leave,
}

/// An LU that is held and served.
pub(crate) struct Hold {
    lu: Arc<Lu>,
    control: Option<control::Server>,
    server: Server,
    read_only: bool,
    uri: String,
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
    uri: &'a str,
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
        let listener = service.listen()?;
        let lu = Arc::new(service.open(&target, console)?);
        let uri = listener.uri(lu.name());
        // Before it is served: a client that uses it may administer it.
        let control = service.control(&lu, &target.label, &uri, console)?;
        let server = Server::start(Arc::clone(&lu), service.read_only, listener)?;
        let seen = (lu.status(), Instant::now());
        Ok(Hold { lu, control, server, read_only: service.read_only, uri, seen })
    }

    /// What clients of the block device connect to.
    pub(crate) fn uri(&self) -> &str {
        &self.uri
    }

    /// It, for programs.
    pub(crate) fn report(&self) -> Report<'_> {
        let Hold { lu, read_only, uri, .. } = self;
        let uuid = lu.uuid().to_string();
        Report { name: lu.name(), uuid, size_bytes: lu.size(), read_only: *read_only, uri }
    }

    /// Has a client asked to let go of it?
    pub(crate) fn stop_wanted(&self) -> bool {
        self.control.as_ref().is_some_and(control::Server::stop_wanted)
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
    pub(crate) fn let_go(self) -> Outcome {
        let name = self.lu.name().to_owned();
        self.server.stop();
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
    fn listen(&self) -> Outcome<Listener> {
        let reach = if self.insecure { Reach::Network } else { Reach::Local };
        Listener::bind_within(self.nbd, reach).map_err(|error| {
            let failure = Failure::from(error);
            match failure.kind() {
                Some(ErrorKind::Refused) => {
                    failure.remedy("if the network between is yours alone: --insecure")
                }
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
        uri: &str,
        console: &Console,
    ) -> Outcome<Option<control::Server>> {
        let label = (label != lu.name()).then(|| label.to_owned());
        let holding = Holding { label, exports: vec![uri.to_owned()], read_only: self.read_only };
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
