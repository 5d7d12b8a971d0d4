// SPDX-License-Identifier: Apache-2.0
//! What is meant for the switch itself: ARP, neighbor discovery, and the gateway's echo. Groups end here too.
//!
//! Every address a pod may reach is at the gateway's MAC address, so that is the answer for the gateway's own address and
//! for addresses of other ports in the same VRF. Unanswered, always: questions for the asker's own addresses,
//! duplicate address detection (`0.0.0.0` or `::` asking, announcements), answers, router solicitations (pods are
//! configured by CNI), advertisements and redirects.
//!
//! On an uplink the switch answers for the pods of this node, by the NIC's own MAC address, as a proxy (RFC 1027, RFC 4389); for the node's
//! addresses its own stack does.

use std::net::IpAddr;

use super::{Context, icmp_error};
use crate::counters::Event;
use crate::frame::Packet;
use crate::tables::PortEntry;
use crate::verdict::{Reason, Verdict};
use crate::wire::arp::{self, ArpPacket};
use crate::wire::eth::EthernetHeader;
use crate::wire::icmp::{self, v6};
use crate::wire::icmp_error::IcmpError;
use crate::wire::nd::{self, Advertisement, Message, Neighbor, flags};
use crate::wire::{Kind, MacAddr, Parsed, ipv4, ipv6, protocol};

/// Whether it is a message of neighbor discovery (RFC 4861), which never leaves the link, whatever its addresses. Its flow key is
/// that of other ICMPv6 messages, so it must not be looked up.
#[inline(always)]
pub(super) fn is_neighbor_discovery(parsed: &Parsed) -> bool {
    // The type is 0 in later fragments.
    parsed.kind == Kind::Ipv6
        && parsed.protocol == protocol::ICMPV6
        && (v6::ROUTER_SOLICITATION..=v6::REDIRECT).contains(&parsed.icmp_type)
}

/// Handles a packet that ends at the switch; `None` for one that is to be routed.
pub(super) fn run(ctx: &mut Context<'_>, port: &PortEntry, packet: &mut Packet) -> Option<Verdict> {
    let parsed = packet.meta.parsed;
    let gateway = ctx.tables.gateway();
    let (group, to_gateway) = match parsed.kind {
        Kind::Other => return Some(Verdict::Drop(Reason::EthertypeUnknown)),
        Kind::Arp => return Some(answer_arp(ctx, port, packet)),
        Kind::Ipv6 => {
            if is_neighbor_discovery(&parsed) {
                return Some(neighbor_discovery(ctx, port, packet));
            }
            let dst = &parsed.key.dst;
            (ipv6::is_multicast(dst), *dst == gateway.v6.octets())
        }
        Kind::Ipv4 => {
            let [.., a, b, c, d] = parsed.key.dst;
            let dst = [a, b, c, d];
            let group = ipv4::is_multicast(dst) || ipv4::is_limited_broadcast(dst);
            (group, dst == gateway.v4.octets())
        }
    };
    let eth = EthernetHeader::read(packet.frame.bytes());
    if group || eth.is_none_or(|eth| eth.dst.is_multicast()) {
        return Some(Verdict::Drop(Reason::MulticastNotRouted));
    }
    if to_gateway {
        return Some(to_the_gateway(ctx, port, packet));
    }
    let beyond_link = |a: &[u8; 16]| parsed.kind == Kind::Ipv6 && ipv6::is_link_local(a);
    if beyond_link(&parsed.key.src) || beyond_link(&parsed.key.dst) {
        return Some(Verdict::Drop(Reason::LinkLocalNotRouted));
    }
    None
}

/// Echo is answered, UDP refused with port unreachable (a traceroute to the gateway ends there); the rest is dropped.
fn to_the_gateway(ctx: &mut Context<'_>, port: &PortEntry, packet: &mut Packet) -> Verdict {
    let parsed = packet.meta.parsed;
    if icmp::echo_reply_in_place(packet.frame.bytes_mut(), &parsed) {
        ctx.counters.event(Event::EchoReply, 1);
        return Verdict::Reply;
    }
    if parsed.protocol == protocol::UDP {
        let error = IcmpError::PortUnreachable;
        return icmp_error::refuse(ctx, port, packet, Reason::GatewayUnhandled, error);
    }
    Verdict::Drop(Reason::GatewayUnhandled)
}

/// Handles a packet that came in by an uplink and stays on its link: ARP, neighbor discovery. `None` for others.
#[inline(always)]
pub(super) fn on_the_wire(
    ctx: &mut Context<'_>,
    uplink: &PortEntry,
    packet: &mut Packet,
) -> Option<Verdict> {
    let parsed = &packet.meta.parsed;
    if parsed.kind == Kind::Arp {
        return Some(answer_arp(ctx, uplink, packet));
    }
    is_neighbor_discovery(parsed).then(|| neighbor_discovery(ctx, uplink, packet))
}

/// Whether the switch's MAC address on a port is the answer to who has `target`.
fn answers_for(ctx: &Context<'_>, port: &PortEntry, target: IpAddr) -> bool {
    if port.uplink().is_some() {
        let owner = ctx.tables.neighbor_owner(port.vrf, target);
        return owner.is_some_and(PortEntry::is_pod);
    }
    let gateway = ctx.tables.gateway();
    if target == IpAddr::V4(gateway.v4) || target == IpAddr::V6(gateway.v6) {
        return true;
    }
    !port.addresses().contains(target)
        && ctx
            .tables
            .neighbor_owner(port.vrf, target)
            .is_some_and(|owner| owner.id != port.id)
}

#[inline(never)]
fn answer_arp(ctx: &mut Context<'_>, port: &PortEntry, packet: &mut Packet) -> Verdict {
    let unanswered = Verdict::Drop(Reason::ArpUnanswered);
    let l3 = usize::from(packet.meta.parsed.l3);
    let Some(request) = packet.frame.bytes().get(l3..).and_then(ArpPacket::read) else {
        return unanswered;
    };
    let asks = request.is_request() && !request.is_probe() && !request.is_announcement();
    let target = IpAddr::from(request.target_ip);
    let own = port.router_mac(ctx.tables.gateway().mac);
    let for_us = is_to(own, packet);
    if !asks || !for_us || !answers_for(ctx, port, target) {
        return unanswered;
    }
    if !arp::reply_in_place(packet.frame.bytes_mut(), l3, own) {
        return unanswered;
    }
    ctx.counters.event(Event::ArpReply, 1);
    Verdict::Reply
}

/// Whether the frame goes to this MAC address or to a group.
fn is_to(own: MacAddr, packet: &Packet) -> bool {
    EthernetHeader::read(packet.frame.bytes())
        .is_some_and(|eth| eth.dst == own || eth.dst.is_multicast())
}

/// The switch's address on a port, from which it says whose MAC address is whose.
fn speaker(ctx: &Context<'_>, port: &PortEntry) -> Option<[u8; 16]> {
    match (port.uplink(), port.first_address(false)) {
        (None, _) => Some(ctx.tables.gateway().v6.octets()),
        (Some(_), Some(IpAddr::V6(first))) => Some(first.octets()),
        (Some(_), _) => None,
    }
}

#[inline(never)]
fn neighbor_discovery(ctx: &mut Context<'_>, port: &PortEntry, packet: &mut Packet) -> Verdict {
    let unanswered = Verdict::Drop(Reason::NdUnanswered);
    let bytes = packet.frame.bytes();
    let Some(eth) = EthernetHeader::read(bytes) else {
        return unanswered;
    };
    let asker: MacAddr = eth.src;
    let Some(neighbor) = Neighbor::read(bytes, &packet.meta.parsed) else {
        return unanswered;
    };
    if let Some(reason) = spoofed(port, &neighbor) {
        return Verdict::Drop(reason);
    }
    let target = IpAddr::from(neighbor.target);
    let asks = neighbor.message == Message::Solicitation && !neighbor.is_dad();
    if !asks || !answers_for(ctx, port, target) {
        return unanswered;
    }
    let Some(src) = speaker(ctx, port) else {
        return unanswered;
    };
    let gateway = ctx.tables.gateway();
    let mac = port.router_mac(gateway.mac);
    // A proxy does not override what the owner itself says (RFC 4861 section 7.2.8).
    let own = match (port.uplink(), target == IpAddr::V6(gateway.v6)) {
        (Some(_), _) => 0,
        (None, true) => flags::ROUTER | flags::OVERRIDE,
        (None, false) => flags::ROUTER,
    };
    let advertisement = Advertisement {
        dst_mac: asker,
        src_mac: mac,
        src,
        dst: neighbor.src,
        target: neighbor.target,
        link_address: mac,
        flags: flags::SOLICITED | own,
    };
    let mut out = [0; nd::ADVERTISEMENT_FRAME];
    let written = nd::write_advertisement(&advertisement, &mut out);
    if written.is_none() || !super::replace(ctx.pool, packet, &out) {
        return unanswered;
    }
    ctx.counters.event(Event::NdReply, 1);
    Verdict::Reply
}

/// What a message says about its sender must be the port's own, where that is checked.
fn spoofed(port: &PortEntry, neighbor: &Neighbor) -> Option<Reason> {
    if !port.check_source {
        return None;
    }
    if neighbor.link_address.is_some_and(|mac| mac != port.mac) {
        return Some(Reason::SpoofedMac);
    }
    let announces = matches!(neighbor.message, Message::Advertisement { .. });
    let own = ipv6::is_link_local(&neighbor.target)
        || port.addresses().contains_v6(neighbor.target.into());
    (announces && !own).then_some(Reason::SpoofedAddress)
}
