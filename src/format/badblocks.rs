//! The bad-block list of a member: ranges of its disk whose content is lost.
//!
//! [`BadBlocks`] is a set of sectors, kept as sorted ranges that neither touch nor overlap. On disk it is an
//! array of 64-bit entries: 54 bits of start, 10 bits of length up to 512, in units of `512 << shift` bytes.
//! Addresses count from the start of the *disk*, not of the data. Writing rounds outwards: a sector is never
//! forgotten. What a bad range means for a read or write is not known here.

use alloc::vec::Vec;
use core::ops::Range;

use super::Area;
use crate::error::{Error, ErrorKind};
use crate::units::{DiskLba, Sectors};

/// Entries of a list of the usual 8 sectors, the largest there is.
pub const CAPACITY: usize = 512;

/// Longest range one entry can hold, in units.
const MAX_ENTRY: u64 = 512;
/// Starts of entries have 54 bits.
const MAX_START: u64 = (1 << 54) - 1;
/// Ends the list; the rest of its room is filled with it.
const END: u64 = u64::MAX;

/// A set of bad sectors of one disk.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct BadBlocks {
    /// Sorted, not empty, with a gap between neighbours.
    ranges: Vec<Range<u64>>,
}

/// Why a list cannot be read or written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The units are so large that addresses overflow.
    #[error("bblog_shift {shift}: bad-block units this large overflow")]
    Shift {
        /// Shift given.
        shift: u8,
    },
    /// More ranges than the list has room for: the member has to be failed instead.
    #[error("bad-block list full: {needed} entries are needed, there is room for {capacity}")]
    Full {
        /// Entries needed.
        needed: usize,
        /// Entries there is room for.
        capacity: usize,
    },
    /// A range lies where no entry can name it.
    #[error("bad block at {at}: beyond what a bad-block entry can name")]
    Far {
        /// Start of the range.
        at: DiskLba,
    },
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        let kind = match refusal {
            Refusal::Shift { .. } => ErrorKind::Format,
            // A bad block that cannot be recorded is a disk that cannot be used.
            Refusal::Full { .. } | Refusal::Far { .. } => ErrorKind::Io,
        };
        Error::new(kind, alloc::format!("{refusal}"))
    }
}

impl BadBlocks {
    /// No bad sector.
    pub const fn new() -> BadBlocks {
        BadBlocks { ranges: Vec::new() }
    }

    /// Reads the list in `bytes`, its room on disk, in units of `512 << shift` bytes. Entries may come in any
    /// order and overlap: a sector that any of them names is bad. Bytes that make no whole entry are ignored.
    ///
    /// # Errors
    /// [`Refusal::Shift`] if an address does not fit 64 bits.
    pub fn parse(bytes: &[u8], shift: u8) -> Result<BadBlocks, Refusal> {
        let mut ranges = Vec::new();
        for entry in bytes.chunks_exact(8) {
            let entry = entry.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
            if entry == END {
                break;
            }
            // The kernel writes lengths from 1 to 512. Longer ones are believed; an empty one names nothing.
            let (start, length) = (entry >> 10, entry & 0x3ff);
            if length > 0 {
                ranges.push(widen(start, shift)?..widen(start + length, shift)?);
            }
        }
        ranges.sort_unstable_by_key(|range: &Range<u64>| range.start);
        let mut list = BadBlocks::new();
        for range in ranges {
            list.append(range);
        }
        Ok(list)
    }

    /// The list as bytes for a room of `capacity` entries (8 bytes each, [`CAPACITY`] in 8 sectors), in units
    /// of `512 << shift` bytes: ranges rounded outwards to units, cut into entries of at most 512 units,
    /// sorted.
    ///
    /// # Errors
    /// [`Refusal::Full`] if there is not enough room, [`Refusal::Shift`] and [`Refusal::Far`] if an entry
    /// cannot hold an address. Then nothing of the list may be written, and the member has to be failed.
    pub fn emit(&self, shift: u8, capacity: usize) -> Result<Vec<u8>, Refusal> {
        let units = self.in_units(shift)?;
        let needed = units.iter().map(entries).fold(0usize, usize::saturating_add);
        if needed > capacity {
            return Err(Refusal::Full { needed, capacity });
        }
        let mut bytes = Vec::with_capacity(8 * capacity);
        for range in units {
            for start in range.clone().step_by(MAX_ENTRY as usize) {
                if start > MAX_START {
                    return Err(Refusal::Far { at: DiskLba(widen(start, shift)?) });
                }
                let length = (range.end - start).min(MAX_ENTRY);
                bytes.extend_from_slice(&(start << 10 | length).to_le_bytes());
            }
        }
        bytes.resize(8 * capacity, END as u8);
        Ok(bytes)
    }

    /// How many entries the list takes on disk in units of `512 << shift` bytes.
    ///
    /// # Errors
    /// [`Refusal::Shift`] if there is no such unit.
    pub fn entries_needed(&self, shift: u8) -> Result<usize, Refusal> {
        Ok(self.in_units(shift)?.iter().map(entries).fold(0usize, usize::saturating_add))
    }

    /// Marks `length` sectors from `start` as bad.
    pub fn insert(&mut self, start: DiskLba, length: Sectors) {
        let Some(new) = span(start, length) else { return };
        // All ranges that touch the new one melt into it.
        let touching = self.indices(|range| range.end < new.start, |range| range.start <= new.end);
        let start =
            self.ranges[touching.clone()].first().map_or(new.start, |range| range.start.min(new.start));
        let end = self.ranges[touching.clone()].last().map_or(new.end, |range| range.end.max(new.end));
        self.ranges.splice(touching, core::iter::once(start..end));
    }

    /// Marks `length` sectors from `start` as good; ranges that stick out are cut or split.
    pub fn remove(&mut self, start: DiskLba, length: Sectors) {
        let Some(gone) = span(start, length) else { return };
        let hit = self.indices(|range| range.end <= gone.start, |range| range.start < gone.end);
        let before = self.ranges[hit.clone()].first().map(|range| range.start..gone.start);
        let after = self.ranges[hit.clone()].last().map(|range| gone.end..range.end);
        self.ranges
            .splice(hit, [before, after].into_iter().flatten().filter(|range| range.start < range.end));
    }

    /// Is the sector bad?
    pub fn contains(&self, sector: DiskLba) -> bool {
        self.overlap(sector, Sectors(1)).is_some()
    }

    /// The first bad sectors among the `length` from `start`, as far as they lie within; `None` if all are
    /// good.
    pub fn overlap(&self, start: DiskLba, length: Sectors) -> Option<Area> {
        let asked = span(start, length)?;
        let first = self.ranges.partition_point(|range| range.end <= asked.start);
        let bad = self.ranges.get(first).filter(|range| range.start < asked.end)?;
        Some(area(bad.start.max(asked.start)..bad.end.min(asked.end)))
    }

    /// No bad sector at all?
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The bad ranges, sorted, as long as they are: neighbours never touch.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Area> + '_ {
        self.ranges.iter().cloned().map(area)
    }

    /// How many sectors are bad.
    pub fn sectors(&self) -> Sectors {
        Sectors(self.ranges.iter().map(|range| range.end - range.start).sum())
    }

    /// Adds `range`, which starts no lower than any range there is.
    fn append(&mut self, range: Range<u64>) {
        match self.ranges.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => self.ranges.push(range),
        }
    }

    /// The indices of the ranges that are not `below`, up to the last one that is `within`.
    fn indices(
        &self,
        below: impl Fn(&Range<u64>) -> bool,
        within: impl Fn(&Range<u64>) -> bool,
    ) -> Range<usize> {
        let first = self.ranges.partition_point(below);
        first..first + self.ranges[first..].partition_point(within)
    }

    /// The ranges in units of `512 << shift` bytes, rounded outwards; those that then touch are one.
    fn in_units(&self, shift: u8) -> Result<Vec<Range<u64>>, Refusal> {
        let unit = widen(1, shift)?;
        let mut list = BadBlocks::new();
        for range in &self.ranges {
            list.append(range.start / unit..range.end.div_ceil(unit));
        }
        Ok(list.ranges)
    }
}

impl Extend<Area> for BadBlocks {
    fn extend<I: IntoIterator<Item = Area>>(&mut self, areas: I) {
        for area in areas {
            self.insert(area.start, area.length);
        }
    }
}

impl FromIterator<Area> for BadBlocks {
    fn from_iter<I: IntoIterator<Item = Area>>(areas: I) -> BadBlocks {
        let mut list = BadBlocks::new();
        list.extend(areas);
        list
    }
}

/// `units` of `512 << shift` bytes in sectors.
fn widen(units: u64, shift: u8) -> Result<u64, Refusal> {
    let unit = 1u64.checked_shl(u32::from(shift)).ok_or(Refusal::Shift { shift })?;
    units.checked_mul(unit).ok_or(Refusal::Shift { shift })
}

/// Sectors from `start`, cut at the end of the address space; `None` if there are none.
fn span(start: DiskLba, length: Sectors) -> Option<Range<u64>> {
    let range = start.0..start.0.saturating_add(length.0);
    (!range.is_empty()).then_some(range)
}

fn area(range: Range<u64>) -> Area {
    Area::new(DiskLba(range.start), Sectors(range.end - range.start))
}

fn entries(range: &Range<u64>) -> usize {
    usize::try_from((range.end - range.start).div_ceil(MAX_ENTRY)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use alloc::vec;
    use proptest::prelude::*;

    fn list(ranges: &[(u64, u64)]) -> BadBlocks {
        ranges.iter().map(|&(start, length)| Area::new(DiskLba(start), Sectors(length))).collect()
    }

    #[test]
    fn entries_are_start_and_length() {
        let bytes = list(&[(2064, 8), (2248, 24)]).emit(0, CAPACITY).unwrap();
        assert_eq!(bytes.len(), 4096);
        assert_eq!(bytes[..8], 0x20_4008u64.to_le_bytes());
        assert_eq!(bytes[8..16], 0x23_2018u64.to_le_bytes());
        assert!(bytes[16..].iter().all(|&byte| byte == 0xff));
    }

    #[test]
    fn long_ranges_are_cut_at_512_and_join_again() {
        let long = list(&[(10, 1025)]);
        let bytes = long.emit(0, 3).unwrap();
        assert_eq!(bytes.len(), 24);
        assert_eq!(bytes[16..24], ((10 + 1024) << 10 | 1u64).to_le_bytes());
        assert_eq!(BadBlocks::parse(&bytes, 0), Ok(long.clone()));
        assert_eq!(long.emit(0, 2), Err(Refusal::Full { needed: 3, capacity: 2 }));
    }

    #[test]
    fn units_round_outwards() {
        let small = list(&[(9, 1), (15, 2), (100, 4)]);
        let read = BadBlocks::parse(&small.emit(3, CAPACITY).unwrap(), 3).unwrap();
        assert_eq!(read, list(&[(8, 16), (96, 8)]));
    }

    #[test]
    fn what_no_entry_can_hold_is_refused() {
        assert_eq!(list(&[(1 << 54, 1)]).emit(0, 8), Err(Refusal::Far { at: DiskLba(1 << 54) }));
        assert!(list(&[(1 << 54, 1)]).emit(1, 8).is_ok());
        assert_eq!(list(&[(1, 1)]).emit(64, 8), Err(Refusal::Shift { shift: 64 }));
        assert_eq!(BadBlocks::parse(&[0xfe; 8], 20), Err(Refusal::Shift { shift: 20 }));
        // As long as an address space: refused by the room it would need, without counting it out.
        assert!(matches!(list(&[(0, u64::MAX)]).emit(0, CAPACITY), Err(Refusal::Full { .. })));
    }

    #[test]
    fn overlap_is_cut_to_what_was_asked() {
        let bad = list(&[(10, 10), (30, 5)]);
        assert_eq!(bad.overlap(DiskLba(0), Sectors(10)), None);
        assert_eq!(bad.overlap(DiskLba(15), Sectors(20)), Some(Area::new(DiskLba(15), Sectors(5))));
        assert_eq!(bad.overlap(DiskLba(20), Sectors(11)), Some(Area::new(DiskLba(30), Sectors(1))));
        assert_eq!(bad.overlap(DiskLba(15), Sectors(0)), None);
        assert!(bad.contains(DiskLba(19)) && !bad.contains(DiskLba(20)));
    }

    /// Insert (true) or remove, start, length.
    fn steps() -> impl Strategy<Value = Vec<(bool, u64, u64)>> {
        prop::collection::vec((any::<bool>(), 0u64..200, 0u64..40), 0..40)
    }

    fn model(list: &BadBlocks) -> BTreeSet<u64> {
        list.iter().flat_map(|area| area.start.0..area.end().0).collect()
    }

    proptest! {
        #[test]
        fn behaves_as_a_set_of_sectors(steps in steps(), shift in 0u8..4) {
            let (mut list, mut set) = (BadBlocks::new(), BTreeSet::new());
            for (add, start, length) in steps {
                if add {
                    list.insert(DiskLba(start), Sectors(length));
                    set.extend(start..start + length);
                } else {
                    list.remove(DiskLba(start), Sectors(length));
                    set.retain(|&sector| !(start..start + length).contains(&sector));
                }
                prop_assert_eq!(&model(&list), &set);
                prop_assert!(list.ranges.windows(2).all(|pair| pair[0].end < pair[1].start), "{:?}", list);
                let first = set.range(start..).next().copied().filter(|&sector| sector < start + length);
                let found = list.overlap(DiskLba(start), Sectors(length)).map(|area| area.start.0);
                prop_assert_eq!(found, first);
            }
            prop_assert_eq!(list.sectors().0, set.len() as u64);
            let read = BadBlocks::parse(&list.emit(shift, CAPACITY).unwrap(), shift).unwrap();
            let unit = 1u64 << shift;
            let whole_unit = |sector: &u64| sector / unit * unit..sector / unit * unit + unit;
            let rounded: BTreeSet<u64> = set.iter().flat_map(whole_unit).collect();
            prop_assert_eq!(model(&read), rounded);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), shift: u8) {
            if let Ok(list) = BadBlocks::parse(&bytes, shift) {
                prop_assert_eq!(list.is_empty(), list.sectors() == Sectors(0));
                if let Ok(again) = list.emit(shift, CAPACITY) {
                    prop_assert_eq!(BadBlocks::parse(&again, shift), Ok(list));
                }
            }
        }
    }

    #[test]
    fn an_empty_list_is_all_ones() {
        assert_eq!(BadBlocks::new().emit(0, CAPACITY), Ok(vec![0xff; 4096]));
        assert_eq!(BadBlocks::parse(&[0xff; 4096], 0), Ok(BadBlocks::new()));
    }
}
