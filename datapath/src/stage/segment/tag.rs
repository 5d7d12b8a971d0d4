// SPDX-License-Identifier: Apache-2.0
//! Puts 802.1Q tags on and takes them off.

use crate::frame::Packet;
use crate::wire::eth::{self, TAG_LEN, ethertype};
use crate::wire::parse::VlanTags;

/// Bytes of the two MAC addresses in front of a tag.
const MACS: usize = 12;

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
            write_tag(frame.bytes_mut(), tci);
            parsed.vlan.outer_tci = tci;
        }
        (None, Some(vid)) => {
            if !frame.push_front(TAG_LEN as u16) {
                return false;
            }
            let bytes = frame.bytes_mut();
            bytes.copy_within(TAG_LEN..TAG_LEN + MACS, 0);
            write_tag(bytes, vid);
            shift(packet, TAG_LEN as i16);
            packet.meta.parsed.vlan = VlanTags {
                outer_tci: vid,
                count: 1,
                ..VlanTags::default()
            };
        }
        (Some(_), None) => {
            frame.bytes_mut().copy_within(..MACS, TAG_LEN);
            if !frame.pull_front(TAG_LEN as u16) {
                return false;
            }
            parsed.vlan = VlanTags {
                outer_tci: parsed.vlan.inner_tci,
                inner_tci: 0,
                count: parsed.vlan.count.saturating_sub(1),
                service: false,
            };
            shift(packet, -(TAG_LEN as i16));
        }
    }
    true
}

fn write_tag(bytes: &mut [u8], tci: u16) {
    let [t, p] = ethertype::VLAN.to_be_bytes();
    let [h, l] = tci.to_be_bytes();
    if let Some(place) = bytes.get_mut(MACS..MACS + TAG_LEN) {
        place.copy_from_slice(&[t, p, h, l]);
    }
}

/// Moves the offsets that count from the start of the frame.
fn shift(packet: &mut Packet, by: i16) {
    let parsed = &mut packet.meta.parsed;
    parsed.l3 = parsed.l3.saturating_add_signed(by);
    parsed.l4 = parsed.l4.saturating_add_signed(by);
    let offload = &mut packet.frame.offload;
    if offload.partial_checksum {
        offload.csum_start = offload.csum_start.saturating_add_signed(by);
    }
}
