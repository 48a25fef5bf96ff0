//! uraid and the kernel's own md driver agree on every byte, both ways: what one made, wrote, degraded or half rebuilt, the
//! other assembles, reads the same, checks clean and goes on with. The kernel runs as a guest (`tests/kernel/uml`).

#[path = "common/uml.rs"]
mod uml;

#[path = "common/pattern.rs"]
mod pattern;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use pattern::pattern;
use uml::Guest;
use uraid::Lu;
use uraid::disk::DiskId;
use uraid::disk::faulty::{Faults, Faulty};
use uraid::format::superblock::Minor;
use uraid::lu::{Access, Create, State, WorkKind, inspect};
use uraid::units::Level;

const MIB: u64 = 1 << 20;

fn read_all(lu: &Lu) -> Vec<u8> {
    let mut bytes = vec![0; lu.size() as usize];
    lu.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn open<P: AsRef<Path>>(paths: &[P], access: Access) -> Lu {
    let assemble = paths.iter().fold(Lu::assemble(), |a, path| a.disk(path)).access(access).degraded(true);
    assemble.open().unwrap_or_else(|error| panic!("{error}"))
}

/// Writes at offsets of all sorts, keeping `model` in step.
fn scribble(lu: &Lu, model: &mut [u8], seed: u64) {
    let end = model.len();
    let places =
        [(0, 70_000), (4096, 4096), (1, 1), (end / 2 + 511, 300_001), (end - 4097, 4097), (131_070, 3)];
    for (i, (at, len)) in places.into_iter().enumerate() {
        let bytes = pattern(len, seed * 100 + i as u64);
        lu.write_at(&bytes, at as u64).unwrap();
        model[at..at + len].copy_from_slice(&bytes);
    }
}

/// An LU for the kernel to look at: its members' files, and a file with what it must hold.
struct Case {
    name: String,
    members: Vec<PathBuf>,
    redundant: bool,
}

impl Case {
    fn new(folder: &Path, name: &str, count: usize) -> Case {
        let members = (0..count).map(|i| folder.join(format!("{name}.{i}"))).collect();
        Case { name: name.to_owned(), members, redundant: true }
    }

    fn content(&self) -> PathBuf {
        self.members[0].with_extension("content")
    }
}

/// The guest assembles each case, compares every byte, and (where there is redundancy) checks it.
fn kernel_agrees(folder: &Path, cases: &[Case]) {
    let mut script = String::new();
    for case in cases {
        let members: Vec<_> = case.members.iter().map(|path| path.display().to_string()).collect();
        let check = if case.redundant { "scrub /dev/md1" } else { ":" };
        let (name, content) = (&case.name, case.content().display().to_string());
        writeln!(
            script,
            "echo case {name}; loops=$(attach {}); assemble /dev/md1 $loops; cmp /dev/md1 {content}; {check}; \
             stop /dev/md1; detach $loops; echo done {name}",
            members.join(" ")
        )
        .unwrap();
    }
    let output = Guest::new().writable(folder).run(&script).success();
    assert_eq!(output.values("done").len(), cases.len(), "{}\n{}", output.stdout, output.stderr);
    let redundant = cases.iter().filter(|case| case.redundant).count();
    assert_eq!(output.values("mismatch_cnt"), vec!["0"; redundant]);
}

/// What `mdadm --examine` says after `word :`.
fn examined(disk: &Path, word: &str) -> String {
    let output = Command::new("mdadm").arg("--examine").arg(disk).output().expect("mdadm is installed");
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find_map(|line| line.trim().strip_prefix(word)?.trim().strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {word} in\n{text}")).trim().to_owned()
}

struct Shape {
    level: Level,
    layout: &'static str,
    disks: usize,
    missing: usize,
    chunk: u64,
    minor: Minor,
}

const fn shape(level: Level, layout: &'static str, disks: usize, missing: usize, chunk: u64) -> Shape {
    Shape { level, layout, disks, missing, chunk, minor: Minor::V1_2 }
}

const SHAPES: [Shape; 27] = [
    shape(Level::Linear, "", 3, 0, 64),
    shape(Level::Raid0, "", 3, 0, 64),
    shape(Level::Raid0, "", 2, 0, 4),
    shape(Level::Raid1, "", 2, 0, 0),
    shape(Level::Raid1, "", 4, 1, 0),
    shape(Level::Raid4, "", 4, 0, 16),
    shape(Level::Raid4, "", 3, 1, 64),
    shape(Level::Raid5, "left-asymmetric", 4, 0, 64),
    shape(Level::Raid5, "right-asymmetric", 3, 0, 4),
    shape(Level::Raid5, "left-symmetric", 5, 0, 128),
    shape(Level::Raid5, "right-symmetric", 4, 1, 32),
    shape(Level::Raid5, "parity-first", 3, 0, 64),
    shape(Level::Raid5, "parity-last", 4, 0, 8),
    shape(Level::Raid6, "left-asymmetric", 5, 0, 64),
    shape(Level::Raid6, "right-asymmetric", 6, 1, 16),
    shape(Level::Raid6, "left-symmetric", 4, 0, 64),
    shape(Level::Raid6, "right-symmetric", 7, 2, 4),
    shape(Level::Raid6, "parity-first", 5, 0, 64),
    shape(Level::Raid6, "parity-last", 6, 0, 32),
    shape(Level::Raid10, "n2", 4, 0, 64),
    shape(Level::Raid10, "n2", 5, 1, 16),
    shape(Level::Raid10, "f2", 3, 0, 64),
    shape(Level::Raid10, "o2", 4, 0, 4),
    shape(Level::Raid10, "n3", 4, 1, 64),
    Shape { level: Level::Raid1, layout: "", disks: 2, missing: 0, chunk: 0, minor: Minor::V1_0 },
    Shape { level: Level::Raid5, layout: "", disks: 3, missing: 0, chunk: 64, minor: Minor::V1_0 },
    Shape { level: Level::Raid10, layout: "", disks: 4, missing: 0, chunk: 64, minor: Minor::V1_1 },
];

fn begin(shape: &Shape, name: &str) -> Create {
    let mut create = Lu::create(name, shape.level).metadata(shape.minor);
    if shape.chunk > 0 {
        create = create.chunk(shape.chunk << 10);
    }
    if !shape.layout.is_empty() {
        create = create.layout(shape.layout);
    }
    create
}

#[test]
fn the_kernel_opens_what_uraid_made() {
    let folder = tempfile::tempdir().unwrap();
    let mut cases = Vec::new();
    for (number, shape) in SHAPES.iter().enumerate() {
        let name = format!("made{number}");
        let mut case = Case::new(folder.path(), &name, shape.disks - shape.missing);
        let mut create = begin(shape, &name);
        for (i, path) in case.members.iter().enumerate() {
            // Not zeroes, so that the first resync has something to do; unequal where that matters.
            let size = 6 * MIB + i as u64 * 300_032;
            std::fs::write(path, pattern(size as usize, (number * 10 + i) as u64)).unwrap();
            create = create.disk(path);
        }
        create = (0..shape.missing).fold(create, |create, _| create.missing());
        let lu = create.make().unwrap_or_else(|error| panic!("{} {}: {error}", shape.level, shape.layout));
        lu.wait_for_work(&mut |_| true).unwrap();
        let mut model = read_all(&lu);
        scribble(&lu, &mut model, number as u64);
        lu.stop().unwrap();
        std::fs::write(case.content(), &model).unwrap();
        case.redundant = shape.level.md_number() > 0;
        let told = inspect(&case.members[0]).unwrap().superblock;
        assert_eq!(examined(&case.members[0], "Array UUID"), told.set_uuid.to_string());
        assert_eq!(examined(&case.members[0], "Device UUID"), told.device_uuid.to_string());
        assert_eq!(examined(&case.members[0], "Events"), told.events.to_string());
        assert_eq!(examined(&case.members[0], "Version"), shape.minor.to_string());
        assert_eq!(examined(&case.members[0], "State"), "clean");
        assert!(examined(&case.members[0], "Checksum").ends_with("correct"));
        let offset = format!("{} sectors", told.data_offset.0);
        if told.minor != Minor::V1_0 {
            assert_eq!(examined(&case.members[0], "Data Offset"), offset);
        }
        cases.push(case);
    }
    kernel_agrees(folder.path(), &cases);
    for case in &cases {
        let lu = open(&case.members, Access::Read);
        assert!(read_all(&lu) == std::fs::read(case.content()).unwrap(), "{} after the kernel", case.name);
    }
}

#[test]
fn a_large_member_with_a_private_area_is_the_kernel_s_too() {
    let folder = tempfile::tempdir().unwrap();
    let case = Case::new(folder.path(), "large", 3);
    let create = case.members.iter().fold(Lu::create("large", Level::Raid5), |c, path| c.disk(path));
    let lu = create.disk_size(64 * MIB).size(16 * MIB).make().unwrap();
    let mut model = read_all(&lu);
    scribble(&lu, &mut model, 5);
    lu.stop().unwrap();
    std::fs::write(case.content(), &model).unwrap();
    let told = inspect(&case.members[0]).unwrap().superblock;
    assert_eq!(
        (told.data_offset.0, told.bblog_area().unwrap().start.0),
        (8192, 7032),
        "the frozen places for 64 MiB"
    );
    kernel_agrees(folder.path(), &[case]);
}

#[test]
fn uraid_reads_and_writes_what_the_kernel_made() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let made = [
        ("k1", "--level=1 --bitmap=none", 2),
        ("k5", "--level=5 --chunk=64 --bitmap=none", 4),
        ("k5b", "--level=5 --chunk=16 --bitmap=internal", 3),
        ("k6", "--level=6 --chunk=64 --bitmap=none", 5),
        ("k10", "--level=10 --layout=f2 --chunk=64 --bitmap=none", 3),
        ("k0", "--level=0 --chunk=64", 2),
        ("k4", "--level=4 --chunk=32 --bitmap=none", 3),
    ];
    let mut script = String::new();
    let mut cases = Vec::new();
    for (name, arguments, count) in made {
        let mut case = Case::new(dir, name, count);
        case.redundant = name != "k0";
        for path in &case.members {
            std::fs::File::create(path).unwrap().set_len(8 * MIB).unwrap();
        }
        let members: Vec<_> = case.members.iter().map(|p| p.display().to_string()).collect();
        writeln!(
            script,
            "loops=$(attach {}); create /dev/md1 {arguments} --raid-devices={count} $loops; fill /dev/md1; \
             sleep 0.3; cp /dev/md1 {}; stop /dev/md1; detach $loops",
            members.join(" "),
            case.content().display()
        )
        .unwrap();
        cases.push(case);
    }
    Guest::new().writable(dir).run(&script).success();
    for (number, case) in cases.iter().enumerate() {
        let mut model = std::fs::read(case.content()).unwrap();
        let lu = open(&case.members, Access::Read);
        assert!(read_all(&lu) == model, "{} as the kernel left it", case.name);
        drop(lu);
        let lu = open(&case.members, Access::Write);
        scribble(&lu, &mut model, number as u64 + 40);
        assert!(read_all(&lu) == model, "{} as uraid left it", case.name);
        lu.stop().unwrap();
        std::fs::write(case.content(), &model).unwrap();
    }
    kernel_agrees(dir, &cases);
}

#[test]
fn a_file_system_goes_back_and_forth_degraded() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().display();
    let case = Case::new(folder.path(), "fs", 4);
    for path in &case.members {
        std::fs::File::create(path).unwrap().set_len(16 * MIB).unwrap();
    }
    let known = pattern(MIB as usize, 77);
    std::fs::write(folder.path().join("known"), &known).unwrap();
    let members: Vec<_> = case.members.iter().map(|p| p.display().to_string()).collect();
    let members = members.join(" ");
    Guest::new()
        .writable(folder.path())
        .run(&format!(
            "loops=$(attach {members}); set -- $loops
             create /dev/md1 --level=5 --chunk=64 --bitmap=none --raid-devices=4 $loops
             mkfs.ext4 -q -b 4096 /dev/md1; mount /dev/md1 /mnt; cp -r /usr/share/common-licenses {dir}/known /mnt; umount /mnt
             mdadm --quiet /dev/md1 --fail $2; mdadm --quiet /dev/md1 --remove $2; sleep 0.3
             cp /dev/md1 {}; stop /dev/md1; detach $loops",
            case.content().display()
        ))
        .success();
    let mut model = std::fs::read(case.content()).unwrap();
    let lu = open(&case.members, Access::Read);
    assert!(read_all(&lu) == model, "degraded, the failed member among the disks offered");
    assert_eq!(lu.status().state, State::Degraded);
    drop(lu);
    // The file's blocks are where its bytes are.
    let new = pattern(MIB as usize, 78);
    std::fs::write(folder.path().join("known"), &new).unwrap();
    let lu = open(&case.members, Access::Write);
    let mut found = 0;
    for (old, new) in known.chunks(4096).zip(new.chunks(4096)) {
        let at = (0..model.len())
            .step_by(4096)
            .find(|&at| &model[at..at + 4096] == old)
            .expect("a block of the file");
        lu.write_at(new, at as u64).unwrap();
        model[at..at + 4096].copy_from_slice(new);
        found += 1;
    }
    assert_eq!(found, 256);
    lu.stop().unwrap();
    let output = Guest::new()
        .writable(folder.path())
        .run(&format!(
            "loops=$(attach {members}); set -- $loops
             assemble /dev/md1 $1 $3 $4; e2fsck -fn /dev/md1; mount -o ro /dev/md1 /mnt; cmp /mnt/known {dir}/known
             diff -r /usr/share/common-licenses /mnt/common-licenses; umount /mnt
             mdadm --quiet --zero-superblock $2; mdadm --quiet /dev/md1 --add $2; settle /dev/md1; scrub /dev/md1
             stop /dev/md1; detach $loops"
        ))
        .success();
    assert_eq!(output.value("mismatch_cnt"), "0");
    // Rebuilt by the kernel: any other may be away.
    let lu = open(&case.members[1..], Access::Read);
    assert!(read_all(&lu) == model);
}

#[test]
fn what_fails_under_uraid_is_stale_for_the_kernel_and_rebuilt_by_either() {
    let folder = tempfile::tempdir().unwrap();
    let mut cases = Vec::new();
    let mut models = Vec::new();
    for (level, count) in [(Level::Raid1, 3), (Level::Raid5, 4), (Level::Raid6, 5), (Level::Raid10, 4)] {
        let case = Case::new(folder.path(), &format!("f{}", level.md_number()), count);
        let handle: Arc<Mutex<Option<Faults>>> = Arc::default();
        let keep = handle.clone();
        let create = case.members.iter().fold(Lu::create("fails", level), |c, path| c.disk(path));
        let create = create.disk_size(8 * MIB).through(move |inner| {
            let faulty = Faulty::new(inner, 1);
            *keep.lock().unwrap() = Some(faulty.faults());
            Arc::new(faulty)
        });
        let lu = create.make().unwrap();
        let mut model = read_all(&lu);
        scribble(&lu, &mut model, 1);
        handle.lock().unwrap().as_ref().unwrap().set_gone(DiskId(1), true);
        scribble(&lu, &mut model, 2);
        assert_eq!(lu.status().state, State::Degraded, "{level}");
        lu.stop().unwrap();
        std::fs::write(case.content(), &model).unwrap();
        models.push(model);
        cases.push(case);
    }
    let mut script = String::new();
    for case in &cases {
        let members: Vec<_> = case.members.iter().map(|p| p.display().to_string()).collect();
        let content = case.content().display().to_string();
        // All are offered; the one that failed must be left out, and is then added as new.
        writeln!(
            script,
            "loops=$(attach {}); set -- $loops; assemble /dev/md1 $loops; echo degraded $(cat /sys/block/md1/md/degraded); \
             cmp /dev/md1 {content}; mdadm --quiet --zero-superblock $2; mdadm --quiet /dev/md1 --add $2; settle /dev/md1; \
             cmp /dev/md1 {content}; scrub /dev/md1; echo whole $(cat /sys/block/md1/md/degraded); stop /dev/md1; \
             detach $loops",
            members.join(" ")
        )
        .unwrap();
    }
    let output = Guest::new().writable(folder.path()).run(&script).success();
    assert_eq!(output.values("degraded"), vec!["1"; cases.len()], "{}", output.stdout);
    assert_eq!(output.values("whole"), vec!["0"; cases.len()], "{}", output.stdout);
    for (case, model) in cases.iter().zip(&models) {
        assert!(
            read_all(&open(&case.members[1..], Access::Read)) == *model,
            "{} rebuilt by the kernel",
            case.name
        );
    }
}

#[test]
fn the_kernel_finishes_a_rebuild_that_uraid_began_and_the_other_way_round() {
    let folder = tempfile::tempdir().unwrap();
    let mut case = Case::new(folder.path(), "half", 4);
    let spare = folder.path().join("half.spare");
    let create = case.members.iter().fold(Lu::create("half", Level::Raid5), |c, path| c.disk(path));
    let lu = create.spare(&spare).disk_size(48 * MIB).make().unwrap();
    let mut model = read_all(&lu);
    scribble(&lu, &mut model, 3);
    lu.fail(&case.members[2]).unwrap();
    lu.wait_for_work(&mut |work| work.done_bytes < 4 << 20).unwrap();
    lu.stop().unwrap();
    case.members[2] = spare;
    let status = open(&case.members, Access::Read).status();
    assert_eq!(status.state, State::Rebuilding, "{status:#?}");
    std::fs::write(case.content(), &model).unwrap();
    let members: Vec<_> = case.members.iter().map(|p| p.display().to_string()).collect();
    let members = members.join(" ");
    let content = case.content().display().to_string();
    let output = Guest::new()
        .writable(folder.path())
        .run(&format!(
            "loops=$(attach {members}); set -- $loops; assemble /dev/md1 $loops; cmp /dev/md1 {content}; scrub /dev/md1
             echo whole $(cat /sys/block/md1/md/degraded)
             echo 600 >/sys/block/md1/md/sync_speed_max; mdadm --quiet /dev/md1 --fail $1; mdadm --quiet /dev/md1 --remove $1
             mdadm --quiet --zero-superblock $1; mdadm --quiet /dev/md1 --add $1; sleep 1; echo frozen >/sys/block/md1/md/sync_action
             stop /dev/md1; detach $loops"
        ))
        .success();
    assert_eq!(output.value("whole"), "0");
    let lu = open(&case.members, Access::Write);
    assert_eq!(lu.status().state, State::Rebuilding, "{:#?}", lu.status());
    scribble(&lu, &mut model, 4);
    lu.wait_for_work(&mut |_| true).unwrap();
    assert_eq!(lu.status().state, State::Healthy, "{:#?}", lu.status());
    lu.stop().unwrap();
    std::fs::write(case.content(), &model).unwrap();
    kernel_agrees(folder.path(), &[case]);
}

/// The program itself inside the guest, on block devices that fail under it: io_uring and O_DIRECT on another kernel.
/// Every level, handed over half-copied, both ways; the old disk is among those offered all the time.
#[test]
fn the_kernel_finishes_a_replacement_that_uraid_began_and_the_other_way_round() {
    let folder = tempfile::tempdir().unwrap();
    let shapes = [
        (Level::Raid1, "", 2),
        (Level::Raid4, "", 3),
        (Level::Raid5, "left-symmetric", 4),
        (Level::Raid6, "left-symmetric", 5),
        (Level::Raid10, "f2", 3),
    ];
    let mut cases = Vec::new();
    for (level, layout, disks) in shapes {
        let mut case = Case::new(folder.path(), &format!("replace{level}"), disks);
        let [new, newer] = ["new", "newer"].map(|name| folder.path().join(format!("{level}.{name}")));
        for path in [&new, &newer] {
            std::fs::File::create(path).unwrap().set_len(20 * MIB).unwrap();
        }
        let create = case.members.iter().fold(Lu::create("half", level), |c, path| c.disk(path));
        let create = if layout.is_empty() { create } else { create.layout(layout) };
        let lu = create.disk_size(20 * MIB).make().unwrap();
        let mut model = read_all(&lu);
        scribble(&lu, &mut model, 3);
        lu.replace(&case.members[1], &new, false).unwrap();
        // Enough is under way to be found half done.
        lu.wait_for_work(&mut |_| false).unwrap();
        scribble(&lu, &mut model, 5);
        lu.stop().unwrap();
        case.members.push(new);
        let work = open(&case.members, Access::Read).status().work.expect("half copied");
        assert!(work.kind == WorkKind::Replace && work.done_bytes > 0, "{level}: {work:?}");
        std::fs::write(case.content(), &model).unwrap();
        cases.push((case, newer, model, disks));
    }
    // The kernel goes on with what it is given, then begins to replace the next one and is stopped half-way.
    let script: String = cases
        .iter()
        .map(|(case, newer, _, disks)| {
            let members: Vec<_> = case.members.iter().map(|p| p.display().to_string()).collect();
            let (members, newer) = (members.join(" "), newer.display());
            let content = case.content().display().to_string();
            format!(
                "set -- $(attach {members} {newer}); newer=${{@: -1}}; old=$2; first=$1; all=\"${{@:1:$#-1}}\"
                 assemble /dev/md1 $all; cmp /dev/md1 {content}; scrub /dev/md1
                 echo degraded $(cat /sys/block/md1/md/degraded) of $(cat /sys/block/md1/md/raid_disks) {disks}
                 mdadm --examine ${{@: -2:1}} | grep -q 'Active device 1'
                 echo 600 >/sys/block/md1/md/sync_speed_max; echo 500 >/sys/block/md1/md/sync_speed_min
                 mdadm --quiet /dev/md1 --add-spare $newer; mdadm --quiet /dev/md1 --replace $first --with $newer
                 sleep 0.7; echo frozen >/sys/block/md1/md/sync_action; stop /dev/md1; detach $@\n"
            )
        })
        .collect();
    let output = Guest::new().writable(folder.path()).run(&script).success();
    for (value, (case, _, _, disks)) in output.values("degraded").iter().zip(&cases) {
        assert_eq!(*value, format!("0 of {disks} {disks}"), "{:?}", case.members);
    }
    let mut done = Vec::new();
    for (mut case, newer, mut model, disks) in cases {
        // The one that uraid and the kernel replaced together is out.
        case.members.remove(1);
        let mut offered = case.members.clone();
        offered.push(newer.clone());
        let lu = open(&offered, Access::Write);
        let replacing = |work: uraid::lu::Work| work.kind == WorkKind::Replace;
        assert!(lu.status().work.is_some_and(replacing), "{:#?}", lu.status());
        scribble(&lu, &mut model, 4);
        lu.wait_for_work(&mut |_| true).unwrap();
        let status = lu.status();
        assert_eq!(status.state, State::Healthy, "{status:#?}");
        assert!(status.members.iter().any(|m| m.slot == Some(0) && m.disk == newer.display().to_string()));
        lu.stop().unwrap();
        case.members.remove(0);
        case.members.push(newer);
        assert_eq!(case.members.len(), disks);
        std::fs::write(case.content(), &model).unwrap();
        done.push(case);
    }
    kernel_agrees(folder.path(), &done);
}

#[test]
fn a_block_device_dies_under_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let disks: Vec<PathBuf> = (0..4).map(|i| folder.path().join(format!("disk{i}"))).collect();
    for disk in &disks {
        std::fs::File::create(disk).unwrap().set_len(32 * MIB).unwrap();
    }
    let guest = disks.iter().fold(Guest::new().modules("dm-mod,md"), |guest, disk| guest.disk(disk));
    let output = guest
        .run(&format!(
            "uraid={}; export URAID_RUNTIME_DIR=/tmp
             i=0; for d in $DISKS; do
                 dmsetup create m$i --table \"0 $(blockdev --getsz $d) linear $d 0\"; i=$((i+1)); done
             members=/dev/mapper/m0,/dev/mapper/m1,/dev/mapper/m2,/dev/mapper/m3
             $uraid create guest --level 5 ${{members//,/ }} -q
             head -c 60M /dev/urandom >/tmp/data
             (head -c 20M /tmp/data; sleep 1; tail -c +20971521 /tmp/data) | $uraid write $members -q & writer=$!
             sleep 0.6
             dmsetup suspend --noflush m1; dmsetup load m1 --table '0 65536 error'; dmsetup resume m1
             wait $writer && echo writer $?
             $uraid status $members --json | grep -o '\"state\": *\"degraded\"' | head -1
             $uraid read /dev/mapper/m0,/dev/mapper/m2,/dev/mapper/m3 --length 60M | cmp - /tmp/data && echo same yes
             mdadm --assemble --quiet --run /dev/md1 /dev/mapper/m0 /dev/mapper/m2 /dev/mapper/m3
             cmp -n 62914560 /dev/md1 /tmp/data && echo kernel same; stop /dev/md1",
            env!("CARGO_BIN_EXE_uraid")
        ))
        .success();
    assert_eq!(output.value("writer"), "0", "{}\n{}", output.stdout, output.stderr);
    assert_eq!(output.value("same"), "yes");
    assert_eq!(output.value("kernel"), "same", "{}\n{}", output.stdout, output.stderr);
}

// ---- the partial parity log -------------------------------------------------------------------------------------------

/// The child: writes without an end, until it is killed.
#[test]
fn ppl_writer() {
    let Ok(paths) = std::env::var("URAID_PPL_WRITER") else { return };
    let paths: Vec<PathBuf> = std::env::split_paths(&paths).collect();
    let lu = open(&paths, Access::Write);
    let size = lu.size();
    for n in 0.. {
        // There is something in the log by now: without a record the kernel could only resync.
        if n == 16 {
            std::fs::write(paths[0].with_extension("ready"), "").unwrap();
        }
        // Small ones, long ones, unaligned ones, full stripes.
        let len = [4096, 12_288, 70_000, 512, 300_000][n as usize % 5];
        let at = n * 0x9e37_79b9 % (size / 2 - len as u64) / 512 * 512;
        lu.write_at(&pattern(len, n), at).unwrap();
    }
}

/// Starts the writer on `paths` and kills it in the middle.
fn write_and_kill(paths: &[PathBuf]) {
    let ready = paths[0].with_extension("ready");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ppl_writer", "--nocapture"])
        .env("URAID_PPL_WRITER", std::env::join_paths(paths).unwrap())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while !ready.exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    std::thread::sleep(std::time::Duration::from_millis(500));
    child.kill().unwrap();
    child.wait().unwrap();
    std::fs::remove_file(ready).unwrap();
}

/// What uraid left dirty the kernel replays, with all members and with one lost; what it then reads is what uraid reads.
#[test]
fn the_kernel_replays_the_log_of_a_killed_uraid() {
    let folder = tempfile::tempdir().unwrap();
    let mut cases = Vec::new();
    for (number, (disks, lost)) in [(3, None), (4, Some(0)), (4, Some(2)), (4, None)].into_iter().enumerate()
    {
        let mut case = Case::new(folder.path(), &format!("ppl{number}"), disks);
        let create = Lu::create("ppl", Level::Raid5).policy(uraid::lu::Policy::Ppl).chunk(16 << 10);
        let create = case.members.iter().fold(create.disk_size(8 * MIB), |c, path| c.disk(path));
        create.make().unwrap().stop().unwrap();
        write_and_kill(&case.members);
        assert!(Lu::assemble().beside(&case.members[0]).look().unwrap().dirty);
        if let Some(lost) = lost {
            std::fs::remove_file(case.members.remove(lost)).unwrap();
        }
        let lu = open(&case.members, Access::Read);
        std::fs::write(case.content(), read_all(&lu)).unwrap();
        case.redundant = lost.is_none();
        cases.push(case);
    }
    let mut script = String::new();
    for case in &cases {
        let members: Vec<_> = case.members.iter().map(|path| path.display().to_string()).collect();
        // A check counts what a resync would have mended: there must not be one.
        let check = if case.redundant { "scrub /dev/md1" } else { ":" };
        writeln!(
            script,
            "echo case {}; loops=$(attach {}); mdadm --assemble --run --quiet /dev/md1 $loops; \
             echo action $(cat /sys/block/md1/md/sync_action) $(cat /sys/block/md1/md/consistency_policy); \
             cmp /dev/md1 {}; {check}; stop /dev/md1; detach $loops; echo done",
            case.name,
            members.join(" "),
            case.content().display()
        )
        .unwrap();
    }
    let output = Guest::new().writable(folder.path()).run(&script).success();
    assert_eq!(output.values("action"), vec!["idle ppl"; cases.len()], "{}", output.stdout);
    assert_eq!(output.values("mismatch_cnt"), ["0", "0"], "{}", output.stdout);
    for case in &cases {
        let lu = open(&case.members, Access::Write);
        assert!(read_all(&lu) == std::fs::read(case.content()).unwrap(), "{} after the kernel", case.name);
        lu.stop().unwrap();
    }
}

/// An LU made with a log by either side is used by both in turn; a kernel that dies leaves a log that uraid replays.
#[test]
fn logs_go_both_ways_and_uraid_replays_the_kernel_s() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Case::new(folder.path(), "ours", 3);
    let create = Lu::create("ppl", Level::Raid5).policy(uraid::lu::Policy::Ppl);
    let create = ours.members.iter().fold(create.disk_size(8 * MIB), |c, path| c.disk(path));
    let lu = create.make().unwrap();
    let mut model = read_all(&lu);
    scribble(&lu, &mut model, 3);
    lu.stop().unwrap();
    std::fs::write(ours.content(), &model).unwrap();
    assert_eq!(examined(&ours.members[0], "PPL"), "2048 sectors at offset 8 sectors from superblock");
    kernel_agrees(folder.path(), std::slice::from_ref(&ours));

    // One for each of the two, made by mdadm and not started, and started and dying under load.
    let theirs: Vec<Case> = ["single", "multiple"].map(|n| Case::new(folder.path(), n, 3)).into();
    for path in theirs.iter().flat_map(|case| &case.members) {
        std::fs::File::create(path).unwrap().set_len(8 * MIB).unwrap();
    }
    let list = |case: &Case| {
        case.members.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
    };
    let script = format!(
        "make() {{ mdadm --create --run --quiet --assume-clean --consistency-policy=ppl -l 5 -n 3 -c 16 \
             --homehost=any -N x /dev/md1 $1; }}
         loops=$(attach {}); make \"$loops\"; dd if={} of=/dev/md1 bs=64K conv=fsync status=none; stop /dev/md1; \
             detach $loops
         loops=$(attach {}); make \"$loops\"; dd if={} of=/dev/md1 bs=64K conv=fsync status=none
         (while :; do dd if=/dev/urandom of=/dev/md1 bs=4K count=1 seek=$((RANDOM % 1000)) oflag=direct conv=notrunc \
             status=none; done) &
         sleep 3; echo dying",
        list(&theirs[0]),
        ours.content().display(),
        list(&theirs[1]),
        ours.content().display(),
    );
    let output = Guest::new().writable(folder.path()).pull_the_plug().run(&script);
    assert!(output.stdout.contains("dying"), "{}{}", output.stdout, output.stderr);
    let dirty = &theirs[1].members;
    let status = Lu::assemble().beside(&dirty[0]).look().unwrap();
    assert!(status.dirty && status.refusal.is_none(), "{status:#?}");
    for lost in 0..3 {
        let rest: Vec<_> = (0..3).filter(|&i| i != lost).map(|i| dirty[i].clone()).collect();
        let all = read_all(&open(&rest, Access::Read));
        // Nobody wrote behind the first 4000 KiB.
        let size = model.len().min(all.len());
        assert!(all[4000 << 10..size] == model[4000 << 10..size], "without {lost}");
    }
    let lu = open(dirty, Access::Write);
    assert_eq!(lu.status().work, None, "no resync");
    let mut model = read_all(&lu);
    scribble(&lu, &mut model, 4);
    lu.stop().unwrap();
    std::fs::write(theirs[1].content(), &model).unwrap();
    let lu = open(&theirs[0].members, Access::Write);
    let mut model = read_all(&lu);
    scribble(&lu, &mut model, 5);
    lu.stop().unwrap();
    std::fs::write(theirs[0].content(), &model).unwrap();
    kernel_agrees(folder.path(), &theirs);
}
