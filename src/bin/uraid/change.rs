//! What the verbs that change an LU's members share: opening it, letting the change be made, stopping clean,
//! and saying what became of the LU and what to type next.
//!
//! A change is on the disks when it returns. A spare that takes over in consequence has begun then, on
//! record, and no more: filling it takes its time, and `uraid rebuild` is for that.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use uraid::lu::{MemberState, MemberStatus, Status};
use uraid::{ErrorKind, Lu};

use crate::console::Console;
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::target::{self, Target, Writing, quoted};
use crate::{json, show};

/// Which disk of which LU.
#[derive(Args)]
pub(crate) struct Request {
    /// The LU: a member's path, paths joined by commas, a name or a UUID.
    lu: String,
    /// The disk: a file or block device.
    pub(crate) disk: PathBuf,
    #[command(flatten)]
    writing: Writing,
}

/// The named confirmation for writing over what is on a disk.
#[derive(Args)]
pub(crate) struct Confirm {
    /// The LU's name: lose what is on the disk.
    #[arg(long, value_name = "NAME")]
    confirm: Option<String>,
}

/// A change that was made.
pub(crate) struct Changed {
    /// What the disk was before; `None` for a stranger.
    pub(crate) before: Option<MemberStatus>,
    /// The LU as its disks say it is now.
    pub(crate) status: Status,
    disk: PathBuf,
}

#[derive(Serialize)]
struct Report<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'a str>,
    disk: &'a Path,
    /// The slot it filled before.
    slot: Option<u16>,
    lu: json::Lu<'a>,
}

impl Request {
    /// Opens the LU and has `change` made, which is told what the disk is so far. However that ends, the LU
    /// is stopped clean.
    pub(crate) fn carry_out(
        &self,
        console: &Console,
        change: impl FnOnce(&Lu, Option<&MemberStatus>) -> Outcome,
    ) -> Outcome<Changed> {
        let target = Target::resolve(&self.lu)?;
        let lu = target.open_for_writing(&self.writing, console)?;
        let status = lu.status();
        let before = target::member_at(&self.disk, &status).cloned();
        let changed = change(&lu, before.as_ref()).and_then(|()| let_a_spare_begin(&lu));
        let held = lu.status();
        let stopped = lu.stop().map_err(Failure::from);
        match (changed, stopped) {
            (Err(first), Err(second)) => return Err(first.also(second)),
            (changed, stopped) => changed.and(stopped)?,
        }
        let status = target::as_on_disk(held);
        self.mind_the_list(&target, &status, console);
        Ok(Changed { before, status, disk: self.disk.clone() })
    }

    /// The disk, for sentences.
    pub(crate) fn name(&self) -> std::path::Display<'_> {
        self.disk.display()
    }

    /// A configuration file that lists the LU's disks does not change by itself.
    fn mind_the_list(&self, target: &Target, status: &Status, console: &Console) {
        let Some(file) = target.listed() else { return };
        let (disk, file) = (self.disk.display(), file.display());
        match target::member_at(&self.disk, status) {
            // Doing it twice does no harm; not doing it leaves a disk out that holds data.
            Some(_) => {
                console.remark(format_args!("see to it that {file} lists {disk} under '{}'", target.label))
            }
            None => console.remark(format_args!("take {disk} off '{}' in {file}", target.label)),
        }
    }
}

impl Confirm {
    /// Does what may write over something: without leave to if that was not confirmed, asking on a terminal.
    pub(crate) fn carry_out(
        &self,
        lu: &Lu,
        console: &Console,
        act: impl Fn(bool) -> uraid::Result<()>,
    ) -> Outcome {
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
        match act(confirmed) {
            Err(error)
                if error.kind() == ErrorKind::Refused
                    && may_ask
                    && error.to_string().contains("--confirm") =>
            {
                console.complain("this would be lost:");
                console.further(error);
                if console.ask(format_args!("Type the LU's name ({}) to lose it:", lu.name())) != lu.name() {
                    return Err(Failure::of(ErrorKind::Refused, "not confirmed; nothing was changed"));
                }
                Interrupt::watch()?;
                Ok(act(true)?)
            }
            done => Ok(done?),
        }
    }
}

impl Changed {
    /// Says what was done, in a sentence or as the document of `verb`, and what the LU needs now.
    pub(crate) fn report(
        &self,
        verb: &str,
        action: Option<&str>,
        done: impl std::fmt::Display,
        console: &Console,
    ) -> Outcome {
        if console.is_json() {
            let slot = self.before.as_ref().and_then(|member| member.slot);
            let lu = json::Lu::from(&self.status);
            return console.document(verb, Report { action, disk: &self.disk, slot, lu });
        }
        let mut text = format!("{done}; {} is {}\n", self.status.name, show::state(&self.status));
        for member in self.status.members.iter().filter(|member| member.state == MemberState::Rebuilding) {
            let slot = member.slot.unwrap_or_default();
            text += &format!("  {} takes over slot {slot}; its rebuild has begun\n", member.disk);
        }
        text += &show::needs(&self.status);
        console.tell(text.trim_end())
    }
}

/// The word for a disk that is none of the kind that is needed: what it is instead, and what to type.
pub(crate) fn instead(lu: &Lu, member: Option<&MemberStatus>, disk: &Path) -> String {
    let (name, disk) = (lu.name(), quoted(&disk.display().to_string()));
    match member {
        None => format!("{disk} is no member of {name}"),
        Some(MemberStatus { slot: Some(slot), .. }) => {
            format!("{disk} fills slot {slot} of {name}: uraid remove {} {disk}", lu.status().argument())
        }
        Some(member) => format!("{disk} is a former member of {name} ({})", member.state),
    }
}

/// Where a slot is empty and a spare is there, waits until the spare has taken over, on record, and pauses
/// its rebuild.
fn let_a_spare_begin(lu: &Lu) -> Outcome {
    Ok(lu.wait_for_work(&mut |_| false)?)
}
