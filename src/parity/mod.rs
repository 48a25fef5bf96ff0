//! Parity: every fold of a stripe, as linear algebra over a field of 256 elements.
//!
//! # The mathematics
//!
//! A byte is an element of GF(2^8), the field of polynomials over GF(2) modulo `0x11d`, that is x^8 + x^4 +
//! x^3 + x^2 + 1. Addition is xor, so every element is its own negative; the element g = 2 generates all 255
//! others than zero. Blocks are vectors, added and scaled byte by byte. A stripe of data blocks D_j, where j
//! is the power the geometry assigns to the block (0 to 254), has
//!
//! ```text
//! P = sum D_j        Q = sum g^j * D_j
//! ```
//!
//! and everything done to parity is one sum, `target = sum coef_i * source_i`, for one target or for two at
//! once. With x and y the powers of lost data blocks, the sums running over the data blocks that are left:
//!
//! | work | target | coefficients |
//! |---|---|---|
//! | full stripe | P, Q | D_j: 1, g^j |
//! | read-modify-write | P, Q, accumulating | old D_j: 1, g^j; new D_j: 1, g^j |
//! | lost data, P at hand | D_x | P: 1; D_j: 1 |
//! | lost data and P | D_x | Q: g^-x; D_j: g^(j-x) |
//! | lost data twice | D_x | P: a; Q: b; D_j: a + b g^j |
//! | | D_y | P: a + 1; Q: b; D_j: a + 1 + b g^j |
//!
//! where b = 1 / (g^x + g^y), a = b g^y, and powers of g count modulo 255. The last two rows solve `D_x + D_y
//! = P + sum D_j` and `g^x D_x + g^y D_y = Q + sum g^j D_j`. They are a single call with two targets: no
//! recomputed syndrome is stored in between, and each survivor is read once.
//!
//! # What this module promises and refuses to know
//!
//! [`Kernels::combine`] computes that sum, in one pass over the sources, for any length, alignment and number
//! of sources; all kernel sets give the same bytes. It does not allocate, and does not find out what the CPU
//! can do: which set runs is decided above and passed in. Of levels, slots and stripes it knows nothing.
//!
//! A new kernel set is one file: a function for each of [`Kernels`]' fields, and a constructor.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod gf;
mod portable;
#[cfg(target_arch = "x86_64")]
mod sums;
#[cfg(test)]
mod tests;

use core::fmt;

/// A block that goes into a sum.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The block, as long as the target.
    pub bytes: &'a [u8],
    /// Its coefficient for the first and for the second target. The second is not looked at if there is one
    /// target.
    pub coef: [u8; 2],
}

/// Where a sum, or two sums of the same sources, go.
pub enum Target<'a> {
    /// One sum, by the first coefficients.
    One(&'a mut [u8]),
    /// Two sums in one pass, by the first and by the second coefficients.
    Two(&'a mut [u8], &'a mut [u8]),
}

/// A set of kernels that computes sums on one sort of CPU: a small table of functions, to be copied and
/// passed along.
///
/// [`Kernels::portable`] runs anywhere.
#[derive(Clone, Copy)]
pub struct Kernels {
    /// What the set is called in reports.
    name: &'static str,
    /// The sum with all (first) coefficients 1.
    xor: OneSum,
    /// P and Q of blocks from the power 0 up.
    pq: StripeSums,
    /// `xor`, stored around the caches.
    xor_past: OneSum,
    /// `pq`, stored around the caches.
    pq_past: StripeSums,
    /// One sum with any coefficients.
    one: OneSum,
    /// Two sums with any coefficients.
    two: TwoSums,
}

/// A kernel for one target; the flag says whether what the target holds is part of the sum.
type OneSum = fn(&mut [u8], &[Source<'_>], bool);

/// A kernel for two targets.
type TwoSums = fn(&mut [u8], &mut [u8], &[Source<'_>], bool);

/// A kernel for P and Q of the blocks of a stripe.
type StripeSums = fn(&mut [u8], &mut [u8], &[&[u8]], bool);

/// Blocks in a stripe up to which putting them in order costs next to nothing.
const FEW: usize = 16;

impl Kernels {
    /// The kernels that need nothing from the CPU. Made for whatever vectors the compiler may assume.
    pub const fn portable() -> Kernels {
        Kernels {
            name: "portable",
            xor: |to, sources, accumulate| portable::xor(to, sources, accumulate, 0),
            pq: |p, q, blocks, accumulate| portable::pq(p, q, blocks, accumulate, 0),
            xor_past: |to, sources, accumulate| portable::xor(to, sources, accumulate, 0),
            pq_past: |p, q, blocks, accumulate| portable::pq(p, q, blocks, accumulate, 0),
            one: |to, sources, accumulate| portable::one(to, sources, accumulate, 0),
            two: |to, to2, sources, accumulate| portable::two(to, to2, sources, accumulate, 0),
        }
    }

    /// The name of the set, such as `avx2`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Sets each target to the sum of its coefficients times the sources, plus, if `accumulate`, what it held
    /// before.
    ///
    /// Any number of sources: without any the sum is zero. A coefficient of 0 leaves a source out, but the
    /// source must still be as long as the others. Two shapes run faster than the rest: one target with all
    /// coefficients 1, and two with coefficients 1 and g^j where the j are 0 to m - 1, each once, in any
    /// order (a full stripe).
    ///
    /// # Panics
    ///
    /// If the targets and sources are not all of the same length: a mistake of the caller, never of a disk's
    /// content.
    pub fn combine(&self, target: Target<'_>, sources: &[Source<'_>], accumulate: bool) {
        self.sum(target, sources, accumulate, self.xor, self.pq);
    }

    /// Sets each target to the sum of its coefficients times the sources, as [`combine`](Kernels::combine), for targets that are in
    /// no cache and that nobody reads soon.
    ///
    /// Where the CPU can, they are stored around its caches, and do not have to come there first: a fifth to a third less time,
    /// but about twice as much for targets that are in a cache. The two fast shapes are stored so, if the targets' addresses are
    /// multiples of 64 bytes. An LU does not use it: the memory it has for parity stays in the cache.
    ///
    /// # Panics
    ///
    /// As [`combine`](Kernels::combine).
    pub fn combine_past_caches(&self, target: Target<'_>, sources: &[Source<'_>]) {
        self.sum(target, sources, false, self.xor_past, self.pq_past);
    }

    fn sum(&self, target: Target<'_>, sources: &[Source<'_>], accumulate: bool, xor: OneSum, pq: StripeSums) {
        let length = match &target {
            Target::One(to) => to.len(),
            Target::Two(to, to2) => {
                assert_eq!(to.len(), to2.len(), "the two targets of a sum differ in length");
                to.len()
            }
        };
        for source in sources {
            assert_eq!(source.bytes.len(), length, "a source of a sum is not as long as its target");
        }
        let sum_two = |to: &mut [u8], to2: &mut [u8], room: &mut [_]| match by_power(sources, room) {
            Some(blocks) => pq(to, to2, blocks, accumulate),
            None => (self.two)(to, to2, sources, accumulate),
        };
        match target {
            Target::One(to) if sources.iter().all(|s| s.coef[0] == 1) => xor(to, sources, accumulate),
            Target::One(to) => (self.one)(to, sources, accumulate),
            Target::Two(to, to2) if sources.len() <= FEW => {
                sum_two(to, to2, &mut [&[][..]; FEW]);
            }
            Target::Two(to, to2) => sum_two(to, to2, &mut [&[][..]; gf::ORDER]),
        }
    }
}

impl fmt::Debug for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kernels({})", self.name)
    }
}

/// If the coefficients are those of P and Q over a full stripe (1 and g^j, the j being 0 to m - 1, each
/// once): the blocks from power 0 up, in `room`.
///
/// The geometry may hand over the blocks of a stripe in the order of the LU's addresses or of the slots; in
/// either the powers may run up, run down, or start in the middle. A permutation serves them all alike.
/// It is done once, here: a kernel looks at every source once for each few registers.
fn by_power<'r, 'a>(sources: &[Source<'a>], room: &'r mut [&'a [u8]]) -> Option<&'r [&'a [u8]]> {
    let blocks = room.get_mut(..sources.len())?;
    blocks.fill(&[]);
    for source in sources {
        let power = match source.coef {
            [1, q] => gf::log(q)?,
            _ => return None,
        };
        // Powers that are all different and all below m are all of 0 to m - 1. (If blocks are empty, it does not
        // matter which goes where.)
        *blocks.get_mut(usize::from(power)).filter(|place| place.is_empty())? = source.bytes;
    }
    Some(blocks)
}
