//! Makes a failing scenario short: leaves out events, then simplifies those that are left, as long as the same sort of promise
//! is broken.

use super::{Back, Event, Report, Scenario, What, run};

/// The shortest scenario found within `runs` runs that still breaks a promise of the same sort, and its report.
pub fn shrink(scenario: &Scenario, report: &Report, runs: u32) -> (Scenario, Report) {
    let Some(violation) = &report.violation else { return (scenario.clone(), report.clone()) };
    let class = violation.class;
    let mut best = (scenario.clone(), report.clone());
    let mut left = runs;
    // Nothing behind the event in which it failed matters.
    let cut = violation.event + 1;
    best.0.events.truncate(cut.max(1));
    let mut size = best.0.events.len().div_ceil(2);
    loop {
        let mut at = 0;
        let mut smaller = false;
        while at < best.0.events.len() && left > 0 {
            let mut candidate = best.0.clone();
            let end = (at + size).min(candidate.events.len());
            candidate.events.drain(at..end);
            match attempt(&candidate, class, &mut left) {
                Some(report) => {
                    best = (candidate, report);
                    smaller = true;
                }
                None => at += size,
            }
        }
        if left == 0 || (size == 1 && !smaller) {
            break;
        }
        size = (size / 2).max(1);
    }
    simplify(&mut best, class, &mut left);
    best
}

fn attempt(candidate: &Scenario, class: &str, left: &mut u32) -> Option<Report> {
    *left -= 1;
    let report = run(candidate);
    report.violation.as_ref().is_some_and(|violation| violation.class == class).then_some(report)
}

/// Makes single events plainer.
fn simplify(best: &mut (Scenario, Report), class: &str, left: &mut u32) {
    for index in 0..best.0.events.len() {
        for plainer in plainer(best.0.events[index].what) {
            if *left == 0 {
                return;
            }
            let mut candidate = best.0.clone();
            candidate.events[index] = Event { what: plainer, ..candidate.events[index] };
            if let Some(report) = attempt(&candidate, class, left) {
                *best = (candidate, report);
            }
        }
    }
}

fn plainer(what: What) -> Vec<What> {
    let back = |back: Back| [Back::default(), Back { again: 0, ..back }, Back { away: 0, ..back }];
    let all = match what {
        What::Write(queue, lba, sectors, true) => vec![What::Write(queue, lba, sectors, false)],
        What::Write(queue, lba, sectors, fua) if sectors > 8 => vec![What::Write(queue, lba, 8, fua)],
        What::Zero(queue, lba, sectors) if sectors > 8 => vec![What::Zero(queue, lba, 8)],
        What::Read(queue, lba, sectors) if sectors > 8 => vec![What::Read(queue, lba, 8)],
        What::Latent(slot, at, sectors) if sectors > 1 => vec![What::Latent(slot, at, 1)],
        What::Cut(after, b) => back(b).into_iter().map(|b| What::Cut(after, b)).collect(),
        What::Kill(b) => back(b).into_iter().map(What::Kill).collect(),
        What::Stop(b) => back(b).into_iter().map(What::Stop).collect(),
        _ => Vec::new(),
    };
    all.into_iter().filter(|plainer| *plainer != what).collect()
}
