//! The streams: reports on standard output, everything else on standard error.
//!
//! Nothing here blocks on a person unless both ends are a terminal, and nothing panics because a stream is
//! gone: lost output is a [`Failure`], lost chatter is nothing.

use std::fmt::Display;
use std::io::{self, BufRead, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use uraid::lu::Status;

use crate::failure::{Failure, Outcome};

/// Where a verb's words go.
pub(crate) struct Console {
    json: bool,
    quiet: bool,
    verbose: bool,
}

/// The top level of everything printed as JSON.
#[derive(Serialize)]
struct Document<'a, T> {
    schema: &'a str,
    #[serde(flatten)]
    body: T,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    kind: &'a str,
    message: &'a str,
    exit_code: u8,
    causes: &'a [String],
    next: &'a [String],
}

impl Console {
    pub(crate) fn new(json: bool, quiet: bool, verbose: bool) -> Console {
        Console { json, quiet, verbose }
    }

    /// Does a program read along?
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    pub(crate) fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// A line of what was asked for.
    pub(crate) fn line(&self, text: impl Display) -> Outcome {
        writeln!(io::stdout(), "{text}").map_err(|error| Failure::output(&error))
    }

    /// Text of what was asked for, as it stands.
    pub(crate) fn text(&self, text: impl AsRef<[u8]>) -> Outcome {
        io::stdout().write_all(text.as_ref()).map_err(|error| Failure::output(&error))
    }

    /// A line that tells how things went: not with `--quiet`, not beside JSON.
    pub(crate) fn tell(&self, text: impl Display) -> Outcome {
        if self.quiet || self.json { Ok(()) } else { self.line(text) }
    }

    /// The JSON document of `verb`, schema version 1.
    pub(crate) fn document(&self, verb: &str, body: impl Serialize) -> Outcome {
        let schema = format!("uraid.{verb}/1");
        let text = serde_json::to_string_pretty(&Document { schema: &schema, body })
            .map_err(|error| Failure::output(&error.into()))?;
        self.line(text)
    }

    /// The same on one line, at once: for documents that follow each other.
    pub(crate) fn compact(&self, verb: &str, body: impl Serialize) -> Outcome {
        let schema = format!("uraid.{verb}/1");
        let text = serde_json::to_string(&Document { schema: &schema, body })
            .map_err(|error| Failure::output(&error.into()))?;
        self.line(text)
    }

    /// A remark on standard error, not with `--quiet`.
    pub(crate) fn remark(&self, text: impl Display) {
        if !self.quiet {
            self.complain(text);
        }
    }

    /// What an operator should read about `status`, on standard error, also with `--quiet`.
    pub(crate) fn warnings(&self, status: &Status) {
        for warning in &status.warnings {
            self.complain(format_args!("{}: warning: {warning}", status.name));
        }
    }

    /// Tells of `failure` on standard error and, with `--json`, as a document.
    pub(crate) fn report(&self, failure: &Failure) {
        if failure.is_output_closed() {
            return;
        }
        self.report_aside(failure);
        if self.json && !failure.is_documented() {
            self.print_failure(failure);
        }
    }

    /// Tells of `failure` on standard error: of one that does not end the verb.
    pub(crate) fn report_aside(&self, failure: &Failure) {
        self.complain(failure.message());
        for cause in failure.causes() {
            // Many sentences carry their cause already.
            if self.verbose || !failure.message().contains(cause.as_str()) {
                self.further(format_args!("because: {cause}"));
            }
        }
        for remedy in failure.remedies() {
            self.further(remedy);
        }
    }

    /// The document `uraid.error/1`.
    pub(crate) fn print_failure(&self, failure: &Failure) {
        // It is the last word: there is nobody to tell that it could not be said.
        let _ = self.document(
            "error",
            ErrorBody {
                kind: failure.kind_name(),
                message: failure.message(),
                exit_code: failure.exit_code(),
                causes: failure.causes(),
                next: failure.remedies(),
            },
        );
    }

    /// Sees the last line out.
    pub(crate) fn finish(&self) -> Outcome {
        io::stdout().flush().map_err(|error| Failure::output(&error))
    }

    /// A progress bar over `bytes` on standard error; without a length it counts. Hidden unless that is a
    /// terminal and a person reads along.
    pub(crate) fn bar(&self, title: &str, bytes: Option<u64>) -> ProgressBar {
        let style = match bytes {
            Some(_) => "{prefix} {wide_bar} {percent:>3} %  {binary_bytes_per_sec}  {eta}",
            None => "{prefix} {spinner} {binary_bytes}  {binary_bytes_per_sec}",
        };
        self.bar_of(title, bytes, style)
    }

    /// A progress bar over `bytes` of long work, whose speed and end are the message: work may have begun
    /// long ago, and a bar does not know.
    pub(crate) fn work_bar(&self, title: &str, bytes: u64) -> ProgressBar {
        self.bar_of(title, Some(bytes), "{prefix} {wide_bar} {percent:>3} %  {msg}")
    }

    fn bar_of(&self, title: &str, bytes: Option<u64>, style: &str) -> ProgressBar {
        if self.quiet || self.json {
            return ProgressBar::hidden();
        }
        let target = ProgressDrawTarget::stderr();
        let bar = ProgressBar::with_draw_target(bytes, target).with_prefix(title.to_owned());
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }

    /// Can a question be asked and be answered by a person?
    pub(crate) fn can_ask(&self) -> bool {
        !self.json && io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Asks and waits for a line. The end of the input is an empty answer.
    pub(crate) fn ask(&self, question: impl Display) -> String {
        let mut answer = String::new();
        let asked =
            write!(io::stderr(), "{question} ").and_then(|()| io::stdin().lock().read_line(&mut answer));
        match asked {
            Ok(_) => answer.trim_end_matches(['\n', '\r']).to_owned(),
            Err(_) => String::new(),
        }
    }

    /// A line on standard error, also with `--quiet`.
    pub(crate) fn complain(&self, text: impl Display) {
        // Standard error may be closed; that must not change what the verb does.
        let _ = writeln!(io::stderr(), "uraid: {text}");
    }

    /// A line that belongs to the one before.
    pub(crate) fn further(&self, text: impl Display) {
        let _ = writeln!(io::stderr(), "  {text}");
    }
}
