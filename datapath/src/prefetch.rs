// SPDX-License-Identifier: Apache-2.0
//! Asking the processor for memory some time before it is read.

use std::sync::Arc;

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

/// Asks for the cache line at an address to come near, to be written to: whoever else has it loses it.
#[inline(always)]
pub(crate) fn prefetch_to_write<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: (F3) a hint; it neither reads nor writes architecturally. By name, as the compiler makes a read's hint of it for processors that it does not know to have this one; all take it.
    unsafe {
        core::arch::asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Asks for the counts of a shared pointer, some time before it is cloned. Where many are, it is the memory of counts that a copy waits for, of each in turn:
/// an atomic operation lets none begin before it is done.
#[inline(always)]
pub(crate) fn prefetch_counts<T: ?Sized>(shared: &Arc<T>) {
    // They stand right before what is shared.
    prefetch(Arc::as_ptr(shared).cast::<[usize; 2]>().wrapping_sub(1));
}

/// Asks for all of a slice.
#[inline(always)]
pub(crate) fn prefetch_slice<T>(items: &[T]) {
    prefetch_bytes(items.as_ptr().cast(), size_of_val(items));
}

/// Asks for so many bytes.
#[inline(always)]
pub(crate) fn prefetch_bytes(at: *const u8, len: usize) {
    const LINE: usize = 64;
    for offset in (0..len).step_by(LINE) {
        prefetch(at.wrapping_add(offset));
    }
}
