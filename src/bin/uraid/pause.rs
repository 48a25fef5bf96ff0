//! `uraid pause` and `uraid resume`: long work of an LU that is held rests at a checkpoint, and goes on.
//! Where nobody holds an LU nothing is under way: that is said, and no failure.

use clap::Args;
use serde::Serialize;

use crate::console::Console;
use crate::failure::{Failure, Outcome};
use crate::target::{Leave, Target};
use crate::{json, show};

/// Let long work of a held LU rest at a checkpoint, until resumed.
#[derive(Args)]
pub(crate) struct Pause {
    /// The LU: a member's path, paths joined by commas, a name or a UUID.
    lu: String,
}

/// Go on with long work of a held LU that was paused.
#[derive(Args)]
pub(crate) struct Resume {
    /// The LU: a member's path, paths joined by commas, a name or a UUID.
    lu: String,
}

#[derive(Serialize)]
struct Report<'a> {
    held: bool,
    lu: json::Lu<'a>,
}

impl Pause {
    pub(crate) fn run(self, console: &Console) -> Outcome {
        run(&self.lu, "pause", console)
    }
}

impl Resume {
    pub(crate) fn run(self, console: &Console) -> Outcome {
        run(&self.lu, "resume", console)
    }
}

fn run(lu: &str, verb: &str, console: &Console) -> Outcome {
    let target = Target::resolve(lu)?;
    let (status, held) = match target.holder()? {
        Some(mut client) => {
            if verb == "pause" {
                client.pause_work()?;
                // Until it rests; it is on record then.
                client.wait_for_work(&mut |_| true).map_err(Failure::from)?;
            } else {
                client.resume_work()?;
            }
            (client.status()?, true)
        }
        None => {
            let status = target.look(&Leave::default())?;
            target.refuse_held()?;
            (status, false)
        }
    };
    if console.is_json() {
        return console.document(verb, Report { held, lu: json::Lu::from(&status) });
    }
    let name = &status.name;
    match (verb, status.work) {
        _ if !held => console.tell(format_args!("nobody holds {name}: nothing is under way"))?,
        ("pause", Some(work)) => console.tell(format_args!("the {} of {name} rests", work.kind))?,
        ("pause", None) => {
            console.tell(format_args!("nothing is under way on {name}; nothing will begin"))?
        }
        _ => console.tell(format_args!("work on {name} goes on"))?,
    }
    match show::needs(&status).trim_end() {
        "" => Ok(()),
        needs => console.tell(needs),
    }
}
