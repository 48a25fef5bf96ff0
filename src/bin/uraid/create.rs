//! `uraid create`: makes an LU, brings its redundancy in step, and says what was made. Never writes over
//! anything that looks like data unless the LU's name is given as a second word.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;
use uraid::format::superblock::Minor;
use uraid::lu;
use uraid::lu::Status;
use uraid::units::Level;
use uraid::{ErrorKind, Lu};

use crate::console::Console;
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::target::{as_on_disk, quoted};
use crate::{json, size, work};

/// Make an LU.
#[derive(Args)]
pub(crate) struct Create {
    /// What to call it.
    name: String,
    /// 0, 1, 4, 5, 6, 10 or linear; raid5 is 5.
    #[arg(short, long, value_parser = parse_level)]
    level: Level,
    /// The disks, in the order of their slots; `missing` leaves a slot empty.
    #[arg(required = true, value_name = "DISK")]
    disks: Vec<PathBuf>,
    /// A disk that stands by.
    #[arg(long, value_name = "DISK")]
    spare: Vec<PathBuf>,
    /// Bytes in a chunk.
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    chunk: Option<u64>,
    /// How data is laid out: left-symmetric, n2, f2, o2...
    #[arg(long)]
    layout: Option<String>,
    /// Bytes to use of each disk; without it, as much as the smallest has.
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    size: Option<u64>,
    /// How redundancy is brought back after a crash; without it, ppl on raid5 and bitmap on other redundant
    /// levels, where there is room.
    #[arg(long, value_enum)]
    policy: Option<Policy>,
    /// Version of the superblock: 1.0, 1.1 or 1.2.
    #[arg(long, value_name = "VERSION", value_parser = parse_minor, default_value = "1.2")]
    metadata: Minor,
    /// Take the redundancy for being in step already.
    #[arg(long)]
    assume_clean: bool,
    /// Make disks that do not exist as sparse files of this size.
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    disk_size: Option<u64>,
    /// The LU's name once more: lose what is on the disks.
    #[arg(long, value_name = "NAME")]
    confirm: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Policy {
    /// The partial parity log.
    Ppl,
    /// The write-intent bitmap.
    Bitmap,
    /// Everything is resynced.
    None,
}

#[derive(Serialize)]
struct Report<'a> {
    lu: json::Lu<'a>,
}

impl Create {
    pub(crate) fn run(self, console: &Console) -> Outcome {
        let create = self.describe();
        let overwrite = self.may_overwrite(&create, console)?;
        // Only now: Ctrl-C at the question simply ends the program.
        let interrupt = Interrupt::watch()?;
        let lu = create.overwrite(overwrite).make().map_err(|error| self.point_to_confirm(error.into()))?;
        let status = lu.status();
        console.warnings(&status);

        let resynced = wait(&lu, console, &interrupt);
        let stopped = lu.stop().map_err(Failure::from);
        resynced.and(stopped)?;
        // What the disks say now, not what was meant.
        let status = as_on_disk(status);
        match console.is_json() {
            true => console.document("create", Report { lu: json::Lu::from(&status) }),
            false => console.tell(account(&status).trim_end()),
        }
    }

    fn describe(&self) -> lu::Create {
        let mut create =
            Lu::create(&self.name, self.level).metadata(self.metadata).assume_clean(self.assume_clean);
        if let Some(policy) = self.policy {
            create = create.policy(policy.into());
        }
        for disk in &self.disks {
            create = if disk.as_os_str() == "missing" { create.missing() } else { create.disk(disk) };
        }
        for disk in &self.spare {
            create = create.spare(disk);
        }
        if let Some(bytes) = self.chunk {
            create = create.chunk(bytes);
        }
        if let Some(layout) = &self.layout {
            create = create.layout(layout);
        }
        if let Some(bytes) = self.size {
            create = create.size(bytes);
        }
        if let Some(bytes) = self.disk_size {
            create = create.disk_size(bytes);
        }
        create
    }

    /// Whether what is on the disks may be lost: by `--confirm`, or by typing the name. Nothing to lose needs
    /// neither.
    fn may_overwrite(&self, create: &lu::Create, console: &Console) -> Outcome<bool> {
        if let Some(confirmed) = &self.confirm {
            if *confirmed != self.name {
                return Err(Failure::usage(format!("--confirm names '{confirmed}', not '{}'", self.name)));
            }
            return Ok(true);
        }
        let losses = create.would_destroy()?;
        if losses.is_empty() {
            return Ok(false);
        }
        if console.can_ask() {
            console.complain("this would be lost:");
            losses.iter().for_each(|loss| console.further(loss));
            if console.ask(format_args!("Type the LU's name ({}) to lose it:", self.name)) == self.name {
                return Ok(true);
            }
            return Err(Failure::of(ErrorKind::Refused, "not confirmed; nothing was changed"));
        }
        let refusal = Failure::of(ErrorKind::Refused, format!("would be lost: {}", losses.join("; ")));
        Err(self.point_to_confirm(refusal))
    }

    fn point_to_confirm(&self, failure: Failure) -> Failure {
        match failure.kind() {
            Some(ErrorKind::Refused) if !failure.message().contains("--confirm") => {
                failure.remedy(format!("if that is meant, add: --confirm {}", quoted(&self.name)))
            }
            _ => failure,
        }
    }
}

impl From<Policy> for lu::Policy {
    fn from(policy: Policy) -> lu::Policy {
        match policy {
            Policy::Ppl => lu::Policy::Ppl,
            Policy::Bitmap => lu::Policy::Bitmap,
            Policy::None => lu::Policy::None,
        }
    }
}

/// Waits for the first resync, under a bar. An interrupt leaves it where it is; it goes on when the LU is
/// next opened for writing.
fn wait(lu: &Lu, console: &Console, interrupt: &Interrupt) -> Outcome {
    let mut waited = lu;
    work::wait(&mut waited, None, console, interrupt)?;
    match lu.status().work {
        None => Ok(()),
        Some(_) => interrupt.check().map_err(|failure| {
            failure.note("the LU is made; its resync goes on when it is next opened for writing")
        }),
    }
}

/// What was made, and commands that work as they stand.
fn account(status: &Status) -> String {
    let layout = if status.layout == "-" { String::new() } else { format!(", {}", status.layout) };
    let chunk = match status.chunk_bytes {
        0 => String::new(),
        bytes => format!(", chunk {}", size::bytes(bytes)),
    };
    let mut text = format!(
        "made {}: {}, {}{layout}{chunk}, policy {}, md {}, {}\n  uuid  {}\n",
        status.name,
        status.level,
        size::bytes(status.size_bytes),
        status.policy,
        status.metadata,
        status.state,
        status.uuid,
    );
    for member in &status.members {
        let slot = member.slot.map_or_else(|| "spare".to_owned(), |slot| slot.to_string());
        let disk = if member.disk == "-" { "missing" } else { &member.disk };
        text += &format!("  {slot:>5}  {disk}\n");
    }
    let lu = status.argument();
    text + &format!("try\n  uraid status {lu}\n  uraid write {lu} -i FILE\n  uraid read {lu} -o FILE\n")
}

pub(crate) fn parse_level(text: &str) -> Result<Level, String> {
    let lower = text.to_ascii_lowercase();
    let number = lower.strip_prefix("raid").unwrap_or(&lower);
    Level::ALL
        .into_iter()
        .find(|level| level.to_string() == lower || level.to_string() == format!("raid{number}"))
        .ok_or_else(|| "levels are 0, 1, 4, 5, 6, 10 and linear".to_owned())
}

fn parse_minor(text: &str) -> Result<Minor, String> {
    text.parse().map_err(|error: uraid::Error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels() {
        for (text, level) in [
            ("5", Level::Raid5),
            ("raid5", Level::Raid5),
            ("RAID10", Level::Raid10),
            ("10", Level::Raid10),
            ("0", Level::Raid0),
            ("linear", Level::Linear),
        ] {
            assert_eq!(parse_level(text), Ok(level), "{text}");
        }
        for wrong in ["", "raid", "7", "55", "raidlinear", "-1", "raidraid5"] {
            assert!(parse_level(wrong).is_err(), "{wrong}");
        }
    }
}
