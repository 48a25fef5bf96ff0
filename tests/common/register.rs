//! What sectors may hold: a checker for clients that write all the time while servers die.
//!
//! Every write puts a number of its own into its sectors, with the sector's place and a sum over all of it, so that
//! what is read says which write it is from, or that it is none. Two sorts of places are checked: those that only one
//! client writes ([`Own`]), where there is one right value at any time, and those that all write ([`Common`]), where
//! what is read must not be older than what was there when the read began.

#![allow(dead_code, unreachable_pub, reason = "each test crate uses its own part")]

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

pub const SECTOR: usize = 512;

/// The number of a sector that is zero: never written, or zeroed.
pub const ZERO: u64 = 0;

/// The bytes of `sector` when it holds `value`.
pub fn stamp(sector: u64, value: u64) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    if value == ZERO {
        return bytes;
    }
    let mut word = sum(sector, value);
    for (index, chunk) in bytes.chunks_exact_mut(8).enumerate() {
        let content = [sector, value].get(index).copied().unwrap_or(word);
        chunk.copy_from_slice(&content.to_le_bytes());
        word = word.rotate_left(17).wrapping_add(0x9e37_79b9_7f4a_7c15);
    }
    bytes
}

fn sum(sector: u64, value: u64) -> u64 {
    (sector ^ value << 24).wrapping_mul(0x2545_f491_4f6c_dd1d) ^ value
}

/// The value that `bytes`, found at `sector`, hold.
pub fn value_of(sector: u64, bytes: &[u8]) -> Result<u64, String> {
    if bytes.iter().all(|&byte| byte == 0) {
        return Ok(ZERO);
    }
    let word = |index: usize| u64::from_le_bytes(bytes[index * 8..index * 8 + 8].try_into().unwrap());
    let (place, value) = (word(0), word(1));
    if bytes == stamp(sector, value) {
        return Ok(value);
    }
    match bytes == stamp(place, value) {
        true => Err(format!("sector {sector} holds what belongs to sector {place}")),
        false => Err(format!("sector {sector} is torn: of {place}, {value:x}")),
    }
}

/// The bytes of a run of sectors.
pub fn stamped(sectors: Range<u64>, value: u64) -> Vec<u8> {
    sectors.flat_map(|sector| stamp(sector, value)).collect()
}

/// Sectors that one client alone writes, not two requests to the same ones at a time.
pub struct Own {
    first: u64,
    /// What each may hold: one value, unless a write of it is under way or its answer never came.
    may: Vec<Vec<u64>>,
}

impl Own {
    /// Zeroes.
    pub fn new(sectors: Range<u64>) -> Own {
        Own { first: sectors.start, may: sectors.map(|_| vec![ZERO]).collect() }
    }

    fn range(&mut self, sectors: Range<u64>) -> &mut [Vec<u64>] {
        &mut self.may[(sectors.start - self.first) as usize..(sectors.end - self.first) as usize]
    }

    /// A write is sent.
    pub fn begin(&mut self, sectors: Range<u64>, value: u64) {
        self.range(sectors).iter_mut().for_each(|may| may.push(value));
    }

    /// It was acknowledged.
    pub fn done(&mut self, sectors: Range<u64>, value: u64) {
        self.range(sectors).iter_mut().for_each(|may| *may = vec![value]);
    }

    /// What was read where no write is under way.
    pub fn check(&mut self, start: u64, bytes: &[u8]) -> Result<(), String> {
        for (sector, bytes) in (start..).zip(bytes.chunks_exact(SECTOR)) {
            let found = value_of(sector, bytes)?;
            let may = &mut self.range(sector..sector + 1)[0];
            if !may.contains(&found) {
                return Err(format!("sector {sector} holds {found:x}, and may hold {may:x?}"));
            }
            // Of what may have come of a write without an answer, it is this from now on.
            *may = vec![found];
        }
        Ok(())
    }
}

/// Sectors that all write, each time with another value.
#[derive(Default)]
pub struct Common {
    clock: AtomicU64,
    writes: Mutex<HashMap<u64, Vec<Write>>>,
}

struct Write {
    value: u64,
    start: u64,
    /// Not while it is under way, nor if its answer never came.
    end: Option<u64>,
}

impl Common {
    pub fn now(&self) -> u64 {
        // What was there in the beginning was there at 0.
        1 + self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// A write is about to be sent.
    pub fn begin(&self, sectors: Range<u64>, value: u64) {
        let start = self.now();
        let mut writes = self.writes.lock().unwrap();
        for sector in sectors {
            writes.entry(sector).or_default().push(Write { value, start, end: None });
        }
    }

    /// It was acknowledged.
    pub fn done(&self, sectors: Range<u64>, value: u64) {
        let end = self.now();
        let mut writes = self.writes.lock().unwrap();
        for sector in sectors {
            let all = writes.entry(sector).or_default();
            all.iter_mut().filter(|write| write.value == value).for_each(|write| write.end = Some(end));
        }
    }

    /// What a read brought that was sent at `start`.
    pub fn check(&self, start: u64, first: u64, bytes: &[u8]) -> Result<(), String> {
        let writes = self.writes.lock().unwrap();
        for (sector, bytes) in (first..).zip(bytes.chunks_exact(SECTOR)) {
            let found = value_of(sector, bytes)?;
            let none = Vec::new();
            let all = writes.get(&sector).unwrap_or(&none);
            let ended = match all.iter().find(|write| write.value == found) {
                Some(write) => write.end,
                None if found == ZERO => Some(0),
                None => return Err(format!("sector {sector} holds {found:x}, which nobody wrote")),
            };
            // Written over, from beginning to end, after it had ended and before it was asked for?
            let over = |write: &&Write| {
                ended.is_some_and(|ended| ended < write.start) && write.end.is_some_and(|end| end < start)
            };
            if let Some(over) = all.iter().find(over) {
                return Err(format!(
                    "sector {sector} holds {found:x}, over which {:x} was written",
                    over.value
                ));
            }
        }
        Ok(())
    }
}
