//! Division by a number that is known when the LU starts: a multiplication and a correction.
//!
//! Every address goes through one to three divisions by the same few numbers (chunk, data chunks, slots). The
//! result is exact for every 64-bit dividend; the divisor must not be zero, which the constructor's callers
//! see to. This file knows nothing of sectors.

/// A divisor with its reciprocal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Divisor {
    by: u64,
    /// floor((2^64 - 1) / by)
    reciprocal: u64,
}

impl Divisor {
    /// Division by `by`, which is at least 1 (0 is taken as 1, so that nothing here can panic).
    pub(super) fn new(by: u64) -> Divisor {
        let by = by.max(1);
        Divisor { by, reciprocal: u64::MAX / by }
    }

    /// The divisor itself.
    pub(super) fn get(self) -> u64 {
        self.by
    }

    /// `(n / by, n % by)`.
    ///
    /// The reciprocal is (2^64 - e) / by with 1 <= e <= by, so the product falls short of n / by by n * e /
    /// (by * 2^64), which is less than 1: the estimate is the quotient or one below it, never above.
    #[inline]
    pub(super) fn div_rem(self, n: u64) -> (u64, u64) {
        let quotient = ((u128::from(n) * u128::from(self.reciprocal)) >> 64) as u64;
        let rest = n - quotient * self.by;
        if rest >= self.by { (quotient + 1, rest - self.by) } else { (quotient, rest) }
    }
}
