//! One direction of a connection: bytes as the socket has them become requests and payloads.
//!
//! Never waits: what is not there yet comes later. Few system calls: a read takes what is left of a payload
//! straight into its buffer and the heads behind it in the same call. Promises: holds [`STAGED`] bytes and
//! the payload it was told to expect, nothing else. Refuses to know what a request means.

use std::io::{self, IoSliceMut};

use crate::disk::AlignedBuf;

use super::transport::Transport;
use super::wire::{EXTENDED_HEAD, REQUEST_HEAD, Request};

/// Bytes that are read ahead. More would be copied from here instead of going to a payload's buffer directly.
const STAGED: usize = 8 << 10;

/// What has come whole.
pub(super) enum Arrived {
    /// A request; if it has a payload, [`Intake::expect`] or [`Intake::discard`] is next.
    Head(Request),
    /// The payload that was announced, unless it was to be discarded.
    Payload(Option<AlignedBuf>),
}

/// Bytes on their way in.
pub(super) struct Intake {
    staged: Box<[u8]>,
    /// The part of `staged` that has been read and not been used.
    start: usize,
    end: usize,
    /// Requests have extended headers.
    extended: bool,
    payload: Option<Payload>,
    readable: bool,
    ended: bool,
}

/// A payload on its way: `left` bytes go to `at` on of `into`, or nowhere.
struct Payload {
    into: Option<AlignedBuf>,
    at: usize,
    left: usize,
}

impl Intake {
    /// Nothing yet, of requests with extended headers or without.
    pub(super) fn new(extended: bool) -> Intake {
        let staged = vec![0; STAGED].into_boxed_slice();
        Intake { staged, start: 0, end: 0, extended, payload: None, readable: true, ended: false }
    }

    /// The next thing that is whole, or `None` if the socket has no more for now.
    ///
    /// # Errors
    /// The socket's; [`io::ErrorKind::InvalidData`] if what comes is no request.
    pub(super) fn next(&mut self, transport: &mut Transport<'_>) -> io::Result<Option<Arrived>> {
        loop {
            if let Some(arrived) = self.whole()? {
                return Ok(Some(arrived));
            }
            if !self.readable || self.ended {
                return Ok(None);
            }
            self.read(transport)?;
        }
    }

    /// The payload that follows goes to `buffer` from `at` on, `length` bytes of it.
    pub(super) fn expect(&mut self, buffer: AlignedBuf, at: usize, length: usize) {
        self.payload = Some(Payload { into: Some(buffer), at, left: length });
    }

    /// The payload that follows, of `length` bytes, goes nowhere.
    pub(super) fn discard(&mut self, length: usize) {
        self.payload = Some(Payload { into: None, at: 0, left: length });
    }

    /// Is the rest of a payload on its way?
    pub(super) fn is_amid_payload(&self) -> bool {
        self.payload.is_some()
    }

    /// The socket may have more.
    pub(super) fn set_readable(&mut self) {
        self.readable = true;
    }

    /// Nothing that comes is looked at any more.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// Has it ended, by the client or by [`end`](Intake::end)?
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// What is whole without another read.
    fn whole(&mut self) -> io::Result<Option<Arrived>> {
        if let Some(payload) = &mut self.payload {
            let taken = payload.left.min(self.end - self.start);
            if let Some(buffer) = &mut payload.into {
                buffer[payload.at..payload.at + taken]
                    .copy_from_slice(&self.staged[self.start..self.start + taken]);
            }
            (payload.at, payload.left, self.start) =
                (payload.at + taken, payload.left - taken, self.start + taken);
            if payload.left > 0 {
                return Ok(None);
            }
            return Ok(self.payload.take().map(|payload| Arrived::Payload(payload.into)));
        }
        let staged = &self.staged[self.start..self.end];
        let (head, parsed) = match self.extended {
            true => (EXTENDED_HEAD, staged.first_chunk().map(Request::parse_extended)),
            false => (REQUEST_HEAD, staged.first_chunk().map(Request::parse)),
        };
        let Some(request) = parsed else { return Ok(None) };
        let request =
            request.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "this is no request"))?;
        self.start += head;
        Ok(Some(Arrived::Head(request)))
    }

    /// One read. A payload under way has used up all that was staged.
    fn read(&mut self, transport: &mut Transport<'_>) -> io::Result<()> {
        self.staged.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let room = &mut self.staged[self.end..];
        let mut direct: &mut [u8] = &mut [];
        if let Some(Payload { into: Some(buffer), at, left }) = &mut self.payload {
            direct = &mut buffer[*at..*at + *left];
        }
        let (wanted, ahead) = (direct.len(), room.len());
        match transport.receive(&mut [IoSliceMut::new(direct), IoSliceMut::new(room)]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
            Err(error) => return Err(error),
            Ok(0) => self.ended = true,
            Ok(got) => {
                // Less than there was room for: the socket is empty.
                self.readable = got == wanted + ahead || !transport.is_greedy();
                let into = got.min(wanted);
                if let Some(payload) = &mut self.payload {
                    (payload.at, payload.left) = (payload.at + into, payload.left - into);
                }
                self.end += got - into;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::super::wire::Command;
    use super::*;

    fn pair() -> (UnixStream, UnixStream) {
        let (client, server) = UnixStream::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        (client, server)
    }

    fn request(command: Command, cookie: u64, length: u64, extended: bool) -> Vec<u8> {
        let request = Request { flags: 0, command, cookie, offset: 0, length };
        if extended { request.emit_extended().to_vec() } else { request.emit().to_vec() }
    }

    /// Takes what is there; payloads of writes to odd places are kept, of others discarded.
    fn take(intake: &mut Intake, socket: &UnixStream, out: &mut Vec<(u64, Vec<u8>)>) {
        let mut transport = Transport::Clear(socket.as_fd());
        while let Some(arrived) = intake.next(&mut transport).unwrap() {
            match arrived {
                Arrived::Head(head) => {
                    let length = head.length as usize;
                    out.push((head.cookie, Vec::new()));
                    match head.command {
                        Command::Write if head.cookie % 2 == 1 => {
                            intake.expect(AlignedBuf::new(length + 7), 7, length);
                        }
                        Command::Write => intake.discard(length),
                        _ => {}
                    }
                }
                Arrived::Payload(payload) => {
                    let last = out.last_mut().unwrap();
                    last.1 = payload.map_or(b"gone".to_vec(), |payload| payload[7..].to_vec());
                }
            }
            // Read again at every chance, so that what was read ahead is seen to be used first.
            intake.set_readable();
        }
    }

    #[test]
    fn however_it_is_cut_it_comes_out_whole() {
        let payload: Vec<u8> = (0..20_000u32).map(|n| ((n * 7) >> 3) as u8).collect();
        let sent = |extended: bool| {
            let mut bytes = Vec::new();
            for cookie in 0..6u64 {
                let length = [0, 1, 505, 512, 20_000, 9000][cookie as usize];
                bytes.extend(request(Command::Write, cookie, length, extended));
                bytes.extend(&payload[..length as usize]);
                bytes.extend(request(Command::Read, 100 + cookie, 4096, extended));
            }
            bytes
        };
        for (step, extended) in
            [1, 3, 27, 28, 29, 31, 32, 1000, 8192, 99_999].into_iter().flat_map(|n| [(n, false), (n, true)])
        {
            let bytes = sent(extended);
            let (mut client, server) = pair();
            let (mut intake, mut out) = (Intake::new(extended), Vec::new());
            for part in bytes.chunks(step) {
                client.write_all(part).unwrap();
                intake.set_readable();
                take(&mut intake, &server, &mut out);
            }
            assert_eq!(out.len(), 12, "{step}");
            for (n, (cookie, got)) in out.iter().enumerate() {
                let length = [0, 1, 505, 512, 20_000, 9000][n / 2];
                match (n % 2, cookie % 2) {
                    (1, _) => assert_eq!((*cookie, got.len()), (100 + n as u64 / 2, 0)),
                    (_, 0) => assert_eq!(got, b"gone"),
                    // Buffers are rounded up.
                    _ => assert_eq!(got[..length], payload[..length], "{step} {cookie}"),
                }
            }
            drop(client);
            intake.set_readable();
            take(&mut intake, &server, &mut out);
            assert!(intake.has_ended() && !intake.is_amid_payload());
        }
    }

    #[test]
    fn what_is_no_request_is_an_error() {
        let (mut client, server) = pair();
        client.write_all(&[7; REQUEST_HEAD]).unwrap();
        let mut transport = Transport::Clear(server.as_fd());
        let what = Intake::new(false).next(&mut transport).err().unwrap();
        assert_eq!(what.kind(), io::ErrorKind::InvalidData);
    }
}
