// SPDX-License-Identifier: Apache-2.0
//! Ethernet and IEEE 802.1Q.

use std::fmt;
use std::str::FromStr;

use zerocopy::byteorder::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::array_at;

/// Length of an Ethernet header without tags, bytes.
pub const HEADER_LEN: usize = 14;
/// Length of one 802.1Q tag, bytes.
pub const TAG_LEN: usize = 4;

/// EtherType values (IEEE registration authority).
pub mod ethertype {
    /// IPv4 (RFC 894).
    pub const IPV4: u16 = 0x0800;
    /// ARP (RFC 826).
    pub const ARP: u16 = 0x0806;
    /// 802.1Q customer tag.
    pub const VLAN: u16 = 0x8100;
    /// IPv6 (RFC 2464).
    pub const IPV6: u16 = 0x86dd;
    /// 802.1ad service tag.
    pub const SERVICE_VLAN: u16 = 0x88a8;
    /// Values below this are an IEEE 802.3 length, not a type.
    pub const MIN: u16 = 0x0600;
}

/// Whether the frame has this EtherType, without tags, and is from one station.
#[inline(always)]
pub(crate) fn is_from_one<const N: usize>(head: &[u8; N], ethertype: u16) -> bool {
    let Some(tail) = array_at::<8>(head, 6) else {
        return false;
    };
    let tail = u64::from_be_bytes(*tail);
    (tail as u16 == ethertype) & (tail >> 16 != 0) & (tail & 1 << 56 == 0)
}

/// A 48-bit MAC address.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(transparent)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// `00:00:00:00:00:00`.
    pub const ZERO: MacAddr = MacAddr([0; 6]);
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);

    /// Group bit set: multicast or broadcast.
    #[inline]
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// All ones.
    #[inline]
    pub fn is_broadcast(self) -> bool {
        self == Self::BROADCAST
    }

    /// All zeros.
    #[inline]
    pub fn is_zero(self) -> bool {
        self == Self::ZERO
    }

    /// Neither group nor zero: may be a station's own address.
    #[inline]
    pub fn is_unicast(self) -> bool {
        !self.is_multicast() && !self.is_zero()
    }

    /// `01:80:C2:00:00:00` to `0F`, which bridges do not forward (IEEE 802.1Q table 8-1).
    #[inline]
    pub fn is_link_local_control(self) -> bool {
        self.0[..5] == [0x01, 0x80, 0xc2, 0, 0] && self.0[5] & 0xf0 == 0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not six pairs of hexadecimal digits separated by colons.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "not a MAC address: write six pairs of hexadecimal digits separated by colons, as 02:00:5e:00:53:01"
)]
pub struct ParseMacError;

impl FromStr for MacAddr {
    type Err = ParseMacError;

    /// Six pairs of hexadecimal digits, either case, separated by `:`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes: &[u8; 17] = text.as_bytes().try_into().map_err(|_| ParseMacError)?;
        let digit = |c: u8| {
            (c as char)
                .to_digit(16)
                .map(|d| d as u8)
                .ok_or(ParseMacError)
        };
        let mut mac = [0; 6];
        for (i, out) in mac.iter_mut().enumerate() {
            if i > 0 && bytes[3 * i - 1] != b':' {
                return Err(ParseMacError);
            }
            *out = digit(bytes[3 * i])? << 4 | digit(bytes[3 * i + 1])?;
        }
        Ok(MacAddr(mac))
    }
}

/// The 14 bytes in front of every frame.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct EthernetHeader {
    /// Destination.
    pub dst: MacAddr,
    /// Source.
    pub src: MacAddr,
    /// EtherType, tag protocol identifier or 802.3 length.
    pub ethertype: U16,
}

impl EthernetHeader {
    /// The header at the start of `frame`, if 14 bytes are there.
    #[inline]
    pub fn read(frame: &[u8]) -> Option<&Self> {
        Self::ref_from_prefix(frame).ok().map(|(h, _)| h)
    }

    /// The writable header at the start of `frame`, if 14 bytes are there.
    #[inline]
    pub fn read_mut(frame: &mut [u8]) -> Option<&mut Self> {
        Self::mut_from_prefix(frame).ok().map(|(h, _)| h)
    }
}

/// One 802.1Q tag: its protocol identifier, its control information, and what follows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag {
    /// [`ethertype::VLAN`] or [`ethertype::SERVICE_VLAN`].
    pub tpid: u16,
    /// Tag control information: priority (3 bits), drop eligible (1), VLAN identifier (12).
    pub tci: u16,
    /// The EtherType behind the tag.
    pub ethertype: u16,
}

impl Tag {
    /// VLAN identifier, 0 to 4095; 0 is a priority tag.
    #[inline]
    pub fn vid(self) -> u16 {
        self.tci & 0x0fff
    }

    /// Priority code point, 0 to 7.
    #[inline]
    pub fn pcp(self) -> u8 {
        (self.tci >> 13) as u8
    }
}

/// Whether an EtherType announces an 802.1Q or 802.1ad tag.
#[inline]
pub fn is_tag(ethertype: u16) -> bool {
    ethertype == ethertype::VLAN || ethertype == ethertype::SERVICE_VLAN
}

/// The tag whose protocol identifier lies at `offset` (12 for the outer one, 16 for the inner one).
/// `None` when there is no tag there or the frame ends inside it.
#[inline]
pub fn read_tag(frame: &[u8], offset: usize) -> Option<Tag> {
    let b: &[u8; 6] = super::array_at(frame, offset)?;
    let tpid = u16::from_be_bytes([b[0], b[1]]);
    is_tag(tpid).then(|| Tag {
        tpid,
        tci: u16::from_be_bytes([b[2], b[3]]),
        ethertype: u16::from_be_bytes([b[4], b[5]]),
    })
}
