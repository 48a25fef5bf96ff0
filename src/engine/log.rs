//! The partial parity log of an LU: which writes share a record, when it may be written, and when its place
//! may be used again.
//!
//! One [`Log`] serves all queues. It does no I/O and holds no payload: a queue whose write must be logged
//! lets it [`join`] the group that gathers for the member with the parity, and asks what the next [`step`]
//! there is until the record is on disk. Whoever asks first does the step; the others are woken. So writes
//! that come together share one record, whichever queues they came from.
//!
//! ```text
//! group:   gathers entries ----------------------------------------------> the next record
//! record:  being written -> its writes run -> all done -> members flushed -^
//! ```
//!
//! What must hold, for the kernel replays the newest header of a member and no other, and takes a torn one
//! for nothing:
//! - A record is durable before the first of its writes begins.
//! - The next record of that member is written when all writes of the one before are durable: those of its
//!   data, those of its parity, and those to the same stripes that were not logged. So a header in the making
//!   never covers the only copy of an entry somebody needs, one row has one live entry, and what a partial
//!   parity was summed up from is on disk.
//! - No record is written before all is durable that was written while redundancy was not in sync: a log that
//!   holds entries says that the rest is. And once one is begun nothing goes out unlogged because of a plan from before.
//! - Generations rise over all members of the LU.
//!
//! Refuses to know: disks, payload, the level, and what its queues do meanwhile.
//!
//! [`join`]: Log::join
//! [`step`]: Log::step

use alloc::vec::Vec;

use super::{Holder, QueueId};
use crate::format::ppl::{Entry, HEADER, MAX_ENTRIES};
use crate::planted::{Bug, planted};
use crate::units::{SECTOR, Sectors, Slot, SlotSet};

/// Most bytes of partial parity in one record.
pub const MOST_PARITY: u32 = 128 << 10;

/// The place of a member's log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ring {
    /// Its length.
    pub length: Sectors,
    /// Records follow each other and begin anew at its start (md's "multiple PPLs"); else each is written at
    /// the start.
    pub multiple: bool,
}

impl Ring {
    /// Bytes of partial parity that a record has room for, at most [`MOST_PARITY`].
    pub fn most_parity(self) -> u32 {
        let room = self.length.bytes().saturating_sub(HEADER.bytes());
        room.min(u64::from(MOST_PARITY)) as u32 / 4096 * 4096
    }
}

/// How far a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordState {
    /// Not on disk yet.
    Pending,
    /// Durable: its writes may go out.
    Written,
    /// It could not be written to who filled the slot then.
    Failed(Holder),
}

/// What is to be done for a member's log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Nothing, or somebody is at it.
    Wait,
    /// Flush this slot, and tell [`Log::flushed`] with this stamp.
    Flush(Slot, u64),
    /// Write the record: [`Log::begin`], then tell [`Log::written`].
    Write,
}

/// Where and how a record is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Begun {
    /// From the start of the member's log.
    pub at: Sectors,
    /// For its header.
    pub generation: u64,
    /// Bytes of partial parity behind the header.
    pub parity: u32,
}

/// The entries that wait for the next record.
struct Group {
    number: u64,
    entries: Vec<Entry>,
    parity: u32,
    writes: u32,
    /// The queue that joined first, and whether others did.
    queue: Option<QueueId>,
    mixed: bool,
}

/// The newest record and the writes that depend on it, or that ran beside it unlogged.
struct Record {
    number: u64,
    entries: Vec<Entry>,
    state: RecordState,
    busy: bool,
    mixed: bool,
    /// Writes under way.
    writes: u32,
    /// When the last of them ended, and which slots have not been flushed since.
    done_at: u64,
    unflushed: SlotSet,
}

/// Writes that went out while redundancy was not in sync.
struct Unsynced {
    writes: u32,
    done_at: u64,
    unflushed: SlotSet,
}

/// Stands for one of them.
const UNSYNCED: u64 = u64::MAX;

struct Member {
    group: Group,
    record: Record,
    holder: Option<Holder>,
    /// Who was to have the newest record besides.
    second: Option<Holder>,
    /// Where the next record goes, in sectors.
    next: u64,
}

/// A flush on the log's behalf.
#[derive(Clone, Copy, Default)]
struct Flushing {
    under_way: bool,
    /// Another queue waits for it.
    wanted: bool,
}

/// The log of an LU. See the module's text.
pub struct Log {
    members: Vec<Member>,
    flushing: Vec<Flushing>,
    unsynced: Unsynced,
    /// A record was begun: the logs say that all redundancy agrees but for what they hold. (It does not cease to while there is
    /// this log: how far it agrees only grows.)
    vouches: bool,
    generation: u64,
    /// Counts ends of writes.
    clock: u64,
    most_parity: u32,
}

impl Log {
    /// For `slots` members, whose smallest log has room for `most_parity` bytes of partial parity
    /// ([`Ring::most_parity`]). `generation` is that of the newest header on disk. Nothing is unflushed.
    pub fn new(slots: u16, most_parity: u32, generation: u64) -> Log {
        let member = |_| Member {
            group: Group {
                number: 1,
                entries: Vec::with_capacity(MAX_ENTRIES),
                parity: 0,
                writes: 0,
                queue: None,
                mixed: false,
            },
            record: Record {
                number: 0,
                entries: Vec::with_capacity(MAX_ENTRIES),
                state: RecordState::Written,
                busy: false,
                mixed: false,
                writes: 0,
                done_at: 0,
                unflushed: SlotSet::EMPTY,
            },
            holder: None,
            second: None,
            next: 0,
        };
        Log {
            members: (0..slots).map(member).collect(),
            // Replacements have numbers of their own.
            flushing: alloc::vec![Flushing::default(); 2 * usize::from(slots)],
            unsynced: Unsynced { writes: 0, done_at: 0, unflushed: SlotSet::EMPTY },
            vouches: false,
            generation,
            clock: 0,
            most_parity,
        }
    }

    /// Bytes of partial parity a record has room for.
    pub fn most_parity(&self) -> u32 {
        self.most_parity
    }

    // --- the life of a write
    // --------------------------------------------------------------------------------------

    /// A write of `queue` with `entries` entries and `parity` bytes of partial parity, whose parity is on
    /// `slot`, joins the next record. Its number, and where in the record's partial parity the write's
    /// begins; the entries are then to be [pushed](Log::push). `None` if the record is full: the next may
    /// have room. (Partial parity kept from there on is of a group that was [abandoned](Log::abandon).)
    ///
    /// The rows of the write are locked until it is [done](Log::done), so no two writes of a record are to
    /// the same row.
    pub fn join(&mut self, queue: QueueId, slot: Slot, entries: usize, parity: u32) -> Option<(u64, u32)> {
        let group = &mut self.members[slot.index()].group;
        let fits = group.entries.len() + entries <= MAX_ENTRIES && group.parity + parity <= self.most_parity;
        if !fits {
            return None;
        }
        let from = group.parity;
        group.parity += parity;
        group.writes += 1;
        group.mixed |= *group.queue.get_or_insert(queue) != queue;
        Some((group.number, from))
    }

    /// Adds an entry of the write that joined last.
    pub fn push(&mut self, slot: Slot, entry: Entry) {
        self.members[slot.index()].group.entries.push(entry);
    }

    /// A write to a stripe with its parity on `slot` goes out unlogged: nobody fills the slot, or (not
    /// `in_sync`) redundancy did not agree yet when the write was planned. Returns the number that stands for
    /// it; `None` if it was planned before redundancy agreed and a record was begun since: it has to be planned anew.
    pub fn pass(&mut self, slot: Slot, in_sync: bool) -> Option<u64> {
        if !in_sync {
            if self.vouches {
                return None;
            }
            self.unsynced.writes += 1;
            return Some(UNSYNCED);
        }
        let record = &mut self.members[slot.index()].record;
        record.writes += 1;
        Some(record.number)
    }

    /// How far the record `number` is. A write that belongs to it is not done yet.
    pub fn state(&self, slot: Slot, number: u64) -> RecordState {
        let record = &self.members[slot.index()].record;
        if record.busy || record.number != number { RecordState::Pending } else { record.state }
    }

    /// A write that joined or passed as `number` has ended, or was given up; `unflushed` are the slots it
    /// wrote to without FUA. True if queues other than `queue` may go on now.
    #[must_use = "they must be woken"]
    pub fn done(
        &mut self,
        queue: QueueId,
        slot: Slot,
        number: u64,
        unflushed: impl Iterator<Item = Slot>,
    ) -> bool {
        if number == UNSYNCED {
            let unsynced = &mut self.unsynced;
            unflushed.for_each(|slot| unsynced.unflushed.insert(slot));
            unsynced.writes -= 1;
            self.clock += 1;
            unsynced.done_at = self.clock;
            return unsynced.writes == 0 && self.members.iter().any(|member| member.group.writes > 0);
        }
        let Member { group, record, .. } = &mut self.members[slot.index()];
        if group.number == number {
            // Its entries stay. They describe rows that agree, and replaying them changes nothing.
            group.writes -= 1;
            return false;
        }
        unflushed.for_each(|slot| record.unflushed.insert(slot));
        record.writes -= 1;
        self.clock += 1;
        record.done_at = self.clock;
        record.writes == 0 && group.writes > 0 && (group.mixed || group.queue != Some(queue))
    }

    // --- the life of a record
    // -------------------------------------------------------------------------------------

    /// What is to be done next so that the group of `slot` gets on disk. Whoever is told to do something does
    /// it.
    pub fn step(&mut self, slot: Slot) -> Step {
        let Member { group, record, .. } = &self.members[slot.index()];
        if group.writes == 0 || record.busy || record.writes > 0 || self.unsynced.writes > 0 {
            return Step::Wait;
        }
        if planted(Bug::LogReusedEarly) {
            return Step::Write;
        }
        let mut clean = true;
        for slot in record.unflushed.iter().chain(self.unsynced.unflushed.iter()) {
            let flushing = &mut self.flushing[slot.index()];
            if !flushing.under_way {
                flushing.under_way = true;
                return Step::Flush(slot, self.clock);
            }
            (clean, flushing.wanted) = (false, true);
        }
        if clean { Step::Write } else { Step::Wait }
    }

    /// May the record of `slot` be begun now? Between [`Log::step`] and this another queue may have done something.
    pub fn is_ready(&self, slot: Slot) -> bool {
        let Member { group, record, .. } = &self.members[slot.index()];
        let idle = !record.busy && record.writes == 0 && self.unsynced.writes == 0;
        let flushed = record.unflushed.is_empty() && self.unsynced.unflushed.is_empty();
        group.writes > 0 && idle && (flushed || planted(Bug::LogReusedEarly))
    }

    /// Begins the record of `slot`, which [is ready](Log::is_ready); `holder` fills the slot now and has this
    /// `ring`, and so has `second` if it is to have the record, too. (Whoever had none of those before finds this one only
    /// at the start of its log.) Its [entries](Log::entries) are fixed from here on, and a new group gathers.
    pub fn begin(&mut self, slot: Slot, holder: Holder, second: Option<Holder>, ring: Ring) -> Begun {
        let flushed = self.members[slot.index()].record.unflushed.is_empty();
        debug_assert!(flushed || planted(Bug::LogReusedEarly), "a live record");
        let parity = self.close_group(slot, holder);
        let member = &mut self.members[slot.index()];
        if core::mem::replace(&mut member.second, second) != second && second.is_some() {
            member.next = 0;
        }
        let length = HEADER.0 + u64::from(parity) / SECTOR;
        let at = if ring.multiple && member.next + length <= ring.length.0 { member.next } else { 0 };
        member.next = at + length;
        member.record.busy = true;
        self.vouches = true;
        self.generation += 1;
        Begun { at: Sectors(at), generation: self.generation, parity }
    }

    /// Nobody fills `slot` any more: its group fails once the writes of the record before it have ended. True
    /// if other queues may go on now.
    #[must_use = "they must be woken"]
    pub fn abandon(&mut self, slot: Slot) -> bool {
        let Member { group, record, .. } = &self.members[slot.index()];
        if group.writes == 0 || record.busy || record.writes > 0 {
            return false;
        }
        let nobody = Holder::NOBODY;
        self.close_group(slot, nobody);
        let record = &mut self.members[slot.index()].record;
        record.state = RecordState::Failed(nobody);
        record.mixed
    }

    /// A disk has become a member anew, with an empty log: its next record is the first.
    pub fn forget(&mut self, disk: Holder) {
        for member in &mut self.members {
            member.holder = member.holder.filter(|&holder| holder != disk);
            member.second = member.second.filter(|&second| second != disk);
        }
    }

    /// Makes the group the record; the bytes of its partial parity.
    fn close_group(&mut self, slot: Slot, holder: Holder) -> u32 {
        let Member { group, record, holder: last, next, .. } = &mut self.members[slot.index()];
        debug_assert!(!record.busy && record.writes == 0, "a live record");
        if last.replace(holder) != Some(holder) {
            *next = 0;
        }
        core::mem::swap(&mut record.entries, &mut group.entries);
        group.entries.clear();
        (record.number, record.writes, record.mixed) = (group.number, group.writes, group.mixed);
        group.number += 1;
        (group.writes, group.queue, group.mixed) = (0, None, false);
        core::mem::take(&mut group.parity)
    }

    /// The entries of the record that was begun last.
    pub fn entries(&self, slot: Slot) -> &[Entry] {
        &self.members[slot.index()].record.entries
    }

    /// The record of `slot` is durable, or it is not and its member will be failed. True if other queues may
    /// go on now.
    #[must_use = "they must be woken"]
    pub fn written(&mut self, slot: Slot, ok: bool) -> bool {
        let Member { record, holder, .. } = &mut self.members[slot.index()];
        record.busy = false;
        record.state = match holder {
            Some(holder) if !ok => RecordState::Failed(*holder),
            _ => RecordState::Written,
        };
        record.mixed
    }

    // --- flushes
    // --------------------------------------------------------------------------------------------------

    /// The stamp for a flush that is submitted now.
    pub fn now(&self) -> u64 {
        self.clock
    }

    /// A flush of `slot`, submitted at `stamp`, has succeeded; or there is nobody in the slot who would have
    /// to.
    pub fn flushed(&mut self, slot: Slot, stamp: u64) {
        for Member { record, .. } in &mut self.members {
            if record.writes == 0 && record.done_at <= stamp {
                record.unflushed.remove(slot);
            }
        }
        let unsynced = &mut self.unsynced;
        if unsynced.writes == 0 && unsynced.done_at <= stamp {
            unsynced.unflushed.remove(slot);
        }
    }

    /// The flush that [`Log::step`] asked for has ended. True if other queues may go on now.
    #[must_use = "they must be woken"]
    pub fn flush_ended(&mut self, slot: Slot) -> bool {
        core::mem::take(&mut self.flushing[slot.index()]).wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Shared;
    use crate::geometry::{Geometry, Layout, Shape};
    use crate::units::{Lba, Level};

    const RING: Ring = Ring { length: Sectors(40), multiple: true };
    const DISK: Holder = Holder(7);

    fn queues() -> [QueueId; 2] {
        let layout = Layout::default_for(Level::Raid5).md_number();
        let shape = Shape {
            level: Level::Raid5,
            layout,
            chunk: Sectors(8),
            slots: 3,
            component: Sectors(64),
            members: &[],
        };
        let shared = Shared::new(&Geometry::new(&shape).unwrap(), 2, 0);
        [shared.join().unwrap(), shared.join().unwrap()]
    }

    fn entry(sector: u64) -> Entry {
        Entry { data_sector: Lba(sector), pp_size: 4096, data_size: 4096, parity_disk: 0, checksum: 0 }
    }

    /// Joins one write with one block of partial parity.
    fn join(log: &mut Log, queue: QueueId, sector: u64) -> Option<u64> {
        let (number, _) = log.join(queue, Slot(0), 1, 4096)?;
        log.push(Slot(0), entry(sector));
        Some(number)
    }

    /// Brings the group of slot 0 to disk; the slots that had to be flushed for it.
    fn write(log: &mut Log) -> (Begun, Vec<Slot>) {
        let mut flushes = Vec::new();
        loop {
            match log.step(Slot(0)) {
                Step::Flush(slot, stamp) => {
                    flushes.push(slot);
                    log.flushed(slot, stamp);
                    let _ = log.flush_ended(slot);
                }
                Step::Write => break,
                Step::Wait => panic!("nothing to do"),
            }
        }
        let begun = log.begin(Slot(0), DISK, None, RING);
        assert_eq!(log.step(Slot(0)), Step::Wait);
        let _ = log.written(Slot(0), true);
        (begun, flushes)
    }

    #[test]
    fn a_record_waits_for_the_one_before_and_its_flushes() {
        let [queue, other] = queues();
        let mut log = Log::new(3, 16 << 10, 4);
        let a = join(&mut log, queue, 0).unwrap();
        let b = join(&mut log, other, 8).unwrap();
        assert_eq!((a, log.state(Slot(0), a)), (b, RecordState::Pending));
        let (begun, flushes) = write(&mut log);
        assert_eq!((begun, flushes.len()), (Begun { at: Sectors(0), generation: 5, parity: 8192 }, 0));
        assert_eq!(log.state(Slot(0), a), RecordState::Written);
        assert_eq!(log.entries(Slot(0)), [entry(0), entry(8)]);

        let c = join(&mut log, other, 16).unwrap();
        assert_eq!(log.step(Slot(0)), Step::Wait, "its writes are under way");
        assert!(!log.done(queue, Slot(0), a, [Slot(1), Slot(0)].into_iter()));
        let early = log.now();
        assert!(log.done(queue, Slot(0), b, [Slot(2), Slot(0)].into_iter()), "the other queue can go on");
        for slot in 0..3 {
            log.flushed(Slot(slot), early);
        }
        assert_eq!(log.state(Slot(0), c), RecordState::Pending);
        let (begun, flushes) = write(&mut log);
        assert_eq!(flushes, [Slot(0), Slot(1), Slot(2)], "an early flush does not count");
        assert_eq!(begun, Begun { at: Sectors(24), generation: 6, parity: 4096 });
        // A client's flush counts; and what does not fit at the end begins anew.
        let d = join(&mut log, queue, 24).unwrap();
        assert!(log.done(other, Slot(0), c, [Slot(0)].into_iter()));
        log.flushed(Slot(0), log.now());
        let (begun, flushes) = write(&mut log);
        assert_eq!((begun.at, flushes.len()), (Sectors(0), 0));
        // Nobody waits any more.
        assert!(!log.done(queue, Slot(0), d, [].into_iter()));
        assert_eq!(log.step(Slot(0)), Step::Wait);
    }

    #[test]
    fn what_goes_unlogged_is_flushed_before_the_next_record() {
        let [queue, _] = queues();
        let mut log = Log::new(3, 16 << 10, 0);
        let passed = log.pass(Slot(0), true).unwrap();
        join(&mut log, queue, 0).unwrap();
        assert_eq!(log.step(Slot(0)), Step::Wait);
        let _ = log.done(queue, Slot(0), passed, [Slot(2)].into_iter());
        assert_eq!(write(&mut log).1, [Slot(2)]);
        // While redundancy does not agree, that concerns the logs of all.
        let mut log = Log::new(3, 16 << 10, 0);
        let passed = log.pass(Slot(2), false).unwrap();
        join(&mut log, queue, 0).unwrap();
        assert_eq!(log.step(Slot(0)), Step::Wait);
        assert!(log.done(queue, Slot(2), passed, [Slot(2), Slot(1)].into_iter()), "somebody waits");
        assert_eq!(write(&mut log).1, [Slot(1), Slot(2)]);
        // From then on the logs say that it does, and what was planned before is planned anew.
        assert_eq!(log.pass(Slot(2), false), None);
        assert!(log.pass(Slot(2), true).is_some());
    }

    #[test]
    fn a_full_record_takes_no_more() {
        let [queue, _] = queues();
        let mut log = Log::new(3, 8192, 0);
        assert!(join(&mut log, queue, 0).is_some() && join(&mut log, queue, 8).is_some());
        assert!(join(&mut log, queue, 16).is_none());
        assert!(log.join(queue, Slot(0), MAX_ENTRIES - 2, 0).is_some(), "whole stripes need no parity");
        assert!(log.join(queue, Slot(1), 1, 4096).is_some(), "each member has its own");
        assert_eq!(Ring { length: Sectors(16), multiple: false }.most_parity(), 4096);
        assert_eq!(Ring { length: Sectors(2048), multiple: true }.most_parity(), MOST_PARITY);
    }

    #[test]
    fn who_is_to_have_records_besides_finds_the_first_at_the_start() {
        let [queue, _] = queues();
        let mut log = Log::new(3, 16 << 10, 0);
        let at = |log: &mut Log, second: Option<u32>| {
            let number = join(log, queue, 0).unwrap();
            let at = log.begin(Slot(0), DISK, second.map(Holder), RING).at.0;
            let _ = log.written(Slot(0), true);
            let _ = log.done(queue, Slot(0), number, [].into_iter());
            at
        };
        for (second, place) in
            [(None, 0), (None, 16), (Some(8), 0), (Some(8), 16), (None, 0), (Some(9), 0), (Some(9), 16)]
        {
            assert_eq!(at(&mut log, second), place, "{second:?}");
        }
        // Also if it is the same disk, with a new log.
        log.forget(Holder(9));
        assert_eq!([at(&mut log, Some(9)), at(&mut log, Some(9))], [0, 16]);
        log.forget(DISK);
        assert_eq!(at(&mut log, Some(9)), 0);
    }

    #[test]
    fn a_failed_record_is_told_and_another_holder_begins_at_the_start() {
        let [queue, _] = queues();
        let mut log = Log::new(3, 16 << 10, 0);
        let a = join(&mut log, queue, 0).unwrap();
        let _ = log.begin(Slot(0), DISK, None, RING);
        assert!(!log.written(Slot(0), false));
        assert_eq!(log.state(Slot(0), a), RecordState::Failed(DISK));
        let _ = log.done(queue, Slot(0), a, [].into_iter());
        let b = join(&mut log, queue, 0).unwrap();
        assert!(!log.abandon(Slot(0)));
        assert_eq!(log.state(Slot(0), b), RecordState::Failed(Holder::NOBODY));
        let _ = log.done(queue, Slot(0), b, [].into_iter());
        join(&mut log, queue, 0).unwrap();
        assert_eq!(log.begin(Slot(0), Holder(8), None, RING).at, Sectors(0));
    }
}
