// SPDX-License-Identifier: Apache-2.0
//! What becomes of packets, turn by turn.

use podswitch_datapath::counters::Event;
use podswitch_datapath::port::{MEMORY_CAPS, MemoryDevice, MemoryHandle};
use podswitch_datapath::stage::LearnedEntry;
use podswitch_datapath::switch::{Device, PortSpec, Switch, SwitchConfig};
use podswitch_datapath::tables::{PortKindSpec, SegmentSpec, Vlan};
use podswitch_datapath::wire::MacAddr;
use podswitch_datapath::{PortId, Reason, VrfId, WorkerId, port};

use crate::frames;
use crate::node::*;

#[test]
fn frames_are_copied_between_arenas_and_not_within_one() {
    for (plan, copies) in [(small_arenas(64), 1), (Default::default(), 0)] {
        let mut switch = start(SwitchConfig {
            memory: plan,
            ..inline(1)
        });
        let handles = pods(&mut switch, 2, 1);
        // Of two chunks.
        let mut long = routed(1, WorkerId(0));
        long.mtu = 9000;
        let mut edit = switch.edit();
        edit.set_port(long);
        let tables = edit.build().unwrap();
        switch.publish(tables);
        switch.wait_for_tables().unwrap();
        handles[0].send(&sized(0, 1, 3, 6000));
        settle(&mut switch);
        assert_eq!(handles[1].receive(), Some(arrived(0, 1, 3, 6000)));
        assert_eq!(switch.counters().event(Event::Copied), copies);
        assert_at_rest(&mut switch);
    }
}

/// A pod of worker 0 whose port has these capabilities.
fn pod_with(switch: &mut Switch, n: u16, caps: port::Caps) -> MemoryHandle {
    let (device, handle) = MemoryDevice::pipe(16).unwrap();
    add(switch, n, 0, Device::Memory(device.with_caps(caps)));
    handle
}

#[test]
fn a_port_gets_partial_checksums_filled_or_passed_on() {
    for takes in [false, true] {
        let mut switch = start(inline(1));
        let sender = pod(&mut switch, 0, 0);
        let caps = port::Caps {
            takes_partial_checksum: takes,
            ..MEMORY_CAPS
        };
        let receiver = pod_with(&mut switch, 1, caps);
        let mut partial = sized(0, 1, 5, 100);
        let udp_len = 108;
        let pseudo = frames::pseudo(v4(0).into(), v4(1).into(), frames::UDP, udp_len);
        partial[40..42].copy_from_slice(&pseudo.to_be_bytes());
        sender.send(&partial);
        settle(&mut switch);
        let got = receiver.receive().unwrap();
        let mut expected = arrived(0, 1, 5, 100);
        if takes {
            expected[40..42].copy_from_slice(&pseudo.to_be_bytes());
        }
        assert_eq!(got, expected, "takes partial checksums: {takes}");
        let filled = switch.counters().event(Event::ChecksumFilled);
        assert_eq!(filled, u64::from(!takes));
    }
}

/// The last thing that happens to a frame: what is left to do to it is done where it says.
#[test]
fn a_port_of_a_vlan_sends_frames_with_its_tag() {
    for copied in [false, true] {
        let plan = if copied {
            small_arenas(64)
        } else {
            Default::default()
        };
        let mut switch = start(SwitchConfig {
            memory: plan,
            ..inline(1)
        });
        let sender = pod(&mut switch, 0, 0);
        let caps = port::Caps {
            vlan: Some(100),
            ..MEMORY_CAPS
        };
        let receiver = pod_with(&mut switch, 1, caps);
        let whole = sized(0, 1, 5, 100);
        let mut partial = whole.clone();
        let pseudo = frames::pseudo(v4(0).into(), v4(1).into(), frames::UDP, 108);
        partial[40..42].copy_from_slice(&pseudo.to_be_bytes());
        let tagged = frames::tagged(&arrived(0, 1, 5, 100), 100);
        for frame in [&whole, &partial] {
            sender.send(frame);
            settle(&mut switch);
            assert_eq!(receiver.receive().as_ref(), Some(&tagged));
        }
        let sent = switch.counters().ports[&PortId(1)].tx.bytes;
        assert_eq!(sent, 2 * tagged.len() as u64);
        assert_at_rest(&mut switch);
    }
}

/// CRC32c of RFC 9260 appendix A, bit by bit, in the order its bytes are sent.
fn crc32c(bytes: &[u8]) -> [u8; 4] {
    let crc = bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| match crc & 1 {
            1 => crc >> 1 ^ 0x82f6_3b78,
            _ => crc >> 1,
        })
    });
    (!crc).to_le_bytes()
}

/// A device that fills checksums fills Internet checksums, and would leave this one zero.
#[test]
fn an_unfinished_crc_of_sctp_is_filled_for_every_port() {
    for takes in [false, true] {
        let mut switch = start(inline(1));
        let sender = pod(&mut switch, 0, 0);
        let caps = port::Caps {
            takes_partial_checksum: takes,
            ..MEMORY_CAPS
        };
        let receiver = pod_with(&mut switch, 1, caps);
        let ports_and_tag = [0x0f, 0xa0, 0x23, 0x28, 1, 2, 3, 4];
        let sctp = [&ports_and_tag[..], &[0; 4], &[0x5a; 100]].concat();
        let crc = crc32c(&sctp);
        let packet = frames::V4::new(v4(0), v4(1), 132, sctp).bytes();
        sender.send(&frames::ethernet(GATEWAY_MAC, mac(0), 0x0800, &packet));
        settle(&mut switch);
        let got = receiver.receive().unwrap();
        assert_eq!(got[42..46], crc, "takes partial checksums: {takes}");
        assert_eq!(switch.counters().event(Event::ChecksumFilled), 1);
    }
}

#[test]
fn a_port_that_cannot_chain_drops_long_frames() {
    let mut switch = start(inline(1));
    let sender = pod(&mut switch, 0, 0);
    let (device, receiver) = MemoryDevice::pipe(16).unwrap();
    let caps = port::Caps {
        takes_lent: false,
        max_segments: 1,
        ..MEMORY_CAPS
    };
    attach(&mut switch, 1, 0, Device::Memory(device.with_caps(caps)));
    let mut spec = routed(1, WorkerId(0));
    spec.mtu = 9000;
    let mut edit = switch.edit();
    edit.set_port(spec);
    let tables = edit.build().unwrap();
    switch.publish(tables);
    switch.wait_for_tables().unwrap();
    sender.send(&sized(0, 1, 1, 5000));
    sender.send(&sized(0, 1, 2, 3000));
    settle(&mut switch);
    assert_eq!(receiver.receive().map(|f| number(&f)), Some(2));
    assert_eq!(receiver.receive(), None);
    assert_eq!(
        switch.counters().ports[&PortId(0)].dropped(Reason::FrameTooLong),
        1
    );
    assert_at_rest(&mut switch);
}

#[test]
fn a_full_queue_holds_its_backlog_and_drops_the_rest() {
    let mut switch = start(SwitchConfig {
        memory: small_arenas(2048),
        ..inline(1)
    });
    let sender = pod(&mut switch, 0, 0);
    let (device, receiver) = pipe(4);
    add(&mut switch, 1, 0, device);
    for i in 0..900 {
        assert!(sender.send(&frame(0, 1, i)));
        switch.turn();
    }
    settle(&mut switch);
    let counters = switch.counters();
    // 4 in the queue, 512 in the backlog.
    assert_eq!(
        counters.ports[&PortId(0)].dropped(Reason::TxQueueFull),
        900 - 516
    );
    assert_eq!(drops(&counters), 900 - 516);
    let mut got = Vec::new();
    while got.len() < 516 {
        got.extend(std::iter::from_fn(|| receiver.receive()).map(|f| number(&f)));
        switch.turn();
    }
    assert_eq!(got, (0..516).collect::<Vec<_>>(), "the oldest, in order");
    assert_at_rest(&mut switch);
    assert_eq!(switch.counters().ports[&PortId(1)].tx.packets, 516);
    assert_eq!(switch.counters().ports[&PortId(1)].tx.bytes, 516 * 60);
}

#[test]
fn without_memory_for_a_copy_a_frame_is_dropped_by_name() {
    let mut switch = start(SwitchConfig {
        memory: small_arenas(8),
        ..inline(1)
    });
    let sender = pod(&mut switch, 0, 0);
    let (device, receiver) = pipe(2);
    add(&mut switch, 1, 0, device);
    for i in 0..40 {
        assert!(sender.send(&frame(0, 1, i)));
        switch.turn();
    }
    let counters = switch.counters();
    // 2 collected, 8 copies wait.
    assert_eq!(counters.ports[&PortId(0)].dropped(Reason::NoMemory), 30);
    for i in 0..10 {
        assert_eq!(receiver.receive().map(|f| number(&f)), Some(i));
        switch.turn();
    }
    assert_at_rest(&mut switch);
    sender.send(&frame(0, 1, 99));
    settle(&mut switch);
    assert_eq!(receiver.receive().map(|f| number(&f)), Some(99));
}

#[test]
fn a_peer_that_does_not_run_gets_no_more_than_the_ring_holds() {
    let mut switch = start(SwitchConfig {
        handoff_frames: 16,
        memory: small_arenas(256),
        ..inline(2)
    });
    let handles = pods(&mut switch, 2, 2);
    for i in 0..100 {
        assert!(handles[0].send(&frame(0, 1, i)));
    }
    // Worker 0 hands over a burst of 64 before worker 1 runs.
    settle(&mut switch);
    let counters = switch.counters();
    let full = counters.ports[&PortId(0)].dropped(Reason::HandoffFull);
    let sent = counters.event(Event::HandoffSent);
    assert_eq!((full + sent, drops(&counters)), (100, full));
    assert!(full >= 48, "{full}");
    let got = std::iter::from_fn(|| handles[1].receive()).count();
    assert_eq!(got as u64, sent);
    assert_at_rest(&mut switch);
}

fn segment(switch: &mut Switch, ports: u16, workers: u16) -> Vec<port::MemoryHandle> {
    let handles = (0..ports).map(|n| {
        let (device, handle) = pipe(64);
        attach(switch, n, (n % workers) as u8, device);
        handle
    });
    let handles = handles.collect();
    let mut edit = switch.edit();
    edit.set_segment(SegmentSpec {
        id: VrfId(7),
        name: "lan".into(),
        ageing_seconds: 300,
        learn: true,
        flood_unknown: true,
        unknown_unicast_limit: 1_000_000,
        broadcast_limit: 1_000_000,
        max_entries: 100,
    });
    for n in 0..ports {
        let mut spec = routed(n, WorkerId((n % workers) as u8));
        spec.mac = MacAddr([0; 6]);
        spec.check_source = false;
        spec.kind = PortKindSpec::L2 {
            segment: VrfId(7),
            vlan: Vlan::None,
            fixed_mac: false,
        };
        edit.set_port(spec);
    }
    let tables = edit.build().unwrap();
    switch.publish(tables);
    switch.wait_for_tables().unwrap();
    handles
}

#[test]
fn a_broadcast_reaches_every_port_of_every_worker_once() {
    let mut switch = start(inline(3));
    let handles = segment(&mut switch, 7, 3);
    let hello = frames::ethernet(MacAddr([0xff; 6]), mac(2), 0x88b5, &[1; 46]);
    handles[2].send(&hello);
    settle(&mut switch);
    for (n, handle) in handles.iter().enumerate() {
        let expected = (n != 2).then(|| hello.clone());
        assert_eq!(handle.receive(), expected, "port {n}");
        assert_eq!(handle.receive(), None);
    }
    assert_at_rest(&mut switch);
    let counters = switch.counters();
    assert_eq!(drops(&counters), 0, "{counters:?}");
    assert_eq!(counters.event(Event::Flooded), 1);
    // The others have learned it: the answer goes straight back.
    let answer = frames::ethernet(mac(2), mac(4), 0x88b5, &[2; 46]);
    handles[4].send(&answer);
    settle(&mut switch);
    for (n, handle) in handles.iter().enumerate() {
        assert_eq!(
            handle.receive(),
            (n == 2).then(|| answer.clone()),
            "port {n}"
        );
    }
    let page = switch.learned(None, 100).unwrap();
    assert_eq!(page.next, None);
    assert!(
        page.entries
            .iter()
            .any(|(_, e)| e.mac == mac(2) && e.port == PortId(2))
    );
    // A page at a time it is the same.
    let mut paged = Vec::new();
    let mut at = None;
    loop {
        let page = switch.learned(at, 1).unwrap();
        assert!(page.entries.len() <= 1);
        paged.extend(page.entries);
        at = page.next;
        if at.is_none() {
            break;
        }
    }
    let names = |entries: &[(WorkerId, LearnedEntry)]| {
        let name = |(worker, e): &(WorkerId, LearnedEntry)| (*worker, e.mac, e.port);
        entries.iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(names(&paged), names(&page.entries));
}

#[test]
fn what_was_learned_behind_a_port_goes_with_it() {
    let mut switch = start(inline(2));
    let handles = segment(&mut switch, 4, 2);
    handles[2].send(&frames::ethernet(
        MacAddr([0xff; 6]),
        mac(2),
        0x88b5,
        &[1; 46],
    ));
    settle(&mut switch);
    let learned = |switch: &mut Switch| switch.learned(None, 100).unwrap().entries.len();
    assert_eq!(learned(&mut switch), 2, "each worker that saw it");
    switch.remove_port(PortId(2)).unwrap();
    assert_eq!(learned(&mut switch), 0);
}

#[test]
fn faults_in_front_of_a_port_are_counted() {
    let mut switch = start(inline(1));
    let receiver = pod(&mut switch, 1, 0);
    let (device, sender) = pipe(1024);
    let spec = PortSpec {
        worker: None,
        mtu: 1500,
        device,
        faults: Some(port::FaultPlan {
            seed: 3,
            receive: port::Faults {
                loss: 500_000,
                ..Default::default()
            },
            transmit: Default::default(),
        }),
    };
    switch.add_port(PortId(0), spec).unwrap();
    let mut edit = switch.edit();
    edit.set_port(routed(0, WorkerId(0)));
    let tables = edit.build().unwrap();
    switch.publish(tables);
    switch.wait_for_tables().unwrap();
    for i in 0..200 {
        sender.send(&frame(0, 1, i));
    }
    settle(&mut switch);
    // What the device counted is looked at a port a turn.
    for _ in 0..4 {
        switch.turn();
    }
    let got = std::iter::from_fn(|| receiver.receive()).count() as u64;
    let lost = switch.counters().ports[&PortId(0)].dropped(Reason::FaultInjected);
    assert_eq!(got + lost, 200);
    assert!(lost > 50 && got > 50, "{lost} lost");
    assert_eq!(switch.counters().dropped(Reason::FaultInjected), lost);
}
