// SPDX-License-Identifier: Apache-2.0
//! Values that are wrong whatever else the tables hold.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::Edit;
use crate::ids::VrfId;
use crate::tables::limits::{
    AGEING_SECONDS, MAX_CIDRS, MAX_IDENTITIES, MAX_NAME_LENGTH, MAX_NEXT_HOPS, MAX_PORT_ADDRESSES,
    MAX_PORTS, MAX_SEGMENT_ENTRIES, MAX_VRF_ID, MAX_WORKERS, MIN_IPV6_MTU, MTU, VLANS,
};
use crate::tables::route::host;
use crate::tables::{
    FdbKey, Gateway, NextHop, PortKindSpec, PortSpec, Route, RouteKey, Rule, SegmentSpec,
    TableError, TunnelSpec, Vlan, has_ports,
};
use crate::wire::MacAddr;
use crate::wire::vxlan::MAX_VNI;

/// How errors name a port.
pub(super) fn port_name(port: &PortSpec) -> String {
    format!("port {} \"{}\"", port.id, port.name)
}

/// How errors name a segment.
pub(super) fn segment_name(segment: &SegmentSpec) -> String {
    format!("segment {} \"{}\"", segment.id, segment.name)
}

impl Edit {
    /// Refuses values that are wrong by themselves.
    pub(super) fn check_values(&self) -> Result<(), TableError> {
        let gateway = self.base.gateway();
        for port in self.ports.values().flatten() {
            check_port(port, gateway)?;
        }
        for (key, route) in &self.routes {
            if let Some(route) = route {
                check_route(key, route)?;
            }
        }
        for (key, mac) in &self.neighbors {
            if let Some(mac) = mac {
                vrf(key, key.vrf)?;
                station_address(key, key.address)?;
                station_mac(key, *mac, gateway)?;
            }
        }
        for segment in self.segments.values().flatten() {
            check_segment(segment)?;
        }
        for (key, port) in &self.fdb {
            if port.is_some() {
                check_fdb(key)?;
            }
        }
        for ((port, direction), rules) in &self.rules {
            for rule in rules.values().flatten() {
                check_rule(
                    &format!("{direction} rule \"{}\" of port {port}", rule.name),
                    rule,
                )?;
            }
        }
        for (id, class) in &self.identities {
            if let Some(class) = class {
                let object = format!("identity {id}");
                below(&object, "number", id.index(), MAX_IDENTITIES)?;
                below(&object, "peer class", class.index(), MAX_IDENTITIES)?;
            }
        }
        for address in self.peers.keys() {
            unmapped(format!("peer {address}"), "address", host(*address))?;
        }
        for (cidr, class) in &self.cidrs {
            let object = format!("CIDR {cidr}");
            prefix(&object, "prefix", *cidr)?;
            if let Some(class) = class {
                below(&object, "class", class.index(), MAX_CIDRS)?;
            }
        }
        Ok(())
    }
}

fn check_port(port: &PortSpec, gateway: &Gateway) -> Result<(), TableError> {
    let object = &port_name(port);
    name(object, &port.name)?;
    below(object, "id", port.id.index(), MAX_PORTS)?;
    below(object, "worker", port.worker.index(), MAX_WORKERS)?;
    mtu(object, port.mtu, false)?;
    match &port.kind {
        PortKindSpec::Routed { vrf: id, addresses } => {
            vrf(object, *id)?;
            station_mac(object, port.mac, gateway)?;
            if addresses.len() > MAX_PORT_ADDRESSES {
                return Err(TableError::limit(
                    object,
                    "addresses",
                    addresses.len(),
                    MAX_PORT_ADDRESSES,
                ));
            }
            for (i, address) in addresses.iter().enumerate() {
                station_address(object, *address)?;
                if gateway.owns(*address) {
                    let problem = "is the gateway's";
                    return Err(TableError::invalid(object, "address", address, problem));
                }
                mtu(object, port.mtu, address.is_ipv6())?;
                if addresses.iter().take(i).any(|a| a == address) {
                    return Err(TableError::invalid(
                        object,
                        "address",
                        address,
                        "is there twice",
                    ));
                }
            }
        }
        PortKindSpec::Uplink {
            vrf: id, addresses, ..
        } => {
            vrf(object, *id)?;
            station_mac(object, port.mac, gateway)?;
            for address in addresses {
                station_address(object, *address)?;
            }
        }
        PortKindSpec::Tunnel { vrf: id, tunnel } => {
            vrf(object, *id)?;
            station_mac(object, port.mac, gateway)?;
            check_tunnel(object, tunnel)?;
        }
        PortKindSpec::L2 {
            segment,
            vlan: vlans,
            fixed_mac,
        } => {
            segment_id(object, *segment)?;
            if *fixed_mac || !port.mac.is_zero() {
                station_mac(object, port.mac, gateway)?;
            }
            match vlans {
                Vlan::None => {}
                Vlan::Access(id) => vlan(object, *id)?,
                Vlan::Trunk(set) if set.is_empty() => {
                    return Err(TableError::invalid(
                        object,
                        "trunk",
                        "{}",
                        "has no VLAN; name one",
                    ));
                }
                Vlan::Trunk(_) => {}
            }
        }
    }
    Ok(())
}

fn check_tunnel(object: &str, tunnel: &TunnelSpec) -> Result<(), TableError> {
    vrf(object, tunnel.underlay)?;
    if tunnel.vni > MAX_VNI {
        let problem = format!("is above {MAX_VNI}");
        return Err(TableError::invalid(object, "VNI", tunnel.vni, problem));
    }
    if tunnel.port == 0 {
        return Err(TableError::invalid(object, "UDP port", 0, "is 0"));
    }
    let local = [
        tunnel.local_v4.map(IpAddr::V4),
        tunnel.local_v6.map(IpAddr::V6),
    ];
    for address in local.into_iter().flatten() {
        station_address(object, address)?;
    }
    Ok(())
}

fn check_route(key: &RouteKey, route: &Route) -> Result<(), TableError> {
    vrf(key, key.vrf)?;
    prefix(key, "prefix", key.prefix)?;
    let largest = match route {
        Route::Unicast { via, mtu, .. } => {
            if let Some(via) = via {
                station_address(key, *via)?;
            }
            *mtu
        }
        Route::Multipath { hops, mtu } => {
            check_hops(key, hops)?;
            *mtu
        }
        Route::Blackhole | Route::Unreachable | Route::Prohibit => None,
    };
    if let Some(largest) = largest {
        mtu(key, largest, key.prefix.addr().is_ipv6())?;
    }
    Ok(())
}

fn check_hops(key: &RouteKey, hops: &[NextHop]) -> Result<(), TableError> {
    if !(2..=MAX_NEXT_HOPS).contains(&hops.len()) {
        let problem = format!("is not from 2 to {MAX_NEXT_HOPS}");
        return Err(TableError::invalid(
            key,
            "number of next hops",
            hops.len(),
            problem,
        ));
    }
    for (i, hop) in hops.iter().enumerate() {
        station_address(key, hop.via)?;
        if hop.weight == 0 {
            let problem = "is not from 1 to 255";
            return Err(TableError::invalid(key, "weight", hop.weight, problem));
        }
        let same = |other: &NextHop| (other.port, other.via) == (hop.port, hop.via);
        if hops.iter().take(i).any(same) {
            return Err(TableError::invalid(
                key,
                "next hop",
                hop.via,
                "is there twice",
            ));
        }
    }
    Ok(())
}

fn check_segment(segment: &SegmentSpec) -> Result<(), TableError> {
    let object = &segment_name(segment);
    name(object, &segment.name)?;
    segment_id(object, segment.id)?;
    if !AGEING_SECONDS.contains(&segment.ageing_seconds) {
        let problem = "is not from 1 to 1000000 seconds";
        return Err(TableError::invalid(
            object,
            "ageing time",
            segment.ageing_seconds,
            problem,
        ));
    }
    if !(1..=MAX_SEGMENT_ENTRIES).contains(&segment.max_entries) {
        let problem = format!("is not from 1 to {MAX_SEGMENT_ENTRIES}");
        return Err(TableError::invalid(
            object,
            "largest number of entries",
            segment.max_entries,
            problem,
        ));
    }
    Ok(())
}

fn check_fdb(key: &FdbKey) -> Result<(), TableError> {
    segment_id(key, key.segment)?;
    if key.vlan != 0 {
        vlan(key, key.vlan)?;
    }
    if !key.mac.is_unicast() {
        return Err(TableError::invalid(
            key,
            "MAC address",
            key.mac,
            "is not unicast",
        ));
    }
    Ok(())
}

fn check_rule(object: &str, rule: &Rule) -> Result<(), TableError> {
    name(object, &rule.name)?;
    if let Some(source) = rule.source {
        prefix(object, "source", source)?;
    }
    if let Some(destination) = rule.destination {
        prefix(object, "destination", destination)?;
        if rule
            .source
            .is_some_and(|s| s.addr().is_ipv4() != destination.addr().is_ipv4())
        {
            let problem = "is not of the source's address family";
            return Err(TableError::invalid(
                object,
                "destination",
                destination,
                problem,
            ));
        }
    }
    if let Some(ports) = &rule.ports {
        let value = || format!("{}-{}", ports.start(), ports.end());
        if ports.is_empty() {
            return Err(TableError::invalid(
                object,
                "ports",
                value(),
                "end before they begin",
            ));
        }
        if let Some(protocol) = rule.protocol.filter(|p| !has_ports(*p)) {
            let problem = format!("mean nothing to protocol {protocol}; use tcp, udp or sctp");
            return Err(TableError::invalid(object, "ports", value(), problem));
        }
    }
    Ok(())
}

fn name(object: &str, name: &str) -> Result<(), TableError> {
    match name.len() {
        1..=MAX_NAME_LENGTH => Ok(()),
        length => {
            let problem = format!("is {length} bytes long; 1 to {MAX_NAME_LENGTH} are allowed");
            Err(TableError::invalid(object, "name", name, problem))
        }
    }
}

fn below(object: &str, field: &'static str, value: usize, end: usize) -> Result<(), TableError> {
    match value < end {
        true => Ok(()),
        false => Err(TableError::invalid(
            object,
            field,
            value,
            format!("is not below {end}"),
        )),
    }
}

fn vrf(object: impl ToString, id: VrfId) -> Result<(), TableError> {
    match id.0 <= MAX_VRF_ID {
        true => Ok(()),
        false => Err(TableError::invalid(
            object,
            "VRF",
            id,
            format!("is above {MAX_VRF_ID}"),
        )),
    }
}

fn segment_id(object: impl ToString, id: VrfId) -> Result<(), TableError> {
    match (1..=MAX_VRF_ID).contains(&id.0) {
        true => Ok(()),
        false => {
            let problem = format!("is not from 1 to {MAX_VRF_ID}");
            Err(TableError::invalid(object, "segment id", id, problem))
        }
    }
}

fn vlan(object: impl ToString, id: u16) -> Result<(), TableError> {
    match VLANS.contains(&id) {
        true => Ok(()),
        false => Err(TableError::invalid(
            object,
            "VLAN",
            id,
            "is not from 1 to 4094",
        )),
    }
}

fn mtu(object: impl ToString, mtu: u32, ipv6: bool) -> Result<(), TableError> {
    let smallest = if ipv6 { MIN_IPV6_MTU } else { *MTU.start() };
    match (smallest..=*MTU.end()).contains(&mtu) {
        true => Ok(()),
        false => {
            let family = if ipv6 { " (IPv6)" } else { "" };
            let problem = format!("is not from {smallest} to {} bytes{family}", MTU.end());
            Err(TableError::invalid(object, "MTU", mtu, problem))
        }
    }
}

/// Refuses prefixes with host bits, and IPv4-mapped ones.
fn prefix(object: impl ToString, field: &'static str, prefix: IpNet) -> Result<(), TableError> {
    if prefix != prefix.trunc() {
        let problem = format!("has bits beyond its length; write {}", prefix.trunc());
        return Err(TableError::invalid(object, field, prefix, problem));
    }
    unmapped(object, field, prefix)
}

/// Refuses what a flow key cannot tell from IPv4.
fn unmapped(object: impl ToString, field: &'static str, prefix: IpNet) -> Result<(), TableError> {
    match prefix {
        IpNet::V6(p) if p.prefix_len() >= 96 && p.addr().to_ipv4_mapped().is_some() => Err(
            TableError::invalid(object, field, prefix, "is IPv4-mapped; write it as IPv4"),
        ),
        _ => Ok(()),
    }
}

/// Refuses what cannot be a station's own address.
fn station_address(object: impl ToString, address: IpAddr) -> Result<(), TableError> {
    let problem = match address {
        _ if address.is_unspecified() => "is unspecified",
        _ if address.is_multicast() => "is multicast",
        _ if address.is_loopback() => "is loopback",
        IpAddr::V4(Ipv4Addr::BROADCAST) => "is broadcast",
        IpAddr::V6(a) if a.to_ipv4_mapped().is_some() => "is IPv4-mapped; write it as IPv4",
        _ => return Ok(()),
    };
    Err(TableError::invalid(object, "address", address, problem))
}

/// Refuses what cannot be a station's own MAC address.
fn station_mac(object: impl ToString, mac: MacAddr, gateway: &Gateway) -> Result<(), TableError> {
    let problem = match mac {
        _ if mac == gateway.mac => "is the gateway's",
        _ if !mac.is_unicast() => "is not unicast",
        _ => return Ok(()),
    };
    Err(TableError::invalid(object, "MAC address", mac, problem))
}
