//! The rules of assembly on superblocks made up here: who is used, who is set aside and why.

use super::*;
use crate::format::superblock::{Minor, Name, SLOT_BYTES, Time};
use crate::units::DiskLba;

const SET: Uuid = Uuid([7; 16]);
const DISK: Sectors = Sectors(65536);

/// A clean RAID5 member of `slots`, at `events`, in slot `number`.
fn superblock(slots: u16, number: u16, events: u64) -> Superblock {
    let mut roles = vec![Role::Spare.raw(); 128];
    for slot in 0..slots {
        roles[usize::from(slot)] = slot;
    }
    Superblock {
        minor: Minor::V1_2,
        features: Features::NONE,
        set_uuid: SET,
        name: Name::new("host:data").unwrap(),
        ctime: Time { seconds: 1, micros: 1 },
        level: 5,
        layout: 2,
        size: Sectors(4096),
        chunk: Sectors(128),
        raid_disks: u32::from(slots),
        bitmap_offset: 0,
        ppl: Default::default(),
        reshape: None,
        data_offset: DiskLba(2048),
        data_size: Sectors(8192),
        super_offset: DiskLba(8),
        recovery_offset: Sectors(0),
        dev_number: u32::from(number),
        corrected_reads: 0,
        device_uuid: Uuid([number as u8 + 1; 16]),
        devflags: 0,
        bblog: Default::default(),
        utime: Time { seconds: 2, micros: 1 },
        events,
        resync_offset: Sectors::MAX,
        logical_block_size: 0,
        roles,
    }
}

fn offer(superblocks: Vec<Superblock>) -> Vec<Candidate> {
    let found = |superblock: Superblock| {
        let mut slot = vec![0; SLOT_BYTES];
        superblock.write_into(&mut slot);
        // Through the bytes, so that nothing is tested that could not be on a disk.
        let superblock = Superblock::parse(&slot, Minor::V1_2, DISK).unwrap();
        Found { at: superblock.super_offset, superblock, slot, others: Vec::new() }
    };
    let candidates = superblocks.into_iter().enumerate().map(|(i, superblock)| Candidate {
        disk: DiskId(i as u16),
        name: format!("d{i}"),
        found: Ok(found(superblock)),
        bad: BadBlocks::new(),
        bitmap: None,
        log: None,
    });
    candidates.collect()
}

fn join_all(superblocks: Vec<Superblock>) -> Joined {
    join(offer(superblocks), SET, &Allow::default()).unwrap()
}

fn three(events: [u64; 3]) -> Vec<Superblock> {
    (0..3).map(|i| superblock(3, i, events[usize::from(i)])).collect()
}

#[test]
fn order_does_not_matter() {
    let mut members = three([20, 20, 20]);
    members.rotate_left(1);
    let joined = join_all(members);
    assert_eq!(joined.slots, [Some(2), Some(0), Some(1)]);
    assert!(joined.refusal.is_none() && joined.newly_missing.is_empty() && !joined.dirty);
    assert_eq!(short_name(joined.facts()), "data");
}

#[test]
fn one_event_behind_is_used_two_is_stale() {
    assert_eq!(join_all(three([20, 19, 20])).fates[1], Fate::Active(Slot(1)));
    let joined = join_all(three([20, 18, 20]));
    assert!(
        matches!(&joined.fates[1], Fate::Aside(MemberState::Stale, why) if why.contains("--allow-stale d1"))
    );
    assert_eq!(joined.newly_missing, [Slot(1)], "the freshest counts on it");
    assert!(joined.refusal.is_none(), "one may be missing");
}

#[test]
fn a_stale_member_counts_when_it_is_allowed() {
    let allow = Allow { stale: vec![DiskId(1)], dirty: false };
    let joined = join(offer(three([20, 10, 20])), SET, &allow).unwrap();
    assert_eq!(joined.fates[1], Fate::Active(Slot(1)));
    assert_eq!(joined.freshest, 0);
}

#[test]
fn one_behind_takes_its_role_from_the_freshest() {
    let mut members = three([20, 19, 20]);
    for fresh in [0, 2] {
        members[fresh].roles[1] = Role::Faulty.raw();
    }
    let joined = join_all(members);
    assert!(matches!(&joined.fates[1], Fate::Aside(MemberState::Faulty, _)));
    assert!(joined.newly_missing.is_empty(), "its absence is on record");
}

#[test]
fn too_few_members_are_told() {
    let joined = join_all(three([20, 20, 20]).into_iter().take(1).collect());
    let refusal = joined.refusal.unwrap();
    assert_eq!(refusal.kind(), ErrorKind::CannotStart);
    assert!(refusal.to_string().contains("1 of 3 members"), "{refusal}");
}

#[test]
fn dirty_and_degraded_is_refused_unless_allowed() {
    let mut members = three([20, 20, 20]);
    for member in &mut members {
        member.resync_offset = Sectors(0);
    }
    assert!(join_all(members.clone()).refusal.is_none(), "dirty alone starts");
    members.pop();
    let refusal = join_all(members.clone()).refusal.unwrap();
    assert!(refusal.to_string().contains("--allow-dirty"), "{refusal}");
    let allow = Allow { dirty: true, ..Allow::default() };
    assert!(join(offer(members), SET, &allow).unwrap().refusal.is_none());
}

#[test]
fn copies_of_one_member_are_refused() {
    let mut members = three([20, 20, 20]);
    members.push(members[1].clone());
    let error = join(offer(members), SET, &Allow::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CannotStart);
    assert!(error.to_string().contains("d1") && error.to_string().contains("d3"), "{error}");
}

#[test]
fn a_spare_waits_and_is_never_the_freshest() {
    let mut members = three([20, 20, 20]);
    let mut spare = superblock(3, 3, 90);
    spare.roles[3] = Role::Spare.raw();
    members.insert(0, spare);
    let joined = join_all(members);
    assert_eq!(joined.fates[0], Fate::Spare);
    assert_eq!(joined.facts().events, 20);
}

#[test]
fn a_member_of_another_shape_is_set_aside() {
    let mut members = three([20, 20, 20]);
    members[2].chunk = Sectors(64);
    let joined = join_all(members);
    assert!(matches!(&joined.fates[2], Fate::Aside(MemberState::Faulty, why) if why.contains("chunk 64")));
}

#[test]
fn a_rebuilding_member_is_good_below_its_offset() {
    let mut members = three([20, 20, 20]);
    members[1].features = Features::RECOVERY_OFFSET;
    members[1].recovery_offset = Sectors(256);
    let joined = join_all(members);
    assert_eq!(joined.view.members[1].presence, Presence::Below(MemberLba(256)));
}

#[test]
fn of_equally_fresh_members_the_one_written_last_counts() {
    let mut members = three([20, 20, 20]);
    members[1].utime.seconds += 1;
    members[1].resync_offset = Sectors(64);
    for turned in 0..3 {
        let mut members = members.clone();
        members.rotate_left(turned);
        assert_eq!(join_all(members).facts().resync_offset, Sectors(64));
    }
}

#[test]
fn two_halves_that_are_equally_new_are_refused() {
    let mut members: Vec<_> = (0..2).map(|i| superblock(2, i, 20)).collect();
    for (i, member) in members.iter_mut().enumerate() {
        member.level = 1;
        member.roles[1 - i] = Role::Faulty.raw();
    }
    let error = join(offer(members.clone()), SET, &Allow::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CannotStart);
    assert!(error.to_string().contains("d0 and d1 went on without each other"), "{error}");
    members[1].utime.seconds += 1;
    let joined = join_all(members);
    assert_eq!(joined.slots, [None, Some(1)]);
    assert!(
        matches!(&joined.fates[0], Fate::Aside(MemberState::Stale, why) if why.contains("went on without d1"))
    );
}

#[test]
fn a_spare_that_took_over_in_a_round_it_was_not_written_in_has_nothing_yet() {
    let mut members = three([21, 20, 21]);
    for index in [0, 2] {
        members[index].roles[1] = Role::Faulty.raw();
        members[index].roles[3] = 1;
    }
    members[1] = Superblock { dev_number: 3, device_uuid: Uuid([4; 16]), events: 20, ..members[1].clone() };
    members[1].roles[1] = Role::Faulty.raw();
    members[1].roles[3] = Role::Spare.raw();
    let joined = join_all(members.clone());
    assert_eq!(joined.fates[1], Fate::Active(Slot(1)));
    assert_eq!(joined.view.members[1].presence, Presence::Below(MemberLba(0)));
    // Longer ago its number may have become somebody else's.
    members[1].events = 19;
    assert!(matches!(join_all(members).fates[1], Fate::Aside(MemberState::Stale, _)));
}

#[test]
fn a_spare_that_took_over_in_a_round_that_was_cut_is_no_split() {
    // It was written first: the others do not know yet that slot 1 has somebody.
    let mut members = three([20, 20, 21]);
    for member in &mut members {
        member.roles[1] = Role::Faulty.raw();
    }
    members[1] = Superblock { dev_number: 3, device_uuid: Uuid([4; 16]), events: 21, ..members[2].clone() };
    members[1].features = Features::RECOVERY_OFFSET;
    for index in [1, 2] {
        members[index].roles[3] = 1;
    }
    for turned in 0..3 {
        let mut members = members.clone();
        members.rotate_left(turned);
        let joined = join_all(members);
        assert!(joined.slots.iter().all(Option::is_some), "{:?}", joined.fates);
    }
}

#[test]
fn of_two_claims_to_a_slot_the_newer_wins_in_any_order() {
    let mut members = three([20, 20, 20]);
    let rival = Superblock { device_uuid: Uuid([9; 16]), events: 19, ..members[1].clone() };
    members.insert(0, rival);
    for turned in 0..4 {
        let mut members = members.clone();
        members.rotate_left(turned);
        let old = members.iter().position(|member| member.events == 19).unwrap();
        let joined = join_all(members);
        assert!(joined.slots.iter().flatten().all(|&index| index != old));
        let Fate::Aside(MemberState::Stale, why) = &joined.fates[old] else { panic!("{:?}", joined.fates) };
        assert!(why.contains("fills slot 1") && !why.contains("--allow-stale"), "{why}");
    }
}
