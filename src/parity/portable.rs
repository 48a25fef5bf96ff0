//! The kernels for any CPU: plain integer code, shaped so that compilers turn it into vectors.
//!
//! Promises the same bytes as every other set. Each function starts at byte `from`, so that the sets made for
//! wide vectors can leave it their last few bytes. Work goes block by block, the sources innermost, so that
//! each sum stays in registers and each source comes from memory once. Bytes are folded eight to a `u64`,
//! without carries between them: that is fast even where the compiler finds no vectors.

use super::Source;
use super::gf::POLYNOMIAL;

/// What is folded at a time: `N` words of eight bytes.
type Block<const N: usize> = [u64; N];

/// Words in most blocks: 128 bytes, eight 128-bit registers per sum. What is left goes word by word.
const WIDE: usize = 16;

/// Bytes in a word.
const WORD: usize = size_of::<u64>();

/// `to` = sum of the sources.
pub(super) fn xor(to: &mut [u8], sources: &[Source<'_>], accumulate: bool, from: usize) {
    let mut at = from;
    while to.len() - at >= WIDE * WORD {
        xor_block::<WIDE>(to, sources, accumulate, at);
        at += WIDE * WORD;
    }
    while at < to.len() {
        xor_block::<1>(to, sources, accumulate, at);
        at += WORD;
    }
}

/// One block of [`xor`].
#[inline]
fn xor_block<const N: usize>(to: &mut [u8], sources: &[Source<'_>], accumulate: bool, at: usize) {
    let mut sum = start::<N>(to, at, accumulate);
    for source in sources {
        add(&mut sum, &load(source.bytes, at));
    }
    store(to, at, &sum);
}

/// `p` = sum of the blocks, `q` = sum of g^j times `blocks[j]`, by Horner's rule: from the highest power down,
/// double what there is and add.
pub(super) fn pq(p: &mut [u8], q: &mut [u8], blocks: &[&[u8]], accumulate: bool, from: usize) {
    let mut at = from;
    while p.len() - at >= WIDE * WORD {
        pq_block::<WIDE>(p, q, blocks, accumulate, at);
        at += WIDE * WORD;
    }
    while at < p.len() {
        pq_block::<1>(p, q, blocks, accumulate, at);
        at += WORD;
    }
}

/// One block of each of [`pq`]'s sums.
#[inline]
fn pq_block<const N: usize>(p: &mut [u8], q: &mut [u8], blocks: &[&[u8]], accumulate: bool, at: usize) {
    let (mut p_sum, mut q_sum) = (start::<N>(p, at, accumulate), [0; N]);
    for block in blocks.iter().rev() {
        let data = load(block, at);
        add(&mut p_sum, &data);
        double(&mut q_sum);
        add(&mut q_sum, &data);
    }
    add(&mut q_sum, &start(q, at, accumulate));
    store(p, at, &p_sum);
    store(q, at, &q_sum);
}

/// `to` = sum of the first coefficients times the sources.
pub(super) fn one(to: &mut [u8], sources: &[Source<'_>], accumulate: bool, from: usize) {
    let bits = bits(sources, 0);
    let mut at = from;
    while to.len() - at >= WIDE * WORD {
        fold_block::<WIDE>(to, sources, 0, bits, accumulate, at);
        at += WIDE * WORD;
    }
    while at < to.len() {
        fold_block::<1>(to, sources, 0, bits, accumulate, at);
        at += WORD;
    }
}

/// `to`, `to2` = sums of the first and of the second coefficients times the sources.
pub(super) fn two(to: &mut [u8], to2: &mut [u8], sources: &[Source<'_>], accumulate: bool, from: usize) {
    let bits = [bits(sources, 0), bits(sources, 1)];
    let mut at = from;
    while to.len() - at >= WIDE * WORD {
        fold_block::<WIDE>(to, sources, 0, bits[0], accumulate, at);
        fold_block::<WIDE>(to2, sources, 1, bits[1], accumulate, at);
        at += WIDE * WORD;
    }
    while at < to.len() {
        fold_block::<1>(to, sources, 0, bits[0], accumulate, at);
        fold_block::<1>(to2, sources, 1, bits[1], accumulate, at);
        at += WORD;
    }
}

/// One block of a sum with any coefficients (those at `which`), by Horner's rule over the *bits* of the
/// coefficients.
///
/// With c_i = sum over b of 2^b * bit b of c_i, the sum is a polynomial in 2 whose coefficient of 2^b is the
/// plain xor of the sources that have bit b. So all sources together cost seven doublings at most, and each
/// no more than eight xors: no table, nothing but shifts and xors, which is what compilers can vectorise.
/// `bits` as by [`bits`].
#[inline]
fn fold_block<const N: usize>(
    to: &mut [u8],
    sources: &[Source<'_>],
    which: usize,
    bits: u32,
    accumulate: bool,
    at: usize,
) {
    let mut sum = [0; N];
    for bit in (0..bits).rev() {
        double(&mut sum);
        for source in sources {
            if source.coef[which] >> bit & 1 == 1 {
                add(&mut sum, &load(source.bytes, at));
            }
        }
    }
    add(&mut sum, &start(to, at, accumulate));
    store(to, at, &sum);
}

/// How many bits the widest of the coefficients at `which` has: 0 to 8.
fn bits(sources: &[Source<'_>], which: usize) -> u32 {
    let union = sources.iter().fold(0, |union, source| union | source.coef[which]);
    u8::BITS - union.leading_zeros()
}

/// What a sum begins with: what the target holds, or zero.
#[inline]
fn start<const N: usize>(to: &[u8], at: usize, accumulate: bool) -> Block<N> {
    if accumulate { load(to, at) } else { [0; N] }
}

/// `sum` += `data`.
#[inline]
fn add<const N: usize>(sum: &mut Block<N>, data: &Block<N>) {
    for (sum, word) in sum.iter_mut().zip(data) {
        *sum ^= word;
    }
}

/// `sum` times the generator, every byte on its own.
#[inline]
fn double<const N: usize>(sum: &mut Block<N>) {
    const HIGH: u64 = u64::from_le_bytes([0x80; WORD]);
    const REDUCE: u64 = u64::from_le_bytes([POLYNOMIAL; WORD]);
    for word in sum {
        let high = *word & HIGH;
        // Where the high bit was set, 0x80 - 0x01 = 0x7f, which covers all bits of the polynomial.
        *word = ((*word ^ high) << 1) ^ ((high - (high >> 7)) & REDUCE);
    }
}

/// The block at `at`. If it is a single word, zeros stand for what is past the end.
#[inline]
fn load<const N: usize>(bytes: &[u8], at: usize) -> Block<N> {
    if N == 1 && bytes.len() - at < WORD {
        let mut word = [0; WORD];
        word[..bytes.len() - at].copy_from_slice(&bytes[at..]);
        return [u64::from_le_bytes(word); N];
    }
    let (words, _) = bytes[at..at + N * WORD].as_chunks::<WORD>();
    let mut block = [0; N];
    for (word, bytes) in block.iter_mut().zip(words) {
        *word = u64::from_le_bytes(*bytes);
    }
    block
}

/// Puts the block at `at`. If it is a single word, what is past the end is left out.
#[inline]
fn store<const N: usize>(bytes: &mut [u8], at: usize, block: &Block<N>) {
    if N == 1 && bytes.len() - at < WORD {
        let rest = &mut bytes[at..];
        rest.copy_from_slice(&block[0].to_le_bytes()[..rest.len()]);
        return;
    }
    let (words, _) = bytes[at..at + N * WORD].as_chunks_mut::<WORD>();
    for (bytes, word) in words.iter_mut().zip(block) {
        *bytes = word.to_le_bytes();
    }
}
