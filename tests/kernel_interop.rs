//! LUs handed over between uraid and the kernel's md driver, at awkward moments too: in every layout,
//! degraded, killed in the middle of a write or a resync, grown, with bad blocks, with members that were
//! added and lost on the other side.
//!
//! Each test is a relay: one side makes and writes, the other goes on, and at the end both must read the same
//! bytes and the kernel's own check must find nothing that disagrees. A start of the guest costs seconds, so
//! a test takes all its LUs through it together. Nothing here knows how either side works; `tests/interop.rs`
//! has the plain cases.

#[path = "common/loopdev.rs"]
mod loopdev;
#[path = "common/pattern.rs"]
mod pattern;
#[path = "common/uml.rs"]
mod uml;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use loopdev::LoopDevice;
use pattern::pattern;
use uml::{Guest, Output};
use uraid::disk::faulty::{Effect, Fault, Faults, Faulty};
use uraid::disk::{DiskId, OpKind};
use uraid::format::superblock::{Minor, Role};
use uraid::lu::{Access, Create, Inspection, Policy, State, WorkKind, inspect};
use uraid::units::{DiskLba, Level, Sectors};
use uraid::{ErrorKind, Lu};

const MIB: u64 = 1 << 20;

/// Words for the guest besides those of `tests/kernel/helpers.sh`. The members of a case are `$@`; `$content`
/// names the file with what the LU must hold.
const WORDS: &str = r#"
start() { # MEMBER...: without waiting for what the driver finds to do; scrub waits
    mdadm --assemble --run --quiet /dev/md1 "$@"
}
same() { # [OFFSET LENGTH]...: these bytes (all without arguments) are what they must be
    if (($# == 0)); then cmp /dev/md1 "$content"; fi
    while (($#)); do
        cmp -n "$2" -i "$1" /dev/md1 "$content" || return 1
        shift 2
    done
}
without_each() { # MEMBER...: the LU starts and reads the same whichever one is away; nothing is written
    local away member rest
    for away in "$@"; do
        rest=()
        for member in "$@"; do [[ $member == "$away" ]] || rest+=("$member"); done
        mdadm --assemble --quiet --run --readonly /dev/md1 "${rest[@]}" || return 1
        same || { echo "without $away of $*" >&2; return 1; }
        stop /dev/md1
    done
}
md() { # FILE: what the driver says there
    cat "/sys/block/md1/md/$1"
}
put() { # OFFSET LENGTH: the bytes of $content go there, and to the disks
    dd if="$content" of=/dev/md1 bs=64K iflag=skip_bytes,count_bytes oflag=seek_bytes \
        skip="$1" seek="$1" count="$2" conv=notrunc,fsync status=none
}
"#;

// ---- the relay's baton ------------------------------------------------------------------------------------

/// An LU on its way: its members' files, and a file with what it must hold.
struct Case {
    name: String,
    members: Vec<PathBuf>,
    content: PathBuf,
}

impl Case {
    fn new(folder: &Path, name: &str, count: usize) -> Case {
        let members = (0..count).map(|i| folder.join(format!("{name}.{i}"))).collect();
        Case { name: name.to_owned(), members, content: folder.join(format!("{name}.content")) }
    }

    /// The same with members that exist: sparse files.
    fn sparse(folder: &Path, name: &str, count: usize, bytes: u64) -> Case {
        let case = Case::new(folder, name, count);
        case.members.iter().for_each(|path| make_sparse(path, bytes));
        case
    }

    fn must_hold(&self, model: &[u8]) {
        std::fs::write(&self.content, model).unwrap();
    }

    fn must_hold_what_is_there(&self) -> Vec<u8> {
        std::fs::read(&self.content).unwrap()
    }

    /// The guest's script for this case: `body` between attaching and detaching the members.
    fn script(&self, body: &str) -> String {
        let name = &self.name;
        format!(
            "echo case {name}; echo case {name} >&2; content={}; loops=$(attach {}); set -- $loops\n{body}\n\
             stop /dev/md1; detach $loops; echo done {name}\n",
            self.content.display(),
            joined(&self.members, " "),
        )
    }
}

/// Runs each case's script in one guest; every one must come to its end.
fn relay<'a>(folder: &Path, legs: impl IntoIterator<Item = (&'a Case, String)>) -> Output {
    let legs: Vec<String> = legs.into_iter().map(|(case, body)| case.script(&body)).collect();
    let output = Guest::new().writable(folder).run(&(WORDS.to_owned() + &legs.concat())).success();
    assert_eq!(output.values("done").len(), legs.len(), "{}\n{}", output.stdout, output.stderr);
    output
}

/// Every check found nothing, and there were `count` of them.
#[track_caller]
fn nothing_disagrees(output: &Output, count: usize) {
    assert_eq!(output.values("mismatch_cnt"), vec!["0"; count], "{}", output.stdout);
}

fn joined(paths: &[PathBuf], between: &str) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(between)
}

fn make_sparse(path: &Path, bytes: u64) {
    std::fs::File::create(path).and_then(|file| file.set_len(bytes)).expect("an image file");
}

fn read_all(lu: &Lu) -> Vec<u8> {
    let mut bytes = vec![0; lu.size() as usize];
    lu.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn assemble<P: AsRef<Path>>(paths: &[P], access: Access) -> uraid::Result<Lu> {
    paths.iter().fold(Lu::assemble(), |a, path| a.disk(path)).access(access).degraded(true).open()
}

#[track_caller]
fn open<P: AsRef<Path>>(paths: &[P], access: Access) -> Lu {
    assemble(paths, access).unwrap_or_else(|error| panic!("{error}"))
}

/// Writes of all sizes at odd places all over the LU, keeping `model` in step.
fn scribble(lu: &Lu, model: &mut [u8], seed: u64) {
    let end = model.len();
    let mut writes =
        vec![(0, 70_000), (4096, 4096), (1, 1), (end / 2 + 511, 300_001), (end - 4097, 4097), (131_070, 3)];
    writes.extend((1..40).map(|i| ((i * 1_299_709 + seed as usize * 7919) % (end - 66_000), 1 + i * 1667)));
    for (i, (at, len)) in writes.into_iter().enumerate() {
        let bytes = pattern(len, seed * 100 + i as u64);
        lu.write_at(&bytes, at as u64).unwrap();
        model[at..at + len].copy_from_slice(&bytes);
    }
}

/// Rubbish on every member, so that redundancy does not agree by luck.
fn fill_with_rubbish(case: &Case, bytes: u64) {
    for (i, path) in case.members.iter().enumerate() {
        let rubbish = pattern(MIB as usize, i as u64 + 1);
        std::fs::write(path, rubbish.repeat((bytes / MIB) as usize)).unwrap();
    }
}

// ---- what mdadm says of a member, and what uraid says -----------------------------------------------------

/// `mdadm --examine`, by the word before the colon.
fn examine(disk: &Path) -> BTreeMap<String, String> {
    let output = Command::new("mdadm")
        .arg("--examine")
        .arg(disk)
        .output()
        .unwrap_or_else(|error| panic!("cannot run mdadm (package mdadm): {error}"));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "mdadm --examine {}: {text}", disk.display());
    let pair = |line: &str| line.split_once(" : ").map(|(a, b)| (a.trim().to_owned(), b.trim().to_owned()));
    text.lines().filter_map(pair).collect()
}

/// Everything that both tell of a member is the same.
#[track_caller]
fn facts_agree(disk: &Path) {
    let (told, seen) = (examine(disk), inspect(disk).unwrap());
    let sb = &seen.superblock;
    let level = sb.level().expect("a level that both know");
    let sectors = |n: u64| format!("{n} sectors");
    let mut want = vec![
        ("Version", sb.minor.to_string()),
        ("Array UUID", sb.set_uuid.to_string()),
        ("Name", sb.name().into_owned()),
        ("Raid Level", level.to_string()),
        ("Raid Devices", sb.raid_disks.to_string()),
        ("Avail Dev Size", sectors(sb.data_size.0)),
        ("Super Offset", sectors(sb.super_offset.0)),
        ("State", if sb.resync_offset == Sectors::MAX { "clean" } else { "active" }.to_owned()),
        ("Device UUID", sb.device_uuid.to_string()),
        ("Checksum", format!("{:x} - correct", seen.checksum)),
        ("Events", sb.events.to_string()),
        ("Device Role", role_in_words(sb.my_role())),
        ("Array State", slots_in_letters(&seen)),
    ];
    if sb.minor != Minor::V1_0 {
        want.push(("Data Offset", sectors(sb.data_offset.0)));
    }
    // What mdadm says of RAID10 leaves chunks out of account; the guest compares the true sizes.
    if let Some(bytes) = seen.array_bytes.filter(|_| level != Level::Raid10) {
        want.push(("Array Size", format!("{} KiB", bytes / 1024)));
    }
    if sb.size.0 > 0 && sb.size != sb.data_size {
        want.push(("Used Dev Size", sectors(sb.size.0)));
    }
    if sb.chunk.0 > 0 && level != Level::Linear {
        want.push(("Chunk Size", format!("{}K", sb.chunk.bytes() / 1024)));
    }
    for (word, uraid) in want {
        let mdadm = told.get(word).unwrap_or_else(|| panic!("no {word} in {told:#?}"));
        // What follows in parentheses is the same once more for people, or "local to host".
        let short = mdadm.split(" (").next().unwrap_or_default().trim();
        assert_eq!(short, uraid, "{word} of {}", disk.display());
    }
}

#[track_caller]
fn all_facts_agree(case: &Case) {
    for disk in &case.members {
        facts_agree(disk);
    }
}

fn role_in_words(role: Role) -> String {
    match role {
        Role::Active(slot) => format!("Active device {}", slot.0),
        other => other.to_string(),
    }
}

fn slots_in_letters(seen: &Inspection) -> String {
    let filled = |slot: &u32| seen.superblock.roles.contains(&(*slot as u16));
    (0..seen.superblock.raid_disks).map(|slot| if filled(&slot) { 'A' } else { '.' }).collect()
}

// ---- every layout -----------------------------------------------------------------------------------------

struct Shape {
    level: Level,
    layout: &'static str,
    disks: usize,
    missing: usize,
    spares: usize,
    chunk_kib: u64,
    minor: Minor,
}

impl Shape {
    fn begin(&self, name: &str) -> Create {
        let mut create = Lu::create(name, self.level).metadata(self.minor).policy(Policy::None);
        if self.chunk_kib > 0 {
            create = create.chunk(self.chunk_kib << 10);
        }
        if !self.layout.is_empty() {
            create = create.layout(self.layout);
        }
        create
    }

    /// mdadm's arguments for the same.
    fn arguments(&self) -> String {
        let level = self.level.to_string();
        let level = level.trim_start_matches("raid");
        let mut text = format!("--level={level} --raid-devices={} --metadata={}", self.disks, self.minor);
        if self.chunk_kib > 0 {
            write!(text, " --chunk={}", self.chunk_kib).unwrap();
        }
        if !self.layout.is_empty() {
            write!(text, " --layout={}", self.layout).unwrap();
        }
        if self.spares > 0 {
            write!(text, " --spare-devices={}", self.spares).unwrap();
        }
        if self.is_redundant() {
            text += " --bitmap=none";
        }
        text
    }

    fn is_redundant(&self) -> bool {
        self.level.md_number() > 0
    }

    fn has_parity(&self) -> bool {
        matches!(self.level, Level::Raid4 | Level::Raid5 | Level::Raid6)
    }

    fn named(&self, prefix: &str) -> String {
        format!("{prefix}{}{}", self.level.md_number(), self.layout)
    }
}

const fn shape(level: Level, layout: &'static str, disks: usize, chunk_kib: u64) -> Shape {
    Shape { level, layout, disks, missing: 0, spares: 0, chunk_kib, minor: Minor::V1_2 }
}

/// What both can make, and `tests/interop.rs` has uraid make.
const PLAIN: [Shape; 14] = [
    shape(Level::Linear, "", 3, 64),
    Shape { minor: Minor::V1_0, ..shape(Level::Raid1, "", 3, 0) },
    shape(Level::Raid4, "", 3, 16),
    shape(Level::Raid5, "left-asymmetric", 3, 32),
    shape(Level::Raid5, "right-asymmetric", 4, 4),
    Shape { minor: Minor::V1_1, ..shape(Level::Raid5, "right-symmetric", 5, 64) },
    shape(Level::Raid5, "parity-first", 4, 16),
    shape(Level::Raid5, "parity-last", 3, 8),
    shape(Level::Raid6, "left-asymmetric", 4, 16),
    shape(Level::Raid6, "right-asymmetric", 5, 4),
    Shape { minor: Minor::V1_0, ..shape(Level::Raid6, "right-symmetric", 4, 32) },
    shape(Level::Raid10, "n2", 3, 64),
    shape(Level::Raid10, "f2", 4, 16),
    shape(Level::Raid10, "o2", 3, 32),
];

/// What both can make, less common.
const RARE: [Shape; 10] = [
    shape(Level::Raid0, "original", 3, 16),
    shape(Level::Raid0, "alternate", 4, 32),
    Shape { spares: 1, ..shape(Level::Raid1, "", 2, 0) },
    Shape { spares: 2, ..shape(Level::Raid5, "left-symmetric", 3, 128) },
    Shape { spares: 1, ..shape(Level::Raid6, "left-symmetric", 5, 64) },
    shape(Level::Raid6, "ddf-zero-restart", 5, 16),
    shape(Level::Raid6, "ddf-N-restart", 4, 16),
    shape(Level::Raid6, "ddf-N-continue", 5, 8),
    Shape { minor: Minor::V1_1, ..shape(Level::Raid10, "n3", 5, 4) },
    shape(Level::Raid10, "f3", 4, 64),
];

/// What mdadm has no word for, and the kernel knows all the same; and LUs born with a slot empty.
const URAID_ONLY: [Shape; 13] = [
    shape(Level::Raid6, "left-asymmetric-6", 5, 16),
    shape(Level::Raid6, "right-asymmetric-6", 4, 4),
    shape(Level::Raid6, "left-symmetric-6", 5, 16),
    shape(Level::Raid6, "right-symmetric-6", 4, 16),
    shape(Level::Raid6, "parity-first-6", 5, 8),
    shape(Level::Raid6, "parity-first", 4, 16),
    shape(Level::Raid6, "parity-last", 5, 16),
    shape(Level::Raid10, "n2f2", 4, 16),
    shape(Level::Raid10, "f2-sets", 4, 16),
    shape(Level::Raid10, "o3", 4, 16),
    Shape { missing: 1, ..shape(Level::Raid6, "left-symmetric", 5, 64) },
    Shape { missing: 1, ..shape(Level::Raid1, "", 3, 0) },
    Shape { missing: 1, ..shape(Level::Raid10, "n3", 3, 16) },
];

/// Members differ in size, which makes zones where that matters, and hold rubbish before.
const fn size_of_member(i: usize) -> u64 {
    3 * MIB + i as u64 * 200_192
}

/// The guest's word on them: content, and redundancy where there is any.
fn kernel_agrees(folder: &Path, cases: &[(Case, &Shape)], degraded_too: bool) {
    let output = relay(
        folder,
        cases.iter().map(|(case, shape)| {
            let body = match (shape.is_redundant(), degraded_too) {
                (true, true) => "without_each $@; start $@; same; scrub /dev/md1",
                (true, false) => "start $@; same; scrub /dev/md1",
                (false, _) => "start $@; same",
            };
            (case, body.to_owned())
        }),
    );
    nothing_disagrees(&output, cases.iter().filter(|(_, shape)| shape.is_redundant()).count());
}

#[test]
fn what_uraid_makes_starts_in_the_kernel_also_without_any_one_member() {
    let folder = tempfile::tempdir().unwrap();
    let mut cases = Vec::new();
    for (number, shape) in RARE.iter().chain(&URAID_ONLY).enumerate() {
        let (name, slots) = (format!("u{number}"), shape.disks - shape.missing);
        let case = Case::new(folder.path(), &name, slots + shape.spares);
        let mut create = shape.begin(&name);
        for (i, path) in case.members.iter().enumerate() {
            let rubbish = pattern(size_of_member(i) as usize, (number * 10 + i) as u64);
            std::fs::write(path, rubbish).unwrap();
            create = if i < slots { create.disk(path) } else { create.spare(path) };
        }
        create = (0..shape.missing).fold(create, |create, _| create.missing());
        let lu = create.make().unwrap_or_else(|error| panic!("{}: {error}", shape.arguments()));
        lu.wait_for_work(&mut |_| true).unwrap();
        let mut model = read_all(&lu);
        scribble(&lu, &mut model, number as u64);
        lu.stop().unwrap();
        case.must_hold(&model);
        all_facts_agree(&case);
        let ctime = inspect(&case.members[0]).unwrap().superblock.ctime;
        assert_eq!(ctime.micros, 0, "the kernel refuses `mdadm --grow` with a time it cannot hold");
        cases.push((case, shape));
    }
    kernel_agrees(folder.path(), &cases, true);
    for (case, _) in &cases {
        let lu = open(&case.members, Access::Read);
        assert!(read_all(&lu) == case.must_hold_what_is_there(), "{}", case.name);
        all_facts_agree(case);
    }
}

#[test]
fn what_the_kernel_makes_is_written_by_uraid() {
    let folder = tempfile::tempdir().unwrap();
    let mut cases = Vec::new();
    for (number, shape) in PLAIN.iter().chain(&RARE).enumerate() {
        let case = Case::new(folder.path(), &format!("k{number}"), shape.disks + shape.spares);
        for (i, path) in case.members.iter().enumerate() {
            make_sparse(path, size_of_member(i));
        }
        cases.push((case, shape));
    }
    relay(
        folder.path(),
        cases.iter().map(|(case, shape)| {
            let agree = if shape.is_redundant() { "--assume-clean" } else { "" };
            let body = format!(
                "create /dev/md1 {} {agree} $@; fill /dev/md1; cp /dev/md1 $content",
                shape.arguments()
            );
            (case, body)
        }),
    );
    for (number, (case, shape)) in cases.iter().enumerate() {
        all_facts_agree(case);
        let mut model = case.must_hold_what_is_there();
        let lu = open(&case.members, Access::Read);
        assert!(read_all(&lu) == model, "{} as the kernel left it", shape.arguments());
        drop(lu);
        let lu = open(&case.members, Access::Write);
        assert_eq!(lu.status().spares, shape.spares);
        scribble(&lu, &mut model, number as u64 + 50);
        assert!(read_all(&lu) == model, "{}", shape.arguments());
        lu.stop().unwrap();
        case.must_hold(&model);
        all_facts_agree(case);
    }
    kernel_agrees(folder.path(), &cases, false);
}

// ---- sudden ends ------------------------------------------------------------------------------------------

/// Set for the child: the members, with commas between.
const CHILD: &str = "URAID_KERNEL_INTEROP_CHILD";

/// Not a test of its own: what [`killed`] starts. Writes the first half, flushes, and goes on with the second
/// until it is killed.
#[test]
#[allow(clippy::print_stderr)] // how it talks to its parent
fn child() {
    let Ok(members) = std::env::var(CHILD) else { return };
    let members: Vec<_> = members.split(',').collect();
    let lu = open(&members, Access::Write);
    let half = (lu.size() / 2) as usize;
    lu.write_at(&pattern(half, 1), 0).unwrap();
    lu.flush().unwrap();
    let second = pattern(half, 2);
    for i in 0usize.. {
        let at = i * 1_299_709 % (half - 9000);
        lu.write_at(&second[at..at + 9000], (half + at) as u64).unwrap();
        if i == 30 {
            eprintln!("\nunder way");
        }
    }
}

/// A process that has the LU open is killed in the middle of writing its second half.
fn killed(case: &Case) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads", "1"])
        .env(CHILD, joined(&case.members, ","))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "under way"), "the child came to nothing");
    std::thread::sleep(Duration::from_millis(15));
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The kernel resyncs what a killed uraid left dirty, refuses where uraid refuses, and finds what was
/// flushed.
#[test]
fn what_a_killed_uraid_leaves_is_resynced_by_the_kernel() {
    let folder = tempfile::tempdir().unwrap();
    let shapes = [
        shape(Level::Raid1, "", 2, 0),
        shape(Level::Raid4, "", 3, 16),
        shape(Level::Raid5, "left-symmetric", 4, 64),
        shape(Level::Raid6, "left-symmetric", 5, 16),
        shape(Level::Raid10, "n2", 4, 64),
        shape(Level::Raid10, "f2", 3, 64),
    ];
    let mut cases = Vec::new();
    for shape in &shapes {
        let case = Case::new(folder.path(), &shape.named("dead"), shape.disks);
        let create = shape.begin("dead").disk_size(12 * MIB);
        let lu = case.members.iter().fold(create, |c, path| c.disk(path)).make().unwrap();
        let half = (lu.size() / 2) as usize;
        lu.stop().unwrap();
        killed(&case);
        assert_eq!(examine(&case.members[0])["State"], "active", "{}", case.name);
        all_facts_agree(&case);
        case.must_hold(&pattern(half, 1));
        cases.push((case, shape, half));
    }
    let output = relay(
        folder.path(),
        cases.iter().map(|(case, shape, half)| {
            // With a member missing, parity may be wrong just where it is needed: neither starts it.
            let refused = assemble(&case.members[1..], Access::Read).err().map(|error| error.kind());
            assert_eq!(refused, shape.has_parity().then_some(ErrorKind::CannotStart), "{}", case.name);
            let degraded = match shape.has_parity() {
                true => "if mdadm --assemble --quiet --run /dev/md1 ${@:2} 2>/dev/null; then exit 1; fi",
                false => "mdadm --assemble --quiet --run --readonly /dev/md1 ${@:2}; same 0 $half",
            };
            let body = format!(
                "half={half}; {degraded}; stop /dev/md1 2>/dev/null || :; dmesg -C; start $@
                 dmesg | grep -q 'not clean -- starting background reconstruction'
                 same 0 $half; scrub /dev/md1; same 0 $half; cp /dev/md1 $content"
            );
            (case, body)
        }),
    );
    nothing_disagrees(&output, cases.len());
    for (case, _, half) in &cases {
        let model = case.must_hold_what_is_there();
        // A write in flight was done, was not done, or was done in part: zeroes or the pattern, byte for
        // byte.
        let (old, new) = (&model[*half..], pattern(*half, 2));
        let done = old.chunks(512).zip(new.chunks(512)).filter(|(old, new)| old == new).count();
        assert!(done > 30 * 16, "{}: 30 writes were acknowledged, {done} sectors are there", case.name);
        let explained = old.iter().zip(&new).all(|(old, new)| old == new || *old == 0);
        assert!(explained, "{}: something that nobody wrote", case.name);
        assert!(read_all(&open(&case.members, Access::Read)) == model, "{}", case.name);
    }
}

/// The guest dies while all its arrays are being written: uraid resyncs, and the next kernel agrees.
#[test]
fn what_a_dead_kernel_leaves_is_resynced_by_uraid() {
    const KNOWN: usize = 3 << 20;
    let folder = tempfile::tempdir().unwrap();
    let arrays = [
        ("--level=1 --bitmap=none", 2),
        ("--level=5 --chunk=64 --bitmap=none", 3),
        ("--level=6 --chunk=16 --bitmap=none", 4),
        ("--level=10 --layout=o2 --chunk=64 --bitmap=none", 3),
        ("--level=5 --chunk=64 --bitmap=internal", 3),
    ];
    let cases: Vec<Case> = (arrays.iter().enumerate())
        .map(|(i, (_, count))| Case::sparse(folder.path(), &format!("plug{i}"), *count, 8 * MIB))
        .collect();
    let content = folder.path().join("known");
    std::fs::write(&content, pattern(KNOWN, 9)).unwrap();
    let mut script = "set -- $DISKS\n".to_owned();
    for (i, (arguments, count)) in arrays.iter().enumerate() {
        writeln!(
            script,
            "create /dev/md{i} --raid-devices={count} --data-offset=1M {arguments} ${{@:1:{count}}}
             shift {count}
             echo 5000 >/sys/block/md{i}/md/safe_mode_delay
             dd if={} of=/dev/md{i} bs=64K conv=notrunc,fsync status=none",
            content.display()
        )
        .unwrap();
    }
    // More is on its way to every one of them when the end comes.
    script += "for i in {0..4}; do \
                   head -c 2M /dev/urandom | dd of=/dev/md$i bs=512 seek=8192 oflag=direct status=none & \
               done; sleep 0.15; echo pulled";
    let guest = cases.iter().flat_map(|case| &case.members).fold(Guest::new(), Guest::disk);
    guest.pull_the_plug().run(&script).success();

    for (case, (arguments, _)) in cases.iter().zip(arrays) {
        assert_eq!(examine(&case.members[0])["State"], "active", "{arguments}");
        all_facts_agree(case);
        let lu = open(&case.members, Access::Write);
        let status = lu.status();
        assert!(status.dirty && status.state == State::Resyncing, "{arguments}: {status:#?}");
        lu.wait_for_work(&mut |work| {
            assert_eq!(work.kind, WorkKind::Resync);
            true
        })
        .unwrap();
        let mut model = read_all(&lu);
        assert!(model[..KNOWN] == pattern(KNOWN, 9), "{arguments}: what was synced is there");
        scribble(&lu, &mut model, 77);
        lu.stop().unwrap();
        case.must_hold(&model);
    }
    let output = relay(
        folder.path(),
        cases.iter().map(|case| (case, "start $@; same; scrub /dev/md1; cp /dev/md1 $content".to_owned())),
    );
    nothing_disagrees(&output, cases.len());
    for case in &cases {
        let lu = open(&case.members, Access::Read);
        assert!(read_all(&lu) == case.must_hold_what_is_there(), "{}", case.name);
    }
}

// ---- in the middle of a resync ----------------------------------------------------------------------------

/// Shapes that resync in different units: member sectors, and LU sectors.
const RESYNCED: [Shape; 5] = [
    shape(Level::Raid1, "", 2, 0),
    shape(Level::Raid5, "left-symmetric", 3, 64),
    shape(Level::Raid6, "right-asymmetric", 4, 16),
    shape(Level::Raid10, "n2", 3, 64),
    shape(Level::Raid10, "f2", 3, 64),
];

const RESYNCED_MEMBER: u64 = 24 * MIB;

/// Places whose content is known although the rest of the LU has never been written.
fn islands(size: usize) -> [Range<usize>; 3] {
    [5000..75_000, size / 2 + 1..size / 2 + 200_001, size - 70_000..size]
}

/// How far the superblocks say that redundancy agrees.
fn checkpoint(case: &Case) -> Sectors {
    inspect(&case.members[0]).unwrap().superblock.resync_offset
}

#[test]
fn the_kernel_goes_on_with_a_resync_that_uraid_began() {
    let folder = tempfile::tempdir().unwrap();
    let content = pattern(60 << 20, 3);
    let mut cases = Vec::new();
    for shape in &RESYNCED {
        let case = Case::new(folder.path(), &shape.named("half"), shape.disks);
        // How fast the machine is shows only on trying.
        let mut head_start = Duration::ZERO;
        let size = (0..12).find_map(|_| {
            fill_with_rubbish(&case, RESYNCED_MEMBER);
            let create = case.members.iter().fold(shape.begin("half"), |c, path| c.disk(path));
            let lu = create.overwrite(true).make().unwrap();
            std::thread::sleep(head_start);
            lu.wait_for_work(&mut |_| false).unwrap();
            let size = lu.size() as usize;
            for island in islands(size) {
                lu.write_at(&content[island.clone()], island.start as u64).unwrap();
            }
            lu.stop().unwrap();
            match checkpoint(&case) {
                Sectors::MAX => head_start /= 2,
                Sectors(0) => head_start += Duration::from_millis(2),
                _ => return Some(size),
            }
            None
        });
        let size = size.unwrap_or_else(|| panic!("{}: never caught in the middle", case.name));
        case.must_hold(&content);
        all_facts_agree(&case);
        cases.push((case, size));
    }
    let checkpoints: Vec<String> = cases.iter().map(|(case, _)| checkpoint(case).0.to_string()).collect();
    let output = relay(
        folder.path(),
        cases.iter().map(|(case, size)| {
            let islands: String =
                islands(*size).iter().map(|range| format!(" {} {}", range.start, range.len())).collect();
            let body = format!(
                "mdadm --assemble --quiet --readonly /dev/md1 $@; echo from $(md resync_start); stop /dev/md1
                 start $@; same {islands}; scrub /dev/md1; same {islands}; cp /dev/md1 $content"
            );
            (case, body)
        }),
    );
    nothing_disagrees(&output, cases.len());
    assert_eq!(output.values("from"), checkpoints, "the kernel goes on where uraid stopped");
    for (case, _) in &cases {
        let lu = open(&case.members, Access::Read);
        assert!(read_all(&lu) == case.must_hold_what_is_there(), "{}", case.name);
    }
}

#[test]
fn uraid_goes_on_with_a_resync_that_the_kernel_began() {
    let folder = tempfile::tempdir().unwrap();
    let content = pattern(60 << 20, 3);
    let mut cases = Vec::new();
    for shape in &RESYNCED {
        let case = Case::new(folder.path(), &shape.named("slow"), shape.disks);
        fill_with_rubbish(&case, RESYNCED_MEMBER);
        case.must_hold(&content);
        cases.push((case, shape));
    }
    let begun = relay(
        folder.path(),
        cases.iter().map(|(case, shape)| {
            // mdadm would rather rebuild a new RAID5 than resync it: --force. The islands hang on the size.
            let body = format!(
                "echo 3000 >/proc/sys/dev/raid/speed_limit_max
                 mdadm --create /dev/md1 --run --quiet --homehost=none --data-offset=1M --force \
                     {} $@ 2>/dev/null
                 size=$(blockdev --getsize64 /dev/md1); echo size $size
                 put 5000 70000; put $((size / 2 + 1)) 200000; put $((size - 70000)) 70000
                 sleep 0.9; echo action $(md sync_action)",
                shape.arguments()
            );
            (case, body)
        }),
    );
    assert_eq!(begun.values("action"), vec!["resync"; cases.len()], "{}", begun.stdout);
    let sizes: Vec<usize> = begun.values("size").iter().map(|size| size.parse().unwrap()).collect();
    for ((case, shape), size) in cases.iter().zip(sizes) {
        let from = checkpoint(case);
        assert!(from.0 > 0 && from != Sectors::MAX, "{}: {from}", case.name);
        all_facts_agree(case);
        let lu = open(&case.members, Access::Write);
        assert_eq!(lu.size(), size as u64);
        let work = lu.status().work.unwrap_or_else(|| panic!("{}: no resync", shape.arguments()));
        assert!(work.kind == WorkKind::Resync && work.done_bytes > 0, "not from the start: {work:?}");
        lu.wait_for_work(&mut |_| true).unwrap();
        assert_eq!(lu.status().state, State::Healthy, "{}", shape.arguments());
        let model = read_all(&lu);
        for island in islands(size) {
            assert!(model[island.clone()] == content[island.clone()], "{} {island:?}", shape.arguments());
        }
        lu.stop().unwrap();
        case.must_hold(&model);
    }
    let output = relay(
        folder.path(),
        cases.iter().map(|(case, _)| {
            (case, "start $@; echo from $(md resync_start); same; scrub /dev/md1".to_owned())
        }),
    );
    assert_eq!(output.values("from"), vec!["none"; cases.len()]);
    nothing_disagrees(&output, cases.len());
}

// ---- members come and go ----------------------------------------------------------------------------------

/// A bitmap that uraid does not keep must never make a member that missed its writes look as if it had not.
#[test]
fn members_lost_under_uraid_are_rebuilt_by_the_kernel_in_full_bitmap_or_not() {
    let folder = tempfile::tempdir().unwrap();
    // Arguments, members, members away while uraid writes.
    let arrays: [(&str, usize, &[usize]); 6] = [
        ("--level=1 --bitmap=internal", 3, &[1]),
        ("--level=5 --chunk=64 --bitmap=internal", 4, &[2]),
        ("--level=6 --chunk=16 --bitmap=internal", 5, &[0, 3]),
        ("--level=10 --layout=n2 --chunk=64 --bitmap=internal", 4, &[0, 3]),
        ("--level=6 --chunk=64 --bitmap=none", 4, &[1, 2]),
        ("--level=1 --bitmap=none", 3, &[0, 2]),
    ];
    let cases: Vec<Case> = (arrays.iter().enumerate())
        .map(|(i, (_, count, _))| Case::sparse(folder.path(), &format!("lost{i}"), *count, 8 * MIB))
        .collect();
    relay(
        folder.path(),
        cases.iter().zip(arrays).map(|(case, (arguments, count, _))| {
            let body = format!(
                "create /dev/md1 {arguments} --raid-devices={count} --data-offset=1M $@
                 fill /dev/md1; cp /dev/md1 $content"
            );
            (case, body)
        }),
    );
    for (number, (case, (arguments, _, away))) in cases.iter().zip(arrays).enumerate() {
        let here = case.members.iter().enumerate().filter(|(i, _)| !away.contains(i));
        let here: Vec<_> = here.map(|(_, path)| path).collect();
        let mut model = case.must_hold_what_is_there();
        let lu = open(&here, Access::Write);
        assert!(read_all(&lu) == model, "{arguments} degraded");
        scribble(&lu, &mut model, number as u64 + 60);
        lu.stop().unwrap();
        case.must_hold(&model);
        // Offered all, uraid leaves them out too.
        let lu = open(&case.members, Access::Read);
        assert!(read_all(&lu) == model, "{arguments}");
        assert_eq!(lu.status().state, State::Degraded, "{arguments}");
    }
    let output = relay(
        folder.path(),
        cases.iter().zip(arrays).map(|(case, (_, _, away))| {
            // As an operator would: those left out are put back, by re-add if the kernel lets them.
            let lost: String = away.iter().map(|i| format!(" ${{{}}}", i + 1)).collect();
            let body = format!(
                "start $@; echo degraded $(md degraded); same
                 for lost in {lost}; do
                     mdadm --quiet /dev/md1 --re-add $lost 2>/dev/null || {{
                         mdadm --quiet --zero-superblock $lost; mdadm --quiet /dev/md1 --add $lost; }}
                 done; settle /dev/md1; echo whole $(md degraded); same; scrub /dev/md1"
            );
            (case, body)
        }),
    );
    nothing_disagrees(&output, cases.len());
    let counts: Vec<String> = arrays.iter().map(|(_, _, away)| away.len().to_string()).collect();
    assert_eq!(output.values("degraded"), counts, "{}", output.stdout);
    assert_eq!(output.values("whole"), vec!["0"; cases.len()], "{}", output.stdout);
    for case in &cases {
        all_facts_agree(case);
        let lu = open(&case.members, Access::Read);
        assert_eq!(lu.status().state, State::Healthy, "{}", case.name);
        assert!(read_all(&lu) == case.must_hold_what_is_there(), "{}", case.name);
    }
}

#[test]
fn a_spare_of_uraid_s_takes_over_in_the_kernel_and_an_added_disk_serves_it() {
    let folder = tempfile::tempdir().unwrap();
    let spared = Case::new(folder.path(), "spared", 4);
    let create = spared.members[..3]
        .iter()
        .fold(Lu::create("spared", Level::Raid5).policy(Policy::None), |c, path| c.disk(path));
    let lu = create.spare(&spared.members[3]).disk_size(24 * MIB).size(6 * MIB).make().unwrap();
    let mut model = read_all(&lu);
    scribble(&lu, &mut model, 1);
    lu.stop().unwrap();
    spared.must_hold(&model);

    let mut added = Case::new(folder.path(), "added", 4);
    let fresh = folder.path().join("added.fresh");
    make_sparse(&fresh, 24 * MIB);
    let create = added
        .members
        .iter()
        .fold(Lu::create("added", Level::Raid10).policy(Policy::None), |c, path| c.disk(path));
    let lu = create.disk_size(24 * MIB).size(6 * MIB).make().unwrap();
    let mut model = read_all(&lu);
    scribble(&lu, &mut model, 2);
    lu.remove(&added.members[1]).unwrap();
    scribble(&lu, &mut model, 3);
    lu.add(&fresh, false).unwrap();
    scribble(&lu, &mut model, 4);
    lu.wait_for_work(&mut |_| true).unwrap();
    assert_eq!(lu.status().state, State::Healthy);
    lu.stop().unwrap();
    added.must_hold(&model);
    // The one that was removed is offered too, and must not be taken.
    added.members.push(fresh);
    all_facts_agree(&added);

    let output = relay(
        folder.path(),
        [
            (
                &spared,
                "start $@; mdadm --quiet /dev/md1 --fail $2; settle /dev/md1; echo whole $(md degraded)
                 same; scrub /dev/md1"
                    .to_owned(),
            ),
            (&added, "start $@; echo whole $(md degraded); same; scrub /dev/md1".to_owned()),
        ],
    );
    nothing_disagrees(&output, 2);
    assert_eq!(output.values("whole"), ["0"; 2], "{}", output.stdout);
    for case in [&spared, &added] {
        let lu = open(&case.members, Access::Read);
        assert!(read_all(&lu) == case.must_hold_what_is_there(), "{}", case.name);
        assert_eq!(lu.status().state, State::Healthy, "{}: {:#?}", case.name, lu.status());
    }
}

#[test]
fn names_and_flags_of_the_kernel_s_outlive_uraid_s_superblocks() {
    let folder = tempfile::tempdir().unwrap();
    let case = Case::sparse(folder.path(), "flagged", 2, 8 * MIB);
    relay(
        folder.path(),
        [(
            &case,
            "mdadm --create /dev/md1 --run --quiet --homehost=box --name=data --level=1 --raid-devices=2 \
                 --bitmap=none --failfast $1 --write-mostly $2
             settle /dev/md1; fill /dev/md1; cp /dev/md1 $content"
                .to_owned(),
        )],
    );
    let flags =
        || case.members.iter().map(|disk| inspect(disk).unwrap().superblock.devflags).collect::<Vec<_>>();
    let before = flags();
    assert!(before[0] != 0 && before[1] != 0 && before[0] != before[1], "{before:?}");
    let mut model = case.must_hold_what_is_there();
    let lu = open(&case.members, Access::Write);
    assert_eq!(lu.name(), "data");
    scribble(&lu, &mut model, 5);
    lu.stop().unwrap();
    case.must_hold(&model);
    assert_eq!(before, flags());
    all_facts_agree(&case);
    assert_eq!(examine(&case.members[0])["Name"], "box:data");
    let body = "start $@; same; scrub /dev/md1; for i in 0 1; do echo state $(md rd$i/state); done";
    let output = relay(folder.path(), [(&case, body.to_owned())]);
    nothing_disagrees(&output, 1);
    let [first, second] = output.values("state")[..] else { panic!("{}", output.stdout) };
    assert!(first.contains("failfast") && second.contains("write_mostly"), "{first} {second}");
}

/// What the rebuild could not read is on the new member's list; the kernel finds the list, and loses nothing
/// else.
#[test]
fn blocks_lost_in_a_rebuild_are_known_to_the_kernel_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let mut case = Case::new(folder.path(), "bad", 3);
    let spare = folder.path().join("bad.spare");
    let handle: Arc<Mutex<Option<Faults>>> = Arc::default();
    let keep = handle.clone();
    let create = case
        .members
        .iter()
        .fold(Lu::create("bad", Level::Raid5).policy(Policy::None), |c, path| c.disk(path));
    let create = create.spare(&spare).disk_size(24 * MIB).size(6 * MIB).through(move |inner| {
        let faulty = Faulty::new(inner, 1);
        *keep.lock().unwrap() = Some(faulty.faults());
        Arc::new(faulty)
    });
    let lu = create.make().unwrap();
    let model = pattern(lu.size() as usize, 4);
    lu.write_at(&model, 0).unwrap();
    lu.flush().unwrap();
    // A page of disk 1 turns out to be unreadable while disk 0 is rebuilt.
    let data = inspect(&case.members[1]).unwrap().superblock.data_offset;
    let page = data.0 + 2048..data.0 + 2056;
    let eio = Fault::new(Effect::Fail(5)).on(DiskId(1)).only(OpKind::Read);
    let eio = eio.within(DiskLba(page.start)..DiskLba(page.end));
    handle.lock().unwrap().as_ref().unwrap().add(eio);
    lu.fail(&case.members[0]).unwrap();
    lu.wait_for_work(&mut |_| true).unwrap();
    lu.stop().unwrap();
    case.members[0] = spare;
    let listed = inspect(&case.members[0]).unwrap().bad_blocks;
    assert_eq!(listed, [(DiskLba(page.start), Sectors(8))], "one page of the new member");
    case.must_hold(&model);
    let output = relay(
        folder.path(),
        [(
            &case,
            // The disks are sound here: parity gives the page back, and writing it empties the list.
            format!(
                "start $@; echo degraded $(md degraded); echo bad $(md rd0/bad_blocks); same
                 put 0 {}; sleep 0.25; echo left $(md rd0/bad_blocks) end; scrub /dev/md1; same",
                model.len()
            ),
        )],
    );
    assert_eq!(output.value("degraded"), "0");
    assert_eq!(output.value("bad"), format!("{} 8", page.start));
    assert_eq!(output.value("left"), "end");
    nothing_disagrees(&output, 1);
    assert!(inspect(&case.members[0]).unwrap().bad_blocks.is_empty());
    assert!(read_all(&open(&case.members[..2], Access::Read)) == model);
}

// ---- the kernel changes what uraid made -------------------------------------------------------------------

/// Nothing that uraid put into or beside the superblock is in the way of what mdadm does to the LU later.
#[test]
fn mdadm_reshapes_grows_and_replaces_what_uraid_made() {
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &str, level, members: usize, spares: usize| {
        let case = Case::sparse(folder.path(), name, members + spares, 64 * MIB);
        let create = case.members[..members]
            .iter()
            .fold(Lu::create(name, level).policy(Policy::None), |c, path| c.disk(path));
        let lu = create.assume_clean(true).size(6 * MIB).make().unwrap();
        let mut model = pattern(lu.size() as usize, members as u64);
        lu.write_at(&model, 0).unwrap();
        scribble(&lu, &mut model, members as u64);
        lu.stop().unwrap();
        case.must_hold(&model);
        (case, members)
    };
    // What is done to them; `$spare` is the member that uraid did not use.
    let changes = [
        (
            make("wider", Level::Raid5, 3, 1),
            "mdadm --quiet /dev/md1 --add $spare; mdadm --quiet --grow /dev/md1 --raid-devices=4
             settle /dev/md1; old
             mdadm --quiet --grow /dev/md1 --bitmap=internal; old; mdadm --quiet --grow /dev/md1 --bitmap=none
             mdadm --quiet --grow /dev/md1 --size=8192",
        ),
        (
            make("mirrored", Level::Raid1, 2, 1),
            "mdadm --quiet /dev/md1 --add $spare; mdadm --quiet --grow /dev/md1 --raid-devices=3
             settle /dev/md1; old
             mdadm --quiet --grow /dev/md1 --size=max",
        ),
        (
            make("replaced", Level::Raid6, 4, 1),
            "mdadm --quiet /dev/md1 --add-spare $spare; mdadm --quiet /dev/md1 --replace $2 --with $spare",
        ),
        (
            make("ten", Level::Raid10, 4, 1),
            "mdadm --quiet /dev/md1 --add $spare; mdadm --quiet --grow /dev/md1 --raid-devices=5",
        ),
        (
            make("chunky", Level::Raid5, 4, 0),
            "mdadm --quiet --grow /dev/md1 --chunk=16; settle /dev/md1; old
             mdadm --quiet --grow /dev/md1 --consistency-policy=ppl; mdadm --quiet --grow /dev/md1 \
                 --consistency-policy=resync",
        ),
    ];
    let output = relay(
        folder.path(),
        changes.iter().map(|((case, members), change)| {
            let body = format!(
                "old() {{ same 0 $(stat -c %s $content); }}; spare=${{@: -1}}; start ${{@:1:{members}}}
                 {change}
                 settle /dev/md1; old; scrub /dev/md1; cp /dev/md1 $content"
            );
            (case, body)
        }),
    );
    nothing_disagrees(&output, changes.len());
    for (number, ((case, _), _)) in changes.iter().enumerate() {
        let mut model = case.must_hold_what_is_there();
        let lu = open(&case.members, Access::Write);
        assert_eq!(lu.status().state, State::Healthy, "{}: {:#?}", case.name, lu.status());
        assert!(read_all(&lu) == model, "{}", case.name);
        scribble(&lu, &mut model, number as u64 + 90);
        lu.stop().unwrap();
        case.must_hold(&model);
        facts_agree(&case.members[0]);
    }
    let output = relay(
        folder.path(),
        changes.iter().map(|((case, _), _)| {
            (case, "start $@; echo whole $(md degraded); same; scrub /dev/md1".to_owned())
        }),
    );
    nothing_disagrees(&output, changes.len());
    assert_eq!(output.values("whole"), vec!["0"; changes.len()]);
}

// ---- larger blocks ----------------------------------------------------------------------------------------

/// Disks with blocks of 4096 bytes: made on this machine's loop devices, and read by the kernel on its own.
#[test]
fn disks_with_blocks_of_4096_bytes_go_both_ways() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let shapes = [
        shape(Level::Raid1, "", 2, 0),
        shape(Level::Raid5, "left-symmetric", 3, 4),
        Shape { minor: Minor::V1_0, ..shape(Level::Raid6, "left-symmetric", 4, 16) },
        shape(Level::Raid10, "n2", 3, 64),
    ];
    let mut cases = Vec::new();
    for (number, shape) in shapes.iter().enumerate() {
        let case = Case::sparse(folder.path(), &format!("large{number}"), shape.disks, 8 * MIB);
        let devices: Vec<_> = case.members.iter().map(|file| LoopDevice::attach(file, 4096)).collect();
        let create = devices.iter().fold(shape.begin("large"), |c, device| c.disk(device.path()));
        let lu = create.assume_clean(true).make().unwrap();
        assert_eq!(lu.block_size(), 4096);
        let mut model = pattern(lu.size() as usize, 6);
        lu.write_at(&model, 0).unwrap();
        scribble(&lu, &mut model, 6);
        lu.stop().unwrap();
        case.must_hold(&model);
        cases.push(case);
    }
    let output = relay(
        folder.path(),
        cases.iter().map(|case| {
            // The loop devices that are there already have blocks of 512 bytes until told otherwise.
            let body = "for loop in $loops; do losetup --sector-size 4096 $loop; done
                        start $@; echo block $(cat /sys/block/md1/queue/logical_block_size); same
                        fill /dev/md1 1; scrub /dev/md1; cp /dev/md1 $content";
            (case, body.to_owned())
        }),
    );
    nothing_disagrees(&output, cases.len());
    assert_eq!(output.values("block"), vec!["4096"; cases.len()]);
    for case in &cases {
        let devices: Vec<_> = case.members.iter().map(|file| LoopDevice::attach(file, 4096)).collect();
        let paths: Vec<_> = devices.iter().map(|device| device.path()).collect();
        assert!(read_all(&open(&paths, Access::Read)) == case.must_hold_what_is_there(), "{}", case.name);
    }
}
