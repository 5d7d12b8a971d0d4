// SPDX-License-Identifier: Apache-2.0
//! The switch as control sees it: workers, ports, tables, counters.
//!
//! All methods are for one thread. None waits for a worker longer than [`SwitchConfig::answer_within`], and none stops
//! one: a worker answers between two turns, and takes new tables at the beginning of a turn.
#![forbid(unsafe_code)]

mod closing;
mod config;
mod error;
mod handle;
mod memory;
mod start;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use config::{Device, IdleConfig, MemoryPlan, Mode, PortSpec, SwitchConfig, WorkerConfig};
pub use error::SwitchError;

pub use crate::worker::health::{Heartbeat, Pinning, Waiting, WorkerCycles, WorkerHealth};

use crate::counters::{Baseline, Counters, WorkerCounters};
use crate::events::{MissReader, Refusal};
use crate::frame::{Arena, Audit};
use crate::ids::{MAX_PORTS, PolicyRuleId, PortId, WorkerId};
use crate::port::vhost::VhostPort;
use crate::port::xdp::{KernelDrops, NicPlan, PortPlan, Queue, XdpConfig, XdpError, XdpHandle};
use crate::port::{FaultPort, MemoryPort, NicPort, PcapPort, PcapStatus, Port, TapPort};
use crate::publish::Publisher;
use crate::stage::LearnedEntry;
use crate::tables::{Edit, Tables};
use crate::worker::Worker;
use crate::worker::mailbox::Request;
use closing::Closer;
pub(crate) use closing::Closing;
use handle::Handle;
use memory::{Plot, Share};

/// A port of the switch.
struct Record {
    worker: WorkerId,
    arena: Arc<Arena>,
    share: Share,
    watch: Watch,
}

/// What control can look at while a port runs.
#[derive(Default)]
struct Watch {
    xdp: Vec<XdpHandle>,
    pcap: Option<PcapStatus>,
}

/// A port that was added.
#[derive(Debug)]
#[non_exhaustive]
pub struct AddedPort {
    /// The worker that serves it.
    pub worker: WorkerId,
    /// The sockets of an AF_XDP port, one for each queue, from 0 on: put them into the steering program's map, and the frames come.
    pub xdp: Vec<XdpHandle>,
}

/// A port as [`Switch::ports`] shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortState {
    /// Its number.
    pub id: PortId,
    /// The worker that serves it.
    pub worker: WorkerId,
    /// What is wrong with it, if something is: a recording that has stopped.
    pub trouble: Option<String>,
}

/// Learned addresses of all workers, a page of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LearnedPage {
    /// Each with the worker that learned it: workers learn what they see for themselves.
    pub entries: Vec<(WorkerId, LearnedEntry)>,
    /// Where the next page begins; absent on the last one.
    pub next: Option<LearnedCursor>,
}

/// A place among the learned addresses. What is learned or forgotten meanwhile may be missed or come twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LearnedCursor {
    worker: usize,
    entry: usize,
}

/// A running switch. Dropping it stops the workers; see [`Switch::stop`].
pub struct Switch {
    config: SwitchConfig,
    workers: Vec<Handle>,
    inline: Vec<Worker>,
    ports: BTreeMap<PortId, Record>,
    baseline: Baseline,
    closer: Closer,
    publisher: Publisher<Tables>,
    misses: MissReader,
}

impl Switch {
    /// Starts the workers with `tables` and no ports.
    ///
    /// # Errors
    /// When a worker cannot be made, or has to stay on a core and cannot; those already started are stopped.
    pub fn start(config: SwitchConfig, tables: Tables) -> Result<Switch, SwitchError> {
        let mut publisher = Publisher::new(tables);
        let misses = MissReader::new()
            .map_err(|source| start::start_error(WorkerId(0), "eventfd", source))?;
        let (workers, inline) = start::start(&config, &mut publisher, &misses)?;
        let mut switch = Switch {
            config,
            workers,
            inline,
            ports: BTreeMap::new(),
            baseline: Baseline::default(),
            closer: Closer::new(),
            publisher,
            misses,
        };
        switch.prepare_rules(None);
        Ok(switch)
    }

    fn worker(&self, id: WorkerId) -> Result<&Handle, SwitchError> {
        self.workers
            .get(id.index())
            .ok_or(SwitchError::NoWorker(id))
    }

    /// Leaves a request with a worker and waits for the answer.
    fn ask<T>(
        &mut self,
        id: WorkerId,
        request: impl FnOnce(crossbeam_channel::Sender<T>) -> Request,
    ) -> Result<T, SwitchError> {
        let pending = self.worker(id)?.post(request)?;
        self.answer(pending)
    }

    fn answer<T>(&mut self, pending: handle::Pending<T>) -> Result<T, SwitchError> {
        if let Some(worker) = self.inline.get_mut(pending.worker.index()) {
            worker.turn();
        }
        pending.wait(self.config.answer_within)
    }

    /// Leaves a request with every worker and waits for the answers.
    fn ask_all<T>(
        &mut self,
        request: impl Fn(crossbeam_channel::Sender<T>) -> Request,
    ) -> Result<Vec<(WorkerId, T)>, SwitchError> {
        let pending: Vec<_> = self.workers.iter().map(|w| w.post(&request)).collect();
        let answer = |pending: Result<handle::Pending<T>, SwitchError>| {
            let pending = pending?;
            Ok((pending.worker, self.answer(pending)?))
        };
        pending.into_iter().map(answer).collect()
    }

    /// Opens a device and gives it to a worker. The tables learn of the port separately ([`Switch::publish`]); until they
    /// do, its frames are dropped.
    ///
    /// # Errors
    /// When the number is in use or too large, the worker does not exist or does not answer, or the device or its memory
    /// cannot be made.
    pub fn add_port(&mut self, id: PortId, spec: PortSpec) -> Result<AddedPort, SwitchError> {
        if id.index() >= MAX_PORTS {
            return Err(SwitchError::PortNumber(id));
        }
        if self.ports.contains_key(&id) {
            return Err(SwitchError::PortExists(id));
        }
        let waited = self.config.answer_within;
        if !self.closer.wait(id, waited) {
            return Err(SwitchError::PortClosing { port: id, waited });
        }
        let worker = spec.worker.unwrap_or_else(|| self.least_loaded());
        let share = Share::of(&self.config.memory, &spec);
        let plot = self.plot_for(worker, share)?;
        let (port, watch) = open(id, spec, &mut self.workers[worker.index()].plots[plot])?;
        let arena = port.arena().clone();
        for handle in &self.workers {
            handle.counters.prepare_port(id);
        }
        self.baseline.begin_port(id, counters(&self.workers));
        match self.ask(worker, |answer| {
            Request::AddPort(id, Box::new(port), answer)
        }) {
            Ok(Ok(())) => {}
            Ok(Err(source)) => return Err(SwitchError::Wait { port: id, source }),
            Err(error) => {
                // Should the worker come back, it takes the port and gives it up at once.
                if let Ok(handle) = self.worker(worker) {
                    let _ = handle.post(|answer| Request::RemovePort(id, answer));
                }
                return Err(error);
            }
        }
        self.workers[worker.index()].plots[plot].take(share);
        let added = AddedPort {
            worker,
            xdp: watch.xdp.clone(),
        };
        let record = Record {
            worker,
            arena,
            share,
            watch,
        };
        self.ports.insert(id, record);
        Ok(added)
    }

    fn least_loaded(&self) -> WorkerId {
        let load = |id| self.ports.values().filter(|r| r.worker == id).count();
        let ids = self.workers.iter().map(|w| w.id);
        ids.min_by_key(|&id| load(id)).unwrap_or_default()
    }

    /// Which arena of the worker has room for a port; one is made when none has.
    fn plot_for(&mut self, worker: WorkerId, share: Share) -> Result<usize, SwitchError> {
        let handle = self.worker(worker)?;
        if let Some(at) = handle.plots.iter().position(|p| p.has_room(share)) {
            return Ok(at);
        }
        let earlier = handle.plots.iter().filter(|p| !p.alone).count();
        let chunks = share.next_arena(&self.config.memory, earlier);
        let arena = Arena::new(worker, chunks).map_err(|source| SwitchError::Memory {
            worker,
            chunks,
            source,
        })?;
        let arena = Arc::new(arena);
        self.ask(worker, |answer| Request::AddArena(arena.clone(), answer))?;
        let plots = &mut self.workers[worker.index()].plots;
        plots.push(Plot::new(arena, share.alone, self.config.features));
        Ok(plots.len() - 1)
    }

    /// Takes a port away from its worker and closes it. Publish tables without the port first: when this returns, no
    /// worker has a frame for it that those tables would not have sent. The device is ended in the background.
    ///
    /// # Errors
    /// When there is no such port, or a worker does not answer; the port then is still there.
    pub fn remove_port(&mut self, id: PortId) -> Result<(), SwitchError> {
        let owner = self.ports.get(&id).ok_or(SwitchError::NoPort(id))?.worker;
        let others: Vec<WorkerId> = self.workers.iter().map(|w| w.id).collect();
        let mut pending = Vec::new();
        for other in others.into_iter().filter(|&other| other != owner) {
            pending.push(
                self.worker(other)?
                    .post(|answer| Request::Forget(id, answer))?,
            );
        }
        for pending in pending {
            self.answer(pending)?;
        }
        let closed = self.ask(owner, |answer| Request::RemovePort(id, answer))?;
        self.baseline.end_port(id);
        let handle = &mut self.workers[owner.index()];
        if let Some(record) = self.ports.remove(&id) {
            let mut plots = handle.plots.iter_mut();
            if let Some(plot) = plots.find(|p| Arc::ptr_eq(&p.arena, &record.arena)) {
                plot.give_back(record.share);
            }
        }
        if let Some(closed) = closed {
            self.closer.close(id, closed, handle.mailbox.clone());
        }
        Ok(())
    }

    /// Every port.
    pub fn ports(&self) -> Vec<PortState> {
        let state = |(&id, record): (&PortId, &Record)| PortState {
            id,
            worker: record.worker,
            trouble: record.trouble(),
        };
        self.ports.iter().map(state).collect()
    }

    /// How a capture port is doing; absent for other ports.
    pub fn pcap_status(&self, id: PortId) -> Option<&PcapStatus> {
        self.ports.get(&id)?.watch.pcap.as_ref()
    }

    /// What the kernel has dropped at an AF_XDP port's sockets since they were opened; absent for other ports, and once
    /// they are closed. A system call for each.
    ///
    /// # Errors
    /// When there is no such port, or the kernel does not tell.
    pub fn kernel_drops(&self, id: PortId) -> Result<Option<KernelDrops>, SwitchError> {
        let record = self.ports.get(&id).ok_or(SwitchError::NoPort(id))?;
        let mut sum: Option<KernelDrops> = None;
        for socket in record.watch.xdp.iter().filter_map(XdpHandle::socket) {
            let drops = socket.kernel_drops();
            let drops = drops.map_err(|source| SwitchError::Statistics { port: id, source })?;
            sum = Some(sum.unwrap_or_default().plus(&drops));
        }
        Ok(sum)
    }

    /// The tables published last.
    pub fn tables(&self) -> &Tables {
        self.publisher.current()
    }

    /// An edit of the tables published last, to be built and published.
    pub fn edit(&self) -> Edit {
        Edit::new(self.publisher.current(), self.publisher.oldest())
    }

    /// Gives all workers new tables. Never waits: each worker has them at its next turn; those that sleep are woken. The
    /// old ones are left to [`Switch::reclaim`] unless many wait for it.
    pub fn publish(&mut self, tables: Tables) {
        self.prepare_rules(Some(&tables));
        self.prepare_tunnels(&tables);
        self.publisher.publish(tables);
        for handle in &self.workers {
            handle.mailbox.knock();
        }
    }

    /// Frees the old tables that no worker uses any more.
    pub fn reclaim(&mut self) {
        self.publisher.reclaim();
    }

    /// Waits until every worker has the tables published last: what it receives from now on meets these or newer ones.
    ///
    /// # Errors
    /// When a worker does not answer; it has them all the same once it runs.
    pub fn wait_for_tables(&mut self) -> Result<(), SwitchError> {
        self.ask_all(Request::Pass).map(drop)
    }

    /// Makes room for the counters of tunnels that are new in `next`: ports without a device, which nobody adds.
    fn prepare_tunnels(&mut self, next: &Tables) {
        let present = self.publisher.current();
        let is_one = |id| present.port(id).is_some_and(|port| port.tunnel().is_some());
        let new: Vec<PortId> = next.tunnels().filter(|id| !is_one(*id)).collect();
        for id in new {
            for handle in &self.workers {
                handle.counters.prepare_port(id);
            }
            self.baseline.begin_port(id, counters(&self.workers));
        }
    }

    /// Makes room for the counters of rules that are new in `next` (or in the present tables at the start).
    fn prepare_rules(&mut self, next: Option<&Tables>) {
        let present = self.publisher.current();
        let added = match next {
            Some(next) => next.added_rule_ids(present),
            None => present.rule_ids().collect(),
        };
        for id in added {
            for handle in &self.workers {
                handle.counters.prepare_rule(id);
            }
            self.baseline.begin_rule(id, counters(&self.workers));
        }
    }

    /// Makes room for the counters of a policy rule, which begin anew; to be done before tables with it are published.
    pub fn begin_policy_rule(&mut self, id: PolicyRuleId) {
        for handle in &self.workers {
            handle.counters.prepare_policy_rule(id);
        }
        self.baseline.begin_policy_rule(id, counters(&self.workers));
    }

    /// Samples of what the workers have refused since they were asked last, at most `most`. Never waits.
    pub fn refusals(&self, most: usize) -> Vec<Refusal> {
        let all = self.workers.iter().flat_map(|w| w.refused.try_iter());
        all.take(most).collect()
    }

    /// Where the workers tell for which neighbors packets wait. All such ends read from one queue.
    pub fn misses(&self) -> MissReader {
        self.misses.clone()
    }

    /// Everything counted, over all workers; of each port and rule since it was added.
    pub fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        for worker in counters(&self.workers) {
            sum.add(worker);
        }
        self.baseline.apply(&mut sum);
        sum
    }

    /// Where the chunks of each worker's arenas are; each worker looks at all its chunks for it (some 100 microseconds
    /// for 100,000).
    ///
    /// # Errors
    /// When a worker does not answer.
    pub fn audit(&mut self) -> Result<Vec<(WorkerId, Vec<Audit>)>, SwitchError> {
        self.ask_all(Request::Audit)
    }

    /// Up to `most` learned addresses from a place on; from the first on without one.
    ///
    /// # Errors
    /// When a worker does not answer.
    pub fn learned(
        &mut self,
        from: Option<LearnedCursor>,
        most: usize,
    ) -> Result<LearnedPage, SwitchError> {
        let mut at = from.unwrap_or_default();
        let mut page = LearnedPage::default();
        while let Some(id) = self.workers.get(at.worker).map(|w| w.id) {
            let room = most - page.entries.len();
            if room == 0 {
                page.next = Some(at);
                break;
            }
            let request = |answer| Request::Learned(at.entry, room, answer);
            let (entries, next) = self.ask(id, request)?;
            page.entries.extend(entries.into_iter().map(|e| (id, e)));
            at = match next {
                Some(entry) => LearnedCursor { entry, ..at },
                None => LearnedCursor {
                    worker: at.worker + 1,
                    entry: 0,
                },
            };
        }
        Ok(page)
    }

    /// How every worker is doing.
    pub fn workers(&self) -> Vec<WorkerHealth> {
        let ports = |id| self.ports.values().filter(|r| r.worker == id).count();
        self.workers.iter().map(|w| w.health(ports(w.id))).collect()
    }

    /// For looking after a worker from another thread.
    ///
    /// # Errors
    /// When there is no such worker.
    pub fn heartbeat(&self, id: WorkerId) -> Result<Heartbeat, SwitchError> {
        Ok(self.worker(id)?.heartbeat())
    }

    /// Frees what is no longer used: old tables, arenas without ports. For now and then, a second apart or so.
    ///
    /// # Errors
    /// When a worker does not answer.
    pub fn tidy(&mut self) -> Result<(), SwitchError> {
        self.reclaim();
        for at in 0..self.workers.len() {
            let id = self.workers[at].id;
            let empty = |p: &Plot| p.ports == 0;
            let Some(plot) = self.workers[at].plots.iter().position(empty) else {
                continue;
            };
            let arena = self.workers[at].plots[plot].arena.clone();
            if self.ask(id, |answer| Request::RemoveArena(arena, answer))? {
                self.workers[at].plots.swap_remove(plot);
            }
        }
        Ok(())
    }

    /// Whether every port that was removed is closed for good.
    pub fn all_closed(&self) -> bool {
        self.closer.is_idle()
    }

    /// [`Mode::Inline`]: one turn of every worker; false when none had anything to do.
    pub fn turn(&mut self) -> bool {
        self.inline
            .iter_mut()
            .fold(false, |worked, worker| worker.turn() | worked)
    }

    /// Stops the workers and closes the ports. What steers frames to them stays as it is.
    pub fn stop(self) {}
}

impl Drop for Switch {
    fn drop(&mut self) {
        // All are told before the first is waited for.
        for handle in &self.workers {
            handle.mailbox.stop();
        }
    }
}

impl Record {
    fn trouble(&self) -> Option<String> {
        let record = self.watch.pcap.as_ref()?.record()?;
        record.failed().map(str::to_owned)
    }
}

fn counters(workers: &[Handle]) -> impl Iterator<Item = &WorkerCounters> {
    workers.iter().map(|w| &*w.counters)
}

/// Opens a port's device.
fn open(id: PortId, spec: PortSpec, plot: &mut Plot) -> Result<(Port, Watch), SwitchError> {
    let mut watch = Watch::default();
    let port = match spec.device {
        Device::Xdp { queue, superframes } => {
            let mut config = XdpConfig::new(id, queue, PortPlan::new(spec.mtu));
            config.superframes = superframes;
            let port = plot.umem.open(&config);
            let port = port.map_err(|source| SwitchError::Xdp { port: id, source })?;
            watch.xdp = vec![port.handle()];
            Port::Xdp(Box::new(port))
        }
        Device::Nic {
            interface,
            queues,
            zero_copy,
            local_sender,
            vlan,
        } => {
            let plan = NicPlan::new(queues, &zero_copy);
            let nic = |queue| XdpConfig {
                wire: true,
                joins_segments: queue == plan.sender,
                local_sender,
                vlan,
                zero_copy: zero_copy.contains(&queue),
                ..XdpConfig::new(id, Queue { interface, queue }, plan.of(queue))
            };
            let port = open_nic(&plan, nic, plot);
            let port = port.map_err(|source| SwitchError::Xdp { port: id, source })?;
            watch.xdp = port.handles();
            Port::Nic(Box::new(port))
        }
        Device::Tap {
            tap,
            interface,
            wire,
        } => {
            let backlog = PortPlan::new(spec.mtu).backlog;
            let port = TapPort::open(tap, plot.arena.clone(), interface, wire, backlog);
            let port = port.map_err(|source| SwitchError::Tap { port: id, source })?;
            Port::Tap(Box::new(port))
        }
        Device::Vhost(device) => {
            let backlog = PortPlan::new(spec.mtu).backlog;
            let port = VhostPort::open(device, plot.arena.clone(), backlog);
            let port = port.map_err(|source| SwitchError::Vhost { port: id, source })?;
            Port::Vhost(Box::new(port))
        }
        Device::Memory(device) => Port::Memory(MemoryPort::new(device, plot.arena.clone())),
        Device::Pcap(files) => {
            let port = PcapPort::open(&files, plot.arena.clone());
            let port = port.map_err(|source| SwitchError::Pcap { port: id, source })?;
            watch.pcap = Some(port.status());
            Port::Pcap(Box::new(port))
        }
    };
    Ok(match spec.faults {
        Some(plan) => (Port::Fault(Box::new(FaultPort::new(port, plan))), watch),
        None => (port, watch),
    })
}

/// Opens all queues of a NIC, or none, each as `nic` says.
fn open_nic(
    plan: &NicPlan,
    nic: impl Fn(u32) -> XdpConfig,
    plot: &mut Plot,
) -> Result<NicPort, XdpError> {
    let queues = 0..plan.queues;
    let queues: Result<Vec<_>, _> = queues.map(|queue| plot.umem.open(&nic(queue))).collect();
    Ok(NicPort::new(queues?, plan.sender).expect("a plan's sender is one of its queues"))
}
