//! Memory for payload, over all connections of a server.
//!
//! Each connection has [`OWN_BYTES`] to itself, whatever the others do; what it needs beyond comes from a common
//! part. Who holds none of that may take whatever is free; who holds some may take more only as long as what is
//! left is at least as much as it would have then: one takes half at most, and several leave something for the
//! next. Promises: all shares together never exceed [`SERVER_BYTES`]; a share that fits into its own bytes touches
//! no shared memory. Refuses to know what is held, and who has to wait: [`Share::is_wanted`] tells who keeps
//! others waiting.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{CONNECTIONS, REQUEST_BYTES, SERVER_BYTES};

/// What every connection may hold whatever the others do: many small requests, or one of 1 MiB.
pub(super) const OWN_BYTES: usize = 1 << 20;

const COMMON_BYTES: usize = SERVER_BYTES - CONNECTIONS * OWN_BYTES;

// The largest request fits, with the blocks at its edges, and the next one of its connection too.
const _: () = assert!(COMMON_BYTES > 4 * REQUEST_BYTES as usize);

/// What is there for all.
pub(super) struct Budget {
    /// Bytes of the common part that nobody has.
    free: AtomicUsize,
    /// Shares that were refused what they need.
    starving: AtomicUsize,
}

impl Budget {
    pub(super) fn new() -> Budget {
        Budget { free: AtomicUsize::new(COMMON_BYTES), starving: AtomicUsize::new(0) }
    }

    /// A share of it that holds nothing. At most [`CONNECTIONS`] at a time.
    pub(super) fn share(&self) -> Share<'_> {
        Share { budget: self, held: 0, starving: false }
    }
}

/// What one connection holds. Dropped, it is given back.
pub(super) struct Share<'a> {
    budget: &'a Budget,
    held: usize,
    starving: bool,
}

impl Share<'_> {
    /// Holds `bytes` from now on, all in all. `false` if they cannot be had for now: then it holds what it did,
    /// and counts as one that waits until it gets what it wants.
    pub(super) fn hold(&mut self, bytes: usize) -> bool {
        let (had, wanted) = (self.common(), bytes.saturating_sub(OWN_BYTES));
        let take = |free: usize| {
            let left = free.checked_sub(wanted - had)?;
            (had == 0 || wanted <= left).then_some(left)
        };
        let free = &self.budget.free;
        let granted = wanted <= had || free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
        if granted {
            self.hold_at_most(bytes);
            self.held = bytes;
        }
        self.starve(!granted);
        granted
    }

    /// Gives back what it holds beyond `bytes`.
    pub(super) fn hold_at_most(&mut self, bytes: usize) {
        let had = self.common();
        self.held = self.held.min(bytes);
        if self.common() < had {
            self.budget.free.fetch_add(had - self.common(), Ordering::Relaxed);
        }
    }

    /// Bytes of the common part that it has.
    fn common(&self) -> usize {
        self.held.saturating_sub(OWN_BYTES)
    }

    /// Does it have what others wait for?
    pub(super) fn is_wanted(&self) -> bool {
        self.common() > 0 && self.budget.starving.load(Ordering::Relaxed) > usize::from(self.starving)
    }

    fn starve(&mut self, starving: bool) {
        match (self.starving, starving) {
            (false, true) => self.budget.starving.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.budget.starving.fetch_sub(1, Ordering::Relaxed),
            _ => return,
        };
        self.starving = starving;
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.hold_at_most(0);
        self.starve(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEBIBYTE: usize = 1 << 20;

    #[test]
    fn its_own_bytes_are_its_own_whatever_others_hold() {
        let budget = Budget::new();
        let mut greedy: Vec<Share<'_>> = (1..CONNECTIONS).map(|_| budget.share()).collect();
        for share in &mut greedy {
            let mut bytes = 0;
            while share.hold(bytes + REQUEST_BYTES as usize) {
                bytes += REQUEST_BYTES as usize;
            }
        }
        let held: usize = greedy.iter().map(|share| share.held).sum();
        assert!(held <= SERVER_BYTES, "{held}");
        let mut modest = budget.share();
        assert!(modest.hold(OWN_BYTES));
        drop(greedy);
        assert_eq!(budget.free.load(Ordering::Relaxed), COMMON_BYTES);
        assert!(modest.hold(2 * REQUEST_BYTES as usize));
    }

    #[test]
    fn one_leaves_as_much_as_it_has() {
        let budget = Budget::new();
        let (mut first, mut second) = (budget.share(), budget.share());
        let mut bytes = 0;
        while first.hold(bytes + MEBIBYTE) {
            bytes += MEBIBYTE;
        }
        assert_eq!(first.common(), COMMON_BYTES / 2);
        assert!(second.hold(OWN_BYTES + COMMON_BYTES / 2), "the first of its own beyond its bytes");
        assert!(!second.hold(OWN_BYTES + COMMON_BYTES / 2 + 1));
        assert_eq!(second.held, OWN_BYTES + COMMON_BYTES / 2, "it keeps what it had");
    }

    #[test]
    fn who_has_what_others_wait_for_can_know() {
        let budget = Budget::new();
        let (mut holder, mut other, mut modest) = (budget.share(), budget.share(), budget.share());
        assert!(holder.hold(SERVER_BYTES / 2) && modest.hold(OWN_BYTES));
        assert!(!holder.is_wanted());
        assert!(!holder.hold(SERVER_BYTES));
        assert!(!holder.is_wanted(), "it waits for itself alone");
        assert!(!other.hold(SERVER_BYTES));
        assert!(holder.is_wanted() && !modest.is_wanted() && !other.is_wanted());
        other.hold_at_most(0);
        assert!(holder.is_wanted(), "it still waits");
        assert!(other.hold(5));
        assert!(!holder.is_wanted());
        assert!(!other.hold(SERVER_BYTES));
        drop(other);
        assert!(!holder.is_wanted(), "who has gone does not wait");
    }
}
