//! What every sector may hold: the history of each as a register, and the sets of values that a crash may leave.
//!
//! Each write puts a value of its own into its sectors (sector = f(lba, sequence)), so what is read says which write it is
//! from. A sector's operations since the last restart are its *events*. The *zone* of a value spans from the first end to the
//! last start of its operations; value `a` must come before `b` if one of a's operations ended before one of b's began. A
//! history is linearizable exactly if no two values must come before each other and nothing is read before it is written (P1).
//!
//! At a crash a value may survive unless it must come before one that is durable: written with FUA, or acknowledged before a
//! flush that was itself acknowledged began (P2, P3). What nobody wrote keeps its value (P4). Of several values that may have
//! survived only one may be read until the next crash (P6).
//!
//! Refuses to know: disks, members, levels.

use std::collections::BTreeMap;

use crate::units::SECTOR;

use super::disk::Bytes;

/// An operation that has not ended.
const NEVER: u64 = u64::MAX;

/// Marks values that no write of ours left: the hash of what was found.
const FOREIGN: u64 = 1 << 63;

/// What a sector of zeroes holds: their hash. Also what a disk may have held before anything was written.
pub(super) const ZERO: u64 = FOREIGN;

const MAGIC: u64 = 0x6d69_7320_6469_6172;

/// The bytes of sector `lba` when it holds value `value`.
pub(super) fn stamp(lba: u64, value: u64) -> Bytes {
    let mut bytes = [0; SECTOR as usize];
    let mut word = (value ^ lba << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for (index, chunk) in bytes.chunks_exact_mut(8).enumerate() {
        let content = match index {
            0 => MAGIC,
            1 => lba,
            2 => value,
            _ => word,
        };
        chunk.copy_from_slice(&content.to_le_bytes());
        word = word.wrapping_add(0x2545_f491_4f6c_dd1d).rotate_left(9);
    }
    bytes
}

/// The value that `bytes`, found at `lba`, hold.
pub(super) fn value_of(lba: u64, bytes: &[u8]) -> u64 {
    let word = |index: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[index * 8..index * 8 + 8]);
        u64::from_le_bytes(word)
    };
    let value = word(2);
    if word(0) == MAGIC && value < FOREIGN && bytes == stamp(lba, value) {
        return value;
    }
    let hash = bytes.chunks_exact(8).enumerate().fold(0u64, |hash, (index, _)| {
        (hash ^ word(index)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
    });
    hash | FOREIGN
}

/// One operation on a sector.
#[derive(Clone, Copy, Debug)]
struct Event {
    value: u64,
    start: u64,
    end: u64,
    write: bool,
    fua: bool,
}

/// What a sector may hold when an epoch begins.
#[derive(Clone, Debug)]
enum Base {
    /// It was never written: whatever was on the disks, found out at the first look.
    Any,
    /// It was in flight when the power went and its member was lost: anything at all.
    Wild,
    /// One of these.
    OneOf(Vec<u64>),
}

impl Base {
    /// Are there values possible that are not known by name?
    fn is_open(&self) -> bool {
        matches!(self, Base::Any | Base::Wild)
    }
}

#[derive(Clone, Debug)]
struct Register {
    base: Base,
    events: Vec<Event>,
}

impl Register {
    fn may_be_zeroed(&self) -> bool {
        let known = match &self.base {
            Base::OneOf(values) => !values.contains(&ZERO),
            // What was there is gone.
            Base::Any | Base::Wild => self.events.iter().any(|event| event.write && event.end != NEVER),
        };
        known && self.events.iter().all(|event| event.value != ZERO)
    }
}

/// When a value was certainly there.
#[derive(Clone, Copy)]
struct Zone {
    value: u64,
    first_end: u64,
    last_start: u64,
    durable: bool,
    written: bool,
}

/// All registers.
pub(super) struct Oracle {
    registers: Vec<Register>,
    clock: u64,
    next_value: u64,
    /// Flushes of this epoch that were acknowledged: when they began.
    flushes: Vec<u64>,
    /// A member may have gone while copies did not agree: then another of the values that survived may show.
    pub may_flip: bool,
}

impl Oracle {
    pub(super) fn new(sectors: u64) -> Oracle {
        let register = Register { base: Base::Any, events: Vec::new() };
        Oracle {
            registers: vec![register; sectors as usize],
            clock: 1,
            next_value: 1,
            flushes: Vec::new(),
            may_flip: false,
        }
    }

    pub(super) fn sectors(&self) -> u64 {
        self.registers.len() as u64
    }

    /// The time, later than every one before.
    pub(super) fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// How many sectors from `lba` on may be zeroed, up to `most`: it must be plain which zeroes are read, so a sector in
    /// which there may be some already is left alone.
    pub(super) fn zeroable(&self, lba: u64, most: u64) -> u64 {
        let range = &self.registers[lba as usize..(lba + most) as usize];
        range.iter().take_while(|register| register.may_be_zeroed()).count() as u64
    }

    /// A range is being zeroed, as a write of [`ZERO`].
    pub(super) fn begin_zero(&mut self, lba: u64, sectors: u64) {
        let start = self.tick();
        for sector in lba..lba + sectors {
            let event = Event { value: ZERO, start, end: NEVER, write: true, fua: false };
            self.registers[sector as usize].events.push(event);
        }
    }

    /// A write begins: its value. What it is for is told by [`written`](Oracle::written) at its end, or stays open.
    pub(super) fn begin_write(&mut self, lba: u64, sectors: u64, fua: bool) -> (u64, u64) {
        let (start, value) = (self.tick(), self.next_value);
        self.next_value += 1;
        for sector in lba..lba + sectors {
            let event = Event { value, start, end: NEVER, write: true, fua };
            self.registers[sector as usize].events.push(event);
        }
        (value, start)
    }

    /// The write was acknowledged.
    pub(super) fn written(&mut self, lba: u64, sectors: u64, value: u64) {
        let end = self.tick();
        for sector in lba..lba + sectors {
            let events = &mut self.registers[sector as usize].events;
            if let Some(event) = events.iter_mut().rev().find(|event| event.write && event.value == value) {
                event.end = end;
            }
        }
    }

    /// A read that began at `start` brought `bytes`.
    pub(super) fn read(&mut self, lba: u64, bytes: &[u8], start: u64) {
        let end = self.tick();
        for (index, bytes) in bytes.chunks_exact(SECTOR as usize).enumerate() {
            let sector = lba + index as u64;
            let value = value_of(sector, bytes);
            let event = Event { value, start, end, write: false, fua: false };
            self.registers[sector as usize].events.push(event);
        }
    }

    /// A flush that began at `start` was acknowledged.
    pub(super) fn flushed(&mut self, start: u64) {
        self.flushes.push(start);
    }

    /// May `bytes`, found at `lba` on the disks of an LU at rest, be what the sector holds?
    pub(super) fn permits(&self, lba: u64, bytes: &[u8]) -> bool {
        match &self.registers[lba as usize].base {
            Base::Any => value_of(lba, bytes) >= FOREIGN,
            Base::Wild => true,
            Base::OneOf(values) => values.contains(&value_of(lba, bytes)),
        }
    }

    /// May the sector, or one of its block of `block` sectors, hold one of several values, because it was in flight when the
    /// power went? Blocks are written as a whole.
    pub(super) fn is_unsure(&self, lba: u64, block: u64) -> bool {
        let start = lba / block * block;
        let end = self.sectors().min(start + block);
        self.registers[start as usize..end as usize].iter().any(|register| match &register.base {
            Base::Any => !register.events.is_empty(),
            Base::Wild => true,
            Base::OneOf(values) => values.len() > 1,
        })
    }

    /// The members of these sectors were lost with the power: what was in flight then may hold anything.
    pub(super) fn lose(&mut self, block: u64, lost: impl Fn(u64) -> bool) {
        let gone = |&lba: &u64| lost(lba) && self.is_unsure(lba, block);
        let gone: Vec<u64> = (0..self.sectors()).filter(gone).collect();
        for lba in gone {
            self.registers[lba as usize].base = Base::Wild;
        }
    }

    /// What the sector may hold, for a report.
    pub(super) fn describe(&self, lba: u64) -> String {
        match &self.registers[lba as usize].base {
            Base::Any => "whatever was there".into(),
            Base::Wild => "anything".into(),
            Base::OneOf(values) => format!("{values:x?}"),
        }
    }

    /// The epoch is over: checks its history, and works out what each sector may hold from now on. `settled`: nothing was lost,
    /// and redundancy agrees, so that what was read cannot change any more.
    ///
    /// # Errors
    /// A sentence about the first sector whose history cannot be.
    pub(super) fn close(&mut self, settled: bool) -> Result<(), String> {
        let last_flush = self.flushes.iter().copied().max().unwrap_or(0);
        let may_flip = std::mem::take(&mut self.may_flip);
        for (lba, register) in self.registers.iter_mut().enumerate() {
            if !register.events.is_empty() {
                close_register(register, last_flush, may_flip, settled)
                    .map_err(|what| format!("sector {lba}: {what}"))?;
            }
        }
        self.flushes.clear();
        Ok(())
    }
}

fn close_register(
    register: &mut Register,
    last_flush: u64,
    may_flip: bool,
    settled: bool,
) -> Result<(), String> {
    let mut zones = zones(register, last_flush)?;
    check_base(register, &mut zones, may_flip)?;
    for (index, a) in zones.iter().enumerate() {
        for b in &zones[index + 1..] {
            let both = a.first_end < b.last_start && b.first_end < a.last_start;
            let flips = may_flip && !a.written && !b.written;
            if both && !flips {
                return Err(format!(
                    "values {:x} and {:x} came before each other: {:x?} from {:x?}",
                    a.value, b.value, register.events, register.base
                ));
            }
        }
    }
    // The base stays possible as a whole as long as nothing durable came after it.
    let mut left: Vec<u64> = match &register.base {
        Base::OneOf(values) => values.clone(),
        Base::Any | Base::Wild => Vec::new(),
    };
    let shown = |value: &u64| zones.iter().any(|zone| !zone.written && zone.value == *value);
    if settled && !may_flip && left.iter().any(shown) {
        left.retain(shown);
    }
    left.extend(zones.iter().filter(|zone| zone.written || register.base.is_open()).map(|z| z.value));
    let beaten = |value: u64| {
        let end = zones.iter().find(|zone| zone.value == value).map_or(0, |zone| zone.first_end);
        zones.iter().any(|other| other.value != value && other.durable && end < other.last_start)
    };
    left.retain(|&value| !beaten(value));
    left.sort_unstable();
    left.dedup();
    // (What was read of something that may be anything is durable no sooner than all is.)
    let shown = |zone: &Zone| !zone.written && (settled || matches!(register.base, Base::Any));
    let untouched = register.base.is_open() && !zones.iter().any(shown);
    let base_beaten = zones.iter().any(|zone| zone.durable);
    if untouched && !base_beaten {
        // What was there before is not known by name: any foreign value may still be it.
        register.events.retain(|event| event.write);
        for event in &mut register.events {
            (event.start, event.end) = (1, NEVER);
        }
        return Ok(());
    }
    register.base = Base::OneOf(left);
    register.events.clear();
    Ok(())
}

/// The zones of all values, the base's only if they were read.
fn zones(register: &Register, last_flush: u64) -> Result<Vec<Zone>, String> {
    let mut zones: BTreeMap<u64, Zone> = BTreeMap::new();
    for event in &register.events {
        let fresh =
            Zone { value: event.value, first_end: NEVER, last_start: 0, durable: false, written: false };
        let zone = zones.entry(event.value).or_insert(fresh);
        zone.first_end = zone.first_end.min(event.end);
        zone.last_start = zone.last_start.max(event.start);
        if event.write {
            zone.written = true;
            zone.durable |= event.end < last_flush || (event.fua && event.end != NEVER);
        } else {
            let source = register.events.iter().find(|other| other.write && other.value == event.value);
            if source.is_some_and(|source| event.end < source.start) {
                return Err(format!("value {:x} was read before it was written", event.value));
            }
        }
    }
    Ok(zones.into_values().collect())
}

/// Values that were read and not written in this epoch must be of the base, and be one.
fn check_base(register: &mut Register, zones: &mut [Zone], may_flip: bool) -> Result<(), String> {
    let mut shown = None;
    for zone in zones.iter_mut().filter(|zone| !zone.written) {
        let known = match &register.base {
            Base::Any => zone.value >= FOREIGN,
            Base::Wild => true,
            Base::OneOf(values) => values.contains(&zone.value),
        };
        if !known {
            return Err(format!(
                "value {:x} was read, and cannot be there: it held one of {:x?}; {:x?}",
                zone.value, register.base, register.events
            ));
        }
        if let Some(other) = shown.replace(zone.value)
            && !may_flip
        {
            return Err(format!("it flipped between {other:x} and {:x} without a write", zone.value));
        }
        zone.first_end = 0;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(value: u64) -> Vec<u8> {
        stamp(0, value).to_vec()
    }

    /// A write from start to end, unless it never ends.
    fn write(oracle: &mut Oracle, fua: bool, ends: bool) -> u64 {
        let (value, _) = oracle.begin_write(0, 1, fua);
        if ends {
            oracle.written(0, 1, value);
        }
        value
    }

    #[test]
    fn a_crash_may_leave_the_last_durable_value_or_a_later_one() {
        let mut oracle = Oracle::new(1);
        let first = write(&mut oracle, false, true);
        let start = oracle.tick();
        oracle.flushed(start);
        let second = write(&mut oracle, false, true);
        let third = write(&mut oracle, false, false);
        oracle.close(false).unwrap();
        assert!([first, second, third].into_iter().all(|value| oracle.permits(0, &sector(value))));
        let fourth = write(&mut oracle, true, true);
        oracle.close(false).unwrap();
        assert!(oracle.permits(0, &sector(fourth)));
        assert!(!oracle.permits(0, &sector(first)), "it was overwritten durably");
    }

    #[test]
    fn values_must_not_flip_come_from_nowhere_or_go_back() {
        let mut oracle = Oracle::new(1);
        let (a, b) = (write(&mut oracle, true, true), write(&mut oracle, false, false));
        oracle.close(false).unwrap();
        for value in [a, b] {
            let start = oracle.tick();
            oracle.read(0, &sector(value), start);
        }
        assert!(oracle.close(false).unwrap_err().contains("flipped"));

        let mut oracle = Oracle::new(1);
        let a = write(&mut oracle, false, true);
        write(&mut oracle, false, true);
        let start = oracle.tick();
        oracle.read(0, &sector(a), start);
        assert!(oracle.close(false).unwrap_err().contains("before each other"));

        let mut oracle = Oracle::new(1);
        write(&mut oracle, true, true);
        oracle.close(false).unwrap();
        let start = oracle.tick();
        oracle.read(0, &sector(99), start);
        assert!(oracle.close(false).unwrap_err().contains("cannot be there"));
    }
}
