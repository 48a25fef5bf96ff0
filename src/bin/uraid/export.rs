//! `uraid export`: serves an LU as a network block device until a signal or `uraid stop` comes, then stops it
//! clean.
//!
//! The LU is held meanwhile, and administered through a control socket: the other verbs go there. Spares take
//! over by themselves.

use std::thread;

use clap::Args;
use uraid::serve::nbd::Address;

use crate::console::Console;
use crate::failure::Outcome;
use crate::hold::{HEED, Hold, Service};
use crate::interrupt::Interrupt;
use crate::target::{Leave, Target};

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

fn address(text: &str) -> Result<Address, String> {
    text.parse().map_err(|error: uraid::Error| error.to_string())
}

impl Export {
    pub(crate) fn run(self, console: &Console) -> Outcome {
        let interrupt = Interrupt::watch()?;
        let target = Target::resolve(&self.lu)?;
        let Export { nbd, read_only, insecure, leave, .. } = &self;
        let service = Service { nbd, read_only: *read_only, insecure: *insecure, leave };
        let mut hold = Hold::start(target, &service, console)?;
        let told = match console.is_json() {
            true => console.document("export", hold.report()),
            false => console.line(hold.uri()),
        };
        while told.is_ok() && interrupt.caught().is_none() && !hold.stop_wanted() {
            thread::sleep(HEED);
            hold.watch(console);
        }
        let let_go = hold.let_go();
        told.and(let_go)
    }
}
