// SPDX-License-Identifier: Apache-2.0
//! Who looks after the workers that serve queues in zero-copy mode.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use podswitch_api::method::{Problem, Severity};
use podswitch_api::object::Device;
use podswitch_api::{ErrorCode, RpcError};
use podswitch_datapath::WorkerId;
use tracing::warn;

use super::Engine;
use super::health::problem;
use super::ports::kernel_error;
use crate::kernel::Kernel;
use crate::watchdog::Guard;

impl Engine {
    /// Has a worker watched, to be called before it is given such queues.
    pub(super) fn guard(&mut self, worker: WorkerId) -> Result<(), RpcError> {
        let mut workers = self.workers_to_guard();
        workers.insert(worker);
        self.guard_all(workers).map_err(|e| {
            let what = format!("no watchdog for queues in zero-copy mode: {e}");
            let hint = match e.kind() {
                io::ErrorKind::Unsupported => {
                    "run podswitchd under an init process (hostPID, shareProcessNamespace, or an init in the image), or have every queue copied"
                }
                _ => "have every queue copied, or see what keeps podswitchd from starting a process",
            };
            RpcError::new(ErrorCode::Unavailable, what)
                .field("device.zero_copy_queues")
                .hint(hint)
        })
    }

    /// Ends the watch over workers that serve no such queue any more.
    pub(super) fn settle_guard(&mut self) {
        let workers = self.workers_to_guard();
        if let Err(e) = self.guard_all(workers) {
            warn!(error = %e, "the watchdog watches more workers than it has to");
        }
    }

    /// NICs that the host has come to receive by on queues that were kept for the switch.
    pub(super) fn zero_copy_problems(&self, problems: &mut Vec<Problem>) {
        for (name, port) in &self.model.state().ports {
            let Device::Nic {
                interface,
                mode,
                vlan,
                zero_copy_queues: queues,
                zero_copy_shared: shared,
                ..
            } = &port.device
            else {
                continue;
            };
            let open = self.ports.get(name).is_some_and(|p| p.attached.is_some());
            if queues.is_empty() || !open {
                continue;
            }
            let checked = Kernel::find_nic(interface, *vlan, *mode)
                .and_then(|found| Kernel::check_zero_copy(&found, queues, *shared));
            if let Err(e) = checked {
                let e = kernel_error(&e);
                let hint = e.data.as_ref().and_then(|data| data.hint.as_deref());
                problems.push(problem(
                    Severity::Warning,
                    &format!("port {name}"),
                    &e.message,
                    hint.unwrap_or("have every queue copied"),
                ));
            }
        }
    }

    fn guard_all(&mut self, workers: BTreeSet<WorkerId>) -> io::Result<()> {
        let watched = self.guard.as_ref().map(Guard::workers);
        if watched.map_or(workers.is_empty(), |watched| *watched == workers) {
            return Ok(());
        }
        let beats = workers
            .iter()
            .map(|&id| Ok((id, self.switch.heartbeat(id)?)));
        let beats: Result<Vec<_>, podswitch_datapath::switch::SwitchError> = beats.collect();
        let beats = beats.map_err(io::Error::other)?;
        // The one before goes when the next is there.
        self.guard = match beats.is_empty() {
            true => None,
            false => {
                let limit = Duration::from_millis(self.config.xdp.watchdog_ms.into());
                Some(Guard::start(beats, limit)?)
            }
        };
        Ok(())
    }

    fn workers_to_guard(&self) -> BTreeSet<WorkerId> {
        let ports = self.model.state().ports.values();
        ports
            .filter(|port| !port.device.zero_copy_queues().is_empty())
            .filter_map(|port| self.ports.get(&port.name))
            .filter(|live| live.attached.is_some())
            .map(|live| live.worker)
            .collect()
    }
}
