//! `uraid bench` as its users meet it: what it measures adds up, what it makes is gone afterwards, and what it
//! was not told to destroy is still there.
#![cfg(feature = "cli")]

#[path = "common/bench.rs"]
mod bench;

use serde_json::Value;

use bench::Bench;

/// A run short enough for a test: what is measured means nothing then, but it is there.
const SHORT: &str = "--disk-size 16M --runtime 50ms --rounds 1";

#[test]
fn disks_in_memory_show_what_a_level_costs() {
    let bench = Bench::empty();
    for (shape, rw, reads, writes) in [
        ("--level 0", "randread", 1.0, 0.0),
        ("--level 0", "randwrite", 0.0, 1.0),
        ("--level 1 --disks 3", "randwrite", 0.0, 3.0),
        ("--level 10", "randwrite", 0.0, 2.0),
        ("--level 5", "randread", 1.0, 0.0),
        ("--level 5", "randwrite", 2.0, 2.0),
        ("--level 6 --disks 6", "randwrite", 3.0, 3.0),
    ] {
        // So few in flight that hardly any meet.
        let line = format!("bench --memory {shape} --rw {rw} --depth 2 {SHORT}");
        let document = bench.document(&line);
        assert_eq!(document["schema"], "uraid.bench/1");
        let operations = &document["disk_operations_per_request"];
        let near = |name: &str, wanted: f64| {
            let got = operations[name].as_f64().unwrap();
            assert!((got - wanted).abs() <= 0.05 * wanted, "{line}: {got} {name}, not {wanted}");
        };
        near("reads", reads);
        near("writes", writes);
        let price = &document["disk_bytes_per_byte"];
        assert_eq!(price["written"], writes, "{line}");
        assert!(document["ratio_to_limit"]["median"].as_f64().unwrap() > 0.0, "{line}");
        let requests = document["measured"]["requests_per_second"]["median"].as_f64().unwrap();
        assert!(requests > 0.0, "{line}");
        assert!(document["latency_ns"]["p50"].as_u64() <= document["latency_ns"]["p999"].as_u64(), "{line}");
    }
}

#[test]
fn a_rebuild_costs_what_the_level_says() {
    let bench = Bench::empty();
    for (shape, reads, stage) in [
        ("--level 5", 3.0, "--memory"),
        ("--level 6 --disks 6", 4.0, "--memory"),
        ("--level 1 --disks 2", 1.0, "--disks-in ."),
        ("--level 10 --layout f2", 1.0, "--memory"),
    ] {
        let line = format!("bench {stage} {shape} --rw rebuild --disk-size 64M --runtime 50ms --rounds 1");
        let document = bench.document(&line);
        let operations = &document["disk_operations_per_request"];
        let near = |name: &str, wanted: f64| {
            let got = operations[name].as_f64().unwrap() / f64::from(1 << 20);
            // Superblocks, and what a new member is begun with, come on top.
            assert!(got >= wanted && got <= 1.1 * wanted, "{line}: {got} {name}, not {wanted}");
        };
        near("read_bytes", reads);
        near("written_bytes", 1.0);
        let price = &document["disk_bytes_per_byte"];
        assert_eq!((&price["read"], &price["written"]), (&reads.into(), &1.0.into()), "{line}");
        assert_eq!(document["lu"]["state"], "healthy", "{line}");
        assert!(document["ratio_to_limit"]["median"].as_f64().unwrap() > 0.0, "{line}");
        assert!(document["beside"]["calm_latency_ns"]["p50"].as_u64() > Some(0), "{line}");
    }
    assert_eq!(std::fs::read_dir(bench.path(".")).unwrap().count(), 0, "files are left");
}

#[test]
fn small_writes_one_after_the_other_become_full_stripes() {
    let bench = Bench::empty();
    let line = format!("bench --disks-in . --level 5 --rw write --depth 64 {SHORT}");
    let document = bench.document(&line);
    let operations = &document["disk_operations_per_request"];
    let (reads, writes) = (operations["reads"].as_f64().unwrap(), operations["writes"].as_f64().unwrap());
    // One by one they would be two each.
    assert!(reads < 0.2 && writes < 0.5, "{reads} reads and {writes} writes for a request");
}

#[test]
fn files_and_degraded_lus_are_measured_and_cleared_away() {
    let bench = Bench::empty();
    let line = format!("bench --disks-in . --level 5 --degraded --rw randrw --bs 8K --threads 2 {SHORT}");
    let document = bench.document(&line);
    assert_eq!(document["lu"]["state"], "degraded");
    assert_eq!(document["load"]["threads"], 2);
    assert!(document["raw_read"]["bytes_per_second"]["median"].as_f64().unwrap() > 0.0);
    assert!(document["raw_write"]["bytes_per_second"]["median"].as_f64().unwrap() > 0.0);
    assert_eq!(std::fs::read_dir(bench.path(".")).unwrap().count(), 0, "files are left");
}

#[test]
fn an_lu_that_exists_is_read_and_written_only_if_that_is_meant() {
    let bench = Bench::empty();
    bench.ok("create data --level 1 ./d0 ./d1 --disk-size 16M");
    let content = || ["d0", "d1"].map(|disk| std::fs::read(bench.path(disk)).unwrap());
    let before = content();
    let short = "--runtime 50ms --rounds 1";
    let document = bench.document(&format!("bench ./d0 --rw randread {short}"));
    assert_eq!((&document["lu"]["name"], &document["raw_write"]), (&"data".into(), &Value::Null));
    assert!(document["ratio_to_limit"]["median"].as_f64().unwrap() > 0.0);
    assert!(before == content(), "reading has changed a disk");

    let said = bench.ends(6, &format!("bench ./d0 --rw randwrite {short}")).err;
    assert!(said.contains("--confirm data"), "{said}");
    bench.ends(6, &format!("bench ./d0 --rw randwrite --confirm other {short}"));
    bench.ends(6, &format!("bench --on ./d0,./d1 --level 0 {short}"));
    assert!(before == content(), "a refusal has changed a disk");

    let line = format!("bench ./d0 --rw randwrite --confirm data {short} --json");
    let written: Value = serde_json::from_slice(&bench.ok(&line).out).unwrap();
    assert_eq!(written["ratio_to_limit"], Value::Null, "its disks are not written to raw");
    assert!(before != content());
}

#[test]
fn what_makes_no_sense_is_refused() {
    let bench = Bench::empty();
    for line in [
        "bench",
        "bench --memory --disks-in .",
        "bench --memory --bs 0",
        "bench --memory --bs 1000",
        "bench --memory --bs 64M",
        "bench --memory --runtime 0.8",
        "bench --memory --level 5 --disks 2 --degraded --disk-size 1K",
        "bench --memory --depth 0",
        "bench --memory --rw rebuild --level 0",
        "bench --memory --rw rebuild --degraded",
        "bench --memory --rw rebuild --policy bitmap",
        "bench ./d0 --rw rebuild",
    ] {
        bench.ends(2, line);
    }
    bench.ends(3, "bench ./nowhere");
}
