//! An LU that is held is administered while it is served: every verb goes to the holder through its control
//! socket, and whoever talks nonsense there hurts nobody.
//!
//! The real program on files in a folder of its own; where a test has to see the socket itself, the library's
//! client or bare bytes.
#![cfg(feature = "cli")]

#[path = "common/program.rs"]
mod program;

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use uraid::format::superblock::Uuid;
use uraid::lu::{Access, Change, DiskName, MemberState, State};
use uraid::serve::control::{CONNECTIONS, Client, EventKind, Holding, STREAMS, Server};
use uraid::serve::nbd::wire::{self, Request, option};
use uraid::units::Level;
use uraid::{ErrorKind, Lu};

const MEBIBYTE: u64 = 1 << 20;

/// How long anything may take before a test gives up on it.
const LONG: Duration = Duration::from_secs(60);

/// A folder in which programs run.
struct Bench {
    folder: TempDir,
}

/// A running `uraid export`, killed when dropped.
struct Export {
    child: Child,
}

impl Drop for Export {
    fn drop(&mut self) {
        // It may have gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Export {
    /// Waits for its end: exit code.
    fn code(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(start.elapsed() < LONG, "it does not end");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Bench {
    fn new() -> Bench {
        Bench { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run_folder(&self) -> PathBuf {
        self.path("run")
    }

    fn uraid(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_uraid"));
        command.args(line.split_whitespace()).current_dir(self.folder.path()).stdin(Stdio::null());
        command.env("URAID_RUNTIME_DIR", self.run_folder()).env("URAID_CONFIG", self.path("uraid.toml"));
        command
    }

    /// Runs `uraid LINE`, which has to end with `code`; both its streams.
    #[track_caller]
    fn expect(&self, code: i32, line: &str) -> String {
        let output = self.uraid(line).output().unwrap();
        let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(code), "uraid {line}\n{told}");
        told
    }

    /// Runs `uraid LINE --json`, which has to end with `code`; its document.
    #[track_caller]
    fn document(&self, code: i32, line: &str) -> Value {
        let output = self.uraid(&format!("{line} --json")).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "uraid {line}\n{told}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("uraid {line}: {error}: {told}"))
    }

    #[track_caller]
    fn status(&self, lu: &str) -> Value {
        self.document(0, &format!("status {lu}"))["lus"][0].clone()
    }

    /// A RAID5 named `data` of three new files `d0`... of so many bytes, and an empty configuration.
    fn raid5(&self, bytes: u64) {
        fs::write(self.path("uraid.toml"), "").unwrap();
        self.expect(0, &format!("create data --level 5 ./d0 ./d1 ./d2 --disk-size {bytes}"));
    }

    fn disk(&self, name: &str, bytes: u64) {
        fs::File::create(self.path(name)).unwrap().set_len(bytes).unwrap();
    }

    /// Starts `uraid export ./d0 LINE` and waits until it serves.
    #[track_caller]
    fn export(&self, line: &str) -> Export {
        let mut command = self.uraid(&format!("export ./d0 {line}"));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut uri = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut uri).unwrap();
        assert!(uri.starts_with("nbd+unix"), "export {line}: {uri}");
        Export { child }
    }

    fn uuid(&self) -> Uuid {
        self.status("./d0")["uuid"].as_str().unwrap().parse().unwrap()
    }

    fn socket(&self) -> PathBuf {
        self.run_folder().join(format!("{}.sock", self.uuid()))
    }
}

/// A thread that writes and reads back over NBD until it is told to stop, or the server goes.
struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Load {
    fn start(socket: PathBuf) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let ended = stop.clone();
        let thread = thread::spawn(move || {
            let mut client = Nbd::connect(&socket);
            let mut rounds = 0;
            while !ended.load(Ordering::Relaxed) {
                let offset = rounds % 64 * 40_000;
                let bytes = vec![rounds as u8 ^ 0x5a; 20_001];
                if client.write(offset, &bytes).is_err() {
                    break;
                }
                match client.read(offset, bytes.len()) {
                    Ok(read) => assert!(read == bytes, "round {rounds}"),
                    Err(_) => break,
                }
                rounds += 1;
            }
            rounds
        });
        Load { stop, thread }
    }

    /// Rounds that came back as they went.
    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// A client of the block device: one request at a time, simple replies.
struct Nbd(UnixStream);

impl Nbd {
    fn connect(socket: &Path) -> Nbd {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).unwrap();
        stream.write_all(&3u32.to_be_bytes()).unwrap();
        let export = [
            &wire::OPTION_MAGIC.to_be_bytes()[..],
            &option::EXPORT_NAME.to_be_bytes(),
            &4u32.to_be_bytes(),
            b"data",
        ];
        stream.write_all(&export.concat()).unwrap();
        let mut terms = [0; 10];
        stream.read_exact(&mut terms).unwrap();
        Nbd(stream)
    }

    fn call(
        &mut self,
        command: wire::Command,
        offset: u64,
        length: usize,
        data: &[u8],
    ) -> std::io::Result<()> {
        let request = Request { flags: 0, command, cookie: 1, offset, length: length as u64 };
        self.0.write_all(&[&request.emit()[..], data].concat())?;
        let mut reply = [0; 16];
        self.0.read_exact(&mut reply)?;
        match u32::from_be_bytes(reply[4..8].try_into().unwrap()) {
            0 => Ok(()),
            // Shutting down.
            108 => Err(std::io::ErrorKind::ConnectionAborted.into()),
            error => panic!("{command:?}: error {error}"),
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.call(wire::Command::Write, offset, bytes.len(), bytes)
    }

    fn read(&mut self, offset: u64, length: usize) -> std::io::Result<Vec<u8>> {
        self.call(wire::Command::Read, offset, length, &[])?;
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

// ---- The verbs

#[test]
fn members_are_changed_while_the_lu_is_written() {
    let bench = Bench::new();
    bench.raid5(64 * MEBIBYTE);
    let mut export = bench.export("--nbd unix:s");
    let load = Load::start(bench.path("s"));

    // Held LUs are found by member, name and UUID, and listed.
    let uuid = bench.uuid();
    for lu in ["./d2", "data", &uuid.to_string(), "./d0,./d1,./d2"] {
        assert_eq!(bench.status(lu)["name"], "data", "{lu}");
    }
    assert_eq!(bench.document(0, "list")["lus"][0]["uuid"], uuid.to_string());

    let document = bench.document(0, "fail ./d0 ./d1");
    assert_eq!((&document["schema"], &document["slot"]), (&"uraid.fail/1".into(), &1.into()));
    assert_eq!(document["lu"]["state"], "degraded");
    assert_eq!(bench.status("data")["redundancy_left"], 0);
    bench.expect(6, "fail data ./d2");
    bench.expect(3, "fail data ./nothing");
    bench.expect(3, "fail data slot:7");
    bench.expect(0, "fail data ./d1");

    bench.disk("s0", 64 * MEBIBYTE);
    let document = bench.document(0, "add ./d0 ./s0");
    assert_eq!(document["schema"], "uraid.add/1");
    bench.expect(0, "wait data");
    let document = bench.document(0, "rebuild data");
    assert_eq!(
        (&document["schema"], &document["lu"]["state"]),
        (&"uraid.rebuild/1".into(), &"healthy".into())
    );
    assert_eq!(document["lu"]["work"], Value::Null);
    bench.expect(0, "remove data ./d1");

    bench.disk("s1", 64 * MEBIBYTE);
    assert_eq!(bench.document(0, "spare add data ./s1")["lu"]["spares"], 1);
    bench.expect(3, "spare remove data ./d0");
    assert_eq!(bench.document(0, "spare remove data ./s1")["lu"]["spares"], 0);
    fs::write(bench.path("full"), [&[0; 1080][..], &[0x53, 0xef], &[1; 100_000]].concat()).unwrap();
    bench.expect(2, "add data ./full");

    bench.disk("n0", 64 * MEBIBYTE);
    let document = bench.document(0, "replace data ./d2 ./n0");
    assert_eq!((&document["slot"], &document["lu"]["state"]), (&2.into(), &"healthy".into()));

    let events = bench.document(0, "events data");
    let kinds: Vec<&str> =
        events["events"].as_array().unwrap().iter().map(|event| event["kind"].as_str().unwrap()).collect();
    for kind in ["held", "order", "member", "state", "work", "warning"] {
        assert!(kinds.contains(&kind), "{kind} in {kinds:?}");
    }
    assert!(events["events"][0]["time"].as_str().unwrap().ends_with('Z'));

    // Bytes are for the block device.
    assert!(bench.expect(5, "read ./d0").contains("process"));
    bench.expect(5, "write ./d0");
    bench.expect(5, "export ./d0 --nbd unix:other");

    assert!(!load.thread.is_finished());
    assert!(load.end() > 0);
    assert_eq!(bench.document(0, "stop data")["schema"], "uraid.stop/1");
    assert_eq!(export.code(), Some(0));
    bench.expect(3, "stop ./d0");
    bench.expect(3, "events ./d0");
    bench.expect(3, "status data");
    assert_eq!(fs::read_dir(bench.run_folder()).unwrap().count(), 0);
}

#[test]
fn stop_under_load_leaves_the_lu_clean() {
    let bench = Bench::new();
    bench.raid5(32 * MEBIBYTE);
    for _ in 0..3 {
        let mut export = bench.export("--nbd unix:s");
        let loads = [Load::start(bench.path("s")), Load::start(bench.path("s"))];
        thread::sleep(Duration::from_millis(300));
        assert_eq!(bench.status("./d0")["dirty"], true, "held and written");
        let follower = bench.uraid("events data --follow --json").stdout(Stdio::piped()).spawn().unwrap();
        bench.expect(0, "stop ./d0");
        // Nobody holds it the moment that is said.
        let status = bench.status("./d0");
        assert_eq!((&status["state"], &status["dirty"]), (&"healthy".into(), &false.into()));
        bench.expect(0, "write ./d0");
        assert_eq!(export.code(), Some(0));
        for load in loads {
            load.end();
        }
        let told = follower.wait_with_output().unwrap();
        assert_eq!(told.status.code(), Some(0));
        for line in String::from_utf8(told.stdout).unwrap().lines() {
            assert_eq!(serde_json::from_str::<Value>(line).unwrap()["schema"], "uraid.event/1");
        }
    }
}

#[test]
fn work_pauses_goes_on_and_blocks_nobody() {
    let bench = Bench::new();
    bench.raid5(1024 * MEBIBYTE);
    let mut export = bench.export("--nbd unix:s");
    bench.expect(0, "fail data ./d1");
    bench.disk("s0", 1024 * MEBIBYTE);
    bench.expect(0, "add data ./s0");
    let waiting = bench.uraid("wait data").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let document = bench.document(0, "pause data");
    assert!(waiting.wait_with_output().unwrap().status.success());
    let done = document["lu"]["work"]["done_bytes"].as_u64().expect("a rebuild that rests");
    assert!(done < 1024 * MEBIBYTE);
    thread::sleep(Duration::from_millis(200));
    let work = &bench.status("data")["work"];
    assert_eq!((&work["kind"], work["done_bytes"].as_u64()), (&"rebuild".into(), Some(done)));
    assert!(bench.expect(0, "wait data").contains("paused"));
    bench.expect(0, "resume data");
    bench.expect(0, "wait data");
    assert_eq!(bench.status("data")["state"], "healthy");
    bench.expect(0, "stop data");
    assert_eq!(export.code(), Some(0));
    bench.expect(0, "pause ./d0");
}

#[test]
fn a_copy_of_a_held_lu_is_another_lu() {
    let bench = Bench::new();
    bench.raid5(32 * MEBIBYTE);
    fs::create_dir(bench.path("copy")).unwrap();
    for disk in ["d0", "d1", "d2"] {
        fs::copy(bench.path(disk), bench.path("copy").join(disk)).unwrap();
    }
    let _export = bench.export("--nbd unix:s");
    bench.expect(0, "fail ./copy/d0 slot:1");
    assert_eq!(bench.status("./copy/d0")["state"], "degraded");
    assert_eq!(bench.status("./d0")["state"], "healthy");
    bench.expect(3, "stop ./copy/d0");
    // Only one of them can answer to the UUID.
    bench.expect(5, "export ./copy/d0 --nbd unix:t");
    bench.expect(0, "stop data");
}

#[test]
fn a_reader_answers_and_changes_nothing() {
    let bench = Bench::new();
    bench.raid5(32 * MEBIBYTE);
    let mut one = bench.export("--nbd unix:s --read-only");
    let mut other = bench.export("--nbd unix:t --read-only");
    assert_eq!(bench.status("data")["state"], "healthy");
    bench.expect(5, "fail data ./d1");
    bench.expect(0, "wait data");
    bench.expect(0, "stop data");
    assert_eq!(one.code(), Some(0));
    assert_eq!(other.child.try_wait().unwrap(), None);
    // The one that is left has no socket: it is busy, as ever.
    bench.expect(5, "fail ./d0 ./d1");
    other.child.kill().unwrap();
    other.code();
    bench.expect(0, "wait ./d0");
}

#[test]
fn the_daemon_serves_what_is_listed() {
    let bench = Bench::new();
    bench.raid5(32 * MEBIBYTE);
    bench.expect(0, "create other --level 1 ./e0 ./e1 --disk-size 16M");
    bench.expect(0, "create third --level 1 ./f0 ./f1 --disk-size 16M");
    let list = "[[lu]]\nname = 'one'\ndisks = ['d0', 'd1', 'd2']\nnbd = 'unix:s'\n\
                [[lu]]\nname = 'other'\ndisks = ['e0', 'e1']\nnbd = 'unix:t'\nread_only = true\n\
                [[lu]]\nname = 'gone'\ndisks = ['g0', 'g1']\nnbd = 'unix:u'\n\
                [[lu]]\nname = 'third'\ndisks = ['f0', 'f1']\n";
    fs::write(bench.path("uraid.toml"), list).unwrap();
    bench.expect(0, "config check");
    let notified = UnixDatagram::bind(bench.path("notify")).unwrap();
    notified.set_read_timeout(Some(LONG)).unwrap();
    let mut command = bench.uraid("daemon");
    command.env("NOTIFY_SOCKET", bench.path("notify")).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut daemon = Export { child: command.spawn().unwrap() };
    let mut said = [0; 1000];
    let length = notified.recv(&mut said).unwrap();
    assert!(said[..length].starts_with(b"READY=1\n"));
    let load = Load::start(bench.path("s"));
    // By the name of the list, and by its own.
    assert_eq!(bench.status("one")["uuid"], bench.status("data")["uuid"]);
    assert_eq!(bench.document(0, "fail one slot:1")["lu"]["state"], "degraded");
    bench.expect(5, "fail other slot:1");
    bench.expect(0, "stop other");
    bench.expect(0, "fail other slot:1");
    // Nobody serves the third one.
    bench.expect(0, "write third");
    Command::new("kill").arg(daemon.child.id().to_string()).status().unwrap();
    assert_eq!(daemon.code(), Some(0));
    let length = notified.recv(&mut said).unwrap();
    assert_eq!(&said[..length], b"STOPPING=1");
    load.end();
    assert_eq!(bench.status("one")["dirty"], false);
    let mut told = String::new();
    daemon.child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert!(told.contains("gone: "), "{told}");

    fs::write(bench.path("bad"), list.replace("read_only", "readonly")).unwrap();
    assert!(bench.expect(2, "config check bad").contains("bad:9: "));
    assert!(bench.expect(2, "daemon --config bad").contains("bad:9: "));
    let document = bench.document(2, "config check bad");
    assert_eq!((&document["schema"], &document["wrong"][0]["line"]), (&"uraid.config/1".into(), &9.into()));
    bench.expect(3, "config check none");
    bench.expect(3, "daemon --config none");
    fs::write(bench.path("idle"), "").unwrap();
    bench.expect(2, "daemon --config idle");
}

// ---- Holders that die, and such that race

#[test]
fn what_a_killed_holder_left_is_replaced() {
    let bench = Bench::new();
    bench.raid5(32 * MEBIBYTE);
    let mut export = bench.export("--nbd unix:s");
    let socket = bench.socket();
    export.child.kill().unwrap();
    export.code();
    assert!(socket.exists());
    bench.expect(3, "stop ./d0");
    bench.expect(3, "status data");
    bench.expect(0, "wait ./d0");
    let _export = bench.export("--nbd unix:s");
    assert_eq!(bench.status("data")["state"], "healthy");
    bench.expect(0, "stop data");
    assert!(!socket.exists());
}

#[test]
fn of_two_exports_one_holds() {
    let bench = Bench::new();
    bench.raid5(32 * MEBIBYTE);
    for round in 0..5 {
        let start = |name: &str| {
            let mut command = bench.uraid(&format!("export ./d0 --nbd unix:{name}"));
            Export { child: command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap() }
        };
        let mut both = [start("a"), start("b")];
        let begun = Instant::now();
        let loser = loop {
            match both.iter_mut().position(|export| export.child.try_wait().unwrap().is_some()) {
                Some(loser) => break loser,
                None => assert!(begun.elapsed() < LONG, "both hold it"),
            }
            thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(both[loser].code(), Some(5), "round {round}");
        // The winner may not answer yet.
        while bench.uraid("stop ./d0").output().unwrap().status.code() != Some(0) {
            assert!(begun.elapsed() < LONG, "the winner does not stop");
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(both[1 - loser].code(), Some(0), "round {round}");
    }
}

#[test]
fn a_folder_that_others_can_open_is_refused() {
    let bench = Bench::new();
    bench.raid5(32 * MEBIBYTE);
    fs::create_dir(bench.run_folder()).unwrap();
    fs::set_permissions(bench.run_folder(), Permissions::from_mode(0o755)).unwrap();
    assert!(bench.expect(6, "export ./d0 --nbd unix:s").contains("chmod 700"));
    fs::set_permissions(bench.run_folder(), Permissions::from_mode(0o700)).unwrap();
    drop(bench.export("--nbd unix:s"));
}

// ---- Clients that are not what they should be

#[test]
fn nonsense_hurts_nobody() {
    let bench = Bench::new();
    bench.raid5(32 * MEBIBYTE);
    let _export = bench.export("--nbd unix:s");
    let (socket, uuid) = (bench.socket(), bench.uuid());
    let nonsense: Vec<Vec<u8>> = vec![
        b"\n".to_vec(),
        b"null\n".to_vec(),
        b"{\"change\":{\"fail\":{\"disk\":{\"slot\":-1}}}}\n".to_vec(),
        b"{\"change\":{\"format_the_disk\":{}}}\n".to_vec(),
        b"{\"events\":{\"follow\":\"yes\"}}\n".to_vec(),
        b"{\"change\":{\"fail\":{\"disk\":{\"path\":\"\\u0000\"}}}}\n".to_vec(),
        vec![0; 300],
        vec![0xff; 300],
        [vec![b'['; 60_000], b"\n".to_vec()].concat(),
        vec![b'x'; 100_000],
        b"\"status\"".to_vec(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"\"status\"\n\"status\"\n\"wait\"\n".to_vec(),
    ];
    let (stop, patient) = (AtomicBool::new(false), &bench.run_folder());
    thread::scope(|scope| {
        let good = scope.spawn(|| {
            let (mut client, mut asked) = (Client::connect(patient, uuid).unwrap(), 0);
            while !stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                assert_eq!(client.status().unwrap().state, State::Healthy);
                assert!(start.elapsed() < Duration::from_secs(5), "held up by another client");
                asked += 1;
                thread::sleep(Duration::from_millis(1));
            }
            asked
        });
        for round in 0..1000 {
            let Ok(mut stream) = UnixStream::connect(&socket) else { continue };
            stream.set_read_timeout(Some(LONG)).unwrap();
            // It may have closed before the end.
            let _ = stream.write_all(&nonsense[round % nonsense.len()]);
            if round % 3 == 0 {
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = stream.read(&mut [0; 4096]);
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(good.join().unwrap() > 10);
    });
    bench.expect(0, "fail data ./d1");
    bench.expect(0, "stop data");
}

#[test]
fn places_are_few_and_silence_frees_them() {
    let bench = Bench::new();
    bench.raid5(32 * MEBIBYTE);
    let _export = bench.export("--nbd unix:s");
    let (socket, uuid, folder) = (bench.socket(), bench.uuid(), bench.run_folder());
    // Those who wait leave room for those who ask.
    let followers: Vec<UnixStream> = (0..STREAMS + 1)
        .map(|_| {
            let mut stream = UnixStream::connect(&socket).unwrap();
            stream.write_all(b"{\"events\":{\"follow\":true}}\n").unwrap();
            stream
        })
        .collect();
    let mut line = String::new();
    BufReader::new(followers.last().unwrap()).read_line(&mut line).unwrap();
    bench.expect(0, "status data");
    let begun = Instant::now();
    let silent: Vec<UnixStream> =
        (followers.len()..CONNECTIONS).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    // Who comes too late is told so.
    let refused = Client::connect(&folder, uuid).unwrap().status().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Busy, "{refused}");
    for mut stream in silent {
        stream.set_read_timeout(Some(LONG)).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
    assert!(begun.elapsed() >= Duration::from_secs(8), "thrown out too early");
    assert!(begun.elapsed() < Duration::from_secs(20), "kept too long");
    assert_eq!(Client::connect(&folder, uuid).unwrap().status().unwrap().state, State::Healthy);
    bench.expect(0, "stop data");
}

/// Names the socket for the test below when it runs as somebody else.
const ELSEWHERE: &str = "URAID_TEST_FOREIGN_SOCKET";

#[test]
fn another_user_is_turned_away() {
    if let Some(socket) = std::env::var_os(ELSEWHERE) {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        // It may have been closed already.
        let _ = stream.write_all(b"\"status\"\n");
        let mut told = String::new();
        let _ = stream.read_to_string(&mut told);
        assert!(told.contains("refused") && !told.contains("held"), "{told}");
        return;
    }
    if fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own)).unwrap() != 0 {
        return; // Only root can be somebody else.
    }
    let bench = Bench::new();
    bench.raid5(32 * MEBIBYTE);
    let _export = bench.export("--nbd unix:s");
    let socket = bench.socket();
    // Even with all doors open.
    for (path, mode) in [(bench.folder.path(), 0o755), (&bench.run_folder(), 0o755), (&socket, 0o666)] {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    let program = bench.path("program");
    program::copy(std::env::current_exe().unwrap(), &program);
    let mut command = Command::new(&program);
    command.args(["--exact", "another_user_is_turned_away"]).env(ELSEWHERE, &socket).uid(65534).gid(65534);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    fs::set_permissions(bench.run_folder(), Permissions::from_mode(0o700)).unwrap();
    bench.expect(0, "stop data");
}

// ---- The library

#[test]
fn a_program_that_embeds_an_lu_is_asked_too() {
    let folder = tempfile::tempdir().unwrap();
    let disk = |number: u32| folder.path().join(format!("d{number}"));
    let create = (0..3).fold(Lu::create("own", Level::Raid1), |create, number| create.disk(disk(number)));
    create.disk_size(16 << 20).make().unwrap().stop().unwrap();
    let lu = Arc::new(Lu::assemble().beside(disk(0)).access(Access::Write).open().unwrap());
    let run = folder.path().join("run");
    let server = Server::start(lu.clone(), &run, Holding::default()).unwrap();
    assert_eq!(Server::start(lu.clone(), &run, Holding::default()).unwrap_err().kind(), ErrorKind::Busy);

    let mut client = Client::connect(&run, lu.uuid()).unwrap();
    let (status, holding, pid) = client.look().unwrap();
    assert_eq!((status.name.as_str(), holding, pid), ("own", Holding::default(), std::process::id()));
    let changed = client.carry_out(&Change::Fail { disk: DiskName::Slot(1) }).unwrap();
    assert_eq!(changed.before.unwrap().state, MemberState::Active);
    assert_eq!(changed.status.state, State::Degraded);
    assert_eq!(lu.status().state, State::Degraded);
    assert!(client.wait_for_work(&mut |_| true).unwrap());
    let mut kinds = Vec::new();
    client
        .events(false, &mut |event| {
            kinds.push(event.kind);
            true
        })
        .unwrap();
    assert_eq!(kinds[..3], [EventKind::Held, EventKind::Order, EventKind::Member]);

    let asking = thread::spawn(move || client.stop());
    while !server.stop_wanted() {
        thread::sleep(Duration::from_millis(5));
    }
    let farewell = server.leave();
    let uuid = lu.uuid();
    let stopped = Arc::into_inner(lu).expect("nobody else has it").stop();
    assert!(!asking.is_finished(), "told before it was done");
    farewell.say(&stopped);
    asking.join().unwrap().unwrap();
    assert_eq!(Client::connect(&run, uuid).unwrap_err().kind(), ErrorKind::NotFound);
}
