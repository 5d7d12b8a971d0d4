// SPDX-License-Identifier: Apache-2.0
//! Ports of virtual machines and of DPDK programs: their frontends come and go while the port keeps its place.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use podswitch_api::method::PortState;
use podswitch_api::object::{Device, Port, SocketMode};
use podswitch_api::{ErrorCode, RpcError};
use podswitch_datapath::PortId;
use podswitch_datapath::port::vhost::{VhostHandle, feature, vhost_device};
use podswitch_datapath::switch::{self, PortSpec};
use podswitch_vhost::{Endpoint, Meeting, Mode, Service, SocketError, State};
use tracing::debug;

use super::ports::switch_error;
use super::{Engine, Task};

/// What speaks with the frontend of a port.
pub(super) struct Guest {
    /// As the port was when it was opened; what is wanted may be another one by now.
    path: String,
    mode: SocketMode,
    queues: u16,
    speaks: Speaks,
    /// The engine has been told of a change that it has not looked at.
    told: Arc<AtomicBool>,
}

enum Speaks {
    /// Nobody does before the tables know the port.
    Bound(Meeting, Box<VhostHandle>),
    /// A thread does.
    Served(Service),
}

impl Guest {
    /// What the driver agreed on.
    pub(super) fn features(&self) -> Vec<String> {
        match &self.speaks {
            Speaks::Served(service) => match service.state() {
                State::Connected { features, .. } => {
                    feature::names(features).map(str::to_owned).collect()
                }
                State::Waiting | State::Faulted(_) => Vec::new(),
            },
            Speaks::Bound(..) => Vec::new(),
        }
    }

    /// How a port with it stands, and why it is not up.
    fn stands(&self) -> Option<(PortState, Option<String>)> {
        let Speaks::Served(service) = &self.speaks else {
            return None;
        };
        let path = &self.path;
        Some(match (service.state(), self.mode) {
            (State::Connected { ready: true, .. }, _) => (PortState::Up, None),
            (State::Connected { .. }, _) => {
                let what = "a frontend is connected, and its driver is not ready";
                (PortState::Down, Some(what.to_owned()))
            }
            (State::Waiting, SocketMode::Server) => {
                let what = format!("no frontend is connected to {path}");
                (PortState::Down, Some(what))
            }
            (State::Waiting, SocketMode::Client) => {
                let what = format!("no frontend listens at {path}");
                (PortState::Down, Some(what))
            }
            (State::Faulted(why), _) => {
                let what = format!("the connection to its frontend was ended: {why}");
                (PortState::Faulted, Some(what))
            }
        })
    }
}

impl Engine {
    /// Makes the socket and the port, without a word to the frontend.
    pub(super) fn open_guest(
        &mut self,
        port: &Port,
        id: PortId,
        spec: impl FnOnce(switch::Device) -> PortSpec,
    ) -> Result<(), RpcError> {
        let Device::VhostUser {
            socket,
            mode,
            queues,
            gid,
        } = &port.device
        else {
            unreachable!("the caller has looked");
        };
        let endpoint = Endpoint {
            path: socket.into(),
            mode: match mode {
                SocketMode::Server => Mode::Server,
                SocketMode::Client => Mode::Client,
            },
            gid: *gid,
        };
        let meeting = Meeting::open(&endpoint).map_err(|e| socket_error(&e))?;
        let (handle, device) = vhost_device().map_err(|e| {
            RpcError::new(ErrorCode::Unavailable, format!("no eventfd: {e}"))
                .hint("raise the limit of open files (LimitNOFILE= of systemd)")
        })?;
        let added = self
            .switch
            .add_port(id, spec(switch::Device::Vhost(device)));
        added.map_err(|e| switch_error(&e))?;
        if let Some(live) = self.ports.get_mut(&port.name) {
            live.guest = Some(Guest {
                path: socket.clone(),
                mode: *mode,
                queues: *queues,
                speaks: Speaks::Bound(meeting, Box::new(handle)),
                told: Arc::default(),
            });
        }
        Ok(())
    }

    /// Begins to speak with a port's frontend, once the tables know the port.
    pub(super) fn serve_guest(&mut self, name: &str) {
        let guest = self.ports.get_mut(name).and_then(|p| p.guest.take());
        let Some(mut guest) = guest else {
            return;
        };
        if let Speaks::Bound(meeting, handle) = guest.speaks {
            let (tasks, port, told) = (self.tasks.clone(), name.to_owned(), guest.told.clone());
            let changed = move || {
                // An engine that has ended needs to know nothing.
                if !told.swap(true, Ordering::Relaxed) {
                    let _ = tasks.send(Task::Guest(port.clone()));
                }
            };
            match Service::start(name, meeting, guest.queues, *handle, changed) {
                Ok(service) => guest.speaks = Speaks::Served(service),
                Err(e) => return self.fault(name, format!("no thread for the frontend: {e}")),
            }
        }
        if let Some(live) = self.ports.get_mut(name) {
            live.guest = Some(guest);
        }
        self.guest_changed(name);
    }

    /// The frontend of a port has come, or gone, or its driver is ready.
    pub(super) fn guest_changed(&mut self, name: &str) {
        let Some(live) = self.ports.get_mut(name) else {
            return;
        };
        let Some(guest) = &live.guest else {
            return;
        };
        // First: what changes from now on is told again.
        guest.told.store(false, Ordering::Relaxed);
        if let Some((state, message)) = guest.stands() {
            debug!(port = name, ?state, message, "the frontend of a port");
            (live.state, live.message) = (state, message);
        }
    }

    /// Tries ports again whose socket could not be made: nobody tells when it can.
    pub(super) fn retry_guests(&mut self) {
        let shut = |port: &&Port| {
            let live = self.ports.get(&port.name);
            let is_guest = matches!(port.device, Device::VhostUser { .. });
            is_guest && live.is_some_and(|p| p.state == PortState::Faulted && p.guest.is_none())
        };
        let again: Vec<Port> = self
            .model
            .state()
            .ports
            .values()
            .filter(shut)
            .cloned()
            .collect();
        for port in again {
            self.open_or_fault(&port);
            self.connect(&port.name);
        }
    }
}

fn socket_error(e: &SocketError) -> RpcError {
    let (code, hint) = match e {
        SocketError::Taken { .. } => (
            ErrorCode::Conflict,
            "remove what is there, or name another path",
        ),
        SocketError::System { .. } => (
            ErrorCode::Unavailable,
            "see whether the folder is there and podswitchd may write in it",
        ),
    };
    RpcError::new(code, e.to_string())
        .field("device.socket")
        .hint(hint)
}
