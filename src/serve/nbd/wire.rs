//! The bytes of the NBD protocol: what clients send as values, and values as what servers send.
//!
//! Pure functions over slices, all numbers big-endian. Promises: nothing here panics, whatever the bytes;
//! nothing allocates more than a small multiple of what it was given; what [`Request::emit`] writes
//! [`Request::parse`] reads back. Refuses to know sockets, and which of these messages is allowed when.
//!
//! Numbers and layouts are those of the protocol document of the NBD project (doc/proto.md); each constant
//! has its name there, without the prefix `NBD_`.

/// First word of the server's greeting.
pub const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second word of the greeting, and first of every option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// First word of a reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// First word of a request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// First word of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// First word of a chunk of a structured reply.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;
/// First word of a request with an extended header.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// First word of a chunk of a reply with an extended header.
pub const EXTENDED_CHUNK_MAGIC: u32 = 0x6e8a_278c;

/// Greeting and client flag: options are answered one by one.
pub const FLAG_FIXED_NEWSTYLE: u32 = 1 << 0;
/// Greeting and client flag: no 124 zeros behind the answer to EXPORT_NAME.
pub const FLAG_NO_ZEROES: u32 = 1 << 1;

/// Bytes of an option before its data.
pub const OPTION_HEAD: usize = 16;
/// Bytes of a request before its payload.
pub const REQUEST_HEAD: usize = 28;
/// Bytes of a simple reply before its payload.
pub const SIMPLE_HEAD: usize = 16;
/// Bytes of a structured chunk before its payload.
pub const CHUNK_HEAD: usize = 20;
/// Bytes of a request, or of a chunk of a reply, with an extended header before its payload.
pub const EXTENDED_HEAD: usize = 32;

/// Longest string of the protocol in bytes: names of exports and contexts.
pub const LONGEST_STRING: usize = 4096;

/// Options of the handshake.
#[allow(missing_docs, reason = "the protocol's own names")]
pub mod option {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const STARTTLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Replies to options. Those with the highest bit are errors.
#[allow(missing_docs, reason = "the protocol's own names")]
pub mod reply {
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const ERR_UNSUP: u32 = 1 << 31 | 1;
    pub const ERR_POLICY: u32 = 1 << 31 | 2;
    pub const ERR_INVALID: u32 = 1 << 31 | 3;
    pub const ERR_TLS_REQD: u32 = 1 << 31 | 5;
    pub const ERR_UNKNOWN: u32 = 1 << 31 | 6;
    pub const ERR_TOO_BIG: u32 = 1 << 31 | 9;
    pub const ERR_EXT_HEADER_REQD: u32 = 1 << 31 | 10;
}

/// What a reply of [`reply::INFO`] is about.
#[allow(missing_docs, reason = "the protocol's own names")]
pub mod info {
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const DESCRIPTION: u16 = 2;
    pub const BLOCK_SIZE: u16 = 3;
}

/// What an export can do.
#[allow(missing_docs, reason = "the protocol's own names")]
pub mod can {
    pub const HAS_FLAGS: u16 = 1 << 0;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const SEND_FLUSH: u16 = 1 << 2;
    pub const SEND_FUA: u16 = 1 << 3;
    pub const SEND_TRIM: u16 = 1 << 5;
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub const SEND_DF: u16 = 1 << 7;
    pub const MULTI_CONN: u16 = 1 << 8;
    pub const SEND_CACHE: u16 = 1 << 10;
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Flags of a request.
#[allow(missing_docs, reason = "the protocol's own names")]
pub mod flag {
    pub const FUA: u16 = 1 << 0;
    pub const NO_HOLE: u16 = 1 << 1;
    pub const DF: u16 = 1 << 2;
    pub const REQ_ONE: u16 = 1 << 3;
    pub const FAST_ZERO: u16 = 1 << 4;
    pub const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Types of chunks of structured replies.
#[allow(missing_docs, reason = "the protocol's own names")]
pub mod chunk {
    pub const DONE: u16 = 1 << 0;
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const BLOCK_STATUS: u16 = 5;
    pub const BLOCK_STATUS_EXT: u16 = 6;
    pub const ERROR: u16 = 1 << 15 | 1;
}

/// Why a request was not done: the protocol's own numbers, the same on every system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Errno {
    /// The export is read-only.
    Perm = 1,
    /// The LU could not.
    Io = 5,
    /// The request makes no sense.
    Inval = 22,
    /// A write past the end.
    NoSpc = 28,
    /// Not so, or not so fast.
    NotSup = 95,
    /// The server is stopping.
    Shutdown = 108,
}

/// What a request wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Bytes out.
    Read,
    /// Bytes in: they follow the request.
    Write,
    /// The client goes; no reply.
    Disconnect,
    /// Make stable what was acknowledged.
    Flush,
    /// A range is not needed any more.
    Trim,
    /// A range will be read.
    Cache,
    /// A range shall read as zeros.
    WriteZeroes,
    /// What is known of a range.
    BlockStatus,
    /// None of these.
    Other(u16),
}

impl Command {
    fn of(number: u16) -> Command {
        match number {
            0 => Command::Read,
            1 => Command::Write,
            2 => Command::Disconnect,
            3 => Command::Flush,
            4 => Command::Trim,
            5 => Command::Cache,
            6 => Command::WriteZeroes,
            7 => Command::BlockStatus,
            other => Command::Other(other),
        }
    }

    /// Its number on the wire.
    pub fn number(self) -> u16 {
        match self {
            Command::Read => 0,
            Command::Write => 1,
            Command::Disconnect => 2,
            Command::Flush => 3,
            Command::Trim => 4,
            Command::Cache => 5,
            Command::WriteZeroes => 6,
            Command::BlockStatus => 7,
            Command::Other(number) => number,
        }
    }
}

/// A request without its payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Bits of [`flag`].
    pub flags: u16,
    /// What it wants.
    pub command: Command,
    /// The client's name for it, repeated in the reply.
    pub cookie: u64,
    /// In bytes.
    pub offset: u64,
    /// In bytes. With an extended header it is the payload's, or without payload the range's; without such a
    /// header it has 32 bits.
    pub length: u64,
}

impl Request {
    /// The request at hand, or `None` if it does not begin as one: whoever sent it is not to be understood
    /// any more.
    pub fn parse(bytes: &[u8; REQUEST_HEAD]) -> Option<Request> {
        Request::read(bytes, REQUEST_MAGIC, |fields| fields.u32().map(u64::from))
    }

    /// The same of one with an extended header.
    pub fn parse_extended(bytes: &[u8; EXTENDED_HEAD]) -> Option<Request> {
        Request::read(bytes, EXTENDED_REQUEST_MAGIC, |fields| fields.u64())
    }

    fn read(
        bytes: &[u8],
        magic: u32,
        length: impl FnOnce(&mut Fields<'_>) -> Option<u64>,
    ) -> Option<Request> {
        let mut fields = Fields(bytes);
        if fields.u32()? != magic {
            return None;
        }
        let flags = fields.u16()?;
        let command = Command::of(fields.u16()?);
        let (cookie, offset) = (fields.u64()?, fields.u64()?);
        Some(Request { flags, command, cookie, offset, length: length(&mut fields)? })
    }

    /// Where its range ends, in bytes of the export; beyond everything if that cannot be said.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }

    /// The bytes of it, for clients; of its length the lower 32 bits.
    pub fn emit(&self) -> [u8; REQUEST_HEAD] {
        let mut bytes = [0; REQUEST_HEAD];
        self.write(&mut bytes, REQUEST_MAGIC);
        bytes[24..].copy_from_slice(&(self.length as u32).to_be_bytes());
        bytes
    }

    /// The bytes of it with an extended header, for clients.
    pub fn emit_extended(&self) -> [u8; EXTENDED_HEAD] {
        let mut bytes = [0; EXTENDED_HEAD];
        self.write(&mut bytes, EXTENDED_REQUEST_MAGIC);
        bytes[24..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// All but the length, which comes last.
    fn write(&self, bytes: &mut [u8], magic: u32) {
        bytes[..4].copy_from_slice(&magic.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.command.number().to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
    }

    /// Has it any of `flags`?
    pub fn has(&self, flags: u16) -> bool {
        self.flags & flags != 0
    }
}

/// The server's first words: magic numbers and what it can do in the handshake.
pub fn greeting() -> [u8; 18] {
    let mut bytes = [0; 18];
    bytes[..8].copy_from_slice(&GREETING_MAGIC.to_be_bytes());
    bytes[8..16].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
    bytes[16..].copy_from_slice(&((FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES) as u16).to_be_bytes());
    bytes
}

/// Number and length of the data of an option, or `None` if this is none.
pub fn option_head(bytes: &[u8; OPTION_HEAD]) -> Option<(u32, u32)> {
    let mut fields = Fields(bytes);
    if fields.u64()? != OPTION_MAGIC {
        return None;
    }
    Some((fields.u32()?, fields.u32()?))
}

/// The data of INFO and GO.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted<'a> {
    /// Name of the export.
    pub name: &'a [u8],
    /// Numbers of [`info`] asked for.
    pub infos: Vec<u16>,
}

impl Wanted<'_> {
    /// Reads the data of INFO or GO; `None` if it is not whole or says more.
    pub fn parse(data: &[u8]) -> Option<Wanted<'_>> {
        let mut fields = Fields(data);
        let name = fields.string()?;
        let count = usize::from(fields.u16()?);
        // What is announced must be there before room is made for it.
        if fields.0.len() != count * 2 {
            return None;
        }
        let infos = (0..count).map_while(|_| fields.u16()).collect();
        Some(Wanted { name, infos })
    }
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Contexts<'a> {
    /// Name of the export.
    pub name: &'a [u8],
    /// Names of contexts, or beginnings of them.
    pub queries: Vec<&'a [u8]>,
}

impl Contexts<'_> {
    /// Reads the data of LIST_META_CONTEXT or SET_META_CONTEXT; `None` if it is not whole or says more.
    pub fn parse(data: &[u8]) -> Option<Contexts<'_>> {
        let mut fields = Fields(data);
        let name = fields.string()?;
        let count = fields.u32()? as usize;
        // Each has a length of four bytes at least: no more are there than that allows.
        if count > fields.0.len() / 4 {
            return None;
        }
        let queries: Vec<&[u8]> = (0..count).map_while(|_| fields.string()).collect();
        (queries.len() == count && fields.0.is_empty()).then_some(Contexts { name, queries })
    }
}

/// A reply to `option`: one of [`reply`], with `data` of less than 4 GiB.
pub fn option_reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(20 + data.len());
    bytes.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    bytes.extend_from_slice(&option.to_be_bytes());
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// A simple reply's head; the data of a READ that succeeded follows.
pub fn simple_reply(cookie: u64, error: Option<Errno>) -> [u8; SIMPLE_HEAD] {
    let mut bytes = [0; SIMPLE_HEAD];
    bytes[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    bytes[4..8].copy_from_slice(&error.map_or(0, |error| error as u32).to_be_bytes());
    bytes[8..].copy_from_slice(&cookie.to_be_bytes());
    bytes
}

/// The head of the only chunk of a structured reply, of a type of [`chunk`], with `length` bytes of payload
/// behind it.
pub fn only_chunk(cookie: u64, kind: u16, length: u32) -> [u8; CHUNK_HEAD] {
    let mut bytes = [0; CHUNK_HEAD];
    bytes[..4].copy_from_slice(&CHUNK_MAGIC.to_be_bytes());
    bytes[4..6].copy_from_slice(&chunk::DONE.to_be_bytes());
    bytes[6..8].copy_from_slice(&kind.to_be_bytes());
    bytes[8..16].copy_from_slice(&cookie.to_be_bytes());
    bytes[16..].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// The same with an extended header, which repeats the request's `offset`.
pub fn only_extended_chunk(cookie: u64, offset: u64, kind: u16, length: u64) -> [u8; EXTENDED_HEAD] {
    let mut bytes = [0; EXTENDED_HEAD];
    bytes[..4].copy_from_slice(&EXTENDED_CHUNK_MAGIC.to_be_bytes());
    bytes[4..6].copy_from_slice(&chunk::DONE.to_be_bytes());
    bytes[6..8].copy_from_slice(&kind.to_be_bytes());
    bytes[8..16].copy_from_slice(&cookie.to_be_bytes());
    bytes[16..24].copy_from_slice(&offset.to_be_bytes());
    bytes[24..].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// Takes numbers and strings off the front of bytes; `None` at their end.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    /// A length of four bytes and as many bytes, at most [`LONGEST_STRING`].
    fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()? as usize;
        if length > LONGEST_STRING {
            return None;
        }
        let (string, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(string)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_as_the_document_draws_it() {
        let request = Request {
            flags: flag::FUA,
            command: Command::Write,
            cookie: 0x0102_0304_0506_0708,
            offset: 0x1000,
            length: 512,
        };
        let mut expected = vec![0x25, 0x60, 0x95, 0x13, 0, 1, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8];
        expected.extend([0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 2, 0]);
        assert_eq!(request.emit()[..], expected);
        let mut wrong = request.emit();
        wrong[3] ^= 1;
        assert_eq!(Request::parse(&wrong), None);
        expected[..4].copy_from_slice(&[0x21, 0xe4, 0x1c, 0x71]);
        expected.truncate(24);
        expected.extend([0, 0, 0, 1, 0, 0, 2, 0]);
        let extended = Request { length: (1 << 32) + 512, ..request };
        assert_eq!(extended.emit_extended()[..], expected);
        assert_eq!(Request::parse_extended(&extended.emit_extended()), Some(extended));
        wrong[3] ^= 1;
        assert_eq!(Request::parse_extended(&[&wrong[..], &[0; 4]].concat().try_into().unwrap()), None);
    }

    #[test]
    fn the_greeting_spells_its_magic_words() {
        assert_eq!(&greeting()[..16], b"NBDMAGICIHAVEOPT");
        assert_eq!(greeting()[16..], [0, 3]);
    }

    #[test]
    fn replies_as_the_document_draws_them() {
        assert_eq!(simple_reply(7, Some(Errno::NoSpc))[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 28]);
        let head = only_chunk(7, chunk::OFFSET_DATA, 520);
        assert_eq!(head[..8], [0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 1]);
        assert_eq!(head[16..], [0, 0, 2, 8]);
        let head = only_extended_chunk(7, 0x1000, chunk::BLOCK_STATUS_EXT, 24);
        assert_eq!(head[..8], [0x6e, 0x8a, 0x27, 0x8c, 0, 1, 0, 6]);
        assert_eq!(head[16..], [0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 24]);
        let reply = option_reply(option::GO, reply::ERR_UNKNOWN, b"no");
        assert_eq!(reply[8..], [0, 0, 0, 7, 0x80, 0, 0, 6, 0, 0, 0, 2, b'n', b'o']);
    }

    #[test]
    fn data_of_options_is_whole_or_refused() {
        let go = [0, 0, 0, 1, b'a', 0, 2, 0, 3, 0, 0];
        let wanted = Wanted { name: b"a", infos: vec![info::BLOCK_SIZE, info::EXPORT] };
        assert_eq!(Wanted::parse(&go), Some(wanted));
        let mut context = vec![0, 0, 0, 1, b'a', 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 5];
        context.extend(b"base:");
        let contexts = Contexts { name: b"a", queries: vec![b"", b"base:"] };
        assert_eq!(Contexts::parse(&context), Some(contexts));
        for end in 0..go.len() {
            assert_eq!(Wanted::parse(&go[..end]), None, "{end}");
        }
        for end in 0..context.len() {
            assert_eq!(Contexts::parse(&context[..end]), None, "{end}");
        }
        assert_eq!(Wanted::parse(&[&go[..], &[0]].concat()), None, "more than it announces");
        assert_eq!(Contexts::parse(&[&context[..], &[0]].concat()), None, "more than it announces");
        assert_eq!(Contexts::parse(&[0, 0, 0, 0, 255, 255, 255, 255]), None, "a count out of thin air");
        assert_eq!(Wanted::parse(&[255; 64]), None, "a length out of thin air");
    }

    proptest! {
        #[test]
        fn what_is_emitted_is_parsed(bytes: [u8; REQUEST_HEAD]) {
            let mut bytes = bytes;
            bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
            prop_assert_eq!(Request::parse(&bytes).unwrap().emit(), bytes);
        }

        #[test]
        fn what_is_emitted_with_an_extended_header_is_parsed(bytes: [u8; EXTENDED_HEAD]) {
            let mut bytes = bytes;
            bytes[..4].copy_from_slice(&EXTENDED_REQUEST_MAGIC.to_be_bytes());
            prop_assert_eq!(Request::parse_extended(&bytes).unwrap().emit_extended(), bytes);
        }

        #[test]
        fn nothing_panics(data in proptest::collection::vec(any::<u8>(), 0..200), small: [u8; 4]) {
            // Random lengths are nearly always too long: a small one goes further.
            let mut near = data.clone();
            for (at, byte) in small.iter().enumerate().filter(|(at, _)| at * 4 + 4 <= data.len()) {
                near[at * 4..at * 4 + 4].copy_from_slice(&u32::from(byte % 9).to_be_bytes());
            }
            for data in [data, near] {
                if let Some(wanted) = Wanted::parse(&data) {
                    prop_assert_eq!(6 + wanted.name.len() + 2 * wanted.infos.len(), data.len());
                }
                if let Some(contexts) = Contexts::parse(&data) {
                    let queries: usize = contexts.queries.iter().map(|query| 4 + query.len()).sum();
                    prop_assert_eq!(8 + contexts.name.len() + queries, data.len());
                }
                if let Some(head) = data.first_chunk() {
                    let _ = option_head(head);
                }
            }
        }
    }
}
