// SPDX-License-Identifier: Apache-2.0
//! Ports of the node that lead to pods: what they are to the tables and to the programs of NICs, and whether the host has them itself.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use podswitch_api::object::{Object, Port, PortMapping, Protocol};
use podswitch_datapath::VrfId;
use podswitch_datapath::port::xdp::HostPort;
use podswitch_datapath::tables::{Edit, HostPortKey};
use podswitch_datapath::wire::flow_key::{map_ip, to_ip};
use podswitch_datapath::wire::translate::Endpoint;
use podswitch_host::ports::Held;

/// The ways of a mapping, at most one for each family that it and the pod have.
fn ways<'a>(
    port: &'a Port,
    mapping: &'a PortMapping,
) -> impl Iterator<Item = (HostPort, Endpoint)> + use<'a> {
    let families = [true, false].into_iter();
    families.filter_map(|v4| {
        let to = port.first_address(v4).filter(|_| mapping.has_family(v4))?;
        let all: IpAddr = match v4 {
            true => Ipv4Addr::UNSPECIFIED.into(),
            false => Ipv6Addr::UNSPECIFIED.into(),
        };
        let at = HostPort {
            address: mapping.host_ip.unwrap_or(all),
            protocol: mapping.protocol.0,
            port: mapping.host_port,
        };
        let to = Endpoint {
            address: map_ip(to),
            port: mapping.container_port,
        };
        Some((at, to))
    })
}

/// Ports of the node that lead to a port.
pub fn of_port(port: &Port) -> BTreeSet<HostPort> {
    let all = port.host_ports.iter();
    all.flat_map(|m| ways(port, m)).map(|(at, _)| at).collect()
}

/// Where ports of the node lead that lead to a port.
pub fn leads(port: &Port) -> impl Iterator<Item = (HostPort, SocketAddr)> + use<'_> {
    let all = port.host_ports.iter().flat_map(|m| ways(port, m));
    all.map(|(at, to)| (at, SocketAddr::new(to_ip(&to.address), to.port)))
}

/// Puts them into an edit, or takes them out of it.
pub fn put(edit: &mut Edit, object: &Option<Object>, lead: bool) {
    let Some(Object::Port(port)) = object else {
        return;
    };
    for (at, to) in port.host_ports.iter().flat_map(|m| ways(port, m)) {
        let key = HostPortKey {
            vrf: VrfId(port.vrf),
            protocol: at.protocol,
            port: at.port,
            address: at.address,
        };
        edit.set_host_port(key, lead.then_some(to));
    }
}

/// The socket of the host that waits for what a mapping would lead to a pod.
pub fn holder<'a>(mapping: &PortMapping, waiting: &'a [Held]) -> Option<&'a Held> {
    let named = mapping.host_ip.filter(|ip| !ip.is_unspecified());
    let waits = |held: &&Held| {
        let ip = held.local.ip().to_canonical();
        // A socket at the unspecified address of IPv6 may hear both families.
        let family = ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED) || mapping.has_family(ip.is_ipv4());
        let address = ip.is_unspecified() || named.is_none_or(|named| named == ip);
        let protocol = match mapping.protocol {
            Protocol::TCP => "tcp",
            _ => "udp",
        };
        // What is to loopback comes by no wire.
        held.local.port() == mapping.host_port
            && held.protocol == protocol
            && !ip.is_loopback()
            && family
            && address
    };
    waiting.iter().find(waits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(protocol: &'static str, local: &str) -> Held {
        Held {
            protocol,
            local: local.parse().unwrap(),
        }
    }

    #[test]
    fn a_socket_holds_what_it_would_hear() {
        for (mapping, protocol, local, holds) in [
            ("8080:80", "tcp", "0.0.0.0:8080", true),
            ("8080:80", "tcp", "[::]:8080", true),
            ("8080:80", "tcp", "192.0.2.1:8080", true),
            ("8080:80", "tcp", "127.0.0.1:8080", false),
            ("8080:80", "tcp", "[::1]:8080", false),
            ("8080:80", "tcp", "0.0.0.0:80", false),
            ("8080:80", "udp", "0.0.0.0:8080", false),
            ("udp/8080:80", "udp", "0.0.0.0:8080", true),
            ("192.0.2.1:8080:80", "tcp", "0.0.0.0:8080", true),
            ("192.0.2.1:8080:80", "tcp", "[::]:8080", true),
            ("192.0.2.1:8080:80", "tcp", "[::ffff:192.0.2.1]:8080", true),
            ("192.0.2.1:8080:80", "tcp", "192.0.2.2:8080", false),
            ("[::]:8080:80", "tcp", "0.0.0.0:8080", false),
            ("[::]:8080:80", "tcp", "[2001:db8::1]:8080", true),
            ("0.0.0.0:8080:80", "tcp", "[2001:db8::1]:8080", false),
        ] {
            let mapping: PortMapping = mapping.parse().unwrap();
            let waiting = [waits("tcp", "0.0.0.0:22"), waits(protocol, local)];
            assert_eq!(
                holder(&mapping, &waiting).is_some(),
                holds,
                "{mapping} {protocol} {local}"
            );
        }
    }
}
