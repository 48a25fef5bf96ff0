//! `uraid status`: how an LU is, or all of the configuration's and all that are held. One that is held is
//! asked for of its holder, who knows best. Takes no claim and changes nothing.

use clap::Args;

use crate::configuration::Config;
use crate::console::Console;
use crate::failure::{Failure, Outcome};
use crate::target::{Leave, Target};
use crate::{json, list, show};

/// Show how an LU is; without LU, all LUs of the configuration file and all that are held.
#[derive(Args)]
pub(crate) struct Status {
    /// The LU: a member's path, paths joined by commas, a name or a UUID.
    lu: Option<String>,
    #[command(flatten)]
    leave: Leave,
}

impl Status {
    pub(crate) fn run(self, console: &Console) -> Outcome {
        let Some(argument) = &self.lu else {
            if self.leave.is_given() {
                return Err(Failure::usage("--allow-stale and --allow-dirty go with an LU"));
            }
            return list::all_of(&Config::load()?, "status", console, |statuses| {
                show::lus(statuses, console.is_verbose())
            });
        };
        let statuses = [Target::resolve(argument)?.look_live(&self.leave)?];
        console.warnings(&statuses[0]);
        if console.is_json() {
            console.document("status", json::lus(&statuses))
        } else {
            console.text(show::lus(&statuses, console.is_verbose()))
        }
    }
}
