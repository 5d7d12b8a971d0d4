// SPDX-License-Identifier: Apache-2.0
//! The parser against etherparse: frames that it builds, and what it reads from ours.

use etherparse::{
    Icmpv4Type, Icmpv6Type, IpAuthHeader, IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions,
    Ipv4Header, Ipv4Options, Ipv6Extensions, Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader,
    Ipv6RoutingExtensions, NetSlice, PacketBuilder, SingleVlanHeader, SlicedPacket, TcpHeader,
    TransportSlice, VlanHeader, VlanId, icmpv4, icmpv6,
};
use proptest::option;
use proptest::prelude::*;

use super::frames::{DST, SRC};
use crate::wire::flow_key::map_v4;
use crate::wire::{Fragment, Kind, Parsed, parse, protocol};

/// Unicast addresses that any packet may have.
fn v4_address() -> impl Strategy<Value = [u8; 4]> {
    (prop_oneof![1u8..127, 128u8..224], any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| [a, b, c, d])
}

fn v6_address() -> impl Strategy<Value = [u8; 16]> {
    (0x20u8..0xff, any::<[u8; 15]>()).prop_map(|(first, rest)| {
        let mut a = [first; 16];
        a[1..].copy_from_slice(&rest);
        a
    })
}

/// Options of 0 to 40 bytes: padding, record route, timestamp.
fn v4_options() -> impl Strategy<Value = Ipv4Options> {
    let option = prop_oneof![
        Just(vec![1]),
        (3u8..12).prop_map(|n| {
            let mut o = vec![0; n as usize];
            o[..3].copy_from_slice(&[7, n, 4]);
            o
        }),
        Just(vec![68, 4, 5, 0]),
    ];
    prop::collection::vec(option, 0..6).prop_map(|options| {
        let mut bytes = options.concat();
        bytes.truncate(40);
        if bytes.len() == 40 {
            bytes.fill(1);
        }
        bytes.resize(bytes.len().div_ceil(4) * 4, 0);
        Ipv4Options::try_from(&bytes[..]).unwrap()
    })
}

fn v4_headers() -> impl Strategy<Value = IpHeaders> {
    (
        v4_address(),
        v4_address(),
        v4_options(),
        any::<(u8, u16, bool)>(),
    )
        .prop_map(|(source, destination, options, (ttl, id, df))| {
            let mut header = Ipv4Header::new(0, ttl, IpNumber::UDP, source, destination).unwrap();
            header.options = options;
            header.identification = id;
            header.dont_fragment = df;
            IpHeaders::Ipv4(header, Ipv4Extensions::default())
        })
}

fn raw_extension() -> impl Strategy<Value = Ipv6RawExtHeader> {
    (0usize..6).prop_map(|units| {
        Ipv6RawExtHeader::new_raw(IpNumber::UDP, &vec![0; 6 + 8 * units]).unwrap()
    })
}

fn routing() -> impl Strategy<Value = Ipv6RoutingExtensions> {
    (
        1u8..=255,
        any::<u8>(),
        0usize..4,
        option::of(raw_extension()),
    )
        .prop_map(|(kind, left, units, last)| {
            let mut payload = vec![0; 6 + 8 * units];
            payload[..2].copy_from_slice(&[kind, left]);
            let routing = Ipv6RawExtHeader::new_raw(IpNumber::UDP, &payload).unwrap();
            Ipv6RoutingExtensions {
                routing,
                final_destination_options: last,
            }
        })
}

fn extensions() -> impl Strategy<Value = Ipv6Extensions> {
    let authentication =
        (0usize..5).prop_map(|w| IpAuthHeader::new(IpNumber::UDP, 1, 2, &vec![0; 4 * w]).unwrap());
    (
        option::of(raw_extension()),
        option::of(raw_extension()),
        option::of(routing()),
        option::of(any::<u32>()),
        option::of(authentication),
    )
        .prop_map(
            |(hop_by_hop_options, destination_options, routing, id, auth)| Ipv6Extensions {
                hop_by_hop_options,
                destination_options,
                routing,
                // Atomic, so that the transport header is there and etherparse reads it.
                fragment: id.map(|id| {
                    Ipv6FragmentHeader::new(IpNumber::UDP, IpFragOffset::ZERO, false, id)
                }),
                auth,
            },
        )
}

fn v6_headers() -> impl Strategy<Value = IpHeaders> {
    (v6_address(), v6_address(), any::<(u8, u8)>(), extensions()).prop_map(
        |(source, destination, (hop_limit, traffic_class), extensions)| {
            let header = Ipv6Header {
                source,
                destination,
                hop_limit,
                traffic_class,
                ..Ipv6Header::default()
            };
            IpHeaders::Ipv6(header, extensions)
        },
    )
}

/// What follows IP.
#[derive(Clone, Debug)]
enum Upper {
    Tcp {
        sport: u16,
        dport: u16,
        flags: u8,
        options: usize,
    },
    Udp {
        sport: u16,
        dport: u16,
    },
    Echo {
        id: u16,
        reply: bool,
    },
}

fn upper() -> impl Strategy<Value = Upper> {
    prop_oneof![
        any::<(u16, u16, u8)>().prop_flat_map(|(sport, dport, flags)| {
            (0usize..11).prop_map(move |options| Upper::Tcp {
                sport,
                dport,
                flags,
                options: options * 4,
            })
        }),
        any::<(u16, u16)>().prop_map(|(sport, dport)| Upper::Udp { sport, dport }),
        any::<(u16, bool)>().prop_map(|(id, reply)| Upper::Echo { id, reply }),
    ]
}

fn vlan() -> impl Strategy<Value = Option<VlanHeader>> {
    let tag = || {
        (any::<u16>(), 0u8..8).prop_map(|(id, _)| SingleVlanHeader {
            vlan_id: VlanId::try_new(id & 0xfff).unwrap(),
            ..SingleVlanHeader::default()
        })
    };
    prop_oneof![
        Just(None),
        tag().prop_map(|t| Some(VlanHeader::Single(t))),
        (tag(), tag()).prop_map(|(outer, inner)| {
            Some(VlanHeader::Double(etherparse::DoubleVlanHeader {
                outer,
                inner,
            }))
        }),
    ]
}

fn tcp_header(sport: u16, dport: u16, flags: u8, options: usize) -> TcpHeader {
    let mut h = TcpHeader::new(sport, dport, 1, 2);
    h.set_options_raw(&vec![1; options]).unwrap();
    let bit = |n: u8| flags & 1 << n != 0;
    (h.fin, h.syn, h.rst, h.psh) = (bit(0), bit(1), bit(2), bit(3));
    (h.ack, h.urg, h.ece, h.cwr) = (bit(4), bit(5), bit(6), bit(7));
    h
}

fn build(vlan: Option<VlanHeader>, ip: IpHeaders, upper: &Upper, data: &[u8]) -> Vec<u8> {
    let is_v4 = matches!(ip, IpHeaders::Ipv4(..));
    let link = PacketBuilder::ethernet2(SRC.0, DST.0);
    let net = match vlan {
        Some(vlan) => link.vlan(vlan).ip(ip),
        None => link.ip(ip),
    };
    let mut out = Vec::new();
    match *upper {
        Upper::Tcp {
            sport,
            dport,
            flags,
            options,
        } => net
            .tcp_header(tcp_header(sport, dport, flags, options))
            .write(&mut out, data),
        Upper::Udp { sport, dport } => net.udp(sport, dport).write(&mut out, data),
        Upper::Echo { id, reply } if is_v4 => {
            let echo = etherparse::IcmpEchoHeader { id, seq: 1 };
            let kind = if reply {
                Icmpv4Type::EchoReply(echo)
            } else {
                Icmpv4Type::EchoRequest(echo)
            };
            net.icmpv4(kind).write(&mut out, data)
        }
        Upper::Echo { id, reply } => {
            let echo = etherparse::IcmpEchoHeader { id, seq: 1 };
            let kind = if reply {
                Icmpv6Type::EchoReply(echo)
            } else {
                Icmpv6Type::EchoRequest(echo)
            };
            net.icmpv6(kind).write(&mut out, data)
        }
    }
    .unwrap();
    out
}

/// Holds what we read to what etherparse reads from the same frame.
fn compare(frame: &[u8], p: &Parsed) {
    let sliced = match SlicedPacket::from_ethernet(frame) {
        Err(error) => panic!("etherparse refuses what we read: {error} in {p:?} of {frame:02x?}"),
        Ok(sliced) => sliced,
    };
    assert_eq!(p.vlan.count as usize, sliced.vlan_ids().len());
    let tags = [p.vlan.outer_tci & 0xfff, p.vlan.inner_tci & 0xfff];
    for (ours, theirs) in tags.iter().zip(sliced.vlan_ids()) {
        assert_eq!(*ours, theirs.value());
    }
    let (payload, fragmented) = match sliced.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let h = ip.header();
            assert_eq!(p.kind, Kind::Ipv4);
            assert_eq!(
                (p.key.src, p.key.dst),
                (map_v4(h.source()), map_v4(h.destination()))
            );
            assert_eq!((p.ttl, p.dont_fragment), (h.ttl(), h.dont_fragment()));
            assert_eq!(p.fragment_id, h.identification() as u32);
            assert_eq!(
                p.fragment_offset as u32,
                h.fragments_offset().value() as u32 * 8
            );
            assert_eq!(p.l3_len, h.total_len() as u32);
            (ip.payload(), ip.is_payload_fragmented())
        }
        NetSlice::Ipv6(ip) => {
            let h = ip.header();
            assert_eq!(p.kind, Kind::Ipv6);
            assert_eq!((p.key.src, p.key.dst), (h.source(), h.destination()));
            assert_eq!((p.ttl, p.tos), (h.hop_limit(), h.traffic_class()));
            assert_eq!(p.l3_len, 40 + h.payload_length() as u32);
            (ip.payload(), ip.is_payload_fragmented())
        }
        NetSlice::Arp(_) => panic!("no ARP here"),
    };
    assert_eq!(p.fragment != Fragment::NotFragment, fragmented);
    assert_eq!(p.protocol, payload.ip_number.0);
    assert_eq!(p.l4_len() as usize, payload.payload.len());
    assert_eq!(
        &frame[p.l4 as usize..p.frame_len() as usize],
        payload.payload
    );
    if let Some(transport) = sliced.transport {
        compare_transport(p, &transport);
    }
}

fn compare_transport(p: &Parsed, transport: &TransportSlice<'_>) {
    let key = (p.key.sport, p.key.dport);
    match transport {
        TransportSlice::Tcp(t) => {
            assert_eq!(key, (t.source_port(), t.destination_port()));
            assert_eq!(p.tcp_flags, t.slice()[13]);
        }
        TransportSlice::Udp(u) => assert_eq!(key, (u.source_port(), u.destination_port())),
        TransportSlice::Icmpv4(i) => {
            assert_eq!((p.icmp_type, p.icmp_code), (i.type_u8(), i.code_u8()));
            match i.icmp_type() {
                Icmpv4Type::EchoRequest(e) => assert_eq!(key, (e.id, 0)),
                Icmpv4Type::EchoReply(e) => assert_eq!(key, (0, e.id)),
                _ if i.type_u8() == icmpv4::TYPE_ECHO_REQUEST
                    || i.type_u8() == icmpv4::TYPE_ECHO_REPLY => {}
                _ => assert_eq!(key, (0, 0)),
            }
        }
        TransportSlice::Icmpv6(i) => {
            assert_eq!((p.icmp_type, p.icmp_code), (i.type_u8(), i.code_u8()));
            match i.icmp_type() {
                Icmpv6Type::EchoRequest(e) => assert_eq!(key, (e.id, 0)),
                Icmpv6Type::EchoReply(e) => assert_eq!(key, (0, e.id)),
                _ if i.type_u8() == icmpv6::TYPE_ECHO_REQUEST
                    || i.type_u8() == icmpv6::TYPE_ECHO_REPLY => {}
                _ => assert_eq!(key, (0, 0)),
            }
        }
        TransportSlice::Igmp(_) => panic!("not comparable"),
    }
}

/// Whether etherparse means the same: it reads authentication headers in IPv4, IGMP, the ICMP of the other version and the
/// middle of an IPv6 packet when the fragment header names an extension header, and wants timestamps of one length.
fn is_comparable(p: &Parsed) -> bool {
    const IGMP: u8 = 2;
    match (p.kind, p.protocol) {
        (Kind::Arp | Kind::Other, _) | (_, IGMP) => false,
        (Kind::Ipv4, protocol::AH | protocol::ICMPV6) => false,
        (Kind::Ipv4, protocol::ICMP) => !matches!(p.icmp_type, 13 | 14),
        (Kind::Ipv4, _) => true,
        (Kind::Ipv6, protocol) => protocol != protocol::ICMP && p.fragment != Fragment::Later,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn frames_of_etherparse_are_read_alike(
        vlan in vlan(),
        ip in prop_oneof![v4_headers(), v6_headers()],
        upper in upper(),
        data in prop::collection::vec(any::<u8>(), 0..200),
        padding in 0usize..40,
    ) {
        let mut frame = build(vlan, ip, &upper, &data);
        let len = frame.len();
        frame.resize(len + padding, 0);
        let p = match parse(&frame, frame.len() as u32, true) {
            Err(reason) => panic!("{reason} for {frame:02x?}"),
            Ok(p) => p,
        };
        prop_assert_eq!(p.frame_len() as usize, len);
        prop_assert!(p.fragment == Fragment::NotFragment);
        compare(&frame, &p);
        match upper {
            Upper::Tcp { flags, .. } => prop_assert_eq!(p.tcp_flags, flags),
            Upper::Echo { id, reply: true } => prop_assert_eq!(p.key.dport, id),
            Upper::Echo { id, reply: false } => prop_assert_eq!(p.key.sport, id),
            Upper::Udp { .. } => {}
        }
        // Our checksums agree with theirs: theirs is complete, so it is not partial but by chance.
        let cut = parse(&frame[..len - 1], (len - 1) as u32, true);
        prop_assert!(cut.is_err());
    }

    /// Frames bent after they were built: what we accept, etherparse must read the same way.
    #[test]
    fn bent_frames_are_read_alike_or_refused(
        vlan in vlan(),
        ip in prop_oneof![v4_headers(), v6_headers()],
        upper in upper(),
        data in prop::collection::vec(any::<u8>(), 0..40),
        bends in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut frame = build(vlan, ip, &upper, &data);
        for (at, value) in bends {
            let at = at.index(frame.len());
            frame[at] = value;
        }
        match parse(&frame, frame.len() as u32, true) {
            Ok(p) if is_comparable(&p) => compare(&frame, &p),
            _ => {}
        }
    }
}
