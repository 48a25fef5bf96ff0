//! The kernels for x86-64 with AVX-512 and GFNI: 64 bytes a register, sums of three by one instruction, and a product by a
//! constant as one affine map.
//!
//! Multiplying by a constant is linear over the bits of a byte, hence a matrix of 8 by 8 bits, and `gf2p8affineqb` applies one to
//! 64 bytes at once, in any field; the other instruction of GFNI knows only the field of AES.
//!
//! Promises the same bytes as every other set; the last 63 bytes at most are left to the portable one. Does not find out what
//! the CPU has: the caller of [`Kernels::avx512`] answers for that. Unsafe code here is the step from the table into functions
//! that need these features, and three moves between memory and registers, each of which takes a whole array: all indexing is
//! checked.
#![allow(unsafe_code)]

use core::arch::x86_64::{
    __m512i, _MM_HINT_T0, _mm_prefetch, _mm_sfence, _mm512_gf2p8affine_epi64_epi8, _mm512_loadu_si512,
    _mm512_set1_epi64, _mm512_setzero_si512, _mm512_storeu_si512, _mm512_stream_si512,
    _mm512_ternarylogic_epi64, _mm512_xor_si512,
};

use super::gf::MATRICES;
use super::sums::{AHEAD, FOLLOWED, sums};
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
            xor: |to, sources, accumulate| unsafe { xor::<false>(to, sources, accumulate) },
            // SAFETY: as for `xor`.
            pq: |p, q, blocks, accumulate| unsafe { pq::<false>(p, q, blocks, accumulate) },
            // SAFETY: as for `xor`.
            xor_past: |to, sources, accumulate| unsafe { xor::<true>(to, sources, accumulate) },
            // SAFETY: as for `xor`.
            pq_past: |p, q, blocks, accumulate| unsafe { pq::<true>(p, q, blocks, accumulate) },
            // SAFETY: as for `xor`.
            one: |to, sources, accumulate| unsafe { one(to, sources, accumulate) },
            // SAFETY: as for `xor`.
            two: |to, to2, sources, accumulate| unsafe { two(to, to2, sources, accumulate) },
        }
    }
}

sums!("avx512f,gfni", __m512i, _mm512_setzero_si512, 8);

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

/// `sum` = 4 * `sum` + 2 * `a` + `b`, by the generator 2: two steps of Horner's rule, which do not wait for each other.
#[target_feature(enable = "avx512f,gfni")]
#[inline]
fn double_twice<const N: usize>(sum: &mut [__m512i; N], a: &[__m512i; N], b: &[__m512i; N]) {
    let (by_two, by_four) = (matrix(2), matrix(4));
    for ((sum, a), b) in sum.iter_mut().zip(a).zip(b) {
        let (sum4, a2) = (
            _mm512_gf2p8affine_epi64_epi8::<0>(*sum, by_four),
            _mm512_gf2p8affine_epi64_epi8::<0>(*a, by_two),
        );
        *sum = _mm512_ternarylogic_epi64::<0x96>(sum4, a2, *b);
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

/// `sum` += `coef[0]` * `data` and `sum2` += `coef[1]` * `data`.
#[target_feature(enable = "avx512f,gfni")]
#[inline]
fn add_products<const N: usize>(
    sum: &mut [__m512i; N],
    sum2: &mut [__m512i; N],
    coef: [u8; 2],
    data: &[__m512i; N],
) {
    add_product(sum, coef[0], data);
    add_product(sum2, coef[1], data);
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
fn store<const N: usize, const PAST: bool>(bytes: &mut [u8], at: usize, sum: &[__m512i; N]) {
    let (lanes, _) = bytes[at..at + N * LANE].as_chunks_mut::<LANE>();
    for (lane, sum) in lanes.iter_mut().zip(sum) {
        let lane: *mut __m512i = lane.as_mut_ptr().cast();
        if PAST && lane.is_aligned() {
            // SAFETY: the reference was to an array of 64 writable bytes, which are aligned; a fence follows before anybody
            // else may look at them.
            unsafe { _mm512_stream_si512(lane, *sum) };
        } else {
            // SAFETY: the reference was to an array of 64 writable bytes, and this store needs no alignment.
            unsafe { _mm512_storeu_si512(lane, *sum) };
        }
    }
}
