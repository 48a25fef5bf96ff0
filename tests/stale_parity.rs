//! What the partial parity log speaks of cannot be read when it is replayed, and a member is missing or being rebuilt: nobody
//! may compute from the parity of these rows afterwards, however long that is.

#[path = "common/pattern.rs"]
mod pattern;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use pattern::pattern;
use uraid::disk::faulty::{Effect, Fault, Faults, Faulty};
use uraid::disk::{DiskId, OpKind};
use uraid::format::badblocks::BadBlocks;
use uraid::format::ppl::{Entry, Header, crc32c};
use uraid::format::superblock::{Features, Superblock};
use uraid::lu::{Access, Policy, State, WorkKind, inspect};
use uraid::units::{DiskLba, Lba, Level, Sectors};
use uraid::{ErrorKind, Lu};

const DISK: u64 = 16 << 20;
/// Bytes in a chunk.
const CHUNK: usize = 64 << 10;
/// What the log speaks of: the first rows of the first cell, whose parity is in slot 3. In bytes.
const LOGGED: usize = 4096;
const EIO: i32 = 5;

/// An LU of four members that died while it wrote to the first block: the data is new, the parity is old, and the log knows.
struct Torn {
    dir: tempfile::TempDir,
    paths: Vec<PathBuf>,
    data: Vec<u8>,
}

fn superblock(path: &Path) -> Superblock {
    inspect(path).unwrap().superblock
}

fn change(path: &Path, change: impl FnOnce(&mut Superblock)) {
    let mut superblock = superblock(path);
    change(&mut superblock);
    let mut slot = vec![0; 4096];
    superblock.write_into(&mut slot);
    write(path, superblock.super_offset, &slot);
}

fn write(path: &Path, at: DiskLba, bytes: &[u8]) {
    std::fs::File::options().write(true).open(path).unwrap().write_all_at(bytes, at.bytes()).unwrap();
}

fn bad_blocks(path: &Path) -> BadBlocks {
    let superblock = superblock(path);
    if !superblock.features.contains(Features::BAD_BLOCKS) {
        return BadBlocks::new();
    }
    let area = superblock.bblog_area().unwrap();
    let mut bytes = vec![0; area.length.bytes() as usize];
    std::fs::File::open(path).unwrap().read_exact_at(&mut bytes, area.start.bytes()).unwrap();
    BadBlocks::parse(&bytes, superblock.bblog.shift).unwrap()
}

impl Torn {
    fn new() -> Torn {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (0..4).map(|i| dir.path().join(format!("d{i}"))).collect();
        let create = Lu::create("torn", Level::Raid5).disk_size(DISK).policy(Policy::Ppl).chunk(CHUNK as u64);
        let lu = paths.iter().fold(create, |create, path| create.disk(path)).make().unwrap();
        let mut data = pattern(lu.size() as usize, 1);
        lu.write_at(&data, 0).unwrap();
        lu.stop().unwrap();
        let new = pattern(LOGGED, 2);
        write(&paths[0], superblock(&paths[0]).data_offset, &new);
        data[..LOGGED].copy_from_slice(&new);
        let sum: Vec<u8> = (0..LOGGED).map(|i| data[CHUNK + i] ^ data[2 * CHUNK + i]).collect();
        let size = LOGGED as u32;
        let entry = Entry {
            data_sector: Lba(0),
            pp_size: size,
            data_size: size,
            parity_disk: 3,
            checksum: crc32c(&sum),
        };
        let parity = superblock(&paths[3]);
        let header = Header { generation: 1000, entries: vec![entry] }.emit(parity.set_uuid);
        write(&paths[3], parity.ppl_area().unwrap().start, &[header, sum].concat());
        paths.iter().for_each(|path| change(path, |superblock| superblock.resync_offset = Sectors(0)));
        Torn { dir, paths, data }
    }

    /// Slot `slot` was being rebuilt, and has come to sector `watermark` of its data.
    fn rebuilding(self, slot: usize, watermark: u64) -> Torn {
        change(&self.paths[slot], |superblock| {
            superblock.features = superblock.features.with(Features::RECOVERY_OFFSET);
            superblock.recovery_offset = Sectors(watermark);
        });
        self
    }

    fn without(&self, slot: Option<usize>) -> Vec<PathBuf> {
        let there = |(i, _): &(usize, &PathBuf)| Some(*i) != slot;
        self.paths.iter().enumerate().filter(there).map(|(_, path)| path.clone()).collect()
    }

    /// Opened while a disk cannot be read where the log speaks of its data.
    fn open_unreadable(
        &self,
        without: Option<usize>,
        access: Access,
        dirty: bool,
    ) -> uraid::Result<(Lu, Faults)> {
        let start = superblock(&self.paths[0]).data_offset;
        let unreadable = Fault::new(Effect::Fail(EIO)).on(DiskId(0)).only(OpKind::Read);
        let unreadable = unreadable.within(start..start + Sectors(LOGGED as u64 / 512));
        open_with(&self.without(without), access, dirty, &[unreadable])
    }

    /// How each block of the LU is read without a slot: right, not at all, or wrong.
    fn reads(&self, without: Option<usize>) -> Reads {
        let lu = open(&self.without(without), Access::Read).unwrap();
        let mut reads = Reads::default();
        let mut block = vec![0; LOGGED];
        for (n, wanted) in self.data.chunks(LOGGED).enumerate() {
            match lu.read_at(&mut block, (n * LOGGED) as u64) {
                Ok(()) if block == wanted => {}
                Ok(()) => reads.wrong.push(n),
                Err(_) => reads.lost.push(n),
            }
        }
        reads
    }
}

#[derive(Default, PartialEq, Eq, Debug)]
struct Reads {
    lost: Vec<usize>,
    wrong: Vec<usize>,
}

fn lost(blocks: &[usize]) -> Reads {
    Reads { lost: blocks.to_vec(), wrong: Vec::new() }
}

fn open(paths: &[PathBuf], access: Access) -> uraid::Result<Lu> {
    paths.iter().fold(Lu::assemble(), |a, path| a.disk(path)).access(access).degraded(true).open()
}

fn open_with(paths: &[PathBuf], access: Access, dirty: bool, rules: &[Fault]) -> uraid::Result<(Lu, Faults)> {
    let handle: Arc<Mutex<Option<Faults>>> = Arc::default();
    let (keep, rules) = (handle.clone(), rules.to_vec());
    let assemble = paths.iter().fold(Lu::assemble(), |a, path| a.disk(path)).access(access).degraded(true);
    let lu = assemble
        .allow_dirty(dirty)
        .through(move |inner| {
            let faulty = Faulty::new(inner, 1);
            rules.iter().for_each(|rule| faulty.faults().add(rule.clone()));
            *keep.lock().unwrap() = Some(faulty.faults());
            Arc::new(faulty)
        })
        .open()?;
    let faults = handle.lock().unwrap().take().unwrap();
    Ok((lu, faults))
}

/// Blocks of the second and third cell beside what the log speaks of.
const SECOND: usize = CHUNK / LOGGED;

#[test]
fn it_is_all_there_when_it_can_be_read() {
    let torn = Torn::new();
    for slot in 0..4 {
        let reads = torn.reads(Some(slot));
        // What was in flight on a member that is lost with the crash may be anything.
        assert!(slot == 0 || reads == lost(&[]), "without {slot}: {reads:?}");
    }
    open(&torn.paths, Access::Write).unwrap().stop().unwrap();
    (0..4).for_each(|slot| assert_eq!(torn.reads(Some(slot)), lost(&[]), "without {slot}"));
}

#[test]
fn a_member_is_missing() {
    let torn = Torn::new();
    // Looking only.
    let (lu, faults) = torn.open_unreadable(Some(1), Access::Read, false).unwrap();
    faults.clear();
    lu.read_at(&mut vec![0; LOGGED], CHUNK as u64).unwrap_err();
    lu.read_at(&mut vec![0; LOGGED], 0).unwrap();
    drop(lu);
    assert!(bad_blocks(&torn.paths[3]).is_empty());

    let (lu, faults) = torn.open_unreadable(Some(1), Access::Write, false).unwrap();
    faults.clear();
    lu.read_at(&mut vec![0; LOGGED], CHUNK as u64).unwrap_err();
    lu.stop().unwrap();
    assert_eq!(torn.reads(Some(1)), lost(&[SECOND]));
    // A spare is rebuilt: what nobody has is lost on it, and a write heals both that and the parity.
    let fresh = torn.dir.path().join("fresh");
    std::fs::File::create(&fresh).unwrap().set_len(DISK).unwrap();
    let lu = open(&torn.without(Some(1)), Access::Write).unwrap();
    lu.add(&fresh, false).unwrap();
    lu.wait_for_work(&mut |_| true).unwrap();
    lu.stop().unwrap();
    std::fs::rename(&fresh, &torn.paths[1]).unwrap();
    assert_eq!(torn.reads(None), lost(&[SECOND]));
    assert_eq!(torn.reads(Some(2)), lost(&[SECOND, 2 * SECOND]));
    let lu = open(&torn.paths, Access::Write).unwrap();
    lu.write_at(&torn.data[CHUNK..CHUNK + LOGGED], CHUNK as u64).unwrap();
    lu.stop().unwrap();
    (0..4).for_each(|slot| assert_eq!(torn.reads(Some(slot)), lost(&[]), "without {slot}"));
    assert!(torn.paths.iter().all(|path| bad_blocks(path).is_empty()));
}

#[test]
fn a_member_is_being_rebuilt() {
    // Who, how far, and what is lost then: all members there, and without slot 2.
    for (slot, watermark, whole, degraded) in [
        (1, 128, &[][..], &[2 * SECOND][..]),
        // What the rebuild has not come to it would make of the wrong parity; it begins with a whole chunk.
        (1, 0, &[SECOND], &[SECOND, 2 * SECOND]),
        (1, 64, &[SECOND], &[SECOND, 2 * SECOND]),
        // Parity that is rebuilt already...
        (3, 128, &[], &[2 * SECOND]),
        // ...and parity that is made anew anyway.
        (3, 0, &[], &[]),
    ] {
        let torn = Torn::new().rebuilding(slot, watermark);
        let (lu, faults) = torn.open_unreadable(None, Access::Write, false).unwrap();
        faults.clear();
        lu.wait_for_work(&mut |work| {
            assert_eq!(work.kind, WorkKind::Rebuild);
            true
        })
        .unwrap();
        assert_eq!(lu.status().state, State::Healthy, "{:#?}", lu.status());
        lu.stop().unwrap();
        let name = format!("slot {slot} rebuilt below {watermark}");
        assert_eq!(torn.reads(None), lost(whole), "{name}");
        assert_eq!(torn.reads(Some(2)), lost(degraded), "{name}, without slot 2");
    }
}

/// The rows are on record before the log that tells of them is emptied, and taken from there.
#[test]
fn the_power_goes_in_between() {
    let torn = Torn::new();
    let parity = superblock(&torn.paths[3]);
    let start = superblock(&torn.paths[0]).data_offset;
    let log = parity.ppl_area().unwrap();
    let rules = [
        Fault::new(Effect::Fail(EIO)).on(DiskId(0)).only(OpKind::Read).within(start..start + Sectors(8)),
        Fault::new(Effect::Fail(EIO)).only(OpKind::Write).within(log.start..log.end()),
    ];
    open_with(&torn.without(Some(1)), Access::Write, false, &rules).err().expect("no log can be emptied");
    let at = parity.data_offset;
    assert_eq!(bad_blocks(&torn.paths[3]).overlap(at, Sectors(100)).map(|a| a.length), Some(Sectors(8)));
    assert!(inspect(&torn.paths[3]).unwrap().ppl_entries.unwrap().unwrap() > 0, "the log is whole");
    assert_eq!(torn.reads(Some(1)), lost(&[SECOND]));
    open(&torn.without(Some(1)), Access::Write).unwrap().stop().unwrap();
    assert_eq!(torn.reads(Some(1)), lost(&[SECOND]));
}

/// No list, no start; unless that is wanted.
#[test]
fn there_is_no_list() {
    let torn = Torn::new();
    torn.paths.iter().for_each(|path| change(path, |superblock| superblock.bblog = Default::default()));
    let error = torn.open_unreadable(Some(1), Access::Write, false).err().expect("refused");
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Io, "{text}");
    assert!(text.contains("slot 3") && text.contains("--allow-dirty"), "{text}");
    assert!(inspect(&torn.paths[3]).unwrap().ppl_entries.unwrap().unwrap() > 0, "the log is whole");
    // It can be looked at, and once it can be read again nothing is lost.
    assert_eq!(torn.reads(Some(1)), lost(&[]));
    let (lu, _) = torn.open_unreadable(Some(1), Access::Write, true).unwrap();
    lu.stop().unwrap();
}

/// Everything is resynced where no member is missing; also if the power goes when the log that tells of what could not be
/// read is emptied and those of the others still say that nothing else was in flight.
#[test]
fn the_power_goes_before_a_resync() {
    let torn = Torn::new();
    let log = superblock(&torn.paths[3]).ppl_area().unwrap();
    let start = superblock(&torn.paths[0]).data_offset;
    let metadata = DiskLba(0)..log.end();
    let fails =
        |disk| Fault::new(Effect::Fail(EIO)).on(DiskId(disk)).only(OpKind::Write).within(metadata.clone());
    // The disk with the parity is named first; nothing but data can be written on the others.
    let paths: Vec<PathBuf> = torn.paths.iter().rev().cloned().collect();
    let rules = [
        Fault::new(Effect::Fail(EIO)).on(DiskId(3)).only(OpKind::Read).within(start..start + Sectors(8)),
        fails(1),
        fails(2),
        fails(3),
        Fault::new(Effect::Fail(EIO)).on(DiskId(0)).only(OpKind::Write).within(DiskLba(0)..log.start),
    ];
    open_with(&paths, Access::Write, false, &rules).err().expect("no log can be emptied");
    let lu = open(&paths, Access::Write).unwrap();
    lu.wait_for_work(&mut |work| {
        assert_eq!(work.kind, WorkKind::Resync);
        true
    })
    .unwrap();
    lu.stop().unwrap();
    (0..4).for_each(|slot| assert_eq!(torn.reads(Some(slot)), lost(&[]), "without {slot}"));
}
