//! The write-intent bitmap on disk: read from all members and joined into one, and kept while the LU is open.
//!
//! Every member in a slot has a copy. [`join`] takes what may be believed: a copy that is damaged, or behind
//! the superblocks, counts for nothing; the others hold the same but for what a power cut interrupted, so
//! their marks are added up. Where no copy may be believed everything is suspect. [`Record`] is the copy in
//! memory of which whole blocks go to all members. Its rules, which are md's:
//!
//! - A bit is on all members, durably, before data is written to its region; only then do writers see it
//!   ([`IntentMap`]).
//! - A bit is cleared when nobody wrote to its region during two rounds of a timer, or at the stop; after a
//!   flush of all members, and never while a slot is not whole or the region is still to be resynced.
//! - `events` is that of the superblocks or one ahead: it is written just before them.
//! - `events_cleared` is the count of an LU that was whole. A member that has left and is not behind it has
//!   missed nothing but what is marked: see `readd`.
//!
//! No I/O but the reading of a copy; who writes, and when, is the keeper's (`readd`).

use std::ops::Range;
use std::sync::Arc;

use crate::disk::{Backend, Blocking, DiskId};
use crate::engine::IntentMap;
use crate::error::{Error, ErrorKind, Result};
use crate::format::Area;
use crate::format::bitmap::{HEADER_BYTES, Header, STATE_STALE, STATE_WRITE_ERROR, default_chunk_bytes};
use crate::format::placement::MAX_BITMAP;
use crate::format::superblock::{SLOT_BYTES, Superblock};
use crate::geometry::Geometry;
use crate::plan::StripeSet;
use crate::units::{SECTOR, Sectors};

/// Largest bitmap that is read, in bytes: 2^27 bits.
const LARGEST: u64 = 16 << 20;

/// Most regions writers are told about. A finer bitmap is kept in groups of bits.
const MOST_REGIONS: u64 = 1 << 20;

/// What is written at a time, in bytes, unless blocks are larger: md's page.
const PAGE: u32 = 4096;

/// A bitmap: its header and its bits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Bitmap {
    pub header: Header,
    /// Whole bytes; what is behind the last chunk is clear.
    bits: Vec<u8>,
}

impl Bitmap {
    /// All chunks marked, or none.
    pub(super) fn new(header: Header, marked: bool) -> Bitmap {
        let mut bitmap = Bitmap { header, bits: vec![0; header.bits().div_ceil(8) as usize] };
        if marked {
            bitmap.bits.fill(0xff);
            bitmap.cut();
        }
        bitmap
    }

    /// Clears what is behind the last chunk: it means nothing.
    fn cut(&mut self) {
        let (whole, rest) = (self.header.bits() / 8, self.header.bits() % 8);
        if let (true, Some(last)) = (rest > 0, self.bits.get_mut(whole as usize)) {
            *last &= (1u8 << rest) - 1;
        }
    }

    /// How many chunks are marked.
    pub(super) fn count_set(&self) -> u64 {
        self.header.count_set(&self.bits)
    }

    /// Header and bits as they are on disk.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        self.header.write_into(&mut bytes);
        bytes.extend_from_slice(&self.bits);
        bytes
    }

    fn is_set(&self, bit: u64) -> bool {
        self.bits.get((bit / 8) as usize).is_some_and(|byte| byte >> (bit % 8) & 1 == 1)
    }

    fn set(&mut self, bits: Range<u64>, value: bool) {
        for bit in bits {
            if let Some(byte) = self.bits.get_mut((bit / 8) as usize) {
                *byte = if value { *byte | 1 << (bit % 8) } else { *byte & !(1 << (bit % 8)) };
            }
        }
    }

    /// The stripes that have a part in a marked chunk, from position `from` on.
    pub(super) fn stripes(&self, geometry: &Geometry, from: u64) -> StripeSet {
        let (unit, chunk) = (geometry.unit().0.max(1), self.header.chunk().0);
        let run = |run: Range<u64>| {
            let (start, end) = (run.start.saturating_mul(chunk), run.end.saturating_mul(chunk));
            start.max(from) / unit..end.div_ceil(unit).min(geometry.stripes())
        };
        StripeSet::new(self.header.set_runs(&self.bits).map(run))
    }
}

/// How many positions a bitmap of such an LU has to cover.
fn covered(geometry: &Geometry, facts: &Superblock) -> Sectors {
    if geometry.synced_unit_is_lu() { geometry.size() } else { facts.size }
}

/// Where the bitmap lies, rounded to blocks of `block` bytes.
///
/// # Errors
/// If it has no place there or lies on something else.
pub(super) fn area(sb: &Superblock, header: &Header, block: u32) -> Result<Area> {
    let format = |text: String| Error::new(ErrorKind::Format, text);
    let at = sb.bitmap_at().ok_or_else(|| format("its bitmap has no place".into()))?;
    if header.bytes_used() > LARGEST {
        return Err(format(format!("a bitmap of {} bytes is not followed", header.bytes_used())));
    }
    if !at.bytes().is_multiple_of(u64::from(block)) {
        return Err(format(format!("its bitmap does not begin on a block of {block} bytes")));
    }
    let area = Area::new(at, Sectors(header.bytes_used().next_multiple_of(u64::from(block)) / SECTOR));
    let slot = Area::new(sb.super_offset, Sectors(SLOT_BYTES as u64 / SECTOR));
    let data = Area::new(sb.data_offset, sb.data_size);
    let meets = |other: &Area| area.start < other.end() && other.start < area.end();
    match [Some(slot), Some(data), sb.bblog_area()].iter().flatten().find(|other| meets(other)) {
        Some(other) => {
            Err(format(format!("its bitmap of {} would lie on what is at {}", area.length, other.start)))
        }
        None => Ok(area),
    }
}

/// Reads the copy of the member on `disk`.
///
/// # Errors
/// If it cannot be read or is no bitmap.
pub(super) fn read(io: &Blocking<&dyn Backend>, disk: DiskId, sb: &Superblock) -> Result<Bitmap> {
    let at = sb.bitmap_at().ok_or_else(|| Error::new(ErrorKind::Format, "its bitmap has no place"))?;
    let mut head = vec![0; SECTOR as usize];
    io.read_exact(disk, at, &mut head)?;
    let header = Header::parse(&head)?;
    area(sb, &header, SECTOR as u32)?;
    let mut bytes = vec![0; header.bytes_used() as usize];
    io.read_exact(disk, at, &mut bytes)?;
    let mut bitmap = Bitmap { header, bits: bytes.split_off(HEADER_BYTES) };
    bitmap.cut();
    Ok(bitmap)
}

/// How much of a joined bitmap may be believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Trust {
    /// What is not marked is in sync.
    Good,
    /// Somebody wrote without it.
    Stale,
    /// There is no copy at all that can be understood.
    Lost,
}

/// The bitmap of an LU, from the copies of its members.
#[derive(Clone, Debug)]
pub(super) struct Joined {
    pub bitmap: Bitmap,
    trust: Trust,
    /// The copies differ, or hold something else.
    rewrite: bool,
    pub warnings: Vec<String>,
}

/// Joins the copies of the members that fill slots, each with its member's name.
pub(super) fn join<'a>(
    copies: impl Iterator<Item = (&'a str, &'a Result<Bitmap>)>,
    facts: &Superblock,
    geometry: &Geometry,
) -> Joined {
    let covered = covered(geometry, facts);
    let mut warnings = Vec::new();
    let mut usable: Vec<&Bitmap> = Vec::new();
    let mut all = 0;
    for (name, copy) in copies {
        all += 1;
        let why = match copy {
            Err(error) => error.to_string(),
            Ok(copy) if copy.header.uuid != facts.set_uuid => "it is another LU's".into(),
            Ok(copy) if copy.header.sync_size < covered => {
                format!("it covers {} of {covered}", copy.header.sync_size)
            }
            Ok(copy) => {
                usable.push(copy);
                continue;
            }
        };
        warnings.push(format!("{name}: its write-intent bitmap cannot be used: {why}"));
    }
    let fresh = |copy: &&&Bitmap| copy.header.events >= facts.events && !copy.header.is_stale();
    let good: Vec<&Bitmap> = usable.iter().filter(fresh).copied().collect();
    let newest = |among: &[&Bitmap]| among.iter().copied().max_by_key(|copy| copy.header.events).cloned();
    if let Some(mut bitmap) = newest(&good) {
        for other in &good {
            add(&mut bitmap, other);
        }
        let rewrite = good.len() < all || good.iter().any(|&copy| *copy != bitmap);
        return Joined { bitmap, trust: Trust::Good, rewrite, warnings };
    }
    let (header, trust) = match newest(&usable) {
        Some(stale) => (stale.header, Trust::Stale),
        None => {
            warnings.push(
                "no member has a usable write-intent bitmap: everything is verified, and a new one is made"
                    .into(),
            );
            (new_header(facts, covered), Trust::Lost)
        }
    };
    let header = Header {
        events: facts.events,
        events_cleared: facts.events,
        state: header.state & !(STATE_STALE | STATE_WRITE_ERROR),
        ..header
    };
    Joined { bitmap: Bitmap::new(header, true), trust, rewrite: true, warnings }
}

/// Adds the marks of `other`, which is as fresh.
fn add(bitmap: &mut Bitmap, other: &Bitmap) {
    bitmap.header.events_cleared = bitmap.header.events_cleared.max(other.header.events_cleared);
    bitmap.header.state &= !STATE_WRITE_ERROR;
    if (bitmap.header.chunk_bytes, bitmap.header.sync_size)
        == (other.header.chunk_bytes, other.header.sync_size)
    {
        bitmap.bits.iter_mut().zip(&other.bits).for_each(|(byte, other)| *byte |= other);
        return;
    }
    // Cut in another way: chunk by chunk, as wide as the chunks here.
    for run in other.header.set_runs(&other.bits) {
        let (chunk, own) = (other.header.chunk().0, bitmap.header.chunk().0);
        bitmap.set(run.start * chunk / own..(run.end * chunk).div_ceil(own).min(bitmap.header.bits()), true);
    }
}

/// A header for the place the superblock names, as large as what lies behind allows.
fn new_header(facts: &Superblock, covered: Sectors) -> Header {
    let at = facts.bitmap_at().unwrap_or_default();
    let behind =
        [Some(facts.super_offset), Some(facts.data_offset), facts.bblog_area().map(|area| area.start)];
    let room = behind.into_iter().flatten().filter(|start| *start > at).map(|start| start - at).min();
    let room = room.unwrap_or(MAX_BITMAP).min(MAX_BITMAP);
    Header::new(facts.set_uuid, covered, default_chunk_bytes(covered, room))
}

impl Joined {
    /// Below which position redundancy agrees, and which stripes from there on may not; for a superblock that
    /// says
    /// `resync_offset`, on an LU that is `whole`.
    pub(super) fn unsynced(
        &self,
        geometry: &Geometry,
        resync_offset: Sectors,
        whole: bool,
    ) -> (u64, Option<Arc<StripeSet>>) {
        match self.trust {
            Trust::Good if resync_offset != Sectors::MAX => {
                let set = self.bitmap.stripes(geometry, resync_offset.0);
                (resync_offset.0, Some(Arc::new(set)))
            }
            // The superblocks say "clean": but where the bitmap is rubbish, what else is?
            Trust::Lost if whole => (0, None),
            _ => (resync_offset.0, None),
        }
    }
}

/// The bitmap of an LU that is open for writing: what is on the members' disks, and what goes there next.
#[derive(Debug)]
pub(super) struct Record {
    bitmap: Bitmap,
    /// Logarithm to base 2 of the bits in a region.
    group: u32,
    /// Bytes written at a time.
    page: usize,
    /// By page: it has to be written.
    changed: Vec<bool>,
    /// Bytes written in all, a multiple of the LU's block.
    length: usize,
    /// Regions whose bits are on their way to disk; all of them, where the copies differed.
    setting: Vec<u32>,
    setting_all: bool,
    /// Regions without a mark whose bits go once the members are flushed.
    clearing: Vec<u32>,
}

impl Record {
    /// For an LU with blocks of `block` bytes; and what writers see of it.
    pub(super) fn new(joined: &Joined, block: u32) -> (Record, IntentMap) {
        let bitmap = joined.bitmap.clone();
        let header = &bitmap.header;
        let mut group = 0;
        while header.bits() >> group > MOST_REGIONS {
            group += 1;
        }
        let map = IntentMap::new(header.sync_size, Sectors(header.chunk().0 << group));
        let length = (header.bytes_used() as usize).next_multiple_of(block as usize);
        let page = PAGE.max(block) as usize;
        let record = Record {
            group,
            page,
            changed: vec![joined.rewrite; length.div_ceil(page)],
            length,
            setting: Vec::new(),
            setting_all: joined.rewrite,
            clearing: Vec::new(),
            bitmap,
        };
        if !joined.rewrite {
            record.mark_all(&map);
        }
        (record, map)
    }

    /// Bytes on disk, whole blocks.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Up to which event count nothing but what is marked was missed.
    pub(super) fn events_cleared(&self) -> u64 {
        self.bitmap.header.events_cleared
    }

    /// The stripes with a part in a marked chunk.
    pub(super) fn stripes(&self, geometry: &Geometry) -> StripeSet {
        self.bitmap.stripes(geometry, 0)
    }

    /// How many chunks are marked.
    pub(super) fn count_set(&self) -> u64 {
        self.bitmap.count_set()
    }

    /// Time between two rounds of clearing.
    pub(super) fn period(&self) -> std::time::Duration {
        std::time::Duration::from_secs(u64::from(self.bitmap.header.daemon_sleep.clamp(1, 60)))
    }

    /// A disk joins: it gets all of it with the next round.
    pub(super) fn rewrite(&mut self) {
        self.changed.fill(true);
    }

    // --- setting
    // --------------------------------------------------------------------------------------------------

    /// Sets the bits writers wait for, and the header for superblocks that will say `events`; with `cleared`,
    /// that of an LU that is whole.
    pub(super) fn set_wanted(&mut self, map: &IntentMap, events: u64, cleared: Option<u64>) {
        let before = self.bitmap.header;
        let header = &mut self.bitmap.header;
        header.events = events;
        header.events_cleared = cleared.unwrap_or(header.events_cleared);
        self.changed[0] |= self.bitmap.header != before;
        map.take_wanted(|region| {
            if !map.is_marked(region) {
                self.write_region(region, true);
                self.setting.push(region);
            }
        });
    }

    /// What [`set_wanted`](Self::set_wanted) and [`clear`](Self::clear) changed is durable on all members.
    pub(super) fn written(&mut self, map: &IntentMap) {
        self.changed.fill(false);
        if std::mem::take(&mut self.setting_all) {
            self.mark_all(map);
        }
        self.setting.drain(..).for_each(|region| map.mark(region));
    }

    /// Marks the regions all of whose bits are set.
    fn mark_all(&self, map: &IntentMap) {
        for run in self.bitmap.header.set_runs(&self.bitmap.bits) {
            let last = self.bitmap.header.bits();
            // The last region may have fewer bits.
            let end = if run.end == last { last.div_ceil(1 << self.group) } else { run.end >> self.group };
            (run.start.div_ceil(1 << self.group)..end).for_each(|region| map.mark(region as u32));
        }
    }

    // --- clearing
    // -------------------------------------------------------------------------------------------------

    /// Takes the marks from regions that nobody wrote to since the last time but one (`at_once`: that nobody
    /// writes to), and that are not `pending`, told by their positions. True if there are any: then flush all
    /// members and [`clear`](Self::clear) them.
    pub(super) fn unmark(
        &mut self,
        map: &IntentMap,
        at_once: bool,
        pending: impl Fn(Range<u64>) -> bool,
    ) -> bool {
        if !self.setting.is_empty() || self.setting_all {
            return false;
        }
        self.restore(map);
        let chunk = self.bitmap.header.chunk().0;
        let mut next = 0;
        for run in self.bitmap.header.set_runs(&self.bitmap.bits) {
            for region in (run.start >> self.group).max(next)..=(run.end - 1) >> self.group {
                next = region + 1;
                let bits = self.bits_of(region as u32);
                let positions = bits.start.saturating_mul(chunk)..bits.end.saturating_mul(chunk);
                if !pending(positions) && map.try_unmark(region as u32, at_once) {
                    self.clearing.push(region as u32);
                }
            }
        }
        !self.clearing.is_empty()
    }

    /// All members are flushed: clears the bits of the regions that nobody asked for meanwhile.
    pub(super) fn clear(&mut self, map: &IntentMap) {
        for region in std::mem::take(&mut self.clearing) {
            if map.is_wanted(region) || map.is_marked(region) {
                self.mark_if_set(map, region);
            } else {
                self.write_region(region, false);
            }
        }
    }

    /// Nothing is cleared after all: the bits are still on disk.
    pub(super) fn restore(&mut self, map: &IntentMap) {
        for region in std::mem::take(&mut self.clearing) {
            self.mark_if_set(map, region);
        }
    }

    fn mark_if_set(&self, map: &IntentMap, region: u32) {
        if self.bits_of(region).all(|bit| self.bitmap.is_set(bit)) {
            map.mark(region);
        }
    }

    fn bits_of(&self, region: u32) -> Range<u64> {
        let (start, bits) = (u64::from(region) << self.group, self.bitmap.header.bits());
        start.min(bits)..(start + (1 << self.group)).min(bits)
    }

    fn write_region(&mut self, region: u32, value: bool) {
        let bits = self.bits_of(region);
        let page = |bit: u64| (HEADER_BYTES + (bit / 8) as usize) / self.page;
        if bits.is_empty() {
            return;
        }
        let pages = page(bits.start)..=page(bits.end - 1);
        self.changed[pages].fill(true);
        self.bitmap.set(bits, value);
    }

    // --- to disk
    // --------------------------------------------------------------------------------------------------

    /// The runs of bytes that have to be written, whole blocks.
    pub(super) fn runs(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = at + self.changed[at..].iter().position(|&changed| changed)?;
            let length = self.changed[start..].iter().take_while(|&&changed| changed).count();
            at = start + length;
            Some(start * self.page..(at * self.page).min(self.length))
        })
    }

    /// What is to be on disk from byte `start` on.
    pub(super) fn copy_to(&self, start: usize, bytes: &mut [u8]) {
        bytes.fill(0);
        let mut head = [0; HEADER_BYTES];
        self.bitmap.header.write_into(&mut head);
        let head = &head[start.min(HEADER_BYTES)..];
        let (front, rest) = bytes.split_at_mut(head.len().min(bytes.len()));
        front.copy_from_slice(&head[..front.len()]);
        let bits =
            self.bitmap.bits.get((start + front.len()).saturating_sub(HEADER_BYTES)..).unwrap_or_default();
        rest.iter_mut().zip(bits).for_each(|(byte, bits)| *byte = *bits);
    }
}

/// The bitmap of a new LU; `set` if its redundancy is still to be made to agree.
pub(super) fn for_new(
    sb: &Superblock,
    geometry: &Geometry,
    chunk: Option<u32>,
    space: Sectors,
    set: bool,
) -> Bitmap {
    let covered = covered(geometry, sb);
    let chunk = chunk.unwrap_or_else(|| default_chunk_bytes(covered, space));
    let header = Header::new(sb.set_uuid, covered, chunk);
    Bitmap::new(Header { events: sb.events, events_cleared: sb.events, ..header }, set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::superblock::Uuid;

    /// A bitmap of `bits` bits of `chunk_bytes`, some of them set.
    fn bitmap(bits: u64, chunk_bytes: u32, set: &[u64]) -> Bitmap {
        let covered = Sectors(bits * u64::from(chunk_bytes) / SECTOR);
        let mut bitmap = Bitmap::new(Header::new(Uuid([5; 16]), covered, chunk_bytes), false);
        set.iter().for_each(|&bit| bitmap.set(bit..bit + 1, true));
        bitmap
    }

    fn record(bitmap: Bitmap, rewrite: bool) -> (Record, IntentMap) {
        let joined = Joined { bitmap, trust: Trust::Good, rewrite, warnings: Vec::new() };
        Record::new(&joined, 512)
    }

    fn on_disk(record: &Record) -> Vec<u8> {
        let mut bytes = vec![0xEE; record.len()];
        record.copy_to(0, &mut bytes);
        bytes
    }

    fn set_bits(record: &Record) -> Vec<u64> {
        record.bitmap.header.set_runs(&record.bitmap.bits).flatten().collect()
    }

    #[test]
    fn any_part_of_it_is_what_is_on_disk() {
        let (record, _) = record(bitmap(50_000, 4096, &[0, 77, 30_000, 49_999]), false);
        let all = on_disk(&record);
        assert_eq!(all.len(), (256 + 50_000usize / 8).next_multiple_of(512));
        assert_eq!(&all[..256 + 6250], &record.bitmap.to_bytes()[..]);
        for (start, len) in [(0, 512), (0, 4096), (4096, 2560), (512, 100), (200, 100), (6000, 656)] {
            let mut part = vec![0xEE; len];
            record.copy_to(start, &mut part);
            assert_eq!(part, all[start..start + len], "{len} from {start}");
        }
    }

    #[test]
    fn only_changed_pages_are_written() {
        let (mut record, map) = record(bitmap(100_000, 4096, &[]), false);
        assert_eq!(record.runs().count(), 0);
        map.want(map.regions(8 * 99_999..8 * 100_000));
        record.set_wanted(&map, 7, None);
        // The header says 7 now; the last bit is in the last page, which ends with the last block.
        assert_eq!(record.runs().collect::<Vec<_>>(), [0..4096, 12_288..12_800]);
        assert!(!map.is_marked(99_999), "not before it is on disk");
        record.written(&map);
        assert!(map.is_marked(99_999));
        assert_eq!(record.runs().count(), 0);
        record.set_wanted(&map, 7, None);
        assert_eq!(record.runs().count(), 0, "nothing new");
    }

    #[test]
    fn bits_go_when_nobody_came_back_meanwhile() {
        let (mut record, map) = record(bitmap(100, 4096, &[3, 4, 5, 60]), false);
        let of = |region: u64| map.regions(8 * region..8 * region + 8);
        // Fresh from the disk they rest already after one look.
        assert!(!record.unmark(&map, false, |_| false));
        assert!(record.unmark(&map, false, |positions| positions.contains(&(60 * 8))));
        assert!(map.is_marked(60), "it is pending");
        assert!(!map.begin(of(4)), "without a mark, and wanted");
        record.clear(&map);
        assert_eq!(set_bits(&record), [4, 60]);
        assert!(map.begin(of(4)), "the bit never left the disk");
        assert!(!record.unmark(&map, true, |positions| positions.contains(&(60 * 8))), "a writer is there");
        map.end(of(4));
        assert!(record.unmark(&map, true, |_| false));
        record.restore(&map);
        assert!(map.is_marked(4) && map.is_marked(60));
        assert_eq!(set_bits(&record), [4, 60]);
    }

    #[test]
    fn a_fine_bitmap_is_kept_in_groups() {
        let bits = 3 * MOST_REGIONS + 1;
        let (mut record, map) = record(bitmap(bits, 512, &[0, 1, 2, 3, 6, bits - 1]), false);
        assert_eq!(map.len() as u64, bits.div_ceil(4));
        let last = map.len() as u32 - 1;
        assert!(map.is_marked(0) && !map.is_marked(1) && map.is_marked(last), "only whole groups are");
        map.want(map.regions(4..5));
        record.set_wanted(&map, 1, None);
        record.written(&map);
        assert!(map.is_marked(1));
        assert_eq!(set_bits(&record), [0, 1, 2, 3, 4, 5, 6, 7, bits - 1]);
        while record.unmark(&map, true, |_| false) {
            record.clear(&map);
        }
        assert_eq!(record.count_set(), 0);
    }

    #[test]
    fn what_differed_is_written_before_it_counts() {
        let (mut record, map) = record(bitmap(100, 4096, &[9]), true);
        assert!(!map.is_marked(9));
        assert!(!record.unmark(&map, true, |_| false));
        record.set_wanted(&map, 3, Some(2));
        assert!(record.runs().eq(Some(0..512)));
        record.written(&map);
        assert!(map.is_marked(9));
        assert_eq!((record.bitmap.header.events, record.events_cleared()), (3, 2));
    }

    #[test]
    fn copies_add_up_also_if_they_are_cut_differently() {
        let mut sum = bitmap(10, 8192, &[0]);
        add(&mut sum, &bitmap(10, 8192, &[9]));
        add(&mut sum, &bitmap(20, 4096, &[5, 12]));
        add(&mut sum, &bitmap(5, 16384, &[3]));
        let set: Vec<u64> = sum.header.set_runs(&sum.bits).flatten().collect();
        assert_eq!(set, [0, 2, 6, 7, 9]);
    }
}
