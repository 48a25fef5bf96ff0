//! One connection: questions in, answers out, until the client goes, says nothing, or the server leaves.
//!
//! Promises: what is no question is told so and ends the connection; a client that goes while it is answered
//! takes nothing back. Refuses to know who may connect.

use std::io;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind};
use crate::lu::{Change, Changed, DiskName, Work};

use super::journal::EventKind;
use super::line::Lines;
use super::server::{Shared, lock};
use super::wire::{Answer, Failure, Held, LongWork, Request, from_line, to_line};
use super::{PATIENCE, REQUEST_BYTES, STREAMS};

/// How often a client is told how work gets on, unless something else begins.
const TELL: Duration = Duration::from_millis(200);

/// How soon it is noticed that a client is gone.
const HEED: Duration = Duration::from_millis(100);

/// Why a connection ends.
type End = io::Error;

/// Answers one client, whose process is `pid`.
pub(super) fn serve(shared: &Shared, client: Lines, pid: i32) {
    let mut session = Session { shared, client, pid };
    loop {
        let until = Instant::now() + PATIENCE;
        let line = session.client.read(REQUEST_BYTES, Some(until), Some(&shared.bell));
        let Ok(Some(line)) = line else { return };
        let answered = match from_line::<Request>(&line) {
            Ok(Request::Stop) => return shared.want_stop(session.client),
            Ok(request) => session.answer(request),
            Err(error) => {
                // There is nothing more to be had from a client that speaks another language.
                let _ = session.say(&Answer::Error(Failure::from(&error)));
                return;
            }
        };
        if answered.is_err() {
            return;
        }
    }
}

struct Session<'a> {
    shared: &'a Shared,
    client: Lines,
    pid: i32,
}

impl Session<'_> {
    fn answer(&mut self, request: Request) -> Result<(), End> {
        let shared = self.shared;
        match request {
            Request::Status => {
                let (pid, holding, lu) =
                    (std::process::id(), shared.holding.clone(), (&shared.lu.status()).into());
                self.say(&Answer::Held(Box::new(Held { pid, holding, lu })))
            }
            Request::Change(change) => {
                let answer = match self.change(&change) {
                    Ok(changed) => Answer::Changed(Box::new((&changed).into())),
                    Err(error) => Answer::Error(Failure::from(&error)),
                };
                self.say(&answer)
            }
            Request::Wait => self.stream(Session::work),
            Request::Pause => {
                self.note("pause".into());
                shared.lu.pause_work();
                self.say(&Answer::Done)
            }
            Request::Resume => {
                self.note("go on".into());
                shared.lu.resume_work();
                self.say(&Answer::Done)
            }
            Request::Events { follow: false } => {
                for event in shared.journal.since(0, Duration::ZERO) {
                    self.say(&Answer::Event(event))?;
                }
                self.say(&Answer::Done)
            }
            Request::Events { follow: true } => self.stream(Session::follow),
            // Does not come here: it takes the connection with it.
            Request::Stop => Ok(()),
        }
    }

    fn change(&self, change: &Change) -> crate::Result<Changed> {
        let _one = lock(&self.shared.changing);
        // What happened before is written down before.
        self.shared.look();
        self.note(sentence(change));
        let changed = self.shared.lu.carry_out(change);
        self.shared.look();
        changed
    }

    fn note(&self, what: String) {
        self.shared.journal.note(EventKind::Order, format!("process {}: {what}", self.pid));
    }

    /// Has one of the places for those who wait while `answer` runs.
    fn stream(&mut self, answer: fn(&mut Self) -> Result<(), End>) -> Result<(), End> {
        let streams = &self.shared.streams;
        let taken = streams.fetch_update(SeqCst, SeqCst, |count| (count < STREAMS).then_some(count + 1));
        if taken.is_err() {
            let error = Error::new(ErrorKind::Busy, format!("{STREAMS} clients wait already"));
            return self.say(&Answer::Error(Failure::from(&error)));
        }
        let answered = answer(self);
        streams.fetch_sub(1, SeqCst);
        answered
    }

    /// Says how long work gets on, to its end.
    fn work(&mut self) -> Result<(), End> {
        let shared = self.shared;
        let mut told: Option<(Instant, Option<Work>)> = None;
        let mut heeded = Instant::now();
        let mut ended = Ok(());
        let watched = shared.lu.watch_work(&mut |work| {
            let another = match told {
                Some((_, before)) => begins(before, work),
                None => true,
            };
            if another || told.is_some_and(|(when, _)| when.elapsed() >= TELL) {
                ended = self.say(&Answer::Work(work.map(LongWork::from)));
                told = Some((Instant::now(), work));
            }
            if heeded.elapsed() >= HEED {
                heeded = Instant::now();
                ended = std::mem::replace(&mut ended, Ok(())).and_then(|()| self.heed());
            }
            ended.is_ok()
        });
        ended?;
        match watched {
            Ok(_) => self.say(&Answer::Done),
            Err(error) => self.say(&Answer::Error(Failure::from(&error))),
        }
    }

    /// Says what happened and what happens.
    fn follow(&mut self) -> Result<(), End> {
        let mut next = 0;
        loop {
            for event in self.shared.journal.since(next, HEED) {
                next = event.number + 1;
                self.say(&Answer::Event(event))?;
            }
            if self.shared.is_leaving() {
                return self.say(&Answer::Done);
            }
            self.heed()?;
        }
    }

    /// Notices that the client is gone, or the server leaves.
    fn heed(&mut self) -> Result<(), End> {
        if self.client.is_closed() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if self.shared.is_leaving() {
            let error = Error::new(ErrorKind::Busy, "the LU is being stopped");
            self.say(&Answer::Error(Failure::from(&error)))?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }

    fn say(&mut self, answer: &Answer) -> Result<(), End> {
        let line = to_line(answer).map_err(io::Error::other)?;
        self.client.write(&line, Instant::now() + PATIENCE)
    }
}

/// Does another stretch of work begin?
fn begins(before: Option<Work>, now: Option<Work>) -> bool {
    match (before, now) {
        (Some(before), Some(now)) => before.kind != now.kind || before.done_bytes > now.done_bytes,
        (before, now) => before.is_some() != now.is_some(),
    }
}

/// A change for people.
fn sentence(change: &Change) -> String {
    let name = |disk: &DiskName| match disk {
        DiskName::Slot(slot) => format!("slot {slot}"),
        DiskName::Path(path) => path.display().to_string(),
    };
    match change {
        Change::Fail { disk } => format!("fail {}", name(disk)),
        Change::Remove { disk } => format!("remove {}", name(disk)),
        Change::RemoveSpare { disk } => format!("remove spare {}", name(disk)),
        Change::Add { disk, .. } => format!("add {}", disk.display()),
        Change::Replace { old, new, .. } => format!("replace {} by {}", old.display(), new.display()),
    }
}
