// SPDX-License-Identifier: Apache-2.0
//! Workers sleep when it is quiet, and wake for everything that concerns them.

use std::time::Duration;

use podswitch_datapath::WorkerId;
use podswitch_datapath::port::{Pace, PcapSpec};
use podswitch_datapath::switch::{Device, IdleConfig, Switch, SwitchConfig, Waiting};

use crate::node::*;

/// Workers that sleep however long waking takes.
fn sleepy(workers: usize) -> SwitchConfig {
    SwitchConfig {
        idle: IdleConfig {
            spin: Duration::from_micros(20),
            latency: Duration::from_secs(3600),
        },
        ..threads(workers)
    }
}

fn asleep(switch: &Switch, worker: u8) {
    eventually("sleep", || switch.workers()[worker as usize].asleep);
}

#[test]
fn a_frame_wakes() {
    let mut switch = start(sleepy(1));
    let handles = pods(&mut switch, 2, 1);
    for i in 0..200 {
        asleep(&switch, 0);
        assert!(handles[0].send(&frame(0, 1, i)));
        let got = handles[1].receive_within(HUNG).expect("asleep for good");
        assert_eq!(number(&got), i);
    }
    assert!(switch.workers()[0].cycles.sleeps >= 200);
}

#[test]
fn a_request_wakes() {
    let switch = start(sleepy(2));
    let mut switch = switch;
    for _ in 0..200 {
        asleep(&switch, 0);
        asleep(&switch, 1);
        assert_eq!(switch.audit().unwrap().len(), 2);
    }
}

#[test]
fn new_tables_wake() {
    let mut switch = start(sleepy(2));
    for n in 0..200 {
        asleep(&switch, 0);
        asleep(&switch, 1);
        let mut edit = switch.edit();
        edit.set_port(routed(n, WorkerId(0)));
        let tables = edit.build().unwrap();
        switch.publish(tables);
        let generation = switch.tables().generation();
        eventually("the tables", || {
            switch
                .workers()
                .iter()
                .all(|w| w.cycles.generation == generation)
        });
    }
}

#[test]
fn a_frame_from_another_worker_wakes() {
    let mut switch = start(sleepy(2));
    let handles = pods(&mut switch, 2, 2);
    for i in 0..200 {
        asleep(&switch, 0);
        asleep(&switch, 1);
        let (from, to) = ((i % 2) as u16, ((i + 1) % 2) as u16);
        assert!(handles[from as usize].send(&frame(from, to, i)));
        let got = handles[to as usize]
            .receive_within(HUNG)
            .expect("asleep for good");
        assert_eq!(number(&got), i);
    }
    assert_at_rest(&mut switch);
}

#[test]
fn a_capture_replayed_at_its_pace_wakes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.pcap");
    let frames: Vec<_> = (0..20).map(|i| frame(1, 0, i)).collect();
    std::fs::write(&path, capture(&frames, 5_000)).unwrap();
    let mut switch = start(sleepy(1));
    let receiver = pod(&mut switch, 0, 0);
    let replay = PcapSpec {
        replay: Some(path),
        pace: Pace::Recorded,
        ..PcapSpec::default()
    };
    let mut edit = switch.edit();
    edit.set_port(routed(1, WorkerId(0)));
    let tables = edit.build().unwrap();
    switch.publish(tables);
    switch.wait_for_tables().unwrap();
    let before = switch.workers()[0].cycles.sleeps;
    attach(&mut switch, 1, 0, Device::Pcap(replay));
    for i in 0..20 {
        assert_eq!(
            number(&receiver.receive_within(HUNG).expect("asleep for good")),
            i
        );
    }
    assert!(
        switch.workers()[0].cycles.sleeps > before,
        "5 ms apart, and it never slept"
    );
}

#[test]
fn what_a_full_device_left_waits_no_longer_than_the_budget() {
    let config = SwitchConfig {
        idle: IdleConfig {
            latency: Duration::from_millis(100),
            ..IdleConfig::default()
        },
        ..threads(1)
    };
    let mut switch = start(config);
    let sender = pod(&mut switch, 0, 0);
    let (device, receiver) = pipe(1);
    add(&mut switch, 1, 0, device);
    for i in 0..2 {
        assert!(sender.send(&frame(0, 1, i)));
    }
    // Long enough for the sleeps to have grown to a second.
    std::thread::sleep(Duration::from_millis(2500));
    let sleeps = |switch: &Switch| switch.workers()[0].cycles.sleeps;
    let before = sleeps(&switch);
    std::thread::sleep(Duration::from_secs(3));
    let naps = sleeps(&switch) - before;
    assert!(naps >= 10, "{naps} sleeps in 3 s, the budget is 100 ms");
    for i in 0..2 {
        let got = receiver.receive_within(HUNG).expect("it looked");
        assert_eq!(number(&got), i);
    }
}

#[test]
fn without_latency_to_spare_a_worker_spins() {
    let config = SwitchConfig {
        idle: IdleConfig {
            latency: Duration::ZERO,
            ..IdleConfig::default()
        },
        ..threads(1)
    };
    let mut switch = start(config);
    let handles = pods(&mut switch, 2, 1);
    let health = switch.workers()[0];
    assert_eq!(
        (health.waiting, health.wake_latency),
        (Waiting::Spins, None)
    );
    let sleeps = health.cycles.sleeps;
    handles[0].send(&frame(0, 1, 0));
    assert!(handles[1].receive_within(HUNG).is_some());
    let turns = switch.workers()[0].cycles.turns;
    eventually("turns", || {
        switch.workers()[0].cycles.turns > turns + 10_000
    });
    assert_eq!(switch.workers()[0].cycles.sleeps, sleeps);
}

#[test]
fn a_budget_below_the_measured_latency_spins_and_says_so() {
    let config = SwitchConfig {
        idle: IdleConfig {
            latency: Duration::from_nanos(1),
            ..IdleConfig::default()
        },
        ..threads(1)
    };
    let switch = start(config);
    let health = switch.workers()[0];
    let measured = health.wake_latency.unwrap();
    assert!(measured > Duration::from_nanos(1));
    assert_eq!(health.waiting, Waiting::WakesTooSlowly(measured));
}
