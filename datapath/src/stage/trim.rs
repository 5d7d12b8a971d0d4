// SPDX-License-Identifier: Apache-2.0
//! What follows from the headers for the frame itself: what Ethernet padded goes, and a checksum that the sender left
//! for its device to finish is noted.

use crate::frame::{Frame, Pool};
use crate::port::Caps;
use crate::wire::Parsed;
use crate::wire::partial::{self, PartialChecksum};

/// The checksum that the sender of an IP packet left unfinished, or the kernel when it merged segments whose checksums it had found right.
#[inline(always)]
pub(super) fn unfinished(caps: Caps, frame: &Frame, parsed: &Parsed) -> Option<PartialChecksum> {
    match caps.local_sender || frame.offload.partial_checksum {
        true => partial::detect(frame.bytes(), parsed),
        false => None,
    }
}

/// Trims the frame of an IP packet to it, and notes an unfinished checksum.
#[inline(always)]
pub(super) fn finish(
    pool: &mut Pool,
    frame: &mut Frame,
    parsed: &Parsed,
    unfinished: Option<PartialChecksum>,
) {
    if frame.len() > parsed.frame_len() {
        pool.truncate(frame, parsed.frame_len());
    }
    frame.offload.partial_checksum = unfinished.is_some();
    if let Some(at) = unfinished {
        frame.offload.csum_start = at.start;
        frame.offload.csum_offset = at.offset;
    }
}
