// SPDX-License-Identifier: Apache-2.0
//! Anti-spoofing: what comes from a port with `check_source` wears that port's addresses.
//!
//! | packet | must be the port's own |
//! |---|---|
//! | every frame | source MAC; on L2 ports that is all |
//! | ARP | sender MAC and sender address (`0.0.0.0` in a probe, RFC 5227) |
//! | IPv4 | source; `0.0.0.0` passes, since parsing lets it go to groups only, which end here |
//! | IPv6 | source; link-local ones pass, since they end here or at the gateway, and `::` as `0.0.0.0` does |
//!
//! What comes from the node's port with another source is forwarded by the node: whether that may be is seen when it is judged
//! ([`outside`](super::outside)).
//!
//! A pod's kernel makes its link-local addresses by itself; they serve neighbor and multicast listener discovery.

use crate::tables::PortEntry;
use crate::verdict::Reason;
use crate::wire::arp::ArpPacket;
use crate::wire::eth::EthernetHeader;
use crate::wire::{Kind, Parsed, flow_key, ipv6};

/// What the sources of a routed port's frames must be.
pub(super) struct Own<'a> {
    port: &'a PortEntry,
    /// An own address of each family, `::` without one: most packets' source.
    usual: [u128; 2],
}

impl<'a> Own<'a> {
    /// Of a port.
    pub(super) fn of(port: &'a PortEntry) -> Own<'a> {
        let own = port.addresses();
        let v4 = own.v4().first().map_or(0, |a| a.to_ipv6_mapped().to_bits());
        let v6 = own.v6().first().map_or(0, |a| a.to_bits());
        Own {
            port,
            usual: [v4, v6],
        }
    }

    /// `Err` when the frame's source is not the port's.
    #[inline(always)]
    pub(super) fn check(&self, frame: &[u8], parsed: &Parsed) -> Result<(), Reason> {
        if !self.port.check_source {
            return Ok(());
        }
        check_mac(self.port, frame)?;
        if !parsed.is_ip() {
            return check_other(self.port, frame, parsed);
        }
        if self.usual.contains(&u128::from_be_bytes(parsed.key.src)) {
            return Ok(());
        }
        check_address(self.port, &parsed.key.src)
    }
}

/// `Err` when the frame's source MAC is not the port's, where that is checked: all there is to check on L2 ports, behind
/// which no addresses are known.
#[inline]
pub(super) fn check_mac(port: &PortEntry, frame: &[u8]) -> Result<(), Reason> {
    if port.check_source && EthernetHeader::read(frame).is_none_or(|eth| eth.src != port.mac) {
        return Err(Reason::SpoofedMac);
    }
    Ok(())
}

#[inline(never)]
fn check_address(port: &PortEntry, src: &[u8; 16]) -> Result<(), Reason> {
    if port.addresses().contains_key(src) || passes(src) || port.node {
        Ok(())
    } else {
        Err(Reason::SpoofedAddress)
    }
}

/// Whether a source, as the flow key has it, is one that never goes beyond the link.
#[inline]
fn passes(src: &[u8; 16]) -> bool {
    ipv6::is_link_local(src) || ipv6::is_unspecified(src) || *src == flow_key::map_v4([0; 4])
}

fn check_other(port: &PortEntry, frame: &[u8], parsed: &Parsed) -> Result<(), Reason> {
    let packet = frame.get(parsed.l3.into()..);
    let arp = match (parsed.kind, packet.and_then(ArpPacket::read)) {
        (Kind::Arp, Some(arp)) => arp,
        _ => return Ok(()),
    };
    if arp.sender_mac != port.mac {
        return Err(Reason::SpoofedMac);
    }
    if arp.is_probe() || port.addresses().contains_v4(arp.sender_ip.into()) {
        Ok(())
    } else {
        Err(Reason::SpoofedAddress)
    }
}
