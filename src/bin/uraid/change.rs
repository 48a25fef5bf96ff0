//! What the verbs that change an LU's members share: reaching it, letting the change be made, letting go of
//! it clean, and saying what became of the LU and what to type next.
//!
//! A change is on the disks when it returns. A spare that takes over in consequence has begun then, on
//! record, and no more: filling it takes its time. A holder goes on with it; where there is none, `uraid
//! rebuild` is for that.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use uraid::ErrorKind;
use uraid::lu::{self, Change, DiskName, MemberState, MemberStatus, Status};

use crate::console::Console;
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::reached::Reached;
use crate::target::{self, Target, Writing};
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
    /// The LU as it is now.
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
    /// Reaches the LU and has `change` made, which is told how. However that ends, an LU that was opened for
    /// it is stopped clean.
    pub(crate) fn carry_out(
        &self,
        console: &Console,
        change: impl FnOnce(&mut Reached) -> Outcome<lu::Changed>,
    ) -> Outcome<Changed> {
        let target = Target::resolve(&self.lu)?;
        let (mut lu, earlier) = Reached::new(&target, &self.writing, console)?;
        let changed = change(&mut lu).and_then(|changed| {
            let_a_spare_begin(&mut lu)?;
            Ok(changed)
        });
        let held = lu.status();
        let let_go = held.and_then(|held| Ok((held.clone(), lu.let_go(held)?)));
        let (changed, held, status) = match (changed, let_go) {
            (Err(first), Err(second)) => return Err(first.also(second)),
            (changed, let_go) => {
                let changed = changed?;
                let (held, status) = let_go?;
                (changed, since(held, &earlier), status)
            }
        };
        if let Some(disk) = &changed.disk {
            mind_the_list(disk, &target, &status, console);
        }
        Ok(Changed { before: changed.before, status, held, disk: changed.disk })
    }

    /// Has `change`, which is about a member, made at once: a signal waits for the other half.
    pub(crate) fn carry_out_on_member(
        &self,
        console: &Console,
        change: fn(DiskName) -> Change,
    ) -> Outcome<Changed> {
        self.carry_out(console, |lu| {
            Interrupt::watch()?;
            let changed = lu.carry_out(&change(target::disk_named(&self.disk)));
            changed.map_err(|error| match lu.status() {
                Ok(status) => self.explain(error.into(), &status),
                Err(_) => error.into(),
            })
        })
    }

    /// A member that is not there cannot be named by its path; its slot can.
    fn explain(&self, failure: Failure, status: &Status) -> Failure {
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
    /// Makes a change that may write over something: without leave to if that was not confirmed, asking on a
    /// terminal.
    pub(crate) fn carry_out(
        &self,
        lu: &mut Reached,
        console: &Console,
        change: impl Fn(bool) -> Change,
    ) -> Outcome<lu::Changed> {
        let name = lu.name().to_owned();
        let confirmed = match &self.confirm {
            Some(confirmed) if *confirmed != name => {
                return Err(Failure::usage(format!("--confirm names '{confirmed}', not '{name}'")));
            }
            confirm => confirm.is_some(),
        };
        let may_ask = !confirmed && console.can_ask();
        if !may_ask {
            // Ctrl-C at a question simply ends the program; else half a change is worth nothing.
            Interrupt::watch()?;
        }
        match lu.carry_out(&change(confirmed)) {
            Err(error)
                if error.kind() == ErrorKind::Refused
                    && may_ask
                    && error.to_string().contains("--confirm") =>
            {
                console.complain("this would be lost:");
                console.further(error);
                if console.ask(format_args!("Type the LU's name ({name}) to lose it:")) != name {
                    return Err(Failure::of(ErrorKind::Refused, "not confirmed; nothing was changed"));
                }
                Interrupt::watch()?;
                Ok(lu.carry_out(&change(true))?)
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

/// `held` with those losses only that are new since it was `earlier`: a holder remembers the old ones, too.
pub(crate) fn since(mut held: Status, earlier: &Status) -> Status {
    held.lost.retain(|range| !earlier.lost.contains(range));
    held
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

/// Where a slot is empty and a spare is there, the spare has taken over, on record. An LU that is opened for
/// the change alone pauses its rebuild then.
fn let_a_spare_begin(lu: &mut Reached) -> Outcome {
    if lu.is_held() { Ok(()) } else { lu.wait_for_work(&mut |_| false) }
}
