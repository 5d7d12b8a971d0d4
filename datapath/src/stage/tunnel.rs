// SPDX-License-Identifier: Apache-2.0
//! Into tunnels and out of them (VXLAN, RFC 7348).
//!
//! A tunnel is a port without a device: packets leave by it wrapped, out of the uplink that leads to its other end, and come in by it
//! out of an uplink's packets to the node's own address. Only other ends that are neighbors on the port are heard. Outer packets are never
//! fragmented: what is too large for the way is answered inside the tunnel.
//!
//! In a tunnel with group policy packets of pods bear their group, and what comes bears that of its sender: judged by that, where it is known here, and not
//! by its address.

use std::net::IpAddr;

use super::{Context, fragment, outside, route};
use crate::frame::{Course, Packet};
use crate::ids::GroupId;
use crate::tables::{Adjacency, Hop, PortEntry};
use crate::verdict::{Reason, Verdict};
use crate::wire::flow_key::{self, FlowKey};
use crate::wire::ipv4::Ipv4Header;
use crate::wire::ipv6::Ipv6Header;
use crate::wire::partial::{self, PartialChecksum};
use crate::wire::udp::{self, UdpHeader};
use crate::wire::vxlan::{self, Outer, Template, Wrapped};
use crate::wire::{Fragment, Kind, Parsed, ecn, protocol};

/// Wraps a packet, already rewritten, that leaves by the adjacency of a tunnel.
#[inline(never)]
pub(super) fn wrap(ctx: &mut Context<'_>, packet: &mut Packet, way: &Adjacency) -> Verdict {
    let tables = ctx.tables;
    let Some(wrap) = tables.wrap(way.index) else {
        return Verdict::Drop(Reason::TunnelNoSource);
    };
    let out = match tables.underlay(wrap, packet.meta.hash) {
        Hop::Adjacency(out) => out,
        Hop::Drop(reason) => {
            note_missing(ctx, packet, way);
            return Verdict::Drop(reason);
        }
    };
    let Some(template) = &wrap.template else {
        return Verdict::Drop(Reason::TunnelNoSource);
    };
    let group = match wrap.group_policy {
        true => sender_group(ctx, packet),
        false => None,
    };
    let inner = packet.frame.len();
    match put_headers(ctx, packet, template, out, group) {
        true => {
            packet.meta.course = Course::Sealed;
            ctx.counters.transmitted(way.port, 1, inner.into());
            Verdict::Forward(out.port)
        }
        false => Verdict::Drop(Reason::NoMemory),
    }
}

/// The group of whoever sent a packet. It is the port's: no pod can say it.
#[inline]
fn sender_group(ctx: &Context<'_>, packet: &Packet) -> Option<GroupId> {
    ctx.tables.port(packet.meta.in_port)?.group
}

#[inline(always)]
fn put_headers(
    ctx: &mut Context<'_>,
    packet: &mut Packet,
    template: &Template,
    out: &Adjacency,
    group: Option<GroupId>,
) -> bool {
    if !ctx.pool.fetch(&mut packet.frame) {
        return false;
    }
    // What it covers is out of a device's sight from here on.
    fragment::finish_checksum(ctx, packet);
    let frame = &mut packet.frame;
    let wrapped = Wrapped {
        len: frame.len(),
        tos: packet.meta.parsed.tos,
        sport: vxlan::source_port(packet.meta.hash),
        dst_mac: out.dst_mac,
        src_mac: out.src_mac,
        group,
    };
    if !frame.push_front(template.overhead()) {
        return false;
    }
    match template.write(frame.bytes_mut(), &wrapped) {
        Some(false) => true,
        Some(true) => {
            let field = PartialChecksum {
                start: template.udp_at(),
                offset: udp::CHECKSUM_OFFSET,
            };
            let len = frame.len();
            partial::fill(field, len, frame.iter_mut())
        }
        None => false,
    }
}

/// Says which neighbor of the underlay is to be asked for.
#[cold]
fn note_missing(ctx: &mut Context<'_>, packet: &Packet, way: &Adjacency) {
    let Some(tunnel) = ctx.tables.port(way.port).and_then(PortEntry::tunnel) else {
        return;
    };
    let unspecified = match way.address {
        IpAddr::V4(_) => IpAddr::from([0; 4]),
        IpAddr::V6(_) => IpAddr::from([0; 16]),
    };
    let outer = FlowKey::from_ip(
        tunnel.underlay,
        protocol::UDP,
        unspecified,
        way.address,
        0,
        0,
    );
    route::note_missing(ctx, packet.meta.in_port, &outer);
}

/// Whether an outer packet, to the node's own address, is one of a tunnel's.
#[inline(always)]
pub(super) fn is_one(ctx: &Context<'_>, outer: &Parsed) -> bool {
    outer.protocol == protocol::UDP && ctx.tables.is_tunnel_port(outer.key.dport)
}

/// Takes a packet out of its tunnel if the last ones from there were of a tunnel; `None` for others. As [`unwrap`] else, which notes them.
#[inline(always)]
pub(super) fn unwrap_known(
    ctx: &mut Context<'_>,
    uplink: &PortEntry,
    packet: &mut Packet,
) -> Option<Verdict> {
    let (outer, tos) = Outer::read(packet.frame.bytes(), packet.frame.len())?;
    let tunnel = ctx.heard.find(ctx.tables, uplink.id, &outer)?;
    let tunnel = ctx.tables.port(tunnel)?;
    Some(come_out(ctx, tunnel, packet, (vxlan::OVERHEAD_V4, tos)))
}

/// Takes a packet out of its tunnel. `Continue`: it is one to be routed, that came in by the tunnel's port.
#[inline(never)]
pub(super) fn unwrap(ctx: &mut Context<'_>, uplink: &PortEntry, packet: &mut Packet) -> Verdict {
    let tunnel = match tunnel_of(ctx, uplink, packet) {
        Ok(tunnel) => tunnel,
        Err(reason) => return Verdict::Drop(reason),
    };
    if !ctx.caps.local_sender && !is_checksum_right(packet) {
        return Verdict::Drop(Reason::BadUdpChecksum);
    }
    if let Some((outer, _)) = Outer::read(packet.frame.bytes(), packet.frame.len()) {
        ctx.heard.note(ctx.tables, uplink.id, outer, tunnel.id);
    }
    let outer = &packet.meta.parsed;
    let headers = usize::from(outer.l4) + udp::HEADER_LEN + vxlan::HEADER_LEN;
    let tos = outer.tos;
    come_out(ctx, tunnel, packet, (headers, tos))
}

/// A packet comes out of a tunnel: what is left without so many bytes of headers, which had a type of service.
#[inline(always)]
fn come_out(
    ctx: &mut Context<'_>,
    tunnel: &PortEntry,
    packet: &mut Packet,
    (headers, tos): (usize, u8),
) -> Verdict {
    // Whatever is there else is nothing to this end (RFC 7348 section 5: ignored).
    packet.meta.group = match tunnel.has_group_policy() {
        true => vxlan::read_group(packet.frame.bytes(), headers - vxlan::HEADER_LEN),
        false => None,
    };
    if !packet.frame.pull_front(headers as u16) {
        return Verdict::Drop(Reason::TunnelHeaderInvalid);
    }
    let (id, bytes) = (tunnel.id, packet.frame.len());
    packet.meta.in_port = id;
    ctx.counters.received(id, 1, bytes.into());
    if let Err(reason) = outside::parse(packet) {
        return Verdict::Drop(reason);
    }
    if !packet.meta.parsed.is_ip() {
        return Verdict::Drop(Reason::EthertypeUnknown);
    }
    if !set_ecn(packet, tos) {
        return Verdict::Drop(Reason::TunnelCongestion);
    }
    outside::admit(ctx, tunnel, packet)
}

/// The tunnel that an outer packet belongs to.
fn tunnel_of<'t>(
    ctx: &Context<'t>,
    uplink: &PortEntry,
    packet: &Packet,
) -> Result<&'t PortEntry, Reason> {
    let outer = &packet.meta.parsed;
    if outer.fragment != Fragment::NotFragment {
        return Err(Reason::TunnelFragment);
    }
    let at = usize::from(outer.l4) + udp::HEADER_LEN;
    let vni = vxlan::read_vni(packet.frame.bytes(), at).ok_or(Reason::TunnelHeaderInvalid)?;
    let (dst, unknown) = (flow_key::to_ip(&outer.key.dst), Reason::TunnelUnknown);
    let port = ctx.tables.tunnel(vni).ok_or(unknown)?;
    let tunnel = port.tunnel().ok_or(unknown)?;
    let here = tunnel.local(dst).is_none_or(|local| local == dst);
    if tunnel.port != outer.key.dport || tunnel.underlay != uplink.vrf || !here {
        return Err(unknown);
    }
    match ctx.tables.is_neighbor(port.id, &outer.key.src) {
        true => Ok(port),
        false => Err(Reason::TunnelPeerUnknown),
    }
}

/// Whether the outer UDP checksum is right or not there, which it need not be over IPv6 either: the other end is known, and the inner packet
/// has its own (RFC 6935, RFC 6936 section 4). A local sender may have summed up what it left to its device to finish.
fn is_checksum_right(packet: &Packet) -> bool {
    let (bytes, outer) = (packet.frame.bytes(), &packet.meta.parsed);
    let udp = bytes.get(outer.l4.into()..).and_then(UdpHeader::read);
    if udp.is_none_or(|udp| udp.checksum.get() == 0) {
        return udp.is_some();
    }
    let pseudo = partial::pseudo_sum(bytes, outer);
    pseudo.is_some_and(|pseudo| fragment::is_checksum_right(packet, pseudo))
}

/// Tells an inner packet what congestion the outer one met; false where it cannot be told.
#[inline(always)]
fn set_ecn(packet: &mut Packet, outer: u8) -> bool {
    let parsed = &mut packet.meta.parsed;
    let Some(tos) = ecn::decapsulate(parsed.tos, outer) else {
        return false;
    };
    if tos == parsed.tos {
        return true;
    }
    parsed.tos = tos;
    let Some(network) = packet.frame.bytes_mut().get_mut(parsed.l3.into()..) else {
        return false;
    };
    match parsed.kind {
        Kind::Ipv4 => Ipv4Header::read_mut(network).map(|ip| ip.set_tos(tos)),
        _ => Ipv6Header::read_mut(network).map(|ip| ip.set_traffic_class(tos)),
    };
    true
}
