//! [`Layout`]: a level with md's layout number, checked, and its names.
//!
//! Here the number on disk gets its meaning; how a layout places chunks is told in the files beside this one.
//! A `Layout` that exists has a number that its level knows. Whether it suits a count of members is for
//! [`Geometry::new`](super::Geometry::new) to say.

use alloc::format;
use core::fmt;

use crate::error::{Error, ErrorKind, Result};
use crate::units::Level;

/// RAID0: the superblock does not say which of the two layouts several zones follow.
pub(super) const UNSET: u32 = 0;
/// RAID0 with several zones: the index in a zone counts chunks from the start of the LU.
pub(super) const ORIGINAL: u32 = 1;
/// RAID0 with several zones: the index in a zone counts chunks from the start of the zone.
pub(super) const ALTERNATE: u32 = 2;

/// How a level lays its chunks out: the level and md's `layout` number for it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Layout {
    level: Level,
    number: u32,
}

impl Layout {
    /// The layout that md's number stands for.
    ///
    /// Linear, RAID1 and RAID4 have no layouts: md ignores the number there (its own conversion from RAID0 to
    /// RAID4 leaves 5), so it is kept and means nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Format`] if the level knows no such number. For RAID10 that includes fewer than two
    /// copies.
    pub fn from_md(level: Level, number: u32) -> Result<Layout> {
        let known = match level {
            Level::Linear | Level::Raid1 | Level::Raid4 => true,
            Level::Raid0 => number <= ALTERNATE,
            Level::Raid5 | Level::Raid6 => names(level).any(|name| name.number == number),
            Level::Raid10 => Copies::decode(number).is_some(),
        };
        if known {
            Ok(Layout { level, number })
        } else {
            Err(Error::new(
                ErrorKind::Format,
                format!("{level} has no layout {number:#x} that is known here"),
            ))
        }
    }

    /// md's number, as a superblock stores it.
    pub const fn md_number(self) -> u32 {
        self.number
    }

    /// The level.
    pub const fn level(self) -> Level {
        self.level
    }

    /// What an LU of this level gets if nobody asks for something else; the same as mdadm's choice.
    pub const fn default_for(level: Level) -> Layout {
        let number = match level {
            Level::Linear | Level::Raid1 | Level::Raid4 => 0,
            Level::Raid0 => ORIGINAL,
            Level::Raid5 | Level::Raid6 => 2,
            Level::Raid10 => 0x102,
        };
        Layout { level, number }
    }

    /// The layout of that name: what [`Display`](fmt::Display) prints, md's short names (`ls`, `ra-6`), or
    /// `default`. Upper and lower case are the same. RAID10: `n2`, `f3`, `o2`, mixed `n2f2`, with far copies
    /// kept inside sets of members `f2-sets` (`f2-oldsets` for md's first, faulty notion of it).
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for any other name.
    pub fn parse(level: Level, name: &str) -> Result<Layout> {
        let wanted = name.trim();
        let number = if wanted.eq_ignore_ascii_case("default") {
            Some(Layout::default_for(level).number)
        } else if level == Level::Raid10 {
            Copies::parse(wanted).map(Copies::encode)
        } else {
            names(level)
                .find(|known| {
                    known.long.eq_ignore_ascii_case(wanted) || known.short.eq_ignore_ascii_case(wanted)
                })
                .map(|known| known.number)
        };
        number.and_then(|number| Layout::from_md(level, number).ok()).ok_or_else(|| {
            let example = Layout::default_for(level);
            Error::new(
                ErrorKind::Usage,
                format!("{level} has no layout \"{wanted}\"; the usual one is {example}"),
            )
        })
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Level::Raid10, Some(copies)) = (self.level, Copies::decode(self.number)) {
            return f.pad(&format!("{copies}"));
        }
        f.pad(names(self.level).find(|known| known.number == self.number).map_or("-", |known| known.long))
    }
}

/// RAID10's number taken apart: how many copies, and where they go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Copies {
    /// Copies side by side on consecutive members; at least 1.
    pub(super) near: u16,
    /// Copies of those further down the members; at least 1.
    pub(super) far: u16,
    /// Far copies follow each row directly, instead of filling the next part of the members.
    pub(super) offset: bool,
    /// Which members a far copy may go to.
    pub(super) sets: Sets,
}

/// Where far copies may go: each set of consecutive members keeps its copies to itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sets {
    /// One set of all members.
    One,
    /// As many sets as far copies (bit 17): md's first attempt, in which copies could meet on one member.
    Old,
    /// Sets of `near * far` members (bit 18).
    Copies,
}

impl Copies {
    const OFFSET: u32 = 1 << 16;

    /// `near | far << 8 | offset << 16 | sets << 17`; `None` if that is not what the number is.
    pub(super) fn decode(number: u32) -> Option<Copies> {
        let sets = match number >> 17 {
            0 => Sets::One,
            1 => Sets::Old,
            2 => Sets::Copies,
            _ => return None,
        };
        let (near, far) = ((number & 0xff) as u16, (number >> 8 & 0xff) as u16);
        // One copy is no mirror: md refuses it too.
        (near * far >= 2).then_some(Copies { near, far, offset: number & Copies::OFFSET != 0, sets })
    }

    fn encode(self) -> u32 {
        let offset = if self.offset { Copies::OFFSET } else { 0 };
        let sets = match self.sets {
            Sets::One => 0,
            Sets::Old => 1 << 17,
            Sets::Copies => 1 << 18,
        };
        u32::from(self.near) | u32::from(self.far) << 8 | offset | sets
    }

    fn parse(name: &str) -> Option<Copies> {
        let mut copies = Copies { near: 1, far: 1, offset: false, sets: Sets::One };
        let (mut rest, sets) = name.split_once('-').map_or((name, None), |(rest, sets)| (rest, Some(sets)));
        match sets {
            None => {}
            Some(sets) if sets.eq_ignore_ascii_case("sets") => copies.sets = Sets::Copies,
            Some(sets) if sets.eq_ignore_ascii_case("oldsets") => copies.sets = Sets::Old,
            Some(_) => return None,
        }
        if rest.starts_with(['n', 'N']) {
            (copies.near, rest) = number(&rest[1..])?;
            if rest.is_empty() {
                return Some(copies);
            }
        }
        copies.offset = rest.starts_with(['o', 'O']);
        if !copies.offset && !rest.starts_with(['f', 'F']) {
            return None;
        }
        (copies.far, rest) = number(&rest[1..])?;
        rest.is_empty().then_some(copies)
    }
}

/// The leading decimal number, 1 to 255, and what follows it.
fn number(text: &str) -> Option<(u16, &str)> {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let number: u8 = text[..end].parse().ok()?;
    (number > 0).then_some((u16::from(number), &text[end..]))
}

impl fmt::Display for Copies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let far_letter = if self.offset { 'o' } else { 'f' };
        let has_far = self.far > 1 || self.offset;
        if self.near > 1 || !has_far {
            write!(f, "n{}", self.near)?;
        }
        if has_far {
            write!(f, "{far_letter}{}", self.far)?;
        }
        f.write_str(match self.sets {
            Sets::One => "",
            Sets::Old => "-oldsets",
            Sets::Copies => "-sets",
        })
    }
}

/// A layout number and what people call it.
#[derive(Clone, Copy)]
struct Name {
    number: u32,
    long: &'static str,
    short: &'static str,
}

/// The names a level knows; RAID10's are made from its parts instead.
fn names(level: Level) -> impl Iterator<Item = Name> {
    let (first, then) = match level {
        Level::Linear | Level::Raid1 | Level::Raid4 => (&NO_LAYOUT[..], &[][..]),
        Level::Raid0 => (&RAID0[..], &[][..]),
        Level::Raid5 => (&ROTATIONS[..], &[][..]),
        Level::Raid6 => (&ROTATIONS[..], &RAID6[..]),
        Level::Raid10 => (&[][..], &[][..]),
    };
    first.iter().chain(then).map(|&(number, long, short)| Name { number, long, short })
}

type Row = (u32, &'static str, &'static str);

const NO_LAYOUT: [Row; 1] = [(0, "-", "-")];

const RAID0: [Row; 3] =
    [(UNSET, "-", "-"), (ORIGINAL, "original", "original"), (ALTERNATE, "alternate", "alternate")];

/// RAID5, and RAID6 with Q beside P.
const ROTATIONS: [Row; 6] = [
    (0, "left-asymmetric", "la"),
    (1, "right-asymmetric", "ra"),
    (2, "left-symmetric", "ls"),
    (3, "right-symmetric", "rs"),
    (4, "parity-first", "pf"),
    (5, "parity-last", "pl"),
];

/// RAID6 alone: the layouts of DDF, and RAID5's with a Q member added.
const RAID6: [Row; 8] = [
    (8, "ddf-zero-restart", "ddf-zero-restart"),
    (9, "ddf-N-restart", "ddf-N-restart"),
    (10, "ddf-N-continue", "ddf-N-continue"),
    (16, "left-asymmetric-6", "la-6"),
    (17, "right-asymmetric-6", "ra-6"),
    (18, "left-symmetric-6", "ls-6"),
    (19, "right-symmetric-6", "rs-6"),
    (20, "parity-first-6", "pf-6"),
];
