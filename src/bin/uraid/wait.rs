//! `uraid wait`: returns when nothing is under way any more. Only a holder works on an LU, and no holder can
//! be asked yet: an LU that nobody holds is waited for already, one that somebody holds is busy. Changes
//! nothing.

use clap::Args;
use serde::Serialize;

use crate::console::Console;
use crate::failure::Outcome;
use crate::target::{Leave, Target};
use crate::{json, show};

/// Wait until no resync or rebuild is under way; at once for an LU that nobody holds.
#[derive(Args)]
pub(crate) struct Wait {
    /// The LU: a member's path, paths joined by commas, a name or a UUID.
    lu: String,
}

#[derive(Serialize)]
struct Report<'a> {
    lu: json::Lu<'a>,
}

impl Wait {
    pub(crate) fn run(self, console: &Console) -> Outcome {
        let target = Target::resolve(&self.lu)?;
        let status = target.look(&Leave::default())?;
        target.refuse_held()?;
        console.warnings(&status);
        if console.is_json() {
            return console.document("wait", Report { lu: json::Lu::from(&status) });
        }
        console.tell(format_args!("nobody holds {}: nothing is under way", status.name))?;
        match show::needs(&status).trim_end() {
            "" => Ok(()),
            needs => console.tell(needs),
        }
    }
}
