// SPDX-License-Identifier: Apache-2.0
//! Programs for sockets of the host's own processes: who connects or sends to a port of the node that leads to a pod is led there (`bpf/host.bpf.c`).
//!
//! This module has their maps. Attaching them to a control group is not done here.
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya::maps::{Array, HashMap, Map, MapData};

use super::error::XdpError;
use super::nic::{HostPort, key, was_there};
use super::program::failed_chain;

/// What they are called in errors, all together.
pub(super) const NAME: &str = "podswitch_host";
const NETNS: &str = "podswitch_netns";
const LED: &str = "podswitch_led";
const HERE: &str = "podswitch_here";
pub(super) const SEEN: &str = "podswitch_seen";
/// The maps that are written from here.
pub(super) const MAPS: [&str; 3] = [NETNS, LED, HERE];

/// Names, as `bpftool prog` shows them, and what they are attached as (`enum bpf_attach_type`: `BPF_CGROUP_INET4_CONNECT` and so on).
pub(super) const PROGRAMS: [(&str, u32); 8] = [
    ("podswitch_con4", 10),
    ("podswitch_con6", 11),
    ("podswitch_snd4", 14),
    ("podswitch_snd6", 15),
    ("podswitch_rcv4", 19),
    ("podswitch_rcv6", 20),
    ("podswitch_peer4", 29),
    ("podswitch_peer6", 30),
];

/// The programs and their maps. Dropping it closes our descriptors; attached programs live on.
pub struct HostSockets {
    programs: Vec<(u32, OwnedFd)>,
    led: HashMap<MapData, [u8; 20], [u8; 20]>,
    here: HashMap<MapData, [u8; 16], u32>,
}

impl HostSockets {
    pub(super) fn from_parts(
        programs: Vec<(u32, OwnedFd)>,
        [meant, led, here]: [Result<Map, XdpError>; 3],
        netns: u64,
    ) -> Result<HostSockets, XdpError> {
        let mut meant: Array<MapData, u64> =
            meant?.try_into().map_err(|e| failed_chain(NETNS, &e))?;
        let told = meant.set(0, netns, 0);
        told.map_err(|e| failed_chain(NETNS, &e))?;
        Ok(HostSockets {
            programs,
            led: led?.try_into().map_err(|e| failed_chain(LED, &e))?,
            here: here?.try_into().map_err(|e| failed_chain(HERE, &e))?,
        })
    }

    /// The programs, each with what it is to be attached as (`enum bpf_attach_type`).
    pub fn programs(&self) -> impl Iterator<Item = (u32, BorrowedFd<'_>)> {
        self.programs
            .iter()
            .map(|(as_type, fd)| (*as_type, fd.as_fd()))
    }

    /// Sockets that are given this port of the node as their peer get this one of a pod from now on.
    ///
    /// # Errors
    /// [`XdpError::Program`] when the map cannot be written; it holds 65,536 ports.
    pub fn lead(&mut self, port: &HostPort, to: SocketAddr) -> Result<(), XdpError> {
        let mut end = [0; 20];
        end[..16].copy_from_slice(&key(to.ip()));
        end[16..18].copy_from_slice(&to.port().to_be_bytes());
        let done = self.led.insert(port.to_bytes(), end, 0);
        done.map_err(|e| failed_chain(&format!("{LED}: {port}"), &e))
    }

    /// They do no longer; false when they did not before.
    ///
    /// # Errors
    /// [`XdpError::Program`] when the map cannot be written.
    pub fn forget(&mut self, port: &HostPort) -> Result<bool, XdpError> {
        was_there(self.led.remove(&port.to_bytes()))
            .map_err(|e| failed_chain(&format!("{LED}: {port}"), &e))
    }

    /// The address is the node's from now on: at any other than those and loopback nobody is led.
    ///
    /// # Errors
    /// [`XdpError::Program`] when the map cannot be written; it holds 65,536 addresses.
    pub fn add_address(&mut self, address: IpAddr) -> Result<(), XdpError> {
        let done = self.here.insert(key(address), 1, 0);
        done.map_err(|e| failed_chain(&format!("{HERE}: {address}"), &e))
    }

    /// The address is no longer the node's; false when it was not before.
    ///
    /// # Errors
    /// [`XdpError::Program`] when the map cannot be written.
    pub fn remove_address(&mut self, address: IpAddr) -> Result<bool, XdpError> {
        was_there(self.here.remove(&key(address)))
            .map_err(|e| failed_chain(&format!("{HERE}: {address}"), &e))
    }
}
