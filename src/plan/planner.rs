//! The planner: cuts a band into segments, finds what each cell is worth there, and writes the cheapest line of stages.

use alloc::vec::Vec;

use super::{
    Base, Buf, Fault, Fold, Heal, Io, LogPart, Lost, Member, Method, Piece, Plan, Presence, Rows, Term, View,
    Want, expressible,
};
use crate::geometry::{CellKind, StripeMap};
use crate::parity::gf;
use crate::planted::{Bug, planted};
use crate::units::{MemberLba, Sectors, Slot};

/// What a cell is worth in a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Status {
    /// Read and written.
    Good,
    /// Written, not believed.
    Fill,
    /// On a list of bad blocks: not read, and written only with what makes it right as a whole.
    Bad,
    /// Neither.
    Gone,
}

impl Status {
    /// Written as a matter of course?
    fn is_live(self) -> bool {
        matches!(self, Status::Good | Status::Fill)
    }

    /// Written when all of it is at hand?
    fn is_writable(self) -> bool {
        self != Status::Gone
    }
}

/// Index that stands for "none".
const NONE: u32 = u32::MAX;

/// The planner's working memory, kept in the plan so that planning again does not allocate.
#[derive(Clone, Default)]
pub(super) struct Scratch {
    cells: Vec<CellWork>,
    cuts: Vec<u32>,
}

impl Scratch {
    pub(super) fn with_room_for(cells: usize, cuts: usize) -> Scratch {
        Scratch { cells: Vec::with_capacity(cells), cuts: Vec::with_capacity(cuts + 32) }
    }
}

/// One cell of the stripe while it is being planned.
#[derive(Clone, Copy)]
struct CellWork {
    kind: CellKind,
    slot: Slot,
    at: MemberLba,
    /// In the current segment: what the cell is worth, whoever of the two holds it.
    status: Status,
    /// Where it is read; whom a write reaches; who of these does not hold yet what the other does.
    from: Slot,
    to: [Option<Slot>; 2],
    /// Only in a good cell.
    behind: Option<Slot>,
    /// Who has these rows on its list of bad blocks: a write makes them good again.
    bad: [Option<Slot>; 2],
    /// The piece that covers it in the current segment, or `NONE`.
    piece: u32,
    /// Where the current segment's old (or decoded) content is, once it has been asked for.
    source: Option<Buf>,
    /// Its scratch lane, once it has one.
    lane: Option<u16>,
    /// Its last read and write, to be joined with the next.
    last_read: u32,
    last_write: [u32; 2],
}

/// Plans `want` for one stripe.
///
/// `faults` are rows that just failed to read: they are worked around and written again. `leg` says which copy of a mirror
/// to try first (modulo the copies). Every piece lies inside the stripe; pieces do not overlap.
///
/// # Errors
/// [`Lost`] if some rows cannot be had, or could not be got back after the write. The plan is then empty of meaning.
pub fn plan(
    map: &StripeMap<'_>,
    view: &View,
    faults: &[Fault],
    leg: u16,
    want: Want<'_>,
    out: &mut Plan,
) -> Result<(), Lost> {
    let rows = match want {
        Want::Fill(rows) => rows,
        _ => want.pieces().iter().fold(Rows::default(), |hull, piece| hull.hull(piece.rows)),
    };
    out.clear(map.number(), rows);
    let logging = want.is_write() && logs(map, view);
    if logging {
        debug_assert!(expressible(want.pieces()), "the log cannot tell that");
        out.rows = out.rows.logged();
    }
    if let Want::Read(pieces) = want
        && read_directly(map, view, faults, leg, pieces, out)
    {
        return Ok(());
    }
    if let Want::Write(pieces) = want
        && !logging
        && write_run_directly(map, view, faults, pieces, out)
    {
        return Ok(());
    }
    let mut scratch = core::mem::take(&mut out.scratch);
    scratch.load(map);
    let result =
        Planner { map, view, faults, leg, want, logging, log_lane: None, out, scratch: &mut scratch }.run();
    out.scratch = scratch;
    result
}

/// The common case, without looking at the rest of the stripe: every wanted cell is good over its whole length.
fn read_directly(
    map: &StripeMap<'_>,
    view: &View,
    faults: &[Fault],
    leg: u16,
    pieces: &[Piece],
    out: &mut Plan,
) -> bool {
    let in_sync = copies_agree(map, view, out.rows.end);
    for (i, &piece) in pieces.iter().enumerate() {
        let Some(cell) = good_cell(map, view, faults, leg, in_sync, piece) else {
            out.gather.clear();
            return false;
        };
        out.gather.push(io(map, cell, piece.rows, Buf { base: Base::Client(i as u32), sector: 0 }));
    }
    out.segments.push((out.rows, Method::Direct));
    true
}

/// Who has all of `piece` as it is, and where; `None` if nobody does who can be told without looking at the rest of the
/// stripe. `leg` says which copy of a mirror to try first.
pub fn direct(map: &StripeMap<'_>, view: &View, leg: u16, piece: Piece) -> Option<(Slot, MemberLba)> {
    let mut cell = map.cell(piece.data);
    if map.parities() > 0 || map.cells() == 1 {
        // The only one.
        if !is_good(view, &[], cell.slot, cell.at, piece.rows) {
            return None;
        }
    } else {
        let in_sync = copies_agree(map, view, piece.rows.end);
        cell = map.cell(good_cell(map, view, &[], leg, in_sync, piece)?);
    }
    Some((cell.slot, cell.at + Sectors(u64::from(piece.rows.start))))
}

/// Whose sum `piece` is, whether it can be had as it is or not: the other data cells and P, if all of these are good and agree.
pub fn summed<'a>(
    map: &'a StripeMap<'_>,
    view: &View,
    piece: Piece,
) -> Option<impl Iterator<Item = (Slot, MemberLba)> + 'a> {
    let data = map.cells() - u16::from(map.parities());
    let others = (0..=data).filter(move |&cell| cell != piece.data);
    // (A disk that is to replace the one that has it not may have it.)
    let has_sum = map.parities() > 0 && view.replacement(map.cell(piece.data).slot).is_none();
    let in_sync = synced_rows(map, view) >= piece.rows.end;
    if !has_sum || !in_sync || !others.clone().all(|cell| has_rows(map, view, &[], cell, piece.rows)) {
        return None;
    }
    let start = Sectors(u64::from(piece.rows.start));
    Some(others.map(move |cell| map.cell(cell)).map(move |cell| (cell.slot, cell.at + start)))
}

/// Is every copy of `rows` good, and nobody about to replace its disk? Then a write of whole blocks is the same write to each of
/// them, and nothing else.
pub fn is_plain_everywhere(map: &StripeMap<'_>, view: &View, rows: Rows) -> bool {
    (0..map.cells()).all(|cell| is_plain(map, view, &[], cell, rows))
}

/// The plan of that: the first piece of the client's, to all copies.
pub fn write_all_copies(map: &StripeMap<'_>, rows: Rows, out: &mut Plan) {
    out.clear(map.number(), rows);
    let from = Buf { base: Base::Client(0), sector: 0 };
    out.scatter.extend((0..map.cells()).map(|cell| io(map, cell, rows, from)));
}

/// A transfer of some rows of a cell.
#[inline]
fn io(map: &StripeMap<'_>, cell: u16, rows: Rows, buf: Buf) -> Io {
    let place = map.cell(cell);
    Io { slot: place.slot, cell, at: place.at + Sectors(u64::from(rows.start)), rows, buf }
}

/// The common small write, without weighing each row: some rows of one data cell, in one piece or several that follow each
/// other, where all cells that it takes are good and in sync. Read is what is less: the cell and the parities, to take out what
/// was there, or the other data cells.
fn write_run_directly(
    map: &StripeMap<'_>,
    view: &View,
    faults: &[Fault],
    pieces: &[Piece],
    out: &mut Plan,
) -> bool {
    let (rows, parities) = (out.rows, u16::from(map.parities()));
    let data = map.cells() - parities;
    let is_run =
        pieces.windows(2).all(|two| two[0].data == two[1].data && two[0].rows.end == two[1].rows.start);
    let cell = match pieces.first() {
        Some(first) if is_run && parities > 0 => first.data,
        _ => return false,
    };
    let modifies = 1 + parities < data - 1;
    let chosen = if modifies { cell..cell + 1 } else { 0..data };
    let mut involved = chosen.clone().chain(data..map.cells());
    if synced_rows(map, view) < rows.end || !involved.all(|cell| is_plain(map, view, faults, cell, rows)) {
        return false;
    }
    let lane = |lane| Buf { base: Base::Lane(lane), sector: 0 };
    let coef = |cell| [1, if parities > 1 { gf::exp(u32::from(map.q_power(cell))) } else { 0 }];
    let parity_ios = || (data..map.cells()).zip(0..).map(|(parity, n)| io(map, parity, rows, lane(n)));
    // Behind those of the parities.
    let olds = || chosen.clone().filter(move |&other| modifies || other != cell).zip(parities..);
    if modifies {
        out.gather.extend(parity_ios());
    }
    out.gather.extend(olds().map(|(cell, n)| io(map, cell, rows, lane(n))));
    for (i, piece) in pieces.iter().enumerate() {
        let (sector, new) = (piece.rows.start - rows.start, Buf { base: Base::Client(i as u32), sector: 0 });
        let (first, there) = (out.terms.len() as u32, |n| Buf { sector, ..lane(n) });
        out.terms.push(Term { buf: new, coef: coef(cell) });
        out.terms.extend(olds().map(|(cell, n)| Term { buf: there(n), coef: coef(cell) }));
        let target = [Some(there(0)), (parities > 1).then(|| there(1))];
        let terms = first..out.terms.len() as u32;
        out.fold.push(Fold { target, sectors: piece.rows.len(), terms, accumulate: modifies });
        out.scatter.push(io(map, cell, piece.rows, new));
    }
    out.scatter.extend(parity_ios());
    out.lanes = parities + if modifies { 1 } else { data - 1 };
    out.segments.push((rows, if modifies { Method::Modify } else { Method::Rewrite }));
    true
}

/// Is a cell good over all of `rows`, and nobody about to replace its disk?
#[inline]
fn is_plain(map: &StripeMap<'_>, view: &View, faults: &[Fault], cell: u16, rows: Rows) -> bool {
    let cell = map.cell(cell);
    view.replacement(cell.slot).is_none() && is_good(view, faults, cell.slot, cell.at, rows)
}

/// Is a cell good over all of `rows`?
fn has_rows(map: &StripeMap<'_>, view: &View, faults: &[Fault], cell: u16, rows: Rows) -> bool {
    let cell = map.cell(cell);
    is_good(view, faults, cell.slot, cell.at, rows)
}

/// Does `slot` have all of `rows` of its cell at `at`, as it is?
fn is_good(view: &View, faults: &[Fault], slot: Slot, at: MemberLba, rows: Rows) -> bool {
    let member = &view.members[slot.index()];
    member.reaches(at + Sectors(u64::from(rows.end)))
        && !overlaps_bad(&member.bad, at, rows)
        && !faults.iter().any(|fault| fault.slot == slot && fault.rows.overlaps(rows))
}

/// May any copy of the rows below `end` be believed?
fn copies_agree(map: &StripeMap<'_>, view: &View, end: u32) -> bool {
    synced_rows(map, view) >= end || planted(Bug::BalanceUnsynced)
}

/// The cell to read `piece` from, if one is good over its whole length.
fn good_cell(
    map: &StripeMap<'_>,
    view: &View,
    faults: &[Fault],
    leg: u16,
    in_sync: bool,
    piece: Piece,
) -> Option<u16> {
    let copies = if map.parities() == 0 { map.cells() } else { 1 };
    let is_good = |cell: u16| has_rows(map, view, faults, cell, piece.rows);
    if copies == 1 {
        return Some(piece.data).filter(|&cell| is_good(cell));
    }
    // Copies that do not agree yet must all be read from the same one.
    let first = if in_sync { leg % copies } else { 0 };
    let good = (0..copies)
        .map(|n| piece.data + (first + n) % copies)
        .filter(|&cell| is_good(cell))
        .min_by_key(|&cell| view.members[map.cell(cell).slot.index()].avoid);
    // Out of sync only the first of all copies may be taken without looking closer.
    good.filter(|&cell| in_sync || cell == 0)
}

/// Must a write to this stripe be logged? Not where its parity has no disk (no parity is written), and not before everything
/// is in sync: see [`View::logs`].
fn logs(map: &StripeMap<'_>, view: &View) -> bool {
    let p = || map.cell(map.cells() - 1);
    let written = || view.members[p().slot.index()].presence != Presence::Missing;
    view.logs && view.synced_below == u64::MAX && map.parities() == 1 && written()
}

/// How many rows of the stripe, from its start, have redundancy that agrees.
fn synced_rows(map: &StripeMap<'_>, view: &View) -> u32 {
    if view.synced_below == u64::MAX || view.suspects.as_ref().is_some_and(|set| !set.contains(map.number()))
    {
        return map.rows();
    }
    view.synced_below.saturating_sub(map.sync_start()).min(u64::from(map.rows())) as u32
}

/// The rows of a cell at `at` that `bad` covers, clipped to `rows`.
fn bad_rows(bad: &[(MemberLba, MemberLba)], at: MemberLba, rows: Rows) -> impl Iterator<Item = Rows> + '_ {
    let (start, end) = (at.0 + u64::from(rows.start), at.0 + u64::from(rows.end));
    let first = bad.partition_point(|&(_, bad_end)| bad_end.0 <= start);
    bad[first..].iter().take_while(move |(bad_start, _)| bad_start.0 < end).map(
        move |&(bad_start, bad_end)| {
            Rows::new((bad_start.0.max(start) - at.0) as u32, (bad_end.0.min(end) - at.0) as u32)
        },
    )
}

fn overlaps_bad(bad: &[(MemberLba, MemberLba)], at: MemberLba, rows: Rows) -> bool {
    !bad.is_empty() && bad_rows(bad, at, rows).next().is_some()
}

impl Scratch {
    fn load(&mut self, map: &StripeMap<'_>) {
        self.cells.clear();
        self.cells.extend((0..map.cells()).map(|index| {
            let cell = map.cell(index);
            CellWork {
                kind: cell.kind,
                slot: cell.slot,
                at: cell.at,
                status: Status::Gone,
                from: cell.slot,
                to: [None; 2],
                behind: None,
                bad: [None; 2],
                piece: NONE,
                source: None,
                lane: None,
                last_read: NONE,
                last_write: [NONE; 2],
            }
        }));
    }
}

/// The data cells of a segment that cannot be read, up to as many as any level can decode.
#[derive(Clone, Copy)]
struct Unreadable {
    count: usize,
    cells: [u16; 2],
}

impl CellWork {
    /// What the cell is worth in `rows`: that of the better one of the slot's disk and its replacement.
    fn weigh(&mut self, view: &View, faults: &[Fault], rows: Rows) {
        let worth = |number: Slot, member: &Member| match member.presence {
            Presence::Missing => Status::Gone,
            _ if overlaps_bad(&member.bad, self.at, rows) => Status::Bad,
            Presence::Below(watermark) if self.at + Sectors(u64::from(rows.start)) >= watermark => {
                Status::Fill
            }
            _ if faults.iter().any(|f| f.slot == number && f.rows.overlaps(rows)) => Status::Fill,
            _ => Status::Good,
        };
        let own = worth(self.slot, &view.members[self.slot.index()]);
        let live = |status: Status, number: Slot| status.is_live().then_some(number);
        let bad = |status: Status, number: Slot| (status == Status::Bad).then_some(number);
        (self.status, self.from, self.behind) = (own, self.slot, None);
        self.to = [live(own, self.slot), None];
        self.bad = [bad(own, self.slot), None];
        let Some((number, member)) = view.replacement(self.slot) else { return };
        let other = worth(number, member);
        self.to[1] = live(other, number);
        self.bad[1] = bad(other, number);
        match (own, other) {
            (Status::Good, Status::Fill) => self.behind = Some(number),
            (Status::Fill, Status::Good) => {
                (self.status, self.from, self.behind) = (other, number, Some(self.slot))
            }
            (Status::Gone, _) => (self.status, self.from) = (other, number),
            (Status::Bad, Status::Good | Status::Fill) => (self.status, self.from) = (other, number),
            _ => {}
        }
    }
}

struct Planner<'a> {
    map: &'a StripeMap<'a>,
    view: &'a View,
    faults: &'a [Fault],
    leg: u16,
    want: Want<'a>,
    /// What is written goes to the log first.
    logging: bool,
    /// The lane of the partial parity, once it has one.
    log_lane: Option<u16>,
    out: &'a mut Plan,
    scratch: &'a mut Scratch,
}

impl Planner<'_> {
    fn run(&mut self) -> Result<(), Lost> {
        self.cut();
        for i in 1..self.scratch.cuts.len() {
            let rows = Rows::new(self.scratch.cuts[i - 1], self.scratch.cuts[i]);
            if !self.enter(rows) {
                if self.logging {
                    self.log_gap(rows).ok_or(Lost { stripe: self.map.number(), rows })?;
                }
                continue;
            }
            let method = match self.want {
                Want::Read(_) => self.read(rows),
                Want::Write(_) | Want::Zero(_) if self.map.parities() == 0 => self.write_copies(rows),
                Want::Write(_) | Want::Zero(_) => self.write_parity(rows),
                Want::Fill(_) if self.map.parities() == 0 => self.fill_copies(rows),
                Want::Fill(_) => self.fill_parity(rows),
            };
            let method = method.ok_or(Lost { stripe: self.map.number(), rows })?;
            match self.out.segments.last_mut() {
                Some((last, same)) if last.end == rows.start && *same == method => last.end = rows.end,
                _ => self.out.segments.push((rows, method)),
            }
        }
        Ok(())
    }

    // --- segments -------------------------------------------------------------------------------------------------

    /// Finds the rows at which a status or the set of pieces changes.
    fn cut(&mut self) {
        let hull = self.out.rows;
        let cuts = &mut self.scratch.cuts;
        cuts.clear();
        cuts.extend([hull.start, hull.end]);
        let mut add = |row: u64| {
            if row > u64::from(hull.start) && row < u64::from(hull.end) {
                cuts.push(row as u32);
            }
        };
        for piece in self.want.pieces() {
            add(u64::from(piece.rows.start));
            add(u64::from(piece.rows.end));
            if self.logging {
                add(u64::from(piece.rows.logged().start));
                add(u64::from(piece.rows.logged().end));
            }
        }
        for fault in self.faults {
            add(u64::from(fault.rows.start));
            add(u64::from(fault.rows.end));
        }
        add(u64::from(synced_rows(self.map, self.view)));
        for cell in &self.scratch.cells {
            let replacement = self.view.replacement(cell.slot).map(|(_, member)| member);
            for member in [&self.view.members[cell.slot.index()]].into_iter().chain(replacement) {
                if let Presence::Below(watermark) = member.presence {
                    add(watermark.0.saturating_sub(cell.at.0));
                }
                for rows in bad_rows(&member.bad, cell.at, hull) {
                    add(u64::from(rows.start));
                    add(u64::from(rows.end));
                }
            }
        }
        cuts.sort_unstable();
        cuts.dedup();
    }

    /// Makes `rows` the current segment. False if nothing is wanted there.
    fn enter(&mut self, rows: Rows) -> bool {
        let skips_target = planted(Bug::RebuildMissesWrite) && self.want.is_write();
        for cell in &mut self.scratch.cells {
            cell.piece = NONE;
            cell.source = None;
            cell.weigh(self.view, self.faults, rows);
            if skips_target && cell.status == Status::Fill {
                (cell.status, cell.to) = (Status::Gone, [None; 2]);
            }
        }
        let believed = planted(Bug::ModifyUnsynced) && self.map.parities() > 0;
        if rows.start >= synced_rows(self.map, self.view) && !believed {
            self.distrust_unsynced(rows);
        }
        if matches!(self.want, Want::Fill(_)) {
            return true;
        }
        let mut any = false;
        for (i, piece) in self.want.pieces().iter().enumerate() {
            if piece.rows.overlaps(rows) {
                self.scratch.cells[usize::from(piece.data)].piece = i as u32;
                any = true;
            }
        }
        any
    }

    /// Redundancy that does not agree yet is not believed, except where nothing else holds the data: the first good
    /// copy, and as many parities as there are data cells without a disk. (Not for a sector that merely failed to read:
    /// what such parity gives back could be wrong, and no data is better than wrong data.)
    fn distrust_unsynced(&mut self, rows: Rows) {
        let mirror = self.map.parities() == 0;
        let absent = |cell: &&CellWork| {
            let member = &self.view.members[cell.slot.index()];
            let below = matches!(member.presence, Presence::Below(mark) if cell.at + Sectors(u64::from(rows.start)) >= mark);
            matches!(cell.kind, CellKind::Data(_)) && (member.presence == Presence::Missing || below)
        };
        let mut keep = if mirror { 1 } else { self.scratch.cells.iter().filter(absent).count() };
        for cell in self.scratch.cells.iter_mut().filter(|cell| cell.status == Status::Good) {
            if mirror || cell.kind.is_parity() {
                if keep > 0 {
                    keep -= 1;
                } else {
                    (cell.status, cell.behind) = (Status::Fill, None);
                    continue;
                }
            }
            // The two disks of a slot are copies of each other, and need not agree either.
            if let [Some(own), Some(second)] = cell.to {
                cell.behind = Some(if cell.from == own { second } else { own });
            }
        }
    }

    // --- the three wants ------------------------------------------------------------------------------------------

    fn read(&mut self, rows: Rows) -> Option<Method> {
        if self.map.parities() == 0 {
            let cell = self.best_copy()?;
            let buf = self.client(0, rows)?;
            self.push_read(cell, rows, buf);
            return Some(Method::Direct);
        }
        // What is wanted and good goes straight to the client and serves as a source from there.
        for data in 0..self.data_cells() {
            if self.status(data) == Status::Good
                && let Some(buf) = self.client(data, rows)
            {
                self.push_read(data, rows, buf);
                self.scratch.cells[usize::from(data)].source = Some(buf);
            }
        }
        if (0..self.data_cells()).all(|data| self.status(data) == Status::Good || !self.is_wanted(data)) {
            return Some(Method::Direct);
        }
        let lost = self.unreadable_data();
        self.decode(rows, lost, |planner, cell| planner.client(cell, rows))?;
        Some(Method::Reconstruct)
    }

    fn write_copies(&mut self, rows: Rows) -> Option<Method> {
        let buf = self.client(0, rows)?;
        // One must be there that can be read afterwards.
        if !self.scratch.cells.iter().any(|cell| matches!(cell.status, Status::Good | Status::Bad)) {
            return None;
        }
        for cell in 0..self.map.cells() {
            self.push_write(cell, rows, buf);
        }
        Some(Method::Plain)
    }

    fn write_parity(&mut self, rows: Rows) -> Option<Method> {
        let (mut written, mut kept_unreadable, mut written_unreadable, mut healed) = (0, 0, 0, 0);
        for data in 0..self.data_cells() {
            let unreadable = usize::from(self.status(data) != Status::Good);
            if self.is_wanted(data) {
                written += 1;
                written_unreadable += unreadable;
                healed += usize::from(self.scratch.cells[usize::from(data)].bad != [None; 2]) * unreadable;
            } else {
                kept_unreadable += unreadable;
            }
        }
        let kept = usize::from(self.data_cells()) - written;
        let parities = self.parities_where(Status::is_live);
        let good = self.parities_where(|status| status == Status::Good);
        // What is written must be readable afterwards, from itself or through parity.
        let lost = written_unreadable - healed;
        if lost > 0 && lost + kept_unreadable > parities {
            return None;
        }
        let has_bad_parity = self.parities_where(|status| status == Status::Bad) > 0;
        let method = if has_bad_parity && kept_unreadable == 0 {
            // Made from all of the row it becomes good, which is worth some reads.
            Method::Rewrite
        } else if parities == 0 {
            Method::Plain
        } else {
            let modify = (written_unreadable == 0 && good == parities).then_some(written + parities);
            let rewrite = (kept_unreadable == 0).then_some(kept);
            match (modify, rewrite) {
                (Some(m), Some(r)) if m < r => Method::Modify,
                (_, Some(_)) => Method::Rewrite,
                (Some(_), None) => Method::Modify,
                (None, None) => Method::DecodeRewrite,
            }
        };
        if self.logging {
            self.log(rows, method == Method::Modify)?;
        }
        match method {
            Method::Modify => self.modify(rows),
            Method::Rewrite => self.fold_parity(rows, Status::is_writable),
            Method::DecodeRewrite => {
                let lost = self.unreadable_data();
                self.decode(rows, lost, |planner, cell| {
                    (!planner.is_wanted(cell)).then(|| planner.lane(cell, rows))
                })?;
                self.fold_parity(rows, Status::is_writable);
            }
            _ => {}
        }
        for data in 0..self.data_cells() {
            if let Some(buf) = self.client(data, rows) {
                self.push_write(data, rows, buf);
            }
        }
        match method {
            Method::Modify => self.write_parities(rows, Status::is_live),
            Method::Plain => {}
            _ => self.write_parities(rows, Status::is_writable),
        }
        Some(method)
    }

    fn fill_copies(&mut self, rows: Rows) -> Option<Method> {
        let needs = |cell: &CellWork| cell.status == Status::Fill || cell.behind.is_some();
        if !self.scratch.cells.iter().any(needs) {
            return Some(Method::Fill);
        }
        let from = self.best_copy()?;
        let buf = self.old(from, rows);
        for cell in 0..self.map.cells() {
            if self.status(cell) == Status::Fill {
                self.push_write(cell, rows, buf);
            }
            self.catch_up(cell, rows, buf);
        }
        Some(Method::Fill)
    }

    fn fill_parity(&mut self, rows: Rows) -> Option<Method> {
        let fill = |status| status == Status::Fill;
        let parities = self.parities_where(fill);
        let lost = self.unreadable_data();
        let fills_data = (0..self.data_cells()).any(|data| self.status(data) == Status::Fill);
        if parities > 0 || fills_data {
            self.decode(rows, lost, |planner, cell| {
                (parities > 0 || planner.status(cell) == Status::Fill).then(|| planner.lane(cell, rows))
            })?;
        }
        if parities > 0 {
            self.fold_parity(rows, fill);
        }
        for data in 0..self.data_cells() {
            if self.status(data) == Status::Fill {
                let buf = self.lane(data, rows);
                self.push_write(data, rows, buf);
            }
        }
        self.write_parities(rows, fill);
        for cell in 0..self.map.cells() {
            if self.scratch.cells[usize::from(cell)].behind.is_some() {
                let buf = self.old(cell, rows);
                self.catch_up(cell, rows, buf);
            }
        }
        Some(Method::Fill)
    }

    // --- the log --------------------------------------------------------------------------------------------------

    /// The data cells that are modified somewhere in the units around `rows`: the first, and how many follow it, itself
    /// included. (Between two cuts that is the same for all units.)
    fn modified(&self, rows: Rows) -> (u16, u16) {
        let touched = self.want.pieces().iter().filter(|piece| piece.rows.logged().overlaps(rows));
        let (first, end) = touched
            .fold((u16::MAX, 0), |(first, end), piece| (first.min(piece.data), end.max(piece.data + 1)));
        (first, end.saturating_sub(first))
    }

    /// Rows that are not written but share a unit of the log with some that are.
    fn log_gap(&mut self, rows: Rows) -> Option<()> {
        let (first, count) = self.modified(rows);
        if count == 0 {
            return Some(());
        }
        let modified = first..first + count;
        let p = self.data_cells();
        let good = |planner: &Self, cell| planner.status(cell) == Status::Good;
        let modify = good(self, p) && modified.clone().all(|cell| good(self, cell));
        let rewrite = (0..p).all(|cell| modified.contains(&cell) || good(self, cell));
        // As the written rows beside them choose, so that the reads of both are one.
        self.log(rows, modify && (!rewrite || count + 1 < p - count))
    }

    /// Puts `rows` on the log: their partial parity from the old parity and what is modified, or from all that is not.
    /// `None` if that cannot be read, so that nothing right could be said.
    fn log(&mut self, rows: Rows, modify: bool) -> Option<()> {
        let (first, count) = self.modified(rows);
        let (modified, p) = (first..first + count, self.data_cells());
        let mut parity = None;
        if count < p {
            let target = self.log_lane(rows);
            parity = Some(target);
            // Parity on a bad range is not written by a replay either: any bytes will do.
            if self.status(p).is_live() {
                let start = self.out.terms.len();
                for cell in (0..p + u16::from(modify)).filter(|&c| modified.contains(&c) == (modify && c < p))
                {
                    if self.status(cell) != Status::Good {
                        return None;
                    }
                    let buf = self.old(cell, rows);
                    self.out.terms.push(Term { buf, coef: [1, 0] });
                }
                self.push_fold(rows, [Some(target), None], start, false);
            }
        }
        if count == self.data_cells() && planted(Bug::WholeStripeUnlogged) {
            return Some(());
        }
        let at = self.map.lba(first) + Sectors(u64::from(rows.start));
        let part = LogPart { at, rows, cells: count, parity };
        match self.out.log.last_mut() {
            Some(last) if last.goes_on(&part) => last.rows.end = rows.end,
            _ => self.out.log.push(part),
        }
        Some(())
    }

    fn log_lane(&mut self, rows: Rows) -> Buf {
        let lane = *self.log_lane.get_or_insert_with(|| {
            self.out.lanes += 1;
            self.out.lanes - 1
        });
        Buf { base: Base::Lane(lane), sector: rows.start - self.out.rows.start }
    }

    // --- linear algebra -------------------------------------------------------------------------------------------

    /// Read-modify-write: every parity gains the difference between old and new of every written cell.
    fn modify(&mut self, rows: Rows) {
        let mut targets = [None, None];
        for (target, cell) in targets.iter_mut().zip(self.parity_cells(Status::is_live).into_iter().flatten())
        {
            *target = Some(self.old(cell, rows));
        }
        let first = self.out.terms.len();
        for data in 0..self.data_cells() {
            if let Some(new) = self.client(data, rows) {
                let old = self.old(data, rows);
                let coef = self.parity_coef(data, Status::is_live);
                self.out.terms.push(Term { buf: old, coef });
                if new.base != Base::Zero {
                    self.out.terms.push(Term { buf: new, coef });
                }
            }
        }
        self.push_fold(rows, targets, first, true);
    }

    /// Makes the parities whose status passes `which` from all data: new where it is written, decoded where it was, old
    /// elsewhere. Nothing happens if there is none, or all of it is zero.
    fn fold_parity(&mut self, rows: Rows, which: fn(Status) -> bool) {
        if self.is_zeroed() {
            return;
        }
        let mut targets = [None, None];
        for (target, cell) in targets.iter_mut().zip(self.parity_cells(which).into_iter().flatten()) {
            *target = Some(self.lane(cell, rows));
        }
        let first = self.out.terms.len();
        for data in 0..self.data_cells() {
            let buf = match self.client(data, rows) {
                Some(Buf { base: Base::Zero, .. }) => continue,
                Some(new) => new,
                None => self.old(data, rows),
            };
            let coef = self.parity_coef(data, which);
            self.out.terms.push(Term { buf, coef });
        }
        self.push_fold(rows, targets, first, false);
    }

    /// Computes the lost data cells for which `target` names a place, from everything good. Later folds find them there.
    ///
    /// With X, Y the lost cells, x, y their powers and g the generator (md's Q is the sum of g^j D_j):
    ///
    /// | lost | from | solution |
    /// |---|---|---|
    /// | X | P | X = P + sum D |
    /// | X | Q | X = g^-x (Q + sum g^j D_j) |
    /// | X, Y | P, Q | X = a (P + sum D) + b (Q + sum g^j D_j), a = g^y / (g^x + g^y), b = 1 / (g^x + g^y); Y = X + P + sum D |
    fn decode(
        &mut self,
        rows: Rows,
        lost: Unreadable,
        target: impl Fn(&mut Self, u16) -> Option<Buf>,
    ) -> Option<()> {
        let [p, q] = [CellKind::P, CellKind::Q].map(|kind| self.good_parity(kind));
        // For each lost cell its weights of the P and of the Q equation.
        let solution: [(u8, u8); 2] = match (lost.count, p, q) {
            (0, _, _) => return Some(()),
            (1, Some(_), _) => [(1, 0), (0, 0)],
            (1, None, Some(_)) => [(0, gf::inv(self.weight(lost.cells[0]))?), (0, 0)],
            (2, Some(_), Some(_)) => {
                let (gx, gy) = (self.weight(lost.cells[0]), self.weight(lost.cells[1]));
                let b = gf::inv(gx ^ gy)?;
                let a = gf::mul(gy, b);
                [(a, b), (a ^ 1, b)]
            }
            _ => return None,
        };
        let (mut targets, mut weights, mut wanted) = ([None; 2], [(0, 0); 2], 0);
        for (&cell, weight) in lost.cells[..lost.count].iter().zip(solution) {
            if let Some(buf) = target(self, cell) {
                (targets[wanted], weights[wanted]) = (Some(buf), weight);
                wanted += 1;
                self.scratch.cells[usize::from(cell)].source = Some(buf);
            }
        }
        if wanted == 0 {
            return Some(());
        }
        let first = self.out.terms.len();
        let coef = |in_p: u8, in_q: u8| weights.map(|(a, b)| gf::mul(a, in_p) ^ gf::mul(b, in_q));
        for data in 0..self.data_cells() {
            if self.status(data) == Status::Good {
                let buf = self.old(data, rows);
                let coef = coef(1, self.weight(data));
                self.out.terms.push(Term { buf, coef });
            }
        }
        for (cell, coef) in [(p, coef(1, 0)), (q, coef(0, 1))] {
            if let Some(cell) = cell.filter(|_| coef != [0; 2]) {
                let buf = self.old(cell, rows);
                self.out.terms.push(Term { buf, coef });
            }
        }
        self.push_fold(rows, targets, first, false);
        Some(())
    }

    /// The factor of data cell `data` in Q.
    fn weight(&self, data: u16) -> u8 {
        if self.map.parities() == 2 { gf::exp(u32::from(self.map.q_power(data))) } else { 1 }
    }

    /// The factors of data cell `data` in the parities whose status passes `which`, in their order.
    fn parity_coef(&self, data: u16, which: fn(Status) -> bool) -> [u8; 2] {
        let mut coef = [0; 2];
        for (coef, cell) in coef.iter_mut().zip(self.parity_cells(which).into_iter().flatten()) {
            *coef = match self.scratch.cells[usize::from(cell)].kind {
                CellKind::Q => self.weight(data),
                _ => 1,
            };
        }
        coef
    }

    // --- questions ------------------------------------------------------------------------------------------------

    fn data_cells(&self) -> u16 {
        self.map.cells() - u16::from(self.map.parities())
    }

    fn status(&self, cell: u16) -> Status {
        self.scratch.cells[usize::from(cell)].status
    }

    /// Does a piece cover `data` in the current segment?
    fn is_wanted(&self, data: u16) -> bool {
        self.scratch.cells[usize::from(data)].piece != NONE
    }

    /// Is every data cell, and so every parity, zero after this segment?
    fn is_zeroed(&self) -> bool {
        matches!(self.want, Want::Zero(_)) && (0..self.data_cells()).all(|data| self.is_wanted(data))
    }

    /// The client's bytes for `data` in the current segment.
    fn client(&self, data: u16, rows: Rows) -> Option<Buf> {
        let index = self.scratch.cells[usize::from(data)].piece;
        let piece = self.want.pieces().get(index as usize)?;
        if let Want::Zero(_) = self.want {
            return Some(zero(rows));
        }
        Some(Buf { base: Base::Client(index), sector: rows.start - piece.rows.start })
    }

    fn unreadable_data(&self) -> Unreadable {
        let mut lost = Unreadable { count: 0, cells: [0; 2] };
        for data in 0..self.data_cells() {
            if self.status(data) != Status::Good {
                if let Some(cell) = lost.cells.get_mut(lost.count) {
                    *cell = data;
                }
                lost.count += 1;
            }
        }
        lost
    }

    /// The parity cells whose status passes `which`, P before Q.
    #[inline(always)]
    fn parity_cells(&self, which: fn(Status) -> bool) -> [Option<u16>; 2] {
        let mut found = [None, None];
        let mut next = 0;
        for cell in self.data_cells()..self.map.cells() {
            if which(self.status(cell)) && self.status(cell) != Status::Gone {
                found[next] = Some(cell);
                next += 1;
            }
        }
        found
    }

    fn parities_where(&self, which: fn(Status) -> bool) -> usize {
        (self.data_cells()..self.map.cells()).filter(|&cell| which(self.status(cell))).count()
    }

    fn good_parity(&self, kind: CellKind) -> Option<u16> {
        (self.data_cells()..self.map.cells()).find(|&cell| {
            self.status(cell) == Status::Good && self.scratch.cells[usize::from(cell)].kind == kind
        })
    }

    /// A good copy, starting at the preferred leg; one that is to be avoided only if there is no other.
    fn best_copy(&self) -> Option<u16> {
        let copies = self.map.cells();
        (0..copies)
            .map(|n| (self.leg % copies + n) % copies)
            .filter(|&cell| self.status(cell) == Status::Good)
            .min_by_key(|&cell| self.view.members[self.scratch.cells[usize::from(cell)].slot.index()].avoid)
    }

    // --- writing the plan -----------------------------------------------------------------------------------------

    /// The cell's lane in the current segment.
    fn lane(&mut self, cell: u16, rows: Rows) -> Buf {
        let work = &mut self.scratch.cells[usize::from(cell)];
        let lane = *work.lane.get_or_insert_with(|| {
            self.out.lanes += 1;
            self.out.lanes - 1
        });
        Buf { base: Base::Lane(lane), sector: rows.start - self.out.rows.start }
    }

    /// The cell's content from before this plan (or as decoded by it), read into its lane when first asked for.
    fn old(&mut self, cell: u16, rows: Rows) -> Buf {
        if let Some(buf) = self.scratch.cells[usize::from(cell)].source {
            return buf;
        }
        let buf = self.lane(cell, rows);
        self.push_read(cell, rows, buf);
        self.scratch.cells[usize::from(cell)].source = Some(buf);
        buf
    }

    fn write_parities(&mut self, rows: Rows, which: fn(Status) -> bool) {
        for cell in self.parity_cells(which).into_iter().flatten() {
            let buf = if self.is_zeroed() { zero(rows) } else { self.lane(cell, rows) };
            self.push_write(cell, rows, buf);
        }
    }

    fn push_read(&mut self, cell: u16, rows: Rows, buf: Buf) {
        let work = &mut self.scratch.cells[usize::from(cell)];
        push(&mut self.out.gather, &mut work.last_read, work.from, work.at, cell, rows, buf);
    }

    /// A write reaches the slot's disk and the one that is to replace it: all copies of a cell come from the same bytes. It
    /// makes bad rows good.
    fn push_write(&mut self, cell: u16, rows: Rows, buf: Buf) {
        let work = &mut self.scratch.cells[usize::from(cell)];
        for ((to, bad), last) in work.to.iter().zip(work.bad).zip(&mut work.last_write) {
            if let Some(number) = to.or(bad) {
                push(&mut self.out.scatter, last, number, work.at, cell, rows, buf);
            }
            if let Some(slot) = bad {
                let start = work.at + Sectors(u64::from(rows.start));
                self.out.heals.push(Heal { slot, at: start, sectors: Sectors(u64::from(rows.len())) });
            }
        }
    }

    /// Gives a good cell's content, in `buf`, to whoever of its two disks does not have it.
    fn catch_up(&mut self, cell: u16, rows: Rows, buf: Buf) {
        let work = &mut self.scratch.cells[usize::from(cell)];
        if let Some(number) = work.behind {
            let last = &mut work.last_write[usize::from(number != work.slot)];
            push(&mut self.out.scatter, last, number, work.at, cell, rows, buf);
        }
    }

    fn push_fold(&mut self, rows: Rows, target: [Option<Buf>; 2], first: usize, accumulate: bool) {
        if target[0].is_none() {
            self.out.terms.truncate(first);
            return;
        }
        let terms = first as u32..self.out.terms.len() as u32;
        self.out.fold.push(Fold { target, sectors: rows.len(), terms, accumulate });
    }
}

/// Zeroes to write to `rows`.
fn zero(rows: Rows) -> Buf {
    Buf { base: Base::Zero, sector: rows.start }
}

/// Appends an operation, or lengthens the cell's last one if this goes on where that ends, on disk and in memory.
fn push(ios: &mut Vec<Io>, last: &mut u32, slot: Slot, at: MemberLba, cell: u16, rows: Rows, buf: Buf) {
    if let Some(io) = ios.get_mut(*last as usize)
        && io.slot == slot
        && io.rows.end == rows.start
        && io.buf.base == buf.base
        && io.buf.sector + io.rows.len() == buf.sector
    {
        io.rows.end = rows.end;
        return;
    }
    *last = ios.len() as u32;
    ios.push(Io { slot, cell, at: at + Sectors(u64::from(rows.start)), rows, buf });
}
