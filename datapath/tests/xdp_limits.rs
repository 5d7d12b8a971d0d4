// SPDX-License-Identifier: Apache-2.0
//! AF_XDP ports at their limits: no chunk to receive into, nowhere to send, no device, no socket to share memory with.

mod xdp_bed;

use std::collections::VecDeque;
use std::sync::Arc;

use podswitch_datapath::frame::{Arena, Frame, Owner};
use podswitch_datapath::port::xdp::{ArenaPlan, KernelDrops, Link, PortPlan, RingSizes, Umem};
use podswitch_datapath::{PortId, WorkerId};
use podswitch_host::link;
use podswitch_host::xdp::Mode;
use xdp_bed::{Bed, bytes, eventually, features, test_frame};

/// Room for few chunks, so that limits are near.
fn small_plan(chunks: u32, fill: u32, transmit: u32) -> ArenaPlan {
    let ring = 64;
    ArenaPlan {
        ports: 2,
        chunks,
        port: PortPlan {
            fill,
            transmit,
            backlog: transmit,
            rings: RingSizes {
                rx: ring,
                tx: ring,
                fill: ring,
                completion: ring,
            },
        },
    }
}

fn starved_and_fed_again(mode: Mode) {
    let mut bed = Bed::with(mode, 1500, 1, small_plan(16, 8, 8), features());
    let mut a = bed.attach(0);
    // Everything that is not the kernel's is taken, so what is received is not replaced.
    let taken: Vec<Frame> = std::iter::from_fn(|| bed.pool.alloc(&bed.arena)).collect();
    assert_eq!(taken.len(), 8);
    let counted = |a: &xdp_bed::Attached| a.steering.counters().unwrap().redirected;
    for n in 0..12 {
        bed.pods[0].raw.send(&test_frame(100, n));
    }
    eventually("all frames have met the program", || counted(&a) == 12);
    let drops = || a.port.kernel_drops().unwrap();
    eventually("the kernel drops what it has no chunk for", || {
        drops().fill_ring_empty == 4
    });
    let expected = KernelDrops {
        fill_ring_empty: 4,
        ..KernelDrops::default()
    };
    assert_eq!(drops(), expected, "and for no other reason");
    let frames = a.receive(&mut bed.pool, 8);
    for (n, frame) in frames.iter().enumerate() {
        assert_eq!(bytes(frame), test_frame(100, n as u32));
    }
    assert!(a.port.starved() && a.port.filling() == 0);
    assert_eq!(a.port.counters().fill_starved, 1);
    // With chunks again, frames come again.
    for frame in frames.into_iter().chain(taken) {
        bed.pool.free(frame);
    }
    a.port.reclaim(&mut bed.pool);
    assert!(!a.port.starved());
    bed.pods[0].raw.send(&test_frame(200, 77));
    let frames = a.receive(&mut bed.pool, 1);
    assert_eq!(bytes(&frames[0]), test_frame(200, 77));
    frames.into_iter().for_each(|f| bed.pool.free(f));
    bed.assert_balanced();
    bed.close(a);
    bed.assert_all_free();
}

#[test]
fn a_starved_port_drops_counts_and_recovers_in_native_mode() {
    starved_and_fed_again(Mode::Native);
}

#[test]
fn a_starved_port_drops_counts_and_recovers_in_generic_mode() {
    starved_and_fed_again(Mode::Generic);
}

#[test]
fn a_long_frame_without_chunks_for_all_of_it_is_dropped_whole() {
    let mut bed = Bed::with(Mode::Native, 65_535, 1, small_plan(16, 10, 8), features());
    let mut a = bed.attach(0);
    bed.pods[0].raw.send(&test_frame(60_000, 1));
    bed.pods[0].raw.send(&test_frame(30_000, 2));
    let frames = a.receive(&mut bed.pool, 1);
    assert_eq!(bytes(&frames[0]), test_frame(30_000, 2));
    let drops = a.port.kernel_drops().unwrap();
    assert_eq!((drops.rx_dropped, drops.fill_ring_empty), (1, 0));
    frames.into_iter().for_each(|f| bed.pool.free(f));
    bed.close(a);
    bed.assert_all_free();
}

#[test]
fn the_transmit_cap_holds_and_everything_goes_out_in_order() {
    const FRAMES: u32 = 500;
    let mut bed = Bed::with(Mode::Native, 1500, 1, small_plan(700, 8, 40), features());
    let mut a = bed.attach(0);
    let mut outbox: VecDeque<Frame> = (0..FRAMES).map(|n| bed.frame(300, n)).collect();
    assert_eq!(a.port.transmit(a.id, &mut bed.pool, &mut outbox), 40);
    assert_eq!((a.port.pending(), outbox.len()), (40, 460));
    assert_eq!(a.port.counters().tx_full, 1);
    assert_eq!(a.port.transmit(a.id, &mut bed.pool, &mut outbox), 0);
    bed.assert_balanced();
    assert_eq!(bed.audit().transmit, 40);
    let mut received = 0;
    eventually("all frames come out", || {
        assert!(a.port.pending() <= 40);
        a.port.kick();
        a.port.reclaim(&mut bed.pool);
        a.port.transmit(a.id, &mut bed.pool, &mut outbox);
        while let Some(frame) = bed.pods[0].raw.try_receive() {
            assert_eq!(frame, test_frame(300, received));
            received += 1;
        }
        received == FRAMES
    });
    eventually("all chunks come back", || {
        a.port.reclaim(&mut bed.pool);
        a.port.pending() == 0
    });
    let causes = a.port.kick_causes();
    assert_eq!(
        (causes.blocked, causes.completion_full, causes.no_memory),
        (0, 0, 0)
    );
    assert_eq!(a.port.kernel_drops().unwrap(), KernelDrops::default());
    bed.close(a);
    bed.assert_all_free();
}

#[test]
fn kicks_of_one_call_are_bounded_and_the_rest_is_asked_for() {
    let mut bed = Bed::with(Mode::Native, 1500, 1, small_plan(128, 8, 64), features());
    let mut config = bed.config(0);
    config.tx_budget = 32;
    config.kicks_per_turn = 1;
    let mut a = bed.attach_with(0, &config);
    let mut outbox: VecDeque<Frame> = (0..60).map(|n| bed.frame(60, n)).collect();
    assert_eq!(a.port.transmit(a.id, &mut bed.pool, &mut outbox), 60);
    assert!(a.port.kick(), "more waits after 32");
    assert!(a.port.has_work());
    assert_eq!(a.port.counters().kicks_again, 1);
    assert_eq!(a.port.kick_causes().budget, 1);
    assert!(!a.port.kick(), "nothing waits after 60");
    assert_eq!(a.port.counters().kicks, 2);
    eventually("all chunks come back", || {
        a.port.reclaim(&mut bed.pool);
        a.port.pending() == 0
    });
    bed.close(a);
    bed.assert_all_free();
}

#[test]
fn a_device_set_down_keeps_frames_and_sends_them_when_it_is_up_again() {
    let mut bed = Bed::new(Mode::Native, 1500, 1);
    let mut a = bed.attach(0);
    link::set_up(&mut bed.links, "pod0", false).unwrap();
    let frame = bed.frame(60, 5);
    let mut outbox = VecDeque::from([frame]);
    assert_eq!(a.port.transmit(a.id, &mut bed.pool, &mut outbox), 1);
    assert!(!a.port.kick(), "nothing to be done for now");
    assert_eq!((a.port.link(), a.port.kick_causes().down), (Link::Down, 1));
    assert!(!a.port.has_work(), "so that the worker may sleep");
    link::set_up(&mut bed.links, "pod0", true).unwrap();
    eventually("the frame goes out", || {
        a.port.kick();
        bed.pods[0].raw.try_receive() == Some(test_frame(60, 5))
    });
    assert_eq!(a.port.link(), Link::Up);
    bed.close(a);
    bed.assert_all_free();
}

#[test]
fn frames_the_device_drops_are_counted_and_their_chunks_come_back() {
    let mut bed = Bed::new(Mode::Native, 1500, 1);
    let mut a = bed.attach(0);
    // Without its other end up, the veth has no carrier.
    let mut inside = bed.pods[0].netns.socket().unwrap();
    link::set_up(&mut inside, "eth0", false).unwrap();
    eventually("the carrier is gone", || {
        !link::get(&mut bed.links, "pod0").unwrap().flags.lower_up()
    });
    let frames = (0..5).map(|n| bed.frame(60, n)).collect();
    a.send(&mut bed.pool, frames);
    assert_eq!(a.port.kick_causes().device_dropped, 5);
    bed.assert_balanced();
    bed.close(a);
    bed.assert_all_free();
}

#[test]
fn an_interface_deleted_under_its_port_costs_no_chunk() {
    let mut bed = Bed::new(Mode::Native, 9000, 2);
    let mut a = bed.attach(0);
    let mut b = bed.attach(1);
    // Received and not looked at, handed to the kernel and not sent, and waiting in userspace.
    bed.pods[0].raw.send(&test_frame(9000, 1));
    eventually("a frame is received", || a.port.has_work());
    let mut outbox = VecDeque::from([bed.frame(9000, 2), bed.frame(60, 2)]);
    assert_eq!(a.port.transmit(a.id, &mut bed.pool, &mut outbox), 2);
    link::delete(&mut bed.links, "pod0").unwrap();
    assert!(!a.port.kick());
    assert_eq!((a.port.link(), a.port.kick_causes().gone), (Link::Gone, 1));
    assert!(a.port.has_work(), "what was received is still there");
    let frames = a.receive(&mut bed.pool, 1);
    assert_eq!(bytes(&frames[0]), test_frame(9000, 1));
    // It still reaches the other pod, and nothing more is taken for the one that is gone.
    b.send(&mut bed.pool, frames);
    assert_eq!(bed.pods[1].raw.receive(), test_frame(9000, 1));
    let mut outbox = VecDeque::from([bed.frame(60, 2)]);
    assert_eq!(a.port.transmit(a.id, &mut bed.pool, &mut outbox), 0);
    assert!(outbox.is_empty());
    assert_eq!(a.port.counters().tx_refused, 1);
    bed.assert_balanced();
    let settled = bed.close(a);
    assert_eq!(settled.quarantined, 0);
    bed.close(b);
    bed.assert_all_free();
}

#[test]
fn a_closed_port_leaves_nothing_even_with_frames_everywhere() {
    let mut bed = Bed::new(Mode::Native, 9000, 1);
    let a = {
        let mut a = bed.attach(0);
        for n in 0..20 {
            bed.pods[0].raw.send(&test_frame(4000, n));
        }
        eventually("frames are received", || {
            a.steering.counters().unwrap().redirected == 20
        });
        let mut outbox: VecDeque<Frame> = (0..20).map(|n| bed.frame(4000, n)).collect();
        a.port.transmit(a.id, &mut bed.pool, &mut outbox);
        assert!(outbox.is_empty());
        a
    };
    let closing = a.port.close(a.id, &mut bed.pool);
    let audit = bed.audit();
    assert_eq!((audit.fill, audit.transmit, audit.user), (0, 0, 0));
    assert_eq!(audit.free + audit.closing, audit.chunks);
    assert!(
        audit.closing >= 40,
        "unsent frames are still the kernel's: {audit:?}"
    );
    let settled = closing.finish(xdp_bed::DEADLINE).settle(&mut bed.pool);
    assert_eq!((settled.freed, settled.quarantined), (audit.closing, 0));
    bed.assert_all_free();
}

#[test]
fn a_port_whose_socket_was_given_away_is_quarantined_when_closed() {
    let mut bed = Bed::new(Mode::Native, 1500, 1);
    let mut a = bed.attach(0);
    let kept = a.port.handover().unwrap();
    a.port.reclaim(&mut bed.pool);
    let filling = a.port.filling();
    let settled = bed.close(a);
    assert_eq!((settled.freed, settled.quarantined), (0, filling));
    let audit = bed.audit();
    assert_eq!(
        (audit.quarantine, audit.free),
        (filling, audit.chunks - filling)
    );
    bed.assert_balanced();
    // The kernel still receives into these chunks.
    bed.pods[0].raw.send(&test_frame(60, 1));
    assert!((0..bed.arena.chunks()).any(|c| bed.arena.owner(c) == (Owner::Quarantine, PortId(0))));
    drop(kept);
}

#[test]
fn memory_stays_shared_whichever_socket_closes_and_is_registered_again_when_none_is_left() {
    let mut bed = Bed::new(Mode::Native, 1500, 4);
    let a = bed.attach(0);
    let b = bed.attach(1);
    assert_eq!(bed.umem.open_sockets(), 2);
    // The socket that registered the memory goes; the other one anchors a third.
    bed.close(a);
    let mut c = bed.attach(2);
    assert_eq!(bed.umem.open_sockets(), 2);
    // An anchor whose interface is gone is passed over.
    link::delete(&mut bed.links, "pod1").unwrap();
    let mut d = bed.attach(3);
    for (n, (from, to)) in [(2, 3), (3, 2)].into_iter().enumerate() {
        bed.pods[from].raw.send(&test_frame(100, n as u32));
        let (x, y) = if from == 2 {
            (&mut c, &mut d)
        } else {
            (&mut d, &mut c)
        };
        x.forward_one(y, &mut bed.pool);
        assert_eq!(bed.pods[to].raw.receive(), test_frame(100, n as u32));
    }
    for port in [b, c, d] {
        bed.close(port);
    }
    assert_eq!(bed.umem.open_sockets(), 0);
    bed.assert_all_free();
    // Nobody has the memory any more: it is registered again, on a queue that has just been given up.
    let mut again = bed.attach(2);
    bed.pods[2].raw.send(&test_frame(100, 9));
    let frames = again.receive(&mut bed.pool, 1);
    assert_eq!(bytes(&frames[0]), test_frame(100, 9));
    frames.into_iter().for_each(|f| bed.pool.free(f));
    bed.close(again);
    bed.assert_all_free();
}

#[test]
fn a_queue_in_use_or_missing_is_refused_by_name() {
    let mut bed = Bed::new(Mode::Native, 1500, 1);
    let a = bed.attach(0);
    let mut config = bed.config(0);
    let _guard = bed.node.netns().enter().unwrap();
    let arena = Arc::new(Arena::new(WorkerId(0), 8).unwrap());
    let mut other = Umem::new(arena, bed.features);
    for umem in [&mut bed.umem, &mut other] {
        let error = umem.open(&config).unwrap_err().to_string();
        assert!(
            error.contains("another AF_XDP socket has this queue"),
            "{error}"
        );
    }
    config.queue.queue = 7;
    let error = bed.umem.open(&config).unwrap_err().to_string();
    assert!(
        error.contains("queue 7") && error.contains("no such queue"),
        "{error}"
    );
    config.queue.interface = 4_000_000;
    let error = bed.umem.open(&config).unwrap_err().to_string();
    assert!(
        error.contains("interface 4000000") && error.contains("is gone"),
        "{error}"
    );
    assert_eq!(bed.umem.open_sockets(), 1);
    bed.close(a);
    bed.assert_all_free();
}
