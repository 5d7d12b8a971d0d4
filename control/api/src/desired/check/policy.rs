// SPDX-License-Identifier: Apache-2.0
//! NetworkPolicies and ClusterNetworkPolicies: what the API server checks and podswitch relies on.

use ipnet::IpNet;

use super::kubernetes::{length, name, namespace_name, port_name, port_number, selector};
use super::refuse;
use crate::error::RpcError;
use crate::object::kubernetes::{
    ClusterEgressPeer, ClusterIngressPeer, DestinationPort, IpBlock, NamespacedPods,
    NetworkPolicyPeer, NetworkPolicyPort, PolicyPort, ProtocolMatch, Subject, TransportMatch,
};
use crate::object::{ClusterNetworkPolicy, NetworkPolicy};

/// Most rules of a policy in one direction, peers or ports of a rule, exceptions of an ipBlock, networks of a peer.
const MAX_RULES: usize = 10_000;
const MAX_ITEMS: usize = 10_000;
/// Largest priority of a ClusterNetworkPolicy, and longest name of a rule of one, in characters.
const MAX_PRIORITY: u16 = 1000;
const MAX_RULE_NAME: usize = 100;

pub(super) fn network_policy(o: &NetworkPolicy) -> Result<(), RpcError> {
    namespace_name("namespace", &o.namespace)?;
    name("name", &o.name)?;
    selector("spec.podSelector", &o.spec.pod_selector)?;
    length("spec.policyTypes", o.spec.policy_types.len(), 2)?;
    length("spec.ingress", o.spec.ingress.len(), MAX_RULES)?;
    length("spec.egress", o.spec.egress.len(), MAX_RULES)?;
    for (i, rule) in o.spec.ingress.iter().enumerate() {
        let at = format!("spec.ingress[{i}]");
        rule_of(&at, "from", &rule.from, &rule.ports)?;
    }
    for (i, rule) in o.spec.egress.iter().enumerate() {
        let at = format!("spec.egress[{i}]");
        rule_of(&at, "to", &rule.to, &rule.ports)?;
    }
    Ok(())
}

fn rule_of(
    at: &str,
    side: &str,
    peers: &[NetworkPolicyPeer],
    ports: &[NetworkPolicyPort],
) -> Result<(), RpcError> {
    length(&format!("{at}.{side}"), peers.len(), MAX_ITEMS)?;
    length(&format!("{at}.ports"), ports.len(), MAX_ITEMS)?;
    for (i, o) in peers.iter().enumerate() {
        peer(&format!("{at}.{side}[{i}]"), o)?;
    }
    for (i, o) in ports.iter().enumerate() {
        port(&format!("{at}.ports[{i}]"), o)?;
    }
    Ok(())
}

fn peer(at: &str, o: &NetworkPolicyPeer) -> Result<(), RpcError> {
    let selects = o.pod_selector.is_some() || o.namespace_selector.is_some();
    if !o.unknown && selects == o.ip_block.is_some() {
        let (what, hint) = match selects {
            true => ("it has selectors and an ipBlock", "make two peers of them"),
            false => (
                "it names nobody",
                "give podSelector, namespaceSelector or ipBlock",
            ),
        };
        return Err(refuse(at, "", what, hint));
    }
    if let Some(pods) = &o.pod_selector {
        selector(&format!("{at}.podSelector"), pods)?;
    }
    if let Some(namespaces) = &o.namespace_selector {
        selector(&format!("{at}.namespaceSelector"), namespaces)?;
    }
    match &o.ip_block {
        Some(block) => ip_block(&format!("{at}.ipBlock"), block),
        None => Ok(()),
    }
}

fn ip_block(at: &str, o: &IpBlock) -> Result<(), RpcError> {
    network(&format!("{at}.cidr"), &o.cidr)?;
    let field = format!("{at}.except");
    length(&field, o.except.len(), MAX_ITEMS)?;
    for (i, except) in o.except.iter().enumerate() {
        let field = format!("{field}[{i}]");
        network(&field, except)?;
        if !o.cidr.trunc().contains(&except.trunc()) || except.prefix_len() == o.cidr.prefix_len() {
            let what = format!("not a part of {}", o.cidr);
            return Err(refuse(
                &field,
                except,
                what,
                "choose a longer prefix within it",
            ));
        }
    }
    Ok(())
}

/// Bits beyond the length are allowed, as the API server allows them.
fn network(field: &str, net: &IpNet) -> Result<(), RpcError> {
    match net {
        IpNet::V6(net) if net.prefix_len() >= 96 && net.addr().to_ipv4_mapped().is_some() => {
            let what = "an IPv4-mapped prefix";
            Err(refuse(field, net, what, "write it as IPv4"))
        }
        _ => Ok(()),
    }
}

fn port(at: &str, o: &NetworkPolicyPort) -> Result<(), RpcError> {
    let field = format!("{at}.port");
    match (&o.port, o.end_port) {
        (Some(PolicyPort::Number(first)), end) => {
            port_number(&field, *first)?;
            match end {
                Some(end) if end < *first => Err(refuse(
                    &format!("{at}.endPort"),
                    end,
                    format!("below port {first}"),
                    "choose one from it on",
                )),
                _ => Ok(()),
            }
        }
        (Some(PolicyPort::Name(name)), None) => port_name(&field, name),
        (None, None) => Ok(()),
        (_, Some(end)) => Err(refuse(
            &format!("{at}.endPort"),
            end,
            "a range needs a number to begin with",
            "give `port` as a number",
        )),
    }
}

pub(super) fn cluster_network_policy(o: &ClusterNetworkPolicy) -> Result<(), RpcError> {
    name("name", &o.name)?;
    let spec = &o.spec;
    if spec.priority > MAX_PRIORITY {
        let hint = format!("choose 0 to {MAX_PRIORITY}");
        return Err(refuse("spec.priority", spec.priority, "out of range", hint));
    }
    subject("spec.subject", &spec.subject)?;
    length("spec.ingress", spec.ingress.len(), MAX_RULES)?;
    length("spec.egress", spec.egress.len(), MAX_RULES)?;
    for (i, rule) in spec.ingress.iter().enumerate() {
        let at = format!("spec.ingress[{i}]");
        rule_name(&at, rule.name.as_deref())?;
        some(&format!("{at}.from"), rule.from.len())?;
        for (i, o) in rule.from.iter().enumerate() {
            ingress_peer(&format!("{at}.from[{i}]"), o)?;
        }
        protocols(&at, &rule.protocols)?;
    }
    for (i, rule) in spec.egress.iter().enumerate() {
        let at = format!("spec.egress[{i}]");
        rule_name(&at, rule.name.as_deref())?;
        some(&format!("{at}.to"), rule.to.len())?;
        for (i, o) in rule.to.iter().enumerate() {
            egress_peer(&format!("{at}.to[{i}]"), o)?;
        }
        protocols(&at, &rule.protocols)?;
    }
    Ok(())
}

fn rule_name(at: &str, name: Option<&str>) -> Result<(), RpcError> {
    match name.map_or(0, |name| name.chars().count()) {
        0..=MAX_RULE_NAME => Ok(()),
        long => {
            let hint = format!("use up to {MAX_RULE_NAME} characters");
            Err(refuse(
                &format!("{at}.name"),
                long,
                "too many characters",
                hint,
            ))
        }
    }
}

/// A list with something in it.
fn some(field: &str, count: usize) -> Result<(), RpcError> {
    match count {
        0 => Err(refuse(field, "[]", "for nobody", "name at least one")),
        _ => length(field, count, MAX_ITEMS),
    }
}

/// At most one field of a choice is there. With none it is of a kind that somebody between a later Kubernetes and here did not know, and
/// fails closed (v1alpha2, on peers).
fn at_most_one(at: &str, given: &[bool], names: &str) -> Result<(), RpcError> {
    match given.iter().filter(|g| **g).count() {
        0 | 1 => Ok(()),
        n => Err(refuse(
            at,
            n,
            "fields where one is allowed",
            format!("give one of {names}"),
        )),
    }
}

fn subject(at: &str, o: &Subject) -> Result<(), RpcError> {
    let names = "namespaces, pods";
    if o.namespaces.is_none() && o.pods.is_none() {
        let hint = format!("give one of {names}");
        return Err(refuse(at, "{}", "none of its fields is there", hint));
    }
    at_most_one(at, &[o.namespaces.is_some(), o.pods.is_some()], names)?;
    if let Some(namespaces) = &o.namespaces {
        selector(&format!("{at}.namespaces"), namespaces)?;
    }
    pods(at, o.pods.as_ref())
}

fn pods(at: &str, o: Option<&NamespacedPods>) -> Result<(), RpcError> {
    let Some(o) = o else { return Ok(()) };
    selector(
        &format!("{at}.pods.namespaceSelector"),
        &o.namespace_selector,
    )?;
    selector(&format!("{at}.pods.podSelector"), &o.pod_selector)
}

fn ingress_peer(at: &str, o: &ClusterIngressPeer) -> Result<(), RpcError> {
    let given = [o.namespaces.is_some(), o.pods.is_some()];
    at_most_one(at, &given, "namespaces, pods")?;
    if let Some(namespaces) = &o.namespaces {
        selector(&format!("{at}.namespaces"), namespaces)?;
    }
    pods(at, o.pods.as_ref())
}

fn egress_peer(at: &str, o: &ClusterEgressPeer) -> Result<(), RpcError> {
    let given = [
        o.namespaces.is_some(),
        o.pods.is_some(),
        o.nodes.is_some(),
        o.networks.is_some(),
        o.domain_names.is_some(),
    ];
    let names = "namespaces, pods, nodes, networks, domainNames";
    at_most_one(at, &given, names)?;
    for (field, selectors) in [("namespaces", &o.namespaces), ("nodes", &o.nodes)] {
        if let Some(labels) = selectors {
            selector(&format!("{at}.{field}"), labels)?;
        }
    }
    if let Some(networks) = &o.networks {
        let field = format!("{at}.networks");
        some(&field, networks.len())?;
        for (i, net) in networks.iter().enumerate() {
            network(&format!("{field}[{i}]"), net)?;
        }
    }
    if let Some(names) = &o.domain_names {
        some(&format!("{at}.domainNames"), names.len())?;
    }
    pods(at, o.pods.as_ref())
}

fn protocols(at: &str, all: &[ProtocolMatch]) -> Result<(), RpcError> {
    let field = format!("{at}.protocols");
    length(&field, all.len(), MAX_ITEMS)?;
    for (i, o) in all.iter().enumerate() {
        let at = format!("{field}[{i}]");
        let given = [
            o.tcp.is_some(),
            o.udp.is_some(),
            o.sctp.is_some(),
            o.destination_named_port.is_some(),
        ];
        at_most_one(&at, &given, "tcp, udp, sctp, destinationNamedPort")?;
        for (field, transport) in [("tcp", &o.tcp), ("udp", &o.udp), ("sctp", &o.sctp)] {
            if let Some(transport) = transport {
                transport_match(&format!("{at}.{field}"), transport)?;
            }
        }
    }
    Ok(())
}

fn transport_match(at: &str, o: &TransportMatch) -> Result<(), RpcError> {
    let Some(DestinationPort { number, range }) = o.destination_port else {
        return Ok(());
    };
    let field = format!("{at}.destinationPort");
    at_most_one(
        &field,
        &[number.is_some(), range.is_some()],
        "number, range",
    )?;
    if let Some(number) = number {
        port_number(&format!("{field}.number"), number)?;
    }
    if let Some(range) = range {
        port_number(&format!("{field}.range.start"), range.start)?;
        if range.end <= range.start {
            let what = format!("not above its start {}", range.start);
            let hint = "choose one above it, or give `number`";
            return Err(refuse(&format!("{field}.range.end"), range.end, what, hint));
        }
    }
    Ok(())
}
