//! The exhaustive planner test: every plan for small stripes is executed on one byte per sector and compared with what
//! the stripe must hold. Each shape is taken with every lost member or pair (missing, above a watermark, with bad rows, or
//! failing to read), every subset of two rows of all chunks, in sync and not.

#![allow(clippy::print_stdout)] // how much was proven belongs into the test's output

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::*;
use crate::geometry::{CellKind, Geometry, Layout, Shape, StripeMap};
use crate::parity::gf;
use crate::units::{Level, Sectors};

/// A small generator: the tests must give the same answer everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

const CHUNK: u32 = 8;
/// The rows whose subsets are tried; the watermark and the bad row lie between and on them.
const ACTIVE: Rows = Rows::new(3, 5);

/// What is wrong with a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ailment {
    Missing,
    Rebuilding,
    RebuiltToRow4,
    BadRow3,
    FaultRow4,
}

const AILMENTS: [Ailment; 5] =
    [Ailment::Missing, Ailment::Rebuilding, Ailment::RebuiltToRow4, Ailment::BadRow3, Ailment::FaultRow4];

/// How far the disk is that is to replace a member's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Second {
    Fresh,
    ToRow4,
    ToRow5WithBadRow3,
}

const SECONDS: [Second; 3] = [Second::Fresh, Second::ToRow4, Second::ToRow5WithBadRow3];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Worth {
    Good,
    Fill,
    Bad,
    Gone,
}

fn geometry(level: Level, layout: &str, slots: u16) -> Geometry {
    let chunk = if level == Level::Raid1 { Sectors(0) } else { Sectors(u64::from(CHUNK)) };
    let component = Sectors(u64::from(CHUNK) * 64);
    let members = alloc::vec![component; usize::from(slots)];
    let layout =
        if layout.is_empty() { Layout::default_for(level) } else { Layout::parse(level, layout).unwrap() };
    Geometry::new(&Shape { level, layout: layout.md_number(), chunk, slots, component, members: &members })
        .unwrap()
}

/// One stripe with its members' ailments and the bytes on it, one byte a sector.
struct Case<'g> {
    map: StripeMap<'g>,
    view: View,
    faults: Vec<Fault>,
    /// By cell, by row: on the slots' disks, and on those that are to replace them.
    disk: [Vec<Vec<u8>>; 2],
    /// What each of these sectors is worth, seen by itself.
    each: [Vec<Vec<Worth>>; 2],
    /// By data cell, by row: what a client must read.
    data: Vec<Vec<u8>>,
    /// What a cell is worth in the stripe.
    worth: Vec<Vec<Worth>>,
}

impl<'g> Case<'g> {
    fn new(
        map: StripeMap<'g>,
        slots: u16,
        ill: &[(u16, Ailment)],
        second: Option<(u16, Second)>,
        in_sync: bool,
        random: &mut Random,
    ) -> Case<'g> {
        let mut view = View::healthy(slots);
        let mut faults = Vec::new();
        for &(cell, ailment) in ill {
            let place = map.cell(cell);
            let row = |n: u64| place.at + Sectors(n);
            let member = &mut view.members[place.slot.index()];
            match ailment {
                Ailment::Missing => member.presence = Presence::Missing,
                Ailment::Rebuilding => member.presence = Presence::Below(row(0)),
                Ailment::RebuiltToRow4 => member.presence = Presence::Below(row(4)),
                Ailment::BadRow3 => member.bad.push((row(3), row(4))),
                Ailment::FaultRow4 => faults.push(Fault { slot: place.slot, rows: Rows::new(4, 5) }),
            }
        }
        if let Some((cell, second)) = second {
            let place = map.cell(cell);
            let row = |n: u64| place.at + Sectors(n);
            view.replacements.resize(usize::from(slots), Member::default());
            let member = &mut view.replacements[place.slot.index()];
            match second {
                Second::Fresh => member.presence = Presence::Below(row(0)),
                Second::ToRow4 => member.presence = Presence::Below(row(4)),
                Second::ToRow5WithBadRow3 => {
                    member.presence = Presence::Below(row(5));
                    member.bad.push((row(3), row(4)));
                }
            }
        }
        if !in_sync {
            view.synced_below = map.sync_start();
        }
        // A bitmap may name the stripe, or all others.
        let stripe = map.number().0;
        match random.next() % 3 {
            0 if in_sync => {
                view.synced_below = 0;
                view.suspects = Some(Arc::new(StripeSet::new([0..stripe, stripe + 1..stripe + 9])));
            }
            0 => view.suspects = Some(Arc::new(StripeSet::new(Some(stripe..stripe + 1)))),
            _ => {}
        }
        let none = || [Vec::new(), Vec::new()];
        let (disk, each, data, worth) = (none(), [Vec::new(), Vec::new()], Vec::new(), Vec::new());
        let mut case = Case { map, view, faults, disk, each, data, worth };
        case.judge(ill, second, in_sync);
        let k = case.data_cells();
        case.data = (0..k).map(|_| (0..CHUNK).map(|_| random.next() as u8).collect()).collect();
        let truth = case.truth();
        case.disk = [truth.clone(), truth];
        for (disk, each) in case.disk.iter_mut().zip(&case.each) {
            for cell in 0..case.worth.len() {
                for row in 0..CHUNK as usize {
                    if case.worth[cell][row] != Worth::Good || each[cell][row] != Worth::Good {
                        disk[cell][row] = random.next() as u8;
                    }
                }
            }
        }
        case
    }

    fn data_cells(&self) -> usize {
        usize::from(self.map.cells() - u16::from(self.map.parities())).min(if self.map.parities() == 0 {
            1
        } else {
            9999
        })
    }

    /// The worth of every cell and row, derived on its own from the ailments.
    fn judge(&mut self, ill: &[(u16, Ailment)], second: Option<(u16, Second)>, in_sync: bool) {
        let cells = usize::from(self.map.cells());
        self.worth = alloc::vec![alloc::vec![Worth::Good; CHUNK as usize]; cells];
        for &(cell, ailment) in ill {
            for row in 0..CHUNK as usize {
                let worth = match ailment {
                    Ailment::Missing => Worth::Gone,
                    Ailment::Rebuilding => Worth::Fill,
                    Ailment::RebuiltToRow4 if row >= 4 => Worth::Fill,
                    Ailment::BadRow3 if row == 3 => Worth::Bad,
                    Ailment::FaultRow4 if row == 4 => Worth::Fill,
                    _ => continue,
                };
                let now = &mut self.worth[usize::from(cell)][row];
                if *now != Worth::Gone {
                    *now = worth;
                }
            }
        }
        self.each = [self.worth.clone(), alloc::vec![alloc::vec![Worth::Gone; CHUNK as usize]; cells]];
        if let Some((cell, second)) = second {
            for row in 0..CHUNK as usize {
                let worth = match second {
                    Second::ToRow4 if row < 4 => Worth::Good,
                    Second::ToRow5WithBadRow3 if row == 3 => Worth::Bad,
                    Second::ToRow5WithBadRow3 if row < 5 => Worth::Good,
                    _ => Worth::Fill,
                };
                self.each[1][usize::from(cell)][row] = worth;
                let own = &mut self.worth[usize::from(cell)][row];
                match (*own, worth) {
                    (Worth::Good, _) | (Worth::Fill, Worth::Fill | Worth::Bad | Worth::Gone) => {}
                    (Worth::Bad, Worth::Bad | Worth::Gone) => {}
                    (_, better) => *own = better,
                }
            }
        }
        if in_sync {
            return;
        }
        let mirror = self.map.parities() == 0;
        for row in 0..CHUNK as usize {
            let k = self.data_cells();
            // Only a data cell without a disk makes parity the one source of truth; a bad or failing sector does not.
            let absent = |d: &usize| {
                ill.iter().any(|&(cell, ailment)| match ailment {
                    Ailment::Missing | Ailment::Rebuilding => usize::from(cell) == *d,
                    Ailment::RebuiltToRow4 => usize::from(cell) == *d && row >= 4,
                    Ailment::BadRow3 | Ailment::FaultRow4 => false,
                })
            };
            let mut trusted = if mirror { 1 } else { (0..k).filter(absent).count() };
            for cell in if mirror { 0 } else { k }..cells {
                if self.worth[cell][row] == Worth::Good {
                    if trusted > 0 {
                        trusted -= 1;
                    } else {
                        self.worth[cell][row] = Worth::Fill;
                    }
                }
            }
        }
    }

    /// What every cell holds when all redundancy is right.
    fn truth(&self) -> Vec<Vec<u8>> {
        (0..self.map.cells())
            .map(|cell| {
                let sum = |weight: &dyn Fn(usize) -> u8| -> Vec<u8> {
                    let at = |row: usize| {
                        (0..self.data.len()).fold(0, |sum, d| sum ^ gf::mul(weight(d), self.data[d][row]))
                    };
                    (0..CHUNK as usize).map(at).collect()
                };
                match self.map.cell(cell).kind {
                    CellKind::Data(d) => self.data[usize::from(d)].clone(),
                    CellKind::Copy => self.data[0].clone(),
                    CellKind::P => sum(&|_| 1),
                    CellKind::Q => sum(&|d| gf::exp(u32::from(self.map.q_power(d as u16)))),
                }
            })
            .collect()
    }

    fn lost_data(&self, row: usize) -> usize {
        (0..self.data_cells()).filter(|&d| self.worth[d][row] != Worth::Good).count()
    }

    fn parities(&self, row: usize, test: impl Fn(Worth) -> bool) -> usize {
        (self.data_cells()..self.worth.len())
            .filter(|&c| self.map.parities() > 0 && test(self.worth[c][row]))
            .count()
    }

    /// Can this data sector be known?
    fn readable(&self, d: usize, row: usize) -> bool {
        if self.map.parities() == 0 {
            return self.worth.iter().any(|cell| cell[row] == Worth::Good);
        }
        self.worth[d][row] == Worth::Good || self.lost_data(row) <= self.parities(row, |w| w == Worth::Good)
    }

    /// Executes `plan`. Reads must be of good sectors only, writes never to sectors that are gone.
    fn run(&mut self, plan: &Plan, pieces: &[Piece], client: &mut [Vec<u8>]) -> Vec<Vec<u8>> {
        let mut lanes = alloc::vec![alloc::vec![0xEEu8; plan.lane_rows() as usize]; usize::from(plan.lanes)];
        fn at<'m>(buf: Buf, lanes: &'m mut [Vec<u8>], client: &'m mut [Vec<u8>]) -> &'m mut [u8] {
            match buf.base {
                Base::Lane(lane) => &mut lanes[usize::from(lane)][buf.sector as usize..],
                Base::Client(piece) => &mut client[piece as usize][buf.sector as usize..],
                Base::Zero => panic!("zeroes have no memory"),
            }
        }
        for io in &plan.gather {
            let place = self.map.cell(io.cell);
            let which = self.which(io);
            assert_eq!(io.at, place.at + Sectors(u64::from(io.rows.start)));
            for (i, row) in (io.rows.start..io.rows.end).enumerate() {
                let (cell, row) = (usize::from(io.cell), row as usize);
                assert!(
                    self.worth[cell][row] == Worth::Good && self.each[which][cell][row] == Worth::Good,
                    "reads what it must not\n{plan}"
                );
                at(io.buf, &mut lanes, client)[i] = self.disk[which][cell][row];
            }
        }
        for fold in &plan.fold {
            let terms = &plan.terms[fold.terms.start as usize..fold.terms.end as usize];
            for i in 0..fold.sectors as usize {
                for (n, target) in fold.target.iter().enumerate().filter_map(|(n, t)| t.map(|t| (n, t))) {
                    let start = if fold.accumulate { at(target, &mut lanes, client)[i] } else { 0 };
                    let sum = terms.iter().fold(start, |sum, term| {
                        sum ^ gf::mul(term.coef[n], at(term.buf, &mut lanes, client)[i])
                    });
                    at(target, &mut lanes, client)[i] = sum;
                }
            }
        }
        for io in &plan.scatter {
            let which = self.which(io);
            for (i, row) in (io.rows.start..io.rows.end).enumerate() {
                let (cell, row) = (usize::from(io.cell), row as usize);
                assert!(self.each[which][cell][row] != Worth::Gone, "writes to nothing\n{plan}");
                self.disk[which][cell][row] = match io.buf.base {
                    Base::Zero => 0,
                    _ => at(io.buf, &mut lanes, client)[i],
                };
            }
        }
        let _ = pieces;
        lanes
    }

    /// Is it the slot's own disk (0), or the one that is to replace it (1)?
    fn which(&self, io: &Io) -> usize {
        let own = self.map.cell(io.cell).slot;
        assert!(io.slot == own || io.slot == self.view.replacement_number(own), "{io:?}");
        usize::from(io.slot != own)
    }

    /// After a write (or fill) of `rows`: whatever is to be right there is right, and nothing else changed.
    fn verify(&self, before: &[Vec<Vec<u8>>; 2], touched: impl Fn(usize, usize, usize) -> bool, plan: &Plan) {
        let truth = self.truth();
        let sectors = (0..self.worth.len()).flat_map(|cell| (0..CHUNK as usize).map(move |row| (cell, row)));
        for (which, (cell, row)) in (0..2).flat_map(|which| sectors.clone().map(move |at| (which, at))) {
            let (now, then) = (self.disk[which][cell][row], before[which][cell][row]);
            let worth = self.each[which][cell][row];
            let map = self.map.cell(cell as u16);
            let number = if which == 0 { map.slot } else { self.view.replacement_number(map.slot) };
            let at = map.at + Sectors(row as u64);
            let heals = |heal: &Heal| heal.slot == number && heal.at <= at && at < heal.at + heal.sectors;
            let healed = plan.heals.iter().any(heals);
            assert!(!healed || worth == Worth::Bad, "heals what is not bad\n{plan}");
            if worth == Worth::Bad {
                let must = touched(which, cell, row) && cell < self.data_cells();
                assert!(healed || !must, "row {row} of cell {cell} was written and stays bad\n{plan}");
            }
            if worth == Worth::Gone || (worth == Worth::Bad && !healed) || !touched(which, cell, row) {
                assert_eq!(now, then, "disk {which} of cell {cell} row {row} changed\n{plan}");
            } else {
                assert_eq!(now, truth[cell][row], "disk {which} of cell {cell} row {row}\n{plan}");
            }
            if worth == Worth::Good && self.worth[cell][row] == Worth::Good {
                assert_eq!(now, truth[cell][row], "good cell {cell} row {row} is wrong\n{plan}");
            }
        }
    }
}

/// The pieces of a subset: bit `d * 2 + r` stands for row `ACTIVE.start + r` of data cell `d`.
fn pieces_of(subset: u32, k: usize, split: bool) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for d in 0..k {
        let bits = subset >> (d * 2) & 3;
        let run =
            |a: u32, b: u32| Piece { data: d as u16, rows: Rows::new(ACTIVE.start + a, ACTIVE.start + b) };
        match bits {
            1 => pieces.push(run(0, 1)),
            2 => pieces.push(run(1, 2)),
            3 if split => pieces.extend([run(1, 2), run(0, 1)]),
            3 => pieces.push(run(0, 2)),
            _ => {}
        }
    }
    pieces
}

#[derive(Default)]
struct Tally {
    plans: u64,
    lost: u64,
    sums: u64,
}

/// What is called a sum of others is one, and of those that may be believed.
fn try_sum(case: &Case<'_>, piece: Piece, tally: &mut Tally) {
    let Some(sources) = super::summed(&case.map, &case.view, piece) else { return };
    let rows = piece.rows.start as usize..piece.rows.end as usize;
    let mut sum = alloc::vec![0; rows.len()];
    for (slot, at) in sources {
        let holds = |&cell: &u16| case.map.cell(cell).slot == slot;
        let cell = (0..case.map.cells()).find(holds).unwrap();
        assert_eq!(at, case.map.cell(cell).at + Sectors(piece.rows.start.into()));
        let cell = usize::from(cell);
        assert!(case.worth[cell][rows.clone()].iter().all(|&worth| worth == Worth::Good), "{:?}", case.view);
        sum.iter_mut().zip(&case.disk[0][cell][rows.clone()]).for_each(|(sum, byte)| *sum ^= byte);
    }
    assert_eq!(sum, case.data[usize::from(piece.data)][rows], "{piece:?} {:?}", case.view);
    tally.sums += 1;
}

fn try_reads(case: &mut Case<'_>, subset: u32, plan: &mut Plan, tally: &mut Tally) {
    let pieces = pieces_of(subset, case.data_cells(), false);
    let expected_ok = pieces.iter().all(|piece| {
        (piece.rows.start..piece.rows.end).all(|row| case.readable(usize::from(piece.data), row as usize))
    });
    if case.faults.is_empty() {
        pieces.iter().for_each(|&piece| try_sum(case, piece, tally));
    }
    for leg in 0..if case.map.parities() == 0 { 2 } else { 1 } {
        let result = super::plan(&case.map, &case.view, &case.faults, leg, Want::Read(&pieces), plan);
        tally.plans += 1;
        assert_eq!(result.is_ok(), expected_ok, "{pieces:?} {:?}\n{plan}", case.view);
        if result.is_err() {
            tally.lost += 1;
            continue;
        }
        let mut client: Vec<Vec<u8>> =
            pieces.iter().map(|p| alloc::vec![0xDDu8; p.rows.len() as usize]).collect();
        case.run(plan, &pieces, &mut client);
        assert!(plan.scatter.is_empty());
        for (piece, bytes) in pieces.iter().zip(&client) {
            let rows = piece.rows.start as usize..piece.rows.end as usize;
            assert_eq!(
                bytes[..],
                case.data[usize::from(piece.data)][rows],
                "{pieces:?} {:?}\n{plan}",
                case.view
            );
        }
    }
}

fn try_writes(
    case: &mut Case<'_>,
    subset: u32,
    (split, zero): (bool, bool),
    plan: &mut Plan,
    random: &mut Random,
    tally: &mut Tally,
) {
    let k = case.data_cells();
    let pieces = pieces_of(subset, k, split);
    let wanted = |d: usize, row: usize| {
        pieces.iter().any(|p| usize::from(p.data) == d && (p.rows.start..p.rows.end).contains(&(row as u32)))
    };
    let row_is_touched = |row: usize| (0..k).any(|d| wanted(d, row));
    // What theory says: every row that is touched can be given right parity and read back.
    let possible =
        (ACTIVE.start as usize..ACTIVE.end as usize).filter(|&row| row_is_touched(row)).all(|row| {
            if case.map.parities() == 0 {
                return case.worth.iter().any(|cell| matches!(cell[row], Worth::Good | Worth::Bad));
            }
            let is_bad = |d: usize| case.each.iter().any(|each| each[d][row] == Worth::Bad);
            let wanted_lost = || (0..k).filter(|&d| wanted(d, row) && case.worth[d][row] != Worth::Good);
            let lost_kept = case.lost_data(row) - wanted_lost().count();
            let alive = case.parities(row, |w| matches!(w, Worth::Good | Worth::Fill));
            let good = case.parities(row, |w| w == Worth::Good);
            // What was bad can be read once it is written.
            let lost_written = wanted_lost().filter(|&d| !is_bad(d)).count();
            let readable_after = lost_written == 0 || lost_written + lost_kept <= alive;
            let modify = wanted_lost().count() == 0 && good == alive;
            readable_after && (alive == 0 || lost_kept == 0 || modify || case.lost_data(row) <= good)
        });
    let want = if zero { Want::Zero(&pieces) } else { Want::Write(&pieces) };
    let result = super::plan(&case.map, &case.view, &case.faults, 0, want, plan);
    tally.plans += 1;
    assert_eq!(result.is_ok(), possible, "{pieces:?} {:?}\n{plan}", case.view);
    if result.is_err() {
        tally.lost += 1;
        return;
    }
    // (What a plan of zeroes would find in a client's memory is not zero.)
    let mut client: Vec<Vec<u8>> =
        pieces.iter().map(|p| (0..p.rows.len()).map(|_| random.next() as u8).collect()).collect();
    let (before_disk, before_data) = (case.disk.clone(), case.data.clone());
    case.run(plan, &pieces, &mut client);
    if zero {
        let whole = |row: usize| (0..k).all(|d| wanted(d, row));
        let mut moves = plan
            .scatter
            .iter()
            .filter(|io| io.buf.base != Base::Zero)
            .flat_map(|io| io.rows.start..io.rows.end);
        assert!(moves.all(|row| !whole(row as usize)), "moves zeroes\n{plan}");
        client.iter_mut().for_each(|bytes| bytes.fill(0));
    }
    for (piece, bytes) in pieces.iter().zip(&client) {
        for (i, row) in (piece.rows.start..piece.rows.end).enumerate() {
            case.data[usize::from(piece.data)][row as usize] = bytes[i];
        }
    }
    let mirror = case.map.parities() == 0;
    case.verify(
        &before_disk,
        |_, cell, row| if mirror || cell >= k { row_is_touched(row) } else { wanted(cell, row) },
        plan,
    );
    let healthy = case.each[0].iter().flatten().all(|w| *w == Worth::Good);
    if !case.view.logs
        && case.faults.is_empty()
        && healthy
        && case.worth.iter().flatten().all(|w| *w == Worth::Good)
        && !mirror
    {
        // The cheapest way, per row.
        let m = case.worth.len() - k;
        let ideal: usize = (0..CHUNK as usize)
            .filter(|&row| row_is_touched(row))
            .map(|row| (0..k).filter(|&d| wanted(d, row)).count())
            .map(|written| (written + m).min(k - written))
            .sum();
        let reads: u32 = plan.gather.iter().map(|io| io.rows.len()).sum();
        assert_eq!(reads as usize, ideal, "{pieces:?}\n{plan}");
    }
    (case.disk, case.data) = (before_disk, before_data);
}

fn try_fill(case: &mut Case<'_>, plan: &mut Plan, tally: &mut Tally) {
    let needs = |case: &Case<'_>, row: usize| case.worth.iter().any(|cell| cell[row] == Worth::Fill);
    let possible = (ACTIVE.start as usize..ACTIVE.end as usize).filter(|&row| needs(case, row)).all(|row| {
        // (To copy from one disk of a slot to the other is always possible.)
        if case.map.parities() == 0 {
            case.worth.iter().any(|cell| cell[row] == Worth::Good)
        } else {
            case.lost_data(row) <= case.parities(row, |w| w == Worth::Good)
        }
    });
    let result = super::plan(&case.map, &case.view, &case.faults, 0, Want::Fill(ACTIVE), plan);
    tally.plans += 1;
    assert_eq!(result.is_ok(), possible, "{:?}\n{plan}", case.view);
    if result.is_err() {
        tally.lost += 1;
        return;
    }
    let before = case.disk.clone();
    case.run(plan, &[], &mut []);
    let worth = case.worth.clone();
    let active = |row: usize| (ACTIVE.start as usize..ACTIVE.end as usize).contains(&row);
    let each = case.each.clone();
    let behind = |which: usize, cell: usize, row: usize| each[which][cell][row] == Worth::Fill;
    let fills = |which, cell: usize, row| worth[cell][row] == Worth::Fill || behind(which, cell, row);
    case.verify(&before, |which, cell, row| active(row) && fills(which, cell, row), plan);
    case.disk = before;
}

/// All ailments of up to `most` cells of a stripe.
fn ailments(cells: u16, most: usize) -> Vec<Vec<(u16, Ailment)>> {
    let mut all = alloc::vec![Vec::new()];
    for first in 0..cells {
        for a in AILMENTS {
            all.push(alloc::vec![(first, a)]);
            for second in first + 1..cells {
                for b in AILMENTS.into_iter().filter(|_| most > 1) {
                    all.push(alloc::vec![(first, a), (second, b)]);
                }
            }
        }
    }
    all
}

fn exhaust(level: Level, layout: &str, slots: u16, stripes: &[u64], tally: &mut Tally) {
    let geometry = geometry(level, layout, slots);
    let mut random = Random(0x9E37_79B9_7F4A_7C15 ^ u64::from(slots));
    let mut plan = Plan::with_room_for(usize::from(geometry.cells()));
    for &stripe in stripes {
        let map = geometry.stripe(Stripe(stripe));
        let mut sick = ailments(map.cells(), 2);
        if map.parities() == 2 {
            // Beyond what RAID6 survives, too.
            sick.push((0..3).map(|c| (c, Ailment::Missing)).collect());
            sick.push((map.cells() - 3..map.cells()).map(|c| (c, Ailment::Rebuilding)).collect());
        }
        for ill in &sick {
            for in_sync in [true, false] {
                let mut case = Case::new(map, slots, ill, None, in_sync, &mut random);
                try_all(&mut case, &mut plan, &mut random, tally);
            }
        }
    }
}

fn try_all(case: &mut Case<'_>, plan: &mut Plan, random: &mut Random, tally: &mut Tally) {
    try_fill(case, plan, tally);
    for subset in 1..1u32 << (case.data_cells() * 2) {
        try_reads(case, subset, plan, tally);
        for zero in [false, true] {
            try_writes(case, subset, (subset.is_multiple_of(3), zero), plan, random, tally);
        }
    }
}

/// The same where one member, in turn, is being replaced. It has a disk then, so what ails it is a bad or failing row.
fn exhaust_replacing(level: Level, layout: &str, slots: u16, stripes: &[u64], tally: &mut Tally) {
    let geometry = geometry(level, layout, slots);
    let mut random = Random(0xA5A5_1234 ^ u64::from(slots));
    let mut plan = Plan::with_room_for(usize::from(geometry.cells()));
    for &stripe in stripes {
        let map = geometry.stripe(Stripe(stripe));
        for (cell, second) in (0..map.cells()).flat_map(|cell| SECONDS.map(|second| (cell, second))) {
            let has_disk = |ill: &Vec<(u16, Ailment)>| {
                let rows = [Ailment::BadRow3, Ailment::FaultRow4];
                ill.iter().all(|(other, ailment)| *other != cell || rows.contains(ailment))
            };
            for ill in ailments(map.cells(), 2).iter().filter(|ill| has_disk(ill)) {
                for in_sync in [true, false] {
                    let mut case = Case::new(map, slots, ill, Some((cell, second)), in_sync, &mut random);
                    try_all(&mut case, &mut plan, &mut random, tally);
                }
            }
        }
    }
}

#[test]
fn every_plan_with_a_replacement_is_right() {
    let mut tally = Tally::default();
    exhaust_replacing(Level::Raid5, "left-symmetric", 4, &[0, 1], &mut tally);
    exhaust_replacing(Level::Raid6, "left-symmetric", 5, &[1], &mut tally);
    exhaust_replacing(Level::Raid1, "", 3, &[0], &mut tally);
    exhaust_replacing(Level::Raid10, "f2", 3, &[0, 3], &mut tally);
    report("one member being replaced", &tally);
}

fn report(name: &str, tally: &Tally) {
    std::println!("{name}: {} plans executed, {} of them refused as lost", tally.plans, tally.lost);
    assert!(tally.plans > 1000 && tally.lost > 0);
}

#[test]
fn raid5_every_plan_is_right() {
    let mut tally = Tally::default();
    for slots in 3..=5 {
        exhaust(Level::Raid5, "left-symmetric", slots, &[0, 1, 2], &mut tally);
    }
    exhaust(Level::Raid5, "right-asymmetric", 4, &[1, 2], &mut tally);
    exhaust(Level::Raid4, "", 4, &[0], &mut tally);
    exhaust(Level::Raid5, "left-symmetric", 2, &[0, 1], &mut tally);
    report("raid4/5, up to 5 members", &tally);
    assert!(tally.sums > 1000, "{}", tally.sums);
}

#[test]
fn raid6_every_plan_is_right() {
    let mut tally = Tally::default();
    for slots in 4..=6 {
        exhaust(Level::Raid6, "left-symmetric", slots, &[0, 1], &mut tally);
    }
    exhaust(Level::Raid6, "left-asymmetric", 5, &[0, 3], &mut tally);
    exhaust(Level::Raid6, "ddf-N-continue", 5, &[2], &mut tally);
    report("raid6, up to 6 members", &tally);
    assert!(tally.sums > 1000, "{}", tally.sums);
}

/// Seven members: every lost member and pair, with subsets drawn at random where all would take minutes.
#[test]
fn seven_members() {
    let mut tally = Tally::default();
    let mut random = Random(77);
    for level in [Level::Raid5, Level::Raid6] {
        let geometry = geometry(level, "left-symmetric", 7);
        let mut plan = Plan::with_room_for(7);
        for stripe in 0..7 {
            let map = geometry.stripe(Stripe(stripe));
            for ill in &ailments(7, 2) {
                for in_sync in [true, false] {
                    let mut case = Case::new(map, 7, ill, None, in_sync, &mut random);
                    try_fill(&mut case, &mut plan, &mut tally);
                    for _ in 0..24 {
                        let subset = random.next() as u32 % (1 << (case.data_cells() * 2));
                        let subset = subset.max(1);
                        try_reads(&mut case, subset, &mut plan, &mut tally);
                        try_writes(
                            &mut case,
                            subset,
                            (subset.is_multiple_of(2), subset.is_multiple_of(3)),
                            &mut plan,
                            &mut random,
                            &mut tally,
                        );
                    }
                }
            }
        }
    }
    report("seven members", &tally);
}

#[test]
fn mirrors_and_stripes_every_plan_is_right() {
    let mut tally = Tally::default();
    for slots in 1..=4 {
        exhaust(Level::Raid1, "", slots, &[0], &mut tally);
        exhaust(Level::Raid0, "", slots, &[0, 3], &mut tally);
    }
    for (layout, slots) in [("n2", 3), ("n2", 4), ("f2", 3), ("o2", 5), ("n3", 4), ("n2f2", 5)] {
        exhaust(Level::Raid10, layout, slots, &[0, 1, 2, 3], &mut tally);
    }
    report("mirrors", &tally);
}

#[test]
fn neighbouring_rows_are_one_operation() {
    let geometry = geometry(Level::Raid5, "left-symmetric", 4);
    let map = geometry.stripe(Stripe(0));
    let mut plan = Plan::with_room_for(4);
    let pieces = [Piece { data: 0, rows: Rows::new(0, 8) }, Piece { data: 1, rows: Rows::new(0, 4) }];
    super::plan(&map, &View::healthy(4), &[], 0, Want::Write(&pieces), &mut plan).unwrap();
    assert_eq!(plan.scatter.len(), 3, "{plan}");
    assert_eq!(plan.scatter.iter().map(|io| io.rows.len()).sum::<u32>(), 8 + 4 + 8);
    // 0..4: two of three cells are written, so the third is read; 4..8: one is, so old data and parity are.
    assert_eq!(plan.gather.iter().map(|io| io.rows.len()).sum::<u32>(), 4 + 8, "{plan}");
}

/// Every expressible write of two rows of a RAID5 stripe that is logged, with every ailment of one member: what goes to the
/// log is the sum of what is not modified, over the whole unit, and what is written stays what it was without a log.
#[test]
fn logged_writes_exhaustively() {
    let (mut plan, mut tally, mut random, mut logged) = (Plan::default(), Tally::default(), Random(5), 0);
    for slots in [3, 4, 5] {
        let geometry = geometry(Level::Raid5, "left-symmetric", slots);
        for ill in ailments(slots, 1) {
            let mut case =
                Case::new(geometry.stripe(crate::units::Stripe(1)), slots, &ill, None, true, &mut random);
            // A log and a bitmap exclude each other.
            (case.view.logs, case.view.synced_below, case.view.suspects) = (true, u64::MAX, None);
            let k = case.data_cells();
            for subset in 1..1u32 << (2 * k) {
                let pieces = pieces_of(subset, k, false);
                if !expressible(&pieces) {
                    continue;
                }
                let result =
                    super::plan(&case.map, &case.view, &case.faults, 0, Want::Write(&pieces), &mut plan);
                assert!(result.is_ok(), "one loss is never too much: {ill:?} {pieces:?}");
                let p = case.map.cell(k as u16).slot;
                if case.view.members[p.index()].presence == Presence::Missing {
                    assert!(plan.log.is_empty());
                    continue;
                }
                let [part] = plan.log[..] else {
                    panic!("one entry tells {ill:?} {pieces:?}: {:?}\n{plan}", plan.log)
                };
                let cells: Vec<u16> = pieces.iter().map(|piece| piece.data).collect();
                let (first, last) = (*cells.iter().min().unwrap(), *cells.iter().max().unwrap());
                assert_eq!((part.rows, part.at), (Rows::new(0, 8), case.map.lba(first)));
                assert_eq!(
                    (part.cells, part.parity.is_none()),
                    (last - first + 1, last - first + 1 == k as u16)
                );
                let (disk, data) = (case.disk.clone(), case.data.clone());
                let mut client: Vec<Vec<u8>> =
                    pieces.iter().map(|p| (0..p.rows.len()).map(|_| random.next() as u8).collect()).collect();
                let lanes = case.run(&plan, &pieces, &mut client);
                (case.disk, case.data) = (disk, data);
                if let Some(Buf { base: Base::Lane(lane), sector }) = part.parity {
                    for row in 0..CHUNK as usize {
                        let kept = (0..k).filter(|&d| !(first..=last).contains(&(d as u16)));
                        let sum = kept.fold(0, |sum, d| sum ^ case.data[d][row]);
                        let told = lanes[usize::from(lane)][sector as usize + row];
                        assert!(
                            matches!(case.worth[k][row], Worth::Gone | Worth::Bad) || told == sum,
                            "row {row}: {ill:?}\n{plan}"
                        );
                    }
                }
                try_writes(&mut case, subset, (false, false), &mut plan, &mut random, &mut tally);
                logged += 1;
            }
        }
    }
    assert!(logged > 1000, "only {logged}");
}
