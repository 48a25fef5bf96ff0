//! What an LU looks like from outside: plain values, the same whether it is held or only looked at.

use core::fmt;
use core::ops::Range;
use std::path::Path;

use crate::disk::{Backend, DiskId};
use crate::format::superblock::{Features, Minor, Superblock, Uuid};
use crate::geometry::Geometry;
use crate::plan::{Presence, View};
use crate::recovery::Goal;
use crate::units::{Level, SECTOR, Slot, Stripe};

use super::assemble::{Candidate, Fate, Joined, short_name};
use super::board::{Board, lock};
use super::keeper;

pub use crate::format::placement::Policy;

/// A whole LU.
#[derive(Clone, Debug)]
pub struct Status {
    /// Its name, without md's "homehost:".
    pub name: String,
    /// Its identity.
    pub uuid: Uuid,
    /// Its level.
    pub level: Level,
    /// Its layout by name, `-` where the level has none.
    pub layout: String,
    /// Bytes in a chunk; 0 where the level has none.
    pub chunk_bytes: u64,
    /// Bytes a user can address; 0 if the members at hand do not tell.
    pub size_bytes: u64,
    /// How redundancy is brought back after a crash.
    pub policy: Policy,
    /// What the write-intent bitmap marks, where there is one.
    pub bitmap: Option<Marked>,
    /// Version of the superblocks.
    pub metadata: Minor,
    /// The first that applies.
    pub state: State,
    /// How many more members may fail, whichever they are.
    pub redundancy_left: u16,
    /// By slot, then spares, then members set aside.
    pub members: Vec<MemberStatus>,
    /// Spares ready to take over.
    pub spares: usize,
    /// Long work under way or pending.
    pub work: Option<Work>,
    /// The superblocks say that writes were in flight.
    pub dirty: bool,
    /// The freshest members' event count.
    pub events: u64,
    /// Bytes of the LU that a rebuild could not give back while it was open here: ranges in order.
    pub lost: Vec<Range<u64>>,
    /// Sentences an operator should read.
    pub warnings: Vec<String>,
    /// Commands that would help, ready to be typed.
    pub next: Vec<String>,
    /// Why it cannot be started as it is, if it cannot.
    pub refusal: Option<String>,
}

impl Status {
    /// What names this LU on a command line without any configuration, quoted for a shell: one path if all
    /// members are files of one folder, else all paths joined by commas.
    pub fn argument(&self) -> String {
        let disks = self.members.iter().map(|member| member.disk.as_str());
        let paths: Vec<&str> = disks.filter(|disk| *disk != "-").collect();
        let folder = |path: &str| Path::new(path).parent().map(Path::to_owned);
        let is_file = |path: &str| Path::new(path).is_file();
        match paths.first() {
            Some(first) if paths.iter().all(|path| is_file(path) && folder(path) == folder(first)) => {
                quoted(first)
            }
            _ => quoted(&paths.join(",")),
        }
    }
}

/// `word` as a shell reads it back.
pub fn quoted(word: &str) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || "/._-,:+@%=".contains(c);
    if !word.is_empty() && word.chars().all(harmless) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// The state of an LU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Data is not whole, or the LU cannot start.
    Failed,
    /// A missing slot is being computed onto a new member, or waits to be.
    Rebuilding,
    /// A slot is missing; data is whole.
    Degraded,
    /// Redundancy is being made to agree, or waits to be.
    Resyncing,
    /// All is well.
    Healthy,
}

/// The state of a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemberState {
    /// Holds its slot's data.
    Active,
    /// Holds it up to a watermark.
    Rebuilding,
    /// Failed.
    Faulty,
    /// Was left behind: the others have been written without it.
    Stale,
    /// Its slot is empty.
    Missing,
    /// Ready to take over.
    Spare,
    /// Will take over a slot whose disk still works.
    Replacement,
}

/// One member, or one empty slot.
#[derive(Clone, Debug)]
pub struct MemberStatus {
    /// Its slot; `None` for spares and former members.
    pub slot: Option<u16>,
    /// The disk's path, or `-` for an empty slot.
    pub disk: String,
    /// How it is.
    pub state: MemberState,
    /// Reads that failed while this process held the LU.
    pub read_errors: u64,
    /// Its event count.
    pub events: u64,
    /// Its identity, if there is a member.
    pub uuid: Option<Uuid>,
    /// Why it is set aside.
    pub reason: Option<String>,
}

/// What a write-intent bitmap marks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marked {
    /// Chunks that would be resynced after a crash now.
    pub chunks: u64,
    /// All chunks.
    pub total: u64,
    /// Bytes of a chunk: of each member, of the LU for RAID10.
    pub chunk_bytes: u64,
}

/// Long work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Work {
    /// What.
    pub kind: WorkKind,
    /// Bytes behind the watermark.
    pub done_bytes: u64,
    /// All bytes.
    pub total_bytes: u64,
    /// Estimated rest, once there is something to estimate from.
    pub eta_seconds: Option<u64>,
}

/// Kinds of long work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WorkKind {
    /// Make redundancy agree.
    Resync,
    /// Compute a missing slot onto a new member.
    Rebuild,
    /// Copy a working member to the disk that is to replace it.
    Replace,
}

impl From<Goal> for WorkKind {
    fn from(goal: Goal) -> WorkKind {
        match goal {
            Goal::Resync => WorkKind::Resync,
            Goal::Rebuild(_) => WorkKind::Rebuild,
            Goal::Replace(_) => WorkKind::Replace,
        }
    }
}

macro_rules! names {
    ($type:ident { $($variant:ident = $name:literal),* $(,)? }) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $($type::$variant => $name),* })
            }
        }
    };
}

names!(State {
    Failed = "failed",
    Rebuilding = "rebuilding",
    Degraded = "degraded",
    Resyncing = "resyncing",
    Healthy = "healthy",
});
names!(MemberState {
    Active = "active",
    Rebuilding = "rebuilding",
    Faulty = "faulty",
    Stale = "stale",
    Missing = "missing",
    Spare = "spare",
    Replacement = "replacement",
});
names!(WorkKind { Resync = "resync", Rebuild = "rebuild", Replace = "replace" });

/// What stays the same while an LU is open, and the making of a [`Status`].
#[derive(Clone, Debug)]
pub(super) struct Describe {
    pub name: String,
    pub uuid: Uuid,
    pub memory_align: usize,
    level: Level,
    layout: String,
    chunk_bytes: u64,
    policy: Policy,
    bitmap: Option<Marked>,
    metadata: Minor,
    dirty: bool,
    events: u64,
    warnings: Vec<String>,
    smallest: u64,
}

/// A disk that was offered, or added since.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub disk: DiskId,
    pub name: String,
    pub fate: Fate,
    pub events: u64,
    pub uuid: Option<Uuid>,
    pub dev_number: Option<u32>,
}

impl Row {
    pub(super) fn new(candidate: &Candidate, fate: &Fate) -> Row {
        let sb = candidate.found.as_ref().ok().map(|found| &found.superblock);
        Row {
            disk: candidate.disk,
            name: candidate.name.clone(),
            fate: fate.clone(),
            events: sb.map_or(0, |sb| sb.events),
            uuid: sb.map(|sb| sb.device_uuid),
            dev_number: sb.map(|sb| sb.dev_number),
        }
    }
}

/// A row for every disk that was offered.
pub(super) fn roster(joined: &Joined) -> Vec<Row> {
    joined.candidates.iter().zip(&joined.fates).map(|(candidate, fate)| Row::new(candidate, fate)).collect()
}

impl Describe {
    pub(super) fn new(joined: &Joined, backend: &dyn Backend, memory_align: Option<usize>) -> Describe {
        let facts = joined.facts();
        let in_slots = joined.slots.iter().flatten().map(|&index| joined.candidates[index].disk);
        let sizes = in_slots.map(|disk| backend.info(disk).size.bytes());
        let mut warnings = joined.warnings();
        if !joined.newly_missing.is_empty() {
            let slots = super::slots_named(&joined.newly_missing);
            warnings.push(format!("{slots} had a disk the last time; none of the disks at hand is it"));
        }
        Describe {
            name: short_name(facts),
            uuid: facts.set_uuid,
            memory_align: memory_align.unwrap_or(1),
            level: joined.geometry.level(),
            layout: joined.geometry.layout().to_string(),
            chunk_bytes: joined.geometry.chunk().bytes(),
            policy: policy_of(facts),
            bitmap: joined.bitmap.as_ref().map(|joined| {
                let header = &joined.bitmap.header;
                let (total, chunk_bytes) = (header.bits(), u64::from(header.chunk_bytes));
                Marked { chunks: joined.bitmap.count_set(), total, chunk_bytes }
            }),
            metadata: facts.minor,
            dirty: joined.dirty,
            events: facts.events,
            warnings,
            smallest: sizes.min().unwrap_or(0),
        }
    }

    /// Of an LU that nobody holds open.
    pub(super) fn at_rest(&self, joined: &Joined) -> Status {
        // Whatever changes an LU with a newly absent member has to be told to record that first.
        let flag = if joined.newly_missing.is_empty() { "" } else { " --degraded" };
        let mut status = self.status(&roster(joined), &joined.geometry, &joined.view, &|_| 0, flag);
        // Nobody holds it, so nobody goes on with what is pending.
        if status.work.is_some() && status.next.is_empty() {
            status.next.push(format!("uraid rebuild {}{flag}", status.argument()));
        }
        status.refusal = joined.refusal.as_ref().map(|refusal| refusal.to_string());
        if status.refusal.is_some() {
            status.state = State::Failed;
            status.next.clear();
        }
        status
    }

    /// Of an LU that is open here.
    pub(super) fn now(&self, board: &Board) -> Status {
        // In this order: see `Keeper::publish_if_changed`.
        let roster = lock(&board.roster);
        let view = board.health().view.clone();
        let rows = roster.clone();
        drop(roster);
        let mut status = self.status(&rows, &board.geometry, &view, &|slot| board.read_errors(slot), "");
        if let Some(work) = *lock(&board.work) {
            status.work = Some(work);
        }
        if !board.read_only {
            status.dirty = board.shared.is_dirty() || view.synced_below != u64::MAX;
            if let Some(bitmap) = &mut status.bitmap {
                bitmap.chunks = board.chunks_marked();
            }
        }
        status.warnings.extend(lock(&board.notes).iter().cloned());
        status.lost = board.lost();
        let lost = status
            .lost
            .iter()
            .map(|range| format!("{} bytes at {} of the LU are lost", range.end - range.start, range.start));
        status.warnings.extend(lost);
        status
    }

    fn status(
        &self,
        rows: &[Row],
        geometry: &Geometry,
        view: &View,
        read_errors: &dyn Fn(Slot) -> u64,
        flag: &str,
    ) -> Status {
        let missing = view.missing();
        let incomplete = view.incomplete();
        let work = pending(geometry, view);
        let whole = geometry.tolerates(&incomplete);
        let state = match work.map(|work| work.kind) {
            _ if !whole => State::Failed,
            Some(WorkKind::Rebuild) => State::Rebuilding,
            _ if !missing.is_empty() => State::Degraded,
            Some(WorkKind::Resync) => State::Resyncing,
            // Redundancy is whole while a disk that works is copied.
            Some(WorkKind::Replace) | None => State::Healthy,
        };
        let mut status = Status {
            name: self.name.clone(),
            uuid: self.uuid,
            level: self.level,
            layout: self.layout.clone(),
            chunk_bytes: self.chunk_bytes,
            size_bytes: geometry.size().bytes(),
            policy: self.policy,
            bitmap: self.bitmap,
            metadata: self.metadata,
            state,
            redundancy_left: if whole { geometry.redundancy_left(&incomplete) } else { 0 },
            members: members(rows, view, read_errors),
            spares: rows.iter().filter(|row| row.fate == Fate::Spare).count(),
            work,
            dirty: self.dirty,
            events: self.events,
            lost: Vec::new(),
            warnings: self.warnings.clone(),
            next: Vec::new(),
            refusal: None,
        };
        self.advise(&mut status, geometry.is_redundant(), missing.len(), flag);
        status
    }

    /// What an operator should know and do; `flag` is what commands that change the LU need.
    fn advise(&self, status: &mut Status, redundant: bool, missing: usize, flag: &str) {
        if !redundant || missing == 0 {
            return;
        }
        if status.spares == 0 {
            status.warnings.push("NO SPARE LEFT".into());
        }
        match status.redundancy_left {
            0 if status.state != State::Failed => {
                status.warnings.push("no further member may fail: the next failure loses data".into());
            }
            _ => {}
        }
        if status.state == State::Degraded {
            let lu = status.argument();
            status.next.push(match status.spares {
                0 => format!("uraid add {lu} DISK{flag}   # of at least {} bytes", self.smallest),
                _ => format!("uraid rebuild {lu}{flag}"),
            });
        }
    }
}

/// By slot; then spares, replacements and former members.
fn members(rows: &[Row], view: &View, read_errors: &dyn Fn(Slot) -> u64) -> Vec<MemberStatus> {
    let mut all = Vec::new();
    let mut placed = vec![false; rows.len()];
    for (index, member) in view.members.iter().enumerate() {
        let slot = Slot(index as u16);
        let state = match member.presence {
            Presence::Missing => MemberState::Missing,
            Presence::Present => MemberState::Active,
            Presence::Below(_) => MemberState::Rebuilding,
        };
        let row = rows.iter().position(|row| row.fate == Fate::Active(slot));
        // A member that failed while we held the LU leaves an empty slot and is listed as a former one.
        let row = row.filter(|_| state != MemberState::Missing);
        if let Some(row) = row {
            placed[row] = true;
        }
        all.push(MemberStatus {
            slot: Some(slot.0),
            disk: row.map_or("-".into(), |row| rows[row].name.clone()),
            state,
            read_errors: read_errors(slot),
            events: row.map_or(0, |row| rows[row].events),
            uuid: row.and_then(|row| rows[row].uuid),
            reason: None,
        });
    }
    for (row, _) in rows.iter().zip(&placed).filter(|&(_, placed)| !placed) {
        let (state, reason) = match &row.fate {
            Fate::Spare => (MemberState::Spare, None),
            Fate::Replacement(slot) => {
                (MemberState::Replacement, Some(format!("is to replace {slot}'s disk")))
            }
            Fate::Aside(state, why) => (*state, Some(why.clone())),
            Fate::Active(slot) => (MemberState::Faulty, Some(format!("it failed in {slot}"))),
        };
        let read_errors = match row.fate {
            Fate::Active(slot) => read_errors(slot),
            _ => 0,
        };
        let slot = match row.fate {
            Fate::Replacement(slot) => Some(slot.0),
            _ => None,
        };
        let (disk, events, uuid) = (row.name.clone(), row.events, row.uuid);
        all.push(MemberStatus { slot, disk, state, read_errors, events, uuid, reason });
    }
    all
}

fn policy_of(facts: &Superblock) -> Policy {
    if facts.features.has_ppl() {
        Policy::Ppl
    } else if facts.features.contains(Features::BITMAP) {
        Policy::Bitmap
    } else {
        Policy::None
    }
}

fn pending(geometry: &Geometry, view: &View) -> Option<Work> {
    if !geometry.is_redundant() {
        return None;
    }
    // A slot that is not whole is what counts most, although redundancy is made to agree before it is rebuilt.
    let rebuild = keeper::pending(&View { synced_below: u64::MAX, ..view.clone() });
    let rebuild = rebuild.filter(|(goal, _)| matches!(goal, Goal::Rebuild(_)));
    let (goal, done) = rebuild.or_else(|| keeper::pending(view))?;
    let total = match goal {
        Goal::Rebuild(slot) | Goal::Replace(slot) => geometry.member_used(slot),
        Goal::Resync if geometry.synced_unit_is_lu() => geometry.size(),
        Goal::Resync => geometry.member_used(Slot(0)),
    };
    let unit = geometry.unit().0.max(1);
    let (done, total) = match (&view.suspects, goal) {
        (Some(set), Goal::Resync) => (set.count_below(Stripe(done / unit)) * unit, set.count() * unit),
        _ => (done.min(total.0), total.0),
    };
    let (done, total) = (done * SECTOR, total * SECTOR);
    Some(Work { kind: goal.into(), done_bytes: done, total_bytes: total, eta_seconds: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting() {
        assert_eq!(quoted("/tmp/a,/tmp/b"), "/tmp/a,/tmp/b");
        assert_eq!(quoted("it's here"), r"'it'\''s here'");
        assert_eq!(quoted(""), "''");
    }
}
