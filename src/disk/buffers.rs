//! Names for memory. Everything above this floor moves names of buffers ([`Span`]s), not bytes; here they
//! become bytes.
//!
//! A queue owns one [`Memory`]: a table of regions. A region is a buffer given for good ([`AlignedBuf`]), a
//! buffer lent by a caller for the length of a closure ([`lend`], [`lend_const`]), or a block of the pool
//! made at the start. While a disk works on a part of a region, that part is *in flight*: it is lent out as
//! an [`IoBuf`] until [`Memory::done`] takes it back.
//!
//! Promises. The interface is safe: whatever is called in whatever order, no byte is written while somebody
//! else may look at it, and no buffer is freed while a disk may touch it. Breaking the rules is a bug of the
//! caller and panics (a check of a few comparisons, always on); memory whose I/O never came back is leaked; a
//! lent buffer that is still named when its closure ends aborts the process, since its owner is about to
//! reuse it. Nothing here allocates after construction, except when a region has more than [`FLIGHTS`]
//! transfers in flight.
//!
//! Refuses to know: disks, sectors, stripes.
//!
//! # Why it is sound
//!
//! 1. Memory of two regions never overlaps, unless both are lent for reading only: owned buffers and lent
//!    mutable ones are unique by type (a [`Lent`] cannot be cloned, only split), pool blocks by the pool's
//!    map.
//! 2. Per region, the ranges in flight are kept in a list. A range being read into by a disk overlaps no
//!    other range in flight; a range being written from overlaps only others of its sort.
//! 3. `&mut Memory` methods write only outside all ranges in flight; `&Memory` methods read only outside
//!    ranges a disk reads into. An [`IoBuf`] gives access to its own range only.
//! 4. An [`IoBuf`] that is never handed back keeps its range in flight for ever, and a `Memory` dropped with
//!    ranges in flight leaks what lies under them. So the pointer in an `IoBuf` never dangles.
//!
//! And with memory that a ring has registered: the kernel knows the pages of an [`Arena`] then, not its addresses.
//! Were the mapping taken away and something else mapped there, a transfer to the same address would go to the old
//! pages, and nobody would notice.
//!
//! 5. Only arenas are registered. An arena's mapping is made once, never changed, and taken away when its last
//!    handle goes. Each buffer cut from it has a handle, and so has each ring from before it registers a piece of
//!    it until after it has taken the piece back or is closed. So as long as a ring takes an address for
//!    registered, the same pages are there, whatever is dropped first, and no other memory can have that address.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::error::{Error, ErrorKind, Result};
use crate::parity::{Kernels, Source, Target};

/// Bytes from which on a buffer is a mapping of its own: what is never touched costs nothing then, while an allocator
/// that has to align writes its zeroes. (Smaller ones come and go, and are better used again.)
const MAPPED: usize = 4 << 20;

/// A huge page, in bytes. Mappings of [`MAPPED`] bytes and more are made of them, where the system has some.
const HUGE: usize = 2 << 20;

/// Alignment of memory made here, and the granularity of the pool, in bytes.
pub const ALIGN: usize = 4096;

/// Transfers in flight per region for which room is made at the start.
pub const FLIGHTS: usize = 32;

/// The name of a region of one [`Memory`]. A stale name (of a region since removed) is noticed and panics.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RegionId(u32);

impl RegionId {
    const INDEX_BITS: u32 = 20;

    fn new(index: usize, generation: u32) -> RegionId {
        RegionId(index as u32 | generation << RegionId::INDEX_BITS)
    }

    /// The name as a number, for those who pass names on without looking at them.
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// The name that [`raw`](RegionId::raw) gave. Any other number is a stale name, and noticed as such.
    pub const fn from_raw(raw: u32) -> RegionId {
        RegionId(raw)
    }

    fn index(self) -> usize {
        (self.0 & ((1 << RegionId::INDEX_BITS) - 1)) as usize
    }

    fn generation(self) -> u32 {
        self.0 >> RegionId::INDEX_BITS
    }
}

/// Part of a region.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Span {
    /// The region.
    pub region: RegionId,
    /// From its start, in bytes.
    pub offset: u32,
    /// In bytes.
    pub len: u32,
}

impl Span {
    /// `len` bytes of this span, from `offset` bytes into it.
    ///
    /// # Panics
    /// If that is not inside.
    pub fn part(self, offset: u32, len: u32) -> Span {
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= self.len),
            "part {offset}+{len} of {self:?}"
        );
        Span { region: self.region, offset: self.offset + offset, len }
    }

    fn end(self) -> u32 {
        self.offset + self.len
    }

    fn overlaps(self, other: Span) -> bool {
        self.region == other.region && overlap(self.offset..self.end(), other.offset..other.end())
    }
}

fn overlap(a: std::ops::Range<u32>, b: std::ops::Range<u32>) -> bool {
    a.start.max(b.start) < a.end.min(b.end)
}

// -----------------------------------------------------------------------------------------------------------
// Memory
// -----------------------------------------------------------------------------------------------------------

/// All memory of one queue: regions by name, and a pool.
pub struct Memory {
    /// Tells this memory from others, so that an [`IoBuf`] cannot be handed back to the wrong one.
    id: u64,
    regions: Vec<Region>,
    free: Vec<u32>,
    pool: Pool,
}

struct Region {
    base: NonNull<u8>,
    len: u32,
    writable: bool,
    generation: u32,
    hold: Hold,
    flights: Vec<Flight>,
}

/// Where a region's memory comes from.
enum Hold {
    Vacant,
    Owned(AlignedBuf),
    Lent(Lent),
    Pool { first: usize, blocks: usize },
}

/// A range a disk is working on.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Flight {
    start: u32,
    end: u32,
    /// The disk writes to the memory (it is being read into); else the disk only reads it.
    into: bool,
}

// SAFETY: `Memory` owns what its pointers point to or holds it exclusively (`Lent` is `Send`); nothing in it
// is tied to a thread.
unsafe impl Send for Memory {}
// SAFETY: methods on `&Memory` only read, and only where no `IoBuf` may write (point 3 in the file's head).
unsafe impl Sync for Memory {}

impl Memory {
    /// Room for `max_regions` regions (at most 2^20) and a zeroed pool of `pool_bytes`, rounded up to 4 KiB.
    /// A block of the pool counts as a region while it is allocated.
    ///
    /// # Panics
    /// If `max_regions` is above 2^20 or the pool does not fit the address space.
    pub fn new(max_regions: usize, pool_bytes: usize) -> Memory {
        assert!(max_regions <= 1 << RegionId::INDEX_BITS, "{max_regions} regions are too many");
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let region = |_| Region {
            base: NonNull::dangling(),
            len: 0,
            writable: false,
            generation: 0,
            hold: Hold::Vacant,
            flights: Vec::with_capacity(FLIGHTS),
        };
        Memory {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            regions: (0..max_regions).map(region).collect(),
            free: (0..max_regions as u32).rev().collect(),
            pool: Pool::new(pool_bytes.div_ceil(ALIGN)),
        }
    }

    /// Takes a buffer. `None` (and the buffer is gone) if there is no room ([`Memory::room`]) or it is 4 GiB
    /// or more.
    #[inline(always)]
    pub fn insert_owned(&mut self, mut buf: AlignedBuf) -> Option<RegionId> {
        let len = u32::try_from(buf.len()).ok()?;
        let base = NonNull::from(&mut buf[..]).cast();
        self.insert(base, len, true, Hold::Owned(buf))
    }

    /// Gives back a buffer taken by [`Memory::insert_owned`].
    ///
    /// # Panics
    /// If `region` is not such a one or I/O is in flight on it.
    #[inline(always)]
    pub fn remove_owned(&mut self, region: RegionId) -> AlignedBuf {
        match self.remove(region) {
            Hold::Owned(buf) => buf,
            _ => panic!("{region:?} is not an owned buffer"),
        }
    }

    /// Takes a lent buffer. `None` (and the loan is over) if there is no room or it is 4 GiB or more
    /// ([`Lent::split_at`] makes smaller ones).
    pub fn insert_lent(&mut self, lent: Lent) -> Option<RegionId> {
        let len = u32::try_from(lent.len).ok()?;
        self.insert(lent.base, len, lent.writable, Hold::Lent(lent))
    }

    /// Gives back a buffer taken by [`Memory::insert_lent`].
    ///
    /// # Panics
    /// If `region` is not such a one or I/O is in flight on it.
    pub fn remove_lent(&mut self, region: RegionId) -> Lent {
        match self.remove(region) {
            Hold::Lent(lent) => lent,
            _ => panic!("{region:?} is not a lent buffer"),
        }
    }

    /// Allocates `len` bytes, aligned to 4 KiB, from the pool. Their content is whatever was there before.
    /// `None` if there is no run of free blocks that long, or no room for a region.
    pub fn pool_alloc(&mut self, len: u32) -> Option<RegionId> {
        if self.free.is_empty() {
            return None;
        }
        let blocks = (len as usize).div_ceil(ALIGN).max(1);
        let first = self.pool.take(blocks)?;
        let base = self.pool.block(first);
        self.insert(base, len, true, Hold::Pool { first, blocks })
    }

    /// Gives a block back to the pool.
    ///
    /// # Panics
    /// If `region` is not from the pool or I/O is in flight on it.
    pub fn pool_free(&mut self, region: RegionId) {
        match self.remove(region) {
            Hold::Pool { first, blocks } => self.pool.give(first, blocks),
            _ => panic!("{region:?} is not from the pool"),
        }
    }

    /// Bytes free in the pool; an allocation of that size may still fail if they are scattered.
    pub fn pool_free_bytes(&self) -> usize {
        self.pool.free * ALIGN
    }

    /// The pool's memory, to be [registered](super::Disks::register) by whoever works on it; `None` if it is too small
    /// to be an arena.
    pub fn arena(&self) -> Option<&Arena> {
        self.pool.memory.arena()
    }

    /// How many more regions can be inserted or allocated.
    pub fn room(&self) -> usize {
        self.free.len()
    }

    /// The whole of a region.
    ///
    /// # Panics
    /// If there is no such region.
    pub fn whole(&self, region: RegionId) -> Span {
        Span { region, offset: 0, len: self.region(region).len }
    }

    /// Hands `span` to a disk to read into. Until [`Memory::done`], nobody else may touch it.
    ///
    /// # Panics
    /// If the span is outside its region, lent for reading only, or overlaps a range in flight.
    #[inline(always)]
    pub fn io_read_into(&mut self, span: Span) -> IoBuf {
        let ptr = self.writable(span);
        self.launch(span, ptr, true)
    }

    /// Hands `span` to a disk to write from. Until [`Memory::done`], it may be read, also by other disks, but
    /// not changed.
    ///
    /// # Panics
    /// If the span is outside its region or overlaps a range a disk is reading into.
    #[inline(always)]
    pub fn io_write_from(&mut self, span: Span) -> IoBuf {
        let ptr = self.readable(span);
        self.launch(span, ptr, false)
    }

    /// Takes back what [`Memory::io_read_into`] or [`Memory::io_write_from`] gave: the disk is done with it.
    ///
    /// # Panics
    /// If it belongs to another memory.
    pub fn done(&mut self, buf: IoBuf) {
        assert_eq!(buf.memory, self.id, "a buffer handed back to the wrong memory");
        let flight = buf.flight();
        let flights = &mut self.region_mut(buf.span.region).flights;
        let at =
            flights.iter().position(|&f| f == flight).expect("an IoBuf is in flight until it is handed back");
        flights.swap_remove(at);
    }

    /// Are transfers in flight on `region`?
    pub fn is_busy(&self, region: RegionId) -> bool {
        !self.region(region).flights.is_empty()
    }

    /// Copies `src` to `dst`.
    ///
    /// # Panics
    /// If the lengths differ, the spans overlap, or either is not free for it.
    pub fn copy(&mut self, dst: Span, src: Span) {
        assert_eq!(dst.len, src.len, "copy of unequal lengths");
        assert!(!dst.overlaps(src), "copy of {src:?} onto itself, {dst:?}");
        let (to, from) = (self.writable(dst), self.readable(src));
        // SAFETY: both ranges are inside live regions, `to` is free for writing and `from` for reading, and
        // they do not overlap (other region, or checked above; see point 1 in the file's head).
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), dst.len as usize) };
    }

    /// Fills `span` with zeroes.
    ///
    /// # Panics
    /// If it is not free for writing.
    pub fn zero(&mut self, span: Span) {
        let to = self.writable(span);
        // SAFETY: inside a live region and free for writing.
        unsafe { std::ptr::write_bytes(to.as_ptr(), 0, span.len as usize) };
    }

    /// Copies `span` out.
    ///
    /// # Panics
    /// If the lengths differ or `span` is being read into.
    pub fn read_bytes(&self, span: Span, bytes: &mut [u8]) {
        bytes.copy_from_slice(self.bytes(span));
    }

    /// Copies `bytes` in.
    ///
    /// # Panics
    /// If the lengths differ or `span` is not free for writing.
    pub fn write_bytes(&mut self, span: Span, bytes: &[u8]) {
        self.bytes_mut(span).copy_from_slice(bytes);
    }

    /// The bytes of `span`.
    ///
    /// # Panics
    /// If a disk is reading into it.
    pub fn bytes(&self, span: Span) -> &[u8] {
        let from = self.readable(span);
        // SAFETY: inside a live region; nobody writes there while `self` is borrowed (points 2 and 3).
        unsafe { std::slice::from_raw_parts(from.as_ptr(), span.len as usize) }
    }

    /// The bytes of `span`, to change.
    ///
    /// # Panics
    /// If it is not free for writing.
    pub fn bytes_mut(&mut self, span: Span) -> &mut [u8] {
        let to = self.writable(span);
        // SAFETY: inside a live region; nobody else touches it while `self` is borrowed (points 2 and 3).
        unsafe { std::slice::from_raw_parts_mut(to.as_ptr(), span.len as usize) }
    }

    /// Parity: `dst[i] = sum of coef[i] * span` over `terms`, in GF(2^8), plus what `dst[i]` held if
    /// `accumulate`. `dst` is one or two spans. Works in slices of 16 KiB across all operands, so that both
    /// sums are made while the operands are in the L2 cache.
    ///
    /// # Panics
    /// If lengths differ, `dst` overlaps a term or itself, or a span is not free for its use.
    pub fn fold(
        &mut self,
        kernels: &Kernels,
        dst: &[Span],
        terms: impl IntoIterator<Item = (Span, [u8; 2])>,
        accumulate: bool,
    ) {
        let terms = terms.into_iter();
        // (Room for many takes longer to make than the sum of a small write.)
        match terms.size_hint() {
            (_, Some(0..=4)) => self.fold_by::<4>(kernels, dst, terms, accumulate),
            _ => self.fold_by::<32>(kernels, dst, terms, accumulate),
        }
    }

    /// [`fold`](Memory::fold), up to `GROUP` terms at a time.
    fn fold_by<const GROUP: usize>(
        &mut self,
        kernels: &Kernels,
        dst: &[Span],
        mut terms: impl Iterator<Item = (Span, [u8; 2])>,
        mut accumulate: bool,
    ) {
        let (first, second) = match *dst {
            [p] => (p, None),
            [p, q] => (p, Some(q)),
            _ => panic!("fold onto {} spans", dst.len()),
        };
        let p = self.writable(first);
        let q = second.map(|second| {
            assert!(second.len == first.len && !second.overlaps(first), "fold onto {first:?} and {second:?}");
            self.writable(second)
        });

        let mut group: [(NonNull<u8>, [u8; 2]); GROUP] = [(NonNull::dangling(), [0; 2]); GROUP];
        let mut sources: [Source<'_>; GROUP] = std::array::from_fn(|_| Source { bytes: &[], coef: [0; 2] });
        loop {
            let mut n = 0;
            for (span, coef) in terms.by_ref().take(GROUP) {
                assert_eq!(span.len, first.len, "fold of unequal lengths");
                assert!(dst.iter().all(|&d| !d.overlaps(span)), "fold of {span:?} onto itself, {dst:?}");
                group[n] = (self.readable(span), coef);
                n += 1;
            }
            if n == 0 && accumulate {
                return;
            }
            for (start, len) in slices(first.len as usize) {
                for (source, &(ptr, coef)) in sources.iter_mut().zip(&group[..n]) {
                    // SAFETY: `start + len` is within the span, which is readable while `self` is borrowed;
                    // targets do not overlap it (checked above).
                    let bytes = unsafe { std::slice::from_raw_parts(ptr.as_ptr().add(start), len) };
                    *source = Source { bytes, coef };
                }
                // SAFETY: the same, and the two targets do not overlap each other.
                let part =
                    |at: NonNull<u8>| unsafe { std::slice::from_raw_parts_mut(at.as_ptr().add(start), len) };
                let target = match q {
                    None => Target::One(part(p)),
                    Some(q) => Target::Two(part(p), part(q)),
                };
                kernels.combine(target, &sources[..n], accumulate);
            }
            accumulate = true;
        }
    }

    /// Do two spans hold the same bytes? Spans of unequal length do not.
    ///
    /// # Panics
    /// If a disk is reading into either.
    pub fn equal(&self, a: Span, b: Span) -> bool {
        self.bytes(a) == self.bytes(b)
    }

    /// Do the address and the length of `span` both divide by `align` bytes?
    ///
    /// # Panics
    /// If the span is outside its region.
    pub fn is_aligned(&self, span: Span, align: u32) -> bool {
        let region = self.inside(span);
        let address = region.base.as_ptr().addr() + span.offset as usize;
        align != 0 && address.is_multiple_of(align as usize) && span.len.is_multiple_of(align)
    }
}

/// The rules. Everything above goes through these.
impl Memory {
    fn region(&self, id: RegionId) -> &Region {
        let region = &self.regions[id.index()];
        let live = region.generation == id.generation() && !matches!(region.hold, Hold::Vacant);
        if !live {
            stale(id.0);
        }
        region
    }

    fn region_mut(&mut self, id: RegionId) -> &mut Region {
        self.region(id);
        &mut self.regions[id.index()]
    }

    /// The region of `span`, which lies inside it.
    #[inline(always)]
    fn inside(&self, span: Span) -> &Region {
        let region = self.region(span.region);
        let fits = span.offset.checked_add(span.len).is_some_and(|end| end <= region.len);
        must(fits, span, "is outside its region");
        region
    }

    /// Where `span` is, for reading: no disk is reading into it.
    #[inline(always)]
    fn readable(&self, span: Span) -> NonNull<u8> {
        let region = self.inside(span);
        let range = span.offset..span.end();
        let clear = region.flights.iter().all(|f| !f.into || !overlap(f.start..f.end, range.clone()));
        must(clear, span, "is being read into by a disk");
        region.at(span.offset)
    }

    /// Where `span` is, for writing: it may be written and no disk is working on it.
    #[inline(always)]
    fn writable(&mut self, span: Span) -> NonNull<u8> {
        let region = self.inside(span);
        let range = span.offset..span.end();
        let clear = region.flights.iter().all(|f| !overlap(f.start..f.end, range.clone()));
        must(clear, span, "is in use by a disk");
        must(region.writable, span, "is lent for reading only");
        region.at(span.offset)
    }

    #[inline(always)]
    fn launch(&mut self, span: Span, ptr: NonNull<u8>, into: bool) -> IoBuf {
        let buf = IoBuf { ptr, span, into, memory: self.id };
        self.region_mut(span.region).flights.push(buf.flight());
        buf
    }

    #[inline(always)]
    fn insert(&mut self, base: NonNull<u8>, len: u32, writable: bool, hold: Hold) -> Option<RegionId> {
        let index = self.free.pop()? as usize;
        let region = &mut self.regions[index];
        (region.base, region.len, region.writable, region.hold) = (base, len, writable, hold);
        Some(RegionId::new(index, region.generation))
    }

    #[inline(always)]
    fn remove(&mut self, id: RegionId) -> Hold {
        let region = self.region_mut(id);
        assert!(region.flights.is_empty(), "{id:?} removed with I/O in flight");
        region.generation = (region.generation + 1) % (1 << (32 - RegionId::INDEX_BITS));
        let hold = std::mem::replace(&mut region.hold, Hold::Vacant);
        self.free.push(id.index() as u32);
        hold
    }
}

impl Region {
    fn at(&self, offset: u32) -> NonNull<u8> {
        // SAFETY: the caller has checked that `offset` is at most the length of the region's memory.
        unsafe { self.base.add(offset as usize) }
    }
}

impl Drop for Memory {
    /// Leaks what is in flight: a disk may still touch it.
    fn drop(&mut self) {
        for region in self.regions.iter_mut().filter(|region| !region.flights.is_empty()) {
            match std::mem::replace(&mut region.hold, Hold::Vacant) {
                Hold::Owned(buf) => std::mem::forget(buf),
                Hold::Lent(lent) => std::mem::forget(lent),
                Hold::Pool { .. } => std::mem::forget(std::mem::replace(&mut self.pool, Pool::new(0))),
                Hold::Vacant => {}
            }
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = self.regions.len() - self.free.len();
        write!(
            f,
            "Memory({used} of {} regions, {} pool bytes free)",
            self.regions.len(),
            self.pool_free_bytes()
        )
    }
}

/// Panics unless a rule `holds`.
#[inline(always)]
fn must(holds: bool, span: Span, how: &str) {
    if !holds {
        broken(span.region.0, span.offset, span.len, how);
    }
}

/// A caller broke the rules. Told number by number: a span that is handed on as one, or shown, is kept in memory by all who might.
#[cold]
#[inline(never)]
fn broken(region: u32, offset: u32, len: u32, how: &str) -> ! {
    panic!("{:?} {how}", Span { region: RegionId(region), offset, len })
}

#[cold]
#[inline(never)]
fn stale(region: u32) -> ! {
    panic!("{:?} names no region", RegionId(region))
}

/// The slices of [`Memory::fold`]: start and length in bytes.
fn slices(len: usize) -> impl Iterator<Item = (usize, usize)> {
    const SLICE: usize = 16 * 1024;
    (0..len).step_by(SLICE).map(move |start| (start, SLICE.min(len - start)))
}

// -----------------------------------------------------------------------------------------------------------
// What a disk gets
// -----------------------------------------------------------------------------------------------------------

/// Memory a disk is working on: handed out by [`Memory::io_read_into`] or [`Memory::io_write_from`], given to
/// the disk with the operation, returned with the completion, handed back by [`Memory::done`]. One that is
/// lost instead keeps its memory from being reused or freed for ever.
#[must_use = "hand it to a disk, then back by Memory::done"]
pub struct IoBuf {
    ptr: NonNull<u8>,
    span: Span,
    into: bool,
    memory: u64,
}

// SAFETY: an `IoBuf` is the right to use its range, exclusively if `into`; the range outlives it (point 4).
unsafe impl Send for IoBuf {}
// SAFETY: `&IoBuf` only allows reading.
unsafe impl Sync for IoBuf {}

impl IoBuf {
    /// In bytes.
    pub fn len(&self) -> usize {
        self.span.len as usize
    }

    /// No bytes?
    pub fn is_empty(&self) -> bool {
        self.span.len == 0
    }

    /// What it is a part of.
    pub fn span(&self) -> Span {
        self.span
    }

    /// May the disk write to the memory: is it for reading from the disk?
    pub fn is_into(&self) -> bool {
        self.into
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: live (point 4); with `into` only this value may write there, else nobody may.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len()) }
    }

    /// The bytes, to read into.
    ///
    /// # Panics
    /// If it was made to write from.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        assert!(self.into, "{:?} is for writing from", self.span);
        // SAFETY: live (point 4), and only this value may touch it (point 2).
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len()) }
    }

    /// For the kernel. Valid for [`IoBuf::len`] bytes while this value is kept, also if it moves.
    pub(super) fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    fn flight(&self) -> Flight {
        Flight { start: self.span.offset, end: self.span.end(), into: self.into }
    }
}

impl fmt::Debug for IoBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IoBuf({:?} {}+{})", self.span.region, self.span.offset, self.span.len)
    }
}

// -----------------------------------------------------------------------------------------------------------
// Where memory comes from
// -----------------------------------------------------------------------------------------------------------

/// A stretch of memory that buffers are cut from, or a pool. This is a handle: it keeps the memory where it is, and gives
/// no access to it.
#[derive(Clone)]
pub struct Arena(Arc<Mapping>);

/// Zeroed pages of our own.
struct Mapping {
    base: NonNull<u8>,
    len: usize,
    /// What was mapped; `base` is the first place in it that is aligned.
    mapped: NonNull<u8>,
    mapped_len: usize,
    /// In how large pieces it is registered, in bytes.
    piece: usize,
}

// SAFETY: it owns its pages, and gives no access to them.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Arena {
    /// `len` bytes, not zero, registered whole or in pieces of a power of two.
    fn new(len: usize, piece: usize) -> io::Result<Arena> {
        let huge = len >= MAPPED && !cfg!(miri);
        let slack = if huge { HUGE } else { 0 };
        let mapped_len = len.checked_next_multiple_of(ALIGN).and_then(|len| len.checked_add(slack));
        let mapped_len = mapped_len.ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: a new mapping, wherever the kernel likes.
        let mapped = unsafe {
            mmap_anonymous(null_mut(), mapped_len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
        };
        let mapped = NonNull::new(mapped?.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let skipped = if huge { mapped.as_ptr().align_offset(HUGE).min(slack) } else { 0 };
        // SAFETY: there is that much more than `len`.
        let base = unsafe { mapped.add(skipped) };
        if huge {
            // SAFETY: inside the mapping, which is changed in nothing but how it is made of pages.
            let _ = unsafe { madvise(base.as_ptr().cast(), len, Advice::LinuxHugepage) };
        }
        Ok(Arena(Arc::new(Mapping { base, len, mapped, mapped_len, piece })))
    }

    /// From its first address to behind its last.
    pub(super) fn addresses(&self) -> Range<usize> {
        let start = self.0.base.as_ptr().expose_provenance();
        start..start + self.0.len
    }

    /// In how large pieces it is to be registered: a power of two, at least its length if it is one piece.
    pub(super) fn piece(&self) -> usize {
        self.0.piece
    }

    /// The same memory?
    pub(super) fn is(&self, other: &Arena) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Has everybody else let go of it? Then nobody can take hold of it again.
    pub(super) fn is_left(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Arena({} bytes)", self.0.len)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `Arena::new` with this length; the last handle has gone, and with it all buffers.
        let unmapped = unsafe { munmap(self.mapped.as_ptr().cast(), self.mapped_len) };
        debug_assert!(unmapped.is_ok(), "a mapping of our own");
    }
}

/// A buffer of its own: zeroed when made, aligned to 4096 bytes, a multiple of 512 bytes long.
pub struct AlignedBuf {
    ptr: NonNull<u8>,
    len: usize,
    /// Where the memory is; `None` if it is the allocator's.
    arena: Option<Arena>,
}

// SAFETY: it owns its memory, like a `Box<[u8]>`.
unsafe impl Send for AlignedBuf {}
// SAFETY: as above.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// A zeroed buffer of `len` bytes, rounded up to 512.
    ///
    /// # Panics
    /// If that does not fit the address space. Running out of memory aborts, as everywhere.
    pub fn new(len: usize) -> AlignedBuf {
        let len = len.checked_next_multiple_of(512).expect("a buffer fits the address space");
        if len == 0 {
            return AlignedBuf { ptr: NonNull::<Page>::dangling().cast(), len, arena: None };
        }
        let layout = AlignedBuf::layout(len);
        if len >= MAPPED {
            let Ok(arena) = Arena::new(len, HUGE) else { handle_alloc_error(layout) };
            return AlignedBuf { ptr: arena.0.base, len, arena: Some(arena) };
        }
        // SAFETY: the layout is not of size zero.
        let ptr = unsafe { alloc_zeroed(layout) };
        let ptr = NonNull::new(ptr).unwrap_or_else(|| handle_alloc_error(layout));
        AlignedBuf { ptr, len, arena: None }
    }

    /// `count` zeroed buffers of `len` bytes, rounded up to 512, cut from one [`Arena`]. Its memory is given back when the
    /// last of them, and of the rings that have [registered](super::Disks::register) it, is gone.
    ///
    /// # Errors
    /// [`Usage`](ErrorKind::Usage) if that does not fit the address space, [`Io`](ErrorKind::Io) if the system has no memory.
    pub fn several(count: usize, len: usize) -> Result<Vec<AlignedBuf>> {
        let each = len.checked_next_multiple_of(512);
        let step = each.and_then(|each| each.checked_next_multiple_of(ALIGN));
        let whole =
            step.and_then(|step| step.checked_mul(count)).filter(|&whole| whole <= isize::MAX as usize / 2);
        let (Some(len), Some(step), Some(whole)) = (each, step, whole) else {
            let text = format!("{count} buffers of {len} bytes do not fit the address space");
            return Err(Error::new(ErrorKind::Usage, text));
        };
        if whole == 0 {
            return Ok((0..count).map(|_| AlignedBuf::new(0)).collect());
        }
        let arena = Arena::new(whole, whole.next_power_of_two()).map_err(|error| {
            let text = format!("no memory for {count} buffers of {len} bytes: {error}");
            Error::new(ErrorKind::Io, text).with_source(error)
        })?;
        let cut = |index| {
            // SAFETY: `index` is below `count`, so that this and the `len` bytes after it are inside.
            let ptr = unsafe { arena.0.base.add(index * step) };
            AlignedBuf { ptr, len, arena: Some(arena.clone()) }
        };
        Ok((0..count).map(cut).collect())
    }

    /// What it is cut from; `None` if it is memory of the allocator's.
    pub fn arena(&self) -> Option<&Arena> {
        self.arena.as_ref()
    }

    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len, ALIGN).expect("a buffer fits the address space")
    }
}

/// Gives dangling pointers of empty buffers their alignment.
#[repr(align(4096))]
struct Page;

const _: () = assert!(align_of::<Page>() == ALIGN);

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // (What is an arena's goes with its last handle.)
        if self.arena.is_none() && self.len > 0 {
            // SAFETY: allocated in `new` with this layout.
            unsafe { dealloc(self.ptr.as_ptr(), AlignedBuf::layout(self.len)) };
        }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: owned, initialised, `len` bytes long.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: owned, initialised, `len` bytes long.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.len)
    }
}

/// A buffer lent for the length of a [`lend`] or [`lend_const`]. It can be given to a [`Memory`] of any
/// thread, but must be back (dropped, or removed and dropped) before the closure ends.
pub struct Lent {
    base: NonNull<u8>,
    len: usize,
    writable: bool,
    /// How many are out; lives in the frame of `lend`, which does not end before it is zero.
    out: NonNull<AtomicUsize>,
}

// SAFETY: a `Lent` is the right to use its bytes, exclusively if writable; both are `Send`, and its count is
// atomic.
unsafe impl Send for Lent {}
// SAFETY: `&Lent` gives no access to the bytes.
unsafe impl Sync for Lent {}

impl Lent {
    /// In bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// No bytes?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Two loans: the first `at` bytes and the rest.
    ///
    /// # Panics
    /// If there are fewer than `at` bytes.
    pub fn split_at(self, at: usize) -> (Lent, Lent) {
        assert!(at <= self.len, "split of {} bytes at {at}", self.len);
        // SAFETY: the counter lives as long as any loan, and `self` is one.
        unsafe { self.out.as_ref() }.fetch_add(1, Ordering::Relaxed);
        // SAFETY: `at` is at most the length.
        let base = unsafe { self.base.add(at) };
        let rest = Lent { base, len: self.len - at, writable: self.writable, out: self.out };
        let mut first = self;
        first.len = at;
        (first, rest)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // SAFETY: the counter lives as long as any loan, and until this `fetch_sub` `self` is one. `Release`:
        // all use of the bytes comes before it.
        unsafe { self.out.as_ref() }.fetch_sub(1, Ordering::Release);
    }
}

impl fmt::Debug for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lent({} bytes{})", self.len, if self.writable { "" } else { ", read only" })
    }
}

/// Lends `bytes` to whatever `f` drives, without copying them. If the loan is still out when `f` returns or
/// unwinds (given to a thread that has not dropped it, or in flight), waits for it up to ten seconds and then
/// **aborts the process**: the memory is about to be used by its owner again.
pub fn lend<R>(bytes: &mut [u8], f: impl FnOnce(Lent) -> R) -> R {
    let scope = Scope { out: AtomicUsize::new(1), bytes: PhantomData };
    let base = NonNull::from(&mut *bytes).cast();
    f(Lent { base, len: bytes.len(), writable: true, out: NonNull::from(&scope.out) })
}

/// Like [`lend`], for reading only: the [`Memory`] that takes it refuses to change it.
pub fn lend_const<R>(bytes: &[u8], f: impl FnOnce(Lent) -> R) -> R {
    let scope = Scope { out: AtomicUsize::new(1), bytes: PhantomData };
    let base = NonNull::from(bytes).cast();
    f(Lent { base, len: bytes.len(), writable: false, out: NonNull::from(&scope.out) })
}

/// Lives in the frame of [`lend`]; its end is the end of the loan.
struct Scope<'a> {
    out: AtomicUsize,
    bytes: PhantomData<&'a mut [u8]>,
}

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        const PATIENCE: Duration = Duration::from_secs(10);
        const PAUSE: Duration = Duration::from_millis(1);
        let mut waited = Duration::ZERO;
        // A thread that has just said "done" may be about to drop its loan: wait for that.
        while self.out.load(Ordering::Acquire) != 0 {
            if waited >= PATIENCE {
                std::process::abort();
            }
            std::thread::sleep(PAUSE);
            waited += PAUSE;
        }
    }
}

/// Blocks of 4 KiB in one buffer, with a bit for each. Takes the first run of free blocks that is long
/// enough and within one word of bits, or else the first of all. A word or two are looked at in the usual case, all of them (a
/// bit per 4 KiB) in the worst.
struct Pool {
    memory: AlignedBuf,
    /// A set bit is a free block.
    map: Vec<u64>,
    blocks: usize,
    free: usize,
    /// No block below is free.
    lowest: usize,
}

impl Pool {
    fn new(blocks: usize) -> Pool {
        let bytes = blocks.checked_mul(ALIGN).expect("the pool fits the address space");
        let mut map = vec![u64::MAX; blocks.div_ceil(64)];
        if let (Some(last), 1..) = (map.last_mut(), blocks % 64) {
            *last = (1 << (blocks % 64)) - 1;
        }
        Pool { memory: AlignedBuf::new(bytes), map, blocks, free: blocks, lowest: 0 }
    }

    fn block(&self, block: usize) -> NonNull<u8> {
        // SAFETY: `block` came from `take` and is inside.
        unsafe { self.memory.ptr.add(block * ALIGN) }
    }

    /// The first of `count` adjoining blocks, now taken.
    fn take(&mut self, count: usize) -> Option<usize> {
        if count > self.free {
            return None;
        }
        // A low one: what was used last is still in the caches, what was never used need not exist.
        let lowest = self.next_with(self.lowest, true)?;
        let first = self.find(lowest, count)?;
        self.mark(first, count, false);
        self.free -= count;
        self.lowest = if first == lowest { first + count } else { lowest };
        Some(first)
    }

    fn give(&mut self, first: usize, count: usize) {
        self.mark(first, count, true);
        self.free += count;
        self.lowest = self.lowest.min(first);
    }

    /// A run of `count` free blocks that starts at `from` or later: the first within a word of the map, or else the first.
    fn find(&self, from: usize, count: usize) -> Option<usize> {
        if count <= 64 {
            // (Nothing below `from` is free.)
            for (i, &word) in self.map.iter().enumerate().skip(from / 64) {
                let starts = starts_of_runs(word, count as u32);
                if starts != 0 {
                    return Some(i * 64 + starts.trailing_zeros() as usize);
                }
            }
        }
        let mut start = self.next_with(from, true)?;
        while start + count <= self.blocks {
            let end = self.next_with(start, false).unwrap_or(self.blocks);
            if end - start >= count {
                return Some(start);
            }
            start = self.next_with(end, true)?;
        }
        None
    }

    /// The first block from `from` up that is free, or that is not.
    fn next_with(&self, from: usize, free: bool) -> Option<usize> {
        let flip = if free { 0 } else { u64::MAX };
        let mut mask = u64::MAX << (from % 64);
        for (i, word) in self.map.iter().enumerate().skip(from / 64) {
            let hits = (word ^ flip) & mask;
            if hits != 0 {
                return Some(i * 64 + hits.trailing_zeros() as usize);
            }
            mask = u64::MAX;
        }
        None
    }

    fn mark(&mut self, first: usize, count: usize, free: bool) {
        let (mut at, end) = (first, first + count);
        while at < end {
            let n = (64 - at % 64).min(end - at);
            let bits = (u64::MAX >> (64 - n)) << (at % 64);
            let word = &mut self.map[at / 64];
            debug_assert_eq!(*word & bits, if free { 0 } else { bits }, "block taken or given twice");
            if free {
                *word |= bits;
            } else {
                *word &= !bits;
            }
            at += n;
        }
    }
}

/// The bits of `word` at which `count` ones in a row begin, upward; 1 to 64.
fn starts_of_runs(word: u64, count: u32) -> u64 {
    let (mut starts, mut run) = (word, 1);
    while run < count {
        let more = run.min(count - run);
        starts &= starts >> more;
        run += more;
    }
    starts
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn panics(f: impl FnOnce()) -> bool {
        catch_unwind(AssertUnwindSafe(f)).is_err()
    }

    fn memory() -> (Memory, RegionId) {
        let mut memory = Memory::new(4, 4 * ALIGN);
        let region = memory.insert_owned(AlignedBuf::new(8192)).unwrap();
        (memory, region)
    }

    fn span(region: RegionId, offset: u32, len: u32) -> Span {
        Span { region, offset, len }
    }

    #[test]
    fn owned_buffers_are_aligned_zeroed_and_come_back() {
        let (mut memory, region) = memory();
        memory.write_bytes(span(region, 100, 5), b"hello");
        let mut bytes = [1; 7];
        memory.read_bytes(span(region, 99, 7), &mut bytes);
        assert_eq!(&bytes, b"\0hello\0");
        assert!(memory.is_aligned(memory.whole(region), 4096));
        assert!(!memory.is_aligned(span(region, 512, 512), 4096));
        let buf = memory.remove_owned(region);
        assert_eq!((&buf[100..105], buf.len()), (&b"hello"[..], 8192));
        assert!(panics(|| memory.zero(span(region, 0, 1))), "a stale name is noticed");
        assert!(AlignedBuf::new(0).is_empty());
    }

    #[test]
    fn buffers_of_an_arena_are_apart_and_keep_it() {
        let mut buffers = AlignedBuf::several(3, 1000).unwrap();
        for (buffer, fill) in buffers.iter_mut().zip(1..) {
            assert!(buffer.len() == 1024 && buffer.as_ptr().addr().is_multiple_of(ALIGN));
            assert!(buffer.iter().all(|&byte| byte == 0));
            buffer.fill(fill);
        }
        let arena = buffers[0].arena().unwrap().clone();
        let range = arena.addresses();
        assert_eq!(range.len(), 3 * ALIGN);
        assert!(buffers.iter().all(|buffer| range.contains(&buffer.as_ptr().addr())));
        let last = buffers.pop().unwrap();
        drop(buffers);
        assert!(!arena.is_left() && last.iter().all(|&byte| byte == 3));
        drop(last);
        assert!(arena.is_left());
        assert!(AlignedBuf::several(0, 512).unwrap().is_empty());
        assert!(AlignedBuf::several(2, 0).unwrap().iter().all(|buffer| buffer.is_empty()));
        for (count, len) in [(usize::MAX, 4096), (2, usize::MAX), (1 << 40, 1 << 40)] {
            assert_eq!(AlignedBuf::several(count, len).unwrap_err().kind(), ErrorKind::Usage);
        }
        let large = AlignedBuf::new(MAPPED);
        let arena = large.arena().unwrap();
        assert!(cfg!(miri) || arena.addresses().start.is_multiple_of(HUGE));
        assert!(Memory::new(1, MAPPED).arena().is_some() && Memory::new(1, ALIGN).arena().is_none());
    }

    #[test]
    fn a_range_read_into_is_untouchable() {
        let (mut memory, region) = memory();
        let mut buf = memory.io_read_into(span(region, 512, 512));
        assert!(panics(|| memory.read_bytes(span(region, 1023, 1), &mut [0])));
        assert!(panics(|| memory.zero(span(region, 0, 513))));
        assert!(panics(|| drop(memory.io_write_from(span(region, 512, 1)))));
        assert!(panics(|| drop(memory.io_read_into(span(region, 1000, 100)))));
        assert!(panics(|| drop(memory.remove_owned(region))));
        memory.zero(span(region, 0, 512));
        memory.zero(span(region, 1024, 512));
        buf.bytes_mut().fill(7);
        memory.done(buf);
        assert_eq!(memory.bytes(span(region, 511, 2)), [0, 7]);
        memory.remove_owned(region);
    }

    #[test]
    fn a_range_written_from_may_be_read_only() {
        let (mut memory, region) = memory();
        memory.bytes_mut(span(region, 0, 512)).fill(3);
        let one = memory.io_write_from(span(region, 0, 512));
        let mut two = memory.io_write_from(span(region, 0, 512));
        assert_eq!(memory.bytes(span(region, 0, 1)), one.bytes().get(..1).unwrap());
        assert!(panics(|| memory.zero(span(region, 0, 1))));
        assert!(panics(|| {
            two.bytes_mut();
        }));
        memory.done(one);
        assert!(panics(|| memory.zero(span(region, 0, 1))), "the other one is still out");
        memory.done(two);
        memory.zero(span(region, 0, 1));
    }

    #[test]
    fn spans_outside_and_foreign_buffers_are_noticed() {
        let (mut memory, region) = memory();
        assert!(panics(|| drop(memory.io_read_into(span(region, 8000, 500)))));
        assert!(panics(|| memory.zero(span(region, u32::MAX, 2))));
        assert!(panics(|| memory.copy(span(region, 0, 100), span(region, 50, 100))));
        let mut other = Memory::new(1, ALIGN);
        let theirs = other.pool_alloc(512).unwrap();
        let buf = other.io_write_from(span(theirs, 0, 512));
        assert!(panics(|| memory.done(buf)));
        assert!(panics(|| other.pool_free(theirs)), "its buffer was lost, it stays");
    }

    #[test]
    fn lending_ends_with_the_closure() {
        let mut bytes = vec![1; 1024];
        let mut memory = Memory::new(2, ALIGN);
        lend(&mut bytes, |lent| {
            let (head, tail) = lent.split_at(512);
            let head = memory.insert_lent(head).unwrap();
            let tail = memory.insert_lent(tail).unwrap();
            memory.zero(memory.whole(head));
            assert!(memory.equal(span(head, 0, 2), span(head, 2, 2)));
            assert!(!memory.equal(span(head, 0, 2), span(tail, 0, 2)));
            drop((memory.remove_lent(head), memory.remove_lent(tail)));
        });
        assert_eq!((bytes[511], bytes[512]), (0, 1));

        lend_const(&bytes, |lent| {
            let region = memory.insert_lent(lent).unwrap();
            let whole = memory.whole(region);
            assert!(panics(|| memory.zero(whole)) && panics(|| drop(memory.io_read_into(whole))));
            let buf = memory.io_write_from(whole);
            memory.done(buf);
            drop(memory.remove_lent(region));
        });
        assert!(panics(|| lend(&mut bytes, |_lent| panic!("unwinds"))));
    }

    #[test]
    fn a_loan_may_end_on_another_thread() {
        let mut bytes = vec![0; 512];
        std::thread::scope(|scope| {
            lend(&mut bytes, |lent| {
                scope.spawn(move || {
                    let mut memory = Memory::new(1, 0);
                    let region = memory.insert_lent(lent).unwrap();
                    memory.bytes_mut(memory.whole(region)).fill(9);
                });
            });
        });
        assert!(bytes.iter().all(|&b| b == 9));
    }

    #[test]
    fn pool_gives_disjoint_blocks_and_takes_them_back() {
        let mut memory = Memory::new(100, 70 * ALIGN);
        let mut live: Vec<(RegionId, u8)> = Vec::new();
        let mut seed = 1u32;
        for round in 0..400u32 {
            seed = seed.wrapping_mul(1664525).wrapping_add(1013904223);
            let len = 1 + (seed >> 8) % (9 * ALIGN as u32);
            match memory.pool_alloc(len) {
                Some(region) if seed >> 28 != 0 => {
                    let whole = memory.whole(region);
                    assert!(memory.is_aligned(span(region, 0, 0), ALIGN as u32));
                    memory.bytes_mut(whole).fill(round as u8);
                    live.push((region, round as u8));
                }
                Some(region) => memory.pool_free(region),
                None => {
                    let (region, fill) = live.swap_remove(seed as usize % live.len());
                    assert!(memory.bytes(memory.whole(region)).iter().all(|&b| b == fill));
                    memory.pool_free(region);
                }
            }
        }
        for (region, fill) in live {
            assert!(memory.bytes(memory.whole(region)).iter().all(|&b| b == fill));
            memory.pool_free(region);
        }
        assert_eq!(memory.pool_free_bytes(), 70 * ALIGN);
        assert!(memory.pool_alloc(70 * ALIGN as u32).is_some(), "all in one piece again");
        assert!(memory.pool_alloc(1).is_none() && memory.room() == 99);
    }

    #[test]
    fn runs_are_found_wherever_they_begin() {
        let mut word = 0x9E37_79B9_7F4A_7C15u64;
        for _ in 0..200 {
            word = word.rotate_left(7).wrapping_mul(5) | word >> 3;
            for count in [1, 2, 3, 5, 8, 13, 33, 63, 64] {
                let all_ones = |at: u32| (at..at + count).all(|bit| bit < 64 && word >> bit & 1 == 1);
                let starts = (0..64).filter(|&at| all_ones(at)).fold(0, |starts, at| starts | 1u64 << at);
                assert_eq!(starts_of_runs(word, count), starts, "{count} in {word:x}");
            }
        }
        // And of those that no word has, over the end of one.
        let mut pool = Pool::new(192);
        assert_eq!((pool.take(60), pool.take(1), pool.take(64)), (Some(0), Some(60), Some(64)));
        pool.give(0, 60);
        assert_eq!((pool.take(58), pool.take(62), pool.take(5)), (Some(0), Some(128), None));
        pool.give(64, 64);
        assert_eq!((pool.take(66), pool.take(3), pool.take(2)), (Some(61), None, Some(58)));
    }

    #[test]
    fn memory_in_flight_outlives_its_memory() {
        let mut memory = Memory::new(2, ALIGN);
        let pool = memory.pool_alloc(512).unwrap();
        let owned = memory.insert_owned(AlignedBuf::new(512)).unwrap();
        let mut a = memory.io_read_into(span(pool, 0, 512));
        let mut b = memory.io_read_into(span(owned, 0, 512));
        drop(memory);
        a.bytes_mut().fill(1);
        b.bytes_mut().fill(2);
        assert_eq!((a.bytes()[511], b.bytes()[511]), (1, 2));
    }

    /// Over many lengths and more terms than fit a group, against the sum byte by byte.
    #[test]
    fn fold_is_the_sum_of_its_terms() {
        let lens: &[u32] = if cfg!(miri) { &[0, 512, 17000] } else { &[0, 512, 4096, 16384, 16896, 65536] };
        for &len in lens {
            for (terms, accumulate) in
                [(0, false), (1, true), (2, false), (4, true), (5, false), (33, true), (64, false)]
            {
                if cfg!(miri) && terms > 33 {
                    continue;
                }
                check_fold(len, terms, accumulate);
            }
        }
    }

    fn check_fold(len: u32, terms: u32, accumulate: bool) {
        let mut memory = Memory::new(3, 0);
        let data = memory.insert_owned(AlignedBuf::new((len * terms) as usize)).unwrap();
        let sums = memory.insert_owned(AlignedBuf::new(2 * len as usize)).unwrap();
        for (i, byte) in memory.bytes_mut(memory.whole(data)).iter_mut().enumerate() {
            *byte = (i * 7 + i / 251) as u8;
        }
        memory.bytes_mut(memory.whole(sums)).fill(0x5a);
        let list: Vec<(Span, [u8; 2])> =
            (0..terms).map(|i| (span(data, i * len, len), [1, 1 + (i as u8 & 1)])).collect();
        let (p, q) = (span(sums, 0, len), span(sums, len, len));
        memory.fold(&Kernels::portable(), &[p, q], list.iter().copied(), accumulate);
        let base = if accumulate { 0x5a } else { 0 };
        let double = |b: u8| b << 1 ^ if b & 0x80 != 0 { 0x1d } else { 0 };
        for at in 0..len {
            let byte = |i: u32| memory.bytes(span(data, i * len + at, 1))[0];
            let want_p = (0..terms).fold(base, |sum, i| sum ^ byte(i));
            let want_q =
                (0..terms).fold(base, |sum, i| sum ^ if i & 1 == 1 { double(byte(i)) } else { byte(i) });
            assert_eq!(memory.bytes(span(p.region, at, 1))[0], want_p, "P {len} {terms} {at}");
            assert_eq!(memory.bytes(span(q.region, len + at, 1))[0], want_q, "Q {len} {terms} {at}");
        }
        if terms == 0 && len > 0 {
            let onto = (p, [1, 0]);
            assert!(panics(|| memory.fold(&Kernels::portable(), &[p], [onto], true)), "onto itself");
        }
        memory.fold(&Kernels::portable(), &[p], list, true);
    }
}
