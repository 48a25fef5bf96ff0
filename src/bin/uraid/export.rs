//! `uraid export`: serves an LU as a network block device, or as a file, until a signal or `uraid stop` comes,
//! then stops it clean.
//!
//! The LU is held meanwhile, and administered through a control socket: the other verbs go there. Spares take
//! over by themselves.

use std::path::PathBuf;
use std::thread;

use clap::{ArgGroup, Args};
use uraid::serve::nbd::Address;

use crate::console::Console;
use crate::failure::Outcome;
use crate::hold::{HEED, Hold, Service};
use crate::interrupt::Interrupt;
use crate::target::{Leave, Target};

/// Serve an LU as a block device until SIGTERM or Ctrl-C.
#[derive(Args)]
#[command(group(ArgGroup::new("face").args(["nbd", "fuse"]).required(true).multiple(true)))]
pub(crate) struct Export {
    /// The LU: a member's path, paths joined by commas, a name or a UUID.
    lu: String,
    /// Serve NBD there: unix:PATH or tcp:HOST:PORT.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    nbd: Option<Address>,
    /// Mount a file system with one file, the LU, on this empty directory.
    #[arg(long, value_name = "DIR")]
    fuse: Option<PathBuf>,
    /// Serve it for reading, and change no byte of any member.
    #[arg(long)]
    read_only: bool,
    /// Serve NBD under TLS only, with server-cert.pem and server-key.pem of this folder; with a ca-cert.pem there,
    /// clients have to show a certificate of its.
    #[arg(long, value_name = "DIR", requires = "nbd", conflicts_with = "insecure")]
    tls: Option<PathBuf>,
    /// Serve other machines too, although NBD in the clear neither encrypts nor asks for a password.
    #[arg(long)]
    insecure: bool,
    #[command(flatten)]
    leave: Leave,
}

fn address(text: &str) -> Result<Address, String> {
    text.parse().map_err(|error: uraid::Error| error.to_string())
}

impl Export {
    pub(crate) fn run(self, console: &Console) -> Outcome {
        let interrupt = Interrupt::watch()?;
        let target = Target::resolve(&self.lu)?;
        let Export { read_only, insecure, leave, .. } = &self;
        let (nbd, fuse, tls) = (self.nbd.as_ref(), self.fuse.as_deref(), self.tls.as_deref());
        let service = Service { nbd, fuse, read_only: *read_only, insecure: *insecure, tls, leave };
        let mut hold = Hold::start(target, &service, console)?;
        let told = match console.is_json() {
            true => console.document("export", hold.report()),
            false => hold.tell(console),
        };
        while told.is_ok() && interrupt.caught().is_none() && !hold.is_over() {
            thread::sleep(HEED);
            hold.watch(console);
        }
        let let_go = hold.let_go(console);
        told.and(let_go)
    }
}
