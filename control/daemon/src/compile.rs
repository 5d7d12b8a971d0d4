// SPDX-License-Identifier: Apache-2.0
//! From differences of the desired state to an edit of the switch's tables.

use std::collections::HashMap;
use std::net::IpAddr;

use podswitch_api::desired::{DesiredState, Difference};
use podswitch_api::error::RpcError;
use podswitch_api::limits::MAX_MTU;
use podswitch_api::object::{self, Device, HOST_MAC, Key, Object, UnknownUnicast};
use podswitch_api::{ErrorCode, MacAddr};
use podswitch_datapath::tables::{
    self, Edit, PortKindSpec, PortSpec, SegmentSpec, TableError, TunnelSpec, VlanSet,
};
use podswitch_datapath::{PortId, VrfId, WorkerId, wire};

use crate::kernel::nic::Facts;
use crate::names::Names;

/// What an edit needs to know beside the differences.
pub struct Compiler<'a> {
    /// Ids of ports, those that come with these differences among them.
    pub names: &'a Names,
    /// The desired state after the differences.
    pub state: &'a DesiredState,
    /// The ids before them of segments that differ, by name.
    pub segments_before: &'a HashMap<&'a str, u32>,
    /// Which worker serves a port.
    pub worker: &'a dyn Fn(PortId) -> WorkerId,
    /// What the NIC, or the host, of a port is, as far as that is known.
    pub nic: &'a dyn Fn(&str) -> Option<&'a Facts>,
    /// MTU of ports that name none.
    pub default_mtu: u32,
}

impl Compiler<'_> {
    /// Puts one difference into the edit.
    ///
    /// # Errors
    /// `internal` when an object refers to what the desired state does not have.
    pub fn difference(&self, edit: &mut Edit, difference: &Difference) -> Result<(), RpcError> {
        // What an object is keyed by in the tables may differ between its two versions (a rule moved to another port).
        if let Some(before) = &difference.before {
            self.remove(edit, before);
        }
        match &difference.after {
            Some(after) => self.set(edit, after),
            None => Ok(()),
        }
    }

    fn remove(&self, edit: &mut Edit, object: &Object) {
        match object {
            Object::Segment(s) => {
                edit.remove_segment(VrfId(s.id));
            }
            Object::Port(p) => {
                if let Some(id) = self.names.id(&p.name) {
                    edit.remove_port(id);
                }
            }
            Object::Neighbor(n) => {
                if let Some(id) = self.names.id(&n.port) {
                    edit.remove_neighbor(VrfId(n.vrf), id, n.address);
                }
            }
            Object::Route(r) => {
                edit.remove_route(VrfId(r.vrf), r.prefix);
            }
            Object::Fdb(f) => {
                if let Some(id) = self.segment_before(&f.segment) {
                    edit.remove_fdb(VrfId(id), f.vlan.unwrap_or(0), mac(f.mac));
                }
            }
            Object::Rule(r) => {
                if let Some(id) = self.names.id(&r.port) {
                    edit.remove_rule(id, direction(r.direction), &r.name);
                }
            }
            // The policy compiler's.
            Object::Namespace(_)
            | Object::Pod(_)
            | Object::NetworkPolicy(_)
            | Object::ClusterNetworkPolicy(_)
            | Object::Group(_)
            | Object::Service(_) => {}
        }
    }

    fn set(&self, edit: &mut Edit, object: &Object) -> Result<(), RpcError> {
        match object {
            Object::Segment(s) => {
                edit.set_segment(segment(s));
            }
            Object::Port(p) => {
                let spec = self.port(p)?;
                edit.set_port(spec);
            }
            Object::Neighbor(n) => {
                edit.set_neighbor(VrfId(n.vrf), self.id(&n.port)?, n.address, mac(n.mac));
            }
            Object::Route(r) => {
                edit.set_route(VrfId(r.vrf), r.prefix, self.route(r)?);
            }
            Object::Fdb(f) => {
                let id = self.segment_id(&f.segment)?;
                edit.set_fdb(id, f.vlan.unwrap_or(0), mac(f.mac), self.id(&f.port)?);
            }
            Object::Rule(r) => {
                edit.set_rule(self.id(&r.port)?, direction(r.direction), rule(r));
            }
            Object::Namespace(_)
            | Object::Pod(_)
            | Object::NetworkPolicy(_)
            | Object::ClusterNetworkPolicy(_)
            | Object::Group(_)
            | Object::Service(_) => {}
        }
        Ok(())
    }

    fn id(&self, port: &str) -> Result<PortId, RpcError> {
        self.names
            .id(port)
            .ok_or_else(|| internal(format!("port {port} has no id")))
    }

    fn segment_before(&self, name: &str) -> Option<u32> {
        let differs = self.segments_before.get(name).copied();
        differs.or_else(|| self.state.segments.get(name).map(|s| s.id))
    }

    fn segment_id(&self, name: &str) -> Result<VrfId, RpcError> {
        let found = self.state.segments.get(name);
        found
            .map(|s| VrfId(s.id))
            .ok_or_else(|| internal(format!("segment {name} is not there")))
    }

    fn port(&self, p: &object::Port) -> Result<PortSpec, RpcError> {
        let id = self.id(&p.name)?;
        let nic = match p.device.is_nic() || p.device.is_host() {
            true => (self.nic)(&p.name),
            false => None,
        };
        let default_mtu = match p.device.is_tunnel() {
            // The way to the other end says.
            true => MAX_MTU,
            false => self.default_mtu,
        };
        let kind = match &p.segment {
            None if p.device.is_nic() => PortKindSpec::Uplink {
                vrf: VrfId(p.vrf),
                addresses: nic.map(|nic| nic.addresses.clone()).unwrap_or_default(),
                masquerade: p.device.masquerade_except().map(<[_]>::to_vec),
            },
            None if p.device.is_tunnel() => PortKindSpec::Tunnel {
                vrf: VrfId(p.vrf),
                tunnel: tunnel(&p.device)?,
            },
            None => PortKindSpec::Routed {
                vrf: VrfId(p.vrf),
                addresses: nic.map_or(&p.addresses, |nic| &nic.addresses).clone(),
            },
            Some(membership) => PortKindSpec::L2 {
                segment: self.segment_id(&membership.name)?,
                vlan: vlan(membership.vlan.as_ref())?,
                fixed_mac: p.mac.is_some(),
            },
        };
        // Behind a veth, or in a virtual machine, is one pod, and whatever else it claims to be is a lie. A replayed capture may come from anywhere
        // unless it is said from where.
        let check_source = match (&p.device, &p.segment) {
            (Device::Veth { .. } | Device::Host { .. } | Device::VhostUser { .. }, None) => true,
            (_, None) => !p.addresses.is_empty(),
            (_, Some(_)) => p.mac.is_some(),
        };
        Ok(PortSpec {
            id,
            name: p.name.clone(),
            worker: (self.worker)(id),
            mac: match (nic, p.device.is_host()) {
                (Some(nic), _) => nic.mac,
                (None, true) => mac(HOST_MAC),
                (None, false) => mac(p.mac.unwrap_or_default()),
            },
            mtu: nic.map_or(p.mtu.unwrap_or(default_mtu), |nic| nic.mtu),
            kind,
            check_source,
            node: p.is_node(),
            egress_default: action(p.egress_default),
            ingress_default: action(p.ingress_default),
        })
    }

    fn route(&self, r: &object::Route) -> Result<tables::Route, RpcError> {
        if !r.nexthops.is_empty() {
            let hop = |hop: &object::NextHop| {
                Ok(tables::NextHop {
                    port: self.id(&hop.port)?,
                    via: hop.via,
                    weight: hop.weight,
                })
            };
            let hops: Result<_, RpcError> = r.nexthops.iter().map(hop).collect();
            return Ok(tables::Route::Multipath {
                hops: hops?,
                mtu: r.mtu,
            });
        }
        Ok(match (r.kind, &r.port) {
            (object::RouteKind::Unicast, Some(port)) => tables::Route::Unicast {
                port: self.id(port)?,
                via: r.via,
                mtu: r.mtu,
            },
            (object::RouteKind::Unicast, None) => {
                return Err(internal(format!("route {} has no port", r.prefix)));
            }
            (object::RouteKind::Blackhole, _) => tables::Route::Blackhole,
            (object::RouteKind::Unreachable, _) => tables::Route::Unreachable,
            (object::RouteKind::Prohibit, _) => tables::Route::Prohibit,
        })
    }
}

fn internal(message: String) -> RpcError {
    RpcError::new(ErrorCode::Internal, message)
        .hint("this is a fault of podswitchd: please report it with the log")
}

/// A refusal of the tables as the protocol says it.
pub fn table_error(e: &TableError) -> RpcError {
    let code = match e {
        TableError::Limit { .. } => ErrorCode::Limit,
        TableError::Conflict { .. } => ErrorCode::Conflict,
        _ => ErrorCode::Refused,
    };
    RpcError::new(code, e.to_string())
}

/// Whether a key names a port.
pub fn is_port(key: &Key) -> bool {
    matches!(key, Key::Port { .. })
}

fn mac(m: MacAddr) -> wire::MacAddr {
    wire::MacAddr(m.0)
}

fn vlan(v: Option<&object::Vlan>) -> Result<tables::Vlan, RpcError> {
    Ok(match v {
        None => tables::Vlan::None,
        Some(object::Vlan::Access(id)) => tables::Vlan::Access(*id),
        Some(object::Vlan::Trunk(ids)) => {
            tables::Vlan::Trunk(VlanSet::new(ids.iter().copied()).map_err(|e| table_error(&e))?)
        }
    })
}

fn tunnel(device: &Device) -> Result<TunnelSpec, RpcError> {
    let Device::Vxlan {
        vni,
        udp_port,
        local,
        underlay_vrf,
        udp6_zero_checksum,
        group_policy,
    } = device
    else {
        return Err(internal(format!("{} is no tunnel", device.kind())));
    };
    let (mut local_v4, mut local_v6) = (None, None);
    for address in local {
        match address {
            IpAddr::V4(a) => local_v4 = Some(*a),
            IpAddr::V6(a) => local_v6 = Some(*a),
        }
    }
    Ok(TunnelSpec {
        vni: *vni,
        port: *udp_port,
        underlay: VrfId(*underlay_vrf),
        local_v4,
        local_v6,
        checksum_v6: !udp6_zero_checksum,
        group_policy: *group_policy,
    })
}

fn segment(s: &object::Segment) -> SegmentSpec {
    SegmentSpec {
        id: VrfId(s.id),
        name: s.name.clone(),
        ageing_seconds: s.ageing_seconds,
        learn: s.learn,
        flood_unknown: s.unknown_unicast == UnknownUnicast::Flood,
        unknown_unicast_limit: s.unknown_unicast_limit,
        broadcast_limit: s.broadcast_limit,
        max_entries: s.max_entries,
    }
}

fn rule(r: &object::Rule) -> tables::Rule {
    tables::Rule {
        name: r.name.clone(),
        priority: r.priority,
        source: r.source,
        destination: r.destination,
        protocol: r.protocol.map(|p| p.0),
        ports: r.ports.map(|p| p.first..=p.last),
        action: action(r.action),
    }
}

fn direction(d: object::Direction) -> tables::Direction {
    match d {
        object::Direction::Ingress => tables::Direction::Ingress,
        object::Direction::Egress => tables::Direction::Egress,
    }
}

fn action(a: object::Action) -> tables::Action {
    match a {
        object::Action::Allow => tables::Action::Allow,
        object::Action::Deny => tables::Action::Deny,
    }
}
