// SPDX-License-Identifier: Apache-2.0
//! Which TCP segments leave together as one superframe.
//!
//! Those may that the kernel's own receive offload would merge (`tcp_gro_receive`, net/ipv4/tcp_offload.c), so that cutting the
//! whole again gives what there was: consecutive payload of one connection; headers that differ in nothing but lengths,
//! sequence number, identification and checksums; all of one size, but for a shorter last one; PSH and FIN in the last one
//! only; checksums that are right, or are left for the device to finish. A segment that does not fit begins a superframe of its own, and later
//! ones of its connection join no earlier one, so that none overtakes another.
#![forbid(unsafe_code)]

use crate::frame::{Frame, Offload};
use crate::wire::ipv4::{self, Ipv4Header};
use crate::wire::ipv6::{self, Ipv6Header};
use crate::wire::tcp::{self, TcpHeader, flags};
use crate::wire::{Fragment, Parsed, checksum, eth, protocol};

/// `VIRTIO_NET_HDR_GSO_TCPV4` and `_TCPV6`.
pub(in crate::port) const TCP_OVER_V4: u8 = 1;
pub(in crate::port) const TCP_OVER_V6: u8 = 4;
/// Longest headers of a segment that may be joined: Ethernet with a tag, IPv6, TCP with all options.
pub(super) const MAX_HEADERS: usize = eth::HEADER_LEN + eth::TAG_LEN + ipv6::HEADER_LEN + 60;
/// Longest packet of a superframe, bytes from the IP header on.
const MAX_PACKET: u32 = 65_535;
/// Most segments of a superframe.
const MAX_JOINED: u16 = 64;
/// Flags that a segment which may be joined can have; it has ACK.
const PLAIN: u8 = flags::ACK | flags::PSH | flags::FIN | flags::ECE;
/// Flags after which nothing follows in a superframe.
const LAST: u8 = flags::PSH | flags::FIN;

/// Notes in the offload of a frame of TCP that it is one, where its headers end, and how long its payload is if it may be joined. What was parsed may
/// be of the packet that the frame answers, so its own bytes are asked.
#[inline]
pub(crate) fn mark(frame: &mut Frame, parsed: &Parsed) {
    if parsed.protocol != protocol::TCP || is_whole(frame) {
        return;
    }
    let bytes = frame.bytes();
    let (l3, l4) = (usize::from(parsed.l3), usize::from(parsed.l4));
    let (kind, header) = match bytes.get(l3..).unwrap_or_default() {
        [first, rest @ ..] if first >> 4 == 4 && rest.get(8) == Some(&protocol::TCP) => {
            (TCP_OVER_V4, ipv4::HEADER_LEN)
        }
        [first, rest @ ..] if first >> 4 == 6 && rest.get(5) != Some(&protocol::ICMPV6) => {
            (TCP_OVER_V6, ipv6::HEADER_LEN)
        }
        _ => return,
    };
    let plain = parsed.fragment == Fragment::NotFragment
        && l3 == eth::HEADER_LEN
        && l4 == l3 + header
        && frame.len() == parsed.frame_len();
    let tcp = bytes.get(l4..).and_then(TcpHeader::read);
    let end = tcp.map_or(0, |tcp| l4 + tcp.header_len());
    let known = plain && end <= bytes.len() && end >= l4 + tcp::HEADER_LEN;
    let joinable = tcp.is_some_and(|tcp| tcp.flags & !PLAIN == 0 && tcp.flags & flags::ACK != 0);
    let payload = frame.len().saturating_sub(end as u32);
    let offload = &mut frame.offload;
    offload.gso_type = kind;
    if known {
        (offload.csum_start, offload.csum_offset) = (parsed.l4, tcp::CHECKSUM_OFFSET);
        offload.hdr_len = end as u16;
    }
    offload.gso_size = if known && joinable { payload as u16 } else { 0 };
}

/// Notes in the offload of a frame of TCP that it is a superframe, which the device cuts into segments of packets of at most `mtu` bytes. False, and
/// nothing is noted, when it is more than plain.
pub(crate) fn mark_whole(frame: &mut Frame, parsed: &Parsed, mtu: u32) -> bool {
    let before = frame.offload;
    mark(frame, parsed);
    let offload = &mut frame.offload;
    let headers = u32::from(offload.hdr_len).checked_sub(parsed.l3.into());
    let each = headers.and_then(|headers| mtu.checked_sub(headers));
    match each.and_then(|each| u16::try_from(each).ok()) {
        Some(each @ 1..) if (each + 1..).contains(&offload.gso_size) => {
            offload.gso_size = each;
            true
        }
        _ => {
            *offload = before;
            false
        }
    }
}

/// Whether a frame was [marked whole](mark_whole).
#[inline]
pub(crate) fn is_whole(frame: &Frame) -> bool {
    let Offload {
        gso_size, hdr_len, ..
    } = frame.offload;
    is_marked(frame) && gso_size > 0 && frame.len() > u32::from(gso_size) + u32::from(hdr_len)
}

/// Whether a frame was [marked](mark).
#[inline]
pub(crate) fn is_marked(frame: &Frame) -> bool {
    frame.offload.gso_type != 0
}

/// Frames that leave as one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    /// The first and the last of them, by their places.
    pub(super) first: u16,
    last: u16,
    pub(super) frames: u16,
    /// Payload bytes of all.
    payload: u32,
    /// More may join.
    open: bool,
    /// The checksum of the first is known to be right or left to a device.
    sound: bool,
    /// Differs for most connections.
    tag: u64,
}

/// Which of a list of frames leave together.
#[derive(Debug, Default)]
pub(super) struct Plan {
    groups: Vec<Group>,
    /// Of each frame: its group, and the next frame of it.
    places: Vec<(u16, u16)>,
}

/// The frame is in no group.
const NOWHERE: u16 = u16::MAX;

impl Plan {
    /// An empty one, with memory for so many groups and frames.
    pub(super) fn with_capacity(groups: usize, frames: usize) -> Plan {
        Plan {
            groups: Vec::with_capacity(groups),
            places: Vec::with_capacity(frames),
        }
    }

    /// Groups in the order in which they are to be sent.
    pub(super) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The group a frame is in; those of no group come after all.
    pub(super) fn group_of(&self, frame: usize) -> usize {
        self.places.get(frame).map_or(NOWHERE, |p| p.0).into()
    }

    /// The places of a group's frames, in order.
    pub(super) fn frames_of(&self, group: &Group) -> impl Iterator<Item = usize> {
        let mut at = group.first;
        (0..group.frames).map(move |_| {
            let this = usize::from(at);
            at = self.places[this].1;
            this
        })
    }

    /// Plans for the first of `frames`, as many as `most` groups hold and all whose pieces are no more than `pieces`.
    /// `joining`: frames leave together at all.
    pub(super) fn make(&mut self, frames: &[Frame], joining: bool, most: usize, pieces: usize) {
        self.groups.clear();
        self.places.clear();
        let (mut barrier, mut left) = (0, pieces);
        for (at, frame) in frames.iter().enumerate() {
            // One more for what is in front of a message.
            let needs = usize::from(frame.segments()) + 1;
            if needs > left {
                return;
            }
            let known = frame.offload.hdr_len > 0;
            let tag = if known { tag(frame) } else { 0 };
            let whole = is_whole(frame);
            let joined = joining && known && !whole && self.join(frames, at, barrier, tag);
            if !joined {
                if self.groups.len() == most {
                    return;
                }
                self.places.push((self.groups.len() as u16, NOWHERE));
                self.groups.push(Group {
                    first: at as u16,
                    last: at as u16,
                    frames: 1,
                    payload: frame.offload.gso_size.into(),
                    open: !whole && frame.offload.gso_size > 0 && flags_of(frame) & LAST == 0,
                    sound: frame.offload.partial_checksum,
                    tag,
                });
                if !known {
                    // Whose it is is not known, so nobody passes it.
                    barrier = self.groups.len();
                }
            }
            left -= needs;
        }
    }

    /// Adds a frame to the last group of its connection, if it fits there.
    fn join(&mut self, frames: &[Frame], at: usize, barrier: usize, tag: u64) -> bool {
        let frame = &frames[at];
        let later = self.groups.iter().enumerate().skip(barrier).rev();
        let Some((number, _)) = later.into_iter().find(|(_, g)| g.tag == tag) else {
            return false;
        };
        let group = &mut self.groups[number];
        let first = &frames[usize::from(group.first)];
        let size = first.offload.gso_size;
        let payload = group.payload + u32::from(frame.offload.gso_size);
        let fits = group.open
            && (1..=size).contains(&frame.offload.gso_size)
            && group.frames < MAX_JOINED
            && headers_len(first) + payload <= MAX_PACKET
            && continues(first, frame, group.payload, group.frames);
        if !fits {
            return false;
        }
        group.sound = group.sound || is_sound(first);
        group.open = group.sound;
        if !group.sound || !(frame.offload.partial_checksum || is_sound(frame)) {
            return false;
        }
        let last = usize::from(std::mem::replace(&mut group.last, at as u16));
        group.frames += 1;
        group.payload = payload;
        group.open = frame.offload.gso_size == size && flags_of(frame) & LAST == 0;
        self.places[last].1 = at as u16;
        self.places.push((number as u16, NOWHERE));
        true
    }
}

/// Network and transport headers of a frame whose headers are known, bytes.
fn headers_len(frame: &Frame) -> u32 {
    u32::from(frame.offload.hdr_len) - l3(frame) as u32
}

/// Of a frame whose headers are known, its network header's place: behind a tag, if there is one.
fn l3(frame: &Frame) -> usize {
    let header = match frame.offload.gso_type {
        TCP_OVER_V4 => ipv4::HEADER_LEN,
        _ => ipv6::HEADER_LEN,
    };
    l4(frame) - header
}

/// Of a frame whose headers are known, its transport header's place.
fn l4(frame: &Frame) -> usize {
    frame.offload.csum_start.into()
}

fn flags_of(frame: &Frame) -> u8 {
    let tcp = frame.bytes().get(l4(frame)..).and_then(TcpHeader::read);
    tcp.map_or(0, |tcp| tcp.flags)
}

/// The ports and the ends of the addresses, mixed.
fn tag(frame: &Frame) -> u64 {
    let near = frame.bytes().get(l4(frame) - 8..l4(frame) + 4);
    let Some((addresses, ports)) = near.and_then(|near| near.split_first_chunk::<8>()) else {
        return 0;
    };
    let ports = ports
        .first_chunk::<4>()
        .map_or(0, |p| u32::from_ne_bytes(*p));
    let ports = u64::from(ports).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    u64::from_ne_bytes(*addresses) ^ ports
}

/// Whether a segment's headers go on where those of `frames` segments, with `payload` bytes, stop that begin with `first`.
fn continues(first: &Frame, next: &Frame, payload: u32, frames: u16) -> bool {
    let (a, b) = (&first.offload, &next.offload);
    if (a.gso_type, a.hdr_len, a.csum_start) != (b.gso_type, b.hdr_len, b.csum_start) {
        return false;
    }
    let (l3, l4, end) = (l3(first), l4(first), usize::from(a.hdr_len));
    let (Some(a_head), Some(b_head)) = (first.bytes().get(..end), next.bytes().get(..end)) else {
        return false;
    };
    let (a_ip, a_tcp) = a_head.split_at(l4);
    let (b_ip, b_tcp) = b_head.split_at(l4);
    a_ip[..l3] == b_ip[..l3]
        && match a.gso_type {
            TCP_OVER_V4 => same_v4(&a_ip[l3..], &b_ip[l3..], frames),
            _ => same_v6(&a_ip[l3..], &b_ip[l3..]),
        }
        && same_tcp(a_tcp, b_tcp, payload)
}

fn same_v4(a: &[u8], b: &[u8], frames: u16) -> bool {
    let (Some(a), Some(b)) = (Ipv4Header::read(a), Ipv4Header::read(b)) else {
        return false;
    };
    // Who cuts the whole counts the identification up. That of an atomic datagram means nothing (RFC 6864).
    let counts_up = b.id.get() == a.id.get().wrapping_add(frames);
    (a.version_ihl, a.tos, a.ttl, a.protocol) == (b.version_ihl, b.tos, b.ttl, b.protocol)
        && (a.src, a.dst) == (b.src, b.dst)
        && a.flags_fragment.get() == b.flags_fragment.get()
        && (counts_up || a.flags_fragment.get() == ipv4::flags::DF)
}

fn same_v6(a: &[u8], b: &[u8]) -> bool {
    let (Some(a), Some(b)) = (Ipv6Header::read(a), Ipv6Header::read(b)) else {
        return false;
    };
    a.version_class_label.get() == b.version_class_label.get()
        && (a.next_header, a.hop_limit) == (b.next_header, b.hop_limit)
        && (a.src, a.dst) == (b.src, b.dst)
}

fn same_tcp(a: &[u8], b: &[u8], payload: u32) -> bool {
    let (Some(x), Some(y)) = (TcpHeader::read(a), TcpHeader::read(b)) else {
        return false;
    };
    (x.sport.get(), x.dport.get()) == (y.sport.get(), y.dport.get())
        && y.seq.get() == x.seq.get().wrapping_add(payload)
        && (x.ack.get(), x.window.get()) == (y.ack.get(), y.window.get())
        && x.offset_reserved == y.offset_reserved
        && x.flags & !LAST == y.flags & !LAST
        && x.urgent.get() == y.urgent.get()
        && a.get(tcp::HEADER_LEN..) == b.get(tcp::HEADER_LEN..)
}

/// Sum of the pseudo-header of a frame whose headers are known, for `len` bytes of TCP.
fn pseudo_sum(gso_type: u8, network: &[u8], len: u32) -> Option<u16> {
    Some(match gso_type {
        TCP_OVER_V4 => {
            let ip = Ipv4Header::read(network)?;
            checksum::pseudo_v4(ip.src, ip.dst, protocol::TCP, len)
        }
        _ => {
            let ip = Ipv6Header::read(network)?;
            checksum::pseudo_v6(&ip.src, &ip.dst, protocol::TCP, len)
        }
    })
}

/// Whether the checksum of a frame whose headers are known is right: joining must not make a damaged segment a good one.
fn is_sound(frame: &Frame) -> bool {
    let l4 = l4(frame);
    let network = frame.bytes().get(l3(frame)..).unwrap_or_default();
    let len = frame.len() - l4 as u32;
    let Some(pseudo) = pseudo_sum(frame.offload.gso_type, network, len) else {
        return false;
    };
    let mut sum = checksum::Sum::new(pseudo);
    let mut skip = l4;
    for segment in frame.iter() {
        let begin = skip.min(segment.len());
        sum.push(&segment[begin..]);
        skip -= begin;
    }
    sum.checksum() == 0
}

/// Writes the headers of a group of several frames, and says how long they are. The checksum is left for the device to finish.
pub(super) fn write_headers(
    group: &Group,
    first: &Frame,
    last: &Frame,
    out: &mut [u8; MAX_HEADERS],
) -> Option<usize> {
    let (l4, end) = (l4(first), usize::from(first.offload.hdr_len));
    let out = out.get_mut(..end)?;
    out.copy_from_slice(first.bytes().get(..end)?);
    let packet = headers_len(first) + group.payload;
    let (network, transport) = out.split_at_mut(l4);
    let network = network.get_mut(l3(first)..)?;
    let tcp_len = packet - network.len() as u32;
    match first.offload.gso_type {
        TCP_OVER_V4 => {
            Ipv4Header::read_mut(network)?
                .total_length
                .set(packet as u16);
            ipv4::fill_checksum(network);
        }
        _ => Ipv6Header::read_mut(network)?
            .payload_length
            .set(tcp_len as u16),
    }
    let pseudo = pseudo_sum(first.offload.gso_type, network, tcp_len)?;
    let tcp = TcpHeader::read_mut(transport)?;
    tcp.flags |= flags_of(last) & LAST;
    tcp.checksum.set(pseudo);
    Some(end)
}

impl Group {
    /// The place of its last frame.
    pub(super) fn last(&self) -> usize {
        self.last.into()
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
