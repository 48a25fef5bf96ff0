//! What [`Geometry`] promises, tried on every small shape and on random large ones, against a second, naive
//! form of md's formulas ([`md`]) that shares nothing with the code under test.

use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

/// A [`Shape`] that owns its members.
#[derive(Clone, Debug)]
struct Owned {
    level: Level,
    layout: u32,
    chunk: u64,
    slots: u16,
    component: u64,
    members: Vec<Sectors>,
}

impl Owned {
    fn geometry(&self) -> Result<Geometry> {
        Geometry::new(&Shape {
            level: self.level,
            layout: self.layout,
            chunk: Sectors(self.chunk),
            slots: self.slots,
            component: Sectors(self.component),
            members: &self.members,
        })
    }
}

/// md's formulas as they are written down, one sector at a time.
mod md {
    use super::*;

    /// Where sector `s` of the LU is: data first, then copies, or P and Q of its stripe.
    pub(super) fn places(shape: &Owned, s: u64) -> Vec<(CellKind, u16, u64)> {
        match shape.level {
            Level::Linear => linear(shape, s),
            Level::Raid0 => raid0(shape, s),
            Level::Raid1 => (0..shape.slots).map(|role| (kind_of_copy(role), role, s)).collect(),
            Level::Raid10 => raid10(shape, s),
            Level::Raid4 | Level::Raid5 | Level::Raid6 => parity(shape, s),
        }
    }

    pub(super) fn size(shape: &Owned) -> u64 {
        let (n, c) = (u64::from(shape.slots), shape.chunk);
        let whole = |length: u64| Sectors(length).round_down(Sectors(c)).0;
        match shape.level {
            Level::Linear | Level::Raid0 => shape.members.iter().map(|length| whole(length.0)).sum(),
            Level::Raid1 => shape.component,
            Level::Raid4 | Level::Raid5 => whole(shape.component) * (n - 1),
            Level::Raid6 => whole(shape.component) * (n - 2),
            Level::Raid10 => {
                let (near, far) = (u64::from(shape.layout & 255), u64::from(shape.layout >> 8 & 255));
                (shape.component / c / far) * n / near * c
            }
        }
    }

    pub(super) fn used(shape: &Owned, role: u16) -> u64 {
        let c = shape.chunk;
        match shape.level {
            Level::Linear if c == 0 => shape.members[usize::from(role)].0,
            Level::Linear | Level::Raid0 => shape.members[usize::from(role)].0 / c * c,
            Level::Raid1 => shape.component,
            Level::Raid10 => raid10_used(shape) * c,
            _ => shape.component / c * c,
        }
    }

    fn kind_of_copy(index: u16) -> CellKind {
        if index == 0 { CellKind::Data(0) } else { CellKind::Copy }
    }

    fn linear(shape: &Owned, mut s: u64) -> Vec<(CellKind, u16, u64)> {
        for role in 0..shape.slots {
            if s < used(shape, role) {
                return vec![(CellKind::Data(0), role, s)];
            }
            s -= used(shape, role);
        }
        panic!("past the end")
    }

    fn raid0(shape: &Owned, s: u64) -> Vec<(CellKind, u16, u64)> {
        let c = shape.chunk;
        let z: Vec<u64> = (0..shape.slots).map(|role| used(shape, role)).collect();
        let ends: BTreeSet<u64> = z.iter().copied().collect();
        let (mut zone_start, mut from) = (0, 0);
        for end in ends {
            let members: Vec<u16> = (0..shape.slots).filter(|&role| z[usize::from(role)] > from).collect();
            let m = members.len() as u64;
            let length = (end - from) * m;
            if s < zone_start + length {
                let off = s - zone_start;
                let x = if shape.layout == 2 { off } else { s };
                let sector = from + (off / (c * m)) * c + off % c;
                return vec![(CellKind::Data(0), members[(x / c % m) as usize], sector)];
            }
            zone_start += length;
            from = end;
        }
        panic!("past the end")
    }

    fn parity(shape: &Owned, s: u64) -> Vec<(CellKind, u16, u64)> {
        let (n, c) = (u64::from(shape.slots), shape.chunk);
        let k = if shape.level == Level::Raid6 { n - 2 } else { n - 1 };
        let (chunk, o) = (s / c, s % c);
        let (stripe, d) = (chunk / k, chunk % k);
        let sector = stripe * c + o;
        let (p, q, data) = roles(shape.level, shape.layout, n, stripe, d);
        let mut places =
            vec![(CellKind::Data(d as u16), data as u16, sector), (CellKind::P, p as u16, sector)];
        places.extend(q.map(|q| (CellKind::Q, q as u16, sector)));
        places
    }

    /// The table of roles: P, Q, data chunk d.
    fn roles(level: Level, layout: u32, n: u64, stripe: u64, d: u64) -> (u64, Option<u64>, u64) {
        let up = |p: u64| if d >= p { d + 1 } else { d };
        let up6 = |p: u64| {
            if p == n - 1 {
                d + 1
            } else if d >= p {
                d + 2
            } else {
                d
            }
        };
        let (left, right) = (n - 1 - stripe % n, stripe % n);
        let five = |layout: u32, n: u64| {
            let (left, right) = (n - 1 - stripe % n, stripe % n);
            match layout {
                0 => (left, up(left)),
                1 => (right, up(right)),
                2 => (left, (left + 1 + d) % n),
                3 => (right, (right + 1 + d) % n),
                4 => (0, d + 1),
                5 => (n - 1, d),
                _ => panic!("no such layout"),
            }
        };
        match (level, layout) {
            (Level::Raid4, _) => (n - 1, None, d),
            (Level::Raid5, layout) => {
                let (p, data) = five(layout, n);
                (p, None, data)
            }
            (_, 0) => (left, Some((left + 1) % n), up6(left)),
            (_, 1) => (right, Some((right + 1) % n), up6(right)),
            (_, 2) => (left, Some((left + 1) % n), (left + 2 + d) % n),
            (_, 3) => (right, Some((right + 1) % n), (right + 2 + d) % n),
            (_, 4) => (0, Some(1), d + 2),
            (_, 5) => (n - 2, Some(n - 1), d),
            (_, 8) => (right, Some((right + 1) % n), up6(right)),
            (_, 9) => {
                let p = n - 1 - (stripe + 1) % n;
                (p, Some((p + 1) % n), up6(p))
            }
            (_, 10) => (left, Some((left + n - 1) % n), (left + 1 + d) % n),
            (_, layout) => {
                let (p, data) = five(layout - 16, n - 1);
                (p, Some(n - 1), data)
            }
        }
    }

    /// The power of g of data chunk d in Q: by walking.
    pub(super) fn q_power(layout: u32, n: u64, stripe: u64, d: u64) -> u64 {
        let (p, q, data) = roles(Level::Raid6, layout, n, stripe, d);
        if (8..=10).contains(&layout) {
            return data;
        }
        let q = q.expect("raid6 has a Q");
        let mut power = 0;
        let mut role = (q + 1) % n;
        while role != data {
            if role != p && role != q {
                power += 1;
            }
            role = (role + 1) % n;
        }
        power
    }

    fn raid10_used(shape: &Owned) -> u64 {
        let n = u64::from(shape.slots);
        let (near, far) = (u64::from(shape.layout & 255), u64::from(shape.layout >> 8 & 255));
        let total = u128::from((shape.component / shape.chunk / far) * n / near);
        (total * u128::from(near * far)).div_ceil(u128::from(n)) as u64
    }

    fn raid10(shape: &Owned, s: u64) -> Vec<(CellKind, u16, u64)> {
        let (n, c) = (u64::from(shape.slots), shape.chunk);
        let (near, far) = (u64::from(shape.layout & 255), u64::from(shape.layout >> 8 & 255));
        let offset = shape.layout & 0x10000 != 0;
        let fs = shape.layout >> 17;
        let set = [n, n / far, near * far][fs as usize];
        let stride = if offset { c } else { raid10_used(shape) / far * c };
        let (u, o) = ((s / c) * near, s % c);
        let (mut row, mut dev) = (u / n, u % n);
        if offset {
            row *= far;
        }
        let mut first = row * c + o;
        let mut places = Vec::new();
        for _ in 0..near {
            let (mut role, mut sector) = (dev, first);
            places.push((kind_of_copy(places.len() as u16), role as u16, sector));
            for _ in 1..far {
                let t = role + near;
                if fs == 0 {
                    role = t % n;
                } else {
                    let last = (n / set - 1) * set;
                    role = if !n.is_multiple_of(set) && t > last {
                        last + (t - last) % (set + n % set)
                    } else {
                        (role / set) * set + t % set
                    };
                }
                sector += stride;
                places.push((CellKind::Copy, role as u16, sector));
            }
            dev += 1;
            if dev == n {
                dev = 0;
                first += c;
            }
        }
        places
    }
}

const RAID6_LAYOUTS: [u32; 14] = [0, 1, 2, 3, 4, 5, 8, 9, 10, 16, 17, 18, 19, 20];

fn parity_layouts(level: Level) -> &'static [u32] {
    match level {
        Level::Raid4 => &[0, 5],
        Level::Raid5 => &RAID6_LAYOUTS[..6],
        _ => &RAID6_LAYOUTS,
    }
}

fn small_parity() -> Vec<Owned> {
    let mut shapes = Vec::new();
    for level in [Level::Raid4, Level::Raid5, Level::Raid6] {
        for &layout in parity_layouts(level) {
            for slots in if level == Level::Raid6 { 4..=8 } else { 2..=8 } {
                for (chunk, chunks, rest) in [(8, 1, 7), (8, 2 * u64::from(slots) + 1, 0), (16, 5, 3)] {
                    let component = chunk * chunks + rest;
                    shapes.push(Owned { level, layout, chunk, slots, component, members: vec![] });
                }
            }
        }
    }
    shapes
}

/// Every layout number of one to four near and far copies; also those that no geometry is made for.
fn raid10_layouts() -> impl Iterator<Item = u32> {
    (1..=4u32).flat_map(|near| {
        (1..=4u32)
            .flat_map(move |far| [0, 1, 2, 3, 4, 5].into_iter().map(move |high| near | far << 8 | high << 16))
    })
}

fn small_raid10() -> Vec<Owned> {
    let mut shapes = Vec::new();
    for layout in raid10_layouts() {
        for slots in 2..=8 {
            for (chunk, chunks, rest) in [(8, 1, 0), (8, 4, 1), (8, 7, 0), (16, 13, 15)] {
                let component = chunk * chunks + rest;
                let shape = Owned { level: Level::Raid10, layout, chunk, slots, component, members: vec![] };
                // Which are refused, and that they have to be, is a test of its own.
                if shape.geometry().is_ok() {
                    shapes.push(shape);
                }
            }
        }
    }
    shapes
}

/// Every way to choose `slots` lengths from a few, as members.
fn members_of(lengths: &[u64], slots: u16) -> Vec<Vec<Sectors>> {
    let mut all = vec![vec![]];
    for _ in 0..slots {
        all = all
            .into_iter()
            .flat_map(|members: Vec<Sectors>| {
                lengths.iter().map(move |&length| {
                    let mut members = members.clone();
                    members.push(Sectors(length));
                    members
                })
            })
            .collect();
    }
    all
}

fn small_raid0() -> Vec<Owned> {
    let mut shapes = Vec::new();
    for (layout, chunk) in [(0, 8), (1, 8), (2, 8), (1, 3), (2, 1), (1, 24)] {
        for slots in 1..=5 {
            for members in members_of(&[chunk, 2 * chunk, 3 * chunk + chunk / 2, 7 * chunk], slots) {
                let shape = Owned { level: Level::Raid0, layout, chunk, slots, component: 0, members };
                if layout != 0 || shape.geometry().is_ok() {
                    shapes.push(shape);
                }
            }
        }
        let members = (1..=8).rev().map(|chunks| Sectors(chunks * chunk)).collect();
        if layout != 0 {
            shapes.push(Owned { level: Level::Raid0, layout, chunk, slots: 8, component: 0, members });
        }
    }
    shapes
}

fn small_unchunked() -> Vec<Owned> {
    let mut shapes = Vec::new();
    for slots in 1..=8 {
        for component in [1, 2047, 2048, 2049, 5000] {
            let members = vec![];
            shapes.push(Owned { level: Level::Raid1, layout: 0, chunk: 0, slots, component, members });
        }
    }
    for chunk in [0, 8, 24, 1000] {
        for slots in 1..=3 {
            for members in members_of(&[3000, 2048, 6001], slots) {
                shapes.push(Owned { level: Level::Linear, layout: 0, chunk, slots, component: 0, members });
            }
        }
    }
    shapes
}

fn small_shapes() -> Vec<Owned> {
    [small_parity(), small_raid10(), small_raid0(), small_unchunked()].concat()
}

fn map_cells(map: StripeMap<'_>) -> impl Iterator<Item = Cell> + '_ {
    (0..map.cells()).map(move |index| map.cell(index))
}

/// One stripe: its cells lie on distinct slots inside what is used, and both ways back lead to it.
fn check_stripe(geometry: &Geometry, number: Stripe, rows: &[u32]) {
    let map = geometry.stripe(number);
    assert_eq!((map.number(), map.cells()), (number, geometry.cells()));
    assert!(map.rows() > 0 && u64::from(map.rows()) <= geometry.unit().0);
    let mut seen = SlotSet::EMPTY;
    for index in 0..map.cells() {
        let cell = map.cell(index);
        assert!(cell.slot.0 < geometry.slots() && !seen.contains(cell.slot), "{number:?} {cell:?}");
        seen.insert(cell.slot);
        assert!(cell.at.0 + u64::from(map.rows()) <= geometry.member_used(cell.slot).0);
        assert_eq!(map.cell_of(cell.slot), Some(index));
        for &row in rows.iter().filter(|&&row| row < map.rows()) {
            let here = Some(Place { stripe: number, cell: index, row });
            assert_eq!(geometry.find(cell.slot, cell.at + Sectors(u64::from(row))), here, "{geometry:?}");
            if let CellKind::Data(data) = cell.kind {
                assert_eq!(index, data);
                assert_eq!(geometry.locate(map.lba(data) + Sectors(u64::from(row))), here, "{geometry:?}");
            }
        }
    }
    for slot in (0..geometry.slots()).map(Slot).filter(|&slot| !seen.contains(slot)) {
        assert_eq!(map.cell_of(slot), None);
    }
    assert_eq!(map.cell_of(Slot(geometry.slots())), None);
}

/// Data, copies and parity of the sector `lba` are where md has them.
fn check_sector(shape: &Owned, geometry: &Geometry, lba: u64) {
    let expected = md::places(shape, lba);
    let place = geometry.locate(Lba(lba)).expect("inside the LU");
    let map = geometry.stripe(place.stripe);
    let found: Vec<(CellKind, u16, u64)> = map_cells(map)
        .filter(|cell| !matches!(cell.kind, CellKind::Data(data) if data != place.cell))
        .map(|cell| (cell.kind, cell.slot.0, cell.at.0 + u64::from(place.row)))
        .collect();
    assert_eq!(found, expected, "sector {lba} of {shape:?}");
    let power = match shape.level {
        Level::Raid6 => {
            md::q_power(shape.layout, u64::from(shape.slots), place.stripe.0, u64::from(place.cell))
        }
        _ => 0,
    };
    assert_eq!(u64::from(map.q_power(place.cell)), power, "power at sector {lba} of {shape:?}");
}

#[test]
fn every_sector_of_every_small_lu_is_where_md_has_it() {
    for shape in small_shapes() {
        let geometry = shape.geometry().expect("a good shape");
        assert_eq!(geometry.size().0, md::size(&shape), "{shape:?}");
        for lba in 0..geometry.size().0 {
            check_sector(&shape, &geometry, lba);
        }
        for slot in 0..shape.slots {
            assert_eq!(geometry.member_used(Slot(slot)).0, md::used(&shape, slot), "{shape:?}");
        }
    }
}

/// `find` inverts `stripe` cell by cell, so two cells on one sector would have shown as a wrong answer; what
/// remains is that it invents nothing: it answers for exactly as many member sectors as the stripes have.
#[test]
fn stripes_cover_every_small_lu_once_and_find_is_the_inverse() {
    for shape in small_shapes() {
        let geometry = shape.geometry().expect("a good shape");
        let (mut data_rows, mut all_rows) = (0, 0);
        for number in (0..geometry.stripes()).map(Stripe) {
            let rows = geometry.stripe(number).rows();
            check_stripe(&geometry, number, &(0..rows).collect::<Vec<u32>>());
            data_rows += u64::from(rows) * u64::from(geometry.data_cells());
            all_rows += u64::from(rows) * u64::from(geometry.cells());
        }
        assert_eq!(data_rows, geometry.size().0, "{shape:?}");
        assert_eq!(geometry.locate(Lba(geometry.size().0)), None);
        let mut found = 0;
        for slot in (0..=shape.slots).map(Slot) {
            let used = geometry.member_used(slot).0;
            found += (0..used).filter(|&at| geometry.find(slot, MemberLba(at)).is_some()).count() as u64;
            assert_eq!(geometry.find(slot, MemberLba(used)), None);
        }
        assert_eq!(found, all_rows, "{shape:?}");
    }
}

/// Which slots each stripe is on, with its kinds told apart: data, and all. One bit per slot.
fn stripe_masks(geometry: &Geometry) -> BTreeSet<(u32, u32)> {
    (0..geometry.stripes())
        .map(|number| {
            map_cells(geometry.stripe(Stripe(number))).fold((0, 0), |(data, all), cell| {
                let bit = 1 << cell.slot.0;
                (if matches!(cell.kind, CellKind::Data(_)) { data | bit } else { data }, all | bit)
            })
        })
        .collect()
}

#[test]
fn tolerates_and_redundancy_left_agree_with_brute_force() {
    for shape in small_shapes() {
        let geometry = shape.geometry().expect("a good shape");
        let masks = stripe_masks(&geometry);
        let whole = |missing: u32| {
            masks.iter().all(|&(data, all)| {
                if geometry.copies() > 1 {
                    all & !missing != 0
                } else {
                    data & missing == 0 || (all & missing).count_ones() <= u32::from(geometry.parities())
                }
            })
        };
        let subsets = 1u32 << shape.slots;
        let lost: Vec<u32> = (0..subsets).filter(|&missing| !whole(missing)).collect();
        for missing in 0..subsets {
            let set: SlotSet = (0..shape.slots).filter(|slot| missing >> slot & 1 == 1).map(Slot).collect();
            assert_eq!(geometry.tolerates(&set), whole(missing), "{missing:b} missing of {shape:?}");
            // The cheapest way to lose data from here takes one member more than may fail.
            let more = lost.iter().filter(|&&lost| lost & missing == missing);
            let left = more.map(|lost| (lost & !missing).count_ones()).min().unwrap_or(0).saturating_sub(1);
            assert_eq!(u32::from(geometry.redundancy_left(&set)), left, "{missing:b} missing of {shape:?}");
            let foreign = set.with(Slot(shape.slots)).with(Slot(1919));
            assert_eq!(geometry.tolerates(&foreign), whole(missing));
            assert_eq!(u32::from(geometry.redundancy_left(&foreign)), left);
        }
        assert_eq!(geometry.is_redundant(), geometry.copies() > 1 || geometry.parities() > 0);
    }
}

#[test]
fn parity_only_members_hold_no_data() {
    for shape in small_parity().into_iter().filter(|shape| shape.component >= 8 * u64::from(shape.slots)) {
        let geometry = shape.geometry().expect("a good shape");
        // Over a whole turn of the rotation a slot without data has a parity that stays.
        let with_data = stripe_masks(&geometry).into_iter().fold(0, |sum, (data, _)| sum | data);
        for slot in 0..=shape.slots {
            let expected = slot < shape.slots && with_data >> slot & 1 == 0;
            assert_eq!(geometry.parity_only(Slot(slot)), expected, "slot {slot} of {shape:?}");
        }
    }
}

/// md would write over itself, or keep both copies on one disk, on exactly the RAID10 shapes that are
/// refused.
#[test]
fn raid10_layouts_are_refused_exactly_where_md_s_formulas_collide() {
    let mut refused = 0;
    for layout in raid10_layouts() {
        for slots in 2..=13 {
            let copies = (layout & 255) * (layout >> 8 & 255);
            // Enough rows for the whole pattern.
            let shape =
                Owned { level: Level::Raid10, layout, chunk: 8, slots, component: 8 * 48, members: vec![] };
            let geometry = shape.geometry();
            if copies < 2 || copies > u32::from(slots) {
                let kind = if copies < 2 { ErrorKind::Format } else { ErrorKind::Usage };
                assert_eq!(geometry.expect_err("too many copies, or one").kind(), kind);
                continue;
            }
            let mut taken = BTreeSet::new();
            let sound = (layout >> 17 != 1 || u32::from(slots) >= layout >> 8 & 255)
                && (0..md::size(&shape)).step_by(8).all(|lba| {
                    let places = md::places(&shape, lba);
                    let roles: BTreeSet<u16> = places.iter().map(|place| place.1).collect();
                    roles.len() == places.len()
                        && places.iter().all(|&(_, role, at)| taken.insert((role, at)))
                });
            assert_eq!(geometry.is_ok(), sound, "{shape:?}");
            if let Err(error) = geometry {
                assert_eq!(error.kind(), ErrorKind::Format, "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 50, "{refused}");
}

/// A level, a layout and sizes to choose from: as large as they may be, or less.
fn large_shape() -> impl Strategy<Value = Owned> {
    let numbers = (0usize..7, any::<u32>(), any::<u32>(), 1u16..=1920, 0u32..=22);
    let lengths = (proptest::collection::vec(1u64..1 << 63, 1..6), 0u32..55, any::<u32>());
    (numbers, lengths).prop_filter_map("a shape that is not refused", |(numbers, (lengths, shift, pick))| {
        let (level, layout, copies, slots, chunk) = numbers;
        let level = Level::ALL[level];
        let layout = match level {
            Level::Linear | Level::Raid1 => 0,
            Level::Raid0 => 1 + layout % 2,
            Level::Raid4 | Level::Raid5 | Level::Raid6 => {
                let known = parity_layouts(level);
                known[layout as usize % known.len()]
            }
            Level::Raid10 => {
                let (near, far) = (1 + copies % 5, 1 + copies / 5 % 5);
                near | far << 8 | (layout % 6) << 16
            }
        };
        let slots = if level == Level::Raid6 { 4 + slots % 252 } else { slots };
        let chunk = match level {
            Level::Raid1 => 0,
            // Also those that are no power of two.
            Level::Linear | Level::Raid0 => 1 + u64::from(pick) % (1 << chunk),
            _ => 1 << chunk.max(3),
        };
        // Together no more than 2^63.
        let scaled = |length: u64| {
            let share = if level == Level::Raid1 { 1 } else { u64::from(slots) };
            (length / share) >> (shift / 2)
        };
        let members = (0..usize::from(slots)).map(|slot| {
            let turned = slot.wrapping_mul(pick as usize | 1);
            Sectors(scaled(lengths[turned % lengths.len()]))
        });
        let shape =
            Owned { level, layout, chunk, slots, component: scaled(lengths[0]), members: members.collect() };
        shape.geometry().is_ok().then_some(shape)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn large_lus_follow_md_and_find_is_the_inverse(
        shape in large_shape(),
        picks in proptest::collection::vec(any::<u64>(), 12),
    ) {
        let geometry = shape.geometry().expect("a good shape");
        let size = geometry.size().0;
        prop_assert_eq!(size, md::size(&shape));
        let ends = [0, size - 1, size / 2];
        for lba in picks.iter().map(|pick| pick % size).chain(ends) {
            check_sector(&shape, &geometry, lba);
        }
        let last = geometry.stripes() - 1;
        for number in picks.iter().map(|pick| pick % geometry.stripes()).chain([0, last]) {
            let rows = geometry.stripe(Stripe(number)).rows();
            check_stripe(&geometry, Stripe(number), &[0, picks[0] as u32 % rows, rows - 1]);
        }
        for &pick in &picks {
            let slot = Slot((pick % u64::from(shape.slots)) as u16);
            let used = geometry.member_used(slot).0;
            prop_assert_eq!(used, md::used(&shape, slot.0));
            let at = MemberLba(pick.rotate_left(17) % used);
            if let Some(place) = geometry.find(slot, at) {
                let cell = geometry.stripe(place.stripe).cell(place.cell);
                prop_assert_eq!((cell.slot, cell.at + Sectors(u64::from(place.row))), (slot, at));
            } else {
                prop_assert_eq!(shape.level, Level::Raid10);
            }
        }
        prop_assert_eq!(geometry.locate(Lba(size)), None);
    }

    /// Nothing a superblock can say makes this panic, and what it accepts can be walked at both ends.
    #[test]
    fn any_shape_is_answered(
        level in 0usize..7,
        layout in prop_oneof![0u32..24, any::<u32>(), 0x10000u32..0x60000],
        chunk in prop_oneof![0u64..64, (0u32..24).prop_map(|shift| 1 << shift), any::<u64>()],
        slots in prop_oneof![0u16..12, any::<u16>()],
        component in any::<u64>(),
        shift in 0u32..64,
    ) {
        let members = vec![Sectors(component >> shift); usize::from(slots)];
        let level = Level::ALL[level];
        let shape = Owned { level, layout, chunk, slots, component: component >> shift, members };
        if let Ok(geometry) = shape.geometry() {
            for number in [0, geometry.stripes() - 1] {
                check_stripe(&geometry, Stripe(number), &[0, geometry.unit().0 as u32 - 1]);
            }
            let end = geometry.locate(Lba(geometry.size().0 - 1)).expect("inside the LU");
            prop_assert_eq!(end.stripe, Stripe(geometry.stripes() - 1));
            prop_assert_eq!(geometry.tolerates(&SlotSet::EMPTY.with(Slot(0))), geometry.is_redundant());
        }
    }

    #[test]
    fn division_is_exact(n in any::<u64>(), by in prop_oneof![1u64..5000, any::<u64>(), Just(u64::MAX)]) {
        let by = by.max(1);
        for n in [n, n / by * by, (n / by * by).wrapping_sub(1), 0, u64::MAX] {
            prop_assert_eq!(Divisor::new(by).div_rem(n), (n / by, n % by));
        }
    }
}

fn refusal(shape: Owned) -> ErrorKind {
    shape.geometry().expect_err("a bad shape").kind()
}

fn shape(level: Level, layout: u32, chunk: u64, slots: u16, component: u64) -> Owned {
    let members = vec![Sectors(component); usize::from(slots)];
    Owned { level, layout, chunk, slots, component, members }
}

#[test]
fn bad_shapes_are_refused() {
    use ErrorKind::{Format, Usage};
    let big = 1 << 20;
    for (kind, bad) in [
        (Usage, shape(Level::Raid5, 2, 24, 3, big)),
        (Usage, shape(Level::Raid5, 2, 4, 3, big)),
        (Usage, shape(Level::Raid5, 2, 0, 3, big)),
        (Usage, shape(Level::Raid6, 2, 1 << 23, 4, u64::MAX >> 8)),
        (Usage, shape(Level::Raid0, 1, 0, 3, big)),
        (Usage, shape(Level::Linear, 0, (1 << 22) + 1, 3, big)),
        (Usage, shape(Level::Linear, 0, 0, 0, big)),
        (Usage, shape(Level::Raid1, 0, 0, 0, big)),
        (Usage, shape(Level::Raid1, 0, 0, 1921, big)),
        (Usage, shape(Level::Raid4, 0, 128, 1, big)),
        (Usage, shape(Level::Raid6, 2, 128, 3, big)),
        (Usage, shape(Level::Raid6, 2, 128, 258, big)),
        (Usage, shape(Level::Raid6, 8, 128, 256, big)),
        (Usage, shape(Level::Raid10, 0x103, 128, 2, big)),
        (Usage, shape(Level::Raid10, 0x102, 128, 1, big)),
        (Usage, shape(Level::Raid5, 2, 128, 3, 127)),
        (Usage, shape(Level::Raid10, 0x201, 128, 3, 255)),
        (Usage, shape(Level::Raid0, 1, 128, 3, 127)),
        (Usage, shape(Level::Linear, 0, 0, 3, 0)),
        (Usage, shape(Level::Raid1, 0, 0, 2, 0)),
        (Usage, shape(Level::Raid5, 2, 128, 3, u64::MAX / 2)),
        (Usage, shape(Level::Raid10, 0x102, 128, 3, u64::MAX / 2)),
        (Usage, shape(Level::Raid0, 1, 128, 3, u64::MAX / 2)),
        (Usage, shape(Level::Linear, 0, 0, 3, u64::MAX / 2)),
        (Usage, Owned { members: vec![Sectors(big)], ..shape(Level::Raid0, 1, 128, 2, 0) }),
        (Format, shape(Level::Raid0, 3, 128, 3, big)),
        (Format, shape(Level::Raid5, 6, 128, 3, big)),
        (Format, shape(Level::Raid5, 16, 128, 5, big)),
        (Format, shape(Level::Raid6, 7, 128, 5, big)),
        (Format, shape(Level::Raid6, 21, 128, 5, big)),
        (Format, shape(Level::Raid10, 0x101, 128, 4, big)),
        (Format, shape(Level::Raid10, 0x100, 128, 4, big)),
        (Format, shape(Level::Raid10, 0x60102, 128, 4, big)),
        (Format, shape(Level::Raid10, 0x20201, 128, 2, big)),
    ] {
        let told = alloc::format!("{bad:?}");
        assert_eq!(refusal(bad), kind, "{told}");
    }
}

#[test]
fn raid0_of_several_zones_must_say_its_layout() {
    let zones = |lengths: &[u64]| Owned {
        members: lengths.iter().map(|&length| Sectors(length)).collect(),
        ..shape(Level::Raid0, 0, 8, lengths.len() as u16, 0)
    };
    assert_eq!(refusal(zones(&[8, 16, 16])), ErrorKind::Format);
    // Equal after rounding; and a second zone of one member, where the layouts agree.
    assert!(zones(&[16, 17, 23]).geometry().is_ok());
    assert!(zones(&[8, 8, 24]).geometry().is_ok());
}

#[test]
fn limits_are_reached() {
    assert!(shape(Level::Raid6, 2, 128, 257, 1 << 20).geometry().is_ok());
    assert!(shape(Level::Raid6, 10, 128, 255, 1 << 20).geometry().is_ok());
    assert!(shape(Level::Raid5, 2, 1 << 22, 1920, 1 << 50).geometry().is_ok());
    let mirror = shape(Level::Raid1, 0, 64, 1920, u64::MAX).geometry().expect("no sum, no overflow");
    assert_eq!(
        (mirror.chunk(), mirror.size(), mirror.unit()),
        (Sectors(0), Sectors(u64::MAX), Sectors(2048))
    );
    assert_eq!(mirror.redundancy_left(&SlotSet::EMPTY), 1919);
}

#[test]
fn shape_of_stripes() {
    let geometry = shape(Level::Raid6, 2, 128, 6, 1000).geometry().expect("a good shape");
    assert_eq!(
        (geometry.data_cells(), geometry.cells(), geometry.parities(), geometry.copies()),
        (4, 6, 2, 1)
    );
    assert_eq!((geometry.size(), geometry.stripes()), (Sectors(7 * 128 * 4), 7));
    assert!(!geometry.synced_unit_is_lu());
    let geometry = shape(Level::Raid10, 0x202, 128, 6, 1000).geometry().expect("a good shape");
    assert_eq!(
        (geometry.data_cells(), geometry.cells(), geometry.parities(), geometry.copies()),
        (1, 4, 0, 4)
    );
    assert!(geometry.synced_unit_is_lu());
    assert_eq!(
        (geometry.level(), geometry.slots(), geometry.layout().md_number()),
        (Level::Raid10, 6, 0x202)
    );
}

#[test]
#[should_panic(expected = "stripe 7 of 7")]
fn a_stripe_past_the_end_is_a_bug_of_the_caller() {
    shape(Level::Raid6, 2, 128, 6, 1000).geometry().expect("a good shape").stripe(Stripe(7));
}

/// Names are printed, parsed and numbered consistently, for every number that a level knows.
#[test]
fn layout_names_go_both_ways() {
    for level in Level::ALL {
        for number in (0..32).chain(raid10_layouts()) {
            let Ok(layout) = Layout::from_md(level, number) else { continue };
            assert_eq!((layout.level(), layout.md_number()), (level, number));
            let parsed = Layout::parse(level, &alloc::format!("{layout}"));
            // Numbers without meaning are kept, but have no name of their own.
            let named = !matches!(level, Level::Linear | Level::Raid1 | Level::Raid4) || number == 0;
            assert_eq!(parsed.expect("its own name") == layout, named, "{level} {number:#x}");
        }
        assert_eq!(Layout::parse(level, "default").expect("always known"), Layout::default_for(level));
    }
    for (level, name, number, printed) in [
        (Level::Raid5, "ls", 2, "left-symmetric"),
        (Level::Raid5, "RA", 1, "right-asymmetric"),
        (Level::Raid6, "ddf-n-restart", 9, "ddf-N-restart"),
        (Level::Raid6, "la-6", 16, "left-asymmetric-6"),
        (Level::Raid0, "alternate", 2, "alternate"),
        (Level::Raid1, "-", 0, "-"),
        (Level::Raid10, "n2", 0x102, "n2"),
        (Level::Raid10, "f3", 0x301, "f3"),
        (Level::Raid10, "o2", 0x10201, "o2"),
        (Level::Raid10, "n2f2", 0x202, "n2f2"),
        (Level::Raid10, "f2-sets", 0x40201, "f2-sets"),
    ] {
        let layout = Layout::parse(level, name).expect(name);
        assert_eq!((layout.md_number(), alloc::format!("{layout}").as_str()), (number, printed));
    }
    for (level, name) in [
        (Level::Raid5, "left-symmetric-6"),
        (Level::Raid5, ""),
        (Level::Raid10, ""),
        (Level::Raid10, "n"),
        (Level::Raid10, "n0"),
        (Level::Raid10, "n1"),
        (Level::Raid10, "n256"),
        (Level::Raid10, "n2x"),
        (Level::Raid10, "f2n2"),
        (Level::Raid10, "ñ2"),
        (Level::Raid10, "f2-set"),
        (Level::Linear, "ls"),
    ] {
        assert_eq!(Layout::parse(level, name).expect_err(name).kind(), ErrorKind::Usage);
    }
}

#[test]
fn component_is_rounded_as_mdadm_does() {
    let round = |level, chunk, length| usable_component(level, Sectors(chunk), Sectors(length)).0;
    assert_eq!(round(Level::Raid5, 128, 1000), 896);
    assert_eq!(round(Level::Raid1, 0, 1000), 896);
    assert_eq!(round(Level::Raid1, 0, 100), 100);
    assert_eq!(round(Level::Linear, 0, 1001), 1001);
    assert_eq!(round(Level::Raid10, 1024, 1000), 0);
}
