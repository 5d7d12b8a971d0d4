// SPDX-License-Identifier: Apache-2.0
//! What the kernel says about interfaces: a pod's port goes with its interface, any other port waits for it to return.

use std::path::Path;

use podswitch_api::Key;
use podswitch_api::method::{Change, PortState};
use podswitch_api::object::{Device, Port};
use podswitch_host::watch::Event;
use podswitch_host::{Link, Socket, link};
use tracing::{info, warn};

use super::{Engine, LivePort};
use crate::kernel::Attached;

impl Engine {
    pub(super) fn link(&mut self, event: Event) {
        match event {
            Event::LinkGone { index, name } => self.link_gone(index, &name),
            Event::LinkChanged(link) => self.link_changed(&link),
            Event::Resync => self.resync(),
            Event::AddressChanged(address) | Event::AddressGone(address) => {
                self.follow_host();
                let port = self.ports.iter().find(|(_, p)| is_on(p, address.link));
                if let Some(name) = port.map(|(name, _)| name.clone()) {
                    self.nic_changed(&name);
                }
            }
            // Not watched here.
            Event::NeighborChanged(_)
            | Event::NeighborGone(_)
            | Event::RouteChanged(_)
            | Event::RouteGone(_) => {}
        }
    }

    /// The port is known by what is attached to the interface. One whose device never opened, by the interface's name,
    /// unless there is another interface of that name by now.
    fn link_gone(&mut self, index: u32, interface: &str) {
        let attached = self.ports.iter().find(|(_, p)| is_on(p, index));
        let port = match attached.and_then(|(name, _)| self.model.state().ports.get(name)) {
            Some(port) => port.clone(),
            None => match self.port_on(interface) {
                Some(port) if self.is_shut(&port.name) && is_gone(&port) => port,
                _ => return,
            },
        };
        self.close_device(&port.name);
        if port.device.is_host() {
            warn!(
                port = port.name,
                "the host's interface is gone, and is made anew"
            );
            self.open_or_fault(&port);
            self.connect(&port.name);
        } else if port.pod.is_some() {
            info!(
                port = port.name,
                interface, "the pod's interface is gone, and its port with it"
            );
            self.remove_ports(vec![port.name]);
        } else {
            self.fault(
                &port.name,
                format!("interface {interface} is gone; the port opens when it is back"),
            );
        }
    }

    /// Whether a port has nothing attached.
    fn is_shut(&self, name: &str) -> bool {
        self.ports.get(name).is_some_and(|p| p.attached.is_none())
    }

    pub(super) fn link_changed(&mut self, link: &Link) {
        let port = self.port_on(&link.name);
        if let Some(port) = port.or_else(|| self.port_of_vlan(link)) {
            self.port_changed(&port, link);
        }
    }

    /// Something about an interface of a port has changed, or about the VLAN device on it.
    fn port_changed(&mut self, port: &Port, link: &Link) {
        let Some(live) = self.ports.get_mut(&port.name) else {
            return;
        };
        match live.state {
            // That is tried again now and then.
            PortState::Faulted if port.device.is_host() => {}
            PortState::Faulted => {
                if port.device.is_nic() && !self.nic_differs(port) {
                    return;
                }
                self.open_or_fault(port);
                self.connect(&port.name);
            }
            PortState::Up | PortState::Down => {
                let down = match &live.attached {
                    // One that is gone is told of, too.
                    Some(Attached::Nic(nic)) => nic.without_link().unwrap_or_default(),
                    _ => (!(link.flags.up() && link.flags.lower_up())).then(|| link.name.clone()),
                };
                live.state = match down {
                    None => PortState::Up,
                    Some(_) => PortState::Down,
                };
                live.message = down.map(|name| no_link(port, &name));
                self.nic_changed(&port.name);
                if port.device.is_host() {
                    self.follow_host();
                }
            }
        }
    }

    /// The port on a NIC for whose frames a VLAN device stands.
    fn port_of_vlan(&self, link: &Link) -> Option<Port> {
        let (id, parent) = (link.vlan?, link.peer.filter(|p| p.nsid.is_none())?);
        let mut ports = self.model.state().ports.values();
        let of_vlan =
            ports.find(|p| p.device.vlan() == Some(id) && index_of(p) == Some(parent.index));
        of_vlan.cloned()
    }

    fn port_on(&self, interface: &str) -> Option<Port> {
        let on = |p: &&Port| interface_of(p) == Some(interface);
        self.model.state().ports.values().find(on).cloned()
    }

    /// Notices were lost: look at every interface.
    fn resync(&mut self) {
        let links = match Socket::open().and_then(|mut s| link::list(&mut s)) {
            Ok(links) => links,
            Err(e) => {
                return warn!(error = %e, "interfaces could not be listed after notices were lost");
            }
        };
        let there = |p: &Port| {
            links
                .iter()
                .any(|l| Some(l.name.as_str()) == interface_of(p))
        };
        let is_gone = |index: &u32| links.iter().all(|l| l.index != *index);
        let ports = self.model.state().ports.values();
        let gone: Vec<(u32, String)> = ports
            .filter_map(|p| {
                let interface = interface_of(p)?.to_owned();
                match &self.ports.get(&p.name)?.attached {
                    Some(a) => {
                        let gone = [a.ifindex(), a.host_device()].into_iter().find(is_gone)?;
                        Some((gone, interface))
                    }
                    None => (!there(p)).then_some((0, interface)),
                }
            })
            .collect();
        for (index, interface) in gone {
            self.link_gone(index, &interface);
        }
        for link in &links {
            self.link_changed(link);
        }
        self.follow_host();
    }

    /// Removes ports from the desired state by ourselves. When that cannot be stored they stay, faulted, and it is tried
    /// again now and then.
    pub(super) fn remove_ports(&mut self, names: Vec<String>) {
        if names.is_empty() {
            return;
        }
        let changes: Vec<Change> = names
            .iter()
            .map(|n| Change::delete(Key::Port { name: n.clone() }))
            .collect();
        let removed = self
            .model
            .apply(&changes)
            .and_then(|applied| self.realise(applied));
        if let Err(e) = removed {
            for name in &names {
                self.fault(
                    name,
                    format!("its interface is gone and it could not be removed: {e}"),
                );
            }
            self.unremoved.extend(names);
        }
    }

    /// Tries again to remove what could not be removed, unless its interface is back.
    pub(super) fn retry_removals(&mut self) {
        let mut gone = Vec::new();
        for name in std::mem::take(&mut self.unremoved) {
            match self.model.state().ports.get(&name).map(is_there) {
                Some(Ok(false)) => gone.push(name),
                Some(Err(_)) => drop(self.unremoved.insert(name)),
                None | Some(Ok(true)) => {}
            }
        }
        self.remove_ports(gone);
    }
}

/// Whether what is attached to a port's interface has to do with the interface of this index.
fn is_on(port: &LivePort, index: u32) -> bool {
    port.attached.as_ref().is_some_and(|a| a.is_on(index))
}

/// The index of a port's interface now.
fn index_of(port: &Port) -> Option<u32> {
    let interface = interface_of(port)?;
    let found = Socket::open().and_then(|mut socket| link::find(&mut socket, interface));
    Some(found.ok()??.index)
}

fn interface_of(port: &Port) -> Option<&str> {
    port.device.polled()
}

fn no_link(port: &Port, interface: &str) -> String {
    let why = match &port.device {
        Device::Nic { .. } => "it is down, or its cable is",
        Device::Host { interface, .. } => &format!("the host's end {interface} is down"),
        _ => "the pod's end is down",
    };
    format!("interface {interface} has no link: {why}")
}

/// Whether a port's interface is there, for a port that has one; for one by vhost-user, the folder with its socket.
fn is_there(port: &Port) -> podswitch_host::Result<bool> {
    if let Device::VhostUser { socket, .. } = &port.device {
        let folder = Path::new(socket).parent();
        // One that cannot be looked at may be there.
        return Ok(folder.is_none_or(|folder| folder.try_exists().unwrap_or(true)));
    }
    let Some(interface) = interface_of(port) else {
        return Ok(true);
    };
    let mut socket = Socket::open()?;
    Ok(link::find(&mut socket, interface)?.is_some())
}

fn is_gone(port: &Port) -> bool {
    matches!(is_there(port), Ok(false))
}

/// Whether a port is a pod's whose interface, or folder, is not there.
pub(super) fn pod_is_gone(port: &Port) -> bool {
    port.pod.is_some() && is_gone(port)
}
