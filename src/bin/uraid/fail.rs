//! `uraid fail`: stops using a member. Back once the others have it on record; refused if data would become
//! unavailable. A spare that takes over has begun then.

use clap::Args;
use uraid::lu::{Change, MemberState};

use crate::change::Request;
use crate::console::Console;
use crate::failure::Outcome;

/// Stop using a member, as if it had failed; a spare takes over.
#[derive(Args)]
pub(crate) struct Fail {
    #[command(flatten)]
    request: Request,
}

impl Fail {
    pub(crate) fn run(self, console: &Console) -> Outcome {
        let changed = self.request.carry_out_on_member(console, |disk| Change::Fail { disk })?;
        let (disk, name) = (self.request.name(), &changed.status.name);
        let before = changed.before.as_ref().map(|member| (member.slot, member.state));
        let done = match before {
            Some((_, MemberState::Missing)) => format!("{disk} of {name} has no disk; that is on record"),
            Some((Some(slot), _)) => format!("failed {} (slot {slot})", changed.path().unwrap_or(disk)),
            _ => format!("{disk} is out of use in {name} already"),
        };
        changed.report("fail", None, done, console)
    }
}
