//! Where a new LU's structures go on its members. Frozen: members in the field lie like this.
//!
//! Between superblock and data of a v1.2 member from 16 MiB on:
//!
//! ```text
//! 0     8            16            2064      P                                B       B+128     data_offset
//! | --- | superblock | policy area | FF|free | A, heartbeat, private dirty    | B and | reshape | data ...
//! |     |            | PPL, bitmap |   |     | map, row log, checksum table   | BBL   | room    |
//! ```
//!
//! md's bad-block list (BBL) closes the private area, because mdadm takes only what is above the list as
//! free. The room above the list is never ours: kernel and mdadm move `data_offset` down into it when they
//! reshape. The area is reserved from the first release on, also before anything uses it. Smaller members,
//! and v1.0 and v1.1, are laid out as mdadm does it, with no private area.
//!
//! [`Placement::for_disk`] is a pure function of size, policy and version. For raid1 and above it is asked
//! once, with the smallest disk, and the result holds for all members; a disk added later gets the places of
//! those there are, copied. For raid0 and linear it is asked for each disk.

use alloc::vec::Vec;
use core::fmt;

use super::Area;
use super::superblock::{BadBlockLog, Minor, Ppl};
use crate::units::{DiskLba, Sectors};

/// How an LU keeps redundancy consistent over a crash: what the policy area is used for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Policy {
    /// Nothing: after a crash everything is resynced.
    #[default]
    None,
    /// A write-intent bitmap.
    Bitmap,
    /// A partial parity log.
    Ppl,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Policy::None => "none",
            Policy::Bitmap => "bitmap",
            Policy::Ppl => "ppl",
        })
    }
}

/// Where everything but the data goes on the members of a new LU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placement {
    /// Metadata version.
    pub minor: Minor,
    /// What the policy area is for.
    pub policy: Policy,
    /// First sector of data.
    pub data_offset: DiskLba,
    /// First sector of the policy area, in sectors from the superblock; the place of bitmap or PPL.
    pub policy_offset: i32,
    /// Length of the policy area.
    pub policy_size: Sectors,
    /// Where the bad-block list begins, in sectors from the superblock.
    pub bblog_offset: i32,
    /// Sectors of the bad-block list.
    pub bblog_size: u16,
    /// Our own area; none on small members and with v1.0 and v1.1.
    pub private: Option<PrivateArea>,
}

/// The private area, in sectors from the start of the member. All values are multiples of 8.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PrivateArea {
    /// P: anchor A, and with it the area, begins.
    pub start: DiskLba,
    /// L: the row log.
    pub row_log: DiskLba,
    /// R: its length.
    pub row_log_length: Sectors,
    /// C: the checksum table.
    pub checksums: DiskLba,
    /// T: its length, 4 KiB for each 1008 blocks of 4 KiB of the disk.
    pub checksums_length: Sectors,
    /// B: anchor B.
    pub anchor_b: DiskLba,
}

/// What is written over an area when the LU is created.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fill {
    /// 0x00
    Zero,
    /// 0xff
    Ones,
}

/// Smallest member with a private area: 16 MiB.
pub const LEAST_WITH_PRIVATE_AREA: Sectors = Sectors(32768);
/// Most sectors a bitmap may take: up to the end of what mdadm gives one.
pub const MAX_BITMAP: Sectors = Sectors(256);

/// Sectors of the slot of a superblock, of an anchor, of a bad-block list: 4 KiB.
const SLOT: Sectors = Sectors(8);
/// Length mdadm gives a PPL.
const PPL: Sectors = Sectors(2048);
const GIB: u64 = 1 << 21;

impl Placement {
    /// The places on members of `disk` sectors each (levels from raid1 on: the smallest of them). `None` if
    /// there would be no room for data, of which md demands 10 sectors, and for v1.2 from about 1 PiB on,
    /// where md's field for the place of the bad-block list ends.
    pub fn for_disk(disk: Sectors, policy: Policy, minor: Minor) -> Option<Placement> {
        let placement = match minor {
            Minor::V1_2 if disk >= LEAST_WITH_PRIVATE_AREA => with_private_area(disk, policy)?,
            Minor::V1_2 if policy == Policy::Ppl => after_superblock(minor, policy, PPL, 4096),
            Minor::V1_2 => after_superblock(minor, policy, SLOT, 2048),
            Minor::V1_1 => version_1_1(disk, policy),
            Minor::V1_0 => version_1_0(disk, policy),
        };
        placement.data_size(disk).is_some().then_some(placement)
    }

    /// Sectors for data on a member of `own` sectors; `None` if there are fewer than the 10 md demands.
    pub fn data_size(&self, own: Sectors) -> Option<Sectors> {
        let end = match self.minor {
            // Behind the data come the policy area, the list and the superblock.
            Minor::V1_0 => {
                let at = Minor::V1_0.offset(own)?;
                at.0.checked_sub(u64::from(self.bblog_size) + self.policy_size.0)?
            }
            Minor::V1_1 | Minor::V1_2 => own.0,
        };
        end.checked_sub(self.data_offset.0).map(Sectors).filter(|&size| size >= Sectors(10))
    }

    /// The policy area of a member of `own` sectors; `None` if it does not exist there.
    pub fn policy_area(&self, own: Sectors) -> Option<Area> {
        let start = self.minor.offset(own)?.0.checked_add_signed(i64::from(self.policy_offset))?;
        Some(Area::new(DiskLba(start), self.policy_size))
    }

    /// The bad-block list of a member of `own` sectors; `None` if it does not exist there.
    pub fn bblog_area(&self, own: Sectors) -> Option<Area> {
        let start = self.minor.offset(own)?.0.checked_add_signed(i64::from(self.bblog_offset))?;
        Some(Area::new(DiskLba(start), Sectors(u64::from(self.bblog_size))))
    }

    /// The field `bitmap_offset` of the superblock; 0 without a bitmap.
    pub fn bitmap_offset(&self) -> i32 {
        if self.policy == Policy::Bitmap { self.policy_offset } else { 0 }
    }

    /// The field `ppl` of the superblock; zero without a PPL.
    pub fn ppl(&self) -> Ppl {
        match self.policy {
            Policy::Ppl => Ppl { offset: self.policy_offset as i16, size: PPL.0 as u16 },
            Policy::None | Policy::Bitmap => Ppl::default(),
        }
    }

    /// The fields of the superblock that place the bad-block list.
    pub fn bblog(&self) -> BadBlockLog {
        BadBlockLog { shift: 0, size: self.bblog_size, offset: self.bblog_offset }
    }

    /// Sectors a bitmap may take in the policy area, header included.
    pub fn bitmap_space(&self) -> Sectors {
        self.policy_size.min(MAX_BITMAP)
    }

    /// What is written over a member of `own` sectors when it becomes part of a new LU, in order of place;
    /// areas do not overlap. Superblock, bitmap, header of the PPL and anchors are then written on top of it,
    /// the superblock last. What is not listed keeps what it holds. Empty if the member is too small.
    pub fn at_creation(&self, own: Sectors) -> Vec<(Area, Fill)> {
        let (Some(slot), Some(policy), Some(bblog)) =
            (self.minor.offset(own), self.policy_area(own), self.bblog_area(own))
        else {
            return Vec::new();
        };
        let slot = Area::new(slot, SLOT);
        match self.private {
            Some(private) => fill_with_private_area(slot, policy, &private, bblog),
            None => {
                let mut areas = alloc::vec![(slot, Fill::Zero), (policy, Fill::Zero), (bblog, Fill::Ones)];
                areas.retain(|(area, _)| area.length > Sectors(0));
                areas.sort_by_key(|(area, _)| area.start);
                areas
            }
        }
    }
}

impl PrivateArea {
    /// P: anchor A.
    pub const fn anchor_a(&self) -> Area {
        Area::new(self.start, SLOT)
    }

    /// The heartbeat block.
    pub const fn heartbeat(&self) -> Area {
        Area::new(DiskLba(self.start.0 + 8), SLOT)
    }

    /// The private dirty map.
    pub const fn dirty_map(&self) -> Area {
        Area::new(DiskLba(self.start.0 + 16), Sectors(self.row_log.0 - self.start.0 - 16))
    }

    /// The row log.
    pub const fn row_log(&self) -> Area {
        Area::new(self.row_log, self.row_log_length)
    }

    /// The checksum table.
    pub const fn checksum_table(&self) -> Area {
        Area::new(self.checksums, self.checksums_length)
    }

    /// Anchor B.
    pub const fn anchor_b(&self) -> Area {
        Area::new(self.anchor_b, SLOT)
    }

    /// Where md's bad-block list must be for the area to be protected by it.
    pub const fn bblog(&self) -> Area {
        Area::new(DiskLba(self.anchor_b.0 + 120), SLOT)
    }

    /// The first sector behind the area and its list; `data_offset` must not be below.
    pub const fn end(&self) -> DiskLba {
        DiskLba(self.anchor_b.0 + 128)
    }

    /// The places on members of `disk` sectors.
    fn for_disk(disk: Sectors) -> PrivateArea {
        let big = disk.0 >= GIB;
        let start = if big { 4096 } else { 2304 };
        let row_log = start + if big { 2048 } else { 256 };
        let row_log_length = (disk.0 / 32 / 128 * 128).clamp(512, 65536);
        let checksums = row_log + row_log_length;
        let checksums_length = 8 * disk.0.div_ceil(8064);
        let anchor_b = (checksums + checksums_length).next_multiple_of(128);
        PrivateArea {
            start: DiskLba(start),
            row_log: DiskLba(row_log),
            row_log_length: Sectors(row_log_length),
            checksums: DiskLba(checksums),
            checksums_length: Sectors(checksums_length),
            anchor_b: DiskLba(anchor_b),
        }
    }
}

/// `None` from about 1 PiB on: the field for the place of the list ends there.
fn with_private_area(disk: Sectors, policy: Policy) -> Option<Placement> {
    let private = PrivateArea::for_disk(disk);
    let reshape_room = (disk.0 / 256 / 8 * 8).min(32768);
    let data_offset = (private.end().0 + reshape_room).next_multiple_of(2048);
    // 120 behind anchor B; counted from the superblock, which is at 8.
    let bblog_offset = i32::try_from(private.anchor_b.0 + 112).ok()?;
    Some(Placement {
        minor: Minor::V1_2,
        policy,
        data_offset: DiskLba(data_offset),
        policy_offset: 8,
        policy_size: PPL,
        bblog_offset,
        bblog_size: SLOT.0 as u16,
        private: Some(private),
    })
}

/// mdadm's order after a superblock at the start: policy area, list, gap, data.
fn after_superblock(minor: Minor, policy: Policy, policy_size: Sectors, data_offset: u64) -> Placement {
    Placement {
        minor,
        policy,
        data_offset: DiskLba(data_offset),
        policy_offset: 8,
        policy_size,
        bblog_offset: 8 + policy_size.0 as i32,
        bblog_size: SLOT.0 as u16,
        private: None,
    }
}

/// As mdadm does it: headroom of a thousandth of the disk, but no more than 128 MiB. (mdadm also keeps it
/// above four chunks; with chunks below 512 KiB the rounding to 1 MiB hides that.)
fn version_1_1(disk: Sectors, policy: Policy) -> Placement {
    let space = mdadm_space(disk, policy);
    let mut headroom = 262_144u64;
    while headroom * 1024 > disk.0 && headroom > 0 {
        headroom /= 2;
    }
    after_superblock(Minor::V1_1, policy, space, (24 + space.0 + headroom).next_multiple_of(2048))
}

/// As mdadm does it, backwards from the superblock near the end: list, policy area, data.
fn version_1_0(disk: Sectors, policy: Policy) -> Placement {
    let space = mdadm_space(disk, policy);
    Placement {
        minor: Minor::V1_0,
        policy,
        data_offset: DiskLba(0),
        policy_offset: -8 - space.0 as i32,
        policy_size: space,
        bblog_offset: -8,
        bblog_size: SLOT.0 as u16,
        private: None,
    }
}

/// The room mdadm keeps for a bitmap, used or not, or for a PPL.
fn mdadm_space(disk: Sectors, policy: Policy) -> Sectors {
    match disk.0 {
        _ if policy == Policy::Ppl => PPL,
        // mdadm keeps none at all on a disk this small; a bitmap that is asked for still needs its page.
        0..128 if policy == Policy::None => Sectors(0),
        disk if disk.saturating_sub(128) >= 200 * GIB => Sectors(256),
        disk if disk.saturating_sub(8) > 8 * GIB => Sectors(128),
        _ => Sectors(8),
    }
}

fn fill_with_private_area(slot: Area, policy: Area, private: &PrivateArea, bblog: Area) -> Vec<(Area, Fill)> {
    let to = |start: DiskLba, end: DiskLba| Area::new(start, end - start);
    // Where mdadm puts the list when it moves it: read as a list then, it has to be an empty one.
    let moved_list = Area::new(policy.end(), SLOT);
    alloc::vec![
        (slot, Fill::Zero),
        (policy, Fill::Zero),
        (moved_list, Fill::Ones),
        // Free sectors, anchor A, heartbeat, dirty map, first block of the row log.
        (to(moved_list.end(), private.row_log + SLOT), Fill::Zero),
        // Behind the checksum table, which an anchor calls empty: free sectors, anchor B, free sectors.
        (to(private.checksum_table().end(), bblog.start), Fill::Zero),
        (bblog, Fill::Ones),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(disk: u64) -> Placement {
        Placement::for_disk(Sectors(disk), Policy::Bitmap, Minor::V1_2).unwrap()
    }

    /// The table of the format's frozen numbers: disk, P, L, C, T, B, list, data_offset.
    #[rustfmt::skip]
    const FROZEN: [[u64; 8]; 8] = [
        [        32_768, 2304, 2560,  3584,         40,      3_712,      3_832,      4_096],
        [       131_072, 2304, 2560,  6656,        136,      6_912,      7_032,      8_192],
        [     2_097_152, 4096, 6144, 71680,      2_088,     73_856,     73_976,     83_968],
        [     2_516_582, 4096, 6144, 71680,      2_504,     74_240,     74_360,     86_016],
        [    20_971_520, 4096, 6144, 71680,     20_808,     92_544,     92_664,    126_976],
        [ 1_953_125_000, 4096, 6144, 71680,  1_937_632,  2_009_344,  2_009_464,  2_043_904],
        [29_296_875_000, 4096, 6144, 71680, 29_064_368, 29_136_128, 29_136_248, 29_169_664],
        [39_062_500_000, 4096, 6144, 71680, 38_752_488, 38_824_192, 38_824_312, 38_858_752],
    ];

    #[test]
    fn the_frozen_numbers() {
        for row in FROZEN {
            for policy in [Policy::None, Policy::Bitmap, Policy::Ppl] {
                let disk = Sectors(row[0]);
                let placement = Placement::for_disk(disk, policy, Minor::V1_2).unwrap();
                let p = placement.private.unwrap();
                let list = placement.bblog_area(disk).unwrap();
                let got = [
                    disk.0,
                    p.start.0,
                    p.row_log.0,
                    p.checksums.0,
                    p.checksums_length.0,
                    p.anchor_b.0,
                    list.start.0,
                    placement.data_offset.0,
                ];
                assert_eq!(got, row);
                assert_eq!(list, p.bblog());
                assert_eq!(placement.data_size(disk), Some(Sectors(disk.0 - row[7])));
            }
        }
    }

    #[test]
    fn areas_follow_each_other_without_overlap() {
        let sizes = (0..64).map(|i| 32_768u64 << (i % 24)).chain((0..3000).map(|i| 32_768 + 8191 * i));
        for disk in sizes {
            let placement = place(disk);
            let p = placement.private.unwrap();
            let policy = placement.policy_area(Sectors(disk)).unwrap();
            assert_eq!((policy.start.0, policy.end().0), (16, 2064));
            let order = [
                policy,
                p.anchor_a(),
                p.heartbeat(),
                p.dirty_map(),
                p.row_log(),
                p.checksum_table(),
                p.anchor_b(),
                p.bblog(),
            ];
            for pair in order.windows(2) {
                assert!(pair[0].end() <= pair[1].start && pair[0].length > Sectors(0), "{disk} {pair:?}");
                assert!(pair[1].start.0 % 8 == 0 && pair[1].length.0 % 8 == 0, "{disk} {pair:?}");
            }
            let room = placement.data_offset - p.end();
            assert!(room.0 >= (disk / 256 / 8 * 8).min(32768), "{disk}");
            assert_eq!(placement.data_offset.0 % 2048, 0);
        }
    }

    #[test]
    fn at_creation_follows_the_table() {
        let disk = Sectors(2_097_152);
        let placement = place(disk.0);
        let got: Vec<_> =
            placement.at_creation(disk).into_iter().map(|(a, fill)| (a.start.0, a.end().0, fill)).collect();
        let (zero, ones) = (Fill::Zero, Fill::Ones);
        assert_eq!(
            got,
            [
                (8, 16, zero),
                (16, 2064, zero),
                (2064, 2072, ones),
                (2072, 6144 + 8, zero),
                (71680 + 2088, 73_856 + 120, zero),
                (73_976, 73_984, ones),
            ]
        );
    }

    #[test]
    fn small_members_are_mdadm_s() {
        let small = |policy| Placement::for_disk(Sectors(5000), policy, Minor::V1_2).unwrap();
        let (plain, ppl) = (small(Policy::None), small(Policy::Ppl));
        assert_eq!((plain.data_offset, plain.bblog_offset, plain.private), (DiskLba(2048), 16, None));
        assert_eq!((ppl.data_offset, ppl.bblog_offset), (DiskLba(4096), 2056));
        assert_eq!(ppl.ppl(), Ppl { offset: 8, size: 2048 });
        assert_eq!(small(Policy::Bitmap).bitmap_offset(), 8);
        let fills = ppl.at_creation(Sectors(5000));
        assert_eq!(fills.last(), Some(&(Area::new(DiskLba(2064), Sectors(8)), Fill::Ones)));
        assert_eq!(Placement::for_disk(Sectors(2057), Policy::None, Minor::V1_2), None);
        assert!(Placement::for_disk(Sectors(2058), Policy::None, Minor::V1_2).is_some());
    }

    /// As in images made by mdadm 4.2, and by its rules for larger disks.
    #[test]
    fn versions_1_0_and_1_1_are_mdadm_s() {
        let old = Placement::for_disk(Sectors(2176), Policy::Bitmap, Minor::V1_0).unwrap();
        assert_eq!((old.data_offset, old.bblog_offset, old.bitmap_offset()), (DiskLba(0), -8, -16));
        assert_eq!(old.data_size(Sectors(2176)), Some(Sectors(2144)));
        assert_eq!(
            old.at_creation(Sectors(2176)),
            [
                (Area::new(DiskLba(2144), Sectors(8)), Fill::Zero),
                (Area::new(DiskLba(2152), Sectors(8)), Fill::Ones),
                (Area::new(DiskLba(2160), Sectors(8)), Fill::Zero),
            ]
        );
        let ppl = Placement::for_disk(Sectors(1 << 20), Policy::Ppl, Minor::V1_0).unwrap();
        assert_eq!(ppl.ppl(), Ppl { offset: -2056, size: 2048 });

        let front = Placement::for_disk(Sectors(3584), Policy::None, Minor::V1_1).unwrap();
        assert_eq!((front.data_offset, front.bblog_offset), (DiskLba(2048), 16));
        let large = Placement::for_disk(Sectors(1 << 32), Policy::Bitmap, Minor::V1_1).unwrap();
        assert_eq!((large.data_offset, large.bblog_offset), (DiskLba(264_192), 264));
    }

    #[test]
    fn no_size_panics() {
        for policy in [Policy::None, Policy::Bitmap, Policy::Ppl] {
            for minor in Minor::ALL {
                for disk in
                    (0..200).chain((0..64).flat_map(|i| [(1u64 << i) - 1, 1 << i])).chain([u64::MAX / 512])
                {
                    let disk = Sectors(disk);
                    if let Some(placement) = Placement::for_disk(disk, policy, minor) {
                        let data = Area::new(placement.data_offset, placement.data_size(disk).unwrap());
                        let fills = placement.at_creation(disk);
                        assert!(fills.iter().all(|(area, _)| !area.overlaps(data) && area.end().0 <= disk.0));
                    }
                }
            }
        }
    }
}
