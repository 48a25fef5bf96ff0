//! The kernels for any CPU: plain integer code, shaped so that compilers turn it into vectors.
//!
//! Promises the same bytes as every other set. Each function starts at byte `from`, so that the sets made for wide
//! vectors can leave it their last few bytes. Work goes block by block, the sources innermost, so that each sum stays
//! in registers and each source is read once. Bytes are folded eight to a `u64`, without carries between them.

use super::Source;
use super::gf::POLYNOMIAL;

/// What is folded at a time: 64 bytes, four 128-bit registers per sum.
type Block = [u64; 8];

/// Bytes in a block.
const BLOCK: usize = size_of::<Block>();

/// `to` = sum of the sources.
pub(super) fn xor(to: &mut [u8], sources: &[Source<'_>], accumulate: bool, from: usize) {
    let mut at = from;
    while at < to.len() {
        let mut sum = start(to, at, accumulate);
        for source in sources {
            add(&mut sum, &load(source.bytes, at));
        }
        store(to, at, &sum);
        at += BLOCK;
    }
}

/// `p` = sum of the sources, `q` = sum of g^j times the source `order[j]`, by Horner's rule: from the highest power
/// down, double what there is and add.
pub(super) fn pq(
    p: &mut [u8],
    q: &mut [u8],
    sources: &[Source<'_>],
    order: &[u8],
    accumulate: bool,
    from: usize,
) {
    let mut at = from;
    while at < p.len() {
        let (mut p_sum, mut q_sum) = (start(p, at, accumulate), Block::default());
        for &index in order.iter().rev() {
            let data = load(sources[usize::from(index)].bytes, at);
            add(&mut p_sum, &data);
            double(&mut q_sum);
            add(&mut q_sum, &data);
        }
        add(&mut q_sum, &start(q, at, accumulate));
        store(p, at, &p_sum);
        store(q, at, &q_sum);
        at += BLOCK;
    }
}

/// `to` = sum of the first coefficients times the sources.
pub(super) fn one(to: &mut [u8], sources: &[Source<'_>], accumulate: bool, from: usize) {
    let degree = degree(sources, 0);
    let mut at = from;
    while at < to.len() {
        fold::<0>(to, sources, degree, accumulate, at);
        at += BLOCK;
    }
}

/// `to`, `to2` = sums of the first and of the second coefficients times the sources.
pub(super) fn two(to: &mut [u8], to2: &mut [u8], sources: &[Source<'_>], accumulate: bool, from: usize) {
    let degrees = [degree(sources, 0), degree(sources, 1)];
    let mut at = from;
    while at < to.len() {
        fold::<0>(to, sources, degrees[0], accumulate, at);
        fold::<1>(to2, sources, degrees[1], accumulate, at);
        at += BLOCK;
    }
}

/// One block of a sum with any coefficients, by Horner's rule over the *bits* of the coefficients.
///
/// With c_i = sum over b of 2^b * bit b of c_i, the sum is a polynomial in 2 whose coefficient of 2^b is the plain xor
/// of the sources that have bit b. So all sources together cost seven doublings at most, and each no more than eight
/// xors: no table, nothing but shifts and xors, which is what compilers can vectorise. `degree` is the highest bit + 1.
#[inline]
fn fold<const WHICH: usize>(to: &mut [u8], sources: &[Source<'_>], degree: u32, accumulate: bool, at: usize) {
    let mut sum = Block::default();
    for bit in (0..degree).rev() {
        double(&mut sum);
        for source in sources {
            if source.coef[WHICH] >> bit & 1 == 1 {
                add(&mut sum, &load(source.bytes, at));
            }
        }
    }
    add(&mut sum, &start(to, at, accumulate));
    store(to, at, &sum);
}

/// How many bits the widest of the coefficients has.
fn degree(sources: &[Source<'_>], which: usize) -> u32 {
    let union = sources.iter().fold(0, |union, source| union | source.coef[which]);
    u8::BITS - union.leading_zeros()
}

/// What a sum begins with: what the target holds, or zero.
#[inline]
fn start(to: &[u8], at: usize, accumulate: bool) -> Block {
    if accumulate { load(to, at) } else { Block::default() }
}

/// `sum` += `block`.
#[inline]
fn add(sum: &mut Block, block: &Block) {
    for (sum, word) in sum.iter_mut().zip(block) {
        *sum ^= word;
    }
}

/// `sum` times the generator, every byte on its own.
#[inline]
fn double(sum: &mut Block) {
    const HIGH: u64 = u64::from_le_bytes([0x80; 8]);
    const REDUCE: u64 = u64::from_le_bytes([POLYNOMIAL; 8]);
    for word in sum {
        let high = *word & HIGH;
        // Where the high bit was set, 0x80 - 0x01 = 0x7f, which covers all bits of the polynomial.
        *word = ((*word ^ high) << 1) ^ ((high - (high >> 7)) & REDUCE);
    }
}

/// The block at `at`, zeros standing for what is past the end.
#[inline]
fn load(bytes: &[u8], at: usize) -> Block {
    let mut padded = [0; BLOCK];
    let whole = match bytes[at..].first_chunk() {
        Some(whole) => whole,
        None => {
            let rest = &bytes[at..];
            padded[..rest.len()].copy_from_slice(rest);
            &padded
        }
    };
    let mut block = Block::default();
    for (word, bytes) in block.iter_mut().zip(whole.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    block
}

/// Puts the block at `at`, leaving out what is past the end.
#[inline]
fn store(bytes: &mut [u8], at: usize, block: &Block) {
    let mut whole = [0; BLOCK];
    for (bytes, word) in whole.as_chunks_mut().0.iter_mut().zip(block) {
        *bytes = word.to_le_bytes();
    }
    let end = bytes.len().min(at + BLOCK);
    bytes[at..end].copy_from_slice(&whole[..end - at]);
}
