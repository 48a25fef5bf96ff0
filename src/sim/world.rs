//! Carries a scenario out: one thread that moves disks, queues and the keeper, step by step, and tells the oracle.
//!
//! Who takes the next step is drawn among those that can: a queue that was woken, the keeper when it was woken or its time has
//! come, the disks. Only when nobody can does time jump. A request is watched from its submission to its reply; replies that
//! would come after the power has gone are nobody's. After a restart the LU is looked at, sometimes at once, sometimes later;
//! at the end all faults stop and everything has to come to rest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::disk::{AlignedBuf, DiskId};
use crate::engine::Keep;
use crate::error::{Error, ErrorKind, Result};
use crate::format::placement::Policy;
use crate::format::superblock::{Time, Uuid};
use crate::geometry::Geometry;
use crate::lu::machine::{How, Machine, MemberKind, Origin, Pending};
use crate::lu::{Access, Completion, Lu, Queue};
use crate::plan::Presence;
use crate::units::{Lba, SECTOR, Slot, SlotSet};

use super::check::{self, Look, Wires};
use super::disk::{Faults, Offered, SimDisks};
use super::governor::Governor;
use super::oracle::{Oracle, ZERO, stamp};
use super::{Back, Counts, Random, Scenario, Violation, What};

/// Requests in flight on one queue.
const DEPTH: usize = 12;

/// Steps and time within which everything must come to rest once faults have stopped.
const MOST_STEPS: u64 = 2_000_000;
const MOST_TIME: Duration = Duration::from_secs(3600);

/// So much time passes at most when nobody has anything to do.
const LONGEST_JUMP: Duration = Duration::from_millis(50);

type Outcome<T = ()> = std::result::Result<T, Violation>;

/// A request under way.
enum Request {
    Read { lba: u64, start: u64 },
    Write { lba: u64, sectors: u64, value: u64 },
    Flush { start: u64 },
}

struct Client {
    queue: Queue,
    port: usize,
    under_way: BTreeMap<u64, Request>,
}

/// An LU that is open.
struct Session {
    clients: Vec<Client>,
    machine: Machine,
    offered: Arc<Offered>,
    keeper_port: usize,
    /// When the keeper wants to be run; `None`: it has ended, or there is none.
    keeper_due: Option<Duration>,
    changes: Vec<Pending>,
    paused: bool,
}

/// How a scenario may end before its last event.
enum End {
    /// The LU cannot be started any more, and must not be.
    Refused,
}

pub(super) struct World {
    scenario: Scenario,
    disks: SimDisks,
    oracle: Oracle,
    governor: Governor,
    session: Option<Session>,
    geometry: Option<Arc<Geometry>>,
    random: Random,
    uuids: Random,
    /// Counts from here; only differences matter.
    origin: Instant,
    now: Duration,
    cookie: u64,
    counts: Counts,
    event: usize,
    ended: Option<End>,
    /// What happened, in words, for somebody who asked.
    log: Option<Vec<String>>,
    /// Bytes of scratch memory in a queue.
    scratch: usize,
}

impl World {
    pub(super) fn new(scenario: &Scenario) -> World {
        let seed = u64::from(scenario.salt);
        World {
            scenario: scenario.clone(),
            disks: SimDisks::new(seed),
            oracle: Oracle::new(0),
            governor: Governor { beyond: scenario.beyond, ..Governor::default() },
            session: None,
            geometry: None,
            random: Random::new(seed + 1),
            uuids: Random::new(seed + 2),
            origin: Instant::now(),
            now: Duration::ZERO,
            cookie: 0,
            counts: Counts::default(),
            event: 0,
            ended: None,
            log: None,
            scratch: [64 << 10, 256 << 10, 1 << 20][seed as usize % 3],
        }
    }

    pub(super) fn event(&self) -> usize {
        self.event
    }

    pub(super) fn counts(&self) -> Counts {
        Counts { operations: self.disks.operations(), struck: self.disks.struck(), ..self.counts }
    }

    pub(super) fn trace(&self) -> u64 {
        self.disks.trace()
    }

    /// Lets go of everything without waiting: after a panic.
    pub(super) fn abandon(&mut self) {
        if let Some(session) = self.session.take() {
            session.machine.abandon();
            // A poisoned engine may panic again when it is dropped.
            std::mem::forget(session);
        }
    }

    /// Keeps a log from now on.
    pub(super) fn keep_log(&mut self) {
        self.log = Some(Vec::new());
    }

    pub(super) fn take_log(&mut self) -> Vec<String> {
        self.log.take().unwrap_or_default()
    }

    fn say(&mut self, what: impl FnOnce(&World) -> String) {
        if self.log.is_some() {
            let line = format!("{:>10.3} ms  {}", self.now.as_secs_f64() * 1e3, what(self));
            self.log.iter_mut().for_each(|log| log.push(line.clone()));
        }
    }

    /// All events, in order.
    pub(super) fn run(&mut self) -> Outcome {
        self.create()?;
        for index in 0..self.scenario.events.len() {
            if self.ended.is_some() {
                break;
            }
            self.event = index;
            let event = self.scenario.events[index];
            self.random = Random::new(u64::from(event.salt));
            self.disks.reseed(u64::from(event.salt) + 1);
            self.say(|_| format!("{index}: {event}"));
            self.act(event.what)?;
            self.look_for_cut(Back::default())?;
        }
        if self.ended.is_none() {
            self.stop()?;
        }
        Ok(())
    }

    fn violated<T>(&self, class: &'static str, what: impl Into<String>) -> Outcome<T> {
        Err(Violation { class, what: what.into(), event: self.event })
    }

    fn wall(&self) -> Time {
        Time { seconds: 1_700_000_000 + self.now.as_secs(), micros: self.now.subsec_micros() }
    }

    // --- creation -------------------------------------------------------------------------------------------------

    fn create(&mut self) -> Outcome {
        let scenario = self.scenario.clone();
        let data = if scenario.policy == Policy::Ppl { 4096 } else { 2048 };
        let size = data + u64::from(scenario.component);
        let mut create = Lu::create("sim", scenario.level).layout(&scenario.layout).policy(scenario.policy);
        if scenario.policy == Policy::Bitmap {
            // LUs as small as these would have one bit otherwise.
            create = create.bitmap_chunk([4 << 10, 16 << 10, 64 << 10][scenario.salt as usize % 3]);
        }
        if scenario.chunk > 0 {
            create = create.chunk(u64::from(scenario.chunk) * SECTOR);
        }
        for slot in 0..scenario.slots + scenario.spares {
            let block = if scenario.mixed && slot == 0 { 4096 } else { scenario.block };
            let junk = scenario.junk.then_some((data, u64::from(scenario.salt) + u64::from(slot)));
            let platter = self.disks.add(size, block, junk);
            let name = format!("sim{platter}");
            create = if slot < scenario.slots { create.disk(name) } else { create.spare(name) };
        }
        let platters: Vec<usize> = (0..self.disks.count()).collect();
        let offered = self.disks.offer(platters.clone());
        let ids: Vec<DiskId> = platters.iter().map(|&platter| DiskId(platter as u16)).collect();
        let made = {
            let wall = self.wall();
            let mut uuid = || Ok(new_uuid(&mut self.uuids));
            let mut origin = Origin { wall, uuid: &mut uuid };
            Machine::create(&create, offered.clone(), &ids, !scenario.junk, self.scratch, &mut origin)
        };
        match made {
            Ok(machine) => {
                let geometry = machine.geometry();
                self.oracle = Oracle::new(geometry.size().0);
                self.geometry = Some(geometry);
                self.open(machine, offered)?;
                self.sweep()?;
                self.drain()
            }
            // A shape that cannot be is no scenario.
            Err(error) if error.kind() == ErrorKind::Usage => {
                self.ended = Some(End::Refused);
                Ok(())
            }
            Err(error) => self.violated("create", error.to_string()),
        }
    }

    /// The LU is open: gives it its queues.
    fn open(&mut self, machine: Machine, offered: Arc<Offered>) -> Outcome {
        let keeper_port = self.disks.newest_queue();
        let mut clients = Vec::new();
        for _ in 0..self.scenario.queues {
            let queue = match machine.queue(DEPTH) {
                Ok(queue) => queue,
                Err(error) => return self.violated("queue", error.to_string()),
            };
            let port = self.disks.newest_queue();
            clients.push(Client { queue, port, under_way: BTreeMap::new() });
        }
        let keeper_due = machine.has_keeper().then_some(self.now);
        let changes = Vec::new();
        self.session =
            Some(Session { clients, machine, offered, keeper_port, keeper_due, changes, paused: false });
        self.see();
        self.governor.vouched = self.governor.health.in_sync;
        if self.governor.vouched {
            self.disks.mend_log();
        }
        // Whoever fills a slot is in order as far as the LU is concerned.
        for platter in self.governor.health.home.iter().flatten() {
            self.governor.hurt.remove(platter);
            self.disks.heal(*platter);
        }
        Ok(())
    }

    fn wires(&self) -> Wires {
        let (Some(session), Some(geometry)) = (&self.session, &self.geometry) else { return Wires::new() };
        let wire = |slot| {
            let (disk, start) = session.machine.wire(Slot(slot))?;
            Some((session.offered.platter(disk), start.0))
        };
        (0..geometry.slots()).map(wire).collect()
    }

    /// Takes note of the members' health.
    fn see(&mut self) {
        let home = self.wires().into_iter().map(|wire| wire.map(|wire| wire.0)).collect();
        if let Some(session) = &self.session {
            let before = self.log.is_some().then(|| self.governor.health.clone());
            self.governor.see(&session.machine.view(), home);
            if before.is_some_and(|before| before != self.governor.health) {
                self.say(|world| {
                    let machine = world.session.as_ref().map(|session| &session.machine);
                    let view = machine.map(|machine| (machine.view(), machine.members()));
                    format!("    {:?} {view:?}", world.governor.health)
                });
            }
        }
    }

    // --- steps ----------------------------------------------------------------------------------------------------

    /// One step of somebody. False if nobody could take one, and time has jumped instead (or cannot).
    fn tick(&mut self) -> Outcome<bool> {
        const PASSES: [u64; 8] = [0, 0, 20, 50, 50, 200, 1000, 8000];
        let passes = if self.random.one_in(200) { 60_000 } else { PASSES[self.random.below(8) as usize] };
        self.now += Duration::from_micros(passes);
        self.disks.set_now(self.now);
        let Some(session) = &self.session else { return Ok(false) };
        let mut able: Vec<usize> = (0..session.clients.len())
            .filter(|&index| self.disks.is_woken(session.clients[index].port))
            .collect();
        const KEEPER: usize = 1000;
        const DISKS: usize = 1001;
        let due = session.keeper_due.is_some_and(|due| due <= self.now);
        if session.keeper_due.is_some() && (due || self.disks.is_woken(session.keeper_port)) {
            able.push(KEEPER);
        }
        if self.disks.can_move() {
            // There is more than one of them.
            able.extend([DISKS; 4]);
        }
        if able.is_empty() {
            let next = [session.keeper_due, self.disks.next_move()].into_iter().flatten().min();
            let longest = self.now + LONGEST_JUMP;
            self.now = self.now.max(next.unwrap_or(longest).min(longest));
            return Ok(false);
        }
        match able[self.random.below(able.len() as u64) as usize] {
            DISKS => self.disks.advance(),
            KEEPER => self.step_keeper(),
            client => self.poll(client)?,
        }
        Ok(true)
    }

    fn step_keeper(&mut self) {
        let (origin, now, wall) = (self.origin, self.now, self.wall());
        let Some(session) = &mut self.session else { return };
        self.disks.answer(session.keeper_port);
        // An hour is as good as for ever: something will wake it.
        session.keeper_due = session.machine.step(origin, now, wall).map(|sleeps| now + sleeps);
        let machine = &session.machine;
        let mut uuid = || Ok(new_uuid(&mut self.uuids));
        let mut origin = Origin { wall, uuid: &mut uuid };
        session.changes.retain_mut(|pending| machine.ended(pending, &mut origin).is_none());
        self.see();
    }

    fn poll(&mut self, client: usize) -> Outcome {
        let Some(session) = &mut self.session else { return Ok(()) };
        let mut done = Vec::new();
        let client = &mut session.clients[client];
        self.disks.answer(client.port);
        client.queue.poll(&mut done, None);
        if self.disks.is_dead() {
            return Ok(());
        }
        let ended: Vec<(Request, Completion)> = done
            .into_iter()
            .filter_map(|done| Some((client.under_way.remove(&done.cookie)?, done)))
            .collect();
        for (request, done) in ended {
            self.answered(request, done)?;
        }
        Ok(())
    }

    fn answered(&mut self, request: Request, done: Completion) -> Outcome {
        self.disks.note(done.cookie << 1 | u64::from(done.result.is_ok()));
        if let Err(error) = &done.result {
            // Beyond the budget errors are honest; a write that failed may yet take effect at any time.
            return match (self.governor.beyond, request) {
                (true, Request::Read { .. } | Request::Write { .. }) => Ok(()),
                (_, Request::Read { lba, .. }) => self.violated("error", format!("read at {lba}: {error}")),
                (_, Request::Write { lba, .. }) => self.violated("error", format!("write at {lba}: {error}")),
                (_, Request::Flush { .. }) => self.violated("error", format!("flush: {error}")),
            };
        }
        match request {
            Request::Read { lba, start } => {
                if let Some(buffer) = &done.buffer {
                    self.oracle.read(lba, buffer, start);
                }
            }
            Request::Write { lba, sectors, value } => self.oracle.written(lba, sectors, value),
            Request::Flush { start } => self.oracle.flushed(start),
        }
        Ok(())
    }

    /// Steps until `done` says so. False if the power went first.
    fn until(&mut self, what: &str, done: impl Fn(&World) -> bool) -> Outcome<bool> {
        let begun = self.now;
        let mut idle = 0;
        for _ in 0..MOST_STEPS {
            if self.disks.is_dead() {
                return Ok(false);
            }
            if done(self) {
                return Ok(true);
            }
            if self.tick()? {
                idle = 0;
                continue;
            }
            idle += 1;
            if self.now - begun > MOST_TIME || idle > 10_000 {
                return self.violated("liveness", format!("{what} does not come to its end"));
            }
            if idle > 100 {
                // Whoever waits looks again now and then, and moves on what others hold.
                self.nudge();
            }
        }
        self.violated("liveness", format!("{what} goes on for ever"))
    }

    fn nudge(&mut self) {
        let Some(session) = &self.session else { return };
        session.machine.nudge();
        for client in &session.clients {
            self.disks.wake(client.port);
        }
        self.disks.wake(session.keeper_port);
        self.now += Duration::from_millis(10);
    }

    fn drain(&mut self) -> Outcome {
        let rest = |world: &World| {
            let clients = world.session.iter().flat_map(|session| &session.clients);
            clients.into_iter().all(|client| client.under_way.is_empty() && client.queue.is_idle())
        };
        self.until("a request", rest).map(drop)
    }

    // --- events ---------------------------------------------------------------------------------------------------

    fn act(&mut self, what: What) -> Outcome {
        match what {
            What::Write(queue, lba, sectors, fua) => self.write(queue, lba, sectors, fua),
            What::Zero(queue, lba, sectors) => self.zero(queue, lba, sectors),
            What::Read(queue, lba, sectors) => self.read(queue, u64::from(lba), u64::from(sectors)),
            What::Flush(queue) => self.flush(queue),
            What::Run(steps) => {
                for _ in 0..steps {
                    if self.disks.is_dead() {
                        break;
                    }
                    self.tick()?;
                }
                Ok(())
            }
            What::Drain => {
                self.drain()?;
                self.calm_down();
                Ok(())
            }
            What::Idle(millis) => {
                let end = self.now + Duration::from_millis(u64::from(millis));
                self.until("idling", |world| world.now >= end).map(drop)
            }
            What::Busy(queue, lba, millis) => {
                let end = self.now + Duration::from_millis(u64::from(millis));
                while self.now < end && !self.disks.is_dead() && self.session.is_some() {
                    self.write(queue, lba, 8, false)?;
                    let next = self.now + Duration::from_millis(100);
                    self.until("being busy", |world| world.now >= next)?;
                }
                Ok(())
            }
            What::Cut(after, back) => {
                self.disks.cut_in(u64::from(after.max(1)));
                // Where nothing moves, the power goes all the same.
                for _ in 0..400 {
                    if self.disks.is_dead() {
                        break;
                    }
                    self.tick()?;
                }
                if !self.disks.is_dead() {
                    self.disks.cut();
                }
                self.look_for_cut(back)
            }
            What::Kill(back) => {
                self.disks.kill();
                self.look_for_cut(back)
            }
            What::Stop(back) => {
                self.stop()?;
                self.restart(back)
            }
            What::Settle => self.settle(),
            What::Add => self.add(),
            What::Remove => self.remove(),
            What::Replace(slot) => {
                self.replace(slot);
                Ok(())
            }
            What::Pause => {
                if let Some(session) = &mut self.session {
                    session.paused = true;
                    session.machine.pause();
                }
                Ok(())
            }
            _ => {
                self.strike(what);
                Ok(())
            }
        }
    }

    fn size(&self) -> u64 {
        self.oracle.sectors().max(1)
    }

    /// The client of a queue, if it can take one more request.
    fn client(&mut self, queue: u8) -> Option<&mut Client> {
        let session = self.session.as_mut()?;
        let count = session.clients.len();
        let client = session.clients.get_mut(usize::from(queue) % count.max(1))?;
        (client.queue.in_flight() < DEPTH).then_some(client)
    }

    fn write(&mut self, queue: u8, lba: u32, sectors: u32, fua: bool) -> Outcome {
        let lba = u64::from(lba) % self.size();
        let sectors = u64::from(sectors).clamp(1, 512).min(self.size() - lba);
        let block = self.session.as_ref().map_or(1, |session| u64::from(session.machine.block()) / SECTOR);
        let (start, end) = (lba / block * block, (lba + sectors).next_multiple_of(block));
        let keep =
            Keep { head: ((lba - start) * SECTOR) as u32, tail: ((end - lba - sectors) * SECTOR) as u32 };
        let cookie = self.next_cookie();
        let (value, _) = match self.client(queue) {
            Some(_) => self.oracle.begin_write(lba, sectors, fua),
            None => return Ok(()),
        };
        let mut buffer = AlignedBuf::new(((end - start) * SECTOR) as usize);
        for (index, bytes) in buffer.chunks_exact_mut(SECTOR as usize).enumerate() {
            let sector = start + index as u64;
            match (lba..lba + sectors).contains(&sector) {
                true => bytes.copy_from_slice(&stamp(sector, value)),
                false => bytes.fill(0xee),
            }
        }
        let Some(client) = self.client(queue) else { return Ok(()) };
        let sent = client.queue.write_part(cookie, buffer, start * SECTOR, fua, keep);
        self.sent(queue, cookie, Request::Write { lba, sectors, value }, sent)
    }

    fn zero(&mut self, queue: u8, lba: u32, sectors: u32) -> Outcome {
        let block = self.session.as_ref().map_or(1, |session| u64::from(session.machine.block()) / SECTOR);
        let lba = u64::from(lba) % self.size() / block * block;
        let sectors = u64::from(sectors).clamp(1, 512).next_multiple_of(block).min(self.size() - lba);
        let sectors = self.oracle.zeroable(lba, sectors) / block * block;
        if sectors == 0 || self.client(queue).is_none() {
            return Ok(());
        }
        self.oracle.begin_zero(lba, sectors);
        let cookie = self.next_cookie();
        let Some(client) = self.client(queue) else { return Ok(()) };
        let sent = client.queue.write_zeroes(cookie, lba * SECTOR, sectors * SECTOR);
        self.sent(queue, cookie, Request::Write { lba, sectors, value: ZERO }, sent)
    }

    fn read(&mut self, queue: u8, lba: u64, sectors: u64) -> Outcome {
        let block = self.session.as_ref().map_or(1, |session| u64::from(session.machine.block()) / SECTOR);
        let lba = lba % self.size() / block * block;
        let end = (lba + sectors.clamp(1, 512)).next_multiple_of(block).min(self.size());
        let start = self.oracle.tick();
        let cookie = self.next_cookie();
        let Some(client) = self.client(queue) else { return Ok(()) };
        let buffer = AlignedBuf::new(((end - lba) * SECTOR) as usize);
        let sent = client.queue.read(cookie, buffer, lba * SECTOR);
        self.sent(queue, cookie, Request::Read { lba, start }, sent)
    }

    fn flush(&mut self, queue: u8) -> Outcome {
        let start = self.oracle.tick();
        let cookie = self.next_cookie();
        let Some(client) = self.client(queue) else { return Ok(()) };
        let sent = client.queue.flush(cookie);
        self.sent(queue, cookie, Request::Flush { start }, sent)
    }

    fn next_cookie(&mut self) -> u64 {
        self.cookie += 1;
        self.cookie
    }

    fn sent(&mut self, queue: u8, cookie: u64, request: Request, sent: Result<()>) -> Outcome {
        if let Err(error) = sent {
            return self.violated("submit", error.to_string());
        }
        self.counts.requests += 1;
        if let Some(session) = &mut self.session {
            let index = usize::from(queue) % session.clients.len();
            session.clients[index].under_way.insert(cookie, request);
            self.disks.wake(session.clients[index].port);
        }
        Ok(())
    }

    /// Nothing is under way: faults that did not strike are over.
    fn calm_down(&mut self) {
        let homes: Vec<usize> = self.governor.health.home.iter().flatten().copied().collect();
        for platter in homes {
            let quiet = !self.governor.hurt.contains(&platter) && !self.disks.refused(platter);
            if quiet && !self.governor.beyond && self.random.one_in(2) {
                let gone = self.disks.faults(platter, |faults| faults.gone);
                if !gone {
                    self.disks.heal(platter);
                }
            }
        }
    }

    /// Puts a fault where the governor allows it.
    fn strike(&mut self, what: What) {
        let (What::Latent(slot, ..)
        | What::Transient(slot, _)
        | What::RefuseWrites(slot, _)
        | What::LoseFlush(slot)
        | What::LoseSuperblock(slot)
        | What::Hang(slot, _)
        | What::Vanish(slot)
        | What::Fail(slot)) = what
        else {
            return;
        };
        let Some(geometry) = self.geometry.clone() else { return };
        let slot = (u16::from(slot) % geometry.slots()) as u8;
        let Some(platter) = self.governor.home(slot) else { return };
        let allowed = match what {
            What::Hang(..) => true,
            What::Latent(..) if self.governor.beyond => true,
            What::Vanish(_) | What::Fail(_) => self.governor.allows_loss(&self.disks, &geometry, slot),
            _ => self.governor.allows(&self.disks, &geometry, slot),
        };
        if !allowed {
            return;
        }
        let start = self.wires()[usize::from(slot)].map_or(0, |wire| wire.1);
        let used = geometry.member_used(Slot(u16::from(slot))).0.max(1);
        let until = self.now;
        self.disks.faults(platter, |faults| match what {
            What::Latent(_, at, sectors) => {
                let at = u64::from(at) % used;
                faults.latent.extend((at..(at + u64::from(sectors)).min(used)).map(|at| start + at));
            }
            What::Transient(_, n) => faults.transient = n,
            What::RefuseWrites(_, n) => faults.refused_writes = n,
            What::LoseFlush(_) => faults.lost_flush = true,
            What::LoseSuperblock(_) => faults.lost_superblock = true,
            What::Hang(_, millis) => faults.hangs_until = until + Duration::from_millis(u64::from(millis)),
            What::Vanish(_) => faults.gone = true,
            _ => {}
        });
        if matches!(what, What::Vanish(_) | What::Fail(_)) {
            self.governor.hurt.insert(platter);
            self.oracle.may_flip |= !self.governor.health.in_sync;
        }
        if let (What::Fail(_), Some(session)) = (what, &self.session) {
            session.machine.fail(Slot(u16::from(slot)));
        }
    }

    /// The platters that are no members of the open LU, with the numbers they are known by.
    fn strangers(&self) -> Vec<(usize, Option<DiskId>)> {
        let Some(session) = &self.session else { return Vec::new() };
        let members = session.machine.members();
        let stranger = |platter: usize| {
            let mut known = members.iter().filter(|member| session.offered.platter(member.0) == platter);
            let known_as: Vec<_> = known.by_ref().copied().collect();
            let is_member = known_as.iter().any(|member| member.1 != MemberKind::Aside);
            let gone = self.disks.faults(platter, |faults| faults.gone);
            (!is_member && !gone).then(|| (platter, known_as.last().map(|member| member.0)))
        };
        (0..self.disks.count()).filter_map(stranger).collect()
    }

    fn add(&mut self) -> Outcome {
        let Some(geometry) = self.geometry.clone() else { return Ok(()) };
        if !geometry.is_redundant() || self.session.as_ref().is_none_or(|s| !s.changes.is_empty()) {
            return Ok(());
        }
        let strangers = self.strangers();
        let most = usize::from(self.scenario.slots + self.scenario.spares) + 3;
        let fresh = strangers.is_empty() || (self.random.one_in(3) && self.disks.count() < most);
        if fresh && self.disks.count() >= most {
            return Ok(());
        }
        let (platter, known) = match fresh {
            true => {
                let data = if self.scenario.policy == Policy::Ppl { 4096 } else { 2048 };
                let size = data + u64::from(self.scenario.component);
                let salt = self.random.next();
                (self.disks.add(size, self.scenario.block, Some((data, salt))), None)
            }
            false => strangers[self.random.below(strangers.len() as u64) as usize],
        };
        self.disks.heal(platter);
        let wall = self.wall();
        let mut uuid = || Ok(new_uuid(&mut self.uuids));
        let mut origin = Origin { wall, uuid: &mut uuid };
        let Some(session) = &mut self.session else { return Ok(()) };
        let disk = known.unwrap_or_else(|| session.offered.plug(platter));
        // A member in whose superblock the layout is looked up may fail just then; that is told and nothing happens.
        if let Ok(pending) = session.machine.add(disk, &mut origin) {
            session.changes.push(pending);
            self.governor.hurt.remove(&platter);
        }
        self.disks.wake(session.keeper_port);
        Ok(())
    }

    fn replace(&mut self, slot: u8) {
        let (Some(geometry), Some(session)) = (&self.geometry, &mut self.session) else { return };
        if !geometry.is_redundant() || !session.changes.is_empty() || session.keeper_due.is_none() {
            return;
        }
        let slot = Slot(u16::from(slot) % geometry.slots());
        session.changes.extend(session.machine.replace(slot));
        self.disks.wake(session.keeper_port);
    }

    fn remove(&mut self) -> Outcome {
        let Some(session) = &mut self.session else { return Ok(()) };
        if !session.changes.is_empty() || session.keeper_due.is_none() {
            return Ok(());
        }
        let loose: Vec<DiskId> = session
            .machine
            .members()
            .into_iter()
            .filter(|member| !matches!(member.1, MemberKind::Active(_)))
            .map(|member| member.0)
            .collect();
        if loose.is_empty() {
            return Ok(());
        }
        let disk = loose[self.random.below(loose.len() as u64) as usize];
        // One without a superblock is no member, and that is told.
        if let Ok(pending) = session.machine.remove(disk) {
            session.changes.push(pending);
        }
        Ok(())
    }

    /// Reads all of the LU as a client.
    fn sweep(&mut self) -> Outcome {
        let mut at = 0;
        while at < self.size() && self.session.is_some() && !self.disks.is_dead() {
            if self.client(0).is_none() {
                self.drain()?;
                continue;
            }
            self.read(0, at, 128)?;
            at += 128;
        }
        Ok(())
    }

    // --- the end of a session -------------------------------------------------------------------------------------

    /// If the power has gone, the LU is started again.
    fn look_for_cut(&mut self, back: Back) -> Outcome {
        if !self.disks.is_dead() {
            return Ok(());
        }
        self.bury()?;
        self.restart(back)
    }

    /// The process is gone, whatever it was doing.
    fn bury(&mut self) -> Outcome {
        self.say(|_| "    crash".into());
        self.counts.crashes += 1;
        self.tear_down();
        self.disks.restart();
        self.close_epoch(false)
    }

    /// Takes the process apart when the disks are dead.
    fn tear_down(&mut self) {
        let (origin, now, wall) = (self.origin, self.now, self.wall());
        if let Some(mut session) = self.session.take() {
            self.counts.crashes_in_recovery += u64::from(!session.machine.is_idle());
            session.machine.abandon();
            // What is under way fails now; nobody hears of it. Then no disk works on anybody's memory any more.
            for _ in 0..3 {
                while !self.disks.is_quiet() {
                    self.disks.advance();
                }
                for client in &mut session.clients {
                    client.queue.poll(&mut Vec::new(), None);
                }
                session.keeper_due = session.keeper_due.and_then(|_| session.machine.step(origin, now, wall));
            }
        }
    }

    /// The run is over: nobody waits for anything.
    pub(super) fn finish(&mut self) {
        self.disks.kill();
        self.tear_down();
    }

    fn close_epoch(&mut self, settled: bool) -> Outcome {
        // Where copies do not agree yet, a sector that cannot be read any more shows another of the values that survived.
        self.oracle.may_flip |= self.governor.beyond;
        self.oracle.close(settled).or_else(|what| self.violated("history", what))
    }

    /// Stops the LU as its owner does: all requests answered, flushed, marked clean.
    fn stop(&mut self) -> Outcome {
        if self.session.is_none() {
            return Ok(());
        }
        self.drain()?;
        self.flush(0)?;
        self.drain()?;
        if self.disks.is_dead() {
            self.bury()?;
            return self.restart(Back::default());
        }
        if let Some(session) = &self.session {
            session.machine.stop();
            self.disks.wake(session.keeper_port);
        }
        let ended = |world: &World| world.session.as_ref().is_none_or(|session| session.keeper_due.is_none());
        if !self.until("stopping", ended)? {
            self.bury()?;
            return self.restart(Back::default());
        }
        let wires = self.wires();
        let agrees = self.governor.health.in_sync;
        let healthy = self.governor.health.whole.iter().all(|&whole| whole);
        let Some(session) = self.session.take() else { return Ok(()) };
        let broken = session.machine.is_broken();
        drop(session);
        if broken && !self.governor.beyond {
            return self.violated("error", "it stopped broken, within what it has to survive");
        }
        self.close_epoch(agrees)?;
        let Some(geometry) = self.geometry.clone() else { return Ok(()) };
        let disks = self.disks.copy();
        if agrees && healthy && !self.governor.beyond {
            check::rows_agree(&disks, &geometry, &wires).or_else(|what| self.violated("rows", what))?;
        }
        // What was on the disks before the first resync differs from one to the next.
        if self.governor.agreed_once { self.look_without_each(&wires, agrees) } else { Ok(()) }
    }

    /// Looks at copies of the disks: whole, and without each single member that can be spared.
    fn look_without_each(&mut self, wires: &Wires, must_start: bool) -> Outcome {
        let Some(geometry) = self.geometry.clone() else { return Ok(()) };
        let disks = self.disks.copy();
        if !must_start {
            // Nothing can stand in for a sector while redundancy does not agree.
            (0..disks.count()).for_each(|platter| disks.heal(platter));
        }
        let all: Vec<usize> = (0..disks.count()).collect();
        let present: Vec<usize> =
            all.into_iter().filter(|&platter| !self.disks.faults(platter, |f| f.gone)).collect();
        let impaired = self.governor.impaired(&self.disks);
        for slot in (0..geometry.slots()).map(Slot) {
            let spared = geometry.tolerates(&impaired.with(slot)) && !self.governor.beyond;
            if !spared || (geometry.slots() > 3 && self.random.one_in(2)) {
                continue;
            }
            self.counts.sweeps += 1;
            match check::look(&disks, &check::without(&present, wires, slot)) {
                Look::Read(windows) => {
                    let lost = (!must_start).then_some(slot);
                    self.compare(&windows, lost, &format!("without {slot}"))?;
                }
                Look::Refused(why) if must_start || !self.must_resync(&geometry) => {
                    return self.violated("refusal", format!("without {slot}: {why}"));
                }
                Look::Refused(_) => self.counts.refusals += 1,
            }
        }
        Ok(())
    }

    /// Are the bytes what the oracle permits? `lost`: this slot's member went with the power.
    fn compare(&self, windows: &[(u64, Option<Vec<u8>>)], lost: Option<Slot>, how: &str) -> Outcome {
        for (start, bytes) in windows {
            let Some(bytes) = bytes else {
                return self.violated("error", format!("{how}: sectors from {start} cannot be read"));
            };
            for (index, bytes) in bytes.chunks_exact(SECTOR as usize).enumerate() {
                let lba = start + index as u64;
                let gone =
                    lost.is_some() && lost == self.slot_of(lba) && self.oracle.is_unsure(lba, self.block());
                if !gone && !self.oracle.permits(lba, bytes) {
                    let (found, may) = (super::oracle::value_of(lba, bytes), self.oracle.describe(lba));
                    let what = format!("{how}: sector {lba} holds {found:x} and may hold {may}");
                    return self.violated("data", what);
                }
            }
        }
        Ok(())
    }

    // --- the beginning of the next --------------------------------------------------------------------------------

    fn restart(&mut self, back: Back) -> Outcome {
        // A cut while it was being stopped has had it started again.
        if self.session.is_some() || self.ended.is_some() {
            return Ok(());
        }
        let mut back = back;
        let Some(geometry) = self.geometry.clone() else { return Ok(()) };
        // Some of what was pulled out is there again, as it was then.
        for platter in 0..self.disks.count() {
            if self.random.one_in(2) {
                self.disks.faults(platter, |faults| faults.gone = false);
            }
        }
        let mirrored_wires = self.wires_at_rest();
        if self.governor.agreed_once && self.random.one_in(3) {
            self.look_without_each(&mirrored_wires, false)?;
        }
        let spared = |world: &World, slot: u8| {
            let slot = slot.checked_sub(1)?;
            let slot = (u16::from(slot) % geometry.slots()) as u8;
            let allowed =
                world.governor.agreed_once && world.governor.spares_at_rest(&world.disks, &geometry, slot);
            allowed.then(|| world.governor.home(slot)).flatten()
        };
        let mut away = spared(self, back.away);
        if self.must_resync(&geometry) {
            // Nothing can stand in for a member that fails now.
            let homes: Vec<usize> = self.governor.health.home.iter().flatten().copied().collect();
            for platter in homes.into_iter().filter(|_| !self.governor.beyond) {
                self.disks
                    .faults(platter, |faults| *faults = Faults { gone: faults.gone, ..Faults::default() });
            }
        }
        let mut hurt_anyway = false;
        if let Some(platter) = away {
            hurt_anyway = !self.governor.hurt.insert(platter);
            self.oracle.may_flip = true;
        } else if let Some(platter) = spared(self, back.rot) {
            let byte = self.random.below(256) as usize;
            // The superblock, or what follows it: the bitmap or the log, where there is one.
            let sector = if self.random.one_in(2) { 8 } else { 16 };
            self.disks.rot(platter, sector, byte);
            if sector > 8 {
                self.disks.tear_log();
            }
            self.governor.hurt.insert(platter);
            self.oracle.may_flip = true;
        }
        loop {
            let present = |platter: &usize| {
                Some(*platter) != away && !self.disks.faults(*platter, |faults| faults.gone)
            };
            let mut platters: Vec<usize> = (0..self.disks.count()).filter(present).collect();
            let turn = self.random.below(platters.len().max(1) as u64) as usize;
            platters.rotate_left(turn);
            let before = self.disks.copy();
            if back.again > 0 {
                self.disks.cut_in(u64::from(back.again));
            }
            self.say(World::superblocks);
            let offered = self.disks.offer(platters);
            let scratch = self.scratch;
            let wall = self.wall();
            let how = How { access: Access::Write, degraded: true, dirty: false, scratch, wall };
            match Machine::assemble(offered.clone(), &how) {
                Ok(machine) => {
                    self.say(|_| format!("    started: {:?} {:?}", machine.members(), machine.view()));
                    self.open(machine, offered)?;
                    self.lose_in_flight();
                    return if self.random.one_in(2) { self.sweep() } else { Ok(()) };
                }
                Err(_) if self.disks.is_dead() => {
                    self.counts.crashes += 1;
                    self.counts.crashes_in_recovery += 1;
                    self.disks.restart();
                    back.again = 0;
                }
                Err(error) => {
                    self.say(|world| format!("    refused: {error}; {:?}", world.governor));
                    if !self.disks.copy().same_bytes(&before) {
                        return self.violated("refusal", format!("refused, and changed something: {error}"));
                    }
                    if !self.may_refuse(&geometry, &error) {
                        return self.violated("refusal", error.to_string());
                    }
                    self.counts.refusals += 1;
                    if let Some(platter) = away.take() {
                        // A refusal changes nothing: with the member back it starts.
                        if !hurt_anyway {
                            self.governor.hurt.remove(&platter);
                        }
                        continue;
                    }
                    self.ended = Some(End::Refused);
                    return Ok(());
                }
            }
        }
    }

    /// The event counts on all platters, for the log.
    fn superblocks(&self) -> String {
        let events = |platter| {
            let mut word = [0; 8];
            word.copy_from_slice(&self.disks.peek(platter, 8)[200..208]);
            u64::from_le_bytes(word)
        };
        format!("    events {:?}", (0..self.disks.count()).map(events).collect::<Vec<_>>())
    }

    /// A parity LU that was being written must not be started without one of its members, while nothing says where.
    fn may_refuse(&self, geometry: &Geometry, error: &Error) -> bool {
        let degraded = !self.governor.impaired(&self.disks).is_empty();
        error.kind() == ErrorKind::CannotStart && degraded && self.must_resync(geometry)
    }

    /// Is nothing known of its parity after a crash? (A log tells; but one that a power cut tore cannot be told from one that
    /// has rotten, and until a resync has ended and something was logged then it vouches for nothing.)
    fn must_resync(&self, geometry: &Geometry) -> bool {
        let logs = self.scenario.policy == Policy::Ppl && self.governor.vouched;
        let logged = logs && self.governor.health.in_sync && !self.disks.tore_log();
        geometry.parities() > 0 && !logged
    }

    /// Sectors in the LU's block: that of the disk with the largest.
    fn block(&self) -> u64 {
        if self.scenario.mixed { 8 } else { u64::from(self.scenario.block) / SECTOR }
    }

    /// The slot whose member holds a sector; of mirrors the first.
    fn slot_of(&self, lba: u64) -> Option<Slot> {
        let geometry = self.geometry.as_ref()?;
        let place = geometry.locate(Lba(lba))?;
        Some(geometry.stripe(place.stripe).cell(place.cell).slot)
    }

    /// The power went, and with it members of an LU whose parity cannot give back what was in flight on them.
    fn lose_in_flight(&mut self) {
        let Some(session) = &self.session else { return };
        let view = session.machine.view();
        let lost: SlotSet = view
            .members
            .iter()
            .enumerate()
            .filter(|(_, member)| member.presence != Presence::Present)
            .map(|(slot, _)| Slot(slot as u16))
            .collect();
        if lost.is_empty() || self.scenario.policy != Policy::Ppl {
            return;
        }
        let slots: Vec<Option<Slot>> = (0..self.oracle.sectors()).map(|lba| self.slot_of(lba)).collect();
        let block = self.block();
        self.oracle.lose(block, |lba| slots[lba as usize].is_some_and(|slot| lost.contains(slot)));
    }

    /// Where the members' data is, of an LU that is not open: as it was last seen.
    fn wires_at_rest(&self) -> Wires {
        self.governor.health.home.iter().map(|home| home.map(|platter| (platter, 0))).collect()
    }

    /// Faults stop, and all has to come to rest: then everything is looked at.
    fn settle(&mut self) -> Outcome {
        self.drain()?;
        self.look_for_cut(Back::default())?;
        if self.session.is_none() {
            return Ok(());
        }
        for platter in 0..self.disks.count() {
            let gone = self.disks.faults(platter, |faults| faults.gone);
            if !gone && !self.disks.refused(platter) && !self.governor.beyond {
                self.disks.heal(platter);
            }
        }
        let degraded = self.governor.health.home.iter().any(Option::is_none);
        if degraded && self.random.one_in(2) {
            self.add()?;
        }
        if self.session.as_ref().is_some_and(|session| session.paused) {
            self.stop()?;
            self.restart(Back::default())?;
        }
        let rest = |world: &World| {
            world
                .session
                .as_ref()
                .is_none_or(|session| session.machine.is_idle() && session.changes.is_empty())
        };
        self.until("recovery", rest)?;
        self.look_for_cut(Back::default())?;
        self.sweep()?;
        self.drain()?;
        self.look_for_cut(Back::default())?;
        if self.ended.is_some() {
            return Ok(());
        }
        self.stop()?;
        self.restart(Back::default())
    }
}

fn new_uuid(random: &mut Random) -> Uuid {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&random.next().to_le_bytes());
    bytes[8..].copy_from_slice(&random.next().to_le_bytes());
    Uuid(bytes)
}
