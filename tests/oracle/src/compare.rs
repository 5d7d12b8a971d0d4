// SPDX-License-Identifier: Apache-2.0
//! Holds a node against the oracle, and makes what they disagree about small.

use std::ops::RangeInclusive;

use serde_json::Value;

use crate::cluster::{Cluster, Endpoint, Pod};
use crate::generate::{Change, Packet};
use crate::node::{End, Node, Said};
use crate::oracle::{Decision, Peer, allowed};

/// Seeds of a test: so many, or those that `PODSWITCH_SEED` asks for.
pub fn seeds(count: u64) -> RangeInclusive<u64> {
    let number = |text: &str| text.parse().expect("PODSWITCH_SEED is n or n-m");
    match std::env::var("PODSWITCH_SEED") {
        Ok(text) => match text.split_once('-') {
            Some((first, last)) => number(first)..=number(last),
            None => number(&text)..=number(&text),
        },
        Err(_) => 1..=count,
    }
}

/// Compares what the node says to a packet with the oracle, at each end that is attached. How many ends were compared, or
/// what they disagree about.
pub fn compare(cluster: &Cluster, node: &Node, packet: &Packet) -> Result<usize, String> {
    let mut compared = 0;
    for (end, endpoint) in ends(cluster, packet) {
        let said = node.judge(&endpoint.port, end, packet);
        let said = said.ok_or_else(|| format!("port {} is not there", endpoint.port))?;
        if end == End::Egress {
            compare_groups(cluster, node, endpoint)?;
        }
        let wanted = wanted(cluster, endpoint, end, packet);
        if !agree(wanted.as_ref(), &said) {
            let wanted = wanted.map_or("pending".to_owned(), |decision| decision.to_string());
            let [from, to] = [packet.source, packet.destination].map(|a| Peer::behind(cluster, a));
            let port = &endpoint.port;
            return Err(format!(
                "{packet}\n  from {from}\n  to {to}\n  {end:?} at {port}:\n  oracle: {wanted}\n  tables: {said:?}"
            ));
        }
        compared += 1;
    }
    Ok(compared)
}

/// Compares what packets of a port are marked with.
fn compare_groups(cluster: &Cluster, node: &Node, endpoint: &Endpoint) -> Result<(), String> {
    let pod = cluster.described(endpoint);
    let wanted = pod.and_then(|pod| cluster.group_of(&pod.namespace, &pod.labels));
    let (said, port) = (node.group_of(&endpoint.port), &endpoint.port);
    match said == wanted {
        true => Ok(()),
        false => Err(format!(
            "{port} is of group {wanted:?}, and not of {said:?}"
        )),
    }
}

/// Whether the oracle lets a packet pass, at each end that is attached.
pub fn passes(cluster: &Cluster, packet: &Packet) -> bool {
    let mut ends = ends(cluster, packet).into_iter();
    ends.all(|(end, endpoint)| {
        wanted(cluster, endpoint, end, packet).is_some_and(|decision| decision.passes())
    })
}

/// The ends of a packet that are attached.
pub fn ends<'a>(cluster: &'a Cluster, packet: &Packet) -> Vec<(End, &'a Endpoint)> {
    let mut ends = Vec::new();
    for endpoint in &cluster.endpoints {
        if endpoint.addresses.contains(&packet.source) {
            ends.push((End::Egress, endpoint));
        }
        if endpoint.addresses.contains(&packet.destination) {
            ends.push((End::Ingress, endpoint));
        }
    }
    ends
}

/// What the oracle says. None: pending.
fn wanted(cluster: &Cluster, endpoint: &Endpoint, end: End, packet: &Packet) -> Option<Decision> {
    let pod = cluster.described(endpoint)?;
    let Packet { protocol, port, .. } = *packet;
    Some(match end {
        End::Egress => {
            let (own, other) = (
                Peer::pod(pod, packet.source),
                Peer::behind(cluster, packet.destination),
            );
            allowed(cluster, &own, &other, protocol, port).egress
        }
        End::Ingress => {
            let own = Peer::pod(pod, packet.destination);
            if let Some((cluster, other)) = marked(cluster, packet) {
                return Some(allowed(&cluster, &other, &own, protocol, port).ingress);
            }
            let other = Peer::behind(cluster, packet.source);
            allowed(cluster, &other, &own, protocol, port).ingress
        }
    })
}

/// The sender of a packet whose group is known: a pod like those that the group stands for, in a cluster that has it.
fn marked(cluster: &Cluster, packet: &Packet) -> Option<(Cluster, Peer)> {
    let group = cluster.group(packet.group?)?;
    let pod = Pod {
        namespace: group.namespace.clone(),
        name: format!("of-group-{}", group.id),
        uid: String::new(),
        labels: group.labels.clone(),
        addresses: vec![packet.source],
        ports: Vec::new(),
        host_network: false,
    };
    let sender = Peer::pod(&pod, packet.source);
    let mut cluster = cluster.clone();
    cluster.pods.push(pod);
    Some((cluster, sender))
}

fn agree(wanted: Option<&Decision>, said: &Said) -> bool {
    match (wanted, said) {
        (None, Said::Pending) | (Some(Decision::Default), Said::NoMatch) => true,
        // The frame's path lets these pass before it asks the tables.
        (Some(Decision::Exempt(_)), said) => *said != Said::Pending,
        (Some(Decision::Accepted(by)), Said::Accept(rule)) => by.contains(rule),
        (Some(Decision::Denied(by)), Said::Deny(rule)) => by == rule,
        (Some(Decision::Isolated(by)), Said::Isolated(policies)) => {
            let mut by = by.clone();
            by.sort();
            by == *policies
        }
        _ => false,
    }
}

/// Batches of changes without whatever can go while something still fails.
pub fn minimal(
    mut batches: Vec<Vec<Change>>,
    fails: &dyn Fn(&[Vec<Change>]) -> bool,
) -> Vec<Vec<Change>> {
    let mut smaller = true;
    while smaller {
        smaller = false;
        for batch in (0..batches.len()).rev() {
            for at in (0..batches[batch].len()).rev() {
                let mut tried = batches.clone();
                let taken = tried[batch].remove(at);
                if fails(&tried) {
                    (batches, smaller) = (tried, true);
                    continue;
                }
                for part in parts(&taken) {
                    let mut tried = batches.clone();
                    tried[batch][at] = part;
                    if fails(&tried) {
                        (batches, smaller) = (tried, true);
                        break;
                    }
                }
            }
        }
    }
    batches.retain(|batch| !batch.is_empty());
    batches
}

/// A change with one element of one list less.
fn parts(change: &Change) -> Vec<Change> {
    match change {
        Change::NetworkPolicy(namespace, name, Some(policy)) => {
            let less = less(policy).into_iter();
            let change =
                |policy| Change::NetworkPolicy(namespace.clone(), name.clone(), Some(policy));
            less.map(change).collect()
        }
        Change::ClusterPolicy(name, Some(policy)) => {
            let less = less(policy).into_iter();
            less.map(|policy| Change::ClusterPolicy(name.clone(), Some(policy)))
                .collect()
        }
        _ => Vec::new(),
    }
}

/// A value with one element of one list less, wherever it is. Lists that must not be empty keep an element.
fn less(value: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    match value {
        Value::Object(fields) => {
            for (key, inner) in fields {
                let keep = [
                    "from",
                    "to",
                    "protocols",
                    "networks",
                    "values",
                    "domainNames",
                ]
                .contains(&key.as_str());
                for part in less(inner) {
                    if keep && part.as_array().is_some_and(Vec::is_empty) {
                        continue;
                    }
                    let mut fields = fields.clone();
                    fields.insert(key.clone(), part);
                    all.push(fields.into());
                }
            }
        }
        Value::Array(elements) => {
            for at in 0..elements.len() {
                let mut fewer = elements.clone();
                fewer.remove(at);
                all.push(fewer.into());
                for part in less(&elements[at]) {
                    let mut elements = elements.clone();
                    elements[at] = part;
                    all.push(elements.into());
                }
            }
        }
        _ => {}
    }
    all
}

/// Batches of changes as a failing test prints them.
pub fn describe(batches: &[Vec<Change>]) -> String {
    let mut text = String::new();
    for batch in batches {
        text.push_str("batch\n");
        for change in batch {
            text.push_str(&format!("  {change}\n"));
        }
    }
    text
}
