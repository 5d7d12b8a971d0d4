// SPDX-License-Identifier: Apache-2.0
//! What the kernel says about interfaces: a pod's port goes with its interface, any other port waits for it to return.

use podswitch_api::Key;
use podswitch_api::method::{Change, PortState};
use podswitch_api::object::{Device, Port};
use podswitch_host::watch::Event;
use podswitch_host::{Link, Socket, link};
use tracing::{info, warn};

use super::Engine;

impl Engine {
    pub(super) fn link(&mut self, event: Event) {
        match event {
            Event::LinkGone { index, name } => self.link_gone(index, &name),
            Event::LinkChanged(link) => self.link_changed(&link),
            Event::Resync => self.resync(),
            Event::AddressChanged(_) | Event::AddressGone(_) => {}
        }
    }

    fn link_gone(&mut self, index: u32, interface: &str) {
        let with = |p: &super::LivePort| p.attached.as_ref().is_some_and(|a| a.ifindex == index);
        let Some(name) = self
            .ports
            .iter()
            .find(|(_, p)| with(p))
            .map(|(n, _)| n.clone())
        else {
            return;
        };
        self.close_device(&name);
        let of_pod = self
            .model
            .state()
            .ports
            .get(&name)
            .is_some_and(|p| p.pod.is_some());
        if of_pod {
            info!(
                port = name,
                interface, "the pod's interface is gone, and its port with it"
            );
            self.remove_ports(vec![name]);
        } else {
            self.fault(
                &name,
                format!("interface {interface} is gone; the port opens when it is back"),
            );
        }
    }

    fn link_changed(&mut self, link: &Link) {
        let Some(port) = self.port_on(&link.name) else {
            return;
        };
        let Some(live) = self.ports.get_mut(&port.name) else {
            return;
        };
        match live.state {
            PortState::Faulted => {
                self.open_or_fault(&port);
                self.connect(&port.name);
            }
            PortState::Up | PortState::Down => {
                let up = link.flags.up() && link.flags.lower_up();
                live.state = if up { PortState::Up } else { PortState::Down };
                live.message = (!up)
                    .then(|| format!("interface {} has no link: the pod's end is down", link.name));
            }
        }
    }

    fn port_on(&self, interface: &str) -> Option<Port> {
        let on =
            |p: &&Port| matches!(&p.device, Device::Veth { interface: i, .. } if i == interface);
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
        let gone: Vec<u32> = self
            .ports
            .values()
            .filter_map(|p| p.attached.as_ref().map(|a| a.ifindex))
            .filter(|index| !links.iter().any(|l| l.index == *index))
            .collect();
        for index in gone {
            self.link_gone(index, "of that index");
        }
        for link in &links {
            self.link_changed(link);
        }
    }

    /// Removes ports from the desired state by ourselves; they stay faulted when that cannot be stored.
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
        }
    }
}
