// SPDX-License-Identifier: Apache-2.0
//! Flooding: how much of it, and where to.

use super::{L2, admit, fits};
use crate::counters::WorkerCounters;
use crate::frame::Packet;
use crate::ids::{PortId, VrfId, WorkerId};
use crate::stage::Now;
use crate::stage::limit::{Rate, TokenBucket};
use crate::tables::limits::MAX_SEGMENTS;
use crate::tables::{Segment, SegmentSpec, Tables};
use crate::verdict::{Reason, Verdict};

/// One port a flooded packet goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FloodCopy {
    /// The port, not the one the packet came from.
    pub port: PortId,
    /// The VLAN tag the copy wears ([`set_tag`](super::set_tag)); none: it wears no tag.
    pub tag: Option<u16>,
    /// [`Verdict::Forward`] to the port, or [`Verdict::Drop`] for a member that must not have it.
    pub verdict: Verdict,
}

/// The ports that a packet with [`Verdict::Flood`] goes to: members of its VLAN other than the one it came from. For ports of
/// worker `me` ingress policy has been asked and counted; a copy for another worker's port is judged there.
pub fn members<'a>(
    tables: &'a Tables,
    counters: &'a WorkerCounters,
    me: WorkerId,
    packet: &Packet,
) -> impl Iterator<Item = FloodCopy> + use<'a> {
    let meta = packet.meta;
    let bytes = packet.frame.len();
    let found = tables.port(meta.in_port).and_then(L2::of).and_then(|l2| {
        let vlan = l2.vlan_of(meta.parsed.vlan)?;
        Some((tables.segment(l2.segment)?, vlan))
    });
    found.into_iter().flat_map(move |(segment, vlan)| {
        let others = segment
            .members()
            .iter()
            .filter(move |m| m.port != meta.in_port && m.vlan.contains(vlan));
        others.filter_map(move |member| {
            let out = tables.port(member.port)?;
            let admitted = fits(out.mtu, &meta, bytes)
                .and_then(|()| admit(counters, me, out, &meta, bytes, vlan));
            let (tag, verdict) = match admitted {
                Ok(tag) => (tag, Verdict::Forward(out.id)),
                Err(reason) => (None, Verdict::Drop(reason)),
            };
            Some(FloodCopy {
                port: out.id,
                tag,
                verdict,
            })
        })
    })
}

/// A segment's token buckets on this worker.
#[derive(Clone, Copy, Debug)]
struct Buckets {
    segment: VrfId,
    unknown_unicast: TokenBucket,
    broadcast: TokenBucket,
}

/// How much this worker may still flood, segment by segment. Its memory is taken once.
#[derive(Debug)]
pub(super) struct FloodLimits {
    /// Sorted by segment.
    segments: Vec<Buckets>,
}

impl FloodLimits {
    pub(super) fn new() -> FloodLimits {
        FloodLimits {
            segments: Vec::with_capacity(2 * MAX_SEGMENTS),
        }
    }

    /// Whether one more frame may be flooded; `limit` says by which limit.
    pub(super) fn take(&mut self, segment: &Segment, limit: Reason, now: Now) -> bool {
        let id = segment.id();
        let at = match self.segments.binary_search_by_key(&id, |b| b.segment) {
            Ok(at) => at,
            Err(at) if self.segments.len() < self.segments.capacity() => {
                let new = Buckets {
                    segment: id,
                    unknown_unicast: TokenBucket::default(),
                    broadcast: TokenBucket::default(),
                };
                self.segments.insert(at, new);
                at
            }
            // Every place holds a segment that was flooded once; all but the present ones are gone. They begin anew.
            Err(_) => {
                self.segments.clear();
                return self.take(segment, limit, now);
            }
        };
        let spec: &SegmentSpec = &segment.spec;
        let buckets = &mut self.segments[at];
        match limit {
            Reason::UnknownUnicastLimit => {
                let rate = rate(spec.unknown_unicast_limit);
                buckets.unknown_unicast.take(rate, now)
            }
            _ => buckets.broadcast.take(rate(spec.broadcast_limit), now),
        }
    }
}

/// A tenth of a second's frames may come at once, and at least 32.
fn rate(per_second: u32) -> Rate {
    Rate {
        per_second,
        burst: (per_second / 10).max(32).min(per_second),
    }
}
