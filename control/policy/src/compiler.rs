// SPDX-License-Identifier: Apache-2.0
//! All of it, change by change.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use podswitch_api::object::{
    ClusterNetworkPolicy, Group, Namespace, NamespacedName, NetworkPolicy, Pod,
};

use crate::blocks::Blocks;
use crate::claims::{Claimant, Claims};
use crate::population::{Attention, Population};
use crate::rules::Policy;
use crate::spec::{Direction, Endpoint, EndpointPolicy, IdentityId, RuleId, RuleName, Update};
use crate::specs::{Leftovers, Specs, Versioned, Workshop, order};

/// A change of one thing; `None`: it is gone.
#[derive(Clone, Debug)]
pub enum Change<'a> {
    /// A namespace, by name.
    Namespace(&'a str, Option<&'a Namespace>),
    /// A pod.
    Pod(&'a NamespacedName, Option<&'a Pod>),
    /// A NetworkPolicy.
    NetworkPolicy(&'a NamespacedName, Option<&'a NetworkPolicy>),
    /// A ClusterNetworkPolicy, by name.
    ClusterNetworkPolicy(&'a str, Option<&'a ClusterNetworkPolicy>),
    /// A group.
    Group(u16, Option<&'a Group>),
    /// The pod behind a port of this node, by the port's name.
    Endpoint(&'a str, Option<Endpoint>),
}

/// The rules of a port in both directions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Rules {
    egress: u32,
    ingress: u32,
}

#[derive(Debug)]
struct Port {
    endpoint: Endpoint,
    /// None while the pod is not described.
    rules: Option<Rules>,
    /// What was said of it last.
    said: Option<Option<EndpointPolicy>>,
}

/// The policy compiler: all objects, and what was made of them.
#[derive(Debug, Default)]
pub struct Compiler {
    population: Population,
    blocks: Blocks,
    specs: Specs,
    claims: Claims,
    /// Who is behind an address, as it was said last.
    bound: HashMap<IpAddr, IdentityId>,
    /// Who packets of a group are from, as it was said last.
    marked: HashMap<u16, IdentityId>,
    policies: BTreeMap<NamespacedName, Versioned>,
    cluster_policies: BTreeMap<String, Versioned>,
    version: u64,
    ports: BTreeMap<String, Port>,
    /// Ports by pod and by namespace.
    by_pod: HashMap<NamespacedName, BTreeSet<String>>,
    by_namespace: HashMap<String, BTreeSet<String>>,
}

/// What a list of changes touches.
#[derive(Debug, Default)]
struct Touched {
    addresses: HashSet<IpAddr>,
    ports: BTreeSet<String>,
    /// Ports whose pods may be of another group.
    grouped: BTreeSet<String>,
    gone: BTreeSet<String>,
    attention: Attention,
    leftovers: Leftovers,
}

impl Compiler {
    /// Takes changes in and says what is different. Never fails: objects were judged before.
    pub fn apply<'a>(&mut self, changes: impl IntoIterator<Item = Change<'a>>) -> Update {
        let mut touched = Touched::default();
        for change in changes {
            match change {
                Change::Namespace(name, o) => self.namespace(name, o, &mut touched),
                Change::Pod(key, o) => self.pod(key, o, &mut touched),
                Change::NetworkPolicy(key, o) => self.policy(key, o, &mut touched),
                Change::ClusterNetworkPolicy(name, o) => self.cluster_policy(name, o, &mut touched),
                Change::Group(id, o) => self.group(id, o, &mut touched),
                Change::Endpoint(port, o) => self.endpoint(port, o, &mut touched),
            }
        }
        for key in self.population.look_at(&mut touched.attention) {
            self.touch_pod(&key, &mut touched);
        }
        self.population.free_identities();
        self.settle_ports(&mut touched);
        let mut update = Update {
            peers: self.bind(&touched.addresses),
            groups: self.mark(),
            ..Update::default()
        };
        self.settle_classes(&mut touched, &mut update);
        self.say_ports(touched, &mut update);
        update.rules = self.specs.take_touched_rules();
        update
    }

    /// The name of a rule by its number.
    pub fn rule(&self, id: RuleId) -> Option<&RuleName> {
        self.specs.rule(id).map(|name| &**name)
    }

    /// The pod that has an address.
    pub fn pod_of(&self, address: &IpAddr) -> Option<&NamespacedName> {
        match self.claims.owner(address)? {
            Claimant::Port(port) => self.ports.get(port).map(|p| &p.endpoint.pod),
            Claimant::Pod(key) => Some(key),
        }
    }

    /// The pod behind a port of this node.
    pub fn pod_behind(&self, port: &str) -> Option<&NamespacedName> {
        self.ports.get(port).map(|p| &p.endpoint.pod)
    }

    /// Whether the pod behind a port is described: there is its Pod object, and its Namespace.
    pub fn is_described(&self, port: &str) -> bool {
        self.ports.get(port).is_some_and(|p| p.rules.is_some())
    }

    /// The rules of a port, if its pod is described.
    pub fn policy_of(&self, port: &str) -> Option<EndpointPolicy> {
        let port = self.ports.get(port)?;
        let (rules, pod) = (port.rules?, self.population.pod(&port.endpoint.pod)?);
        Some(EndpointPolicy {
            egress: self.specs.result(rules.egress)?.clone(),
            ingress: self.specs.result(rules.ingress)?.clone(),
            group: self.population.group_of(pod),
        })
    }

    // Changes

    fn namespace(&mut self, name: &str, o: Option<&Namespace>, touched: &mut Touched) {
        if self.population.namespace_labels(name) == o.map(|o| &o.labels) {
            return;
        }
        self.population.set_namespace(name, o.map(|o| &o.labels));
        for name in self.by_namespace.get(name).into_iter().flatten() {
            // Whether the pod behind it is described, and so who has its addresses, may be another matter now.
            if let Some(port) = self.ports.get(name) {
                touched.addresses.extend(&port.endpoint.addresses);
            }
            touched.ports.insert(name.clone());
        }
    }

    fn pod(&mut self, key: &NamespacedName, o: Option<&Pod>, touched: &mut Touched) {
        if self.population.pod(key) == o {
            return;
        }
        let before = self.population.set_pod(key, o);
        let claimant = Claimant::Pod(key.clone());
        let addresses = |pod: Option<&Pod>| -> Vec<IpAddr> {
            let claiming = pod.filter(|p| !p.host_network);
            claiming.map(|p| p.addresses.clone()).unwrap_or_default()
        };
        let (old, new) = (addresses(before.as_ref()), addresses(o));
        for address in old.iter().filter(|a| !new.contains(a)) {
            self.claims.remove(*address, &claimant);
            touched.addresses.insert(*address);
        }
        for address in &new {
            self.claims.add(*address, &claimant);
        }
        self.touch_pod(key, touched);
    }

    /// A pod may have another identity, and its ports other policies.
    fn touch_pod(&self, key: &NamespacedName, touched: &mut Touched) {
        if let Some(pod) = self.population.pod(key) {
            touched.addresses.extend(&pod.addresses);
        }
        for port in self.by_pod.get(key).into_iter().flatten() {
            if let Some(port) = self.ports.get(port) {
                touched.addresses.extend(&port.endpoint.addresses);
            }
            touched.ports.insert(port.clone());
        }
    }

    fn versioned(&mut self, policy: Policy) -> Versioned {
        self.version += 1;
        Versioned {
            version: self.version,
            policy: Arc::new(policy),
        }
    }

    fn policy(&mut self, key: &NamespacedName, o: Option<&NetworkPolicy>, touched: &mut Touched) {
        let new = o.map(Policy::from);
        let old = self.policies.get(key).map(|v| v.policy.clone());
        if old.as_deref() == new.as_ref() {
            return;
        }
        self.attend(old.as_deref(), new.as_ref(), touched);
        match new.map(|new| self.versioned(new)) {
            Some(new) => self.policies.insert(key.clone(), new),
            None => self.policies.remove(key),
        };
        let ports = self.by_namespace.get(&key.namespace);
        touched.ports.extend(ports.into_iter().flatten().cloned());
    }

    fn cluster_policy(
        &mut self,
        name: &str,
        o: Option<&ClusterNetworkPolicy>,
        touched: &mut Touched,
    ) {
        let new = o.map(Policy::from);
        let old = self.cluster_policies.get(name).map(|v| v.policy.clone());
        if old.as_deref() == new.as_ref() {
            return;
        }
        self.attend(old.as_deref(), new.as_ref(), touched);
        match new.map(|new| self.versioned(new)) {
            Some(new) => self.cluster_policies.insert(name.to_owned(), new),
            None => self.cluster_policies.remove(name),
        };
        touched.ports.extend(self.ports.keys().cloned());
    }

    fn group(&mut self, id: u16, o: Option<&Group>, touched: &mut Touched) {
        if self.population.group(id) == o {
            return;
        }
        let before = self.population.set_group(id, o);
        for group in before.iter().chain(o) {
            let is_of = |pod: &Pod| pod.labels == group.labels;
            for name in self
                .by_namespace
                .get(&group.namespace)
                .into_iter()
                .flatten()
            {
                let port = self.ports.get(name);
                let pod = port.and_then(|port| self.population.pod(&port.endpoint.pod));
                if pod.is_some_and(is_of) {
                    touched.grouped.insert(name.clone());
                }
            }
        }
    }

    fn attend(&mut self, old: Option<&Policy>, new: Option<&Policy>, touched: &mut Touched) {
        if let Some(new) = new {
            new.attention(true, &mut touched.attention);
        }
        if let Some(old) = old {
            old.attention(false, &mut touched.attention);
        }
    }

    fn endpoint(&mut self, name: &str, o: Option<Endpoint>, touched: &mut Touched) {
        let old = self.ports.get(name);
        if old.map(|p| &p.endpoint) == o.as_ref() {
            return;
        }
        let claimant = Claimant::Port(name.to_owned());
        if let Some(old) = old {
            let endpoint = old.endpoint.clone();
            for address in &endpoint.addresses {
                self.claims.remove(*address, &claimant);
                touched.addresses.insert(*address);
            }
            self.index(name, &endpoint, false);
        }
        let Some(endpoint) = o else {
            if let Some(old) = self.ports.remove(name) {
                self.release(name, old.rules, touched);
                touched.ports.remove(name);
                touched.gone.insert(name.to_owned());
            }
            return;
        };
        for address in &endpoint.addresses {
            self.claims.add(*address, &claimant);
            touched.addresses.insert(*address);
        }
        self.index(name, &endpoint, true);
        match self.ports.get_mut(name) {
            Some(port) => port.endpoint = endpoint,
            None => {
                let port = Port {
                    endpoint,
                    rules: None,
                    said: None,
                };
                self.ports.insert(name.to_owned(), port);
            }
        }
        touched.gone.remove(name);
        touched.ports.insert(name.to_owned());
    }

    fn index(&mut self, port: &str, endpoint: &Endpoint, add: bool) {
        let pod = &endpoint.pod;
        set_member(&mut self.by_pod, pod.clone(), port, add);
        set_member(&mut self.by_namespace, pod.namespace.clone(), port, add);
    }

    fn release(&mut self, port: &str, rules: Option<Rules>, touched: &mut Touched) {
        if let Some(Rules { egress, ingress }) = rules {
            self.specs.release(port, egress, &mut touched.leftovers);
            self.specs.release(port, ingress, &mut touched.leftovers);
        }
    }

    // What follows from them

    /// The pod behind a port, if it is described.
    fn described(&self, endpoint: &Endpoint) -> Option<&Pod> {
        self.population.namespace_labels(&endpoint.pod.namespace)?;
        let pod = self.population.pod(&endpoint.pod)?;
        let same = match (&pod.uid, &endpoint.uid) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        (same && !pod.host_network).then_some(pod)
    }

    /// Policies that select a pod and speak of a direction, in the order in which they are looked at.
    fn selecting(&self, pod: &Pod, direction: Direction) -> Vec<Versioned> {
        let Some(labels) = self.population.namespace_labels(&pod.namespace) else {
            return Vec::new();
        };
        let first = NamespacedName {
            namespace: pod.namespace.clone(),
            name: String::new(),
        };
        let own = self.policies.range(first..);
        let own = own
            .take_while(|(key, _)| key.namespace == pod.namespace)
            .map(|(_, policy)| policy);
        let all = own.chain(self.cluster_policies.values());
        let selecting =
            |v: &&Versioned| v.policy.concerns(direction) && v.policy.selects(pod, labels);
        let mut policies: Vec<Versioned> = all.filter(selecting).cloned().collect();
        order(&mut policies);
        policies
    }

    /// Finds the rules of ports that may have others now.
    fn settle_ports(&mut self, touched: &mut Touched) {
        for name in &touched.ports {
            let Some(port) = self.ports.get(name) else {
                continue;
            };
            let (pod, before) = (self.described(&port.endpoint).cloned(), port.rules);
            let rules = pod.map(|pod| {
                let mut acquire = |direction| {
                    let policies = self.selecting(&pod, direction);
                    let mut workshop = Workshop {
                        population: &mut self.population,
                        blocks: &mut self.blocks,
                        leftovers: &mut touched.leftovers,
                    };
                    self.specs
                        .acquire(name, direction, policies, &pod, &mut workshop)
                };
                Rules {
                    egress: acquire(Direction::Egress),
                    ingress: acquire(Direction::Ingress),
                }
            });
            if let Some(port) = self.ports.get_mut(name) {
                port.rules = rules;
            }
            self.release_old(name, before, rules, &mut touched.leftovers);
        }
    }

    /// Gives back what a port had; what it has still, it has once.
    fn release_old(
        &mut self,
        port: &str,
        before: Option<Rules>,
        now: Option<Rules>,
        leftovers: &mut Leftovers,
    ) {
        let numbers = |r: Option<Rules>| r.map(|r| [r.egress, r.ingress]).unwrap_or_default();
        let kept = now.map(|_| numbers(now));
        if before.is_none() {
            return;
        }
        for number in numbers(before) {
            self.specs.release(port, number, leftovers);
            if kept.is_some_and(|kept| kept.contains(&number)) {
                self.specs.use_by(port, number);
            }
        }
    }

    /// Who is behind addresses, where that differs.
    fn bind(&mut self, addresses: &HashSet<IpAddr>) -> Vec<(IpAddr, Option<IdentityId>)> {
        let mut peers = Vec::new();
        for address in addresses {
            let now = self.identity_at(address);
            if self.bound.get(address).copied() == now {
                continue;
            }
            match now {
                Some(identity) => self.bound.insert(*address, identity),
                None => self.bound.remove(address),
            };
            peers.push((*address, now));
        }
        peers.sort_unstable();
        peers
    }

    /// Who packets of groups are from, where that differs.
    fn mark(&mut self) -> Vec<(u16, Option<IdentityId>)> {
        let mut groups = Vec::new();
        for id in std::mem::take(&mut self.population.changes.groups) {
            let now = self.population.identity_of_group(id);
            if self.marked.get(&id).copied() == now {
                continue;
            }
            match now {
                Some(identity) => self.marked.insert(id, identity),
                None => self.marked.remove(&id),
            };
            groups.push((id, now));
        }
        groups
    }

    fn identity_at(&self, address: &IpAddr) -> Option<IdentityId> {
        match self.claims.owner(address)? {
            Claimant::Pod(key) => self.population.identity_of(key),
            Claimant::Port(name) => {
                let endpoint = &self.ports.get(name)?.endpoint;
                self.described(endpoint)?;
                self.population.identity_of(&endpoint.pod)
            }
        }
    }

    /// Gives up what nobody uses, and finds the classes anew where that matters.
    fn settle_classes(&mut self, touched: &mut Touched, update: &mut Update) {
        let mut workshop = Workshop {
            population: &mut self.population,
            blocks: &mut self.blocks,
            leftovers: &mut touched.leftovers,
        };
        let names = std::mem::take(&mut workshop.population.changes.port_names);
        self.specs.names_changed(&names, &mut workshop);
        self.specs.free_unused(&mut workshop);
        let leftovers = &mut touched.leftovers;
        let selectors = std::mem::take(&mut leftovers.selectors);
        self.population.deactivate_unused(selectors);
        let blocks = std::mem::take(&mut leftovers.blocks);
        self.blocks.deactivate_unused(blocks);
        let changed = self.blocks.classify();
        if changed.classes {
            self.specs.cidr_classes_changed();
        }
        update.cidrs = changed.prefixes;
        self.population.sweep_classes();
        let changes = std::mem::take(&mut self.population.changes);
        for (_, selectors) in &changes.new_classes {
            self.specs.class_is_new(selectors);
        }
        if changes.classes_swept {
            self.specs.classes_changed();
        }
        for (number, before) in changes.identities {
            let now = self.population.class_of(number);
            if now != before {
                update.identities.push((IdentityId(number), now));
            }
        }
        update.identities.sort_unstable();
    }

    /// Says the rules of ports, where they differ.
    fn say_ports(&mut self, touched: Touched, update: &mut Update) {
        let mut ports = touched.ports;
        ports.extend(touched.grouped);
        ports.extend(self.specs.refresh(&self.population, &self.blocks));
        for name in ports {
            let policy = self.policy_of(&name);
            let Some(port) = self.ports.get_mut(&name) else {
                continue;
            };
            let same = match (&port.said, &policy) {
                (Some(Some(said)), Some(policy)) => said.is(policy),
                (Some(None), None) => true,
                _ => false,
            };
            if same {
                continue;
            }
            port.said = Some(policy.clone());
            update.endpoints.push((name, policy));
        }
        let gone = touched.gone.into_iter();
        update.endpoints.extend(gone.map(|name| (name, None)));
        update.endpoints.sort_by(|a, b| a.0.cmp(&b.0));
    }
}

fn set_member<K: std::hash::Hash + Eq>(
    map: &mut HashMap<K, BTreeSet<String>>,
    key: K,
    port: &str,
    add: bool,
) {
    if add {
        map.entry(key).or_default().insert(port.to_owned());
    } else if let Some(ports) = map.get_mut(&key) {
        ports.remove(port);
        if ports.is_empty() {
            map.remove(&key);
        }
    }
}
