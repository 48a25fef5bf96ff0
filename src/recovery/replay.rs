//! Replaying the partial parity log after a crash: from the bytes of a log to the parity that agrees with
//! what is on disk.
//!
//! Pure: who calls reads and writes. [`Found::read`] walks a member's log to its newest record. [`repairs`]
//! says which rows that speaks of, having looked at every word of it: nothing a log claims is believed.
//! [`Repair::run`] sums up, row by row, the partial parity and what the modified cells hold now; that is the
//! parity. A row of which a modified cell is not there is left alone; where one is there and cannot be read
//! that is told, for what the parity is worth there nobody knows.
//!
//! Idempotent: only parity is written, and none is read. Cut short anywhere it can be run again from its
//! beginning, as long as the log is whole.

use alloc::vec::Vec;
use core::ops::Range;

use crate::format::ppl::{self, HEADER, Header, Refusal};
use crate::format::superblock::Uuid;
use crate::geometry::Geometry;
use crate::plan::{LOG_ROWS, Presence, Rows, View};
use crate::units::{Lba, MemberLba, SECTOR, Sectors, Slot, Stripe};

/// Most sectors a record takes: beyond it no writer goes, and nothing is read that a damaged header claims.
const MOST: Sectors = Sectors(1 << 16);

/// The newest record of a member's log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Its header.
    pub header: Header,
    /// The partial parity behind it.
    pub parity: Vec<u8>,
}

/// What is wrong with a log.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Flaw {
    /// It has no header.
    #[error("{0}")]
    Header(#[from] Refusal),
    /// A record that reaches past the end of the log.
    #[error("its newest record of {0} reaches past its end")]
    Length(Sectors),
    /// Partial parity that is not what was written.
    #[error("the partial parity of entry {0} is damaged")]
    Parity(usize),
    /// An entry that speaks of no rows of the LU with their parity on this member.
    #[error("entry {0} makes no sense")]
    Entry(usize),
}

impl Found {
    /// The newest record of a log of `length` of the LU `set`; with `multiple`, of those that follow each
    /// other. `read` fills a buffer from a sector of the log on.
    ///
    /// # Errors
    /// What `read` returns.
    pub fn read<E>(
        set: Uuid,
        length: Sectors,
        multiple: bool,
        mut read: impl FnMut(Sectors, &mut [u8]) -> Result<(), E>,
    ) -> Result<Result<Found, Flaw>, E> {
        let walked = if multiple { length } else { length.min(HEADER) };
        let (at, header) = match ppl::newest(set, walked, &mut read)? {
            Ok(newest) => newest,
            Err(refusal) => return Ok(Err(refusal.into())),
        };
        let whole = header.length();
        if at.0.saturating_add(whole.0) > length.0 || whole > MOST {
            return Ok(Err(Flaw::Length(whole)));
        }
        let mut parity = alloc::vec![0; (whole - HEADER).bytes() as usize];
        if !parity.is_empty() {
            read(at + HEADER, &mut parity)?;
        }
        Ok(Ok(Found { header, parity }))
    }

    /// Does it tell that its LU was in sync when it was made ready? An empty log of generation 0 does not.
    pub fn vouches(&self) -> bool {
        self.header.generation > 0 || self.header.is_live()
    }
}

/// Rows of one stripe whose parity is to be made to agree with its data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Repair<'f> {
    /// The stripe.
    pub stripe: Stripe,
    /// Its rows.
    pub rows: Rows,
    /// The data cells that may be old or new.
    pub modified: Range<u16>,
    /// The sum of the others in these rows; empty if there are none.
    pub parity: &'f [u8],
}

/// What became of the rows of repairs, in sectors.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Outcome {
    /// Parity was written.
    pub repaired: u64,
    /// Left alone, for a modified cell (or the parity) is not there or not rebuilt yet.
    pub left: u64,
    /// Left alone, for a modified cell (or the parity) cannot be read, or is on the list of bad blocks, although its member is there.
    pub unreadable: u64,
    /// Whose rows, already rebuilt, were among those that are left alone because they could not be read. Their parity may
    /// not agree with what the rebuild has made of it.
    pub doubtful: Option<Slot>,
    /// Rows of the stripe whose parity is there and may not agree with data that is there, for some of that could not be
    /// read just now, and that no rebuild under way makes anew. Nothing may be computed from it. In their order.
    pub stale: Vec<Rows>,
}

impl Outcome {
    fn note_stale(&mut self, row: u32) {
        match self.stale.last_mut() {
            Some(last) if last.end == row => last.end += 1,
            _ => self.stale.push(Rows::new(row, row + 1)),
        }
    }
}

/// What the newest record in `slot` asks for, in its order, and what is wrong with it. Repairs are whole or
/// not there.
pub fn repairs<'f>(geometry: &Geometry, slot: Slot, found: &'f Found) -> (Vec<Repair<'f>>, Vec<Flaw>) {
    let (mut repairs, mut flaws) = (Vec::new(), Vec::new());
    let mut rest = &found.parity[..];
    for (index, entry) in found.header.entries.iter().enumerate() {
        let Some((parity, behind)) = rest.split_at_checked(entry.pp_size as usize) else {
            flaws.push(Flaw::Length(found.header.length()));
            break;
        };
        rest = behind;
        match place(geometry, slot, entry) {
            None => flaws.push(Flaw::Entry(index)),
            Some(_) if ppl::crc32c(parity) != entry.checksum => flaws.push(Flaw::Parity(index)),
            Some((stripe, rows, modified)) => repairs.push(Repair { stripe, rows, modified, parity }),
        }
    }
    (repairs, flaws)
}

/// Where an entry's rows are, and which data cells it calls modified.
fn place(geometry: &Geometry, slot: Slot, entry: &ppl::Entry) -> Option<(Stripe, Rows, Range<u16>)> {
    let (all, bytes, parity) = (geometry.data_cells(), entry.data_size, entry.pp_size);
    // Of whole stripes there is no partial parity.
    let cells = bytes.checked_div(parity).unwrap_or_else(|| u32::from(all));
    let is_whole = cells > 0 && bytes > 0 && bytes % cells == 0;
    if geometry.parities() != 1 || !is_whole || bytes / cells % SECTOR as u32 != 0 {
        return None;
    }
    if parity != 0 && bytes / cells != parity {
        return None;
    }
    let place = geometry.locate(Lba(entry.data_sector.0))?;
    let map = geometry.stripe(place.stripe);
    let rows = Rows::new(place.row, place.row.checked_add(bytes / cells / SECTOR as u32)?);
    let end = u32::from(place.cell) + cells;
    let fits = rows.end <= map.rows() && end <= u32::from(all);
    let p = map.cell(all).slot;
    (fits && p == slot && entry.parity_disk == u32::from(p.0)).then_some((
        place.stripe,
        rows,
        place.cell..end as u16,
    ))
}

impl Repair<'_> {
    /// Makes the parity right. `read` fills a buffer from a place in a slot's data area, false if that could
    /// not be read; `write` takes parity there.
    ///
    /// # Errors
    /// What `write` returns.
    pub fn run<E>(
        &self,
        geometry: &Geometry,
        view: &View,
        mut read: impl FnMut(Slot, MemberLba, &mut [u8]) -> bool,
        mut write: impl FnMut(Slot, MemberLba, &[u8]) -> Result<(), E>,
    ) -> Result<Outcome, E> {
        let mut outcome = Outcome::default();
        let map = geometry.stripe(self.stripe);
        let mut cells = self.modified.clone().chain([map.cells() - 1]);
        if cells.any(|cell| view.members[map.cell(cell).slot.index()].presence == Presence::Missing) {
            outcome.left = u64::from(self.rows.len());
            return Ok(outcome);
        }
        let mut buffers = [[0; BLOCK], [0; BLOCK]];
        let mut start = self.rows.start;
        while start < self.rows.end {
            let rows = Rows::new(start, self.rows.end.min(start + LOG_ROWS));
            // A whole block, or what there is of it.
            if self.block(geometry, view, rows, &mut buffers, &mut read, &mut write, &mut outcome)?.is_ok() {
                start = rows.end;
                continue;
            }
            for row in rows.start..rows.end {
                let sector = Rows::new(row, row + 1);
                let done =
                    self.block(geometry, view, sector, &mut buffers, &mut read, &mut write, &mut outcome)?;
                if let Err(unread) = done {
                    let there = |slot: Slot| view.members[slot.index()].presence == Presence::Present;
                    let all = self.modified.clone().all(|cell| there(map.cell(cell).slot));
                    let which = if all { &mut outcome.unreadable } else { &mut outcome.left };
                    *which += 1;
                    let Some(unread) = unread else { continue };
                    let parity = map.cell(map.cells() - 1);
                    if !there(unread) {
                        outcome.doubtful = Some(unread);
                    } else if view.members[parity.slot.index()]
                        .reaches(parity.at + Sectors(u64::from(row) + 1))
                    {
                        outcome.note_stale(row);
                    }
                }
            }
            start = rows.end;
        }
        Ok(outcome)
    }

    /// The parity of up to a block of rows. `Err` if they must be left alone as a whole; with the slot that should have been
    /// readable there, if that is all that was in the way.
    #[allow(clippy::too_many_arguments, reason = "what one call of `run` holds")]
    fn block<E>(
        &self,
        geometry: &Geometry,
        view: &View,
        rows: Rows,
        [sum, bytes]: &mut [[u8; BLOCK]; 2],
        read: &mut impl FnMut(Slot, MemberLba, &mut [u8]) -> bool,
        write: &mut impl FnMut(Slot, MemberLba, &[u8]) -> Result<(), E>,
        outcome: &mut Outcome,
    ) -> Result<Result<(), Option<Slot>>, E> {
        let map = geometry.stripe(self.stripe);
        let (offset, len) = (
            (rows.start - self.rows.start) as usize * SECTOR as usize,
            rows.len() as usize * SECTOR as usize,
        );
        let (sum, bytes) = (&mut sum[..len], &mut bytes[..len]);
        let place = |cell: u16| {
            let place = map.cell(cell);
            (place.slot, place.at + Sectors(u64::from(rows.start)))
        };
        let (parity, to) = place(map.cells() - 1);
        let good = self.modified.clone().map(place).all(|(slot, at)| is_good(view, slot, at, rows.len()));
        if !good || is_bad(&view.members[parity.index()].bad, to, rows.len()) {
            return Ok(Err(None));
        }
        match self.parity.get(offset..offset + len) {
            Some(parity) => sum.copy_from_slice(parity),
            None => sum.fill(0),
        }
        for (slot, at) in self.modified.clone().map(place) {
            if !read(slot, at, bytes) {
                return Ok(Err(Some(slot)));
            }
            sum.iter_mut().zip(&*bytes).for_each(|(sum, byte)| *sum ^= byte);
        }
        write(parity, to, sum)?;
        outcome.repaired += u64::from(rows.len());
        Ok(Ok(()))
    }
}

const BLOCK: usize = (LOG_ROWS as u64 * SECTOR) as usize;

/// Is there something to be read that may be believed?
fn is_good(view: &View, slot: Slot, at: MemberLba, sectors: u32) -> bool {
    let member = &view.members[slot.index()];
    member.reaches(at + Sectors(u64::from(sectors))) && !is_bad(&member.bad, at, sectors)
}

fn is_bad(bad: &[(MemberLba, MemberLba)], at: MemberLba, sectors: u32) -> bool {
    let end = at + Sectors(u64::from(sectors));
    bad.iter().any(|&(from, to)| from < end && at < to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ppl::Entry;
    use crate::geometry::{Layout, Shape};
    use crate::units::Level;
    use proptest::prelude::*;

    const SET: Uuid = Uuid([9; 16]);
    const CHUNK: u64 = 16;

    fn geometry() -> Geometry {
        let layout = Layout::default_for(Level::Raid5).md_number();
        let component = Sectors(CHUNK * 4);
        let chunk = Sectors(CHUNK);
        Geometry::new(&Shape { level: Level::Raid5, layout, chunk, slots: 4, component, members: &[] })
            .unwrap()
    }

    /// In stripe 0 of a left-symmetric LU of 4 the parity is on slot 3 and data cell n on slot n.
    fn entry(sector: u64, parity: &[u8], data_size: u32) -> Entry {
        let (pp_size, checksum) = (parity.len() as u32, ppl::crc32c(parity));
        Entry { data_sector: Lba(sector), pp_size, data_size, parity_disk: 3, checksum }
    }

    fn found(entries: Vec<Entry>, parity: Vec<u8>) -> Found {
        Found { header: Header { generation: 3, entries }, parity }
    }

    #[test]
    fn entries_name_rows_and_cells() {
        let of = |entry: Entry| {
            let parity = alloc::vec![5; entry.pp_size as usize];
            let found = found(alloc::vec![Entry { checksum: ppl::crc32c(&parity), ..entry }], parity);
            let (repairs, flaws) = repairs(&geometry(), Slot(3), &found);
            assert_eq!(repairs.len() + flaws.len(), 1);
            repairs.first().map(|r| (r.rows.start, r.rows.end, r.modified.clone()))
        };
        let block = [5; 4096];
        assert_eq!(of(entry(8, &block, 4096)), Some((8, 16, 0..1)));
        assert_eq!(of(entry(16, &block, 8192)), Some((0, 8, 1..3)));
        assert_eq!(of(entry(0, &[5; 8192], 16384)), Some((0, 16, 0..2)), "all of the chunk");
        assert_eq!(of(entry(8, &[], 3 * 4096)), Some((8, 16, 0..3)), "a full stripe");
        for bad in [
            entry(32, &block, 8192), // beyond the last cell
            entry(12, &block, 4096), // beyond the chunk
            entry(48, &block, 4096), // another stripe, with its parity elsewhere
            entry(8, &block, 4097),  // no whole cells
            entry(8, &block, 0),
            entry(16, &[], 3 * 4096), // a full stripe that begins in its middle
            entry(0, &[], 4096),
            entry(1 << 60, &block, 4096),
            Entry { parity_disk: 2, ..entry(8, &block, 4096) },
        ] {
            assert_eq!(of(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn damaged_partial_parity_and_lengths_are_told() {
        let whole = found(
            alloc::vec![entry(0, &[1; 4096], 4096), entry(8, &[2; 4096], 4096)],
            [[1; 4096], [2; 4096]].concat(),
        );
        assert_eq!(repairs(&geometry(), Slot(3), &whole).0.len(), 2);
        let mut bent = whole.clone();
        bent.parity[5000] ^= 1;
        let (rest, flaws) = repairs(&geometry(), Slot(3), &bent);
        assert_eq!((rest.len(), flaws), (1, alloc::vec![Flaw::Parity(1)]));
        let short = Found { parity: alloc::vec![1; 4096], ..whole };
        assert_eq!(repairs(&geometry(), Slot(3), &short).1, [Flaw::Length(Sectors(24))]);
    }

    /// One byte a sector would do, but the real thing costs little: what `run` writes is the sum, and rows it
    /// cannot judge stay.
    #[test]
    fn parity_agrees_with_what_is_there() {
        let log = found(alloc::vec![entry(16, &[0x70; 4096], 8192)], alloc::vec![0x70; 4096]);
        let (list, _) = repairs(&geometry(), Slot(3), &log);
        let run = |view: &View, unreadable: Option<(Slot, MemberLba)>| {
            let mut written = Vec::new();
            let read = |slot: Slot, at: MemberLba, bytes: &mut [u8]| {
                bytes.fill(1 << slot.0);
                let end = at + Sectors(bytes.len() as u64 / SECTOR);
                unreadable.is_none_or(|(of, bad)| of != slot || bad < at || bad >= end)
            };
            let write = |slot: Slot, at: MemberLba, bytes: &[u8]| {
                assert!(bytes.iter().all(|&byte| byte == 0x70 ^ 2 ^ 4));
                written.push((slot.0, at.0, bytes.len()));
                Ok::<_, ()>(())
            };
            (list[0].run(&geometry(), view, read, write).unwrap(), written)
        };
        let healthy = View::healthy(4);
        let whole = Outcome { repaired: 8, ..Outcome::default() };
        assert_eq!(run(&healthy, None), (whole, alloc::vec![(3, 0, 4096)]));
        let sector = Some((Slot(1), MemberLba(3)));
        let third = alloc::vec![Rows::new(3, 4)];
        let left = Outcome { repaired: 7, unreadable: 1, stale: third.clone(), ..Outcome::default() };
        assert_eq!(run(&healthy, sector).0, left);
        for (slot, repaired) in [(0, 8), (1, 0), (2, 0), (3, 0)] {
            let mut view = View::healthy(4);
            view.members[slot].presence = Presence::Missing;
            assert_eq!(run(&view, None).0.repaired, repaired, "without slot {slot}");
        }
        let mut view = View::healthy(4);
        view.members[2].presence = Presence::Below(MemberLba(6));
        // What is rebuilt already should be readable; the rest is not even asked for.
        for (row, doubtful) in [(3, Some(Slot(2))), (6, None)] {
            let outcome = run(&view, Some((Slot(2), MemberLba(row)))).0;
            assert_eq!((outcome.doubtful, outcome.stale), (doubtful, alloc::vec![]), "row {row}");
        }
        // Whatever the rebuild has made there agrees with the wrong parity; the rest it makes so.
        for (row, stale) in [(3, third.clone()), (6, alloc::vec![])] {
            let outcome = run(&view, Some((Slot(1), MemberLba(row)))).0;
            assert_eq!((outcome.doubtful, outcome.stale), (None, stale), "row {row}");
        }
        view.members[3].bad.push((MemberLba(1), MemberLba(2)));
        assert_eq!(run(&view, None).0.repaired, 5);
        view.members[3].bad.push((MemberLba(3), MemberLba(4)));
        assert_eq!(run(&view, sector).0.stale, [], "nobody computes from it as it is");
        // Parity that is made anew is nobody's trouble; what is missing beside has no part in it.
        for (presence, stale) in [(MemberLba(4), third.clone()), (MemberLba(3), alloc::vec![])] {
            let mut view = View::healthy(4);
            view.members[3].presence = Presence::Below(presence);
            assert_eq!(run(&view, sector).0.stale, stale, "below {presence}");
        }
        let mut view = View::healthy(4);
        view.members[0].presence = Presence::Missing;
        assert_eq!(run(&view, sector).0.stale, third);
    }

    #[test]
    fn the_walk_finds_the_newest_and_refuses_what_does_not_fit() {
        let mut area = Vec::new();
        for generation in [4, 5] {
            let header = Header { generation, entries: alloc::vec![entry(0, &[1; 4096], 4096)] };
            area.extend(header.emit(SET));
            area.extend([1; 4096]);
        }
        let read = |area: &[u8], multiple| {
            let length = Sectors(area.len() as u64 / SECTOR);
            let read = |at: Sectors, to: &mut [u8]| {
                let from = at.bytes() as usize;
                to.copy_from_slice(&area[from..from + to.len()]);
                Ok::<_, ()>(())
            };
            Found::read(SET, length, multiple, read).unwrap()
        };
        assert_eq!(read(&area, true).unwrap().header.generation, 5);
        assert_eq!(read(&area, false).unwrap().header.generation, 4);
        assert_eq!(read(&area[..3 * 4096], true), Err(Flaw::Length(Sectors(16))));
        assert!(matches!(read(&[0; 8192], true), Err(Flaw::Header(_))));
    }

    proptest! {
        #[test]
        fn no_entry_panics(sector: u64, pp_size: u32, data_size: u32, parity_disk: u32, slot in 0u16..6) {
            let near = (sector % 200, pp_size % 4 * 4096, data_size % 16 * 4096);
            for (sector, pp_size, data_size) in [(sector, pp_size, data_size), near] {
                let (data_sector, parity_disk) = (Lba(sector), parity_disk % 5);
                let entry = Entry { data_sector, pp_size, data_size, parity_disk, checksum: 0 };
                let found = found(alloc::vec![entry], alloc::vec![0; 3 * 4096]);
                for repair in repairs(&geometry(), Slot(slot), &found).0 {
                    let read = |_, _, _: &mut [u8]| true;
                    repair.run(&geometry(), &View::healthy(4), read, |_, _, _| Ok::<_, ()>(())).unwrap();
                }
            }
        }
    }
}
