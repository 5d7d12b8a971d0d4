// SPDX-License-Identifier: Apache-2.0
//! Objects for property tests. Small sets of names and numbers make objects meet one another often.

use ipnet::IpNet;
use podswitch_api::MacAddr;
use podswitch_api::desired::DesiredState;
use podswitch_api::method::Change;
use podswitch_api::object::*;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) fn pick<T: Clone + std::fmt::Debug + 'static>(values: &[T]) -> BoxedStrategy<T> {
    proptest::sample::select(values.to_vec()).boxed()
}

fn name() -> BoxedStrategy<String> {
    pick(&["a", "b", "c", "ns/pod:eth0"])
        .prop_map(str::to_owned)
        .boxed()
}

fn mac() -> BoxedStrategy<MacAddr> {
    (1u8..6).prop_map(|n| MacAddr([2, 0, 0, 0, 0, n])).boxed()
}

fn address() -> BoxedStrategy<IpAddr> {
    prop_oneof![
        (1u8..8).prop_map(|n| IpAddr::V4(Ipv4Addr::new(10, 0, 0, n))),
        (1u16..8).prop_map(|n| IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n))),
    ]
    .boxed()
}

fn prefix() -> BoxedStrategy<ipnet::IpNet> {
    (address(), pick(&[0u8, 24, 31, 32]))
        .prop_map(|(a, less)| {
            ipnet::IpNet::new(a, if a.is_ipv4() { less } else { less * 4 })
                .unwrap()
                .trunc()
        })
        .boxed()
}

fn vrf() -> BoxedStrategy<u32> {
    pick(&[0u32, 0, 0, 7])
}

fn membership() -> BoxedStrategy<SegmentMembership> {
    let vlan = of(prop_oneof![
        pick(&[10u16, 20]).prop_map(Vlan::Access),
        Just(Vlan::Trunk(vec![10, 20]))
    ]);
    (name(), vlan)
        .prop_map(|(name, vlan)| SegmentMembership { name, vlan })
        .boxed()
}

fn device() -> BoxedStrategy<Device> {
    let mode = pick(&[
        XdpMode::Auto,
        XdpMode::Native,
        XdpMode::Generic,
        XdpMode::Tap,
    ]);
    prop_oneof![
        (pick(&["psw0", "psw1", "psw2", "psw3"]), mode).prop_map(|(i, mode)| Device::Veth {
            interface: i.to_owned(),
            mode
        }),
        Just(Device::Pcap {
            replay: Some("/tmp/in".into()),
            record: None
        }),
        vhost_user(),
    ]
    .boxed()
}

fn vhost_user() -> BoxedStrategy<Device> {
    let gid = of(pick(&[0u32, 107]));
    let mode = pick(&[SocketMode::Server, SocketMode::Client]);
    (pick(&["/run/a", "/run/b"]), mode, 1u16..33, gid)
        .prop_map(|(socket, mode, queues, gid)| Device::VhostUser {
            socket: socket.to_owned(),
            mode,
            queues,
            gid: gid.filter(|_| mode == SocketMode::Server),
        })
        .boxed()
}

fn nic() -> BoxedStrategy<Device> {
    let mode = pick(&[
        XdpMode::Auto,
        XdpMode::Native,
        XdpMode::Generic,
        XdpMode::Tap,
    ]);
    let interface = pick(&["eth0", "eth1"]);
    let except = pick(&[vec![], vec!["10.0.0.0/8"], vec!["10.0.0.0/8", "fd00::/8"]]);
    let zero_copy = of((pick(&[vec![1u32], vec![5, 4]]), any::<bool>()));
    (
        interface,
        mode,
        of(1u16..4095),
        of(pick(&[254u32, 1000])),
        of(except),
        zero_copy,
    )
        .prop_map(
            |(interface, mode, vlan, routes, except, zero_copy)| Device::Nic {
                interface: interface.to_owned(),
                // Zero-copy needs a driver.
                mode: match zero_copy {
                    Some(_) => XdpMode::Native,
                    None => mode,
                },
                zero_copy_shared: zero_copy.as_ref().is_some_and(|(_, shared)| *shared),
                zero_copy_queues: zero_copy.unwrap_or_default().0,
                vlan,
                routes,
                masquerade: except.is_some(),
                except: except
                    .iter()
                    .flatten()
                    .map(|net| net.parse().unwrap())
                    .collect(),
            },
        )
        .boxed()
}

fn host() -> BoxedStrategy<Device> {
    let nets = |all: &[&str]| {
        all.iter()
            .map(|n| n.parse().unwrap())
            .collect::<Vec<IpNet>>()
    };
    let pods = pick(&[&["10.244.1.0/24"][..], &["10.244.0.0/16", "fd00::/64"]]);
    let egress = of((pick(&["eth0", "eth1"]), any::<bool>()));
    (pick(&["podswitch0", "node0"]), pods, egress)
        .prop_map(move |(interface, pods, egress)| {
            let masquerade = egress.is_none_or(|(_, masquerade)| masquerade);
            Device::Host {
                interface: interface.to_owned(),
                mode: XdpMode::Auto,
                pods: nets(pods),
                egress: egress.iter().map(|(out, _)| (*out).to_owned()).collect(),
                masquerade,
                except: match masquerade && egress.is_some() {
                    true => nets(&["10.0.0.0/8"]),
                    false => vec![],
                },
            }
        })
        .boxed()
}

fn vxlan() -> BoxedStrategy<Device> {
    let local = pick(&[vec![], vec!["192.0.2.1"], vec!["192.0.2.1", "2001:db8::1"]]);
    (
        pick(&[1u32, 2, 0xff_ffff]),
        4788u16..4791,
        local,
        vrf(),
        any::<[bool; 2]>(),
    )
        .prop_map(
            |(vni, udp_port, local, underlay_vrf, [udp6_zero_checksum, group_policy])| {
                Device::Vxlan {
                    vni,
                    udp_port,
                    local: local.iter().map(|a| a.parse().unwrap()).collect(),
                    underlay_vrf,
                    udp6_zero_checksum,
                    group_policy,
                }
            },
        )
        .boxed()
}

fn pod() -> BoxedStrategy<PodRef> {
    (name(), name(), of(name()))
        .prop_map(|(name, container_id, network)| PodRef {
            namespace: "default".into(),
            name,
            uid: None,
            container_id,
            ifname: "eth0".into(),
            netns: Some("/run/netns/x".into()),
            network,
        })
        .boxed()
}

fn action() -> BoxedStrategy<Action> {
    pick(&[Action::Allow, Action::Deny])
}

pub(crate) fn port() -> BoxedStrategy<Port> {
    let nic = (station_port(), nic()).prop_map(|(port, device)| Port {
        device,
        mac: None,
        addresses: vec![],
        mtu: None,
        segment: None,
        pod: None,
        host_ports: vec![],
        ..port
    });
    let vxlan = (station_port(), vxlan()).prop_map(|(port, device)| Port {
        device,
        mac: Some(port.mac.unwrap_or(MacAddr([2, 0, 0, 0, 0, 0x77]))),
        addresses: vec![],
        segment: None,
        pod: None,
        host_ports: vec![],
        ..port
    });
    let host = (station_port(), host()).prop_map(|(port, device)| Port {
        device,
        mac: None,
        segment: None,
        pod: None,
        host_ports: vec![],
        ..port
    });
    prop_oneof![6 => station_port(), 1 => nic, 1 => vxlan, 1 => host].boxed()
}

fn station_port() -> BoxedStrategy<Port> {
    let routed =
        (vec(address(), 0..3), vrf(), mac()).prop_map(|(a, vrf, mac)| (a, vrf, Some(mac), None));
    let switched = (of(mac()), membership()).prop_map(|(mac, m)| (vec![], 0, mac, Some(m)));
    let place = prop_oneof![routed, switched];
    (
        name(),
        device(),
        place,
        of(1280u32..9000),
        action(),
        action(),
        of(pod()),
        vec(port_mapping(), 0..3),
    )
        .prop_map(
            |(
                name,
                device,
                (addresses, vrf, mac, segment),
                mtu,
                egress_default,
                ingress_default,
                pod,
                mappings,
            )| Port {
                name,
                device,
                mac,
                host_ports: led_to(&addresses, mappings),
                addresses,
                vrf,
                mtu,
                worker: None,
                egress_default,
                ingress_default,
                node: false,
                segment,
                pod,
            },
        )
        .boxed()
}

fn port_mapping() -> BoxedStrategy<PortMapping> {
    let host_ip = pick(&["", "0.0.0.0", "::", "192.0.2.1", "2001:db8::1"]);
    let protocol = pick(&[Protocol::TCP, Protocol::UDP]);
    (protocol, host_ip, 80..83u16, any::<std::num::NonZeroU16>())
        .prop_map(|(protocol, host_ip, host_port, to)| PortMapping {
            protocol,
            host_ip: host_ip.parse().ok(),
            host_port,
            container_port: to.get(),
        })
        .boxed()
}

/// Those of the mappings that a port with these addresses can have.
fn led_to(addresses: &[IpAddr], mappings: Vec<PortMapping>) -> Vec<PortMapping> {
    let mut all: Vec<PortMapping> = Vec::new();
    for mapping in mappings {
        let leads = addresses.iter().any(|a| mapping.has_family(a.is_ipv4()));
        if leads && !all.iter().any(|other| other.meets(&mapping)) {
            all.push(mapping);
        }
    }
    all
}

fn route() -> BoxedStrategy<Route> {
    let unicast = (vrf(), prefix(), of(address()), name(), of(1300u32..1500)).prop_map(
        |(vrf, prefix, via, port, mtu)| Route {
            vrf,
            prefix,
            kind: RouteKind::Unicast,
            via: via.filter(|a| a.is_ipv4() == prefix.addr().is_ipv4()),
            port: Some(port),
            nexthops: Vec::new(),
            mtu,
        },
    );
    let other = (
        vrf(),
        prefix(),
        pick(&[
            RouteKind::Blackhole,
            RouteKind::Unreachable,
            RouteKind::Prohibit,
        ]),
    )
        .prop_map(|(vrf, prefix, kind)| Route {
            vrf,
            prefix,
            kind,
            via: None,
            port: None,
            nexthops: Vec::new(),
            mtu: None,
        });
    let hop =
        (address(), name(), 1u8..4).prop_map(|(via, port, weight)| NextHop { via, port, weight });
    let several = (vrf(), prefix(), vec(hop, 2..4), of(1300u32..1500)).prop_filter_map(
        "a next hop comes once",
        |(vrf, prefix, nexthops, mtu)| {
            let fits = |(i, hop): (usize, &NextHop)| {
                let same = |o: &NextHop| o.via == hop.via && o.port == hop.port;
                hop.via.is_ipv4() == prefix.addr().is_ipv4() && !nexthops[..i].iter().any(same)
            };
            nexthops.iter().enumerate().all(fits).then_some(())?;
            Some(Route {
                vrf,
                prefix,
                kind: RouteKind::Unicast,
                via: None,
                port: None,
                nexthops,
                mtu,
            })
        },
    );
    prop_oneof![4 => unicast, 2 => other, 1 => several].boxed()
}

fn segment() -> BoxedStrategy<Segment> {
    (name(), pick(&[1u32, 2, 3, 7]), any::<bool>(), 1u32..3)
        .prop_map(|(name, id, learn, max_entries)| Segment {
            learn,
            max_entries,
            ..Segment::new(name, id)
        })
        .boxed()
}

fn rule() -> BoxedStrategy<Rule> {
    let ports = of((pick(&[Protocol::TCP, Protocol::UDP]), 1u16..99, 0u16..99));
    let direction = pick(&[Direction::Ingress, Direction::Egress]);
    (
        name(),
        name(),
        direction,
        any::<u32>(),
        of(prefix()),
        ports,
        of(any::<u8>()),
        action(),
    )
        .prop_map(
            |(name, port, direction, priority, source, ports, number, action)| Rule {
                name,
                port,
                direction,
                priority,
                source,
                destination: None,
                protocol: ports.map(|p| p.0).or(number.map(Protocol)),
                ports: ports.map(|(_, first, more)| PortRange {
                    first,
                    last: first + more,
                }),
                action,
            },
        )
        .boxed()
}

/// Any object that may be right by itself.
pub(crate) fn object() -> BoxedStrategy<Object> {
    let neighbor =
        (vrf(), name(), address(), mac()).prop_map(|(vrf, port, address, mac)| Neighbor {
            vrf,
            port,
            address,
            mac,
        });
    let fdb =
        (name(), of(pick(&[10u16, 20])), mac(), name()).prop_map(|(segment, vlan, mac, port)| {
            FdbEntry {
                segment,
                vlan,
                mac,
                port,
            }
        });
    prop_oneof![
        3 => port().prop_map(Object::from),
        2 => segment().prop_map(Object::from),
        1 => neighbor.prop_map(Object::from),
        1 => route().prop_map(Object::from),
        1 => fdb.prop_map(Object::from),
        1 => rule().prop_map(Object::from),
        2 => crate::policies::object(),
        1 => crate::services::any_service().prop_map(Object::from),
    ]
    .boxed()
}

/// Any change.
pub(crate) fn change() -> BoxedStrategy<Change> {
    prop_oneof![
        3 => object().prop_map(|object| Change::Set { object }),
        1 => object().prop_map(|object| Change::Delete { key: object.key() }),
    ]
    .boxed()
}

/// Any state, right or wrong.
pub(crate) fn state() -> BoxedStrategy<DesiredState> {
    vec(object(), 0..24)
        .prop_map(|objects| {
            let mut state = DesiredState::default();
            objects.into_iter().for_each(|o| drop(state.insert(o)));
            state
        })
        .boxed()
}

/// Ports with texts and numbers of every kind.
pub(crate) fn wild_port() -> BoxedStrategy<Port> {
    (
        any::<String>(),
        any::<String>(),
        any::<[u8; 6]>(),
        vec(any::<IpAddr>(), 0..70),
        any::<u32>(),
        any::<Option<u32>>(),
        any::<Option<u8>>(),
        of((any::<String>(), vec(any::<u16>(), 0..5))),
        of((any::<String>(), any::<String>())),
        any::<bool>(),
        vec(
            (any::<u8>(), any::<Option<IpAddr>>(), any::<[u16; 2]>()),
            0..70,
        ),
    )
        .prop_map(
            |(name, interface, mac, addresses, vrf, mtu, worker, segment, pod, node, mapped)| {
                Port {
                    name,
                    device: Device::Veth {
                        interface,
                        mode: XdpMode::Auto,
                    },
                    mac: Some(MacAddr(mac)),
                    addresses,
                    vrf,
                    mtu,
                    worker,
                    egress_default: Action::Allow,
                    ingress_default: Action::Deny,
                    segment: segment.map(|(name, ids)| SegmentMembership {
                        name,
                        vlan: Some(Vlan::Trunk(ids)),
                    }),
                    node,
                    pod: pod.map(|(container_id, ifname)| PodRef {
                        namespace: String::new(),
                        name: String::new(),
                        uid: None,
                        container_id,
                        ifname,
                        netns: None,
                        network: None,
                    }),
                    host_ports: mapped
                        .into_iter()
                        .map(
                            |(protocol, host_ip, [host_port, container_port])| PortMapping {
                                protocol: Protocol(protocol),
                                host_ip,
                                host_port,
                                container_port,
                            },
                        )
                        .collect(),
                }
            },
        )
        .boxed()
}
