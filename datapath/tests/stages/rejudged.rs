// SPDX-License-Identifier: Apache-2.0
//! Which connections are judged again when a route changes: those with an address that it covers, wherever they began.

use std::net::{IpAddr, Ipv4Addr};

use podswitch_datapath::counters::Event;
use podswitch_datapath::stage::Rate;
use podswitch_datapath::tables::{Edit, PortKindSpec, PortSpec, Route, TunnelSpec};
use podswitch_datapath::{PortId, VrfId};

use crate::frames::{self, V4};
use crate::node::*;
use crate::world::{GATEWAY_MAC, Out, World};

/// A tunnel to other nodes; the NIC is [`UPLINK`].
const TUNNEL: u16 = 8;
const WORLD: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const ROUTERS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
];

fn outside(port: u16, kind: PortKindSpec) -> PortSpec {
    PortSpec {
        kind,
        check_source: false,
        ..pod(port)
    }
}

fn via(port: u16, via: IpAddr) -> Route {
    Route::Unicast {
        port: PortId(port),
        via: Some(via),
        mtu: None,
    }
}

fn set(e: &mut Edit, prefix: &str, route: Route) {
    e.set_route(VrfId(0), prefix.parse().unwrap(), route);
}

/// Pods behind a NIC with two routers and a tunnel; the first router is the way to the world.
fn worlds() -> [World; 2] {
    [1, 2].map(|workers| {
        let mut w = node_of(workers, Rate::UNLIMITED);
        let uplink = PortKindSpec::Uplink {
            vrf: VrfId(0),
            addresses: vec![IpAddr::from([192, 0, 2, 254])],
            masquerade: None,
        };
        let tunnel = PortKindSpec::Tunnel {
            vrf: VrfId(0),
            tunnel: TunnelSpec {
                vni: 7,
                port: 4789,
                underlay: VrfId(0),
                local_v4: None,
                local_v6: None,
                checksum_v6: true,
                group_policy: false,
            },
        };
        w.edit(|e| {
            e.set_port(outside(UPLINK, uplink));
            e.set_port(outside(TUNNEL, tunnel));
            for (router, n) in ROUTERS.into_iter().zip([0x901, 0x902]) {
                e.set_neighbor(VrfId(0), PortId(UPLINK), router, mac(n));
                e.set_neighbor(VrfId(0), PortId(TUNNEL), router, mac(n));
            }
            set(e, "203.0.113.0/24", via_uplink(ROUTERS[0]));
        });
        w
    })
}

/// Where pod 1's packet to the world went: the router, by the last octet of its MAC address; `None` for nowhere.
fn goes(w: &mut World) -> Option<u8> {
    let out = w.send_one(1, &frame4(1, &udp4(v4(1), WORLD, 53)));
    match &out[..] {
        [Out::Sent(UPLINK, frame)] => Some(frame[5]),
        _ => None,
    }
}

/// What becomes of a packet from the world to pod 1, of the same connection or of one that begins there.
fn comes(w: &mut World, answer: bool) -> Result<(), String> {
    let (sport, dport) = if answer { (53, 4000) } else { (4000, 80) };
    let data = frames::udp(WORLD.into(), v4(1).into(), sport, dport, &[7; 100]);
    let packet = V4::new(WORLD, v4(1), frames::UDP, data);
    let frame = frames::ethernet(mac(UPLINK), mac(0x901), 0x0800, &packet.bytes());
    match &w.send_one(UPLINK, &frame)[..] {
        [Out::Sent(1, frame)] => {
            assert_eq!(frame[6..12], GATEWAY_MAC.0);
            Ok(())
        }
        [Out::Dropped(reason)] => Err((*reason).to_owned()),
        other => panic!("{other:?}"),
    }
}

fn events(w: &World) -> [u64; 2] {
    [Event::FlowRejudged, Event::FlowMiss].map(|event| w.counters().event(event))
}

#[test]
fn a_route_to_elsewhere_has_no_connection_judged_again() {
    for mut w in worlds() {
        let both = |w: &mut World| {
            assert_eq!(goes(w), Some(1));
            assert_eq!(comes(w, true), Ok(()));
        };
        both(&mut w);
        both(&mut w);
        let before = events(&w);
        let changes: [fn(&mut Edit); 5] = [
            |e| set(e, "198.51.101.0/24", via(UPLINK, ROUTERS[1])),
            |e| set(e, "198.51.101.0/24", Route::Blackhole),
            // A next hop that nobody knows, which goes with the route, and an MTU of its own.
            |e| set(e, "198.18.0.0/16", via(UPLINK, [192, 0, 2, 77].into())),
            |e| {
                let Route::Unicast { port, via, .. } = via(UPLINK, ROUTERS[1]) else {
                    unreachable!("it is one")
                };
                let mtu = Some(1400);
                set(e, "198.18.0.0/16", Route::Unicast { port, via, mtu });
            },
            |e| {
                e.remove_route(VrfId(0), "198.18.0.0/16".parse().unwrap());
            },
        ];
        for change in changes {
            w.edit(change);
            both(&mut w);
        }
        assert_eq!(events(&w), before);
    }
}

#[test]
fn a_route_that_covers_its_end_has_a_connection_judged_again() {
    for (prefix, workers) in [("203.0.113.8/31", 0), ("203.0.0.0/9", 1)] {
        let w = &mut worlds()[workers];
        assert_eq!(goes(w), Some(1));
        assert_eq!(comes(w, true), Ok(()));
        w.edit(|e| {
            set(e, prefix, via(UPLINK, ROUTERS[1]));
            e.remove_route(VrfId(0), "203.0.113.0/24".parse().unwrap());
        });
        assert_eq!(goes(w), Some(2), "{prefix}");
        assert!(events(w)[0] > 0);
        w.edit(|e| set(e, prefix, Route::Blackhole));
        assert_eq!(goes(w), None, "{prefix}");
        w.edit(|e| set(e, "203.0.113.9/32", via(UPLINK, ROUTERS[0])));
        assert_eq!(goes(w), Some(1), "{prefix}");
    }
}

/// What comes in is let in by the route back.
#[test]
fn a_route_to_the_source_counts_where_packets_come_in() {
    for mut w in worlds() {
        for answer in [true, false] {
            if answer {
                assert_eq!(goes(&mut w), Some(1));
            }
            assert_eq!(comes(&mut w, answer), Ok(()));
            assert_eq!(comes(&mut w, answer), Ok(()));
            // Whoever has that address is beyond the tunnel now.
            w.edit(|e| set(e, "203.0.113.0/28", via(TUNNEL, ROUTERS[1])));
            let spoofed = Err("spoofed_address".to_owned());
            assert_eq!(comes(&mut w, answer), spoofed);
            w.edit(|e| {
                e.remove_route(VrfId(0), "203.0.113.0/28".parse().unwrap());
            });
            assert_eq!(comes(&mut w, answer), Ok(()));
        }
        w.assert_no_leak();
    }
}
