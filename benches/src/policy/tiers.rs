// SPDX-License-Identifier: Apache-2.0
//! What the administrators of the made-up cluster say.

use podswitch_api::object::kubernetes::{
    ClusterAction, ClusterEgressPeer, ClusterEgressRule, ClusterIngressPeer, ClusterIngressRule,
    ClusterNetworkPolicy, ClusterNetworkPolicySpec, DestinationPort, LabelSelector, NamespacedPods,
    PolicyTier, PortNumbers, ProtocolMatch, Subject, TransportMatch,
};

use super::cluster::{mesh, team};

/// Nobody telnets to pods; what is on high ports, NetworkPolicies decide; and what these say nothing about is let in from a
/// team.
pub(super) fn policies() -> Vec<ClusterNetworkPolicy> {
    let everybody = || Subject {
        namespaces: Some(LabelSelector::default()),
        pods: None,
    };
    let policy = |name: &str, tier, rules: Vec<Rule>| ClusterNetworkPolicy {
        name: name.into(),
        spec: ClusterNetworkPolicySpec {
            tier,
            priority: 100,
            subject: everybody(),
            ingress: rules.iter().map(Rule::ingress).collect(),
            egress: rules.iter().map(Rule::egress).collect(),
        },
    };
    let admin = vec![
        Rule(ClusterAction::Deny, Peers::Team(1), (23, 23)),
        Rule(ClusterAction::Pass, Peers::Mesh, (1024, 65_535)),
    ];
    let baseline = vec![Rule(ClusterAction::Accept, Peers::Team(2), (1, 1023))];
    vec![
        policy("admin", PolicyTier::Admin, admin),
        policy("baseline", PolicyTier::Baseline, baseline),
    ]
}

#[derive(Clone, Copy)]
enum Peers {
    Team(usize),
    Mesh,
}

impl Peers {
    fn namespaces(self) -> Option<LabelSelector> {
        match self {
            Peers::Team(n) => Some(team(n)),
            Peers::Mesh => None,
        }
    }

    fn pods(self) -> Option<NamespacedPods> {
        match self {
            Peers::Team(_) => None,
            Peers::Mesh => Some(NamespacedPods {
                namespace_selector: LabelSelector::default(),
                pod_selector: mesh(),
            }),
        }
    }
}

/// With TCP and UDP ports.
struct Rule(ClusterAction, Peers, (u16, u16));

impl Rule {
    fn protocols(&self) -> Vec<ProtocolMatch> {
        let (start, end) = self.2;
        let ports = DestinationPort {
            number: (start == end).then_some(start),
            range: (start < end).then_some(PortNumbers { start, end }),
        };
        let ports = TransportMatch {
            destination_port: Some(ports),
        };
        let tcp = ProtocolMatch {
            tcp: Some(ports.clone()),
            ..ProtocolMatch::default()
        };
        let udp = ProtocolMatch {
            udp: Some(ports),
            ..ProtocolMatch::default()
        };
        vec![tcp, udp]
    }

    fn ingress(&self) -> ClusterIngressRule {
        let peer = ClusterIngressPeer {
            namespaces: self.1.namespaces(),
            pods: self.1.pods(),
            unknown: false,
        };
        ClusterIngressRule {
            name: None,
            action: self.0,
            from: vec![peer],
            protocols: self.protocols(),
        }
    }

    fn egress(&self) -> ClusterEgressRule {
        let peer = ClusterEgressPeer {
            namespaces: self.1.namespaces(),
            pods: self.1.pods(),
            ..ClusterEgressPeer::default()
        };
        ClusterEgressRule {
            name: None,
            action: self.0,
            to: vec![peer],
            protocols: self.protocols(),
        }
    }
}
