//! Geometry: which sector of the LU lies where on which member, for every level and layout, and what may be
//! missing.
//!
//! All levels are told in one language, so that nothing above asks for the level. An LU is a line of
//! **stripes**. A stripe covers `k` data chunks and has **cells**; a cell is one run of rows (sectors) on one
//! slot:
//!
//! | level | a stripe is | its cells, in order |
//! |---|---|---|
//! | linear | a run of one unit inside one member | data |
//! | RAID0 | a chunk | data |
//! | RAID1 | a run of one unit | data on slot 0, copies on the other slots |
//! | RAID10 | a chunk | data (the first copy), copies, in md's order |
//! | RAID4, RAID5, RAID6 | a row of chunks | data 0..k, P, Q |
//!
//! The promise: every sector of the LU has exactly one data cell and row ([`Geometry::locate`]); no two cells
//! overlap on a member; the cells of a stripe lie on distinct slots; [`Geometry::find`] is the exact inverse.
//! The formulas are those of Linux md and give its addresses sector by sector; md's RAID10 layouts that break
//! the promise are refused.
//!
//! What this does not know: disks, superblocks, reads, writes, parity arithmetic, or which members are there,
//! except as a question to [`Geometry::tolerates`]. A [`Geometry`] never changes and allocates nothing once
//! built. Addresses are found in constant time, RAID0's and linear's by a binary search over zones or slots;
//! only the questions about missing members walk over the slots.

mod divide;
mod layout;
mod linear;
mod mirrors;
mod rotation;
mod zones;

#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use self::divide::Divisor;
use self::layout::Copies;
use self::linear::Linear;
use self::mirrors::{First, Mirrors, Misfit};
use self::rotation::{Holds, Rotation, Slots};
use self::zones::{ZoneStart, Zones};
use crate::error::{Error, ErrorKind, Result};
use crate::units::{Lba, Level, MAX_SLOTS, MemberLba, Sectors, Slot, SlotSet, Stripe};

pub use self::layout::Layout;

/// What an LU looks like, in md's terms: the input of [`Geometry::new`].
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    /// The level.
    pub level: Level,
    /// md's layout number. For RAID0 pass 0 where the superblock lacks the feature bit that makes it valid.
    pub layout: u32,
    /// md's chunk. RAID1 has none and ignores it; linear may have none (0).
    pub chunk: Sectors,
    /// Number of slots.
    pub slots: u16,
    /// md's `size`: what is used of each member, before rounding. RAID0 and linear ignore it.
    pub component: Sectors,
    /// md's `data_size` of each member, by slot. Only RAID0 and linear use it; others may leave it empty.
    pub members: &'a [Sectors],
}

/// The address arithmetic of one LU.
#[derive(Clone, Debug)]
pub struct Geometry {
    layout: Layout,
    chunk: Sectors,
    slots: u16,
    size: u64,
    stripes: u64,
    unit: Divisor,
    /// Data cells of a stripe.
    data: Divisor,
    parities: u8,
    copies: u16,
    placement: Placement,
}

#[derive(Clone, Debug)]
enum Placement {
    Linear(Linear),
    Striped(Zones),
    /// RAID1: everything everywhere.
    Same,
    Mirrored(Mirrors),
    /// RAID4, RAID5, RAID6, with the sectors used on each member.
    Parity(Rotation, u64),
}

/// A sector inside a stripe.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Place {
    /// The stripe.
    pub stripe: Stripe,
    /// Index of the cell in the stripe.
    pub cell: u16,
    /// Sectors from the start of the cell.
    pub row: u32,
}

/// One run of rows of a stripe on one slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cell {
    /// What the cell holds.
    pub kind: CellKind,
    /// The slot it is on.
    pub slot: Slot,
    /// The member's sector that is row 0.
    pub at: MemberLba,
}

/// What a cell holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CellKind {
    /// This data chunk of the stripe, counted from 0 in the order of the LU.
    Data(u16),
    /// The same as data 0.
    Copy,
    /// The exclusive or of the data cells.
    P,
    /// The sum of the data cells, each multiplied by a power of the generator: [`StripeMap::q_power`].
    Q,
}

impl CellKind {
    /// Is it parity, P or Q?
    pub const fn is_parity(self) -> bool {
        matches!(self, CellKind::P | CellKind::Q)
    }
}

/// Sectors of a stripe where the level has no chunk: 1 MiB.
const UNIT: u64 = 2048;

/// The smallest chunk of the redundant levels: 4 KiB.
const SMALLEST_CHUNK: u64 = 8;

/// The largest chunk: 2^31 bytes.
const LARGEST_CHUNK: u64 = 1 << 22;

/// Powers of the generator before they repeat: the most data chunks that Q can tell apart.
const POWERS: u16 = 255;

impl Geometry {
    /// Checks a shape and prepares its arithmetic.
    ///
    /// # Errors
    /// [`ErrorKind::Format`]: a layout number the level does not know; a RAID10 layout in which md would put
    /// two chunks in one place or two copies on one member; a RAID0 of several zones that does not say which
    /// layout it follows.
    /// [`ErrorKind::Usage`]: anything else that does not fit: the chunk (RAID4/5/6/10: a power of two, 4 KiB
    /// to 2 GiB; RAID0: 1 sector to 2 GiB; linear: nothing to 2 GiB), too few or too many slots, members
    /// without room for a single chunk, sizes beyond 64 bits.
    pub fn new(shape: &Shape<'_>) -> Result<Geometry> {
        let layout = Layout::from_md(shape.level, shape.layout)?;
        let chunk = checked_chunk(shape)?;
        check_slots(shape)?;
        match shape.level {
            Level::Linear => Geometry::linear(shape, layout, chunk),
            Level::Raid0 => Geometry::striped(shape, layout, chunk),
            Level::Raid1 => Geometry::same(shape, layout),
            Level::Raid4 | Level::Raid5 | Level::Raid6 => Geometry::parity(shape, layout, chunk),
            Level::Raid10 => Geometry::mirrored(shape, layout, chunk),
        }
    }

    /// The level.
    pub fn level(&self) -> Level {
        self.layout.level()
    }

    /// The layout.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// md's chunk; zero for RAID1, and for linear without one.
    pub fn chunk(&self) -> Sectors {
        self.chunk
    }

    /// Number of slots.
    pub fn slots(&self) -> u16 {
        self.slots
    }

    /// Size of the LU.
    pub fn size(&self) -> Sectors {
        Sectors(self.size)
    }

    /// Number of stripes; they are `Stripe(0)` to `Stripe(stripes - 1)`.
    pub fn stripes(&self) -> u64 {
        self.stripes
    }

    /// Rows of a cell in a full stripe: the chunk, or 1 MiB where there is none. At most 2^22.
    pub fn unit(&self) -> Sectors {
        Sectors(self.unit.get())
    }

    /// Data cells of a stripe.
    pub fn data_cells(&self) -> u16 {
        self.data.get() as u16
    }

    /// Cells of a stripe: data, and parities or copies.
    pub fn cells(&self) -> u16 {
        self.data_cells() + u16::from(self.parities) + self.copies - 1
    }

    /// Parity cells of a stripe: 0, 1 (P) or 2 (P and Q).
    pub fn parities(&self) -> u8 {
        self.parities
    }

    /// How often each sector of the LU is stored as it is: 1 unless it is a mirror.
    pub fn copies(&self) -> u16 {
        self.copies
    }

    /// Can any member be lost without losing data, when all are there?
    pub fn is_redundant(&self) -> bool {
        self.parities > 0 || self.copies > 1
    }

    /// The data cell and row of sector `lba`; `None` past the end of the LU.
    // (Asked for every request. Through memory it would be written piece by piece and read back whole, which a CPU waits for.)
    #[inline(always)]
    pub fn locate(&self, lba: Lba) -> Option<Place> {
        if lba.0 >= self.size {
            return None;
        }
        if let Placement::Linear(linear) = &self.placement {
            let (run, row) = linear.locate(lba.0);
            return Some(Place { stripe: Stripe(run), cell: 0, row: row as u32 });
        }
        let (unit, row) = self.unit.div_rem(lba.0);
        let (stripe, cell) = if self.parities == 0 { (unit, 0) } else { self.data.div_rem(unit) };
        Some(Place { stripe: Stripe(stripe), cell: cell as u16, row: row as u32 })
    }

    /// Where the cells of `stripe` are.
    ///
    /// # Panics
    /// If `stripe` is not below [`Geometry::stripes`]: its cells would lie on somebody else's sectors.
    #[inline]
    pub fn stripe(&self, stripe: Stripe) -> StripeMap<'_> {
        self.map(stripe)
    }

    /// [`stripe`](Geometry::stripe) and [`StripeMap::cell`] for who needs one cell and nothing else, as most requests do:
    /// no map is put together in memory.
    ///
    /// # Panics
    /// As those two.
    #[inline(always)]
    pub(crate) fn cell(&self, stripe: Stripe, index: u16) -> Cell {
        self.map(stripe).nth(index)
    }

    /// [`StripeMap::rows`] likewise, of a stripe that is there.
    #[inline(always)]
    pub(crate) fn rows(&self, stripe: Stripe) -> u32 {
        match &self.placement {
            Placement::Linear(linear) => linear.run(stripe.0).rows,
            Placement::Same => self.unit.get().min(self.size - stripe.0 * self.unit.get()) as u32,
            _ => self.unit.get() as u32,
        }
    }

    #[inline(always)]
    fn map(&self, stripe: Stripe) -> StripeMap<'_> {
        assert!(stripe.0 < self.stripes, "stripe {} of {}", stripe.0, self.stripes);
        let unit = self.unit.get();
        let (cells, chunks) = match &self.placement {
            Placement::Parity(rotation, _) => {
                let slots = rotation.stripe(stripe.0);
                (Cells::Parity { at: MemberLba(stripe.0 * unit), slots }, stripe.0 * self.data.get())
            }
            Placement::Mirrored(mirrors) => (Cells::Mirrored(mirrors, mirrors.first(stripe.0)), stripe.0),
            Placement::Striped(zones) => {
                let (slot, chunk) = zones.chunk(stripe.0);
                (Cells::Single { slot, at: MemberLba(chunk * unit) }, stripe.0)
            }
            // The two without chunks may end with a shorter run.
            Placement::Same => {
                let (at, rows) = (stripe.0 * unit, self.rows(stripe));
                let cells = Cells::Same { at: MemberLba(at) };
                return StripeMap { geometry: self, number: stripe, rows, lba: Lba(at), cells };
            }
            Placement::Linear(linear) => {
                let run = linear.run(stripe.0);
                let cells = Cells::Single { slot: run.slot, at: run.at };
                let (rows, lba) = (run.rows, Lba(run.lba));
                return StripeMap { geometry: self, number: stripe, rows, lba, cells };
            }
        };
        StripeMap { geometry: self, number: stripe, rows: unit as u32, lba: Lba(chunks * unit), cells }
    }

    /// What lies at sector `at` of the data area of `slot`: the inverse of [`Geometry::stripe`]. `None` if
    /// the layout does not use that sector, or has no such slot.
    pub fn find(&self, slot: Slot, at: MemberLba) -> Option<Place> {
        if at.0 >= self.member_used(slot).0 {
            return None;
        }
        let (unit, row) = self.unit.div_rem(at.0);
        let (stripe, cell, row) = match &self.placement {
            Placement::Linear(linear) => {
                let (run, row) = linear.find(slot, at.0)?;
                (run, 0, row)
            }
            Placement::Striped(zones) => (zones.find(slot, unit)?, 0, row),
            Placement::Same => (unit, slot.0, row),
            Placement::Mirrored(mirrors) => {
                let (chunk, copy) = mirrors.find(slot, unit)?;
                (chunk, copy, row)
            }
            Placement::Parity(rotation, _) => (unit, self.parity_cell(rotation.stripe(unit), slot)?, row),
        };
        Some(Place { stripe: Stripe(stripe), cell, row: row as u32 })
    }

    /// How much of the data area of `slot` the layout uses, from its start. RAID10 may leave less than a row
    /// of chunks unused inside, where the members do not divide evenly. Zero for slots that do not exist.
    pub fn member_used(&self, slot: Slot) -> Sectors {
        if slot.0 >= self.slots {
            return Sectors(0);
        }
        Sectors(match &self.placement {
            Placement::Linear(linear) => linear.used(slot),
            Placement::Striped(zones) => zones.used(slot) * self.unit.get(),
            Placement::Same => self.size,
            Placement::Mirrored(mirrors) => mirrors.used() * self.unit.get(),
            Placement::Parity(_, used) => *used,
        })
    }

    /// With the members in these slots missing and the others whole, is every sector of the LU still there?
    /// Slots that do not exist are not missed.
    pub fn tolerates(&self, missing: &SlotSet) -> bool {
        match &self.placement {
            Placement::Mirrored(mirrors) => mirrors.copy_left_everywhere(missing),
            _ => self.members_to_spare(missing).is_some(),
        }
    }

    /// With the members in these slots missing, how many more may fail, whichever they are, with every sector
    /// still there? Zero without redundancy, and if data is gone already.
    pub fn redundancy_left(&self, missing: &SlotSet) -> u16 {
        match &self.placement {
            Placement::Mirrored(mirrors) => mirrors.fewest_copies(missing).saturating_sub(1),
            _ => self.members_to_spare(missing).unwrap_or(0),
        }
    }

    /// Does `slot` hold parity only, in every stripe (RAID4; P or Q that does not move)? Missing such a
    /// member cannot hurt data, even when the LU is dirty.
    pub fn parity_only(&self, slot: Slot) -> bool {
        match &self.placement {
            Placement::Parity(rotation, _) => rotation.parity_only(slot),
            _ => false,
        }
    }

    /// Does md's `resync_offset` count sectors of the LU (RAID10)? Elsewhere it counts sectors of a member.
    pub fn synced_unit_is_lu(&self) -> bool {
        matches!(self.placement, Placement::Mirrored(_))
    }

    /// Index of the cell that `slot` has in a stripe with parity.
    fn parity_cell(&self, slots: Slots, slot: Slot) -> Option<u16> {
        Some(match slots.holds(slot)? {
            Holds::Data(data) => data,
            Holds::P => self.data_cells(),
            Holds::Q => self.data_cells() + 1,
        })
    }

    /// Where the number of missing members decides (all but RAID10): how many more may go; `None` if too many
    /// have.
    fn members_to_spare(&self, missing: &SlotSet) -> Option<u16> {
        let missing = missing.iter().take_while(|slot| slot.0 < self.slots).count() as u16;
        // One of these is 0, or both.
        (u16::from(self.parities) + self.copies - 1).checked_sub(missing)
    }
}

/// Making a [`Geometry`], level by level.
impl Geometry {
    fn linear(shape: &Shape<'_>, layout: Layout, chunk: Sectors) -> Result<Geometry> {
        let unit = Divisor::new(if chunk.0 == 0 { UNIT } else { chunk.0 });
        let lengths = member_lengths(shape, |length| length.round_down(chunk).0)?;
        let linear = Linear::new(unit, &lengths).ok_or_else(too_large)?;
        let (size, stripes) = (linear.size(), linear.runs());
        Ok(Geometry::plain(shape, layout, chunk, unit, size, stripes, Placement::Linear(linear)))
    }

    fn striped(shape: &Shape<'_>, layout: Layout, chunk: Sectors) -> Result<Geometry> {
        let unit = Divisor::new(chunk.0);
        let lengths = member_lengths(shape, |length| unit.div_rem(length.0).0)?;
        let start = match layout.md_number() {
            layout::ORIGINAL => ZoneStart::ChunkNumber,
            _ => ZoneStart::FirstMember,
        };
        let zones = Zones::new(&lengths, start).ok_or_else(too_large)?;
        if layout.md_number() == layout::UNSET && zones.start_matters() {
            return Err(Error::new(
                ErrorKind::Format,
                "raid0 over members of unequal size does not say which of md's two layouts it follows, and \
                 a wrong guess destroys data; the layout must be given as original or alternate",
            ));
        }
        let stripes = zones.size();
        let size = stripes.checked_mul(chunk.0).ok_or_else(too_large)?;
        Ok(Geometry::plain(shape, layout, chunk, unit, size, stripes, Placement::Striped(zones)))
    }

    fn same(shape: &Shape<'_>, layout: Layout) -> Result<Geometry> {
        let size = shape.component.0;
        if size == 0 {
            return Err(no_room("raid1 members have no room for data"));
        }
        let stripes = size.div_ceil(UNIT);
        let unit = Divisor::new(UNIT);
        let plain = Geometry::plain(shape, layout, Sectors(0), unit, size, stripes, Placement::Same);
        Ok(Geometry { copies: shape.slots, ..plain })
    }

    fn mirrored(shape: &Shape<'_>, layout: Layout, chunk: Sectors) -> Result<Geometry> {
        let Some(copies) = Copies::decode(layout.md_number()) else {
            return Err(Error::new(ErrorKind::Format, "raid10 layout without copies"));
        };
        let unit = Divisor::new(chunk.0);
        let mirrors = Mirrors::new(copies, shape.slots, unit.div_rem(shape.component.0).0)
            .map_err(|misfit| misfit_error(misfit, layout, shape.slots))?;
        // All that the members hold together must have an address, copies included.
        let all = mirrors.used().checked_mul(u64::from(shape.slots)).and_then(|all| all.checked_mul(chunk.0));
        all.ok_or_else(too_large)?;
        let stripes = mirrors.chunks();
        let size = stripes * chunk.0;
        let placement = Placement::Mirrored(mirrors);
        let plain = Geometry::plain(shape, layout, chunk, unit, size, stripes, placement);
        Ok(Geometry { copies: mirrors.copies(), ..plain })
    }

    fn parity(shape: &Shape<'_>, layout: Layout, chunk: Sectors) -> Result<Geometry> {
        let (level, slots) = (shape.level, shape.slots);
        let Some(rotation) = Rotation::new(level, layout.md_number(), slots) else {
            return Err(Error::new(
                ErrorKind::Format,
                format!("{level} has no layout {}", layout.md_number()),
            ));
        };
        let parities: u8 = if level == Level::Raid6 { 2 } else { 1 };
        let data = slots - u16::from(parities);
        let powers = if rotation.powers_are_slots() { slots } else { data };
        if level == Level::Raid6 && powers > POWERS {
            let most = if rotation.powers_are_slots() { POWERS } else { POWERS + 2 };
            return Err(usage(format!("raid6 with layout {layout} has at most {most} members, not {slots}")));
        }
        let used = shape.component.round_down(chunk).0;
        if used == 0 {
            return Err(no_room("members have no room for one chunk"));
        }
        let stripes = used / chunk.0;
        // All that the members hold together must have an address, parity included.
        used.checked_mul(u64::from(slots)).ok_or_else(too_large)?;
        let size = used * u64::from(data);
        let placement = Placement::Parity(rotation, used);
        let plain = Geometry::plain(shape, layout, chunk, Divisor::new(chunk.0), size, stripes, placement);
        Ok(Geometry { data: Divisor::new(u64::from(data)), parities, ..plain })
    }

    /// One data cell, nothing else.
    fn plain(
        shape: &Shape<'_>,
        layout: Layout,
        chunk: Sectors,
        unit: Divisor,
        size: u64,
        stripes: u64,
        placement: Placement,
    ) -> Geometry {
        let (slots, data) = (shape.slots, Divisor::new(1));
        Geometry { layout, chunk, slots, size, stripes, unit, data, parities: 0, copies: 1, placement }
    }
}

/// The places of one stripe's cells. Cheap to make and to copy; what it does not hold is worked out when
/// asked.
#[derive(Clone, Copy, Debug)]
pub struct StripeMap<'g> {
    geometry: &'g Geometry,
    number: Stripe,
    rows: u32,
    lba: Lba,
    cells: Cells<'g>,
}

#[derive(Clone, Copy, Debug)]
enum Cells<'g> {
    /// Linear, RAID0.
    Single { slot: Slot, at: MemberLba },
    /// RAID1.
    Same { at: MemberLba },
    /// RAID10.
    Mirrored(&'g Mirrors, First),
    /// RAID4, RAID5, RAID6.
    Parity { at: MemberLba, slots: Slots },
}

impl StripeMap<'_> {
    /// The stripe's number.
    pub fn number(&self) -> Stripe {
        self.number
    }

    /// Rows (sectors) of each of its cells: [`Geometry::unit`], less in the last run of a linear member or of
    /// a RAID1.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Number of cells; the same in every stripe.
    pub fn cells(&self) -> u16 {
        self.geometry.cells()
    }

    /// Parity cells among them, always the last ones.
    pub fn parities(&self) -> u8 {
        self.geometry.parities
    }

    /// Where row 0 stands in the count of md's `resync_offset`: a sector of the LU for RAID10, of the members elsewhere.
    pub fn sync_start(&self) -> u64 {
        if self.geometry.synced_unit_is_lu() { self.lba.0 } else { self.cell(0).at.0 }
    }

    /// The cell of that index.
    ///
    /// # Panics
    /// If `index` is not below [`StripeMap::cells`].
    #[inline]
    pub fn cell(&self, index: u16) -> Cell {
        self.nth(index)
    }

    #[inline(always)]
    fn nth(&self, index: u16) -> Cell {
        assert!(index < self.cells(), "cell {index} of {}", self.cells());
        let copy = if index == 0 { CellKind::Data(0) } else { CellKind::Copy };
        match self.cells {
            Cells::Single { slot, at } => Cell { kind: copy, slot, at },
            Cells::Same { at } => Cell { kind: copy, slot: Slot(index), at },
            Cells::Mirrored(mirrors, first) => {
                let (slot, chunk) = mirrors.copy(first, index);
                Cell { kind: copy, slot, at: MemberLba(chunk * self.geometry.unit.get()) }
            }
            Cells::Parity { at, slots } => {
                let data = self.geometry.data_cells();
                let (kind, slot) = if index < data {
                    (CellKind::Data(index), slots.data(index))
                } else if index == data {
                    (CellKind::P, slots.p())
                } else {
                    (CellKind::Q, slots.q())
                };
                Cell { kind, slot, at }
            }
        }
    }

    /// The LU's sector in row 0 of data cell `data`.
    ///
    /// # Panics
    /// If `data` is not below [`Geometry::data_cells`].
    #[inline]
    pub fn lba(&self, data: u16) -> Lba {
        assert!(data < self.geometry.data_cells(), "data cell {data} of {}", self.geometry.data_cells());
        self.lba + Sectors(u64::from(data) * self.geometry.unit.get())
    }

    /// The exponent j in Q = sum over the data of g^j * D, for data cell `data`; below 255. md counts the
    /// data slots upward from the one after Q, around the end, whatever the order of the data; DDF's layouts
    /// take the slot number. Only RAID6 has a Q: 0 elsewhere.
    ///
    /// # Panics
    /// If `data` is not below [`Geometry::data_cells`].
    #[inline]
    pub fn q_power(&self, data: u16) -> u8 {
        assert!(data < self.geometry.data_cells(), "data cell {data} of {}", self.geometry.data_cells());
        match self.cells {
            Cells::Parity { slots, .. } if self.geometry.parities == 2 => slots.q_power(data),
            _ => 0,
        }
    }

    /// Index of the cell on `slot`, if the stripe has one there; never more than one.
    pub fn cell_of(&self, slot: Slot) -> Option<u16> {
        match self.cells {
            Cells::Single { slot: only, .. } => (slot == only).then_some(0),
            Cells::Same { .. } => (slot.0 < self.geometry.slots).then_some(slot.0),
            Cells::Mirrored(mirrors, first) => {
                (0..mirrors.copies()).find(|&index| mirrors.copy(first, index).0 == slot)
            }
            Cells::Parity { slots, .. } => self.geometry.parity_cell(slots, slot),
        }
    }
}

/// Do LUs of this level have chunks? Linear has them only for rounding; RAID1 has none.
pub fn has_chunk(level: Level) -> bool {
    level != Level::Raid1
}

/// Does the level use all of every member, so that unequal members all count (and md's `size` is 0)?
pub fn uses_whole_members(level: Level) -> bool {
    matches!(level, Level::Linear | Level::Raid0)
}

/// Do unequal members make zones whose order the layout field tells (and a feature bit says that it does)?
pub fn has_zones(level: Level) -> bool {
    level == Level::Raid0
}

/// The component size (md's `size`) of a new LU whose smallest member has a data area of
/// `smallest_data_size`: rounded down to the chunk; for RAID1, which has none, to 64 KiB if there is that
/// much, as mdadm does.
pub fn usable_component(level: Level, chunk: Sectors, smallest_data_size: Sectors) -> Sectors {
    const RAID1_ROUNDING: Sectors = Sectors(128);
    match level {
        Level::Raid1 if smallest_data_size < RAID1_ROUNDING => smallest_data_size,
        Level::Raid1 => smallest_data_size.round_down(RAID1_ROUNDING),
        _ => smallest_data_size.round_down(chunk),
    }
}

/// The chunk of a shape if the level can have it.
fn checked_chunk(shape: &Shape<'_>) -> Result<Sectors> {
    let (level, chunk) = (shape.level, shape.chunk.0);
    let smallest = match level {
        Level::Raid1 => return Ok(Sectors(0)),
        Level::Linear => 0,
        Level::Raid0 => 1,
        Level::Raid4 | Level::Raid5 | Level::Raid6 | Level::Raid10 => SMALLEST_CHUNK,
    };
    if !(smallest..=LARGEST_CHUNK).contains(&chunk) {
        return Err(usage(format!(
            "{level} cannot have a chunk of {chunk} sectors: it is {smallest} to {LARGEST_CHUNK} sectors long"
        )));
    }
    if smallest == SMALLEST_CHUNK && !chunk.is_power_of_two() {
        return Err(usage(format!(
            "{level} cannot have a chunk of {chunk} sectors: it must be a power of two"
        )));
    }
    Ok(shape.chunk)
}

/// The limits of each level that do not hang on the layout.
fn check_slots(shape: &Shape<'_>) -> Result<()> {
    let (level, slots) = (shape.level, shape.slots);
    let fewest = match level {
        Level::Linear | Level::Raid0 | Level::Raid1 => 1,
        Level::Raid4 | Level::Raid5 | Level::Raid10 => 2,
        Level::Raid6 => 4,
    };
    if slots < fewest {
        return Err(usage(format!("{level} needs at least {fewest} members, not {slots}")));
    }
    if usize::from(slots) > MAX_SLOTS {
        return Err(usage(format!("an LU has at most {MAX_SLOTS} members, not {slots}")));
    }
    Ok(())
}

/// The usable length of every member of a RAID0 or linear LU, as `usable` counts it; none may be zero.
fn member_lengths(shape: &Shape<'_>, usable: impl Fn(Sectors) -> u64) -> Result<Box<[u64]>> {
    let Shape { level, slots, members, .. } = *shape;
    if members.len() != usize::from(slots) {
        return Err(usage(format!(
            "{level} with {slots} slots needs as many members, not {}",
            members.len()
        )));
    }
    let lengths: Vec<u64> = members.iter().map(|&length| usable(length)).collect();
    match lengths.iter().position(|&length| length == 0) {
        None => Ok(lengths.into_boxed_slice()),
        Some(slot) => Err(no_room(&format!("the member in slot {slot} has no room for one chunk"))),
    }
}

fn misfit_error(misfit: Misfit, layout: Layout, slots: u16) -> Error {
    let broken = |what| {
        let sentence = format!("raid10 layout {layout} on {slots} members {what}; choose n2, f2 or o2");
        Error::new(ErrorKind::Format, sentence)
    };
    match misfit {
        Misfit::TooFewSlots => {
            usage(format!("raid10 layout {layout} needs as many members as copies, and has {slots}"))
        }
        Misfit::SharedMember => broken("puts two copies of a chunk on one member"),
        Misfit::SharedPlace => broken("puts two chunks in one place"),
        Misfit::TooLarge => too_large(),
        Misfit::NoRoom => no_room("members have no room for one chunk"),
    }
}

fn usage(sentence: String) -> Error {
    Error::new(ErrorKind::Usage, sentence)
}

fn no_room(sentence: &str) -> Error {
    usage(format!("{sentence}; larger members or a smaller chunk are needed"))
}

fn too_large() -> Error {
    usage(String::from("the members together have more than 2^64 sectors"))
}
