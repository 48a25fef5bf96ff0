//! `uraid demo`: a RAID5 that loses a disk while it is written to, has it rebuilt onto its spare meanwhile,
//! loses another one, and every byte of it checked.
//!
//! Everything happens in a folder of its own, which is removed again however the demonstration ends. No disk
//! of the machine is touched and no privileges are needed. The demonstration fails if a single byte is not
//! what it should be.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use uraid::lu::{Access, MemberState, State, Work, WorkKind};
use uraid::units::Level;
use uraid::{ErrorKind, Lu};

use self::folder::Folder;
use self::registers::Contents;
use crate::console::Console;
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::memory_disk::MemoryDisk;
use crate::size;

mod folder;
mod registers;

const NAME: &str = "demo";
const DISKS: usize = 4;
/// The slots whose disks are lost, in this order.
const FIRST: usize = 2;
const SECOND: usize = 1;
/// The file of the spare is numbered behind the others.
const SPARE: usize = DISKS;
/// How long the LU is written to before the first loss and after the second.
const BEFORE_LOSS: Duration = Duration::from_secs(1);
const AFTER_LOSS: Duration = Duration::from_secs(1);
/// How long uraid may take to notice a loss, and to rebuild without getting any further.
const NOTICE: Duration = Duration::from_secs(10);
const STANDSTILL: Duration = Duration::from_secs(30);

/// Make a RAID5 of files and lose two disks while it is written to, with a rebuild in between; check every
/// byte.
#[derive(Args)]
pub(crate) struct Demo {
    /// Where to make the folder; without it, the system's for temporary files.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The size of each of the four disks and the spare.
    #[arg(long, value_name = "BYTES", value_parser = size::parse, default_value = "128M")]
    size: u64,
    /// Leave the folder and the LU in it.
    #[arg(long)]
    keep: bool,
}

/// Speeds are in bytes per second.
#[derive(Serialize, Default)]
struct Report {
    lu_bytes: u64,
    fill_speed: u64,
    random_write_speed: u64,
    random_write_speed_rebuilding: u64,
    random_write_speed_degraded: u64,
    rebuild_speed: u64,
    rebuild_seconds: f64,
    read_speed_degraded: u64,
    blocks_checked_under_load: u64,
    bytes_verified: u64,
    folder: Option<PathBuf>,
}

/// What every step needs.
struct Stage<'a> {
    console: &'a Console,
    interrupt: Interrupt,
    report: Report,
}

impl Demo {
    pub(crate) fn run(self, console: &Console) -> Outcome {
        let interrupt = Interrupt::watch()?;
        let parent = self.dir.clone().unwrap_or_else(std::env::temp_dir);
        let folder = Folder::make(&parent, self.keep)?;
        let mut stage = Stage { console, interrupt, report: Report::default() };
        let shown = self.play(&folder, &mut stage);
        folder.remove()?;
        shown?;

        let Report { bytes_verified, fill_speed, rebuild_speed, read_speed_degraded, .. } = stage.report;
        if console.is_json() {
            stage.report.folder = self.keep.then(|| folder.path().to_owned());
            return console.document("demo", stage.report);
        }
        if self.keep {
            console.tell(format_args!(
                "kept {}: uraid status {}",
                folder.path().display(),
                folder.disk(0).display()
            ))?;
        }
        console.tell(format_args!(
            "every byte verified: {} checked; written at {}/s, rebuilt at {}/s, read degraded at {}/s",
            size::bytes(bytes_verified),
            size::bytes(fill_speed),
            size::bytes(rebuild_speed),
            size::bytes(read_speed_degraded),
        ))
    }

    fn play(&self, folder: &Folder, stage: &mut Stage<'_>) -> Outcome {
        let (first, second) = (MemoryDisk::make(self.size)?, MemoryDisk::make(self.size)?);
        let lu = self.create(folder, &first, &second, stage)?;
        let contents = Contents::plan(lu.size())?;
        stage.fill(&lu, &contents)?;
        stage.suffer_under_load(&lu, &contents, &first, &second)?;
        stage.verify(&lu, &contents, "verified: no byte was lost with the two disks")?;
        lu.flush()?;
        lu.stop()?;

        let lu = stage.reassemble(folder)?;
        stage.verify(&lu, &contents, "verified again after assembling two first disks and the spare")?;
        lu.stop()?;
        stage.ask_mdadm(&folder.disk(0))
    }

    /// Two disks and the spare are files of the folder; those to be lost are in memory, where they can be
    /// made to fail.
    fn create(
        &self,
        folder: &Folder,
        first: &MemoryDisk,
        second: &MemoryDisk,
        stage: &mut Stage<'_>,
    ) -> Outcome<Lu> {
        let path = |slot| match slot {
            FIRST => first.path(),
            SECOND => second.path(),
            _ => folder.disk(slot),
        };
        // All disks are made for this and read as zeroes, so the parity agrees.
        let create = Lu::create(NAME, Level::Raid5).disk_size(self.size).assume_clean(true);
        let create = (0..DISKS).fold(create, |create, slot| create.disk(path(slot)));
        let lu = create.spare(folder.disk(SPARE)).make()?;
        stage.report.lu_bytes = lu.size();
        let (disk, all) = (size::bytes(self.size), size::bytes(lu.size()));
        stage.tell(format_args!(
            "made a RAID5 of {DISKS} disks of {disk} and a spare in {}: {all}",
            folder.path().display()
        ))?;
        Ok(lu)
    }
}

impl Stage<'_> {
    fn tell(&self, text: impl std::fmt::Display) -> Outcome {
        self.console.tell(text)
    }

    fn fill(&mut self, lu: &Lu, contents: &Contents) -> Outcome {
        let bar = self.console.bar("fill", Some(contents.bytes()));
        let start = Instant::now();
        contents.fill(lu, &bar, &self.interrupt)?;
        lu.flush()?;
        bar.finish_and_clear();
        self.report.fill_speed = size::per_second(contents.bytes(), start.elapsed());
        let speed = size::bytes(self.report.fill_speed);
        self.tell(format_args!("filled it with {contents}: {}, {speed}/s", size::bytes(contents.bytes())))
    }

    /// A thread writes without a pause; this one reads behind it, takes disks away and watches what happens.
    fn suffer_under_load(
        &mut self,
        lu: &Lu,
        contents: &Contents,
        first: &MemoryDisk,
        second: &MemoryDisk,
    ) -> Outcome {
        let stop = AtomicBool::new(false);
        let (told, written) = thread::scope(|scope| {
            let writer = scope.spawn(|| contents.write_at_random(lu, &stop));
            let told = self.suffer(lu, contents, first, second);
            stop.store(true, Ordering::Relaxed);
            (told, writer.join())
        });
        let written =
            written.unwrap_or_else(|_| Err(Failure::of(ErrorKind::Io, "the writing thread panicked")));
        // If the writer failed, that is why reading behind it failed too.
        written.and(told)
    }

    fn suffer(&mut self, lu: &Lu, contents: &Contents, first: &MemoryDisk, second: &MemoryDisk) -> Outcome {
        self.tell("writing at random places, reading behind the writer, from here on without a pause")?;
        self.report.random_write_speed = self.read_behind(lu, contents, BEFORE_LOSS)?;
        self.lose(lu, first, FIRST, "the spare takes over")?;
        self.watch_the_rebuild(lu, contents)?;
        self.lose(lu, second, SECOND, "the LU goes on without it")?;
        self.report.random_write_speed_degraded = self.read_behind(lu, contents, AFTER_LOSS)?;

        let Report { random_write_speed, random_write_speed_rebuilding, .. } = self.report;
        let (before, meanwhile) =
            (size::bytes(random_write_speed), size::bytes(random_write_speed_rebuilding));
        let after = size::bytes(self.report.random_write_speed_degraded);
        let blocks = self.report.blocks_checked_under_load;
        self.tell(format_args!(
            "wrote all the time: {before}/s at first, {meanwhile}/s during the rebuild, {after}/s degraded; \
             {blocks} blocks read meanwhile, all right"
        ))
    }

    /// Takes the disk in `slot` away and waits until that is known.
    fn lose(&mut self, lu: &Lu, disk: &MemoryDisk, slot: usize, then: &str) -> Outcome {
        let path = disk.path().display().to_string();
        disk.lose()?;
        let lost = Instant::now();
        self.tell(format_args!("disk {slot} is gone: every read and write of it fails from now on"))?;
        while is_in_use(lu, &path) {
            self.interrupt.check()?;
            if lost.elapsed() > NOTICE {
                return Err(Failure::of(ErrorKind::Io, "the lost disk was not noticed"));
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.tell(format_args!("noticed after {} ms; {then}", lost.elapsed().as_millis()))
    }

    /// Reads behind the writer until redundancy is back, under a bar.
    fn watch_the_rebuild(&mut self, lu: &Lu, contents: &Contents) -> Outcome {
        let (start, written) = (Instant::now(), contents.bytes_written());
        let (mut done, mut total, mut got_on) = (0, 0, start);
        let mut bar = None;
        loop {
            self.interrupt.check()?;
            self.report.blocks_checked_under_load += contents.read_at_random(lu)?;
            let status = lu.status();
            if status.state == State::Healthy {
                break;
            }
            if let Some(Work { kind: WorkKind::Rebuild, done_bytes, total_bytes, .. }) = status.work {
                let bar = bar.get_or_insert_with(|| self.console.bar("rebuild", Some(total_bytes)));
                bar.set_position(done_bytes);
                if done_bytes != done {
                    got_on = Instant::now();
                }
                (done, total) = (done_bytes, total_bytes);
            }
            if got_on.elapsed() > STANDSTILL {
                return Err(Failure::of(ErrorKind::Io, "the rebuild does not get on"));
            }
        }
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        let elapsed = start.elapsed();
        let writes = contents.bytes_written() - written;
        self.report.random_write_speed_rebuilding = size::per_second(writes, elapsed);
        self.report.rebuild_speed = size::per_second(total, elapsed);
        self.report.rebuild_seconds = elapsed.as_secs_f64();
        let (total, speed) = (size::bytes(total), size::bytes(self.report.rebuild_speed));
        self.tell(format_args!(
            "redundancy is back after {:.1} s: {total} computed onto the spare, {speed}/s beside the writes",
            self.report.rebuild_seconds
        ))
    }

    /// Reads and checks for `time`; the writer's speed meanwhile.
    fn read_behind(&mut self, lu: &Lu, contents: &Contents, time: Duration) -> Outcome<u64> {
        let (start, before) = (Instant::now(), contents.bytes_written());
        while start.elapsed() < time {
            self.interrupt.check()?;
            self.report.blocks_checked_under_load += contents.read_at_random(lu)?;
        }
        Ok(size::per_second(contents.bytes_written() - before, start.elapsed()))
    }

    fn verify(&mut self, lu: &Lu, contents: &Contents, told: &str) -> Outcome {
        let bar = self.console.bar("verify", Some(contents.bytes()));
        let start = Instant::now();
        contents.verify(lu, &bar, &self.interrupt)?;
        bar.finish_and_clear();
        self.report.read_speed_degraded = size::per_second(contents.bytes(), start.elapsed());
        self.report.bytes_verified += contents.bytes();
        self.tell(format_args!("{told} ({}/s)", size::bytes(self.report.read_speed_degraded)))
    }

    fn reassemble(&self, folder: &Folder) -> Outcome<Lu> {
        let survivors =
            (0..=SPARE).filter(|slot| ![FIRST, SECOND].contains(slot)).map(|slot| folder.disk(slot));
        let lu = survivors
            .fold(Lu::assemble(), |assemble, disk| assemble.disk(disk))
            .access(Access::Read)
            .open()?;
        let status = lu.status();
        self.tell(format_args!("stopped, and assembled from the files again: {}", status.state))?;
        Ok(lu)
    }

    /// What Linux's own tool makes of it, where there is one.
    fn ask_mdadm(&self, disk: &Path) -> Outcome {
        let Ok(output) = Command::new("mdadm").arg("--examine").arg(disk).output() else {
            return self.tell("no mdadm here to ask what it makes of the disks");
        };
        self.tell("mdadm --examine of a survivor says:")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let titles = ["Raid Level", "Raid Devices", "State", "Events", "Checksum", "Array State"];
        let wanted =
            |line: &&str| titles.iter().any(|title| line.trim_start().starts_with(&format!("{title} :")));
        text.lines().filter(wanted).try_for_each(|line| self.tell(line))
    }
}

/// Does the LU still count on the disk at `path`?
fn is_in_use(lu: &Lu, path: &str) -> bool {
    lu.status().members.iter().any(|member| member.disk == path && member.state == MemberState::Active)
}
