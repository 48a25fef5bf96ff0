//! The configuration file: LUs by name, with their disks and where they are served.
//!
//! Promises: a file is understood whole or not at all; whatever is wrong with it is told with its line. That
//! a disk is not there is nothing wrong with the file. Refuses to know what verbs do with an LU.

use std::ffi::OsString;
use std::io::ErrorKind as IoKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use uraid::ErrorKind;
use uraid::format::superblock::Uuid;
use uraid::serve::nbd::{Address, Tls};

use crate::failure::{Failure, Outcome};
use crate::target::{Leave, Target};

const DEFAULT: &str = "/etc/uraid/uraid.toml";

/// `[[lu]]` tables.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    lu: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: Spanned<String>,
    /// Relative ones count from the file's folder.
    disks: Spanned<Vec<Spanned<PathBuf>>>,
    /// Where the daemon serves it over NBD, and as a file: relative folders count from the file's.
    nbd: Option<Spanned<String>>,
    fuse: Option<Spanned<PathBuf>>,
    /// Certificates for NBD.
    tls: Option<Spanned<PathBuf>>,
    #[serde(default)]
    read_only: bool,
    #[serde(default)]
    insecure: bool,
}

/// The LUs of the configuration file.
pub(crate) struct Config {
    path: PathBuf,
    lus: Vec<Listed>,
}

/// An LU of the configuration file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Listed {
    pub(crate) target: Target,
    /// Where the daemon serves it over NBD, and as a file; it leaves those alone that it is not to serve.
    pub(crate) nbd: Option<Address>,
    pub(crate) fuse: Option<PathBuf>,
    /// NBD under TLS only.
    pub(crate) tls: Option<Certificates>,
    /// For reading only.
    pub(crate) read_only: bool,
    /// To other machines, too.
    pub(crate) insecure: bool,
}

/// A folder of certificates.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Certificates {
    pub(crate) folder: PathBuf,
    /// Of the configuration file, which names it.
    line: usize,
}

/// Something wrong with a configuration file.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Wrong {
    /// From 1.
    pub(crate) line: usize,
    /// A sentence.
    pub(crate) what: String,
}

impl Config {
    /// Reads `$URAID_CONFIG`, else the system's file, which need not exist.
    ///
    /// # Errors
    /// Not found for a file that `$URAID_CONFIG` names; usage for one that makes no sense.
    pub(crate) fn load() -> Outcome<Config> {
        let (path, is_named) = standard();
        match Config::read(&path) {
            Err(failure) if !is_named && failure.kind() == Some(ErrorKind::NotFound) => {
                Ok(Config { path, lus: Vec::new() })
            }
            read => read,
        }
    }

    /// Reads `path`, which has to be there.
    ///
    /// # Errors
    /// Not found if it is not; usage if it makes no sense.
    pub(crate) fn read(path: &Path) -> Outcome<Config> {
        let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
            IoKind::InvalidData => Failure::usage(format!("{}: no text", path.display())),
            _ => Failure::file(path, &error),
        })?;
        parse(path, &text).map(|lus| Config { path: path.to_owned(), lus }).map_err(|wrongs| {
            let lines = wrongs.iter().map(|wrong| wrong.at(path)).collect::<Vec<_>>().join("\n  ");
            Failure::usage(lines)
        })
    }

    /// Where it was read from, or would have been.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// All LUs, in the file's order.
    pub(crate) fn lus(&self) -> &[Listed] {
        &self.lus
    }

    /// The LU named `wanted` or, if that is a UUID, the one whose members carry it.
    pub(crate) fn find(self, wanted: &str) -> Outcome<Target> {
        let targets = || self.lus.iter().map(|listed| &listed.target);
        if let Some(lu) = targets().find(|lu| lu.label == wanted) {
            return Ok(lu.clone());
        }
        if let Ok(uuid) = wanted.parse::<Uuid>() {
            let carries = |lu: &&Target| lu.look(&Leave::default()).is_ok_and(|status| status.uuid == uuid);
            if let Some(lu) = targets().find(carries) {
                return Ok(lu.clone());
            }
        }
        let path = self.path.display();
        let message = format!("no LU '{wanted}': no such file, not held, and not in {path}");
        Err(Failure::of(ErrorKind::NotFound, message)
            .remedy("a path names an LU by one of its members: uraid status ./DISK"))
    }
}

impl Certificates {
    /// Loads them; what is wrong if that cannot be.
    ///
    /// For the server, and whoever looks after it. Others who only look up an LU may not read its key.
    pub(crate) fn check(&self) -> Result<(), Wrong> {
        let loaded = Tls::load(&self.folder).map(drop);
        loaded.map_err(|error| Wrong { line: self.line, what: error.to_string() })
    }
}

impl Wrong {
    /// As compilers say it, which editors understand.
    pub(crate) fn at(&self, path: &Path) -> String {
        format!("{}:{}: {}", path.display(), self.line, self.what)
    }
}

/// The file that is meant if none is named, and whether the environment named it.
pub(crate) fn standard() -> (PathBuf, bool) {
    let named: Option<OsString> = std::env::var_os("URAID_CONFIG").filter(|name| !name.is_empty());
    let is_named = named.is_some();
    (named.unwrap_or_else(|| DEFAULT.into()).into(), is_named)
}

/// The LUs of `text`, which is what the file at `path` holds; or all that is wrong with it, in order of
/// lines.
pub(crate) fn parse(path: &Path, text: &str) -> Result<Vec<Listed>, Vec<Wrong>> {
    let line_at = |at: usize| 1 + text.bytes().take(at).filter(|&byte| byte == b'\n').count();
    let file: File = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_at(span.start));
        vec![Wrong { line, what: error.message().trim_end().replace('\n', "; ") }]
    })?;
    let mut wrongs = Vec::new();
    let mut wrong = |span: std::ops::Range<usize>, what: String| {
        wrongs.push(Wrong { line: line_at(span.start), what });
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut lus: Vec<Listed> = Vec::new();
    let mut seen: Vec<PathBuf> = Vec::new();
    for entry in file.lu {
        let Entry { name, disks, nbd, fuse, tls, read_only, insecure } = entry;
        let (span, label) = (name.span(), name.into_inner());
        if label.is_empty() || label.contains('/') {
            wrong(span.clone(), format!("'{label}' is no name: a path is never looked up here"));
        }
        if lus.iter().any(|lu| lu.target.label == label) {
            wrong(span, format!("two LUs are named '{label}'"));
        }
        if disks.get_ref().is_empty() {
            wrong(disks.span(), format!("LU '{label}' has no disks"));
        }
        let mut paths = Vec::new();
        for disk in disks.into_inner() {
            let (span, disk) = (disk.span(), folder.join(disk.into_inner()));
            if seen.contains(&disk) {
                wrong(span, format!("{} is listed twice", disk.display()));
            }
            seen.push(disk.clone());
            paths.push(disk);
        }
        let address = nbd.as_ref().and_then(|nbd| match nbd.get_ref().parse::<Address>() {
            Ok(address) => Some((nbd.span(), address)),
            Err(error) => {
                wrong(nbd.span(), error.to_string());
                None
            }
        });
        if let Some((span, address)) = &address
            && lus.iter().any(|lu| lu.nbd.as_ref() == Some(address))
        {
            wrong(span.clone(), "another LU is served there".into());
        }
        let target = Target::listed_in(path, label, paths);
        let fuse = fuse.map(|place| (place.span(), folder.join(place.into_inner())));
        if let Some((span, place)) = &fuse {
            if lus.iter().any(|lu| lu.fuse.as_ref() == Some(place)) {
                wrong(span.clone(), "another LU is mounted there".into());
            } else if place.metadata().is_ok_and(|found| !found.is_dir()) {
                wrong(span.clone(), format!("{} is no directory to mount on", place.display()));
            }
        }
        if let Some(tls) = &tls
            && (nbd.is_none() || insecure)
        {
            wrong(tls.span(), "tls is for an nbd address that is not insecure".into());
        }
        let tls = tls.map(|place| {
            let line = line_at(place.span().start);
            Certificates { folder: folder.join(place.into_inner()), line }
        });
        let (nbd, fuse) = (address.map(|(_, address)| address), fuse.map(|(_, place)| place));
        lus.push(Listed { target, nbd, fuse, tls, read_only, insecure });
    }
    wrongs.sort_by_key(|wrong| wrong.line);
    if wrongs.is_empty() { Ok(lus) } else { Err(wrongs) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/etc/x/uraid.toml";

    #[test]
    fn what_is_listed() {
        let text = "[[lu]]\nname = 'data'\ndisks = ['/a', 'b']\nnbd = 'unix:/s'\ntls = 'pki'\n\
                    [[lu]]\nname = 'other'\ndisks = ['/c']\nread_only = true\nfuse = 'mnt'\n";
        let lus = parse(Path::new(PATH), text).unwrap();
        let disks = vec!["/a".into(), "/etc/x/b".into()];
        let target = Target::listed_in(Path::new(PATH), "data".into(), disks);
        let nbd = Some(Address::Unix("/s".into()));
        let tls = Some(Certificates { folder: "/etc/x/pki".into(), line: 5 });
        assert_eq!(lus[0], Listed { target, nbd, fuse: None, tls, read_only: false, insecure: false });
        assert_eq!((lus[1].nbd.clone(), lus[1].read_only), (None, true));
        assert_eq!(lus[1].fuse, Some("/etc/x/mnt".into()));
        let config = Config { path: PATH.into(), lus };
        assert_eq!(config.find("elsewhere").unwrap_err().kind(), Some(ErrorKind::NotFound));
        assert!(parse(Path::new(PATH), "").unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let lines = |text: &str| {
            let wrongs = parse(Path::new(PATH), text).expect_err(text);
            wrongs.into_iter().map(|wrong| wrong.line).collect::<Vec<_>>()
        };
        let good = "[[lu]]\nname = 'a'\ndisks = ['/a']\nnbd = 'unix:/s'\n";
        assert_eq!(lines("[[lu]]\nname = 'a'\n"), [1], "no disks at all");
        assert_eq!(lines("\n[[lu]]\nname = 'a'\ndisks = []\n"), [4]);
        assert_eq!(lines("[[lu]]\nname = 'a'\ndisk = ['/a']\n"), [3]);
        assert_eq!(lines("[[lu]]\nname = 'a'\ndisks = ['/a']\nread_only = 1\n"), [4]);
        assert_eq!(lines("[[lu]]\nname = 'a'\ndisks = ['/a']\nnbd = 'unix'\n"), [4]);
        assert_eq!(lines("[[lu]]\nname = 'a'\ndisks = ['/a']\nfuse = '/dev/null'\n"), [4]);
        assert_eq!(lines(&format!("{good}tls = '/a'\ninsecure = true\n")), [5]);
        assert_eq!(lines("[[lu]]\nname = 'a'\ndisks = ['/a']\ntls = '/nowhere'\n"), [4]);
        assert_eq!(lines("[[lu]]\nname = 'a/b'\ndisks = ['/a',\n'/b',\n'/a']\n"), [2, 5]);
        assert_eq!(lines(&format!("{good}{good}")), [6, 7, 8]);
        assert_eq!(lines("[lu"), [1]);
        assert_eq!(lines(&format!("{good}name = 'a'\n")), [5]);
    }

    #[test]
    fn several_wrongs_are_one_failure() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("uraid.toml");
        std::fs::write(&path, "[[lu]]\nname = ''\ndisks = []\n").unwrap();
        let Err(failure) = Config::read(&path) else { panic!("understood") };
        assert_eq!(failure.exit_code(), 2);
        assert!(failure.message().contains("uraid.toml:2: ") && failure.message().contains("uraid.toml:3: "));
    }
}
