// SPDX-License-Identifier: Apache-2.0
//! The steering program of a NIC: what is the switch's goes to the socket of its queue or is dropped, everything else is
//! left to the host's stack.

mod nic_frames;
mod xdp_bed;

use std::net::IpAddr;

use nic_frames::*;
use podswitch_datapath::port::xdp::{HostPort, NIC_STEERING_NAME, NicSteering, Roles, Steering};
use podswitch_datapath::wire::MacAddr;
use podswitch_host::xdp::{self, Mode};
use podswitch_host::{bpf, tc};
use xdp_bed::{Bed, bytes, eventually};

/// `XDP_DROP`, `XDP_PASS`, `XDP_REDIRECT`.
const DROP: u32 = 1;
const PASS: u32 = 2;
const SWITCH: u32 = 4;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A program that knows a pod, the node and an overlay, with a socket for the queue that frames come by.
struct Nic {
    steering: NicSteering,
    port: Option<xdp_bed::Attached>,
    bed: Bed,
}

impl Nic {
    fn new() -> Nic {
        let mut bed = Bed::new(Mode::Native, 1500, 1);
        let port = bed.attach(0);
        let mut steering = bed.loader.nic_steering(1, None).unwrap();
        set_up(&mut steering);
        steering.insert(0, port.port.socket()).unwrap();
        Nic {
            steering,
            port: Some(port),
            bed,
        }
    }

    #[track_caller]
    fn expect(&self, what: &str, frame: &[u8], answer: u32) {
        let got = bpf::answer(self.steering.fd(), frame).unwrap();
        assert_eq!(got, answer, "{what}: {frame:02x?}");
    }

    #[track_caller]
    fn all(&self, cases: &[(&str, Vec<u8>, u32)]) {
        for (what, frame, answer) in cases {
            self.expect(what, frame, *answer);
        }
    }
}

impl Drop for Nic {
    fn drop(&mut self) {
        if let Some(port) = self.port.take() {
            self.bed.close(port);
        }
    }
}

fn set_up(steering: &mut NicSteering) {
    steering.set_mac(MacAddr(NIC)).unwrap();
    steering.set_overlay_ports(&[OVERLAY]).unwrap();
    steering
        .set_reserved(&[20_000..=20_999, 30_000..=30_000])
        .unwrap();
    for (address, roles) in [
        (POD, Roles::POD),
        (POD6, Roles::POD),
        (NODE, Roles::NODE),
        (NODE6, Roles::NODE),
        (NEAR, Roles::POD.and(Roles::PROXY)),
        (NEAR6, Roles::POD.and(Roles::PROXY)),
    ] {
        steering.set_address(ip(address), roles).unwrap();
    }
}

#[test]
fn packets_to_pods_are_the_switchs_whatever_they_carry() {
    let nic = Nic::new();
    let v4 = |protocol, payload: &[u8]| eth(NIC, 0x0800, &ipv4(PEER, POD, protocol, payload));
    let v6 = |next, payload: &[u8]| eth(NIC, 0x86dd, &ipv6(PEER6, POD6, next, payload));
    let mut later = ipv4(PEER, POD, 17, &[0; 8]);
    later[6..8].copy_from_slice(&[0, 9]);
    nic.all(&[
        ("TCP", v4(6, &ports(1, 22)), SWITCH),
        ("UDP without ports", v4(17, &[]), SWITCH),
        ("an unknown protocol", v4(253, &[0; 4]), SWITCH),
        ("a later fragment", eth(NIC, 0x0800, &later), SWITCH),
        ("TCP over IPv6", v6(6, &ports(1, 22)), SWITCH),
        ("an echo over IPv6", v6(58, &icmp(128, 5, &[])), SWITCH),
        (
            "an extension header",
            v6(0, &[6, 0, 0, 0, 0, 0, 0, 0]),
            SWITCH,
        ),
        ("endless extension headers", v6(0, &[0; 80]), SWITCH),
    ]);
    let stranger = |to| eth(NIC, 0x0800, &ipv4(PEER, to, 6, &ports(1, 22)));
    nic.all(&[
        ("somebody else", stranger("10.9.0.9"), PASS),
        ("broadcast", stranger("255.255.255.255"), PASS),
        ("multicast", stranger("224.0.0.1"), PASS),
        (
            "IPv4 in IPv6's clothes",
            eth(
                NIC,
                0x86dd,
                &ipv6(PEER6, "::ffff:10.1.0.5", 6, &ports(1, 2)),
            ),
            SWITCH,
        ),
    ]);
}

#[test]
fn only_frames_to_the_nic_and_of_its_vlan_are_looked_at() {
    let mut nic = Nic::new();
    let packet = ipv4(PEER, POD, 6, &ports(1, 22));
    let tagged = |tpid: u16, tci: u16| {
        let inner = [&tci.to_be_bytes()[..], &[8, 0], &packet].concat();
        eth(NIC, tpid, &inner)
    };
    let plain = eth(NIC, 0x0800, &packet);
    // A tag within a tag.
    let stacked = |tpid: u16, tci: u16| {
        let inner = tagged(0x8100, 7);
        let tci = tci.to_be_bytes();
        let outer = [&tpid.to_be_bytes()[..], &tci].concat();
        [&inner[..12], &outer, &inner[12..]].concat()
    };
    nic.all(&[
        (
            "another station's",
            eth([2, 0, 0, 0, 1, 9], 0x0800, &packet),
            PASS,
        ),
        ("a group's", eth([0xff; 6], 0x0800, &packet), PASS),
        ("untagged", plain.clone(), SWITCH),
        ("a priority alone", tagged(0x8100, 0xe000), SWITCH),
        ("of a VLAN", tagged(0x8100, 0x0007), PASS),
        ("a service tag", tagged(0x88a8, 0), PASS),
        ("a VLAN with a priority", stacked(0x8100, 0), PASS),
        ("a VLAN in a service tag", stacked(0x88a8, 0), PASS),
    ]);
    nic.steering.set_vlan(Some(7)).unwrap();
    nic.all(&[
        ("untagged now", plain, PASS),
        ("a priority alone, now", tagged(0x8100, 0xe000), PASS),
        ("a service tag of its id", tagged(0x88a8, 7), PASS),
        ("twice", stacked(0x8100, 7), PASS),
        ("with a priority", stacked(0x8100, 0), PASS),
        ("in a service tag", stacked(0x88a8, 7), PASS),
        ("of the VLAN", tagged(0x8100, 0xe007), SWITCH),
        ("of another", tagged(0x8100, 0x0008), PASS),
        ("a tag that is cut", tagged(0x8100, 7)[..16].to_vec(), PASS),
    ]);
    // What is looked for in it is the same as without.
    let in_vlan = |to, ethertype: u16, packet: &[u8]| {
        let inner = [&[0, 7][..], &ethertype.to_be_bytes(), packet].concat();
        eth(to, 0x8100, &inner)
    };
    let to_node = |port| ipv4(PEER, NODE, 17, &ports(9, port));
    let to_node6 = |port| ipv6(PEER6, NODE6, 17, &ports(9, port));
    nic.all(&[
        (
            "a pod's over IPv6",
            in_vlan(NIC, 0x86dd, &ipv6(PEER6, POD6, 6, &ports(1, 22))),
            SWITCH,
        ),
        (
            "a tunnel's",
            in_vlan(NIC, 0x0800, &to_node(OVERLAY)),
            SWITCH,
        ),
        (
            "a tunnel's over IPv6",
            in_vlan(NIC, 0x86dd, &to_node6(OVERLAY)),
            SWITCH,
        ),
        (
            "by a reserved port",
            in_vlan(NIC, 0x0800, &to_node(20_000)),
            SWITCH,
        ),
        ("the host's", in_vlan(NIC, 0x0800, &to_node(22)), PASS),
        (
            "who has a pod's address",
            in_vlan([0xff; 6], 0x0806, &arp(1, NEAR)),
            SWITCH,
        ),
        (
            "who has the node's",
            in_vlan([0xff; 6], 0x0806, &arp(1, NODE)),
            PASS,
        ),
    ]);
    nic.steering.set_mac(MacAddr([2, 0, 0, 0, 1, 9])).unwrap();
    nic.expect("its old address", &tagged(0x8100, 7), PASS);
}

#[test]
fn of_the_nodes_packets_those_by_the_switchs_ports_are() {
    let nic = Nic::new();
    let v4 = |protocol, payload: &[u8]| eth(NIC, 0x0800, &ipv4(PEER, NODE, protocol, payload));
    let v6 = |next, payload: &[u8]| eth(NIC, 0x86dd, &ipv6(PEER6, NODE6, next, payload));
    for (name, protocol) in [("TCP", 6), ("UDP", 17), ("SCTP", 132)] {
        for (port, answer) in [
            (22, PASS),
            (19_999, PASS),
            (20_000, SWITCH),
            (20_999, SWITCH),
            (21_000, PASS),
            (30_000, SWITCH),
            (30_001, PASS),
            (0, PASS),
        ] {
            nic.expect(name, &v4(protocol, &ports(20_000, port)), answer);
            nic.expect(name, &v6(protocol, &ports(20_000, port)), answer);
        }
        let overlay = if protocol == 17 { SWITCH } else { PASS };
        nic.expect(name, &v4(protocol, &ports(9, OVERLAY)), overlay);
        nic.expect(name, &v6(protocol, &ports(9, OVERLAY)), overlay);
    }
    nic.all(&[
        (
            "an answer to the switch's echo",
            v4(1, &icmp(0, 20_500, &[])),
            SWITCH,
        ),
        ("an answer to the host's", v4(1, &icmp(0, 500, &[])), PASS),
        ("an echo", v4(1, &icmp(8, 20_500, &[])), PASS),
        (
            "an answer over IPv6",
            v6(58, &icmp(129, 20_500, &[])),
            SWITCH,
        ),
        ("the host's over IPv6", v6(58, &icmp(129, 500, &[])), PASS),
        ("an echo over IPv6", v6(58, &icmp(128, 20_500, &[])), PASS),
        ("ICMPv6 in IPv4", v4(58, &icmp(129, 500, &[])), PASS),
        ("GRE", v4(47, &ports(20_000, 20_000)), PASS),
        ("ports that are cut", v4(6, &[0x4e, 0x20, 0x4e]), PASS),
        ("an echo that is cut", v4(1, &[0, 0, 0, 0, 0x50]), PASS),
    ]);
}

#[test]
fn of_the_nodes_packets_those_to_ports_that_lead_to_pods_are() {
    let mut nic = Nic::new();
    let leads = |address: &str, protocol, port| HostPort {
        address: ip(address),
        protocol,
        port,
    };
    let [one, all4, all6] = [
        leads(NODE, 6, 8080),
        leads("0.0.0.0", 17, 5353),
        leads("::", 6, 8443),
    ];
    for port in [&one, &all4, &all6] {
        nic.steering.set_host_port(port).unwrap();
    }
    let v4 = |to, protocol, port| eth(NIC, 0x0800, &ipv4(PEER, to, protocol, &ports(999, port)));
    let v6 = |to, protocol, port| eth(NIC, 0x86dd, &ipv6(PEER6, to, protocol, &ports(999, port)));
    let error = |protocol, from| {
        let about = ipv4(
            NODE,
            PEER,
            protocol,
            &[&ports(from, 999)[..], &[0; 4]].concat(),
        );
        eth(
            NIC,
            0x0800,
            &ipv4("192.0.2.77", NODE, 1, &icmp(3, 0, &about)),
        )
    };
    nic.all(&[
        ("a port of one address", v4(NODE, 6, 8080), SWITCH),
        ("of another protocol", v4(NODE, 17, 8080), PASS),
        ("of SCTP", v4(NODE, 132, 8080), PASS),
        ("another port", v4(NODE, 6, 8081), PASS),
        ("the same port over IPv6", v6(NODE6, 6, 8080), PASS),
        ("a port of all addresses", v4(NODE, 17, 5353), SWITCH),
        ("but over IPv4", v6(NODE6, 17, 5353), PASS),
        ("of all over IPv6", v6(NODE6, 6, 8443), SWITCH),
        ("but over IPv6", v4(NODE, 6, 8443), PASS),
        (
            "of an address that is not the node's",
            v4(PEER, 17, 5353),
            PASS,
        ),
        ("an error about an answer", error(6, 8080), SWITCH),
        ("about another's", error(6, 8081), PASS),
        ("about one of another protocol", error(17, 8080), PASS),
        (
            "an identifier of the same number",
            eth(NIC, 0x0800, &ipv4(PEER, NODE, 1, &icmp(0, 8080, &[]))),
            PASS,
        ),
    ]);
    assert!(nic.steering.remove_host_port(&one).unwrap());
    assert!(!nic.steering.remove_host_port(&one).unwrap());
    nic.expect("taken away", &v4(NODE, 6, 8080), PASS);
}

#[test]
fn options_and_extension_headers_are_stepped_over() {
    let nic = Nic::new();
    let mut options = ipv4(PEER, NODE, 6, &[&[1; 40][..], &ports(1, 20_000)].concat());
    options[0] = 0x4f;
    nic.expect("ten words of options", &eth(NIC, 0x0800, &options), SWITCH);
    options[0] = 0x44;
    nic.expect("a header too short", &eth(NIC, 0x0800, &options), PASS);
    options[0] = 0x65;
    nic.expect("of another version", &eth(NIC, 0x0800, &options), PASS);
    let chain = |kinds: &[u8], last: u8, payload: &[u8]| {
        let mut bytes = Vec::new();
        for (i, _) in kinds.iter().enumerate() {
            let next = kinds.get(i + 1).copied().unwrap_or(last);
            bytes.extend([next, 1, 0, 0, 0, 0, 0, 0]);
            bytes.extend([0; 8]);
        }
        bytes.extend(payload);
        let first = kinds.first().copied().unwrap_or(last);
        eth(NIC, 0x86dd, &ipv6(PEER6, NODE6, first, &bytes))
    };
    let tcp = ports(1, 20_000);
    nic.all(&[
        ("one of each", chain(&[0, 60, 43], 6, &tcp), SWITCH),
        ("the host's", chain(&[0, 60, 43], 6, &ports(1, 22)), PASS),
        ("six", chain(&[60; 6], 6, &tcp), SWITCH),
        ("seven", chain(&[60; 7], 6, &tcp), PASS),
        ("nothing behind them", chain(&[60], 6, &[]), PASS),
        (
            "one that is cut",
            eth(NIC, 0x86dd, &ipv6(PEER6, NODE6, 60, &[6, 0, 0])),
            PASS,
        ),
        (
            "one longer than the frame",
            eth(
                NIC,
                0x86dd,
                &ipv6(PEER6, NODE6, 60, &[6, 255, 0, 0, 0, 0, 0, 0]),
            ),
            PASS,
        ),
        ("no next header", chain(&[], 59, &tcp), PASS),
    ]);
}

#[test]
fn errors_about_what_the_switch_sent_are_the_switchs() {
    let nic = Nic::new();
    let about =
        |kind: u8, quote: &[u8]| eth(NIC, 0x0800, &ipv4(PEER, NODE, 1, &icmp(kind, 0, quote)));
    let sent = |from, protocol, payload: &[u8]| ipv4(from, PEER, protocol, payload);
    let pad = |p: [u8; 4]| [&p[..], &[0; 4]].concat();
    let tcp = sent(NODE, 6, &pad(ports(20_000, 80)));
    for (kind, answer) in [
        (3, SWITCH),
        (11, SWITCH),
        (12, SWITCH),
        (5, PASS),
        (4, PASS),
        (8, PASS),
    ] {
        nic.expect("an error about TCP", &about(kind, &tcp), answer);
    }
    let mut later = tcp.clone();
    later[6..8].copy_from_slice(&[0, 9]);
    nic.all(&[
        (
            "the host's TCP",
            about(3, &sent(NODE, 6, &pad(ports(22, 20_000)))),
            PASS,
        ),
        (
            "not the node's",
            about(3, &sent(PEER, 6, &pad(ports(20_000, 80)))),
            PASS,
        ),
        (
            "a pod's",
            about(3, &sent(POD, 6, &pad(ports(20_000, 80)))),
            PASS,
        ),
        (
            "the overlay",
            about(3, &sent(NODE, 17, &pad(ports(777, OVERLAY)))),
            SWITCH,
        ),
        (
            "TCP to the overlay's number",
            about(3, &sent(NODE, 6, &pad(ports(777, OVERLAY)))),
            PASS,
        ),
        (
            "the switch's UDP",
            about(3, &sent(NODE, 17, &pad(ports(20_001, 53)))),
            SWITCH,
        ),
        (
            "the switch's echo",
            about(3, &sent(NODE, 1, &icmp(8, 20_000, &[]))),
            SWITCH,
        ),
        (
            "the host's echo",
            about(3, &sent(NODE, 1, &icmp(8, 200, &[]))),
            PASS,
        ),
        (
            "an echo reply",
            about(3, &sent(NODE, 1, &icmp(0, 20_000, &[]))),
            PASS,
        ),
        ("a later fragment", about(3, &later), PASS),
        ("a quote that is cut", about(3, &tcp[..26]), PASS),
        ("no quote", about(3, &[]), PASS),
    ]);
    let about6 =
        |kind: u8, quote: &[u8]| eth(NIC, 0x86dd, &ipv6(PEER6, NODE6, 58, &icmp(kind, 0, quote)));
    let tcp = ipv6(NODE6, PEER6, 6, &pad(ports(20_000, 80)));
    for (kind, answer) in [
        (1, SWITCH),
        (2, SWITCH),
        (3, SWITCH),
        (4, SWITCH),
        (0, PASS),
        (5, PASS),
    ] {
        nic.expect("an error about TCP over IPv6", &about6(kind, &tcp), answer);
    }
    let fragment = |offset: u8| {
        let header = [17, 0, 0, offset, 0, 0, 0, 1];
        ipv6(
            NODE6,
            PEER6,
            44,
            &[&header[..], &pad(ports(9, OVERLAY))].concat(),
        )
    };
    nic.all(&[
        ("a first fragment", about6(1, &fragment(1)), SWITCH),
        ("a later fragment", about6(1, &fragment(8)), PASS),
        (
            "the switch's echo",
            about6(1, &ipv6(NODE6, PEER6, 58, &icmp(128, 20_000, &[]))),
            SWITCH,
        ),
        (
            "the host's",
            about6(1, &ipv6(NODE6, PEER6, 6, &pad(ports(22, 80)))),
            PASS,
        ),
        (
            "not the node's",
            about6(1, &ipv6(PEER6, NODE6, 6, &pad(ports(20_000, 80)))),
            PASS,
        ),
    ]);
}

#[test]
fn later_fragments_go_where_the_first_went() {
    let nic = Nic::new();
    let v4 = |id: u16, offset: u16, port: u16| {
        let mut packet = ipv4(PEER, NODE, 17, &ports(9, port));
        packet[4..6].copy_from_slice(&id.to_be_bytes());
        packet[6..8].copy_from_slice(&offset.to_be_bytes());
        eth(NIC, 0x0800, &packet)
    };
    const MORE: u16 = 0x2000;
    nic.all(&[
        ("before the first", v4(7, MORE | 9, OVERLAY), PASS),
        ("the first", v4(7, MORE, OVERLAY), SWITCH),
        ("a later one", v4(7, MORE | 9, 22), SWITCH),
        ("the last", v4(7, 18, 22), SWITCH),
        ("another packet's", v4(8, 18, OVERLAY), PASS),
        ("the host's with the same number", v4(7, MORE, 22), PASS),
        ("its later one", v4(7, 9, OVERLAY), PASS),
    ]);
    let v6 = |id: u8, offset: u16, port: u16| {
        let [high, low] = offset.to_be_bytes();
        let header = [17, 0, high, low, 0, 0, 0, id];
        let payload = [&header[..], &ports(9, port)].concat();
        eth(NIC, 0x86dd, &ipv6(PEER6, NODE6, 44, &payload))
    };
    nic.all(&[
        ("before the first", v6(7, 9, OVERLAY), PASS),
        ("the first", v6(7, 1, OVERLAY), SWITCH),
        ("a later one", v6(7, 8 | 1, 22), SWITCH),
        ("the last", v6(7, 16, 22), SWITCH),
        ("another packet's", v6(8, 16, OVERLAY), PASS),
        ("whole, with a fragment header", v6(9, 0, OVERLAY), SWITCH),
        ("which nothing follows", v6(9, 8, OVERLAY), PASS),
        ("the host's with the same number", v6(7, 1, 22), PASS),
        ("its later one", v6(7, 16, OVERLAY), PASS),
    ]);
}

#[test]
fn of_arp_and_discovery_only_what_asks_for_proxied_addresses_is() {
    let nic = Nic::new();
    let all = [0xff; 6];
    let asks = |to, target| eth(to, 0x0806, &arp(1, target));
    let mut odd = arp(1, NEAR);
    odd[4] = 8;
    nic.all(&[
        ("a request for a proxied address", asks(all, NEAR), SWITCH),
        ("the same to the NIC alone", asks(NIC, NEAR), SWITCH),
        ("to another station", asks([2, 0, 0, 0, 1, 9], NEAR), PASS),
        ("for a pod's that is not proxied", asks(all, POD), PASS),
        ("for the node's", asks(all, NODE), PASS),
        ("a reply", eth(all, 0x0806, &arp(2, NEAR)), PASS),
        ("of odd lengths", eth(all, 0x0806, &odd), PASS),
        ("that is cut", asks(all, NEAR)[..40].to_vec(), PASS),
    ]);
    let group = [0x33, 0x33, 0xff, 0, 0, 6];
    let solicits = |to, address, target, hops: u8| {
        let payload = [&icmp(135, 0, &[])[..], &octets6(target)].concat();
        let mut packet = ipv6(PEER6, address, 58, &payload);
        packet[7] = hops;
        eth(to, 0x86dd, &packet)
    };
    let advertises = [&icmp(136, 0, &[])[..], &octets6(NEAR6)].concat();
    nic.all(&[
        (
            "a solicitation",
            solicits(group, "ff02::1:ff00:6", NEAR6, 255),
            SWITCH,
        ),
        ("to the pod alone", solicits(NIC, NEAR6, NEAR6, 255), SWITCH),
        (
            "from afar",
            solicits(group, "ff02::1:ff00:6", NEAR6, 254),
            PASS,
        ),
        (
            "for one not proxied",
            solicits(group, "ff02::1:ff00:5", POD6, 255),
            PASS,
        ),
        ("to one not proxied", solicits(NIC, POD6, POD6, 255), PASS),
        (
            "for the node's",
            solicits(group, "ff02::1:ff00:1", NODE6, 255),
            PASS,
        ),
        (
            "an advertisement",
            eth(NIC, 0x86dd, &ipv6(PEER6, NODE6, 58, &advertises)),
            PASS,
        ),
        (
            "a router's",
            eth(
                group,
                0x86dd,
                &ipv6(PEER6, "ff02::1", 58, &icmp(134, 0, &[0; 8])),
            ),
            PASS,
        ),
        (
            "that is cut",
            solicits(group, "ff02::1:ff00:6", NEAR6, 255)[..70].to_vec(),
            PASS,
        ),
        (
            "a pod's packet to a group",
            eth(group, 0x86dd, &ipv6(PEER6, POD6, 6, &ports(1, 2))),
            PASS,
        ),
    ]);
}

#[test]
fn frames_cut_anywhere_are_left_to_the_host_or_known_by_their_address() {
    let nic = Nic::new();
    let whole = [
        eth(NIC, 0x0800, &ipv4(PEER, NODE, 6, &ports(1, 20_000))),
        eth(NIC, 0x86dd, &ipv6(PEER6, NODE6, 17, &ports(1, OVERLAY))),
        eth(NIC, 0x0800, &ipv4(PEER, POD, 6, &ports(1, 22))),
        eth(NIC, 0x86dd, &ipv6(PEER6, POD6, 6, &ports(1, 22))),
    ];
    for frame in whole {
        let needed = match frame[12] {
            8 if frame[33] == 1 => 38,
            8 => 34,
            _ if frame[53] == 1 => 58,
            _ => 54,
        };
        for len in 14..frame.len() {
            let answer = if len < needed { PASS } else { SWITCH };
            nic.expect(&format!("{len} bytes"), &frame[..len], answer);
        }
    }
}

#[test]
fn without_a_socket_the_switchs_is_dropped_and_the_hosts_is_not() {
    let mut nic = Nic::new();
    let pods = eth(NIC, 0x0800, &ipv4(PEER, POD, 6, &ports(1, 22)));
    let hosts = eth(NIC, 0x0800, &ipv4(PEER, NODE, 6, &ports(1, 22)));
    nic.expect("the pod's", &pods, SWITCH);
    nic.steering.remove(0).unwrap();
    nic.all(&[
        ("the pod's", pods.clone(), DROP),
        ("the host's", hosts.clone(), PASS),
    ]);
    let counters = nic.steering.counters().unwrap();
    assert_eq!(
        (counters.redirected, counters.missed, counters.passed),
        (1, 1, 1)
    );
    // A successor counts on.
    let mut next = nic.bed.loader.nic_steering(1, None).unwrap();
    assert_eq!(
        bpf::answer(next.fd(), &pods).unwrap(),
        PASS,
        "it knows nothing yet"
    );
    next.count_on(&nic.steering).unwrap();
    assert_eq!(next.counters().unwrap(), counters);
    // What is taken back is the host's again.
    assert!(nic.steering.remove_address(ip(POD)).unwrap());
    assert!(!nic.steering.remove_address(ip(POD)).unwrap());
    nic.expect("no longer a pod's", &pods, PASS);
    nic.steering.set_reserved(&[]).unwrap();
    nic.steering.set_overlay_ports(&[]).unwrap();
    for port in [0, OVERLAY, 20_000] {
        let frame = eth(NIC, 0x0800, &ipv4(PEER, NODE, 17, &ports(1, port)));
        nic.expect("no port is the switch's", &frame, PASS);
    }
}

#[test]
fn settings_that_make_no_sense_are_refused_and_change_nothing() {
    let mut nic = Nic::new();
    let steering = &mut nic.steering;
    let refused = [
        ("4095", steering.set_vlan(Some(4095))),
        ("VLAN 0", steering.set_vlan(Some(0))),
        ("[0]", steering.set_overlay_ports(&[0])),
        (
            "[1, 2, 3, 4, 5]",
            steering.set_overlay_ports(&[1, 2, 3, 4, 5]),
        ),
        ("0..=9", steering.set_reserved(&[0..=9])),
        #[allow(clippy::reversed_empty_ranges, reason = "that is what is refused")]
        ("9..=8", steering.set_reserved(&[9..=8])),
        ("8 ranges", steering.set_reserved(&vec![1..=1; 9])),
    ];
    for (named, result) in refused {
        let error = result.expect_err(named).to_string();
        assert!(error.contains(named), "{error}");
    }
    nic.expect(
        "as before",
        &eth(NIC, 0x0800, &ipv4(PEER, NODE, 6, &ports(1, 20_000))),
        SWITCH,
    );
}

#[test]
fn on_a_device_the_host_hears_what_is_not_the_switchs_and_tags_are_put_back() {
    let mut bed = Bed::new(Mode::Native, 1500, 1);
    let host = xdp_bed::RawSocket::open(bed.node.netns(), "pod0");
    let mut steering = {
        let _guard = bed.node.netns().enter().unwrap();
        bed.loader
            .nic_steering(1, Some(bed.pods[0].ifindex))
            .unwrap()
    };
    set_up(&mut steering);
    let mut a = bed.attach(0);
    steering.insert(0, a.port.socket()).unwrap();
    xdp::install(&mut bed.links, "pod0", steering.fd(), Mode::Native).unwrap();
    let pods = eth(NIC, 0x0800, &ipv4(PEER, POD, 6, &ports(1, 22)));
    let hosts = eth(NIC, 0x0800, &ipv4(PEER, NODE, 6, &ports(1, 22)));
    bed.pods[0].raw.send(&hosts);
    bed.pods[0].raw.send(&pods);
    assert_eq!(host.receive(), hosts);
    let frames = a.receive(&mut bed.pool, 1);
    assert_eq!(bytes(&frames[0]), pods);
    frames.into_iter().for_each(|f| bed.pool.free(f));
    assert!(host.try_receive().is_none(), "the pod's is not the host's");
    // A tag that travels beside the frame.
    let mut inside = bed.pods[0].netns.socket().unwrap();
    tc::push_tag(&mut inside, "eth0", 7).unwrap();
    bed.pods[0].raw.send(&pods);
    eventually("of another VLAN is the host's", || {
        host.try_receive().is_some()
    });
    steering.set_vlan(Some(7)).unwrap();
    bed.pods[0].raw.send(&pods);
    let frames = a.receive(&mut bed.pool, 1);
    assert_eq!(
        bytes(&frames[0]),
        [&pods[..12], &[0x81, 0, 0, 7], &pods[12..]].concat()
    );
    frames.into_iter().for_each(|f| bed.pool.free(f));
    let id = steering.id().unwrap();
    assert_eq!(bpf::info(id).unwrap().name, NIC_STEERING_NAME);
    let error = Steering::open(id).err().unwrap().to_string();
    assert!(error.contains(NIC_STEERING_NAME), "{error}");
    let found = NicSteering::open(id).unwrap();
    assert_eq!(found.counters().unwrap(), steering.counters().unwrap());
    bed.close(a);
    bed.assert_all_free();
}
