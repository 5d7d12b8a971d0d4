// SPDX-License-Identifier: Apache-2.0
//! Rings on plain memory: against a queue, across the wrap of the indices, and under loom's memory model.

use super::*;
use crate::sync::Arc;

/// Ring memory as the kernel lays it out, without the kernel.
struct Memory {
    producer: AtomicU32,
    consumer: AtomicU32,
    flags: AtomicU32,
    slots: Vec<UnsafeCell<u64>>,
}

// SAFETY: (X1) the tests have one end on each side.
unsafe impl Sync for Memory {}
// SAFETY: (X1) as above.
unsafe impl Send for Memory {}

impl Memory {
    fn new(size: u32, start: u32) -> Arc<Memory> {
        Arc::new(Memory {
            producer: AtomicU32::new(start),
            consumer: AtomicU32::new(start),
            flags: AtomicU32::new(0),
            slots: (0..size).map(|_| UnsafeCell::new(0)).collect(),
        })
    }

    fn ends(&self) -> (Producer<u64>, Consumer<u64>) {
        let shared = || {
            let size = self.slots.len() as u32;
            let slots = NonNull::from(&self.slots[0]);
            let [p, c, f] = [&self.producer, &self.consumer, &self.flags].map(NonNull::from);
            // SAFETY: (X1, X2) the tests keep the memory, and use one end of each kind.
            unsafe { Shared::new(p, c, f, slots, size) }
        };
        (Producer::new(shared()), Consumer::new(shared()))
    }
}

#[cfg(not(feature = "loom"))]
mod plain {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Both ends together behave like a bounded queue whose halves see each other's work late.
        #[test]
        fn a_ring_is_a_bounded_queue(
            size in (0..5u32).prop_map(|p| 1 << p),
            start in prop_oneof![Just(0u32), Just(u32::MAX - 3), any::<u32>()],
            steps in prop::collection::vec(0..6u8, 1..200),
        ) {
            let memory = Memory::new(size, start);
            let (mut producer, mut consumer) = memory.ends();
            let (mut staged, mut shown) = (VecDeque::new(), VecDeque::new());
            let (mut taken, mut value) = (0u32, 0u64);
            for step in steps {
                match step {
                    0 | 1 => {
                        let full = staged.len() + shown.len() + taken as usize == size as usize;
                        prop_assert_eq!(producer.push(value), !full);
                        if !full {
                            staged.push_back(value);
                            value += 1;
                        }
                    }
                    2 => {
                        producer.publish();
                        shown.append(&mut staged);
                        prop_assert_eq!(producer.waiting(), shown.len() as u32 + taken);
                    }
                    3 => {
                        prop_assert_eq!(consumer.is_empty(), shown.is_empty());
                        let next = consumer.pop();
                        taken += u32::from(next.is_some());
                        prop_assert_eq!(next, shown.pop_front());
                    }
                    4 => {
                        let ready = consumer.ready(size);
                        prop_assert_eq!(ready as usize, shown.len());
                        for (i, expected) in shown.iter().enumerate() {
                            prop_assert_eq!(consumer.peek(i as u32), *expected);
                        }
                        let untaken: Vec<u64> = producer.untaken().skip(taken as usize).collect();
                        prop_assert_eq!(untaken, shown.iter().chain(&staged).copied().collect::<Vec<_>>());
                    }
                    _ => {
                        consumer.release();
                        taken = 0;
                    }
                }
            }
            prop_assert_eq!(producer.position().wrapping_sub(start), value as u32);
        }
    }

    #[test]
    fn a_second_pair_of_ends_goes_on_where_the_first_published() {
        let memory = Memory::new(8, u32::MAX);
        let (mut producer, mut consumer) = memory.ends();
        for value in 0..5 {
            assert!(producer.push(value));
        }
        producer.publish();
        assert!(producer.push(99), "never published, so never seen");
        assert_eq!(consumer.pop(), Some(0));
        assert_eq!(consumer.pop(), Some(1));
        consumer.release();
        assert_eq!(consumer.pop(), Some(2), "not released, so seen again");
        let (mut producer, mut consumer) = memory.ends();
        assert!(producer.push(5));
        producer.publish();
        let all: Vec<u64> = std::iter::from_fn(|| consumer.pop()).collect();
        assert_eq!(all, [2, 3, 4, 5]);
    }

    #[test]
    fn indices_that_make_no_sense_are_cut_to_the_size() {
        let memory = Memory::new(4, 0);
        let (mut producer, mut consumer) = memory.ends();
        memory.producer.store(1000, Ordering::Relaxed);
        assert_eq!(consumer.ready(1), 4);
        memory.consumer.store(500, Ordering::Relaxed);
        assert_eq!(producer.room(5), 0);
        assert!(!producer.push(1));
        assert_eq!(producer.waiting(), 4);
    }

    #[test]
    fn the_wakeup_flag_is_read() {
        let memory = Memory::new(1, 0);
        let (producer, _) = memory.ends();
        assert!(!producer.needs_wakeup());
        memory.flags.store(1, Ordering::Relaxed);
        assert!(producer.needs_wakeup());
    }
}

#[cfg(feature = "loom")]
mod loom_model {
    use super::*;

    /// In every interleaving and every allowed reordering, values arrive once, in order and whole.
    #[test]
    fn values_arrive_once_and_in_order() {
        loom::model(|| {
            let memory = Memory::new(2, u32::MAX);
            let (mut producer, mut consumer) = memory.ends();
            let writer = {
                let memory = memory.clone();
                loom::thread::spawn(move || {
                    let mut pushed = 0;
                    for _ in 0..4 {
                        if pushed < 3 && producer.push(10 + pushed) {
                            pushed += 1;
                            producer.publish();
                        }
                        loom::thread::yield_now();
                    }
                    drop(memory);
                    pushed
                })
            };
            let mut seen = Vec::new();
            for _ in 0..2 {
                while let Some(value) = consumer.pop() {
                    seen.push(value);
                }
                consumer.release();
                loom::thread::yield_now();
            }
            let pushed = writer.join().unwrap();
            while let Some(value) = consumer.pop() {
                seen.push(value);
            }
            assert_eq!(seen, (10..10 + pushed).collect::<Vec<_>>());
        });
    }
}
