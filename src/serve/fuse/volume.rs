//! The file system: a folder, and in it the file that is the LU.
//!
//! Promises: names, sizes and modes never change; a request beyond the end or against the mode is refused before the LU
//! hears of it. Refuses to know how reads and writes are carried out.

use std::ffi::OsStr;
use std::io;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::process::{getegid, geteuid};

use crate::Lu;
use crate::error::Result;

use super::lane::Lane;

/// Bytes of the largest write, and of the largest read, that the kernel shall send.
const LARGEST: u32 = 1 << 20;

/// Requests that the kernel shall have under way before it holds processes back.
const BACKGROUND: u16 = 256;

/// Lanes, each with a thread that takes requests from the kernel, at most.
const LANES: usize = 4;

/// Nothing that the kernel may remember changes.
const FOREVER: Duration = Duration::from_secs(86_400);

const FILE: INodeNo = INodeNo(2);

/// What the kernel's threads and the server share.
pub(super) struct Shared {
    name: String,
    size: u64,
    block: u32,
    read_only: bool,
    made: SystemTime,
    lanes: usize,
    /// Until the server leaves.
    serving: RwLock<Option<Serving>>,
}

struct Serving {
    // Before the LU, so that its queues go first.
    lanes: Vec<Lane>,
    lu: Arc<Lu>,
}

impl Shared {
    pub(super) fn new(lu: Arc<Lu>, read_only: bool) -> Result<Shared> {
        let cpus = thread_count();
        let lanes = (0..cpus).map(|_| Lane::open(&lu)).collect::<Result<Vec<Lane>>>()?;
        Ok(Shared {
            name: file_name(lu.name()),
            size: lu.size(),
            block: lu.block_size(),
            read_only,
            made: SystemTime::now(),
            lanes: lanes.len(),
            serving: RwLock::new(Some(Serving { lanes, lu })),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn lanes(&self) -> usize {
        self.lanes
    }

    /// Finishes what is under way and lets go of the LU. What comes later fails.
    pub(super) fn leave(&self) {
        let serving = self.serving.write().unwrap_or_else(PoisonError::into_inner).take();
        drop(serving);
    }

    fn attributes(&self, inode: INodeNo) -> Option<FileAttr> {
        let mode = if self.read_only { 0o400 } else { 0o600 };
        let (kind, perm, size, nlink) = match inode {
            INodeNo::ROOT => (FileType::Directory, 0o500, 0, 2),
            FILE => (FileType::RegularFile, mode, self.size, 1),
            _ => return None,
        };
        let time = self.made;
        Some(FileAttr {
            ino: inode,
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink,
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
            rdev: 0,
            blksize: self.block.max(4096),
            flags: 0,
        })
    }

    /// How many of `len` bytes at `offset` there are.
    fn within(&self, offset: u64, len: usize) -> usize {
        self.size.saturating_sub(offset).min(len as u64) as usize
    }
}

fn thread_count() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get()).min(LANES)
}

/// The LU's name, as a file can be named.
fn file_name(name: &str) -> String {
    match name {
        "" | "." | ".." => "lu".into(),
        name => name.chars().map(|c| if c == '/' || c.is_control() { '_' } else { c }).collect(),
    }
}

/// The file system, as the kernel's requests come in.
pub(super) struct Volume(Arc<Shared>);

impl Volume {
    pub(super) fn new(shared: Arc<Shared>) -> Volume {
        Volume(shared)
    }

    /// What is served, unless the server has left.
    fn serving(&self) -> RwLockReadGuard<'_, Option<Serving>> {
        self.0.serving.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Serving {
    /// Requests go round.
    fn lane(&self, request: &Request) -> &Lane {
        // The kernel counts in steps of two.
        &self.lanes[request.unique().0 as usize / 2 % self.lanes.len()]
    }
}

impl Filesystem for Volume {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // What is not to be had is done without.
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        let _ = config.set_max_write(LARGEST);
        let _ = config.set_max_background(BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = (parent == INodeNo::ROOT && name == OsStr::new(&self.0.name)).then_some(FILE);
        match found.and_then(|inode| self.0.attributes(inode)) {
            Some(attributes) => reply.entry(&FOREVER, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.attributes(inode) {
            Some(attributes) => reply.attr(&FOREVER, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    /// Times may be set, and are not kept: nobody looks at them, and tools that open devices set them.
    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let stays = size.is_none_or(|size| size == self.0.size) && (mode, uid, gid) == (None, None, None);
        match self.0.attributes(inode) {
            Some(attributes) if stays => reply.attr(&FOREVER, &attributes),
            Some(_) => reply.error(Errno::EPERM),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let writes = flags.acc_mode() != OpenAccMode::O_RDONLY;
        match inode {
            FILE if writes && self.0.read_only => reply.error(Errno::EROFS),
            FILE => {
                let direct = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
                reply.opened(FileHandle(0), direct);
            }
            _ => reply.error(Errno::EISDIR),
        }
    }

    fn read(
        &self,
        request: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let len = self.0.within(offset, size as usize);
        if len == 0 {
            return reply.data(&[]);
        }
        match &*self.serving() {
            Some(serving) => serving.lane(request).read(&serving.lu, offset, len, reply),
            None => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        request: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let len = self.0.within(offset, data.len());
        if len == 0 {
            return if data.is_empty() { reply.written(0) } else { reply.error(Errno::ENOSPC) };
        }
        let fua = flags.0 & (libc::O_SYNC | libc::O_DSYNC) != 0;
        match &*self.serving() {
            Some(serving) => serving.lane(request).write(&serving.lu, offset, &data[..len], fua, reply),
            None => reply.error(Errno::EIO),
        }
    }

    /// At each close of a descriptor. Who wants what he wrote to be stable says `fsync`.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, request: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        if self.0.read_only {
            return reply.ok();
        }
        match &*self.serving() {
            Some(serving) => serving.lane(request).flush(reply),
            None => reply.error(Errno::EIO),
        }
    }

    /// Holes and zeroes; there is nothing to reserve.
    fn fallocate(
        &self,
        request: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let keep = libc::FALLOC_FL_KEEP_SIZE;
        let zeroes = [
            libc::FALLOC_FL_PUNCH_HOLE | keep,
            libc::FALLOC_FL_ZERO_RANGE,
            libc::FALLOC_FL_ZERO_RANGE | keep,
        ];
        if !zeroes.contains(&mode) {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let (size, end) = (self.0.size, offset.saturating_add(length));
        if mode & keep == 0 && end > size {
            return reply.error(Errno::ENOSPC);
        }
        let range = offset.min(size)..end.min(size);
        if range.is_empty() {
            return reply.ok();
        }
        match &*self.serving() {
            Some(serving) => serving.lane(request).zero(&serving.lu, range, reply),
            None => reply.error(Errno::EIO),
        }
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        if inode != INodeNo::ROOT {
            return reply.error(Errno::ENOTDIR);
        }
        let entries = [
            (INodeNo::ROOT, FileType::Directory, "."),
            (INodeNo::ROOT, FileType::Directory, ".."),
            (FILE, FileType::RegularFile, self.0.name.as_str()),
        ];
        for (next, (inode, kind, name)) in (1..).zip(entries).skip(offset as usize) {
            if reply.add(inode, next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let block = self.0.block;
        reply.statfs(self.0.size / u64::from(block), 0, 0, 1, 0, block, 255, block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_file_names() {
        assert_eq!(file_name("data"), "data");
        assert_eq!(file_name("a/b\n"), "a_b_");
        assert_eq!((file_name(""), file_name("..")), ("lu".into(), "lu".into()));
    }
}
