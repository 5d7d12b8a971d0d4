// SPDX-License-Identifier: Apache-2.0
//! Processes of the node that come to ports of the node: led to pods where the node has a way to them, the host's port.

use std::path::Path;

use podswitch_api::desired::Delta;
use podswitch_api::method::{Problem, Severity, TeardownItem};
use podswitch_api::object::{Device, Object, Port};
use podswitch_host::cgroup;
use podswitch_state::store::OwnedInterface;
use tracing::{info, warn};

use super::Engine;
use super::health::problem;
use crate::host_ports;
use crate::kernel::sockets::{Attached, Wanted};
use crate::kernel::{KernelError, host};

/// What a control group with our programs is called among what is on the host.
const KIND: &str = "cgroup";

/// How sockets of the host are led.
#[derive(Default)]
pub(super) enum Sockets {
    /// Not at all: nobody asks for it.
    #[default]
    Left,
    /// By programs on a control group.
    Led(Box<Attached>),
    /// Why they could not be, or not as they should.
    Failed(String),
}

impl Engine {
    /// The same after a change, where that may matter to it.
    pub(super) fn settle_sockets_after(&mut self, delta: &Delta) {
        let matters = |object: &Option<Object>| match object {
            Some(Object::Port(port)) => {
                let is_nodes = matches!(port.device, Device::Nic { .. } | Device::Host { .. });
                is_nodes || !port.host_ports.is_empty()
            }
            _ => false,
        };
        let mut all = delta.differences.iter();
        if all.any(|d| matters(&d.before) || matters(&d.after)) {
            self.settle_sockets();
        }
    }

    /// Leads sockets of the host to pods as ports say now, or no longer.
    pub(super) fn settle_sockets(&mut self) {
        let wanted = self.sockets_wanted();
        self.sockets = match (std::mem::take(&mut self.sockets), wanted) {
            (_, None) => {
                self.leave_sockets(None);
                Sockets::Left
            }
            (Sockets::Led(mut attached), Some(wanted)) => match attached.follow(wanted) {
                Ok(()) => Sockets::Led(attached),
                Err(e) => failed(&e),
            },
            (Sockets::Left | Sockets::Failed(_), Some(wanted)) => self.lead_sockets(wanted),
        };
        let item = self.sockets_item();
        let hosts = self.model.state().ports.values();
        let host = hosts.into_iter().find(|p| p.device.is_host());
        if let Some(live) = host.and_then(|host| self.ports.get_mut(&host.name)) {
            live.on_host.retain(|item| item.kind != KIND);
            live.on_host.extend(item);
        }
    }

    /// What is on the host for it.
    pub(super) fn sockets_item(&self) -> Option<TeardownItem> {
        match &self.sockets {
            Sockets::Led(attached) => Some(host::item(KIND, attached.path().display())),
            Sockets::Left | Sockets::Failed(_) => None,
        }
    }

    fn lead_sockets(&mut self, wanted: Wanted) -> Sockets {
        let path = match &self.config.cgroup {
            Some(path) => Ok(path.clone()),
            None => cgroup::root(),
        };
        let led = path.map_err(KernelError::from).and_then(|path| {
            self.leave_sockets(Some(&path));
            self.note_cgroup(&path)?;
            self.kernel.lead_sockets(&path, wanted)
        });
        match led {
            Ok(attached) => {
                info!(cgroup = %attached.path().display(), "processes of the node are led to pods by ports of the node");
                Sockets::Led(Box::new(attached))
            }
            Err(e) => failed(&e),
        }
    }

    /// What leads sockets of the host; none where nothing is led, or the node has no way to pods.
    fn sockets_wanted(&self) -> Option<Wanted> {
        let ports = || self.model.state().ports.values();
        let host = ports().find(|p| p.device.is_host())?;
        let Device::Host { pods, .. } = &host.device else {
            return None;
        };
        let open = self.ports.get(&host.name)?.attached.is_some();
        let same = || ports().filter(|p| p.vrf == host.vrf);
        let led = same().flat_map(host_ports::leads);
        let reached = led.filter(|(_, to)| pods.iter().any(|net| net.contains(&to.ip())));
        let on_node = |p: &&Port| matches!(p.device, Device::Nic { .. } | Device::Host { .. });
        let facts = same()
            .filter(on_node)
            .filter_map(|p| self.nics.get(&p.name));
        let wanted = Wanted {
            led: reached.collect(),
            here: facts.flat_map(|f| f.addresses.iter().copied()).collect(),
        };
        (open && !wanted.led.is_empty()).then_some(wanted)
    }

    /// Notes a control group before something is put on it.
    fn note_cgroup(&mut self, path: &Path) -> Result<(), KernelError> {
        let note = OwnedInterface::unchanged(path.display().to_string(), 0);
        let noted = self.store.own(&[note]);
        noted.map_err(|e| KernelError::NotNoted(e.to_string()))
    }

    /// Takes our programs off every control group that is noted, but for this one.
    fn leave_sockets(&mut self, but: Option<&Path>) {
        let noted = match self.store.owned() {
            Ok(noted) => noted,
            Err(e) => {
                return warn!(error = %e, "it is not known which control group has our programs; teardown will look");
            }
        };
        let but = but.map(|path| path.display().to_string());
        let groups = noted.iter().filter(|o| o.name.starts_with('/'));
        for before in groups.filter(|o| Some(&o.name) != but.as_ref()) {
            self.put_back(before);
        }
    }

    /// What keeps processes of the node from pods.
    pub(super) fn socket_problems(&self, problems: &mut Vec<Problem>) {
        if let Sockets::Failed(why) = &self.sockets {
            problems.push(problem(
                Severity::Warning,
                "host ports",
                &format!("processes of the node do not reach pods by ports of the node: {why}"),
                "see `cgroup` in docs/configuration.md, and restart podswitchd",
            ));
        }
        let ports = || self.model.state().ports.values();
        let any = ports().any(|p| !p.host_ports.is_empty());
        if any && !ports().any(|p| p.device.is_host()) {
            problems.push(problem(
                Severity::Notice,
                "host ports",
                "processes of the node do not reach pods by ports of the node: it has no port of kind `host`",
                "add one if they are to (docs/control-protocol.md, the host's port)",
            ));
        }
    }
}

fn failed(e: &KernelError) -> Sockets {
    warn!(error = %e, "processes of the node are not led to pods by ports of the node");
    Sockets::Failed(e.to_string())
}
