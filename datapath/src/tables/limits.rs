// SPDX-License-Identifier: Apache-2.0
//! How much the tables hold. What is over a limit is refused, never cut.
#![forbid(unsafe_code)]

use std::ops::RangeInclusive;

pub use crate::ids::{MAX_PORTS, MAX_RULES, MAX_WORKERS};

/// Largest VRF or segment id (24 bits).
pub const MAX_VRF_ID: u32 = (1 << 24) - 1;
/// Most VRFs with a port, neighbor or route.
pub const MAX_VRFS: usize = 4096;
/// Most routes, all VRFs together; the addresses of ports do not count.
pub const MAX_ROUTES: usize = 1 << 21;
/// Most static neighbors, all VRFs together; the addresses of ports do not count.
pub const MAX_NEIGHBORS: usize = 65_536;
/// Most adjacencies: an address behind a port, times the different MTUs of routes by that port.
pub const MAX_ADJACENCIES: usize = 1 << 19;
/// Most groups of next hops of multipath routes; routes with the same ones share a group.
pub const MAX_GROUPS: usize = 4096;
/// Most next hops of a multipath route.
pub const MAX_NEXT_HOPS: usize = 64;
/// Most pairs of a port and a route MTU.
pub const MAX_LINKS: usize = 16_384;
/// Most addresses of a port.
pub const MAX_PORT_ADDRESSES: usize = 64;
/// Most L2 segments.
pub const MAX_SEGMENTS: usize = 1024;
/// Most ports of an L2 segment (a Linux bridge's own limit, `BR_MAX_PORTS`).
pub const MAX_SEGMENT_PORTS: usize = 1024;
/// Most static FDB entries, all segments together; fixed MAC addresses of ports do not count.
pub const MAX_FDB_ENTRIES: usize = 65_536;
/// Most FDB entries a segment may be allowed, learned ones included.
pub const MAX_SEGMENT_ENTRIES: u32 = 65_536;
/// Most static rules of one port in one direction.
pub const MAX_PORT_RULES: usize = 4096;
/// Most ports of the node that lead to ports of pods.
pub const MAX_HOST_PORTS: usize = 65_536;
/// Most addresses and ports of services.
pub const MAX_FRONTENDS: usize = 1 << 20;
/// Most addresses of peers.
pub const MAX_PEERS: usize = 1 << 20;
/// Most identities, and so most peer classes.
pub const MAX_IDENTITIES: usize = 1 << 18;
/// Most prefixes with a CIDR class, and so most such classes.
pub const MAX_CIDRS: usize = 1 << 18;
/// Longest name of a port, segment or rule, bytes.
pub const MAX_NAME_LENGTH: usize = 128;
/// MTU of a port or route, bytes from the IP header on: RFC 791 section 3.2 to what a veth takes.
pub const MTU: RangeInclusive<u32> = 68..=65_535;
/// Smallest MTU of a port with an IPv6 address (RFC 8200 section 5).
pub const MIN_IPV6_MTU: u32 = 1280;
/// VLAN identifiers (IEEE 802.1Q table 9-2).
pub const VLANS: RangeInclusive<u16> = 1..=4094;
/// Ageing time of a segment, seconds (IEEE 802.1Q table 8-6).
pub const AGEING_SECONDS: RangeInclusive<u32> = 1..=1_000_000;
