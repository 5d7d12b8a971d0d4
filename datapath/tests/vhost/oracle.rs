// SPDX-License-Identifier: Apache-2.0
//! Split queues by the crate virtio-queue, which has proofs: the same buffers, in the same order, are given back in the same way.

use std::collections::BTreeSet;

use podswitch_datapath::port::vhost::feature::EVENT_IDX;
use proptest::prelude::*;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

use crate::bed::{Bed, HEADER, USUAL, packet};
use crate::driver::{Driver, GUEST, Guest};

const SIZE: u16 = 16;

/// A second guest, whose sending queue is served by the oracle.
struct Oracle {
    memory: GuestMemoryMmap<()>,
    queue: Queue,
}

impl Oracle {
    fn new(guest: &Guest, driver: &Driver, events: bool) -> Oracle {
        let file = FileOffset::new(guest.file.try_clone().unwrap(), 4096);
        let ranges = [(GuestAddress(GUEST), guest.bytes as usize, Some(file))];
        let memory = GuestMemoryMmap::from_ranges_with_files(ranges).unwrap();
        let mut queue = Queue::new(SIZE).unwrap();
        queue.set_size(SIZE);
        let parts = |at: u64| (Some(at as u32), Some((at >> 32) as u32));
        let (low, high) = parts(driver.descriptors);
        queue.set_desc_table_address(low, high);
        let (low, high) = parts(driver.available);
        queue.set_avail_ring_address(low, high);
        let (low, high) = parts(driver.used);
        queue.set_used_ring_address(low, high);
        queue.set_event_idx(events);
        queue.set_ready(true);
        assert!(queue.is_valid(&memory));
        Oracle { memory, queue }
    }

    /// Packets that were sent, without their headers.
    fn receive(&mut self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        let mut heads = Vec::new();
        for chain in self.queue.iter(&self.memory).unwrap() {
            heads.push(chain.head_index());
            let mut bytes = Vec::new();
            for part in chain.readable() {
                let mut more = vec![0; part.len() as usize];
                self.memory.read_slice(&mut more, part.addr()).unwrap();
                bytes.extend(more);
            }
            all.push(bytes[HEADER..].to_vec());
        }
        for head in heads {
            self.queue.add_used(&self.memory, head, 0).unwrap();
        }
        all
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_taken_and_given_back_is_the_same(
        events: bool,
        steps in prop::collection::vec(prop::collection::vec((1usize..4, 20usize..1500, any::<bool>()), 0..6), 1..40),
    ) {
        let features = if events { USUAL | EVENT_IDX } else { USUAL };
        let mut bed = Bed::new(features, SIZE);
        let mut other = Guest::new(1 << 20);
        let mut same = [(); 2].map(|()| Driver::new(&mut other, SIZE, false));
        let mut oracle = Oracle::new(&other, &same[1], events);
        let [room, room_too] = [&mut bed.guest, &mut other].map(|g| g.room(32 * 4096, 4096));
        prop_assert_eq!(room, room_too);
        let mut number = 0;
        for step in steps {
            for (n, (parts, len, in_table)) in step.into_iter().enumerate() {
                if bed.queues[1].room() < parts {
                    break;
                }
                let all = [&[0; HEADER][..], &packet(len, number)].concat();
                number += 1;
                let at = room + 4096 * n as u64;
                let cut = |n: usize| (all.len() * n / parts) as u64;
                let parts: Vec<_> = (0..parts).map(|n| (at + cut(n), (cut(n + 1) - cut(n)) as u32)).collect();
                let table = in_table.then_some(room + (16 + n as u64) * 4096);
                for (guest, driver) in [(&bed.guest, &mut bed.queues[1]), (&other, &mut same[1])] {
                    guest.write(at, &all);
                    driver.offer(guest, &parts, 0, table);
                }
            }
            let frames = bed.receive();
            prop_assert_eq!(bed.bytes(frames), oracle.receive());
            let used = |driver: &mut Driver, guest: &Guest| -> Vec<_> { std::iter::from_fn(|| driver.used(guest)).collect() };
            let back = used(&mut bed.queues[1], &bed.guest);
            prop_assert_eq!(&back, &used(&mut same[1], &other));
            let different: BTreeSet<_> = back.iter().map(|(id, _)| id).collect();
            prop_assert_eq!(different.len(), back.len());
        }
    }
}
