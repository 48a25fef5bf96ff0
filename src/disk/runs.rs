//! Operations on their way to the disks, neighbours joined into one transfer.
//!
//! What is submitted between two kicks comes in the order in which somebody above cut a request up: an
//! operation that goes on where the newest one of the same disk ends, and is of the same sort, becomes part of
//! it. So a long read over many stripes is one transfer of each disk, and small writes one after the other are
//! a large one, whatever buffers they come from.
//!
//! Promises: each operation keeps its ticket and its buffer, and comes back by itself. A joined transfer that
//! is not done whole is taken apart, and its parts are tried alone, so that one bad block fails one operation.
//! No allocation up to the depth it was made for. Refuses to know how a transfer is done.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};

use super::{Done, Failure, Op, OpKind};
use crate::units::{SECTOR, Sectors};

/// Most operations in one transfer.
pub(super) const MOST_PARTS: usize = 16;

/// Most bytes in one transfer of several operations.
const MOST_BYTES: usize = 1 << 20;

/// One transfer, or flush: an operation and those that go on where it ends.
#[derive(Default)]
pub(super) struct Run {
    parts: Vec<(u64, Op)>,
    bytes: usize,
    /// Takes no more: it has been part of a longer one that was not done whole.
    alone: bool,
    /// Addresses and lengths of its buffers, as the kernel wants them.
    vector: Vec<[usize; 2]>,
}

impl Run {
    /// With room for all operations it may get.
    fn new(joins: bool) -> Run {
        let most = if joins { MOST_PARTS } else { 1 };
        let (parts, vector) = (Vec::with_capacity(most), Vec::with_capacity(most));
        Run { parts, vector, ..Run::default() }
    }

    /// The first operation: its disk, place and sort are the run's.
    pub(super) fn first(&self) -> Option<&Op> {
        self.parts.first().map(|(_, op)| op)
    }

    /// Is it a flush, or complete only when it is durable?
    pub(super) fn is_durable(&self) -> bool {
        self.first().is_some_and(|op| op.is_fua() || op.kind() == OpKind::Flush)
    }

    pub(super) fn parts_mut(&mut self) -> &mut [(u64, Op)] {
        &mut self.parts
    }

    /// How many operations it is.
    pub(super) fn count(&self) -> usize {
        self.parts.len()
    }

    /// Bytes in all.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its operations, which it has no more.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (u64, Op)> {
        self.parts.drain(..)
    }

    /// Its operations, all of which have ended with `result`.
    pub(super) fn end(&mut self, result: Result<(), Failure>) -> impl Iterator<Item = Done> {
        self.drain().map(move |(ticket, op)| op.done(ticket, result))
    }

    /// Does it here and now: several operations `together`, and if that does not do all of them, each `alone`.
    pub(super) fn carry_out<D: ?Sized>(
        &mut self,
        disks: &mut D,
        together: impl FnOnce(&mut D, &mut Run) -> bool,
        alone: impl Fn(&mut D, &mut Op) -> Result<(), Failure>,
        did: &mut Transfers,
        ready: &mut VecDeque<Done>,
    ) {
        if let Some(first) = self.first().filter(|_| self.count() > 1) {
            did.count(first);
            if together(disks, self) {
                return ready.extend(self.end(Ok(())));
            }
        }
        for (ticket, mut op) in self.drain() {
            did.count(&op);
            let result = alone(disks, &mut op);
            ready.push_back(op.done(ticket, result));
        }
    }

    /// Its buffers: address and length.
    pub(super) fn buffers(&self) -> impl Iterator<Item = (*mut u8, usize)> {
        self.parts.iter().filter_map(|(_, op)| match op {
            Op::Read { buf, .. } | Op::Write { buf, .. } => Some((buf.as_ptr(), buf.len())),
            Op::Zero { .. } | Op::Flush { .. } => None,
        })
    }

    /// Where its buffers begin, if it has some and each goes on where the one before ends.
    pub(super) fn stretch(&self) -> Option<*mut u8> {
        let mut buffers = self.buffers();
        let (start, len) = buffers.next()?;
        let mut end = start.addr() + len;
        for (next, len) in buffers {
            if next.addr() != end {
                return None;
            }
            end += len;
        }
        Some(start)
    }

    /// Its buffers for the kernel: so many pairs of address and length, laid out as `struct iovec` is. Valid until the next
    /// call, also if the run moves.
    pub(super) fn vector(&mut self) -> (*const libc::iovec, u32) {
        const _: () = assert!(size_of::<[usize; 2]>() == size_of::<libc::iovec>());
        const _: () = assert!(std::mem::offset_of!(libc::iovec, iov_len) == size_of::<usize>());
        let mut vector = std::mem::take(&mut self.vector);
        vector.clear();
        vector.extend(self.buffers().map(|(ptr, len)| [ptr.expose_provenance(), len]));
        self.vector = vector;
        (self.vector.as_ptr().cast(), self.vector.len() as u32)
    }

    /// The buffers to read into; as many as there are operations.
    pub(super) fn slices_mut<'a>(&'a mut self, room: &mut [IoSliceMut<'a>; MOST_PARTS]) -> usize {
        let count = self.parts.len();
        for (slice, (_, op)) in room.iter_mut().zip(&mut self.parts) {
            if let Op::Read { buf, .. } = op {
                *slice = IoSliceMut::new(buf.bytes_mut());
            }
        }
        count
    }

    /// The buffers to write from; as many as there are operations.
    pub(super) fn slices<'a>(&'a self, room: &mut [IoSlice<'a>; MOST_PARTS]) -> usize {
        for (slice, (_, op)) in room.iter_mut().zip(&self.parts) {
            if let Op::Write { buf, .. } = op {
                *slice = IoSlice::new(buf.bytes());
            }
        }
        self.parts.len()
    }

    /// Does an operation go on where this one ends, and is there room for it?
    fn goes_on_with(&self, op: &Op) -> bool {
        let (Some(first), Some((at, len))) = (self.first(), op.place()) else { return false };
        let follows = first.kind() == op.kind()
            && first.is_fua() == op.is_fua()
            && first.place().is_some_and(|(start, _)| start + sectors(self.bytes) == at);
        follows && !self.alone && self.parts.len() < MOST_PARTS && self.bytes + len <= MOST_BYTES
    }

    fn append(&mut self, ticket: u64, op: Op) {
        self.bytes += op.place().map_or(0, |(_, len)| len);
        self.parts.push((ticket, op));
    }
}

fn sectors(bytes: usize) -> Sectors {
    Sectors(bytes as u64 / SECTOR)
}

/// Runs that have not begun, in the order in which they were.
pub(super) struct Runs {
    runs: VecDeque<Box<Run>>,
    /// The number of the first of them, counted from the first there ever was.
    first: u64,
    /// By disk: the number of its newest run, plus one.
    newest: Vec<u64>,
    #[allow(clippy::vec_box, reason = "runs come and go all the time, and a box is less to move")]
    spare: Vec<Box<Run>>,
    operations: usize,
    joins: bool,
}

impl Runs {
    /// For about `depth` operations; with `joins`, neighbours are joined.
    pub(super) fn new(depth: usize, joins: bool) -> Runs {
        Runs {
            runs: VecDeque::with_capacity(depth),
            first: 0,
            newest: Vec::new(),
            spare: (0..depth).map(|_| Box::new(Run::new(joins))).collect(),
            operations: 0,
            joins,
        }
    }

    /// An operation whose disk is known and has such a place.
    pub(super) fn push(&mut self, ticket: u64, op: Op) {
        self.operations += 1;
        let disk = op.disk().index();
        if let Some(run) = self.newest_of(disk).filter(|run| run.goes_on_with(&op)) {
            return run.append(ticket, op);
        }
        if self.joins {
            if self.newest.len() <= disk {
                self.newest.resize(disk + 1, 0);
            }
            self.newest[disk] = self.first + self.runs.len() as u64 + 1;
        }
        self.begin(ticket, op, false);
    }

    /// An operation that has to be tried by itself.
    pub(super) fn push_alone(&mut self, ticket: u64, op: Op) {
        self.operations += 1;
        self.begin(ticket, op, true);
    }

    fn begin(&mut self, ticket: u64, op: Op, alone: bool) {
        self.runs.push_back(self.spare.pop().unwrap_or_else(|| Box::new(Run::new(self.joins))));
        let Some(run) = self.runs.back_mut() else { return };
        (run.bytes, run.alone) = (0, alone);
        run.append(ticket, op);
    }

    fn newest_of(&mut self, disk: usize) -> Option<&mut Run> {
        let number = self.newest.get(disk)?.checked_sub(1)?;
        self.runs.get_mut(number.checked_sub(self.first)? as usize).map(|run| &mut **run)
    }

    /// The next to begin.
    pub(super) fn pop(&mut self) -> Option<Box<Run>> {
        let run = self.runs.pop_front()?;
        self.first += 1;
        self.operations -= run.parts.len();
        Some(run)
    }

    /// A run that has ended, and whose operations have gone, to be used again.
    pub(super) fn recycle(&mut self, mut run: Box<Run>) {
        run.parts.clear();
        self.spare.push(run);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Operations in all runs that have not begun.
    pub(super) fn operations(&self) -> usize {
        self.operations
    }

    /// Loses everything.
    pub(super) fn clear(&mut self) {
        self.first += self.runs.len() as u64;
        self.runs.clear();
        self.operations = 0;
    }
}

/// Transfers and flushes handed to disks: what they had to do, after neighbours were joined.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Transfers {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Ranges made zero without their bytes being sent.
    pub zeroes: u64,
    /// Flushes.
    pub flushes: u64,
}

impl Transfers {
    /// One more, like `op`.
    pub(super) fn count(&mut self, op: &Op) {
        match op {
            Op::Read { .. } => self.reads += 1,
            Op::Write { .. } => self.writes += 1,
            Op::Zero { .. } => self.zeroes += 1,
            Op::Flush { .. } => self.flushes += 1,
        }
    }

    /// With those of `other`.
    pub(super) fn add(&mut self, other: Transfers) {
        self.reads += other.reads;
        self.writes += other.writes;
        self.zeroes += other.zeroes;
        self.flushes += other.flushes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{AlignedBuf, DiskId, Memory, RegionId};
    use crate::units::DiskLba;

    struct Rig(Memory, RegionId, u32);

    impl Rig {
        fn new() -> Rig {
            let mut memory = Memory::new(1, 0);
            let region = memory.insert_owned(AlignedBuf::new(8 << 20)).unwrap();
            Rig(memory, region, 0)
        }

        fn op(&mut self, write: bool, disk: u16, at: u64, len: u32) -> Op {
            let span = self.0.whole(self.1).part(self.2, len);
            self.2 += len;
            let (disk, at) = (DiskId(disk), DiskLba(at));
            match write {
                true => Op::Write { disk, at, buf: self.0.io_write_from(span), fua: false },
                false => Op::Read { disk, at, buf: self.0.io_read_into(span) },
            }
        }
    }

    fn tickets(runs: &mut Runs, rig: &mut Rig) -> Vec<Vec<u64>> {
        let mut all = Vec::new();
        while let Some(mut run) = runs.pop() {
            let mut these = Vec::new();
            for (ticket, op) in run.drain() {
                these.push(ticket);
                if let Some(buf) = op.into_buf() {
                    rig.0.done(buf);
                }
            }
            all.push(these);
            runs.recycle(run);
        }
        assert!(runs.is_empty() && runs.operations() == 0);
        all
    }

    #[test]
    fn neighbours_are_joined_disk_by_disk() {
        let (mut rig, mut runs) = (Rig::new(), Runs::new(4, true));
        for (ticket, (write, disk, at, len)) in [
            (false, 0, 0, 65536),
            (false, 1, 0, 65536),
            (false, 0, 128, 65536),
            (false, 1, 128, 4096),
            (true, 0, 256, 4096),
            (true, 0, 272, 4096),
            (true, 0, 280, 512),
            (false, 2, 0, 512),
        ]
        .into_iter()
        .enumerate()
        {
            let op = rig.op(write, disk, at, len);
            runs.push(ticket as u64, op);
        }
        runs.push(8, Op::Flush { disk: DiskId(0) });
        runs.push(9, Op::Flush { disk: DiskId(0) });
        for (ticket, at) in [(10, 0), (11, 128), (12, 512)] {
            runs.push(ticket, Op::Zero { disk: DiskId(0), at: DiskLba(at), sectors: Sectors(128) });
        }
        assert_eq!(runs.operations(), 13);
        let expected: [&[u64]; 9] = [&[0, 2], &[1, 3], &[4], &[5, 6], &[7], &[8], &[9], &[10, 11], &[12]];
        assert_eq!(tickets(&mut runs, &mut rig), expected);
    }

    #[test]
    fn what_has_begun_takes_no_more_and_who_is_alone_neither() {
        let (mut rig, mut runs) = (Rig::new(), Runs::new(4, true));
        let [a, b, c, d] = [0, 8, 16, 24].map(|at| rig.op(true, 0, at, 4096));
        runs.push(0, a);
        let mut begun = runs.pop().unwrap();
        runs.push(1, b);
        runs.push_alone(2, c);
        runs.push(3, d);
        for (_, op) in begun.drain() {
            rig.0.done(op.into_buf().unwrap());
        }
        runs.recycle(begun);
        assert_eq!(tickets(&mut runs, &mut rig), [[1], [2], [3]]);
        let [a, b] = [0, 8].map(|at| rig.op(true, 0, at, 4096));
        let mut apart = Runs::new(4, false);
        apart.push(0, a);
        apart.push(1, b);
        assert_eq!(tickets(&mut apart, &mut rig), [[0], [1]]);
    }

    #[test]
    fn buffers_that_are_neighbours_are_one_stretch() {
        let (mut rig, mut runs) = (Rig::new(), Runs::new(8, true));
        let [a, b, c, d] = [0, 8, 16, 24].map(|at| rig.op(false, 0, at, 4096));
        let (start, apart) = (a.place().unwrap(), rig.op(false, 1, 8, 4096));
        assert_eq!(start, (DiskLba(0), 4096));
        for (ticket, op) in [(0, a), (1, b), (2, c), (3, rig.op(false, 1, 0, 4096)), (4, apart), (5, d)] {
            runs.push(ticket, op);
        }
        runs.push(6, Op::Flush { disk: DiskId(0) });
        let mut stretches = Vec::new();
        while let Some(mut run) = runs.pop() {
            let one = run
                .stretch()
                .map(|start| start.addr() - rig.0.bytes(rig.0.whole(rig.1).part(0, 0)).as_ptr().addr());
            stretches.push((run.count(), one));
            for (_, op) in run.drain() {
                op.into_buf().into_iter().for_each(|buf| rig.0.done(buf));
            }
        }
        // (The two of disk 1 come from places in the other order.)
        assert_eq!(stretches, [(4, Some(0)), (2, None), (1, None)]);
    }

    #[test]
    fn runs_are_bounded() {
        let (mut rig, mut runs) = (Rig::new(), Runs::new(4, true));
        for n in 0..200u64 {
            let op = rig.op(false, 0, n, 512);
            runs.push(n, op);
        }
        let lengths: Vec<usize> = tickets(&mut runs, &mut rig).iter().map(Vec::len).collect();
        assert_eq!(lengths, [vec![MOST_PARTS; 12], vec![8]].concat());
        let mut rig = Rig::new();
        for n in 0..5u64 {
            let op = rig.op(false, 0, n * 1024, 512 << 10);
            runs.push(n, op);
        }
        assert_eq!(tickets(&mut runs, &mut rig), [vec![0, 1], vec![2, 3], vec![4]]);
    }
}
