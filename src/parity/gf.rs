//! Arithmetic on single elements of GF(2^8), polynomial 0x11d, generator 2: for working out coefficients.
//!
//! Addition is `^`. All functions are total and `const`. Blocks are the kernels' business, not this file's;
//! the table they multiply by is built here so that the field is defined in one place.

/// The product of two elements.
pub const fn mul(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 {
        0
    } else {
        // At most 254 + 254: `exp` takes it modulo 255.
        exp(LOG[a as usize] as u32 + LOG[b as usize] as u32)
    }
}

/// The element that times `a` is 1; `None` for zero, which has none.
pub const fn inv(a: u8) -> Option<u8> {
    match log(a) {
        Some(log) => Some(exp(ORDER as u32 - log as u32)),
        None => None,
    }
}

/// The generator to the power of `j`, g^j; `j` counts modulo 255.
pub const fn exp(j: u32) -> u8 {
    EXP[j as usize % ORDER]
}

/// The `j` in 0 to 254 for which g^j is `a`; `None` for zero.
pub const fn log(a: u8) -> Option<u8> {
    if a == 0 { None } else { Some(LOG[a as usize]) }
}

/// How many powers the generator has before they repeat: the elements other than zero.
pub const ORDER: usize = 255;

/// The polynomial's low eight bits: what x^8 is replaced by.
pub const POLYNOMIAL: u8 = 0x1d;

/// For each coefficient the product with it as a matrix over the bits of a byte, as GFNI wants it: of eight bytes the last is
/// the row for the lowest bit of the product, and in a row the bits are those of the other factor.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) static MATRICES: [u64; 256] = {
    let mut table = [0; 256];
    let mut c = 0;
    while c < 256 {
        let mut bit = 0;
        while bit < 64 {
            let (row, column) = (bit / 8, bit % 8);
            let set = mul(c as u8, 1 << column) >> row & 1;
            table[c] |= (set as u64) << (8 * (7 - row) + column);
            bit += 1;
        }
        c += 1;
    }
    table
};

/// For each coefficient its 16 products with a low nibble, then its 16 products with a high nibble (8 KiB in
/// all).
///
/// A product is linear in the byte, so it is the sum of one entry of each half. A CPU that looks up 16
/// entries at once multiplies a vector with two look-ups.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) static NIBBLES: [[[u8; 16]; 2]; 256] = {
    let mut table = [[[0; 16]; 2]; 256];
    let mut c = 0;
    while c < 256 {
        let mut n = 0;
        while n < 16 {
            table[c][0][n] = mul(c as u8, n as u8);
            table[c][1][n] = mul(c as u8, (n << 4) as u8);
            n += 1;
        }
        c += 1;
    }
    table
};

/// g^j at index j.
const EXP: [u8; ORDER] = {
    let mut table = [1; ORDER];
    let mut j = 1;
    while j < ORDER {
        let below = table[j - 1];
        table[j] = (below << 1) ^ if below & 0x80 == 0 { 0 } else { POLYNOMIAL };
        j += 1;
    }
    table
};

/// j at index g^j. Index 0 is never used.
const LOG: [u8; 256] = {
    let mut table = [0; 256];
    let mut j = 0;
    while j < ORDER {
        table[EXP[j] as usize] = j as u8;
        j += 1;
    }
    table
};
