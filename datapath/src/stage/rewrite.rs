// SPDX-License-Identifier: Apache-2.0
//! What a router changes: MAC addresses, TTL or hop limit.

use crate::frame::Packet;
use crate::tables::Adjacency;
use crate::wire::Kind;
use crate::wire::eth::EthernetHeader;
use crate::wire::ipv4::Ipv4Header;
use crate::wire::ipv6::Ipv6Header;

/// Writes the MAC addresses of a frame that leaves.
#[inline(always)]
pub(super) fn set_macs(frame: &mut [u8], way: &Adjacency) {
    if let Some(eth) = EthernetHeader::read_mut(frame) {
        eth.dst = way.dst_mac;
        eth.src = way.src_mac;
    }
}

/// Readies a parsed IPv4 or IPv6 packet with a TTL above 1 for the way out (RFC 1812 section 5.2.1, RFC 8200 section 3).
#[inline(always)]
pub(super) fn run(packet: &mut Packet, way: &Adjacency) {
    let parsed = &packet.meta.parsed;
    let Some((link, network)) = packet
        .frame
        .bytes_mut()
        .split_at_mut_checked(parsed.l3.into())
    else {
        return;
    };
    set_macs(link, way);
    match parsed.kind {
        Kind::Ipv4 => {
            if let Some(ip) = Ipv4Header::read_mut(network) {
                ip.decrement_ttl();
            }
        }
        _ => {
            if let Some(ip) = Ipv6Header::read_mut(network) {
                ip.decrement_hop_limit();
            }
        }
    }
}
