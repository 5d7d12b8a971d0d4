// SPDX-License-Identifier: Apache-2.0
//! The two that are compared: the switch, and dpdk-testpmd, which moves every packet to the other port and looks at none.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use core_affinity::CoreId;
use nix::sys::signal::Signal;
use podswitch_datapath::port::vhost::vhost_device;
use podswitch_datapath::switch::{
    Device, IdleConfig, MemoryPlan, PortSpec, Switch, SwitchConfig, WorkerConfig,
};
use podswitch_datapath::{PortId, WorkerId};
use podswitch_tests::programs::Running;
use podswitch_vhost::{Endpoint, Meeting, Mode, Service};

use crate::traffic;

/// Where this many pages of 2 MiB are set aside for a program of DPDK's, and how many it needs.
const HUGE: &str = "/proc/sys/vm/nr_hugepages";
const PAGES: u32 = 160;

/// A forwarder between two sockets.
pub(super) trait Side {
    /// The sockets at which it listens.
    fn sockets(&self) -> [&Path; 2];
    /// Lets it run, or rest.
    fn run(&self, on: bool);
}

fn sockets(folder: &Path) -> [PathBuf; 2] {
    ["a", "b"].map(|name| folder.join(name))
}

/// The switch: two routed ports, sources checked, 16 rules a port and direction, connections tracked.
pub(super) struct Whole {
    // The services first: they tell the switch that nothing is served any more.
    _services: Vec<Service>,
    switch: Switch,
    sockets: [PathBuf; 2],
}

impl Whole {
    /// # Panics
    /// When a port cannot be made.
    pub(super) fn new(folder: &Path, core: CoreId, mtu: u32) -> Whole {
        let config = SwitchConfig {
            workers: vec![WorkerConfig {
                core: Some(core.id),
                require_core: true,
            }],
            // It sleeps while the other one runs, however long waking takes here.
            idle: IdleConfig {
                latency: Duration::from_secs(3600),
                ..IdleConfig::default()
            },
            memory: MemoryPlan {
                ports_per_arena: Some(2),
                chunks_per_port: None,
            },
            ..SwitchConfig::default()
        };
        let mut switch = Switch::start(config, traffic::empty_tables()).expect("a switch");
        traffic::describe_pods(&mut switch, 2, mtu);
        let sockets = sockets(folder);
        let mut services = Vec::new();
        for (pod, path) in sockets.iter().enumerate() {
            let (handle, device) = vhost_device().expect("eventfds");
            let spec = PortSpec {
                worker: Some(WorkerId(0)),
                mtu,
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
        }
        Whole {
            _services: services,
            switch,
            sockets,
        }
    }

    /// Frames that it has dropped so far.
    pub(super) fn drops(&mut self) -> u64 {
        self.switch.counters().drops.iter().sum()
    }
}

impl Side for Whole {
    fn sockets(&self) -> [&Path; 2] {
        [&self.sockets[0], &self.sockets[1]]
    }

    /// It rests by itself.
    fn run(&self, _on: bool) {}
}

/// dpdk-testpmd in mode `io`, between two devices of its vhost driver.
pub(super) struct Testpmd {
    running: Running,
    sockets: [PathBuf; 2],
    pages: Option<u32>,
}

impl Testpmd {
    /// On a core of its own; its main thread, which only waits, is on the other one.
    ///
    /// # Panics
    /// When it cannot be started.
    pub(super) fn new(folder: &Path, main: CoreId, core: CoreId) -> Testpmd {
        let sockets = sockets(folder);
        let pages = set_aside();
        let memory: &[&str] = match pages {
            Some(_) => &["--in-memory", "-m", "256"],
            None => &["--no-huge", "--no-shconf", "-m", "256"],
        };
        let mut command = Command::new("dpdk-testpmd");
        command
            .arg("--lcores")
            .arg(format!("0@{},1@{}", main.id, core.id))
            .args(["--no-pci", "--no-telemetry"])
            .args(memory);
        for (n, path) in sockets.iter().enumerate() {
            let device = format!("net_vhost{n},iface={},queues=1", path.display());
            command.args(["--vdev", &device]);
        }
        command
            .args(["--", "--forward-mode=io", "--auto-start", "--nb-cores=1"])
            .args(["--total-num-mbufs=32768", "--no-lsc-interrupt"])
            // It ends when its input does.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Testpmd {
            running: Running::start(&mut command),
            sockets,
            pages,
        }
    }

    /// Whether its buffers are in huge pages, as it wants them.
    pub(super) fn has_huge_pages(&self) -> bool {
        self.pages.is_some()
    }
}

impl Side for Testpmd {
    fn sockets(&self) -> [&Path; 2] {
        [&self.sockets[0], &self.sockets[1]]
    }

    fn run(&self, on: bool) {
        self.running.signal(match on {
            true => Signal::SIGCONT,
            false => Signal::SIGSTOP,
        });
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        self.running.signal(Signal::SIGKILL);
        let _ = self.running.wait(Duration::from_secs(20));
        if let Some(before) = self.pages {
            let _ = std::fs::write(HUGE, before.to_string());
        }
    }
}

/// Sets huge pages aside; how many there were, or none where there is no room for them.
fn set_aside() -> Option<u32> {
    let number = || {
        std::fs::read_to_string(HUGE)
            .ok()?
            .trim()
            .parse::<u32>()
            .ok()
    };
    let before = number()?;
    let wanted = before + PAGES;
    std::fs::write(HUGE, wanted.to_string()).ok()?;
    if number() == Some(wanted) {
        return Some(before);
    }
    let _ = std::fs::write(HUGE, before.to_string());
    None
}
