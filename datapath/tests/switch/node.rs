// SPDX-License-Identifier: Apache-2.0
//! A switch with pods on memory ports.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use podswitch_datapath::counters::Counters;
use podswitch_datapath::frame::Audit;
use podswitch_datapath::port::{MemoryDevice, MemoryHandle};
use podswitch_datapath::switch::{
    Device, MemoryPlan, Mode, PortSpec, Switch, SwitchConfig, WorkerConfig,
};
use podswitch_datapath::tables::{self, Action, Gateway, PortKindSpec, Tables};
use podswitch_datapath::wire::MacAddr;
use podswitch_datapath::{PortId, VrfId, WorkerId};

use crate::frames::{self, V4};

pub const GATEWAY_MAC: MacAddr = MacAddr([0x02, 0xff, 0, 0, 0, 1]);
/// Long enough to mean that something hangs.
pub const HUNG: Duration = Duration::from_secs(60);

pub fn gateway() -> Gateway {
    Gateway {
        mac: GATEWAY_MAC,
        v4: Ipv4Addr::new(169, 254, 1, 1),
        v6: "fe80::1".parse().unwrap(),
    }
}

pub fn mac(n: u16) -> MacAddr {
    MacAddr([2, 0, 0, 0, (n >> 8) as u8, n as u8])
}

pub fn v4(n: u16) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, (n >> 8) as u8, n as u8)
}

pub fn v6(n: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n)
}

/// Waits for a condition.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + HUNG;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {HUNG:?} for {what}");
        std::thread::yield_now();
    }
}

pub fn threads(workers: usize) -> SwitchConfig {
    SwitchConfig {
        workers: vec![WorkerConfig::default(); workers],
        flow_entries: 1024,
        ..SwitchConfig::default()
    }
}

pub fn inline(workers: usize) -> SwitchConfig {
    SwitchConfig {
        mode: Mode::Inline,
        ..threads(workers)
    }
}

/// The table entry of a routed pod.
pub fn routed(n: u16, worker: WorkerId) -> tables::PortSpec {
    tables::PortSpec {
        id: PortId(n),
        name: format!("pod-{n}"),
        worker,
        mac: mac(n),
        mtu: 1500,
        kind: PortKindSpec::Routed {
            vrf: VrfId(0),
            addresses: vec![v4(n).into(), v6(n).into()],
        },
        check_source: true,
        node: false,
        egress_default: Action::Allow,
        ingress_default: Action::Allow,
    }
}

pub fn start(config: SwitchConfig) -> Switch {
    Switch::start(config, Tables::new(gateway())).unwrap()
}

/// Adds a device and the table entry of a routed pod.
pub fn add(switch: &mut Switch, n: u16, worker: u8, device: Device) {
    attach(switch, n, worker, device);
    let mut edit = switch.edit();
    edit.set_port(routed(n, WorkerId(worker)));
    let tables = edit.build().unwrap();
    switch.publish(tables);
    switch.wait_for_tables().unwrap();
}

/// Adds a device alone.
pub fn attach(switch: &mut Switch, n: u16, worker: u8, device: Device) {
    let spec = PortSpec {
        worker: Some(WorkerId(worker)),
        mtu: 1500,
        device,
        faults: None,
    };
    assert_eq!(
        switch.add_port(PortId(n), spec).unwrap().worker,
        WorkerId(worker)
    );
}

pub fn pipe(capacity: usize) -> (Device, MemoryHandle) {
    let (device, handle) = MemoryDevice::pipe(capacity).unwrap();
    (Device::Memory(device), handle)
}

/// A pod with a handle to play it.
pub fn pod(switch: &mut Switch, n: u16, worker: u8) -> MemoryHandle {
    let (device, handle) = pipe(1024);
    add(switch, n, worker, device);
    handle
}

/// Pods 0.. on workers in turn.
pub fn pods(switch: &mut Switch, count: u16, workers: u16) -> Vec<MemoryHandle> {
    (0..count)
        .map(|n| pod(switch, n, (n % workers) as u8))
        .collect()
}

/// A UDP packet between pods, with a number in its data.
pub fn packet(from: u16, to: u16, number: u32, len: usize) -> V4 {
    let mut data = number.to_be_bytes().to_vec();
    data.resize(len.max(4), 0x5a);
    let (src, dst) = (v4(from), v4(to));
    let udp = frames::udp(src.into(), dst.into(), 4000 + from, 9000, &data);
    V4::new(src, dst, frames::UDP, udp)
}

pub fn frame(from: u16, to: u16, number: u32) -> Vec<u8> {
    sized(from, to, number, 18)
}

pub fn sized(from: u16, to: u16, number: u32, len: usize) -> Vec<u8> {
    let packet = packet(from, to, number, len);
    frames::ethernet(GATEWAY_MAC, mac(from), 0x0800, &packet.bytes())
}

/// The same as it arrives.
pub fn arrived(from: u16, to: u16, number: u32, len: usize) -> Vec<u8> {
    let packet = V4 {
        ttl: 63,
        ..packet(from, to, number, len)
    };
    frames::ethernet(mac(to), GATEWAY_MAC, 0x0800, &packet.bytes())
}

/// The number in a frame made by [`frame`].
pub fn number(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[42..46].try_into().unwrap())
}

/// A capture file of frames so many microseconds apart.
pub fn capture(frames: &[Vec<u8>], apart: u32) -> Vec<u8> {
    let mut file = 0xa1b2_c3d4u32.to_le_bytes().to_vec();
    for field in [0x0004_0002, 0, 0, 65_535, 1u32] {
        file.extend(field.to_le_bytes());
    }
    for (i, frame) in frames.iter().enumerate() {
        let len = frame.len() as u32;
        for field in [0, i as u32 * apart, len, len] {
            file.extend(field.to_le_bytes());
        }
        file.extend(frame);
    }
    file
}

/// Turns until there is nothing to do.
pub fn settle(switch: &mut Switch) {
    let deadline = Instant::now() + HUNG;
    while switch.turn() {
        assert!(Instant::now() < deadline, "the workers find no rest");
    }
}

/// Whether every chunk is free.
fn at_rest(audit: &Audit) -> bool {
    audit.free == audit.chunks && audit.listed == audit.chunks
}

/// Waits until every chunk of every worker is free: nothing is under way, and nothing was lost.
pub fn assert_at_rest(switch: &mut Switch) {
    let mut last = Vec::new();
    let deadline = Instant::now() + HUNG;
    loop {
        switch.turn();
        let audit = switch.audit().unwrap();
        if audit.iter().flat_map(|(_, arenas)| arenas).all(at_rest) {
            return;
        }
        last.clone_from(&audit);
        assert!(Instant::now() < deadline, "chunks are missing: {last:?}");
        std::thread::yield_now();
    }
}

/// Frames dropped for any reason.
pub fn drops(counters: &Counters) -> u64 {
    counters.drops.iter().sum()
}

/// Little memory, so that ports have arenas of their own.
pub fn small_arenas(chunks_per_port: u32) -> MemoryPlan {
    MemoryPlan {
        ports_per_arena: Some(1),
        chunks_per_port: Some(chunks_per_port),
    }
}
