// SPDX-License-Identifier: Apache-2.0
//! Policy rules.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::schema::Prefix;

/// A policy rule of a port. Of the rules of a port and direction the first that matches decides, in the order of priority and, within
/// one priority, of name; where none matches, the port's default does. Absent conditions match everything.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Rule {
    /// Unique name: 1 to 128 characters of `A-Z a-z 0-9 . _ : / -`.
    pub name: String,
    /// Name of the port it protects.
    pub port: String,
    /// Frames from the port (egress) or to it (ingress).
    pub direction: Direction,
    /// Lower ones are looked at first.
    pub priority: u32,
    /// Source address of the packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Prefix>")]
    #[serde(deserialize_with = "crate::text::optional_prefix")]
    pub source: Option<IpNet>,
    /// Destination address of the packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Prefix>")]
    #[serde(deserialize_with = "crate::text::optional_prefix")]
    pub destination: Option<IpNet>,
    /// Transport protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Destination ports, of TCP, UDP and SCTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<PortRange>,
    /// What becomes of the frame.
    pub action: Action,
}

/// Which way a frame passes a port, as the pod sees it (Kubernetes NetworkPolicy).
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, JsonSchema,
)]
#[serde(remote = "Self", rename_all = "snake_case")]
pub enum Direction {
    /// To the port's station.
    Ingress,
    /// From the port's station.
    Egress,
}

impl Direction {
    /// Name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        }
    }
}

/// What a rule or a default does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "snake_case")]
pub enum Action {
    /// Let it pass.
    #[default]
    Allow,
    /// Drop it.
    Deny,
}

impl Action {
    /// Name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Action::Allow => "allow",
            Action::Deny => "deny",
        }
    }
}

/// An inclusive range of transport ports.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, JsonSchema,
)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port, not below the first.
    pub last: u16,
}

impl From<PortRange> for std::ops::RangeInclusive<u16> {
    fn from(range: PortRange) -> Self {
        range.first..=range.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// A transport protocol by its IANA number, written by name where it has one here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Protocol(pub u8);

impl Protocol {
    /// RFC 792.
    pub const ICMP: Protocol = Protocol(1);
    /// RFC 9293.
    pub const TCP: Protocol = Protocol(6);
    /// RFC 768.
    pub const UDP: Protocol = Protocol(17);
    /// RFC 4443.
    pub const ICMPV6: Protocol = Protocol(58);
    /// RFC 9260.
    pub const SCTP: Protocol = Protocol(132);

    const NAMES: [(&'static str, Protocol); 5] = [
        ("icmp", Self::ICMP),
        ("tcp", Self::TCP),
        ("udp", Self::UDP),
        ("icmpv6", Self::ICMPV6),
        ("sctp", Self::SCTP),
    ];

    /// Its name, when it has one here.
    pub fn name(self) -> Option<&'static str> {
        Self::NAMES
            .iter()
            .find(|(_, p)| *p == self)
            .map(|(n, _)| *n)
    }

    /// Whether its header begins with source and destination ports that rules can name.
    pub fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::SCTP)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

/// The text names no protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a protocol; write tcp, udp, sctp, icmp, icmpv6 or a number from 0 to 255")]
pub struct ParseProtocolError(String);

impl FromStr for Protocol {
    type Err = ParseProtocolError;

    fn from_str(text: &str) -> Result<Self, ParseProtocolError> {
        if let Some((_, p)) = Self::NAMES.iter().find(|(n, _)| *n == text) {
            return Ok(*p);
        }
        text.parse()
            .map(Protocol)
            .map_err(|_| ParseProtocolError(text.chars().take(64).collect()))
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.name() {
            Some(name) => serializer.serialize_str(name),
            None => serializer.serialize_u8(self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Protocol;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tcp, udp, sctp, icmp, icmpv6 or a number from 0 to 255")
            }

            fn visit_str<E: de::Error>(self, v: &str) -> Result<Protocol, E> {
                v.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Protocol, E> {
                u8::try_from(v)
                    .map(Protocol)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(v), &self))
            }

            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Protocol, E> {
                u8::try_from(v)
                    .map(Protocol)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(v), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Protocol {
    fn schema_name() -> Cow<'static, str> {
        "Protocol".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A transport protocol by name or IANA number.",
            "anyOf": [
                {"type": "string", "pattern": "^(tcp|udp|sctp|icmp|icmpv6|[0-9]{1,3})$"},
                {"type": "integer", "minimum": 0, "maximum": 255}
            ]
        })
    }
}

crate::by_name!(Rule, PortRange);

crate::by_word!(Direction, Action);
