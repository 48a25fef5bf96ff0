//! A change of an LU's members as a plain value, and the carrying out of it: the logic of `fail`, `remove`,
//! `add` and `replace` that is the same whoever asks, a verb in its own process or a client of the holder.
//!
//! A change is on the disks when it returns. Where a spare takes over in consequence, that has begun on
//! record; filling it takes its time and is not waited for. Refuses to know who asked and how he is told.

use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

use super::Lu;
use super::status::{MemberState, MemberStatus, Status, quoted};

/// How a disk is named: also a member whose disk is not there any more can be spoken of, by its slot.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(
    feature = "control",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "lowercase")
)]
pub enum DiskName {
    /// Whatever fills this slot.
    Slot(u16),
    /// A file or block device.
    Path(PathBuf),
}

/// What is to change.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "control", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "control", serde(rename_all = "snake_case", deny_unknown_fields))]
pub enum Change {
    /// Stop using a member; nothing is done to one that is out of use already.
    Fail {
        /// The member.
        disk: DiskName,
    },
    /// Let go of a disk for good; a member in use is failed first.
    Remove {
        /// The member, spare or former member.
        disk: DiskName,
    },
    /// Let go of a spare, and of nothing that is none.
    RemoveSpare {
        /// The spare.
        disk: DiskName,
    },
    /// Give the LU another disk.
    Add {
        /// The disk.
        disk: PathBuf,
        /// Whatever it holds may be lost.
        overwrite: bool,
    },
    /// Copy a disk that works to another, which then takes its place; the copy is not waited for.
    Replace {
        /// The disk that is to go.
        old: PathBuf,
        /// A spare, or a disk that is no member yet.
        new: PathBuf,
        /// Whatever `new` holds may be lost.
        overwrite: bool,
    },
}

/// A change that was made.
#[derive(Clone, Debug)]
pub struct Changed {
    /// What the disk was before, or the empty slot that was named; `None` for a stranger.
    pub before: Option<MemberStatus>,
    /// The disk's path; `None` for an empty slot.
    pub disk: Option<PathBuf>,
    /// The LU after the change.
    pub status: Status,
}

impl Change {
    /// The disk it is about; of a replacement the old one.
    pub fn disk(&self) -> DiskName {
        match self {
            Change::Fail { disk } | Change::Remove { disk } | Change::RemoveSpare { disk } => disk.clone(),
            Change::Add { disk, .. } => DiskName::Path(disk.clone()),
            Change::Replace { old, .. } => DiskName::Path(old.clone()),
        }
    }

    /// The same for somebody in another folder: all paths absolute.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if the current folder is gone.
    pub fn absolute(self) -> Result<Change> {
        let name = |disk| {
            Ok::<_, Error>(match disk {
                DiskName::Path(path) => DiskName::Path(absolute(&path)?),
                slot => slot,
            })
        };
        Ok(match self {
            Change::Fail { disk } => Change::Fail { disk: name(disk)? },
            Change::Remove { disk } => Change::Remove { disk: name(disk)? },
            Change::RemoveSpare { disk } => Change::RemoveSpare { disk: name(disk)? },
            Change::Add { disk, overwrite } => Change::Add { disk: absolute(&disk)?, overwrite },
            Change::Replace { old, new, overwrite } => {
                Change::Replace { old: absolute(&old)?, new: absolute(&new)?, overwrite }
            }
        })
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path)
        .map_err(|error| Error::new(ErrorKind::Io, format!("{}: {error}", path.display())).with_source(error))
}

impl Lu {
    /// Makes a change. On record when it returns; a spare that takes over in consequence has begun then.
    ///
    /// # Errors
    /// Those of [`Lu::fail`], [`Lu::remove`], [`Lu::add`] and [`Lu::replace`]; [`ErrorKind::NotFound`] for a
    /// slot that the LU does not have, or a disk that is no spare where one is wanted.
    pub fn carry_out(&self, change: &Change) -> Result<Changed> {
        let (disk, before) = self.find(change.disk())?;
        let path = disk.as_deref().unwrap_or(Path::new("-"));
        let state = before.as_ref().map(|member| member.state);
        match change {
            // That a slot's disk is gone was put on record when the LU was opened.
            Change::Fail { .. } => match state {
                Some(MemberState::Faulty | MemberState::Stale | MemberState::Missing) => {}
                _ => self.fail(path)?,
            },
            // Nothing is left of it but the record that it is gone.
            Change::Remove { .. } if state == Some(MemberState::Missing) => {}
            Change::RemoveSpare { .. } if state != Some(MemberState::Spare) => {
                let what = self.what_it_is(before.as_ref(), path);
                return Err(Error::new(ErrorKind::NotFound, format!("no spare: {what}")));
            }
            Change::Remove { .. } | Change::RemoveSpare { .. } => self.remove(path)?,
            Change::Add { overwrite, .. } => self.add(path, *overwrite)?,
            Change::Replace { new, overwrite, .. } => self.replace(path, new, *overwrite)?,
        }
        // Until a spare that takes over has begun, or none does.
        self.watch_work(&mut |work| work.is_none())?;
        Ok(Changed { before, disk, status: self.status() })
    }

    /// The disk's path, and what it is to the LU: its member, an empty slot, or nothing.
    fn find(&self, disk: DiskName) -> Result<(Option<PathBuf>, Option<MemberStatus>)> {
        let status = self.status();
        match disk {
            DiskName::Path(path) => {
                let known = self.row(&path).ok().map(|row| row.name);
                let member = status.members.into_iter().find(|member| Some(&member.disk) == known.as_ref());
                Ok((Some(path), member))
            }
            DiskName::Slot(slot) => {
                let fills = |member: &&MemberStatus| {
                    member.slot == Some(slot) && member.state != MemberState::Replacement
                };
                let member = status.members.iter().find(fills).cloned().ok_or_else(|| {
                    let last = status.members.iter().filter_map(|member| member.slot).max();
                    let slots = last.map_or(0, |last| u32::from(last) + 1);
                    let text = format!("{} has no slot {slot}: it has {slots}, from 0", status.name);
                    Error::new(ErrorKind::NotFound, text)
                })?;
                let disk = (member.state != MemberState::Missing).then(|| PathBuf::from(&member.disk));
                Ok((disk, Some(member)))
            }
        }
    }

    /// What a disk is that is not what is needed, and what to type about it.
    fn what_it_is(&self, member: Option<&MemberStatus>, disk: &Path) -> String {
        let (name, disk) = (self.name(), quoted(&disk.display().to_string()));
        match member {
            None => format!("{disk} is no member of {name}"),
            Some(MemberStatus { slot: Some(slot), state: MemberState::Missing, .. }) => {
                format!("slot {slot} of {name} is empty")
            }
            Some(MemberStatus { slot: Some(slot), .. }) => {
                format!(
                    "{disk} fills slot {slot} of {name}: uraid remove {} {disk}",
                    self.status().argument()
                )
            }
            Some(member) => format!("{disk} is a former member of {name} ({})", member.state),
        }
    }
}
