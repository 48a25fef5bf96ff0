//! What an LU looks like from outside: plain values, the same whether it is held or only looked at.

use core::fmt;

use crate::format::superblock::{Minor, Uuid};
use crate::units::Level;

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
    /// Sentences an operator should read.
    pub warnings: Vec<String>,
    /// Commands that would help, ready to be typed.
    pub next: Vec<String>,
    /// Why it cannot be started as it is, if it cannot.
    pub refusal: Option<String>,
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
}

/// How redundancy is brought back after a crash.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Policy {
    /// Everything is resynced.
    #[default]
    None,
    /// Regions marked in a write-intent bitmap are resynced.
    Bitmap,
    /// The partial parity log is replayed.
    Ppl,
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
names!(WorkKind { Resync = "resync", Rebuild = "rebuild" });
names!(Policy { None = "none", Bitmap = "bitmap", Ppl = "ppl" });
