//! A wrapper around any backend that writes down what is done: for tests and benches that count disk
//! operations.
//!
//! Promises: each operation is recorded in the order of submission, with its result once it is known; the
//! newest are kept, up to a bound; the counters never forget. What passes through is not changed. Recording
//! allocates nothing.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::slots::Slots;
use super::{Arena, Backend, DiskId, DiskInfo, Disks, Done, Failure, Op, OpKind};
use crate::engine::Wake;
use crate::error::Result;
use crate::units::DiskLba;

/// A backend whose operations are recorded in a [`Trace`].
#[derive(Debug)]
pub struct Traced<B> {
    inner: B,
    trace: Trace,
}

impl<B: Backend> Traced<B> {
    /// Wraps `inner`, keeping the newest `capacity` operations. Look at them by [`Traced::trace`].
    pub fn new(inner: B, capacity: usize) -> Traced<B> {
        Traced { trace: Trace::new(capacity), inner }
    }

    /// What is recorded. A clone of it looks at the same.
    pub fn trace(&self) -> Trace {
        self.trace.clone()
    }

    /// The backend below.
    pub fn inner(&self) -> &B {
        &self.inner
    }
}

impl<B: Backend> Backend for Traced<B> {
    fn len(&self) -> usize {
        self.inner.len()
    }

    fn info(&self, id: DiskId) -> DiskInfo {
        self.inner.info(id)
    }

    fn queue(&self, depth: usize) -> Result<Box<dyn Disks>> {
        let inner = self.inner.queue(depth)?;
        Ok(Box::new(TracedQueue { inner, trace: self.trace.clone(), flights: Slots::new(depth) }))
    }
}

/// What was done to disks.
#[derive(Clone, Debug)]
pub struct Trace(Arc<Mutex<Book>>);

/// One operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// Counts operations in order of submission, from 0.
    pub number: u64,
    /// On which disk.
    pub disk: DiskId,
    /// What.
    pub kind: OpKind,
    /// Where; 0 for a flush.
    pub at: DiskLba,
    /// Bytes; 0 for a flush.
    pub len: usize,
    /// A write that asked to be durable.
    pub fua: bool,
    /// How it went; `None` while in flight.
    pub result: Option<Result<(), Failure>>,
}

/// How many operations; counted at submission, failures at completion.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Reads.
    pub reads: u64,
    /// Writes, with and without FUA.
    pub writes: u64,
    /// Of these with FUA.
    pub fua_writes: u64,
    /// Ranges made zero.
    pub zeroes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Bytes asked for by reads.
    pub read_bytes: u64,
    /// Bytes given by writes.
    pub written_bytes: u64,
    /// Operations of any sort that failed.
    pub failures: u64,
}

#[derive(Debug)]
struct Book {
    records: VecDeque<Record>,
    capacity: usize,
    next: u64,
    counts: Vec<Counts>,
}

impl Trace {
    fn new(capacity: usize) -> Trace {
        let records = VecDeque::with_capacity(capacity);
        Trace(Arc::new(Mutex::new(Book { records, capacity, next: 0, counts: Vec::new() })))
    }

    /// The operations kept, oldest first.
    pub fn records(&self) -> Vec<Record> {
        self.book().records.iter().copied().collect()
    }

    /// The counts of one disk.
    pub fn counts(&self, disk: DiskId) -> Counts {
        self.book().counts.get(disk.index()).copied().unwrap_or_default()
    }

    /// The counts of all disks together.
    pub fn total(&self) -> Counts {
        self.book().counts.iter().fold(Counts::default(), |sum, c| Counts {
            reads: sum.reads + c.reads,
            writes: sum.writes + c.writes,
            fua_writes: sum.fua_writes + c.fua_writes,
            zeroes: sum.zeroes + c.zeroes,
            flushes: sum.flushes + c.flushes,
            read_bytes: sum.read_bytes + c.read_bytes,
            written_bytes: sum.written_bytes + c.written_bytes,
            failures: sum.failures + c.failures,
        })
    }

    /// Forgets the operations kept and starts all counts at 0. Numbers go on.
    pub fn clear(&self) {
        let mut book = self.book();
        book.records.clear();
        book.counts.fill(Counts::default());
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// The number of the record.
    fn submitted(&mut self, op: &Op) -> u64 {
        let (at, len) = op.place().unwrap_or_default();
        let (disk, kind, fua, number) = (op.disk(), op.kind(), op.is_fua(), self.next);
        self.next += 1;
        if self.records.len() >= self.capacity {
            self.records.pop_front();
        }
        if self.capacity > 0 {
            self.records.push_back(Record { number, disk, kind, at, len, fua, result: None });
        }
        let counts = self.counts_of(disk);
        match kind {
            OpKind::Read => {
                (counts.reads, counts.read_bytes) = (counts.reads + 1, counts.read_bytes + len as u64)
            }
            OpKind::Write => {
                counts.writes += 1;
                counts.fua_writes += u64::from(fua);
                counts.written_bytes += len as u64;
            }
            OpKind::Zero => counts.zeroes += 1,
            OpKind::Flush => counts.flushes += 1,
        }
        number
    }

    fn completed(&mut self, number: u64, disk: DiskId, result: Result<(), Failure>) {
        self.counts_of(disk).failures += u64::from(result.is_err());
        // Numbers are consecutive, so the first tells where the one looked for is, if it is still there.
        let first = self.records.front().map_or(u64::MAX, |record| record.number);
        let at = number.checked_sub(first).and_then(|at| usize::try_from(at).ok());
        if let Some(record) = at.and_then(|at| self.records.get_mut(at)) {
            record.result = Some(result);
        }
    }

    fn counts_of(&mut self, disk: DiskId) -> &mut Counts {
        if self.counts.len() <= disk.index() {
            self.counts.resize(disk.index() + 1, Counts::default());
        }
        &mut self.counts[disk.index()]
    }
}

struct TracedQueue {
    inner: Box<dyn Disks>,
    trace: Trace,
    flights: Slots<Flight>,
}

struct Flight {
    ticket: u64,
    number: u64,
    disk: DiskId,
}

impl Disks for TracedQueue {
    fn submit(&mut self, ticket: u64, op: Op) {
        let number = self.trace.book().submitted(&op);
        let slot = self.flights.insert(Flight { ticket, number, disk: op.disk() });
        self.inner.submit(slot as u64, op);
    }

    fn kick(&mut self) {
        self.inner.kick();
    }

    fn reap(&mut self, out: &mut Vec<Done>, wait: Option<Duration>) -> bool {
        let before = out.len();
        let woken = self.inner.reap(out, wait);
        if out.len() == before {
            return woken;
        }
        let mut book = self.trace.book();
        for done in &mut out[before..] {
            if let Some(flight) = self.flights.remove(done.ticket as usize) {
                done.ticket = flight.ticket;
                book.completed(flight.number, flight.disk, done.result);
            }
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

    fn register(&mut self, memory: &Arena) {
        self.inner.register(memory);
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.event_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Blocking, MemoryBackend};
    use crate::units::Sectors;

    #[test]
    fn everything_is_written_down_in_order() {
        let traced = Traced::new(MemoryBackend::with_disks(2, Sectors(64), 512), 3);
        let (a, b) = (DiskId(0), DiskId(1));
        let trace = traced.trace();
        let disks = Blocking::new(traced).unwrap();
        disks.write_exact(a, DiskLba(1), &[1; 512], true).unwrap();
        disks.write_exact(b, DiskLba(2), &[2; 1024], false).unwrap();
        disks.flush(b).unwrap();
        disks.read_exact(a, DiskLba(0), &mut [0; 1024]).unwrap();

        let ok = Some(Ok(()));
        let record =
            |number, disk, kind, at, len| Record { number, disk, kind, at, len, fua: false, result: ok };
        let want = [
            record(1, b, OpKind::Write, DiskLba(2), 1024),
            record(2, b, OpKind::Flush, DiskLba(0), 0),
            record(3, a, OpKind::Read, DiskLba(0), 1024),
        ];
        assert_eq!(trace.records(), want);
        let a_counts = Counts {
            reads: 1,
            writes: 1,
            fua_writes: 1,
            read_bytes: 1024,
            written_bytes: 512,
            ..Counts::default()
        };
        assert_eq!(trace.counts(a), a_counts);
        assert_eq!((trace.total().writes, trace.total().flushes, trace.total().written_bytes), (2, 1, 1536));
        trace.clear();
        assert_eq!((trace.total(), trace.records().len()), (Counts::default(), 0));
    }
}
