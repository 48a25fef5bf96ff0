//! Buffers that go round: what one request has done with, the next of its size takes.
//!
//! Promises: no more is kept than it was made for. Refuses to know what is in them.

use crate::disk::AlignedBuf;

/// Most bytes of buffers kept for the next requests.
const MOST_BYTES: usize = 16 << 20;

/// Buffers for the next requests.
pub(super) struct Kept {
    buffers: Vec<AlignedBuf>,
    bytes: usize,
    most: usize,
}

impl Kept {
    /// None yet, `most` at any time.
    pub(super) fn new(most: usize) -> Kept {
        Kept { buffers: Vec::new(), bytes: 0, most }
    }

    /// A buffer of `len` bytes with anything in it.
    pub(super) fn take(&mut self, len: usize) -> AlignedBuf {
        match self.buffers.iter().rposition(|buffer| buffer.len() == len) {
            Some(index) => {
                self.bytes -= len;
                self.buffers.swap_remove(index)
            }
            None => AlignedBuf::new(len),
        }
    }

    /// Keeps `buffer` for the next request of its size; the oldest ones go.
    pub(super) fn keep(&mut self, buffer: AlignedBuf) {
        self.bytes += buffer.len();
        self.buffers.push(buffer);
        while self.bytes > MOST_BYTES || self.buffers.len() > self.most {
            self.bytes -= self.buffers.remove(0).len();
        }
    }
}
