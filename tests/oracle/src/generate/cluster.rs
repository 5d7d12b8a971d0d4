// SPDX-License-Identifier: Apache-2.0
//! Clusters.

use super::address::{NODE, free_address};
use super::{Rng, policy};
use crate::cluster::{Cluster, Endpoint, Group, Labels, NAMESPACE_NAME, NamedPort, Namespace, Pod};

/// Names of namespaces.
pub(super) const NAMESPACES: [&str; 5] = ["a", "b", "c", "d", "e"];
/// Keys of pods' labels.
pub(super) const POD_KEYS: [&str; 3] = ["app", "tier", "x.example/role"];
/// Keys of namespaces' labels.
pub(super) const NAMESPACE_KEYS: [&str; 2] = ["team", "env"];
/// Values of labels.
pub(super) const VALUES: [&str; 4] = ["a", "b", "c", ""];
/// Numbers of groups.
pub(super) const GROUPS: [u16; 6] = [1, 2, 255, 256, 0x8000, u16::MAX];
/// Names of ports.
pub(super) const PORT_NAMES: [&str; 3] = ["web", "dns", "metrics"];
/// Numbers of ports.
pub(super) const PORTS: [u16; 9] = [1, 53, 80, 81, 443, 8080, 9000, 9010, 65535];
/// Protocols that policies know.
pub(super) const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

/// A cluster of 2 to 5 namespaces and 5 to 30 pods, of which some are on this node, with up to 8 NetworkPolicies, 5
/// ClusterNetworkPolicies, and some groups.
pub fn cluster(rng: &mut Rng) -> Cluster {
    let mut cluster = Cluster {
        node: NODE.to_vec(),
        ..Cluster::default()
    };
    for name in &NAMESPACES[..rng.within(2, 5)] {
        cluster.namespaces.push(namespace(rng, name));
    }
    for n in 0..rng.within(5, 30) {
        let namespace = rng.one(&cluster.namespaces).name.clone();
        let pod = pod(rng, &cluster, &namespace, &format!("pod-{n}"), n as u32);
        if !pod.host_network && rng.percent(50) {
            cluster.endpoints.push(endpoint(&pod));
        }
        cluster.pods.push(pod);
    }
    for n in 0..rng.within(0, 8) {
        let namespace = rng.one(&cluster.namespaces).name.clone();
        let policy = policy::network_policy(rng, &namespace, &format!("policy-{n}"));
        cluster.network_policies.push(policy);
    }
    // In half of the clusters these would often speak before NetworkPolicies do.
    if rng.percent(50) {
        for n in 0..rng.within(1, 5) {
            let policy = policy::cluster_policy(rng, &format!("cluster-{n}"));
            cluster.cluster_policies.push(policy);
        }
    }
    for id in &GROUPS[..rng.within(0, GROUPS.len() - 1)] {
        let group = group(rng, &cluster, *id);
        cluster.groups.extend(group);
    }
    cluster
}

/// A group of pods that are there, or of none; no other one has the same pods.
pub(super) fn group(rng: &mut Rng, cluster: &Cluster, id: u16) -> Option<Group> {
    let (namespace, labels) = match rng.any(&cluster.pods) {
        Some(pod) if rng.percent(70) => (pod.namespace.clone(), pod.labels.clone()),
        _ => (rng.pick(&NAMESPACES).to_owned(), labels(rng, &POD_KEYS)),
    };
    let is_free = cluster.group_of(&namespace, &labels).is_none();
    is_free.then_some(Group {
        id,
        namespace,
        labels,
    })
}

/// A namespace.
pub(super) fn namespace(rng: &mut Rng, name: &str) -> Namespace {
    let mut labels = labels(rng, &NAMESPACE_KEYS);
    if rng.percent(50) {
        labels.push((NAMESPACE_NAME.to_owned(), name.to_owned()));
    }
    Namespace {
        name: name.to_owned(),
        labels,
    }
}

/// A pod with addresses that nobody has.
pub(super) fn pod(rng: &mut Rng, cluster: &Cluster, namespace: &str, name: &str, uid: u32) -> Pod {
    let host_network = rng.percent(8);
    let families: &[bool] = match rng.below(4) {
        0 => &[false],
        1 => &[true],
        _ => &[false, true],
    };
    let address = |v6: &bool| match host_network {
        true => NODE[usize::from(*v6)],
        false => free_address(rng, cluster, *v6),
    };
    let addresses = families.iter().map(address).collect();
    Pod {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: format!("00000000-0000-4000-8000-{uid:012x}"),
        labels: labels(rng, &POD_KEYS),
        addresses,
        ports: ports(rng),
        host_network,
    }
}

/// The endpoint of a pod that is attached here.
pub(super) fn endpoint(pod: &Pod) -> Endpoint {
    Endpoint {
        port: format!("port-{}-{}", pod.namespace, pod.name),
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        addresses: pod.addresses.clone(),
    }
}

/// Labels, of each key at most one.
pub(super) fn labels(rng: &mut Rng, keys: &[&str]) -> Labels {
    let mut labels = Labels::new();
    for key in keys {
        if rng.percent(65) {
            labels.push(((*key).to_owned(), rng.pick(&VALUES).to_owned()));
        }
    }
    labels
}

/// Named ports, of each name and protocol at most one: what two of them mean, Kubernetes does not say.
pub(super) fn ports(rng: &mut Rng) -> Vec<NamedPort> {
    let mut ports: Vec<NamedPort> = Vec::new();
    for _ in 0..rng.below(4) {
        let port = NamedPort {
            name: rng.pick(&PORT_NAMES).to_owned(),
            protocol: rng.pick(&PROTOCOLS),
            number: rng.pick(&PORTS),
        };
        let same = |p: &NamedPort| p.name == port.name && p.protocol == port.protocol;
        if !ports.iter().any(same) {
            ports.push(port);
        }
    }
    ports
}
