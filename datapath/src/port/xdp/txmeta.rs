// SPDX-License-Identifier: Apache-2.0
//! Partial checksums passed on: `struct xsk_tx_metadata` in the bytes in front of a frame, and the option on its first
//! descriptor (Documentation/networking/xsk-tx-metadata.rst). The kernel then marks the frame as one whose transport
//! checksum is still to be filled, which the receiving pod's stack takes as right.
#![forbid(unsafe_code)]

use crate::frame::{METADATA_ROOM, Offload};

/// Shortest frame the checksum may begin in: behind an Ethernet header.
const ETHERNET_HEADER: u16 = 14;

/// The metadata that asks for the checksum of `offload` over a frame whose first segment has `first` bytes; `None` when
/// the place of the checksum is not within it, which the kernel would answer by blocking the queue (EINVAL from every
/// further kick).
pub(super) fn checksum(offload: &Offload, first: u16) -> Option<[u8; METADATA_ROOM]> {
    let end = u32::from(offload.csum_start) + u32::from(offload.csum_offset) + 2;
    if offload.csum_start < ETHERNET_HEADER || end > first.into() {
        return None;
    }
    let mut metadata = [0u8; METADATA_ROOM];
    metadata[0..8].copy_from_slice(&u64::from(libc::XDP_TXMD_FLAGS_CHECKSUM).to_ne_bytes());
    metadata[8..10].copy_from_slice(&offload.csum_start.to_ne_bytes());
    metadata[10..12].copy_from_slice(&offload.csum_offset.to_ne_bytes());
    Some(metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offload(csum_start: u16, csum_offset: u16) -> Offload {
        Offload {
            partial_checksum: true,
            csum_start,
            csum_offset,
            ..Offload::default()
        }
    }

    #[test]
    fn the_request_is_laid_out_as_the_kernel_reads_it() {
        let bytes = checksum(&offload(34, 16), 54).unwrap();
        let mut expected = [0u8; 24];
        expected[0..8].copy_from_slice(&2u64.to_ne_bytes());
        expected[8..10].copy_from_slice(&34u16.to_ne_bytes());
        expected[10..12].copy_from_slice(&16u16.to_ne_bytes());
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_checksum_outside_the_first_segment_is_refused() {
        assert!(checksum(&offload(34, 16), 52).is_some());
        assert!(checksum(&offload(34, 16), 51).is_none());
        assert!(checksum(&offload(13, 16), 60).is_none());
        assert!(checksum(&offload(u16::MAX, u16::MAX), u16::MAX).is_none());
    }
}
