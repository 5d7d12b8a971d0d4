// SPDX-License-Identifier: Apache-2.0
//! What the switch answers itself: ARP, neighbor discovery, ICMP errors; and what it must never answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use podswitch_tests::frames::{
    BROADCAST, Ends, arp, icmpv6_checksum, internet_checksum, neighbor_solicitation,
};
use podswitch_tests::raw::RawSocket;
use podswitch_tests::traffic::{Echo, ping, ping_once, tcp_connect, tcp_echo};
use podswitch_tests::{HUNG, Node, NodeConfig, Pod};

/// Long enough for an answer that is to come, short enough to wait for one that is not.
const QUIET: Duration = Duration::from_millis(700);

fn v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => panic!("{address} is no IPv4 address"),
    }
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V6(address) => address,
        IpAddr::V4(_) => panic!("{address} is no IPv6 address"),
    }
}

/// The pod's gateways, IPv4 and IPv6, from its default routes.
#[track_caller]
fn gateways(pod: &Pod) -> (Ipv4Addr, Ipv6Addr) {
    let gateway = |family: &str| -> IpAddr {
        let routes = pod.netns.ip_json(&format!("{family} route show default"));
        routes[0]["gateway"]
            .as_str()
            .expect("a gateway")
            .parse()
            .expect("an address")
    };
    (v4(gateway("-4")), v6(gateway("-6")))
}

/// The MAC address that answers an ARP request of the pod for `target`, if one does.
fn ask_arp(raw: &RawSocket, pod: &Pod, sender: Ipv4Addr, target: Ipv4Addr) -> Option<[u8; 6]> {
    raw.clear();
    raw.send(&arp(
        (pod.mac(), BROADCAST),
        1,
        (pod.mac(), sender),
        ([0; 6], target),
    ));
    let reply = raw.receive(QUIET, |f| {
        f.len() >= 42 && f[12..14] == [8, 6] && f[20..22] == [0, 2]
    })?;
    assert_eq!(reply[..6], pod.mac(), "the answer goes to who asked");
    assert_eq!(
        reply[28..32],
        target.octets(),
        "the answer is about what was asked"
    );
    assert_eq!(reply[6..12], reply[22..28], "sender of frame and of answer");
    Some(reply[6..12].try_into().expect("six bytes"))
}

/// The MAC address in the advertisement that answers a solicitation, if one does (RFC 4861 section 4.4).
fn ask_nd(raw: &RawSocket, pod: &Pod, from: Ipv6Addr, target: Ipv6Addr) -> Option<[u8; 6]> {
    raw.clear();
    raw.send(&neighbor_solicitation(pod.mac(), from, target));
    let advertisement =
        |f: &[u8]| f.len() >= 86 && f[12..14] == [0x86, 0xdd] && f[20] == 58 && f[54] == 136;
    let reply = raw.receive(QUIET, |f| advertisement(f) && f[62..78] == target.octets())?;
    assert_eq!(reply[21], 255, "hop limit");
    let (source, destination) = (address6(&reply[22..38]), address6(&reply[38..54]));
    assert_eq!(
        icmpv6_checksum(source, destination, &reply[54..]),
        0,
        "checksum"
    );
    assert_eq!(reply[58] & 0x40, 0x40, "solicited");
    assert_eq!(reply[78..80], [2, 1], "target link-layer address option");
    Some(reply[80..86].try_into().expect("six bytes"))
}

fn address6(bytes: &[u8]) -> Ipv6Addr {
    let octets: [u8; 16] = bytes.try_into().expect("sixteen bytes");
    octets.into()
}

#[test]
fn arp_is_answered_for_the_gateway_and_for_pods() {
    let node = Node::new(NodeConfig::default());
    let (a, b) = (node.pod(), node.pod());
    let raw = RawSocket::open(&a.netns, "eth0");
    let own = v4(a.v4());
    let gateway = ask_arp(&raw, &a, own, gateways(&a).0).expect("an answer for the gateway");
    assert_eq!(gateway[0] & 3, 2, "a locally administered unicast address");
    let neighbor = ask_arp(&raw, &a, own, v4(b.v4())).expect("an answer for another pod");
    assert_eq!(neighbor, gateway, "other pods are behind the gateway");
    let raw_b = RawSocket::open(&b.netns, "eth0");
    assert_eq!(
        ask_arp(&raw_b, &b, v4(b.v4()), gateways(&b).0),
        Some(gateway),
        "one gateway address for all"
    );
}

#[test]
fn duplicate_address_detection_is_never_answered() {
    let node = Node::new(NodeConfig::default());
    let (a, b) = (node.pod(), node.pod());
    let raw = RawSocket::open(&a.netns, "eth0");
    // ARP probes (RFC 5227 section 2.1.1), then the announcement of the own address (section 2.3).
    for target in [a.v4(), b.v4()] {
        assert_eq!(
            ask_arp(&raw, &a, Ipv4Addr::UNSPECIFIED, v4(target)),
            None,
            "a probe for {target}"
        );
    }
    assert_eq!(
        ask_arp(&raw, &a, v4(a.v4()), v4(a.v4())),
        None,
        "an announcement"
    );
    // RFC 4862 section 5.4.
    for target in [a.v6(), b.v6()] {
        assert_eq!(
            ask_nd(&raw, &a, Ipv6Addr::UNSPECIFIED, v6(target)),
            None,
            "a detection for {target}"
        );
    }
    assert_eq!(
        ask_nd(&raw, &a, v6(a.v6()), v6(a.v6())),
        None,
        "a solicitation for the own address"
    );
}

#[test]
fn a_pod_may_detect_duplicates_of_the_address_it_has() {
    let node = Node::new(NodeConfig::default());
    let pod = node.pod();
    pod.netns
        .ip(&format!("-6 address delete {}/128 dev eth0", pod.v6()));
    podswitch_tests::kernel::set_sysctl(&pod.netns, "net/ipv6/conf/eth0/dad_transmits", "1");
    pod.netns
        .ip(&format!("-6 address add {}/128 dev eth0", pod.v6()));
    podswitch_tests::eventually("the detection ends", HUNG, || {
        let shown = pod
            .netns
            .ip(&format!("-6 address show dev eth0 to {}", pod.v6()));
        assert!(!shown.contains("dadfailed"), "{shown}");
        (!shown.contains("tentative")).then_some(())
    });
}

#[test]
fn neighbor_solicitations_are_answered_for_the_gateway_and_for_pods() {
    let node = Node::new(NodeConfig::default());
    let (a, b) = (node.pod(), node.pod());
    let raw = RawSocket::open(&a.netns, "eth0");
    let own = v6(a.v6());
    let gateway = ask_nd(&raw, &a, own, gateways(&a).1).expect("an answer for the gateway");
    assert_eq!(
        ask_nd(&raw, &a, own, v6(b.v6())),
        Some(gateway),
        "other pods are behind the gateway"
    );
    assert_eq!(
        ask_arp(&raw, &a, v4(a.v4()), gateways(&a).0),
        Some(gateway),
        "one address for both families"
    );
}

/// Ends of a packet from a pod through its gateway.
fn through_gateway(raw: &RawSocket, pod: &Pod, to: IpAddr) -> Ends {
    let gateway =
        ask_arp(raw, pod, v4(pod.v4()), gateways(pod).0).expect("the gateway's MAC address");
    let from = if to.is_ipv4() { pod.v4() } else { pod.v6() };
    Ends {
        source_mac: pod.mac(),
        destination_mac: gateway,
        from,
        to,
    }
}

/// An ICMP error that comes back: type, code, the four bytes behind the checksum, the quoted packet.
struct IcmpError {
    kind: u8,
    code: u8,
    rest: u32,
    quoted: Vec<u8>,
}

/// The ICMP or ICMPv6 error to the pod that comes within a while; its checksums must be right.
fn icmp_error(raw: &RawSocket, pod: &Pod) -> Option<IcmpError> {
    let is_error4 = |f: &[u8]| f[12..14] == [8, 0] && f[23] == 1 && [3, 11, 12].contains(&f[34]);
    let is_error6 =
        |f: &[u8]| f[12..14] == [0x86, 0xdd] && f[20] == 58 && f.len() > 62 && f[54] < 128;
    let frame = raw.receive(QUIET, |f| {
        f.len() > 42 && f[..6] == pod.mac() && (is_error4(f) || is_error6(f))
    })?;
    let message = if frame[12] == 8 {
        let length = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
        assert_eq!(internet_checksum(&frame[14..34]), 0, "IPv4 header checksum");
        assert_eq!(
            internet_checksum(&frame[34..14 + length]),
            0,
            "ICMP checksum"
        );
        assert!(length <= 576, "RFC 1812 section 4.3.2.3");
        &frame[34..14 + length]
    } else {
        let length = usize::from(u16::from_be_bytes([frame[18], frame[19]]));
        let message = &frame[54..54 + length];
        assert_eq!(
            icmpv6_checksum(address6(&frame[22..38]), address6(&frame[38..54]), message),
            0,
            "checksum"
        );
        assert!(length + 40 <= 1280, "RFC 4443 section 2.4 (c)");
        message
    };
    let rest = u32::from_be_bytes([message[4], message[5], message[6], message[7]]);
    Some(IcmpError {
        kind: message[0],
        code: message[1],
        rest,
        quoted: message[8..].to_vec(),
    })
}

#[test]
fn a_hop_limit_that_runs_out_is_answered() {
    let node = Node::new(NodeConfig::default());
    let (a, b) = (node.pod(), node.pod());
    let raw = RawSocket::open(&a.netns, "eth0");
    let at_b = RawSocket::open(&b.netns, "eth0");
    for (to, kind) in [(b.v4(), 11), (b.v6(), 3)] {
        let ends = through_gateway(&raw, &a, to);
        let sent = ends.udp((4000, 4000), 1, b"hop");
        raw.send(&sent);
        let error = icmp_error(&raw, &a).unwrap_or_else(|| panic!("no time exceeded for {to}"));
        assert_eq!((error.kind, error.code), (kind, 0));
        assert_eq!(
            error.quoted[..20],
            sent[14..34],
            "the packet as it was sent"
        );
        assert!(
            at_b.receive(QUIET, |f| f.ends_with(b"hop")).is_none(),
            "it must not arrive"
        );
        raw.send(&ends.udp((4000, 4000), 2, b"hop"));
        let arrived = at_b
            .receive(HUNG, |f| f.ends_with(b"hop"))
            .expect("a hop limit of 2 is enough");
        let limit = if to.is_ipv4() {
            arrived[22]
        } else {
            arrived[21]
        };
        assert_eq!(limit, 1, "one less");
    }
}

#[test]
fn a_destination_without_a_route_is_answered() {
    let node = Node::new(NodeConfig::default());
    let a = node.pod();
    let raw = RawSocket::open(&a.netns, "eth0");
    for (to, kind, code) in [("203.0.113.9", 3, 0), ("2001:db8::9", 1, 0)] {
        raw.send(&through_gateway(&raw, &a, to.parse().unwrap()).udp((4000, 4000), 64, b"nowhere"));
        let error = icmp_error(&raw, &a).unwrap_or_else(|| panic!("no unreachable for {to}"));
        assert_eq!((error.kind, error.code), (kind, code));
    }
}

#[test]
fn errors_are_rate_limited_and_never_answer_errors() {
    let node = Node::new(NodeConfig::default());
    let a = node.pod();
    let raw = RawSocket::open(&a.netns, "eth0");
    let ends = through_gateway(&raw, &a, "203.0.113.9".parse().unwrap());
    const SENT: usize = 5000;
    let frame = ends.udp((4000, 4000), 64, b"nowhere");
    for _ in 0..SENT {
        raw.send(&frame);
    }
    let answers = std::iter::from_fn(|| icmp_error(&raw, &a))
        .take(SENT)
        .count();
    assert!(
        answers > 0 && answers < SENT / 2,
        "{answers} errors for {SENT} packets"
    );

    // RFC 1122 section 3.2.2: never about an error, a later fragment or a broadcast.
    let mut error = ends.echo_request(1, 1, 64, b"an error");
    error[34] = 3;
    error[36..38].fill(0);
    let sum = internet_checksum(&error[34..]);
    error[36..38].copy_from_slice(&sum.to_be_bytes());
    let mut fragment = frame.clone();
    fragment[20..22].copy_from_slice(&[0x00, 0x10]);
    podswitch_tests::frames::fix_ipv4_checksum(&mut fragment);
    // Let the limiter recover first: an answer must be possible.
    podswitch_tests::eventually("the limiter lets an error through again", HUNG, || {
        raw.clear();
        raw.send(&frame);
        icmp_error(&raw, &a).map(|_| ())
    });
    raw.clear();
    raw.send(&error);
    raw.send(&fragment);
    assert!(
        icmp_error(&raw, &a).is_none(),
        "an error about an error or a fragment"
    );
}

#[test]
fn a_packet_too_big_for_the_way_out_is_answered() {
    let node = Node::new(NodeConfig {
        mtu: 9000,
        ..NodeConfig::default()
    });
    let large = node.pod();
    let small = node.pod_with(|conf| conf["mtu"] = 1500.into());
    let raw = RawSocket::open(&large.netns, "eth0");
    let payload = vec![7; 4000];
    for (to, kind, code) in [(small.v4(), 3, 4), (small.v6(), 2, 0)] {
        let mut frame = through_gateway(&raw, &large, to).udp((4000, 4000), 64, &payload);
        if to.is_ipv4() {
            frame[20] = 0x40;
            podswitch_tests::frames::fix_ipv4_checksum(&mut frame);
        }
        raw.send(&frame);
        let error = icmp_error(&raw, &large).unwrap_or_else(|| panic!("no 'too big' for {to}"));
        assert_eq!((error.kind, error.code), (kind, code));
        let mtu = if to.is_ipv4() {
            error.rest & 0xffff
        } else {
            error.rest
        };
        assert_eq!(mtu, 1500, "the MTU of the way out");
    }
    // The sender's stack learns from it and goes on.
    let server = Echo::start(&small.netns, 7);
    for to in [small.v4(), small.v6()] {
        ping(&large.netns, to);
        let mut stream = tcp_connect(&large.netns, to, server.port(), HUNG).expect("a connection");
        tcp_echo(&mut stream, &vec![1; 300_000]);
        assert!(
            !ping_once(&large.netns, to, 4000, 1) || ping_once(&large.netns, to, 4000, 5),
            "{to}"
        );
    }
}
