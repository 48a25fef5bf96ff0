//! A queue that does its work in [`Disks::kick`], one transfer after the other.
//!
//! For disks that answer at once: memory, and files on file systems without asynchronous I/O, where a plain
//! system call is far cheaper than a hand-over to a worker thread and back. [`Execute`] says how an operation
//! is done.
//!
//! Refuses to know: disks.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use super::bell::Bell;
use super::runs::{Run, Runs, Transfers};
use super::{DiskId, Disks, Done, Failure, Op};
use crate::engine::Wake;
use crate::error::{Error, ErrorKind, Result};

/// Does one operation, whole, now.
pub(super) trait Execute: Send {
    /// Is it worth joining neighbours?
    const JOINS: bool;

    fn execute(&mut self, op: &mut Op) -> Result<(), Failure>;

    /// Does several that go on where the one before ends. False if not all was done: then each is done by
    /// itself.
    fn execute_joined(&mut self, run: &mut Run) -> bool {
        let _ = run;
        false
    }

    /// The queue ends; this is what it did.
    fn end(&mut self, did: Transfers) {
        let _ = did;
    }

    fn attach(&mut self, id: DiskId);
    fn detach(&mut self, id: DiskId);
}

pub(super) struct InlineQueue<E: Execute> {
    disks: E,
    submitted: Runs,
    ready: VecDeque<Done>,
    bell: Arc<Bell>,
    did: Transfers,
}

impl<E: Execute> InlineQueue<E> {
    pub(super) fn new(disks: E, depth: usize) -> Result<InlineQueue<E>> {
        let bell =
            Bell::new().map_err(|e| Error::new(ErrorKind::Io, "cannot make an eventfd").with_source(e))?;
        let (submitted, ready) = (Runs::new(depth, E::JOINS), VecDeque::with_capacity(depth));
        Ok(InlineQueue { disks, submitted, ready, bell: Arc::new(bell), did: Transfers::default() })
    }
}

impl<E: Execute> Drop for InlineQueue<E> {
    fn drop(&mut self) {
        self.disks.end(self.did);
    }
}

impl<E: Execute> Disks for InlineQueue<E> {
    fn submit(&mut self, ticket: u64, op: Op) {
        self.submitted.push(ticket, op);
    }

    fn kick(&mut self) {
        while let Some(mut run) = self.submitted.pop() {
            let (did, ready) = (&mut self.did, &mut self.ready);
            run.carry_out(&mut self.disks, E::execute_joined, E::execute, did, ready);
            self.submitted.recycle(run);
        }
    }

    fn reap(&mut self, out: &mut Vec<Done>, wait: Option<Duration>) -> bool {
        let woken = self.bell.heed();
        if self.ready.is_empty() && wait.is_some() {
            self.kick();
        }
        match wait {
            Some(wait) if self.ready.is_empty() && !woken => self.bell.sleep(wait),
            _ => {
                out.extend(self.ready.drain(..));
                woken
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.submitted.operations() + self.ready.len()
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.bell.clone()
    }

    fn attach(&mut self, id: DiskId) {
        self.disks.attach(id);
    }

    fn detach(&mut self, id: DiskId) {
        self.kick();
        self.disks.detach(id);
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.bell.as_fd())
    }
}
