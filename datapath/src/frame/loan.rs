// SPDX-License-Identifier: Apache-2.0
//! Bytes of frames that stay where their sender has them while the burst is decided about that they came with: what goes on to another guest is
//! copied once, from the one to the other. Whatever else is to become of them, they are [fetched](super::Pool::fetch) first.

use std::any::Any;
use std::num::NonZeroU8;
use std::ptr::NonNull;
use std::sync::Arc;

use super::BATCH_SIZE;
use crate::foreign::Foreign;

/// What keeps lent memory mapped.
pub(super) type Keeper = Arc<dyn Any + Send + Sync>;

/// The bytes of a frame that are lent: a number that is its own until the burst is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Loan(NonZeroU8);

/// A piece of lent bytes.
#[derive(Clone, Copy, Debug)]
struct Lent {
    at: NonNull<u8>,
    len: usize,
}

/// What is lent of a burst.
#[derive(Debug, Default)]
pub(crate) struct Loans {
    keeper: Option<Keeper>,
    pieces: Vec<Lent>,
    /// Of each loan, where its pieces end.
    ends: Vec<usize>,
}

// SAFETY: (G1, G4) lent bytes belong to no thread, and are copied only.
unsafe impl Send for Loans {}

impl Loans {
    /// Lends what these pieces hold; `None` when there is no number for it.
    ///
    /// # Safety
    /// (G1) The keeper, which is the same for all loans of a burst, keeps them mapped.
    #[inline]
    pub(crate) unsafe fn lend<'a>(
        &mut self,
        keeper: impl Fn() -> Keeper,
        pieces: impl Iterator<Item = Foreign<'a>>,
    ) -> Option<Loan> {
        const _: () = assert!(BATCH_SIZE < u8::MAX as usize);
        let number = u8::try_from(self.ends.len() + 1).ok()?;
        let lent = |piece: Foreign<'_>| Lent {
            at: piece.base(),
            len: piece.len(),
        };
        self.pieces.extend(pieces.map(lent));
        self.ends.push(self.pieces.len());
        self.keeper.get_or_insert_with(keeper);
        NonZeroU8::new(number).map(Loan)
    }

    /// The first `len` bytes of a loan, piece by piece.
    #[inline]
    pub(crate) fn pieces(&self, loan: Loan, len: usize) -> impl Iterator<Item = Foreign<'_>> {
        let number = usize::from(loan.0.get());
        let end = self.ends.get(number - 1).copied().unwrap_or(0);
        let begin = number.checked_sub(2).and_then(|n| self.ends.get(n));
        let pieces = self.pieces.get(begin.copied().unwrap_or(0)..end);
        let mut left = len;
        pieces.unwrap_or_default().iter().map_while(move |piece| {
            let here = piece.len.min(left);
            left -= here;
            // SAFETY: (G1, G3) whoever lent them said that the keeper keeps them, which stays until `clear`; (G4) a guest's.
            (here > 0).then(|| unsafe { Foreign::new(piece.at, here) })
        })
    }

    /// The burst is over: no frame has lent bytes any more.
    #[inline]
    pub(crate) fn clear(&mut self) {
        if !self.ends.is_empty() {
            self.pieces.clear();
            self.ends.clear();
            self.keeper = None;
        }
    }
}
