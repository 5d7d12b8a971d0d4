// SPDX-License-Identifier: Apache-2.0
//! Ports and what moves their frames.

use std::fmt::Display;
use std::net::IpAddr;

use ipnet::IpNet;

use super::value::{
    absent, absolute_path, host_address, interface_name, name, prefix, station, vlan, vrf, vrf_in,
};
use super::{Bounds, refuse};
use crate::error::{ErrorCode, RpcError};
use crate::limits::{MAX_MTU, MAX_TEXT_LENGTH, MIN_MTU, MIN_MTU_IPV6};
use crate::object::{
    Device, HOST_POLLED, PodRef, Port, PortMapping, Protocol, SocketMode, Vlan, XdpMode,
};

pub(super) fn port(o: &Port, bounds: &Bounds) -> Result<(), RpcError> {
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
    if o.device.is_nic() || o.device.is_tunnel() || o.is_node() || o.segment.is_some() {
        let why = "ports of the node lead to routed ports of pods";
        absent("host_ports", o.host_ports.first(), why)?;
    }
    if o.device.is_nic() {
        return nic(o);
    }
    if o.device.is_tunnel() {
        return tunnel(o, mtu, bounds);
    }
    if let Device::Host { pods, .. } = &o.device {
        return host(o, pods, mtu, bounds);
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
    host_ports(o)?;
    match o.node {
        true => node(o),
        false => Ok(()),
    }
}

/// Most ports of the node that lead to one port.
const MAX_HOST_PORTS: usize = 64;

/// Ports of the node that lead to a pod.
fn host_ports(o: &Port) -> Result<(), RpcError> {
    if o.host_ports.len() > MAX_HOST_PORTS {
        let what = format!(
            "host_ports: {} are more than {MAX_HOST_PORTS}",
            o.host_ports.len()
        );
        return Err(RpcError::new(ErrorCode::Limit, what)
            .field("host_ports")
            .value(o.host_ports.len())
            .hint("name fewer"));
    }
    for (i, mapping) in o.host_ports.iter().enumerate() {
        host_port(o, mapping)?;
        let mut before = o.host_ports.iter().take(i);
        if let Some(other) = before.find(|other| other.meets(mapping)) {
            let what = format!("leads elsewhere already, by {other}");
            return Err(refuse("host_ports", mapping, what, "leave one out"));
        }
    }
    Ok(())
}

fn host_port(o: &Port, mapping: &PortMapping) -> Result<(), RpcError> {
    if !matches!(mapping.protocol, Protocol::TCP | Protocol::UDP) {
        let what = format!("ports of {} are not led to pods", mapping.protocol);
        let hint = "write tcp or udp, and let others reach the pod by its own address";
        return Err(refuse("host_ports.protocol", mapping, what, hint));
    }
    if mapping.host_port == 0 || mapping.container_port == 0 {
        return Err(refuse("host_ports", mapping, "port 0", "choose 1 to 65535"));
    }
    if let Some(ip) = mapping.host_ip.filter(|ip| !ip.is_unspecified()) {
        host_address("host_ports.host_ip", ip)?;
    }
    let leads = |v4| mapping.has_family(v4) && o.first_address(v4).is_some();
    if !leads(true) && !leads(false) {
        let hint = "give it one, or name a `host_ip` of another family";
        return Err(refuse(
            "host_ports",
            mapping,
            "the port has no address of this family",
            hint,
        ));
    }
    Ok(())
}

/// The node's port: the node is no pod, and is known by addresses of its own.
fn node(o: &Port) -> Result<(), RpcError> {
    let (what, hint) = match (&o.pod, &o.segment) {
        (Some(_), _) => ("the node is no pod", "leave out `node`, or `pod`"),
        (None, Some(_)) => (
            "an L2 port has no addresses, by which the node is known",
            "leave out `node`, or `segment`",
        ),
        (None, None) => return Ok(()),
    };
    Err(refuse("node", true, what, hint))
}

/// The kernel's table of its own addresses (`RT_TABLE_LOCAL`).
const LOCAL_TABLE: u32 = 255;

/// A NIC's port: stations behind it are reached by routes, and what it is itself the kernel says.
fn nic(o: &Port) -> Result<(), RpcError> {
    let of_kernel = "the kernel says what it is, for a NIC";
    absent("mac", o.mac, of_kernel)?;
    absent("mtu", o.mtu, of_kernel)?;
    no_station(
        o,
        "a NIC's port has no addresses; its stations are reached by routes",
        "a NIC's port is routed",
        "behind a NIC is no pod",
        "behind a NIC is a wire, not the node",
    )?;
    match o.device.routes() {
        Some(table) if matches!(table, 0 | LOCAL_TABLE) => {
            let why = "is no table of routes to others";
            Err(refuse(
                "device.routes",
                table,
                why,
                "name another: 254 is main",
            ))
        }
        Some(table) if o.vrf != 0 => {
            let why = "routes of the kernel are for VRF 0, and the port is in another";
            let hint = "leave out `device.routes` or `vrf`";
            Err(refuse("device.routes", table, why, hint))
        }
        _ => Ok(()),
    }
}

/// The host's port: what it is podswitchd makes, and behind it is the node.
fn host(o: &Port, pods: &[IpNet], mtu: u32, bounds: &Bounds) -> Result<(), RpcError> {
    absent("mac", o.mac, "podswitchd makes the host's interface")?;
    let membership = o.segment.as_ref().map(|s| &s.name);
    absent("segment", membership, "the host's port is routed")?;
    let pod = o.pod.as_ref().map(|p| &p.container_id);
    absent("pod", pod, "behind the host's port is the node")?;
    let said = "goes without saying for the host's port";
    absent("node", o.node.then_some(true), said)?;
    if let Some(prefix) = pods
        .iter()
        .find(|p| p.addr().is_ipv6() && mtu < MIN_MTU_IPV6)
    {
        let what = format!("too small for IPv6, which {prefix} is");
        let hint = format!("choose {MIN_MTU_IPV6} or more (RFC 8200 section 5)");
        return Err(refuse("mtu", mtu, what, hint));
    }
    station_addresses(o, mtu, bounds)
}

/// A tunnel's port: its other ends are neighbors, reached by routes.
fn tunnel(o: &Port, mtu: u32, bounds: &Bounds) -> Result<(), RpcError> {
    no_station(
        o,
        "a tunnel's port has no addresses; what is behind it is reached by routes",
        "a tunnel's port is routed",
        "behind a tunnel is no pod of this node",
        "behind a tunnel are other nodes",
    )?;
    routed(o, mtu, bounds)
}

/// Refuses all that says which one station is behind a port, where others are; each for its reason.
fn no_station(
    o: &Port,
    addresses: &str,
    segment: &str,
    pod: &str,
    node: &str,
) -> Result<(), RpcError> {
    absent("addresses", o.addresses.first(), addresses)?;
    absent("segment", o.segment.as_ref().map(|s| &s.name), segment)?;
    absent("pod", o.pod.as_ref().map(|p| &p.container_id), pod)?;
    absent("node", o.node.then_some(true), node)
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
    station_addresses(o, mtu, bounds)
}

fn station_addresses(o: &Port, mtu: u32, bounds: &Bounds) -> Result<(), RpcError> {
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

fn vxlan(vni: u32, udp_port: u16, local: &[IpAddr], underlay: u32) -> Result<(), RpcError> {
    const MAX_VNI: u32 = (1 << 24) - 1;
    if vni > MAX_VNI {
        let hint = format!("choose 0 to {MAX_VNI}");
        return Err(refuse("device.vni", vni, "out of range", hint));
    }
    if udp_port == 0 {
        let hint = "choose 1 to 65535, or leave it out for 4789";
        return Err(refuse("device.udp_port", 0, "no UDP port", hint));
    }
    vrf_in("device.underlay_vrf", underlay)?;
    for (i, address) in local.iter().enumerate() {
        host_address("device.local", *address)?;
        let family = |other: &IpAddr| other.is_ipv4() == address.is_ipv4();
        if local.iter().take(i).any(family) {
            let what = "a second address of its family";
            return Err(refuse("device.local", address, what, "name one of each"));
        }
    }
    Ok(())
}

const UNUSED_EXCEPTION: &str = "nothing is masqueraded, so nothing is excepted";
/// Most prefixes of a list of a device.
const MAX_PREFIXES: usize = 64;
/// Most queues of a list of a device.
const MAX_QUEUES: usize = 1024;

fn host_device(device: &Device) -> Result<(), RpcError> {
    let Device::Host {
        interface,
        pods,
        egress,
        masquerade,
        except,
        ..
    } = device
    else {
        return Ok(());
    };
    interface_name("device.interface", interface)?;
    // It is part of rules of nftables, where some characters mean more.
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if !interface.chars().all(plain) {
        let (what, hint) = ("not plain enough for rules", "use A-Z a-z 0-9 . _ - alone");
        return Err(refuse(
            "device.interface",
            interface.escape_debug(),
            what,
            hint,
        ));
    }
    if interface == HOST_POLLED {
        let what = "the name of the switch's own end";
        return Err(refuse(
            "device.interface",
            interface,
            what,
            "choose another",
        ));
    }
    if pods.is_empty() {
        let (what, hint) = ("the host would reach no pod", "name the prefixes of pods");
        return Err(refuse("device.pods", "(none)", what, hint));
    }
    prefixes("device.pods", pods)?;
    if let Some(all) = pods.iter().find(|p| p.prefix_len() == 0) {
        let (what, hint) = (
            "would be the host's default route",
            "name the prefixes of pods",
        );
        return Err(refuse("device.pods", all, what, hint));
    }
    ways_out(interface, egress)?;
    let unasked = (egress.is_empty() && !masquerade).then_some(false);
    absent(
        "device.masquerade",
        unasked,
        "the host's stack forwards nothing",
    )?;
    prefixes("device.except", except)?;
    let unused = except.first().filter(|_| egress.is_empty() || !masquerade);
    absent("device.except", unused, UNUSED_EXCEPTION)
}

/// Interfaces that the host's stack forwards by.
fn ways_out(interface: &str, egress: &[String]) -> Result<(), RpcError> {
    for (i, name) in egress.iter().enumerate() {
        interface_name("device.egress", name)?;
        let what = match name {
            _ if egress.iter().take(i).any(|n| n == name) => "comes twice",
            _ if [interface, HOST_POLLED].contains(&name.as_str()) => "leads back to the switch",
            _ => continue,
        };
        return Err(refuse("device.egress", name, what, "leave it out"));
    }
    Ok(())
}

fn prefixes(field: &str, all: &[IpNet]) -> Result<(), RpcError> {
    at_most(field, all.len(), MAX_PREFIXES, "name fewer, larger ones")?;
    for (i, net) in all.iter().enumerate() {
        prefix(field, net)?;
        once(field, all, i)?;
    }
    Ok(())
}

fn at_most(field: &str, count: usize, most: usize, hint: &str) -> Result<(), RpcError> {
    if count <= most {
        return Ok(());
    }
    let what = format!("{field}: {count} are more than {most}");
    Err(RpcError::new(ErrorCode::Limit, what)
        .field(field)
        .value(count)
        .hint(hint))
}

/// Whether the one at `at` is not among those before.
fn once<T: PartialEq + Display>(field: &str, all: &[T], at: usize) -> Result<(), RpcError> {
    match all.iter().take(at).any(|other| *other == all[at]) {
        true => Err(refuse(field, &all[at], "comes twice", "leave one out")),
        false => Ok(()),
    }
}

/// Queues of a NIC that are to be in zero-copy mode. Whether the NIC has them is seen when it is opened.
fn zero_copy(device: &Device) -> Result<(), RpcError> {
    let Device::Nic {
        mode,
        zero_copy_queues: queues,
        zero_copy_shared: shared,
        ..
    } = device
    else {
        return Ok(());
    };
    let field = "device.zero_copy_queues";
    at_most(field, queues.len(), MAX_QUEUES, "name fewer")?;
    (0..queues.len()).try_for_each(|at| once(field, queues, at))?;
    let without = shared.then_some(true).filter(|_| queues.is_empty());
    let what = "no queue is in zero-copy mode";
    absent("device.zero_copy_shared", without, what)?;
    let in_driver = matches!(mode, XdpMode::Auto | XdpMode::Native);
    match queues.first().filter(|_| !in_driver) {
        None => Ok(()),
        Some(queue) => {
            let hint = "leave `device.mode` out, or have every queue copied";
            Err(refuse(field, queue, "needs `mode` `native`", hint))
        }
    }
}

fn device(device: &Device, bounds: &Bounds) -> Result<(), RpcError> {
    match device {
        Device::Veth { interface, .. } => interface_name("device.interface", interface),
        Device::Nic {
            interface,
            vlan: tag,
            masquerade,
            except,
            ..
        } => {
            interface_name("device.interface", interface)?;
            tag.map_or(Ok(()), |id| vlan("device.vlan", id))?;
            prefixes("device.except", except)?;
            let unused = except.first().filter(|_| !masquerade);
            absent("device.except", unused, UNUSED_EXCEPTION)?;
            zero_copy(device)
        }
        Device::Host { .. } => host_device(device),
        Device::Vxlan {
            vni,
            udp_port,
            local,
            underlay_vrf,
            ..
        } => vxlan(*vni, *udp_port, local, *underlay_vrf),
        Device::VhostUser {
            socket,
            mode,
            queues,
            gid,
        } => {
            let unused = gid.filter(|_| *mode == SocketMode::Client);
            absent("device.gid", unused, "the frontend makes the socket")?;
            vhost_user(socket, *queues)
        }
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

/// Bytes of a socket's path, without the one that ends it (`struct sockaddr_un` of unix(7)).
const MAX_SOCKET_PATH: usize = 107;
/// Pairs of queues of a virtual machine.
const MAX_PAIRS: u16 = 32;

fn vhost_user(socket: &str, queues: u16) -> Result<(), RpcError> {
    absolute_path("device.socket", socket)?;
    if socket.len() > MAX_SOCKET_PATH {
        let what = format!(
            "{} bytes, and a socket's path has at most {MAX_SOCKET_PATH}",
            socket.len()
        );
        return Err(refuse(
            "device.socket",
            socket,
            what,
            "choose a shorter one",
        ));
    }
    match (1..=MAX_PAIRS).contains(&queues) {
        true => Ok(()),
        false => {
            let hint = format!("choose 1 to {MAX_PAIRS}");
            Err(refuse("device.queues", queues, "out of range", hint))
        }
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
