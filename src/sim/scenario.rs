//! A scenario: the shape of an LU and a list of events, made from a seed, cut shorter, or read from text.
//!
//! Events do not depend on each other: any part of the list is a scenario too, and each event brings the seed of all chance up
//! to the next one, so that leaving one out changes as little as possible of the rest. That is what lets a failure be
//! shrunk. What an event asks for may be impossible when its time comes (no such disk, no budget left): then it does nothing.
//!
//! The text has a line for the shape and one for each event, and is read back by [`Scenario::parse`].

use std::fmt::{self, Write as _};

use super::Random;
use crate::error::{Error, ErrorKind, Result};
use crate::format::placement::Policy;
use crate::geometry::Layout;
use crate::units::Level;

/// What is to happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// A write on a queue: first sector, how many, durable.
    Write(u8, u32, u32, bool),
    /// A range zeroed on a queue: first sector, how many.
    Zero(u8, u32, u32),
    /// A read on a queue: first sector, how many.
    Read(u8, u32, u32),
    /// A flush on a queue.
    Flush(u8),
    /// So many steps of whoever can take one.
    Run(u32),
    /// Steps until every request is answered.
    Drain,
    /// So many milliseconds pass.
    Idle(u32),
    /// For so many milliseconds nothing is written but, now and then, what is at a sector: queue, sector, how long.
    Busy(u8, u32, u32),
    /// Sectors of a slot cannot be read: slot, sector of the data area, how many.
    Latent(u8, u32, u32),
    /// One read in so many of a slot's disk fails for a while: slot, how many.
    Transient(u8, u32),
    /// The next writes to a slot's disk fail.
    RefuseWrites(u8, u32),
    /// The next flush of a slot's disk fails and loses its cache.
    LoseFlush(u8),
    /// The next superblock written to a slot's disk is lost, or goes astray.
    LoseSuperblock(u8),
    /// A slot's disk hangs for so many milliseconds.
    Hang(u8, u32),
    /// A slot's disk is pulled out. It is back at a later start.
    Vanish(u8),
    /// An operator fails a slot's disk.
    Fail(u8),
    /// An operator adds a disk that is no member: a new one, or one that was.
    Add,
    /// An operator lets go of a disk that fills no slot.
    Remove,
    /// An operator has a slot's disk replaced by a spare.
    Replace(u8),
    /// An operator holds recovery.
    Pause,
    /// The power goes after so many disk operations, and comes back.
    Cut(u32, Back),
    /// The process is killed, and started again.
    Kill(Back),
    /// The LU is stopped and started again.
    Stop(Back),
    /// All faults end; recovery comes to its end; everything is checked.
    Settle,
}

/// How it is started again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Back {
    /// This slot's disk is away then, if one can be spared: slot + 1, or 0.
    pub away: u8,
    /// The power goes again after so many disk operations from the start of assembly; 0: it does not.
    pub again: u32,
    /// A bit of this slot's superblock, bitmap or log has rotten meanwhile, if it can be spared: slot + 1, or 0.
    pub rot: u8,
}

/// An event and the seed of chance from here to the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// What happens.
    pub what: What,
    /// The seed.
    pub salt: u32,
}

/// The shape of an LU and what happens to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scenario {
    /// The level.
    pub level: Level,
    /// Its layout by name.
    pub layout: String,
    /// Sectors in a chunk; 0 where the level has none.
    pub chunk: u32,
    /// Slots.
    pub slots: u8,
    /// Sectors of data on each member, about.
    pub component: u32,
    /// Bytes in a block of most disks.
    pub block: u32,
    /// The first disk has blocks of 4096 bytes, whatever the others have.
    pub mixed: bool,
    /// Queues that clients drive.
    pub queues: u8,
    /// Spares from the beginning.
    pub spares: u8,
    /// The write policy.
    pub policy: Policy,
    /// Disks hold something else before, so that a first resync is needed.
    pub junk: bool,
    /// Unreadable sectors beyond what the level survives, and lost disks besides: then errors may be seen, but never wrong data.
    pub beyond: bool,
    /// For everything that the events' salts do not decide.
    pub salt: u32,
    /// What happens.
    pub events: Vec<Event>,
}

/// The policies that this version writes at a level. The one place to switch them on.
fn policies(level: Level) -> &'static [Policy] {
    match level.md_number() {
        5 => &[Policy::Ppl, Policy::Ppl, Policy::Bitmap, Policy::None],
        1 | 4 | 6 | 10 => &[Policy::Bitmap, Policy::None],
        _ => &[Policy::None],
    }
}

const LAYOUTS5: [&str; 6] = [
    "left-symmetric",
    "left-asymmetric",
    "right-symmetric",
    "right-asymmetric",
    "parity-first",
    "parity-last",
];
const LAYOUTS6: [&str; 5] =
    ["left-symmetric", "left-asymmetric", "right-symmetric", "right-asymmetric", "parity-first"];
const LAYOUTS10: [&str; 7] = ["n2", "f2", "o2", "n3", "f3", "o3", "n2f2"];

/// What a level may look like: its layouts and the fewest slots they need.
fn shapes(level: Level) -> (&'static [&'static str], u8) {
    // By md's number, so that the simulator needs no opinion of its own about levels.
    match level.md_number() {
        10 => (&LAYOUTS10, 2),
        6 => (&LAYOUTS6, 4),
        5 => (&LAYOUTS5, 3),
        4 => (&["default"], 3),
        _ => (&["default"], 2),
    }
}

impl Scenario {
    /// The scenario of a seed, of one level if that is given.
    pub fn generate(seed: u64, level: Option<Level>) -> Scenario {
        let mut random = Random::new(seed ^ 0x75_7261_6964);
        let weighted = [1, 1, 1, 5, 5, 5, 6, 6, 6, 10, 10, 10, 4, 0, -1];
        let number = weighted[random.below(weighted.len() as u64) as usize];
        let level = level.or(Level::from_md_number(number)).unwrap_or(Level::ALL[0]);
        let (layouts, least) = shapes(level);
        let layout = layouts[random.below(layouts.len() as u64) as usize].to_owned();
        let copies: u8 = match layout.as_str() {
            "n3" | "f3" | "o3" => 3,
            "n2f2" => 4,
            _ => least,
        };
        let slots = copies.max(least) + {
            let more = if random.one_in(3) { 5 } else { 3 };
            random.below(more) as u8
        };
        let slots = slots.min(8);
        let has_chunk = crate::geometry::has_chunk(level);
        let chunk = if has_chunk { [8, 8, 8, 16, 32, 128][random.below(6) as usize] } else { 0 };
        let long = !has_chunk && random.one_in(5);
        let component = match long {
            true => 2048 + 8 * random.range(1, 40) as u32,
            false => chunk.max(8) * random.range(2, if chunk > 16 { 5 } else { 14 }) as u32,
        };
        // md numbers the levels without redundancy 0 and below.
        let redundant = level.md_number() > 0;
        let policies = policies(level);
        let mut scenario = Scenario {
            level,
            layout,
            chunk,
            slots,
            component,
            block: if random.one_in(4) { 4096 } else { 512 },
            mixed: random.one_in(8),
            queues: random.range(1, 3) as u8,
            spares: if redundant && random.one_in(2) { random.range(1, 2) as u8 } else { 0 },
            policy: policies[random.below(policies.len() as u64) as usize],
            junk: random.one_in(2),
            beyond: redundant && random.one_in(7),
            salt: random.next() as u32,
            events: Vec::new(),
        };
        // What was on the disks before any write differs from one to the next, and an unreadable sector would show that.
        scenario.junk &= !scenario.beyond;
        scenario.fill_events(&mut random);
        scenario
    }

    /// A scenario that a fuzzer can change bit by bit: the first eight bytes choose the shape, each eight after them an event.
    pub fn from_bytes(bytes: &[u8]) -> Scenario {
        let mut words = bytes.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        });
        let mut scenario = Scenario::generate(words.next().unwrap_or(0), None);
        scenario.events.clear();
        let size = u64::from(scenario.component) * u64::from(scenario.slots);
        for word in words.take(300) {
            let mut random = Random::new(word);
            let what = match random.one_in(4) {
                true => scenario.other_event(&mut random),
                false => scenario.client_event(&mut random, 0, size),
            };
            scenario.push(&mut random, what);
        }
        let mut random = Random::new(bytes.len() as u64);
        scenario.push(&mut random, What::Settle);
        scenario
    }

    fn fill_events(&mut self, random: &mut Random) {
        let count = random.range(20, 160);
        // Sectors of the LU, roughly; what lies beyond is folded back later.
        let size = u64::from(self.component) * u64::from(self.slots);
        let hot = random.below(size.max(1));
        while (self.events.len() as u64) < count {
            let burst = random.range(1, 6);
            for _ in 0..burst {
                let what = self.client_event(random, hot, size);
                self.push(random, what);
            }
            let what = self.other_event(random);
            self.push(random, what);
            if self.beyond && random.one_in(4) {
                self.rebuild_with_losses(random);
            }
        }
        self.push(random, What::Settle);
    }

    /// Where more may fail than can be spared: a rebuild that meets sectors nobody can give back, and the power going in it.
    fn rebuild_with_losses(&mut self, random: &mut Random) {
        let slot = random.below(u64::from(self.slots)) as u8;
        for _ in 0..random.range(1, 3) {
            let at = random.below(u64::from(self.component)) as u32;
            self.push(random, What::Latent(slot, at, random.clone().range(1, 9) as u32));
        }
        let other = (slot + 1 + random.below(u64::from(self.slots) - 1) as u8) % self.slots;
        for what in [What::Fail(other), What::Drain, What::Add, What::Run(random.range(20, 300) as u32)] {
            self.push(random, what);
        }
        if random.one_in(2) {
            let back = self.back(random);
            self.push(random, What::Cut(random.clone().range(1, 60) as u32, back));
        }
    }

    fn push(&mut self, random: &mut Random, what: What) {
        self.events.push(Event { what, salt: random.next() as u32 });
    }

    fn client_event(&self, random: &mut Random, hot: u64, size: u64) -> What {
        let queue = random.below(u64::from(self.queues)) as u8;
        let near = !random.one_in(3);
        let lba = if near { hot + random.below(24) } else { random.below(size) } as u32;
        let sectors = match random.below(6) {
            0 => random.range(1, 2) as u32,
            1 | 2 => 8,
            3 => random.range(1, 30) as u32,
            4 => self.chunk.max(8) * u32::from(self.slots),
            _ => random.range(1, 200) as u32,
        };
        match random.below(20) {
            0 | 1 => What::Flush(queue),
            2..=6 => What::Read(queue, lba, sectors),
            7 => What::Drain,
            8 => What::Zero(queue, lba, sectors),
            _ => What::Write(queue, lba, sectors, random.one_in(8)),
        }
    }

    fn other_event(&self, random: &mut Random) -> What {
        let slot = random.below(u64::from(self.slots)) as u8;
        match random.below(64) {
            0..=19 => What::Run(random.range(1, 60) as u32),
            20..=22 => What::Drain,
            // Long enough for the bits of everything else to be cleared.
            26 if self.policy == Policy::Bitmap => {
                let size = u64::from(self.component) * u64::from(self.slots);
                What::Busy(0, random.below(size) as u32, random.range(9_000, 16_000) as u32)
            }
            23..=26 => What::Idle([1, 20, 210, 450, 900, 7000][random.below(6) as usize]),
            27..=29 => {
                What::Latent(slot, random.below(u64::from(self.component)) as u32, random.range(1, 9) as u32)
            }
            30 | 31 => What::Transient(slot, random.range(2, 6) as u32),
            32 | 33 => What::RefuseWrites(slot, random.range(1, 3) as u32),
            34 => What::LoseFlush(slot),
            35 => What::LoseSuperblock(slot),
            36 | 37 => What::Hang(slot, random.range(1, 700) as u32),
            38 | 39 => What::Vanish(slot),
            40..=42 => What::Fail(slot),
            43..=46 => What::Add,
            47 => What::Remove,
            48 => What::Pause,
            49..=55 => What::Cut(random.range(1, 40) as u32, self.back(random)),
            56 | 57 => What::Kill(self.back(random)),
            58 | 59 => What::Stop(self.back(random)),
            60 => What::Settle,
            61 | 62 => What::Replace(slot),
            _ => What::Run(random.range(60, 400) as u32),
        }
    }

    fn back(&self, random: &mut Random) -> Back {
        let slot = |random: &mut Random| 1 + random.below(u64::from(self.slots)) as u8;
        Back {
            away: if random.one_in(4) { slot(random) } else { 0 },
            again: match random.below(6) {
                0 => random.range(1, 60) as u32,
                1 => random.range(20, 250) as u32,
                _ => 0,
            },
            rot: if random.one_in(10) { slot(random) } else { 0 },
        }
    }

    /// The scenario that [`Display`](fmt::Display) wrote. Empty lines and those that begin with `#` are passed over.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] naming the line that is none.
    pub fn parse(text: &str) -> Result<Scenario> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let wrong = |line: &str| Error::new(ErrorKind::Usage, format!("not a line of a scenario: {line}"));
        let header = lines.next().unwrap_or_default();
        let mut scenario = parse_header(header).ok_or_else(|| wrong(header))?;
        for line in lines {
            let event = parse_event(line).ok_or_else(|| wrong(line))?;
            scenario.events.push(event);
        }
        Ok(scenario)
    }
}

fn parse_header(line: &str) -> Option<Scenario> {
    let mut words = line.split_whitespace();
    let level = words.next()?;
    let level = Level::ALL.into_iter().find(|known| known.to_string() == level)?;
    let layout = words.next()?.to_owned();
    Layout::parse(level, &layout).ok()?;
    let mut numbers = [0u32; 9];
    for number in &mut numbers {
        *number = words.next()?.split_once('=')?.1.parse().ok()?;
    }
    let policy = words.next()?.split_once('=')?.1.to_owned();
    let policy = [Policy::None, Policy::Bitmap, Policy::Ppl].into_iter().find(|p| p.to_string() == policy)?;
    let [chunk, slots, component, block, mixed, queues, spares, junk, beyond] = numbers;
    let salt = words.next()?.split_once('=')?.1.parse().ok()?;
    let (slots, queues, spares) = (slots.min(8) as u8, queues.clamp(1, 8) as u8, spares.min(4) as u8);
    let (mixed, junk, beyond) = (mixed > 0, junk > 0, beyond > 0);
    let events = Vec::new();
    Some(Scenario {
        level,
        layout,
        chunk,
        slots,
        component,
        block,
        mixed,
        queues,
        spares,
        policy,
        junk,
        beyond,
        salt,
        events,
    })
}

fn parse_event(line: &str) -> Option<Event> {
    let (line, salt) = line.split_once('#')?;
    let mut words = line.split_whitespace();
    let name = words.next()?;
    let mut numbers = words.map(|word| word.parse::<u32>().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    let what = match name {
        "write" => What::Write(next() as u8, next(), next(), next() > 0),
        "zero" => What::Zero(next() as u8, next(), next()),
        "read" => What::Read(next() as u8, next(), next()),
        "flush" => What::Flush(next() as u8),
        "run" => What::Run(next()),
        "drain" => What::Drain,
        "idle" => What::Idle(next()),
        "busy" => What::Busy(next() as u8, next(), next()),
        "latent" => What::Latent(next() as u8, next(), next()),
        "transient" => What::Transient(next() as u8, next()),
        "refuse-writes" => What::RefuseWrites(next() as u8, next()),
        "lose-flush" => What::LoseFlush(next() as u8),
        "lose-superblock" => What::LoseSuperblock(next() as u8),
        "hang" => What::Hang(next() as u8, next()),
        "vanish" => What::Vanish(next() as u8),
        "fail" => What::Fail(next() as u8),
        "add" => What::Add,
        "remove" => What::Remove,
        "replace" => What::Replace(next() as u8),
        "pause" => What::Pause,
        "cut" => What::Cut(next(), Back { away: next() as u8, again: next(), rot: next() as u8 }),
        "kill" => What::Kill(Back { away: next() as u8, again: next(), rot: next() as u8 }),
        "stop" => What::Stop(Back { away: next() as u8, again: next(), rot: next() as u8 }),
        "settle" => What::Settle,
        _ => return None,
    };
    Some(Event { what, salt: salt.trim().parse().ok()? })
}

impl fmt::Display for Back {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.away, self.again, self.rot)
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        match self.what {
            What::Write(queue, lba, sectors, fua) => {
                write!(text, "write {queue} {lba} {sectors} {}", u8::from(fua))?
            }
            What::Zero(queue, lba, sectors) => write!(text, "zero {queue} {lba} {sectors}")?,
            What::Read(queue, lba, sectors) => write!(text, "read {queue} {lba} {sectors}")?,
            What::Flush(queue) => write!(text, "flush {queue}")?,
            What::Run(steps) => write!(text, "run {steps}")?,
            What::Drain => text.push_str("drain"),
            What::Idle(millis) => write!(text, "idle {millis}")?,
            What::Busy(queue, lba, millis) => write!(text, "busy {queue} {lba} {millis}")?,
            What::Latent(slot, at, sectors) => write!(text, "latent {slot} {at} {sectors}")?,
            What::Transient(slot, n) => write!(text, "transient {slot} {n}")?,
            What::RefuseWrites(slot, n) => write!(text, "refuse-writes {slot} {n}")?,
            What::LoseFlush(slot) => write!(text, "lose-flush {slot}")?,
            What::LoseSuperblock(slot) => write!(text, "lose-superblock {slot}")?,
            What::Hang(slot, millis) => write!(text, "hang {slot} {millis}")?,
            What::Vanish(slot) => write!(text, "vanish {slot}")?,
            What::Fail(slot) => write!(text, "fail {slot}")?,
            What::Add => text.push_str("add"),
            What::Remove => text.push_str("remove"),
            What::Replace(slot) => write!(text, "replace {slot}")?,
            What::Pause => text.push_str("pause"),
            What::Cut(after, back) => write!(text, "cut {after} {back}")?,
            What::Kill(back) => write!(text, "kill {back}")?,
            What::Stop(back) => write!(text, "stop {back}")?,
            What::Settle => text.push_str("settle"),
        }
        write!(f, "{text} # {}", self.salt)
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} {} chunk={} slots={} component={} block={} mixed={} queues={} spares={} junk={} beyond={} \
             policy={} salt={}",
            self.level,
            self.layout,
            self.chunk,
            self.slots,
            self.component,
            self.block,
            u8::from(self.mixed),
            self.queues,
            self.spares,
            u8::from(self.junk),
            u8::from(self.beyond),
            self.policy,
            self.salt
        )?;
        self.events.iter().try_for_each(|event| writeln!(f, "{event}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_back_as_it_was() {
        for seed in 0..200 {
            let scenario = Scenario::generate(seed, None);
            assert_eq!(Scenario::parse(&scenario.to_string()).unwrap(), scenario, "seed {seed}");
        }
        assert!(Scenario::parse("raid5 left-symmetric").is_err());
    }
}
