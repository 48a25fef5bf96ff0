//! Disks in memory: for tests, and for embedders that bring their own storage of last resort.
//!
//! Promises: sparse like a file (what was never written reads as zeroes and costs nothing), any number of
//! queues and threads; blocks are enforced as a real disk would, so that what works here works there. An
//! operation is not atomic towards others on the same range, just as on a real disk. Flushing does nothing.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use super::inline::{Execute, InlineQueue};
use super::{Backend, DiskId, DiskInfo, DiskKind, Disks, Failure, Op};
use crate::error::Result;
use crate::units::{DiskLba, Sectors};

/// Bytes under one lock, and allocated at a time.
const PIECE: u64 = 64 * 1024;

/// Disks in memory. A clone is another handle to the same disks.
#[derive(Clone, Default, Debug)]
pub struct MemoryBackend {
    disks: Arc<RwLock<Vec<Option<Arc<MemoryDisk>>>>>,
    infos: Arc<RwLock<Vec<DiskInfo>>>,
}

impl MemoryBackend {
    /// No disks yet.
    pub fn new() -> MemoryBackend {
        MemoryBackend::default()
    }

    /// `count` disks of `size` with blocks of `block` bytes, named `memory0`, `memory1` and so on.
    ///
    /// # Panics
    /// As [`MemoryBackend::add`].
    pub fn with_disks(count: usize, size: Sectors, block: u32) -> MemoryBackend {
        let backend = MemoryBackend::new();
        for i in 0..count {
            backend.add(format!("memory{i}"), size, block);
        }
        backend
    }

    /// Adds a zeroed disk of `size`, rounded down to blocks of `block` bytes.
    ///
    /// # Panics
    /// If `block` is not a power of two from 512 to 65536, or there have been 65536 disks.
    pub fn add(&self, name: impl Into<String>, size: Sectors, block: u32) -> DiskId {
        assert!(block.is_power_of_two() && (512..=65536).contains(&block), "blocks of {block} bytes");
        let size = size.round_down(Sectors(u64::from(block) / 512));
        let info = DiskInfo::new(name, size, block, DiskKind::Memory);
        let info = DiskInfo { zeroes: true, prefers_fua: true, ..info };
        let pieces = (0..size.bytes().div_ceil(PIECE)).map(|_| RwLock::new(None)).collect();
        let mut disks = self.disks.write().unwrap_or_else(PoisonError::into_inner);
        let id = u16::try_from(disks.len()).expect("at most 65536 disks");
        disks.push(Some(Arc::new(MemoryDisk { size, block, pieces })));
        self.infos.write().unwrap_or_else(PoisonError::into_inner).push(info);
        DiskId(id)
    }

    /// Forgets a disk; its memory is freed when all queues have let go ([`Disks::detach`]).
    pub fn remove(&self, id: DiskId) {
        if let Some(disk) = self.disks.write().unwrap_or_else(PoisonError::into_inner).get_mut(id.index()) {
            *disk = None;
        }
    }

    /// Looks at a disk from the side: no queue, no blocks.
    ///
    /// # Panics
    /// If there is no such disk or the range is past its end.
    pub fn peek(&self, id: DiskId, at: DiskLba, bytes: &mut [u8]) {
        self.disk(id).read(at.bytes(), bytes);
    }

    /// Changes a disk from the side, as bit rot does.
    ///
    /// # Panics
    /// If there is no such disk or the range is past its end.
    pub fn poke(&self, id: DiskId, at: DiskLba, bytes: &[u8]) {
        self.disk(id).write(at.bytes(), bytes);
    }

    fn disk(&self, id: DiskId) -> Arc<MemoryDisk> {
        self.get(id).expect("there is such a disk")
    }

    fn get(&self, id: DiskId) -> Option<Arc<MemoryDisk>> {
        self.disks.read().unwrap_or_else(PoisonError::into_inner).get(id.index())?.clone()
    }
}

impl Backend for MemoryBackend {
    fn len(&self) -> usize {
        self.infos.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn info(&self, id: DiskId) -> DiskInfo {
        self.infos.read().unwrap_or_else(PoisonError::into_inner)[id.index()].clone()
    }

    fn queue(&self, depth: usize) -> Result<Box<dyn Disks>> {
        let disks = self.disks.read().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Box::new(InlineQueue::new(Attached { backend: self.clone(), disks }, depth)?))
    }
}

/// The disks one queue knows.
struct Attached {
    backend: MemoryBackend,
    disks: Vec<Option<Arc<MemoryDisk>>>,
}

impl Execute for Attached {
    // Copying goes as fast in pieces.
    const JOINS: bool = false;

    fn execute(&mut self, op: &mut Op) -> Result<(), Failure> {
        let Some(Some(disk)) = self.disks.get(op.disk().index()) else { return Err(Failure::GONE) };
        op.check(disk.size)?;
        if let Some((at, len)) = op.place()
            && !(at.bytes() | len as u64).is_multiple_of(u64::from(disk.block))
        {
            return Err(Failure::from_errno(libc::EINVAL));
        }
        match op {
            Op::Read { at, buf, .. } => disk.read(at.bytes(), buf.bytes_mut()),
            Op::Write { at, buf, .. } => disk.write(at.bytes(), buf.bytes()),
            Op::Zero { at, sectors, .. } => disk.zero(at.bytes(), sectors.bytes()),
            Op::Flush { .. } => {}
        }
        Ok(())
    }

    fn attach(&mut self, id: DiskId) {
        if self.disks.len() <= id.index() {
            self.disks.resize(id.index() + 1, None);
        }
        self.disks[id.index()] = self.backend.get(id);
    }

    fn detach(&mut self, id: DiskId) {
        if let Some(disk) = self.disks.get_mut(id.index()) {
            *disk = None;
        }
    }
}

struct MemoryDisk {
    size: Sectors,
    block: u32,
    /// `None` has never been written.
    pieces: Vec<RwLock<Option<Box<[u8]>>>>,
}

impl MemoryDisk {
    fn read(&self, at: u64, mut bytes: &mut [u8]) {
        for (piece, offset, len) in pieces(at, bytes.len()) {
            let (part, rest) = bytes.split_at_mut(len);
            match &*self.pieces[piece].read().unwrap_or_else(PoisonError::into_inner) {
                Some(held) => part.copy_from_slice(&held[offset..offset + len]),
                None => part.fill(0),
            }
            bytes = rest;
        }
    }

    fn write(&self, at: u64, mut bytes: &[u8]) {
        for (piece, offset, len) in pieces(at, bytes.len()) {
            let (part, rest) = bytes.split_at(len);
            let mut held = self.pieces[piece].write().unwrap_or_else(PoisonError::into_inner);
            let held = held.get_or_insert_with(|| vec![0; PIECE as usize].into_boxed_slice());
            held[offset..offset + len].copy_from_slice(part);
            bytes = rest;
        }
    }
}

impl MemoryDisk {
    fn zero(&self, at: u64, bytes: u64) {
        for (piece, offset, len) in pieces(at, bytes as usize) {
            let mut held = self.pieces[piece].write().unwrap_or_else(PoisonError::into_inner);
            match &mut *held {
                Some(held) if len < held.len() => held[offset..offset + len].fill(0),
                held => *held = None,
            }
        }
    }
}

/// Cuts a range of bytes into pieces: which, where in it, how many bytes.
fn pieces(mut at: u64, mut len: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    std::iter::from_fn(move || {
        let offset = at % PIECE;
        let take = len.min((PIECE - offset) as usize);
        let piece = (at / PIECE) as usize;
        at += take as u64;
        len -= take;
        (take > 0).then_some((piece, offset as usize, take))
    })
}

impl fmt::Debug for MemoryDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryDisk({})", self.size)
    }
}
