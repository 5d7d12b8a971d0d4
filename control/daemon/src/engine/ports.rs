// SPDX-License-Identifier: Apache-2.0
//! Opening and closing the devices behind ports.

use podswitch_api::method::{PortState, TeardownItem};
use podswitch_api::object::{Device, Port, XdpMode};
use podswitch_api::{ErrorCode, Key, RpcError};
use podswitch_datapath::port::PcapSpec;
use podswitch_datapath::port::xdp::{Queue, XdpHandle};
use podswitch_datapath::switch::{self, PortSpec, SwitchError};
use podswitch_datapath::{PortId, WorkerId};
use podswitch_host::Link;
use podswitch_host::xdp;
use podswitch_state::store::OwnedInterface;
use podswitch_state::teardown;
use tracing::{info, warn};

use super::Engine;
use super::change::{Moves, Plan};
use super::guests::Guest;
use super::links::pod_is_gone;
use crate::kernel::{Attached, Kernel, KernelError, Means, nic};

/// A port of the desired state, as it is.
pub(super) struct LivePort {
    pub(super) id: PortId,
    pub(super) worker: WorkerId,
    pub(super) state: PortState,
    /// Why it is not up.
    pub(super) message: Option<String>,
    /// What is attached to its interface, and the socket that its frames go to.
    pub(super) attached: Option<Attached>,
    /// One for each queue.
    sockets: Vec<XdpHandle>,
    /// What speaks with the frontend of its virtual machine.
    pub(super) guest: Option<Guest>,
    /// How its interface was, when that was noted for it since the daemon started.
    before: Option<OwnedInterface>,
    /// How its NIC looked when it was tried to be opened last.
    pub(super) look: Option<nic::Look>,
    /// Whether its interface was made for it since the daemon started.
    pub(super) made: bool,
    /// What is on the host for it.
    pub(super) on_host: Vec<TeardownItem>,
    /// What of that is there for the way beyond the host.
    pub(super) egress: Vec<TeardownItem>,
}

impl LivePort {
    /// How frames get from each queue of its interface, from 0 on, to the switch.
    pub(super) fn queues(&self) -> Vec<String> {
        let sockets = self.sockets.iter().filter_map(XdpHandle::socket);
        let word = sockets.map(|socket| match socket.bound_zero_copy() {
            Ok(true) => "zero-copy".to_owned(),
            Ok(false) => "copy".to_owned(),
            Err(e) => e.to_string(),
        });
        word.collect()
    }
}

impl Engine {
    /// Gives every port that a change opens an id and a worker; nothing else is touched.
    pub(super) fn plan(&mut self, moves: &Moves) -> Result<Plan, RpcError> {
        let mut plan = Plan::new();
        for port in &moves.open {
            let Some(id) = self.names.assign(&port.name) else {
                self.unplan(moves);
                let key = Key::Port {
                    name: port.name.clone(),
                };
                return Err(
                    RpcError::new(ErrorCode::Limit, "all port numbers are taken")
                        .about(&key)
                        .hint("remove ports first"),
                );
            };
            let worker = self.choose_worker(port, &plan);
            plan.insert(id, worker);
            // The tables say what it is before it is opened.
            if let Err(e) = self.look_at_nic(port) {
                self.unplan(moves);
                return Err(e);
            }
        }
        Ok(plan)
    }

    /// Takes the ids of ports back that a failed change would have opened.
    pub(super) fn unplan(&mut self, moves: &Moves) {
        for port in &moves.open {
            if !self.ports.contains_key(&port.name) {
                self.names.release(&port.name);
            }
        }
    }

    /// Opens every device that a change needs: those that nobody has first. What is opened anew is closed before; a
    /// failure puts everything back.
    pub(super) fn open_ports(&mut self, moves: &Moves, plan: &Plan) -> Result<Vec<Port>, RpcError> {
        let in_use = |p: &Port| {
            let by = |old: &Port| old.name == p.name || old.device == p.device;
            moves.reopen.iter().any(by)
        };
        let (later, first): (Vec<&Port>, Vec<&Port>) = moves.open.iter().partition(|p| in_use(p));
        let mut opened = Vec::new();
        let mut closed: &[Port] = &[];
        for (at, port) in first.iter().chain(&later).enumerate() {
            if at == first.len() {
                closed = &moves.reopen;
                closed.iter().for_each(|p| self.close_device(&p.name));
            }
            let result = self.open(port, plan);
            // Also after a failure: whatever was assigned on the way has to go.
            opened.push((*port).clone());
            if let Err(e) = result {
                self.undo(&opened, closed, moves);
                return Err(e);
            }
        }
        Ok(opened)
    }

    /// Closes what a failed change has opened, and opens what it had closed.
    pub(super) fn undo_ports(&mut self, opened: &[Port], moves: &Moves) {
        self.undo(opened, &moves.reopen, moves);
    }

    fn undo(&mut self, opened: &[Port], closed: &[Port], moves: &Moves) {
        for port in opened {
            self.close_device(&port.name);
            self.disown(&port.name);
            if !moves.reopen.iter().any(|p| p.name == port.name) {
                self.forget(&port.name);
            }
        }
        for port in closed {
            self.open_or_fault(port);
            self.connect(&port.name);
        }
    }

    /// Opens a port's device; out of order when it cannot be.
    pub(super) fn open_or_fault(&mut self, port: &Port) {
        if let Err(e) = self.open(port, &Plan::new()) {
            self.fault(&port.name, e.to_string());
        }
    }

    /// Lets a port's frames in, once the tables know it.
    pub(super) fn connect(&mut self, name: &str) {
        let Some(live) = self.ports.get_mut(name) else {
            return;
        };
        if let Some(attached) = &mut live.attached
            && let Err(e) = attached.connect(&live.sockets)
        {
            self.fault(name, e.to_string());
        }
        self.serve_guest(name);
    }

    /// Lets no more frames in of ports that are about to leave the tables.
    pub(super) fn disconnect(&mut self, moves: &Moves) {
        for port in &moves.close {
            if let Some(attached) = self
                .ports
                .get_mut(&port.name)
                .and_then(|p| p.attached.as_mut())
            {
                attached.disconnect();
            }
        }
    }

    /// Closes the devices of ports that are gone, and gives NICs back that no port is on any more.
    pub(super) fn close_ports(&mut self, moves: &Moves) {
        for port in &moves.close {
            self.close_device(&port.name);
            self.forget(&port.name);
            info!(port = port.name, "port removed");
        }
        for port in moves.close.iter().chain(&moves.reopen) {
            self.release_nic(port);
            self.release_host(port);
        }
    }

    fn forget(&mut self, name: &str) {
        self.ports.remove(name);
        self.nics.remove(name);
        self.names.release(name);
    }

    /// Opens one port's device under its id, a fresh one when it has none, on the planned worker or the one chosen for it.
    pub(super) fn open(&mut self, port: &Port, plan: &Plan) -> Result<(), RpcError> {
        let key = Key::Port {
            name: port.name.clone(),
        };
        let (id, worker) = self.register(port, &key, plan)?;
        let opened = self
            .open_device(port, id, worker)
            .map_err(|e| e.about(&key))?;
        if let Some(live) = self.ports.get_mut(&port.name) {
            live.state = PortState::Up;
            live.message = None;
            if let Some((attached, sockets)) = opened {
                live.attached = Some(attached);
                live.sockets = sockets;
            }
        }
        info!(
            port = port.name,
            id = id.0,
            worker = worker.0,
            device = port.device.kind(),
            "port opened"
        );
        self.look_at_link(port);
        Ok(())
    }

    /// Gives a port an id and a worker; its device is not open yet.
    fn register(
        &mut self,
        port: &Port,
        key: &Key,
        plan: &Plan,
    ) -> Result<(PortId, WorkerId), RpcError> {
        let id = self.names.assign(&port.name).ok_or_else(|| {
            RpcError::new(ErrorCode::Limit, "all port numbers are taken")
                .about(key)
                .hint("remove ports first")
        })?;
        let planned = plan.get(&id).copied();
        let worker = planned.unwrap_or_else(|| self.choose_worker(port, plan));
        let live = LivePort {
            id,
            worker,
            state: PortState::Faulted,
            message: None,
            attached: None,
            sockets: Vec::new(),
            guest: None,
            before: None,
            look: None,
            made: false,
            on_host: Vec::new(),
            egress: Vec::new(),
        };
        self.ports.insert(port.name.clone(), live);
        Ok((id, worker))
    }

    fn open_device(
        &mut self,
        port: &Port,
        id: PortId,
        worker: WorkerId,
    ) -> Result<Option<(Attached, Vec<XdpHandle>)>, RpcError> {
        let mtu = self.mtu_of(port);
        let spec = |device| PortSpec {
            worker: Some(worker),
            mtu,
            device,
            faults: None,
        };
        match &port.device {
            Device::Veth { interface, mode } => {
                let found = self.close_veth(port, interface)?;
                self.open_veth(id, &found, *mode, spec).map(Some)
            }
            Device::Host { .. } => self.open_host(port, id, spec).map(Some),
            Device::Nic { .. } => self.open_uplink(port, id, worker).map(Some),
            Device::VhostUser { .. } => {
                self.open_guest(port, id, spec)?;
                Ok(None)
            }
            Device::Pcap { replay, record } => {
                let files = PcapSpec {
                    replay: replay.clone().map(Into::into),
                    record: record.clone().map(Into::into),
                    ..PcapSpec::default()
                };
                self.switch
                    .add_port(id, spec(switch::Device::Pcap(files)))
                    .map_err(|e| switch_error(&e))?;
                Ok(None)
            }
            // Its packets leave by NICs.
            Device::Vxlan { .. } => Ok(None),
            Device::Memory {} => Err(RpcError::new(
                ErrorCode::Refused,
                "memory ports are for tests and benches",
            )
            .hint("use a veth")),
        }
    }

    /// Closes an end of a veth to the host, which has noted before how it was.
    pub(super) fn close_veth(&mut self, port: &Port, interface: &str) -> Result<Link, RpcError> {
        let found = Kernel::find(interface).map_err(|e| kernel_error(&e))?;
        if let Some(before) = found.before {
            self.own(&port.name, before)?;
        }
        Kernel::close_to_host(&found.link).map_err(|e| kernel_error(&e))?;
        Ok(found.link)
    }

    /// Takes an end of a veth that is closed to the host.
    pub(super) fn open_veth(
        &mut self,
        id: PortId,
        link: &Link,
        mode: XdpMode,
        spec: impl FnOnce(switch::Device) -> PortSpec,
    ) -> Result<(Attached, Vec<XdpHandle>), RpcError> {
        let attached = self.kernel.attach(link, mode);
        let (attached, tap) = attached.map_err(|e| kernel_error(&e))?;
        let attached = Attached::Veth(Box::new(attached));
        let device = match tap {
            Some(tap) => switch::Device::Tap {
                tap,
                interface: link.index,
                wire: None,
            },
            None => switch::Device::Xdp {
                queue: Queue {
                    interface: link.index,
                    queue: 0,
                },
                superframes: attached.means() == Means::Xdp(xdp::Mode::Generic),
            },
        };
        let opened = self.switch.add_port(id, spec(device));
        let opened = opened.map_err(|e| switch_error(&e))?;
        Ok((attached, opened.xdp))
    }

    /// Closes a port's device and leaves its interface closed; the port keeps its id.
    pub(super) fn close_device(&mut self, name: &str) {
        let Some(live) = self.ports.get_mut(name) else {
            return;
        };
        live.state = PortState::Faulted;
        let (id, attached) = (live.id, live.attached.take());
        live.sockets.clear();
        live.guest = None;
        if let Some(mut attached) = attached {
            attached.disconnect();
        }
        self.neighborhood.close(id);
        self.remove_from_switch(id);
    }

    /// Notes how an interface is before we change it; what is noted already stays as it is.
    pub(super) fn own(&mut self, port: &str, before: OwnedInterface) -> Result<(), RpcError> {
        let known = self.store.owned().map_err(RpcError::from)?;
        let same = |o: &OwnedInterface| o.name == before.name && o.index == before.index;
        if let Some(known) = known.into_iter().find(same) {
            return self.own_more(known, before);
        }
        self.store
            .own(std::slice::from_ref(&before))
            .map_err(RpcError::from)?;
        if let Some(live) = self.ports.get_mut(port) {
            live.before = Some(before);
        }
        Ok(())
    }

    /// Notes features that are about to be changed and hooks that are about to be added, and were not before.
    fn own_more(
        &mut self,
        mut known: OwnedInterface,
        before: OwnedInterface,
    ) -> Result<(), RpcError> {
        let mut more = before.features;
        more.retain(|f| known.features.iter().all(|k| k.name != f.name));
        let hooks = before.clsact && !known.clsact;
        if more.is_empty() && !hooks {
            return Ok(());
        }
        known.features.extend(more);
        known.clsact |= hooks;
        self.store.own(&[known]).map_err(RpcError::from)
    }

    /// Puts the interface of a port back that was refused, if it was changed for this port.
    fn disown(&mut self, port: &str) {
        let Some(live) = self.ports.get_mut(port) else {
            return;
        };
        let (before, made) = (live.before.take(), std::mem::take(&mut live.made));
        if let Some(before) = before {
            self.put_back(&before);
        }
        if made {
            self.remove_host();
        }
    }

    /// Puts an interface back as it was.
    pub(super) fn put_back(&mut self, before: &OwnedInterface) {
        let name = before.name.as_str();
        if !self.restore(before) {
            warn!(
                interface = name,
                "it stays noted how it was: teardown will try again"
            );
        } else if let Err(e) = self.store.disown(&[name]) {
            // Harmless: what is noted is how it is.
            warn!(interface = name, error = %e, "it stays noted how the interface was");
        }
    }

    /// Makes things as they were, and says whether all of them are.
    pub(super) fn restore(&self, before: &OwnedInterface) -> bool {
        let report = teardown::put_back(before);
        for item in &report.removed {
            info!(kind = item.kind, name = item.name, "put back");
        }
        for left in &report.failed {
            warn!(
                kind = left.kind,
                name = left.name,
                error = left.message,
                "could not be put back"
            );
        }
        report.is_clean()
    }

    pub(super) fn remove_from_switch(&mut self, id: PortId) {
        match self.switch.remove_port(id) {
            Ok(()) | Err(SwitchError::NoPort(_)) => {}
            Err(e) => warn!(id = id.0, error = %e, "the port's device was not closed in order"),
        }
    }

    /// Marks a port as out of order.
    pub(super) fn fault(&mut self, name: &str, message: String) {
        if let Some(live) = self.ports.get_mut(name) {
            if live.message.as_ref() != Some(&message) {
                warn!(port = name, message, "port faulted");
            }
            live.state = PortState::Faulted;
            live.message = Some(message);
        }
    }

    /// The worker asked for, or the one that serves the port by the tables in force, or the one with the fewest ports.
    fn choose_worker(&self, port: &Port, plan: &Plan) -> WorkerId {
        let workers = self.config.workers.len().max(1) as u8;
        if let Some(asked) = port.worker.filter(|w| *w < workers) {
            return WorkerId(asked);
        }
        let id = self.names.id(&port.name);
        if let Some(entry) = id.and_then(|id| self.switch.tables().port(id)) {
            return entry.worker;
        }
        if let Some(live) = self.ports.get(&port.name) {
            return live.worker;
        }
        let load = |w: u8| {
            let now = self.ports.values().filter(|p| p.worker.0 == w).count();
            now + plan.values().filter(|planned| planned.0 == w).count()
        };
        WorkerId((0..workers).min_by_key(|w| load(*w)).unwrap_or(0))
    }

    pub(super) fn worker_of(&self, id: PortId) -> WorkerId {
        self.names
            .name(id)
            .and_then(|n| self.ports.get(n))
            .map_or(WorkerId(0), |p| p.worker)
    }

    /// Opens the ports of a stored desired state. A pod's port whose interface is gone goes first: its pod ended while no
    /// daemon ran. Any other port waits for its interface.
    pub(super) fn restore_ports(&mut self) {
        let ports: Vec<Port> = self.model.state().ports.values().cloned().collect();
        let gone = ports.iter().filter(|p| pod_is_gone(p));
        self.remove_ports(gone.map(|p| p.name.clone()).collect());
        // The tables name every port, also one whose device cannot be opened or that could not be removed.
        let left: Vec<Port> = self.model.state().ports.values().cloned().collect();
        for port in &left {
            self.open_or_fault(port);
        }
        self.compile_all();
        self.await_tables();
        for port in &left {
            self.connect(&port.name);
        }
    }
}

pub(super) fn kernel_error(e: &KernelError) -> RpcError {
    let (code, hint) = match e {
        KernelError::NoVlan { name, id } => {
            let hint = format!(
                "make it (ip link add link {name} name vlan{id} type vlan id {id}) with the node's addresses there, and set it up"
            );
            let refused = RpcError::new(ErrorCode::Unavailable, e.to_string());
            return refused.field("device.vlan").value(id).hint(hint);
        }
        KernelError::ZeroCopy { hint, .. } => {
            let refused = RpcError::new(ErrorCode::Refused, e.to_string());
            return refused.field("device.zero_copy_queues").hint(hint);
        }
        KernelError::Missing(_) => (
            ErrorCode::Unavailable,
            "make the interface first, in the namespace podswitchd runs in",
        ),
        KernelError::Taken { .. } => (
            ErrorCode::Conflict,
            "name another interface, or remove that one first",
        ),
        KernelError::RouteTaken(_) => (
            ErrorCode::Conflict,
            "remove it first (ip route), or name other prefixes of pods",
        ),
        KernelError::NoForwarding => (
            ErrorCode::Refused,
            "set it to 1, with accept_ra = 2 where routers are listened to, or give no IPv6 prefixes of pods",
        ),
        KernelError::TableTaken(_) => (
            ErrorCode::Conflict,
            "delete it first (nft delete table), or leave out `masquerade`",
        ),
        KernelError::NotVeth { .. } => (ErrorCode::Refused, "name the host end of a veth pair"),
        KernelError::NotNic { hint, .. } => (ErrorCode::Refused, *hint),
        KernelError::NoNative { .. } => (
            ErrorCode::Refused,
            "lower its MTU, change its queues or turn off its offloads if the reason is one of them, or ask for `mode` `generic`, which is slower",
        ),
        KernelError::PortsHeld { .. } => (
            ErrorCode::Conflict,
            "end what holds it, or choose other ports as `masquerade.ports` of the configuration",
        ),
        KernelError::PortServed { .. } => (
            ErrorCode::Conflict,
            "end what waits there, or choose another port of the node (hostPort)",
        ),
        KernelError::PortsEphemeral { .. } => (
            ErrorCode::Conflict,
            "add the ports to the sysctl net.ipv4.ip_local_reserved_ports, or choose others as `masquerade.ports` of the configuration",
        ),
        KernelError::Host(podswitch_host::Error::ForeignXdp { .. }) => (
            ErrorCode::Conflict,
            "podswitch never replaces another's program",
        ),
        _ => (
            ErrorCode::Unavailable,
            "podswitchd --probe shows what this kernel offers",
        ),
    };
    RpcError::new(code, e.to_string()).hint(hint)
}

pub(super) fn switch_error(e: &SwitchError) -> RpcError {
    RpcError::new(ErrorCode::Unavailable, e.to_string())
}
