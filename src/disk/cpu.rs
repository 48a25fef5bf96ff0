//! Finds out, once, what this CPU can do, and which parity kernels it should therefore run.
//!
//! Promises the fastest set that is safe here, and the same answer for the life of the process. It looks at
//! the CPU and at nothing else: no environment, no file. The pure floors never ask; they are handed the
//! answer.
#![allow(unsafe_code)]

use std::sync::OnceLock;

use crate::parity::Kernels;

/// The parity kernels for this CPU.
pub fn kernels() -> Kernels {
    static FOUND: OnceLock<Kernels> = OnceLock::new();
    *FOUND.get_or_init(detect)
}

/// Goes on with a CRC-32C, by the CPU's own instruction where it has one: an
/// [append](crate::format::ppl::append) that is ten times as fast.
pub fn crc32c(before: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(before, bytes)
}

/// Asks the CPU.
fn detect() -> Kernels {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("gfni") {
        // SAFETY: as below, of AVX-512F and GFNI.
        return unsafe { Kernels::avx512() };
    }
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU and the operating system have just said that AVX2 can be used; that holds on all
        // cores.
        return unsafe { Kernels::avx2() };
    }
    Kernels::portable()
}

#[cfg(test)]
mod tests {
    use super::kernels;

    #[test]
    fn both_checksums_agree() {
        let bytes: Vec<u8> = (0..5000u32).map(|n| ((n * 7) >> 2) as u8).collect();
        for len in [0, 1, 7, 8, 63, 512, 4096, 5000] {
            let (first, second) = bytes[..len].split_at(len / 3);
            let own = crate::format::ppl::crc32c(&bytes[..len]);
            assert_eq!(super::crc32c(super::crc32c(0, first), second), own, "{len}");
        }
    }

    /// A second question gets the same answer, and on x86-64 with AVX2 that is not the portable set.
    #[test]
    fn answers_once_and_for_all() {
        assert_eq!(kernels().name(), kernels().name());
        #[cfg(target_arch = "x86_64")]
        assert_eq!(kernels().name() != "portable", is_x86_feature_detected!("avx2"));
    }
}
