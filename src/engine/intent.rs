//! Write intent by region: the part of md's write-intent bitmap that writers meet. Atomics only, nobody waits
//! here.
//!
//! The LU is cut into *regions*, runs of positions as md's `resync_offset` counts them. A region is *marked*
//! while its bit is durable on all members. Writers count themselves in and out; the keeper, who alone knows
//! of disks, marks and unmarks:
//!
//! ```text
//! writer: count in; marked? ----------------- yes -> write ... count out
//!                      \-- no: count out, say it is wanted, ask the keeper, wait to be woken
//! keeper: wanted -> bit durable on all members -> marked -> wake the writers
//!         nobody counted in, none since the last look -> unmarked -> members flushed -> bit cleared
//! ```
//!
//! A region's mark and count are one word, and it is unmarked only by an exchange that sees no count: no
//! writer slips in between. A write to a marked region costs one add and one subtract.

use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use crate::units::Sectors;

/// The region's bit is durable on all members.
const MARKED: u32 = 1 << 31;
/// Somebody wrote since the keeper looked last.
const TOUCHED: u32 = 1 << 30;
/// The rest of the word counts writers.
const COUNT: u32 = TOUCHED - 1;

/// What is known of every region. See the module's text.
pub struct IntentMap {
    regions: Vec<AtomicU32>,
    /// One bit a region: a writer waits for its mark.
    wanted: Vec<AtomicU64>,
    /// Logarithm to base 2 of a region's sectors.
    shift: u32,
}

/// Some regions in a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Regions {
    pub(super) first: u32,
    end: u32,
}

impl IntentMap {
    /// No region marked. `covered` is how many positions there are; `region`, a power of two, what one region
    /// covers.
    ///
    /// # Panics
    /// If there would be 2^32 regions or more: whoever reads a bitmap bounds it.
    pub fn new(covered: Sectors, region: Sectors) -> IntentMap {
        let regions = u32::try_from(covered.0.div_ceil(region.0.max(1))).expect("fewer than 2^32 regions");
        IntentMap {
            regions: (0..regions).map(|_| AtomicU32::new(0)).collect(),
            wanted: (0..regions.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            shift: region.0.max(1).trailing_zeros(),
        }
    }

    /// How many regions.
    pub fn len(&self) -> usize {
        self.regions.len()
    }

    /// Nothing covered?
    pub fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }

    /// The regions of some positions; what lies behind the last region belongs to that.
    pub fn regions(&self, positions: Range<u64>) -> Regions {
        let last = (self.regions.len() as u64).saturating_sub(1);
        let first = (positions.start >> self.shift).min(last);
        let end = (positions.end.saturating_sub(1) >> self.shift).min(last) + 1;
        Regions { first: first as u32, end: end.max(first) as u32 }
    }

    // --- writers
    // --------------------------------------------------------------------------------------------------

    /// Counts a write in. False if a region is not marked yet: then the write is not counted, the marks are
    /// wanted, and the keeper is to be asked.
    pub fn begin(&self, regions: Regions) -> bool {
        for index in regions.first..regions.end {
            let Some(word) = self.regions.get(index as usize) else { continue };
            let before = word.fetch_add(1, SeqCst);
            if before & MARKED == 0 {
                self.end(Regions { end: index + 1, ..regions });
                self.want(regions);
                return false;
            }
            if before & TOUCHED == 0 {
                word.fetch_or(TOUCHED, SeqCst);
            }
        }
        true
    }

    /// Counts a write out.
    pub fn end(&self, regions: Regions) {
        for word in self.words(regions) {
            word.fetch_sub(1, SeqCst);
        }
    }

    /// Says that the marks that are not there yet are waited for.
    pub fn want(&self, regions: Regions) {
        for index in regions.first..regions.end {
            if !self.is_marked(index) {
                self.wanted[index as usize / 64].fetch_or(1 << (index % 64), SeqCst);
            }
        }
    }

    fn words(&self, regions: Regions) -> &[AtomicU32] {
        self.regions.get(regions.first as usize..regions.end as usize).unwrap_or_default()
    }

    // --- the keeper
    // -----------------------------------------------------------------------------------------------

    /// Does anybody wait for a mark?
    pub fn is_any_wanted(&self) -> bool {
        self.wanted.iter().any(|word| word.load(SeqCst) != 0)
    }

    /// Does anybody wait for this region's mark?
    pub fn is_wanted(&self, region: u32) -> bool {
        self.wanted.get(region as usize / 64).is_some_and(|word| word.load(SeqCst) >> (region % 64) & 1 == 1)
    }

    /// Takes all wishes for marks.
    pub fn take_wanted(&self, mut each: impl FnMut(u32)) {
        for (index, word) in (0u32..).zip(&self.wanted) {
            // Looking is cheaper than writing, and there is mostly nothing.
            let mut bits = if word.load(SeqCst) == 0 { 0 } else { word.swap(0, SeqCst) };
            while bits != 0 {
                each(index * 64 + bits.trailing_zeros());
                bits &= bits - 1;
            }
        }
    }

    /// The region's bit is durable on all members: writers may go on. They are given time to: it counts as
    /// touched.
    pub fn mark(&self, region: u32) {
        if let Some(word) = self.regions.get(region as usize) {
            word.fetch_or(MARKED | TOUCHED, SeqCst);
        }
    }

    /// Is it marked?
    pub fn is_marked(&self, region: u32) -> bool {
        self.regions.get(region as usize).is_some_and(|word| word.load(SeqCst) & MARKED != 0)
    }

    /// How many regions are marked.
    pub fn count_marked(&self) -> u64 {
        self.regions.iter().filter(|word| word.load(SeqCst) & MARKED != 0).count() as u64
    }

    /// Takes the mark away if nobody is counted in and, unless `at_once`, nobody wrote since this was asked
    /// last. True if the region is without a mark and without writers: after a flush of all members its bit
    /// may be cleared.
    pub fn try_unmark(&self, region: u32, at_once: bool) -> bool {
        let Some(word) = self.regions.get(region as usize) else { return false };
        let now = word.load(SeqCst);
        if now & TOUCHED != 0 {
            word.fetch_and(!TOUCHED, SeqCst);
            if !at_once {
                return false;
            }
        }
        if now & MARKED == 0 {
            return now & COUNT == 0;
        }
        word.compare_exchange(MARKED, 0, SeqCst, SeqCst).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(map: &IntentMap) -> Vec<u32> {
        let mut all = Vec::new();
        map.take_wanted(|region| all.push(region));
        all
    }

    #[test]
    fn positions_belong_to_regions() {
        let map = IntentMap::new(Sectors(1000), Sectors(64));
        assert_eq!(map.len(), 16);
        assert_eq!(map.regions(0..64), Regions { first: 0, end: 1 });
        assert_eq!(map.regions(63..65), Regions { first: 0, end: 2 });
        assert_eq!(map.regions(990..1030), Regions { first: 15, end: 16 }, "behind the end");
    }

    #[test]
    fn all_or_none_is_counted_and_all_are_wanted() {
        let map = IntentMap::new(Sectors(6400), Sectors(64));
        let run = map.regions(64 * 62..64 * 66);
        map.mark(62);
        assert!(!map.begin(run));
        assert_eq!(wanted(&map), [63, 64, 65]);
        [63, 64, 65].into_iter().for_each(|region| map.mark(region));
        assert!(map.begin(run));
        assert!(!map.try_unmark(64, true), "a writer is counted in");
        map.end(run);
        assert!((62..66).all(|region| map.try_unmark(region, true)), "all counts are back");
        assert_eq!(map.count_marked(), 0);
        assert!(!map.begin(run));
    }

    #[test]
    fn a_mark_stays_for_two_looks_without_a_write() {
        let map = IntentMap::new(Sectors(64), Sectors(64));
        let all = map.regions(0..1);
        map.mark(0);
        assert!(!map.try_unmark(0, false), "fresh");
        assert!(map.begin(all));
        map.end(all);
        assert!(!map.try_unmark(0, false), "touched");
        assert!(map.try_unmark(0, false));
        assert!(!map.begin(all) && map.is_wanted(0) && map.is_any_wanted());
    }

    /// Writers and an unmarking keeper at full speed: no write is ever under way in a region without its bit.
    #[cfg(feature = "std")]
    #[test]
    fn no_writer_slips_in_between() {
        use core::sync::atomic::AtomicBool;
        let map = IntentMap::new(Sectors(4), Sectors(1));
        let bits: Vec<AtomicBool> = (0..4).map(|_| AtomicBool::new(false)).collect();
        let done = AtomicU32::new(0);
        let (map, bits, done) = (&map, &bits, &done);
        std::thread::scope(|scope| {
            for writer in 0..3u64 {
                scope.spawn(move || {
                    for n in 0..3000 {
                        let region = (n * 7 + writer) % 3;
                        let run = map.regions(region..region + 2);
                        while !map.begin(run) {
                            std::thread::yield_now();
                        }
                        for at in region..region + 2 {
                            assert!(bits[at as usize].load(SeqCst), "written without its bit");
                        }
                        map.end(run);
                    }
                    done.fetch_add(1, SeqCst);
                });
            }
            while done.load(SeqCst) < 3 {
                map.take_wanted(|region| {
                    bits[region as usize].store(true, SeqCst);
                    map.mark(region);
                });
                // The writers shall have a chance between the two, on however few processors.
                std::thread::yield_now();
                for region in 0..4 {
                    if map.try_unmark(region, true) && !map.is_wanted(region) {
                        bits[region as usize].store(false, SeqCst);
                    }
                }
            }
        });
    }
}
