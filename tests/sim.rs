//! The simulator as a test: seeds that must pass, mistakes that must be found, runs that must repeat, and every scenario that
//! once broke a promise.
//!
//! Mistakes are planted in a process of their own, the program `uraid-sim`, so that they are in nobody else's way.

use std::process::Command;

use uraid::sim::{Scenario, run};

const PROGRAM: &str = env!("CARGO_BIN_EXE_uraid-sim");

/// Scenarios that broke a promise, by name; each says what it found.
const REGRESSIONS: [(&str, &str); 23] = [
    ("given up on one disk only", include_str!("sim/given_up_on_one_disk_only.txt")),
    ("two rounds cut short", include_str!("sim/two_rounds_cut_short.txt")),
    ("ahead by a spare, then failed", include_str!("sim/ahead_then_failed.txt")),
    ("rebuilt but not recorded", include_str!("sim/rebuilt_but_not_recorded.txt")),
    ("rebuilt in a round that failed", include_str!("sim/rebuilt_in_a_round_that_failed.txt")),
    ("repaired, then another failed", include_str!("sim/repaired_then_another_failed.txt")),
    ("removed by number", include_str!("sim/removed_by_number.txt")),
    ("fails at the start", include_str!("sim/fails_at_the_start.txt")),
    ("flush failed for another", include_str!("sim/flush_failed_for_another.txt")),
    ("planned before all was in sync, written after", include_str!("sim/planned_before_in_sync.txt")),
    ("replacing cut short", include_str!("sim/replacing_cut_short.txt")),
    ("replacement not resynced", include_str!("sim/replacement_not_resynced.txt")),
    ("swap cut short", include_str!("sim/swap_cut_short.txt")),
    ("swapped twice", include_str!("sim/swapped_twice.txt")),
    ("log left behind", include_str!("sim/log_left_behind.txt")),
    ("replacement and log", include_str!("sim/replacement_and_log.txt")),
    ("absent and back", include_str!("sim/absent_and_back.txt")),
    ("flush answered early", include_str!("sim/flush_answered_early.txt")),
    ("replacement's log without a start", include_str!("sim/replacement_log_without_a_start.txt")),
    ("rebuilt, then unreadable", include_str!("sim/rebuilt_then_unreadable.txt")),
    ("log unreadable, then failed", include_str!("sim/log_unreadable_then_failed.txt")),
    ("log unreadable twice", include_str!("sim/log_unreadable_twice.txt")),
    ("log read now and then", include_str!("sim/log_read_now_and_then.txt")),
];

#[test]
fn what_was_once_found_stays_mended() {
    for (name, text) in REGRESSIONS {
        let report = run(&Scenario::parse(text).unwrap());
        assert_eq!(report.violation, None, "{name}");
    }
}

/// Runs the program; its output, and whether it found all in order.
fn uraid_sim(args: &[&str]) -> (String, Option<i32>) {
    let output = Command::new(PROGRAM).args(args).output().unwrap();
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code())
}

/// The number in front of `what` in the program's summary.
fn count(summary: &str, what: &str) -> u64 {
    let words: Vec<&str> =
        summary.split([' ', ',', ';', '(', ')', ':']).filter(|word| !word.is_empty()).collect();
    let place =
        words.iter().position(|word| *word == what).unwrap_or_else(|| panic!("no {what} in {summary}"));
    words[place - 1].parse().unwrap()
}

#[test]
fn seeds_pass() {
    let (text, code) = uraid_sim(&["0", "--seeds", SEEDS, "--jobs", "2"]);
    assert_eq!(code, Some(0), "{text}");
    let summary = text.lines().next().unwrap();
    assert!(count(summary, "crashes") >= 50_000, "{summary}");
    assert!(count(summary, "in") * 10 >= count(summary, "crashes"), "crashes in recovery: {summary}");
    for fault in ["unreadable", "transient", "writes", "flushes", "superblocks", "on"] {
        assert!(count(summary, fault) > 0, "every sort of fault strikes, {fault} too: {summary}");
    }
}

/// Seeds in the ordinary test run.
const SEEDS: &str = "16000";

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..30 {
        let scenario = Scenario::generate(seed, None);
        assert_eq!(run(&scenario), run(&scenario), "seed {seed}");
    }
    // In other processes too.
    let trace = |jobs: &str| {
        let (text, _) = uraid_sim(&["100", "--seeds", "20", "--jobs", jobs]);
        text.lines().find(|line| line.starts_with("trace")).map(str::to_owned).unwrap()
    };
    assert_eq!(trace("1"), trace("2"));
}

#[test]
fn planted_mistakes_are_found() {
    for bug in PLANTED {
        let (text, code) = uraid_sim(&["1", "--planted", bug, "--minutes", "5", "--runs", "0"]);
        assert_eq!(code, Some(1), "{bug} was not found: {text}");
    }
}

/// Those that are found soonest; `uraid-sim --planted list` names all.
const PLANTED: [&str; 7] = [
    "flush-skips-idle",
    "rebuild-misses-write",
    "modify-unsynced",
    "clean-before-flush",
    "log-not-fua",
    "log-reused-early",
    "bit-set-late",
];

#[test]
fn a_wrong_call_says_so() {
    let output = Command::new(PROGRAM).arg("--planted").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("usage"));
}

/// What the fuzz target `scenario` does, on a few inputs.
#[test]
fn any_bytes_are_a_scenario() {
    for seed in 0u64..300 {
        let word = |i: u64| (seed * 1000 + i).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        let bytes: Vec<u8> = (0..seed % 90).flat_map(word).collect();
        let scenario = Scenario::from_bytes(&bytes);
        assert_eq!(run(&scenario).violation, None, "{scenario}");
    }
    assert_eq!(run(&Scenario::from_bytes(&[])).violation, None);
}
