// SPDX-License-Identifier: Apache-2.0
//! An arena as the UMEM of its ports' sockets.
//!
//! The first socket registers the memory (the kernel pins it), every further one shares it by naming a bound socket that
//! has it (`XDP_SHARED_UMEM`). Any live one will do, so none is special: when the socket that registered is closed, the
//! memory stays registered through the others, and when none is left the next one registers again. Chunks keep their
//! addresses through that, as addresses are offsets in the arena.
//!
//! Sockets that share are all in copy mode or all in zero-copy mode, so an arena with both kinds is registered twice. To the
//! kernel these are two memories of the same pages; a chunk received by one kind is sent by the other as it is.

use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::error::XdpError;
use super::plan::PortPlan;
use super::port::{Handover, XdpPort};
use super::probe::Features;
use super::socket::{Queue, Registration, Rings, Sharing, Socket};
use crate::frame::Arena;
use crate::ids::PortId;

/// How long a queue may stay taken by a socket that is closed already: the kernel clears the queue from a work item
/// (`xp_release_deferred`, net/xdp/xsk_buff_pool.c).
const RELEASE_PATIENCE: Duration = Duration::from_millis(500);

/// How a port is to be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XdpConfig {
    /// The port's number in the switch; its chunks are tagged with it.
    pub id: PortId,
    /// Where the frames come from and go to.
    pub queue: Queue,
    /// What the port may hold.
    pub plan: PortPlan,
    /// See [`Caps::superframes`](crate::port::Caps::superframes).
    pub superframes: bool,
    /// A wire is behind the queue: frames have to leave with whole checksums.
    pub wire: bool,
    /// See [`Caps::local_sender`](crate::port::Caps::local_sender).
    pub local_sender: bool,
    /// TCP is sent by a packet socket, on which segments leave together, where [`Features::joined_segments`] is there.
    pub joins_segments: bool,
    /// See [`Caps::vlan`](crate::port::Caps::vlan).
    pub vlan: Option<u16>,
    /// The device itself writes to the chunks and reads from them, or the port is refused; frames are of one chunk then.
    pub zero_copy: bool,
    /// Most transmit system calls of one [`XdpPort::kick`]; a worker counts those of a turn itself.
    pub kicks_per_turn: u32,
    /// Most descriptors of one transmit system call, 32 to the transmit ring's size; used where the kernel lets it be
    /// set, 32 elsewhere.
    pub tx_budget: u32,
}

impl XdpConfig {
    /// The usual settings for a pod's port of this plan: no superframes, four calls of 64 descriptors a turn.
    pub fn new(id: PortId, queue: Queue, plan: PortPlan) -> XdpConfig {
        XdpConfig {
            id,
            queue,
            plan,
            superframes: false,
            wire: false,
            local_sender: true,
            joins_segments: true,
            vlan: None,
            zero_copy: false,
            kicks_per_turn: 4,
            tx_budget: 64,
        }
    }
}

/// An arena and the sockets that have it as their memory. Control's; the ports it opens go to the worker.
pub struct Umem {
    arena: Arc<Arena>,
    features: Features,
    sockets: Vec<Weak<Socket>>,
}

impl Umem {
    /// An arena without sockets so far.
    pub fn new(arena: Arc<Arena>, features: Features) -> Umem {
        Umem {
            arena,
            features,
            sockets: Vec::new(),
        }
    }

    /// The arena.
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// How many of its sockets are open.
    pub fn open_sockets(&self) -> usize {
        self.sockets.iter().filter(|s| s.strong_count() > 0).count()
    }

    /// Opens a port in the calling thread's network namespace. Frames arrive once its worker has called
    /// [`XdpPort::reclaim`] and the steering program has been given the socket. Waits up to half a second for a queue
    /// whose last socket has just been closed.
    ///
    /// # Errors
    /// [`XdpError::Call`], naming the call, the interface and queue, and what to do.
    pub fn open(&mut self, config: &XdpConfig) -> Result<XdpPort, XdpError> {
        let (socket, rings) = self.patiently_bound(config)?;
        let socket = Arc::new(socket);
        let arena = self.arena.clone();
        let port = XdpPort::new(config, arena, socket.clone(), rings, self.features)?;
        self.sockets.push(Arc::downgrade(&socket));
        Ok(port)
    }

    /// Takes a predecessor's port over from its socket: the rings go on where they were. `config` says what it was opened
    /// with.
    ///
    /// # Errors
    /// [`XdpError::Adopt`] when the socket or the chunks' tags do not fit, [`XdpError::Call`] when the rings cannot be
    /// mapped (the interface is gone, or the kernel is older than Linux 6.4).
    ///
    /// # Safety
    /// (X4, U5) The predecessor does not touch the socket's rings any more; the socket's memory is this arena; its ring
    /// sizes are those of `config`.
    pub unsafe fn adopt(
        &mut self,
        config: &XdpConfig,
        handover: Handover,
    ) -> Result<XdpPort, XdpError> {
        // The predecessor, or whoever kept the descriptors in between, may still have them.
        let socket = Arc::new(Socket::from_fd(
            handover.socket,
            config.queue,
            config.zero_copy,
            true,
        ));
        if !socket.is_xdp() {
            return Err(XdpError::Adopt {
                what: config.queue.to_string(),
                reason: "the descriptor is no AF_XDP socket".into(),
            });
        }
        let port = XdpPort::adopt(config, self.arena.clone(), socket.clone(), self.features)?;
        self.sockets.push(Arc::downgrade(&socket));
        Ok(port)
    }

    fn patiently_bound(&mut self, config: &XdpConfig) -> Result<(Socket, Rings), XdpError> {
        let deadline = Instant::now() + RELEASE_PATIENCE;
        loop {
            match self.bound_socket(config) {
                Err(e) if e.errno() == Some(libc::EBUSY) && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                done => return done,
            }
        }
    }

    /// A bound socket on this arena's memory.
    fn bound_socket(&mut self, config: &XdpConfig) -> Result<(Socket, Rings), XdpError> {
        self.sockets.retain(|s| s.strong_count() > 0);
        let anchors = self.sockets.iter().filter_map(Weak::upgrade);
        for anchor in anchors.filter(|s| s.is_zero_copy() == config.zero_copy) {
            let (socket, rings) = prepared(config)?;
            match socket.bind(Sharing::With(&anchor)) {
                Ok(()) => return Ok((socket, rings)),
                // The anchor's interface is gone, so it is bound no more; another may be.
                Err(e) if e.errno() == Some(libc::EBADF) => {}
                // Two sockets of one memory on one queue would have to share their rings.
                Err(e) if e.errno() == Some(libc::EINVAL) && anchor.queue() == config.queue => {
                    let busy = io::Error::from_raw_os_error(libc::EBUSY);
                    return Err(XdpError::call("bind(AF_XDP)", config.queue, busy));
                }
                Err(e) => return Err(e),
            }
        }
        let (socket, rings) = prepared(config)?;
        // Drivers differ in what else they do without copying; nothing of it is asked for.
        let registration = Registration {
            tx_metadata: self.features.tx_metadata && !config.zero_copy,
        };
        socket.register(&self.arena, registration)?;
        socket.bind(Sharing::Own {
            segments: self.features.segments && !config.zero_copy,
        })?;
        Ok((socket, rings))
    }
}

/// A socket with everything set but its memory, and its rings: before Linux 6.4 those of a bound socket cannot be mapped.
fn prepared(config: &XdpConfig) -> Result<(Socket, Rings), XdpError> {
    let socket = Socket::open(config.queue, config.zero_copy)?;
    socket.size_rings(&config.plan.rings)?;
    socket.size_send_buffer(config.plan.transmit)?;
    let budget = config.tx_budget.clamp(
        super::socket::DEFAULT_TX_BUDGET,
        config.plan.rings.tx.max(super::socket::DEFAULT_TX_BUDGET),
    );
    socket.set_tx_budget(budget)?;
    let rings = socket.map(&config.plan.rings)?;
    Ok((socket, rings))
}
