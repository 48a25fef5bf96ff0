//! Does a superblock make sense by itself? Every rule that one superblock alone can break, and nothing else:
//! the kernel's own at loading a member, and ours for what is not supported here.
//!
//! Reshaping, rebuilding, dirty and faulty members pass: these are states, not faults.

use super::{Features, MAX_DEV, Minor, Refusal, Reshape, Role, SLOT_BYTES, Superblock};
use crate::format::Area;
use crate::units::{DiskLba, Level, Sectors};

/// Bits of a raid10 layout with a meaning: near, far, offset, and the two kinds of far sets.
const RAID10_BITS: u32 = (1 << 19) - 1;
/// md keeps a chunk below 2^31 bytes + 1.
const MAX_CHUNK: Sectors = Sectors(1 << 22);
/// A bad-block entry has 54 bits of address: shifted further, it may not fit 64.
const MAX_BBLOG_SHIFT: u8 = 10;
/// A PPL header and one block of partial parity.
const MIN_PPL: Sectors = Sectors(16);

impl Superblock {
    /// Checks the facts of a member that is a disk of `disk` sectors. What passes has a known level and
    /// layout, places that exist, and sums that do not overflow.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self, disk: Sectors) -> Result<(), Refusal> {
        self.check_features()?;
        self.check_lu()?;
        self.check_reshape()?;
        self.check_role()?;
        self.check_data(disk)?;
        self.check_neighbours(disk)
    }

    fn check_features(&self) -> Result<(), Refusal> {
        let features = self.features;
        let both = Features::PPL.with(Features::MULTIPLE_PPLS);
        let excluded = Features::BITMAP.with(Features::JOURNAL);
        let stray = Features::OF_RESHAPE.without(Features::RESHAPE);
        if features.unknown() != Features::NONE {
            Err(Refusal::UnknownFeatures { bits: features.unknown().0 })
        } else if features.contains(Features::CLUSTERED) {
            Err(Refusal::Clustered)
        } else if features.has_ppl() && features.intersects(excluded) {
            Err(Refusal::PplExcludes { other: Features(features.0 & excluded.0) })
        } else if features.contains(Features::JOURNAL) {
            Err(Refusal::Journal)
        } else if features.contains(both) {
            Err(Refusal::TwoPpls)
        } else if features.has_ppl() && self.level != Level::Raid5.md_number() {
            Err(Refusal::PplLevel { level: self.level })
        } else if features.contains(Features::RAID0_LAYOUT) && self.level != Level::Raid0.md_number() {
            Err(Refusal::Raid0LayoutBit { level: self.level })
        } else if features.intersects(stray) && !features.contains(Features::RESHAPE) {
            Err(Refusal::ReshapeBits { bits: Features(features.0 & stray.0) })
        } else {
            Ok(())
        }
    }

    fn check_lu(&self) -> Result<(), Refusal> {
        if !(1..=MAX_DEV as u32).contains(&self.raid_disks) {
            return Err(Refusal::RaidDisks { raid_disks: self.raid_disks });
        }
        let block = self.logical_block_size;
        if block != 0 && !(block.is_power_of_two() && (512..=4096).contains(&block)) {
            return Err(Refusal::LogicalBlockSize { bytes: block });
        }
        let layout_counts =
            self.level != Level::Raid0.md_number() || self.features.contains(Features::RAID0_LAYOUT);
        check_geometry(self.level, if layout_counts { self.layout } else { 0 }, self.chunk)
    }

    fn check_reshape(&self) -> Result<(), Refusal> {
        let Some(Reshape { delta_disks, new_level, new_layout, new_chunk, .. }) = self.reshape else {
            return Ok(());
        };
        if !self.old_raid_disks().is_some_and(|old| (1..=MAX_DEV as u32).contains(&old)) {
            return Err(Refusal::DeltaDisks { delta_disks, raid_disks: self.raid_disks });
        }
        check_geometry(new_level, new_layout, new_chunk)
    }

    fn check_role(&self) -> Result<(), Refusal> {
        let dev_number = self.dev_number;
        let max_dev = u32::try_from(self.roles.len()).unwrap_or(u32::MAX);
        if self.roles.len() > MAX_DEV {
            return Err(Refusal::MaxDev { max_dev });
        }
        if let Some(index) = self.roles.iter().position(|&raw| raw == Role::Journal.raw()) {
            return Err(Refusal::JournalRole { dev_number: index as u32 });
        }
        let raw = *self.roles.get(dev_number as usize).ok_or(Refusal::DevNumber { dev_number, max_dev })?;
        let slots = self.raid_disks.max(self.old_raid_disks().unwrap_or(0));
        match Role::from_raw(raw) {
            None => Err(Refusal::UnknownRole { dev_number, raw }),
            Some(Role::Active(slot)) if u32::from(slot.0) >= slots => {
                Err(Refusal::Role { dev_number, slot: slot.0, slots })
            }
            Some(_) => Ok(()),
        }
    }

    /// The data area lies on the disk, clear of the superblock, before and after a reshape.
    fn check_data(&self, disk: Sectors) -> Result<(), Refusal> {
        let (data_offset, data_size) = (self.data_offset, self.data_size);
        if data_size < Sectors(10) {
            return Err(Refusal::DataSize { data_size });
        }
        self.check_data_at(data_offset, disk)?;
        let new_offset = self.reshape.map_or(0, |reshape| reshape.new_offset);
        if new_offset != 0 {
            let refusal = Refusal::NewOffset { new_offset, data_offset };
            let moved =
                data_offset.0.checked_add_signed(i64::from(new_offset)).map(DiskLba).ok_or(refusal)?;
            // Sectors at the end are given up before data moves up, so the end need not hold; but some must
            // remain.
            let rest = moved < self.data().end();
            self.check_data_start(moved).ok().filter(|()| rest).ok_or(refusal)?;
        }
        let sized = !matches!(self.level(), Some(Level::Raid0 | Level::Linear));
        if sized && self.size > data_size && matches!(self.my_role(), Role::Active(_)) {
            return Err(Refusal::ComponentSize { size: self.size, data_size });
        }
        Ok(())
    }

    fn check_data_at(&self, data_offset: DiskLba, disk: Sectors) -> Result<(), Refusal> {
        self.check_data_start(data_offset)?;
        let data_size = self.data_size;
        let end = data_offset.checked_add(data_size).ok_or(Refusal::DataEnd { data_offset, data_size })?;
        if end.0 > disk.0 {
            return Err(Refusal::DiskTooShort { end, disk });
        }
        if self.minor == Minor::V1_0 && end > self.super_offset {
            return Err(Refusal::DataOverSuperblock { end, super_offset: self.super_offset });
        }
        Ok(())
    }

    fn check_data_start(&self, data_offset: DiskLba) -> Result<(), Refusal> {
        let end = self.superblock_area().end();
        if self.minor != Minor::V1_0 && data_offset < end {
            return Err(Refusal::DataOffset { data_offset, end });
        }
        Ok(())
    }

    /// Bitmap, partial parity log and bad-block list, where in use, exist and lie clear of the rest.
    fn check_neighbours(&self, disk: Sectors) -> Result<(), Refusal> {
        if self.features.contains(Features::BITMAP) {
            let first = self.bitmap_at().map(|at| Area::new(at, Sectors(1)));
            if !first.is_some_and(|area| self.is_free(area, disk)) {
                return Err(Refusal::BitmapOffset { offset: self.bitmap_offset });
            }
        }
        if self.features.has_ppl() {
            let room = |area: Area| area.length >= MIN_PPL && self.is_free(area, disk);
            if !self.ppl_area().is_some_and(room) {
                return Err(Refusal::PplPlace { offset: self.ppl.offset, size: self.ppl.size });
            }
        }
        if self.features.contains(Features::BAD_BLOCKS) {
            self.check_bblog(disk)?;
        }
        Ok(())
    }

    fn check_bblog(&self, disk: Sectors) -> Result<(), Refusal> {
        let bblog = self.bblog;
        if !(1..=8).contains(&bblog.size) {
            return Err(Refusal::BblogSize { size: bblog.size });
        }
        if bblog.shift > MAX_BBLOG_SHIFT {
            return Err(Refusal::BblogShift { shift: bblog.shift });
        }
        if !self.bblog_area().is_some_and(|area| self.is_free(area, disk)) {
            return Err(Refusal::BblogOffset { offset: bblog.offset });
        }
        Ok(())
    }

    /// Does `area` lie on the disk, and neither in the data nor in the superblock?
    fn is_free(&self, area: Area, disk: Sectors) -> bool {
        area.end().0 <= disk.0 && !area.overlaps(self.data()) && !area.overlaps(self.superblock_area())
    }

    /// The sectors the superblock has bytes in.
    fn superblock_area(&self) -> Area {
        let bytes = self.bytes_used().min(SLOT_BYTES) as u64;
        Area::new(self.super_offset, Sectors(bytes.div_ceil(512)))
    }
}

/// Level known, layout one of the level's, chunk one the level can have.
fn check_geometry(number: i32, layout: u32, chunk: Sectors) -> Result<(), Refusal> {
    let level = Level::from_md_number(number).ok_or(Refusal::Level { level: number })?;
    let known = match level {
        // md's raid4 ignores its layout; made from a raid0 it says "parity last".
        Level::Linear | Level::Raid1 | Level::Raid4 => true,
        Level::Raid0 => layout <= 2,
        Level::Raid5 => layout <= 5,
        Level::Raid6 => matches!(layout, 0..=5 | 8..=10 | 16..=20),
        Level::Raid10 => {
            let (near, far, sets) = (layout & 0xff, layout >> 8 & 0xff, layout >> 17);
            layout & !RAID10_BITS == 0 && near > 0 && far > 0 && sets <= 2
        }
    };
    if !known {
        return Err(Refusal::Layout { level: number, layout });
    }
    let rule = match level {
        _ if chunk > MAX_CHUNK => "at most 4194304 sectors",
        Level::Linear | Level::Raid1 => return Ok(()),
        Level::Raid0 if chunk == Sectors(0) => "not zero",
        Level::Raid0 => return Ok(()),
        _ if !chunk.0.is_power_of_two() => "a power of two",
        _ if chunk < Sectors(8) => "at least 8 sectors",
        _ => return Ok(()),
    };
    Err(Refusal::Chunk { level: number, chunk, rule })
}
