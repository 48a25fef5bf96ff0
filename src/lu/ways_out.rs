//! What to type when assembly refused something: the flag that lets a member in, the disks to name instead.
//!
//! Every sentence made here can be followed as it stands: names are quoted for a shell, a flag is told only
//! where it would help, and two states of an LU that went apart are never offered to be mixed. Decides
//! nothing; the rules are [`assemble`](super::assemble)'s.

use core::cmp::Reverse;

use crate::error::{Error, ErrorKind};
use crate::format::superblock::Superblock;
use crate::units::Slot;

use super::assemble::{Allow, Candidate, Fate, Joined, is_without, judge, superblock};
use super::status::quoted;

/// Says of each member that was set aside what would let it in, or who is in its place.
pub(super) fn tell(joined: &mut Joined) {
    let told = |index| Some((index, way_in(joined, index)?));
    let told: Vec<(usize, String)> = (0..joined.fates.len()).filter_map(told).collect();
    for (index, way) in told {
        if let Fate::Aside(_, why) = &mut joined.fates[index] {
            *why = format!("{why}; {way}");
        }
    }
}

/// What would let in a member that was set aside, or who is in its place.
fn way_in(joined: &Joined, index: usize) -> Option<String> {
    let candidate = &joined.candidates[index];
    let slot = lost_slot(joined, index)?;
    if let Some(other) = joined.slots[slot.index()] {
        return Some(format!("{} fills {slot}", joined.candidates[other].name));
    }
    let own = superblock(candidate)?;
    if !is_without(own, joined.facts()) {
        return Some(format!("to use it nevertheless: --allow-stale {}", quoted(&candidate.name)));
    }
    // Mixed with the others it would be neither the one state of the LU nor the other.
    let others = joined.slots.iter().flatten().map(|&i| joined.candidates[i].name.as_str());
    let others: Vec<&str> = others.collect();
    Some(format!("to go on with it instead, use {}", exactly(&half_of(&joined.candidates, own), &others)))
}

/// The slot that a member would fill had it not been left behind; `None` for one that fills it, and for what
/// cannot be used at all.
fn lost_slot(joined: &Joined, index: usize) -> Option<Slot> {
    let (candidate, facts) = (&joined.candidates[index], joined.facts());
    let of_this_lu = superblock(candidate).is_some_and(|sb| sb.set_uuid == facts.set_uuid);
    let allow = Allow { stale: vec![candidate.disk], dirty: false };
    if !of_this_lu || !matches!(joined.fates[index], Fate::Aside(..)) {
        return None;
    }
    match judge(&joined.candidates, index, joined.freshest, facts, &allow) {
        Fate::Active(slot) if slot.index() < joined.slots.len() => Some(slot),
        _ => None,
    }
}

/// The members left behind that would make the data whole again, the freshest first; `None` if all of them
/// would not. None is of a half that went on alone.
fn would_do(joined: &Joined) -> Option<Vec<&Candidate>> {
    let whole = |sb: &Superblock| sb.watermark().is_none() && !is_without(sb, joined.facts());
    let left = joined.candidates.iter().enumerate().filter_map(|(index, candidate)| {
        let sb = superblock(candidate).filter(|sb| whole(sb))?;
        Some((sb.events, index, lost_slot(joined, index)?))
    });
    let mut left: Vec<(u64, usize, Slot)> = left.collect();
    left.sort_by_key(|&(events, ..)| Reverse(events));
    let (mut lacking, mut used) = (joined.incomplete(), Vec::new());
    for (_, index, slot) in left {
        if joined.geometry.tolerates(&lacking) {
            break;
        }
        if joined.slots[slot.index()].is_none() && lacking.contains(slot) {
            lacking = lacking.iter().filter(|&other| other != slot).collect();
            used.push(&joined.candidates[index]);
        }
    }
    joined.geometry.tolerates(&lacking).then_some(used)
}

/// The rest of a sentence that says that data is not whole: the flags with which it would start, if stale
/// members would do.
pub(super) fn stale_flags(joined: &Joined) -> String {
    let flag = |candidate: &Candidate| format!(" --allow-stale {}", quoted(&candidate.name));
    match would_do(joined) {
        Some(used) => {
            let flags: String = used.into_iter().map(flag).collect();
            format!("; to use what was left behind nevertheless:{flags}")
        }
        None => String::new(),
    }
}

/// Of two disks one has to go, and nobody here knows which. What is to be typed then stands in the error.
pub(super) fn one_too_many(candidates: &[Candidate], a: usize, b: usize, what: &str) -> Error {
    let uuid = |i: usize| superblock(&candidates[i]).map(|sb| sb.device_uuid);
    let rest = (0..candidates.len()).filter(|&i| i == a || (i != b && uuid(i) != uuid(b)));
    let rest: Vec<&str> = rest.map(|i| candidates[i].name.as_str()).collect();
    let (a, b) = (&candidates[a].name, &candidates[b].name);
    let text = format!("{a} and {b} {what}: leave one of them out, for instance: {}", exactly(&rest, &[b]));
    Error::new(ErrorKind::CannotStart, text)
}

/// Two halves of an LU that went on alone, and neither is newer. What is to be typed to go on with one of
/// them stands in the error.
pub(super) fn two_halves(candidates: &[Candidate], a: usize, b: usize) -> Error {
    let half = superblock(&candidates[a]).map(|own| half_of(candidates, own)).unwrap_or_default();
    let (a, b) = (&candidates[a].name, &candidates[b].name);
    let text = format!(
        "{a} and {b} went on without each other, equally far: leave one half out, for instance: {}",
        exactly(&half, &[b])
    );
    Error::new(ErrorKind::CannotStart, text)
}

/// The members that have the same idea of who is a member as `own`.
fn half_of<'a>(candidates: &'a [Candidate], own: &Superblock) -> Vec<&'a str> {
    let same = |sb: &Superblock| sb.set_uuid == own.set_uuid && sb.roles == own.roles;
    let half = candidates.iter().filter(|candidate| superblock(candidate).is_some_and(same));
    half.map(|candidate| candidate.name.as_str()).collect()
}

/// How to make `names` the only disks that are offered: a list of paths is taken as it stands, a single one
/// stands for its folder.
fn exactly(names: &[&str], others: &[&str]) -> String {
    match names {
        [_, _, ..] => quoted(&names.join(",")),
        _ => format!("{} with {} out of its folder", names.concat(), others.join(" and ")),
    }
}
