//! The other direction of a connection: replies become bytes as the socket takes them.
//!
//! Never waits: what the socket does not take stays. Many replies go in one system call, data straight from
//! the buffers it was read into. Promises: a reply is handed back, with its buffer, once all of it is sent.
//! Refuses to know what it answers.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::ops::Range;

use crate::disk::AlignedBuf;

use super::handshake::{ALLOCATION_ID, Headers};
use super::transport::Transport;
use super::wire::{EXTENDED_HEAD, Errno, Request, chunk, only_chunk, only_extended_chunk, simple_reply};

/// Most bytes before the data of a reply.
const LONGEST_HEAD: usize = EXTENDED_HEAD + 24;

/// Parts of replies in one system call.
const PARTS: usize = 64;

/// A reply.
pub(super) struct Reply {
    head: [u8; LONGEST_HEAD],
    head_len: usize,
    /// A buffer and what of it is sent.
    pub data: Option<(AlignedBuf, Range<usize>)>,
    /// What its sender wants to know when it is sent.
    pub cost: usize,
}

impl Reply {
    /// It is done, or not, and why.
    pub(super) fn plain(request: &Request, error: Option<Errno>, headers: Headers) -> Reply {
        match error {
            _ if headers == Headers::Simple => Reply::of(&simple_reply(request.cookie, error), &[]),
            None => Reply::chunk(request, chunk::NONE, &[], 0, headers),
            // The number, and a text of no length.
            Some(error) => {
                let payload = [&(error as u32).to_be_bytes()[..], &[0; 2]].concat();
                Reply::chunk(request, chunk::ERROR, &payload, 0, headers)
            }
        }
    }

    /// The data of a read: `range` of `buffer`, not empty.
    pub(super) fn data(
        request: &Request,
        buffer: AlignedBuf,
        range: Range<usize>,
        headers: Headers,
    ) -> Reply {
        let mut reply = match headers {
            Headers::Simple => Reply::of(&simple_reply(request.cookie, None), &[]),
            _ => {
                let offset = request.offset.to_be_bytes();
                Reply::chunk(request, chunk::OFFSET_DATA, &offset, range.len(), headers)
            }
        };
        reply.data = Some((buffer, range));
        reply
    }

    /// All bytes asked about are allocated.
    pub(super) fn allocated(request: &Request, headers: Headers) -> Reply {
        let (id, length) = (ALLOCATION_ID.to_be_bytes(), request.length.to_be_bytes());
        match headers {
            // Behind the context a count of extents, then each with a length and a state of 64 bits.
            Headers::Extended => {
                let payload = [&id[..], &1u32.to_be_bytes(), &length, &[0; 8]].concat();
                Reply::chunk(request, chunk::BLOCK_STATUS_EXT, &payload, 0, headers)
            }
            // Without extended headers a request is no longer than 32 bits can say.
            _ => {
                let payload = [&id[..], &length[4..], &[0; 4]].concat();
                Reply::chunk(request, chunk::BLOCK_STATUS, &payload, 0, headers)
            }
        }
    }

    /// A chunk with `first` and `more` bytes behind it for a payload.
    fn chunk(request: &Request, kind: u16, first: &[u8], more: usize, headers: Headers) -> Reply {
        let length = first.len() + more;
        match headers {
            Headers::Extended => {
                let head = only_extended_chunk(request.cookie, request.offset, kind, length as u64);
                Reply::of(&head, first)
            }
            _ => Reply::of(&only_chunk(request.cookie, kind, length as u32), first),
        }
    }

    fn of(first: &[u8], second: &[u8]) -> Reply {
        let mut head = [0; LONGEST_HEAD];
        head[..first.len()].copy_from_slice(first);
        head[first.len()..first.len() + second.len()].copy_from_slice(second);
        Reply { head, head_len: first.len() + second.len(), data: None, cost: 0 }
    }

    fn parts(&self) -> [&[u8]; 2] {
        let data = self.data.as_ref().map_or(&[][..], |(buffer, range)| &buffer[range.clone()]);
        [&self.head[..self.head_len], data]
    }

    fn len(&self) -> usize {
        self.parts().iter().map(|part| part.len()).sum()
    }
}

/// Replies on their way out.
pub(super) struct Outbox {
    replies: VecDeque<Reply>,
    /// Bytes of the first that are gone.
    sent: usize,
    writable: bool,
}

impl Outbox {
    pub(super) fn new() -> Outbox {
        Outbox { replies: VecDeque::new(), sent: 0, writable: true }
    }

    /// Puts a reply at the end.
    pub(super) fn push(&mut self, reply: Reply) {
        self.replies.push_back(reply);
    }

    /// Replies that are not all sent.
    pub(super) fn len(&self) -> usize {
        self.replies.len()
    }

    /// The socket may take more.
    pub(super) fn set_writable(&mut self) {
        self.writable = true;
    }

    /// Sends what the socket takes; the next reply that is all gone, or `None` if it takes no more.
    ///
    /// # Errors
    /// The socket's.
    pub(super) fn next_sent(&mut self, transport: &mut Transport<'_>) -> io::Result<Option<Reply>> {
        loop {
            let front = self.replies.front().map(Reply::len);
            if let Some(length) = front.filter(|length| self.sent >= *length) {
                self.sent -= length;
                return Ok(self.replies.pop_front());
            }
            if front.is_none() || !self.writable {
                return Ok(None);
            }
            self.send(transport)?;
        }
    }

    /// One system call.
    fn send(&mut self, transport: &mut Transport<'_>) -> io::Result<()> {
        let mut slices = [IoSlice::new(&[]); PARTS];
        let (mut used, mut wanted, mut skip) = (0, 0, self.sent);
        for part in self.replies.iter().flat_map(Reply::parts) {
            let gone = skip.min(part.len());
            skip -= gone;
            let part = &part[gone..];
            if used == PARTS {
                break;
            }
            if !part.is_empty() {
                slices[used] = IoSlice::new(part);
                (used, wanted) = (used + 1, wanted + part.len());
            }
        }
        match transport.send(&slices[..used]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
            Err(error) => return Err(error),
            Ok(sent) => {
                self.writable = sent == wanted || !transport.is_greedy();
                self.sent += sent;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::super::wire::{CHUNK_HEAD, Command};
    use super::*;

    fn request(cookie: u64) -> Request {
        Request { flags: 0, command: Command::Read, cookie, offset: 4096, length: 59_900 }
    }

    #[test]
    fn all_of_it_arrives_in_order_through_a_narrow_socket() {
        let (mut client, server) = UnixStream::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        let mut outbox = Outbox::new();
        let mut expected = Vec::new();
        for n in 0..200u64 {
            let mut buffer = AlignedBuf::new(64 << 10);
            buffer.fill(n as u8);
            expected.extend(simple_reply(n, None));
            expected.extend(&buffer[100..60_000]);
            let (request, simple) = (request(n), Headers::Simple);
            outbox.push(Reply { cost: n as usize, ..Reply::data(&request, buffer, 100..60_000, simple) });
            outbox.push(Reply::plain(&request, Some(Errno::Io), simple));
            expected.extend(simple_reply(n, Some(Errno::Io)));
        }
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            client.read_to_end(&mut all).unwrap();
            all
        });
        let (mut costs, mut transport) = (Vec::new(), Transport::Clear(server.as_fd()));
        while outbox.len() > 0 {
            outbox.set_writable();
            while let Some(sent) = outbox.next_sent(&mut transport).unwrap() {
                costs.extend(sent.data.is_some().then_some(sent.cost));
            }
        }
        drop(server);
        assert!(reader.join().unwrap() == expected, "not the same bytes");
        assert_eq!(costs, (0..200).collect::<Vec<_>>());
    }

    #[test]
    fn structured_replies_announce_what_follows() {
        for (headers, head, length_at) in
            [(Headers::Structured, CHUNK_HEAD, 16..20), (Headers::Extended, EXTENDED_HEAD, 28..32)]
        {
            let extent = if headers == Headers::Extended { 24 } else { 12 };
            for (reply, payload) in [
                (Reply::plain(&request(1), None, headers), 0),
                (Reply::plain(&request(1), Some(Errno::Io), headers), 6),
                (Reply::allocated(&request(1), headers), extent),
                (Reply::data(&request(1), AlignedBuf::new(512), 1..101, headers), 108),
            ] {
                assert_eq!(reply.len(), head + payload);
                assert_eq!(reply.head[length_at.clone()], (payload as u32).to_be_bytes());
            }
        }
    }
}
