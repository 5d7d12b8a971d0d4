// SPDX-License-Identifier: Apache-2.0
//! Routes and neighbors.

use std::net::IpAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::key::{NeighborKey, RouteKey};
use super::{is_default, key};
use crate::mac::MacAddr;
use crate::schema::Prefix;

/// A route of a VRF; the longest matching prefix wins. The addresses of routed ports are routes of their own and not repeated here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Route {
    /// The VRF, 24 bits, 0 by default.
    #[serde(default, skip_serializing_if = "is_default")]
    pub vrf: u32,
    /// Destination; bits beyond the prefix length are zero.
    #[schemars(with = "Prefix")]
    #[serde(deserialize_with = "crate::text::prefix")]
    pub prefix: IpNet,
    /// What becomes of a packet it matches. On the wire `type`, as `kind` says that this is a route.
    #[serde(default, rename = "type")]
    pub kind: RouteKind,
    /// Next hop, of the prefix's family, behind a tunnel of any; none: the destination itself is on the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "crate::text::optional_address")]
    pub via: Option<IpAddr>,
    /// Name of the port to leave by; needed by a unicast route, refused on others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Several next hops instead of one `via` and `port`: each flow goes by one of them, those that do not answer left out (RFC 2992).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nexthops: Vec<NextHop>,
    /// Largest packet that may take it, in bytes; none: the MTU of the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

impl Route {
    /// Its key.
    pub fn key(&self) -> key::RouteKey {
        RouteKey {
            vrf: self.vrf,
            prefix: self.prefix,
        }
    }

    /// The ports it leaves by, each as often as it is named.
    pub fn ports(&self) -> impl Iterator<Item = &String> {
        let several = self.nexthops.iter().map(|hop| &hop.port);
        self.port.iter().chain(several)
    }

    /// Its next hops, each with the port it is behind.
    pub fn hops(&self) -> impl Iterator<Item = (IpAddr, &String)> {
        let one = self.via.zip(self.port.as_ref());
        let several = self.nexthops.iter().map(|hop| (hop.via, &hop.port));
        one.into_iter().chain(several)
    }
}

/// One of several next hops of a route.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct NextHop {
    /// Its address, of the prefix's family; behind a tunnel of any.
    #[serde(deserialize_with = "crate::text::address")]
    pub via: IpAddr,
    /// Name of the port to leave by.
    pub port: String,
    /// Its share of the flows, of the sum of all weights: 1 to 255.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: u8,
}

fn one() -> u8 {
    1
}

fn is_one(weight: &u8) -> bool {
    *weight == one()
}

/// What becomes of a packet that a route matches; names as in ip-route(8).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "snake_case")]
pub enum RouteKind {
    /// Forwarded.
    #[default]
    Unicast,
    /// Dropped silently.
    Blackhole,
    /// Dropped and answered: host unreachable, in IPv6 no route to destination.
    Unreachable,
    /// Dropped and answered: administratively prohibited.
    Prohibit,
}

impl RouteKind {
    /// Name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            RouteKind::Unicast => "unicast",
            RouteKind::Blackhole => "blackhole",
            RouteKind::Unreachable => "unreachable",
            RouteKind::Prohibit => "prohibit",
        }
    }
}

/// The MAC address of a next hop. The addresses of routed ports need none: theirs is the port's MAC address.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Neighbor {
    /// The VRF, which is the port's; 0 by default.
    #[serde(default, skip_serializing_if = "is_default")]
    pub vrf: u32,
    /// The port it is behind.
    pub port: String,
    /// Its address.
    #[serde(deserialize_with = "crate::text::address")]
    pub address: IpAddr,
    /// Its MAC address.
    pub mac: MacAddr,
}

impl Neighbor {
    /// Its key.
    pub fn key(&self) -> key::NeighborKey {
        NeighborKey {
            vrf: self.vrf,
            address: self.address,
        }
    }
}

crate::by_name!(Route, NextHop, Neighbor);

crate::by_word!(RouteKind);
