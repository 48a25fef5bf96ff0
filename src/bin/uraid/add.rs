//! `uraid add`: gives an LU another disk. It fills an empty slot, or stands by as a spare. Never writes over
//! anything that looks like data unless the LU's name is given as a second word.

use clap::Args;
use uraid::lu::{MemberState, MemberStatus};
use uraid::{ErrorKind, Lu};

use crate::change::{Changed, Request};
use crate::console::Console;
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::target::member_at;

/// Add a disk: to an empty slot, which is rebuilt onto it, or as a spare.
#[derive(Args)]
pub(crate) struct Add {
    #[command(flatten)]
    pub(crate) request: Request,
    /// The LU's name: lose what is on the disk.
    #[arg(long, value_name = "NAME")]
    confirm: Option<String>,
}

impl Add {
    pub(crate) fn run(self, console: &Console) -> Outcome {
        let changed = self.carry_out(console)?;
        let done = self.account(&changed);
        changed.report("add", None, done, console)
    }

    /// Adds the disk; back once it is on record.
    pub(crate) fn carry_out(&self, console: &Console) -> Outcome<Changed> {
        self.request.carry_out(console, |lu, _| self.add_to(lu, console))
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

    fn add_to(&self, lu: &Lu, console: &Console) -> Outcome {
        let confirmed = match &self.confirm {
            Some(name) if name != lu.name() => {
                return Err(Failure::usage(format!("--confirm names '{name}', not '{}'", lu.name())));
            }
            confirm => confirm.is_some(),
        };
        let may_ask = !confirmed && console.can_ask();
        if !may_ask {
            // Ctrl-C at a question simply ends the program; else half a change is worth nothing.
            Interrupt::watch()?;
        }
        let disk = &self.request.disk;
        match lu.add(disk, confirmed) {
            Err(error) if error.kind() == ErrorKind::Refused && may_ask => {
                console.complain("this would be lost:");
                console.further(error);
                if console.ask(format_args!("Type the LU's name ({}) to lose it:", lu.name())) != lu.name() {
                    return Err(Failure::of(ErrorKind::Refused, "not confirmed; nothing was changed"));
                }
                Interrupt::watch()?;
                Ok(lu.add(disk, true)?)
            }
            added => Ok(added?),
        }
    }
}
