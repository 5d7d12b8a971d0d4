// SPDX-License-Identifier: Apache-2.0
//! ADD's part in the kernel.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;

use ipnet::IpNet;
use podswitch_host::link::{Veth, VethEnd};
use podswitch_host::netns::Netns;
use podswitch_host::route::{Family, Kind};
use podswitch_host::{Socket, addr, deaf, link, netns, route, sysctl, tc};

use super::{Link, Plan, PodRoute, host_error, lock, mac};
use crate::invocation::bad;
use crate::spec::{CniError, Code};

/// What [`create`] made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Made {
    /// MAC address of the host end.
    pub host_mac: [u8; 6],
    /// MAC address of the pod's end.
    pub pod_mac: [u8; 6],
    /// Routes in the pod.
    pub routes: Vec<PodRoute>,
}

impl Made {
    /// Of a virtual machine, which makes its interface and its routes itself.
    pub fn of_guest(link: &Link, plan: &Plan) -> Made {
        let own = || mac(&link.container_id, &link.ifname, "pod");
        Made {
            host_mac: [0; 6],
            pod_mac: plan.mac.unwrap_or_else(own),
            routes: plan.all_routes(),
        }
    }
}

/// Opens the pod's network namespace.
///
/// # Errors
/// Code 3 when it is not there, 4 when it is the one the plugin runs in.
pub fn open(link: &Link) -> Result<Netns, CniError> {
    let pod = netns::open(Path::new(&link.netns)).map_err(host_error)?;
    let same = || Ok(netns::current()?.identity()? == pod.identity()?);
    if same().map_err(host_error)? {
        let why = "this is the node's own network namespace; a pod needs one of its own";
        return Err(bad("CNI_NETNS", &link.netns, why));
    }
    Ok(pod)
}

/// Whether `CNI_NETNS` still leads to the namespace that was opened.
///
/// # Errors
/// Code 3 when it does not.
pub fn still_there(link: &Link, pod: &Netns) -> Result<(), CniError> {
    let same = || Ok(netns::open(Path::new(&link.netns))?.identity()? == pod.identity()?);
    match same().map_err(host_error)? {
        true => Ok(()),
        false => Err(CniError::new(
            Code::UnknownContainer,
            format!(
                "CNI_NETNS=\"{}\": another network namespace has taken the place of the pod's",
                link.netns
            ),
        )),
    }
}

/// Whether both names are free.
///
/// # Errors
/// Code 4 naming the interface that is there, and whose it is.
pub fn ensure_free(link: &Link, pod: &Netns) -> Result<(), CniError> {
    let in_pod = {
        let _inside = pod.enter().map_err(host_error)?;
        find(&link.ifname)?
    };
    if in_pod.is_some() {
        let why = format!("the pod in {} has such an interface already", link.netns);
        return Err(bad("CNI_IFNAME", &link.ifname, &why).details("DEL the attachment first"));
    }
    let Some(found) = find(&link.host)? else {
        return Ok(());
    };
    let whose = found.alias.unwrap_or_else(|| "nobody known".into());
    let why = format!(
        "the node has an interface {} already, of {whose}",
        link.host
    );
    Err(bad("CNI_CONTAINERID", &link.container_id, &why).details("DEL that attachment first"))
}

fn find(name: &str) -> Result<Option<podswitch_host::Link>, CniError> {
    Socket::open()
        .and_then(|mut s| link::find(&mut s, name))
        .map_err(host_error)
}

/// Makes the pair, deaf and closed to the host on its side, with addresses and routes on the pod's. After an error
/// nothing of it is left, or the error says so.
///
/// # Errors
/// Code 104 naming what the kernel refused.
pub fn create(link: &Link, pod: &Netns, plan: &Plan) -> Result<Made, CniError> {
    let host_mac = mac(&link.container_id, &link.ifname, "host");
    let pod_mac = plan
        .mac
        .unwrap_or_else(|| mac(&link.container_id, &link.ifname, "pod"));
    let mut socket = Socket::open().map_err(host_error)?;
    let named = {
        let _lock = lock()?;
        let end = |name, mac| VethEnd {
            name,
            mac,
            mtu: plan.mtu,
        };
        let veth = Veth::new(end(&link.host, host_mac), end(&link.ifname, pod_mac));
        link::create_veth(&mut socket, &veth.peer_in(pod.as_fd())).map_err(host_error)?;
        link::set_alias(&mut socket, &link.host, &link.alias())
    };
    let made = named
        .and_then(|()| host_side(&mut socket, &link.host))
        .and_then(|()| pod_side(&link.ifname, pod, plan));
    match made {
        Ok(routes) => Ok(Made {
            host_mac,
            pod_mac,
            routes,
        }),
        Err(e) => {
            let e = host_error(e);
            match link::delete_if_exists(&mut socket, &link.host) {
                Ok(_) => Err(e),
                Err(also) => Err(e.and_undoing("the interface", &host_error(also))),
            }
        }
    }
}

/// The host's stack must never hear a pod: settings and a filter before the end comes up.
fn host_side(socket: &mut Socket, host: &str) -> podswitch_host::Result<()> {
    let index = link::index(socket, host)?;
    deaf::deafen(socket, host)?;
    tc::deny(socket, index)?;
    link::set_up(socket, index, true)
}

/// Works in the pod's namespace, on this thread: a process with one thread is killed at one place.
fn pod_side(ifname: &str, pod: &Netns, plan: &Plan) -> podswitch_host::Result<Vec<PodRoute>> {
    let _inside = pod.enter()?;
    let mut socket = Socket::open()?;
    if plan.has(false) {
        allow_ipv6(ifname)?;
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
    let mut made = Vec::new();
    for r in plan.all_routes() {
        // A pod in several networks has one default route: that of the first.
        if r == PodRoute::default(r.is_ipv4()) && has_default(&mut socket, r.is_ipv4())? {
            continue;
        }
        route::add(&mut socket, &kernel_route(&r, plan, index))?;
        made.push(r);
    }
    Ok(made)
}

/// IPv6 works on the interface whatever the namespace's default is, on loopback too (a pod speaks to its own address
/// through it), and its link-local address is usable at once: nobody else is on this link.
fn allow_ipv6(ifname: &str) -> podswitch_host::Result<()> {
    for (interface, name, value) in [
        ("lo", "disable_ipv6", "0"),
        (ifname, "disable_ipv6", "0"),
        (ifname, "accept_dad", "0"),
        // Addresses survive a later plugin that takes the interface down for a moment.
        (ifname, "keep_addr_on_down", "1"),
    ] {
        sysctl::set(&sysctl::Key::ipv6_conf(interface, name)?, value).map_err(without_ipv6)?;
    }
    Ok(())
}

fn without_ipv6(e: podswitch_host::Error) -> podswitch_host::Error {
    match e {
        podswitch_host::Error::Io { what, source } if source.kind() == ErrorKind::NotFound => {
            let what = format!("the pod has IPv6 addresses, and this kernel no IPv6: {what}");
            podswitch_host::Error::Io { what, source }
        }
        other => other,
    }
}

fn has_default(socket: &mut Socket, v4: bool) -> podswitch_host::Result<bool> {
    let family = if v4 { Family::V4 } else { Family::V6 };
    let main = u32::from(libc::RT_TABLE_MAIN);
    let all = route::list(socket, family, main)?;
    Ok(all
        .iter()
        .any(|r| r.dst.prefix_len() == 0 && r.kind == Kind::Unicast))
}

fn kernel_route(r: &PodRoute, plan: &Plan, index: u32) -> route::Route {
    let via: IpAddr = plan.gateway(r.is_ipv4());
    let mut kernel = route::Route::new(r.dst).via(via).dev(index);
    // The gateway is on no subnet. IPv6's is link-local, and always on the link.
    kernel.onlink = r.is_ipv4();
    kernel.mtu = r.mtu;
    kernel.priority = r.priority;
    kernel.table = r.table.unwrap_or(kernel.table);
    kernel
}
