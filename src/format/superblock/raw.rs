//! The bytes of a superblock: where each field is, the checksum, and the way to and from [`Superblock`].
//!
//! The struct below is the on-disk header, drawn to scale; all integers are little-endian. It is laid over
//! the slot once, after which no access can fail. Whether the values make sense is for `check`.

use alloc::vec::Vec;

use zerocopy::little_endian::{I32, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{BadBlockLog, Features, Lba, MAX_DEV, Minor, Name, Ppl, Refusal, Reshape, SLOT_BYTES};
use super::{Superblock, Time, Uuid};
use crate::units::{DiskLba, Sectors};

/// Bytes before `dev_roles`.
pub(super) const HEADER_BYTES: usize = 256;

const MAGIC: u32 = 0xa92b_4efc;

/// The first 256 bytes of the slot. The table `dev_roles`, `max_dev` entries of 16 bits, follows.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    // 0: of the LU, the same on all members
    magic: U32,
    major_version: U32,
    feature_map: U32,
    pad0: [u8; 4],
    set_uuid: [u8; 16],
    set_name: [u8; 32],
    ctime: U64,
    level: I32,
    layout: U32,
    size: U64,
    chunksize: U32,
    raid_disks: U32,
    /// Bitmap: `bitmap_offset`, signed. PPL: the low half is its offset, signed; the high half its size.
    bitmap_or_ppl: U32,
    new_level: I32,
    reshape_position: U64,
    delta_disks: I32,
    new_layout: U32,
    new_chunk: U32,
    new_offset: I32,
    // 128: of this member
    data_offset: U64,
    data_size: U64,
    super_offset: U64,
    recovery_offset: U64,
    dev_number: U32,
    cnt_corrected_read: U32,
    device_uuid: [u8; 16],
    devflags: u8,
    bblog_shift: u8,
    bblog_size: U16,
    bblog_offset: I32,
    // 192: the state
    utime: U64,
    events: U64,
    resync_offset: U64,
    sb_csum: U32,
    max_dev: U32,
    logical_block_size: U32,
    pad3: [u8; 28],
}

const _: () = assert!(size_of::<Raw>() == HEADER_BYTES);
const _: () = assert!(HEADER_BYTES + 2 * MAX_DEV == SLOT_BYTES);

/// See [`Superblock::claimed_set`].
pub(super) fn claimed_set(slot: &[u8]) -> Option<Uuid> {
    let (raw, _) = Raw::ref_from_prefix(slot).ok()?;
    (raw.magic.get() == MAGIC).then_some(Uuid(raw.set_uuid))
}

/// The header and the table of a slot. Fails only for a short slot or a table that would run out of it.
fn view(slot: &[u8]) -> Result<(&Raw, &[U16]), Refusal> {
    let short = Refusal::Short { bytes: slot.len() };
    let slot = slot.get(..SLOT_BYTES).ok_or(short)?;
    let (raw, rest) = Raw::ref_from_prefix(slot).map_err(|_| short)?;
    let too_many = Refusal::MaxDev { max_dev: raw.max_dev.get() };
    let (roles, _) =
        <[U16]>::ref_from_prefix_with_elems(rest, raw.max_dev.get() as usize).map_err(|_| too_many)?;
    Ok((raw, roles))
}

/// The sum of all little-endian 32-bit words of header and table, the checksum itself taken as 0, carries of
/// the 64-bit sum added in. An odd last entry of the table counts as a word.
pub(super) fn checksum(slot: &[u8]) -> Result<u32, Refusal> {
    let (raw, roles) = view(slot)?;
    let words = raw.as_bytes().chunks_exact(4).chain(roles.as_bytes().chunks(4));
    // A u64 holds the sum of at most 1024 words with room to spare.
    let sum = words.fold(0u64, |sum, word| {
        sum + word.iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte))
    });
    let sum = sum - u64::from(raw.sb_csum.get());
    Ok((sum as u32).wrapping_add((sum >> 32) as u32))
}

/// See [`Superblock::decode`].
pub(super) fn decode(slot: &[u8], minor: Minor, disk: Sectors) -> Result<Superblock, Refusal> {
    let place = minor.offset(disk).ok_or(Refusal::NoPlace { minor, disk })?;
    let (raw, _) = Raw::ref_from_prefix(slot).map_err(|_| Refusal::Short { bytes: slot.len() })?;
    if raw.magic.get() != MAGIC {
        return Err(Refusal::Magic { found: raw.magic.get() });
    }
    if raw.major_version.get() != 1 {
        return Err(Refusal::MajorVersion { found: raw.major_version.get() });
    }
    if raw.super_offset.get() != place.0 {
        return Err(Refusal::Misplaced { super_offset: raw.super_offset.get(), place });
    }
    let (raw, roles) = view(slot)?;
    let (stored, computed) = (raw.sb_csum.get(), checksum(slot)?);
    if stored != computed {
        return Err(Refusal::Checksum { stored, computed });
    }
    Ok(facts(raw, roles, minor))
}

fn facts(raw: &Raw, roles: &[U16], minor: Minor) -> Superblock {
    let features = Features(raw.feature_map.get());
    let word = raw.bitmap_or_ppl.get();
    Superblock {
        minor,
        features,
        set_uuid: Uuid(raw.set_uuid),
        name: Name(raw.set_name),
        ctime: Time::from_raw(raw.ctime.get()),
        level: raw.level.get(),
        layout: raw.layout.get(),
        size: Sectors(raw.size.get()),
        chunk: Sectors(u64::from(raw.chunksize.get())),
        raid_disks: raw.raid_disks.get(),
        bitmap_offset: if features.contains(Features::BITMAP) { word as i32 } else { 0 },
        ppl: if features.has_ppl() { ppl_of(word) } else { Ppl::default() },
        reshape: features.contains(Features::RESHAPE).then(|| reshape(raw, features)),
        data_offset: DiskLba(raw.data_offset.get()),
        data_size: Sectors(raw.data_size.get()),
        super_offset: DiskLba(raw.super_offset.get()),
        recovery_offset: Sectors(raw.recovery_offset.get()),
        dev_number: raw.dev_number.get(),
        corrected_reads: raw.cnt_corrected_read.get(),
        device_uuid: Uuid(raw.device_uuid),
        devflags: raw.devflags,
        bblog: BadBlockLog {
            shift: raw.bblog_shift,
            size: raw.bblog_size.get(),
            offset: raw.bblog_offset.get(),
        },
        utime: Time::from_raw(raw.utime.get()),
        events: raw.events.get(),
        resync_offset: Sectors(raw.resync_offset.get()),
        logical_block_size: raw.logical_block_size.get(),
        roles: roles.iter().map(|role| role.get()).collect(),
    }
}

fn ppl_of(word: u32) -> Ppl {
    Ppl { offset: word as u16 as i16, size: (word >> 16) as u16 }
}

fn reshape(raw: &Raw, features: Features) -> Reshape {
    let delta_disks = raw.delta_disks.get();
    // The bit speaks only where the number of slots leaves the direction open.
    let backwards = delta_disks < 0 || delta_disks == 0 && features.contains(Features::RESHAPE_BACKWARDS);
    Reshape {
        position: Lba(raw.reshape_position.get()),
        delta_disks,
        new_level: raw.new_level.get(),
        new_layout: raw.new_layout.get(),
        new_chunk: Sectors(u64::from(raw.new_chunk.get())),
        new_offset: if features.contains(Features::NEW_OFFSET) { raw.new_offset.get() } else { 0 },
        backwards,
    }
}

/// Refuses padding that is not zero: kernels do, and a later format may have given it a meaning.
pub(super) fn check_padding(slot: &[u8]) -> Result<(), Refusal> {
    let (raw, _) = view(slot)?;
    let used = |pad: &[u8]| pad.iter().position(|&byte| byte != 0).map(|i| (i, pad[i]));
    if let Some((i, value)) = used(&raw.pad0) {
        return Err(Refusal::Pad0 { byte: 12 + i, value });
    }
    if let Some((i, value)) = used(&raw.pad3) {
        return Err(Refusal::Pad3 { byte: 228 + i, value });
    }
    Ok(())
}

/// See [`Superblock::write_into`].
pub(super) fn encode(sb: &Superblock, slot: &mut [u8]) {
    let slot = &mut slot[..SLOT_BYTES];
    let roles: Vec<U16> = sb.roles.iter().take(MAX_DEV).map(|&role| U16::new(role)).collect();
    slot[HEADER_BYTES..][..2 * roles.len()].copy_from_slice(roles.as_bytes());

    let Ok((raw, _)) = Raw::mut_from_prefix(slot) else { return };
    put_lu(sb, raw);
    put_member_and_state(sb, raw);
    raw.max_dev = U32::new(roles.len() as u32);

    let Ok(sum) = checksum(slot) else { return };
    let Ok((raw, _)) = Raw::mut_from_prefix(slot) else { return };
    raw.sb_csum = U32::new(sum);
}

/// Bytes 0 to 127. Fields that no feature bit claims stay as they are, as with the kernel.
fn put_lu(sb: &Superblock, raw: &mut Raw) {
    let features = sb.stored_features();
    raw.magic = U32::new(MAGIC);
    raw.major_version = U32::new(1);
    raw.feature_map = U32::new(features.0);
    raw.set_uuid = sb.set_uuid.0;
    raw.set_name = sb.name.0;
    raw.ctime = U64::new(sb.ctime.raw());
    raw.level = I32::new(sb.level);
    raw.layout = U32::new(sb.layout);
    raw.size = U64::new(sb.size.0);
    raw.chunksize = U32::new(narrow(sb.chunk));
    raw.raid_disks = U32::new(sb.raid_disks);
    if features.contains(Features::BITMAP) {
        raw.bitmap_or_ppl = U32::new(sb.bitmap_offset as u32);
    } else if features.has_ppl() {
        raw.bitmap_or_ppl = U32::new(u32::from(sb.ppl.size) << 16 | u32::from(sb.ppl.offset as u16));
    }
    if let Some(reshape) = sb.reshape {
        raw.reshape_position = U64::new(reshape.position.0);
        raw.delta_disks = I32::new(reshape.delta_disks);
        raw.new_level = I32::new(reshape.new_level);
        raw.new_layout = U32::new(reshape.new_layout);
        raw.new_chunk = U32::new(narrow(reshape.new_chunk));
        if features.contains(Features::NEW_OFFSET) {
            raw.new_offset = I32::new(reshape.new_offset);
        }
    }
}

/// Bytes 128 to 227, without checksum and `max_dev`.
fn put_member_and_state(sb: &Superblock, raw: &mut Raw) {
    raw.data_offset = U64::new(sb.data_offset.0);
    raw.data_size = U64::new(sb.data_size.0);
    raw.super_offset = U64::new(sb.super_offset.0);
    raw.recovery_offset = U64::new(sb.recovery_offset.0);
    raw.dev_number = U32::new(sb.dev_number);
    raw.cnt_corrected_read = U32::new(sb.corrected_reads);
    raw.device_uuid = sb.device_uuid.0;
    raw.devflags = sb.devflags;
    raw.bblog_shift = sb.bblog.shift;
    raw.bblog_size = U16::new(sb.bblog.size);
    raw.bblog_offset = I32::new(sb.bblog.offset);
    raw.utime = U64::new(sb.utime.raw());
    raw.events = U64::new(sb.events);
    raw.resync_offset = U64::new(sb.resync_offset.0);
    raw.logical_block_size = U32::new(sb.logical_block_size);
}

fn narrow(length: Sectors) -> u32 {
    u32::try_from(length.0).unwrap_or(u32::MAX)
}
