//! `uraid write`: bytes into an LU. However it ends, what was written is flushed and the LU is stopped clean,
//! and a failure says how much was written.

use std::fs::File;
use std::io::{self, Read as _, Seek};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use clap::Args;
use indicatif::ProgressBar;
use serde::Serialize;
use uraid::lu::Status;
use uraid::{ErrorKind, Lu};

use crate::console::Console;
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::size;
use crate::target::{self, Target, Writing};
use crate::transfer::{self, Drainer, Filler};

/// Write standard input or a file to an LU.
#[derive(Args)]
pub(crate) struct Write {
    /// The LU: a member's path, paths joined by commas, a name or a UUID.
    lu: String,
    /// Where to begin, in bytes; with K, M, G or T in binary units.
    #[arg(long, value_name = "BYTES", value_parser = size::parse, default_value = "0")]
    offset: u64,
    /// Read FILE instead of standard input.
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    #[command(flatten)]
    writing: Writing,
}

#[derive(Serialize)]
struct Report<'a> {
    name: &'a str,
    uuid: String,
    offset: u64,
    bytes: u64,
    seconds: f64,
}

impl Write {
    pub(crate) fn run(self, console: &Console) -> Outcome {
        let interrupt = Interrupt::watch()?;
        let target = Target::resolve(&self.lu)?;
        let mut input = self.open_input()?;
        // Before the LU is opened for writing: that alone may change its members.
        let looked = target.look_before(&self.writing)?;
        if looked.refusal.is_none() {
            self.check(&looked).map_err(|failure| failure.note("0 bytes were written"))?;
        }
        let lu = target.open_for_writing(&self.writing, console)?;
        let (name, uuid) = (lu.name().to_owned(), lu.uuid().to_string());

        let start = Instant::now();
        let bar = console.bar("write", bytes_ahead(&mut input));
        let mut written = 0;
        let copied = self.copy_in(&lu, input, &mut written, &interrupt, &bar);
        bar.finish_and_clear();
        let outcome = leave_clean(lu, copied);
        let bytes = written;
        outcome.map_err(|failure| failure.note(format_args!("{bytes} bytes were written")))?;

        let (offset, elapsed) = (self.offset, start.elapsed());
        if console.is_json() {
            let seconds = elapsed.as_secs_f64();
            return console.document("write", Report { name: &name, uuid, offset, bytes, seconds });
        }
        let rate = size::bytes(size::per_second(bytes, elapsed));
        console.tell(format_args!("wrote {bytes} bytes to {name} at offset {offset} ({rate}/s)"))
    }

    /// Opened before the LU is claimed, and unbuffered.
    fn open_input(&self) -> Outcome<File> {
        match &self.input {
            Some(path) => File::open(path).map_err(|error| Failure::file(path, &error)),
            None => {
                let stdin = io::stdin().as_fd().try_clone_to_owned();
                stdin.map(File::from).map_err(|error| self.input_failed(&error))
            }
        }
    }

    /// Is there room at the offset, and is the input no member?
    fn check(&self, status: &Status) -> Outcome {
        if let Some(path) = &self.input {
            target::refuse_member(path, status)?;
        }
        if self.offset > status.size_bytes { Err(past_the_end(status.size_bytes)) } else { Ok(()) }
    }

    fn input_failed(&self, error: &io::Error) -> Failure {
        Failure::file(self.input.as_deref().unwrap_or(Path::new("standard input")), error)
    }

    /// Copies `input` to the LU; `written` counts what has arrived, also when this fails.
    fn copy_in(
        &self,
        lu: &Lu,
        input: File,
        written: &mut u64,
        interrupt: &Interrupt,
        bar: &ProgressBar,
    ) -> Outcome {
        let status = lu.status();
        self.check(&status)?;
        let end = lu.size();
        let piece = transfer::piece_bytes(&status);
        let (filler, drainer) = transfer::sides(piece as usize);
        // Not joined: it may wait for input that never comes. It never touches the LU.
        let path = self.input.clone().unwrap_or_else(|| "standard input".into());
        let offset = self.offset;
        thread::spawn(move || read_input(filler, input, &path, offset, end, piece));
        drain(lu, &drainer, offset, written, interrupt, bar)
    }
}

/// Reads `input` in pieces that will lie on the LU's grid from `at` on; more than fits before `end` is an
/// error.
fn read_input(filler: Filler, mut input: File, path: &Path, mut at: u64, end: u64, piece: u64) {
    let failed = |error: io::Error| Failure::file(path, &error);
    filler.run(|space| {
        if at == end {
            let more = read_full(&mut input, &mut [0]).map_err(failed)?;
            return if more == 0 { Ok(0) } else { Err(past_the_end(end)) };
        }
        let filled =
            read_full(&mut input, &mut space[..transfer::piece_at(at, end, piece)]).map_err(failed)?;
        at += filled as u64;
        Ok(filled)
    });
}

fn drain(
    lu: &Lu,
    drainer: &Drainer,
    offset: u64,
    written: &mut u64,
    interrupt: &Interrupt,
    bar: &ProgressBar,
) -> Outcome {
    while let Some(buffer) = drainer.next(Some(interrupt))? {
        lu.write_at(buffer.filled(), offset + *written)?;
        *written += buffer.filled().len() as u64;
        bar.set_position(*written);
        drainer.give_back(buffer);
    }
    Ok(())
}

/// Flushes and stops the LU, whatever happened before. The first failure is the one that is told.
fn leave_clean(lu: Lu, before: Outcome) -> Outcome {
    let flushed = lu.flush().map_err(Failure::from);
    let stopped = lu.stop().map_err(Failure::from);
    [before, flushed, stopped].into_iter().reduce(first_failure).unwrap_or(Ok(()))
}

fn first_failure(first: Outcome, second: Outcome) -> Outcome {
    match (first, second) {
        (Err(first), Err(second)) => Err(first.also(second)),
        (first, second) => first.and(second),
    }
}

fn past_the_end(end: u64) -> Failure {
    Failure::of(ErrorKind::Io, format!("past the end of the LU, which has {end} bytes"))
}

/// Fills `space` as far as the input goes.
fn read_full(input: &mut File, space: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < space.len() {
        match input.read(&mut space[filled..]) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// How much a plain file still has; nobody knows for anything else.
fn bytes_ahead(input: &mut File) -> Option<u64> {
    let metadata = input.metadata().ok().filter(|metadata| metadata.is_file())?;
    Some(metadata.len().saturating_sub(input.stream_position().ok()?))
}
