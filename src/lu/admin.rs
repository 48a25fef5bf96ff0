//! Changing who is a member: fail, remove, add, replace. The keeper carries changes out; here they are checked and prepared.

use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::disk::{Access as Claim, Backend, Blocking, DiskId, FileDisk, claim};
use crate::error::{Error, ErrorKind, Result};
use crate::format::badblocks::BadBlocks;
use crate::format::superblock::{Features, Found, Minor, Role, SLOT_BYTES, Superblock, Uuid};
use crate::units::{DiskLba, Sectors, Slot};

use super::Lu;
use super::assemble::Fate;
use super::bitmap;
use super::board::{Board, Change, What, lock};
use super::create::{fill_area, random_uuid, signatures, wipe_superblocks};
use super::machine::Origin;
use super::members::Member;
use super::open::read_found;
use super::status::Row;
use crate::format::Area;

/// How long a failure may take to be recorded before we say that it does not get on.
const PATIENCE: Duration = Duration::from_secs(60);

impl Lu {
    /// Fails a member: it is not used any more from the moment this returns, and the others have recorded it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if the disk fills no slot, [`ErrorKind::Refused`] if data would become unavailable.
    pub fn fail(&self, disk: impl AsRef<Path>) -> Result<()> {
        let row = self.row(disk.as_ref())?;
        match row.fate {
            Fate::Active(slot) | Fate::Replacement(slot) => self.fail_row(slot, &row),
            _ => {
                let text = format!("{} fills no slot; there is nothing to fail", row.name);
                Err(Error::new(ErrorKind::NotFound, text))
            }
        }
    }

    fn fail_row(&self, slot: Slot, row: &Row) -> Result<()> {
        let name = &row.name;
        self.writable()?;
        let mut told = false;
        let patience = Instant::now() + PATIENCE;
        while Instant::now() < patience {
            let health = self.board.health();
            // The wiring is changed only once the survivors have it on record.
            if health.wires.iter().flatten().all(|wire| wire.disk != row.disk) {
                return Ok(());
            }
            if self.board.shared.is_broken() {
                return Err(Error::new(ErrorKind::Io, "the failure cannot be recorded on the other members"));
            }
            let number = match row.fate {
                Fate::Replacement(slot) => health.view.replacement_number(slot),
                _ => slot,
            };
            if number == slot && !self.board.geometry.tolerates(&health.view.incomplete().with(slot)) {
                let text = format!("without {name} ({slot}) the data would not be whole; it stays");
                return Err(Error::new(ErrorKind::Refused, text));
            }
            if !std::mem::replace(&mut told, true) {
                self.board.tell_keeper(|inbox| inbox.failed.push((number, row.disk)));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Err(Error::new(
            ErrorKind::Busy,
            format!("failing {name} did not get on for {} s", PATIENCE.as_secs()),
        ))
    }

    /// Lets go of a disk: a spare, a faulty or stale one, or (failing it first) a member the data can do without. A spare's
    /// superblock is erased, so that it is not taken for a spare of this LU again.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if it is no member, [`ErrorKind::Refused`] if data would become unavailable.
    pub fn remove(&self, disk: impl AsRef<Path>) -> Result<()> {
        self.writable()?;
        let row = self.row(disk.as_ref())?;
        match row.fate {
            Fate::Active(slot) | Fate::Replacement(slot) => self.fail_row(slot, &row)?,
            Fate::Spare | Fate::Aside(..) => {}
        }
        self.change(What::Forget(row.disk))?;
        self.board.release(&row, self.uuid())?;
        self.files.remove(row.disk);
        Ok(())
    }

    /// Adds a disk as a spare. If a slot is empty it is rebuilt onto it at once, in the background
    /// ([`Lu::wait_for_work`]). With a write-intent bitmap a disk that left its slot whole takes it again, and only what it
    /// missed is copied. A disk that was a member before is recognised; `overwrite` is needed for one that holds something
    /// else.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] if it is too small (by how much is said), has larger blocks than the LU serves, or is a member
    /// already; [`ErrorKind::Refused`] if something recognisable would be lost; [`ErrorKind::Busy`] if it is in use.
    pub fn add(&self, disk: impl AsRef<Path>, overwrite: bool) -> Result<()> {
        self.writable()?;
        let path = disk.as_ref();
        let usage = |text: String| Err(Error::new(ErrorKind::Usage, text));
        let files = &self.files;
        if !self.board.geometry.is_redundant() {
            return usage(format!("{} has no use for another disk", self.board.geometry.level()));
        }
        let (model, model_disk) = self.board.model()?;
        let known = self.row(path).ok();
        let id = match known {
            Some(Row { fate: Fate::Aside(..), disk, .. }) => {
                // It was offered with the others; that makes it no member, nor what it holds ours to lose.
                if let Some(opened) = files.disk(disk) {
                    self.refuse_losing(&opened, disk, overwrite)?;
                }
                disk
            }
            Some(row) => return usage(format!("{} is a member already", row.name)),
            None => {
                if let Some(user) = claim::in_use(path) {
                    return Err(Error::new(ErrorKind::Busy, format!("{} is in use: {user}", path.display())));
                }
                let opened = FileDisk::open(path, Claim::Exclusive)?;
                self.board.check_fit(&opened.info().name, opened.size(), opened.info().block, &model)?;
                let id = files.add(opened)?;
                if let Some(opened) = files.disk(id) {
                    self.refuse_losing(&opened, id, overwrite).inspect_err(|_| drop(files.remove(id)))?;
                }
                id
            }
        };
        let info = self.board.backend.info(id);
        self.board.check_fit(&info.name, info.size, info.block, &model)?;
        if self.come_back(id, &model)? {
            return Ok(());
        }
        let mut uuid = random_uuid;
        let member = self.board.prepare(id, &model, model_disk, &mut Origin::system(&mut uuid))?;
        self.change(What::Join(Box::new(member)))
    }

    /// Replaces a member that works: `new` becomes a copy of it in the background ([`Lu::wait_for_work`]), then takes its
    /// slot, and `old` is faulty. Until then `old` serves, and redundancy is never less than it was. `new` is a spare, or is
    /// added as one ([`Lu::add`], which says what `overwrite` is for). Nothing happens if it is under way already.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if `old` fills no slot; [`ErrorKind::Refused`] if it is being rebuilt or replaced by another
    /// disk, or if an empty slot would take `new`; and those of [`Lu::add`].
    pub fn replace(&self, old: impl AsRef<Path>, new: impl AsRef<Path>, overwrite: bool) -> Result<()> {
        self.writable()?;
        let (old, new) = (self.row(old.as_ref())?, new.as_ref());
        let Fate::Active(slot) = old.fate else {
            let text = format!("{} fills no slot; there is nothing to replace", old.name);
            return Err(Error::new(ErrorKind::NotFound, text));
        };
        let view = self.board.health().view.clone();
        if let Some(empty) = view.missing().iter().next() {
            let text = format!("{empty} is empty and comes first: uraid add a disk for it, then replace");
            return Err(Error::new(ErrorKind::Refused, text));
        }
        if view.replacement(slot).is_some() {
            let text = format!("{} is being replaced by another disk already", old.name);
            return match self.row(new) {
                Ok(row) if row.fate == Fate::Replacement(slot) => Ok(()),
                _ => Err(Error::new(ErrorKind::Refused, text)),
            };
        }
        if !self.row(new).is_ok_and(|row| row.fate == Fate::Spare) {
            self.add(new, overwrite)?;
        }
        let spare = self.row(new)?.disk;
        self.change(What::Replace(slot, spare))
    }

    /// Refuses to write over what is recognised on `disk`, unless that is this LU's own or `overwrite` says so.
    fn refuse_losing(&self, disk: &FileDisk, id: DiskId, overwrite: bool) -> Result<()> {
        let is_ours = |found: Found| found.superblock.set_uuid == self.uuid();
        if overwrite || self.board.superblock_on(id).is_some_and(is_ours) {
            return Ok(());
        }
        let found = signatures(disk)?;
        if found.is_empty() {
            return Ok(());
        }
        let text = format!("{}; to use the disk nevertheless: --confirm {}", found.join("; "), self.name());
        Err(Error::new(ErrorKind::Refused, text))
    }

    pub(super) fn change(&self, what: What) -> Result<()> {
        let no_answer = |_| Error::new(ErrorKind::Busy, "the change did not get on");
        self.board.ask(what).recv_timeout(PATIENCE).map_err(no_answer)?
    }

    /// The disk by whatever path it is named.
    pub(super) fn row(&self, path: &Path) -> Result<Row> {
        let rows = lock(&self.board.roster).clone();
        if let Some(row) = rows.iter().find(|row| Path::new(&row.name) == path) {
            return Ok(row.clone());
        }
        let wanted = FileDisk::open(path, Claim::Look)?.identity();
        let same = |row: &&Row| {
            let disk = self.files.disk(row.disk);
            disk.is_some_and(|disk| disk.identity() == wanted)
        };
        rows.iter().find(same).cloned().ok_or_else(|| {
            let text = format!("{} is no member of LU {}", path.display(), self.name());
            Error::new(ErrorKind::NotFound, text)
        })
    }

    fn writable(&self) -> Result<()> {
        super::refuse_read_only(&self.board)
    }
}

/// What changes of membership need, whatever the disks are.
impl Board {
    /// Asks the keeper for a change; the answer comes when it is on disk.
    pub(super) fn ask(&self, what: What) -> mpsc::Receiver<Result<()>> {
        let (done, ended) = mpsc::channel();
        self.tell_keeper(|inbox| inbox.changes.push(Change { what, done }));
        ended
    }

    /// Lets go of a disk that is no member of LU `uuid` any more. What was a spare is not taken for one again.
    pub(super) fn release(&self, row: &Row, uuid: Uuid) -> Result<()> {
        if row.fate == Fate::Spare {
            let io = Blocking::new(&*self.backend)?;
            let size = self.backend.info(row.disk).size;
            for at in Minor::ALL.into_iter().filter_map(|minor| minor.offset(size)) {
                let mut slot = vec![0; SLOT_BYTES];
                let ours = io.read_exact(row.disk, at, &mut slot).is_ok() && is_of(&slot, size, uuid);
                if ours {
                    io.write_exact(row.disk, at, &[0; SLOT_BYTES], true)?;
                }
            }
        }
        // Nobody keeps it open from now on: it may be pulled, or used for something else.
        self.each_cell(|cell| cell.detach(row.disk));
        Ok(())
    }

    /// A member in sync, whose layout a new one copies.
    pub(super) fn model(&self) -> Result<(Superblock, DiskId)> {
        let rows = lock(&self.roster).clone();
        for row in rows.iter().filter(|row| matches!(row.fate, Fate::Active(_))) {
            if let Some(found) = self.superblock_on(row.disk) {
                return Ok((found.superblock, row.disk));
            }
        }
        Err(Error::new(ErrorKind::Io, "no member's superblock can be read"))
    }

    fn superblock_on(&self, disk: DiskId) -> Option<Found> {
        let io = Blocking::new(&*self.backend).ok()?;
        read_found(&io, disk, self.backend.info(disk).size).ok()
    }

    pub(super) fn check_fit(&self, name: &str, size: Sectors, block: u32, model: &Superblock) -> Result<()> {
        if block > self.block {
            let text = format!("{name} has blocks of {block} bytes; the LU serves blocks of {}", self.block);
            return Err(Error::new(ErrorKind::Usage, text));
        }
        let room = data_room(size, model);
        if room < model.size {
            let need = size.bytes() + (model.size - room).bytes();
            let text = format!(
                "{name} is too small: it has {} bytes and needs {need}, {} more",
                size.bytes(),
                (model.size - room).bytes()
            );
            return Err(Error::new(ErrorKind::Usage, text));
        }
        Ok(())
    }

    /// Writes what a new member needs besides its superblock, which the keeper writes.
    pub(super) fn prepare(
        &self,
        id: DiskId,
        model: &Superblock,
        model_disk: DiskId,
        origin: &mut Origin<'_>,
    ) -> Result<Member> {
        let info = self.backend.info(id);
        let size = info.size;
        let before = self.superblock_on(id).map(|found| found.superblock);
        let returning = before.filter(|sb| sb.set_uuid == model.set_uuid);
        let dev_number = self.free_number(id, returning.as_ref(), model)?;
        let super_offset = model.minor.offset(size).ok_or_else(|| {
            Error::new(ErrorKind::Usage, format!("{} is too small for a superblock", info.name))
        })?;
        let mut superblock = Superblock {
            super_offset,
            data_size: data_room(size, model),
            recovery_offset: Sectors(0),
            dev_number,
            corrected_reads: 0,
            device_uuid: match returning {
                Some(sb) => sb.device_uuid,
                None => (origin.uuid)()?,
            },
            devflags: 0,
            utime: origin.wall,
            ..model.clone()
        };
        let temporary = Features::RECOVERY_OFFSET
            .with(Features::BAD_BLOCKS)
            .with(Features::REPLACEMENT)
            .with(Features::RECOVERY_BITMAP);
        superblock.features = superblock.features.without(temporary);
        let io = Blocking::new(&*self.backend)?;
        // A superblock left at another place could be taken for the member's own later.
        wipe_superblocks(&io, id, superblock.minor, size)?;
        self.clear_gap(&io, id, &superblock)?;
        // The keeper writes it anew when the disk takes a slot.
        if let (Some(to), Ok(copy)) = (superblock.bitmap_at(), bitmap::read(&io, model_disk, model)) {
            io.write_exact(id, to, &copy.to_bytes(), false)?;
        }
        super::log::clear(&io, id, &superblock, 0, false)?;
        io.flush(id)?;
        let bytes = vec![0; SLOT_BYTES];
        Ok(Member::new(id, info.name, superblock, bytes, info.block, BadBlocks::new()))
    }

    /// Between superblock and data: nothing old may be taken for ours or md's.
    fn clear_gap(&self, io: &Blocking<&dyn Backend>, id: DiskId, sb: &Superblock) -> Result<()> {
        if sb.minor != Minor::V1_0 {
            let start = sb.super_offset + Sectors(8);
            let end = DiskLba(sb.data_offset.0.min(6144));
            if start < end {
                fill_area(io, id, Area::new(start, end - start), 0)?;
            }
        }
        if let Some(area) = sb.bblog_area() {
            let anchor = Sectors(120).0.min(area.start.0.saturating_sub(sb.super_offset.0 + 8));
            if sb.minor == Minor::V1_2 && area.start.0 > 6144 {
                fill_area(io, id, Area::new(DiskLba(area.start.0 - anchor), Sectors(anchor)), 0)?;
            }
            fill_area(io, id, area, 0xff)?;
        }
        Ok(())
    }

    /// A number in the table of roles: its own if it had one that nobody else has, else the first free one.
    fn free_number(&self, id: DiskId, returning: Option<&Superblock>, model: &Superblock) -> Result<u32> {
        let rows = lock(&self.roster);
        let taken = |number: u32| rows.iter().any(|row| row.disk != id && row.dev_number == Some(number));
        let unused = |number: &u32| {
            let role = model.role_of(*number);
            !taken(*number) && matches!(role, Role::Spare | Role::Faulty)
        };
        let own = returning.map(|sb| sb.dev_number).filter(unused);
        own.or_else(|| {
            let mut free = (0..model.roles.len() as u32).filter(unused);
            let first_fresh = free.clone().find(|&number| model.role_of(number) == Role::Spare);
            first_fresh.or_else(|| free.next())
        })
        .ok_or_else(|| Error::new(ErrorKind::Usage, "the superblocks have no room for another member"))
    }
}

/// Sectors for data on a disk of `size` that is laid out like `model`.
fn data_room(size: Sectors, model: &Superblock) -> Sectors {
    let end = match model.minor {
        // What lies between data and superblock keeps its length.
        Minor::V1_0 => {
            let tail = model.super_offset.0.saturating_sub(model.data_offset.0 + model.data_size.0);
            model.minor.offset(size).map_or(0, |at| at.0.saturating_sub(tail))
        }
        Minor::V1_1 | Minor::V1_2 => size.0,
    };
    Sectors(end.saturating_sub(model.data_offset.0))
}

fn is_of(slot: &[u8], size: Sectors, set: Uuid) -> bool {
    Minor::ALL
        .into_iter()
        .any(|minor| Superblock::parse(slot, minor, size).is_ok_and(|sb| sb.set_uuid == set))
}
