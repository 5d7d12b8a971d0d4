// SPDX-License-Identifier: Apache-2.0
//! Network address and port translation (RFC 3022): writing another address and port over one end of a packet, or of the packet that an ICMP
//! error quotes, with all checksums that cover them changed by the difference (RFC 1624), never computed anew: a wrong one stays wrong.

use super::flow_key::unmap_v4;
use super::icmp::{self, Query};
use super::ipv4::{self, Ipv4Header};
use super::ipv6::{self, Ipv6Header};
use super::parse::{Fragment, Kind, Parsed};
use super::{array_at, checksum, protocol, tcp, udp};

/// An address (IPv4-mapped, as in flow keys) and a port, or the identifier of an ICMP query.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// The address.
    pub address: [u8; 16],
    /// The port.
    pub port: u16,
}

/// One end of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// Whether a connection that begins with this packet is one whose ports, or identifiers, can be written over.
pub fn can_begin(parsed: &Parsed) -> bool {
    match parsed.protocol {
        protocol::TCP | protocol::UDP => parsed.fragment != Fragment::Later,
        protocol::ICMP | protocol::ICMPV6 => {
            query(parsed.protocol, parsed.icmp_type) == Some(Query::Request)
        }
        _ => false,
    }
}

fn query(protocol: u8, kind: u8) -> Option<Query> {
    match protocol {
        protocol::ICMP => icmp::v4::query(kind),
        protocol::ICMPV6 => icmp::v6::query(kind),
        _ => None,
    }
}

/// Where in an IP packet the address of an end is.
fn address_at(kind: Kind, end: End) -> usize {
    match (kind, end) {
        (Kind::Ipv4, End::Source) => 12,
        (Kind::Ipv4, End::Destination) => 16,
        (_, End::Source) => 8,
        (_, End::Destination) => 24,
    }
}

/// Bytes that are changed, and by how much that changes their sum.
struct Patch<'a> {
    bytes: &'a mut [u8],
    change: u16,
}

impl<'a> Patch<'a> {
    fn new(bytes: &'a mut [u8]) -> Patch<'a> {
        Patch { bytes, change: 0 }
    }

    /// Writes bytes at an even offset; returns by how much that changes the sum.
    #[inline(always)]
    fn put(&mut self, at: usize, new: &[u8]) -> Option<u16> {
        let old = self.bytes.get_mut(at..at + new.len())?;
        let change = checksum::add(!checksum::sum(old), checksum::sum(new));
        old.copy_from_slice(new);
        self.change = checksum::add(self.change, change);
        Some(change)
    }

    /// Writes an address as a packet of `kind` holds it.
    #[inline(always)]
    fn put_address(&mut self, at: usize, kind: Kind, address: &[u8; 16]) -> Option<u16> {
        match kind {
            Kind::Ipv4 => self.put(at, &unmap_v4(address)?),
            _ => self.put(at, address),
        }
    }

    /// Changes a checksum as what it covers has changed.
    #[inline(always)]
    fn adjust(&mut self, at: usize, change: u16) -> Option<u16> {
        let old = u16::from_be_bytes(*array_at(self.bytes, at)?);
        let new = !checksum::add(!old, change);
        self.put(at, &new.to_be_bytes())
    }

    /// The same for that of UDP, where 0 means that there is none (RFC 768).
    #[inline(always)]
    fn adjust_udp(&mut self, at: usize, change: u16) -> Option<u16> {
        let old = u16::from_be_bytes(*array_at(self.bytes, at)?);
        if old == 0 {
            return Some(0);
        }
        match !checksum::add(!old, change) {
            0 => self.put(at, &[0xff; 2]),
            new => self.put(at, &new.to_be_bytes()),
        }
    }

    /// Writes over an end's port in the transport header at `l4`, and adjusts the checksum there to that and to `address`, the change of the
    /// pseudo-header. An absent checksum, as in what is quoted, is left out.
    #[inline(always)]
    fn put_transport(
        &mut self,
        l4: usize,
        protocol: u8,
        (end, port): (End, u16),
        address: u16,
    ) -> Option<()> {
        let port = port.to_be_bytes();
        let port_at = match end {
            End::Source => l4,
            End::Destination => l4 + 2,
        };
        match protocol {
            protocol::TCP => {
                let change = self.put(port_at, &port)?;
                let at = l4 + usize::from(tcp::CHECKSUM_OFFSET);
                self.adjust(at, checksum::add(address, change));
            }
            protocol::UDP => {
                let change = self.put(port_at, &port)?;
                let at = l4 + usize::from(udp::CHECKSUM_OFFSET);
                self.adjust_udp(at, checksum::add(address, change));
            }
            protocol::ICMP | protocol::ICMPV6 => {
                let mut change = match protocol {
                    protocol::ICMP => 0,
                    _ => address,
                };
                if query(protocol, *self.bytes.get(l4)?).is_some() {
                    change = checksum::add(change, self.put(l4 + 4, &port)?);
                }
                self.adjust(l4 + 2, change);
            }
            _ => {}
        }
        Some(())
    }
}

/// Writes over an end of a parsed packet whose headers lie in `frame`. Of an ICMP error, and of a later fragment, the address alone; `partial`:
/// its checksum is yet to be finished ([`partial`](super::partial)). False, with the packet undefined, when something is not there.
#[inline]
#[must_use]
pub fn set_end(frame: &mut [u8], parsed: &Parsed, end: End, to: &Endpoint, partial: bool) -> bool {
    let (l3, l4) = (usize::from(parsed.l3), usize::from(parsed.l4));
    let mut patch = Patch::new(frame);
    let at = l3 + address_at(parsed.kind, end);
    let Some(address) = patch.put_address(at, parsed.kind, &to.address) else {
        return false;
    };
    if parsed.kind == Kind::Ipv4 && patch.adjust(l3 + ipv4::CHECKSUM_AT, address).is_none() {
        return false;
    }
    match (parsed.fragment, partial) {
        (Fragment::Later, _) => true,
        (_, true) => set_partial(&mut patch, parsed, (end, to.port), address).is_some(),
        _ => patch
            .put_transport(l4, parsed.protocol, (end, to.port), address)
            .is_some(),
    }
}

/// The port of a packet whose checksum field holds the sum of the pseudo-header, not complemented.
fn set_partial(
    patch: &mut Patch<'_>,
    parsed: &Parsed,
    (end, port): (End, u16),
    address: u16,
) -> Option<()> {
    let l4 = usize::from(parsed.l4);
    let (port_at, field) = match (parsed.protocol, end) {
        (protocol::TCP, End::Source) => (l4, tcp::CHECKSUM_OFFSET),
        (protocol::TCP, End::Destination) => (l4 + 2, tcp::CHECKSUM_OFFSET),
        (protocol::UDP, End::Source) => (l4, udp::CHECKSUM_OFFSET),
        (protocol::UDP, End::Destination) => (l4 + 2, udp::CHECKSUM_OFFSET),
        _ => return None,
    };
    patch.put(port_at, &port.to_be_bytes())?;
    let at = l4 + usize::from(field);
    let sum = u16::from_be_bytes(*array_at(patch.bytes, at)?);
    patch.put(at, &checksum::add(sum, address).to_be_bytes())?;
    Some(())
}

/// Writes over an end of the packet that an ICMP error quotes ([`quoted`](super::quoted)), with the checksums of that packet, as far as they
/// are quoted, and of the error. False, with the packet undefined, when something is not there.
#[must_use]
pub fn set_quoted_end(frame: &mut [u8], parsed: &Parsed, end: End, to: &Endpoint) -> bool {
    quote(frame, parsed, end, to).is_some()
}

fn quote(frame: &mut [u8], parsed: &Parsed, end: End, to: &Endpoint) -> Option<()> {
    let l4 = usize::from(parsed.l4);
    let at = l4 + icmp::HEADER_LEN;
    let (upper, protocol) = quoted_upper(frame.get(at..)?, parsed.kind)?;
    let mut patch = Patch::new(frame);
    let address = patch.put_address(at + address_at(parsed.kind, end), parsed.kind, &to.address)?;
    if parsed.kind == Kind::Ipv4 {
        patch.adjust(at + ipv4::CHECKSUM_AT, address)?;
    }
    patch.put_transport(at + upper, protocol, (end, to.port), address)?;
    let change = patch.change;
    patch.adjust(l4 + 2, change)?;
    Some(())
}

/// Offset of the transport header in a quoted packet, and its protocol.
fn quoted_upper(quoted: &[u8], kind: Kind) -> Option<(usize, u8)> {
    match kind {
        Kind::Ipv4 => {
            let ip = Ipv4Header::read(quoted)?;
            Some((ip.header_len().max(ipv4::HEADER_LEN), ip.protocol))
        }
        _ => {
            let ip = Ipv6Header::read(quoted)?;
            let whole = ipv6::HEADER_LEN + usize::from(ip.payload_length.get());
            let upper = ipv6::walk(quoted, whole, ip.next_header).ok()?;
            Some((upper.offset.into(), upper.protocol))
        }
    }
}
