// SPDX-License-Identifier: Apache-2.0
//! Tables as plain lists: what the switch's tables are built from, and all that the reference looks at.

use std::net::IpAddr;

use ipnet::IpNet;
use podswitch_datapath::tables::{
    Direction, Edit, Gateway, PortKindSpec, PortSpec, Route, Rule, SegmentSpec, Tables,
};
use podswitch_datapath::wire::MacAddr;
use podswitch_datapath::{PortId, VrfId};

#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) gateway: Gateway,
    pub(crate) ports: Vec<PortSpec>,
    pub(crate) routes: Vec<(VrfId, IpNet, Route)>,
    pub(crate) neighbors: Vec<(VrfId, PortId, IpAddr, MacAddr)>,
    pub(crate) segments: Vec<SegmentSpec>,
    pub(crate) fdb: Vec<(VrfId, u16, MacAddr, PortId)>,
    pub(crate) rules: Vec<(PortId, Direction, Rule)>,
}

impl Setup {
    pub(crate) fn port(&self, id: PortId) -> Option<&PortSpec> {
        self.ports.iter().find(|p| p.id == id)
    }

    pub(crate) fn addresses(port: &PortSpec) -> &[IpAddr] {
        match &port.kind {
            PortKindSpec::Routed { addresses, .. } => addresses,
            _ => &[],
        }
    }

    /// Makes tables that hold this become tables that hold `self`: what is in `old` and not here goes.
    pub(crate) fn apply(&self, old: Option<&Setup>, edit: &mut Edit) {
        if let Some(old) = old {
            for (vrf, net, _) in &old.routes {
                edit.remove_route(*vrf, *net);
            }
            for (vrf, port, address, _) in &old.neighbors {
                edit.remove_neighbor(*vrf, *port, *address);
            }
            for (segment, vlan, mac, _) in &old.fdb {
                edit.remove_fdb(*segment, *vlan, *mac);
            }
            for (port, direction, rule) in &old.rules {
                if self.port(*port).is_some() {
                    edit.remove_rule(*port, *direction, &rule.name);
                }
            }
            for port in &old.ports {
                edit.remove_port(port.id);
            }
            for segment in &old.segments {
                edit.remove_segment(segment.id);
            }
        }
        for segment in &self.segments {
            edit.set_segment(segment.clone());
        }
        for port in &self.ports {
            edit.set_port(port.clone());
        }
        for (vrf, port, address, mac) in &self.neighbors {
            edit.set_neighbor(*vrf, *port, *address, *mac);
        }
        for (vrf, net, route) in &self.routes {
            edit.set_route(*vrf, *net, route.clone());
        }
        for (segment, vlan, mac, port) in &self.fdb {
            edit.set_fdb(*segment, *vlan, *mac, *port);
        }
        for (port, direction, rule) in &self.rules {
            edit.set_rule(*port, *direction, rule.clone());
        }
    }

    /// Whether tables can hold it next to nothing else.
    pub(crate) fn is_valid(&self) -> bool {
        let mut edit = Edit::new(&Tables::new(self.gateway), 1);
        self.apply(None, &mut edit);
        edit.build().is_ok()
    }
}
