//! What a write-intent bitmap is kept for besides crashes: a member that left takes its slot again, and only
//! what it missed is copied to it. Also the keeper's hand on the bitmap: which bits go to disk with a round,
//! and when they are cleared.
//!
//! A member may come back this way if everything written since it left is marked. That is so if its event
//! count is not behind the bitmap's `events_cleared`, it was whole when it left, and nobody wrote to it
//! since: its table must not call any present member gone (split brain). In doubt it is added as a stranger
//! and rebuilt in full.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use crate::disk::{Blocking, DiskId, Op, Span};
use crate::error::{Error, ErrorKind, Result};
use crate::format::superblock::{Features, Role, Superblock};
use crate::plan::{Member as MemberView, Presence, StripeSet, View};
use crate::recovery::Goal;
use crate::units::{MemberLba, SECTOR, Sectors, Slot, Stripe};

use super::Lu;
use super::assemble::{Fate, bad_ranges};
use super::board::{Board, What, lock};
use super::keeper::{Cause, Keeper, Now, Phase, Round};
use super::members::Member;
use super::open::{read_bad_blocks, read_found};
use super::queue::OWN;
use super::status::Row;

impl Lu {
    /// Lets a disk that was a member take its slot again, if it has missed nothing but what the bitmap marks.
    /// False if it has to be added as a new one.
    ///
    /// # Errors
    /// Those of the change itself, once it was begun.
    pub(super) fn come_back(&self, disk: DiskId, model: &Superblock) -> Result<bool> {
        let Some(back) = self.board.returning(disk, model)? else { return Ok(false) };
        match self.change(back) {
            Err(error) if error.kind() == ErrorKind::Refused => Ok(false),
            ended => ended.map(|()| true),
        }
    }
}

impl Board {
    /// The change by which a disk that was a member takes its slot again; `None` if it has to be added as a new one. The
    /// keeper may still refuse it: then, too.
    pub(super) fn returning(&self, disk: DiskId, model: &Superblock) -> Result<Option<What>> {
        if !model.features.contains(Features::BITMAP) {
            return Ok(None);
        }
        let backend = &*self.backend;
        let io = Blocking::new(backend)?;
        let info = backend.info(disk);
        let Ok(found) = read_found(&io, disk, info.size) else { return Ok(None) };
        let Ok(bad) = read_bad_blocks(&io, disk, &found) else { return Ok(None) };
        let Some(slot) = self.slot_left_by(&found.superblock, model) else { return Ok(None) };
        let rows = lock(&self.roster).clone();
        let number = found.superblock.dev_number;
        if rows.iter().any(|row| row.disk != disk && row.dev_number == Some(number) && row.is_used()) {
            return Ok(None);
        }
        let member = Member::new(disk, info.name, found.superblock, found.slot, info.block, bad);
        Ok(Some(What::Return(Box::new(member), slot)))
    }

    /// The slot that a member left whole, as its superblock and that of a present member tell it.
    fn slot_left_by(&self, own: &Superblock, model: &Superblock) -> Option<Slot> {
        let shape = |sb: &Superblock| {
            (sb.set_uuid, sb.level, sb.layout, sb.chunk, sb.raid_disks, sb.size, sb.minor, sb.bitmap_offset)
        };
        let Role::Active(slot) = own.my_role() else { return None };
        let view = self.health().view.clone();
        let empty = view.members.get(slot.index()).is_some_and(|m| m.presence == Presence::Missing);
        // Half rebuilt it has missed more, unless that was such a return, too.
        let half = own.features.contains(Features::RECOVERY_OFFSET)
            && !own.features.contains(Features::RECOVERY_BITMAP);
        let fits = shape(own) == shape(model)
            && own.data_size >= model.size
            && own.features.contains(Features::BITMAP)
            && !own.features.contains(Features::REPLACEMENT)
            && own.reshape.is_none();
        let alone = lock(&self.roster).iter().any(|row| match (&row.fate, row.dev_number) {
            (&Fate::Active(slot), Some(number)) => own.role_of(number) != Role::Active(slot),
            _ => false,
        });
        let number_free =
            [Role::Faulty, Role::Spare, Role::Active(slot)].contains(&model.role_of(own.dev_number));
        (empty && !half && fits && !alone && number_free).then_some(slot)
    }
}

impl Row {
    /// Does the LU use the disk?
    fn is_used(&self) -> bool {
        !matches!(self.fate, Fate::Aside(..))
    }
}

impl Keeper {
    /// A member that left fills `slot` again, to be brought up to date.
    pub(super) fn take_back(&mut self, member: Member, slot: Slot) -> Result<()> {
        let refused = |text: &str| Err(Error::new(ErrorKind::Refused, text));
        self.forget_past(member.disk);
        let Some((record, _)) = &mut self.record else { return refused("there is no write-intent bitmap") };
        let events = member.superblock.events;
        if events < record.events_cleared() || events > self.members.events {
            return refused("it missed more than the write-intent bitmap marks");
        }
        let Some(place) = self.view.members.get_mut(slot.index()) else { return refused("no such slot") };
        if place.presence != Presence::Missing {
            return refused("somebody else has its slot");
        }
        record.rewrite();
        let block = u64::from(self.board.block) / SECTOR;
        let mut bad = bad_ranges(&member.superblock, member.bad());
        for (start, end) in &mut bad {
            (start.0, end.0) = (start.0 - start.0 % block, end.0.next_multiple_of(block));
        }
        let avoid = member.superblock.devflags & crate::format::superblock::WRITE_MOSTLY != 0;
        *place = MemberView { presence: Presence::Below(MemberLba(0)), bad, avoid };
        self.core.side.disks.attach(member.disk);
        let mut roster = lock(&self.board.roster);
        roster.retain(|row| row.disk != member.disk);
        roster.push(Row {
            disk: member.disk,
            name: member.name.clone(),
            fate: Fate::Spare,
            events,
            uuid: Some(member.superblock.device_uuid),
            dev_number: Some(member.superblock.dev_number),
        });
        drop(roster);
        self.set_fate(member.disk, Fate::Active(slot));
        self.members.take_back(member, slot);
        self.put_off_replacing();
        Ok(())
    }

    /// The stripes a walk has to do, where a bitmap tells.
    pub(super) fn selection(&self, goal: Goal) -> Option<Arc<StripeSet>> {
        match goal {
            Goal::Resync => self.view.suspects.clone(),
            Goal::Rebuild(slot) => {
                let member = self.members.list.iter().find(|member| member.slot() == Some(slot))?;
                let (record, _) = self.record.as_ref().filter(|_| member.lacks_only_marked())?;
                Some(Arc::new(record.stripes(&self.board.geometry)))
            }
            Goal::Replace(_) => None,
        }
    }

    /// Says what a rebuild that the bitmap guided has copied.
    pub(super) fn tell_copied(&self) {
        let Some(walk) = self.walk.as_ref().filter(|walk| walk.is_finished()) else { return };
        if let (Goal::Rebuild(slot), Some((copied, _))) = (walk.goal(), walk.selected()) {
            let (copied, all) = (copied * SECTOR, walk.end().bytes());
            let text = format!("{slot} is up to date again: {copied} of {all} bytes had to be copied");
            lock(&self.board.notes).push(text);
        }
    }

    // --- the bitmap
    // -----------------------------------------------------------------------------------------------

    /// A disk joined that has to have the whole bitmap.
    pub(super) fn rewrite_bitmap(&mut self) {
        if let Some((record, _)) = &mut self.record {
            record.rewrite();
        }
    }

    /// Is it time to look for bits that can be cleared? Asked in every step, it also sets the clock.
    pub(super) fn is_clearing_due(&mut self, now: Now) -> bool {
        let may = self.may_clear();
        let Some((record, _)) = self.record.as_ref().filter(|_| may && self.board.chunks_marked() > 0) else {
            self.clear_due = None;
            return false;
        };
        let next: Instant = now.monotonic + record.period();
        match self.clear_due {
            Some(due) if due <= now.monotonic => {
                self.clear_due = Some(next);
                true
            }
            due => {
                self.clear_due = due.or(Some(next));
                false
            }
        }
    }

    /// Nothing is cleared while a slot is not whole: it would not be known what that missed.
    fn may_clear(&self) -> bool {
        let shared = &self.board.shared;
        self.view.incomplete().is_empty() && !shared.is_broken() && !shared.flush_lost()
    }

    /// Takes the marks from regions that rest; see [`Record::unmark`](super::bitmap::Record::unmark). True if
    /// there are any.
    pub(super) fn unmark(&mut self, at_once: bool) -> bool {
        if !self.may_clear() {
            return false;
        }
        let (view, unit) = (&self.view, self.board.geometry.unit().0.max(1));
        match (&mut self.record, self.board.shared.intent()) {
            (Some((record, _)), Some(map)) => {
                record.unmark(map, at_once, |positions| is_pending(view, unit, positions))
            }
            _ => false,
        }
    }

    /// Submits what a round writes of the bitmap.
    pub(super) fn submit_bitmap(&mut self, round: &mut Round) {
        let (Some((record, page)), Some(map)) = (&mut self.record, self.board.shared.intent()) else {
            return;
        };
        if round.phase == Phase::Unmark {
            record.clear(map);
        } else {
            let ahead = u64::from(!matches!(round.cause, Cause::Intent | Cause::Clear | Cause::CatchUp));
            let whole = self.view.incomplete().is_empty();
            record.set_wanted(map, self.members.events + ahead, whole.then_some(self.members.events));
        }
        let memory = &mut self.core.side.memory;
        for run in record.runs() {
            let span = Span { region: *page, offset: run.start as u32, len: run.len() as u32 };
            record.copy_to(run.start, memory.bytes_mut(span));
            for member in &self.members.list {
                let Some(at) = member.bitmap_at() else { continue };
                let (disk, at) = (member.disk, at + Sectors(run.start as u64 / SECTOR));
                let op = Op::Write { disk, at, buf: memory.io_write_from(span), fua: true };
                self.core.side.disks.submit(OWN | u64::from(disk.0), op);
                round.left += 1;
            }
        }
    }

    /// The round's phase has ended: if it was the bitmap's, what it wrote counts from now on. Where only a
    /// member that cannot be spared refused it, the LU goes on while there is another copy, as with
    /// superblocks.
    pub(super) fn note_bitmap(&mut self, round: &Round) {
        if !matches!(round.phase, Phase::Bitmap | Phase::Unmark) {
            return;
        }
        let (Some((record, _)), Some(map)) = (&mut self.record, self.board.shared.intent()) else { return };
        let kept = |member: &&Member| member.bitmap_at().is_some() && !round.refused.contains(&member.disk);
        let (kept, all) = (self.members.list.iter().filter(kept).count(), self.members.list.iter());
        let sparable = all.filter(|member| round.refused.contains(&member.disk)).any(|member| {
            let one_more = |slot| self.board.geometry.tolerates(&self.view.incomplete().with(slot));
            member.slot().is_none_or(one_more)
        });
        if kept == 0 {
            self.board.shared.set_broken();
        } else if !sparable {
            record.written(map);
            self.board.set_chunks_marked(record.count_set());
        }
    }
}

/// May redundancy still disagree somewhere in these positions?
fn is_pending(view: &View, unit: u64, positions: Range<u64>) -> bool {
    let start = positions.start.max(view.synced_below);
    let suspects = view.suspects.as_ref();
    let end = positions.end.div_ceil(unit);
    start < positions.end
        && suspects.is_none_or(|set| set.next_from(Stripe(start / unit)).is_some_and(|stripe| stripe.0 < end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_still_to_be_resynced_is_pending() {
        let mut view = View::healthy(3);
        assert!(!is_pending(&view, 8, 0..1000));
        view.synced_below = 80;
        assert!(
            !is_pending(&view, 8, 0..80) && is_pending(&view, 8, 64..96) && is_pending(&view, 8, 800..900)
        );
        view.suspects = Some(Arc::new(StripeSet::new([2..3, 20..22])));
        // Stripes 20 and 21 are positions 160 to 176; stripe 2 is done.
        assert!(!is_pending(&view, 8, 0..160) && !is_pending(&view, 8, 176..400));
        assert!(
            is_pending(&view, 8, 0..161) && is_pending(&view, 8, 175..400) && is_pending(&view, 8, 168..169)
        );
    }
}
