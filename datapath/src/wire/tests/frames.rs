// SPDX-License-Identifier: Apache-2.0
//! Frames by hand: builders that set every field and lie only where told to, and checksums the slow way.

use crate::verdict::Reason;
use crate::wire::{MacAddr, Parsed, parse, protocol};

pub(super) const DST: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x01]);
pub(super) const SRC: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x02]);
pub(super) const V4_SRC: [u8; 4] = [10, 1, 2, 3];
pub(super) const V4_DST: [u8; 4] = [10, 4, 5, 6];
pub(super) const V6_SRC: [u8; 16] = [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34];
pub(super) const V6_DST: [u8; 16] = [0xfd, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x56, 0x78];

/// RFC 1071 as its section 1 says it: 16-bit big-endian words, end-around carry, zero padding.
pub(super) fn naive_sum(data: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in data.chunks(2) {
        sum += (pair[0] as u32) << 8 | pair.get(1).copied().unwrap_or(0) as u32;
        if sum > 0xffff {
            sum = sum - 0x1_0000 + 1;
        }
    }
    sum as u16
}

/// The frame's parse with the length of the frame, tags allowed.
pub(super) fn parse_all(frame: &[u8]) -> Result<Parsed, Reason> {
    parse(frame, frame.len() as u32, true)
}

pub(super) fn eth(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [&DST.0[..], &SRC.0, &ethertype.to_be_bytes()].concat();
    frame.extend_from_slice(payload);
    frame
}

/// `frame` with tags (protocol identifier, control information), outermost first, behind its addresses.
pub(super) fn tagged(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let mut out = frame[..12].to_vec();
    for (tpid, tci) in tags {
        out.extend_from_slice(&tpid.to_be_bytes());
        out.extend_from_slice(&tci.to_be_bytes());
    }
    out.extend_from_slice(&frame[12..]);
    out
}

/// An IPv4 packet to be.
#[derive(Clone)]
pub(super) struct V4 {
    pub(super) src: [u8; 4],
    pub(super) dst: [u8; 4],
    pub(super) protocol: u8,
    pub(super) ttl: u8,
    pub(super) tos: u8,
    pub(super) id: u16,
    pub(super) flags_fragment: u16,
    pub(super) options: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

impl Default for V4 {
    fn default() -> Self {
        V4 {
            src: V4_SRC,
            dst: V4_DST,
            protocol: protocol::UDP,
            ttl: 64,
            tos: 0,
            id: 0x1234,
            flags_fragment: 0x4000,
            options: Vec::new(),
            payload: udp(1000, 2000, b"payload"),
        }
    }
}

impl V4 {
    pub(super) fn packet(&self) -> Vec<u8> {
        assert!(self.options.len().is_multiple_of(4) && self.options.len() <= 40);
        let total = 20 + self.options.len() + self.payload.len();
        let mut p = vec![0x45 + (self.options.len() / 4) as u8, self.tos];
        p.extend_from_slice(&(total as u16).to_be_bytes());
        p.extend_from_slice(&self.id.to_be_bytes());
        p.extend_from_slice(&self.flags_fragment.to_be_bytes());
        p.extend_from_slice(&[self.ttl, self.protocol, 0, 0]);
        p.extend_from_slice(&self.src);
        p.extend_from_slice(&self.dst);
        p.extend_from_slice(&self.options);
        let checksum = !naive_sum(&p);
        p[10..12].copy_from_slice(&checksum.to_be_bytes());
        p.extend_from_slice(&self.payload);
        p
    }

    pub(super) fn frame(&self) -> Vec<u8> {
        eth(0x0800, &self.packet())
    }
}

/// Makes the header checksum of the IPv4 packet at offset 14 right again after a change.
pub(super) fn refresh_v4(frame: &mut [u8]) {
    let len = (frame[14] & 15) as usize * 4;
    frame[24..26].fill(0);
    let checksum = !naive_sum(&frame[14..14 + len]);
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
}

/// An IPv6 packet to be; extension headers are part of the payload.
#[derive(Clone)]
pub(super) struct V6 {
    pub(super) src: [u8; 16],
    pub(super) dst: [u8; 16],
    pub(super) next_header: u8,
    pub(super) hop_limit: u8,
    pub(super) class: u8,
    pub(super) payload: Vec<u8>,
}

impl Default for V6 {
    fn default() -> Self {
        V6 {
            src: V6_SRC,
            dst: V6_DST,
            next_header: protocol::UDP,
            hop_limit: 64,
            class: 0,
            payload: udp(1000, 2000, b"payload"),
        }
    }
}

impl V6 {
    pub(super) fn packet(&self) -> Vec<u8> {
        let mut p = vec![0x60 | self.class >> 4, self.class << 4, 0, 0];
        p.extend_from_slice(&(self.payload.len() as u16).to_be_bytes());
        p.extend_from_slice(&[self.next_header, self.hop_limit]);
        p.extend_from_slice(&self.src);
        p.extend_from_slice(&self.dst);
        p.extend_from_slice(&self.payload);
        p
    }

    pub(super) fn frame(&self) -> Vec<u8> {
        eth(0x86dd, &self.packet())
    }
}

/// An IPv6 extension header of `units` times 8 bytes that `next` follows.
pub(super) fn extension(next: u8, units: usize) -> Vec<u8> {
    let mut e = vec![0; units * 8];
    e[0] = next;
    e[1] = (units - 1) as u8;
    // One PadN option over the rest.
    e[2] = 1;
    e[3] = (units * 8 - 4) as u8;
    e
}

/// An IPv6 fragment header; `offset` in bytes.
pub(super) fn fragment(next: u8, offset: u16, more: bool, id: u32) -> Vec<u8> {
    let field = offset & 0xfff8 | more as u16;
    [&[next, 0][..], &field.to_be_bytes(), &id.to_be_bytes()].concat()
}

/// A UDP header, checksum zero, and data.
pub(super) fn udp(sport: u16, dport: u16, data: &[u8]) -> Vec<u8> {
    let length = (8 + data.len()) as u16;
    let words = [sport, dport, length, 0];
    let mut out: Vec<u8> = words.iter().flat_map(|w| w.to_be_bytes()).collect();
    out.extend_from_slice(data);
    out
}

/// A TCP header with options (padded to words), checksum zero, and data.
pub(super) fn tcp(sport: u16, dport: u16, flags: u8, options: &[u8], data: &[u8]) -> Vec<u8> {
    let mut out = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    let words = 5 + options.len().div_ceil(4);
    out.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 2, (words as u8) << 4, flags]);
    out.extend_from_slice(&[0x10, 0, 0, 0, 0, 0]);
    out.extend_from_slice(options);
    out.resize(words * 4, 0);
    out.extend_from_slice(data);
    out
}

/// An SCTP common header, CRC zero, and data.
pub(super) fn sctp(sport: u16, dport: u16, data: &[u8]) -> Vec<u8> {
    let mut out = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    out.extend_from_slice(&[0xaa, 0xbb, 0xcc, 0xdd, 0, 0, 0, 0]);
    out.extend_from_slice(data);
    out
}

/// An ICMP or ICMPv6 message whose checksum starts from `pseudo` (0 for ICMP).
pub(super) fn icmp(kind: u8, code: u8, rest: [u8; 4], data: &[u8], pseudo: u16) -> Vec<u8> {
    let mut out = [&[kind, code, 0, 0][..], &rest, data].concat();
    let mut covered = pseudo.to_be_bytes().to_vec();
    covered.extend_from_slice(&out);
    let checksum = !naive_sum(&covered);
    out[2..4].copy_from_slice(&checksum.to_be_bytes());
    out
}

/// Sum of the pseudo-header of either version, the slow way.
pub(super) fn naive_pseudo(src: &[u8], dst: &[u8], protocol: u8, len: usize) -> u16 {
    let len = (len as u32).to_be_bytes();
    naive_sum(&[src, dst, &len, &[0, 0, 0, protocol]].concat())
}
