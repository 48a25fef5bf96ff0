//! Files and block devices as disks: opening them, with or without a claim, and the backend that drives them.
//!
//! Promises. A disk opened [`Access::Exclusive`] is nobody else's: a device is claimed from the kernel
//! (`O_EXCL`, as mounting does) and its node locked (`flock`, as udev respects), a file is locked; who holds
//! a busy one is said in the error. Opening never creates or changes anything, and never touches what is
//! neither file nor block device. The page cache is bypassed where that is possible.
//!
//! Refuses to know: what is on the disk.
//!
//! Engines. io_uring, unless the system forbids it or nothing is gained; see [`IoMode`]. Each disk is asked
//! at opening whether it can answer without blocking (`RWF_NOWAIT`); if not (tmpfs, zram), io_uring would
//! hand every operation to a worker thread, and plain system calls are used for that disk, also in a queue
//! with a ring.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind as IoKind, IoSliceMut, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustix::fs::{AtFlags, FlockOperation, OFlags, StatxFlags};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::buffers::AlignedBuf;
use super::inline::InlineQueue;
use super::plain::Plain;
use super::runs::Transfers;
use super::uring::UringQueue;
use super::{Backend, DiskId, DiskInfo, DiskKind, Disks, claim};
use crate::error::{Error, ErrorKind, Result};
use crate::units::Sectors;

/// What is claimed when a disk is opened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    /// Reading, no claim: also what others hold can be looked at.
    Look,
    /// Reading, together with other readers but with no writer: a shared lock.
    Shared,
    /// Reading and writing, alone.
    Exclusive,
}

/// How queues drive disks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum IoMode {
    /// io_uring where it is allowed and some disk can use it, else plain system calls.
    #[default]
    Auto,
    /// io_uring, also for disks that would be served better without; an error if the system forbids it.
    Uring,
    /// Plain system calls.
    Plain,
    /// [`Auto`](IoMode::Auto), and a thread of the kernel's for each queue that takes what is submitted (`SQPOLL`), so that
    /// submitting costs no system call. The thread has a CPU to itself while there is work and for `idle` after it
    /// (in whole milliseconds, at least one), then it sleeps: for machines with CPUs to spare. Where the kernel refuses
    /// the thread, the queue goes without.
    Polled {
        /// How long the thread looks for more.
        idle: Duration,
    },
}

/// An open file or block device.
#[derive(Debug)]
pub struct FileDisk {
    file: File,
    path: PathBuf,
    info: DiskInfo,
    identity: Identity,
    /// It was asked for zeroes, and could not.
    refused: AtomicBool,
}

impl FileDisk {
    /// Opens the file or block device at `path`, bypassing the page cache if it can be.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if there is nothing; [`Usage`](ErrorKind::Usage) if it is not a file
    /// or block device; [`Busy`](ErrorKind::Busy), naming the holder, if somebody else has a claim or uses
    /// it; [`Io`](ErrorKind::Io) for the rest.
    pub fn open(path: impl AsRef<Path>, access: Access) -> Result<FileDisk> {
        FileDisk::open_as(path.as_ref(), access, true)
    }

    /// The same through the page cache: blocks of 512 bytes on a file, and no need for aligned memory. A
    /// device's block stays its logical one.
    ///
    /// # Errors
    /// As [`FileDisk::open`].
    pub fn open_buffered(path: impl AsRef<Path>, access: Access) -> Result<FileDisk> {
        FileDisk::open_as(path.as_ref(), access, false)
    }

    fn open_as(path: &Path, access: Access, direct: bool) -> Result<FileDisk> {
        let kind = kind_of(path)?;
        let opened = open_claimed(path, kind, access, direct)?;
        FileDisk::examine(opened, path, kind, direct).map_err(|e| cannot("open", path, e))
    }

    /// Finds out what a disk needs to be known by.
    fn examine(mut file: File, path: &Path, kind: DiskKind, direct: bool) -> io::Result<FileDisk> {
        let direct = if direct { direct_blocks(&file, kind)? } else { None };
        if direct.is_none() {
            let flags = rustix::fs::fcntl_getfl(&file)?;
            rustix::fs::fcntl_setfl(&file, flags - OFlags::DIRECT)?;
        }
        let buffered = if kind == DiskKind::Block { rustix::fs::ioctl_blksszget(&file)? } else { 512 };
        let (block, memory_align) = direct.unwrap_or((buffered, 1));
        let bytes = file.seek(SeekFrom::End(0))?;
        let inline = !answers_without_blocking(&file, block);
        let info = DiskInfo {
            name: path.display().to_string(),
            size: Sectors::from_bytes_floor(bytes - bytes % u64::from(block)),
            block,
            memory_align,
            kind,
            direct: direct.is_some(),
            inline,
            zeroes: kind == DiskKind::File || claim::zeroes_by_itself(file.metadata()?.rdev()),
            // (Flushes are joined where several writes are in flight, and bypass the page cache.)
            prefers_fua: kind == DiskKind::Block && direct.is_some() && !inline,
        };
        let identity = Identity::of(&file)?;
        Ok(FileDisk { file, path: path.to_owned(), info, identity, refused: AtomicBool::new(false) })
    }

    /// What is known of it.
    pub fn info(&self) -> DiskInfo {
        DiskInfo { zeroes: self.zeroes(), ..self.info.clone() }
    }

    /// Can it make zeroes by itself, as far as is known?
    pub(super) fn zeroes(&self) -> bool {
        self.info.zeroes && !self.refused.load(Ordering::Relaxed)
    }

    /// From now on it is not asked to.
    pub(super) fn refuses_to_zero(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size when it was opened, whole blocks.
    pub fn size(&self) -> Sectors {
        self.info.size
    }

    /// Which disk it is, by whatever path.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Do the two share storage: the same disk, a disk and a partition of it, a file and a loop device over
    /// it?
    pub fn overlaps(&self, other: &FileDisk) -> bool {
        let range =
            |disk: &FileDisk| (disk.identity.start, disk.identity.start.saturating_add(disk.size().bytes()));
        let ((a, a_end), (b, b_end)) = (range(self), range(other));
        self.identity.base == other.identity.base && (a == b || a.max(b) < a_end.min(b_end))
    }

    /// The smallest I/O in bytes.
    pub(super) fn block(&self) -> u32 {
        self.info.block
    }
}

impl AsFd for FileDisk {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Makes a sparse file of `size` at `path`, readable and writable by its owner only, durably. Leaves nothing
/// behind if it fails.
///
/// # Errors
/// [`Usage`](ErrorKind::Usage) if something is at `path` already or the size is beyond what the file system
/// can hold, [`NotFound`](ErrorKind::NotFound) if the folder is missing, [`Io`](ErrorKind::Io) for the rest.
pub fn create_sparse(path: impl AsRef<Path>, size: Sectors) -> Result<()> {
    let path = path.as_ref();
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let file = made.map_err(|e| match e.kind() {
        IoKind::AlreadyExists => Error::new(ErrorKind::Usage, format!("{}: exists already", path.display())),
        _ => cannot("create", path, e),
    })?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let durable = file
        .set_len(size.bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| File::open(folder)?.sync_all());
    durable.map_err(|e| {
        let _ = fs::remove_file(path);
        match e.kind() {
            IoKind::FileTooLarge | IoKind::InvalidInput => {
                let text = format!("{}: a file of {} bytes is too large here", path.display(), size.bytes());
                Error::new(ErrorKind::Usage, text)
            }
            _ => cannot("create", path, e),
        }
    })
}

// -----------------------------------------------------------------------------------------------------------
// Opening
// -----------------------------------------------------------------------------------------------------------

/// Looks before opening: opening some things has effects, or blocks.
fn kind_of(path: &Path) -> Result<DiskKind> {
    let kind = fs::metadata(path).map_err(|e| cannot("open", path, e))?.file_type();
    match () {
        _ if kind.is_file() => Ok(DiskKind::File),
        _ if kind.is_block_device() => Ok(DiskKind::Block),
        _ => {
            let what = if kind.is_dir() { "a directory" } else { "neither a file nor a block device" };
            Err(Error::new(ErrorKind::Usage, format!("{}: is {what}, not a disk", path.display())))
        }
    }
}

fn open_claimed(path: &Path, kind: DiskKind, access: Access, direct: bool) -> Result<File> {
    let device = kind == DiskKind::Block;
    if (access == Access::Exclusive || access == Access::Shared && device)
        && let Some(used) = claim::in_use(path)
    {
        return Err(busy(path, &used));
    }
    let exclusive = if device && access == Access::Exclusive { OFlags::EXCL } else { OFlags::empty() };
    let open = |extra: OFlags| {
        let flags = (exclusive | extra | OFlags::NOCTTY).bits();
        OpenOptions::new()
            .read(true)
            .write(access == Access::Exclusive)
            .custom_flags(flags.cast_signed())
            .open(path)
    };
    let opened = match open(if direct { OFlags::DIRECT } else { OFlags::empty() }) {
        Err(e) if direct && e.kind() == IoKind::InvalidInput => open(OFlags::empty()),
        opened => opened,
    };
    let file = opened.map_err(|e| match e.raw_os_error() {
        Some(libc::EBUSY | libc::ETXTBSY) => {
            busy(path, &claim::in_use(path).unwrap_or_else(|| "claimed by another program".into()))
        }
        _ => cannot("open", path, e),
    })?;
    lock(&file, path, device, access)?;
    Ok(file)
}

/// udev holds a shared lock on a device for the moment in which it looks at it, and a process that was killed holds its
/// files until the kernel has taken its ring apart: both are worth waiting for.
fn lock(file: &File, path: &Path, device: bool, access: Access) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(20);
    const UDEV: u32 = 15;
    const KILLED: u32 = 150;
    let operation = match access {
        Access::Look => return Ok(()),
        Access::Shared => FlockOperation::NonBlockingLockShared,
        Access::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    let inode = file.metadata().ok().map(|m| (m.dev(), m.ino()));
    for attempt in 1.. {
        match rustix::fs::flock(file, operation) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) => {
                let holder = inode.map_or(claim::Holder::Unknown, |(device, inode)| {
                    claim::lock_holder_state(device, inode)
                });
                let patience = match holder {
                    claim::Holder::Dead => KILLED,
                    claim::Holder::Unknown => UDEV,
                    claim::Holder::Alive if device => UDEV,
                    claim::Holder::Alive => 0,
                };
                if attempt > patience {
                    let owner = inode.and_then(|(device, inode)| claim::lock_owner(device, inode));
                    let owner = owner.unwrap_or_else(|| "another program".into());
                    return Err(busy(path, &format!("held by {owner}")));
                }
                std::thread::sleep(PAUSE);
            }
            Err(errno) => return Err(cannot("lock", path, errno.into())),
        }
    }
    Err(busy(path, "held by another program"))
}

fn busy(path: &Path, used: &str) -> Error {
    Error::new(ErrorKind::Busy, format!("{}: in use: {used}", path.display()))
}

fn cannot(what: &str, path: &Path, error: io::Error) -> Error {
    let gone =
        matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENODEV | libc::ENOMEDIUM | libc::ELOOP));
    let kind = match error.kind() {
        IoKind::NotFound | IoKind::NotADirectory => ErrorKind::NotFound,
        IoKind::IsADirectory => ErrorKind::Usage,
        _ if gone => ErrorKind::NotFound,
        _ => ErrorKind::Io,
    };
    Error::new(kind, format!("{}: cannot {what}: {error}", path.display())).with_source(error)
}

/// Block size and alignment of memory for direct I/O in bytes; `None` if it must or had better not be used.
fn direct_blocks(file: &File, kind: DiskKind) -> io::Result<Option<(u32, u32)>> {
    /// Of `statfs`. There is nothing below the page cache of these.
    const TMPFS: u64 = 0x0102_1994;
    const RAMFS: u64 = 0x8584_58f6;
    /// Members of an LU share the largest block among them; a file need not push it above a page.
    const LARGEST_OF_A_FILE: u32 = 4096;

    if !rustix::fs::fcntl_getfl(file)?.contains(OFlags::DIRECT) {
        return Ok(None);
    }
    let reported = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)
        .ok()
        .filter(|x| x.stx_mask & StatxFlags::DIOALIGN.bits() != 0)
        .map(|x| (x.stx_dio_offset_align, x.stx_dio_mem_align));
    if kind == DiskKind::Block {
        let block = rustix::fs::ioctl_blksszget(file)?;
        let memory = reported.map_or(block, |(_, memory)| memory);
        return Ok(sensible(block, u32::MAX, memory));
    }
    if matches!((rustix::fs::fstatfs(file)?.f_type as u64) & 0xffff_ffff, TMPFS | RAMFS) {
        return Ok(None);
    }
    Ok(match reported {
        Some((block, memory)) => sensible(block.max(512), LARGEST_OF_A_FILE, memory),
        None => {
            [512, 4096].into_iter().find(|&block| reads_directly(file, block)).map(|block| (block, block))
        }
    })
}

/// Zero for either means that direct I/O is not possible.
fn sensible(block: u32, largest: u32, memory: u32) -> Option<(u32, u32)> {
    let usable = |n: u32| n.is_power_of_two();
    (usable(block) && (512..=largest).contains(&block) && usable(memory) && memory <= 4096)
        .then_some((block, memory))
}

fn reads_directly(file: &File, block: u32) -> bool {
    // The second half of a buffer of twice the size is aligned to no more than `block`.
    let mut buf = AlignedBuf::new(2 * block as usize);
    preadv2(file, &mut [IoSliceMut::new(&mut buf[block as usize..])], 0, ReadWriteFlags::empty()).is_ok()
}

/// "Not supported" is the answer of file systems and drivers that know no I/O without blocking; "try again"
/// is of those that do.
fn answers_without_blocking(file: &File, block: u32) -> bool {
    let mut buf = AlignedBuf::new(block as usize);
    let answer = preadv2(file, &mut [IoSliceMut::new(&mut buf)], 0, ReadWriteFlags::NOWAIT);
    !matches!(answer, Err(Errno::OPNOTSUPP | Errno::NOSYS))
}

// -----------------------------------------------------------------------------------------------------------
// Identity
// -----------------------------------------------------------------------------------------------------------

/// Which disk it is. Equal for the same disk by any path, link or device node; a loop device is the file it
/// stands for, a partition a place on its disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Identity {
    base: Base,
    /// Where it begins on `base`, in bytes.
    start: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Base {
    File { device: u64, inode: u64 },
    Device(u64),
}

impl Identity {
    fn of(file: &File) -> io::Result<Identity> {
        let m = file.metadata()?;
        Ok(match m.file_type().is_block_device() {
            true => Identity::of_device(m.rdev()),
            false => Identity { base: Base::File { device: m.dev(), inode: m.ino() }, start: 0 },
        })
    }

    /// Follows partitions to their disk and loop devices to their file.
    fn of_device(mut device: u64) -> Identity {
        let mut start: u64 = 0;
        // Loops over loops over partitions end somewhere; this only bounds what a broken sysfs could do.
        for _ in 0..8 {
            match claim::beneath(device) {
                Some(claim::Beneath::Device { device: below, offset }) => {
                    (device, start) = (below, start.saturating_add(offset));
                }
                Some(claim::Beneath::File { device, inode, offset }) => {
                    return Identity {
                        base: Base::File { device, inode },
                        start: start.saturating_add(offset),
                    };
                }
                None => break,
            }
        }
        Identity { base: Base::Device(device), start }
    }
}

// -----------------------------------------------------------------------------------------------------------
// The backend
// -----------------------------------------------------------------------------------------------------------

/// Files and block devices, driven by io_uring or plain system calls.
#[derive(Debug)]
pub struct FileBackend {
    files: Arc<Files>,
    mode: IoMode,
}

impl FileBackend {
    /// No disks yet.
    pub fn new(mode: IoMode) -> FileBackend {
        FileBackend { files: Arc::default(), mode }
    }

    /// Takes a disk. Queues that are open already are told by [`Disks::attach`].
    ///
    /// # Errors
    /// [`Usage`](ErrorKind::Usage) if there have been 65536.
    pub fn add(&self, disk: FileDisk) -> Result<DiskId> {
        let mut files = self.files.0.write().unwrap_or_else(PoisonError::into_inner);
        let id = u16::try_from(files.len()).map_err(|_| Error::new(ErrorKind::Usage, "too many disks"))?;
        files.push(Entry { info: disk.info(), disk: Some(Arc::new(disk)) });
        Ok(DiskId(id))
    }

    /// Lets go of a disk. It is closed, and its claim ends, when all queues have let go too
    /// ([`Disks::detach`]).
    pub fn remove(&self, id: DiskId) -> Option<Arc<FileDisk>> {
        let mut files = self.files.0.write().unwrap_or_else(PoisonError::into_inner);
        files.get_mut(id.index())?.disk.take()
    }

    /// The disk with number `id`, unless removed.
    pub fn disk(&self, id: DiskId) -> Option<Arc<FileDisk>> {
        self.files.get(id)
    }

    /// A queue with a ring, to be asked about it.
    #[cfg(test)]
    pub(super) fn ring(&self, depth: usize) -> io::Result<UringQueue> {
        UringQueue::open(self.files.clone(), depth, true, None)
    }

    /// [`Backend::queue`] with a mode of its own.
    ///
    /// # Errors
    /// As [`Backend::queue`].
    pub fn open_queue(&self, depth: usize, mode: IoMode) -> Result<Box<dyn Disks>> {
        let plain =
            || Ok(Box::new(InlineQueue::new(Plain::new(self.files.clone()), depth)?) as Box<dyn Disks>);
        let (insist, polled) = match mode {
            IoMode::Plain => return plain(),
            IoMode::Auto => (false, None),
            IoMode::Uring => (true, None),
            IoMode::Polled { idle } => (false, Some(idle)),
        };
        if !insist && self.files.all_inline() {
            return plain();
        }
        match UringQueue::open(self.files.clone(), depth, insist, polled) {
            Ok(queue) => Ok(Box::new(queue)),
            Err(_) if !insist => plain(),
            Err(e) => Err(Error::new(ErrorKind::Io, format!("cannot set up io_uring: {e}")).with_source(e)),
        }
    }
}

impl Backend for FileBackend {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn info(&self, id: DiskId) -> DiskInfo {
        let files = self.files.0.read().unwrap_or_else(PoisonError::into_inner);
        let entry = &files[id.index()];
        entry.disk.as_ref().map_or_else(|| entry.info.clone(), |disk| disk.info())
    }

    fn queue(&self, depth: usize) -> Result<Box<dyn Disks>> {
        self.open_queue(depth, self.mode)
    }

    fn transfers(&self) -> Option<Transfers> {
        Some(*self.files.1.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The disks of a [`FileBackend`], shared with its queues.
#[derive(Debug, Default)]
pub(super) struct Files(RwLock<Vec<Entry>>, Mutex<Transfers>);

#[derive(Debug)]
struct Entry {
    info: DiskInfo,
    disk: Option<Arc<FileDisk>>,
}

impl Files {
    pub(super) fn get(&self, id: DiskId) -> Option<Arc<FileDisk>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(id.index())?.disk.clone()
    }

    pub(super) fn all(&self) -> Vec<Option<Arc<FileDisk>>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).iter().map(|entry| entry.disk.clone()).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// A queue has ended, which did this.
    pub(super) fn count(&self, did: Transfers) {
        self.1.lock().unwrap_or_else(PoisonError::into_inner).add(did);
    }

    /// Are there disks, and none that gains from io_uring?
    fn all_inline(&self) -> bool {
        let files = self.0.read().unwrap_or_else(PoisonError::into_inner);
        !files.is_empty() && files.iter().all(|entry| entry.info.inline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::tempdir;

    #[test]
    fn what_is_not_a_disk_is_said() {
        let dir = tempdir().unwrap();
        let kind = |path: &Path| FileDisk::open(path, Access::Look).unwrap_err().kind();
        assert_eq!(kind(dir.path()), ErrorKind::Usage);
        assert_eq!(kind(Path::new("/dev/null")), ErrorKind::Usage);
        let absent = dir.path().join("absent");
        assert_eq!(kind(&absent), ErrorKind::NotFound);
        assert_eq!(kind(&absent.join("below")), ErrorKind::NotFound);
        let error = FileDisk::open(&absent, Access::Exclusive).unwrap_err().to_string();
        assert!(error.contains("absent"), "{error}");
        std::os::unix::fs::symlink(dir.path().join("loop"), dir.path().join("loop")).unwrap();
        assert_eq!(kind(&dir.path().join("loop")), ErrorKind::NotFound);
    }

    #[test]
    fn sparse_files_are_new_and_of_the_size_asked_for() {
        let dir = tempdir().unwrap();
        let path = dir.path().join("disk");
        create_sparse(&path, Sectors(2048)).unwrap();
        assert_eq!(FileDisk::open(&path, Access::Look).unwrap().size(), Sectors(2048));
        assert_eq!(create_sparse(&path, Sectors(1)).unwrap_err().kind(), ErrorKind::Usage);
        assert_eq!(fs::metadata(&path).unwrap().len(), 1 << 20, "left alone");
        let huge = dir.path().join("huge");
        assert_eq!(create_sparse(&huge, Sectors::MAX).unwrap_err().kind(), ErrorKind::Usage);
        assert!(!huge.exists());
        assert_eq!(
            create_sparse(dir.path().join("no/disk"), Sectors(1)).unwrap_err().kind(),
            ErrorKind::NotFound
        );
    }

    #[test]
    fn claims_exclude_and_name_their_owner() {
        let dir = tempdir().unwrap();
        let path = dir.path().join("disk");
        create_sparse(&path, Sectors(8)).unwrap();
        let open = |access| FileDisk::open(&path, access);

        let held = open(Access::Exclusive).unwrap();
        for access in [Access::Exclusive, Access::Shared] {
            let error = open(access).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Busy);
            let us = format!("process {}", std::process::id());
            assert!(error.to_string().contains(&us), "{error}");
        }
        open(Access::Look).unwrap();
        drop(held);

        let (one, two) = (open(Access::Shared).unwrap(), open(Access::Shared).unwrap());
        assert_eq!(open(Access::Exclusive).unwrap_err().kind(), ErrorKind::Busy);
        drop((one, two));
        open(Access::Exclusive).unwrap();
    }

    #[test]
    fn the_same_disk_is_recognised_by_any_path() {
        let dir = tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        create_sparse(at("a"), Sectors(8)).unwrap();
        create_sparse(at("b"), Sectors(8)).unwrap();
        std::os::unix::fs::symlink(at("a"), at("link")).unwrap();
        fs::hard_link(at("a"), at("hard")).unwrap();
        let open = |name: &str| FileDisk::open(at(name), Access::Look).unwrap();
        for name in ["a", "link", "hard", "./a"] {
            assert_eq!(open(name).identity(), open("a").identity(), "{name}");
            assert!(open(name).overlaps(&open("a")));
        }
        assert_ne!(open("b").identity(), open("a").identity());
        assert!(!open("b").overlaps(&open("a")));
    }

    #[test]
    fn a_partial_last_block_does_not_count() {
        let dir = tempdir().unwrap();
        let path = dir.path().join("odd");
        fs::write(&path, vec![0; 1300]).unwrap();
        let disk = FileDisk::open_buffered(&path, Access::Look).unwrap();
        assert_eq!((disk.size(), disk.block(), disk.info().direct), (Sectors(2), 512, false));
    }

    #[test]
    fn direct_io_needs_sensible_blocks() {
        assert_eq!(sensible(512, 4096, 4), Some((512, 4)));
        for (block, memory) in [(0, 0), (512, 0), (8192, 512), (256, 256), (768, 512)] {
            assert_eq!(sensible(block, 4096, memory), None, "{block} {memory}");
        }
    }

    /// The lock ends when the last user lets go, not some time after.
    #[test]
    fn a_dropped_queue_leaves_no_claim_behind() {
        let dir = tempdir().unwrap();
        let path = dir.path().join("disk");
        create_sparse(&path, Sectors(64)).unwrap();
        for mode in [IoMode::Uring, IoMode::Plain, IoMode::Auto] {
            for _ in 0..20 {
                let backend = FileBackend::new(mode);
                let id = backend.add(FileDisk::open(&path, Access::Exclusive).unwrap()).unwrap();
                let Ok(mut queue) = backend.queue(4) else { continue };
                queue.submit(0, super::super::Op::Flush { disk: id });
                queue.kick();
            }
        }
    }
}
