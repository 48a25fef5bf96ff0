//! Looking at disks: one superblock in full, or all LUs among many disks. Nothing is claimed, nothing changes.

use std::path::{Path, PathBuf};

use crate::disk::{Access as Claim, Backend, Blocking, FileBackend, FileDisk, Identity, IoMode};
use crate::error::{Error, ErrorKind, Result};
use crate::format::bitmap;
use crate::format::superblock::{Found, Superblock, Uuid};
use crate::geometry::{Geometry, Shape};
use crate::units::{DiskLba, Level, Sectors};

use super::Lu;
use super::assemble::short_name;
use super::log;
use super::open::{distinct, read_bad_blocks, read_found, read_superblock, set_named_by};
use super::status::Status;

/// Everything one member says of itself and of its LU.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// The path.
    pub disk: String,
    /// Its size.
    pub disk_bytes: u64,
    /// All facts of its superblock.
    pub superblock: Superblock,
    /// The checksum, which is right.
    pub checksum: u32,
    /// The LU's size, if this member alone tells it.
    pub array_bytes: Option<u64>,
    /// The write-intent bitmap's header and its set and total bits, or why it cannot be used.
    pub bitmap: Option<Result<BitmapFacts, String>>,
    /// Bad ranges, in sectors from the start of the disk.
    pub bad_blocks: Vec<(DiskLba, Sectors)>,
    /// Entries in the newest header of the partial parity log, or why it cannot be read.
    pub ppl_entries: Option<Result<usize, String>>,
}

/// What a write-intent bitmap says.
#[derive(Clone, Debug)]
pub struct BitmapFacts {
    /// Its header.
    pub header: bitmap::Header,
    /// Chunks that may be out of sync.
    pub set: u64,
    /// All chunks.
    pub bits: u64,
}

/// Reads what the disk at `path` says.
///
/// # Errors
/// [`ErrorKind::NotFound`] if there is no such path, [`ErrorKind::Format`] if there is no superblock that can be understood.
pub fn inspect(path: impl AsRef<Path>) -> Result<Inspection> {
    let path = path.as_ref();
    let name = path.display().to_string();
    let disk = FileDisk::open(path, Claim::Look)?;
    let size = disk.size();
    let backend = FileBackend::new(IoMode::Plain);
    let id = backend.add(disk)?;
    let io = Blocking::new(&backend as &dyn Backend)?;
    let found = read_found(&io, id, size).map_err(|e| as_format(e).at(&name))?;
    let sb = found.superblock.clone();
    let bad = read_bad_blocks(&io, id, &found).map_err(|e| e.at(&name))?;
    let bad_blocks = bad.iter().map(|area| (area.start, area.length)).collect();
    let bitmap = sb.bitmap_at().map(|at| {
        read_bitmap(&mut |at, bytes| io.read_exact(id, at, bytes), at, &sb).map_err(|error| error.to_string())
    });
    let ppl_entries = log::newest(&io, id, &sb).map(|found| found.map(|found| found.header.entries.len()));
    Ok(Inspection {
        disk: name,
        disk_bytes: size.bytes(),
        checksum: Superblock::checksum(&found.slot)?,
        array_bytes: array_bytes(&found),
        superblock: sb,
        bitmap,
        bad_blocks,
        ppl_entries,
    })
}

/// A disk without an md superblock is no member: that is a matter of format, whatever the place where it was noticed said.
fn as_format(error: Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => Error::new(ErrorKind::Format, error.to_string()),
        _ => error,
    }
}

fn read_bitmap(
    read: &mut dyn FnMut(DiskLba, &mut [u8]) -> Result<()>,
    at: DiskLba,
    sb: &Superblock,
) -> Result<BitmapFacts> {
    let mut page = vec![0; 512];
    read(at, &mut page)?;
    let header = bitmap::Header::parse(&page)?;
    let room = sb.data_offset.0.abs_diff(at.0).min(1 << 21);
    let bytes = header.bytes_used().next_multiple_of(512).min(room * 512);
    let mut all = vec![0; bytes as usize];
    read(at, &mut all)?;
    let set = header.count_set(all.get(256..).unwrap_or_default());
    Ok(BitmapFacts { set, bits: header.bits(), header })
}

/// The LU's size where one member is enough to tell: not for levels that add up their members.
fn array_bytes(found: &Found) -> Option<u64> {
    let sb = &found.superblock;
    let level = Level::from_md_number(sb.level)?;
    let slots = u16::try_from(sb.old_raid_disks()?).ok()?;
    if sb.size.0 == 0 {
        return None;
    }
    let (layout, chunk, component) = (sb.layout, sb.chunk, sb.size);
    let geometry = Geometry::new(&Shape { level, layout, chunk, slots, component, members: &[] }).ok()?;
    Some(geometry.size().bytes())
}

/// What [`scan`] found.
#[derive(Debug, Default)]
pub struct Scanned {
    /// All LUs that could be looked at, in the order their first member was found.
    pub lus: Vec<Status>,
    /// Those that could not (two copies of one member, for instance): name, and why.
    pub unavailable: Vec<(String, Error)>,
}

/// All LUs among `paths` (files, block devices, folders with files). What is no member is passed over; a
/// member whose superblock is damaged is set aside in its LU, if a good member of that is found.
///
/// # Errors
/// [`ErrorKind::NotFound`] for a path that is not there.
pub fn scan<P: AsRef<Path>>(paths: &[P]) -> Result<Scanned> {
    let mut disks: Vec<Member> = Vec::new();
    for path in paths {
        for file in files(path.as_ref())? {
            let named = file == path.as_ref();
            let disk = match FileDisk::open(&file, Claim::Look) {
                Ok(disk) => disk,
                Err(error) if named => return Err(error),
                Err(_) => continue,
            };
            let identity = disk.identity();
            let seen = disks.iter().any(|member| member.identity == identity);
            if !seen && let Some((set, good)) = set_named_by(disk) {
                disks.push(Member { set, good, identity, path: file });
            }
        }
    }
    let mut scanned = Scanned::default();
    for set in distinct(disks.iter().filter(|member| member.good).map(|member| member.set)) {
        let members: Vec<&Member> = disks.iter().filter(|member| member.set == set).collect();
        let assemble = members.iter().fold(Lu::assemble(), |assemble, member| assemble.disk(&member.path));
        match assemble.look() {
            Ok(status) => scanned.lus.push(status),
            Err(error) => scanned.unavailable.push((name_of(&members, set), error)),
        }
    }
    Ok(scanned)
}

/// A disk that names an LU.
struct Member {
    set: Uuid,
    /// Its superblock can be used.
    good: bool,
    identity: Identity,
    path: PathBuf,
}

/// The name that the LU's members call it by; the LU's identity if none can be asked any more.
fn name_of(members: &[&Member], set: Uuid) -> String {
    let name = |member: &&Member| {
        let disk = FileDisk::open(&member.path, Claim::Look).ok()?;
        Some(short_name(&read_superblock(disk).ok()?.superblock))
    };
    members.iter().find_map(name).unwrap_or_else(|| set.to_string())
}

/// The path itself, or the files of the folder it names.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path)
        .map_err(|e| Error::new(ErrorKind::Io, format!("cannot list {}", path.display())).with_source(e))?;
    let mut files: Vec<PathBuf> =
        entries.filter_map(|e| e.ok()).map(|e| e.path()).filter(|p| p.is_file()).collect();
    files.sort();
    Ok(files)
}
