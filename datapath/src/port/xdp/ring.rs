// SPDX-License-Identifier: Apache-2.0
//! One of the four rings of an AF_XDP socket, seen from userspace: [`Producer`] for the fill and transmit rings,
//! [`Consumer`] for the receive and completion rings. The memory is the kernel's (`struct xdp_ring`,
//! net/xdp/xsk_queue.h); the two indices run freely modulo 2^32 and are reduced by a mask.
//!
//! A side writes its own index with release and reads the other's with acquire, and keeps a copy of both, so that most
//! operations touch no shared word. All state of an end is in the shared words, so a successor that maps the same ring
//! goes on where the published indices are.

use std::ptr::NonNull;

use crate::sync::{AtomicU32, Ordering, UnsafeCell};

/// `XDP_RING_NEED_WAKEUP`: the kernel looks at the ring only after a system call.
const NEED_WAKEUP: u32 = 1;

/// The words and slots of a ring in shared memory.
pub(super) struct Shared<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    slots: NonNull<UnsafeCell<T>>,
    size: u32,
}

// SAFETY: (X1) a `Shared` is one end of a ring; the indices hand slots over, and no thread owns the memory.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T: Copy> Shared<T> {
    /// A ring of `size` slots.
    ///
    /// # Safety
    /// (X1, X2) The words and `size` slots are live as long as the value is used, `size` is a power of two, and this is
    /// the only userspace end of the ring.
    pub(super) unsafe fn new(
        producer: NonNull<AtomicU32>,
        consumer: NonNull<AtomicU32>,
        flags: NonNull<AtomicU32>,
        slots: NonNull<UnsafeCell<T>>,
        size: u32,
    ) -> Shared<T> {
        debug_assert!(size.is_power_of_two());
        Shared {
            producer,
            consumer,
            flags,
            slots,
            size,
        }
    }

    #[inline]
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: (X2) live as long as the ring.
        unsafe { self.producer.as_ref() }
    }

    #[inline]
    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: (X2) live as long as the ring.
        unsafe { self.consumer.as_ref() }
    }

    #[inline]
    fn needs_wakeup(&self) -> bool {
        // SAFETY: (X2) live as long as the ring.
        unsafe { self.flags.as_ref() }.load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }

    #[inline]
    fn slot(&self, index: u32) -> &UnsafeCell<T> {
        // SAFETY: (X2) the masked index is below `size`.
        unsafe { self.slots.add((index & (self.size - 1)) as usize).as_ref() }
    }
}

/// The writing end.
pub(super) struct Producer<T> {
    shared: Shared<T>,
    /// Next slot to write; at or ahead of what is published.
    next: u32,
    /// How far the kernel had come when last looked.
    consumer: u32,
}

impl<T: Copy> Producer<T> {
    /// Goes on where the shared words are.
    pub(super) fn new(shared: Shared<T>) -> Producer<T> {
        let next = shared.producer().load(Ordering::Acquire);
        let consumer = shared.consumer().load(Ordering::Acquire);
        Producer {
            shared,
            next,
            consumer,
        }
    }

    /// How many slots are free; looks at the kernel's index only when fewer than `want` are known to be.
    #[inline]
    pub(super) fn room(&mut self, want: u32) -> u32 {
        let known = self
            .shared
            .size
            .saturating_sub(self.next.wrapping_sub(self.consumer));
        if known >= want {
            return known;
        }
        self.consumer = self.shared.consumer().load(Ordering::Acquire);
        self.shared
            .size
            .saturating_sub(self.next.wrapping_sub(self.consumer))
    }

    /// Writes a value that [`Producer::publish`] will show; false when the ring is full.
    #[inline]
    #[must_use]
    pub(super) fn push(&mut self, value: T) -> bool {
        if self.room(1) == 0 {
            return false;
        }
        self.shared.slot(self.next).with_mut(|slot| {
            // SAFETY: (X1) the slot is outside consumer..producer, so the kernel does not touch it.
            unsafe { slot.write(value) };
        });
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Shows the kernel everything pushed so far.
    #[inline]
    pub(super) fn publish(&mut self) {
        self.shared.producer().store(self.next, Ordering::Release);
    }

    /// How many pushed values the kernel has not taken yet.
    #[inline]
    pub(super) fn waiting(&self) -> u32 {
        let consumer = self.shared.consumer().load(Ordering::Acquire);
        self.next.wrapping_sub(consumer).min(self.shared.size)
    }

    /// Whether the kernel looks at the ring only after a system call.
    #[inline]
    pub(super) fn needs_wakeup(&self) -> bool {
        self.shared.needs_wakeup()
    }

    /// All values ever pushed, modulo 2^32.
    #[inline]
    pub(super) fn position(&self) -> u32 {
        self.next
    }

    /// The pushed values that the kernel has not taken, oldest first. Only exact when the kernel takes no more.
    pub(super) fn untaken(&self) -> impl Iterator<Item = T> + '_ {
        let waiting = self.waiting();
        let first = self.next.wrapping_sub(waiting);
        (0..waiting).map(move |i| {
            self.shared.slot(first.wrapping_add(i)).with(|slot| {
                // SAFETY: (X1) this side wrote the slot, and the kernel only reads it.
                unsafe { slot.read() }
            })
        })
    }
}

/// The reading end.
pub(super) struct Consumer<T> {
    shared: Shared<T>,
    /// Next slot to read; at or ahead of what is released.
    next: u32,
    /// How far the kernel had published when last looked.
    producer: u32,
}

impl<T: Copy> Consumer<T> {
    /// Goes on where the shared words are.
    pub(super) fn new(shared: Shared<T>) -> Consumer<T> {
        let next = shared.consumer().load(Ordering::Acquire);
        let producer = shared.producer().load(Ordering::Acquire);
        Consumer {
            shared,
            next,
            producer,
        }
    }

    /// How many values are ready; looks at the kernel's index only when fewer than `want` are known to be.
    #[inline]
    pub(super) fn ready(&mut self, want: u32) -> u32 {
        let known = self.producer.wrapping_sub(self.next);
        if known >= want {
            return known.min(self.shared.size);
        }
        self.producer = self.shared.producer().load(Ordering::Acquire);
        self.producer.wrapping_sub(self.next).min(self.shared.size)
    }

    /// Whether the kernel has published something that was not taken; changes nothing.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.shared.producer().load(Ordering::Acquire) == self.next
    }

    /// The value `ahead` places behind the next one. `ahead` is below what [`Consumer::ready`] said.
    #[inline]
    pub(super) fn peek(&self, ahead: u32) -> T {
        debug_assert!(ahead < self.producer.wrapping_sub(self.next));
        self.shared
            .slot(self.next.wrapping_add(ahead))
            .with(|slot| {
                // SAFETY: (X1) the slot is inside consumer..producer, so the kernel does not write it.
                unsafe { slot.read() }
            })
    }

    /// Takes the next value, when one is ready.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<T> {
        if self.ready(1) == 0 {
            return None;
        }
        let value = self.peek(0);
        self.advance(1);
        Some(value)
    }

    /// Takes the next `n` values, which were peeked at.
    #[inline]
    pub(super) fn advance(&mut self, n: u32) {
        debug_assert!(n <= self.producer.wrapping_sub(self.next));
        self.next = self.next.wrapping_add(n);
    }

    /// Gives the slots of everything taken back to the kernel.
    #[inline]
    pub(super) fn release(&mut self) {
        self.shared.consumer().store(self.next, Ordering::Release);
    }

    /// All values ever taken, modulo 2^32.
    #[inline]
    pub(super) fn position(&self) -> u32 {
        self.next
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
