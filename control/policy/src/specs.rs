// SPDX-License-Identifier: Apache-2.0
//! The rules of a port and direction. Ports that the same policies select share them, if these resolve names of ports the same way.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use podswitch_api::object::Pod;
use podswitch_api::object::kubernetes::LabelSelector;

use crate::blocks::Blocks;
use crate::intern::Interner;
use crate::population::{NamedPort, Namespaces, PeerSelector, Population};
use crate::rules::{Policy, Rule};
use crate::spec::{
    Direction, DirectionSpec, PolicyKey, PortSpec, RuleId, RuleName, RuleSpec, Tier,
};

/// A policy in the version that is in force.
#[derive(Clone, Debug)]
pub(crate) struct Versioned {
    /// Of every change of any policy, another number.
    pub(crate) version: u64,
    pub(crate) policy: Arc<Policy>,
}

/// What rules depend on, but for peers.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Key {
    direction: Direction,
    /// Versions of the policies, in the order in which they are looked at.
    policies: Vec<u64>,
    /// Ports of the pod that ingress rules name.
    ports: Vec<NamedPort>,
}

/// A rule that is not one of any class yet.
#[derive(Debug)]
struct Built {
    spec: RuleSpec,
    selectors: Vec<u32>,
    blocks: Vec<u32>,
}

#[derive(Debug)]
struct Spec {
    policies: Vec<Versioned>,
    ports: Vec<NamedPort>,
    direction: Direction,
    /// Names of the ports that have it.
    users: BTreeSet<String>,
    built: Vec<Built>,
    isolated_by: Vec<PolicyKey>,
    /// Rules by selector and by block.
    by_selector: HashMap<u32, Vec<u32>>,
    by_block: HashMap<u32, Vec<u32>>,
    result: Arc<DirectionSpec>,
}

/// What a change leaves over: given up at its end, unless it is used again meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    pub(crate) selectors: BTreeSet<u32>,
    pub(crate) blocks: BTreeSet<u32>,
    rules: BTreeSet<u32>,
    specs: BTreeSet<u32>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Specs {
    keys: Interner<Key>,
    specs: HashMap<u32, Spec>,
    by_selector: HashMap<u32, BTreeSet<u32>>,
    /// By name of a port that egress rules give.
    by_name: HashMap<String, BTreeSet<u32>>,
    with_blocks: BTreeSet<u32>,
    rules: Interner<RuleName>,
    /// Rules whose number was given out or freed, with whether it was taken before.
    touched_rules: BTreeMap<u32, Option<Arc<RuleName>>>,
    /// Whose class lists are to be made again.
    stale: BTreeSet<u32>,
}

/// What specs are made with.
pub(crate) struct Workshop<'a> {
    pub(crate) population: &'a mut Population,
    pub(crate) blocks: &'a mut Blocks,
    pub(crate) leftovers: &'a mut Leftovers,
}

impl Specs {
    /// The number of the rules of a port with these policies, in the order in which they are looked at.
    pub(crate) fn acquire(
        &mut self,
        port: &str,
        direction: Direction,
        policies: Vec<Versioned>,
        pod: &Pod,
        workshop: &mut Workshop<'_>,
    ) -> u32 {
        let ports = match direction {
            Direction::Ingress => named_ports(&policies, pod),
            Direction::Egress => Vec::new(),
        };
        let key = Key {
            direction,
            policies: policies.iter().map(|p| p.version).collect(),
            ports: ports.clone(),
        };
        let (number, new) = self.keys.acquire(key);
        if new || !self.specs.contains_key(&number) {
            let spec = Spec {
                policies,
                ports,
                direction,
                users: BTreeSet::new(),
                built: Vec::new(),
                isolated_by: Vec::new(),
                by_selector: HashMap::new(),
                by_block: HashMap::new(),
                result: Arc::default(),
            };
            self.specs.insert(number, spec);
            self.build(number, workshop);
        }
        if let Some(spec) = self.specs.get_mut(&number) {
            spec.users.insert(port.to_owned());
        }
        number
    }

    /// A port has these rules no longer.
    pub(crate) fn release(&mut self, port: &str, number: u32, leftovers: &mut Leftovers) {
        if self.keys.release(number) {
            leftovers.specs.insert(number);
        }
        if let Some(spec) = self.specs.get_mut(&number) {
            spec.users.remove(port);
        }
    }

    /// A port that was one of its users is one still.
    pub(crate) fn use_by(&mut self, port: &str, number: u32) {
        if let Some(spec) = self.specs.get_mut(&number) {
            spec.users.insert(port.to_owned());
        }
    }

    /// The rules of a number.
    pub(crate) fn result(&self, number: u32) -> Option<&Arc<DirectionSpec>> {
        self.specs.get(&number).map(|spec| &spec.result)
    }

    /// Makes the rules again that name such ports: their numbers are others now.
    pub(crate) fn names_changed(&mut self, names: &BTreeSet<String>, workshop: &mut Workshop<'_>) {
        let of = |name| self.by_name.get(name).into_iter().flatten().copied();
        let concerned: BTreeSet<u32> = names.iter().flat_map(of).collect();
        for number in concerned {
            self.build(number, workshop);
        }
    }

    /// Gives up what nobody has any more.
    pub(crate) fn free_unused(&mut self, workshop: &mut Workshop<'_>) {
        for number in std::mem::take(&mut workshop.leftovers.specs) {
            if self.keys.free(number) {
                self.tear_down(number, workshop);
                self.specs.remove(&number);
                self.stale.remove(&number);
            }
        }
        for number in std::mem::take(&mut workshop.leftovers.rules) {
            let name = self.rules.get(number).cloned();
            if self.rules.free(number) {
                self.touched_rules.entry(number).or_insert(name);
            }
        }
    }

    /// Makes the rules of a spec, and uses what they refer to.
    fn build(&mut self, number: u32, workshop: &mut Workshop<'_>) {
        let Some(spec) = self.specs.get(&number) else {
            return;
        };
        let (policies, direction, ports) =
            (spec.policies.clone(), spec.direction, spec.ports.clone());
        let mut built = Vec::new();
        for Versioned { policy, .. } in &policies {
            for (index, rule) in policy.rules(direction).iter().enumerate() {
                let id = self.rule_id(policy, direction, index, rule);
                let first = built.len();
                let make = Make {
                    policy,
                    rule,
                    id,
                    pod: &ports,
                };
                match direction {
                    Direction::Ingress => make.ingress(workshop, &mut built),
                    Direction::Egress => make.egress(workshop, &mut built),
                }
                // One use of the number for each rule made of it.
                match built.len() - first {
                    0 => self.release_rule(id, workshop.leftovers),
                    n => (1..n).for_each(|_| self.rules.share(id.0)),
                }
            }
        }
        self.tear_down(number, workshop);
        let isolates = policies.iter().filter(|p| p.policy.isolates(direction));
        let isolated_by = isolates.map(|p| p.policy.key.clone()).collect();
        let names: BTreeSet<String> = match direction {
            Direction::Ingress => BTreeSet::new(),
            Direction::Egress => egress_names(&policies),
        };
        for name in names {
            self.by_name.entry(name).or_default().insert(number);
        }
        let Some(spec) = self.specs.get_mut(&number) else {
            return;
        };
        spec.isolated_by = isolated_by;
        for (at, rule) in built.iter().enumerate() {
            for selector in &rule.selectors {
                spec.by_selector
                    .entry(*selector)
                    .or_default()
                    .push(at as u32);
                self.by_selector
                    .entry(*selector)
                    .or_default()
                    .insert(number);
            }
            for block in &rule.blocks {
                spec.by_block.entry(*block).or_default().push(at as u32);
            }
        }
        if !spec.by_block.is_empty() {
            self.with_blocks.insert(number);
        }
        spec.built = built;
        self.stale.insert(number);
    }

    /// Lets go of all that the rules of a spec refer to.
    fn tear_down(&mut self, number: u32, workshop: &mut Workshop<'_>) {
        let Some(spec) = self.specs.get_mut(&number) else {
            return;
        };
        let built = std::mem::take(&mut spec.built);
        let selectors = std::mem::take(&mut spec.by_selector);
        spec.by_block.clear();
        let names = egress_names(&spec.policies);
        let leftovers = &mut *workshop.leftovers;
        for selector in selectors.keys() {
            remove_from(&mut self.by_selector, selector, number);
        }
        for name in &names {
            remove_from(&mut self.by_name, name, number);
        }
        self.with_blocks.remove(&number);
        for rule in built {
            for selector in rule.selectors {
                workshop
                    .population
                    .release_selector(selector, &mut leftovers.selectors);
            }
            for block in rule.blocks {
                workshop.blocks.release(block, &mut leftovers.blocks);
            }
            self.release_rule(rule.spec.id, leftovers);
        }
    }

    /// The number of a policy's rule, for one user more.
    fn rule_id(
        &mut self,
        policy: &Policy,
        direction: Direction,
        index: usize,
        rule: &Rule,
    ) -> RuleId {
        let (number, new) = self.rules.acquire(RuleName {
            policy: policy.key.clone(),
            direction,
            index,
            name: rule.name.clone(),
        });
        if new {
            self.touched_rules.entry(number).or_insert(None);
        }
        RuleId(number)
    }

    fn release_rule(&mut self, id: RuleId, leftovers: &mut Leftovers) {
        if self.rules.release(id.0) {
            leftovers.rules.insert(id.0);
        }
    }

    /// The name of a rule.
    pub(crate) fn rule(&self, id: RuleId) -> Option<&Arc<RuleName>> {
        self.rules.get(id.0)
    }

    /// Rules whose number was given out or freed since this was asked.
    pub(crate) fn take_touched_rules(&mut self) -> Vec<(RuleId, Option<Arc<RuleName>>)> {
        let touched = std::mem::take(&mut self.touched_rules);
        let differs = |(number, before): (u32, Option<Arc<RuleName>>)| {
            let now = self.rules.get(number).cloned();
            (now != before).then_some((RuleId(number), now))
        };
        touched.into_iter().filter_map(differs).collect()
    }

    /// Classes with such selectors are new.
    pub(crate) fn class_is_new(&mut self, selectors: &[u32]) {
        let of = |s| self.by_selector.get(s).into_iter().flatten().copied();
        self.stale.extend(selectors.iter().flat_map(of));
    }

    /// All class lists are to be made again.
    pub(crate) fn classes_changed(&mut self) {
        self.stale.extend(self.specs.keys().copied());
    }

    /// Classes of addresses are others now.
    pub(crate) fn cidr_classes_changed(&mut self) {
        self.stale.extend(self.with_blocks.iter().copied());
    }

    /// Makes what is stale again; ports whose rules differ.
    pub(crate) fn refresh(&mut self, population: &Population, blocks: &Blocks) -> BTreeSet<String> {
        let mut concerned = BTreeSet::new();
        for number in std::mem::take(&mut self.stale) {
            let Some(spec) = self.specs.get_mut(&number) else {
                continue;
            };
            let result = DirectionSpec {
                rules: spec.built.iter().map(|b| b.spec.clone()).collect(),
                isolated_by: spec.isolated_by.clone(),
                classes: lists(population.classes(), &spec.by_selector),
                cidr_classes: lists(blocks.classes(), &spec.by_block),
            };
            if result != *spec.result {
                spec.result = Arc::new(result);
                concerned.extend(spec.users.iter().cloned());
            }
        }
        concerned
    }
}

fn remove_from<K: std::hash::Hash + Eq + Clone>(
    map: &mut HashMap<K, BTreeSet<u32>>,
    key: &K,
    number: u32,
) {
    if let Some(numbers) = map.get_mut(key) {
        numbers.remove(&number);
        if numbers.is_empty() {
            map.remove(key);
        }
    }
}

/// For each class, the rules that are for one of the things it stands for.
fn lists<'a, C>(
    classes: impl Iterator<Item = (C, &'a [u32])>,
    rules: &HashMap<u32, Vec<u32>>,
) -> Vec<(C, Vec<u32>)> {
    if rules.is_empty() {
        return Vec::new();
    }
    classes
        .filter_map(|(class, things)| {
            let of = things.iter().filter_map(|thing| rules.get(thing));
            let mut list: Vec<u32> = of.flatten().copied().collect();
            list.sort_unstable();
            list.dedup();
            (!list.is_empty()).then_some((class, list))
        })
        .collect()
}

fn egress_names(policies: &[Versioned]) -> BTreeSet<String> {
    let rules = policies
        .iter()
        .flat_map(|p| p.policy.rules(Direction::Egress));
    let names = rules.flat_map(|rule| &rule.ports.names);
    names.map(|(name, _)| name.clone()).collect()
}

/// The pod's own ports that ingress rules of these policies name.
fn named_ports(policies: &[Versioned], pod: &Pod) -> Vec<NamedPort> {
    let wanted: BTreeSet<&str> = policies
        .iter()
        .flat_map(|p| p.policy.ingress_names())
        .map(|(name, _)| name.as_str())
        .collect();
    let ports = pod
        .ports
        .iter()
        .filter(|p| wanted.contains(p.name.as_str()));
    let ports: BTreeSet<NamedPort> = ports
        .map(|p| NamedPort {
            name: p.name.clone(),
            protocol: p.protocol.number().0,
            number: p.container_port,
        })
        .collect();
    ports.into_iter().collect()
}

/// Makes what a port needs of a policy's rule.
struct Make<'a> {
    policy: &'a Policy,
    rule: &'a Rule,
    id: RuleId,
    /// Named ports of the pod itself.
    pod: &'a [NamedPort],
}

impl Make<'_> {
    fn ingress(&self, workshop: &mut Workshop<'_>, built: &mut Vec<Built>) {
        let mut ports = self.rule.ports.numbers.clone();
        for (name, protocol) in &self.rule.ports.names {
            let own = self.pod.iter().filter(|p| p.name == *name);
            let own = own.filter(|p| protocol.is_none_or(|wanted| wanted == p.protocol));
            ports.extend(own.map(|p| one_port(p.protocol, p.number)));
        }
        self.numbered(ports, workshop, built);
    }

    fn egress(&self, workshop: &mut Workshop<'_>, built: &mut Vec<Built>) {
        self.numbered(self.rule.ports.numbers.clone(), workshop, built);
        if self.rule.ports.any {
            return;
        }
        // A name means what the peer means by it: a rule for each number, for those peers that have it.
        let mut done = BTreeSet::new();
        for (name, protocol) in &self.rule.ports.names {
            let numbers: Vec<(u8, u16)> = workshop.population.numbers_of(name).collect();
            for (of, number) in numbers {
                let wanted = protocol.is_none_or(|wanted| wanted == of);
                if wanted && done.insert((name, of, number)) {
                    let port = NamedPort {
                        name: name.clone(),
                        protocol: of,
                        number,
                    };
                    self.named(port, workshop, built);
                }
            }
        }
    }

    /// For peers of any kind, with ports by number.
    fn numbered(&self, ports: Vec<PortSpec>, workshop: &mut Workshop<'_>, built: &mut Vec<Built>) {
        let rule = self.rule;
        if !rule.ports.any && ports.is_empty() {
            return;
        }
        let ports = if rule.ports.any { Vec::new() } else { ports };
        // Who is for everybody needs nobody by name.
        let (pods, blocks) = match rule.peers.any {
            true => (Vec::new(), Vec::new()),
            false => {
                let pods = rule.peers.pods.iter().map(|peer| PeerSelector {
                    namespaces: peer.namespaces.clone(),
                    pods: peer.pods.clone(),
                    port: None,
                });
                let selectors = pods.map(|s| workshop.population.activate(s)).collect();
                let blocks = rule.peers.blocks.iter();
                let blocks = blocks.map(|b| workshop.blocks.activate(b)).collect();
                (selectors, blocks)
            }
        };
        if !rule.peers.any && pods.is_empty() && blocks.is_empty() {
            return;
        }
        let spec = self.spec(ports);
        built.push(Built {
            spec: RuleSpec {
                any_peer: rule.peers.any,
                ..spec
            },
            selectors: pods,
            blocks,
        });
    }

    /// For those peers that have a named port.
    fn named(&self, port: NamedPort, workshop: &mut Workshop<'_>, built: &mut Vec<Built>) {
        let ports = vec![one_port(port.protocol, port.number)];
        let peers = &self.rule.peers;
        let selectors: Vec<PeerSelector> = match peers.any {
            true => vec![all_pods(&port)],
            false => {
                let pods = peers.pods.iter().map(|peer| PeerSelector {
                    namespaces: peer.namespaces.clone(),
                    pods: peer.pods.clone(),
                    port: Some(port.clone()),
                });
                pods.collect()
            }
        };
        if !selectors.is_empty() {
            let selectors = selectors.into_iter();
            built.push(Built {
                spec: self.spec(ports.clone()),
                selectors: selectors.map(|s| workshop.population.activate(s)).collect(),
                blocks: Vec::new(),
            });
        }
        if !peers.any && !peers.blocks.is_empty() {
            let blocks = peers.blocks.iter();
            built.push(Built {
                spec: RuleSpec {
                    both: true,
                    ..self.spec(ports)
                },
                selectors: vec![workshop.population.activate(all_pods(&port))],
                blocks: blocks.map(|b| workshop.blocks.activate(b)).collect(),
            });
        }
    }

    /// The rule with these ports, for peers that are of one of its classes.
    fn spec(&self, ports: Vec<PortSpec>) -> RuleSpec {
        RuleSpec {
            id: self.id,
            tier: self.policy.tier,
            action: self.rule.action,
            any_peer: false,
            both: false,
            ports,
        }
    }
}

/// All pods that have a named port.
fn all_pods(port: &NamedPort) -> PeerSelector {
    PeerSelector {
        namespaces: Namespaces::With(LabelSelector::default()),
        pods: LabelSelector::default(),
        port: Some(port.clone()),
    }
}

fn one_port(protocol: u8, number: u16) -> PortSpec {
    PortSpec {
        protocol,
        first: number,
        last: number,
    }
}

/// The order in which policies are looked at.
pub(crate) fn order(policies: &mut [Versioned]) {
    let rank = |policy: &Policy| -> (Tier, u16, PolicyKey) {
        (policy.tier, policy.priority, policy.key.clone())
    };
    policies.sort_by_cached_key(|p| rank(&p.policy));
}
