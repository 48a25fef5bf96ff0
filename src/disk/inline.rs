//! A queue that does its work in [`Disks::kick`], one operation after the other.
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
use super::{DiskId, Disks, Done, Failure, Op};
use crate::engine::Wake;
use crate::error::{Error, ErrorKind, Result};

/// Does one operation, whole, now.
pub(super) trait Execute: Send {
    fn execute(&mut self, op: &mut Op) -> Result<(), Failure>;
    fn attach(&mut self, id: DiskId);
    fn detach(&mut self, id: DiskId);
}

pub(super) struct InlineQueue<E> {
    disks: E,
    submitted: VecDeque<(u64, Op)>,
    ready: VecDeque<Done>,
    bell: Arc<Bell>,
}

impl<E: Execute> InlineQueue<E> {
    pub(super) fn new(disks: E, depth: usize) -> Result<InlineQueue<E>> {
        let bell =
            Bell::new().map_err(|e| Error::new(ErrorKind::Io, "cannot make an eventfd").with_source(e))?;
        let (submitted, ready) = (VecDeque::with_capacity(depth), VecDeque::with_capacity(depth));
        Ok(InlineQueue { disks, submitted, ready, bell: Arc::new(bell) })
    }
}

impl<E: Execute> Disks for InlineQueue<E> {
    fn submit(&mut self, ticket: u64, op: Op) {
        self.submitted.push_back((ticket, op));
    }

    fn kick(&mut self) {
        while let Some((ticket, mut op)) = self.submitted.pop_front() {
            let result = self.disks.execute(&mut op);
            self.ready.push_back(op.done(ticket, result));
        }
    }

    fn reap(&mut self, out: &mut Vec<Done>, wait: Option<Duration>) {
        if self.ready.is_empty() && wait.is_some() {
            self.kick();
        }
        match wait {
            Some(wait) if self.ready.is_empty() => {
                self.bell.sleep(wait);
            }
            _ => out.extend(self.ready.drain(..)),
        }
    }

    fn in_flight(&self) -> usize {
        self.submitted.len() + self.ready.len()
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
