//! Block devices on this machine: LUs on loop devices with blocks of 512 and 4096 bytes, and one whose disk shrinks under it.
//! Needs root.

#[path = "common/loopdev.rs"]
mod loopdev;

#[path = "common/pattern.rs"]
mod pattern;

use std::path::{Path, PathBuf};

use loopdev::LoopDevice;
use pattern::pattern;
use uraid::lu::{Access, State};
use uraid::units::Level;
use uraid::{ErrorKind, Lu};

fn devices(folder: &Path, count: usize, block: u32) -> (Vec<PathBuf>, Vec<LoopDevice>) {
    let files: Vec<_> = (0..count).map(|i| folder.join(format!("disk{i}"))).collect();
    let attach = |file: &PathBuf| {
        std::fs::File::create(file).unwrap().set_len(24 << 20).unwrap();
        LoopDevice::attach(file, block)
    };
    let devices = files.iter().map(attach).collect();
    (files, devices)
}

fn open<'a>(paths: impl IntoIterator<Item = &'a Path>, access: Access) -> uraid::Result<Lu> {
    paths.into_iter().fold(Lu::assemble(), |a, path| a.disk(path)).access(access).degraded(true).open()
}

fn read_all(lu: &Lu) -> Vec<u8> {
    let mut bytes = vec![0; lu.size() as usize];
    lu.read_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn loop_devices_of_both_block_sizes() {
    for block in [512, 4096] {
        for level in [Level::Raid0, Level::Raid1, Level::Raid5, Level::Raid6, Level::Raid10] {
            let dir = tempfile::tempdir().unwrap();
            let (files, devices) = devices(dir.path(), 4, block);
            let paths = || devices.iter().map(LoopDevice::path);
            let create = paths().fold(Lu::create("loops", level).chunk_if(level), |c, path| c.disk(path));
            let lu = create.make().unwrap_or_else(|e| panic!("{level} on blocks of {block}: {e}"));
            lu.wait_for_work(&mut |_| true).unwrap();
            assert_eq!(lu.block_size(), block);
            let mut model = read_all(&lu);
            for i in 0..60 {
                let (at, len) = (i * 99_991 % (model.len() - 70_000), 1 + i * 1117);
                let bytes = pattern(len, i as u64);
                lu.write_at(&bytes, at as u64).unwrap();
                model[at..at + len].copy_from_slice(&bytes);
            }
            assert!(read_all(&lu) == model, "{level} on blocks of {block}");
            // Somebody else is told that it is held, by whatever name he has for it.
            let busy = open([files[0].as_path()], Access::Write).err().unwrap();
            assert_eq!(busy.kind(), ErrorKind::Busy, "{busy}");
            lu.stop().unwrap();
            assert!(read_all(&open(paths(), Access::Read).unwrap()) == model, "{level} after a restart");
            if level.md_number() > 0 {
                let lu = open(paths().skip(1), Access::Read).unwrap();
                assert!(read_all(&lu) == model, "{level} without the first device");
            }
        }
    }
}

trait ChunkIf {
    fn chunk_if(self, level: Level) -> Self;
}

impl ChunkIf for uraid::lu::Create {
    fn chunk_if(self, level: Level) -> Self {
        if level == Level::Raid1 { self } else { self.chunk(16 << 10) }
    }
}

#[test]
fn the_same_disk_by_another_name_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (files, devices) = devices(dir.path(), 2, 512);
    for other in [files[0].as_path(), &dir.path().join("link")] {
        if !other.exists() {
            std::os::unix::fs::symlink(&files[0], other).unwrap();
        }
        let create = Lu::create("twice", Level::Raid1).disk(devices[0].path()).disk(other);
        let error = create.make().err().unwrap();
        assert!(matches!(error.kind(), ErrorKind::Usage | ErrorKind::Busy), "{error}");
        assert!(error.to_string().contains(&other.display().to_string()), "{error}");
    }
}

#[test]
fn a_device_that_loses_its_capacity_under_load_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (files, devices) = devices(dir.path(), 4, 512);
    let create = devices.iter().fold(Lu::create("shrinks", Level::Raid5), |c, device| c.disk(device.path()));
    let lu = create.assume_clean(true).make().unwrap();
    let mut model = read_all(&lu);
    for i in 0..200 {
        if i == 60 {
            // The device gets smaller while it is in use: everything beyond is an error from now on.
            std::fs::OpenOptions::new().write(true).open(&files[2]).unwrap().set_len(1 << 20).unwrap();
            let status = std::process::Command::new("losetup").arg("-c").arg(devices[2].path()).status();
            assert!(status.expect("losetup").success());
        }
        let (at, len) = (i * 333_667 % (model.len() - 70_000), 1 + i * 211);
        let bytes = pattern(len, i as u64);
        lu.write_at(&bytes, at as u64).unwrap();
        model[at..at + len].copy_from_slice(&bytes);
    }
    assert!(read_all(&lu) == model);
    assert_eq!(lu.status().state, State::Degraded, "{:#?}", lu.status());
    lu.stop().unwrap();
    let rest = [0, 1, 3].map(|i| devices[i].path());
    assert!(read_all(&open(rest, Access::Read).unwrap()) == model);
}
