// SPDX-License-Identifier: Apache-2.0
//! A made-up cluster. The same seed and size give the same one.
//!
//! Workloads (deployments) are of a namespace each, and have numbers of pods by Zipf's law. Policies select the pods of a
//! workload, and speak of other workloads of the namespace, of another one, of all namespaces of a team, or of an ipBlock.
//! Some workloads are of the mesh: a policy of each namespace lets these talk to each other on the ports [`SERVICE`].
//! Every pod has labels of its own besides, which no selector looks at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use podswitch_api::object::kubernetes::{
    ClusterNetworkPolicy, EgressRule, IngressRule, IpBlock, LabelSelector, Namespace,
    NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec, Pod, PolicyPort,
    PolicyType, TransportProtocol,
};

use super::tiers;
use crate::stats::Random;
use crate::traffic::{self, Family};

/// First and last port on which the pods of the mesh may reach each other, by TCP and UDP.
pub const SERVICE: (u16, u16) = (9000, 9015);
/// Label of a namespace that Kubernetes gives it.
const NAME: &str = "kubernetes.io/metadata.name";
/// Label of a pod that says which one it is.
pub(super) const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
/// Pods of a node other than this one.
const PODS_PER_NODE: usize = 30;
/// Teams that namespaces belong to.
const TEAMS: usize = 50;
/// Different ipBlocks of each family in policies.
pub(super) const BLOCKS: usize = 512;
/// Of so many workloads one is of the mesh.
const MESH: usize = 3;
/// Ports that policies speak of.
const PORTS: [u16; 8] = [53, 80, 443, 3306, 5432, 6379, 8080, 8443];

/// How large.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    /// Namespaces.
    pub namespaces: usize,
    /// Workloads, at least [`MESH`] times as many as namespaces.
    pub workloads: usize,
    /// Pods, those of this node included.
    pub pods: usize,
    /// NetworkPolicies, at least one a namespace.
    pub policies: usize,
    /// The first so many pods are on this node.
    pub local: usize,
}

impl Size {
    /// That of the largest clusters there are: 5,000 nodes.
    pub const LARGE: Size = Size {
        namespaces: 500,
        workloads: 10_000,
        pods: 150_000,
        policies: 50_000,
        local: 32,
    };
    /// For trying things.
    pub const SMALL: Size = Size {
        namespaces: 10,
        workloads: 100,
        pods: 1000,
        policies: 400,
        local: 32,
    };
}

/// Numbers from 0 on, of which the first are the most likely: the n-th in proportion to 1 / n (Zipf's law).
#[derive(Clone, Debug)]
pub struct Zipf(Vec<f64>);

impl Zipf {
    /// Of `n` numbers, at least one.
    pub fn new(n: usize) -> Zipf {
        let sums = (1..=n).scan(0.0, |sum, rank| {
            *sum += 1.0 / rank as f64;
            Some(*sum)
        });
        Zipf(sums.collect())
    }

    /// One of them.
    pub fn draw(&self, random: &mut Random) -> usize {
        let whole = self.0.last().copied().unwrap_or(1.0);
        let at = (random.bits() >> 11) as f64 / (1u64 << 53) as f64 * whole;
        self.0
            .partition_point(|sum| *sum <= at)
            .min(self.0.len() - 1)
    }
}

/// A cluster's objects.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Namespaces.
    pub namespaces: Vec<Namespace>,
    /// Pods, those of this node first.
    pub pods: Vec<Pod>,
    /// NetworkPolicies.
    pub policies: Vec<NetworkPolicy>,
    /// Policies of administrators.
    pub cluster_policies: Vec<ClusterNetworkPolicy>,
}

impl Cluster {
    /// Makes one.
    pub fn new(size: Size, seed: u64) -> Cluster {
        let mut maker = Maker {
            random: Random::new(seed),
            size,
            popular: Zipf::new(size.workloads),
        };
        Cluster {
            namespaces: (0..size.namespaces).map(namespace).collect(),
            pods: (0..size.pods).map(|n| maker.pod(n)).collect(),
            policies: (0..size.policies).map(|n| maker.policy(n)).collect(),
            cluster_policies: tiers::policies(),
        }
    }
}

pub(super) fn selector(labels: &[(&str, String)]) -> LabelSelector {
    let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), v.clone()));
    LabelSelector {
        match_labels: labels.collect(),
        ..LabelSelector::default()
    }
}

/// Selects the namespaces of a team.
pub(super) fn team(n: usize) -> LabelSelector {
    selector(&[("team", format!("team-{n}"))])
}

/// Selects the pods of the mesh.
pub(super) fn mesh() -> LabelSelector {
    selector(&[("mesh", "true".into())])
}

fn namespace(n: usize) -> Namespace {
    let labels = selector(&[
        (NAME, namespace_name(n)),
        ("team", format!("team-{}", n % TEAMS)),
    ]);
    Namespace {
        name: namespace_name(n),
        labels: labels.match_labels,
    }
}

fn namespace_name(n: usize) -> String {
    format!("ns-{n}")
}

pub(super) fn app(workload: usize) -> LabelSelector {
    selector(&[("app", format!("app-{workload}"))])
}

/// Addresses of a pod: one of each family.
pub fn addresses(size: &Size, pod: usize) -> [IpAddr; 2] {
    let Some(n) = pod.checked_sub(size.local) else {
        return [Family::V4, Family::V6].map(|family| traffic::address(pod, family));
    };
    let (node, pod) = (n / PODS_PER_NODE, 1 + n % PODS_PER_NODE);
    let v4 = Ipv4Addr::from(u32::from_be_bytes([10, 64, 0, 0]) + ((node as u32) << 8) + pod as u32);
    let v6 = Ipv6Addr::new(0xfd00, 1, 0, node as u16, 0, 0, 0, pod as u16);
    [v4.into(), v6.into()]
}

struct Maker {
    random: Random,
    size: Size,
    popular: Zipf,
}

impl Maker {
    /// The namespace of a workload.
    fn namespace_of(&self, workload: usize) -> usize {
        workload % self.size.namespaces
    }

    /// Whether a workload is of the mesh; some of every namespace are.
    fn is_mesh(&self, workload: usize) -> bool {
        (workload / self.size.namespaces).is_multiple_of(MESH)
    }

    /// Some workload, popular ones more often. Popularity says nothing about the namespace.
    fn workload(&mut self) -> usize {
        self.popular.draw(&mut self.random)
    }

    fn pod(&mut self, n: usize) -> Pod {
        let mut workload = self.workload();
        while n < self.size.local && !self.is_mesh(workload) {
            workload = self.workload();
        }
        let mut labels = app(workload).match_labels;
        let own = [
            ("tier", ["web", "api", "data"][workload % 3].to_owned()),
            ("pod-template-hash", format!("{workload:08x}")),
            (POD_NAME, format!("pod-{n}")),
        ];
        labels.extend(own.map(|(k, v)| (k.to_owned(), v)));
        if self.is_mesh(workload) {
            labels.extend(mesh().match_labels);
        }
        Pod {
            namespace: namespace_name(self.namespace_of(workload)),
            name: format!("pod-{n}"),
            uid: None,
            labels,
            addresses: addresses(&self.size, n).to_vec(),
            ports: Vec::new(),
            host_network: false,
        }
    }

    /// The first policy of each namespace is that of the mesh; the others go around its workloads.
    fn policy(&mut self, n: usize) -> NetworkPolicy {
        let (namespace, n) = (n % self.size.namespaces, n / self.size.namespaces);
        let of_the_mesh = || NetworkPolicyPeer {
            pod_selector: Some(mesh()),
            namespace_selector: Some(LabelSelector::default()),
            ..NetworkPolicyPeer::default()
        };
        let (pods, ingress, egress) = match n.checked_sub(1) {
            None => {
                let ports = || [TransportProtocol::Tcp, TransportProtocol::Udp].map(service);
                let rule = || (vec![of_the_mesh()], ports().to_vec());
                (mesh(), vec![rule()], vec![rule()])
            }
            Some(n) => {
                let all = self.size.workloads / self.size.namespaces;
                let workload = n % all * self.size.namespaces + namespace;
                let ingress = self.rules(namespace);
                (app(workload), ingress, self.rules(namespace))
            }
        };
        let ingress = ingress.into_iter();
        let egress = egress.into_iter();
        NetworkPolicy {
            namespace: namespace_name(namespace),
            name: format!("policy-{n}"),
            spec: NetworkPolicySpec {
                pod_selector: pods,
                policy_types: vec![PolicyType::Ingress, PolicyType::Egress],
                ingress: ingress
                    .map(|(from, ports)| IngressRule { from, ports })
                    .collect(),
                egress: egress.map(|(to, ports)| EgressRule { to, ports }).collect(),
            },
        }
    }

    /// Two to four rules of a policy.
    fn rules(&mut self, namespace: usize) -> Vec<(Vec<NetworkPolicyPeer>, Vec<NetworkPolicyPort>)> {
        (0..2 + self.random.below(3))
            .map(|_| {
                let peers = (0..1 + self.random.below(2)).flat_map(|_| self.peers(namespace));
                let peers = peers.collect();
                let ports = (0..1 + self.random.below(2)).map(|_| self.ports());
                (peers, ports.collect())
            })
            .collect()
    }

    fn peers(&mut self, namespace: usize) -> Vec<NetworkPolicyPeer> {
        let peer = |pods, namespaces, block| NetworkPolicyPeer {
            pod_selector: pods,
            namespace_selector: namespaces,
            ip_block: block,
            unknown: false,
        };
        match self.random.below(20) {
            0..10 => {
                let around = self
                    .random
                    .below(self.size.workloads / self.size.namespaces);
                let workload = around * self.size.namespaces + namespace;
                vec![peer(Some(app(workload)), None, None)]
            }
            10..15 => {
                let workload = self.workload();
                let name = namespace_name(self.namespace_of(workload));
                let namespace = selector(&[(NAME, name)]);
                vec![peer(Some(app(workload)), Some(namespace), None)]
            }
            15..17 => vec![peer(None, Some(team(self.random.below(TEAMS))), None)],
            _ => {
                let blocks = blocks(self.random.below(BLOCKS));
                blocks.map(|block| peer(None, None, Some(block))).into()
            }
        }
    }

    fn ports(&mut self) -> NetworkPolicyPort {
        let first = PORTS[self.random.below(PORTS.len())];
        let range = self.random.below(4) == 0;
        NetworkPolicyPort {
            protocol: match self.random.below(4) {
                0 => TransportProtocol::Udp,
                _ => TransportProtocol::Tcp,
            },
            port: Some(PolicyPort::Number(first)),
            end_port: range.then_some(first + 10),
            unknown: false,
        }
    }
}

fn service(protocol: TransportProtocol) -> NetworkPolicyPort {
    ports(protocol, SERVICE)
}

/// Ports of a protocol, first to last.
pub(super) fn ports(protocol: TransportProtocol, (first, last): (u16, u16)) -> NetworkPolicyPort {
    NetworkPolicyPort {
        protocol,
        port: Some(PolicyPort::Number(first)),
        end_port: Some(last),
        unknown: false,
    }
}

/// An ipBlock of each family, with an exception.
pub(super) fn blocks(n: usize) -> [IpBlock; 2] {
    let v4 = Ipv4Addr::new(198, 18 + (n >> 8) as u8, n as u8, 0);
    let v6 = Ipv6Addr::new(0x2001, 0xdb8, n as u16, 0, 0, 0, 0, 0);
    let block = |address: IpAddr, length, except| {
        let prefix = |length| IpNet::new_assert(address, length);
        IpBlock {
            cidr: prefix(length),
            except: vec![prefix(except)],
        }
    };
    [block(v4.into(), 24, 28), block(v6.into(), 48, 64)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_cluster_is_as_large_as_said_and_the_same_again() {
        let size = Size::SMALL;
        let one = Cluster::new(size, 7);
        assert_eq!(one.namespaces.len(), size.namespaces);
        assert_eq!(one.policies.len(), size.policies);
        let addresses: BTreeSet<_> = one.pods.iter().flat_map(|p| &p.addresses).collect();
        assert_eq!(addresses.len(), 2 * size.pods);
        let other = Cluster::new(size, 7);
        assert_eq!((one.pods, one.policies), (other.pods, other.policies));
    }

    #[test]
    fn every_pod_of_the_node_is_of_the_mesh() {
        let cluster = Cluster::new(Size::SMALL, 1);
        let local = &cluster.pods[..Size::SMALL.local];
        assert!(local.iter().all(|p| p.labels.contains_key("mesh")));
        let all = cluster.pods.iter();
        let mesh = all.filter(|p| p.labels.contains_key("mesh")).count();
        assert!((100..800).contains(&mesh), "{mesh}");
    }

    #[test]
    fn zipf_favours_the_first() {
        let (zipf, mut random) = (Zipf::new(100), Random::new(3));
        let mut drawn = [0; 100];
        (0..100_000).for_each(|_| drawn[zipf.draw(&mut random)] += 1);
        let share = f64::from(drawn[0]) / 100_000.0;
        assert!((0.18..0.21).contains(&share), "{share}");
        assert!(drawn[0] > drawn[9] && drawn[9] > drawn[99]);
    }
}
