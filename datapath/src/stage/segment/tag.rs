// SPDX-License-Identifier: Apache-2.0
//! Puts 802.1Q tags on and takes them off.

use crate::frame::{MACS, Packet};
use crate::wire::Parsed;
use crate::wire::eth::{self, TAG_LEN};
use crate::wire::parse::VlanTags;

/// Gives a packet's frame the tag of VLAN `vlan`, or none. A tag that was there keeps its priority bits. False, and nothing
/// changed, when there is no headroom.
#[must_use]
pub fn set_tag(packet: &mut Packet, vlan: Option<u16>) -> bool {
    let frame = &mut packet.frame;
    let parsed = &mut packet.meta.parsed;
    let present = eth::read_tag(frame.bytes(), MACS);
    match (present, vlan) {
        (None, None) => {}
        (Some(tag), Some(vid)) => {
            let tci = tag.tci & 0xf000 | vid;
            frame.write_tag(tci);
            parsed.vlan.outer_tci = tci;
        }
        (None, Some(vid)) => {
            if !frame.push_tag(vid) {
                return false;
            }
            parsed.vlan = VlanTags {
                outer_tci: vid,
                count: 1,
                ..VlanTags::default()
            };
            shift(parsed, TAG_LEN as i16);
        }
        (Some(_), None) => {
            if !frame.pull_tag() {
                return false;
            }
            parsed.vlan = VlanTags {
                outer_tci: parsed.vlan.inner_tci,
                inner_tci: 0,
                count: parsed.vlan.count.saturating_sub(1),
                service: false,
            };
            shift(parsed, -(TAG_LEN as i16));
        }
    }
    true
}

/// Moves the offsets that count from the start of the frame.
fn shift(parsed: &mut Parsed, by: i16) {
    parsed.l3 = parsed.l3.saturating_add_signed(by);
    parsed.l4 = parsed.l4.saturating_add_signed(by);
}
