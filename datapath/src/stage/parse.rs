// SPDX-License-Identifier: Apache-2.0
//! One look at the headers, and what follows from them for the frame itself: what Ethernet padded goes, and a
//! checksum that the sender left for its device to finish is noted.

use super::Context;
use crate::frame::{Offload, Packet};
use crate::tables::PortEntry;
use crate::verdict::Reason;
use crate::wire::{self, Kind, partial};

/// Fills `packet.meta.parsed`, with the key in the port's VRF or segment.
#[inline(always)]
pub(super) fn run(
    ctx: &mut Context<'_>,
    port: &PortEntry,
    packet: &mut Packet,
    vlan_allowed: bool,
) -> Result<(), Reason> {
    let frame = &mut packet.frame;
    let parsed = &mut packet.meta.parsed;
    wire::parse_into(frame.bytes(), frame.len(), vlan_allowed, parsed)?;
    if !matches!(parsed.kind, Kind::Ipv4 | Kind::Ipv6) {
        return Ok(());
    }
    parsed.key.set_vrf(port.vrf);
    if frame.len() > parsed.frame_len() {
        ctx.pool.truncate(frame, parsed.frame_len());
    }
    if ctx.caps.local_sender
        && !frame.offload.partial_checksum
        && let Some(at) = partial::detect(frame.bytes(), parsed)
    {
        frame.offload = Offload {
            partial_checksum: true,
            csum_start: at.start,
            csum_offset: at.offset,
            ..frame.offload
        };
    }
    Ok(())
}
