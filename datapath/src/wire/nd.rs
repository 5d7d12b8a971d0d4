// SPDX-License-Identifier: Apache-2.0
//! Neighbor discovery: solicitations and advertisements (RFC 4861 sections 4.3, 4.4 and 7.1).

use zerocopy::IntoBytes;
use zerocopy::byteorder::big_endian::{U16, U32};

use super::checksum;
use super::eth::{EthernetHeader, MacAddr, ethertype};
use super::icmp::v6;
use super::ipv6::{self, Ipv6Header};
use super::parse::{Fragment, Kind, Parsed};
use super::{array_at, protocol};

/// Hop limit that proves a packet was not forwarded.
pub const HOP_LIMIT: u8 = 255;
/// Length of the frame that [`write_advertisement`] writes, untagged, bytes.
pub const ADVERTISEMENT_FRAME: usize = 14 + ipv6::HEADER_LEN + ADVERTISEMENT_LEN;

/// Type, code, checksum, flags and target, bytes.
const FIXED_LEN: usize = 24;
/// The fixed part and the target link-layer address option.
const ADVERTISEMENT_LEN: usize = FIXED_LEN + 8;

const SOURCE_LINK_ADDRESS: u8 = 1;
const TARGET_LINK_ADDRESS: u8 = 2;

/// Flags of an advertisement, in its fifth byte.
pub mod flags {
    /// The sender is a router.
    pub const ROUTER: u8 = 0x80;
    /// Sent in answer to a solicitation.
    pub const SOLICITED: u8 = 0x40;
    /// Replaces what the receiver has cached.
    pub const OVERRIDE: u8 = 0x20;
}

/// Which of the two messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message {
    /// Who has the target address?
    Solicitation,
    /// The target is here.
    Advertisement {
        /// See [`flags`].
        flags: u8,
    },
}

/// A valid neighbor solicitation or advertisement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Neighbor {
    /// Which message.
    pub message: Message,
    /// Source address of the packet; `::` in duplicate address detection.
    pub src: [u8; 16],
    /// Destination address of the packet.
    pub dst: [u8; 16],
    /// The address asked for or announced.
    pub target: [u8; 16],
    /// Link-layer address of the sender (solicitation) or the target (advertisement), if told.
    pub link_address: Option<MacAddr>,
}

impl Neighbor {
    /// A solicitation from `::`: is the target address free? (RFC 4862 section 5.4) Answering one for a pod's own
    /// address would deny the pod its address.
    #[inline]
    pub fn is_dad(&self) -> bool {
        self.message == Message::Solicitation && ipv6::is_unspecified(&self.src)
    }

    /// Reads a neighbor solicitation or advertisement, the whole of which is in `frame`, and checks what RFC 4861
    /// section 7.1 says a node must: hop limit 255, checksum, code 0, lengths, unicast target, no link-layer address
    /// from `::`, solicited-node destination from `::`. `None` for anything else: silently discarded.
    pub fn read(frame: &[u8], parsed: &Parsed) -> Option<Neighbor> {
        let expected = parsed.kind == Kind::Ipv6
            && parsed.protocol == protocol::ICMPV6
            && parsed.fragment == Fragment::NotFragment
            && parsed.icmp_code == 0
            && parsed.ttl == HOP_LIMIT;
        if !expected {
            return None;
        }
        let ip = Ipv6Header::read(frame.get(parsed.l3 as usize..)?)?;
        let bytes = frame.get(parsed.l4 as usize..parsed.frame_len() as usize)?;
        let fixed: &[u8; FIXED_LEN] = array_at(bytes, 0)?;
        let pseudo = checksum::pseudo_v6(&ip.src, &ip.dst, protocol::ICMPV6, bytes.len() as u32);
        if checksum::add(pseudo, checksum::sum(bytes)) != 0xffff {
            return None;
        }
        let target: [u8; 16] = *array_at(fixed, 8)?;
        let (message, wanted) = match fixed[0] {
            v6::NEIGHBOR_SOLICITATION => (Message::Solicitation, SOURCE_LINK_ADDRESS),
            v6::NEIGHBOR_ADVERTISEMENT => (
                Message::Advertisement { flags: fixed[4] },
                TARGET_LINK_ADDRESS,
            ),
            _ => return None,
        };
        let link_address = read_options(bytes.get(FIXED_LEN..)?, wanted)?;
        let neighbor = Neighbor {
            message,
            src: ip.src,
            dst: ip.dst,
            target,
            link_address,
        };
        neighbor.is_valid().then_some(neighbor)
    }

    /// The rules that tie the fields together.
    fn is_valid(&self) -> bool {
        if ipv6::is_multicast(&self.target) {
            return false;
        }
        match self.message {
            Message::Solicitation if self.is_dad() => {
                self.link_address.is_none() && is_solicited_node(&self.dst)
            }
            Message::Solicitation => true,
            Message::Advertisement { flags } => {
                let solicited = flags & flags::SOLICITED != 0;
                let unsound = solicited && ipv6::is_multicast(&self.dst);
                !(unsound || ipv6::is_unspecified(&self.src))
            }
        }
    }
}

/// ff02::1:ff00:0/104.
fn is_solicited_node(a: &[u8; 16]) -> bool {
    ipv6::solicited_node(a) == *a
}

/// The link-layer address in the first option of type `wanted`; `None` when the options are malformed.
fn read_options(mut options: &[u8], wanted: u8) -> Option<Option<MacAddr>> {
    let mut found = None;
    while let [kind, units, ..] = options {
        let len = *units as usize * 8;
        if len == 0 {
            return None;
        }
        let option = options.get(..len)?;
        if *kind == wanted && len == 8 && found.is_none() {
            found = Some(MacAddr(*array_at(option, 2)?));
        }
        options = &options[len..];
    }
    options.is_empty().then_some(found)
}

/// A neighbor advertisement to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Advertisement {
    /// Destination MAC address.
    pub dst_mac: MacAddr,
    /// Source MAC address.
    pub src_mac: MacAddr,
    /// Source address.
    pub src: [u8; 16],
    /// Destination address.
    pub dst: [u8; 16],
    /// The address announced.
    pub target: [u8; 16],
    /// Where the target is: goes into the target link-layer address option.
    pub link_address: MacAddr,
    /// See [`flags`].
    pub flags: u8,
}

/// Writes `advertisement` as an untagged frame into `out` and returns its length, [`ADVERTISEMENT_FRAME`]; `None`, with
/// `out` untouched, when that is too small.
pub fn write_advertisement(advertisement: &Advertisement, out: &mut [u8]) -> Option<usize> {
    let a = advertisement;
    let out = out.first_chunk_mut::<ADVERTISEMENT_FRAME>()?;
    let eth = EthernetHeader {
        dst: a.dst_mac,
        src: a.src_mac,
        ethertype: U16::new(ethertype::IPV6),
    };
    let ip = Ipv6Header {
        version_class_label: U32::new(6 << 28),
        payload_length: U16::new(ADVERTISEMENT_LEN as u16),
        next_header: protocol::ICMPV6,
        hop_limit: HOP_LIMIT,
        src: a.src,
        dst: a.dst,
    };
    let mut message = [0u8; ADVERTISEMENT_LEN];
    message[0] = v6::NEIGHBOR_ADVERTISEMENT;
    message[4] = a.flags;
    message[8..24].copy_from_slice(&a.target);
    message[24] = TARGET_LINK_ADDRESS;
    message[25] = 1;
    message[26..32].copy_from_slice(&a.link_address.0);
    let pseudo = checksum::pseudo_v6(&a.src, &a.dst, protocol::ICMPV6, ADVERTISEMENT_LEN as u32);
    let sum = checksum::add(pseudo, checksum::sum(&message));
    message[2..4].copy_from_slice(&(!sum).to_be_bytes());

    out[..14].copy_from_slice(eth.as_bytes());
    out[14..54].copy_from_slice(ip.as_bytes());
    out[54..].copy_from_slice(&message);
    Some(ADVERTISEMENT_FRAME)
}
