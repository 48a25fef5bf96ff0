//! What happened to an LU while it was held: a ring of events, made by comparing how it is with how it was.
//!
//! Promises: bounded; events have numbers without gaps, so that a reader notices what it missed. Refuses to
//! know who reads.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::lu::{MemberStatus, Status};

use super::EVENTS;

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Counts from 1, since the LU is held.
    pub number: u64,
    /// When, in milliseconds since the beginning of 1970.
    pub at_millis: u64,
    /// What sort.
    pub kind: EventKind,
    /// A sentence.
    pub text: String,
}

/// Sorts of events.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// The LU is held from now on.
    Held,
    /// The LU's state is another one.
    State,
    /// A disk came, went, or is something else now.
    Member,
    /// Long work begins, ends or pauses.
    Work,
    /// Something an operator should read.
    Warning,
    /// Somebody asked for a change.
    Order,
    /// The holder was asked to stop.
    Stop,
}

impl std::fmt::Display for EventKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            EventKind::Held => "held",
            EventKind::State => "state",
            EventKind::Member => "member",
            EventKind::Work => "work",
            EventKind::Warning => "warning",
            EventKind::Order => "order",
            EventKind::Stop => "stop",
        })
    }
}

#[derive(Debug)]
pub(super) struct Journal {
    ring: Mutex<Ring>,
    news: Condvar,
}

#[derive(Debug)]
struct Ring {
    events: VecDeque<Event>,
    /// The number of the next one.
    next: u64,
    /// How the LU was when it was looked at last.
    last: Status,
}

impl Journal {
    /// Begins with an LU that is `status`.
    pub(super) fn new(status: Status) -> Journal {
        let text = format!("{} is held, {}", status.name, status.state);
        let ring = Ring { events: VecDeque::new(), next: 1, last: status };
        let journal = Journal { ring: Mutex::new(ring), news: Condvar::new() };
        journal.note(EventKind::Held, text);
        journal
    }

    /// Writes something down.
    pub(super) fn note(&self, kind: EventKind, text: String) {
        self.lock().push(kind, text);
        self.news.notify_all();
    }

    /// Writes down how an LU that is `look()` differs from what it was. It is looked at under the lock, so
    /// that nobody writes down later what was so before.
    pub(super) fn observe(&self, look: impl FnOnce() -> Status) {
        let mut ring = self.lock();
        let now = look();
        for (kind, text) in differences(&ring.last, &now) {
            ring.push(kind, text);
        }
        ring.last = now;
        drop(ring);
        self.news.notify_all();
    }

    /// The events from number `first` on, as far as they are remembered; waits up to `patience` for one.
    pub(super) fn since(&self, first: u64, patience: Duration) -> Vec<Event> {
        let ring = self.lock();
        let nothing = |ring: &mut Ring| ring.next <= first;
        let waited = self.news.wait_timeout_while(ring, patience, nothing);
        let ring = waited.unwrap_or_else(PoisonError::into_inner).0;
        ring.events.iter().filter(|event| event.number >= first).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn push(&mut self, kind: EventKind, text: String) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let at_millis = since.map_or(0, |since| since.as_millis() as u64);
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(Event { number: self.next, at_millis, kind, text });
        self.next += 1;
    }
}

/// What is different now, in sentences.
fn differences(was: &Status, now: &Status) -> Vec<(EventKind, String)> {
    let mut all = Vec::new();
    let disks = |status: &'_ Status| -> Vec<MemberStatus> {
        status.members.iter().filter(|member| member.disk != "-").cloned().collect()
    };
    let (before, after) = (disks(was), disks(now));
    for member in &after {
        let old = before.iter().find(|old| old.disk == member.disk);
        if old.is_some_and(|old| (old.slot, old.state) == (member.slot, member.state)) {
            continue;
        }
        let from = old.map_or_else(String::new, |old| format!("{} -> ", place(old)));
        all.push((EventKind::Member, format!("{}: {from}{}", member.disk, place(member))));
    }
    for old in before.iter().filter(|old| after.iter().all(|member| member.disk != old.disk)) {
        all.push((EventKind::Member, format!("{}: {} -> no member", old.disk, place(old))));
    }
    if was.state != now.state {
        all.push((EventKind::State, format!("{} -> {}", was.state, now.state)));
    }
    let kind = |status: &Status| status.work.map(|work| work.kind);
    if kind(was) != kind(now) {
        all.extend(kind(was).map(|kind| (EventKind::Work, format!("{kind} ends"))));
        all.extend(kind(now).map(|kind| (EventKind::Work, format!("{kind} begins"))));
    }
    let new = now.warnings.iter().filter(|warning| !was.warnings.contains(warning));
    all.extend(new.take(EVENTS / 4).map(|warning| (EventKind::Warning, warning.clone())));
    all
}

/// A member's state and slot.
fn place(member: &MemberStatus) -> String {
    match member.slot {
        Some(slot) => format!("{} (slot {slot})", member.state),
        None => member.state.to_string(),
    }
}
