//! The write-intent bitmap: a crash costs a resync of what was being written and no more, a member that comes
//! back is brought up to date with what it missed and no more, and neither ever costs a byte.

#[path = "common/power.rs"]
mod power;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use power::{Record, Recorder};
use uraid::Lu;
use uraid::disk::DiskId;
use uraid::disk::faulty::{Faults, Faulty};
use uraid::disk::traced::{Trace, Traced};
use uraid::lu::{Access, Create, Marked, Policy, State, WorkKind, inspect};
use uraid::units::Level;

const MIB: u64 = 1 << 20;

/// Where the bitmap is on a member of version 1.2.
const AT: usize = 8192;

/// What one bit stands for in these tests, in bytes.
const CHUNK: u32 = 65536;

const LEVELS: [(Level, usize); 5] =
    [(Level::Raid1, 2), (Level::Raid4, 3), (Level::Raid5, 4), (Level::Raid6, 5), (Level::Raid10, 3)];

fn disks(folder: &Path, count: usize) -> Vec<PathBuf> {
    (0..count).map(|i| folder.join(format!("d{i}"))).collect()
}

fn create(paths: &[PathBuf], level: Level) -> Create {
    let create = paths.iter().fold(Lu::create("marks", level), |create, path| create.disk(path));
    create.policy(Policy::Bitmap).bitmap_chunk(CHUNK).disk_size(6 * MIB)
}

fn open(paths: &[PathBuf], access: Access) -> Lu {
    let assemble = paths.iter().fold(Lu::assemble(), |assemble, path| assemble.disk(path));
    assemble.access(access).degraded(true).open().unwrap_or_else(|error| panic!("{error}"))
}

fn all_but(paths: &[PathBuf], away: usize) -> Vec<PathBuf> {
    paths.iter().enumerate().filter(|(i, _)| *i != away).map(|(_, path)| path.clone()).collect()
}

fn read_all(lu: &Lu) -> Vec<u8> {
    let mut bytes = vec![0; lu.size() as usize];
    lu.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn marked(lu: &Lu) -> Marked {
    lu.status().bitmap.expect("a bitmap")
}

/// Every block is the same whichever member is away.
fn redundancy_agrees(paths: &[PathBuf], what: &str) -> Vec<u8> {
    let whole = read_all(&open(paths, Access::Read));
    for away in 0..paths.len() {
        let bytes = read_all(&open(&all_but(paths, away), Access::Read));
        let differs = whole.iter().zip(&bytes).position(|(a, b)| a != b);
        assert_eq!(differs, None, "{what}: reads differently without disk {away}");
    }
    whole
}

/// A splitmix64 sequence.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// Clearing rounds every second, as fast as md lets them be.
fn hurry(paths: &[PathBuf]) {
    for path in paths {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[AT + 56..AT + 60].copy_from_slice(&1u32.to_le_bytes());
        std::fs::write(path, bytes).unwrap();
    }
}

#[test]
fn marks_come_before_writes_and_go_when_they_rest() {
    for (level, count) in LEVELS {
        let folder = tempfile::tempdir().unwrap();
        let paths = disks(folder.path(), count);
        create(&paths, level).make().unwrap().stop().unwrap();
        hurry(&paths);
        let lu = open(&paths, Access::Write);
        assert_eq!((lu.status().policy, marked(&lu).chunks), (Policy::Bitmap, 0), "{level}");
        for at in [0, 70_000, 1 << 20] {
            lu.write_at(&[7; 4096], at).unwrap();
            let now = marked(&lu).chunks;
            assert!(now > 0, "{level}");
            for path in &paths {
                let facts = inspect(path).unwrap().bitmap.unwrap().unwrap();
                assert_eq!(
                    (facts.set, facts.bits),
                    (now, marked(&lu).total),
                    "{level}: on {}",
                    path.display()
                );
                assert!(facts.header.events >= inspect(path).unwrap().superblock.events, "{level}");
            }
        }
        // Idle: clean at once, the marks some rounds later.
        for _ in 0..400 {
            if marked(&lu).chunks == 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(marked(&lu).chunks, 0, "{level}: marks rest for ever");
        lu.write_at(&[8; 4096], 4096).unwrap();
        assert_ne!(marked(&lu).chunks, 0, "{level}");
        lu.stop().unwrap();
        for path in &paths {
            assert_eq!(inspect(path).unwrap().bitmap.unwrap().unwrap().set, 0, "{level}: stopped clean");
        }
        redundancy_agrees(&paths, &level.to_string());
    }
}

// --- power cuts
// -------------------------------------------------------------------------------------------------------

const BLOCK: usize = 4096;

/// What block `n` holds after write number `write`.
fn content(n: u64, write: u64) -> Vec<u8> {
    let word = (n << 24 | write).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
    if write == 0 { vec![0; BLOCK] } else { word.iter().copied().cycle().take(BLOCK).collect() }
}

/// A load that was recorded: which block was written when, and what was safe when.
struct Load {
    record: Record,
    /// Block, and the moment when its write was begun; its number is one more than its place here.
    writes: Vec<(u64, usize)>,
    /// Writes that were flushed, and the moment from which on.
    safe: Vec<(usize, usize)>,
    blocks: u64,
}

impl Load {
    /// Bursts of writes here and there, with rests in which marks are cleared. With `fails`, a member fails
    /// and comes back.
    fn run(paths: &[PathBuf], seed: u64, fails: bool) -> Load {
        let record = Record::default();
        let handle = record.clone();
        let assemble = paths.iter().fold(Lu::assemble(), |assemble, path| assemble.disk(path));
        let assemble = assemble.through(move |inner| Arc::new(Recorder::new(inner, handle.clone())));
        let lu = assemble.access(Access::Write).open().unwrap();
        let blocks = lu.size() / BLOCK as u64;
        let mut random = Random(seed);
        let mut load = Load { record, writes: Vec::new(), safe: vec![(0, 0)], blocks };
        for round in 0..7 {
            match round {
                2 | 4 if fails => lu.fail(&paths[1]).unwrap(),
                3 | 6 if fails => lu.add(&paths[1], false).unwrap(),
                _ => {}
            }
            let near = random.below(blocks);
            for _ in 0..12 {
                let block = if random.below(3) == 0 {
                    random.below(blocks)
                } else {
                    (near + random.below(24)) % blocks
                };
                load.writes.push((block, load.record.now()));
                lu.write_at(&content(block, load.writes.len() as u64), block * BLOCK as u64).unwrap();
                if random.below(5) == 0 {
                    lu.flush().unwrap();
                    load.safe.push((load.writes.len(), load.record.now()));
                }
            }
            let rest = [5, 350, 1100, 2300][(round + seed as usize) % 4];
            std::thread::sleep(Duration::from_millis(rest));
        }
        lu.stop().unwrap();
        load.safe.push((load.writes.len(), load.record.now()));
        load
    }

    /// Each sector holds what was safe at `moment`, or what was written to it later.
    fn check(&self, bytes: &[u8], moment: usize, what: &str) {
        let safe =
            self.safe.iter().rev().find(|(_, since)| *since <= moment).map_or(0, |(writes, _)| *writes);
        for (block, bytes) in (0..self.blocks).zip(bytes.chunks(BLOCK)) {
            let to_it = |&(_, write): &(usize, &(u64, usize))| write.0 == block && write.1 <= moment;
            let mut all: Vec<usize> =
                self.writes.iter().enumerate().filter(to_it).map(|(i, _)| i + 1).collect();
            all.insert(0, 0);
            let least = all.iter().rposition(|&write| write <= safe).unwrap_or(0);
            for (sector, bytes) in bytes.chunks(512).enumerate() {
                let holds = |&write: &usize| bytes == &content(block, write as u64)[sector * 512..][..512];
                assert!(
                    all[least..].iter().any(holds),
                    "{what}: block {block} sector {sector} is none of the writes {:?}",
                    &all[least..]
                );
            }
        }
    }
}

/// Cuts the power of `load` at `moment` and leaves in `paths` what the disks, which held `images` at first,
/// may hold then.
fn cut(record: &Record, moment: usize, images: &[Vec<u8>], paths: &[PathBuf], random: &mut Random) {
    let likely = random.below(5);
    let mut images = images.to_vec();
    record.cut(moment, &mut images, || random.below(4) < likely);
    for (path, image) in paths.iter().zip(&images) {
        std::fs::write(path, image).unwrap();
    }
}

/// Resyncs and stops clean, and cuts the power somewhere in the middle of that.
fn cut_recovery(paths: &[PathBuf], random: &mut Random) {
    let images: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let record = Record::default();
    let handle = record.clone();
    let assemble = paths.iter().fold(Lu::assemble(), |assemble, path| assemble.disk(path));
    let assemble = assemble.through(move |inner| Arc::new(Recorder::new(inner, handle.clone())));
    let lu = assemble.access(Access::Write).degraded(true).open().unwrap();
    lu.wait_for_work(&mut |_| true).unwrap();
    lu.stop().unwrap();
    let moment = random.below(record.now() as u64 + 1) as usize;
    cut(&record, moment, &images, paths, random);
}

fn crash_test(level: Level, count: usize, seed: u64, cuts: usize, fails: bool) {
    let folder = tempfile::tempdir().unwrap();
    let paths = disks(folder.path(), count);
    create(&paths, level).make().unwrap().stop().unwrap();
    hurry(&paths);
    let images: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let load = Load::run(&paths, seed, fails);
    let mut random = Random(seed ^ 0xC0FFEE);
    let end = load.record.now();
    let (mut dirty, mut partly, mut returns) = (0, 0, 0);
    for number in 0..cuts {
        let moment = random.below(end as u64 + 1) as usize;
        let what = format!("{level} seed {seed} cut {number} at {moment} of {end}");
        cut(&load.record, moment, &images, &paths, &mut random);
        load.check(&read_all(&open(&paths, Access::Read)), moment, &what);
        let look =
            || paths[1..].iter().fold(Lu::assemble().disk(&paths[0]), |a, path| a.disk(path)).look().unwrap();
        let before = look();
        assert_eq!(before.refusal, None, "{what}");
        let bitmap = before.bitmap.expect("a bitmap");
        if let Some(work) = before.work {
            assert!(fails || work.kind == WorkKind::Resync, "{what}");
            // RAID1 is filled a MiB at a time.
            let step = if level == Level::Raid1 { MIB } else { bitmap.chunk_bytes };
            let resync = work.kind == WorkKind::Resync;
            assert!(!resync || work.total_bytes <= bitmap.chunks * step, "{what}: {work:?} {bitmap:?}");
            dirty += 1;
            partly += usize::from(bitmap.chunks < bitmap.total / 2);
        }
        while random.below(2) == 0 {
            cut_recovery(&paths, &mut random);
            load.check(&read_all(&open(&paths, Access::Read)), moment, &what);
        }
        let lu = open(&paths, Access::Write);
        lu.wait_for_work(&mut |_| true).unwrap();
        if lu.status().state == State::Degraded {
            lu.add(&paths[1], false).unwrap();
            lu.wait_for_work(&mut |_| true).unwrap();
            returns += usize::from(lu.status().warnings.iter().any(|text| text.contains("had to be copied")));
        }
        assert_eq!(lu.status().state, State::Healthy, "{what}: {:#?}", lu.status());
        lu.stop().unwrap();
        let whole = redundancy_agrees(&paths, &what);
        load.check(&whole, moment, &what);
    }
    // Else the test has no teeth.
    assert!(
        dirty * 4 > cuts && partly * 2 > dirty,
        "{level}: of {cuts} cuts {dirty} dirty, {partly} in part"
    );
    assert_eq!(returns > 2, fails, "{level}: {returns} returns");
}

#[test]
fn power_cuts_raid1() {
    crash_test(Level::Raid1, 2, 1, 40, false);
}

#[test]
fn power_cuts_raid4() {
    crash_test(Level::Raid4, 3, 2, 40, false);
}

#[test]
fn power_cuts_raid5() {
    crash_test(Level::Raid5, 4, 3, 40, false);
}

#[test]
fn power_cuts_raid6() {
    crash_test(Level::Raid6, 5, 4, 40, false);
}

#[test]
fn power_cuts_raid10() {
    crash_test(Level::Raid10, 3, 5, 40, false);
}

#[test]
fn power_cuts_raid1_with_a_member_that_comes_and_goes() {
    crash_test(Level::Raid1, 3, 6, 40, true);
}

#[test]
fn power_cuts_raid10_with_a_member_that_comes_and_goes() {
    crash_test(Level::Raid10, 3, 8, 40, true);
}

// --- damaged and stale copies
// -----------------------------------------------------------------------------------------

/// The members of an LU as a power cut in the middle of writing leaves them, and what it holds.
fn dirty_lu(folder: &Path, level: Level, count: usize) -> (Vec<PathBuf>, Vec<u8>) {
    let paths = disks(folder, count);
    let lu = create(&paths, level).make().unwrap();
    lu.write_at(&[3; 300_000], 0).unwrap();
    lu.stop().unwrap();
    let lu = open(&paths, Access::Write);
    lu.write_at(&[4; 5000], 100_000).unwrap();
    lu.flush().unwrap();
    let content = read_all(&lu);
    let images: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    lu.stop().unwrap();
    for (path, image) in paths.iter().zip(images) {
        std::fs::write(path, image).unwrap();
    }
    (paths, content)
}

fn damage(path: &Path, at: usize, bytes: &[u8]) {
    let mut image = std::fs::read(path).unwrap();
    image[at..at + bytes.len()].copy_from_slice(bytes);
    std::fs::write(path, image).unwrap();
}

#[test]
fn a_damaged_copy_is_replaced_by_another_s() {
    for (level, count) in LEVELS {
        let folder = tempfile::tempdir().unwrap();
        let (paths, content) = dirty_lu(folder.path(), level, count);
        damage(&paths[1], AT, &[0xA5; 4096]);
        let lu = open(&paths, Access::Read);
        assert!(read_all(&lu) == content, "{level}");
        let status = lu.status();
        assert!(status.warnings.iter().any(|w| w.contains("write-intent bitmap")), "{status:#?}");
        let bitmap = status.bitmap.unwrap();
        assert!(bitmap.chunks < bitmap.total / 4, "{level}: {bitmap:?}");
        drop(lu);
        let lu = open(&paths, Access::Write);
        lu.wait_for_work(&mut |_| true).unwrap();
        lu.stop().unwrap();
        assert!(redundancy_agrees(&paths, &level.to_string()) == content, "{level}");
        let copies: Vec<_> =
            paths.iter().map(|path| std::fs::read(path).unwrap()[AT..AT + 512].to_vec()).collect();
        assert!(copies.iter().all(|copy| *copy == copies[0]), "{level}: all copies are the same again");
    }
}

#[test]
fn without_a_good_copy_everything_is_verified_and_the_lu_starts() {
    for (level, count) in LEVELS {
        for stale in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let (paths, content) = dirty_lu(folder.path(), level, count);
            for path in &paths {
                // Rubbish, or an event count behind the superblocks'.
                if stale {
                    damage(path, AT + 24, &1u64.to_le_bytes())
                } else {
                    damage(path, AT, &[0xA5; 4096])
                }
            }
            let status = paths[1..]
                .iter()
                .fold(Lu::assemble().disk(&paths[0]), |a, path| a.disk(path))
                .look()
                .unwrap();
            assert_eq!(status.refusal, None, "{level}");
            let bitmap = status.bitmap.unwrap();
            assert_eq!(bitmap.chunks, bitmap.total, "{level}: all are suspect");
            let verified = status.warnings.iter().any(|w| w.contains("everything is verified"));
            assert_eq!(verified, !stale, "{level}: {:#?}", status.warnings);
            let lu = open(&paths, Access::Write);
            let mut total = 0;
            lu.wait_for_work(&mut |work| {
                total = work.total_bytes;
                true
            })
            .unwrap();
            assert!(total == 0 || total >= 4 * MIB, "{level}: {total} bytes were looked at");
            lu.stop().unwrap();
            assert!(redundancy_agrees(&paths, &level.to_string()) == content, "{level}");
            assert_eq!(inspect(&paths[0]).unwrap().bitmap.unwrap().unwrap().set, 0, "{level}");
        }
    }
}

// --- members that come back
// -------------------------------------------------------------------------------------------

#[test]
fn a_member_that_comes_back_is_given_what_it_missed() {
    for (level, count) in LEVELS {
        let folder = tempfile::tempdir().unwrap();
        let paths = disks(folder.path(), count);
        let handle: Arc<Mutex<Option<Faults>>> = Arc::default();
        let keep = handle.clone();
        let lu = create(&paths, level).make().unwrap();
        lu.write_at(&vec![5; lu.size() as usize], 0).unwrap();
        lu.stop().unwrap();
        let assemble = paths.iter().fold(Lu::assemble(), |assemble, path| assemble.disk(path));
        let assemble = assemble.through(move |inner| {
            let faulty = Faulty::new(inner, 1);
            *keep.lock().unwrap() = Some(faulty.faults());
            Arc::new(faulty)
        });
        let lu = assemble.access(Access::Write).open().unwrap();
        let faults = handle.lock().unwrap().clone().unwrap();
        faults.set_gone(DiskId(1), true);
        lu.write_at(&[6; 9000], 123_456).unwrap();
        lu.write_at(&[9; 30_000], lu.size() - 30_000).unwrap();
        assert_eq!(lu.status().state, State::Degraded, "{level}");
        faults.set_gone(DiskId(1), false);
        lu.write_at(&[6; 900], 123_456 + 4096).unwrap();
        lu.add(&paths[1], false).unwrap();
        // Writes go on while it is brought up to date.
        lu.write_at(&[7; 5000], 1 << 20).unwrap();
        lu.wait_for_work(&mut |_| true).unwrap();
        let status = lu.status();
        assert_eq!(status.state, State::Healthy, "{level}: {status:#?}");
        let told = status
            .warnings
            .iter()
            .find(|text| text.contains("had to be copied"))
            .unwrap_or_else(|| panic!("{status:#?}"));
        let copied: u64 =
            told.split_whitespace().find_map(|word| word.parse().ok().filter(|&n| n > 1)).unwrap();
        let most = if level == Level::Raid1 { 5 * MIB } else { 2 * MIB };
        assert!(copied >= 65536 && copied < most, "{level}: {told}");
        let content = read_all(&lu);
        lu.stop().unwrap();
        assert!(redundancy_agrees(&paths, &level.to_string()) == content, "{level}");
    }
}

#[test]
fn a_member_left_out_of_some_sessions_comes_back_unless_the_lu_was_whole_without_it() {
    for (level, count) in LEVELS {
        let folder = tempfile::tempdir().unwrap();
        let paths = disks(folder.path(), count);
        let spare = folder.path().join("spare");
        let lu = create(&paths, level).make().unwrap();
        lu.write_at(&vec![1; lu.size() as usize], 0).unwrap();
        lu.stop().unwrap();
        let rest = all_but(&paths, 0);
        for at in [0, 200_000] {
            let lu = open(&rest, Access::Write);
            lu.write_at(&[2; 10_000], at).unwrap();
            lu.stop().unwrap();
        }
        // All are offered, one is stale; adding it copies what it missed.
        let lu = open(&paths, Access::Write);
        assert_eq!(lu.status().state, State::Degraded, "{level}");
        lu.add(&paths[0], false).unwrap();
        lu.wait_for_work(&mut |_| true).unwrap();
        assert!(lu.status().warnings.iter().any(|text| text.contains("had to be copied")), "{level}");
        lu.stop().unwrap();
        redundancy_agrees(&paths, &level.to_string());

        // Gone again, and somebody else has its slot for a while: it has missed what nobody remembers.
        let lu = open(&rest, Access::Write);
        lu.write_at(&[3; 10_000], 300_000).unwrap();
        std::fs::File::create(&spare).unwrap().set_len(6 * MIB).unwrap();
        lu.add(&spare, false).unwrap();
        lu.wait_for_work(&mut |_| true).unwrap();
        lu.stop().unwrap();
        let now: Vec<PathBuf> = std::iter::once(spare).chain(rest.iter().cloned()).collect();
        redundancy_agrees(&now, &level.to_string());
        let lu = open(&rest, Access::Write);
        lu.write_at(&[4; 10_000], 500_000).unwrap();
        lu.add(&paths[0], false).unwrap();
        lu.wait_for_work(&mut |_| true).unwrap();
        let status = lu.status();
        assert_eq!(status.state, State::Healthy, "{level}");
        assert!(
            !status.warnings.iter().any(|text| text.contains("had to be copied")),
            "{level}: {status:#?}"
        );
        lu.stop().unwrap();
        redundancy_agrees(&paths, &level.to_string());
    }
}

#[test]
fn one_that_lived_on_alone_is_rebuilt_in_full() {
    let folder = tempfile::tempdir().unwrap();
    let paths = disks(folder.path(), 2);
    create(&paths, Level::Raid1).make().unwrap().stop().unwrap();
    for (i, path) in paths.iter().enumerate() {
        let lu = open(std::slice::from_ref(path), Access::Write);
        lu.write_at(&[i as u8 + 1; 4096], i as u64 * MIB).unwrap();
        lu.stop().unwrap();
    }
    let lu = open(&paths[..1], Access::Write);
    lu.add(&paths[1], false).unwrap();
    lu.wait_for_work(&mut |_| true).unwrap();
    assert!(!lu.status().warnings.iter().any(|text| text.contains("had to be copied")));
    lu.stop().unwrap();
    redundancy_agrees(&paths, "split brain");
}

// --- what it costs
// ----------------------------------------------------------------------------------------------------

/// Disk operations of 200 random 4 KiB writes.
fn cost(level: Level, count: usize, policy: Policy) -> (u64, u64) {
    let folder = tempfile::tempdir().unwrap();
    let paths = disks(folder.path(), count);
    let handle: Arc<Mutex<Option<Trace>>> = Arc::default();
    let keep = handle.clone();
    let create =
        paths.iter().fold(Lu::create("cost", level), |create, path| create.disk(path)).policy(policy);
    let lu = create
        .disk_size(64 * MIB)
        .through(move |inner| {
            let traced = Traced::new(inner, 0);
            *keep.lock().unwrap() = Some(traced.trace());
            Arc::new(traced)
        })
        .make()
        .unwrap();
    lu.write_at(&[1; 4096], 0).unwrap();
    let trace = handle.lock().unwrap().clone().unwrap();
    trace.clear();
    let mut random = Random(9);
    for _ in 0..200 {
        let at = random.below(lu.size() / 4096) * 4096;
        lu.write_at(&[2; 4096], at).unwrap();
    }
    let total = trace.total();
    lu.stop().unwrap();
    (total.reads, total.writes)
}

/// In a region that is marked a write costs what it costs without a bitmap.
#[test]
fn a_write_to_a_marked_region_costs_nothing_more() {
    for (level, count, writes) in [(Level::Raid1, 2, 2), (Level::Raid5, 4, 2), (Level::Raid6, 5, 3)] {
        let plain = cost(level, count, Policy::None);
        let marked = cost(level, count, Policy::Bitmap);
        assert_eq!(plain.1, 200 * writes, "{level}");
        // But for the first write to the second region, if there is one.
        assert!(marked.1 - plain.1 <= 2 * count as u64, "{level}: {marked:?} instead of {plain:?}");
        assert_eq!(marked.0, plain.0, "{level}");
    }
}
