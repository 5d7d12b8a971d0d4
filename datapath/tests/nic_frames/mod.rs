// SPDX-License-Identifier: Apache-2.0
//! Frames as a wire brings them, made by hand, so that they can be wrong in any way. Checksums are left zero: no program
//! looks at them.

#![allow(
    unreachable_pub,
    reason = "each test binary uses its own part of this module"
)]

use std::net::{Ipv4Addr, Ipv6Addr};

pub const NIC: [u8; 6] = [2, 0, 0, 0, 1, 1];
pub const POD: &str = "10.1.0.5";
pub const POD6: &str = "2001:db8:1::5";
/// A pod in a subnet of the NIC's.
pub const NEAR: &str = "192.0.2.6";
pub const NEAR6: &str = "2001:db8::6";
pub const NODE: &str = "192.0.2.1";
pub const NODE6: &str = "2001:db8::1";
pub const PEER: &str = "192.0.2.9";
pub const PEER6: &str = "2001:db8::9";
pub const OVERLAY: u16 = 4789;

pub fn eth(to: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [
        &to[..],
        &[2, 0, 0, 0, 9, 9],
        &ethertype.to_be_bytes(),
        payload,
    ]
    .concat()
}

pub fn ipv4(from: &str, to: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let octets = |text: &str| text.parse::<Ipv4Addr>().unwrap().octets();
    let len = (20 + payload.len()) as u16;
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet.extend(octets(from));
    packet.extend(octets(to));
    packet.extend(payload);
    packet
}

pub fn octets6(text: &str) -> [u8; 16] {
    text.parse::<Ipv6Addr>().unwrap().octets()
}

pub fn ipv6(from: &str, to: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, 255];
    packet[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    packet.extend(octets6(from));
    packet.extend(octets6(to));
    packet.extend(payload);
    packet
}

/// How TCP, UDP and SCTP begin.
pub fn ports(from: u16, to: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (from.to_be_bytes(), to.to_be_bytes());
    [a, b, c, d]
}

/// ICMP or ICMPv6: an echo with an identifier, or an error with what it quotes.
pub fn icmp(kind: u8, id: u16, rest: &[u8]) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    [&[kind, 0, 0, 0, high, low, 0, 0], rest].concat()
}

/// ARP (RFC 826) about an address.
pub fn arp(operation: u8, target: &str) -> Vec<u8> {
    let target = target.parse::<Ipv4Addr>().unwrap().octets();
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, operation];
    packet.extend([2, 0, 0, 0, 9, 9, 192, 0, 2, 9, 0, 0, 0, 0, 0, 0]);
    packet.extend(target);
    packet
}
