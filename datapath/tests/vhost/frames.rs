// SPDX-License-Identifier: Apache-2.0
//! Frames out of a guest's buffers and into them.

use std::collections::VecDeque;

use podswitch_datapath::port::vhost::Queue;
use podswitch_datapath::port::vhost::feature::{
    EVENT_IDX, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, MRG_RXBUF, RING_PACKED, VERSION_1,
};
use podswitch_datapath::port::{Link, PortCounters};
use proptest::prelude::*;

use crate::bed::{Bed, HEADER, USUAL, packet};
use crate::driver::{Driver, WRITE};

/// Both kinds of queues, with both ways of saying what one wants to be told of.
const KINDS: [u64; 4] = [
    USUAL,
    USUAL | EVENT_IDX,
    USUAL | RING_PACKED,
    USUAL | RING_PACKED | EVENT_IDX,
];
const LENGTHS: [usize; 9] = [14, 60, 1514, 3839, 3840, 3841, 7680, 9014, 65_549];

#[test]
fn packets_of_every_length_come_in_whole() {
    for features in KINDS {
        for (number, len) in (0..).zip(LENGTHS) {
            for lengths in [&[][..], &[HEADER], &[5, 3, 0, 9], &[HEADER + 14, 4096, 1]] {
                for in_table in [false, true] {
                    let mut bed = Bed::new(features, 16);
                    let sent = packet(len, number);
                    let all = [&[0; HEADER][..], &sent].concat();
                    let parts = bed.parts(&all, lengths);
                    let table = in_table.then(|| bed.guest.room(16 * 16, 16));
                    let id = bed.queues[1].offer(&bed.guest, &parts, 0, table);
                    let frames = bed.receive();
                    assert_eq!(bed.bytes(frames), [sent], "{len} in {lengths:?}");
                    assert_eq!(bed.queues[1].used(&bed.guest), Some((id, 0)));
                    bed.assert_all_free();
                }
            }
        }
    }
}

#[test]
fn frames_of_every_length_go_out_into_as_many_buffers_as_they_need() {
    for features in KINDS {
        for (number, len) in (0..).zip(LENGTHS) {
            for size in [70_000, 1526, 4096] {
                let mut bed = Bed::new(features, 64);
                let needed = (len + HEADER).div_ceil(size);
                let buffers: Vec<u64> = (0..needed + 1)
                    .map(|_| bed.guest_gives(size as u32))
                    .collect();
                let sent = packet(len, number);
                let frames = long(&mut bed, &sent);
                assert_eq!(bed.send(frames), 0);
                let mut got = Vec::new();
                for at in &buffers[..needed] {
                    let (_, written) = bed.queues[0].used(&bed.guest).expect("a buffer");
                    got.extend(bed.guest.read(*at, written as usize));
                }
                assert_eq!(bed.queues[0].used(&bed.guest), None, "one more than needed");
                assert_eq!(got[..10], [0; 10]);
                assert_eq!(u16::from_le_bytes([got[10], got[11]]), needed as u16);
                assert!(got[HEADER..] == sent, "{len} in buffers of {size}");
                bed.assert_all_free();
            }
        }
    }
}

/// A frame of several chunks: one that came in.
fn long(bed: &mut Bed, bytes: &[u8]) -> Vec<podswitch_datapath::frame::Frame> {
    bed.guest_sends(bytes);
    let frames = bed.receive();
    bed.queues[1].used(&bed.guest).expect("the buffer");
    frames
}

#[test]
fn guests_without_merged_buffers_have_a_header_of_ten_bytes_and_get_what_fits_one() {
    let mut bed = Bed::new(GUEST_CSUM, 8);
    bed.guest_gives(100);
    let small = bed.guest_gives(70);
    let frames = [packet(60, 1), packet(61, 2), packet(60, 3)].map(|p| bed.frame(&p));
    assert_eq!(bed.send(frames), 0);
    assert_eq!(bed.queues[0].used(&bed.guest).map(|u| u.1), Some(70));
    assert_eq!(bed.queues[0].used(&bed.guest).map(|u| u.1), Some(70));
    assert_eq!(bed.guest.read(small + 10, 60), packet(60, 3));
    assert_eq!(bed.port.counters().tx_refused, 1, "the one of 61 bytes");
    let parts = bed.parts(&[&[0; 10][..], &packet(60, 4)].concat(), &[]);
    bed.queues[1].offer(&bed.guest, &parts[..1], 0, None);
    let frames = bed.receive();
    assert_eq!(bed.bytes(frames), [packet(60, 4)]);
    let mut bed = Bed::new(VERSION_1, 8);
    bed.guest_gives(100);
    let frame = bed.frame(&packet(60, 5));
    assert_eq!(bed.send([frame]), 0);
    assert_eq!(bed.queues[0].used(&bed.guest).map(|u| u.1), Some(72));
}

#[test]
fn frames_wait_for_buffers_and_nothing_is_written_before_there_are_enough() {
    for features in KINDS {
        let mut bed = Bed::new(features, 8);
        let first = bed.guest_gives(1000);
        let sent = packet(1500, 1);
        let frame = bed.frame(&sent);
        let mut outbox = VecDeque::from([frame]);
        assert_eq!(
            bed.port
                .transmit(crate::bed::ID, &mut bed.pool, &mut outbox),
            0
        );
        assert_eq!(outbox.len(), 1);
        assert_eq!(bed.guest.read(first, 1000), [0; 1000]);
        let second = bed.guest_gives(1000);
        assert_eq!(
            bed.port
                .transmit(crate::bed::ID, &mut bed.pool, &mut outbox),
            1
        );
        let got = [bed.guest.read(first, 1000), bed.guest.read(second, 512)].concat();
        assert!(got[HEADER..] == sent);
        assert_eq!(bed.port.counters().tx_full, 1);
    }
}

#[test]
fn a_port_without_queues_is_down_and_takes_nothing() {
    let mut bed = Bed::new(USUAL, 8);
    assert_eq!(bed.port.link(), Link::Up);
    assert!(bed.handle.is_ready());
    bed.guest_gives(2000);
    bed.publish(Default::default());
    assert_eq!(bed.port.link(), Link::Down);
    assert!(!bed.handle.is_ready());
    let frame = bed.frame(&packet(60, 1));
    assert_eq!(bed.send([frame]), 0);
    assert_eq!(bed.port.counters().tx_refused, 1);
    assert_eq!(bed.queues[0].used(&bed.guest), None);
    bed.assert_all_free();
}

#[test]
fn what_a_header_says_is_believed_as_far_as_it_was_agreed_on() {
    let tcp = USUAL | HOST_TSO4;
    // Flags, kind, bytes of headers, of a segment, where the checksum begins, and where it is from there.
    let header = |flags: u8, kind: u8, size: u16, start: u16, offset: u16| {
        let mut header = [0; HEADER];
        (header[0], header[1]) = (flags, kind);
        header[4..6].copy_from_slice(&size.to_le_bytes());
        header[6..8].copy_from_slice(&start.to_le_bytes());
        header[8..10].copy_from_slice(&offset.to_le_bytes());
        header
    };
    let good = [
        header(0, 0, 0, 9, 9),
        header(1, 0, 0, 34, 16),
        header(1, 0, 0, 34, 24),
        header(1, 1, 1000, 34, 16),
    ];
    let bad = [
        // Behind the end, or where it would wrap.
        header(1, 0, 0, 34, 25),
        header(1, 0, 0, 60, 0),
        header(1, 0, 0, u16::MAX, u16::MAX),
        // Segments without a checksum to be finished, of no length, of a kind that was not agreed on, or is none.
        header(0, 1, 1000, 34, 16),
        header(1, 1, 0, 34, 16),
        header(1, 4, 1000, 34, 16),
        header(1, 5, 1000, 34, 6),
        header(1, 0x81, 1000, 34, 16),
    ];
    let mut bed = Bed::new(tcp, 16);
    for header in good {
        bed.guest_sends_with(header, &packet(60, 1));
        let mut frames = bed.receive();
        let frame = frames.pop().expect("a frame");
        assert_eq!(frame.offload.partial_checksum, header[0] == 1);
        if header[0] == 1 {
            assert_eq!(frame.offload.csum_start, 34);
            assert_eq!(frame.offload.csum_offset.to_le_bytes(), header[8..10]);
        }
        bed.pool.free(frame);
    }
    for header in bad {
        bed.guest_sends_with(header, &packet(60, 1));
        assert!(bed.receive().is_empty(), "{header:?}");
    }
    assert_eq!(bed.port.counters().rx_invalid, bad.len() as u64);
    assert!(bed.handle.take_broken().is_none());
    // Without the feature no checksum is left to anybody.
    let mut bed = Bed::new(VERSION_1, 16);
    bed.guest_sends_with(good[1], &packet(60, 1));
    assert!(bed.receive().is_empty());
    bed.assert_all_free();
}

#[test]
fn what_is_too_short_or_too_long_for_a_frame_is_given_back_and_counted() {
    let mut bed = Bed::new(USUAL, 16);
    let empty = bed.parts(&[0; HEADER], &[]);
    let short = bed.parts(&[0; 5], &[]);
    for parts in [&empty[..1], &short[..1], &[]] {
        let nothing = [(bed.guest.region().guest, 0)];
        let parts = if parts.is_empty() {
            &nothing[..]
        } else {
            parts
        };
        bed.queues[1].offer(&bed.guest, parts, 0, None);
    }
    bed.guest_sends(&packet(65_554, 1));
    bed.guest_sends(&packet(65_553, 2));
    let frames = bed.receive();
    assert_eq!(bed.bytes(frames), [packet(65_553, 2)]);
    let PortCounters {
        rx_invalid,
        rx_too_long,
        ..
    } = bed.port.counters();
    assert_eq!((rx_invalid, rx_too_long), (3, 1));
    assert_eq!(
        std::iter::from_fn(|| bed.queues[1].used(&bed.guest)).count(),
        5
    );
}

#[test]
fn what_is_in_a_queue_that_is_disabled_is_given_back_and_counted() {
    for features in KINDS {
        let mut bed = Bed::new(features, 16);
        let regions = [bed.guest.region()];
        let mut backend = bed.backend(&regions);
        let queue = backend.queues[1].as_mut().expect("a queue");
        queue.disabled = true;
        let queue = queue.clone();
        bed.publish(backend);
        // More than once round.
        for n in 0..20 {
            bed.guest_sends(&packet(60, n));
            bed.guest_sends(&packet(2000, n));
            assert!(bed.port.has_work());
            assert!(bed.receive().is_empty());
            assert!(!bed.port.has_work());
            let back = std::iter::from_fn(|| bed.queues[1].used(&bed.guest));
            assert_eq!(back.count(), 2);
        }
        assert_eq!(bed.port.counters().rx_disabled, 40);
        // It goes on where it is when it is enabled again.
        let mut backend = bed.backend(&regions);
        backend.queues[1] = Some(Queue {
            disabled: false,
            ..queue
        });
        bed.publish(backend);
        bed.guest_sends(&packet(60, 1));
        let frames = bed.receive();
        assert_eq!(bed.bytes(frames), [packet(60, 1)]);
        assert_eq!(bed.port.counters().rx_disabled, 40);
        bed.assert_all_free();
    }
}

#[test]
fn without_chunks_packets_wait_in_the_guest() {
    for features in KINDS {
        let mut bed = Bed::new(features, 16);
        (0..3).for_each(|n| bed.guest_sends(&packet(65_000, n)));
        // Each takes 17 of 64 chunks.
        let held: Vec<_> = (0..20).map(|n| bed.frame(&[n; 60])).collect();
        let first = bed.receive();
        assert_eq!(first.len(), 2);
        assert!(bed.port.starved());
        assert!(bed.port.has_work());
        assert!(bed.receive().is_empty());
        assert_eq!(bed.port.counters().fill_starved, 1);
        held.into_iter().for_each(|frame| bed.pool.free(frame));
        let rest = bed.receive();
        assert_eq!(bed.bytes(rest), [packet(65_000, 2)]);
        assert!(!bed.port.starved());
        assert_eq!(bed.bytes(first), [packet(65_000, 0), packet(65_000, 1)]);
        assert_eq!(
            std::iter::from_fn(|| bed.queues[1].used(&bed.guest)).count(),
            3
        );
        bed.assert_all_free();
    }
}

#[test]
fn superframes_are_taken_by_guests_that_agreed_to_both_families() {
    let all = USUAL | GUEST_TSO4 | GUEST_TSO6;
    assert!(Bed::new(all, 8).port.takes_superframes());
    for missing in [GUEST_TSO4, GUEST_TSO6, GUEST_CSUM, MRG_RXBUF] {
        assert!(!Bed::new(all & !missing, 8).port.takes_superframes());
    }
}

#[test]
fn memory_in_several_regions_is_one_for_the_guest() {
    let mut bed = Bed::new(USUAL, 8);
    bed.begin_anew();
    let backend = bed.backend_of_halves();
    bed.publish(backend);
    let middle = crate::driver::GUEST + bed.guest.bytes / 2;
    let sent = packet(3000, 1);
    let all = [&[0; HEADER][..], &sent].concat();
    bed.guest.write(middle - 1500, &all);
    let part = (middle - 1500, all.len() as u32);
    bed.queues[1].offer(&bed.guest, &[part], 0, None);
    let frames = bed.receive();
    assert_eq!(bed.bytes(frames), std::slice::from_ref(&sent));
    bed.guest.write(middle - 1500, &[0; 3012]);
    bed.queues[0].offer(&bed.guest, &[part], WRITE, None);
    let frame = bed.frame(&sent);
    assert_eq!(bed.send([frame]), 0);
    assert!(bed.guest.read(middle - 1500 + 12, 3000) == sent);
}

/// A datagram over IPv4 of a flow, which the port of its sender names.
fn datagram(port: u16, number: u8) -> Vec<u8> {
    let mut bytes = packet(60, number.into());
    bytes[12..34].copy_from_slice(&[
        8, 0, 0x45, 0, 0, 46, 0, number, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ]);
    bytes[34..36].copy_from_slice(&port.to_be_bytes());
    bytes[36..38].copy_from_slice(&9u16.to_be_bytes());
    bytes
}

#[test]
fn a_flow_goes_by_one_of_several_queues_and_all_that_the_guest_sends_by_is_taken() {
    let mut bed = Bed::new(USUAL, 256);
    let mut more = [(); 2].map(|()| Driver::new(&mut bed.guest, 256, false));
    let regions = [bed.guest.region()];
    let mut backend = bed.backend(&regions);
    let starts = (100..).zip(&more);
    let queues = starts.map(|(start, queue)| Some(queue.queue(start)));
    backend.queues.extend(queues);
    bed.publish(backend);
    let room = bed.guest.room(400 * 100, 1);
    for n in 0..200 {
        for (queue, at) in [(&mut bed.queues[0], room), (&mut more[0], room + 20_000)] {
            queue.offer(&bed.guest, &[(at + 100 * n, 100)], WRITE, None);
        }
    }
    let mut counts = [0; 2];
    for flow in 0..50 {
        for number in 0..3 {
            let frame = bed.frame(&datagram(1000 + flow, number));
            assert_eq!(bed.send([frame]), 0);
        }
        let by = [&mut bed.queues[0], &mut more[0]]
            .map(|queue| std::iter::from_fn(|| queue.used(&bed.guest)).count());
        assert!(by == [3, 0] || by == [0, 3], "flow {flow}: {by:?}");
        counts = [counts[0] + by[0], counts[1] + by[1]];
    }
    assert!(counts.iter().all(|n| *n >= 30), "{counts:?}");

    bed.guest_sends(&packet(60, 1));
    let parts = bed.parts(&[&[0; HEADER][..], &packet(60, 2)].concat(), &[]);
    more[1].offer(&bed.guest, &parts[..1], 0, None);
    let frames = bed.receive();
    let mut got = bed.bytes(frames);
    got.sort();
    let mut sent = [packet(60, 1), packet(60, 2)];
    sent.sort();
    assert_eq!(got, sent);
}

/// What the worker was in the middle of goes on when the frontend says something else.
#[test]
fn queues_go_on_where_they_are_when_memory_or_descriptors_change() {
    for features in KINDS {
        let mut bed = Bed::new(features, 8);
        for n in 0..13 {
            bed.guest_sends(&packet(60, n));
            let frames = bed.receive();
            assert_eq!(bed.bytes(frames), [packet(60, n)]);
            assert!(bed.queues[1].used(&bed.guest).is_some());
            let regions = [bed.guest.region()];
            let mut backend = bed.backend(&regions);
            for (at, queue) in (0..).zip(backend.queues.iter_mut().flatten()) {
                // The same start as ever.
                queue.start = 2 + at;
            }
            bed.publish(backend);
        }
        let at = bed.handle.position(1);
        let expected = if features & RING_PACKED == 0 {
            13
        } else {
            13 - 8
        };
        assert_eq!((at.available, at.used), (expected, expected));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes in what order, all of it arrives, in order, and every buffer comes back once.
    #[test]
    fn queues_of_every_kind_and_size_go_round(
        kind in 0..KINDS.len(),
        log in 1u32..7,
        steps in prop::collection::vec((0usize..20, 0usize..20, 20usize..2000), 1..60),
    ) {
        let mut bed = Bed::new(KINDS[kind], 1 << log);
        // Buffers are used again and again.
        let room = bed.guest.room(64 * 4096, 4096);
        let mut number = 0;
        for (out, into, len) in steps {
            let mut sent = Vec::new();
            for n in 0..out {
                let parts = 1 + n % 3;
                if bed.queues[1].room() < parts {
                    break;
                }
                let bytes = packet(len, number);
                number += 1;
                let all = [&[0; HEADER][..], &bytes].concat();
                let at = room + 4096 * n as u64;
                bed.guest.write(at, &all);
                let cut = |n: usize| (all.len() * n / parts) as u64;
                let parts: Vec<_> = (0..parts).map(|n| (at + cut(n), (cut(n + 1) - cut(n)) as u32)).collect();
                bed.queues[1].offer(&bed.guest, &parts, 0, None);
                sent.push(bytes);
            }
            let frames = bed.receive();
            prop_assert_eq!(bed.bytes(frames), sent.clone());
            let back = std::iter::from_fn(|| bed.queues[1].used(&bed.guest)).count();
            prop_assert_eq!(back, sent.len());
            let mut buffers = VecDeque::new();
            while bed.queues[0].room() > 0 && buffers.len() < 32 {
                let at = room + 4096 * (32 + buffers.len() as u64);
                bed.queues[0].offer(&bed.guest, &[(at, 700)], WRITE, None);
                buffers.push_back(at);
            }
            let each = (len + HEADER).div_ceil(700);
            let fit = into.min(buffers.len() / each);
            let frames: Vec<_> = (0..fit).map(|n| bed.frame(&packet(len, n as u32))).collect();
            prop_assert_eq!(bed.send(frames), 0);
            for n in 0..fit {
                let mut got = Vec::new();
                for _ in 0..each {
                    let (_, written) = bed.queues[0].used(&bed.guest).unwrap();
                    got.extend(bed.guest.read(buffers.pop_front().unwrap(), written as usize));
                }
                prop_assert_eq!(&got[HEADER..], packet(len, n as u32));
            }
            prop_assert_eq!(bed.queues[0].used(&bed.guest), None);
            // The others are filled with something too, so that all are free again.
            let rest: Vec<_> = buffers.iter().map(|_| bed.frame(&[0; 60])).collect();
            prop_assert_eq!(bed.send(rest), 0);
            while bed.queues[0].used(&bed.guest).is_some() {}
        }
        bed.assert_all_free();
    }
}
