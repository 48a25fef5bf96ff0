//! Online under fire: eight clients write and read all the time, each sector checked, while disks fail, spares take
//! over, the server is killed and started again; and a member that hangs.
//!
//! What is checked: an acknowledged write survives the death of the server, flushed or not, since what is written to a
//! file or device survives the process that wrote it; a write without an answer leaves, per sector, old or new, and
//! what was read once stays. `URAID_FIRE_SECONDS` says how long each LU is under fire, `URAID_FIRE_SEED` how it
//! begins: `./test --fire MINUTES [SEED]` sets both.
#![cfg(feature = "cli")]
#![allow(clippy::print_stdout)] // what it did belongs into its output

#[path = "common/bench.rs"]
mod bench;
#[path = "common/export.rs"]
mod export;
#[path = "common/register.rs"]
mod register;

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::ops::{Deref, Range};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use export::Export;
use register::{Common, Own, SECTOR, ZERO, stamped};
use serde_json::Value;
use uraid::serve::nbd::wire::{self, Command, Errno, Request, flag, option};

/// Clients at a time.
const CLIENTS: u64 = 8;

/// Requests of one client under way.
const WINDOW: usize = 8;

/// Sectors that belong to one client.
const REGION: u64 = 4096;

/// Sectors that belong to all of them, behind the regions.
const COMMON: u64 = 512;

/// How soon a server that is started again has to serve. (A build without optimisation, on a machine that does other
/// things, too.)
const SOON: Duration = Duration::from_secs(2);

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n.max(1)
    }
}

/// What all clients and their master share.
#[derive(Default)]
struct Field {
    common: Common,
    halt: AtomicBool,
    violations: Mutex<Vec<String>>,
    requests: AtomicU64,
    flushes: AtomicU64,
}

impl Field {
    fn violated(&self, what: String) {
        self.violations.lock().unwrap().push(what);
        self.halt.store(true, Ordering::SeqCst);
    }

    fn is_over(&self) -> bool {
        self.halt.load(Ordering::SeqCst)
    }
}

/// What a client has asked for.
enum Asked {
    Write(Range<u64>, u64),
    Read(Range<u64>),
    WriteCommon(Range<u64>, u64),
    ReadCommon(Range<u64>, u64),
    Flush,
}

/// A client, over all its connections.
struct Client {
    field: Arc<Field>,
    path: PathBuf,
    number: u64,
    own: Own,
    random: Random,
    next: u64,
}

impl Client {
    fn new(field: &Arc<Field>, path: PathBuf, number: u64, seed: u64) -> Client {
        let region = number * REGION..(number + 1) * REGION;
        let (own, random) = (Own::new(region), Random(seed ^ number << 32));
        Client { field: field.clone(), path, number, own, random, next: 1 }
    }

    /// Connects again and again until the field is cleared.
    fn live(mut self) -> Own {
        while !self.field.is_over() {
            match self.connect().and_then(|stream| self.serve_out(stream)) {
                Ok(()) => break,
                // The server is gone, or not there yet.
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        }
        self.own
    }

    fn connect(&self) -> io::Result<UnixStream> {
        let mut stream = UnixStream::connect(&self.path)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.read_exact(&mut [0; 18])?;
        stream.write_all(&3u32.to_be_bytes())?;
        let go =
            [&wire::OPTION_MAGIC.to_be_bytes()[..], &option::EXPORT_NAME.to_be_bytes(), &[0; 4]].concat();
        stream.write_all(&go)?;
        stream.read_exact(&mut [0; 10])?;
        Ok(stream)
    }

    /// One connection, to its end. What was under way stays open in the registers.
    fn serve_out(&mut self, mut stream: UnixStream) -> io::Result<()> {
        let mut asked: HashMap<u64, Asked> = HashMap::new();
        // All of it first: what an earlier connection left open is settled by that.
        let all = self.number * REGION..(self.number + 1) * REGION;
        self.send(&mut stream, &mut asked, Command::Read, 0, Asked::Read(all))?;
        loop {
            while asked.len() < WINDOW && !self.field.is_over() && !self.settles(&asked) {
                self.ask(&mut stream, &mut asked)?;
            }
            if asked.is_empty() {
                let bye = Request { flags: 0, command: Command::Disconnect, cookie: 0, offset: 0, length: 0 };
                return stream.write_all(&bye.emit());
            }
            self.hear(&mut stream, &mut asked)?;
        }
    }

    /// Is the first read still under way?
    fn settles(&self, asked: &HashMap<u64, Asked>) -> bool {
        asked.values().any(|asked| matches!(asked, Asked::Read(range) if range.end - range.start == REGION))
    }

    fn ask(&mut self, stream: &mut UnixStream, asked: &mut HashMap<u64, Asked>) -> io::Result<()> {
        let kind = self.random.below(20);
        let fua = if self.random.below(4) == 0 { flag::FUA } else { 0 };
        let value = (self.number + 1) | (self.next << 8);
        if (14..18).contains(&kind) {
            let block = CLIENTS * REGION + self.random.below(COMMON / 8) * 8;
            let range = block..block + 8;
            return match kind {
                14 | 15 => self.send(stream, asked, Command::Write, fua, Asked::WriteCommon(range, value)),
                _ => {
                    let start = self.field.common.now();
                    self.send(stream, asked, Command::Read, 0, Asked::ReadCommon(range, start))
                }
            };
        }
        if kind >= 18 {
            return self.send(stream, asked, Command::Flush, 0, Asked::Flush);
        }
        let longest = [8, 8, 40, 600][self.random.below(4) as usize];
        let start = self.number * REGION + self.random.below(REGION - longest);
        let range = start..start + 1 + self.random.below(longest);
        let meets = |other: &Asked| match other {
            Asked::Write(other, _) | Asked::Read(other) => other.start < range.end && range.start < other.end,
            _ => false,
        };
        if asked.values().any(meets) {
            return Ok(());
        }
        match kind {
            0..7 => self.send(stream, asked, Command::Write, fua, Asked::Write(range, value)),
            7 => self.send(stream, asked, Command::WriteZeroes, fua, Asked::Write(range, ZERO)),
            _ => self.send(stream, asked, Command::Read, 0, Asked::Read(range)),
        }
    }

    fn send(
        &mut self,
        stream: &mut UnixStream,
        asked: &mut HashMap<u64, Asked>,
        command: Command,
        flags: u16,
        what: Asked,
    ) -> io::Result<()> {
        let (cookie, none) = (self.next, 0..0);
        self.next += 1;
        let range = match &what {
            Asked::Write(range, _) | Asked::Read(range) => range,
            Asked::WriteCommon(range, _) | Asked::ReadCommon(range, _) => range,
            Asked::Flush => &none,
        };
        let (offset, length) = (range.start * SECTOR as u64, (range.end - range.start) * SECTOR as u64);
        let mut bytes = Request { flags, command, cookie, offset, length }.emit().to_vec();
        match &what {
            Asked::Write(range, value) => {
                self.own.begin(range.clone(), *value);
                if command == Command::Write {
                    bytes.extend(stamped(range.clone(), *value));
                }
            }
            Asked::WriteCommon(range, value) => {
                self.field.common.begin(range.clone(), *value);
                bytes.extend(stamped(range.clone(), *value));
            }
            _ => {}
        }
        let stable = u64::from(command == Command::Flush || flags & flag::FUA != 0);
        self.field.flushes.fetch_add(stable, Ordering::Relaxed);
        asked.insert(cookie, what);
        stream.write_all(&bytes)
    }

    fn hear(&mut self, stream: &mut UnixStream, asked: &mut HashMap<u64, Asked>) -> io::Result<()> {
        let mut head = [0; 16];
        stream.read_exact(&mut head)?;
        let error = u32::from_be_bytes(head[4..8].try_into().unwrap());
        let cookie = u64::from_be_bytes(head[8..].try_into().unwrap());
        let Some(what) = asked.remove(&cookie) else {
            self.field.violated(format!("an answer to nothing: {cookie}"));
            return Ok(());
        };
        if error == Errno::Shutdown as u32 {
            // It goes, and has not done this. (Only a stop that is meant says so.)
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if error != 0 {
            self.field.violated(format!("client {}: error {error}", self.number));
            return Ok(());
        }
        self.field.requests.fetch_add(1, Ordering::Relaxed);
        let mut data = |range: &Range<u64>| {
            let mut bytes = vec![0; (range.end - range.start) as usize * SECTOR];
            stream.read_exact(&mut bytes).map(|()| bytes)
        };
        let checked = match what {
            Asked::Write(range, value) => {
                self.own.done(range, value);
                Ok(())
            }
            Asked::WriteCommon(range, value) => {
                self.field.common.done(range, value);
                Ok(())
            }
            Asked::Read(range) => self.own.check(range.start, &data(&range)?),
            Asked::ReadCommon(range, start) => self.field.common.check(start, range.start, &data(&range)?),
            Asked::Flush => Ok(()),
        };
        checked.unwrap_or_else(|what| self.field.violated(format!("client {}: {what}", self.number)));
        Ok(())
    }
}

/// An LU under fire.
struct Battle {
    bench: bench::Bench,
    /// All its disks, one of them spare at the beginning.
    disks: String,
    count: usize,
    level: &'static str,
    random: Random,
    server: Option<Export>,
    counts: [u64; 4],
}

impl Deref for Battle {
    type Target = bench::Bench;

    fn deref(&self) -> &bench::Bench {
        &self.bench
    }
}

impl Battle {
    fn new(level: &'static str, disks: usize, seed: u64) -> Battle {
        let bench = bench::Bench::empty();
        let members: String = (0..disks).map(|i| format!(" ./d{i}")).collect();
        let chunk = if level == "1" { "" } else { "--chunk 16K" };
        let line = format!("create data --level {level}{members} --spare ./d{disks} --disk-size 24M {chunk}");
        bench.ok(&line);
        let disks_list = bench.list(disks + 1);
        let mut battle = Battle {
            bench,
            disks: disks_list,
            count: disks + 1,
            level,
            random: Random(seed),
            server: None,
            counts: [0; 4],
        };
        battle.start();
        battle
    }

    fn start(&mut self) {
        let start = Instant::now();
        let server = Export::start(self.command(&format!("export {} --nbd unix:s", self.disks)));
        assert!(start.elapsed() < SOON, "{}: it took {:?} to serve", self.level, start.elapsed());
        self.server = Some(server);
    }

    fn served(&self) -> Value {
        let document: Value = serde_json::from_slice(&self.ok("status data --json").out).unwrap();
        document["lus"][0].clone()
    }

    fn member(&self, state: &str) -> Option<String> {
        let status = self.served();
        let members = status["members"].as_array().unwrap().iter();
        let found: Vec<_> = members.filter(|member| member["state"] == state).collect();
        let path = Path::new(found.first()?["disk"].as_str().unwrap());
        Some(format!("./{}", path.file_name().unwrap().to_str().unwrap()))
    }

    /// A member fails and a spare takes over; with `kill`, the server dies over it. In the end all are back.
    fn fail(&mut self, kill: bool) {
        self.counts[0] += 1;
        let nth = self.random.below(3);
        let active = (0..=nth).rev().find_map(|_| self.member("active")).unwrap();
        self.ok(&format!("fail data {active}"));
        if kill {
            thread::sleep(Duration::from_millis(self.random.below(60)));
            self.kill();
        }
        self.ok("wait data");
        let status = self.served();
        let whole = if self.level == "6" { 2 } else { 1 };
        assert_eq!(status["redundancy_left"], whole, "raid{} {status:#}", self.level);
        // The disk that failed is a spare again.
        self.ok(&format!("remove data {active}"));
        self.ok(&format!("add data {active}"));
    }

    fn kill(&mut self) {
        self.counts[1] += 1;
        drop(self.server.take());
        self.start();
    }

    fn stop(&mut self) {
        self.counts[2] += 1;
        let (code, told) = self.server.take().unwrap().signal("TERM");
        assert_eq!(code, Some(0), "{}: {told}", self.level);
        assert!(!self.path("s").exists(), "its socket is left");
        // Clean, but for a resync that goes on when it is started again.
        let status = self.status(&self.disks);
        assert_eq!(status["dirty"], status["state"] == "resyncing", "raid{} {status:#}", self.level);
    }

    /// Clients come and go: the server has as many descriptors as before, and not much more memory.
    fn visit(&mut self) {
        self.counts[3] += 1;
        let pid = self.server.as_ref().unwrap().id();
        let descriptors = || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        let before = descriptors();
        for _ in 0..30 {
            drop(UnixStream::connect(self.path("s")));
        }
        let start = Instant::now();
        while descriptors() > before {
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "{} descriptors, {before} before",
                descriptors()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn memory(&self) -> u64 {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.server.as_ref().unwrap().id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    fn rage(&mut self, field: &Arc<Field>, until: Instant) {
        let mut event = self.random.below(4);
        while Instant::now() < until && !field.is_over() {
            thread::sleep(Duration::from_millis(100 + self.random.below(400)));
            // Each in turn, so that all come to pass.
            event += 1;
            match event % 6 {
                0 => self.fail(false),
                // Degraded and dirty: what a lost member held cannot be told then without a log.
                1 => self.fail(self.level != "6"),
                2 => {
                    self.stop();
                    self.start();
                }
                3 => self.visit(),
                _ => self.kill(),
            }
        }
    }
}

fn under_fire(level: &'static str, disks: usize) {
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
    };
    let (seconds, seed) = (number("URAID_FIRE_SECONDS", 5), number("URAID_FIRE_SEED", 1));
    let mut battle = Battle::new(level, disks, seed);
    let field = Arc::new(Field::default());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let client = Client::new(&field, battle.path("s"), n, seed);
            thread::spawn(move || client.live())
        })
        .collect();
    thread::sleep(Duration::from_millis(300));
    let before = battle.memory();
    battle.rage(&field, Instant::now() + Duration::from_secs(seconds));
    let after = battle.memory();
    field.halt.store(true, Ordering::SeqCst);
    let owns: Vec<Own> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    // A resync after the last kill may be under way, and without it no member can be spared.
    battle.ok("wait data");
    battle.stop();
    let violations = field.violations.lock().unwrap();
    assert!(violations.is_empty(), "raid{level}, seed {seed}: {violations:#?}");
    // What the queues of all clients may have in use at most, and no more however long it burns.
    assert!(after < 400 << 10, "{before} KiB before, {after} after");
    // At rest: every sector once more, and again without each of the members.
    let bytes = (CLIENTS * REGION + COMMON) * SECTOR as u64;
    let read = |disks: &str| battle.ok(&format!("read {disks} --length {bytes}")).out;
    let all = read(&battle.disks);
    for (number, mut own) in (0..).zip(owns) {
        let start = (number * REGION) as usize * SECTOR;
        own.check(number * REGION, &all[start..start + REGION as usize * SECTOR]).unwrap();
    }
    let start = (CLIENTS * REGION) as usize * SECTOR;
    field.common.check(field.common.now(), CLIENTS * REGION, &all[start..]).unwrap();
    for away in 0..battle.count {
        let rest: Vec<usize> = (0..battle.count).filter(|&n| n != away).collect();
        assert!(read(&bench::listed(&rest)) == all, "raid{level} without disk {away}");
    }
    let [fails, kills, stops, visits] = battle.counts;
    let (requests, flushes) = (field.requests.load(Ordering::Relaxed), field.flushes.load(Ordering::Relaxed));
    println!(
        "raid{level}: {requests} requests, {flushes} of them flush or FUA, {fails} disks failed and were rebuilt, \
         {kills} kills, {stops} stops, {visits} visits, 0 violations (seed {seed}, {seconds} s)"
    );
}

#[test]
fn raid1_under_fire() {
    under_fire("1", 2);
}

#[test]
fn raid5_under_fire() {
    under_fire("5", 4);
}

#[test]
fn raid6_under_fire() {
    under_fire("6", 5);
}

#[test]
fn raid10_under_fire() {
    under_fire("10", 4);
}

fn signal(process: u32, name: &str) {
    assert!(Process::new("kill").args(["-s", name, &process.to_string()]).status().unwrap().success());
}

/// A member whose disk does not answer for a while: its writes wait, nothing is wrong, and nobody fails it.
#[test]
fn a_member_that_hangs_and_comes_back() {
    // The disk is a file that another process serves, which can be stopped.
    let below = bench::Bench::empty();
    fs::create_dir(below.path("mnt")).unwrap();
    below.ok("create disk --level linear ./a --disk-size 32M");
    let hanging = Export::start(below.command("export ./a --fuse mnt")).mounts(below.path("mnt"));
    let bench = bench::Bench::empty();
    let disks = format!("{},./d1,./d2", hanging.place);
    bench.blank("d1", 24 << 20);
    bench.blank("d2", 24 << 20);
    bench.ok(&format!("create data --level 5 --size 20M {}", disks.replace(',', " ")));
    let server = Export::start(bench.command(&format!("export {disks} --nbd unix:s")));
    let field = Arc::new(Field::default());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let client = Client::new(&field, bench.path("s"), n, 7);
            thread::spawn(move || client.live())
        })
        .collect();
    let requests = || field.requests.load(Ordering::Relaxed);
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(300));
        signal(hanging.id(), "STOP");
        thread::sleep(Duration::from_millis(700));
        let before = requests();
        signal(hanging.id(), "CONT");
        let start = Instant::now();
        while requests() < before + 1000 {
            assert!(start.elapsed() < Duration::from_secs(30), "it does not go on");
            thread::sleep(Duration::from_millis(5));
        }
    }
    // It is asked to stop while a member hangs: it does when that comes back.
    signal(hanging.id(), "STOP");
    field.halt.store(true, Ordering::SeqCst);
    thread::sleep(Duration::from_millis(100));
    let stopping = thread::spawn(move || server.signal("TERM"));
    thread::sleep(Duration::from_millis(500));
    assert!(!stopping.is_finished(), "what hangs cannot be marked clean");
    signal(hanging.id(), "CONT");
    assert_eq!(stopping.join().unwrap(), (Some(0), String::new()));
    clients.into_iter().for_each(|client| drop(client.join().unwrap()));
    assert!(field.violations.lock().unwrap().is_empty(), "{:#?}", field.violations.lock().unwrap());
    let status = bench.status(&disks);
    assert_eq!((&status["state"], &status["dirty"]), (&"healthy".into(), &false.into()));
    assert_eq!(hanging.signal("TERM").0, Some(0));
}

// ---- The checker finds what is planted

#[test]
fn the_checker_knows_lost_torn_stale_and_misplaced_sectors() {
    let mut own = Own::new(8..16);
    let read = |values: [u64; 2]| [register::stamp(8, values[0]), register::stamp(9, values[1])].concat();
    own.check(8, &read([ZERO, ZERO])).unwrap();
    own.begin(8..10, 5);
    own.done(8..10, 5);
    own.check(8, &read([5, 5])).unwrap();
    assert!(own.check(8, &read([ZERO, 5])).unwrap_err().contains("may hold"), "a lost write");
    // Without an answer: old or new for each sector, and what was seen stays.
    own.begin(8..10, 6);
    own.check(8, &read([6, 5])).unwrap();
    assert!(own.check(8, &read([5, 5])).is_err(), "it flipped back");
    let mut torn = read([6, 5]);
    torn[100] ^= 1;
    assert!(own.check(8, &torn).unwrap_err().contains("torn"));
    let astray = [register::stamp(9, 6), register::stamp(9, 5)].concat();
    assert!(own.check(8, &astray).unwrap_err().contains("belongs to sector 9"));

    let common = Common::default();
    let one = |value: u64| register::stamp(3, value);
    common.begin(3..4, 1);
    common.check(common.now(), 3, &one(1)).unwrap();
    common.check(common.now(), 3, &one(ZERO)).unwrap();
    common.done(3..4, 1);
    assert!(common.check(common.now(), 3, &one(ZERO)).is_err(), "stale");
    let early = common.now();
    common.begin(3..4, 2);
    common.done(3..4, 2);
    common.check(early, 3, &one(1)).unwrap();
    assert!(common.check(common.now(), 3, &one(1)).is_err(), "stale");
    assert!(common.check(early, 3, &one(9)).unwrap_err().contains("nobody wrote"));
}
