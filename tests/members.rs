//! Disks come and go: failure, spares, rebuild, adding and removing, interrupted and resumed.

#[path = "common/pattern.rs"]
mod pattern;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use pattern::pattern;
use uraid::disk::faulty::{Effect, Fault, Faults, Faulty};
use uraid::disk::{DiskId, OpKind};
use uraid::lu::{Access, MemberState, Policy, State, WorkKind};
use uraid::units::{DiskLba, Level};
use uraid::{ErrorKind, Lu};

const DISK: u64 = 24 << 20;

fn read_all(lu: &Lu) -> Vec<u8> {
    let mut bytes = vec![0; lu.size() as usize];
    lu.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn paths(dir: &Path, count: usize) -> Vec<PathBuf> {
    (0..count).map(|i| dir.join(format!("d{i}"))).collect()
}

/// An LU of `disks` disks and a spare for each of `spares`, with a handle to make its disks fail.
fn make(dir: &Path, level: Level, disks: usize, spares: usize) -> (Lu, Vec<PathBuf>, Faults) {
    let all = paths(dir, disks + spares);
    let handle: Arc<Mutex<Option<Faults>>> = Arc::default();
    let keep = handle.clone();
    let create = all[..disks]
        .iter()
        .fold(Lu::create("test", level).policy(Policy::None).disk_size(DISK), |c, path| c.disk(path));
    let create = all[disks..].iter().fold(create, |c, path| c.spare(path));
    let create = create.through(move |inner| {
        let faulty = Faulty::new(inner, 1);
        *keep.lock().unwrap() = Some(faulty.faults());
        Arc::new(faulty)
    });
    let lu = create.make().unwrap();
    let faults = handle.lock().unwrap().take().unwrap();
    (lu, all, faults)
}

fn open(paths: &[PathBuf], access: Access) -> uraid::Result<Lu> {
    paths.iter().fold(Lu::assemble(), |a, path| a.disk(path)).access(access).degraded(true).open()
}

fn settled(lu: &Lu) {
    lu.wait_for_work(&mut |_| true).unwrap();
}

/// Waits until the LU has noticed that a member is gone and has dealt with it.
fn until(lu: &Lu, what: impl Fn(&uraid::lu::Status) -> bool) {
    for _ in 0..2000 {
        let status = lu.status();
        for member in status.members.iter().filter(|member| member.slot.is_some()) {
            let empty = member.state == MemberState::Missing;
            assert_eq!(member.disk == "-", empty, "a slot without its disk: {status:#?}");
        }
        if what(&status) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("never came: {:#?}", lu.status());
}

const REDUNDANT: [(Level, usize); 5] =
    [(Level::Raid1, 2), (Level::Raid4, 3), (Level::Raid5, 4), (Level::Raid6, 5), (Level::Raid10, 4)];

#[test]
fn a_spare_takes_over_under_load_and_another_member_may_die() {
    for (level, disks) in REDUNDANT {
        let dir = tempfile::tempdir().unwrap();
        let (lu, paths, faults) = make(dir.path(), level, disks, 1);
        let model = Mutex::new(pattern(lu.size() as usize, 3));
        lu.write_at(&model.lock().unwrap(), 0).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut i = 0;
                while !stop.load(Ordering::Relaxed) {
                    let mut model = model.lock().unwrap();
                    let (at, len) = (i * 77_773 % (model.len() - 70_000), 1 + i * 4099 % 66_000);
                    let bytes = pattern(len, i as u64 + 50);
                    lu.write_at(&bytes, at as u64).unwrap();
                    model[at..at + len].copy_from_slice(&bytes);
                    i += 1;
                }
            });
            std::thread::sleep(std::time::Duration::from_millis(30));
            faults.set_gone(DiskId(0), true);
            until(&lu, |status| status.state == State::Rebuilding || status.spares == 0);
            settled(&lu);
            std::thread::sleep(std::time::Duration::from_millis(30));
            stop.store(true, Ordering::Relaxed);
        });
        let status = lu.status();
        assert_eq!(status.state, State::Healthy, "{level}: {status:#?}");
        let former = status.members.iter().find(|m| m.disk == paths[0].display().to_string()).unwrap();
        assert_eq!((former.state, former.slot), (MemberState::Faulty, None));
        let model = model.into_inner().unwrap();
        assert!(read_all(&lu) == model, "{level} after the rebuild");
        lu.stop().unwrap();
        // One more of the old members is away now: everything must be on the spare.
        let rest = &paths[2..];
        let lu = open(rest, Access::Read).unwrap();
        assert!(read_all(&lu) == model, "{level} without two of the first disks");
    }
}

#[test]
fn a_rebuild_that_is_cut_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (lu, paths, _) = make(dir.path(), Level::Raid5, 3, 0);
    let model = pattern(lu.size() as usize, 9);
    lu.write_at(&model, 0).unwrap();
    lu.fail(&paths[1]).unwrap();
    assert_eq!(lu.status().state, State::Degraded);
    let spare = dir.path().join("spare");
    std::fs::File::create(&spare).unwrap().set_len(DISK).unwrap();
    lu.add(&spare, false).unwrap();
    lu.wait_for_work(&mut |work| work.done_bytes == 0).unwrap();
    lu.stop().unwrap();
    let offered = [paths[0].clone(), paths[2].clone(), spare];
    let lu = open(&offered, Access::Write).unwrap();
    let mut first = None;
    lu.wait_for_work(&mut |work| {
        assert_eq!(work.kind, WorkKind::Rebuild);
        first.get_or_insert(work.done_bytes);
        true
    })
    .unwrap();
    assert_eq!(lu.status().state, State::Healthy, "{:#?}", lu.status());
    lu.stop().unwrap();
    let lu = open(&offered[1..], Access::Read).unwrap();
    assert!(read_all(&lu) == model);
}

#[test]
fn work_rests_while_it_is_paused_and_goes_on_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let (lu, paths, _) = make(dir.path(), Level::Raid5, 3, 1);
    let model = pattern(lu.size() as usize, 11);
    lu.write_at(&model, 0).unwrap();
    // What has not begun does not begin.
    lu.pause_work();
    lu.fail(&paths[1]).unwrap();
    settled(&lu);
    assert_eq!((lu.status().state, lu.status().spares), (State::Degraded, 1));
    // The keeper sleeps by now, for as long as nothing happens.
    std::thread::sleep(std::time::Duration::from_millis(300));
    lu.resume_work();
    // What is under way rests where it is, also if both are said at once.
    assert!(!lu.watch_work(&mut |work| work.is_none_or(|work| work.done_bytes == 0)).unwrap());
    lu.pause_work();
    settled(&lu);
    let rests = lu.status().work.expect("something is left");
    assert!(0 < rests.done_bytes && rests.done_bytes < rests.total_bytes, "{rests:?}");
    lu.resume_work();
    lu.pause_work();
    settled(&lu);
    assert_eq!(lu.status().state, State::Rebuilding);
    lu.pause_work();
    lu.resume_work();
    settled(&lu);
    assert_eq!(lu.status().state, State::Healthy, "{:#?}", lu.status());
    assert!(read_all(&lu) == model);
    lu.stop().unwrap();
}

#[test]
fn a_rebuild_that_fills_all_memory_is_written_down_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let paths = paths(dir.path(), 2);
    let create = paths.iter().fold(Lu::create("test", Level::Raid1), |create, path| create.disk(path));
    let lu = create.disk_size(512 << 20).make().unwrap();
    lu.write_at(b"here", 300 << 20).unwrap();
    lu.fail(&paths[1]).unwrap();
    lu.add(&paths[1], false).unwrap();
    lu.wait_for_work(&mut |_| false).unwrap();
    lu.stop().unwrap();
    // The first superblocks that this keeper writes are those of a checkpoint.
    let lu = open(&paths, Access::Write).unwrap();
    settled(&lu);
    assert_eq!(lu.status().state, State::Healthy, "{:#?}", lu.status());
    lu.stop().unwrap();
    let lu = open(&paths[1..], Access::Read).unwrap();
    let mut bytes = [0; 4];
    lu.read_at(&mut bytes, 300 << 20).unwrap();
    assert_eq!(&bytes, b"here");
}

#[test]
fn a_removed_disk_comes_back_and_is_recognised() {
    let dir = tempfile::tempdir().unwrap();
    let (lu, paths, _) = make(dir.path(), Level::Raid1, 3, 0);
    let model = pattern(lu.size() as usize, 4);
    lu.write_at(&model, 0).unwrap();
    let identity = |path: &PathBuf| uraid::lu::inspect(path).unwrap().superblock.device_uuid;
    let before = identity(&paths[2]);
    lu.remove(&paths[2]).unwrap();
    assert_eq!(lu.status().members.len(), 3, "two members and an empty slot");
    lu.add(&paths[2], false).unwrap();
    settled(&lu);
    assert_eq!(lu.status().state, State::Healthy, "{:#?}", lu.status());
    lu.stop().unwrap();
    assert_eq!(identity(&paths[2]), before);
    let lu = open(&paths[2..], Access::Read).unwrap();
    assert!(read_all(&lu) == model);
}

#[test]
fn what_cannot_be_is_refused_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let (lu, paths, _) = make(dir.path(), Level::Raid5, 3, 0);
    lu.fail(&paths[0]).unwrap();
    let error = lu.fail(&paths[1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert_eq!(lu.remove(&paths[1]).unwrap_err().kind(), ErrorKind::Refused);
    let small = dir.path().join("small");
    std::fs::File::create(&small).unwrap().set_len(DISK - (1 << 20)).unwrap();
    let error = lu.add(&small, false).unwrap_err();
    assert!(error.kind() == ErrorKind::Usage && error.to_string().contains("more"), "{error}");
    let used = dir.path().join("used");
    let mut bytes = vec![0; DISK as usize];
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes[446..462].copy_from_slice(&[0x80, 1, 1, 0, 0x83, 1, 1, 1, 0, 8, 0, 0, 0, 8, 0, 0]);
    std::fs::write(&used, &bytes).unwrap();
    let error = lu.add(&used, false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(std::fs::read(&used).unwrap() == bytes, "a refusal changes nothing");
    assert_eq!(lu.add(&paths[1], false).unwrap_err().kind(), ErrorKind::Usage, "a member already");
    lu.add(&used, true).unwrap();
    settled(&lu);
    assert_eq!(lu.status().state, State::Healthy);
    lu.stop().unwrap();
}

#[test]
fn a_spare_can_be_added_and_taken_away_again() {
    let dir = tempfile::tempdir().unwrap();
    let (lu, paths, _) = make(dir.path(), Level::Raid10, 4, 1);
    lu.remove(&paths[4]).unwrap();
    assert_eq!(lu.status().spares, 0);
    assert!(uraid::lu::inspect(&paths[4]).is_err(), "its superblock is erased");
    lu.add(&paths[4], false).unwrap();
    settled(&lu);
    assert_eq!(lu.status().spares, 1);
    lu.stop().unwrap();
    assert_eq!(Lu::assemble().beside(&paths[0]).look().unwrap().spares, 1);
}

#[test]
fn an_unreadable_sector_during_a_rebuild_costs_that_block_only() {
    let dir = tempfile::tempdir().unwrap();
    let (lu, paths, faults) = make(dir.path(), Level::Raid5, 3, 1);
    let model = pattern(lu.size() as usize, 12);
    lu.write_at(&model, 0).unwrap();
    lu.flush().unwrap();
    let data = uraid::lu::inspect(&paths[1]).unwrap().superblock.data_offset;
    let bad = DiskLba(data.0 + 200)..DiskLba(data.0 + 208);
    faults.add(Fault::new(Effect::Fail(5)).on(DiskId(1)).only(OpKind::Read).within(bad));
    faults.set_gone(DiskId(0), true);
    until(&lu, |_| lu.write_at(&model[..4096], 0).is_ok() && lu.status().spares == 0);
    settled(&lu);
    let status = lu.status();
    assert!(status.warnings.iter().any(|w| w.contains("are lost")), "{status:#?}");
    assert_eq!(status.state, State::Healthy, "{status:#?}");
    let mut lost = 0;
    let mut block = vec![0; 4096];
    for at in (0..model.len()).step_by(4096) {
        match lu.read_at(&mut block, at as u64) {
            Ok(()) => assert!(block == model[at..at + 4096], "wrong bytes at {at}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Io);
                lost += 1;
            }
        }
    }
    assert!((1..=2).contains(&lost), "{lost} blocks lost");
    let bad = uraid::lu::inspect(&paths[3]).unwrap().bad_blocks;
    assert_eq!(bad.len(), 1, "the rebuilt member has it on its list: {bad:?}");

    // Written again, its stripe is well again: readable at once, and off the list.
    let stripe = 2 * (64 << 10);
    for at in (0..model.len()).step_by(4096) {
        if lu.read_at(&mut block, at as u64).is_err() {
            let start = at / stripe * stripe;
            faults.clear();
            faults.set_gone(DiskId(0), true);
            lu.write_at(&model[start..start + stripe], start as u64).unwrap();
            lu.read_at(&mut block, at as u64).unwrap();
            assert!(block == model[at..at + 4096]);
        }
    }
    assert!(lu.status().lost.is_empty(), "{:?}", lu.status().lost);
    lu.stop().unwrap();
    let seen = uraid::lu::inspect(&paths[3]).unwrap();
    assert!(seen.bad_blocks.is_empty(), "{:?}", seen.bad_blocks);
    let lu = open(&paths[2..], Access::Read).unwrap();
    assert!(read_all(&lu) == model, "it is part of the redundancy again");
}

/// Nobody but the keeper saw the flush fail, and the member cannot be spared: it is told all the same, and no superblock
/// ever says "clean" over what may be lost.
#[test]
fn a_flush_that_the_keeper_lost_is_told_and_leaves_the_lu_dirty() {
    let dir = tempfile::tempdir().unwrap();
    let (lu, paths, faults) = make(dir.path(), Level::Raid5, 3, 0);
    lu.fail(&paths[2]).unwrap();
    faults.add(Fault::new(Effect::Fail(5)).on(DiskId(0)).only(OpKind::Flush).once());
    lu.write_at(&pattern(100_000, 6), 0).unwrap();
    until(&lu, |_| faults.struck() > 0);
    // Time for a second attempt, which would succeed and must not be made.
    std::thread::sleep(std::time::Duration::from_millis(700));
    assert_eq!(lu.flush().unwrap_err().kind(), ErrorKind::Io);
    // Superblocks written for another reason must not say it either.
    let more = dir.path().join("more");
    std::fs::File::create(&more).unwrap().set_len(DISK).unwrap();
    lu.add(&more, false).unwrap();
    assert_eq!(lu.stop().unwrap_err().kind(), ErrorKind::Io);
    for path in &paths[..2] {
        assert!(!uraid::lu::inspect(path).unwrap().superblock.is_clean(), "{} says clean", path.display());
    }
    assert_eq!(open(&paths, Access::Read).err().unwrap().kind(), ErrorKind::CannotStart);
}
