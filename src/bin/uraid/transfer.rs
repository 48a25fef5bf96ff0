//! Moving bytes through the program: while one side fills a buffer, the other empties the one before.
//!
//! Buffers are page-aligned, and the pieces they carry end on whole stripes wherever the LU allows, so that
//! neither side makes the engine copy bytes or read what it is about to overwrite.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use uraid::ErrorKind;
use uraid::lu::Status;

use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;

/// Alignment of buffers in memory, and of pieces where nothing better is known.
const ALIGN: usize = 4096;
/// Pieces are about this long, in bytes.
const PIECE: u64 = 4 << 20;
/// No longer than this, in bytes, however wide the stripes are.
const LONGEST_PIECE: u64 = 32 << 20;

/// Two: one is filled while the other is emptied.
const BUFFERS: usize = 2;

/// Bytes with an aligned start.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    capacity: usize,
    filled: usize,
}

impl Buffer {
    /// Room for `capacity` bytes.
    pub(crate) fn new(capacity: usize) -> Buffer {
        let bytes = vec![0; capacity + ALIGN];
        // `align_offset` may decline, by a number beyond any buffer; unaligned is merely slower.
        let start = bytes.as_ptr().align_offset(ALIGN).min(ALIGN);
        Buffer { bytes, start, capacity, filled: 0 }
    }

    /// All of the room.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.capacity]
    }

    /// What was put in.
    pub(crate) fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.filled]
    }
}

/// The length of pieces for the LU of `status`, in bytes.
///
/// Of n slots n, n - 1 or n - 2 carry data, whatever the level. A multiple of all three, times the chunk, is
/// a whole number of stripes without asking which it is.
pub(crate) fn piece_bytes(status: &Status) -> u64 {
    let slots =
        status.members.iter().filter_map(|member| member.slot).max().map_or(1, |last| u64::from(last) + 1);
    let data = [slots, slots.saturating_sub(1), slots.saturating_sub(2)];
    let stripes = data.into_iter().filter(|data| *data > 0).fold(1, least_common_multiple);
    let unit = stripes.saturating_mul(status.chunk_bytes.max(ALIGN as u64));
    match unit {
        0..=PIECE => PIECE / unit.max(1) * unit,
        unit if unit <= LONGEST_PIECE => unit,
        _ => PIECE,
    }
}

fn least_common_multiple(a: u64, b: u64) -> u64 {
    let (mut divisor, mut rest) = (a, b);
    while rest > 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    (a / divisor).saturating_mul(b)
}

/// How long the piece at `at` is if pieces are `piece` bytes long, begin at multiples of that, and nothing
/// goes beyond `end`.
pub(crate) fn piece_at(at: u64, end: u64, piece: u64) -> usize {
    // A piece fits a buffer, so it fits memory.
    end.saturating_sub(at).min(piece - at % piece) as usize
}

/// The side that fills buffers.
pub(crate) struct Filler {
    empty: Receiver<Buffer>,
    full: SyncSender<Outcome<Buffer>>,
}

/// The side that empties them.
pub(crate) struct Drainer {
    full: Receiver<Outcome<Buffer>>,
    empty: SyncSender<Buffer>,
}

/// Both sides, and buffers of `capacity` bytes that go round between them.
pub(crate) fn sides(capacity: usize) -> (Filler, Drainer) {
    let (give_full, full) = sync_channel(BUFFERS);
    let (give_empty, empty) = sync_channel(BUFFERS);
    for _ in 0..BUFFERS {
        // Cannot fail: the other end is in scope.
        let _ = give_empty.send(Buffer::new(capacity));
    }
    (Filler { empty, full: give_full }, Drainer { full, empty: give_empty })
}

impl Filler {
    /// Lets `fill` fill buffers until it puts nothing in, fails, or nobody empties them any more.
    pub(crate) fn run(self, mut fill: impl FnMut(&mut [u8]) -> Outcome<usize>) {
        while let Ok(mut buffer) = self.empty.recv() {
            let filled = fill(buffer.space());
            let last = !matches!(filled, Ok(1..));
            let result = filled.map(|filled| {
                buffer.filled = filled;
                buffer
            });
            if self.full.send(result).is_err() || last {
                return;
            }
        }
    }
}

impl Drainer {
    /// The next filled buffer; `None` at the end.
    ///
    /// # Errors
    /// What filling failed with; that a signal came.
    pub(crate) fn next(&self, interrupt: Option<&Interrupt>) -> Outcome<Option<Buffer>> {
        loop {
            if let Some(interrupt) = interrupt {
                interrupt.check()?;
            }
            match self.full.recv_timeout(Duration::from_millis(100)) {
                // An empty buffer is the end.
                Ok(result) => return result.map(|buffer| Some(buffer).filter(|buffer| buffer.filled > 0)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::of(ErrorKind::Io, "the input ended without saying so"));
                }
            }
        }
    }

    /// Hands an emptied buffer back.
    pub(crate) fn give_back(&self, buffer: Buffer) {
        // The filling side may be done.
        let _ = self.empty.send(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_range_and_end_on_their_grid() {
        let (mut at, end) = (10, 1000);
        let mut lengths = Vec::new();
        while at < end {
            let length = piece_at(at, end, 384);
            lengths.push(length);
            at += length as u64;
        }
        assert_eq!(lengths, [374, 384, 232]);
        assert_eq!(piece_at(5, 5, 384), 0);
        assert_eq!(piece_at(9, 5, 384), 0);
    }

    #[test]
    fn a_side_that_vanishes_is_no_end() {
        let (filler, drainer) = sides(ALIGN);
        drop(filler);
        assert!(drainer.next(None).is_err());
    }

    #[test]
    fn everything_arrives_in_order() {
        let (filler, drainer) = sides(ALIGN);
        let thread = std::thread::spawn(move || {
            let mut count = 0;
            filler.run(|space| {
                count += 1;
                space[0] = count;
                Ok(if count <= 10 { 1 } else { 0 })
            });
        });
        let mut seen = Vec::new();
        while let Some(buffer) = drainer.next(None).unwrap() {
            seen.extend_from_slice(buffer.filled());
            assert_eq!(buffer.filled().as_ptr().align_offset(ALIGN), 0);
            drainer.give_back(buffer);
        }
        thread.join().unwrap();
        assert_eq!(seen, (1..=10).collect::<Vec<u8>>());
    }
}
