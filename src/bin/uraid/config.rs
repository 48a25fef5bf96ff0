//! `uraid config check`: what is wrong with a configuration file, line by line, in the form that compilers
//! use. Loads the certificates it names, opens no disk and changes nothing.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;
use uraid::ErrorKind;

use crate::configuration::{parse, standard};
use crate::console::Console;
use crate::failure::{Failure, Outcome};

/// Look at the configuration file.
#[derive(Args)]
pub(crate) struct Config {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Say what is wrong with a configuration file, line by line.
    Check(Check),
}

#[derive(Args)]
struct Check {
    /// The file; $URAID_CONFIG, else /etc/uraid/uraid.toml.
    file: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    file: PathBuf,
    lus: usize,
    wrong: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    line: usize,
    message: String,
}

impl Config {
    pub(crate) fn run(self, console: &Console) -> Outcome {
        let Action::Check(check) = self.action;
        check.run(console)
    }
}

impl Check {
    fn run(self, console: &Console) -> Outcome {
        let file = self.file.unwrap_or_else(|| standard().0);
        let text = std::fs::read_to_string(&file).map_err(|error| Failure::file(&file, &error))?;
        let (lus, wrongs) = match parse(&file, &text) {
            Ok(lus) => {
                let certificates = lus.iter().filter_map(|lu| lu.tls.as_ref());
                (lus.len(), certificates.filter_map(|tls| tls.check().err()).collect())
            }
            Err(wrongs) => (0, wrongs),
        };
        let count = wrongs.len();
        if console.is_json() {
            let wrong = wrongs.into_iter().map(|wrong| Line { line: wrong.line, message: wrong.what });
            console.document("config", Report { file: file.clone(), lus, wrong: wrong.collect() })?;
        } else {
            wrongs.iter().try_for_each(|wrong| console.line(wrong.at(&file)))?;
        }
        let name = file.display();
        match count {
            0 => console.tell(format_args!("{name}: nothing wrong, {lus} LUs")),
            1 => Err(Failure::of(ErrorKind::Usage, format!("{name}: a line is wrong")).documented()),
            _ => Err(Failure::of(ErrorKind::Usage, format!("{name}: {count} lines are wrong")).documented()),
        }
    }
}
