//! The process dies without a word: what was flushed is there, redundancy is made to agree again, a rebuild goes on.
//!
//! The child is this very test program, started again with a word in its environment; it is killed with SIGKILL.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use uraid::Lu;
use uraid::format::superblock::Features;
use uraid::lu::{Access, Policy, State, WorkKind, inspect};
use uraid::units::Level;

const DISK: u64 = 48 << 20;
const BLOCK: usize = 12_288;

/// What block `n` holds in its `round`-th life.
fn content(n: u64, round: u64) -> Vec<u8> {
    let word = (n << 20 | round).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
    word.iter().copied().cycle().take(BLOCK).collect()
}

fn open(paths: &[PathBuf], access: Access) -> uraid::Result<Lu> {
    paths.iter().fold(Lu::assemble(), |a, path| a.disk(path)).access(access).degraded(true).open()
}

fn disks(folder: &Path, count: usize) -> Vec<PathBuf> {
    (0..count).map(|i| folder.join(format!("d{i}"))).collect()
}

/// The child: writes rounds of blocks and says after each flush which round is safe.
#[test]
#[allow(clippy::print_stderr)] // how it talks to its parent
fn child() {
    let Ok(folder) = std::env::var("URAID_CRASH_CHILD") else { return };
    let count: usize = std::env::var("URAID_CRASH_DISKS").unwrap().parse().unwrap();
    let mut paths = disks(Path::new(&folder), count);
    paths.retain(|path| path.exists());
    let lu = open(&paths, Access::Write).unwrap();
    let blocks = lu.size() / BLOCK as u64;
    for round in 1.. {
        for n in (round % 7..blocks).step_by(7) {
            lu.write_at(&content(n, round), n * BLOCK as u64).unwrap();
        }
        lu.flush().unwrap();
        eprintln!("\nsafe {round}");
    }
}

/// Runs the child until it has said `rounds` times that something is safe, then kills it. The last safe round.
fn run_and_kill(folder: &Path, count: usize, rounds: usize) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads", "1"])
        .env("URAID_CRASH_CHILD", folder)
        .env("URAID_CRASH_DISKS", count.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let safe =
        lines.filter_map(|line| line.strip_prefix("safe ").and_then(|n| n.parse().ok())).nth(rounds - 1);
    // In the middle of the next round.
    std::thread::sleep(std::time::Duration::from_millis(15));
    child.kill().unwrap();
    child.wait().unwrap();
    safe.expect("the child wrote something")
}

/// Every block holds what was safe, or what was written to it later.
fn check(lu: &Lu, safe: u64) {
    let blocks = lu.size() / BLOCK as u64;
    let mut bytes = vec![0; BLOCK];
    for n in 0..blocks {
        lu.read_at(&mut bytes, n * BLOCK as u64).unwrap();
        // The rounds that touched the block, up to one that was never acknowledged as a whole.
        let rounds: Vec<u64> =
            (1..=safe + 2).filter(|round| n >= round % 7 && (n - round % 7) % 7 == 0).collect();
        let least = rounds.iter().rev().find(|&&round| round <= safe);
        for (i, sector) in bytes.chunks(512).enumerate() {
            let is = |round: u64| sector == &content(n, round)[i * 512..(i + 1) * 512];
            let later = rounds.iter().any(|&round| least.is_none_or(|&least| round >= least) && is(round));
            let never = least.is_none() && sector.iter().all(|&b| b == 0);
            assert!(
                later || never,
                "block {n} sector {i} is not what was flushed in round {least:?} (safe {safe})"
            );
        }
    }
}

#[test]
fn killed_while_writing() {
    for (level, count) in [(Level::Raid1, 2), (Level::Raid5, 4), (Level::Raid6, 5), (Level::Raid10, 3)] {
        let dir = tempfile::tempdir().unwrap();
        let paths = disks(dir.path(), count);
        let create = paths
            .iter()
            .fold(Lu::create("crash", level).policy(Policy::None).disk_size(DISK / 4), |c, path| {
                c.disk(path)
            });
        create.make().unwrap().stop().unwrap();
        let safe = run_and_kill(dir.path(), count, 9);
        let status = Lu::assemble().beside(&paths[0]).look().unwrap();
        // On a slow machine a flush may last so long that the LU was just found idle and marked clean.
        assert_eq!(status.dirty, status.state == State::Resyncing, "{level}: {status:#?}");
        check(&open(&paths, Access::Read).unwrap(), safe);
        let lu = open(&paths, Access::Write).unwrap();
        check(&lu, safe);
        lu.wait_for_work(&mut |work| {
            assert_eq!(work.kind, WorkKind::Resync);
            true
        })
        .unwrap();
        let status = lu.status();
        assert_eq!(status.state, State::Healthy, "{level}: {status:#?}");
        lu.stop().unwrap();
        // Redundancy agrees: every block is the same whichever member is away.
        let mut whole = vec![0; open(&paths, Access::Read).unwrap().size() as usize];
        open(&paths, Access::Read).unwrap().read_at(&mut whole, 0).unwrap();
        for away in 0..count {
            let rest: Vec<_> =
                paths.iter().enumerate().filter(|(i, _)| *i != away).map(|(_, p)| p.clone()).collect();
            let lu = open(&rest, Access::Read).unwrap();
            let mut bytes = vec![0; whole.len()];
            lu.read_at(&mut bytes, 0).unwrap();
            assert!(bytes == whole, "{level} reads differently without disk {away}");
        }
    }
}

/// Makes a member's log one that md calls PPL, without "multiple".
fn one_place(path: &Path) {
    let mut superblock = inspect(path).unwrap().superblock;
    superblock.features = superblock.features.without(Features::MULTIPLE_PPLS).with(Features::PPL);
    let file = std::fs::File::options().write(true).open(path).unwrap();
    let mut slot = vec![0; 4096];
    superblock.write_into(&mut slot);
    std::os::unix::fs::FileExt::write_all_at(&file, &slot, 4096).unwrap();
}

fn bytes_of(paths: &[PathBuf]) -> Vec<Vec<u8>> {
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// With a partial parity log: killed, and a member lost with it, or lost before. What was flushed is there, looking changes
/// nothing, nothing has to be allowed, and no resync follows.
#[test]
fn killed_while_writing_with_a_log_and_a_member_lost() {
    // Records that follow each other, and (md's older way) that are all written to one place.
    for (count, lost_before, single) in [(3, None, true), (4, None, false), (4, Some(1), false)] {
        let dir = tempfile::tempdir().unwrap();
        let paths = disks(dir.path(), count);
        let create = Lu::create("crash", Level::Raid5).disk_size(DISK / 12).policy(Policy::Ppl);
        paths.iter().fold(create, |c, path| c.disk(path)).make().unwrap().stop().unwrap();
        if single {
            paths.iter().for_each(|path| one_place(path));
        }
        let mut safe = run_and_kill(dir.path(), count, 8);
        if let Some(lost) = lost_before {
            std::fs::remove_file(&paths[lost]).unwrap();
            open_some(&paths, lost, Access::Write).unwrap().stop().unwrap();
            // Its rounds are numbered anew, and reach every block.
            safe = run_and_kill(dir.path(), count, 8);
        }
        let status = Lu::assemble().beside(&paths[0]).look().unwrap();
        assert_eq!((status.refusal, status.policy), (None, Policy::Ppl));
        let all: Vec<PathBuf> = paths.iter().filter(|path| path.exists()).cloned().collect();
        let before = bytes_of(&all);
        let away = |n: &usize| lost_before.is_none_or(|lost| lost == *n);
        for lost in (0..count).filter(away) {
            let lu = open_some(&paths, lost, Access::Read).unwrap();
            check(&lu, safe);
            lu.stop().unwrap();
        }
        assert!(bytes_of(&all) == before, "looking has changed something");
        // Going on with what is left, on copies.
        for lost in (0..count).filter(away) {
            let copies = tempfile::tempdir().unwrap();
            for path in &all {
                std::fs::copy(path, copies.path().join(path.file_name().unwrap())).unwrap();
            }
            let lu = open_some(&disks(copies.path(), count), lost, Access::Write).unwrap();
            check(&lu, safe);
            assert_eq!(lu.status().work, None, "{:#?}", lu.status());
            lu.stop().unwrap();
            let lu = open_some(&disks(copies.path(), count), lost, Access::Read).unwrap();
            assert!(!lu.status().dirty);
            check(&lu, safe);
        }
        if lost_before.is_none() {
            let lu = open(&paths, Access::Write).unwrap();
            assert_eq!(lu.status().state, State::Healthy, "{:#?}", lu.status());
            check(&lu, safe);
            lu.stop().unwrap();
            agrees_without_each(&paths);
        }
    }
}

/// A log that cannot be believed, and a member missing: refused, naming the log; not without the member.
#[test]
fn a_rotten_log_and_a_lost_member_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let paths = disks(dir.path(), 3);
    let create = Lu::create("crash", Level::Raid5).disk_size(DISK / 12).policy(Policy::Ppl);
    paths.iter().fold(create, |c, path| c.disk(path)).make().unwrap().stop().unwrap();
    let safe = run_and_kill(dir.path(), 3, 9);
    let log = inspect(&paths[1]).unwrap().superblock.ppl_area().unwrap();
    let good = std::fs::read(&paths[1]).unwrap();
    let mut rotten = good.clone();
    rotten[log.start.bytes() as usize + 700] ^= 0x10;
    std::fs::write(&paths[1], &rotten).unwrap();
    let before = bytes_of(&paths);
    for access in [Access::Read, Access::Write] {
        let error = open_some(&paths, 0, access).err().expect("refused");
        let text = error.to_string();
        assert_eq!(error.kind(), uraid::ErrorKind::CannotStart, "{text}");
        assert!(text.contains("d1") && text.contains("--allow-dirty") && !text.contains("d2:"), "{text}");
    }
    // Without the rotten one the others vouch for themselves.
    check(&open_some(&paths, 1, Access::Read).unwrap(), safe);
    assert!(bytes_of(&paths) == before);
    let rest = [&paths[1], &paths[2]];
    let lu = rest.iter().fold(Lu::assemble(), |a, path| a.disk(path)).degraded(true).allow_dirty(true);
    lu.clone().open().unwrap().stop().unwrap();
    // All there: a resync instead.
    let lu = open(&paths, Access::Write).unwrap();
    check(&lu, safe);
    lu.wait_for_work(&mut |work| work.kind == WorkKind::Resync).unwrap();
    lu.stop().unwrap();
    agrees_without_each(&paths);
}

fn open_some(paths: &[PathBuf], without: usize, access: Access) -> uraid::Result<Lu> {
    let rest: Vec<_> =
        paths.iter().enumerate().filter(|(i, _)| *i != without).map(|(_, p)| p.clone()).collect();
    open(&rest, access)
}

/// Every block is the same whichever member is away.
fn agrees_without_each(paths: &[PathBuf]) {
    let lu = open(paths, Access::Read).unwrap();
    let mut whole = vec![0; lu.size() as usize];
    lu.read_at(&mut whole, 0).unwrap();
    for away in 0..paths.len() {
        let mut bytes = vec![0; whole.len()];
        open_some(paths, away, Access::Read).unwrap().read_at(&mut bytes, 0).unwrap();
        assert!(bytes == whole, "reads differently without disk {away}");
    }
}

#[test]
fn killed_in_the_middle_of_a_rebuild() {
    let dir = tempfile::tempdir().unwrap();
    let paths = disks(dir.path(), 4);
    let create = paths[..3]
        .iter()
        .fold(Lu::create("crash", Level::Raid5).policy(Policy::None).disk_size(DISK), |c, path| c.disk(path));
    let lu = create.spare(&paths[3]).make().unwrap();
    let data: Vec<u8> = (0..lu.size() / BLOCK as u64).flat_map(|n| content(n, 1)).collect();
    lu.write_at(&data, 0).unwrap();
    lu.stop().unwrap();
    std::fs::remove_file(&paths[0]).unwrap();
    let rest = &paths[1..];
    for _ in 0..3 {
        // A process that only holds the LU: the spare takes over by itself. It is killed at once.
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "holder", "--nocapture"])
            .env("URAID_CRASH_HOLDER", dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(60));
        child.kill().unwrap();
        child.wait().unwrap();
        let lu = open(rest, Access::Read).unwrap();
        let mut bytes = vec![0; data.len()];
        lu.read_at(&mut bytes, 0).unwrap();
        assert!(bytes == data, "in the middle of the rebuild");
    }
    let lu = open(rest, Access::Write).unwrap();
    lu.wait_for_work(&mut |_| true).unwrap();
    assert_eq!(lu.status().state, State::Healthy, "{:#?}", lu.status());
    lu.stop().unwrap();
    let lu = open(&paths[2..], Access::Read).unwrap();
    let mut bytes = vec![0; data.len()];
    lu.read_at(&mut bytes, 0).unwrap();
    assert!(bytes == data, "from the spare and one more");
}

/// The child of the rebuild: holds the LU and does nothing.
#[test]
fn holder() {
    let Ok(folder) = std::env::var("URAID_CRASH_HOLDER") else { return };
    let _lu = open(&disks(Path::new(&folder), 4)[1..], Access::Write).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(60));
}

/// A spare that takes over and a disk that is added get logs of their own, and what is logged there is replayed.
#[test]
fn new_members_have_logs() {
    let dir = tempfile::tempdir().unwrap();
    let paths = disks(dir.path(), 4);
    let create = Lu::create("crash", Level::Raid5).disk_size(DISK / 12).policy(Policy::Ppl);
    let lu = paths[..3].iter().fold(create, |c, path| c.disk(path)).spare(&paths[3]).make().unwrap();
    lu.write_at(&content(1, 1), 0).unwrap();
    lu.fail(&paths[0]).unwrap();
    lu.wait_for_work(&mut |_| true).unwrap();
    lu.remove(&paths[0]).unwrap();
    let added = dir.path().join("added");
    std::fs::File::create(&added).unwrap().set_len(DISK / 12).unwrap();
    lu.add(&added, false).unwrap();
    lu.fail(&paths[1]).unwrap();
    lu.wait_for_work(&mut |_| true).unwrap();
    lu.remove(&paths[1]).unwrap();
    for n in 0..30 {
        lu.write_at(&content(n, 2), n * BLOCK as u64).unwrap();
    }
    assert_eq!(lu.status().state, State::Healthy, "{:#?}", lu.status());
    lu.stop().unwrap();
    for path in [&paths[2], &paths[3], &added] {
        let entries = inspect(path).unwrap().ppl_entries.expect("a log").expect("a header");
        assert!(entries > 0, "{} has logged nothing", path.display());
    }
    std::fs::rename(&added, &paths[0]).unwrap();
    let members = [paths[0].clone(), paths[2].clone(), paths[3].clone()];
    agrees_without_each(&members);
    std::fs::rename(&paths[3], &paths[1]).unwrap();
    let safe = run_and_kill(dir.path(), 3, 8);
    for lost in 0..3 {
        check(&open_some(&paths[..3], lost, Access::Read).unwrap(), safe);
    }
}
