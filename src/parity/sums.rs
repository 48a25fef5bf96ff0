//! The sums over whole registers that every set of vector kernels has, written once.
//!
//! A set brings its registers (how to make a zero, `load`, `store`) and what is done in them (`add`, `add_both`, `double_twice`,
//! `add_product`, `add_products`); [`sums`] makes of them the functions of [`Kernels`](super::Kernels). A macro, because a function
//! that is generic over its registers cannot have the features of a CPU that they need. `$wide` registers a turn, then one;
//! what is left is the portable set's. The two that make whole stripes' parity can store it around the caches.
//!
//! In a cache and out of it, all that counts is how often lines move: a source's comes, a target's comes and goes. The arithmetic
//! hides behind that if little is done beside it: many registers a turn, and what is asked for ahead of its use. Stores around
//! the caches spare a target its coming, and gain a fifth to a third where it is in no cache; where it is in one they lose half.

/// How far before its use a line is asked for, in bytes: the sources of all sums with products, since the CPU follows few streams
/// on its own, and the target of an xor.
pub(super) const AHEAD: usize = 768;

/// Up to how many sources P and Q themselves are asked for ahead, too: in the L2 cache that is up to a fifth faster with 2 to 6
/// sources, and some per cent slower with 7 and more.
pub(super) const FOLLOWED: usize = 6;

/// `xor`, `pq`, `one` and `two` for CPUs with `$features`, in registers of `$vector`, which `$zero` makes, `$wide` a turn.
/// Two sums have to fit the CPU's registers, and leave half of them.
macro_rules! sums {
    ($features:literal, $vector:ty, $zero:path, $wide:literal) => {
        /// Bytes in a register.
        const LANE: usize = size_of::<$vector>();

        /// Registers a turn.
        const WIDE: usize = $wide;

        /// `to` = sum of the sources; if `PAST`, stored around the caches.
        #[target_feature(enable = $features)]
        fn xor<const PAST: bool>(to: &mut [u8], sources: &[Source<'_>], accumulate: bool) {
            let mut at = 0;
            while to.len() - at >= WIDE * LANE {
                xor_block::<WIDE, PAST>(to, sources, accumulate, at);
                at += WIDE * LANE;
            }
            while to.len() - at >= LANE {
                xor_block::<1, PAST>(to, sources, accumulate, at);
                at += LANE;
            }
            portable::xor(to, sources, accumulate, at);
            if PAST {
                _mm_sfence();
            }
        }

        /// `N` registers of [`xor`].
        #[target_feature(enable = $features)]
        #[inline]
        fn xor_block<const N: usize, const PAST: bool>(
            to: &mut [u8],
            sources: &[Source<'_>],
            accumulate: bool,
            at: usize,
        ) {
            if !PAST {
                ask_ahead::<N>(to, at);
            }
            let mut sum = start::<N>(to, at, accumulate);
            let (pairs, rest) = sources.as_chunks::<2>();
            for [a, b] in pairs {
                add_both(&mut sum, &load(a.bytes, at), &load(b.bytes, at));
            }
            for source in rest {
                add(&mut sum, &load(source.bytes, at));
            }
            store::<N, PAST>(to, at, &sum);
        }

        /// `p` = sum of the blocks, `q` = sum of g^j times `blocks[j]`, by Horner's rule; if `PAST`, stored around the caches.
        #[target_feature(enable = $features)]
        fn pq<const PAST: bool>(p: &mut [u8], q: &mut [u8], blocks: &[&[u8]], accumulate: bool) {
            let mut at = 0;
            while p.len() - at >= WIDE * LANE {
                pq_block::<WIDE, PAST>(p, q, blocks, accumulate, at);
                at += WIDE * LANE;
            }
            while p.len() - at >= LANE {
                pq_block::<1, PAST>(p, q, blocks, accumulate, at);
                at += LANE;
            }
            portable::pq(p, q, blocks, accumulate, at);
            if PAST {
                _mm_sfence();
            }
        }

        /// `N` registers of each of [`pq`]'s sums.
        #[target_feature(enable = $features)]
        #[inline]
        fn pq_block<const N: usize, const PAST: bool>(
            p: &mut [u8],
            q: &mut [u8],
            blocks: &[&[u8]],
            accumulate: bool,
            at: usize,
        ) {
            if !PAST && blocks.len() <= FOLLOWED {
                ask_ahead::<N>(p, at);
                ask_ahead::<N>(q, at);
            }
            let (mut p_sum, mut q_sum) = (start::<N>(p, at, accumulate), zero());
            let (pairs, rest) = blocks.as_chunks::<2>();
            for highest in rest {
                // Nothing is there yet to be doubled.
                ask_ahead::<N>(highest, at);
                q_sum = load(highest, at);
                add(&mut p_sum, &q_sum);
            }
            for [b, a] in pairs.iter().rev() {
                // Both before either is loaded: this is faster.
                ask_ahead::<N>(a, at);
                ask_ahead::<N>(b, at);
                let (a, b) = (load(a, at), load(b, at));
                add_both(&mut p_sum, &a, &b);
                double_twice(&mut q_sum, &a, &b);
            }
            add(&mut q_sum, &start(q, at, accumulate));
            store::<N, PAST>(p, at, &p_sum);
            store::<N, PAST>(q, at, &q_sum);
        }

        /// `to` = sum of the first coefficients times the sources.
        #[target_feature(enable = $features)]
        fn one(to: &mut [u8], sources: &[Source<'_>], accumulate: bool) {
            let mut at = 0;
            while to.len() - at >= WIDE * LANE {
                one_block::<WIDE>(to, sources, accumulate, at);
                at += WIDE * LANE;
            }
            while to.len() - at >= LANE {
                one_block::<1>(to, sources, accumulate, at);
                at += LANE;
            }
            portable::one(to, sources, accumulate, at);
        }

        /// `N` registers of [`one`].
        #[target_feature(enable = $features)]
        #[inline]
        fn one_block<const N: usize>(to: &mut [u8], sources: &[Source<'_>], accumulate: bool, at: usize) {
            let mut sum = start::<N>(to, at, accumulate);
            for source in sources {
                ask_ahead::<N>(source.bytes, at);
                add_product(&mut sum, source.coef[0], &load(source.bytes, at));
            }
            store::<N, false>(to, at, &sum);
        }

        /// `to`, `to2` = sums of the first and of the second coefficients times the sources.
        #[target_feature(enable = $features)]
        fn two(to: &mut [u8], to2: &mut [u8], sources: &[Source<'_>], accumulate: bool) {
            let mut at = 0;
            while to.len() - at >= WIDE * LANE {
                two_block::<WIDE>(to, to2, sources, accumulate, at);
                at += WIDE * LANE;
            }
            while to.len() - at >= LANE {
                two_block::<1>(to, to2, sources, accumulate, at);
                at += LANE;
            }
            portable::two(to, to2, sources, accumulate, at);
        }

        /// `N` registers of each of [`two`]'s sums.
        #[target_feature(enable = $features)]
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
                ask_ahead::<N>(source.bytes, at);
                add_products(&mut sum, &mut sum2, source.coef, &load(source.bytes, at));
            }
            store::<N, false>(to, at, &sum);
            store::<N, false>(to2, at, &sum2);
        }

        /// Asks for `N` registers [`AHEAD`] bytes from `at`.
        #[target_feature(enable = $features)]
        #[inline]
        fn ask_ahead<const N: usize>(bytes: &[u8], at: usize) {
            let ahead = bytes.as_ptr().wrapping_add(at + AHEAD);
            for line in 0..(N * LANE).div_ceil(64) {
                // SAFETY: a hint, which touches no memory in the sense of the language and may name any address. (Newer
                // compilers know that.)
                #[allow(unused_unsafe)]
                unsafe {
                    _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(64 * line).cast())
                };
            }
        }

        /// What a sum begins with: what the target holds, or zero.
        #[target_feature(enable = $features)]
        #[inline]
        fn start<const N: usize>(to: &[u8], at: usize, accumulate: bool) -> [$vector; N] {
            if accumulate { load(to, at) } else { zero() }
        }

        /// A sum of nothing.
        #[target_feature(enable = $features)]
        #[inline]
        fn zero<const N: usize>() -> [$vector; N] {
            [$zero(); N]
        }
    };
}

pub(super) use sums;
