//! An LU as a file in a FUSE file system: real file systems on a loop device over it while a disk fails and a
//! spare takes over, ordinary users, and everything that can end it.
#![cfg(feature = "cli")]

#[path = "common/bench.rs"]
mod bench;
#[path = "common/export.rs"]
mod export;
#[path = "common/loopdev.rs"]
mod loopdev;
#[path = "common/pattern.rs"]
mod pattern;
#[path = "common/program.rs"]
mod program;

use std::fs::{self, File};
use std::io::Read;
use std::ops::Deref;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use export::Export;
use loopdev::LoopDevice;
use pattern::pattern;
use serde_json::Value;

const MEBIBYTE: usize = 1 << 20;

/// A folder in which LUs are made and mounted.
struct Bench(bench::Bench);

impl Deref for Bench {
    type Target = bench::Bench;

    fn deref(&self) -> &bench::Bench {
        &self.0
    }
}

impl Bench {
    /// A RAID5 named `data` of four new files, 384 MiB in all, and an empty folder `mnt`.
    fn new() -> Bench {
        let bench = Bench(bench::Bench::empty());
        fs::create_dir(bench.path("mnt")).unwrap();
        bench.ok("create data --level 5 ./d0 ./d1 ./d2 ./d3 --disk-size 132M");
        bench
    }

    /// The LU while it is served: its disks change.
    fn served(&self) -> Value {
        let document: Value = serde_json::from_slice(&self.ok("status data --json").out).unwrap();
        document["lus"][0].clone()
    }

    fn export(&self, line: &str) -> Export {
        self.start(self.command(&format!("export ./d0 --fuse mnt {line}")))
    }

    fn start(&self, command: Command) -> Export {
        Export::start(command).mounts(self.path("mnt"))
    }
}

fn open(export: &Export) -> File {
    File::options().read(true).write(true).open(&export.place).unwrap()
}

/// Runs a program of the system's, which has to succeed.
#[track_caller]
fn system(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {told}");
    output
}

fn is_mounted(folder: &Path) -> bool {
    let inside = |path: &Path| path.metadata().map(|found| found.dev()).ok();
    inside(folder) != inside(folder.parent().unwrap())
}

/// A file system mounted from a device; unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn on(device: &Path, folder: PathBuf) -> Mounted {
        fs::create_dir_all(&folder).unwrap();
        system("mount", &[device.to_str().unwrap(), folder.to_str().unwrap()]);
        Mounted(folder)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let done = Command::new("umount").arg(&self.0).status();
        if !thread::panicking() {
            assert!(done.unwrap().success(), "cannot unmount {}", self.0.display());
        }
    }
}

/// Makes a file system on a loop device over the LU, fills it while a disk fails and a spare takes over, and
/// has it checked.
fn carries(make: &[&str], check: &[&str]) {
    let bench = Bench::new();
    bench.blank("spare", 132 << 20);
    bench.ok("spare add ./d0 ./spare");
    let export = bench.export("");
    let device = LoopDevice::attach(&export.place, 4096);
    let node = device.path().to_str().unwrap();
    system(make[0], &[&make[1..], &[node]].concat());
    let files: Vec<Vec<u8>> = (0..24).map(|n| pattern(3 * MEBIBYTE + n as usize * 4097, n)).collect();
    {
        let mounted = Mounted::on(device.path(), bench.path("there"));
        for (n, bytes) in files.iter().enumerate() {
            fs::write(mounted.0.join(n.to_string()), bytes).unwrap();
            if n == 8 {
                bench.ok("fail data ./d1");
            }
        }
        bench.ok("wait data");
        for n in (0..24).step_by(3) {
            fs::remove_file(mounted.0.join(n.to_string())).unwrap();
        }
        system("fstrim", &[mounted.0.to_str().unwrap()]);
    }
    let status = bench.served();
    assert_eq!((&status["state"], &status["redundancy_left"]), (&"healthy".into(), &1.into()), "{status:#}");
    system(check[0], &[&check[1..], &[node]].concat());
    // Nothing of it is in the page cache any more.
    let mounted = Mounted::on(device.path(), bench.path("there"));
    for n in (0..24).filter(|n| n % 3 > 0) {
        let found = fs::read(mounted.0.join(n.to_string())).unwrap();
        assert!(found == files[n], "file {n}");
    }
    drop(mounted);
    drop(device);
    let (code, told) = export.signal("TERM");
    assert_eq!(code, Some(0), "{told}");
    assert!(!is_mounted(&bench.path("mnt")));
    assert_eq!(bench.status("./d0")["dirty"], false);
}

#[test]
fn ext4_on_a_loop_device_lives_through_a_failed_disk() {
    carries(&["mkfs.ext4", "-q"], &["e2fsck", "-fn"]);
}

#[test]
fn xfs_on_a_loop_device_lives_through_a_failed_disk() {
    carries(&["mkfs.xfs", "-q"], &["xfs_repair", "-n"]);
}

#[test]
fn fio_finds_what_it_wrote() {
    let bench = Bench::new();
    let export = bench.export("");
    let file = format!("--filename={}", export.place);
    let sizes =
        "--bsrange=512-256k --blockalign=512 --size=48M --rw=randrw --numjobs=2 --offset_increment=64M";
    let checks = "--verify=crc32c --do_verify=1 --verify_fatal=1 --verify_state_save=0 --iodepth=16 --ioengine=io_uring --direct=1";
    let words =
        [&["--name=a", file.as_str()][..], &sizes.split(' ').chain(checks.split(' ')).collect::<Vec<_>>()];
    system("fio", &words.concat());
    assert_eq!(export.signal("TERM").0, Some(0));
}

#[test]
fn a_file_like_any_other_but_for_its_size() {
    let bench = Bench::new();
    let export = bench.export("");
    let found = fs::metadata(&export.place).unwrap();
    let size = bench.served()["size_bytes"].as_u64().unwrap();
    assert_eq!((found.len(), found.permissions().mode() & 0o777), (size, 0o600));
    let names: Vec<_> =
        fs::read_dir(bench.path("mnt")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["data"]);
    let file = open(&export);
    let bytes = pattern(300_000, 7);
    for (offset, length) in [(0, 512), (1, 1), (4095, 2), (65_535, 131_074), (1 << 20, 300_000)] {
        file.write_all_at(&bytes[..length], offset).unwrap();
        let mut found = vec![0; length];
        file.read_exact_at(&mut found, offset).unwrap();
        assert!(found == bytes[..length], "{offset} {length}");
    }
    file.sync_all().unwrap();
    // The end of it.
    assert_eq!(file.write_at(&bytes[..1000], size - 10).unwrap(), 10);
    assert_eq!(file.read_at(&mut [0; 100], size - 10).unwrap(), 10);
    assert_eq!(file.read_at(&mut [0; 100], size).unwrap(), 0);
    assert_eq!(file.write_at(b"x", size).unwrap_err().raw_os_error(), Some(28), "no space");
    assert!(file.set_len(size - 1).is_err() && file.set_len(size).is_ok());
    assert!(fs::write(bench.path("mnt/other"), "").is_err() && fs::remove_file(&export.place).is_err());
    // Holes free the members.
    let held = || (0..4).map(|n| fs::metadata(bench.path(&format!("d{n}"))).unwrap().blocks()).sum::<u64>();
    file.write_all_at(&pattern(8 * MEBIBYTE, 8), 0).unwrap();
    let full = held();
    let path = export.place.as_str();
    system("fallocate", &["--punch-hole", "--offset", "1000", "--length", "8000000", path]);
    assert!(full - held() > 10_000_000 / 512, "{full} {}", held());
    let mut found = vec![0xff; 8_001_000];
    file.read_exact_at(&mut found, 0).unwrap();
    assert!(found[..1000] == pattern(1000, 8) && found[1000..].iter().all(|&byte| byte == 0));
    // So do zeroes of any length and place, but none that would make the file grow.
    let bytes = pattern(65_536, 9);
    for (offset, length) in [(0, 512), (5, 10), (4090, 12), (4096, 8192), (1, 40_000), (30_001, 35_535)] {
        file.write_all_at(&bytes, 0).unwrap();
        let (from, many) = (offset.to_string(), length.to_string());
        system("fallocate", &["--zero-range", "--offset", &from, "--length", &many, path]);
        let mut found = vec![0xff; bytes.len()];
        file.read_exact_at(&mut found, 0).unwrap();
        let mut wanted = bytes.clone();
        wanted[offset..offset + length].fill(0);
        assert!(found == wanted, "{offset} {length}");
    }
    let last = (size - 4096).to_string();
    let zero = |length: &str| {
        let words = ["--zero-range", "--offset", &last, "--length", length, path];
        Command::new("fallocate").args(words).stderr(Stdio::null()).status().unwrap().success()
    };
    assert!(zero("4096") && !zero("4097"));
    assert_eq!(file.metadata().unwrap().len(), size);
    // O_SYNC needs no fsync.
    let synced = File::options().write(true).custom_flags(0o4010000).open(&export.place).unwrap();
    synced.write_all_at(&bytes, 77).unwrap();
    assert_eq!(export.signal("TERM").0, Some(0));
}

#[test]
fn an_ordinary_user_needs_no_root() {
    let bench = Bench::new();
    let own = |path: PathBuf| std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
    ["", "mnt", "d0", "d1", "d2", "d3"].into_iter().for_each(|name| own(bench.path(name)));
    // The program may be where only its builder may go.
    let program = bench.path("uraid");
    program::copy(env!("CARGO_BIN_EXE_uraid"), &program);
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(&program);
    command.args(["export", "./d0", "--fuse", "mnt"]).current_dir(bench.path("")).stdin(Stdio::null());
    command.env("URAID_RUNTIME_DIR", bench.path("run")).uid(65534).gid(65534);
    let export = bench.start(command);
    let as_user = |words: &[&str]| {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).current_dir(bench.path("")).uid(65534).gid(65534).output().unwrap()
    };
    let written = as_user(&["dd", "if=d1", "of=mnt/data", "bs=64k", "count=16", "conv=notrunc,fsync"]);
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    let read = as_user(&["dd", "if=mnt/data", "bs=1k", "count=3", "status=none"]);
    assert_eq!(read.stdout.len(), 3072);
    assert_eq!(export.signal("TERM").0, Some(0));
    assert!(!is_mounted(&bench.path("mnt")));
}

#[test]
fn for_reading_only() {
    let bench = Bench::new();
    bench.put("./d0", 1, "");
    let before = bench.held();
    let export = bench.export("--read-only");
    let mut found = vec![0; bench::DATA];
    File::open(&export.place).unwrap().read_exact(&mut found).unwrap();
    assert!(found == bench::data(1));
    assert!(File::options().write(true).open(&export.place).is_err());
    assert_eq!(export.signal("TERM").0, Some(0));
    assert!(bench.held() == before, "not a byte of any member");
}

#[test]
fn whoever_still_has_it_open_loses_it_and_the_lu_is_none_the_worse() {
    let bench = Bench::new();
    let export = bench.export("");
    let file = open(&export);
    let bytes = pattern(MEBIBYTE, 9);
    file.write_all_at(&bytes, 0).unwrap();
    let (code, told) = export.signal("TERM");
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("still in use"), "{told}");
    assert!(file.write_at(&bytes, 0).is_err() && file.read_at(&mut [0; 512], 0).is_err());
    drop(file);
    assert!(!is_mounted(&bench.path("mnt")));
    assert_eq!(bench.status("./d0")["dirty"], false);
    assert!(bench.ok("read ./d0 --length 1M").out == bytes);
}

#[test]
fn unmounted_by_another_it_ends_and_by_a_verb_too() {
    let bench = Bench::new();
    let export = bench.export("");
    system("fusermount3", &["-u", bench.path("mnt").to_str().unwrap()]);
    assert_eq!(export.end().0, Some(0));
    let export = bench.export("--nbd unix:s");
    bench.ok("stop data");
    assert_eq!(export.end().0, Some(0));
    assert!(!is_mounted(&bench.path("mnt")) && !bench.path("s").exists());
}

#[test]
fn what_a_killed_server_left_is_cleared_away() {
    let bench = Bench::new();
    let mut export = bench.export("");
    open(&export).write_all_at(b"kept", 5).unwrap();
    export.kill();
    assert_eq!(fs::read_dir(bench.path("mnt")).unwrap_err().raw_os_error(), Some(107), "not connected");
    let again = bench.export("");
    let mut found = [0; 4];
    open(&again).read_exact_at(&mut found, 5).unwrap();
    assert_eq!(&found, b"kept");
    // The first one's guard must not take the second one's mount.
    std::mem::forget(export);
    assert_eq!(again.signal("TERM").0, Some(0));
}

#[test]
fn only_an_empty_folder_is_mounted_on() {
    let bench = Bench::new();
    fs::create_dir(bench.path("full")).unwrap();
    fs::write(bench.path("full/file"), "").unwrap();
    bench.ends_untouched(2, "export ./d0 --fuse full", &["not empty"]);
    bench.ends_untouched(2, "export ./d0 --fuse d1", &["cannot be mounted on"]);
    bench.ends_untouched(3, "export ./d0 --fuse absent", &["absent"]);
    bench.ends_untouched(5, "export ./d0 --fuse /proc", &["something is mounted"]);
    bench.ends_untouched(2, "export ./d0", &["--fuse"]);
    let export = bench.export("");
    bench.ends(5, "export ./d1 --fuse mnt");
    assert_eq!(export.signal("TERM").0, Some(0));
}

#[test]
fn the_daemon_mounts_what_is_listed() {
    let bench = Bench::new();
    let text = "[[lu]]\nname = 'mine'\ndisks = ['d0', 'd1', 'd2', 'd3']\nfuse = 'mnt'\n";
    fs::write(bench.path("uraid.toml"), text).unwrap();
    bench.ok("config check uraid.toml");
    let daemon = bench.start(bench.command("daemon --config uraid.toml"));
    assert_eq!(Path::new(&daemon.place), bench.path("mnt/data").canonicalize().unwrap());
    open(&daemon).write_all_at(b"x", 0).unwrap();
    assert_eq!(daemon.signal("TERM").0, Some(0));
    assert!(!is_mounted(&bench.path("mnt")));
}
