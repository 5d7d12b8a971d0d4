// SPDX-License-Identifier: Apache-2.0
//! How large packets of tunnels may be beyond the first hop: routers on the way say so, in errors about the outer packets (RFC 1191, RFC 8201).
//!
//! Anybody can write such an error who knows who talks to whom. One counts only if it quotes a packet that this node may have sent (its own address,
//! a known other end, the tunnel's port, larger than what is said to fit), and what it says is not believed below what every way must take.

use super::{Context, fragment};
use crate::frame::Packet;
use crate::tables::{Adjacency, PortEntry};
use crate::wire::flow_key::{self, FlowKey};
use crate::wire::icmp::{self, IcmpHeader, v4, v6};
use crate::wire::quoted::quoted_key;
use crate::wire::{Fragment, Kind, Parsed, array_at, partial, protocol, vxlan};

/// Below it nothing is believed over IPv4: what every host must be able to receive (RFC 791). A router that takes less is one of another age.
const LEAST_V4: u16 = 576;
/// The least that an IPv6 link takes (RFC 8200 section 5).
const LEAST_V6: u16 = 1280;

/// The largest packet that a way takes.
#[inline(always)]
pub(super) fn of(ctx: &Context<'_>, way: &Adjacency) -> u32 {
    match way.wrapped {
        true => of_tunnel(ctx, way),
        false => way.mtu,
    }
}

fn of_tunnel(ctx: &Context<'_>, way: &Adjacency) -> u32 {
    let known = ctx.tables.wrap(way.index).and_then(|wrap| {
        let overhead = u32::from(wrap.template.as_ref()?.overhead());
        Some(wrap.path.get(ctx.now.0)?.saturating_sub(overhead))
    });
    way.mtu.min(known.unwrap_or(u32::MAX))
}

/// Takes note of an error to this node that says how large packets to another end may be; false when it is none, or not to be believed.
#[cold]
#[inline(never)]
pub(super) fn hear(ctx: &Context<'_>, uplink: &PortEntry, packet: &Packet) -> bool {
    let Some((about, mtu)) = too_big(packet) else {
        return false;
    };
    if about.src != packet.meta.parsed.key.dst || !vxlan::is_source_port(about.sport) {
        return false;
    }
    let (local, remote) = (flow_key::to_ip(&about.src), flow_key::to_ip(&about.dst));
    let mut known = false;
    for index in ctx.tables.to_other_end(remote) {
        let way = ctx.tables.adjacency(*index).filter(|way| way.resolved);
        let tunnel = way.and_then(|way| ctx.tables.port(way.port)?.tunnel());
        let sent = tunnel.is_some_and(|tunnel| {
            let here = tunnel.local(remote).is_none_or(|address| address == local);
            here && tunnel.port == about.dport && tunnel.underlay == uplink.vrf
        });
        if let Some(wrap) = ctx.tables.wrap(*index).filter(|_| sent) {
            wrap.path.learn(mtu, ctx.now.0);
            known = true;
        }
    }
    known
}

/// The UDP packet that was too large, and what would have fitted, of an error that says so.
fn too_big(packet: &Packet) -> Option<(FlowKey, u16)> {
    let (frame, parsed) = (packet.frame.bytes(), &packet.meta.parsed);
    let header = IcmpHeader::read(frame.get(parsed.l4.into()..)?)?;
    let at = usize::from(parsed.l4) + icmp::HEADER_LEN;
    let [_, _, a, b] = header.rest;
    let (said, least, quoted) = match (parsed.kind, parsed.protocol) {
        (Kind::Ipv4, protocol::ICMP) => {
            let code = v4::unreachable::FRAGMENTATION_NEEDED;
            let is = (header.kind, header.code) == (v4::UNREACHABLE, code);
            let length = u16::from_be_bytes(*array_at(frame, at + 2)?);
            // 0 is of a router that does not know RFC 1191.
            let said = u16::from_be_bytes([a, b]);
            (Some(said).filter(|mtu| is && *mtu > 0)?, LEAST_V4, length)
        }
        (Kind::Ipv6, protocol::ICMPV6) if header.kind == v6::PACKET_TOO_BIG => {
            let length = u16::from_be_bytes(*array_at(frame, at + 4)?);
            let said = u16::try_from(u32::from_be_bytes(header.rest)).ok()?;
            (said, LEAST_V6, length.saturating_add(40))
        }
        _ => return None,
    };
    let about = quoted_key(frame, parsed)?;
    let believed = about.protocol() == protocol::UDP && quoted > said && is_whole(packet, parsed);
    believed.then_some((about, said.max(least)))
}

/// Whether the error is in one piece with a right checksum.
fn is_whole(packet: &Packet, parsed: &Parsed) -> bool {
    let pseudo = match parsed.kind {
        Kind::Ipv4 => Some(0),
        _ => partial::pseudo_sum(packet.frame.bytes(), parsed),
    };
    let pseudo = pseudo.filter(|_| parsed.fragment == Fragment::NotFragment);
    pseudo.is_some_and(|pseudo| fragment::is_checksum_right(packet, pseudo))
}
