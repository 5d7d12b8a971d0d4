// SPDX-License-Identifier: Apache-2.0
//! A port on a NIC of several queues: all are received from, one sends, nothing is lost when it closes.

#[path = "reference/frames.rs"]
#[allow(
    dead_code,
    reason = "shared with the tests of the stages, which use all of it"
)]
mod frames;
mod xdp_bed;

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::time::Duration;

use frames::V4;
use podswitch_datapath::frame::{Arena, Batch, Pool};
use podswitch_datapath::port::xdp::{
    ArenaPlan, NicPlan, NicSteering, Queue, Roles, Umem, XdpConfig,
};
use podswitch_datapath::port::{Closed, FaultPlan, NicPort, Port};
use podswitch_datapath::switch::{Device, IdleConfig, PortSpec, Switch, SwitchConfig};
use podswitch_datapath::tables::{self, Action, Gateway, PortKindSpec, Route, Tables};
use podswitch_datapath::wire::MacAddr;
use podswitch_datapath::{PortId, Reason, VrfId, WorkerId};
use podswitch_host::xdp::{self, Mode};
use xdp_bed::{Bed, DEADLINE, bytes, eventually, features};

const QUEUES: u32 = 2;
const NIC: PortId = PortId(0);
const POD: PortId = PortId(1);
const NIC_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 0]);
const PEER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 2, 0]);
const POD_MAC: MacAddr = MacAddr([2, 0, 0, 0, 2, 1]);
const POD_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const PEER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

/// A packet of a flow of the peer's to the pod, as it goes out of or comes in by the NIC.
fn inbound(flow: u16, number: u16) -> V4 {
    let data = [flow.to_be_bytes(), number.to_be_bytes()].concat();
    let udp = frames::udp(PEER_V4.into(), POD_V4.into(), 4000 + flow, 9000, &data);
    V4::new(PEER_V4, POD_V4, frames::UDP, udp)
}

fn wire(flow: u16, number: u16) -> Vec<u8> {
    frames::ethernet(NIC_MAC, PEER_MAC, 0x0800, &inbound(flow, number).bytes())
}

/// Flow and number of such a packet.
fn numbers(frame: &[u8]) -> (u16, u16) {
    let at = |i: usize| u16::from_be_bytes([frame[i], frame[i + 1]]);
    (at(42), at(44))
}

/// The bed, whose first veth is the NIC's, and its steering program, attached.
fn bed() -> (Bed, NicSteering) {
    let plan = ArenaPlan::new(1500, 2);
    let mut bed = Bed::with_queues(Mode::Native, 1500, &[QUEUES, 1], plan, features());
    let mut steering = bed.loader.nic_steering(QUEUES, None).unwrap();
    steering.set_mac(NIC_MAC).unwrap();
    steering.set_address(POD_V4.into(), Roles::POD).unwrap();
    xdp::install(&mut bed.links, "pod0", steering.fd(), Mode::Native).unwrap();
    (bed, steering)
}

/// A port without a worker.
struct Bench {
    port: Port,
    pool: Pool,
    arena: std::sync::Arc<Arena>,
    steering: NicSteering,
    bed: Bed,
}

impl Bench {
    fn new() -> Bench {
        let (bed, mut steering) = bed();
        let plan = NicPlan::new(QUEUES, &[]);
        let arena = std::sync::Arc::new(Arena::new(WorkerId(0), plan.chunks()).unwrap());
        let mut pool = Pool::new(WorkerId(0));
        pool.add_arena(arena.clone());
        let mut umem = Umem::new(arena.clone(), features());
        let guard = bed.node.netns().enter().unwrap();
        let interface = bed.pods[0].ifindex;
        let queues = (0..QUEUES).map(|queue| {
            let mut config = XdpConfig::new(NIC, Queue { interface, queue }, plan.of(queue));
            config.wire = true;
            config.local_sender = false;
            umem.open(&config).unwrap()
        });
        let port = NicPort::new(queues.collect(), plan.sender).unwrap();
        drop(guard);
        for (queue, handle) in port.handles().iter().enumerate() {
            let socket = handle.socket().unwrap();
            steering.insert(queue as u32, socket.as_fd()).unwrap();
        }
        let mut port = Port::Nic(Box::new(port));
        port.reclaim(&mut pool);
        Bench {
            port,
            pool,
            arena,
            steering,
            bed,
        }
    }

    /// Receives once, and frees the frames.
    fn receive(&mut self, budget: usize) -> Vec<Vec<u8>> {
        let mut batch = Batch::new();
        let taken = self.port.receive(NIC, &mut self.pool, &mut batch, budget);
        let frames: Vec<_> = batch.drain().map(|p| p.frame).collect();
        assert_eq!(taken, frames.len());
        assert!(taken <= budget);
        self.port.reclaim(&mut self.pool);
        let all = frames.iter().map(bytes).collect();
        frames.into_iter().for_each(|f| self.pool.free(f));
        all
    }

    fn redirected(&self) -> u64 {
        self.steering.counters().unwrap().redirected
    }

    /// A flow of each queue, of which the peer's hash decides.
    fn flows(&mut self) -> [u16; QUEUES as usize] {
        let handles = match &self.port {
            Port::Nic(port) => port.handles(),
            _ => unreachable!("the bench has a NIC"),
        };
        self.steering.remove(1).unwrap();
        let mut found = [None; QUEUES as usize];
        for flow in 0..512 {
            let before = self.steering.counters().unwrap();
            let seen = |c: podswitch_datapath::port::xdp::SteeringCounters| c.redirected + c.missed;
            self.bed.pods[0].raw.send(&wire(flow, 0));
            let steering = &self.steering;
            eventually("the frame is decided on", || {
                seen(steering.counters().unwrap()) > seen(before)
            });
            let queue = usize::from(self.redirected() == before.redirected);
            found[queue].get_or_insert(flow);
        }
        let socket = handles[1].socket().unwrap();
        self.steering.insert(1, socket.as_fd()).unwrap();
        while !self.receive(64).is_empty() {}
        found.map(|flow| flow.expect("512 flows are on both queues"))
    }

    fn close(mut self) {
        match self.port.close(NIC, &mut self.pool) {
            Closed::Xdp(closing) => drop(closing.finish(DEADLINE).settle(&mut self.pool)),
            other => panic!("{other:?}"),
        }
        let audit = self.pool.audit()[0];
        assert_eq!((audit.free, audit.listed), (audit.chunks, audit.chunks));
    }
}

#[test]
fn every_queue_is_received_from_and_each_flow_stays_in_order() {
    let mut bench = Bench::new();
    let caps = bench.port.caps();
    assert!(!caps.local_sender && !caps.superframes && !caps.takes_partial_checksum);
    assert_eq!(bench.port.wait_fds().count(), QUEUES as usize);
    let (flows, each) = (64, 8);
    for number in 0..each {
        for flow in 0..flows {
            bench.bed.pods[0].raw.send(&wire(flow, number));
        }
    }
    let mut next: BTreeMap<u16, u16> = BTreeMap::new();
    let mut got = 0;
    eventually("all frames arrive", || {
        for frame in bench.receive(7) {
            let (flow, number) = numbers(&frame);
            assert_eq!(frame, wire(flow, number));
            assert_eq!(number, *next.entry(flow).or_default(), "flow {flow}");
            *next.entry(flow).or_default() += 1;
            got += 1;
        }
        got == flows * each
    });
    assert!(!bench.port.has_work());
    bench.close();
}

#[test]
fn a_busy_queue_starves_no_other() {
    let mut bench = Bench::new();
    let flows = bench.flows();
    for (busy, quiet) in [(flows[0], flows[1]), (flows[1], flows[0])] {
        let before = bench.redirected();
        for number in 0..200 {
            bench.bed.pods[0].raw.send(&wire(busy, number));
        }
        bench.bed.pods[0].raw.send(&wire(quiet, 0));
        eventually("all are there", || bench.redirected() == before + 201);
        let two: Vec<_> = [bench.receive(64), bench.receive(64)].concat();
        let of_quiet = two.iter().filter(|f| numbers(f).0 == quiet).count();
        assert_eq!(of_quiet, 1, "within two turns");
        while !bench.receive(64).is_empty() {}
    }
    bench.close();
}

#[test]
fn frames_are_sent_in_order_and_their_chunks_come_back() {
    let mut bench = Bench::new();
    let mut outbox: VecDeque<_> = (0..500)
        .map(|n| {
            let frame = xdp_bed::test_frame(60 + n, n as u32);
            bench.pool.alloc_bytes(&bench.arena, &frame).unwrap()
        })
        .collect();
    let mut received = 0;
    eventually("all are sent", || {
        bench.port.transmit(NIC, &mut bench.pool, &mut outbox);
        bench.port.kick(&mut 4);
        bench.port.reclaim(&mut bench.pool);
        while let Some(frame) = bench.bed.pods[0].raw.try_receive() {
            assert_eq!(frame, xdp_bed::test_frame(60 + received, received as u32));
            received += 1;
        }
        received == 500 && bench.port.pending() == 0
    });
    bench.close();
}

/// A switch with a pod behind a veth and the NIC as a routed port. It sleeps whenever it is quiet.
fn switch(bed: &mut Bed, steering: &mut NicSteering, faults: Option<FaultPlan>) -> Switch {
    let gateway = Gateway {
        mac: NIC_MAC,
        v4: Ipv4Addr::new(169, 254, 1, 1),
        v6: "fe80::1".parse().unwrap(),
    };
    let config = SwitchConfig {
        idle: IdleConfig {
            spin: Duration::from_micros(20),
            latency: Duration::from_secs(3600),
        },
        features: features(),
        flow_entries: 1024,
        ..SwitchConfig::default()
    };
    let mut switch = Switch::start(config, Tables::new(gateway)).unwrap();
    let nic = Device::Nic {
        interface: bed.pods[0].ifindex,
        queues: QUEUES,
        zero_copy: Vec::new(),
        local_sender: false,
        vlan: None,
    };
    let pod = Device::Xdp {
        queue: bed.queue(1),
        superframes: false,
    };
    let mut edit = switch.edit();
    let mut sockets = Vec::new();
    for (id, device, mac, addresses) in [
        (NIC, nic, PEER_MAC, vec![]),
        (POD, pod, POD_MAC, vec![POD_V4.into()]),
    ] {
        let spec = PortSpec {
            worker: None,
            mtu: 1500,
            device,
            faults: faults.filter(|_| id == NIC),
        };
        let guard = bed.node.netns().enter().unwrap();
        let added = switch.add_port(id, spec).unwrap();
        drop(guard);
        sockets.push(added.xdp);
        edit.set_port(tables::PortSpec {
            id,
            name: format!("port-{id}"),
            worker: added.worker,
            mac,
            mtu: 1500,
            kind: PortKindSpec::Routed {
                vrf: VrfId(0),
                addresses,
            },
            check_source: id == POD,
            node: false,
            egress_default: Action::Allow,
            ingress_default: Action::Allow,
        });
    }
    let unicast = Route::Unicast {
        port: NIC,
        via: None,
        mtu: None,
    };
    edit.set_route(VrfId(0), "192.0.2.0/24".parse().unwrap(), unicast);
    edit.set_neighbor(VrfId(0), NIC, PEER_V4.into(), PEER_MAC);
    let tables = edit.build().unwrap();
    switch.publish(tables);
    switch.wait_for_tables().unwrap();
    assert_eq!(sockets[0].len(), QUEUES as usize);
    for (queue, handle) in sockets[0].iter().enumerate() {
        let socket = handle.socket().unwrap();
        steering.insert(queue as u32, socket.as_fd()).unwrap();
    }
    let mut of_pod = bed.loader.steering(1, None).unwrap();
    of_pod
        .insert(0, sockets[1][0].socket().unwrap().as_fd())
        .unwrap();
    xdp::install(&mut bed.links, "pod1", of_pod.fd(), Mode::Native).unwrap();
    switch
}

/// What a stack leaves in the checksum of UDP from the peer to the pod, for its device to finish (RFC 768, RFC 1071).
fn pseudo_header_sum(len: usize) -> [u8; 2] {
    let [source, destination] = [PEER_V4, POD_V4].map(|a| a.octets());
    let header = [
        &source[..],
        &destination,
        &[0, frames::UDP],
        &(len as u16).to_be_bytes(),
    ];
    let words = header.concat();
    let words = words
        .chunks_exact(2)
        .map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
    let sum: u32 = words.sum();
    ((sum >> 16) as u16 + sum as u16).to_be_bytes()
}

#[test]
fn a_sleeping_worker_hears_every_queue_and_a_closed_nic_gives_its_memory_back() {
    let (mut bed, mut steering) = bed();
    let mut switch = switch(&mut bed, &mut steering, None);
    for flow in 0..32 {
        eventually("the worker sleeps", || switch.workers()[0].asleep);
        bed.pods[0].raw.send(&wire(flow, 0));
        let arrived = V4 {
            ttl: 63,
            ..inbound(flow, 0)
        };
        let arrived = frames::ethernet(POD_MAC, NIC_MAC, 0x0800, &arrived.bytes());
        assert_eq!(bed.pods[1].raw.receive(), arrived);
    }
    // A wire's checksum is the sender's: what a pod would have left to its device goes on as it is.
    let mut spoilt = inbound(1, 1);
    let unfinished = pseudo_header_sum(spoilt.payload.len());
    spoilt.payload[6..8].copy_from_slice(&unfinished);
    let frame = frames::ethernet(NIC_MAC, PEER_MAC, 0x0800, &spoilt.bytes());
    bed.pods[0].raw.send(&frame);
    assert_eq!(bed.pods[1].raw.receive()[40..42], unfinished);
    // And back, out of the NIC.
    let udp = frames::udp(POD_V4.into(), PEER_V4.into(), 9000, 4001, b"back");
    let back = V4::new(POD_V4, PEER_V4, frames::UDP, udp);
    let frame = frames::ethernet(NIC_MAC, POD_MAC, 0x0800, &back.bytes());
    bed.pods[1].raw.send(&frame);
    let sent = V4 { ttl: 63, ..back };
    let sent = frames::ethernet(PEER_MAC, NIC_MAC, 0x0800, &sent.bytes());
    assert_eq!(bed.pods[0].raw.receive(), sent);
    assert_eq!(switch.kernel_drops(NIC).unwrap(), Some(Default::default()));
    let chunks = |switch: &mut Switch| -> Vec<u32> {
        let audits = switch.audit().unwrap();
        audits
            .iter()
            .flat_map(|(_, all)| all)
            .map(|a| a.chunks)
            .collect()
    };
    let of_nic = NicPlan::new(QUEUES, &[]).chunks();
    assert!(chunks(&mut switch).contains(&of_nic));
    let mut edit = switch.edit();
    edit.remove_neighbor(VrfId(0), NIC, PEER_V4.into());
    edit.remove_route(VrfId(0), "192.0.2.0/24".parse().unwrap());
    edit.remove_port(NIC);
    switch.publish(edit.build().unwrap());
    switch.remove_port(NIC).unwrap();
    eventually("it is closed", || switch.all_closed());
    eventually("its memory is given back", || {
        switch.tidy().unwrap();
        !chunks(&mut switch).contains(&of_nic)
    });
}

#[test]
fn a_nic_may_be_behind_faults() {
    let (mut bed, mut steering) = bed();
    let all = podswitch_datapath::port::Faults {
        loss: 1_000_000,
        ..Default::default()
    };
    let plan = FaultPlan {
        seed: 1,
        receive: all,
        ..Default::default()
    };
    let switch = switch(&mut bed, &mut steering, Some(plan));
    for flow in 0..32 {
        bed.pods[0].raw.send(&wire(flow, 0));
    }
    let lost = || switch.counters().dropped(Reason::FaultInjected);
    eventually("every queue's frames are lost on purpose", || lost() == 32);
}
