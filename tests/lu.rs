//! LUs from end to end on files: every golden array the kernel made, read byte for byte and left unchanged; LUs of every
//! level made, written, degraded, stopped and read again.

mod common;

#[path = "common/pattern.rs"]
mod pattern;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use common::{GoldenCase, cases, expected};
use pattern::pattern;
use uraid::disk::DiskId;
use uraid::disk::faulty::Faulty;
use uraid::lu::{Access, IoMode, State, Status, WorkKind};
use uraid::units::Level;
use uraid::{ErrorKind, Lu};

/// A folder that is removed again.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn bytes_of(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

fn read_all(lu: &Lu) -> Vec<u8> {
    let mut bytes = vec![0; lu.size() as usize];
    lu.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn waits_for_the_kernel(case: &GoldenCase) -> bool {
    matches!(case.state.as_str(), "reshape")
}

#[test]
fn every_golden_array_reads_as_the_kernel_wrote_it_and_stays_unchanged() {
    let mut read = 0;
    for case in cases() {
        let dir = folder();
        let paths = case.write_images(dir.path()).unwrap();
        let before = bytes_of(dir.path());
        for mode in [IoMode::Auto, IoMode::Plain] {
            let lu = Lu::assemble().beside(&paths[0]).io(mode).open();
            if waits_for_the_kernel(&case) {
                let error = lu.err().unwrap_or_else(|| panic!("{} was opened", case.name));
                assert_eq!(error.kind(), ErrorKind::CannotStart, "{}: {error}", case.name);
                continue;
            }
            let lu = lu.unwrap_or_else(|error| panic!("{}: {error}", case.name));
            assert_eq!(lu.size(), case.array_sectors * 512, "{}", case.name);
            assert!(read_all(&lu) == expected(&case), "{} reads differently", case.name);
            // Odd offsets and lengths.
            let all = expected(&case);
            for (at, len) in [(1, 1), (511, 2), (65_535, 70_003), (all.len() - 7, 7)] {
                let mut part = vec![0; len.min(all.len() - at)];
                lu.read_at(&mut part, at as u64).unwrap();
                assert!(part == all[at..at + part.len()], "{} at {at}", case.name);
            }
            lu.stop().unwrap();
            read += 1;
        }
        assert!(bytes_of(dir.path()) == before, "{} was changed by reading", case.name);
    }
    assert!(read >= 2 * 39, "only {read}");
}

#[test]
fn golden_states_are_told() {
    let status = |name: &str| -> Status {
        let dir = folder();
        let paths = common::case(name).write_images(dir.path()).unwrap();
        Lu::assemble().beside(&paths[0]).look().unwrap()
    };
    assert_eq!(status("raid5-ls").state, State::Healthy);
    let degraded = status("raid6-ls-degraded-1");
    assert_eq!((degraded.state, degraded.redundancy_left), (State::Degraded, 1));
    assert_eq!(status("raid6-ls-degraded-2").redundancy_left, 0);
    let rebuilding = status("raid5-mid-rebuild");
    assert_eq!(rebuilding.state, State::Rebuilding);
    assert_eq!(rebuilding.work.unwrap().kind, WorkKind::Rebuild);
    assert_eq!(status("raid5-dirty").state, State::Resyncing);
    assert_eq!(status("raid5-spare").spares, 1);
    let stale = status("raid5-stale-member");
    assert!(
        stale.warnings.iter().any(|w| w.contains("stale") && w.contains("m0.img")),
        "{:?}",
        stale.warnings
    );
    assert!(status("raid5-reshape-3to4").refusal.unwrap().contains("reshape"));
}

struct Shape {
    level: Level,
    layout: &'static str,
    disks: usize,
    missing: usize,
}

const fn shape(level: Level, layout: &'static str, disks: usize, missing: usize) -> Shape {
    Shape { level, layout, disks, missing }
}

const SHAPES: [Shape; 17] = [
    shape(Level::Linear, "", 3, 0),
    shape(Level::Raid0, "", 3, 0),
    shape(Level::Raid1, "", 3, 0),
    shape(Level::Raid1, "", 2, 1),
    shape(Level::Raid4, "", 3, 0),
    shape(Level::Raid5, "left-symmetric", 4, 0),
    shape(Level::Raid5, "right-asymmetric", 3, 1),
    shape(Level::Raid5, "parity-first", 3, 0),
    shape(Level::Raid6, "left-symmetric", 5, 0),
    shape(Level::Raid6, "right-symmetric", 5, 1),
    shape(Level::Raid6, "left-asymmetric", 6, 2),
    shape(Level::Raid6, "parity-last", 4, 0),
    shape(Level::Raid10, "n2", 4, 0),
    shape(Level::Raid10, "n2", 5, 1),
    shape(Level::Raid10, "f2", 3, 0),
    shape(Level::Raid10, "o2", 4, 0),
    shape(Level::Raid10, "n3", 4, 1),
];

/// Makes an LU on new files in `dir`; the last `missing` slots stay empty.
fn make(dir: &Path, shape: &Shape, mode: IoMode) -> (Lu, Vec<PathBuf>) {
    let paths: Vec<_> = (0..shape.disks - shape.missing).map(|i| dir.join(format!("d{i}"))).collect();
    let mut create = Lu::create("test", shape.level).disk_size(24 << 20).chunk_if(shape.level).io(mode);
    for path in &paths {
        create = create.disk(path);
    }
    for _ in 0..shape.missing {
        create = create.missing();
    }
    if !shape.layout.is_empty() {
        create = create.layout(shape.layout);
    }
    let lu = create.make().unwrap_or_else(|e| panic!("{} {}: {e}", shape.level, shape.layout));
    lu.wait_for_work(&mut |_| true).unwrap();
    (lu, paths)
}

trait ChunkIf {
    fn chunk_if(self, level: Level) -> Self;
}

impl ChunkIf for uraid::lu::Create {
    fn chunk_if(self, level: Level) -> Self {
        if level == Level::Raid1 { self } else { self.chunk(16 << 10) }
    }
}

fn open(paths: &[PathBuf], access: Access) -> uraid::Result<Lu> {
    paths.iter().fold(Lu::assemble(), |a, path| a.disk(path)).access(access).degraded(true).open()
}

#[test]
fn every_level_gives_back_what_was_written_also_without_the_disks_it_can_lose() {
    for mode in [IoMode::Auto, IoMode::Plain] {
        for shape in &SHAPES {
            let what =
                format!("{} {} of {} ({} missing)", shape.level, shape.layout, shape.disks, shape.missing);
            let dir = folder();
            let (lu, paths) = make(dir.path(), shape, mode);
            let mut model = vec![0; lu.size() as usize];
            assert!(read_all(&lu) == model, "{what}: new disks read as zeroes");
            // Big, small, unaligned, over chunk and stripe boundaries, the very end.
            let end = model.len();
            let writes = [
                (0, 300_000),
                (4096, 4096),
                (1, 1),
                (511, 1026),
                (65_530, 12),
                (1 << 20, 1 << 20),
                (end - 5000, 5000),
            ];
            for (i, (at, len)) in writes.into_iter().enumerate() {
                let bytes = pattern(len, i as u64 + 1);
                lu.write_at(&bytes, at as u64).unwrap_or_else(|e| panic!("{what}: {e}"));
                model[at..at + len].copy_from_slice(&bytes);
            }
            // Whole stripes, less than a block, the very end; some of it over what was written.
            let zeroes = [(100_001, 150_000), (1 << 20, 400_000), (200, 100), (end - 4000, 4000), (9000, 0)];
            for (at, len) in zeroes {
                lu.write_zeroes_at(at as u64, len as u64).unwrap_or_else(|e| panic!("{what}: {e}"));
                model[at..at + len].fill(0);
            }
            // A discard takes whole units only.
            let unit = lu.discard_unit() as usize;
            let (from, to) = (1_600_001_usize, 2_000_003_usize);
            lu.discard_at(from as u64, (to - from) as u64).unwrap();
            model[from.next_multiple_of(unit)..to - to % unit].fill(0);
            lu.discard_at(5, 3).unwrap();
            assert!(lu.write_zeroes_at(end as u64 - 5, 6).is_err() && lu.discard_at(u64::MAX, 2).is_err());
            lu.flush().unwrap();
            assert!(read_all(&lu) == model, "{what}: reads what was written");
            lu.stop().unwrap();

            let lu = open(&paths, Access::Read).unwrap();
            assert!(read_all(&lu) == model, "{what}: after a restart");
            assert!(!lu.status().dirty, "{what}: was stopped clean");
            lu.stop().unwrap();

            // Each member away in turn: right, or refused.
            for away in (0..paths.len()).filter(|_| paths.len() > 1) {
                let rest: Vec<_> =
                    paths.iter().enumerate().filter(|(i, _)| *i != away).map(|(_, p)| p.clone()).collect();
                match open(&rest, Access::Read) {
                    Ok(lu) => assert!(read_all(&lu) == model, "{what} without disk {away}"),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::CannotStart, "{what} without {away}: {error}")
                    }
                }
            }
        }
    }
}

/// Buffers of a queue's own are buffers like others: for other queues and LUs, and when the queue is gone.
#[test]
fn buffers_of_a_queue_go_round_and_outlive_it() {
    let polled = IoMode::Polled { idle: std::time::Duration::from_millis(1) };
    for mode in [IoMode::Auto, IoMode::Uring, polled] {
        // (Direct I/O is what memory is registered for, and there is none to files in memory.)
        let dirs = [(); 2].map(|()| tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
        let lus = [Level::Raid5, Level::Raid0].iter().zip(&dirs).map(|(&level, dir)| {
            let shape = SHAPES.iter().find(|shape| shape.level == level && shape.missing == 0).unwrap();
            make(dir.path(), shape, mode).0
        });
        let lus: Vec<Lu> = lus.collect();
        let mut queue = lus[0].queue(8).unwrap();
        let mut buffers = queue.buffers(8, 12 << 10).unwrap();
        assert_eq!(queue.buffers(usize::MAX, 4096).unwrap_err().kind(), ErrorKind::Usage);
        for (turn, lu) in (1u8..).zip([&lus[0], &lus[1], &lus[0], &lus[1]]) {
            if turn == 3 {
                // The first one's rings and pools go; what they had registered is still in use.
                drop(std::mem::replace(&mut queue, lu.queue(8).unwrap()));
            } else if turn > 1 {
                queue = lu.queue(8).unwrap();
            }
            for (n, mut buffer) in (0u8..).zip(std::mem::take(&mut buffers)) {
                buffer.fill(turn * 10 + n);
                queue.write(n.into(), buffer, u64::from(n) * (12 << 10), n % 2 == 0).unwrap();
            }
            let mut done = Vec::new();
            while queue.in_flight() > 0 {
                queue.poll(&mut done, Some(std::time::Duration::from_millis(100)));
            }
            for completion in done.drain(..) {
                completion.result.unwrap();
                let (n, mut buffer) = (completion.cookie, completion.buffer.unwrap());
                buffer.fill(0);
                queue.read(n, buffer, n * (12 << 10)).unwrap();
            }
            while queue.in_flight() > 0 {
                queue.poll(&mut done, Some(std::time::Duration::from_millis(100)));
            }
            done.sort_by_key(|completion| completion.cookie);
            for completion in done {
                let (n, buffer) = (completion.cookie as u8, completion.buffer.unwrap());
                assert!(buffer.iter().all(|&byte| byte == turn * 10 + n), "{mode:?} {turn} {n}");
                buffers.push(buffer);
            }
            lu.flush().unwrap();
        }
        drop(queue);
        lus.into_iter().for_each(|lu| lu.stop().unwrap());
        assert!(buffers.iter().all(|buffer| buffer[0] >= 40));
    }
}

#[test]
fn degraded_writes_survive() {
    for shape in SHAPES.iter().filter(|s| s.missing == 0 && s.level.md_number() > 0) {
        let dir = folder();
        let (lu, paths) = make(dir.path(), shape, IoMode::Auto);
        let mut model = pattern(lu.size() as usize, 7);
        lu.write_at(&model, 0).unwrap();
        lu.stop().unwrap();
        let rest = &paths[1..];
        let refused = rest.iter().fold(Lu::assemble(), |a, p| a.disk(p)).access(Access::Write).open();
        assert_eq!(refused.err().unwrap().kind(), ErrorKind::Refused, "{}", shape.level);
        let lu = open(rest, Access::Write).unwrap();
        for i in 0..40 {
            let (at, len) = (i * 130_037 % (model.len() - 40_000), 1 + i * 997);
            let bytes = pattern(len, i as u64 + 100);
            lu.write_at(&bytes, at as u64).unwrap();
            model[at..at + len].copy_from_slice(&bytes);
        }
        assert!(read_all(&lu) == model, "{} {}", shape.level, shape.layout);
        lu.stop().unwrap();
        // The one left behind is stale now and not used.
        let lu = open(&paths, Access::Read).unwrap();
        assert!(read_all(&lu) == model, "{} {} with the stale member", shape.level, shape.layout);
        assert!(lu.status().warnings.iter().any(|w| w.contains("stale")), "{:?}", lu.status().warnings);
    }
}

#[test]
fn a_member_that_dies_under_load_costs_no_byte() {
    for level in [Level::Raid1, Level::Raid5, Level::Raid6, Level::Raid10] {
        let dir = folder();
        let paths: Vec<_> = (0..4).map(|i| dir.path().join(format!("d{i}"))).collect();
        let faults = Arc::new(Mutex::new(None));
        let handle = faults.clone();
        let create = paths.iter().fold(Lu::create("test", level).disk_size(24 << 20), |c, path| c.disk(path));
        let create = create.through(move |disks| {
            let faulty = Faulty::new(disks, 1);
            *handle.lock().unwrap() = Some(faulty.faults());
            Arc::new(faulty)
        });
        let lu = create.make().unwrap();
        let size = lu.size() as usize;
        let stop = AtomicBool::new(false);
        let parts: Vec<usize> = (0..4).collect();
        std::thread::scope(|scope| {
            let workers: Vec<_> = parts
                .iter()
                .map(|&part| {
                    let (lu, stop) = (&lu, &stop);
                    scope.spawn(move || {
                        let base = size / 4 * part;
                        let mut model = vec![0; size / 4];
                        let mut i = 0;
                        while !stop.load(Ordering::Relaxed) || i < 50 {
                            let (at, len) = (i * 77_773 % (model.len() - 70_000), 1 + i * 4099 % 66_000);
                            let bytes = pattern(len, (part * 1000 + i) as u64);
                            lu.write_at(&bytes, (base + at) as u64).unwrap();
                            model[at..at + len].copy_from_slice(&bytes);
                            let mut back = vec![0; len];
                            lu.read_at(&mut back, (base + at) as u64).unwrap();
                            assert!(back == bytes, "{level} reads back what was acknowledged");
                            i += 1;
                        }
                        model
                    })
                })
                .collect();
            std::thread::sleep(std::time::Duration::from_millis(100));
            faults.lock().unwrap().as_ref().unwrap().set_gone(DiskId(1), true);
            std::thread::sleep(std::time::Duration::from_millis(200));
            stop.store(true, Ordering::Relaxed);
            for (part, worker) in workers.into_iter().enumerate() {
                let model = worker.join().unwrap();
                let mut back = vec![0; model.len()];
                lu.read_at(&mut back, (size / 4 * part) as u64).unwrap();
                assert!(back == model, "{level} part {part}");
            }
        });
        let all = read_all(&lu);
        let status = lu.status();
        assert_eq!(status.state, State::Degraded, "{level}: {status:?}");
        lu.stop().unwrap();
        let rest: Vec<_> = [0, 2, 3].iter().map(|&i| paths[i].clone()).collect();
        let lu = open(&rest, Access::Read).unwrap();
        assert!(read_all(&lu) == all, "{level} after a restart");
    }
}
