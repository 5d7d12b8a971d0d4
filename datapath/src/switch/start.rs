// SPDX-License-Identifier: Apache-2.0
//! Making the workers: rings between all of them, their memory, their threads.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use super::{Handle, IdleConfig, Mode, SwitchConfig, SwitchError, WorkerConfig};
use crate::counters::WorkerCounters;
use crate::events::{MissReader, refusals};
use crate::flow::{Bindings, FlowTable, Fragments, Nat, random_seed};
use crate::handoff::{self, Incoming, Outgoing};
use crate::ids::{MAX_WORKERS, WorkerId};
use crate::publish::Publisher;
use crate::stage::{Learned, RateLimiter};
use crate::tables::Tables;
use crate::worker::clock::{Clock, cycles};
use crate::worker::health::{Pinning, Stats, Waiting};
use crate::worker::mailbox::{Mailbox, Request, mailbox};
use crate::worker::peers::{Peer, Peers};
use crate::worker::sleep::Waker;
use crate::worker::{Parts, Worker};

/// How often the wake-up latency is measured.
const WAKES: usize = 9;

/// The workers' handles, and the workers themselves when they have no threads.
pub(super) fn start(
    config: &SwitchConfig,
    publisher: &mut Publisher<Tables>,
    misses: &MissReader,
) -> Result<(Vec<Handle>, Vec<Worker>), SwitchError> {
    let count = config.workers.len();
    if count == 0 || count > MAX_WORKERS {
        return Err(SwitchError::Workers(count));
    }
    let ids: Vec<WorkerId> = (0..count).map(|i| WorkerId(i as u8)).collect();
    let wakers = wakers(&ids)?;
    let mut handles: Vec<Handle> = Vec::new();
    let mut inline = Vec::new();
    let counters: Vec<_> = ids
        .iter()
        .map(|_| Arc::<WorkerCounters>::default())
        .collect();
    let mut nat = nat(config, &ids)?.into_iter();
    for (peers, &id) in peers(&ids, &wakers, &counters, config.handoff_frames)
        .into_iter()
        .zip(&ids)
    {
        let wanted = config.workers[id.index()];
        let waker = wakers[id.index()].clone();
        let (mailbox, inbox) = mailbox(waker.clone());
        let counters = counters[id.index()].clone();
        let stats = Arc::new(Stats::default());
        let seed = || random_seed().map_err(|source| start_error(id, "random seed", source));
        let (refusals, refused) = refusals();
        let parts = Parts {
            id,
            tables: publisher.reader(),
            flows: flow_table(config, id, seed()?)?,
            fragments: Fragments::new(config.fragment_entries, seed()?),
            nat: nat.next().ok_or(SwitchError::Workers(count))?,
            refusals,
            misses: misses.worker(),
            joins_for: config.joins_for,
            fdb: Learned::new(config.fdb_entries, seed()?),
            icmp: RateLimiter::new(config.icmp_errors),
            peers,
            counters: counters.clone(),
            stats: stats.clone(),
            inbox,
            waker,
            idle: config.idle,
            kicks: config.kicks_per_turn,
        };
        let worker = Worker::new(parts).map_err(|source| start_error(id, "epoll", source))?;
        let mut handle = Handle {
            id,
            mailbox: Arc::new(mailbox),
            counters,
            stats: stats.clone(),
            refused,
            thread: None,
            plots: Vec::new(),
            wake_latency: None,
            waiting: Waiting::Spins,
        };
        match config.mode {
            Mode::Inline => {
                // It was made just now.
                let _ = stats.pinning.set(Pinning::Inline);
                inline.push(worker);
            }
            Mode::Threads => {
                let thread = spawn(id, worker, wanted, stats);
                // A thread that was started before stops when its handle is dropped.
                handle.thread = Some(thread?);
            }
        }
        handles.push(handle);
    }
    if config.mode == Mode::Threads {
        for handle in &mut handles {
            settle_waiting(handle, &config.idle, config.answer_within)?;
        }
    }
    Ok((handles, inline))
}

fn flow_table(config: &SwitchConfig, id: WorkerId, seed: u64) -> Result<FlowTable, SwitchError> {
    let table = FlowTable::create(config.flow_entries, seed, config.flow_timeouts);
    let mut table = table.map_err(|source| SwitchError::Flows { worker: id, source })?;
    table.set_quota(config.flow_quota);
    Ok(table)
}

/// What each worker has to do with bindings; nothing where no ports are reserved for it.
fn nat(config: &SwitchConfig, ids: &[WorkerId]) -> Result<Vec<Nat>, SwitchError> {
    let shares = match &config.nat_ports {
        // No worker has any.
        None => ids.iter().map(|_| RangeInclusive::new(1, 0)).collect(),
        Some(ports) => shares(ports, ids.len()).ok_or_else(|| SwitchError::NatPorts {
            ports: ports.clone(),
            workers: ids.len(),
        })?,
    };
    let bindings = ids.iter().zip(shares).map(|(&id, share)| {
        let failed = |source| start_error(id, "bindings", source);
        let seed = random_seed().map_err(failed)?;
        let bindings = match config.nat_files.get(id.index()) {
            Some(path) => Bindings::in_file(path, config.flow_entries, share, seed, boot_id()),
            _ => Bindings::create(config.flow_entries, share, seed),
        };
        bindings.map(Arc::new).map_err(failed)
    });
    let all: Result<Arc<[_]>, SwitchError> = bindings.collect();
    Ok(Nat::of_workers(all?))
}

/// A number of this boot of the machine; 0 where the kernel does not say.
fn boot_id() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let first: String = text
        .chars()
        .filter(char::is_ascii_hexdigit)
        .take(16)
        .collect();
    u64::from_str_radix(&first, 16).unwrap_or(0)
}

/// A range cut into as many equal ones as there are workers, what is left over in none; `None` where one would be empty.
fn shares(ports: &RangeInclusive<u16>, workers: usize) -> Option<Vec<RangeInclusive<u16>>> {
    let each = ports.len() / workers;
    let first = |worker: usize| usize::from(*ports.start()) + worker * each;
    let share = |worker| {
        Some(u16::try_from(first(worker)).ok()?..=u16::try_from(first(worker + 1) - 1).ok()?)
    };
    match each {
        0 => None,
        _ => (0..workers).map(share).collect(),
    }
}

pub(super) fn start_error(
    worker: WorkerId,
    what: &'static str,
    source: std::io::Error,
) -> SwitchError {
    SwitchError::Start {
        worker,
        what,
        source,
    }
}

fn wakers(ids: &[WorkerId]) -> Result<Vec<Arc<Waker>>, SwitchError> {
    let waker = |&id| Waker::new().map_err(|source| start_error(id, "eventfd", source));
    ids.iter().map(|id| waker(id).map(Arc::new)).collect()
}

/// The rings of each worker with every other one.
fn peers(
    ids: &[WorkerId],
    wakers: &[Arc<Waker>],
    counters: &[Arc<WorkerCounters>],
    frames: usize,
) -> Vec<Peers> {
    let n = ids.len();
    let mut outgoing: Vec<Vec<Option<Outgoing>>> = Vec::new();
    let mut incoming: Vec<Vec<Option<Incoming>>> =
        (0..n).map(|_| (0..n).map(|_| None).collect()).collect();
    for (f, &from) in ids.iter().enumerate() {
        let mut row = Vec::new();
        for (t, &to) in ids.iter().enumerate() {
            let link = (f != t).then(|| handoff::link(from, to, frames));
            let (out, inc) = link.unzip();
            row.push(out);
            incoming[t][f] = inc;
        }
        outgoing.push(row);
    }
    let rows = outgoing.into_iter().zip(incoming);
    rows.map(|(outgoing, incoming)| {
        let others = ids.iter().zip(wakers).zip(counters);
        let pairs = outgoing.into_iter().zip(incoming).zip(others);
        let peers = pairs.filter_map(|((outgoing, incoming), ((&id, waker), counters))| {
            let (waker, counters) = (waker.clone(), counters.clone());
            Some(Peer::new(id, outgoing?, incoming?, waker, counters))
        });
        Peers(peers.collect())
    })
    .collect()
}

/// Starts a worker's thread on its core.
fn spawn(
    id: WorkerId,
    worker: Worker,
    config: WorkerConfig,
    stats: Arc<Stats>,
) -> Result<JoinHandle<()>, SwitchError> {
    let (decided, answer) = bounded(1);
    let thread = std::thread::Builder::new()
        .name(format!("ps-worker-{id}"))
        .spawn(move || {
            let pinning = match config.core {
                None => Pinning::Free,
                Some(core)
                    if core_affinity::set_for_current(core_affinity::CoreId { id: core }) =>
                {
                    Pinning::Pinned(core)
                }
                Some(core) => Pinning::Refused(core),
            };
            // Nobody else sets them.
            let _ = stats.pinning.set(pinning);
            let _ = stats
                .tid
                .set(rustix::thread::gettid().as_raw_nonzero().get());
            let refused = config.require_core && matches!(pinning, Pinning::Refused(_));
            let _ = decided.send(refused);
            if !refused {
                worker.run();
            }
        })
        .map_err(|source| start_error(id, "thread", source))?;
    match (answer.recv(), config.core) {
        (Ok(true), Some(core)) => Err(SwitchError::Core { worker: id, core }),
        _ => Ok(thread),
    }
}

/// Finds out whether waking the worker fits the latency budget, and has it spin for good when not.
fn settle_waiting(
    handle: &mut Handle,
    idle: &IdleConfig,
    patience: Duration,
) -> Result<(), SwitchError> {
    if idle.latency > Duration::ZERO {
        let latency = wake_latency(handle, patience)?;
        handle.wake_latency = Some(latency);
        handle.waiting = match latency <= idle.latency {
            true => Waiting::Sleeps,
            false => Waiting::WakesTooSlowly(latency),
        };
    }
    if handle.waiting != Waiting::Sleeps {
        handle.leave(Request::NeverSleep)?;
    }
    Ok(())
}

/// Median time from waking the worker to its answer.
fn wake_latency(handle: &Handle, patience: Duration) -> Result<Duration, SwitchError> {
    let clock = Clock::get();
    let mut samples = Vec::with_capacity(WAKES);
    for _ in 0..WAKES {
        let deadline = Instant::now() + patience;
        while !asleep(&handle.mailbox) {
            if Instant::now() > deadline {
                return Err(SwitchError::Busy {
                    worker: handle.id,
                    waited: patience,
                });
            }
            std::thread::yield_now();
        }
        let sent = cycles();
        let answered = handle.ask(patience, Request::Pass)?;
        samples.push(clock.nanoseconds(answered.saturating_sub(sent)));
    }
    samples.sort_unstable();
    Ok(Duration::from_nanos(samples[WAKES / 2]))
}

fn asleep(mailbox: &Mailbox) -> bool {
    mailbox.waker().is_asleep()
}
