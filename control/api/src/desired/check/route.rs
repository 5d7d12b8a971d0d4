// SPDX-License-Identifier: Apache-2.0
//! Routes and neighbors.

use std::net::IpAddr;

use super::value::{absent, host_address, name, prefix, station, vrf};
use super::{Bounds, refuse};
use crate::error::RpcError;
use crate::limits::{MAX_MTU, MAX_NEXT_HOPS, MIN_MTU, MIN_MTU_IPV6};
use crate::object::{Neighbor, NextHop, Route, RouteKind};

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
    match o.kind {
        RouteKind::Unicast => unicast(o, bounds)?,
        kind => {
            let nowhere = format!("a {} route goes nowhere", kind.name());
            absent("port", o.port.as_ref(), &nowhere)?;
            absent("via", o.via, &nowhere)?;
            absent("nexthops", o.nexthops.first().map(|hop| hop.via), &nowhere)?;
        }
    }
    match o.mtu {
        Some(mtu) if o.kind != RouteKind::Unicast => {
            absent("mtu", Some(mtu), "the route goes nowhere")
        }
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

/// Where a unicast route leads to. Whether the next hops are of the prefix's family depends on their ports.
fn unicast(o: &Route, bounds: &Bounds) -> Result<(), RpcError> {
    match (&o.port, o.nexthops.len()) {
        (None, 0) => {
            return Err(refuse(
                "port",
                "(none)",
                "a unicast route needs a port",
                "name the port to leave by",
            ));
        }
        (Some(port), 0) => name("port", port)?,
        (Some(port), _) => {
            return absent("port", Some(port), "several next hops have their own ports");
        }
        (None, 1) => {
            let hint = "name `via` and `port` instead";
            return Err(refuse("nexthops", 1, "one next hop is not several", hint));
        }
        (None, 2..=MAX_NEXT_HOPS) => {}
        (None, count) => {
            let hint = format!("name at most {MAX_NEXT_HOPS}");
            return Err(refuse("nexthops", count, "too many next hops", hint));
        }
    }
    if let Some(via) = o.via {
        if !o.nexthops.is_empty() {
            return absent("via", Some(via), "there are several next hops");
        }
        next_hop("via", via, bounds)?;
    }
    for (i, hop) in o.nexthops.iter().enumerate() {
        name("nexthops.port", &hop.port)?;
        next_hop("nexthops.via", hop.via, bounds)?;
        if hop.weight == 0 {
            return Err(refuse("nexthops.weight", 0, "no share", "choose 1 to 255"));
        }
        let same = |other: &NextHop| other.via == hop.via && other.port == hop.port;
        if o.nexthops.iter().take(i).any(same) {
            let hint = "name it once, with a greater weight";
            return Err(refuse("nexthops.via", hop.via, "is there twice", hint));
        }
    }
    Ok(())
}

fn next_hop(field: &'static str, via: IpAddr, bounds: &Bounds) -> Result<(), RpcError> {
    host_address(field, via)?;
    match bounds.gateway.has(via) {
        true => Err(refuse(
            field,
            via,
            "the switch's own gateway address",
            "name the next hop behind the port",
        )),
        false => Ok(()),
    }
}
