//! What the fuzz targets run, as plain functions: `fuzz/` feeds them with what it invents,
//! `tests/fuzz_corpus.rs` with what was invented before. A body panics if a promise is broken: that nothing
//! panics, that what was accepted survives being written and read again, that foreign bytes stay.
#![allow(dead_code, unreachable_pub)]

use uraid::format::badblocks::{BadBlocks, CAPACITY};
use uraid::format::bitmap::Header;
use uraid::format::ppl;
use uraid::format::signature;
use uraid::format::superblock::{Minor, SLOT_BYTES, Superblock, Uuid, locate};
use uraid::serve::nbd::wire::{
    Contexts, EXTENDED_HEAD, EXTENDED_REQUEST_MAGIC, REQUEST_HEAD, REQUEST_MAGIC, Request, Wanted,
    option_head,
};
use uraid::units::{DiskLba, Sectors};
use uraid::{Error, ErrorKind};

/// What a target does with one input.
pub type Body = fn(&[u8]);

/// All targets by name.
pub const TARGETS: [(&str, Body); 6] = [
    ("superblock", superblock),
    ("badblocks", badblocks),
    ("bitmap", bitmap),
    ("ppl", ppl_header),
    ("signature", disk),
    ("nbd", nbd),
];

/// Byte 0: the place; bytes 1 to 8: the size of the disk; then the slot. A second pass makes place and
/// checksum right so that what comes behind them is reached.
pub fn superblock(data: &[u8]) {
    let Some((&[place, ref size @ ..], rest)) = data.split_first_chunk::<9>() else { return };
    let minor = Minor::ALL[usize::from(place) % 3];
    let disk = Sectors(u64::from_le_bytes(*size));
    let mut slot = rest[..rest.len().min(SLOT_BYTES)].to_vec();
    one_superblock(&slot, minor, disk);

    slot.resize(SLOT_BYTES, 0);
    if let Some(at) = minor.offset(disk) {
        slot[144..152].copy_from_slice(&at.0.to_le_bytes());
    }
    if let Ok(sum) = Superblock::checksum(&slot) {
        slot[216..220].copy_from_slice(&sum.to_le_bytes());
    }
    one_superblock(&slot, minor, disk);
}

fn one_superblock(slot: &[u8], minor: Minor, disk: Sectors) {
    if let Ok(seen) = Superblock::decode(slot, minor, disk) {
        let _ =
            (seen.my_role(), seen.watermark(), seen.old_raid_disks(), seen.name().len(), seen.data().end());
        let _ = (seen.bitmap_at(), seen.ppl_area(), seen.bblog_area(), seen.check(disk));
    }
    match Superblock::parse(slot, minor, disk) {
        Err(refusal) => assert!(!refusal.to_string().is_empty()),
        Ok(superblock) => {
            let mut written = slot.to_vec();
            superblock.write_into(&mut written);
            assert_eq!(written, slot);
            assert!(superblock.data().end().0 <= disk.0);
        }
    }
}

/// Byte 0: the shift; then the list.
pub fn badblocks(data: &[u8]) {
    let Some((&shift, bytes)) = data.split_first() else { return };
    let Ok(list) = BadBlocks::parse(bytes, shift % 16) else { return };
    for area in list.iter().take(8) {
        assert_eq!(list.overlap(area.start, area.length), Some(area));
        let mut without = list.clone();
        without.remove(area.start, area.length);
        assert_eq!(without.iter().len() + 1, list.iter().len());
        without.insert(area.start, area.length);
        assert_eq!(without, list);
    }
    if let Ok(again) = list.emit(shift % 16, CAPACITY) {
        assert_eq!(BadBlocks::parse(&again, shift % 16), Ok(list));
    }
}

/// A header and the bits behind it.
pub fn bitmap(data: &[u8]) {
    let Ok(header) = Header::parse(data) else { return };
    let bits = &data[256..];
    let set: u64 = header.set_runs(bits).map(|run| run.end - run.start).sum();
    assert_eq!(set, header.count_set(bits));
    assert!(set <= header.bits() && !header.to_string().is_empty());
    let mut written = data.to_vec();
    header.write_into(&mut written);
    assert_eq!(written, data);
}

/// An area that begins with headers of the LU with the UUID of zeros. Checksums are made right block by
/// block.
pub fn ppl_header(data: &[u8]) {
    let uuid = Uuid([0; 16]);
    let mut area = data.to_vec();
    for header in area.chunks_exact_mut(4096) {
        header[512..516].copy_from_slice(&ppl::signature(uuid).to_le_bytes());
        header[532..536].fill(0);
        let sum = ppl::crc32c(header);
        header[532..536].copy_from_slice(&sum.to_le_bytes());
    }
    let size = Sectors::from_bytes_floor(area.len() as u64);
    let read = |at: Sectors, buffer: &mut [u8]| -> uraid::Result<()> {
        let from = at.bytes() as usize;
        buffer.copy_from_slice(&area[from..from + buffer.len()]);
        Ok(())
    };
    let newest = ppl::newest(uuid, size, read).expect("reads from memory do not fail");
    if let Ok((at, header)) = newest {
        assert!(at + Sectors(8) <= size && header.entries.len() <= ppl::MAX_ENTRIES);
    }
}

/// A whole disk, its length cut to sectors.
pub fn disk(data: &[u8]) {
    let size = Sectors::from_bytes_floor(data.len() as u64);
    let read = |at: DiskLba, buffer: &mut [u8]| -> uraid::Result<()> {
        let from = usize::try_from(at.bytes()).unwrap_or(usize::MAX);
        let part = data.get(from..from.saturating_add(buffer.len()));
        buffer.copy_from_slice(part.ok_or_else(|| Error::new(ErrorKind::Io, "read past the end"))?);
        Ok(())
    };
    let found = signature::probe(size, read).expect("no read past the end");
    assert!(found.iter().all(|signature| signature.at.0 < size.0 && !signature.to_string().is_empty()));
    match locate(read, size) {
        Ok(found) => assert!(found.at.0 < size.0),
        Err(not_found) => assert!(!not_found.to_string().is_empty()),
    }
}

/// The data of an option, or a request: each is read as all that it could be.
pub fn nbd(data: &[u8]) {
    if let Some(wanted) = Wanted::parse(data) {
        assert_eq!(6 + wanted.name.len() + 2 * wanted.infos.len(), data.len());
    }
    if let Some(contexts) = Contexts::parse(data) {
        let queries: usize = contexts.queries.iter().map(|query| 4 + query.len()).sum();
        assert_eq!(8 + contexts.name.len() + queries, data.len());
    }
    if let Some(head) = data.first_chunk() {
        let _ = option_head(head);
    }
    if let Some(head) = data.first_chunk::<REQUEST_HEAD>() {
        let mut head = *head;
        head[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        assert_eq!(Request::parse(&head).map(|request| request.emit()), Some(head));
    }
    if let Some(head) = data.first_chunk::<EXTENDED_HEAD>() {
        let mut head = *head;
        head[..4].copy_from_slice(&EXTENDED_REQUEST_MAGIC.to_be_bytes());
        assert_eq!(Request::parse_extended(&head).map(|request| request.emit_extended()), Some(head));
    }
}
