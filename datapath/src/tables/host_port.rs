// SPDX-License-Identifier: Apache-2.0
//! Ports of the node that lead to ports of pods (hostPort of Kubernetes, `portMappings` of CNI).
#![forbid(unsafe_code)]

use std::net::IpAddr;

use super::{PortEntry, Tables};
use crate::ids::VrfId;
use crate::wire::FlowKey;
use crate::wire::flow_key::to_ip;
use crate::wire::translate::Endpoint;

/// A port of the node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct HostPortKey {
    /// VRF of the pod and of whoever comes to it.
    pub vrf: VrfId,
    /// IP protocol: TCP or UDP.
    pub protocol: u8,
    /// The port.
    pub port: u16,
    /// The node's address; the unspecified one of a family: every one of that family.
    pub address: IpAddr,
}

/// Where a port of the node leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostPort {
    /// The port of the node.
    pub key: HostPortKey,
    /// The pod's address and port.
    pub to: Endpoint,
}

impl HostPort {
    /// Whether it is the way from an address of the node.
    fn is_at(&self, address: IpAddr) -> bool {
        let is = self.key.address;
        is == address || is.is_unspecified() && is.is_ipv4() == address.is_ipv4()
    }
}

impl Tables {
    /// Whether any port of the node leads to a pod.
    #[inline(always)]
    pub fn has_host_ports(&self) -> bool {
        !self.host_ports.is_empty()
    }

    /// Where a packet to an address of the node is led by its destination port.
    pub fn host_port(&self, key: &FlowKey) -> Option<Endpoint> {
        let wanted = (key.vrf(), key.protocol(), key.dport);
        let of = |h: &HostPort| (h.key.vrf, h.key.protocol, h.key.port);
        let first = self.host_ports.partition_point(|h| of(h) < wanted);
        let same = self.host_ports.get(first..)?;
        let address = to_ip(&key.dst);
        let mut same = same.iter().take_while(|h| of(h) == wanted);
        let found = same.find(|h| h.is_at(address))?;
        let mut own = self.node_addresses(key.vrf());
        own.any(|own| own == address).then_some(found.to)
    }

    /// Addresses and ports by which a pod's port is known at the node, given a packet that leaves from there.
    pub fn host_ports_of(&self, key: &FlowKey) -> impl Iterator<Item = &HostPortKey> {
        let leads = move |h: &&HostPort| {
            h.to.address == key.src
                && h.to.port == key.sport
                && (h.key.vrf, h.key.protocol) == (key.vrf(), key.protocol())
        };
        self.host_ports.iter().filter(leads).map(|h| &h.key)
    }

    /// The uplinks.
    pub fn uplinks(&self) -> impl Iterator<Item = &PortEntry> {
        let ports = self.node_ports.iter().filter_map(|id| self.port(*id));
        ports.filter(|port| port.uplink().is_some())
    }

    /// The node's own addresses in a VRF, on uplinks and behind the node's own port.
    pub fn node_addresses(&self, vrf: VrfId) -> impl Iterator<Item = IpAddr> {
        let ports = self.node_ports.iter().filter_map(|id| self.port(*id));
        let ports = ports.filter(move |port| port.vrf == vrf);
        ports.flat_map(|port| port.uplink().unwrap_or(port.addresses()).iter())
    }
}
