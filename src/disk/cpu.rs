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

    /// A second question gets the same answer, and on x86-64 with AVX2 that is not the portable set.
    #[test]
    fn answers_once_and_for_all() {
        assert_eq!(kernels().name(), kernels().name());
        #[cfg(target_arch = "x86_64")]
        assert_eq!(kernels().name() != "portable", is_x86_feature_detected!("avx2"));
    }
}
