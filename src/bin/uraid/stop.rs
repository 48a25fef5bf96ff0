//! `uraid stop`: has the holder of an LU finish what is under way, mark the LU clean and let go of it. Back
//! when that is done: the next verb finds the disks free.

use clap::Args;
use serde::Serialize;
use uraid::ErrorKind;

use crate::console::Console;
use crate::failure::{Failure, Outcome};
use crate::json;
use crate::target::{Leave, Target, as_on_disk};

/// Have the holder of an LU let go of it, clean.
#[derive(Args)]
pub(crate) struct Stop {
    /// The LU: a member's path, paths joined by commas, a name or a UUID.
    lu: String,
}

#[derive(Serialize)]
struct Report<'a> {
    /// The process that held it.
    pid: u32,
    lu: json::Lu<'a>,
}

impl Stop {
    pub(crate) fn run(self, console: &Console) -> Outcome {
        let target = Target::resolve(&self.lu)?;
        let Some(mut client) = target.holder()? else {
            // One that is not there is told as such; one that somebody holds without a socket is busy.
            target.look(&Leave::default())?;
            target.refuse_held()?;
            return Err(Failure::of(ErrorKind::NotFound, format!("nobody holds {}", target.label)));
        };
        let (held, _, pid) = client.look()?;
        client.stop()?;
        let status = as_on_disk(held);
        if console.is_json() {
            return console.document("stop", Report { pid, lu: json::Lu::from(&status) });
        }
        console.tell(format_args!("process {pid} has let go of {}", status.name))
    }
}
