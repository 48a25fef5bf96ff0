//! Who holds a disk: mounts, swap, devices built on top, locks; and what a device itself is a part of.
//!
//! All from `/proc` and `/sys`, read when asked. Promises: a plain answer to show to a person, or none if it
//! cannot be found out; never an error, never a wait. The refusal itself is the kernel's (`O_EXCL`, `flock`),
//! in [`file`](super::file); here are the reasons, and the uses of a disk that the kernel does not refuse.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Why the file or block device at `path` is somebody's already, if it is: "mounted on /home", "used as
/// swap", "part of md127", "partition sda1 is mounted on /". A partition counts as used if its disk is as a
/// whole, a file if a loop device over it is.
pub fn in_use(path: impl AsRef<Path>) -> Option<String> {
    let path = path.as_ref();
    let m = fs::metadata(path).ok()?;
    if m.file_type().is_block_device() {
        return device_in_use(m.rdev());
    }
    if swapped_on(|swap| fs::metadata(swap).is_ok_and(|s| (s.dev(), s.ino()) == (m.dev(), m.ino()))) {
        return Some("used as swap".into());
    }
    loops_over(m.dev(), m.ino()).find_map(|(name, device)| {
        let path = PathBuf::from(format!("/dev/{name}"));
        let used =
            device_in_use(device).or_else(|| is_claimed(&path).then(|| "claimed by a program".into()))?;
        Some(format!("{} is {used}", path.display()))
    })
}

/// Does somebody have the block device open exclusively? Found out by asking for the same, for a moment.
fn is_claimed(device: &Path) -> bool {
    let flags = rustix::fs::OFlags::EXCL | rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    matches!(rustix::fs::open(device, flags, rustix::fs::Mode::empty()), Err(rustix::io::Errno::BUSY))
}

/// Who holds a lock on the file with this device and inode number, such as "process 812 (uraid)".
pub(super) fn lock_owner(device: u64, inode: u64) -> Option<String> {
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let pid = lock_holder(&locks, (major(device), minor(device)), inode)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(match name.trim_end() {
        "" => format!("process {pid}"),
        name => format!("process {pid} ({name})"),
    })
}

/// What can be said of the holder of a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Holder {
    /// It runs.
    Alive,
    /// It has ended; the kernel lets go of the lock a moment later.
    Dead,
    /// Nobody is listed: it may just have let go, or be on another machine.
    Unknown,
}

/// How the holder of the lock on a file is.
pub(super) fn lock_holder_state(device: u64, inode: u64) -> Holder {
    let holder = fs::read_to_string("/proc/locks")
        .ok()
        .and_then(|locks| lock_holder(&locks, (major(device), minor(device)), inode));
    let Some(pid) = holder else { return Holder::Unknown };
    // A zombie has ended, too: it only waits to be asked how.
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat)
            if stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X'])) =>
        {
            Holder::Dead
        }
        Ok(_) => Holder::Alive,
        Err(_) => Holder::Dead,
    }
}

/// What a device is a part of.
pub(super) enum Beneath {
    /// A disk, of which it is a partition; or the device a loop device stands for.
    Device { device: u64, offset: u64 },
    /// The file a loop device stands for.
    File { device: u64, inode: u64, offset: u64 },
}

/// What `device` lies on, if it is a partition or loop device; the offset is in bytes.
pub(super) fn beneath(device: u64) -> Option<Beneath> {
    let sys = sys(device);
    if sys.join("partition").exists() {
        let whole = fs::canonicalize(&sys).ok()?.parent()?.to_owned();
        let offset = number(&sys.join("start"))?.saturating_mul(512);
        return Some(Beneath::Device { device: device_number(&word(&whole.join("dev"))?)?, offset });
    }
    let file = fs::metadata(word(&sys.join("loop/backing_file"))?).ok()?;
    let offset = number(&sys.join("loop/offset")).unwrap_or(0);
    Some(match file.file_type().is_block_device() {
        true => Beneath::Device { device: file.rdev(), offset },
        false => Beneath::File { device: file.dev(), inode: file.ino(), offset },
    })
}

/// Does the block device make zeroes by itself when asked to?
pub(super) fn zeroes_by_itself(device: u64) -> bool {
    // A partition has no queue of its own.
    let most = |queue: &str| number(&sys(device).join(queue).join("write_zeroes_max_bytes"));
    most("queue").or_else(|| most("../queue")).is_some_and(|most| most > 0)
}

fn device_in_use(device: u64) -> Option<String> {
    let used = |device: u64| {
        mounted_on(device)
            .map(|place| format!("mounted on {place}"))
            .or_else(|| {
                let swap = swapped_on(|swap| is_device(swap, device));
                swap.then(|| "used as swap".into())
            })
            .or_else(|| Some(format!("part of {}", holder(device)?)))
    };
    let of_partition = || {
        children(&sys(device))
            .find_map(|(name, device)| Some(format!("partition {name} is {}", used(device)?)))
    };
    let of_whole_disk = || match beneath(device)? {
        Beneath::Device { device: below, .. } => Some(format!("what it lies on is {}", used(below)?)),
        Beneath::File { .. } => None,
    };
    used(device).or_else(of_partition).or_else(of_whole_disk)
}

fn mounted_on(device: u64) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mount_point(&mounts, (major(device), minor(device)), |source| is_device(source, device))
}

/// Is the node at `path` this device? Only below `/dev`: what is elsewhere may be on a file system that
/// hangs.
fn is_device(path: &str, device: u64) -> bool {
    path.starts_with("/dev/")
        && fs::metadata(path).is_ok_and(|m| m.file_type().is_block_device() && m.rdev() == device)
}

fn swapped_on(is_it: impl Fn(&str) -> bool) -> bool {
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next()).any(|path| is_it(&unescape(path)))
}

/// The name of a device built on top of `device`: of md, the device mapper, bcache...
fn holder(device: u64) -> Option<String> {
    let first = fs::read_dir(sys(device).join("holders")).ok()?.flatten().next()?;
    let name = first.file_name().to_string_lossy().into_owned();
    match word(&first.path().join("dm/name")) {
        Some(mapped) => Some(format!("{name} ({mapped})")),
        None => Some(name),
    }
}

/// Partitions of the disk whose folder is `sys`.
fn children(sys: &Path) -> impl Iterator<Item = (String, u64)> {
    fs::read_dir(sys).into_iter().flatten().flatten().filter_map(|entry| {
        let path = entry.path();
        let device = path.join("partition").exists().then(|| word(&path.join("dev")))??;
        Some((entry.file_name().to_string_lossy().into_owned(), device_number(&device)?))
    })
}

/// Loop devices over the file with this device and inode number.
fn loops_over(device: u64, inode: u64) -> impl Iterator<Item = (String, u64)> {
    fs::read_dir("/sys/block").into_iter().flatten().flatten().filter_map(move |entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let backing = name.starts_with("loop").then(|| word(&entry.path().join("loop/backing_file")))??;
        let file = fs::metadata(backing).ok()?;
        let number = device_number(&word(&entry.path().join("dev"))?)?;
        ((file.dev(), file.ino()) == (device, inode)).then_some((name, number))
    })
}

fn sys(device: u64) -> PathBuf {
    PathBuf::from(format!("/sys/dev/block/{}:{}", major(device), minor(device)))
}

/// The content of a one-line file.
fn word(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim_end_matches('\n').to_owned())
}

fn number(path: &Path) -> Option<u64> {
    word(path)?.parse().ok()
}

/// `8:1` as a device number.
fn device_number(text: &str) -> Option<u64> {
    let (major, minor) = text.split_once(':')?;
    Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
}

fn major(device: u64) -> u32 {
    rustix::fs::major(device)
}

fn minor(device: u64) -> u32 {
    rustix::fs::minor(device)
}

/// The process id in the first `flock` line of `/proc/locks` for `inode` on the file system with number
/// `device`. Where the file system shows files another device number than its own (btrfs, overlays), by the
/// inode alone.
///
/// A line: `1: FLOCK  ADVISORY  WRITE 812 08:01:5242 0 EOF`, the device in hexadecimal; ` -> ` marks who
/// waits.
fn lock_holder(locks: &str, device: (u32, u32), inode: u64) -> Option<u32> {
    let parse = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let (sort, pid, place) = (words.next()?, words.nth(2)?, words.next()?);
        let mut place = place.split(':');
        let major = u32::from_str_radix(place.next()?, 16).ok()?;
        let minor = u32::from_str_radix(place.next()?, 16).ok()?;
        let found = place.next()?.parse::<u64>().ok()?;
        let pid = pid.parse::<u32>().ok().filter(|&pid| pid != 0)?;
        (sort == "FLOCK" && found == inode).then_some(((major, minor), pid))
    };
    let holders = || locks.lines().filter_map(parse);
    let exact = holders().find(|&(d, _)| d == device);
    exact.or_else(|| holders().next()).map(|(_, pid)| pid)
}

/// Where a device is mounted, by its number, or by the mount's source for file systems with numbers of their
/// own (btrfs).
///
/// A line: `36 35 98:0 /root /mnt rw,noatime shared:1 - ext4 /dev/sda1 rw`.
fn mount_point(mounts: &str, device: (u32, u32), is_device: impl Fn(&str) -> bool) -> Option<String> {
    let number = format!("{}:{}", device.0, device.1);
    mounts.lines().find_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ').skip(2);
        let (found, place) = (front.next()?, front.nth(1)?);
        let source = unescape(back.split(' ').nth(1)?);
        (found == number || is_device(&source)).then(|| unescape(place))
    })
}

/// `\040` and its like as the characters they stand for.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| first == b'\\').and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        bytes.push(octal.unwrap_or(first));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_attributed() {
        let locks = "1: POSIX  ADVISORY  WRITE 5 08:01:77 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 812 08:1f:77 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 9 08:01:77 0 EOF\n\
                     3: FLOCK  ADVISORY  READ  813 08:01:77 0 EOF\n\
                     4: OFDLCK ADVISORY  READ  -1 08:01:77 0 EOF\n\
                     5: FLOCK  ADVISORY  WRITE 0 08:01:99 0 EOF\n\
                     6: FLOCK\n: : :\n\n";
        assert_eq!(lock_holder(locks, (8, 1), 77), Some(813));
        assert_eq!(lock_holder(locks, (8, 0x1f), 77), Some(812));
        assert_eq!(lock_holder(locks, (0, 40), 77), Some(812), "by the inode alone");
        assert_eq!(lock_holder(locks, (8, 1), 99), None, "a process of another namespace");
        assert_eq!(lock_holder(locks, (8, 1), 78), None);
    }

    #[test]
    fn mounts_are_found_by_number_and_by_source() {
        let mounts = "21 1 8:1 / / rw - ext4 /dev/root rw\n\
                      36 21 0:35 /sub /mnt/with\\040space rw shared:1 master:2 - btrfs /dev/sdb rw\n\
                      broken\n40 21 8:2 / - - -\n";
        let no = |_: &str| false;
        assert_eq!(mount_point(mounts, (8, 1), no).as_deref(), Some("/"));
        let place = mount_point(mounts, (8, 16), |source| source == "/dev/sdb");
        assert_eq!(place.as_deref(), Some("/mnt/with space"));
        assert_eq!(mount_point(mounts, (8, 3), no), None);
    }

    #[test]
    fn escapes() {
        assert_eq!(unescape("a\\040b\\134c"), "a b\\c");
        assert_eq!(unescape("end\\04"), "end\\04");
        assert_eq!(unescape("\\999"), "\\999");
    }

    #[test]
    fn a_fresh_file_is_not_in_use() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(in_use(file.path()), None);
        assert_eq!(in_use("/no/such/disk"), None);
    }
}
