// SPDX-License-Identifier: Apache-2.0
//! What the stages know about a port.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::TableError;
use super::limits::VLANS;
use super::policy::{Action, PortPolicy, RuleSet};
use super::tunnel::TunnelSpec;
use crate::ids::{GroupId, PortId, VrfId, WorkerId};
use crate::wire::MacAddr;
use crate::wire::flow_key::to_ip;

/// A port as control sets it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortSpec {
    /// Its id, free or the one it has.
    pub id: PortId,
    /// Unique name, for errors and displays; 1 to 128 bytes.
    pub name: String,
    /// The worker that serves it.
    pub worker: WorkerId,
    /// MAC address of the station behind it; unicast. May be zero on an L2 port whose MAC is not fixed. Of an uplink: the NIC's own; of a
    /// tunnel: that of this end, by which the others address their inner frames.
    pub mac: MacAddr,
    /// Largest packet, bytes from the IP header on: 68 to 65535, with an IPv6 address at least 1280. Through a tunnel what the way to the other
    /// end takes is a limit, too.
    pub mtu: u32,
    /// Routed or L2.
    pub kind: PortKindSpec,
    /// Drop what does not come from the station's own MAC and (routed) IP addresses.
    pub check_source: bool,
    /// The node's own network stack is behind it: its addresses are the node's. What a route leads there without a next hop, the node
    /// forwards; what comes from there with another source than its own has to be what a route leads there for.
    pub node: bool,
    /// What becomes of a packet from the port that no egress rule matches.
    pub egress_default: Action,
    /// What becomes of a packet to the port that no ingress rule matches.
    pub ingress_default: Action,
}

/// Routed or L2, as control sets it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PortKindSpec {
    /// Frames are routed.
    Routed {
        /// Its VRF.
        vrf: VrfId,
        /// The station's own addresses, unicast; no two ports of a VRF share one. Each is an implied /32 or /128.
        addresses: Vec<IpAddr>,
    },
    /// Frames are switched within a segment.
    L2 {
        /// The segment.
        segment: VrfId,
        /// Its VLANs.
        vlan: Vlan,
        /// Nothing is learned: the port's MAC address is the only one behind it, besides static FDB entries.
        fixed_mac: bool,
    },
    /// The node's NIC, which the host uses too: frames are routed, other nodes and routers are behind it.
    Uplink {
        /// Its VRF.
        vrf: VrfId,
        /// The node's own addresses on it, unicast: where tunnels end, and, the first of each family, what they begin at and the switch says
        /// its errors from. None of them is a route.
        addresses: Vec<IpAddr>,
        /// Connections that pods begin leave as the node's own, from its first address, but for those to these prefixes. `None`: as they are.
        masquerade: Option<Vec<IpNet>>,
    },
    /// A VXLAN tunnel: a port without a device. Its neighbors are the other ends, each with the MAC address that inner frames to it bear;
    /// routes by it have one of them as next hop, which may be of the other address family than the prefix.
    Tunnel {
        /// VRF of the inner packets.
        vrf: VrfId,
        /// Its parameters.
        tunnel: TunnelSpec,
    },
}

/// A port.
#[derive(Clone, Debug)]
pub struct PortEntry {
    /// Its id.
    pub id: PortId,
    /// Unique name.
    pub name: Arc<str>,
    /// The worker that serves it.
    pub worker: WorkerId,
    /// MAC address of the station behind it; zero on an L2 port without a fixed one.
    pub mac: MacAddr,
    /// Largest packet, bytes from the IP header on.
    pub mtu: u32,
    /// VRF or, on an L2 port, segment: what goes into the flow key.
    pub vrf: VrfId,
    /// Routed or L2.
    pub kind: PortKind,
    /// Rules for packets from the port.
    pub egress: Arc<RuleSet>,
    /// Rules for packets to the port.
    pub ingress: Arc<RuleSet>,
    /// Policy by peer.
    pub policy: PortPolicy,
    /// The group of the pod behind it, which its packets are marked with in tunnels that have marks.
    pub group: Option<GroupId>,
    /// Drop what does not come from the station's own MAC and (routed) IP addresses.
    pub check_source: bool,
    /// The node's own network stack is behind it: its addresses are the node's.
    pub node: bool,
    /// Grows whenever anything about the port changes, its rules and policy included, but its group not: nobody here is judged by that; never
    /// that of an earlier port of the same id.
    pub stamp: u32,
}

impl PortEntry {
    /// Whether only rules, policy, group and stamp may differ.
    pub(crate) fn is_set_as(&self, other: &PortEntry) -> bool {
        self.leads_as(other)
            && self.name == other.name
            && self.check_source == other.check_source
            && self.egress.default_action() == other.egress.default_action()
            && self.ingress.default_action() == other.ingress.default_action()
    }

    /// Whether packets reach it in the same way.
    pub(crate) fn leads_as(&self, other: &PortEntry) -> bool {
        self.worker == other.worker
            && self.mac == other.mac
            && self.mtu == other.mtu
            && self.vrf == other.vrf
            && self.kind == other.kind
            && self.node == other.node
    }

    /// The station's own addresses; none on an L2 port.
    pub fn addresses(&self) -> &OwnAddresses {
        const NONE: &OwnAddresses = &OwnAddresses {
            v4: Vec::new(),
            v6: Vec::new(),
        };
        match &self.kind {
            PortKind::Routed { addresses } => addresses,
            PortKind::L2 { .. } | PortKind::Uplink { .. } | PortKind::Tunnel(_) => NONE,
        }
    }

    /// The node's own addresses on an uplink; `None` on other ports.
    #[inline]
    pub fn uplink(&self) -> Option<&OwnAddresses> {
        match &self.kind {
            PortKind::Uplink { addresses, .. } => Some(addresses),
            _ => None,
        }
    }

    /// The node's first address of a family on an uplink.
    pub fn first_address(&self, v4: bool) -> Option<IpAddr> {
        match &self.kind {
            PortKind::Uplink { first, .. } => first[usize::from(!v4)],
            _ => None,
        }
    }

    /// Whether connections that pods begin to an address leave by the port, an uplink, as the node's own.
    pub fn masquerades(&self, to: &[u8; 16]) -> bool {
        let PortKind::Uplink {
            masquerade: Some(except),
            ..
        } = &self.kind
        else {
            return false;
        };
        let to = to_ip(to);
        !except.iter().any(|prefix| prefix.contains(&to))
    }

    /// Whether a pod is behind it, whose packets are routed.
    pub fn is_pod(&self) -> bool {
        matches!(self.kind, PortKind::Routed { .. }) && !self.node
    }

    /// The tunnel that the port is.
    #[inline]
    pub fn tunnel(&self) -> Option<&TunnelSpec> {
        match &self.kind {
            PortKind::Tunnel(tunnel) => Some(tunnel),
            _ => None,
        }
    }

    /// Whether marks of packets that come by it are believed.
    #[inline]
    pub fn has_group_policy(&self) -> bool {
        self.tunnel().is_some_and(|tunnel| tunnel.group_policy)
    }

    /// Whether others than pods of this node are behind it: what comes from there is known by its way only.
    #[inline]
    pub fn is_outside(&self) -> bool {
        matches!(self.kind, PortKind::Uplink { .. } | PortKind::Tunnel(_))
    }

    /// The source MAC address of what is routed out of the port: of an uplink or tunnel its own, else the gateway's.
    #[inline]
    pub fn router_mac(&self, gateway: MacAddr) -> MacAddr {
        match self.is_outside() {
            true => self.mac,
            false => gateway,
        }
    }
}

/// Routed or L2.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PortKind {
    /// Frames are routed.
    Routed {
        /// The station's own addresses.
        addresses: OwnAddresses,
    },
    /// Frames are switched within a segment.
    L2 {
        /// The segment.
        segment: VrfId,
        /// Its VLANs.
        vlan: Vlan,
        /// Nothing is learned behind it.
        fixed_mac: bool,
    },
    /// The node's NIC.
    Uplink {
        /// The node's own addresses on it.
        addresses: OwnAddresses,
        /// The first IPv4 and the first IPv6 one.
        first: [Option<IpAddr>; 2],
        /// Connections that pods begin leave as the node's own, but for those to these prefixes.
        masquerade: Option<Arc<[IpNet]>>,
    },
    /// A VXLAN tunnel.
    Tunnel(TunnelSpec),
}

/// A port's own addresses: a small exact set.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OwnAddresses {
    /// Sorted.
    v4: Vec<Ipv4Addr>,
    /// Sorted.
    v6: Vec<Ipv6Addr>,
}

impl OwnAddresses {
    pub(crate) fn new(addresses: &[IpAddr]) -> OwnAddresses {
        let mut own = OwnAddresses::default();
        for address in addresses {
            match address {
                IpAddr::V4(a) => own.v4.push(*a),
                IpAddr::V6(a) => own.v6.push(*a),
            }
        }
        own.v4.sort_unstable();
        own.v6.sort_unstable();
        own
    }

    /// Whether it is one of them.
    #[inline]
    pub fn contains_v4(&self, address: Ipv4Addr) -> bool {
        self.v4.binary_search(&address).is_ok()
    }

    /// Whether it is one of them.
    #[inline]
    pub fn contains_v6(&self, address: Ipv6Addr) -> bool {
        self.v6.binary_search(&address).is_ok()
    }

    /// Whether it is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(a) => self.contains_v4(a),
            IpAddr::V6(a) => self.contains_v6(a),
        }
    }

    /// Whether an address as a flow key holds it (IPv4-mapped) is one of them.
    #[inline]
    pub fn contains_key(&self, address: &[u8; 16]) -> bool {
        match crate::wire::flow_key::unmap_v4(address) {
            Some(v4) => self.contains_v4(v4.into()),
            None => self.contains_v6((*address).into()),
        }
    }

    /// The IPv4 ones, sorted.
    pub fn v4(&self) -> &[Ipv4Addr] {
        &self.v4
    }

    /// The IPv6 ones, sorted.
    pub fn v6(&self) -> &[Ipv6Addr] {
        &self.v6
    }

    /// All of them, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.v4.iter().map(|a| IpAddr::V4(*a));
        v4.chain(self.v6.iter().map(|a| IpAddr::V6(*a)))
    }
}

/// VLANs of an L2 port (IEEE 802.1Q).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Vlan {
    /// Untagged frames alone, in no VLAN; they meet only ports that have none either. Tagged ones are dropped.
    None,
    /// Untagged frames belong to this VLAN; tagged ones are dropped.
    Access(u16),
    /// Frames tagged with one of these VLANs pass, tag and all; others and untagged ones are dropped.
    Trunk(VlanSet),
}

impl Vlan {
    /// Whether frames of a VLAN (0: of none) leave by the port.
    #[inline]
    pub fn contains(&self, vlan: u16) -> bool {
        match self {
            Vlan::None => vlan == 0,
            Vlan::Access(id) => *id == vlan,
            Vlan::Trunk(set) => set.contains(vlan),
        }
    }

    /// The VLAN of a frame that arrives on the port with this VLAN identifier, 0 for an untagged or priority-tagged
    /// one; the VLAN 0 is none. Absent if the port takes no such frames.
    #[inline]
    pub fn of_frame(&self, tag: u16) -> Option<u16> {
        match self {
            Vlan::None if tag == 0 => Some(0),
            Vlan::Access(id) if tag == 0 => Some(*id),
            Vlan::Trunk(set) if set.contains(tag) => Some(tag),
            _ => None,
        }
    }
}

/// A set of VLANs: one bit each, 512 bytes, shared.
#[derive(Clone, PartialEq, Eq)]
pub struct VlanSet(Arc<[u64; 64]>);

impl VlanSet {
    /// A set of VLANs, each from 1 to 4094.
    pub fn new(vlans: impl IntoIterator<Item = u16>) -> Result<VlanSet, TableError> {
        let mut words = [0; 64];
        for vlan in vlans {
            match words.get_mut(vlan as usize / 64) {
                Some(word) if VLANS.contains(&vlan) => *word |= 1 << (vlan % 64),
                _ => {
                    return Err(TableError::invalid(
                        "trunk",
                        "VLAN",
                        vlan,
                        "is not from 1 to 4094",
                    ));
                }
            }
        }
        Ok(VlanSet(Arc::new(words)))
    }

    /// Whether it has no VLAN.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Whether the VLAN is in it.
    #[inline]
    pub fn contains(&self, vlan: u16) -> bool {
        self.0
            .get(vlan as usize / 64)
            .is_some_and(|word| word >> (vlan % 64) & 1 != 0)
    }

    /// Its VLANs, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        (0..4096).filter(|vlan| self.contains(*vlan))
    }
}

impl std::fmt::Debug for VlanSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
