//! `uraid scan`: finds members among the given files, devices and folders, and groups them to LUs. The one
//! verb that looks around, and only where it is told to.

use std::path::PathBuf;

use clap::Args;

use crate::console::Console;
use crate::failure::Outcome;
use crate::{list, show};

/// Find members among files, devices and the files of folders, and show their LUs.
#[derive(Args)]
pub(crate) struct Scan {
    /// Files, devices or folders.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

impl Scan {
    pub(crate) fn run(self, console: &Console) -> Outcome {
        let found = uraid::lu::scan(&self.paths)?;
        if found.lus.is_empty() && found.unavailable.is_empty() {
            console.remark("no members found");
        }
        let unavailable = found.unavailable.into_iter().map(|(name, error)| (name, error.into()));
        list::show_all("scan", found.lus, unavailable.collect(), console, |statuses| {
            if console.is_verbose() { show::lus(statuses, true) } else { show::lines(statuses) }
        })
    }
}
