// SPDX-License-Identifier: Apache-2.0
//! Making an interface deaf: the host's stack hears nothing on it and says nothing, whatever a pod sends.
//!
//! Three layers, each enough alone for most of it: the settings here, `IFF_NOARP`, and the filter of
//! [`tc::deny`](crate::tc::deny). All belong on the interface before it comes up.

use crate::error::Result;
use crate::link;
use crate::netlink::Socket;
use crate::sysctl::{self, Change, Key};

/// `net.ipv4.conf.IF.*` (kernel's `Documentation/networking/ip-sysctl.rst`).
const IPV4: [(&str, &str); 10] = [
    ("forwarding", "0"),
    ("arp_ignore", "8"), // answer no ARP request at all
    ("arp_announce", "2"),
    ("arp_accept", "0"),
    ("proxy_arp", "0"),
    ("proxy_arp_pvlan", "0"),
    ("rp_filter", "1"), // no address here: every source fails the reverse path
    ("accept_redirects", "0"),
    ("send_redirects", "0"),
    ("accept_source_route", "0"),
];

/// `net.ipv6.conf.IF.*`. `disable_ipv6` alone stops the stack; the others keep it quiet if somebody turns it on again.
const IPV6: [(&str, &str); 8] = [
    ("disable_ipv6", "1"),
    ("accept_ra", "0"),
    ("autoconf", "0"),
    ("forwarding", "0"),
    ("proxy_ndp", "0"),
    ("router_solicitations", "0"),
    ("accept_redirects", "0"),
    ("addr_gen_mode", "1"), // no link-local address
];

/// What [`deafen`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deafened {
    /// Every setting, with its value before.
    pub changes: Vec<Change>,
    /// Settings this kernel lacks: all of IPv6's where it has no IPv6.
    pub absent: Vec<Key>,
}

impl Deafened {
    /// False when the kernel has no IPv6 on the interface, so that there was nothing to turn off.
    pub fn has_ipv6(&self) -> bool {
        let prefix = "/proc/sys/net/ipv6/";
        self.changes
            .iter()
            .any(|c| c.key.to_string().starts_with(prefix))
    }
}

/// Makes an interface deaf. The calling thread and the socket must be in the interface's network namespace.
///
/// # Errors
/// The first setting the kernel refuses, naming file and value; ENODEV naming the interface when it is gone. Settings
/// made before that stay: each only takes something away from the interface.
pub fn deafen(socket: &mut Socket, interface: &str) -> Result<Deafened> {
    // By index: what follows is about this interface, even if another takes its name.
    let found = link::get(socket, interface)?;
    link::set_noarp(socket, found.index, true)?;
    let mut done = Deafened {
        changes: Vec::new(),
        absent: Vec::new(),
    };
    for (key, value) in settings(interface) {
        let key = key?;
        match sysctl::set_if_present(&key, value)? {
            Some(change) => done.changes.push(change),
            None => done.absent.push(key),
        }
    }
    // Missing settings of a missing interface are not "absent in this kernel".
    link::get(socket, found.index)?;
    Ok(done)
}

/// What [`deafen`] would change of the settings now, in its order, so that it can be noted before it is done. `IFF_NOARP`
/// is among the interface's flags.
///
/// # Errors
/// The first setting that cannot be read; ENODEV naming the interface when it is gone.
pub fn plan(socket: &mut Socket, interface: &str) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    for (key, value) in settings(interface) {
        let key = key?;
        match sysctl::get(&key) {
            Ok(before) if before != value => changes.push(Change {
                key,
                before,
                after: value.to_owned(),
            }),
            Ok(_) => {}
            Err(e) if e.is_gone() => {}
            Err(e) => return Err(e),
        }
    }
    link::get(socket, interface)?;
    Ok(changes)
}

fn settings(interface: &str) -> impl Iterator<Item = (Result<Key>, &'static str)> {
    let v4 = IPV4
        .iter()
        .map(move |&(name, value)| (Key::ipv4_conf(interface, name), value));
    let v6 = IPV6
        .iter()
        .map(move |&(name, value)| (Key::ipv6_conf(interface, name), value));
    v4.chain(v6)
}

/// True when the settings that matter most are as [`deafen`] leaves them: NOARP, no forwarding, no ARP answers, no IPv6.
///
/// # Errors
/// [`Error::is_gone`](crate::Error::is_gone) when there is no such interface.
pub fn is_deaf(socket: &mut Socket, interface: &str) -> Result<bool> {
    let noarp = link::get(socket, interface)?.flags.noarp();
    let is = |key: Result<Key>, value: &str| match sysctl::get(&key?) {
        Ok(found) => Ok(found == value),
        Err(e) if e.is_gone() => Ok(true),
        Err(e) => Err(e),
    };
    Ok(noarp
        && is(Key::ipv4_conf(interface, "forwarding"), "0")?
        && is(Key::ipv4_conf(interface, "arp_ignore"), "8")?
        && is(Key::ipv6_conf(interface, "disable_ipv6"), "1")?)
}
