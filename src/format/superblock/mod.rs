//! The superblock, v1.0 to v1.2: what a member says of itself and of its LU.
//!
//! [`Superblock`] holds the facts of one slot of 4 KiB as plain fields. [`Superblock::parse`] refuses, with a
//! typed [`Refusal`], everything the kernel would refuse to load and everything that is not understood here
//! (clustered, with a journal, unknown feature bits). [`Superblock::write_into`] puts the facts over a slot
//! and leaves every other byte of it as it was, so what is not ours survives. [`locate`] finds the superblock
//! of a disk.
//!
//! Dirty, stale, degraded, rebuilding, reshaping: all are facts here, none is a refusal. Nothing here
//! compares two superblocks.

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write as _};
use core::str::FromStr;

use super::Area;
use crate::error::{Error, ErrorKind};
use crate::units::{DiskLba, Level, MAX_SLOTS, MemberLba, Sectors, Slot};

mod check;
mod locate;
mod raw;
mod refusal;

pub use locate::{Found, NotFound, locate};
pub use refusal::Refusal;

/// Bytes of the slot a superblock lives in. Only the first [`Superblock::bytes_used`] of them belong to it.
pub const SLOT_BYTES: usize = 4096;

/// Most entries `dev_roles` can have: what the kernel accepts, so that the table ends inside the slot.
pub const MAX_DEV: usize = MAX_SLOTS;

/// All facts of one superblock.
///
/// The `features` bits say which of the conditional fields count; a conditional field whose bit is clear
/// reads as zero and is not written, except `recovery_offset`, which is kept as it is. The three bits of a
/// reshape follow `reshape`; see [`Superblock::stored_features`]. What was parsed is written as it was read,
/// byte for byte.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// Which of the three places it was found in; not stored in it.
    pub minor: Minor,
    /// What is in use, and which of the fields below count.
    pub features: Features,

    /// Names the LU; equal on all its members.
    pub set_uuid: Uuid,
    /// The LU's name, commonly `host:name`.
    pub name: Name,
    /// When the LU was created.
    pub ctime: Time,
    /// md's number for the level; see [`Superblock::level`].
    pub level: i32,
    /// md's layout number; its meaning hangs on the level.
    pub layout: u32,
    /// Sectors in use on each member ("component size"); 0 for raid0 and linear.
    pub size: Sectors,
    /// Chunk; 0 for raid1. At most 2^22 sectors.
    pub chunk: Sectors,
    /// Slots of the LU; in a reshape the new number.
    pub raid_disks: u32,
    /// Where the bitmap starts, in sectors from the superblock. Counts with [`Features::BITMAP`].
    pub bitmap_offset: i32,
    /// Where the partial parity log is. Counts with [`Features::PPL`] or [`Features::MULTIPLE_PPLS`].
    pub ppl: Ppl,
    /// The reshape under way.
    pub reshape: Option<Reshape>,

    /// First sector of data.
    pub data_offset: DiskLba,
    /// Sectors there are for data from `data_offset` on.
    pub data_size: Sectors,
    /// Where this superblock is.
    pub super_offset: DiskLba,
    /// Device sectors that hold good data. Counts with [`Features::RECOVERY_OFFSET`]; see
    /// [`Superblock::watermark`].
    pub recovery_offset: Sectors,
    /// The member's index in `roles`. Not its slot.
    pub dev_number: u32,
    /// Reads that failed and were corrected; statistics.
    pub corrected_reads: u32,
    /// Names this member.
    pub device_uuid: Uuid,
    /// [`WRITE_MOSTLY`], [`FAILFAST`], and bits nobody has given a meaning yet.
    pub devflags: u8,
    /// Where the bad-block list is.
    pub bblog: BadBlockLog,

    /// When this superblock was last written.
    pub utime: Time,
    /// Raised at every update; the member with the most is the freshest.
    pub events: u64,
    /// Sectors from the start that are in sync; [`Sectors::MAX`] is clean, 0 is dirty or never synced. Device
    /// sectors on raid1/4/5/6, LU sectors on raid10.
    pub resync_offset: Sectors,
    /// The LU's logical block size in bytes, 0 if unset (kernels before 6.19 demand 0).
    pub logical_block_size: u32,
    /// `dev_roles`: what each member is, by `dev_number`. At most [`MAX_DEV`].
    pub roles: Vec<u16>,
}

/// Bit of `devflags`: read from this member only if there is no other.
pub const WRITE_MOSTLY: u8 = 1;
/// Bit of `devflags`: fail requests to this member early.
pub const FAILFAST: u8 = 2;

/// Place of the partial parity log. Meaningful with a PPL feature bit.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Ppl {
    /// Sectors from the start of the superblock.
    pub offset: i16,
    /// Length in sectors.
    pub size: u16,
}

/// Place and unit of the bad-block list.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct BadBlockLog {
    /// The list counts in units of `512 << shift` bytes.
    pub shift: u8,
    /// Sectors reserved, at most 8.
    pub size: u16,
    /// Sectors from the start of the superblock; 0 is "this member has no list".
    pub offset: i32,
}

/// A change of geometry under way. The superblock's `raid_disks` is the new number already; its level, layout
/// and chunk are the old ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reshape {
    /// How far it is, in sectors of the LU: below is new and above is old, or the other way round if
    /// `backwards`.
    pub position: Lba,
    /// New number of slots minus the old one.
    pub delta_disks: i32,
    /// md's number for the level afterwards.
    pub new_level: i32,
    /// Layout afterwards.
    pub new_layout: u32,
    /// Chunk afterwards.
    pub new_chunk: Sectors,
    /// Sectors added to `data_offset` for data in the new geometry; 0 is "data stays".
    pub new_offset: i32,
    /// It goes from the end to the start.
    pub backwards: bool,
}

pub use crate::units::Lba;

impl Superblock {
    /// Reads the superblock in `slot` ([`SLOT_BYTES`] long), taken from the place of `minor` on a disk of
    /// `disk` sectors.
    ///
    /// # Errors
    /// Whatever keeps the member from being used; nothing was there at all if [`Refusal::absent`].
    pub fn parse(slot: &[u8], minor: Minor, disk: Sectors) -> Result<Superblock, Refusal> {
        let superblock = Superblock::decode(slot, minor, disk)?;
        raw::check_padding(slot)?;
        superblock.check(disk)?;
        Ok(superblock)
    }

    /// Reads the facts as they stand, provided magic, version, place, length and checksum are right: enough
    /// to show a superblock that [`parse`](Superblock::parse) refuses. Nothing else about the fields may be
    /// relied on.
    ///
    /// # Errors
    /// The one of these five that is wrong.
    pub fn decode(slot: &[u8], minor: Minor, disk: Sectors) -> Result<Superblock, Refusal> {
        raw::decode(slot, minor, disk)
    }

    /// Writes the facts over `slot` ([`SLOT_BYTES`] long), leaves all other bytes as they are, makes the
    /// checksum right. Of the slot only the first [`bytes_used`](Superblock::bytes_used) bytes can change.
    ///
    /// A value too large for its field is cut to the largest that fits; [`check`](Superblock::check) refuses
    /// those.
    ///
    /// # Panics
    /// If `slot` is shorter than [`SLOT_BYTES`].
    pub fn write_into(&self, slot: &mut [u8]) {
        raw::encode(self, slot);
    }

    /// The checksum the superblock in `slot` should have. The length summed follows from its `max_dev`.
    ///
    /// # Errors
    /// [`Refusal::Short`], or [`Refusal::MaxDev`] if the table would not end inside the slot.
    pub fn checksum(slot: &[u8]) -> Result<u32, Refusal> {
        raw::checksum(slot)
    }

    /// The LU that the bytes of `slot` name, if there is md's magic in front of them. Nothing else is looked
    /// at: a superblock that [`parse`](Superblock::parse) refuses may still say whose it was.
    pub fn claimed_set(slot: &[u8]) -> Option<Uuid> {
        raw::claimed_set(slot)
    }

    /// Bytes of the slot that belong to the superblock: 256 and 2 for each entry of `roles`. md writes this,
    /// rounded up to the disk's logical block size.
    pub fn bytes_used(&self) -> usize {
        raw::HEADER_BYTES + 2 * self.roles.len().min(MAX_DEV)
    }

    /// The level, if it is one of ours.
    pub fn level(&self) -> Option<Level> {
        Level::from_md_number(self.level)
    }

    /// The LU's name, with what cannot be printed escaped.
    pub fn name(&self) -> Cow<'_, str> {
        self.name.text()
    }

    /// What this member is, by its own table. Like the kernel's reading: no entry means spare, and a value
    /// without a meaning is treated as faulty, that is, never used as data.
    pub fn my_role(&self) -> Role {
        self.role_of(self.dev_number)
    }

    /// What the member with index `dev_number` is, by this member's table; see
    /// [`my_role`](Superblock::my_role).
    pub fn role_of(&self, dev_number: u32) -> Role {
        match self.roles.get(dev_number as usize) {
            Some(&raw) => Role::from_raw(raw).unwrap_or(Role::Faulty),
            None => Role::Spare,
        }
    }

    /// Is the LU clean, as this member knows it?
    pub fn is_clean(&self) -> bool {
        self.resync_offset == Sectors::MAX
    }

    /// The member holds good data only below this; `None` if all of it is good.
    pub fn watermark(&self) -> Option<MemberLba> {
        let behind =
            self.features.contains(Features::RECOVERY_OFFSET) && self.recovery_offset != Sectors::MAX;
        behind.then_some(MemberLba(self.recovery_offset.0))
    }

    /// Slots before the reshape under way; without one, `raid_disks`. `None` if that is no number of slots.
    pub fn old_raid_disks(&self) -> Option<u32> {
        let delta = self.reshape.map_or(0, |reshape| reshape.delta_disks);
        u32::try_from(i64::from(self.raid_disks) - i64::from(delta)).ok()
    }

    /// The data area; saturates where the sum does not fit.
    pub fn data(&self) -> Area {
        Area::new(self.data_offset, self.data_size)
    }

    /// First sector of the bitmap, if there is one and its place exists.
    pub fn bitmap_at(&self) -> Option<DiskLba> {
        self.features.contains(Features::BITMAP).then(|| self.beside(self.bitmap_offset)).flatten()
    }

    /// The partial parity log, if there is one and its place exists.
    pub fn ppl_area(&self) -> Option<Area> {
        let start = self.beside(i32::from(self.ppl.offset))?;
        self.features.has_ppl().then_some(Area::new(start, Sectors(u64::from(self.ppl.size))))
    }

    /// Where the bad-block list is, or would go. `None` if the member has no room for one, and if its room
    /// lies in the data area: whatever is there, it is not ours to read or write as a list.
    pub fn bblog_area(&self) -> Option<Area> {
        let BadBlockLog { size, offset, .. } = self.bblog;
        if offset == 0 || size == 0 {
            return None;
        }
        let area = Area::new(self.beside(offset)?, Sectors(u64::from(size)));
        (!area.overlaps(self.data())).then_some(area)
    }

    /// `features` as it goes to disk: the bits of a reshape follow `reshape`. A bit that says nothing,
    /// because number of slots or offset say it already, stays as it is.
    pub fn stored_features(&self) -> Features {
        let features = self.features.without(Features::OF_RESHAPE);
        let Some(Reshape { delta_disks, backwards, new_offset, .. }) = self.reshape else { return features };
        let had = |bit| self.features.contains(bit);
        let bits = [
            (Features::RESHAPE, true),
            (
                Features::RESHAPE_BACKWARDS,
                if delta_disks == 0 { backwards } else { had(Features::RESHAPE_BACKWARDS) },
            ),
            (Features::NEW_OFFSET, new_offset != 0 || had(Features::NEW_OFFSET)),
        ];
        bits.into_iter().filter(|&(_, set)| set).fold(features, |features, (bit, _)| features.with(bit))
    }

    /// The sector `offset` sectors from the superblock, if the disk can have it.
    fn beside(&self, offset: i32) -> Option<DiskLba> {
        self.super_offset.0.checked_add_signed(i64::from(offset)).map(DiskLba)
    }
}

/// Which of the three places of a v1 superblock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Minor {
    /// 8 to 12 KiB before the end of the disk; data before it.
    V1_0,
    /// At the start; data after it.
    V1_1,
    /// 4 KiB from the start; data after it.
    V1_2,
}

impl Minor {
    /// All three, in the order in which they are looked for.
    pub const ALL: [Minor; 3] = [Minor::V1_0, Minor::V1_1, Minor::V1_2];

    /// Where the superblock is on a disk of `disk` sectors; `None` if the disk is too small to have one
    /// there.
    pub const fn offset(self, disk: Sectors) -> Option<DiskLba> {
        let (place, least) = match self {
            // Below 24 sectors it would fall on the place of 1.1.
            Minor::V1_0 => (disk.0.saturating_sub(16) & !7, 24),
            Minor::V1_1 => (0, 8),
            Minor::V1_2 => (8, 16),
        };
        if disk.0 < least { None } else { Some(DiskLba(place)) }
    }
}

impl fmt::Display for Minor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Minor::V1_0 => "1.0",
            Minor::V1_1 => "1.1",
            Minor::V1_2 => "1.2",
        })
    }
}

impl FromStr for Minor {
    type Err = Error;
    fn from_str(text: &str) -> Result<Minor, Error> {
        match text {
            "1.0" => Ok(Minor::V1_0),
            "1.1" => Ok(Minor::V1_1),
            "1.2" | "1" => Ok(Minor::V1_2),
            _ => {
                let hint = alloc::format!("metadata '{}': there are 1.0, 1.1 and 1.2", text.escape_default());
                Err(Error::new(ErrorKind::Usage, hint))
            }
        }
    }
}

/// What a superblock says a member is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// Fills this slot.
    Active(Slot),
    /// The write journal.
    Journal,
    /// Failed.
    Faulty,
    /// Spare; also every entry of the table that is not in use.
    Spare,
}

impl Role {
    /// The lowest value that is no slot.
    pub const FIRST_SPECIAL: u16 = 0xff00;

    /// Of an entry of `dev_roles`; `None` for the values between slots and special ones, which mean nothing.
    pub const fn from_raw(raw: u16) -> Option<Role> {
        match raw {
            0..Role::FIRST_SPECIAL => Some(Role::Active(Slot(raw))),
            0xfffd => Some(Role::Journal),
            0xfffe => Some(Role::Faulty),
            0xffff => Some(Role::Spare),
            _ => None,
        }
    }

    /// The entry of `dev_roles`.
    pub const fn raw(self) -> u16 {
        match self {
            Role::Active(slot) => slot.0,
            Role::Journal => 0xfffd,
            Role::Faulty => 0xfffe,
            Role::Spare => 0xffff,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Active(slot) => slot.fmt(f),
            Role::Journal => f.pad("journal"),
            Role::Faulty => f.pad("faulty"),
            Role::Spare => f.pad("spare"),
        }
    }
}

/// `feature_map`: a set of bits. There are no compatible ones; a bit that is not known bars the member.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Features(pub u32);

impl Features {
    /// No bit.
    pub const NONE: Features = Features(0);
    /// There is a write-intent bitmap.
    pub const BITMAP: Features = Features(1 << 0);
    /// The member is being rebuilt and is good below `recovery_offset`.
    pub const RECOVERY_OFFSET: Features = Features(1 << 1);
    /// A reshape is under way.
    pub const RESHAPE: Features = Features(1 << 2);
    /// The bad-block list is not empty.
    pub const BAD_BLOCKS: Features = Features(1 << 3);
    /// The member is to replace another one of the same slot.
    pub const REPLACEMENT: Features = Features(1 << 4);
    /// The reshape goes backwards though the number of slots stays.
    pub const RESHAPE_BACKWARDS: Features = Features(1 << 5);
    /// The reshape moves the data.
    pub const NEW_OFFSET: Features = Features(1 << 6);
    /// The rebuild copies only what the bitmap names.
    pub const RECOVERY_BITMAP: Features = Features(1 << 7);
    /// Shared by several hosts.
    pub const CLUSTERED: Features = Features(1 << 8);
    /// There is a write journal; data may exist only there.
    pub const JOURNAL: Features = Features(1 << 9);
    /// There is a partial parity log.
    pub const PPL: Features = Features(1 << 10);
    /// The same, with several logs in one area.
    pub const MULTIPLE_PPLS: Features = Features(1 << 11);
    /// `layout` of a raid0 is meant.
    pub const RAID0_LAYOUT: Features = Features(1 << 12);

    /// All bits with a meaning.
    pub const KNOWN: Features = Features((1 << 13) - 1);
    /// The bits a reshape sets.
    pub const OF_RESHAPE: Features =
        Features(Features::RESHAPE.0 | Features::RESHAPE_BACKWARDS.0 | Features::NEW_OFFSET.0);

    /// Are all bits of `other` set?
    pub const fn contains(self, other: Features) -> bool {
        self.0 & other.0 == other.0
    }

    /// Is any bit of `other` set?
    pub const fn intersects(self, other: Features) -> bool {
        self.0 & other.0 != 0
    }

    /// May an LU of `level` have these? A partial parity log is RAID5's.
    pub fn suits(self, level: Level) -> bool {
        !self.has_ppl() || level == Level::Raid5
    }

    /// A partial parity log, of either kind?
    pub const fn has_ppl(self) -> bool {
        self.intersects(Features(Features::PPL.0 | Features::MULTIPLE_PPLS.0))
    }

    /// With the bits of `other`.
    pub const fn with(self, other: Features) -> Features {
        Features(self.0 | other.0)
    }

    /// Without the bits of `other`.
    pub const fn without(self, other: Features) -> Features {
        Features(self.0 & !other.0)
    }

    /// The bits that mean nothing to us.
    pub const fn unknown(self) -> Features {
        self.without(Features::KNOWN)
    }
}

const FEATURE_NAMES: [&str; 13] = [
    "bitmap",
    "recovery-offset",
    "reshape",
    "bad-blocks",
    "replacement",
    "reshape-backwards",
    "new-offset",
    "recovery-bitmap",
    "clustered",
    "journal",
    "ppl",
    "multiple-ppls",
    "raid0-layout",
];

impl fmt::Display for Features {
    /// The names of the set bits, separated by spaces; `none` if there are none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("none");
        }
        let mut gap = "";
        for bit in (0..32).filter(|bit| self.0 >> bit & 1 == 1) {
            match FEATURE_NAMES.get(bit) {
                Some(name) => write!(f, "{gap}{name}")?,
                None => write!(f, "{gap}bit-{bit}")?,
            }
            gap = " ";
        }
        Ok(())
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Features({:#x}: {self})", self.0)
    }
}

/// The 16 bytes that name an LU or a member. Text is md's: four groups of eight hexadecimal digits, in stored
/// order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uuid(pub [u8; 16]);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            let colon = if i % 4 == 0 && i > 0 { ":" } else { "" };
            write!(f, "{colon}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Uuid({self})")
    }
}

impl FromStr for Uuid {
    type Err = Error;

    /// 32 hexadecimal digits with any punctuation or spaces among them.
    fn from_str(text: &str) -> Result<Uuid, Error> {
        let wrong = || {
            let shown = text.escape_default();
            Error::new(
                ErrorKind::Usage,
                alloc::format!("'{shown}' is no UUID: 32 hexadecimal digits make one"),
            )
        };
        let mut bytes = [0; 16];
        let mut count = 0;
        for c in text.chars().filter(|c| !c.is_ascii_punctuation() && *c != ' ') {
            let digit = c.to_digit(16).ok_or_else(wrong)? as u8;
            let byte: &mut u8 = bytes.get_mut(count / 2).ok_or_else(wrong)?;
            *byte = *byte << 4 | digit;
            count += 1;
        }
        if count == 32 { Ok(Uuid(bytes)) } else { Err(wrong()) }
    }
}

/// The name of an LU: up to 32 bytes, commonly UTF-8, filled up with NUL.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Name(pub [u8; 32]);

impl Name {
    /// `text` as a stored name; `None` if it is longer than 32 bytes or has a NUL in it. (mdadm stays at 31.)
    pub fn new(text: &str) -> Option<Name> {
        let mut bytes = [0; 32];
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        (!text.contains('\0')).then_some(Name(bytes))
    }

    /// The bytes in use.
    pub fn bytes(&self) -> &[u8] {
        let end = self.0.iter().position(|&byte| byte == 0).unwrap_or(self.0.len());
        &self.0[..end]
    }

    /// The name for people: control characters, backslashes and what is not UTF-8 come out as `\x..` escapes.
    pub fn text(&self) -> Cow<'_, str> {
        match core::str::from_utf8(self.bytes()) {
            Ok(text) if !text.contains(|c: char| c.is_control() || c == '\\') => Cow::Borrowed(text),
            _ => Cow::Owned(escaped(self.bytes())),
        }
    }
}

/// `bytes` as text in which only printable characters stand for themselves.
pub(super) fn escaped(bytes: &[u8]) -> String {
    let mut out = String::new();
    for part in bytes.utf8_chunks() {
        for c in part.valid().chars() {
            if c == '\\' {
                out.push_str("\\\\");
            } else if c.is_control() {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(out, "\\x{byte:02x}"); // into a String: cannot fail
                }
            } else {
                out.push(c);
            }
        }
        for byte in part.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({self})")
    }
}

/// A time as the superblock stores it: 40 bits of seconds since 1970, 24 bits of microseconds.
///
/// The kernel always stores zero microseconds in `utime`; other values are a mark that somebody else wrote.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Time {
    /// Seconds since 1970, below 2^40.
    pub seconds: u64,
    /// Microseconds, below 2^24 (not promised to be below a million).
    pub micros: u32,
}

impl Time {
    /// From the stored 64 bits.
    pub const fn from_raw(raw: u64) -> Time {
        Time { seconds: raw & ((1 << 40) - 1), micros: (raw >> 40) as u32 }
    }

    /// The stored 64 bits. What does not fit its bits is cut off at the top.
    pub const fn raw(self) -> u64 {
        (self.micros as u64) << 40 | self.seconds & ((1 << 40) - 1)
    }
}

#[cfg(test)]
mod tests;
