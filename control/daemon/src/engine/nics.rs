// SPDX-License-Identifier: Apache-2.0
//! Ports on the node's NICs: opened without the host noticing, told whose addresses are pods', and given back when their port goes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;

use podswitch_api::desired::{Delta, Difference};
use podswitch_api::limits::MAX_TUNNEL_PORTS;
use podswitch_api::object::{Device, Object, Port, Service, XdpMode};
use podswitch_api::{ErrorCode, Key, RpcError};
use podswitch_datapath::port::Wire;
use podswitch_datapath::port::xdp::MAX_CHUNK_MTU;
use podswitch_datapath::port::xdp::{HostPort, MAX_OVERLAY_PORTS, XdpHandle};
use podswitch_datapath::switch::{self, PortSpec, SwitchError};
use podswitch_datapath::{PortId, WorkerId};
use podswitch_state::store::OwnedInterface;
use tracing::{info, warn};

use super::Engine;
use super::change::Plan;
use super::ports::{kernel_error, switch_error};
use crate::host_ports;
use crate::kernel::nic::Facts;
use crate::kernel::{Attached, Kernel, nic};
use crate::services;

const _: () = assert!(MAX_TUNNEL_PORTS == MAX_OVERLAY_PORTS);

impl Engine {
    /// A port's MTU: a NIC's is the interface's, or that of the VLAN device on it.
    pub(super) fn mtu_of(&self, port: &Port) -> u32 {
        let nic = self.nics.get(&port.name).map(|nic| nic.mtu);
        nic.or(port.mtu).unwrap_or(self.config.mtu)
    }

    /// Finds out what the NIC of a port is, or the host, for a port that is on one.
    pub(super) fn look_at_nic(&mut self, port: &Port) -> Result<(), RpcError> {
        let facts = match &port.device {
            Device::Nic {
                interface,
                vlan,
                mode,
                ..
            } => Kernel::find_nic(interface, *vlan, *mode).map(|found| found.facts),
            Device::Host { .. } => self.host_facts(port),
            _ => return Ok(()),
        };
        let key = Key::Port {
            name: port.name.clone(),
        };
        let facts = facts.map_err(|e| kernel_error(&e).about(&key))?;
        self.nics.insert(port.name.clone(), facts);
        Ok(())
    }

    /// Whether the NIC of a port looks different from when it was tried to be opened last.
    pub(super) fn nic_differs(&self, port: &Port) -> bool {
        let looked = self.ports.get(&port.name).and_then(|p| p.look.as_ref());
        let vlan = port.device.vlan();
        let now = port.device.interface().and_then(|i| nic::look(i, vlan));
        now.as_ref() != looked
    }

    /// Opens a NIC: sockets first, which the host does not notice, then the program over them.
    pub(super) fn open_nic(
        &mut self,
        port: &Port,
        id: PortId,
        worker: WorkerId,
    ) -> Result<(Attached, Vec<XdpHandle>), RpcError> {
        let Device::Nic {
            interface,
            mode,
            vlan,
            masquerade,
            zero_copy_queues: zero_copy,
            zero_copy_shared: shared,
            ..
        } = &port.device
        else {
            unreachable!("the caller has looked");
        };
        if let Some(live) = self.ports.get_mut(&port.name) {
            live.look = nic::look(interface, *vlan);
        }
        let reserved = self.ports_to_reserve(*masquerade)?;
        let found = Kernel::find_nic(interface, *vlan, *mode).map_err(|e| kernel_error(&e))?;
        Kernel::check_zero_copy(&found, zero_copy, *shared).map_err(|e| kernel_error(&e))?;
        self.nics.insert(port.name.clone(), found.facts.clone());
        self.own(&port.name, found.before.clone())?;
        if !zero_copy.is_empty() {
            self.guard(worker)?;
        }
        let tap = (*mode == XdpMode::Tap).then(Kernel::make_tap).transpose();
        let (tap, tap_index) = tap.map_err(|e| kernel_error(&e))?.unzip();
        let spec = PortSpec {
            worker: Some(worker),
            mtu: found.facts.mtu,
            device: nic_device(&found, *vlan, zero_copy, tap),
            faults: None,
        };
        let added = self.switch.add_port(id, spec);
        let added = added.map_err(|e| match &e {
            SwitchError::Xdp { source, .. } if !zero_copy.is_empty() => {
                let refused = Kernel::zero_copy_refused(&found, source);
                refused.map_or_else(|| switch_error(&e), |e| kernel_error(&e))
            }
            _ => switch_error(&e),
        })?;
        let wanted = nic::Wanted {
            mode: *mode,
            tap: tap_index,
            vlan: *vlan,
            pods: self.of_all(port.vrf, pod_addresses),
            services: self.of_all(port.vrf, service_addresses),
            host_ports: self.of_all(port.vrf, led_ports),
            overlay_ports: self.overlay_ports(),
            reserved,
        };
        let attached = Kernel::prepare_nic(&found)
            .and_then(|()| self.kernel.attach_nic(&found, wanted))
            .map_err(|e| {
                self.remove_from_switch(id);
                kernel_error(&e)
            })?;
        if !zero_copy.is_empty() {
            info!(interface, queues = ?zero_copy, "these are in zero-copy mode, all others in copy mode");
        }
        Ok((Attached::Nic(Box::new(attached)), added.xdp))
    }

    /// The ports that a NIC is to keep for connections that leave as the node's own: pods' where it masquerades them, and those to services that the
    /// node hands on.
    fn ports_to_reserve(&self, masquerade: bool) -> Result<Option<RangeInclusive<u16>>, RpcError> {
        let Some(ports) = self.config.masquerade.ports else {
            if !masquerade {
                return Ok(None);
            }
            let what = "no ports are reserved for masquerading";
            return Err(RpcError::new(ErrorCode::Refused, what)
                .field("device.masquerade")
                .hint("set `masquerade.ports` in the configuration, such as { first = 61000, last = 65535 }, and start podswitchd anew"));
        };
        let ports = ports.into();
        Kernel::check_ports(&ports).map_err(|e| kernel_error(&e).field("device.masquerade"))?;
        Ok(Some(ports))
    }

    /// UDP ports that tunnels end at; the tables need not have them yet.
    fn overlay_ports(&self) -> Vec<u16> {
        let ports = self.model.state().ports.values();
        let all: BTreeSet<u16> = ports.filter_map(|p| p.device.tunnel_port()).collect();
        all.into_iter().collect()
    }

    /// What all ports and services in a VRF have.
    fn of_all<T: Ord>(&self, vrf: u32, has: fn(Has<'_>) -> BTreeSet<T>) -> BTreeSet<T> {
        let state = self.model.state();
        let ports = state.ports.values().map(Has::Port);
        let services = state.services.values().map(Has::Service);
        let all = ports.chain(services);
        all.filter(|one| one.vrf() == vrf).flat_map(has).collect()
    }

    /// What ports and services in a VRF had before a change and nobody has any more, and what has come.
    fn changed<T: Ord>(
        &self,
        delta: &Delta,
        vrf: u32,
        has: fn(Has<'_>) -> BTreeSet<T>,
    ) -> (BTreeSet<T>, BTreeSet<T>) {
        let (mut gone, come) = changed(delta, vrf, has);
        if !gone.is_empty() {
            let all = self.of_all(vrf, has);
            gone.retain(|one| !all.contains(one));
        }
        (gone, come)
    }

    /// Tells the programs of NICs which addresses, and ports of the node, have come to be pods' or are no longer, once the tables say the same.
    pub(super) fn steer(&mut self, delta: &Delta) {
        let overlay_ports = self.switch.tables().tunnel_ports().to_vec();
        let ports = self.model.state().ports.values();
        let nics = ports.filter(|port| port.device.is_nic());
        let nics: Vec<(String, u32)> = nics.map(|port| (port.name.clone(), port.vrf)).collect();
        for (name, vrf) in nics {
            let pods = self.changed(delta, vrf, pod_addresses);
            let services = self.changed(delta, vrf, service_addresses);
            let led = self.changed(delta, vrf, led_ports);
            let live = self.ports.get_mut(&name);
            let Some(Attached::Nic(nic)) = live.and_then(|live| live.attached.as_mut()) else {
                continue;
            };
            if let Err(e) = nic.change_pods(pods.0, pods.1) {
                warn!(port = name, error = %e, "the NIC's program does not know every pod's address");
            }
            if let Err(e) = nic.change_services(services.0, services.1) {
                warn!(port = name, error = %e, "the NIC's program does not know every service's address");
            }
            if let Err(e) = nic.change_host_ports(led.0, led.1) {
                warn!(port = name, error = %e, "the NIC's program does not know every port of the node that leads to a pod or a service");
            }
            if let Err(e) = nic.set_overlay_ports(&overlay_ports) {
                warn!(port = name, error = %e, "the NIC's program does not know every tunnel");
            }
        }
    }

    /// The kernel has changed something about the interface of a NIC: the program and the tables follow.
    pub(super) fn nic_changed(&mut self, name: &str) {
        let Some(Attached::Nic(nic)) = self.ports.get_mut(name).and_then(|p| p.attached.as_mut())
        else {
            return;
        };
        let facts = match Facts::read(nic.device) {
            Ok(Some(facts)) => facts,
            // That it is gone is told, too.
            Ok(None) => return,
            Err(e) => return warn!(port = name, error = %e, "the NIC could not be read"),
        };
        if self.nics.get(name) == Some(&facts) {
            return;
        }
        if let Err(e) = nic.follow(&facts) {
            warn!(port = name, error = %e, "the NIC's program does not know its addresses");
        }
        info!(port = name, mac = %facts.mac, mtu = facts.mtu, addresses = ?facts.addresses, "the NIC has changed");
        let mtu = facts.mtu;
        self.put_facts(name, facts);
        let port = self.model.state().ports.get(name);
        if mtu > MAX_CHUNK_MTU && port.is_some_and(|p| !p.device.zero_copy_queues().is_empty()) {
            self.close_device(name);
            let what = format!(
                "MTU {mtu}: in zero-copy mode it may be {MAX_CHUNK_MTU} at most; the port opens when it is lower"
            );
            self.fault(name, what);
            // However it looks next, it is tried again.
            if let Some(live) = self.ports.get_mut(name) {
                live.look = None;
            }
        }
    }

    /// The tables follow what a port's interface is from now on.
    pub(super) fn put_facts(&mut self, name: &str, facts: Facts) {
        self.nics.insert(name.to_owned(), facts);
        let port = self.model.state().ports.get(name).cloned();
        let port = port.map(|p| Object::Port(Box::new(p)));
        let same = Difference::new(port.clone(), port);
        let delta = Delta {
            differences: same.into_iter().collect(),
        };
        match self.compile(&delta, &Plan::new()) {
            Ok(tables) => self.publish(tables),
            Err(e) => self.fault(name, e.to_string()),
        }
        self.settle_sockets();
    }

    /// Gives the NIC of a port back to the host as it was, unless another port is on it now.
    pub(super) fn release_nic(&mut self, port: &Port) {
        let Device::Nic { interface, .. } = &port.device else {
            return;
        };
        let ports = self.model.state().ports.values();
        if ports
            .filter_map(|p| p.device.interface())
            .any(|i| i == interface)
        {
            return;
        }
        if self.put_back_noted(interface) {
            info!(interface, "the NIC is the host's alone again");
        }
    }

    /// Puts back what was changed of an interface, if anything was; false when that is not known.
    pub(super) fn put_back_noted(&mut self, interface: &str) -> bool {
        match self.noted(interface) {
            Ok(Some(before)) => self.put_back(&before),
            Ok(None) => {}
            Err(e) => {
                warn!(interface, error = %e, "it is not known how the interface was; teardown will put it back");
                return false;
            }
        }
        true
    }

    /// How an interface was before it was changed.
    pub(super) fn noted(&self, interface: &str) -> Result<Option<OwnedInterface>, RpcError> {
        let all = self.store.owned().map_err(RpcError::from)?;
        Ok(all.into_iter().find(|o| o.name == *interface))
    }
}

/// What is behind the port on a NIC.
fn nic_device(
    found: &nic::Found,
    vlan: Option<u16>,
    zero_copy: &[u32],
    tap: Option<OwnedFd>,
) -> switch::Device {
    let (interface, local_sender) = (found.link.index, found.local_sender);
    match tap {
        Some(tap) => switch::Device::Tap {
            tap,
            interface,
            wire: Some(Wire { local_sender, vlan }),
        },
        None => switch::Device::Nic {
            interface,
            queues: found.queues,
            zero_copy: zero_copy.to_vec(),
            local_sender,
            vlan,
        },
    }
}

/// What a NIC's program is to know of.
#[derive(Clone, Copy)]
enum Has<'a> {
    Port(&'a Port),
    Service(&'a Service),
}

impl<'a> Has<'a> {
    fn of(object: &'a Object) -> Option<Has<'a>> {
        match object {
            Object::Port(port) => Some(Has::Port(port)),
            Object::Service(service) => Some(Has::Service(service)),
            _ => None,
        }
    }

    fn vrf(self) -> u32 {
        match self {
            Has::Port(port) => port.vrf,
            Has::Service(_) => 0,
        }
    }
}

/// Addresses whose packets are the switch's: those of routed ports. The node's port has the host's.
fn pod_addresses(has: Has<'_>) -> BTreeSet<IpAddr> {
    match has {
        Has::Port(port) if !port.is_node() => port.addresses.iter().copied().collect(),
        _ => BTreeSet::new(),
    }
}

/// Addresses of which some ports are the switch's, as of the node's own.
fn service_addresses(has: Has<'_>) -> BTreeSet<IpAddr> {
    match has {
        Has::Port(_) => BTreeSet::new(),
        Has::Service(service) => services::external_addresses(service),
    }
}

/// Ports of such addresses that are the switch's.
fn led_ports(has: Has<'_>) -> BTreeSet<HostPort> {
    match has {
        Has::Port(port) => host_ports::of_port(port),
        Has::Service(service) => services::host_ports(service),
    }
}

/// What of ports and services in a VRF is gone after a change, and what has come: what moved from one to another is neither gone nor lost.
fn changed<T: Ord>(
    delta: &Delta,
    vrf: u32,
    has: fn(Has<'_>) -> BTreeSet<T>,
) -> (BTreeSet<T>, BTreeSet<T>) {
    let of = |object: &Option<Object>| {
        let one = object.as_ref().and_then(Has::of);
        one.filter(|one| one.vrf() == vrf)
            .map_or(BTreeSet::new(), has)
    };
    let all = delta.differences.iter();
    let mut gone: BTreeSet<T> = all.clone().flat_map(|d| of(&d.before)).collect();
    let come: BTreeSet<T> = all.flat_map(|d| of(&d.after)).collect();
    gone.retain(|one| !come.contains(one));
    (gone, come)
}
