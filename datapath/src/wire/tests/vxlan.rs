// SPDX-License-Identifier: Apache-2.0
//! Groups in VXLAN headers.

use std::net::IpAddr;

use crate::ids::GroupId;
use crate::wire::MacAddr;
use crate::wire::vxlan::{self, Outer, Template, Wrapped};

const INNER: usize = 100;

fn wrapped(to: &str, group: Option<GroupId>) -> Vec<u8> {
    let to: IpAddr = to.parse().unwrap();
    let from = match to {
        IpAddr::V4(_) => "192.0.2.1",
        IpAddr::V6(_) => "2001:db8::1",
    };
    let template = Template::new(from.parse().unwrap(), to, 4789, 0x00ab_cdef, true).unwrap();
    let mut frame = vec![0xaa; usize::from(template.overhead()) + INNER];
    let what = Wrapped {
        len: INNER as u32,
        tos: 0,
        sport: 50_000,
        dst_mac: MacAddr([2, 0, 0, 0, 0, 2]),
        src_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        group,
    };
    template.write(&mut frame, &what).unwrap();
    frame
}

#[test]
fn a_group_stands_in_the_header_and_nothing_else_differs() {
    for to in ["192.0.2.2", "2001:db8::2"] {
        let plain = wrapped(to, None);
        let at = plain.len() - INNER - vxlan::HEADER_LEN;
        assert_eq!(plain[at..][..8], [8, 0, 0, 0, 0xab, 0xcd, 0xef, 0]);
        assert_eq!(vxlan::read_group(&plain, at), None);
        for number in [1, 0x00ff, 0xff00, u16::MAX] {
            let group = GroupId::new(number);
            let mut marked = wrapped(to, group);
            assert_eq!(vxlan::read_group(&marked, at), group);
            assert_eq!(vxlan::read_vni(&marked, at), Some(0x00ab_cdef));
            let [high, low] = number.to_be_bytes();
            assert_eq!(marked[at..at + 4], [0x88, 0, high, low]);
            marked[at..at + 4].copy_from_slice(&[8, 0, 0, 0]);
            assert_eq!(marked, plain);
        }
    }
}

#[test]
fn what_is_no_group_is_none() {
    let header = |first: u8, second: u8, group: u16| {
        let [high, low] = group.to_be_bytes();
        [first, second, high, low, 0, 0, 7, 0]
    };
    let seven = GroupId::new(7);
    assert_eq!(vxlan::read_group(&header(0x88, 0, 7), 0), seven);
    assert_eq!(vxlan::read_group(&header(0xff, 0xff, 7), 0), seven, "D, A");
    assert_eq!(vxlan::read_group(&header(0x7f, 0xff, 7), 0), None, "no G");
    assert_eq!(vxlan::read_group(&header(0x88, 0, 0), 0), None, "0");
    assert_eq!(vxlan::read_group(&header(0x88, 0, 7)[..7], 0), None);
    assert_eq!(vxlan::read_group(&header(0x88, 0, 7), 1), None);
    assert_eq!(vxlan::read_group(&[], usize::MAX), None);
}

#[test]
fn what_is_known_of_a_tunnel_is_known_whatever_group_it_bears() {
    let outer = |group| {
        let frame = wrapped("192.0.2.2", group);
        let len = frame.len() as u32;
        Outer::read(&frame, len).unwrap()
    };
    assert_eq!(outer(None), outer(GroupId::new(7)));
    assert_eq!(outer(None), outer(GroupId::new(u16::MAX)));
}
