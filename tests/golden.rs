//! What the kernel wrote, read by us: every structure of every golden member says what the manifest says.

use uraid::format::badblocks::BadBlocks;
use uraid::format::bitmap;
use uraid::format::placement::{Placement, Policy};
use uraid::format::superblock::{Features, Minor, Role, Superblock, locate};
use uraid::format::{Area, ppl, signature};
use uraid::units::{DiskLba, Sectors};

mod common;

use common::{GoldenCase, Member, cases, cases_named};

fn parsed(member: &Member) -> Superblock {
    let found = locate(|at, buffer| member.read(at, buffer), Sectors(member.image_sectors));
    found.unwrap_or_else(|error| panic!("{}: {error}", member.file)).superblock
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The same slot, written over with what was read from it, is the same, byte for byte. A slot that was zero
/// before is too: every byte the kernel writes is a fact to us.
#[test]
fn superblocks_say_what_the_manifest_says_and_survive_rewriting() {
    for case in cases() {
        for member in &case.members {
            let at = format!("{} {}", case.name, member.file);
            let disk = Sectors(member.image_sectors);
            let found =
                locate(|at, buffer| member.read(at, buffer), disk).unwrap_or_else(|e| panic!("{at}: {e}"));
            assert!(found.others.is_empty(), "{at}");
            check_lu(&at, &case, member, &found.superblock);
            check_member(&at, &case, member, &found.superblock);

            let mut slot = found.slot.clone();
            found.superblock.write_into(&mut slot);
            assert_eq!(slot, found.slot, "{at}");
            let mut fresh = vec![0; slot.len()];
            found.superblock.write_into(&mut fresh);
            assert_eq!(fresh, found.slot, "{at}");
        }
    }
}

fn check_lu(at: &str, case: &GoldenCase, member: &Member, sb: &Superblock) {
    assert_eq!(sb.minor, case.metadata.parse::<Minor>().unwrap(), "{at}");
    assert_eq!((sb.level, sb.layout, sb.raid_disks), (case.level, case.layout, case.raid_disks), "{at}");
    assert_eq!(sb.chunk, Sectors(case.chunk_sectors), "{at}");
    if ![-1, 0].contains(&case.level) {
        assert_eq!(sb.size, Sectors(case.component_sectors), "{at}");
    }
    assert_eq!(
        (hex(&sb.set_uuid.0), sb.set_uuid.to_string()),
        (case.set_uuid.clone(), case.uuid_text.clone())
    );
    assert_eq!(sb.name(), case.set_name, "{at}");
    assert_eq!(sb.features.0, member.sb.feature_map, "{at}");
    assert_eq!(sb.reshape.is_some(), case.reshape.is_some(), "{at}");
    if let (Some(got), Some(wanted)) = (sb.reshape, case.reshape) {
        assert_eq!((got.position.0, got.delta_disks), (wanted.reshape_position, wanted.delta_disks));
        assert_eq!((got.new_level, got.new_layout), (wanted.new_level, wanted.new_layout));
        assert_eq!((got.new_chunk.0, got.new_offset), (wanted.new_chunk, member.sb.new_offset));
        assert!(!got.backwards && sb.old_raid_disks() == Some(3));
    }
    match (sb.ppl_area(), sb.bitmap_at()) {
        (Some(area), None) => {
            assert_eq!(
                i32::from(sb.ppl.offset) | i32::from(sb.ppl.size) << 16,
                member.sb.bitmap_offset,
                "{at}"
            );
            assert_eq!(area, Area::new(DiskLba(16), Sectors(2048)), "{at}");
        }
        (None, _) => assert_eq!(sb.bitmap_offset, member.sb.bitmap_offset, "{at}"),
        both => panic!("{at}: {both:?}"),
    }
}

fn check_member(at: &str, case: &GoldenCase, member: &Member, sb: &Superblock) {
    let fields = &member.sb;
    assert_eq!((sb.super_offset.0, sb.data_offset.0), (fields.super_offset, fields.data_offset), "{at}");
    assert_eq!((sb.data_size.0, sb.recovery_offset.0), (fields.data_size, fields.recovery_offset), "{at}");
    assert_eq!((sb.devflags, sb.dev_number), (fields.devflags, member.dev_number), "{at}");
    assert_eq!(
        (sb.bblog.offset, sb.bblog.size, sb.bblog.shift),
        (fields.bblog_offset, fields.bblog_size, 0),
        "{at}"
    );
    assert_eq!((sb.events, sb.resync_offset.0), (fields.events, fields.resync_offset), "{at}");
    assert_eq!((sb.utime.seconds, sb.utime.micros), (fields.utime, 0), "{at}");
    assert_eq!(hex(&sb.device_uuid.0), fields.device_uuid, "{at}");
    assert_eq!(sb.roles.len() as u32, fields.max_dev, "{at}");
    let role = match fields.role.as_u64() {
        Some(raw) => Role::from_raw(raw as u16).unwrap(),
        None => Role::Spare,
    };
    assert_eq!(sb.my_role(), role, "{at}");
    assert_eq!(
        sb.watermark().is_some(),
        ["rebuilding", "replacement"].contains(&member.state.as_str()),
        "{at}"
    );
    assert_eq!(sb.features.contains(Features::REPLACEMENT), member.state == "replacement", "{at}");
    assert!(sb.events <= case.events, "{at}");
}

#[test]
fn bad_block_lists_say_what_the_manifest_says() {
    let mut lists = 0;
    for case in cases() {
        for member in &case.members {
            let sb = parsed(member);
            let area = sb.bblog_area().expect("mdadm always makes room for a list");
            let bytes = member.sectors(area.start.0, area.length.0);
            let list = BadBlocks::parse(bytes, sb.bblog.shift).unwrap();
            let wanted: BadBlocks = (case.badblocks.iter())
                .filter(|bad| bad.member == member.file)
                .map(|bad| Area::new(sb.data_offset + Sectors(bad.dev_data_sector), Sectors(bad.sectors)))
                .collect();
            assert_eq!(sb.features.contains(Features::BAD_BLOCKS), !wanted.is_empty(), "{}", case.name);
            if !wanted.is_empty() {
                assert_eq!(list, wanted, "{} {}", case.name, member.file);
                assert_eq!(
                    list.emit(0, bytes.len() / 8).unwrap(),
                    bytes,
                    "byte for byte as the kernel wrote it"
                );
                lists += 1;
            }
        }
    }
    assert_eq!(lists, 3);
}

#[test]
fn bitmaps_are_of_their_lu_and_name_what_was_being_written() {
    for case in cases_named(|name| name.contains("bitmap")) {
        for member in case.members.iter().filter(|member| member.state == "active") {
            let sb = parsed(member);
            let bytes = &member.image[sb.bitmap_at().unwrap().bytes() as usize..];
            let header = bitmap::Header::parse(bytes).unwrap();
            let at = format!("{} {}: {header}", case.name, member.file);
            assert_eq!((header.version, header.uuid), (4, sb.set_uuid), "{at}");
            assert!(header.events >= sb.events && !header.is_stale() && header.sectors_reserved == 0, "{at}");
            let covered = if case.level == 10 { case.array_sectors } else { case.component_sectors };
            assert_eq!(header.sync_size, Sectors(covered), "{at}");
            let bits = &bytes[bitmap::HEADER_BYTES..];
            assert_eq!(header.count_set(bits) > 0, case.name != "raid5-bitmap", "{at}");
            if case.name == "raid5-bitmap-readd" {
                assert!(header.set_runs(bits).eq(std::iter::once(0..3)), "{at}");
                assert!(header.events_cleared < header.events, "{at}");
            }
            let mut again = bytes[..512].to_vec();
            header.write_into(&mut again);
            assert_eq!(again, bytes[..512], "{at}");
        }
    }
}

#[test]
fn partial_parity_logs_hold_what_the_manifest_says() {
    for case in cases_named(|name| name.starts_with("raid5-ppl")) {
        for member in &case.members {
            let sb = parsed(member);
            let area = sb.ppl_area().unwrap();
            let newest =
                ppl::newest(sb.set_uuid, area.length, |at, buffer| member.read(area.start + at, buffer));
            let (at, header) = newest.unwrap().unwrap();
            // After a clean stop the last entries are still there; only those of the dirty case are listed.
            assert!(header.is_live());
            if case.name == "raid5-ppl-dirty" {
                let listed = case.ppl_entries.iter().filter(|entry| entry.member == member.file);
                assert_eq!(header.entries.len(), listed.clone().count(), "{}", member.file);
                for (got, wanted) in header.entries.iter().zip(listed) {
                    assert_eq!((at.0, header.generation), (wanted.header_sector, wanted.generation));
                    assert_eq!((got.data_sector.0, got.pp_size), (wanted.data_sector, wanted.pp_size));
                    assert_eq!((got.data_size, got.parity_disk), (wanted.data_size, wanted.parity_disk));
                }
            }
            let bytes = member.sectors(area.start.0 + at.0, 8);
            assert_eq!(header.emit(sb.set_uuid), bytes, "{} {}", case.name, member.file);
        }
    }
}

/// Where we would put things on a disk that mdadm was given, of the kinds that we lay out as mdadm does.
#[test]
fn small_and_old_members_are_laid_out_as_mdadm_does() {
    for case in cases_named(|name| !name.contains("reshape") && name != "raid5-defaults-16M") {
        for member in &case.members {
            let sb = parsed(member);
            let policy = match (sb.bitmap_at(), sb.ppl_area()) {
                (Some(_), _) => Policy::Bitmap,
                (_, Some(_)) => Policy::Ppl,
                _ => Policy::None,
            };
            let disk = Sectors(member.image_sectors);
            let ours = Placement::for_disk(disk, policy, sb.minor).unwrap();
            let at = format!("{} {}: {ours:?}", case.name, member.file);
            assert_eq!(ours.data_offset, sb.data_offset, "{at}");
            assert_eq!(ours.data_size(disk), Some(sb.data_size), "{at}");
            // mdadm leaves no room for a bitmap on raid0 and linear; there is one layout for all levels here.
            if ![-1, 0].contains(&case.level) {
                assert_eq!(ours.bblog(), sb.bblog, "{at}");
            }
            assert_eq!((ours.bitmap_offset(), ours.ppl()), (sb.bitmap_offset, sb.ppl), "{at}");
        }
    }
}

#[test]
fn members_are_recognised_as_such_and_as_nothing_else() {
    for case in cases_named(|name| name.starts_with("raid1") || name.starts_with("raid5-sb")) {
        for member in &case.members {
            let disk = Sectors(member.image_sectors);
            let found = signature::probe(disk, |at, buffer| member.read(at, buffer)).unwrap();
            let found: Vec<_> = found.iter().map(|signature| (signature.what, signature.at)).collect();
            assert_eq!(found, [("md superblock 1.x", DiskLba(member.sb.super_offset))], "{}", case.name);
        }
    }
}
