//! Units: the words every floor above is written in.
//!
//! A *sector* is 512 bytes everywhere. Three kinds of address exist and mixing them up loses data, so each is a
//! type of its own: [`Lba`] on the LU, [`MemberLba`] in a member's data area, [`DiskLba`] from the start of a disk.
//! A length is [`Sectors`]. An address minus an address is a length; an address plus a length is an address; nothing
//! else compiles.

use core::fmt;
use core::ops::{Add, AddAssign, Sub};

/// Bytes in a sector.
pub const SECTOR: u64 = 512;

/// A length in sectors of 512 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sectors(pub u64);

impl Sectors {
    /// The largest length; stands for "all" and, in md's fields, "complete".
    pub const MAX: Sectors = Sectors(u64::MAX);

    /// The length in bytes. Saturates above 2^64 - 1 bytes.
    pub const fn bytes(self) -> u64 {
        self.0.saturating_mul(SECTOR)
    }

    /// Whole sectors in `bytes`, rounded down.
    pub const fn from_bytes_floor(bytes: u64) -> Sectors {
        Sectors(bytes / SECTOR)
    }

    /// Rounded down to a multiple of `unit` (itself if `unit` is zero).
    pub const fn round_down(self, unit: Sectors) -> Sectors {
        if unit.0 == 0 { self } else { Sectors(self.0 - self.0 % unit.0) }
    }

    /// Rounded up to a multiple of `unit` (itself if `unit` is zero); saturates.
    pub const fn round_up(self, unit: Sectors) -> Sectors {
        if unit.0 == 0 || self.0.is_multiple_of(unit.0) {
            self
        } else {
            Sectors((self.0 - self.0 % unit.0).saturating_add(unit.0))
        }
    }
}

impl Add for Sectors {
    type Output = Sectors;
    fn add(self, other: Sectors) -> Sectors {
        Sectors(self.0 + other.0)
    }
}

impl AddAssign for Sectors {
    fn add_assign(&mut self, other: Sectors) {
        self.0 += other.0;
    }
}

impl Sub for Sectors {
    type Output = Sectors;
    fn sub(self, other: Sectors) -> Sectors {
        Sectors(self.0 - other.0)
    }
}

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl $name {
            /// The address in bytes. Saturates above 2^64 - 1 bytes.
            pub const fn bytes(self) -> u64 {
                self.0.saturating_mul(SECTOR)
            }

            /// `self + length`, or `None` if it does not fit 64 bits.
            pub const fn checked_add(self, length: Sectors) -> Option<$name> {
                match self.0.checked_add(length.0) {
                    Some(n) => Some($name(n)),
                    None => None,
                }
            }
        }

        impl Add<Sectors> for $name {
            type Output = $name;
            fn add(self, length: Sectors) -> $name {
                $name(self.0 + length.0)
            }
        }

        impl Sub for $name {
            type Output = Sectors;
            fn sub(self, other: $name) -> Sectors {
                Sectors(self.0 - other.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "sector {}", self.0)
            }
        }
    };
}

address!(
    /// A sector of the LU, as its user counts them.
    Lba
);
address!(
    /// A sector of a member's data area; sector 0 lies at the member's `data_offset`.
    MemberLba
);
address!(
    /// A sector from the very start of a disk.
    DiskLba
);

impl fmt::Debug for Sectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sectors({})", self.0)
    }
}

impl fmt::Display for Sectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sectors", self.0)
    }
}

/// A stripe: chunks at the same place on all members; for mirrors, a run of the LU and all its copies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Stripe(pub u64);

/// A position in the layout, counted from 0. Which disk fills it is the superblocks' business.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Slot(pub u16);

impl Slot {
    /// As an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {}", self.0)
    }
}

/// Most members an LU can have: the `dev_roles` table of a v1 superblock ends there.
pub const MAX_SLOTS: usize = 1920;

/// A set of slots.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SlotSet([u64; MAX_SLOTS / 64]);

impl SlotSet {
    /// The set without members.
    pub const EMPTY: SlotSet = SlotSet([0; MAX_SLOTS / 64]);

    /// Adds `slot`. Slots from [`MAX_SLOTS`] up cannot be members and are ignored.
    pub fn insert(&mut self, slot: Slot) {
        if let Some(word) = self.0.get_mut(slot.index() / 64) {
            *word |= 1 << (slot.index() % 64);
        }
    }

    /// Takes `slot` out.
    pub fn remove(&mut self, slot: Slot) {
        if let Some(word) = self.0.get_mut(slot.index() / 64) {
            *word &= !(1 << (slot.index() % 64));
        }
    }

    /// Is `slot` a member?
    pub fn contains(&self, slot: Slot) -> bool {
        self.0.get(slot.index() / 64).is_some_and(|word| word >> (slot.index() % 64) & 1 == 1)
    }

    /// How many members.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// No members?
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// `self` with `slot`.
    pub fn with(mut self, slot: Slot) -> SlotSet {
        self.insert(slot);
        self
    }

    /// The members in order.
    pub fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        self.0.iter().enumerate().flat_map(|(i, &word)| {
            let mut rest = word;
            core::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros() as usize)?;
                rest &= rest - 1;
                Some(Slot((i * 64 + bit) as u16))
            })
        })
    }
}

impl Default for SlotSet {
    fn default() -> SlotSet {
        SlotSet::EMPTY
    }
}

impl FromIterator<Slot> for SlotSet {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> SlotSet {
        slots.into_iter().fold(SlotSet::EMPTY, SlotSet::with)
    }
}

impl fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|slot| slot.0)).finish()
    }
}

/// RAID level, with md's number as the discriminant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(i32)]
pub enum Level {
    /// Members one after the other.
    Linear = -1,
    /// Striping.
    Raid0 = 0,
    /// Mirroring, any number of copies.
    Raid1 = 1,
    /// Striping with parity on the last slot.
    Raid4 = 4,
    /// Striping with rotating parity.
    Raid5 = 5,
    /// Striping with rotating P and Q.
    Raid6 = 6,
    /// Striped copies.
    Raid10 = 10,
}

impl Level {
    /// All levels.
    pub const ALL: [Level; 7] =
        [Level::Linear, Level::Raid0, Level::Raid1, Level::Raid4, Level::Raid5, Level::Raid6, Level::Raid10];

    /// md's number for the level.
    pub const fn md_number(self) -> i32 {
        self as i32
    }

    /// The level with md's number `number`, if it is one of ours (md-specific pseudo levels are not).
    pub fn from_md_number(number: i32) -> Option<Level> {
        Level::ALL.into_iter().find(|level| level.md_number() == number)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.md_number() < 0 {
            f.pad("linear")
        } else {
            f.pad(NAMES[self.md_number() as usize % NAMES.len()])
        }
    }
}

const NAMES: [&str; 11] = ["raid0", "raid1", "", "", "raid4", "raid5", "raid6", "", "", "", "raid10"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_set_holds_what_was_put_in() {
        let set: SlotSet = [Slot(0), Slot(63), Slot(64), Slot(1919)].into_iter().collect();
        assert_eq!(set.len(), 4);
        assert_eq!(set.iter().map(|s| s.0).collect::<alloc::vec::Vec<_>>(), [0, 63, 64, 1919]);
        assert!(set.contains(Slot(64)) && !set.contains(Slot(65)) && !set.contains(Slot(4000)));
    }

    #[test]
    fn level_numbers_are_md_s() {
        for level in Level::ALL {
            assert_eq!(Level::from_md_number(level.md_number()), Some(level));
        }
        assert_eq!(Level::from_md_number(-4), None);
        assert_eq!(alloc::format!("{} {}", Level::Linear, Level::Raid10), "linear raid10");
    }

    #[test]
    fn rounding() {
        assert_eq!(Sectors(17).round_up(Sectors(8)), Sectors(24));
        assert_eq!(Sectors(17).round_down(Sectors(8)), Sectors(16));
        assert_eq!(Sectors(17).round_down(Sectors(0)), Sectors(17));
    }
}
