// SPDX-License-Identifier: Apache-2.0
//! Drivers that break the rules: the port is broken with a reason, nothing is lost but what is theirs, and all is well once everything is set up anew.

use podswitch_datapath::port::Link;
use podswitch_datapath::port::vhost::feature::{EVENT_IDX, RING_PACKED};
use podswitch_datapath::port::vhost::{Broken, GuestMemory, MAX_REGIONS, Region, RingFault};
use proptest::prelude::*;

use crate::bed::{Bed, HEADER, USUAL, packet};
use crate::driver::{GUEST, INDIRECT, NEXT, USER, WRITE};

const SIZE: u16 = 8;
/// Behind all memory, and the last address.
const NOWHERE: u64 = GUEST - 1;
const LAST: u64 = u64::MAX;

/// The port is broken by its queue for this reason, and comes back.
#[track_caller]
fn assert_broken(bed: &mut Bed, queue: usize, expected: RingFault) {
    let broken = bed.handle.take_broken();
    let fault = expected;
    assert_eq!(broken, Some(Broken { queue, fault }));
    assert_eq!(bed.handle.take_broken(), None, "once");
    assert_eq!(bed.port.link(), Link::Down);
    assert!(!bed.handle.is_ready());
    assert!(bed.receive().is_empty());
    let frame = bed.frame(&packet(60, 1));
    assert_eq!(bed.send([frame]), 0);
    bed.assert_all_free();
    bed.begin_anew();
    bed.guest_sends(&packet(60, 9));
    let frames = bed.receive();
    assert_eq!(bed.bytes(frames), [packet(60, 9)]);
    let at = bed.guest_gives(100);
    let frame = bed.frame(&packet(60, 8));
    assert_eq!(bed.send([frame]), 0);
    assert_eq!(bed.guest.read(at + HEADER as u64, 60), packet(60, 8));
}

#[test]
fn buffers_that_are_not_memory() {
    let end = GUEST + (1 << 20);
    let outside = [
        (NOWHERE, 100),
        (end, 100),
        (end - 50, 100),
        (LAST, 2),
        (LAST - 49, 100),
        (0, u32::MAX),
    ];
    for features in [USUAL, USUAL | RING_PACKED] {
        for (address, len) in outside.into_iter().take(5) {
            let mut bed = Bed::new(features, SIZE);
            bed.guest_sends(&packet(60, 1));
            bed.queues[1].offer(&bed.guest, &[(address, len)], 0, None);
            let before = bed.receive();
            // What is outside begins where the memory ends; the header is read first.
            let (at, of) = match address {
                _ if (GUEST..end).contains(&address) => (end, len - (end - address) as u32),
                _ => (address, (HEADER as u32).min(len)),
            };
            let expected = RingFault::Outside {
                address: at,
                len: of,
            };
            if len as usize <= HEADER {
                // Too short to be a packet, and not even read.
                assert_eq!(bed.port.counters().rx_invalid, 1);
                bed.bytes(before);
                continue;
            }
            assert_eq!(
                bed.bytes(before),
                [packet(60, 1)],
                "what came before it is whole"
            );
            assert_broken(&mut bed, 1, expected);
        }
        for (address, len) in outside {
            let mut bed = Bed::new(features, SIZE);
            bed.queues[0].offer(&bed.guest, &[(address, len)], WRITE, None);
            let frame = bed.frame(&packet(60, 1));
            bed.send([frame]);
            let broken = bed.handle.take_broken();
            let is_outside = |b: Broken| matches!(b.fault, RingFault::Outside { .. });
            // What is shorter than the header holds nothing.
            assert_eq!(
                broken.is_some_and(is_outside),
                len as usize >= HEADER,
                "{address:#x} {len}"
            );
        }
    }
}

#[test]
fn chains_without_an_end() {
    let mut bed = Bed::new(USUAL, SIZE);
    let at = bed.guest.room(100, 1);
    for (index, next) in [(0, 1), (1, 2), (2, 0)] {
        let table = bed.queues[1].descriptors;
        bed.queues[1].describe(&bed.guest, table, index, (at, 10), NEXT, next);
    }
    bed.queues[1].show(&bed.guest, 0);
    assert!(bed.receive().is_empty());
    assert_broken(&mut bed, 1, RingFault::Endless { most: 8 });

    let mut bed = Bed::new(USUAL | RING_PACKED, SIZE);
    let at = bed.guest.room(100, 1);
    let table = bed.queues[1].descriptors;
    for index in 0..SIZE {
        bed.queues[1].describe(&bed.guest, table, index, (at, 10), NEXT | 1 << 7, 0);
    }
    assert!(bed.receive().is_empty());
    assert_broken(&mut bed, 1, RingFault::Endless { most: 8 });

    // In a table.
    let mut bed = Bed::new(USUAL, SIZE);
    let (at, table) = (bed.guest.room(100, 1), bed.guest.room(64, 16));
    for (index, next) in [(0, 1), (1, 0), (2, 0), (3, 0)] {
        bed.queues[1].describe(&bed.guest, table, index, (at, 10), NEXT, next);
    }
    bed.queues[1].offer(&bed.guest, &[(table, 64)], INDIRECT, None);
    assert!(bed.receive().is_empty());
    assert_broken(&mut bed, 1, RingFault::Endless { most: 4 });
}

#[test]
fn numbers_of_descriptors_that_are_none() {
    let mut bed = Bed::new(USUAL, SIZE);
    bed.queues[1].show(&bed.guest, SIZE);
    assert!(bed.receive().is_empty());
    assert_broken(
        &mut bed,
        1,
        RingFault::Descriptor {
            index: SIZE,
            size: SIZE,
        },
    );

    let mut bed = Bed::new(USUAL, SIZE);
    let at = bed.guest.room(100, 1);
    let table = bed.queues[1].descriptors;
    bed.queues[1].describe(&bed.guest, table, 0, (at, 10), NEXT, u16::MAX);
    bed.queues[1].show(&bed.guest, 0);
    assert!(bed.receive().is_empty());
    let index = u16::MAX;
    assert_broken(&mut bed, 1, RingFault::Descriptor { index, size: SIZE });

    let mut bed = Bed::new(USUAL, SIZE);
    let (at, table) = (bed.guest.room(100, 1), bed.guest.room(32, 16));
    bed.queues[1].describe(&bed.guest, table, 0, (at, 10), NEXT, 2);
    bed.queues[1].offer(&bed.guest, &[(table, 32)], INDIRECT, None);
    assert!(bed.receive().is_empty());
    assert_broken(&mut bed, 1, RingFault::Descriptor { index: 2, size: 2 });
}

#[test]
fn more_buffers_than_there_are() {
    for to in [SIZE + 1, 1 << 15, u16::MAX] {
        let mut bed = Bed::new(USUAL, SIZE);
        bed.guest.set_word(bed.queues[1].available + 2, to);
        assert!(bed.receive().is_empty());
        assert_broken(
            &mut bed,
            1,
            RingFault::Index {
                from: 0,
                to,
                size: SIZE,
            },
        );
    }
    let mut bed = Bed::new(USUAL, SIZE);
    bed.guest.set_word(bed.queues[0].available + 2, 9);
    let frame = bed.frame(&packet(60, 1));
    bed.send([frame]);
    assert_broken(
        &mut bed,
        0,
        RingFault::Index {
            from: 0,
            to: 9,
            size: SIZE,
        },
    );
}

#[test]
fn tables_that_are_none() {
    for features in [USUAL, USUAL | RING_PACKED] {
        for len in [0, 15, 17, 16 * 1025, u32::MAX] {
            let mut bed = Bed::new(features, SIZE);
            let table = bed.guest.room(64, 16);
            bed.queues[1].offer(&bed.guest, &[(table, len)], INDIRECT, None);
            assert!(bed.receive().is_empty());
            assert_broken(&mut bed, 1, RingFault::Table { len });
        }
        let mut bed = Bed::new(features, SIZE);
        bed.queues[1].offer(&bed.guest, &[(NOWHERE, 32)], INDIRECT, None);
        assert!(bed.receive().is_empty());
        assert_broken(
            &mut bed,
            1,
            RingFault::Outside {
                address: NOWHERE,
                len: 32,
            },
        );

        // One with more behind it.
        let mut bed = Bed::new(features, SIZE);
        let table = bed.guest.room(64, 16);
        bed.queues[1].offer(&bed.guest, &[(table, 16), (table, 16)], INDIRECT, None);
        assert!(bed.receive().is_empty());
        assert_broken(&mut bed, 1, RingFault::Nested);
    }
    // One in another.
    let mut bed = Bed::new(USUAL, SIZE);
    let table = bed.guest.room(64, 16);
    bed.queues[1].describe(&bed.guest, table, 0, (table, 16), INDIRECT, 0);
    bed.queues[1].offer(&bed.guest, &[(table, 16)], INDIRECT, None);
    assert!(bed.receive().is_empty());
    assert_broken(&mut bed, 1, RingFault::Nested);
}

#[test]
fn buffers_for_the_other_direction() {
    for features in [USUAL, USUAL | RING_PACKED] {
        let mut bed = Bed::new(features, SIZE);
        let at = bed.guest.room(100, 1);
        bed.queues[1].offer(&bed.guest, &[(at, 100)], WRITE, None);
        assert!(bed.receive().is_empty());
        assert_broken(&mut bed, 1, RingFault::Direction);

        let mut bed = Bed::new(features, SIZE);
        let at = bed.guest.room(100, 1);
        bed.queues[0].offer(&bed.guest, &[(at, 100)], 0, None);
        let frame = bed.frame(&packet(60, 1));
        bed.send([frame]);
        assert_broken(&mut bed, 0, RingFault::Direction);
    }
}

/// No signal ends the process, whether the page is read, written or one of a queue's own.
#[test]
fn files_that_are_cut_under_the_port() {
    // Where the file is cut, from the end of the queues on.
    for (keep, queue) in [(2u64, 1), (2, 0), (0, 1)] {
        let mut bed = Bed::new(USUAL, SIZE);
        let far = GUEST + (1 << 19);
        bed.queues[1].offer(&bed.guest, &[(far, 100)], 0, None);
        bed.queues[0].offer(&bed.guest, &[(far, 100)], WRITE, None);
        bed.guest.file.set_len(4096 * keep).unwrap();
        match queue {
            1 => bed
                .receive()
                .into_iter()
                .for_each(|frame| bed.pool.free(frame)),
            _ => {
                let frame = bed.frame(&packet(60, 1));
                bed.send([frame]);
            }
        }
        let broken = bed.handle.take_broken().expect("a broken port");
        assert_eq!(broken.fault, RingFault::Lost);
        assert_eq!(bed.port.link(), Link::Down);
        bed.assert_all_free();
        bed.begin_anew();
        bed.guest_sends(&packet(60, 9));
        let frames = bed.receive();
        assert_eq!(bed.bytes(frames), [packet(60, 9)]);
    }
}

#[test]
fn regions_that_are_none_are_refused_by_name() {
    let bed = Bed::new(USUAL, SIZE);
    let wrong = |change: fn(&mut Region)| {
        let mut region = bed.guest.region();
        change(&mut region);
        GuestMemory::new(&[region])
            .expect_err("not a region")
            .to_string()
    };
    type Change = fn(&mut Region);
    let cases: [(Change, &str); 5] = [
        (|r| r.bytes = 0, "no such range"),
        (|r| r.guest = u64::MAX - 10, "no such range"),
        (|r| r.user = u64::MAX - 10, "no such range"),
        (|r| r.offset += 1, "the file is shorter"),
        (|r| r.offset = u64::MAX, "the file is shorter"),
    ];
    for (change, expected) in cases {
        let said = wrong(change);
        assert!(said.contains(expected), "{said}");
    }
    let many = (0..=MAX_REGIONS)
        .map(|_| bed.guest.region())
        .collect::<Vec<_>>();
    let said = GuestMemory::new(&many).unwrap_err().to_string();
    assert!(said.contains("65 regions"), "{said}");
    let sparse = bed.guest.file.try_clone().unwrap();
    sparse.set_len(5 << 40).unwrap();
    let much = Region {
        bytes: 5 << 40,
        offset: 0,
        file: sparse,
        ..bed.guest.region()
    };
    let said = GuestMemory::new(&[much]).unwrap_err().to_string();
    assert!(
        said.starts_with("5497558138880 bytes of memory; at most"),
        "{said}"
    );
    let empty = std::fs::File::open("/dev/null").unwrap();
    let region = Region {
        file: empty,
        ..bed.guest.region()
    };
    assert!(GuestMemory::new(&[region]).is_err());
}

/// What is mapped of a large file is the region alone.
#[test]
fn a_region_may_begin_anywhere_in_its_file() {
    let mut bed = Bed::new(USUAL, SIZE);
    let far = 3 << 39;
    let file = bed.guest.file.try_clone().unwrap();
    file.set_len(far + (1 << 20)).unwrap();
    let [mut region] = [bed.guest.region()];
    region.offset = far + 100;
    region.bytes = 4096;
    let near = GuestMemory::new(&[region]).unwrap();
    let beside = Region {
        guest: GUEST + (1 << 30),
        user: USER + (1 << 30),
        ..bed.guest.region()
    };
    let (guest, user, bytes) = (beside.guest, beside.user, beside.bytes);
    let both = near.with(&beside).unwrap();
    assert!(both.without(guest, user, bytes + 1).is_none());
    let one = both.without(guest, user, bytes).unwrap();
    assert!(one.without(guest, user, bytes).is_none());
    bed.guest_sends(&packet(60, 1));
    let frames = bed.receive();
    assert_eq!(bed.bytes(frames), [packet(60, 1)]);
}

/// A frontend that lets nobody write to the eventfd by which its driver is called.
#[test]
fn a_worker_that_is_held_up_in_a_call_is_taken_out_of_it() {
    let mut bed = Bed::new(USUAL, SIZE);
    bed.queues[1].ask_for_calls(&bed.guest, true, false);
    let call = bed.queues[1].call.clone();
    let flags = rustix::fs::fcntl_getfl(&call).unwrap();
    rustix::fs::fcntl_setfl(&call, flags - rustix::fs::OFlags::NONBLOCK).unwrap();
    rustix::io::write(&call, &(u64::MAX - 2).to_ne_bytes()).unwrap();
    let mut calls = bed.handle.calls();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                calls.look();
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        bed.guest_sends(&packet(60, 1));
        let frames = bed.receive();
        let frames = bed.bytes(frames);
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(frames.len(), 1);
    });
    assert_broken(&mut bed, 1, RingFault::Call);
}

#[test]
fn queues_that_are_not_in_memory_are_not_served() {
    let changes: [fn(&mut u64); 3] = [
        |at| *at = USER - 8,
        |at| *at = USER + (1 << 20) - 2,
        |at| *at += 1,
    ];
    for features in [USUAL, USUAL | RING_PACKED] {
        for change in changes {
            for part in 0..3 {
                let mut bed = Bed::new(features, SIZE);
                let regions = [bed.guest.region()];
                let mut backend = bed.backend(&regions);
                let at = &mut backend.queues[0].as_mut().unwrap().addresses;
                change([&mut at.descriptors, &mut at.available, &mut at.used][part]);
                bed.publish(backend);
                assert_eq!(bed.port.link(), Link::Down);
                bed.guest_sends(&packet(60, 1));
                let frames = bed.receive();
                assert_eq!(
                    bed.bytes(frames),
                    [packet(60, 1)],
                    "the other one is served"
                );
            }
        }
    }
}

#[test]
fn queues_of_a_size_that_none_has_are_not_served() {
    for (features, sizes) in [
        (USUAL, [0, 3, 6, 1 << 15 | 1, u16::MAX]),
        (
            USUAL | RING_PACKED,
            [0, 1 << 15 | 1, u16::MAX, u16::MAX - 1, 40_000],
        ),
    ] {
        for size in sizes {
            let mut bed = Bed::new(features, SIZE);
            let regions = [bed.guest.region()];
            let mut backend = bed.backend(&regions);
            backend.queues[0].as_mut().unwrap().size = size;
            bed.publish(backend);
            assert_eq!(bed.port.link(), Link::Down, "{size}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is in a guest's memory, chunks are accounted for, and the port can be used again.
    #[test]
    fn memory_of_any_content_harms_nobody(
        kind in 0..4usize,
        bytes in prop::collection::vec(any::<u8>(), 512),
        words in prop::collection::vec((0u64..256, prop::sample::select(vec![0u16, 1, 2, 3, 7, 8, 0x80, 0x82, 0x8080, 0xffff])), 0..40),
        turns in 1..6usize,
    ) {
        let features = [USUAL, USUAL | EVENT_IDX, USUAL | RING_PACKED, USUAL | RING_PACKED | EVENT_IDX][kind];
        let mut bed = Bed::new(features, SIZE);
        for queue in [0, 1] {
            // Addresses that are memory, as often as not.
            let table = bed.queues[queue].descriptors;
            bed.guest.write(table, &bytes[256 * queue..256 * queue + 128]);
            for index in 0..u64::from(SIZE) {
                if bytes[index as usize] % 4 > 0 {
                    let at = GUEST + u64::from(bytes[64 + index as usize]) * 4096;
                    bed.guest.write(table + 16 * index, &at.to_le_bytes());
                    bed.guest.set_word(table + 16 * index + 10, 0);
                }
            }
            for (at, word) in &words {
                bed.guest.set_word(table + 2 * at, *word);
            }
        }
        for _ in 0..turns {
            let frames = bed.receive();
            bed.bytes(frames);
            let frame = bed.frame(&packet(60, 1));
            bed.send([frame]);
        }
        bed.assert_all_free();
        bed.begin_anew();
        bed.guest_sends(&packet(60, 9));
        let frames = bed.receive();
        prop_assert_eq!(bed.bytes(frames), [packet(60, 9)]);
    }
}
