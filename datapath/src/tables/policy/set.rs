// SPDX-License-Identifier: Apache-2.0
//! A set of rules, compiled.
#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::sync::Arc;

use super::{Action, Rule, has_ports};
use crate::ids::RuleId;
use crate::tables::trie::allocation;
use crate::wire::FlowKey;
use crate::wire::flow_key::to_ip;

/// What the rules of a port say to a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Judgement {
    /// Whether it passes.
    pub allow: bool,
    /// The rule that decided; none: the default did.
    pub rule: Option<RuleId>,
}

/// A rule in its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RuleEntry {
    /// Where it counts.
    pub id: RuleId,
    /// Generation of the tables that gave it this id: an id that came back counts from there.
    pub since: u64,
    /// The rule.
    pub rule: Arc<Rule>,
}

/// The rules of one port in one direction.
#[derive(Clone, Debug, Default)]
pub struct RuleSet {
    default: Action,
    /// In the order in which they are looked at.
    rules: Arc<[RuleEntry]>,
}

impl RuleSet {
    /// Of rules in any order.
    pub(crate) fn new(default: Action, mut rules: Vec<RuleEntry>) -> RuleSet {
        rules.sort_by(|a, b| (a.rule.priority, &a.rule.name).cmp(&(b.rule.priority, &b.rule.name)));
        RuleSet {
            default,
            rules: rules.into(),
        }
    }

    /// The same rules with another default.
    pub(crate) fn with_default(&self, default: Action) -> RuleSet {
        RuleSet {
            default,
            ..self.clone()
        }
    }

    /// What becomes of a packet that no rule matches.
    pub fn default_action(&self) -> Action {
        self.default
    }

    /// The rules, in the order in which they are looked at.
    pub fn rules(&self) -> &[RuleEntry] {
        &self.rules
    }

    pub(crate) fn visit_allocations(&self, f: &mut dyn FnMut(usize, usize)) {
        allocation(&self.rules, f);
        for entry in &*self.rules {
            allocation(&entry.rule, f);
        }
    }

    /// Judges a packet by its key: the first rule that matches, else the default.
    ///
    /// A fragment without the transport header (`later_fragment`) has no ports: a deny rule with ports does not match
    /// it, an allow rule with ports does. The first fragment is judged by its ports, and without it the others are
    /// useless to the receiver.
    #[inline]
    pub fn judge(&self, key: &FlowKey, later_fragment: bool) -> Judgement {
        if self.rules.is_empty() {
            return Judgement {
                allow: self.default == Action::Allow,
                rule: None,
            };
        }
        self.judge_rules(key, later_fragment)
    }

    fn judge_rules(&self, key: &FlowKey, later_fragment: bool) -> Judgement {
        let (source, destination) = (to_ip(&key.src), to_ip(&key.dst));
        let hit = self.rules.iter().find(|entry| {
            matches(
                &entry.rule,
                source,
                destination,
                key.protocol(),
                key.dport,
                later_fragment,
            )
        });
        match hit {
            Some(entry) => Judgement {
                allow: entry.rule.action == Action::Allow,
                rule: Some(entry.id),
            },
            None => Judgement {
                allow: self.default == Action::Allow,
                rule: None,
            },
        }
    }
}

fn matches(
    rule: &Rule,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    port: u16,
    later_fragment: bool,
) -> bool {
    rule.source.is_none_or(|net| net.contains(&source))
        && rule
            .destination
            .is_none_or(|net| net.contains(&destination))
        && rule.protocol.is_none_or(|p| p == protocol)
        && rule.ports.as_ref().is_none_or(|ports| {
            has_ports(protocol)
                && match later_fragment {
                    true => rule.action == Action::Allow,
                    false => ports.contains(&port),
                }
        })
}
