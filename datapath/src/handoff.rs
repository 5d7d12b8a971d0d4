// SPDX-License-Identifier: Apache-2.0
//! Frames between workers: a ring with one sender and one receiver for each ordered pair of workers, and a ring back
//! that takes the sender's chunks home.
//!
//! A worker may have as many frames of its own with a peer as the rings hold, so the ring back never overflows; beyond
//! that a frame is dropped under [`Reason::HandoffFull`](crate::Reason::HandoffFull). What is sent becomes visible with
//! [`Sender::publish`], once a burst.

use std::mem::MaybeUninit;

use crate::frame::{Frame, Owner, Packet};
use crate::ids::WorkerId;
use crate::sync::{Arc, AtomicUsize, Ordering, UnsafeCell};

/// A cache line pair of its own, so that the two ends do not slow each other down.
#[derive(Debug)]
#[repr(align(128))]
struct Apart<T>(T);

struct Ring<T> {
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
    mask: usize,
    /// Taken up to here; written by the receiver.
    head: Apart<AtomicUsize>,
    /// Published up to here; written by the sender.
    tail: Apart<AtomicUsize>,
}

// SAFETY: (U20) a slot is accessed by the sender while it is outside head..tail and by the receiver while inside; the
// indices pass it over with release and acquire.
unsafe impl<T: Send> Sync for Ring<T> {}
// SAFETY: (U20) as above; the ring owns its values.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        let tail = self.tail.0.load(Ordering::Acquire);
        let mut head = self.head.0.load(Ordering::Acquire);
        while head != tail {
            self.slots[head & self.mask].with_mut(|slot| {
                // SAFETY: (U20) inside head..tail, and both ends are gone.
                unsafe { (*slot).assume_init_drop() };
            });
            head = head.wrapping_add(1);
        }
    }
}

/// The writing end of a ring.
pub struct Sender<T> {
    ring: Arc<Ring<T>>,
    /// Next slot to write; at or ahead of what is published.
    tail: usize,
    /// How far the receiver had come when last looked.
    head: usize,
}

/// The reading end of a ring.
pub struct Receiver<T> {
    ring: Arc<Ring<T>>,
    head: usize,
    /// How far the sender had published when last looked.
    tail: usize,
}

/// A ring that holds `capacity` values, rounded up to a power of two.
pub fn ring<T: Send>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let slots = capacity.max(1).next_power_of_two();
    let ring = Arc::new(Ring {
        slots: (0..slots)
            .map(|_| UnsafeCell::new(MaybeUninit::uninit()))
            .collect(),
        mask: slots - 1,
        head: Apart(AtomicUsize::new(0)),
        tail: Apart(AtomicUsize::new(0)),
    });
    let sender = Sender {
        ring: ring.clone(),
        tail: 0,
        head: 0,
    };
    let receiver = Receiver {
        ring,
        head: 0,
        tail: 0,
    };
    (sender, receiver)
}

impl<T> Sender<T> {
    /// Writes a value that [`Sender::publish`] will show; gives it back when the ring is full.
    #[inline]
    pub fn push(&mut self, value: T) -> Result<(), T> {
        let ring = &*self.ring;
        if self.tail.wrapping_sub(self.head) > ring.mask {
            self.head = ring.head.0.load(Ordering::Acquire);
            if self.tail.wrapping_sub(self.head) > ring.mask {
                return Err(value);
            }
        }
        ring.slots[self.tail & ring.mask].with_mut(|slot| {
            // SAFETY: (U20) the slot is outside head..tail, so the receiver does not touch it.
            unsafe { (*slot).write(value) };
        });
        self.tail = self.tail.wrapping_add(1);
        Ok(())
    }

    /// Shows the receiver everything pushed so far.
    #[inline]
    pub fn publish(&mut self) {
        self.ring.tail.0.store(self.tail, Ordering::Release);
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.publish();
    }
}

impl<T> Receiver<T> {
    /// Takes the oldest value.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        let ring = &*self.ring;
        let value = ring.slots[self.head & ring.mask].with_mut(|slot| {
            // SAFETY: (U20) the slot is inside head..tail: written, published, and not taken yet.
            unsafe { (*slot).assume_init_read() }
        });
        self.head = self.head.wrapping_add(1);
        ring.head.0.store(self.head, Ordering::Release);
        Some(value)
    }

    /// Whether nothing more is published.
    #[inline]
    pub fn is_empty(&mut self) -> bool {
        if self.head == self.tail {
            self.tail = self.ring.tail.0.load(Ordering::Acquire);
        }
        self.head == self.tail
    }
}

/// This worker's end of the rings to one peer.
pub struct Outgoing {
    to: WorkerId,
    packets: Sender<Packet>,
    returns: Receiver<Frame>,
    credit: u32,
    staged: bool,
}

/// This worker's end of the rings from one peer.
pub struct Incoming {
    from: WorkerId,
    packets: Receiver<Packet>,
    returns: Sender<Frame>,
    staged: bool,
}

/// The rings from worker `from` to worker `to`, for `capacity` frames (rounded up to a power of two).
pub fn link(from: WorkerId, to: WorkerId, capacity: usize) -> (Outgoing, Incoming) {
    let capacity = capacity.max(1).next_power_of_two();
    let (packets, packets_in) = ring(capacity);
    let (returns_in, returns) = ring(capacity);
    let outgoing = Outgoing {
        to,
        packets,
        returns,
        credit: capacity as u32,
        staged: false,
    };
    let incoming = Incoming {
        from,
        packets: packets_in,
        returns: returns_in,
        staged: false,
    };
    (outgoing, incoming)
}

impl Outgoing {
    /// The peer.
    pub fn to(&self) -> WorkerId {
        self.to
    }

    /// Hands a packet over, whose frame is of this worker's arenas; gives it back when the peer holds all it may.
    pub fn send(&mut self, packet: Packet) -> Result<(), Packet> {
        debug_assert!(packet.frame.arena().worker() != self.to);
        if self.credit == 0 {
            return Err(packet);
        }
        for chunk in packet.frame.chunks() {
            packet
                .frame
                .arena()
                .set_owner(chunk.index, Owner::Handoff, packet.meta.in_port);
        }
        // Credit is never more than the ring holds.
        self.packets.push(packet)?;
        self.credit -= 1;
        self.staged = true;
        Ok(())
    }

    /// Takes back a frame of this worker that the peer has done with.
    pub fn take_return(&mut self) -> Option<Frame> {
        let frame = self.returns.pop()?;
        self.credit += 1;
        Some(frame)
    }

    /// Frames the peer may still be given.
    pub fn credit(&self) -> u32 {
        self.credit
    }

    /// Shows the peer what was sent; true when there was something, so that it is to be woken.
    pub fn publish(&mut self) -> bool {
        if self.staged {
            self.packets.publish();
        }
        std::mem::take(&mut self.staged)
    }

    /// Whether frames wait to be taken back.
    pub fn has_returns(&mut self) -> bool {
        !self.returns.is_empty()
    }
}

impl Incoming {
    /// The peer.
    pub fn from(&self) -> WorkerId {
        self.from
    }

    /// The next packet from the peer.
    #[inline]
    pub fn receive(&mut self) -> Option<Packet> {
        self.packets.pop()
    }

    /// Sends one of the peer's frames home. It always fits while the peer keeps to its credit; should it not, the
    /// frame comes back.
    pub fn give_back(&mut self, frame: Frame) -> Result<(), Frame> {
        self.returns.push(frame)?;
        self.staged = true;
        Ok(())
    }

    /// Shows the peer what was given back; true when there was something.
    pub fn publish(&mut self) -> bool {
        if self.staged {
            self.returns.publish();
        }
        std::mem::take(&mut self.staged)
    }

    /// Whether packets wait.
    pub fn has_packets(&mut self) -> bool {
        !self.packets.is_empty()
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use crate::frame::{Arena, Batch, Pool};
    use crate::ids::PortId;

    #[test]
    fn a_ring_is_first_in_first_out_and_bounded() {
        let (mut tx, mut rx) = ring(3);
        for i in 0..4 {
            assert_eq!(tx.push(i), Ok(()));
        }
        assert_eq!(tx.push(4), Err(4));
        assert_eq!(rx.pop(), None, "nothing is published");
        tx.publish();
        assert_eq!(rx.pop(), Some(0));
        assert_eq!(tx.push(4), Ok(()));
        tx.publish();
        assert_eq!(
            (1..=5).map(|_| rx.pop()).collect::<Vec<_>>(),
            [Some(1), Some(2), Some(3), Some(4), None]
        );
    }

    #[test]
    fn values_left_in_a_ring_are_dropped() {
        let value = std::sync::Arc::new(());
        let (mut tx, rx) = ring(4);
        tx.push(value.clone()).unwrap();
        tx.publish();
        tx.push(value.clone()).unwrap();
        drop(tx);
        drop(rx);
        assert_eq!(std::sync::Arc::strong_count(&value), 1);
        let (mut tx, rx) = ring(4);
        drop(rx);
        tx.push(value.clone()).unwrap();
        drop(tx);
        assert_eq!(std::sync::Arc::strong_count(&value), 1);
    }

    #[test]
    fn threads_pass_everything_in_order() {
        const N: u64 = 200_000;
        let (mut tx, mut rx) = ring(64);
        std::thread::scope(|s| {
            s.spawn(move || {
                for i in 0..N {
                    while tx.push(i).is_err() {
                        tx.publish();
                        std::thread::yield_now();
                    }
                    if i % 7 == 0 {
                        tx.publish();
                    }
                }
            });
            for i in 0..N {
                loop {
                    if let Some(v) = rx.pop() {
                        assert_eq!(v, i);
                        break;
                    }
                    std::thread::yield_now();
                }
            }
        });
    }

    fn packet(pool: &mut Pool, arena: &std::sync::Arc<Arena>) -> Packet {
        let mut batch = Batch::new();
        let frame = pool.alloc_bytes(arena, &[1; 60]).unwrap();
        batch.push(frame, PortId(1)).unwrap();
        batch.drain().next().unwrap()
    }

    #[test]
    fn credit_bounds_what_the_peer_holds_and_comes_back() {
        let (a, b) = (WorkerId(0), WorkerId(1));
        let arena = std::sync::Arc::new(Arena::new(a, 16).unwrap());
        let mut pool = Pool::new(a);
        pool.add_arena(arena.clone());
        let mut peer_pool = Pool::new(b);
        let (mut out, mut inc) = link(a, b, 2);
        for _ in 0..2 {
            let p = packet(&mut pool, &arena);
            out.send(p).unwrap();
        }
        assert!(out.publish());
        assert!(!out.publish());
        let first = inc.receive().unwrap();
        let second = inc.receive().unwrap();
        let refused = packet(&mut pool, &arena);
        let refused = out.send(refused).unwrap_err();
        assert_eq!(pool.audit()[0].handoff, 2);
        peer_pool.free(first.frame);
        for frame in peer_pool.foreign().drain(..) {
            inc.give_back(frame).unwrap();
        }
        assert!(inc.publish());
        pool.free(out.take_return().unwrap());
        out.send(refused).unwrap();
        out.publish();
        for packet in [second, inc.receive().unwrap()] {
            inc.give_back(packet.frame).unwrap();
        }
        inc.publish();
        assert!(out.has_returns());
        while let Some(frame) = out.take_return() {
            pool.free(frame);
        }
        assert_eq!(out.credit(), 2);
        let audit = pool.audit()[0];
        assert_eq!((audit.free, audit.listed), (16, 16));
    }
}

#[cfg(all(test, feature = "loom"))]
mod loom_model {
    use super::*;

    /// Every value arrives once, in order, and what is left is dropped: over all interleavings of two threads.
    #[test]
    fn loom_ring_passes_each_value_once() {
        loom::model(|| {
            let (mut tx, mut rx) = ring::<Box<usize>>(2);
            let sender = loom::thread::spawn(move || {
                let mut sent = 0;
                for i in 0..3 {
                    if tx.push(Box::new(i)).is_err() {
                        break;
                    }
                    if i != 0 {
                        tx.publish();
                    }
                    sent += 1;
                }
                sent
            });
            let mut got = 0;
            for _ in 0..2 {
                if let Some(value) = rx.pop() {
                    assert_eq!(*value, got);
                    got += 1;
                }
            }
            let sent = sender.join().unwrap();
            while let Some(value) = rx.pop() {
                assert_eq!(*value, got);
                got += 1;
            }
            assert_eq!(got, sent);
        });
    }
}
