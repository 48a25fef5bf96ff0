//! The engine against simulated disks: several engines on one `Shared`, interleaved with their disks and a keeper by a
//! seeded scheduler, one step at a time.
//!
//! The oracle is exact. Every 128 bytes of the LU (a *grain*) are a register; every write puts a value of its own into
//! its grains; at the end the history of each register must be linearizable: a read gives what was acknowledged last or
//! is being written, and no later read goes back behind it. Then everything is read once more, with every single member
//! taken away that the level can spare: copies agree and parity is right.
//!
//! An engine is only run when it was woken (a submission, a completion, another queue, the keeper). If all is quiet and
//! a request has no reply, a wake was lost. Client and scratch memory is checked as the real one is: no buffer
//! is touched while a disk works on it.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::direct::{MOST_PARTS, MOST_SUMS};
use super::*;
use crate::geometry::{CellKind, Geometry, Layout, Place, Shape};
use crate::parity::{Kernels, Source, Target, gf};
use crate::plan::{LOG_ROWS, Presence, Rows, View};
use crate::units::{Lba, Level, SECTOR, Slot, SlotSet, Stripe};

/// Bytes of a register.
const GRAIN: usize = 128;
const GRAINS_IN_SECTOR: u64 = SECTOR / GRAIN as u64;

struct Random(u64);

impl Random {
    /// The next number of a splitmix64 sequence.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

// --- what is on the LU ------------------------------------------------------------------------------------------------

/// The bytes of `grain` when it holds `value`.
fn grain_bytes(value: u64, grain: u64) -> [u8; GRAIN] {
    let mut bytes = [0; GRAIN];
    let mut word = value;
    for (i, chunk) in bytes.chunks_exact_mut(8).enumerate() {
        chunk.copy_from_slice(&word.to_le_bytes());
        word = (value ^ (grain + 1) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(i as u32 + 7);
    }
    bytes
}

/// The value of a grain that is zero. Each grain becomes zero once at most, so that this too is written only once.
const ZERO: u64 = u64::MAX;

/// The value `grain` holds, if its bytes are of one piece.
fn value_of(bytes: &[u8], grain: u64) -> Option<u64> {
    if bytes.iter().all(|&byte| byte == 0) {
        return Some(ZERO);
    }
    let value = u64::from_le_bytes(bytes[..8].try_into().ok()?);
    (bytes == grain_bytes(value, grain)).then_some(value)
}

/// One operation on a register.
#[derive(Clone, Copy, Debug)]
struct Event {
    value: u64,
    /// Clock at its submission and at its reply.
    start: u64,
    end: u64,
    write: bool,
}

/// Gibbons and Korach: with every value written once, a register's history is linearizable exactly if no value is read
/// before it is written, no two forward zones overlap and no backward zone lies in a forward one. The zone of a value
/// spans from the first end to the last start of its operations; it is forward if that is not the wrong way round.
fn check_register(grain: u64, events: &[Event]) {
    let mut zones: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for event in events {
        let zone = zones.entry(event.value).or_insert((u64::MAX, 0));
        *zone = (zone.0.min(event.end), zone.1.max(event.start));
        let source = events.iter().find(|e| e.write && e.value == event.value);
        let source =
            source.unwrap_or_else(|| panic!("grain {grain}: {event:?} was never written: {events:?}"));
        assert!(event.write || source.start < event.end, "grain {grain}: {event:?} from the future");
    }
    let zones: Vec<(u64, u64, u64)> =
        zones.into_iter().map(|(value, (end, start))| (value, end, start)).collect();
    for &(value, end, start) in zones.iter().filter(|(_, end, start)| end < start) {
        for &(other, other_end, other_start) in zones.iter().filter(|zone| zone.0 != value) {
            // The same comparison finds overlapping forward zones and enclosed backward ones.
            let bad = end < other_start && other_end < start;
            assert!(!bad, "grain {grain}: values {value} and {other} are not in any order: {events:#?}");
        }
    }
}

// --- the simulated disks ----------------------------------------------------------------------------------------------

#[derive(Clone, Default)]
struct Disk {
    bytes: Vec<u8>,
    /// Sectors that cannot be read until they are written.
    bad: Vec<u64>,
    dead: bool,
    /// So many of the next sectors written are not taken.
    refuses: u64,
    /// Writes completed, and how many of them are stable.
    written: u64,
    flushed: u64,
    /// By sector: the number of the last write to it, 0 if that was a stable one.
    unstable: Vec<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Read,
    Write {
        fua: bool,
    },
    Flush {
        covers: u64,
    },
    /// A record of the partial parity log.
    Log,
}

/// A disk operation under way.
#[derive(Clone, Copy)]
struct Flight {
    engine: usize,
    tag: u64,
    slot: usize,
    at: u64,
    memory: Bytes,
    what: What,
    /// Sectors moved, from the front or from the back.
    moved: u64,
    backwards: bool,
    failed: bool,
}

struct Region {
    bytes: Vec<u8>,
    scratch: bool,
}

/// Counts of disk operations.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Counts {
    reads: u64,
    writes: u64,
    flushes: u64,
}

struct World {
    geometry: Arc<Geometry>,
    shared: Arc<Shared>,
    view: Arc<View>,
    disks: Vec<Disk>,
    memory: Vec<Option<Region>>,
    flights: Vec<Flight>,
    woken: Vec<bool>,
    /// Scratch bytes lent out, by engine, and the most of them (one operation always gets what it needs).
    lent: Vec<u32>,
    most_lent: u32,
    random: Random,
    dirty_wanted: bool,
    /// Of the bitmap, by region: its bit is set on the members; and regions whose bits are being set or cleared.
    bits: Vec<bool>,
    setting: Vec<u32>,
    clearing: Vec<u32>,
    failed: Vec<Slot>,
    notes: Vec<Note>,
    read_failures: u64,
    counts: Counts,
    /// No client's write may reach a disk unless the LU is marked dirty.
    strict_intent: bool,
    log: Option<Log>,
    /// Repairs and rebuilds run beside the load: they write what redundancy says is there, and nobody waits for their flush.
    fills: bool,
    /// Redundancy did not agree at the beginning.
    resynced: bool,
    /// By slot: the partial parity that gathers, the record being written, and the rows of the record on disk.
    gathered: Vec<Vec<u8>>,
    record: Vec<Vec<Entry>>,
    on_disk: Vec<Vec<Entry>>,
    records: u64,
    /// By slot, a bit: its disk prefers FUA to flushes.
    fua: u64,
}

struct Side<'w> {
    world: &'w mut World,
    me: usize,
}

fn overlap(a: Bytes, b: Bytes) -> bool {
    a.region == b.region && a.offset < b.offset + b.len && b.offset < a.offset + a.len
}

impl World {
    fn slice(&mut self, bytes: Bytes) -> &mut [u8] {
        let region = self.memory[bytes.region as usize].as_mut().expect("memory that is there");
        &mut region.bytes[bytes.offset as usize..][..bytes.len as usize]
    }

    /// May these bytes be changed now, or (with `reading`) be looked at?
    fn assert_free(&self, bytes: Bytes, reading: bool) {
        for flight in &self.flights {
            let matters = !reading || flight.what == What::Read;
            let moves = !matches!(flight.what, What::Flush { .. } | What::Log);
            let busy = matters && moves && overlap(flight.memory, bytes);
            assert!(!busy, "memory a disk works on is touched");
        }
    }

    fn add_region(&mut self, bytes: Vec<u8>, scratch: bool) -> u32 {
        let region = Some(Region { bytes, scratch });
        match self.memory.iter().position(Option::is_none) {
            Some(index) => {
                self.memory[index] = region;
                index as u32
            }
            None => {
                self.memory.push(region);
                self.memory.len() as u32 - 1
            }
        }
    }

    fn launch(&mut self, engine: usize, tag: u64, slot: Slot, at: u64, memory: Bytes, what: What) {
        let backwards = self.random.one_in(2);
        let slot = slot.index();
        self.flights.push(Flight { engine, tag, slot, at, memory, what, moved: 0, backwards, failed: false });
    }

    fn wake_all(&mut self) {
        self.woken.fill(true);
    }

    /// Moves some sectors of a flight. True when it is done.
    fn advance(&mut self, index: usize) -> bool {
        let mut flight = self.flights[index];
        if matches!(flight.what, What::Flush { .. } | What::Log) {
            self.flights[index].failed = self.disks[flight.slot].dead;
            return true;
        }
        let sectors = u64::from(flight.memory.len) / SECTOR;
        let steps = 1 + self.random.below(sectors);
        for _ in 0..steps {
            if flight.moved == sectors || flight.failed {
                break;
            }
            let nth = if flight.backwards { sectors - 1 - flight.moved } else { flight.moved };
            self.move_sector(&mut flight, nth);
            flight.moved += 1;
        }
        self.flights[index] = flight;
        flight.failed || flight.moved == sectors
    }

    fn move_sector(&mut self, flight: &mut Flight, nth: u64) {
        let sector = flight.at + nth;
        let memory = flight.memory.slice((nth * SECTOR) as u32, SECTOR as u32);
        let range = (sector * SECTOR) as usize..((sector + 1) * SECTOR) as usize;
        let region = self.memory[memory.region as usize].as_mut().expect("memory in flight");
        let bytes = &mut region.bytes[memory.offset as usize..][..SECTOR as usize];
        let disk = &mut self.disks[flight.slot];
        if disk.dead || (flight.what == What::Read && disk.bad.contains(&sector)) {
            flight.failed = true;
            if flight.what == What::Read {
                bytes.fill(0xDB);
            }
            return;
        }
        if let What::Write { fua } = flight.what {
            if disk.refuses > 0 {
                disk.refuses -= 1;
                flight.failed = true;
                return;
            }
            disk.bytes[range].copy_from_slice(bytes);
            disk.bad.retain(|&bad| bad != sector);
            disk.unstable[sector as usize] = if fua { 0 } else { u64::MAX };
        } else {
            bytes.copy_from_slice(&disk.bytes[range]);
        }
    }

    /// The end of a flight, for the disk.
    fn land(&mut self, index: usize) -> Flight {
        let flight = self.flights.swap_remove(index);
        let disk = &mut self.disks[flight.slot];
        match flight.what {
            // What a failed one moved before it failed is in the cache all the same.
            What::Write { fua } if !disk.dead => {
                disk.written += 1;
                for sector in flight.at..flight.at + u64::from(flight.memory.len) / SECTOR {
                    if !fua && disk.unstable[sector as usize] == u64::MAX {
                        disk.unstable[sector as usize] = disk.written;
                    }
                }
            }
            What::Flush { covers } if !flight.failed => {
                disk.flushed = disk.flushed.max(covers);
                for unstable in &mut disk.unstable {
                    if *unstable <= covers {
                        *unstable = 0;
                    }
                }
            }
            What::Log if !flight.failed => {
                self.on_disk[flight.slot] = core::mem::take(&mut self.record[flight.slot]);
            }
            _ => {}
        }
        flight
    }

    /// Has every sector that is written to a member its bit in the bitmap on disk?
    fn assert_marked(&self, slot: Slot, at: MemberLba, from: Bytes) {
        let Some(map) = self.shared.intent().filter(|_| self.strict_intent) else { return };
        for sector in 0..u64::from(from.len) / SECTOR {
            let place = self.geometry.find(slot, at + Sectors(sector)).expect("a place of the layout");
            let position = self.geometry.stripe(place.stripe).sync_start() + u64::from(place.row);
            let region = map.regions(position..position + 1).first;
            assert!(self.bits[region as usize], "a write to position {position}, which has no bit on disk");
        }
    }

    fn has_bits_to_write(&self) -> bool {
        let wanted = self.shared.intent().is_some_and(IntentMap::is_any_wanted);
        wanted || !self.setting.is_empty() || !self.clearing.is_empty()
    }

    /// What the keeper does with the bitmap next: one half of a round. False if there is nothing to do.
    fn keep_bitmap(&mut self) -> bool {
        let Some(map) = self.shared.intent() else { return false };
        if !self.setting.is_empty() {
            // The bits are on disk.
            for region in self.setting.drain(..) {
                self.bits[region as usize] = true;
                map.mark(region);
            }
        } else if !self.clearing.is_empty() {
            for region in core::mem::take(&mut self.clearing) {
                if map.is_wanted(region) || map.is_marked(region) {
                    map.mark(region);
                } else {
                    self.bits[region as usize] = false;
                }
            }
        } else if map.is_any_wanted() {
            map.take_wanted(|region| self.setting.push(region));
        } else {
            let set = (0u32..).zip(&self.bits).filter(|(_, bit)| **bit);
            self.clearing =
                set.map(|(region, _)| region).filter(|&region| map.try_unmark(region, false)).collect();
            return !self.clearing.is_empty();
        }
        self.wake_all();
        true
    }

    /// The cells of a logged entry's stripe: which are modified, and the rows.
    fn rows_of(&self, entry: &Entry) -> (Stripe, core::ops::Range<u16>, Rows) {
        let place = self.geometry.locate(entry.data_sector).unwrap();
        let cells = match entry.pp_size {
            0 => self.geometry.data_cells(),
            bytes => (entry.data_size / bytes) as u16,
        };
        let rows = entry.data_size / u32::from(cells) / SECTOR as u32;
        (place.stripe, place.cell..place.cell + cells, Rows::new(place.row, place.row + rows))
    }

    /// Nothing of these rows is in a cache any more.
    fn assert_stable(&self, entry: &Entry) {
        let (stripe, _, rows) = self.rows_of(entry);
        let map = self.geometry.stripe(stripe);
        for cell in (0..map.cells()).map(|index| map.cell(index)) {
            let there = self.view.members[cell.slot.index()].presence != Presence::Missing;
            let disk = &self.disks[cell.slot.index()];
            let sectors = cell.at.0 as usize + rows.start as usize..cell.at.0 as usize + rows.end as usize;
            let stable = self.fills || disk.unstable[sectors].iter().all(|&n| n == 0);
            assert!(stable || !there || disk.dead, "{entry:?} is replaced or summed up too early");
        }
    }

    /// The partial parity of an entry is the sum of what it does not modify.
    fn assert_partial_parity(&mut self, entry: &Entry, parity: &[u8]) {
        let (stripe, modified, rows) = self.rows_of(entry);
        let geometry = self.geometry.clone();
        let map = geometry.stripe(stripe);
        let mut sum = alloc::vec![0; parity.len()];
        for cell in (0..geometry.data_cells()).filter(|cell| !modified.contains(cell)) {
            let place = map.cell(cell);
            let member = &self.view.members[place.slot.index()];
            if member.presence != Presence::Present || self.disks[place.slot.index()].dead {
                return;
            }
            let at = ((place.at.0 + u64::from(rows.start)) * SECTOR) as usize;
            let bytes = &self.disks[place.slot.index()].bytes[at..at + parity.len()];
            sum.iter_mut().zip(bytes).for_each(|(sum, byte)| *sum ^= byte);
        }
        assert!(sum == parity, "{entry:?} has the wrong partial parity");
    }

    /// A write must be on the log of the member that has its parity.
    fn assert_logged(&self, slot: Slot, at: u64, sectors: u64) {
        let synced = self.view.logs && self.view.synced_below == u64::MAX;
        let Some(place) = self.geometry.find(slot, MemberLba(at)).filter(|_| synced) else { return };
        let map = self.geometry.stripe(place.stripe);
        let parity = map.cell(map.cells() - 1).slot;
        if self.view.members[parity.index()].presence == Presence::Missing {
            return;
        }
        let covered = |row: u32| {
            self.on_disk[parity.index()].iter().any(|entry| {
                let (stripe, cells, rows) = self.rows_of(entry);
                let modified = place.cell == map.cells() - 1 || cells.contains(&place.cell);
                stripe == place.stripe && modified && rows.start <= row && row < rows.end
            })
        };
        assert!((place.row..place.row + sectors as u32).all(covered), "an unlogged write");
    }

    /// What the keeper does next, if anything.
    fn keep(&mut self) {
        if self.random.one_in(2) && self.keep_bitmap() {
            return;
        }
        if let Some(slot) = self.failed.pop() {
            let bearable = self.geometry.tolerates(&self.view.incomplete().with(slot));
            if self.view.members[slot.index()].presence != Presence::Missing && bearable {
                self.publish(|view| view.members[slot.index()].presence = Presence::Missing);
            }
        } else if !self.notes.is_empty() {
            // In their order: a later one of the same blocks may say something else.
            let Note { slot, at, sectors, bad, .. } = self.notes.remove(0);
            self.publish(|view| match view.device_mut(slot) {
                Some(member) if bad => member.mark_bad(at, sectors),
                Some(member) => member.mark_good(at, sectors),
                None => {}
            });
        } else if core::mem::take(&mut self.dirty_wanted) {
            self.shared.set_dirty();
            self.wake_all();
        } else if self.shared.is_dirty() && !self.shared.try_clean() {
            self.wake_all();
        }
    }

    fn publish(&mut self, change: impl FnOnce(&mut View)) {
        let mut view = (*self.view).clone();
        change(&mut view);
        view.epoch += 1;
        let epoch = view.epoch;
        self.view = Arc::new(view);
        self.shared.set_epoch(epoch);
        self.wake_all();
    }
}

impl Port for Side<'_> {
    fn read(&mut self, tag: u64, slot: Slot, at: MemberLba, into: Bytes) {
        self.world.assert_free(into, false);
        self.world.counts.reads += 1;
        self.world.launch(self.me, tag, slot, at.0, into, What::Read);
    }

    fn write(&mut self, tag: u64, slot: Slot, at: MemberLba, from: Bytes, fua: bool) -> Holder {
        self.world.assert_free(from, true);
        assert!(!self.world.strict_intent || self.world.shared.is_dirty(), "a write to an LU marked clean");
        self.world.assert_marked(slot, at, from);
        self.world.counts.writes += 1;
        if self.world.strict_intent {
            self.world.assert_logged(slot, at.0, u64::from(from.len) / SECTOR);
        }
        self.world.launch(self.me, tag, slot, at.0, from, What::Write { fua });
        self.holder(slot)
    }

    fn zero(&mut self, tag: u64, slot: Slot, at: MemberLba, sectors: Sectors) -> Holder {
        let len = sectors.bytes() as u32;
        let region = self.world.add_region(alloc::vec![0; len as usize], false);
        self.write(tag, slot, at, Bytes { region, offset: 0, len }, false)
    }

    fn prefers_fua(&self, slot: Slot) -> bool {
        self.world.fua >> slot.0 & 1 == 1
    }

    fn flush(&mut self, tag: u64, slot: Slot) -> Holder {
        let covers = self.world.disks[slot.index()].written;
        self.world.counts.flushes += 1;
        let nothing = Bytes { region: u32::MAX, offset: 0, len: 0 };
        self.world.launch(self.me, tag, slot, 0, nothing, What::Flush { covers });
        self.holder(slot)
    }

    fn holder(&self, slot: Slot) -> Holder {
        Holder(u32::from(slot.0))
    }

    fn fold(
        &mut self,
        targets: &[Bytes],
        terms: &mut dyn Iterator<Item = (Bytes, [u8; 2])>,
        accumulate: bool,
    ) {
        let terms: Vec<(Vec<u8>, [u8; 2])> = terms
            .map(|(bytes, coef)| {
                self.world.assert_free(bytes, true);
                (self.world.slice(bytes).to_vec(), coef)
            })
            .collect();
        let sources: Vec<Source<'_>> =
            terms.iter().map(|(bytes, coef)| Source { bytes, coef: *coef }).collect();
        let mut sums: Vec<Vec<u8>> = Vec::new();
        for &target in targets {
            self.world.assert_free(target, false);
            sums.push(self.world.slice(target).to_vec());
        }
        match &mut sums[..] {
            [p] => Kernels::portable().combine(Target::One(p), &sources, accumulate),
            [p, q] => Kernels::portable().combine(Target::Two(p, q), &sources, accumulate),
            _ => panic!("a fold onto {} targets", targets.len()),
        }
        for (&target, sum) in targets.iter().zip(&sums) {
            self.world.slice(target).copy_from_slice(sum);
        }
    }

    fn copy(&mut self, to: Bytes, from: Bytes) {
        self.world.assert_free(to, false);
        self.world.assert_free(from, true);
        let bytes = self.world.slice(from).to_vec();
        self.world.slice(to).copy_from_slice(&bytes);
    }

    fn alloc(&mut self, bytes: u32) -> Option<u32> {
        let lent = self.world.lent[self.me];
        if lent > 0 && lent + bytes > self.world.most_lent {
            return None;
        }
        self.world.lent[self.me] += bytes;
        Some(self.world.add_region(alloc::vec![0xEE; bytes as usize], true))
    }

    fn free(&mut self, region: u32) {
        let len = self.world.memory[region as usize].as_ref().map_or(0, |r| r.bytes.len() as u32);
        self.world.assert_free(Bytes { region, offset: 0, len }, false);
        let gone = self.world.memory[region as usize].take();
        assert!(gone.is_some_and(|region| region.scratch), "frees what it was not given");
        self.world.lent[self.me] -= len;
    }

    fn log<R>(&mut self, ask: impl FnOnce(&mut Log) -> R) -> Option<R> {
        self.world.log.as_mut().map(ask)
    }

    fn log_join(
        &mut self,
        queue: QueueId,
        slot: Slot,
        entries: &mut dyn ExactSizeIterator<Item = (Entry, Option<Bytes>)>,
        parity: u32,
    ) -> Option<u64> {
        let (number, from) = self.world.log.as_mut()?.join(queue, slot, entries.len(), parity)?;
        assert!(from as usize <= self.world.gathered[slot.index()].len());
        self.world.gathered[slot.index()].truncate(from as usize);
        for (entry, bytes) in entries {
            if let Some(bytes) = bytes {
                self.world.assert_free(bytes, true);
                let bytes = self.world.slice(bytes).to_vec();
                self.world.gathered[slot.index()].extend(bytes);
            }
            self.world.log.as_mut()?.push(slot, entry);
        }
        assert_eq!((from + parity) as usize, self.world.gathered[slot.index()].len());
        Some(number)
    }

    fn log_write(&mut self, tag: u64, slot: Slot, copy: Option<u64>) -> Option<Holder> {
        assert_eq!(copy, None, "nobody is replaced here");
        let ring = Ring { length: Sectors(64), multiple: true };
        let holder = self.holder(slot);
        let Some(log) = &mut self.world.log else { return Some(holder) };
        let begun = log.begin(slot, holder, None, ring);
        let entries = log.entries(slot).to_vec();
        assert!(begun.at.0 + 8 + u64::from(begun.parity) / SECTOR <= ring.length.0);
        let bytes = core::mem::take(&mut self.world.gathered[slot.index()]);
        assert_eq!(bytes.len(), begun.parity as usize);
        let mut from = 0;
        for entry in &entries {
            self.world.assert_stable(entry);
            let parity = &bytes[from..from + entry.pp_size as usize];
            if self.world.strict_intent {
                self.world.assert_partial_parity(entry, parity);
            }
            from += entry.pp_size as usize;
        }
        for entry in self.world.on_disk[slot.index()].clone() {
            self.world.assert_stable(&entry);
        }
        if self.world.resynced && self.world.records == 0 {
            // Entries say that all the rest is in sync: so it must be, and on disk.
            let writes = |flight: &Flight| matches!(flight.what, What::Write { .. });
            assert!(!self.world.flights.iter().any(writes), "logged beside writes that are not");
            let stable = |disk: &Disk| disk.unstable.iter().all(|&n| n == 0);
            assert!(self.world.disks.iter().all(stable), "logged before the resync was flushed");
        }
        self.world.record[slot.index()] = entries;
        self.world.records += 1;
        let nothing = Bytes { region: u32::MAX, offset: 0, len: 0 };
        self.world.launch(self.me, tag, slot, 0, nothing, What::Log);
        Some(holder)
    }

    fn view(&mut self) -> Arc<View> {
        self.world.view.clone()
    }

    fn wake_others(&mut self) {
        self.world.wake_all();
    }

    fn ask_dirty(&mut self) {
        self.world.dirty_wanted = true;
    }

    fn member_failed(&mut self, slot: Slot, _: Holder) {
        self.world.failed.push(slot);
    }

    fn record(&mut self, note: Note) {
        self.world.notes.push(note);
    }

    fn read_failed(&mut self, _: Slot, _: MemberLba, _: Sectors) {
        self.world.read_failures += 1;
    }
}

// --- clients ----------------------------------------------------------------------------------------------------------

/// A request of a client, in grains.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wish {
    Read { first: u64, count: u64 },
    Write { first: u64, count: u64, fua: bool },
    Zero { first: u64, count: u64 },
    Flush,
    Fill(Stripe, Rows),
}

struct Asked {
    wish: Wish,
    value: u64,
    start: u64,
    /// The client's memory, and bytes in it before the first grain.
    memory: Bytes,
    head: u32,
    /// Of a flush: what every disk had completed when it was submitted.
    written: Vec<u64>,
    result: Option<Result<(), Trouble>>,
}

/// A level and how many disks.
#[derive(Clone, Copy)]
struct Kind {
    level: Level,
    layout: &'static str,
    slots: u16,
}

const KINDS: [Kind; 8] = [
    Kind { level: Level::Raid0, layout: "", slots: 3 },
    Kind { level: Level::Raid1, layout: "", slots: 2 },
    Kind { level: Level::Raid1, layout: "", slots: 3 },
    Kind { level: Level::Raid5, layout: "left-symmetric", slots: 3 },
    Kind { level: Level::Raid5, layout: "left-symmetric", slots: 4 },
    Kind { level: Level::Raid6, layout: "left-symmetric", slots: 5 },
    Kind { level: Level::Raid10, layout: "n2", slots: 4 },
    Kind { level: Level::Raid10, layout: "f2", slots: 3 },
];

struct Sim {
    world: World,
    engines: Vec<Engine>,
    asked: Vec<Asked>,
    registers: Vec<Vec<Event>>,
    /// Grains that were zeroed.
    zeroed: Vec<bool>,
    clock: u64,
    next_value: u64,
    block: u64,
    /// Requests may fail.
    forgiving: bool,
}

fn geometry(kind: Kind, chunk: u64, chunks: u64) -> Geometry {
    let mirror = kind.level == Level::Raid1;
    let component = Sectors(chunk * chunks);
    let members = alloc::vec![component; usize::from(kind.slots)];
    let layout = if kind.layout.is_empty() {
        Layout::default_for(kind.level)
    } else {
        Layout::parse(kind.level, kind.layout).unwrap()
    };
    Geometry::new(&Shape {
        level: kind.level,
        layout: layout.md_number(),
        chunk: if mirror { Sectors(0) } else { Sectors(chunk) },
        slots: kind.slots,
        component: if kind.level == Level::Raid0 { Sectors(0) } else { component },
        members: &members,
    })
    .unwrap()
}

/// Disks that hold value 0 everywhere, all redundancy right.
fn fresh_disks(geometry: &Geometry) -> Vec<Disk> {
    let disk = |slot: u16| {
        let sectors = geometry.member_used(Slot(slot)).0 as usize;
        Disk {
            bytes: alloc::vec![0; sectors * SECTOR as usize],
            unstable: alloc::vec![0; sectors],
            ..Disk::default()
        }
    };
    let mut disks: Vec<Disk> = (0..geometry.slots()).map(disk).collect();
    for number in 0..geometry.stripes() {
        let map = geometry.stripe(Stripe(number));
        let len = map.rows() as usize * SECTOR as usize;
        let data = geometry.data_cells();
        let content = |data: u16| -> Vec<u8> {
            let first = map.lba(data).0 * GRAINS_IN_SECTOR;
            let grains = u64::from(map.rows()) * GRAINS_IN_SECTOR;
            (first..first + grains).flat_map(|grain| grain_bytes(0, grain)).collect()
        };
        for index in 0..map.cells() {
            let cell = map.cell(index);
            let sum = |weight: &dyn Fn(u16) -> u8| {
                let mut sum = alloc::vec![0; len];
                for d in 0..data {
                    sum.iter_mut().zip(content(d)).for_each(|(s, byte)| *s ^= gf::mul(weight(d), byte));
                }
                sum
            };
            let bytes = match cell.kind {
                CellKind::Data(d) => content(d),
                CellKind::Copy => content(0),
                CellKind::P => sum(&|_| 1),
                CellKind::Q => sum(&|d| gf::exp(u32::from(map.q_power(d)))),
            };
            let at = (cell.at.0 * SECTOR) as usize;
            disks[cell.slot.index()].bytes[at..at + len].copy_from_slice(&bytes);
        }
    }
    disks
}

impl Sim {
    fn new(kind: Kind, engines: usize, seed: u64) -> Sim {
        let mut random = Random(seed);
        let chunk = 8 << random.below(2);
        let block = 1 << random.below(3);
        let bands = 1 + random.below(8) as usize;
        let logs = kind.level == Level::Raid5 && random.one_in(2);
        let requests = 1 + random.below(12) as usize;
        let geometry = geometry(kind, chunk, 6);
        let unit = geometry.unit().0.min(chunk);
        let least = if logs { LOG_ROWS.into() } else { block };
        let band_rows = (1 + random.below(unit / least)) * least;
        let most_lent = (random.below(4) * 64 * SECTOR) as u32;
        let (band_rows, block) = (band_rows as u32, block as u32);
        let unsummed = [u64::MAX, 1, 1 + random.below(64) * SECTOR][random.below(3) as usize];
        let limits = Limits { requests, bands, band_rows, block, read_only: false, unsummed };
        let fua = [0, u64::MAX, random.next()][random.below(3) as usize];
        let mut sim = Sim::with(geometry, engines, limits, most_lent, random, logs);
        sim.world.fua = fua;
        sim
    }

    fn with(
        geometry: Geometry,
        engines: usize,
        limits: Limits,
        most_lent: u32,
        random: Random,
        logs: bool,
    ) -> Sim {
        let geometry = Arc::new(geometry);
        // Every other LU has a bitmap, of regions smaller and larger than a chunk.
        let mut random = random;
        let covered =
            if geometry.synced_unit_is_lu() { geometry.size() } else { geometry.member_used(Slot(0)) };
        let has_bitmap = geometry.is_redundant() && !logs && random.one_in(2);
        let intent = has_bitmap.then(|| IntentMap::new(covered, Sectors(4 << random.below(5))));
        let bits = alloc::vec![false; intent.as_ref().map_or(0, IntentMap::len)];
        let shared = Arc::new(Shared::new(&geometry, engines, 0).with_intent(intent));
        let view = Arc::new(View { logs, ..View::healthy(geometry.slots()) });
        let make = |_| {
            let queue = shared.join().unwrap();
            Engine::new(geometry.clone(), shared.clone(), queue, view.clone(), limits)
        };
        let list = (0..engines).map(make).collect();
        let first = Event { value: 0, start: 0, end: 0, write: true };
        let grains = geometry.size().0 * GRAINS_IN_SECTOR;
        let slots = usize::from(geometry.slots());
        let world = World {
            disks: fresh_disks(&geometry),
            strict_intent: geometry.is_redundant(),
            geometry,
            shared,
            view,
            memory: Vec::new(),
            flights: Vec::new(),
            woken: alloc::vec![false; engines],
            lent: alloc::vec![0; engines],
            most_lent,
            random,
            dirty_wanted: false,
            bits,
            setting: Vec::new(),
            clearing: Vec::new(),
            failed: Vec::new(),
            notes: Vec::new(),
            read_failures: 0,
            counts: Counts::default(),
            log: logs.then(|| Log::new(slots as u16, 16 << 10, 0)),
            fills: false,
            resynced: false,
            gathered: alloc::vec![Vec::new(); slots],
            record: alloc::vec![Vec::new(); slots],
            on_disk: alloc::vec![Vec::new(); slots],
            records: 0,
            fua: 0,
        };
        Sim {
            world,
            engines: list,
            asked: Vec::new(),
            registers: alloc::vec![alloc::vec![first]; grains as usize],
            zeroed: alloc::vec![false; grains as usize],
            clock: 1,
            next_value: 1,
            block: u64::from(limits.block),
            forgiving: false,
        }
    }

    fn grains(&self) -> u64 {
        self.registers.len() as u64
    }

    fn random_wish(&mut self) -> Wish {
        let random = &mut self.world.random;
        let all = self.registers.len() as u64;
        // Most of it in a small place, so that requests meet.
        let (from, room) = match random.below(4) {
            0 => (0, all),
            1 => (all / 2, all / 8),
            _ => (0, (24 * GRAINS_IN_SECTOR).min(all)),
        };
        let first = from + random.below(room);
        let longest = match random.below(3) {
            0 => 3,
            1 => 8 * GRAINS_IN_SECTOR,
            _ => 48 * GRAINS_IN_SECTOR,
        };
        let mut count = 1 + random.below(longest);
        let mut first = first;
        if random.one_in(3) {
            // Whole blocks, as most clients do.
            let block = self.block * GRAINS_IN_SECTOR;
            first -= first % block;
            count = count.next_multiple_of(block);
        }
        count = count.min(all - first);
        let kind = random.below(20);
        let fua = random.one_in(8);
        match kind {
            0 => Wish::Flush,
            1..10 => Wish::Read { first, count },
            10 => self.zeroing(first, count),
            _ => Wish::Write { first, count, fua },
        }
    }

    /// The blocks around `first` that were never zeroed; where there are none, a write.
    fn zeroing(&mut self, first: u64, count: u64) -> Wish {
        let block = self.block * GRAINS_IN_SECTOR;
        let (start, all) = (first - first % block, self.grains());
        let is_whole = |end: u64| end.is_multiple_of(block) || end == all;
        let most = (first + count).next_multiple_of(block).min(all);
        let fresh = (start..most).take_while(|&grain| !self.zeroed[grain as usize]).count() as u64;
        let end = (start..=start + fresh).rev().find(|&end| is_whole(end)).unwrap_or(start);
        if end <= start {
            return Wish::Write { first, count, fua: false };
        }
        self.zeroed[start as usize..end as usize].fill(true);
        Wish::Zero { first: start, count: end - start }
    }

    /// Submits to `engine`, which has room. Returns the request's number.
    fn ask(&mut self, engine: usize, wish: Wish) -> usize {
        let cookie = self.asked.len();
        let value = if matches!(wish, Wish::Zero { .. }) { ZERO } else { self.next_value };
        self.next_value += 1;
        let (mut memory, mut head) = (Bytes { region: u32::MAX, offset: 0, len: 0 }, 0);
        let request = match wish {
            Wish::Flush => Request::Flush,
            Wish::Fill(stripe, rows) => Request::Fill { stripe, rows },
            Wish::Zero { first, count } => {
                let (lba, sectors) = (Lba(first / GRAINS_IN_SECTOR), Sectors(count / GRAINS_IN_SECTOR));
                Request::Zero { lba, sectors }
            }
            Wish::Read { first, count } | Wish::Write { first, count, .. } => {
                let block = self.block * GRAINS_IN_SECTOR;
                let (start, end) = (first - first % block, (first + count).next_multiple_of(block));
                let end = end.min(self.grains());
                let len = (end - start) as usize * GRAIN;
                head = (first - start) as u32 * GRAIN as u32;
                let tail = (end - first - count) as u32 * GRAIN as u32;
                let mut bytes = alloc::vec![0xCC; len];
                let (lba, sectors) = (Lba(start / GRAINS_IN_SECTOR), Sectors(len as u64 / SECTOR));
                if let Wish::Write { fua, .. } = wish {
                    for grain in first..first + count {
                        let at = (grain - start) as usize * GRAIN;
                        bytes[at..at + GRAIN].copy_from_slice(&grain_bytes(value, grain));
                    }
                    memory =
                        Bytes { region: self.world.add_region(bytes, false), offset: 0, len: len as u32 };
                    Request::Write { lba, sectors, memory, fua, keep: Keep { head, tail } }
                } else {
                    memory =
                        Bytes { region: self.world.add_region(bytes, false), offset: 0, len: len as u32 };
                    Request::Read { lba, sectors, memory }
                }
            }
        };
        self.engines[engine].submit(cookie as u64, request).unwrap();
        self.world.woken[engine] = true;
        let written = self.world.disks.iter().map(|disk| disk.written).collect();
        self.asked.push(Asked { wish, value, start: self.clock, memory, head, written, result: None });
        cookie
    }

    fn run(&mut self, engine: usize) {
        self.world.woken[engine] = false;
        self.engines[engine].run(&mut Side { world: &mut self.world, me: engine });
        self.take_replies(engine);
    }

    fn take_replies(&mut self, engine: usize) {
        while let Some(reply) = self.engines[engine].reply() {
            let asked = &mut self.asked[reply.cookie as usize];
            assert!(asked.result.is_none(), "a second reply");
            asked.result = Some(reply.result);
            let (wish, value, start, memory, head) =
                (asked.wish, asked.value, asked.start, asked.memory, asked.head);
            assert!(reply.result.is_ok() || self.forgiving, "{wish:?}: {:?}", reply.result);
            let end = self.clock;
            match wish {
                Wish::Read { first, count } if reply.result.is_ok() => {
                    let bytes = self.world.slice(memory)[head as usize..].to_vec();
                    for (grain, bytes) in (first..first + count).zip(bytes.chunks_exact(GRAIN)) {
                        let value = value_of(bytes, grain).unwrap_or_else(|| {
                            panic!("grain {grain} is not of one piece: {:x?}", &bytes[..24])
                        });
                        self.registers[grain as usize].push(Event { value, start, end, write: false });
                    }
                }
                Wish::Write { first, count, .. } | Wish::Zero { first, count } => {
                    // A write that failed may still come to pass.
                    let end = if reply.result.is_ok() { end } else { u64::MAX };
                    for grain in first..first + count {
                        self.registers[grain as usize].push(Event { value, start, end, write: true });
                    }
                }
                Wish::Flush if reply.result.is_ok() => {
                    for (slot, disk) in self.world.disks.iter().enumerate() {
                        let there = self.world.view.members[slot].presence != Presence::Missing;
                        let written = self.asked[reply.cookie as usize].written[slot];
                        assert!(!there || disk.flushed >= written, "slot {slot} was not flushed");
                    }
                }
                _ => {}
            }
            if memory.region != u32::MAX {
                self.world.assert_free(memory, false);
                self.world.memory[memory.region as usize] = None;
            }
        }
    }

    /// Lets a disk get on with something; a finished operation is reported to its engine.
    fn disk_step(&mut self, index: usize) {
        if self.world.advance(index) {
            let flight = self.world.land(index);
            self.world.woken[flight.engine] = true;
            let mut side = Side { world: &mut self.world, me: flight.engine };
            self.engines[flight.engine].complete(flight.tag, !flight.failed, &mut side);
            self.take_replies(flight.engine);
        }
    }

    /// One step of whoever the scheduler picks. False if there is nothing to do.
    fn step(&mut self) -> bool {
        self.clock += 1;
        let woken: Vec<usize> = (0..self.engines.len()).filter(|&e| self.world.woken[e]).collect();
        let told = !self.world.failed.is_empty() || !self.world.notes.is_empty();
        let keeper = self.world.dirty_wanted || told || self.world.has_bits_to_write();
        let flights = self.world.flights.len();
        for _ in 0..16 {
            match self.world.random.below(8) {
                0..3 if !woken.is_empty() => {
                    let engine = woken[self.world.random.below(woken.len() as u64) as usize];
                    self.run(engine);
                    return true;
                }
                3..7 if flights > 0 => {
                    let index = self.world.random.below(flights as u64) as usize;
                    self.disk_step(index);
                    return true;
                }
                7 if keeper || self.world.random.one_in(4) => {
                    self.world.keep();
                    return true;
                }
                _ => {}
            }
        }
        !woken.is_empty() || flights > 0 || keeper
    }

    /// Runs until nothing moves. Everything submitted must have ended then.
    fn settle(&mut self) {
        for _ in 0..200_000 {
            if !self.step() {
                for asked in &self.asked {
                    assert!(asked.result.is_some(), "lost: {:?}", asked.wish);
                }
                for engine in &self.engines {
                    assert!(engine.is_idle());
                }
                assert!(self.world.lent.iter().all(|&lent| lent == 0));
                return;
            }
        }
        panic!("no end");
    }

    /// `wishes` random requests on random engines, with `also` called now and then.
    fn load(&mut self, wishes: usize, mut also: impl FnMut(&mut Sim)) {
        let mut left = wishes;
        let mut idle = 0;
        while left > 0 {
            idle += 1;
            assert!(idle < 1_000_000, "the load does not get on");
            let engine = self.world.random.below(self.engines.len() as u64) as usize;
            if self.world.random.one_in(3) && self.engines[engine].has_room() {
                let burst = 1 + self.world.random.below(6);
                for _ in 0..burst.min(left as u64) {
                    if self.engines[engine].has_room() {
                        let wish = self.random_wish();
                        self.ask(engine, wish);
                        left -= 1;
                    }
                }
            }
            self.step();
            also(self);
        }
        self.settle();
    }

    /// Reads everything with `view`, undisturbed.
    fn read_all(&mut self, view: View) -> Vec<u8> {
        let shared = Arc::new(Shared::new(&self.world.geometry, 1, view.epoch));
        let size = self.world.geometry.size();
        let unit = self.world.geometry.unit().0.min(64) as u32;
        let limits =
            Limits { requests: 1, bands: 4, band_rows: unit, block: 1, read_only: true, unsummed: u64::MAX };
        let view = Arc::new(view);
        let queue = shared.join().unwrap();
        let mut engine = Engine::new(self.world.geometry.clone(), shared, queue, view.clone(), limits);
        let len = size.bytes() as u32;
        let memory =
            Bytes { region: self.world.add_region(alloc::vec![0; len as usize], false), offset: 0, len };
        engine.submit(0, Request::Read { lba: Lba(0), sectors: size, memory }).unwrap();
        let now = core::mem::replace(&mut self.world.view, view);
        loop {
            engine.run(&mut Side { world: &mut self.world, me: 0 });
            if let Some(reply) = engine.reply() {
                reply.result.unwrap();
                break;
            }
            for _ in 0..self.world.flights.len() {
                while !self.world.advance(0) {}
                let flight = self.world.land(0);
                engine.complete(flight.tag, !flight.failed, &mut Side { world: &mut self.world, me: 0 });
            }
        }
        self.world.view = now;
        self.world.memory[memory.region as usize].take().unwrap().bytes
    }

    /// At rest: the histories are linearizable, and all redundancy tells the same.
    fn verify(&mut self) {
        for disk in &mut self.world.disks {
            disk.bad.clear();
        }
        let view = (*self.world.view).clone();
        let content = self.read_all(view.clone());
        for (grain, bytes) in content.chunks_exact(GRAIN).enumerate() {
            let value =
                value_of(bytes, grain as u64).unwrap_or_else(|| panic!("grain {grain} is torn at the end"));
            let read = Event { value, start: self.clock + 1, end: self.clock + 2, write: false };
            self.registers[grain].push(read);
        }
        for (grain, events) in self.registers.iter().enumerate().filter(|(_, events)| events.len() > 2) {
            check_register(grain as u64, events);
        }
        let there: Vec<Slot> = (0..self.world.geometry.slots()).map(Slot).collect();
        for &a in &there {
            for &b in there.iter().filter(|b| b.0 >= a.0) {
                let mut without = view.clone();
                for slot in [a, b] {
                    without.members[slot.index()].presence = Presence::Missing;
                }
                if self.world.geometry.tolerates(&without.incomplete()) {
                    let same = self.read_all(without) == content;
                    assert!(same, "without {a} and {b} it reads differently");
                }
            }
        }
    }
}

/// Runs `body` for many seeds and says which one failed.
fn seeds(count: u64, mut body: impl FnMut(u64)) {
    struct Tell(u64);
    impl Drop for Tell {
        fn drop(&mut self) {
            if std::thread::panicking() {
                #[expect(clippy::print_stderr, reason = "the seed is what a failing test has to say")]
                {
                    std::eprintln!("seed {}", self.0);
                }
            }
        }
    }
    for seed in 0..count {
        let tell = Tell(seed);
        body(seed);
        core::mem::forget(tell);
    }
}

// --- tests ------------------------------------------------------------------------------------------------------------

#[test]
fn healthy_lus_are_linear_registers_and_their_redundancy_agrees() {
    seeds(1600, |seed| {
        let kind = KINDS[seed as usize % KINDS.len()];
        let mut sim = Sim::new(kind, 1 + seed as usize / 8 % 3, seed);
        sim.load(60, |_| {});
        sim.verify();
    });
}

/// Sectors that cannot be read, on as many members as the level can lose.
#[test]
fn unreadable_sectors_are_served_by_redundancy_and_repaired() {
    let (mut failures, mut repaired) = (0, 0);
    seeds(800, |seed| {
        let kind = KINDS[1 + seed as usize % (KINDS.len() - 1)];
        let mut sim = Sim::new(kind, 1 + seed as usize % 2, seed);
        sim.world.strict_intent = false; // repairs of what was read need no mark
        sim.world.fills = true;
        let weak = sim.world.random.below(u64::from(kind.slots)) as usize;
        let also = (weak + 1) % usize::from(kind.slots);
        sim.load(50, |sim| {
            if sim.world.random.one_in(12) {
                let slots = [Slot(weak as u16), Slot(also as u16)];
                let both = sim.world.geometry.tolerates(&slots.into_iter().collect::<SlotSet>());
                let slot = if both && sim.world.random.one_in(2) { also } else { weak };
                let sectors = sim.world.disks[slot].unstable.len() as u64;
                let bad = sim.world.random.below(sectors.min(24));
                sim.world.disks[slot].bad.push(bad);
            }
        });
        // Whatever is read now is repaired, so that it can be read from the members themselves.
        let size = sim.grains();
        let before = sim.world.read_failures;
        sim.ask(0, Wish::Read { first: 0, count: size });
        sim.settle();
        failures += sim.world.read_failures;
        if sim.world.read_failures > before && kind.level == Level::Raid5 {
            // On parity levels a read goes to the data itself: nothing bad is left there.
            let again = sim.world.read_failures;
            sim.ask(0, Wish::Read { first: 0, count: size });
            sim.settle();
            let left = sim.world.read_failures - again;
            assert!(left < again - before || left == 0, "{left} places were not repaired");
            repaired += 1;
        }
        sim.verify();
    });
    assert!(failures > 1000 && repaired > 10, "{failures} failures, {repaired} repaired");
}

/// A member dies at any moment; with two to spare, another one follows.
#[test]
fn dying_members_cost_nothing_within_the_budget() {
    seeds(1200, |seed| {
        let kind = KINDS[1 + seed as usize % (KINDS.len() - 1)];
        let mut sim = Sim::new(kind, 1 + seed as usize % 3, seed);
        sim.world.strict_intent = false;
        let mut dead = SlotSet::EMPTY;
        sim.load(60, |sim| {
            let slot = Slot(sim.world.random.below(u64::from(kind.slots)) as u16);
            if sim.world.random.one_in(60) && sim.world.geometry.tolerates(&dead.with(slot)) {
                dead.insert(slot);
                sim.world.disks[slot.index()].dead = true;
            }
        });
        sim.verify();
    });
}

/// More members die than the level survives: requests fail, but what is read is still right, and nothing hangs.
#[test]
fn beyond_the_budget_requests_fail_and_nothing_is_invented() {
    let mut failed = 0;
    seeds(600, |seed| {
        let kind = KINDS[seed as usize % KINDS.len()];
        let mut sim = Sim::new(kind, 1 + seed as usize % 3, seed);
        sim.forgiving = true;
        sim.world.strict_intent = false;
        sim.load(60, |sim| {
            if sim.world.random.one_in(30) {
                let slot = sim.world.random.below(u64::from(kind.slots)) as usize;
                sim.world.disks[slot].dead = true;
            }
        });
        failed += sim.asked.iter().filter(|asked| asked.result.is_some_and(|r| r.is_err())).count();
        for (grain, events) in sim.registers.iter().enumerate().filter(|(_, events)| events.len() > 2) {
            check_register(grain as u64, events);
        }
    });
    assert!(failed > 1000, "only {failed}");
}

/// What is on a list of bad blocks is never read, and is good again when it was written.
#[test]
fn bad_blocks_are_worked_around_and_healed_by_writes() {
    let mut healed = 0;
    seeds(600, |seed| {
        let kind = KINDS[1 + seed as usize % (KINDS.len() - 1)];
        let mut sim = Sim::new(kind, 1 + seed as usize % 3, seed);
        sim.world.strict_intent = false;
        let slot = Slot(sim.world.random.below(u64::from(kind.slots)) as u16);
        let blocks = sim.world.disks[slot.index()].unstable.len() as u64 / sim.block;
        for _ in 0..1 + sim.world.random.below(3) {
            let (at, sectors) = (sim.world.random.below(blocks) * sim.block, sim.block);
            let bytes = (at * SECTOR) as usize..((at + sectors) * SECTOR) as usize;
            sim.world.disks[slot.index()].bytes[bytes].fill(0xBD);
            sim.world.publish(|view| {
                view.members[slot.index()].mark_bad(MemberLba(at), Sectors(sectors));
            });
        }
        sim.load(50, |_| {});
        let count = sim.grains();
        sim.ask(0, Wish::Write { first: 0, count, fua: false });
        sim.settle();
        let left = &sim.world.view.members[slot.index()].bad;
        assert!(left.is_empty(), "all was written, and {left:?} are bad still");
        healed += 1;
        sim.verify();
    });
    assert_eq!(healed, 600);
}

/// A member that cannot be spared takes some writes and refuses others: what others lost in these rows is lost, and never
/// made up from bytes that do not belong together.
#[test]
fn rows_that_a_write_left_half_done_are_not_used_to_make_up_for_others() {
    let (mut recorded, mut lost) = (0, 0);
    seeds(800, |seed| {
        let kind = KINDS[3 + seed as usize % (KINDS.len() - 3)];
        let mut sim = Sim::new(kind, 1 + seed as usize % 2, seed);
        sim.forgiving = true;
        sim.world.strict_intent = false;
        // As many are gone as may be, and the others do not always take what is written.
        let mut gone = SlotSet::EMPTY;
        for slot in (0..kind.slots).map(Slot) {
            if sim.world.geometry.tolerates(&gone.with(slot)) {
                gone.insert(slot);
                sim.world.disks[slot.index()].dead = true;
                sim.world.publish(|view| view.members[slot.index()].presence = Presence::Missing);
            }
        }
        sim.load(60, |sim| {
            if sim.world.random.one_in(25) {
                let slot = sim.world.random.below(u64::from(kind.slots)) as usize;
                sim.world.disks[slot].refuses = 1 + sim.world.random.below(5);
            }
        });
        for disk in &mut sim.world.disks {
            disk.refuses = 0;
        }
        recorded += sim.world.view.members.iter().map(|member| member.bad.len()).sum::<usize>();
        for first in 0..sim.grains() {
            let read = sim.ask(0, Wish::Read { first, count: 1 });
            sim.settle();
            lost += usize::from(sim.asked[read].result.is_some_and(|result| result.is_err()));
        }
        for (grain, events) in sim.registers.iter().enumerate().filter(|(_, events)| events.len() > 1) {
            check_register(grain as u64, events);
        }
    });
    assert!(recorded > 100 && lost > 100, "{recorded} recorded, {lost} lost");
}

/// Redundancy that does not agree yet is made to, and a new member is filled, under load.
#[test]
fn resync_and_rebuild_run_beside_the_load() {
    seeds(800, |seed| {
        let kind = KINDS[1 + seed as usize % (KINDS.len() - 1)];
        let mut sim = Sim::new(kind, 2, seed);
        sim.world.strict_intent = false;
        let geometry = sim.world.geometry.clone();
        let rebuilt =
            sim.world.random.one_in(2).then(|| Slot(sim.world.random.below(u64::from(kind.slots)) as u16));
        match rebuilt {
            Some(slot) => {
                sim.world.fills = true;
                sim.world.disks[slot.index()].bytes.fill(0xAA);
                sim.world.publish(|view| view.members[slot.index()].presence = Presence::Below(MemberLba(0)));
            }
            None => {
                // Copies but the first, and all parity, are rubbish.
                for number in 0..geometry.stripes() {
                    let map = geometry.stripe(Stripe(number));
                    for index in geometry.data_cells()..map.cells() {
                        let cell = map.cell(index);
                        let bytes =
                            &mut sim.world.disks[cell.slot.index()].bytes[(cell.at.0 * SECTOR) as usize..];
                        bytes[..map.rows() as usize * SECTOR as usize].fill(0x55);
                    }
                }
                sim.world.resynced = true;
                sim.world.publish(|view| view.synced_below = 0);
            }
        }
        let mut next = 0;
        while next < geometry.stripes() {
            sim.load(20, |sim| {
                if next < geometry.stripes() && sim.world.random.one_in(6) && sim.engines[1].has_room() {
                    let rows = geometry.stripe(Stripe(next)).rows();
                    sim.ask(1, Wish::Fill(Stripe(next), Rows::new(0, rows)));
                    next += 1;
                }
            });
        }
        // The last fill may still be under way with writes that were planned before it.
        sim.load(20, |sim| {
            if sim.world.view.synced_below != u64::MAX || rebuilt.is_some() && sim.world.random.one_in(4) {
                sim.world.publish(|view| {
                    view.synced_below = u64::MAX;
                    if let Some(slot) = rebuilt {
                        view.members[slot.index()].presence = Presence::Present;
                    }
                });
            }
        });
        sim.verify();
    });
}

// --- one thing at a time ----------------------------------------------------------------------------------------------

const RAID5: Kind = Kind { level: Level::Raid5, layout: "left-symmetric", slots: 5 };

/// One engine with plenty of everything, marked dirty. Chunk of 16 sectors, block of one.
fn plain(kind: Kind) -> Sim {
    marked_dirty(geometry(kind, 16, 6), 64, 32)
}

/// The same with one band for all.
fn with_one_band(geometry: Geometry) -> Sim {
    marked_dirty(geometry, 8, 1)
}

fn marked_dirty(geometry: Geometry, requests: usize, bands: usize) -> Sim {
    let limits = Limits { requests, bands, band_rows: 16, block: 1, read_only: false, unsummed: u64::MAX };
    let sim = Sim::with(geometry, 1, limits, u32::MAX / 2, Random(7), false);
    sim.world.shared.set_dirty();
    sim
}

/// Everything but the keeper runs until nothing moves.
fn settle_without_keeper(sim: &mut Sim) {
    while sim.world.woken[0] || !sim.world.flights.is_empty() {
        sim.clock += 1;
        if sim.world.woken[0] {
            sim.run(0);
        } else {
            sim.disk_step(0);
        }
    }
}

#[test]
fn a_batch_of_sequential_small_writes_becomes_full_stripes() {
    let mut sim = plain(RAID5);
    for i in 0..32 {
        let count = 8 * GRAINS_IN_SECTOR;
        sim.ask(0, Wish::Write { first: i * count, count, fua: false });
    }
    settle_without_keeper(&mut sim);
    assert!(sim.asked.iter().all(|asked| asked.result == Some(Ok(()))));
    // 128 KiB are four stripes of four chunks: every client buffer once, and each parity chunk once.
    assert_eq!(sim.world.counts, Counts { reads: 0, writes: 32 + 4, flushes: 0 });
    sim.verify();
}

#[test]
fn a_small_write_costs_what_it_must() {
    for (kind, reads, writes) in [(RAID5, 2, 2), (KINDS[5], 2, 3), (KINDS[2], 0, 3), (KINDS[0], 0, 1)] {
        let mut sim = plain(kind);
        sim.ask(0, Wish::Write { first: 0, count: 8 * GRAINS_IN_SECTOR, fua: false });
        settle_without_keeper(&mut sim);
        // RAID6 of five: two cells are kept and two more would be read either way.
        assert_eq!(sim.world.counts, Counts { reads, writes, flushes: 0 }, "{}", kind.level);
        sim.verify();
    }
}

/// [`plain`] with a log.
fn logged() -> Sim {
    let limits =
        Limits { requests: 64, bands: 32, band_rows: 16, block: 1, read_only: false, unsummed: u64::MAX };
    let sim = Sim::with(geometry(RAID5, 16, 6), 1, limits, u32::MAX / 2, Random(7), true);
    sim.world.shared.set_dirty();
    sim
}

#[test]
fn a_logged_write_costs_one_more() {
    let mut sim = logged();
    let block = 8 * GRAINS_IN_SECTOR;
    let ask = |sim: &mut Sim, first, count| {
        sim.ask(0, Wish::Write { first, count, fua: false });
        settle_without_keeper(sim);
        (core::mem::take(&mut sim.world.counts), core::mem::take(&mut sim.world.records))
    };
    let counts = |reads, writes, flushes| Counts { reads, writes, flushes };
    assert_eq!(ask(&mut sim, 0, block), (counts(2, 2, 0), 1));
    // One sector: as much, for reads are widened and not more.
    assert_eq!(ask(&mut sim, 64 * 4 * 2, 4), (counts(2, 2, 0), 1), "elsewhere");
    // The same member's log once more: what its last record was for is flushed first.
    assert_eq!(ask(&mut sim, 0, block), (counts(2, 2, 2), 1));
    // A full stripe; after a client's flush nothing has to be flushed.
    sim.ask(0, Wish::Flush);
    settle_without_keeper(&mut sim);
    sim.world.counts = Counts::default();
    assert_eq!(ask(&mut sim, 0, 4 * 16 * GRAINS_IN_SECTOR), (counts(0, 5, 0), 1));
    sim.verify();
}

/// What is written with FUA needs no flush before the next record; what is not, does.
#[test]
fn disks_that_prefer_fua_are_not_flushed_for_the_log() {
    for fua in [u64::MAX, !1] {
        let mut sim = logged();
        sim.world.fua = fua;
        for round in 0..4 {
            // In the first stripe, whose first chunk is on slot 0.
            sim.ask(0, Wish::Write { first: 0, count: 8 * GRAINS_IN_SECTOR, fua: false });
            settle_without_keeper(&mut sim);
            let flushes = if fua == u64::MAX { 0 } else { round };
            assert_eq!(sim.world.counts.flushes, flushes, "{fua:x}");
        }
        assert_eq!(sim.world.records, 4);
        sim.verify();
    }
}

/// Writes that come together share a record.
#[test]
fn a_batch_of_random_writes_shares_records() {
    let mut sim = logged();
    for n in 0..24 {
        sim.ask(0, Wish::Write { first: n * 16 * GRAINS_IN_SECTOR, count: 8 * GRAINS_IN_SECTOR, fua: false });
    }
    settle_without_keeper(&mut sim);
    assert!(sim.world.records <= 5 + 1, "{} records on five members", sim.world.records);
    sim.verify();
}

#[test]
fn a_fua_write_is_stable_when_it_is_acknowledged() {
    for kind in KINDS {
        let mut sim = plain(kind);
        // In the first 16 sectors, and elsewhere without FUA.
        sim.ask(0, Wish::Write { first: 200, count: 40, fua: false });
        sim.ask(0, Wish::Write { first: 3, count: 50, fua: true });
        settle_without_keeper(&mut sim);
        let map = sim.world.geometry.stripe(Stripe(0));
        for index in 0..map.cells() {
            let cell = map.cell(index);
            let sectors = cell.at.0 as usize..cell.at.0 as usize + 16;
            assert!(
                sim.world.disks[cell.slot.index()].unstable[sectors].iter().all(|&n| n == 0),
                "{}",
                kind.level
            );
        }
        assert!(sim.world.disks.iter().any(|disk| disk.unstable.iter().any(|&n| n != 0)));
        sim.ask(0, Wish::Flush);
        settle_without_keeper(&mut sim);
        assert!(sim.world.disks.iter().all(|disk| disk.unstable.iter().all(|&n| n == 0)), "{}", kind.level);
    }
}

#[test]
fn a_failed_write_is_held_until_the_survivors_say_so() {
    for kind in KINDS.into_iter().filter(|kind| kind.level != Level::Raid0) {
        for wish in [Wish::Write { first: 0, count: 4, fua: false }, Wish::Flush] {
            let mut sim = plain(kind);
            let slot = sim.world.geometry.stripe(Stripe(0)).cell(0).slot;
            sim.world.disks[slot.index()].dead = true;
            let n = sim.ask(0, wish);
            settle_without_keeper(&mut sim);
            // On parity levels the old content cannot be read either; the new one is written all the same.
            assert_eq!(sim.asked[n].result, None, "{}: acknowledged too early", kind.level);
            assert_eq!(sim.world.failed.first(), Some(&slot), "{}", kind.level);
            sim.world.keep();
            settle_without_keeper(&mut sim);
            assert_eq!(sim.asked[n].result, Some(Ok(())), "{}", kind.level);
            sim.world.failed.clear();
            sim.verify();
        }
    }
}

/// Bands may all wait for the rows of a write that was sent without one: when it fails, there is room for it still.
#[test]
fn a_direct_write_that_fails_needs_no_free_band() {
    let mut sim = with_one_band(geometry(KINDS[1], 16, 6));
    sim.world.disks[1].dead = true;
    let asked = [0; 3].map(|_| sim.ask(0, Wish::Write { first: 0, count: 4, fua: false }));
    settle_without_keeper(&mut sim);
    assert!(asked.iter().all(|&n| sim.asked[n].result.is_none()), "acknowledged too early");
    sim.world.keep();
    settle_without_keeper(&mut sim);
    assert!(asked.iter().all(|&n| sim.asked[n].result == Some(Ok(()))));
    sim.verify();
}

/// Where all members are well a long request needs no bands: its pieces go out at once, however few bands there are. What is
/// beyond the places for them waits for bands.
#[test]
fn a_long_request_goes_out_piece_by_piece() {
    for kind in KINDS {
        let mut sim = with_one_band(geometry(kind, 8, 150));
        let (all, map) = (sim.grains(), &sim.world.geometry);
        let pieces = map.size().0.div_ceil(map.unit().0) as usize;
        sim.ask(0, Wish::Read { first: 0, count: all });
        sim.run(0);
        let flying = sim.world.flights.len();
        assert!(flying >= pieces.min(MOST_PARTS), "{}: {flying} of {pieces}", kind.level);
        settle_without_keeper(&mut sim);
        for wish in
            [Wish::Write { first: 0, count: all, fua: false }, Wish::Read { first: 5, count: all - 5 }]
        {
            sim.ask(0, wish);
            settle_without_keeper(&mut sim);
        }
        assert!(sim.asked.iter().all(|asked| asked.result == Some(Ok(()))), "{}", kind.level);
        sim.verify();
    }
}

#[test]
fn a_long_request_that_fails_somewhere_fails_once() {
    let mut sim = plain(KINDS[0]);
    sim.forgiving = true;
    sim.world.disks[1].dead = true;
    let all = sim.grains();
    let asked = [Wish::Read { first: 0, count: all }, Wish::Write { first: 0, count: all, fua: false }]
        .map(|wish| sim.ask(0, wish));
    settle_without_keeper(&mut sim);
    sim.world.keep();
    settle_without_keeper(&mut sim);
    for n in asked {
        assert_eq!(sim.asked[n].result, Some(Err(Trouble::Member(Slot(1)))));
    }
    assert!(sim.engines[0].is_idle());
}

/// There is room for one of them at a time; nothing wakes the queue for the next.
#[test]
fn all_pieces_of_a_write_that_fail_are_told_of() {
    let mut sim = with_one_band(geometry(KINDS[6], 16, 12));
    sim.world.disks[1].dead = true;
    let all = sim.grains();
    let n = sim.ask(0, Wish::Write { first: 0, count: all, fua: false });
    settle_without_keeper(&mut sim);
    assert_eq!(sim.asked[n].result, None, "acknowledged too early");
    sim.world.keep();
    settle_without_keeper(&mut sim);
    assert_eq!(sim.asked[n].result, Some(Ok(())));
    sim.verify();
}

/// Piece by piece, what makes up for the missing member would be read again.
#[test]
fn a_long_degraded_read_reads_each_member_once() {
    let mut sim = plain(RAID5);
    sim.world.publish(|view| view.members[2].presence = Presence::Missing);
    let all = sim.grains();
    sim.ask(0, Wish::Read { first: 0, count: all });
    settle_without_keeper(&mut sim);
    // Six stripes, of each the four chunks that are left.
    assert_eq!(sim.world.counts, Counts { reads: 6 * 4, writes: 0, flushes: 0 });
}

/// The sectors of an LU with parity whose data is on `slot`.
fn sectors_on(map: &Geometry, slot: Slot) -> impl Iterator<Item = u64> + '_ {
    let holder = |place: Place| map.stripe(place.stripe).cell(place.cell).slot;
    (0..map.size().0).filter(move |&lba| map.locate(Lba(lba)).map(holder) == Some(slot))
}

/// However few bands there are, all of them are under way at once.
#[test]
fn small_reads_of_what_a_lost_disk_had_need_no_band() {
    let with_parity = KINDS.into_iter().map(|kind| (kind, geometry(kind, 16, 6)));
    for (kind, geometry) in with_parity.filter(|(_, geometry)| geometry.parities() > 0) {
        let mut sim = with_one_band(geometry);
        sim.world.publish(|view| view.members[0].presence = Presence::Missing);
        let map = sim.world.geometry.clone();
        let lost: Vec<u64> = sectors_on(&map, Slot(0)).step_by(5).take(8).collect();
        for lba in &lost {
            sim.ask(0, Wish::Read { first: lba * GRAINS_IN_SECTOR, count: GRAINS_IN_SECTOR });
        }
        sim.run(0);
        assert_eq!(sim.world.flights.len(), lost.len() * usize::from(map.data_cells()), "{}", kind.level);
        settle_without_keeper(&mut sim);
        assert!(sim.asked.iter().all(|asked| asked.result == Some(Ok(()))), "{}", kind.level);
    }
}

/// What is beyond has to wait for the one band, and so do those behind it.
#[test]
fn sums_are_bounded() {
    let mut sim = marked_dirty(geometry(RAID5, 16, 6), 2 * MOST_SUMS, 1);
    sim.world.publish(|view| view.members[0].presence = Presence::Missing);
    let map = sim.world.geometry.clone();
    let lost: Vec<u64> = sectors_on(&map, Slot(0)).collect();
    for n in 0..2 * MOST_SUMS {
        let lba = lost[n * 7 % lost.len()];
        sim.ask(0, Wish::Read { first: lba * GRAINS_IN_SECTOR, count: GRAINS_IN_SECTOR });
    }
    sim.run(0);
    let (sources, flying) = (usize::from(map.data_cells()), sim.world.flights.len());
    // The band is what is asked of one stripe.
    assert!((MOST_SUMS * sources..=(MOST_SUMS + 16) * sources).contains(&flying), "{flying}");
    settle_without_keeper(&mut sim);
    assert!(sim.asked.iter().all(|asked| asked.result == Some(Ok(()))));
    assert!(sim.engines[0].is_idle() && sim.world.lent[0] == 0);
}

#[test]
fn a_held_write_fails_when_nothing_can_be_recorded() {
    let mut sim = plain(RAID5);
    sim.forgiving = true;
    sim.world.disks[0].dead = true;
    let n = sim.ask(0, Wish::Flush);
    settle_without_keeper(&mut sim);
    sim.world.shared.set_broken();
    sim.world.wake_all();
    settle_without_keeper(&mut sim);
    assert_eq!(sim.asked[n].result, Some(Err(Trouble::Member(Slot(0)))));
    let next = sim.ask(0, Wish::Write { first: 0, count: 1, fua: false });
    settle_without_keeper(&mut sim);
    assert_eq!(sim.asked[next].result, Some(Err(Trouble::Broken)));
}

#[test]
fn a_failed_flush_without_redundancy_stays_failed() {
    let mut sim = plain(KINDS[0]);
    sim.forgiving = true;
    sim.world.disks[1].dead = true;
    let n = sim.ask(0, Wish::Flush);
    settle_without_keeper(&mut sim);
    assert_eq!(sim.asked[n].result, Some(Err(Trouble::Member(Slot(1)))));
    sim.world.disks[1].dead = false;
    let n = sim.ask(0, Wish::Flush);
    settle_without_keeper(&mut sim);
    assert_eq!(sim.asked[n].result, Some(Err(Trouble::FlushLost)));
}

#[test]
fn only_requests_for_lost_places_fail() {
    let mut sim = plain(RAID5);
    sim.forgiving = true;
    // Two sectors of row 5 cannot be read: more than RAID5 gives back. Their neighbours in the same batch can.
    let map = sim.world.geometry.stripe(Stripe(0));
    let (a, b) = (map.cell(0), map.cell(1));
    sim.world.disks[a.slot.index()].bad.push(a.at.0 + 5);
    sim.world.disks[b.slot.index()].bad.push(b.at.0 + 5);
    let sector = |n: u64| Wish::Read { first: n * GRAINS_IN_SECTOR, count: GRAINS_IN_SECTOR };
    let asked: Vec<usize> = [4, 5, 6, 16 + 5, 32 + 5].into_iter().map(|n| sim.ask(0, sector(n))).collect();
    settle_without_keeper(&mut sim);
    let failed: Vec<bool> = asked.iter().map(|&n| sim.asked[n].result.unwrap().is_err()).collect();
    assert_eq!(failed, [false, true, false, true, false]);
}

#[test]
fn a_full_engine_says_so() {
    let limits =
        Limits { requests: 2, bands: 1, band_rows: 8, block: 1, read_only: false, unsummed: u64::MAX };
    let mut sim = Sim::with(geometry(RAID5, 16, 6), 1, limits, 0, Random(1), false);
    let flush = Request::Flush;
    assert!(sim.engines[0].submit(0, flush).is_ok() && sim.engines[0].submit(1, flush).is_ok());
    assert!(!sim.engines[0].has_room());
    assert_eq!(sim.engines[0].submit(2, flush), Err(flush));
}
