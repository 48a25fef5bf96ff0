//! `uraid wait`: returns when nothing is under way any more. Only a holder works on an LU: he is asked, and
//! an LU that nobody holds is waited for already. Changes nothing.

use clap::Args;
use serde::Serialize;

use crate::console::Console;
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::reached::Reached;
use crate::target::{Leave, Target};
use crate::{json, show, work};

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
        let (status, is_held) = match target.holder()? {
            Some(client) => {
                let interrupt = Interrupt::watch()?;
                let (mut lu, before) = Reached::held(client)?;
                work::wait(&mut lu, before.work, console, &interrupt)?;
                let status = lu.status()?;
                if let (Err(interrupted), Some(work)) = (interrupt.check(), status.work) {
                    let kind = work.kind;
                    return Err(Failure::note(interrupted, format_args!("the {kind} goes on")));
                }
                (status, true)
            }
            None => {
                let status = target.look(&Leave::default())?;
                target.refuse_held()?;
                (status, false)
            }
        };
        console.warnings(&status);
        if console.is_json() {
            return console.document("wait", Report { lu: json::Lu::from(&status) });
        }
        let name = &status.name;
        match (is_held, status.work) {
            (false, _) => console.tell(format_args!("nobody holds {name}: nothing is under way"))?,
            (true, None) => console.tell(format_args!("nothing is under way on {name}"))?,
            (true, Some(work)) => {
                console.tell(format_args!("the {} of {name} rests: it was paused", work.kind))?
            }
        }
        match show::needs(&status).trim_end() {
            "" => Ok(()),
            needs => console.tell(needs),
        }
    }
}
