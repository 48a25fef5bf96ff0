//! `uraid bench`: how fast an LU is beside its own disks.
//!
//! Each round measures the raw members first, then the LU, then the raw members again, all three through the
//! same ring code, with the same block size and depth. What counts is the ratio: the LU's speed over the limit
//! that its level sets, given what the disks did in the same round. Machines are noisy; rounds are therefore
//! interleaved, and medians are shown.
//!
//! An LU that exists is only read, unless its name is given once more: a bench that writes destroys data. Its
//! members are never written to directly.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use uraid::units::Level;

use self::load::{Driver, Load};
use self::report::{RawFigures, Report, Round};
use self::stage::Stage;
use crate::console::Console;
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::size;

mod load;
mod rebuild;
mod report;
mod stage;

/// Requests whose disk operations are counted, in a run of their own that is not timed.
const COUNTED: u64 = 2048;

/// Measure an LU against its own disks.
#[derive(Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["lu", "memory", "disks_in", "on"]))]
pub(crate) struct Bench {
    /// The LU: a member's path, paths joined by commas, a name or a UUID.
    lu: Option<String>,
    /// Make an LU of disks in memory: what is measured is uraid alone.
    #[arg(long)]
    memory: bool,
    /// Make an LU of files in this folder, and remove them at the end.
    #[arg(long, value_name = "DIR")]
    disks_in: Option<PathBuf>,
    /// Make an LU of these disks, and lose what is on them.
    #[arg(long, value_name = "DISK", value_delimiter = ',', num_args = 1..)]
    on: Vec<PathBuf>,
    #[command(flatten)]
    shape: LuShape,
    #[command(flatten)]
    work: Work,
    /// The LU's name: lose what is on it, for loads that write to an LU that exists. With --on and disks that
    /// are not empty: bench.
    #[arg(long, value_name = "NAME")]
    confirm: Option<String>,
}

/// The LU that the bench makes.
#[derive(Args)]
pub(crate) struct LuShape {
    /// 0, 1, 4, 5, 6, 10 or linear.
    #[arg(short, long, value_parser = crate::create::parse_level, default_value = "5")]
    level: Level,
    /// Its disks.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    disks: u16,
    /// The size of each disk.
    #[arg(long, value_name = "BYTES", value_parser = size::parse, default_value = "256M")]
    disk_size: u64,
    /// Bytes in a chunk.
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    chunk: Option<u64>,
    /// How data is laid out.
    #[arg(long)]
    layout: Option<String>,
    /// How redundancy is brought back after a crash; none measures the level alone.
    #[arg(long, value_enum, default_value = "none")]
    policy: crate::create::Policy,
    /// Without its first disk.
    #[arg(long)]
    degraded: bool,
    /// Have a thread of the kernel's take what each queue submits, which sleeps after TIME without work: 10ms, 1s.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    sqpoll: Option<Duration>,
    /// The operations of its own queues are counted, too: a rebuild is done by one of these.
    #[arg(skip)]
    watched: bool,
}

/// What is done to it.
#[derive(Args, Clone)]
pub(crate) struct Work {
    /// What to do.
    #[arg(long, value_enum, default_value = "randread")]
    rw: Pattern,
    /// Bytes in a request; with --rw rebuild of the raw disks only, and 64K if not said.
    #[arg(
        long,
        value_name = "BYTES",
        value_parser = size::parse,
        default_value = "4K",
        default_value_if("rw", "rebuild", "64K")
    )]
    bs: u64,
    /// Requests in flight, on each thread.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    depth: u16,
    /// Threads, each with a queue of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// How long each of the three measurements of a round takes: 2s, 500ms.
    #[arg(long, value_name = "TIME", value_parser = parse_time, default_value = "1s")]
    runtime: Duration,
    /// How many rounds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Bytes of the LU to use, from its start; all if not said.
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    size: Option<u64>,
}

/// The loads, by fio's names.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(crate) enum Pattern {
    /// Read one after the other.
    Read,
    /// Write one after the other.
    Write,
    /// Read anywhere.
    Randread,
    /// Write anywhere.
    Randwrite,
    /// As many reads as writes, anywhere.
    Randrw,
    /// Lose a disk and rebuild all of it, and read anywhere meanwhile (4 KiB, one at a time, in runs of their
    /// own). A request is a MiB of the disk then.
    Rebuild,
}

impl Pattern {
    fn reads(self) -> bool {
        !matches!(self, Pattern::Write | Pattern::Randwrite)
    }

    fn writes(self) -> bool {
        !matches!(self, Pattern::Read | Pattern::Randread)
    }

    fn is_random(self) -> bool {
        matches!(self, Pattern::Randread | Pattern::Randwrite | Pattern::Randrw)
    }

    /// The same, but only reading or only writing.
    fn only(self, write: bool) -> Pattern {
        match (self.is_random(), write) {
            (true, false) => Pattern::Randread,
            (true, true) => Pattern::Randwrite,
            (false, false) => Pattern::Read,
            (false, true) => Pattern::Write,
        }
    }
}

impl Bench {
    pub(crate) fn run(mut self, console: &Console) -> Outcome {
        let interrupt = Interrupt::watch()?;
        if self.work.bs == 0 || !self.work.bs.is_multiple_of(512) || self.work.bs > 32 << 20 {
            return Err(Failure::usage("--bs must be a multiple of 512 bytes, at most 32 MiB"));
        }
        if self.work.rw == Pattern::Rebuild {
            rebuild::refuse(&self)?;
            self.shape.watched = true;
        }
        let stage = self.stage(console)?;
        let measured = self.measure(&stage, console, &interrupt);
        let cleared = stage.clear();
        let report = measured?;
        cleared?;
        report.show(console)
    }

    fn stage(&self, console: &Console) -> Outcome<Stage> {
        match (&self.lu, &self.disks_in) {
            (Some(lu), _) => {
                let writes = self.work.rw.writes();
                Stage::open(lu, writes, self.confirm.as_deref(), console)
            }
            (None, Some(folder)) => Stage::in_folder(folder, &self.shape),
            (None, None) if !self.on.is_empty() => Stage::on(&self.on, &self.shape, self.confirm.as_deref()),
            (None, None) => Stage::in_memory(&self.shape),
        }
    }

    fn measure(&self, stage: &Stage, console: &Console, interrupt: &Interrupt) -> Outcome<Report> {
        let size = self.work.size.unwrap_or(u64::MAX).min(stage.lu().size());
        let load = Load::new(&self.work, size)?;
        let rebuilds = self.work.rw == Pattern::Rebuild;
        let price = if rebuilds { rebuild::price(stage.lu())? } else { report::price(stage.lu(), &load)? };
        if stage.is_ours() {
            stage.prefill(interrupt)?;
        }
        let raw = Driver::Raw { backend: stage.backend(), extents: stage.lu().extents(), share: size };
        let lu = Driver::Lu(stage.lu());
        // What the limit is made of: a write to a parity level also reads.
        let raw_writes = stage.is_ours() && price.written > 0.0;
        let raw_reads = price.read > 0.0;
        let measure_raw = || -> Outcome<RawFigures> {
            let read = raw_reads.then(|| load.only(false).run(&raw, interrupt)).transpose()?;
            let write = raw_writes.then(|| load.only(true).run(&raw, interrupt)).transpose()?;
            Ok(RawFigures { read, write })
        };
        let counts = stage.count(|| match rebuilds {
            true => rebuild::run(stage.lu(), interrupt),
            false => load.for_requests(COUNTED).run(&lu, interrupt),
        })?;
        let mut rounds = Vec::new();
        for number in 1..=self.work.rounds {
            let before = measure_raw()?;
            let figures = match rebuilds {
                true => rebuild::run(stage.lu(), interrupt)?,
                false => load.run(&lu, interrupt)?,
            };
            let after = measure_raw()?;
            let beside = rebuilds.then(|| rebuild::beside(stage.lu(), &self.work, interrupt)).transpose()?;
            let round = Round { raw: [before, after], lu: figures, beside };
            console.remark(format_args!("round {number}: {}", round.told(&price)));
            rounds.push(round);
        }
        Ok(Report {
            status: stage.lu().status(),
            kind: stage.kind(),
            work: self.work.clone(),
            price,
            counts,
            rounds,
        })
    }
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is no time, like 2s or 500ms");
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let time = match unit {
        "ms" => Duration::from_millis(number),
        "" | "s" => Duration::from_secs(number),
        "m" | "min" => Duration::from_secs(number.saturating_mul(60)),
        _ => return Err(wrong()),
    };
    if time.is_zero() { Err("a measurement takes more than no time".into()) } else { Ok(time) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(parse_time("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_time("2"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_time("800ms"), Ok(Duration::from_millis(800)));
        for wrong in ["", "s", "0.8", "-1s", "0", "2h", "0ms"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_mixed_load_is_made_of_two() {
        assert_eq!(Pattern::Randrw.only(true), Pattern::Randwrite);
        assert_eq!(Pattern::Randrw.only(false), Pattern::Randread);
        assert_eq!(Pattern::Write.only(false), Pattern::Read);
        assert!(Pattern::Randrw.reads() && Pattern::Randrw.writes() && Pattern::Randrw.is_random());
    }
}
