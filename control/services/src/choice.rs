// SPDX-License-Identifier: Apache-2.0
//! Which endpoints of a port serve, by the rules of kube-proxy.

use podswitch_api::object::{Backend, Protocol};

use crate::Node;
use crate::slice::{Endpoint, Slice};

/// What a hint of an endpoint says of this node or its zone. Of two that differ the later one is better known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Hint {
    None,
    Elsewhere,
    Here,
}

/// An endpoint as it is to this node. Of several with one address and port the greatest counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Candidate {
    is_local: bool,
    is_ready: bool,
    is_ending: bool,
    for_node: Hint,
    for_zone: Hint,
}

/// Who serves, in order, each once.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Chosen {
    /// Traffic for the whole cluster. Empty only if nobody serves anywhere.
    pub(crate) cluster: Vec<Backend>,
    /// Traffic for this node alone.
    pub(crate) local: Vec<Backend>,
}

/// Ends of the same name and protocol in slices of one family, as they are chosen.
pub(crate) fn choose<'s>(
    slices: impl Iterator<Item = &'s Slice>,
    name: &str,
    protocol: Protocol,
    node: &Node,
) -> Chosen {
    let candidates = candidates(slices, name, protocol, node);
    let any = |which: fn(&Candidate) -> bool| {
        let all = candidates.iter().filter(move |(_, c)| which(c));
        all.map(|(backend, _)| *backend).collect::<Vec<Backend>>()
    };
    let or = |first: Vec<Backend>, second: fn(&Candidate) -> bool| match first.is_empty() {
        true => any(second),
        false => first,
    };
    Chosen {
        cluster: or(any(wanted(&candidates)), |c| c.is_ending),
        local: or(any(|c| c.is_local && c.is_ready), |c| {
            c.is_local && c.is_ending
        }),
    }
}

/// Which ready ones are for this node. Hints count if every ready endpoint has one and one of them is for this node, or else its zone.
fn wanted(all: &[(Backend, Candidate)]) -> fn(&Candidate) -> bool {
    let ready = || all.iter().map(|(_, c)| c).filter(|c| c.is_ready);
    let counts = |hint: fn(&Candidate) -> Hint| {
        ready().all(|c| hint(c) != Hint::None) && ready().any(|c| hint(c) == Hint::Here)
    };
    if counts(|c| c.for_node) {
        |c| c.is_ready && c.for_node == Hint::Here
    } else if counts(|c| c.for_zone) {
        |c| c.is_ready && c.for_zone == Hint::Here
    } else {
        |c| c.is_ready
    }
}

fn candidates<'s>(
    slices: impl Iterator<Item = &'s Slice>,
    name: &str,
    protocol: Protocol,
    node: &Node,
) -> Vec<(Backend, Candidate)> {
    let mut all = Vec::new();
    for slice in slices {
        let ports = slice.ports.iter();
        for port in ports.filter(|p| p.name == name && p.protocol == protocol) {
            all.extend(slice.endpoints.iter().map(|endpoint| {
                let backend = Backend {
                    address: endpoint.address,
                    port: port.number,
                };
                (backend, candidate(endpoint, node))
            }));
        }
    }
    all.sort_unstable_by(|a, b| (a.0, b.1).cmp(&(b.0, a.1)));
    all.dedup_by_key(|(backend, _)| *backend);
    all
}

fn candidate(o: &Endpoint, node: &Node) -> Candidate {
    let hint = |names: &[Box<str>], own: Option<&str>| match names {
        [] => Hint::None,
        names if own.is_some_and(|own| names.iter().any(|n| **n == *own)) => Hint::Here,
        _ => Hint::Elsewhere,
    };
    Candidate {
        is_local: is_local(o, node),
        is_ready: o.is_ready,
        is_ending: o.is_ending,
        for_node: hint(&o.nodes, Some(&node.name)),
        for_zone: hint(&o.zones, node.zone.as_deref()),
    }
}

/// Whether an endpoint is on this node.
pub(crate) fn is_local(o: &Endpoint, node: &Node) -> bool {
    !node.name.is_empty() && o.node.as_deref() == Some(&node.name)
}
