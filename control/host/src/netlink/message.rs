// SPDX-License-Identifier: Apache-2.0
//! Bytes of netlink messages: a request being written, attributes being read (`include/uapi/linux/netlink.h`,
//! `include/uapi/linux/rtnetlink.h`). Integers are in the machine's byte order.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Length of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;
/// Length of `struct nlattr`.
const ATTR_HEADER: usize = 4;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// One request: header, family header, attributes.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// A request of this message type, `NLM_F_*` flags and family header (`ifinfomsg`, `rtmsg`, ...).
    pub(crate) fn new(kind: u16, flags: i32, family_header: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags as u16 | libc::NLM_F_REQUEST as u16).to_ne_bytes());
        bytes.extend_from_slice(family_header);
        let mut request = Request { bytes };
        request.pad();
        request
    }

    pub(crate) fn attr(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(ATTR_HEADER + value.len())
            .expect("attribute values are a few hundred bytes at most");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    pub(crate) fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    pub(crate) fn i32(&mut self, kind: u16, value: i32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// A string attribute with its terminating NUL.
    pub(crate) fn str(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    pub(crate) fn ip(&mut self, kind: u16, value: IpAddr) -> &mut Self {
        match value {
            IpAddr::V4(v4) => self.attr(kind, &v4.octets()),
            IpAddr::V6(v6) => self.attr(kind, &v6.octets()),
        }
    }

    /// An attribute that holds attributes.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        fill(self);
        let length =
            u16::try_from(self.bytes.len() - start).expect("nests hold a few small attributes");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Plain bytes inside a nest (a family header in front of nested attributes), padded.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    pub(crate) fn has_flag(&self, flag: i32) -> bool {
        let flag = flag as u16;
        u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) & flag == flag
    }

    pub(crate) fn add_flag(&mut self, flag: i32) {
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | flag as u16;
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
    }

    /// The message as sent, under this sequence number.
    pub(crate) fn finish(&mut self, sequence: u32) -> &[u8] {
        let length = u32::try_from(self.bytes.len()).expect("a request is far below 4 GiB");
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        &self.bytes
    }

    fn pad(&mut self) {
        self.bytes.resize(align(self.bytes.len()), 0);
    }
}

/// One message of a datagram.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: &'a [u8],
}

/// The messages of a datagram; ends at the first one whose length cannot be right.
pub(crate) fn messages(mut rest: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(rest, 0)?).ok()?;
        let body = rest.get(HEADER..length)?;
        let message = Message {
            kind: u16_at(rest, 4)?,
            flags: u16_at(rest, 6)?,
            sequence: u32_at(rest, 8)?,
            payload: body,
        };
        rest = rest.get(align(length)..).unwrap_or(&[]);
        Some(message)
    })
}

/// The attributes in `rest` as (type, value); ends at the first one whose length cannot be right.
pub(crate) fn attrs(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & TYPE_MASK;
        let value = rest.get(ATTR_HEADER..length)?;
        rest = rest.get(align(length)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

/// The value of the first attribute of this type.
pub(crate) fn attr(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attrs(bytes).find_map(|(k, value)| (k == kind).then_some(value))
}

pub(crate) fn u8_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(crate) fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    u32_at(bytes, at).map(u32::cast_signed)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// A string up to its NUL, with what is not UTF-8 replaced.
pub(crate) fn string(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// An address by its length: 4 or 16 bytes.
pub(crate) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::V4(Ipv4Addr::from(v4)));
    }
    <[u8; 16]>::try_from(bytes)
        .ok()
        .map(|v6| IpAddr::V6(Ipv6Addr::from(v6)))
}

/// An Ethernet address.
pub(crate) fn mac(bytes: &[u8]) -> Option<[u8; 6]> {
    bytes.try_into().ok()
}

/// `AF_INET` or `AF_INET6`.
pub(crate) fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() {
        libc::AF_INET as u8
    } else {
        libc::AF_INET6 as u8
    }
}

fn align(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_attributes_round_trip() {
        let mut request = Request::new(16, libc::NLM_F_ACK, &[0; 16]);
        request.str(3, "veth0").nest(18, |n| {
            n.str(1, "veth").nest(2, |d| {
                d.u32(7, 0x0102_0304).attr(8, &[9]);
            });
        });
        let bytes = request.finish(42).to_vec();
        let all: Vec<_> = messages(&bytes).collect();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].kind, all[0].sequence), (16, 42));
        let body = &all[0].payload[16..];
        assert_eq!(string(attr(body, 3).unwrap()), "veth0");
        let info = attr(body, 18).unwrap();
        let data = attr(info, 2).unwrap();
        assert_eq!(u32_at(attr(data, 7).unwrap(), 0), Some(0x0102_0304));
        assert_eq!(attr(data, 8), Some(&[9][..]));
    }

    #[test]
    fn lengths_that_lie_end_the_walk() {
        for length in [0u16, 1, 3, 9, 0xffff] {
            let mut bytes = vec![0; 8];
            bytes[0..2].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(attrs(&bytes).count(), 0, "attribute length {length}");
        }
        for length in [0u32, 15, 33, u32::MAX] {
            let mut bytes = vec![0; 32];
            bytes[0..4].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(messages(&bytes).count(), 0, "message length {length}");
        }
        assert_eq!(attrs(&[4, 0, 1]).count(), 0);
    }

    #[test]
    fn last_attribute_may_lack_its_padding() {
        let bytes = [5u16.to_ne_bytes(), 1u16.to_ne_bytes()].concat();
        let bytes = [bytes, vec![7]].concat();
        assert_eq!(attrs(&bytes).collect::<Vec<_>>(), [(1, &[7][..])]);
    }
}
