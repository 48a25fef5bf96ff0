//! A rebuild as a load: how fast a lost disk is whole again, and what clients notice of that meanwhile.
//!
//! A disk of the LU is failed and added anew, so that it is a spare, takes over its old slot, and is rebuilt from
//! its first byte to its last. Measured is from there until the LU says that nothing is left to do: superblocks,
//! flushes and checkpoints are part of it.

use std::time::Instant;

use uraid::Lu;

use super::load::{Driver, Figures, Load, cpu_time};
use super::report::Price;
use super::{Bench, Pattern, Work};
use crate::create::Policy;
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;

/// Figures count a MiB as a request.
const REQUEST: u64 = 1 << 20;

/// A load of random reads on the LU, without a rebuild and while one is under way.
pub(super) struct Beside {
    pub(super) calm: Figures,
    pub(super) rebuilding: Figures,
}

/// # Errors
/// Usage for an LU of which no whole disk would be rebuilt.
pub(super) fn refuse(bench: &Bench) -> Outcome {
    let wrong = |text: &str| Err(Failure::usage(text));
    if bench.lu.is_some() {
        return wrong("--rw rebuild fails disks, and does not do that to an LU that exists");
    }
    // md numbers the levels without redundancy 0 and below.
    if bench.shape.degraded || bench.shape.level.md_number() <= 0 {
        return wrong("--rw rebuild needs an LU that can lose a disk");
    }
    if matches!(bench.shape.policy, Policy::Bitmap) {
        return wrong(
            "with --policy bitmap only what a disk missed is copied; --rw rebuild is of a whole disk",
        );
    }
    Ok(())
}

/// What a byte of the rebuilt disk costs the others and itself.
pub(super) fn price(lu: &Lu) -> Outcome<Price> {
    let cost = lu.rebuild_cost()?;
    Ok(Price { read: cost.read.0 as f64 / cost.written.0 as f64, written: 1.0 })
}

/// Loses a disk and waits until it is rebuilt.
pub(super) fn run(lu: &Lu, interrupt: &Interrupt) -> Outcome<Figures> {
    let disk = lose(lu)?;
    let (start, cpu) = (Instant::now(), cpu_time());
    lu.add(&disk, true)?;
    finish(lu, interrupt)?;
    let (elapsed, cpu) = (start.elapsed(), cpu_time().saturating_sub(cpu));
    let bytes = lu.extents().first().map_or(0, |extent| extent.length.bytes());
    Ok(Figures { requests: bytes / REQUEST, bytes, elapsed, cpu, latency: None })
}

/// Reads without a rebuild, then with one.
pub(super) fn beside(lu: &Lu, work: &Work, interrupt: &Interrupt) -> Outcome<Beside> {
    let reads =
        Work { rw: Pattern::Randread, bs: 4096.max(lu.block_size().into()), depth: 1, ..work.clone() };
    let load = Load::new(&reads, lu.size())?;
    let calm = load.run(&Driver::Lu(lu), interrupt)?;
    let disk = lose(lu)?;
    lu.add(&disk, true)?;
    let rebuilding = load.while_busy().run(&Driver::Lu(lu), interrupt)?;
    finish(lu, interrupt)?;
    Ok(Beside { calm, rebuilding })
}

/// Fails the disk in the first slot; its name.
fn lose(lu: &Lu) -> Outcome<String> {
    let first = lu.status().members.into_iter().find(|member| member.slot.is_some());
    let disk = first.map(|member| member.disk).unwrap_or_default();
    lu.fail(&disk)?;
    Ok(disk)
}

fn finish(lu: &Lu, interrupt: &Interrupt) -> Outcome {
    lu.wait_for_work(&mut |_| interrupt.caught().is_none())?;
    interrupt.check()?;
    match lu.status().work {
        None => Ok(()),
        Some(_) => Err(Failure::of(uraid::ErrorKind::Io, "the rebuild did not get to its end")),
    }
}
