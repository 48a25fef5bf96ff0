//! Why a verb did not succeed, and the exit code that says so.
//!
//! A failure is one sentence, the causes beneath it, and what to do about it. The exit code hangs on its kind
//! alone.

use std::error::Error as _;
use std::fmt::Display;
use std::io;
use std::path::Path;

use uraid::{Error, ErrorKind};

/// What a verb gives back.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// Why a verb did not succeed.
#[derive(Debug)]
pub(crate) struct Failure(Box<Told>);

#[derive(Debug)]
struct Told {
    kind: Kind,
    message: String,
    causes: Vec<String>,
    remedies: Vec<String>,
    /// A document on standard output tells of it already.
    documented: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Of(ErrorKind),
    /// By this signal.
    Interrupted(i32),
    /// Whoever read our output has gone: no failure, but nothing is left to do.
    OutputClosed,
}

impl Failure {
    fn new(kind: Kind, message: impl Into<String>) -> Failure {
        let (causes, remedies) = (Vec::new(), Vec::new());
        Failure(Box::new(Told { kind, message: message.into(), causes, remedies, documented: false }))
    }

    /// A failure that exits like a library error of `kind`.
    pub(crate) fn of(kind: ErrorKind, message: impl Into<String>) -> Failure {
        Failure::new(Kind::Of(kind), message)
    }

    /// The request is wrong: exit 2.
    pub(crate) fn usage(message: impl Into<String>) -> Failure {
        Failure::of(ErrorKind::Usage, message)
    }

    /// Stopped by `signal`: exit 128 + `signal`, as shells have it.
    pub(crate) fn interrupted(signal: i32, message: impl Into<String>) -> Failure {
        Failure::new(Kind::Interrupted(signal), message)
    }

    /// A file that is not a member could not be used.
    pub(crate) fn file(path: &Path, error: &io::Error) -> Failure {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Io,
        };
        Failure::of(kind, format!("{}: {error}", path.display()))
    }

    /// Standard output could not be written.
    pub(crate) fn output(error: &io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::new(Kind::OutputClosed, "output closed"),
            _ => Failure::of(ErrorKind::Io, format!("standard output: {error}")),
        }
    }

    /// The same, with something to do about it: a sentence or a command.
    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Failure {
        self.0.remedies.push(remedy.into());
        self
    }

    /// The same, with `note` behind the sentence.
    pub(crate) fn note(mut self, note: impl Display) -> Failure {
        self.0.message = format!("{}; {note}", self.0.message);
        self
    }

    /// The same, with `prefix: ` before the sentence.
    pub(crate) fn before(mut self, prefix: impl Display) -> Failure {
        self.0.message = format!("{prefix}: {}", self.0.message);
        self
    }

    /// The same, with a second failure met while cleaning up after the first.
    pub(crate) fn also(mut self, second: Failure) -> Failure {
        self.0.causes.push(format!("then: {}", second.0.message));
        self.0.causes.extend(second.0.causes);
        self
    }

    /// The same, told of in a document that is out already: standard output gets no second one.
    pub(crate) fn documented(mut self) -> Failure {
        self.0.documented = true;
        self
    }

    /// Does a document tell of it already?
    pub(crate) fn is_documented(&self) -> bool {
        self.0.documented
    }

    /// The library's kind, if it is one of the library's.
    pub(crate) fn kind(&self) -> Option<ErrorKind> {
        match self.0.kind {
            Kind::Of(kind) => Some(kind),
            _ => None,
        }
    }

    /// Is there nobody left to tell?
    pub(crate) fn is_output_closed(&self) -> bool {
        self.0.kind == Kind::OutputClosed
    }

    /// The program's exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self.0.kind {
            Kind::Of(ErrorKind::Usage) => 2,
            Kind::Of(ErrorKind::NotFound) => 3,
            Kind::Of(ErrorKind::CannotStart) => 4,
            Kind::Of(ErrorKind::Busy) => 5,
            Kind::Of(ErrorKind::Refused) => 6,
            Kind::Of(ErrorKind::Format) => 7,
            Kind::Of(_) => 1,
            Kind::Interrupted(signal) => u8::try_from(128 + signal).unwrap_or(1),
            Kind::OutputClosed => 0,
        }
    }

    /// The kind as programs read it in `uraid.error/1`.
    pub(crate) fn kind_name(&self) -> &'static str {
        match self.0.kind {
            Kind::Of(ErrorKind::Usage) => "usage",
            Kind::Of(ErrorKind::NotFound) => "not_found",
            Kind::Of(ErrorKind::CannotStart) => "cannot_start",
            Kind::Of(ErrorKind::Busy) => "busy",
            Kind::Of(ErrorKind::Refused) => "refused",
            Kind::Of(ErrorKind::Format) => "format",
            Kind::Of(_) => "io",
            Kind::Interrupted(_) => "interrupted",
            Kind::OutputClosed => "output_closed",
        }
    }

    /// The sentence.
    pub(crate) fn message(&self) -> &str {
        &self.0.message
    }

    /// What caused it, outermost first.
    pub(crate) fn causes(&self) -> &[String] {
        &self.0.causes
    }

    /// What to do about it.
    pub(crate) fn remedies(&self) -> &[String] {
        &self.0.remedies
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let mut failure = Failure::of(error.kind(), error.to_string());
        let mut cause = error.source();
        while let Some(inner) = cause {
            failure.0.causes.push(inner.to_string());
            cause = inner.source();
        }
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_table_of_the_manual() {
        let table = [
            (ErrorKind::Io, 1),
            (ErrorKind::Usage, 2),
            (ErrorKind::NotFound, 3),
            (ErrorKind::CannotStart, 4),
            (ErrorKind::Busy, 5),
            (ErrorKind::Refused, 6),
            (ErrorKind::Format, 7),
        ];
        for (kind, code) in table {
            assert_eq!(Failure::of(kind, "").exit_code(), code, "{kind:?}");
        }
        assert_eq!(Failure::interrupted(2, "").exit_code(), 130);
        assert_eq!(Failure::output(&io::ErrorKind::BrokenPipe.into()).exit_code(), 0);
    }
}
