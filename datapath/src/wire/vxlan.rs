// SPDX-License-Identifier: Apache-2.0
//! VXLAN (RFC 7348 section 5) over IPv4 and IPv6, and its Group Policy extension (draft-smith-vxlan-group-policy section 2.1; `struct
//! vxlanhdr_gbp` of include/net/vxlan.h):
//!
//! | byte | |
//! |---|---|
//! | 0 | flags: G `0x80`, a group is there; I `0x08`, a network identifier is there |
//! | 1 | flags: D `0x40`, A `0x08` |
//! | 2, 3 | Group Policy ID, behind G |
//! | 4 to 6 | network identifier |
//!
//! A ("policy was applied") is neither set nor heeded: the receiver's end is judged where the receiver is. D is about learning, and nothing is
//! learned from tunnels.

use std::net::IpAddr;

use super::checksum;
use super::eth::{self, MacAddr, ethertype};
use super::ipv4::{self, Ipv4Header};
use super::ipv6::{self, Ipv6Header};
use super::udp::{self, UdpHeader};
use super::{array_at, array_at_mut, ecn, protocol};
use crate::ids::GroupId;

/// Length, bytes.
pub const HEADER_LEN: usize = 8;
/// What stands in front of the inner frame over IPv4: Ethernet, IP, UDP, VXLAN; bytes.
pub const OVERHEAD_V4: usize = eth::HEADER_LEN + ipv4::HEADER_LEN + udp::HEADER_LEN + HEADER_LEN;
/// The same over IPv6.
const OVERHEAD_V6: usize = eth::HEADER_LEN + ipv6::HEADER_LEN + udp::HEADER_LEN + HEADER_LEN;
/// Largest network identifier (24 bits).
pub const MAX_VNI: u32 = (1 << 24) - 1;

/// Flags, first byte: a network identifier is there.
const VNI_VALID: u8 = 0x08;
/// Flags, first byte: a group is there.
const GROUP_VALID: u8 = 0x80;
/// First of the source ports (RFC 7348 section 5: the dynamic range of RFC 6335).
const FIRST_SPORT: u16 = 0xc000;
/// Hop limit of the outer header (RFC 1340's default, as the kernel's tunnels have).
const HOP_LIMIT: u8 = 64;

/// The network identifier (24 bits) of the header at `at`; `None` when that is not all there or says that there is none. All other bits are
/// ignored, as the RFC has it.
#[inline(always)]
pub fn read_vni(frame: &[u8], at: usize) -> Option<u32> {
    let header: &[u8; HEADER_LEN] = array_at(frame, at)?;
    let [flags, _, _, _, v0, v1, v2, _] = *header;
    (flags & VNI_VALID != 0).then(|| u32::from_be_bytes([0, v0, v1, v2]))
}

/// The group in the header at `at`; `None` when that is not all there, says that there is none, or that it is 0.
#[inline(always)]
pub fn read_group(frame: &[u8], at: usize) -> Option<GroupId> {
    let header: &[u8; HEADER_LEN] = array_at(frame, at)?;
    let [flags, _, high, low, ..] = *header;
    match flags & GROUP_VALID {
        0 => None,
        _ => GroupId::new(u16::from_be_bytes([high, low])),
    }
}

/// Writes a group into the last bytes of outer headers.
#[inline(always)]
fn write_group(out: &mut [u8], group: GroupId) {
    if let Some([flags, _, high, low, ..]) = out.last_chunk_mut::<HEADER_LEN>() {
        *flags |= GROUP_VALID;
        [*high, *low] = group.get().to_be_bytes();
    }
}

/// The source port for a flow of this hash: the underlay's routers tell flows apart by it.
#[inline(always)]
pub fn source_port(hash: u64) -> u16 {
    FIRST_SPORT | (hash >> 40) as u16 & !FIRST_SPORT
}

/// Whether [`source_port`] gives such a port.
pub fn is_source_port(port: u16) -> bool {
    port & FIRST_SPORT == FIRST_SPORT
}

/// What is the same in the outer headers of all packets of one tunnel from one other end, over IPv4 and without a UDP checksum: who sends it to whom,
/// and which tunnel it is of. Equal words are of equal headers, whatever groups are in them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Outer([u64; 6]);

/// Where its words begin, and which of their bytes count.
const OUTER: [(usize, [u8; 8]); 6] = [
    // Destination MAC address.
    (0, [255, 255, 255, 255, 255, 255, 0, 0]),
    // EtherType; version and header length.
    (8, [0, 0, 0, 0, 255, 255, 255, 0]),
    // More fragments and fragment offset; protocol.
    (16, [0, 0, 0, 0, 0x3f, 255, 0, 255]),
    // Addresses.
    (26, [255; 8]),
    // Destination port; checksum.
    (34, [0, 0, 255, 255, 0, 0, 255, 255]),
    // Flag of the network identifier, and that.
    (42, [VNI_VALID, 0, 0, 0, 255, 255, 255, 0]),
];

impl Outer {
    /// Those of a frame of so many bytes, which begin with such headers, and the type of service. `None`: others, or something is wrong with them
    /// that [`parse`](super::parse::parse) or [`read_vni`] would find.
    #[inline(always)]
    pub fn read(frame: &[u8], total_len: u32) -> Option<(Outer, u8)> {
        const IP: usize = eth::HEADER_LEN;
        const UDP: usize = IP + ipv4::HEADER_LEN;
        let head = frame.first_chunk::<OVERHEAD_V4>()?;
        let network: &[u8; ipv4::HEADER_LEN] = array_at(head, IP)?;
        let ip = Ipv4Header::read(network)?;
        let udp = UdpHeader::read(head.get(UDP..)?)?;
        let (l3_len, udp_len) = (u32::from(ip.total_length.get()), udp.length.get());
        let right = eth::is_from_one(head, ethertype::IPV4)
            & (ip.version_ihl == 0x45)
            & !ip.is_fragment()
            & (ip.protocol == protocol::UDP)
            & (checksum::sum_fixed(network) == 0xffff)
            & (IP as u32 + l3_len <= total_len)
            & (usize::from(udp_len) >= udp::HEADER_LEN + HEADER_LEN)
            & (u32::from(udp_len) + ipv4::HEADER_LEN as u32 <= l3_len)
            & (udp.checksum.get() == 0)
            & (head[OVERHEAD_V4 - HEADER_LEN] & VNI_VALID != 0);
        if !right {
            return None;
        }
        let mut words = [0; OUTER.len()];
        for (word, (at, mask)) in words.iter_mut().zip(OUTER) {
            *word = u64::from_ne_bytes(*array_at(head, at)?) & u64::from_ne_bytes(mask);
        }
        Some((Outer(words), ip.tos))
    }

    /// Tells most other ends and tunnels apart in its lower bits.
    #[inline(always)]
    pub fn hash(&self) -> u64 {
        let [.., addresses, _, vni] = self.0;
        (addresses ^ vni.rotate_left(17)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
    }
}

/// What differs between the packets of a tunnel to one other end.
#[derive(Clone, Copy, Debug)]
pub struct Wrapped {
    /// Bytes of the inner frame.
    pub len: u32,
    /// Type of service or traffic class of the inner packet.
    pub tos: u8,
    /// UDP source port.
    pub sport: u16,
    /// Destination MAC address of the outer frame.
    pub dst_mac: MacAddr,
    /// Source MAC address of the outer frame.
    pub src_mac: MacAddr,
    /// Group of the sender.
    pub group: Option<GroupId>,
}

/// The outer headers of a tunnel to one other end, made once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Template {
    bytes: [u8; OVERHEAD_V6],
    len: u8,
    /// Sum of the IPv4 header without length and type of service; of the IPv6 pseudo-header without the length.
    sum: u16,
    /// Over IPv6: whether a UDP checksum is written.
    checksum: bool,
}

impl Template {
    /// Headers from `local` to `remote`, which are of one family (`None` if not). `checksum`: over IPv6 there is a UDP checksum; without
    /// one, the other end must have been told that this is right (RFC 6935, RFC 6936).
    pub fn new(
        local: IpAddr,
        remote: IpAddr,
        port: u16,
        vni: u32,
        checksum: bool,
    ) -> Option<Template> {
        let mut template = Template {
            bytes: [0; OVERHEAD_V6],
            len: 0,
            sum: 0,
            checksum,
        };
        let l4 = match (local, remote) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => template.set_v4(src.octets(), dst.octets())?,
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                template.sum = checksum::pseudo_v6(&src.octets(), &dst.octets(), protocol::UDP, 0);
                template.set_v6(src.octets(), dst.octets())?
            }
            _ => return None,
        };
        UdpHeader::read_mut(template.bytes.get_mut(l4..)?)?
            .dport
            .set(port);
        let header: &mut [u8; HEADER_LEN] =
            array_at_mut(&mut template.bytes, l4 + udp::HEADER_LEN)?;
        let [_, v0, v1, v2] = vni.to_be_bytes();
        *header = [VNI_VALID, 0, 0, 0, v0, v1, v2, 0];
        template.len = (l4 + udp::HEADER_LEN + HEADER_LEN) as u8;
        Some(template)
    }

    fn set_v4(&mut self, src: [u8; 4], dst: [u8; 4]) -> Option<usize> {
        let (link, network) = self.bytes.split_at_mut_checked(eth::HEADER_LEN)?;
        link.get_mut(12..)?
            .copy_from_slice(&ethertype::IPV4.to_be_bytes());
        let ip = Ipv4Header::read_mut(network)?;
        ip.version_ihl = 0x45;
        // An atomic datagram: what is too large for the way is said, not cut (RFC 6864; RFC 7348 section 4.3).
        ip.flags_fragment.set(ipv4::flags::DF);
        ip.ttl = HOP_LIMIT;
        ip.protocol = protocol::UDP;
        (ip.src, ip.dst) = (src, dst);
        let header: &[u8; ipv4::HEADER_LEN] = array_at(network, 0)?;
        self.sum = checksum::sum_fixed(header);
        Some(eth::HEADER_LEN + ipv4::HEADER_LEN)
    }

    fn set_v6(&mut self, src: [u8; 16], dst: [u8; 16]) -> Option<usize> {
        let (link, network) = self.bytes.split_at_mut_checked(eth::HEADER_LEN)?;
        link.get_mut(12..)?
            .copy_from_slice(&ethertype::IPV6.to_be_bytes());
        let ip = Ipv6Header::read_mut(network)?;
        ip.version_class_label.set(6 << 28);
        ip.next_header = protocol::UDP;
        ip.hop_limit = HOP_LIMIT;
        (ip.src, ip.dst) = (src, dst);
        Some(eth::HEADER_LEN + ipv6::HEADER_LEN)
    }

    /// Length of the headers, bytes.
    #[inline(always)]
    pub fn overhead(&self) -> u16 {
        self.len.into()
    }

    /// Where the UDP header is, from the start of the frame.
    #[inline(always)]
    pub fn udp_at(&self) -> u16 {
        u16::from(self.len) - (udp::HEADER_LEN + HEADER_LEN) as u16
    }

    /// Writes the headers into the first [`overhead`](Template::overhead) bytes of `frame`; `None` when they are not there or the packet would be
    /// larger than an IP packet can be. True: the UDP checksum is to be finished, its field holds the sum of the pseudo-header.
    #[inline(always)]
    pub fn write(&self, frame: &mut [u8], wrapped: &Wrapped) -> Option<bool> {
        match usize::from(self.len) {
            OVERHEAD_V4 => self.write_v4(array_at_mut(frame, 0)?, wrapped),
            _ => self.write_v6(array_at_mut(frame, 0)?, wrapped),
        }
    }

    #[inline(always)]
    fn write_v4(&self, out: &mut [u8; OVERHEAD_V4], wrapped: &Wrapped) -> Option<bool> {
        const IP: usize = eth::HEADER_LEN;
        const UDP: usize = IP + ipv4::HEADER_LEN;
        let udp_len = u16::try_from(wrapped.len).ok()?.checked_add(16)?;
        let total = udp_len.checked_add(ipv4::HEADER_LEN as u16)?;
        out.copy_from_slice(self.bytes.first_chunk::<OVERHEAD_V4>()?);
        let tos = ecn::encapsulate(wrapped.tos);
        let sum = checksum::add(checksum::add(self.sum, total), tos.into());
        let ip = Ipv4Header::read_mut(&mut out[IP..])?;
        ip.tos = tos;
        ip.total_length.set(total);
        ip.checksum.set(!sum);
        let udp = UdpHeader::read_mut(&mut out[UDP..])?;
        udp.sport.set(wrapped.sport);
        udp.length.set(udp_len);
        set_own(out, wrapped);
        Some(false)
    }

    #[inline(always)]
    fn write_v6(&self, out: &mut [u8; OVERHEAD_V6], wrapped: &Wrapped) -> Option<bool> {
        const IP: usize = eth::HEADER_LEN;
        const UDP: usize = IP + ipv6::HEADER_LEN;
        let udp_len = u16::try_from(wrapped.len).ok()?.checked_add(16)?;
        *out = self.bytes;
        let ip = Ipv6Header::read_mut(&mut out[IP..])?;
        let class = u32::from(ecn::encapsulate(wrapped.tos));
        // Routers may spread by the label where they do not look at ports (RFC 6438).
        let label = u32::from(wrapped.sport);
        ip.version_class_label.set(6 << 28 | class << 20 | label);
        ip.payload_length.set(udp_len);
        let udp = UdpHeader::read_mut(&mut out[UDP..])?;
        udp.sport.set(wrapped.sport);
        udp.length.set(udp_len);
        if self.checksum {
            udp.checksum.set(checksum::add(self.sum, udp_len));
        }
        set_own(out, wrapped);
        Some(self.checksum)
    }
}

/// Writes what is neither IP nor UDP.
#[inline(always)]
fn set_own(out: &mut [u8], wrapped: &Wrapped) {
    if let Some(macs) = array_at_mut::<12>(out, 0) {
        macs[..6].copy_from_slice(&wrapped.dst_mac.0);
        macs[6..].copy_from_slice(&wrapped.src_mac.0);
    }
    if let Some(group) = wrapped.group {
        write_group(out, group);
    }
}
