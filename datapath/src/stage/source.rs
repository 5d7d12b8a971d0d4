// SPDX-License-Identifier: Apache-2.0
//! Anti-spoofing: what comes from a port with `check_source` wears that port's addresses.
//!
//! | packet | must be the port's own |
//! |---|---|
//! | every frame | source MAC |
//! | ARP | sender MAC and sender address (`0.0.0.0` in a probe, RFC 5227) |
//! | IPv4 | source; `0.0.0.0` passes, since parsing lets it go to groups only, which end here |
//! | IPv6 | source; link-local ones pass, since they end here or at the gateway, and `::` as `0.0.0.0` does |
//!
//! A pod's kernel makes its link-local addresses by itself; they serve neighbor and multicast listener discovery.

use crate::tables::PortEntry;
use crate::verdict::Reason;
use crate::wire::arp::ArpPacket;
use crate::wire::eth::EthernetHeader;
use crate::wire::{Kind, Parsed, flow_key, ipv6};

/// `Err` when the frame's source is not the port's.
#[inline(always)]
pub(super) fn check(port: &PortEntry, frame: &[u8], parsed: &Parsed) -> Result<(), Reason> {
    if !port.check_source {
        return Ok(());
    }
    if EthernetHeader::read(frame).is_none_or(|eth| eth.src != port.mac) {
        return Err(Reason::SpoofedMac);
    }
    let own = match parsed.kind {
        Kind::Ipv4 | Kind::Ipv6 => {
            port.addresses().contains_key(&parsed.key.src) || passes(&parsed.key.src)
        }
        Kind::Arp => return check_arp(port, frame, parsed),
        Kind::Other => true,
    };
    if own {
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

fn check_arp(port: &PortEntry, frame: &[u8], parsed: &Parsed) -> Result<(), Reason> {
    let Some(arp) = frame.get(parsed.l3.into()..).and_then(ArpPacket::read) else {
        return Ok(());
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
