// SPDX-License-Identifier: Apache-2.0
//! Routes and neighbors.

use super::value::{host_address, name, prefix, station, vrf};
use super::{Bounds, refuse};
use crate::error::RpcError;
use crate::limits::{MAX_MTU, MIN_MTU, MIN_MTU_IPV6};
use crate::object::{Neighbor, Route, RouteKind};

pub(super) fn neighbor(o: &Neighbor, bounds: &Bounds) -> Result<(), RpcError> {
    vrf(o.vrf)?;
    name("port", &o.port)?;
    host_address("address", o.address)?;
    if bounds.gateway.has(o.address) {
        return Err(refuse(
            "address",
            o.address,
            "the switch's own gateway address",
            "choose another",
        ));
    }
    station(o.mac, bounds)
}

pub(super) fn route(o: &Route, bounds: &Bounds) -> Result<(), RpcError> {
    vrf(o.vrf)?;
    prefix("prefix", &o.prefix)?;
    let net = o.prefix.addr();
    if net.is_multicast() {
        return Err(refuse(
            "prefix",
            o.prefix,
            "multicast is not routed",
            "use an L2 segment",
        ));
    }
    if o.prefix.prefix_len() == o.prefix.max_prefix_len() && bounds.gateway.has(net) {
        return Err(refuse(
            "prefix",
            o.prefix,
            "the switch's own gateway address",
            "leave it out: it is always there",
        ));
    }
    match (o.kind, &o.port) {
        (RouteKind::Unicast, None) => {
            return Err(refuse(
                "port",
                "(none)",
                "a unicast route needs a port",
                "name the port to leave by",
            ));
        }
        (RouteKind::Unicast, Some(port)) => name("port", port)?,
        (kind, Some(port)) => {
            return Err(refuse(
                "port",
                port,
                format!("a {} route goes nowhere", kind.name()),
                "leave out `port`",
            ));
        }
        (_, None) => {}
    }
    if let Some(via) = o.via {
        if o.kind != RouteKind::Unicast {
            return Err(refuse(
                "via",
                via,
                format!("a {} route goes nowhere", o.kind.name()),
                "leave out `via`",
            ));
        }
        if via.is_ipv4() != net.is_ipv4() {
            return Err(refuse(
                "via",
                via,
                "not of the family of the prefix",
                "give a next hop of the same family",
            ));
        }
        host_address("via", via)?;
        if bounds.gateway.has(via) {
            return Err(refuse(
                "via",
                via,
                "the switch's own gateway address",
                "name the next hop behind the port",
            ));
        }
    }
    match o.mtu {
        Some(mtu) if o.kind != RouteKind::Unicast => Err(refuse(
            "mtu",
            mtu,
            "the route goes nowhere",
            "leave out `mtu`",
        )),
        Some(mtu) => {
            let least = if net.is_ipv4() { MIN_MTU } else { MIN_MTU_IPV6 };
            match (least..=MAX_MTU).contains(&mtu) {
                true => Ok(()),
                false => Err(refuse(
                    "mtu",
                    mtu,
                    "out of range",
                    format!("choose {least} to {MAX_MTU}"),
                )),
            }
        }
        None => Ok(()),
    }
}
