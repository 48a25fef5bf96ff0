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
//! | a member failed | its role "faulty", events + 2, on the survivors only | the view says "missing"; held replies go out |
//! | recovery got on | members flushed; then the watermark, events + 1 | the view moves the watermark |
//! | stop | as "clean" | the end |
//!
//! A member that cannot take its superblock fails with it, and the round is repeated for the others. Where nothing can
//! stand in for it, the LU goes on while at least one superblock was written; if none was, writes fail from then on.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::disk::{Op, RegionId, Span};
use crate::engine::{Request, Wake};
use crate::error::Result;
use crate::format::superblock::Time;
use crate::plan::{Presence, View};
use crate::recovery::{Goal, Walk};
use crate::units::{MemberLba, SECTOR, Sectors, Slot, SlotSet};

use super::board::{Board, Health, Inbox, lock};
use super::members::Members;
use super::queue::{Core, OWN};
use super::status::{Work, WorkKind};

/// No write for this long: the superblocks are made clean again. md's default for its safe mode.
const IDLE: Duration = Duration::from_millis(200);

/// Recovery writes down how far it is at least this often.
const CHECKPOINT: Duration = Duration::from_secs(30);

/// The watermark that queues see moves at least this often.
const PUBLISH: Duration = Duration::from_millis(200);

/// Rows under way in a recovery.
const WINDOW: usize = 16;

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

/// Why a round is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cause {
    Dirty,
    Clean,
    Failure,
    Checkpoint,
}

/// A superblock round under way.
struct Round {
    cause: Cause,
    writing: bool,
    left: usize,
    written: usize,
    refused: Vec<usize>,
}

pub(super) struct Keeper {
    board: Arc<Board>,
    core: Core,
    members: Members,
    view: View,
    /// One buffer per member for its superblock.
    pages: Vec<RegionId>,
    round: Option<Round>,
    failed: SlotSet,
    dirty_wanted: bool,
    stop: bool,
    pause: bool,
    walk: Option<Walk>,
    walk_started: Option<(Instant, u64)>,
    lost_rows: u64,
    published: Option<Instant>,
    checkpointed: Option<Instant>,
    writes_seen: u64,
    quiet_since: Option<Instant>,
    finished: bool,
}

impl Keeper {
    pub(super) fn new(board: &Arc<Board>, members: Members, degraded: &[Slot]) -> Result<Keeper> {
        let mut core = Core::new(board, WINDOW)?;
        let pages = (0..members.list.len())
            .map(|_| core.side.memory.pool_alloc(4096).expect("an empty pool has room for the superblocks"))
            .collect();
        board.set_keeper(Some(core.side.disks.waker()));
        let view = (*board.health().view).clone();
        let mut keeper = Keeper {
            board: board.clone(),
            core,
            members,
            view,
            pages,
            round: None,
            failed: degraded.iter().copied().collect(),
            dirty_wanted: false,
            stop: false,
            pause: false,
            walk: None,
            walk_started: None,
            lost_rows: 0,
            published: None,
            checkpointed: None,
            writes_seen: 0,
            quiet_since: None,
            finished: false,
        };
        keeper.plan_recovery();
        Ok(keeper)
    }

    pub(super) fn waker(&self) -> Arc<dyn Wake> {
        self.core.side.disks.waker()
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
        if self.finished && self.round.is_none() {
            self.board.set_keeper(None);
            return None;
        }
        let busy = self.round.is_some() || self.walk.is_some();
        let waiting = self.board.shared.is_dirty() || self.stop;
        Some(if busy || waiting { IDLE / 4 } else { Duration::from_secs(3600) })
    }

    /// Sleeps until something happens.
    pub(super) fn sleep(&mut self, most: Duration) {
        if self.core.own.is_empty() {
            self.core.pump(Some(most));
        }
    }

    fn listen(&mut self) {
        let Inbox { dirty_wanted, failed, stop, pause } = self.board.take_inbox();
        self.dirty_wanted |= dirty_wanted;
        self.stop |= stop;
        self.pause |= pause;
        for slot in failed.iter() {
            self.failed.insert(slot);
        }
    }

    // --- rounds ---------------------------------------------------------------------------------------------------

    fn next_round(&mut self, now: Now) {
        let shared = self.board.shared.clone();
        if self.fail_members() {
            return self.begin(Cause::Failure, now);
        }
        if self.dirty_wanted {
            self.dirty_wanted = false;
            if shared.is_dirty() {
                self.board.wake_queues();
            } else {
                return self.begin(Cause::Dirty, now);
            }
        }
        let writes = shared.writes_begun();
        if writes != self.writes_seen || self.quiet_since.is_none() {
            self.writes_seen = writes;
            self.quiet_since = Some(now.monotonic);
        }
        let quiet = self.quiet_since.is_some_and(|since| now.monotonic - since >= IDLE);
        if shared.is_dirty() && (quiet || self.stop) {
            if shared.try_clean() {
                return self.begin(Cause::Clean, now);
            }
            // Somebody may have looked while the mark was away.
            self.board.wake_queues();
        }
        if let Some(walk) = &self.walk {
            let resting = (self.stop || self.pause) && walk.is_quiet();
            let due = self.checkpointed.is_none_or(|last| now.monotonic - last >= CHECKPOINT);
            if walk.is_finished() || resting || (due && walk.watermark() > 0) {
                self.advance_watermark();
                return self.begin(Cause::Checkpoint, now);
            }
        }
        if self.stop && !shared.is_dirty() && self.walk.is_none() {
            if self.members.changed {
                return self.begin(Cause::Clean, now);
            }
            self.finished = true;
        }
    }

    /// Takes members that failed out of the tables. True if there were any.
    fn fail_members(&mut self) -> bool {
        let failed = std::mem::take(&mut self.failed);
        let mut any = false;
        for slot in failed.iter() {
            let member = self.view.members.get(slot.index());
            let gone = member.is_none_or(|member| member.presence == Presence::Missing);
            let known_missing =
                gone && self.members.list.first().is_some_and(|m| m.superblock.roles.contains(&slot.0));
            let bearable = self.board.geometry.tolerates(&self.view.incomplete().with(slot));
            // The last one that holds something is not given up: what it can still read is all there is.
            if (gone && !known_missing) || !bearable || !self.board.geometry.is_redundant() {
                continue;
            }
            let name = self.members.list.iter().find(|m| m.slot() == Some(slot)).map(|m| m.name.clone());
            if let Some(name) = name {
                lock(&self.board.notes).push(format!("{name} ({slot}) failed and is no longer used"));
            }
            self.drop_page_of(slot);
            self.members.fail_slot(slot);
            if let Some(member) = self.view.members.get_mut(slot.index()) {
                member.presence = Presence::Missing;
                member.bad.clear();
            }
            if self.walk.as_ref().is_some_and(|walk| walk.goal() == Goal::Rebuild(slot)) {
                self.walk = None;
            }
            any = true;
        }
        any
    }

    fn drop_page_of(&mut self, slot: Slot) {
        if let Some(index) = self.members.list.iter().position(|member| member.slot() == Some(slot)) {
            let page = self.pages.remove(index);
            self.core.side.memory.pool_free(page);
        }
    }

    fn begin(&mut self, cause: Cause, now: Now) {
        let in_sync = Sectors(self.view.synced_below);
        match cause {
            Cause::Dirty => self.members.set_resync_offset(Sectors(0)),
            Cause::Clean => self.members.set_resync_offset(in_sync),
            // A dirty LU stays so; its resync starts from the beginning after a crash.
            Cause::Checkpoint if !self.board.shared.is_dirty() => self.members.set_resync_offset(in_sync),
            Cause::Failure | Cause::Checkpoint => {}
        }
        self.members.stamp(if cause == Cause::Failure { 2 } else { 1 }, now.wall);
        let flush_first = matches!(cause, Cause::Clean | Cause::Checkpoint);
        let mut round = Round { cause, writing: false, left: 0, written: 0, refused: Vec::new() };
        if flush_first {
            for (i, member) in self.members.list.iter().enumerate() {
                self.core.side.disks.submit(OWN | i as u64, Op::Flush { disk: member.disk });
                round.left += 1;
            }
        } else {
            self.write_superblocks(&mut round);
        }
        self.round = Some(round);
    }

    fn write_superblocks(&mut self, round: &mut Round) {
        round.writing = true;
        for (i, member) in self.members.list.iter_mut().enumerate() {
            let (disk, at) = (member.disk, member.at());
            let bytes = member.encode();
            let span = Span { region: self.pages[i], offset: 0, len: bytes.len() as u32 };
            self.core.side.memory.write_bytes(span, bytes);
            let buf = self.core.side.memory.io_write_from(span);
            self.core.side.disks.submit(OWN | i as u64, Op::Write { disk, at, buf, fua: true });
            round.left += 1;
        }
    }

    fn take_completions(&mut self, now: Now) {
        loop {
            let own = std::mem::take(&mut self.core.own);
            let Some(mut round) = self.round.take() else { return };
            for (ticket, ok) in own {
                let index = (ticket & !OWN) as usize;
                round.left -= 1;
                if !ok {
                    round.refused.push(index);
                } else if round.writing {
                    round.written += 1;
                }
            }
            if round.left > 0 {
                self.round = Some(round);
                return;
            }
            if !round.writing {
                // What a member could not flush is gone from it: it fails, and the others are told.
                if self.drop_refused(&round) {
                    return self.begin(Cause::Failure, now);
                }
                self.write_superblocks(&mut round);
                self.round = Some(round);
                self.core.pump(None);
                continue;
            }
            return self.end(round, now);
        }
    }

    /// Fails the members that refused a flush or a superblock. True if the tables changed.
    fn drop_refused(&mut self, round: &Round) -> bool {
        let mut refused: Vec<_> = round
            .refused
            .iter()
            .filter_map(|&i| self.members.list.get(i))
            .map(|m| (m.disk, m.slot()))
            .collect();
        refused.dedup();
        for &(disk, slot) in &refused {
            match slot {
                Some(slot) => self.failed.insert(slot),
                None => {
                    if let Some(index) = self.members.list.iter().position(|member| member.disk == disk) {
                        let page = self.pages.remove(index);
                        self.core.side.memory.pool_free(page);
                    }
                    self.members.fail_disk(disk);
                }
            }
        }
        let spare_dropped = refused.iter().any(|(_, slot)| slot.is_none());
        self.fail_members() | spare_dropped
    }

    fn end(&mut self, round: Round, now: Now) {
        if round.written == 0 && !self.members.list.is_empty() {
            self.board.shared.set_broken();
            self.board.wake_queues();
            self.finished = self.stop;
            self.dirty_wanted = false;
            self.walk = None;
            return;
        }
        let dropped = self.drop_refused(&round);
        // The failure that started the round may only be published once every survivor has it.
        if dropped {
            let again = if round.cause == Cause::Dirty { Cause::Dirty } else { Cause::Failure };
            return self.begin_failure(again, now);
        }
        match round.cause {
            Cause::Dirty => {
                self.board.shared.set_dirty();
                self.quiet_since = Some(now.monotonic);
                self.publish_if_changed();
                self.board.wake_queues();
            }
            Cause::Failure => {
                self.publish_if_changed();
                self.board.wake_queues();
            }
            Cause::Clean => {}
            Cause::Checkpoint => {
                self.checkpointed = Some(now.monotonic);
                self.publish_if_changed();
                if self.walk.as_ref().is_some_and(|walk| walk.is_finished() || self.stop || self.pause) {
                    self.walk = None;
                    *lock(&self.board.work) = None;
                    if !self.stop && !self.pause {
                        self.plan_recovery();
                    }
                }
            }
        }
    }

    /// A round that failed members is followed by one that says so; a wish to be dirty stays in it.
    fn begin_failure(&mut self, cause: Cause, now: Now) {
        if cause == Cause::Dirty {
            self.members.set_resync_offset(Sectors(0));
            self.members.events += 1;
        }
        self.begin(cause, now);
    }

    fn publish_if_changed(&mut self) {
        let current = self.board.health();
        if current.view.members == self.view.members && current.view.synced_below == self.view.synced_below {
            return;
        }
        self.publish();
    }

    fn publish(&mut self) {
        self.view.epoch += 1;
        let wires = (0..self.view.members.len()).map(|slot| self.members.wire(Slot(slot as u16))).collect();
        self.board.publish(Health { view: Arc::new(self.view.clone()), wires });
    }

    // --- recovery -------------------------------------------------------------------------------------------------

    /// Is there something to resync, or a member half rebuilt?
    fn plan_recovery(&mut self) {
        let geometry = &self.board.geometry;
        if !geometry.is_redundant() {
            return;
        }
        let rebuilding =
            self.view.members.iter().enumerate().find_map(|(slot, member)| match member.presence {
                Presence::Below(watermark) => Some((Slot(slot as u16), watermark)),
                _ => None,
            });
        let goal = if self.view.synced_below != u64::MAX {
            Some((Goal::Resync, self.view.synced_below))
        } else {
            rebuilding.map(|(slot, watermark)| (Goal::Rebuild(slot), watermark.0))
        };
        self.walk = goal.map(|(goal, from)| Walk::new(geometry, goal, from, WINDOW));
        self.walk_started = None;
        self.lost_rows = 0;
    }

    fn recover(&mut self, now: Now) {
        let geometry = self.board.geometry.clone();
        let Some(walk) = &mut self.walk else { return };
        while let Some(reply) = self.core.reply() {
            walk.done(reply.cookie);
            if reply.result.is_err() {
                self.lost_rows += 1;
            }
        }
        let hold = self.stop || self.pause || self.board.shared.is_broken();
        while !hold && self.core.has_room() {
            let Some((position, stripe, rows)) = walk.next(&geometry) else { break };
            let request = Request::Fill { stripe, rows };
            if self.core.submit(position, request).is_err() {
                break;
            }
        }
        let (started, from) = *self.walk_started.get_or_insert((now.monotonic, walk.watermark()));
        let unit = SECTOR;
        let (done, total) = (walk.watermark(), walk.end().0);
        let kind = if walk.goal() == Goal::Resync { WorkKind::Resync } else { WorkKind::Rebuild };
        let spent = (now.monotonic - started).as_secs_f64();
        let eta = (done > from && spent > 0.5)
            .then(|| ((total - done) as f64 / ((done - from) as f64 / spent)).ceil() as u64);
        *lock(&self.board.work) =
            Some(Work { kind, done_bytes: done * unit, total_bytes: total * unit, eta_seconds: eta });
        // Between checkpoints queues profit from what is done already: it need not be on disk for that.
        let due = self.published.is_none_or(|last| now.monotonic - last >= PUBLISH);
        if due && self.round.is_none() {
            self.published = Some(now.monotonic);
            self.advance_watermark();
            self.publish_if_changed();
        }
    }

    /// Takes over how far the walk is into the view and the superblocks.
    fn advance_watermark(&mut self) {
        let Some(walk) = &self.walk else { return };
        let (watermark, finished) = (walk.watermark(), walk.is_finished());
        match walk.goal() {
            Goal::Resync => self.view.synced_below = if finished { u64::MAX } else { watermark },
            Goal::Rebuild(slot) => {
                let good = (!finished).then_some(MemberLba(watermark));
                self.members.set_watermark(slot, good);
                if let Some(member) = self.view.members.get_mut(slot.index()) {
                    member.presence = good.map_or(Presence::Present, Presence::Below);
                }
            }
        }
    }
}

/// Runs a keeper to its end on a thread of its own.
pub(super) fn spawn(mut keeper: Keeper) -> std::io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name("uraid-keeper".into()).spawn(move || {
        while let Some(most) = keeper.step(Now::read()) {
            keeper.sleep(most);
        }
    })
}
