//! Signatures built by hand from their formats' definitions, on a small disk in memory.

use alloc::vec;

use proptest::prelude::*;

use super::*;
use crate::error::{Error, ErrorKind};

/// 4 MiB with `parts` written over zeros.
fn disk(parts: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; 4 << 20];
    for (at, part) in parts {
        bytes[*at..*at + part.len()].copy_from_slice(part);
    }
    bytes
}

fn found(bytes: &[u8]) -> Vec<Signature> {
    let read = |at: DiskLba, buffer: &mut [u8]| {
        let from = at.bytes() as usize;
        let part = bytes.get(from..from + buffer.len());
        buffer.copy_from_slice(part.ok_or_else(|| Error::new(ErrorKind::Io, "past the end"))?);
        Ok(())
    };
    probe(Sectors::from_bytes_floor(bytes.len() as u64), read).unwrap()
}

/// Exactly one signature: what, at which sector, with which label.
fn one(parts: &[(usize, &[u8])]) -> (&'static str, u64, Option<String>) {
    let mut all = found(&disk(parts));
    assert_eq!(all.len(), 1, "{all:?}");
    let signature = all.remove(0);
    (signature.what, signature.at.0, signature.label)
}

fn with_label(what: &'static str, at: u64, label: &str) -> (&'static str, u64, Option<String>) {
    (what, at, Some(label.into()))
}

#[test]
fn zeros_carry_nothing_on_disks_of_any_size() {
    for size in [0, 512, 1024, 4096, 4608, 65536, 131_072, 600_000, 4 << 20] {
        assert_eq!(found(&vec![0; size]), [], "{size}");
        assert_eq!(found(&vec![0xff; size]), [], "{size}");
    }
}

#[test]
fn every_row_of_the_table_is_recognised() {
    for row in MAGIC {
        let all = found(&disk(&[(row.at as usize, row.magic)]));
        assert_eq!(all.len(), 1, "{}: {all:?}", row.what);
        assert_eq!((all[0].what, all[0].at.0), (row.what, row.at / 512));
    }
}

#[test]
fn labels() {
    let text = |parts: &[(usize, &[u8])]| one(parts).2.unwrap();
    assert_eq!(text(&[(0, b"XFSB"), (108, b"twelve chars")]), "twelve chars");
    assert_eq!(text(&[(0, b"LUKS\xba\xbe\0\x02"), (24, b"vault\0")]), "vault");
    assert_eq!(text(&[(82, b"FAT32   "), (71, b"STICK      ")]), "STICK");
    assert_eq!(one(&[(82, b"FAT32   "), (71, b"NO NAME    ")]).2, None);
    assert_eq!(text(&[(1024, b"\x10\x20\xf5\xf2"), (1148, b"f\0\xe9\0\0\0")]), "f\u{e9}");
    assert_eq!(text(&[(65600, b"_BHRfS_M"), (65835, b"a\x1b[2Jb")]), "a\\x1b[2Jb");
}

#[test]
fn ext_generations() {
    let ext = |compatible: u8, incompatible: u8, read_only: u8| {
        let head: &[(usize, &[u8])] = &[
            (1028, &[1]),
            (1080, &[0x53, 0xef]),
            (1116, &[compatible]),
            (1120, &[incompatible]),
            (1124, &[read_only]),
            (1144, b"root"),
        ];
        one(head)
    };
    assert_eq!(ext(0, 2, 1), with_label("ext2 file system", 2, "root"));
    assert_eq!(ext(4, 2, 1), with_label("ext3 file system", 2, "root"));
    assert_eq!(ext(4, 0x42, 1), with_label("ext4 file system", 2, "root"));
    assert_eq!(ext(4, 2, 0x10), with_label("ext4 file system", 2, "root"));
    assert_eq!(ext(0, 8, 0), with_label("ext journal device", 2, "root"));
    assert_eq!(found(&disk(&[(1080, &[0x53, 0xef])])), [], "the magic alone, without any blocks");
}

#[test]
fn partition_tables() {
    let entry = |flag: u8, kind: u8, start: u32| {
        let mut entry = [0; 16];
        (entry[0], entry[4]) = (flag, kind);
        entry[8..12].copy_from_slice(&start.to_le_bytes());
        entry[12] = 100;
        entry
    };
    let end: (usize, &[u8]) = (510, &[0x55, 0xaa]);
    assert_eq!(one(&[(446, &entry(0x80, 0x83, 2048)), end]), ("MBR partition table", 0, None));
    assert_eq!(found(&disk(&[end])), [], "no entry");
    assert_eq!(found(&disk(&[(446, &entry(0x12, 0x83, 2048)), end])), [], "flag");
    assert_eq!(found(&disk(&[(446, &entry(0, 0x83, 1 << 30)), end])), [], "beyond the disk");
    let shield = entry(0, 0xee, 1);
    assert_eq!(one(&[(446, &shield), end, (512, b"EFI PART")]), ("GPT partition table", 1, None));
    assert_eq!(one(&[(446, &shield), end]), ("MBR partition table", 0, None));
    assert_eq!(one(&[((4 << 20) - 512, b"EFI PART")]), ("GPT partition table", 8191, None));
}

#[test]
fn raid_formats() {
    let end = 4 << 20;
    let v1 = b"\xfc\x4e\x2b\xa9\x01\0\0\0";
    assert_eq!(one(&[(4096, v1), (4128, b"host:x")]), with_label("md superblock 1.x", 8, "host:x"));
    assert_eq!(one(&[(end - 8192, v1)]), ("md superblock 1.x", 8176, None));
    assert_eq!(one(&[(end - 65536, b"\xfc\x4e\x2b\xa9")]), ("md superblock 0.90", 8064, None));
    assert_eq!(one(&[(end - 65536, b"\xa9\x2b\x4e\xfc")]), ("md superblock 0.90", 8064, None));
    assert_eq!(one(&[(end - 1024, b"Intel Raid ISM Cfg. Sig. 1.0")]), ("Intel IMSM", 8190, None));
    assert_eq!(one(&[(end - 512, b"\xde\x11\xde\x11")]), ("DDF", 8191, None));
    assert_eq!(one(&[(end - 4096 + 60, b"\x83\x74\x02\x6b")]), ("DRBD metadata", 8184, None));
    let zfs: &[u8] = b"\x0c\xb1\xba\0\0\0\0\0\x88\x13\0\0\0\0\0\0";
    assert_eq!(one(&[((128 << 10) + 5 * 1024, zfs)]).0, "ZFS member");
    assert_eq!(one(&[(end - (128 << 10), zfs)]).0, "ZFS member");
    let lvm: &[u8] = b"LABELONE\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0LVM2 001";
    assert_eq!(one(&[(512, lvm)]), ("LVM2 physical volume", 1, None));
}

#[test]
fn swap_and_others() {
    assert_eq!(one(&[(4086, b"SWAPSPACE2"), (1052, b"swp")]), with_label("swap area", 7, "swp"));
    assert_eq!(one(&[(65526, b"SWAPSPACE2")]), ("swap area", 127, None));
    assert_eq!(one(&[(4086, b"S1SUSPEND\0")]).0, "hibernated system");
    assert_eq!(one(&[(32768 + 2048, b"\0BEA01"), (32768 + 4096, b"\0NSR03")]).0, "udf");
    let nilfs: &[(usize, &[u8])] = &[(1024, &[2, 0, 0, 0, 0, 0, 0x34, 0x34, 0x18, 1]), (1192, b"log")];
    assert_eq!(one(nilfs), with_label("nilfs2", 2, "log"));
    let minix: &[u8] = &[32, 1, 0xe8, 3, 1, 0, 1, 0, 13, 0, 0, 0, 0, 0x1c, 8, 0x10, 0x8f, 0x13];
    assert_eq!(one(&[(1024, minix)]).0, "minix");
    assert_eq!(found(&disk(&[(1040, &[0x8f, 0x13])])), []);
    assert_eq!(one(&[(1024, b"BD"), (1046, &[0x10, 0])]).0, "hfs");
}

#[test]
fn several_are_listed_in_order_of_place() {
    let all = found(&disk(&[(32769, b"CD001"), (4096, b"\xfc\x4e\x2b\xa9\x01\0\0\0"), (0, b"XFSB")]));
    let names: Vec<_> = all.iter().map(|signature| signature.what).collect();
    assert_eq!(names, ["xfs file system", "md superblock 1.x", "iso9660"]);
}

#[test]
fn a_read_that_fails_is_the_answer() {
    let error = probe(Sectors(8), |_, _| Err(Error::new(ErrorKind::Io, "broken"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn arbitrary_bytes_never_panic(
        sectors in 0usize..300,
        noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..200),
        rows in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
    ) {
        let mut bytes = vec![0; sectors * 512];
        for row in rows.iter().map(|row| row.get(MAGIC)) {
            if let Some(room) = bytes.get_mut(row.at as usize..row.at as usize + row.magic.len()) {
                room.copy_from_slice(row.magic);
            }
        }
        for (at, value) in noise.iter().filter(|_| sectors > 0) {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
        found(&bytes);
    }
}
