// SPDX-License-Identifier: Apache-2.0
//! Ports of virtual machines and of DPDK programs: their frontends come and go while the port keeps its place.

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
pub(super) enum Guest {
    /// Nobody does before the tables know the port.
    Bound(Meeting, Box<VhostHandle>),
    /// A thread does.
    Served(Service),
}

impl Guest {
    /// What the driver agreed on.
    pub(super) fn features(&self) -> Vec<String> {
        match self {
            Guest::Served(service) => match service.state() {
                State::Connected { features, .. } => {
                    feature::names(features).map(str::to_owned).collect()
                }
                State::Waiting | State::Faulted(_) => Vec::new(),
            },
            Guest::Bound(..) => Vec::new(),
        }
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
            socket, mode, gid, ..
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
            live.guest = Some(Guest::Bound(meeting, Box::new(handle)));
        }
        Ok(())
    }

    /// Begins to speak with a port's frontend, once the tables know the port.
    pub(super) fn serve_guest(&mut self, name: &str) {
        let Some(live) = self.ports.get_mut(name) else {
            return;
        };
        let (meeting, handle) = match live.guest.take() {
            Some(Guest::Bound(meeting, handle)) => (meeting, handle),
            other => return live.guest = other,
        };
        let Some(Port {
            device: Device::VhostUser { queues, .. },
            ..
        }) = self.model.state().ports.get(name)
        else {
            return;
        };
        let (tasks, port) = (self.tasks.clone(), name.to_owned());
        let changed = move || {
            // An engine that has ended needs to know nothing.
            let _ = tasks.send(Task::Guest(port.clone()));
        };
        match Service::start(name, meeting, *queues, *handle, changed) {
            Ok(service) => live.guest = Some(Guest::Served(service)),
            Err(e) => return self.fault(name, format!("no thread for the frontend: {e}")),
        }
        self.guest_changed(name);
    }

    /// The frontend of a port has come, or gone, or its driver is ready.
    pub(super) fn guest_changed(&mut self, name: &str) {
        let (Some(live), Some(port)) =
            (self.ports.get_mut(name), self.model.state().ports.get(name))
        else {
            return;
        };
        let (Some(Guest::Served(service)), Device::VhostUser { socket, mode, .. }) =
            (&live.guest, &port.device)
        else {
            return;
        };
        let state = service.state();
        debug!(port = name, ?state, "the frontend of a port");
        (live.state, live.message) = match (state, mode) {
            (State::Connected { ready: true, .. }, _) => (PortState::Up, None),
            (State::Connected { .. }, _) => {
                let what = "a frontend is connected, and its driver is not ready";
                (PortState::Down, Some(what.to_owned()))
            }
            (State::Waiting, SocketMode::Server) => {
                let what = format!("no frontend is connected to {socket}");
                (PortState::Down, Some(what))
            }
            (State::Waiting, SocketMode::Client) => {
                let what = format!("no frontend listens at {socket}");
                (PortState::Down, Some(what))
            }
            (State::Faulted(why), _) => {
                let what = format!("the connection to its frontend was ended: {why}");
                (PortState::Faulted, Some(what))
            }
        };
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
