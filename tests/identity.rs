//! Who is a member: what is offered, what is believed, what is refused. Every case builds members on files,
//! disturbs them, and runs the program as its users do.
//!
//! A refusal has to name reason, member and way out, the way out has to work when pasted, and no byte and no
//! time of any file may have changed. The same holds for everything that only looks.
#![cfg(feature = "cli")]

#[path = "common/bench.rs"]
mod bench;
mod common;
#[path = "common/loopdev.rs"]
mod loopdev;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use bench::{Bench, DATA, DISK, MIB, REDUNDANT, Ran, data, listed, orders};
use loopdev::LoopDevice;
use uraid::Lu;
use uraid::format::superblock::{Features, Role, SLOT_BYTES, Superblock, Uuid};
use uraid::units::{DiskLba, Sectors};

// ---- In which order, and which of them

#[test]
fn members_in_any_order_are_the_same_lu() {
    for (level, disks) in REDUNDANT.into_iter().chain([("0", 3), ("linear", 3)]) {
        let bench = Bench::lu(level, disks);
        let before = bench.held();
        for order in orders(disks) {
            let lu = order.iter().fold(Lu::assemble(), |a, i| a.disk(bench.path(&format!("d{i}"))));
            let mut bytes = vec![0; DATA];
            lu.open().unwrap().read_at(&mut bytes, 0).unwrap();
            assert!(bytes == data(1), "raid{level} {order:?}");
        }
        assert!(bench.held() == before);
        let backwards: Vec<usize> = (0..disks).rev().collect();
        for lu in ["./d1", &listed(&backwards)] {
            assert_eq!(bench.status(lu)["state"], "healthy", "{level} {lu}");
            assert_eq!(bench.holds(lu, 1), "", "{level} {lu}: nothing to warn of");
        }
    }
}

#[test]
fn stale_faulty_and_spare_disks_may_be_listed() {
    let bench = Bench::empty();
    bench.make("data", "6", 'd', 5, "--spare ./s0");
    bench.put("./d0", 1, "");
    bench.ok("fail ./d0 ./d1");
    bench.ok("rebuild ./d0");
    bench.ok("fail ./d0 ./d3");
    bench.put("./d0", 2, "");
    bench.edit_bytes("d4", |slot| slot[100] ^= 1);
    bench.poke("d4", 4096 + 216, &[0xee; 4]);
    for lu in ["./d4,./d3,./d2,./d1,./d0,./s0", "./s0,./d0,./d1,./d2,./d3,./d4", "./d0", "./d3"] {
        let told = bench.holds(lu, 2);
        for word in ["./d1 is set aside (stale)", "./d3 is set aside (stale)", "./d4 is set aside (faulty)"] {
            assert!(told.contains(word), "{lu}: no {word:?} in {told}");
        }
        assert_eq!(bench.member(lu, "./s0")["slot"], 1, "{lu}");
        // What fills its slot is told, and no flag that would not help.
        let reason = bench.member(lu, "./d1")["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains("./s0 fills slot 1") && !reason.contains("--allow-stale"), "{reason}");
        assert!(bench.member(lu, "./d3")["reason"].as_str().unwrap().ends_with("--allow-stale ./d3"));
    }
}

#[test]
fn one_event_behind_is_in_sync_and_two_are_stale() {
    for (level, disks) in REDUNDANT {
        let bench = Bench::lu(level, disks);
        let lu = bench.list(disks);
        bench.edit("d1", |sb| sb.events -= 1);
        assert_eq!(bench.member(&lu, "./d1")["state"], "active", "raid{level}");
        assert_eq!(bench.holds(&lu, 1), "");
        bench.edit("d1", |sb| sb.events -= 1);
        // Its own table says "active" as ever.
        assert!(bench.superblock("d1").my_role() == Role::Active(uraid::units::Slot(1)));
        let member = bench.member(&lu, "./d1");
        assert_eq!((&member["state"], member["slot"].is_null()), (&"stale".into(), true), "raid{level}");
        let told = bench.holds(&lu, 1);
        assert!(told.contains("./d1 is set aside (stale)") && told.contains("missed writes"), "{told}");
        let told = bench.ends_untouched(6, &format!("write {lu}"), &["slot 1", "--degraded"]);
        assert!(told.err.contains(&format!("uraid status {lu}")), "{}", told.err);
        // In order of events, not of being named.
        assert_eq!(bench.member(&format!("./d1,{}", lu.replace(",./d1", "")), "./d1")["state"], "stale");
    }
}

#[test]
fn a_member_left_behind_is_let_in_by_the_flag_that_is_named() {
    for (level, disks) in REDUNDANT {
        let bench = Bench::lu(level, disks);
        bench.take_away("d1");
        bench.put("./d0", 2, "--degraded");
        bench.bring_back("d1");
        let lu = bench.list(disks);
        assert_eq!(bench.status(&lu)["state"], "degraded");
        bench.holds(&lu, 2);
        let ran = bench.ends_untouched(0, &format!("status {lu}"), &["missed writes", "--allow-stale ./d1"]);
        let flag = format!("--allow-stale {}", ran.told("--allow-stale "));
        let document = bench.document(&format!("status {lu} {flag}"));
        assert_eq!(document["lus"][0]["state"], "healthy", "raid{level}");
        bench.ends_untouched(0, &format!("read {lu} {flag} -o /dev/null"), &[]);
        bench.put(&lu, 3, &flag);
        // From now on it is a member like the others.
        bench.holds(&lu, 3);
        assert_eq!(bench.status(&lu)["state"], "healthy", "raid{level}");
        bench.ends_untouched(2, "read ./d0 --allow-stale /dev/null", &["/dev/null"]);
        bench.blank("other", DISK);
        bench.ends_untouched(2, "read ./d0 --allow-stale ./other", &["./other", "not among the disks"]);
    }
}

#[test]
fn too_few_but_for_stale_ones_names_the_flags_that_would_do() {
    for (level, disks, needed) in [("5", 3, 1), ("6", 4, 1), ("4", 4, 2), ("6", 5, 2)] {
        let bench = Bench::lu(level, disks);
        for i in 0..disks {
            // Of the stale ones the later are fresher: they are to be named first.
            bench.edit(&format!("d{i}"), |sb| sb.events = if i == 0 { 90 } else { 70 + 2 * i as u64 });
        }
        let lu = bench.list(disks);
        let there = format!("1 of {disks} members");
        for verb in ["read", "write", "rebuild"] {
            let ran = bench.ends_untouched(4, &format!("{verb} {lu}"), &[&there, "--allow-stale"]);
            let flags = ran.err.lines().next().unwrap().split("nevertheless:").nth(1).unwrap().to_owned();
            assert_eq!(flags.matches("--allow-stale").count(), needed, "{flags}");
            assert!(flags.contains(&format!("./d{}", disks - 1)), "the freshest of the stale: {flags}");
            bench.holds(&format!("{lu} {flags}"), 1);
        }
        assert_eq!(bench.status(&lu)["state"], "failed");
    }
}

// ---- Split brain

/// Members of the halves, as `uraid` is told of each half when it is alone.
const SPLITS: [(&str, usize, [&[usize]; 2]); 3] =
    [("1", 2, [&[0], &[1]]), ("10", 4, [&[0, 2], &[1, 3]]), ("6", 4, [&[0, 1], &[2, 3]])];

#[test]
fn of_two_halves_that_went_on_alone_the_newer_is_used_in_any_order() {
    for (level, disks, halves) in SPLITS {
        for (rounds, newer) in [([1, 2], 1), ([2, 1], 0), ([1, 1], 1)] {
            let bench = Bench::lu(level, disks);
            for (half, members) in halves.iter().enumerate() {
                let others: Vec<String> = halves[1 - half].iter().map(|i| format!("d{i}")).collect();
                others.iter().for_each(|name| bench.take_away(name));
                for _ in 0..rounds[half] {
                    bench.put(&format!("./d{}", members[0]), half as u64 + 10, "--degraded");
                }
                others.iter().for_each(|name| bench.bring_back(name));
            }
            for order in orders(disks).iter().step_by(disks) {
                let lu = listed(order);
                let told = bench.holds(&lu, newer as u64 + 10);
                for older in halves[1 - newer] {
                    assert!(told.contains(&format!("./d{older} is set aside (stale)")), "{lu}: {told}");
                    assert!(!told.contains("--allow-stale"), "two states must not be mixed: {told}");
                }
            }
            // The way out that is told: the other half.
            let told = bench.holds("./d0", newer as u64 + 10);
            let way = told.split("to go on with it instead, use ").nth(1).unwrap().lines().next().unwrap();
            if halves[0].len() > 1 {
                assert_eq!(way, listed(halves[1 - newer]), "{told}");
                bench.holds(way, 1 - newer as u64 + 10);
            } else {
                let (kept, away) = way.split_once(" with ").unwrap();
                bench.remove(away.strip_prefix("./").unwrap().strip_suffix(" out of its folder").unwrap());
                bench.holds(kept, 1 - newer as u64 + 10);
            }
        }
    }
}

#[test]
fn of_two_halves_neither_of_which_is_newer_none_is_used() {
    for (level, disks, halves) in SPLITS {
        let bench = Bench::lu(level, disks);
        // As they would be after the same number of rounds, in the same moment.
        for (half, members) in halves.iter().enumerate() {
            for i in *members {
                bench.edit(&format!("d{i}"), |sb| {
                    sb.events += 4;
                    sb.utime.seconds += 9;
                    halves[1 - half].iter().for_each(|&other| sb.roles[other] = Role::Faulty.raw());
                });
            }
        }
        let utime = bench.superblock("d0").utime;
        (1..disks).for_each(|i| bench.edit(&format!("d{i}"), |sb| sb.utime = utime));
        for order in orders(disks) {
            let lu = listed(&order);
            let ran = bench.ends_untouched(4, &format!("read {lu}"), &["went on without each other"]);
            if disks > 2 {
                bench.holds(&ran.told("for instance: "), 1);
            }
            bench.ends_untouched(4, &format!("write {lu} --degraded"), &["went on without each other"]);
        }
    }
}

#[test]
fn a_removed_freshest_is_a_split_too() {
    // What md writes when it lets go of a faulty disk: nobody in its slot, and its number free again.
    let bench = Bench::lu("1", 2);
    bench.edit("d0", |sb| {
        sb.events += 2;
        sb.roles[1] = Role::Faulty.raw();
    });
    bench.edit("d1", |sb| {
        sb.events += 1;
        sb.roles[0] = Role::Spare.raw();
    });
    for lu in ["./d0,./d1", "./d1,./d0"] {
        let told = bench.holds(lu, 1);
        assert!(told.contains("./d1 is set aside (stale)") && told.contains("without ./d0"), "{told}");
    }
}

#[test]
fn a_split_over_a_copied_disk_is_told_apart() {
    // RAID5 has no two halves by itself; a copy of one disk makes two.
    for (rounds, newer) in [([1, 2], Some(1)), ([2, 1], Some(0)), ([1, 1], None)] {
        let bench = Bench::lu("5", 3);
        bench.copy("d0", "d3");
        for (half, lu) in ["./d0,./d1", "./d3,./d2"].into_iter().enumerate() {
            (0..rounds[half]).for_each(|_| bench.put(lu, half as u64 + 10, "--degraded"));
        }
        for lu in ["./d0,./d1,./d2,./d3", "./d3,./d2,./d1,./d0", "./d1,./d3,./d0,./d2"] {
            match newer {
                Some(newer) => {
                    let told = bench.holds(lu, newer + 10);
                    let older = [["./d3", "./d2"], ["./d0", "./d1"]][newer as usize];
                    older
                        .iter()
                        .for_each(|name| assert!(told.contains(&format!("{name} is set aside")), "{told}"));
                }
                None => {
                    let words = ["./d0", "./d3", "copies of one member"];
                    bench.ends_untouched(4, &format!("read {lu}"), &words);
                }
            }
        }
    }
}

// ---- One disk twice, and copies

#[test]
fn one_disk_under_two_names_is_one_disk() {
    let bench = Bench::lu("5", 3);
    fs::hard_link(bench.path("d1"), bench.path("hard")).unwrap();
    std::os::unix::fs::symlink(bench.path("d1"), bench.path("soft")).unwrap();
    let device = LoopDevice::attach(bench.path("d1"), 512);
    let names = ["./d1".into(), ".//d1".into(), "./hard".into(), "./soft".into()];
    let whole = [bench.path("d1").display().to_string(), device.path().display().to_string()];
    for twin in names.iter().chain(&whole) {
        for lu in [format!("./d0,./d1,./d2,{twin}"), format!("{twin},./d1,./d0,./d2")] {
            for verb in ["status", "read", "write", "rebuild"] {
                bench.ends_untouched(2, &format!("{verb} {lu}"), &["./d1", twin, "same disk"]);
            }
        }
        // Each of them alone will do.
        assert_eq!(bench.holds(&format!("{twin},./d0,./d2"), 1), "", "{twin}");
    }
    drop(device);
    // In a folder nobody has named it twice.
    for lu in ["./d0", "./hard", "./d1"] {
        assert_eq!(bench.status(lu)["state"], "healthy", "{lu}");
        assert_eq!(bench.holds(lu, 1), "", "{lu}");
    }
    bench.put("./soft", 2, "");
    assert_eq!(bench.document("scan .")["lus"].as_array().unwrap().len(), 1);
}

#[test]
fn a_copy_beside_its_original_is_refused_and_either_will_do() {
    let bench = Bench::empty();
    bench.make("data", "5", 'd', 3, "--spare ./s0");
    bench.put("./d0", 1, "");
    for (original, listed) in [("d1", "./d0,./d1,./d2,./copy"), ("s0", "./copy,./d2,./d1,./d0,./s0")] {
        bench.copy(original, "copy");
        let names = ["./copy", &format!("./{original}"), "copies of one member", "leave one of them out"];
        for lu in ["./d0", "./copy", listed] {
            for verb in ["status", "read", "write", "wait", "rebuild"] {
                let ran = bench.ends_untouched(4, &format!("{verb} {lu}"), &names);
                if verb == "read" {
                    bench.holds(&ran.told("for instance: "), 1);
                }
            }
        }
        bench.ends_untouched(4, "scan .", &names);
        bench.remove("copy");
    }
    bench.ok("status ./d0");
}

#[test]
fn a_copy_that_was_left_behind_is_stale_wherever_it_is() {
    let bench = Bench::lu("5", 3);
    bench.copy("d1", "copy");
    bench.put("./d0,./d1,./d2", 2, "");
    // Beside the original: the older one of the two has no claim.
    let told = bench.holds("./d0", 2);
    assert!(told.contains("./copy is set aside (stale)") && told.contains("./d1 fills slot 1"), "{told}");
    // In place of it.
    bench.rename("copy", "d1");
    let told = bench.holds("./d0", 2);
    assert!(told.contains("./d1 is set aside (stale)") && told.contains("--allow-stale ./d1"), "{told}");
}

#[test]
fn of_two_claims_to_one_slot_the_newer_wins_and_equal_ones_are_refused() {
    for (level, disks) in REDUNDANT {
        let bench = Bench::lu(level, disks);
        bench.copy("d1", "rival");
        bench.edit("rival", |sb| sb.device_uuid = Uuid([9; 16]));
        let list = bench.list(disks);
        for lu in [format!("{list},./rival"), format!("./rival,{list}"), "./d0".into()] {
            let words = ["./d1", "./rival", "both claim slot 1", "leave one of them out"];
            let ran = bench.ends_untouched(4, &format!("read {lu}"), &words);
            bench.holds(&ran.told("for instance: "), 1);
        }
        bench.edit("rival", |sb| sb.events -= 1);
        for lu in [format!("{list},./rival"), format!("./rival,{list}"), "./d0".into()] {
            let told = bench.holds(&lu, 1);
            assert!(told.contains("./rival is set aside (stale)"), "{told}");
            assert!(told.contains("./d1") && !told.contains("--allow-stale"), "{told}");
            assert_eq!(bench.member(&lu, "./d1")["slot"], 1);
            // Leave to use it is not leave to throw the other out.
            let words = ["./d1", "./rival", "both claim slot 1"];
            bench.ends_untouched(4, &format!("write {lu} --allow-stale ./rival"), &words);
        }
    }
}

// ---- Of another LU

#[test]
fn disks_of_another_lu_are_refused_if_listed_and_passed_over_if_beside() {
    let bench = Bench::lu("5", 3);
    // Of the same name.
    bench.make("data", "1", 'x', 2, "");
    for lu in ["./d0,./d1,./d2,./x0", "./x1,./d0,./d1"] {
        for verb in ["status", "read", "write", "rebuild"] {
            bench.ends_untouched(2, &format!("{verb} {lu}"), &["./d0", "./x", "one LU only"]);
        }
    }
    assert_eq!(bench.holds("./d0", 1), "");
    bench.put("./d1", 2, "");
    assert_eq!(bench.status("./x0")["members"].as_array().unwrap().len(), 2);
    let lus = bench.document("scan .")["lus"].clone();
    assert_eq!(lus.as_array().unwrap().len(), 2);
    assert_ne!(lus[0]["uuid"], lus[1]["uuid"]);

    // A disk that lost its identity is of another LU, too.
    bench.edit("d2", |sb| sb.set_uuid = Uuid([3; 16]));
    bench.ends_untouched(2, "read ./d0,./d1,./d2", &["./d0", "./d2", "one LU only"]);
    let told = bench.holds("./d0", 2);
    assert!(told.contains("slot 2 had a disk"), "{told}");
    bench.ends_untouched(4, "read ./d2", &["1 of 3 members"]);

    // One sick LU does not hide the others.
    bench.copy("x0", "copy");
    let ran = bench.ends_untouched(4, "scan . --json", &["./copy", "./x0", "copies of one member"]);
    let document: serde_json::Value = serde_json::from_slice(&ran.out).unwrap();
    assert_eq!(document["schema"], "uraid.scan/1");
    assert_eq!(document["lus"][0]["name"], "data", "{document:#}");
    assert_eq!(
        (&document["unavailable"][0]["name"], &document["unavailable"][0]["kind"]),
        (&"data".into(), &"cannot_start".into())
    );
}

// ---- Damaged, resized, foreign

#[test]
fn a_member_that_changed_its_size() {
    for (bytes, word) in
        [(DISK - 512, "shorter"), (DISK - MIB, "shorter"), (4096, "magic"), (100, "few"), (0, "few")]
    {
        let bench = Bench::lu("5", 3);
        bench.resize("d1", bytes as u64);
        let told = bench.holds("./d0,./d1,./d2", 1);
        assert!(told.contains("./d1 is set aside (faulty)") && told.contains(word), "{bytes}: {told}");
        bench.ends_untouched(6, "write ./d0,./d1,./d2", &["slot 1", "--degraded"]);
        bench.ends_untouched(7, "inspect ./d1", &["./d1", word]);
        bench.ends_untouched(7, "read ./d1", &["./d1", word]);
        bench.put("./d0,./d1,./d2", 2, "--degraded");
    }
    let bench = Bench::lu("5", 3);
    bench.resize("d1", (DISK + 5 * MIB) as u64);
    assert_eq!(bench.holds("./d0", 1), "", "more room does no harm");
    bench.put("./d1", 2, "");
    // A superblock at the end is not at the end any more.
    let bench = Bench::empty();
    bench.make("data", "5", 'd', 3, "--metadata 1.0");
    bench.put("./d0", 1, "");
    bench.resize("d1", (DISK + MIB) as u64);
    let told = bench.holds("./d0,./d1,./d2", 1);
    assert!(told.contains("./d1 is set aside (faulty)") && told.contains("no md superblock"), "{told}");
    bench.ends_untouched(6, "write ./d0", &["slot 1", "--degraded"]);
}

type Damage = (&'static str, fn(&Bench, &str), &'static str);

/// Ways to harm a superblock: how it is called, how it is done, and a word of the reason.
fn damages() -> Vec<Damage> {
    fn le(bench: &Bench, name: &str, at: usize, bytes: &[u8]) {
        bench.edit_bytes(name, |slot| slot[at..at + bytes.len()].copy_from_slice(bytes));
    }
    fn role(bench: &Bench, name: &str, raw: u16) {
        bench.edit(name, |sb| {
            let own = sb.dev_number as usize;
            sb.roles[own] = raw;
        });
    }
    vec![
        ("checksum", |b, n| b.poke(n, 4096 + 100, &[0xff]), "sb_csum"),
        ("magic", |b, n| b.poke(n, 4096, &[0; 4]), "magic"),
        ("wiped", |b, n| b.poke(n, 0, &vec![0; MIB]), "magic"),
        ("major version", |b, n| le(b, n, 4, &[2, 0, 0, 0]), "major_version 2"),
        ("max_dev huge", |b, n| b.poke(n, 4096 + 220, &[0xff, 0xff, 0, 0]), "max_dev 65535"),
        ("unknown feature", |b, n| le(b, n, 10, &[0x10]), "feature_map"),
        ("clustered", |b, n| le(b, n, 9, &[1]), "clustered"),
        ("level", |b, n| le(b, n, 72, &[7, 0, 0, 0]), "level 7"),
        ("container", |b, n| le(b, n, 72, &(-100i32).to_le_bytes()), "level -100"),
        ("layout", |b, n| le(b, n, 76, &[99]), "layout"),
        ("no slots", |b, n| le(b, n, 92, &[0; 4]), "raid_disks 0"),
        ("too many slots", |b, n| le(b, n, 92, &65535u32.to_le_bytes()), "raid_disks 65535"),
        ("role beyond", |b, n| role(b, n, 7), "slot 7"),
        ("role without a meaning", |b, n| role(b, n, 0xff01), "0xff01"),
        ("dev_number beyond", |b, n| b.edit(n, |sb| sb.dev_number = 5000), "dev_number 5000"),
        ("journal", |b, n| role(b, n, Role::Journal.raw()), "journal"),
        ("data at 0", |b, n| b.edit(n, |sb| sb.data_offset = DiskLba(0)), "data_offset"),
        ("data far away", |b, n| b.edit(n, |sb| sb.data_offset = DiskLba(1 << 60)), "data_offset"),
        ("data beyond numbers", |b, n| b.edit(n, |sb| sb.data_offset = DiskLba(u64::MAX)), "overflow"),
        ("chunk 0", |b, n| b.edit(n, |sb| sb.chunk = Sectors(0)), "chunksize 0"),
        ("chunk 3", |b, n| b.edit(n, |sb| sb.chunk = Sectors(96)), "chunksize 96"),
        ("data too large", |b, n| b.edit(n, |sb| sb.data_size = Sectors(1 << 40)), "shorter"),
        ("size too large", |b, n| b.edit(n, |sb| sb.size = Sectors(1 << 40)), "size 1099511627776"),
        ("no data", |b, n| b.edit(n, |sb| sb.data_size = Sectors(0)), "data_size 0"),
        ("misplaced", |b, n| b.edit(n, |sb| sb.super_offset = DiskLba(16)), "super_offset 16"),
        (
            "bad-block list nowhere",
            |b, n| {
                b.edit(n, |sb| {
                    sb.features = sb.features.with(Features::BAD_BLOCKS);
                    sb.bblog.offset = 1 << 30;
                })
            },
            "bblog_offset",
        ),
        (
            "bad-block list out of numbers",
            |b, n| {
                b.edit(n, |sb| {
                    sb.features = sb.features.with(Features::BAD_BLOCKS);
                    sb.bblog.shift = 11;
                })
            },
            "bblog_shift 11",
        ),
    ]
}

#[test]
fn a_damaged_member_is_named_and_not_used() {
    for (what, harm, word) in damages() {
        let bench = Bench::lu("5", 3);
        harm(&bench, "d1");
        for lu in ["./d0,./d1,./d2", "./d1,./d2,./d0"] {
            let told = bench.holds(lu, 1);
            assert!(told.contains("./d1 is set aside (faulty)") && told.contains(word), "{what}: {told}");
            let member = bench.member(lu, "./d1");
            assert!(member["slot"].is_null() && member["reason"].as_str().unwrap().contains(word), "{what}");
            assert!(!told.contains("--allow-stale"), "{what}: nothing can be done with it: {told}");
        }
        let ran = bench.ends_untouched(6, "write ./d0,./d1,./d2", &["slot 1", "--degraded"]);
        assert!(ran.err.contains("uraid status ./d0,./d1,./d2"), "{}", ran.err);
        bench.ends_untouched(7, "inspect ./d1", &["./d1", word]);
    }
}

#[test]
fn a_damaged_member_is_named_also_where_it_was_not_listed() {
    for (what, harm, word) in damages() {
        let bench = Bench::lu("5", 3);
        harm(&bench, "d1");
        let anonymous = ["magic", "wiped"].contains(&what);
        let told = bench.holds("./d0", 1);
        assert!(told.contains("slot 1 had a disk"), "{what}: {told}");
        assert_eq!(told.contains("./d1") && told.contains(word), !anonymous, "{what}: {told}");
        let lu = bench.document("scan .")["lus"][0].clone();
        assert_eq!(lu["members"].as_array().unwrap().len(), if anonymous { 3 } else { 4 }, "{what}");
        bench.ends_untouched(7, "read ./d1", &["./d1", word]);

        // A second one is one too many, and all three are no LU.
        harm(&bench, "d0");
        bench.ends_untouched(4, "read ./d0,./d1,./d2", &["1 of 3 members", "slot 0, 1"]);
        assert_eq!(bench.status("./d2")["state"], "failed", "{what}");
        harm(&bench, "d2");
        for line in ["read ./d0,./d1,./d2", "write ./d1", "status ./d2,./d0", "rebuild ./d0"] {
            bench.ends_untouched(7, line, &[word]);
        }
        assert_eq!(bench.document("scan .")["lus"].as_array().unwrap().len(), 0);
    }
}

#[test]
fn of_two_superblocks_on_one_disk_the_one_created_last_counts() {
    for (first, second) in [("1.0", "1.2"), ("1.2", "1.0"), ("1.1", "1.0")] {
        let bench = Bench::empty();
        bench.make("old", "1", 'd', 2, &format!("--metadata {first}"));
        let place = |version: &str| match version {
            "1.0" => (DISK as u64 - 8192) & !4095,
            "1.1" => 0,
            _ => 4096,
        };
        let names = ["d0", "d1"];
        let left = names
            .map(|name| fs::read(bench.path(name)).unwrap()[place(first) as usize..][..SLOT_BYTES].to_vec());
        names.iter().for_each(|name| bench.remove(name));
        bench.make("new", "1", 'd', 2, &format!("--metadata {second}"));
        bench.put("./d0", 1, "");
        for (later, name, metadata) in [(-100, "new", second), (100, "old", first)] {
            for (disk, mut slot) in names.iter().zip(left.clone()) {
                created(&mut slot, later);
                bench.poke(disk, place(first), &slot);
            }
            let lu = bench.status("./d0");
            assert_eq!((&lu["name"], &lu["metadata"]), (&name.into(), &metadata.into()), "{first} {second}");
            let found = bench.ends_untouched(0, &format!("read ./d0 --length {DATA}"), &[]).out;
            // What begins at the start of the disk has a superblock of 1.1 or 1.2 in its data.
            let from = if first == "1.0" { 0 } else { 4096 + SLOT_BYTES };
            assert_eq!(found[from..] == data(1)[from..], name == "new", "{first} {second}");
        }
    }
}

/// Moves the creation time in a superblock's bytes by so many seconds, and makes the checksum right.
fn created(slot: &mut [u8], later: i64) {
    let ctime = u64::from_le_bytes(slot[64..72].try_into().unwrap());
    slot[64..72].copy_from_slice(&ctime.wrapping_add_signed(later).to_le_bytes());
    let sum = Superblock::checksum(slot).unwrap();
    slot[216..220].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn what_is_no_member_is_named() {
    let bench = Bench::lu("5", 3);
    bench.blank("blank", DISK);
    bench.blank("empty", 0);
    fs::create_dir(bench.path("folder")).unwrap();
    for (code, path, word) in [
        (2, "./folder", "director"),
        (2, "/dev/null", "neither a file nor a block device"),
        (3, "./absent", "No such file"),
        (3, "./d0/below", "./d0/below"),
    ] {
        bench.ends_untouched(code, &format!("read ./d0,./d1,./d2,{path}"), &[path, word]);
        bench.ends_untouched(code, &format!("write {path},./d0,./d1"), &[path, word]);
        bench.ends_untouched(code, &format!("inspect {path}"), &[path]);
    }
    for path in ["./blank", "./empty"] {
        bench.ends_untouched(7, &format!("read {path}"), &[path]);
        bench.ends_untouched(7, &format!("inspect {path}"), &[path]);
        let told = bench.holds(&format!("{path},./d0,./d1,./d2"), 1);
        assert!(told.contains(&format!("{path} is set aside (faulty)")), "{told}");
    }
    bench.ends_untouched(2, "read ./folder", &["./folder", "uraid scan ./folder"]);
    bench.ends_untouched(2, "read /dev/null", &["/dev/null"]);
}

#[test]
fn a_member_that_may_not_be_opened_is_named() {
    let bench = Bench::lu("5", 3);
    fs::set_permissions(bench.path("."), fs::Permissions::from_mode(0o755)).unwrap();
    for (name, mode) in [("d0", 0o644), ("d1", 0o600), ("d2", 0o644)] {
        fs::set_permissions(bench.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let as_nobody = |line: &str| {
        let mut command = bench.command(line);
        Ran::of(command.uid(65534).gid(65534).output().expect("tests that change the user run as root"))
    };
    let before = bench.held();
    for line in ["read ./d0,./d1,./d2", "status ./d1", "inspect ./d1", "write ./d0,./d1,./d2"] {
        let ran = as_nobody(line);
        assert_eq!(ran.code, Some(1), "{line}: {}", ran.words());
        assert!(
            ran.err.contains("./d1: cannot open: Permission denied") || line.starts_with("write"),
            "{}",
            ran.err
        );
    }
    // Readable, not writable.
    fs::set_permissions(bench.path("d1"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(as_nobody("read ./d0").out[..DATA], data(1));
    let ran = as_nobody("write ./d0");
    assert_eq!(ran.code, Some(1), "{}", ran.words());
    assert!(ran.err.contains("Permission denied"), "{}", ran.err);
    assert!(bench.held() == before);
}

// ---- Spares, rebuilding members, states

#[test]
fn a_spare_is_never_the_freshest() {
    let bench = Bench::empty();
    bench.make("data", "5", 'd', 3, "--spare ./s0");
    bench.put("./d0", 1, "");
    for events in [0, 5, 1 << 40] {
        bench.edit("s0", |sb| {
            sb.events = events;
            sb.resync_offset = Sectors(0);
            sb.roles[0] = Role::Faulty.raw();
        });
        for lu in ["./s0,./d0,./d1,./d2", "./d2,./s0,./d1,./d0", "./s0"] {
            let status = bench.status(lu);
            assert_eq!((&status["state"], &status["spares"]), (&"healthy".into(), &1.into()), "{status:#}");
            assert_eq!(bench.holds(lu, 1), "");
        }
    }
    fs::create_dir(bench.path("alone")).unwrap();
    bench.copy("s0", "alone/s0");
    bench.ends_untouched(4, "read ./alone/s0", &["no member that holds data", "./alone/s0: a spare only"]);
}

#[test]
fn a_rebuilding_member_is_good_below_its_offset_only() {
    let bench = Bench::lu("5", 3);
    bench.edit("d1", |sb| {
        sb.features = sb.features.with(Features::RECOVERY_OFFSET);
        sb.recovery_offset = Sectors(128);
    });
    let lu = bench.status("./d0");
    assert_eq!((&lu["state"], &lu["work"]["kind"]), (&"rebuilding".into(), &"rebuild".into()), "{lu:#}");
    assert_eq!(
        (&lu["work"]["done_bytes"], &lu["redundancy_left"]),
        (&(128 * 512).into(), &0.into()),
        "{lu:#}"
    );
    bench.holds("./d0", 1);
    bench.ends_untouched(4, "read ./d0,./d1", &["still being rebuilt"]);
    // All of it is what md calls in sync.
    bench.edit("d1", |sb| sb.recovery_offset = Sectors::MAX);
    assert_eq!(bench.status("./d0")["state"], "healthy");
    bench.holds("./d0,./d1", 1);
}

#[test]
fn a_reshape_and_a_journal_are_not_touched() {
    let bench = Bench::empty();
    let case = common::case("raid5-reshape-3to4");
    case.write_images(&bench.path(".")).unwrap();
    let lu: Vec<String> = case.members.iter().map(|member| format!("./{}", member.file)).collect();
    for line in [format!("read {}", lu[0]), format!("write {} --degraded", lu.join(","))] {
        bench.ends_untouched(4, &line, &["reshape"]);
    }
    let status = bench.status(&lu[0]);
    assert_eq!(status["state"], "failed");
    assert!(status["refusal"].as_str().unwrap().contains("reshape"), "{status:#}");
    // A journal among the members: their own tables name it, and none may be used.
    let bench = Bench::lu("5", 3);
    (0..3).for_each(|i| bench.edit(&format!("d{i}"), |sb| sb.roles[3] = Role::Journal.raw()));
    for line in ["read ./d0", "write ./d0,./d1,./d2", "status ./d0", "inspect ./d2"] {
        bench.ends_untouched(7, line, &["journal"]);
    }
}

#[test]
fn dirty_and_degraded_parity_is_refused_for_reading_too_and_mirrors_start() {
    for (level, disks) in REDUNDANT {
        let bench = Bench::lu(level, disks);
        (0..disks).for_each(|i| bench.edit(&format!("d{i}"), |sb| sb.resync_offset = Sectors(0)));
        // Dirty alone is read, and is to be resynced.
        bench.holds("./d0", 1);
        let lu = bench.status("./d0");
        assert_eq!((&lu["state"], &lu["dirty"]), (&"resyncing".into(), &true.into()), "{lu:#}");
        bench.remove("d1");
        if matches!(level, "1" | "10") {
            bench.holds("./d0", 1);
            bench.ends_untouched(6, "write ./d0", &["slot 1", "--degraded"]);
            bench.put("./d0", 2, "--degraded");
            continue;
        }
        for line in ["read ./d0", "write ./d0", "write ./d0 --degraded", "rebuild ./d0"] {
            bench.ends_untouched(4, line, &["LU data", "member is missing", "--allow-dirty"]);
        }
        let lu = bench.status("./d0");
        assert_eq!(lu["state"], "failed");
        assert!(lu["refusal"].as_str().unwrap().contains("--allow-dirty"), "{lu:#}");
        bench.holds("./d0 --allow-dirty", 1);
        bench.ends_untouched(6, "write ./d0 --allow-dirty", &["slot 1", "--degraded"]);
        bench.put("./d0", 2, "--allow-dirty --degraded");
        bench.holds("./d0", 2);
    }
}

#[test]
fn a_new_absence_wants_its_flag_and_is_on_record_before_the_first_byte() {
    for (level, disks) in REDUNDANT {
        let bench = Bench::lu(level, disks);
        let before = bench.superblock("d0");
        bench.take_away("d1");
        let told = bench.holds("./d0", 1);
        assert!(told.contains("slot 1 had a disk"), "{told}");
        let ran = bench.ends_untouched(6, "write ./d0", &["LU data", "slot 1", "--degraded"]);
        assert!(ran.err.contains("uraid status ./d0"), "{}", ran.err);
        // Nothing is written, and yet the absence is: by two, so that the absent one is stale for everybody.
        bench.ok("write ./d0 --degraded");
        let after = bench.superblock("d0");
        assert_eq!(after.events, before.events + 2, "raid{level}");
        let slot_1 = |sb: &Superblock| sb.roles.contains(&1);
        assert!(slot_1(&before) && !slot_1(&after) && after.is_clean());
        bench.put("./d0", 2, "");
        assert!(!bench.holds("./d0", 2).contains("had a disk"));
    }
}

// ---- Members that are gone

#[test]
fn a_member_that_vanished_is_named_by_its_slot() {
    let bench = Bench::empty();
    bench.make("data", "6", 'd', 5, "");
    bench.put("./d0", 1, "");
    bench.remove("d1");
    bench.ends_untouched(6, "fail ./d0 slot:1", &["slot 1", "--degraded"]);
    let ran = bench.run("fail ./d0 ./d1 --degraded");
    assert_eq!(ran.code, Some(3), "{}", ran.words());
    assert!(ran.err.contains("./d1") && ran.err.contains("slot:1"), "{}", ran.err);
    for verb in ["fail", "remove"] {
        let out = bench.ok(&format!("{verb} ./d0 slot:1")).words();
        assert!(out.contains("slot:1 of data has no disk"), "{out}");
        let document: serde_json::Value = {
            let ran = bench.ok(&format!("{verb} ./d0 slot:1 --json"));
            serde_json::from_slice(&ran.out).unwrap()
        };
        assert_eq!((document["slot"].as_u64(), document["disk"].is_null()), (Some(1), true), "{document:#}");
    }
    // One that is there may be named so, too.
    let out = bench.ok("fail ./d0 slot:2").words();
    assert!(out.contains("failed ./d2 (slot 2)"), "{out}");
    bench.ends_untouched(3, "fail ./d0 slot:5", &["no slot 5"]);
    // A place is no disk to add, and no spare.
    bench.ends_untouched(3, "add ./d0 slot:1", &["slot:1"]);
    bench.ends_untouched(3, "spare remove ./d0 slot:3", &["no spare", "slot 3"]);
    bench.ends_untouched(6, "fail ./d0 slot:3", &["./d3"]);
    assert!(bench.ok("fail --help").words().contains("slot:N"));
    bench.holds("./d0", 1);
}

#[test]
fn a_listed_disk_that_is_gone_takes_nothing_with_it() {
    let bench = Bench::lu("5", 3);
    fs::write(bench.path("uraid.toml"), "[[lu]]\nname = 'data'\ndisks = ['d0', 'd1', 'd2']\n").unwrap();
    let gone = format!("{}, which", bench.path("d1").display());
    bench.remove("d1");
    let document = bench.document("list");
    assert_eq!(document["lus"][0]["state"], "degraded", "{document:#}");
    for line in ["list", "status", "status data", "read data -o /dev/null"] {
        bench.ends_untouched(0, line, &[&gone, "uraid.toml lists, is not there"]);
    }
    bench.ends_untouched(6, "write data", &[&gone, "slot 1", "--degraded"]);
    bench.put("data", 2, "--degraded");
    bench.ok("fail data slot:1");
    bench.holds("data", 2);
    // A path that was typed is meant.
    bench.ends_untouched(3, "read ./d0,./d1,./d2", &["./d1"]);
    bench.remove("d2");
    assert_eq!(bench.status("data")["state"], "failed");
    bench.ends_untouched(4, "read data", &[&gone, "1 of 3 members"]);
    bench.remove("d0");
    for line in ["list", "status", "status data", "read data", "write data --degraded"] {
        bench.ends_untouched(3, line, &["d0"]);
    }
}

// ---- Two at once

#[test]
fn of_two_who_want_an_lu_at_once_each_gets_it_whole_or_not_at_all() {
    let bench = Bench::lu("5", 3);
    let (mut both, mut busy) = (0, 0);
    for round in 0..50 {
        // Not in the same order: neither may hold what the other lacks.
        let lines = ["write ./d0,./d1,./d2", "write ./d2,./d1,./d0"];
        let mut children = lines.map(|line| bench.start(line));
        let inputs = [data(round * 2 + 100), data(round * 2 + 101)];
        for (child, input) in children.iter_mut().zip(&inputs) {
            // Whoever is refused reads nothing.
            let _ = child.stdin.take().unwrap().write_all(input);
        }
        let ids = [children[0].id(), children[1].id()];
        let ran = children.map(|child| Ran::of(child.wait_with_output().unwrap()));
        let winners: Vec<usize> = (0..2).filter(|&i| ran[i].code == Some(0)).collect();
        for loser in (0..2).filter(|i| !winners.contains(i)) {
            assert_eq!(ran[loser].code, Some(5), "{}", ran[loser].words());
            let holder = format!("process {}", ids[1 - loser]);
            let named = ran[loser].err.contains(&holder) || ran[loser].err.contains("another program");
            assert!(named && ran[loser].err.contains("./d"), "{}", ran[loser].err);
            busy += 1;
        }
        assert!(!winners.is_empty(), "nobody got it: {} {}", ran[0].err, ran[1].err);
        both += usize::from(winners.len() == 2);
        let found = bench.run(&format!("read ./d0 --length {DATA}")).out;
        assert!(winners.iter().any(|&i| found == inputs[i]), "round {round}: {winners:?}");
        assert_eq!(bench.status("./d0")["state"], "healthy");
    }
    assert!(both + busy == 50 && busy > 0, "{both} times one after the other, {busy} times busy");
    // Parity agrees with the data: either disk can be missed.
    let whole = bench.run("read ./d0").out;
    for lu in ["./d0,./d1", "./d1,./d2", "./d2,./d0"] {
        assert!(bench.run(&format!("read {lu}")).out == whole, "{lu}");
    }
}

#[test]
fn a_held_lu_is_looked_at_but_not_used() {
    let bench = Bench::lu("5", 3);
    let mut holder = bench.hold("write ./d0", 3);
    let mut stdin = holder.stdin.take().unwrap();
    let name = format!("process {}", holder.id());
    for line in ["read ./d0", "write ./d0,./d1,./d2", "rebuild ./d2", "fail ./d0 ./d1", "wait ./d1"] {
        let ran = bench.ends(5, line);
        assert!(ran.err.contains(&name) && ran.err.contains("./d"), "{}", ran.err);
    }
    // Whatever is being written, looking never takes a member for damaged or left behind.
    for round in 0..20 {
        stdin.write_all(&data(round)[..50_000]).unwrap();
        let ran = bench.ok("status ./d0 --json");
        let document: serde_json::Value = serde_json::from_slice(&ran.out).unwrap();
        let members = document["lus"][0]["members"].as_array().unwrap();
        assert!(members.len() == 3 && members.iter().all(|m| m["state"] == "active"), "{document:#}");
        bench.ok("inspect ./d1");
    }
    drop(stdin);
    assert!(holder.wait().unwrap().success());
    // Readers bear each other.
    let mut reader = bench.hold("read ./d0", 3);
    bench.ok("read ./d0 -o /dev/null");
    let ran = bench.ends(5, "write ./d0");
    assert!(ran.err.contains(&format!("process {}", reader.id())), "{}", ran.err);
    drop(reader.stdout.take());
    reader.wait().unwrap();
    bench.ok("write ./d0");
}
