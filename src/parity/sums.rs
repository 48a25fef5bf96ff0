//! The sums over whole registers that every set of vector kernels has, written once.
//!
//! A set brings its registers (how to make a zero, `load`, `store`) and what is done in them (`add`, `add_both`, `double`,
//! `add_product`, `add_products`); [`sums`] makes of them the four functions of [`Kernels`](super::Kernels). A macro, because a function
//! that is generic over its registers cannot have the features of a CPU that they need. Four registers a turn, then one;
//! what is left is the portable set's.

/// How far before its use a source of P and Q is asked for, in bytes. The CPU follows few streams on its own.
pub(super) const AHEAD: usize = 1024;

/// `xor`, `pq`, `one` and `two` for CPUs with `$features`, in registers of `$vector`, which `$zero` makes.
macro_rules! sums {
    ($features:literal, $vector:ty, $zero:path) => {
        /// Bytes in a register.
        const LANE: usize = size_of::<$vector>();

        /// `to` = sum of the sources.
        #[target_feature(enable = $features)]
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
        #[target_feature(enable = $features)]
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
        #[target_feature(enable = $features)]
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
        #[target_feature(enable = $features)]
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
            let (pairs, rest) = order.as_chunks::<2>();
            for &index in rest {
                // The highest power: nothing is there yet to be doubled.
                q_sum = load_ahead(sources[usize::from(index)].bytes, at);
                add(&mut p_sum, &q_sum);
            }
            for &[b, a] in pairs.iter().rev() {
                let a = load_ahead(sources[usize::from(a)].bytes, at);
                let b = load_ahead(sources[usize::from(b)].bytes, at);
                add_both(&mut p_sum, &a, &b);
                double_twice(&mut q_sum, &a, &b);
            }
            add(&mut q_sum, &start(q, at, accumulate));
            store(p, at, &p_sum);
            store(q, at, &q_sum);
        }

        /// `to` = sum of the first coefficients times the sources.
        #[target_feature(enable = $features)]
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
        #[target_feature(enable = $features)]
        #[inline]
        fn one_block<const N: usize>(to: &mut [u8], sources: &[Source<'_>], accumulate: bool, at: usize) {
            let mut sum = start::<N>(to, at, accumulate);
            for source in sources {
                add_product(&mut sum, source.coef[0], &load(source.bytes, at));
            }
            store(to, at, &sum);
        }

        /// `to`, `to2` = sums of the first and of the second coefficients times the sources.
        #[target_feature(enable = $features)]
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
                add_products(&mut sum, &mut sum2, source.coef, &load(source.bytes, at));
            }
            store(to, at, &sum);
            store(to2, at, &sum2);
        }

        /// As `load`, and asks for what is to be loaded [`AHEAD`] bytes later.
        #[target_feature(enable = $features)]
        #[inline]
        fn load_ahead<const N: usize>(bytes: &[u8], at: usize) -> [$vector; N] {
            for line in (at..at + N * LANE).step_by(64) {
                let ahead = bytes.as_ptr().wrapping_add(line + AHEAD);
                // SAFETY: a hint, which touches no memory in the sense of the language and may name any address. (Newer
                // compilers know that.)
                #[allow(unused_unsafe)]
                unsafe {
                    _mm_prefetch::<_MM_HINT_T0>(ahead.cast())
                };
            }
            load(bytes, at)
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
