// SPDX-License-Identifier: Apache-2.0
//! Policies compiled, and put into a switch, as the daemon does it.

use std::collections::HashMap;
use std::sync::Arc;

use podswitch_api::object::Pod;
use podswitch_datapath::switch::Switch;
use podswitch_datapath::tables::{
    DirectionPolicy, Edit, PolicyAction, PolicyRule, PortMatch, PortPolicy, Tier,
};
use podswitch_datapath::{CidrClass, IdentityId, PeerClass, PolicyRuleId, PortId};
use podswitch_policy::{Action, Change, Compiler, DirectionSpec, Endpoint, EndpointPolicy, Update};

use super::cluster::Cluster;
use crate::traffic;

/// The compiler with a cluster in it.
#[derive(Debug, Default)]
pub struct Control {
    compiler: Compiler,
}

impl Control {
    /// Compiles a cluster, of which the first `local` pods are behind ports of this node.
    pub fn of(cluster: &Cluster, local: usize) -> (Control, Update) {
        let mut control = Control::default();
        let names: Vec<String> = (0..local).map(traffic::port_name).collect();
        let pod_keys: Vec<_> = cluster.pods.iter().map(Pod::key).collect();
        let policy_keys: Vec<_> = cluster.policies.iter().map(|p| p.key()).collect();
        let namespaces = cluster.namespaces.iter();
        let namespaces = namespaces.map(|n| Change::Namespace(&n.name, Some(n)));
        let pods = pod_keys.iter().zip(&cluster.pods);
        let pods = pods.map(|(key, pod)| Change::Pod(key, Some(pod)));
        let policies = policy_keys.iter().zip(&cluster.policies);
        let policies = policies.map(|(key, p)| Change::NetworkPolicy(key, Some(p)));
        let tiers = cluster.cluster_policies.iter();
        let tiers = tiers.map(|p| Change::ClusterNetworkPolicy(&p.name, Some(p)));
        let endpoints = names.iter().map(String::as_str).zip(&cluster.pods);
        let endpoints = endpoints.map(|(name, pod)| {
            let endpoint = Endpoint {
                pod: pod.key(),
                uid: None,
                addresses: pod.addresses.clone(),
            };
            Change::Endpoint(name, Some(endpoint))
        });
        let all = namespaces
            .chain(pods)
            .chain(policies)
            .chain(tiers)
            .chain(endpoints);
        let update = control.compiler.apply(all);
        (control, update)
    }

    /// What a change makes different.
    pub fn apply<'a>(&mut self, changes: impl IntoIterator<Item = Change<'a>>) -> Update {
        self.compiler.apply(changes)
    }
}

/// An edit of a switch's tables with what is different; its counters are ready for it. Ports have the names that
/// [`traffic::port_name`] gives them.
///
/// # Panics
/// When the tables cannot have it.
pub fn edit(switch: &mut Switch, update: &Update) -> Edit {
    for (id, _) in update.rules.iter().filter(|(_, name)| name.is_some()) {
        switch.begin_policy_rule(PolicyRuleId(id.0));
    }
    let mut edit = switch.edit();
    for (id, class) in &update.identities {
        edit.set_identity(IdentityId(id.0), class.map(|c| PeerClass(c.0)));
    }
    for (address, identity) in &update.peers {
        edit.set_peer(*address, identity.map(|id| IdentityId(id.0)));
    }
    for (prefix, class) in &update.cidrs {
        edit.set_cidr(*prefix, class.map(|c| CidrClass(c.0)));
    }
    // Ports with the same rules share them.
    let mut compiled = HashMap::new();
    for (port, policy) in &update.endpoints {
        set_shared_policy(&mut edit, port, policy.as_ref(), &mut compiled);
    }
    edit
}

/// Sets the policy of a port.
///
/// # Panics
/// When the port's name is not ours, or there is too much of the policy.
pub fn set_policy(edit: &mut Edit, port: &str, policy: Option<&EndpointPolicy>) {
    set_shared_policy(edit, port, policy, &mut HashMap::new());
}

fn set_shared_policy(
    edit: &mut Edit,
    port: &str,
    policy: Option<&EndpointPolicy>,
    compiled: &mut HashMap<*const DirectionSpec, Arc<DirectionPolicy>>,
) {
    let mut direction = |spec: &Arc<DirectionSpec>| {
        let entry = compiled.entry(Arc::as_ptr(spec));
        entry.or_insert_with(|| Arc::new(compile(spec))).clone()
    };
    let policy = match policy {
        Some(policy) => PortPolicy::Judged {
            egress: direction(&policy.egress),
            ingress: direction(&policy.ingress),
        },
        None => PortPolicy::Pending,
    };
    let id = traffic::port_number(port).expect("a name of ours");
    edit.set_policy(PortId(id as u16), policy);
}

/// The policy of a direction as the tables have it.
///
/// # Panics
/// When there is too much of it.
pub fn compile(spec: &DirectionSpec) -> DirectionPolicy {
    let rules = spec.rules.iter().map(|rule| PolicyRule {
        id: PolicyRuleId(rule.id.0),
        tier: match rule.tier {
            podswitch_policy::Tier::Admin => Tier::Admin,
            podswitch_policy::Tier::Network => Tier::Network,
            podswitch_policy::Tier::Baseline => Tier::Baseline,
        },
        action: match rule.action {
            Action::Accept => PolicyAction::Accept,
            Action::Deny => PolicyAction::Deny,
            Action::Pass => PolicyAction::Pass,
        },
        any_peer: rule.any_peer,
        both: rule.both,
        ports: rule.ports.iter().map(port_match).collect(),
    });
    let classes = spec.classes.iter();
    let classes: Vec<_> = classes.map(|(c, r)| (PeerClass(c.0), r.clone())).collect();
    let cidrs = spec.cidr_classes.iter();
    let cidrs: Vec<_> = cidrs.map(|(c, r)| (CidrClass(c.0), r.clone())).collect();
    let isolated = !spec.isolated_by.is_empty();
    DirectionPolicy::new(rules.collect(), isolated, &classes, &cidrs).expect("a policy")
}

fn port_match(ports: &podswitch_policy::PortSpec) -> PortMatch {
    PortMatch {
        protocol: ports.protocol,
        ports: ports.first..=ports.last,
    }
}
