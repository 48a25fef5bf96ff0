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
    /// The disk: a file or block device; a member also as slot:N, for one that is not there any more.
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
    /// What the disk was before, or the empty slot that was named; `None` for a stranger.
    pub(crate) before: Option<MemberStatus>,
    /// The LU as its disks say it is now.
    pub(crate) status: Status,
    /// The LU when it was let go: what a rebuild could not give back meanwhile is said nowhere else.
    held: Status,
    /// As it was named; where a slot was, the path of its disk, if it has one.
    disk: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'a str>,
    disk: Option<&'a Path>,
    /// The slot it filled before.
    slot: Option<u16>,
    /// What could not be computed of a slot that was filled at once, in bytes of the LU.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lost: Vec<json::Lost>,
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
        let named = self.find_in(&status);
        let changed = named.and_then(|(disk, before)| {
            change(&lu, before.as_ref())?;
            let_a_spare_begin(&lu)?;
            Ok((disk, before))
        });
        let held = lu.status();
        let stopped = lu.stop().map_err(Failure::from);
        let (disk, before) = match (changed, stopped) {
            (Err(first), Err(second)) => return Err(first.also(second)),
            (changed, stopped) => changed.and_then(|found| stopped.map(|()| found))?,
        };
        let status = target::as_on_disk(held.clone());
        if let Some(disk) = &disk {
            mind_the_list(disk, &target, &status, console);
        }
        Ok(Changed { before, status, held, disk })
    }

    /// The disk's path, and what it is to the LU: its member, an empty slot, or nothing.
    ///
    /// # Errors
    /// Not found for a slot that the LU does not have.
    fn find_in(&self, status: &Status) -> Outcome<(Option<PathBuf>, Option<MemberStatus>)> {
        let Some(slot) = target::slot_named(&self.disk) else {
            return Ok((Some(self.disk.clone()), target::member_at(&self.disk, status).cloned()));
        };
        let member = status
            .members
            .iter()
            .find(|member| member.slot == Some(slot) && member.state != MemberState::Replacement);
        let Some(member) = member else {
            let slots =
                status.members.iter().filter_map(|member| member.slot).max().map_or(0, |last| last + 1);
            let text = format!("{} has no slot {slot}: it has {slots}, from 0", status.name);
            return Err(Failure::of(ErrorKind::NotFound, text));
        };
        let disk = (member.state != MemberState::Missing).then(|| PathBuf::from(&member.disk));
        Ok((disk, Some(member.clone())))
    }

    /// The path of the disk that was named, which is `member` if it is one.
    pub(crate) fn path<'a>(&'a self, member: Option<&'a MemberStatus>) -> &'a Path {
        match member {
            Some(member) if target::slot_named(&self.disk).is_some() => Path::new(&member.disk),
            _ => &self.disk,
        }
    }

    /// A member that is not there cannot be named by its path; its slot can.
    pub(crate) fn explain(&self, failure: Failure, status: &Status) -> Failure {
        let empty = status.members.iter().filter(|member| member.state == MemberState::Missing);
        let empty: Vec<String> = empty.filter_map(|member| Some(format!("slot:{}", member.slot?))).collect();
        if failure.kind() != Some(ErrorKind::NotFound) || self.disk.exists() || empty.is_empty() {
            return failure;
        }
        failure.remedy(format!(
            "a member that is not there any more is named by its slot: {}",
            empty.join(" or ")
        ))
    }

    /// The disk, for sentences.
    pub(crate) fn name(&self) -> std::path::Display<'_> {
        self.disk.display()
    }
}

/// A configuration file that lists the LU's disks does not change by itself.
fn mind_the_list(disk: &Path, target: &Target, status: &Status, console: &Console) {
    let Some(file) = target.listed() else { return };
    let (name, file) = (disk.display(), file.display());
    match target::member_at(disk, status) {
        // Doing it twice does no harm; not doing it leaves a disk out that holds data.
        Some(_) => {
            console.remark(format_args!("see to it that {file} lists {name} under '{}'", target.label))
        }
        None => console.remark(format_args!("take {name} off '{}' in {file}", target.label)),
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
    /// The disk's path, for sentences; `None` for an empty slot.
    pub(crate) fn path(&self) -> Option<std::path::Display<'_>> {
        self.disk.as_deref().map(Path::display)
    }

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
            let (disk, lost) = (self.disk.as_deref(), json::lost(&self.held));
            console.document(verb, Report { action, disk, slot, lost, lu })?;
            return admit_losses(&self.held);
        }
        let mut text = format!("{done}; {} is {}\n", self.status.name, show::state(&self.status));
        for member in self.status.members.iter().filter(|member| member.state == MemberState::Rebuilding) {
            let slot = member.slot.unwrap_or_default();
            text += &format!("  {} takes over slot {slot}; its rebuild has begun\n", member.disk);
        }
        text += &show::needs(&self.status);
        console.tell(text.trim_end())?;
        admit_losses(&self.held)
    }
}

/// Fails if data was lost while the LU of `held` was held: redundancy may be back, and yet not all is well. A
/// document tells of it already.
pub(crate) fn admit_losses(held: &Status) -> Outcome {
    let lost: u64 = held.lost.iter().map(|range| range.end - range.start).sum();
    if lost == 0 {
        return Ok(());
    }
    let what = format!("{lost} bytes of {} are lost: they cannot be read until they are written", held.name);
    Err(Failure::of(ErrorKind::Io, what).documented())
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
