// SPDX-License-Identifier: Apache-2.0
//! What objects must be to one another.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::index::{Claim, Index, claims, group_pods};
use super::state::DesiredState;
use crate::error::{ErrorCode, RpcError, cut};
use crate::limits::{MAX_SHOWN_LENGTH, MAX_TUNNEL_PORTS};
use crate::object::{
    FdbEntry, FdbKey, Group, Key, Kind, Neighbor, NeighborKey, Object, Port, PortMapping, Protocol,
    Route, RouteKey, Rule, Segment, Vlan,
};

/// The objects and their index, looked at together.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) state: &'a DesiredState,
    pub(super) index: &'a Index,
}

impl<'a> View<'a> {
    /// Judges the object with this key, or that it is gone.
    pub(super) fn check(&self, key: &Key) -> Result<(), RpcError> {
        match self.state.get(key) {
            Some(object) => self.check_object(&object),
            None => self.check_gone(key),
        }
        .map_err(|e| e.about(key))
    }

    fn check_object(&self, object: &Object) -> Result<(), RpcError> {
        match object {
            Object::Segment(o) => self.segment(o),
            Object::Port(o) => self.port(o),
            Object::Neighbor(o) => self.neighbor(o),
            Object::Route(o) => self.route(o),
            Object::Fdb(o) => self.fdb(o),
            Object::Rule(o) => self.rule(o),
            Object::Group(o) => self.group(o),
            Object::Service(o) => self.service(o),
            // Labels may select what is not there yet.
            Object::Namespace(_)
            | Object::Pod(_)
            | Object::NetworkPolicy(_)
            | Object::ClusterNetworkPolicy(_) => Ok(()),
        }
    }

    /// What hung on a port went with it; what hangs on it now was set afterwards and is judged by itself.
    fn check_gone(&self, key: &Key) -> Result<(), RpcError> {
        let Key::Segment { name } = key else {
            return Ok(());
        };
        match self
            .index
            .of_segment(name)
            .filter(|k| k.kind() == Kind::Port)
            .count()
        {
            0 => Ok(()),
            n => Err(conflict(
                key,
                format_args!("{n} ports are in it"),
                "delete these ports, or move them to another segment, first",
            )),
        }
    }

    /// What refers to a port or a segment, and is to be judged again when that changes.
    pub(super) fn referrers(&self, key: &Key) -> impl Iterator<Item = &'a Key> + use<'a> {
        let (port, segment) = match key {
            Key::Port { name } => (Some(self.index.of_port(name)), None),
            Key::Segment { name } => (None, Some(self.index.of_segment(name))),
            _ => (None, None),
        };
        port.into_iter()
            .flatten()
            .chain(segment.into_iter().flatten())
    }

    /// Packets of a pod bear one number.
    fn group(&self, o: &Group) -> Result<(), RpcError> {
        let key = Key::Group { id: o.id };
        let others = &self.index.group_pods;
        match others.other(&group_pods(o), &o.id.to_string()) {
            Some(other) => {
                let labels: Vec<String> =
                    o.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
                let shown = cut(labels.join(","), MAX_SHOWN_LENGTH);
                let pods = match shown.is_empty() {
                    true => format!("those of namespace {} without labels", o.namespace),
                    false => format!("those of namespace {} with labels {shown}", o.namespace),
                };
                let what = format_args!("its pods, {pods}, are those of group {other}");
                let hint = "choose other labels, or delete that group first";
                Err(conflict(&key, what, hint).field("labels").value(shown))
            }
            None => Ok(()),
        }
    }

    fn segment(&self, o: &Segment) -> Result<(), RpcError> {
        let key = Key::Segment {
            name: o.name.clone(),
        };
        if let Some(other) = self.index.segment_ids.other(&o.id, &o.name) {
            return Err(conflict(
                &key,
                format_args!("id {} is that of segment {other}", o.id),
                "choose another id",
            )
            .field("id")
            .value(o.id));
        }
        if self.index.vrf_in_use(o.id) {
            let hint = "segments and VRFs share one range of numbers: choose another id";
            return Err(
                conflict(&key, format_args!("id {} is a VRF in use", o.id), hint)
                    .field("id")
                    .value(o.id),
            );
        }
        self.fixed_limit(o)
    }

    fn fixed_limit(&self, o: &Segment) -> Result<(), RpcError> {
        let fixed = self.index.fixed_entries(&o.name);
        if fixed <= o.max_entries as usize {
            return Ok(());
        }
        let what = format!(
            "segment {}: {fixed} static FDB entries are more than max_entries {}",
            o.name, o.max_entries
        );
        Err(RpcError::new(ErrorCode::Limit, what)
            .field("max_entries")
            .value(o.max_entries)
            .hint("raise max_entries"))
    }

    fn port(&self, o: &Port) -> Result<(), RpcError> {
        let key = Key::Port {
            name: o.name.clone(),
        };
        for claim in claims(o) {
            if let Some(other) = self.index.claims.other(&claim, &o.name) {
                return Err(claimed(&key, &claim, other));
            }
        }
        match &o.segment {
            Some(membership) if !self.state.segments.contains_key(&membership.name) => {
                Err(missing(&key, "segment.name", "segment", &membership.name))
            }
            Some(_) => self.fixed_mac(o, &key),
            None => {
                self.vrf(&key, o.vrf)?;
                self.tunnel_ports(o, &key)?;
                self.host_ports(o, &key)?;
                o.addresses
                    .iter()
                    .try_for_each(|a| self.port_address(o, &key, *a))
            }
        }
    }

    /// A packet to a port of the node is for one port.
    fn host_ports(&self, o: &Port, key: &Key) -> Result<(), RpcError> {
        for mapping in &o.host_ports {
            self.not_a_tunnels(o, key, mapping)?;
            let at = (o.vrf, mapping.protocol, mapping.host_port);
            let others = self.index.host_ports.of(&at).iter();
            let meets = |name: &&String| {
                let other = self.state.ports.get(*name).filter(|p| p.name != o.name);
                other.is_some_and(|p| p.host_ports.iter().any(|m| m.meets(mapping)))
            };
            if let Some(other) = others.into_iter().find(meets) {
                let what = format_args!("port {mapping} of the node leads to port {other}");
                let hint = "choose another `host_port`, or another `host_ip` for each";
                return Err(conflict(key, what, hint).field("host_ports").value(mapping));
            }
        }
        Ok(())
    }

    /// A UDP port at which a tunnel ends leads to no pod.
    fn not_a_tunnels(&self, o: &Port, key: &Key, mapping: &PortMapping) -> Result<(), RpcError> {
        let end = (o.vrf, mapping.host_port);
        let mut ports = self.state.ports.values();
        let tunnel = ports.find(|p| p.device.tunnel_end() == Some(end));
        match tunnel.filter(|_| mapping.protocol == Protocol::UDP) {
            Some(tunnel) => {
                let what = format_args!("the tunnel {} ends at UDP port {}", tunnel.name, end.1);
                let hint = "choose another `host_port`";
                Err(conflict(key, what, hint).field("host_ports").value(mapping))
            }
            None => Ok(()),
        }
    }

    /// Tunnels end at few UDP ports.
    fn tunnel_ports(&self, o: &Port, key: &Key) -> Result<(), RpcError> {
        let Some((vrf, own)) = o.device.tunnel_end() else {
            return Ok(());
        };
        if let Some(pod) = self.index.host_ports.of(&(vrf, Protocol::UDP, own)).first() {
            let what = format_args!("UDP port {own} of the node leads to port {pod}");
            let hint = "choose another `udp_port`";
            return Err(conflict(key, what, hint)
                .field("device.udp_port")
                .value(own));
        }
        let ports = self.state.ports.values();
        let all: BTreeSet<u16> = ports.filter_map(|p| p.device.tunnel_port()).collect();
        if all.len() <= MAX_TUNNEL_PORTS {
            return Ok(());
        }
        let what = format!("{key}: tunnels end at {} UDP ports", all.len());
        Err(RpcError::new(ErrorCode::Limit, what)
            .field("device.udp_port")
            .value(own)
            .hint(format!(
                "use at most {MAX_TUNNEL_PORTS}; tunnels may share one"
            )))
    }

    /// A MAC address that a port brings may be fixed in the FDB to that port only.
    fn fixed_mac(&self, o: &Port, key: &Key) -> Result<(), RpcError> {
        let (Some(mac), Some(membership)) = (o.mac, &o.segment) else {
            return Ok(());
        };
        let vlans = match &membership.vlan {
            None => vec![None],
            Some(Vlan::Access(id)) => vec![Some(*id)],
            Some(Vlan::Trunk(ids)) => ids.iter().copied().map(Some).collect(),
        };
        let entry = |vlan| {
            self.state.fdb.get(&FdbKey {
                segment: membership.name.clone(),
                vlan,
                mac,
            })
        };
        match vlans
            .into_iter()
            .filter_map(entry)
            .find(|e| e.port != o.name)
        {
            Some(e) => Err(conflict(
                key,
                format_args!("MAC address {mac} is fixed to port {}", e.port),
                "delete that FDB entry",
            )
            .field("mac")
            .value(mac)),
            None => Ok(()),
        }
    }

    fn port_address(&self, o: &Port, key: &Key, address: IpAddr) -> Result<(), RpcError> {
        let vrf = o.vrf;
        let services = self.index.service_addresses.of(&address);
        if let Some(service) = services.first().filter(|_| vrf == 0) {
            let what = format_args!("address {address} is one of service {service}");
            let hint = "choose another, or delete that service first";
            return Err(conflict(key, what, hint).field("addresses").value(address));
        }
        let taken = if self
            .state
            .neighbors
            .contains_key(&NeighborKey { vrf, address })
        {
            Key::Neighbor(NeighborKey { vrf, address })
        } else if self.state.routes.contains_key(&RouteKey {
            vrf,
            prefix: IpNet::from(address),
        }) {
            Key::Route(RouteKey {
                vrf,
                prefix: IpNet::from(address),
            })
        } else {
            return self.next_hop(o, key, address);
        };
        let hint = "delete that object: the addresses of ports are reached by themselves";
        Err(conflict(
            key,
            format_args!("address {address} is that of {taken}"),
            hint,
        )
        .field("addresses")
        .value(address))
    }

    /// A next hop is behind the port that its route names.
    fn next_hop(&self, o: &Port, key: &Key, address: IpAddr) -> Result<(), RpcError> {
        let elsewhere = |r: &&RouteKey| {
            let route = self.state.routes.get(r);
            route.is_some_and(|r| {
                r.hops()
                    .any(|(via, port)| via == address && *port != o.name)
            })
        };
        match self.index.routes_via(o.vrf, address).find(elsewhere) {
            Some(route) => Err(conflict(
                key,
                format_args!(
                    "address {address} is the next hop of {}, behind another port",
                    Key::Route(*route)
                ),
                "correct that route, or choose another address",
            )
            .field("addresses")
            .value(address)),
            None => Ok(()),
        }
    }

    fn neighbor(&self, o: &Neighbor) -> Result<(), RpcError> {
        let key = Key::Neighbor(o.key());
        self.routed_port(&key, &o.port, o.vrf)?;
        self.vrf(&key, o.vrf)?;
        match self
            .index
            .claims
            .of(&Claim::Address(o.vrf, o.address))
            .first()
        {
            Some(port) => Err(conflict(
                &key,
                format_args!("is an address of port {port}"),
                "leave it out: its MAC address is the port's",
            )
            .field("address")
            .value(o.address)),
            None => Ok(()),
        }
    }

    fn route(&self, o: &Route) -> Result<(), RpcError> {
        let key = Key::Route(o.key());
        self.vrf(&key, o.vrf)?;
        let exact = o.prefix.prefix_len() == o.prefix.max_prefix_len();
        let claim = Claim::Address(o.vrf, o.prefix.addr());
        if let Some(port) = self.index.claims.of(&claim).first().filter(|_| exact) {
            let hint = "leave it out: the addresses of ports are reached by themselves";
            return Err(
                conflict(&key, format_args!("is an address of port {port}"), hint)
                    .field("prefix")
                    .value(o.prefix),
            );
        }
        for port in o.ports() {
            self.routed_port(&key, port, o.vrf)?;
        }
        if let (Some(port), None) = (&o.port, o.via)
            && self.is_tunnel(port)
        {
            let what = format!("{key}: port {port} is a tunnel, which has other ends");
            return Err(RpcError::new(ErrorCode::Refused, what)
                .field("via")
                .value("(none)")
                .hint("name the tunnel's other end as next hop"));
        }
        o.hops()
            .try_for_each(|(via, port)| self.hop(o, &key, via, port))
    }

    /// A next hop of a route, by a port.
    fn hop(&self, o: &Route, key: &Key, via: IpAddr, port: &str) -> Result<(), RpcError> {
        if via.is_ipv4() != o.prefix.addr().is_ipv4() && !self.is_tunnel(port) {
            let what = format!("{key}: next hop {via} is not of the family of the prefix");
            return Err(RpcError::new(ErrorCode::Refused, what)
                .field("via")
                .value(via)
                .hint("give a next hop of the same family"));
        }
        match self.index.claims.other(&Claim::Address(o.vrf, via), port) {
            Some(other) => Err(conflict(
                key,
                format_args!("next hop {via} is behind port {other}, not {port}"),
                "correct port or via",
            )
            .field("via")
            .value(via)),
            None => Ok(()),
        }
    }

    fn is_tunnel(&self, port: &str) -> bool {
        let port = self.state.ports.get(port);
        port.is_some_and(|p| p.device.is_tunnel())
    }

    fn fdb(&self, o: &FdbEntry) -> Result<(), RpcError> {
        let key = Key::Fdb(o.key());
        let Some(segment) = self.state.segments.get(&o.segment) else {
            return Err(missing(&key, "segment", "segment", &o.segment));
        };
        let Some(port) = self.state.ports.get(&o.port) else {
            return Err(missing(&key, "port", "port", &o.port));
        };
        let Some(membership) = port.segment.as_ref().filter(|m| m.name == o.segment) else {
            let what = format!("{key}: port {} is not in segment {}", o.port, o.segment);
            return Err(RpcError::new(ErrorCode::Refused, what)
                .field("port")
                .value(&o.port)
                .hint("name a port of the segment"));
        };
        let fits = match (o.vlan, &membership.vlan) {
            (None, None) => true,
            (Some(id), Some(vlans)) => vlans.contains(id),
            _ => false,
        };
        if !fits {
            let vlan = o.vlan.map_or("(none)".to_owned(), |v| v.to_string());
            let what = format!("{key}: port {} is not in VLAN {vlan}", o.port);
            return Err(RpcError::new(ErrorCode::Refused, what)
                .field("vlan")
                .value(vlan)
                .hint("name a VLAN of the port"));
        }
        if let Some(other) = self
            .index
            .claims
            .other(&Claim::SegmentMac(o.segment.clone(), o.mac), &o.port)
        {
            let what = format_args!("MAC address {} is that of port {other}", o.mac);
            return Err(conflict(
                &key,
                what,
                "leave it out: the MAC addresses of ports are always there",
            )
            .field("mac")
            .value(o.mac));
        }
        self.fixed_limit(segment)
    }

    fn rule(&self, o: &Rule) -> Result<(), RpcError> {
        match self.state.ports.contains_key(&o.port) {
            true => Ok(()),
            false => Err(missing(
                &Key::Rule {
                    name: o.name.clone(),
                },
                "port",
                "port",
                &o.port,
            )),
        }
    }

    fn routed_port(&self, key: &Key, name: &str, vrf: u32) -> Result<(), RpcError> {
        let Some(port) = self.state.ports.get(name) else {
            return Err(missing(key, "port", "port", name));
        };
        let refused = |what: String, hint: &str| {
            Err(RpcError::new(ErrorCode::Refused, what)
                .field("port")
                .value(name)
                .hint(hint))
        };
        match &port.segment {
            Some(m) => refused(
                format!("{key}: port {name} is in L2 segment {}", m.name),
                "name a routed port",
            ),
            None if port.vrf != vrf => refused(
                format!("{key}: port {name} is in VRF {}, not {vrf}", port.vrf),
                "name a port of the same VRF",
            ),
            None => Ok(()),
        }
    }

    fn vrf(&self, key: &Key, vrf: u32) -> Result<(), RpcError> {
        match self.index.segment_ids.of(&vrf).first() {
            Some(segment) => {
                let hint = "segments and VRFs share one range of numbers: choose another VRF";
                Err(conflict(
                    key,
                    format_args!("VRF {vrf} is the id of segment {segment}"),
                    hint,
                )
                .field("vrf")
                .value(vrf))
            }
            None => Ok(()),
        }
    }
}

pub(super) fn conflict(key: &Key, what: impl std::fmt::Display, hint: &str) -> RpcError {
    RpcError::new(ErrorCode::Conflict, format!("{key}: {what}")).hint(hint)
}

fn missing(key: &Key, field: &str, kind: &str, name: &str) -> RpcError {
    RpcError::new(
        ErrorCode::Refused,
        format!("{key}: there is no {kind} {name}"),
    )
    .field(field)
    .value(name)
    .hint(format!("set the {kind} before it, or in the same request"))
}

fn claimed(key: &Key, claim: &Claim, other: &str) -> RpcError {
    let (field, value, what) = match claim {
        Claim::Address(vrf, a) => (
            "addresses",
            a.to_string(),
            format!("address {a} in VRF {vrf}"),
        ),
        Claim::RoutedMac(vrf, mac) => (
            "mac",
            mac.to_string(),
            format!("MAC address {mac} in VRF {vrf}"),
        ),
        Claim::SegmentMac(segment, mac) => (
            "mac",
            mac.to_string(),
            format!("MAC address {mac} in segment {segment}"),
        ),
        Claim::Interface(name) => (
            "device.interface",
            name.clone(),
            format!("interface {name}"),
        ),
        Claim::Host => (
            "device.kind",
            "host".to_owned(),
            "the way to the node's own stack".to_owned(),
        ),
        Claim::Vni(vni) => ("device.vni", vni.to_string(), format!("VNI {vni}")),
        Claim::Socket(path) => ("device.socket", path.clone(), format!("socket {path}")),
        Claim::Recording(file) => (
            "device.record",
            file.clone(),
            format!("recording into {file}"),
        ),
    };
    conflict(
        key,
        format_args!("{what} belongs to port {other}"),
        "choose another, or delete that port first",
    )
    .field(field)
    .value(value)
}
