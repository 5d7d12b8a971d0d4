// SPDX-License-Identifier: Apache-2.0
use super::*;

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn request(to: Option<[u8; 6]>) -> Message {
    Message::Request {
        target: v4("10.0.0.2"),
        from: v4("10.0.0.1"),
        to,
    }
}

/// An ARP message from the peer.
fn arp_from_peer(operation: u16, to: [u8; 6], mac: [u8; 6], ip: &str) -> Vec<u8> {
    let packet = ArpEthIpv4Packet {
        operation: ArpOperation(operation),
        sender_mac: mac,
        sender_ipv4: v4(ip).octets(),
        target_mac: OWN,
        target_ipv4: [10, 0, 0, 1],
    };
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(PEER, to)
        .arp(packet.into())
        .write(&mut frame)
        .unwrap();
    frame
}

/// An advertisement from the peer, with these flags, options and hop limit.
fn advertisement_of(flags: u8, to: &str, options: &[u8], hop_limit: u8) -> Vec<u8> {
    let payload = [&v6("fd00::2").octets()[..], options].concat();
    let kind = Icmpv6Type::NeighborAdvertisement(NeighborAdvertisementHeader::from_bytes([
        flags, 0, 0, 0,
    ]));
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(PEER, OWN)
        .ipv6(v6("fd00::2").octets(), v6(to).octets(), hop_limit)
        .icmpv6(kind)
        .write(&mut frame, &payload)
        .unwrap();
    frame
}

const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const TARGET_OPTION: [u8; 8] = [2, 1, 2, 0, 0, 0, 0, 2];

#[test]
fn a_request_is_as_rfc_826_draws_it() {
    let expected = [
        &[0xff; 6][..],
        &OWN,
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
        &OWN,
        &[10, 0, 0, 1],
        &[0; 6],
        &[10, 0, 0, 2],
    ]
    .concat();
    assert_eq!(request(None).frame(OWN), expected);
    assert_eq!(request(Some(PEER)).frame(OWN)[..6], PEER);
}

#[test]
fn a_solicitation_goes_to_the_group_or_to_one() {
    let message = |to| Message::Solicitation {
        target: v6("fd00::1:2345"),
        from: v6("fd00::9"),
        to,
    };
    let frame = message(None).frame(OWN);
    assert_eq!(frame[..6], [0x33, 0x33, 0xff, 1, 0x23, 0x45]);
    assert_eq!(frame[38..54], v6("ff02::1:ff01:2345").octets());
    assert_eq!((frame[21], frame[54]), (255, 135));
    assert_eq!(frame[78..], [1, 1, 2, 0, 0, 0, 0, 1]);
    let frame = message(Some(PEER)).frame(OWN);
    assert_eq!(frame[..6], PEER);
    assert_eq!(frame[38..54], v6("fd00::1:2345").octets());
}

#[test]
fn an_announcement_overrides_and_is_heard_by_others() {
    for address in ["10.0.0.9", "fd00::9"] {
        let address = address.parse().unwrap();
        let frame = Message::Announcement { address }.frame(PEER);
        let heard = Heard {
            address,
            mac: Some(PEER),
            answer: false,
            overrides: true,
        };
        assert_eq!(parse(&frame, OWN), Some(heard));
        assert_eq!(parse(&frame, PEER), None, "our own words");
    }
}

#[test]
fn who_asks_says_where_it_is() {
    let heard = |address: IpAddr| Heard {
        address,
        mac: Some(PEER),
        answer: false,
        overrides: true,
    };
    let frame = request(Some(OWN)).frame(PEER);
    assert_eq!(parse(&frame, OWN), Some(heard("10.0.0.1".parse().unwrap())));
    let message = Message::Solicitation {
        target: v6("fd00::1"),
        from: v6("fd00::2"),
        to: None,
    };
    let frame = message.frame(PEER);
    assert_eq!(parse(&frame, OWN), Some(heard("fd00::2".parse().unwrap())));
}

#[test]
fn probes_for_an_address_say_nothing() {
    let probe = Message::Request {
        target: v4("10.0.0.2"),
        from: Ipv4Addr::UNSPECIFIED,
        to: None,
    };
    assert_eq!(parse(&probe.frame(PEER), OWN), None);
    let probe = Message::Solicitation {
        target: v6("fd00::2"),
        from: Ipv6Addr::UNSPECIFIED,
        to: None,
    };
    assert_eq!(parse(&probe.frame(PEER), OWN), None);
}

#[test]
fn arp_replies() {
    let heard = |answer| {
        Some(Heard {
            address: v4("10.0.0.2").into(),
            mac: Some(PEER),
            answer,
            overrides: true,
        })
    };
    let reply = |to| arp_from_peer(2, to, PEER, "10.0.0.2");
    assert_eq!(parse(&reply(OWN), OWN), heard(true));
    assert_eq!(parse(&reply(BROADCAST), OWN), heard(false));
    assert_eq!(parse(&reply([2, 0, 0, 0, 0, 7]), OWN), None, "for another");
    for operation in [0, 3, 8] {
        let frame = arp_from_peer(operation, OWN, PEER, "10.0.0.2");
        assert_eq!(parse(&frame, OWN), None, "operation {operation}");
    }
    for mac in [[0; 6], BROADCAST, [1, 0, 0x5e, 0, 0, 1], OWN] {
        let frame = arp_from_peer(2, OWN, mac, "10.0.0.2");
        assert_eq!(parse(&frame, OWN), None, "{mac:?}");
    }
    for ip in ["0.0.0.0", "255.255.255.255", "224.0.0.1", "127.0.0.1"] {
        let frame = arp_from_peer(2, OWN, PEER, ip);
        assert_eq!(parse(&frame, OWN), None, "{ip}");
    }
}

#[test]
fn arp_of_other_layers_is_not_believed() {
    let right = arp_from_peer(2, OWN, PEER, "10.0.0.2");
    assert!(parse(&right, OWN).is_some());
    // Hardware type, protocol type, their lengths.
    for (at, value) in [(15, 6), (16, 0x86), (18, 8), (19, 16)] {
        let mut wrong = right.clone();
        wrong[at] = value;
        assert_eq!(parse(&wrong, OWN), None, "byte {at}");
    }
}

#[test]
fn advertisements() {
    let heard = |mac, answer, overrides| {
        Some(Heard {
            address: v6("fd00::2").into(),
            mac,
            answer,
            overrides,
        })
    };
    let read = |flags, to, options: &[u8]| parse(&advertisement_of(flags, to, options, 255), OWN);
    let both = SOLICITED | OVERRIDE;
    assert_eq!(
        read(both, "fd00::1", &TARGET_OPTION),
        heard(Some(PEER), true, true)
    );
    assert_eq!(
        read(SOLICITED, "fd00::1", &TARGET_OPTION),
        heard(Some(PEER), true, false)
    );
    assert_eq!(
        read(SOLICITED, "fd00::1", &[]),
        heard(None, true, false),
        "the option may be left out"
    );
    assert_eq!(
        read(OVERRIDE, "ff02::1", &TARGET_OPTION),
        heard(Some(PEER), false, true)
    );
    assert_eq!(
        read(both, "ff02::1", &TARGET_OPTION),
        None,
        "nobody answers a question to a group"
    );
    let with_nonce = [&[14, 1, 1, 2, 3, 4, 5, 6], &TARGET_OPTION[..]].concat();
    assert_eq!(
        read(both, "fd00::1", &with_nonce),
        heard(Some(PEER), true, true)
    );
}

#[test]
fn advertisements_that_are_not_valid() {
    let right = advertisement_of(SOLICITED, "fd00::1", &TARGET_OPTION, 255);
    assert!(parse(&right, OWN).is_some());
    let forwarded = advertisement_of(SOLICITED, "fd00::1", &TARGET_OPTION, 254);
    assert_eq!(parse(&forwarded, OWN), None, "a router forwarded it");
    let empty_option = [2, 0, 2, 0, 0, 0, 0, 2];
    let endless = advertisement_of(SOLICITED, "fd00::1", &empty_option, 255);
    assert_eq!(parse(&endless, OWN), None, "an option of length 0");
    let of_group = [2, 1, 0x33, 0x33, 0, 0, 0, 2];
    let of_group = advertisement_of(SOLICITED, "fd00::1", &of_group, 255);
    assert_eq!(parse(&of_group, OWN), None, "a group's Ethernet address");
    // The checksum covers everything from the addresses on but the hop limit.
    for at in 22..right.len() {
        let mut wrong = right.clone();
        wrong[at] ^= 0x10;
        assert_eq!(parse(&wrong, OWN), None, "byte {at}");
    }
}

#[test]
fn cut_frames_say_nothing() {
    for frame in [
        arp_from_peer(2, OWN, PEER, "10.0.0.2"),
        advertisement_of(SOLICITED, "fd00::1", &TARGET_OPTION, 255),
    ] {
        for length in 0..frame.len() {
            assert_eq!(parse(&frame[..length], OWN), None, "{length} bytes");
        }
        let padded = [&frame[..], &[0; 18]].concat();
        assert_eq!(
            parse(&padded, OWN),
            parse(&frame, OWN),
            "padding is no part"
        );
    }
}
