//! The exhaustive model of one RAID5 row: three data blocks and their parity, every sequence of one or two
//! writes, every moment of a crash, every version a sector may be left with by a disk's cache, and then no
//! member lost or any one.
//!
//! Planner, engine, log and replay are the ones that run in earnest; only disks and time are made here. A
//! *sector* of the model is half a block of 4 KiB. What the host gave a disk and the disk has not made
//! durable is a list of versions for each sector, and the cut of the power picks any of them.
//!
//! In the end each sector is one of these: a block nobody wrote since it was durable must hold what it held;
//! a block in flight should hold an old or a new value, but may hold neither (a *third value*) if its member
//! was lost: that much the log of md does not promise. The proof that the model can see anything are the
//! broken logs at the end: each has to fail.
#![allow(clippy::print_stdout, reason = "how much was proven belongs into the test's output")]

use std::sync::Arc;

use uraid::engine::{
    Bytes, Engine, Holder, Keep, Limits, Log, Note, Port, QueueId, Reply, Request, Ring, Shared,
};
use uraid::format::ppl::{self, Entry, Header};
use uraid::format::superblock::Uuid;
use uraid::geometry::{Geometry, Layout, Shape};
use uraid::parity::{Kernels, Source, Target};
use uraid::plan::{Presence, View};
use uraid::recovery::replay::{Found, Repair, repairs};
use uraid::units::{Lba, Level, MemberLba, Sectors, Slot};

const SET: Uuid = Uuid([7; 16]);
const DATA: usize = 3;
/// Stripe 0 of a left-symmetric LU of four has its parity in the last slot, and data block n in slot n.
const P: usize = 3;
const HALF: usize = 2048;
const BLOCK: usize = 4096;
const LOG_HALVES: usize = 16;

/// What is wrong with the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Variant {
    /// There is none.
    NoLog,
    /// Nothing; records follow each other, or each takes the place of the one before; what is logged is written with FUA,
    /// or flushed later.
    Right { multiple: bool, fua: bool },
    /// What is logged counts as durable when the disk has it in its cache.
    LoggedNotFua,
    /// A record counts as durable when the disk has it in its cache.
    NotFua,
    /// The place of a record is used again although its writes are not flushed.
    ReusedEarly,
    /// A record follows although the writes of the one before are not flushed; the newest is replayed.
    TwoLive,
    /// Full stripes have no entry.
    FullStripeUnlogged,
}

// ---- disks -----------------------------------------------------------------------------------------------

#[derive(Clone)]
struct Version {
    bytes: Arc<[u8]>,
    complete: bool,
}

/// A sector of the model: what may be there after a cut. The first version is durable.
type Place = Vec<Version>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Write { place: usize, halves: usize, fua: bool },
    Flush { slot: usize, honest: bool },
    Read,
}

#[derive(Clone, Copy)]
struct Pending {
    tag: u64,
    what: What,
}

struct World {
    variant: Variant,
    view: Arc<View>,
    log: Option<Log>,
    gathered: Vec<u8>,
    memory: Vec<Vec<u8>>,
    /// Two for each slot, then the log of the parity's member.
    places: Vec<Place>,
    pending: Vec<Pending>,
}

/// A block's content: its version, told apart from all others in every half.
fn content(cell: usize, version: u64) -> Vec<u8> {
    let half = |half: u64| {
        let word = ((cell as u64) << 40 | version << 8 | half | 1 << 60).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word.to_le_bytes().repeat(HALF / 8)
    };
    [half(0), half(1)].concat()
}

fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().unwrap())
}

impl World {
    fn new(variant: Variant) -> World {
        let logs = variant != Variant::NoLog;
        let mut blocks: Vec<Vec<u8>> = (0..DATA).map(|cell| content(cell, 0)).collect();
        blocks.push((0..BLOCK).map(|i| blocks.iter().fold(0, |sum, block| sum ^ block[i])).collect());
        let mut log = vec![0; LOG_HALVES * HALF];
        ppl::emit_into(&mut log, SET, 1, &[], ppl::append);
        let halves = blocks.iter().flat_map(|block| block.chunks(HALF)).chain(log.chunks(HALF));
        let places = halves.map(|half| vec![Version { bytes: half.into(), complete: true }]).collect();
        World {
            variant,
            view: Arc::new(View { logs, ..View::healthy(4) }),
            log: logs.then(|| Log::new(4, 64 << 10, 1)),
            gathered: Vec::new(),
            memory: Vec::new(),
            places,
            pending: Vec::new(),
        }
    }

    fn bytes(&mut self, bytes: Bytes) -> &mut [u8] {
        &mut self.memory[bytes.region as usize][bytes.offset as usize..][..bytes.len as usize]
    }

    fn put(&mut self, tag: u64, place: usize, bytes: &[u8], fua: bool) {
        let halves = bytes.len() / HALF;
        for (n, half) in bytes.chunks(HALF).enumerate() {
            self.places[place + n].push(Version { bytes: half.into(), complete: false });
        }
        self.pending.push(Pending { tag, what: What::Write { place, halves, fua } });
    }

    /// What was under way has come to its end.
    fn land(&mut self, what: What) {
        match what {
            What::Write { place, halves, fua } => {
                for place in &mut self.places[place..place + halves] {
                    place.iter_mut().for_each(|version| version.complete = true);
                    if fua {
                        place.drain(..place.len() - 1);
                    }
                }
            }
            What::Flush { slot, honest: true } => {
                let log = if slot == P { 8..self.places.len() } else { 0..0 };
                for place in (slot * 2..slot * 2 + 2).chain(log) {
                    let place = &mut self.places[place];
                    let newest = place.iter().rposition(|version| version.complete).unwrap();
                    place.drain(..newest);
                }
            }
            What::Flush { .. } | What::Read => {}
        }
    }
}

impl Port for World {
    fn read(&mut self, tag: u64, slot: Slot, at: MemberLba, into: Bytes) {
        assert_eq!((at, into.len as usize), (MemberLba(0), BLOCK));
        for half in 0..2 {
            let bytes = self.places[slot.index() * 2 + half].last().unwrap().bytes.clone();
            self.bytes(into)[half * HALF..][..HALF].copy_from_slice(&bytes);
        }
        self.pending.push(Pending { tag, what: What::Read });
    }

    fn write(&mut self, tag: u64, slot: Slot, at: MemberLba, from: Bytes, fua: bool) -> Holder {
        assert_eq!((at, from.len as usize), (MemberLba(0), BLOCK));
        let bytes = self.bytes(from).to_vec();
        self.put(tag, slot.index() * 2, &bytes, fua && self.variant != Variant::LoggedNotFua);
        self.holder(slot)
    }

    fn zero(&mut self, tag: u64, slot: Slot, at: MemberLba, sectors: Sectors) -> Holder {
        assert_eq!((at, sectors.bytes() as usize), (MemberLba(0), BLOCK));
        self.put(tag, slot.index() * 2, &[0; BLOCK], false);
        self.holder(slot)
    }

    fn prefers_fua(&self, _: Slot) -> bool {
        matches!(self.variant, Variant::Right { fua: true, .. } | Variant::LoggedNotFua)
    }

    fn flush(&mut self, tag: u64, slot: Slot) -> Holder {
        // Those of the log have the highest numbers.
        let lies = matches!(self.variant, Variant::ReusedEarly | Variant::TwoLive) && tag >> 60 != 0;
        self.pending.push(Pending { tag, what: What::Flush { slot: slot.index(), honest: !lies } });
        self.holder(slot)
    }

    fn holder(&self, slot: Slot) -> Holder {
        Holder(u32::from(slot.0))
    }

    fn fold(
        &mut self,
        targets: &[Bytes],
        terms: &mut dyn Iterator<Item = (Bytes, [u8; 2])>,
        accumulate: bool,
    ) {
        let terms: Vec<_> = terms.map(|(bytes, coef)| (self.bytes(bytes).to_vec(), coef)).collect();
        let sources: Vec<_> = terms.iter().map(|(bytes, coef)| Source { bytes, coef: *coef }).collect();
        Kernels::portable().combine(Target::One(self.bytes(targets[0])), &sources, accumulate);
    }

    fn copy(&mut self, to: Bytes, from: Bytes) {
        let bytes = self.bytes(from).to_vec();
        self.bytes(to).copy_from_slice(&bytes);
    }

    fn alloc(&mut self, bytes: u32) -> Option<u32> {
        self.memory.push(vec![0; bytes as usize]);
        Some(self.memory.len() as u32 - 1)
    }

    fn free(&mut self, _: u32) {}

    fn record(&mut self, note: Note) {
        panic!("no block is bad and none fails: {note:?}");
    }

    fn log<R>(&mut self, ask: impl FnOnce(&mut Log) -> R) -> Option<R> {
        self.log.as_mut().map(ask)
    }

    fn log_join(
        &mut self,
        queue: QueueId,
        slot: Slot,
        entries: &mut dyn ExactSizeIterator<Item = (Entry, Option<Bytes>)>,
        parity: u32,
    ) -> Option<u64> {
        let (number, from) = self.log.as_mut()?.join(queue, slot, entries.len(), parity)?;
        self.gathered.truncate(from as usize);
        for (mut entry, bytes) in entries {
            let bytes = bytes.map(|bytes| self.bytes(bytes).to_vec()).unwrap_or_default();
            entry.checksum = ppl::crc32c(&bytes);
            self.gathered.extend(bytes);
            self.log.as_mut()?.push(slot, entry);
        }
        Some(number)
    }

    fn log_write(&mut self, tag: u64, slot: Slot, _: Option<u64>) -> Option<Holder> {
        assert_eq!(slot.index(), P);
        let holder = self.holder(slot);
        let multiple = !matches!(self.variant, Variant::ReusedEarly | Variant::Right { multiple: false, .. });
        let ring = Ring { length: Sectors((LOG_HALVES * 4) as u64), multiple };
        let Some(log) = &mut self.log else { return Some(holder) };
        let begun = log.begin(slot, holder, None, ring);
        let mut entries = log.entries(slot).to_vec();
        if self.variant == Variant::FullStripeUnlogged {
            entries.retain(|entry| entry.pp_size > 0);
        }
        let mut bytes = Header { generation: begun.generation, entries }.emit(SET);
        bytes.append(&mut self.gathered);
        assert_eq!(bytes.len(), BLOCK + begun.parity as usize);
        let place = 8 + begun.at.bytes() as usize / HALF;
        self.put(tag, place, &bytes, self.variant != Variant::NotFua);
        Some(holder)
    }

    fn view(&mut self) -> Arc<View> {
        self.view.clone()
    }

    fn wake_others(&mut self) {}
    fn ask_dirty(&mut self) {}
    fn member_failed(&mut self, slot: Slot, _: Holder) {
        panic!("{slot} failed");
    }
    fn read_failed(&mut self, slot: Slot, _: MemberLba, _: Sectors) {
        panic!("{slot} cannot be read");
    }
}

// ---- what may be found afterwards
// -------------------------------------------------------------------------------------

/// What a client may read from a block: what was durable, and what was written since.
type Allowed = Vec<Vec<u64>>;

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Tally {
    /// Crashed states, each with none or one member lost.
    states: u64,
    /// Of these not started without being asked: a member is lost and the log is not whole.
    refused: u64,
    /// States with a wrong sector in a block that nobody was writing.
    untouched_wrong: u64,
    /// Blocks in flight, over all states, with a value that is neither old nor new.
    third_values: u64,
    /// States without a lost member that are called in sync after the start and are not.
    out_of_sync: u64,
}

struct Model {
    geometry: Arc<Geometry>,
    world: World,
    engine: Engine,
    allowed: Allowed,
    tally: Tally,
    /// By the slot that is lost; the last is the healthy one, for nothing is replayed where the log itself is
    /// lost.
    views: Vec<View>,
    /// Which members may be lost with the crash.
    losses: Vec<Option<usize>>,
}

impl Model {
    fn new(geometry: &Arc<Geometry>, variant: Variant, missing: Option<usize>) -> Model {
        let mut world = World::new(variant);
        if let Some(missing) = missing {
            Arc::make_mut(&mut world.view).members[missing].presence = Presence::Missing;
        }
        let shared = Arc::new(Shared::new(geometry, 1, 0));
        shared.set_dirty();
        let queue = shared.join().unwrap();
        let limits =
            Limits { requests: 4, bands: 4, band_rows: 8, block: 8, read_only: false, unsummed: u64::MAX };
        let engine = Engine::new(geometry.clone(), shared, queue, world.view.clone(), limits);
        let allowed = (0..DATA).map(|_| vec![0]).collect();
        let without = |lost: usize| {
            let mut view = (*world.view).clone();
            if lost != P {
                view.members[lost].presence = Presence::Missing;
            }
            view
        };
        let views = (0..4).map(without).collect();
        let losses = match missing {
            Some(_) => vec![missing],
            None => vec![None, Some(0), Some(1), Some(2), Some(3)],
        };
        let geometry = geometry.clone();
        Model { geometry, world, engine, allowed, tally: Tally::default(), views, losses }
    }

    /// Writes the blocks in `set` and waits for the reply; the power may be cut at any time.
    fn write(&mut self, set: u8, version: u64) {
        let blocks: Vec<usize> = (0..DATA).filter(|cell| set >> cell & 1 == 1).collect();
        for &cell in &blocks {
            self.allowed[cell].push(version);
            self.world.memory.push(content(cell, version));
            let region = self.world.memory.len() as u32 - 1;
            let memory = Bytes { region, offset: 0, len: BLOCK as u32 };
            let (lba, keep) = (Lba(cell as u64 * 8), Keep::default());
            let write = Request::Write { lba, sectors: Sectors(8), memory, fua: false, keep };
            self.engine.submit(cell as u64, write).unwrap();
        }
        self.drive(blocks.len());
    }

    fn flush(&mut self) {
        self.engine.submit(9, Request::Flush).unwrap();
        self.drive(1);
        for allowed in &mut self.allowed {
            allowed.drain(..allowed.len() - 1);
        }
    }

    /// Until so many replies have come. What is under way together is a wave; the cut comes in each of them.
    fn drive(&mut self, mut replies: usize) {
        while replies > 0 {
            self.engine.run(&mut self.world);
            let wave = std::mem::take(&mut self.world.pending);
            if wave.iter().any(|pending| matches!(pending.what, What::Write { .. })) {
                self.crash();
            }
            for Pending { tag, what } in wave {
                self.world.land(what);
                self.engine.complete(tag, true, &mut self.world);
            }
            while let Some(Reply { result, .. }) = self.engine.reply() {
                result.unwrap();
                replies -= 1;
            }
        }
        self.crash();
    }

    /// The power is cut now: every choice of what is left.
    fn crash(&mut self) {
        let open = |range: std::ops::Range<usize>| -> Vec<usize> {
            range.filter(|&place| self.world.places[place].len() > 1).collect()
        };
        let (disks, log) = (open(0..8), open(8..self.world.places.len()));
        let mut tally = self.tally;
        let mut choice = vec![0; self.world.places.len()];
        loop {
            let area: Vec<u8> = (8..choice.len())
                .flat_map(|place| self.world.places[place][choice[place]].bytes.to_vec())
                .collect();
            let read = (self.world.variant != Variant::NoLog).then(|| self.read_log(&area));
            let replay = read.as_ref().map(|log| match log {
                Ok(log) => {
                    let (list, flaws) = repairs(&self.geometry, Slot(P as u16), log);
                    (list, flaws.is_empty())
                }
                Err(()) => (Vec::new(), false),
            });
            loop {
                let found = std::array::from_fn(|n| word(&self.world.places[n][choice[n]].bytes));
                for &lost in &self.losses {
                    self.judge(found, replay.as_ref(), lost, &mut tally);
                }
                if !next(&mut choice, &disks, &self.world.places) {
                    break;
                }
            }
            if !next(&mut choice, &log, &self.world.places) {
                break;
            }
        }
        self.tally = tally;
    }

    fn read_log(&self, area: &[u8]) -> Result<Found, ()> {
        let multiple =
            !matches!(self.world.variant, Variant::ReusedEarly | Variant::Right { multiple: false, .. });
        let read = |at: Sectors, bytes: &mut [u8]| {
            let from = at.bytes() as usize;
            bytes.copy_from_slice(area.get(from..from + bytes.len()).ok_or(())?);
            Ok(())
        };
        Found::read(SET, Sectors(area.len() as u64 / 512), multiple, read)?.map_err(|_| ())
    }

    /// Starts with what is left, and reads all of it. Also what is refused is started, as the kernel does.
    fn judge(
        &self,
        mut found: [u64; 8],
        log: Option<&(Vec<Repair<'_>>, bool)>,
        lost: Option<usize>,
        tally: &mut Tally,
    ) {
        tally.states += 1;
        let mut in_sync = false;
        if let (Some((list, whole)), true) = (log, lost != Some(P)) {
            in_sync = *whole;
            tally.refused += u64::from(!in_sync && lost.is_some());
            let view = &self.views[lost.unwrap_or(P)];
            list.iter().for_each(|repair| self.repair(repair, view, &mut found));
        }
        if lost.is_none() && !in_sync {
            // A resync.
            (found[6], found[7]) = (found[0] ^ found[2] ^ found[4], found[1] ^ found[3] ^ found[5]);
        }
        let (mut untouched, mut agrees) = (false, true);
        for cell in 0..DATA {
            let mut third = false;
            for half in 0..2 {
                let others = (0..4).filter(|&slot| slot != cell).map(|slot| found[slot * 2 + half]);
                let rebuilt = others.fold(0, |sum, word| sum ^ word);
                let read = if lost == Some(cell) { rebuilt } else { found[cell * 2 + half] };
                let right = WORDS
                    .with(|words| self.allowed[cell].iter().any(|&v| words[cell][v as usize][half] == read));
                untouched |= !right && self.allowed[cell].len() == 1;
                third |= !right && self.allowed[cell].len() > 1;
                // Once the log was replayed, or a resync has run, redundancy agrees.
                agrees &= rebuilt == found[cell * 2 + half];
            }
            tally.third_values += u64::from(third);
        }
        tally.untouched_wrong += u64::from(untouched);
        tally.out_of_sync += u64::from(lost.is_none() && !agrees);
    }

    fn repair(&self, repair: &Repair<'_>, view: &View, found: &mut [u64; 8]) {
        let before = *found;
        let read = |slot: Slot, at: MemberLba, bytes: &mut [u8]| {
            assert_eq!((at, bytes.len()), (MemberLba(0), BLOCK));
            for (half, to) in bytes.chunks_mut(HALF).enumerate() {
                let word = before[slot.index() * 2 + half].to_le_bytes();
                to.chunks_mut(8).for_each(|to| to.copy_from_slice(&word));
            }
            true
        };
        let write = |slot: Slot, _: MemberLba, bytes: &[u8]| {
            assert_eq!(slot.index(), P);
            (found[6], found[7]) = (word(bytes), word(&bytes[HALF..]));
            Ok::<_, ()>(())
        };
        repair.run(&self.geometry, view, read, write).unwrap();
    }
}

thread_local! {
    /// By block, version and half: its first word.
    static WORDS: Vec<Vec<[u64; 2]>> = (0..DATA)
        .map(|cell| {
            let words = |bytes: Vec<u8>| [word(&bytes), word(&bytes[HALF..])];
            (0..3).map(|version| words(content(cell, version))).collect()
        })
        .collect();
}

/// The next choice of versions for `open` places; false after the last, when all are 0 again.
fn next(choice: &mut [usize], open: &[usize], places: &[Place]) -> bool {
    for &place in open {
        choice[place] += 1;
        if choice[place] < places[place].len() {
            return true;
        }
        choice[place] = 0;
    }
    false
}

fn explore(variant: Variant, missing: Option<usize>) -> Tally {
    let layout = Layout::default_for(Level::Raid5).md_number();
    let (chunk, component) = (Sectors(8), Sectors(8));
    let shape = Shape { level: Level::Raid5, layout, chunk, slots: 4, component, members: &[] };
    let geometry = Arc::new(Geometry::new(&shape).unwrap());
    let mut sum = Tally::default();
    let mut add = |model: Model| {
        sum.states += model.tally.states;
        sum.refused += model.tally.refused;
        sum.untouched_wrong += model.tally.untouched_wrong;
        sum.third_values += model.tally.third_values;
        sum.out_of_sync += model.tally.out_of_sync;
    };
    for first in 1..8 {
        for flush in [false, true] {
            for second in 0..8 {
                let mut model = Model::new(&geometry, variant, missing);
                model.write(first, 1);
                if flush {
                    model.flush();
                }
                if second > 0 {
                    // What came before was counted when it was alone.
                    model.tally = Tally::default();
                    model.write(second, 2);
                }
                add(model);
            }
        }
    }
    sum
}

// ---- the proof
// --------------------------------------------------------------------------------------------------------

#[test]
fn every_crash_of_one_row() {
    let show = |name: &str, tally: Tally, published: &str| {
        println!(
            "{name:20} {:>8} states {:>7} refused {:>6} untouched wrong {:>7} third values {:>6} out of sync \
             (published: {published})",
            tally.states, tally.refused, tally.untouched_wrong, tally.third_values, tally.out_of_sync
        );
    };
    let none = explore(Variant::NoLog, None);
    show("no log, forced", none, "38430 of 938920, yes");
    assert!(none.untouched_wrong > 0 && none.third_values > 0, "the write hole is there without a log");

    for (multiple, fua) in [(true, false), (false, false), (true, true), (false, true)] {
        let right = explore(Variant::Right { multiple, fua }, None);
        let name = if multiple { "log" } else { "log, one place" };
        show(&format!("{name}{}", if fua { ", fua" } else { "" }), right, "0, 88128");
        assert_eq!(right.untouched_wrong, 0, "a block nobody was writing has changed");
        assert_eq!(right.out_of_sync, 0, "redundancy does not agree although the log says so");
        assert!(right.states > 10_000 && right.third_values > 0);
    }
    for missing in 0..4 {
        for fua in [false, true] {
            let degraded = explore(Variant::Right { multiple: true, fua }, Some(missing));
            show(&format!("log, degraded by {missing}"), degraded, "-");
            assert_eq!(degraded.untouched_wrong, 0, "a block nobody was writing has changed");
        }
        let none = explore(Variant::NoLog, Some(missing));
        assert_eq!(none.untouched_wrong > 0, missing < P, "a member with parity only is not missed");
    }
    for (variant, published) in [
        (Variant::NotFua, "36720"),
        (Variant::LoggedNotFua, "-"),
        (Variant::ReusedEarly, "7434"),
        (Variant::TwoLive, "6678"),
        (Variant::FullStripeUnlogged, "-"),
    ] {
        let broken = explore(variant, None);
        show(&format!("{variant:?}"), broken, published);
        assert!(
            broken.untouched_wrong > 0 || variant == Variant::FullStripeUnlogged,
            "{variant:?} goes unnoticed"
        );
    }
}
