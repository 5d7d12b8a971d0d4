// SPDX-License-Identifier: Apache-2.0
//! Changes of a cluster, in steps as a node hears of them: what belongs together may come at once, in any order, or one
//! after the other with other things between.

use std::fmt;

use serde_json::Value;

use super::Rng;
use super::address::free_address;
use super::cluster::{
    GROUPS, NAMESPACE_KEYS, NAMESPACES, POD_KEYS, endpoint, group, labels, namespace, pod, ports,
};
use super::policy::{cluster_policy, network_policy};
use crate::cluster::{Cluster, Endpoint, Group, Namespace, Pod, name};

/// One object from now on, or none any more.
#[derive(Clone, PartialEq, Debug)]
pub enum Change {
    /// A namespace.
    Namespace(String, Option<Namespace>),
    /// A pod, by namespace and name.
    Pod(String, String, Option<Pod>),
    /// A NetworkPolicy, by namespace and name.
    NetworkPolicy(String, String, Option<Value>),
    /// A ClusterNetworkPolicy.
    ClusterPolicy(String, Option<Value>),
    /// A group.
    Group(u16, Option<Group>),
    /// An endpoint.
    Endpoint(String, Option<Endpoint>),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Namespace(_, Some(new)) => write!(f, "{}", new.manifest()),
            Change::Pod(_, _, Some(new)) => write!(f, "{}", new.manifest()),
            Change::NetworkPolicy(_, _, Some(new)) | Change::ClusterPolicy(_, Some(new)) => {
                write!(f, "{new}")
            }
            Change::Group(id, Some(g)) => {
                write!(f, "group {id} is {} {:?}", g.namespace, g.labels)
            }
            Change::Group(id, None) => write!(f, "group {id} goes"),
            Change::Endpoint(port, Some(e)) => {
                let Endpoint {
                    namespace,
                    name,
                    uid,
                    addresses,
                    ..
                } = e;
                write!(f, "{port} is {namespace}/{name} {uid} {addresses:?}")
            }
            Change::Namespace(name, None) => write!(f, "namespace {name} goes"),
            Change::Pod(namespace, name, None) => write!(f, "pod {namespace}/{name} goes"),
            Change::NetworkPolicy(namespace, name, None) => {
                write!(f, "NetworkPolicy {namespace}/{name} goes")
            }
            Change::ClusterPolicy(name, None) => write!(f, "ClusterNetworkPolicy {name} goes"),
            Change::Endpoint(port, None) => write!(f, "{port} goes"),
        }
    }
}

/// Puts a new object behind all others, in place of the old one, if it differs.
fn set<T: Clone + PartialEq>(list: &mut Vec<T>, same: impl Fn(&T) -> bool, new: &Option<T>) {
    if list.iter().find(|old| same(old)) != new.as_ref() {
        list.retain(|old| !same(old));
        list.extend(new.clone());
    }
}

impl Change {
    /// The same object, gone.
    pub fn gone(self) -> Change {
        match self {
            Change::Namespace(name, _) => Change::Namespace(name, None),
            Change::Pod(namespace, name, _) => Change::Pod(namespace, name, None),
            Change::NetworkPolicy(namespace, name, _) => {
                Change::NetworkPolicy(namespace, name, None)
            }
            Change::ClusterPolicy(name, _) => Change::ClusterPolicy(name, None),
            Change::Group(id, _) => Change::Group(id, None),
            Change::Endpoint(port, _) => Change::Endpoint(port, None),
        }
    }

    /// Makes the cluster as it says.
    pub fn apply(&self, cluster: &mut Cluster) {
        match self {
            Change::Namespace(n, new) => set(&mut cluster.namespaces, |o| o.name == *n, new),
            Change::Pod(ns, n, new) => {
                set(
                    &mut cluster.pods,
                    |o| o.namespace == *ns && o.name == *n,
                    new,
                );
            }
            Change::NetworkPolicy(ns, n, new) => {
                let key = format!("{ns}/{n}");
                set(&mut cluster.network_policies, |o| name(o) == key, new);
            }
            Change::ClusterPolicy(n, new) => {
                set(&mut cluster.cluster_policies, |o| name(o) == *n, new);
            }
            Change::Group(id, new) => set(&mut cluster.groups, |o| o.id == *id, new),
            Change::Endpoint(port, new) => {
                set(&mut cluster.endpoints, |o| o.port == *port, new);
            }
        }
    }

    fn pod(pod: Pod) -> Change {
        Change::Pod(pod.namespace.clone(), pod.name.clone(), Some(pod))
    }

    fn no_pod(pod: &Pod) -> Change {
        Change::Pod(pod.namespace.clone(), pod.name.clone(), None)
    }

    fn attach(endpoint: Endpoint) -> Change {
        Change::Endpoint(endpoint.port.clone(), Some(endpoint))
    }

    fn detach(endpoint: &Endpoint) -> Change {
        Change::Endpoint(endpoint.port.clone(), None)
    }

    /// All of a cluster, as changes of an empty one.
    pub fn all(cluster: &Cluster) -> Vec<Change> {
        let mut all = Vec::new();
        let namespaces = cluster.namespaces.iter().cloned();
        all.extend(namespaces.map(|n| Change::Namespace(n.name.clone(), Some(n))));
        all.extend(cluster.pods.iter().cloned().map(Change::pod));
        for policy in &cluster.network_policies {
            let name = name(policy);
            let (namespace, name) = name.split_once('/').unwrap_or(("", &name));
            all.push(Change::NetworkPolicy(
                namespace.into(),
                name.into(),
                Some(policy.clone()),
            ));
        }
        let policies = cluster.cluster_policies.iter();
        all.extend(policies.map(|p| Change::ClusterPolicy(name(p), Some(p.clone()))));
        let groups = cluster.groups.iter().cloned();
        all.extend(groups.map(|g| Change::Group(g.id, Some(g))));
        all.extend(cluster.endpoints.iter().cloned().map(Change::attach));
        all
    }
}

/// Makes steps for a cluster.
#[derive(Clone, Debug, Default)]
pub struct Steps {
    /// Changes that are on their way: what an earlier step left for later.
    later: Vec<Change>,
    /// Numbers of new pods and policies.
    count: u32,
}

impl Steps {
    /// The changes of the next step, for a cluster as it is now; they may touch an object more than once.
    pub fn next(&mut self, rng: &mut Rng, cluster: &Cluster) -> Vec<Change> {
        // Each scenario is of the cluster as those before it in this step leave it.
        let mut now = cluster.clone();
        let mut step = Vec::new();
        for _ in 0..rng.within(1, 3) {
            let mut changes = match rng.percent(35) && !self.later.is_empty() {
                true => vec![self.later.remove(0)],
                false => self.scenario(rng, &now),
            };
            if self.later.is_empty() && changes.len() > 1 && rng.percent(30) {
                self.later = changes.split_off(rng.within(1, changes.len() - 1));
            }
            changes.iter().for_each(|c| c.apply(&mut now));
            step.extend(changes);
        }
        step
    }

    fn scenario(&mut self, rng: &mut Rng, cluster: &Cluster) -> Vec<Change> {
        match rng.below(17) {
            0 => self.new_pod(rng, cluster),
            1 => lost_pod(rng, cluster),
            2 => self.pod_made_anew(rng, cluster),
            3 => self.reused_address(rng, cluster),
            4 => moved_address(rng, cluster),
            5 | 6 => relabelled_pod(rng, cluster),
            7 | 8 => relabelled_namespace(rng, cluster),
            9 => lost_namespace(rng, cluster),
            10 | 11 => self.network_policy(rng, cluster),
            12 | 13 => self.cluster_policy(rng, cluster),
            14 | 15 => regrouped(rng, cluster),
            _ => nothing(rng, cluster),
        }
    }

    fn number(&mut self) -> u32 {
        self.count += 1;
        1000 + self.count
    }

    /// A pod, its endpoint before or after its object.
    fn new_pod(&mut self, rng: &mut Rng, cluster: &Cluster) -> Vec<Change> {
        let (namespace, n) = (rng.pick(&NAMESPACES), self.number());
        let pod = pod(rng, cluster, namespace, &format!("pod-{n}"), n);
        appear(rng, pod)
    }

    /// A pod goes, another one of the same name comes, as in a StatefulSet; perhaps with the same address.
    fn pod_made_anew(&mut self, rng: &mut Rng, cluster: &Cluster) -> Vec<Change> {
        let Some(old) = rng.any(&cluster.pods) else {
            return Vec::new();
        };
        let mut new = pod(rng, cluster, &old.namespace, &old.name, self.number());
        if !old.host_network && !new.host_network && rng.percent(50) {
            new.addresses = old.addresses.clone();
        }
        let mut changes = disappear(rng, cluster, old);
        changes.extend(appear(rng, new));
        changes
    }

    /// A pod goes and another one gets its addresses, heard of in any order.
    fn reused_address(&mut self, rng: &mut Rng, cluster: &Cluster) -> Vec<Change> {
        let Some(old) = rng.any(&cluster.pods).filter(|p| !p.host_network) else {
            return Vec::new();
        };
        let (namespace, n) = (rng.pick(&NAMESPACES), self.number());
        let mut new = pod(rng, cluster, namespace, &format!("pod-{n}"), n);
        new.host_network = false;
        new.addresses = old.addresses.clone();
        let mut changes = disappear(rng, cluster, old);
        changes.extend(appear(rng, new));
        rng.shuffle(&mut changes);
        changes
    }

    fn network_policy(&mut self, rng: &mut Rng, cluster: &Cluster) -> Vec<Change> {
        let old = rng.any(&cluster.network_policies).map(name);
        let old = old.as_ref().and_then(|old| old.split_once('/'));
        let (namespace, name) = match (old, rng.percent(65)) {
            (Some((namespace, name)), true) => (namespace.to_owned(), name.to_owned()),
            _ => (
                rng.pick(&NAMESPACES).to_owned(),
                format!("policy-{}", self.number()),
            ),
        };
        let few = cluster.network_policies.len() < 10;
        let policy = (few || rng.percent(50)).then(|| network_policy(rng, &namespace, &name));
        let policy = policy.filter(|_| rng.percent(70));
        vec![Change::NetworkPolicy(namespace, name, policy)]
    }

    fn cluster_policy(&mut self, rng: &mut Rng, cluster: &Cluster) -> Vec<Change> {
        let old = rng.any(&cluster.cluster_policies).map(name);
        let name = match (old, rng.percent(65)) {
            (Some(name), true) => name,
            _ => format!("cluster-{}", self.number()),
        };
        let few = cluster.cluster_policies.len() < 4;
        let policy = (few && rng.percent(60)).then(|| cluster_policy(rng, &name));
        vec![Change::ClusterPolicy(name, policy)]
    }
}

/// A pod comes; if it is attached here, that is heard of before or after its object.
fn appear(rng: &mut Rng, pod: Pod) -> Vec<Change> {
    let mut changes = Vec::new();
    if !pod.host_network && rng.percent(60) {
        changes.push(Change::attach(endpoint(&pod)));
    }
    changes.push(Change::pod(pod));
    rng.shuffle(&mut changes);
    changes
}

fn disappear(rng: &mut Rng, cluster: &Cluster, pod: &Pod) -> Vec<Change> {
    let mut changes = vec![Change::no_pod(pod)];
    changes.extend(cluster.endpoint(pod).map(Change::detach));
    rng.shuffle(&mut changes);
    changes
}

fn lost_pod(rng: &mut Rng, cluster: &Cluster) -> Vec<Change> {
    match rng.any(&cluster.pods) {
        Some(pod) => disappear(rng, cluster, pod),
        None => Vec::new(),
    }
}

/// One pod's address is from now on another one's.
fn moved_address(rng: &mut Rng, cluster: &Cluster) -> Vec<Change> {
    let owners: Vec<&Pod> = cluster.pods.iter().filter(|p| !p.host_network).collect();
    let (Some(from), Some(to)) = (rng.any(&owners), rng.any(&owners)) else {
        return Vec::new();
    };
    let (mut from, mut to) = ((*from).clone(), (*to).clone());
    let Some(address) = from.addresses.pop() else {
        return Vec::new();
    };
    if from.name == to.name && from.namespace == to.namespace {
        return Vec::new();
    }
    to.addresses.retain(|a| a.is_ipv4() != address.is_ipv4());
    to.addresses.push(address);
    if rng.percent(50) {
        from.addresses
            .push(free_address(rng, cluster, address.is_ipv6()));
    }
    let mut changes = Vec::new();
    for pod in [from, to] {
        if let Some(old) = cluster.endpoint(&pod) {
            let addresses = pod.addresses.clone();
            changes.push(Change::attach(Endpoint {
                addresses,
                ..old.clone()
            }));
        }
        changes.push(Change::pod(pod));
    }
    rng.shuffle(&mut changes);
    changes
}

fn relabelled_pod(rng: &mut Rng, cluster: &Cluster) -> Vec<Change> {
    let Some(pod) = rng.any(&cluster.pods) else {
        return Vec::new();
    };
    let mut pod = pod.clone();
    match rng.percent(70) {
        true => pod.labels = labels(rng, &POD_KEYS),
        false => pod.ports = ports(rng),
    }
    vec![Change::pod(pod)]
}

/// A namespace has other labels, or is there again.
fn relabelled_namespace(rng: &mut Rng, cluster: &Cluster) -> Vec<Change> {
    let missing = |name: &&&str| cluster.namespace(name).is_none();
    let name = match NAMESPACES.iter().find(missing) {
        Some(name) if rng.percent(50) => name,
        _ => rng.pick(&NAMESPACES),
    };
    let mut new = namespace(rng, name);
    if let Some(old) = cluster.namespace(name) {
        let at = rng.below(NAMESPACE_KEYS.len());
        if rng.percent(50) {
            // Only one of them changes.
            let key = NAMESPACE_KEYS[at];
            let value = new.labels.iter().find(|(k, _)| k == key).cloned();
            new.labels = old
                .labels
                .iter()
                .filter(|(k, _)| k != key)
                .cloned()
                .collect();
            new.labels.extend(value);
        }
    }
    vec![Change::Namespace(name.to_owned(), Some(new))]
}

/// A namespace goes, as if its pods' ends were not heard of yet.
fn lost_namespace(rng: &mut Rng, cluster: &Cluster) -> Vec<Change> {
    match rng.any(&cluster.namespaces) {
        Some(namespace) if rng.percent(50) => {
            vec![Change::Namespace(namespace.name.clone(), None)]
        }
        _ => Vec::new(),
    }
}

/// A number comes to stand for other pods, or for none.
fn regrouped(rng: &mut Rng, cluster: &Cluster) -> Vec<Change> {
    let id = rng.pick(&GROUPS);
    let group = group(rng, cluster, id).filter(|_| rng.percent(80));
    vec![Change::Group(id, group)]
}

/// Changes after which everything is as before.
fn nothing(rng: &mut Rng, cluster: &Cluster) -> Vec<Change> {
    let all = Change::all(cluster);
    let mut changes: Vec<Change> = (0..rng.within(1, 4))
        .filter_map(|_| rng.any(&all).cloned())
        .collect();
    if rng.percent(50) {
        changes.push(Change::Pod("a".into(), "pod-unheard-of".into(), None));
        changes.push(Change::NetworkPolicy(
            "a".into(),
            "policy-unheard-of".into(),
            None,
        ));
        changes.push(Change::Group(60_000, None));
        changes.push(Change::Endpoint("port-unheard-of".into(), None));
    }
    changes
}
