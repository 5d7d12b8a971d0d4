// SPDX-License-Identifier: Apache-2.0
//! What one object must be by itself, whatever else there is.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::error::{ErrorCode, RpcError, cut};
use crate::limits::{
    Limits, MAX_INTERFACE_LENGTH, MAX_MTU, MAX_NAME_LENGTH, MAX_SHOWN_LENGTH, MAX_TEXT_LENGTH,
    MAX_VLAN, MAX_VRF, MIN_MTU, MIN_MTU_IPV6,
};
use crate::mac::MacAddr;
use crate::method::Gateway;
use crate::object::{
    Device, FdbEntry, Neighbor, Object, PodRef, Port, Protocol, Route, RouteKind, Rule, Segment,
    Vlan,
};

impl Default for Gateway {
    fn default() -> Self {
        Gateway {
            ipv4: Ipv4Addr::new(169, 254, 1, 1),
            ipv6: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
            mac: MacAddr(*b"\x02podsw"),
        }
    }
}

impl Gateway {
    /// Whether this is one of its addresses.
    pub fn has(&self, address: IpAddr) -> bool {
        address == IpAddr::V4(self.ipv4) || address == IpAddr::V6(self.ipv6)
    }
}

/// What the configuration says about objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// How many there may be.
    pub limits: Limits,
    /// The switch's own addresses.
    pub gateway: Gateway,
    /// MTU of ports that name none, in bytes.
    pub default_mtu: u32,
    /// How many workers there are.
    pub workers: u8,
    /// Whether ports of the kind `memory` may be made.
    pub memory_ports: bool,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            limits: Limits::MAX,
            gateway: Gateway::default(),
            default_mtu: 1500,
            workers: 1,
            memory_ports: false,
        }
    }
}

/// Judges one object by itself.
///
/// # Errors
/// `refused` or `limit`, with the object, the field, the value and what to do.
pub fn check_object(object: &Object, bounds: &Bounds) -> Result<(), RpcError> {
    match object {
        Object::Segment(o) => segment(o, bounds),
        Object::Port(o) => port(o, bounds),
        Object::Neighbor(o) => neighbor(o, bounds),
        Object::Route(o) => route(o, bounds),
        Object::Fdb(o) => fdb(o),
        Object::Rule(o) => rule(o),
    }
    .map_err(|e| locate(e, object))
}

/// Names the object in an error of one of its fields. A name at fault may be long; it is cut.
fn locate(mut error: RpcError, object: &Object) -> RpcError {
    let key = object.key();
    let shown = cut(key.to_string(), MAX_SHOWN_LENGTH);
    error.message = format!("{shown}: {}", error.message);
    let mut data = error.data.take().unwrap_or_default();
    data.kind = Some(object.kind().name().to_owned());
    data.key = Some(cut(key.short(), MAX_SHOWN_LENGTH));
    error.data = Some(data);
    error
}

fn refuse(
    field: &str,
    value: impl Display,
    what: impl Display,
    hint: impl Into<String>,
) -> RpcError {
    let value: String = value.to_string().chars().take(MAX_NAME_LENGTH).collect();
    RpcError::new(ErrorCode::Refused, format!("{field} {value}: {what}"))
        .field(field)
        .value(value)
        .hint(hint)
}

fn segment(o: &Segment, bounds: &Bounds) -> Result<(), RpcError> {
    name("name", &o.name)?;
    if o.id == 0 || o.id > MAX_VRF {
        return Err(refuse(
            "id",
            o.id,
            "out of range",
            format!("choose 1 to {MAX_VRF}"),
        ));
    }
    if !(1..=1_000_000).contains(&o.ageing_seconds) {
        return Err(refuse(
            "ageing_seconds",
            o.ageing_seconds,
            "out of range",
            "choose 1 to 1000000",
        ));
    }
    let most = bounds.limits.fdb_entries_per_segment;
    if o.max_entries == 0 || o.max_entries > most {
        return Err(refuse(
            "max_entries",
            o.max_entries,
            "out of range",
            format!("choose 1 to {most}"),
        ));
    }
    Ok(())
}

fn port(o: &Port, bounds: &Bounds) -> Result<(), RpcError> {
    name("name", &o.name)?;
    device(&o.device, bounds)?;
    vrf(o.vrf)?;
    if let Some(mac) = o.mac {
        station(mac, bounds)?;
    }
    let mtu = o.mtu.unwrap_or(bounds.default_mtu);
    if !(MIN_MTU..=MAX_MTU).contains(&mtu) {
        return Err(refuse(
            "mtu",
            mtu,
            "out of range",
            format!("choose {MIN_MTU} to {MAX_MTU}"),
        ));
    }
    if let Some(worker) = o.worker.filter(|w| *w >= bounds.workers) {
        let hint = format!(
            "choose 0 to {}, or leave it out",
            bounds.workers.saturating_sub(1)
        );
        return Err(refuse("worker", worker, "no such worker", hint));
    }
    if let Some(pod) = &o.pod {
        pod_ref(pod)?;
    }
    match &o.segment {
        Some(membership) => {
            name("segment.name", &membership.name)?;
            if let Some(vlans) = &membership.vlan {
                port_vlans(vlans, bounds)?;
            }
            if let Some(address) = o.addresses.first() {
                return Err(refuse(
                    "addresses",
                    address,
                    "an L2 port has no addresses",
                    "leave out `addresses`, or `segment`",
                ));
            }
            if o.vrf != 0 {
                return Err(refuse(
                    "vrf",
                    o.vrf,
                    "an L2 port is in no VRF",
                    "leave out `vrf`, or `segment`",
                ));
            }
        }
        None => routed(o, mtu, bounds)?,
    }
    Ok(())
}

fn routed(o: &Port, mtu: u32, bounds: &Bounds) -> Result<(), RpcError> {
    if o.mac.is_none() {
        return Err(refuse(
            "mac",
            "(none)",
            "a routed port needs the MAC address of its station",
            "give `mac`, or `segment`",
        ));
    }
    let most = bounds.limits.addresses_per_port;
    if o.addresses.len() > most as usize {
        return Err(RpcError::new(
            ErrorCode::Limit,
            format!("addresses: {} are more than {most}", o.addresses.len()),
        )
        .field("addresses")
        .value(o.addresses.len())
        .hint("raise `limits.addresses_per_port` in the configuration, up to 64, or use a route"));
    }
    for (i, address) in o.addresses.iter().enumerate() {
        host_address("addresses", *address)?;
        if bounds.gateway.has(*address) {
            return Err(refuse(
                "addresses",
                address,
                "the switch's own gateway address",
                "choose another",
            ));
        }
        if o.addresses[..i].contains(address) {
            return Err(refuse("addresses", address, "comes twice", "leave one out"));
        }
        if address.is_ipv6() && mtu < MIN_MTU_IPV6 {
            let hint = format!(
                "choose {MIN_MTU_IPV6} or more, or leave out the IPv6 addresses (RFC 8200 section 5)"
            );
            return Err(refuse("mtu", mtu, "too small for IPv6", hint));
        }
    }
    Ok(())
}

fn device(device: &Device, bounds: &Bounds) -> Result<(), RpcError> {
    match device {
        Device::Veth { interface, .. } => interface_name("device.interface", interface),
        Device::Pcap {
            replay: None,
            record: None,
        } => Err(refuse(
            "device",
            "pcap",
            "neither replays nor records",
            "give `replay`, `record` or both",
        )),
        Device::Pcap { replay, record } => {
            let files = [("device.replay", replay), ("device.record", record)];
            files.into_iter().try_for_each(|(field, file)| {
                file.as_deref().map_or(Ok(()), |f| absolute_path(field, f))
            })?;
            match replay.is_some() && replay == record {
                true => Err(refuse(
                    "device.record",
                    "(same file)",
                    "is the file that is replayed",
                    "record into another file",
                )),
                false => Ok(()),
            }
        }
        Device::Memory {} if bounds.memory_ports => Ok(()),
        Device::Memory {} => Err(refuse(
            "device",
            "memory",
            "made by tests alone",
            "use `veth` or `pcap`",
        )),
    }
}

fn port_vlans(vlans: &Vlan, bounds: &Bounds) -> Result<(), RpcError> {
    let ids = match vlans {
        Vlan::Access(id) => return vlan("segment.vlan", *id),
        Vlan::Trunk(ids) => ids,
    };
    if ids.is_empty() {
        return Err(refuse(
            "segment.vlan",
            "trunk",
            "an empty list",
            "name at least one VLAN",
        ));
    }
    if ids.len() > bounds.limits.vlans_per_port as usize {
        return Err(RpcError::new(
            ErrorCode::Limit,
            format!("segment.vlan: {} VLANs are too many", ids.len()),
        )
        .field("segment.vlan")
        .value(ids.len())
        .hint(format!("the limit is {}", bounds.limits.vlans_per_port)));
    }
    ids.iter().try_for_each(|id| vlan("segment.vlan", *id))?;
    match ids.windows(2).find(|w| w[0] >= w[1]) {
        Some(w) => Err(refuse(
            "segment.vlan",
            w[1],
            "out of order or twice",
            "list every VLAN once, lowest first",
        )),
        None => Ok(()),
    }
}

fn pod_ref(pod: &PodRef) -> Result<(), RpcError> {
    let optional = |t: &Option<String>| t.clone().unwrap_or_default();
    for (field, text) in [
        ("pod.namespace", &pod.namespace),
        ("pod.name", &pod.name),
        ("pod.uid", &optional(&pod.uid)),
        ("pod.container_id", &pod.container_id),
        ("pod.netns", &optional(&pod.netns)),
        ("pod.network", &optional(&pod.network)),
    ] {
        if text.len() > MAX_TEXT_LENGTH || text.chars().any(char::is_control) {
            return Err(refuse(
                field,
                text.escape_debug(),
                "too long, or has control characters",
                "correct it",
            ));
        }
    }
    if pod.container_id.is_empty() {
        return Err(refuse(
            "pod.container_id",
            "\"\"",
            "empty",
            "give the runtime's id of the sandbox",
        ));
    }
    interface_name("pod.ifname", &pod.ifname)
}

fn neighbor(o: &Neighbor, bounds: &Bounds) -> Result<(), RpcError> {
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

fn route(o: &Route, bounds: &Bounds) -> Result<(), RpcError> {
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

fn fdb(o: &FdbEntry) -> Result<(), RpcError> {
    name("segment", &o.segment)?;
    name("port", &o.port)?;
    o.vlan.map_or(Ok(()), |id| vlan("vlan", id))?;
    unicast(o.mac)
}

fn rule(o: &Rule) -> Result<(), RpcError> {
    name("name", &o.name)?;
    name("port", &o.port)?;
    let fields = [("source", o.source), ("destination", o.destination)];
    let mut family = None;
    for (field, net) in fields.iter().filter_map(|(f, n)| n.map(|n| (*f, n))) {
        prefix(field, &net)?;
        let v4 = net.addr().is_ipv4();
        if family.is_some_and(|f| f != v4) {
            return Err(refuse(
                field,
                net,
                "not of the family of the source",
                "give both of one family, or leave one out",
            ));
        }
        family = Some(v4);
    }
    match (o.protocol, family) {
        (Some(Protocol::ICMP), Some(false)) => {
            return Err(refuse(
                "protocol",
                "icmp",
                "the prefix is IPv6",
                "write icmpv6",
            ));
        }
        (Some(Protocol::ICMPV6), Some(true)) => {
            return Err(refuse(
                "protocol",
                "icmpv6",
                "the prefix is IPv4",
                "write icmp",
            ));
        }
        _ => {}
    }
    let Some(ports) = o.ports else { return Ok(()) };
    if ports.first > ports.last {
        return Err(refuse(
            "ports",
            ports,
            "the first is above the last",
            "swap them",
        ));
    }
    match o.protocol {
        Some(p) if p.has_ports() => Ok(()),
        Some(p) => Err(refuse(
            "ports",
            ports,
            format!("protocol {p} has no ports"),
            "leave out `ports`",
        )),
        None => Err(refuse(
            "ports",
            ports,
            "no protocol",
            "give `protocol`: tcp, udp or sctp",
        )),
    }
}

fn name(field: &str, text: &str) -> Result<(), RpcError> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._:/-".contains(c);
    if text.is_empty() || text.len() > MAX_NAME_LENGTH || !text.chars().all(good) {
        let hint = format!("use 1 to {MAX_NAME_LENGTH} characters of A-Z a-z 0-9 . _ : / -");
        return Err(refuse(
            field,
            format!("\"{}\"", text.escape_debug()),
            "not a name",
            hint,
        ));
    }
    Ok(())
}

/// As the kernel's `dev_valid_name` (net/core/dev.c).
fn interface_name(field: &str, text: &str) -> Result<(), RpcError> {
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if text.is_empty()
        || text.len() > MAX_INTERFACE_LENGTH
        || text == "."
        || text == ".."
        || text.chars().any(bad)
    {
        let hint = format!("use 1 to {MAX_INTERFACE_LENGTH} bytes without slash, colon and spaces");
        return Err(refuse(
            field,
            format!("\"{}\"", text.escape_debug()),
            "not an interface name",
            hint,
        ));
    }
    Ok(())
}

fn absolute_path(field: &str, text: &str) -> Result<(), RpcError> {
    if !text.starts_with('/') || text.len() > MAX_TEXT_LENGTH || text.chars().any(char::is_control)
    {
        return Err(refuse(
            field,
            format!("\"{}\"", text.escape_debug()),
            "not an absolute path",
            "begin it with /",
        ));
    }
    Ok(())
}

fn vrf(id: u32) -> Result<(), RpcError> {
    if id > MAX_VRF {
        Err(refuse(
            "vrf",
            id,
            "out of range",
            format!("choose 0 to {MAX_VRF}"),
        ))
    } else {
        Ok(())
    }
}

fn vlan(field: &str, id: u16) -> Result<(), RpcError> {
    match (1..=MAX_VLAN).contains(&id) {
        true => Ok(()),
        false => Err(refuse(
            field,
            id,
            "not a VLAN",
            format!("choose 1 to {MAX_VLAN}"),
        )),
    }
}

fn unicast(mac: MacAddr) -> Result<(), RpcError> {
    match mac.is_unicast() {
        true => Ok(()),
        false => Err(refuse(
            "mac",
            mac,
            "not a station's address",
            "give a unicast address other than zero",
        )),
    }
}

fn station(mac: MacAddr, bounds: &Bounds) -> Result<(), RpcError> {
    match mac == bounds.gateway.mac {
        true => Err(refuse(
            "mac",
            mac,
            "the switch's own gateway address",
            "choose another",
        )),
        false => unicast(mac),
    }
}

fn prefix(field: &str, net: &IpNet) -> Result<(), RpcError> {
    if net.addr() != net.network() {
        return Err(refuse(
            field,
            net,
            "bits beyond the prefix length are set",
            format!("write {}", net.trunc()),
        ));
    }
    mapped(field, net.addr())
}

/// An address that one host can have and that is more than a node's own.
fn host_address(field: &str, address: IpAddr) -> Result<(), RpcError> {
    let what = match address {
        _ if address.is_unspecified() => "unspecified",
        _ if address.is_loopback() => "loopback",
        _ if address.is_multicast() => "multicast",
        IpAddr::V4(a) if a.is_broadcast() => "broadcast",
        IpAddr::V4(a) if a.octets()[0] == 0 || a.octets()[0] >= 240 => "reserved",
        _ => return mapped(field, address),
    };
    Err(refuse(field, address, what, "give the address of a host"))
}

/// IPv4 in IPv6's clothes never appears on a wire (RFC 4291 section 2.5.5.2).
fn mapped(field: &str, address: IpAddr) -> Result<(), RpcError> {
    match address {
        IpAddr::V6(a) => match a.to_ipv4_mapped() {
            Some(v4) => Err(refuse(
                field,
                address,
                "an IPv4-mapped address",
                format!("write {v4}"),
            )),
            None => Ok(()),
        },
        IpAddr::V4(_) => Ok(()),
    }
}
