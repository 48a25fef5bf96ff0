//! `uraid rebuild`: brings redundancy back, from where the work was left to its end. A spare takes over if a
//! slot is empty. An interrupt leaves the work at a checkpoint, from which the next `rebuild` goes on.

use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use uraid::ErrorKind;
use uraid::lu::{MemberState, Status, Work, WorkKind};

use crate::change::{admit_losses, since};
use crate::console::Console;
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::reached::Reached;
use crate::target::{Target, Writing};
use crate::{json, show, size, work};

/// Rebuild what is missing onto spares, and wait until redundancy is back.
#[derive(Args)]
pub(crate) struct Rebuild {
    /// The LU: a member's path, paths joined by commas, a name or a UUID.
    lu: String,
    #[command(flatten)]
    writing: Writing,
}

/// How it went.
pub(crate) struct Run {
    before: Status,
    /// The LU while it was still held.
    held: Status,
    /// The LU as it is now.
    pub(crate) after: Status,
    /// Bytes of members that were filled or made to agree.
    pub(crate) bytes: u64,
    pub(crate) elapsed: Duration,
    /// Somebody else holds the LU, and goes on with what is left.
    goes_on: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    /// Slots that were not whole before and are now.
    rebuilt_slots: Vec<u16>,
    bytes: u64,
    seconds: f64,
    bytes_per_second: u64,
    /// What could not be computed, in bytes of the LU.
    lost: Vec<json::Lost>,
    lu: json::Lu<'a>,
}

impl Rebuild {
    pub(crate) fn run(self, console: &Console) -> Outcome {
        let interrupt = Interrupt::watch()?;
        let target = Target::resolve(&self.lu)?;
        let (mut lu, before) = Reached::new(&target, &self.writing, console)?;
        // Somebody may have told its holder to pause.
        lu.resume_work()?;
        let run = to_the_end(lu, before, console, &interrupt)?;
        run.tell_events(console);
        run.refuse_unfinished(&interrupt)?;
        run.refuse_empty_slots()?;
        run.report(console)?;
        run.admit_losses()
    }
}

/// Waits for all work and lets go of the LU.
pub(crate) fn to_the_end(
    mut lu: Reached,
    before: Status,
    console: &Console,
    interrupt: &Interrupt,
) -> Outcome<Run> {
    let start = Instant::now();
    let worked = work::wait(&mut lu, before.work, console, interrupt);
    let elapsed = start.elapsed();
    let goes_on = lu.is_held();
    let let_go = lu.status().and_then(|held| Ok((held.clone(), lu.let_go(held)?)));
    let (bytes, (held, after)) = match (worked, let_go) {
        (Err(first), Err(second)) => return Err(first.also(second)),
        (worked, let_go) => (worked?, let_go?),
    };
    let held = since(held, &before);
    Ok(Run { before, after, held, bytes, elapsed, goes_on })
}

impl Run {
    /// What happened meanwhile, on standard error.
    pub(crate) fn tell_events(&self, console: &Console) {
        for event in self.events() {
            console.complain(format_args!("{}: {event}", self.after.name));
        }
    }

    /// What happened meanwhile, in sentences. What was so before or is on the disks is told elsewhere.
    fn events(&self) -> impl Iterator<Item = &String> {
        let known = |warning: &&String| {
            self.before.warnings.contains(warning) || self.after.warnings.contains(warning)
        };
        self.held.warnings.iter().filter(move |warning| !known(warning))
    }

    /// Slots that were not whole before and are now.
    fn rebuilt(&self) -> Vec<u16> {
        let before = slots(&self.before, MemberState::Active);
        slots(&self.after, MemberState::Active).into_iter().filter(|slot| !before.contains(slot)).collect()
    }

    /// Something is left to do only when a signal came.
    pub(crate) fn refuse_unfinished(&self, interrupt: &Interrupt) -> Outcome {
        let waits = self.after.spares > 0 && !slots(&self.after, MemberState::Missing).is_empty();
        let stopped = match interrupt.check() {
            Err(interrupted) if self.after.work.is_some() || waits => interrupted,
            _ if self.after.work.is_some() => Failure::of(ErrorKind::Io, "the work did not come to its end"),
            _ => return Ok(()),
        };
        let stopped = match self.after.work {
            None => stopped.note("the next rebuild has not begun"),
            Some(Work { kind, done_bytes, total_bytes, .. }) => {
                let percent = done_bytes as f64 * 100.0 / total_bytes.max(1) as f64;
                stopped.note(format_args!("the {kind} is on record up to {percent:.1} %"))
            }
        };
        if self.goes_on {
            let argument = self.after.argument();
            return Err(stopped.remedy(format!("its holder goes on; to wait: uraid wait {argument}")));
        }
        Err(stopped.remedy(format!("to go on: uraid rebuild {}", self.after.argument())))
    }

    /// An empty slot is one that no spare could take.
    fn refuse_empty_slots(&self) -> Outcome {
        let empty: Vec<String> =
            slots(&self.after, MemberState::Missing).iter().map(u16::to_string).collect();
        if empty.is_empty() {
            return Ok(());
        }
        let (name, outlook) = (&self.after.name, show::outlook(&self.after));
        let why = if self.after.spares > 0 { ", its spare is too small" } else { "" };
        let what = format!("{name}: slot {} stays empty{why}; the data is {outlook}", empty.join(", "));
        let failure = Failure::of(ErrorKind::Io, what);
        if self.after.spares > 0 {
            let remedy = format!("uraid add {} DISK   # a larger one", self.after.argument());
            return Err(failure.remedy(remedy));
        }
        Err(self.after.next.iter().fold(failure, Failure::remedy))
    }

    fn report(&self, console: &Console) -> Outcome {
        let (rebuilt, name) = (self.rebuilt(), &self.after.name);
        let speed = size::per_second(self.bytes, self.elapsed);
        if console.is_json() {
            return console.document(
                "rebuild",
                Report {
                    rebuilt_slots: rebuilt,
                    bytes: self.bytes,
                    seconds: self.elapsed.as_secs_f64(),
                    bytes_per_second: speed,
                    lost: json::lost(&self.held),
                    lu: json::Lu::from(&self.after),
                },
            );
        }
        let slots: Vec<String> = rebuilt.iter().map(u16::to_string).collect();
        let did = match (&slots[..], self.bytes) {
            ([], 0) => {
                return console.tell(format_args!("nothing to do: {name} is {}", show::state(&self.after)));
            }
            ([], _) if self.before.work.is_some_and(|work| work.kind == WorkKind::Replace) => {
                format!("replaced a disk of {name}")
            }
            ([], _) => format!("resynced {name}"),
            _ => format!("rebuilt slot {} of {name}", slots.join(", ")),
        };
        let (bytes, speed) = (size::bytes(self.bytes), size::bytes(speed));
        console.tell(format_args!("{did}: {bytes} at {speed}/s; it is {}", show::state(&self.after)))
    }

    /// Redundancy is back, and yet not all is well.
    pub(crate) fn admit_losses(&self) -> Outcome {
        admit_losses(&self.held)
    }
}

/// The slots whose member is `state`.
fn slots(status: &Status, state: MemberState) -> Vec<u16> {
    status.members.iter().filter(|member| member.state == state).filter_map(|member| member.slot).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use uraid::Lu;
    use uraid::disk::faulty::{Effect, Fault, Faulty};
    use uraid::disk::{DiskId, OpKind};
    use uraid::units::{DiskLba, Level};

    #[test]
    fn what_cannot_be_computed_is_told_and_fails() {
        let folder = tempfile::tempdir().unwrap();
        let disk = |number: u32| folder.path().join(format!("d{number}"));
        let faults = Arc::new(Mutex::new(None));
        let keep = Arc::clone(&faults);
        let create =
            (0..3).fold(Lu::create("data", Level::Raid5), |create, number| create.disk(disk(number)));
        let create = create.spare(disk(3)).disk_size(16 << 20).through(move |disks| {
            let faulty = Faulty::new(disks, 1);
            *keep.lock().unwrap() = Some(faulty.faults());
            Arc::new(faulty)
        });
        let lu = create.make().unwrap();
        let faults = faults.lock().unwrap().take().unwrap();
        let before = lu.status();
        let data = uraid::lu::inspect(disk(1)).unwrap().superblock.data_offset;
        let sectors = DiskLba(data.0 + 200)..DiskLba(data.0 + 208);
        faults.add(Fault::new(Effect::Fail(5)).on(DiskId(1)).only(OpKind::Read).within(sectors));
        lu.fail(disk(0)).unwrap();

        let console = Console::new(false, true, false);
        let lu = Reached::Here(Box::new(lu));
        let run = to_the_end(lu, before, &console, &Interrupt::watch().unwrap()).unwrap();
        assert_eq!(run.after.state, uraid::lu::State::Healthy, "{:#?}", run.after);
        assert!(run.refuse_empty_slots().is_ok());
        let [lost] = &run.held.lost[..] else { panic!("{:?}", run.held.lost) };
        let told = format!("{} bytes at {} of the LU are lost", lost.end - lost.start, lost.start);
        assert!(run.events().any(|event| *event == told), "{told}: {:?}", run.held.warnings);
        assert_eq!(run.admit_losses().unwrap_err().exit_code(), 1);
    }
}
