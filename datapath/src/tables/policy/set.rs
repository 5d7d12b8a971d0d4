// SPDX-License-Identifier: Apache-2.0
//! A set of rules, compiled.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::matcher::Matcher;
use super::{Action, Rule};
use crate::ids::RuleId;
use crate::tables::trie::allocation;
use crate::wire::FlowKey;

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

/// The rules of one port in one direction, compiled.
#[derive(Clone, Debug)]
pub struct RuleSet {
    default: Action,
    /// In the order in which they are looked at.
    rules: Arc<[RuleEntry]>,
    /// None without rules.
    compiled: Option<Arc<Compiled>>,
}

#[derive(Debug)]
struct Compiled {
    matcher: Matcher,
    /// What each rule says.
    judgements: Box<[Judgement]>,
}

impl RuleSet {
    /// Of rules in any order.
    pub(crate) fn new(default: Action, mut rules: Vec<RuleEntry>) -> RuleSet {
        rules.sort_by(|a, b| (a.rule.priority, &a.rule.name).cmp(&(b.rule.priority, &b.rule.name)));
        let judgement = |entry: &RuleEntry| Judgement {
            allow: entry.rule.action == Action::Allow,
            rule: Some(entry.id),
        };
        let compiled = (!rules.is_empty()).then(|| {
            Arc::new(Compiled {
                matcher: Matcher::new(rules.iter().map(|entry| &*entry.rule)),
                judgements: rules.iter().map(judgement).collect(),
            })
        });
        RuleSet {
            default,
            rules: rules.into(),
            compiled,
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
        if let Some(compiled) = &self.compiled {
            allocation(compiled, f);
            let address = std::ptr::from_ref(&*compiled.judgements).addr();
            f(
                address,
                size_of_val(&*compiled.judgements) + compiled.matcher.bytes(),
            );
        }
    }

    /// Judges a packet by its key: the first rule that matches, else the default.
    ///
    /// A fragment without the transport header (`later_fragment`) has no ports: a deny rule with ports does not match
    /// it, an allow rule with ports does. The first fragment is judged by its ports, and without it the others are
    /// useless to the receiver.
    #[inline]
    pub fn judge(&self, key: &FlowKey, later_fragment: bool) -> Judgement {
        if let Some(compiled) = &self.compiled
            && let Some(rule) = compiled.matcher.first(key, later_fragment)
            && let Some(judgement) = compiled.judgements.get(rule)
        {
            return *judgement;
        }
        Judgement {
            allow: self.default == Action::Allow,
            rule: None,
        }
    }
}
