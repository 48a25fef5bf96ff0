//! An LU without its threads: board, description and keeper, on any backend.
//!
//! [`Lu`](super::Lu) is this, a thread that steps the keeper, and a pool of queues for blocking calls. The simulator steps the
//! keeper itself, tells it the time and drives all queues from one thread: whatever an open LU does, it does in
//! [`step`](Machine::step) and in polls of its queues. Nothing here reads a clock, and identities come from an [`Origin`]; but
//! creation, assembly and the preparing of a new member use blocking metadata I/O, which the disks answer at once.

use std::sync::Arc;

use crate::error::Result;
use crate::format::superblock::{Time, Uuid};

use super::board::Board;
use super::keeper::{Keeper, Now};
use super::status::Describe;

/// Where the time of day and new identities come from: the system, or a simulator's seed.
pub(crate) struct Origin<'a> {
    pub wall: Time,
    pub uuid: &'a mut dyn FnMut() -> Result<Uuid>,
}

impl<'a> Origin<'a> {
    /// The time of day now, and identities from `uuid`.
    pub(super) fn system(uuid: &'a mut dyn FnMut() -> Result<Uuid>) -> Origin<'a> {
        Origin { wall: Now::read().wall, uuid }
    }
}

/// See the [module's text](self).
pub(crate) struct Machine {
    pub(super) board: Arc<Board>,
    pub(super) describe: Describe,
    /// There is none where there is nothing to keep: open for reading, or a level without redundancy.
    pub(super) keeper: Option<Keeper>,
}

#[cfg(feature = "sim")]
pub(crate) use driven::{How, MemberKind, Pending};

/// What only somebody needs who drives an LU by hand.
#[cfg(feature = "sim")]
mod driven {
    use std::sync::{Arc, mpsc};
    use std::time::{Duration, Instant};

    use crate::disk::{Backend, DiskId};
    use crate::error::{Error, ErrorKind, Result};
    use crate::format::superblock::Time;
    use crate::geometry::Geometry;
    use crate::plan::View;
    use crate::units::{Sectors, Slot};

    use super::super::assemble::{Allow, Fate, join};
    use super::super::board::{What, lock};
    use super::super::create::Create;
    use super::super::keeper::Now;
    use super::super::open::{Access, read_candidates, refuse_writing, start_on};
    use super::super::queue::Queue;
    use super::super::status::Row;
    use super::{Machine, Origin};

    /// How to assemble.
    #[derive(Clone, Debug, Default)]
    pub(crate) struct How {
        pub(crate) access: Access,
        /// Write although a member is newly missing.
        pub(crate) degraded: bool,
        /// Start although dirty and degraded.
        pub(crate) dirty: bool,
        /// Bytes of scratch memory in each queue; little of it makes operations wait for each other.
        pub(crate) scratch: usize,
        /// What time it is.
        pub(crate) wall: Time,
    }

    /// What a disk is to the LU.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) enum MemberKind {
        Active(Slot),
        Spare,
        Aside,
    }

    /// A change of membership under way.
    pub(crate) struct Pending {
        ended: mpsc::Receiver<Result<()>>,
        next: Next,
    }

    /// What a change leads to.
    enum Next {
        Nothing,
        /// Ended well: the disk is let go of.
        Release(Row),
        /// Refused: the disk is added as a new one.
        Join(DiskId),
    }

    impl Machine {
        /// Makes an LU on disks that are open: members by slot, then spares.
        ///
        /// # Errors
        /// As [`Create::make`].
        pub(crate) fn create(
            create: &Create,
            backend: Arc<dyn Backend>,
            ids: &[DiskId],
            all_new: bool,
            scratch: usize,
            origin: &mut Origin<'_>,
        ) -> Result<Machine> {
            let joined = create.make_in(&*backend, ids, all_new, origin)?;
            start_on(backend, joined, Access::Write, scratch, origin.wall)
        }

        /// Assembles the LU whose members are the disks of `backend`.
        ///
        /// # Errors
        /// As [`Assemble::open`](super::super::Assemble::open).
        pub(crate) fn assemble(backend: Arc<dyn Backend>, how: &How) -> Result<Machine> {
            let candidates = read_candidates(&*backend)?;
            let first = candidates.iter().find_map(|candidate| candidate.found.as_ref().ok());
            let Some(set) = first.map(|found| found.superblock.set_uuid) else {
                return Err(Error::new(ErrorKind::CannotStart, "no member among the disks"));
            };
            let mut joined = join(candidates, set, &Allow { dirty: how.dirty, ..Allow::default() })?;
            if let Some(refusal) = joined.refusal.take() {
                return Err(refusal);
            }
            if how.access == Access::Write {
                refuse_writing(&joined, how.degraded)?;
            }
            start_on(backend, joined, how.access, how.scratch, how.wall)
        }

        /// Does what the keeper has to do. Returns how long it may sleep at most; `None` when it has come to its end.
        /// `origin` is the instant from which `since` counts; only differences of instants matter.
        pub(crate) fn step(&mut self, origin: Instant, since: Duration, wall: Time) -> Option<Duration> {
            self.keeper.as_mut()?.step(Now { monotonic: origin + since, wall })
        }

        pub(crate) fn has_keeper(&self) -> bool {
            self.keeper.is_some()
        }

        pub(crate) fn queue(&self, depth: usize) -> Result<Queue> {
            Queue::open(&self.board, depth)
        }

        pub(crate) fn geometry(&self) -> Arc<Geometry> {
            self.board.geometry.clone()
        }

        pub(crate) fn view(&self) -> Arc<View> {
            self.board.health().view.clone()
        }

        /// The disk behind a slot and where its data begins.
        pub(crate) fn wire(&self, slot: Slot) -> Option<(DiskId, Sectors)> {
            let wire = (*self.board.health().wires.get(slot.index())?)?;
            Some((wire.disk, Sectors(wire.data_offset.0)))
        }

        pub(crate) fn block(&self) -> u32 {
            self.board.block
        }

        /// Can no more be promised?
        pub(crate) fn is_broken(&self) -> bool {
            self.board.shared.is_broken() || self.board.shared.flush_lost()
        }

        /// No resync or rebuild is under way, and the keeper was told nothing it has not done.
        pub(crate) fn is_idle(&self) -> bool {
            self.keeper.is_none() || (lock(&self.board.work).is_none() && self.board.is_settled())
        }

        /// Moves on what nobody else is moving on, as a caller does that has waited for a while.
        pub(crate) fn nudge(&self) {
            self.board.nudge_cells(None);
        }

        /// What each disk is.
        pub(crate) fn members(&self) -> Vec<(DiskId, MemberKind)> {
            let rows = lock(&self.board.roster);
            let kind = |row: &Row| match row.fate {
                Fate::Active(slot) | Fate::Replacement(slot) => MemberKind::Active(slot),
                Fate::Spare => MemberKind::Spare,
                Fate::Aside(..) => MemberKind::Aside,
            };
            rows.iter().map(|row| (row.disk, kind(row))).collect()
        }

        /// Begins to fail the disk in `slot`. It is done when the slot's [`wire`](Machine::wire) is another one.
        pub(crate) fn fail(&self, slot: Slot) {
            let Some((disk, _)) = self.wire(slot) else { return };
            self.board.tell_keeper(|inbox| inbox.failed.push((slot, disk)));
        }

        /// Holds recovery at a checkpoint.
        pub(crate) fn pause(&self) {
            self.board.tell_keeper(|inbox| inbox.pause = true);
        }

        /// Begins to add a disk as a spare.
        ///
        /// # Errors
        /// As [`Lu::add`](super::super::Lu::add).
        pub(crate) fn add(&self, disk: DiskId, origin: &mut Origin<'_>) -> Result<Pending> {
            let known = self.members().into_iter().find(|member| member.0 == disk);
            if known.is_some_and(|member| member.1 != MemberKind::Aside) {
                return Err(Error::new(ErrorKind::Usage, "it is a member already"));
            }
            let (model, _) = self.board.model()?;
            let info = self.board.backend.info(disk);
            self.board.check_fit(&info.name, info.size, info.block, &model)?;
            match self.board.returning(disk, &model)? {
                Some(back) => Ok(Pending { ended: self.board.ask(back), next: Next::Join(disk) }),
                None => self.join(disk, origin),
            }
        }

        fn join(&self, disk: DiskId, origin: &mut Origin<'_>) -> Result<Pending> {
            let (model, model_disk) = self.board.model()?;
            let member = self.board.prepare(disk, &model, model_disk, origin)?;
            Ok(Pending { ended: self.board.ask(What::Join(Box::new(member))), next: Next::Nothing })
        }

        /// Begins to replace the disk in `slot` by a spare. `None` if there is none, or the keeper would refuse it.
        pub(crate) fn replace(&self, slot: Slot) -> Option<Pending> {
            let view = self.board.health().view.clone();
            let (disk, _) = self.members().into_iter().find(|member| member.1 == MemberKind::Spare)?;
            let may = view.missing().is_empty() && view.replacement(slot).is_none();
            may.then(|| Pending { ended: self.board.ask(What::Replace(slot, disk)), next: Next::Nothing })
        }

        /// Begins to let go of a disk that fills no slot.
        ///
        /// # Errors
        /// [`ErrorKind::NotFound`] if it is unknown, [`ErrorKind::Refused`] if it fills a slot.
        pub(crate) fn remove(&self, disk: DiskId) -> Result<Pending> {
            let row = lock(&self.board.roster).iter().find(|row| row.disk == disk).cloned();
            let row = row.ok_or_else(|| Error::new(ErrorKind::NotFound, "the disk is no member"))?;
            if matches!(row.fate, Fate::Active(_) | Fate::Replacement(_)) {
                return Err(Error::new(ErrorKind::Refused, "it fills a slot"));
            }
            Ok(Pending { ended: self.board.ask(What::Forget(disk)), next: Next::Release(row) })
        }

        /// How the change ended, once it has.
        pub(crate) fn ended(&self, pending: &mut Pending, origin: &mut Origin<'_>) -> Option<Result<()>> {
            let result = pending.ended.try_recv().ok()?;
            match (std::mem::replace(&mut pending.next, Next::Nothing), result) {
                (Next::Release(row), Ok(())) => Some(self.board.release(&row, self.describe.uuid)),
                (Next::Join(disk), Err(error)) if error.kind() == ErrorKind::Refused => {
                    match self.join(disk, origin) {
                        Ok(joining) => {
                            *pending = joining;
                            None
                        }
                        Err(error) => Some(Err(error)),
                    }
                }
                (_, result) => Some(result),
            }
        }

        /// Begins to stop: no new requests; the keeper writes "clean" and comes to its end.
        pub(crate) fn stop(&self) {
            self.board.close();
            self.board.tell_keeper(|inbox| inbox.stop = true);
        }

        /// The disks are gone: whoever is dropped from now on waits for nothing.
        pub(crate) fn abandon(&self) {
            self.board.abandon();
        }
    }
}
