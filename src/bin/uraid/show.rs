//! An LU for people: one line while all is well; when it is not, everything needed to act.

use uraid::lu::{MemberState, MemberStatus, State, Status, Work};

use crate::size;

/// Where the columns of a list of LUs begin.
struct Columns {
    name: usize,
    level: usize,
    disks: usize,
    size: usize,
}

/// All of `statuses`: a line for a healthy LU, a paragraph for any other or, if `verbose`, for all.
pub(crate) fn lus(statuses: &[Status], verbose: bool) -> String {
    let columns = Columns::of(statuses);
    let mut text = String::new();
    for status in statuses {
        text += &headline(status, &columns);
        if verbose || status.state != State::Healthy || status.work.is_some() {
            text += &details(status, verbose);
        }
    }
    text
}

/// One line each, whatever the state.
pub(crate) fn lines(statuses: &[Status]) -> String {
    let columns = Columns::of(statuses);
    statuses.iter().map(|status| headline(status, &columns)).collect()
}

impl Columns {
    fn of(statuses: &[Status]) -> Columns {
        let widest = |cell: fn(&Status) -> String| {
            statuses.iter().map(|status| cell(status).chars().count()).max().unwrap_or(0)
        };
        Columns {
            name: widest(|status| status.name.clone()),
            level: widest(|status| status.level.to_string()),
            disks: widest(disks),
            size: widest(size_of),
        }
    }
}

fn headline(status: &Status, columns: &Columns) -> String {
    let mut line = format!(
        "{:<name$}  {:<level$}  {:<disks$}  {:>size$}  {}  {}",
        status.name,
        status.level,
        disks(status),
        size_of(status),
        state(status),
        map(status),
        name = columns.name,
        level = columns.level,
        disks = columns.disks,
        size = columns.size,
    );
    match status.spares {
        0 => {}
        1 => line += "  1 spare",
        several => line += &format!("  {several} spares"),
    }
    line + "\n"
}

fn details(status: &Status, verbose: bool) -> String {
    let mut text = String::new();
    let mut entry = |title: &str, body: &str| text += &format!("  {title:<8} {body}\n");
    if verbose {
        entry("uuid", &status.uuid.to_string());
        entry("format", &form(status));
    }
    if let Some(refusal) = &status.refusal {
        entry("refused", refusal);
    }
    let (now, next) = (standing(status), advice(status));
    text + &now + &table(&status.members) + &next
}

/// What an LU that is not whole needs: how it stands and what to type. Nothing for one that is.
pub(crate) fn needs(status: &Status) -> String {
    standing(status) + &advice(status)
}

fn standing(status: &Status) -> String {
    let mut text = String::new();
    if status.state != State::Healthy {
        text += &format!("  data     {}\n", outlook(status));
    }
    if let Some(work) = status.work {
        text += &format!("  {:<8} {}\n", work.kind, progress(work));
    }
    text
}

fn advice(status: &Status) -> String {
    status.next.iter().map(|next| format!("  next     {next}\n")).collect()
}

/// The state, loud when somebody has to act.
pub(crate) fn state(status: &Status) -> String {
    match status.state {
        State::Healthy if status.work.is_some() => "healthy, replacing a disk".to_owned(),
        State::Healthy | State::Resyncing => status.state.to_string(),
        State::Rebuilding => "DEGRADED, rebuilding".to_owned(),
        State::Degraded | State::Failed => status.state.to_string().to_uppercase(),
    }
}

/// Slots in use of slots: `3/4 disks`.
fn disks(status: &Status) -> String {
    let slots = status.members.iter().filter(|member| is_of_a_slot(member)).count();
    let active = status.members.iter().filter(|member| is_good(member)).count();
    format!("{active}/{slots} disks")
}

/// md's picture of the slots: `[UU_U]`.
fn map(status: &Status) -> String {
    let slots = status.members.iter().filter(|member| is_of_a_slot(member));
    let marks: String = slots.map(|member| if is_good(member) { 'U' } else { '_' }).collect();
    format!("[{marks}]")
}

/// Replacements share the slot of the disk they will replace.
fn is_of_a_slot(member: &MemberStatus) -> bool {
    member.slot.is_some() && member.state != MemberState::Replacement
}

fn is_good(member: &MemberStatus) -> bool {
    is_of_a_slot(member) && member.state == MemberState::Active
}

fn size_of(status: &Status) -> String {
    if status.size_bytes == 0 { "-".to_owned() } else { size::bytes(status.size_bytes) }
}

fn form(status: &Status) -> String {
    let chunk = match status.chunk_bytes {
        0 => String::new(),
        bytes => format!(", chunk {}", size::bytes(bytes)),
    };
    let layout = if status.layout == "-" { String::new() } else { format!(", {}", status.layout) };
    let dirty = if status.dirty { ", writes were in flight" } else { "" };
    let marked = match status.bitmap {
        Some(bitmap) => format!(" ({} of {} chunks dirty)", bitmap.chunks, bitmap.total),
        None => String::new(),
    };
    format!(
        "md {}{layout}{chunk}, policy {}{marked}, {} events{dirty}",
        status.metadata, status.policy, status.events
    )
}

/// What may still happen.
pub(crate) fn outlook(status: &Status) -> String {
    let whole = match (status.state, status.redundancy_left) {
        (State::Failed, _) => return "not whole with the members at hand".to_owned(),
        (_, 0) => "whole; no further disk may fail".to_owned(),
        (_, 1) => "whole; one more disk may fail".to_owned(),
        (_, several) => format!("whole; {several} more disks may fail"),
    };
    let waits = status.members.iter().any(|m| m.slot.is_some() && m.state == MemberState::Missing);
    if waits && status.spares == 0 { whole + "; NO SPARE LEFT" } else { whole }
}

fn progress(work: Work) -> String {
    let percent = work.done_bytes as f64 * 100.0 / work.total_bytes.max(1) as f64;
    let rest =
        work.eta_seconds.map(|seconds| format!(", done in {}", size::duration(seconds))).unwrap_or_default();
    format!("{percent:.1} %, {} of {}{rest}", size::bytes(work.done_bytes), size::bytes(work.total_bytes))
}

fn table(members: &[MemberStatus]) -> String {
    let disk = members.iter().map(|member| member.disk.chars().count()).max().unwrap_or(0).max("disk".len());
    let mut text =
        format!("  {:>3}  {:<disk$}  {:<11}  {:>8}  {:>8}\n", "#", "disk", "state", "events", "read err");
    for member in members {
        let slot = member.slot.map_or_else(String::new, |slot| slot.to_string());
        let events = member.uuid.map_or_else(|| "-".to_owned(), |_| member.events.to_string());
        let line = format!(
            "  {slot:>3}  {:<disk$}  {:<11}  {events:>8}  {:>8}  {}",
            member.disk,
            member.state,
            member.read_errors,
            member.reason.as_deref().unwrap_or(""),
        );
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use uraid::format::superblock::{Minor, Uuid};
    use uraid::lu::{Policy, WorkKind};
    use uraid::units::Level;

    fn member(slot: Option<u16>, disk: &str, state: MemberState) -> MemberStatus {
        let uuid = (disk != "-").then_some(Uuid([1; 16]));
        MemberStatus { slot, disk: disk.into(), state, read_errors: 0, events: 18, uuid, reason: None }
    }

    fn healthy() -> Status {
        Status {
            name: "data".into(),
            uuid: Uuid([7; 16]),
            level: Level::Raid5,
            layout: "left-symmetric".into(),
            chunk_bytes: 65536,
            size_bytes: 3 << 30,
            policy: Policy::None,
            bitmap: None,
            metadata: Minor::V1_2,
            state: State::Healthy,
            redundancy_left: 1,
            members: (0..4)
                .map(|slot| member(Some(slot), &format!("/x/d{slot}"), MemberState::Active))
                .collect(),
            spares: 0,
            work: None,
            dirty: false,
            events: 18,
            lost: vec![],
            warnings: vec![],
            next: vec![],
            refusal: None,
        }
    }

    #[test]
    fn healthy_is_one_line() {
        assert_eq!(lus(&[healthy()], false), "data  raid5  4/4 disks  3 GiB  healthy  [UUUU]\n");
        assert!(lus(&[healthy()], true).contains("left-symmetric, chunk 64 KiB"));
    }

    #[test]
    fn degraded_says_what_is_needed() {
        let mut status = healthy();
        status.state = State::Rebuilding;
        status.redundancy_left = 0;
        status.members[2] = member(Some(2), "/x/new", MemberState::Rebuilding);
        status.members.push(member(None, "/x/d2", MemberState::Stale));
        status.members[4].reason = Some("4 events behind".into());
        status.work = Some(Work {
            kind: WorkKind::Rebuild,
            done_bytes: 1 << 29,
            total_bytes: 1 << 30,
            eta_seconds: Some(90),
        });
        status.next = vec!["uraid wait /x/d0".into()];
        let text = lus(&[status], false);
        for part in [
            "3/4 disks",
            "DEGRADED, rebuilding",
            "[UU_U]",
            "no further disk may fail",
            "50.0 %, 512 MiB of 1 GiB, done in 1 min 30 s",
            "4 events behind",
            "next     uraid wait /x/d0",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}
