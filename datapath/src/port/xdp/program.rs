// SPDX-License-Identifier: Apache-2.0
//! The XDP program on the host end of a pod's veth: it sends every frame to the port's socket or drops it. One program
//! with maps of its own per port.
//!
//! This module loads it and reads its counters. Attaching is netlink's business and not done here, nor is the
//! traffic-control drop behind it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya::maps::{Map, MapData, MapInfo, PerCpuArray, XskMap};
use aya::programs::Xdp;
use aya::{EbpfLoader, include_bytes_aligned};

use super::bpf;
use super::error::XdpError;

static POD: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pod.bpf.o"));

/// Name of the steering program, as `bpftool prog` shows it.
pub const STEERING_NAME: &str = "podswitch_pod";
const SOCKETS: &str = "podswitch_xsk";
const COUNTS: &str = "podswitch_count";

/// Loads programs. Making one costs some 25 ms (the library reads the kernel's type information), loading with it
/// 0.1 ms: keep it.
pub struct Loader {
    inner: EbpfLoader<'static>,
}

impl Loader {
    /// A loader; it holds nothing in the kernel.
    pub fn new() -> Loader {
        let mut inner = EbpfLoader::new();
        // The programs relocate nothing against the kernel's types.
        inner.btf(None);
        Loader { inner }
    }

    /// Loads a fresh steering program with maps of its own for an interface of `queues` receive queues.
    ///
    /// A successor attaches its own over the old one (netlink `IFLA_XDP` with the old program as the expected one): the
    /// kernel replaces program and maps in one step.
    ///
    /// # Errors
    /// [`XdpError::Program`] with the verifier's words when the kernel refuses it.
    pub fn steering(&mut self, queues: u32) -> Result<Steering, XdpError> {
        let fail = |e: &dyn std::fmt::Display| failed(STEERING_NAME, e);
        self.inner.map_max_entries(SOCKETS, queues.max(1));
        let mut object = self
            .inner
            .load(POD)
            .map_err(|e| failed_chain(STEERING_NAME, &e))?;
        let program: &mut Xdp = object
            .program_mut(STEERING_NAME)
            .ok_or_else(|| fail(&"missing in the object"))?
            .try_into()
            .map_err(|e| failed_chain(STEERING_NAME, &e))?;
        program
            .load()
            .map_err(|e| failed_chain(STEERING_NAME, &e))?;
        let fd = program.fd().map_err(|e| failed_chain(STEERING_NAME, &e))?;
        let fd = fd.as_fd().try_clone_to_owned().map_err(|e| fail(&e))?;
        let mut map = |name| {
            object
                .take_map(name)
                .ok_or_else(|| fail(&"map missing in the object"))
        };
        Steering::from_parts(fd, map(SOCKETS)?, map(COUNTS)?)
    }
}

impl Default for Loader {
    fn default() -> Loader {
        Loader::new()
    }
}

/// Packets a steering program has seen, over all CPUs, since it was loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SteeringCounters {
    /// Handed to a socket; the socket may still have dropped them (its own statistics tell).
    pub redirected: u64,
    /// Dropped because the queue had no socket.
    pub missed: u64,
}

/// A loaded steering program and its maps. Dropping it closes our descriptors; an attached program lives on.
pub struct Steering {
    program: OwnedFd,
    sockets: XskMap<MapData>,
    counts: PerCpuArray<MapData, u64>,
}

impl Steering {
    fn from_parts(program: OwnedFd, sockets: Map, counts: Map) -> Result<Steering, XdpError> {
        Ok(Steering {
            program,
            sockets: sockets.try_into().map_err(|e| failed_chain(SOCKETS, &e))?,
            counts: counts.try_into().map_err(|e| failed_chain(COUNTS, &e))?,
        })
    }

    /// Opens a steering program that is in the kernel already, such as one a predecessor attached, by the id that
    /// netlink reports (`IFLA_XDP_PROG_ID`).
    ///
    /// # Errors
    /// [`XdpError::Program`] when there is no program with this id, or it is not a steering program of ours.
    pub fn open(id: u32) -> Result<Steering, XdpError> {
        let (program, maps) = open_ours(id, STEERING_NAME, [SOCKETS, COUNTS])?;
        let [sockets, counts] = maps;
        Steering::from_parts(program, sockets, counts)
    }

    /// The program, to be attached with `IFLA_XDP`.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }

    /// The program's id in the kernel.
    ///
    /// # Errors
    /// [`XdpError::Program`] when the kernel does not tell.
    pub fn id(&self) -> Result<u32, XdpError> {
        Ok(bpf::program_info(self.fd())
            .map_err(|e| failed(STEERING_NAME, &e))?
            .id)
    }

    /// Steers the frames of `queue` to `socket` from now on.
    ///
    /// # Errors
    /// [`XdpError::Program`] when there is no such queue or the descriptor is no AF_XDP socket.
    pub fn insert(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), XdpError> {
        use std::os::fd::AsRawFd;
        self.sockets
            .set(queue, socket.as_raw_fd(), 0)
            .map_err(|e| failed_chain(&format!("{STEERING_NAME} queue {queue}"), &e))
    }

    /// Drops the frames of `queue` from now on.
    ///
    /// # Errors
    /// [`XdpError::Program`] when there is no such queue.
    pub fn remove(&mut self, queue: u32) -> Result<(), XdpError> {
        self.sockets
            .unset(queue)
            .map_err(|e| failed_chain(&format!("{STEERING_NAME} queue {queue}"), &e))
    }

    /// What the program has counted.
    ///
    /// # Errors
    /// [`XdpError::Program`] when the map cannot be read.
    pub fn counters(&self) -> Result<SteeringCounters, XdpError> {
        let sum = |index: u32| {
            self.counts
                .get(&index, 0)
                .map(|per_cpu| per_cpu.iter().sum())
                .map_err(|e| failed_chain(STEERING_NAME, &e))
        };
        Ok(SteeringCounters {
            redirected: sum(0)?,
            missed: sum(1)?,
        })
    }
}

fn open_ours<const N: usize>(
    id: u32,
    name: &str,
    maps: [&str; N],
) -> Result<(OwnedFd, [Map; N]), XdpError> {
    let what = format!("{name} (id {id})");
    let program = bpf::program_by_id(id).map_err(|e| failed(&what, &e))?;
    let info = bpf::program_info(program.as_fd()).map_err(|e| failed(&what, &e))?;
    if info.name != name {
        return Err(failed(
            &what,
            &format!("the program is called {:?}", info.name),
        ));
    }
    let mut found: [Option<Map>; N] = std::array::from_fn(|_| None);
    for map_id in info.maps {
        let map = MapInfo::from_id(map_id).map_err(|e| failed_chain(&what, &e))?;
        let Some(i) = maps.iter().position(|m| map.name() == m.as_bytes()) else {
            continue;
        };
        let data = MapData::from_id(map_id).map_err(|e| failed_chain(&what, &e))?;
        found[i] = Some(Map::from_map_data(data).map_err(|e| failed_chain(&what, &e))?);
    }
    if let Some(i) = found.iter().position(Option::is_none) {
        return Err(failed(&what, &format!("it has no map {}", maps[i])));
    }
    Ok((program, found.map(|m| m.expect("every map was found"))))
}

fn failed(name: &str, why: &dyn std::fmt::Display) -> XdpError {
    XdpError::Program {
        name: name.to_owned(),
        reason: why.to_string(),
    }
}

/// Joins an error and its sources: the library keeps the verifier's words and the errno in them.
fn failed_chain(name: &str, error: &dyn std::error::Error) -> XdpError {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(e) = source {
        reason = format!("{reason}: {e}");
        source = e.source();
    }
    failed(name, &reason)
}
