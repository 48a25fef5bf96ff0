//! Chains: an LU lives through twenty random operations, each done by uraid or by the kernel's md, whoever's turn it is.
//! After each its content is compared; at the end all redundancy must agree (the kernel's own check) and every byte must be
//! there without each single member.
//!
//! ```text
//! cargo test --test chains                                  six chains
//! cargo test --test chains -- --chains 200 --seed 1000      two hundred others
//! cargo test --test chains -- --seed 7 --show               the script of one
//! ```
//!
//! A chain is made from its seed alone: the same seed is the same chain. It becomes one script that runs in one guest, where
//! both sides work on the same block devices, one after the other. [`Model`] knows what must be true; it never asks.

#[path = "common/pattern.rs"]
mod pattern;
#[path = "common/uml.rs"]
mod uml;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use pattern::pattern;
use uml::Guest;

const OPERATIONS: usize = 20;
/// Disks at hand: members, a spare, and some to come.
const DISKS: usize = 9;
const DISK_BYTES: u64 = 20 << 20;
const NOISE: usize = 1 << 20;

/// Words of the guest's script. `$content` is what the LU must hold, `$noise` where written bytes come from.
const WORDS: &str = r#"
export URAID_RUNTIME_DIR=/tmp/run; mkdir -p /tmp/run
d=($DISKS)
fast() { echo 200000 >/proc/sys/dev/raid/speed_limit_max; echo 100000 >/proc/sys/dev/raid/speed_limit_min; }
slow() { echo 300 >/proc/sys/dev/raid/speed_limit_max; echo 200 >/proc/sys/dev/raid/speed_limit_min; }
slice() { dd if=$noise iflag=skip_bytes,count_bytes skip=$1 count=$2 bs=64K status=none; }
at() { echo $(($1 % (size - $2))); } # RANDOM LENGTH: where a write of this length goes
note() { slice $2 $3 | dd of=$content oflag=seek_bytes seek=$1 conv=notrunc bs=64K status=none; }
kernel_write() { slice $2 $3 | dd of=/dev/md1 oflag=seek_bytes seek=$1 conv=notrunc,fsync bs=64K status=none; note $@; }
uraid_write() { local lu=$1; shift; slice $2 $3 | $uraid write $lu --offset $1 -q; note $@; }
kernel_same() { cmp /dev/md1 $content; }
uraid_same() { $uraid read $1 -q 2>/tmp/said | cmp - $content || { cat /tmp/said >&2; return 1; }; }
up() { mdadm --assemble --run --quiet /dev/md1 $@; }
down() { local n; for n in 1 2 3 4 5 6; do mdadm --stop --quiet /dev/md1 2>/dev/null && return; sleep 0.2; done; mdadm --stop /dev/md1; }
lacks() { [[ $(</sys/block/md1/md/degraded) == $1 ]] || { cat /proc/mdstat >&2; return 1; }; }
is() { $uraid status $1 --json | grep -q "\"state\": *\"$2\"" || { $uraid status $1 -v >&2; return 1; }; }
ends() { local want=$1 rc=0; shift; "$@" || rc=$?; ((rc == want)) || { echo "exit $rc, not $want: $*" >&2; return 1; }; }
"#;

/// A small generator: a seed must mean the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// What a disk is to the LU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Disk {
    /// Nothing of the LU is on it that counts.
    Blank,
    /// Was a member; its superblock may say that it still is.
    Former,
    Spare,
    /// Fills a slot and has all of it.
    Whole(usize),
    /// Is being rebuilt, or is a spare that takes over whenever the LU is next open for writing.
    Filling(usize),
    /// Is to replace the slot's disk.
    Twin(usize),
}

#[derive(Clone, Copy)]
struct Shape {
    level: &'static str,
    layout: &'static str,
    slots: usize,
    /// How many slots may be empty.
    budget: usize,
}

const SHAPES: [Shape; 14] = [
    Shape { level: "1", layout: "", slots: 2, budget: 1 },
    Shape { level: "1", layout: "", slots: 3, budget: 2 },
    Shape { level: "4", layout: "", slots: 4, budget: 1 },
    Shape { level: "5", layout: "left-symmetric", slots: 3, budget: 1 },
    Shape { level: "5", layout: "left-symmetric", slots: 5, budget: 1 },
    Shape { level: "5", layout: "right-asymmetric", slots: 4, budget: 1 },
    Shape { level: "5", layout: "parity-first", slots: 4, budget: 1 },
    Shape { level: "6", layout: "left-symmetric", slots: 5, budget: 2 },
    Shape { level: "6", layout: "right-symmetric", slots: 4, budget: 2 },
    Shape { level: "10", layout: "n2", slots: 4, budget: 1 },
    Shape { level: "10", layout: "n2", slots: 5, budget: 1 },
    Shape { level: "10", layout: "f2", slots: 3, budget: 1 },
    Shape { level: "10", layout: "o2", slots: 4, budget: 1 },
    Shape { level: "10", layout: "n3", slots: 4, budget: 2 },
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Uraid,
    Kernel,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operation {
    Write,
    Fail,
    Remove,
    Add,
    Replace,
    /// Opens and stops it somewhere in the middle of what is to be rebuilt.
    Part,
    Finish,
    Check,
    /// A member is not offered.
    Lose,
}

/// What must be true, and the script that is made from it.
struct Model {
    random: Random,
    shape: Shape,
    disks: [Disk; DISKS],
    script: String,
}

impl Model {
    fn new(seed: u64) -> Model {
        let mut random = Random(seed);
        let shape = random.pick(&SHAPES);
        Model { random, shape, disks: [Disk::Blank; DISKS], script: String::new() }
    }

    fn say(&mut self, text: impl AsRef<str>) {
        self.script.push_str(text.as_ref());
        self.script.push('\n');
    }

    // --- what there is --------------------------------------------------------------------------------------------

    fn find(&self, test: impl Fn(Disk) -> bool) -> Vec<usize> {
        (0..DISKS).filter(|&disk| test(self.disks[disk])).collect()
    }

    fn empty_slots(&self) -> Vec<usize> {
        let fills = |slot, disk: &Disk| *disk == Disk::Whole(slot) || *disk == Disk::Filling(slot);
        (0..self.shape.slots).filter(|&slot| !self.disks.iter().any(|disk| fills(slot, disk))).collect()
    }

    fn filling(&self) -> Vec<usize> {
        self.find(|disk| matches!(disk, Disk::Filling(_)))
    }

    fn twin(&self) -> Option<(usize, usize)> {
        self.disks.iter().enumerate().find_map(|(disk, state)| match state {
            Disk::Twin(slot) => Some((disk, *slot)),
            _ => None,
        })
    }

    fn used(&self) -> Vec<usize> {
        self.find(|disk| !matches!(disk, Disk::Blank | Disk::Former))
    }

    fn path(disk: usize) -> String {
        format!("${{d[{disk}]}}")
    }

    fn devices(&self) -> String {
        self.used().into_iter().map(Model::path).collect::<Vec<_>>().join(" ")
    }

    /// The LU for uraid: its members in any order, now and then also disks that were members once.
    fn lu(&mut self) -> String {
        let mut all = self.used();
        if self.random.one_in(3) {
            all.extend(self.find(|disk| disk == Disk::Former));
        }
        for i in (1..all.len()).rev() {
            all.swap(i, self.random.below(i + 1));
        }
        all.into_iter().map(Model::path).collect::<Vec<_>>().join(",")
    }

    /// Whoever opens the LU for writing lets a spare take over.
    fn opened(&mut self) {
        if !self.filling().is_empty() {
            return;
        }
        if let (Some(&slot), Some(&spare)) =
            (self.empty_slots().first(), self.find(|disk| disk == Disk::Spare).first())
        {
            self.disks[spare] = Disk::Filling(slot);
        }
    }

    /// The slot's disk is out; what was to replace it has the slot.
    fn lose(&mut self, slot: usize) {
        for disk in &mut self.disks {
            match *disk {
                Disk::Whole(of) if of == slot => *disk = Disk::Former,
                Disk::Twin(of) if of == slot => *disk = Disk::Filling(slot),
                _ => {}
            }
        }
    }

    fn finished(&mut self) {
        if let Some((_, slot)) = self.twin() {
            for disk in &mut self.disks {
                match *disk {
                    Disk::Whole(of) if of == slot => *disk = Disk::Former,
                    Disk::Twin(of) => *disk = Disk::Whole(of),
                    _ => {}
                }
            }
        }
        while let Some(&disk) = self.filling().first() {
            if let Disk::Filling(slot) = self.disks[disk] {
                self.disks[disk] = Disk::Whole(slot);
            }
            self.opened();
        }
    }

    // --- operations -----------------------------------------------------------------------------------------------

    fn create(&mut self) {
        let Shape { level, layout, slots, .. } = self.shape;
        let spare = self.random.one_in(3);
        let chunk = self.random.pick(&[4, 16, 64]);
        let metadata = self.random.pick(&["1.2", "1.2", "1.2", "1.1", "1.0"]);
        let members = (0..slots).map(Model::path).collect::<Vec<_>>().join(" ");
        (0..slots).for_each(|slot| self.disks[slot] = Disk::Whole(slot));
        if spare {
            self.disks[slots] = Disk::Spare;
        }
        let chunked = level != "1";
        if self.random.one_in(2) {
            let chunk = if chunked { format!("--chunk {chunk}K") } else { String::new() };
            let layout = if layout.is_empty() { String::new() } else { format!("--layout {layout}") };
            let spare = if spare { format!("--spare {}", Model::path(slots)) } else { String::new() };
            self.say(format!(
                "op create by uraid level {level} {layout} metadata {metadata} {spare}
                 $uraid create chain --level {level} {layout} {chunk} --metadata {metadata} --size 6M --policy none \
                 {members} {spare} -q"
            ));
        } else {
            let chunk = if chunked { format!("--chunk={chunk}") } else { String::new() };
            let layout = if layout.is_empty() { String::new() } else { format!("--layout={layout}") };
            let spares =
                if spare { format!("--spare-devices=1 {}", Model::path(slots)) } else { String::new() };
            self.say(format!(
                "op create by mdadm level {level} {layout} metadata {metadata} {spares}
                 mdadm --create /dev/md1 --run --quiet --homehost=none --name=chain --level={level} {layout} {chunk} \
                 --metadata={metadata} --size=6144 --raid-devices={slots} {members} {spares}
                 settle /dev/md1; down"
            ));
        }
        let lu = self.lu();
        self.say(format!("size=$($uraid read {lu} -q | wc -c); truncate -s $size $content; uraid_same {lu}"));
    }

    fn possible(&self, operation: Operation) -> bool {
        let (empty, filling, twin) = (self.empty_slots().len(), self.filling().len(), self.twin());
        let spares = self.find(|disk| disk == Disk::Spare).len();
        let fresh = self.find(|disk| matches!(disk, Disk::Blank | Disk::Former)).len();
        match operation {
            Operation::Write | Operation::Finish => true,
            // Which of several failures a spare takes first is nobody's promise.
            Operation::Fail | Operation::Lose => filling == 0 && twin.is_none() && empty < self.shape.budget,
            Operation::Remove => spares > 0 && empty == 0,
            Operation::Add => fresh > 0 && spares == 0 && filling == 0 && twin.is_none(),
            Operation::Replace => empty == 0 && filling == 0 && twin.is_none() && (fresh > 0 || spares > 0),
            Operation::Part => filling > 0 || twin.is_some(),
            Operation::Check => empty == 0 && filling == 0 && twin.is_none(),
        }
    }

    fn operate(&mut self, operation: Operation, side: Side) {
        match side {
            Side::Kernel => self.by_kernel(operation),
            Side::Uraid => self.by_uraid(operation),
        }
        let lu = self.lu();
        self.say(format!("uraid_same {lu}"));
    }

    fn random_write(&mut self) -> String {
        let aligned = self.random.one_in(2);
        let most = if self.random.one_in(4) { 900_000 } else { 40_000 };
        let length = 1 + self.random.below(most);
        let length = if aligned { length.next_multiple_of(4096) } else { length };
        let (place, from) = (self.random.next() >> 20, self.random.below(NOISE - length));
        let place = if aligned { place / 4096 * 4096 } else { place };
        format!("$(at {place} {length}) {from} {length}")
    }

    fn some_slot(&mut self) -> (usize, usize) {
        let whole = self.find(|disk| matches!(disk, Disk::Whole(_)));
        let disk = self.random.pick(&whole);
        let Disk::Whole(slot) = self.disks[disk] else { unreachable!("just looked") };
        (disk, slot)
    }

    fn fresh_disk(&mut self) -> usize {
        let fresh = self.find(|disk| matches!(disk, Disk::Blank | Disk::Former));
        self.random.pick(&fresh)
    }

    fn by_uraid(&mut self, operation: Operation) {
        let lu = self.lu();
        self.say(format!("op {operation:?} by uraid"));
        match operation {
            Operation::Write => {
                for _ in 0..1 + self.random.below(3) {
                    let write = self.random_write();
                    self.say(format!("uraid_write {lu} {write}"));
                }
                self.opened();
            }
            Operation::Fail => {
                let (disk, slot) = self.some_slot();
                let path = Model::path(disk);
                self.say(format!("$uraid fail {lu} {path} -q"));
                self.lose(slot);
                self.opened();
                if self.random.one_in(2) {
                    let lu = format!("{},{path}", self.devices().replace(' ', ","));
                    self.say(format!("$uraid remove {lu} {path} -q"));
                }
            }
            Operation::Remove => {
                let spare = self.find(|disk| disk == Disk::Spare)[0];
                self.say(format!("$uraid spare remove {lu} {} -q", Model::path(spare)));
                self.disks[spare] = Disk::Blank;
            }
            Operation::Add => {
                let disk = self.fresh_disk();
                let verb = if self.random.one_in(2) { "add" } else { "spare add" };
                self.say(format!("$uraid {verb} {lu} {} --confirm chain -q", Model::path(disk)));
                self.disks[disk] = Disk::Spare;
                self.opened();
            }
            Operation::Replace => {
                let (disk, slot) = self.some_slot();
                let spare = self.find(|disk| disk == Disk::Spare).first().copied();
                let new = spare.unwrap_or_else(|| self.fresh_disk());
                let command = format!(
                    "$uraid replace {lu} {} {} --confirm chain -q",
                    Model::path(disk),
                    Model::path(new)
                );
                self.disks[new] = Disk::Twin(slot);
                if self.random.one_in(2) {
                    self.say(command);
                    self.finished();
                } else {
                    // Interrupted, wherever it is; it may have come to its end, too.
                    let time = 4 + self.random.below(6);
                    self.say(format!("timeout -s INT 0.0{time} {command} || :"));
                    // What came of it is not known; whoever goes on makes it whole.
                    let lu = self.devices().replace(' ', ",");
                    let (old, new) = (Model::path(disk), Model::path(new));
                    self.say(format!("$uraid replace {lu} {old} {new} --confirm chain -q 2>/dev/null || $uraid rebuild {lu} -q"));
                    self.finished();
                }
            }
            Operation::Part => {
                self.opened();
                let time = 2 + self.random.below(8);
                self.say(format!("timeout -s INT 0.0{time} $uraid rebuild {lu} -q || :"));
            }
            Operation::Finish | Operation::Check => {
                self.opened();
                self.finished();
                let lu = self.lu();
                let (rc, state) =
                    if self.empty_slots().is_empty() { (0, "healthy") } else { (1, "degraded") };
                self.say(format!("ends {rc} $uraid rebuild {lu} -q 2>/dev/null; is {lu} {state}"));
            }
            Operation::Lose => {
                let (_, slot) = self.some_slot();
                self.lose(slot);
                let lu = self.devices().replace(' ', ",");
                let write = self.random_write();
                self.say(format!(
                    "set -- {write}; ends 6 $uraid write {lu} --offset $1 -i $noise -q 2>/dev/null
                     slice $2 $3 | $uraid write {lu} --degraded --offset $1 -q; note $@"
                ));
                self.opened();
            }
        }
    }

    fn by_kernel(&mut self, operation: Operation) {
        self.say(format!("op {operation:?} by the kernel"));
        if operation == Operation::Lose {
            let (_, slot) = self.some_slot();
            self.lose(slot);
        }
        if operation == Operation::Part {
            self.say("slow");
        }
        let devices = self.devices();
        self.say(format!("up {devices}"));
        self.opened();
        match operation {
            Operation::Write | Operation::Lose => {
                for _ in 0..1 + self.random.below(3) {
                    let write = self.random_write();
                    self.say(format!("kernel_write {write}"));
                }
            }
            Operation::Fail => {
                let (disk, slot) = self.some_slot();
                let path = Model::path(disk);
                self.say(format!("mdadm --quiet /dev/md1 --fail {path}"));
                if self.random.one_in(2) {
                    self.say(format!("sleep 0.1; mdadm --quiet /dev/md1 --remove {path}"));
                }
                self.lose(slot);
                self.opened();
            }
            Operation::Remove => {
                let spare = self.find(|disk| disk == Disk::Spare)[0];
                self.say(format!("mdadm --quiet /dev/md1 --remove {}", Model::path(spare)));
                self.disks[spare] = Disk::Former;
            }
            Operation::Add => {
                let disk = self.fresh_disk();
                let path = Model::path(disk);
                self.say(format!("mdadm --quiet --zero-superblock {path} 2>/dev/null || :; mdadm --quiet /dev/md1 --add {path}"));
                self.disks[disk] = Disk::Spare;
                self.opened();
            }
            Operation::Replace => {
                let (disk, slot) = self.some_slot();
                let spare = self.find(|disk| disk == Disk::Spare).first().copied();
                let new = spare.unwrap_or_else(|| self.fresh_disk());
                let (old, path) = (Model::path(disk), Model::path(new));
                if spare.is_none() {
                    self.say(format!(
                        "mdadm --quiet --zero-superblock {path} 2>/dev/null || :; mdadm --quiet /dev/md1 --add-spare {path}"
                    ));
                }
                let part = self.random.one_in(2);
                if part {
                    self.say("slow");
                }
                self.say(format!("mdadm --quiet /dev/md1 --replace {old} --with {path}"));
                self.disks[new] = Disk::Twin(slot);
                if part {
                    self.say("sleep 0.3; echo frozen >/sys/block/md1/md/sync_action");
                } else {
                    self.say("settle /dev/md1");
                    self.finished();
                }
            }
            Operation::Part => {
                let write = self.random_write();
                self.say(format!(
                    "sleep 0.2; kernel_write {write}; echo frozen >/sys/block/md1/md/sync_action"
                ));
            }
            Operation::Finish => {
                self.finished();
                self.say(format!("settle /dev/md1; lacks {}", self.empty_slots().len()));
            }
            Operation::Check => self.say("settle /dev/md1; scrub /dev/md1"),
        }
        self.say("kernel_same; down; fast");
    }

    /// Redundancy in full, seen by both sides, and every byte without each single member.
    fn end(&mut self) {
        self.opened();
        let devices = self.devices();
        self.say(format!("op the end\nup {devices}; settle /dev/md1"));
        self.finished();
        while !self.empty_slots().is_empty() {
            let disk = self.fresh_disk();
            let path = Model::path(disk);
            self.say(format!(
                "mdadm --quiet --zero-superblock {path} 2>/dev/null || :; mdadm --quiet /dev/md1 --add {path}; settle /dev/md1"
            ));
            self.disks[disk] = Disk::Spare;
            self.opened();
            self.finished();
        }
        self.say("lacks 0; scrub /dev/md1; kernel_same; down");
        let lu = self.lu();
        self.say(format!("is {lu} healthy"));
        let members = self.find(|disk| matches!(disk, Disk::Whole(_)));
        for &away in &members {
            let Disk::Whole(slot) = self.disks[away] else { continue };
            let rest: Vec<_> =
                members.iter().filter(|&&disk| disk != away).map(|&disk| Model::path(disk)).collect();
            let path = Model::path(away);
            self.say(format!(
                "uraid_same {}; mdadm --examine {path} | grep -q 'Active device {slot}$'
                 $uraid inspect {path} | grep -q 'active device {slot}$'",
                rest.join(",")
            ));
        }
    }
}

fn chain(seed: u64) -> String {
    let mut model = Model::new(seed);
    model.create();
    let kinds = [
        Operation::Write,
        Operation::Write,
        Operation::Fail,
        Operation::Remove,
        Operation::Add,
        Operation::Add,
        Operation::Replace,
        Operation::Part,
        Operation::Part,
        Operation::Finish,
        Operation::Check,
        Operation::Lose,
    ];
    for _ in 0..OPERATIONS {
        let side = if model.random.one_in(2) { Side::Uraid } else { Side::Kernel };
        let possible: Vec<Operation> = kinds.iter().copied().filter(|kind| model.possible(*kind)).collect();
        let operation = model.random.pick(&possible);
        model.operate(operation, side);
    }
    model.end();
    model.script
}

/// Runs one chain; what went wrong, if it did.
fn run(seed: u64) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let mut guest = Guest::new().writable(folder.path()).seconds(180);
    for disk in 0..DISKS {
        let path = folder.path().join(format!("disk{disk}"));
        std::fs::File::create(&path).unwrap().set_len(DISK_BYTES).unwrap();
        guest = guest.disk(path);
    }
    let noise = folder.path().join("noise");
    std::fs::write(&noise, pattern(NOISE, seed)).unwrap();
    let content = folder.path().join("content");
    let uraid = env!("CARGO_BIN_EXE_uraid");
    let script = format!(
        "uraid={uraid}; noise={}; content={}\n{WORDS}\nop() {{ echo \"op $*\"; }}\nfast\n{}",
        noise.display(),
        content.display(),
        chain(seed)
    );
    let output = guest.run(&script);
    if output.status == 0 {
        return Ok(());
    }
    let mut text = format!("chain {seed} failed, status {}:\n", output.status);
    let operations: Vec<&str> = output.stdout.lines().filter(|line| line.starts_with("op ")).collect();
    operations.iter().for_each(|operation| writeln!(text, "  {operation}").expect("text takes all"));
    let last: Vec<&str> = output.stderr.lines().rev().take(40).collect();
    last.iter().rev().for_each(|line| writeln!(text, "    {line}").expect("text takes all"));
    text += &format!("again: cargo test --test chains -- --chains 1 --seed {seed}\n");
    Err(text)
}

/// The word behind `--NAME`.
fn argument(name: &str) -> Option<u64> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name).skip(1);
    arguments.next().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} takes a number, not {text}")))
}

#[allow(clippy::print_stdout, clippy::print_stderr)] // a test program of its own
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // What the other test programs are told, cargo tells this one too.
    if arguments.iter().any(|argument| argument == "--list") {
        println!("chains: test");
        return ExitCode::SUCCESS;
    }
    let filter = arguments.first().filter(|argument| !argument.starts_with('-'));
    if filter.is_some_and(|filter| !"chains".contains(filter.as_str())) {
        return ExitCode::SUCCESS;
    }
    let (first, count) = (argument("--seed").unwrap_or(1), argument("--chains").unwrap_or(6));
    if arguments.iter().any(|argument| argument == "--show") {
        println!("{}", chain(first));
        return ExitCode::SUCCESS;
    }
    let (next, failures) = (AtomicU64::new(first), Mutex::new(Vec::new()));
    let begin = std::time::Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    match run(seed) {
                        Ok(()) => println!("chain {seed} ok"),
                        Err(text) => {
                            eprintln!("{text}");
                            failures.lock().unwrap().push(seed);
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    println!(
        "chains: {count} run in {} s, {} failed {failures:?}",
        begin.elapsed().as_secs(),
        failures.len()
    );
    ExitCode::from(u8::from(!failures.is_empty()))
}
