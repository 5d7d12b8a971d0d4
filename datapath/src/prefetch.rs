// SPDX-License-Identifier: Apache-2.0
//! Asking the processor for memory some time before it is read.

/// Asks for the cache line at an address to come near.
#[inline(always)]
pub(crate) fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: (F3) a hint; it reads nothing architecturally.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}
