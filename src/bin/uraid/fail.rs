//! `uraid fail`: stops using a member. Back once the others have it on record; refused if data would become
//! unavailable. A spare that takes over has begun then.

use clap::Args;
use uraid::lu::MemberState;

use crate::change::Request;
use crate::console::Console;
use crate::failure::Outcome;
use crate::interrupt::Interrupt;

/// Stop using a member, as if it had failed; a spare takes over.
#[derive(Args)]
pub(crate) struct Fail {
    #[command(flatten)]
    request: Request,
}

impl Fail {
    pub(crate) fn run(self, console: &Console) -> Outcome {
        let mut already = false;
        let changed = self.request.carry_out(console, |lu, member| {
            // Half a change is worth nothing: a signal waits for the other half.
            Interrupt::watch()?;
            already = member.is_some_and(|m| matches!(m.state, MemberState::Faulty | MemberState::Stale));
            if already { Ok(()) } else { Ok(lu.fail(&self.request.disk)?) }
        })?;
        let (disk, name) = (self.request.name(), &changed.status.name);
        let slot = changed.before.as_ref().and_then(|member| member.slot);
        let done = match slot {
            Some(slot) => format!("failed {disk} (slot {slot})"),
            None => format!("{disk} is out of use in {name} already"),
        };
        changed.report("fail", None, done, console)
    }
}
