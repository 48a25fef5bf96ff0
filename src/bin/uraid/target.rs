//! From an LU argument to the disks it means, and back to an argument that works as it stands.
//!
//! An argument with a `/` in it, or one that names a file, is paths. Anything else is a name or UUID and is
//! looked up in the configuration file. No disk is searched for anywhere else: that a name is unknown is an
//! answer.

use std::ffi::OsString;
use std::io::ErrorKind as IoKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde::Deserialize;
use uraid::disk::Backend;
use uraid::format::superblock::Uuid;
use uraid::lu::{Access, Assemble, MemberStatus, Status};
use uraid::{ErrorKind, Lu};

use crate::console::Console;
use crate::failure::{Failure, Outcome};

pub(crate) use uraid::lu::status::quoted;

const DEFAULT_CONFIG: &str = "/etc/uraid/uraid.toml";

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
            None => Config::load()?.find(argument),
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

/// A slot named instead of a disk, `slot:2`: also a member whose disk is not there any more can be spoken of
/// so. (A file of that name is `./slot:2`.)
pub(crate) fn slot_named(disk: &Path) -> Option<u16> {
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

/// The configuration file: `[[lu]]` tables of `name` and `disks`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    lu: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    /// Relative ones count from the file's folder.
    disks: Vec<PathBuf>,
}

/// The LUs of the configuration file.
pub(crate) struct Config {
    path: PathBuf,
    lus: Vec<Target>,
}

impl Config {
    /// Reads `$URAID_CONFIG`, else the system's file, which need not exist.
    ///
    /// # Errors
    /// Not found for a file that `$URAID_CONFIG` names; usage for one that makes no sense.
    pub(crate) fn load() -> Outcome<Config> {
        let named: Option<OsString> = std::env::var_os("URAID_CONFIG").filter(|name| !name.is_empty());
        let may_be_absent = named.is_none();
        let path = PathBuf::from(named.unwrap_or_else(|| DEFAULT_CONFIG.into()));
        match std::fs::read_to_string(&path) {
            Ok(text) => Config::parse(path, &text),
            Err(error) if may_be_absent && error.kind() == std::io::ErrorKind::NotFound => {
                Ok(Config { path, lus: Vec::new() })
            }
            Err(error) => Err(Failure::file(&path, &error)),
        }
    }

    fn parse(path: PathBuf, text: &str) -> Outcome<Config> {
        let wrong = |what: String| Failure::usage(format!("{}: {what}", path.display()));
        let file: File =
            toml::from_str(text).map_err(|error| wrong(error.to_string().trim_end().to_owned()))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut lus: Vec<Target> = Vec::new();
        for Entry { name, disks } in file.lu {
            if disks.is_empty() {
                return Err(wrong(format!("LU '{name}' has no disks")));
            }
            if lus.iter().any(|lu| lu.label == name) {
                return Err(wrong(format!("two LUs are named '{name}'")));
            }
            let disks = disks.iter().map(|disk| folder.join(disk)).collect();
            lus.push(Target { label: name, disks: Disks::Exactly(disks), listed: Some(path.clone()) });
        }
        Ok(Config { path, lus })
    }

    /// Where it was read from, or would have been.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// All LUs, in the file's order.
    pub(crate) fn lus(&self) -> &[Target] {
        &self.lus
    }

    /// The LU named `wanted` or, if that is a UUID, the one whose members carry it.
    fn find(self, wanted: &str) -> Outcome<Target> {
        if let Some(lu) = self.lus.iter().find(|lu| lu.label == wanted) {
            return Ok(lu.clone());
        }
        if let Ok(uuid) = wanted.parse::<Uuid>() {
            let carries = |lu: &&Target| lu.look(&Leave::default()).is_ok_and(|status| status.uuid == uuid);
            if let Some(lu) = self.lus.iter().find(carries) {
                return Ok(lu.clone());
            }
        }
        let message = format!("no LU '{wanted}': no such file, and not in {}", self.path.display());
        Err(Failure::of(ErrorKind::NotFound, message)
            .remedy("a path names an LU by one of its members: uraid status ./DISK"))
    }
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

    #[test]
    fn configuration() {
        let parse = |text: &str| Config::parse("/etc/x/uraid.toml".into(), text);
        let config = parse("[[lu]]\nname = 'data'\ndisks = ['/a', 'b']\n").unwrap();
        let disks = Disks::Exactly(vec!["/a".into(), "/etc/x/b".into()]);
        let listed = Some("/etc/x/uraid.toml".into());
        assert_eq!(config.lus(), [Target { label: "data".into(), disks, listed }]);
        assert_eq!(config.find("other").unwrap_err().kind(), Some(ErrorKind::NotFound));
        assert!(parse("").unwrap().lus().is_empty());
        for wrong in [
            "[[lu]]\nname = 'a'",
            "[[lu]]\nname = 'a'\ndisks = []",
            "[[lu]]\nname = 'a'\ndisk = ['/a']",
            "[[lu]]\nname = 'a'\ndisks = ['/a']\n[[lu]]\nname = 'a'\ndisks = ['/b']",
            "[lu",
        ] {
            assert_eq!(
                parse(wrong).err().and_then(|failure| failure.kind()),
                Some(ErrorKind::Usage),
                "{wrong}"
            );
        }
    }
}
