// SPDX-License-Identifier: Apache-2.0
//! The switch: routed ports, sources checked, rules for both ends, connections tracked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use core_affinity::CoreId;
use podswitch_datapath::port::vhost::vhost_device;
use podswitch_datapath::switch::{
    Device, IdleConfig, MemoryPlan, PortSpec, Switch, SwitchConfig, WorkerConfig,
};
use podswitch_datapath::tables::{Action, Direction, Rule};
use podswitch_datapath::verdict::Reason;
use podswitch_datapath::wire::protocol;
use podswitch_datapath::{PortId, WorkerId};
use podswitch_vhost::{Endpoint, Meeting, Mode, Service};

use super::acl;
use super::side::Side;
use crate::traffic::{self, Family};

const MTU: u32 = 1500;

/// A switch with a socket for each of its ports.
pub(super) struct Whole {
    // The services first: they tell the switch that nothing is served any more.
    _services: Vec<Service>,
    switch: Switch,
    sockets: Vec<PathBuf>,
    /// Frames that it had dropped before it was measured.
    dropped: BTreeMap<&'static str, u64>,
}

impl Whole {
    /// With so many ports, and room for so many connections.
    ///
    /// # Panics
    /// When a port cannot be made.
    pub(super) fn new(
        folder: &Path,
        core: CoreId,
        ports: usize,
        flows: u32,
        idle: IdleConfig,
    ) -> Whole {
        let usual = SwitchConfig::default();
        let config = SwitchConfig {
            workers: vec![WorkerConfig {
                core: Some(core.id),
                require_core: true,
            }],
            idle,
            memory: MemoryPlan {
                ports_per_arena: Some(ports as u32),
                chunks_per_port: None,
            },
            // Of a table that is full some find no place.
            flow_entries: usual.flow_entries.max(2 * flows as usize),
            // TCP begins in the middle of its connections.
            joins_for: Duration::from_secs(24 * 3600),
            ..usual
        };
        let mut switch = Switch::start(config, traffic::empty_tables()).expect("a switch");
        describe(&mut switch, ports);
        let (mut services, mut sockets) = (Vec::new(), Vec::new());
        for pod in 0..ports {
            let path = folder.join(format!("port-{pod}"));
            let (handle, device) = vhost_device().expect("eventfds");
            let spec = PortSpec {
                worker: Some(WorkerId(0)),
                mtu: MTU,
                device: Device::Vhost(device),
                faults: None,
            };
            let added = switch.add_port(PortId(pod as u16), spec);
            added.expect("a port");
            let endpoint = Endpoint {
                path: path.clone(),
                mode: Mode::Server,
                gid: None,
            };
            let meeting = Meeting::open(&endpoint).expect("a socket");
            let service = Service::start("bench", meeting, 1, handle, || ());
            services.push(service.expect("a thread"));
            sockets.push(path);
        }
        Whole {
            _services: services,
            switch,
            sockets,
            dropped: BTreeMap::new(),
        }
    }

    /// With two ports. It sleeps while others run, however long waking takes here.
    ///
    /// # Panics
    /// When a port cannot be made.
    pub(super) fn pair(folder: &Path, core: CoreId, flows: u32) -> Whole {
        let idle = IdleConfig {
            latency: Duration::from_secs(3600),
            ..IdleConfig::default()
        };
        Whole::new(folder, core, 2, flows, idle)
    }

    /// The socket of each port.
    pub(super) fn ports(&self) -> &[PathBuf] {
        &self.sockets
    }

    /// By reason. What is lost for want of room at the receiver is no verdict.
    fn drops(&mut self) -> BTreeMap<&'static str, u64> {
        let drops = self.switch.counters().drops;
        let reasons = Reason::ALL.iter().zip(drops);
        let verdicts =
            reasons.filter(|(reason, drops)| **reason != Reason::TxQueueFull && *drops > 0);
        verdicts
            .map(|(reason, drops)| (reason.name(), drops))
            .collect()
    }
}

impl Side for Whole {
    fn names(&self) -> &'static [&'static str] {
        &["switch"]
    }

    fn sockets(&self) -> [&Path; 2] {
        [&self.sockets[0], &self.sockets[1]]
    }

    /// It rests by itself.
    fn run(&self, _on: bool) {}

    fn routes(&self) -> bool {
        true
    }

    fn begin(&mut self, _flows: u32) {
        self.dropped = self.drops();
    }

    fn end(&mut self) {
        let drops = self.drops();
        assert_eq!(drops, self.dropped, "the switch judges frames");
    }
}

/// Everything is denied but what a rule allows: for each port and direction as many as OVS has, and the last ones allow what the machines send.
fn describe(switch: &mut Switch, ports: usize) {
    let mut edit = switch.edit();
    for pod in 0..ports {
        edit.set_port(traffic::port(pod, MTU, Action::Deny));
        for direction in [Direction::Egress, Direction::Ingress] {
            for rule in rules() {
                edit.set_rule(PortId(pod as u16), direction, rule);
            }
        }
    }
    traffic::publish(switch, edit);
}

fn rules() -> impl Iterator<Item = Rule> {
    let last = [protocol::UDP, protocol::TCP];
    let others = (0..acl::RULES - last.len()).map(|n| {
        let (peer, port) = acl::other(n);
        (Some(peer), protocol::UDP, port..=port)
    });
    let sender = traffic::address(0, Family::V4);
    let last = last.map(|protocol| (Some(sender), protocol, acl::SERVICES));
    others
        .chain(last)
        .enumerate()
        .map(|(n, (source, protocol, ports))| Rule {
            name: format!("rule-{n}"),
            priority: n as u32,
            source: source.map(Into::into),
            destination: None,
            protocol: Some(protocol),
            ports: Some(ports),
            action: Action::Allow,
        })
}
