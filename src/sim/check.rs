//! Looks at the disks of an LU at rest: does redundancy agree in every row, and is every sector what the oracle permits, also
//! without each single member? Works on copies; nothing of the world changes.

use std::sync::Arc;

use crate::disk::{AlignedBuf, Backend};
use crate::geometry::{CellKind, Geometry};
use crate::lu::machine::{How, Machine};
use crate::parity::{Kernels, Source, Target, gf};
use crate::units::{SECTOR, Sectors, Slot, Stripe};

use super::disk::{Bytes, SimDisks};

/// Bytes read at a time.
const WINDOW: usize = 64 * 1024;

/// Where the data of each slot is: platter and first sector.
pub(super) type Wires = Vec<Option<(usize, u64)>>;

/// Do all copies agree, and parity with the data, in every row all of whose slots are there?
///
/// # Errors
/// The first row in which they do not.
pub(super) fn rows_agree(disks: &SimDisks, geometry: &Geometry, wires: &Wires) -> Result<(), String> {
    for stripe in 0..geometry.stripes() {
        let map = geometry.stripe(Stripe(stripe));
        for row in 0..map.rows() {
            let mut cells: Vec<(CellKind, Bytes)> = Vec::new();
            for index in 0..map.cells() {
                let cell = map.cell(index);
                let Some((platter, start)) = wires.get(cell.slot.index()).copied().flatten() else { break };
                let at = start + (cell.at + Sectors(u64::from(row))).0;
                cells.push((cell.kind, disks.peek(platter, at)));
            }
            if cells.len() < usize::from(map.cells()) {
                continue;
            }
            let powers: Vec<u8> = (0..geometry.data_cells()).map(|data| map.q_power(data)).collect();
            if let Some(kind) = disagreeing(&cells, &powers) {
                return Err(format!("stripe {stripe} row {row}: {kind:?} does not agree with the data"));
            }
        }
    }
    Ok(())
}

fn disagreeing(cells: &[(CellKind, Bytes)], powers: &[u8]) -> Option<CellKind> {
    let data = cells.iter().filter(|(kind, _)| matches!(kind, CellKind::Data(_)));
    let terms: Vec<Source<'_>> = data
        .zip(powers)
        .map(|((_, bytes), &power)| Source { bytes, coef: [1, gf::exp(u32::from(power))] })
        .collect();
    let first = cells.first()?.1;
    let (mut p, mut q) = ([0; SECTOR as usize], [0; SECTOR as usize]);
    Kernels::portable().combine(Target::Two(&mut p, &mut q), &terms, false);
    let wrong = |kind: CellKind, bytes: &Bytes| match kind {
        CellKind::Data(_) => false,
        CellKind::Copy => *bytes != first,
        CellKind::P => *bytes != p,
        CellKind::Q => *bytes != q,
    };
    cells.iter().find(|(kind, bytes)| wrong(*kind, bytes)).map(|(kind, _)| *kind)
}

/// What became of looking at an LU.
pub(super) enum Look {
    /// All its bytes; `None` for a window that could not be read.
    Read(Vec<(u64, Option<Vec<u8>>)>),
    /// It does not start.
    Refused(String),
}

/// Reads the whole LU from `disks` (calm ones) but for the platters `away`.
pub(super) fn look(disks: &SimDisks, platters: &[usize]) -> Look {
    let offered: Arc<dyn Backend> = disks.offer(platters.to_vec());
    let how = How { degraded: true, scratch: 64 << 10, ..How::default() };
    let machine = match Machine::assemble(offered, &how) {
        Ok(machine) => machine,
        Err(error) => return Look::Refused(error.to_string()),
    };
    let size = machine.geometry().size().bytes();
    let mut queue = match machine.queue(8) {
        Ok(queue) => queue,
        Err(error) => return Look::Refused(error.to_string()),
    };
    let (mut windows, mut done) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < size {
        let len = (size - at).min(WINDOW as u64) as usize;
        let sent = queue.read(at, AlignedBuf::new(len), at);
        for _ in 0..64 {
            queue.poll(&mut done, None);
            if sent.is_err() || !done.is_empty() {
                break;
            }
        }
        let bytes = done.pop().filter(|done| done.result.is_ok()).and_then(|done| done.buffer);
        windows.push((at / SECTOR, bytes.map(|buffer| buffer.to_vec())));
        done.clear();
        at += len as u64;
    }
    Look::Read(windows)
}

/// The platters but for that of one slot.
pub(super) fn without(all: &[usize], wires: &Wires, slot: Slot) -> Vec<usize> {
    let away = wires.get(slot.index()).copied().flatten().map(|wire| wire.0);
    all.iter().copied().filter(|&platter| Some(platter) != away).collect()
}
