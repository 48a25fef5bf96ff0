//! The bytes of the partial parity log: where it lies on a member, what gathers for the next records, and how
//! a log is made ready before anything is written to it.
//!
//! When what may be written is [`engine::Log`](crate::engine::Log)'s to say; what a log found on disk means
//! is [`recovery`](crate::recovery)'s.

use std::cell::Cell;
use std::sync::Arc;

use crate::disk::overlay::{Overlay, Patch};
use crate::disk::{Backend, Blocking, DiskId, cpu};
use crate::engine::{Log, MOST_PARITY, QueueId, Ring};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Area;
use crate::format::ppl::{self, Entry};
use crate::format::superblock::{Features, Superblock, Time, Uuid};
use crate::plan::Presence;
use crate::planted::{Bug, planted};
use crate::recovery::replay::{self as recovery, Found};
use crate::units::{DiskLba, MemberLba, Sectors, Slot, SlotSet};

use super::assemble::Joined;
use super::create::fill_area;
use super::members::Members;
use super::open::{members_of, round_to_blocks};

/// Where a member's log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogPlace {
    pub at: DiskLba,
    pub ring: Ring,
}

impl LogPlace {
    /// The log of the member with this superblock, if it has one.
    pub(super) fn of(sb: &Superblock) -> Option<LogPlace> {
        let area = sb.ppl_area()?;
        let ring = Ring { length: area.length, multiple: sb.features.contains(Features::MULTIPLE_PPLS) };
        Some(LogPlace { at: area.start, ring })
    }
}

/// The log of an LU that is open for writing, and the partial parity that gathers for the next record of each
/// slot.
pub(super) struct Book {
    pub log: Log,
    pub set: Uuid,
    gathered: Vec<Vec<u8>>,
}

impl Book {
    /// For `slots` members whose smallest log takes `most_parity` bytes. `generation` is that of the newest
    /// header.
    pub(super) fn new(set: Uuid, slots: u16, most_parity: u32, generation: u64) -> Book {
        let gathered = (0..slots).map(|_| Vec::with_capacity(most_parity as usize)).collect();
        Book { log: Log::new(slots, most_parity, generation), set, gathered }
    }

    /// A write with `parity` bytes of partial parity joins; see [`Log::join`].
    pub(super) fn join(
        &mut self,
        queue: QueueId,
        slot: Slot,
        entries: &mut dyn ExactSizeIterator<Item = (Entry, Option<&[u8]>)>,
        parity: u32,
    ) -> Option<u64> {
        let (number, from) = self.log.join(queue, slot, entries.len(), parity)?;
        // What is behind belongs to a group that was never written.
        self.gathered[slot.index()].truncate(from as usize);
        for (mut entry, bytes) in entries {
            if let Some(bytes) = bytes {
                entry.checksum = cpu::crc32c(0, bytes);
                self.gathered[slot.index()].extend_from_slice(bytes);
            }
            self.log.push(slot, entry);
        }
        Some(number)
    }

    /// Puts the record begun with `generation` into `bytes`: header and partial parity.
    pub(super) fn record(&mut self, slot: Slot, generation: u64, bytes: &mut [u8]) {
        ppl::emit_into(bytes, self.set, generation, self.log.entries(slot), cpu::crc32c);
        let gathered = &mut self.gathered[slot.index()];
        if let Some(behind) = bytes.get_mut(ppl::HEADER_BYTES..) {
            let len = behind.len().min(gathered.len());
            behind[..len].copy_from_slice(&gathered[..len]);
        }
        gathered.clear();
    }
}

/// So many reads that fail are tried again before a log, or what it speaks of, counts as unreadable: without it everything has
/// to be resynced, and until that is done the LU cannot be started without one of its members. (So many in a row when a log is
/// looked for, for the first that does not come right ends that; in all when it is replayed, which may meet many.)
const PATIENCE: u32 = 8;

/// Reads, and tries again as long as there is `patience`.
fn read_patiently(
    io: &Blocking<&dyn Backend>,
    disk: DiskId,
    at: DiskLba,
    bytes: &mut [u8],
    patience: &Cell<u32>,
) -> Result<()> {
    while patience.get() > 0 {
        if io.read_exact(disk, at, bytes).is_ok() {
            return Ok(());
        }
        patience.set(patience.get() - 1);
    }
    io.read_exact(disk, at, bytes)
}

/// The newest record of a member's log, or why there is none; `None` if the member has no log.
pub(super) fn newest(
    io: &Blocking<&dyn Backend>,
    disk: DiskId,
    sb: &Superblock,
) -> Option<Result<Found, String>> {
    let LogPlace { at, ring } = LogPlace::of(sb)?;
    let read =
        |from: Sectors, bytes: &mut [u8]| read_patiently(io, disk, at + from, bytes, &Cell::new(PATIENCE));
    Some(match Found::read(sb.set_uuid, ring.length, ring.multiple, read) {
        Ok(found) => found.map_err(|flaw| flaw.to_string()),
        Err(error) => Err(error.to_string()),
    })
}

/// Does with the log what starting an LU takes, before anything else is written or read.
///
/// Read only: what a replay would write is laid over `backend`. For writing: the replay is written and
/// flushed; then, and only then, the logs of all members (`in_use`: active ones and spares) are made empty. A
/// log is given generation 0, which vouches for nothing, while a resync has yet to come.
///
/// Before that, the absence of members is recorded: what the logs say of blocks that nobody has now is lost with them, and
/// whoever comes back must not be taken for one that is in sync. Before that also parity that the replay could not make right is
/// put on record as bad, if no resync will come to it. A member that cannot be written is given up, if it can be spared.
/// `block`: sectors in the LU's block.
pub(super) fn ready(
    joined: &mut Joined,
    backend: &mut Arc<dyn Backend>,
    block: u64,
    read_only: bool,
    wall: Time,
) -> Result<Option<Book>> {
    loop {
        // (Whoever is given up has it joined anew.)
        round_to_blocks(&mut joined.view, block);
        match attempt(joined, backend, read_only, wall) {
            Ok(book) => return Ok(book),
            Err((None, error)) => return Err(error),
            // Without it from the start: what was replayed comes out the same again.
            Err((Some(index), error)) => joined.give_up(index, error)?,
        }
    }
}

/// What went wrong, and the candidate whose disk it was, if it was one's.
type Failed = (Option<usize>, Error);

fn attempt(
    joined: &mut Joined,
    backend: &mut Arc<dyn Backend>,
    read_only: bool,
    wall: Time,
) -> Result<Option<Book>, Failed> {
    if !joined.view.logs {
        return Ok(None);
    }
    if !read_only && (!joined.newly_missing.is_empty() || says_too_much(joined)) {
        record_absence(joined, &**backend, wall)?;
    }
    let mut unjudged = SlotSet::EMPTY;
    if joined.replay.is_some() {
        unjudged = replay_all(joined, backend, read_only, wall)?;
    }
    if read_only {
        return Ok(None);
    }
    let io = Blocking::new(&**backend).map_err(|error| (None, error))?;
    let logs = || joined.candidates.iter().filter_map(|c| c.log.as_ref()?.as_ref().ok());
    let newest = logs().map(|found| found.header.generation).max().unwrap_or(0);
    let in_sync = joined.view.synced_below == u64::MAX;
    let generation = if in_sync { newest.saturating_add(1) } else { 0 };
    let mut most = MOST_PARITY;
    let is_judged = |index: &usize| {
        let slot = joined.slots.iter().position(|place| *place == Some(*index));
        slot.is_none_or(|slot| !unjudged.contains(Slot(slot as u16)))
    };
    let is_whole = |index: &usize| matches!(joined.candidates[*index].log, Some(Ok(_))) && is_judged(index);
    let (whole, flawed): (Vec<usize>, Vec<usize>) = joined.in_use().into_iter().partition(is_whole);
    // Whose log could not be read may well fail now: before the others' logs, which tell what to do without it, are gone. And
    // it has none until theirs are empty: an empty one beside logs that vouch says that nothing was in flight there. No more may
    // a log say that whose rows have yet to be resynced.
    for &index in &flawed {
        if let Ok(found) = &joined.candidates[index].found {
            wipe(&io, joined.candidates[index].disk, &found.superblock)
                .map_err(|error| (Some(index), error))?;
        }
    }
    for index in whole.iter().chain(&flawed).copied() {
        let candidate = &joined.candidates[index];
        let Ok(found) = &candidate.found else { continue };
        let keeps = in_sync && is_whole(&index);
        clear(&io, candidate.disk, &found.superblock, generation, keeps)
            .map_err(|error| (Some(index), error))?;
        most = LogPlace::of(&found.superblock).map_or(most, |place| most.min(place.ring.most_parity()));
    }
    Ok(Some(Book::new(joined.facts().set_uuid, joined.geometry.slots(), most, generation)))
}

/// Is more of a member called rebuilt, by its superblock, than is believed of it? Without its log nothing would tell next time.
fn says_too_much(joined: &Joined) -> bool {
    joined.slots.iter().zip(&joined.view.members).any(|(place, member)| {
        let (Some(index), Presence::Below(believed)) = (*place, member.presence) else { return false };
        let found = joined.candidates[index].found.as_ref();
        found.is_ok_and(|found| found.superblock.watermark().is_none_or(|mark| believed < mark))
    })
}

/// Writes down on all others that members are absent, so that they are two events behind, and how far who is there is believed.
fn record_absence(joined: &mut Joined, backend: &dyn Backend, wall: Time) -> Result<(), Failed> {
    let io = Blocking::new(backend).map_err(|error| (None, error))?;
    let mut members = members_of(joined, backend);
    // Whoever is behind the others by one gets their word first: see the keeper.
    for round in usize::from(!members.lags)..3 {
        if round == 1 {
            let absent = joined.newly_missing.iter().filter(|&&slot| members.counts_on(slot));
            let absent: Vec<Slot> = absent.copied().collect();
            for slot in absent {
                members.fail_slot(slot);
            }
        }
        write_round(joined, &io, &mut members, wall)?;
    }
    take_over(joined, members);
    Ok(())
}

/// Rows of a slot's parity that may not agree with data, and nothing would make agree.
type Stale = (Slot, MemberLba, Sectors);

/// Sees to it that nobody computes from stale parity: it is bad from now on, until all of the row is written. Whoever has no room
/// to record that cannot be kept, unless it was allowed that what was being written comes back wrong.
fn record_stale(
    joined: &mut Joined,
    backend: &dyn Backend,
    stale: &[Stale],
    read_only: bool,
    wall: Time,
) -> Result<(), Failed> {
    for &(slot, at, sectors) in stale {
        joined.view.members[slot.index()].mark_bad(at, sectors);
    }
    if read_only || stale.is_empty() {
        return Ok(());
    }
    let io = Blocking::new(backend).map_err(|error| (None, error))?;
    let mut members = members_of(joined, backend);
    for &(slot, at, sectors) in stale {
        let Some(member) = members.numbered(slot) else { continue };
        let mut longer = member.clone();
        if longer.add_bad(at, sectors) {
            *member = longer;
        } else if !joined.allows_dirty() {
            let text = format!(
                "{slot} has no room on its list of bad blocks for parity that its log could not repair, because other members \
                 cannot be read there; to start it nevertheless, with the risk that data comes back wrong: --allow-dirty"
            );
            let index = joined.slots.get(slot.index()).copied().flatten();
            return Err((index, Error::new(ErrorKind::Io, text)));
        }
    }
    // Whoever is behind the others by one gets their word first: see the keeper.
    for _ in usize::from(!members.lags)..2 {
        write_round(joined, &io, &mut members, wall)?;
    }
    take_over(joined, members);
    Ok(())
}

/// Writes the lists of bad blocks that have changed, and then all superblocks.
fn write_round(
    joined: &Joined,
    io: &Blocking<&dyn Backend>,
    members: &mut Members,
    wall: Time,
) -> Result<(), Failed> {
    members.stamp(wall);
    for member in &mut members.list {
        let disk = member.disk;
        let failed = |error| (joined.candidates.iter().position(|candidate| candidate.disk == disk), error);
        if let Some((at, list)) = member.take_bad() {
            io.write_exact(disk, at, &list, true).map_err(failed)?;
        }
        let at = member.at();
        io.write_exact(disk, at, member.encode(), true).map_err(failed)?;
    }
    Ok(())
}

/// What was written is what would be read now.
fn take_over(joined: &mut Joined, members: Members) {
    for member in members.list {
        let Some(candidate) = joined.candidates.iter_mut().find(|it| it.disk == member.disk) else {
            continue;
        };
        candidate.bad = member.bad().clone();
        if let Ok(found) = &mut candidate.found {
            *found = member.into_found(found);
        }
    }
}

/// Repairs the parity of all rows the logs speak of, on disk or in an overlay. Returns whose log speaks of rows that could not
/// be judged, for which all has to be resynced.
fn replay_all(
    joined: &mut Joined,
    backend: &mut Arc<dyn Backend>,
    read_only: bool,
    wall: Time,
) -> Result<SlotSet, Failed> {
    let io = Blocking::new(&**backend).map_err(|error| (None, error))?;
    let of = |slot: Slot| joined.slots.get(slot.index()).copied().flatten();
    let place = |slot: Slot| {
        let candidate = &joined.candidates[joined.slots.get(slot.index()).copied().flatten()?];
        Some((candidate.disk, candidate.found.as_ref().ok()?.superblock.data_offset))
    };
    let (mut patch, patience) = (Patch::new(), Cell::new(PATIENCE));
    let (mut unjudged, mut stale) = (SlotSet::EMPTY, Vec::new());
    for slot in (0..joined.geometry.slots()).map(Slot) {
        let log = joined.slots[slot.index()].and_then(|index| joined.candidates[index].log.as_ref());
        let Some(Ok(found)) = log else { continue };
        for repair in recovery::repairs(&joined.geometry, slot, found).0 {
            let read = |slot: Slot, at: MemberLba, bytes: &mut [u8]| {
                place(slot).is_some_and(|(disk, start)| {
                    read_patiently(&io, disk, start + Sectors(at.0), bytes, &patience).is_ok()
                })
            };
            let write = |slot: Slot, at: MemberLba, bytes: &[u8]| match place(slot) {
                Some((disk, start)) if read_only => {
                    patch.put(disk, start + Sectors(at.0), bytes);
                    let full = patch.len() > MOST_PATCHED;
                    let text =
                        "its partial parity log speaks of too much to be looked at: open it for writing";
                    if full { Err((None, Error::new(ErrorKind::CannotStart, text))) } else { Ok(()) }
                }
                Some((disk, start)) => io
                    .write_exact(disk, start + Sectors(at.0), bytes, false)
                    .map_err(|error| (of(slot), error)),
                None => Ok(()),
            };
            let outcome = repair.run(&joined.geometry, &joined.view, read, write)?;
            if outcome.unreadable > 0 {
                unjudged.insert(slot);
            }
            let map = joined.geometry.stripe(repair.stripe);
            let parity = map.cell(map.cells() - 1).at;
            stale.extend(
                outcome.stale.iter().map(|rows| {
                    (slot, parity + Sectors(u64::from(rows.start)), Sectors(u64::from(rows.len())))
                }),
            );
            // What a rebuild has not done yet it makes of the parity there is. What it has done it would not look at again.
            if let Some(slot) = outcome.doubtful {
                let text =
                    format!("{slot}, which was being rebuilt, cannot be read where the log repairs it");
                return Err((of(slot), Error::new(ErrorKind::Io, text)));
            }
        }
    }
    if !read_only && !planted(Bug::LogClearedEarly) {
        for slot in (0..joined.geometry.slots()).map(Slot) {
            let Some((disk, _)) = place(slot) else { continue };
            io.flush(disk).map_err(|error| (of(slot), error))?;
        }
    }
    drop(io);
    // Rows that could not be judged. A resync needs all members; with one missing, or not rebuilt yet, it or what is made anew
    // would come of their parity.
    if !joined.incomplete().is_empty() {
        record_stale(joined, &**backend, &stale, read_only, wall)?;
        unjudged = SlotSet::EMPTY;
    } else if !unjudged.is_empty() {
        joined.view.synced_below = 0;
    }
    if !patch.is_empty() {
        *backend = Arc::new(Overlay::new(backend.clone(), patch));
    }
    Ok(unjudged)
}

/// Most sectors an overlay holds: 128 MiB.
const MOST_PATCHED: usize = 1 << 18;

/// Makes a member's log an empty one of this `generation`. With `keeps`, what it held is whole until then: it
/// is overwritten by the empty header first, which ends every walk, for what lies behind is older.
pub(super) fn clear(
    io: &Blocking<&dyn Backend>,
    disk: DiskId,
    sb: &Superblock,
    generation: u64,
    keeps: bool,
) -> Result<()> {
    let Some(area) = sb.ppl_area() else { return Ok(()) };
    let header = ppl::Header { generation, entries: Vec::new() }.emit(sb.set_uuid);
    let rest = Area::new(area.start + ppl::HEADER, area.length - ppl::HEADER);
    if keeps && planted(Bug::LogClearedEarly) {
        return io.write_exact(disk, area.start, &header, true);
    }
    if keeps {
        io.write_exact(disk, area.start, &header, true)?;
        io.flush(disk)?;
        fill_area(io, disk, rest, 0)?;
    } else {
        wipe(io, disk, sb)?;
        io.write_exact(disk, area.start, &header, true)?;
    }
    io.flush(disk)
}

/// Leaves nothing of a member's log, not even an empty one.
fn wipe(io: &Blocking<&dyn Backend>, disk: DiskId, sb: &Superblock) -> Result<()> {
    let Some(area) = sb.ppl_area() else { return Ok(()) };
    fill_area(io, disk, area, 0)?;
    io.flush(disk)
}
