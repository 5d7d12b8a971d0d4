// SPDX-License-Identifier: Apache-2.0
//! What is refused, and how: by name, with the value, and without a trace.
use super::basic::{edit, gateway, ip, mac, routed};
use crate::ids::{PortId, VrfId, WorkerId};
use crate::tables::limits::*;
use crate::tables::*;
use crate::wire::MacAddr;

const V0: VrfId = VrfId(0);

fn unicast(port: u16, via: Option<&str>) -> Route {
    Route::Unicast {
        port: PortId(port),
        via: via.map(ip),
        mtu: None,
    }
}

fn rule(name: &str) -> Rule {
    Rule {
        name: name.into(),
        priority: 1,
        source: None,
        destination: None,
        protocol: Some(6),
        ports: Some(80..=80),
        action: Action::Deny,
    }
}

fn segment(id: u32) -> SegmentSpec {
    SegmentSpec {
        id: VrfId(id),
        name: format!("lan-{id}"),
        ageing_seconds: 300,
        learn: true,
        flood_unknown: true,
        unknown_unicast_limit: 1,
        broadcast_limit: 1,
        max_entries: 2,
    }
}

fn l2(id: u16, segment: u32, vlan: Vlan, fixed_mac: bool) -> PortSpec {
    let kind = PortKindSpec::L2 {
        segment: VrfId(segment),
        vlan,
        fixed_mac,
    };
    PortSpec {
        kind,
        ..routed(id, 0, &[])
    }
}

/// Two pods, an uplink with a next hop, and a segment with a port.
pub(super) fn node() -> Tables {
    let mut e = edit(&Tables::new(gateway()));
    e.set_port(routed(1, 0, &["10.0.0.1", "fd00::1"]));
    e.set_port(routed(2, 0, &["10.0.0.2"]));
    e.set_port(routed(3, 0, &[]));
    e.set_neighbor(V0, PortId(3), ip("192.168.0.1"), mac(99));
    e.set_route(
        V0,
        "0.0.0.0/0".parse().unwrap(),
        unicast(3, Some("192.168.0.1")),
    );
    e.set_segment(segment(7));
    e.set_port(l2(4, 7, Vlan::Access(5), true));
    e.set_rule(PortId(1), Direction::Egress, rule("web"));
    e.build().unwrap()
}

pub(super) type Case = (&'static str, fn(&mut Edit));

pub(super) fn refused(base: &Tables, cases: &[Case]) {
    for (expected, change) in cases {
        let mut e = edit(base);
        // In company of a change that is right, which must not happen either.
        e.set_port(routed(100, 0, &["10.0.0.100"]));
        change(&mut e);
        match e.build() {
            Ok(_) => panic!("not refused: {expected}"),
            Err(error) => assert_eq!(error.to_string(), *expected),
        }
        assert!(base.port(PortId(100)).is_none());
        assert!(base.neighbor_owner(V0, ip("10.0.0.100")).is_none());
    }
}

#[test]
fn values_that_are_wrong_by_themselves() {
    let cases: &[Case] = &[
        ("port 4096 \"pod-4096\": id 4096 is not below 4096", |e| {
            e.set_port(routed(4096, 0, &[]));
        }),
        (
            "port 9 \"\": name  is 0 bytes long; 1 to 128 are allowed",
            |e| {
                e.set_port(PortSpec {
                    name: String::new(),
                    ..routed(9, 0, &[])
                });
            },
        ),
        ("port 9 \"pod-9\": worker 64 is not below 64", |e| {
            e.set_port(PortSpec {
                worker: WorkerId(64),
                ..routed(9, 0, &[])
            });
        }),
        (
            "port 9 \"pod-9\": MTU 67 is not from 68 to 65535 bytes",
            |e| {
                e.set_port(PortSpec {
                    mtu: 67,
                    ..routed(9, 0, &[])
                });
            },
        ),
        (
            "port 9 \"pod-9\": MTU 1279 is not from 1280 to 65535 bytes (IPv6)",
            |e| {
                e.set_port(PortSpec {
                    mtu: 1279,
                    ..routed(9, 0, &["fd00::9"])
                });
            },
        ),
        ("port 9 \"pod-9\": VRF 16777216 is above 16777215", |e| {
            e.set_port(routed(9, 1 << 24, &[]));
        }),
        (
            "port 9 \"pod-9\": MAC address 01:00:00:00:00:00 is not unicast",
            |e| {
                e.set_port(PortSpec {
                    mac: MacAddr([1, 0, 0, 0, 0, 0]),
                    ..routed(9, 0, &[])
                });
            },
        ),
        (
            "port 9 \"pod-9\": MAC address 02:70:6f:64:73:77 is the gateway's",
            |e| {
                e.set_port(PortSpec {
                    mac: gateway().mac,
                    ..routed(9, 0, &[])
                });
            },
        ),
        ("port 9 \"pod-9\": address 224.0.0.1 is multicast", |e| {
            e.set_port(routed(9, 0, &["224.0.0.1"]));
        }),
        (
            "port 9 \"pod-9\": address 169.254.1.1 is the gateway's",
            |e| {
                e.set_port(routed(9, 0, &["169.254.1.1"]));
            },
        ),
        (
            "port 9 \"pod-9\": address ::ffff:10.0.0.9 is IPv4-mapped; write it as IPv4",
            |e| {
                e.set_port(routed(9, 0, &["::ffff:10.0.0.9"]));
            },
        ),
        ("port 9 \"pod-9\": address 10.0.0.9 is there twice", |e| {
            e.set_port(routed(9, 0, &["10.0.0.9", "10.0.0.9"]));
        }),
        ("port 9 \"pod-9\": trunk {} has no VLAN; name one", |e| {
            e.set_port(l2(9, 7, Vlan::Trunk(VlanSet::new([]).unwrap()), false));
        }),
        ("port 9 \"pod-9\": VLAN 4095 is not from 1 to 4094", |e| {
            e.set_port(l2(9, 7, Vlan::Access(4095), false));
        }),
        (
            "route 10.0.0.1/24 (vrf 0): prefix 10.0.0.1/24 has bits beyond its length; write 10.0.0.0/24",
            |e| {
                e.set_route(V0, "10.0.0.1/24".parse().unwrap(), Route::Blackhole);
            },
        ),
        (
            "route ::ffff:10.0.0.0/104 (vrf 0): prefix ::ffff:10.0.0.0/104 is IPv4-mapped; write it as IPv4",
            |e| {
                e.set_route(V0, "::ffff:10.0.0.0/104".parse().unwrap(), Route::Blackhole);
            },
        ),
        (
            "route 10.9.0.0/16 (vrf 0): next hop fd00::9 is not of the prefix's address family",
            |e| {
                e.set_route(
                    V0,
                    "10.9.0.0/16".parse().unwrap(),
                    unicast(3, Some("fd00::9")),
                );
            },
        ),
        (
            "route 10.9.0.0/16 (vrf 0): MTU 65536 is not from 68 to 65535 bytes",
            |e| {
                let route = Route::Unicast {
                    port: PortId(3),
                    via: None,
                    mtu: Some(65_536),
                };
                e.set_route(V0, "10.9.0.0/16".parse().unwrap(), route);
            },
        ),
        (
            "neighbor 127.0.0.1 (vrf 0, port 3): address 127.0.0.1 is loopback",
            |e| {
                e.set_neighbor(V0, PortId(3), ip("127.0.0.1"), mac(5));
            },
        ),
        (
            "segment 0 \"lan-0\": segment id 0 is not from 1 to 16777215",
            |e| {
                e.set_segment(segment(0));
            },
        ),
        (
            "segment 8 \"lan-8\": ageing time 0 is not from 1 to 1000000 seconds",
            |e| {
                e.set_segment(SegmentSpec {
                    ageing_seconds: 0,
                    ..segment(8)
                });
            },
        ),
        (
            "segment 8 \"lan-8\": largest number of entries 65537 is not from 1 to 65536",
            |e| {
                e.set_segment(SegmentSpec {
                    max_entries: 65_537,
                    ..segment(8)
                });
            },
        ),
        (
            "fdb entry ff:ff:ff:ff:ff:ff (segment 7, vlan 5): MAC address ff:ff:ff:ff:ff:ff is not unicast",
            |e| {
                e.set_fdb(VrfId(7), 5, MacAddr::BROADCAST, PortId(4));
            },
        ),
        (
            "egress rule \"r\" of port 1: ports 9-8 end before they begin",
            |e| {
                #[expect(clippy::reversed_empty_ranges, reason = "what is to be refused")]
                let ports = Some(9..=8);
                e.set_rule(PortId(1), Direction::Egress, Rule { ports, ..rule("r") });
            },
        ),
        (
            "egress rule \"r\" of port 1: ports 80-80 mean nothing to protocol 1; use tcp, udp or sctp",
            |e| {
                e.set_rule(
                    PortId(1),
                    Direction::Egress,
                    Rule {
                        protocol: Some(1),
                        ..rule("r")
                    },
                );
            },
        ),
        (
            "ingress rule \"r\" of port 1: destination fd00::/64 is not of the source's address family",
            |e| {
                let (source, destination) = ("10.0.0.0/8".parse().ok(), "fd00::/64".parse().ok());
                e.set_rule(
                    PortId(1),
                    Direction::Ingress,
                    Rule {
                        source,
                        destination,
                        ..rule("r")
                    },
                );
            },
        ),
    ];
    refused(&node(), cases);
    let error = VlanSet::new([4095]).unwrap_err();
    assert_eq!(error.to_string(), "trunk: VLAN 4095 is not from 1 to 4094");
}

#[test]
fn objects_that_exclude_or_miss_one_another() {
    let cases: &[Case] = &[
        (
            "port 9 \"pod-9\": address 10.0.0.2 is taken by port 2 \"pod-2\"",
            |e| {
                e.set_port(routed(9, 0, &["10.0.0.2"]));
            },
        ),
        ("port 9: name pod-1 is taken by port 1", |e| {
            e.set_port(PortSpec {
                name: "pod-1".into(),
                ..routed(9, 0, &[])
            });
        }),
        (
            "port 3 \"pod-3\": address 192.168.0.1 is taken by neighbor 192.168.0.1 (vrf 0, port 3)",
            |e| {
                e.set_port(routed(3, 0, &["192.168.0.1"]));
            },
        ),
        (
            "neighbor 10.0.0.2 (vrf 0, port 2): address 10.0.0.2 is taken by port 2 \"pod-2\" itself",
            |e| {
                e.set_neighbor(V0, PortId(2), ip("10.0.0.2"), mac(5));
            },
        ),
        (
            "port 9 \"pod-9\": MAC address 02:00:00:00:00:04 is taken by port 4",
            |e| {
                e.set_port(PortSpec {
                    mac: mac(4),
                    ..l2(9, 7, Vlan::None, true)
                });
            },
        ),
        (
            "segment 7 \"lan-7\": id 7 is taken by a VRF with ports or routes",
            |e| {
                e.set_route(VrfId(7), "10.0.0.0/8".parse().unwrap(), Route::Blackhole);
            },
        ),
        (
            "route 10.9.0.0/16 (vrf 0) needs port 8; add the port first",
            |e| {
                e.set_route(V0, "10.9.0.0/16".parse().unwrap(), unicast(8, None));
            },
        ),
        (
            "route 10.9.0.0/16 (vrf 1) needs port 3 \"pod-3\" to be in VRF 1, not 0; use the port's own VRF",
            |e| {
                e.set_route(VrfId(1), "10.9.0.0/16".parse().unwrap(), unicast(3, None));
            },
        ),
        (
            "route 10.9.0.0/16 (vrf 0) needs port 4 \"pod-4\" to be routed; \
             that port is in an L2 segment; name a routed one",
            |e| {
                e.set_route(V0, "10.9.0.0/16".parse().unwrap(), unicast(4, None));
            },
        ),
        (
            "route 10.9.0.0/16 (vrf 0) needs next hop 192.168.0.2 on the link of port 3; \
             add a neighbor for it, or an on-link route that covers it, by that port",
            |e| {
                e.set_route(
                    V0,
                    "10.9.0.0/16".parse().unwrap(),
                    unicast(3, Some("192.168.0.2")),
                );
            },
        ),
        (
            "route 0.0.0.0/0 (vrf 0) needs next hop 192.168.0.1 on the link of port 3; \
             add a neighbor for it, or an on-link route that covers it, by that port",
            |e| {
                e.remove_neighbor(V0, PortId(3), ip("192.168.0.1"));
            },
        ),
        (
            "route 0.0.0.0/0 (vrf 0) needs port 3 \"pod-3\" in VRF 0; remove or change the route too",
            |e| {
                e.remove_port(PortId(3));
                e.remove_neighbor(V0, PortId(3), ip("192.168.0.1"));
            },
        ),
        (
            "neighbor 192.168.0.1 (vrf 0, port 3) needs port 3 \"pod-3\" in VRF 0; remove the neighbor too",
            |e| {
                e.remove_port(PortId(3));
                e.remove_route(V0, "0.0.0.0/0".parse().unwrap());
            },
        ),
        (
            "port 4 needs segment 7 \"lan-7\"; remove or move the port too",
            |e| {
                e.remove_segment(VrfId(7));
            },
        ),
        (
            "fdb entry 02:00:00:00:00:09 (segment 7, vlan 6) needs port 4 in VLAN 6 of segment 7; \
             put the port there, or remove the entry",
            |e| {
                e.set_fdb(VrfId(7), 6, mac(9), PortId(4));
            },
        ),
        ("ingress rule \"r\" needs port 8; add the port first", |e| {
            e.set_rule(PortId(8), Direction::Ingress, rule("r"));
        }),
    ];
    refused(&node(), cases);
}

/// Until a pod claims the address, the on-link route covers the next hop; afterwards its frames belong to that pod.
#[test]
fn a_pod_may_not_take_the_address_of_another_ports_next_hop() {
    let mut e = edit(&node());
    e.set_route(V0, "172.16.0.0/16".parse().unwrap(), unicast(2, None));
    e.set_route(
        V0,
        "10.9.0.0/16".parse().unwrap(),
        unicast(2, Some("172.16.0.9")),
    );
    let base = e.build().unwrap();
    refused(
        &base,
        &[(
            "route 10.9.0.0/16 (vrf 0) needs next hop 172.16.0.9 on the link of port 2; \
             add a neighbor for it, or an on-link route that covers it, by that port",
            |e| {
                e.set_port(routed(9, 0, &["172.16.0.9"]));
            },
        )],
    );
}

#[test]
fn more_than_the_switch_holds() {
    let mut full = node();
    full.counts.routes = MAX_ROUTES;
    full.counts.neighbors = MAX_NEIGHBORS;
    full.counts.fdb_entries = MAX_FDB_ENTRIES;
    while full.rule_ids.insert(MAX_RULES, 0, ()).is_some() {}
    refused(
        &full,
        &[
            (
                "route 10.9.0.0/16 (vrf 0): 2097153 routes, but the switch holds at most 2097152; \
                 remove some first",
                |e| {
                    e.set_route(V0, "10.9.0.0/16".parse().unwrap(), Route::Blackhole);
                },
            ),
            (
                "neighbor 192.168.0.9 (vrf 0, port 3): 65537 neighbors, but the switch holds at most 65536; \
                 remove some first",
                |e| {
                    e.set_neighbor(V0, PortId(3), ip("192.168.0.9"), mac(9));
                },
            ),
            (
                "fdb entry 02:00:00:00:00:09 (segment 7, vlan 5): 65537 FDB entries, \
                 but the switch holds at most 65536; remove some first",
                |e| {
                    e.set_fdb(VrfId(7), 5, mac(9), PortId(4));
                },
            ),
            (
                "egress rule \"r\" of port 1 \"pod-1\": 65536 rules, but the switch holds at most 65535; \
                 remove some first",
                |e| {
                    e.set_rule(PortId(1), Direction::Egress, rule("r"));
                },
            ),
        ],
    );
    refused(
        &node(),
        &[
            (
                "port 9 \"pod-9\": 65 addresses, but the switch holds at most 64; remove some first",
                |e| {
                    let all: Vec<String> = (0..65).map(|i| format!("10.1.0.{i}")).collect();
                    let all: Vec<&str> = all.iter().map(String::as_str).collect();
                    e.set_port(routed(9, 0, &all));
                },
            ),
            (
                "egress rule \"r-4096\" of port 2 \"pod-2\": 4097 rules of the port, \
                 but the switch holds at most 4096; remove some first",
                |e| {
                    for i in 0..=4096 {
                        e.set_rule(PortId(2), Direction::Egress, rule(&format!("r-{i:04}")));
                    }
                },
            ),
            (
                "segment 7 \"lan-7\": 3 fixed MAC addresses, but the switch holds at most 2; remove some first",
                |e| {
                    e.set_fdb(VrfId(7), 5, mac(8), PortId(4));
                    e.set_fdb(VrfId(7), 5, mac(9), PortId(4));
                },
            ),
            (
                "port 1124 \"pod-1124\": 1025 ports in the segment, but the switch holds at most 1024; \
                 remove some first",
                |e| {
                    e.set_segment(SegmentSpec {
                        max_entries: 4096,
                        ..segment(7)
                    });
                    for id in 101..1125 {
                        e.set_port(l2(id, 7, Vlan::None, false));
                    }
                },
            ),
            (
                "VRF 14096: 4097 VRFs, but the switch holds at most 4096; remove some first",
                |e| {
                    for id in 10_001..=14_096 {
                        e.set_route(VrfId(id), "10.0.0.0/8".parse().unwrap(), Route::Blackhole);
                    }
                },
            ),
            (
                "segment 2023 \"lan-2023\": 1025 segments, but the switch holds at most 1024; remove some first",
                |e| {
                    for id in 1000..2024 {
                        e.set_segment(segment(id));
                    }
                },
            ),
        ],
    );
}

#[test]
fn a_freed_rule_id_comes_back_only_when_no_reader_can_have_it() {
    let first = node();
    let id = |t: &Tables, port| t.port(PortId(port)).unwrap().egress.rules()[0].id;
    let old = id(&first, 1);
    let mut e = edit(&first);
    e.remove_rule(PortId(1), Direction::Egress, "web");
    let second = e.build().unwrap();
    let mut e = Edit::new(&second, first.generation());
    e.set_rule(PortId(2), Direction::Egress, rule("a"));
    assert_ne!(
        id(&e.build().unwrap(), 2),
        old,
        "a worker may still count for it"
    );
    let mut e = Edit::new(&second, second.generation());
    e.set_rule(PortId(2), Direction::Egress, rule("a"));
    let third = e.build().unwrap();
    assert_eq!(id(&third, 2), old);
    assert_eq!(
        third.port(PortId(2)).unwrap().egress.rules()[0].since,
        third.generation()
    );
}
