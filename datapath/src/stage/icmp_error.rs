// SPDX-License-Identifier: Apache-2.0
//! Turns a packet that cannot go on into the ICMP error that tells its sender.
//!
//! Who is never answered (errors, groups, later fragments, senders that are no single host) stands in
//! [`wire::icmp_error::is_answerable`](crate::wire::icmp_error::is_answerable). The source is the gateway's address
//! (RFC 1812 section 4.3.2.4, RFC 4443 section 2.2 d). Where that is link-local, which is usual for gateways with one
//! address on every node, the error goes to senders on the link only, the port's own addresses: no router would take
//! it further (RFC 4291 section 2.5.6, RFC 3927 section 2.6.2). Senders beyond this node are told from its own address on the uplink.

use std::net::IpAddr;

use super::{Context, nat, outside, rewrite};
use crate::counters::Event;
use crate::frame::{Course, Packet};
use crate::tables::{Hop, PortEntry};
use crate::verdict::{Reason, Verdict};
use crate::wire::icmp_error::{self, IcmpError};
use crate::wire::{Kind, MacAddr, ipv6};

/// The error that goes with a route's refusal; `None` where the sender is told nothing.
pub(super) fn of_route(reason: Reason) -> Option<IcmpError> {
    match reason {
        Reason::NoRoute => Some(IcmpError::NoRoute),
        Reason::RouteUnreachable | Reason::NeighborUnresolved => Some(IcmpError::HostUnreachable),
        Reason::RouteProhibit => Some(IcmpError::Prohibited),
        _ => None,
    }
}

/// Drops `packet` for `reason` and, where its sender may be told and the limit allows, makes it the error to send back.
/// The packet must be as it was received, but for padding.
#[cold]
pub(super) fn refuse(
    ctx: &mut Context<'_>,
    port: &PortEntry,
    packet: &mut Packet,
    reason: Reason,
    error: IcmpError,
) -> Verdict {
    nat::undo(ctx, packet);
    if port.is_outside() {
        return refuse_outside(ctx, port, packet, reason, error);
    }
    let parsed = &packet.meta.parsed;
    let gateway = ctx.tables.gateway();
    let (source, link_local): (IpAddr, bool) = match parsed.kind {
        Kind::Ipv4 => (gateway.v4.into(), gateway.v4.is_link_local()),
        _ => (gateway.v6.into(), ipv6::is_link_local(&gateway.v6.octets())),
    };
    let on_link = port.addresses().contains_key(&parsed.key.src)
        || parsed.kind == Kind::Ipv6 && ipv6::is_link_local(&parsed.key.src);
    if link_local && !on_link || !icmp_error::is_answerable(packet.frame.bytes(), parsed, error) {
        return Verdict::Drop(reason);
    }
    let mac = gateway.mac;
    match become_error(ctx, port, packet, reason, (error, mac, source)) {
        true => Verdict::Reply,
        false => Verdict::Drop(reason),
    }
}

/// As [`refuse`], of a packet from outside: the error is from the node's own address on the uplink, and goes the way to the sender, through
/// the tunnel if there is one.
#[cold]
fn refuse_outside(
    ctx: &mut Context<'_>,
    port: &PortEntry,
    packet: &mut Packet,
    reason: Reason,
    error: IcmpError,
) -> Verdict {
    let parsed = &packet.meta.parsed;
    let Hop::Adjacency(way) = ctx.tables.route(port.vrf, &parsed.key.reversed()) else {
        return Verdict::Drop(reason);
    };
    let source = outside::own_address(ctx.tables, way, parsed.kind);
    let answerable = icmp_error::is_answerable(packet.frame.bytes(), parsed, error);
    let Some(source) = source.filter(|_| answerable) else {
        return Verdict::Drop(reason);
    };
    if !become_error(ctx, port, packet, reason, (error, way.src_mac, source)) {
        return Verdict::Drop(reason);
    }
    rewrite::set_macs(packet.frame.bytes_mut(), way);
    packet.meta.course = Course::Sealed;
    super::send(ctx, packet, way)
}

/// Makes a packet the error from a MAC and an IP address to its sender, where the limit of the port allows one.
fn become_error(
    ctx: &mut Context<'_>,
    port: &PortEntry,
    packet: &mut Packet,
    reason: Reason,
    (error, mac, source): (IcmpError, MacAddr, IpAddr),
) -> bool {
    if !ctx.icmp.allow(port.id, ctx.now) {
        ctx.counters.event(Event::IcmpErrorLimited, 1);
        return false;
    }
    // As much of it is quoted as fits, and the rest need not come.
    ctx.pool
        .truncate(&mut packet.frame, icmp_error::MAX_FRAME as u32);
    if !ctx.pool.fetch(&mut packet.frame) {
        return false;
    }
    let mut out = [0; icmp_error::MAX_FRAME];
    let bytes = packet.frame.bytes();
    let written = icmp_error::write(bytes, &packet.meta.parsed, error, mac, source, &mut out);
    let Some(message) = written.and_then(|n| out.get(..n)) else {
        return false;
    };
    if !super::replace(ctx.pool, packet, message) {
        return false;
    }
    ctx.counters.dropped(port.id, reason);
    ctx.counters.event(Event::IcmpError, 1);
    true
}
