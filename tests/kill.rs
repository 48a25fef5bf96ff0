//! A process that writes through the library is killed with SIGKILL at random moments, again and again on the same LU. Every
//! sector holds what was acknowledged last or something issued later, of one piece; the LU is back within two seconds; and
//! once redundancy agrees again, everything reads the same without each single member in turn.
//!
//! The child is this very test program, started again with words in its environment. Its threads own sectors of their own
//! but share rows. Before a sector is written the child notes the write in a *ledger* (a file beside the members: the page
//! cache outlives the process), and after the acknowledgement once more.
//!
//! `URAID_KILLS` says how many kills per level; few without it, hundreds in a soak.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use uraid::lu::{Access, Policy, State};
use uraid::units::Level;
use uraid::{ErrorKind, Lu};

const DISK: u64 = 20 << 20;
const SECTOR: usize = 512;
/// Threads of the child, and sectors that one of them owns in a row.
const THREADS: u64 = 3;
const RUN: u64 = 8;
/// The LU must be open again after a kill within this.
const BACK: Duration = Duration::from_secs(2);

/// A sector's content: its place, its turn, and a sum over both in every word, so that no mixture passes.
fn content(lba: u64, turn: u32) -> Vec<u8> {
    let word =
        |n: u64| (lba << 32 | u64::from(turn)).wrapping_add(n << 56).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let head = lba.to_le_bytes().into_iter().chain(u64::from(turn).to_le_bytes());
    head.chain((2..64).flat_map(|n| word(n).to_le_bytes())).collect()
}

/// The turn a sector holds, if it holds one whole; a sector never written is turn 0.
fn turn_of(lba: u64, bytes: &[u8]) -> Option<u32> {
    if bytes.iter().all(|&byte| byte == 0) {
        return Some(0);
    }
    let turn = u64::from_le_bytes(bytes[8..16].try_into().unwrap()) as u32;
    (bytes == content(lba, turn)).then_some(turn)
}

/// Two numbers a sector: the last turn issued and the last acknowledged.
struct Ledger(File);

impl Ledger {
    fn open(folder: &Path) -> Ledger {
        let mut how = File::options();
        Ledger(how.read(true).write(true).create(true).truncate(false).open(folder.join("ledger")).unwrap())
    }

    fn note(&self, lba: u64, sectors: u64, acknowledged: bool, turns: &[u32]) {
        // Issued and acknowledged are apart, so that a run of sectors is one write.
        let at = (lba + if acknowledged { 1 << 24 } else { 0 }) * 4;
        let bytes: Vec<u8> = turns.iter().flat_map(|turn| turn.to_le_bytes()).collect();
        assert_eq!(turns.len() as u64, sectors);
        self.0.write_all_at(&bytes, at).unwrap();
    }

    fn turns(&self, lba: u64, sectors: u64, acknowledged: bool) -> Vec<u32> {
        let mut bytes = vec![0; sectors as usize * 4];
        let at = (lba + if acknowledged { 1 << 24 } else { 0 }) * 4;
        // Beyond its end nothing was written yet.
        let mut done = 0;
        while done < bytes.len() {
            match self.0.read_at(&mut bytes[done..], at + done as u64).unwrap() {
                0 => break,
                n => done += n,
            }
        }
        bytes.chunks_exact(4).map(|turn| u32::from_le_bytes(turn.try_into().unwrap())).collect()
    }
}

fn disks(folder: &Path, count: usize) -> Vec<PathBuf> {
    (0..count).map(|i| folder.join(format!("d{i}"))).collect()
}

fn open(paths: &[&PathBuf], access: Access) -> uraid::Result<Lu> {
    paths.iter().fold(Lu::assemble(), |a, path| a.disk(path)).access(access).open()
}

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 24
}

/// Not a test of its own: what [`kill_again_and_again`] starts.
#[test]
fn child() {
    let Ok(folder) = std::env::var("URAID_KILL_CHILD") else { return };
    let word = |name: &str| -> u64 { std::env::var(name).unwrap().parse().unwrap() };
    let (folder, count, seed) =
        (Path::new(&folder), word("URAID_KILL_DISKS") as usize, word("URAID_KILL_SEED"));
    let paths = disks(folder, count);
    let lu = open(&paths.iter().collect::<Vec<_>>(), Access::Write).unwrap();
    File::create(folder.join("open")).unwrap();
    let runs = lu.size() / SECTOR as u64 / RUN / THREADS;
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (lu, ledger) = (&lu, Ledger::open(folder));
            scope.spawn(move || {
                let mut state = seed ^ (thread << 40);
                loop {
                    // A part of a run, a whole one; a flush now and then.
                    let run = random(&mut state) % runs;
                    let first = random(&mut state) % RUN;
                    let sectors = 1 + random(&mut state) % (RUN - first);
                    let lba = (run * THREADS + thread) * RUN + first;
                    let turns: Vec<u32> =
                        ledger.turns(lba, sectors, false).iter().map(|turn| turn + 1).collect();
                    let bytes: Vec<u8> =
                        (lba..).zip(&turns).flat_map(|(lba, turn)| content(lba, *turn)).collect();
                    ledger.note(lba, sectors, false, &turns);
                    lu.write_at(&bytes, lba * SECTOR as u64).unwrap();
                    ledger.note(lba, sectors, true, &turns);
                    if random(&mut state).is_multiple_of(50) {
                        lu.flush().unwrap();
                    }
                }
            });
        }
    });
}

struct Case<'a> {
    level: Level,
    folder: &'a Path,
    paths: Vec<PathBuf>,
}

impl Case<'_> {
    fn run_and_kill(&self, seed: u64) {
        let flag = self.folder.join("open");
        let _ = std::fs::remove_file(&flag);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads", "1"])
            .env("URAID_KILL_CHILD", self.folder)
            .env("URAID_KILL_DISKS", self.paths.len().to_string())
            .env("URAID_KILL_SEED", seed.to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let patience = Instant::now() + Duration::from_secs(20);
        while !flag.exists() {
            assert!(Instant::now() < patience, "{}: the child came to nothing", self.level);
            assert!(child.try_wait().unwrap().is_none(), "{}: the child ended", self.level);
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut state = seed;
        std::thread::sleep(Duration::from_micros(random(&mut state) % 80_000));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Everything that `lu` holds, checked against the ledger.
    fn check(&self, lu: &Lu, ledger: &Ledger, when: &str) -> Vec<u8> {
        let mut bytes = vec![0; lu.size() as usize];
        lu.read_at(&mut bytes, 0).unwrap();
        let sectors = lu.size() / SECTOR as u64;
        let (issued, acknowledged) = (ledger.turns(0, sectors, false), ledger.turns(0, sectors, true));
        for (lba, sector) in bytes.chunks_exact(SECTOR).enumerate() {
            let turn = turn_of(lba as u64, sector);
            let allowed = acknowledged[lba]..=issued[lba];
            let right = turn.is_some_and(|turn| allowed.contains(&turn));
            assert!(right, "{} {when}: sector {lba} holds turn {turn:?}, allowed {allowed:?}", self.level);
        }
        bytes
    }

    /// Before any recovery, with each single member away: what nobody was writing is there exactly, or the LU is refused.
    fn check_without_each(&self, policy: Policy, ledger: &Ledger) {
        let mirrors = matches!(self.level, Level::Raid1 | Level::Raid10);
        for away in 0..self.paths.len() {
            let rest: Vec<&PathBuf> =
                self.paths.iter().enumerate().filter(|(i, _)| *i != away).map(|(_, path)| path).collect();
            let lu = match open(&rest, Access::Read) {
                Ok(lu) => lu,
                Err(error) => {
                    assert!(!mirrors && policy != Policy::Ppl, "{} {policy}: {error}", self.level);
                    assert_eq!(error.kind(), ErrorKind::CannotStart);
                    continue;
                }
            };
            // (It may have been marked clean just before.)
            let sectors = lu.size() / SECTOR as u64;
            let (issued, acknowledged) = (ledger.turns(0, sectors, false), ledger.turns(0, sectors, true));
            let mut bytes = vec![0; lu.size() as usize];
            lu.read_at(&mut bytes, 0).unwrap();
            for (lba, sector) in bytes.chunks_exact(SECTOR).enumerate() {
                let (turn, quiet) = (turn_of(lba as u64, sector), issued[lba] == acknowledged[lba]);
                // In flight on the member that is away, a sector of a RAID5 may be neither old nor new.
                let right = match turn {
                    Some(turn) => (acknowledged[lba]..=issued[lba]).contains(&turn),
                    None => !quiet && !mirrors,
                };
                assert!(right, "{} {policy} without {away}: sector {lba} holds {turn:?}", self.level);
            }
        }
    }

    /// What is there now is what counts from here on: a write in flight may have been done or not.
    fn settle_ledger(ledger: &Ledger, bytes: &[u8]) {
        let turns: Vec<u32> = (0..)
            .zip(bytes.chunks_exact(SECTOR))
            .map(|(lba, sector)| turn_of(lba, sector).unwrap())
            .collect();
        ledger.note(0, turns.len() as u64, true, &turns);
    }
}

fn kill_again_and_again(level: Level, disks_count: usize, policy: Policy, kills: u64) {
    let folder = tempfile::tempdir().unwrap();
    let case = Case { level, folder: folder.path(), paths: disks(folder.path(), disks_count) };
    let create = case.paths.iter().fold(Lu::create("test", level), |c, path| c.disk(path));
    create.policy(policy).disk_size(DISK).make().unwrap().stop().unwrap();
    let ledger = Ledger::open(folder.path());
    for round in 0..kills {
        case.run_and_kill(round * 7919 + disks_count as u64);
        let all: Vec<&PathBuf> = case.paths.iter().collect();
        // A value once read stays.
        let seen = case.check(&open(&all, Access::Read).unwrap(), &ledger, "read after the kill");
        case.check_without_each(policy, &ledger);
        let begin = Instant::now();
        let lu = open(&all, Access::Write).unwrap();
        let took = begin.elapsed();
        assert!(took < BACK, "{level}: open again only after {took:?}");
        lu.wait_for_work(&mut |_| true).unwrap();
        assert_eq!(lu.status().state, State::Healthy);
        let bytes = case.check(&lu, &ledger, "after recovery");
        assert!(bytes == seen, "{level}: what was read before recovery is not what is there now");
        lu.stop().unwrap();
        Case::settle_ledger(&ledger, &bytes);
        for away in 0..all.len() {
            let rest: Vec<&PathBuf> =
                all.iter().enumerate().filter(|(i, _)| *i != away).map(|(_, p)| *p).collect();
            match open(&rest, Access::Read) {
                Ok(lu) => {
                    let mut without = vec![0; bytes.len()];
                    lu.read_at(&mut without, 0).unwrap();
                    assert!(without == bytes, "{level}: without member {away} it reads differently");
                }
                Err(error) => {
                    assert!(level == Level::Raid0 && error.kind() == ErrorKind::CannotStart, "{error}");
                }
            }
        }
    }
}

fn kills() -> u64 {
    std::env::var("URAID_KILLS").map_or(6, |text| text.parse().expect("URAID_KILLS is a number"))
}

macro_rules! tests {
    ($($name:ident: $level:ident, $disks:literal, $policy:ident;)*) => {
        $(
            #[test]
            fn $name() {
                kill_again_and_again(Level::$level, $disks, Policy::$policy, kills());
            }
        )*
    };
}

tests! {
    raid0: Raid0, 3, None;
    raid1: Raid1, 2, None;
    raid1_bitmap: Raid1, 3, Bitmap;
    raid4: Raid4, 3, None;
    raid5: Raid5, 4, None;
    raid5_ppl: Raid5, 4, Ppl;
    raid5_bitmap: Raid5, 3, Bitmap;
    raid6: Raid6, 5, None;
    raid6_bitmap: Raid6, 4, Bitmap;
    raid10: Raid10, 4, None;
    raid10_bitmap: Raid10, 3, Bitmap;
}
