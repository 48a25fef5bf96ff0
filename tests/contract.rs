//! What scripts build on: one table of exit codes over every verb, and documents that have all their fields,
//! with their types, in every state an LU can be in; and that commands which are told to be typed next do
//! work.
#![cfg(feature = "cli")]

#[path = "common/bench.rs"]
mod bench;

use std::fs;

use bench::{Bench, DISK, MIB};
use serde_json::Value;
use uraid::format::badblocks::BadBlocks;
use uraid::format::superblock::Features;
use uraid::units::Sectors;

/// What an LU can be like here; see [`zoo`].
///
/// | files | LU |
/// |---|---|
/// | `d0`-`d2`, `s0` | `data`, healthy, with a spare |
/// | `f0` | `broken`, one of two of a RAID0 |
/// | `h0`, `h1` | `held` |
/// | `m0` | `absent`, the other half newly missing |
/// | `p0`, `p1` | `dirty`, RAID5 with a member missing and writes in flight |
/// | `o0`, `o1` | `other` |
/// | `t0`-`t2` | `twins`, `tcopy` being a copy of `t1` |
/// | `blank`, `small`, `new`, `newer` | no member; `torn` a damaged one |
fn zoo() -> Bench {
    let bench = Bench::empty();
    bench.make("data", "5", 'd', 3, "--spare ./s0");
    bench.make("broken", "0", 'f', 2, "");
    bench.make("held", "1", 'h', 2, "");
    bench.make("absent", "1", 'm', 2, "");
    bench.make("dirty", "5", 'p', 3, "");
    bench.make("other", "1", 'o', 2, "");
    bench.make("twins", "5", 't', 3, "");
    ["f1", "m1", "p2"].iter().for_each(|name| bench.remove(name));
    ["p0", "p1"].iter().for_each(|name| bench.edit(name, |sb| sb.resync_offset = Sectors(0)));
    bench.copy("t1", "tcopy");
    bench.copy("o1", "torn");
    bench.poke("torn", 4096 + 100, &[0xff]);
    ["blank", "new", "newer"].iter().for_each(|name| bench.blank(name, DISK));
    bench.blank("small", DISK / 2);
    fs::write(bench.path("uraid.toml"), "[[lu]]\nname = 'data'\ndisks = ['d0', 'd1', 'd2', 's0']\n").unwrap();
    bench
}

/// Verb after verb: the code, and the line that ends with it. What changes something comes last.
const CODES: &[(i32, &str)] = &[
    // create
    (2, "create"),
    (2, "create x --level 5 ./a --disk-size 2M"),
    (2, "create x --level 9 ./a ./b --disk-size 2M"),
    (2, "create x --level 1 ./a ./a --disk-size 2M"),
    (2, "create x --level 1 ./a ./b --disk-size 8K"),
    (2, "create x --level 5 --chunk 3000 ./a ./b ./c --disk-size 2M"),
    (2, "create x --level 1 ./new /dev/null"),
    (3, "create x --level 1 ./a ./b"),
    (3, "create x --level 1 ./no/a ./no/b --disk-size 2M"),
    (5, "create x --level 1 ./h0 ./new --confirm x"),
    (6, "create x --level 1 ./o0 ./new"),
    // status
    (0, "status ./d0"),
    (0, "status data"),
    (0, "status"),
    (0, "status ./f0"),
    (0, "status ./h0"),
    (0, "status ./p0"),
    (2, "status ."),
    (2, "status ./d0,./d0"),
    (2, "status ./d0,./o0"),
    (2, "status --allow-dirty"),
    (2, "status ./d0 --allow-stale ./new"),
    (3, "status ./none"),
    (3, "status nobody"),
    (3, "status 01234567:89abcdef:01234567:89abcdef"),
    (4, "status ./t0"),
    (7, "status ./blank"),
    (7, "status ./torn"),
    // list, scan, inspect
    (0, "list"),
    (2, "list more"),
    (0, "scan ./d0 ./blank ./o0"),
    (2, "scan"),
    (3, "scan ./none"),
    (4, "scan ."),
    (0, "inspect ./d0"),
    (0, "inspect ./h0"),
    (2, "inspect ."),
    (2, "inspect /dev/null"),
    (3, "inspect ./none"),
    (7, "inspect ./blank"),
    (7, "inspect ./torn"),
    // read
    (0, "read ./d0 -o out"),
    (0, "read ./m0 -o out"),
    (0, "read ./p0 -o out --allow-dirty"),
    (1, "read ./d0 -o /dev/full"),
    (2, "read ./d0 --offset 1T"),
    (2, "read ./d0 --json"),
    (2, "read ./d0 -o ./d1"),
    (3, "read ./none"),
    (3, "read ./d0,./none"),
    (4, "read ./f0"),
    (4, "read ./p0"),
    (4, "read ./t0"),
    (5, "read ./h0"),
    (7, "read ./blank"),
    // write
    (0, "write ./d0 -i ./blank"),
    (1, "write ./d0 -i ./blank --offset 1M"),
    (1, "write ./d0 --offset 1T"),
    (2, "write ./d0 -i ./d1"),
    (2, "write ./d0,./o1"),
    (3, "write ./none"),
    (3, "write ./d0 -i ./none"),
    (4, "write ./f0"),
    (4, "write ./p0 --degraded"),
    (5, "write ./h0"),
    (6, "write ./m0"),
    (6, "write ./p0 --allow-dirty"),
    (7, "write ./torn"),
    // wait
    (0, "wait ./d0"),
    (0, "wait ./m0"),
    (3, "wait ./none"),
    (4, "wait ./t0"),
    (5, "wait ./h1"),
    (7, "wait ./blank"),
    // rebuild
    (0, "rebuild ./d0"),
    (2, "rebuild"),
    (3, "rebuild nobody"),
    (4, "rebuild ./f0"),
    (5, "rebuild ./h0"),
    (6, "rebuild ./m0"),
    (7, "rebuild ./blank"),
    // fail, remove, add, spare: what is refused
    (2, "fail ./d0"),
    (3, "fail ./none ./d0"),
    (3, "fail ./d0 ./none"),
    (3, "fail ./d0 ./new"),
    (3, "fail ./d0 ./s0"),
    (3, "fail ./d0 slot:3"),
    (4, "fail ./f0 ./f0"),
    (5, "fail ./h0 ./h1"),
    (6, "fail ./m0 slot:1"),
    (6, "fail ./m0 slot:1 --allow-stale ./m0"),
    (7, "fail ./blank ./blank"),
    (2, "replace ./d0"),
    (2, "replace ./d0 ./d1 ./small"),
    (3, "replace ./none ./d1 ./new"),
    (3, "replace ./d0 ./none ./new"),
    (3, "replace ./d0 ./new ./o0"),
    (6, "replace ./d0 ./d1 ./o0"),
    (5, "replace ./h0 ./h1 ./new"),
    (7, "replace ./blank ./d1 ./new"),
    (3, "remove ./d0 ./new"),
    (4, "remove ./p0 ./p1"),
    (5, "remove ./h0 ./h1"),
    (6, "remove ./m0 slot:1"),
    (7, "remove ./blank ./blank"),
    (2, "add ./d0 ./d1"),
    (2, "add ./d0 ./small"),
    (3, "add ./d0 slot:1"),
    (2, "add ./d0 ./new --confirm other"),
    (3, "add ./d0 ./none"),
    (4, "add ./f0 ./new"),
    (5, "add ./h0 ./new"),
    (5, "add ./d0 ./h1"),
    (6, "add ./d0 ./o0"),
    (6, "add ./m0 ./new"),
    (7, "add ./blank ./new"),
    (2, "spare add ./d0 ./small"),
    (2, "spare frob ./d0 ./small"),
    (6, "spare add ./d0 ./o0"),
    (3, "spare remove ./d0 ./d1"),
    (3, "spare remove ./d0 ./new"),
    (5, "spare remove ./h0 ./h1"),
    // the rest
    (0, "--help"),
    (0, "help read"),
    (0, "--version"),
    (2, ""),
    (2, "frob"),
    (0, "completions bash"),
    (2, "completions none"),
    (0, "man"),
    (0, "man --dir pages"),
    (0, "demo --size 16M"),
    (3, "demo --dir ./none"),
    // what is done
    (0, "create x --level 1 ./a ./b --disk-size 2M"),
    (0, "spare remove ./d0 ./s0"),
    (3, "spare remove ./d0 ./s0"),
    (0, "spare add ./d0 ./s0"),
    (0, "fail ./d0 ./d1"),
    (0, "rebuild ./d0"),
    (0, "fail ./d0 ./d1"),
    (0, "remove ./d0 ./d1"),
    (0, "fail ./d0 ./d2"),
    (6, "fail ./d0 ./d0"),
    (6, "remove ./d0 ./d0"),
    (1, "rebuild ./d0"),
    (0, "add ./d0 ./new"),
    (0, "rebuild ./d0"),
    (0, "write ./m0 --degraded"),
    (0, "fail ./m0 slot:1"),
    (0, "remove ./m0 slot:1"),
    (0, "add ./m0 ./o0 --confirm absent"),
    (0, "rebuild ./m0"),
    (0, "write ./p0 --allow-dirty --degraded"),
    (0, "read ./p0 -o out"),
];

#[test]
fn exit_codes() {
    let bench = zoo();
    let mut holder = bench.hold("write ./h0", 2);
    for &(code, line) in CODES {
        // What fails has not changed anything (the table has no failure in the middle of something but
        // these).
        let before = bench.stamps();
        let ran = bench.ends(code, line);
        let partly = line.starts_with("write ./d0") || line == "rebuild ./d0";
        if code == 0 || partly {
            continue;
        }
        assert!(ran.err.starts_with("uraid: ") || code == 2, "uraid {line}: {}", ran.err);
        assert!(!ran.err.contains("panicked"), "uraid {line}: {}", ran.err);
        let now = bench.stamps();
        let changed = before.keys().find(|path| now.get(*path) != before.get(*path));
        let held_or_output = |path: &std::path::PathBuf| path.ends_with("h0") || path.ends_with("h1");
        assert!(changed.is_none_or(held_or_output), "uraid {line} changed {changed:?}");
        assert!(now.len() == before.len(), "uraid {line} left something");
        // The same as a document.
        if code != 4 || line != "scan ." {
            let ran = bench.run(&format!("{line} --json"));
            let document: Value = serde_json::from_slice(&ran.out).unwrap_or_default();
            let told = (&document["schema"], &document["exit_code"]);
            assert_eq!(
                told,
                (&"uraid.error/1".into(), &ran.code.into()),
                "uraid {line} --json\n{}",
                ran.words()
            );
            let kinds = ["io", "usage", "not_found", "cannot_start", "busy", "refused", "format"];
            let code = ran.code.unwrap() as usize;
            assert_eq!(document["kind"], kinds[code - 1], "{line}");
            assert!(document["message"].is_string() && document["next"].is_array(), "{document:#}");
        }
    }
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
}

// ---- Documents

/// The type of a field: `s`tring, `n`umber (not negative), `b`oolean, `a`rray of strings; a `?` before it is
/// "or null".
type Field = (&'static str, &'static str);

const LU: &[Field] = &[
    ("name", "s"),
    ("uuid", "s"),
    ("level", "s"),
    ("layout", "?s"),
    ("chunk_bytes", "n"),
    ("size_bytes", "n"),
    ("policy", "s"),
    ("state", "s"),
    ("redundancy_left", "n"),
    ("spares", "n"),
    ("dirty", "b"),
    ("warnings", "a"),
    ("next", "a"),
    ("refusal", "?s"),
    ("events", "n"),
    ("metadata", "s"),
];
const MEMBER: &[Field] = &[
    ("slot", "?n"),
    ("disk", "?s"),
    ("state", "s"),
    ("read_errors", "n"),
    ("events", "?n"),
    ("uuid", "?s"),
    ("reason", "?s"),
];
const WORK: &[Field] = &[("kind", "s"), ("done_bytes", "n"), ("total_bytes", "n"), ("eta_seconds", "?n")];
const INSPECT: &[Field] = &[
    ("disk", "s"),
    ("disk_bytes", "n"),
    ("version", "s"),
    ("features", "a"),
    ("array_uuid", "s"),
    ("name", "s"),
    ("level", "?s"),
    ("raid_devices", "n"),
    ("chunk_bytes", "n"),
    ("data_offset_bytes", "n"),
    ("super_offset_bytes", "n"),
    ("state", "s"),
    ("device_uuid", "s"),
    ("checksum", "s"),
    ("checksum_correct", "b"),
    ("events", "n"),
    ("device_number", "n"),
    ("device_role", "s"),
    ("array_state", "s"),
];

#[track_caller]
fn has(value: &Value, fields: &[Field]) {
    for &(name, sort) in fields {
        let field = value.get(name).unwrap_or_else(|| panic!("no {name} in {value:#}"));
        let right = match sort.trim_start_matches('?') {
            "s" => field.is_string(),
            "n" => field.is_u64(),
            "b" => field.is_boolean(),
            _ => field.as_array().is_some_and(|all| all.iter().all(Value::is_string)),
        };
        assert!(right || sort.starts_with('?') && field.is_null(), "{name} in {value:#}");
    }
}

#[track_caller]
fn is_an_lu(lu: &Value) {
    has(lu, LU);
    let one_of = |field: &Value, all: &[&str]| all.contains(&field.as_str().unwrap());
    assert!(one_of(&lu["state"], &["failed", "rebuilding", "degraded", "resyncing", "healthy"]), "{lu:#}");
    let work = lu.get("work").unwrap_or_else(|| panic!("no work in {lu:#}"));
    if !work.is_null() {
        has(work, WORK);
        assert!(work["done_bytes"].as_u64() <= work["total_bytes"].as_u64(), "{work:#}");
    }
    for member in lu["members"].as_array().unwrap() {
        has(member, MEMBER);
        let states = ["active", "rebuilding", "faulty", "stale", "missing", "spare", "replacement"];
        assert!(one_of(&member["state"], &states), "{member:#}");
        let state = member["state"].as_str().unwrap();
        assert_eq!(member["disk"].is_null(), state == "missing", "{member:#}");
        let in_a_slot = ["active", "rebuilding", "missing", "replacement"].contains(&state);
        assert_eq!(member["slot"].is_u64(), in_a_slot, "{member:#}");
    }
}

/// `2026-11-23T08:23:06Z`, with or without a fraction.
#[track_caller]
fn is_a_time(text: &Value) {
    let text = text.as_str().unwrap_or_else(|| panic!("no time: {text}"));
    let time: Result<jiff::Timestamp, _> = text.parse();
    assert!(time.is_ok() && text.len() >= 20 && text.as_bytes()[10] == b'T' && text.ends_with('Z'), "{text}");
}

/// A state: how it comes about, and what the LU then is.
struct State {
    name: &'static str,
    make: fn(&Bench),
    state: &'static str,
    redundancy: u64,
    /// Which members are there, by state, in their order.
    members: &'static [&'static str],
}

const STATES: &[State] = &[
    State {
        name: "healthy",
        make: |_| {},
        state: "healthy",
        redundancy: 1,
        members: &["active", "active", "active"],
    },
    State {
        name: "with a spare",
        make: |b| {
            b.blank("s0", DISK);
            b.ok("spare add ./d0 ./s0");
        },
        state: "healthy",
        redundancy: 1,
        members: &["active", "active", "active", "spare"],
    },
    State {
        name: "newly degraded",
        make: |b| b.remove("d1"),
        state: "degraded",
        redundancy: 0,
        members: &["active", "missing", "active"],
    },
    State {
        name: "degraded on record, the former member is there",
        make: |b| {
            b.ok("fail ./d0 ./d1");
        },
        state: "degraded",
        redundancy: 0,
        members: &["active", "missing", "active", "stale"],
    },
    State {
        name: "degraded, a spare is there",
        make: |b| {
            b.blank("s0", DISK);
            b.ok("spare add ./d0 ./s0");
            b.remove("d1");
        },
        state: "degraded",
        redundancy: 0,
        members: &["active", "missing", "active", "spare"],
    },
    State {
        name: "rebuilding, paused",
        make: |b| {
            b.ok("fail ./d0 ./d1");
            b.ok("add ./d0 ./d1");
            b.edit("d1", |sb| {
                sb.features = sb.features.with(Features::RECOVERY_OFFSET);
                sb.recovery_offset = Sectors(256);
            });
        },
        state: "rebuilding",
        redundancy: 0,
        members: &["active", "rebuilding", "active"],
    },
    State {
        name: "resyncing",
        make: |b| (0..3).for_each(|i| b.edit(&format!("d{i}"), |sb| sb.resync_offset = Sectors(128))),
        state: "resyncing",
        redundancy: 1,
        members: &["active", "active", "active"],
    },
    State {
        name: "failed",
        make: |b| {
            b.remove("d1");
            b.remove("d2");
        },
        state: "failed",
        redundancy: 0,
        members: &["active", "missing", "missing"],
    },
    State {
        name: "failed for stale members",
        make: |b| {
            b.edit("d1", |sb| sb.events -= 2);
            b.edit("d2", |sb| sb.events -= 2);
        },
        state: "failed",
        redundancy: 0,
        members: &["active", "missing", "missing", "stale", "stale"],
    },
    State {
        name: "dirty and degraded",
        make: |b| {
            (0..3).for_each(|i| b.edit(&format!("d{i}"), |sb| sb.resync_offset = Sectors(0)));
            b.remove("d1");
        },
        state: "failed",
        redundancy: 0,
        members: &["active", "missing", "active"],
    },
    State {
        name: "a damaged member",
        make: |b| b.poke("d1", 4096 + 100, &[0xff]),
        state: "degraded",
        redundancy: 0,
        members: &["active", "missing", "active", "faulty"],
    },
];

#[test]
fn documents_are_whole_in_every_state_and_what_they_tell_to_type_works() {
    for state in STATES {
        let bench = Bench::lu("5", 3);
        (state.make)(&bench);
        fs::write(bench.path("uraid.toml"), "[[lu]]\nname = 'data'\ndisks = ['d0', 'd1', 'd2', 's0']\n")
            .unwrap();
        for (line, schema) in [
            ("status ./d0", "uraid.status/1"),
            ("status", "uraid.status/1"),
            ("scan .", "uraid.scan/1"),
            ("list", "uraid.list/1"),
        ] {
            let document = bench.document(line);
            assert_eq!(document["schema"], schema);
            let [lu] = &document["lus"].as_array().unwrap()[..] else { panic!("{document:#}") };
            is_an_lu(lu);
            let members =
                lu["members"].as_array().unwrap().iter().map(|member| member["state"].as_str().unwrap());
            assert_eq!(members.collect::<Vec<_>>(), state.members, "{}: {line} {lu:#}", state.name);
            let stands = (&lu["state"], &lu["redundancy_left"]);
            assert_eq!(stands, (&state.state.into(), &state.redundancy.into()), "{}: {line}", state.name);
            assert_eq!(lu["refusal"].is_string(), state.state == "failed", "{}: {lu:#}", state.name);
        }
        let inspected = bench.document("inspect ./d0");
        has(&inspected, INSPECT);
        assert_eq!(inspected["schema"], "uraid.inspect/1");
        is_a_time(&inspected["created"]);
        is_a_time(&inspected["updated"]);

        // Typed as it is told, until nothing is left to do.
        if state.state == "failed" {
            continue;
        }
        for _ in 0..3 {
            let lu = bench.status("./d0");
            let Some(next) = lu["next"].as_array().unwrap().first() else { break };
            let mut line = next.as_str().unwrap().to_owned();
            if let Some(place) = line.find(" DISK") {
                let room = line.split("at least ").nth(1).unwrap().split(' ').next().unwrap();
                bench.blank("fresh", room.parse().unwrap());
                line.replace_range(place..place + 5, " ./fresh");
            }
            let ran = bench.paste(&line);
            assert_eq!(ran.code, Some(0), "{}: {line}\n{}", state.name, ran.words());
        }
        let lu = bench.status("./d0");
        assert_eq!((&lu["state"], &lu["redundancy_left"]), (&"healthy".into(), &1.into()), "{}", state.name);
        assert!(lu["next"].as_array().unwrap().is_empty(), "{lu:#}");
        bench.holds("./d0", 1);
    }
}

#[test]
fn a_rebuild_that_lost_something_says_what() {
    let bench = Bench::lu("5", 3);
    // A sector of d2 that cannot be read, on its list as the kernel would put it there.
    let superblock = bench.superblock("d2");
    let area = superblock.bblog_area().unwrap();
    let mut list = BadBlocks::new();
    list.insert(superblock.data_offset + Sectors(64), Sectors(8));
    let bytes = list.emit(superblock.bblog.shift, area.length.bytes() as usize / 8).unwrap();
    bench.poke("d2", area.start.bytes(), &bytes);
    bench.edit("d2", |sb| sb.features = sb.features.with(Features::BAD_BLOCKS));
    bench.holds("./d0", 1);
    bench.ok("fail ./d0 ./d1");
    // So small a slot may be filled before the verb that begins it is back: whoever met the loss has to tell
    // of it.
    let mut lost = Vec::new();
    for (line, schema) in [("add ./d0 ./d1", "uraid.add/1"), ("rebuild ./d0", "uraid.rebuild/1")] {
        let ran = bench.run(&format!("{line} --json"));
        let document: Value = serde_json::from_slice(&ran.out).unwrap();
        assert_eq!(document["schema"], schema, "one document: {document:#}");
        is_an_lu(&document["lu"]);
        let ranges = document["lost"].as_array().cloned().unwrap_or_default();
        assert_eq!(ran.code, Some(i32::from(!ranges.is_empty())), "{}", ran.words());
        assert_eq!(ran.err.contains("bytes of data are lost"), !ranges.is_empty(), "{}", ran.err);
        lost.extend(ranges);
    }
    assert_eq!(bench.status("./d0")["state"], "healthy");
    let bytes: u64 = lost.iter().map(|range| range["bytes"].as_u64().unwrap()).sum();
    assert!((4096..=2 * 4096).contains(&bytes), "{lost:#?}");
    // What is lost is an error; what is beside it is there.
    let at = lost[0]["offset"].as_u64().unwrap();
    bench.ends_untouched(1, &format!("read ./d0 --offset {at} --length 1 -o /dev/null"), &[]);
    bench.ends_untouched(0, &format!("read ./d0 --offset {} -o /dev/null", at + MIB as u64 / 4), &[]);
}
