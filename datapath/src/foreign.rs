// SPDX-License-Identifier: Apache-2.0
//! Memory that somebody else changes whenever they like: no reference points there, bytes are copied out of it and into it.

use std::marker::PhantomData;
use std::ptr::NonNull;

/// Shorter copies are made here: to find out how to make them costs as much as they do.
const SHORT: usize = 128;

/// Bytes that lie together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Foreign<'a> {
    at: NonNull<u8>,
    len: usize,
    /// What keeps them mapped.
    keeper: PhantomData<&'a ()>,
}

impl<'a> Foreign<'a> {
    /// # Safety
    /// (G3) `len` bytes from `at` on are mapped, to be read and written, for as long as `'a`. (G4) Nobody has a reference to them.
    #[inline]
    pub(crate) unsafe fn new(at: NonNull<u8>, len: usize) -> Foreign<'a> {
        Foreign {
            at,
            len,
            keeper: PhantomData,
        }
    }

    /// How many they are.
    #[inline]
    pub(crate) fn len(self) -> usize {
        self.len
    }

    /// Where they are, to be kept beside what keeps them mapped.
    #[inline]
    pub(crate) fn base(self) -> NonNull<u8> {
        self.at
    }

    /// Those in front of an offset, and those behind; the offset is cut to what there is.
    #[inline]
    pub(crate) fn split(self, at: usize) -> (Foreign<'a>, Foreign<'a>) {
        let at = at.min(self.len);
        // SAFETY: (G3) parts of what is mapped.
        let behind = unsafe { self.at.add(at) };
        // SAFETY: (G3, G4) as above.
        unsafe {
            (
                Foreign::new(self.at, at),
                Foreign::new(behind, self.len - at),
            )
        }
    }

    /// The first `N`.
    ///
    /// # Panics
    /// When there are less.
    #[inline(always)]
    pub(crate) fn first<const N: usize>(self) -> [u8; N] {
        assert!(N <= self.len, "{N} of {} bytes", self.len);
        // SAFETY: (G3, G4) as many are there, and every content is an array of bytes.
        unsafe { self.at.cast::<[u8; N]>().read_unaligned() }
    }

    /// Puts these in the place of all.
    ///
    /// # Panics
    /// When there are more or less.
    #[inline(always)]
    pub(crate) fn set<const N: usize>(self, bytes: &[u8; N]) {
        assert_eq!(self.len, N);
        // SAFETY: (G3, G4) as many are there.
        unsafe { self.at.cast::<[u8; N]>().write_unaligned(*bytes) };
    }

    /// Copies them.
    ///
    /// # Panics
    /// When `to` is not as long.
    #[inline(always)]
    pub(crate) fn copy_to(self, to: &mut [u8]) {
        assert_eq!(self.len, to.len());
        // SAFETY: (G3, G4) both are as long; memory of our own is not a guest's.
        unsafe { copy(self.at.as_ptr(), to.as_mut_ptr(), self.len) };
    }

    /// Puts bytes in their place.
    ///
    /// # Panics
    /// When `from` is not as long.
    #[inline(always)]
    pub(crate) fn copy_from(self, from: &[u8]) {
        assert_eq!(self.len, from.len());
        // SAFETY: (G3, G4) as in `copy_to`.
        unsafe { copy(from.as_ptr(), self.at.as_ptr(), self.len) };
    }

    /// Puts other such bytes in their place, which may be the same.
    ///
    /// # Panics
    /// When they are not as many.
    #[inline]
    pub(crate) fn copy_over(self, from: Foreign<'_>) {
        assert_eq!(self.len, from.len);
        // SAFETY: (G3, G4) both are as long.
        unsafe { std::ptr::copy(from.at.as_ptr(), self.at.as_ptr(), self.len) };
    }

    /// The first byte, and another one: in the next cache line, if they reach as far.
    #[inline(always)]
    fn ends(self) -> [*const u8; 2] {
        const LINE: usize = 64;
        let at = self.at.as_ptr().cast_const();
        [at, at.wrapping_add(LINE.min(self.len.saturating_sub(1)))]
    }

    /// Asks the processor for the first two cache lines.
    #[inline(always)]
    pub(crate) fn prefetch(self) {
        self.ends().into_iter().for_each(crate::prefetch::prefetch);
    }

    /// Asks for all of them, but for no more than a full frame has: they are copied a little later.
    #[inline]
    pub(crate) fn prefetch_all(self) {
        const MOST: usize = 1536;
        crate::prefetch::prefetch_bytes(self.at.as_ptr(), self.len.min(MOST));
    }

    /// The same, to be written to.
    #[inline(always)]
    pub(crate) fn prefetch_to_write(self) {
        let each = crate::prefetch::prefetch_to_write;
        self.ends().into_iter().for_each(each);
    }
}

/// Copies in few moves what is short.
///
/// # Safety
/// As `copy_nonoverlapping`.
#[inline(always)]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    const HALF: usize = SHORT / 2;
    const QUARTER: usize = SHORT / 4;
    type Block = [u8; QUARTER];
    if !(QUARTER..=SHORT).contains(&len) {
        // SAFETY: as the caller says.
        return unsafe { std::ptr::copy_nonoverlapping(from, to, len) };
    }
    let block = |at: usize| {
        // SAFETY: within `len`, as all of the offsets below are.
        unsafe {
            to.add(at)
                .cast::<Block>()
                .write_unaligned(from.add(at).cast::<Block>().read_unaligned())
        };
    };
    block(0);
    if len > HALF {
        block(QUARTER);
        block(len - HALF);
    }
    block(len - QUARTER);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_every_length_are_copied() {
        let from: Vec<u8> = (0..=255).collect();
        for len in 0..from.len() {
            let mut other = from.clone();
            let at = NonNull::from(&mut other[..]).cast();
            // SAFETY: the vector's, which nobody else touches.
            let foreign = unsafe { Foreign::new(at, len) };
            let mut copied = vec![0; len];
            foreign.copy_to(&mut copied);
            assert_eq!(copied, from[..len]);
            copied.reverse();
            foreign.copy_from(&copied);
            let (head, tail) = foreign.split(len / 3);
            let mut parts = [vec![0; head.len()], vec![0; tail.len()]];
            head.copy_to(&mut parts[0]);
            tail.copy_to(&mut parts[1]);
            assert_eq!(parts.concat(), copied);
            assert_eq!(other[len..], from[len..]);
        }
    }
}
