//! Replacing a disk that still works: it serves until the new one has all it has; either may die on the way, the work may be
//! cut and go on, and redundancy is never less than it was.

#[path = "common/pattern.rs"]
mod pattern;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pattern::pattern;
use uraid::disk::faulty::{Effect, Fault, Faults, Faulty};
use uraid::disk::{DiskId, OpKind};
use uraid::lu::{Access, MemberState, State, Status, WorkKind};
use uraid::units::{DiskLba, Level};
use uraid::{ErrorKind, Lu};

/// Large enough for something to happen while a disk is copied.
const DISK: u64 = 96 << 20;

struct Rig {
    lu: Lu,
    /// The members, then the disk that is to come.
    disks: Vec<PathBuf>,
    faults: Faults,
    model: Vec<u8>,
    // The files go with it.
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new(level: Level, disks: usize) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let disks: Vec<PathBuf> = (0..=disks).map(|i| dir.path().join(format!("d{i}"))).collect();
        let (new, members) = disks.split_last().unwrap();
        std::fs::File::create(new).unwrap().set_len(DISK).unwrap();
        let handle: Arc<Mutex<Option<Faults>>> = Arc::default();
        let keep = handle.clone();
        let create = members.iter().fold(Lu::create("test", level).disk_size(DISK), |c, path| c.disk(path));
        let create = create.through(move |inner| {
            let faulty = Faulty::new(inner, 1);
            *keep.lock().unwrap() = Some(faulty.faults());
            Arc::new(faulty)
        });
        let lu = create.make().unwrap();
        let faults = handle.lock().unwrap().take().unwrap();
        let model = pattern(lu.size() as usize, 5);
        lu.write_at(&model, 0).unwrap();
        lu.flush().unwrap();
        Rig { lu, disks, faults, model, _dir: dir }
    }

    fn new_disk(&self) -> &Path {
        self.disks.last().unwrap()
    }

    fn begin(&self, old: usize) {
        self.lu.replace(&self.disks[old], self.new_disk(), false).unwrap();
    }

    /// Waits until the copy has got somewhere.
    fn under_way(&self) {
        self.until(|status| {
            status.work.is_some_and(|w| w.kind == WorkKind::Replace && w.done_bytes > 1 << 20)
        });
    }

    fn until(&self, what: impl Fn(&Status) -> bool) {
        let patience = Instant::now() + Duration::from_secs(20);
        while !what(&self.lu.status()) {
            assert!(Instant::now() < patience, "never came: {:#?}", self.lu.status());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn settle(&self) -> Status {
        self.lu.wait_for_work(&mut |_| true).unwrap();
        self.lu.status()
    }

    /// Stops it and reads everything back from all disks but `without`.
    fn verify_without(self, without: &[usize]) {
        self.lu.stop().unwrap();
        let rest: Vec<&PathBuf> = self
            .disks
            .iter()
            .enumerate()
            .filter(|(i, _)| !without.contains(i))
            .map(|(_, path)| path)
            .collect();
        let lu = rest.iter().fold(Lu::assemble(), |a, path| a.disk(path)).open().unwrap();
        let mut bytes = vec![0; self.model.len()];
        lu.read_at(&mut bytes, 0).unwrap();
        assert!(bytes == self.model, "content without disks {without:?}");
    }
}

fn state_of(status: &Status, disk: &Path) -> (MemberState, Option<u16>) {
    let member = status.members.iter().find(|member| Path::new(&member.disk) == disk).unwrap();
    (member.state, member.slot)
}

#[test]
fn the_new_disk_has_all_of_the_old_under_load() {
    let levels =
        [(Level::Raid1, 2), (Level::Raid4, 3), (Level::Raid5, 4), (Level::Raid6, 5), (Level::Raid10, 4)];
    for (level, disks) in levels {
        let mut rig = Rig::new(level, disks);
        let stop = AtomicBool::new(false);
        let model = Mutex::new(std::mem::take(&mut rig.model));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut i = 0;
                while !stop.load(Ordering::Relaxed) {
                    let mut model = model.lock().unwrap();
                    let (at, len) = (i * 7_777_731 % (model.len() - 70_000), 1 + i * 4099 % 66_000);
                    let bytes = pattern(len, i as u64 + 50);
                    rig.lu.write_at(&bytes, at as u64).unwrap();
                    model[at..at + len].copy_from_slice(&bytes);
                    i += 1;
                }
            });
            rig.begin(1);
            let status = rig.lu.status();
            assert_eq!(
                (status.state, status.redundancy_left),
                (State::Healthy, (disks > 2) as u16 + (level == Level::Raid6) as u16 + (disks == 2) as u16),
                "{level}"
            );
            assert_eq!(state_of(&status, rig.new_disk()), (MemberState::Replacement, Some(1)));
            assert_eq!(state_of(&status, &rig.disks[1]), (MemberState::Active, Some(1)));
            rig.settle();
            std::thread::sleep(Duration::from_millis(30));
            stop.store(true, Ordering::Relaxed);
        });
        rig.model = model.into_inner().unwrap();
        let status = rig.lu.status();
        assert_eq!(status.state, State::Healthy);
        assert_eq!(state_of(&status, rig.new_disk()), (MemberState::Active, Some(1)));
        assert_eq!(state_of(&status, &rig.disks[1]), (MemberState::Faulty, None));
        // The old disk was not told: it is recognised as left behind.
        let old = uraid::lu::inspect(&rig.disks[1]).unwrap().superblock;
        let new = uraid::lu::inspect(rig.new_disk()).unwrap().superblock;
        assert!(old.events + 1 < new.events, "{} and {}", old.events, new.events);
        rig.verify_without(&[0, 1]);
    }
}

#[test]
fn the_old_disk_dies_half_way_and_the_rest_is_rebuilt() {
    let rig = Rig::new(Level::Raid5, 3);
    rig.begin(1);
    rig.under_way();
    rig.faults.set_gone(DiskId(1), true);
    rig.until(|status| {
        // Nothing is written here but the checkpoints; a read of it shows it.
        let mut byte = [0; 1];
        rig.lu.read_at(&mut byte, 65536).unwrap();
        rig.lu.write_at(&rig.model[..4096], 0).unwrap();
        status.members.iter().any(|m| m.slot == Some(1) && Path::new(&m.disk) == rig.new_disk())
    });
    let status = rig.settle();
    assert_eq!(status.state, State::Healthy, "{status:#?}");
    assert_eq!(state_of(&status, rig.new_disk()), (MemberState::Active, Some(1)));
    rig.verify_without(&[0, 1]);
}

#[test]
fn the_new_disk_dies_half_way_and_the_old_one_goes_on() {
    let rig = Rig::new(Level::Raid10, 4);
    rig.begin(2);
    rig.under_way();
    rig.faults.set_gone(DiskId(4), true);
    let status = rig.settle();
    assert_eq!(status.state, State::Healthy, "{status:#?}");
    assert_eq!(status.work, None);
    assert_eq!(state_of(&status, &rig.disks[2]), (MemberState::Active, Some(2)));
    assert_eq!(state_of(&status, rig.new_disk()).0, MemberState::Faulty);
    rig.lu.write_at(&rig.model[..1 << 20], 0).unwrap();
    rig.verify_without(&[1, 4]);
}

#[test]
fn what_the_old_disk_cannot_read_comes_from_the_others() {
    let rig = Rig::new(Level::Raid6, 5);
    let data = uraid::lu::inspect(&rig.disks[3]).unwrap().superblock.data_offset;
    let bad = DiskLba(data.0 + 4000)..DiskLba(data.0 + 4800);
    rig.faults.add(Fault::new(Effect::Fail(5)).on(DiskId(3)).only(OpKind::Read).within(bad));
    rig.begin(3);
    let status = rig.settle();
    assert_eq!(status.state, State::Healthy, "{status:#?}");
    assert!(status.lost.is_empty());
    assert!(uraid::lu::inspect(rig.new_disk()).unwrap().bad_blocks.is_empty());
    rig.verify_without(&[0, 1, 3]);
}

/// Degraded by a second failure in the middle, and the old disk cannot read a block: that block is lost, on record, and
/// nothing else.
#[test]
fn what_nobody_can_read_is_on_the_new_disks_list() {
    let rig = Rig::new(Level::Raid5, 3);
    let data = uraid::lu::inspect(&rig.disks[1]).unwrap().superblock.data_offset;
    let last = DISK / 512 - data.0 - 256;
    let bad = DiskLba(data.0 + last)..DiskLba(data.0 + last + 8);
    rig.faults.add(Fault::new(Effect::Fail(5)).on(DiskId(1)).only(OpKind::Read).within(bad));
    rig.begin(1);
    rig.lu.fail(&rig.disks[0]).unwrap();
    let status = rig.settle();
    assert_eq!(state_of(&status, rig.new_disk()), (MemberState::Active, Some(1)), "{status:#?}");
    let listed = uraid::lu::inspect(rig.new_disk()).unwrap().bad_blocks;
    assert_eq!(listed.len(), 1, "{listed:?}");
    let mut block = vec![0; 4096];
    let mut lost = 0;
    for (at, expected) in rig.model.chunks_exact(4096).enumerate() {
        match rig.lu.read_at(&mut block, at as u64 * 4096) {
            Ok(()) => assert!(block == expected, "wrong bytes at block {at}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Io);
                lost += 1;
            }
        }
    }
    assert!((1..=2).contains(&lost), "{lost} blocks lost");
}

#[test]
fn a_copy_that_was_cut_goes_on_where_it_was() {
    let rig = Rig::new(Level::Raid1, 2);
    rig.begin(0);
    rig.lu.wait_for_work(&mut |work| work.done_bytes < 8 << 20).unwrap();
    rig.until(|status| status.work.is_none_or(|work| work.done_bytes > 0));
    let Rig { lu, disks, model, _dir, .. } = rig;
    lu.stop().unwrap();
    let at_rest = Lu::assemble().beside(&disks[1]).look().unwrap();
    assert_eq!(at_rest.state, State::Healthy);
    let work = at_rest.work.expect("it is not done");
    assert!(work.kind == WorkKind::Replace && work.done_bytes >= 8 << 20, "{work:?}");
    assert_eq!(at_rest.next.len(), 1, "{at_rest:#?}");

    let lu = Lu::assemble().beside(&disks[1]).access(Access::Write).open().unwrap();
    let mut first = None;
    lu.wait_for_work(&mut |work| {
        first.get_or_insert(work.done_bytes);
        true
    })
    .unwrap();
    assert!(first.is_none_or(|first| first >= 8 << 20), "{first:?}");
    assert_eq!(state_of(&lu.status(), &disks[2]), (MemberState::Active, Some(0)));
    lu.stop().unwrap();
    let lu = Lu::assemble().disk(&disks[2]).open().unwrap();
    let mut bytes = vec![0; model.len()];
    lu.read_at(&mut bytes, 0).unwrap();
    assert!(bytes == model);
}

/// The old disk does not come back: what was copied counts, the rest is rebuilt.
#[test]
fn without_the_old_disk_the_new_one_has_the_slot() {
    let rig = Rig::new(Level::Raid5, 4);
    rig.begin(2);
    rig.lu.wait_for_work(&mut |work| work.done_bytes < 8 << 20).unwrap();
    let Rig { lu, disks, model, _dir, .. } = rig;
    lu.stop().unwrap();
    let rest = [&disks[0], &disks[1], &disks[3], &disks[4]];
    let assemble = || rest.iter().fold(Lu::assemble(), |a, path| a.disk(path));
    let status = assemble().look().unwrap();
    assert_eq!(status.state, State::Rebuilding, "{status:#?}");
    let mut bytes = vec![0; model.len()];
    assemble().open().unwrap().read_at(&mut bytes, 0).unwrap();
    assert!(bytes == model, "read while it is half copied");
    let lu = assemble().access(Access::Write).open().unwrap();
    lu.wait_for_work(&mut |_| true).unwrap();
    assert_eq!(lu.status().state, State::Healthy);
    lu.stop().unwrap();
    // Nor does it get in the way when it does.
    let status = Lu::assemble().beside(&disks[0]).look().unwrap();
    assert_eq!(state_of(&status, &disks[2]).1, None, "{status:#?}");
    assert_eq!(state_of(&status, &disks[4]), (MemberState::Active, Some(2)));
}

#[test]
fn what_cannot_be_is_refused() {
    let rig = Rig::new(Level::Raid5, 3);
    let refused = |old: &Path, new: &Path| rig.lu.replace(old, new, false).unwrap_err();
    let [_, d1, d2, new] = &rig.disks[..] else { unreachable!() };
    assert_eq!(refused(new, d1).kind(), ErrorKind::NotFound);
    assert_eq!(refused(d1, d2).kind(), ErrorKind::Usage);
    let small = rig.disks[0].with_file_name("small");
    std::fs::File::create(&small).unwrap().set_len(DISK / 2).unwrap();
    assert!(refused(d1, &small).to_string().contains("too small"));
    rig.lu.fail(d1).unwrap();
    let error = refused(d2, new);
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("slot 1 is empty"), "{error}");
}

/// The disk of a failed member is left as it was: that is how it is told apart later.
#[test]
fn a_failed_member_is_not_written() {
    let rig = Rig::new(Level::Raid5, 3);
    let before = uraid::lu::inspect(&rig.disks[1]).unwrap().superblock;
    rig.lu.fail(&rig.disks[1]).unwrap();
    rig.lu.write_at(&rig.model[..4096], 0).unwrap();
    let Rig { lu, disks, _dir, .. } = rig;
    lu.stop().unwrap();
    let after = uraid::lu::inspect(&disks[1]).unwrap().superblock;
    let clean = |sb: &uraid::format::superblock::Superblock| (sb.roles.clone(), sb.dev_number);
    assert_eq!(clean(&before), clean(&after));
    let status = Lu::assemble().beside(&disks[0]).look().unwrap();
    assert_eq!(state_of(&status, &disks[1]), (MemberState::Stale, None));
}
