//! Waiting for long work under a bar, and counting what it did.

use std::time::Instant;

use indicatif::ProgressBar;
use uraid::Lu;
use uraid::lu::{Work, WorkKind};

use crate::console::Console;
use crate::failure::Outcome;
use crate::interrupt::Interrupt;
use crate::reached::Reached;
use crate::size;

/// What long work is waited for on.
pub(crate) trait Works {
    /// As [`Reached::wait_for_work`].
    fn wait_for_work(&mut self, progress: &mut dyn FnMut(Work) -> bool) -> Outcome;

    /// Work under way or pending.
    fn work_left(&mut self) -> Outcome<Option<Work>>;
}

impl Works for &Lu {
    fn wait_for_work(&mut self, progress: &mut dyn FnMut(Work) -> bool) -> Outcome {
        Ok(Lu::wait_for_work(self, progress)?)
    }

    fn work_left(&mut self) -> Outcome<Option<Work>> {
        Ok(self.status().work)
    }
}

impl Works for Reached {
    fn wait_for_work(&mut self, progress: &mut dyn FnMut(Work) -> bool) -> Outcome {
        Reached::wait_for_work(self, progress)
    }

    fn work_left(&mut self) -> Outcome<Option<Work>> {
        Ok(self.status()?.work)
    }
}

/// A stretch of work of one kind.
struct Stretch {
    kind: WorkKind,
    from: u64,
    now: u64,
    total: u64,
    since: Instant,
    bar: ProgressBar,
}

/// Waits until no resync or rebuild is under way or about to begin. A signal ends the waiting, and if
/// the LU is opened here pauses the work at a checkpoint: [`Works::work_left`] then still has some. Gives
/// back how many bytes of members were filled or made to agree, since `pending`, which is what waited before
/// the LU was opened: its keeper does not wait for us.
///
/// # Errors
/// I/O if the LU can no longer record its state.
pub(crate) fn wait(
    lu: &mut impl Works,
    pending: Option<Work>,
    console: &Console,
    interrupt: &Interrupt,
) -> Outcome<u64> {
    let mut bytes = 0;
    let mut pending = pending;
    let mut under_way: Option<Stretch> = None;
    let waited = lu.wait_for_work(&mut |work| {
        let goes_on = |stretch: &Stretch| stretch.kind == work.kind && stretch.now <= work.done_bytes;
        if !under_way.as_ref().is_some_and(goes_on) {
            // A new one begins where the one before has ended.
            bytes += under_way.take().map_or(0, Stretch::ended);
        }
        under_way.get_or_insert_with(|| Stretch::begin(work, pending.take(), console)).go_on(work);
        interrupt.caught().is_none()
    });
    if let Some(stretch) = under_way {
        let is_left = lu.work_left()?.is_some_and(|work| work.kind == stretch.kind);
        bytes += if is_left { stretch.paused() } else { stretch.ended() };
    }
    waited?;
    Ok(bytes)
}

impl Stretch {
    /// What did not wait already has begun at the start.
    fn begin(work: Work, pending: Option<Work>, console: &Console) -> Stretch {
        let Work { kind, total_bytes: total, .. } = work;
        let goes_on = |pending: &Work| pending.kind == kind && pending.done_bytes <= work.done_bytes;
        let from = pending.filter(goes_on).map_or(0, |pending| pending.done_bytes);
        let bar = console.work_bar(&kind.to_string(), total);
        Stretch { kind, from, now: from, total, since: Instant::now(), bar }
    }

    fn go_on(&mut self, work: Work) {
        self.now = work.done_bytes;
        let speed = size::bytes(size::per_second(self.now - self.from, self.since.elapsed()));
        let rest = work.eta_seconds.map_or_else(String::new, size::duration);
        self.bar.set_position(self.now);
        self.bar.set_message(format!("{speed}/s  {rest}"));
    }

    /// Bytes done, if the work came to its end after it was seen last.
    fn ended(self) -> u64 {
        self.bar.finish_and_clear();
        self.total - self.from
    }

    /// Bytes done, if it did not.
    fn paused(self) -> u64 {
        self.bar.finish_and_clear();
        self.now - self.from
    }
}
