//! Members on files in a folder of their own, the real program run on them, and the proof that a refusal cost
//! nothing.
//!
//! A [`Bench`] makes LUs, disturbs their members (superblocks are edited through the library, which keeps
//! checksum and place right, or as bytes), runs `uraid` lines in the folder and knows what every file held
//! before and after.

#![allow(dead_code, unreachable_pub, reason = "each test crate uses its own part")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use rustix::fs::{SeekFrom, seek};
use serde_json::Value;
use tempfile::TempDir;
use uraid::format::superblock::{Minor, SLOT_BYTES, Superblock};
use uraid::units::{SECTOR, Sectors};

pub const MIB: usize = 1 << 20;
/// Bytes of a disk, unless a test says else: the private area and one MiB.
pub const DISK: usize = 2 * MIB;
/// Bytes of data that tests write and look for.
pub const DATA: usize = 300_000;

/// Levels that survive a loss, and members enough.
pub const REDUNDANT: [(&str, usize); 5] = [("1", 2), ("4", 3), ("5", 3), ("6", 4), ("10", 4)];

/// A folder in which lines run.
pub struct Bench {
    folder: TempDir,
}

/// What a line did.
pub struct Ran {
    pub code: Option<i32>,
    pub out: Vec<u8>,
    pub err: String,
}

/// What a file holds and when it was last changed.
#[derive(PartialEq, Eq)]
pub struct Held {
    bytes: u64,
    /// Blocks that are not all zeroes, by their place: most of a file here is a hole, which takes its time to
    /// read.
    blocks: BTreeMap<u64, Vec<u8>>,
    changed: (i64, i64),
}

impl Held {
    fn of(path: &Path) -> io::Result<Held> {
        const BLOCK: usize = 4096;
        let file = fs::File::open(path)?;
        let m = file.metadata()?;
        let mut blocks = BTreeMap::new();
        let mut end = 0;
        while let Ok(start) = seek(&file, SeekFrom::Data(end)) {
            end = seek(&file, SeekFrom::Hole(start))?;
            let mut extent = vec![0; (end - start) as usize];
            file.read_exact_at(&mut extent, start)?;
            for (at, block) in (start..).step_by(BLOCK).zip(extent.chunks(BLOCK)) {
                if block.iter().any(|&byte| byte != 0) {
                    blocks.insert(at, block.to_vec());
                }
            }
        }
        Ok(Held { bytes: m.len(), blocks, changed: (m.mtime(), m.mtime_nsec()) })
    }
}

impl Bench {
    /// An empty folder.
    pub fn empty() -> Bench {
        Bench { folder: tempfile::tempdir().unwrap() }
    }

    /// An LU named `data` of `disks` new files `d0`, `d1`..., which holds [`data`]`(1)` at its start.
    pub fn lu(level: &str, disks: usize) -> Bench {
        let bench = Bench::empty();
        bench.make("data", level, 'd', disks, "");
        bench.put(&bench.list(disks), 1, "");
        bench
    }

    /// An LU of new files whose names begin with `letter`.
    #[track_caller]
    pub fn make(&self, name: &str, level: &str, letter: char, disks: usize, more: &str) {
        let paths: String = (0..disks).map(|i| format!(" ./{letter}{i}")).collect();
        self.ok(&format!("create {name} --level {level}{paths} --disk-size {DISK} {more}"));
    }

    /// `./d0,./d1,...`
    pub fn list(&self, disks: usize) -> String {
        listed(&(0..disks).collect::<Vec<_>>())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_uraid"));
        command.args(line.split_whitespace()).current_dir(self.folder.path());
        command.env("URAID_CONFIG", self.path("uraid.toml")).stdin(Stdio::null());
        command.env("URAID_RUNTIME_DIR", self.path("run"));
        command
    }

    /// Runs `uraid LINE`.
    pub fn run(&self, line: &str) -> Ran {
        Ran::of(self.command(line).output().unwrap())
    }

    /// Runs `uraid LINE` as a shell would, quotes and all.
    pub fn paste(&self, line: &str) -> Ran {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_uraid"));
        let folders = [program.parent().unwrap().to_owned()].into_iter();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = folders.chain(std::env::split_paths(&path));
        let mut shell = Command::new("sh");
        shell.args(["-c", line]).current_dir(self.folder.path()).stdin(Stdio::null());
        shell
            .env("PATH", std::env::join_paths(folders).unwrap())
            .env("URAID_CONFIG", self.path("uraid.toml"));
        Ran::of(shell.output().unwrap())
    }

    /// Starts `uraid LINE` with all streams as pipes.
    pub fn start(&self, line: &str) -> Child {
        let mut command = self.command(line);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Starts `uraid LINE` and waits until it has claimed `disks` files. Asking another way would be a claim
    /// by itself, and might come first.
    pub fn hold(&self, line: &str, disks: usize) -> Child {
        let mut child = self.start(line);
        let pid = child.id().to_string();
        let is_its = |lock: &&str| {
            let words: Vec<&str> = lock.split_whitespace().collect();
            words.get(1) == Some(&"FLOCK") && words.get(4) == Some(&pid.as_str())
        };
        while fs::read_to_string("/proc/locks").unwrap().lines().filter(is_its).count() < disks {
            assert!(child.try_wait().unwrap().is_none(), "uraid {line} never held its disks");
            thread::sleep(Duration::from_millis(2));
        }
        child
    }

    /// Runs `uraid LINE` with `input` on standard input.
    pub fn feed(&self, line: &str, input: &[u8]) -> Ran {
        let mut child = self.start(line);
        let mut stdin = child.stdin.take().unwrap();
        thread::scope(|scope| {
            // The child may stop reading before the end.
            scope.spawn(move || drop(stdin.write_all(input)));
            Ran::of(child.wait_with_output().unwrap())
        })
    }

    /// Runs `uraid LINE`, which has to succeed.
    #[track_caller]
    pub fn ok(&self, line: &str) -> Ran {
        self.ends(0, line)
    }

    /// Runs `uraid LINE`, which has to end with `code`.
    #[track_caller]
    pub fn ends(&self, code: i32, line: &str) -> Ran {
        let ran = self.run(line);
        assert_eq!(ran.code, Some(code), "uraid {line}\n{}", ran.words());
        ran
    }

    /// Runs `uraid LINE`, which has to end with `code`, saying all of `words` on standard error, and change
    /// nothing.
    #[track_caller]
    pub fn ends_untouched(&self, code: i32, line: &str, words: &[&str]) -> Ran {
        let before = self.held();
        let ran = self.ends(code, line);
        for word in words {
            assert!(ran.err.contains(word), "uraid {line} does not say {word:?}:\n{}", ran.words());
        }
        assert!(self.held() == before, "uraid {line} changed something:\n{}", ran.words());
        ran
    }

    /// Runs `uraid LINE --json`, which has to succeed and change nothing; its document.
    #[track_caller]
    pub fn document(&self, line: &str) -> Value {
        let ran = self.ends_untouched(0, &format!("{line} --json"), &[]);
        serde_json::from_slice(&ran.out).unwrap()
    }

    /// The LU of `status`.
    #[track_caller]
    pub fn status(&self, lu: &str) -> Value {
        self.document(&format!("status {lu}"))["lus"][0].clone()
    }

    /// The member of `status` whose disk is `disk`.
    #[track_caller]
    pub fn member(&self, lu: &str, disk: &str) -> Value {
        let status = self.status(lu);
        let mut members = status["members"].as_array().unwrap().iter();
        members
            .find(|member| member["disk"] == disk)
            .unwrap_or_else(|| panic!("{disk} in {status:#}"))
            .clone()
    }

    /// Writes [`data`]`(seed)` to the start of the LU.
    #[track_caller]
    pub fn put(&self, lu: &str, seed: u64, flags: &str) {
        let line = format!("write {lu} {flags}");
        let ran = self.feed(&line, &data(seed));
        assert_eq!(ran.code, Some(0), "uraid {line}\n{}", ran.words());
    }

    /// The LU must begin with [`data`]`(seed)`, and reading it must change nothing. What is said on standard
    /// error.
    #[track_caller]
    pub fn holds(&self, lu: &str, seed: u64) -> String {
        let ran = self.ends_untouched(0, &format!("read {lu}"), &[]);
        assert!(ran.out[..DATA] == data(seed), "{lu} holds something else than {seed}");
        assert!(ran.out[DATA..].iter().all(|&byte| byte == 0), "{lu} has something behind it");
        ran.err
    }

    /// All files of the folder, what is in them and when they changed.
    pub fn held(&self) -> BTreeMap<PathBuf, Held> {
        let entries = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let files = entries.filter(|path| path.is_file());
        files.map(|path| (path.clone(), Held::of(&path).unwrap())).collect()
    }

    /// All files of the folder, their sizes and when they changed: less than [`held`](Bench::held), and fast.
    pub fn stamps(&self) -> BTreeMap<PathBuf, (u64, i64, i64)> {
        let entries = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let stamp = |path: PathBuf| {
            let m = path.metadata().unwrap();
            (path, (m.len(), m.mtime(), m.mtime_nsec()))
        };
        entries.filter(|path| path.is_file()).map(stamp).collect()
    }

    pub fn copy(&self, from: &str, to: &str) {
        fs::copy(self.path(from), self.path(to)).unwrap();
    }

    pub fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    /// Moves a file out of the folder.
    pub fn take_away(&self, name: &str) {
        fs::create_dir_all(self.path("away")).unwrap();
        self.rename(name, &format!("away/{name}"));
    }

    /// Moves a file back into the folder.
    pub fn bring_back(&self, name: &str) {
        self.rename(&format!("away/{name}"), name);
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    pub fn resize(&self, name: &str, bytes: u64) {
        fs::File::options().write(true).open(self.path(name)).unwrap().set_len(bytes).unwrap();
    }

    /// A file of zeroes.
    pub fn blank(&self, name: &str, bytes: usize) {
        fs::File::create(self.path(name)).unwrap().set_len(bytes as u64).unwrap();
    }

    /// The superblock of a member whose metadata is version 1.2.
    pub fn superblock(&self, name: &str) -> Superblock {
        let (slot, disk) = self.slot(name);
        Superblock::decode(&slot, Minor::V1_2, disk).unwrap()
    }

    /// Changes facts of a member's superblock; checksum and everything else stay right.
    pub fn edit(&self, name: &str, change: impl FnOnce(&mut Superblock)) {
        let (mut slot, disk) = self.slot(name);
        let mut superblock = Superblock::decode(&slot, Minor::V1_2, disk).unwrap();
        change(&mut superblock);
        superblock.write_into(&mut slot);
        self.poke(name, 4096, &slot);
    }

    /// Changes bytes of a member's superblock, and makes its checksum right where it has one.
    pub fn edit_bytes(&self, name: &str, change: impl FnOnce(&mut [u8])) {
        let (mut slot, _) = self.slot(name);
        change(&mut slot);
        if let Ok(sum) = Superblock::checksum(&slot) {
            slot[216..220].copy_from_slice(&sum.to_le_bytes());
        }
        self.poke(name, 4096, &slot);
    }

    /// Writes bytes over a file.
    pub fn poke(&self, name: &str, at: u64, bytes: &[u8]) {
        let file = fs::File::options().write(true).open(self.path(name)).unwrap();
        file.write_all_at(bytes, at).unwrap();
    }

    fn slot(&self, name: &str) -> (Vec<u8>, Sectors) {
        let file = fs::File::open(self.path(name)).unwrap();
        let mut slot = vec![0; SLOT_BYTES];
        file.read_exact_at(&mut slot, 4096).unwrap();
        (slot, Sectors(file.metadata().unwrap().len() / SECTOR))
    }
}

impl Ran {
    pub fn of(output: Output) -> Ran {
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        Ran { code: output.status.code(), out: output.stdout, err }
    }

    /// Both streams, to be shown where a test fails.
    pub fn words(&self) -> String {
        match std::str::from_utf8(&self.out) {
            Ok(out) if out.len() < 10_000 => format!("{out}{}", self.err),
            _ => format!("({} bytes)\n{}", self.out.len(), self.err),
        }
    }

    /// The command line that is told behind `before`: up to the end of the clause.
    #[track_caller]
    pub fn told(&self, before: &str) -> String {
        let after = self.err.split_once(before).unwrap_or_else(|| panic!("no {before:?} in {}", self.err)).1;
        after.split(['\n', ';']).next().unwrap_or_default().trim().to_owned()
    }
}

/// `./d1,./d0` for members 1 and 0.
pub fn listed(members: &[usize]) -> String {
    members.iter().map(|i| format!("./d{i}")).collect::<Vec<_>>().join(",")
}

/// All orders of the first `n` numbers.
pub fn orders(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![vec![]];
    }
    let shorter = orders(n - 1);
    let with = |order: &Vec<usize>| {
        let insert = |at: usize| [&order[..at], &[n - 1], &order[at..]].concat();
        (0..n).map(insert).collect::<Vec<_>>()
    };
    shorter.iter().flat_map(with).collect()
}

/// [`DATA`] bytes that are different everywhere and for every seed.
pub fn data(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..DATA).map(|_| next()).collect()
}
