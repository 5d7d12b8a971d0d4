// SPDX-License-Identifier: Apache-2.0
//! Cuts an IPv4 packet that is larger than the way out and may be fragmented (RFC 791 section 3.2, RFC 1812 section
//! 5.2.7). The packet itself becomes the first fragment; the others are new frames in [`Context::extra`].

use super::Context;
use crate::counters::Event;
use crate::frame::{Frame, Packet};
use crate::verdict::{Reason, Verdict};
use crate::wire::Parsed;
use crate::wire::ipv4::{self, Ipv4Header, option};
use crate::wire::{Fragment, checksum, partial};

/// Longest IPv4 header behind an Ethernet header with two tags, bytes.
const MAX_HEADERS: usize = 22 + 60;

/// Cuts `packet`, already rewritten for its way, so that every piece has at most `mtu` bytes. All pieces carry `verdict`,
/// and the metadata of the whole packet: whoever judges them later judges the packet.
///
/// # Errors
/// [`Reason::NoMemory`] when chunks or places for the pieces are short, [`Reason::PacketTooBig`] when not even eight
/// bytes of payload fit.
#[cold]
pub(super) fn cut(
    ctx: &mut Context<'_>,
    packet: &mut Packet,
    mtu: u32,
    verdict: Verdict,
) -> Result<(), Reason> {
    if !ctx.pool.fetch(&mut packet.frame) {
        return Err(Reason::NoMemory);
    }
    if !finish_checksum(ctx, packet) {
        return Err(Reason::PacketTooBig);
    }
    let parsed = packet.meta.parsed;
    let (l3, l4) = (usize::from(parsed.l3), usize::from(parsed.l4));
    let mut headers = [0; MAX_HEADERS];
    let whole = packet.frame.bytes().get(..l4).ok_or(Reason::PacketTooBig)?;
    headers
        .get_mut(..l4)
        .ok_or(Reason::PacketTooBig)?
        .copy_from_slice(whole);
    let original = *Ipv4Header::read(&headers[l3..]).ok_or(Reason::PacketTooBig)?;

    // What fits behind the header, in units of eight bytes.
    let room = |header_len: usize| ((mtu as usize).saturating_sub(header_len) & !7) as u32;
    let first = room(l4 - l3);
    let later_l4 = l3 + drop_uncopied_options(&mut headers[l3..l4]);
    let each = room(later_l4 - l3);
    let data = parsed.l4_len();
    if first == 0 || data <= first {
        return Err(Reason::PacketTooBig);
    }
    let pieces = (data - first).div_ceil(each) as usize;
    let begin = ctx.extra.len();
    if ctx.extra.capacity() - begin < pieces {
        return Err(Reason::NoMemory);
    }
    let mut at = first;
    while at < data {
        let len = each.min(data - at);
        let last = at + len == data;
        set_fragment(
            &mut headers[l3..later_l4],
            &original,
            &parsed,
            at,
            len,
            last,
        );
        let from = l4 as u32 + at;
        let parts = std::iter::once(&headers[..later_l4]).chain(range(&packet.frame, from, len));
        let Some(frame) = ctx
            .pool
            .gather_beside(&packet.frame, later_l4 + len as usize, parts)
        else {
            for piece in ctx.extra.drain(begin..) {
                ctx.pool.free(piece.frame);
            }
            return Err(Reason::NoMemory);
        };
        let mut meta = packet.meta;
        meta.verdict = verdict;
        meta.parsed.fragment = Fragment::Later;
        meta.parsed.l4 = later_l4 as u16;
        ctx.extra.push(Packet { frame, meta });
        at += len;
    }
    ctx.pool.truncate(&mut packet.frame, l4 as u32 + first);
    if let Some(header) = packet.frame.bytes_mut().get_mut(l3..l4) {
        set_fragment(header, &original, &parsed, 0, first, false);
    }
    // Whoever looks at the pieces on another worker has to know what they are.
    let parsed = &mut packet.meta.parsed;
    if parsed.fragment == Fragment::NotFragment {
        parsed.fragment = Fragment::First;
    }
    ctx.counters.event(Event::Fragmented, 1);
    Ok(())
}

/// Finishes a checksum that the sender left to its device: no device can finish that of a fragment.
pub(super) fn finish_checksum(ctx: &Context<'_>, packet: &mut Packet) -> bool {
    let offload = &mut packet.frame.offload;
    if !offload.partial_checksum {
        return true;
    }
    let at = offload.checksum_field();
    offload.partial_checksum = false;
    let len = packet.meta.parsed.frame_len();
    ctx.counters.event(Event::ChecksumFilled, 1);
    partial::fill(at, len, packet.frame.iter_mut())
}

/// Writes what differs between fragments into a header: `at` and `len` are the piece's place in this packet's data, bytes.
fn set_fragment(
    header: &mut [u8],
    original: &Ipv4Header,
    parsed: &Parsed,
    at: u32,
    len: u32,
    last: bool,
) {
    let header_len = header.len();
    let Some(ip) = Ipv4Header::read_mut(header) else {
        return;
    };
    let offset = (u32::from(parsed.fragment_offset) + at) / 8;
    let more_follow = original.flags_fragment.get() & ipv4::flags::MF;
    let more = if last { more_follow } else { ipv4::flags::MF };
    ip.version_ihl = 0x40 | (header_len / 4) as u8;
    ip.total_length.set(header_len as u16 + len as u16);
    ip.flags_fragment.set(offset as u16 | more);
    ipv4::fill_checksum(header);
}

/// Keeps, of the options of a checked header, those that every fragment carries (copied flag, RFC 791 section 3.1). Returns
/// the header's new length; what is behind it is undefined.
fn drop_uncopied_options(header: &mut [u8]) -> usize {
    const COPIED: u8 = 0x80;
    let (mut read, mut write) = (ipv4::HEADER_LEN, ipv4::HEADER_LEN);
    while let Some(&kind) = header.get(read) {
        let len = match kind {
            option::END => break,
            option::NOP => 1,
            _ => header.get(read + 1).map_or(0, |n| usize::from(*n)),
        };
        if len == 0 || read + len > header.len() {
            break;
        }
        if kind & COPIED != 0 {
            header.copy_within(read..read + len, write);
            write += len;
        }
        read += len;
    }
    let end = write.next_multiple_of(4);
    if let Some(padding) = header.get_mut(write..end) {
        padding.fill(option::END);
    }
    end
}

/// Whether the checksum of the transport header and what follows it is right, given the sum of the pseudo-header.
pub(super) fn is_checksum_right(packet: &Packet, pseudo: u16) -> bool {
    let parsed = &packet.meta.parsed;
    let mut sum = checksum::Sum::new(pseudo);
    let covered = range(&packet.frame, parsed.l4.into(), parsed.l4_len());
    covered.for_each(|part| sum.push(part));
    sum.checksum() == 0
}

/// The bytes `from..from + len` of a frame, segment by segment.
pub(super) fn range(frame: &Frame, from: u32, len: u32) -> impl Iterator<Item = &[u8]> {
    let (mut skip, mut left) = (from as usize, len as usize);
    frame.iter().filter_map(move |segment| {
        let begin = skip.min(segment.len());
        skip -= begin;
        let end = (begin + left).min(segment.len());
        left -= end - begin;
        (begin < end).then(|| &segment[begin..end])
    })
}
