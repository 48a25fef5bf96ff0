//! `uraid read`: bytes out of an LU. Takes a shared claim and changes nothing on any member.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use clap::Args;
use indicatif::ProgressBar;
use serde::Serialize;
use uraid::Lu;

use crate::console::Console;
use crate::failure::{Failure, Outcome};
use crate::size;
use crate::target::{self, Leave, Target};
use crate::transfer;

/// Read bytes of an LU to standard output or a file.
#[derive(Args)]
pub(crate) struct Read {
    /// The LU: a member's path, paths joined by commas, a name or a UUID.
    lu: String,
    /// Where to begin, in bytes; with K, M, G or T in binary units.
    #[arg(long, value_name = "BYTES", value_parser = size::parse, default_value = "0")]
    offset: u64,
    /// How many bytes; without it, all to the end.
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    length: Option<u64>,
    /// Create FILE, or empty it, and write there.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    leave: Leave,
}

#[derive(Serialize)]
struct Report<'a> {
    name: &'a str,
    uuid: String,
    offset: u64,
    bytes: u64,
    seconds: f64,
    output: &'a Path,
}

impl Read {
    pub(crate) fn run(self, console: &Console) -> Outcome {
        if console.is_json() && self.output.is_none() {
            return Err(Failure::usage("--json needs --output FILE: standard output carries the data"));
        }
        let lu = Target::resolve(&self.lu)?.open(&self.leave, console)?;
        let end = self.end(lu.size())?;
        let mut output = self.open_output(&lu)?;

        let start = Instant::now();
        let bar = console.bar("read", Some(end - self.offset));
        copy_out(&lu, self.offset, end, &mut output, &bar, |error| self.output_failed(error))
            .map_err(|failure| self.admit_incomplete(failure))?;
        bar.finish_and_clear();
        self.settle(&output)?;

        let bytes = end - self.offset;
        let (name, uuid) = (lu.name().to_owned(), lu.uuid().to_string());
        lu.stop()?;
        let Some(path) = &self.output else { return Ok(()) };
        let elapsed = start.elapsed();
        if console.is_json() {
            let (offset, seconds) = (self.offset, elapsed.as_secs_f64());
            return console
                .document("read", Report { name: &name, uuid, offset, bytes, seconds, output: path });
        }
        let rate = size::bytes(size::per_second(bytes, elapsed));
        console.tell(format_args!("read {bytes} bytes of {name} to {} ({rate}/s)", path.display()))
    }

    /// The first byte behind what is asked for. Asking beyond the end is refused before any byte is read.
    fn end(&self, lu_bytes: u64) -> Outcome<u64> {
        let beyond = |what: String| Failure::usage(format!("{what}: the LU has {lu_bytes} bytes"));
        if self.offset > lu_bytes {
            return Err(beyond(format!("offset {} is past the end", self.offset)));
        }
        match self.length {
            None => Ok(lu_bytes),
            Some(length) if length <= lu_bytes - self.offset => Ok(self.offset + length),
            Some(length) => {
                Err(beyond(format!("{length} bytes from offset {} are past the end", self.offset)))
            }
        }
    }

    /// Standard output unbuffered, or the file; never a member.
    fn open_output(&self, lu: &Lu) -> Outcome<File> {
        let Some(path) = &self.output else {
            let stdout = io::stdout().as_fd().try_clone_to_owned();
            return stdout.map(File::from).map_err(|error| Failure::output(&error));
        };
        target::refuse_member(path, &lu.status())?;
        File::create(path).map_err(|error| Failure::file(path, &error))
    }

    /// Makes sure that a file has what was written: not every file system says so at once.
    fn settle(&self, output: &File) -> Outcome {
        match &self.output {
            Some(path) if output.metadata().is_ok_and(|metadata| metadata.is_file()) => {
                output.sync_all().map_err(|error| Failure::file(path, &error))
            }
            _ => Ok(()),
        }
    }

    fn output_failed(&self, error: &io::Error) -> Failure {
        match &self.output {
            Some(path) => Failure::file(path, error),
            None => Failure::output(error),
        }
    }

    fn admit_incomplete(&self, failure: Failure) -> Failure {
        match &self.output {
            Some(path) => failure.note(format_args!("{} is incomplete", path.display())),
            None => failure,
        }
    }
}

/// Copies the LU's bytes from `at` to `end` to `output`; the next piece is read while one is written.
fn copy_out(
    lu: &Lu,
    at: u64,
    end: u64,
    output: &mut File,
    bar: &ProgressBar,
    failed: impl Fn(&io::Error) -> Failure,
) -> Outcome {
    let piece = transfer::piece_bytes(&lu.status());
    let (filler, drainer) = transfer::sides(piece as usize);
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut at = at;
            filler.run(|space| {
                let space = &mut space[..transfer::piece_at(at, end, piece)];
                if !space.is_empty() {
                    lu.read_at(space, at)?;
                }
                at += space.len() as u64;
                Ok(space.len())
            });
        });
        // Moved in, so that leaving early hangs up on the thread before the scope waits for it.
        let drainer = drainer;
        while let Some(buffer) = drainer.next(None)? {
            output.write_all(buffer.filled()).map_err(|error| failed(&error))?;
            bar.inc(buffer.filled().len() as u64);
            drainer.give_back(buffer);
        }
        Ok(())
    })
}
