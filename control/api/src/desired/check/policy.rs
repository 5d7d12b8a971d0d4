// SPDX-License-Identifier: Apache-2.0
//! NetworkPolicies and ClusterNetworkPolicies: what the API server checks and podswitch relies on.

use ipnet::IpNet;

use super::kubernetes::{length, name, port_name, port_number, selector};
use super::refuse;
use crate::error::RpcError;
use crate::object::kubernetes::{
    ClusterAction, ClusterEgressPeer, ClusterIngressPeer, DestinationPort, IpBlock, NamespacedPods,
    NetworkPolicyPeer, NetworkPolicyPort, PolicyPort, ProtocolMatch, Subject, TransportMatch,
};
use crate::object::{ClusterNetworkPolicy, NetworkPolicy};

/// Most rules of a policy in one direction, peers or ports of a rule, exceptions of an ipBlock, networks of a peer.
const MAX_RULES: usize = 10_000;
const MAX_ITEMS: usize = 10_000;
/// Largest priority of a ClusterNetworkPolicy.
const MAX_PRIORITY: u16 = 1000;

pub(super) fn network_policy(o: &NetworkPolicy) -> Result<(), RpcError> {
    name("namespace", &o.namespace)?;
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
    for except in &o.except {
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
        peers(&format!("{at}.from"), rule.from.len())?;
        for (i, o) in rule.from.iter().enumerate() {
            ingress_peer(&format!("{at}.from[{i}]"), o)?;
        }
        protocols(&at, &rule.protocols)?;
    }
    for (i, rule) in spec.egress.iter().enumerate() {
        let at = format!("spec.egress[{i}]");
        peers(&format!("{at}.to"), rule.to.len())?;
        for (i, o) in rule.to.iter().enumerate() {
            egress_peer(&format!("{at}.to[{i}]"), o, rule.action)?;
        }
        protocols(&at, &rule.protocols)?;
    }
    Ok(())
}

fn peers(field: &str, count: usize) -> Result<(), RpcError> {
    match count {
        0 => Err(refuse(
            field,
            "[]",
            "a rule for nobody",
            "give at least one peer",
        )),
        _ => length(field, count, MAX_ITEMS),
    }
}

/// Exactly one field of a choice is there; none is fine where it is unknown.
fn one_of(at: &str, given: &[bool], unknown: bool, names: &str) -> Result<(), RpcError> {
    match given.iter().filter(|g| **g).count() {
        1 => Ok(()),
        0 if unknown => Ok(()),
        0 => Err(refuse(
            at,
            "{}",
            "none of its fields is there",
            format!("give one of {names}"),
        )),
        n => Err(refuse(
            at,
            n,
            "fields where one is allowed",
            format!("give one of {names}"),
        )),
    }
}

fn subject(at: &str, o: &Subject) -> Result<(), RpcError> {
    let given = [o.namespaces.is_some(), o.pods.is_some()];
    one_of(at, &given, false, "namespaces, pods")?;
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
    one_of(at, &given, o.unknown, "namespaces, pods")?;
    if let Some(namespaces) = &o.namespaces {
        selector(&format!("{at}.namespaces"), namespaces)?;
    }
    pods(at, o.pods.as_ref())
}

fn egress_peer(at: &str, o: &ClusterEgressPeer, action: ClusterAction) -> Result<(), RpcError> {
    let given = [
        o.namespaces.is_some(),
        o.pods.is_some(),
        o.nodes.is_some(),
        o.networks.is_some(),
        o.domain_names.is_some(),
    ];
    let names = "namespaces, pods, nodes, networks, domainNames";
    one_of(at, &given, o.unknown, names)?;
    for (field, selectors) in [("namespaces", &o.namespaces), ("nodes", &o.nodes)] {
        if let Some(labels) = selectors {
            selector(&format!("{at}.{field}"), labels)?;
        }
    }
    if let Some(networks) = &o.networks {
        let field = format!("{at}.networks");
        length(&field, networks.len(), MAX_ITEMS)?;
        networks.iter().try_for_each(|net| network(&field, net))?;
    }
    if let Some(names) = &o.domain_names {
        let field = format!("{at}.domainNames");
        length(&field, names.len(), MAX_ITEMS)?;
        if action != ClusterAction::Accept {
            let hint = "use them with action Accept";
            return Err(refuse(
                &field,
                names.len(),
                "names can only be accepted",
                hint,
            ));
        }
    }
    pods(at, o.pods.as_ref())
}

fn protocols(at: &str, all: &[ProtocolMatch]) -> Result<(), RpcError> {
    let field = format!("{at}.protocols");
    length(&field, all.len(), MAX_ITEMS)?;
    for (i, o) in all.iter().enumerate() {
        let at = format!("{field}[{i}]");
        let named = o.destination_named_port.as_deref();
        let given = [
            o.tcp.is_some(),
            o.udp.is_some(),
            o.sctp.is_some(),
            named.is_some(),
        ];
        one_of(
            &at,
            &given,
            o.unknown,
            "tcp, udp, sctp, destinationNamedPort",
        )?;
        for transport in [&o.tcp, &o.udp, &o.sctp].into_iter().flatten() {
            transport_match(&at, transport)?;
        }
        if let Some(text) = named {
            port_name(&format!("{at}.destinationNamedPort"), text)?;
        }
    }
    Ok(())
}

fn transport_match(at: &str, o: &TransportMatch) -> Result<(), RpcError> {
    let Some(DestinationPort { number, range }) = o.destination_port else {
        return Ok(());
    };
    let field = format!("{at}.destinationPort");
    one_of(
        &field,
        &[number.is_some(), range.is_some()],
        false,
        "number, range",
    )?;
    if let Some(number) = number {
        port_number(&format!("{field}.number"), number)?;
    }
    if let Some(range) = range {
        port_number(&format!("{field}.range.start"), range.start)?;
        if range.end < range.start {
            let what = format!("below its start {}", range.start);
            let hint = "choose one from it on";
            return Err(refuse(&format!("{field}.range.end"), range.end, what, hint));
        }
    }
    Ok(())
}
