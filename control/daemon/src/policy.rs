// SPDX-License-Identifier: Apache-2.0
//! Network policy: the policy compiler, kept equal to the desired state, and what it says put into the edits of the switch's tables.
//!
//! The compiler never fails, the rest of a change may. Then the compiler is told the reverse, and what it has said meanwhile is owed: it goes
//! into the next edit, before what that one brings. Within an edit the last word about a thing counts.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Instant;

use podswitch_api::desired::Difference;
use podswitch_api::error::RpcError;
use podswitch_api::object::{Key, NamespacedName, Object, Port};
use podswitch_datapath::tables::{
    DirectionPolicy, Edit, PolicyAction, PolicyRule, PortMatch, PortPolicy, TableError, Tier,
};
use podswitch_datapath::{CidrClass, IdentityId, PeerClass, PolicyRuleId};
use podswitch_policy::{
    Action, Change, Compiler, DirectionSpec, Endpoint, EndpointPolicy, RuleId, RuleName, Update,
};

use crate::compile::table_error;
use crate::names::Names;

/// Compiled rules that are kept before those that no port has any more are looked for.
const KEPT: usize = 64;

/// The compiler and what was made of its words.
#[derive(Debug, Default)]
pub struct Policies {
    compiler: Compiler,
    /// What the compiler has said and the tables do not have.
    owed: Vec<Update>,
    /// Rules by the address of what they were made of.
    compiled: HashMap<usize, (Weak<DirectionSpec>, Arc<DirectionPolicy>)>,
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

    /// Takes differences in and puts what follows into the edit.
    ///
    /// # Errors
    /// When the tables cannot hold a port's rules. [`Policies::revert`] is to be called then, as after any later failure.
    pub fn change(
        &mut self,
        edit: &mut Edit,
        differences: &[Difference],
        names: &Names,
    ) -> Result<(), RpcError> {
        self.feed(differences, |d| d.after.as_ref());
        let owed = std::mem::take(&mut self.owed);
        let put = owed
            .iter()
            .try_for_each(|update| self.put(edit, update, names));
        self.owed = owed;
        put.map_err(|e| table_error(&e))
    }

    /// The change did not come about.
    pub fn revert(&mut self, differences: &[Difference]) {
        self.feed(differences, |d| d.before.as_ref());
    }

    /// The change is about to be in force: rules that got a number, which count anew.
    pub fn commit(&mut self) -> Vec<PolicyRuleId> {
        let owed = std::mem::take(&mut self.owed);
        for (name, _) in owed.iter().flat_map(|u| &u.endpoints) {
            match self.is_pending(name) {
                true => drop(
                    self.pending
                        .entry(name.clone())
                        .or_insert_with(Instant::now),
                ),
                false => drop(self.pending.remove(name)),
            }
        }
        let rules = owed.into_iter().flat_map(|u| u.rules);
        let given = rules.filter(|(_, name)| name.is_some());
        given.map(|(id, _)| PolicyRuleId(id.0)).collect()
    }

    /// The name of a rule.
    pub fn rule(&self, id: PolicyRuleId) -> Option<&RuleName> {
        self.compiler.rule(RuleId(id.0))
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
        if !update.is_empty() {
            self.owed.push(update);
        }
    }

    /// Whether a port waits to be described.
    fn is_pending(&self, port: &str) -> bool {
        let compiler = &self.compiler;
        self.expect && compiler.pod_behind(port).is_some() && !compiler.is_described(port)
    }

    fn put(&mut self, edit: &mut Edit, update: &Update, names: &Names) -> Result<(), TableError> {
        for (id, class) in &update.identities {
            edit.set_identity(IdentityId(id.0), class.map(|c| PeerClass(c.0)));
        }
        for (address, id) in &update.peers {
            edit.set_peer(*address, id.map(|id| IdentityId(id.0)));
        }
        for (prefix, class) in &update.cidrs {
            edit.set_cidr(*prefix, class.map(|c| CidrClass(c.0)));
        }
        for (name, policy) in &update.endpoints {
            let Some(id) = names.id(name) else { continue };
            let policy = match policy {
                Some(EndpointPolicy { egress, ingress }) => PortPolicy::Judged {
                    egress: self.compiled(egress)?,
                    ingress: self.compiled(ingress)?,
                },
                None if self.is_pending(name) => PortPolicy::Pending,
                None => PortPolicy::None,
            };
            edit.set_policy(id, policy);
        }
        Ok(())
    }

    /// The rules as the switch has them, once for all ports that share them.
    fn compiled(&mut self, spec: &Arc<DirectionSpec>) -> Result<Arc<DirectionPolicy>, TableError> {
        let address = Arc::as_ptr(spec).addr();
        if let Some((of, policy)) = self.compiled.get(&address)
            && of.upgrade().is_some_and(|of| Arc::ptr_eq(&of, spec))
        {
            return Ok(policy.clone());
        }
        let policy = Arc::new(direction_policy(spec)?);
        if self.compiled.len() >= KEPT && self.compiled.len().is_power_of_two() {
            self.compiled.retain(|_, (of, _)| of.strong_count() > 0);
        }
        let entry = (Arc::downgrade(spec), policy.clone());
        self.compiled.insert(address, entry);
        Ok(policy)
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
        (Key::Port { name }, Some(Object::Port(o))) => Change::Endpoint(name, endpoint(o)),
        (Key::Port { name }, _) => Change::Endpoint(name, None),
        _ => return None,
    })
}

/// The pod behind a port, if network policy is for it: Kubernetes knows one network, the default VRF.
fn endpoint(port: &Port) -> Option<Endpoint> {
    let pod = port.pod.as_ref()?;
    let kubernetes = !pod.namespace.is_empty() && !pod.name.is_empty();
    (kubernetes && port.segment.is_none() && port.vrf == 0).then(|| Endpoint {
        pod: NamespacedName {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
        },
        uid: pod.uid.clone(),
        addresses: port.addresses.clone(),
    })
}

fn direction_policy(spec: &DirectionSpec) -> Result<DirectionPolicy, TableError> {
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
        ports: rule
            .ports
            .iter()
            .map(|p| PortMatch {
                protocol: p.protocol,
                ports: p.first..=p.last,
            })
            .collect(),
    });
    let classes = spec.classes.iter();
    let classes: Vec<_> = classes
        .map(|(c, of)| (PeerClass(c.0), of.clone()))
        .collect();
    let cidrs = spec.cidr_classes.iter();
    let cidrs: Vec<_> = cidrs.map(|(c, of)| (CidrClass(c.0), of.clone())).collect();
    DirectionPolicy::new(
        rules.collect(),
        !spec.isolated_by.is_empty(),
        &classes,
        &cidrs,
    )
}
