// SPDX-License-Identifier: Apache-2.0
//! Policy rules.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Build;
use crate::ids::{PortId, RuleId};
use crate::tables::limits::{MAX_PORT_RULES, MAX_RULES};
use crate::tables::{Direction, PortEntry, Rule, RuleEntry, RuleSet, TableError};

/// Changes of the rules of one port and direction, by name.
type Changes = BTreeMap<String, Option<Rule>>;

impl Build {
    pub(super) fn change_rules(
        &mut self,
        rules: &BTreeMap<(PortId, Direction), Changes>,
    ) -> Result<(), TableError> {
        for ((id, direction), changes) in rules {
            let Some(port) = self.tables.ports.get(id.index()).cloned().flatten() else {
                match changes.values().flatten().next() {
                    Some(rule) => {
                        let object = format!("{direction} rule \"{}\"", rule.name);
                        let needs = format!("port {id}");
                        return Err(TableError::dangling(object, needs, "add the port first"));
                    }
                    None => continue,
                }
            };
            if let Some(set) = self.changed(&port, *direction, changes)? {
                let mut port = (*port).clone();
                port.stamp = self.stamp();
                match direction {
                    Direction::Egress => port.egress = Arc::new(set),
                    Direction::Ingress => port.ingress = Arc::new(set),
                }
                *self.tables.ports.get_mut(id.index()) = Some(Arc::new(port));
            }
        }
        Ok(())
    }

    /// The changed rules of a port and direction; none if nothing changes.
    fn changed(
        &mut self,
        port: &PortEntry,
        direction: Direction,
        changes: &Changes,
    ) -> Result<Option<RuleSet>, TableError> {
        let set = match direction {
            Direction::Egress => &port.egress,
            Direction::Ingress => &port.ingress,
        };
        let old: BTreeMap<&str, &RuleEntry> = set
            .rules()
            .iter()
            .map(|entry| (entry.rule.name.as_str(), entry))
            .collect();
        let differs = |name: &str, new: Option<&Rule>| old.get(name).map(|e| &*e.rule) != new;
        let mut next = Vec::with_capacity(old.len() + changes.len());
        let generation = self.tables.generation;
        for (name, entry) in &old {
            match changes.get(*name) {
                Some(new) if differs(name, new.as_ref()) => {
                    self.tables.rule_ids.remove(entry.id.0, generation);
                }
                _ => next.push((*entry).clone()),
            }
        }
        let kept = next.len();
        for (name, rule) in changes {
            let Some(rule) = rule.as_ref().filter(|rule| differs(name, Some(rule))) else {
                continue;
            };
            let object = || {
                format!(
                    "{direction} rule \"{name}\" of port {} \"{}\"",
                    port.id, port.name
                )
            };
            if next.len() >= MAX_PORT_RULES {
                let count = next.len() + 1;
                return Err(TableError::limit(
                    object(),
                    "rules of the port",
                    count,
                    MAX_PORT_RULES,
                ));
            }
            let Some(id) = self.tables.rule_ids.insert(MAX_RULES, self.oldest, ()) else {
                let count = self.tables.rule_ids.len() + 1;
                return Err(TableError::limit(object(), "rules", count, MAX_RULES));
            };
            next.push(RuleEntry {
                id: RuleId(id),
                since: generation,
                rule: Arc::new(rule.clone()),
            });
        }
        let same = kept == old.len() && next.len() == kept;
        Ok((!same).then(|| RuleSet::new(set.default_action(), next)))
    }
}
