//! Lines in and out of a socket, within a time and a length. Promises: whoever sends a byte now and then, or
//! no end of a line, or takes no bytes, costs the time allowed and no more; a bell ends every wait. Refuses
//! to know what a line says.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// A non-blocking stream socket that carries lines.
#[derive(Debug)]
pub(super) struct Lines {
    socket: OwnedFd,
    /// Bytes that have come and are no line yet.
    come: Vec<u8>,
    /// Of `come`, how many are known to hold no newline.
    searched: usize,
}

impl Lines {
    pub(super) fn new(socket: OwnedFd) -> Lines {
        Lines { socket, come: Vec::new(), searched: 0 }
    }

    /// The next line without its newline; `None` at the end of the stream.
    ///
    /// # Errors
    /// Timed out after `until`; aborted when `bell` rings; invalid data for a line of more than `most` bytes,
    /// or one that the stream ends in.
    pub(super) fn read(
        &mut self,
        most: usize,
        until: Option<Instant>,
        bell: Option<&OwnedFd>,
    ) -> io::Result<Option<Vec<u8>>> {
        let mut part = [0; 4096];
        loop {
            if let Some(at) = self.come[self.searched..].iter().position(|&byte| byte == b'\n') {
                let rest = self.come.split_off(self.searched + at + 1);
                let mut line = std::mem::replace(&mut self.come, rest);
                line.pop();
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.come.len();
            if self.come.len() >= most {
                return Err(io::ErrorKind::InvalidData.into());
            }
            wait(&self.socket, PollFlags::IN, until, bell)?;
            match recv(&self.socket, &mut part[..], RecvFlags::empty()) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok((_, 0)) if self.come.is_empty() => return Ok(None),
                Ok((_, 0)) => return Err(io::ErrorKind::InvalidData.into()),
                Ok((_, length)) => self.come.extend_from_slice(&part[..length]),
            }
        }
    }

    /// Sends `line` and a newline.
    ///
    /// # Errors
    /// Timed out after `until`; what the system says of a client that is gone.
    pub(super) fn write(&mut self, line: &[u8], until: Instant) -> io::Result<()> {
        let line = [line, b"\n"].concat();
        let mut rest = &line[..];
        while !rest.is_empty() {
            match send(&self.socket, rest, SendFlags::NOSIGNAL) {
                Ok(length) => rest = &rest[length..],
                Err(Errno::AGAIN) => wait(&self.socket, PollFlags::OUT, Some(until), None)?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Is there something to be read?
    pub(super) fn has_come(&self) -> bool {
        let mut byte = [0];
        !self.come.is_empty() || matches!(recv(&self.socket, &mut byte[..], RecvFlags::PEEK), Ok((_, 1..)))
    }

    /// Has the other side closed?
    pub(super) fn is_closed(&self) -> bool {
        is(&self.socket, PollFlags::RDHUP)
    }
}

/// Is `fd` `ready`, or beyond hope?
pub(super) fn is(fd: impl AsFd, ready: PollFlags) -> bool {
    let mut fds = [PollFd::new(&fd, ready)];
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    let polled = poll(&mut fds, Some(&none));
    polled.is_err_and(|error| error != Errno::INTR) || !fds[0].revents().is_empty()
}

/// Waits until `fd` is `ready`.
///
/// # Errors
/// Timed out after `until`, aborted when `bell` rings before.
pub(super) fn wait(
    fd: impl AsFd,
    ready: PollFlags,
    until: Option<Instant>,
    bell: Option<&OwnedFd>,
) -> io::Result<()> {
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // Rounded up, so that no wait ends before its time and begins again for nothing.
        let left = left.map(|left| left + Duration::from_millis(1));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let bell = bell.map(|bell| PollFd::new(bell, PollFlags::IN));
        let mut fds: Vec<PollFd<'_>> = [Some(PollFd::new(&fd, ready)), bell].into_iter().flatten().collect();
        match poll(&mut fds, left.as_ref()) {
            Err(Errno::INTR) => continue,
            woken => woken?,
        };
        if fds.get(1).is_some_and(|bell| !bell.revents().is_empty()) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if !fds[0].revents().is_empty() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair() -> (Lines, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Lines::new(ours.into()), theirs)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(50)
    }

    #[test]
    fn lines_come_whole_in_order_and_end() {
        let (mut lines, mut peer) = pair();
        peer.write_all(b"one\ntw").unwrap();
        assert_eq!(lines.read(10, Some(soon()), None).unwrap().unwrap(), b"one");
        assert_eq!(lines.read(10, Some(soon()), None).unwrap_err().kind(), io::ErrorKind::TimedOut);
        peer.write_all(b"o\n\n").unwrap();
        assert_eq!(lines.read(10, Some(soon()), None).unwrap().unwrap(), b"two");
        assert_eq!(lines.read(10, Some(soon()), None).unwrap().unwrap(), b"");
        assert!(!lines.is_closed());
        drop(peer);
        assert!(lines.is_closed());
        assert!(lines.read(10, Some(soon()), None).unwrap().is_none());
    }

    #[test]
    fn a_line_without_end_is_no_line() {
        let (mut lines, mut peer) = pair();
        peer.write_all(&[b'x'; 5000]).unwrap();
        assert_eq!(lines.read(100, Some(soon()), None).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let (mut lines, mut peer) = pair();
        peer.write_all(b"half").unwrap();
        drop(peer);
        assert_eq!(lines.read(100, Some(soon()), None).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn who_takes_nothing_is_not_waited_for() {
        let (mut lines, _peer) = pair();
        assert_eq!(lines.write(&vec![0; 4 << 20], soon()).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
