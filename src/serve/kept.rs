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

    /// Bytes of all that is kept.
    #[cfg(feature = "nbd")]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Is there one of `len` bytes?
    #[cfg(feature = "nbd")]
    pub(super) fn has(&self, len: usize) -> bool {
        self.buffers.iter().any(|buffer| buffer.len() == len)
    }

    /// Lets go of the oldest ones, until no more than `bytes` are kept.
    pub(super) fn shrink(&mut self, bytes: usize) {
        while self.bytes > bytes {
            self.bytes -= self.buffers.remove(0).len();
        }
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
        if self.buffers.len() > self.most {
            self.bytes -= self.buffers.remove(0).len();
        }
        self.shrink(MOST_BYTES);
    }
}
