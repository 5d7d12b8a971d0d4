// SPDX-License-Identifier: Apache-2.0
//! Who may talk to whom: egress of the port a packet comes from, ingress of the port it leaves by.
//!
//! A port's own rules speak first, about each packet by itself. Where none of them matches, the port's network policy decides about
//! the connection: a new one is judged, packets of one that may go on pass, both ways. Where policy says nothing, the port's default does.
//! Passing by without a judgement: a pod's packets to itself, and what the node itself exchanges with its pods (its own
//! addresses behind its own port, nothing that it merely forwards).
//!
//! Rules speak of IP: other frames (ARP within a segment) are not judged. A denied packet is dropped silently.

use std::sync::Arc;

use crate::counters::WorkerCounters;
use crate::ids::{GroupId, PolicyRuleId, RuleId};
use crate::tables::{
    Direction, DirectionPolicy, Peer, PolicyJudgement, PortEntry, PortPolicy, RuleSet, Tables,
};
use crate::verdict::Reason;
use crate::wire::{FlowKey, Fragment, Parsed};

/// What one end says to a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Half {
    /// Why it is dropped; `None` lets it on.
    pub(super) drop: Option<Reason>,
    /// The port's own rule that decided, if one did.
    pub(super) rule: Option<RuleId>,
    /// The policy rule that decided, if one did.
    pub(super) policy: Option<PolicyRuleId>,
    /// Network policy was asked: the packet's connection matters.
    pub(super) stateful: bool,
}

/// How much is known about the connection of a packet that is judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// Nothing: it would be a new one.
    New,
    /// It is one that may go on, or an error about such a one.
    Known,
    /// A later fragment of a packet that nothing is known of.
    Unknowable,
}

/// One end of a connection that is judged.
#[derive(Clone, Copy)]
pub(super) struct End<'t> {
    /// Which way packets pass the port.
    pub(super) direction: Direction,
    /// The port.
    pub(super) port: &'t PortEntry,
    /// The port at the other end, where there is one.
    pub(super) other: Option<&'t PortEntry>,
    /// The group that the other end's packets are marked with, where that is believed.
    pub(super) group: Option<GroupId>,
}

impl<'t> End<'t> {
    fn rules(&self) -> &'t RuleSet {
        match self.direction {
            Direction::Egress => &self.port.egress,
            Direction::Ingress => &self.port.ingress,
        }
    }

    /// The network policy in force, if there is any.
    pub(super) fn policy(&self) -> Option<&'t DirectionPolicy> {
        let policy: &Arc<DirectionPolicy> = match (&self.port.policy, self.direction) {
            (PortPolicy::Judged { egress, .. }, Direction::Egress) => egress,
            (PortPolicy::Judged { ingress, .. }, Direction::Ingress) => ingress,
            (PortPolicy::None | PortPolicy::Pending, _) => return None,
        };
        (!policy.is_empty()).then_some(policy)
    }

    /// The address of the other end.
    fn address<'k>(&self, key: &'k FlowKey) -> &'k [u8; 16] {
        match self.direction {
            Direction::Egress => &key.dst,
            Direction::Ingress => &key.src,
        }
    }

    /// Who the other end is by its group, if that is known.
    pub(super) fn marked(&self, tables: &Tables, key: &FlowKey) -> Option<Peer> {
        tables.marked_peer(self.group?, self.address(key))
    }

    /// Who the other end is. By its address where its group is unknown: the address says no less than without groups. To be judged as nobody
    /// would not be safer, as rules that deny name peers, too.
    pub(super) fn peer(&self, tables: &Tables, key: &FlowKey) -> Peer {
        let marked = self.marked(tables, key);
        marked.unwrap_or_else(|| tables.peer(self.address(key)))
    }

    /// A pod and itself, or a pod and its node.
    pub(super) fn is_exempt(&self, key: &FlowKey) -> bool {
        let peer = self.address(key);
        self.other.is_some_and(|other| {
            other.id == self.port.id || other.node && other.addresses().contains_key(peer)
        })
    }
}

/// Judges a packet at one end; `later` for a later fragment.
pub(super) fn judge(
    tables: &Tables,
    end: End<'_>,
    key: &FlowKey,
    later: bool,
    standing: Standing,
) -> Half {
    if matches!(end.port.policy, PortPolicy::Pending) {
        return Half {
            drop: Some(Reason::PolicyPending),
            ..Half::default()
        };
    }
    let own = judge_own(end.direction, end.rules(), key, later);
    let Some(policy) = end.policy().filter(|_| own.rule.is_none()) else {
        return own;
    };
    if end.is_exempt(key) {
        return Half::default();
    }
    let stateful = Half {
        stateful: true,
        ..Half::default()
    };
    match standing {
        Standing::Known => return stateful,
        Standing::Unknowable => {
            return Half {
                drop: Some(Reason::FragmentUnknown),
                ..stateful
            };
        }
        Standing::New => {}
    }
    let peer = end.peer(tables, key);
    match policy.judge(&peer, key.protocol(), key.dport) {
        PolicyJudgement::Accept(rule) => Half {
            policy: Some(rule),
            ..stateful
        },
        PolicyJudgement::Deny(rule) => Half {
            drop: Some(denied(end.direction)),
            policy: Some(rule),
            ..stateful
        },
        PolicyJudgement::Isolated => Half {
            drop: Some(match end.direction {
                Direction::Egress => Reason::PolicyIsolatedEgress,
                Direction::Ingress => Reason::PolicyIsolatedIngress,
            }),
            ..stateful
        },
        PolicyJudgement::NoMatch => Half {
            stateful: true,
            ..own
        },
    }
}

fn denied(direction: Direction) -> Reason {
    match direction {
        Direction::Egress => Reason::PolicyDeniedEgress,
        Direction::Ingress => Reason::PolicyDeniedIngress,
    }
}

/// What a port's own rules and its default say, to each packet by itself.
fn judge_own(direction: Direction, rules: &RuleSet, key: &FlowKey, later: bool) -> Half {
    let judgement = rules.judge(key, later);
    let drop = match (judgement.allow, judgement.rule) {
        (true, _) => None,
        (false, Some(_)) => Some(denied(direction)),
        (false, None) => Some(match direction {
            Direction::Egress => Reason::PolicyDefaultEgress,
            Direction::Ingress => Reason::PolicyDefaultIngress,
        }),
    };
    Half {
        drop,
        rule: judgement.rule,
        ..Half::default()
    }
}

/// What a port's own rules and its default say to a frame in an L2 segment, where there are no connections.
pub(super) fn judge_frame(port: &PortEntry, direction: Direction, parsed: &Parsed) -> Half {
    if !parsed.is_ip() {
        return Half::default();
    }
    let rules = match direction {
        Direction::Egress => &port.egress,
        Direction::Ingress => &port.ingress,
    };
    let later = parsed.fragment == Fragment::Later;
    judge_own(direction, rules, &parsed.key, later)
}

/// Counts a packet of `bytes` bytes for the port's own rule that decided about it, and says why it is dropped, if it is.
#[inline(always)]
pub(super) fn enforce(counters: &WorkerCounters, half: &Half, bytes: u32) -> Result<(), Reason> {
    if let Some(rule) = half.rule {
        counters.judged(rule, bytes.into());
    }
    half.drop.map_or(Ok(()), Err)
}
