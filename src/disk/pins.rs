//! Memory that a ring has registered: which transfer may name it by its number.
//!
//! Of a transfer with direct I/O on a fast disk, a good part is that the kernel finds the pages of its memory, pins them,
//! and lets go of them at the end. Registered memory is pinned once. Whole pieces of an [`Arena`] are registered when they
//! are first used: of a pool that is what is in use, since it gives out the lowest place that is free.
//!
//! Promises. What [`Pins::find`] gives is registered, and lies at the address it was asked for (why that is so: point 5 in the
//! head of [`buffers`](super::buffers)). No more than [`MOST_PINNED`] bytes are pinned for a ring, and for all of the process no
//! more than a quarter of what the system lets it lock: rings themselves are counted there, too, and one that cannot be made
//! costs more than pins save. Whatever is refused stays unregistered, and is not asked for again. No allocation but in
//! [`Pins::add`], and when the first piece is registered.
//!
//! Needs Linux 5.19. (There is a second reason not to try on older ones: of those, some gave a process another page in place of
//! one that was pinned, when memory was short.) Refuses to know: disks, and what is transferred.
#![allow(unsafe_code)]

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use io_uring::{Probe, Submitter, opcode};
use rustix::process::{Resource, getrlimit};

use super::Arena;

/// Most bytes that a queue pins.
pub const MOST_PINNED: usize = 64 << 20;

/// Pieces registered at a time.
const TABLE: u32 = 64;

/// Arenas known at a time: each is looked at for each transfer.
const MOST_ARENAS: usize = 8;

#[derive(Default)]
pub(super) struct Pins {
    areas: Vec<Area>,
    /// A set bit is a place in the ring's table that is taken.
    taken: u64,
    /// In bytes.
    pinned: usize,
    table: Table,
    /// The kernel takes several buffers of one place in one transfer (6.15).
    vectors: bool,
}

/// The ring's table.
#[derive(Default, PartialEq)]
enum Table {
    /// Nobody has needed it yet.
    #[default]
    None,
    Made,
    Refused,
}

struct Area {
    /// Keeps the memory where it is. Goes after its pieces were taken out of the table, or the ring is closed.
    arena: Arena,
    /// Of the arena: its addresses.
    start: usize,
    end: usize,
    /// A piece is two to this power bytes.
    shift: u32,
    pieces: Vec<Piece>,
}

#[derive(Clone, Copy, PartialEq)]
enum Piece {
    Unused,
    /// In this place of the table.
    Pinned(u16),
    Refused,
}

impl Pins {
    /// Memory that is worth registering once it is used. The longest known ones stay if there are too many.
    pub(super) fn add(&mut self, submitter: &Submitter<'_>, arena: &Arena) {
        if self.areas.iter().any(|area| area.arena.is(arena)) {
            return;
        }
        self.let_go(submitter);
        if self.areas.len() >= MOST_ARENAS {
            return;
        }
        let addresses = arena.addresses();
        self.areas.push(Area {
            start: addresses.start,
            end: addresses.end,
            shift: arena.piece().trailing_zeros(),
            pieces: vec![Piece::Unused; addresses.len().div_ceil(arena.piece())],
            arena: arena.clone(),
        });
    }

    /// The number by which the ring knows the memory at `ptr`, all `len` bytes of it; registers it if need be.
    pub(super) fn find(&mut self, submitter: &Submitter<'_>, ptr: *const u8, len: usize) -> Option<u16> {
        let (start, end) = (ptr.addr(), ptr.addr() + len);
        let area = self.areas.iter_mut().position(|area| area.start <= start && end <= area.end)?;
        let Area { start: base, shift, ref pieces, .. } = self.areas[area];
        let piece = (start - base) >> shift;
        if (end - base).saturating_sub(1) >> shift != piece {
            return None;
        }
        match *pieces.get(piece)? {
            Piece::Pinned(place) => Some(place),
            Piece::Unused => self.pin(submitter, area, piece),
            Piece::Refused => None,
        }
    }

    /// May a transfer of several buffers name the place that they all lie in?
    pub(super) fn are_for_vectors(&mut self, submitter: &Submitter<'_>) -> bool {
        if self.areas.is_empty() {
            return false;
        }
        self.make_table(submitter);
        self.vectors
    }

    fn make_table(&mut self, submitter: &Submitter<'_>) {
        if self.table != Table::None {
            return;
        }
        let made = submitter.register_buffers_sparse(TABLE).is_ok();
        self.table = if made { Table::Made } else { Table::Refused };
        let mut probe = Probe::new();
        self.vectors = made
            && submitter.register_probe(&mut probe).is_ok()
            && probe.is_supported(opcode::ReadvFixed::CODE)
            && probe.is_supported(opcode::WritevFixed::CODE);
    }

    #[cold]
    fn pin(&mut self, submitter: &Submitter<'_>, area: usize, piece: usize) -> Option<u16> {
        self.make_table(submitter);
        let area = &mut self.areas[area];
        let (start, len) = area.place(piece);
        let place = self.taken.trailing_ones();
        let fits =
            self.table == Table::Made && place < TABLE && len <= MOST_PINNED - self.pinned && reserve(len);
        // SAFETY: the arena, whose memory that is, is kept until the piece is taken out of the table.
        let pinned = fits && unsafe { set(submitter, place, start, len) }.is_ok();
        if !pinned {
            PINNED.fetch_sub(if fits { len } else { 0 }, Relaxed);
            area.pieces[piece] = Piece::Refused;
            return None;
        }
        self.taken |= 1 << place;
        self.pinned += len;
        area.pieces[piece] = Piece::Pinned(place as u16);
        Some(place as u16)
    }

    /// Lets go of memory that nobody uses any more.
    fn let_go(&mut self, submitter: &Submitter<'_>) {
        let Pins { taken, pinned, .. } = self;
        self.areas.retain_mut(|area| {
            // (Nothing of it is in flight: that would have a handle.)
            if !area.arena.is_left() {
                return true;
            }
            let mut left = false;
            for piece in 0..area.pieces.len() {
                let Piece::Pinned(place) = area.pieces[piece] else { continue };
                // SAFETY: no memory is registered, but a place made empty.
                match unsafe { set(submitter, place.into(), 0, 0) } {
                    Ok(()) => {
                        *taken &= !(1 << place);
                        let len = area.place(piece).1;
                        *pinned -= len;
                        PINNED.fetch_sub(len, Relaxed);
                        area.pieces[piece] = Piece::Refused;
                    }
                    Err(_) => left = true,
                }
            }
            left
        });
    }

    /// Takes everything back at once; a closed ring lets go some time later. Nothing is in flight.
    pub(super) fn end(&mut self, submitter: &Submitter<'_>) {
        if self.table == Table::Made {
            let _ = submitter.unregister_buffers();
        }
    }

    #[cfg(test)]
    pub(super) fn pinned(&self) -> usize {
        self.pinned
    }
}

impl Drop for Pins {
    /// The ring is closed.
    fn drop(&mut self) {
        PINNED.fetch_sub(self.pinned, Relaxed);
    }
}

/// Bytes that all rings of this process have pinned.
static PINNED: AtomicUsize = AtomicUsize::new(0);

/// Counts `len` bytes more as pinned, if there may be so many.
fn reserve(len: usize) -> bool {
    static MOST: OnceLock<usize> = OnceLock::new();
    let most = *MOST.get_or_init(|| if locks_freely() { usize::MAX } else { lockable() / 4 });
    let more = |pinned: usize| pinned.checked_add(len).filter(|&sum| sum <= most);
    PINNED.fetch_update(Relaxed, Relaxed, more).is_ok()
}

/// Bytes that this user may lock.
fn lockable() -> usize {
    let limit = getrlimit(Resource::Memlock).current;
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Is what this process locks not counted? So it is for root, unless that is only a container's, or without `CAP_IPC_LOCK`.
fn locks_freely() -> bool {
    const IPC_LOCK: u64 = 1 << 14;
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    let status = read("status");
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = capabilities.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    let is_everybodys = read("uid_map").split_whitespace().eq(["0", "0", "4294967295"]);
    is_everybodys && capabilities.is_some_and(|set| set & IPC_LOCK != 0)
}

impl Area {
    /// Address and length of a piece.
    fn place(&self, piece: usize) -> (usize, usize) {
        let start = self.start + (piece << self.shift);
        (start, (self.end - start).min(1 << self.shift))
    }
}

/// Puts memory into a place of the table, or takes out what is there.
///
/// # Safety
/// The memory stays mapped, and what it is, until it is taken out again or the ring is closed.
unsafe fn set(submitter: &Submitter<'_>, place: u32, start: usize, len: usize) -> io::Result<()> {
    let memory = libc::iovec { iov_base: std::ptr::with_exposed_provenance_mut(start), iov_len: len };
    // SAFETY: as the caller promises.
    unsafe { submitter.register_buffers_update(place, &[memory], None) }
}
