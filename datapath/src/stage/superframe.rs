// SPDX-License-Identifier: Apache-2.0
//! TCP superframes: cut into segments where they leave by a device that does not. A pod whose port runs in generic XDP mode keeps its segmentation offload, so
//! its stack hands over many segments as one packet and leaves the cutting to a device that is not there. AF_XDP does not
//! say how long the segments were to be; any length that fits the way is right, as TCP is a stream of bytes
//! (RFC 9293 section 3.8.3).

use super::Context;
use super::fragment::range;
use crate::counters::Event;
use crate::frame::{Packet, Pool};
use crate::ids::PortId;
use crate::port::{Caps, mark_whole};
use crate::verdict::{Reason, Verdict};
use crate::wire::checksum;
use crate::wire::ipv4::{self, Ipv4Header};
use crate::wire::ipv6::Ipv6Header;
use crate::wire::tcp::{TcpHeader, flags};
use crate::wire::{Fragment, Kind, protocol};

/// Most bytes of headers that are repeated.
const MAX_HEADERS: usize = 256;

/// Whether this may be a superframe, to be cut where it does not fit: TCP from a port that has them, its checksum left
/// to a device. A single segment looks the same; to cut it does no harm.
#[inline]
pub(super) fn is_one(caps: Caps, packet: &Packet) -> bool {
    let parsed = &packet.meta.parsed;
    caps.superframes
        && packet.frame.offload.partial_checksum
        && parsed.protocol == protocol::TCP
        && parsed.fragment == Fragment::NotFragment
}

/// The longest packet, from the IP header on, that a sender has asked its segments to be: it may know of a way on that takes no more. `u32::MAX` where it has not asked.
#[inline]
pub(super) fn longest(caps: Caps, packet: &Packet) -> u32 {
    match packet.frame.offload.gso_size {
        0 => u32::MAX,
        asked => headers_len(caps, packet).map_or(u32::MAX, |headers| headers + u32::from(asked)),
    }
}

/// Network and transport header of what may be cut.
#[cold]
fn headers_len(caps: Caps, packet: &Packet) -> Option<u32> {
    let parsed = &packet.meta.parsed;
    let tcp = TcpHeader::read(packet.frame.bytes().get(parsed.l4.into()..)?)?;
    is_one(caps, packet).then(|| u32::from(parsed.l4 - parsed.l3) + tcp.header_len() as u32)
}

/// Leaves `packet`, already rewritten for its way, whole for the port it leaves by, if that takes superframes: it or its device cuts it into segments of
/// at most `mtu` bytes.
pub(super) fn leaves_whole(ctx: &Context<'_>, packet: &mut Packet, mtu: u32, out: PortId) -> bool {
    ctx.superframes.contains(out) && mark_whole(&mut packet.frame, &packet.meta.parsed, mtu)
}

/// Cuts `packet`, already rewritten or tagged for its way, into segments of at most `mtu` bytes. The packet becomes the first,
/// the others are new frames in [`Context::extra`]; all carry `verdict`, and a partial checksum of their own.
///
/// # Errors
/// [`Reason::NoMemory`] when chunks or places are short, [`Reason::PacketTooBig`] when the headers alone do not fit;
/// nothing is left over then.
#[cold]
pub(super) fn cut(
    ctx: &mut Context<'_>,
    packet: &mut Packet,
    mtu: u32,
    verdict: Verdict,
) -> Result<(), Reason> {
    cut_into(ctx.pool, ctx.extra, packet, mtu, verdict)?;
    ctx.counters.event(Event::Segmented, 1);
    Ok(())
}

/// What all segments share: the headers of the whole and where they lie.
struct Original {
    bytes: [u8; MAX_HEADERS],
    l3: usize,
    l4: usize,
    end: usize,
    /// TCP header and payload of the whole, bytes.
    l4_len: u32,
}

fn cut_into(
    pool: &mut Pool,
    extra: &mut Vec<Packet>,
    packet: &mut Packet,
    mtu: u32,
    verdict: Verdict,
) -> Result<(), Reason> {
    if !pool.fetch(&mut packet.frame) {
        return Err(Reason::NoMemory);
    }
    let original = read(packet).ok_or(Reason::PacketTooBig)?;
    let headers = (original.end - original.l3) as u32;
    let each = mtu
        .checked_sub(headers)
        .filter(|n| *n > 0)
        .ok_or(Reason::PacketTooBig)?;
    let data = packet.meta.parsed.l3_len.saturating_sub(headers);
    let pieces = data.div_ceil(each) as usize;
    let begin = extra.len();
    if pieces < 2 || extra.capacity() - begin < pieces - 1 {
        return Err(Reason::NoMemory);
    }
    let mut at = each;
    while at < data {
        let len = each.min(data - at);
        let mut header = original.bytes;
        set_headers(
            &mut header,
            &original,
            packet.meta.parsed.kind,
            at / each,
            at,
            len,
            at + len == data,
        );
        let from = original.end as u32 + at;
        let parts = std::iter::once(&header[..original.end]).chain(range(&packet.frame, from, len));
        let Some(mut frame) = pool.gather_beside(&packet.frame, original.end + len as usize, parts)
        else {
            for piece in extra.drain(begin..) {
                pool.free(piece.frame);
            }
            return Err(Reason::NoMemory);
        };
        frame.offload = packet.frame.offload;
        frame.offload.gso_size = 0;
        let mut meta = packet.meta;
        meta.verdict = verdict;
        meta.parsed.l3_len = headers + len;
        extra.push(Packet { frame, meta });
        at += len;
    }
    pool.truncate(&mut packet.frame, original.end as u32 + each);
    packet.frame.offload.gso_size = 0;
    packet.meta.parsed.l3_len = headers + each;
    let mut header = original.bytes;
    set_headers(
        &mut header,
        &original,
        packet.meta.parsed.kind,
        0,
        0,
        each,
        false,
    );
    if let Some(first) = packet.frame.bytes_mut().get_mut(..original.end) {
        first.copy_from_slice(&header[..original.end]);
    }
    Ok(())
}

fn read(packet: &Packet) -> Option<Original> {
    let parsed = &packet.meta.parsed;
    let (l3, l4) = (usize::from(parsed.l3), usize::from(parsed.l4));
    let frame = packet.frame.bytes();
    let end = l4 + TcpHeader::read(frame.get(l4..)?)?.header_len();
    let mut bytes = [0; MAX_HEADERS];
    bytes.get_mut(..end)?.copy_from_slice(frame.get(..end)?);
    Some(Original {
        bytes,
        l3,
        l4,
        end,
        l4_len: parsed.l4_len(),
    })
}

/// Writes what differs between segments: lengths, identification, sequence number, flags, checksums. `at` and `len` are
/// the segment's place in the payload, `index` its number.
fn set_headers(
    header: &mut [u8; MAX_HEADERS],
    original: &Original,
    kind: Kind,
    index: u32,
    at: u32,
    len: u32,
    last: bool,
) {
    let Original { l3, l4, end, .. } = *original;
    let l4_len = (end - l4) as u16 + len as u16;
    match kind {
        Kind::Ipv4 => {
            if let Some(ip) = Ipv4Header::read_mut(&mut header[l3..l4]) {
                ip.total_length.set((l4 - l3) as u16 + l4_len);
                ip.id.set(ip.id.get().wrapping_add(index as u16));
            }
            ipv4::fill_checksum(&mut header[l3..l4]);
        }
        _ => {
            if let Some(ip) = Ipv6Header::read_mut(&mut header[l3..l4]) {
                ip.payload_length
                    .set((l4 - l3 - crate::wire::ipv6::HEADER_LEN) as u16 + l4_len);
            }
        }
    }
    if let Some(tcp) = TcpHeader::read_mut(&mut header[l4..end]) {
        tcp.seq.set(tcp.seq.get().wrapping_add(at));
        if !last {
            tcp.flags &= !(flags::FIN | flags::PSH);
        }
        if index > 0 {
            // RFC 3168 section 6.1.2: the window was reduced once.
            tcp.flags &= !flags::CWR;
        }
        // The field holds the pseudo-header's sum, in which only the length differs.
        let without = checksum::add(tcp.checksum.get(), !(original.l4_len as u16));
        tcp.checksum.set(checksum::add(without, l4_len));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::frame::{Arena, Batch, Offload};
    use crate::ids::{PortId, WorkerId};
    use crate::wire::{parse, partial};

    const PAYLOAD: usize = 20_000;

    /// Ethernet, IP and TCP headers (with twelve bytes of options) in front of a payload.
    fn superframe(v6: bool) -> Vec<u8> {
        let payload: Vec<u8> = (0..PAYLOAD).map(|i| (i * 31 + i / 256) as u8).collect();
        let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let ip = match v6 {
            true => builder.ipv6([0xfd; 16], [0xfc; 16], 9),
            false => builder.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9),
        };
        let tcp = ip.tcp(4000, 80, 0xffff_f000, 1000).psh().fin().ack(7).cwr();
        let tcp = tcp
            .options_raw(&[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8])
            .unwrap();
        let mut bytes = Vec::new();
        tcp.write(&mut bytes, &payload).unwrap();
        bytes
    }

    /// Makes the checksum partial, as a stack leaves it to its device.
    fn leave_to_device(bytes: &mut [u8]) -> (parse::Parsed, Offload) {
        let parsed = parse(bytes, bytes.len() as u32, false).unwrap();
        let l4 = usize::from(parsed.l4);
        let sum = match parsed.kind {
            Kind::Ipv4 => {
                checksum::pseudo_v4([10, 0, 0, 1], [10, 0, 0, 2], protocol::TCP, parsed.l4_len())
            }
            _ => checksum::pseudo_v6(&[0xfd; 16], &[0xfc; 16], protocol::TCP, parsed.l4_len()),
        };
        bytes[l4 + 16..l4 + 18].copy_from_slice(&sum.to_be_bytes());
        let at = partial::detect(bytes, &parsed).unwrap();
        let offload = Offload {
            partial_checksum: true,
            csum_start: at.start,
            csum_offset: at.offset,
            ..Offload::default()
        };
        (parsed, offload)
    }

    fn packet(pool: &mut Pool, arena: &Arc<Arena>, v6: bool) -> Packet {
        let mut bytes = superframe(v6);
        let (parsed, offload) = leave_to_device(&mut bytes);
        let mut frame = pool.alloc_bytes(arena, &bytes).unwrap();
        frame.offload = offload;
        let mut batch = Batch::new();
        batch.push(frame, PortId(0)).unwrap();
        let mut packet = batch.drain().next().unwrap();
        packet.meta.parsed = parsed;
        packet
    }

    fn pool(chunks: u32) -> (Pool, Arc<Arena>) {
        let arena = Arc::new(Arena::new(WorkerId(0), chunks).unwrap());
        let mut pool = Pool::new(WorkerId(0));
        pool.add_arena(arena.clone());
        (pool, arena)
    }

    #[test]
    fn segments_carry_the_stream_and_right_checksums() {
        for v6 in [false, true] {
            let (mut pool, arena) = pool(64);
            let mut whole = packet(&mut pool, &arena, v6);
            let mut extra = Vec::with_capacity(32);
            cut_into(&mut pool, &mut extra, &mut whole, 1500, Verdict::Continue).unwrap();
            let expected = superframe(v6);
            let expected = &expected[expected.len() - PAYLOAD..];
            let mut stream = Vec::new();
            let count = extra.len() + 1;
            for (i, mut p) in std::iter::once(whole).chain(extra).enumerate() {
                let at = partial::PartialChecksum {
                    start: p.frame.offload.csum_start,
                    offset: p.frame.offload.csum_offset,
                };
                assert!(p.frame.len() <= 1514);
                assert_eq!(p.frame.len(), p.meta.parsed.frame_len());
                assert!(partial::fill(at, p.frame.len(), p.frame.iter_mut()));
                let bytes: Vec<u8> = p.frame.iter().flatten().copied().collect();
                let read = etherparse::SlicedPacket::from_ethernet(&bytes).unwrap();
                let Some(etherparse::TransportSlice::Tcp(tcp)) = read.transport else {
                    panic!("no TCP")
                };
                let last = i + 1 == count;
                assert_eq!((tcp.psh(), tcp.fin(), tcp.cwr()), (last, last, i == 0));
                assert_eq!(
                    tcp.sequence_number(),
                    0xffff_f000u32.wrapping_add(stream.len() as u32)
                );
                let right = match &read.net {
                    Some(etherparse::NetSlice::Ipv4(ip)) => {
                        assert_eq!(
                            ip.header().header_checksum(),
                            ip.header().to_header().calc_header_checksum()
                        );
                        tcp.calc_checksum_ipv4([10, 0, 0, 1], [10, 0, 0, 2])
                            .unwrap()
                    }
                    Some(etherparse::NetSlice::Ipv6(_)) => {
                        tcp.calc_checksum_ipv6([0xfd; 16], [0xfc; 16]).unwrap()
                    }
                    _ => panic!("no IP"),
                };
                assert_eq!(tcp.checksum(), right, "segment {i}");
                stream.extend_from_slice(tcp.payload());
                pool.free(p.frame);
            }
            assert_eq!(stream, expected);
            assert_eq!(pool.audit()[0].free, 64);
        }
    }

    #[test]
    fn without_memory_the_superframe_stays_whole() {
        let (mut pool, arena) = pool(10);
        let mut whole = packet(&mut pool, &arena, false);
        let before: Vec<u8> = whole.frame.iter().flatten().copied().collect();
        let mut extra = Vec::with_capacity(32);
        let refused = cut_into(&mut pool, &mut extra, &mut whole, 1500, Verdict::Continue);
        assert_eq!(refused, Err(Reason::NoMemory));
        let refused = cut_into(&mut pool, &mut extra, &mut whole, 52, Verdict::Continue);
        assert_eq!(refused, Err(Reason::PacketTooBig));
        assert!(extra.is_empty());
        assert!(whole.frame.iter().flatten().eq(&before));
        pool.free(whole.frame);
        assert_eq!(pool.audit()[0].free, 10);
    }
}
