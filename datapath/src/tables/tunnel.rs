// SPDX-License-Identifier: Apache-2.0
//! VXLAN tunnels: how packets to another node are wrapped, and which way these go.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::ids::VrfId;
use crate::verdict::Reason;
use crate::wire::vxlan::Template;

/// A VXLAN tunnel as control sets it (RFC 7348).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TunnelSpec {
    /// Network identifier, 24 bits; no two tunnels have the same.
    pub vni: u32,
    /// UDP port on both ends, not 0.
    pub port: u16,
    /// VRF of the outer packets: that of the uplinks they pass.
    pub underlay: VrfId,
    /// This end's IPv4 address; none: the first one of the uplink that leads to the other end.
    pub local_v4: Option<Ipv4Addr>,
    /// This end's IPv6 address; none: as above.
    pub local_v6: Option<Ipv6Addr>,
    /// Over IPv6: write UDP checksums. Without them the other ends must take packets that have none (RFC 6935).
    pub checksum_v6: bool,
}

impl TunnelSpec {
    /// This end's address for another end of the same family, if it is fixed.
    pub(crate) fn local(&self, remote: IpAddr) -> Option<IpAddr> {
        match remote {
            IpAddr::V4(_) => self.local_v4.map(IpAddr::V4),
            IpAddr::V6(_) => self.local_v6.map(IpAddr::V6),
        }
    }
}

/// How packets get to the other end of a tunnel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wrap {
    /// Their outer headers; none where this node has no address for them.
    pub template: Option<Template>,
    /// Which way they go.
    pub way: Underlay,
}

/// The way of outer packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Underlay {
    /// By this adjacency.
    Adjacency(u32),
    /// By one of a group of next hops.
    Group(u32),
    /// None.
    Drop(Reason),
}
