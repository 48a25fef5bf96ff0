//! What to do with a stripe, as a plain value.
//!
//! A [`Plan`] is one line of stages: *gather* (reads), *fold* (linear combinations over GF(2^8)), *scatter* (writes).
//! Healthy read, degraded read, full-stripe write, read-modify-write, reconstruct-write, resync, rebuild and the repair of
//! an unreadable sector are all this line; an empty stage costs nothing. [`plan`] is a pure function of the geometry of
//! one stripe, the [`View`] of the members and what is wanted. It is the only place that knows what redundancy *does*,
//! and it knows it once, for all levels:
//!
//! - A stripe is `k` data symbols and a list of cells; every cell is a linear function of the data: itself (data,
//!   copies), the sum (P), the sum weighted by powers of the generator (Q).
//! - In one run of rows a cell is *good* (read and written), *to be filled* (written; what it
//!   holds is not to be believed: above a rebuild's watermark, unreadable, or redundancy not yet in sync), *bad* (on a
//!   list of bad blocks: neither, until a write brings all of it) or *gone* (no disk). All that health means is in these
//!   four words.
//! - A slot whose disk is being replaced has two disks: a cell there is worth what the better of them is, is read from
//!   that one, and every write of it goes to both. To *fill* is then also to give one what the other has.
//! - A band is cut into *segments*, runs of rows in which the statuses and the set of written cells are the same. Each
//!   segment is planned by itself; neighbouring operations on a cell are joined again.
//!
//! Three ways make new parity. Each is possible if all it must read is good; the cheapest possible one is taken:
//!
//! | way | reads | possible if |
//! |---|---|---|
//! | read-modify-write | old data of what is written, old parity | these are good, no parity is to be filled |
//! | reconstruct-write | data of what is not written | that is good |
//! | reconstruct first | enough to decode the stripe, then as above | as many good parities as lost data cells |
//!
//! *Never subtract from parity that is not in sync* is not a rule here but a consequence: such parity is *to be filled*.
//!
//! Where the view says that partial parity is logged, a write also names what the log needs ([`LogPart`]): reads are
//! widened to the log's units of 4 KiB, and one more lane takes the sum of what is not written.
//!
//! The plan moves names of buffers, not bytes: [`Buf`] is a client's piece or a scratch *lane*, one lane per cell.

mod cost;
mod log;
mod planner;
mod stripes;
mod view;

#[cfg(test)]
mod tests;

pub use cost::{Cost, cost, rebuild_cost};
pub use log::{LOG_ROWS, LogPart, expressible};
pub use planner::{direct, is_plain_everywhere, plan, summed, write_all_copies};
pub use stripes::StripeSet;
pub use view::{Member, Presence, View};

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use crate::units::{MemberLba, Sectors, Slot, Stripe};

/// A run of rows of a stripe: sectors counted from the start of each cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct Rows {
    /// First row.
    pub start: u32,
    /// One past the last row.
    pub end: u32,
}

impl Rows {
    /// Rows `start..end`.
    pub const fn new(start: u32, end: u32) -> Rows {
        Rows { start, end }
    }

    /// How many rows, in sectors.
    pub const fn len(self) -> u32 {
        self.end - self.start
    }

    /// No rows?
    pub const fn is_empty(self) -> bool {
        self.end <= self.start
    }

    /// Do both have a row in common?
    pub const fn overlaps(self, other: Rows) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// The smallest run that holds both; an empty one counts for nothing.
    pub fn hull(self, other: Rows) -> Rows {
        if self.is_empty() {
            other
        } else if other.is_empty() {
            self
        } else {
            Rows::new(self.start.min(other.start), self.end.max(other.end))
        }
    }
}

/// A run of rows of one data cell that the client reads or writes. Pieces of one band never overlap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Which data cell of the stripe.
    pub data: u16,
    /// Which rows of it.
    pub rows: Rows,
}

/// What is wanted of a stripe.
#[derive(Clone, Copy, Debug)]
pub enum Want<'a> {
    /// The content of these pieces.
    Read(&'a [Piece]),
    /// New content for these pieces, redundancy kept.
    Write(&'a [Piece]),
    /// The same with nothing but zeroes, which come from nowhere ([`Base::Zero`]).
    Zero(&'a [Piece]),
    /// Every cell that may be written but not believed is to be made right: resync, rebuild and repair in one.
    Fill(Rows),
}

impl<'a> Want<'a> {
    /// The client's pieces.
    pub const fn pieces(self) -> &'a [Piece] {
        match self {
            Want::Read(pieces) | Want::Write(pieces) | Want::Zero(pieces) => pieces,
            Want::Fill(_) => &[],
        }
    }

    /// Is there new content for the client's pieces?
    pub const fn is_write(self) -> bool {
        matches!(self, Want::Write(_) | Want::Zero(_))
    }
}

/// A run of rows of a slot that just failed to read: written, but not to be believed in this plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Whose.
    pub slot: Slot,
    /// Which rows of the stripe.
    pub rows: Rows,
}

/// Where bytes are: a name, and how many sectors into it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Buf {
    /// Whose memory.
    pub base: Base,
    /// Sectors from its start.
    pub sector: u32,
}

/// The owner of a [`Buf`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Base {
    /// The client's memory for the piece with this index.
    Client(u32),
    /// Scratch memory of the plan, [`Plan::lane_rows`] long.
    Lane(u16),
    /// No memory: what is to be written is zero. Never read into, and no operand of a fold.
    Zero,
}

/// One disk operation of a plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Io {
    /// On which disk: the slot's, or by a higher number its replacement ([`View::device`]).
    pub slot: Slot,
    /// Which cell of the stripe lies there.
    pub cell: u16,
    /// Where in the member's data area.
    pub at: MemberLba,
    /// The rows it covers; their count is its length in sectors.
    pub rows: Rows,
    /// From or into which memory.
    pub buf: Buf,
}

/// Bad sectors that a write makes good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heal {
    /// Whose, by the number that [`Io::slot`] has.
    pub slot: Slot,
    /// The first, in the member's data area.
    pub at: MemberLba,
    /// How many.
    pub sectors: Sectors,
}

/// A source of a fold and its factor for each target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Term {
    /// The source.
    pub buf: Buf,
    /// Its factors in GF(2^8).
    pub coef: [u8; 2],
}

/// `target[i] = sum of coef[i] * source`, added to what the target holds if `accumulate`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fold {
    /// One or two targets.
    pub target: [Option<Buf>; 2],
    /// Sectors in each operand.
    pub sectors: u32,
    /// Its sources, in [`Plan::terms`].
    pub terms: Range<u32>,
    /// Add to the targets instead of setting them.
    pub accumulate: bool,
}

/// How the parity of a segment is made. For reading a plan, and for tests; the executor does not look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// Read as it lies.
    Direct,
    /// Decode what is lost.
    Reconstruct,
    /// No parity to keep: the data, or all copies, are written.
    Plain,
    /// Read-modify-write.
    Modify,
    /// Reconstruct-write; with nothing to read, a full-stripe write.
    Rewrite,
    /// Reconstruct what is lost, then reconstruct-write.
    DecodeRewrite,
    /// Make every `Fill` cell right.
    Fill,
}

/// The work for one band of one stripe. Made once, then filled again and again by [`plan`] without allocating.
#[derive(Clone, Default)]
pub struct Plan {
    /// The stripe.
    pub stripe: Stripe,
    /// All rows the plan touches: what its row lock must cover.
    pub rows: Rows,
    /// Reads; all may run at once.
    pub gather: Vec<Io>,
    /// Folds, in order, after all reads.
    pub fold: Vec<Fold>,
    /// Sources of the folds.
    pub terms: Vec<Term>,
    /// Writes, after all folds; all may run at once.
    pub scatter: Vec<Io>,
    /// Sectors on lists of bad blocks that are good once the writes are done: to be taken off, durably, before the reply.
    pub heals: Vec<Heal>,
    /// What must be in the partial parity log, durably, before any of the writes.
    pub log: Vec<LogPart>,
    /// Segments and how each is done.
    pub segments: Vec<(Rows, Method)>,
    /// Scratch lanes needed, each [`Plan::lane_rows`] sectors.
    pub lanes: u16,
    scratch: planner::Scratch,
}

impl Plan {
    /// Begins anew, for those rows.
    fn clear(&mut self, stripe: Stripe, rows: Rows) {
        (self.stripe, self.rows, self.lanes) = (stripe, rows, 0);
        self.gather.clear();
        self.fold.clear();
        self.terms.clear();
        self.scatter.clear();
        self.heals.clear();
        self.log.clear();
        self.segments.clear();
    }

    /// An empty plan with room for a stripe of `cells` cells, so that planning ordinary requests does not allocate.
    pub fn with_room_for(cells: usize) -> Plan {
        Plan::with_room_for_pieces(cells, 3)
    }

    /// The same for bands of up to `pieces` pieces in a healthy stripe: each piece may begin and end a segment.
    pub fn with_room_for_pieces(cells: usize, pieces: usize) -> Plan {
        /// Very wide stripes are not worth room for every term of every segment.
        const MOST_TERMS: usize = 4096;
        let segments = 2 * pieces + 2;
        Plan {
            gather: Vec::with_capacity(segments + cells * 2),
            fold: Vec::with_capacity(segments),
            terms: Vec::with_capacity((segments * cells).min(MOST_TERMS)),
            scatter: Vec::with_capacity(segments + cells * 2),
            log: Vec::with_capacity(segments),
            segments: Vec::with_capacity(segments),
            scratch: planner::Scratch::with_room_for(cells, segments),
            ..Plan::default()
        }
    }

    /// Sectors in each scratch lane.
    pub fn lane_rows(&self) -> u32 {
        self.rows.len()
    }

    /// Does it read anything but the wanted cells themselves, so that a write elsewhere in its rows would disturb it?
    pub fn is_direct_read(&self) -> bool {
        self.scatter.is_empty() && self.fold.is_empty()
    }
}

/// The wanted data cannot be had: too many cells of the stripe are lost in these rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("rows {}..{} of stripe {} are lost: more members are missing or bad there than the level survives",
        .rows.start, .rows.end, .stripe.0)]
pub struct Lost {
    /// Where.
    pub stripe: Stripe,
    /// The first lost segment.
    pub rows: Rows,
}

impl fmt::Display for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.base {
            Base::Client(piece) => write!(f, "client{piece}+{}", self.sector),
            Base::Lane(lane) => write!(f, "lane{lane}+{}", self.sector),
            Base::Zero => f.write_str("zero"),
        }
    }
}

/// The plan as text, one operation a line: what `uraid plan` and a failing test print.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "stripe {} rows {}..{}", self.stripe.0, self.rows.start, self.rows.end)?;
        for (rows, method) in &self.segments {
            writeln!(f, "  segment {}..{} {method:?}", rows.start, rows.end)?;
        }
        let ios = [("read ", &self.gather), ("write", &self.scatter)];
        for io in ios[0].1 {
            writeln!(
                f,
                "  {} {} at {} rows {}..{} into {}",
                ios[0].0, io.slot, io.at.0, io.rows.start, io.rows.end, io.buf
            )?;
        }
        for fold in &self.fold {
            write!(f, "  fold ")?;
            for target in fold.target.iter().flatten() {
                write!(f, "{target} ")?;
            }
            write!(f, "{}=", if fold.accumulate { "+" } else { "" })?;
            for term in &self.terms[fold.terms.start as usize..fold.terms.end as usize] {
                write!(f, " {:02x}.{:02x}*{}", term.coef[0], term.coef[1], term.buf)?;
            }
            writeln!(f, " ({} sectors)", fold.sectors)?;
        }
        for part in &self.log {
            let (at, rows) = (part.at.0, part.rows);
            write!(f, "  log   {} cells from {at} rows {}..{}", part.cells, rows.start, rows.end)?;
            part.parity.iter().try_for_each(|buf| write!(f, " with {buf}"))?;
            writeln!(f)?;
        }
        for io in ios[1].1 {
            writeln!(
                f,
                "  {} {} at {} rows {}..{} from {}",
                ios[1].0, io.slot, io.at.0, io.rows.start, io.rows.end, io.buf
            )?;
        }
        Ok(())
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
