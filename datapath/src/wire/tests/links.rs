// SPDX-License-Identifier: Apache-2.0
//! Ethernet and its tags.

use super::frames::{DST, SRC, V4, V6, eth, parse_all, tagged};
use crate::verdict::Reason;
use crate::wire::eth::{self as layout, EthernetHeader, Tag, read_tag};
use crate::wire::parse::{VlanTags, parse_link};
use crate::wire::{FlowKey, Kind, MacAddr, parse};

const C_TAG: u16 = 0x8100;
const S_TAG: u16 = 0x88a8;

#[test]
fn header_view_reads_and_writes() {
    let mut frame = eth(0x0806, &[]);
    let header = EthernetHeader::read(&frame).unwrap();
    assert_eq!(
        (header.dst, header.src, header.ethertype.get()),
        (DST, SRC, 0x0806)
    );
    EthernetHeader::read_mut(&mut frame).unwrap().src = MacAddr::BROADCAST;
    assert_eq!(frame[6..12], [0xff; 6]);
    assert!(EthernetHeader::read(&frame[..13]).is_none());
}

#[test]
fn source_address_must_be_unicast() {
    for (src, valid) in [
        (MacAddr::ZERO, false),
        (MacAddr::BROADCAST, false),
        (MacAddr([0x01, 0, 0x5e, 0, 0, 1]), false),
        (MacAddr([0x33, 0x33, 0, 0, 0, 1]), false),
        (MacAddr([0, 0, 0, 0, 0, 1]), true),
        (MacAddr([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff]), true),
    ] {
        for mut frame in [
            V4::default().frame(),
            V6::default().frame(),
            eth(0x1234, &[]),
        ] {
            frame[6..12].copy_from_slice(&src.0);
            let want = if valid {
                None
            } else {
                Some(Reason::SourceMacInvalid)
            };
            assert_eq!(parse_all(&frame).err(), want, "{src}");
        }
    }
}

#[test]
fn tags_are_read_only_where_allowed() {
    let plain = V4::default().frame();
    let tagged = tagged(&plain, &[(C_TAG, 0x6064)]);
    assert_eq!(
        parse(&tagged, tagged.len() as u32, false),
        Err(Reason::VlanNotExpected)
    );
    let parsed = parse_all(&tagged).unwrap();
    assert_eq!(parsed.vlan.vid(), Some(0x064));
    assert_eq!((parsed.vlan.count, parsed.vlan.service), (1, false));
    assert_eq!((parsed.l3, parsed.l4, parsed.ethertype), (18, 38, 0x0800));
    assert_eq!(parsed.key, parse_all(&plain).unwrap().key);
}

#[test]
fn stacked_tags() {
    let frame = tagged(&V6::default().frame(), &[(S_TAG, 0x0abc), (C_TAG, 0x2001)]);
    let parsed = parse_all(&frame).unwrap();
    let want = VlanTags {
        outer_tci: 0x0abc,
        inner_tci: 0x2001,
        count: 2,
        service: true,
    };
    assert_eq!(parsed.vlan, want);
    assert!(parsed.vlan.is_stacked() && parsed.vlan.is_tagged());
    assert_eq!((parsed.l3, parsed.kind), (22, Kind::Ipv6));

    let three = tagged(&frame, &[(C_TAG, 1)]);
    assert_eq!(parse_all(&three), Err(Reason::VlanStackTooDeep));
}

#[test]
fn a_priority_tag_has_no_vlan() {
    let frame = tagged(&V4::default().frame(), &[(C_TAG, 0xe000)]);
    let parsed = parse_all(&frame).unwrap();
    assert!(parsed.vlan.is_tagged());
    assert_eq!(parsed.vlan.vid(), None);
}

#[test]
fn tag_view() {
    let frame = tagged(&eth(0x0800, &[]), &[(S_TAG, 0xa123), (C_TAG, 0x0fff)]);
    let outer = read_tag(&frame, 12).unwrap();
    assert_eq!(
        outer,
        Tag {
            tpid: S_TAG,
            tci: 0xa123,
            ethertype: C_TAG
        }
    );
    assert_eq!((outer.vid(), outer.pcp()), (0x123, 5));
    assert_eq!(read_tag(&frame, 16).unwrap().ethertype, 0x0800);
    assert_eq!(read_tag(&frame, 20), None);
    assert_eq!(read_tag(&frame[..17], 12), None);
    assert_eq!(read_tag(&frame, usize::MAX), None);
}

#[test]
fn truncated_tags() {
    let frame = tagged(&eth(0x0800, &[]), &[(S_TAG, 1), (C_TAG, 2)]);
    for len in 14..frame.len() {
        assert_eq!(
            parse_link(&frame[..len], true),
            Err(Reason::TruncatedVlan),
            "{len}"
        );
    }
    assert_eq!(parse_link(&frame, true).unwrap().l3, 22);
    for len in 0..14 {
        assert_eq!(
            parse_link(&frame[..len], true),
            Err(Reason::TruncatedEthernet),
            "{len}"
        );
    }
}

#[test]
fn what_is_not_ip_has_only_a_link() {
    for (ethertype, kind) in [
        (0x0806, Kind::Arp),
        (0x88cc, Kind::Other),
        (0x0026, Kind::Other),
    ] {
        let frame = eth(ethertype, &[0xff; 46]);
        let parsed = parse_all(&frame).unwrap();
        assert_eq!(
            (parsed.kind, parsed.ethertype, parsed.l3),
            (kind, ethertype, 14)
        );
        assert_eq!((parsed.frame_len(), parsed.key), (60, FlowKey::default()));
    }
}

#[test]
fn reserved_group_addresses_of_bridges() {
    let control = |last| MacAddr([0x01, 0x80, 0xc2, 0, 0, last]).is_link_local_control();
    assert!(control(0) && control(0x0e) && control(0x0f));
    assert!(!control(0x10) && !control(0x21));
    assert!(!MacAddr([0x01, 0x80, 0xc2, 0, 1, 0]).is_link_local_control());
    assert_eq!(layout::HEADER_LEN, size_of::<EthernetHeader>());
}
