//! What the tests prove: the field is the one of `reed-solomon-erasure`'s `galois_8`; every kernel set gives
//! exactly the sums that crate gives, for lengths, alignments, source counts and orders of all sorts, and
//! touches nothing beside its targets; and md's RAID6, which is made of such sums, gets back whatever two
//! blocks are lost.
//!
//! Under Miri the same runs with fewer shapes; `RUSTFLAGS=-Ctarget-feature=+avx2` lets Miri see the AVX2 set
//! too.

extern crate std;

use std::vec;
use std::vec::Vec;

use reed_solomon_erasure::galois_8;

use super::{Kernels, Source, Target, by_power, gf};

/// All sets this CPU can run.
fn sets() -> Vec<Kernels> {
    let mut sets = vec![Kernels::portable()];
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") {
        #[allow(unsafe_code)]
        // SAFETY: the CPU has just said that it has AVX2.
        sets.push(unsafe { Kernels::avx2() });
    }
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx512f") && std::is_x86_feature_detected!("gfni") {
        #[allow(unsafe_code)]
        // SAFETY: the CPU has just said that it has AVX-512F and GFNI.
        sets.push(unsafe { Kernels::avx512() });
    }
    sets
}

/// A seeded stream of numbers (xorshift64*), so that a failure comes again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`.
    fn below(&mut self, end: usize) -> usize {
        ((self.next() >> 32) as usize) % end
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let words = (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes());
        words.take(length).collect()
    }

    fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.below(i + 1));
        }
    }
}

/// The sorts of coefficients `combine` tells apart.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// All ones, one target.
    Xor,
    /// Any, one target.
    One,
    /// 1 and g^j, the j consecutive: up, down, rotated or shuffled.
    Stripe,
    /// Any, with 0 and 1 more often than chance has them, two targets.
    Two,
}

const SHAPES: [Shape; 4] = [Shape::Xor, Shape::One, Shape::Stripe, Shape::Two];

fn coefficients(shape: Shape, count: usize, random: &mut Random) -> Vec<[u8; 2]> {
    let any = |random: &mut Random| match random.below(4) {
        0 => random.below(2) as u8,
        _ => random.next() as u8,
    };
    let mut list: Vec<_> = match shape {
        Shape::Xor => (0..count).map(|_| [1, any(random)]).collect(),
        Shape::One | Shape::Two => (0..count).map(|_| [any(random), any(random)]).collect(),
        Shape::Stripe => (0..count as u32).map(|j| [1, gf::exp(j)]).collect(),
    };
    if matches!(shape, Shape::Stripe) && count > 0 {
        match random.below(4) {
            0 => {}
            1 => list.reverse(),
            2 => list.rotate_left(random.below(count)),
            _ => random.shuffle(&mut list),
        }
    }
    list
}

/// Bytes around each block that must stay as they are; at least the width of the widest vector.
const MARGIN: usize = 64;

/// A block of `length` bytes at `offset` (below 64) of a cache line, with a margin on both sides.
struct Placed {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Placed {
    fn new(length: usize, offset: usize, random: &mut Random) -> Placed {
        let memory = random.bytes(length + 2 * MARGIN + 64);
        let misaligned = memory.as_ptr().addr() % 64;
        Placed { start: MARGIN + (64 + offset - misaligned) % 64, memory, length }
    }

    fn get(&self) -> &[u8] {
        &self.memory[self.start..][..self.length]
    }

    fn get_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..][..self.length]
    }
}

/// Runs one sum on every kernel set and holds it against `galois_8`. `offset` tells the place in a cache line
/// of each block, the two targets being the first.
fn check(
    shape: Shape,
    length: usize,
    count: usize,
    random: &mut Random,
    mut offset: impl FnMut(usize) -> usize,
) {
    let mut targets = [0, 1].map(|i| Placed::new(length, offset(i), random));
    let blocks: Vec<_> = (0..count).map(|i| Placed::new(length, offset(i + 2), random)).collect();
    let coefs = coefficients(shape, count, random);
    let sources: Vec<_> =
        blocks.iter().zip(&coefs).map(|(block, &coef)| Source { bytes: block.get(), coef }).collect();
    let double = matches!(shape, Shape::Stripe | Shape::Two);
    let before = [0, 1].map(|i| targets[i].memory.clone());

    for accumulate in [false, true] {
        // The whole memory of the targets, margins included.
        let mut expected = before.clone();
        for (which, memory) in expected.iter_mut().enumerate().take(if double { 2 } else { 1 }) {
            let sum = &mut memory[targets[which].start..][..length];
            if !accumulate {
                sum.fill(0);
            }
            for source in &sources {
                galois_8::mul_slice_xor(source.coef[which], source.bytes, sum);
            }
        }
        let ways = sets().into_iter().flat_map(|kernels| [(kernels, false), (kernels, true)]);
        // (Miri has no stores around caches.)
        let is_possible = |past_caches: bool| !past_caches || !(accumulate || cfg!(miri));
        for (kernels, past_caches) in ways.filter(|&(_, past_caches)| is_possible(past_caches)) {
            for (target, before) in targets.iter_mut().zip(&before) {
                target.memory.copy_from_slice(before);
            }
            let [first, second] = &mut targets;
            let target = match double {
                true => Target::Two(first.get_mut(), second.get_mut()),
                false => Target::One(first.get_mut()),
            };
            match past_caches {
                true => kernels.combine_past_caches(target, &sources),
                false => kernels.combine(target, &sources, accumulate),
            }
            for (which, target) in targets.iter().enumerate() {
                assert!(
                    target.memory == expected[which],
                    "{kernels:?} {shape:?}: target {which}, {count} x {length} bytes, accumulate {accumulate}, past caches \
                     {past_caches}"
                );
            }
        }
    }
}

#[test]
fn all_products_are_those_of_the_oracle() {
    for a in 0..=255 {
        for b in 0..=255 {
            assert_eq!(gf::mul(a, b), galois_8::mul(a, b), "{a} * {b}");
        }
    }
}

/// The kernels' table, too, holds each of the 65,536 products: as a sum of two of its entries.
#[test]
fn nibble_tables_hold_all_products() {
    for c in 0..=255_u8 {
        for b in 0..=255_u8 {
            let [low, high] = &gf::NIBBLES[usize::from(c)];
            let product = low[usize::from(b & 15)] ^ high[usize::from(b >> 4)];
            assert_eq!(product, gf::mul(c, b), "{c} * {b}");
        }
    }
}

#[test]
fn inverses_powers_and_logarithms_fit_together() {
    assert_eq!(gf::inv(0), None);
    assert_eq!(gf::log(0), None);
    for a in 1..=255 {
        assert_eq!(gf::inv(a).map(|inverse| gf::mul(a, inverse)), Some(1), "1 / {a}");
        assert_eq!(gf::log(a).map(|log| gf::exp(log.into())), Some(a), "log {a}");
    }
    assert_eq!([gf::exp(0), gf::exp(1), gf::exp(8), gf::exp(255)], [1, 2, 0x1d, 1]);
    for j in 0..600 {
        assert_eq!(gf::exp(j + 1), gf::mul(gf::exp(j), 2), "g^{j} * g");
    }
    assert_eq!(gf::exp(u32::MAX), gf::exp(u32::MAX % 255));
}

/// Each length up to a few of the widest steps, so that every mixture of wide, narrow and left-over bytes
/// occurs.
#[test]
fn every_length() {
    let mut random = Random(1);
    // Up to two turns of the widest kernels, some single registers, and a rest.
    let (last, step) = if cfg!(miri) { (170, 13) } else { (600, 1) };
    for length in (0..=last).step_by(step) {
        for shape in SHAPES {
            let count = random.below(21);
            let offsets = random.next();
            check(shape, length, count, &mut random, |i| (offsets.rotate_left(i as u32) % 64) as usize);
        }
    }
}

/// Each place in a cache line, of the targets and of the sources.
#[test]
fn every_alignment() {
    let mut random = Random(2);
    let step = if cfg!(miri) { 21 } else { 1 };
    for offset in (0..64).step_by(step) {
        for shape in SHAPES {
            check(shape, 257, 4, &mut random, |i| if i < 2 { offset } else { i % 64 });
            check(shape, 257, 4, &mut random, |i| if i < 2 { 0 } else { (offset + i) % 64 });
        }
    }
}

/// Each number of sources from none to twenty, and the most a RAID6 can have; more than that for the sums
/// without Horner.
#[test]
fn every_number_of_sources() {
    let mut random = Random(3);
    let counts: &[usize] = if cfg!(miri) { &[0, 1, 3, 20] } else { &[254, 255, 256, 300] };
    let small = if cfg!(miri) { 0..0 } else { 0..21 };
    for count in small.chain(counts.iter().copied()) {
        for shape in SHAPES {
            for _ in 0..if count > 20 { 1 } else { 4 } {
                check(shape, 239, count, &mut random, |i| i * 8 % 64);
            }
        }
    }
}

#[test]
fn large_blocks() {
    let mut random = Random(4);
    for _ in 0..if cfg!(miri) { 0 } else { 6 } {
        for shape in SHAPES {
            let (length, count) = (4096 + random.below(60_000), 1 + random.below(20));
            check(shape, length, count, &mut random, |i| i % 64);
        }
    }
}

/// Every coefficient with every byte, in every kernel set, for both targets.
#[test]
fn every_coefficient_times_every_byte() {
    let bytes: Vec<u8> = (0..=255).collect();
    let step = if cfg!(miri) { 51 } else { 1 };
    for c in (0..=255_u8).step_by(step) {
        for kernels in sets() {
            let (mut one, mut first, mut second) = ([0; 256], [0; 256], [0; 256]);
            let source = [Source { bytes: &bytes, coef: [c, c ^ 0xff] }];
            kernels.combine(Target::One(&mut one), &source, false);
            kernels.combine(Target::Two(&mut first, &mut second), &source, false);
            for b in 0..=255 {
                let at = usize::from(b);
                assert_eq!(one[at], gf::mul(c, b), "{kernels:?}: {c} * {b}, one target");
                assert_eq!(first[at], gf::mul(c, b), "{kernels:?}: {c} * {b}, first of two");
                assert_eq!(
                    second[at],
                    gf::mul(c ^ 0xff, b),
                    "{kernels:?}: {} * {b}, second of two",
                    c ^ 0xff
                );
            }
        }
    }
}

/// What goes the way of a full stripe, and in which order; what does not.
#[test]
fn full_stripes_are_recognised_in_any_order() {
    // Each source holds its own index.
    let order = |coefs: &[[u8; 2]]| {
        let indices: Vec<_> = (0..coefs.len()).map(|index| [index as u8]).collect();
        let sources: Vec<_> =
            coefs.iter().zip(&indices).map(|(&coef, bytes)| Source { bytes, coef }).collect();
        by_power(&sources, &mut [&[][..]; gf::ORDER]).map(<[&[u8]]>::concat)
    };
    let stripe = |powers: &[u32]| powers.iter().map(|&j| [1, gf::exp(j)]).collect::<Vec<_>>();

    assert_eq!(order(&[]), Some(vec![]));
    assert_eq!(order(&stripe(&[0])), Some(vec![0]));
    assert_eq!(order(&stripe(&[0, 1, 2, 3])), Some(vec![0, 1, 2, 3]), "ascending");
    assert_eq!(order(&stripe(&[3, 2, 1, 0])), Some(vec![3, 2, 1, 0]), "descending");
    assert_eq!(order(&stripe(&[2, 3, 0, 1])), Some(vec![2, 3, 0, 1]), "rotated");
    assert_eq!(order(&stripe(&[2, 0, 3, 1])), Some(vec![1, 3, 0, 2]), "shuffled");
    let all: Vec<u32> = (0..255).collect();
    assert_eq!(order(&stripe(&all)), Some((0..255).collect()), "the largest");

    assert_eq!(order(&stripe(&[1])), None, "does not begin at 0");
    assert_eq!(order(&stripe(&[0, 2])), None, "a gap");
    assert_eq!(order(&stripe(&[0, 1, 1])), None, "a power twice");
    assert_eq!(order(&[[1, 1], [2, 2]]), None, "not P's coefficient");
    assert_eq!(order(&[[1, 1], [1, 0]]), None, "not in Q");
    let more: Vec<u32> = (0..256).collect();
    assert_eq!(order(&stripe(&more)), None, "more than the field has powers");
}

/// P and Q of a tiny stripe, worked out by hand: 0x01, 0x80, 0xff give P = 0x7e; Q = 0x01 + 2 * 0x80 + 4 *
/// 0xff, where 2 * 0x80 = 0x1d and 4 * 0xff = 0x1fe * 2 = 0xe3 * 2 = 0x1c6 = 0xdb.
#[test]
fn a_stripe_by_hand() {
    for kernels in sets() {
        let (mut p, mut q) = ([0], [0]);
        let data: [(&[u8], u8); 3] = [(&[0x01], 1), (&[0x80], 2), (&[0xff], 4)];
        let sources = data.map(|(bytes, power)| Source { bytes, coef: [1, power] });
        kernels.combine(Target::Two(&mut p, &mut q), &sources, false);
        assert_eq!((p, q), ([0x7e], [0x01 ^ 0x1d ^ 0xdb]), "{kernels:?}");
    }
}

/// A RAID6 stripe: blocks 0 to k - 1 are the data in order of their powers, then P, then Q.
struct Stripe {
    blocks: Vec<Vec<u8>>,
    k: usize,
}

impl Stripe {
    fn new(k: usize, length: usize, kernels: Kernels, random: &mut Random) -> Stripe {
        let blocks: Vec<_> = (0..k).map(|_| random.bytes(length)).collect();
        let mut stripe = Stripe { blocks, k };
        let [p, q] = stripe.recover_two(kernels, &[k, k + 1], |j| [1, gf::exp(j as u32)]);
        stripe.blocks.extend([p, q]);
        stripe
    }

    /// The blocks that are not in `lost` and have a coefficient other than zero.
    fn sources(&self, lost: &[usize], coef: impl Fn(usize) -> [u8; 2]) -> Vec<Source<'_>> {
        let left = (0..self.blocks.len()).filter(|block| !lost.contains(block));
        let sources = left.map(|block| Source { bytes: &self.blocks[block], coef: coef(block) });
        sources.filter(|source| source.coef != [0, 0]).collect()
    }

    fn recover_one(&self, kernels: Kernels, lost: &[usize], coef: impl Fn(usize) -> u8) -> Vec<u8> {
        let mut block = vec![0x55; self.blocks[0].len()];
        kernels.combine(Target::One(&mut block), &self.sources(lost, |j| [coef(j), 0]), false);
        block
    }

    fn recover_two(&self, kernels: Kernels, lost: &[usize], coef: impl Fn(usize) -> [u8; 2]) -> [Vec<u8>; 2] {
        let mut blocks = [0x55, 0xaa].map(|filler| vec![filler; self.blocks[0].len()]);
        let [first, second] = &mut blocks;
        kernels.combine(Target::Two(first, second), &self.sources(lost, coef), false);
        blocks
    }

    /// Data block `x` from P; or, P being lost too, from Q.
    fn data(&self, kernels: Kernels, x: usize, lost: &[usize]) -> Vec<u8> {
        let (p, q) = (self.k, self.k + 1);
        if !lost.contains(&p) {
            return self.recover_one(kernels, lost, |j| u8::from(j != q));
        }
        let scale = gf::inv(gf::exp(x as u32)).unwrap();
        self.recover_one(kernels, lost, |j| if j == q { scale } else { gf::mul(scale, gf::exp(j as u32)) })
    }

    /// Data blocks `x` and `y` from P and Q.
    fn two_data(&self, kernels: Kernels, x: usize, y: usize) -> [Vec<u8>; 2] {
        let b = gf::inv(gf::exp(x as u32) ^ gf::exp(y as u32)).unwrap();
        let a = gf::mul(b, gf::exp(y as u32));
        self.recover_two(kernels, &[x, y], |j| {
            if j == self.k {
                [a, a ^ 1]
            } else if j == self.k + 1 {
                [b, b]
            } else {
                let c = a ^ gf::mul(b, gf::exp(j as u32));
                [c, c ^ 1]
            }
        })
    }
}

/// Each block and each two blocks of stripes with 2 to 8 data blocks come back by the table in the module's
/// text.
#[test]
fn raid6_recovers_every_loss_of_one_or_two() {
    let mut random = Random(5);
    for kernels in sets() {
        for k in if cfg!(miri) { 2..=4 } else { 2..=8 } {
            let stripe = Stripe::new(k, 173, kernels, &mut random);
            let (p, q) = (k, k + 1);
            let parity =
                |which: usize| stripe.recover_one(kernels, &[p, q], |j| [1, gf::exp(j as u32)][which]);
            assert_eq!([parity(0), parity(1)], stripe.blocks[p..], "P and Q, one at a time");
            for x in 0..k {
                assert_eq!(stripe.data(kernels, x, &[x]), stripe.blocks[x], "{k}+2 without {x}");
                assert_eq!(stripe.data(kernels, x, &[x, p]), stripe.blocks[x], "{k}+2 without {x}, P");
                assert_eq!(stripe.data(kernels, x, &[x, q]), stripe.blocks[x], "{k}+2 without {x}, Q");
                for y in x + 1..k {
                    let expected = [stripe.blocks[x].clone(), stripe.blocks[y].clone()];
                    assert_eq!(stripe.two_data(kernels, x, y), expected, "{k}+2 without {x} and {y}");
                }
            }
        }
    }
}

/// Old and new data accumulated into P and Q give the parity of the new stripe.
#[test]
fn read_modify_write_equals_a_full_stripe() {
    let mut random = Random(6);
    for kernels in sets() {
        let mut stripe = Stripe::new(6, 100, kernels, &mut random);
        for x in 0..6 {
            let new = random.bytes(100);
            let coef = [1, gf::exp(x as u32)];
            let (mut p, mut q) = (stripe.blocks[6].clone(), stripe.blocks[7].clone());
            let change = [Source { bytes: &stripe.blocks[x], coef }, Source { bytes: &new, coef }];
            kernels.combine(Target::Two(&mut p, &mut q), &change, true);
            stripe.blocks[x] = new;
            assert_eq!(
                stripe.recover_two(kernels, &[6, 7], |j| [1, gf::exp(j as u32)]),
                [p.clone(), q.clone()],
                "{kernels:?}: block {x}"
            );
            stripe.blocks[6] = p;
            stripe.blocks[7] = q;
        }
    }
}

#[test]
#[should_panic(expected = "not as long as its target")]
fn a_short_source_panics() {
    let source = [Source { bytes: &[0; 31], coef: [1, 1] }];
    Kernels::portable().combine(Target::One(&mut [0; 32]), &source, false);
}

#[test]
#[should_panic(expected = "differ in length")]
fn targets_of_two_lengths_panic() {
    Kernels::portable().combine(Target::Two(&mut [0; 32], &mut [0; 31]), &[], false);
}
