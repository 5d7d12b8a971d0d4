// SPDX-License-Identifier: Apache-2.0
//! A node without a daemon: changes go through the manifests' reader and the policy compiler into the tables, and packets are
//! judged by these. What the compiler says is held against what it promises on the way.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use podswitch_api::desired::{Bounds, Model};
use podswitch_api::method;
use podswitch_api::object::{
    ClusterNetworkPolicy, Group, Namespace, NamespacedName, NetworkPolicy, Object, Pod,
};
use podswitch_datapath::ids::{
    CidrClass, GroupId, IdentityId, PeerClass, PolicyRuleId, PortId, VrfId, WorkerId,
};
use podswitch_datapath::tables::{
    Action, DirectionPolicy, Edit, Gateway, PolicyAction, PolicyJudgement, PolicyRule,
    PortKindSpec, PortMatch, PortPolicy, PortSpec, TableError, Tables, Tier,
};
use podswitch_datapath::wire::{MacAddr, flow_key::map_v4};
use podswitch_policy::{
    self as policy, Compiler, DirectionSpec, EndpointPolicy, PolicyKey, RuleId, RuleName, Update,
    manifest,
};
use serde_json::Value;

use crate::cluster;
use crate::generate::{Change, Packet};
use crate::oracle::RuleRef;

/// What one end says to a packet, by names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    /// The end's pod is not described yet.
    Pending,
    /// It passes by this rule.
    Accept(RuleRef),
    /// It is dropped by this rule.
    Deny(RuleRef),
    /// It is dropped, as these isolate the pod; sorted.
    Isolated(Vec<String>),
    /// Nothing.
    NoMatch,
}

/// Which end of a connection is asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum End {
    /// The source.
    Egress,
    /// The destination.
    Ingress,
}

/// Compiler and tables.
#[derive(Debug)]
pub struct Node {
    compiler: Compiler,
    tables: Tables,
    /// Ports by name, and what they were told last.
    ports: BTreeMap<String, (PortId, Option<EndpointPolicy>)>,
    /// Names of rules as updates tell them.
    rules: BTreeMap<RuleId, Arc<RuleName>>,
}

/// The gateway of the node's pods.
pub fn gateway() -> Gateway {
    Gateway {
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        v4: [169, 254, 1, 1].into(),
        v6: std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
    }
}

impl Default for Node {
    fn default() -> Node {
        Node {
            compiler: Compiler::default(),
            tables: Tables::new(gateway()),
            ports: BTreeMap::new(),
            rules: BTreeMap::new(),
        }
    }
}

/// A change with objects as the compiler takes them.
enum Given {
    Namespace(String, Option<Namespace>),
    Pod(NamespacedName, Option<Box<Pod>>),
    NetworkPolicy(NamespacedName, Option<Box<NetworkPolicy>>),
    ClusterPolicy(String, Option<Box<ClusterNetworkPolicy>>),
    Group(u16, Option<Group>),
    Endpoint(String, Option<policy::Endpoint>),
}

impl Given {
    fn new(change: &Change) -> Result<Given, String> {
        let key = |namespace: &String, name: &String| NamespacedName {
            namespace: namespace.clone(),
            name: name.clone(),
        };
        let manifest = match change {
            Change::Namespace(_, Some(new)) => new.manifest(),
            Change::Pod(_, _, Some(new)) => new.manifest(),
            Change::NetworkPolicy(_, _, Some(new)) | Change::ClusterPolicy(_, Some(new)) => {
                new.clone()
            }
            Change::Namespace(name, None) => return Ok(Given::Namespace(name.clone(), None)),
            Change::Pod(namespace, name, None) => {
                return Ok(Given::Pod(key(namespace, name), None));
            }
            Change::NetworkPolicy(namespace, name, None) => {
                return Ok(Given::NetworkPolicy(key(namespace, name), None));
            }
            Change::ClusterPolicy(name, None) => {
                return Ok(Given::ClusterPolicy(name.clone(), None));
            }
            Change::Group(id, group) => {
                let group = group.as_ref().map(|g| Group {
                    id: g.id,
                    namespace: g.namespace.clone(),
                    labels: g.labels.iter().cloned().collect(),
                });
                return Ok(Given::Group(*id, group));
            }
            Change::Endpoint(port, endpoint) => {
                let endpoint = endpoint.as_ref().map(|e| policy::Endpoint {
                    pod: key(&e.namespace, &e.name),
                    uid: Some(e.uid.clone()),
                    addresses: e.addresses.clone(),
                });
                return Ok(Given::Endpoint(port.clone(), endpoint));
            }
        };
        match object(&manifest)? {
            Object::Namespace(o) => Ok(Given::Namespace(o.name.clone(), Some(o))),
            Object::Pod(o) => Ok(Given::Pod(o.key(), Some(o))),
            Object::NetworkPolicy(o) => Ok(Given::NetworkPolicy(o.key(), Some(o))),
            Object::ClusterNetworkPolicy(o) => Ok(Given::ClusterPolicy(o.name.clone(), Some(o))),
            other => Err(format!("{other:?} is nothing of Kubernetes")),
        }
    }

    fn change(&self) -> policy::Change<'_> {
        match self {
            Given::Namespace(name, o) => policy::Change::Namespace(name, o.as_ref()),
            Given::Pod(key, o) => policy::Change::Pod(key, o.as_deref()),
            Given::NetworkPolicy(key, o) => policy::Change::NetworkPolicy(key, o.as_deref()),
            Given::ClusterPolicy(name, o) => {
                policy::Change::ClusterNetworkPolicy(name, o.as_deref())
            }
            Given::Group(id, o) => policy::Change::Group(*id, o.as_ref()),
            Given::Endpoint(port, o) => policy::Change::Endpoint(port, o.clone()),
        }
    }
}

/// The object of a manifest, checked, and read back as the control socket gives and takes it.
fn object(manifest: &Value) -> Result<Object, String> {
    let name = cluster::name(manifest);
    let objects = manifest::read(manifest).map_err(|e| format!("{name}: {e}"))?;
    let [object] = objects.as_slice() else {
        return Err(format!("{name}: {} objects of one manifest", objects.len()));
    };
    let set = method::Change::Set {
        object: object.clone(),
    };
    let mut state = Model::new(Bounds::default());
    let checked = state.apply(&[set]);
    checked.map_err(|e| format!("{name}: {e}"))?;
    let text = serde_json::to_string(object).map_err(|e| format!("{name}: {e}"))?;
    let again: Object =
        serde_json::from_str(&text).map_err(|e| format!("{name}: {e} in {text}"))?;
    match again == *object {
        true => Ok(again),
        false => Err(format!("{name}: {object:?} is {again:?} when read again")),
    }
}

/// Whether podswitch takes a manifest; what is wrong with it if not.
pub fn readable(manifest: &Value) -> Result<(), String> {
    object(manifest).map(drop)
}

impl Node {
    /// Takes changes in, as one batch. How many differences that made, or what went wrong: an object that cannot be read,
    /// tables that refuse.
    pub fn apply(&mut self, changes: &[Change]) -> Result<usize, String> {
        let mut objects = Vec::new();
        for change in changes {
            objects.push(Given::new(change)?);
        }
        let update = self.compiler.apply(objects.iter().map(Given::change));
        self.take_rules(&update)?;
        let mut edit = Edit::new(&self.tables, self.tables.generation());
        self.attach(changes, &mut edit)?;
        self.fill(&update, &mut edit)?;
        self.tables = edit.build().map_err(|e| format!("tables: {e}"))?;
        Ok(update.peers.len()
            + update.identities.len()
            + update.cidrs.len()
            + update.groups.len()
            + update.endpoints.len()
            + update.rules.len())
    }

    fn take_rules(&mut self, update: &Update) -> Result<(), String> {
        for (id, name) in &update.rules {
            match name {
                Some(name) => self.rules.insert(*id, name.clone()),
                None => self.rules.remove(id),
            };
        }
        let known =
            |(id, name): (&RuleId, &Arc<RuleName>)| self.compiler.rule(*id) == Some(&**name);
        match self.rules.iter().all(known) {
            true => Ok(()),
            false => Err("Compiler::rule and updates name rules differently".to_owned()),
        }
    }

    /// Ports as endpoints come and go.
    fn attach(&mut self, changes: &[Change], edit: &mut Edit) -> Result<(), String> {
        let mut last: BTreeMap<&String, bool> = BTreeMap::new();
        for change in changes {
            if let Change::Endpoint(port, endpoint) = change {
                last.insert(port, endpoint.is_some());
            }
        }
        for (name, is_there) in last {
            let known = self.ports.get(name).map(|(id, _)| *id);
            match (known, is_there) {
                (None, true) => {
                    let id = self.free_port();
                    edit.set_port(port(name, id))
                        .set_policy(id, PortPolicy::Pending);
                    self.ports.insert(name.clone(), (id, None));
                }
                (Some(id), false) => {
                    edit.remove_port(id);
                    self.ports.remove(name);
                }
                (None, false) | (Some(_), true) => {}
            }
        }
        Ok(())
    }

    fn free_port(&self) -> PortId {
        let taken = |id: &u16| self.ports.values().any(|(other, _)| other.0 == *id);
        PortId((0..u16::MAX).find(|id| !taken(id)).unwrap_or(u16::MAX))
    }

    fn fill(&mut self, update: &Update, edit: &mut Edit) -> Result<(), String> {
        for (id, class) in &update.identities {
            edit.set_identity(IdentityId(id.0), class.map(|c| PeerClass(c.0)));
        }
        for (address, identity) in &update.peers {
            edit.set_peer(*address, identity.map(|i| IdentityId(i.0)));
        }
        for (cidr, class) in &update.cidrs {
            edit.set_cidr(*cidr, class.map(|c| CidrClass(c.0)));
        }
        for (number, identity) in &update.groups {
            let group = GroupId::new(*number).ok_or("group 0")?;
            edit.set_group(group, identity.map(|i| IdentityId(i.0)));
        }
        // Directions that ports share are made once.
        let mut made: Vec<(*const DirectionSpec, Arc<DirectionPolicy>)> = Vec::new();
        for (name, policy) in &update.endpoints {
            let Some((id, told)) = self.ports.get_mut(name) else {
                continue;
            };
            told.clone_from(policy);
            let group = policy.as_ref().and_then(|policy| policy.group);
            edit.set_group_of(*id, group.and_then(GroupId::new));
            let Some(policy) = policy else {
                edit.set_policy(*id, PortPolicy::Pending);
                continue;
            };
            let mut both = Vec::new();
            for spec in [&policy.egress, &policy.ingress] {
                let known = made.iter().find(|(of, _)| *of == Arc::as_ptr(spec));
                let direction = match known {
                    Some((_, direction)) => direction.clone(),
                    None => direction(spec).map_err(|e| format!("port {name}: {e}"))?,
                };
                made.push((Arc::as_ptr(spec), direction.clone()));
                both.push(direction);
            }
            if let [egress, ingress] = both.as_slice() {
                let (egress, ingress) = (egress.clone(), ingress.clone());
                edit.set_policy(*id, PortPolicy::Judged { egress, ingress });
            }
        }
        Ok(())
    }

    /// The group of a port's packets.
    pub fn group_of(&self, port: &str) -> Option<u16> {
        let (id, _) = self.ports.get(port)?;
        self.tables.port(*id)?.group.map(GroupId::get)
    }

    /// What a port says to a packet that it sends or gets. None if there is no such port.
    pub fn judge(&self, port: &str, end: End, packet: &Packet) -> Option<Said> {
        let (id, told) = self.ports.get(port)?;
        let (egress, ingress) = match &self.tables.port(*id)?.policy {
            PortPolicy::Judged { egress, ingress } => (egress, ingress),
            PortPolicy::None | PortPolicy::Pending => return Some(Said::Pending),
        };
        let (direction, other) = match end {
            End::Egress => (egress, packet.destination),
            End::Ingress => (ingress, packet.source),
        };
        let mark = packet.group.filter(|_| end == End::Ingress);
        let marked = mark.and_then(GroupId::new);
        let marked = marked.and_then(|group| self.tables.marked_peer(group, &key(other)));
        let peer = marked.unwrap_or_else(|| self.tables.peer(&key(other)));
        Some(match direction.judge(&peer, packet.protocol, packet.port) {
            PolicyJudgement::Accept(rule) => Said::Accept(self.rule(rule)),
            PolicyJudgement::Deny(rule) => Said::Deny(self.rule(rule)),
            PolicyJudgement::Isolated => Said::Isolated(isolated_by(told.as_ref(), end)),
            PolicyJudgement::NoMatch => Said::NoMatch,
        })
    }

    fn rule(&self, id: PolicyRuleId) -> RuleRef {
        match self.rules.get(&RuleId(id.0)) {
            Some(name) => RuleRef {
                policy: name.policy.to_string(),
                index: name.index,
            },
            None => RuleRef {
                policy: "a rule without a name".to_owned(),
                index: 0,
            },
        }
    }

    /// The sum of stamps that a connection of a packet remembers, given the ports of its two ends.
    pub fn stamp(&self, ports: [Option<&str>; 2], packet: &Packet) -> u32 {
        let port = |name: Option<&str>| {
            let (id, _) = self.ports.get(name?)?;
            Some(self.tables.port(*id)?.stamp)
        };
        let ports = ports.map(|name| port(name).unwrap_or(0));
        let address = |address| {
            let key = key(address);
            let stamp = self.tables.address_stamp(&key);
            stamp.wrapping_add(self.tables.route_stamp(&key))
        };
        [
            self.tables.common_stamp(),
            ports[0],
            ports[1],
            address(packet.source),
            address(packet.destination),
        ]
        .into_iter()
        .fold(0, u32::wrapping_add)
    }

    /// The tables.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The number of a port.
    pub fn port(&self, name: &str) -> Option<PortId> {
        self.ports.get(name).map(|(id, _)| *id)
    }

    /// Changes the tables besides.
    pub fn edit(&mut self, change: impl FnOnce(&mut Edit)) -> Result<(), TableError> {
        let mut edit = Edit::new(&self.tables, self.tables.generation());
        change(&mut edit);
        self.tables = edit.build()?;
        Ok(())
    }

    /// What is left of peers, identities, CIDRs and rules.
    pub fn left(&self) -> [usize; 4] {
        let counts = self.tables.counts();
        [
            counts.peers,
            counts.identities,
            counts.cidrs,
            self.rules.len(),
        ]
    }
}

fn isolated_by(policy: Option<&EndpointPolicy>, end: End) -> Vec<String> {
    let direction = policy.map(|policy| match end {
        End::Egress => &policy.egress,
        End::Ingress => &policy.ingress,
    });
    let policies = direction.iter().flat_map(|d| &d.isolated_by);
    let mut names: Vec<String> = policies.map(PolicyKey::to_string).collect();
    names.sort();
    names
}

fn key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(a) => map_v4(a.octets()),
        IpAddr::V6(a) => a.octets(),
    }
}

/// A port whose addresses nobody asks for.
fn port(name: &str, id: PortId) -> PortSpec {
    let [high, low] = id.0.to_be_bytes();
    PortSpec {
        id,
        name: name.to_owned(),
        worker: WorkerId(0),
        mac: MacAddr([2, 0, 0, 1, high, low]),
        mtu: 1500,
        kind: PortKindSpec::Routed {
            vrf: VrfId(0),
            addresses: Vec::new(),
        },
        check_source: true,
        node: false,
        egress_default: Action::Allow,
        ingress_default: Action::Allow,
    }
}

fn direction(spec: &DirectionSpec) -> Result<Arc<DirectionPolicy>, String> {
    let rules = spec.rules.iter().map(|rule| PolicyRule {
        id: PolicyRuleId(rule.id.0),
        tier: match rule.tier {
            policy::Tier::Admin => Tier::Admin,
            policy::Tier::Network => Tier::Network,
            policy::Tier::Baseline => Tier::Baseline,
        },
        action: match rule.action {
            policy::Action::Accept => PolicyAction::Accept,
            policy::Action::Deny => PolicyAction::Deny,
            policy::Action::Pass => PolicyAction::Pass,
        },
        any_peer: rule.any_peer,
        both: rule.both,
        ports: (rule.ports.iter())
            .map(|p| PortMatch {
                protocol: p.protocol,
                ports: p.first..=p.last,
            })
            .collect(),
    });
    let classes = spec
        .classes
        .iter()
        .map(|(c, rules)| (PeerClass(c.0), rules.clone()));
    let cidrs = spec
        .cidr_classes
        .iter()
        .map(|(c, rules)| (CidrClass(c.0), rules.clone()));
    let (classes, cidrs): (Vec<_>, Vec<_>) = (classes.collect(), cidrs.collect());
    let isolated = !spec.isolated_by.is_empty();
    let direction = DirectionPolicy::new(rules.collect(), isolated, &classes, &cidrs);
    direction.map(Arc::new).map_err(|e| e.to_string())
}
