// SPDX-License-Identifier: Apache-2.0
//! A pod's way to the switch: a veth pair with one end in the pod, routed by a gateway that is on no subnet. Everything
//! is named after the container ID and the interface name, so that it is found again without any record.

use std::fs::{self, File, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::path::Path;

use ipnet::IpNet;
use podswitch_host::link::{Veth, VethEnd};
use podswitch_host::{Socket, addr, deaf, link, netns, route, sysctl};

use crate::conf::NetConf;
use crate::invocation::Invocation;
use crate::result::{Interface, Ip, Route};
use crate::spec::{CniError, Code};

/// How host ends are called: this and twelve hexadecimal digits.
pub const HOST_PREFIX: &str = "psw";
/// Held while a host end has no alias yet, so that GC never takes one in the making for a left-over.
const LOCK: &str = "/run/podswitch/cni.lock";

/// FNV-1a with a final mix (parameters: draft-eastlake-fnv section 5); what it names must stay the same in all versions.
fn hash(parts: &[&str]) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325u64;
    for byte in parts.iter().flat_map(|p| p.bytes().chain([0])) {
        h = (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    h ^= h >> 32;
    h.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Name of the host end, and of the port, of an attachment.
pub fn host_name(container_id: &str, ifname: &str) -> String {
    format!("{HOST_PREFIX}{:012x}", hash(&[container_id, ifname]) >> 16)
}

/// A locally administered unicast address (IEEE 802-2014 section 8.4) for one end.
fn mac(container_id: &str, ifname: &str, end: &str) -> [u8; 6] {
    let h = hash(&[container_id, ifname, end]).to_be_bytes();
    [h[0] & 0xfc | 0x02, h[1], h[2], h[3], h[4], h[5]]
}

/// One attachment's interfaces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Host end, and name of the port.
    pub host: String,
    network: String,
    container_id: String,
    ifname: String,
    netns: String,
}

impl Link {
    /// The interfaces a call is about.
    pub fn of(conf: &NetConf, call: &Invocation) -> Link {
        Link {
            host: host_name(&call.container_id, &call.ifname),
            network: conf.name.clone(),
            container_id: call.container_id.clone(),
            ifname: call.ifname.clone(),
            netns: call.netns.clone(),
        }
    }

    /// Says on the interface itself whose it is.
    fn alias(&self) -> String {
        alias_of(&self.network, &[&self.container_id, &self.ifname])
    }
}

/// `podswitch:NETWORK:CONTAINER:IFNAME`, at most 255 bytes; GC needs the front, people read the rest.
fn alias_of(network: &str, rest: &[&str]) -> String {
    let mut alias = format!("podswitch:{network}:{}", rest.join(":"));
    alias.truncate(255);
    alias
}

/// What a pod is to get.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// MTU of both ends, bytes.
    pub mtu: u32,
    /// MAC address wanted for the pod's end.
    pub mac: Option<[u8; 6]>,
    /// Addresses, each alone (/32, /128).
    pub addresses: Vec<IpAddr>,
    /// The switch's IPv4 gateway.
    pub gateway_v4: Ipv4Addr,
    /// The switch's IPv6 gateway, a link-local address.
    pub gateway_v6: Ipv6Addr,
    /// More destinations through the gateway, with their MTU.
    pub routes: Vec<(IpNet, Option<u32>)>,
}

impl Plan {
    /// The gateway of an address's family.
    pub fn gateway(&self, ip: IpAddr) -> IpAddr {
        if ip.is_ipv4() {
            self.gateway_v4.into()
        } else {
            self.gateway_v6.into()
        }
    }

    /// A default route for each family that has an address, then the others of such a family.
    pub fn all_routes(&self) -> Vec<(IpNet, Option<u32>)> {
        let has = |v4: bool| self.addresses.iter().any(|ip| ip.is_ipv4() == v4);
        let defaults = [IpNet::V4(Default::default()), IpNet::V6(Default::default())];
        let mut all: Vec<_> = defaults
            .into_iter()
            .filter(|d| has(d.addr().is_ipv4()))
            .map(|d| (d, None))
            .collect();
        for (dst, mtu) in &self.routes {
            let dst = dst.trunc();
            match all.iter_mut().find(|(d, _)| *d == dst) {
                Some((_, m)) => *m = *mtu,
                None if has(dst.addr().is_ipv4()) => all.push((dst, *mtu)),
                None => {}
            }
        }
        all
    }
}

/// What [`create`] made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Made {
    /// MAC address of the host end.
    pub host_mac: [u8; 6],
    /// MAC address of the pod's end.
    pub pod_mac: [u8; 6],
}

fn host_error(e: podswitch_host::Error) -> CniError {
    let code = match &e {
        podswitch_host::Error::NetnsGone { .. } | podswitch_host::Error::NotNetns { .. } => {
            Code::UnknownContainer
        }
        _ => Code::Network,
    };
    CniError::new(code, e.to_string())
}

/// Whether both names are free and the namespace is there.
///
/// # Errors
/// Code 3 when the namespace is not there, 4 when the interface is.
pub fn ensure_free(link: &Link) -> Result<(), CniError> {
    let taken = |name: &str, place: &str| {
        let msg = format!(
            "CNI_IFNAME=\"{}\": interface {name} exists in {place}",
            link.ifname
        );
        CniError::new(Code::InvalidEnvironment, msg).details("DEL the attachment first")
    };
    let find = |name: &str| Socket::open().and_then(|mut s| link::find(&mut s, name));
    let in_pod = netns::run_in(Path::new(&link.netns), || find(&link.ifname))
        .and_then(|r| r)
        .map_err(host_error)?;
    if in_pod.is_some() {
        return Err(taken(&link.ifname, &link.netns));
    }
    match find(&link.host).map_err(host_error)? {
        Some(_) => Err(taken(&link.host, "the node's namespace")),
        None => Ok(()),
    }
}

/// Makes the pair, deaf to the host on its side, with addresses and routes on the pod's.
///
/// # Errors
/// Code 3 when the namespace vanished, 104 naming what the kernel refused.
pub fn create(link: &Link, plan: &Plan) -> Result<Made, CniError> {
    let made = Made {
        host_mac: mac(&link.container_id, &link.ifname, "host"),
        pod_mac: plan
            .mac
            .unwrap_or_else(|| mac(&link.container_id, &link.ifname, "pod")),
    };
    let pod = netns::open(&link.netns).map_err(host_error)?;
    {
        let _lock = lock()?;
        let host_side = || {
            let mut socket = Socket::open()?;
            let host = VethEnd {
                name: &link.host,
                mac: made.host_mac,
                mtu: plan.mtu,
            };
            let peer = VethEnd {
                name: &link.ifname,
                mac: made.pod_mac,
                mtu: plan.mtu,
            };
            link::create_veth(&mut socket, &Veth::new(host, peer).peer_in(pod.as_fd()))?;
            link::set_alias(&mut socket, link.host.as_str(), &link.alias())
        };
        host_side().map_err(host_error)?;
    }
    let mut socket = Socket::open().map_err(host_error)?;
    deaf::deafen(&mut socket, &link.host).map_err(host_error)?;
    link::set_up(&mut socket, link.host.as_str(), true).map_err(host_error)?;
    pod.run(|| pod_side(&link.ifname, plan))
        .and_then(|r| r)
        .map_err(host_error)?;
    Ok(made)
}

/// Runs in the pod's namespace.
fn pod_side(ifname: &str, plan: &Plan) -> podswitch_host::Result<()> {
    let mut socket = Socket::open()?;
    let has_v6 = plan.addresses.iter().any(IpAddr::is_ipv6);
    if has_v6 {
        sysctl::set(&sysctl::Key::ipv6_conf(ifname, "disable_ipv6")?, "0")?;
    }
    let index = link::index(&mut socket, ifname)?;
    let options = addr::Options {
        nodad: true,
        noprefixroute: true,
    };
    for ip in &plan.addresses {
        addr::add(&mut socket, index, IpNet::from(*ip), options)?;
    }
    link::set_up(&mut socket, index, true)?;
    // IPv4 has no route to a gateway outside the subnet; IPv6's is link-local and always on the link.
    if plan.addresses.iter().any(IpAddr::is_ipv4) {
        route::add(
            &mut socket,
            &route::Route::new(IpNet::from(IpAddr::V4(plan.gateway_v4))).dev(index),
        )?;
    }
    for (dst, mtu) in plan.all_routes() {
        let mut r = route::Route::new(dst)
            .via(plan.gateway(dst.addr()))
            .dev(index);
        if dst.addr().is_ipv4() {
            r = r.onlink();
        }
        if let Some(m) = mtu {
            r = r.mtu(m);
        }
        route::add(&mut socket, &r)?;
    }
    Ok(())
}

/// Removes an attachment's pair; one that is not there is fine, one of another attachment stays.
///
/// # Errors
/// Code 104 naming what the kernel refused.
pub fn delete(link: &Link) -> Result<(), CniError> {
    let run = || {
        let mut socket = Socket::open()?;
        match link::find(&mut socket, link.host.as_str())? {
            Some(found) if found.alias.as_deref().is_none_or(|a| a == link.alias()) => {
                link::delete_if_exists(&mut socket, link.host.as_str()).map(drop)
            }
            _ => Ok(()),
        }
    };
    run().map_err(host_error)
}

/// Removes a host end by name.
///
/// # Errors
/// Code 104 naming what the kernel refused.
pub fn delete_host(name: &str) -> Result<(), CniError> {
    let run = || link::delete_if_exists(&mut Socket::open()?, name).map(drop);
    run().map_err(host_error)
}

/// Host ends of a network in this namespace, and those whose making was cut short before they said whose they are.
///
/// # Errors
/// Code 104 when they cannot be listed.
pub fn list(network: &str) -> Result<Vec<String>, CniError> {
    let _lock = lock()?;
    let ours = alias_of(network, &[""]);
    let all = Socket::open()
        .and_then(|mut s| link::list(&mut s))
        .map_err(host_error)?;
    let is_ours = |l: &podswitch_host::Link| {
        l.kind.as_deref() == Some("veth")
            && is_host_name(&l.name)
            && l.alias.as_deref().is_none_or(|a| a.starts_with(&ours))
    };
    Ok(all.into_iter().filter(is_ours).map(|l| l.name).collect())
}

fn is_host_name(name: &str) -> bool {
    name.strip_prefix(HOST_PREFIX)
        .is_some_and(|h| h.len() == 12 && h.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn lock() -> Result<File, CniError> {
    let path = Path::new(LOCK);
    let open = || {
        fs::create_dir_all(path.parent().unwrap_or(path))?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        file.lock()?;
        Ok(file)
    };
    open().map_err(|e| CniError::io(format_args!("lock {LOCK}"), &e))
}

/// Compares an attachment's interfaces with what ADD answered.
///
/// # Errors
/// Code 102 naming the first difference, 3 when the namespace is not there.
pub fn check(
    link: &Link,
    wanted: &Interface,
    ips: &[Ip],
    routes: &[Route],
) -> Result<(), CniError> {
    let differs = |msg: String| CniError::new(Code::Differs, msg);
    let mut socket = Socket::open().map_err(host_error)?;
    let host = link::find(&mut socket, link.host.as_str()).map_err(host_error)?;
    let host = host.ok_or_else(|| differs(format!("host interface {} is missing", link.host)))?;
    if !host.flags.up() {
        return Err(differs(format!("host interface {} is down", link.host)));
    }
    let pod = netns::run_in(Path::new(&link.netns), || Seen::read(&link.ifname))
        .and_then(|r| r)
        .map_err(host_error)?;
    let pod = pod.ok_or_else(|| {
        differs(format!(
            "interface {} is missing in {}",
            link.ifname, link.netns
        ))
    })?;
    pod.compare(link, wanted, ips, routes).map_err(differs)
}

/// What is in the pod.
struct Seen {
    link: podswitch_host::Link,
    addresses: Vec<IpAddr>,
    routes: Vec<route::Route>,
}

impl Seen {
    fn read(ifname: &str) -> podswitch_host::Result<Option<Seen>> {
        let mut socket = Socket::open()?;
        let Some(link) = link::find(&mut socket, ifname)? else {
            return Ok(None);
        };
        let addresses = addr::list(&mut socket, link.index)?
            .iter()
            .map(addr::Address::ip)
            .collect();
        let mut routes = route::list(
            &mut socket,
            route::Family::V4,
            u32::from(libc::RT_TABLE_MAIN),
        )?;
        routes.extend(route::list(
            &mut socket,
            route::Family::V6,
            u32::from(libc::RT_TABLE_MAIN),
        )?);
        routes.retain(|r| r.link == Some(link.index));
        Ok(Some(Seen {
            link,
            addresses,
            routes,
        }))
    }

    fn compare(
        &self,
        link: &Link,
        wanted: &Interface,
        ips: &[Ip],
        routes: &[Route],
    ) -> Result<(), String> {
        let name = &link.ifname;
        let mac = podswitch_api::MacAddr(self.link.mac.unwrap_or_default()).to_string();
        if !wanted.mac.is_empty() && !wanted.mac.eq_ignore_ascii_case(&mac) {
            return Err(format!(
                "interface {name} has MAC address {mac}, not {}",
                wanted.mac
            ));
        }
        if let Some(mtu) = wanted.mtu.filter(|m| *m != self.link.mtu) {
            return Err(format!(
                "interface {name} has MTU {}, not {mtu}",
                self.link.mtu
            ));
        }
        if !self.link.flags.up() {
            return Err(format!("interface {name} is down"));
        }
        if let Some(ip) = ips
            .iter()
            .find(|ip| !self.addresses.contains(&ip.address.addr()))
        {
            return Err(format!(
                "interface {name} has no address {}",
                ip.address.addr()
            ));
        }
        let ours = |r: &&Route| {
            r.gw.is_some_and(|gw| ips.iter().any(|ip| ip.gateway == Some(gw)))
        };
        let there = |r: &Route| {
            self.routes
                .iter()
                .any(|s| s.dst.trunc() == r.dst.trunc() && s.gateway == r.gw)
        };
        match routes.iter().filter(ours).find(|r| !there(r)) {
            Some(r) => Err(format!("interface {name} has no route to {}", r.dst)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable_and_fit_an_interface() {
        let name = host_name("a1b2", "eth0");
        assert_eq!(name, host_name("a1b2", "eth0"));
        assert!(is_host_name(&name) && name.len() == 15, "{name}");
        assert_ne!(name, host_name("a1b2", "eth1"));
        assert_ne!(host_name("ab", "c"), host_name("a", "bc"));
        // Names outlive an upgrade of the plugin.
        assert_eq!(name, "psw570a281791dc");
    }

    #[test]
    fn macs_are_local_unicast_and_differ() {
        let (host, pod) = (mac("c", "eth0", "host"), mac("c", "eth0", "pod"));
        assert_ne!(host, pod);
        for m in [host, pod] {
            assert_eq!(m[0] & 3, 2);
        }
    }

    #[test]
    fn routes_follow_the_families_that_have_addresses() {
        let mut plan = Plan {
            mtu: 1500,
            mac: None,
            addresses: vec!["10.0.0.1".parse().unwrap()],
            gateway_v4: Ipv4Addr::new(169, 254, 1, 1),
            gateway_v6: "fe80::1".parse().unwrap(),
            routes: vec![
                ("0.0.0.0/0".parse().unwrap(), Some(1400)),
                ("fd00::/8".parse().unwrap(), None),
            ],
        };
        assert_eq!(
            plan.all_routes(),
            [("0.0.0.0/0".parse().unwrap(), Some(1400))]
        );
        plan.addresses.push("fd00::1".parse().unwrap());
        assert_eq!(plan.all_routes().len(), 3);
    }
}
