// SPDX-License-Identifier: Apache-2.0
//! A pod and a node's NIC on ports in memory, and flows between the pod and addresses beyond the NIC: natively routed or through VXLAN.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ipnet::Ipv4Net;
use podswitch_datapath::counters::Event;
use podswitch_datapath::frame::Frame;
use podswitch_datapath::port::{Caps, FrameSource, MEMORY_CAPS, MemoryDevice};
use podswitch_datapath::switch::SwitchConfig;
use podswitch_datapath::tables::{
    Action, Backends, Edit, Frontend, FrontendKey, Place, PortKindSpec, PortSpec, Route, Service,
    Traffic, TunnelSpec,
};
use podswitch_datapath::wire::flow_key::map_ip;
use podswitch_datapath::wire::translate::Endpoint;
use podswitch_datapath::wire::{MacAddr, protocol};
use podswitch_datapath::{PortId, VrfId};
use podswitch_tests::frames::Ends;

use crate::stats::Random;
use crate::traffic::{self, FRAME, Family, overwrite};
use crate::turned::{MTU, Node, Pipeline};
use crate::valve::{Tap, Valve};

/// The pod's port.
pub const POD: PortId = PortId(0);
/// The NIC's.
pub const UPLINK: PortId = PortId(1);
/// The tunnel's.
const TUNNEL: PortId = PortId(2);
const VRF: VrfId = VrfId(0);
const VNI: u32 = 7;
const VXLAN_PORT: u16 = 4789;
/// Source port of wrapped packets from the other node.
const OUTER_PORT: u16 = 50_000;
/// The pod's own port, which all flows have.
const SERVICE: u16 = 9000;
/// Ports for what is masqueraded.
const RESERVED: RangeInclusive<u16> = 61_000..=65_000;
/// How often each flow comes in a sequence of frames.
const REPEATS: usize = 4;

/// How packets go from one node to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Over {
    /// As they are.
    Native,
    /// As the node's own; those that go out alone can be.
    Masqueraded,
    /// To services, each flow to one of its own, whose backends are beyond the NIC; those that go out alone can be.
    Served,
    /// Wrapped, over IPv4.
    V4,
    /// Wrapped, over IPv6; with a UDP checksum or without.
    V6 {
        /// There is one.
        checksum: bool,
    },
}

impl Over {
    /// Bytes of the outer headers.
    fn overhead(self) -> u16 {
        match self {
            Over::Native | Over::Masqueraded | Over::Served => 0,
            Over::V4 => 50,
            Over::V6 { .. } => 70,
        }
    }

    fn ends(self) -> (IpAddr, IpAddr) {
        match self {
            Over::V6 { .. } => (node_v6(1).into(), node_v6(2).into()),
            _ => (node_v4(1).into(), node_v4(2).into()),
        }
    }
}

fn node_v4(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 0, node)
}

fn node_v6(node: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, node)
}

/// MAC address of a node's NIC.
pub fn nic_mac(node: u8) -> MacAddr {
    MacAddr([2, 0, 1, 0, 0, node])
}

fn vtep_mac(node: u8) -> MacAddr {
    MacAddr([2, 0, 2, 0, 0, node])
}

/// Adds the pod: everything may pass.
pub fn set_pod(edit: &mut Edit) {
    edit.set_port(traffic::port(POD.index(), MTU, Action::Allow));
}

/// A port like the pod's, of another kind.
pub fn port(id: PortId, name: &str, mac: MacAddr, kind: PortKindSpec) -> PortSpec {
    PortSpec {
        name: name.into(),
        mac,
        kind,
        check_source: false,
        ..traffic::port(id.index(), MTU, Action::Allow)
    }
}

/// Prefixes of the other node's pods: of those that are sent to, and of those that send.
pub const PODS: [Ipv4Net; 2] = [
    Ipv4Net::new_assert(Ipv4Addr::new(10, 1, 0, 0), 24),
    Ipv4Net::new_assert(Ipv4Addr::new(10, 2, 0, 0), 24),
];

/// Adds the NIC with the other node on its link, and the ways of packets to pods there and from them.
fn set_other_node(edit: &mut Edit, out: Over, back: Over) {
    let addresses = vec![node_v4(1).into(), node_v6(1).into()];
    let kind = PortKindSpec::Uplink {
        vrf: VRF,
        addresses,
        masquerade: (out == Over::Masqueraded).then(Vec::new),
    };
    edit.set_port(port(UPLINK, "uplink", nic_mac(1), kind));
    for net in ["198.18.0.0/24", "2001:db8::/64"] {
        let on_link = Route::Unicast {
            port: UPLINK,
            via: None,
            mtu: None,
        };
        edit.set_route(VRF, net.parse().expect("a prefix"), on_link);
    }
    for address in [IpAddr::from(node_v4(2)), node_v6(2).into()] {
        edit.set_neighbor(VRF, UPLINK, address, nic_mac(2));
    }
    let tunnels = [out, back].into_iter().filter(|over| over.overhead() > 0);
    for over in tunnels {
        set_tunnel(edit, over);
    }
    if out == Over::Served {
        set_services(edit);
    }
    for (pods, over) in PODS.into_iter().zip([out, back]) {
        let (port, via) = match over.overhead() {
            0 => (UPLINK, node_v4(2).into()),
            _ => (TUNNEL, over.ends().1),
        };
        let route = Route::Unicast {
            port,
            via: Some(via),
            mtu: None,
        };
        edit.set_route(VRF, pods.into(), route);
    }
}

/// Services, and the backends of each.
pub const SERVICES: usize = 10_000;
/// Backends of a service.
pub const BACKENDS: usize = 10;
/// Their port.
const SERVICE_PORT: u16 = 80;

/// The address of a service.
fn virtual_address(n: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + n as u32 + 1)
}

fn set_services(edit: &mut Edit) {
    let hosts: Vec<Ipv4Addr> = PODS[0].hosts().collect();
    for n in 0..SERVICES {
        let backend = |k: usize| Endpoint {
            address: map_ip(hosts[(n + k) % hosts.len()].into()),
            port: 20_000 + n as u16,
        };
        let service = Service {
            name: format!("service-{n}").into(),
            cluster: Backends::new((0..BACKENDS).map(backend).collect()),
            local: Backends::default(),
            internal: Traffic::Cluster,
            external: Traffic::Cluster,
            affinity: None,
        };
        let key = FrontendKey {
            place: Place::Address(virtual_address(n).into()),
            protocol: protocol::UDP,
            port: SERVICE_PORT,
        };
        let frontend = Frontend {
            service: service.into(),
            is_external: false,
            sources: None,
        };
        edit.set_frontend(key, Some(frontend));
    }
}

fn set_tunnel(edit: &mut Edit, over: Over) {
    let tunnel = TunnelSpec {
        vni: VNI,
        port: VXLAN_PORT,
        underlay: VRF,
        local_v4: None,
        local_v6: None,
        checksum_v6: over == Over::V6 { checksum: true },
        group_policy: false,
    };
    let kind = PortKindSpec::Tunnel { vrf: VRF, tunnel };
    edit.set_port(port(TUNNEL, "overlay", vtep_mac(1), kind));
    edit.set_neighbor(VRF, TUNNEL, over.ends().1, vtep_mac(2));
}

/// Flows of datagrams, one way each: who comes by a way is heard only where packets to it go the same way.
#[derive(Clone, Debug)]
pub struct Flows {
    /// Addresses beyond the NIC that the pod sends to.
    pub to: Vec<Ipv4Addr>,
    /// Those that send to the pod.
    pub from: Vec<Ipv4Addr>,
    /// How many flows in each direction.
    pub count: usize,
}

/// One of the addresses in turn, and a port there.
fn nth(remotes: &[Ipv4Addr], n: usize) -> (Ipv4Addr, u16) {
    let round = (n / remotes.len()) as u16;
    (remotes[n % remotes.len()], 20_000 + round)
}

impl Flows {
    /// What the pod sends.
    fn sent(&self, n: usize, over: Over) -> Vec<u8> {
        let (remote, port) = match over {
            Over::Served => (virtual_address(n % SERVICES), SERVICE_PORT),
            _ => nth(&self.to, n),
        };
        let ends = Ends {
            to: remote.into(),
            ..traffic::ends(POD.index(), 0, Family::V4)
        };
        traffic::datagram(&ends, (SERVICE, port))
    }

    /// What the pod gets.
    fn received(&self, n: usize, over: Over) -> Vec<u8> {
        let (remote, port) = nth(&self.from, n);
        let (from, to) = match over {
            Over::Native => (nic_mac(2), nic_mac(1)),
            _ => (vtep_mac(2), vtep_mac(1)),
        };
        let ends = Ends {
            source_mac: from.0,
            destination_mac: to.0,
            from: remote.into(),
            to: traffic::address(POD.index(), Family::V4),
        };
        let inner = traffic::datagram(&ends, (port, SERVICE));
        wrapped(over, inner)
    }

    fn source(&self, seed: u64, valve: &Arc<Valve>, make: impl Fn(usize) -> Vec<u8>) -> Source {
        let mut order: Vec<u32> = (0..REPEATS).flat_map(|_| 0..self.count as u32).collect();
        Random::new(seed).shuffle(&mut order);
        Source {
            templates: (0..self.count).map(make).collect(),
            order: order.into(),
            next: 0,
            shift: 0,
            tap: Tap::new(valve),
            served: None,
        }
    }
}

/// A frame of the other node's as it is on the wire.
fn wrapped(over: Over, inner: Vec<u8>) -> Vec<u8> {
    let (to, from) = match over {
        Over::Native => return inner,
        _ => over.ends(),
    };
    let ends = Ends {
        source_mac: nic_mac(2).0,
        destination_mac: nic_mac(1).0,
        from,
        to,
    };
    let vxlan = [0x08, 0, 0, 0, 0, 0, VNI as u8, 0];
    let payload = [&vxlan[..], &inner].concat();
    let mut outer = ends.udp((OUTER_PORT, VXLAN_PORT), 64, &payload);
    if over != (Over::V6 { checksum: true }) {
        let udp = usize::from(over.overhead()) - 16;
        outer[udp + 6..udp + 8].fill(0);
    }
    outer
}

/// Frames of one of the two ports.
#[derive(Debug)]
struct Source {
    templates: Box<[Vec<u8>]>,
    order: Box<[u32]>,
    next: usize,
    /// How much further to the front a frame begins that was sent out of the port than one that was not; what wrapping did to it is undone.
    shift: i32,
    tap: Tap,
    /// Set when the port was served.
    served: Option<Arc<AtomicBool>>,
}

impl FrameSource for Source {
    #[inline]
    fn write(&mut self, frame: &mut Frame) -> bool {
        let circled = !frame.is_empty();
        let length = self.shift.unsigned_abs() as u16;
        if circled && self.shift > 0 && !frame.pull_front(length)
            || circled && self.shift < 0 && !frame.push_front(length)
        {
            return false;
        }
        self.next = if self.next + 1 < self.order.len() {
            self.next + 1
        } else {
            0
        };
        overwrite(frame, &self.templates[self.order[self.next] as usize])
    }

    fn ready(&self) -> usize {
        self.tap.ready()
    }

    fn received(&mut self, frames: usize) {
        if let Some(served) = &self.served {
            served.store(true, Ordering::Relaxed);
        }
        self.tap.take(frames);
    }
}

/// The two devices, pod and NIC; `frames` frames circle between them while the valve is open. Those from the NIC come `back` in one way;
/// what is between the devices wraps and unwraps as `done` says (out, in).
pub fn devices(
    flows: &Flows,
    back: Over,
    done: (Over, Over),
    frames: u32,
    valve: &Arc<Valve>,
    served: Option<&Arc<AtomicBool>>,
) -> [MemoryDevice; 2] {
    let pod = Source {
        shift: -i32::from(done.1.overhead()),
        served: served.cloned(),
        ..flows.source(1, valve, |n| flows.sent(n, done.0))
    };
    let nic = Source {
        shift: done.0.overhead().into(),
        served: served.cloned(),
        ..flows.source(2, valve, |n| flows.received(n, back))
    };
    let caps = Caps {
        local_sender: false,
        ..MEMORY_CAPS
    };
    let circle = |source| MemoryDevice::circle(frames / 2, Box::new(source));
    [circle(pod), circle(nic).with_caps(caps)]
}

/// A switch between the two, whose worker the benchmark turns.
pub struct Pair {
    node: Node,
    over: (Over, Over),
    /// Flows, over both directions.
    flows: usize,
}

impl Pair {
    /// With [`PODS`] of the other node, to which packets go one way and come from by another one.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new(flows: &Flows, over: (Over, Over), frames: u32) -> Pair {
        let config = SwitchConfig {
            nat_ports: (over.0 == Over::Masqueraded).then_some(RESERVED),
            ..SwitchConfig::default()
        };
        let mut node = Node::start(config, 2, frames);
        let mut edit = node.switch.edit();
        set_pod(&mut edit);
        set_other_node(&mut edit, over.0, over.1);
        traffic::publish(&mut node.switch, edit);
        let valve = Valve::closed();
        node.add(devices(flows, over.1, over, frames, &valve, None).into());
        valve.free();
        Pair {
            node,
            over,
            flows: 2 * flows.count,
        }
    }

    /// Sees to it that what was measured was what it says: every frame was forwarded, as many to the NIC as from there, all but a few by the
    /// entry of its connection, and those wrapped that should be.
    ///
    /// # Panics
    /// When that is not so.
    pub fn check(&self) {
        assert_eq!(self.node.drops(), [], "frames were dropped");
        let counters = self.node.switch.counters();
        let of = |port| {
            let stats = counters.ports.get(&port);
            stats.map_or([(0, 0); 2], |p| [p.rx, p.tx].map(|t| (t.packets, t.bytes)))
        };
        let ([pod, to_pod], [nic, to_nic]) = (of(POD), of(UPLINK));
        assert_eq!((pod.0, nic.0), (to_nic.0, to_pod.0), "forwarded");
        let bytes =
            |packets: u64, over: Over| packets * (FRAME as u64 + u64::from(over.overhead()));
        assert_eq!(to_nic.1, bytes(pod.0, self.over.0), "bytes to the NIC");
        assert_eq!(nic.1, bytes(nic.0, self.over.1), "bytes from the NIC");
        assert_eq!(to_pod.1, bytes(nic.0, Over::Native), "bytes to the pod");
        let ratio = pod.0 as f64 / nic.0 as f64;
        assert!((0.9..1.1).contains(&ratio), "{ratio} out to in");
        let event = |event: Event| counters.events[event as usize];
        let (misses, most) = (event(Event::FlowMiss), 2 * self.flows as u64);
        assert!(misses < most, "{misses} packets passed by no entry");
    }
}

impl Pipeline for Pair {
    fn turn(&mut self) {
        self.node.switch.turn();
    }

    /// The tunnel's are those of the other two ports.
    fn packets(&mut self) -> u64 {
        let counters = self.node.switch.counters();
        let ports = [POD, UPLINK]
            .iter()
            .filter_map(|port| counters.ports.get(port));
        ports.map(|p| p.rx.packets).sum()
    }
}
