// SPDX-License-Identifier: Apache-2.0
//! Network policy: the policy compiler, kept equal to the desired state, and what it says put into the edits of the switch's tables.
//!
//! The compiler never fails, the rest of a change may. Then the compiler is told the reverse. Things may have got other numbers thereby, so
//! that too is put into the tables: at once, or with the next change.

mod compiled;
mod owed;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use podswitch_api::RpcError;
use podswitch_api::desired::{DesiredState, Difference};
use podswitch_api::object::{Key, NamespacedName, Object, Port};
use podswitch_datapath::tables::{Edit, PortPolicy, TableError};
use podswitch_datapath::{CidrClass, GroupId, IdentityId, PeerClass, PolicyRuleId};
use podswitch_policy::{Change, Compiler, Endpoint, EndpointPolicy, RuleId, RuleName, Update};

use crate::compile::table_error;
use crate::names::Names;
use compiled::Compiled;
use owed::Owed;

/// The compiler and what was made of its words.
#[derive(Debug, Default)]
pub struct Policies {
    compiler: Compiler,
    owed: Owed,
    compiled: Compiled,
    /// The rules that have a number.
    rules: BTreeMap<RuleId, Arc<RuleName>>,
    /// Somebody will describe every pod.
    expect: bool,
    /// Ports that wait to be described, since when.
    pending: BTreeMap<String, Instant>,
}

impl Policies {
    /// Without any object. `expect`: pods that are not described are closed.
    pub fn new(expect: bool) -> Policies {
        Policies {
            expect,
            ..Policies::default()
        }
    }

    /// The compiler.
    pub fn compiler(&self) -> &Compiler {
        &self.compiler
    }

    /// Ports that are closed until their pod is described, since when.
    pub fn pending(&self) -> impl Iterator<Item = (&str, Instant)> {
        self.pending
            .iter()
            .map(|(name, since)| (name.as_str(), *since))
    }

    /// The name of a rule.
    pub fn rule(&self, id: PolicyRuleId) -> Option<&RuleName> {
        self.rules.get(&RuleId(id.0)).map(|name| &**name)
    }

    /// Every rule that some port has, by its number.
    pub fn rules(&self) -> impl Iterator<Item = (PolicyRuleId, &RuleName)> {
        self.rules
            .iter()
            .map(|(id, name)| (PolicyRuleId(id.0), &**name))
    }

    /// The rules of a port, each once.
    pub fn rules_of(&self, port: &str) -> Vec<(PolicyRuleId, &RuleName)> {
        let policy = self.compiler.policy_of(port);
        let both = policy.iter().flat_map(|p| [&p.egress, &p.ingress]);
        let ids = both.flat_map(|direction| direction.rules.iter().map(|rule| rule.id));
        let ids: BTreeSet<RuleId> = ids.collect();
        ids.into_iter()
            .filter_map(|id| Some((PolicyRuleId(id.0), &**self.rules.get(&id)?)))
            .collect()
    }

    /// Takes a whole desired state in, where there was none.
    pub fn load(&mut self, state: &DesiredState) {
        let namespaces = state.namespaces.iter();
        let pods = state.pods.iter();
        let policies = state.network_policies.iter();
        let cluster = state.cluster_network_policies.iter();
        let groups = state.groups.iter();
        let ports = state.ports.iter();
        let changes = namespaces
            .map(|(name, o)| Change::Namespace(name, Some(o)))
            .chain(pods.map(|(key, o)| Change::Pod(key, Some(o))))
            .chain(policies.map(|(key, o)| Change::NetworkPolicy(key, Some(o))))
            .chain(cluster.map(|(name, o)| Change::ClusterNetworkPolicy(name, Some(o))))
            .chain(groups.map(|(id, o)| Change::Group(*id, Some(o))))
            .chain(ports.map(|(name, o)| Change::Endpoint(name, endpoint(o))));
        let update = self.compiler.apply(changes);
        self.note(update);
    }

    /// Takes differences in.
    pub fn change(&mut self, differences: &[Difference]) {
        self.feed(differences, |d| d.after.as_ref());
    }

    /// Takes differences in the other way: they did not come about.
    pub fn revert(&mut self, differences: &[Difference]) {
        self.feed(differences, |d| d.before.as_ref());
    }

    fn feed<'a>(
        &mut self,
        differences: &'a [Difference],
        side: impl Fn(&'a Difference) -> Option<&'a Object>,
    ) {
        let keys: Vec<Key> = differences.iter().map(Difference::key).collect();
        let changes = differences.iter().zip(&keys);
        let changes = changes.filter_map(|(difference, key)| change(key, side(difference)));
        let update = self.compiler.apply(changes);
        self.note(update);
    }

    fn note(&mut self, update: Update) {
        for (id, name) in &update.rules {
            match name {
                Some(name) => drop(self.rules.insert(*id, name.clone())),
                None => drop(self.rules.remove(id)),
            }
        }
        self.owed.add(update);
    }

    /// Whether the tables lack something.
    pub fn is_owed(&self) -> bool {
        !self.owed.is_empty()
    }

    /// Puts what the tables lack into an edit of them.
    ///
    /// # Errors
    /// When the tables cannot hold a port's rules. [`Policies::revert`] is to be called then, as after any later failure.
    pub fn put(&mut self, edit: &mut Edit, names: &Names) -> Result<(), RpcError> {
        for (id, class) in &self.owed.identities {
            edit.set_identity(IdentityId(id.0), class.map(|c| PeerClass(c.0)));
        }
        for (address, id) in &self.owed.peers {
            edit.set_peer(*address, id.map(|id| IdentityId(id.0)));
        }
        for (prefix, class) in &self.owed.cidrs {
            edit.set_cidr(*prefix, class.map(|c| CidrClass(c.0)));
        }
        for (number, id) in &self.owed.groups {
            if let Some(group) = GroupId::new(*number) {
                edit.set_group(group, id.map(|id| IdentityId(id.0)));
            }
        }
        for name in &self.owed.ports {
            // A port that goes takes its policy along.
            let Some(id) = names.id(name) else { continue };
            let said = self.compiler.policy_of(name);
            let group = said.as_ref().and_then(|said| said.group);
            edit.set_group_of(id, group.and_then(GroupId::new));
            let policy = match said {
                Some(said) => judged(&mut self.compiled, &said),
                None => Ok(undescribed(&self.compiler, self.expect, name)),
            };
            let of_port = |e: TableError| {
                table_error(&e).about(&Key::Port {
                    name: name.to_owned(),
                })
            };
            edit.set_policy(id, policy.map_err(of_port)?);
        }
        Ok(())
    }

    /// The tables with all of it are about to be in force: rules that got a number, which count anew.
    pub fn commit(&mut self) -> Vec<PolicyRuleId> {
        let owed = std::mem::take(&mut self.owed);
        let now = Instant::now();
        for name in owed.ports {
            match self.expect && is_undescribed(&self.compiler, &name) {
                true => drop(self.pending.entry(name).or_insert(now)),
                false => drop(self.pending.remove(&name)),
            }
        }
        owed.rules.into_iter().map(|r| PolicyRuleId(r.0)).collect()
    }
}

/// Whether there is a pod behind a port that nobody has described.
fn is_undescribed(compiler: &Compiler, port: &str) -> bool {
    compiler.pod_behind(port).is_some() && !compiler.is_described(port)
}

fn judged(compiled: &mut Compiled, said: &EndpointPolicy) -> Result<PortPolicy, TableError> {
    Ok(PortPolicy::Judged {
        egress: compiled.of(&said.egress)?,
        ingress: compiled.of(&said.ingress)?,
    })
}

/// The policy of a port of which there are no rules.
fn undescribed(compiler: &Compiler, expect: bool, port: &str) -> PortPolicy {
    match expect && is_undescribed(compiler, port) {
        true => PortPolicy::Pending,
        false => PortPolicy::None,
    }
}

/// What an object is to the compiler: nothing, or a change.
fn change<'a>(key: &'a Key, object: Option<&'a Object>) -> Option<Change<'a>> {
    Some(match (key, object) {
        (Key::Namespace { name }, Some(Object::Namespace(o))) => Change::Namespace(name, Some(o)),
        (Key::Namespace { name }, _) => Change::Namespace(name, None),
        (Key::Pod(key), Some(Object::Pod(o))) => Change::Pod(key, Some(o)),
        (Key::Pod(key), _) => Change::Pod(key, None),
        (Key::NetworkPolicy(key), Some(Object::NetworkPolicy(o))) => {
            Change::NetworkPolicy(key, Some(o))
        }
        (Key::NetworkPolicy(key), _) => Change::NetworkPolicy(key, None),
        (Key::ClusterNetworkPolicy { name }, Some(Object::ClusterNetworkPolicy(o))) => {
            Change::ClusterNetworkPolicy(name, Some(o))
        }
        (Key::ClusterNetworkPolicy { name }, _) => Change::ClusterNetworkPolicy(name, None),
        (Key::Group { id }, Some(Object::Group(o))) => Change::Group(*id, Some(o)),
        (Key::Group { id }, _) => Change::Group(*id, None),
        (Key::Port { name }, Some(Object::Port(o))) => Change::Endpoint(name, endpoint(o)),
        (Key::Port { name }, _) => Change::Endpoint(name, None),
        _ => return None,
    })
}

/// The pod behind a port, if network policy is for it: Kubernetes knows one network, the default VRF.
fn endpoint(port: &Port) -> Option<Endpoint> {
    let pod = port.pod.as_ref().filter(|pod| !pod.namespace.is_empty())?;
    (port.segment.is_none() && port.vrf == 0).then(|| Endpoint {
        pod: NamespacedName {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
        },
        uid: pod.uid.clone(),
        addresses: port.addresses.clone(),
    })
}
