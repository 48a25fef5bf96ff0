//! Superblocks made by hand, taken apart again: each rule, and the properties that hold for all bytes.

use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::error::Result as IoResult;

const DISK: Sectors = Sectors(4096);

/// A raid5 member as mdadm makes it, of three slots on disks of 2 MiB.
fn sample() -> Superblock {
    let mut roles = vec![0xffff; 128];
    roles[..4].copy_from_slice(&[0, 1, 0xffff, 2]);
    Superblock {
        minor: Minor::V1_2,
        features: Features::NONE,
        set_uuid: Uuid(*b"0123456789abcdef"),
        name: Name::new("host:name").unwrap(),
        ctime: Time { seconds: 1_795_395_665, micros: 0 },
        level: 5,
        layout: 2,
        size: Sectors(1920),
        chunk: Sectors(128),
        raid_disks: 3,
        bitmap_offset: 0,
        ppl: Ppl::default(),
        reshape: None,
        data_offset: DiskLba(2048),
        data_size: Sectors(2048),
        super_offset: DiskLba(8),
        recovery_offset: Sectors(0),
        dev_number: 1,
        corrected_reads: 0,
        device_uuid: Uuid(*b"fedcba9876543210"),
        devflags: 0,
        bblog: BadBlockLog { shift: 0, size: 8, offset: 16 },
        utime: Time { seconds: 1_795_395_666, micros: 7 },
        events: 18,
        resync_offset: Sectors::MAX,
        logical_block_size: 0,
        roles,
    }
}

/// `superblock` in a fresh slot.
fn slot_of(superblock: &Superblock) -> Vec<u8> {
    let mut slot = vec![0; SLOT_BYTES];
    superblock.write_into(&mut slot);
    slot
}

fn refusal(change: impl FnOnce(&mut Superblock)) -> Refusal {
    let mut superblock = sample();
    change(&mut superblock);
    let minor = superblock.minor;
    let refusal = Superblock::parse(&slot_of(&superblock), minor, DISK).expect_err("refused");
    assert!(!refusal.to_string().is_empty() && !refusal.absent());
    refusal
}

#[test]
fn the_sample_is_read_back() {
    let superblock = sample();
    assert_eq!(Superblock::parse(&slot_of(&superblock), Minor::V1_2, DISK), Ok(superblock.clone()));
    assert_eq!((superblock.my_role(), superblock.role_of(3)), (Role::Active(Slot(1)), Role::Active(Slot(2))));
    assert_eq!((superblock.bytes_used(), superblock.level()), (512, Some(Level::Raid5)));
    assert_eq!(superblock.bblog_area(), Some(Area::new(DiskLba(24), Sectors(8))));
    assert!(superblock.is_clean() && superblock.watermark().is_none());
}

#[test]
fn what_is_not_a_superblock_is_absent() {
    let absent = |slot: &[u8], disk| Superblock::parse(slot, Minor::V1_2, disk).unwrap_err().absent();
    assert!(absent(&[0; SLOT_BYTES], DISK));
    assert!(absent(&[0; 100], DISK));
    assert!(absent(&slot_of(&sample()), Sectors(15)));
}

#[test]
fn damage_and_misplacement_are_told_apart() {
    let good = slot_of(&sample());
    let with = |at: usize, value: u8| {
        let mut slot = good.clone();
        slot[at] = value;
        Superblock::parse(&slot, Minor::V1_2, DISK).unwrap_err()
    };
    assert_eq!(with(4, 0), Refusal::MajorVersion { found: 0 });
    assert!(matches!(with(40, 1), Refusal::Checksum { .. }));
    assert!(matches!(with(300, 1), Refusal::Checksum { .. }));
    assert_eq!(with(221, 0x80), Refusal::MaxDev { max_dev: 0x8080 });
    assert_eq!(
        Superblock::parse(&good, Minor::V1_1, DISK).unwrap_err(),
        Refusal::Misplaced { super_offset: 8, place: DiskLba(0) }
    );
}

#[test]
fn padding_must_be_zero() {
    let with = |at: usize| {
        let mut slot = slot_of(&sample());
        slot[at] = 9;
        let sum = Superblock::checksum(&slot).unwrap();
        slot[216..220].copy_from_slice(&sum.to_le_bytes());
        Superblock::parse(&slot, Minor::V1_2, DISK).map(|_| ())
    };
    assert_eq!(with(13), Err(Refusal::Pad0 { byte: 13, value: 9 }));
    assert_eq!(with(228), Err(Refusal::Pad3 { byte: 228, value: 9 }));
    assert_eq!(with(255), Err(Refusal::Pad3 { byte: 255, value: 9 }));
    assert_eq!(with(224), Err(Refusal::LogicalBlockSize { bytes: 9 }));
}

#[test]
fn features_are_checked() {
    let with = |features| refusal(|sb| sb.features = features);
    assert_eq!(with(Features(1 << 13)), Refusal::UnknownFeatures { bits: 1 << 13 });
    assert_eq!(with(Features::CLUSTERED), Refusal::Clustered);
    assert_eq!(with(Features::JOURNAL), Refusal::Journal);
    assert_eq!(with(Features::RAID0_LAYOUT), Refusal::Raid0LayoutBit { level: 5 });
    let (ppl, multiple) = (Features::PPL, Features::MULTIPLE_PPLS);
    assert_eq!(with(ppl.with(multiple)), Refusal::TwoPpls);
    assert_eq!(with(ppl.with(Features::BITMAP)), Refusal::PplExcludes { other: Features::BITMAP });
    assert_eq!(with(multiple.with(Features::JOURNAL)), Refusal::PplExcludes { other: Features::JOURNAL });
    let level = |sb: &mut Superblock| (sb.level, sb.features) = (6, Features::PPL);
    assert_eq!(refusal(level), Refusal::PplLevel { level: 6 });
    // Written by hand: writing derives these bits.
    let mut slot = slot_of(&sample());
    slot[8] = Features::NEW_OFFSET.0 as u8;
    let sum = Superblock::checksum(&slot).unwrap();
    slot[216..220].copy_from_slice(&sum.to_le_bytes());
    let stray = Superblock::parse(&slot, Minor::V1_2, DISK).unwrap_err();
    assert_eq!(stray, Refusal::ReshapeBits { bits: Features::NEW_OFFSET });
}

#[test]
fn the_lu_is_checked() {
    assert_eq!(refusal(|sb| sb.level = -4), Refusal::Level { level: -4 });
    assert_eq!(refusal(|sb| sb.layout = 6), Refusal::Layout { level: 5, layout: 6 });
    let raid10 = |layout| refusal(|sb| (sb.level, sb.layout) = (10, layout));
    for layout in [0x8_0102, 0x002, 0x100, 0x6_0102] {
        assert_eq!(raid10(layout), Refusal::Layout { level: 10, layout });
    }
    let chunk = |level: i32, layout: u32, chunk: u64| match refusal(|sb| {
        (sb.level, sb.layout, sb.chunk) = (level, layout, Sectors(chunk))
    }) {
        Refusal::Chunk { rule, .. } => rule,
        other => panic!("{other}"),
    };
    for (level, layout) in [(4, 0), (5, 2), (6, 2), (10, 0x102)] {
        assert_eq!(chunk(level, layout, 24), "a power of two");
        assert_eq!(chunk(level, layout, 4), "at least 8 sectors");
        assert_eq!(chunk(level, layout, 0), "a power of two");
        assert_eq!(chunk(level, layout, 1 << 23), "at most 4194304 sectors");
    }
    assert_eq!(chunk(0, 0, 0), "not zero");
    assert_eq!(refusal(|sb| sb.raid_disks = 0), Refusal::RaidDisks { raid_disks: 0 });
    assert_eq!(refusal(|sb| sb.raid_disks = 1921), Refusal::RaidDisks { raid_disks: 1921 });
    for bytes in [256, 1000, 8192] {
        assert_eq!(refusal(|sb| sb.logical_block_size = bytes), Refusal::LogicalBlockSize { bytes });
    }
}

#[test]
fn the_member_is_checked() {
    assert_eq!(refusal(|sb| sb.dev_number = 128), Refusal::DevNumber { dev_number: 128, max_dev: 128 });
    assert_eq!(refusal(|sb| sb.roles[1] = 3), Refusal::Role { dev_number: 1, slot: 3, slots: 3 });
    assert_eq!(refusal(|sb| sb.roles[1] = 0xff80), Refusal::UnknownRole { dev_number: 1, raw: 0xff80 });
    assert_eq!(refusal(|sb| sb.roles[9] = 0xfffd), Refusal::JournalRole { dev_number: 9 });
    assert_eq!(refusal(|sb| sb.data_size = Sectors(9)), Refusal::DataSize { data_size: Sectors(9) });
    let (data_offset, data_size) = (DiskLba(8), Sectors::MAX);
    assert_eq!(
        refusal(|sb| sb.data_offset = data_offset),
        Refusal::DataOffset { data_offset, end: DiskLba(9) }
    );
    let data_offset = DiskLba(2048);
    assert_eq!(refusal(|sb| sb.data_size = data_size), Refusal::DataEnd { data_offset, data_size });
    let end = DiskLba(4097);
    assert_eq!(refusal(|sb| sb.data_size = Sectors(2049)), Refusal::DiskTooShort { end, disk: DISK });
    let (size, data_size) = (Sectors(2049), Sectors(2048));
    assert_eq!(refusal(|sb| sb.size = size), Refusal::ComponentSize { size, data_size });
}

#[test]
fn version_1_0_has_its_data_before_the_superblock() {
    let mut superblock = sample();
    superblock.minor = Minor::V1_0;
    superblock.super_offset = DiskLba(4080);
    superblock.data_offset = DiskLba(0);
    superblock.bblog.offset = -8;
    superblock.features = Features::BITMAP;
    superblock.bitmap_offset = -16;
    assert_eq!(Superblock::parse(&slot_of(&superblock), Minor::V1_0, DISK), Ok(superblock.clone()));
    assert_eq!(superblock.bitmap_at(), Some(DiskLba(4064)));
    superblock.data_size = Sectors(4081);
    let (end, super_offset) = (DiskLba(4081), DiskLba(4080));
    assert_eq!(superblock.check(DISK), Err(Refusal::DataOverSuperblock { end, super_offset }));
}

#[test]
fn the_neighbours_of_the_data_are_checked() {
    for offset in [0, -9, 2040, 5000, i32::MIN, i32::MAX] {
        let bitmap = refusal(|sb| (sb.features, sb.bitmap_offset) = (Features::BITMAP, offset));
        assert_eq!(bitmap, Refusal::BitmapOffset { offset });
    }
    for (offset, size) in [(8, 2048), (8, 8), (-8, 2000), (0, 64)] {
        let ppl = refusal(|sb| (sb.features, sb.ppl) = (Features::PPL, Ppl { offset, size }));
        assert_eq!(ppl, Refusal::PplPlace { offset, size });
    }
    let list = |shift, size, offset| {
        refusal(|sb| (sb.features, sb.bblog) = (Features::BAD_BLOCKS, BadBlockLog { shift, size, offset }))
    };
    assert_eq!(list(0, 9, 16), Refusal::BblogSize { size: 9 });
    assert_eq!(list(0, 0, 16), Refusal::BblogSize { size: 0 });
    assert_eq!(list(11, 8, 16), Refusal::BblogShift { shift: 11 });
    for offset in [0, -4, -16, 2033, 2040, i32::MAX] {
        assert_eq!(list(0, 8, offset), Refusal::BblogOffset { offset });
    }
}

#[test]
fn a_list_not_in_use_may_lie_in_the_data_but_is_no_list() {
    let mut superblock = sample();
    superblock.bblog.offset = 2040;
    assert_eq!(superblock.check(DISK), Ok(()));
    assert_eq!(superblock.bblog_area(), None);
}

fn reshaping() -> Superblock {
    let mut superblock = sample();
    superblock.raid_disks = 4;
    superblock.reshape = Some(Reshape {
        position: Lba(1920),
        delta_disks: 1,
        new_level: 5,
        new_layout: 2,
        new_chunk: Sectors(128),
        new_offset: -384,
        backwards: false,
    });
    superblock.features = superblock.stored_features();
    superblock
}

#[test]
fn a_reshape_is_a_fact_unless_it_makes_no_sense() {
    let good = reshaping();
    assert_eq!(good.features, Features::RESHAPE.with(Features::NEW_OFFSET));
    assert_eq!(Superblock::parse(&slot_of(&good), Minor::V1_2, DISK), Ok(good.clone()));
    assert_eq!(good.old_raid_disks(), Some(3));
    let with = |change: fn(&mut Reshape)| {
        let mut superblock = reshaping();
        superblock.reshape.as_mut().map(change);
        Superblock::parse(&slot_of(&superblock), Minor::V1_2, DISK).map(|sb| sb.reshape.unwrap())
    };
    let wrong_delta = Refusal::DeltaDisks { delta_disks: 4, raid_disks: 4 };
    assert_eq!(with(|r| r.delta_disks = 4), Err(wrong_delta));
    assert!(matches!(with(|r| r.delta_disks = i32::MIN), Err(Refusal::DeltaDisks { .. })));
    assert_eq!(with(|r| r.new_level = 7), Err(Refusal::Level { level: 7 }));
    assert!(matches!(with(|r| r.new_chunk = Sectors(3)), Err(Refusal::Chunk { .. })));
    assert!(matches!(with(|r| r.new_layout = 99), Err(Refusal::Layout { .. })));
    for new_offset in [-2048, -2040, 2048, i32::MIN] {
        let refused = with(match new_offset {
            -2048 => |r| r.new_offset = -2048,
            -2040 => |r| r.new_offset = -2040,
            2048 => |r| r.new_offset = 2048,
            _ => |r| r.new_offset = i32::MIN,
        });
        assert_eq!(refused, Err(Refusal::NewOffset { new_offset, data_offset: DiskLba(2048) }));
    }
    assert!(with(|r| (r.delta_disks, r.backwards) = (-1, true)).unwrap().backwards);
    assert!(with(|r| (r.delta_disks, r.backwards) = (0, true)).unwrap().backwards);
    assert!(!with(|r| r.delta_disks = 0).unwrap().backwards);
}

#[test]
fn writing_keeps_what_is_not_ours() {
    let mut slot = vec![0xee; SLOT_BYTES];
    sample().write_into(&mut slot);
    assert!(slot[512..].iter().all(|&byte| byte == 0xee));
    assert!(slot[96..128].iter().all(|&byte| byte == 0xee), "no bitmap, PPL or reshape claims these");
    assert!(slot[228..256].iter().all(|&byte| byte == 0xee));
}

#[test]
fn odd_tables_have_a_checksum_too() {
    for entries in [1, 2, 127, 384, MAX_DEV] {
        let mut superblock = sample();
        superblock.dev_number = 0;
        superblock.roles.resize(entries, 0xffff);
        let slot = slot_of(&superblock);
        assert_eq!(Superblock::decode(&slot, Minor::V1_2, DISK).as_ref(), Ok(&superblock), "{entries}");
        assert_eq!(superblock.bytes_used(), 256 + 2 * entries);
    }
}

#[test]
fn places() {
    assert_eq!(Minor::V1_0.offset(Sectors(2176)), Some(DiskLba(2160)));
    assert_eq!(Minor::V1_0.offset(Sectors(2183)), Some(DiskLba(2160)));
    assert_eq!(Minor::V1_0.offset(Sectors(23)), None);
    assert_eq!((Minor::V1_1.offset(DISK), Minor::V1_2.offset(DISK)), (Some(DiskLba(0)), Some(DiskLba(8))));
    for minor in Minor::ALL {
        assert_eq!(minor.to_string().parse::<Minor>().unwrap(), minor);
    }
    assert!("0.90".parse::<Minor>().is_err());
}

#[test]
fn texts() {
    let uuid =
        Uuid([0x41, 5, 0x4a, 0x94, 0xb5, 0xf7, 0x65, 0xea, 0x98, 0xf, 0x17, 0xf2, 0xf9, 0x33, 1, 0x36]);
    assert_eq!(uuid.to_string(), "41054a94:b5f765ea:980f17f2:f9330136");
    for text in [
        "41054a94-b5f7-65ea-980f-17f2f9330136",
        "41054A94B5F765EA980F17F2F9330136",
        "41054a94:b5f765ea 980f17f2.f9330136",
    ] {
        assert_eq!(text.parse::<Uuid>().unwrap(), uuid);
    }
    for text in ["", "41054a94", "g1054a94b5f765ea980f17f2f9330136", "41054a94b5f765ea980f17f2f93301360"] {
        assert!(text.parse::<Uuid>().is_err());
    }
    assert_eq!(Name::new("host:n").unwrap().text(), "host:n");
    assert_eq!(Name([0xff; 32]).text(), "\\xff".repeat(32));
    assert_eq!(Name::new("a\\b\n").unwrap().text(), "a\\\\b\\x0a");
    assert!(Name::new(&"n".repeat(33)).is_none() && Name::new("a\0").is_none());
    assert_eq!(format!("{}", Features(0x2005)), "bitmap reshape bit-13");
    assert_eq!(Time::from_raw(Time { seconds: 5, micros: 6 }.raw()), Time { seconds: 5, micros: 6 });
    for raw in [0, 0xfcff, 0xfeff, 0xfffd, 0xfffe, 0xffff] {
        assert_eq!(Role::from_raw(raw).unwrap().raw(), raw);
    }
    assert!((0xff00..0xfffd).all(|raw| Role::from_raw(raw).is_none()));
}

fn disk_with(superblocks: &[Superblock]) -> Vec<u8> {
    let mut bytes = vec![0; DISK.bytes() as usize];
    for superblock in superblocks {
        superblock.write_into(&mut bytes[superblock.super_offset.bytes() as usize..][..SLOT_BYTES]);
    }
    bytes
}

fn find(bytes: &[u8]) -> Result<Found, NotFound> {
    let read = |at: DiskLba, buffer: &mut [u8]| -> IoResult<()> {
        let from = at.bytes() as usize;
        buffer.copy_from_slice(&bytes[from..from + buffer.len()]);
        Ok(())
    };
    locate(read, Sectors::from_bytes_floor(bytes.len() as u64))
}

fn sample_1_0(seconds: u64) -> Superblock {
    let place = (Minor::V1_0, DiskLba(4080), DiskLba(0));
    let mut superblock = sample();
    (superblock.minor, superblock.super_offset, superblock.data_offset) = place;
    superblock.ctime.seconds = seconds;
    superblock
}

#[test]
fn locate_takes_the_one_created_last() {
    let new = sample();
    let found = find(&disk_with(&[new.clone(), sample_1_0(5)])).unwrap();
    assert_eq!((found.superblock, found.at), (new.clone(), DiskLba(8)));
    assert_eq!(found.others, [(Minor::V1_0, None)]);
    let found = find(&disk_with(&[new.clone(), sample_1_0(new.ctime.seconds)])).unwrap();
    assert_eq!(found.superblock.minor, Minor::V1_0, "tested first");
    // A newer one that cannot be used is not stepped over.
    let mut clustered = sample_1_0(u64::MAX >> 24);
    clustered.features = Features::CLUSTERED;
    let refused = find(&disk_with(&[new, clustered])).unwrap_err();
    assert!(matches!(refused, NotFound::Refused(Refusal::Clustered)), "{refused}");
}

#[test]
fn locate_says_the_most_telling_reason() {
    assert!(find(&disk_with(&[])).unwrap_err().absent());
    assert!(find(&[0; 512]).unwrap_err().absent());
    let mut bytes = disk_with(&[sample()]);
    bytes[4096 + 20] ^= 1;
    assert!(matches!(find(&bytes).unwrap_err(), NotFound::Refused(Refusal::Checksum { .. })));
    bytes[4096] = 0;
    bytes[4096 * 512 - 1024..][..24].copy_from_slice(b"Intel Raid ISM Cfg. Sig.");
    let refusal = find(&bytes).unwrap_err();
    assert!(!refusal.absent() && refusal.to_string().contains("IMSM"));
}

#[test]
fn locate_forgives_places_it_cannot_read_if_another_has_one() {
    let bytes = disk_with(&[sample()]);
    let read = |fails: u64| {
        let bytes = &bytes;
        move |at: DiskLba, buffer: &mut [u8]| -> IoResult<()> {
            if at.0 == fails {
                return Err(Error::new(ErrorKind::Io, "unreadable"));
            }
            let from = at.bytes() as usize;
            buffer.copy_from_slice(&bytes[from..from + buffer.len()]);
            Ok(())
        }
    };
    assert!(locate(read(4080), DISK).is_ok());
    assert!(matches!(locate(read(8), DISK).unwrap_err(), NotFound::Read(_)));
}

prop_compose! {
    /// A superblock that passes all checks, with something in every field.
    fn valid()(
        uuids in any::<([u8; 16], [u8; 16], [u8; 32])>(),
        times in any::<(u64, u64, u64)>(),
        level_and_layout in prop::sample::select(vec![
            (-1, 0), (0, 0), (1, 0), (4, 5), (5, 0), (5, 5), (6, 9), (6, 20),
            (10, 0x102), (10, 0x1_0201), (10, 0x4_0201),
        ]),
        chunk in 3u32..22,
        slots in 2u32..1000,
        entries in 1usize..MAX_DEV,
        own in (any::<prop::sample::Index>(), prop::sample::select(vec![0u16, 1, 0xfffe, 0xffff])),
        numbers in any::<(u64, u64, u32, u8, u64)>(),
        policy in 0..3,
        extra: u32,
        reshape in (any::<bool>(), -1i32..2, any::<bool>(), prop::sample::select(vec![0i32, -384, 128])),
        block in prop::sample::select(vec![0u32, 512, 4096]),
    ) -> Superblock {
        let dev_number = own.0.index(entries) as u32;
        let mut roles: Vec<u16> = (0..entries).map(|i| i as u16 ^ 0xaa00).collect();
        roles[dev_number as usize] = own.1;
        let (level, layout) = level_and_layout;
        let data_offset = 5120;
        let reshape = reshape.0.then(|| Reshape {
            position: Lba(times.0),
            delta_disks: reshape.1,
            new_level: level,
            new_layout: layout,
            new_chunk: Sectors(1 << chunk),
            new_offset: reshape.3,
            backwards: reshape.1 < 0 || reshape.1 == 0 && reshape.2,
        });
        let features = Features(extra & 0b1001_1010);
        let mut sb = Superblock {
            set_uuid: Uuid(uuids.0),
            device_uuid: Uuid(uuids.1),
            name: Name(uuids.2),
            ctime: Time::from_raw(times.1),
            utime: Time::from_raw(times.2),
            level, layout, roles, dev_number, features, reshape,
            raid_disks: slots,
            chunk: Sectors(1 << chunk),
            size: Sectors(numbers.0 % 3000),
            data_offset: DiskLba(data_offset),
            data_size: Sectors(3072),
            recovery_offset: Sectors(numbers.1),
            corrected_reads: numbers.2,
            devflags: numbers.3,
            events: numbers.4,
            resync_offset: Sectors(numbers.0),
            logical_block_size: block,
            bblog: BadBlockLog { shift: 0, size: 8, offset: 2064 },
            ..sample()
        };
        match policy {
            1 => (sb.features, sb.bitmap_offset) = (features.with(Features::BITMAP), 8),
            2 if level == 5 => {
                sb.features = features.with(Features::MULTIPLE_PPLS);
                sb.ppl = Ppl { offset: 8, size: 2048 };
            }
            _ => {}
        }
        sb.features = sb.stored_features();
        sb
    }
}

const LARGE: Sectors = Sectors(8192);

proptest! {
    #[test]
    fn a_valid_one_round_trips(superblock in valid(), noise in any::<u8>()) {
        let mut slot = vec![0; SLOT_BYTES];
        slot[superblock.bytes_used()..].fill(noise);
        superblock.write_into(&mut slot);
        let parsed = Superblock::parse(&slot, Minor::V1_2, LARGE);
        prop_assert_eq!(parsed.as_ref(), Ok(&superblock));
        let mut again = slot.clone();
        superblock.write_into(&mut again);
        prop_assert_eq!(&again, &slot);
        prop_assert!(slot[superblock.bytes_used()..].iter().all(|&byte| byte == noise));
    }

    #[test]
    fn any_single_flipped_bit_is_refused(superblock in valid(), at in any::<prop::sample::Index>()) {
        let mut slot = slot_of(&superblock);
        let bit = at.index(8 * superblock.bytes_used());
        slot[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Superblock::parse(&slot, Minor::V1_2, LARGE).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        superblock in valid(),
        noise in prop::collection::vec((0usize..256, any::<u8>()), 0..12),
        disk in prop_oneof![any::<u64>(), 0u64..10_000],
        minor in prop::sample::select(Minor::ALL.to_vec()),
    ) {
        let mut slot = slot_of(&superblock);
        for (at, value) in noise {
            slot[at] = value;
        }
        let disk = Sectors(disk);
        // Past magic, place and checksum, into the checks.
        if let Some(place) = minor.offset(disk) {
            slot[144..152].copy_from_slice(&place.0.to_le_bytes());
        }
        if let Ok(sum) = Superblock::checksum(&slot) {
            slot[216..220].copy_from_slice(&sum.to_le_bytes());
        }
        if let Ok(decoded) = Superblock::decode(&slot, minor, disk) {
            let _ = (decoded.check(disk), decoded.my_role(), decoded.watermark(), decoded.old_raid_disks());
            let _ = (decoded.bitmap_at(), decoded.ppl_area(), decoded.bblog_area(), decoded.name());
        }
        if let Ok(parsed) = Superblock::parse(&slot, minor, disk) {
            let before = slot.clone();
            parsed.write_into(&mut slot);
            prop_assert_eq!(&slot, &before, "what was accepted is written as it was read");
        }
    }
}
