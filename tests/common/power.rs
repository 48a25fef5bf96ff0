//! Disks whose power fails: everything that is written is recorded, with its bytes, its completion and the
//! flushes, so that it can be asked what the disks could hold had the power gone at any moment.
//!
//! The model is a disk's: a write with FUA is there when it has completed; any other when a flush has that
//! was submitted after its completion. Of the rest each sector may be there or not, whatever the order.

#![allow(dead_code, reason = "each test crate uses its own part")]

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use uraid::Result;
use uraid::disk::{Backend, DiskId, DiskInfo, Disks, Done, Op, OpKind};
use uraid::engine::Wake;

const SECTOR: usize = 512;

/// What happened, in order.
enum Event {
    Write { number: u64, disk: DiskId, at: usize, bytes: Vec<u8>, fua: bool },
    Flush { number: u64, disk: DiskId },
    Done { number: u64 },
}

/// The record; a clone is the same.
#[derive(Clone, Default)]
pub(crate) struct Record(Arc<Mutex<Vec<Event>>>);

impl Record {
    /// How much has happened: a moment to cut the power at.
    pub(crate) fn now(&self) -> usize {
        self.events().len()
    }

    fn events(&self) -> MutexGuard<'_, Vec<Event>> {
        self.0.lock().unwrap()
    }

    /// What the disks hold that held `images` at first, if the power goes at `moment`; `survives` tosses a
    /// coin for each sector that may be there or not.
    pub(crate) fn cut(&self, moment: usize, images: &mut [Vec<u8>], mut survives: impl FnMut() -> bool) {
        struct Written<'e> {
            disk: DiskId,
            at: usize,
            bytes: &'e [u8],
            fua: bool,
            done: bool,
            durable: bool,
        }
        let events = self.events();
        let mut written: Vec<Written<'_>> = Vec::new();
        let mut by_number: HashMap<u64, usize> = HashMap::new();
        let mut flushes: HashMap<u64, Vec<usize>> = HashMap::new();
        for event in &events[..moment] {
            match event {
                Event::Write { number, disk, at, bytes, fua } => {
                    by_number.insert(*number, written.len());
                    let (disk, at, fua) = (*disk, *at, *fua);
                    written.push(Written { disk, at, bytes, fua, done: false, durable: false });
                }
                Event::Flush { number, disk } => {
                    let covered = |(_, write): &(usize, &Written<'_>)| write.done && write.disk == *disk;
                    let covered = written.iter().enumerate().filter(covered).map(|(index, _)| index);
                    flushes.insert(*number, covered.collect());
                }
                Event::Done { number } => {
                    if let Some(&index) = by_number.get(number) {
                        let write = &mut written[index];
                        (write.done, write.durable) = (true, write.durable || write.fua);
                    }
                    for index in flushes.remove(number).unwrap_or_default() {
                        written[index].durable = true;
                    }
                }
            }
        }
        for write in &written {
            for (sector, bytes) in write.bytes.chunks(SECTOR).enumerate() {
                if write.durable || survives() {
                    let at = write.at + sector * SECTOR;
                    images[write.disk.index()][at..at + bytes.len()].copy_from_slice(bytes);
                }
            }
        }
    }
}

/// The wrapper that records.
pub(crate) struct Recorder {
    inner: Arc<dyn Backend>,
    record: Record,
    next: Arc<Mutex<u64>>,
}

impl Recorder {
    pub(crate) fn new(inner: Arc<dyn Backend>, record: Record) -> Recorder {
        Recorder { inner, record, next: Arc::default() }
    }
}

impl Backend for Recorder {
    fn len(&self) -> usize {
        self.inner.len()
    }

    fn info(&self, id: DiskId) -> DiskInfo {
        self.inner.info(id)
    }

    fn queue(&self, depth: usize) -> Result<Box<dyn Disks>> {
        let inner = self.inner.queue(depth)?;
        let (record, next) = (self.record.clone(), self.next.clone());
        Ok(Box::new(Queue { inner, record, next, tickets: HashMap::new() }))
    }
}

struct Queue {
    inner: Box<dyn Disks>,
    record: Record,
    /// Numbers are of the whole backend.
    next: Arc<Mutex<u64>>,
    tickets: HashMap<u64, u64>,
}

impl Disks for Queue {
    fn submit(&mut self, ticket: u64, op: Op) {
        let number = {
            let mut next = self.next.lock().unwrap();
            *next += 1;
            *next
        };
        let disk = op.disk();
        match (&op, op.kind()) {
            (Op::Write { at, buf, fua, .. }, _) => {
                let (at, bytes, fua) = (at.bytes() as usize, buf.bytes().to_vec(), *fua);
                self.record.events().push(Event::Write { number, disk, at, bytes, fua });
            }
            (&Op::Zero { at, sectors, .. }, _) => {
                let (at, bytes) = (at.bytes() as usize, vec![0; sectors.bytes() as usize]);
                self.record.events().push(Event::Write { number, disk, at, bytes, fua: false });
            }
            (_, OpKind::Flush) => self.record.events().push(Event::Flush { number, disk }),
            _ => {}
        }
        self.tickets.insert(number, ticket);
        self.inner.submit(number, op);
    }

    fn kick(&mut self) {
        self.inner.kick();
    }

    fn reap(&mut self, out: &mut Vec<Done>, wait: Option<Duration>) -> bool {
        let before = out.len();
        let woken = self.inner.reap(out, wait);
        for done in &mut out[before..] {
            self.record.events().push(Event::Done { number: done.ticket });
            done.ticket = self.tickets.remove(&done.ticket).expect("a completion of what was submitted");
        }
        woken
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight()
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

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.event_fd()
    }
}
