//! What a write owes the partial parity log: which data cells it modifies, in which rows, and where the sum
//! of the others is.
//!
//! An *entry* speaks of rows in units of [`LOG_ROWS`] and of data cells that follow each other, all of them
//! modified in all of its rows. After a crash each modified block may be old or new; the parity is made to
//! agree with what is found by adding it to the *partial parity*, the sum of the blocks that were not
//! modified. So no block outside the entry depends on what became of the write.
//!
//! A reader leaves a row alone if one of the modified cells is gone. Hence a cell must not be called modified
//! in a row in which only others are written: it would be lost with them. Writes of which a row would need
//! that are not [`expressible`] and are not planned together.

use super::{Buf, Piece, Rows};
use crate::units::{Lba, SECTOR, Sectors};

/// Rows that are logged together: the log knows blocks of 4 KiB.
pub const LOG_ROWS: u32 = 8;

/// One entry of the log, before it has a checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogPart {
    /// First sector of the LU that is being modified, rounded down to [`LOG_ROWS`].
    pub at: Lba,
    /// The rows, a multiple of [`LOG_ROWS`].
    pub rows: Rows,
    /// How many data cells are modified, each following the one before.
    pub cells: u16,
    /// The partial parity of these rows; `None` if all data cells are modified.
    pub parity: Option<Buf>,
}

impl LogPart {
    /// Bytes being modified, over all cells: `data_size` of the entry.
    pub const fn data_bytes(&self) -> u32 {
        self.rows.len() * self.cells as u32 * SECTOR as u32
    }

    /// Bytes of partial parity: `pp_size` of the entry.
    pub const fn parity_bytes(&self) -> u32 {
        if self.parity.is_some() { self.rows.len() * SECTOR as u32 } else { 0 }
    }

    /// Does an entry for the same cells go on where this one ends?
    pub(super) fn goes_on(&self, other: &LogPart) -> bool {
        let follows = self.rows.end == other.rows.start && self.cells == other.cells;
        let same_cells = self.at + Sectors(u64::from(self.rows.len())) == other.at;
        let parity = match (self.parity, other.parity) {
            (Some(a), Some(b)) => a.base == b.base && a.sector + self.rows.len() == b.sector,
            (None, None) => true,
            _ => false,
        };
        follows && same_cells && parity
    }
}

impl Rows {
    /// These rows and the rest of the units of [`LOG_ROWS`] that they begin and end in.
    pub const fn logged(self) -> Rows {
        Rows::new(self.start - self.start % LOG_ROWS, self.end.next_multiple_of(LOG_ROWS))
    }
}

/// Can the log say what these pieces modify? In every unit of [`LOG_ROWS`], all rows that are written at all
/// must be written in the same cells, and these must follow each other. One piece alone always can be told.
pub fn expressible(pieces: &[Piece]) -> bool {
    let edges = pieces.iter().flat_map(|piece| [piece.rows.start, piece.rows.end]);
    pieces.len() < 2 || edges.flat_map(|row| [row, row - row % LOG_ROWS]).all(|row| uniform(pieces, row))
}

/// Is `row` either not written, or written in all cells that are written in its unit, which follow each
/// other?
fn uniform(pieces: &[Piece], row: u32) -> bool {
    let unit = Rows::new(row, row + 1).logged();
    let (mut first, mut last, mut count) = (u16::MAX, 0, 0);
    for piece in pieces.iter().filter(|piece| piece.rows.overlaps(Rows::new(row, row + 1))) {
        (first, last, count) = (first.min(piece.data), last.max(piece.data), count + 1);
    }
    let mut others = pieces.iter().filter(|piece| piece.rows.overlaps(unit));
    count == 0 || (u32::from(last - first) + 1 == count && others.all(|p| (first..=last).contains(&p.data)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(data: u16, start: u32, end: u32) -> Piece {
        Piece { data, rows: Rows::new(start, end) }
    }

    #[test]
    fn what_one_entry_can_say() {
        let yes = |pieces: &[Piece]| assert!(expressible(pieces), "{pieces:?}");
        let no = |pieces: &[Piece]| assert!(!expressible(pieces), "{pieces:?}");
        yes(&[]);
        yes(&[piece(2, 3, 5)]);
        yes(&[piece(1, 0, 16), piece(2, 0, 16)]);
        yes(&[piece(1, 3, 5), piece(2, 3, 5)]);
        // Each in units of its own.
        yes(&[piece(0, 5, 7), piece(2, 8, 10)]);
        yes(&[piece(0, 0, 3), piece(0, 5, 8)]);
        yes(&[piece(0, 24, 64), piece(1, 0, 64), piece(2, 0, 8)]);
        no(&[piece(0, 0, 8), piece(2, 0, 8)]);
        no(&[piece(0, 5, 7), piece(1, 3, 6)]);
        no(&[piece(0, 0, 16), piece(1, 12, 16)]);
        no(&[piece(0, 0, 16), piece(1, 8, 12)]);
        no(&[piece(0, 0, 3), piece(1, 3, 8)]);
    }

    /// Against the definition, row by row.
    #[test]
    fn small_bands_exhaustively() {
        let runs: Vec<(u32, u32)> = (0..10).flat_map(|s| (s + 1..=10).map(move |e| (s * 2, e * 2))).collect();
        let mut told = 0;
        for &(a, b) in &runs {
            for &(c, d) in &runs {
                for (x, y) in [(0, 1), (0, 2), (1, 0)] {
                    let pieces = [piece(x, a, b), piece(y, c, d)];
                    let written = |row| -> Vec<u16> {
                        let covers = |p: &&Piece| (p.rows.start..p.rows.end).contains(&row);
                        let mut cells: Vec<u16> = pieces.iter().filter(covers).map(|p| p.data).collect();
                        cells.sort_unstable();
                        cells
                    };
                    let unit_is_fine = |unit: u32| {
                        let mut all: Vec<Vec<u16>> = (unit * 8..unit * 8 + 8).map(written).collect();
                        all.retain(|cells| !cells.is_empty());
                        let gap = |cells: &Vec<u16>| cells.windows(2).any(|w| w[0] + 1 != w[1]);
                        all.windows(2).all(|w| w[0] == w[1]) && !all.iter().any(gap)
                    };
                    let wanted = (0..3).all(unit_is_fine);
                    assert_eq!(expressible(&pieces), wanted, "{pieces:?}");
                    told += usize::from(wanted);
                }
            }
        }
        assert!(told > 1000);
    }

    use alloc::vec::Vec;
}
