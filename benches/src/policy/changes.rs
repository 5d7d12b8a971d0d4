// SPDX-License-Identifier: Apache-2.0
//! Changes of network policy that a caller feels, one after the other.

use std::collections::BTreeSet;
use std::time::Duration;

use podswitch_api::object::kubernetes::{NetworkPolicy, Pod};
use podswitch_datapath::PolicyRuleId;
use podswitch_policy::{Change, PolicyKey, RuleId, Update};

use super::cluster::SERVICE;
use super::probe::Caller;
use super::rig::{CALLED, Rig, Times};
use super::swap::{self, OPENED, RULES};
use crate::stats::Random;
use crate::traffic;

/// A kind of changes.
pub trait Changes {
    /// From one to the next.
    const EVERY: Duration;

    /// Makes the next one.
    fn next(&mut self, rig: &mut Rig) -> Times;
}

/// Pods of other nodes go and come back, or lose the label that they are let on for and get it back.
#[derive(Debug)]
pub struct Pods {
    all: Vec<usize>,
    random: Random,
    relabel: bool,
    /// The one that has changed.
    away: Option<Pod>,
}

impl Pods {
    /// Of a cluster in which none has changed. `relabel`: they lose a label, and do not go.
    pub fn new(rig: &Rig, relabel: bool) -> Pods {
        Pods {
            // The first one is the caller of other changes.
            all: rig.changing().split_off(1),
            random: Random::new(0),
            relabel,
            away: None,
        }
    }

    /// Has all of them as they were.
    pub fn bring_back(&mut self, rig: &mut Rig) {
        rig.silent = true;
        if self.away.is_some() {
            self.next(rig);
        }
        rig.silent = false;
    }
}

impl Changes for Pods {
    const EVERY: Duration = Duration::from_millis(2);

    fn next(&mut self, rig: &mut Rig) -> Times {
        let back = self.away.take();
        let pod = back.clone().unwrap_or_else(|| {
            let pod = self.all[self.random.below(self.all.len())];
            rig.world.cluster.pods[pod].clone()
        });
        let (key, caller) = (pod.key(), Caller::of(&pod, SERVICE.0));
        if back.is_some() {
            return rig.change(Change::Pod(&key, Some(&pod)), caller, true).0;
        }
        if !rig.silent {
            rig.call(caller, true);
        }
        let mut other = pod.clone();
        other.labels.remove("mesh");
        let changed = self.relabel.then_some(&other);
        self.away = Some(pod);
        rig.change(Change::Pod(&key, changed), caller, false).0
    }
}

/// A port has one large policy, then another one in its place.
#[derive(Debug)]
pub struct Policies {
    two: [NetworkPolicy; 2],
    caller: Caller,
    /// Its second policy is in force.
    second: bool,
    /// The rules' numbers.
    rules: BTreeSet<RuleId>,
}

impl Policies {
    /// The first one in force, and a caller on the port that the second one opens.
    pub fn new(rig: &mut Rig) -> Policies {
        let world = &rig.world;
        let policy = |second| swap::policy(&world.cluster, &world.size, CALLED, second);
        let caller = &world.cluster.pods[rig.changing()[0]];
        let mut policies = Policies {
            two: [policy(false), policy(true)],
            caller: Caller::of(caller, OPENED),
            second: true,
            rules: BTreeSet::new(),
        };
        rig.silent = true;
        policies.next(rig);
        rig.silent = false;
        rig.call(policies.caller, false);
        policies
    }

    /// Takes note of the rules that the port has, and of their numbers.
    fn note(&mut self, update: &Update) {
        let key = PolicyKey::Network(self.two[0].key());
        for (id, name) in &update.rules {
            match name {
                Some(name) if name.policy == key => drop(self.rules.insert(*id)),
                _ => drop(self.rules.remove(id)),
            }
        }
        let name = traffic::port_name(CALLED);
        let port = update.endpoints.iter().find(|(port, _)| *port == name);
        let rules = port.and_then(|(_, policy)| Some(policy.as_ref()?.ingress.rules.len()));
        assert!(rules >= Some(RULES), "{rules:?} rules of the port");
    }

    /// Sees to it that the port's connections were judged by its rules.
    ///
    /// # Panics
    /// When that is not so.
    pub fn check(&self, rig: &Rig) {
        assert_eq!(self.rules.len(), RULES);
        let counters = rig.node.switch.counters();
        let rules = self.rules.iter().map(|rule| PolicyRuleId(rule.0));
        let judged = rules.filter_map(|rule| counters.policy_rules.get(&rule));
        assert!(judged.map(|t| t.packets).sum::<u64>() > 0, "none judged");
    }
}

impl Changes for Policies {
    const EVERY: Duration = Duration::from_millis(50);

    fn next(&mut self, rig: &mut Rig) -> Times {
        self.second = !self.second;
        let policy = &self.two[usize::from(self.second)];
        let key = policy.key();
        let change = Change::NetworkPolicy(&key, Some(policy));
        let (times, update) = rig.change(change, self.caller, self.second);
        self.note(&update);
        times
    }
}
