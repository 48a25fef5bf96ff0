//! `uraid list`: the LUs of the configuration file and those that are held, a line each.

use clap::Args;
use uraid::lu::Status;

use crate::configuration::Config;
use crate::console::Console;
use crate::failure::{Failure, Outcome};
use crate::target::Leave;
use crate::{holder, json, show};

/// List the LUs of the configuration file, and those that are held.
#[derive(Args)]
pub(crate) struct List {}

impl List {
    pub(crate) fn run(self, console: &Console) -> Outcome {
        all_of(&Config::load()?, "list", console, show::lines)
    }
}

/// Looks at all LUs of `config`, and at those that are held besides, and prints them. One that could not be
/// looked at does not hide the others.
pub(crate) fn all_of(
    config: &Config,
    verb: &str,
    console: &Console,
    show: impl Fn(&[Status]) -> String,
) -> Outcome {
    let mut statuses = Vec::new();
    let mut failures: Vec<(String, Failure)> = Vec::new();
    for lu in config.lus().iter().map(|listed| &listed.target) {
        match lu.look_live(&Leave::default()) {
            Ok(status) => statuses.push(status),
            Err(failure) => failures.push((lu.label.clone(), failure)),
        }
    }
    for held in holder::all() {
        // A copy of an LU has its UUID, too: what tells them apart are their disks.
        let shown = |status: &Status| {
            let disks = |status: &Status| status.members.iter().map(|m| m.disk.clone()).collect::<Vec<_>>();
            status.uuid == held.uuid && disks(status) == disks(&held)
        };
        if !statuses.iter().any(shown) {
            statuses.push(held);
        }
    }
    if config.lus().is_empty() && statuses.is_empty() {
        console.remark(format_args!("no LUs in {}", config.path().display()));
    }
    show_all(verb, statuses, failures, console, show)
}

/// Prints LUs as `show` has it or as the document of `verb`. What could not be looked at is told of at the
/// end and decides the exit code.
pub(crate) fn show_all(
    verb: &str,
    statuses: Vec<Status>,
    failures: Vec<(String, Failure)>,
    console: &Console,
    show: impl Fn(&[Status]) -> String,
) -> Outcome {
    statuses.iter().for_each(|status| console.warnings(status));
    if !console.is_json() {
        console.text(show(&statuses))?;
        return failed(failures).map_or(Ok(()), Err);
    }
    let unavailable = |(name, failure): &(String, Failure)| json::Unavailable {
        name: name.clone(),
        kind: failure.kind_name(),
        message: failure.message().to_owned(),
    };
    let mut document = json::lus(&statuses);
    document.unavailable = failures.iter().map(unavailable).collect();
    console.document(verb, document)?;
    failed(failures).map_or(Ok(()), |failure| Err(failure.documented()))
}

/// The first failure, with the others behind it.
fn failed(failures: Vec<(String, Failure)>) -> Option<Failure> {
    let named = |(name, failure): (String, Failure)| failure.before(name);
    failures.into_iter().map(named).reduce(Failure::also)
}
