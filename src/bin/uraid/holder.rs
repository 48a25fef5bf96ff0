//! Who holds an LU: the folder of control sockets, and the way from an LU's disks, name or UUID to its
//! holder.
//!
//! Promises: a holder is only asked about an LU whose disks are the very ones that are meant; a copy of them
//! elsewhere carries the same UUID and is another LU. Changes nothing.

use std::path::{Path, PathBuf};

use uraid::ErrorKind;
use uraid::format::superblock::Uuid;
use uraid::lu::{self, Status};
use uraid::serve::control::{self, Client};

use crate::failure::{Failure, Outcome};
use crate::target::member_at;

/// The folder for everybody's and root's services.
const SYSTEM: &str = "/run/uraid";

/// The folder in which a holder has its socket: `$URAID_RUNTIME_DIR`, else the user's runtime folder, else
/// the system's.
pub(crate) fn folder() -> PathBuf {
    folders().swap_remove(0)
}

/// Is the folder one that somebody chose?
pub(crate) fn is_folder_chosen() -> bool {
    variable("URAID_RUNTIME_DIR").is_some()
}

/// The folders in which a holder may have its socket. A service of the system has no user's runtime folder,
/// and whoever asks it may have one.
fn folders() -> Vec<PathBuf> {
    if let Some(chosen) = variable("URAID_RUNTIME_DIR") {
        return vec![chosen];
    }
    let user = variable("XDG_RUNTIME_DIR").map(|folder| folder.join("uraid"));
    user.into_iter().chain([PathBuf::from(SYSTEM)]).collect()
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The holder of the LU that has one of `disks`, if it can be asked.
///
/// # Errors
/// Busy for one that does not answer.
pub(crate) fn of<'a>(disks: impl Iterator<Item = &'a PathBuf> + Clone) -> Outcome<Option<Client>> {
    let mut asked: Vec<Uuid> = Vec::new();
    for disk in disks.clone() {
        let Ok(found) = lu::inspect(disk) else { continue };
        let uuid = found.superblock.set_uuid;
        if asked.contains(&uuid) {
            continue;
        }
        asked.push(uuid);
        for (client, status) in reach(uuid)? {
            if disks.clone().any(|disk| member_at(disk, &status).is_some()) {
                return Ok(Some(client));
            }
        }
    }
    Ok(None)
}

/// The LUs that are held, as they are. One whose holder does not answer is left out: it is busy for whoever
/// needs it.
pub(crate) fn all() -> Vec<Status> {
    let uuids = folders().into_iter().filter_map(|folder| control::held(folder).ok()).flatten();
    let mut uuids: Vec<Uuid> = uuids.collect();
    uuids.sort_by_key(|uuid| uuid.0);
    uuids.dedup();
    let held = uuids.into_iter().filter_map(|uuid| reach(uuid).ok()).flatten();
    held.map(|(_, status)| status).collect()
}

/// The held LU with this name, label or UUID, if there is one.
///
/// # Errors
/// Usage if there are several.
pub(crate) fn named(wanted: &str) -> Outcome<Option<Status>> {
    let uuid = wanted.parse::<Uuid>().ok();
    let mut found = all();
    found.retain(|status| status.name == wanted || uuid == Some(status.uuid));
    if found.len() > 1 {
        let uuids = found.iter().map(|status| status.uuid.to_string()).collect::<Vec<_>>().join(", ");
        let text = format!("several LUs named '{wanted}' are held: name it by its UUID, one of {uuids}");
        return Err(Failure::usage(text));
    }
    Ok(found.pop())
}

/// The holders of LUs with this UUID; one per folder, at most.
fn reach(uuid: Uuid) -> Outcome<Vec<(Client, Status)>> {
    let mut found = Vec::new();
    for folder in folders() {
        let looked = Client::connect(&folder, uuid).and_then(|mut client| {
            let status = client.status()?;
            Ok((client, status))
        });
        match looked {
            Ok(looked) => found.push(looked),
            Err(error) if error.kind() == ErrorKind::Busy => return Err(error.into()),
            // Nobody is there, he has just gone, or the place is not to be trusted.
            Err(_) => {}
        }
    }
    Ok(found)
}

/// The disks of a held LU, as paths.
pub(crate) fn disks(status: &Status) -> Vec<PathBuf> {
    let disks = status.members.iter().map(|member| Path::new(&member.disk));
    disks.filter(|disk| disk.exists()).map(Path::to_owned).collect()
}
