//! What is refused, and that a refusal costs nothing: the right kind of error, the disk named, every byte of every file as
//! it was, no new file left. First the making of an LU, then its assembly.
#![allow(clippy::type_complexity)] // tables of bytes, read where they stand

mod common;
#[path = "common/loopdev.rs"]
mod loopdev;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use loopdev::LoopDevice;
use uraid::format::superblock::{Minor, SLOT_BYTES, Superblock, Uuid};
use uraid::lu::{Access, Create, MemberState, Policy, State, inspect};
use uraid::units::{Level, Sectors};
use uraid::{Error, ErrorKind, Lu};

const MIB: u64 = 1 << 20;
const DISK: u64 = 6 * MIB;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().expect("a temporary folder"))
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file of zeroes.
    fn blank(&self, name: &str, size: u64) -> PathBuf {
        let path = self.at(name);
        fs::File::create(&path).unwrap().set_len(size).unwrap();
        path
    }

    /// All files and what is in them.
    fn content(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let paths = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().path());
        paths.map(|path| (path.clone(), fs::read(&path).unwrap_or_default())).collect()
    }

    /// `attempt` must fail as `kind`, saying all of `words`, and change nothing.
    fn refused<T>(
        &self,
        kind: ErrorKind,
        words: &[&str],
        attempt: impl FnOnce() -> uraid::Result<T>,
    ) -> Error {
        let before = self.content();
        let error = attempt().err().unwrap_or_else(|| panic!("not refused: {words:?}"));
        assert_eq!(error.kind(), kind, "{error}");
        for word in words {
            assert!(error.to_string().contains(word), "{error}: does not say {word:?}");
        }
        assert!(self.content() == before, "{error}: something was changed");
        error
    }

    /// An LU on new files `d0`, `d1`..., written, stopped.
    fn lu(&self, level: Level, disks: usize) -> Vec<PathBuf> {
        let paths: Vec<_> = (0..disks).map(|i| self.at(&format!("d{i}"))).collect();
        let lu = create(level, &paths).disk_size(DISK).make().unwrap();
        lu.write_at(&pattern(), 0).unwrap();
        lu.stop().unwrap();
        paths
    }
}

fn pattern() -> Vec<u8> {
    (0..MIB).map(|i| (i * 7 + i / 251) as u8).collect()
}

fn create(level: Level, paths: &[PathBuf]) -> Create {
    paths.iter().fold(Lu::create("data", level), |create, path| create.disk(path))
}

fn open(paths: &[PathBuf], access: Access) -> uraid::Result<Lu> {
    paths.iter().fold(Lu::assemble(), |assemble, path| assemble.disk(path)).access(access).open()
}

fn name(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

fn read_pattern(lu: &Lu) {
    let mut bytes = vec![0; MIB as usize];
    lu.read_at(&mut bytes, 0).unwrap();
    assert!(bytes == pattern(), "reads differently");
}

// --- create -----------------------------------------------------------------------------------------------------------

/// What may be on a disk: how it is called, and bytes at places.
fn inhabitants() -> Vec<(&'static str, Vec<(u64, Vec<u8>)>)> {
    let at = |at: u64, bytes: &[u8]| vec![(at, bytes.to_vec())];
    let mut partition = vec![0; 66];
    partition[4] = 0x83;
    partition[8..12].copy_from_slice(&8u32.to_le_bytes());
    partition[12..16].copy_from_slice(&100u32.to_le_bytes());
    partition[64..].copy_from_slice(&[0x55, 0xaa]);
    vec![
        ("GPT", at(512, b"EFI PART")),
        ("GPT", at(DISK - 512, b"EFI PART")),
        ("MBR", vec![(446, partition)]),
        ("xfs", at(0, b"XFSB")),
        ("btrfs", at(65600, b"_BHRfS_M")),
        ("LUKS1", at(0, b"LUKS\xba\xbe\0\x01")),
        ("LUKS2", at(0, b"LUKS\xba\xbe\0\x02")),
        ("LVM2", vec![(512, b"LABELONE".to_vec()), (512 + 24, b"LVM2 001".to_vec())]),
        ("ntfs", at(3, b"NTFS    ")),
        ("bcachefs", at(4120, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef")),
        ("IMSM", at(DISK - 1024, b"Intel Raid ISM Cfg. Sig.")),
        ("DDF", at(DISK - 512, b"\xde\x11\xde\x11")),
        ("0.90", at((DISK & !0xffff) - 65536, b"\xfc\x4e\x2b\xa9\0\0\0\0")),
        // A damaged superblock is somebody's all the same.
        ("md superblock", at(4096, b"\xfc\x4e\x2b\xa9\x01\0\0\0")),
    ]
}

#[test]
fn whatever_is_on_a_disk_is_named_and_kept() {
    for (what, bytes) in inhabitants() {
        let folder = Folder::new();
        let (first, second) = (folder.blank("first", DISK), folder.blank("second", DISK));
        let file = fs::File::options().write(true).open(&second).unwrap();
        for (at, bytes) in bytes {
            file.write_all_at(&bytes, at).unwrap();
        }
        let paths = [first, second.clone(), folder.at("new")];
        let make = || create(Level::Raid5, &paths).disk_size(DISK);
        folder.refused(ErrorKind::Refused, &[name(&second), what, "--confirm data"], || make().make());
        assert!(make().would_destroy().unwrap().iter().any(|s| s.contains(what)), "{what}");
        make().overwrite(true).make().unwrap().stop().unwrap();
        open(&paths, Access::Write).unwrap().stop().unwrap();
    }
}

#[test]
fn file_systems_made_by_their_own_tools_are_named_and_kept() {
    let folder = Folder::new();
    let (ext4, swap) = (folder.blank("ext4", DISK), folder.blank("swap", DISK));
    run("mkfs.ext4", &["-q", "-F", "-L", "precious", name(&ext4)]);
    run("mkswap", &["-L", "pages", name(&swap)]);
    for (path, words) in [(ext4, ["ext4", "precious"]), (swap, ["swap", "pages"])] {
        let words = [name(&path), words[0], words[1]];
        let paths = [folder.at("other"), path.clone()];
        let spare = || create(Level::Raid1, &paths[..1]).missing().spare(&path).disk_size(DISK).make();
        folder.refused(ErrorKind::Refused, &words, spare);
        folder.refused(ErrorKind::Refused, &words, || create(Level::Raid1, &paths).disk_size(DISK).make());
    }
}

#[test]
fn a_member_of_another_lu_is_kept_and_its_superblocks_go_when_it_is_overwritten() {
    let places = |path: &Path| -> Vec<Minor> {
        let bytes = fs::read(path).unwrap();
        let magic = |minor: &Minor| {
            let at = minor.offset(Sectors(DISK / 512)).unwrap().bytes() as usize;
            bytes[at..at + 4] == *b"\xfc\x4e\x2b\xa9"
        };
        Minor::ALL.into_iter().filter(magic).collect()
    };
    for old in Minor::ALL {
        for new in Minor::ALL.into_iter().filter(|new| *new != old) {
            let folder = Folder::new();
            let paths: Vec<_> = ["a", "b"].map(|n| folder.at(n)).into();
            let first = create(Level::Raid1, &paths).disk_size(DISK).metadata(old).make().unwrap();
            first.stop().unwrap();
            let again = || Lu::create("again", Level::Raid1).disk(&paths[0]).disk(&paths[1]).metadata(new);
            let words = [name(&paths[0]), name(&paths[1]), "md superblock", "data", "--confirm again"];
            folder.refused(ErrorKind::Refused, &words, || again().make());
            // Also one that this version would not use: its checksum is wrong.
            let at = old.offset(Sectors(DISK / 512)).unwrap().bytes();
            let file = fs::File::options().write(true).open(&paths[1]).unwrap();
            file.write_all_at(&[0xff; 8], at + 200).unwrap();
            again().overwrite(true).assume_clean(true).make().unwrap().stop().unwrap();
            for path in &paths {
                assert_eq!(places(path), [new], "{old:?} then {new:?}");
                assert_eq!(inspect(path).unwrap().superblock.name(), "again");
            }
        }
    }
}

#[test]
fn the_old_0_90_superblock_goes_too() {
    let folder = Folder::new();
    let disk = folder.blank("old", DISK);
    let at = (DISK & !0xffff) - 65536;
    let file = fs::File::options().read(true).write(true).open(&disk).unwrap();
    file.write_all_at(b"\xfc\x4e\x2b\xa9\0\0\0\0", at).unwrap();
    let paths = [disk, folder.at("new")];
    let make = create(Level::Raid1, &paths).disk_size(DISK).assume_clean(true).overwrite(true);
    make.make().unwrap().stop().unwrap();
    let mut left = [1; 8];
    file.read_exact_at(&mut left, at).unwrap();
    assert_eq!(left, [0; 8]);
}

#[test]
fn one_disk_under_two_names_is_one_disk() {
    let folder = Folder::new();
    let disk = folder.blank("disk", DISK);
    fs::hard_link(&disk, folder.at("hard")).unwrap();
    std::os::unix::fs::symlink(&disk, folder.at("soft")).unwrap();
    for twin in ["disk", "./disk", "hard", "soft"].map(|twin| folder.at(twin)) {
        let paths = [folder.at("new"), disk.clone(), twin.clone()];
        let words = [name(&disk), name(&twin), "same disk"];
        folder.refused(ErrorKind::Usage, &words, || create(Level::Raid5, &paths).disk_size(DISK).make());
        let spare = || create(Level::Raid1, &paths[..2]).spare(&twin).disk_size(DISK).make();
        folder.refused(ErrorKind::Usage, &words, spare);
    }
    // One that does not exist yet.
    let paths = [folder.at("new"), folder.at("./new")];
    folder.refused(ErrorKind::Usage, &["same disk"], || create(Level::Raid1, &paths).disk_size(DISK).make());
    let device = LoopDevice::attach(&disk, 512);
    for paths in [[disk.clone(), device.path().into()], [device.path().into(), disk.clone()]] {
        let words = [name(&disk), name(device.path()), "same disk"];
        folder.refused(ErrorKind::Usage, &words, || create(Level::Raid1, &paths).make());
        folder.refused(ErrorKind::Usage, &words, || open(&paths, Access::Write));
    }
}

/// Undone when dropped.
struct Undo(&'static str, PathBuf);

impl Drop for Undo {
    fn drop(&mut self) {
        let undone = Command::new(self.0).arg(&self.1).status();
        assert!(std::thread::panicking() || undone.is_ok_and(|status| status.success()), "{}", self.0);
    }
}

#[test]
fn a_disk_in_use_is_left_alone() {
    let folder = Folder::new();
    let paths = [folder.blank("disk", DISK), folder.at("new")];
    let device = LoopDevice::attach(&paths[0], 512);
    let through = [PathBuf::from(device.path()), folder.at("new")];
    let refused = |words: &[&str]| {
        for paths in [&paths, &through] {
            let words = [words, &[name(&paths[0])]].concat();
            for overwrite in [false, true] {
                let make = || create(Level::Raid1, paths).disk_size(DISK).overwrite(overwrite).make();
                folder.refused(ErrorKind::Busy, &words, make);
            }
        }
    };
    run("mkfs.ext4", &["-q", "-F", name(device.path())]);
    let mountpoint = tempfile::tempdir().unwrap();
    run("mount", &["-o", "ro", name(device.path()), name(mountpoint.path())]);
    let mounted = Undo("umount", mountpoint.path().into());
    refused(&["mounted on", name(mountpoint.path())]);
    drop(mounted);
    run("mkswap", &["-f", name(device.path())]);
    run("swapon", &[name(device.path())]);
    let swapped = Undo("swapoff", device.path().into());
    refused(&["used as swap"]);
    drop(swapped);
}

#[test]
fn a_disk_somebody_holds_is_busy_and_the_holder_named() {
    let folder = Folder::new();
    let paths = folder.lu(Level::Raid1, 2);
    let lu = open(&paths, Access::Write).unwrap();
    let me = format!("process {}", std::process::id());
    let again = || create(Level::Raid1, &paths).overwrite(true).make();
    folder.refused(ErrorKind::Busy, &[name(&paths[0]), &me], again);
    for access in [Access::Read, Access::Write] {
        folder.refused(ErrorKind::Busy, &[name(&paths[0]), &me], || open(&paths, access));
    }
    assert_eq!(paths.iter().fold(Lu::assemble(), |a, p| a.disk(p)).look().unwrap().state, State::Healthy);
    lu.stop().unwrap();
    // Readers bear each other, and no writer.
    let reader = open(&paths, Access::Read).unwrap();
    read_pattern(&open(&paths, Access::Read).unwrap());
    folder.refused(ErrorKind::Busy, &[name(&paths[0]), &me], || open(&paths, Access::Write));
    reader.stop().unwrap();
    open(&paths, Access::Write).unwrap().stop().unwrap();
}

/// This test is two processes: it starts itself once more to be the one that holds the LU.
#[test]
fn another_process_that_holds_an_lu_is_named() {
    const HOLD: &str = "URAID_TEST_HOLD";
    if let Some(path) = std::env::var_os(HOLD) {
        let lu = Lu::assemble().beside(path).access(Access::Write).open().unwrap();
        lu.write_at(b"mine", 0).unwrap();
        #[expect(clippy::print_stdout, reason = "tells the parent that it holds")]
        {
            println!("\nheld");
        }
        // Until the parent closes the pipe.
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        return lu.stop().unwrap();
    }
    let folder = Folder::new();
    let paths = folder.lu(Level::Raid5, 3);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "another_process_that_holds_an_lu_is_named"])
        .env(HOLD, &paths[0])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "held"), "the other process did not get it");
    // The holder marks the LU clean when nobody writes: only then nothing moves on its own.
    let quiet = || !paths.iter().fold(Lu::assemble(), |a, p| a.disk(p)).look().unwrap().dirty;
    while !quiet() {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    // Disks are claimed in the order of their inodes, which need not be that of their names.
    let one_of_them = format!("{}/d", paths[0].parent().unwrap().display());
    let words = [one_of_them.as_str(), &format!("process {}", child.id())];
    for access in [Access::Read, Access::Write] {
        folder.refused(ErrorKind::Busy, &words, || open(&paths, access));
    }
    folder.refused(ErrorKind::Busy, &words, || create(Level::Raid5, &paths).overwrite(true).make());
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    open(&paths, Access::Write).unwrap().stop().unwrap();
}

#[test]
fn requests_that_make_no_sense_are_refused_before_a_file_is_made() {
    let folder = Folder::new();
    let tiny = folder.blank("tiny", 64 << 10);
    let there = folder.blank("there", DISK);
    let new: Vec<_> = (0..4).map(|i| folder.at(&format!("n{i}"))).collect();
    let make = |level: Level, n: usize| create(level, &new[..n]).disk_size(DISK);
    let usage = |words: &[&str], create: Create| {
        folder.refused(ErrorKind::Usage, words, || create.make());
    };
    usage(&[name(&tiny), "too small"], make(Level::Raid1, 1).disk(&tiny));
    usage(&[name(&new[0]), "too small"], make(Level::Raid1, 2).disk_size(0));
    usage(&["no disk"], Lu::create("data", Level::Raid1));
    usage(&[], Lu::create("data", Level::Raid1).missing().missing());
    for (level, most) in [(Level::Raid4, 1), (Level::Raid5, 1), (Level::Raid6, 3), (Level::Raid10, 1)] {
        usage(&[], make(level, most));
    }
    usage(&["missing"], make(Level::Raid5, 2).missing().missing());
    usage(&["missing"], make(Level::Raid0, 2).missing());
    usage(&["missing"], make(Level::Raid6, 2).missing().missing().missing());
    for chunk in [0, 1, 511, 513, 1000, 2048, 3 << 12, 1 << 40, u64::MAX] {
        usage(&[], make(Level::Raid5, 3).chunk(chunk));
    }
    usage(&["chunk"], make(Level::Raid1, 2).chunk(64 << 10));
    usage(&["small"], make(Level::Raid5, 3).chunk(32 << 20));
    for layout in ["", "n2", "left", "left-symmetric-7", "\0"] {
        usage(&[], make(Level::Raid5, 3).layout(layout));
    }
    usage(&[], make(Level::Raid10, 3).layout("n4"));
    usage(&[], make(Level::Raid10, 3).layout("left-symmetric"));
    usage(&["bitmap"], make(Level::Raid5, 3).policy(Policy::Bitmap).bitmap_chunk(5000));
    usage(&["bitmap"], make(Level::Raid0, 3).policy(Policy::Bitmap));
    for level in [Level::Raid0, Level::Raid1, Level::Raid4, Level::Raid6, Level::Raid10] {
        usage(&["policy", "raid5"], make(level, 4).policy(Policy::Ppl));
    }
    for level in [Level::Raid0, Level::Linear] {
        usage(&["spare"], make(level, 2).spare(&new[2]));
        usage(&["--size"], make(level, 2).size(MIB));
    }
    usage(&["--size"], make(Level::Raid1, 2).size(DISK));
    let long = "x".repeat(33);
    for bad in ["", "a/b", "a,b", "a\nb", long.as_str()] {
        usage(&["name"], create_named(bad, &new[..2]));
    }
    let missing = folder.at("no/such/folder/disk");
    let attempt = || make(Level::Raid1, 1).disk(&missing).make();
    folder.refused(ErrorKind::NotFound, &[name(&missing)], attempt);
    let absent = [there.clone(), new[0].clone()];
    folder.refused(ErrorKind::NotFound, &[name(&new[0])], || create(Level::Raid1, &absent).make());
    usage(&["directory"], make(Level::Raid1, 1).disk(folder.0.path()));
    usage(&["/dev/null"], make(Level::Raid1, 1).disk("/dev/null"));
    // A size no file system holds.
    folder.refused(ErrorKind::Usage, &[name(&new[0])], || {
        create(Level::Raid1, &new[..2]).disk_size(u64::MAX).make()
    });
}

fn create_named(name: &str, paths: &[PathBuf]) -> Create {
    paths.iter().fold(Lu::create(name, Level::Raid1).disk_size(DISK), |create, path| create.disk(path))
}

// --- assemble ---------------------------------------------------------------------------------------------------------

fn edit(path: &Path, change: impl FnOnce(&mut Superblock)) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut slot = vec![0; SLOT_BYTES];
    file.read_exact_at(&mut slot, 4096).unwrap();
    let size = Sectors(file.metadata().unwrap().len() / 512);
    let mut superblock = Superblock::parse(&slot, Minor::V1_2, size).unwrap();
    change(&mut superblock);
    superblock.write_into(&mut slot);
    file.write_all_at(&slot, 4096).unwrap();
}

#[test]
fn a_copy_beside_its_original_is_refused() {
    let folder = Folder::new();
    let paths = folder.lu(Level::Raid5, 3);
    let copy = folder.at("copy");
    fs::copy(&paths[1], &copy).unwrap();
    let words = [name(&paths[1]), name(&copy), "leave one of them out"];
    let all = [&paths[..], std::slice::from_ref(&copy)].concat();
    for access in [Access::Read, Access::Write] {
        folder.refused(ErrorKind::CannotStart, &words, || open(&all, access));
        let beside = || Lu::assemble().beside(&paths[0]).access(access).open();
        folder.refused(ErrorKind::CannotStart, &words, beside);
    }
    // Either of the two alone will do.
    read_pattern(&open(&[paths[0].clone(), copy, paths[2].clone()], Access::Read).unwrap());
}

#[test]
fn two_disks_for_one_slot_are_refused() {
    let folder = Folder::new();
    let paths = folder.lu(Level::Raid1, 2);
    let rival = folder.at("rival");
    fs::copy(&paths[1], &rival).unwrap();
    edit(&rival, |superblock| superblock.device_uuid = Uuid([9; 16]));
    let all = [&paths[..], std::slice::from_ref(&rival)].concat();
    let words = [name(&paths[1]), name(&rival), "slot 1"];
    for access in [Access::Read, Access::Write] {
        folder.refused(ErrorKind::CannotStart, &words, || open(&all, access));
    }
}

#[test]
fn disks_of_another_lu_are_refused_if_named_and_passed_over_if_found() {
    let folder = Folder::new();
    let paths = folder.lu(Level::Raid1, 2);
    let other: Vec<_> = ["x0", "x1"].map(|n| folder.at(n)).into();
    create(Level::Raid1, &other).disk_size(DISK).make().unwrap().stop().unwrap();
    let mixed = [paths[0].clone(), other[0].clone()];
    let words = [name(&paths[0]), name(&other[0]), "one LU only"];
    folder.refused(ErrorKind::Usage, &words, || open(&mixed, Access::Read));
    folder.refused(ErrorKind::Usage, &words, || open(&mixed, Access::Write));
    let lu = Lu::assemble().beside(&paths[0]).access(Access::Write).open().unwrap();
    read_pattern(&lu);
    assert_eq!(lu.status().members.len(), 2);
}

#[test]
fn a_disk_named_twice_is_refused() {
    let folder = Folder::new();
    let paths = folder.lu(Level::Raid1, 2);
    fs::hard_link(&paths[0], folder.at("twin")).unwrap();
    for twin in [paths[0].clone(), folder.at("./d0"), folder.at("twin")] {
        let all = [paths[0].clone(), paths[1].clone(), twin.clone()];
        let words = [name(&paths[0]), name(&twin), "same disk"];
        folder.refused(ErrorKind::Usage, &words, || open(&all, Access::Read));
        folder.refused(ErrorKind::Usage, &words, || open(&all, Access::Write));
    }
}

#[test]
fn a_member_that_missed_writes_is_set_aside() {
    let folder = Folder::new();
    let paths = folder.lu(Level::Raid5, 3);
    let lu =
        paths[1..].iter().fold(Lu::assemble(), |a, path| a.disk(path)).access(Access::Write).degraded(true);
    let lu = lu.open().unwrap();
    lu.write_at(&pattern(), 0).unwrap();
    lu.stop().unwrap();
    let before = folder.content();
    let lu = open(&paths, Access::Read).unwrap();
    read_pattern(&lu);
    let status = lu.status();
    let stale = status.members.iter().find(|member| member.state == MemberState::Stale).unwrap();
    assert_eq!(stale.disk, name(&paths[0]));
    assert!(status.warnings.iter().any(|w| w.contains(name(&paths[0])) && w.contains("--allow-stale")));
    drop(lu);
    assert!(folder.content() == before);
    let elsewhere = folder.blank("elsewhere", DISK);
    let attempt = || Lu::assemble().beside(&paths[1]).allow_stale(&elsewhere).open();
    folder.refused(ErrorKind::Usage, &[name(&elsewhere)], attempt);
    // With the two good ones gone, the stale one alone is not enough, allowed or not.
    let alone = || Lu::assemble().disk(&paths[0]).allow_stale(&paths[0]).open();
    folder.refused(ErrorKind::CannotStart, &[], alone);
}

#[test]
fn damaged_and_shrunken_members_are_set_aside_and_named() {
    let damage = |path: &Path| {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.write_all_at(&[0xff], 4096 + 100).unwrap();
    };
    let erase = |path: &Path| {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.write_all_at(&[0; 4096], 4096).unwrap();
    };
    let shrink = |path: &Path| {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_len(DISK - 2 * MIB).unwrap();
    };
    let harm: [(&dyn Fn(&Path), &str); 3] = [(&damage, "sb_csum"), (&erase, "magic"), (&shrink, "shorter")];
    for (harm, word) in harm {
        let folder = Folder::new();
        let paths = folder.lu(Level::Raid5, 3);
        harm(&paths[1]);
        let before = folder.content();
        let lu = open(&paths, Access::Read).unwrap();
        read_pattern(&lu);
        let warnings = lu.status().warnings;
        assert!(warnings.iter().any(|w| w.contains(name(&paths[1])) && w.contains(word)), "{warnings:?}");
        drop(lu);
        assert!(folder.content() == before);
        folder.refused(ErrorKind::Refused, &["slot 1", "--degraded"], || open(&paths, Access::Write));
        harm(&paths[0]);
        folder.refused(ErrorKind::CannotStart, &["1 of 3"], || open(&paths, Access::Read));
        harm(&paths[2]);
        folder.refused(ErrorKind::Format, &[name(&paths[0]), word], || open(&paths, Access::Read));
    }
}

#[test]
fn a_newly_missing_member_has_to_be_admitted_before_writing() {
    for (level, disks) in [(Level::Raid1, 2), (Level::Raid5, 3), (Level::Raid6, 4), (Level::Raid10, 4)] {
        let folder = Folder::new();
        let paths = folder.lu(level, disks);
        let rest = &paths[1..];
        let words = ["slot 0", "--degraded", "LU data"];
        folder.refused(ErrorKind::Refused, &words, || open(rest, Access::Write));
        let before = folder.content();
        read_pattern(&open(rest, Access::Read).unwrap());
        assert!(folder.content() == before, "{level}");
        let admitted = rest.iter().fold(Lu::assemble(), |a, path| a.disk(path)).degraded(true);
        admitted.access(Access::Write).open().unwrap().stop().unwrap();
        // From now on its absence is on record.
        open(rest, Access::Write).unwrap().stop().unwrap();
    }
    let folder = Folder::new();
    let paths = folder.lu(Level::Raid0, 2);
    folder.refused(ErrorKind::CannotStart, &["1 of 2", "slot 1"], || open(&paths[..1], Access::Read));
}

#[test]
fn dirty_and_degraded_parity_is_refused_unless_allowed() {
    for case in common::cases_named(|name| matches!(name, "raid5-dirty")) {
        let folder = Folder::new();
        let paths = case.write_images(folder.0.path()).unwrap();
        let rest = &paths[1..];
        for access in [Access::Read, Access::Write] {
            folder.refused(ErrorKind::CannotStart, &["--allow-dirty"], || open(rest, access));
        }
        let before = folder.content();
        let allowed = || rest.iter().fold(Lu::assemble(), |a, path| a.disk(path)).allow_dirty(true);
        let lu = allowed().open().unwrap();
        let mut bytes = vec![0; lu.size() as usize];
        lu.read_at(&mut bytes, 0).unwrap();
        drop(lu);
        assert!(folder.content() == before);
        let lu = allowed().access(Access::Write).degraded(true).open().unwrap();
        lu.write_at(&[1; 5000], 0).unwrap();
        lu.stop().unwrap();
    }
}

#[test]
fn reading_changes_nothing_whatever_the_state() {
    let states =
        ["raid5-dirty", "raid5-mid-rebuild", "raid6-ls-degraded-1", "raid5-stale-member", "raid5-spare"];
    for case in common::cases_named(|name| states.contains(&name)) {
        let folder = Folder::new();
        let paths = case.write_images(folder.0.path()).unwrap();
        let before = folder.content();
        let lu = Lu::assemble().beside(&paths[0]).open().unwrap();
        let mut bytes = vec![0; lu.size() as usize];
        lu.read_at(&mut bytes, 0).unwrap();
        assert_eq!(lu.write_at(&[0; 512], 0).unwrap_err().kind(), ErrorKind::Usage);
        lu.flush().unwrap();
        lu.wait_for_work(&mut |_| true).unwrap();
        lu.stop().unwrap();
        assert!(folder.content() == before, "{}", case.name);
    }
}

#[test]
fn what_is_not_there_is_not_found() {
    let folder = Folder::new();
    let paths = folder.lu(Level::Raid1, 2);
    let absent = folder.at("absent");
    folder.refused(ErrorKind::NotFound, &[name(&absent)], || {
        open(&[paths[0].clone(), absent.clone()], Access::Read)
    });
    folder.refused(ErrorKind::NotFound, &[name(&absent)], || Lu::assemble().beside(&absent).open());
    folder.refused(ErrorKind::Usage, &["no disk"], || Lu::assemble().open());
    let blank = folder.blank("blank", DISK);
    folder.refused(ErrorKind::Format, &[name(&blank)], || Lu::assemble().disk(&blank).open());
}
