// SPDX-License-Identifier: Apache-2.0
//! Frames that a pod must not send: spoofed, malformed, of kinds that do not belong on a pod's port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use podswitch_tests::frames::{
    BROADCAST, Ends, arp, fix_ipv4_checksum, icmpv6, neighbor_solicitation, tagged,
};
use podswitch_tests::objects::Drops;
use podswitch_tests::raw::RawSocket;
use podswitch_tests::traffic::ping;
use podswitch_tests::{HUNG, Node, NodeConfig, Pod, eventually};

/// Two pods and raw sockets in both; `a` sends.
struct Scene {
    node: Node,
    a: Pod,
    b: Pod,
    at_a: RawSocket,
    at_b: RawSocket,
    gateway: [u8; 6],
    sent: u32,
}

impl Scene {
    fn new() -> Scene {
        let node = Node::new(NodeConfig::default());
        let (a, b) = (node.pod(), node.pod());
        ping(&a.netns, b.v4());
        ping(&a.netns, b.v6());
        let neighbors = a.netns.ip_json("-4 neighbor show dev eth0");
        let gateway = neighbors[0]["lladdr"]
            .as_str()
            .expect("the gateway's MAC address");
        let gateway = podswitch_tests::frames::parse_mac(gateway);
        let (at_a, at_b) = (
            RawSocket::open(&a.netns, "eth0"),
            RawSocket::open(&b.netns, "eth0"),
        );
        Scene {
            node,
            a,
            b,
            at_a,
            at_b,
            gateway,
            sent: 0,
        }
    }

    fn v4(&self) -> Ends {
        Ends {
            source_mac: self.a.mac(),
            destination_mac: self.gateway,
            from: self.a.v4(),
            to: self.b.v4(),
        }
    }

    fn v6(&self) -> Ends {
        Ends {
            from: self.a.v6(),
            to: self.b.v6(),
            ..self.v4()
        }
    }

    /// Sends frames, then a right one that must arrive: by then the others have been judged. None of them may have
    /// arrived, and all of them must be counted under `reason`.
    #[track_caller]
    fn dropped(&mut self, reason: &str, frames: &[Vec<u8>]) {
        let before = self.node.drops();
        for frame in frames {
            self.at_a.send(frame);
        }
        self.marker_arrives(frames);
        let count = u64::try_from(frames.len()).unwrap();
        self.counted(&before, reason, count);
    }

    /// Sends a right datagram and waits for it at the other pod; fails if one of `unwanted` comes before it.
    #[track_caller]
    fn marker_arrives(&mut self, unwanted: &[Vec<u8>]) {
        self.sent += 1;
        let marker = format!("marker {:08}", self.sent);
        let frame = self.v4().udp((9999, 9999), 64, marker.as_bytes());
        let tails: Vec<&[u8]> = unwanted
            .iter()
            .filter(|f| f.len() > 60)
            .map(|f| &f[f.len() - 16..])
            .collect();
        let is_marker = |f: &[u8]| {
            let bad = tails.iter().any(|tail| f.ends_with(tail));
            assert!(!bad, "this frame must not arrive: {f:02x?}");
            f.ends_with(marker.as_bytes())
        };
        // Behind a flood the kernel may have had no room for one.
        eventually("a right frame behind the bad ones arrives", HUNG, || {
            self.at_a.send(&frame);
            self.at_b.receive(Duration::from_millis(500), is_marker)
        });
    }

    #[track_caller]
    fn counted(&self, before: &Drops, reason: &str, count: u64) {
        let mut grown = self.node.drops().since(before);
        let counted = podswitch_tests::wait::poll(HUNG, || {
            grown = self.node.drops().since(before);
            (grown.get(reason).copied().unwrap_or(0) >= count).then_some(())
        });
        assert!(
            counted.is_some(),
            "{count} frames must be counted as {reason}, these are: {grown:?}"
        );
    }
}

/// A payload long and odd enough to be recognised.
const PAYLOAD: &[u8] = b"this datagram must not arrive anywhere";

#[test]
fn spoofed_sources_are_dropped() {
    let mut scene = Scene::new();
    let (v4, v6) = (scene.v4(), scene.v6());
    let other_mac = [2, 0, 0, 0, 0, 99];
    let udp = |ends: Ends| ends.udp((1000, 2000), 64, PAYLOAD);
    scene.dropped(
        "spoofed_mac",
        &[
            udp(Ends {
                source_mac: other_mac,
                ..v4
            }),
            udp(Ends {
                source_mac: other_mac,
                ..v6
            }),
            udp(Ends {
                source_mac: scene.b.mac(),
                ..v4
            }),
        ],
    );
    let from: [IpAddr; 3] = [
        scene.b.v4(),
        "10.244.1.254".parse().unwrap(),
        "8.8.8.8".parse().unwrap(),
    ];
    let frames: Vec<_> = from
        .into_iter()
        .map(|from| udp(Ends { from, ..v4 }))
        .collect();
    scene.dropped("spoofed_address", &frames);
    let from: [IpAddr; 2] = [scene.b.v6(), "2001:db8::1".parse().unwrap()];
    let frames: Vec<_> = from
        .into_iter()
        .map(|from| udp(Ends { from, ..v6 }))
        .collect();
    scene.dropped("spoofed_address", &frames);
    ping(&scene.a.netns, scene.b.v4());
}

#[test]
fn spoofed_arp_and_neighbor_discovery_are_dropped() {
    let mut scene = Scene::new();
    let mac = scene.a.mac();
    let IpAddr::V4(stolen) = scene.b.v4() else {
        unreachable!("an IPv4 address")
    };
    let IpAddr::V6(stolen6) = scene.b.v6() else {
        unreachable!("an IPv6 address")
    };
    let target = Ipv4Addr::new(10, 244, 1, 250);
    // Asking and answering in another pod's name, and in the gateway's.
    let frames = [
        arp((mac, BROADCAST), 1, (mac, stolen), ([0; 6], target)),
        arp((mac, BROADCAST), 2, (mac, stolen), ([0; 6], target)),
        neighbor_solicitation(mac, stolen6, "fd00:244:1::fa".parse().unwrap()),
    ];
    scene.dropped("spoofed_address", &frames);
    // An advertisement that claims another pod's address, from the own address, to the other pod and to all nodes.
    let IpAddr::V6(own6) = scene.a.v6() else {
        unreachable!("an IPv6 address")
    };
    let mut body = vec![0x20, 0, 0, 0];
    body.extend(stolen6.octets());
    body.extend([2, 1]);
    body.extend(mac);
    let all_nodes: Ipv6Addr = "ff02::1".parse().unwrap();
    let before = scene.node.drops();
    let frames = [
        icmpv6(
            mac,
            [0x33, 0x33, 0, 0, 0, 1],
            own6,
            all_nodes,
            255,
            (136, 0),
            &body,
        ),
        icmpv6(mac, scene.gateway, own6, stolen6, 255, (136, 0), &body),
    ];
    for frame in &frames {
        scene.at_a.send(frame);
    }
    scene.marker_arrives(&frames);
    eventually("both advertisements are counted", HUNG, || {
        let grown = scene.node.drops().since(&before);
        (grown.values().sum::<u64>() >= 2).then_some(())
    });
    ping(&scene.b.netns, scene.a.v6());
}

#[test]
fn malformed_ipv4_is_dropped_under_its_name() {
    let mut scene = Scene::new();
    let good = scene.v4().udp((1000, 2000), 64, PAYLOAD);
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = good.clone();
        change(&mut frame);
        if frame.len() >= 34 && frame[14] & 0xf >= 5 {
            let end = 14 + usize::from(frame[14] & 0xf) * 4;
            if end <= frame.len() {
                fix_ipv4_checksum(&mut frame);
            }
        }
        frame
    };
    let version = changed(&|f| f[14] = 0x65);
    let short_header = changed(&|f| f[14] = 0x44);
    let long_header = changed(&|f| f[14] = 0x4f);
    let long_total = changed(&|f| f[16..18].copy_from_slice(&2000u16.to_be_bytes()));
    let short_total = changed(&|f| f[16..18].copy_from_slice(&10u16.to_be_bytes()));
    let mut checksum = good.clone();
    checksum[24] ^= 0xff;
    scene.dropped("bad_ipv4_version", &[version]);
    scene.dropped("bad_ipv4_header_length", &[short_header, short_total]);
    scene.dropped("truncated_ipv4", &[good[..30].to_vec(), long_total]);
    scene.dropped("bad_ipv4_checksum", &[checksum]);
    // A header of 60 bytes whose options are payload bytes: what they say is no option list.
    let before = scene.node.drops();
    scene.at_a.send(&long_header);
    scene.marker_arrives(&[long_header]);
    assert!(!scene.node.drops().since(&before).is_empty());
    let mut udp_length = good.clone();
    udp_length[38..40].copy_from_slice(&4000u16.to_be_bytes());
    scene.dropped("bad_transport_header", &[udp_length]);
}

#[test]
fn source_routes_and_routing_headers_are_dropped() {
    let mut scene = Scene::new();
    let mut frame = scene.v4().udp((1000, 2000), 64, PAYLOAD);
    // Loose source route (RFC 791): type 131, length 7, pointer 4, one address; then an end of options.
    let mut options = vec![131, 7, 4];
    options.extend([10, 244, 1, 1]);
    options.push(0);
    frame.splice(34..34, options);
    frame[14] = 0x47;
    let total = u16::try_from(frame.len() - 14).unwrap();
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    fix_ipv4_checksum(&mut frame);
    scene.dropped("ipv4_source_route", &[frame]);

    let mut frame = scene.v6().udp((1000, 2000), 64, PAYLOAD);
    // Routing header type 0 (RFC 5095) with one address and one segment left.
    let mut header = vec![17, 2, 0, 1, 0, 0, 0, 0];
    header.extend([0xfd; 16]);
    frame.splice(54..54, header);
    frame[20] = 43;
    let length = u16::try_from(frame.len() - 54).unwrap();
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    scene.dropped("ipv6_routing_header", &[frame]);
}

#[test]
fn frames_that_do_not_belong_on_a_pods_port_are_dropped() {
    let mut scene = Scene::new();
    let mac = scene.a.mac();
    let good = scene.v4().udp((1000, 2000), 64, PAYLOAD);
    scene.dropped("vlan_not_expected", &[tagged(&good, 5)]);
    let mut unknown = [&BROADCAST[..], &mac, &[0x88, 0xb5]].concat();
    unknown.extend(PAYLOAD);
    scene.dropped("ethertype_unknown", &[unknown]);
    let not_for_us = Ends {
        destination_mac: [2, 9, 9, 9, 9, 9],
        ..scene.v4()
    };
    scene.dropped("not_for_us", &[not_for_us.udp((1, 2), 64, PAYLOAD)]);
    let multicast = Ends {
        destination_mac: [0x01, 0, 0x5e, 0, 0, 0xfb],
        to: "224.0.0.251".parse().unwrap(),
        ..scene.v4()
    };
    scene.dropped(
        "multicast_not_routed",
        &[multicast.udp((5353, 5353), 64, PAYLOAD)],
    );
}

#[test]
fn random_bytes_do_no_harm() {
    let mut scene = Scene::new();
    // A small generator with a fixed start (xorshift): the frames are the same in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let templates = [
        scene.v4().udp((1, 2), 64, PAYLOAD),
        scene.v6().udp((1, 2), 64, PAYLOAD),
        scene.v4().syn((1, 2)),
    ];
    for round in 0..20_000usize {
        let mut frame = templates[round % templates.len()].clone();
        let length = 14 + usize::try_from(random()).unwrap_or(0) % (frame.len() - 13);
        frame.truncate(length);
        for _ in 0..=random() % 6 {
            let at = usize::try_from(random() & 0xffff).unwrap() % frame.len();
            // The destination stays: a frame to nobody is the least interesting one.
            if at >= 6 {
                frame[at] = random().to_le_bytes()[0];
            }
        }
        scene.at_a.send(&frame);
        if round % 1000 == 0 {
            scene.at_b.clear();
        }
    }
    scene.at_b.clear();
    scene.marker_arrives(&[]);
    ping(&scene.a.netns, scene.b.v4());
    ping(&scene.b.netns, scene.a.v6());
    let audit = scene
        .node
        .rpc("audit", &serde_json::json!({}))
        .expect("audit");
    assert_eq!(audit["balanced"], true, "{audit}");
}
