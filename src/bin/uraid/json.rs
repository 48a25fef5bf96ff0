//! An LU for programs: the shapes behind `uraid.status/1`, which other documents use too.
//!
//! Sizes are bytes, times RFC 3339. What is not there is `null`: the layout of a level that has none, the
//! disk of an empty slot, the slot of a spare.

use std::ops::Range;

use jiff::Timestamp;
use serde::Serialize;
use uraid::format::superblock::Time;
use uraid::lu::{Marked, MemberStatus, Status, Work};

/// An LU.
#[derive(Serialize)]
pub(crate) struct Lu<'a> {
    name: &'a str,
    uuid: String,
    level: String,
    layout: Option<&'a str>,
    chunk_bytes: u64,
    size_bytes: u64,
    policy: String,
    bitmap: Option<Bitmap>,
    metadata: String,
    state: String,
    redundancy_left: u16,
    members: Vec<Member<'a>>,
    spares: usize,
    work: Option<LongWork>,
    dirty: bool,
    events: u64,
    warnings: &'a [String],
    next: &'a [String],
    refusal: Option<&'a str>,
}

#[derive(Serialize)]
struct Bitmap {
    dirty_chunks: u64,
    chunks: u64,
    chunk_bytes: u64,
}

#[derive(Serialize)]
struct Member<'a> {
    slot: Option<u16>,
    disk: Option<&'a str>,
    state: String,
    read_errors: u64,
    events: Option<u64>,
    uuid: Option<String>,
    reason: Option<&'a str>,
}

#[derive(Serialize)]
struct LongWork {
    kind: String,
    done_bytes: u64,
    total_bytes: u64,
    eta_seconds: Option<u64>,
}

/// Bytes of an LU that a rebuild could not give back.
#[derive(Serialize)]
pub(crate) struct Lost {
    offset: u64,
    bytes: u64,
}

/// Several LUs, and those that the configuration names but that could not be looked at.
#[derive(Serialize)]
pub(crate) struct Lus<'a> {
    pub(crate) lus: Vec<Lu<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) unavailable: Vec<Unavailable>,
}

/// An LU that could not be looked at.
#[derive(Serialize)]
pub(crate) struct Unavailable {
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    pub(crate) message: String,
}

impl<'a> From<&'a Status> for Lu<'a> {
    fn from(status: &'a Status) -> Lu<'a> {
        Lu {
            name: &status.name,
            uuid: status.uuid.to_string(),
            level: status.level.to_string(),
            layout: present(&status.layout),
            chunk_bytes: status.chunk_bytes,
            size_bytes: status.size_bytes,
            policy: status.policy.to_string(),
            bitmap: status.bitmap.map(Bitmap::from),
            metadata: status.metadata.to_string(),
            state: status.state.to_string(),
            redundancy_left: status.redundancy_left,
            members: status.members.iter().map(Member::from).collect(),
            spares: status.spares,
            work: status.work.map(LongWork::from),
            dirty: status.dirty,
            events: status.events,
            warnings: &status.warnings,
            next: &status.next,
            refusal: status.refusal.as_deref(),
        }
    }
}

impl<'a> From<&'a MemberStatus> for Member<'a> {
    fn from(member: &'a MemberStatus) -> Member<'a> {
        Member {
            slot: member.slot,
            disk: present(&member.disk),
            state: member.state.to_string(),
            read_errors: member.read_errors,
            events: member.uuid.map(|_| member.events),
            uuid: member.uuid.map(|uuid| uuid.to_string()),
            reason: member.reason.as_deref(),
        }
    }
}

impl From<Marked> for Bitmap {
    fn from(marked: Marked) -> Bitmap {
        Bitmap { dirty_chunks: marked.chunks, chunks: marked.total, chunk_bytes: marked.chunk_bytes }
    }
}

impl From<Work> for LongWork {
    fn from(work: Work) -> LongWork {
        LongWork {
            kind: work.kind.to_string(),
            done_bytes: work.done_bytes,
            total_bytes: work.total_bytes,
            eta_seconds: work.eta_seconds,
        }
    }
}

/// What was lost while the LU of `status` was held.
pub(crate) fn lost(status: &Status) -> Vec<Lost> {
    let range = |range: &Range<u64>| Lost { offset: range.start, bytes: range.end - range.start };
    status.lost.iter().map(range).collect()
}

/// Of several LUs, all of which could be looked at.
pub(crate) fn lus(statuses: &[Status]) -> Lus<'_> {
    Lus { lus: statuses.iter().map(Lu::from).collect(), unavailable: Vec::new() }
}

/// A superblock's time; `None` if it was never set or is beyond the calendar.
pub(crate) fn timestamp(time: Time) -> Option<Timestamp> {
    let seconds = i64::try_from(time.seconds).ok().filter(|seconds| *seconds != 0)?;
    // The field has room for more than a million microseconds.
    let nanoseconds = if time.micros < 1_000_000 { time.micros as i32 * 1000 } else { 0 };
    Timestamp::new(seconds, nanoseconds).ok()
}

/// The text, unless it is the dash that stands for none.
fn present(text: &str) -> Option<&str> {
    (text != "-").then_some(text)
}
