//! From an LU argument to the disks it means, and back to an argument that works as it stands.
//!
//! An argument with a `/` in it, or one that names a file, is paths. Anything else is a name or UUID and is
//! looked up in the configuration file, then among the LUs that are held. No disk is searched for anywhere
//! else: that a name is unknown is an answer.

use std::io::ErrorKind as IoKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use uraid::disk::Backend;
use uraid::lu::{Access, Assemble, DiskName, MemberStatus, Status};
use uraid::serve::control::Client;
use uraid::{ErrorKind, Lu};

use crate::configuration::Config;
use crate::console::Console;
use crate::failure::{Failure, Outcome};
use crate::holder;

pub(crate) use uraid::lu::status::quoted;

/// Leave to use what is otherwise left alone.
#[derive(Args, Clone, Default)]
pub(crate) struct Leave {
    /// Use DISK although the others have been written without it.
    #[arg(long, value_name = "DISK")]
    allow_stale: Vec<PathBuf>,
    /// Use the LU although writes were in flight when a member was lost: sectors nobody wrote may be wrong.
    #[arg(long)]
    allow_dirty: bool,
}

impl Leave {
    /// Is anything asked for?
    pub(crate) fn is_given(&self) -> bool {
        self.allow_dirty || !self.allow_stale.is_empty()
    }
}

/// How an LU is opened by verbs that change something.
#[derive(Args, Default)]
pub(crate) struct Writing {
    /// Go on although a member is newly absent: it is left behind, and a rebuild brings it back.
    #[arg(long)]
    degraded: bool,
    #[command(flatten)]
    leave: Leave,
}

impl Writing {
    /// For verbs that hold an LU for long, and start also with members newly absent.
    pub(crate) fn also_degraded(leave: &Leave) -> Writing {
        Writing { degraded: true, leave: leave.clone() }
    }
}

/// The disks an LU argument means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Target {
    /// What to call it.
    pub(crate) label: String,
    disks: Disks,
    /// The configuration file that lists it, if one does.
    listed: Option<PathBuf>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Disks {
    /// This member and what lies beside it in its folder.
    Beside(PathBuf),
    /// Exactly these.
    Exactly(Vec<PathBuf>),
}

impl Target {
    /// What `argument` means.
    ///
    /// # Errors
    /// Usage for an argument that is no list of paths; not found for a name that the configuration does not
    /// have.
    pub(crate) fn resolve(argument: &str) -> Outcome<Target> {
        match paths_in(argument)? {
            Some(disks) => Ok(Target { label: argument.to_owned(), disks, listed: None }),
            None => Config::load().and_then(|config| config.find(argument)).or_else(|unknown| {
                let held = holder::named(argument)?.filter(|_| unknown.kind() == Some(ErrorKind::NotFound));
                let Some(status) = held else { return Err(unknown) };
                let disks = Disks::Exactly(holder::disks(&status));
                Ok(Target { label: argument.to_owned(), disks, listed: None })
            }),
        }
    }

    /// The LU that the configuration file at `file` calls `label`.
    pub(crate) fn listed_in(file: &Path, label: String, disks: Vec<PathBuf>) -> Target {
        Target { label, disks: Disks::Exactly(disks), listed: Some(file.to_owned()) }
    }

    /// The same for a process that will be asked from other folders: all paths absolute.
    pub(crate) fn absolute(self) -> Outcome<Target> {
        let absolute = |path: PathBuf| std::path::absolute(&path).map_err(|e| Failure::file(&path, &e));
        let disks = match self.disks {
            Disks::Beside(path) => Disks::Beside(absolute(path)?),
            Disks::Exactly(paths) => Disks::Exactly(paths.into_iter().map(absolute).collect::<Outcome<_>>()?),
        };
        Ok(Target { disks, ..self })
    }

    /// Whoever holds the LU, if he can be asked.
    ///
    /// # Errors
    /// Busy if he does not answer.
    pub(crate) fn holder(&self) -> Outcome<Option<Client>> {
        match &self.disks {
            Disks::Beside(path) => holder::of(std::iter::once(path)),
            Disks::Exactly(paths) => holder::of(paths.iter()),
        }
    }

    /// The LU as it is: as its holder sees it or, if nobody holds it, as its disks are.
    pub(crate) fn look_live(&self, leave: &Leave) -> Outcome<Status> {
        let asked =
            self.holder().and_then(|holder| Ok(holder.map(|mut holder| holder.status()).transpose()?));
        match asked {
            Ok(Some(status)) => Ok(status),
            Ok(None) => self.look(leave),
            Err(silent) => {
                let mut status = self.look(leave)?;
                status.warnings.push(format!("this is what its disks say: {}", silent.message()));
                Ok(status)
            }
        }
    }

    /// The LU's disks as they are, nothing claimed.
    pub(crate) fn look(&self, leave: &Leave) -> Outcome<Status> {
        let mut status = self.assemble(leave).look()?;
        status.warnings.extend(self.gone());
        Ok(status)
    }

    /// The same for an LU that is about to be opened with [`open_for_writing`](Target::open_for_writing).
    pub(crate) fn look_before(&self, how: &Writing) -> Outcome<Status> {
        self.look(&how.leave)
    }

    /// Opens the LU for reading, and tells of the members set aside.
    pub(crate) fn open(&self, leave: &Leave, console: &Console) -> Outcome<Lu> {
        self.open_as(self.assemble(leave).access(Access::Read), console)
    }

    /// Opens the LU for writing, and tells of the members set aside.
    pub(crate) fn open_for_writing(&self, how: &Writing, console: &Console) -> Outcome<Lu> {
        let assemble = self.assemble(&how.leave).access(Access::Write).degraded(how.degraded);
        self.open_as(assemble, console)
    }

    /// Opens the LU through a wrapper of its disks, for writing if it is said how.
    pub(crate) fn open_through(
        &self,
        leave: &Leave,
        writing: Option<&Writing>,
        wrap: impl Fn(Arc<dyn Backend>) -> Arc<dyn Backend> + Send + Sync + 'static,
        console: &Console,
    ) -> Outcome<Lu> {
        let assemble = match writing {
            Some(how) => self.assemble(&how.leave).access(Access::Write).degraded(how.degraded),
            None => self.assemble(leave).access(Access::Read),
        };
        self.open_as(assemble.through(wrap), console)
    }

    /// Refuses an LU that somebody holds; why else it could not be opened does not matter here.
    pub(crate) fn refuse_held(&self) -> Outcome {
        match self.assemble(&Leave::default()).access(Access::Read).open() {
            Err(error) if error.kind() == ErrorKind::Busy => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// The disks of a configuration file that are there. One that failed and vanished is no reason not to use
    /// the others; without any, all of them, so that their absence is told. A path that was typed is meant as
    /// it stands.
    fn at_hand<'a>(&self, paths: &'a [PathBuf]) -> Vec<&'a PathBuf> {
        let gone = |path: &PathBuf| path.metadata().is_err_and(|error| error.kind() == IoKind::NotFound);
        let there: Vec<&PathBuf> = paths.iter().filter(|path| !gone(path)).collect();
        if self.listed.is_none() || there.is_empty() { paths.iter().collect() } else { there }
    }

    /// A sentence for every disk that the configuration lists and that is left out because it is not there.
    fn gone(&self) -> Vec<String> {
        let (Disks::Exactly(paths), Some(file)) = (&self.disks, &self.listed) else { return Vec::new() };
        let there = self.at_hand(paths);
        let gone = paths.iter().filter(|path| !there.contains(path));
        gone.map(|path| format!("{}, which {} lists, is not there", path.display(), file.display())).collect()
    }

    /// The configuration file that lists the LU's disks, if one does.
    pub(crate) fn listed(&self) -> Option<&Path> {
        self.listed.as_deref()
    }

    fn open_as(&self, assemble: Assemble, console: &Console) -> Outcome<Lu> {
        let opened = assemble.open();
        for warning in self.gone() {
            console.complain(format_args!("{}: warning: {warning}", self.label));
        }
        let lu = opened.map_err(|error| {
            let failure = Failure::from(error);
            match failure.kind() {
                Some(ErrorKind::CannotStart | ErrorKind::Refused) => {
                    failure.remedy(format!("see: uraid status {}", quoted(&self.label)))
                }
                _ => failure,
            }
        })?;
        console.warnings(&lu.status());
        Ok(lu)
    }

    fn assemble(&self, leave: &Leave) -> Assemble {
        let assemble = match &self.disks {
            Disks::Beside(path) => Lu::assemble().beside(path),
            Disks::Exactly(paths) => {
                self.at_hand(paths).into_iter().fold(Lu::assemble(), |assemble, path| assemble.disk(path))
            }
        };
        let assemble = leave.allow_stale.iter().fold(assemble, |assemble, path| assemble.allow_stale(path));
        assemble.allow_dirty(leave.allow_dirty)
    }
}

/// A disk as it is named on the command line: also a member whose disk is not there any more can be spoken
/// of.
pub(crate) fn disk_named(disk: &Path) -> DiskName {
    slot_named(disk).map_or_else(|| DiskName::Path(disk.to_owned()), DiskName::Slot)
}

/// A slot named instead of a disk, `slot:2`: also a member whose disk is not there any more can be spoken of
/// so. (A file of that name is `./slot:2`.)
fn slot_named(disk: &Path) -> Option<u16> {
    disk.to_str()?.strip_prefix("slot:")?.parse().ok()
}

/// The paths `argument` lists; `None` if it is a name.
fn paths_in(argument: &str) -> Outcome<Option<Disks>> {
    let whole = Path::new(argument);
    // A file may have a comma in its name.
    if whole.exists() {
        if whole.is_dir() {
            let remedy = format!("look for members in it: uraid scan {}", quoted(argument));
            return Err(Failure::usage(format!("{argument} is a folder; name a member in it")).remedy(remedy));
        }
        return Ok(Some(Disks::Beside(whole.to_owned())));
    }
    let parts: Vec<&str> = argument.split(',').collect();
    if !argument.contains('/') && !parts.iter().any(|part| Path::new(part).exists()) {
        return Ok(None);
    }
    if parts.contains(&"") {
        return Err(Failure::usage(format!("'{argument}' has an empty path in it")));
    }
    Ok(Some(match parts[..] {
        [one] => Disks::Beside(one.into()),
        _ => Disks::Exactly(parts.into_iter().map(PathBuf::from).collect()),
    }))
}

/// The LU of `status` as its disks say it is, now that nobody holds it; `status` itself if a disk is gone.
pub(crate) fn as_on_disk(status: Status) -> Status {
    let disks = status.members.iter().map(|member| &member.disk).filter(|disk| *disk != "-");
    let assemble = disks.fold(Lu::assemble(), |assemble, disk| assemble.disk(disk));
    assemble.look().unwrap_or(status)
}

/// The member of `status` whose disk `path` is, by whatever name; never an empty slot.
pub(crate) fn member_at<'a>(path: &Path, status: &'a Status) -> Option<&'a MemberStatus> {
    let own = identity(path)?;
    status.members.iter().find(|member| identity(Path::new(&member.disk)) == Some(own))
}

/// Refuses `path` as a place to read from or write to beside the LU if it is one of the LU's members.
pub(crate) fn refuse_member(path: &Path, status: &Status) -> Outcome {
    match member_at(path, status) {
        None => Ok(()),
        Some(_) => Err(Failure::usage(format!("{} is a member of {}", path.display(), status.name))),
    }
}

/// What tells files and devices apart however they are named.
fn identity(path: &Path) -> Option<(bool, u64, u64)> {
    let metadata = path.metadata().ok()?;
    match metadata.file_type().is_block_device() {
        true => Some((true, metadata.rdev(), 0)),
        false => Some((false, metadata.dev(), metadata.ino())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_or_a_file_makes_a_path() {
        let beside = |path: &str| Some(Disks::Beside(path.into()));
        let exactly = |paths: &[&str]| Some(Disks::Exactly(paths.iter().map(PathBuf::from).collect()));
        assert_eq!(paths_in("data").unwrap(), None);
        assert_eq!(paths_in("a,b").unwrap(), None);
        assert_eq!(paths_in("./a").unwrap(), beside("./a"));
        assert_eq!(paths_in("./a,b").unwrap(), exactly(&["./a", "b"]));
        assert_eq!(paths_in("Cargo.toml").unwrap(), beside("Cargo.toml"));
        assert_eq!(paths_in("Cargo.toml,b").unwrap(), exactly(&["Cargo.toml", "b"]));
        assert!(paths_in("./a,").is_err());
        assert!(paths_in("src").is_err());
    }

    #[test]
    fn a_path_may_have_a_comma() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a,b");
        std::fs::write(&path, "").unwrap();
        assert_eq!(paths_in(path.to_str().unwrap()).unwrap(), Some(Disks::Beside(path)));
    }
}
