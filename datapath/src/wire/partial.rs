// SPDX-License-Identifier: Apache-2.0
//! Partial checksums: what a local sender left for the device to finish.
//!
//! A pod's kernel hands TCP and UDP packets over with the field holding the folded sum of the pseudo-header, not
//! complemented, and SCTP packets with a CRC of zero, because its veth promises to finish them. A frame that
//! came from local memory and looks so is finished by summing from the transport header to the end. Should a complete
//! checksum happen to equal the pseudo-header's sum, finishing it again gives the same value, so the test
//! is never wrong for such frames. It must not be used for frames from a wire: there it would turn
//! a corrupted packet into a valid one.

use super::parse::{Fragment, Kind, Parsed};
use super::{array_at, checksum, ipv6, protocol, sctp, tcp, udp};

/// Where an unfinished checksum is: `csum_start` and `csum_offset` of a virtio_net_hdr (virtio 1.2 section 5.1.6),
/// or of AF_XDP transmit metadata.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartialChecksum {
    /// Offset of the transport header in the frame: the sum starts here.
    pub start: u16,
    /// Offset of the field from `start`: 16 (TCP), 6 (UDP) or 8 (SCTP, where a CRC32c is meant).
    pub offset: u16,
}

impl PartialChecksum {
    /// The field holds a CRC32c (SCTP), which devices that sum cannot finish.
    #[inline]
    pub fn is_crc32c(self) -> bool {
        self.offset == sctp::CHECKSUM_OFFSET
    }

    /// Offset of the field in the frame.
    #[inline]
    fn field(self) -> usize {
        self.start as usize + self.offset as usize
    }
}

/// Whether the frame's transport checksum is unfinished. `frame` is the first segment, `parsed` what
/// [`parse`](super::parse::parse) said of it.
///
/// `None` for fragments, for UDP without a checksum, and for UDP that is shorter than its packet (no kernel leaves such
/// unfinished).
#[inline(always)]
pub fn detect(frame: &[u8], parsed: &Parsed) -> Option<PartialChecksum> {
    if parsed.fragment != Fragment::NotFragment {
        return None;
    }
    let start = parsed.l4;
    let l4 = start as usize;
    let (field, offset) = match parsed.protocol {
        protocol::TCP => {
            let head: &[u8; tcp::HEADER_LEN] = array_at(frame, l4)?;
            ([head[16], head[17]], tcp::CHECKSUM_OFFSET)
        }
        protocol::UDP => {
            let head: &[u8; udp::HEADER_LEN] = array_at(frame, l4)?;
            let length = u16::from_be_bytes([head[4], head[5]]) as u32;
            if length != parsed.l4_len() || head[6..8] == [0; 2] {
                return None;
            }
            ([head[6], head[7]], udp::CHECKSUM_OFFSET)
        }
        protocol::SCTP => {
            let head: &[u8; sctp::HEADER_LEN] = array_at(frame, l4)?;
            let offset = sctp::CHECKSUM_OFFSET;
            let partial = head[8..12] == [0; 4];
            return partial.then_some(PartialChecksum { start, offset });
        }
        _ => return None,
    };
    let partial = u16::from_be_bytes(field) == pseudo_sum(frame, parsed)?;
    partial.then_some(PartialChecksum { start, offset })
}

/// Sum of the packet's pseudo-header.
#[inline(always)]
pub(crate) fn pseudo_sum(frame: &[u8], parsed: &Parsed) -> Option<u16> {
    let (src, dst) = (&parsed.key.src, &parsed.key.dst);
    let (protocol, len) = (parsed.protocol, parsed.l4_len());
    match parsed.kind {
        Kind::Ipv4 => {
            let (src, dst) = (*array_at(src, 12)?, *array_at(dst, 12)?);
            Some(checksum::pseudo_v4(src, dst, protocol, len))
        }
        Kind::Ipv6 if len + ipv6::HEADER_LEN as u32 == parsed.l3_len => {
            Some(checksum::pseudo_v6(src, dst, protocol, len))
        }
        Kind::Ipv6 => pseudo_sum_extended(frame, parsed),
        Kind::Arp | Kind::Other => None,
    }
}

/// As [`pseudo_sum`], of an IPv6 packet with extension headers: the destination may stand in one of them.
#[cold]
fn pseudo_sum_extended(frame: &[u8], parsed: &Parsed) -> Option<u16> {
    let packet = frame.get(parsed.l3 as usize..)?;
    let upper = parsed.l4.checked_sub(parsed.l3)? as usize;
    let dst = ipv6::final_destination(packet, upper)?;
    let (protocol, len) = (parsed.protocol, parsed.l4_len());
    Some(checksum::pseudo_v6(&parsed.key.src, &dst, protocol, len))
}

/// Finishes the checksum of the frame made of `segments`, in order; `frame_len` is [`Parsed::frame_len`]: what lies behind
/// it is padding and not summed. The first segment must hold the field (it does after [`detect`]); otherwise, and when
/// the segments are shorter than `frame_len`, the frame stays as it is. Returns whether the field was written.
pub fn fill<'a>(
    partial: PartialChecksum,
    frame_len: u32,
    segments: impl IntoIterator<Item = &'a mut [u8]>,
) -> bool {
    let mut segments = segments.into_iter();
    let Some(first) = segments.next() else {
        return false;
    };
    let (start, field) = (partial.start as usize, partial.field());
    let Some(mut left) = (frame_len as usize).checked_sub(start) else {
        return false;
    };
    let Some(covered) = first.get(start..) else {
        return false;
    };
    let covered = &covered[..covered.len().min(left)];
    left -= covered.len();

    if partial.is_crc32c() {
        let mut crc = sctp::Crc32c::new();
        crc.push(covered);
        let rest = segments.map(|s| &*s);
        if !push_rest(left, rest, |s| crc.push(s)) {
            return false;
        }
        return store(first, field, crc.get().to_le_bytes());
    }
    let mut sum = checksum::Sum::new(0);
    sum.push(covered);
    let rest = segments.map(|s| &*s);
    if !push_rest(left, rest, |s| sum.push(s)) {
        return false;
    }
    let checksum = match sum.checksum() {
        // Zero would say "no checksum" (RFC 768).
        0 if partial.offset == udp::CHECKSUM_OFFSET => 0xffff,
        checksum => checksum,
    };
    store(first, field, checksum.to_be_bytes())
}

/// Feeds `left` bytes of `segments` to `push`; false if there are fewer.
fn push_rest<'a>(
    mut left: usize,
    segments: impl Iterator<Item = &'a [u8]>,
    mut push: impl FnMut(&[u8]),
) -> bool {
    for segment in segments {
        if left == 0 {
            break;
        }
        let part = &segment[..segment.len().min(left)];
        push(part);
        left -= part.len();
    }
    left == 0
}

fn store<const N: usize>(first: &mut [u8], field: usize, value: [u8; N]) -> bool {
    match super::array_at_mut::<N>(first, field) {
        Some(out) => {
            *out = value;
            true
        }
        None => false,
    }
}
