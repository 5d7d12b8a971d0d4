// SPDX-License-Identifier: Apache-2.0
//! Random frames.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use podswitch_datapath::tables::{PortKindSpec, PortSpec};
use podswitch_datapath::wire::MacAddr;

use super::{PORTS, Random, address, mac};
use crate::frames::{self, V4, V6};
use crate::setup::Setup;
use crate::world::GATEWAY_MAC;

/// A frame for a port.
pub(crate) fn frame(r: &mut Random, setup: &Setup, port: &PortSpec) -> Vec<u8> {
    let l2 = matches!(port.kind, PortKindSpec::L2 { .. });
    let own = Setup::addresses(port);
    let src_mac = match r.below(16) {
        0 => mac(1 + r.below(8)),
        1 if l2 => mac(0x20 + r.below(3)),
        2 | 3 if l2 => mac(0x40 + r.below(6)),
        4 if r.once_in(8) => *r.of(&[MacAddr::ZERO, MacAddr::BROADCAST]),
        _ => port.mac,
    };
    let (ether_type, payload) = match r.below(10) {
        0 => (0x0806, arp(r, setup, port, own)),
        1 => (0x86dd, neighbor_discovery(r, own, src_mac)),
        2 if r.once_in(4) => (*r.of(&[0x88cc, 0x88b5, 0x0026]), r.bytes(46)),
        _ => {
            let v6 = r.once_in(2);
            (if v6 { 0x86dd } else { 0x0800 }, ip(r, v6, own))
        }
    };
    let dst_mac = match r.below(12) {
        0 => mac(1 + r.below(8)),
        1 => MacAddr::BROADCAST,
        2 => MacAddr([0x33, 0x33, 0xff, 0, 0, 1 + r.below(8) as u8]),
        3 if l2 => MacAddr([1, 0x80, 0xc2, 0, 0, r.below(20) as u8]),
        4..=6 if l2 => mac(1 + r.below(8)),
        7..=9 if l2 => mac(0x40 + r.below(6)),
        10 if l2 => mac(0x20 + r.below(3)),
        _ if l2 => mac(0x77),
        _ => GATEWAY_MAC,
    };
    let mut frame = frames::ethernet(dst_mac, src_mac, ether_type, &payload);
    let tags = if l2 {
        r.below(3)
    } else {
        u64::from(r.once_in(20))
    };
    for _ in 0..tags {
        let vid = *r.of(&[10, 10, 20, 20, 0, 30]);
        frame = frames::tagged(&frame, (r.below(8) as u16) << 13 | vid);
        if r.once_in(12) {
            frame[12..14].copy_from_slice(&[0x88, 0xa8]);
        }
    }
    if r.once_in(5) {
        let padding = if r.once_in(8) {
            5000
        } else {
            r.below(60) as usize
        };
        let padding = r.bytes(padding);
        frame.extend(padding);
    }
    if r.once_in(6) {
        damage(r, &mut frame);
    }
    frame
}

/// A few wrong bytes, mostly among the headers, or an end that comes too early.
fn damage(r: &mut Random, frame: &mut Vec<u8>) {
    for _ in 0..1 + r.below(3) {
        let near = frame.len().min(if r.once_in(3) { 2000 } else { 70 });
        let at = r.below(near as u64) as usize;
        frame[at] = if r.once_in(2) {
            r.next() as u8
        } else {
            frame[at] ^ 1 << r.below(8)
        };
    }
    if r.once_in(4) {
        let len = r.below(frame.len() as u64) as usize;
        frame.truncate(len.max(1));
    }
    if r.once_in(3) {
        fix_ipv4_checksum(frame);
    }
}

/// Makes the IPv4 header checksum of an untagged frame right again, so that damage gets further.
fn fix_ipv4_checksum(frame: &mut [u8]) {
    if frame.get(12..14) != Some(&[8, 0]) {
        return;
    }
    let header_len = usize::from(frame.get(14).map_or(0, |b| b & 15)) * 4;
    if header_len >= 20 && frame.len() >= 14 + header_len {
        frames::fill_header_checksum(&mut frame[14..]);
    }
}

fn source(r: &mut Random, own: &[IpAddr], v6: bool) -> IpAddr {
    let mine: Vec<IpAddr> = own.iter().copied().filter(|a| a.is_ipv6() == v6).collect();
    match r.below(8) {
        0 => address(r, v6),
        1 if v6 => "fe80::abcd".parse().expect("an address"),
        _ if mine.is_empty() => address(r, v6),
        _ => *r.of(&mine),
    }
}

/// (Protocol, message) of a whole packet.
fn transport(r: &mut Random, src: IpAddr, dst: IpAddr) -> (u8, Vec<u8>) {
    let len = match r.below(12) {
        0 => 0,
        1 => 1230 + r.below(60) as usize,
        2 => 1400 + r.below(120) as usize,
        3 if r.once_in(3) => 4000 + r.below(6000) as usize,
        4 if r.once_in(20) => 60_000,
        _ => r.below(200) as usize,
    };
    let data = r.bytes(len);
    let (sport, dport) = (*r.of(&PORTS), *r.of(&PORTS));
    let mut partial = None;
    let (protocol, mut message) = match (r.below(10), src, dst) {
        (0..=3, ..) => {
            partial = Some(6);
            (frames::UDP, frames::udp(src, dst, sport, dport, &data))
        }
        (4..=5, ..) => {
            partial = Some(16);
            (
                frames::TCP,
                frames::tcp(src, dst, sport, dport, r.next() as u8, &data),
            )
        }
        (6, ..) => {
            let head = [
                &sport.to_be_bytes()[..],
                &dport.to_be_bytes(),
                &[0, 0, 0, 1],
                &[0; 4],
            ]
            .concat();
            let crc = if r.once_in(2) { r.bytes(4) } else { vec![0; 4] };
            (132, [&head[..8], &crc, &data].concat())
        }
        (7..=8, IpAddr::V4(_), IpAddr::V4(_)) => {
            let kind = *r.of(&[8, 8, 0, 3, 11, 13, 5, 99]);
            (frames::ICMP, frames::icmp(kind, 0, [0, 5, 0, 1], &data))
        }
        (7..=8, IpAddr::V6(src), IpAddr::V6(dst)) => {
            let kind = *r.of(&[128, 128, 129, 1, 2, 3, 143, 200]);
            (
                frames::ICMPV6,
                frames::icmpv6(src, dst, kind, 0, [0, 5, 0, 1], &data),
            )
        }
        _ => (99, data),
    };
    if let Some(at) = partial.filter(|_| r.once_in(3)) {
        let sum = frames::pseudo(src, dst, protocol, message.len());
        message[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    (protocol, message)
}

fn ttl(r: &mut Random) -> u8 {
    *r.of(&[64, 64, 64, 64, 255, 2, 1, 0])
}

fn ip(r: &mut Random, v6: bool, own: &[IpAddr]) -> Vec<u8> {
    let (src, dst) = (source(r, own, v6), address(r, v6));
    let (protocol, message) = transport(r, src, dst);
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut p = V4::new(src, dst, protocol, message);
            p.ttl = ttl(r);
            p.id = r.next() as u16;
            p.flags = if r.once_in(3) { 0 } else { 0x4000 };
            if r.once_in(8) {
                let offset = *r.of(&[0, 0, 1, 2, 3, 100, 8000]);
                p.flags = offset | if r.once_in(3) { 0 } else { 0x2000 };
                p.payload.truncate(p.payload.len() / 8 * 8);
            }
            if r.once_in(8) {
                p.options = r
                    .of(&[
                        vec![1, 1, 1, 1],
                        vec![7, 7, 4, 0, 0, 0, 0, 0],
                        vec![148, 4, 0, 0],
                        vec![1, 7, 3, 4, 148, 4, 0, 0, 130, 6, 1, 2, 3, 4, 0, 0],
                        vec![131, 7, 4, 10, 0, 0, 3, 0],
                        vec![137, 3, 4, 0],
                        vec![7, 1, 0, 0],
                        vec![7, 9, 4, 0],
                        vec![0, 131, 3, 4],
                    ])
                    .clone();
            }
            p.bytes()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut p = V6::new(src, dst, protocol, message);
            p.hop_limit = ttl(r);
            if r.once_in(4) {
                let n = r.below(4);
                p.extensions = (0..n).map(|_| extension(r)).collect();
                if p.extensions.iter().any(|e| e.0 == 44) {
                    p.payload.truncate(p.payload.len() / 8 * 8);
                }
            }
            p.bytes()
        }
        _ => unreachable!("one family"),
    }
}

/// (Kind, header without its first byte).
fn extension(r: &mut Random) -> (u8, Vec<u8>) {
    let kind = *r.of(&[0, 60, 60, 43, 44, 44, 51]);
    let rest = match kind {
        43 => {
            let len = r.below(3) as u8;
            let mut rest = vec![len, *r.of(&[0, 2, 4, 4, 9]), r.below(2) as u8, 0, 0, 0, 0];
            rest.extend(r.bytes(usize::from(len) * 8));
            rest
        }
        44 => {
            let [a, b] = (*r.of(&[0u16, 0, 8, 16, 800]) | r.below(2) as u16).to_be_bytes();
            vec![0, a, b, 0, 0, 0, 7]
        }
        51 => {
            let len = r.below(4) as u8;
            let mut rest = vec![len];
            rest.extend(r.bytes((usize::from(len) + 2) * 4 - 2));
            rest
        }
        _ => {
            let len = r.below(3) as u8;
            let mut rest = vec![len];
            rest.extend(r.bytes(usize::from(len) * 8 + 6));
            rest
        }
    };
    (kind, rest)
}

fn arp(r: &mut Random, setup: &Setup, port: &PortSpec, own: &[IpAddr]) -> Vec<u8> {
    let v4 = |a: IpAddr| match a {
        IpAddr::V4(a) => a,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    };
    let sender = if r.once_in(6) {
        Ipv4Addr::UNSPECIFIED
    } else {
        v4(source(r, own, false))
    };
    let target = match r.below(5) {
        0 => setup.gateway.v4,
        1 => sender,
        _ => v4(address(r, false)),
    };
    let sender_mac = if r.once_in(8) { mac(3) } else { port.mac };
    let op = *r.of(&[1, 1, 1, 1, 2, 3]);
    frames::arp(op, sender_mac, sender, MacAddr::ZERO, target)
}

fn neighbor_discovery(r: &mut Random, own: &[IpAddr], src_mac: MacAddr) -> Vec<u8> {
    let v6 = |a: IpAddr| match a {
        IpAddr::V6(a) => a,
        IpAddr::V4(_) => Ipv6Addr::UNSPECIFIED,
    };
    let src = if r.once_in(5) {
        Ipv6Addr::UNSPECIFIED
    } else {
        v6(source(r, own, true))
    };
    let target = match r.below(4) {
        0 => src,
        _ => v6(address(r, true)),
    };
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    let dst = if r.once_in(4) { target } else { group };
    let kind = *r.of(&[135, 135, 135, 135, 136, 133, 134, 137]);
    let mut data = target.octets().to_vec();
    if !src.is_unspecified() || r.once_in(6) {
        data.extend([if kind == 136 { 2 } else { 1 }, 1]);
        data.extend(if r.once_in(8) { mac(5).0 } else { src_mac.0 });
    }
    if r.once_in(8) {
        let odd: [&[u8]; 4] = [
            &[14, 1, 0, 0, 0, 0, 0, 0],
            &[14, 0, 0, 0, 0, 0, 0, 0],
            &[14, 2, 0, 0],
            &[14],
        ];
        data.extend(*r.of(&odd));
    }
    let flags = if r.once_in(2) { 0x60 } else { 0 };
    let mut message = frames::icmpv6(src, dst, kind, 0, [flags, 0, 0, 0], &data);
    if r.once_in(12) {
        message[2] ^= 1;
    }
    let hop_limit = if r.once_in(12) { 254 } else { 255 };
    V6 {
        hop_limit,
        ..V6::new(src, dst, frames::ICMPV6, message)
    }
    .bytes()
}
