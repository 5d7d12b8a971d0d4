// SPDX-License-Identifier: Apache-2.0
//! Who may send what: the same for all that look at it.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use super::load::DESTINATIONS;
use crate::traffic::SERVICE;

/// Rules that are asked before a connection is let on.
pub(super) const RULES: usize = 1000;
/// Ports at which the second machine may be reached by the first.
pub(super) const SERVICES: RangeInclusive<u16> = SERVICE..=SERVICE + DESTINATIONS - 1;

/// Whom another rule lets on, and at which port: nobody that is there.
pub(super) fn other(n: usize) -> (IpAddr, u16) {
    let peer = Ipv4Addr::new(10, 9, (n >> 8) as u8, n as u8);
    (peer.into(), 443 + (n % 10) as u16)
}
