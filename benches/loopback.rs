//! The common loads on LUs of four disks, each measured against the disks themselves in the same run, as a
//! table in Markdown: `cargo bench --bench loopback`. `uraid bench` does the work.
//!
//! Three set-ups: disks in memory (what uraid itself costs), files in memory (`/dev/shm`, plain system calls),
//! and, as root, loop devices over such files, which go through io_uring. `-- memory`, `-- files` or `-- loops`
//! picks one. Pin it (`taskset -c 1`) for the first two, and leave it both cores for the third.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a table is what it is for")]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Bytes of each disk.
const DISK: u64 = 1 << 30;

/// What is measured: the level's arguments, the load's.
const LOADS: &[(&str, &str)] = &[
    ("--level 0", "--rw randread"),
    ("--level 5", "--rw randread"),
    ("--level 10", "--rw randread"),
    ("--level 0", "--rw randwrite"),
    ("--level 1 --disks 2", "--rw randwrite"),
    ("--level 10", "--rw randwrite"),
    ("--level 5", "--rw randwrite"),
    ("--level 5 --policy bitmap", "--rw randwrite"),
    ("--level 5 --policy ppl", "--rw randwrite"),
    ("--level 6", "--rw randwrite"),
    ("--level 0", "--rw read --bs 768K --depth 8"),
    ("--level 5", "--rw read --bs 768K --depth 8"),
    ("--level 0", "--rw write --bs 768K --depth 8"),
    ("--level 5", "--rw write --bs 768K --depth 8"),
    ("--level 5 --policy ppl", "--rw write --bs 768K --depth 8"),
    ("--level 5", "--rw write"),
    ("--level 5 --degraded", "--rw randread"),
    ("--level 5 --degraded", "--rw read --bs 768K --depth 8"),
    ("--level 0", "--rw randread --depth 1"),
    ("--level 1 --disks 2", "--rw randwrite --depth 1"),
];

fn main() {
    // Built, but not run, with the tests.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    // Cargo passes flags of its own.
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|argument| argument == name);
    if wants("memory") {
        table("Disks in memory", |_| "--memory --disk-size 256M".to_owned());
    }
    if wants("files") {
        table("Files in /dev/shm", |_| format!("--disks-in /dev/shm --disk-size {DISK}"));
    }
    if wants("loops") {
        match Loops::set_up(Path::new("/dev/shm"), 4) {
            Ok(loops) => {
                table("Loop devices over files in /dev/shm, direct I/O", |disks| loops.arguments(disks))
            }
            Err(why) => eprintln!("loop devices left out: {why}"),
        }
    }
}

fn table(title: &str, place: impl Fn(usize) -> String) {
    println!("\n### {title}\n");
    println!(
        "| LU | load | raw read | raw write | LU, requests/s | of the limit | disk reads, writes, flushes | CPU ns | p50, p99 us |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (level, load) in LOADS {
        let disks = if level.contains("--disks 2") { 2 } else { 4 };
        // Given disks are counted by themselves.
        let place = place(disks);
        let level = if place.contains("--on") { level.replace("--disks 2", "") } else { level.to_string() };
        match run(&format!("bench {place} {level} {load} --runtime 500ms --rounds 5 --quiet --json")) {
            Ok(document) => println!("{}", row(&level, load, &document)),
            Err(why) => println!("| {level} | {load} | failed: {why} |"),
        }
    }
}

fn run(line: &str) -> Result<Value, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_uraid"));
    let output = command.args(line.split_whitespace()).output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
}

fn row(level: &str, load: &str, document: &Value) -> String {
    let thousands = |of: &Value| match of["requests_per_second"]["median"].as_f64() {
        Some(requests) => format!("{:.1}k", requests / 1e3),
        None => "-".to_owned(),
    };
    let figure = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let (ratio, operations) = (&document["ratio_to_limit"], &document["disk_operations_per_request"]);
    let latency = &document["latency_ns"];
    format!(
        "| {} | {} | {} | {} | {} | {:.2} ({:.2} to {:.2}) | {:.2}, {:.2}, {:.2} | {:.0} | {:.1}, {:.1} |",
        level.replace("--", ""),
        load.replace("--", ""),
        thousands(&document["raw_read"]),
        thousands(&document["raw_write"]),
        thousands(&document["measured"]),
        figure(&ratio["median"]),
        figure(&ratio["least"]),
        figure(&ratio["most"]),
        figure(&operations["reads"]),
        figure(&operations["writes"]),
        figure(&operations["flushes"]),
        figure(&document["cpu_ns_per_request"]),
        figure(&latency["p50"]) / 1e3,
        figure(&latency["p99"]) / 1e3,
    )
}

/// Loop devices over files, gone when dropped.
struct Loops {
    devices: Vec<PathBuf>,
    files: Vec<PathBuf>,
}

impl Loops {
    fn set_up(folder: &Path, count: usize) -> Result<Loops, String> {
        let mut loops = Loops { devices: Vec::new(), files: Vec::new() };
        for n in 0..count {
            let path = folder.join(format!("uraid-loopback-{}-{n}", std::process::id()));
            let file = std::fs::File::create(&path).map_err(|error| error.to_string())?;
            loops.files.push(path.clone());
            file.set_len(DISK).map_err(|error| error.to_string())?;
            let output = Command::new("losetup")
                .args(["--find", "--show", "--direct-io=on"])
                .arg(&path)
                .output()
                .map_err(|error| format!("losetup: {error}"))?;
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
            }
            loops.devices.push(String::from_utf8_lossy(&output.stdout).trim().into());
        }
        Ok(loops)
    }

    fn arguments(&self, count: usize) -> String {
        let devices: Vec<String> =
            self.devices.iter().take(count).map(|device| device.display().to_string()).collect();
        format!("--on {} --confirm bench", devices.join(","))
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        for device in &self.devices {
            // Nothing else can be done about one that stays.
            let _ = Command::new("losetup").arg("--detach").arg(device).status();
        }
        for file in &self.files {
            let _ = std::fs::remove_file(file);
        }
    }
}
