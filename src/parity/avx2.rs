//! The kernels for x86-64 with AVX2: 32 bytes a register, products by two look-ups of 16 entries.
//!
//! Promises the same bytes as every other set; the last 31 bytes at most are left to the portable one. Does
//! not find out whether the CPU has AVX2: the caller of [`Kernels::avx2`] answers for that. Unsafe code here
//! is the step from the table into functions that need AVX2, and three moves between memory and registers, each
//! of which takes a whole array: all indexing is checked.
#![allow(unsafe_code)]

use core::arch::x86_64::{
    __m256i, _MM_HINT_T0, _mm_loadu_si128, _mm_prefetch, _mm_sfence, _mm256_add_epi8, _mm256_and_si256,
    _mm256_broadcastsi128_si256, _mm256_cmpgt_epi8, _mm256_loadu_si256, _mm256_set1_epi8,
    _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_srli_epi64, _mm256_storeu_si256, _mm256_stream_si256,
    _mm256_xor_si256,
};

use super::gf::{NIBBLES, POLYNOMIAL};
use super::sums::{AHEAD, FOLLOWED, sums};
use super::{Kernels, Source, portable};

impl Kernels {
    /// The kernels for a CPU with AVX2.
    ///
    /// # Safety
    ///
    /// The CPU (and the operating system, which saves the registers) must support AVX2 wherever the value is
    /// used.
    pub const unsafe fn avx2() -> Kernels {
        // The functions below are reached through this table only, and whoever asks for the table has
        // promised AVX2.
        Kernels {
            name: "avx2",
            // SAFETY: the CPU has AVX2, as promised by the caller of this constructor.
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

sums!("avx2", __m256i, _mm256_setzero_si256, 4);

/// `sum` += `data`.
#[target_feature(enable = "avx2")]
#[inline]
fn add<const N: usize>(sum: &mut [__m256i; N], data: &[__m256i; N]) {
    for (sum, data) in sum.iter_mut().zip(data) {
        *sum = _mm256_xor_si256(*sum, *data);
    }
}

/// `sum` += `a` + `b`.
#[target_feature(enable = "avx2")]
#[inline]
fn add_both<const N: usize>(sum: &mut [__m256i; N], a: &[__m256i; N], b: &[__m256i; N]) {
    add(sum, a);
    add(sum, b);
}

/// `sum` times the generator: a doubling, and the polynomial where the high bit (the sign) was set.
#[target_feature(enable = "avx2")]
#[inline]
fn double<const N: usize>(sum: &mut [__m256i; N]) {
    let reduce = _mm256_set1_epi8(POLYNOMIAL as i8);
    for sum in sum {
        let carried = _mm256_and_si256(_mm256_cmpgt_epi8(_mm256_setzero_si256(), *sum), reduce);
        *sum = _mm256_xor_si256(_mm256_add_epi8(*sum, *sum), carried);
    }
}

/// `sum` = 4 * `sum` + 2 * `a` + `b`, by the generator 2: two steps of Horner's rule.
#[target_feature(enable = "avx2")]
#[inline]
fn double_twice<const N: usize>(sum: &mut [__m256i; N], a: &[__m256i; N], b: &[__m256i; N]) {
    double(sum);
    add(sum, a);
    double(sum);
    add(sum, b);
}

/// `sum` += `coef` * `data`, by a look-up of each nibble's product.
#[target_feature(enable = "avx2")]
#[inline]
fn add_product<const N: usize>(sum: &mut [__m256i; N], coef: u8, data: &[__m256i; N]) {
    match coef {
        0 => {}
        1 => add(sum, data),
        _ => {
            let table = Table::of(coef);
            for (sum, data) in sum.iter_mut().zip(data) {
                *sum = _mm256_xor_si256(*sum, table.product(nibbles(*data)));
            }
        }
    }
}

/// `sum` += `coef[0]` * `data` and `sum2` += `coef[1]` * `data`.
#[target_feature(enable = "avx2")]
#[inline]
fn add_products<const N: usize>(
    sum: &mut [__m256i; N],
    sum2: &mut [__m256i; N],
    coef: [u8; 2],
    data: &[__m256i; N],
) {
    match coef {
        [1, coef] => {
            add(sum, data);
            add_product(sum2, coef, data);
        }
        [coef, 0] => add_product(sum, coef, data),
        [0, coef] => add_product(sum2, coef, data),
        _ => {
            let [table, table2] = [Table::of(coef[0]), Table::of(coef[1])];
            for ((sum, sum2), data) in sum.iter_mut().zip(sum2).zip(data) {
                let nibbles = nibbles(*data);
                *sum = _mm256_xor_si256(*sum, table.product(nibbles));
                *sum2 = _mm256_xor_si256(*sum2, table2.product(nibbles));
            }
        }
    }
}

/// The low and the high nibbles of each byte.
#[target_feature(enable = "avx2")]
#[inline]
fn nibbles(data: __m256i) -> [__m256i; 2] {
    let mask = _mm256_set1_epi8(0x0f);
    [_mm256_and_si256(data, mask), _mm256_and_si256(_mm256_srli_epi64::<4>(data), mask)]
}

/// The products of a coefficient with each low nibble and with each high nibble, in both halves of a
/// register: look-ups do not cross from one half to the other.
struct Table {
    low: __m256i,
    high: __m256i,
}

impl Table {
    #[target_feature(enable = "avx2")]
    #[inline]
    fn of(coef: u8) -> Table {
        let [low, high] = &NIBBLES[usize::from(coef)];
        Table { low: both_halves(low), high: both_halves(high) }
    }

    /// The coefficient times the bytes that [`nibbles`] took apart.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn product(&self, [low, high]: [__m256i; 2]) -> __m256i {
        _mm256_xor_si256(_mm256_shuffle_epi8(self.low, low), _mm256_shuffle_epi8(self.high, high))
    }
}

/// A table of 16 entries in both halves of a register.
#[target_feature(enable = "avx2")]
#[inline]
fn both_halves(table: &[u8; 16]) -> __m256i {
    // SAFETY: the reference is to 16 readable bytes, and this load needs no alignment.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(table.as_ptr().cast()) })
}

/// `N` registers from `at` on. Panics if `bytes` does not hold as many.
#[target_feature(enable = "avx2")]
#[inline]
fn load<const N: usize>(bytes: &[u8], at: usize) -> [__m256i; N] {
    let (lanes, _) = bytes[at..at + N * LANE].as_chunks::<LANE>();
    let mut data = zero();
    for (data, lane) in data.iter_mut().zip(lanes) {
        // SAFETY: the reference is to an array of 32 readable bytes, and this load needs no alignment.
        *data = unsafe { _mm256_loadu_si256(lane.as_ptr().cast()) };
    }
    data
}

/// Puts `N` registers to `at`. Panics if `bytes` does not hold as many.
#[target_feature(enable = "avx2")]
#[inline]
fn store<const N: usize, const PAST: bool>(bytes: &mut [u8], at: usize, sum: &[__m256i; N]) {
    let (lanes, _) = bytes[at..at + N * LANE].as_chunks_mut::<LANE>();
    for (lane, sum) in lanes.iter_mut().zip(sum) {
        let lane: *mut __m256i = lane.as_mut_ptr().cast();
        if PAST && lane.is_aligned() {
            // SAFETY: the reference was to an array of 32 writable bytes, which are aligned; a fence follows before anybody
            // else may look at them.
            unsafe { _mm256_stream_si256(lane, *sum) };
        } else {
            // SAFETY: the reference was to an array of 32 writable bytes, and this store needs no alignment.
            unsafe { _mm256_storeu_si256(lane, *sum) };
        }
    }
}
