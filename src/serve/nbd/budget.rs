//! Memory for requests, of one connection and of all together.
//!
//! Promises: all connections of a server hold [`SERVER_BYTES`] and each a [`SHARE`] beyond that, at most. A small request
//! is never kept waiting for others' memory; a large one may be. What a connection holds is given back when it ends.
//! Refuses to know what it is for.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::SERVER_BYTES;

/// What each connection may hold whatever the others do, in bytes.
pub(super) const SHARE: usize = 4 << 20;

/// What all connections of a server hold.
#[derive(Default)]
pub(super) struct Budget(AtomicUsize);

/// What one connection holds, in bytes.
pub(super) struct Held<'a> {
    own: usize,
    all: &'a Budget,
}

impl<'a> Held<'a> {
    /// Nothing yet.
    pub(super) fn of(all: &'a Budget) -> Held<'a> {
        Held { own: 0, all }
    }

    /// So many bytes.
    pub(super) fn bytes(&self) -> usize {
        self.own
    }

    /// Is memory short for everybody?
    pub(super) fn is_short(&self) -> bool {
        self.all.0.load(Ordering::Relaxed) + super::REQUEST_BYTES as usize > SERVER_BYTES
    }

    /// Holds `more`, if there is room for it.
    pub(super) fn try_take(&mut self, more: usize) -> bool {
        let before = self.all.0.fetch_add(more, Ordering::Relaxed);
        let fits = self.own + more <= SHARE || before + more <= SERVER_BYTES;
        self.own += more;
        if !fits {
            self.give_back(more);
        }
        fits
    }

    /// Holds `more`, whatever there is.
    pub(super) fn take(&mut self, more: usize) {
        self.own += more;
        self.all.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn give_back(&mut self, bytes: usize) {
        self.own -= bytes;
        self.all.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.give_back(self.own);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_sure_and_what_is_beyond_is_everybodys() {
        let budget = Budget::default();
        let (mut greedy, mut modest) = (Held::of(&budget), Held::of(&budget));
        assert!(!greedy.is_short() && greedy.try_take(SERVER_BYTES));
        assert!(!greedy.try_take(1) && greedy.is_short());
        assert!(!modest.try_take(SHARE + 1) && modest.try_take(SHARE) && !modest.try_take(1));
        assert_eq!((greedy.bytes(), modest.bytes()), (SERVER_BYTES, SHARE));
        modest.give_back(SHARE);
        drop(greedy);
        assert!(modest.try_take(SHARE + 1) && !modest.is_short());
    }
}
