//! The one error type of the library: a small [`ErrorKind`] to match on, a sentence to read, a source to follow.
//!
//! The sentence names the member, the place and, where there is one, the remedy. The kind decides the exit code of the
//! command line; what a caller may do about an error never hangs on the sentence.

use alloc::boxed::Box;
use alloc::string::String;
use core::error::Error as StdError;

/// What sort of failure: the part of an [`Error`] that programs match on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A disk could not do what was asked, or the data is beyond what redundancy can give back.
    Io,
    /// The request itself is wrong: a bad chunk, too few disks, the same disk twice, past the end.
    Usage,
    /// No such disk, LU or member.
    NotFound,
    /// The LU cannot start with what was offered.
    CannotStart,
    /// Somebody else holds the disk or the LU, or a wait ran out of time.
    Busy,
    /// Something would be lost; the caller has to say that this is meant.
    Refused,
    /// The bytes on disk are not something this version understands.
    Format,
}

/// An error of the library.
#[derive(Debug, thiserror::Error)]
#[error("{context}")]
pub struct Error {
    kind: ErrorKind,
    context: Box<str>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// `Result` with the library's error.
pub type Result<T, E = Error> = core::result::Result<T, E>;

impl Error {
    /// An error of `kind` that reads `context`.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Error {
        Error { kind, context: context.into().into_boxed_str(), source: None }
    }

    /// The same with the error that caused it.
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Error {
        self.source = Some(Box::new(source));
        self
    }

    /// The same with `prefix: ` before the sentence: where it happened.
    pub fn at(mut self, prefix: impl core::fmt::Display) -> Error {
        self.context = alloc::format!("{prefix}: {}", self.context).into_boxed_str();
        self
    }

    /// What sort of failure.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}
