//! `uraid remove`: lets go of a disk for good. A member that is in use is failed first, which is refused if
//! data would become unavailable.

use clap::Args;
use uraid::lu::{Change, MemberState};

use crate::change::Request;
use crate::console::Console;
use crate::failure::Outcome;

/// Let go of a disk: a spare, a faulty or stale one, or a member the data can do without.
#[derive(Args)]
pub(crate) struct Remove {
    #[command(flatten)]
    request: Request,
}

impl Remove {
    pub(crate) fn run(self, console: &Console) -> Outcome {
        let changed = self.request.carry_out_on_member(console, |disk| Change::Remove { disk })?;
        let name = &changed.status.name;
        let disk = changed.path().unwrap_or(self.request.name());
        let was = changed.before.as_ref().map(|member| (member.slot, member.state));
        let done = match was {
            Some((_, MemberState::Missing)) => format!("{disk} of {name} has no disk; that is on record"),
            Some((_, MemberState::Spare)) => format!("removed spare {disk}, and its superblock"),
            Some((Some(slot), _)) => {
                format!("removed {disk} (slot {slot}); its superblock stays: it is stale where it is found")
            }
            _ => format!("removed {disk}; its superblock stays: it is stale where it is found"),
        };
        changed.report("remove", None, done, console)
    }
}
