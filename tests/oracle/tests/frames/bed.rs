// SPDX-License-Identifier: Apache-2.0
//! A switch whose ports are the endpoints of a cluster, the node, and an uplink to everybody else.

use std::net::IpAddr;

use podswitch_datapath::port::{MemoryDevice, MemoryHandle};
use podswitch_datapath::stage::explain;
use podswitch_datapath::switch::{Device, Mode, PortSpec, Switch, SwitchConfig, WorkerConfig};
use podswitch_datapath::tables::{self, Action, Edit, PortKindSpec, Route, Tables};
use podswitch_datapath::wire::{FlowKey, MacAddr};
use podswitch_datapath::{PortId, VrfId, WorkerId};
use podswitch_oracle::cluster::Cluster;
use podswitch_oracle::generate::{Change, Packet};
use podswitch_oracle::node::{Node, gateway};

use crate::packets::{Part, frame};

const UPLINK: PortId = PortId(4000);
const NODE: PortId = PortId(4001);
const VRF: VrfId = VrfId(0);

/// A port of the bed.
struct Port {
    id: PortId,
    addresses: Vec<IpAddr>,
    handle: MemoryHandle,
}

pub(crate) struct Bed {
    pub(crate) node: Node,
    switch: Switch,
    ports: Vec<Port>,
}

impl Bed {
    /// The switch of a cluster's node, its ports on workers in turn.
    pub(crate) fn new(cluster: &Cluster, workers: usize) -> Bed {
        let mut node = Node::default();
        node.apply(&Change::all(cluster))
            .expect("a cluster that can be read");
        let config = SwitchConfig {
            mode: Mode::Inline,
            workers: vec![WorkerConfig::default(); workers],
            flow_entries: 4096,
            ..SwitchConfig::default()
        };
        let mut bed = Bed {
            switch: Switch::start(config, Tables::new(gateway())).expect("a switch"),
            node,
            ports: Vec::new(),
        };
        let endpoints = cluster.endpoints.iter();
        let mut all: Vec<(PortId, Vec<IpAddr>)> = endpoints
            .map(|e| (bed.node.port(&e.port).expect("a port"), e.addresses.clone()))
            .collect();
        all.push((UPLINK, Vec::new()));
        all.push((NODE, cluster.node.clone()));
        for (id, addresses) in &all {
            let (device, handle) = MemoryDevice::pipe(64).expect("memory");
            let worker = WorkerId((id.index() % workers) as u8);
            let spec = PortSpec {
                worker: Some(worker),
                mtu: 1500,
                device: Device::Memory(device),
                faults: None,
            };
            bed.switch.add_port(*id, spec).expect("a port");
            bed.ports.push(Port {
                id: *id,
                addresses: addresses.clone(),
                handle,
            });
        }
        let ports = bed.node.edit(|edit| {
            for (id, addresses) in all {
                edit.set_port(spec(id, addresses, workers));
            }
            way_out(edit);
        });
        ports.expect("tables of these ports");
        bed.publish();
        bed
    }

    pub(crate) fn publish(&mut self) {
        self.switch.publish(self.node.tables().clone());
        self.switch.wait_for_tables().expect("workers that turn");
    }

    /// The port with an address, or that leads there.
    fn at(&self, address: IpAddr) -> &Port {
        let owner = self.ports.iter().find(|p| p.addresses.contains(&address));
        let uplink = || self.ports.iter().find(|p| p.id == UPLINK);
        owner.or_else(uplink).expect("an uplink")
    }

    /// Sends a frame of a packet's connection. Whether it arrives where it should; anywhere else it must not.
    pub(crate) fn passes(&mut self, packet: &Packet, own: u16, part: Part) -> bool {
        let (from, to) = match part {
            Part::Answer => (packet.destination, packet.source),
            Part::First | Part::Later => (packet.source, packet.destination),
        };
        let (from, to) = (self.at(from), self.at(to).id);
        let bytes = frame(packet, own, part, mac(from.id), gateway().mac);
        assert!(from.handle.send(&bytes), "room in a queue");
        while self.switch.turn() {}
        let mut arrived = false;
        for port in &self.ports {
            while port.handle.receive().is_some() {
                assert_eq!(port.id, to, "{packet} {part:?} arrived elsewhere");
                assert!(!arrived, "{packet} {part:?} arrived twice");
                arrived = true;
            }
        }
        arrived
    }

    /// Whether the tables would let the first packet of a connection pass, as they are asked by people.
    pub(crate) fn would_pass(&self, packet: &Packet, own: u16) -> bool {
        let Packet {
            source,
            destination,
            protocol,
            port,
            ..
        } = *packet;
        let key = FlowKey::from_ip(VRF, protocol, source, destination, own, port);
        explain(self.node.tables(), VRF, &key, None)
            .drop()
            .is_none()
    }
}

fn mac(port: PortId) -> MacAddr {
    let [high, low] = port.0.to_be_bytes();
    MacAddr([2, 0, 0, 1, high, low])
}

fn spec(id: PortId, addresses: Vec<IpAddr>, workers: usize) -> tables::PortSpec {
    tables::PortSpec {
        id,
        name: format!("port-{id}"),
        worker: WorkerId((id.index() % workers) as u8),
        mac: mac(id),
        mtu: 1500,
        kind: PortKindSpec::Routed {
            vrf: VRF,
            addresses,
        },
        check_source: id != UPLINK,
        node: id == NODE,
        egress_default: Action::Allow,
        ingress_default: Action::Allow,
    }
}

/// What is not of this node goes by the uplink.
fn way_out(edit: &mut Edit) {
    for (prefix, router) in [("0.0.0.0/0", "172.30.0.1"), ("::/0", "fd00:ffff::1")] {
        let router: IpAddr = router.parse().expect("an address");
        let route = Route::Unicast {
            port: UPLINK,
            via: Some(router),
            mtu: None,
        };
        edit.set_route(VRF, prefix.parse().expect("a prefix"), route);
        edit.set_neighbor(VRF, UPLINK, router, MacAddr([2, 0, 0, 2, 0, 1]));
    }
}
