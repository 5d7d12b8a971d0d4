// SPDX-License-Identifier: Apache-2.0
//! Policy rules.

use super::refuse;
use super::value::{name, prefix};
use crate::error::RpcError;
use crate::object::{Protocol, Rule};

pub(super) fn rule(o: &Rule) -> Result<(), RpcError> {
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
