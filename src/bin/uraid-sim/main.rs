//! `uraid-sim`: runs the simulator over many seeds, and shows what it found.
//!
//! Prints running totals to stderr and, for a promise that was not kept, the seed and the shortest scenario that still breaks
//! it. Exits with 1 then, with 2 if it was called wrongly, else with 0.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that talks to people")]

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use uraid::sim::{Bug, Counts, Report, Scenario, plant, run, run_with_log, shrink};
use uraid::units::Level;

const USAGE: &str = "\
usage: uraid-sim [SEED] [--seeds N] [--minutes M] [--jobs J] [--planted BUG] [--level L] [--replay FILE] [--verbose]
  SEED       the first seed (0); without --seeds and --minutes just this one
  --seeds    how many seeds
  --minutes  stop after so many minutes
  --jobs     threads, each with seeds of its own (1)
  --planted  plant a mistake; it has to be found (`list` names them)
  --level    this level only: raid5
  --replay   the scenario in FILE instead of a seed's
  --runs     runs to spend on making a failure short (600)";

/// What was asked for.
struct Asked {
    first: u64,
    seeds: u64,
    minutes: Option<f64>,
    jobs: u64,
    planted: Option<Bug>,
    level: Option<Level>,
    replay: Option<String>,
    runs: u32,
    verbose: bool,
}

fn main() -> ExitCode {
    let asked = match parse(std::env::args().skip(1)) {
        Ok(Some(asked)) => asked,
        Ok(None) => return ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("uraid-sim: {text}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    plant(asked.planted);
    // A panic is a finding like any other: it is told with its seed, once.
    std::panic::set_hook(Box::new(|_| {}));
    match &asked.replay {
        Some(path) => replay(path, &asked),
        None => hunt(&asked),
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Asked>, String> {
    let mut asked = Asked {
        first: 0,
        seeds: 1,
        minutes: None,
        jobs: 1,
        planted: None,
        level: None,
        replay: None,
        runs: 600,
        verbose: false,
    };
    let mut seeds = None;
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--seeds" => seeds = Some(number(&value()?)?),
            "--minutes" => asked.minutes = Some(number(&value()?)?),
            "--jobs" => asked.jobs = number::<u64>(&value()?)?.max(1),
            "--runs" => asked.runs = number(&value()?)?,
            "--replay" => asked.replay = Some(value()?),
            "--verbose" => asked.verbose = true,
            "--level" => {
                let name = value()?;
                let level = Level::ALL.into_iter().find(|level| level.to_string() == name);
                asked.level = Some(level.ok_or(format!("no level {name}"))?);
            }
            "--planted" => {
                let name = value()?;
                if name == "list" {
                    Bug::ALL.iter().for_each(|bug| println!("{}", bug.name()));
                    return Ok(None);
                }
                let bug = Bug::ALL.into_iter().find(|bug| bug.name() == name);
                asked.planted = Some(bug.ok_or(format!("no planted bug {name}"))?);
            }
            "--help" => {
                println!("{USAGE}");
                return Ok(None);
            }
            seed => asked.first = number(seed)?,
        }
    }
    let endless = asked.minutes.is_some();
    asked.seeds = seeds.unwrap_or(if endless { u64::MAX - asked.first } else { 1 });
    Ok(Some(asked))
}

fn number<T: std::str::FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("{word} is no number that could be meant here"))
}

fn replay(path: &str, asked: &Asked) -> ExitCode {
    let scenario = std::fs::read_to_string(path)
        .map_err(|error| format!("{path}: {error}"))
        .and_then(|text| Scenario::parse(&text).map_err(|error| error.to_string()));
    match scenario {
        Ok(scenario) => {
            let (report, log) = run_with_log(&scenario);
            log.iter().filter(|_| asked.verbose).for_each(|line| println!("{line}"));
            println!("trace {:016x} {:?}", report.trace, report.counts);
            tell(None, &scenario, &report, asked)
        }
        Err(text) => {
            eprintln!("uraid-sim: {text}");
            ExitCode::from(2)
        }
    }
}

/// Runs seeds until one fails, or enough are run.
fn hunt(asked: &Asked) -> ExitCode {
    let begun = Instant::now();
    let end = asked.minutes.map(|minutes| begun + Duration::from_secs_f64(minutes * 60.0));
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let totals = Mutex::new((0u64, Counts::default(), 0u64, Instant::now()));
    let found = Mutex::new(None::<(u64, Scenario, Report)>);
    let work = || {
        while !stop.load(SeqCst) && end.is_none_or(|end| Instant::now() < end) {
            let index = next.fetch_add(1, SeqCst);
            if index >= asked.seeds {
                return;
            }
            let seed = asked.first + index;
            let scenario = Scenario::generate(seed, asked.level);
            let report = run(&scenario);
            let Ok(mut totals) = totals.lock() else { return };
            totals.0 += 1;
            totals.1.add(&report.counts);
            // Whatever the order in which threads come to their ends.
            totals.2 = totals.2.wrapping_add(report.trace.wrapping_mul(seed | 1));
            if totals.3.elapsed() > Duration::from_secs(10) {
                totals.3 = Instant::now();
                eprintln!("{}", summary(totals.0, &totals.1, begun, asked.jobs));
            }
            if asked.verbose {
                eprintln!("seed {seed}: trace {:016x} {:?}", report.trace, report.violation);
            }
            if report.violation.is_some() {
                stop.store(true, SeqCst);
                if let Ok(mut found) = found.lock() {
                    found.get_or_insert((seed, scenario, report));
                }
            }
        }
    };
    std::thread::scope(|scope| (0..asked.jobs).for_each(|_| drop(scope.spawn(work))));
    let totals = totals.into_inner().unwrap_or_else(|totals| totals.into_inner());
    println!("{}", summary(totals.0, &totals.1, begun, asked.jobs));
    println!("trace of all seeds {:016x}", totals.2);
    match found.into_inner().unwrap_or_default() {
        Some((seed, scenario, report)) => tell(Some(seed), &scenario, &report, asked),
        None => ExitCode::SUCCESS,
    }
}

fn summary(seeds: u64, counts: &Counts, begun: Instant, jobs: u64) -> String {
    let struck = &counts.struck;
    format!(
        "{seeds} seeds, {} requests, {} disk operations, {} crashes ({} in recovery), {} refusals, {} sweeps; faults: {} \
         unreadable, {} transient, {} writes, {} flushes, {} superblocks, {} on absent disks; {:.1} core-minutes",
        counts.requests,
        counts.operations,
        counts.crashes,
        counts.crashes_in_recovery,
        counts.refusals,
        counts.sweeps,
        struck.latent,
        struck.transient,
        struck.writes,
        struck.flushes,
        struck.superblocks,
        struck.gone,
        begun.elapsed().as_secs_f64() * jobs as f64 / 60.0
    )
}

/// Tells what was found, made short.
fn tell(seed: Option<u64>, scenario: &Scenario, report: &Report, asked: &Asked) -> ExitCode {
    let Some(violation) = &report.violation else { return ExitCode::SUCCESS };
    let name = seed.map_or("the scenario".into(), |seed| format!("seed {seed}"));
    println!(
        "{name} breaks a promise ({}), in event {}: {}",
        violation.class, violation.event, violation.what
    );
    if asked.runs > 0 {
        let (short, report) = shrink(scenario, report, asked.runs);
        let what = report.violation.map(|violation| violation.what).unwrap_or_default();
        println!("# {} of {} events are enough: {what}", short.events.len(), scenario.events.len());
        print!("{short}");
    }
    ExitCode::FAILURE
}
