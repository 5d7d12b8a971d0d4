// SPDX-License-Identifier: Apache-2.0
//! Answers `get`: which objects, and which page of them.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::state::DesiredState;
use crate::error::{ErrorCode, RpcError};
use crate::limits::MAX_PAGE;
use crate::method::{Filter, GetParams};
use crate::object::{FdbKey, Key, Kind, NeighborKey, Object, RouteKey};

/// A checked `get`.
#[derive(Clone, PartialEq, Debug)]
pub struct Query {
    kind: Kind,
    filter: Filter,
    limit: usize,
    after: Option<Key>,
}

/// A page of objects, in the order of their keys.
#[derive(Clone, PartialEq, Debug)]
pub struct Page {
    /// The objects.
    pub objects: Vec<Object>,
    /// `continue` of the answer.
    pub resume: Option<String>,
}

impl Query {
    /// Checks the parameters of a `get`.
    ///
    /// # Errors
    /// `invalid_params`: a filter that no object of the kind could meet, a limit out of range, a `continue` that is not ours.
    pub fn new(params: &GetParams) -> Result<Query, RpcError> {
        check_filter(params.kind, &params.filter)?;
        let limit = params.limit.unwrap_or(MAX_PAGE);
        if limit == 0 || limit > MAX_PAGE {
            return Err(
                invalid("limit", limit, format!("limit {limit} is out of range"))
                    .hint(format!("choose 1 to {MAX_PAGE}")),
            );
        }
        let after = params
            .resume
            .as_deref()
            .map(|token| read_token(params.kind, token))
            .transpose()?;
        Ok(Query {
            kind: params.kind,
            filter: params.filter.clone(),
            limit: limit as usize,
            after,
        })
    }

    /// The kind asked for.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The page of a desired state.
    pub fn run(&self, state: &DesiredState) -> Page {
        match &self.after {
            None => self.page(state.objects(self.kind)),
            Some(Key::Segment { name }) => self.page(beyond(&state.segments, name)),
            Some(Key::Port { name }) => self.page(beyond(&state.ports, name)),
            Some(Key::Neighbor(key)) => self.page(beyond::<NeighborKey, _>(&state.neighbors, key)),
            Some(Key::Route(key)) => self.page(beyond::<RouteKey, _>(&state.routes, key)),
            Some(Key::Fdb(key)) => self.page(beyond::<FdbKey, _>(&state.fdb, key)),
            Some(Key::Rule { name }) => self.page(beyond(&state.rules, name)),
            Some(Key::Namespace { name }) => self.page(beyond(&state.namespaces, name)),
            Some(Key::Pod(key)) => self.page(beyond(&state.pods, key)),
            Some(Key::NetworkPolicy(key)) => self.page(beyond(&state.network_policies, key)),
            Some(Key::ClusterNetworkPolicy { name }) => {
                self.page(beyond(&state.cluster_network_policies, name))
            }
            Some(Key::Group { id }) => self.page(beyond(&state.groups, id)),
            Some(Key::Service { name }) => self.page(beyond(&state.services, name)),
        }
    }

    /// The page of any objects of the kind, given in the order of their keys.
    pub fn select(&self, objects: impl Iterator<Item = Object>) -> Page {
        self.page(
            objects.skip_while(|o| self.after.as_ref().is_some_and(|after| o.key() <= *after)),
        )
    }

    fn page(&self, objects: impl Iterator<Item = Object>) -> Page {
        let mut page = Page {
            objects: Vec::new(),
            resume: None,
        };
        for object in objects.filter(|o| matches(&self.filter, o)) {
            if page.objects.len() == self.limit {
                page.resume = page.objects.last().map(|o| token(&o.key()));
                break;
            }
            page.objects.push(object);
        }
        page
    }
}

fn beyond<'a, K: Ord, V: Clone + Into<Object> + 'a>(
    map: &'a BTreeMap<K, V>,
    key: &K,
) -> impl Iterator<Item = Object> + 'a {
    map.range((Bound::Excluded(key), Bound::Unbounded))
        .map(|(_, v)| v.clone().into())
}

/// A key is written as JSON; a client takes it as it is.
fn token(key: &Key) -> String {
    serde_json::to_string(key).unwrap_or_default()
}

fn read_token(kind: Kind, token: &str) -> Result<Key, RpcError> {
    match serde_json::from_str::<Key>(token) {
        Ok(key) if key.kind() == kind => Ok(key),
        _ => {
            let shown: String = token.chars().take(64).collect();
            Err(invalid(
                "continue",
                &shown,
                format!("continue \"{shown}\" is not one of a page of kind {kind}"),
            )
            .hint("repeat `continue` of the page before as it was, or leave it out"))
        }
    }
}

fn invalid(field: &str, value: impl std::fmt::Display, message: String) -> RpcError {
    RpcError::new(ErrorCode::InvalidParams, format!("get: {message}"))
        .field(format!("params.{field}"))
        .value(value)
}

/// Refuses conditions that objects of the kind do not have.
fn check_filter(kind: Kind, filter: &Filter) -> Result<(), RpcError> {
    use Kind::{
        ClusterNetworkPolicy, Fdb, Group, Namespace, Neighbor, NetworkPolicy, Pod, Port, Route,
        Rule, Segment, Service,
    };
    let named = &[
        Port,
        Segment,
        Rule,
        Namespace,
        Pod,
        NetworkPolicy,
        ClusterNetworkPolicy,
        Service,
    ];
    let conditions: [(&str, bool, &[Kind]); 11] = [
        ("name", filter.name.is_some(), named),
        (
            "namespace",
            filter.namespace.is_some(),
            &[Pod, NetworkPolicy, Group],
        ),
        ("id", filter.id.is_some(), &[Segment, Group]),
        ("port", filter.port.is_some(), &[Route, Neighbor, Fdb, Rule]),
        ("vrf", filter.vrf.is_some(), &[Port, Route, Neighbor]),
        ("segment", filter.segment.is_some(), &[Port, Fdb]),
        ("prefix", filter.prefix.is_some(), &[Route]),
        (
            "address",
            filter.address.is_some(),
            &[Port, Neighbor, Pod, Service],
        ),
        ("mac", filter.mac.is_some(), &[Port, Neighbor, Fdb]),
        ("container_id", filter.container_id.is_some(), &[Port]),
        ("network", filter.network.is_some(), &[Port]),
    ];
    match conditions
        .iter()
        .find(|(_, given, kinds)| *given && !kinds.contains(&kind))
    {
        Some((name, _, kinds)) => {
            let kinds: Vec<&str> = kinds.iter().map(|k| k.name()).collect();
            Err(invalid(
                &format!("filter.{name}"),
                name,
                format!("a {kind} has no `{name}` to filter by"),
            )
            .hint(format!("`{name}` is for {}", kinds.join(", "))))
        }
        None => Ok(()),
    }
}

fn matches(filter: &Filter, object: &Object) -> bool {
    fn is<T: PartialEq>(wanted: &Option<T>, there: Option<&T>) -> bool {
        wanted.as_ref().is_none_or(|w| there == Some(w))
    }
    match object {
        Object::Segment(o) => is(&filter.name, Some(&o.name)) && is(&filter.id, Some(&o.id)),
        Object::Port(o) => {
            let pod = o.pod.as_ref();
            is(&filter.name, Some(&o.name))
                && is(&filter.vrf, o.segment.is_none().then_some(&o.vrf))
                && is(&filter.segment, o.segment.as_ref().map(|m| &m.name))
                && filter
                    .address
                    .as_ref()
                    .is_none_or(|a| o.addresses.contains(a))
                && is(&filter.mac, o.mac.as_ref())
                && is(&filter.container_id, pod.map(|p| &p.container_id))
                && is(&filter.network, pod.and_then(|p| p.network.as_ref()))
        }
        Object::Neighbor(o) => {
            is(&filter.port, Some(&o.port))
                && is(&filter.vrf, Some(&o.vrf))
                && is(&filter.address, Some(&o.address))
                && is(&filter.mac, Some(&o.mac))
        }
        Object::Route(o) => {
            is(&filter.port, o.port.as_ref())
                && is(&filter.vrf, Some(&o.vrf))
                && is(&filter.prefix, Some(&o.prefix))
        }
        Object::Fdb(o) => {
            is(&filter.port, Some(&o.port))
                && is(&filter.segment, Some(&o.segment))
                && is(&filter.mac, Some(&o.mac))
        }
        Object::Rule(o) => is(&filter.name, Some(&o.name)) && is(&filter.port, Some(&o.port)),
        Object::Namespace(o) => is(&filter.name, Some(&o.name)),
        Object::Pod(o) => {
            let address = filter.address.as_ref();
            is(&filter.name, Some(&o.name))
                && is(&filter.namespace, Some(&o.namespace))
                && address.is_none_or(|a| o.addresses.contains(a))
        }
        Object::NetworkPolicy(o) => {
            is(&filter.name, Some(&o.name)) && is(&filter.namespace, Some(&o.namespace))
        }
        Object::ClusterNetworkPolicy(o) => is(&filter.name, Some(&o.name)),
        Object::Group(o) => {
            is(&filter.id, Some(&o.id.into())) && is(&filter.namespace, Some(&o.namespace))
        }
        Object::Service(o) => {
            let address = filter.address.as_ref();
            is(&filter.name, Some(&o.name))
                && address.is_none_or(|a| o.all_addresses().any(|own| own == *a))
        }
    }
}
