// SPDX-License-Identifier: Apache-2.0
//! Policy: the rules of one port in one direction.
#![forbid(unsafe_code)]

mod matcher;
mod ranges;
mod set;
mod sets;

pub use set::{Judgement, RuleEntry, RuleSet};

use ipnet::IpNet;
use std::fmt;
use std::ops::RangeInclusive;

use crate::wire::protocol;

/// Which way a packet passes a port, as the pod sees it (Kubernetes NetworkPolicy).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Direction {
    /// To the port's station.
    Ingress,
    /// From the port's station.
    Egress,
}

impl Direction {
    /// `ingress` or `egress`.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a rule or a default does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Action {
    /// Let it pass.
    #[default]
    Allow,
    /// Drop it.
    Deny,
}

/// A policy rule. Of the rules of a port and direction the first that matches decides, in the order of priority and,
/// within one priority, of name (bytes). Absent conditions match everything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Unique among the rules of the port and direction; 1 to 128 bytes.
    pub name: String,
    /// Lower ones are looked at first.
    pub priority: u32,
    /// Source address of the packet.
    pub source: Option<IpNet>,
    /// Destination address of the packet, of the same family.
    pub destination: Option<IpNet>,
    /// IP protocol (IPv6: the last one of the header chain).
    pub protocol: Option<u8>,
    /// Destination ports, of TCP, UDP and SCTP; without a protocol, of all three.
    pub ports: Option<RangeInclusive<u16>>,
    /// What becomes of the packet.
    pub action: Action,
}

const _: () = assert!(super::limits::MAX_PORT_RULES <= sets::MAX);

/// Whether a protocol's header begins with ports that rules can name.
pub fn has_ports(protocol: u8) -> bool {
    matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP)
}
