//! The golden images: arrays made by the kernel's own md driver, for every test that wants real bytes.
//!
//! `tests/golden/manifest.json` says what each of them is and what a reader must find; an archive beside it
//! holds the members. Everything is unpacked into memory; nothing here needs a privilege, a tool or the
//! library under test.
#![allow(dead_code, unreachable_pub)] // each test crate uses its own part of this

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

pub mod fuzz_bodies;

/// One array, as the manifest describes it. Lengths and places are in sectors of 512 bytes unless a name says
/// else.
#[derive(Clone, Debug, Deserialize)]
pub struct GoldenCase {
    pub name: String,
    archive: String,
    /// `1.0`, `1.1` or `1.2`.
    pub metadata: String,
    pub level: i32,
    pub layout: u32,
    pub chunk_sectors: u64,
    pub raid_disks: u32,
    pub component_sectors: u64,
    pub array_sectors: u64,
    /// Hexadecimal, without punctuation.
    pub set_uuid: String,
    pub uuid_text: String,
    pub set_name: String,
    /// What is special: `clean`, `dirty`, `degraded`...
    pub state: String,
    /// Of the freshest member.
    pub events: u64,
    pub resync_offset: u64,
    pub missing_roles: Vec<u16>,
    /// What the content is made with.
    #[serde(rename = "const")]
    pub constant: u64,
    pub kernel_mismatch_cnt: Option<u64>,
    pub members: Vec<Member>,
    /// Ranges written later, with another constant.
    #[serde(default)]
    pub segments: Vec<Segment>,
    /// The content ends here; zeros follow.
    pub filled_sectors: Option<u64>,
    #[serde(default)]
    pub badblocks: Vec<BadRange>,
    #[serde(default)]
    pub ppl_entries: Vec<PplEntry>,
    pub reshape: Option<Reshape>,
    /// SHA-256 of the content, hexadecimal.
    pub expected_sha256: String,
}

/// A member of a case.
#[derive(Clone, Debug, Deserialize)]
pub struct Member {
    pub file: String,
    /// Its slot; none for a spare.
    pub role: Option<i64>,
    /// `active`, `stale`, `spare`, `rebuilding`, `replacement`.
    pub state: String,
    pub dev_number: u32,
    pub image_sectors: u64,
    pub sb: Fields,
    /// The image; filled in by [`cases`].
    #[serde(skip)]
    pub image: Vec<u8>,
}

/// Fields of a member's superblock, as an independent reader found them.
#[derive(Clone, Debug, Deserialize)]
pub struct Fields {
    pub super_offset: u64,
    pub feature_map: u32,
    pub data_offset: u64,
    pub data_size: u64,
    pub recovery_offset: u64,
    pub new_offset: i32,
    pub bitmap_offset: i32,
    pub devflags: u8,
    pub bblog_offset: i32,
    pub bblog_size: u16,
    pub events: u64,
    pub resync_offset: u64,
    pub utime: u64,
    pub device_uuid: String,
    pub role: serde_json::Value,
    pub max_dev: u32,
}

/// A range of the array with its own constant.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Segment {
    pub first: u64,
    pub count: u64,
    #[serde(rename = "const")]
    pub constant: u64,
}

/// A range of a member's data that is on its bad-block list.
#[derive(Clone, Debug, Deserialize)]
pub struct BadRange {
    pub member: String,
    pub dev_data_sector: u64,
    pub sectors: u64,
}

/// An entry of a member's newest partial parity log.
#[derive(Clone, Debug, Deserialize)]
pub struct PplEntry {
    pub member: String,
    /// From the start of the log's area.
    pub header_sector: u64,
    pub generation: u64,
    pub data_sector: u64,
    pub pp_size: u32,
    pub data_size: u32,
    pub parity_disk: u32,
}

/// The reshape a case was caught in.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Reshape {
    pub reshape_position: u64,
    pub delta_disks: i32,
    pub new_level: i32,
    pub new_layout: u32,
    pub new_chunk: u64,
}

#[derive(Deserialize)]
struct Manifest {
    schema: u32,
    cases: Vec<GoldenCase>,
}

/// The directory of the archives.
pub fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// All cases with their members' images: some 130 MB. A test that wants few of them takes [`case`].
pub fn cases() -> Vec<GoldenCase> {
    manifest().into_iter().map(with_images).collect()
}

/// The cases whose name `wanted` accepts, with their members' images.
pub fn cases_named(wanted: impl Fn(&str) -> bool) -> Vec<GoldenCase> {
    manifest().into_iter().filter(|case| wanted(&case.name)).map(with_images).collect()
}

/// The case `name`, with its members' images.
pub fn case(name: &str) -> GoldenCase {
    cases_named(|other| other == name).pop().unwrap_or_else(|| panic!("no golden case {name}"))
}

/// What the array holds, sector after sector: 64 copies of the little-endian number of the sector xor the
/// constant.
pub fn expected(case: &GoldenCase) -> Vec<u8> {
    let filled = case.filled_sectors.unwrap_or(case.array_sectors);
    let mut content = Vec::with_capacity(case.array_sectors as usize * 512);
    for sector in 0..filled.min(case.array_sectors) {
        let covers = |segment: &&Segment| (segment.first..segment.first + segment.count).contains(&sector);
        let constant = case.segments.iter().find(covers).map_or(case.constant, |segment| segment.constant);
        for _ in 0..64 {
            content.extend_from_slice(&(sector ^ constant).to_le_bytes());
        }
    }
    content.resize(case.array_sectors as usize * 512, 0);
    content
}

impl GoldenCase {
    /// Writes the members' images into `directory` and returns their paths, in the manifest's order.
    pub fn write_images(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        let write = |member: &Member| {
            let path = directory.join(&member.file);
            fs::write(&path, &member.image).map(|()| path)
        };
        self.members.iter().map(write).collect()
    }

    /// The member in the file `file`.
    pub fn member(&self, file: &str) -> &Member {
        self.members.iter().find(|member| member.file == file).unwrap_or_else(|| panic!("no member {file}"))
    }
}

impl Member {
    /// `sectors` sectors of the image from `start` on.
    pub fn sectors(&self, start: u64, sectors: u64) -> &[u8] {
        &self.image[start as usize * 512..][..sectors as usize * 512]
    }

    /// Reads from the image, as the library wants to be handed a disk.
    pub fn read(&self, at: uraid::units::DiskLba, buffer: &mut [u8]) -> uraid::Result<()> {
        let from = at.0 as usize * 512;
        let part = self.image.get(from..from + buffer.len());
        buffer.copy_from_slice(part.unwrap_or_else(|| panic!("read past the end of {}", self.file)));
        Ok(())
    }
}

fn manifest() -> Vec<GoldenCase> {
    let file = File::open(golden_dir().join("manifest.json")).expect("the manifest");
    let manifest: Manifest =
        serde_json::from_reader(io::BufReader::new(file)).expect("a manifest as described here");
    assert_eq!(manifest.schema, 1);
    manifest.cases
}

fn with_images(mut case: GoldenCase) -> GoldenCase {
    let packed = fs::read(golden_dir().join(&case.archive)).expect("the archive of a case");
    let decoder = ruzstd::decoding::StreamingDecoder::new(packed.as_slice()).expect("a zstd stream");
    let mut archive = tar::Archive::new(decoder);
    for entry in archive.entries().expect("a tar archive") {
        let mut entry = entry.expect("an entry of a tar archive");
        let path = entry.path().expect("a path").into_owned();
        let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if let Some(member) = case.members.iter_mut().find(|member| member.file == file) {
            entry.read_to_end(&mut member.image).expect("an image");
        }
    }
    for member in &case.members {
        assert_eq!(member.image.len() as u64, member.image_sectors * 512, "{} {}", case.name, member.file);
    }
    case
}
