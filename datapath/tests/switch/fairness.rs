// SPDX-License-Identifier: Apache-2.0
//! Ports share a worker by the cycles they cost.

use podswitch_datapath::port::PcapSpec;
use podswitch_datapath::switch::{Device, MemoryPlan, Switch, SwitchConfig, WorkerConfig};
use podswitch_datapath::worker::clock::Clock;
use podswitch_datapath::{PortId, Reason};
use tempfile::NamedTempFile;

use crate::node::*;

/// What one port can be ahead of another, by the rules of the round robin: a quantum is a microsecond, a service costs at
/// most 2048 of them.
fn most_ahead() -> u64 {
    Clock::get().cycles(std::time::Duration::from_micros(2050))
}

/// A port that always has frames of pod `n` to `to`, and swallows what is sent to it. The capture is to be kept until the
/// port is opened.
fn flood(n: u16, to: u16, len: usize) -> (Device, NamedTempFile) {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), capture(&[sized(n, to, 0, len)], 0)).unwrap();
    let spec = PcapSpec {
        replay: Some(file.path().to_owned()),
        times: u64::MAX,
        ..PcapSpec::default()
    };
    (Device::Pcap(spec), file)
}

/// Pods 0 and 1 flood each other.
fn flooding(lengths: [usize; 2]) -> Switch {
    let mut switch = start(config());
    for (n, len) in lengths.into_iter().enumerate() {
        let (device, _file) = flood(n as u16, 1 - n as u16, len);
        add(&mut switch, n as u16, 0, device);
    }
    switch
}

/// A port cannot fill the ring to another worker: its neighbours' frames find room in it.
#[test]
fn a_port_that_floods_another_worker_leaves_its_neighbours_room() {
    let mut switch = start(SwitchConfig {
        handoff_frames: 64,
        workers: vec![WorkerConfig::default(); 2],
        ..config()
    });
    let (device, _file) = flood(0, 2, 18);
    add(&mut switch, 0, 0, device);
    let quiet = pod(&mut switch, 1, 0);
    let _target = pod(&mut switch, 2, 1);
    let receiver = pod(&mut switch, 3, 1);
    for i in 0..500 {
        assert!(quiet.send(&frame(1, 3, i)));
        let mut turns = 0;
        let got = loop {
            switch.turn();
            turns += 1;
            if let Some(got) = receiver.receive() {
                break got;
            }
            let counters = switch.counters();
            let lost = counters.ports[&PortId(1)].dropped(Reason::HandoffFull);
            assert_eq!(lost, 0, "the flood took all there is, frame {i}");
            assert!(turns < 10_000, "starved");
        };
        assert_eq!(number(&got), i);
    }
    let lost = switch.counters().ports[&PortId(0)].dropped(Reason::HandoffFull);
    assert!(lost > 0, "the ring was never full");
}

/// What a frame costs on the worker of the port it goes to is its sender's.
#[test]
fn a_port_pays_for_its_frames_on_other_workers() {
    let mut switch = start(SwitchConfig {
        workers: vec![WorkerConfig::default(); 2],
        ..config()
    });
    // Both of worker 0: one sends to worker 1, the other to its own.
    for (n, to) in [(0, 2), (1, 3)] {
        let (device, _file) = flood(n, to, 1400);
        add(&mut switch, n, 0, device);
    }
    for (n, worker) in [(2, 1), (3, 0)] {
        // It has no frames, and swallows what is sent to it.
        add(&mut switch, n, worker, Device::Pcap(PcapSpec::default()));
    }
    let spent = spend(&mut switch);
    assert!(spent[0].abs_diff(spent[1]) <= 4 * most_ahead(), "{spent:?}");
}

/// Turns until ports 0 and 1 have used many cycles; how many each of them.
fn spend(switch: &mut Switch) -> [u64; 2] {
    let target = 40 * most_ahead();
    let mut spent = [0, 0];
    while spent.iter().sum::<u64>() < target {
        for _ in 0..100 {
            switch.turn();
        }
        let counters = switch.counters();
        spent = [0, 1].map(|n| counters.ports[&PortId(n)].cycles);
    }
    spent
}

fn config() -> SwitchConfig {
    SwitchConfig {
        memory: MemoryPlan {
            ports_per_arena: Some(1),
            chunks_per_port: Some(1024),
        },
        ..inline(1)
    }
}

#[test]
fn flooding_ports_get_the_same_cycles_whatever_their_frames_cost() {
    // Frames of 60 bytes one way, of 1442 the other, each copied to the other arena.
    let mut switch = flooding([18, 1400]);
    let spent = spend(&mut switch);
    assert!(spent[0].abs_diff(spent[1]) <= 2 * most_ahead(), "{spent:?}");
}

#[test]
fn a_port_with_little_to_send_is_served_at_once_beside_one_that_floods() {
    let mut switch = flooding([1400, 1400]);
    let quiet = pod(&mut switch, 2, 0);
    let receiver = pod(&mut switch, 3, 0);
    for _ in 0..200 {
        switch.turn();
    }
    let mut waits = Vec::new();
    for i in 0..500 {
        assert!(quiet.send(&frame(2, 3, i)));
        let mut turns = 0;
        let got = loop {
            assert!(switch.turn());
            turns += 1;
            if let Some(got) = receiver.receive() {
                break got;
            }
            // It may have lost its core in a service, and then owes that; a turn that serves somebody else is some
            // microseconds of it.
            assert!(turns < 10_000, "starved");
        };
        assert_eq!(number(&got), i);
        waits.push(turns);
    }
    waits.sort_unstable();
    assert_eq!(waits[250], 1, "turns until it was served: {waits:?}");
}
