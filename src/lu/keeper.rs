//! The keeper: one per LU that is open for writing. It marks the LU dirty and clean, records failures on the survivors, and
//! runs recovery.
//!
//! [`Keeper::step`] is a state machine over its own queue: it never blocks and is told the time. The thread around it does
//! nothing but sleep until there is something to do. One superblock round is under way at a time:
//!
//! | wish | round | when it has ended |
//! |---|---|---|
//! | a write waits on a clean LU | `resync_offset` 0, events + 1 | writes may go out |
//! | no write for a while | all members flushed; then `resync_offset` as far as in sync, events + 1 | |
//! | a member was left behind by a power cut | what the others say, at their events | |
//! | a member failed | its role "faulty", events + 1, on the survivors only; the same once more | the view says "missing"; held replies go out |
//! | a disk joins or leaves, a spare takes over | the tables, events + 1 | the view; a rebuild begins |
//! | blocks are bad, or were written and are good again | members flushed; the lists, events + 1 | the view; held replies go out |
//! | recovery got on | members flushed; then the watermark, events + 1 | the view moves the watermark |
//! | a replacement is complete | members flushed; then the old disk "faulty", events + 1; the same once more | the view |
//! | stop | as "clean" | the end |
//! | a write waits on regions of a dirty LU | no superblocks: their bits in the bitmap, durably | writes may go out |
//! | no write to a region for a while, or stop | no superblocks: all members flushed; then the bits cleared | |
//!
//! With a write-intent bitmap (`bitmap`) a round that writes superblocks writes before them, on every member in a slot, the
//! bitmap's header with the coming event count and the bits that writers wait for. Not at once with them: superblocks that
//! a power cut left ahead of all bitmaps would make those stale, and everything be resynced.
//!
//! A member that cannot take its superblock fails with it, and the round is repeated for the others. Where nothing can
//! stand in for it, the LU goes on while at least one superblock was written; if none was, writes fail from then on.

use std::collections::VecDeque;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::disk::{AlignedBuf, DiskId, Op, RegionId, Span};
use crate::engine::{Holder, IntentMap, Note, Reply, Request, Trouble};
use crate::error::{Error, ErrorKind, Result};
use crate::format::superblock::{Role, Time};
use crate::plan::{Member as MemberView, Presence, Rows, View};
use crate::planted::{Bug, planted};
use crate::recovery::{Goal, Walk};
use crate::units::{MemberLba, SECTOR, Sectors, Slot, SlotSet, Stripe};

use super::assemble::Fate;
use super::bitmap::Record;
use super::board::{Board, Change, Health, Inbox, What, lock};
use super::members::{Member, Members};
use super::queue::{Core, OWN};
use super::status::{MemberState, Row, Work};

/// No write for this long: the superblocks are made clean again. md's default for its safe mode.
const IDLE: Duration = Duration::from_millis(200);

/// Recovery writes down how far it is at least this often.
const CHECKPOINT: Duration = Duration::from_secs(30);

/// The watermark that queues see moves at least this often.
const PUBLISH: Duration = Duration::from_millis(200);

/// How long to wait before looking again whether somebody has seen how a flush of his ended.
const OPEN_FLUSH: Duration = Duration::from_millis(1);

/// Rows under way in a recovery that has the disks for itself, at most.
const WINDOW: usize = 16;

/// Bytes under way, about, where all disks answer at once: more in flight gains nothing there, and what is read should be
/// in the CPU's cache still when it is summed up.
const CACHED: u64 = 1 << 20;

/// And while clients have requests: what a disk has to do for the recovery then, a client's request waits for.
const MODEST: usize = 2;

/// So long without a request of a client, and the recovery has the disks for itself.
const CALM: Duration = Duration::from_millis(20);

/// Now, as the keeper is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub monotonic: Instant,
    pub wall: Time,
}

impl Now {
    pub(super) fn read() -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            monotonic: Instant::now(),
            wall: Time { seconds: wall.as_secs(), micros: wall.subsec_micros() },
        }
    }
}

/// How far a walk is: all below `watermark` is done, or all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reached {
    watermark: u64,
    finished: bool,
}

impl Reached {
    fn of(walk: &Walk) -> Reached {
        Reached { watermark: walk.watermark(), finished: walk.is_finished() }
    }
}

/// Why a round is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cause {
    Dirty,
    Clean,
    Failure,
    /// The second half of a failure: see the module's text.
    Confirm,
    Membership,
    /// Blocks are bad, or good again.
    Blocks,
    /// How far recovery was when the round began; with `last`, it ends there.
    Checkpoint {
        reached: Reached,
        last: bool,
    },
    /// A replacement is complete: it has the slot from now on.
    Swap(Slot),
    /// Somebody is behind the others, by one update: it is told what they say, and no more.
    CatchUp,
    /// Bits of the bitmap are set, or cleared; the superblocks stay as they are.
    Intent,
    Clear,
}

/// What of a round is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    Flush,
    /// Bad-block lists, before the superblocks that speak of them.
    Lists,
    /// The bitmap: its header and what is newly marked.
    Bitmap,
    Superblocks,
    /// What the bitmap no longer marks.
    Unmark,
}

/// A superblock round under way.
pub(super) struct Round {
    pub cause: Cause,
    pub phase: Phase,
    /// When it began: its superblocks' update time.
    wall: Time,
    pub left: usize,
    /// When its flush began, until its results have been looked at; then when it ended, until it is believed.
    flush: Option<u64>,
    flushed: Option<u64>,
    written: usize,
    pub refused: Vec<DiskId>,
    /// Told when the round has ended.
    waiting: Vec<mpsc::Sender<Result<()>>>,
}

/// Rows under way in a recovery: which position of the walk they belong to.
#[derive(Clone, Copy)]
struct Filling {
    /// Which walk: an answer may come when there is another one already.
    walk: u64,
    position: u64,
    stripe: Stripe,
    rows: Rows,
}

pub(super) struct Keeper {
    pub(super) board: Arc<Board>,
    pub(super) core: Core,
    pub(super) members: Members,
    pub(super) view: View,
    /// The write-intent bitmap, and the buffer from which it is written.
    pub(super) record: Option<(Record, RegionId)>,
    /// The next round of clearing bits.
    pub(super) clear_due: Option<Instant>,
    /// One buffer per member for its superblock.
    pages: Vec<(DiskId, RegionId)>,
    round: Option<Round>,
    failed: SlotSet,
    /// Slots whose replacements failed.
    failed_replacements: SlotSet,
    /// The table gained a member that was let in: to be recorded before anything is written.
    adopts: bool,
    changes: VecDeque<Change>,
    blocks: Vec<(Note, DiskId)>,
    dirty_wanted: bool,
    stop: bool,
    pause: bool,
    /// It was said to go on since the last round was looked for.
    resumed: bool,
    pub(super) walk: Option<Walk>,
    /// Walks ended so far.
    walks: u64,
    walk_started: Option<(Instant, u64)>,
    filling: Vec<Option<Filling>>,
    /// Parts of failed rows, to be tried by themselves.
    retry: Vec<Filling>,
    published: Option<Instant>,
    checkpointed: Option<Instant>,
    /// Requests of clients so far, and when there was one last.
    requests: (u64, Option<Instant>),
    /// Rows under way in a recovery now if no client has any.
    window: usize,
    nudged: Option<Instant>,
    writes_seen: u64,
    quiet_since: Option<Instant>,
    finished: bool,
    /// What became of disks in the round under way.
    fates: Vec<(DiskId, Fate)>,
}

impl Keeper {
    pub(super) fn new(
        board: &Arc<Board>,
        members: Members,
        degraded: &[Slot],
        record: Option<Record>,
    ) -> Result<Keeper> {
        let mut core = Core::new(board, 2 * WINDOW)?;
        let record = match record {
            Some(record) => {
                let page = core.side.memory.insert_owned(AlignedBuf::new(record.len()));
                let no_room = || Error::new(ErrorKind::Busy, "no room for the bitmap's buffer");
                Some((record, page.ok_or_else(no_room)?))
            }
            None => None,
        };
        board.set_keeper(Some(core.side.disks.waker()));
        let view = (*board.health().view).clone();
        let adopts = members.changed;
        let mut keeper = Keeper {
            board: board.clone(),
            core,
            members,
            view,
            record,
            clear_due: None,
            pages: Vec::new(),
            round: None,
            failed: degraded.iter().copied().collect(),
            failed_replacements: SlotSet::EMPTY,
            adopts,
            changes: VecDeque::new(),
            blocks: Vec::new(),
            dirty_wanted: false,
            stop: false,
            pause: false,
            resumed: false,
            walk: None,
            walks: 0,
            walk_started: None,
            filling: vec![None; 2 * WINDOW],
            retry: Vec::new(),
            published: None,
            checkpointed: None,
            requests: (0, None),
            window: WINDOW,
            nudged: None,
            writes_seen: 0,
            quiet_since: None,
            finished: false,
            fates: Vec::new(),
        };
        keeper.plan_recovery();
        Ok(keeper)
    }

    /// Does what there is to do. Returns how long it may sleep, at most; `None` when it has come to its end.
    pub(super) fn step(&mut self, now: Now) -> Option<Duration> {
        self.core.pump(None);
        self.listen();
        self.take_completions(now);
        if self.round.is_none() {
            self.next_round(now);
        }
        self.recover(now);
        self.core.pump(None);
        self.nudge(now);
        if self.finished && self.round.is_none() {
            self.board.set_keeper(None);
            return None;
        }
        // Last of all: a wake that came since the inbox was emptied may have been taken for a completion.
        self.listen();
        let failed = !self.failed.is_empty() || !self.failed_replacements.is_empty();
        let told = self.dirty_wanted || failed || !self.changes.is_empty() || !self.blocks.is_empty();
        if self.round.is_none() && (told || self.resumed) {
            return Some(Duration::ZERO);
        }
        if let Some(round) = self.round.as_ref().filter(|round| round.left == 0) {
            return Some(if round.flushed.is_some() { OPEN_FLUSH } else { Duration::ZERO });
        }
        let busy = self.round.is_some() || self.walk.is_some();
        if !busy {
            self.board.settle();
        }
        let waiting = self.board.shared.is_dirty() || self.stop || self.board.has_stuck_queues();
        let clear_in = self.clear_due.map(|due| due.saturating_duration_since(now.monotonic));
        let rest = clear_in.unwrap_or(Duration::from_secs(3600));
        Some(if busy || waiting { rest.min(IDLE / 4) } else { rest })
    }

    /// Recovery and other queues may wait for rows, and stopping for a write, of a queue that nobody polls.
    fn nudge(&mut self, now: Now) {
        let due = self.nudged.is_none_or(|last| now.monotonic - last >= IDLE / 4);
        if due && (self.stop || self.walk.is_some() || self.board.has_stuck_queues()) {
            self.nudged = Some(now.monotonic);
            self.board.nudge_cells(None);
        }
    }

    /// Sleeps until something happens.
    pub(super) fn sleep(&mut self, most: Duration) {
        if self.core.own.is_empty() && !self.core.has_replies() {
            self.core.pump(Some(most));
        }
    }

    fn listen(&mut self) {
        let Inbox { dirty_wanted, failed, blocks, stop, pause, resume, changes } = self.board.take_inbox();
        self.blocks.extend(blocks);
        self.dirty_wanted |= dirty_wanted;
        self.stop |= stop;
        // What a member could not flush is a reason to rest that no word takes away.
        if resume && !self.board.shared.flush_lost() {
            self.pause = false;
            self.resumed = true;
        }
        self.pause |= pause;
        self.changes.extend(changes);
        for (slot, disk) in failed {
            // A spare may have taken over since: it is not to blame for what happened before. Who was to replace another may
            // have taken over, too, and is.
            let took_over = slot.0.checked_sub(self.board.geometry.slots()).map(Slot);
            let fills = |slot: &Slot| self.members.wire(*slot).is_some_and(|wire| wire.disk == disk);
            if let Some(slot) = [Some(slot), took_over].into_iter().flatten().find(fills) {
                self.note_failed(slot);
            }
        }
    }

    /// The disk that goes by `number` failed.
    fn note_failed(&mut self, number: Slot) {
        match number.0.checked_sub(self.board.geometry.slots()) {
            Some(slot) => self.failed_replacements.insert(Slot(slot)),
            None => self.failed.insert(number),
        }
    }

    // --- rounds ---------------------------------------------------------------------------------------------------

    fn next_round(&mut self, now: Now) {
        let shared = self.board.shared.clone();
        if std::mem::take(&mut self.resumed) && self.walk.is_none() && !self.pause && !self.stop {
            self.plan_recovery();
        }
        if self.members.lags {
            return self.begin(Cause::CatchUp, now, Vec::new());
        }
        if self.fail_members() {
            return self.begin(Cause::Failure, now, Vec::new());
        }
        if std::mem::take(&mut self.adopts) {
            return self.begin(Cause::Membership, now, Vec::new());
        }
        if self.note_blocks() {
            return self.begin(Cause::Blocks, now, Vec::new());
        }
        if let Some(change) = self.changes.pop_front()
            && let Some(waiting) = self.change(change)
        {
            return self.begin(Cause::Membership, now, vec![waiting]);
        }
        if self.dirty_wanted {
            self.dirty_wanted = false;
            if shared.is_dirty() && shared.intent().is_some_and(IntentMap::is_any_wanted) {
                return self.begin(Cause::Intent, now, Vec::new());
            } else if shared.is_dirty() {
                self.board.wake_queues();
            } else {
                return self.begin(Cause::Dirty, now, Vec::new());
            }
        }
        if self.activate_spare() {
            return self.begin(Cause::Membership, now, Vec::new());
        }
        let writes = shared.writes_begun();
        if writes != self.writes_seen || self.quiet_since.is_none() {
            self.writes_seen = writes;
            self.quiet_since = Some(now.monotonic);
        }
        let quiet = self.quiet_since.is_some_and(|since| now.monotonic - since >= IDLE);
        if shared.is_dirty() && (quiet || self.stop) && !shared.flush_lost() {
            if shared.try_clean() {
                return self.begin(Cause::Clean, now, Vec::new());
            }
            // Somebody may have looked while the mark was away.
            self.board.wake_queues();
        }
        // A round that was to write "clean" may have ended otherwise, for a member that failed in it.
        let in_sync = Sectors(self.view.synced_below);
        let left_dirty = self.members.resync_offset().is_some_and(|offset| offset != in_sync);
        let may = !shared.is_dirty() && !shared.is_broken() && !shared.flush_lost();
        if left_dirty && may && (quiet || self.stop) && self.walk.is_none() {
            return self.begin(Cause::Clean, now, Vec::new());
        }
        if self.is_clearing_due(now) && self.unmark(false) {
            return self.begin(Cause::Clear, now, Vec::new());
        }
        if let Some(walk) = &self.walk {
            let quiet = walk.is_quiet();
            let resting = (self.stop || self.pause) && quiet;
            let due = self.checkpointed.is_none_or(|last| now.monotonic - last >= CHECKPOINT);
            if let (true, Goal::Replace(slot)) = (walk.is_finished(), walk.goal()) {
                let reached = Reached::of(walk);
                // That it is complete is on record first: a power cut in the round that gives it the slot may leave nobody
                // else who has it.
                let recorded = self.members.list.iter().find(|member| member.replaces() == Some(slot));
                let complete =
                    recorded.is_none_or(|member| member.superblock.recovery_offset.0 >= reached.watermark);
                let cause =
                    if complete { Cause::Swap(slot) } else { Cause::Checkpoint { reached, last: false } };
                return self.begin(cause, now, Vec::new());
            }
            let last = walk.is_finished() || resting;
            if last || (due && walk.watermark() > 0) {
                let reached = Reached::of(walk);
                return self.begin(Cause::Checkpoint { reached, last }, now, Vec::new());
            }
        }
        let done = !shared.is_dirty() || shared.flush_lost();
        if self.stop && done && self.walk.is_none() {
            if self.members.changed && !shared.is_broken() && !shared.flush_lost() {
                return self.begin(Cause::Clean, now, Vec::new());
            }
            if self.unmark(true) {
                return self.begin(Cause::Clear, now, Vec::new());
            }
            self.finished = true;
        }
    }

    /// Takes members that failed out of the tables. True if there were any.
    fn fail_members(&mut self) -> bool {
        let mut any = self.fail_replacements();
        let failed = std::mem::take(&mut self.failed);
        for slot in failed.iter() {
            let member = self.view.members.get(slot.index());
            let gone = member.is_none_or(|member| member.presence == Presence::Missing);
            let known_missing = gone && self.members.counts_on(slot);
            let bearable = self.board.geometry.tolerates(&self.view.incomplete().with(slot));
            // The last one that holds something is not given up: what it can still read is all there is.
            if (gone && !known_missing) || !bearable {
                continue;
            }
            if let Some(member) = self.members.list.iter().find(|member| member.slot() == Some(slot)) {
                let (disk, name) = (member.disk, member.name.clone());
                lock(&self.board.notes).push(format!("{name} ({slot}) failed and is no longer used"));
                self.forget_page(disk);
                self.set_fate(disk, Fate::Aside(MemberState::Faulty, format!("it failed in {slot}")));
            }
            let heir = self.members.fail_slot(slot);
            let second = self.take_replacement(slot);
            let logs = self.view.logs;
            if let Some(member) = self.view.members.get_mut(slot.index()) {
                // What was copied so far was written with the slot all the time: the rest is rebuilt.
                *member = second.filter(|_| heir.is_some()).unwrap_or_default();
                if logs && heir.is_some() {
                    // The log of what is in flight was on the other disk, so none of it is sure to agree after a crash.
                    member.presence = Presence::Below(MemberLba(0));
                }
            }
            if let Some(disk) = heir {
                self.set_fate(disk, Fate::Active(slot));
            }
            let concerned = [Goal::Rebuild(slot), Goal::Replace(slot)];
            if self.walk.as_ref().is_some_and(|walk| concerned.contains(&walk.goal())) {
                self.end_walk();
            }
            any = true;
        }
        any
    }

    /// Takes replacements that failed out of the tables; the disks they were to replace go on. True if there were any.
    fn fail_replacements(&mut self) -> bool {
        let mut any = false;
        for slot in std::mem::take(&mut self.failed_replacements).iter() {
            let Some(member) = self.members.list.iter().find(|member| member.replaces() == Some(slot)) else {
                continue;
            };
            let (disk, name) = (member.disk, member.name.clone());
            lock(&self.board.notes).push(format!("{name} failed and does not replace the disk in {slot}"));
            self.forget_page(disk);
            self.set_fate(disk, Fate::Aside(MemberState::Faulty, format!("it failed replacing {slot}")));
            self.members.fail_disk(disk);
            self.take_replacement(slot);
            if self.walk.as_ref().is_some_and(|walk| walk.goal() == Goal::Replace(slot)) {
                self.end_walk();
            }
            any = true;
        }
        any
    }

    /// A disk is a member anew: what it did not flush in another life is forgotten, and where its log had got to.
    pub(super) fn forget_past(&self, disk: DiskId) {
        let holder = Holder(u32::from(disk.0));
        self.board.shared.flushes.forgive(holder);
        if let Some(book) = &self.board.log {
            lock(book).log.forget(holder);
        }
    }

    /// Takes a slot's replacement out of the view.
    fn take_replacement(&mut self, slot: Slot) -> Option<MemberView> {
        let taken = self.view.replacements.get_mut(slot.index()).map(std::mem::take);
        if self.view.replacements.iter().all(|member| member.presence == Presence::Missing) {
            self.view.replacements.clear();
        }
        taken
    }

    /// Lets a spare begin to replace the disk in `slot`.
    fn start_replacing(&mut self, slot: Slot, disk: DiskId) -> Result<()> {
        let refused = |text: String| Err(Error::new(ErrorKind::Refused, text));
        match self.view.members.get(slot.index()).map(|member| member.presence) {
            Some(Presence::Present) => {}
            Some(Presence::Below(_)) => return refused(format!("{slot} is still being rebuilt")),
            _ => {
                return refused(format!(
                    "{slot} has no disk to be replaced: a spare takes it over by itself"
                ));
            }
        }
        if self.view.replacement(slot).is_some() {
            return refused(format!("the disk in {slot} is being replaced already"));
        }
        if !self.members.start_replacing(slot, disk) {
            return refused(format!("no spare to replace the disk in {slot}, or one that is too small"));
        }
        let slots = self.view.members.len();
        self.view.replacements.resize(slots, MemberView::default());
        self.view.replacements[slot.index()].presence = Presence::Below(MemberLba(0));
        self.rewrite_bitmap();
        self.set_fate(disk, Fate::Replacement(slot));
        Ok(())
    }

    /// The replacement of `slot` is complete and flushed: it has the slot, the disk it replaces is faulty.
    fn swap(&mut self, slot: Slot) {
        // Whatever becomes of the round: this is done once. Without an heir the disk in the slot is all there is.
        self.end_walk();
        if !self.members.list.iter().any(|member| member.replaces() == Some(slot)) {
            return;
        }
        let Some(old) = self.members.list.iter().find(|member| member.slot() == Some(slot)) else { return };
        let (disk, name) = (old.disk, old.name.clone());
        let Some(heir) = self.members.fail_slot(slot) else { return };
        self.members.set_watermark(slot, None);
        if let Some(second) = self.take_replacement(slot) {
            self.view.members[slot.index()] = MemberView { presence: Presence::Present, ..second };
        }
        self.forget_page(disk);
        self.set_fate(disk, Fate::Aside(MemberState::Faulty, format!("it was replaced in {slot}")));
        self.set_fate(heir, Fate::Active(slot));
        lock(&self.board.notes).push(format!("{name} ({slot}) is replaced and no longer used"));
    }

    /// Takes notes of blocks into the lists. True if there were any.
    fn note_blocks(&mut self) -> bool {
        let mut any = false;
        for (note, disk) in std::mem::take(&mut self.blocks) {
            let Note { slot: number, at, sectors, bad, .. } = note;
            // Who took the write may be gone by now.
            if self.members.wire(number).is_none_or(|wire| wire.disk != disk) {
                continue;
            }
            any = true;
            if bad {
                if !self.mark_bad(number, at, sectors) {
                    let text =
                        "blocks that a write left half done cannot be recorded: no more writes are taken";
                    lock(&self.board.notes).push(text.to_owned());
                    self.board.shared.set_broken();
                }
                continue;
            }
            if let Some(member) = self.members.numbered(number) {
                member.remove_bad(at, sectors);
            }
            self.members.changed = true;
            if let Some(member) = self.view.device_mut(number) {
                member.mark_good(at, sectors);
            }
            self.forget_lost(number, at, sectors);
        }
        any
    }

    /// What a write made good on a member is not lost any more where it is data of the LU.
    fn forget_lost(&self, number: Slot, at: MemberLba, sectors: Sectors) {
        let geometry = &self.board.geometry;
        let slot = Slot(number.0 % geometry.slots());
        let mut at = at;
        let end = at + sectors;
        while at < end {
            let Some(place) = geometry.find(slot, at) else { return };
            let map = geometry.stripe(place.stripe);
            let rows = u64::from(map.rows() - place.row).min(end.0 - at.0).max(1);
            let data = if map.parities() == 0 { 0 } else { place.cell };
            if data < map.cells() - u16::from(map.parities()) {
                let start = (map.lba(data) + Sectors(u64::from(place.row))).bytes();
                self.board.forget_lost(start..start + rows * SECTOR);
            }
            at = at + Sectors(rows);
        }
    }

    /// Takes a change of membership into the tables; `None` if it was answered at once.
    fn change(&mut self, change: Change) -> Option<mpsc::Sender<Result<()>>> {
        match change.what {
            What::Join(member) => {
                self.forget_past(member.disk);
                self.core.side.disks.attach(member.disk);
                let sb = &member.superblock;
                let mut roster = lock(&self.board.roster);
                // It may have been set aside before.
                roster.retain(|row| row.disk != member.disk);
                roster.push(Row {
                    disk: member.disk,
                    name: member.name.clone(),
                    fate: Fate::Spare,
                    events: sb.events,
                    uuid: Some(sb.device_uuid),
                    dev_number: Some(sb.dev_number),
                });
                drop(roster);
                self.members.join(*member);
            }
            What::Forget(disk) => {
                let fills = |member: &Member| member.disk == disk && member.slot().is_some();
                if self.members.list.iter().any(fills) {
                    // It was a spare when that was asked for, and has taken over a slot since.
                    let text = "the disk fills a slot by now: fail it first";
                    // Whoever asked may have stopped waiting.
                    let _ = change.done.send(Err(Error::new(ErrorKind::Refused, text)));
                    return None;
                }
                let number =
                    lock(&self.board.roster).iter().find(|row| row.disk == disk).and_then(|r| r.dev_number);
                let Some(number) = number else {
                    let text = "the disk is no member";
                    // Whoever asked may have stopped waiting.
                    let _ = change.done.send(Err(Error::new(ErrorKind::NotFound, text)));
                    return None;
                };
                lock(&self.board.roster).retain(|row| row.disk != disk);
                self.forget_page(disk);
                self.members.list.retain(|member| member.disk != disk);
                self.core.side.disks.detach(disk);
                // (Its number may be somebody else's by now.)
                if !self.members.list.iter().any(|member| member.superblock.dev_number == number) {
                    self.members.set_role(number, Role::Spare);
                }
            }
            What::Return(member, slot) => {
                if self.members.forgive(member.superblock.dev_number) {
                    // On record first: a power cut could leave it the freshest, and whoever calls the freshest faulty is
                    // taken for one that lived on alone.
                    self.adopts = true;
                    let what = What::Return(member, slot);
                    self.changes.push_front(Change { what, ..change });
                    return None;
                }
                if let Err(refusal) = self.take_back(*member, slot) {
                    // Whoever asked may have stopped waiting.
                    let _ = change.done.send(Err(refusal));
                    return None;
                }
            }
            What::Replace(slot, disk) => {
                if let Err(refusal) = self.start_replacing(slot, disk) {
                    // Whoever asked may have stopped waiting.
                    let _ = change.done.send(Err(refusal));
                    return None;
                }
            }
        }
        Some(change.done)
    }

    /// Lets a spare take over an empty slot, if there are both. Redundancy has to agree before.
    fn activate_spare(&mut self) -> bool {
        let rebuilding = self.view.members.iter().any(|m| matches!(m.presence, Presence::Below(_)));
        let in_sync = self.view.synced_below == u64::MAX;
        if self.stop || self.pause || rebuilding || !in_sync || self.board.shared.is_broken() {
            return false;
        }
        let missing = self.view.missing();
        let Some(slot) = missing.iter().next() else { return false };
        let Some(disk) = self.members.activate_spare(slot) else { return false };
        if let Some(member) = self.view.members.get_mut(slot.index()) {
            *member = MemberView { presence: Presence::Below(MemberLba(0)), ..MemberView::default() };
        }
        self.set_fate(disk, Fate::Active(slot));
        self.rewrite_bitmap();
        self.put_off_replacing();
        let name =
            self.members.list.iter().find(|member| member.disk == disk).map(|member| member.name.clone());
        lock(&self.board.notes).push(format!("spare {} takes over {slot}", name.unwrap_or_default()));
        true
    }

    /// Redundancy comes first; a copy for a replacement goes on from its watermark afterwards.
    pub(super) fn put_off_replacing(&mut self) {
        if self.walk.as_ref().is_some_and(|walk| matches!(walk.goal(), Goal::Replace(_))) {
            if let Some(reached) = self.walk.as_ref().map(Reached::of) {
                self.advance_to(reached);
            }
            self.end_walk();
        }
    }

    /// Shown together with the view it belongs to, when the round has ended.
    pub(super) fn set_fate(&mut self, disk: DiskId, fate: Fate) {
        self.fates.push((disk, fate));
    }

    /// The member's buffer. Not from the pool: a superblock must go out also while recovery has all of that.
    fn page(&mut self, disk: DiskId) -> Option<RegionId> {
        if let Some(&(_, page)) = self.pages.iter().find(|(of, _)| *of == disk) {
            return Some(page);
        }
        let page = self.core.side.memory.insert_owned(AlignedBuf::new(4096))?;
        self.pages.push((disk, page));
        Some(page)
    }

    fn forget_page(&mut self, disk: DiskId) {
        if let Some(index) = self.pages.iter().position(|(of, _)| *of == disk) {
            let (_, page) = self.pages.swap_remove(index);
            self.core.side.memory.remove_owned(page);
        }
    }

    /// What the superblocks of a round say of redundancy and rebuilds. Decided when its flush has succeeded: nothing may be
    /// called in sync or rebuilt on disk that is not stable there.
    fn state_sync(&mut self, cause: Cause) {
        let flushed = flushes(cause);
        match cause {
            Cause::Swap(slot) => self.swap(slot),
            // What the flush has covered, and not before it has: a round that fails half-way must not show more than disks say.
            Cause::Checkpoint { reached, .. } => self.advance_to(reached),
            Cause::Dirty => self.members.set_resync_offset(Sectors(0)),
            _ => {}
        }
        // A dirty LU stays so; its resync starts from the beginning after a crash.
        if flushed && !self.board.shared.is_dirty() {
            self.members.set_resync_offset(Sectors(self.view.synced_below));
        }
        for (slot, member) in self.view.devices().enumerate().filter(|_| flushed) {
            let watermark = match member.presence {
                Presence::Below(watermark) => Some(watermark),
                Presence::Present => None,
                Presence::Missing => continue,
            };
            self.members.set_watermark(Slot(slot as u16), watermark);
        }
    }

    fn begin(&mut self, cause: Cause, now: Now, waiting: Vec<mpsc::Sender<Result<()>>>) {
        if let (Some((record, _)), Some(map), true) =
            (&mut self.record, self.board.shared.intent(), cause != Cause::Clear)
        {
            // Whatever came in between, the bits are still set.
            record.restore(map);
        }
        let forgotten = match cause {
            Cause::Clean => planted(Bug::CleanBeforeFlush),
            Cause::Clear => planted(Bug::BitClearedEarly),
            Cause::Checkpoint { .. } => planted(Bug::CheckpointBeforeFlush),
            _ => false,
        };
        let phase = match cause {
            Cause::Intent => Phase::Bitmap,
            cause if flushes(cause) && !forgotten => Phase::Flush,
            Cause::Clear => Phase::Bitmap,
            _ => Phase::Lists,
        };
        let mut round = Round {
            cause,
            phase,
            wall: now.wall,
            left: 0,
            flush: None,
            flushed: None,
            written: 0,
            refused: Vec::new(),
            waiting,
        };
        self.submit_phase(&mut round);
        self.round = Some(round);
    }

    /// Submits the operations of the round's phase, going on to the next where there are none.
    fn submit_phase(&mut self, round: &mut Round) {
        loop {
            match round.phase {
                Phase::Superblocks => {
                    self.state_sync(round.cause);
                    let failure = matches!(round.cause, Cause::Failure | Cause::Confirm);
                    if planted(Bug::StaleOnEqualEvents) && failure {
                        self.members.events -= 1;
                    }
                    self.members.stamp(round.wall);
                }
                Phase::Bitmap | Phase::Unmark => self.submit_bitmap(round),
                Phase::Flush => round.flush = Some(self.core.begin_flush()),
                Phase::Lists => {}
            }
            for index in 0..self.members.list.len() {
                if self.submit_to(index, round) {
                    round.left += 1;
                }
            }
            match next_phase(round) {
                Some(next) if round.left == 0 => round.phase = next,
                _ => return,
            }
        }
    }

    /// Submits one member's operation of the round's phase, if it has one.
    fn submit_to(&mut self, index: usize, round: &mut Round) -> bool {
        let phase = round.phase;
        if matches!(phase, Phase::Bitmap | Phase::Unmark) {
            return false;
        }
        let disk = self.members.list[index].disk;
        let ticket = OWN | u64::from(disk.0);
        if phase == Phase::Flush {
            self.core.side.disks.submit(ticket, Op::Flush { disk });
            return true;
        }
        if phase == Phase::Lists && planted(Bug::ListLate) && matches!(round.cause, Cause::Checkpoint { .. })
        {
            return false;
        }
        let member = &mut self.members.list[index];
        let (at, bytes) = match phase {
            Phase::Lists => match member.take_bad() {
                Some(list) => list,
                None => return false,
            },
            _ => (member.at(), member.encode().to_vec()),
        };
        let Some(page) = self.page(disk) else {
            // A member that is not told what the others are must not pass for one that was.
            round.refused.push(disk);
            return false;
        };
        let span = Span { region: page, offset: 0, len: bytes.len().min(4096) as u32 };
        self.core.side.memory.write_bytes(span, &bytes[..span.len as usize]);
        let buf = self.core.side.memory.io_write_from(span);
        self.core.side.disks.submit(ticket, Op::Write { disk, at, buf, fua: true });
        true
    }

    fn take_completions(&mut self, now: Now) {
        loop {
            let own = std::mem::take(&mut self.core.own);
            let Some(mut round) = self.round.take() else { return };
            for (ticket, ok) in own {
                round.left -= 1;
                if !ok {
                    round.refused.push(DiskId((ticket & !OWN) as u16));
                } else if round.phase == Phase::Superblocks {
                    round.written += 1;
                }
            }
            if round.left > 0 {
                self.round = Some(round);
                return;
            }
            if round.phase == Phase::Superblocks {
                return self.end(round, now);
            }
            if round.phase == Phase::Flush && !self.share_unflushed(&mut round) {
                self.round = Some(round);
                return;
            }
            // What a member could not flush is gone from it: it fails, and the others are told first.
            self.note_bitmap(&round);
            if self.drop_refused(&round) {
                self.dirty_wanted |= matches!(round.cause, Cause::Dirty | Cause::Intent);
                return self.begin(Cause::Failure, now, round.waiting);
            }
            let stays = |disk: &DiskId| self.members.list.iter().any(|member| member.disk == *disk);
            if round.phase == Phase::Flush && round.refused.iter().any(stays) {
                // It cannot be spared, and what it did not flush may be gone: that must be told, and "clean" must not.
                self.board.shared.set_flush_lost();
                self.board.wake_queues();
                self.end_walk();
                self.pause = true;
                for waiting in round.waiting {
                    let _ = waiting
                        .send(Err(Error::new(ErrorKind::Io, "a member that cannot be spared did not flush")));
                }
                return;
            }
            let Some(next) = next_phase(&round) else { return self.board.wake_queues() };
            round.refused.clear();
            round.phase = next;
            self.submit_phase(&mut round);
            self.round = Some(round);
            self.core.pump(None);
        }
    }

    /// Tells the queues which flushes of a round failed, and the round which of theirs did. False as long as that is open.
    fn share_unflushed(&mut self, round: &mut Round) -> bool {
        let flushes = &self.board.shared.flushes;
        if let Some(begun) = round.flush.take() {
            for member in &self.members.list {
                if let Some(number) = member.number().filter(|_| round.refused.contains(&member.disk)) {
                    flushes.note_failed(number, Holder(u32::from(member.disk.0)));
                }
            }
            self.core.end_flush(begun);
            round.flushed = Some(flushes.now());
        }
        if round.flushed.is_some_and(|then| !flushes.are_settled(then)) {
            // Whoever has not looked yet may not be driven by anybody.
            self.board.nudge_cells(None);
            if round.flushed.is_some_and(|then| !flushes.are_settled(then)) {
                return false;
            }
        }
        round.flushed = None;
        for member in &self.members.list {
            let holder = Holder(u32::from(member.disk.0));
            let counts = member.number().is_some() && !round.refused.contains(&member.disk);
            if counts && flushes.has_failed(holder) {
                round.refused.push(member.disk);
            }
        }
        true
    }

    /// Fails the members that refused a flush, a list or a superblock. True if the tables changed.
    fn drop_refused(&mut self, round: &Round) -> bool {
        let mut spare_dropped = false;
        for &disk in &round.refused {
            let Some(member) = self.members.list.iter().find(|member| member.disk == disk) else { continue };
            if let Some(slot) = member.slot() {
                self.failed.insert(slot);
                continue;
            }
            if let Some(slot) = member.replaces() {
                self.failed_replacements.insert(slot);
                continue;
            }
            self.forget_page(disk);
            self.set_fate(disk, Fate::Aside(MemberState::Faulty, "its superblock cannot be written".into()));
            self.members.fail_disk(disk);
            spare_dropped = true;
        }
        self.fail_members() | spare_dropped
    }

    fn end(&mut self, round: Round, now: Now) {
        if round.written == 0 {
            self.board.shared.set_broken();
            self.board.wake_queues();
            self.dirty_wanted = false;
            self.members.changed = false;
            self.end_walk();
            for waiting in round.waiting {
                let _ = waiting.send(Err(Error::new(ErrorKind::Io, "no superblock could be written")));
            }
            return;
        }
        // A failure may only be published once every survivor has it: another round, whatever this one was for.
        if self.drop_refused(&round) {
            self.dirty_wanted |= round.cause == Cause::Dirty;
            return self.begin(Cause::Failure, now, round.waiting);
        }
        let resting = self.stop || self.pause;
        match round.cause {
            Cause::Dirty => {
                self.board.shared.set_dirty();
                self.quiet_since = Some(now.monotonic);
            }
            Cause::Checkpoint { last, .. } => {
                self.checkpointed = Some(now.monotonic);
                // (A pause may have come since: what is not on record yet then gets a checkpoint of its own.)
                if last {
                    self.tell_copied();
                    self.end_walk();
                }
            }
            // One more round, so that the failed member is two behind. Not both in one: a power cut in the middle of
            // that would make stale whoever was not written yet.
            Cause::Failure => return self.begin(Cause::Confirm, now, round.waiting),
            Cause::Swap(_) => return self.begin(Cause::Confirm, now, round.waiting),
            Cause::Confirm | Cause::CatchUp | Cause::Membership | Cause::Blocks | Cause::Clean => {}
            // End without superblocks.
            Cause::Intent | Cause::Clear => {}
        }
        self.publish_if_changed();
        self.board.wake_queues();
        if self.walk.is_none() && !resting {
            self.plan_recovery();
        }
        for waiting in round.waiting {
            // Whoever asked may have stopped waiting.
            let _ = waiting.send(Ok(()));
        }
    }

    fn publish_if_changed(&mut self) {
        let board = self.board.clone();
        // Held until the view is out: whoever looks sees both as they were or both as they are.
        let mut roster = lock(&board.roster);
        for (disk, fate) in self.fates.drain(..) {
            if let Some(row) = roster.iter_mut().find(|row| row.disk == disk) {
                row.fate = fate;
            }
        }
        let current = self.board.health();
        if *current.view == self.view {
            return;
        }
        self.view.epoch += 1;
        let wires = (0..self.view.devices().count()).map(|n| self.members.wire(Slot(n as u16))).collect();
        self.board.publish(Health { view: Arc::new(self.view.clone()), wires });
    }

    // --- recovery -------------------------------------------------------------------------------------------------

    /// Is there something to resync, or a member half rebuilt?
    fn plan_recovery(&mut self) {
        self.window = self.window();
        let geometry = &self.board.geometry;
        self.walk = pending(&self.view).map(|(goal, from)| {
            let walk = Walk::new(geometry, goal, from, self.window);
            match self.selection(goal) {
                Some(stripes) => walk.only(geometry, stripes),
                None => walk,
            }
        });
        self.walk_started = None;
        self.tell_work(None);
    }

    fn end_walk(&mut self) {
        self.walk = None;
        self.walks += 1;
        self.retry.clear();
        *lock(&self.board.work) = None;
    }

    fn recover(&mut self, now: Now) {
        while let Some(reply) = self.core.reply() {
            self.filled(reply);
        }
        self.make_way(now);
        let geometry = self.board.geometry.clone();
        let walks = self.walks;
        let hold = self.stop || self.pause || self.board.shared.is_broken();
        while self.walk.is_some() && self.core.has_room() {
            let again = self.retry.pop();
            let Some(walk) = &mut self.walk else { break };
            let next = again.or_else(|| {
                // Only whole new rows are held back; parts of what was begun are finished.
                let (position, stripe, rows) = (!hold).then(|| walk.next(&geometry)).flatten()?;
                Some(Filling { walk: walks, position, stripe, rows })
            });
            let Some(filling) = next else { break };
            let Some(place) = self.filling.iter().position(Option::is_none) else {
                self.retry.push(filling);
                break;
            };
            let request = Request::Fill { stripe: filling.stripe, rows: filling.rows };
            if self.core.submit(place as u64, request).is_err() {
                self.retry.push(filling);
                break;
            }
            self.filling[place] = Some(filling);
        }
        let Some(walk) = &self.walk else { return };
        let (started, from) = *self.walk_started.get_or_insert((now.monotonic, walk.watermark()));
        let (done, total) = (walk.watermark(), walk.end().0);
        let spent = (now.monotonic - started).as_secs_f64();
        let eta = (done > from && spent > 0.5)
            .then(|| ((total - done) as f64 / ((done - from) as f64 / spent)).ceil() as u64);
        self.tell_work(eta);
        // Between checkpoints queues profit from what is done already: it need not be on disk for that.
        let due = self.published.is_none_or(|last| now.monotonic - last >= PUBLISH);
        // But its end does: whoever fails next must not count on a member that the superblocks still call half rebuilt.
        let ended = self.walk.as_ref().is_some_and(Walk::is_finished);
        if due && self.round.is_none() && !ended {
            self.published = Some(now.monotonic);
            if let Some(reached) = self.walk.as_ref().map(Reached::of) {
                self.advance_to(reached);
            }
            self.publish_if_changed();
        }
    }

    /// Leaves the disks to clients while these have requests.
    fn make_way(&mut self, now: Now) {
        let begun = self.board.shared.requests_begun();
        if begun != self.requests.0 {
            self.requests = (begun, Some(now.monotonic));
        }
        let calm = self.requests.1.is_none_or(|last| now.monotonic - last >= CALM);
        if let Some(walk) = &mut self.walk {
            walk.set_most(if calm { self.window } else { MODEST.min(self.window) });
        }
    }

    /// Rows under way in a recovery that has the disks for itself.
    fn window(&self) -> usize {
        let Board { backend, geometry, .. } = &*self.board;
        let mut wires = self.members.list.iter().filter(|member| member.slot().is_some());
        if !wires.all(|member| backend.info(member.disk).inline) {
            return WINDOW;
        }
        // Copies need no sum, and one buffer.
        let lanes = if geometry.copies() > 1 { 1 } else { u64::from(geometry.cells()) };
        (CACHED / (lanes * geometry.unit().bytes()).max(1)).clamp(1, WINDOW as u64) as usize
    }

    fn tell_work(&self, eta_seconds: Option<u64>) {
        let work = self.walk.as_ref().map(|walk| Work {
            kind: walk.goal().into(),
            done_bytes: walk.selected().map_or(walk.watermark(), |(done, _)| done) * SECTOR,
            total_bytes: walk.selected().map_or(walk.end().0, |(_, all)| all) * SECTOR,
            eta_seconds,
        });
        *lock(&self.board.work) = work;
    }

    /// Rows of a recovery are filled, or cannot be: then they are halved until only the lost blocks are left.
    fn filled(&mut self, reply: Reply) {
        let Some(filling) = self.filling.get_mut(reply.cookie as usize).and_then(Option::take) else {
            return;
        };
        let Some(walk) = self.walk.as_ref().filter(|_| filling.walk == self.walks) else { return };
        let goal = walk.goal();
        if let Err(Trouble::Lost(_)) = reply.result {
            let block = self.board.block / SECTOR as u32;
            let rows = filling.rows;
            if rows.len() > block {
                let middle = rows.start + (rows.len() / 2).next_multiple_of(block);
                self.retry.push(Filling { rows: Rows::new(rows.start, middle), ..filling });
                self.retry.push(Filling { rows: Rows::new(middle, rows.end), ..filling });
                return;
            }
            self.give_up(goal, filling);
        } else if let Err(trouble) = reply.result {
            // A member that cannot be spared failed: what is not done stays not done.
            lock(&self.board.notes).push(format!("recovery stopped: {trouble}"));
            self.pause = true;
            return self.end_walk();
        }
        let position = filling.position;
        let part = |other: &Filling| other.position == position && other.walk == filling.walk;
        let more = self.retry.iter().any(part) || self.filling.iter().flatten().any(part);
        if let (false, Some(walk)) = (more, &mut self.walk) {
            walk.done(position);
        }
    }

    /// Rows that redundancy cannot give back. On the member being rebuilt they are recorded as bad, so that nobody ever
    /// takes what is there for data. In a resync it is the parity that is: it was never made to agree there, and must not
    /// be used to make up for the data that cannot be read.
    fn give_up(&mut self, goal: Goal, filling: Filling) {
        let map = self.board.geometry.stripe(filling.stripe);
        let data = u16::from(map.parities());
        for cell in 0..map.cells() - data {
            let place = map.cell(cell);
            if goal == Goal::Rebuild(place.slot) || goal == Goal::Replace(place.slot) {
                let lba = map.lba(if map.parities() == 0 { 0 } else { cell })
                    + Sectors(u64::from(filling.rows.start));
                let (start, length) = (lba.bytes(), u64::from(filling.rows.len()) * SECTOR);
                self.board.add_lost(start..start + length);
            }
        }
        let rows = filling.rows;
        match goal {
            Goal::Rebuild(slot) => self.give_up_cell(slot, slot, filling.stripe, rows),
            Goal::Replace(slot) => {
                self.give_up_cell(self.view.replacement_number(slot), slot, filling.stripe, rows);
            }
            Goal::Resync => {
                let parities: Vec<Slot> =
                    (map.cells() - data..map.cells()).map(|cell| map.cell(cell).slot).collect();
                for slot in parities {
                    self.give_up_cell(slot, slot, filling.stripe, rows);
                    // The disk that is to replace the slot's has no better parity.
                    if let Some((number, _)) = self.view.replacement(slot) {
                        self.give_up_cell(number, slot, filling.stripe, rows);
                    }
                }
            }
        }
    }

    /// Puts rows of `slot`'s cell on the list of the disk that goes by `number`; without room there that disk fails.
    fn give_up_cell(&mut self, number: Slot, slot: Slot, stripe: Stripe, rows: Rows) {
        let geometry = self.board.geometry.clone();
        let map = geometry.stripe(stripe);
        let Some(cell) = map.cell_of(slot) else { return };
        let at = map.cell(cell).at + Sectors(u64::from(rows.start));
        if !self.mark_bad(number, at, Sectors(u64::from(rows.len()))) {
            self.note_failed(number);
        }
    }

    /// Puts sectors on the bad-block list of the disk that goes by `number`, to be written with the next round. False if
    /// there is no room on disk.
    fn mark_bad(&mut self, number: Slot, at: MemberLba, length: Sectors) -> bool {
        let Some(member) = self.members.numbered(number) else { return true };
        let recorded = member.add_bad(at, length);
        self.members.changed = true;
        if let Some(member) = self.view.device_mut(number) {
            member.mark_bad(at, length);
        }
        recorded
    }

    /// Takes over how far the walk is into the view.
    fn advance_to(&mut self, reached: Reached) {
        let Some(walk) = &self.walk else { return };
        let Reached { watermark, finished } = reached;
        match walk.goal() {
            Goal::Resync => {
                self.view.synced_below = if finished { u64::MAX } else { watermark };
                self.view.suspects = self.view.suspects.take().filter(|_| !finished);
            }
            Goal::Rebuild(slot) => {
                let good = (!finished).then_some(MemberLba(watermark));
                if let Some(member) = self.view.members.get_mut(slot.index()) {
                    member.presence = good.map_or(Presence::Present, Presence::Below);
                }
            }
            // All of it is good only once it has the slot.
            Goal::Replace(slot) => {
                if let Some(member) = self.view.replacements.get_mut(slot.index()) {
                    member.presence = Presence::Below(MemberLba(watermark));
                }
            }
        }
    }
}

/// Is a round for this cause a promise about what members hold, so that they are flushed before?
fn flushes(cause: Cause) -> bool {
    matches!(cause, Cause::Clean | Cause::Blocks | Cause::Checkpoint { .. } | Cause::Swap(_) | Cause::Clear)
}

/// What follows a round's phase, if anything does.
fn next_phase(round: &Round) -> Option<Phase> {
    match (round.phase, round.cause) {
        (Phase::Flush, Cause::Clear) | (Phase::Lists, _) => Some(Phase::Bitmap),
        (Phase::Flush, _) => Some(Phase::Lists),
        (Phase::Bitmap, Cause::Intent) | (Phase::Superblocks | Phase::Unmark, _) => None,
        (Phase::Bitmap, Cause::Clear) => Some(Phase::Unmark),
        (Phase::Bitmap, _) => Some(Phase::Superblocks),
    }
}

/// What recovery is to do next, and from where.
pub(super) fn pending(view: &View) -> Option<(Goal, u64)> {
    let below = |members: &[MemberView]| {
        members.iter().enumerate().find_map(|(slot, member)| match member.presence {
            Presence::Below(watermark) => Some((Slot(slot as u16), watermark.0)),
            _ => None,
        })
    };
    if view.synced_below != u64::MAX {
        return Some((Goal::Resync, view.synced_below));
    }
    let rebuild = below(&view.members).map(|(slot, from)| (Goal::Rebuild(slot), from));
    rebuild.or_else(|| below(&view.replacements).map(|(slot, from)| (Goal::Replace(slot), from)))
}

/// Runs a keeper to its end on a thread of its own.
pub(super) fn spawn(mut keeper: Keeper) -> std::io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name("uraid-keeper".into()).spawn(move || {
        while let Some(most) = keeper.step(Now::read()) {
            keeper.sleep(most);
        }
    })
}
