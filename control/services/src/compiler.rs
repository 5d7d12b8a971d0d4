// SPDX-License-Identifier: Apache-2.0
//! Events in, changes of objects out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;

use podswitch_api::limits::MAX_SERVICE_BACKENDS;
use podswitch_api::method::Change;
use podswitch_api::object::{self, Backend, Key, NamespacedName, TrafficPolicy};

use crate::Node;
use crate::choice::{choose, is_local};
use crate::claims::{Claim, Claimant, Claims};
use crate::kubernetes::{EndpointSlice, Service};
use crate::plan::{Plan, Wanted, plan};
use crate::slice::{self, Slice};

/// What the API server says.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// There is such a Service, new or changed.
    Service(&'a Service),
    /// There is no such Service.
    NoService(&'a NamespacedName),
    /// There is such an EndpointSlice, new or changed.
    Slice(&'a EndpointSlice),
    /// There is no such EndpointSlice.
    NoSlice(&'a NamespacedName),
}

/// What is not done as it was asked for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Problem {
    /// `Service` or `EndpointSlice`.
    pub kind: &'static str,
    /// Which one.
    pub key: NamespacedName,
    /// The field, as a path such as `spec.externalIPs[0]`.
    pub field: String,
    /// What is wrong with its value, and what is done instead.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}: {}: {}",
            self.kind, self.key, self.field, self.message
        )
    }
}

/// What is different after some events.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Update {
    /// Objects that are gone, and then those that are new or different, each once.
    pub changes: Vec<Change>,
    /// Problems that were not there before.
    pub problems: Vec<Problem>,
}

/// What a load balancer is told that asks this node (`healthCheckNodePort`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Health {
    /// The port of the node at which it asks.
    pub port: u16,
    /// How many local endpoints are ready; with none it is to send nothing here.
    pub local_ready: usize,
}

/// All Services with their slices, and the objects that come of them.
#[derive(Debug, Default)]
pub struct Services {
    node: Node,
    services: HashMap<NamespacedName, Entry>,
    /// The Service of each slice.
    slices: HashMap<NamespacedName, NamespacedName>,
    claims: Claims,
}

/// A Service, its slices, or both: either may come first.
#[derive(Debug, Default)]
struct Entry {
    service: Option<Service>,
    plan: Plan,
    slices: BTreeMap<String, Slice>,
    objects: BTreeMap<String, object::Service>,
    problems: BTreeSet<Problem>,
    local_ready: usize,
}

impl Services {
    /// Without any Service, for this node.
    pub fn new(node: Node) -> Services {
        Services {
            node,
            ..Services::default()
        }
    }

    /// The node has changed; everything is looked at anew.
    pub fn set_node(&mut self, node: Node) -> Update {
        if node == self.node {
            return Update::default();
        }
        self.node = node;
        let mut touched: BTreeSet<NamespacedName> = self.services.keys().cloned().collect();
        for key in touched.clone() {
            self.replan(&key, &mut touched);
        }
        self.rebuild(&touched)
    }

    /// Takes events in, in their order. Several at a time cost less than one after another.
    pub fn apply<'e>(&mut self, events: impl IntoIterator<Item = Event<'e>>) -> Update {
        let mut touched = BTreeSet::new();
        for event in events {
            match event {
                Event::Service(o) => self.service(o.metadata.key(), Some(o.clone()), &mut touched),
                Event::NoService(key) => self.service(key.clone(), None, &mut touched),
                Event::Slice(o) => self.slice(&o.metadata.key(), slice::read(o), &mut touched),
                Event::NoSlice(key) => self.slice(key, None, &mut touched),
            }
        }
        self.rebuild(&touched)
    }

    /// All objects, in no order.
    pub fn objects(&self) -> impl Iterator<Item = &object::Service> {
        self.services.values().flat_map(|e| e.objects.values())
    }

    /// All problems, in no order.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.services.values().flat_map(|e| &e.problems)
    }

    /// What a load balancer is told of a Service; nothing where none asks.
    pub fn health(&self, service: &NamespacedName) -> Option<Health> {
        self.services.get(service).and_then(Entry::health)
    }

    /// The Services of which load balancers ask this node, in no order.
    pub fn health_checks(&self) -> impl Iterator<Item = (&NamespacedName, Health)> {
        let all = self.services.iter();
        all.filter_map(|(key, entry)| Some((key, entry.health()?)))
    }

    fn service(
        &mut self,
        key: NamespacedName,
        service: Option<Service>,
        touched: &mut BTreeSet<NamespacedName>,
    ) {
        let entry = self.services.entry(key.clone()).or_default();
        if entry.service != service {
            entry.service = service;
            self.replan(&key, touched);
        }
        touched.insert(key);
    }

    /// Reads a Service anew. Whoever wants what it wants or wanted is touched.
    fn replan(&mut self, key: &NamespacedName, touched: &mut BTreeSet<NamespacedName>) {
        let Some(entry) = self.services.get_mut(key) else {
            return;
        };
        let service = entry.service.as_ref();
        let new = service.map(|o| plan(o, &self.node)).unwrap_or_default();
        let old = std::mem::replace(&mut entry.plan, new);
        for wanted in &old.wanted {
            let claims = wanted.claims();
            claims.for_each(|claim| self.claims.remove(&claim, &wanted.by, touched));
        }
        for wanted in &entry.plan.wanted {
            let claims = wanted.claims();
            claims.for_each(|claim| self.claims.add(claim, &wanted.by, touched));
        }
    }

    fn slice(
        &mut self,
        key: &NamespacedName,
        slice: Option<Slice>,
        touched: &mut BTreeSet<NamespacedName>,
    ) {
        // Its label may name another Service than before.
        if let Some(of) = self.slices.remove(key)
            && let Some(entry) = self.services.get_mut(&of)
        {
            entry.slices.remove(&key.name);
            touched.insert(of);
        }
        if let Some(slice) = slice {
            let of = slice.service.clone();
            self.slices.insert(key.clone(), of.clone());
            let entry = self.services.entry(of.clone()).or_default();
            entry.slices.insert(key.name.clone(), slice);
            touched.insert(of);
        }
    }

    /// Makes the objects of these Services anew, and says what is different.
    fn rebuild(&mut self, touched: &BTreeSet<NamespacedName>) -> Update {
        let mut update = Update::default();
        let mut gone = BTreeSet::new();
        let mut set = BTreeMap::new();
        for key in touched {
            let Some(entry) = self.services.get_mut(key) else {
                continue;
            };
            let (objects, problems) = entry.build(&self.node, &self.claims);
            let old = &entry.objects;
            gone.extend(
                old.keys()
                    .filter(|name| !objects.contains_key(*name))
                    .cloned(),
            );
            let differs = |(name, o): &(&String, &object::Service)| old.get(*name) != Some(*o);
            let different = objects.iter().filter(differs);
            set.extend(different.map(|(name, o)| (name.clone(), o.clone())));
            let new = problems.difference(&entry.problems).cloned();
            update.problems.extend(new);
            entry.objects = objects;
            entry.problems = problems;
            entry.local_ready = entry.count_local_ready(&self.node);
            if entry.service.is_none() && entry.slices.is_empty() {
                self.services.remove(key);
            }
        }
        // A cut name may have gone from one Service to another.
        gone.retain(|name| !set.contains_key(name));
        let deletes = gone
            .into_iter()
            .map(|name| Change::delete(Key::Service { name }));
        let sets = set.into_values().map(Change::set);
        update.changes = deletes.chain(sets).collect();
        update
    }
}

impl Entry {
    fn health(&self) -> Option<Health> {
        Some(Health {
            port: self.plan.health_port?,
            local_ready: self.local_ready,
        })
    }

    fn build(
        &self,
        node: &Node,
        claims: &Claims,
    ) -> (BTreeMap<String, object::Service>, BTreeSet<Problem>) {
        let mut problems: BTreeSet<Problem> = self.plan.problems.iter().cloned().collect();
        let mut objects = BTreeMap::new();
        if self.plan.wanted.is_empty() {
            return (objects, problems);
        }
        problems.extend(
            self.slices
                .values()
                .flat_map(|s| s.problems.iter().cloned()),
        );
        for wanted in &self.plan.wanted {
            let build = Build {
                wanted,
                claims,
                problems: &mut problems,
            };
            let slices = self.slices.values();
            let of_family = slices.filter(|s| s.is_ipv4 == wanted.address.is_ipv4());
            if let Some(object) = build.object(of_family, node) {
                objects.insert(object.name.clone(), object);
            }
        }
        (objects, problems)
    }

    /// Addresses of ready endpoints on this node, of the family that has more: pods with two addresses are not two.
    fn count_local_ready(&self, node: &Node) -> usize {
        if self.plan.health_port.is_none() {
            return 0;
        }
        let slices = self.slices.values().filter(|s| !s.ports.is_empty());
        let endpoints = slices.flat_map(|s| &s.endpoints);
        let here = endpoints.filter(|e| e.is_ready && is_local(e, node));
        let all: BTreeSet<IpAddr> = here.map(|e| e.address).collect();
        let v4 = all.iter().filter(|a| a.is_ipv4()).count();
        v4.max(all.len() - v4)
    }
}

/// One object in the making.
struct Build<'a> {
    wanted: &'a Wanted,
    claims: &'a Claims,
    problems: &'a mut BTreeSet<Problem>,
}

impl Build<'_> {
    /// The object; nothing if others have its address.
    fn object<'s>(
        mut self,
        slices: impl Iterator<Item = &'s Slice>,
        node: &Node,
    ) -> Option<object::Service> {
        let wanted = self.wanted;
        let (by, port) = (&wanted.by, wanted.port);
        let own = wanted.address_claim(wanted.address);
        let address = self.gets(own, "spec.clusterIPs", || {
            format!("port {port} of {}", wanted.address)
        });
        let name = match wanted.is_cut {
            true => {
                let claim = Claim::Name(wanted.name.clone());
                self.gets(claim, "metadata.name", || {
                    format!("the name {}", wanted.name)
                })
            }
            false => true,
        };
        if !address || !name {
            return None;
        }
        let mut external = wanted.external.clone();
        external.retain(|e| {
            let what = || format!("port {port} of {}", e.address);
            let field = "spec.externalIPs, status.loadBalancer";
            self.gets(wanted.address_claim(e.address), field, what)
        });
        let node_port = wanted.node_port.filter(|number| {
            let what = || format!("port {number} of the node");
            self.gets(wanted.node_port_claim(*number), "spec.ports.nodePort", what)
        });
        let mut chosen = choose(slices, &by.port, wanted.protocol, node);
        let outside = node_port.is_some() || !external.is_empty();
        let uses_local = wanted.internal == TrafficPolicy::Local
            || outside && wanted.outside == TrafficPolicy::Local;
        if !uses_local {
            chosen.local.clear();
        }
        Some(object::Service {
            name: wanted.name.clone(),
            protocol: wanted.protocol,
            port,
            addresses: vec![wanted.address],
            external,
            node_port,
            internal_traffic: wanted.internal,
            external_traffic: wanted.outside,
            affinity_seconds: wanted.affinity_seconds,
            backends: self.fitting(chosen.cluster),
            local_backends: self.fitting(chosen.local),
        })
    }

    /// Whether it gets what it wants, or else a problem.
    fn gets(&mut self, claim: Claim, field: &str, what: impl Fn() -> String) -> bool {
        match self.claims.before(&claim, &self.wanted.by) {
            None => true,
            Some(first) => {
                let Claimant { service, .. } = first;
                let message = format!(
                    "{}, {}, is that of Service {service}, which goes first; it is left out",
                    what(),
                    self.wanted.protocol
                );
                self.problem(field, message);
                false
            }
        }
    }

    /// As many backends as an object may have.
    fn fitting(&mut self, mut all: Vec<Backend>) -> Vec<Backend> {
        if all.len() > MAX_SERVICE_BACKENDS {
            let message = format!(
                "{} endpoints of port {:?} are more than {MAX_SERVICE_BACKENDS}; the others are left out",
                all.len(),
                self.wanted.by.port
            );
            self.problem("endpoints", message);
            all.truncate(MAX_SERVICE_BACKENDS);
        }
        all
    }

    fn problem(&mut self, field: &str, message: String) {
        self.problems.insert(Problem {
            kind: "Service",
            key: self.wanted.by.service.clone(),
            field: field.to_owned(),
            message,
        });
    }
}
