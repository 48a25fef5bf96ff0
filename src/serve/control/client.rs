//! The other side of the control socket: asks whoever holds an LU.
//!
//! Promises: never waits for a holder that does not answer for longer than the question allows; what comes
//! back is checked before it is believed. Refuses to know which LU a person means: it is told a UUID.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::format::superblock::Uuid;
use crate::lu::{Change, Changed, Status, Work};

use super::folder::reach;
use super::line::Lines;
use super::wire::{Answer, Held, Request, from_line, to_line};
use super::{ANSWER_BYTES, Event, Holding, PATIENCE};

/// How long a change or a stop may take: each step of one has a minute of its own before the holder gives up.
const LONG: Duration = Duration::from_secs(300);

/// A connection to the holder of an LU.
#[derive(Debug)]
pub struct Client {
    lines: Lines,
    folder: PathBuf,
    uuid: Uuid,
}

impl Client {
    /// Connects to the holder of LU `uuid` that has its socket in `folder`. A holder lets go of a client that
    /// says nothing for [`PATIENCE_SECONDS`](super::PATIENCE_SECONDS); the next question then connects anew.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if nobody is there; [`ErrorKind::Refused`] if the folder is somebody else's or
    /// open to others; [`ErrorKind::Busy`] if the holder lets nobody in.
    pub fn connect(folder: impl AsRef<Path>, uuid: Uuid) -> Result<Client> {
        let folder = folder.as_ref().to_owned();
        Ok(Client { lines: Lines::new(reach(&folder, uuid)?), folder, uuid })
    }

    /// The LU, its holder's process, and what that holds it for.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] if the holder does not answer in time or has no place left, [`ErrorKind::Io`] if
    /// it has gone, [`ErrorKind::Format`] if it is not understood. So for every other question, besides what
    /// the holder itself says.
    pub fn look(&mut self) -> Result<(Status, Holding, u32)> {
        match self.ask(&Request::Status, PATIENCE)? {
            Answer::Held(held) => {
                let Held { pid, holding, lu } = *held;
                Ok((lu.try_into()?, holding, pid))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// How the LU is.
    ///
    /// # Errors
    /// As [`look`](Client::look).
    pub fn status(&mut self) -> Result<Status> {
        Ok(self.look()?.0)
    }

    /// Has a change made: see [`Lu::carry_out`](crate::Lu::carry_out). Paths are made absolute: the holder is
    /// in a folder of its own.
    ///
    /// # Errors
    /// As [`look`](Client::look), and those of the change.
    pub fn carry_out(&mut self, change: &Change) -> Result<Changed> {
        match self.ask(&Request::Change(change.clone().absolute()?), LONG)? {
            Answer::Changed(told) => (*told).try_into(),
            other => Err(unexpected(&other)),
        }
    }

    /// Waits until no long work is under way or about to begin, calling `progress` several times a second
    /// with what is; `None` between two stretches. If that returns false, stops waiting: the work goes on.
    /// True if there is nothing left to wait for.
    ///
    /// # Errors
    /// As [`look`](Client::look), and [`Lu::watch_work`](crate::Lu::watch_work).
    pub fn wait_for_work(&mut self, progress: &mut dyn FnMut(Option<Work>) -> bool) -> Result<bool> {
        let mut answer = self.ask(&Request::Wait, PATIENCE)?;
        loop {
            match answer {
                Answer::Done => return Ok(true),
                Answer::Work(work) => {
                    if !progress(work.map(Work::try_from).transpose()?) {
                        self.connect_anew()?;
                        return Ok(false);
                    }
                }
                other => return Err(unexpected(&other)),
            }
            answer = self.hear(Some(PATIENCE))?;
        }
    }

    /// Pauses long work: see [`Lu::pause_work`](crate::Lu::pause_work).
    ///
    /// # Errors
    /// As [`look`](Client::look).
    pub fn pause_work(&mut self) -> Result<()> {
        self.order(&Request::Pause, PATIENCE)
    }

    /// Goes on with long work: see [`Lu::resume_work`](crate::Lu::resume_work).
    ///
    /// # Errors
    /// As [`look`](Client::look).
    pub fn resume_work(&mut self) -> Result<()> {
        self.order(&Request::Resume, PATIENCE)
    }

    /// Calls `each` with what happened since the LU is held, oldest first; with `follow` goes on with what
    /// happens, until the LU is let go of or `each` returns false.
    ///
    /// # Errors
    /// As [`look`](Client::look).
    pub fn events(&mut self, follow: bool, each: &mut dyn FnMut(Event) -> bool) -> Result<()> {
        let patience = if follow { None } else { Some(PATIENCE) };
        self.say(&Request::Events { follow })?;
        loop {
            match self.hear(patience)? {
                Answer::Done => return Ok(()),
                Answer::Event(event) => {
                    if !each(event) {
                        return self.connect_anew();
                    }
                }
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Has the holder finish what is under way, mark the LU clean and let go of it; back when it has. What
    /// the holder does then is its own affair.
    ///
    /// # Errors
    /// As [`look`](Client::look), and [`Lu::stop`](crate::Lu::stop).
    pub fn stop(mut self) -> Result<()> {
        self.order(&Request::Stop, LONG)
    }

    fn order(&mut self, request: &Request, patience: Duration) -> Result<()> {
        match self.ask(request, patience)? {
            Answer::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn ask(&mut self, request: &Request, patience: Duration) -> Result<Answer> {
        self.say(request)?;
        self.hear(Some(patience))
    }

    /// What is still said on the old connection is said to nobody.
    fn connect_anew(&mut self) -> Result<()> {
        self.lines = Lines::new(reach(&self.folder, self.uuid)?);
        Ok(())
    }

    fn say(&mut self, request: &Request) -> Result<()> {
        if self.lines.is_closed() && !self.lines.has_come() {
            self.connect_anew()?;
        }
        let line = to_line(request)?;
        match self.lines.write(&line, Instant::now() + PATIENCE) {
            // Turned away: what was said of it waits to be read.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            said => said.map_err(|error| self.lost(error)),
        }
    }

    /// The next answer that is none of failure.
    fn hear(&mut self, patience: Option<Duration>) -> Result<Answer> {
        let until = patience.map(|patience| Instant::now() + patience);
        let line = self.lines.read(ANSWER_BYTES, until, None).map_err(|error| self.lost(error))?;
        let Some(line) = line else { return Err(self.lost(io::ErrorKind::UnexpectedEof.into())) };
        match from_line(&line).map_err(|error| Error::new(ErrorKind::Format, error.to_string()))? {
            Answer::Error(failure) => Err(failure.into()),
            answer => Ok(answer),
        }
    }

    fn lost(&self, error: io::Error) -> Error {
        let holder = format!("the holder of LU {}", self.uuid);
        match error.kind() {
            io::ErrorKind::TimedOut => Error::new(ErrorKind::Busy, format!("{holder} does not answer")),
            io::ErrorKind::InvalidData => {
                Error::new(ErrorKind::Format, format!("{holder} says more than can be listened to"))
            }
            _ => Error::new(ErrorKind::Io, format!("{holder} has gone without an answer")).with_source(error),
        }
    }
}

fn unexpected(answer: &Answer) -> Error {
    let what = match answer {
        Answer::Held(_) => "a status",
        Answer::Changed(_) => "a change",
        Answer::Work(_) => "work",
        Answer::Event(_) => "an event",
        Answer::Done => "done",
        Answer::Error(_) => "an error",
    };
    Error::new(
        ErrorKind::Format,
        format!("the holder answers with {what}, which is no answer to the question"),
    )
}
