// SPDX-License-Identifier: Apache-2.0
//! What comes from beyond this node: out of an uplink, or out of a tunnel whose packets came out of one.
//!
//! | packet | becomes |
//! |---|---|
//! | of another VLAN than the uplink's, or with a second tag | dropped; the tag of a right one is taken out |
//! | who has a pod's address? | answered ([`local`]) |
//! | to another MAC address than the NIC's | dropped |
//! | to the node's own address, of a tunnel | unwrapped, and goes on as one that came in by the tunnel ([`tunnel`]) |
//! | to the node's own address, of a connection that left masqueraded | translated back, and goes on to its pod ([`nat`]) |
//! | to the node's own address, an error about a packet of a tunnel that was too large | noted ([`path_mtu`]) and dropped |
//! | to the node's own address, else | dropped: the steering program leaves it to the host |
//! | to a service | translated, and goes on to a backend ([`service`]) |
//! | to anybody else | routed, to this node's ports only |
//!
//! The sender is known by its way: a new connection is let in where packets to it would leave, by an uplink or by that tunnel.
//!
//! What the node's own stack forwards is from beyond, too, and leaves through there if its route says so. What goes out through the node may come
//! back by an uplink, whose NIC is the node's.

use std::net::IpAddr;

use super::{Context, local, nat, path_mtu, service, trim, tunnel};
use crate::frame::{MACS, Packet};
use crate::tables::{Adjacency, Hop, PortEntry, Tables};
use crate::verdict::{Reason, Verdict};
use crate::wire::eth::{self, EthernetHeader, ethertype};
use crate::wire::{Kind, parse_into};

/// What comes before the flow table for each packet of an uplink.
#[inline(always)]
pub(super) fn arrive(ctx: &mut Context<'_>, uplink: &PortEntry, packet: &mut Packet) -> Verdict {
    if let Some(vlan) = ctx.caps.vlan
        && let Err(reason) = untag(vlan, packet)
    {
        return Verdict::Drop(reason);
    }
    if ctx.tables.has_tunnels()
        && let Some(verdict) = tunnel::unwrap_known(ctx, uplink, packet)
    {
        return verdict;
    }
    if let Err(reason) = parse_outer(ctx, packet) {
        return Verdict::Drop(reason);
    }
    let Some(own) = uplink.uplink() else {
        return Verdict::Drop(Reason::NotForUs);
    };
    if let Some(verdict) = local::on_the_wire(ctx, uplink, packet) {
        return verdict;
    }
    let parsed = &packet.meta.parsed;
    if parsed.is_ip() && own.contains_key(&parsed.key.dst) {
        if !is_to(packet, uplink) {
            return Verdict::Drop(Reason::NotForUs);
        }
        if tunnel::is_one(ctx, parsed) {
            return tunnel::unwrap(ctx, uplink, packet);
        }
        if path_mtu::hear(ctx, uplink, packet) {
            return Verdict::Drop(Reason::TunnelPathMtu);
        }
        let led = ready(ctx, uplink, packet).and_then(|()| nat::arrive(ctx, uplink, packet));
        return go_on_led(ctx, uplink, packet, led);
    }
    if ctx.tables.may_be_service(&parsed.key.dst) {
        let led = ready(ctx, uplink, packet).and_then(|()| nat::arrive_at(ctx, uplink, packet));
        return go_on_led(ctx, uplink, packet, led);
    }
    admit(ctx, uplink, packet)
}

/// What follows for a packet to an address of the node or of a service.
fn go_on_led(
    ctx: &mut Context<'_>,
    uplink: &PortEntry,
    packet: &mut Packet,
    led: Result<(), Reason>,
) -> Verdict {
    match led {
        Ok(()) => to_be_routed(ctx, packet, Ok(())),
        Err(reason) => service::refuse(ctx, uplink, packet, reason),
    }
}

fn is_to(packet: &Packet, port: &PortEntry) -> bool {
    EthernetHeader::read(packet.frame.bytes()).is_some_and(|eth| eth.dst == port.mac)
}

/// Reads the headers of a frame from the wire.
#[inline(always)]
fn parse_outer(ctx: &Context<'_>, packet: &mut Packet) -> Result<(), Reason> {
    match parse(packet) {
        Err(Reason::VlanNotExpected) if ctx.caps.vlan.is_none() => parse_tagged(packet),
        parsed => parsed,
    }
}

/// Where there is no VLAN, a tag that has only a priority is none.
#[cold]
#[inline(never)]
fn parse_tagged(packet: &mut Packet) -> Result<(), Reason> {
    untag(0, packet)?;
    parse(packet)
}

/// Takes out the tag of a VLAN. `Err` when the outer tag is not a customer tag of the VLAN, or there is none.
fn untag(vlan: u16, packet: &mut Packet) -> Result<(), Reason> {
    let frame = &mut packet.frame;
    let tag = eth::read_tag(frame.bytes(), MACS);
    let is_of = |tag: eth::Tag| tag.tpid == ethertype::VLAN && tag.vid() == vlan;
    match tag.is_some_and(is_of) && frame.pull_tag() {
        true => Ok(()),
        false => Err(Reason::VlanNotExpected),
    }
}

/// Reads the headers of a frame.
#[inline(always)]
pub(super) fn parse(packet: &mut Packet) -> Result<(), Reason> {
    let (bytes, len) = (packet.frame.bytes(), packet.frame.len());
    parse_into(bytes, len, false, &mut packet.meta.parsed)
}

/// What follows parsing for a packet that came in by `port`. `Continue` for one to be routed, whose flow entry is on its way.
#[inline(always)]
pub(super) fn admit(ctx: &mut Context<'_>, port: &PortEntry, packet: &mut Packet) -> Verdict {
    let ready = ready(ctx, port, packet);
    to_be_routed(ctx, packet, ready)
}

#[inline(always)]
fn to_be_routed(ctx: &Context<'_>, packet: &mut Packet, ready: Result<(), Reason>) -> Verdict {
    if let Err(reason) = ready {
        return Verdict::Drop(reason);
    }
    super::seek(ctx.flows, &mut packet.meta);
    Verdict::Continue
}

/// Destination MAC, kind, VRF, padding and unfinished checksum.
#[inline(always)]
fn ready(ctx: &mut Context<'_>, port: &PortEntry, packet: &mut Packet) -> Result<(), Reason> {
    let Some(eth) = EthernetHeader::read(packet.frame.bytes()) else {
        return Err(Reason::TruncatedEthernet);
    };
    let parsed = &mut packet.meta.parsed;
    if eth.dst != port.mac {
        return Err(match eth.dst.is_multicast() {
            true => Reason::MulticastNotRouted,
            false => Reason::NotForUs,
        });
    }
    match parsed.kind {
        Kind::Ipv4 | Kind::Ipv6 => {}
        Kind::Arp => return Err(Reason::ArpUnanswered),
        Kind::Other => return Err(Reason::EthertypeUnknown),
    }
    parsed.key.set_vrf(port.vrf);
    // Checksums of what comes from a real wire are the sender's.
    let unfinished = trim::unfinished(ctx.caps, &packet.frame, parsed);
    trim::finish(ctx.pool, &mut packet.frame, parsed, unfinished);
    Ok(())
}

/// The port that each packet of a batch came in by.
#[inline(always)]
pub(super) fn port_of<'t>(
    tables: &'t Tables,
    uplink: &'t PortEntry,
    packet: &Packet,
) -> &'t PortEntry {
    match packet.meta.in_port == uplink.id {
        true => uplink,
        false => tables.port(packet.meta.in_port).unwrap_or(uplink),
    }
}

/// Whether the sources of packets from a port are known by their way only.
pub(super) fn is_by_way(port: &PortEntry) -> bool {
    port.is_outside() || port.node && port.check_source
}

/// Whether an address behind a port is beyond this node: neither a pod's nor the node's own.
fn is_beyond(port: &PortEntry, address: &[u8; 16]) -> bool {
    port.is_outside() || port.node && !port.addresses().contains_key(address)
}

/// Refuses a packet from outside that wears the address of somebody who is elsewhere (RFC 3704 section 2.2, feasible paths).
pub(super) fn check_source(
    ctx: &Context<'_>,
    port: &PortEntry,
    packet: &Packet,
) -> Result<(), Reason> {
    let key = &packet.meta.parsed.key;
    let came_to = packet.meta.seen_as.filter(|_| !packet.meta.is_led());
    if came_to.is_some_and(|end| ctx.nat.has_port(end.port())) {
        // The binding by which it was translated names its source.
        return Ok(());
    }
    let back = match ctx.tables.route(port.vrf, &key.reversed()) {
        Hop::Adjacency(way) => ctx.tables.port(way.port),
        Hop::Drop(_) => None,
    };
    let right = match (port.tunnel(), back) {
        (None, back) if port.node => back.is_some_and(|back| back.id == port.id),
        (None, back) => back
            .is_none_or(|back| back.uplink().is_some() || back.node && is_beyond(back, &key.src)),
        (Some(_), Some(back)) if back.id == port.id => true,
        // Errors of the other ends come from their own addresses.
        (Some(_), _) => ctx.tables.is_neighbor(port.id, &key.src),
    };
    match right {
        true => Ok(()),
        false => Err(Reason::SpoofedAddress),
    }
}

/// The way of a packet that came in by `port`: the switch is no router between others.
pub(super) fn check_way<'t>(
    ctx: &Context<'_>,
    port: &PortEntry,
    packet: &Packet,
    way: Result<&'t Adjacency, Reason>,
) -> Result<&'t Adjacency, Reason> {
    let way = way?;
    let key = &packet.meta.parsed.key;
    let out = ctx.tables.port(way.port);
    let leads_out = out.is_some_and(|out| is_beyond(out, &key.dst));
    // What nobody here has goes back to the node it came from: there it would begin anew.
    let back = port.node && way.port == port.id;
    // Who comes to a service at this node may be served elsewhere, and is answered through here.
    let translated = packet.meta.seen_as.is_some();
    let from_beyond = is_beyond(port, &key.src) && !translated;
    match leads_out && (back || from_beyond) {
        true => Err(Reason::NoRoute),
        false => Ok(way),
    }
}

/// This node's own address on the uplink that a way leads by, of the family of a packet.
pub(super) fn own_address(tables: &Tables, way: &Adjacency, kind: Kind) -> Option<IpAddr> {
    let out = match way.wrapped {
        true => match tables.underlay(tables.wrap(way.index)?, 0) {
            Hop::Adjacency(out) => out,
            Hop::Drop(_) => return None,
        },
        false => way,
    };
    tables.port(out.port)?.first_address(kind == Kind::Ipv4)
}
