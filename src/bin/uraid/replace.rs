//! `uraid replace`: puts a new disk in the place of one that still works. The old disk serves until the new one has all it
//! has, so redundancy is never less than before. An interrupt leaves the copy at a checkpoint, from which the next
//! `replace` or `rebuild` goes on; the kernel can finish it, too.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use uraid::ErrorKind;
use uraid::lu::{Change, MemberState};

use crate::change::Confirm;
use crate::console::Console;
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::reached::Reached;
use crate::rebuild::to_the_end;
use crate::target::{Target, Writing, member_at};
use crate::{json, show, size};

/// Copy a disk that still works to a new one, which then takes its place.
#[derive(Args)]
pub(crate) struct Replace {
    /// The LU: a member's path, paths joined by commas, a name or a UUID.
    lu: String,
    /// The disk that is to go; it serves until the copy is done.
    old: PathBuf,
    /// The disk that takes its place: a spare, or one that is no member yet.
    new: PathBuf,
    #[command(flatten)]
    confirm: Confirm,
    #[command(flatten)]
    writing: Writing,
}

#[derive(Serialize)]
struct Report<'a> {
    old: &'a Path,
    new: &'a Path,
    slot: u16,
    bytes: u64,
    seconds: f64,
    bytes_per_second: u64,
    lu: json::Lu<'a>,
}

impl Replace {
    pub(crate) fn run(self, console: &Console) -> Outcome {
        let target = Target::resolve(&self.lu)?;
        let (mut lu, before) = Reached::new(&target, &self.writing, console)?;
        let (old, new) = (&self.old, &self.new);
        let change = |overwrite| Change::Replace { old: old.clone(), new: new.clone(), overwrite };
        if let Err(refused) = self.confirm.carry_out(&mut lu, console, change) {
            return match lu.let_go(before) {
                Err(second) => Err(refused.also(second)),
                Ok(_) => Err(refused),
            };
        }
        let interrupt = Interrupt::watch()?;
        let run = to_the_end(lu, before, console, &interrupt)?;
        run.tell_events(console);
        run.refuse_unfinished(&interrupt)?;
        let (old, new, name) = (self.old.display(), self.new.display(), &run.after.name);
        let member = member_at(&self.new, &run.after).filter(|member| member.state == MemberState::Active);
        let Some(slot) = member.and_then(|member| member.slot) else {
            let text = format!("{new} has not replaced {old}, which goes on serving");
            return Err(Failure::of(ErrorKind::Io, text));
        };
        let speed = size::per_second(run.bytes, run.elapsed);
        if console.is_json() {
            let report = Report {
                old: &self.old,
                new: &self.new,
                slot,
                bytes: run.bytes,
                seconds: run.elapsed.as_secs_f64(),
                bytes_per_second: speed,
                lu: json::Lu::from(&run.after),
            };
            console.document("replace", report)?;
            return run.admit_losses();
        }
        let (bytes, speed, state) = (size::bytes(run.bytes), size::bytes(speed), show::state(&run.after));
        console.tell(format_args!(
            "replaced {old} by {new} in slot {slot} of {name}: {bytes} at {speed}/s; it is {state}\n  \
             {old} is no longer used and may be pulled"
        ))?;
        if let Some(file) = target.listed() {
            let file = file.display();
            console.remark(format_args!("list {new} instead of {old} under '{}' in {file}", target.label));
        }
        run.admit_losses()
    }
}
