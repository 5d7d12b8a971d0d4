// SPDX-License-Identifier: Apache-2.0
//! ICMP errors: which, to whom, how many.

use std::net::{Ipv4Addr, Ipv6Addr};

use podswitch_datapath::counters::Event;
use podswitch_datapath::stage::Rate;
use podswitch_datapath::tables::{Action, Gateway, PortSpec};
use podswitch_datapath::wire::MacAddr;
use podswitch_datapath::{PortId, Reason, VrfId};

use crate::frames::{self, V4, V6};
use crate::node::*;
use crate::world::{GATEWAY_MAC, Out, World, gateway};

/// The error that port `to` gets for `frame`.
fn error4(to: u16, dst: Ipv4Addr, kind: u8, code: u8, mtu: u16, frame: &[u8]) -> Vec<Out> {
    let [h, l] = mtu.to_be_bytes();
    let quote = &frame[14..frame.len().min(14 + 548)];
    let message = frames::icmp(kind, code, [0, 0, h, l], quote);
    let p = V4 {
        id: 0,
        ..V4::new(gateway().v4, dst, frames::ICMP, message)
    };
    let mut p = p.bytes();
    p[1] = 0xc0;
    frames::fill_header_checksum(&mut p);
    sent(to, frames::ethernet(mac(to), GATEWAY_MAC, 0x0800, &p))
}

fn error6(to: u16, dst: Ipv6Addr, kind: u8, code: u8, mtu: u32, frame: &[u8]) -> Vec<Out> {
    let quote = &frame[14..frame.len().min(14 + 1232)];
    let src = gateway().v6;
    let message = frames::icmpv6(src, dst, kind, code, mtu.to_be_bytes(), quote);
    let p = V6::new(src, dst, frames::ICMPV6, message);
    sent(
        to,
        frames::ethernet(mac(to), GATEWAY_MAC, 0x86dd, &p.bytes()),
    )
}

#[test]
fn time_exceeded() {
    let mut w = node();
    for warm in [false, true] {
        for ttl in [0, 1] {
            let f = frame4(
                1,
                &V4 {
                    ttl,
                    ..udp4(v4(1), v4(2), 53)
                },
            );
            assert_eq!(
                w.send_one(1, &f),
                error4(1, v4(1), 11, 0, 0, &f),
                "warm {warm}"
            );
            let f = frame6(
                1,
                &V6 {
                    hop_limit: ttl,
                    ..udp6(v6(1), v6(2), 53)
                },
            );
            assert_eq!(
                w.send_one(1, &f),
                error6(1, v6(1), 3, 0, 0, &f),
                "warm {warm}"
            );
        }
    }
    let counters = w.counters();
    assert_eq!(counters.dropped(Reason::TtlExceeded), 8);
    assert_eq!(counters.ports[&PortId(1)].dropped(Reason::TtlExceeded), 8);
    assert_eq!(counters.event(Event::IcmpError), 8);
    w.assert_no_leak();
}

#[test]
fn unreachable_by_route() {
    let mut w = node();
    for _ in 0..2 {
        let mut ask = |dst: &str| {
            let f = frame4(1, &udp4(v4(1), dst.parse().unwrap(), 53));
            let out = w.send_one(1, &f);
            (out, f)
        };
        assert_eq!(ask("198.51.100.1").0, dropped("route_blackhole"));
        let (out, f) = ask("198.51.101.1");
        assert_eq!(out, error4(1, v4(1), 3, 1, 0, &f));
        let (out, f) = ask("198.51.102.1");
        assert_eq!(out, error4(1, v4(1), 3, 13, 0, &f));
        let (out, f) = ask("198.51.103.1");
        assert_eq!(out, error4(1, v4(1), 3, 1, 0, &f), "no neighbor");
        let f = frame6(1, &udp6(v6(1), "2001:db8::1".parse().unwrap(), 53));
        assert_eq!(w.send_one(1, &f), error6(1, v6(1), 1, 0, 0, &f));
    }
    let counters = w.counters();
    for reason in [
        Reason::RouteUnreachable,
        Reason::RouteProhibit,
        Reason::NeighborUnresolved,
        Reason::NoRoute,
    ] {
        assert_eq!(counters.dropped(reason), 2, "{reason}");
    }
    w.assert_no_leak();
}

#[test]
fn too_big() {
    let mut w = node();
    for len in [1253, 1400, 9000, 60_000] {
        let data = frames::udp(v4(1).into(), v4(4).into(), 1, 2, &vec![9; len]);
        let p = V4::new(v4(1), v4(4), frames::UDP, data);
        let f = frame4(1, &p);
        assert_eq!(w.send_one(1, &f), error4(1, v4(1), 3, 4, 1280, &f));
        let data = frames::udp(v6(1).into(), v6(4).into(), 1, 2, &vec![9; len]);
        let f = frame6(1, &V6::new(v6(1), v6(4), frames::UDP, data));
        assert_eq!(w.send_one(1, &f), error6(1, v6(1), 2, 0, 1280, &f));
    }
    let data = frames::udp(v4(1).into(), v4(4).into(), 1, 2, &[9; 1252]);
    let p = V4::new(v4(1), v4(4), frames::UDP, data);
    assert_eq!(
        w.send_one(1, &frame4(1, &p)),
        sent(4, routed4(&p, mac(4))),
        "1280 bytes fit"
    );
    w.assert_no_leak();
}

#[test]
fn who_is_never_answered() {
    let mut w = node();
    let silent = dropped("ttl_exceeded");
    let one_hop = |p: V4| frame4(1, &V4 { ttl: 1, ..p });
    let error = frames::icmp(3, 1, [0; 4], &udp4(v4(2), v4(1), 53).bytes());
    let f = one_hop(V4::new(v4(1), v4(2), frames::ICMP, error));
    assert_eq!(w.send_one(1, &f), silent, "an error");
    let later = V4 {
        flags: 0x2010,
        ..V4::new(v4(1), v4(2), frames::UDP, vec![0; 64])
    };
    assert_eq!(w.send_one(1, &one_hop(later)), silent, "a later fragment");
    let first = V4 {
        flags: 0x2000,
        ..udp4(v4(1), v4(2), 53)
    };
    let first = V4 {
        payload: first.payload[..104].to_vec(),
        ..first
    };
    let f = one_hop(first);
    assert_eq!(
        w.send_one(1, &f),
        error4(1, v4(1), 11, 0, 0, &f),
        "a first fragment"
    );
    let query = V4::new(v4(1), v4(2), frames::ICMP, frames::icmp(8, 0, [0; 4], &[1]));
    let f = one_hop(query);
    assert_eq!(w.send_one(1, &f), error4(1, v4(1), 11, 0, 0, &f), "a query");
    let error = frames::icmpv6(v6(1), v6(2), 1, 0, [0; 4], &[0; 48]);
    let p = V6 {
        hop_limit: 1,
        ..V6::new(v6(1), v6(2), frames::ICMPV6, error)
    };
    assert_eq!(w.send_one(1, &frame6(1, &p)), silent);
    w.assert_no_leak();
}

/// A link-local gateway address tells nobody beyond the link anything; a global one does.
#[test]
fn senders_beyond_the_link() {
    let from_afar = |w: &mut World| {
        let p = V4 {
            ttl: 1,
            ..udp4([203, 0, 113, 1].into(), v4(2), 53)
        };
        let f = frames::ethernet(GATEWAY_MAC, mac(0x901), 0x0800, &p.bytes());
        w.send_one(UPLINK, &f)
    };
    assert_eq!(from_afar(&mut node()), dropped("ttl_exceeded"));
    let gateway = Gateway {
        v4: [10, 0, 255, 1].into(),
        ..gateway()
    };
    let mut w = World::new(1, gateway, Rate::UNLIMITED);
    w.edit(|e| {
        e.set_port(pod(2));
        e.set_port(PortSpec {
            check_source: false,
            ..pod(UPLINK)
        });
    });
    let answer = only(from_afar(&mut w), UPLINK);
    assert_eq!(answer[..6], mac(0x901).0);
    assert_eq!(answer[26..30], [10, 0, 255, 1]);
    assert_eq!(answer[34..36], [11, 0]);
}

#[test]
fn errors_are_limited_by_port() {
    let rate = Rate {
        per_second: 2,
        burst: 3,
    };
    let mut w = node_of(1, rate);
    let send = |w: &mut World, from: u16| {
        let f = frame4(
            from,
            &V4 {
                ttl: 1,
                ..udp4(v4(from), v4(2), 53)
            },
        );
        matches!(w.send_one(from, &f)[..], [Out::Sent(..)])
    };
    let answered = |w: &mut World, from| (0..10).filter(|_| send(w, from)).count();
    assert_eq!(answered(&mut w, 1), 3);
    assert_eq!(answered(&mut w, 3), 3, "another port's share");
    w.now += 1_000_000_000;
    assert_eq!(answered(&mut w, 1), 2);
    let counters = w.counters();
    assert_eq!(counters.event(Event::IcmpErrorLimited), 30 - 8);
    assert_eq!(counters.dropped(Reason::TtlExceeded), 30);
    w.assert_no_leak();
}

/// TTL and MTU come before the receiver's policy, on one worker and on several.
#[test]
fn ingress_policy_does_not_hide_the_hop() {
    for workers in [1, 2] {
        let mut w = node_of(workers, Rate::UNLIMITED);
        w.edit(|e| {
            let mut port = pod(2);
            port.worker = podswitch_datapath::WorkerId(0);
            e.set_port(PortSpec {
                ingress_default: Action::Deny,
                ..port
            });
        });
        for _ in 0..2 {
            let f = frame4(
                1,
                &V4 {
                    ttl: 1,
                    ..udp4(v4(1), v4(2), 53)
                },
            );
            assert_eq!(w.send_one(1, &f), error4(1, v4(1), 11, 0, 0, &f));
            let f = frame4(1, &udp4(v4(1), v4(2), 53));
            assert_eq!(w.send_one(1, &f), dropped("policy_default_ingress"));
        }
    }
}

#[test]
fn errors_go_to_the_senders_mac() {
    let mut w = node();
    w.edit(|e| {
        e.remove_route(VrfId(0), "0.0.0.0/0".parse().unwrap());
    });
    let f = frames::ethernet(
        GATEWAY_MAC,
        mac(1),
        0x0800,
        &udp4(v4(1), [192, 0, 2, 7].into(), 53).bytes(),
    );
    let answer = only(w.send_one(1, &f), 1);
    assert_eq!(
        (&answer[..6], &answer[6..12]),
        (&mac(1).0[..], &GATEWAY_MAC.0[..])
    );
    assert_ne!(MacAddr(answer[..6].try_into().unwrap()), GATEWAY_MAC);
}
