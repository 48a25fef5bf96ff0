//! `uraid spare`: disks that stand by. Adding one is `uraid add`; removing refuses whatever is no spare, so
//! that a slip of the hand costs no redundancy.

use clap::{Args, Subcommand};
use uraid::lu::Change;

use crate::add::Add;
use crate::change::Request;
use crate::console::Console;
use crate::failure::Outcome;

/// Add or remove a disk that stands by.
#[derive(Args)]
pub(crate) struct Spare {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Add a disk that stands by; an empty slot is rebuilt onto it at once.
    Add(Add),
    /// Remove a disk that stands by, and its superblock.
    Remove(Remove),
}

#[derive(Args)]
struct Remove {
    #[command(flatten)]
    request: Request,
}

impl Spare {
    pub(crate) fn run(self, console: &Console) -> Outcome {
        match self.action {
            Action::Add(add) => {
                let changed = add.carry_out(console)?;
                let done = add.account(&changed);
                changed.report("spare", Some("add"), done, console)
            }
            Action::Remove(remove) => remove.run(console),
        }
    }
}

impl Remove {
    fn run(self, console: &Console) -> Outcome {
        let changed = self.request.carry_out_on_member(console, |disk| Change::RemoveSpare { disk })?;
        let done = format!("removed spare {}, and its superblock", self.request.name());
        changed.report("spare", Some("remove"), done, console)
    }
}
