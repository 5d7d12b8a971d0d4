// SPDX-License-Identifier: Apache-2.0
//! The host's port: its interface is made and taken away with it, its addresses are the node's, as they come and go.

use std::collections::HashSet;
use std::net::IpAddr;

use podswitch_api::RpcError;
use podswitch_api::method::{PortState, Problem, Severity, TeardownItem};
use podswitch_api::object::{Device, HOST_MAC, HOST_POLLED, Port};
use podswitch_datapath::PortId;
use podswitch_datapath::port::xdp::XdpHandle;
use podswitch_datapath::switch::{self, PortSpec};
use podswitch_datapath::wire::MacAddr;
use tracing::{info, warn};

use super::Engine;
use super::health::problem;
use super::ports::{LivePort, kernel_error};
use crate::kernel::nic::Facts;
use crate::kernel::{Attached, KernelError, host};

impl Engine {
    /// What the host is to a port: the addresses that the port names, or else all of the node's that no other object claims.
    pub(super) fn host_facts(&self, port: &Port) -> Result<Facts, KernelError> {
        let addresses = match port.addresses.is_empty() {
            true => {
                let mut found = host::addresses()?;
                let taken = self.claimed_in(port);
                found.retain(|a| !taken.contains(a) && !self.gateway().has(*a));
                found.truncate(self.config.limits.addresses_per_port as usize);
                found
            }
            false => port.addresses.clone(),
        };
        Ok(Facts {
            mac: MacAddr(HOST_MAC.0),
            mtu: port.mtu.unwrap_or(self.config.mtu),
            addresses,
        })
    }

    /// Addresses that other objects of a port's VRF claim: an address that a pod has, too, stays the pod's.
    fn claimed_in(&self, port: &Port) -> HashSet<IpAddr> {
        let state = self.model.state();
        let others = state.ports.values();
        let others = others.filter(|p| p.vrf == port.vrf && p.name != port.name);
        let routes = state.routes.keys().filter(|k| k.vrf == port.vrf);
        let hosts = routes.filter(|k| k.prefix.prefix_len() == k.prefix.max_prefix_len());
        let neighbors = state.neighbors.keys().filter(|k| k.vrf == port.vrf);
        let mut claimed: HashSet<IpAddr> = others.flat_map(|p| p.addresses.clone()).collect();
        claimed.extend(hosts.map(|k| k.prefix.addr()));
        claimed.extend(neighbors.map(|k| k.address));
        claimed
    }

    fn host_port(&self) -> Option<Port> {
        let ports = self.model.state().ports.values();
        ports.into_iter().find(|p| p.device.is_host()).cloned()
    }

    fn host_wanted<'a>(&self, port: &'a Port) -> Option<host::Wanted<'a>> {
        let Device::Host {
            interface, pods, ..
        } = &port.device
        else {
            return None;
        };
        Some(host::Wanted {
            interface,
            mtu: port.mtu.unwrap_or(self.config.mtu),
            pods,
            gateway: self.gateway(),
        })
    }

    /// Makes the host's interface, or takes over the one of an earlier run, and gives it its routes.
    pub(super) fn open_host(
        &mut self,
        port: &Port,
        id: PortId,
        spec: impl FnOnce(switch::Device) -> PortSpec,
    ) -> Result<(Attached, Vec<XdpHandle>), RpcError> {
        let (Device::Host { mode, .. }, Some(wanted)) = (&port.device, self.host_wanted(port))
        else {
            unreachable!("the caller has looked");
        };
        if !self.nics.contains_key(&port.name) {
            self.look_at_nic(port)?;
        }
        let made = host::ensure(&wanted).map_err(|e| kernel_error(&e))?;
        if let Some(live) = self.ports.get_mut(&port.name) {
            live.made = made;
        }
        let link = self.close_veth(port, HOST_POLLED)?;
        host::raise(wanted.interface).map_err(|e| kernel_error(&e))?;
        let (attached, sockets) = self.open_veth(id, &link, *mode, spec)?;
        let settled = self.settle_host(port).map_err(|e| kernel_error(&e));
        if let Err(e) = settled.and_then(|()| self.settle_egress(port, &wanted)) {
            self.remove_from_switch(id);
            return Err(e);
        }
        info!(
            port = port.name,
            interface = wanted.interface,
            made,
            "the host's interface is there"
        );
        Ok((attached, sockets))
    }

    /// Brings the host's routes and neighbors up to date.
    fn settle_host(&mut self, port: &Port) -> Result<(), KernelError> {
        let Some(wanted) = self.host_wanted(port) else {
            return Ok(());
        };
        let mut sources = host::addresses()?;
        let preferred = self.nics.get(&port.name).map(|host| host.addresses.clone());
        let preferred = preferred.unwrap_or_default();
        sources.sort_by_key(|a| !preferred.contains(a));
        let there = host::settle(&wanted, &sources)?;
        let led = self.sockets_item();
        if let Some(live) = self.ports.get_mut(&port.name) {
            let egress = live.egress.iter().cloned();
            let there = there.into_iter().chain(egress).chain(led);
            let there: Vec<TeardownItem> = there.collect();
            show(&port.name, &live.on_host, &there);
            live.on_host = there;
        }
        Ok(())
    }

    /// The kernel has changed something about the node's addresses, or the host's interface: routes and tables follow.
    pub(super) fn follow_host(&mut self) {
        let Some(port) = self.host_port() else { return };
        let is_open = |p: &LivePort| p.attached.is_some();
        if !self.ports.get(&port.name).is_some_and(is_open) {
            return;
        }
        match self.host_facts(&port) {
            Ok(facts) if self.nics.get(&port.name) != Some(&facts) => {
                info!(port = port.name, addresses = ?facts.addresses, "the node's addresses have changed");
                self.put_facts(&port.name, facts);
            }
            Ok(_) => {}
            Err(e) => warn!(port = port.name, error = %e, "the node's addresses could not be read"),
        }
        if let Err(e) = self.settle_host(&port) {
            warn!(port = port.name, error = %e, "the host's routes could not be brought up to date");
        }
    }

    /// Tries again to open the host's port: what is in its way may be gone.
    pub(super) fn retry_host(&mut self) {
        let faulted = |p: &LivePort| p.state == PortState::Faulted && p.attached.is_none();
        let Some(port) = self.host_port() else { return };
        if self.ports.get(&port.name).is_some_and(faulted) {
            self.nics.remove(&port.name);
            self.open_or_fault(&port);
            if let Some(facts) = self.nics.get(&port.name).cloned() {
                self.put_facts(&port.name, facts);
                self.await_tables();
            }
            self.connect(&port.name);
        }
    }

    /// Takes the host's interface away with its port, unless another port has it now.
    pub(super) fn release_host(&mut self, port: &Port) {
        if port.device.is_host() && self.host_port().is_none() {
            self.remove_host();
        }
    }

    /// Takes the host's interface away, and puts back what was changed for it.
    pub(super) fn remove_host(&mut self) {
        self.put_back_noted(HOST_POLLED);
        match host::remove() {
            Ok(true) => info!("the host's interface is gone, and its routes with it"),
            Ok(false) => {}
            Err(e) => warn!(error = %e, "the host's interface could not be removed; teardown will"),
        }
    }

    /// What keeps the port of the host from doing its work.
    pub(super) fn host_problems(&self, problems: &mut Vec<Problem>) {
        let Some(port) = self.host_port() else { return };
        self.egress_problems(&port, problems);
        if port.addresses.is_empty() {
            self.address_problem(&port, problems);
        }
    }

    /// More addresses than the port has room for.
    fn address_problem(&self, port: &Port, problems: &mut Vec<Problem>) {
        let most = self.config.limits.addresses_per_port as usize;
        let full = self
            .nics
            .get(&port.name)
            .is_some_and(|f| f.addresses.len() == most);
        let all = host::addresses().map_or(0, |all| all.len());
        if full && all > most {
            problems.push(problem(
                Severity::Warning,
                &format!("port {}", port.name),
                &format!(
                    "the node has {all} addresses, and pods reach it by the first {most} only"
                ),
                "name those that pods need in `addresses` of the port",
            ));
        }
    }
}

/// Logs what has come to be on the host.
pub(super) fn show(port: &str, before: &[TeardownItem], now: &[TeardownItem]) {
    for item in now.iter().filter(|item| !before.contains(item)) {
        info!(port, kind = item.kind, name = item.name, "on the host");
    }
}
