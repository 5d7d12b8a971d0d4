// SPDX-License-Identifier: Apache-2.0
//! Policy by who the peer is, of one port in one direction.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::ops::RangeInclusive;

use super::chunk::{ANY_PEER, Chunk, Query, Slot};
use super::sets::MAX;
use crate::ids::{CidrClass, MAX_POLICY_RULES, MAX_RULES, PeerClass, PolicyRuleId};
use crate::tables::limits::{MAX_CIDRS, MAX_IDENTITIES};
use crate::tables::{Peer, TableError};

/// Which rules are looked at first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Tier {
    /// Of administrators, before all others.
    Admin,
    /// Of NetworkPolicies.
    Network,
    /// Of administrators, where no NetworkPolicy isolates.
    Baseline,
}

impl Tier {
    /// `admin`, `network` or `baseline`.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Admin => "admin",
            Tier::Network => "network",
            Tier::Baseline => "baseline",
        }
    }
}

/// What a policy rule does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PolicyAction {
    /// Let the connection pass.
    Accept,
    /// Drop it.
    Deny,
    /// Look at no more rules of this tier. Not for [`Tier::Network`].
    Pass,
}

/// Destination ports of a protocol.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortMatch {
    /// IP protocol. Without ports ([`has_ports`](super::has_ports)), nothing matches.
    pub protocol: u8,
    /// First and last port.
    pub ports: RangeInclusive<u16>,
}

/// A policy rule. Which peers it is for, [`DirectionPolicy::new`] is told beside it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicyRule {
    /// Where it counts.
    pub id: PolicyRuleId,
    /// Its tier.
    pub tier: Tier,
    /// What becomes of a connection that it matches.
    pub action: PolicyAction,
    /// It is for every peer, known or not.
    pub any_peer: bool,
    /// It is for peers that are of one of its classes and have one of its CIDR classes; else either will do.
    pub both: bool,
    /// The ports it is for; empty: every protocol and port.
    pub ports: Vec<PortMatch>,
}

/// What policy says to a new connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PolicyJudgement {
    /// It passes, by this rule.
    Accept(PolicyRuleId),
    /// It is dropped, by this rule.
    Deny(PolicyRuleId),
    /// It is dropped: a NetworkPolicy isolates the pod in this direction, and none accepts it.
    Isolated,
    /// Nothing: what else the port has decides.
    NoMatch,
}

/// The policy of one port in one direction, compiled; ports with the same policy share it.
#[derive(Debug)]
pub struct DirectionPolicy {
    /// In the order in which they are looked at.
    rules: Box<[PolicyRule]>,
    isolated: bool,
    /// Where the rules behind the Admin tier begin.
    admin_end: usize,
    /// Slots by class; those behind the end have no rules but those for every peer.
    classes: Box<[Slot]>,
    cidrs: Box<[Slot]>,
    /// [`MAX`] rules each.
    chunks: Box<[Chunk]>,
}

impl DirectionPolicy {
    /// Of rules in the order in which they are looked at, all of [`Tier::Admin`] first and all of [`Tier::Baseline`]
    /// last. `peers` and `cidrs` say for which classes which rules are, as indices into `rules`; rules for any peer
    /// need not be among them. `isolated`: what no rule of [`Tier::Network`] matches is denied.
    pub fn new(
        rules: Vec<PolicyRule>,
        isolated: bool,
        peers: &[(PeerClass, Vec<u32>)],
        cidrs: &[(CidrClass, Vec<u32>)],
    ) -> Result<DirectionPolicy, TableError> {
        check_rules(&rules)?;
        let mut slots = Slots::new(rules.len());
        let peers = peers.iter().map(|(class, of)| (class.index(), of));
        let classes = slots.compile("peer class", MAX_IDENTITIES, peers)?;
        let cidrs = cidrs.iter().map(|(class, of)| (class.index(), of));
        let cidrs = slots.compile("CIDR class", MAX_CIDRS, cidrs)?;
        let chunk = |(n, rules)| Chunk::new(rules, n * MAX, &slots.all);
        Ok(DirectionPolicy {
            isolated,
            admin_end: rules.partition_point(|rule| rule.tier == Tier::Admin),
            classes,
            cidrs,
            chunks: rules.chunks(MAX).enumerate().map(chunk).collect(),
            rules: rules.into(),
        })
    }

    /// Whether what no rule of [`Tier::Network`] matches is denied.
    pub fn is_isolated(&self) -> bool {
        self.isolated
    }

    /// Whether it says nothing to any connection: no rules, and not isolated.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && !self.isolated
    }

    /// The rules, in the order in which they are looked at.
    pub fn rules(&self) -> &[PolicyRule] {
        &self.rules
    }

    /// Judges a new connection with a peer: the first rule that matches decides. After a [`PolicyAction::Pass`] in the
    /// Admin tier, that is the first one behind that tier; in the Baseline tier, none.
    #[inline]
    pub fn judge(&self, peer: &Peer, protocol: u8, dport: u16) -> PolicyJudgement {
        let slot = |slots: &[Slot], class| slots.get(class).copied().unwrap_or(ANY_PEER);
        let query = Query {
            class: peer
                .class
                .map_or(ANY_PEER, |c| slot(&self.classes, c.index())),
            cidr: peer.cidr.map_or(ANY_PEER, |c| slot(&self.cidrs, c.index())),
            protocol,
            dport,
        };
        let mut first = self.first(&query, 0);
        if let Some(rule) = first
            && rule.tier == Tier::Admin
        {
            if rule.action != PolicyAction::Pass {
                return said_by(rule);
            }
            first = self.first(&query, self.admin_end);
        }
        match first {
            Some(rule) if rule.tier == Tier::Network => said_by(rule),
            _ if self.isolated => PolicyJudgement::Isolated,
            Some(rule) => said_by(rule),
            None => PolicyJudgement::NoMatch,
        }
    }

    /// The first rule from an index on that matches.
    #[inline]
    fn first(&self, query: &Query, from: usize) -> Option<&PolicyRule> {
        let chunks = self.chunks.iter().enumerate().skip(from / MAX);
        for (n, chunk) in chunks {
            let start = n * MAX;
            if let Some(bit) = chunk.first(query, from.saturating_sub(start)) {
                return self.rules.get(start + bit);
            }
        }
        None
    }

    pub(crate) fn visit_allocations(&self, f: &mut dyn FnMut(usize, usize)) {
        fn boxed<T>(slice: &[T], f: &mut dyn FnMut(usize, usize)) {
            if !slice.is_empty() {
                f(slice.as_ptr().addr(), size_of_val(slice));
            }
        }
        boxed(&self.rules, f);
        self.rules.iter().for_each(|rule| boxed(&rule.ports, f));
        boxed(&self.classes, f);
        boxed(&self.cidrs, f);
        for chunk in &self.chunks {
            let address = std::ptr::from_ref(chunk).addr();
            f(address, size_of::<Chunk>() + chunk.bytes());
        }
    }
}

fn said_by(rule: &PolicyRule) -> PolicyJudgement {
    match rule.action {
        PolicyAction::Accept => PolicyJudgement::Accept(rule.id),
        PolicyAction::Deny => PolicyJudgement::Deny(rule.id),
        PolicyAction::Pass => PolicyJudgement::NoMatch,
    }
}

fn name(rule: &PolicyRule) -> String {
    format!("policy rule {}", rule.id)
}

fn check_rules(rules: &[PolicyRule]) -> Result<(), TableError> {
    if let Some(rule) = rules.get(MAX_RULES) {
        let what = "policy rules of one port and direction";
        return Err(TableError::limit(name(rule), what, rules.len(), MAX_RULES));
    }
    let mut tier = Tier::Admin;
    for rule in rules {
        if rule.id.index() >= MAX_POLICY_RULES {
            let problem = format!("is not below {MAX_POLICY_RULES}");
            return Err(TableError::invalid(name(rule), "id", rule.id, problem));
        }
        if rule.tier < tier {
            let problem = format!("is behind a rule of tier {}; sort by tier", tier.name());
            let value = rule.tier.name();
            return Err(TableError::invalid(name(rule), "tier", value, problem));
        }
        tier = rule.tier;
        if rule.tier == Tier::Network && rule.action == PolicyAction::Pass {
            let problem = "is not for tier network; use accept or deny";
            return Err(TableError::invalid(name(rule), "action", "pass", problem));
        }
        if let Some(PortMatch { ports, .. }) = rule.ports.iter().find(|p| p.ports.is_empty()) {
            let value = format!("{}-{}", ports.start(), ports.end());
            let problem = "end before they begin";
            return Err(TableError::invalid(name(rule), "ports", value, problem));
        }
    }
    Ok(())
}

/// Sets of rules by index, each kept once; classes for which the same rules are share a slot.
struct Slots {
    rules: usize,
    /// Ascending; the first one is empty.
    all: Vec<Vec<u32>>,
    known: HashMap<Vec<u32>, Slot>,
}

impl Slots {
    fn new(rules: usize) -> Slots {
        Slots {
            rules,
            all: vec![Vec::new()],
            known: HashMap::from([(Vec::new(), ANY_PEER)]),
        }
    }

    /// Slots by class, of classes below `end`.
    fn compile<'a>(
        &mut self,
        what: &'static str,
        end: usize,
        classes: impl Iterator<Item = (usize, &'a Vec<u32>)>,
    ) -> Result<Box<[Slot]>, TableError> {
        let mut slots = Vec::new();
        for (class, rules) in classes {
            if class >= end {
                let problem = format!("is not below {end}");
                return Err(TableError::invalid(what, "number", class, problem));
            }
            let object = || format!("{what} {class}");
            if let Some(rule) = rules.iter().find(|rule| **rule as usize >= self.rules) {
                let problem = format!("is not below {}, the number of rules", self.rules);
                return Err(TableError::invalid(object(), "rule", rule, problem));
            }
            if slots.len() <= class {
                slots.resize(class + 1, ANY_PEER);
            }
            if let Some(slot) = slots.get_mut(class) {
                if *slot != ANY_PEER {
                    let problem = "is there twice; name each class once";
                    return Err(TableError::invalid(what, "number", class, problem));
                }
                *slot = self.intern(rules);
            }
        }
        Ok(slots.into())
    }

    fn intern(&mut self, rules: &[u32]) -> Slot {
        let mut rules = rules.to_vec();
        rules.sort_unstable();
        rules.dedup();
        if let Some(slot) = self.known.get(&rules) {
            return *slot;
        }
        let slot = self.all.len() as Slot;
        self.known.insert(rules.clone(), slot);
        self.all.push(rules);
        slot
    }
}
