// SPDX-License-Identifier: Apache-2.0
//! The outer tag of a frame (IEEE 802.1Q section 9.6): four bytes behind the MAC addresses.
#![forbid(unsafe_code)]

use super::Frame;
use crate::wire::eth::{TAG_LEN, ethertype};

/// Bytes in front of the tag.
pub(crate) const MACS: usize = 12;

impl Frame {
    /// Puts in the tag of a VLAN, 1 to 4094, of priority 0. False, and nothing changed, when the headroom is too small.
    #[must_use]
    #[inline]
    pub fn push_tag(&mut self, vlan: u16) -> bool {
        if self.bytes().len() < MACS || !self.push_front(TAG_LEN as u16) {
            return false;
        }
        self.bytes_mut().copy_within(TAG_LEN..TAG_LEN + MACS, 0);
        self.write_tag(vlan);
        self.shift_offload(TAG_LEN as i16);
        true
    }

    /// Takes out the tag of a frame that has one. False, and nothing changed, when the first segment ends before its end.
    #[must_use]
    #[inline]
    pub fn pull_tag(&mut self) -> bool {
        if self.bytes().len() < MACS + TAG_LEN {
            return false;
        }
        self.bytes_mut().copy_within(..MACS, TAG_LEN);
        self.shift_offload(-(TAG_LEN as i16));
        self.pull_front(TAG_LEN as u16)
    }

    /// Writes a tag over the one that is there.
    #[inline]
    pub(crate) fn write_tag(&mut self, tci: u16) {
        let [t, p] = ethertype::VLAN.to_be_bytes();
        let [h, l] = tci.to_be_bytes();
        if let Some(place) = self.bytes_mut().get_mut(MACS..MACS + TAG_LEN) {
            place.copy_from_slice(&[t, p, h, l]);
        }
    }

    /// Moves the offsets that count from the start of the frame; 0 says that there is none.
    #[inline]
    fn shift_offload(&mut self, by: i16) {
        for at in [&mut self.offload.csum_start, &mut self.offload.hdr_len] {
            if *at > 0 {
                *at = at.saturating_add_signed(by);
            }
        }
    }
}
