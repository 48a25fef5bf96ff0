//! A wrapper around any backend that makes disks fail: by script or by chance, repeatable from a seed.
//!
//! The faults: an operation fails, with or without having been done; a transfer comes back short; a
//! completion is held while others pass it; a write is acknowledged and lost; a read brings a flipped bit; a
//! disk is gone. A [`Fault`] says which operations it strikes, how often and how likely; the first rule that
//! applies decides. Rules are changed while queues are at work, through a [`Faults`] handle.
//!
//! Promises: each operation still completes exactly once. With one queue driven by one thread, the same seed
//! and the same operations give the same faults. Without rules, everything passes unchanged.
//!
//! Refuses to know: time. Delay is counted in completions of the same queue, so nothing waits on a clock; and
//! held completions do not make [`Disks::event_fd`] readable.

use std::collections::BTreeSet;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::slots::Slots;
use super::{Arena, Backend, DiskId, DiskInfo, Disks, Done, Failure, Op, OpKind};
use crate::engine::Wake;
use crate::error::Result;
use crate::units::{DiskLba, Sectors};

/// What a fault does to an operation it strikes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Fails with this system error number; nothing is done.
    Fail(i32),
    /// Is done, and fails with this system error number all the same.
    FailAfter(i32),
    /// Is done, and ends as a short transfer.
    Short,
    /// Is done, and its completion is held until so many other operations of the queue have completed.
    Hold(u32),
    /// A write or flush is reported as done and is not. A read passes.
    Lose,
    /// A read brings one bit flipped. Other operations pass.
    Flip,
}

/// A rule: which operations a fault strikes, how often, how likely. Made by [`Fault::new`], narrowed by the
/// rest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    effect: Effect,
    disk: Option<DiskId>,
    kind: Option<OpKind>,
    range: Option<Range<DiskLba>>,
    times: u64,
    one_in: u64,
}

impl Fault {
    /// Strikes every operation, every time.
    pub fn new(effect: Effect) -> Fault {
        Fault { effect, disk: None, kind: None, range: None, times: u64::MAX, one_in: 1 }
    }

    /// Only on this disk.
    pub fn on(mut self, disk: DiskId) -> Fault {
        self.disk = Some(disk);
        self
    }

    /// Only reads, only writes, or only flushes.
    pub fn only(mut self, kind: OpKind) -> Fault {
        self.kind = Some(kind);
        self
    }

    /// Only reads and writes that touch a sector of `range`.
    pub fn within(mut self, range: Range<DiskLba>) -> Fault {
        self.range = Some(range);
        self
    }

    /// Only so many times; then the rule is spent.
    pub fn times(mut self, times: u64) -> Fault {
        self.times = times;
        self
    }

    /// Only the next time.
    pub fn once(self) -> Fault {
        self.times(1)
    }

    /// Only one operation in `n`, by chance. 0 is as 1.
    pub fn one_in(mut self, n: u64) -> Fault {
        self.one_in = n.max(1);
        self
    }

    fn concerns(&self, op: &Op) -> bool {
        let within = |range: &Range<DiskLba>| {
            op.place().is_some_and(|(at, len)| {
                let end = at.checked_add(Sectors::from_bytes_floor(len as u64)).unwrap_or(DiskLba(u64::MAX));
                at.max(range.start) < end.min(range.end)
            })
        };
        self.times > 0
            && self.disk.is_none_or(|disk| disk == op.disk())
            && self.kind.is_none_or(|kind| kind == op.kind())
            && self.range.as_ref().is_none_or(within)
    }
}

/// The rules of a [`Faulty`] backend, to change at any time. A clone handles the same rules.
#[derive(Clone, Debug)]
pub struct Faults(Arc<Mutex<Rules>>);

#[derive(Debug)]
struct Rules {
    faults: Vec<Fault>,
    gone: BTreeSet<DiskId>,
    random: u64,
    struck: u64,
}

impl Faults {
    /// Adds a rule, after those there are.
    pub fn add(&self, fault: Fault) {
        self.rules().faults.push(fault);
    }

    /// Takes all rules away and brings gone disks back.
    pub fn clear(&self) {
        let mut rules = self.rules();
        rules.faults.clear();
        rules.gone.clear();
    }

    /// Pulls a disk out: everything on it fails as [`Failure::GONE`], also what is in flight; or puts it
    /// back.
    pub fn set_gone(&self, disk: DiskId, gone: bool) {
        let mut rules = self.rules();
        match gone {
            true => rules.gone.insert(disk),
            false => rules.gone.remove(&disk),
        };
    }

    /// How many operations have been struck by a rule so far.
    pub fn struck(&self) -> u64 {
        self.rules().struck
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rules {
    fn strike(&mut self, op: &Op) -> Option<Effect> {
        if self.gone.contains(&op.disk()) {
            return Some(Effect::Fail(Failure::GONE.errno()));
        }
        for i in 0..self.faults.len() {
            let one_in = self.faults[i].one_in;
            if self.faults[i].concerns(op) && (one_in == 1 || self.next().is_multiple_of(one_in)) {
                self.faults[i].times -= 1;
                self.struck += 1;
                return Some(self.faults[i].effect);
            }
        }
        None
    }

    /// The next number of a splitmix64 sequence.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A backend with faults.
#[derive(Debug)]
pub struct Faulty<B> {
    inner: B,
    faults: Faults,
}

impl<B: Backend> Faulty<B> {
    /// Wraps `inner`. No faults until rules are added to [`Faulty::faults`]; `seed` is for those by chance.
    pub fn new(inner: B, seed: u64) -> Faulty<B> {
        let rules = Rules { faults: Vec::new(), gone: BTreeSet::new(), random: seed, struck: 0 };
        Faulty { inner, faults: Faults(Arc::new(Mutex::new(rules))) }
    }

    /// The rules.
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }

    /// The backend below.
    pub fn inner(&self) -> &B {
        &self.inner
    }
}

impl<B: Backend> Backend for Faulty<B> {
    fn len(&self) -> usize {
        self.inner.len()
    }

    fn info(&self, id: DiskId) -> DiskInfo {
        self.inner.info(id)
    }

    fn queue(&self, depth: usize) -> Result<Box<dyn Disks>> {
        Ok(Box::new(FaultyQueue {
            inner: self.inner.queue(depth)?,
            faults: self.faults.clone(),
            flights: Slots::new(depth),
            ready: Vec::with_capacity(depth),
            held: Vec::with_capacity(depth),
        }))
    }
}

struct FaultyQueue {
    inner: Box<dyn Disks>,
    faults: Faults,
    flights: Slots<Flight>,
    /// Struck before they reached the disk.
    ready: Vec<Done>,
    /// Done, but kept back until so many more have completed.
    held: Vec<(Done, u32)>,
}

struct Flight {
    ticket: u64,
    disk: DiskId,
    effect: Option<Effect>,
}

impl Disks for FaultyQueue {
    fn submit(&mut self, ticket: u64, op: Op) {
        let effect = self.faults.rules().strike(&op);
        match (effect, op.kind()) {
            (Some(Effect::Fail(errno)), _) => {
                self.ready.push(op.done(ticket, Err(Failure::from_errno(errno))))
            }
            (Some(Effect::Lose), OpKind::Write | OpKind::Zero | OpKind::Flush) => {
                self.ready.push(op.done(ticket, Ok(())))
            }
            _ => {
                let slot = self.flights.insert(Flight { ticket, disk: op.disk(), effect });
                self.inner.submit(slot as u64, op);
            }
        }
    }

    fn kick(&mut self) {
        self.inner.kick();
    }

    fn reap(&mut self, out: &mut Vec<Done>, wait: Option<Duration>) -> bool {
        let before = out.len();
        // With something to give, or nothing to come, there is nothing to sleep for.
        let idle = self.inner.in_flight() == 0 && !self.held.is_empty();
        let wait = wait.filter(|_| self.ready.is_empty() && !idle);
        let woken = self.inner.reap(out, wait);
        // What comes from the disk is looked at in place; what is held is taken out of `out` again.
        let mut at = before;
        while at < out.len() {
            match self.arrive(&mut out[at]) {
                None => at += 1,
                Some(count) => self.held.push((out.remove(at), count)),
            }
        }
        out.append(&mut self.ready);
        let passed = (out.len() - before) as u32;
        self.release(out, passed);
        woken
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight() + self.ready.len() + self.held.len()
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.inner.waker()
    }

    fn attach(&mut self, id: DiskId) {
        self.inner.attach(id);
    }

    fn detach(&mut self, id: DiskId) {
        self.inner.detach(id);
    }

    fn register(&mut self, memory: &Arena) {
        self.inner.register(memory);
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.event_fd()
    }
}

impl FaultyQueue {
    /// Gives a completion its own ticket back and the effect its due. How long to hold it, if so.
    fn arrive(&mut self, done: &mut Done) -> Option<u32> {
        let flight = self.flights.remove(done.ticket as usize)?;
        done.ticket = flight.ticket;
        let mut rules = self.faults.rules();
        if rules.gone.contains(&flight.disk) {
            done.result = Err(Failure::GONE);
            return None;
        }
        match flight.effect? {
            Effect::Hold(count) => return (count > 0).then_some(count),
            Effect::FailAfter(errno) => done.result = Err(Failure::from_errno(errno)),
            Effect::Short => done.result = Err(Failure::SHORT),
            Effect::Flip => {
                if let Some(buf) = done.buf.as_mut().filter(|buf| buf.is_into() && !buf.is_empty()) {
                    let bit = rules.next() % (buf.len() as u64 * 8);
                    buf.bytes_mut()[bit as usize / 8] ^= 1 << (bit % 8);
                }
            }
            Effect::Fail(_) | Effect::Lose => {}
        }
        None
    }

    /// Lets go of what was held long enough, as others have `passed`; of everything if nothing else is to
    /// come.
    fn release(&mut self, out: &mut Vec<Done>, passed: u32) {
        for (_, count) in &mut self.held {
            *count = count.saturating_sub(passed);
        }
        let nothing_to_come = self.inner.in_flight() == 0 && passed == 0;
        let mut at = 0;
        while at < self.held.len() {
            if self.held[at].1 == 0 || nothing_to_come {
                out.push(self.held.swap_remove(at).0);
            } else {
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{AlignedBuf, Blocking, Memory, MemoryBackend, RegionId, Span};
    use crate::error::Error;

    const A: DiskId = DiskId(0);
    const B: DiskId = DiskId(1);

    fn disks() -> (Blocking<Faulty<MemoryBackend>>, Faults) {
        let faulty = Faulty::new(MemoryBackend::with_disks(2, Sectors(64), 512), 7);
        let faults = faulty.faults();
        (Blocking::new(faulty).unwrap(), faults)
    }

    fn failure(result: Result<(), Error>) -> Option<Failure> {
        use std::error::Error as _;
        result.err().map(|e| *e.source().unwrap().downcast_ref::<Failure>().unwrap())
    }

    #[test]
    fn faults_strike_what_they_are_meant_for() {
        let (disks, faults) = disks();
        let eio = Some(Failure::from_errno(libc::EIO));
        let bad =
            Fault::new(Effect::Fail(libc::EIO)).on(A).only(OpKind::Read).within(DiskLba(8)..DiskLba(16));
        faults.add(bad.times(2));
        let read = |disk, at, n: usize| failure(disks.read_exact(disk, DiskLba(at), &mut vec![0; n * 512]));
        assert_eq!((read(A, 0, 8), read(A, 16, 8), read(B, 8, 8)), (None, None, None));
        assert_eq!((read(A, 7, 2), read(A, 15, 1), read(A, 15, 1)), (eio, eio, None));
        assert_eq!(faults.struck(), 2);

        faults.add(Fault::new(Effect::Fail(libc::EIO)).only(OpKind::Flush).once());
        assert_eq!((failure(disks.flush(B)), failure(disks.flush(B))), (eio, None));

        faults.set_gone(B, true);
        assert!(read(B, 0, 1).unwrap().is_gone() && failure(disks.flush(B)).unwrap().is_gone());
        assert_eq!(read(A, 0, 1), None);
        faults.clear();
        assert_eq!(read(B, 0, 1), None);
    }

    #[test]
    fn writes_fail_after_the_fact_get_lost_and_bits_flip() {
        let (disks, faults) = disks();
        let content = |disk| {
            let mut bytes = [0; 512];
            disks.backend().inner().peek(disk, DiskLba(0), &mut bytes);
            bytes
        };
        faults.add(Fault::new(Effect::FailAfter(libc::EIO)).once());
        assert!(disks.write_exact(A, DiskLba(0), &[1; 512], false).is_err());
        assert_eq!(content(A), [1; 512]);
        faults.add(Fault::new(Effect::Lose).only(OpKind::Write).once());
        disks.write_exact(A, DiskLba(0), &[2; 512], true).unwrap();
        assert_eq!(content(A), [1; 512]);
        faults.add(Fault::new(Effect::Short).once());
        assert!(failure(disks.read_exact(A, DiskLba(0), &mut [0; 512])).unwrap().is_short());
        faults.add(Fault::new(Effect::Flip).only(OpKind::Read).once());
        let mut bytes = [0; 512];
        disks.read_exact(A, DiskLba(0), &mut bytes).unwrap();
        assert_eq!(bytes.iter().map(|b| (b ^ 1).count_ones()).sum::<u32>(), 1);
    }

    /// Reads 0 to 7; the order in which they come back.
    fn order(faults: &[Fault], seed: u64) -> Vec<u64> {
        let faulty = Faulty::new(MemoryBackend::with_disks(1, Sectors(64), 512), seed);
        for fault in faults {
            faulty.faults().add(fault.clone());
        }
        let mut queue = faulty.queue(8).unwrap();
        let mut memory = Memory::new(1, 0);
        let region: RegionId = memory.insert_owned(AlignedBuf::new(4096)).unwrap();
        for i in 0..8 {
            let buf = memory.io_read_into(Span { region, offset: i * 512, len: 512 });
            queue.submit(i.into(), Op::Read { disk: A, at: DiskLba(i.into()), buf });
            queue.kick();
        }
        let mut order = Vec::new();
        let mut out = Vec::new();
        while queue.in_flight() > 0 {
            queue.reap(&mut out, Some(Duration::from_secs(10)));
            for done in out.drain(..) {
                order.push(done.ticket);
                memory.done(done.buf.unwrap());
            }
        }
        memory.remove_owned(region);
        order
    }

    #[test]
    fn held_completions_come_out_of_order_and_none_is_lost() {
        assert_eq!(order(&[], 0), [0, 1, 2, 3, 4, 5, 6, 7]);
        let first = Fault::new(Effect::Hold(3)).once();
        assert_eq!(order(&[first], 0), [1, 2, 3, 4, 5, 6, 7, 0]);
        assert_eq!(order(&[Fault::new(Effect::Hold(100))], 0).len(), 8, "nobody waits for ever");
        let some = [Fault::new(Effect::Hold(2)).one_in(2)];
        let mut sorted = order(&some, 5);
        assert_eq!(sorted, order(&some, 5), "the same seed, the same order");
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 3, 4, 5, 6, 7]);
    }
}
