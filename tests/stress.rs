//! Many threads on one LU, writing over each other: afterwards copies agree and parity is right, found by looking at
//! the members' own bytes; writes that share a block lose nothing; and a queue that nobody polls holds up nobody.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use uraid::Lu;
use uraid::disk::AlignedBuf;
use uraid::geometry::{CellKind, Geometry, Shape};
use uraid::lu::{Access, IoMode, inspect};
use uraid::parity::gf;
use uraid::units::{Level, Stripe};

/// A folder in memory if there is one, so that the threads and not the disk are what is tested.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary folder")
}

fn make(folder: &Path, level: Level, disks: usize, io: IoMode) -> (Lu, Vec<PathBuf>) {
    let paths: Vec<_> = (0..disks).map(|i| folder.join(format!("{level}-{io:?}-{i}"))).collect();
    let mut create = paths.iter().fold(Lu::create("busy", level), |create, path| create.disk(path));
    if level != Level::Raid1 {
        create = create.chunk(16 << 10);
    }
    (create.disk_size(12 << 20).io(io).make().unwrap(), paths)
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

/// Compares all copies and all parity of the LU on these members, byte for byte. All members are there.
fn assert_redundancy(paths: &[PathBuf]) {
    let facts: Vec<_> = paths.iter().map(|path| inspect(path).unwrap().superblock).collect();
    let sizes: Vec<_> = facts.iter().map(|sb| sb.data_size).collect();
    let first = &facts[0];
    let geometry = Geometry::new(&Shape {
        level: Level::from_md_number(first.level).unwrap(),
        layout: first.layout,
        chunk: first.chunk,
        slots: paths.len() as u16,
        component: first.size,
        members: &sizes,
    })
    .unwrap();
    let images: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    for number in 0..geometry.stripes() {
        let map = geometry.stripe(Stripe(number));
        let bytes = |index: u16| {
            let cell = map.cell(index);
            let at = (facts[cell.slot.index()].data_offset.0 + cell.at.0) as usize * 512;
            &images[cell.slot.index()][at..at + map.rows() as usize * 512]
        };
        for index in 0..map.cells() {
            let sum = |weight: &dyn Fn(u16) -> u8| {
                let mut sum = vec![0; map.rows() as usize * 512];
                for data in 0..geometry.data_cells() {
                    let weight = weight(data);
                    sum.iter_mut().zip(bytes(data)).for_each(|(s, &byte)| *s ^= gf::mul(weight, byte));
                }
                sum
            };
            match map.cell(index).kind {
                CellKind::Data(_) => {}
                CellKind::Copy => assert!(bytes(index) == bytes(0), "copies differ in stripe {number}"),
                CellKind::P => assert!(bytes(index) == sum(&|_| 1), "P is wrong in stripe {number}"),
                CellKind::Q => {
                    let q = sum(&|data| gf::exp(u32::from(map.q_power(data))));
                    assert!(bytes(index) == q, "Q is wrong in stripe {number}");
                }
            }
        }
    }
}

#[test]
fn overlapping_writes_leave_redundancy_right() {
    let folder = folder();
    for io in [IoMode::Plain, IoMode::Uring] {
        for (level, disks) in [(Level::Raid1, 3), (Level::Raid5, 4), (Level::Raid6, 5), (Level::Raid10, 4)] {
            let (lu, paths) = make(folder.path(), level, disks, io);
            std::thread::scope(|scope| {
                for thread in 0..8 {
                    let lu = &lu;
                    scope.spawn(move || {
                        let mut random = Random(thread);
                        let mut bytes = vec![thread as u8 + 1; 200_000];
                        for i in 0..250 {
                            // All in the same 400 KB.
                            let at = random.below(400_000);
                            let len = match random.below(8) {
                                0 => random.below(200_000),
                                1..4 => random.below(5_000),
                                _ => 4096,
                            } as usize;
                            let at = if random.below(2) == 0 { at } else { at / 4096 * 4096 };
                            bytes[..len].fill((thread * 31 + i) as u8);
                            lu.write_at(&bytes[..len], at).unwrap();
                            if i % 16 == 0 {
                                lu.read_at(&mut bytes[..len], at).unwrap();
                            }
                            if i % 64 == 0 {
                                lu.flush().unwrap();
                            }
                        }
                    });
                }
            });
            lu.stop().unwrap();
            assert_redundancy(&paths);
        }
    }
}

/// Eight threads own every eighth 64 bytes; each keeps writing its own. No write may undo a neighbour's.
#[test]
fn writes_that_share_a_block_lose_nothing() {
    const THREADS: u64 = 8;
    const PLACES: u64 = 64;
    let folder = folder();
    for (level, disks) in [(Level::Linear, 2), (Level::Raid0, 2), (Level::Raid1, 2), (Level::Raid5, 3)] {
        let (lu, _) = make(folder.path(), level, disks, IoMode::Auto);
        let at = |thread: u64, place: u64| (place * THREADS + thread) * 64;
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (lu, mut random) = (&lu, Random(thread));
                scope.spawn(move || {
                    let mut mine = [0u8; PLACES as usize];
                    for i in 0..600 {
                        let place = random.below(PLACES);
                        mine[place as usize] = i as u8;
                        lu.write_at(&[i as u8; 64], at(thread, place)).unwrap();
                    }
                    for (place, &expected) in mine.iter().enumerate() {
                        let mut back = [0; 64];
                        lu.read_at(&mut back, at(thread, place as u64)).unwrap();
                        assert_eq!(back, [expected; 64], "{level}: thread {thread}, place {place}");
                    }
                });
            }
        });
    }
}

/// A queue's owner submits a write, lets it begin, and goes away. Others write the same rows; then the LU is stopped.
#[test]
fn a_queue_that_nobody_polls_holds_up_nobody() {
    // On a disk, so that the kernel has operations in hand when the owner leaves.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for (level, disks) in [(Level::Raid0, 2), (Level::Raid1, 2), (Level::Raid5, 3)] {
        let (lu, paths) = make(folder.path(), level, disks, IoMode::Uring);
        lu.write_at(&[1; 4096], 0).unwrap();
        let mut done = Vec::new();
        let mut abandoned: Vec<_> = (0..4).map(|_| lu.queue(4).unwrap()).collect();
        for (i, queue) in abandoned.iter_mut().enumerate() {
            let mut buffer = AlignedBuf::new(256 << 10);
            buffer.fill(i as u8 + 2);
            queue.write(7, buffer, 0, false).unwrap();
            queue.poll(&mut done, None);
        }
        let began = Instant::now();
        lu.write_at(&[9; 70_000], 100).unwrap();
        let mut polled = lu.queue(1).unwrap();
        polled.write(1, AlignedBuf::new(8192), 4096, true).unwrap();
        done.clear();
        polled.poll(&mut done, Some(Duration::from_secs(60)));
        assert_eq!(done.len(), 1, "{level}");
        drop(polled);
        lu.stop().unwrap();
        assert!(began.elapsed() < Duration::from_secs(8), "{level}: {:?}", began.elapsed());
        drop(abandoned);
        assert!(began.elapsed() < Duration::from_secs(8), "{level}: {:?}", began.elapsed());
        let lu =
            paths.iter().fold(Lu::assemble(), |a, path| a.disk(path)).access(Access::Read).open().unwrap();
        assert!(!lu.status().dirty, "{level}");
        drop(lu);
        if level != Level::Raid0 {
            assert_redundancy(&paths);
        }
    }
}

/// The word to stop comes at any moment of the keeper's life and is never overheard. Several LUs at once, so that
/// keepers are held up in odd places.
#[test]
fn stopping_is_never_overheard() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..6u64 {
            let folder = folder.path().join(thread.to_string());
            scope.spawn(move || {
                std::fs::create_dir(&folder).unwrap();
                let (lu, paths) = make(&folder, Level::Raid1, 2, IoMode::Uring);
                drop(lu);
                for i in 0..40u64 {
                    let open = paths.iter().fold(Lu::assemble(), |a, path| a.disk(path)).io(IoMode::Uring);
                    let lu = open.access(Access::Write).open().unwrap();
                    if i % 2 == 0 {
                        lu.write_at(&[i as u8; 512], 512 * i).unwrap();
                    }
                    let began = Instant::now();
                    lu.stop().unwrap();
                    assert!(began.elapsed() < Duration::from_secs(30));
                }
            });
        }
    });
}
