// SPDX-License-Identifier: Apache-2.0
//! Rules as the switch has them, made once for all ports that share them.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use podswitch_datapath::tables::{
    DirectionPolicy, PolicyAction, PolicyRule, PortMatch, TableError, Tier,
};
use podswitch_datapath::{CidrClass, PeerClass, PolicyRuleId};
use podswitch_policy::{Action, DirectionSpec, RuleSpec};

/// How many are kept before those that no port has any more are looked for.
const KEPT: usize = 64;

/// Compiled rules by the address of what they were made of, which stays taken as long as it is known here.
#[derive(Debug, Default)]
pub(super) struct Compiled {
    known: HashMap<usize, (Weak<DirectionSpec>, Weak<DirectionPolicy>)>,
    /// How many there may be before the next look.
    room: usize,
}

impl Compiled {
    /// The rules, made now if no port has them yet.
    pub(super) fn of(
        &mut self,
        spec: &Arc<DirectionSpec>,
    ) -> Result<Arc<DirectionPolicy>, TableError> {
        let address = Arc::as_ptr(spec).addr();
        let known = self.known.get(&address);
        if let Some(policy) = known.and_then(|(_, policy)| policy.upgrade()) {
            return Ok(policy);
        }
        let policy = Arc::new(direction_policy(spec)?);
        if self.known.len() >= self.room {
            self.known
                .retain(|_, (spec, policy)| spec.strong_count() > 0 && policy.strong_count() > 0);
            self.room = (self.known.len() * 2).max(KEPT);
        }
        let entry = (Arc::downgrade(spec), Arc::downgrade(&policy));
        self.known.insert(address, entry);
        Ok(policy)
    }
}

fn direction_policy(spec: &DirectionSpec) -> Result<DirectionPolicy, TableError> {
    let classes = spec.classes.iter();
    let classes: Vec<_> = classes
        .map(|(c, of)| (PeerClass(c.0), of.clone()))
        .collect();
    let cidrs = spec.cidr_classes.iter();
    let cidrs: Vec<_> = cidrs.map(|(c, of)| (CidrClass(c.0), of.clone())).collect();
    let rules = spec.rules.iter().map(rule).collect();
    DirectionPolicy::new(rules, !spec.isolated_by.is_empty(), &classes, &cidrs)
}

fn rule(rule: &RuleSpec) -> PolicyRule {
    PolicyRule {
        id: PolicyRuleId(rule.id.0),
        tier: match rule.tier {
            podswitch_policy::Tier::Admin => Tier::Admin,
            podswitch_policy::Tier::Network => Tier::Network,
            podswitch_policy::Tier::Baseline => Tier::Baseline,
        },
        action: match rule.action {
            Action::Accept => PolicyAction::Accept,
            Action::Deny => PolicyAction::Deny,
            Action::Pass => PolicyAction::Pass,
        },
        any_peer: rule.any_peer,
        both: rule.both,
        ports: rule
            .ports
            .iter()
            .map(|p| PortMatch {
                protocol: p.protocol,
                ports: p.first..=p.last,
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_share_rules_share_what_is_made_of_them() {
        let mut compiled = Compiled::default();
        let spec = Arc::new(DirectionSpec::default());
        let first = compiled.of(&spec).unwrap();
        assert!(Arc::ptr_eq(&first, &compiled.of(&spec).unwrap()));
        let other = compiled.of(&Arc::new(DirectionSpec::default())).unwrap();
        assert!(!Arc::ptr_eq(&first, &other));
    }

    #[test]
    fn what_no_port_has_is_forgotten() {
        let mut compiled = Compiled::default();
        let spec = Arc::new(DirectionSpec::default());
        let kept = compiled.of(&spec).unwrap();
        for _ in 0..10 * KEPT {
            compiled.of(&Arc::new(DirectionSpec::default())).unwrap();
        }
        assert!(compiled.known.len() <= KEPT + 1, "{}", compiled.known.len());
        assert!(Arc::ptr_eq(&kept, &compiled.of(&spec).unwrap()));
    }
}
