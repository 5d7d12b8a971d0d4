// SPDX-License-Identifier: Apache-2.0
//! The links of NICs: what is found out there goes into the tables beside the desired state.

use std::net::IpAddr;
use std::sync::mpsc::Sender;
use std::time::Duration;

use ipnet::IpNet;
use podswitch_api::desired::Difference;
use podswitch_api::object::{Object, Port};
use podswitch_api::{ErrorCode, RpcError};
use podswitch_datapath::events::MissReader;
use podswitch_datapath::port::xdp::XdpHandle;
use podswitch_datapath::tables::Edit;
use podswitch_datapath::{PortId, VrfId, WorkerId};
use podswitch_host::resolution::Socket;
use podswitch_host::{Socket as NetlinkSocket, link};
use tracing::warn;

use super::{Engine, Task};
use crate::compile::table_error;
use crate::kernel::Attached;
use crate::neighbors::import::Imported;
use crate::neighbors::known::{Known, next_hops, probe};
use crate::neighbors::resolver::Probe;
use crate::neighbors::service::{Change, Command, Listed, Open, Report, Service, StartError};
use crate::neighbors::wants::Wants;

/// The thread answers in microseconds; without an answer within this it has ended.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// What is known of the links, what is wanted, and the thread that finds out.
#[derive(Debug)]
pub(super) struct Neighborhood {
    tasks: Sender<Task>,
    misses: MissReader,
    /// Started with the first NIC.
    service: Option<Service>,
    wants: Wants,
    pub(super) known: Known,
}

impl Neighborhood {
    pub(super) fn new(tasks: Sender<Task>, misses: MissReader) -> Neighborhood {
        Neighborhood {
            tasks,
            misses,
            service: None,
            wants: Wants::default(),
            known: Known::default(),
        }
    }

    /// Watches the link of a NIC from now on.
    pub(super) fn open(
        &mut self,
        port: &Port,
        id: PortId,
        socket: Socket,
    ) -> Result<(), StartError> {
        let service = match self.service.take() {
            Some(running) => running,
            None => {
                let tasks = self.tasks.clone();
                let report = move |report| tasks.send(Task::Report(report)).is_ok();
                Service::start(self.misses.clone(), report)?
            }
        };
        service.send(Command::Open(Open {
            port: id,
            vrf: VrfId(port.vrf),
            socket,
            table: port.device.routes(),
        }));
        service.send(Command::Want(id, self.wants.of(&port.name)));
        self.service = Some(service);
        Ok(())
    }

    /// Watches it no longer.
    pub(super) fn close(&self, id: PortId) {
        self.send(Command::Close(id));
    }

    fn send(&self, command: Command) {
        if let Some(service) = &self.service {
            service.send(command);
        }
    }

    /// Whether nobody watches the links that are to be watched.
    pub(super) fn is_blind(&self) -> bool {
        self.service.as_ref().is_some_and(|s| !s.is_alive())
    }

    /// Every neighbour behind NICs, known or looked for.
    pub(super) fn list(&self) -> Vec<Listed> {
        let service = self.service.as_ref();
        service.map_or_else(Vec::new, |s| s.list(ANSWERS_WITHIN))
    }
}

impl Engine {
    /// Opens a NIC and watches its link.
    pub(super) fn open_uplink(
        &mut self,
        port: &Port,
        id: PortId,
        worker: WorkerId,
    ) -> Result<(Attached, Vec<XdpHandle>), RpcError> {
        let (mut attached, sockets) = self.open_nic(port, id, worker)?;
        let opened = Socket::open(attached.host_device())
            .map_err(StartError::from)
            .and_then(|socket| self.neighborhood.open(port, id, socket));
        if let Err(e) = opened {
            attached.disconnect();
            self.remove_from_switch(id);
            return Err(RpcError::new(ErrorCode::Unavailable, e.to_string()));
        }
        Ok((attached, sockets))
    }

    /// Whether a NIC that was just opened has a link.
    pub(super) fn look_at_link(&mut self, port: &Port) {
        let Some(interface) = port.device.interface().filter(|_| port.device.is_nic()) else {
            return;
        };
        match NetlinkSocket::open().and_then(|mut socket| link::get(&mut socket, interface)) {
            Ok(link) => self.link_changed(&link),
            Err(e) => warn!(interface, error = %e, "it is not known whether there is a link"),
        }
    }

    /// Something has been found out.
    pub(super) fn report(&mut self, report: Report) {
        match report {
            Report::Neighbors(changes) => {
                let known = &mut self.neighborhood.known;
                changes
                    .iter()
                    .for_each(|change| known.note_neighbor(change));
                self.put_all(&changes, "neighbor", |engine, edit, change| {
                    engine.put_neighbor(edit, change);
                });
            }
            Report::Routes { table, changes } => self.routes_changed(table, changes),
        }
    }

    fn put_neighbor(&self, edit: &mut Edit, change: &Change) {
        // A port that has gone meanwhile took its neighbours along.
        if self.names.name(change.port).is_some() {
            let at = (change.vrf, change.port, change.address);
            let known = &self.neighborhood.known;
            known.put_neighbor(edit, at, self.model.state(), &self.names);
        }
    }

    fn routes_changed(&mut self, table: u32, changes: Vec<(IpNet, Option<Imported>)>) {
        let mut prefixes = Vec::new();
        for (prefix, route) in changes {
            prefixes.push(prefix);
            let after = route.clone();
            let before = self.neighborhood.known.note_route(table, prefix, route);
            self.want_hops(after.as_ref(), Wants::add);
            self.want_hops(before.as_ref(), Wants::remove);
        }
        self.put_all(
            &prefixes,
            "route of the kernel's",
            |engine, edit, prefix| {
                let state = engine.model.state();
                engine
                    .neighborhood
                    .known
                    .put_route(edit, *prefix, state, None);
            },
        );
        self.send_wants();
    }

    fn want_hops(&mut self, route: Option<&Imported>, change: fn(&mut Wants, &str, IpAddr, Probe)) {
        let Some(route) = route else { return };
        for hop in &route.hops {
            if let (Some(via), Some(name)) = (hop.via, self.names.name(hop.port)) {
                change(&mut self.neighborhood.wants, name, via, probe(route));
            }
        }
    }

    /// Puts things into the tables, in one step if the tables hold all of them, else all but those that they do not hold.
    fn put_all<T: std::fmt::Debug>(
        &mut self,
        things: &[T],
        what: &str,
        put: impl Fn(&Engine, &mut Edit, &T) + Copy,
    ) {
        let mut edit = self.switch.edit();
        things.iter().for_each(|thing| put(self, &mut edit, thing));
        let policies = self.policies.put(&mut edit, &self.names);
        match policies.and_then(|()| edit.build().map_err(|e| table_error(&e))) {
            Ok(tables) => self.publish(tables),
            Err(e) => match things {
                [] => {}
                [thing] => warn!(?thing, error = %e, "a {what} is left out of the tables"),
                _ => {
                    let (first, second) = things.split_at(things.len() / 2);
                    self.put_all(first, what, put);
                    self.put_all(second, what, put);
                }
            },
        }
    }

    /// Takes in what differences of the desired state, which are in force, want of neighbours.
    pub(super) fn want_differences(&mut self, differences: &[Difference]) {
        for difference in differences {
            let wants = &mut self.neighborhood.wants;
            if let Some(Object::Route(route)) = &difference.after {
                next_hops(route).for_each(|(port, via, probe)| wants.add(port, via, probe));
            }
            if let Some(Object::Route(route)) = &difference.before {
                next_hops(route).for_each(|(port, via, probe)| wants.remove(port, via, probe));
            }
            self.announce(difference);
        }
        self.send_wants();
    }

    fn send_wants(&mut self) {
        for name in self.neighborhood.wants.take_changed() {
            if let Some(id) = self.names.id(&name) {
                let wanted = self.neighborhood.wants.of(&name);
                self.neighborhood.send(Command::Want(id, wanted));
            }
        }
    }

    /// Has addresses announced that have come to a port of this node, on the links that they are on.
    fn announce(&self, difference: &Difference) {
        let of_port = |o: &Option<Object>| match o {
            // The node's own it announces itself.
            Some(Object::Port(p)) if p.segment.is_none() && !p.device.is_nic() && !p.is_node() => {
                let vrf = VrfId(p.vrf);
                p.addresses.iter().map(|a| (vrf, *a)).collect()
            }
            _ => Vec::new(),
        };
        let (before, after) = (of_port(&difference.before), of_port(&difference.after));
        for (vrf, address) in after.iter().filter(|a| !before.contains(a)) {
            self.neighborhood.send(Command::Announce(*vrf, *address));
        }
        for (vrf, address) in before.iter().filter(|a| !after.contains(a)) {
            self.neighborhood.send(Command::Retire(*vrf, *address));
        }
    }
}
