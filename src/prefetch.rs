//! Asking for memory ahead of its use.
#![allow(unsafe_code)]

/// Has the cache line with the first bytes of `value` fetched, where the CPU can be asked to. Unlike a read nothing waits for it.
#[inline(always)]
pub(crate) fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which touches no memory in the sense of the language. (Newer compilers know that.)
    #[allow(unused_unsafe)]
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(value).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
