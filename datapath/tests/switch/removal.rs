// SPDX-License-Identifier: Apache-2.0
//! Ports come and go.

use std::time::Instant;

use podswitch_datapath::switch::{Device, PortSpec, SwitchError};
use podswitch_datapath::{PortId, Reason, WorkerId};

use crate::node::*;

#[test]
fn removal_under_traffic_takes_only_what_was_for_the_port() {
    let mut switch = start(threads(2));
    let handles = pods(&mut switch, 4, 2);
    let (mut sent, mut arrived) = ([0u64; 4], [0u64; 4]);
    let mut number = 0;
    let mut gone = false;
    let deadline = Instant::now() + HUNG;
    // Pod 0 sends to 1, 2 and 3; pod 3, on the other worker, goes away in the middle.
    while number < 12_000 || arrived[1] < sent[1] || arrived[2] < sent[2] {
        // The ring to the other worker has room for these; what goes to a pod that is gone never arrives.
        let counted = if gone { 1..3 } else { 1..4 };
        let under_way: u64 = counted.map(|to| sent[to] - arrived[to]).sum();
        if number < 12_000 && under_way < 100 {
            let to = 1 + number % 3;
            assert!(handles[0].send(&frame(0, to as u16, number)));
            sent[to as usize] += 1;
            number += 1;
        }
        for to in 1..4 {
            while handles[to].receive().is_some() {
                arrived[to] += 1;
            }
        }
        if number == 6_000 && !gone {
            gone = true;
            let mut edit = switch.edit();
            edit.remove_port(PortId(3));
            let tables = edit.build().unwrap();
            switch.publish(tables);
            switch.wait_for_tables().unwrap();
            switch.remove_port(PortId(3)).unwrap();
        }
        assert!(
            Instant::now() < deadline,
            "{sent:?} sent, {arrived:?} arrived: {:?}",
            switch.counters()
        );
    }
    assert!(gone);
    assert_at_rest(&mut switch);
    while handles[3].receive().is_some() {
        arrived[3] += 1;
    }
    let counters = switch.counters();
    assert_eq!((arrived[1], arrived[2]), (sent[1], sent[2]));
    assert!(arrived[3] > 0 && arrived[3] < sent[3]);
    // What did not reach pod 3 was dropped under a name: no route any more, or gone while under way.
    let (no_route, port_gone) = (
        counters.dropped(Reason::NoRoute),
        counters.dropped(Reason::PortGone),
    );
    assert_eq!(arrived[3] + no_route + port_gone, sent[3], "{counters:?}");
    assert_eq!(drops(&counters), no_route + port_gone);
    assert!(!counters.ports.contains_key(&PortId(3)));
    assert_eq!(handles[3].receive_within(HUNG), None, "the port is closed");
}

/// The tables have the port, but its device failed.
#[test]
fn a_port_without_a_device_is_down() {
    let mut switch = start(inline(2));
    let handles = pods(&mut switch, 3, 2);
    for failed in [1, 2] {
        switch.remove_port(PortId(failed)).unwrap();
    }
    handles[0].send(&frame(0, 1, 1));
    handles[0].send(&frame(0, 2, 2));
    settle(&mut switch);
    let counters = switch.counters();
    assert_eq!(counters.dropped(Reason::PortDown), 2, "{counters:?}");
    assert_eq!(drops(&counters), 2);
    assert_at_rest(&mut switch);
}

#[test]
fn a_number_can_be_used_again_and_counts_anew() {
    let mut switch = start(threads(2));
    let sender = pod(&mut switch, 0, 0);
    for round in 0..20u8 {
        let receiver = pod(&mut switch, 1, round % 2);
        for i in 0..10 {
            sender.send(&frame(0, 1, i));
            assert_eq!(receiver.receive_within(HUNG).unwrap(), arrived(0, 1, i, 18));
        }
        // A frame is counted when it has been sent.
        let sent = || switch.counters().ports[&PortId(1)].tx.packets;
        eventually("ten are counted", || sent() >= 10);
        assert_eq!(sent(), 10);
        let mut edit = switch.edit();
        edit.remove_port(PortId(1));
        let tables = edit.build().unwrap();
        switch.publish(tables);
        switch.wait_for_tables().unwrap();
        switch.remove_port(PortId(1)).unwrap();
    }
    assert_at_rest(&mut switch);
    assert_eq!(switch.ports().len(), 1);
}

#[test]
fn memory_of_ports_that_are_gone_is_freed() {
    let mut switch = start(threads(1));
    for n in 0..40 {
        pod(&mut switch, n, 0);
    }
    let arenas =
        |switch: &mut podswitch_datapath::switch::Switch| switch.audit().unwrap()[0].1.len();
    assert_eq!(arenas(&mut switch), 5, "4 + 4 + 8 + 16 + 16 ports");
    for n in 0..40 {
        switch.remove_port(PortId(n)).unwrap();
    }
    for _ in 0..5 {
        switch.tidy().unwrap();
    }
    assert_eq!(arenas(&mut switch), 0);
    pod(&mut switch, 0, 0);
    assert_eq!(arenas(&mut switch), 1);
}

#[test]
fn bad_requests_are_named_and_change_nothing() {
    let mut switch = start(inline(2));
    let spec = |worker| PortSpec {
        worker,
        mtu: 1500,
        device: pipe(1).0,
        faults: None,
    };
    switch.add_port(PortId(1), spec(None)).unwrap();
    let again = switch.add_port(PortId(1), spec(None)).unwrap_err();
    assert_eq!(again.to_string(), "port 1 exists already");
    let large = switch.add_port(PortId(4096), spec(None)).unwrap_err();
    assert!(large.to_string().contains("4096 is too large"), "{large}");
    let worker = switch
        .add_port(PortId(2), spec(Some(WorkerId(2))))
        .unwrap_err();
    assert!(
        matches!(worker, SwitchError::NoWorker(WorkerId(2))),
        "{worker}"
    );
    let missing = switch.remove_port(PortId(9)).unwrap_err();
    assert_eq!(missing.to_string(), "there is no port 9");
    let pcap = PortSpec {
        device: Device::Pcap(podswitch_datapath::port::PcapSpec {
            replay: Some("/nonexistent/a.pcap".into()),
            ..Default::default()
        }),
        ..spec(None)
    };
    let pcap = switch.add_port(PortId(3), pcap).unwrap_err();
    assert!(
        pcap.to_string().contains("port 3: /nonexistent/a.pcap: "),
        "{pcap}"
    );
    assert_eq!(switch.ports().len(), 1);
    let next = switch.add_port(PortId(4), spec(None)).unwrap();
    assert_eq!(next.worker, WorkerId(1), "the one with fewer ports");
}
