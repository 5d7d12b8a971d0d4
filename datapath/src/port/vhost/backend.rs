// SPDX-License-Identifier: Apache-2.0
//! What a frontend has set up, handed to the worker as a whole, and what the worker says of it.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};

use super::inflight::Inflight;
use super::log::DirtyLog;
use super::memory::GuestMemory;
use super::nudge::Calling;
use super::pair::Served;
use super::ring::{Position, RingFault};
use super::split::Addresses;
use crate::publish::{Publisher, Reader};

/// Most pairs of queues of a port.
pub const MAX_PAIRS: usize = 32;
/// Most queues of a port.
pub const MAX_QUEUES: usize = 2 * MAX_PAIRS;
/// How often it is looked whether the worker has seen something.
const LOOK: Duration = Duration::from_micros(50);

/// Feature bits that a frontend may choose of (virtio 1.2 sections 5.1.3 and 6, vhost-user "Feature negotiation").
pub mod feature {
    /// The device takes packets with a checksum to be finished.
    pub const CSUM: u64 = 1 << 0;
    /// The driver does.
    pub const GUEST_CSUM: u64 = 1 << 1;
    /// The device says the largest packet.
    pub const MTU: u64 = 1 << 3;
    /// The driver takes TCP superframes over IPv4.
    pub const GUEST_TSO4: u64 = 1 << 7;
    /// The driver takes TCP superframes over IPv6.
    pub const GUEST_TSO6: u64 = 1 << 8;
    /// The device takes TCP superframes over IPv4.
    pub const HOST_TSO4: u64 = 1 << 11;
    /// The device takes TCP superframes over IPv6.
    pub const HOST_TSO6: u64 = 1 << 12;
    /// A packet to the driver may fill several buffers.
    pub const MRG_RXBUF: u64 = 1 << 15;
    /// Pages that are written to are noted (VHOST_F_LOG_ALL): the guest is being moved.
    pub const LOG_ALL: u64 = 1 << 26;
    /// Several pairs of queues.
    pub const MQ: u64 = 1 << 22;
    /// Buffers may be described by a table.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// Both sides say what they want to be told of.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// vhost-user's own features.
    pub const PROTOCOL_FEATURES: u64 = 1 << 30;
    /// Virtio 1.
    pub const VERSION_1: u64 = 1 << 32;
    /// Packed queues.
    pub const RING_PACKED: u64 = 1 << 34;
    /// Buffers are used in the order in which they were made available.
    pub const IN_ORDER: u64 = 1 << 35;

    /// What drivers choose of, by the names of virtio.
    const NAMES: [(u64, &str); 15] = [
        (CSUM, "csum"),
        (GUEST_CSUM, "guest_csum"),
        (MTU, "mtu"),
        (GUEST_TSO4, "guest_tso4"),
        (GUEST_TSO6, "guest_tso6"),
        (HOST_TSO4, "host_tso4"),
        (HOST_TSO6, "host_tso6"),
        (MRG_RXBUF, "mrg_rxbuf"),
        (MQ, "mq"),
        (LOG_ALL, "log_all"),
        (INDIRECT_DESC, "indirect_desc"),
        (EVENT_IDX, "event_idx"),
        (VERSION_1, "version_1"),
        (RING_PACKED, "ring_packed"),
        (IN_ORDER, "in_order"),
    ];

    /// The names of those that are there.
    pub fn names(features: u64) -> impl Iterator<Item = &'static str> {
        let chosen = NAMES.iter().filter(move |(bit, _)| features & bit != 0);
        chosen.map(|(_, name)| *name)
    }

    /// What a frontend may choose of.
    pub const OFFERED: u64 = CSUM
        | GUEST_CSUM
        | MTU
        | GUEST_TSO4
        | GUEST_TSO6
        | HOST_TSO4
        | HOST_TSO6
        | MRG_RXBUF
        | MQ
        | LOG_ALL
        | INDIRECT_DESC
        | EVENT_IDX
        | PROTOCOL_FEATURES
        | VERSION_1
        | RING_PACKED
        | IN_ORDER;
}

/// A queue that the worker is to serve.
#[derive(Clone, Debug)]
pub struct Queue {
    /// Descriptors of it: of a split queue a power of two.
    pub size: u16,
    /// Where it is, by the frontend's addresses.
    pub addresses: Addresses,
    /// Where a packed one begins, when it is [started](Queue::start). A split one begins where its ring of what was used says that it ended.
    pub from: Position,
    /// Changes with each start. One that stays has the worker go on where it is.
    pub start: u64,
    /// Its frontend has disabled it: what the driver sends by it is given back unread. One by which the driver receives is not served at all then.
    pub disabled: bool,
    /// What the driver is called by, and what it is heard by; without, it is not called, or not heard in the worker's sleep.
    pub call: Option<Arc<File>>,
    /// See `call`.
    pub kick: Option<Arc<File>>,
}

/// What a frontend has set up.
#[derive(Clone, Debug, Default)]
pub struct Backend {
    /// The memory that the queues and what they name are in.
    pub memory: Option<Arc<GuestMemory>>,
    /// [`feature`] bits that were agreed on.
    pub features: u64,
    /// Where pages that are written to are noted, if [`feature::LOG_ALL`] was agreed on.
    pub log: Option<Arc<DirtyLog>>,
    /// What is kept for the next backend.
    pub inflight: Option<Arc<Inflight>>,
    /// By index; those that are not to be served are `None`. The driver receives by even ones and sends by odd ones (virtio 1.2 section 5.1.2).
    pub queues: Vec<Option<Queue>>,
}

impl Backend {
    /// The index of a queue that cannot be served: its size is none that it may have, or a part of it is not in the memory.
    pub fn misplaced(&self) -> Option<usize> {
        let is = |at: &usize| self.queues[*at].is_some() && Served::new(self, *at, None).is_none();
        (0..self.queues.len()).find(is)
    }

    pub(super) fn has(&self, features: u64) -> bool {
        self.features & features == features
    }
}

/// What others have and may take away.
#[derive(Debug, Default)]
pub(super) struct Backing {
    memory: Option<Arc<GuestMemory>>,
    log: Option<Arc<DirtyLog>>,
    inflight: Option<Arc<Inflight>>,
}

impl Backing {
    pub(super) fn of(backend: &Backend) -> Backing {
        Backing {
            memory: backend.memory.clone(),
            log: backend.log.clone(),
            inflight: backend.inflight.clone(),
        }
    }

    /// Whether a part of it has gone: a file behind it was cut.
    #[inline]
    pub(super) fn is_lost(&self) -> bool {
        self.memory.as_ref().is_some_and(|m| m.is_lost())
            || self.log.as_ref().is_some_and(|l| l.is_lost())
            || self.inflight.as_ref().is_some_and(|i| i.is_lost())
    }
}

/// A queue that is broken until its frontend sets everything up anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broken {
    /// Its index.
    pub queue: usize,
    /// What its driver did.
    pub fault: RingFault,
}

/// What both threads see.
#[derive(Debug)]
pub(super) struct Shared {
    /// Where each queue stands: [`Position::available`] in the low half, [`Position::used`] in the high one.
    positions: [AtomicU32; MAX_QUEUES],
    broken: Mutex<Option<Broken>>,
    /// The worker serves queues by which the driver receives.
    pub(super) ready: AtomicBool,
    /// The worker is calling a driver.
    pub(super) calling: Calling,
    /// Rung for the worker: something was published.
    pub(super) bell: OwnedFd,
    /// Rung by the worker: a queue is broken.
    alarm: OwnedFd,
}

impl Shared {
    pub(super) fn set_position(&self, queue: usize, at: Position) {
        let bits = u32::from(at.available) | u32::from(at.used) << 16;
        self.positions[queue].store(bits, Ordering::Release);
    }

    #[cold]
    pub(super) fn set_broken(&self, broken: Broken) {
        *self.broken() = Some(broken);
        ring(self.alarm.as_fd());
    }

    fn broken(&self) -> MutexGuard<'_, Option<Broken>> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A full counter is as good as one more.
pub(super) fn ring(bell: BorrowedFd<'_>) {
    let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
}

/// The end of a port that its messages' side has.
#[derive(Debug)]
pub struct VhostHandle {
    publisher: Publisher<Backend>,
    shared: Arc<Shared>,
}

/// What a worker makes a port of.
#[derive(Debug)]
pub struct VhostDevice {
    pub(super) backend: Reader<Backend>,
    pub(super) shared: Arc<Shared>,
}

/// Makes both ends of a port.
///
/// # Errors
/// When the kernel gives no eventfd.
pub fn vhost_device() -> io::Result<(VhostHandle, VhostDevice)> {
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    let shared = Arc::new(Shared {
        positions: [const { AtomicU32::new(0) }; MAX_QUEUES],
        broken: Mutex::new(None),
        ready: AtomicBool::new(false),
        calling: Calling::default(),
        bell: eventfd(0, flags)?,
        alarm: eventfd(0, flags)?,
    });
    let mut publisher = Publisher::new(Backend::default());
    let device = VhostDevice {
        backend: publisher.reader(),
        shared: shared.clone(),
    };
    Ok((VhostHandle { publisher, shared }, device))
}

/// A port's calls to its driver, which its frontend can have the worker wait in.
#[derive(Debug)]
pub struct Calls {
    shared: Arc<Shared>,
    last: u64,
}

impl Calls {
    /// Looks once. A worker that has been in the same call since the last look is taken out of it, and the port is broken. To be done every few milliseconds.
    pub fn look(&mut self) {
        self.last = self.shared.calling.look(self.last);
    }
}

impl VhostHandle {
    /// Gives the worker what is set up now.
    pub fn publish(&mut self, backend: Backend) {
        self.publisher.publish(backend);
        ring(self.shared.bell.as_fd());
    }

    /// Waits until the worker has seen what was published last, and touches nothing else any more; false when it has not within the time.
    #[must_use]
    pub fn settle(&mut self, within: Duration) -> bool {
        let begun = Instant::now();
        while self.publisher.reclaim() > 0 {
            if begun.elapsed() > within {
                return false;
            }
            std::thread::sleep(LOOK);
        }
        true
    }

    /// Where a queue stood when the worker looked at it last. Exact once it serves it no more.
    pub fn position(&self, queue: usize) -> Position {
        let bits = self.shared.positions.get(queue);
        let bits = bits.map_or(0, |p| p.load(Ordering::Acquire));
        Position {
            available: bits as u16,
            used: (bits >> 16) as u16,
        }
    }

    /// The queue that is broken, once.
    pub fn take_broken(&mut self) -> Option<Broken> {
        self.shared.broken().take()
    }

    /// Readable once a queue is broken.
    pub fn alarm(&self) -> BorrowedFd<'_> {
        self.shared.alarm.as_fd()
    }

    /// For somebody who looks after the worker's calls.
    pub fn calls(&self) -> Calls {
        Calls {
            shared: self.shared.clone(),
            last: 0,
        }
    }

    /// Whether the driver can receive, as far as the worker has come.
    pub fn is_ready(&self) -> bool {
        self.shared.ready.load(Ordering::Relaxed)
    }
}
