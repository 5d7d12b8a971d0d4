// SPDX-License-Identifier: Apache-2.0
//! L2 segments: switching by MAC address, after IEEE 802.1Q.
//!
//! 1. Frames to `01:80:C2:00:00:0x` end ([`Reason::LinkLocalControl`]).
//! 2. The port's VLANs say which VLAN a frame is in: one without a tag (or with a priority tag) in the access VLAN, one with
//!    a tag in its VLAN if that is the port's. A second tag is the station's own affair behind a trunk; elsewhere it ends, so that
//!    no tag can come to light by taking another one off.
//! 3. The source is learned, unless the port's MAC is fixed, the segment does not learn, or there is no room. A source that
//!    is fixed to another port ends ([`Reason::FdbMove`]).
//! 4. Egress policy of the port, for IP.
//! 5. Groups are flooded within the segment's limit; a known address leaves by its port; an unknown one is flooded within its
//!    own limit, if the segment floods those at all.
//! 6. Where it leaves: MTU, VLAN, ingress policy, tag. A [`superframe`] that does not fit is cut; of a flooded one the
//!    limit counts each segment.
//!
//! Limits are of each worker.

mod flood;
mod learned;
mod tag;

pub use flood::{FloodCopy, members};
pub use learned::{DEFAULT_ENTRIES, Learned, LearnedEntry};
pub use tag::set_tag;

use super::source::check_mac;
use super::{Context, policy, superframe, trim};
use crate::counters::{Event, WorkerCounters};
use crate::frame::{Meta, Packet};
use crate::ids::{VrfId, WorkerId};
use crate::tables::{Direction, PortEntry, PortKind, Segment, Tables, Vlan};
use crate::verdict::{Reason, Verdict};
use crate::wire::MacAddr;
use crate::wire::eth::EthernetHeader;
use crate::wire::parse::{VlanTags, parse_into, parse_link};
use learned::{Learning, Station};

/// An L2 port's part of its entry.
#[derive(Clone, Copy)]
struct L2<'a> {
    segment: VrfId,
    vlan: &'a Vlan,
    fixed_mac: bool,
}

impl<'a> L2<'a> {
    fn of(port: &'a PortEntry) -> Option<L2<'a>> {
        match &port.kind {
            PortKind::L2 {
                segment,
                vlan,
                fixed_mac,
            } => Some(L2 {
                segment: *segment,
                vlan,
                fixed_mac: *fixed_mac,
            }),
            _ => None,
        }
    }

    /// The VLAN (0: none) of a frame from the port with these tags.
    fn vlan_of(&self, tags: VlanTags) -> Option<u16> {
        let trunk = matches!(self.vlan, Vlan::Trunk(_));
        if tags.service || tags.is_stacked() && !trunk {
            return None;
        }
        self.vlan.of_frame(tags.vid().unwrap_or(0))
    }
}

/// The verdict on a frame that came from an L2 port.
pub(super) fn run(ctx: &mut Context<'_>, port: &PortEntry, packet: &mut Packet) -> Verdict {
    match switch(ctx, port, packet) {
        Ok(verdict) => verdict,
        Err(reason) => Verdict::Drop(reason),
    }
}

fn switch(ctx: &mut Context<'_>, port: &PortEntry, packet: &mut Packet) -> Result<Verdict, Reason> {
    let (bytes, len) = (packet.frame.bytes(), packet.frame.len());
    parse_into(bytes, len, true, &mut packet.meta.parsed)?;
    packet.meta.parsed.key.set_vrf(port.vrf);
    let parsed = packet.meta.parsed;
    if parsed.is_ip() {
        let unfinished = trim::unfinished(ctx.caps, &packet.frame, &parsed);
        trim::finish(ctx.pool, &mut packet.frame, &parsed, unfinished);
    }
    check_mac(port, packet.frame.bytes())?;
    let l2 = L2::of(port).ok_or(Reason::NoSegment)?;
    let segment = ctx.tables.segment(l2.segment).ok_or(Reason::NoSegment)?;
    let eth = *EthernetHeader::read(packet.frame.bytes()).ok_or(Reason::TruncatedEthernet)?;
    if eth.dst.is_link_local_control() {
        return Err(Reason::LinkLocalControl);
    }
    let vlan = l2.vlan_of(parsed.vlan).ok_or(Reason::VlanNotExpected)?;
    learn(ctx, segment, port, vlan, eth.src)?;
    let bytes = packet.frame.len();
    let half = policy::judge_frame(port, Direction::Egress, &parsed);
    policy::enforce(ctx.counters, &half, bytes)?;
    let limit_reason = if eth.dst.is_multicast() {
        Reason::BroadcastLimit
    } else if let Some(out) = find(ctx, segment, vlan, eth.dst) {
        return unicast(ctx, port, out, packet, vlan);
    } else if segment.spec.flood_unknown {
        Reason::UnknownUnicastLimit
    } else {
        return Err(Reason::UnknownUnicastLimit);
    };
    flood(ctx, segment, packet, limit_reason)
}

/// A frame to all; `limit` says which limit counts it.
fn flood(
    ctx: &mut Context<'_>,
    segment: &Segment,
    packet: &mut Packet,
    limit: Reason,
) -> Result<Verdict, Reason> {
    take(ctx, segment, limit)?;
    if !superframe::is_one(ctx.caps, packet) {
        return Ok(Verdict::Flood);
    }
    let mtu = smallest_mtu(ctx.tables, segment).min(superframe::longest(ctx.caps, packet));
    if packet.meta.parsed.l3_len > mtu {
        let begin = ctx.extra.len();
        superframe::cut(ctx, packet, mtu, Verdict::Flood)?;
        for at in begin..ctx.extra.len() {
            if let Err(reason) = take(ctx, segment, limit) {
                ctx.extra[at].meta.verdict = Verdict::Drop(reason);
            }
        }
    }
    Ok(Verdict::Flood)
}

/// What fits every port of the segment.
fn smallest_mtu(tables: &Tables, segment: &Segment) -> u32 {
    let members = segment.members().iter();
    let mtus = members.filter_map(|m| Some(tables.port(m.port)?.mtu));
    mtus.min().unwrap_or(u32::MAX)
}

/// Counts one flooded frame; `Err` when that is more than `limit` lets on.
fn take(ctx: &mut Context<'_>, segment: &Segment, limit: Reason) -> Result<(), Reason> {
    if !ctx.fdb.flood(segment, limit, ctx.now) {
        return Err(limit);
    }
    ctx.counters.event(Event::Flooded, 1);
    Ok(())
}

/// Notes where `mac` is. `Err` when it is fixed to another port.
fn learn(
    ctx: &mut Context<'_>,
    segment: &Segment,
    port: &PortEntry,
    vlan: u16,
    mac: MacAddr,
) -> Result<(), Reason> {
    match segment.fixed(vlan, mac) {
        Some(fixed) if fixed == port.id => return Ok(()),
        Some(_) => return Err(Reason::FdbMove),
        None => {}
    }
    if !segment.spec.learn || L2::of(port).is_none_or(|l2| l2.fixed_mac) {
        return Ok(());
    }
    let station = Station {
        segment: segment.id(),
        vlan,
        mac,
    };
    let room = (segment.spec.max_entries as usize).saturating_sub(segment.fixed_len());
    let event = match ctx.fdb.learn(station, port.id, ctx.now.millis(), room) {
        Learning::Known => return Ok(()),
        Learning::New => Event::FdbLearned,
        Learning::Moved => Event::FdbMoved,
        Learning::Full => Event::FdbFull,
    };
    ctx.counters.event(event, 1);
    Ok(())
}

/// The port that `mac` is behind.
fn find<'a>(
    ctx: &Context<'a>,
    segment: &Segment,
    vlan: u16,
    mac: MacAddr,
) -> Option<&'a PortEntry> {
    let learned = || {
        let station = Station {
            segment: segment.id(),
            vlan,
            mac,
        };
        ctx.fdb.find(&station, ctx.now.millis(), ageing(segment))
    };
    let port = ctx
        .tables
        .port(segment.fixed(vlan, mac).or_else(learned)?)?;
    // What was learned may speak of a port that is something else by now.
    let l2 = L2::of(port)?;
    (l2.segment == segment.id() && l2.vlan.contains(vlan)).then_some(port)
}

/// Milliseconds after which what was learned is forgotten.
fn ageing(segment: &Segment) -> u32 {
    segment.spec.ageing_seconds.saturating_mul(1000)
}

/// A frame to the one port `out`.
fn unicast(
    ctx: &mut Context<'_>,
    port: &PortEntry,
    out: &PortEntry,
    packet: &mut Packet,
    vlan: u16,
) -> Result<Verdict, Reason> {
    if out.id == port.id {
        return Err(Reason::SamePort);
    }
    let bytes = packet.frame.len();
    let mtu = out.mtu.min(superframe::longest(ctx.caps, packet));
    let fits = fits(mtu, &packet.meta, bytes);
    if !superframe::is_one(ctx.caps, packet) {
        fits?;
    }
    let tag = admit(ctx.counters, ctx.me, out, &packet.meta, bytes, vlan)?;
    if !set_tag(packet, tag) {
        return Err(Reason::NoMemory);
    }
    let verdict = Verdict::Forward(out.id);
    if fits.is_err() && !superframe::leaves_whole(ctx, packet, mtu, out.id) {
        superframe::cut(ctx, packet, mtu, verdict)?;
    }
    Ok(verdict)
}

/// Whether a frame of `bytes` bytes is within an MTU.
fn fits(mtu: u32, meta: &Meta, bytes: u32) -> Result<(), Reason> {
    match bytes.saturating_sub(meta.parsed.l3.into()) <= mtu {
        true => Ok(()),
        false => Err(Reason::PacketTooBig),
    }
}

/// Whether a frame of `bytes` bytes, fit or to be cut, may leave by `out`, a member of the VLAN, and with which tag.
fn admit(
    counters: &WorkerCounters,
    me: WorkerId,
    out: &PortEntry,
    meta: &Meta,
    bytes: u32,
    vlan: u16,
) -> Result<Option<u16>, Reason> {
    let parsed = &meta.parsed;
    let tag = match L2::of(out).ok_or(Reason::NoSegment)?.vlan {
        Vlan::Trunk(_) => Some(vlan),
        Vlan::None | Vlan::Access(_) if parsed.vlan.is_stacked() => {
            return Err(Reason::VlanNotExpected);
        }
        Vlan::None | Vlan::Access(_) => None,
    };
    if out.worker == me {
        let half = policy::judge_frame(out, Direction::Ingress, parsed);
        policy::enforce(counters, &half, bytes)?;
    }
    Ok(tag)
}

/// Learns from a frame that another worker gave to this one for `out`, whose tags it wears: answers to it will come from
/// this worker's ports.
pub(super) fn learn_handed_over(ctx: &mut Context<'_>, out: &PortEntry, packet: &Packet) {
    let bytes = packet.frame.bytes();
    let (Some(l2), Some(from)) = (L2::of(out), ctx.tables.port(packet.meta.in_port)) else {
        return;
    };
    if L2::of(from).is_none_or(|of| of.segment != l2.segment) {
        return;
    }
    let (Some(segment), Some(eth), Ok(link)) = (
        ctx.tables.segment(l2.segment),
        EthernetHeader::read(bytes),
        parse_link(bytes, true),
    ) else {
        return;
    };
    if let Some(vlan) = l2.vlan_of(link.vlan) {
        // The sender's worker has judged the source already.
        let _ = learn(ctx, segment, from, vlan, eth.src);
    }
}

impl Learned {
    /// Looks at the next `slots` places and frees addresses that have not been heard for the ageing time of their segment, or
    /// whose segment is gone. Called a little at a time, it comes around.
    pub fn age(
        &mut self,
        tables: &Tables,
        now: super::Now,
        slots: usize,
        counters: &WorkerCounters,
    ) {
        let of_segment = |id: VrfId| tables.segment(id).map(ageing);
        let freed = self.free_old(now.millis(), slots, of_segment);
        if freed > 0 {
            counters.event(Event::FdbAged, freed as u64);
        }
    }
}
