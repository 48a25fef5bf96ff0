//! uraid and the kernel's md driver follow each other's write-intent bitmaps: what one leaves dirty the other
//! resyncs where it is marked, and a member that one has set aside the other brings up to date with what it
//! missed. The kernel runs as a guest (`tests/kernel/uml`); how much it reads of each member tells what it
//! resynced.

#[path = "common/uml.rs"]
mod uml;

#[path = "common/pattern.rs"]
mod pattern;

use std::fmt::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use pattern::pattern;
use uml::{Guest, Output};
use uraid::Lu;
use uraid::lu::{Access, Policy, State, WorkKind, inspect};
use uraid::units::Level;

const MIB: u64 = 1 << 20;

/// What one bit stands for here, and the size of a member.
const CHUNK: u32 = 1 << 20;
const MEMBER: u64 = 64 * MIB;

const LEVELS: [(Level, usize); 5] =
    [(Level::Raid1, 2), (Level::Raid4, 3), (Level::Raid5, 4), (Level::Raid6, 5), (Level::Raid10, 4)];

/// `reads LOOP...`: KiB read from them since they were attached.
const WORDS: &str = "reads() { local d sum=0 n; for d in $@; do
     read -r _ _ n _ </sys/block/${d##*/}/stat; sum=$((sum + n / 2)); done; echo $sum; }
";

struct Case {
    level: Level,
    members: Vec<PathBuf>,
    content: PathBuf,
    model: Vec<u8>,
}

impl Case {
    /// Made by uraid, half full of known bytes, stopped clean.
    fn new(folder: &Path, level: Level, count: usize) -> Case {
        let file = |i: usize| folder.join(format!("{level}.{i}"));
        let members: Vec<PathBuf> = (0..count).map(file).collect();
        let create = members.iter().fold(Lu::create("marks", level), |create, path| create.disk(path));
        let lu = create.policy(Policy::Bitmap).bitmap_chunk(CHUNK).disk_size(MEMBER).make().unwrap();
        let mut case =
            Case { level, members, content: folder.join(format!("{level}.content")), model: Vec::new() };
        case.model = vec![0; lu.size() as usize];
        case.write(&lu, 0, lu.size() as usize / 2, 1);
        lu.stop().unwrap();
        case
    }

    fn write(&mut self, lu: &Lu, at: usize, len: usize, seed: u64) {
        let bytes = pattern(len, seed);
        lu.write_at(&bytes, at as u64).unwrap();
        self.model[at..at + len].copy_from_slice(&bytes);
    }

    fn save(&self) {
        std::fs::write(&self.content, &self.model).unwrap();
    }

    fn must_hold_the_model(&self) {
        let lu = open(&self.members, Access::Read);
        let mut bytes = vec![0; self.model.len()];
        lu.read_at(&mut bytes, 0).unwrap();
        assert!(bytes == self.model, "{}", self.level);
    }

    /// `body` with the members attached as `$@`.
    fn script(&self, body: &str) -> String {
        let members: Vec<_> = self.members.iter().map(|path| path.display().to_string()).collect();
        let (members, content) = (members.join(" "), self.content.display());
        let level = self.level;
        format!(
            "echo case {level}; loops=$(attach {members}); set -- $loops; content={content}
             {body}\ndetach $loops\n"
        )
    }
}

fn open(paths: &[PathBuf], access: Access) -> Lu {
    let assemble = paths.iter().fold(Lu::assemble(), |assemble, path| assemble.disk(path));
    assemble.access(access).degraded(true).open().unwrap_or_else(|error| panic!("{error}"))
}

fn run(folder: &Path, cases: &[Case], body: &str) -> Output {
    let scripts: String = cases.iter().map(|case| case.script(body)).collect();
    Guest::new().writable(folder).run(&(WORDS.to_owned() + &scripts)).success()
}

fn numbers(output: &Output, word: &str) -> Vec<u64> {
    output.values(word).iter().map(|value| value.parse().unwrap()).collect()
}

#[test]
fn mdadm_reads_the_bitmap_and_the_kernel_goes_on_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let cases: Vec<Case> =
        LEVELS.iter().map(|&(level, count)| Case::new(folder.path(), level, count)).collect();
    cases.iter().for_each(Case::save);
    let told: Vec<_> = cases.iter().map(|case| inspect(&case.members[0]).unwrap()).collect();
    // (A copy in a file it would take for a bitmap kept in a file.)
    let body = r"mdadm --examine-bitmap $1 | sed -nE 's/^ *(UUID|Events|State|Chunksize|Bitmap) : /\1 /p'
         mdadm --examine-bitmap $1 | grep -v Filename >/tmp/first
         mdadm --examine-bitmap $2 | grep -v Filename | cmp - /tmp/first
         assemble /dev/md1 $@; cmp /dev/md1 $content; scrub /dev/md1
         grep -c bitmap: /proc/mdstat | sed 's/^/bitmaps /'
         dd if=/dev/urandom of=/dev/md1 bs=4096 count=10 seek=100 conv=notrunc,fsync status=none
         cp /dev/md1 $content; stop /dev/md1";
    let output = run(folder.path(), &cases, body);
    assert_eq!(output.values("mismatch_cnt"), vec!["0"; cases.len()], "{}", output.stdout);
    assert_eq!(output.values("bitmaps"), vec!["1"; cases.len()], "{}", output.stdout);
    for (i, told) in told.iter().enumerate() {
        let (superblock, bitmap) = (&told.superblock, told.bitmap.as_ref().unwrap().as_ref().unwrap());
        assert_eq!(output.values("UUID")[i], superblock.set_uuid.to_string());
        assert_eq!(output.values("Events")[i], superblock.events.to_string(), "{}", superblock.level);
        assert_eq!(output.values("State")[i], "OK");
        assert!(output.values("Chunksize")[i].starts_with("1 MB"), "{}", output.stdout);
        assert_eq!(output.values("Bitmap")[i], format!("{} bits (chunks), 0 dirty (0.0%)", bitmap.bits));
    }
    for mut case in cases {
        case.model = std::fs::read(&case.content).unwrap();
        case.must_hold_the_model();
        let status = open(&case.members, Access::Read).status();
        assert_eq!((status.state, status.policy), (State::Healthy, Policy::Bitmap), "{}", case.level);
    }
}

/// The members' bytes while the LU is marked dirty. That these `bytes` are written again and again, as they are, keeps it so, however
/// slowly the members can be read.
fn images_while_dirty(case: &Case, lu: &Lu, bytes: Range<usize>) -> Vec<Vec<u8>> {
    // Events and `resync_offset`, in the superblock.
    let state = |image: &Vec<u8>| image[4096 + 200..4096 + 216].to_vec();
    let again = || lu.write_at(&case.model[bytes.clone()], bytes.start as u64).unwrap();
    again();
    std::thread::scope(|scope| {
        // The writer ends when this goes, however that comes.
        let (_writing, stopped) = mpsc::channel::<()>();
        scope.spawn({
            let again = &again;
            move || {
                while stopped.recv_timeout(Duration::from_millis(10)) == Err(RecvTimeoutError::Timeout) {
                    again();
                }
            }
        });
        loop {
            let images: Vec<Vec<u8>> = case.members.iter().map(|path| std::fs::read(path).unwrap()).collect();
            // (The writer may have been kept waiting for long.)
            if lu.status().dirty && images.iter().all(|image| state(image) == state(&images[0])) {
                return images;
            }
        }
    })
}

#[test]
fn the_kernel_resyncs_what_uraid_left_dirty_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let mut cases: Vec<Case> =
        LEVELS.iter().map(|&(level, count)| Case::new(folder.path(), level, count)).collect();
    for case in &mut cases {
        let lu = open(&case.members, Access::Write);
        // As a kill leaves the members; and where the last one holds no data, or a copy, its write was lost.
        case.write(&lu, 5_000_000, 100_000, 2);
        lu.flush().unwrap();
        let mut images = images_while_dirty(case, &lu, 5_000_000..5_100_000);
        lu.stop().unwrap();
        let start = inspect(&case.members[0]).unwrap().superblock.data_offset.bytes() as usize;
        let last = images.last_mut().unwrap();
        match case.level {
            Level::Raid1 => last[start + 5_000_192..][..4096].fill(0x77),
            Level::Raid4 => last[start + 5_000_000 / (2 * 65536) * 65536..][..4096].fill(0x77),
            _ => {}
        }
        for (path, image) in case.members.iter().zip(images) {
            std::fs::write(path, image).unwrap();
        }
        case.save();
    }
    let body = "before=$(reads $@); assemble /dev/md1 $@; echo resynced $(($(reads $@) - before))
         cmp /dev/md1 $content; scrub /dev/md1; stop /dev/md1";
    let output = run(folder.path(), &cases, body);
    assert_eq!(output.values("mismatch_cnt"), vec!["0"; cases.len()], "{}", output.stdout);
    for (case, kib) in cases.iter().zip(numbers(&output, "resynced")) {
        // One chunk, or two, of every member; metadata; what the kernel reads ahead.
        let most = case.members.len() as u64 * 6 * 1024;
        assert!(kib < most, "{}: {kib} KiB were read", case.level);
        case.must_hold_the_model();
    }
}

#[test]
fn uraid_resyncs_what_the_kernel_left_dirty_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let mut cases: Vec<Case> =
        LEVELS[..4].iter().map(|&(level, count)| Case::new(folder.path(), level, count)).collect();
    let mut script = String::from("set -- $DISKS\n");
    for (i, case) in cases.iter_mut().enumerate() {
        let count = case.members.len();
        let (at, bytes) = (20 << 20, pattern(3 << 16, 50 + i as u64));
        case.model[at..at + bytes.len()].copy_from_slice(&bytes);
        std::fs::write(&case.content, &bytes).unwrap();
        writeln!(
            script,
            "mdadm --assemble --quiet /dev/md{i} ${{@:1:{count}}}; shift {count}
             echo 5000 >/sys/block/md{i}/md/safe_mode_delay
             dd if={} of=/dev/md{i} bs=64K seek=320 conv=notrunc,fsync status=none",
            case.content.display()
        )
        .unwrap();
    }
    let guest = cases.iter().flat_map(|case| &case.members).fold(Guest::new(), Guest::disk);
    guest.pull_the_plug().run(&script).success();
    for case in &cases {
        let look =
            case.members[1..].iter().fold(Lu::assemble().disk(&case.members[0]), |a, path| a.disk(path));
        let status = look.look().unwrap();
        let (work, bitmap) = (status.work.expect("a resync"), status.bitmap.unwrap());
        assert_eq!(work.kind, WorkKind::Resync, "{}", case.level);
        assert!(bitmap.chunks > 0 && work.total_bytes <= 2 * MIB, "{}: {work:?} {bitmap:?}", case.level);
        let lu = open(&case.members, Access::Write);
        lu.wait_for_work(&mut |_| true).unwrap();
        assert_eq!(lu.status().state, State::Healthy, "{}", case.level);
        lu.stop().unwrap();
        case.must_hold_the_model();
        case.save();
    }
    let body = "assemble /dev/md1 $@; cmp /dev/md1 $content; scrub /dev/md1; stop /dev/md1";
    let output = run(folder.path(), &cases, body);
    assert_eq!(output.values("mismatch_cnt"), vec!["0"; cases.len()], "{}", output.stdout);
}

#[test]
fn a_member_the_kernel_removed_is_given_by_uraid_what_it_missed() {
    let folder = tempfile::tempdir().unwrap();
    let mut cases: Vec<Case> =
        LEVELS.iter().map(|&(level, count)| Case::new(folder.path(), level, count)).collect();
    let body = "assemble /dev/md1 $@; mdadm --quiet /dev/md1 --fail $2; mdadm --quiet /dev/md1 --remove $2
         dd if=/dev/urandom of=/dev/md1 bs=64K count=5 seek=37 conv=notrunc,fsync status=none; sleep 0.3
         cp /dev/md1 $content; stop /dev/md1";
    run(folder.path(), &cases, body);
    for case in &mut cases {
        case.model = std::fs::read(&case.content).unwrap();
        let lu = open(&case.members, Access::Write);
        assert_eq!(lu.status().state, State::Degraded, "{}", case.level);
        case.write(&lu, 11 << 20, 70_000, 9);
        lu.add(&case.members[1], false).unwrap();
        lu.wait_for_work(&mut |_| true).unwrap();
        let status = lu.status();
        assert_eq!(status.state, State::Healthy, "{}: {status:#?}", case.level);
        let told = status.warnings.iter().find(|text| text.contains("had to be copied"));
        let told = told.unwrap_or_else(|| panic!("{}: {status:#?}", case.level));
        let copied: u64 =
            told.split_whitespace().find_map(|word| word.parse().ok().filter(|&n| n > 9)).unwrap();
        assert!(copied <= 6 * MIB, "{}: {told}", case.level);
        lu.stop().unwrap();
        case.save();
    }
    let body = "assemble /dev/md1 $@; echo degraded $(cat /sys/block/md1/md/degraded); cmp /dev/md1 $content
         scrub /dev/md1; stop /dev/md1";
    let output = run(folder.path(), &cases, body);
    assert_eq!(output.values("mismatch_cnt"), vec!["0"; cases.len()], "{}", output.stdout);
    assert_eq!(output.values("degraded"), vec!["0"; cases.len()], "{}", output.stdout);
}

#[test]
fn a_member_uraid_failed_is_given_by_the_kernel_what_it_missed() {
    let folder = tempfile::tempdir().unwrap();
    let mut cases: Vec<Case> =
        LEVELS.iter().map(|&(level, count)| Case::new(folder.path(), level, count)).collect();
    for case in &mut cases {
        let lu = open(&case.members, Access::Write);
        case.write(&lu, 3 << 20, 70_000, 3);
        lu.fail(&case.members[1]).unwrap();
        case.write(&lu, 12 << 20, 70_000, 4);
        lu.stop().unwrap();
        let lu = open(&case.members, Access::Write);
        case.write(&lu, 9 << 20, 4096, 5);
        lu.stop().unwrap();
        case.save();
    }
    let body = "left=; i=0; for d in $@; do i=$((i+1)); ((i == 2)) || left+=\" $d\"; done
         assemble /dev/md1 $left; before=$(reads $@); mdadm --quiet /dev/md1 --re-add $2; settle /dev/md1
         echo copied $(($(reads $@) - before)); echo degraded $(cat /sys/block/md1/md/degraded)
         cmp /dev/md1 $content; scrub /dev/md1; stop /dev/md1";
    let output = run(folder.path(), &cases, body);
    assert_eq!(output.values("mismatch_cnt"), vec!["0"; cases.len()], "{}", output.stdout);
    assert_eq!(output.values("degraded"), vec!["0"; cases.len()], "{}", output.stdout);
    for (case, kib) in cases.iter().zip(numbers(&output, "copied")) {
        let most = case.members.len() as u64 * 8 * 1024;
        assert!(kib < most, "{}: {kib} KiB were read", case.level);
        case.must_hold_the_model();
        assert_eq!(open(&case.members, Access::Read).status().state, State::Healthy, "{}", case.level);
    }
}
