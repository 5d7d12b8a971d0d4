// SPDX-License-Identifier: Apache-2.0
//! Policies as rules: what Kubernetes says in several ways is one thing here.
//!
//! What is not known fails closed. A NetworkPolicy's peer or port of a kind that a later Kubernetes has is nobody and nothing. A rule of a
//! ClusterNetworkPolicy with such a peer or protocol matches nothing if it accepts, and denies everything if it denies or passes. Peers by nodes
//! and by names of hosts are among these.

use ipnet::IpNet;
use podswitch_api::object::kubernetes::{
    ClusterAction, ClusterEgressPeer, ClusterIngressPeer, IpBlock, LabelSelector, NamespacedPods,
    NetworkPolicyPeer, NetworkPolicyPort, PolicyPort, PolicyTier, PolicyType, ProtocolMatch,
    Subject, TransportMatch, TransportProtocol,
};
use podswitch_api::object::{ClusterNetworkPolicy, NetworkPolicy, Pod};

use crate::labels::{Labels, keys, matches, matches_namespace};
use crate::population::{Attention, Namespaces};
use crate::spec::{Action, Direction, PolicyKey, PortSpec, Tier};

/// Which pods a rule's peer is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PodPeer {
    pub(crate) namespaces: Namespaces,
    pub(crate) pods: LabelSelector,
}

/// Who a rule is for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Peers {
    pub(crate) any: bool,
    pub(crate) pods: Vec<PodPeer>,
    pub(crate) blocks: Vec<IpBlock>,
}

/// What a rule is for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Ports {
    pub(crate) any: bool,
    pub(crate) numbers: Vec<PortSpec>,
    /// By name, and by protocol where that is given.
    pub(crate) names: Vec<(String, Option<u8>)>,
}

/// A rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Rule {
    pub(crate) name: Option<String>,
    pub(crate) action: Action,
    pub(crate) peers: Peers,
    pub(crate) ports: Ports,
}

/// A policy of either kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Policy {
    pub(crate) key: PolicyKey,
    pub(crate) tier: Tier,
    pub(crate) priority: u16,
    pub(crate) ingress: Vec<Rule>,
    pub(crate) egress: Vec<Rule>,
    isolates_ingress: bool,
    isolates_egress: bool,
    subject: PolicySubject,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum PolicySubject {
    /// Pods of its own namespace.
    Own(LabelSelector),
    Cluster(Subject),
}

impl Policy {
    /// The rules for a direction.
    pub(crate) fn rules(&self, direction: Direction) -> &[Rule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// Whether the pods it selects are isolated in a direction.
    pub(crate) fn isolates(&self, direction: Direction) -> bool {
        match direction {
            Direction::Ingress => self.isolates_ingress,
            Direction::Egress => self.isolates_egress,
        }
    }

    /// Whether it says anything about a direction.
    pub(crate) fn concerns(&self, direction: Direction) -> bool {
        self.isolates(direction) || self.tier != Tier::Network && !self.rules(direction).is_empty()
    }

    /// Whether it is for a pod, of a namespace with these labels.
    pub(crate) fn selects(&self, pod: &Pod, namespace: &Labels) -> bool {
        let in_namespace = |selector| matches_namespace(selector, &pod.namespace, namespace);
        match &self.subject {
            PolicySubject::Own(pods) => matches(pods, &pod.labels),
            PolicySubject::Cluster(subject) => {
                let all = subject.namespaces.as_ref().is_some_and(in_namespace);
                all || subject.pods.as_ref().is_some_and(|s| {
                    in_namespace(&s.namespace_selector) && matches(&s.pod_selector, &pod.labels)
                })
            }
        }
    }

    /// The label keys and port names that it looks at, `more` or fewer.
    pub(crate) fn attention(&self, more: bool, attention: &mut Attention) {
        for rule in self.ingress.iter().chain(&self.egress) {
            for peer in &rule.peers.pods {
                let keys = keys(&peer.pods).map(|key| (key.clone(), more));
                attention.keys.extend(keys);
            }
        }
        for rule in &self.egress {
            let names = rule
                .ports
                .names
                .iter()
                .map(|(name, _)| (name.clone(), more));
            attention.names.extend(names);
        }
    }

    /// Names of ports that its ingress rules give.
    pub(crate) fn ingress_names(&self) -> impl Iterator<Item = &(String, Option<u8>)> {
        self.ingress.iter().flat_map(|rule| &rule.ports.names)
    }
}

// NetworkPolicy

impl From<&NetworkPolicy> for Policy {
    fn from(o: &NetworkPolicy) -> Policy {
        let rule = |peers: &[NetworkPolicyPeer], ports: &[NetworkPolicyPort]| Rule {
            name: None,
            action: Action::Accept,
            peers: network_peers(&o.namespace, peers),
            ports: network_ports(ports),
        };
        let ingress = o.spec.ingress.iter().map(|r| rule(&r.from, &r.ports));
        let egress = o.spec.egress.iter().map(|r| rule(&r.to, &r.ports));
        let isolates_ingress = o.spec.isolates(PolicyType::Ingress);
        let isolates_egress = o.spec.isolates(PolicyType::Egress);
        Policy {
            key: PolicyKey::Network(o.key()),
            tier: Tier::Network,
            priority: 0,
            // Rules for a direction in which it does not isolate say nothing.
            ingress: ingress.filter(|_| isolates_ingress).collect(),
            egress: egress.filter(|_| isolates_egress).collect(),
            isolates_ingress,
            isolates_egress,
            subject: PolicySubject::Own(o.spec.pod_selector.clone()),
        }
    }
}

fn network_peers(namespace: &str, all: &[NetworkPolicyPeer]) -> Peers {
    let mut peers = Peers {
        any: all.is_empty(),
        ..Peers::default()
    };
    for peer in all.iter().filter(|p| !p.unknown) {
        peers.blocks.extend(peer.ip_block.clone());
        let namespaces = match (&peer.namespace_selector, &peer.pod_selector) {
            (Some(selector), _) => Namespaces::With(selector.clone()),
            (None, Some(_)) => Namespaces::One(namespace.to_owned()),
            (None, None) => continue,
        };
        peers.pods.push(PodPeer {
            namespaces,
            pods: peer.pod_selector.clone().unwrap_or_default(),
        });
    }
    peers
}

fn network_ports(all: &[NetworkPolicyPort]) -> Ports {
    let mut ports = Ports {
        any: all.is_empty(),
        ..Ports::default()
    };
    for port in all.iter().filter(|p| !p.unknown) {
        let protocol = port.protocol.number().0;
        let (first, last) = match &port.port {
            Some(PolicyPort::Name(name)) => {
                ports.names.push((name.clone(), Some(protocol)));
                continue;
            }
            Some(PolicyPort::Number(first)) => (*first, port.end_port.unwrap_or(*first)),
            None => (0, u16::MAX),
        };
        ports.numbers.push(PortSpec {
            protocol,
            first,
            last,
        });
    }
    ports
}

// ClusterNetworkPolicy

impl From<&ClusterNetworkPolicy> for Policy {
    fn from(o: &ClusterNetworkPolicy) -> Policy {
        let ingress = o.spec.ingress.iter().map(|r| {
            let peers = r.from.iter().map(ingress_peer);
            cluster_rule(&r.name, r.action, peers, &r.protocols)
        });
        let egress = o.spec.egress.iter().map(|r| {
            let peers = r.to.iter().map(egress_peer);
            cluster_rule(&r.name, r.action, peers, &r.protocols)
        });
        Policy {
            key: PolicyKey::Cluster(o.name.clone()),
            tier: match o.spec.tier {
                PolicyTier::Admin => Tier::Admin,
                PolicyTier::Baseline => Tier::Baseline,
            },
            priority: o.spec.priority,
            ingress: ingress.collect(),
            egress: egress.collect(),
            isolates_ingress: false,
            isolates_egress: false,
            subject: PolicySubject::Cluster(o.spec.subject.clone()),
        }
    }
}

/// A peer of a ClusterNetworkPolicy: `None` if it is not known.
type ClusterPeer<'a> = Option<(Option<PodPeer>, &'a [IpNet])>;

fn pods(o: &NamespacedPods) -> PodPeer {
    PodPeer {
        namespaces: Namespaces::With(o.namespace_selector.clone()),
        pods: o.pod_selector.clone(),
    }
}

fn all_of(namespaces: &LabelSelector) -> PodPeer {
    PodPeer {
        namespaces: Namespaces::With(namespaces.clone()),
        pods: LabelSelector::default(),
    }
}

fn ingress_peer(o: &ClusterIngressPeer) -> ClusterPeer<'_> {
    match (&o.namespaces, &o.pods) {
        _ if o.unknown => None,
        (Some(namespaces), _) => Some((Some(all_of(namespaces)), &[])),
        (_, Some(some)) => Some((Some(pods(some)), &[])),
        (None, None) => None,
    }
}

fn egress_peer(o: &ClusterEgressPeer) -> ClusterPeer<'_> {
    match (&o.namespaces, &o.pods, &o.networks) {
        _ if o.unknown => None,
        (Some(namespaces), _, _) => Some((Some(all_of(namespaces)), &[])),
        (_, Some(some), _) => Some((Some(pods(some)), &[])),
        (_, _, Some(networks)) => Some((None, networks)),
        // Nodes, names of hosts.
        (None, None, None) => None,
    }
}

/// A rule with a peer or protocol that is not known matches nothing if it accepts, and denies everything otherwise (v1alpha2, on peers).
fn cluster_rule<'a>(
    name: &Option<String>,
    action: ClusterAction,
    peers: impl Iterator<Item = ClusterPeer<'a>>,
    protocols: &[ProtocolMatch],
) -> Rule {
    let known = cluster_peers(peers).zip(cluster_ports(protocols));
    let (action, peers, ports) = match (action, known) {
        (ClusterAction::Accept, Some((peers, ports))) => (Action::Accept, peers, ports),
        (ClusterAction::Deny, Some((peers, ports))) => (Action::Deny, peers, ports),
        (ClusterAction::Pass, Some((peers, ports))) => (Action::Pass, peers, ports),
        (ClusterAction::Accept, None) => (Action::Accept, Peers::default(), Ports::default()),
        (ClusterAction::Deny | ClusterAction::Pass, None) => {
            let everybody = Peers {
                any: true,
                ..Peers::default()
            };
            let everything = Ports {
                any: true,
                ..Ports::default()
            };
            (Action::Deny, everybody, everything)
        }
    };
    Rule {
        name: name.clone(),
        action,
        peers,
        ports,
    }
}

fn cluster_peers<'a>(all: impl Iterator<Item = ClusterPeer<'a>>) -> Option<Peers> {
    let mut peers = Peers::default();
    for peer in all {
        let (pods, networks) = peer?;
        peers.pods.extend(pods);
        peers.blocks.extend(networks.iter().map(|cidr| IpBlock {
            cidr: *cidr,
            except: Vec::new(),
        }));
    }
    Some(peers)
}

fn cluster_ports(all: &[ProtocolMatch]) -> Option<Ports> {
    let mut ports = Ports {
        any: all.is_empty(),
        ..Ports::default()
    };
    for o in all {
        // To the API server's own clients an empty name is none.
        let named = o.destination_named_port.as_ref();
        let named = named.filter(|name| !name.is_empty());
        let mut known = named.is_some();
        ports.names.extend(named.map(|name| (name.clone(), None)));
        for (protocol, transport) in [
            (TransportProtocol::Tcp, &o.tcp),
            (TransportProtocol::Udp, &o.udp),
            (TransportProtocol::Sctp, &o.sctp),
        ] {
            if let Some(transport) = transport {
                known = true;
                ports.numbers.push(transport_ports(protocol, transport)?);
            }
        }
        if o.unknown || !known {
            return None;
        }
    }
    Some(ports)
}

/// The ports of a protocol: `None` if they are not known.
fn transport_ports(protocol: TransportProtocol, o: &TransportMatch) -> Option<PortSpec> {
    let port = o.destination_port?;
    let (first, last) = match (port.number, port.range) {
        (Some(number), _) => (number, number),
        (None, range) => range.map(|r| (r.start, r.end))?,
    };
    Some(PortSpec {
        protocol: protocol.number().0,
        first,
        last,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A rule for this peer and protocol, and for others that are known.
    fn rule(action: &str, peer: &Value, protocol: &Value) -> Rule {
        let known = json!({"udp": {"destinationPort": {"number": 53}}});
        let spec = json!({"tier": "Admin", "priority": 0, "subject": {"namespaces": {}},
            "egress": [{"action": action, "to": [{"namespaces": {}}, peer], "protocols": [known, protocol]}]});
        let policy = ClusterNetworkPolicy {
            name: "c".into(),
            spec: serde_json::from_value(spec).unwrap(),
        };
        Policy::from(&policy).egress.remove(0)
    }

    #[test]
    fn a_rule_with_something_that_is_not_known_fails_closed() {
        let peer = json!({"pods": {"podSelector": {}}});
        let protocol = json!({"tcp": {"destinationPort": {"number": 80}}});
        let peers = [
            json!({}),
            json!({"planets": {}}),
            json!({"namespaces": {}, "planets": {}}),
            json!({"nodes": {}}),
            json!({"domainNames": ["example.com"]}),
        ];
        let protocols = [
            json!({}),
            json!({"quic": {}}),
            json!({"tcp": {}}),
            json!({"udp": {"destinationPort": {}}}),
            json!({"destinationNamedPort": ""}),
        ];
        let peers = peers.iter().map(|strange| (strange, &protocol));
        let protocols = protocols.iter().map(|strange| (&peer, strange));
        for (peer, protocol) in peers.chain(protocols) {
            let accepts = rule("Accept", peer, protocol);
            let nothing = (Peers::default(), Ports::default());
            assert_eq!((accepts.peers, accepts.ports), nothing, "{peer} {protocol}");
            for action in ["Deny", "Pass"] {
                let denies = rule(action, peer, protocol);
                assert_eq!(denies.action, Action::Deny, "{peer} {protocol}");
                assert!(denies.peers.any && denies.ports.any, "{peer} {protocol}");
            }
        }
        let known = rule("Pass", &peer, &protocol);
        assert_eq!(known.action, Action::Pass);
        assert_eq!((known.peers.pods.len(), known.ports.numbers.len()), (2, 2));
    }
}
