//! `uraid scan`: finds members among the given files, devices and folders, and groups them to LUs. The one
//! verb that looks around, and only where it is told to.

use std::path::PathBuf;

use clap::Args;

use crate::console::Console;
use crate::failure::Outcome;
use crate::{json, show};

/// Find members among files, devices and the files of folders, and show their LUs.
#[derive(Args)]
pub(crate) struct Scan {
    /// Files, devices or folders.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

impl Scan {
    pub(crate) fn run(self, console: &Console) -> Outcome {
        let statuses = uraid::lu::scan(&self.paths)?;
        statuses.iter().for_each(|status| console.warnings(status));
        if statuses.is_empty() {
            console.remark("no members found");
        }
        if console.is_json() {
            console.document("scan", json::lus(&statuses))
        } else if console.is_verbose() {
            console.text(show::lus(&statuses, true))
        } else {
            console.text(show::lines(&statuses))
        }
    }
}
