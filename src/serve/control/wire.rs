//! The documents of the control socket, and an LU's status in them and back. Pure.
//!
//! Promises: what is parsed is what was meant or an error, never a panic; what is not understood in a
//! question is refused, in an answer passed over, so that an older client reads a newer holder. Sizes are
//! bytes.

use std::ops::Range;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::format::superblock::Minor;
use crate::lu::{Change, Changed, Marked, MemberState, MemberStatus, Policy, State, Status, Work, WorkKind};
use crate::units::Level;

use super::Event;

/// A question, or an order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How is the LU, and who holds it? Answered by [`Answer::Held`].
    Status,
    /// Make a change. Answered by [`Answer::Changed`].
    Change(Change),
    /// Say how long work gets on ([`Answer::Work`]) until there is none, then [`Answer::Done`].
    Wait,
    /// Pause long work. Answered by [`Answer::Done`].
    Pause,
    /// Go on with long work. Answered by [`Answer::Done`].
    Resume,
    /// What has happened: an [`Answer::Event`] each, then [`Answer::Done`].
    Events {
        /// Go on with what happens from now on, without end.
        follow: bool,
    },
    /// Let go of the LU, clean. Answered by [`Answer::Done`] when that is done.
    Stop,
}

/// An answer, or a part of one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The LU and its holder.
    Held(Box<Held>),
    /// The change is made, and on record.
    Changed(Box<Told>),
    /// How long work gets on; nothing between two stretches. More follows.
    Work(Option<LongWork>),
    /// Something that happened. More follows.
    Event(Event),
    /// It is done, or there is no more.
    Done,
    /// It is not done.
    Error(Failure),
}

/// What an LU is held for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Holding {
    /// What its holder calls the LU, if that is not the name its members carry.
    pub label: Option<String>,
    /// Where it is served: URIs.
    pub exports: Vec<String>,
    /// It is open for reading only.
    pub read_only: bool,
}

/// An LU and its holder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Held {
    /// The holder's process.
    pub pid: u32,
    /// What it holds the LU for.
    pub holding: Holding,
    /// The LU.
    pub lu: Lu,
}

/// A change that was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Told {
    before: Option<Member>,
    disk: Option<PathBuf>,
    lu: Lu,
}

/// Why something is not done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// The name of an [`ErrorKind`], such as `not_found`.
    pub kind: String,
    /// The sentence.
    pub message: String,
}

/// A [`Status`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Lu {
    name: String,
    uuid: String,
    level: String,
    layout: String,
    chunk_bytes: u64,
    size_bytes: u64,
    policy: String,
    bitmap: Option<Bitmap>,
    metadata: String,
    state: String,
    redundancy_left: u16,
    members: Vec<Member>,
    spares: usize,
    work: Option<LongWork>,
    dirty: bool,
    events: u64,
    lost: Vec<Range<u64>>,
    warnings: Vec<String>,
    next: Vec<String>,
    refusal: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Bitmap {
    chunks: u64,
    total: u64,
    chunk_bytes: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Member {
    slot: Option<u16>,
    disk: String,
    state: String,
    read_errors: u64,
    events: u64,
    uuid: Option<String>,
    reason: Option<String>,
}

/// A [`Work`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LongWork {
    kind: String,
    done_bytes: u64,
    total_bytes: u64,
    eta_seconds: Option<u64>,
}

/// Most ranges and most warnings of an LU that are told; the rest would not help anybody.
const MOST: usize = 1000;

const KINDS: [(ErrorKind, &str); 7] = [
    (ErrorKind::Io, "io"),
    (ErrorKind::Usage, "usage"),
    (ErrorKind::NotFound, "not_found"),
    (ErrorKind::CannotStart, "cannot_start"),
    (ErrorKind::Busy, "busy"),
    (ErrorKind::Refused, "refused"),
    (ErrorKind::Format, "format"),
];

const STATES: [State; 5] =
    [State::Failed, State::Rebuilding, State::Degraded, State::Resyncing, State::Healthy];
const MEMBER_STATES: [MemberState; 7] = [
    MemberState::Active,
    MemberState::Rebuilding,
    MemberState::Faulty,
    MemberState::Stale,
    MemberState::Missing,
    MemberState::Spare,
    MemberState::Replacement,
];
const POLICIES: [Policy; 3] = [Policy::None, Policy::Bitmap, Policy::Ppl];
const WORK_KINDS: [WorkKind; 3] = [WorkKind::Resync, WorkKind::Rebuild, WorkKind::Replace];

/// The document as a line, without its newline.
pub fn to_line(document: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(document)
        .map_err(|error| Error::new(ErrorKind::Usage, format!("cannot be said: {error}")).with_source(error))
}

/// The document that `line` is.
///
/// # Errors
/// [`ErrorKind::Usage`] if it is none.
pub fn from_line<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T> {
    serde_json::from_slice(line)
        .map_err(|error| Error::new(ErrorKind::Usage, format!("not understood: {error}")).with_source(error))
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Failure {
        let known = KINDS.iter().find(|(kind, _)| *kind == error.kind());
        let kind = known.map_or("io", |(_, name)| name).to_owned();
        // The sentences of the library carry what matters of their cause.
        Failure { kind, message: error.to_string() }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        let known = KINDS.iter().find(|(_, name)| *name == failure.kind);
        Error::new(known.map_or(ErrorKind::Io, |(kind, _)| *kind), failure.message)
    }
}

impl From<&Changed> for Told {
    fn from(changed: &Changed) -> Told {
        Told {
            before: changed.before.as_ref().map(Member::from),
            disk: changed.disk.clone(),
            lu: Lu::from(&changed.status),
        }
    }
}

impl TryFrom<Told> for Changed {
    type Error = Error;

    fn try_from(told: Told) -> Result<Changed> {
        let before = told.before.map(MemberStatus::try_from).transpose()?;
        Ok(Changed { before, disk: told.disk, status: told.lu.try_into()? })
    }
}

impl From<&Status> for Lu {
    fn from(status: &Status) -> Lu {
        Lu {
            name: status.name.clone(),
            uuid: status.uuid.to_string(),
            level: status.level.to_string(),
            layout: status.layout.clone(),
            chunk_bytes: status.chunk_bytes,
            size_bytes: status.size_bytes,
            policy: status.policy.to_string(),
            bitmap: status.bitmap.map(|marked| {
                let Marked { chunks, total, chunk_bytes } = marked;
                Bitmap { chunks, total, chunk_bytes }
            }),
            metadata: status.metadata.to_string(),
            state: status.state.to_string(),
            redundancy_left: status.redundancy_left,
            members: status.members.iter().map(Member::from).collect(),
            spares: status.spares,
            work: status.work.map(LongWork::from),
            dirty: status.dirty,
            events: status.events,
            lost: status.lost.iter().take(MOST).cloned().collect(),
            warnings: status.warnings.iter().take(MOST).cloned().collect(),
            next: status.next.clone(),
            refusal: status.refusal.clone(),
        }
    }
}

impl TryFrom<Lu> for Status {
    type Error = Error;

    fn try_from(lu: Lu) -> Result<Status> {
        Ok(Status {
            name: lu.name,
            uuid: lu.uuid.parse()?,
            level: named(&Level::ALL, &lu.level)?,
            layout: lu.layout,
            chunk_bytes: lu.chunk_bytes,
            size_bytes: lu.size_bytes,
            policy: named(&POLICIES, &lu.policy)?,
            bitmap: lu.bitmap.map(|Bitmap { chunks, total, chunk_bytes }| Marked {
                chunks,
                total,
                chunk_bytes,
            }),
            metadata: named(&Minor::ALL, &lu.metadata)?,
            state: named(&STATES, &lu.state)?,
            redundancy_left: lu.redundancy_left,
            members: lu.members.into_iter().map(MemberStatus::try_from).collect::<Result<_>>()?,
            spares: lu.spares,
            work: lu.work.map(Work::try_from).transpose()?,
            dirty: lu.dirty,
            events: lu.events,
            lost: lu.lost,
            warnings: lu.warnings,
            next: lu.next,
            refusal: lu.refusal,
        })
    }
}

impl From<&MemberStatus> for Member {
    fn from(member: &MemberStatus) -> Member {
        Member {
            slot: member.slot,
            disk: absolute(&member.disk),
            state: member.state.to_string(),
            read_errors: member.read_errors,
            events: member.events,
            uuid: member.uuid.map(|uuid| uuid.to_string()),
            reason: member.reason.clone(),
        }
    }
}

/// The path for somebody in another folder.
fn absolute(disk: &str) -> String {
    let path = if disk == "-" { None } else { std::path::absolute(disk).ok() };
    path.and_then(|path| path.into_os_string().into_string().ok()).unwrap_or_else(|| disk.to_owned())
}

impl TryFrom<Member> for MemberStatus {
    type Error = Error;

    fn try_from(member: Member) -> Result<MemberStatus> {
        Ok(MemberStatus {
            slot: member.slot,
            disk: member.disk,
            state: named(&MEMBER_STATES, &member.state)?,
            read_errors: member.read_errors,
            events: member.events,
            uuid: member.uuid.map(|uuid| uuid.parse()).transpose()?,
            reason: member.reason,
        })
    }
}

impl From<Work> for LongWork {
    fn from(work: Work) -> LongWork {
        let Work { kind, done_bytes, total_bytes, eta_seconds } = work;
        LongWork { kind: kind.to_string(), done_bytes, total_bytes, eta_seconds }
    }
}

impl TryFrom<LongWork> for Work {
    type Error = Error;

    fn try_from(work: LongWork) -> Result<Work> {
        let LongWork { kind, done_bytes, total_bytes, eta_seconds } = work;
        Ok(Work { kind: named(&WORK_KINDS, &kind)?, done_bytes, total_bytes, eta_seconds })
    }
}

/// The one of `all` that goes by `name`.
fn named<T: Copy + std::fmt::Display>(all: &[T], name: &str) -> Result<T> {
    all.iter().find(|one| one.to_string() == name).copied().ok_or_else(|| {
        Error::new(
            ErrorKind::Format,
            format!("the holder says '{}', which is not known here", name.escape_default()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::superblock::Uuid;
    use crate::lu::DiskName;

    fn status() -> Status {
        let member = |slot, disk: &str, state| MemberStatus {
            slot,
            disk: disk.into(),
            state,
            read_errors: 3,
            events: 18,
            uuid: Some(Uuid([9; 16])),
            reason: Some("why \"not\"\n".into()),
        };
        let state = |(number, state): (usize, &MemberState)| member(Some(number as u16), "/x/d", *state);
        Status {
            name: "data \u{1f4be}".into(),
            uuid: Uuid([7; 16]),
            level: Level::ALL[4],
            layout: "left-symmetric".into(),
            chunk_bytes: 65536,
            size_bytes: u64::MAX,
            policy: Policy::Bitmap,
            bitmap: Some(Marked { chunks: 1, total: 2, chunk_bytes: 3 }),
            metadata: Minor::V1_2,
            state: State::Rebuilding,
            redundancy_left: 1,
            members: MEMBER_STATES.iter().enumerate().map(state).collect(),
            spares: 1,
            work: Some(Work { kind: WorkKind::Replace, done_bytes: 1, total_bytes: 2, eta_seconds: None }),
            dirty: true,
            events: 18,
            lost: std::iter::once(5..6).collect(),
            warnings: vec!["NO SPARE LEFT".into()],
            next: vec!["uraid add".into()],
            refusal: None,
        }
    }

    #[test]
    fn a_status_comes_back_as_it_went() {
        for policy in POLICIES {
            for level in Level::ALL {
                let status = Status { level, policy, ..status() };
                let line = to_line(&Lu::from(&status)).unwrap();
                assert!(!line.contains(&b'\n'));
                let back: Lu = from_line(&line).unwrap();
                assert_eq!(format!("{:?}", Status::try_from(back).unwrap()), format!("{status:?}"));
            }
        }
    }

    #[test]
    fn the_largest_lu_fits_into_an_answer() {
        let mut status = status();
        status.members = vec![status.members[0].clone(); 1920];
        status.lost = vec![u64::MAX - 1..u64::MAX; 100_000];
        status.warnings = vec!["123 bytes at 123456789 of the LU are lost".into(); 100_000];
        let answer =
            Answer::Held(Box::new(Held { pid: 1, holding: Holding::default(), lu: (&status).into() }));
        assert!(to_line(&answer).unwrap().len() < super::super::ANSWER_BYTES);
    }

    #[test]
    fn questions_as_they_are_written() {
        for (line, request) in [
            (r#""status""#, Request::Status),
            (r#"{"events":{"follow":true}}"#, Request::Events { follow: true }),
            (
                r#"{"change":{"fail":{"disk":{"slot":2}}}}"#,
                Request::Change(Change::Fail { disk: DiskName::Slot(2) }),
            ),
            (
                r#"{"change":{"add":{"disk":"/a","overwrite":false}}}"#,
                Request::Change(Change::Add { disk: "/a".into(), overwrite: false }),
            ),
        ] {
            assert_eq!(from_line::<Request>(line.as_bytes()).unwrap(), request);
            assert_eq!(to_line(&request).unwrap(), line.as_bytes());
        }
        for wrong in [
            "",
            "{}",
            "null",
            r#""start""#,
            r#"{"events":{"follow":true,"more":1}}"#,
            r#"{"change":{"add":{"disk":"/a"}}}"#,
            r#"{"change":{"fail":{"disk":{"slot":70000}}}}"#,
            r#""status" "status""#,
            "\u{0}",
        ] {
            assert_eq!(
                from_line::<Request>(wrong.as_bytes()).unwrap_err().kind(),
                ErrorKind::Usage,
                "{wrong}"
            );
        }
    }

    #[test]
    fn errors_keep_their_kind() {
        for (kind, _) in KINDS {
            let error = Error::from(Failure::from(&Error::new(kind, "why")));
            assert_eq!((error.kind(), error.to_string().as_str()), (kind, "why"));
        }
    }
}
