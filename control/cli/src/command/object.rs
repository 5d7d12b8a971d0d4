// SPDX-License-Identifier: Apache-2.0
//! `list`, `get`, `add` and `delete` of every kind.

use std::collections::BTreeMap;
use std::mem::take;

use podswitch_api::method::{Change, Entry, Filter};
use podswitch_api::object::{
    Device, FdbEntry, FdbKey, Group, Key, Kind, Neighbor, NeighborKey, Object, Port, Route,
    RouteKey, Rule, Segment, SegmentMembership, SocketMode, Vlan,
};

use super::Context;
use crate::args::{
    FdbCommand, FdbKeyArgs, GroupAdd, GroupCommand, LabelArg, NeighborCommand, NeighborKeyArgs,
    PortAdd, PortCommand, RouteCommand, RouteKeyArgs, RuleCommand, SegmentCommand, Selector,
};
use crate::exit::{Failure, Result};
use crate::output;

pub(super) fn list(context: &Context, kind: Kind, filter: Filter) -> Result {
    let entries = context.client()?.get_all(kind, filter)?;
    output::print(context.output, &entries, |e| output::list(kind, e))
}

/// Shows the object with this key; the filter need only be narrow enough.
pub(super) fn get(context: &Context, key: &Key, filter: Filter) -> Result {
    let entries = context.client()?.get_all(key.kind(), filter)?;
    match entries.iter().find(|e| e.object.key() == *key) {
        Some(entry) => output::print(context.output, entry, |e: &Entry| output::describe(e)),
        None => Err(Failure::Refused(format!(
            "there is no {key}; `podswitchctl {} list` shows what there is",
            command(key.kind())
        ))),
    }
}

pub(super) fn add(context: &Context, object: impl Into<Object>) -> Result {
    let object = object.into();
    let key = object.key();
    let result = context.client()?.apply(vec![Change::Set { object }])?;
    output::print(context.output, &result, |r| match r.changed {
        0 => format!("{key} is like that already, generation {}\n", r.generation),
        _ => format!("{key} set, generation {}\n", r.generation),
    })
}

pub(super) fn delete(context: &Context, key: Key, ignore_not_found: bool) -> Result {
    let result = context.client()?.apply(vec![Change::delete(key.clone())])?;
    if result.changed == 0 && !ignore_not_found {
        return Err(Failure::Refused(format!(
            "there is no {key}; `podswitchctl {} list` shows what there is",
            command(key.kind())
        )));
    }
    output::print(context.output, &result, |r| match r.changed {
        0 => format!("there was no {key}\n"),
        1 => format!("{key} deleted, generation {}\n", r.generation),
        n => format!(
            "{key} deleted with {} objects that hung on it, generation {}\n",
            n - 1,
            r.generation
        ),
    })
}

/// The subcommand of a kind.
fn command(kind: Kind) -> &'static str {
    match kind {
        Kind::Namespace | Kind::Pod | Kind::NetworkPolicy | Kind::ClusterNetworkPolicy => "policy",
        other => other.name(),
    }
}

pub(super) fn named(name: &str) -> Filter {
    Filter {
        name: Some(name.to_owned()),
        ..Filter::default()
    }
}

pub(super) fn port(context: &Context, command: PortCommand) -> Result {
    let key = |Selector { name }: Selector| Key::Port { name };
    match command {
        PortCommand::List {
            vrf,
            segment,
            address,
            container_id,
        } => list(
            context,
            Kind::Port,
            Filter {
                vrf,
                segment,
                address,
                container_id,
                ..Filter::default()
            },
        ),
        PortCommand::Get(s) => get(
            context,
            &Key::Port {
                name: s.name.clone(),
            },
            named(&s.name),
        ),
        PortCommand::Add(a) => add(context, new_port(*a)),
        PortCommand::Delete { selector, missing } => {
            delete(context, key(selector), missing.ignore_not_found)
        }
    }
}

/// What the options say of a device; one of them says which kind it is.
fn new_device(a: &mut PortAdd) -> Device {
    let mode = a.mode.into();
    if let Some(interface) = a.interface.take() {
        return Device::Veth { interface, mode };
    }
    if let Some(interface) = a.nic.take() {
        return Device::Nic {
            interface,
            mode,
            vlan: a.vlan,
            routes: a.routes,
            masquerade: a.masquerade,
            except: take(&mut a.except),
            zero_copy_queues: take(&mut a.zero_copy),
            zero_copy_shared: a.zero_copy_shared,
        };
    }
    if let Some(interface) = a.host.take() {
        return Device::Host {
            interface,
            mode,
            pods: take(&mut a.pods),
            egress: take(&mut a.egress),
            masquerade: !a.no_masquerade,
            except: take(&mut a.except),
        };
    }
    if let Some(vni) = a.vxlan {
        return Device::Vxlan {
            vni,
            udp_port: a.udp_port,
            local: take(&mut a.local),
            underlay_vrf: a.underlay_vrf,
            udp6_zero_checksum: a.udp6_zero_checksum,
            group_policy: a.group_policy,
        };
    }
    if let Some(socket) = a.vhost_user.take() {
        return Device::VhostUser {
            socket,
            mode: match a.client {
                true => SocketMode::Client,
                false => SocketMode::Server,
            },
            queues: a.queues,
            gid: a.gid,
        };
    }
    Device::Pcap {
        replay: a.replay.take(),
        record: a.record.take(),
    }
}

fn new_port(mut a: PortAdd) -> Port {
    let device = new_device(&mut a);
    let vlan = match (a.vlan, a.trunk) {
        (Some(id), _) => Some(Vlan::Access(id)),
        (None, ids) if ids.is_empty() => None,
        (None, mut ids) => {
            ids.sort_unstable();
            Some(Vlan::Trunk(ids))
        }
    };
    Port {
        name: a.name,
        device,
        mac: a.mac,
        addresses: a.address,
        vrf: a.vrf,
        mtu: a.mtu,
        worker: a.worker,
        egress_default: a.egress_default.into(),
        ingress_default: a.ingress_default.into(),
        segment: a.segment.map(|name| SegmentMembership { name, vlan }),
        node: a.node,
        pod: None,
        host_ports: a.host_port,
    }
}

pub(super) fn fdb(context: &Context, command: FdbCommand) -> Result {
    let key = |k: FdbKeyArgs| FdbKey {
        segment: k.segment,
        vlan: k.vlan,
        mac: k.mac,
    };
    match command {
        FdbCommand::List { segment, port, mac } => list(
            context,
            Kind::Fdb,
            Filter {
                segment,
                port,
                mac,
                ..Filter::default()
            },
        ),
        FdbCommand::Get(k) => {
            let filter = Filter {
                segment: Some(k.segment.clone()),
                mac: Some(k.mac),
                ..Filter::default()
            };
            get(context, &Key::Fdb(key(k)), filter)
        }
        FdbCommand::Add { key: k, port } => add(
            context,
            FdbEntry {
                segment: k.segment,
                vlan: k.vlan,
                mac: k.mac,
                port,
            },
        ),
        FdbCommand::Delete { key: k, missing } => {
            delete(context, Key::Fdb(key(k)), missing.ignore_not_found)
        }
    }
}

pub(super) fn route(context: &Context, command: RouteCommand) -> Result {
    let key = |k: &RouteKeyArgs| RouteKey {
        vrf: k.vrf,
        prefix: k.prefix,
    };
    match command {
        RouteCommand::List { vrf, port } => list(
            context,
            Kind::Route,
            Filter {
                vrf,
                port,
                ..Filter::default()
            },
        ),
        RouteCommand::Get(k) => {
            let filter = Filter {
                vrf: Some(k.vrf),
                prefix: Some(k.prefix),
                ..Filter::default()
            };
            get(context, &Key::Route(key(&k)), filter)
        }
        RouteCommand::Add {
            key: k,
            port,
            via,
            nexthop,
            kind,
            mtu,
        } => add(
            context,
            Route {
                vrf: k.vrf,
                prefix: k.prefix,
                kind: kind.into(),
                via,
                port,
                nexthops: nexthop.into_iter().map(|hop| hop.0).collect(),
                mtu,
            },
        ),
        RouteCommand::Delete { key: k, missing } => {
            delete(context, Key::Route(key(&k)), missing.ignore_not_found)
        }
    }
}

pub(super) fn neighbor(context: &Context, command: NeighborCommand) -> Result {
    let key = |k: &NeighborKeyArgs| NeighborKey {
        vrf: k.vrf,
        address: k.address,
    };
    match command {
        NeighborCommand::List { vrf, port } => list(
            context,
            Kind::Neighbor,
            Filter {
                vrf,
                port,
                ..Filter::default()
            },
        ),
        NeighborCommand::Get(k) => {
            let filter = Filter {
                vrf: Some(k.vrf),
                address: Some(k.address),
                ..Filter::default()
            };
            get(context, &Key::Neighbor(key(&k)), filter)
        }
        NeighborCommand::Add { key: k, mac, port } => add(
            context,
            Neighbor {
                vrf: k.vrf,
                port,
                address: k.address,
                mac,
            },
        ),
        NeighborCommand::Delete { key: k, missing } => {
            delete(context, Key::Neighbor(key(&k)), missing.ignore_not_found)
        }
    }
}

pub(super) fn segment(context: &Context, command: SegmentCommand) -> Result {
    match command {
        SegmentCommand::List => list(context, Kind::Segment, Filter::default()),
        SegmentCommand::Get(s) => get(
            context,
            &Key::Segment {
                name: s.name.clone(),
            },
            named(&s.name),
        ),
        SegmentCommand::Add {
            selector,
            id,
            ageing,
            no_learn,
            unknown_unicast,
            unknown_unicast_limit,
            broadcast_limit,
            max_entries,
        } => {
            let default = Segment::new(selector.name, id);
            let segment = Segment {
                ageing_seconds: ageing.unwrap_or(default.ageing_seconds),
                learn: !no_learn,
                unknown_unicast: unknown_unicast.into(),
                unknown_unicast_limit: unknown_unicast_limit
                    .unwrap_or(default.unknown_unicast_limit),
                broadcast_limit: broadcast_limit.unwrap_or(default.broadcast_limit),
                max_entries: max_entries.unwrap_or(default.max_entries),
                ..default
            };
            add(context, segment)
        }
        SegmentCommand::Delete { selector, missing } => delete(
            context,
            Key::Segment {
                name: selector.name,
            },
            missing.ignore_not_found,
        ),
    }
}

pub(super) fn rule(context: &Context, command: RuleCommand) -> Result {
    match command {
        RuleCommand::List { port } => list(
            context,
            Kind::Rule,
            Filter {
                port,
                ..Filter::default()
            },
        ),
        RuleCommand::Get(s) => get(
            context,
            &Key::Rule {
                name: s.name.clone(),
            },
            named(&s.name),
        ),
        RuleCommand::Add {
            selector,
            port,
            direction,
            priority,
            source,
            destination,
            protocol,
            ports,
            action,
        } => {
            let rule = Rule {
                name: selector.name,
                port,
                direction: direction.into(),
                priority,
                source,
                destination,
                protocol,
                ports: ports.map(|p| p.0),
                action: action.into(),
            };
            add(context, rule)
        }
        RuleCommand::Delete { selector, missing } => delete(
            context,
            Key::Rule {
                name: selector.name,
            },
            missing.ignore_not_found,
        ),
    }
}

pub(super) fn group(context: &Context, command: GroupCommand) -> Result {
    match command {
        GroupCommand::List { namespace } => list(
            context,
            Kind::Group,
            Filter {
                namespace,
                ..Filter::default()
            },
        ),
        GroupCommand::Get(key) => {
            let filter = Filter {
                id: Some(key.id.into()),
                ..Filter::default()
            };
            get(context, &Key::Group { id: key.id }, filter)
        }
        GroupCommand::Add(a) => add(context, new_group(a)?),
        GroupCommand::Delete { key, missing } => {
            delete(context, Key::Group { id: key.id }, missing.ignore_not_found)
        }
    }
}

fn new_group(a: GroupAdd) -> Result<Group> {
    let mut labels = BTreeMap::new();
    for LabelArg(key, value) in a.label {
        if labels.insert(key.clone(), value).is_some() {
            return Err(Failure::Usage(format!("label {key} comes twice")));
        }
    }
    Ok(Group {
        id: a.key.id,
        namespace: a.namespace,
        labels,
    })
}
