// SPDX-License-Identifier: Apache-2.0
//! Policy of one port in one direction: static rules, and policy by who the peer is.
#![forbid(unsafe_code)]

mod chunk;
mod direction;
mod matcher;
mod ranges;
mod set;
mod sets;

pub use direction::{DirectionPolicy, PolicyAction, PolicyJudgement, PolicyRule, PortMatch, Tier};
pub use set::{Judgement, RuleEntry, RuleSet};

use ipnet::IpNet;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::tables::trie::allocation;
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

/// A static rule. Of the rules of a port and direction the first that matches decides, in the order of priority and,
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

/// What policy by peer a port has.
#[derive(Clone, Debug, Default)]
pub enum PortPolicy {
    /// None: static rules and defaults decide alone.
    #[default]
    None,
    /// Not known yet: the port is closed until it is.
    Pending,
    /// Compiled.
    Judged {
        /// For connections from the port's station.
        egress: Arc<DirectionPolicy>,
        /// For connections to it.
        ingress: Arc<DirectionPolicy>,
    },
}

impl PortPolicy {
    /// Whether both are the same, not merely equal.
    pub(crate) fn is(&self, other: &PortPolicy) -> bool {
        match (self, other) {
            (PortPolicy::None, PortPolicy::None) | (PortPolicy::Pending, PortPolicy::Pending) => {
                true
            }
            (
                PortPolicy::Judged { egress, ingress },
                PortPolicy::Judged {
                    egress: other_egress,
                    ingress: other_ingress,
                },
            ) => Arc::ptr_eq(egress, other_egress) && Arc::ptr_eq(ingress, other_ingress),
            _ => false,
        }
    }

    pub(crate) fn visit_allocations(&self, f: &mut dyn FnMut(usize, usize)) {
        let PortPolicy::Judged { egress, ingress } = self else {
            return;
        };
        for direction in [egress, ingress] {
            allocation(direction, f);
            direction.visit_allocations(f);
        }
    }
}
