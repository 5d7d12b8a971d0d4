// SPDX-License-Identifier: Apache-2.0
//! Threads pass traffic, and tables change under it.

use std::collections::VecDeque;
use std::time::Instant;

use podswitch_datapath::PortId;
use podswitch_datapath::counters::Event;
use podswitch_datapath::port::MemoryHandle;
use podswitch_datapath::switch::Switch;
use podswitch_datapath::tables::{Action, Direction, Rule};

use crate::node::*;

/// Frames under way at once: below what any queue on the way holds.
const WINDOW: usize = 200;

/// Every pod sends to every other one in turn; calls `meanwhile` now and then. Every frame must arrive, whole and in
/// order.
fn exchange(
    switch: &mut Switch,
    pods: &[MemoryHandle],
    frames: u32,
    mut meanwhile: impl FnMut(&mut Switch, u32),
) {
    let n = pods.len() as u32;
    let mut expected: Vec<VecDeque<(u16, u32)>> = pods.iter().map(|_| VecDeque::new()).collect();
    let (mut sent, mut received) = (0, 0);
    let deadline = Instant::now() + HUNG;
    while received < frames {
        while sent < frames && ((sent - received) as usize) < WINDOW {
            let from = sent % n;
            let to = (from + 1 + sent / n % (n - 1)) % n;
            let (from, to) = (from as u16, to as u16);
            assert!(pods[from as usize].send(&frame(from, to, sent)));
            expected[to as usize].push_back((from, sent));
            sent += 1;
            if sent % 500 == 0 {
                meanwhile(switch, sent);
            }
        }
        let before = received;
        for (to, pod) in pods.iter().enumerate() {
            while let Some(got) = pod.receive() {
                // Frames from different pods may overtake each other.
                let at = expected[to].iter().position(|&(_, i)| i == number(&got));
                let (from, i) = expected[to].remove(at.expect("nobody sent it")).unwrap();
                assert!(
                    expected[to].iter().take(at.unwrap()).all(|e| e.0 != from),
                    "out of order"
                );
                assert_eq!(got, arrived(from, to as u16, i, 18));
                received += 1;
            }
        }
        if received == before {
            assert!(
                Instant::now() < deadline,
                "{received} of {sent} arrived; {:?}",
                switch.counters()
            );
            std::thread::yield_now();
        }
    }
}

fn run(workers: usize, pods_: u16, frames: u32, meanwhile: impl FnMut(&mut Switch, u32)) {
    let mut switch = start(threads(workers));
    let handles = pods(&mut switch, pods_, workers as u16);
    exchange(&mut switch, &handles, frames, meanwhile);
    assert_at_rest(&mut switch);
    let counters = switch.counters();
    assert_eq!(drops(&counters), 0, "{counters:?}");
    let rx: u64 = counters.ports.values().map(|p| p.rx.packets).sum();
    let tx: u64 = counters.ports.values().map(|p| p.tx.packets).sum();
    assert_eq!((rx, tx), (frames.into(), frames.into()));
    let (sent, received) = (Event::HandoffSent, Event::HandoffReceived);
    assert_eq!(counters.event(sent), counters.event(received));
    assert_eq!(counters.event(sent) > 0, workers > 1);
    switch.stop();
}

#[test]
fn one_worker_loses_nothing() {
    run(1, 3, 5_000, |_, _| {});
}

#[test]
fn two_workers_lose_nothing() {
    run(2, 4, 20_000, |_, _| {});
}

#[test]
fn four_workers_lose_nothing() {
    run(4, 8, 20_000, |_, _| {});
}

#[test]
fn new_tables_under_traffic_lose_nothing() {
    let mut published = 0;
    run(2, 4, 20_000, |switch, sent| {
        let mut edit = switch.edit();
        let port = PortId((sent / 500 % 4) as u16);
        let rule = Rule {
            name: "allow".into(),
            priority: sent,
            source: None,
            destination: None,
            protocol: None,
            ports: None,
            action: Action::Allow,
        };
        edit.set_rule(port, Direction::Ingress, rule);
        // A port that nobody sends to comes and goes.
        match sent % 1000 {
            0 => edit.set_port(routed(100, podswitch_datapath::WorkerId(0))),
            _ => edit.remove_port(PortId(100)),
        };
        if let Ok(tables) = edit.build() {
            switch.publish(tables);
            published += 1;
        }
    });
    assert!(published >= 20, "{published}");
}

#[test]
fn rules_count_from_when_they_were_made() {
    let mut switch = start(threads(2));
    let handles = pods(&mut switch, 2, 2);
    let set = |switch: &mut Switch, name: &str| {
        let mut edit = switch.edit();
        edit.set_rule(
            PortId(1),
            Direction::Ingress,
            Rule {
                name: name.into(),
                priority: 1,
                source: None,
                destination: None,
                protocol: None,
                ports: None,
                action: Action::Allow,
            },
        );
        let tables = edit.build().unwrap();
        switch.publish(tables);
        switch.wait_for_tables().unwrap();
    };
    set(&mut switch, "first");
    for i in 0..5 {
        handles[0].send(&frame(0, 1, i));
        assert!(handles[1].receive_within(HUNG).is_some());
    }
    let counted: Vec<_> = switch.counters().rules.into_values().collect();
    assert_eq!(counted.iter().map(|t| t.packets).sum::<u64>(), 5);
    let mut edit = switch.edit();
    edit.remove_rule(PortId(1), Direction::Ingress, "first");
    let tables = edit.build().unwrap();
    switch.publish(tables);
    switch.wait_for_tables().unwrap();
    // Whether or not the number is used again, the new rule has counted nothing yet.
    set(&mut switch, "second");
    let rules = switch.tables().port(PortId(1)).unwrap().ingress.rules();
    assert_eq!(rules.len(), 1);
    let id = rules[0].id;
    assert!(!switch.counters().rules.contains_key(&id));
    handles[0].send(&frame(0, 1, 9));
    assert!(handles[1].receive_within(HUNG).is_some());
    assert_eq!(switch.counters().rules[&id].packets, 1);
}
