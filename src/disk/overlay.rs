//! A wrapper around any backend that shows some sectors otherwise than they are on disk: an LU that is only
//! looked at is read as if it had been repaired, and not a byte of it changes.
//!
//! Promises: reads see the patches, whole sectors each; writes fail as on a disk that cannot be written.
//! Without patches in its way a read costs one look into an ordered map.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use super::slots::Slots;
use super::{Arena, Backend, DiskId, DiskInfo, Disks, Done, Failure, Op};
use crate::engine::Wake;
use crate::error::Result;
use crate::units::{DiskLba, SECTOR};

/// Sectors by disk and place.
type Patches = BTreeMap<(DiskId, DiskLba), [u8; SECTOR as usize]>;

/// A backend with patches over it. Made complete, then used.
#[derive(Debug)]
pub struct Overlay<B> {
    inner: B,
    patches: Arc<Patches>,
}

/// What an [`Overlay`] shows in place of what is there.
#[derive(Debug, Default)]
pub struct Patch(Patches);

impl Patch {
    /// Nothing yet.
    pub fn new() -> Patch {
        Patch::default()
    }

    /// Shows `bytes`, whole sectors, from `at` on. What is less than a sector at their end is left out.
    pub fn put(&mut self, disk: DiskId, at: DiskLba, bytes: &[u8]) {
        for (n, sector) in bytes.as_chunks().0.iter().enumerate() {
            self.0.insert((disk, DiskLba(at.0 + n as u64)), *sector);
        }
    }

    /// Sectors shown.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// None?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<B: Backend> Overlay<B> {
    /// Lays `patch` over `inner`.
    pub fn new(inner: B, patch: Patch) -> Overlay<B> {
        Overlay { inner, patches: Arc::new(patch.0) }
    }
}

impl<B: Backend> Backend for Overlay<B> {
    fn len(&self) -> usize {
        self.inner.len()
    }

    fn info(&self, id: DiskId) -> DiskInfo {
        self.inner.info(id)
    }

    fn queue(&self, depth: usize) -> Result<Box<dyn Disks>> {
        let inner = self.inner.queue(depth)?;
        let flights = Slots::new(depth);
        Ok(Box::new(OverlaidQueue { inner, patches: self.patches.clone(), flights, refused: Vec::new() }))
    }
}

struct OverlaidQueue {
    inner: Box<dyn Disks>,
    patches: Arc<Patches>,
    flights: Slots<Flight>,
    refused: Vec<Done>,
}

struct Flight {
    ticket: u64,
    disk: DiskId,
    at: DiskLba,
}

impl Disks for OverlaidQueue {
    fn submit(&mut self, ticket: u64, op: Op) {
        if matches!(op, Op::Write { .. } | Op::Zero { .. }) {
            self.refused.push(op.done(ticket, Err(Failure::from_errno(libc::EROFS))));
            return;
        }
        let at = op.place().map_or(DiskLba(0), |(at, _)| at);
        let slot = self.flights.insert(Flight { ticket, disk: op.disk(), at });
        self.inner.submit(slot as u64, op);
    }

    fn kick(&mut self) {
        self.inner.kick();
    }

    fn reap(&mut self, out: &mut Vec<Done>, wait: Option<Duration>) -> bool {
        let wait = wait.filter(|_| self.refused.is_empty());
        out.append(&mut self.refused);
        let before = out.len();
        let woken = self.inner.reap(out, wait);
        for done in &mut out[before..] {
            let Some(flight) = self.flights.remove(done.ticket as usize) else { continue };
            done.ticket = flight.ticket;
            let Some(buf) = done.buf.as_mut().filter(|buf| buf.is_into()) else { continue };
            let end = DiskLba(flight.at.0 + buf.len() as u64 / SECTOR);
            for ((_, at), sector) in self.patches.range((flight.disk, flight.at)..(flight.disk, end)) {
                let from = ((at.0 - flight.at.0) * SECTOR) as usize;
                buf.bytes_mut()[from..from + sector.len()].copy_from_slice(sector);
            }
        }
        woken
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight() + self.refused.len()
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
    fn reads_see_the_patches_and_the_disk_stays() {
        let memory = MemoryBackend::with_disks(2, Sectors(16), 512);
        memory.poke(DiskId(0), DiskLba(0), &[7; 16 * 512]);
        let mut patch = Patch::new();
        patch.put(DiskId(0), DiskLba(3), &[1; 1024]);
        patch.put(DiskId(1), DiskLba(4), &[2; 512]);
        assert_eq!((patch.len(), patch.is_empty()), (3, false));
        let io = Blocking::new(Overlay::new(memory.clone(), patch)).unwrap();
        let mut bytes = [0; 5 * 512];
        io.read_exact(DiskId(0), DiskLba(2), &mut bytes).unwrap();
        assert_eq!([0, 1, 2, 3].map(|n| bytes[n * 512]), [7, 1, 1, 7]);
        io.read_exact(DiskId(0), DiskLba(4), &mut bytes[..512]).unwrap();
        assert_eq!(bytes[0], 1);
        io.read_exact(DiskId(1), DiskLba(3), &mut bytes).unwrap();
        assert_eq!([0, 1, 2].map(|n| bytes[n * 512]), [0, 2, 0]);
        assert!(io.write_exact(DiskId(0), DiskLba(3), &[9; 512], false).is_err());
        io.flush(DiskId(0)).unwrap();
        memory.peek(DiskId(0), DiskLba(3), &mut bytes[..512]);
        assert_eq!(bytes[0], 7);
    }
}
