// SPDX-License-Identifier: Apache-2.0
//! CHECK's part in the kernel: is everything that ADD made still as its result says?

use std::net::IpAddr;

use podswitch_host::netns::Netns;
use podswitch_host::route::{self, Family};
use podswitch_host::{Socket, addr, deaf, link, tc};

use super::{Link, host_error};
use crate::result::{Interface, Ip, Route};
use crate::spec::{CniError, Code};

/// Compares an attachment's interfaces with what ADD answered: `wanted` is the pod's end there.
///
/// # Errors
/// Code 102 naming the first difference.
pub fn check(
    link: &Link,
    pod: &Netns,
    wanted: &Interface,
    ips: &[Ip],
    routes: &[Route],
) -> Result<(), CniError> {
    let differs = |msg: String| CniError::new(Code::Differs, msg);
    let host = host_end(&link.host).map_err(host_error)?;
    let host = host.and_then(|(host, closed)| match closed {
        _ if !host.flags.up() => Err("is down"),
        false => Err("is open to the host's stack: its filter or its settings are gone"),
        true => Ok(host),
    });
    let host = host.map_err(|why| differs(format!("host interface {} {why}", link.host)))?;
    let seen = {
        let _inside = pod.enter().map_err(host_error)?;
        Seen::read(&link.ifname, routes).map_err(host_error)?
    };
    let missing = || {
        differs(format!(
            "interface {} is missing in {}",
            link.ifname, link.netns
        ))
    };
    seen.ok_or_else(missing)?
        .compare(host.index, wanted, ips, routes)
        .map_err(|why| differs(format!("interface {} {why}", link.ifname)))
}

type HostEnd = Result<(podswitch_host::Link, bool), &'static str>;

/// The host end, and whether it is closed.
fn host_end(name: &str) -> podswitch_host::Result<HostEnd> {
    let mut socket = Socket::open()?;
    let Some(host) = link::find(&mut socket, name)? else {
        return Ok(Err("is missing"));
    };
    let closed = deaf::is_deaf(&mut socket, name)? && tc::denied(&mut socket, host.index)?;
    Ok(Ok((host, closed)))
}

/// What is in the pod.
struct Seen {
    link: podswitch_host::Link,
    addresses: Vec<IpAddr>,
    routes: Vec<route::Route>,
}

impl Seen {
    fn read(ifname: &str, wanted: &[Route]) -> podswitch_host::Result<Option<Seen>> {
        let mut socket = Socket::open()?;
        let Some(link) = link::find(&mut socket, ifname)? else {
            return Ok(None);
        };
        let addresses = addr::list(&mut socket, link.index)?
            .iter()
            .map(addr::Address::ip)
            .collect();
        let mut tables: Vec<u32> = wanted.iter().map(table).collect();
        tables.sort_unstable();
        tables.dedup();
        let mut routes = Vec::new();
        for table in tables {
            for family in [Family::V4, Family::V6] {
                routes.extend(route::list(&mut socket, family, table)?);
            }
        }
        routes.retain(|r| r.link == Some(link.index));
        Ok(Some(Seen {
            link,
            addresses,
            routes,
        }))
    }

    fn compare(
        &self,
        host_index: u32,
        wanted: &Interface,
        ips: &[Ip],
        routes: &[Route],
    ) -> Result<(), String> {
        if self.link.peer.is_none_or(|p| p.index != host_index) {
            return Err("is not the other end of the host interface".into());
        }
        let mac = podswitch_api::MacAddr(self.link.mac.unwrap_or_default()).to_string();
        if !wanted.mac.is_empty() && !wanted.mac.eq_ignore_ascii_case(&mac) {
            return Err(format!("has MAC address {mac}, not {}", wanted.mac));
        }
        if let Some(mtu) = wanted.mtu.filter(|m| *m != self.link.mtu) {
            return Err(format!("has MTU {}, not {mtu}", self.link.mtu));
        }
        if !self.link.flags.up() {
            return Err("is down".into());
        }
        let lost = |ip: &&Ip| !self.addresses.contains(&ip.address.addr());
        if let Some(ip) = ips.iter().find(lost) {
            return Err(format!("has no address {}", ip.address.addr()));
        }
        // Routes of other plugins have other gateways.
        let ours = |r: &&Route| r.gw.is_some() && ips.iter().any(|ip| ip.gateway == r.gw);
        match routes.iter().filter(ours).find(|r| !self.has(r)) {
            Some(r) => Err(format!("has no route to {}", r.dst)),
            None => Ok(()),
        }
    }

    fn has(&self, wanted: &Route) -> bool {
        let same = |there: &route::Route| {
            there.dst.trunc() == wanted.dst.trunc()
                && there.gateway == wanted.gw
                && there.table == table(wanted)
                && wanted.mtu.is_none_or(|m| there.mtu == Some(m))
        };
        self.routes.iter().any(same)
    }
}

fn table(route: &Route) -> u32 {
    route.table.unwrap_or(u32::from(libc::RT_TABLE_MAIN))
}
