// SPDX-License-Identifier: Apache-2.0
//! The node's NIC, as the kernel has it.

use podswitch_api::object::HOST_INTERFACE;
use podswitch_host::netlink::Socket;
use podswitch_host::route::{self, Entry, Family};
use podswitch_host::{Error, addr, link};

use crate::core::Link;

/// The kernel's main routing table.
const MAIN_TABLE: u32 = 254;

/// The interface of this name, or that of the default route: the IPv4 one's before the IPv6 one's. None when there is no default route.
///
/// # Errors
/// What the kernel refuses, or that there is no such interface.
pub fn find(name: Option<&str>) -> Result<Option<Link>, Error> {
    let mut socket = Socket::open()?;
    let mut defaults = Vec::new();
    for family in [Family::V4, Family::V6] {
        let entries = route::entries(&mut socket, family, MAIN_TABLE)?;
        defaults.extend(entries.into_iter().filter(is_default));
    }
    let host = link::find(&mut socket, HOST_INTERFACE)?.map(|l| l.index);
    let hops = || defaults.iter().flat_map(|d| &d.next_hops);
    let found = match name {
        Some(name) => Some(link::get(&mut socket, name)?),
        None => match hops().map(|hop| hop.link).find(|l| Some(*l) != host) {
            Some(index) => Some(link::get(&mut socket, index)?),
            None => None,
        },
    };
    let Some(found) = found else { return Ok(None) };
    let addresses = addr::list(&mut socket, found.index)?;
    let global = addresses.iter().filter(|a| a.is_global());
    let mut nets: Vec<_> = global.map(|a| a.net.trunc()).collect();
    nets.sort_unstable();
    nets.dedup();
    let by_it = hops().filter(|hop| hop.link == found.index);
    let mut gateways: Vec<_> = by_it.filter_map(|hop| hop.gateway).collect();
    gateways.sort_unstable();
    // One of each family: they stand for the default route of the family.
    gateways.dedup_by_key(|gateway| gateway.is_ipv4());
    Ok(Some(Link {
        interface: found.name,
        nets,
        gateways,
    }))
}

fn is_default(entry: &Entry) -> bool {
    entry.route.dst.prefix_len() == 0
}
