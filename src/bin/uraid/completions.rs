//! `uraid completions`: the completion script of a shell, made from the flags.

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use serde::Serialize;

use crate::Cli;
use crate::console::Console;
use crate::failure::Outcome;

/// Print the completion script of a shell.
#[derive(Args)]
pub(crate) struct Completions {
    /// Which shell.
    shell: Shell,
}

#[derive(Serialize)]
struct Report {
    shell: String,
    script: String,
}

impl Completions {
    pub(crate) fn run(self, console: &Console) -> Outcome {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "uraid", &mut script);
        if console.is_json() {
            let script = String::from_utf8_lossy(&script).into_owned();
            return console.document("completions", Report { shell: self.shell.to_string(), script });
        }
        console.text(script)
    }
}
