//! `uraid daemon`: holds and serves the LUs of the configuration file that say where, until SIGTERM, and then
//! lets go of them clean.
//!
//! An LU that cannot be started does not hold up the others; nor does one that is let go of by `uraid stop`.
//! The service manager is told when all that can be is served ([`notify`]).

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::thread;

use clap::Args;
use serde::Serialize;
use uraid::ErrorKind;

use crate::configuration::{Config, Listed, standard};
use crate::console::Console;
use crate::failure::{Failure, Outcome};
use crate::hold::{HEED, Hold, Report, Service};
use crate::interrupt::Interrupt;
use crate::target::Leave;

/// Hold and serve the LUs of the configuration file that have an `nbd` address or a `fuse` folder, until SIGTERM or Ctrl-C.
#[derive(Args)]
pub(crate) struct Daemon {
    /// The file; $URAID_CONFIG, else /etc/uraid/uraid.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Serialize)]
struct Reports<'a> {
    lus: Vec<Report<'a>>,
}

impl Daemon {
    pub(crate) fn run(self, console: &Console) -> Outcome {
        let interrupt = Interrupt::watch()?;
        let config = Config::read(&self.config.unwrap_or_else(|| standard().0))?;
        let mut holds = start(&config, console)?;
        let told = tell(&holds, console);
        let count = holds.len();
        if told.is_ok() {
            notify(&format!("READY=1\nSTATUS={count} LUs are served"), console);
        }
        let mut ended = told;
        while ended.is_ok() && !holds.is_empty() && interrupt.caught().is_none() {
            thread::sleep(HEED);
            let (over, rest): (Vec<Hold>, Vec<Hold>) = holds.into_iter().partition(Hold::is_over);
            holds = rest;
            holds.iter_mut().for_each(|hold| hold.watch(console));
            // One that did not end well is told of, and the others go on.
            let failures = over.into_iter().filter_map(|hold| hold.let_go(console).err());
            failures.for_each(|failure| console.report_aside(&failure));
        }
        notify("STOPPING=1", console);
        for hold in holds {
            ended = match (ended, hold.let_go(console)) {
                (Err(first), Err(second)) => Err(first.also(second)),
                (ended, let_go) => ended.and(let_go),
            };
        }
        ended
    }
}

/// Starts all LUs of `config` that are to be served; those that cannot be are told of.
///
/// # Errors
/// The first reason if none could be started, usage if there are none.
fn start(config: &Config, console: &Console) -> Outcome<Vec<Hold>> {
    let mut holds = Vec::new();
    let mut first: Option<Failure> = None;
    for listed in config.lus() {
        let Listed { target, nbd, fuse, tls, read_only, insecure } = listed;
        if nbd.is_none() && fuse.is_none() {
            continue;
        }
        let (leave, read_only, insecure) = (Leave::default(), *read_only, *insecure);
        let (nbd, fuse, tls) = (nbd.as_ref(), fuse.as_deref(), tls.as_ref());
        let tls = tls.map(|tls| tls.folder.as_path());
        let service = Service { nbd, fuse, read_only, insecure, tls, leave: &leave };
        match Hold::start(target.clone(), &service, console) {
            Ok(hold) => holds.push(hold),
            Err(failure) => {
                let failure = failure.before(&target.label);
                console.report_aside(&failure);
                first.get_or_insert(failure);
            }
        }
    }
    match first {
        Some(failure) if holds.is_empty() => Err(failure.note("no LU could be started")),
        None if holds.is_empty() => {
            let text = format!(
                "{}: no LU has an nbd address or a fuse folder to be served at",
                config.path().display()
            );
            Err(Failure::of(ErrorKind::Usage, text))
        }
        _ => Ok(holds),
    }
}

fn tell(holds: &[Hold], console: &Console) -> Outcome {
    if console.is_json() {
        return console.document("daemon", Reports { lus: holds.iter().map(Hold::report).collect() });
    }
    holds.iter().try_for_each(|hold| hold.tell(console))
}

/// Tells the service manager, if one waits to be told: a datagram to the socket that `$NOTIFY_SOCKET` names,
/// an abstract one with an `@` for the first byte.
fn notify(state: &str, console: &Console) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return };
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path)),
    };
    let sent = address.and_then(|address| -> io::Result<usize> {
        UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)
    });
    if let Err(error) = sent {
        console.complain(format_args!("cannot tell the service manager: {error}"));
    }
}
