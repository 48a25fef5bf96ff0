//! The partial parity log of RAID5, its headers: is there a log, is it whole, does it hold anything.
//!
//! A log is a header of 4 KiB and, behind it, the partial parity its entries speak of. With several logs in
//! the area they follow each other, and the newest is the last of an unbroken walk from the start. Replaying
//! is done above; here entries are only read. CRC-32C lives here because this is the only structure of md's
//! that uses it.

use alloc::vec::Vec;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::superblock::Uuid;
use crate::error::{Error, ErrorKind};
use crate::units::{Lba, Sectors};

/// Bytes of a header.
pub const HEADER_BYTES: usize = 4096;
/// The same in sectors.
pub const HEADER: Sectors = Sectors(8);
/// Most entries a header has room for.
pub const MAX_ENTRIES: usize = 148;

/// A header, its checksum and signature found right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// Raised with every log written, one counter for the LU; starts anew when the LU is started.
    pub generation: u64,
    /// What is logged, at most [`MAX_ENTRIES`].
    pub entries: Vec<Entry>,
}

/// One entry: rows of one stripe whose parity was about to change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// First sector of the LU that was being written.
    pub data_sector: Lba,
    /// Bytes of partial parity behind the header, a multiple of 4096; 0 if whole stripes were written.
    pub pp_size: u32,
    /// Bytes being written, over all members.
    pub data_size: u32,
    /// Slot of the parity.
    pub parity_disk: u32,
    /// CRC-32C of the partial parity.
    pub checksum: u32,
}

/// Why a header is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Not enough bytes for a header.
    #[error("only {bytes} bytes, a partial parity log's header has 4096")]
    Short {
        /// Bytes handed in.
        bytes: usize,
    },
    /// No header, or a damaged one.
    #[error(
        "PPL header checksum {stored:#010x}: no header here or a damaged one, its sum is {computed:#010x}"
    )]
    Checksum {
        /// Checksum stored.
        stored: u32,
        /// Checksum the bytes have.
        computed: u32,
    },
    /// The log of another LU.
    #[error("PPL header signature {found:#010x}: of another LU, this one's is {wanted:#010x}")]
    Signature {
        /// Signature stored.
        found: u32,
        /// Signature of the LU asked about.
        wanted: u32,
    },
    /// More entries than there is room for.
    #[error("PPL header entries_count {count}: there is room for {MAX_ENTRIES}")]
    Entries {
        /// Entries claimed.
        count: u32,
    },
    /// Partial parity comes in blocks.
    #[error("PPL entry {index}, pp_size {pp_size}: not a multiple of 4096")]
    PartialParity {
        /// Which entry.
        index: usize,
        /// Bytes claimed.
        pp_size: u32,
    },
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        Error::new(ErrorKind::Format, alloc::format!("{refusal}"))
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEntry {
    data_sector: U64,
    pp_size: U32,
    data_size: U32,
    parity_disk: U32,
    checksum: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    /// All ones.
    reserved: [u8; 512],
    signature: U32,
    pad: U32,
    generation: U64,
    entries_count: U32,
    checksum: U32,
    entries: [RawEntry; MAX_ENTRIES],
    rest: [u8; 8],
}

const _: () = assert!(size_of::<Raw>() == HEADER_BYTES);
const CHECKSUM: core::ops::Range<usize> = 532..536;

impl Header {
    /// The header with which the log of a freshly made or started LU begins.
    pub const fn empty() -> Header {
        Header { generation: 0, entries: Vec::new() }
    }

    /// Reads the header at the start of `bytes`, of the LU `set_uuid`.
    ///
    /// # Errors
    /// The first thing that is wrong. A checksum that does not match is also how an area without a log looks.
    pub fn parse(bytes: &[u8], set_uuid: Uuid) -> Result<Header, Refusal> {
        let short = Refusal::Short { bytes: bytes.len() };
        let bytes = bytes.get(..HEADER_BYTES).ok_or(short)?;
        let (raw, _) = Raw::ref_from_prefix(bytes).map_err(|_| short)?;
        let (stored, computed) = (raw.checksum.get(), header_checksum(bytes, append));
        if stored != computed {
            return Err(Refusal::Checksum { stored, computed });
        }
        let (found, wanted) = (raw.signature.get(), signature(set_uuid));
        if found != wanted {
            return Err(Refusal::Signature { found, wanted });
        }
        let count = raw.entries_count.get();
        let entries = raw.entries.get(..count as usize).ok_or(Refusal::Entries { count })?;
        let entries: Vec<Entry> = entries.iter().map(RawEntry::entry).collect();
        match entries.iter().enumerate().find(|(_, entry)| entry.pp_size % 4096 != 0) {
            Some((index, entry)) => Err(Refusal::PartialParity { index, pp_size: entry.pp_size }),
            None => Ok(Header { generation: raw.generation.get(), entries }),
        }
    }

    /// The header as it goes to disk, [`HEADER_BYTES`] long. Entries beyond [`MAX_ENTRIES`] are left out.
    pub fn emit(&self, set_uuid: Uuid) -> Vec<u8> {
        let mut bytes = alloc::vec![0; HEADER_BYTES];
        emit_into(&mut bytes, set_uuid, self.generation, &self.entries, append);
        bytes
    }

    /// Does the log hold anything to replay? (Whether that is called for, the superblock says.)
    pub fn is_live(&self) -> bool {
        !self.entries.is_empty()
    }

    /// Sectors of header and partial parity; the next log of the area begins behind them.
    pub fn length(&self) -> Sectors {
        let parity: u64 = self.entries.iter().map(|entry| u64::from(entry.pp_size)).sum();
        Sectors(HEADER.0 + parity / 512)
    }
}

/// Goes on with a CRC-32C: [`append`], or whatever does the same faster on this CPU. A record's checksums are on the way of
/// every small write.
pub type Crc32c = fn(u32, &[u8]) -> u32;

/// Writes a header over the first [`HEADER_BYTES`] of `bytes`. Entries beyond [`MAX_ENTRIES`] are left out; nothing is written
/// if there is not enough room.
pub fn emit_into(bytes: &mut [u8], set_uuid: Uuid, generation: u64, entries: &[Entry], crc: Crc32c) {
    let Some(bytes) = bytes.get_mut(..HEADER_BYTES) else { return };
    bytes.fill(0);
    let Ok((raw, _)) = Raw::mut_from_prefix(bytes) else { return };
    raw.reserved.fill(0xff);
    raw.signature = U32::new(signature(set_uuid));
    raw.generation = U64::new(generation);
    raw.entries_count = U32::new(entries.len().min(MAX_ENTRIES) as u32);
    for (to, from) in raw.entries.iter_mut().zip(entries) {
        *to = RawEntry::of(from);
    }
    let checksum = header_checksum(bytes, crc);
    bytes[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
}

impl RawEntry {
    fn entry(&self) -> Entry {
        Entry {
            data_sector: Lba(self.data_sector.get()),
            pp_size: self.pp_size.get(),
            data_size: self.data_size.get(),
            parity_disk: self.parity_disk.get(),
            checksum: self.checksum.get(),
        }
    }

    fn of(entry: &Entry) -> RawEntry {
        RawEntry {
            data_sector: U64::new(entry.data_sector.0),
            pp_size: U32::new(entry.pp_size),
            data_size: U32::new(entry.data_size),
            parity_disk: U32::new(entry.parity_disk),
            checksum: U32::new(entry.checksum),
        }
    }
}

/// The newest log of an area of `size`, and where in it its header is. Walks from the start as long as
/// headers are right, generations do not fall, and logs fit. `read` fills the buffer it is handed from a
/// sector of the area on.
///
/// `Ok(Err(refusal))`: there is none; so says the first header.
///
/// # Errors
/// What `read` returns.
pub fn newest<E>(
    set_uuid: Uuid,
    size: Sectors,
    mut read: impl FnMut(Sectors, &mut [u8]) -> Result<(), E>,
) -> Result<Result<(Sectors, Header), Refusal>, E> {
    let mut bytes = alloc::vec![0; HEADER_BYTES];
    let mut newest: Option<(Sectors, Header)> = None;
    let mut at = Sectors(0);
    let mut reason = Refusal::Short { bytes: usize::try_from(size.bytes()).unwrap_or(usize::MAX) };
    while at.0.saturating_add(HEADER.0) <= size.0 {
        read(at, &mut bytes)?;
        let header = match Header::parse(&bytes, set_uuid) {
            Ok(header) => header,
            Err(refusal) => {
                reason = refusal;
                break;
            }
        };
        if newest.as_ref().is_some_and(|(_, last)| header.generation < last.generation) {
            break;
        }
        let next = at + header.length();
        newest = Some((at, header));
        at = next;
    }
    Ok(newest.ok_or(reason))
}

/// What marks a header as the LU's: the CRC-32C of its UUID.
pub const fn signature(set_uuid: Uuid) -> u32 {
    !crc32c_raw(!0, &set_uuid.0)
}

/// The checksum of a header: CRC-32C with the field itself taken as zero.
fn header_checksum(bytes: &[u8], crc: Crc32c) -> u32 {
    let before = crc(0, &bytes[..CHECKSUM.start]);
    crc(crc(before, &[0; 4]), &bytes[CHECKSUM.end..])
}

/// CRC-32C (Castagnoli, reflected, polynomial 0x82f63b78, start and end inverted).
pub const fn crc32c(bytes: &[u8]) -> u32 {
    append(0, bytes)
}

/// The CRC-32C of some bytes, whose own is `before`, and `bytes` behind them.
pub const fn append(before: u32, bytes: &[u8]) -> u32 {
    !crc32c_raw(!before, bytes)
}

/// Eight bytes at a time ("slicing by 8").
const fn crc32c_raw(mut crc: u32, mut bytes: &[u8]) -> u32 {
    while let [a, b, c, d, e, f, g, h, rest @ ..] = bytes {
        let low = crc ^ u32::from_le_bytes([*a, *b, *c, *d]);
        crc = CRC_TABLES[7][(low & 0xff) as usize]
            ^ CRC_TABLES[6][(low >> 8 & 0xff) as usize]
            ^ CRC_TABLES[5][(low >> 16 & 0xff) as usize]
            ^ CRC_TABLES[4][(low >> 24) as usize]
            ^ CRC_TABLES[3][*e as usize]
            ^ CRC_TABLES[2][*f as usize]
            ^ CRC_TABLES[1][*g as usize]
            ^ CRC_TABLES[0][*h as usize];
        bytes = rest;
    }
    while let [byte, rest @ ..] = bytes {
        crc = CRC_TABLES[0][((crc ^ *byte as u32) & 0xff) as usize] ^ crc >> 8;
        bytes = rest;
    }
    crc
}

/// What a byte contributes when `n` more bytes follow it, for each `n` below 8.
static CRC_TABLES: [[u32; 256]; 8] = {
    let mut tables = [[0; 256]; 8];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        tables[0][i] = crc;
        i += 1;
    }
    let mut n = 1;
    while n < 8 {
        let mut i = 0;
        while i < 256 {
            let before = tables[n - 1][i];
            tables[n][i] = tables[0][(before & 0xff) as usize] ^ before >> 8;
            i += 1;
        }
        n += 1;
    }
    tables
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UUID: Uuid = Uuid([3; 16]);

    fn entry(pp_size: u32) -> Entry {
        Entry { data_sector: Lba(1200), pp_size, data_size: 8192, parity_disk: 2, checksum: 77 }
    }

    #[test]
    fn crc_of_the_check_string() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(b""), 0);
        // Bit by bit, over lengths on both sides of the step.
        let slow = |bytes: &[u8]| {
            !bytes.iter().fold(!0u32, |crc, &byte| {
                (0..8).fold(crc ^ u32::from(byte), |crc, _| {
                    crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
                })
            })
        };
        let bytes: Vec<u8> = (0..100u8).map(|i| i.wrapping_mul(37) ^ 0x5a).collect();
        assert!((0..100).all(|len| crc32c(&bytes[..len]) == slow(&bytes[..len])));
    }

    #[test]
    fn round_trip() {
        let header = Header { generation: 5, entries: (0..148).map(|i| entry(i * 4096)).collect() };
        assert_eq!(Header::parse(&header.emit(UUID), UUID), Ok(header.clone()));
        assert_eq!(header.length(), Sectors(8 + 8 * (147 * 148 / 2)));
        assert!(header.is_live() && !Header::empty().is_live());
    }

    #[test]
    fn each_rule_refuses() {
        let good = Header::empty().emit(UUID);
        assert!(matches!(Header::parse(&good[..4095], UUID), Err(Refusal::Short { bytes: 4095 })));
        assert!(matches!(Header::parse(&[0; 4096], UUID), Err(Refusal::Checksum { .. })));
        assert!(matches!(Header::parse(&good, Uuid([4; 16])), Err(Refusal::Signature { .. })));
        let odd = Header { generation: 1, entries: alloc::vec![entry(0), entry(512)] }.emit(UUID);
        assert_eq!(Header::parse(&odd, UUID), Err(Refusal::PartialParity { index: 1, pp_size: 512 }));
        let mut many = good;
        many[528..532].copy_from_slice(&149u32.to_le_bytes());
        let sum = header_checksum(&many, append);
        many[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(Header::parse(&many, UUID), Err(Refusal::Entries { count: 149 }));
    }

    /// The logs `generations`, each with one block of partial parity, one behind the other.
    fn area(generations: &[u64]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &generation in generations {
            bytes.extend(Header { generation, entries: alloc::vec![entry(4096)] }.emit(UUID));
            bytes.extend([0x55; 4096]);
        }
        bytes.resize(bytes.len() + 8192, 0);
        bytes
    }

    fn walk(bytes: &[u8]) -> Result<(Sectors, Header), Refusal> {
        let size = Sectors::from_bytes_floor(bytes.len() as u64);
        newest(UUID, size, |at, buffer| {
            let from = at.bytes() as usize;
            buffer.copy_from_slice(&bytes[from..from + buffer.len()]);
            Ok::<_, ()>(())
        })
        .unwrap()
    }

    #[test]
    fn the_newest_is_the_last_of_the_unbroken_walk() {
        assert_eq!(walk(&area(&[4, 5, 6])).unwrap().0, Sectors(32));
        assert_eq!(walk(&area(&[4, 5, 3])).unwrap().0, Sectors(16));
        assert!(matches!(walk(&area(&[])), Err(Refusal::Checksum { .. })));
        assert!(matches!(walk(&[0; 512]), Err(Refusal::Short { bytes: 512 })));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(start: u16, noise in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut bytes = Header::empty().emit(UUID);
            let at = usize::from(start) % 4000;
            bytes[at..at + noise.len()].copy_from_slice(&noise);
            let _ = Header::parse(&bytes, UUID);
            let sum = header_checksum(&bytes, append);
            bytes[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
            let _ = walk(&bytes);
        }
    }
}
