//! The simulator: the LU as it is, on disks that do everything disks may do, watched by an oracle that knows what was promised.
//!
//! A [`Scenario`] is made from a seed: a shape, and a few dozen events (requests, faults, power cuts, operators). `world` carries
//! it out in one thread: it steps the keeper, polls the queues and moves the disks in an order that the seed decides, and tells
//! them the time. `disk` is what drives with a volatile cache may do; `governor` keeps faults within what the level promises
//! to survive, or goes beyond on purpose; `oracle` holds the history of every sector; `check` looks at the disks themselves,
//! and at the LU without each of its members. What fails is made short by `shrink`, and printed as text that
//! [`Scenario::parse`] reads: a regression test.
//!
//! Promises: the same scenario gives the same run, on any machine: no clock, no thread, no order of a hash. [`Report::trace`]
//! is a number over all that happened, so that a test can tell.
//!
//! Mistakes can be planted ([`Bug`]) to see whether they would be found. The program `uraid-sim` is the face of all this.

mod check;
mod disk;
mod governor;
mod oracle;
mod scenario;
mod shrink;
mod world;

pub use crate::planted::{Bug, plant};
pub use disk::Struck;
pub use scenario::{Back, Event, Scenario, What};
pub use shrink::shrink;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// A sequence of numbers from a seed: splitmix64.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        let mut random = Random(seed.wrapping_mul(0xd134_2543_de82_ef95) ^ 0x5851_f42d_4c95_7f2d);
        random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below `n`.
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// From `least` to `most`.
    fn range(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A promise that was not kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which sort of promise.
    pub class: &'static str,
    /// What was seen.
    pub what: String,
    /// During which event of the scenario, counted from 0.
    pub event: usize,
}

/// How much was done.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Requests of clients.
    pub requests: u64,
    /// Disk operations.
    pub operations: u64,
    /// Power cuts and kills.
    pub crashes: u64,
    /// Of these, in the middle of an assembly, a resync or a rebuild.
    pub crashes_in_recovery: u64,
    /// Starts that were refused, as they must be.
    pub refusals: u64,
    /// Times the LU was looked at without one of its members.
    pub sweeps: u64,
    /// Faults that struck.
    pub struck: Struck,
}

impl Counts {
    /// Adds those of another run.
    pub fn add(&mut self, other: &Counts) {
        self.requests += other.requests;
        self.operations += other.operations;
        self.crashes += other.crashes;
        self.crashes_in_recovery += other.crashes_in_recovery;
        self.refusals += other.refusals;
        self.sweeps += other.sweeps;
        self.struck.latent += other.struck.latent;
        self.struck.transient += other.struck.transient;
        self.struck.writes += other.struck.writes;
        self.struck.flushes += other.struck.flushes;
        self.struck.superblocks += other.struck.superblocks;
        self.struck.gone += other.struck.gone;
    }
}

/// What a run gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// How much was done.
    pub counts: Counts,
    /// A number over everything that happened.
    pub trace: u64,
    /// The promise that was not kept, if one was not.
    pub violation: Option<Violation>,
}

/// Carries out a scenario. A panic counts as a violation, where panics unwind.
pub fn run(scenario: &Scenario) -> Report {
    run_world(&mut world::World::new(scenario))
}

/// The same, with a line for everything that matters.
pub fn run_with_log(scenario: &Scenario) -> (Report, Vec<String>) {
    let mut world = world::World::new(scenario);
    world.keep_log();
    let report = run_world(&mut world);
    (report, world.take_log())
}

fn run_world(world: &mut world::World) -> Report {
    // The world is looked at afterwards only for its counts.
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    let violation = match result {
        Ok(result) => result.err(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Some(Violation { class: "panic", what: text.unwrap_or_default(), event: world.event() })
        }
    };
    let (counts, trace) = (world.counts(), world.trace());
    match &violation {
        Some(violation) if violation.class == "panic" => world.abandon(),
        _ => world.finish(),
    }
    Report { counts, trace, violation }
}
