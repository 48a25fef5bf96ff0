//! Making an LU: looking at the disks first, refusing what would destroy something, then superblocks last.
//!
//! Everything that can be refused is refused before the first byte is written, and a refusal removes the files that were
//! made for it. The places of all structures are those of [`placement`](crate::format::placement); the superblocks are
//! written last, so that an interrupted creation leaves no half an LU behind that could be taken for one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Access as Claim, Backend, Blocking, DiskId, FileBackend, FileDisk, IoMode, claim, file};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Area;
use crate::format::placement::{Fill, Placement, Policy};
use crate::format::ppl;
use crate::format::signature;
use crate::format::superblock::{Features, Minor, Name, Role, SLOT_BYTES, Superblock, Time, Uuid};
use crate::geometry::{self, Geometry, Layout, Shape, usable_component};
use crate::units::{DiskLba, Level, MAX_SLOTS, SECTOR, Sectors, Slot, SlotSet};

use super::Lu;
use super::assemble::{Allow, Joined, join};
use super::bitmap;
use super::machine::Origin;
use super::open::{Access, Through, read_candidates, start};

/// Default chunk: 64 KiB.
const CHUNK: Sectors = Sectors(128);

/// Makes an LU; made by [`Lu::create`].
#[derive(Clone, Debug)]
pub struct Create {
    name: String,
    level: Level,
    disks: Vec<Option<PathBuf>>,
    spares: Vec<PathBuf>,
    chunk: Option<Sectors>,
    layout: Option<String>,
    size: Option<Sectors>,
    policy: Option<Policy>,
    bitmap_chunk: Option<u32>,
    metadata: Minor,
    assume_clean: bool,
    disk_size: Option<Sectors>,
    overwrite: bool,
    io: IoMode,
    through: Through,
}

/// The form of an LU, before its disks are looked at.
#[derive(Clone, Copy)]
struct Form {
    chunk: Sectors,
    layout: Layout,
    redundant: bool,
}

impl Create {
    pub(super) fn new(name: String, level: Level) -> Create {
        Create {
            name,
            level,
            disks: Vec::new(),
            spares: Vec::new(),
            chunk: None,
            layout: None,
            size: None,
            policy: None,
            bitmap_chunk: None,
            metadata: Minor::V1_2,
            assume_clean: false,
            disk_size: None,
            overwrite: false,
            io: IoMode::Auto,
            through: Through::default(),
        }
    }

    /// The disk for the next slot.
    pub fn disk(mut self, path: impl AsRef<Path>) -> Create {
        self.disks.push(Some(path.as_ref().to_owned()));
        self
    }

    /// Leaves the next slot empty.
    pub fn missing(mut self) -> Create {
        self.disks.push(None);
        self
    }

    /// A disk that will take over for one that fails.
    pub fn spare(mut self, path: impl AsRef<Path>) -> Create {
        self.spares.push(path.as_ref().to_owned());
        self
    }

    /// Bytes in a chunk; 64 KiB if not said. A power of two from 4 KiB up for RAID4/5/6/10.
    pub fn chunk(mut self, bytes: u64) -> Create {
        // What is no whole sector is kept recognisably wrong.
        self.chunk =
            Some(if bytes.is_multiple_of(SECTOR) { Sectors(bytes / SECTOR) } else { Sectors(u64::MAX) });
        self
    }

    /// The layout by name: `left-symmetric`, `n2`, `f2`, `o2`... The level's usual one if not said.
    pub fn layout(mut self, name: &str) -> Create {
        self.layout = Some(name.to_owned());
        self
    }

    /// Bytes to use of each member (md's "size"), rounded down to the chunk; all there is if not said.
    pub fn size(mut self, bytes: u64) -> Create {
        self.size = Some(Sectors::from_bytes_floor(bytes));
        self
    }

    /// How redundancy is to be brought back after a crash. If not said: [`Policy::Ppl`] on RAID5, where it closes the write
    /// hole, [`Policy::Bitmap`] on other redundant levels, [`Policy::None`] elsewhere and on disks too small for that.
    pub fn policy(mut self, policy: Policy) -> Create {
        self.policy = Some(policy);
        self
    }

    /// Bytes for which one bit of a write-intent bitmap stands: a power of two from 4 KiB up with which it fits its place. As
    /// mdadm chooses it if not said: 64 MiB unless the members are huge.
    pub fn bitmap_chunk(mut self, bytes: u32) -> Create {
        self.bitmap_chunk = Some(bytes);
        self
    }

    /// Version of the superblocks; 1.2 if not said.
    pub fn metadata(mut self, minor: Minor) -> Create {
        self.metadata = minor;
        self
    }

    /// Leave out the first resync: the disks are said to agree already.
    pub fn assume_clean(mut self, yes: bool) -> Create {
        self.assume_clean = yes;
        self
    }

    /// Make disks that do not exist as sparse files of this many bytes.
    pub fn disk_size(mut self, bytes: u64) -> Create {
        self.disk_size = Some(Sectors::from_bytes_floor(bytes));
        self
    }

    /// Go on although something recognisable is on the disks: it will be lost.
    pub fn overwrite(mut self, yes: bool) -> Create {
        self.overwrite = yes;
        self
    }

    /// How disks are driven.
    pub fn io(mut self, mode: IoMode) -> Create {
        self.io = mode;
        self
    }

    /// Drives the disks through a wrapper once the LU is made; see [`Assemble::through`](super::Assemble::through).
    pub fn through(
        mut self,
        wrap: impl Fn(Arc<dyn Backend>) -> Arc<dyn Backend> + Send + Sync + 'static,
    ) -> Create {
        self.through = Through::new(wrap);
        self
    }

    /// What would be lost, a sentence for each thing found on the disks. Empty if nothing is recognised.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a disk that does not exist (unless [`disk_size`](Create::disk_size) is given),
    /// [`ErrorKind::Io`] if one cannot be read.
    pub fn would_destroy(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for path in self.paths() {
            match FileDisk::open(path, Claim::Look) {
                Ok(disk) => found.extend(signatures(&disk)?),
                Err(error) if error.kind() == ErrorKind::NotFound && self.disk_size.is_some() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Makes the LU and opens it for writing. A first resync, if there is one, runs in the background
    /// ([`Lu::wait_for_work`]).
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a shape that cannot be, a disk named twice or too small; [`ErrorKind::NotFound`] for a missing disk;
    /// [`ErrorKind::Busy`] for one in use; [`ErrorKind::Refused`] if something recognisable would be lost. Nothing has been written
    /// then, and files made for the LU are gone again.
    pub fn make(self) -> Result<Lu> {
        self.check_request()?;
        let mut made = Made::default();
        let lu = self.make_on(&mut made)?;
        made.keep = true;
        Ok(lu)
    }

    fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.disks.iter().flatten().chain(&self.spares)
    }

    fn check_request(&self) -> Result<()> {
        let usage = |text: String| Err(Error::new(ErrorKind::Usage, text));
        if self.policy == Some(Policy::Ppl) && !Features::PPL.suits(self.level) {
            return usage(format!(
                "policy ppl, the partial parity log, is for raid5 only, not for {}",
                self.level
            ));
        }
        if self.bitmap_chunk.is_some_and(|bytes| !bytes.is_power_of_two() || bytes < 4096) {
            return usage("the chunk of a bitmap must be a power of two from 4 KiB up".into());
        }
        if self.name.is_empty() || self.name.len() > 32 || self.name.contains(['/', ',', '\0', '\n']) {
            return usage(format!("{:?} is no name for an LU: 1 to 32 bytes without '/' and ','", self.name));
        }
        if self.disks.len() + self.spares.len() > MAX_SLOTS {
            return usage(format!(
                "{} disks are more than the {MAX_SLOTS} a superblock can list",
                self.disks.len()
            ));
        }
        if self.disks.iter().all(Option::is_none) {
            return usage("no disk named".into());
        }
        Ok(())
    }

    fn layout_number(&self) -> Result<Layout> {
        match &self.layout {
            Some(name) => Layout::parse(self.level, name),
            None => Ok(Layout::default_for(self.level)),
        }
    }

    /// The shape's errors, found without a disk: with members as large as needed. Tells whether it is redundant.
    fn check_shape(&self, chunk: Sectors, layout: Layout) -> Result<bool> {
        let plenty = Sectors(1 << 32);
        let sizes = vec![plenty; self.disks.len()];
        let component = usable_component(self.level, chunk, plenty);
        let slots = u16::try_from(self.disks.len()).unwrap_or(u16::MAX);
        let shape =
            Shape { level: self.level, layout: layout.md_number(), chunk, slots, component, members: &sizes };
        let geometry = Geometry::new(&shape).map_err(|e| Error::new(ErrorKind::Usage, e.to_string()))?;
        let missing = self.disks.iter().enumerate().filter(|(_, disk)| disk.is_none());
        let missing = missing.map(|(slot, _)| Slot(slot as u16)).collect();
        if !geometry.tolerates(&missing) {
            let text = format!("{} with {} missing disks would have no data", self.level, missing.len());
            return Err(Error::new(ErrorKind::Usage, text));
        }
        if !self.spares.is_empty() && !geometry.is_redundant() {
            return Err(Error::new(ErrorKind::Usage, format!("{} has no use for a spare", self.level)));
        }
        if self.policy == Some(Policy::Bitmap) && !geometry.is_redundant() {
            let text = format!("{} has no redundancy that a bitmap could bring back", self.level);
            return Err(Error::new(ErrorKind::Usage, text));
        }
        Ok(geometry.is_redundant())
    }

    /// The policy asked for, or the level's own if there is room for it on a disk of `size`.
    fn policy_for(&self, redundant: bool, size: Sectors) -> Policy {
        let own = match redundant {
            true if Features::PPL.suits(self.level) => Policy::Ppl,
            true => Policy::Bitmap,
            false => Policy::None,
        };
        let fits = |policy: &Policy| {
            let place = Placement::for_disk(size, *policy, self.metadata);
            place.and_then(|place| place.data_size(size)).is_some_and(|data| data.0 >= 16)
        };
        self.policy.unwrap_or_else(|| Some(own).filter(fits).unwrap_or(Policy::None))
    }

    /// What it is to be, checked as far as that goes without disks.
    fn form(&self) -> Result<Form> {
        let has_chunk = geometry::has_chunk(self.level);
        let chunk = match self.chunk {
            Some(_) if !has_chunk => {
                return Err(Error::new(ErrorKind::Usage, format!("{} has no chunks", self.level)));
            }
            Some(Sectors(u64::MAX)) => {
                return Err(Error::new(ErrorKind::Usage, "the chunk must be a multiple of 512 bytes"));
            }
            Some(chunk) => chunk,
            None if has_chunk => CHUNK,
            None => Sectors(0),
        };
        let layout = self.layout_number()?;
        let redundant = self.check_shape(chunk, layout)?;
        Ok(Form { chunk, layout, redundant })
    }

    fn make_on(&self, made: &mut Made) -> Result<Lu> {
        self.form()?;
        let disks = self.open_disks(made)?;
        if !self.overwrite {
            let mut found = Vec::new();
            for disk in disks.iter().filter(|disk| !made.has(disk.path())) {
                found.extend(signatures(disk)?);
            }
            if !found.is_empty() {
                let text = format!(
                    "{}; to make the LU nevertheless and lose that: --confirm {}",
                    found.join("; "),
                    self.name
                );
                return Err(Error::new(ErrorKind::Refused, text));
            }
        }
        let all_new = disks.iter().all(|disk| made.has(disk.path()));
        let backend = Arc::new(FileBackend::new(self.io));
        let mut ids = Vec::new();
        for disk in disks {
            ids.push(backend.add(disk)?);
        }
        let joined = self.make_in(&*backend, &ids, all_new, &mut Origin::system(&mut random_uuid))?;
        start(backend, &self.through, joined, Access::Write)
    }

    /// Makes the LU on disks that are open: members by slot, then spares. `all_new`: they hold zeroes.
    pub(super) fn make_in(
        &self,
        backend: &dyn Backend,
        ids: &[DiskId],
        all_new: bool,
        origin: &mut Origin<'_>,
    ) -> Result<Joined> {
        let draft = self.draft(backend, ids, &self.form()?, all_new, origin)?;
        draft.write(backend, self.overwrite)?;
        let candidates = read_candidates(backend)?;
        join(candidates, draft.set, &Allow { dirty: true, ..Allow::default() })
    }

    /// Opens every disk, making those that are not there, and checks that they are different ones that nobody uses.
    fn open_disks(&self, made: &mut Made) -> Result<Vec<FileDisk>> {
        let mut looks: Vec<FileDisk> = Vec::new();
        for path in self.paths() {
            if let (false, Some(size)) = (path.exists(), self.disk_size) {
                file::create_sparse(path, size)?;
                made.paths.push(path.clone());
            }
            // Before anything is claimed: the same disk twice is told as such, not as in use by ourselves.
            let look = FileDisk::open(path, Claim::Look)?;
            if let Some(other) = looks.iter().find(|other| other.overlaps(&look)) {
                let text = format!("{} and {} are the same disk", other.path().display(), path.display());
                return Err(Error::new(ErrorKind::Usage, text));
            }
            looks.push(look);
        }
        drop(looks);
        let claim = |path: &PathBuf| match claim::in_use(path) {
            Some(user) => Err(Error::new(ErrorKind::Busy, format!("{} is in use: {user}", path.display()))),
            None => FileDisk::open(path, Claim::Exclusive),
        };
        self.paths().map(claim).collect()
    }

    fn draft(
        &self,
        backend: &dyn Backend,
        ids: &[DiskId],
        form: &Form,
        all_new: bool,
        origin: &mut Origin<'_>,
    ) -> Result<Draft> {
        let Form { chunk, layout, redundant } = *form;
        let adds_up = geometry::uses_whole_members(self.level);
        let size_of = |id: &DiskId| backend.info(*id).size;
        let smallest = ids.iter().map(size_of).min().unwrap_or(Sectors(0));
        let too_small = |id: &DiskId| {
            let (name, size) = (backend.info(*id).name, size_of(id).bytes());
            Error::new(ErrorKind::Usage, format!("{name} is too small for a member: {size} bytes"))
        };
        let policy = self.policy_for(redundant, smallest);
        let mut places = Vec::new();
        let mut data_sizes = Vec::new();
        for id in ids {
            let basis = if adds_up { size_of(id) } else { smallest };
            let tight = if adds_up { id } else { ids.iter().min_by_key(|id| size_of(id)).unwrap_or(id) };
            let place = Placement::for_disk(basis, policy, self.metadata).ok_or_else(|| too_small(tight))?;
            let data =
                place.data_size(size_of(id)).filter(|data| data.0 >= 16).ok_or_else(|| too_small(id))?;
            if data < chunk {
                return Err(too_small(id));
            }
            places.push(place);
            data_sizes.push(data);
        }
        let room = data_sizes.iter().copied().min().unwrap_or(Sectors(0));
        let wanted = self.size.unwrap_or(room);
        if wanted > room {
            let text = format!(
                "--size asks for {} bytes of each member and the smallest has {}",
                wanted.bytes(),
                room.bytes()
            );
            return Err(Error::new(ErrorKind::Usage, text));
        }
        if self.size.is_some() && adds_up {
            let text = format!("{} uses all of every member: --size has no meaning there", self.level);
            return Err(Error::new(ErrorKind::Usage, text));
        }
        let component = if adds_up { Sectors(0) } else { usable_component(self.level, chunk, wanted) };
        let slots = self.disks.len() as u16;
        let mut next = data_sizes.iter();
        let by_slot: Vec<Sectors> = self
            .disks
            .iter()
            .map(|disk| disk.as_ref().and_then(|_| next.next().copied()).unwrap_or(room))
            .collect();
        let shape = Shape {
            level: self.level,
            layout: layout.md_number(),
            chunk,
            slots,
            component,
            members: &by_slot,
        };
        let geometry = Geometry::new(&shape).map_err(|e| Error::new(ErrorKind::Usage, e.to_string()))?;
        let missing: Vec<u16> = (0..slots).filter(|&slot| self.disks[usize::from(slot)].is_none()).collect();
        let absent: SlotSet = missing.iter().map(|&slot| Slot(slot)).collect();
        // Where nobody else can be spared there is no redundancy that could disagree; zeroes agree anyway.
        let spared = |slot: u16| !absent.contains(Slot(slot)) && geometry.tolerates(&absent.with(Slot(slot)));
        let agrees = all_new || self.assume_clean || !(0..slots).any(spared);
        let resync_offset = if agrees { Sectors::MAX } else { Sectors(0) };
        let mut draft = Draft { set: (origin.uuid)()?, members: Vec::new() };
        let total = slots as usize + self.spares.len();
        // The superblock fills whole sectors: 128 roles in the first, 256 in every further one.
        let max_dev = if total <= 128 { 128 } else { 128 + (total - 128).next_multiple_of(256) };
        let mut roles = vec![Role::Spare.raw(); max_dev.min(MAX_SLOTS)];
        for slot in (0..slots).filter(|slot| !missing.contains(slot)) {
            roles[usize::from(slot)] = slot;
        }
        let numbers = (0..slots).filter(|slot| !missing.contains(slot)).chain(slots..total as u16);
        let now = origin.wall;
        let now = Time { micros: now.micros.max(1), ..now };
        let many_zones = geometry::has_zones(self.level) && are_unequal(&data_sizes, chunk);
        // Room for more than two records of any size: the kernel would make it "multiple" at its first start.
        let policy = match policy {
            Policy::Ppl => Features::MULTIPLE_PPLS,
            Policy::Bitmap => Features::BITMAP,
            Policy::None => Features::NONE,
        };
        for (((id, place), data_size), number) in ids.iter().zip(places).zip(data_sizes).zip(numbers) {
            let own = size_of(id);
            let super_offset = self.metadata.offset(own).ok_or_else(|| too_small(id))?;
            let superblock = Superblock {
                minor: self.metadata,
                features: if many_zones { Features::RAID0_LAYOUT } else { policy },
                set_uuid: draft.set,
                name: Name::new(&self.name)
                    .ok_or_else(|| Error::new(ErrorKind::Usage, "the name is longer than 32 bytes"))?,
                // Whole seconds, as mdadm writes it: the kernel compares the time of creation with one cut to
                // 32 bits, and with microseconds above it refuses most of `mdadm --grow` for ever.
                ctime: Time { micros: 0, ..now },
                level: self.level.md_number(),
                layout: layout.md_number(),
                size: component,
                chunk,
                raid_disks: u32::from(slots),
                bitmap_offset: place.bitmap_offset(),
                ppl: place.ppl(),
                reshape: None,
                data_offset: place.data_offset,
                data_size,
                super_offset,
                recovery_offset: Sectors(0),
                dev_number: u32::from(number),
                corrected_reads: 0,
                device_uuid: (origin.uuid)()?,
                devflags: 0,
                bblog: place.bblog(),
                utime: now,
                events: 1,
                resync_offset,
                logical_block_size: 0,
                roles: roles.clone(),
            };
            let bitmap = match superblock.bitmap_at() {
                Some(at) => {
                    let space = place.bitmap_space();
                    let bitmap = bitmap::for_new(&superblock, &geometry, self.bitmap_chunk, space, !agrees);
                    if bitmap.header.bytes_used() > space.bytes() {
                        let text =
                            format!("a bitmap with so small a chunk does not fit its place of {space}");
                        return Err(Error::new(ErrorKind::Usage, text));
                    }
                    Some((at, bitmap.to_bytes()))
                }
                None => None,
            };
            draft.members.push(NewMember { disk: *id, superblock, areas: place.at_creation(own), bitmap });
        }
        Ok(draft)
    }
}

/// Do the members' usable sizes differ, so that a striped LU has several zones?
fn are_unequal(sizes: &[Sectors], chunk: Sectors) -> bool {
    let mut rounded = sizes.iter().map(|size| size.round_down(chunk));
    let first = rounded.next();
    rounded.any(|size| Some(size) != first)
}

pub(super) fn random_uuid() -> Result<Uuid> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|e| Error::new(ErrorKind::Io, format!("the system gives no random numbers: {e}")))?;
    Ok(Uuid(bytes))
}

/// A sentence for everything recognised on a disk.
pub(super) fn signatures(disk: &FileDisk) -> Result<Vec<String>> {
    let name = disk.path().display().to_string();
    let backend = FileBackend::new(IoMode::Plain);
    let id = backend.add(FileDisk::open(disk.path(), Claim::Look)?)?;
    let io = Blocking::new(&backend as &dyn Backend)?;
    let found = signature::probe(disk.size(), |at, bytes| io.read_exact(id, at, bytes))?;
    let sentence = |s: signature::Signature| match s.label.filter(|label| !label.is_empty()) {
        Some(label) => format!("{name} holds a {} named {label:?}", s.what),
        None => format!("{name} holds a {}", s.what),
    };
    Ok(found.into_iter().map(sentence).collect())
}

/// What will be on the disks.
struct Draft {
    set: Uuid,
    members: Vec<NewMember>,
}

/// One disk's part of it.
struct NewMember {
    disk: DiskId,
    superblock: Superblock,
    /// What else is written, before the superblock.
    areas: Vec<(Area, Fill)>,
    /// Its copy of the write-intent bitmap, and where.
    bitmap: Option<(DiskLba, Vec<u8>)>,
}

impl Draft {
    /// Writes everything, superblocks last, and flushes.
    fn write(&self, backend: &dyn Backend, overwrite: bool) -> Result<()> {
        let io = Blocking::new(backend)?;
        for NewMember { disk, superblock, areas, bitmap } in &self.members {
            let size = backend.info(*disk).size;
            if overwrite {
                // A superblock left at another place could be taken for the member's own later.
                wipe_superblocks(&io, *disk, superblock.minor, size)?;
            }
            for &(area, fill) in areas {
                let byte = match fill {
                    Fill::Zero => 0,
                    Fill::Ones => 0xff,
                };
                fill_area(&io, *disk, area, byte)?;
            }
            if let Some((at, bytes)) = bitmap {
                io.write_exact(*disk, *at, bytes, false)?;
            }
            if let Some(log) = superblock.ppl_area() {
                io.write_exact(*disk, log.start, &ppl::Header::empty().emit(superblock.set_uuid), false)?;
            }
            io.flush(*disk)?;
        }
        for NewMember { disk, superblock, .. } in &self.members {
            let mut slot = vec![0; SLOT_BYTES];
            superblock.write_into(&mut slot);
            io.write_exact(*disk, superblock.super_offset, &slot, true)?;
            io.flush(*disk)?;
        }
        Ok(())
    }
}

pub(super) fn fill_area(io: &Blocking<&dyn Backend>, disk: DiskId, area: Area, byte: u8) -> Result<()> {
    let bytes = vec![byte; area.length.bytes().min(1 << 20) as usize];
    let mut at = area.start;
    while at < area.end() {
        let part = (area.end() - at).bytes().min(bytes.len() as u64);
        io.write_exact(disk, at, &bytes[..part as usize], false)?;
        at = at + Sectors(part / SECTOR);
    }
    Ok(())
}

/// Where a superblock of version 0.90 is: in the last whole 64 KiB of the disk.
fn old_place(size: Sectors) -> Option<DiskLba> {
    const RESERVED: u64 = 128;
    size.round_down(Sectors(RESERVED)).0.checked_sub(RESERVED).map(DiskLba)
}

/// Takes away all superblocks of md's but one of version `keep`.
pub(super) fn wipe_superblocks(
    io: &Blocking<&dyn Backend>,
    disk: DiskId,
    keep: Minor,
    size: Sectors,
) -> Result<()> {
    let places = Minor::ALL.into_iter().filter(|minor| *minor != keep);
    for at in places.filter_map(|minor| minor.offset(size)).chain(old_place(size)) {
        wipe_superblock(io, disk, at)?;
    }
    Ok(())
}

/// Takes away what begins like a superblock of md's, of any version and byte order, in whatever state it is.
fn wipe_superblock(io: &Blocking<&dyn Backend>, disk: DiskId, at: DiskLba) -> Result<()> {
    let mut magic = [0; 4];
    let readable = io.read_exact(disk, at, &mut magic).is_ok();
    if readable && matches!(&magic, b"\xfc\x4e\x2b\xa9" | b"\xa9\x2b\x4e\xfc") {
        io.write_exact(disk, at, &[0; SLOT_BYTES], true)?;
    }
    Ok(())
}

/// Files made for an LU that may yet be refused.
#[derive(Default)]
struct Made {
    paths: Vec<PathBuf>,
    keep: bool,
}

impl Made {
    fn has(&self, path: &Path) -> bool {
        self.paths.iter().any(|made| made == path)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for path in self.paths.iter().filter(|_| !self.keep) {
            // Nothing better can be done about a file that cannot be removed; the refusal itself is what counts.
            let _ = std::fs::remove_file(path);
        }
    }
}
