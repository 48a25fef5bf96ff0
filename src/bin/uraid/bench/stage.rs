//! What is measured: an LU with the backend below it, existing or made for the purpose and removed again.
//!
//! The LU is opened through a [`Tap`], which hands out the same disks for raw measurements and counts the
//! operations of queues opened while it is told to. Queues opened otherwise are the backend's own: counting
//! costs nothing when nobody counts.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use uraid::disk::traced::{Counts, Traced};
use uraid::disk::{Backend, Blocking, DiskId, DiskInfo, Disks, MemoryBackend};
use uraid::lu::{Create, IoMode};
use uraid::units::{DiskLba, Sectors};
use uraid::{ErrorKind, Lu};

use super::LuShape;
use crate::console::Console;
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::memory_disk::MemoryDisk;
use crate::target::{Leave, Target, Writing, quoted};

/// What the LUs that are made here are called.
const NAME: &str = "bench";

/// Bytes written at a time to fill an LU.
const FILL: usize = 1 << 20;

pub(super) struct Stage {
    lu: Lu,
    tap: Arc<Tap>,
    disks: Members,
}

/// Whose the LU's disks are.
enum Members {
    /// Somebody's, with an LU that was there before.
    Existing,
    /// Somebody's, given for the purpose.
    Given,
    /// Files that are removed at the end.
    Files(Vec<PathBuf>),
    /// Disks in memory; these are what they begin as, and keep their names for.
    Memory { _begun_as: Vec<MemoryDisk> },
}

impl Stage {
    /// An LU that exists; for writing only if `confirm` is its name.
    pub(super) fn open(lu: &str, writes: bool, confirm: Option<&str>, console: &Console) -> Outcome<Stage> {
        let target = Target::resolve(lu)?;
        let leave = Leave::default();
        if writes {
            let status = target.look(&leave)?;
            if confirm != Some(&status.name) {
                let text = format!("a bench that writes destroys what is on {} ({lu})", status.name);
                let remedy = format!("if that is meant, add: --confirm {}", quoted(&status.name));
                return Err(Failure::of(ErrorKind::Refused, text).remedy(remedy));
            }
        }
        let (wrap, tap) = Tap::wrap(|files| files, false);
        let writing = writes.then(|| Writing::also_degraded(&leave));
        let lu = target.open_through(&leave, writing.as_ref(), wrap, console)?;
        Ok(Stage { lu, tap: tap()?, disks: Members::Existing })
    }

    /// An LU of new files in `folder`.
    pub(super) fn in_folder(folder: &Path, shape: &LuShape) -> Outcome<Stage> {
        let id = std::process::id();
        let path = |slot| folder.join(format!("uraid-bench-{id}-{slot}.img"));
        let files: Vec<PathBuf> = (0..shape.disks).map(path).collect();
        let create = shape.create(&files).disk_size(shape.disk_size);
        Stage::make(create, shape, Members::Files(files), |files| files)
    }

    /// An LU of these disks; what is on them is lost if `confirm` is the name of the LU.
    pub(super) fn on(disks: &[PathBuf], shape: &LuShape, confirm: Option<&str>) -> Outcome<Stage> {
        let create = shape.create(disks).overwrite(confirm == Some(NAME)).assume_clean(true);
        Stage::make(create, shape, Members::Given, |files| files)
    }

    /// An LU of disks in memory. It is made on files that are only in memory, too, since that is where LUs are
    /// made, and moves to the disks with its first breath.
    pub(super) fn in_memory(shape: &LuShape) -> Outcome<Stage> {
        let make = |_| MemoryDisk::make(shape.disk_size);
        let memory: Vec<MemoryDisk> = (0..shape.disks).map(make).collect::<Outcome<_>>()?;
        let paths: Vec<PathBuf> = memory.iter().map(MemoryDisk::path).collect();
        let create = shape.create(&paths).assume_clean(true);
        let disks = Members::Memory { _begun_as: memory };
        Stage::make(create, shape, disks, |files| Arc::new(moved_to_memory(&*files)))
    }

    /// Makes an LU, and lets it lose a disk if that is its shape.
    fn make(
        create: Create,
        shape: &LuShape,
        disks: Members,
        exchange: impl Fn(Arc<dyn Backend>) -> Arc<dyn Backend> + Send + Sync + 'static,
    ) -> Outcome<Stage> {
        let (wrap, tap) = Tap::wrap(exchange, shape.watched);
        let lu = create.through(wrap).make()?;
        Stage { lu, tap: tap()?, disks }.degrade(shape)
    }

    fn degrade(self, shape: &LuShape) -> Outcome<Stage> {
        if shape.degraded {
            let first = self.lu.status().members.first().map(|member| member.disk.clone());
            if let Err(error) = self.lu.fail(first.unwrap_or_default()) {
                let failure = Failure::from(error);
                self.clear()?;
                return Err(failure);
            }
        }
        Ok(self)
    }

    pub(super) fn lu(&self) -> &Lu {
        &self.lu
    }

    /// The disks, without the LU.
    pub(super) fn backend(&self) -> &dyn Backend {
        &*self.tap.inner
    }

    /// May its disks be written to raw?
    pub(super) fn is_ours(&self) -> bool {
        !matches!(self.disks, Members::Existing)
    }

    /// What its disks are, in a word.
    pub(super) fn kind(&self) -> &'static str {
        match self.disks {
            Members::Existing => "existing",
            Members::Given => "given",
            Members::Files(_) => "files",
            Members::Memory { .. } => "memory",
        }
    }

    /// Writes all of the LU once: unwritten blocks are faster than disks.
    pub(super) fn prefill(&self, interrupt: &Interrupt) -> Outcome {
        let bytes: Vec<u8> = (0..FILL as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let size = self.lu.size();
        for offset in (0..size).step_by(FILL) {
            interrupt.check()?;
            self.lu.write_at(&bytes[..FILL.min((size - offset) as usize)], offset)?;
        }
        Ok(self.lu.flush()?)
    }

    /// The disk operations of queues that `run` opens.
    pub(super) fn count<T>(&self, run: impl FnOnce() -> Outcome<T>) -> Outcome<(Counts, T)> {
        self.tap.traced.trace().clear();
        self.tap.counting.store(true, Ordering::Relaxed);
        let before = self.tap.inner.transfers();
        let result = run()?;
        self.tap.counting.store(false, Ordering::Relaxed);
        let mut counts = self.tap.traced.trace().total();
        // Where neighbours are joined, what was asked for is more than what was done.
        if let (Some(before), Some(after), false) = (before, self.tap.inner.transfers(), self.tap.watched) {
            counts.reads = after.reads - before.reads;
            counts.writes = after.writes - before.writes;
            counts.flushes = after.flushes - before.flushes;
        }
        Ok((counts, result))
    }

    /// Stops the LU and removes what was made for it.
    pub(super) fn clear(self) -> Outcome {
        let stopped = self.lu.stop().map_err(Failure::from);
        if let Members::Files(files) = &self.disks {
            for path in files {
                std::fs::remove_file(path).map_err(|error| Failure::file(path, &error))?;
            }
        }
        stopped
    }
}

impl LuShape {
    fn create(&self, disks: &[PathBuf]) -> Create {
        let mut create = Lu::create(NAME, self.level).policy(self.policy.into());
        for disk in disks {
            create = create.disk(disk);
        }
        if let Some(bytes) = self.chunk {
            create = create.chunk(bytes);
        }
        if let Some(idle) = self.sqpoll {
            create = create.io(IoMode::Polled { idle });
        }
        if let Some(layout) = &self.layout {
            create = create.layout(layout);
        }
        create
    }
}

/// The backend an LU was opened on, for others to use beside it.
struct Tap {
    inner: Arc<dyn Backend>,
    traced: Traced<Arc<dyn Backend>>,
    counting: AtomicBool,
    /// The LU's own queues are counted, which say only at their end what they joined.
    watched: bool,
}

/// What an LU is opened through.
pub(crate) type Wrap = Box<dyn Fn(Arc<dyn Backend>) -> Arc<dyn Backend> + Send + Sync>;

impl Tap {
    /// What to open an LU through, and what gives the tap once that is done. `exchange` may put other disks in
    /// the place of the LU's; with `watched` the LU's own queues are counted, too.
    fn wrap(
        exchange: impl Fn(Arc<dyn Backend>) -> Arc<dyn Backend> + Send + Sync + 'static,
        watched: bool,
    ) -> (Wrap, impl FnOnce() -> Outcome<Arc<Tap>>) {
        let place: Arc<OnceLock<Arc<Tap>>> = Arc::default();
        let filled = place.clone();
        let wrap = move |backend: Arc<dyn Backend>| -> Arc<dyn Backend> {
            let inner = exchange(backend);
            let traced = Traced::new(inner.clone(), 0);
            let tap = Arc::new(Tap { inner, traced, counting: AtomicBool::new(watched), watched });
            filled.get_or_init(|| tap).clone()
        };
        let missing = || Failure::of(ErrorKind::Io, "the LU was opened without its disks");
        (Box::new(wrap), move || place.get().cloned().ok_or_else(missing))
    }
}

impl Backend for Tap {
    fn len(&self) -> usize {
        self.inner.len()
    }

    fn info(&self, id: DiskId) -> DiskInfo {
        self.inner.info(id)
    }

    fn queue(&self, depth: usize) -> uraid::Result<Box<dyn Disks>> {
        match self.counting.load(Ordering::Relaxed) {
            true => self.traced.queue(depth),
            false => self.inner.queue(depth),
        }
    }
}

/// Disks in memory with the content of `files`. What cannot be read is left out, and missed soon enough.
fn moved_to_memory(files: &dyn Backend) -> MemoryBackend {
    let memory = MemoryBackend::new();
    let mut bytes = vec![0; FILL];
    for index in 0..files.len() {
        let id = DiskId(index as u16);
        let info = files.info(id);
        let to = memory.add(info.name.clone(), info.size, info.block);
        let Ok(from) = Blocking::new(files) else { continue };
        let mut at = Sectors(0);
        while at.0 < info.size.0 {
            let length = (info.size.0 - at.0).min(Sectors::from_bytes_floor(FILL as u64).0);
            let part = &mut bytes[..Sectors(length).bytes() as usize];
            if from.read_exact(id, DiskLba(at.0), part).is_ok() && part.iter().any(|&byte| byte != 0) {
                memory.poke(to, DiskLba(at.0), part);
            }
            at = Sectors(at.0 + length);
        }
    }
    memory
}
