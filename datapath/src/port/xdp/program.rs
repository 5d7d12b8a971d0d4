// SPDX-License-Identifier: Apache-2.0
//! The XDP program on the host end of a pod's veth: it sends every frame to the port's socket or drops it. One program
//! with maps of its own per port. A NIC's (`nic`) has the same maps and some of its own.
//!
//! This module has its maps and reads its counters. Attaching is netlink's business and not done here, nor is the
//! traffic-control drop behind it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya::maps::{Map, MapData, MapInfo, PerCpuArray, XskMap};

use super::bpf;
use super::error::XdpError;
use super::loader::Loaded;

/// Name of the steering program, as `bpftool prog` shows it.
pub const STEERING_NAME: &str = "podswitch_pod";
pub(super) const SOCKETS: &str = "podswitch_xsk";
pub(super) const COUNTS: &str = "podswitch_count";

/// Packets a steering program has seen, over all CPUs, since it was loaded; those before it included that it
/// [counts on](Steering::count_on) from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SteeringCounters {
    /// Handed to a socket; the socket may still have dropped them (its own statistics tell).
    pub redirected: u64,
    /// Dropped because the queue had no socket, or the frame no room for its VLAN tag.
    pub missed: u64,
    /// Left to the host's stack; a pod's program leaves it none.
    pub passed: u64,
}

/// How many counters that is.
const COUNTERS: u32 = 3;

/// A loaded steering program and its maps. Dropping it closes our descriptors; an attached program lives on.
pub struct Steering {
    name: &'static str,
    program: OwnedFd,
    /// None of a program that sends frames into a tap device.
    sockets: Option<XskMap<MapData>>,
    counts: PerCpuArray<MapData, u64>,
}

impl Steering {
    pub(super) fn from_loaded(mut loaded: Loaded) -> Result<Steering, XdpError> {
        let (sockets, counts) = (loaded.take(SOCKETS)?, loaded.take(COUNTS)?);
        Steering::from_parts(STEERING_NAME, loaded.program, Some(sockets), counts)
    }

    pub(super) fn from_parts(
        name: &'static str,
        program: OwnedFd,
        sockets: Option<Map>,
        counts: Map,
    ) -> Result<Steering, XdpError> {
        let sockets = sockets.map(XskMap::try_from).transpose();
        Ok(Steering {
            name,
            program,
            sockets: sockets.map_err(|e| failed_chain(SOCKETS, &e))?,
            counts: counts.try_into().map_err(|e| failed_chain(COUNTS, &e))?,
        })
    }

    /// Opens a steering program that is in the kernel already, such as one a predecessor attached, by the id that
    /// netlink reports (`IFLA_XDP_PROG_ID`).
    ///
    /// # Errors
    /// [`XdpError::Program`] when there is no program with this id, or it is not a steering program of ours.
    pub fn open(id: u32) -> Result<Steering, XdpError> {
        let (program, [sockets, counts]) = open_ours(id, STEERING_NAME, [SOCKETS, COUNTS])?;
        Steering::from_parts(STEERING_NAME, program, Some(sockets), counts)
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
            .map_err(|e| failed(self.name, &e))?
            .id)
    }

    /// Steers the frames of `queue` to `socket` from now on.
    ///
    /// # Errors
    /// [`XdpError::Program`] when there is no such queue or the descriptor is no AF_XDP socket.
    pub fn insert(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), XdpError> {
        use std::os::fd::AsRawFd;
        let what = format!("{} queue {queue}", self.name);
        self.sockets(&what)?
            .set(queue, socket.as_raw_fd(), 0)
            .map_err(|e| failed_chain(&what, &e))
    }

    fn sockets(&mut self, what: &str) -> Result<&mut XskMap<MapData>, XdpError> {
        let sockets = self.sockets.as_mut();
        sockets.ok_or_else(|| failed(what, &"the program knows no sockets"))
    }

    /// Drops the frames of `queue` from now on.
    ///
    /// # Errors
    /// [`XdpError::Program`] when there is no such queue.
    pub fn remove(&mut self, queue: u32) -> Result<(), XdpError> {
        let what = format!("{} queue {queue}", self.name);
        self.sockets(&what)?
            .unset(queue)
            .map_err(|e| failed_chain(&what, &e))
    }

    /// Counts on from where `before`, which this program is to replace, stands now.
    ///
    /// # Errors
    /// [`XdpError::Program`] when one of the maps cannot be read or written.
    pub fn count_on(&mut self, before: &Steering) -> Result<(), XdpError> {
        (0..COUNTERS).try_for_each(|index: u32| {
            let per_cpu = before.counts.get(&index, 0);
            let per_cpu = per_cpu.map_err(|e| failed_chain(self.name, &e))?;
            let set = self.counts.set(index, per_cpu, 0);
            set.map_err(|e| failed_chain(self.name, &e))
        })
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
                .map_err(|e| failed_chain(self.name, &e))
        };
        Ok(SteeringCounters {
            redirected: sum(0)?,
            missed: sum(1)?,
            passed: sum(2)?,
        })
    }
}

pub(super) fn open_ours<const N: usize>(
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

pub(super) fn failed(name: &str, why: &dyn std::fmt::Display) -> XdpError {
    XdpError::Program {
        name: name.to_owned(),
        reason: why.to_string(),
    }
}

/// Joins an error and its sources: the library keeps the verifier's words and the errno in them.
pub(super) fn failed_chain(name: &str, error: &dyn std::error::Error) -> XdpError {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(e) = source {
        reason = format!("{reason}: {e}");
        source = e.source();
    }
    failed(name, &reason)
}
