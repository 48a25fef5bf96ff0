//! From paths to an open LU: which disks, what they hold, what is claimed, and the joining of it all.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::disk::{
    Access as Claim, Backend, Blocking, DiskId, DiskKind, FileBackend, FileDisk, Identity, IoMode, cpu,
};
use crate::engine::Shared;
use crate::error::{Error, ErrorKind, Result};
use crate::format::badblocks::BadBlocks;
use crate::format::superblock::{Features, Found, Minor, SLOT_BYTES, Superblock, Time, Uuid, locate};
use crate::plan::{Presence, View};
use crate::units::{SECTOR, Sectors, Slot};

use super::assemble::{Allow, Candidate, Joined, join};
use super::bitmap::{self, Record};
use super::board::{Board, Health, Wire, lock};
use super::keeper::{Keeper, Now, spawn};
use super::log::{self, LogPlace};
use super::machine::Machine;
use super::members::{Member, Members};
use super::queue::{Pool, SCRATCH};
use super::status::{Describe, Status, roster};
use super::{Lu, slots_named};

/// What an LU is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Access {
    /// Reading: no byte of any member changes; other readers may have it open too.
    #[default]
    Read,
    /// Reading and writing, alone.
    Write,
}

/// Something between an LU and its disks; see [`Assemble::through`].
#[derive(Clone, Default)]
pub(super) struct Through(Option<Arc<Wrap>>);

type Wrap = dyn Fn(Arc<dyn Backend>) -> Arc<dyn Backend> + Send + Sync;

impl Through {
    pub(super) fn new(
        wrap: impl Fn(Arc<dyn Backend>) -> Arc<dyn Backend> + Send + Sync + 'static,
    ) -> Through {
        Through(Some(Arc::new(wrap)))
    }

    pub(super) fn apply(&self, backend: Arc<dyn Backend>) -> Arc<dyn Backend> {
        match &self.0 {
            Some(wrap) => wrap(backend),
            None => backend,
        }
    }
}

impl std::fmt::Debug for Through {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Through(..)" } else { "Through(nothing)" })
    }
}

/// Most queues on one LU: the pool for blocking calls, the keeper, and those handed out.
const QUEUES: usize = 256;

/// Assembles an LU from its members; made by [`Lu::assemble`].
///
/// Name the members with [`disk`](Assemble::disk) (exactly these are used) or one of them with [`beside`](Assemble::beside).
#[derive(Clone, Debug, Default)]
pub struct Assemble {
    disks: Vec<PathBuf>,
    beside: Option<PathBuf>,
    access: Access,
    degraded: bool,
    allow_stale: Vec<PathBuf>,
    allow_dirty: bool,
    io: IoMode,
    through: Through,
}

impl Assemble {
    /// One of the disks to use. Order does not matter; stale, faulty and spare ones may be among them.
    pub fn disk(mut self, path: impl AsRef<Path>) -> Assemble {
        self.disks.push(path.as_ref().to_owned());
        self
    }

    /// Use this member and all members of the same LU among the files of its folder. Beside a block device nothing is
    /// looked for.
    pub fn beside(mut self, path: impl AsRef<Path>) -> Assemble {
        self.beside = Some(path.as_ref().to_owned());
        self
    }

    /// What for; reading is the default.
    pub fn access(mut self, access: Access) -> Assemble {
        self.access = access;
        self
    }

    /// Write also if a member that was there the last time is missing now; its absence is recorded first.
    pub fn degraded(mut self, yes: bool) -> Assemble {
        self.degraded = yes;
        self
    }

    /// Use this disk although it missed writes: what it holds counts as good.
    pub fn allow_stale(mut self, path: impl AsRef<Path>) -> Assemble {
        self.allow_stale.push(path.as_ref().to_owned());
        self
    }

    /// Start although writes were in flight at a crash and a member is missing: where it was being written, what the
    /// missing member held may come back wrong.
    pub fn allow_dirty(mut self, yes: bool) -> Assemble {
        self.allow_dirty = yes;
        self
    }

    /// How disks are driven.
    pub fn io(mut self, mode: IoMode) -> Assemble {
        self.io = mode;
        self
    }

    /// Drives the disks through a wrapper once the LU is open: to inject faults ([`disk::faulty`](crate::disk::faulty)) or to count
    /// operations ([`disk::traced`](crate::disk::traced)). Disks are numbered in the order in which they were named.
    pub fn through(
        mut self,
        wrap: impl Fn(Arc<dyn Backend>) -> Arc<dyn Backend> + Send + Sync + 'static,
    ) -> Assemble {
        self.through = Through::new(wrap);
        self
    }

    /// Looks at the LU without claiming or changing anything. An LU that cannot start has a [`Status::refusal`].
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if a disk is not there, [`ErrorKind::CannotStart`] or [`ErrorKind::Format`] if nothing can be said at all.
    pub fn look(&self) -> Result<Status> {
        let mut offered = self.offer(Claim::Look)?;
        let joined = offered.join(self)?;
        Ok(Describe::new(&joined, &offered.backend, None).at_rest(&joined))
    }

    /// Opens the LU.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a path that is not there; [`ErrorKind::Busy`], naming the owner, if a disk is claimed;
    /// [`ErrorKind::Usage`] for the same disk twice or one of another LU; [`ErrorKind::CannotStart`] if the data is not whole or
    /// not to be trusted; [`ErrorKind::Refused`] if it needs [`degraded`](Assemble::degraded).
    /// Nothing has been changed on any disk then.
    pub fn open(self) -> Result<Lu> {
        let claim = match self.access {
            Access::Read => Claim::Shared,
            Access::Write => Claim::Exclusive,
        };
        let mut offered = self.offer(claim)?;
        let mut joined = offered.join(&self)?;
        if let Some(refusal) = joined.refusal.take() {
            return Err(refusal.at(format!("LU {}", super::assemble::short_name(joined.facts()))));
        }
        if self.access == Access::Write {
            refuse_writing(&joined, self.degraded)?;
        }
        start(offered.backend, &self.through, joined, self.access)
    }

    /// Opens the disks and reads what they hold.
    fn offer(&self, claim: Claim) -> Result<Offered> {
        let (paths, exactly) = match &self.beside {
            Some(member) => (beside(member)?, false),
            None if self.disks.is_empty() => {
                return Err(Error::new(ErrorKind::Usage, "no disk named"));
            }
            None => (self.disks.clone(), true),
        };
        let backend = Arc::new(FileBackend::new(self.io));
        for disk in open_all(&paths, claim)? {
            backend.add(disk)?;
        }
        let mut candidates = read_candidates(&*backend)?;
        // A member whose data does not begin on a block cannot be driven past the page cache.
        let mut buffered = false;
        for candidate in &candidates {
            let info = backend.info(candidate.disk);
            let Ok(found) = &candidate.found else { continue };
            if info.kind == DiskKind::File
                && found.superblock.data_offset.bytes() % u64::from(info.block) != 0
            {
                buffered = true;
            }
        }
        if !buffered {
            return Ok(Offered { backend, candidates, exactly });
        }
        drop(backend);
        let backend = Arc::new(FileBackend::new(self.io));
        for path in &paths {
            backend.add(FileDisk::open_buffered(path, claim)?)?;
        }
        candidates = read_candidates(&*backend)?;
        Ok(Offered { backend, candidates, exactly })
    }
}

/// Opens the disks, each of them once.
///
/// They are claimed in one order, whatever the order of `paths`: of two processes that want the same disks at
/// once, one gets them all. Which disks they are is found out before, so that the same disk twice is told as
/// such, and not as held by ourselves.
fn open_all(paths: &[PathBuf], claim: Claim) -> Result<Vec<FileDisk>> {
    let mut disks: Vec<FileDisk> = Vec::new();
    for path in paths {
        let look = FileDisk::open(path, Claim::Look)?;
        if let Some(other) = disks.iter().find(|other| other.overlaps(&look)) {
            let text = format!("{} and {} are the same disk", other.path().display(), path.display());
            return Err(Error::new(ErrorKind::Usage, text));
        }
        disks.push(look);
    }
    if claim == Claim::Look {
        return Ok(disks);
    }
    let mut order: Vec<usize> = (0..disks.len()).collect();
    order.sort_by_key(|&index| disks[index].identity());
    for index in order {
        disks[index] = FileDisk::open(&paths[index], claim)?;
    }
    Ok(disks)
}

/// Disks that were opened for one LU.
struct Offered {
    backend: Arc<FileBackend>,
    candidates: Vec<Candidate>,
    exactly: bool,
}

impl Offered {
    /// Joins the candidates; they are the verdict's from then on.
    fn join(&mut self, how: &Assemble) -> Result<Joined> {
        let mut allow = Allow { stale: Vec::new(), dirty: how.allow_dirty };
        for path in &how.allow_stale {
            let wanted = FileDisk::open(path, Claim::Look)?;
            let same =
                |c: &&Candidate| self.backend.disk(c.disk).is_some_and(|d| d.identity() == wanted.identity());
            match self.candidates.iter().find(same) {
                Some(candidate) => allow.stale.push(candidate.disk),
                None => {
                    let text = format!("--allow-stale {}: not among the disks offered", path.display());
                    return Err(Error::new(ErrorKind::Usage, text));
                }
            }
        }
        let sets = distinct(self.candidates.iter().filter_map(set_of));
        if self.exactly && sets.len() > 1 {
            let of = |set: Uuid| {
                let mut names =
                    self.candidates.iter().filter(|c| set_of(c) == Some(set)).map(|c| c.name.as_str());
                names.next().unwrap_or_default().to_owned()
            };
            let text = format!(
                "{} is a member of {} and {} of {}: name the disks of one LU only",
                of(sets[0]),
                sets[0],
                of(sets[1]),
                sets[1]
            );
            return Err(Error::new(ErrorKind::Usage, text));
        }
        let Some(&set) = sets.first() else {
            let first = self.candidates.first();
            return Err(match first.map(|c| (&c.name, &c.found)) {
                Some((name, Err(error))) => {
                    let kind =
                        if error.kind() == ErrorKind::NotFound { ErrorKind::Format } else { error.kind() };
                    Error::new(kind, format!("{name}: {error}"))
                }
                _ => Error::new(ErrorKind::NotFound, "no disk offered"),
            });
        };
        join(std::mem::take(&mut self.candidates), set, &allow)
    }
}

fn set_of(candidate: &Candidate) -> Option<Uuid> {
    candidate.found.as_ref().ok().map(|found| found.superblock.set_uuid)
}

/// Each identity once, in the order of their first appearance.
pub(super) fn distinct(all: impl Iterator<Item = Uuid>) -> Vec<Uuid> {
    let mut seen = Vec::new();
    for uuid in all {
        if !seen.contains(&uuid) {
            seen.push(uuid);
        }
    }
    seen
}

/// The member itself, first, and the files of its folder that belong to the same LU.
fn beside(member: &Path) -> Result<Vec<PathBuf>> {
    let own = FileDisk::open(member, Claim::Look)?;
    let mut paths = vec![member.to_owned()];
    if own.info().kind != DiskKind::File {
        return Ok(paths);
    }
    let own_identity = own.identity();
    let Ok(set) = read_superblock(own).map(|found| found.superblock.set_uuid) else { return Ok(paths) };
    let folder = match member.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let unreadable = |e: std::io::Error| {
        Error::new(ErrorKind::Io, format!("cannot list {}", folder.display())).with_source(e)
    };
    let mut found: Vec<(PathBuf, Identity)> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if !path.is_file() {
            continue;
        }
        let Ok(disk) = FileDisk::open(&path, Claim::Look) else { continue };
        let identity = disk.identity();
        if identity != own_identity && set_named_by(disk).is_some_and(|(named, _)| named == set) {
            // Keep the way of speaking of the path we were given: "d0.img" finds "d1.img", not "./d1.img".
            let name = path.file_name().map(PathBuf::from).unwrap_or(path.clone());
            let name = if member.parent().is_some_and(|p| !p.as_os_str().is_empty()) { path } else { name };
            found.push((name, identity));
        }
    }
    found.sort();
    // A disk with two names in the folder is one disk.
    let mut seen = Vec::new();
    for (path, identity) in found {
        if !seen.contains(&identity) {
            seen.push(identity);
            paths.push(path);
        }
    }
    Ok(paths)
}

/// The LU a disk says it belongs to, and whether its superblock can be used. One that is damaged is looked at
/// also, so that its disk is told of and not passed over.
pub(super) fn set_named_by(disk: FileDisk) -> Option<(Uuid, bool)> {
    let size = disk.size();
    let backend = FileBackend::new(IoMode::Plain);
    let id = backend.add(disk).ok()?;
    let io = Blocking::new(&backend as &dyn Backend).ok()?;
    if let Ok(found) = read_found(&io, id, size) {
        return Some((found.superblock.set_uuid, true));
    }
    let claims = Minor::ALL.into_iter().filter_map(|minor| {
        let mut slot = vec![0; SLOT_BYTES];
        io.read_exact(id, minor.offset(size)?, &mut slot).ok()?;
        Superblock::claimed_set(&slot)
    });
    Some((claims.last()?, false))
}

/// Reads the superblock of one disk that is not part of a backend yet.
pub(super) fn read_superblock(disk: FileDisk) -> Result<Found> {
    let size = disk.size();
    let backend = FileBackend::new(IoMode::Plain);
    let id = backend.add(disk)?;
    let io = Blocking::new(&backend as &dyn Backend)?;
    read_found(&io, id, size)
}

pub(super) fn read_found(io: &Blocking<&dyn Backend>, id: DiskId, size: Sectors) -> Result<Found> {
    Ok(locate(|at, bytes| io.read_exact(id, at, bytes), size)?)
}

/// What every disk of the backend holds.
pub(super) fn read_candidates(backend: &dyn Backend) -> Result<Vec<Candidate>> {
    let io = Blocking::new(backend)?;
    let mut candidates = Vec::new();
    for index in 0..backend.len() {
        let disk = DiskId(index as u16);
        let info = backend.info(disk);
        let mut found = read_found(&io, disk, info.size);
        let mut bad = BadBlocks::new();
        let log = found.as_ref().ok().and_then(|good| log::newest(&io, disk, &good.superblock));
        if let Ok(good) = &found {
            match read_bad_blocks(&io, disk, good) {
                Ok(list) => bad = list,
                Err(error) => found = Err(error),
            }
        }
        let facts = found.as_ref().ok().map(|good| &good.superblock);
        let facts = facts.filter(|sb| sb.features.contains(Features::BITMAP));
        let bitmap = facts.map(|sb| bitmap::read(&io, disk, sb));
        candidates.push(Candidate { disk, name: info.name, found, bad, bitmap, log });
    }
    Ok(candidates)
}

/// The member's bad-block list; empty if its superblock says that it is.
pub(super) fn read_bad_blocks(io: &Blocking<&dyn Backend>, disk: DiskId, found: &Found) -> Result<BadBlocks> {
    let sb = &found.superblock;
    if !sb.features.contains(Features::BAD_BLOCKS) {
        return Ok(BadBlocks::new());
    }
    let Some(area) = sb.bblog_area() else { return Ok(BadBlocks::new()) };
    let mut bytes = vec![0; area.length.bytes() as usize];
    io.read_exact(disk, area.start, &mut bytes)?;
    BadBlocks::parse(&bytes, sb.bblog.shift).map_err(Error::from)
}

/// What keeps an LU that can be read from being written.
pub(super) fn refuse_writing(joined: &Joined, degraded: bool) -> Result<()> {
    let facts = joined.facts();
    let name = super::assemble::short_name(facts);
    let cannot = |text: String| Err(Error::new(ErrorKind::CannotStart, text).at(format!("LU {name}")));
    let logless = |index: &&usize| joined.candidates[**index].log.is_none();
    if let Some(&index) = joined.slots.iter().flatten().find(logless).filter(|_| facts.features.has_ppl()) {
        let name = &joined.candidates[index].name;
        return cannot(format!("{name} has no partial parity log although its LU has: it can only be read"));
    }
    if !joined.newly_missing.is_empty() && !degraded {
        let slots = slots_named(&joined.newly_missing);
        let text = format!(
            "{slots} had a disk the last time and has none now: find it, or go on without it and record its absence \
             with --degraded"
        );
        return Err(Error::new(ErrorKind::Refused, text).at(format!("LU {name}")));
    }
    Ok(())
}

/// Bad ranges, watermarks and how far redundancy agrees come from superblocks in sectors; I/O is whole blocks. Rounded to the
/// safe side.
pub(super) fn round_to_blocks(view: &mut View, block: u64) {
    for member in view.members.iter_mut().chain(&mut view.replacements) {
        for (start, end) in &mut member.bad {
            (start.0, end.0) = (start.0 - start.0 % block, end.0.next_multiple_of(block));
        }
        if let Presence::Below(watermark) = &mut member.presence {
            watermark.0 -= watermark.0 % block;
        }
    }
    if view.synced_below != u64::MAX {
        view.synced_below -= view.synced_below % block;
    }
}

/// What was found is what an LU is built on, and must not be another thing after a power cut: a process that was killed may
/// have left it in a cache.
fn make_durable(joined: &mut Joined, backend: &dyn Backend) -> Result<()> {
    let io = Blocking::new(backend)?;
    for index in joined.in_use() {
        if let Err(error) = io.flush(joined.candidates[index].disk) {
            joined.give_up(index, error)?;
        }
    }
    Ok(())
}

/// The members that are written: their superblocks as they were read, but for what is not believed of them.
pub(super) fn members_of(joined: &Joined, backend: &dyn Backend) -> Members {
    let list = joined.in_use().into_iter().filter_map(|index| {
        let candidate = &joined.candidates[index];
        let found = candidate.found.as_ref().ok()?;
        let block = backend.info(candidate.disk).block;
        let (sb, bytes) = (found.superblock.clone(), found.slot.clone());
        Some(Member::new(candidate.disk, candidate.name.clone(), sb, bytes, block, candidate.bad.clone()))
    });
    let filled = joined
        .slots
        .iter()
        .enumerate()
        .filter_map(|(slot, place)| Some((joined.candidates[(*place)?].disk, Slot(slot as u16))));
    let replacing = joined.replacements.iter().flatten().map(|&index| joined.candidates[index].disk);
    let freshest = joined.candidates[joined.freshest].disk;
    let mut members = Members::new(list.collect(), freshest, filled, replacing);
    // A superblock must not say more than is believed of its member, not even in the first round.
    for (number, member) in joined.view.devices().enumerate() {
        if let Presence::Below(watermark) = member.presence {
            members.set_watermark(Slot(number as u16), Some(watermark));
        }
    }
    members
}

/// Starts an LU that may be started.
pub(super) fn start(
    files: Arc<FileBackend>,
    through: &Through,
    joined: Joined,
    access: Access,
) -> Result<Lu> {
    let Machine { board, describe, keeper } =
        start_on(through.apply(files.clone()), joined, access, SCRATCH, Now::read().wall)?;
    let thread = keeper.map(spawn).transpose();
    let keeper =
        thread.map_err(|e| Error::new(ErrorKind::Io, "cannot start the keeper's thread").with_source(e))?;
    Ok(Lu { pool: Pool::new(board.clone()), board, describe, keeper: Mutex::new(keeper), files })
}

/// The same without threads, with so many bytes of scratch memory in each queue, when it is `wall`.
pub(super) fn start_on(
    backend: Arc<dyn Backend>,
    joined: Joined,
    access: Access,
    scratch: usize,
    wall: Time,
) -> Result<Machine> {
    let (mut backend, mut joined) = (backend, joined);
    let read_only = access == Access::Read;
    let in_use = joined.in_use();
    let blocks = in_use.iter().map(|&i| backend.info(joined.candidates[i].disk).block);
    let block = blocks.max().unwrap_or(SECTOR as u32);
    let aligns = in_use.iter().map(|&i| backend.info(joined.candidates[i].disk).memory_align);
    let memory_align = aligns.max().unwrap_or(1).max(1) as usize;
    let whole = |sectors: Sectors| sectors.bytes().is_multiple_of(u64::from(block));
    let geometry = &joined.geometry;
    let runs = (0..geometry.slots()).map(|slot| geometry.member_used(Slot(slot)));
    let in_blocks = whole(geometry.size()) && whole(geometry.unit()) && runs.into_iter().all(whole);
    if !read_only && !in_blocks {
        let text =
            format!("its parts are no multiples of its members' block of {block} bytes: it can only be read");
        return Err(Error::new(ErrorKind::CannotStart, text));
    }

    if let Some(bitmap) = joined.bitmap.as_ref().filter(|_| !read_only) {
        let header = &bitmap.bitmap.header;
        for candidate in in_use.iter().map(|&index| &joined.candidates[index]) {
            let Ok(found) = &candidate.found else { continue };
            bitmap::area(&found.superblock, header, block).map_err(|error| {
                let text = format!("{}: {error}: the LU can only be read", candidate.name);
                Error::new(ErrorKind::CannotStart, text)
            })?;
        }
    }

    if !read_only && joined.geometry.is_redundant() {
        make_durable(&mut joined, &*backend)?;
    }
    let sectors = u64::from(block) / SECTOR;
    let book = log::ready(&mut joined, &mut backend, sectors, read_only, wall)?;
    round_to_blocks(&mut joined.view, sectors);
    let wire = |place: &Option<usize>| {
        let candidate = &joined.candidates[(*place)?];
        let found = candidate.found.as_ref().ok()?;
        let (disk, sb) = (candidate.disk, &found.superblock);
        Some(Wire { disk, data_offset: sb.data_offset, log: LogPlace::of(sb) })
    };
    let replacements = joined.replacements.iter().take(joined.view.replacements.len());
    let wires = joined.slots.iter().chain(replacements).map(wire).collect();
    let health = Health { view: Arc::new(joined.view.clone()), wires };
    let geometry = Arc::new(joined.geometry.clone());
    let record = joined.bitmap.as_ref().filter(|_| !read_only).map(|bitmap| Record::new(bitmap, block));
    let (record, intent) = record.unzip();
    let shared = Arc::new(Shared::new(&geometry, QUEUES, joined.view.epoch).with_intent(intent));
    let describe = Describe::new(&joined, &*backend, Some(memory_align));
    let kernels = cpu::kernels();
    let mut board = Board::new(geometry, shared, backend.clone(), kernels, block, read_only, book, health);
    board.scratch = scratch;
    let board = Arc::new(board);

    *lock(&board.roster) = roster(&joined);
    board.set_chunks_marked(joined.bitmap.as_ref().map_or(0, |joined| joined.bitmap.count_set()));
    let mut keeper = None;
    if !read_only {
        let members = members_of(&joined, &*backend);
        if board.geometry.is_redundant() {
            let absent: &[Slot] = &joined.newly_missing;
            keeper = Some(Keeper::new(&board, members, absent, record)?);
        }
    }
    Ok(Machine { board, describe, keeper })
}
