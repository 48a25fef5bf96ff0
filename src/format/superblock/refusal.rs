//! Why a superblock is refused. One variant a reason, each with the value found; the text names field and
//! value and says what it means.

use super::{Features, MAX_DEV, Minor};
use crate::error::{Error, ErrorKind};
use crate::format::signature::ForeignRaid;
use crate::units::{DiskLba, Sectors};

/// Why a superblock, and with it the member, is refused. Which member it is, the caller knows and adds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    // Nothing of ours is there.
    /// Not enough bytes were handed in.
    #[error("only {bytes} bytes, a superblock's slot has 4096")]
    Short {
        /// Bytes handed in.
        bytes: usize,
    },
    /// The disk cannot hold a superblock at the place.
    #[error("{disk} are too few to have a v{minor} superblock")]
    NoPlace {
        /// Place asked for.
        minor: Minor,
        /// Size of the disk.
        disk: Sectors,
    },
    /// No superblock.
    #[error("magic {found:#010x}: no md superblock here")]
    Magic {
        /// The first four bytes.
        found: u32,
    },
    /// RAID metadata of another kind.
    #[error("{0} metadata: RAID, but not md's v1 format, and not understood here")]
    Foreign(ForeignRaid),

    // It is not what it should be.
    /// Not format 1. A 0.90 superblock has 0 here.
    #[error("major_version {found}: only superblocks of major version 1 are understood")]
    MajorVersion {
        /// Version stored.
        found: u32,
    },
    /// The superblock says it belongs elsewhere: a copy, or the disk changed its size.
    #[error("super_offset {super_offset}: found at {place}, so it is a misplaced copy")]
    Misplaced {
        /// Where it says it is, in sectors.
        super_offset: u64,
        /// Where it was read.
        place: DiskLba,
    },
    /// The table of roles would run out of the slot.
    #[error("max_dev {max_dev}: at most {MAX_DEV} roles fit a superblock")]
    MaxDev {
        /// Entries claimed.
        max_dev: u32,
    },
    /// Damaged.
    #[error("sb_csum {stored:#010x}: the superblock is damaged, its sum is {computed:#010x}")]
    Checksum {
        /// Checksum stored.
        stored: u32,
        /// Checksum the bytes have.
        computed: u32,
    },
    /// Padding in use: something newer wrote this.
    #[error("pad0 has {value:#04x} at byte {byte}: must be zero, the format may be newer than this program")]
    Pad0 {
        /// Offset in the superblock.
        byte: usize,
        /// What is there.
        value: u8,
    },
    /// Padding in use: something newer wrote this.
    #[error("pad3 has {value:#04x} at byte {byte}: must be zero, the format may be newer than this program")]
    Pad3 {
        /// Offset in the superblock.
        byte: usize,
        /// What is there.
        value: u8,
    },

    // Features.
    /// Bits nobody here knows.
    #[error("feature_map has unknown bits {bits:#x}: the format is newer than this program")]
    UnknownFeatures {
        /// The unknown bits.
        bits: u32,
    },
    /// Shared between hosts.
    #[error("feature_map has the clustered bit: several hosts may be writing, not supported")]
    Clustered,
    /// Write journal.
    #[error("feature_map has the journal bit: data may exist only in the journal, not supported")]
    Journal,
    /// A member is a write journal.
    #[error("dev_roles[{dev_number}] is a journal: data may exist only there, not supported")]
    JournalRole {
        /// Index of the entry.
        dev_number: u32,
    },
    /// Features that exclude each other.
    #[error("feature_map has a partial parity log and also {other}: they exclude each other")]
    PplExcludes {
        /// What excludes it.
        other: Features,
    },
    /// Both kinds of partial parity log.
    #[error("feature_map has both ppl and multiple-ppls: they exclude each other")]
    TwoPpls,
    /// Only raid5 has a partial parity log.
    #[error("feature_map has a partial parity log on level {level}: only level 5 has one")]
    PplLevel {
        /// md's number for the level.
        level: i32,
    },
    /// The bit speaks of raid0 only.
    #[error("feature_map has raid0-layout on level {level}")]
    Raid0LayoutBit {
        /// md's number for the level.
        level: i32,
    },
    /// Direction or offset of a reshape that is not there.
    #[error("feature_map has {bits} without reshape")]
    ReshapeBits {
        /// The bits without a meaning.
        bits: Features,
    },

    // The LU.
    /// Not a level of ours.
    #[error("level {level}: unknown; there are linear (-1), 0, 1, 4, 5, 6 and 10")]
    Level {
        /// md's number for the level.
        level: i32,
    },
    /// The level has no such layout.
    #[error("layout {layout:#x}: level {level} has no such layout")]
    Layout {
        /// md's number for the level.
        level: i32,
        /// Layout stored.
        layout: u32,
    },
    /// The level cannot have that chunk.
    #[error("chunksize {chunk}: level {level} cannot have it ({rule})")]
    Chunk {
        /// md's number for the level.
        level: i32,
        /// Chunk stored.
        chunk: Sectors,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// No LU has that many slots, or none.
    #[error("raid_disks {raid_disks}: an LU has 1 to {MAX_DEV} slots")]
    RaidDisks {
        /// Slots stored.
        raid_disks: u32,
    },
    /// The number of slots before the reshape is none.
    #[error("delta_disks {delta_disks}: with raid_disks {raid_disks} the old number of slots makes no sense")]
    DeltaDisks {
        /// Difference stored.
        delta_disks: i32,
        /// New number of slots.
        raid_disks: u32,
    },
    /// A logical block size nobody has.
    #[error("logical_block_size {bytes}: neither 0 nor a power of two from 512 to 4096")]
    LogicalBlockSize {
        /// Bytes stored.
        bytes: u32,
    },

    // The member.
    /// The member is not in its own table.
    #[error("dev_number {dev_number}: the table of roles has {max_dev} entries")]
    DevNumber {
        /// Index stored.
        dev_number: u32,
        /// Entries of the table.
        max_dev: u32,
    },
    /// A slot the LU does not have.
    #[error("dev_roles[{dev_number}], this member, is slot {slot}: the LU has {slots}")]
    Role {
        /// Index of this member.
        dev_number: u32,
        /// Slot claimed.
        slot: u16,
        /// Slots there are, in a reshape the larger of old and new.
        slots: u32,
    },
    /// A value that is neither a slot nor one of the special ones.
    #[error("dev_roles[{dev_number}], this member, is {raw:#06x}: that means nothing")]
    UnknownRole {
        /// Index of this member.
        dev_number: u32,
        /// Value stored.
        raw: u16,
    },
    /// Room for no data at all.
    #[error("data_size {data_size}: md demands at least 10 sectors")]
    DataSize {
        /// Size stored.
        data_size: Sectors,
    },
    /// Data on top of the superblock.
    #[error("data_offset {data_offset}: data would begin before the superblock ends at {end}")]
    DataOffset {
        /// First sector of data.
        data_offset: DiskLba,
        /// First sector behind the superblock.
        end: DiskLba,
    },
    /// The reshape moves data on top of the superblock or out of the disk.
    #[error("new_offset {new_offset}: with data_offset {data_offset} data would leave its place on the disk")]
    NewOffset {
        /// Move stored, in sectors.
        new_offset: i32,
        /// First sector of data now.
        data_offset: DiskLba,
    },
    /// The sum does not fit 64 bits.
    #[error("data_offset {data_offset} and data_size {data_size}: the sum overflows")]
    DataEnd {
        /// First sector of data.
        data_offset: DiskLba,
        /// Size stored.
        data_size: Sectors,
    },
    /// The disk is shorter than what it says it holds.
    #[error("data_offset + data_size {end}: the disk ends at {disk}, it is shorter than when it was made")]
    DiskTooShort {
        /// First sector behind the data.
        end: DiskLba,
        /// Size of the disk.
        disk: Sectors,
    },
    /// Version 1.0: data on top of the superblock, which is behind it.
    #[error("data_offset + data_size {end}: data would run over the superblock at {super_offset}")]
    DataOverSuperblock {
        /// First sector behind the data.
        end: DiskLba,
        /// Where the superblock is.
        super_offset: DiskLba,
    },
    /// The LU uses more of each member than this one has.
    #[error("size {size}: this member, an active one, has room for {data_size}")]
    ComponentSize {
        /// Sectors in use on each member.
        size: Sectors,
        /// Sectors this one has.
        data_size: Sectors,
    },
    /// The bitmap would be outside the disk, or on top of data or superblock.
    #[error("bitmap_offset {offset}: there is no room for a bitmap there")]
    BitmapOffset {
        /// Sectors from the superblock.
        offset: i32,
    },
    /// The partial parity log would be outside the disk, too small, or on top of data or superblock.
    #[error("ppl.offset {offset}, ppl.size {size}: there is no room for a partial parity log there")]
    PplPlace {
        /// Sectors from the superblock.
        offset: i16,
        /// Length in sectors.
        size: u16,
    },
    /// A list in use, longer than lists can be.
    #[error("bblog_size {size}: a bad-block list has 1 to 8 sectors")]
    BblogSize {
        /// Sectors reserved.
        size: u16,
    },
    /// A list in use, but nowhere, outside the disk, or on top of data or superblock.
    #[error("bblog_offset {offset}: the bad-block list in use cannot be there")]
    BblogOffset {
        /// Sectors from the superblock.
        offset: i32,
    },
    /// A list in use whose unit lets addresses overflow.
    #[error("bblog_shift {shift}: with units this large the bad-block list's addresses overflow")]
    BblogShift {
        /// Shift stored.
        shift: u8,
    },
}

impl Refusal {
    /// Is there simply nothing of md's here, rather than something wrong? (A foreign RAID format is not
    /// nothing.)
    pub const fn absent(&self) -> bool {
        matches!(self, Refusal::Magic { .. } | Refusal::NoPlace { .. } | Refusal::Short { .. })
    }
}

impl From<Refusal> for Error {
    /// Nothing there is "not found"; everything else "not understood".
    fn from(refusal: Refusal) -> Error {
        let kind = if refusal.absent() { ErrorKind::NotFound } else { ErrorKind::Format };
        Error::new(kind, alloc::format!("{refusal}"))
    }
}
