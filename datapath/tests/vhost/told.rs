// SPDX-License-Identifier: Apache-2.0
//! Who tells whom: a driver is called as far as it wants to be, and kicks only while the worker sleeps.

use podswitch_datapath::port::vhost::feature::{EVENT_IDX, RING_PACKED};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::bed::{Bed, USUAL, packet};
use crate::driver::rung;

const KINDS: [(u64, bool); 4] = [
    (USUAL, false),
    (USUAL | EVENT_IDX, true),
    (USUAL | RING_PACKED, false),
    (USUAL | RING_PACKED | EVENT_IDX, true),
];

#[test]
fn a_driver_is_called_once_for_a_burst_if_it_wants_to_be() {
    for (features, events) in KINDS {
        let mut bed = Bed::new(features, 16);
        // Once unasked: what was given back before may never have been said.
        for queue in &bed.queues {
            assert_eq!(rung(&queue.call), 1);
        }
        for round in 0..40 {
            let wants = round % 3 != 1;
            bed.queues[1].ask_for_calls(&bed.guest, wants, events);
            (0..3).for_each(|n| bed.guest_sends(&packet(60, n)));
            let frames = bed.receive();
            assert_eq!(bed.bytes(frames).len(), 3);
            assert_eq!(rung(&bed.queues[1].call), u64::from(wants), "round {round}");
            bed.queues[0].ask_for_calls(&bed.guest, wants, events);
            (0..2).for_each(|_| _ = bed.guest_gives(100));
            let frames = [1, 2].map(|n| bed.frame(&packet(60, n)));
            assert_eq!(bed.send(frames), 0);
            assert_eq!(rung(&bed.queues[0].call), u64::from(wants), "round {round}");
            assert!(bed.receive().is_empty());
            assert_eq!(rung(&bed.queues[1].call), 0, "for nothing");
            for queue in &mut bed.queues {
                while queue.used(&bed.guest).is_some() {}
            }
        }
    }
}

/// Whether the worker's sleep would end.
fn is_heard(bed: &Bed) -> bool {
    let mut fds: Vec<_> = bed
        .port
        .wait_fds()
        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
        .collect();
    poll(&mut fds, Some(&Timespec::default())).unwrap() > 0
}

#[test]
fn kicks_are_asked_for_in_the_workers_sleep_alone_and_heard_once() {
    for (features, events) in KINDS {
        let mut bed = Bed::new(features, 16);
        for round in 0..40 {
            let old = bed.queues[1].offered();
            bed.guest_sends(&packet(60, round));
            assert!(!bed.queues[1].is_to_kick(&bed.guest, old, events), "awake");
            let frames = bed.receive();
            assert_eq!(bed.bytes(frames).len(), 1);
            bed.port.doze(false);
            assert!(!bed.port.has_work());
            assert!(!is_heard(&bed), "nothing has happened");
            let old = bed.queues[1].offered();
            bed.guest_sends(&packet(60, round));
            assert!(bed.queues[1].is_to_kick(&bed.guest, old, events), "asleep");
            let old = bed.queues[0].offered();
            bed.guest_gives(100);
            assert!(
                !bed.queues[0].is_to_kick(&bed.guest, old, events),
                "nothing waits for it"
            );
            ring(&bed.queues[1].kick);
            assert!(is_heard(&bed));
            assert!(bed.port.has_work());
            let frames = bed.receive();
            assert_eq!(bed.bytes(frames).len(), 1);
            let frame = bed.frame(&packet(60, 1));
            assert_eq!(bed.send([frame]), 0);
            for queue in &mut bed.queues {
                while queue.used(&bed.guest).is_some() {}
            }
        }
        // Frames wait: the driver is to say when it can receive.
        bed.port.doze(true);
        let old = bed.queues[0].offered();
        bed.guest_gives(100);
        assert!(bed.queues[0].is_to_kick(&bed.guest, old, events));
    }
}

fn ring(event: &std::fs::File) {
    rustix::io::write(event, &1u64.to_ne_bytes()).unwrap();
}

#[test]
fn what_is_set_up_anew_ends_the_workers_sleep() {
    let mut bed = Bed::new(USUAL, 8);
    bed.port.doze(false);
    assert!(!is_heard(&bed));
    bed.handle.publish(Default::default());
    assert!(is_heard(&bed));
    assert!(bed.port.has_work());
    assert!(
        !bed.handle.settle(std::time::Duration::from_millis(1)),
        "the worker has not looked"
    );
    assert!(bed.receive().is_empty());
    assert!(bed.handle.settle(std::time::Duration::ZERO));
}
