//! What else a disk may carry: signatures of file systems, partition tables, volumes and other RAID formats.
//!
//! One question: would writing here destroy something? [`probe`] answers with everything it recognises, by
//! one table of magic bytes and a few functions for what needs more than that. A disk of zeros carries
//! nothing. Magic of two bytes only counts if the fields around it make sense; but a left-over signature is
//! reported like a live one, since only the owner can tell them apart.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::superblock::{Minor, escaped};
use crate::error::Result;
use crate::units::{DiskLba, Sectors};

/// Something found on a disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signature {
    /// What it is, for people.
    pub what: &'static str,
    /// The sector the signature is in.
    pub at: DiskLba,
    /// The name its owner gave it, if it has one.
    pub label: Option<String>,
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        if let Some(label) = &self.label {
            write!(f, " \"{label}\"")?;
        }
        write!(f, " at {}", self.at)
    }
}

/// RAID metadata that is not md's v1 format.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ForeignRaid {
    /// md's format before v1.
    Md090,
    /// Intel Rapid Storage.
    Imsm,
    /// SNIA's Disk Data Format.
    Ddf,
}

impl ForeignRaid {
    /// What it is called in a [`Signature`].
    pub const fn name(self) -> &'static str {
        match self {
            ForeignRaid::Md090 => "md superblock 0.90",
            ForeignRaid::Imsm => "Intel IMSM",
            ForeignRaid::Ddf => "DDF",
        }
    }
}

impl fmt::Display for ForeignRaid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Everything recognised on a disk of `disk` sectors, in order of place. `read` fills the buffer it is handed
/// from a sector on; it is asked for whole sectors that lie on the disk, aligned to 64 KiB but for the disk's
/// end.
///
/// # Errors
/// The first one of `read`.
pub fn probe(disk: Sectors, read: impl FnMut(DiskLba, &mut [u8]) -> Result<()>) -> Result<Vec<Signature>> {
    let mut disk = Disk::new(disk, read);
    let mut found = Vec::new();
    for magic in MAGIC {
        found.extend(magic.find(&mut disk)?);
    }
    found.extend(md(&mut disk)?);
    found.extend(foreign(&mut disk)?.map(|(raid, at)| signature(raid.name(), at, None)));
    found.extend(ext(&mut disk)?);
    found.extend(swap(&mut disk)?);
    found.extend(udf(&mut disk)?);
    found.extend(zfs(&mut disk)?);
    found.extend(drbd(&mut disk)?);
    found.extend(lvm2(&mut disk)?);
    found.extend(two_byte_magic(&mut disk)?);
    let gpt = gpt(&mut disk)?;
    found.extend(mbr(&mut disk, gpt.is_some())?);
    found.extend(gpt);
    found.sort_by_key(|signature| signature.at);
    let mut seen = Vec::new();
    found.retain(|signature| {
        !seen.contains(&signature.what) && {
            seen.push(signature.what);
            true
        }
    });
    Ok(found)
}

/// RAID metadata of another kind than md's v1, if the disk carries it.
///
/// # Errors
/// The first one of `read`.
pub fn foreign_raid(
    disk: Sectors,
    read: impl FnMut(DiskLba, &mut [u8]) -> Result<()>,
) -> Result<Option<ForeignRaid>> {
    Ok(foreign(&mut Disk::new(disk, read))?.map(|(raid, _)| raid))
}

/// Magic bytes at a fixed place that are enough by themselves.
struct Magic {
    what: &'static str,
    /// Byte on the disk.
    at: u64,
    magic: &'static [u8],
    label: Label,
}

/// Where a label is, in bytes from the start of the disk.
enum Label {
    None,
    Text(u64, usize),
    /// UTF-16, little-endian; length in bytes.
    Wide(u64, usize),
}

const fn magic(what: &'static str, at: u64, magic: &'static [u8], label: Label) -> Magic {
    Magic { what, at, magic, label }
}

use Label::{None as NoLabel, Text, Wide};

#[rustfmt::skip]
const MAGIC: &[Magic] = &[
    magic("LUKS1 volume",           0,       b"LUKS\xba\xbe\0\x01",  NoLabel),
    magic("LUKS2 volume",           0,       b"LUKS\xba\xbe\0\x02",  Text(24, 48)),
    magic("LUKS2 volume",           16384,   b"SKUL\xba\xbe\0\x02",  NoLabel),
    magic("BitLocker volume",       3,       b"-FVE-FS-",            NoLabel),
    magic("xfs file system",        0,       b"XFSB",                Text(108, 12)),
    magic("btrfs",                  65600,   b"_BHRfS_M",            Text(65536 + 299, 256)),
    magic("bcachefs",               4120,    BCACHEFS,               Text(4096 + 72, 32)),
    magic("bcache",                 4120,    BCACHE,                 Text(4096 + 72, 32)),
    magic("ntfs",                   3,       b"NTFS    ",            NoLabel),
    magic("exfat",                  3,       b"EXFAT   ",            NoLabel),
    magic("vfat",                   82,      b"FAT32   ",            Text(71, 11)),
    magic("vfat",                   54,      b"FAT16   ",            Text(43, 11)),
    magic("vfat",                   54,      b"FAT12   ",            Text(43, 11)),
    magic("f2fs",                   1024,    b"\x10\x20\xf5\xf2",    Wide(1024 + 124, 1024)),
    magic("iso9660",                32769,   b"CD001",               Text(32768 + 40, 32)),
    magic("squashfs",               0,       b"hsqs",                NoLabel),
    magic("squashfs",               0,       b"sqsh",                NoLabel),
    magic("erofs",                  1024,    b"\xe2\xe1\xf5\xe0",    Text(1024 + 64, 16)),
    magic("cramfs",                 0,       b"\x45\x3d\xcd\x28",    Text(48, 16)),
    magic("romfs",                  0,       b"-rom1fs-",            NoLabel),
    magic("jfs",                    32768,   b"JFS1",                Text(32768 + 152, 16)),
    magic("reiserfs",               65588,   b"ReIsErFs",            Text(65536 + 100, 16)),
    magic("reiserfs",               65588,   b"ReIsEr2Fs",           Text(65536 + 100, 16)),
    magic("reiserfs",               65588,   b"ReIsEr3Fs",           Text(65536 + 100, 16)),
    magic("reiserfs",               8244,    b"ReIsErFs",            NoLabel),
    magic("reiser4",                65536,   b"ReIsEr4",             NoLabel),
    magic("ocfs2",                  1024,    b"OCFSV2",              NoLabel),
    magic("ocfs2",                  2048,    b"OCFSV2",              NoLabel),
    magic("ocfs2",                  4096,    b"OCFSV2",              NoLabel),
    magic("ocfs2",                  8192,    b"OCFSV2",              NoLabel),
    magic("gfs2",                   65536,   b"\x01\x16\x19\x70\0\0\0\x01", NoLabel),
    magic("ufs",                    9564,    b"\x54\x19\x01\x00",    NoLabel),
    magic("ufs",                    9564,    b"\x19\x01\x54\x19",    NoLabel),
    magic("ufs",                    66908,   b"\x19\x01\x54\x19",    NoLabel),
    magic("VMFS volume",            1 << 20, b"\x0d\xd0\x01\xc0",    NoLabel),
    magic("VMFS",                   2 << 20, b"\x5e\xf1\xab\x2f",    NoLabel),
    magic("APFS",                   32,      b"NXSB",                NoLabel),
    magic("hfs+",                   1024,    b"H+\0\x04",            NoLabel),
    magic("hfs+",                   1024,    b"HX\0\x05",            NoLabel),
    magic("Ceph BlueStore",         0,       b"bluestore block device", NoLabel),
    magic("VDO volume",             0,       b"dmvdo001",            NoLabel),
    magic("Stratis pool",           516,     b"!Stra0tis\x86\xff\x02^\x41rh", NoLabel),
    magic("Windows dynamic disk",   3072,    b"PRIVHEAD",            NoLabel),
];

const BCACHE: &[u8] = b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81";
const BCACHEFS: &[u8] = b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef";

impl Magic {
    fn find<R: Read>(&self, disk: &mut Disk<R>) -> Result<Option<Signature>> {
        if disk.bytes(self.at, self.magic.len())?.as_deref() != Some(self.magic) {
            return Ok(None);
        }
        let label = match self.label {
            Label::None => None,
            Label::Text(at, length) => disk.bytes(at, length)?.and_then(|bytes| text(&bytes)),
            Label::Wide(at, length) => disk.bytes(at, length)?.and_then(|bytes| wide(&bytes)),
        };
        Ok(Some(signature(self.what, self.at, label)))
    }
}

/// md's v1 superblocks by magic and version, whether or not they are in order.
fn md<R: Read>(disk: &mut Disk<R>) -> Result<Vec<Signature>> {
    let mut found = Vec::new();
    for minor in Minor::ALL {
        let Some(at) = minor.offset(disk.size).map(|at| at.bytes()) else { continue };
        if disk.bytes(at, 8)?.as_deref() == Some(b"\xfc\x4e\x2b\xa9\x01\0\0\0") {
            let label = disk.bytes(at + 32, 32)?.and_then(|bytes| text(&bytes));
            found.push(signature("md superblock 1.x", at, label));
        }
    }
    Ok(found)
}

/// RAID metadata at the end of the disk, and its byte.
fn foreign<R: Read>(disk: &mut Disk<R>) -> Result<Option<(ForeignRaid, u64)>> {
    let size = disk.size.bytes();
    // 0.90 is in the byte order of the machine that made it.
    if let Some(at) = (size & !0xffff).checked_sub(65536)
        && let Some(b"\xfc\x4e\x2b\xa9\0\0\0\0" | b"\xa9\x2b\x4e\xfc\0\0\0\0") = disk.bytes(at, 8)?.as_deref()
    {
        return Ok(Some((ForeignRaid::Md090, at)));
    }
    // The last sector but one, of either size.
    for sector in [512, 4096] {
        if let Some(at) = size.checked_sub(2 * sector)
            && disk.bytes(at, 24)?.as_deref() == Some(b"Intel Raid ISM Cfg. Sig.")
        {
            return Ok(Some((ForeignRaid::Imsm, at)));
        }
    }
    for sector in [512, 4096] {
        if let Some(at) = size.checked_sub(sector)
            && let Some(b"\xde\x11\xde\x11" | b"\x11\xde\x11\xde") = disk.bytes(at, 4)?.as_deref()
        {
            return Ok(Some((ForeignRaid::Ddf, at)));
        }
    }
    Ok(None)
}

/// ext2, 3 and 4 share one magic: features tell them apart.
fn ext<R: Read>(disk: &mut Disk<R>) -> Result<Option<Signature>> {
    const SUPERBLOCK: u64 = 1024;
    const HAS_JOURNAL: u32 = 0x4; // compatible
    const JOURNAL_DEVICE: u32 = 0x8; // incompatible
    const EXT4_INCOMPATIBLE: u32 = 0x40 | 0x80 | 0x100 | 0x200;
    const EXT4_READ_ONLY: u32 = 0x8 | 0x10 | 0x20 | 0x40 | 0x400;
    let Some(sb) = disk.bytes(SUPERBLOCK, 136)? else { return Ok(None) };
    // Blocks count, and a block is at most 64 KiB.
    if le16(&sb, 56) != 0xef53 || le32(&sb, 4) == 0 || le32(&sb, 24) > 6 {
        return Ok(None);
    }
    let (compatible, incompatible, read_only) = (le32(&sb, 92), le32(&sb, 96), le32(&sb, 100));
    let what = if incompatible & JOURNAL_DEVICE != 0 {
        "ext journal device"
    } else if incompatible & EXT4_INCOMPATIBLE != 0 || read_only & EXT4_READ_ONLY != 0 {
        "ext4 file system"
    } else if compatible & HAS_JOURNAL != 0 {
        "ext3 file system"
    } else {
        "ext2 file system"
    };
    Ok(Some(signature(what, SUPERBLOCK, text(&sb[120..]))))
}

/// A swap area ends its first page, of whatever size, with its magic; so does a sleeping system in it.
fn swap<R: Read>(disk: &mut Disk<R>) -> Result<Option<Signature>> {
    for page in [4096, 8192, 16384, 32768, 65536] {
        let what = match disk.bytes(page - 10, 10)?.as_deref() {
            Some(b"SWAPSPACE2" | b"SWAP-SPACE") => "swap area",
            Some(
                [b'S', b'1', b'S', b'U', b'S', b'P', b'E', b'N', b'D', _] | b"LINHIB0001" | b"S2SUSPEND\0",
            ) => "hibernated system",
            _ => continue,
        };
        let label = disk.bytes(1024 + 28, 16)?.and_then(|bytes| text(&bytes));
        return Ok(Some(signature(what, page - 10, label)));
    }
    Ok(None)
}

/// UDF announces itself among the volume descriptors from 32 KiB on, of 2 or 4 KiB each.
fn udf<R: Read>(disk: &mut Disk<R>) -> Result<Option<Signature>> {
    for at in (32768..32768 + 32 * 2048u64).step_by(2048) {
        if let Some(b"NSR02" | b"NSR03") = disk.bytes(at + 1, 5)?.as_deref() {
            return Ok(Some(signature("udf", at, None)));
        }
    }
    Ok(None)
}

/// ZFS keeps four labels of 256 KiB; the upper half of each is a ring of uberblocks.
fn zfs<R: Read>(disk: &mut Disk<R>) -> Result<Option<Signature>> {
    const LABEL: u64 = 256 << 10;
    let end = disk.size.bytes() & !(LABEL - 1);
    let labels = [Some(0), Some(LABEL), end.checked_sub(2 * LABEL), end.checked_sub(LABEL)];
    for label in labels.into_iter().flatten() {
        for at in (label + LABEL / 2..label + LABEL).step_by(1024) {
            let Some(uberblock) = disk.bytes(at, 16)? else { break };
            let (magic, version) = (u64_of(&uberblock, 0), u64_of(&uberblock, 8));
            let known = |version| (1..=5000).contains(&version);
            if magic == 0x00ba_b10c && known(version)
                || magic == 0x00ba_b10c_u64.swap_bytes() && known(version.swap_bytes())
            {
                return Ok(Some(signature("ZFS member", at, None)));
            }
        }
    }
    Ok(None)
}

/// DRBD's internal metadata ends the disk with a block of 4 KiB.
fn drbd<R: Read>(disk: &mut Disk<R>) -> Result<Option<Signature>> {
    let Some(at) = (disk.size.bytes() & !4095).checked_sub(4096) else { return Ok(None) };
    let found = matches!(disk.bytes(at + 60, 4)?.as_deref(), Some([0x83, 0x74, 0x02, 0x6a..=0x6d]));
    Ok(found.then(|| signature("DRBD metadata", at, None)))
}

/// An LVM2 label is in one of the first four sectors.
fn lvm2<R: Read>(disk: &mut Disk<R>) -> Result<Option<Signature>> {
    for at in (0..2048).step_by(512) {
        if let Some(sector) = disk.bytes(at, 32)?
            && sector.starts_with(b"LABELONE")
            && sector[24..].starts_with(b"LVM2 001")
        {
            return Ok(Some(signature("LVM2 physical volume", at, None)));
        }
    }
    Ok(None)
}

/// File systems whose magic of two bytes needs other fields to be believed.
fn two_byte_magic<R: Read>(disk: &mut Disk<R>) -> Result<Option<Signature>> {
    const SUPERBLOCK: u64 = 1024;
    let Some(sb) = disk.bytes(SUPERBLOCK, 248)? else { return Ok(None) };
    // nilfs2: magic at 6, revision 2 at 0, bytes of the superblock at 8.
    if le16(&sb, 6) == 0x3434 && le32(&sb, 0) == 2 && (64..=1024).contains(&le16(&sb, 8)) {
        return Ok(Some(signature("nilfs2", SUPERBLOCK, text(&sb[168..]))));
    }
    // hfs: magic at 0, bytes of a block, a multiple of 512, big-endian at 20.
    let block = u32::from_be_bytes([sb[20], sb[21], sb[22], sb[23]]);
    if sb.starts_with(b"BD") && block > 0 && block % 512 == 0 {
        return Ok(Some(signature("hfs", SUPERBLOCK, None)));
    }
    Ok(minix(&sb).then(|| signature("minix", SUPERBLOCK, None)))
}

/// minix, versions 1 to 3: there are inodes, and both maps have blocks, and the data begins behind them.
fn minix(sb: &[u8]) -> bool {
    let plausible = |inodes: u32, maps_at: usize| {
        let (inode_map, zone_map) = (le16(sb, maps_at), le16(sb, maps_at + 2));
        let (first_data, log_zone) = (le16(sb, maps_at + 4), le16(sb, maps_at + 6));
        let tables = u32::from(inode_map) + u32::from(zone_map);
        inodes > 0 && inode_map > 0 && zone_map > 0 && u32::from(first_data) > tables && log_zone <= 4
    };
    matches!(le16(sb, 16), 0x137f | 0x138f | 0x2468 | 0x2478) && plausible(u32::from(le16(sb, 0)), 4)
        || le16(sb, 24) == 0x4d5a && plausible(le32(sb, 0), 6)
}

/// A GPT header, in the second sector (of either size) or, the spare one, in the last.
fn gpt<R: Read>(disk: &mut Disk<R>) -> Result<Option<Signature>> {
    let size = disk.size.bytes();
    for at in [Some(512), Some(4096), size.checked_sub(512), size.checked_sub(4096)].into_iter().flatten() {
        if disk.bytes(at, 8)?.as_deref() == Some(b"EFI PART") {
            return Ok(Some(signature("GPT partition table", at, None)));
        }
    }
    Ok(None)
}

/// An MBR partition table. Boot sectors of file systems end with the same two bytes, so all four entries must
/// be plausible and one must be in use. The single entry that shields a GPT does not count beside the GPT
/// itself.
fn mbr<R: Read>(disk: &mut Disk<R>, has_gpt: bool) -> Result<Option<Signature>> {
    const SHIELD: u8 = 0xee;
    let Some(sector) = disk.bytes(0, 512)? else { return Ok(None) };
    if sector[510..] != [0x55, 0xaa] {
        return Ok(None);
    }
    let mut in_use = 0;
    for entry in sector[446..510].chunks_exact(16) {
        let (flag, kind, start, length) = (entry[0], entry[4], le32(entry, 8), le32(entry, 12));
        if flag & 0x7f != 0 {
            return Ok(None);
        }
        if kind == 0 || has_gpt && kind == SHIELD {
            continue;
        }
        if start == 0 || length == 0 || u64::from(start) >= disk.size.0 {
            return Ok(None);
        }
        in_use += 1;
    }
    Ok((in_use > 0).then(|| signature("MBR partition table", 0, None)))
}

fn signature(what: &'static str, byte: u64, label: Option<String>) -> Signature {
    Signature { what, at: DiskLba(byte / 512), label }
}

fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from(le16(bytes, at)) | u32::from(le16(bytes, at + 2)) << 16
}

fn u64_of(bytes: &[u8], at: usize) -> u64 {
    u64::from(le32(bytes, at)) | u64::from(le32(bytes, at + 4)) << 32
}

/// A label up to its NUL, without the blanks that fill it up; `None` if nothing is left.
fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    let label = bytes[..end].trim_ascii();
    (!label.is_empty() && label != b"NO NAME").then(|| escaped(label))
}

fn wide(bytes: &[u8]) -> Option<String> {
    let units = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let label: String =
        char::decode_utf16(units.take_while(|&unit| unit != 0)).map(|c| c.unwrap_or('\u{fffd}')).collect();
    text(label.as_bytes())
}

/// How bytes are had.
trait Read: FnMut(DiskLba, &mut [u8]) -> Result<()> {}
impl<F: FnMut(DiskLba, &mut [u8]) -> Result<()>> Read for F {}

/// A disk read in aligned blocks, each once.
struct Disk<R> {
    size: Sectors,
    read: R,
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl<R: Read> Disk<R> {
    const BLOCK: u64 = 64 << 10;

    fn new(size: Sectors, read: R) -> Disk<R> {
        Disk { size, read, blocks: BTreeMap::new() }
    }

    /// `length` bytes from byte `at` on; `None` if the disk ends before.
    fn bytes(&mut self, at: u64, length: usize) -> Result<Option<Vec<u8>>> {
        let Some(end) = at.checked_add(length as u64).filter(|&end| end <= self.size.bytes()) else {
            return Ok(None);
        };
        let mut out = Vec::with_capacity(length);
        for block in at / Self::BLOCK..end.div_ceil(Self::BLOCK) {
            let start = block * Self::BLOCK;
            let bytes = self.block(block)?;
            let from = at.saturating_sub(start) as usize;
            let to = (end - start).min(Self::BLOCK) as usize;
            out.extend_from_slice(&bytes[from..to]);
        }
        Ok(Some(out))
    }

    fn block(&mut self, block: u64) -> Result<&[u8]> {
        if !self.blocks.contains_key(&block) {
            let start = block * Self::BLOCK;
            let mut bytes = alloc::vec![0; Self::BLOCK.min(self.size.bytes() - start) as usize];
            (self.read)(DiskLba(start / 512), &mut bytes)?;
            self.blocks.insert(block, bytes);
        }
        Ok(self.blocks.get(&block).map_or(&[], Vec::as_slice))
    }
}

#[cfg(test)]
mod tests;
