//! How a sleeping queue is woken: an eventfd, rung at most once per sleep.
//!
//! Promises: a ring is never lost. What the ringer did before [`Wake::wake`] is visible to the queue after
//! [`Bell::answer`]. Ringing a bell that has been rung and not answered costs one atomic and no system call.
//!
//! Refuses to know: how the sleeper sleeps (it polls the descriptor, or has io_uring poll it).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::engine::Wake;

pub(crate) struct Bell {
    fd: OwnedFd,
    rung: AtomicBool,
}

impl Bell {
    pub(crate) fn new() -> std::io::Result<Bell> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Bell { fd, rung: AtomicBool::new(false) })
    }

    /// Sleeps until the bell is rung, a signal comes or `wait` is over. Was it rung?
    pub(super) fn sleep(&self, wait: Duration) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        let rung = poll(&mut fds, Some(&timespec(wait))).is_ok_and(|n| n > 0);
        if rung {
            self.silence();
            self.answer();
        }
        rung
    }

    /// Takes in a ring without sleeping. Was there one?
    pub(super) fn heed(&self) -> bool {
        // A ringer may have been stopped before it made the descriptor readable: then this is left for the next time.
        let rung = self.rung.load(Ordering::Relaxed) && self.silence();
        if rung {
            self.answer();
        }
        rung
    }

    /// Makes the descriptor unreadable; false if it was that already. Comes before [`Bell::answer`]: after it, a new ring makes it readable
    /// again.
    pub(crate) fn silence(&self) -> bool {
        rustix::io::read(&self.fd, &mut [0; 8]).is_ok()
    }

    /// The next ring is a new one.
    pub(crate) fn answer(&self) {
        self.rung.swap(false, Ordering::AcqRel);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Wake for Bell {
    fn wake(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            #[expect(clippy::host_endian_bytes, reason = "the kernel wants a number in its own byte order")]
            let one = 1u64.to_ne_bytes();
            // Can only fail if the counter is full, after 2^64 rings that nobody answered.
            let _ = rustix::io::write(&self.fd, &one);
        }
    }
}

/// For system calls; waits of more than a day become a day, since nobody is promised to sleep the whole time.
pub(crate) fn timespec(wait: Duration) -> Timespec {
    let wait = wait.min(Duration::from_secs(86_400));
    Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() }
}
