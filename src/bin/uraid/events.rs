//! `uraid events`: what happened to an LU since it is held, and with `--follow` what happens. Asks the
//! holder; an LU that nobody holds has no events.

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use uraid::ErrorKind;
use uraid::serve::control::Event;

use crate::console::Console;
use crate::failure::{Failure, Outcome};
use crate::target::{Leave, Target};

/// Show what happened to an LU since it is held.
#[derive(Args)]
pub(crate) struct Events {
    /// The LU: a member's path, paths joined by commas, a name or a UUID.
    lu: String,
    /// Go on with what happens, until the LU is let go of; with --json a document a line.
    #[arg(short, long)]
    follow: bool,
}

#[derive(Serialize)]
struct Report {
    events: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    number: u64,
    time: Option<String>,
    kind: String,
    text: String,
}

impl Events {
    pub(crate) fn run(self, console: &Console) -> Outcome {
        let target = Target::resolve(&self.lu)?;
        let Some(mut client) = target.holder()? else {
            target.look(&Leave::default())?;
            target.refuse_held()?;
            let text = format!("nobody holds {}: events are kept by its holder", target.label);
            return Err(Failure::of(ErrorKind::NotFound, text));
        };
        let mut told = Ok(());
        let mut kept = Vec::new();
        client.events(self.follow, &mut |event| {
            let entry = Entry::from(event);
            if !console.is_json() {
                told = console.line(entry.line());
            } else if self.follow {
                told = console.compact("event", entry);
            } else {
                kept.push(entry);
            }
            told.is_ok()
        })?;
        told?;
        match console.is_json() && !self.follow {
            true => console.document("events", Report { events: kept }),
            false => Ok(()),
        }
    }
}

impl From<Event> for Entry {
    fn from(event: Event) -> Entry {
        let time = i64::try_from(event.at_millis).ok();
        let time = time.and_then(|time| Timestamp::from_millisecond(time).ok());
        let time = time.map(|time| format!("{time:.3}"));
        Entry { number: event.number, time, kind: event.kind.to_string(), text: event.text }
    }
}

impl Entry {
    fn line(&self) -> String {
        let time = self.time.as_deref().unwrap_or("-");
        format!("{time}  {:<7}  {}", self.kind, self.text)
    }
}
