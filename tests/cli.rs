//! The program as its users meet it: exit codes, documents, and bytes that come back as they went in.
//!
//! Every test runs the real binary on files in a folder of its own; nothing here knows the library.
#![cfg(feature = "cli")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

const MEBIBYTE: usize = 1 << 20;

/// A folder in which commands run.
struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Bench {
        Bench { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_uraid"));
        command.args(line.split_whitespace()).current_dir(self.folder.path());
        command.env("URAID_CONFIG", self.path("uraid.toml")).stdin(Stdio::null());
        command.env("URAID_RUNTIME_DIR", self.path("run"));
        command
    }

    /// Runs `uraid LINE`.
    fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    /// Runs `uraid LINE`, which has to end with `code`; its standard output.
    #[track_caller]
    fn expect(&self, code: i32, line: &str) -> String {
        let output = self.run(line);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "uraid {line}\n{out}{err}");
        if code != 0 {
            assert!(err.starts_with("uraid: "), "uraid {line} says: {err}");
        }
        out
    }

    /// Runs `uraid LINE --json`, which has to succeed; its document.
    #[track_caller]
    fn document(&self, line: &str) -> Value {
        serde_json::from_str(&self.expect(0, &format!("{line} --json"))).unwrap()
    }

    /// Runs `uraid LINE` with `input` on standard input; its exit code and standard error.
    fn feed(&self, line: &str, input: &[u8]) -> (Option<i32>, String) {
        let mut command = self.command(line);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        // The child may stop reading before the end.
        let feeder = thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().unwrap();
        feeder.join().unwrap();
        (output.status.code(), text(&output.stderr))
    }

    /// A RAID5 named `data` of new files `d0`, `d1`, `d2` of 32 MiB.
    #[track_caller]
    fn raid5(&self) {
        self.expect(0, "create data --level 5 ./d0 ./d1 ./d2 --disk-size 32M");
    }

    /// The whole LU.
    fn contents(&self, lu: &str) -> Vec<u8> {
        let output = self.run(&format!("read {lu}"));
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        output.stdout
    }

    fn disk(&self, name: &str, bytes: usize) {
        std::fs::write(self.path(name), vec![0; bytes]).unwrap();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Bytes that are different everywhere.
fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

#[track_caller]
fn has_keys(value: &Value, keys: &[&str]) {
    for key in keys {
        assert!(value.get(key).is_some(), "no {key} in {value:#}");
    }
}

// ---- What needs no disk

#[test]
fn help_and_version_succeed() {
    let bench = Bench::new();
    for line in ["--help", "--version", "create --help", "help read"] {
        assert!(!bench.expect(0, line).is_empty(), "{line}");
    }
    assert!(bench.expect(0, "--version").starts_with("uraid "));
}

#[test]
fn wrong_arguments_exit_2() {
    let bench = Bench::new();
    for line in [
        "",
        "frob",
        "create data",
        "create data --level 7 ./a ./b",
        "create data --level 5 --chunk 64KB ./a ./b ./c",
        "create data --level 5 --policy maybe ./a ./b ./c",
        "create data --level 5 --confirm other ./a ./b ./c",
        "read",
        "status --allow-dirty",
        "read ./a,",
        "status .",
        "read ./a --json",
        "status -q -v",
        "fail ./d0",
        "add",
        "spare ./d0 ./s0",
        "spare replace ./d0 ./s0",
        "rebuild",
        "rebuild .",
        "wait ./a,",
    ] {
        let output = bench.run(line);
        assert_eq!(output.status.code(), Some(2), "uraid {line}: {}", text(&output.stderr));
        assert!(!output.stderr.is_empty(), "uraid {line}");
    }
}

#[test]
fn errors_are_documents_too() {
    let bench = Bench::new();
    for (line, kind, code) in [("frob --json", "usage", 2), ("inspect ./none --json", "not_found", 3)] {
        let output = bench.run(line);
        assert_eq!(output.status.code(), Some(code), "{line}");
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document["schema"], "uraid.error/1");
        assert_eq!(document["kind"], kind);
        assert_eq!(document["exit_code"], code);
        assert!(document["message"].is_string());
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn what_is_not_there_exits_3() {
    let bench = Bench::new();
    bench.expect(3, "status ./none");
    bench.expect(3, "inspect ./none");
    bench.expect(3, "scan ./none");
    // The configuration that the environment names does not exist.
    bench.expect(3, "status data");
    std::fs::write(bench.path("uraid.toml"), "").unwrap();
    bench.expect(3, "status data");
    bench.expect(3, "read 01234567:89abcdef:01234567:89abcdef");
}

#[test]
fn completions_and_manual_pages() {
    let bench = Bench::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(bench.expect(0, &format!("completions {shell}")).contains("inspect"), "{shell}");
    }
    assert!(bench.expect(0, "man").contains(".TH"));
    bench.expect(0, "man --dir pages");
    for page in ["uraid.1", "uraid-create.1", "uraid-write.1", "uraid-spare.1", "uraid-spare-add.1"] {
        assert!(bench.path("pages").join(page).is_file(), "{page}");
    }
    assert_eq!(bench.document("completions bash")["schema"], "uraid.completions/1");
    assert_eq!(bench.document("man")["schema"], "uraid.man/1");
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let bench = Bench::new();
    let mut child =
        bench.command("completions zsh").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
}

#[test]
fn configuration_that_makes_no_sense_exits_2() {
    let bench = Bench::new();
    for wrong in ["[[lu]]\nname = 'a'\n", "lu = 3", "[[lu", "[[lu]]\nname = 'a'\ndisks = []\n"] {
        std::fs::write(bench.path("uraid.toml"), wrong).unwrap();
        bench.expect(2, "list");
    }
}

// ---- Making LUs

#[test]
fn create_tells_what_was_made_and_the_commands_work() {
    let bench = Bench::new();
    let told = bench.expect(0, "create data --level raid5 ./d0 ./d1 ./d2 --disk-size 32M");
    for part in ["data", "raid5", "./d0", "uuid"] {
        assert!(told.contains(part), "{part} in {told}");
    }
    let lines: Vec<&str> = told.lines().filter_map(|line| line.trim().strip_prefix("uraid ")).collect();
    assert_eq!(lines.len(), 3, "{told}");
    std::fs::write(bench.path("FILE"), "input").unwrap();
    for line in lines {
        bench.expect(0, line);
    }
    assert!(std::fs::read(bench.path("FILE")).unwrap().starts_with(b"input"));
}

#[test]
fn create_every_level() {
    let levels =
        [("linear", 2), ("0", 2), ("1", 2), ("raid1", 3), ("4", 3), ("5", 3), ("6", 4), ("10", 4), ("10", 3)];
    for (level, disks) in levels {
        let bench = Bench::new();
        let paths: String = (0..disks).map(|i| format!(" ./d{i}")).collect();
        bench.expect(0, &format!("create data --level {level}{paths} --disk-size 16M"));
        let document = bench.document("status ./d0");
        let lu = &document["lus"][0];
        assert_eq!(lu["state"], "healthy", "{level}: {lu:#}");
        assert_eq!(
            lu["level"].as_str().unwrap().trim_start_matches("raid"),
            level.trim_start_matches("raid")
        );
        let data = pattern(3 * MEBIBYTE + 17, 5);
        assert_eq!(bench.feed("write ./d0 --offset 1001", &data).0, Some(0), "{level}");
        assert_eq!(bench.contents("./d0")[1001..][..data.len()], data, "{level}");
    }
}

#[test]
fn create_as_json() {
    let bench = Bench::new();
    let document = bench.document("create data --level 5 --chunk 128K ./d0 ./d1 missing --disk-size 32M");
    assert_eq!(document["schema"], "uraid.create/1");
    assert_eq!(document["lu"]["name"], "data");
    assert_eq!(document["lu"]["chunk_bytes"], 128 << 10);
    assert_eq!(document["lu"]["state"], "degraded");
    assert_eq!(document["lu"]["members"][2]["state"], "missing");
}

#[test]
fn create_refuses_what_cannot_be() {
    let bench = Bench::new();
    for line in [
        // The same disk twice, too few, a chunk that is none, disks without room.
        "create data --level 5 ./d0 ./d0 ./d1 --disk-size 32M",
        "create data --level 5 ./d0 --disk-size 32M",
        "create data --level 6 ./d0 ./d1 ./d2 --disk-size 32M",
        "create data --level 5 --chunk 3000 ./d0 ./d1 ./d2 --disk-size 32M",
        "create data --level 5 --layout sideways ./d0 ./d1 ./d2 --disk-size 32M",
        "create data --level 5 ./d0 ./d1 ./d2 --disk-size 8K",
        // Not before crash safety.
        "create data --level 6 --policy ppl ./d0 ./d1 ./d2 ./d3 --disk-size 32M",
        "create data --level 0 --policy bitmap ./d0 ./d1 --disk-size 32M",
    ] {
        bench.expect(2, line);
        assert!(!bench.path("d0").exists() && !bench.path("d1").exists(), "{line} left a file");
    }
    bench.expect(3, "create data --level 5 ./d0 ./d1 ./d2");
}

#[test]
fn create_does_not_overwrite_unasked() {
    let bench = Bench::new();
    bench.raid5();
    let before = std::fs::read(bench.path("d1")).unwrap();
    let output = bench.run("create other --level 1 ./d1 ./e1 --disk-size 32M");
    assert_eq!(output.status.code(), Some(6));
    assert!(text(&output.stderr).contains("--confirm other"), "{}", text(&output.stderr));
    assert!(!bench.path("e1").exists(), "a refusal leaves no new file");
    assert_eq!(std::fs::read(bench.path("d1")).unwrap(), before);

    bench.expect(2, "create other --level 1 ./d1 ./e1 --disk-size 32M --confirm data");
    bench.expect(0, "create other --level 1 ./d1 ./e1 --disk-size 32M --confirm other");
    assert_eq!(bench.document("status ./d1")["lus"][0]["name"], "other");
}

#[test]
fn create_on_disks_that_exist_ends_in_step() {
    let bench = Bench::new();
    for (i, name) in ["d0", "d1", "d2"].iter().enumerate() {
        let mut noise = vec![0; 4 * MEBIBYTE];
        noise.extend(pattern(12 * MEBIBYTE, i as u64));
        std::fs::write(bench.path(name), noise).unwrap();
    }
    bench.expect(0, "create data --level 5 ./d0 ./d1 ./d2");
    let document = bench.document("status ./d0");
    assert_eq!(document["lus"][0]["state"], "healthy");
    let before = bench.contents("./d0");
    // The parity that the resync made stands in for any one member.
    for lost in ["d0", "d1", "d2"] {
        std::fs::rename(bench.path(lost), bench.path("away")).unwrap();
        let other = if lost == "d0" { "./d1" } else { "./d0" };
        assert!(bench.contents(other) == before, "without {lost}");
        std::fs::rename(bench.path("away"), bench.path(lost)).unwrap();
    }
}

// ---- Looking

#[test]
fn status_has_the_documented_schema() {
    let bench = Bench::new();
    bench.expect(0, "create data --level 5 ./d0 ./d1 ./d2 --spare ./s0 --disk-size 32M");
    let document = bench.document("status ./d0");
    assert_eq!(document["schema"], "uraid.status/1");
    let lu = &document["lus"][0];
    has_keys(lu, &["name", "uuid", "level", "layout", "chunk_bytes", "size_bytes", "policy", "state"]);
    has_keys(lu, &["redundancy_left", "members", "spares", "work", "dirty", "warnings", "next"]);
    assert_eq!((&lu["name"], &lu["level"]), (&"data".into(), &"raid5".into()));
    assert_eq!((&lu["layout"], &lu["policy"]), (&"left-symmetric".into(), &"ppl".into()));
    assert_eq!((lu["state"].as_str(), lu["redundancy_left"].as_u64()), (Some("healthy"), Some(1)));
    assert_eq!((lu["dirty"].as_bool(), lu["spares"].as_u64()), (Some(false), Some(1)));
    assert_eq!(lu["chunk_bytes"], 64 << 10);
    assert!(lu["work"].is_null() && lu["size_bytes"].as_u64() > Some(32 << 20));
    let members = lu["members"].as_array().unwrap();
    assert_eq!(members.len(), 4);
    for (slot, member) in members.iter().take(3).enumerate() {
        has_keys(member, &["slot", "disk", "state", "read_errors"]);
        assert_eq!((member["slot"].as_u64(), member["state"].as_str()), (Some(slot as u64), Some("active")));
        assert_eq!(member["read_errors"], 0);
        assert!(bench.folder.path().join(member["disk"].as_str().unwrap()).is_file());
    }
    assert_eq!((members[3]["slot"].as_u64(), members[3]["state"].as_str()), (None, Some("spare")));
}

#[test]
fn status_is_a_line_while_all_is_well_and_says_more_when_not() {
    let bench = Bench::new();
    bench.raid5();
    let told = bench.expect(0, "status ./d0");
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(told.contains("healthy") && told.contains("[UUU]"), "{told}");
    std::fs::remove_file(bench.path("d1")).unwrap();
    let told = bench.expect(0, "status ./d0");
    assert!(told.contains("DEGRADED") && told.contains("[U_U]") && told.lines().count() > 3, "{told}");
    assert_eq!(bench.document("status ./d0")["lus"][0]["redundancy_left"], 0);
    std::fs::remove_file(bench.path("d2")).unwrap();
    assert!(bench.expect(0, "status ./d0").contains("FAILED"));
    bench.expect(4, "read ./d0");
}

#[test]
fn an_lu_is_named_by_a_path_by_paths_by_name_and_by_uuid() {
    let bench = Bench::new();
    bench.raid5();
    std::fs::write(bench.path("uraid.toml"), "[[lu]]\nname = \"data\"\ndisks = [\"d0\", \"d1\", \"d2\"]\n")
        .unwrap();
    let uuid = bench.document("status ./d0")["lus"][0]["uuid"].as_str().unwrap().to_owned();
    let whole = bench.path("d2").display().to_string();
    for lu in ["./d0", "d1", &whole, "./d2,./d0,./d1", "d2,d1,d0", "data", &uuid] {
        let document = bench.document(&format!("status {lu}"));
        assert_eq!(document["lus"][0]["uuid"], *uuid, "{lu}");
        assert_eq!(document["lus"][0]["state"], "healthy", "{lu}");
    }
    // Several paths are exactly those.
    assert_eq!(bench.document("status ./d0,./d1")["lus"][0]["state"], "degraded");
    bench.expect(2, "status ./d0,./d1,./d0");
}

#[test]
fn list_and_status_show_the_configuration() {
    let bench = Bench::new();
    bench.raid5();
    let config = "[[lu]]\nname = 'data'\ndisks = ['d0', 'd1', 'd2']\n";
    std::fs::write(bench.path("uraid.toml"), config).unwrap();
    assert!(bench.expect(0, "list").contains("data"));
    assert!(bench.expect(0, "status").contains("healthy"));
    let document = bench.document("list");
    assert_eq!(document["schema"], "uraid.list/1");
    assert_eq!(document["lus"].as_array().unwrap().len(), 1);

    let config = format!("{config}[[lu]]\nname = 'gone'\ndisks = ['x0', 'x1']\n");
    std::fs::write(bench.path("uraid.toml"), config).unwrap();
    let output = bench.run("list --json");
    assert_ne!(output.status.code(), Some(0));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["lus"][0]["name"], "data", "one that is gone does not hide the other");
    assert_eq!(document["unavailable"][0]["name"], "gone");
}

#[test]
fn scan_finds_members_where_it_is_told_to() {
    let bench = Bench::new();
    bench.raid5();
    bench.expect(0, "create other --level 1 ./e0 ./e1 --disk-size 16M");
    std::fs::write(bench.path("letter"), "no member").unwrap();
    let document = bench.document("scan .");
    assert_eq!(document["schema"], "uraid.scan/1");
    let mut names: Vec<&str> =
        document["lus"].as_array().unwrap().iter().filter_map(|lu| lu["name"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["data", "other"]);
    assert_eq!(bench.expect(0, "scan .").lines().count(), 2);
    assert_eq!(bench.expect(0, "scan ./letter"), "");
}

#[test]
fn inspect_says_what_mdadm_says() {
    let bench = Bench::new();
    bench.raid5();
    let told = bench.expect(0, "inspect ./d1");
    for title in [
        "Magic",
        "Version",
        "Feature Map",
        "Array UUID",
        "Name",
        "Creation Time",
        "Raid Level",
        "Raid Devices",
        "Avail Dev Size",
        "Array Size",
        "Used Dev Size",
        "Data Offset",
        "Super Offset",
        "Unused Space",
        "State",
        "Device UUID",
        "Update Time",
        "Bad Block Log",
        "Checksum",
        "Events",
        "Layout",
        "Chunk Size",
        "Device Role",
        "Array State",
    ] {
        assert!(told.contains(&format!("{title} : ")), "{title} in\n{told}");
    }
    let document = bench.document("inspect ./d1");
    assert_eq!(document["schema"], "uraid.inspect/1");
    assert_eq!((document["version"].as_str(), document["level"].as_str()), (Some("1.2"), Some("raid5")));
    assert_eq!(
        (document["device_role"].as_str(), document["state"].as_str()),
        (Some("active device 1"), Some("clean"))
    );
    assert_eq!(document["array_state"], "AAA");
    let status = bench.document("status ./d1");
    assert_eq!(document["array_uuid"], status["lus"][0]["uuid"]);
    assert_eq!(document["array_bytes"], status["lus"][0]["size_bytes"]);
    bench.disk("blank", MEBIBYTE);
    let output = bench.run("inspect ./blank");
    assert!(matches!(output.status.code(), Some(3 | 7)), "{:?}", output.status);
}

#[test]
fn looking_changes_nothing() {
    let bench = Bench::new();
    bench.raid5();
    std::fs::remove_file(bench.path("d2")).unwrap();
    let state = || ["d0", "d1"].map(|name| std::fs::read(bench.path(name)).unwrap());
    let before = state();
    for line in ["status ./d0", "scan .", "inspect ./d0", "read ./d0 -o out", "status ./d0,./d1 --json"] {
        bench.expect(0, line);
    }
    assert!(state() == before);
}

// ---- Bytes

#[test]
fn bytes_come_back_from_any_offset() {
    let bench = Bench::new();
    bench.raid5();
    let mut model = bench.contents("./d0");
    assert!(model.iter().all(|byte| *byte == 0), "disks made by create read as zeroes");
    let writes =
        [(0, 1), (511, 2), (4096, 4096), (65535, 131_074), (1_000_003, 5_000_000), (model.len() - 7, 7)];
    for (seed, (offset, length)) in writes.into_iter().enumerate() {
        let data = pattern(length, seed as u64 + 1);
        let (code, told) = bench.feed(&format!("write ./d1 --offset {offset}"), &data);
        assert_eq!(code, Some(0), "{offset}: {told}");
        model[offset..offset + length].copy_from_slice(&data);
    }
    assert!(bench.contents("./d0") == model);
    for (offset, length) in
        [(0, 0), (1, 1), (777, 100_000), (65536, 65536), (model.len() - 3, 3), (model.len(), 0)]
    {
        bench.expect(0, &format!("read ./d2 --offset {offset} --length {length} -o part"));
        assert!(
            std::fs::read(bench.path("part")).unwrap() == model[offset..offset + length],
            "{offset}+{length}"
        );
    }
    // Binary suffixes.
    bench.expect(0, "read ./d0 --offset 1M --length 64K -o part");
    assert!(std::fs::read(bench.path("part")).unwrap() == model[MEBIBYTE..MEBIBYTE + 65536]);
}

#[test]
fn files_in_and_out() {
    let bench = Bench::new();
    bench.raid5();
    let data = pattern(3 * MEBIBYTE + 5, 9);
    std::fs::write(bench.path("in"), &data).unwrap();
    let document = bench.document("write ./d0 -i in --offset 12345");
    assert_eq!((&document["schema"], &document["bytes"]), (&"uraid.write/1".into(), &data.len().into()));
    let line = format!("read ./d0 -o out --offset 12345 --length {}", data.len());
    let document = bench.document(&line);
    assert_eq!((&document["schema"], &document["bytes"]), (&"uraid.read/1".into(), &data.len().into()));
    assert!(std::fs::read(bench.path("out")).unwrap() == data);
    bench.expect(3, "write ./d0 -i none");
    assert_eq!(bench.document("status ./d0")["lus"][0]["dirty"], false);
}

#[test]
fn the_end_of_the_lu() {
    let bench = Bench::new();
    bench.raid5();
    let end = bench.document("status ./d0")["lus"][0]["size_bytes"].as_u64().unwrap();
    for line in [
        format!("read ./d0 --offset {} -o out", end + 1),
        format!("read ./d0 --length {} -o out", end + 1),
        format!("read ./d0 --offset {end} --length 1 -o out"),
        format!("read ./d0 --offset 1 --length {} -o out", u64::MAX),
    ] {
        bench.expect(2, &line);
        assert!(!bench.path("out").exists(), "{line}");
    }
    let (code, told) = bench.feed(&format!("write ./d0 --offset {}", end - 100), &pattern(101, 3));
    assert_eq!(code, Some(1));
    assert!(told.contains("100 bytes were written"), "{told}");
    assert!(bench.contents("./d0")[end as usize - 100..] == pattern(101, 3)[..100]);
    assert_eq!(bench.document("status ./d0")["lus"][0]["dirty"], false, "stopped clean all the same");
    let (code, told) = bench.feed(&format!("write ./d0 --offset {}", end + 1), b"x");
    assert_eq!(code, Some(1));
    assert!(told.contains("0 bytes were written"), "{told}");
}

#[test]
fn a_member_is_no_place_for_output() {
    let bench = Bench::new();
    bench.raid5();
    let before = std::fs::read(bench.path("d1")).unwrap();
    bench.expect(2, "read ./d0 -o ./d1");
    bench.expect(2, "write ./d0 -i ./d1");
    assert!(std::fs::read(bench.path("d1")).unwrap() == before);
}

#[test]
fn a_lost_disk_costs_nothing() {
    let bench = Bench::new();
    bench.raid5();
    let data = pattern(8 * MEBIBYTE, 11);
    assert_eq!(bench.feed("write ./d0", &data).0, Some(0));
    std::fs::rename(bench.path("d1"), bench.path("lost")).unwrap();
    std::fs::create_dir(bench.path("elsewhere")).unwrap();
    std::fs::rename(bench.path("lost"), bench.path("elsewhere/d1")).unwrap();
    // Reading needs no flag.
    assert!(bench.contents("./d0")[..data.len()] == data);

    let (code, told) = bench.feed("write ./d0", b"new");
    assert_eq!(code, Some(6), "{told}");
    assert!(told.contains("--degraded"), "{told}");
    assert!(bench.contents("./d0")[..data.len()] == data, "a refusal changes nothing");
    assert_eq!(bench.feed("write ./d0 --degraded", b"new").0, Some(0));
    // The absence is on record now.
    assert_eq!(bench.feed("write ./d0 --offset 3", b"er").0, Some(0));

    // It comes back too late: told of, and not believed.
    std::fs::rename(bench.path("elsewhere/d1"), bench.path("d1")).unwrap();
    let output = bench.run("read ./d0 --length 5");
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"newer"[..]));
    assert!(text(&output.stderr).contains("d1"), "{}", text(&output.stderr));
    let members = bench.document("status ./d0")["lus"][0]["members"].clone();
    let stale: Vec<&Value> =
        members.as_array().unwrap().iter().filter(|member| member["state"] == "stale").collect();
    assert_eq!(stale.len(), 1, "{members:#}");
    assert!(stale[0]["slot"].is_null());
}

#[test]
fn an_interrupted_write_stops_clean() {
    let bench = Bench::new();
    bench.raid5();
    let mut command = bench.command("write ./d0");
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Its standard input stays open: nothing but the signal ends it.
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&pattern(16 * MEBIBYTE, 4)).unwrap();
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(20), "does not stop");
        thread::sleep(Duration::from_millis(10));
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("bytes were written"));
    let lu = bench.document("status ./d0")["lus"][0].clone();
    assert_eq!((lu["dirty"].as_bool(), lu["state"].as_str()), (Some(false), Some("healthy")));
}

// ---- Members

/// The LU of `status`.
#[track_caller]
fn lu_of(bench: &Bench, lu: &str) -> Value {
    bench.document(&format!("status {lu}"))["lus"][0].clone()
}

#[test]
fn an_operator_s_story() {
    let bench = Bench::new();
    bench.expect(0, "create data --level 5 ./d0 ./d1 ./d2 --spare ./s0 --disk-size 64M");
    let data = pattern(20 * MEBIBYTE, 21);
    assert_eq!(bench.feed("write ./d0", &data).0, Some(0));

    // A disk fails; the LU may be named by it, then and later. The spare takes over.
    let told = bench.expect(0, "fail ./d1 ./d1");
    for part in ["./d1 (slot 1)", "DEGRADED", "./s0 takes over slot 1", "uraid rebuild ./d0"] {
        assert!(told.contains(part), "{part} in {told}");
    }
    assert!(bench.contents("./d0")[..data.len()] == data);
    let lu = lu_of(&bench, "./d1");
    assert_eq!((&lu["state"], &lu["work"]["kind"]), (&"rebuilding".into(), &"rebuild".into()), "{lu:#}");
    assert_eq!(lu["next"][0], "uraid rebuild ./d0");
    bench.expect(6, "fail ./d0 ./d2");
    assert!(bench.expect(0, "status ./d0").contains("next     uraid rebuild ./d0"));

    let told = bench.expect(0, "rebuild ./d0");
    assert!(told.contains("rebuilt slot 1") && told.contains("B/s") && told.contains("healthy"), "{told}");
    assert!(bench.expect(0, "rebuild ./d0").contains("nothing to do"));
    assert!(bench.expect(0, "remove ./d0 ./d1").contains("./d1"));

    // Another one is lost altogether, and written on without it.
    std::fs::remove_file(bench.path("d2")).unwrap();
    assert!(bench.contents("./d0")[..data.len()] == data);
    let output = bench.run("rebuild ./d0");
    assert_eq!(output.status.code(), Some(6));
    assert!(text(&output.stderr).contains("--degraded"), "{}", text(&output.stderr));
    assert_eq!(bench.feed("write ./d0 --degraded --offset 1000", b"degraded").0, Some(0));

    // No spare: what is said can be typed.
    let told = bench.expect(0, "status ./d0");
    assert!(told.contains("NO SPARE LEFT") && told.contains("no further disk may fail"), "{told}");
    let output = bench.run("rebuild ./d0");
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("slot 2") && told.contains("NO SPARE LEFT"), "{told}");
    let line = told.lines().find_map(|line| line.trim().strip_prefix("uraid add ")).unwrap();
    let (line, remark) = line.split_once('#').unwrap();
    let bytes: usize = remark.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
    bench.disk("new", bytes);
    let told = bench.expect(0, &format!("add {}", line.replace("DISK", "./new")));
    assert!(told.contains("./new to slot 2") && told.contains("rebuild"), "{told}");
    bench.expect(0, "rebuild ./d0");

    let lu = lu_of(&bench, "./d0");
    assert_eq!((&lu["state"], &lu["dirty"]), (&"healthy".into(), &false.into()), "{lu:#}");
    // Every byte is there without any of the first three disks but one.
    for lost in ["d0", "s0", "new"] {
        std::fs::rename(bench.path(lost), bench.path("away")).unwrap();
        let found = bench.contents(if lost == "d0" { "./s0" } else { "./d0" });
        assert!(found[..1000] == data[..1000] && found[1000..1008] == *b"degraded", "without {lost}");
        assert!(found[1008..data.len()] == data[1008..], "without {lost}");
        std::fs::rename(bench.path("away"), bench.path(lost)).unwrap();
    }
}

#[test]
fn exit_codes_of_the_members_verbs() {
    let bench = Bench::new();
    bench.expect(0, "create data --level 5 ./d0 ./d1 ./d2 --spare ./s0 --disk-size 16M");
    bench.expect(0, "create plain --level 0 ./p0 ./p1 --disk-size 16M");
    bench.expect(0, "create other --level 1 ./o0 ./o1 --disk-size 16M");
    bench.disk("small", 8 * MEBIBYTE);
    bench.disk("new", 16 * MEBIBYTE);
    for (code, line) in [
        // Nothing by that name.
        (3, "fail nobody ./d0"),
        (3, "wait nobody"),
        (3, "wait ./none"),
        (3, "rebuild ./none"),
        (3, "fail ./d0 ./none"),
        (3, "remove ./d0 ./none"),
        (3, "add ./d0 ./none"),
        // Not of this LU, or not what is meant.
        (3, "fail ./d0 ./new"),
        (3, "fail ./d0 ./o0"),
        (3, "fail ./d0 ./s0"),
        (3, "remove ./d0 ./new"),
        (3, "spare remove ./d0 ./d1"),
        (3, "spare remove ./d0 ./new"),
        // Cannot be used.
        (2, "add ./d0 ./small"),
        (2, "add ./d0 ./d1"),
        (2, "spare add ./d0 ./s0"),
        (2, "add ./p0 ./new"),
        (2, "add ./d0 ."),
        (2, "add ./d0 ./new --confirm other"),
        // Would lose something.
        (6, "add ./d0 ./o0"),
        (6, "spare add ./d0 ./p0"),
        (6, "fail ./p0 ./p1"),
        (6, "remove ./p0 ./p1"),
        // Nothing to do.
        (0, "rebuild ./d0"),
        (0, "rebuild ./p0"),
        (0, "wait ./d0"),
        (0, "wait ./p0"),
        // Done.
        (0, "spare remove ./d0 ./s0"),
        (3, "spare remove ./d0 ./s0"),
        (0, "fail ./d0 ./d1"),
        (0, "fail ./d0 ./d1"),
        (6, "fail ./d0 ./d2"),
        (6, "remove ./d0 ./d2"),
        (1, "rebuild ./d0"),
        (0, "wait ./d0"),
        (0, "add ./d0 ./new"),
        (0, "rebuild ./d0"),
        (0, "remove ./d0 ./d2"),
        (1, "rebuild ./d0"),
        (0, "add ./d0 ./o0 --confirm data"),
        (0, "rebuild ./d0"),
    ] {
        bench.expect(code, line);
    }
    for member in ["./d0", "./new", "./o0"] {
        assert_eq!(lu_of(&bench, member)["name"], "data", "{member}");
    }
    assert_eq!(lu_of(&bench, "./o1")["name"], "other", "what is left of it is what it was");
}

#[test]
fn documents_of_the_members_verbs() {
    let bench = Bench::new();
    bench.expect(0, "create data --level 6 ./d0 ./d1 ./d2 ./d3 --disk-size 64M");
    bench.disk("new", 64 * MEBIBYTE);
    for (line, schema, slot, state, redundancy) in [
        ("fail ./d0 ./d1", "uraid.fail/1", Some(1), "degraded", 1),
        ("remove ./d0 ./d1", "uraid.remove/1", None, "degraded", 1),
        ("remove ./d0 ./d2", "uraid.remove/1", Some(2), "degraded", 0),
        ("add ./d0 ./new", "uraid.add/1", None, "rebuilding", 0),
    ] {
        let document = bench.document(line);
        has_keys(&document, &["schema", "disk", "slot", "lu"]);
        assert_eq!(document["schema"], schema, "{line}");
        assert_eq!(document["disk"], *line.split_whitespace().last().unwrap(), "{line}");
        assert_eq!(document["slot"].as_u64(), slot, "{line}");
        assert_eq!(document["lu"]["state"], state, "{line}: {document:#}");
        assert_eq!(document["lu"]["redundancy_left"], redundancy, "{line}");
    }
    let document = bench.document("wait ./d0");
    assert_eq!(
        (&document["schema"], &document["lu"]["state"]),
        (&"uraid.wait/1".into(), &"rebuilding".into())
    );

    // Two slots, one after the other. The first goes on while the LU is open for adding the second disk, and
    // may come to its end in that time.
    has_keys(&bench.document("spare add ./d0 ./d2"), &["action", "disk", "slot", "lu"]);
    let document = bench.document("rebuild ./d0");
    has_keys(&document, &["rebuilt_slots", "bytes", "seconds", "bytes_per_second", "lost", "lu"]);
    assert_eq!(document["schema"], "uraid.rebuild/1");
    let rebuilt = document["rebuilt_slots"].as_array().unwrap();
    assert!(rebuilt.contains(&2.into()), "{document:#}");
    assert_eq!(document["lu"]["state"], "healthy", "{document:#}");
    assert!(document["bytes"].as_u64() > Some(0), "{document:#}");
    assert_eq!(bench.document("rebuild ./d0")["rebuilt_slots"], Value::Array(vec![]));

    bench.disk("spare", 64 * MEBIBYTE);
    let document = bench.document("spare add ./d0 ./spare");
    assert_eq!((&document["action"], &document["lu"]["spares"]), (&"add".into(), &1.into()));
    let document = bench.document("spare remove ./d0 ./spare");
    assert_eq!((&document["action"], &document["lu"]["spares"]), (&"remove".into(), &0.into()));

    bench.expect(0, "fail ./d0 ./d3");
    let output = bench.run("rebuild ./d0 --json");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &document["schema"]), (Some(1), &"uraid.error/1".into()));
    assert!(document["message"].as_str().unwrap().contains("NO SPARE LEFT"), "{document:#}");
    assert!(document["next"][0].as_str().unwrap().starts_with("uraid add ./d0 DISK"), "{document:#}");
}

#[test]
fn what_a_disk_holds_is_not_lost_unasked() {
    let bench = Bench::new();
    bench.raid5();
    bench.expect(0, "fail ./d0 ./d1");
    // Younger than ours, and at another place: what is left of it would count for more.
    bench.expect(0, "create other --level 1 --metadata 1.0 ./o0 ./o1 --disk-size 32M");
    let before = std::fs::read(bench.path("o0")).unwrap();
    let output = bench.run("add ./d0 ./o0");
    assert_eq!(output.status.code(), Some(6));
    assert!(text(&output.stderr).contains("--confirm data"), "{}", text(&output.stderr));
    assert!(std::fs::read(bench.path("o0")).unwrap() == before);

    // A disk without a superblock may be named among the LU's; what it holds still is not ours.
    let mut table = vec![0; 32 * MEBIBYTE];
    table[510..512].copy_from_slice(&[0x55, 0xaa]);
    table[446..462].copy_from_slice(&[0x80, 1, 1, 0, 0x83, 1, 1, 1, 0, 8, 0, 0, 0, 8, 0, 0]);
    std::fs::write(bench.path("table"), &table).unwrap();
    for lu in ["./d0", "./d0,./d1,./d2,./table"] {
        bench.expect(6, &format!("add {lu} ./table"));
        assert!(std::fs::read(bench.path("table")).unwrap() == table, "{lu}");
    }

    bench.expect(0, "add ./d0 ./o0 --confirm data");
    bench.expect(0, "rebuild ./o0");
    let lu = lu_of(&bench, "./o0");
    assert_eq!((&lu["name"], &lu["state"]), (&"data".into(), &"healthy".into()), "{lu:#}");
}

#[test]
fn an_interrupted_rebuild_goes_on_where_it_was() {
    let bench = Bench::new();
    // (With a bitmap only what was written would be copied.)
    bench.expect(0, "create data --level 1 ./d0 ./d1 --disk-size 2G --policy none");
    let data = pattern(MEBIBYTE, 31);
    assert_eq!(bench.feed("write ./d0 --offset 1G", &data).0, Some(0));
    bench.expect(0, "fail ./d0 ./d1");
    bench.expect(0, "add ./d0 ./d1");
    let events = |lu: &Value| lu["events"].as_u64().unwrap();
    let begun = events(&lu_of(&bench, "./d0"));

    let mut command = bench.command("rebuild ./d0");
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    // Its first checkpoint comes at once.
    while events(&lu_of(&bench, "./d0")) == begun {
        assert!(start.elapsed() < Duration::from_secs(20), "does not begin");
        thread::sleep(Duration::from_millis(5));
    }
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(143), "{told}");
    assert!(told.contains("on record up to") && told.contains("uraid rebuild ./d0"), "{told}");

    let work = lu_of(&bench, "./d0")["work"].clone();
    let (done, total) = (work["done_bytes"].as_u64().unwrap(), work["total_bytes"].as_u64().unwrap());
    assert!(0 < done && done < total, "{work:#}");
    let document = bench.document("rebuild ./d0");
    assert_eq!(document["bytes"], total - done);
    assert_eq!(document["lu"]["state"], "healthy");
    std::fs::remove_file(bench.path("d0")).unwrap();
    bench.expect(0, &format!("read ./d1 --offset 1G --length {} -o out", data.len()));
    assert!(std::fs::read(bench.path("out")).unwrap() == data);
}

#[test]
fn an_lu_in_use_is_busy() {
    let bench = Bench::new();
    bench.raid5();
    let begin = || bench.command("write ./d0").stdin(Stdio::piped()).spawn().unwrap();
    let mut child = begin();
    let start = Instant::now();
    while bench.run("wait ./d0").status.code() != Some(5) {
        assert!(start.elapsed() < Duration::from_secs(20), "never busy");
        thread::sleep(Duration::from_millis(50));
        // Whoever asks has the disks for a moment, too.
        if child.try_wait().unwrap().is_some() {
            child = begin();
        }
    }
    for line in ["fail ./d0 ./d1", "remove ./d0 ./d1", "add ./d0 ./x", "rebuild ./d0", "wait ./d0"] {
        let output = bench.run(line);
        assert_eq!(output.status.code(), Some(5), "{line}");
        let told = text(&output.stderr);
        assert!(told.contains(&format!("process {}", child.id())), "{told}");
    }
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    bench.expect(0, "wait ./d0");
}

#[test]
fn hints_name_disks_wherever_they_are() {
    let bench = Bench::new();
    std::fs::create_dir(bench.path("else where")).unwrap();
    bench.raid5();
    bench.disk("else where/new", 32 * MEBIBYTE);
    std::fs::write(bench.path("uraid.toml"), "[[lu]]\nname = 'data'\ndisks = ['d0', 'd1', 'd2']\n").unwrap();
    bench.expect(0, "fail data ./d1");
    let mut command = bench.command("add data");
    let output = command.arg("else where/new").output().unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{err}");
    // One folder does not have them all, and the configuration does not list the new one.
    assert!(err.contains("uraid.toml") && err.contains("else where/new"), "{err}");
    let next = out.lines().find_map(|line| line.trim().strip_prefix("next     ")).unwrap();
    let mut shell = Command::new("sh");
    let program = Path::new(env!("CARGO_BIN_EXE_uraid")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    shell.args(["-c", next]).env("PATH", path).current_dir(bench.folder.path());
    let output = shell.output().unwrap();
    assert!(output.status.success(), "{next}: {}", text(&output.stderr));
    assert!(text(&output.stdout).contains("rebuilt slot 1"));
}

// ---- The demonstration

#[test]
fn the_demonstration_cleans_up() {
    let bench = Bench::new();
    std::fs::create_dir(bench.path("room")).unwrap();
    let told = bench.expect(0, "demo --dir room --size 32M");
    assert!(told.contains("every byte verified"), "{told}");
    assert!(is_empty(&bench.path("room")));
    let document = bench.document("demo --dir room --size 32M --keep");
    assert_eq!(document["schema"], "uraid.demo/1");
    assert!(document["bytes_verified"].as_u64() > Some(0));
    has_keys(&document, &["rebuild_speed", "rebuild_seconds", "random_write_speed_rebuilding"]);
    let folder = PathBuf::from(document["folder"].as_str().unwrap());
    assert!(bench.folder.path().join(folder).join("disk0.img").is_file());
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}
