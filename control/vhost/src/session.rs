// SPDX-License-Identifier: Apache-2.0
//! What the frontend that is connected has said, and what the worker is told of it.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use podswitch_datapath::port::vhost::{
    Addresses, Backend, DirtyLog, GuestMemory, Inflight, MAX_PAIRS, MAX_REGIONS, PartError,
    Position, Queue, Region, VhostHandle, feature, inflight_bytes,
};
use rustix::fs::{MemfdFlags, memfd_create};
use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig,
    VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{GpuBackend, Result, VhostUserBackendReqHandlerMut};

use crate::files;
use crate::refusal::Refusal;

/// How long a worker may take to see what is new.
pub(crate) const SETTLE: Duration = Duration::from_secs(2);
/// What the protocol offers beyond its first version.
const PROTOCOL: VhostUserProtocolFeatures = VhostUserProtocolFeatures::MQ
    .union(VhostUserProtocolFeatures::REPLY_ACK)
    .union(VhostUserProtocolFeatures::LOG_SHMFD)
    .union(VhostUserProtocolFeatures::INFLIGHT_SHMFD)
    .union(VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS);

/// A queue, as far as the frontend has set it up.
#[derive(Debug, Default)]
struct Setup {
    size: u16,
    at: Addresses,
    from: Position,
    enabled: bool,
    /// It was served since it was started and set up.
    was_served: bool,
    /// What it is kicked by, if it is to be heard; it has been started.
    started: Option<Option<Arc<File>>>,
    call: Option<Arc<File>>,
    /// The worker serves it, since this start.
    served: Option<u64>,
}

/// What was said on a connection. The port's end stays from one to the next.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) handle: VhostHandle,
    pairs: u16,
    features: u64,
    /// Of the protocol.
    protocol: u64,
    memory: Option<Arc<GuestMemory>>,
    log: Option<Arc<DirtyLog>>,
    inflight: Option<Arc<Inflight>>,
    queues: Vec<Setup>,
    /// Starts of queues so far, on all connections.
    starts: u64,
}

impl Session {
    /// A session of at most so many pairs of queues.
    pub(crate) fn new(handle: VhostHandle, pairs: u16) -> Session {
        Session {
            handle,
            pairs: pairs.clamp(1, MAX_PAIRS as u16),
            features: 0,
            protocol: 0,
            memory: None,
            log: None,
            inflight: None,
            queues: Vec::new(),
            starts: 0,
        }
    }

    /// The frontend has gone, or another is there: nothing is set up.
    pub(crate) fn clear(&mut self) {
        (self.features, self.protocol, self.memory) = (0, 0, None);
        (self.log, self.inflight) = (None, None);
        self.queues.clear();
        let all = 0..2 * self.pairs;
        self.queues.extend(all.map(|_| Setup::default()));
        self.handle.publish(Backend::default());
        // What the worker has not let go of goes with the next thing that it is told.
        let _ = self.handle.settle(SETTLE);
        self.handle.take_broken();
    }

    /// Whether the driver can receive.
    pub(crate) fn is_ready(&self) -> bool {
        self.queues.iter().step_by(2).any(|q| q.served.is_some())
    }

    /// Feature bits that were agreed on.
    pub(crate) fn features(&self) -> u64 {
        self.features
    }

    /// Whether requests that ask for an answer get one.
    pub(crate) fn answers(&self) -> bool {
        self.protocol & VhostUserProtocolFeatures::REPLY_ACK.bits() != 0
    }

    fn offered(&self) -> u64 {
        match self.pairs {
            1 => feature::OFFERED & !feature::MQ,
            _ => feature::OFFERED,
        }
    }

    fn queue(&mut self, index: u32) -> std::result::Result<&mut Setup, Refusal> {
        let count = self.queues.len();
        let queue = self.queues.get_mut(index as usize);
        queue.ok_or(Refusal::NoQueue { index, count })
    }

    /// Whether nothing that queues go by is about to change under one that is served.
    fn unchanged(
        &self,
        what: &'static str,
        new: u64,
        old: u64,
        mut which: impl Iterator<Item = usize>,
    ) -> std::result::Result<(), Refusal> {
        let is_served = |index: &usize| {
            let queue = &self.queues[*index];
            queue.served.is_some() && self.is_enabled(queue)
        };
        let served = which.find(is_served);
        match served.filter(|_| new != old) {
            None => Ok(()),
            Some(index) => Err(Refusal::Running {
                what,
                new,
                old,
                index,
            }),
        }
    }

    /// A frontend that knows of no rings to be enabled has all of them so.
    fn is_enabled(&self, queue: &Setup) -> bool {
        queue.enabled || self.features & feature::PROTOCOL_FEATURES == 0
    }

    /// A queue is about to be set up anew. One that is disabled is left alone until it is enabled.
    fn leave_alone(&mut self, index: u32) -> std::result::Result<(), Refusal> {
        let queue = self.queue(index)?;
        queue.was_served = false;
        match queue.served {
            Some(_) => self.publish(),
            None => Ok(()),
        }
    }

    /// Tells the worker what is set up now. When this is done it uses nothing else.
    fn publish(&mut self) -> std::result::Result<(), Refusal> {
        self.publish_with(false)
    }

    /// The same when memory may have gone: a queue that was in it waits, where it stands, until there is memory again.
    fn publish_with(&mut self, memory_goes: bool) -> std::result::Result<(), Refusal> {
        let (mut backend, mut stopped) = self.assemble();
        while let Some(index) = backend.misplaced() {
            let queue = &self.queues[index];
            if self.is_enabled(queue) && !memory_goes {
                let Setup { size, at, .. } = *queue;
                return Err(Refusal::Misplaced { index, size, at });
            }
            backend.queues[index] = None;
            self.queues[index].served = None;
            stopped.push(index);
        }
        self.tell((backend, stopped))
    }

    /// What is set up now, and which queues are served no more.
    fn assemble(&mut self) -> (Backend, Vec<usize>) {
        let mut stopped = Vec::new();
        for index in 0..self.queues.len() {
            let enabled = self.is_enabled(&self.queues[index]);
            let queue = &mut self.queues[index];
            let (is_started, is_there) = (queue.started.is_some(), self.memory.is_some());
            // What a driver sends by a queue that is disabled is given back unread (vhost-user, "Ring states"). What lies in one that has not been enabled so far
            // waits: it was sent to a backend that was killed.
            let discards = index % 2 == 1 && queue.was_served;
            queue.was_served = is_started && (queue.was_served || enabled && is_there);
            let wanted = is_started && is_there && (enabled || discards);
            match (wanted, queue.served) {
                (true, None) => {
                    self.starts += 1;
                    queue.served = Some(self.starts);
                }
                (false, Some(_)) => {
                    queue.served = None;
                    stopped.push(index);
                }
                _ => {}
            }
        }
        let logs = self.features & feature::LOG_ALL != 0;
        let backend = Backend {
            memory: self.memory.clone(),
            features: self.features,
            log: self.log.clone().filter(|_| logs),
            inflight: self.inflight.clone(),
            queues: self
                .queues
                .iter()
                .map(|q| q.served(self.is_enabled(q)))
                .collect(),
        };
        (backend, stopped)
    }

    fn tell(
        &mut self,
        (backend, stopped): (Backend, Vec<usize>),
    ) -> std::result::Result<(), Refusal> {
        self.handle.publish(backend);
        if !self.handle.settle(SETTLE) {
            return Err(Refusal::Deaf);
        }
        // What was broken before the worker looked has no place any more from which it could go on.
        if let Some(broken) = self.handle.take_broken() {
            return Err(Refusal::Broken(broken));
        }
        for index in stopped {
            self.queues[index].from = self.handle.position(index);
        }
        Ok(())
    }
}

/// What is in flight.
impl Session {
    fn is_packed(&self) -> bool {
        self.features & feature::RING_PACKED != 0
    }

    /// How many queues, and how long.
    fn inflight_shape(&self, told: &VhostUserInflight) -> std::result::Result<(u16, u16), Refusal> {
        let (queues, length, count) = (told.num_queues, told.queue_size, self.queues.len());
        let are = (1..=count).contains(&queues.into()) && (1..=1 << 15).contains(&length);
        are.then_some((queues, length)).ok_or(Refusal::Inflight {
            queues,
            length,
            count,
        })
    }
}

impl Setup {
    fn served(&self, enabled: bool) -> Option<Queue> {
        let start = self.served?;
        Some(Queue {
            size: self.size,
            addresses: self.at,
            from: self.from,
            start,
            disabled: !enabled,
            call: self.call.clone(),
            kick: self.started.clone().flatten(),
        })
    }
}

fn eventfd(file: Option<File>) -> std::result::Result<Option<Arc<File>>, Refusal> {
    let file = file.map(files::event).transpose()?;
    Ok(file.map(Arc::new))
}

/// So many bytes of zeroed memory.
fn memory_of(bytes: u64) -> io::Result<File> {
    let file = File::from(memfd_create("podswitch-inflight", MemfdFlags::CLOEXEC)?);
    file.set_len(bytes)?;
    Ok(file)
}

fn region(told: &VhostUserMemoryRegion, file: File) -> std::result::Result<Region, Refusal> {
    files::check_memory(&file)?;
    Ok(Region {
        guest: told.guest_phys_addr,
        user: told.user_addr,
        bytes: told.memory_size,
        offset: told.mmap_offset,
        file,
    })
}

/// One arm of the protocol each (vhost-user, "Front-end message types").
impl VhostUserBackendReqHandlerMut for Session {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    /// "Deprecated": it is to be taken as all rings being disabled.
    fn reset_owner(&mut self) -> Result<()> {
        self.queues.iter_mut().for_each(|q| q.enabled = false);
        Ok(self.publish()?)
    }

    fn reset_device(&mut self) -> Result<()> {
        Err(Refusal::Unsupported.into())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.offered())
    }

    fn set_features(&mut self, chosen: u64) -> Result<()> {
        let offered = self.offered();
        if chosen & !offered != 0 {
            return Err(Refusal::Features { chosen, offered }.into());
        }
        // Whether pages are noted may change at any time.
        let [new, old] = [chosen, self.features].map(|all| all & !feature::LOG_ALL);
        self.unchanged("features", new, old, 0..self.queues.len())?;
        if new != old {
            (0..self.queues.len() as u32).try_for_each(|index| self.leave_alone(index))?;
        }
        self.features = chosen;
        Ok(self.publish()?)
    }

    fn set_mem_table(
        &mut self,
        told: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        let regions = told
            .iter()
            .zip(files)
            .map(|(told, file)| region(told, file));
        let regions = regions.collect::<std::result::Result<Vec<Region>, Refusal>>()?;
        let memory = GuestMemory::new(&regions).map_err(Refusal::from)?;
        self.memory = Some(Arc::new(memory));
        self.publish()?;
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let old = self.queue(index)?.size;
        let size = u16::try_from(num)
            .ok()
            .filter(|n| (1..=1 << 15).contains(n));
        let size = size.ok_or(Refusal::Size(num))?;
        let at = index as usize;
        self.unchanged("its length", num.into(), old.into(), at..=at)?;
        if size != old {
            self.leave_alone(index)?;
        }
        self.queue(index)?.size = size;
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _: VhostUserVringAddrFlags,
        descriptors: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        self.leave_alone(index)?;
        let queue = self.queue(index)?;
        queue.at = Addresses {
            descriptors,
            available,
            used,
        };
        match queue.served {
            Some(_) => Ok(self.publish()?),
            None => Ok(()),
        }
    }

    /// The low half is what is taken next. Of a packed queue the high half is what is given back next (vhost-user, "Vring descriptor indices for packed
    /// virtqueues"). virtio-user of DPDK leaves it 0, and DPDK's own backend does not look at it: when a queue was stopped, all was given back.
    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let at = base as u16;
        self.leave_alone(index)?;
        self.queue(index)?.from = Position {
            available: at,
            used: at,
        };
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        self.queue(index)?.started = None;
        self.publish()?;
        let Position { available, used } = self.queue(index)?.from;
        let used = match self.features & feature::RING_PACKED {
            0 => 0,
            _ => u32::from(used) << 16,
        };
        Ok(VhostUserVringState::new(index, u32::from(available) | used))
    }

    fn set_vring_kick(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let kick = eventfd(file)?;
        self.queue(index.into())?.started = Some(kick);
        Ok(self.publish()?)
    }

    fn set_vring_call(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let call = eventfd(file)?;
        let queue = self.queue(index.into())?;
        queue.call = call;
        match queue.served {
            Some(_) => Ok(self.publish()?),
            None => Ok(()),
        }
    }

    /// What is wrong is said by closing the connection.
    fn set_vring_err(&mut self, index: u8, file: Option<File>) -> Result<()> {
        eventfd(file)?;
        self.queue(index.into())?;
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(PROTOCOL)
    }

    fn set_protocol_features(&mut self, chosen: u64) -> Result<()> {
        let offered = PROTOCOL.bits();
        match chosen & !offered {
            0 => self.protocol = chosen,
            _ => return Err(Refusal::Features { chosen, offered }.into()),
        }
        Ok(())
    }

    /// Pairs of them, of a network device.
    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.pairs.into())
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.queue(index)?.enabled = enable;
        Ok(self.publish()?)
    }

    fn get_config(&mut self, _: u32, _: u32, _: VhostUserConfigFlags) -> Result<Vec<u8>> {
        Err(Refusal::Unsupported.into())
    }

    fn set_config(&mut self, _: u32, _: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        Err(Refusal::Unsupported.into())
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        Err(Refusal::Unsupported.into())
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        Err(Refusal::Unsupported.into())
    }

    /// Memory for the frontend to keep. All of it is 0 until a queue is served, and takes no room until then.
    fn get_inflight_fd(&mut self, told: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        let shape = self.inflight_shape(told)?;
        let packed = self.is_packed();
        let bytes = inflight_bytes(shape.0, shape.1, packed);
        let file = memory_of(bytes).map_err(|e| Refusal::Part {
            what: "what is in flight",
            bytes,
            offset: 0,
            why: e.into(),
        })?;
        // A copy of what came, whose padding the library sends, too.
        let mut told = *told;
        (told.mmap_size, told.mmap_offset) = (bytes, 0);
        Ok((told, file))
    }

    fn set_inflight_fd(&mut self, told: &VhostUserInflight, file: File) -> Result<()> {
        let shape = self.inflight_shape(told)?;
        let packed = self.is_packed();
        files::check_memory(&file).map_err(Refusal::from)?;
        let (bytes, offset) = (told.mmap_size, told.mmap_offset);
        let part = |why| Refusal::Part {
            what: "what is in flight",
            bytes,
            offset,
            why,
        };
        if bytes < inflight_bytes(shape.0, shape.1, packed) {
            return Err(part(PartError::Wrong("too short for its queues")).into());
        }
        let all = Inflight::new(&file, offset, shape, packed).map_err(part)?;
        self.inflight = Some(Arc::new(all));
        Ok(self.publish()?)
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(MAX_REGIONS as u64)
    }

    fn add_mem_region(
        &mut self,
        told: &VhostUserSingleMemoryRegion,
        file: File,
        _: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        let region = region(told, file)?;
        let memory = match &self.memory {
            Some(memory) => memory.with(&region),
            None => GuestMemory::new(&[region]),
        };
        self.memory = Some(Arc::new(memory.map_err(Refusal::from)?));
        self.publish()?;
        Ok(None)
    }

    fn remove_mem_region(&mut self, told: &VhostUserSingleMemoryRegion) -> Result<()> {
        let (guest, user, bytes) = (told.guest_phys_addr, told.user_addr, told.memory_size);
        let without = self.memory.as_ref();
        let without = without.and_then(|memory| memory.without(guest, user, bytes));
        let without = without.ok_or(Refusal::NoRegion { guest, bytes })?;
        self.memory = Some(Arc::new(without));
        Ok(self.publish_with(true)?)
    }

    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        Err(Refusal::Unsupported.into())
    }

    fn check_device_state(&mut self) -> Result<()> {
        Err(Refusal::Unsupported.into())
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(Refusal::Unsupported.into())
    }

    /// Pages are noted there while [`feature::LOG_ALL`] is agreed on.
    fn set_log_base(&mut self, told: &VhostUserLog, file: File) -> Result<()> {
        files::check_memory(&file).map_err(Refusal::from)?;
        let (bytes, offset) = (told.mmap_size, told.mmap_offset);
        let log = DirtyLog::new(&file, offset, bytes).map_err(|why| Refusal::Part {
            what: "a log of written pages",
            bytes,
            offset,
            why,
        })?;
        self.log = Some(Arc::new(log));
        Ok(self.publish()?)
    }
}
