// SPDX-License-Identifier: Apache-2.0
//! CHECK: is everything that ADD made still as its result says (CNI spec 1.1.0, section "CHECK")?

use std::thread;
use std::time::Duration;

use podswitch_api::method::{PortState, PortStatus};
use podswitch_api::object::Port;

use crate::attach::{self, Link};
use crate::conf::NetConf;
use crate::guest;
use crate::invocation::Invocation;
use crate::result::{Interface, Ip};
use crate::spec::{CniError, Code};
use crate::switch::Switch;

/// How often, and how long apart, a port is looked at that is not up yet: CHECK may come right after ADD, and the kernel
/// tells the daemon of a link in its own time.
const LOOKS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

pub(super) fn run(conf: &NetConf, call: &Invocation) -> Result<(), CniError> {
    let Some(previous) = conf.previous.as_ref().map(|p| &p.result) else {
        return Err(CniError::new(
            Code::InvalidConfig,
            "network configuration key \"prevResult\" is missing: CHECK compares with what ADD answered",
        ));
    };
    let ours = previous
        .interfaces
        .iter()
        .position(|i| i.name == call.ifname && i.sandbox == call.netns);
    let Some(ours) = ours else {
        return Err(differs(format!(
            "prevResult has no interface {} in {}",
            call.ifname, call.netns
        )));
    };
    let ips = previous.ips.iter().filter(|ip| ip.interface == Some(ours));
    let ips: Vec<Ip> = ips.cloned().collect();
    let interface = &previous.interfaces[ours];
    let link = Link::of(conf, call);
    let mut switch = Switch::connect(conf)?;
    let pod = attach::open(&link)?;
    match &conf.guest {
        Some(guest) => {
            let path = Some(interface.socket_path.as_str());
            guest::check(guest, &link, path.filter(|path| !path.is_empty()))?;
        }
        None => attach::check(&link, &pod, interface, &ips, &previous.routes)?,
    }
    check_port(&mut switch, conf, &link, interface, &ips)?;
    conf.ipam
        .as_ref()
        .map_or(Ok(()), |ipam| ipam.check(conf, call, &ips))
}

fn differs(msg: String) -> CniError {
    CniError::new(Code::Differs, msg)
}

fn check_port(
    switch: &mut Switch,
    conf: &NetConf,
    link: &Link,
    interface: &Interface,
    ips: &[Ip],
) -> Result<(), CniError> {
    let mut looks = 1;
    loop {
        let Some((port, status)) = switch.port(&link.host)?.filter(|(p, _)| link.owns(p)) else {
            return Err(differs(format!("podswitchd has no port {}", link.host)));
        };
        same_station(&port, interface, ips)?;
        same_host_ports(&port, conf)?;
        match status {
            // A machine that is not running has its place all the same.
            Some(s) if s.state == PortState::Down && conf.guest.is_some() => return Ok(()),
            Some(s) if s.state == PortState::Down && looks < LOOKS => {
                looks += 1;
                thread::sleep(PAUSE);
            }
            Some(s) if s.state != PortState::Up => return Err(not_up(&port, &s)),
            _ => return Ok(()),
        }
    }
}

fn same_station(port: &Port, interface: &Interface, ips: &[Ip]) -> Result<(), CniError> {
    let lost = |ip: &&Ip| !port.addresses.contains(&ip.address.addr());
    if let Some(ip) = ips.iter().find(lost) {
        return Err(differs(format!(
            "port {} has no address {}",
            port.name,
            ip.address.addr()
        )));
    }
    let mac = port.mac.unwrap_or_default().to_string();
    if !interface.mac.is_empty() && !interface.mac.eq_ignore_ascii_case(&mac) {
        return Err(differs(format!(
            "port {} has MAC address {mac}, not {}",
            port.name, interface.mac
        )));
    }
    Ok(())
}

fn same_host_ports(port: &Port, conf: &NetConf) -> Result<(), CniError> {
    let mut wanted = conf.runtime.port_mappings.iter();
    match wanted.find(|mapping| !port.host_ports.contains(mapping)) {
        Some(mapping) => Err(differs(format!(
            "port {mapping} of the node does not lead to port {}",
            port.name
        ))),
        None => Ok(()),
    }
}

fn not_up(port: &Port, status: &PortStatus) -> CniError {
    let why = status.message.as_deref().unwrap_or("no reason is known");
    differs(format!(
        "port {} is {}: {why}",
        port.name,
        status.state.name()
    ))
}
