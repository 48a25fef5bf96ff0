//! `uraid add`: gives an LU another disk. It fills an empty slot, or stands by as a spare. Never writes over
//! anything that looks like data unless the LU's name is given as a second word.

use clap::Args;
use uraid::lu::{Change, MemberState, MemberStatus};

use crate::change::{Changed, Confirm, Request};
use crate::console::Console;
use crate::failure::Outcome;
use crate::target::member_at;

/// Add a disk: to an empty slot, which is rebuilt onto it, or as a spare.
#[derive(Args)]
pub(crate) struct Add {
    #[command(flatten)]
    pub(crate) request: Request,
    #[command(flatten)]
    confirm: Confirm,
}

impl Add {
    pub(crate) fn run(self, console: &Console) -> Outcome {
        let changed = self.carry_out(console)?;
        let done = self.account(&changed);
        changed.report("add", None, done, console)
    }

    /// Adds the disk; back once it is on record.
    pub(crate) fn carry_out(&self, console: &Console) -> Outcome<Changed> {
        let change = |overwrite| Change::Add { disk: self.request.disk.clone(), overwrite };
        self.request.carry_out(console, |lu| self.confirm.carry_out(lu, console, change))
    }

    /// What the disk is to the LU now.
    pub(crate) fn account(&self, changed: &Changed) -> String {
        let disk = self.request.name();
        let came_back = if changed.before.is_some() { " back" } else { "" };
        match member_at(&self.request.disk, &changed.status) {
            Some(MemberStatus { state: MemberState::Spare, .. }) => {
                format!("added {disk}{came_back} as a spare")
            }
            Some(MemberStatus { slot: Some(slot), .. }) => format!("added {disk}{came_back} to slot {slot}"),
            _ => format!("added {disk}{came_back}"),
        }
    }
}
