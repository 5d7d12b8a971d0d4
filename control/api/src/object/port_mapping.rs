// SPDX-License-Identifier: Apache-2.0
//! Ports of the node that lead to pods.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rule::Protocol;

/// A port of the node's addresses that leads to one of a pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct PortMapping {
    /// TCP by default, or UDP.
    #[serde(default = "tcp")]
    pub protocol: Protocol,
    /// The node's address; none, or the unspecified one of a family: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "crate::text::optional_address")]
    pub host_ip: Option<IpAddr>,
    /// The port there, 1 to 65535.
    pub host_port: u16,
    /// The pod's port, 1 to 65535, at its first address of the family.
    pub container_port: u16,
}

fn tcp() -> Protocol {
    Protocol::TCP
}

impl PortMapping {
    /// The node's address, unless it is every one.
    fn one_address(&self) -> Option<IpAddr> {
        self.host_ip.filter(|ip| !ip.is_unspecified())
    }

    /// Whether it is a way from addresses of a family: IPv4, or else IPv6.
    pub fn has_family(&self, v4: bool) -> bool {
        self.host_ip.is_none_or(|ip| ip.is_ipv4() == v4)
    }

    /// Whether a packet could be for this one and the other.
    pub fn meets(&self, other: &PortMapping) -> bool {
        let same = |m: &PortMapping| (m.protocol, m.host_port);
        let family = |v4| self.has_family(v4) && other.has_family(v4);
        let address = match (self.one_address(), other.one_address()) {
            (Some(a), Some(b)) => a == b,
            _ => family(true) || family(false),
        };
        same(self) == same(other) && address
    }
}

impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (protocol, from, to) = (self.protocol, self.host_port, self.container_port);
        match self.host_ip {
            Some(ip) => write!(f, "{protocol}/{}:{to}", SocketAddr::new(ip, from)),
            None => write!(f, "{protocol}/{from}:{to}"),
        }
    }
}

/// The text is no mapping of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no mapping of ports; write [PROTOCOL/][ADDRESS:]PORT:PORT, such as 8080:80 or udp/192.0.2.1:53:5353"
)]
pub struct ParsePortMappingError(String);

impl FromStr for PortMapping {
    type Err = ParsePortMappingError;

    fn from_str(text: &str) -> Result<Self, ParsePortMappingError> {
        let read = || {
            let (protocol, rest) = text.split_once('/').unwrap_or(("tcp", text));
            let (from, to) = rest.rsplit_once(':')?;
            let (host_ip, host_port) = match from.parse() {
                Ok(port) => (None, port),
                Err(_) => from
                    .parse()
                    .ok()
                    .map(|at: SocketAddr| (Some(at.ip()), at.port()))?,
            };
            Some(PortMapping {
                protocol: protocol.parse().ok()?,
                host_ip,
                host_port,
                container_port: to.parse().ok()?,
            })
        };
        read().ok_or_else(|| ParsePortMappingError(text.chars().take(64).collect()))
    }
}

crate::by_name!(PortMapping);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host_ip: Option<&str>, host_port: u16) -> PortMapping {
        PortMapping {
            protocol: Protocol::TCP,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            host_port,
            container_port: 80,
        }
    }

    #[test]
    fn mappings_meet_where_a_packet_could_be_for_both() {
        for (one, other, meet) in [
            (at(None, 80), at(None, 80), true),
            (at(None, 80), at(None, 81), false),
            (at(None, 80), at(Some("192.0.2.1"), 80), true),
            (at(Some("0.0.0.0"), 80), at(Some("192.0.2.1"), 80), true),
            (at(Some("::"), 80), at(Some("192.0.2.1"), 80), false),
            (at(Some("::"), 80), at(Some("0.0.0.0"), 80), false),
            (at(Some("192.0.2.2"), 80), at(Some("192.0.2.1"), 80), false),
            (at(Some("192.0.2.1"), 80), at(Some("192.0.2.1"), 80), true),
        ] {
            assert_eq!(one.meets(&other), meet, "{one} {other}");
            assert_eq!(other.meets(&one), meet, "{other} {one}");
        }
        let udp = PortMapping {
            protocol: Protocol::UDP,
            ..at(None, 80)
        };
        assert!(!udp.meets(&at(None, 80)));
    }

    #[test]
    fn mappings_are_read_as_they_are_written() {
        for text in [
            "tcp/8080:80",
            "udp/192.0.2.1:8080:80",
            "tcp/[2001:db8::1]:8080:80",
        ] {
            let mapping: PortMapping = text.parse().unwrap();
            assert_eq!(mapping.to_string(), text);
        }
        assert_eq!("8080:80".parse::<PortMapping>().unwrap(), at(None, 8080));
        for bad in [
            "",
            "80",
            "80:",
            ":80",
            "http/80:80",
            "tcp/2001:db8::1:80:80",
            "70000:80",
            "a:1:2",
        ] {
            let e = bad.parse::<PortMapping>().unwrap_err();
            assert!(e.to_string().starts_with(&format!("\"{bad}\"")), "{e}");
        }
    }
}
