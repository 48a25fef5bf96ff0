//! The `uraid` program: one file per verb, and the few things they share.
//!
//! This is the only place that prints, reads the environment or picks an exit code; the library below it does
//! none of these. A verb takes its arguments and a [`Console`], and gives back a [`Failure`] or nothing. Data
//! and reports go to standard output, everything else to standard error.
//!
//! | file | what it is |
//! |---|---|
//! | `create status list scan inspect read write` | the verbs: an LU and its bytes |
//! | `fail remove add spare replace rebuild wait pause` | the verbs: its members |
//! | `export daemon config stop events` | the verbs: LUs as block devices, and whoever holds them |
//! | `bench` | the verb: an LU measured against its disks |
//! | `demo completions man` | the verbs: the rest |
//! | `target` | from an LU argument to the disks it means |
//! | `configuration` | the file that lists LUs |
//! | `hold` | an LU that is held and served |
//! | `holder`, `reached` | from there to whoever holds the LU; an LU to administer, here or there |
//! | `show`, `json` | an LU for people and for programs |
//! | `change`, `work` | what the verbs about members share; long work under a bar |
//! | `transfer` | moving bytes while the other side is busy |
//! | `memory_disk` | disks that are files in memory |
//! | `console`, `failure`, `interrupt`, `size` | streams, exit codes, signals, numbers |

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::console::Console;
use crate::failure::{Failure, Outcome};

mod add;
mod bench;
mod change;
mod completions;
mod config;
mod configuration;
mod console;
mod create;
mod daemon;
mod demo;
mod events;
mod export;
mod fail;
mod failure;
mod hold;
mod holder;
mod inspect;
mod interrupt;
mod json;
mod list;
mod man;
mod memory_disk;
mod pause;
mod reached;
mod read;
mod rebuild;
mod remove;
mod replace;
mod scan;
mod show;
mod size;
mod spare;
mod status;
mod stop;
mod target;
mod transfer;
mod wait;
mod work;
mod write;

const EXIT_CODES: &str = "\
An LU argument is a path (that member and what lies beside it in its folder), several paths joined by commas \
(exactly those), or a name or UUID looked up in the configuration file ($URAID_CONFIG, else \
/etc/uraid/uraid.toml) and among the LUs that are held. An LU that is held is administered by its holder, \
through a socket in $URAID_RUNTIME_DIR, else $XDG_RUNTIME_DIR/uraid, else /run/uraid. Sizes take \
the suffixes K, M, G and T, which are binary.

Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 the LU cannot start, 5 busy, 6 refused (names the flag \
that allows it), 7 format not understood.";

/// Software RAID in user space, in Linux md's own on-disk format.
#[derive(Parser)]
#[command(name = "uraid", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    /// Print JSON on standard output.
    #[arg(long, global = true)]
    json: bool,
    /// Print what was asked for, warnings and errors; nothing else.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Print more: details of healthy LUs, causes of errors.
    #[arg(short, long, global = true)]
    verbose: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Create(create::Create),
    Status(status::Status),
    List(list::List),
    Scan(scan::Scan),
    Inspect(inspect::Inspect),
    Read(read::Read),
    Write(write::Write),
    Fail(fail::Fail),
    Remove(remove::Remove),
    Add(add::Add),
    Spare(spare::Spare),
    Replace(replace::Replace),
    Rebuild(rebuild::Rebuild),
    Wait(wait::Wait),
    Pause(pause::Pause),
    Resume(pause::Resume),
    Export(export::Export),
    Daemon(daemon::Daemon),
    Config(config::Config),
    Stop(stop::Stop),
    Events(events::Events),
    Bench(bench::Bench),
    Demo(demo::Demo),
    Completions(completions::Completions),
    Man(man::Man),
}

impl Verb {
    fn run(self, console: &Console) -> Outcome {
        match self {
            Verb::Create(verb) => verb.run(console),
            Verb::Status(verb) => verb.run(console),
            Verb::List(verb) => verb.run(console),
            Verb::Scan(verb) => verb.run(console),
            Verb::Inspect(verb) => verb.run(console),
            Verb::Read(verb) => verb.run(console),
            Verb::Write(verb) => verb.run(console),
            Verb::Fail(verb) => verb.run(console),
            Verb::Remove(verb) => verb.run(console),
            Verb::Add(verb) => verb.run(console),
            Verb::Spare(verb) => verb.run(console),
            Verb::Replace(verb) => verb.run(console),
            Verb::Rebuild(verb) => verb.run(console),
            Verb::Wait(verb) => verb.run(console),
            Verb::Pause(verb) => verb.run(console),
            Verb::Resume(verb) => verb.run(console),
            Verb::Export(verb) => verb.run(console),
            Verb::Daemon(verb) => verb.run(console),
            Verb::Config(verb) => verb.run(console),
            Verb::Stop(verb) => verb.run(console),
            Verb::Events(verb) => verb.run(console),
            Verb::Bench(verb) => verb.run(console),
            Verb::Demo(verb) => verb.run(console),
            Verb::Completions(verb) => verb.run(console),
            Verb::Man(verb) => verb.run(console),
        }
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse_arguments(&error),
    };
    let console = Console::new(cli.json, cli.quiet, cli.verbose);
    let outcome = cli.verb.run(&console).and_then(|()| console.finish());
    let code = match outcome {
        Ok(()) => 0,
        Err(failure) => {
            console.report(&failure);
            failure.exit_code()
        }
    };
    // Leaves at once: a thread may still be waiting for standard input.
    std::process::exit(code.into())
}

/// Answers for clap: `--help` and `--version` are no errors, all else is exit 2. Whether `--json` was given
/// is looked up by hand, since the arguments did not parse.
fn refuse_arguments(error: &clap::Error) -> ExitCode {
    if error.exit_code() == 0 {
        // A closed pipe is nobody left to tell.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let json = std::env::args_os().any(|argument| argument == "--json");
    let console = Console::new(json, false, false);
    let text = error.render().to_string();
    let text = text.trim_end().strip_prefix("error: ").unwrap_or(text.trim_end());
    console.complain(text);
    if json {
        let message = text.lines().next().unwrap_or("wrong arguments");
        console.print_failure(&Failure::usage(message));
    }
    ExitCode::from(2)
}
