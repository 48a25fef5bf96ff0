//! An LU served over NBD: to the clients people use (libnbd's tools, qemu, fio), and to one of our own that
//! says what no decent client would, while a good one has its answers checked.
//!
//! Most tests run the real program on files in a folder of their own; those that make disks fail serve an LU
//! of this process.
#![cfg(feature = "cli")]

#[path = "common/bench.rs"]
mod bench;
#[path = "common/export.rs"]
mod export;
#[path = "common/pattern.rs"]
mod pattern;

use std::fs;
use std::io::{Read, Write};
use std::ops::Deref;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use uraid::Lu;
use uraid::disk::faulty::{Effect, Fault, Faulty};
use uraid::disk::{Backend, DiskId, DiskInfo, Disks, OpKind};
use uraid::format::superblock::SLOT_BYTES;
use uraid::lu::{Access, Policy, State};
use uraid::serve::nbd::wire::{self, Command, Errno, Request, chunk, flag, option, reply};
use uraid::serve::nbd::{Address, CONNECTIONS, Listener, REQUEST_BYTES, REQUESTS, SERVER_BYTES, Server};
use uraid::units::{Level, Sectors};

use export::Export;
use pattern::pattern;

const MEBIBYTE: usize = 1 << 20;

/// How long anything may take before a test gives up on it.
const LONG: Duration = Duration::from_secs(60);

// ---- The program and its clients

/// A folder in which programs run, and LUs are served from.
struct Bench(bench::Bench);

impl Deref for Bench {
    type Target = bench::Bench;

    fn deref(&self) -> &bench::Bench {
        &self.0
    }
}

impl Bench {
    fn new() -> Bench {
        Bench(bench::Bench::empty())
    }

    /// Runs `uraid LINE`, which has to end with `code`; both its streams.
    #[track_caller]
    fn expect(&self, code: i32, line: &str) -> String {
        self.ends(code, line).words()
    }

    /// The LU while it is served: its disks change.
    fn status(&self) -> Value {
        let document: Value = serde_json::from_slice(&self.run("status ./d0 --json").out).unwrap();
        document["lus"][0].clone()
    }

    /// A RAID5 named `data` of four new files of 32 MiB.
    fn raid5(&self) {
        self.expect(0, "create data --level 5 ./d0 ./d1 ./d2 ./d3 --disk-size 32M");
    }

    /// Starts `uraid export ./d0 LINE` and waits until it serves.
    #[track_caller]
    fn export(&self, line: &str) -> Export {
        Export::start(self.command(&format!("export ./d0 {line}")))
    }

    fn connect(&self) -> Client {
        Client::connect(&self.path("s"))
    }

    /// Runs a client program in the folder, which has to succeed; its standard output.
    #[track_caller]
    fn client(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = Process::new("timeout");
        command.arg(LONG.as_secs().to_string()).arg(program).args(arguments).current_dir(self.path("."));
        let output = command.output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{program} {arguments:?}: {}\n{out}{err}", output.status);
        out.into_owned()
    }
}

// ---- A client of our own

/// A client that does what it is told, sense or not.
struct Client {
    stream: UnixStream,
    structured: bool,
}

/// A reply: error number, type of the chunk (simple replies have none) and payload.
#[derive(PartialEq, Eq, Debug)]
struct Reply {
    cookie: u64,
    error: u32,
    kind: Option<u16>,
    data: Vec<u8>,
}

impl Client {
    /// Connected, greeted, nothing said.
    fn connect(path: &Path) -> Client {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_write_timeout(Some(LONG)).unwrap();
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(greeting, wire::greeting());
        stream.write_all(&3u32.to_be_bytes()).unwrap();
        Client { stream, structured: false }
    }

    /// Ready for requests.
    fn ready(path: &Path, structured: bool) -> Client {
        let mut client = Client::connect(path);
        client.go(structured);
        client
    }

    fn go(&mut self, structured: bool) {
        self.structured = structured;
        if structured {
            assert_eq!(self.option(option::STRUCTURED_REPLY, &[]), [reply::ACK]);
            let context =
                [&[0; 4][..], &1u32.to_be_bytes(), &15u32.to_be_bytes(), b"base:allocation"].concat();
            assert_eq!(self.option(option::SET_META_CONTEXT, &context), [reply::META_CONTEXT, reply::ACK]);
        }
        let answer = self.option(option::GO, &[0; 6]);
        assert_eq!(answer, [reply::INFO, reply::INFO, reply::ACK]);
    }

    /// Says an option; the kinds of its replies.
    fn option(&mut self, number: u32, data: &[u8]) -> Vec<u32> {
        let length = (data.len() as u32).to_be_bytes();
        let head = [&wire::OPTION_MAGIC.to_be_bytes()[..], &number.to_be_bytes(), &length, data].concat();
        self.stream.write_all(&head).unwrap();
        let mut kinds = Vec::new();
        loop {
            let head: [u8; 20] = self.take(20).try_into().unwrap();
            let kind = u32::from_be_bytes(head[12..16].try_into().unwrap());
            let length = u32::from_be_bytes(head[16..].try_into().unwrap());
            self.take(length as usize);
            kinds.push(kind);
            if kind == reply::ACK || kind >> 31 == 1 {
                return kinds;
            }
        }
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn send(&mut self, request: Request, payload: &[u8]) {
        self.stream.write_all(&[&request.emit()[..], payload].concat()).unwrap();
    }

    /// The next reply; `read` says how long the data of a simple reply to a READ is, by cookie.
    fn reply(&mut self, read: impl Fn(u64) -> usize) -> Reply {
        let head = self.take(16);
        let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
        let cookie = u64::from_be_bytes(head[8..16].try_into().unwrap());
        if number(0) == wire::SIMPLE_REPLY_MAGIC {
            let error = number(4);
            let data = self.take(if error == 0 { read(cookie) } else { 0 });
            return Reply { cookie, error, kind: None, data };
        }
        assert_eq!(number(0), wire::CHUNK_MAGIC);
        assert!(self.structured, "nobody has asked for structure");
        assert_eq!(number(4) >> 16, u32::from(chunk::DONE));
        let kind = number(4) as u16;
        let length = u32::from_be_bytes(self.take(4).try_into().unwrap());
        let data = self.take(length as usize);
        let error = match kind {
            chunk::ERROR => u32::from_be_bytes(data[..4].try_into().unwrap()),
            _ => 0,
        };
        Reply { cookie, error, kind: Some(kind), data }
    }

    /// One request and its reply.
    fn call(&mut self, command: Command, flags: u16, offset: u64, length: u32, payload: &[u8]) -> Reply {
        let cookie = 0x1234_5678_9abc_def0 ^ offset;
        self.send(Request { flags, command, cookie, offset, length }, payload);
        let reads = if command == Command::Read { length as usize } else { 0 };
        let reply = self.reply(|_| reads);
        assert_eq!(reply.cookie, cookie);
        reply
    }

    #[track_caller]
    fn write(&mut self, offset: u64, bytes: &[u8], flags: u16) {
        assert_eq!(self.call(Command::Write, flags, offset, bytes.len() as u32, bytes).error, 0);
    }

    #[track_caller]
    fn read(&mut self, offset: u64, length: usize) -> Vec<u8> {
        let reply = self.call(Command::Read, 0, offset, length as u32, &[]);
        assert_eq!(reply.error, 0);
        match reply.kind {
            None => reply.data,
            Some(kind) => {
                assert_eq!(kind, chunk::OFFSET_DATA);
                assert_eq!(reply.data[..8], offset.to_be_bytes());
                reply.data[8..].to_vec()
            }
        }
    }

    #[track_caller]
    fn refused(
        &mut self,
        errno: Errno,
        command: Command,
        flags: u16,
        offset: u64,
        length: u32,
        payload: &[u8],
    ) {
        assert_eq!(self.call(command, flags, offset, length, payload).error, errno as u32, "{command:?}");
    }

    /// Has the server closed the connection?
    fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0) | Err(_))
    }
}

// ---- Clients that people use

#[test]
fn libnbd_copies_both_ways() {
    let bench = Bench::new();
    bench.raid5();
    let export = bench.export("--nbd unix:s");
    let uri = export.place.as_str();
    assert_eq!(fs::metadata(bench.path("s")).unwrap().permissions().mode() & 0o777, 0o600);
    let told: Value = serde_json::from_str(&bench.client("nbdinfo", &["--json", "--list", uri])).unwrap();
    let told = &told["exports"][0];
    assert_eq!(told["export-name"], "data");
    let size = told["export-size"].as_u64().unwrap() as usize;
    for ability in ["can_flush", "can_fua", "can_multi_conn", "can_trim", "can_zero", "can_df"] {
        assert_eq!(told[ability], true, "{ability}");
    }
    assert_eq!(told["is_read_only"], false);
    let map = bench.client("nbdinfo", &["--map", "--json", uri]);
    let map: Value = serde_json::from_str(&map).unwrap();
    assert_eq!((map[0]["length"].as_u64(), map[0]["type"].as_u64()), (Some(size as u64), Some(0)));

    let bytes = pattern(size, 1);
    fs::write(bench.path("in"), &bytes).unwrap();
    for connections in ["--connections=1", "--connections=8"] {
        bench.client("nbdcopy", &[connections, "--flush", "in", uri]);
        bench.client("nbdcopy", &[connections, uri, "out"]);
        assert!(fs::read(bench.path("out")).unwrap() == bytes, "{connections}");
        bench.client("nbdcopy", &["--requests=3", "--request-size=65536", "out", uri]);
    }
    assert_eq!(export.signal("TERM"), (Some(0), String::new()));
    let output = bench.run("read ./d0");
    assert!(output.out == bytes, "the LU holds something else");
}

#[test]
fn qemu_reads_writes_and_converts() {
    let bench = Bench::new();
    bench.raid5();
    let export = bench.export("--nbd tcp:127.0.0.1:0");
    let uri = export.place.as_str();
    assert!(uri.starts_with("nbd://127.0.0.1:") && uri.ends_with("/data"), "{uri}");
    let info: Value =
        serde_json::from_str(&bench.client("qemu-img", &["info", "--output=json", uri])).unwrap();
    let size = info["virtual-size"].as_u64().unwrap() as usize;
    // Edges that are no blocks, chunks or stripes.
    let steps = [
        "write -P 7 513 1000",
        "write -P 9 65000 400000",
        "read -P 7 513 1000",
        "write -z 100001 5000001",
        "read -P 0 100001 5000001",
        "read -P 9 65000 35001",
        "write -f -P 5 1000000 12345",
        "discard 2M 1M",
        "flush",
        "read -P 5 1000000 12345",
    ];
    let mut arguments = vec!["-f", "raw", uri];
    arguments.extend(steps.iter().flat_map(|step| ["-c", step]));
    let said = bench.client("qemu-io", &arguments);
    assert!(!said.contains("rror") && !said.contains("verification failed"), "{said}");

    fs::write(bench.path("in"), pattern(size, 2)).unwrap();
    bench.client("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", "in", uri]);
    bench.client("qemu-img", &["compare", "-f", "raw", "-F", "raw", "in", uri]);
    bench.client("qemu-img", &["convert", "-f", "raw", "-O", "raw", uri, "out"]);
    assert!(fs::read(bench.path("in")).unwrap() == fs::read(bench.path("out")).unwrap());
}

#[test]
fn fio_verifies_what_it_wrote() {
    let bench = Bench::new();
    bench.raid5();
    let export = bench.export("--nbd unix:s");
    let uri = format!("--uri={}", export.place);
    for (block, depth) in [("512-512", "32"), ("4k-4k", "64"), ("3k-70k", "16"), ("1m-1m", "4")] {
        let (block, depth) = (format!("--bsrange={block}"), format!("--iodepth={depth}"));
        let fixed = [
            "--name=v",
            "--ioengine=nbd",
            "--rw=randwrite",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--fsync=64",
        ];
        // Writes that overlap while both are under way have no order, and fio would take either end for a
        // fault.
        let sized =
            ["--size=24m", "--io_size=8m", "--bs_unaligned=1", "--blockalign=512", "--serialize_overlap=1"];
        let arguments = [&fixed[..], &sized, &[&uri, &block, &depth]].concat();
        bench.client("fio", &arguments);
    }
    assert_eq!(export.signal("INT"), (Some(0), String::new()));
    assert_eq!(bench.status()["dirty"], false);
}

// ---- The protocol, command by command

#[test]
fn commands_do_what_they_say() {
    let bench = Bench::new();
    bench.raid5();
    let _export = bench.export("--nbd unix:s");
    for structured in [false, true] {
        let mut client = Client::ready(&bench.path("s"), structured);
        let bytes = pattern(300_000, 3);
        for (offset, length, flags) in [
            (0, 512, 0),
            (1, 1, 0),
            (4095, 2, flag::FUA),
            (65_535, 131_074, 0),
            (1 << 20, 300_000, flag::FUA),
        ] {
            client.write(offset, &bytes[..length], flags);
            assert!(client.read(offset, length) == bytes[..length], "{offset} {length}");
        }
        assert!(client.read((1 << 20) + 77, 1001) == bytes[77..1078]);
        let zeroes = client.call(Command::WriteZeroes, flag::FUA | flag::NO_HOLE, 1_100_001, 150_000, &[]);
        assert_eq!(zeroes.error, 0);
        let after = client.read(1 << 20, 300_000);
        let (from, to) = (1_100_001 - MEBIBYTE, 1_250_001 - MEBIBYTE);
        assert!(after[..from] == bytes[..from] && after[to..] == bytes[to..]);
        assert!(after[from..to].iter().all(|&byte| byte == 0));

        for (command, flags) in [(Command::Trim, flag::FUA), (Command::Cache, 0), (Command::Flush, 0)] {
            let length = if command == Command::Flush { 0 } else { 4096 };
            assert_eq!(client.call(command, flags, 0, length, &[]).error, 0, "{command:?}");
        }
        let fast = flag::FAST_ZERO;
        client.refused(Errno::NotSup, Command::WriteZeroes, fast | flag::NO_HOLE, 0, 4096, &[]);
        assert_eq!(client.call(Command::WriteZeroes, fast | flag::FUA, 4000, 9000, &[]).error, 0, "files do");
        assert!(client.read(4000, 9000).iter().all(|&byte| byte == 0));
        if structured {
            let status = client.call(Command::BlockStatus, flag::REQ_ONE, 5, 1 << 20, &[]);
            assert_eq!(status.kind, Some(chunk::BLOCK_STATUS));
            assert_eq!(status.data, [1, 1 << 20, 0].map(u32::to_be_bytes).concat());
            assert_eq!(client.call(Command::Read, flag::DF, 0, 9, &[]).kind, Some(chunk::OFFSET_DATA));
        } else {
            client.refused(Errno::Inval, Command::BlockStatus, 0, 0, 4096, &[]);
            client.refused(Errno::Inval, Command::Read, flag::DF, 0, 4096, &[]);
        }
    }
}

#[test]
fn zeros_reach_far_and_leave_the_edges() {
    let bench = Bench::new();
    bench.raid5();
    let _export = bench.export("--nbd unix:s");
    let mut client = Client::ready(&bench.path("s"), true);
    let bytes = pattern(20 * MEBIBYTE, 4);
    client.write(0, &bytes, 0);
    let (from, length) = (700_001, 15 * MEBIBYTE + 3);
    assert_eq!(client.call(Command::WriteZeroes, 0, from as u64, length as u32, &[]).error, 0);
    let after = client.read(0, bytes.len());
    let to = from + length;
    assert!(after[..from] == bytes[..from] && after[to..] == bytes[to..], "beside");
    assert!(after[from..to].iter().all(|&byte| byte == 0), "inside");
}

#[test]
fn what_is_trimmed_or_zeroed_is_freed_and_its_parity_stays_right() {
    let bench = Bench::new();
    bench.raid5();
    let export = bench.export("--nbd unix:s");
    let held = || -> u64 {
        (0..4).map(|n| fs::metadata(bench.path(&format!("d{n}"))).unwrap().blocks() * 512).sum()
    };
    let mut client = Client::ready(&bench.path("s"), true);
    let bytes = pattern(48 * MEBIBYTE, 5);
    for part in 0..3 {
        client.write((part * 16 * MEBIBYTE) as u64, &bytes[part * 16 * MEBIBYTE..][..16 * MEBIBYTE], 0);
    }
    let full = held();
    // Stripes hold 192 KiB; what is left of a trim's first and last stays.
    let stripe = 192 << 10;
    let (from, to) = (stripe * 10 + 4096, stripe * 90 - 512);
    assert_eq!(client.call(Command::Trim, flag::FUA, from as u64, (to - from) as u32, &[]).error, 0);
    let (zeroed, zero_end) = (stripe * 120 + 100, stripe * 200 + 7);
    let length = (zero_end - zeroed) as u32;
    assert_eq!(client.call(Command::WriteZeroes, flag::FUA, zeroed as u64, length, &[]).error, 0);
    let freed = full - held();
    assert!(freed >= (78 + 78) * (stripe as u64 / 3) * 4, "{freed} bytes of {full}");
    let mut expected = bytes;
    expected[stripe * 11..stripe * 89].fill(0);
    expected[zeroed..zero_end].fill(0);
    assert!(client.read(0, 16 * MEBIBYTE) == expected[..16 * MEBIBYTE]);
    assert_eq!(export.signal("TERM").0, Some(0));
    // Without a member all of it is made from the others and the parity.
    fs::remove_file(bench.path("d2")).unwrap();
    let read = bench.run("read ./d0,./d1,./d3");
    assert_eq!(read.code, Some(0), "{}", read.err);
    assert!(read.out[..expected.len()] == expected);
}

#[test]
fn many_requests_are_under_way_on_one_connection() {
    let bench = Bench::new();
    bench.raid5();
    let _export = bench.export("--nbd unix:s");
    let mut client = Client::ready(&bench.path("s"), false);
    // More than are worked on together: the rest waits in the socket.
    let count = 3 * REQUESTS as u64;
    let block = |n: u64| pattern(4096, 10 + n);
    let at =
        |command, cookie: u64| Request { flags: 0, command, cookie, offset: cookie * 4096, length: 4096 };
    let mut sender = Client { stream: client.stream.try_clone().unwrap(), structured: false };
    let feeder = thread::spawn(move || {
        for n in 0..count {
            sender.send(at(Command::Write, n), &block(n));
        }
    });
    let mut seen: Vec<u64> = (0..count).map(|_| client.reply(|_| 0)).map(|reply| reply.cookie).collect();
    feeder.join().unwrap();
    seen.sort_unstable();
    assert_eq!(seen, (0..count).collect::<Vec<_>>(), "each answered once");
    for n in 0..REQUESTS as u64 {
        client.send(at(Command::Read, n), &[]);
    }
    for _ in 0..REQUESTS {
        let reply = client.reply(|_| 4096);
        assert_eq!((reply.error, reply.data == block(reply.cookie)), (0, true));
    }
}

#[test]
fn a_read_only_export_changes_nothing() {
    let bench = Bench::new();
    bench.raid5();
    let disk = || fs::read(bench.path("d1")).unwrap();
    let before = disk();
    let export = bench.export("--nbd unix:s --read-only");
    assert!(bench.client("nbdinfo", &[&export.place]).contains("is_read_only: true"));
    let mut client = Client::ready(&bench.path("s"), true);
    for (command, payload) in
        [(Command::Write, &[1; 512][..]), (Command::WriteZeroes, &[]), (Command::Trim, &[])]
    {
        client.refused(Errno::Perm, command, 0, 0, 512, payload);
    }
    assert_eq!(client.read(100, 1000), [0; 1000]);
    assert_eq!(client.call(Command::Flush, 0, 0, 0, &[]).error, 0);
    // Readers may be many.
    let second = bench.export("--nbd unix:t --read-only");
    bench.expect(0, "read ./d0 --length 4096 -o out");
    assert_eq!(second.signal("TERM").0, Some(0));
    assert_eq!(export.signal("TERM").0, Some(0));
    assert!(disk() == before, "a member has changed");
}

// ---- What no decent client says

/// Writes and reads its own corner until told to stop, checking every answer; how often it did.
fn good_client(path: PathBuf, stop: Arc<AtomicBool>) -> thread::JoinHandle<u64> {
    thread::spawn(move || {
        let mut client = Client::ready(&path, true);
        let mut rounds = 0;
        while !stop.load(Ordering::Relaxed) {
            let bytes = pattern(10_000, rounds);
            let offset = 40 * MEBIBYTE as u64 + rounds * 5000 % 1_000_000;
            let start = Instant::now();
            client.write(offset, &bytes, 0);
            assert!(client.read(offset, bytes.len()) == bytes, "round {rounds}");
            assert!(start.elapsed() < Duration::from_secs(5), "held up by another client");
            rounds += 1;
        }
        rounds
    })
}

#[test]
fn odd_clients_hurt_nobody() {
    let bench = Bench::new();
    bench.raid5();
    let export = bench.export("--nbd unix:s");
    let path = bench.path("s");
    let stop = Arc::new(AtomicBool::new(false));
    let good = good_client(path.clone(), stop.clone());
    let size = 92 * MEBIBYTE as u64;

    // Who says nothing, or half of something, before it comes to its point, is closed in time.
    let silent = bench.connect();
    let mut half = bench.connect();
    half.stream.write_all(&wire::OPTION_MAGIC.to_be_bytes()[..5]).unwrap();
    let since = Instant::now();

    let mut client = Client::ready(&path, true);
    client.refused(Errno::Inval, Command::Other(99), 0, 0, 512, &[]);
    client.refused(Errno::Inval, Command::Read, 1 << 15, 0, 512, &[]);
    client.refused(Errno::Inval, Command::Read, 0, size * 2, 512, &[]);
    client.refused(Errno::Inval, Command::Read, 0, u64::MAX - 5, 512, &[]);
    client.refused(Errno::Inval, Command::Read, 0, 0, u32::MAX, &[]);
    client.refused(Errno::Inval, Command::Read, 0, 0, REQUEST_BYTES + 1, &[]);
    client.refused(Errno::NoSpc, Command::Write, 0, size * 2, 3, b"abc");
    client.refused(Errno::NoSpc, Command::Write, 0, u64::MAX, 3, b"abc");
    client.refused(Errno::NoSpc, Command::WriteZeroes, 0, u64::MAX, u32::MAX, &[]);
    client.refused(Errno::Inval, Command::Trim, 0, size * 2, 512, &[]);
    client.refused(Errno::Inval, Command::BlockStatus, 0, 0, 0, &[]);
    for command in [Command::Read, Command::Write, Command::WriteZeroes, Command::Trim] {
        assert_eq!(client.call(command, 0, 4096, 0, &[]).error, 0, "{command:?} of nothing");
    }
    // Too long: what follows is thrown away, and the connection goes on.
    let long = vec![1; REQUEST_BYTES as usize + 1];
    client.refused(Errno::Inval, Command::Write, 0, 0, REQUEST_BYTES + 1, &long);
    client.write(0, &long[1..], 0);
    client.write(0, &[7; 700], 0);
    assert_eq!(client.read(0, 700), [7; 700]);

    // Rubbish where a request should be.
    client.stream.write_all(&[0x55; 28]).unwrap();
    assert!(client.is_closed());
    // Half a request, half a payload, gone: nothing of it is written.
    for (sent, then_close) in [(5, true), (20, false), (28, true), (28 + 100, false), (28 + 4000, true)] {
        let mut client = Client::ready(&path, false);
        let write = Request { flags: 0, command: Command::Write, cookie: 1, offset: 0, length: 4096 };
        let all = [&write.emit()[..], &[9; 4096]].concat();
        client.stream.write_all(&all[..sent]).unwrap();
        if then_close {
            drop(client);
        } else {
            // It stays, and stays silent.
            std::mem::forget(client);
        }
    }
    assert_eq!(Client::ready(&path, false).read(0, 700), [7; 700]);
    // Asks for much and takes nothing.
    let mut greedy = Client::ready(&path, false);
    for cookie in 0..200 {
        greedy.send(
            Request { flags: 0, command: Command::Read, cookie, offset: 0, length: REQUEST_BYTES / 4 },
            &[],
        );
    }
    let mut leaver = Client::ready(&path, false);
    leaver.send(Request { flags: 0, command: Command::Disconnect, cookie: 0, offset: 0, length: 0 }, &[]);
    assert!(leaver.is_closed());

    for mut client in [silent, half] {
        assert!(client.is_closed());
    }
    let waited = since.elapsed();
    assert!((9..20).contains(&waited.as_secs()), "a silent client stayed for {waited:?}");
    stop.store(true, Ordering::Relaxed);
    assert!(good.join().unwrap() > 20);

    // Neither those that wait nor the one that takes nothing keep the server from stopping in time.
    let stopping = Instant::now();
    assert_eq!(export.signal("TERM").0, Some(0));
    assert!(stopping.elapsed() < Duration::from_secs(20), "{:?}", stopping.elapsed());
    drop(greedy);
    assert_eq!(bench.status()["dirty"], false);
}

/// The memory of a process, in bytes.
fn memory(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn the_greedy_share_what_there_is_and_leave_the_modest_alone() {
    let bench = Bench::new();
    bench.raid5();
    let export = bench.export("--nbd unix:s");
    let path = bench.path("s");
    let read =
        |cookie: u64, length: u32| Request { flags: 0, command: Command::Read, cookie, offset: 0, length };
    let greedy: Vec<Client> = (0..24)
        .map(|_| {
            let mut client = Client::ready(&path, false);
            (0..8).for_each(|cookie| client.send(read(cookie, REQUEST_BYTES), &[]));
            client
        })
        .collect();
    let mut modest = Client::ready(&path, false);
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(3) {
        let start = Instant::now();
        modest.write(4096, &pattern(100_000, 1), 0);
        assert!(modest.read(4096, 100_000) == pattern(100_000, 1));
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }
    let (held, most) = (memory(export.id()), (SERVER_BYTES + (192 << 20)) as u64);
    assert!(held < most, "{held} bytes");
    // A large request has its turn when those who take nothing are gone.
    let large = modest.read(0, REQUEST_BYTES as usize);
    assert!(large[4096..104_096] == pattern(100_000, 1));
    assert!(since.elapsed() < Duration::from_secs(30), "{:?}", since.elapsed());
    drop(greedy);
    assert_eq!(export.signal("TERM").0, Some(0));
}

#[test]
fn as_many_connections_as_promised_and_no_more() {
    let bench = Bench::new();
    bench.raid5();
    let _export = bench.export("--nbd unix:s");
    let path = bench.path("s");
    let mut clients: Vec<Client> = (0..CONNECTIONS).map(|_| Client::ready(&path, false)).collect();
    let mut late = UnixStream::connect(&path).unwrap();
    late.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(late.read(&mut [0; 18]).unwrap(), 0, "one too many is closed without a word");
    for (n, client) in (0u64..).zip(&mut clients) {
        client.write(n * 8192, &pattern(8192, n), 0);
    }
    // A flush on one covers what all the others wrote.
    assert_eq!(clients[0].call(Command::Flush, 0, 0, 0, &[]).error, 0);
    let count = clients.len() as u64;
    for (n, client) in (0u64..).zip(&mut clients) {
        let other = (n * 7 + 1) % count;
        assert!(client.read(other * 8192, 8192) == pattern(8192, other));
    }
    // A place that was left is free again.
    clients.pop();
    let until = Instant::now() + LONG;
    loop {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        if stream.read(&mut [0; 18]).is_ok_and(|length| length > 0) {
            break;
        }
        assert!(Instant::now() < until, "no place was free");
    }
}

// ---- Failures, ends and beginnings

#[test]
fn a_member_fails_under_load_and_a_spare_takes_over() {
    let bench = Bench::new();
    let faults = Arc::new(Mutex::new(None));
    let kept = faults.clone();
    let create =
        (0..4).fold(Lu::create("data", Level::Raid5), |create, n| create.disk(bench.path(&format!("d{n}"))));
    let create = create.spare(bench.path("s0")).disk_size(32 << 20).through(move |disks| {
        let faulty = Faulty::new(disks, 1);
        *kept.lock().unwrap() = Some(faulty.faults());
        Arc::new(faulty)
    });
    let lu = Arc::new(create.make().unwrap());
    let faults = faults.lock().unwrap().take().unwrap();
    let path = bench.path("s");
    let listener = Listener::bind(&Address::Unix(path.clone())).unwrap();
    let server = Server::start(lu.clone(), false, listener).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let good: Vec<_> = (0..2u64)
        .map(|own| {
            let (path, stop) = (path.clone(), stop.clone());
            thread::spawn(move || {
                let mut client = Client::ready(&path, own == 0);
                let (base, mut rounds) = (own * 40 * MEBIBYTE as u64, 0u64);
                while !stop.load(Ordering::Relaxed) {
                    client.write(base + rounds % 300 * 100_000, &pattern(70_000, own + 2 * rounds), 0);
                    let before = rounds.saturating_sub(200);
                    let read = client.read(base + before % 300 * 100_000, 70_000);
                    assert!(read == pattern(70_000, own + 2 * before), "round {rounds} of {own}");
                    rounds += 1;
                }
                rounds
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(300));
    assert_eq!(server.connections(), 2);
    faults.add(Fault::new(Effect::Fail(5)).on(DiskId(1)).only(OpKind::Write));
    let until = Instant::now() + LONG;
    while lu.status().spares > 0 || lu.status().state != State::Healthy {
        assert!(Instant::now() < until, "{:#?}", lu.status());
        thread::sleep(Duration::from_millis(20));
    }
    stop.store(true, Ordering::Relaxed);
    for client in good {
        assert!(client.join().unwrap() > 10);
    }
    server.stop();
    assert!(!path.exists());
    Arc::into_inner(lu).expect("the server has let go").stop().unwrap();
    let status = bench.status();
    assert_eq!((&status["state"], &status["dirty"]), (&"healthy".into(), &false.into()), "{status:#}");
}

#[test]
fn what_the_lu_cannot_do_is_an_io_error_and_the_rest_goes_on() {
    let bench = Bench::new();
    let faults = Arc::new(Mutex::new(None));
    let kept = faults.clone();
    let create =
        (0..3).fold(Lu::create("data", Level::Raid0), |create, n| create.disk(bench.path(&format!("d{n}"))));
    let create = create.disk_size(16 << 20).through(move |disks| {
        let faulty = Faulty::new(disks, 1);
        *kept.lock().unwrap() = Some(faulty.faults());
        Arc::new(faulty)
    });
    let lu = Arc::new(create.make().unwrap());
    let path = bench.path("s");
    let server =
        Server::start(lu.clone(), false, Listener::bind(&Address::Unix(path.clone())).unwrap()).unwrap();
    let faults = faults.lock().unwrap().take().unwrap();
    faults.add(Fault::new(Effect::Fail(5)).on(DiskId(1)).only(OpKind::Read));
    for structured in [false, true] {
        let mut client = Client::ready(&path, structured);
        client.refused(Errno::Io, Command::Read, 0, 64 << 10, 64 << 10, &[]);
        assert_eq!(client.read(0, 4096), [0; 4096], "the first chunk is on another member");
    }
    drop(server);
    Arc::into_inner(lu).expect("the server has let go").stop().unwrap();
}

/// Disks of blocks of 4096 bytes, whatever is below.
struct Coarse(Arc<dyn Backend>);

impl Backend for Coarse {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn info(&self, id: DiskId) -> DiskInfo {
        let mut info = self.0.info(id);
        info.block = 4096;
        info
    }
    fn queue(&self, depth: usize) -> uraid::Result<Box<dyn Disks>> {
        self.0.queue(depth)
    }
}

#[test]
fn the_last_bytes_are_served_also_if_they_fill_no_block() {
    let bench = Bench::new();
    let disks = ["d0", "d1"].map(|name| bench.path(name));
    let create = disks.iter().fold(Lu::create("data", Level::Raid1), |create, disk| create.disk(disk));
    create.disk_size(16 << 20).policy(Policy::None).make().unwrap().stop().unwrap();
    // uraid itself makes no such LU; mdadm does, told a --size.
    for disk in &disks {
        let mut superblock = uraid::lu::inspect(disk).unwrap().superblock;
        superblock.size = Sectors(superblock.size.0 - 5);
        let file = fs::File::options().read(true).write(true).open(disk).unwrap();
        let mut slot = [0; SLOT_BYTES];
        file.read_exact_at(&mut slot, superblock.super_offset.bytes()).unwrap();
        superblock.write_into(&mut slot);
        file.write_all_at(&slot, superblock.super_offset.bytes()).unwrap();
    }
    let assemble = || disks.iter().fold(Lu::assemble(), |assemble, disk| assemble.disk(disk));
    let lu = assemble().access(Access::Write).open().unwrap();
    let bytes = pattern(100_000, 6);
    lu.write_at(&bytes, lu.size() - 100_000).unwrap();
    lu.stop().unwrap();

    // On blocks that do not go into it, it can be read.
    let lu = assemble().access(Access::Read).through(|disks| Arc::new(Coarse(disks))).open().unwrap();
    let lu = Arc::new(lu);
    let (size, block) = (lu.size(), u64::from(lu.block_size()));
    assert_eq!((block, size % block), (4096, 1536));
    let path = bench.path("s");
    let listener = Listener::bind(&Address::Unix(path.clone())).unwrap();
    let server = Server::start(lu.clone(), true, listener).unwrap();
    let mut client = Client::ready(&path, true);
    for length in [1, 511, 1536, 1537, 5000, 100_000] {
        let read = client.read(size - length as u64, length);
        assert!(read == bytes[bytes.len() - length..], "{length}");
    }
    client.refused(Errno::Inval, Command::Read, 0, size - 1, 2, &[]);
    server.stop();
    Arc::into_inner(lu).expect("the server has let go").stop().unwrap();
}

#[test]
fn a_signal_under_load_leaves_the_lu_clean() {
    let bench = Bench::new();
    bench.raid5();
    for signal in ["TERM", "INT", "HUP"] {
        let export = bench.export("--nbd unix:s");
        let path = bench.path("s");
        let writers: Vec<_> = (0..3u64)
            .map(|own| {
                let path = path.clone();
                thread::spawn(move || {
                    let mut client = Client::ready(&path, true);
                    let mut acknowledged = 0;
                    for n in 0.. {
                        let offset = own * 20 * MEBIBYTE as u64 + n * 8192;
                        let write =
                            Request { flags: 0, command: Command::Write, cookie: n, offset, length: 8192 };
                        let all = [&write.emit()[..], &pattern(8192, own + 3 * n)].concat();
                        if client.stream.write_all(&all).is_err() {
                            break;
                        }
                        let mut head = [0; wire::CHUNK_HEAD];
                        if client.stream.read_exact(&mut head).is_err() {
                            break;
                        }
                        if u16::from_be_bytes([head[6], head[7]]) != chunk::NONE {
                            let error = client.take(6);
                            assert_eq!(error[..4], (Errno::Shutdown as u32).to_be_bytes());
                            break;
                        }
                        acknowledged = n + 1;
                        if acknowledged == 2000 {
                            break;
                        }
                    }
                    acknowledged
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(200));
        let (code, told) = export.signal(signal);
        assert_eq!((code, told.as_str()), (Some(0), ""), "{signal}");
        assert!(!path.exists(), "the socket stayed");
        assert_eq!(bench.status()["dirty"], false, "{signal}");
        let all = bench.run("read ./d0").out;
        for (own, writer) in (0u64..).zip(writers) {
            let acknowledged = writer.join().unwrap();
            assert!(acknowledged > 0);
            for n in 0..acknowledged {
                let at = (own * 20 * MEBIBYTE as u64 + n * 8192) as usize;
                assert!(all[at..at + 8192] == pattern(8192, own + 3 * n), "{signal}: {own} {n}");
            }
        }
    }
}

#[test]
fn after_a_kill_it_comes_back_with_what_was_made_stable() {
    let bench = Bench::new();
    bench.raid5();
    let mut export = bench.export("--nbd unix:s");
    for round in 0..3u64 {
        let mut client = Client::ready(&bench.path("s"), false);
        client.write(round * 100_000, &pattern(5000, round), flag::FUA);
        client.write(10_000_000, &pattern(1 << 20, round), 0);
        assert_eq!(client.call(Command::Flush, 0, 0, 0, &[]).error, 0);
        client.send(
            Request { flags: 0, command: Command::Write, cookie: 1, offset: 1 << 25, length: 4096 },
            &[1; 2000],
        );
        assert_eq!(export.signal("KILL").0, None);
        assert!(bench.path("s").exists(), "what a dead server leaves");
        export = bench.export("--nbd unix:s");
        let mut client = Client::ready(&bench.path("s"), true);
        assert!(client.read(round * 100_000, 5000) == pattern(5000, round));
        assert!(client.read(10_000_000, 1 << 20) == pattern(1 << 20, round));
        assert_eq!(client.read(1 << 25, 4096), [0; 4096], "half a payload was written");
    }
    assert_eq!(export.signal("TERM").0, Some(0));
}

#[test]
fn two_that_start_at_once_where_a_dead_one_was_do_not_take_it_from_each_other() {
    let bench = Bench::new();
    bench.expect(0, "create one --level 1 ./a0 ./a1 --disk-size 8M");
    bench.expect(0, "create two --level 1 ./b0 ./b1 --disk-size 8M");
    for _ in 0..10 {
        drop(std::os::unix::net::UnixListener::bind(bench.path("s")).unwrap());
        let mut both = ["a0", "b0"].map(|disk| bench.start(&format!("export ./{disk} --nbd unix:s")));
        // One serves until it is stopped; the other gives up by itself.
        let until = Instant::now() + LONG;
        let loser = loop {
            let ended = both.iter_mut().position(|child| child.try_wait().unwrap().is_some());
            if let Some(ended) = ended {
                break ended;
            }
            assert!(Instant::now() < until, "both serve there");
            thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(both[loser].wait().unwrap().code(), Some(5));
        Client::ready(&bench.path("s"), false).write(0, b"served", 0);
        bench.expect(0, &format!("stop {}", ["two", "one"][loser]));
        assert!(both[1 - loser].wait().unwrap().success());
        assert!(!bench.path("s").exists());
    }
}

#[test]
fn it_starts_degraded_and_says_what_is_missing() {
    let bench = Bench::new();
    bench.raid5();
    fs::remove_file(bench.path("d2")).unwrap();
    let export = bench.export("--nbd unix:s");
    let mut client = Client::ready(&bench.path("s"), true);
    let bytes = pattern(500_000, 5);
    client.write(1234, &bytes, flag::FUA);
    assert!(client.read(1234, bytes.len()) == bytes);
    let (code, told) = export.signal("TERM");
    assert_eq!(code, Some(0));
    assert!(told.contains("slot 2"), "{told}");
    let status = bench.status();
    assert_eq!((&status["state"], &status["dirty"]), (&"degraded".into(), &false.into()), "{status:#}");
}

#[test]
fn what_cannot_be_served_has_its_exit_code() {
    let bench = Bench::new();
    bench.raid5();
    for wrong in
        ["", "--nbd /tmp/s", "--nbd unix:", "--nbd tcp:localhost", "--nbd tcp:1:2:3", "--nbd unix:d0"]
    {
        bench.expect(2, &format!("export ./d0 {wrong}"));
    }
    bench.expect(2, &format!("export ./d0 --nbd unix:{}", "x".repeat(200)));
    bench.expect(3, "export ./nothing --nbd unix:s");
    let told = bench.expect(6, "export ./d0 --nbd tcp:0.0.0.0:0");
    assert!(told.contains("--insecure"), "{told}");
    assert!(!bench.path("s").exists(), "a refusal leaves no socket");

    let export = bench.export("--nbd unix:s --json --quiet");
    assert_eq!(export.place, "{", "a document");
    bench.expect(5, "export ./d0 --nbd unix:s");
    let told = bench.expect(5, "export ./d0 --nbd unix:t");
    assert!(told.contains("d0") && !bench.path("t").exists(), "{told}");
    bench.expect(5, "write ./d0");
    Client::ready(&bench.path("s"), false).write(0, b"still there", 0);
    assert_eq!(export.signal("TERM").0, Some(0));

    let open = bench.export("--nbd tcp:0.0.0.0:0 --insecure");
    assert!(open.place.starts_with("nbd://0.0.0.0:"), "{}", open.place);
    assert_eq!(open.signal("TERM").0, Some(0));
}
