// SPDX-License-Identifier: Apache-2.0
//! CHECK: is everything that ADD made still as its result says (CNI spec 1.1.0, section "CHECK")?

use crate::attach::{self, Link};
use crate::conf::NetConf;
use crate::invocation::Invocation;
use crate::spec::{CniError, Code};
use crate::switch::Switch;
use podswitch_api::method::{PortState, Status};

pub(super) fn run(conf: &NetConf, call: &Invocation) -> Result<(), CniError> {
    let Some(previous) = &conf.previous else {
        return Err(CniError::new(
            Code::InvalidConfig,
            "prevResult is missing: CHECK compares with what ADD answered",
        ));
    };
    let differs = |msg: String| Err(CniError::new(Code::Differs, msg));
    let ours = previous
        .interfaces
        .iter()
        .position(|i| i.name == call.ifname && i.sandbox == call.netns);
    let Some(ours) = ours else {
        return differs(format!(
            "prevResult has no interface {} in {}",
            call.ifname, call.netns
        ));
    };
    let ips: Vec<_> = previous
        .ips
        .iter()
        .filter(|ip| ip.interface == Some(ours))
        .cloned()
        .collect();
    let link = Link::of(conf, call);
    let mut switch = Switch::connect(conf)?;
    let version = switch.version()?;
    attach::check(&link, &previous.interfaces[ours], &ips, &previous.routes)?;
    let Some((port, status)) = switch.port(&link.host)? else {
        return differs(format!(
            "podswitchd has no port {} for {}",
            link.host, call.container_id
        ));
    };
    for ip in &ips {
        if !port.addresses.contains(&ip.address.addr()) {
            return differs(format!(
                "port {} has no address {}",
                link.host,
                ip.address.addr()
            ));
        }
    }
    if let Some(Status::Port(s)) = status
        && s.state != PortState::Up
    {
        let why = s.message.unwrap_or_default();
        return differs(format!(
            "port {} of podswitchd {} is {}: {why}",
            link.host,
            version.version,
            s.state.name()
        ));
    }
    conf.ipam
        .as_ref()
        .map_or(Ok(()), |ipam| ipam.check(conf, call, &ips))
}
