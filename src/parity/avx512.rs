//! The kernels for x86-64 with AVX-512 and GFNI: 64 bytes a register, sums of three by one instruction, and a product by a
//! constant as one affine map.
//!
//! Multiplying by a constant is linear over the bits of a byte, hence a matrix of 8 by 8 bits, and `gf2p8affineqb` applies one to
//! 64 bytes at once, in any field; the other instruction of GFNI knows only the field of AES.
//!
//! Promises the same bytes as every other set; the last 63 bytes at most are left to the portable one. Does not find out what
//! the CPU has: the caller of [`Kernels::avx512`] answers for that. Unsafe code here is the step from the table into functions
//! that need these features, and two moves between memory and registers, each of which takes a whole array: all indexing is
//! checked. Stores go through the cache: parity is read by a disk or by the kernel soon after.
#![allow(unsafe_code)]

use core::arch::x86_64::{
    __m512i, _mm512_gf2p8affine_epi64_epi8, _mm512_loadu_si512, _mm512_set1_epi64, _mm512_setzero_si512,
    _mm512_storeu_si512, _mm512_ternarylogic_epi64, _mm512_xor_si512,
};

use super::gf::MATRICES;
use super::{Kernels, Source, portable};

impl Kernels {
    /// The kernels for a CPU with AVX-512 (F) and GFNI.
    ///
    /// # Safety
    ///
    /// The CPU (and the operating system, which saves the registers) must support AVX-512F and GFNI wherever the value is used.
    pub const unsafe fn avx512() -> Kernels {
        // The functions below are reached through this table only, and whoever asks for the table has
        // promised the features.
        Kernels {
            name: "avx512",
            // SAFETY: the CPU has AVX-512 and GFNI, as promised by the caller of this constructor.
            xor: |to, sources, accumulate| unsafe { xor(to, sources, accumulate) },
            // SAFETY: as for `xor`.
            pq: |p, q, sources, order, accumulate| unsafe { pq(p, q, sources, order, accumulate) },
            // SAFETY: as for `xor`.
            one: |to, sources, accumulate| unsafe { one(to, sources, accumulate) },
            // SAFETY: as for `xor`.
            two: |to, to2, sources, accumulate| unsafe { two(to, to2, sources, accumulate) },
        }
    }
}

/// Bytes in a register.
const LANE: usize = size_of::<__m512i>();

/// `to` = sum of the sources.
#[target_feature(enable = "avx512f,gfni")]
fn xor(to: &mut [u8], sources: &[Source<'_>], accumulate: bool) {
    let mut at = 0;
    while to.len() - at >= 4 * LANE {
        xor_block::<4>(to, sources, accumulate, at);
        at += 4 * LANE;
    }
    while to.len() - at >= LANE {
        xor_block::<1>(to, sources, accumulate, at);
        at += LANE;
    }
    portable::xor(to, sources, accumulate, at);
}

/// `N` registers of [`xor`].
#[target_feature(enable = "avx512f,gfni")]
#[inline]
fn xor_block<const N: usize>(to: &mut [u8], sources: &[Source<'_>], accumulate: bool, at: usize) {
    let mut sum = start::<N>(to, at, accumulate);
    let (pairs, rest) = sources.as_chunks::<2>();
    for [a, b] in pairs {
        add_both(&mut sum, &load(a.bytes, at), &load(b.bytes, at));
    }
    for source in rest {
        add(&mut sum, &load(source.bytes, at));
    }
    store(to, at, &sum);
}

/// `p` = sum of the sources, `q` = sum of g^j times the source `order[j]`, by Horner's rule.
#[target_feature(enable = "avx512f,gfni")]
fn pq(p: &mut [u8], q: &mut [u8], sources: &[Source<'_>], order: &[u8], accumulate: bool) {
    let mut at = 0;
    while p.len() - at >= 4 * LANE {
        pq_block::<4>(p, q, sources, order, accumulate, at);
        at += 4 * LANE;
    }
    while p.len() - at >= LANE {
        pq_block::<1>(p, q, sources, order, accumulate, at);
        at += LANE;
    }
    portable::pq(p, q, sources, order, accumulate, at);
}

/// `N` registers of each of [`pq`]'s sums.
#[target_feature(enable = "avx512f,gfni")]
#[inline]
fn pq_block<const N: usize>(
    p: &mut [u8],
    q: &mut [u8],
    sources: &[Source<'_>],
    order: &[u8],
    accumulate: bool,
    at: usize,
) {
    let (mut p_sum, mut q_sum) = (start::<N>(p, at, accumulate), zero());
    for &index in order.iter().rev() {
        let data = load(sources[usize::from(index)].bytes, at);
        add(&mut p_sum, &data);
        double(&mut q_sum);
        add(&mut q_sum, &data);
    }
    add(&mut q_sum, &start(q, at, accumulate));
    store(p, at, &p_sum);
    store(q, at, &q_sum);
}

/// `to` = sum of the first coefficients times the sources.
#[target_feature(enable = "avx512f,gfni")]
fn one(to: &mut [u8], sources: &[Source<'_>], accumulate: bool) {
    let mut at = 0;
    while to.len() - at >= 4 * LANE {
        one_block::<4>(to, sources, accumulate, at);
        at += 4 * LANE;
    }
    while to.len() - at >= LANE {
        one_block::<1>(to, sources, accumulate, at);
        at += LANE;
    }
    portable::one(to, sources, accumulate, at);
}

/// `N` registers of [`one`].
#[target_feature(enable = "avx512f,gfni")]
#[inline]
fn one_block<const N: usize>(to: &mut [u8], sources: &[Source<'_>], accumulate: bool, at: usize) {
    let mut sum = start::<N>(to, at, accumulate);
    for source in sources {
        add_product(&mut sum, source.coef[0], &load(source.bytes, at));
    }
    store(to, at, &sum);
}

/// `to`, `to2` = sums of the first and of the second coefficients times the sources.
#[target_feature(enable = "avx512f,gfni")]
fn two(to: &mut [u8], to2: &mut [u8], sources: &[Source<'_>], accumulate: bool) {
    let mut at = 0;
    while to.len() - at >= 4 * LANE {
        two_block::<4>(to, to2, sources, accumulate, at);
        at += 4 * LANE;
    }
    while to.len() - at >= LANE {
        two_block::<1>(to, to2, sources, accumulate, at);
        at += LANE;
    }
    portable::two(to, to2, sources, accumulate, at);
}

/// `N` registers of each of [`two`]'s sums.
#[target_feature(enable = "avx512f,gfni")]
#[inline]
fn two_block<const N: usize>(
    to: &mut [u8],
    to2: &mut [u8],
    sources: &[Source<'_>],
    accumulate: bool,
    at: usize,
) {
    let (mut sum, mut sum2) = (start::<N>(to, at, accumulate), start::<N>(to2, at, accumulate));
    for source in sources {
        let data = load(source.bytes, at);
        add_product(&mut sum, source.coef[0], &data);
        add_product(&mut sum2, source.coef[1], &data);
    }
    store(to, at, &sum);
    store(to2, at, &sum2);
}

/// What a sum begins with: what the target holds, or zero.
#[target_feature(enable = "avx512f,gfni")]
#[inline]
fn start<const N: usize>(to: &[u8], at: usize, accumulate: bool) -> [__m512i; N] {
    if accumulate { load(to, at) } else { zero() }
}

/// A sum of nothing.
#[target_feature(enable = "avx512f,gfni")]
#[inline]
fn zero<const N: usize>() -> [__m512i; N] {
    [_mm512_setzero_si512(); N]
}

/// `sum` += `data`.
#[target_feature(enable = "avx512f,gfni")]
#[inline]
fn add<const N: usize>(sum: &mut [__m512i; N], data: &[__m512i; N]) {
    for (sum, data) in sum.iter_mut().zip(data) {
        *sum = _mm512_xor_si512(*sum, *data);
    }
}

/// `sum` += `a` + `b`.
#[target_feature(enable = "avx512f,gfni")]
#[inline]
fn add_both<const N: usize>(sum: &mut [__m512i; N], a: &[__m512i; N], b: &[__m512i; N]) {
    for ((sum, a), b) in sum.iter_mut().zip(a).zip(b) {
        // The truth table of a xor of three.
        *sum = _mm512_ternarylogic_epi64::<0x96>(*sum, *a, *b);
    }
}

/// `sum` times the generator.
#[target_feature(enable = "avx512f,gfni")]
#[inline]
fn double<const N: usize>(sum: &mut [__m512i; N]) {
    let by_two = matrix(2);
    for sum in sum {
        *sum = _mm512_gf2p8affine_epi64_epi8::<0>(*sum, by_two);
    }
}

/// `sum` += `coef` * `data`.
#[target_feature(enable = "avx512f,gfni")]
#[inline]
fn add_product<const N: usize>(sum: &mut [__m512i; N], coef: u8, data: &[__m512i; N]) {
    match coef {
        0 => {}
        1 => add(sum, data),
        _ => {
            let by_coef = matrix(coef);
            for (sum, data) in sum.iter_mut().zip(data) {
                *sum = _mm512_xor_si512(*sum, _mm512_gf2p8affine_epi64_epi8::<0>(*data, by_coef));
            }
        }
    }
}

/// The matrix of the product with `coef`, in every quarter of a register.
#[target_feature(enable = "avx512f,gfni")]
#[inline]
fn matrix(coef: u8) -> __m512i {
    _mm512_set1_epi64(MATRICES[usize::from(coef)].cast_signed())
}

/// `N` registers from `at` on. Panics if `bytes` does not hold as many.
#[target_feature(enable = "avx512f,gfni")]
#[inline]
fn load<const N: usize>(bytes: &[u8], at: usize) -> [__m512i; N] {
    let (lanes, _) = bytes[at..at + N * LANE].as_chunks::<LANE>();
    let mut data = zero();
    for (data, lane) in data.iter_mut().zip(lanes) {
        // SAFETY: the reference is to an array of 64 readable bytes, and this load needs no alignment.
        *data = unsafe { _mm512_loadu_si512(lane.as_ptr().cast()) };
    }
    data
}

/// Puts `N` registers to `at`. Panics if `bytes` does not hold as many.
#[target_feature(enable = "avx512f,gfni")]
#[inline]
fn store<const N: usize>(bytes: &mut [u8], at: usize, sum: &[__m512i; N]) {
    let (lanes, _) = bytes[at..at + N * LANE].as_chunks_mut::<LANE>();
    for (lane, sum) in lanes.iter_mut().zip(sum) {
        // SAFETY: the reference is to an array of 64 writable bytes, and this store needs no alignment.
        unsafe { _mm512_storeu_si512(lane.as_mut_ptr().cast(), *sum) };
    }
}
