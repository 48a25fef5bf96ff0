//! `uraid export`: serves an LU as a network block device until a signal comes, then stops it clean.
//!
//! The LU is held meanwhile: spares take over by themselves, and what happens to members is told on standard
//! error. It starts also with members absent, since a server that does not come up at three in the morning
//! helps nobody.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use uraid::serve::nbd::{Address, Listener, Reach, Server};
use uraid::{ErrorKind, Lu};

use crate::console::Console;
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::target::{Leave, Target, Writing};

/// How soon a signal is heeded.
const HEED: Duration = Duration::from_millis(50);

/// How often to look whether something has happened to the members.
const LOOK: Duration = Duration::from_secs(1);

/// Serve an LU as a block device until SIGTERM or Ctrl-C.
#[derive(Args)]
pub(crate) struct Export {
    /// The LU: a member's path, paths joined by commas, a name or a UUID.
    lu: String,
    /// Serve NBD there: unix:PATH or tcp:HOST:PORT.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    nbd: Address,
    /// Serve it for reading, and change no byte of any member.
    #[arg(long)]
    read_only: bool,
    /// Serve other machines too, although NBD in the clear neither encrypts nor asks for a password.
    #[arg(long)]
    insecure: bool,
    #[command(flatten)]
    leave: Leave,
}

#[derive(Serialize)]
struct Report<'a> {
    name: &'a str,
    uuid: String,
    size_bytes: u64,
    read_only: bool,
    uri: &'a str,
}

fn address(text: &str) -> Result<Address, String> {
    text.parse().map_err(|error: uraid::Error| error.to_string())
}

impl Export {
    pub(crate) fn run(self, console: &Console) -> Outcome {
        let interrupt = Interrupt::watch()?;
        let target = Target::resolve(&self.lu)?;
        // Before the LU is opened, which may change its members: nobody is answered until it is served.
        let listener = self.listen()?;
        let (name, lu) = (target.label.clone(), Arc::new(self.open(&target, console)?));
        let uri = listener.uri(lu.name());
        let server = Server::start(Arc::clone(&lu), self.read_only, listener)?;
        let told = self.tell(&lu, &uri, console);
        if told.is_ok() {
            watch(&lu, &interrupt, console);
        }
        server.stop();
        let stopped = match Arc::into_inner(lu) {
            Some(lu) => lu.stop().map_err(Failure::from),
            None => Err(Failure::of(ErrorKind::Io, format!("{name} is still in use"))),
        };
        told.and(stopped)
    }

    fn listen(&self) -> Outcome<Listener> {
        let reach = if self.insecure { Reach::Network } else { Reach::Local };
        Listener::bind_within(&self.nbd, reach).map_err(|error| {
            let failure = Failure::from(error);
            match failure.kind() {
                Some(ErrorKind::Refused) => {
                    failure.remedy("if the network between is yours alone: --insecure")
                }
                _ => failure,
            }
        })
    }

    fn open(self: &Export, target: &Target, console: &Console) -> Outcome<Lu> {
        match self.read_only {
            true => target.open(&self.leave, console),
            false => target.open_for_writing(&Writing::also_degraded(&self.leave), console),
        }
    }

    fn tell(&self, lu: &Lu, uri: &str, console: &Console) -> Outcome {
        let (name, size_bytes) = (lu.name(), lu.size());
        if console.is_json() {
            let (uuid, read_only) = (lu.uuid().to_string(), self.read_only);
            return console.document("export", Report { name, uuid, size_bytes, read_only, uri });
        }
        console.line(uri)
    }
}

/// Tells what happens to the LU until a signal comes.
fn watch(lu: &Lu, interrupt: &Interrupt, console: &Console) {
    let mut status = lu.status();
    let mut looked = Instant::now();
    while interrupt.caught().is_none() {
        thread::sleep(HEED);
        if looked.elapsed() < LOOK {
            continue;
        }
        let now = lu.status();
        for warning in now.warnings.iter().filter(|warning| !status.warnings.contains(warning)) {
            console.complain(format_args!("{}: warning: {warning}", now.name));
        }
        if now.state != status.state {
            console.remark(format_args!("{}: {} now", now.name, crate::show::state(&now)));
        }
        (status, looked) = (now, Instant::now());
    }
}
