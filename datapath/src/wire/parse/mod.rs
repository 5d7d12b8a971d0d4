// SPDX-License-Identifier: Apache-2.0
//! The hot path: one look at a frame's headers.

mod any;
mod plain;

use super::array_at;
use super::eth::{self, ethertype};
use super::flow_key::FlowKey;
use crate::verdict::Reason;

pub(crate) use any::parse_any;
pub(crate) use plain::{parse_plain_ipv4, parse_plain_ipv6};

/// What kind of packet the frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Kind {
    /// Anything else; only the Ethernet part was read.
    #[default]
    Other,
    /// IPv4, checked.
    Ipv4,
    /// IPv6, checked.
    Ipv6,
    /// ARP; the packet itself was not read.
    Arp,
}

/// Whether the packet is part of a larger one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Fragment {
    /// A whole packet.
    #[default]
    NotFragment,
    /// The first fragment: it has the transport header, but not the whole payload.
    First,
    /// A fragment without the transport header.
    Later,
}

impl Fragment {
    /// From the offset of the fragment's data (any unit) and the more-fragments flag.
    #[inline]
    pub fn new(offset: u16, more: bool) -> Self {
        match (offset, more) {
            (0, false) => Fragment::NotFragment,
            (0, true) => Fragment::First,
            _ => Fragment::Later,
        }
    }
}

/// Which part of a packet a fragment is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Part {
    /// Whether it is one.
    pub fragment: Fragment,
    /// Offset of its data in the original packet, bytes.
    pub offset: u16,
    /// Identification of the original packet.
    pub id: u32,
}

impl Part {
    /// A fragment of identification 0 with `len` bytes of data at `offset`, followed by more or not.
    ///
    /// # Errors
    /// [`Reason::BadFragment`] when more follow and `len` is no multiple of 8, or it ends beyond 65535 bytes.
    #[inline]
    pub fn new(offset: u16, more: bool, len: u32) -> Result<Self, Reason> {
        if more && !len.is_multiple_of(8) || offset as u32 + len > 65535 {
            return Err(Reason::BadFragment);
        }
        Ok(Part {
            fragment: Fragment::new(offset, more),
            offset,
            id: 0,
        })
    }
}

/// The 802.1Q tags of a frame, at most two.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct VlanTags {
    /// Tag control information of the outer tag, 0 without one.
    pub outer_tci: u16,
    /// Tag control information of the inner tag, 0 without one.
    pub inner_tci: u16,
    /// How many tags there are, 0 to 2.
    pub count: u8,
    /// The outer tag is an 802.1ad service tag.
    pub service: bool,
}

impl VlanTags {
    /// There is a tag (it may be a priority tag, VLAN identifier 0).
    #[inline]
    pub fn is_tagged(self) -> bool {
        self.count > 0
    }

    /// There are two tags.
    #[inline]
    pub fn is_stacked(self) -> bool {
        self.count > 1
    }

    /// VLAN identifier of the outer tag; `None` when untagged or only priority-tagged, which means the same
    /// (IEEE 802.1Q section 6.9).
    #[inline]
    pub fn vid(self) -> Option<u16> {
        match self.outer_tci & 0x0fff {
            0 => None,
            vid => Some(vid),
        }
    }
}

/// The Ethernet part of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// EtherType (or 802.3 length) behind the tags.
    pub ethertype: u16,
    /// Tags.
    pub vlan: VlanTags,
    /// Offset of what the EtherType names.
    pub l3: u16,
}

impl Link {
    /// Without tags.
    #[inline(always)]
    fn untagged(ethertype: u16) -> Self {
        Link {
            ethertype,
            vlan: VlanTags::default(),
            l3: eth::HEADER_LEN as u16,
        }
    }
}

/// What [`parse`] found. Offsets count from the start of the frame; numbers are in host order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Parsed {
    /// Addresses, ports and protocol, in VRF 0: put the key into the port's VRF with [`FlowKey::set_vrf`].
    /// All zero unless the kind is IPv4 or IPv6.
    pub key: FlowKey,
    /// Length of the packet from `l3` on, bytes: IPv4 total length, 40 + IPv6 payload length, or all there is.
    pub l3_len: u32,
    /// Identification shared by the fragments of one packet (IPv4: always, IPv6: with a fragment header), else 0.
    pub fragment_id: u32,
    /// EtherType behind the tags.
    pub ethertype: u16,
    /// Tags.
    pub vlan: VlanTags,
    /// Offset of the IP header.
    pub l3: u16,
    /// Offset of the transport header, or of the data of a later fragment.
    pub l4: u16,
    /// Offset of a fragment's data in the original packet, bytes.
    pub fragment_offset: u16,
    /// Kind of packet; the fields below and the ones above that speak of IP count for IPv4 and IPv6 only.
    pub kind: Kind,
    /// Whether it is a fragment.
    pub fragment: Fragment,
    /// IP protocol behind all extension headers; equal to the key's.
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// DSCP and ECN: type of service or traffic class.
    pub tos: u8,
    /// IPv4: the don't-fragment flag. IPv6: always true, routers never fragment.
    pub dont_fragment: bool,
    /// TCP control bits ([`tcp::flags`](super::tcp::flags)); 0 for other protocols and later fragments.
    pub tcp_flags: u8,
    /// ICMP or ICMPv6 type; 0 for other protocols and later fragments: ask for the protocol first.
    pub icmp_type: u8,
    /// ICMP or ICMPv6 code.
    pub icmp_code: u8,
}

impl Parsed {
    /// Length of the frame without padding or trailer, bytes. What lies behind it is legal (Ethernet pads to 60
    /// bytes) but not part of the packet: trim the frame to this length before forwarding it elsewhere.
    #[inline]
    pub fn frame_len(&self) -> u32 {
        self.l3 as u32 + self.l3_len
    }

    /// Whether it is IPv4 or IPv6.
    #[inline(always)]
    pub fn is_ip(&self) -> bool {
        matches!(self.kind, Kind::Ipv4 | Kind::Ipv6)
    }

    /// Length of the transport header and its payload, bytes.
    #[inline]
    pub fn l4_len(&self) -> u32 {
        self.l3_len
            .saturating_sub(self.l4.saturating_sub(self.l3) as u32)
    }
}

/// Reads the Ethernet header and tags of `frame`.
///
/// # Errors
/// [`Reason::TruncatedEthernet`], [`Reason::TruncatedVlan`], [`Reason::SourceMacInvalid`]; for a tagged frame
/// [`Reason::VlanNotExpected`] unless `vlan_allowed`, and [`Reason::VlanStackTooDeep`] beyond two tags.
#[inline]
pub fn parse_link(frame: &[u8], vlan_allowed: bool) -> Result<Link, Reason> {
    match parse_ethernet(frame)? {
        tpid if eth::is_tag(tpid) => parse_tags(frame, vlan_allowed),
        ethertype => Ok(Link::untagged(ethertype)),
    }
}

/// Checks the untagged part of the header and returns its EtherType.
fn parse_ethernet(frame: &[u8]) -> Result<u16, Reason> {
    let head: &[u8; eth::HEADER_LEN] = frame.first_chunk().ok_or(Reason::TruncatedEthernet)?;
    let tail: &[u8; 8] = array_at(head, 6).ok_or(Reason::TruncatedEthernet)?;
    let tail = u64::from_be_bytes(*tail);
    let source = tail >> 16;
    if source == 0 || source & 1 << 40 != 0 {
        return Err(Reason::SourceMacInvalid);
    }
    Ok(tail as u16)
}

fn parse_tags(frame: &[u8], vlan_allowed: bool) -> Result<Link, Reason> {
    if !vlan_allowed {
        return Err(Reason::VlanNotExpected);
    }
    let outer = eth::read_tag(frame, 12).ok_or(Reason::TruncatedVlan)?;
    let mut vlan = VlanTags {
        outer_tci: outer.tci,
        inner_tci: 0,
        count: 1,
        service: outer.tpid == ethertype::SERVICE_VLAN,
    };
    if !eth::is_tag(outer.ethertype) {
        return Ok(Link {
            ethertype: outer.ethertype,
            vlan,
            l3: 18,
        });
    }
    let inner = eth::read_tag(frame, 16).ok_or(Reason::TruncatedVlan)?;
    if eth::is_tag(inner.ethertype) {
        return Err(Reason::VlanStackTooDeep);
    }
    vlan.inner_tci = inner.tci;
    vlan.count = 2;
    Ok(Link {
        ethertype: inner.ethertype,
        vlan,
        l3: 22,
    })
}

/// Reads the headers of a frame; [`parse_into`] says how.
///
/// # Errors
/// Those of [`parse_into`].
pub fn parse(frame: &[u8], total_len: u32, vlan_allowed: bool) -> Result<Parsed, Reason> {
    let mut parsed = Parsed::default();
    parse_into(frame, total_len, vlan_allowed, &mut parsed)?;
    Ok(parsed)
}

/// Reads the headers of a frame and writes what it found to `out`, which an error leaves as it was.
///
/// `frame` is the first segment, which must hold all headers; `total_len` is the length of all segments, bytes.
/// `vlan_allowed` is false on ports that take no tags.
///
/// Checked: lengths, the IPv4 header checksum and options, the IPv6 extension headers, fragment offsets, addresses
/// that may not be on a link ([`ipv4::check_addresses`](super::ipv4::check_addresses),
/// [`ipv6::check_addresses`](super::ipv6::check_addresses)), and that the transport header is there. Not checked:
/// transport checksums, and anything that needs a table.
///
/// Plain TCP and UDP packets take a way on which all checks are made at once; a frame that fails there, for being
/// special or for being wrong, starts again on the way that can tell which.
///
/// # Errors
/// The reason to drop the frame for; each variant of the "Parsing" group of [`Reason`] says when.
#[inline]
pub fn parse_into(
    frame: &[u8],
    total_len: u32,
    vlan_allowed: bool,
    out: &mut Parsed,
) -> Result<(), Reason> {
    if parse_plain_ipv4(frame, total_len, out) || parse_plain_ipv6(frame, total_len, out) {
        return Ok(());
    }
    parse_any(frame, total_len, vlan_allowed, out)
}
