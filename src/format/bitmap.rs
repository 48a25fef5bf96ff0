//! The write-intent bitmap: which parts of the LU may disagree between members after a crash.
//!
//! A header of 256 bytes, then one bit a chunk, least significant bit first, set while the chunk may be out
//! of step. Every active member has the same copy. The bits behind the last chunk are commonly set too and
//! mean nothing; the functions here never count them. There is no checksum. Whether a bitmap is too old to be
//! believed is for the floor that compares it with the superblocks.

use core::fmt;
use core::ops::Range;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::superblock::Uuid;
use crate::error::{Error, ErrorKind};
use crate::units::Sectors;

/// Bytes of the header; the bits follow at once.
pub const HEADER_BYTES: usize = 256;

/// Bit of `state`: the bits are too old to be believed; all count as set.
pub const STATE_STALE: u32 = 1 << 1;
/// Bit of `state`: a write of the bitmap failed.
pub const STATE_WRITE_ERROR: u32 = 1 << 2;
/// Bit of `state`: the bits are in the byte order of the machine that wrote them (version 3).
pub const STATE_HOST_ENDIAN: u32 = 1 << 15;

const MAGIC: u32 = 0x6d74_6962;

/// The facts of a bitmap's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// 4; 3 is an old one, read as little-endian.
    pub version: u32,
    /// The LU's, as in the superblock.
    pub uuid: Uuid,
    /// Event count of the LU when the bitmap was last written; never behind the superblock's.
    pub events: u64,
    /// Event count up to which a member that left can come back with the bitmap's help.
    pub events_cleared: u64,
    /// Sectors covered: of each member on raid1/4/5/6, of the LU on raid10.
    pub sync_size: Sectors,
    /// [`STATE_STALE`], [`STATE_WRITE_ERROR`], [`STATE_HOST_ENDIAN`].
    pub state: u32,
    /// Bytes one bit stands for: a power of two, at least 512.
    pub chunk_bytes: u32,
    /// Seconds between rounds of clearing bits; at least 1.
    pub daemon_sleep: u32,
    /// Writes a write-mostly member may lag behind; 0 is off.
    pub write_behind: u32,
    /// Sectors kept free for the bitmap; 0 is unknown.
    pub sectors_reserved: u32,
}

/// Why a bitmap is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Not enough bytes for a header.
    #[error("only {bytes} bytes, a bitmap's header has 256")]
    Short {
        /// Bytes handed in.
        bytes: usize,
    },
    /// No bitmap.
    #[error("bitmap magic {found:#010x}: no write-intent bitmap here")]
    Magic {
        /// The first four bytes.
        found: u32,
    },
    /// Clustered (5), lockless (6), or unknown.
    #[error("bitmap version {version} ({kind}): only 3 and 4 are understood")]
    Version {
        /// Version stored.
        version: u32,
        /// What that version is.
        kind: &'static str,
    },
    /// Not a chunk.
    #[error("bitmap chunksize {bytes}: not a power of two from 512 bytes on")]
    Chunk {
        /// Bytes stored.
        bytes: u32,
    },
    /// The clearing rounds would never wait.
    #[error("bitmap daemon_sleep 0: at least one second")]
    DaemonSleep,
    /// Beyond what md accepts.
    #[error("bitmap write_behind {writes}: at most 16383")]
    WriteBehind {
        /// Writes stored.
        writes: u32,
    },
    /// Shared between hosts.
    #[error("bitmap nodes {nodes}: a clustered bitmap, not supported")]
    Nodes {
        /// Nodes stored.
        nodes: u32,
    },
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        Error::new(ErrorKind::Format, alloc::format!("{refusal}"))
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    magic: U32,
    version: U32,
    uuid: [u8; 16],
    events: U64,
    events_cleared: U64,
    sync_size: U64,
    state: U32,
    chunksize: U32,
    daemon_sleep: U32,
    write_behind: U32,
    sectors_reserved: U32,
    nodes: U32,
    cluster_name: [u8; 64],
    pad: [u8; 120],
}

const _: () = assert!(size_of::<Raw>() == HEADER_BYTES);

impl Header {
    /// The header of a new bitmap of the LU `uuid` over `sync_size`, a bit for every `chunk_bytes` (a power
    /// of two, at least 512), clearing rounds of 5 s.
    pub const fn new(uuid: Uuid, sync_size: Sectors, chunk_bytes: u32) -> Header {
        Header {
            version: 4,
            uuid,
            events: 0,
            events_cleared: 0,
            sync_size,
            state: 0,
            chunk_bytes,
            daemon_sleep: 5,
            write_behind: 0,
            // Any other value would let the kernel grow the bitmap over what lies behind it.
            sectors_reserved: 0,
        }
    }

    /// Reads the header at the start of `bytes`.
    ///
    /// # Errors
    /// The first field that is not as it must be.
    pub fn parse(bytes: &[u8]) -> Result<Header, Refusal> {
        let (raw, _) = Raw::ref_from_prefix(bytes).map_err(|_| Refusal::Short { bytes: bytes.len() })?;
        if raw.magic.get() != MAGIC {
            return Err(Refusal::Magic { found: raw.magic.get() });
        }
        let version = raw.version.get();
        if !(3..=4).contains(&version) {
            let kind = match version {
                5 => "clustered",
                6 => "lockless",
                _ => "unknown",
            };
            return Err(Refusal::Version { version, kind });
        }
        let header = Header {
            version,
            uuid: Uuid(raw.uuid),
            events: raw.events.get(),
            events_cleared: raw.events_cleared.get(),
            sync_size: Sectors(raw.sync_size.get()),
            state: raw.state.get(),
            chunk_bytes: raw.chunksize.get(),
            daemon_sleep: raw.daemon_sleep.get(),
            write_behind: raw.write_behind.get(),
            sectors_reserved: raw.sectors_reserved.get(),
        };
        header.check(raw.nodes.get()).map(|()| header)
    }

    fn check(&self, nodes: u32) -> Result<(), Refusal> {
        if !self.chunk_bytes.is_power_of_two() || self.chunk_bytes < 512 {
            Err(Refusal::Chunk { bytes: self.chunk_bytes })
        } else if self.daemon_sleep == 0 {
            Err(Refusal::DaemonSleep)
        } else if self.write_behind > 16383 {
            Err(Refusal::WriteBehind { writes: self.write_behind })
        } else if nodes != 0 {
            Err(Refusal::Nodes { nodes })
        } else {
            Ok(())
        }
    }

    /// Writes the fields over the header at the start of `bytes`; cluster fields, padding and bits stay.
    ///
    /// # Panics
    /// If `bytes` is shorter than [`HEADER_BYTES`].
    pub fn write_into(&self, bytes: &mut [u8]) {
        let header = &mut bytes[..HEADER_BYTES];
        let Ok((raw, _)) = Raw::mut_from_prefix(header) else { return };
        raw.magic = U32::new(MAGIC);
        raw.version = U32::new(self.version);
        raw.uuid = self.uuid.0;
        raw.events = U64::new(self.events);
        raw.events_cleared = U64::new(self.events_cleared);
        raw.sync_size = U64::new(self.sync_size.0);
        raw.state = U32::new(self.state);
        raw.chunksize = U32::new(self.chunk_bytes);
        raw.daemon_sleep = U32::new(self.daemon_sleep);
        raw.write_behind = U32::new(self.write_behind);
        raw.sectors_reserved = U32::new(self.sectors_reserved);
    }

    /// What one bit stands for.
    pub const fn chunk(&self) -> Sectors {
        Sectors(self.chunk_bytes as u64 / 512)
    }

    /// How many bits mean something: `sync_size` in chunks, rounded up.
    pub const fn bits(&self) -> u64 {
        if self.chunk_bytes < 512 { 0 } else { self.sync_size.0.div_ceil(self.chunk().0) }
    }

    /// Bytes of header and bits.
    pub const fn bytes_used(&self) -> u64 {
        HEADER_BYTES as u64 + self.bits().div_ceil(8)
    }

    /// Are the bits marked as too old?
    pub const fn is_stale(&self) -> bool {
        self.state & STATE_STALE != 0
    }

    /// How many chunks are marked. `bits` are the bytes behind the header, as many as there are; bits without
    /// a chunk do not count, and chunks without a bit count as clear.
    pub fn count_set(&self, bits: &[u8]) -> u64 {
        let bits_used = self.bits();
        let whole = usize::try_from(bits_used / 8).unwrap_or(usize::MAX).min(bits.len());
        let full: u64 = bits[..whole].iter().map(|byte| u64::from(byte.count_ones())).sum();
        let tail = match bits.get(whole) {
            Some(byte) if (whole as u64) == bits_used / 8 => byte & ((1u8 << (bits_used % 8)) - 1),
            _ => 0,
        };
        full + u64::from(tail.count_ones())
    }

    /// The runs of marked chunks, in order, counted in chunks. `bits` as for
    /// [`count_set`](Header::count_set).
    pub fn set_runs<'a>(&self, bits: &'a [u8]) -> impl Iterator<Item = Range<u64>> + use<'a> {
        let limit = self.bits().min((bits.len() as u64).saturating_mul(8));
        let mut at = 0;
        core::iter::from_fn(move || {
            let start = next(bits, at..limit, true)?;
            at = next(bits, start..limit, false).unwrap_or(limit);
            Some(start..at)
        })
    }
}

/// The first bit within `range` that is `wanted`. `range` must end within `bits`.
fn next(bits: &[u8], range: Range<u64>, wanted: bool) -> Option<u64> {
    let skip = if wanted { 0 } else { 0xff };
    let mut at = range.start;
    while at < range.end {
        let byte = bits[(at / 8) as usize];
        if at.is_multiple_of(8) && byte == skip {
            at += 8;
        } else if (byte >> (at % 8) & 1 == 1) == wanted {
            return Some(at);
        } else {
            at += 1;
        }
    }
    None
}

/// The chunk mdadm gives a bitmap that covers `sync_size` and may take `space`, header included: the smallest
/// power of two from 64 MiB on with which the bits fit the space, of which at most 128 KiB count. In bytes.
pub fn default_chunk_bytes(sync_size: Sectors, space: Sectors) -> u32 {
    let room = space.bytes().min(128 << 10).saturating_sub(HEADER_BYTES as u64).saturating_mul(8);
    let mut chunk = 64u32 << 20;
    while chunk < 1 << 31 && sync_size.0.div_ceil(u64::from(chunk) / 512) > room {
        chunk <<= 1;
    }
    chunk
}

impl fmt::Display for Header {
    /// One line for people: version, size of a chunk, bits, events, state.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Header { version, chunk_bytes, events, events_cleared, .. } = self;
        let bits = self.bits();
        write!(f, "version {version}, {bits} bits of {chunk_bytes} bytes, ")?;
        write!(f, "events {events}, cleared {events_cleared}")?;
        for (bit, name) in
            [(STATE_STALE, "stale"), (STATE_WRITE_ERROR, "write error"), (STATE_HOST_ENDIAN, "host endian")]
        {
            if self.state & bit != 0 {
                write!(f, ", {name}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn header(sync_size: u64, chunk_bytes: u32) -> Header {
        Header::new(Uuid([7; 16]), Sectors(sync_size), chunk_bytes)
    }

    #[test]
    fn round_trip_keeps_foreign_bytes() {
        let mut bytes = vec![0xaa; 300];
        bytes[68..72].fill(0); // nodes
        let before = Header { events: 9, events_cleared: 8, ..header(1536, 4096) };
        before.write_into(&mut bytes);
        assert_eq!(Header::parse(&bytes), Ok(before));
        assert!(bytes[72..].iter().all(|&byte| byte == 0xaa));
    }

    #[test]
    fn each_rule_refuses() {
        let mut good = vec![0; 256];
        header(1536, 4096).write_into(&mut good);
        let with = |at: usize, value: u32| {
            let mut bytes = good.clone();
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            Header::parse(&bytes)
        };
        assert_eq!(with(0, 1), Err(Refusal::Magic { found: 1 }));
        assert_eq!(with(4, 5), Err(Refusal::Version { version: 5, kind: "clustered" }));
        assert_eq!(with(4, 6), Err(Refusal::Version { version: 6, kind: "lockless" }));
        assert_eq!(with(52, 768), Err(Refusal::Chunk { bytes: 768 }));
        assert_eq!(with(52, 256), Err(Refusal::Chunk { bytes: 256 }));
        assert_eq!(with(56, 0), Err(Refusal::DaemonSleep));
        assert_eq!(with(60, 16384), Err(Refusal::WriteBehind { writes: 16384 }));
        assert_eq!(with(68, 2), Err(Refusal::Nodes { nodes: 2 }));
        assert!(with(4, 3).is_ok());
        assert_eq!(Header::parse(&good[..255]), Err(Refusal::Short { bytes: 255 }));
    }

    #[test]
    fn bits_behind_the_last_chunk_do_not_count() {
        // 1536 sectors in chunks of 64 KiB: 12 bits.
        let header = header(1536, 65536);
        assert_eq!((header.bits(), header.bytes_used()), (12, 258));
        assert_eq!(header.count_set(&[0xff; 10]), 12);
        assert_eq!(header.count_set(&[0xff]), 8);
        assert_eq!(header.set_runs(&[0b1000_0110, 0xff]).collect::<Vec<_>>(), [1..3, 7..12]);
    }

    #[test]
    fn default_chunk_fits_the_space() {
        assert_eq!(default_chunk_bytes(Sectors(1 << 20), Sectors(8)), 64 << 20);
        let (huge, space) = (Sectors(29_296_875_000), Sectors(256));
        let chunk = default_chunk_bytes(huge, space);
        assert_eq!(chunk, 64 << 20);
        let small = default_chunk_bytes(huge, Sectors(8));
        assert!(header(huge.0, small).bytes_used() <= 4096 && header(huge.0, small / 2).bytes_used() > 4096);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400), magic: bool) {
            if magic && bytes.len() >= 256 {
                let keep = bytes.clone();
                header(77, 512).write_into(&mut bytes);
                bytes[40..72].copy_from_slice(&keep[40..72]);
            }
            if let Ok(header) = Header::parse(&bytes) {
                let set: u64 = header.set_runs(&bytes[256..]).map(|run| run.end - run.start).sum();
                prop_assert_eq!(set, header.count_set(&bytes[256..]));
                prop_assert!(set <= header.bits());
            }
        }

        #[test]
        fn runs_agree_with_counting_one_by_one(
            bits in prop::collection::vec(any::<u8>(), 0..40),
            n in 0u64..350,
        ) {
            let header = header(n, 512);
            let set = (0..n).filter(|&i| bits.get((i / 8) as usize).is_some_and(|b| b >> (i % 8) & 1 == 1));
            let set: Vec<u64> = set.collect();
            prop_assert_eq!(header.count_set(&bits), set.len() as u64);
            prop_assert_eq!(header.set_runs(&bits).flatten().collect::<Vec<_>>(), set);
        }
    }
}
