// SPDX-License-Identifier: Apache-2.0
//! Pods and groups, their identities, the selectors in use, and the classes of identities.
//!
//! An identity is what policies can tell a pod by: its namespace, those of its labels that some selector of a peer looks at, and those of
//! its named ports that some egress rule names. Which labels and names these are depends on all policies, so that a pod of this node that comes
//! or goes changes no identity. A group has the identity of a pod with its labels, whether there is one or not. Classes are sets of *active* selectors: those of policies that select pods of this node.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use podswitch_api::object::kubernetes::LabelSelector;
use podswitch_api::object::{Group, NamespacedName, Pod};

use crate::intern::{Counted, Interner};
use crate::labels::{Labels, matches_by, matches_namespace};
use crate::spec::{ClassId, IdentityId};

/// A named port as a container has it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct NamedPort {
    pub(crate) name: String,
    /// IANA number.
    pub(crate) protocol: u8,
    pub(crate) number: u16,
}

/// Which pods a peer of a rule is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct PeerSelector {
    pub(crate) namespaces: Namespaces,
    pub(crate) pods: LabelSelector,
    /// Only those that have this port.
    pub(crate) port: Option<NamedPort>,
}

/// Which namespaces a peer's pods are in.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Namespaces {
    /// This one.
    One(String),
    /// Those with such labels.
    With(LabelSelector),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Identity {
    namespace: String,
    /// Those that selectors look at, by key.
    labels: Vec<(String, String)>,
    /// Those that egress rules name.
    ports: Vec<NamedPort>,
}

impl Identity {
    fn is_selected(&self, selector: &PeerSelector) -> bool {
        let label = |key: &str| {
            let at = self.labels.binary_search_by(|(k, _)| k.as_str().cmp(key));
            at.ok().map(|at| self.labels[at].1.as_str())
        };
        let port = selector.port.as_ref();
        port.is_none_or(|port| self.ports.contains(port)) && matches_by(&selector.pods, label)
    }
}

/// What an identity is beside itself.
#[derive(Debug)]
struct Membership {
    class: u32,
    /// Active selectors that it matches, ascending: what the class stands for.
    selectors: Vec<u32>,
}

#[derive(Debug, Default)]
struct Namespace {
    labels: Labels,
    /// Active selectors that may select its pods.
    selectors: BTreeSet<u32>,
    /// Identities of its pods.
    identities: BTreeSet<u32>,
    /// There is a Namespace object.
    known: bool,
}

/// Classes without identities that are kept, so that the pod that comes back finds its class again.
const KEPT_CLASSES: usize = 1024;

/// Everything about peers.
#[derive(Debug, Default)]
pub(crate) struct Population {
    namespaces: HashMap<String, Namespace>,
    pods: HashMap<NamespacedName, (Pod, Option<IdentityId>)>,
    groups: HashMap<u16, (Group, IdentityId)>,
    /// Groups by namespace and labels of their pods.
    group_pods: HashMap<String, HashMap<Labels, u16>>,
    identities: Interner<Identity>,
    memberships: HashMap<u32, Membership>,
    selectors: Interner<PeerSelector>,
    classes: Interner<Vec<u32>>,
    unused_classes: usize,
    /// Label keys and port names that matter.
    keys: Counted<String>,
    names: Counted<String>,
    /// Named ports that identities have, by name.
    ports: BTreeMap<String, BTreeMap<(u8, u16), usize>>,
    pub(crate) changes: Changes,
}

/// What has changed since somebody looked.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Identities whose class may differ, with the class they had.
    pub(crate) identities: HashMap<u32, Option<ClassId>>,
    /// Classes that came into being, with their selectors.
    pub(crate) new_classes: Vec<(ClassId, Vec<u32>)>,
    /// Classes were given up.
    pub(crate) classes_swept: bool,
    /// Names of ports for which there are other numbers than before.
    pub(crate) port_names: BTreeSet<String>,
    /// Groups whose identity may differ.
    pub(crate) groups: BTreeSet<u16>,
    /// Identities that nobody has any more; their numbers are still taken.
    unused: HashSet<u32>,
}

impl Population {
    // Namespaces

    fn namespace(&mut self, name: &str) -> &mut Namespace {
        if !self.namespaces.contains_key(name) {
            let selectors = self.selectors.iter();
            let may = |(n, s, _): (u32, &std::sync::Arc<PeerSelector>, usize)| {
                selects_namespace(s, name, &Labels::new()).then_some(n)
            };
            let namespace = Namespace {
                selectors: selectors.filter_map(may).collect(),
                ..Namespace::default()
            };
            self.namespaces.insert(name.to_owned(), namespace);
        }
        self.namespaces.entry(name.to_owned()).or_default()
    }

    /// A Namespace object came, changed or went.
    pub(crate) fn set_namespace(&mut self, name: &str, labels: Option<&Labels>) {
        let known = labels.is_some();
        let labels = labels.cloned().unwrap_or_default();
        let there = self.namespace(name);
        there.known = known;
        if there.labels == labels {
            return self.forget_namespace(name);
        }
        there.labels = labels;
        let labels = there.labels.clone();
        let active = self.selectors.iter();
        let selectors = active
            .filter(|(_, s, _)| selects_namespace(s, name, &labels))
            .map(|(n, _, _)| n)
            .collect();
        let there = self.namespace(name);
        if there.selectors != selectors {
            there.selectors = selectors;
            for identity in there.identities.clone() {
                self.reclassify(identity);
            }
        }
        self.forget_namespace(name);
    }

    fn forget_namespace(&mut self, name: &str) {
        let unused = |n: &Namespace| !n.known && n.identities.is_empty() && n.labels.is_empty();
        if self.namespaces.get(name).is_some_and(unused) {
            self.namespaces.remove(name);
        }
    }

    /// Labels of a namespace of which there is a Namespace object.
    pub(crate) fn namespace_labels(&self, name: &str) -> Option<&Labels> {
        let namespace = self.namespaces.get(name).filter(|n| n.known)?;
        Some(&namespace.labels)
    }

    // Pods and identities

    /// A pod.
    pub(crate) fn pod(&self, key: &NamespacedName) -> Option<&Pod> {
        self.pods.get(key).map(|(pod, _)| pod)
    }

    /// A pod's identity; none has a pod with the node's network.
    pub(crate) fn identity_of(&self, key: &NamespacedName) -> Option<IdentityId> {
        self.pods.get(key)?.1
    }

    /// A Pod object came, changed or went; the one before comes back.
    pub(crate) fn set_pod(&mut self, key: &NamespacedName, pod: Option<&Pod>) -> Option<Pod> {
        let before = self.pods.remove(key);
        if let Some(pod) = pod {
            let identity = self.acquire_identity(pod);
            self.pods.insert(key.clone(), (pod.clone(), identity));
        }
        if let Some((_, Some(identity))) = &before {
            self.release_identity(identity.0);
        }
        before.map(|(pod, _)| pod)
    }

    fn acquire_identity(&mut self, pod: &Pod) -> Option<IdentityId> {
        if pod.host_network {
            return None;
        }
        let ports = pod.ports.iter();
        let ports = ports.filter(|p| self.names.contains(p.name.as_str()));
        let mut ports: Vec<NamedPort> = ports
            .map(|p| NamedPort {
                name: p.name.clone(),
                protocol: p.protocol.number().0,
                number: p.container_port,
            })
            .collect();
        ports.sort();
        ports.dedup();
        Some(self.acquire(&pod.namespace, &pod.labels, ports))
    }

    fn acquire(&mut self, namespace: &str, labels: &Labels, ports: Vec<NamedPort>) -> IdentityId {
        let relevant = |(key, _): &(&String, &String)| self.keys.contains(key.as_str());
        let labels = labels.iter().filter(relevant);
        let identity = Identity {
            namespace: namespace.to_owned(),
            labels: labels.map(|(k, v)| (k.clone(), v.clone())).collect(),
            ports,
        };
        let (number, new) = self.identities.acquire(identity);
        self.changes.unused.remove(&number);
        if new {
            self.begin_identity(number);
        }
        IdentityId(number)
    }

    fn begin_identity(&mut self, number: u32) {
        let Some(identity) = self.identities.get(number).cloned() else {
            return;
        };
        self.namespace(&identity.namespace)
            .identities
            .insert(number);
        for port in &identity.ports {
            let numbers = self.ports.entry(port.name.clone()).or_default();
            let users = numbers.entry((port.protocol, port.number)).or_insert(0);
            *users += 1;
            if *users == 1 {
                self.changes.port_names.insert(port.name.clone());
            }
        }
        self.changes.identities.entry(number).or_insert(None);
        self.reclassify(number);
    }

    fn release_identity(&mut self, number: u32) {
        if self.identities.release(number) {
            self.changes.unused.insert(number);
        }
    }

    /// Gives up the numbers of identities that nobody has any more.
    pub(crate) fn free_identities(&mut self) {
        for number in std::mem::take(&mut self.changes.unused) {
            let Some(identity) = self.identities.get(number).cloned() else {
                continue;
            };
            if !self.identities.free(number) {
                continue;
            }
            if let Some(membership) = self.memberships.remove(&number) {
                let class = membership.class;
                let before = self.changes.identities.entry(number);
                before.or_insert(Some(ClassId(class)));
                self.release_class(class);
            }
            for port in &identity.ports {
                self.end_port(port);
            }
            if let Some(namespace) = self.namespaces.get_mut(&identity.namespace) {
                namespace.identities.remove(&number);
            }
            self.forget_namespace(&identity.namespace);
        }
    }

    fn end_port(&mut self, port: &NamedPort) {
        let Some(numbers) = self.ports.get_mut(&port.name) else {
            return;
        };
        if let Some(users) = numbers.get_mut(&(port.protocol, port.number)) {
            *users -= 1;
            if *users == 0 {
                numbers.remove(&(port.protocol, port.number));
                self.changes.port_names.insert(port.name.clone());
            }
        }
        if numbers.is_empty() {
            self.ports.remove(&port.name);
        }
    }

    /// Protocols and numbers that pods' ports of a name have.
    pub(crate) fn numbers_of(&self, name: &str) -> impl Iterator<Item = (u8, u16)> {
        self.ports
            .get(name)
            .into_iter()
            .flat_map(|n| n.keys().copied())
    }

    /// Policies look at these label keys and port names from now on, or no longer; the pods whose identity is another one.
    pub(crate) fn look_at(&mut self, keys: &mut Attention) -> Vec<NamespacedName> {
        let Attention { keys, names } = std::mem::take(keys);
        let apply = |counted: &mut Counted<String>, changes: Vec<(String, bool)>| {
            let mut before: HashMap<String, bool> = HashMap::new();
            for (thing, more) in changes {
                let was = counted.contains(thing.as_str());
                before.entry(thing.clone()).or_insert(was);
                match more {
                    true => counted.add(thing),
                    false => counted.remove(&thing),
                };
            }
            let differs = |(thing, was): (String, bool)| {
                (counted.contains(thing.as_str()) != was).then_some(thing)
            };
            before.into_iter().filter_map(differs).collect::<Vec<_>>()
        };
        let keys = apply(&mut self.keys, keys);
        let names = apply(&mut self.names, names);
        if keys.is_empty() && names.is_empty() {
            return Vec::new();
        }
        let concerns = |pod: &Pod| {
            keys.iter().any(|key| pod.labels.contains_key(key))
                || pod.ports.iter().any(|p| names.contains(&p.name))
        };
        let pods = self.pods.iter().filter(|(_, (pod, _))| concerns(pod));
        let concerned: Vec<NamespacedName> = pods.map(|(key, _)| key.clone()).collect();
        for key in &concerned {
            if let Some((pod, _)) = self.pods.get(key) {
                let pod = pod.clone();
                self.set_pod(key, Some(&pod));
            }
        }
        let names = |group: &Group| keys.iter().any(|key| group.labels.contains_key(key));
        let groups = self.groups.values().filter(|(group, _)| names(group));
        let groups: Vec<Group> = groups.map(|(group, _)| group.clone()).collect();
        for group in groups {
            self.set_group(group.id, Some(&group));
        }
        concerned
    }

    // Groups

    /// A group came, changed or went; the one before comes back.
    pub(crate) fn set_group(&mut self, id: u16, group: Option<&Group>) -> Option<Group> {
        let before = self.groups.remove(&id);
        if let Some((old, _)) = &before
            && let Some(of) = self.group_pods.get_mut(&old.namespace)
        {
            // Another one may have taken its pods over already.
            if of.get(&old.labels) == Some(&id) {
                of.remove(&old.labels);
            }
            if of.is_empty() {
                self.group_pods.remove(&old.namespace);
            }
        }
        if let Some(group) = group {
            // Named ports are those of who is reached.
            let identity = self.acquire(&group.namespace, &group.labels, Vec::new());
            self.groups.insert(id, (group.clone(), identity));
            let of = self.group_pods.entry(group.namespace.clone()).or_default();
            of.insert(group.labels.clone(), id);
        }
        if let Some((_, identity)) = &before {
            self.release_identity(identity.0);
        }
        self.changes.groups.insert(id);
        before.map(|(group, _)| group)
    }

    /// A group.
    pub(crate) fn group(&self, id: u16) -> Option<&Group> {
        self.groups.get(&id).map(|(group, _)| group)
    }

    /// The identity of a group.
    pub(crate) fn identity_of_group(&self, id: u16) -> Option<IdentityId> {
        self.groups.get(&id).map(|(_, identity)| *identity)
    }

    /// The group of a pod.
    pub(crate) fn group_of(&self, pod: &Pod) -> Option<u16> {
        let of = self.group_pods.get(&pod.namespace)?;
        of.get(&pod.labels).copied()
    }

    // Selectors and classes

    /// The number of a selector, for one user more.
    pub(crate) fn activate(&mut self, selector: PeerSelector) -> u32 {
        let (number, new) = self.selectors.acquire(selector);
        if new {
            self.begin_selector(number);
        }
        number
    }

    fn begin_selector(&mut self, number: u32) {
        let Some(selector) = self.selectors.get(number).cloned() else {
            return;
        };
        let mut concerned = Vec::new();
        for (name, namespace) in self.scope(&selector) {
            if selects_namespace(&selector, &name, &namespace.labels) {
                namespace.selectors.insert(number);
                concerned.extend(namespace.identities.iter().copied());
            }
        }
        for identity in concerned {
            if self
                .identities
                .get(identity)
                .is_some_and(|i| i.is_selected(&selector))
            {
                self.reclassify(identity);
            }
        }
    }

    /// The namespaces that a selector may be about.
    fn scope(&mut self, selector: &PeerSelector) -> Vec<(String, &mut Namespace)> {
        match &selector.namespaces {
            Namespaces::One(name) => {
                let one = self.namespaces.get_mut(name);
                one.map(|n| (name.clone(), n)).into_iter().collect()
            }
            Namespaces::With(_) => {
                let all = self.namespaces.iter_mut();
                all.map(|(name, n)| (name.clone(), n)).collect()
            }
        }
    }

    /// One user of a selector fewer. Nothing changes before [`Population::deactivate_unused`].
    pub(crate) fn release_selector(&mut self, number: u32, unused: &mut BTreeSet<u32>) {
        if self.selectors.release(number) {
            unused.insert(number);
        }
    }

    /// Gives up selectors that nobody uses any more.
    pub(crate) fn deactivate_unused(&mut self, unused: BTreeSet<u32>) {
        for number in unused {
            let Some(selector) = self.selectors.get(number).cloned() else {
                continue;
            };
            if !self.selectors.free(number) {
                continue;
            }
            let mut concerned = Vec::new();
            for (_, namespace) in self.scope(&selector) {
                if namespace.selectors.remove(&number) {
                    concerned.extend(namespace.identities.iter().copied());
                }
            }
            for identity in concerned {
                let selected = self.memberships.get(&identity);
                if selected.is_some_and(|m| m.selectors.binary_search(&number).is_ok()) {
                    self.reclassify(identity);
                }
            }
        }
    }

    /// Finds the class of an identity anew.
    fn reclassify(&mut self, number: u32) {
        let Some(identity) = self.identities.get(number).cloned() else {
            return;
        };
        let namespace = self.namespaces.get(&identity.namespace);
        let candidates = namespace.into_iter().flat_map(|n| &n.selectors);
        let selected = candidates.copied().filter(|s| {
            let selector = self.selectors.get(*s);
            selector.is_some_and(|selector| identity.is_selected(selector))
        });
        let selectors: Vec<u32> = selected.collect();
        let old = self.memberships.get(&number);
        if old.is_some_and(|m| m.selectors == selectors) {
            return;
        }
        let before = old.map(|m| ClassId(m.class));
        self.changes.identities.entry(number).or_insert(before);
        let class = self.acquire_class(selectors.clone());
        let membership = Membership { class, selectors };
        if let Some(old) = self.memberships.insert(number, membership) {
            self.release_class(old.class);
        }
    }

    fn acquire_class(&mut self, selectors: Vec<u32>) -> u32 {
        let (class, new) = self.classes.acquire(selectors);
        if new {
            let selectors = self.classes.get(class).map(|s| s.to_vec());
            let selectors = selectors.unwrap_or_default();
            self.changes.new_classes.push((ClassId(class), selectors));
        }
        class
    }

    fn release_class(&mut self, class: u32) {
        self.unused_classes += usize::from(self.classes.release(class));
    }

    /// Gives up classes without identities, once there are many.
    pub(crate) fn sweep_classes(&mut self) {
        if self.unused_classes <= KEPT_CLASSES {
            return;
        }
        let unused: Vec<u32> = self
            .classes
            .iter()
            .filter_map(|(n, _, users)| (users == 0).then_some(n))
            .collect();
        self.unused_classes = 0;
        // Some were taken into use again since they were counted.
        if unused.len() > KEPT_CLASSES {
            unused.into_iter().for_each(|class| {
                self.classes.free(class);
            });
            self.changes.classes_swept = true;
        } else {
            self.unused_classes = unused.len();
        }
    }

    /// The class of an identity.
    pub(crate) fn class_of(&self, identity: u32) -> Option<ClassId> {
        self.memberships.get(&identity).map(|m| ClassId(m.class))
    }

    /// Every class with the selectors it stands for.
    pub(crate) fn classes(&self) -> impl Iterator<Item = (ClassId, &[u32])> {
        self.classes.iter().map(|(n, s, _)| (ClassId(n), &s[..]))
    }
}

/// Label keys and port names that policies look at: more (true) or fewer.
#[derive(Debug, Default)]
pub(crate) struct Attention {
    pub(crate) keys: Vec<(String, bool)>,
    pub(crate) names: Vec<(String, bool)>,
}

/// Whether a selector may select pods of this namespace.
fn selects_namespace(selector: &PeerSelector, name: &str, labels: &Labels) -> bool {
    match &selector.namespaces {
        Namespaces::One(one) => one == name,
        Namespaces::With(selector) => matches_namespace(selector, name, labels),
    }
}
