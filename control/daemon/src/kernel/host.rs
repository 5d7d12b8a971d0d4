// SPDX-License-Identifier: Apache-2.0
//! The way to the node's own stack: a veth pair with both ends in the daemon's namespace. The host's end gets routes to the pods and knows the
//! gateway by heart; the other end is taken as a pod's is. All of it goes with the pair.

use std::net::IpAddr;

use ipnet::IpNet;
use podswitch_api::desired::Gateway;
use podswitch_api::method::TeardownItem;
use podswitch_api::object::{HOST_MAC, HOST_POLLED};
use podswitch_host::link::{Peer, Veth, VethEnd};
use podswitch_host::route::{Family, Route};
use podswitch_host::sysctl::{self, Key};
use podswitch_host::{Error, Link, Socket, addr, link, neigh, route};

use super::KernelError;
use super::veth::ALIAS;

/// What the switch's end is called by its MAC address; nobody asks for it.
const POLLED_MAC: [u8; 6] = *b"\x02pswsw";
/// Who made a route, as the kernel notes it (`RTPROT_*`): a number that no routing daemon has.
const PROTOCOL: u8 = 112;

/// What is wanted of the host's interface.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// Its name.
    pub interface: &'a str,
    /// MTU of both ends.
    pub mtu: u32,
    /// Prefixes of pods.
    pub pods: &'a [IpNet],
    /// The switch's own addresses.
    pub gateway: Gateway,
}

impl Wanted<'_> {
    pub(super) fn has(&self, v4: bool) -> bool {
        self.pods.iter().any(|p| p.addr().is_ipv4() == v4)
    }

    /// The gateway, in each family that pods have.
    fn gateways(&self) -> impl Iterator<Item = IpAddr> + Clone {
        let Gateway { ipv4, ipv6, .. } = self.gateway;
        let v4 = self.has(true).then_some(IpAddr::V4(ipv4));
        v4.into_iter()
            .chain(self.has(false).then_some(IpAddr::V6(ipv6)))
    }
}

/// Makes the pair, or takes over the one that is there; whether it was made.
///
/// # Errors
/// [`KernelError`], naming the interface: when one of its name is somebody else's, or the kernel refuses. A pair that was begun is gone then.
pub fn ensure(wanted: &Wanted<'_>) -> Result<bool, KernelError> {
    let mut socket = Socket::open()?;
    let socket = &mut socket;
    let near = link::find(socket, wanted.interface)?;
    let far = link::find(socket, HOST_POLLED)?;
    match (near, far) {
        (Some(near), Some(far)) if are_pair(&near, &far) => {
            adjust(socket, &near, &far, wanted)?;
            return Ok(false);
        }
        (Some(foreign), _) => return Err(taken(&foreign)),
        (None, Some(far)) if is_ours(&far) => drop(link::delete_if_exists(socket, far.index)?),
        (None, Some(foreign)) => return Err(taken(&foreign)),
        (None, None) => {}
    }
    let end = |name, mac| VethEnd {
        name,
        mac,
        mtu: wanted.mtu,
    };
    let pair = Veth::new(
        end(HOST_POLLED, POLLED_MAC),
        end(wanted.interface, HOST_MAC.0),
    );
    let far = link::create_veth(socket, &pair)?;
    let quiet = name_ends(socket, wanted.interface).and_then(|()| quieten(wanted));
    match quiet {
        Ok(()) => Ok(true),
        Err(e) => {
            link::delete_if_exists(socket, far.index)?;
            Err(e.into())
        }
    }
}

fn are_pair(near: &Link, far: &Link) -> bool {
    let index = far.index;
    near.kind.as_deref() == Some("veth") && near.peer == Some(Peer { index, nsid: None })
}

/// Whether the switch's end is what its name says; without an alias its maker was killed.
fn is_ours(far: &Link) -> bool {
    let alias = far.alias.as_deref();
    far.kind.as_deref() == Some("veth") && alias.is_none_or(|a| a.starts_with(ALIAS))
}

fn taken(foreign: &Link) -> KernelError {
    KernelError::Taken {
        name: foreign.name.clone(),
        kind: foreign.kind.clone().unwrap_or_else(|| "device".to_owned()),
    }
}

fn name_ends(socket: &mut Socket, interface: &str) -> Result<(), Error> {
    for end in [HOST_POLLED, interface] {
        // Where podswitch-cni writes the network, whose left-overs it collects, there is none.
        link::set_alias(socket, end, &format!("{ALIAS}:{interface}"))?;
    }
    Ok(())
}

/// A pair of an earlier run may be another's idea of what it should be.
fn adjust(
    socket: &mut Socket,
    near: &Link,
    far: &Link,
    wanted: &Wanted<'_>,
) -> Result<(), KernelError> {
    name_ends(socket, wanted.interface)?;
    for end in [near, far] {
        if end.mtu != wanted.mtu {
            link::set_mtu(socket, end, wanted.mtu)?;
        }
    }
    if near.mac != Some(HOST_MAC.0) {
        link::set_mac(socket, near, HOST_MAC.0)?;
    }
    Ok(quieten(wanted)?)
}

/// The settings of the host's interface: it is no link to discover anything on, but speaks the families of the pods.
fn settings(wanted: &Wanted<'_>) -> Vec<(&'static str, &'static str)> {
    let mut settings = vec![("addr_gen_mode", "1")];
    if wanted.has(false) {
        settings.push(("disable_ipv6", "0"));
    }
    settings
}

fn quieten(wanted: &Wanted<'_>) -> Result<(), Error> {
    for (name, value) in settings(wanted) {
        // A kernel without IPv6 says so when it is asked for a route.
        sysctl::set_if_present(&Key::ipv6_conf(wanted.interface, name)?, value)?;
    }
    Ok(())
}

/// Brings both ends up. To be called when the switch's end is closed to the host.
///
/// # Errors
/// [`KernelError`], naming the interface.
pub fn raise(interface: &str) -> Result<(), KernelError> {
    let mut socket = Socket::open()?;
    link::set_up(&mut socket, HOST_POLLED, true)?;
    Ok(link::set_up(&mut socket, interface, true)?)
}

/// Makes the host's neighbors and routes what they should be, the routes' source the first of `addresses` in each family. Says what is there.
///
/// # Errors
/// [`KernelError`], naming the route that somebody else has, or what the kernel refused; what is there stays then.
pub fn settle(wanted: &Wanted<'_>, addresses: &[IpAddr]) -> Result<Vec<TeardownItem>, KernelError> {
    let mut socket = Socket::open()?;
    let near = super::find(&mut socket, wanted.interface)?;
    let mut there = vec![
        item("interface", &near.name),
        item("interface", HOST_POLLED),
    ];
    for (name, value) in settings(wanted) {
        let key = Key::ipv6_conf(wanted.interface, name)?;
        there.push(item("sysctl", format_args!("{key} {value}")));
    }
    // The kernel takes no routes for an interface that is down, and forgets those it had.
    if !near.flags.up() {
        return Ok(there);
    }
    for gateway in wanted.gateways() {
        neigh::set_permanent(&mut socket, near.index, gateway, wanted.gateway.mac.0)?;
        there.push(item("neighbor", gateway));
    }
    for v4 in [true, false] {
        let source = addresses.iter().find(|a| a.is_ipv4() == v4).copied();
        let routes = routes(wanted, near.index, v4, source);
        put_routes(&mut socket, near.index, v4, &routes)?;
        there.extend(routes.iter().map(|route| item("route", route)));
    }
    Ok(there)
}

/// Something that is on the host.
pub fn item(kind: &str, name: impl ToString) -> TeardownItem {
    TeardownItem {
        kind: kind.to_owned(),
        name: name.to_string(),
    }
}

/// The routes of a family that are to be there. The gateway has one of its own, as its errors have to pass a strict `rp_filter`.
fn routes(wanted: &Wanted<'_>, near: u32, v4: bool, source: Option<IpAddr>) -> Vec<Route> {
    let route = |prefix| Route {
        protocol: PROTOCOL,
        src: source,
        ..Route::new(prefix).dev(near)
    };
    let gateways = wanted.gateways().filter(|g| g.is_ipv4() == v4);
    let link = gateways
        .clone()
        .filter(IpAddr::is_ipv4)
        .map(|g| route(IpNet::from(g)));
    let via = gateways.flat_map(|g| {
        let pods = wanted.pods.iter().filter(move |p| p.addr().is_ipv4() == v4);
        pods.map(move |p| route(*p).via(g).onlink())
    });
    link.chain(via).collect()
}

fn put_routes(
    socket: &mut Socket,
    near: u32,
    v4: bool,
    wanted: &[Route],
) -> Result<(), KernelError> {
    let family = if v4 { Family::V4 } else { Family::V6 };
    let main = Route::default_for(family).table;
    let mut ours = route::list(socket, family, main)?;
    ours.retain(|r| r.link == Some(near) && r.protocol == PROTOCOL);
    for new in wanted {
        match ours.iter().find(|old| old.dst == new.dst) {
            Some(old) if (old.gateway, old.src) == (new.gateway, new.src) => {}
            Some(_) => route::replace(socket, new)?,
            None => route::add(socket, new).map_err(|e| match e.exists() {
                true => KernelError::RouteTaken(new.dst),
                false => e.into(),
            })?,
        }
    }
    for old in &ours {
        if wanted.iter().all(|new| new.dst != old.dst) {
            route::delete(socket, old)?;
        }
    }
    Ok(())
}

/// Takes the pair away, and with it all that is on it; whether it was there.
///
/// # Errors
/// The kernel's refusal.
pub fn remove() -> Result<bool, Error> {
    let mut socket = Socket::open()?;
    match link::find(&mut socket, HOST_POLLED)? {
        Some(far) if is_ours(&far) => link::delete_if_exists(&mut socket, far.index),
        _ => Ok(false),
    }
}

/// The node's addresses that others may know it by, on whatever interface; those of loopback devices come last.
///
/// # Errors
/// When the kernel does not say.
pub fn addresses() -> Result<Vec<IpAddr>, Error> {
    let mut socket = Socket::open()?;
    let links = link::list(&mut socket)?;
    let mut all = addr::all(&mut socket)?;
    let is_loopback = |index| links.iter().any(|l| l.index == index && l.flags.loopback());
    all.sort_by_key(|a| is_loopback(a.link));
    let mut known = Vec::new();
    for address in all
        .iter()
        .filter(|a| is_known_beyond(a))
        .map(addr::Address::ip)
    {
        if !known.contains(&address) {
            known.push(address);
        }
    }
    Ok(known)
}

/// Whether others may know the node by an address, and it is sure that it is the node's.
fn is_known_beyond(address: &addr::Address) -> bool {
    let local = match address.ip() {
        IpAddr::V4(a) => a.is_link_local() || a.is_broadcast(),
        IpAddr::V6(a) => a.is_unicast_link_local() || a.to_ipv4_mapped().is_some(),
    };
    let ip = address.ip();
    let is_host = !local && !ip.is_loopback() && !ip.is_multicast() && !ip.is_unspecified();
    is_host && address.is_global() && !address.tentative() && !address.dad_failed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str, scope: u8, flags: u32) -> addr::Address {
        addr::Address {
            net: IpNet::from(text.parse::<IpAddr>().unwrap()),
            link: 2,
            flags,
            scope,
        }
    }

    #[test]
    fn the_node_is_known_by_what_others_can_reach() {
        const TENTATIVE: u32 = 0x40;
        for (text, scope, flags, known) in [
            ("192.0.2.1", 0, 0, true),
            ("10.1.2.3", 0, 0x80, true),
            ("2001:db8::1", 0, 0, true),
            ("2001:db8::1", 0, TENTATIVE, false),
            ("127.0.0.1", 254, 0, false),
            ("127.0.0.53", 0, 0, false),
            ("::1", 254, 0, false),
            ("169.254.7.7", 253, 0, false),
            ("169.254.7.7", 0, 0, false),
            ("fe80::1", 253, 0, false),
            ("192.0.2.1", 253, 0, false),
        ] {
            let is = is_known_beyond(&address(text, scope, flags));
            assert_eq!(is, known, "{text} {scope} {flags}");
        }
    }

    #[test]
    fn routes_are_of_the_families_of_pods() {
        let pods = [
            "10.244.1.0/24".parse().unwrap(),
            "fd00::/64".parse().unwrap(),
        ];
        let gateway = Gateway::default();
        let mut wanted = Wanted {
            interface: "podswitch0",
            mtu: 1500,
            pods: &pods,
            gateway,
        };
        let source = Some("192.0.2.1".parse().unwrap());
        let v4 = routes(&wanted, 7, true, source);
        let shown: Vec<String> = v4.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "169.254.1.1/32 dev index 7 src 192.0.2.1",
                "10.244.1.0/24 via 169.254.1.1 dev index 7 onlink src 192.0.2.1"
            ]
        );
        let v6 = routes(&wanted, 7, false, None);
        let shown: Vec<String> = v6.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["fd00::/64 via fe80::1 dev index 7 onlink"]);
        wanted.pods = &pods[..1];
        assert!(routes(&wanted, 7, false, None).is_empty());
        assert_eq!(settings(&wanted), [("addr_gen_mode", "1")]);
    }
}
