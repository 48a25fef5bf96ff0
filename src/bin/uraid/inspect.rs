//! `uraid inspect`: all that one member says of itself and of its LU, without believing it. Claims nothing.
//!
//! One list of facts serves people and programs: what is printed is what the document holds, in the same
//! order.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use uraid::format::superblock::{FAILFAST, Features, Role, Superblock, Time, WRITE_MOSTLY};
use uraid::geometry::Layout;
use uraid::lu::Inspection;
use uraid::units::{DiskLba, Level, Sectors};

use crate::console::Console;
use crate::failure::Outcome;
use crate::{json, size};

/// Show everything a member's superblock says.
#[derive(Args)]
pub(crate) struct Inspect {
    /// A file or device.
    disk: PathBuf,
}

/// What the member says. Offsets and lengths are in bytes, positions on the disk count from its start.
#[derive(Serialize)]
struct Facts {
    disk: String,
    disk_bytes: u64,
    magic: String,
    version: String,
    feature_map: u32,
    features: Vec<String>,
    array_uuid: String,
    name: String,
    created: Option<String>,
    level: Option<String>,
    level_number: i32,
    raid_devices: u32,
    layout: Option<String>,
    layout_number: u32,
    chunk_bytes: u64,
    available_bytes: u64,
    array_bytes: Option<u64>,
    used_bytes: u64,
    data_offset_bytes: u64,
    super_offset_bytes: u64,
    unused_before_bytes: u64,
    unused_after_bytes: u64,
    state: &'static str,
    resync_bytes: Option<u64>,
    recovery_bytes: Option<u64>,
    device_uuid: String,
    device_flags: Vec<&'static str>,
    bitmap: Option<Bitmap>,
    ppl: Option<Ppl>,
    reshape: Option<Reshape>,
    updated: Option<String>,
    bad_block_log: Option<BadBlockLog>,
    corrected_reads: u32,
    logical_block_bytes: Option<u32>,
    checksum: String,
    checksum_correct: bool,
    events: u64,
    device_number: u32,
    device_role: String,
    array_state: String,
}

#[derive(Serialize)]
struct Bitmap {
    /// From the superblock.
    offset_sectors: i32,
    chunk_bytes: u32,
    events: u64,
    events_cleared: u64,
    covers_bytes: u64,
    stale: bool,
    /// Chunks that may be out of sync, and all of them.
    set_chunks: u64,
    chunks: u64,
}

#[derive(Serialize)]
struct Ppl {
    /// From the superblock.
    offset_sectors: i16,
    size_bytes: u64,
    entries: Option<usize>,
}

#[derive(Serialize)]
struct Reshape {
    position_bytes: u64,
    delta_devices: i32,
    old_devices: Option<u32>,
    new_level: i32,
    new_layout: u32,
    new_chunk_bytes: u64,
    new_offset_sectors: i32,
    backwards: bool,
}

#[derive(Serialize)]
struct BadBlockLog {
    /// From the superblock.
    offset_sectors: i32,
    size_bytes: u64,
    shift: u8,
    entries: Vec<BadBlocks>,
}

#[derive(Serialize)]
struct BadBlocks {
    offset_bytes: u64,
    length_bytes: u64,
}

impl Inspect {
    pub(crate) fn run(self, console: &Console) -> Outcome {
        let facts = Facts::of(&uraid::lu::inspect(&self.disk)?);
        match console.is_json() {
            true => console.document("inspect", facts),
            false => console.text(facts.text()),
        }
    }
}

impl Facts {
    fn of(inspection: &Inspection) -> Facts {
        let sb = &inspection.superblock;
        let level = sb.level();
        let (before, after) = unused(inspection);
        Facts {
            disk: inspection.disk.clone(),
            disk_bytes: inspection.disk_bytes,
            // A disk with another one is refused before it gets here.
            magic: "a92b4efc".to_owned(),
            version: sb.minor.to_string(),
            feature_map: sb.features.0,
            features: words(sb.features),
            array_uuid: sb.set_uuid.to_string(),
            name: sb.name().into_owned(),
            created: rfc3339(sb.ctime),
            level: level.map(|level| level.to_string()),
            level_number: sb.level,
            raid_devices: sb.raid_disks,
            layout: level.and_then(|level| layout_name(level, sb.layout)),
            layout_number: sb.layout,
            chunk_bytes: sb.chunk.bytes(),
            available_bytes: sb.data_size.bytes(),
            array_bytes: inspection.array_bytes,
            used_bytes: used(sb).bytes(),
            data_offset_bytes: sb.data_offset.bytes(),
            super_offset_bytes: sb.super_offset.bytes(),
            unused_before_bytes: before.bytes(),
            unused_after_bytes: after.bytes(),
            state: if sb.is_clean() { "clean" } else { "active" },
            resync_bytes: (!sb.is_clean()).then(|| sb.resync_offset.bytes()),
            recovery_bytes: sb.watermark().map(|watermark| watermark.bytes()),
            device_uuid: sb.device_uuid.to_string(),
            device_flags: device_flags(sb),
            bitmap: Bitmap::of(inspection),
            ppl: Ppl::of(inspection),
            reshape: Reshape::of(sb),
            updated: rfc3339(sb.utime),
            bad_block_log: BadBlockLog::of(inspection),
            corrected_reads: sb.corrected_reads,
            logical_block_bytes: (sb.logical_block_size != 0).then_some(sb.logical_block_size),
            checksum: format!("{:08x}", inspection.checksum),
            // A superblock with another one is refused before it gets here.
            checksum_correct: true,
            events: sb.events,
            device_number: sb.dev_number,
            device_role: role(sb),
            array_state: array_state(sb),
        }
    }

    /// The same for people, a fact a line.
    fn text(&self) -> String {
        let mut page = Page::new(&self.disk);
        page.fact("Magic", &self.magic);
        page.fact("Version", &self.version);
        page.fact("Feature Map", format_args!("{:#x}{}", self.feature_map, listed(&self.features)));
        page.fact("Array UUID", &self.array_uuid);
        page.fact("Name", &self.name);
        page.fact("Creation Time", local(self.created.as_deref()));
        self.describe_geometry(&mut page);
        self.describe_places(&mut page);
        self.describe_state(&mut page);
        page.text
    }

    fn describe_geometry(&self, page: &mut Page) {
        page.gap();
        page.fact(
            "Raid Level",
            self.level.clone().unwrap_or_else(|| format!("unknown ({})", self.level_number)),
        );
        page.fact("Raid Devices", self.raid_devices);
        if let Some(layout) = &self.layout {
            page.fact("Layout", layout);
        }
        if self.chunk_bytes > 0 {
            page.fact("Chunk Size", size::bytes(self.chunk_bytes));
        }
        page.fact("Avail Dev Size", sectors(self.available_bytes));
        if let Some(bytes) = self.array_bytes {
            page.fact("Array Size", sectors(bytes));
        }
        page.fact("Used Dev Size", sectors(self.used_bytes));
        if let Some(reshape) = &self.reshape {
            page.fact("Reshape pos'n", sectors(reshape.position_bytes));
            let (old, new) = (reshape.old_devices, self.raid_devices);
            let old = old.map_or_else(|| "?".to_owned(), |old| old.to_string());
            page.fact("Delta Devices", format_args!("{:+} ({old} to {new})", reshape.delta_devices));
            let level = Level::from_md_number(reshape.new_level);
            let layout = level.and_then(|level| layout_name(level, reshape.new_layout));
            page.fact(
                "New Level",
                level.map_or_else(|| reshape.new_level.to_string(), |level| level.to_string()),
            );
            page.fact("New Layout", layout.unwrap_or_else(|| reshape.new_layout.to_string()));
            page.fact("New Chunk", size::bytes(reshape.new_chunk_bytes));
            page.fact("New Offset", format_args!("{:+} sectors", reshape.new_offset_sectors));
            page.fact("Direction", if reshape.backwards { "backwards" } else { "forwards" });
        }
    }

    fn describe_places(&self, page: &mut Page) {
        page.gap();
        page.fact("Data Offset", sectors(self.data_offset_bytes));
        page.fact("Super Offset", sectors(self.super_offset_bytes));
        let (before, after) = (self.unused_before_bytes / 512, self.unused_after_bytes / 512);
        page.fact("Unused Space", format_args!("before={before} sectors, after={after} sectors"));
        if let Some(bitmap) = &self.bitmap {
            let stale = if bitmap.stale { ", stale" } else { "" };
            let chunk = size::bytes(bitmap.chunk_bytes.into());
            let (offset, events) = (bitmap.offset_sectors, bitmap.events);
            let place = format!("{offset:+} sectors from superblock, chunk {chunk}, {events} events{stale}");
            let (set, all) = (bitmap.set_chunks, bitmap.chunks);
            page.fact("Internal Bitmap", format_args!("{place}, {set} of {all} chunks dirty"));
        }
        if let Some(ppl) = &self.ppl {
            let entries = ppl.entries.map(|entries| format!(", {entries} entries")).unwrap_or_default();
            let (offset, bytes) = (ppl.offset_sectors, size::bytes(ppl.size_bytes));
            page.fact("PPL", format_args!("{offset:+} sectors from superblock, {bytes}{entries}"));
        }
        if let Some(log) = &self.bad_block_log {
            let room = log.size_bytes / 8;
            let (offset, count) = (log.offset_sectors, log.entries.len());
            let place = format_args!("{offset:+} sectors from superblock, {count} of {room} entries in use");
            page.fact("Bad Block Log", place);
            for bad in &log.entries {
                page.fact(
                    "",
                    format_args!("sector {}, {} sectors", bad.offset_bytes / 512, bad.length_bytes / 512),
                );
            }
        }
    }

    fn describe_state(&self, page: &mut Page) {
        page.gap();
        page.fact("State", self.state);
        if let Some(bytes) = self.resync_bytes {
            page.fact("Resync Offset", sectors(bytes));
        }
        if let Some(bytes) = self.recovery_bytes {
            page.fact("Recovery Offset", sectors(bytes));
        }
        page.fact("Device UUID", &self.device_uuid);
        if !self.device_flags.is_empty() {
            page.fact("Flags", self.device_flags.join(" "));
        }
        page.fact("Update Time", local(self.updated.as_deref()));
        if self.corrected_reads > 0 {
            page.fact("Corrected Reads", self.corrected_reads);
        }
        if let Some(bytes) = self.logical_block_bytes {
            page.fact("Logical Block", size::bytes(bytes.into()));
        }
        page.fact("Checksum", format_args!("{} - correct", self.checksum));
        page.fact("Events", self.events);
        page.fact("Device Number", self.device_number);
        page.fact("Device Role", &self.device_role);
        let legend = "('A' active, '.' missing, 'R' being replaced)";
        page.fact("Array State", format_args!("{} {legend}", self.array_state));
    }
}

impl Bitmap {
    fn of(inspection: &Inspection) -> Option<Bitmap> {
        let Ok(facts) = inspection.bitmap.as_ref()? else { return None };
        let header = &facts.header;
        Some(Bitmap {
            offset_sectors: inspection.superblock.bitmap_offset,
            chunk_bytes: header.chunk_bytes,
            events: header.events,
            events_cleared: header.events_cleared,
            covers_bytes: header.sync_size.bytes(),
            stale: header.is_stale(),
            set_chunks: facts.set,
            chunks: facts.bits,
        })
    }
}

impl Ppl {
    fn of(inspection: &Inspection) -> Option<Ppl> {
        let sb = &inspection.superblock;
        sb.features.has_ppl().then(|| Ppl {
            offset_sectors: sb.ppl.offset,
            size_bytes: Sectors(sb.ppl.size.into()).bytes(),
            entries: inspection.ppl_entries.as_ref().and_then(|entries| entries.as_ref().ok().copied()),
        })
    }
}

impl Reshape {
    fn of(sb: &Superblock) -> Option<Reshape> {
        let reshape = sb.reshape?;
        Some(Reshape {
            position_bytes: reshape.position.bytes(),
            delta_devices: reshape.delta_disks,
            old_devices: sb.old_raid_disks(),
            new_level: reshape.new_level,
            new_layout: reshape.new_layout,
            new_chunk_bytes: reshape.new_chunk.bytes(),
            new_offset_sectors: reshape.new_offset,
            backwards: reshape.backwards,
        })
    }
}

impl BadBlockLog {
    fn of(inspection: &Inspection) -> Option<BadBlockLog> {
        let log = inspection.superblock.bblog;
        let bytes = |sectors: u64| Sectors(sectors).bytes();
        let entry = |&(start, length): &(DiskLba, Sectors)| BadBlocks {
            offset_bytes: start.bytes(),
            length_bytes: length.bytes(),
        };
        (log.offset != 0 && log.size != 0).then(|| BadBlockLog {
            offset_sectors: log.offset,
            size_bytes: bytes(log.size.into()),
            shift: log.shift,
            entries: inspection.bad_blocks.iter().map(entry).collect(),
        })
    }
}

/// Facts under each other, their colons in a column.
struct Page {
    text: String,
}

impl Page {
    fn new(disk: &str) -> Page {
        Page { text: format!("{disk}:\n") }
    }

    fn fact(&mut self, title: &str, fact: impl std::fmt::Display) {
        let colon = if title.is_empty() { ' ' } else { ':' };
        self.text += &format!("{title:>17} {colon} {fact}\n");
    }

    fn gap(&mut self) {
        self.text.push('\n');
    }
}

/// The bitmap's header, if it can be read.
fn bitmap_header(inspection: &Inspection) -> Option<&uraid::format::bitmap::Header> {
    Some(&inspection.bitmap.as_ref()?.as_ref().ok()?.header)
}

/// What of the data area is in use: the component size, or all of it for levels that use each member as it
/// is.
fn used(sb: &Superblock) -> Sectors {
    if sb.size.0 == 0 { sb.data_size } else { sb.size }
}

/// Free room before the data, behind all that lies there, and behind the data in use.
fn unused(inspection: &Inspection) -> (Sectors, Sectors) {
    let sb = &inspection.superblock;
    let superblock = sb.super_offset.0.saturating_add(8);
    let bitmap = sb.bitmap_at().zip(bitmap_header(inspection)).map(|(start, header)| {
        let in_use = Sectors(header.bytes_used().div_ceil(512)).0;
        start.0.saturating_add(in_use.max(header.sectors_reserved.into()))
    });
    let ppl = sb.ppl_area().map(|area| area.end().0);
    let bad_blocks = sb.bblog_area().map(|area| area.end().0);
    // Those of a 1.0 superblock lie behind the data.
    let data = sb.data_offset.0;
    let ends = [Some(superblock), bitmap, ppl, bad_blocks];
    let before = ends.into_iter().flatten().filter(|end| *end <= data).max().unwrap_or(0);
    (Sectors(data - before), Sectors(sb.data_size.0.saturating_sub(used(sb).0)))
}

/// What the member is in the LU.
fn role(sb: &Superblock) -> String {
    match sb.my_role() {
        Role::Active(slot) if sb.features.contains(Features::REPLACEMENT) => {
            format!("replacement for {slot}")
        }
        Role::Active(slot) => format!("active device {}", slot.0),
        other => other.to_string(),
    }
}

/// A letter a slot, by the member's own table: `A` filled, `.` empty, `R` filled twice. While a reshape makes
/// the LU smaller the old slots are still in use.
fn array_state(sb: &Superblock) -> String {
    let slots = sb.raid_disks.max(sb.old_raid_disks().unwrap_or(0)).min(u32::from(Role::FIRST_SPECIAL));
    let slots = usize::try_from(slots).unwrap_or(0).min(uraid::units::MAX_SLOTS);
    let mut filled = vec![0_u32; slots];
    for &role in &sb.roles {
        if let Some(count) = filled.get_mut(usize::from(role)) {
            *count += 1;
        }
    }
    let letter = |count: u32| match count {
        0 => '.',
        1 => 'A',
        _ => 'R',
    };
    filled.into_iter().map(letter).collect()
}

fn device_flags(sb: &Superblock) -> Vec<&'static str> {
    let flags = [(WRITE_MOSTLY, "write-mostly"), (FAILFAST, "failfast")];
    flags.into_iter().filter(|(bit, _)| sb.devflags & bit != 0).map(|(_, name)| name).collect()
}

fn layout_name(level: Level, number: u32) -> Option<String> {
    let name = Layout::from_md(level, number)
        .map_or_else(|_| format!("unknown ({number})"), |layout| layout.to_string());
    (name != "-").then_some(name)
}

fn words(features: Features) -> Vec<String> {
    match features.0 {
        0 => Vec::new(),
        _ => features.to_string().split_whitespace().map(str::to_owned).collect(),
    }
}

fn listed(features: &[String]) -> String {
    if features.is_empty() { String::new() } else { format!(" ({})", features.join(", ")) }
}

fn sectors(bytes: u64) -> String {
    format!("{} sectors ({})", bytes / 512, size::bytes(bytes))
}

fn rfc3339(time: Time) -> Option<String> {
    json::timestamp(time).map(|timestamp| timestamp.to_string())
}

/// The time where the reader is.
fn local(time: Option<&str>) -> String {
    let zoned = time
        .and_then(|time| time.parse::<jiff::Timestamp>().ok())
        .map(|timestamp| timestamp.to_zoned(jiff::tz::TimeZone::system()));
    zoned.map_or_else(|| "never".to_owned(), |zoned| zoned.strftime("%Y-%m-%d %H:%M:%S %:z").to_string())
}
