// SPDX-License-Identifier: Apache-2.0
//! Objects as tables.

use std::fmt::Display;

use podswitch_api::Kind;
use podswitch_api::method::{
    Entry, NeighborSource, NeighborState, PortStatus, RouteStatus, Status,
};
use podswitch_api::object::{
    Device, FdbEntry, HOST_MAC, Neighbor, Object, Port, Route, Rule, Segment, Service, Vlan,
};

use super::{Table, kubernetes, sections};

fn optional(value: Option<impl Display>) -> String {
    value.map(|v| v.to_string()).unwrap_or_default()
}

pub(super) fn joined(values: impl IntoIterator<Item = impl Display>) -> String {
    values
        .into_iter()
        .map(|v| v.to_string())
        .collect::<Vec<_>>()
        .join(",")
}

/// The table of a list of one kind, and what is wrong with ports.
pub(crate) fn list(kind: Kind, entries: &[Entry]) -> String {
    let faults = entries.iter().filter_map(|e| match (&e.object, &e.status) {
        (
            Object::Port(o),
            Some(Status::Port(PortStatus {
                message: Some(message),
                ..
            })),
        ) => Some(format!("{}: {message}\n", o.name)),
        _ => None,
    });
    table(kind, entries).text() + &faults.collect::<String>()
}

fn table<'e>(kind: Kind, entries: impl IntoIterator<Item = &'e Entry>) -> Table {
    let mut table = Table::new(match kind {
        Kind::Port => &[
            "NAME",
            "STATE",
            "DEVICE",
            "MODE",
            "WORKER",
            "MTU",
            "MAC",
            "VRF/SEGMENT",
            "ADDRESSES",
            "POD",
            "HOST PORTS",
        ],
        Kind::Route => &["VRF", "PREFIX", "TYPE", "VIA", "PORT", "MTU", "FROM"],
        Kind::Neighbor => &["VRF", "ADDRESS", "MAC", "PORT", "STATE", "FROM", "AGE"],
        Kind::Segment => &[
            "NAME",
            "ID",
            "PORTS",
            "ENTRIES",
            "LEARNED",
            "AGEING",
            "LEARN",
            "UNKNOWN",
            "UNKNOWN/S",
            "BROADCAST/S",
        ],
        Kind::Fdb => &["SEGMENT", "VLAN", "MAC", "PORT", "TYPE", "AGE"],
        Kind::Rule => &[
            "NAME",
            "PORT",
            "DIRECTION",
            "PRIORITY",
            "SOURCE",
            "DESTINATION",
            "PROTOCOL",
            "PORTS",
            "ACTION",
            "PACKETS",
            "BYTES",
        ],
        Kind::Namespace => &["NAME", "LABELS"],
        Kind::Pod => &["NAMESPACE", "NAME", "ADDRESSES", "LABELS", "PORTS"],
        Kind::NetworkPolicy => &["NAMESPACE", "NAME", "PODS", "ISOLATES", "INGRESS", "EGRESS"],
        Kind::ClusterNetworkPolicy => &["TIER", "PRIORITY", "NAME", "INGRESS", "EGRESS"],
        Kind::Group => &["ID", "NAMESPACE", "LABELS"],
        Kind::Service => &[
            "NAME",
            "PROTOCOL",
            "PORT",
            "ADDRESSES",
            "EXTERNAL",
            "NODE PORT",
            "INTERNAL TRAFFIC",
            "EXTERNAL TRAFFIC",
            "AFFINITY",
            "BACKENDS",
            "LOCAL",
        ],
    });
    for entry in entries {
        let status = entry.status.as_ref();
        match &entry.object {
            Object::Port(o) => port(&mut table, o, status),
            Object::Route(o) => route(&mut table, o, status),
            Object::Neighbor(o) => neighbor(&mut table, o, status),
            Object::Segment(o) => segment(&mut table, o, status),
            Object::Fdb(o) => fdb(&mut table, o, status),
            Object::Rule(o) => rule(&mut table, o, status),
            Object::Namespace(o) => kubernetes::namespace(&mut table, o),
            Object::Pod(o) => kubernetes::pod(&mut table, o),
            Object::NetworkPolicy(o) => kubernetes::network_policy(&mut table, o),
            Object::ClusterNetworkPolicy(o) => kubernetes::cluster_policy(&mut table, o),
            Object::Group(o) => kubernetes::group(&mut table, o),
            Object::Service(o) => service(&mut table, o),
        }
    }
    table
}

/// The tables of policies, the cluster's first.
pub(crate) fn policies(entries: &[Entry]) -> String {
    let of = |kind| {
        let entries = entries.iter().filter(|e| e.object.kind() == kind);
        table(kind, entries)
    };
    sections(vec![
        ("ClusterNetworkPolicies", of(Kind::ClusterNetworkPolicy)),
        ("NetworkPolicies", of(Kind::NetworkPolicy)),
    ])
}

fn device(device: &Device) -> String {
    match device {
        Device::Veth { interface, .. } => interface.clone(),
        Device::Nic {
            interface,
            vlan: None,
            ..
        } => format!("nic {interface}"),
        Device::Nic {
            interface,
            vlan: Some(id),
            ..
        } => format!("nic {interface} vlan {id}"),
        Device::Host { interface, .. } => format!("host {interface}"),
        Device::Vxlan { vni, .. } => format!("vxlan {vni}"),
        Device::VhostUser { socket, .. } => format!("vhost-user {socket}"),
        Device::Pcap { .. } => "pcap".to_owned(),
        Device::Memory {} => "memory".to_owned(),
    }
}

fn vlans(o: &Port) -> String {
    let Some(membership) = &o.segment else {
        return o.vrf.to_string();
    };
    match &membership.vlan {
        None => membership.name.clone(),
        Some(Vlan::Access(id)) => format!("{} vlan {id}", membership.name),
        Some(Vlan::Trunk(ids)) => format!("{} trunk {}", membership.name, joined(ids)),
    }
}

/// How its steering program is attached, and which queues of a NIC are not copied.
fn mode(status: &PortStatus) -> String {
    let all = status.queues.iter().enumerate();
    let direct = joined(all.filter(|(_, how)| *how == "zero-copy").map(|(i, _)| i));
    let mode = status.mode.clone().unwrap_or_default();
    match direct.is_empty() {
        true => mode,
        false => format!("{mode}, zero-copy {direct}"),
    }
}

fn port(table: &mut Table, o: &Port, status: Option<&Status>) {
    let status = match status {
        Some(Status::Port(s)) => Some(s),
        _ => None,
    };
    let pod = o.pod.as_ref().map(|p| match p.name.is_empty() {
        true => format!(
            "{}:{}",
            p.container_id.chars().take(12).collect::<String>(),
            p.ifname
        ),
        false => format!("{}/{}:{}", p.namespace, p.name, p.ifname),
    });
    table.row([
        o.name.clone(),
        optional(status.map(|s| s.state.name())),
        device(&o.device),
        status.map(mode).unwrap_or_default(),
        optional(status.map(|s| s.worker).or(o.worker)),
        optional(status.map(|s| s.mtu).or(o.mtu)),
        optional(o.mac.or(o.device.is_host().then_some(HOST_MAC))),
        vlans(o),
        match status.map(|s| &s.addresses) {
            Some(followed) if !followed.is_empty() => joined(followed),
            _ => joined(&o.addresses),
        },
        optional(pod),
        joined(&o.host_ports),
    ]);
}

fn route(table: &mut Table, o: &Route, status: Option<&Status>) {
    let from = match status {
        Some(Status::Route(RouteStatus {
            table: Some(number),
            ..
        })) => format!("table {number}"),
        _ => "static".to_owned(),
    };
    let via: Vec<String> = o.hops().map(|(via, _)| via.to_string()).collect();
    let port: Vec<String> = o.ports().cloned().collect();
    table.row([
        o.vrf.to_string(),
        o.prefix.to_string(),
        o.kind.name().to_owned(),
        via.join(","),
        port.join(","),
        optional(o.mtu),
        from,
    ]);
}

fn neighbor(table: &mut Table, o: &Neighbor, status: Option<&Status>) {
    let found = match status {
        Some(Status::Neighbor(s)) if s.dynamic => Some(s),
        _ => None,
    };
    let source = found.and_then(|s| s.source).map(NeighborSource::name);
    table.row([
        o.vrf.to_string(),
        o.address.to_string(),
        o.mac.to_string(),
        o.port.clone(),
        optional(found.and_then(|s| s.state).map(NeighborState::name)),
        source.unwrap_or("static").to_owned(),
        optional(found.and_then(|s| s.age_ms).map(seconds)),
    ]);
}

fn segment(table: &mut Table, o: &Segment, status: Option<&Status>) {
    let status = match status {
        Some(Status::Segment(s)) => Some(s),
        _ => None,
    };
    let unknown = match o.unknown_unicast {
        podswitch_api::object::UnknownUnicast::Flood => "flood",
        podswitch_api::object::UnknownUnicast::Drop => "drop",
    };
    table.row([
        o.name.clone(),
        o.id.to_string(),
        optional(status.map(|s| s.ports)),
        status.map_or(format!("?/{}", o.max_entries), |s| {
            format!("{}/{}", s.entries, o.max_entries)
        }),
        optional(status.map(|s| s.learned)),
        format!("{} s", o.ageing_seconds),
        if o.learn { "yes" } else { "no" }.to_owned(),
        unknown.to_owned(),
        o.unknown_unicast_limit.to_string(),
        o.broadcast_limit.to_string(),
    ]);
}

fn fdb(table: &mut Table, o: &FdbEntry, status: Option<&Status>) {
    let (dynamic, age) = match status {
        Some(Status::Fdb(s)) => (s.dynamic, s.age_ms),
        _ => (false, None),
    };
    table.row([
        o.segment.clone(),
        optional(o.vlan),
        o.mac.to_string(),
        o.port.clone(),
        if dynamic { "learned" } else { "static" }.to_owned(),
        optional(age.map(seconds)),
    ]);
}

fn seconds(ms: u64) -> String {
    format!("{:.1} s", ms as f64 / 1000.0)
}

fn rule(table: &mut Table, o: &Rule, status: Option<&Status>) {
    let counters = match status {
        Some(Status::Rule(s)) => Some((s.packets, s.bytes)),
        _ => None,
    };
    table.row([
        o.name.clone(),
        o.port.clone(),
        o.direction.name().to_owned(),
        o.priority.to_string(),
        optional(o.source),
        optional(o.destination),
        optional(o.protocol),
        optional(o.ports),
        o.action.name().to_owned(),
        optional(counters.map(|c| c.0)),
        optional(counters.map(|c| c.1)),
    ]);
}

fn service(table: &mut Table, o: &Service) {
    table.row([
        o.name.clone(),
        o.protocol.to_string(),
        o.port.to_string(),
        joined(&o.addresses),
        joined(o.external.iter().map(|e| e.address)),
        optional(o.node_port),
        o.internal_traffic.name().to_owned(),
        o.external_traffic.name().to_owned(),
        optional(o.affinity_seconds.map(|s| format!("{s} s"))),
        o.backends.len().to_string(),
        o.local_backends.len().to_string(),
    ]);
}

/// One object, a line a field.
pub(crate) fn describe(entry: &Entry) -> String {
    let mut text = String::new();
    let object = serde_json::to_value(&entry.object).unwrap_or_default();
    lines("", &object, &mut text);
    if let Some(status) = &entry.status {
        let mut status = serde_json::to_value(status).unwrap_or_default();
        if let Some(fields) = status.as_object_mut() {
            fields.remove("kind");
        }
        lines("status.", &status, &mut text);
    }
    text
}

fn lines(prefix: &str, value: &serde_json::Value, text: &mut String) {
    let Some(fields) = value.as_object() else {
        return;
    };
    for (key, value) in fields {
        let path = format!("{prefix}{key}");
        match value {
            serde_json::Value::Object(_) => lines(&format!("{path}."), value, text),
            serde_json::Value::String(s) => text.push_str(&format!("{path:<26} {s}\n")),
            serde_json::Value::Array(items) if items.iter().all(|i| !i.is_object()) => {
                let items = joined(
                    items
                        .iter()
                        .map(|i| i.as_str().map_or(i.to_string(), str::to_owned)),
                );
                text.push_str(&format!("{path:<26} {items}\n"));
            }
            other => text.push_str(&format!("{path:<26} {other}\n")),
        }
    }
}
