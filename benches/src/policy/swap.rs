// SPDX-License-Identifier: Apache-2.0
//! Two policies of 10,000 rules each, of which one takes the other's place: they have a peer or a port in common in no rule
//! but the last one, which lets the mesh in.

use podswitch_api::object::kubernetes::{
    IngressRule, LabelSelector, Namespace, NetworkPolicy, NetworkPolicyPeer, NetworkPolicySpec,
    PolicyType, TransportProtocol,
};

use super::cluster::{self, BLOCKS, Cluster, SERVICE, Size};

/// Rules of each.
pub const RULES: usize = 10_000;
/// A port on which the second policy lets the mesh in, and the first one does not.
pub const OPENED: u16 = 9100;
/// The first port of the other rules, and how many they are about.
const PORTS: (u16, usize) = (10_000, 50_000);

/// The policy of a pod, the first one or the second.
pub fn policy(cluster: &Cluster, size: &Size, pod: usize, second: bool) -> NetworkPolicy {
    let pod = &cluster.pods[pod];
    // Workloads go around the namespaces.
    let is_its = |n: &Namespace| n.name == pod.namespace;
    let namespace = cluster.namespaces.iter().position(is_its).unwrap_or(0);
    let workload = |n| n % (size.workloads / size.namespaces) * size.namespaces + namespace;
    let others = (0..RULES - 1).map(|n| 2 * n + usize::from(second));
    let others = others.map(|n| rule(workload(n), n));
    NetworkPolicy {
        namespace: pod.namespace.clone(),
        // Before all others of the namespace: of rules that accept a connection, the first one counts it.
        name: "large".into(),
        spec: NetworkPolicySpec {
            pod_selector: cluster::selector(&[(cluster::POD_NAME, pod.name.clone())]),
            policy_types: vec![PolicyType::Ingress],
            ingress: others.chain([mesh(second)]).collect(),
            egress: Vec::new(),
        },
    }
}

/// The n-th of all rules but the last ones: for a workload of the namespace, or an ipBlock.
fn rule(workload: usize, n: usize) -> IngressRule {
    let peers = match n / 2 % 2 {
        0 => vec![NetworkPolicyPeer {
            pod_selector: Some(cluster::app(workload)),
            ..NetworkPolicyPeer::default()
        }],
        _ => {
            let blocks = cluster::blocks(n % BLOCKS).into_iter();
            let peer = |block| NetworkPolicyPeer {
                ip_block: Some(block),
                ..NetworkPolicyPeer::default()
            };
            blocks.map(peer).collect()
        }
    };
    let port = PORTS.0 + (n % PORTS.1) as u16;
    IngressRule {
        from: peers,
        ports: vec![cluster::ports(TransportProtocol::Tcp, (port, port))],
    }
}

/// Lets the mesh in.
fn mesh(second: bool) -> IngressRule {
    let service = cluster::ports(TransportProtocol::Udp, SERVICE);
    let opened = cluster::ports(TransportProtocol::Udp, (OPENED, OPENED));
    let peer = NetworkPolicyPeer {
        pod_selector: Some(cluster::mesh()),
        namespace_selector: Some(LabelSelector::default()),
        ..NetworkPolicyPeer::default()
    };
    IngressRule {
        from: vec![peer],
        ports: [service]
            .into_iter()
            .chain(second.then_some(opened))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_two_have_only_the_mesh_in_common() {
        let size = Size::SMALL;
        let cluster = Cluster::new(size, 1);
        let text = |rule: &IngressRule| format!("{:?}", rule.ports);
        let peers = |rule: &IngressRule| format!("{:?}", rule.from);
        let [first, second] = [false, true].map(|s| policy(&cluster, &size, 0, s).spec.ingress);
        assert_eq!([first.len(), second.len()], [RULES; 2]);
        for what in [text, peers] {
            let of = |rules: &[IngressRule]| -> HashSet<String> {
                rules[..RULES - 1].iter().map(what).collect()
            };
            assert!(of(&first).is_disjoint(&of(&second)));
        }
        assert_eq!(first[RULES - 1].from, second[RULES - 1].from);
    }
}
