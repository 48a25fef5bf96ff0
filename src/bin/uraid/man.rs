//! `uraid man`: the manual pages, made from the flags.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_mangen::Man as Page;
use serde::Serialize;

use crate::Cli;
use crate::console::Console;
use crate::failure::{Failure, Outcome};

/// Print the manual page, or write the pages of all verbs to a folder.
#[derive(Args)]
pub(crate) struct Man {
    /// Write a page for each verb here instead: uraid.1, uraid-create.1...
    #[arg(long)]
    dir: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<String>,
    files: Vec<PathBuf>,
}

impl Man {
    pub(crate) fn run(self, console: &Console) -> Outcome {
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        let Some(folder) = &self.dir else {
            let page = rendered(&Page::new(command))?;
            return match console.is_json() {
                true => {
                    let page = Some(String::from_utf8_lossy(&page).into_owned());
                    console.document("man", Report { page, files: Vec::new() })
                }
                false => console.text(page),
            };
        };
        std::fs::create_dir_all(folder).map_err(|error| Failure::file(folder, &error))?;
        let mut files = Vec::new();
        let mut commands = vec![command];
        while let Some(command) = commands.pop() {
            commands.extend(command.get_subcommands().cloned());
            let page = Page::new(command);
            let path = folder.join(page.get_filename());
            std::fs::write(&path, rendered(&page)?).map_err(|error| Failure::file(&path, &error))?;
            files.push(path);
        }
        files.sort();
        match console.is_json() {
            true => console.document("man", Report { page: None, files }),
            false => files.iter().try_for_each(|path| console.tell(path.display())),
        }
    }
}

fn rendered(page: &Page) -> Outcome<Vec<u8>> {
    let mut text = Vec::new();
    page.render(&mut text).map_err(|error| Failure::output(&error))?;
    Ok(text)
}
