//! Joining the facts of several superblocks into one LU. Pure: superblocks in, a verdict out, nothing is read or written.
//!
//! The rules are md's, as its kernel driver and mdadm apply them:
//!
//! - The *freshest* superblock is the one with the highest event count among members with a slot of their
//!   own, of equal ones the one written last, in whatever order they are offered; what concerns the whole LU
//!   is taken from it. Spares never are the freshest, nor is one of several equals that another of them calls
//!   faulty: a round cut short may have left it one event ahead, and the failure of it have made up for that.
//! - A member two or more events behind it is stale: it missed writes. One behind is tolerated (an update was cut short), and
//!   then the freshest superblock says what its role is.
//! - Of two members that claim one slot the one with more events has it. With equally many they are refused,
//!   and so are two halves of an LU that went on alone if neither is newer.
//! - A member whose own table calls the freshest one missing or faulty lived on without it: split brain; it is set aside.
//! - A rebuilding member is good below its recovery offset. So is a replacement, the second disk of a slot; where the
//!   slot's own disk is gone it fills the slot.
//! - Dirty, with a write-intent bitmap that may be believed: redundancy agrees where that marks nothing (`bitmap`).
//! - Dirty, and a slot missing that can hold data: parity cannot be trusted where it is needed. Refused unless told
//!   otherwise. Mirrors start, and so does an LU whose partial parity logs are all whole: replaying them repairs the parity.
//!
//! Whatever is set aside is named with its reason; a refusal names the override, if there is one.

use crate::disk::DiskId;
use crate::error::{Error, ErrorKind, Result};
use crate::format::badblocks::BadBlocks;
use crate::format::superblock::{Features, Found, Role, Superblock, Time, Uuid, WRITE_MOSTLY};
use crate::geometry::{Geometry, Shape};
use crate::plan::{Member as MemberView, Presence, View};
use crate::recovery::replay;
use crate::units::{Level, MemberLba, Sectors, Slot, SlotSet};

use super::bitmap::{self, Bitmap};
use super::status::MemberState;
use super::ways_out::{self, one_too_many};

/// A disk that was offered.
#[derive(Debug)]
pub(super) struct Candidate {
    pub disk: DiskId,
    pub name: String,
    /// Its superblock, or why there is none.
    pub found: Result<Found, Error>,
    /// Its bad-block list; an unreadable list makes the member unusable.
    pub bad: BadBlocks,
    /// Its copy of the write-intent bitmap, or why it has none, where its superblock speaks of one.
    pub bitmap: Option<Result<Bitmap>>,
    /// The newest record of its partial parity log, or why there is none; `None` without a log.
    pub log: Option<Result<replay::Found, String>>,
}

/// What the user allows.
#[derive(Clone, Debug, Default)]
pub(super) struct Allow {
    /// These disks count although they missed writes.
    pub stale: Vec<DiskId>,
    /// Start although writes were in flight and a slot is missing.
    pub dirty: bool,
}

/// What becomes of a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Fills the slot.
    Active(Slot),
    /// Waits to fill one.
    Spare,
    /// Is being made a copy of the slot's disk.
    Replacement(Slot),
    /// Not used, and why.
    Aside(MemberState, String),
}

/// The verdict.
#[derive(Debug)]
pub(super) struct Joined {
    pub candidates: Vec<Candidate>,
    /// By candidate.
    pub fates: Vec<Fate>,
    /// By slot, the candidate that fills it.
    pub slots: Vec<Option<usize>>,
    /// By slot, the candidate that is to replace the one that fills it.
    pub replacements: Vec<Option<usize>>,
    pub freshest: usize,
    pub geometry: Geometry,
    pub view: View,
    /// The write-intent bitmap, where there is one.
    pub bitmap: Option<bitmap::Joined>,
    /// Slots the freshest superblock counts on, and nobody fills.
    pub newly_missing: Vec<Slot>,
    /// Writes were in flight, or the first resync never ended.
    pub dirty: bool,
    /// What is wrong with the partial parity logs that are to be replayed; `None` if nothing is to be replayed.
    pub replay: Option<Vec<String>>,
    /// Why it must not be started as it is.
    pub refusal: Option<Error>,
    /// What was allowed.
    allow: Allow,
}

impl Joined {
    /// The superblock whose word counts.
    pub(super) fn facts(&self) -> &Superblock {
        superblock(&self.candidates[self.freshest]).expect("the freshest has one")
    }

    /// Sentences about members that were set aside.
    pub(super) fn warnings(&self) -> Vec<String> {
        let aside = self.candidates.iter().zip(&self.fates).filter_map(|(candidate, fate)| match fate {
            Fate::Aside(state, why) => Some(format!("{} is set aside ({state}): {why}", candidate.name)),
            _ => None,
        });
        let bitmap = self.bitmap.iter().flat_map(|bitmap| bitmap.warnings.iter().cloned());
        aside.chain(bitmap).collect()
    }

    /// The candidates that are read and written.
    pub(super) fn in_use(&self) -> Vec<usize> {
        let used = |fate: &Fate| matches!(fate, Fate::Active(_) | Fate::Spare | Fate::Replacement(_));
        (0..self.candidates.len()).filter(|&index| used(&self.fates[index])).collect()
    }

    /// A candidate failed before the LU was open: it is assembled as if that one had not been offered.
    ///
    /// # Errors
    /// `error` again, if it cannot be spared.
    pub(super) fn give_up(&mut self, index: usize, error: Error) -> Result<()> {
        let set = self.facts().set_uuid;
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates[index].found = Err(Error::new(error.kind(), error.to_string()));
        match join(candidates, set, &self.allow) {
            Ok(joined) if joined.refusal.is_none() => {
                *self = joined;
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// May it start although what was being written may come back wrong?
    pub(super) fn allows_dirty(&self) -> bool {
        self.allow.dirty
    }

    /// Slots that hold no data, wholly or in part.
    pub(super) fn incomplete(&self) -> SlotSet {
        self.view.incomplete()
    }
}

pub(super) fn superblock(candidate: &Candidate) -> Option<&Superblock> {
    candidate.found.as_ref().ok().map(|found| &found.superblock)
}

/// The LU's name without md's "homehost:".
pub(super) fn short_name(sb: &Superblock) -> String {
    let text = sb.name().into_owned();
    text.split_once(':').map(|(_, name)| name.to_owned()).filter(|name| !name.is_empty()).unwrap_or(text)
}

/// Joins candidates that claim to belong to `set` into an LU.
///
/// # Errors
/// If nothing can be said about the LU at all: no usable superblock, two disks that are one member, or a shape nobody can
/// address. What only keeps it from being started is [`Joined::refusal`].
pub(super) fn join(candidates: Vec<Candidate>, set: Uuid, allow: &Allow) -> Result<Joined> {
    let mut fates: Vec<Option<Fate>> = vec![None; candidates.len()];
    for (candidate, fate) in candidates.iter().zip(&mut fates) {
        let why = match &candidate.found {
            Err(error) => error.to_string(),
            Ok(found) if found.superblock.set_uuid != set => {
                format!("it belongs to another LU, {}", found.superblock.set_uuid)
            }
            Ok(_) => continue,
        };
        *fate = Some(Fate::Aside(MemberState::Faulty, why));
    }
    refuse_clones(&candidates, &fates)?;
    let freshest = freshest(&candidates, &fates, allow)?;
    let facts = superblock(&candidates[freshest]).expect("chosen for it").clone();

    let mut slots: Vec<Option<usize>> = vec![None; facts.raid_disks as usize];
    for index in 0..candidates.len() {
        if fates[index].is_some() {
            continue;
        }
        let mut fate = judge(&candidates, index, freshest, &facts, allow);
        if let Fate::Active(slot) = fate {
            match slots.get_mut(slot.index()) {
                Some(place @ None) => *place = Some(index),
                Some(Some(other)) => {
                    let holder = std::mem::replace(other, index);
                    *other = newer_of(&candidates, holder, index, slot, allow)?;
                    let (kept, left) = if *other == index { (index, holder) } else { (holder, index) };
                    let aside = Fate::Aside(MemberState::Stale, outdone(&candidates, kept, left, slot));
                    // One of the two is judged already; the other is about to be.
                    match left == index {
                        true => fate = aside,
                        false => fates[left] = Some(aside),
                    }
                }
                None => {
                    let text = format!(
                        "{}: {slot} is beyond the LU's {} slots",
                        candidates[index].name,
                        slots.len()
                    );
                    return Err(Error::new(ErrorKind::Format, text));
                }
            }
        }
        fates[index] = Some(fate);
    }
    let mut fates: Vec<Fate> = fates.into_iter().map(|fate| fate.expect("all are judged")).collect();
    let replacements = place_replacements(&candidates, &mut fates, &mut slots);
    finish(candidates, fates, slots, replacements, freshest, &facts, allow)
}

/// By slot, the candidate that is to replace the slot's disk. Where that disk is gone the replacement fills the slot
/// itself, good as far as it got.
fn place_replacements(
    candidates: &[Candidate],
    fates: &mut [Fate],
    slots: &mut [Option<usize>],
) -> Vec<Option<usize>> {
    let mut places = vec![None; slots.len()];
    for (index, fate) in fates.iter_mut().enumerate() {
        let Fate::Replacement(slot) = *fate else { continue };
        match (slots.get_mut(slot.index()), places.get_mut(slot.index())) {
            (Some(own @ None), _) => {
                *own = Some(index);
                *fate = Fate::Active(slot);
            }
            (_, Some(place @ None)) => *place = Some(index),
            (_, Some(&mut Some(other))) => {
                let why = format!("{} is to replace the disk in {slot} already", candidates[other].name);
                *fate = Fate::Aside(MemberState::Faulty, why);
            }
            (_, None) => *fate = Fate::Aside(MemberState::Faulty, format!("{slot} is beyond the LU's slots")),
        }
    }
    places
}

/// Two disks with one member identity: a copy made below us. Which of them the LU went on with cannot be told if they are
/// equally fresh.
fn refuse_clones(candidates: &[Candidate], fates: &[Option<Fate>]) -> Result<()> {
    let usable = |i: &usize| fates[*i].is_none();
    for a in (0..candidates.len()).filter(usable) {
        for b in (a + 1..candidates.len()).filter(usable) {
            let (Some(x), Some(y)) = (superblock(&candidates[a]), superblock(&candidates[b])) else {
                continue;
            };
            if x.device_uuid == y.device_uuid && x.events == y.events {
                let what = format!("are copies of one member ({})", x.device_uuid);
                return Err(one_too_many(candidates, a, b, &what));
            }
        }
    }
    Ok(())
}

/// Of two members that claim one slot, the one with more events: what the other has was replaced. One that
/// was let in although it is stale is not weighed: leave was asked for it without knowing of the other.
fn newer_of(candidates: &[Candidate], a: usize, b: usize, slot: Slot, allow: &Allow) -> Result<usize> {
    let events = |i: usize| superblock(&candidates[i]).map_or(0, |sb| sb.events);
    let forced = |i: usize| allow.stale.contains(&candidates[i].disk);
    if events(a) == events(b) || forced(a) || forced(b) {
        return Err(one_too_many(candidates, a, b, &format!("both claim {slot}")));
    }
    Ok(if events(a) > events(b) { a } else { b })
}

fn outdone(candidates: &[Candidate], kept: usize, left: usize, slot: Slot) -> String {
    let events = |i: usize| superblock(&candidates[i]).map_or(0, |sb| sb.events);
    let name = &candidates[kept].name;
    format!(
        "{name} claims {slot} too and is newer (it is at event {}, {name} at {})",
        events(left),
        events(kept)
    )
}

fn freshest(candidates: &[Candidate], fates: &[Option<Fate>], allow: &Allow) -> Result<usize> {
    let counts = |&(i, sb): &(usize, &Superblock)| {
        let holds_data =
            matches!(sb.my_role(), Role::Active(_)) && !sb.features.contains(Features::REPLACEMENT);
        fates[i].is_none() && holds_data
    };
    let all: Vec<(usize, &Superblock)> =
        (0..candidates.len()).filter_map(|i| Some((i, superblock(&candidates[i])?))).filter(counts).collect();
    let accuses = |sb: &Superblock, other: &Superblock| sb.role_of(other.dev_number) == Role::Faulty;
    // One that its equals failed, and that knows nothing of it: it was one ahead, and the failure made up for that.
    let failed = |sb: &Superblock| {
        all.iter().any(|(_, other)| other.events == sb.events && accuses(other, sb) && !accuses(sb, other))
    };
    let mut best: Option<((u64, bool, Time), usize)> = None;
    for &(i, sb) in &all {
        let age = (sb.events, !failed(sb), sb.utime);
        match best {
            Some((other, _)) if age < other => {}
            Some((other, index)) if age == other => {
                let facts = superblock(&candidates[index]).expect("chosen for it");
                let forced = [i, index].iter().any(|&i| allow.stale.contains(&candidates[i].disk));
                if !forced && is_without(sb, facts) {
                    return Err(ways_out::two_halves(candidates, index, i));
                }
            }
            _ => best = Some((age, i)),
        }
    }
    if let Some((_, index)) = best {
        return Ok(index);
    }
    let why = candidates.iter().map(|candidate| match &candidate.found {
        Ok(found) => format!("{}: a {} only", candidate.name, found.superblock.my_role()),
        Err(error) => format!("{}: {error}", candidate.name),
    });
    let why: Vec<String> = why.collect();
    let text = format!("no member that holds data among the disks offered ({})", why.join("; "));
    Err(Error::new(ErrorKind::CannotStart, text))
}

/// Did the LU of `sb` go on without the member that `facts` is of? Its table says so, or has nobody in its
/// slot any more.
pub(super) fn is_without(sb: &Superblock, facts: &Superblock) -> bool {
    let Role::Active(slot) = facts.my_role() else { return false };
    // A disk that is being rebuilt has its slot only since a moment ago: a round that was cut short says
    // nothing.
    let settled = facts.watermark().is_none();
    match sb.role_of(facts.dev_number) {
        Role::Faulty => true,
        Role::Spare => settled && !sb.roles.contains(&slot.0),
        _ => false,
    }
}

/// What becomes of a candidate that has a superblock of this LU.
pub(super) fn judge(
    candidates: &[Candidate],
    index: usize,
    freshest: usize,
    facts: &Superblock,
    allow: &Allow,
) -> Fate {
    let candidate = &candidates[index];
    let sb = superblock(candidate).expect("judged for its superblock");
    let shape = |sb: &Superblock| (sb.level, sb.layout, sb.chunk);
    if shape(sb) != shape(facts) {
        let why = format!(
            "it says level {}, layout {}, chunk {}; the freshest member says {}, {}, {}",
            sb.level, sb.layout, sb.chunk.0, facts.level, facts.layout, facts.chunk.0
        );
        return Fate::Aside(MemberState::Faulty, why);
    }
    if facts.size > sb.data_size && matches!(sb.my_role(), Role::Active(_)) {
        let why = format!("{} of data are needed and it has room for {}", facts.size, sb.data_size);
        return Fate::Aside(MemberState::Faulty, why);
    }
    let own = sb.my_role();
    let Role::Active(own_slot) = own else {
        let told = facts.role_of(sb.dev_number);
        return match own {
            // It was taking over when the round was cut that says so: it has the slot, and nothing of it.
            Role::Spare if matches!(told, Role::Active(_)) && sb.events.saturating_add(1) == facts.events => {
                let Role::Active(slot) = told else { return Fate::Spare };
                // Where another has the slot too it was to replace that one.
                let others = (0u32..).zip(&facts.roles).filter(|&(number, _)| number != sb.dev_number);
                let shared = others.into_iter().any(|(_, &role)| role == slot.0);
                if shared { Fate::Replacement(slot) } else { Fate::Active(slot) }
            }
            // Its number may have been given to somebody else since it was a spare.
            Role::Spare if told != Role::Spare => Fate::Aside(
                MemberState::Stale,
                format!("it was a spare once; its number {} belongs to another member now", sb.dev_number),
            ),
            Role::Spare => Fate::Spare,
            role => Fate::Aside(MemberState::Faulty, format!("its superblock calls it {role}")),
        };
    };
    if allow.stale.contains(&candidate.disk) {
        return Fate::Active(own_slot);
    }
    let fresh_name = &candidates[freshest].name;
    if index != freshest && is_without(sb, facts) {
        let why = format!(
            "it went on without {fresh_name}, which it calls faulty or missing (it is at event {}, \
             {fresh_name} at {})",
            sb.events, facts.events
        );
        return Fate::Aside(MemberState::Stale, why);
    }
    if sb.events.saturating_add(1) < facts.events {
        let why = format!("it missed writes: it is at event {}, {fresh_name} at {}", sb.events, facts.events);
        return Fate::Aside(MemberState::Stale, why);
    }
    // One behind at most: what the freshest says of it counts.
    match facts.role_of(sb.dev_number) {
        Role::Active(slot) if sb.features.contains(Features::REPLACEMENT) => Fate::Replacement(slot),
        Role::Active(slot) => Fate::Active(slot),
        role => Fate::Aside(MemberState::Faulty, format!("{fresh_name} calls it {role}")),
    }
}

fn finish(
    candidates: Vec<Candidate>,
    fates: Vec<Fate>,
    slots: Vec<Option<usize>>,
    replacements: Vec<Option<usize>>,
    freshest: usize,
    facts: &Superblock,
    allow: &Allow,
) -> Result<Joined> {
    let geometry = geometry_of(facts, &slots, &candidates)?;
    let mut candidates = candidates;
    for candidate in candidates.iter_mut().filter(|candidate| allow.stale.contains(&candidate.disk)) {
        // What its log says was true once.
        let why = || Err("it missed writes".to_owned());
        candidate.log = candidate.log.take().map(|_| why());
    }
    let member = |place: &Option<usize>| -> MemberView {
        let Some(index) = *place else { return MemberView::default() };
        let sb = superblock(&candidates[index]).expect("fills a slot");
        let presence = match sb.my_role() {
            // Its superblock does not know yet that it has the slot.
            Role::Spare => Presence::Below(MemberLba(0)),
            // All of it was copied; only the round that gives it the slot was cut short.
            Role::Active(slot)
                if sb.watermark().is_some_and(|mark| mark.0 >= geometry.member_used(slot).0)
                    && slots.contains(&Some(index)) =>
            {
                Presence::Present
            }
            // It was to replace the slot's disk, which had the log of what was in flight; it has none of that.
            _ if sb.features.contains(Features::REPLACEMENT)
                && slots.contains(&Some(index))
                && facts.features.has_ppl() =>
            {
                Presence::Below(MemberLba(0))
            }
            _ => sb.watermark().map_or(Presence::Present, Presence::Below),
        };
        MemberView {
            presence,
            bad: bad_ranges(sb, &candidates[index].bad),
            avoid: sb.devflags & WRITE_MOSTLY != 0,
        }
    };
    let members: Vec<MemberView> = slots.iter().map(member).collect();
    let bitmap = (geometry.is_redundant() && facts.features.contains(Features::BITMAP)).then(|| {
        let filling = slots.iter().chain(&replacements).flatten().map(|&index| &candidates[index]);
        let copies = filling.filter_map(|c| Some((c.name.as_str(), c.bitmap.as_ref()?)));
        bitmap::join(copies, facts, &geometry)
    });
    let whole = members.iter().all(|member| member.presence == Presence::Present);
    let (synced_below, suspects) = match &bitmap {
        _ if !geometry.is_redundant() => (u64::MAX, None),
        Some(bitmap) => bitmap.unsynced(&geometry, facts.resync_offset, whole),
        None => (facts.resync_offset.0, None),
    };
    let any = replacements.iter().any(Option::is_some);
    let seconds = replacements.iter().filter(|_| any).map(member).collect();
    let logs = facts.features.has_ppl();
    let view = View { epoch: 1, members, replacements: seconds, synced_below, suspects, logs };
    let counted_on = |slot: &Slot| facts.roles.contains(&slot.0);
    let newly_missing = view.missing().iter().filter(counted_on).collect();
    let dirty = synced_below != u64::MAX;
    let mut joined = Joined {
        candidates,
        fates,
        slots,
        replacements,
        freshest,
        geometry,
        view,
        bitmap,
        newly_missing,
        dirty,
        replay: None,
        refusal: None,
        allow: allow.clone(),
    };
    // md stores 0 while writes are in flight; anything else is how far a resync of a clean LU is.
    if facts.features.has_ppl() && facts.resync_offset == Sectors(0) {
        let mut flaws = log_flaws(&joined);
        forgo_log(&mut joined, &mut flaws);
        if flaws.is_empty() {
            joined.view.synced_below = u64::MAX;
        }
        joined.replay = Some(flaws.into_iter().map(|flaw| flaw.1).collect());
        // A replay makes the rows agree on the disks that have the slots. What was in flight on one that is to replace another
        // may be older or newer there: it is copied anew.
        for second in joined.view.replacements.iter_mut().filter(|it| it.presence != Presence::Missing) {
            second.presence = Presence::Below(MemberLba(0));
        }
    }
    joined.refusal = refusal(&joined, facts, allow);
    ways_out::tell(&mut joined);
    Ok(joined)
}

/// Why replaying the partial parity logs would not bring all redundancy in sync, and in which slot; empty if it would.
fn log_flaws(joined: &Joined) -> Vec<(Option<Slot>, String)> {
    let mut flaws = Vec::new();
    let mut vouched = false;
    for (slot, index) in joined.slots.iter().enumerate().filter_map(|(s, index)| Some((s, (*index)?))) {
        let slot = Slot(slot as u16);
        let candidate = &joined.candidates[index];
        let name = &candidate.name;
        match &candidate.log {
            Some(Ok(found)) => {
                vouched |= found.vouches();
                let (_, wrong) = replay::repairs(&joined.geometry, slot, found);
                flaws.extend(wrong.iter().map(|flaw| (Some(slot), format!("the log of {name}: {flaw}"))));
            }
            Some(Err(why)) => flaws.push((Some(slot), format!("the log of {name}: {why}"))),
            None => flaws.push((Some(slot), format!("{name} has no log"))),
        }
    }
    if flaws.is_empty() && !vouched {
        flaws.push((None, "the logs hold nothing, so they do not tell that redundancy was in sync".into()));
    }
    flaws
}

/// A log is wanted for the parity on its own member. Where that is the only one half rebuilt it can do without its log: all
/// data is on the others, and it is rebuilt from its beginning.
fn forgo_log(joined: &mut Joined, flaws: &mut Vec<(Option<Slot>, String)>) {
    let Some(slot) = flaws.first().and_then(|flaw| flaw.0) else { return };
    let all_there = joined.candidates.iter().filter_map(|candidate| candidate.log.as_ref()?.as_ref().ok());
    let vouched = all_there.into_iter().any(replay::Found::vouches);
    let alone =
        joined.incomplete() == [slot].into_iter().collect() && flaws.iter().all(|flaw| flaw.0 == Some(slot));
    if alone && vouched && joined.geometry.tolerates(&joined.incomplete()) {
        joined.view.members[slot.index()].presence = Presence::Below(MemberLba(0));
        flaws.clear();
    }
}

fn geometry_of(facts: &Superblock, slots: &[Option<usize>], candidates: &[Candidate]) -> Result<Geometry> {
    let level = Level::from_md_number(facts.level).ok_or_else(|| {
        Error::new(ErrorKind::Format, format!("level {} is not one uraid knows", facts.level))
    })?;
    // Only levels that add up their members look at the sizes; they need all of them, so a stand-in never counts.
    let size = |place: &Option<usize>| {
        place.and_then(|i| superblock(&candidates[i])).map_or(facts.data_size, |sb| sb.data_size)
    };
    let sizes: Vec<Sectors> = slots.iter().map(size).collect();
    Geometry::new(&Shape {
        level,
        layout: facts.layout,
        chunk: facts.chunk,
        slots: u16::try_from(slots.len()).unwrap_or(u16::MAX),
        component: facts.size,
        members: &sizes,
    })
}

/// The bad ranges that touch the data area, in its own sectors.
pub(super) fn bad_ranges(sb: &Superblock, bad: &BadBlocks) -> Vec<(MemberLba, MemberLba)> {
    let start = sb.data_offset;
    bad.iter()
        .filter(|area| area.end() > start)
        .map(|area| (MemberLba(area.start.0.saturating_sub(start.0)), MemberLba(area.end().0 - start.0)))
        .collect()
}

/// Why the LU must not be started.
fn refusal(joined: &Joined, facts: &Superblock, allow: &Allow) -> Option<Error> {
    let cannot = |text: String| Some(Error::new(ErrorKind::CannotStart, text));
    let names = |slots: &[Slot]| slots.iter().map(|s| s.0.to_string()).collect::<Vec<_>>().join(", ");
    if facts.reshape.is_some() {
        return cannot(
            "a reshape is under way; this version does not read an LU in the middle of one: let the kernel finish it".into(),
        );
    }
    let missing = joined.view.missing();
    if !joined.geometry.tolerates(&missing) {
        let slots: Vec<Slot> = missing.iter().collect();
        let total = joined.slots.len();
        return cannot(format!(
            "{} of {total} members are there; without slot {} the data is not whole{}",
            total - slots.len(),
            names(&slots),
            ways_out::stale_flags(joined)
        ));
    }
    if !joined.geometry.tolerates(&joined.incomplete()) {
        return cannot(format!(
            "a member is missing while another is still being rebuilt: the data is not whole{}",
            ways_out::stale_flags(joined)
        ));
    }
    let harmful = |slot: &Slot| !joined.geometry.parity_only(*slot);
    let degraded = joined.incomplete().iter().any(|slot| harmful(&slot));
    let repaired = joined.replay.as_ref().is_some_and(Vec::is_empty);
    if joined.dirty && !repaired && degraded && joined.geometry.parities() > 0 && !allow.dirty {
        let log = match &joined.replay {
            Some(flaws) => format!(" and its partial parity log cannot repair that ({})", flaws.join("; ")),
            None => String::new(),
        };
        return cannot(format!(
            "writes were in flight when it was last used and a member is missing{log}: what the missing member held may \
             be wrong where it was being written; to start it nevertheless: --allow-dirty"
        ));
    }
    None
}

#[cfg(test)]
#[path = "assemble_tests.rs"]
mod tests;
