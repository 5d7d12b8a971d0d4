// SPDX-License-Identifier: Apache-2.0
//! The XDP program on a NIC: it sends what is the switch's to the sockets of the port, drops it where there is none, and
//! leaves everything else to the host's stack (`bpf/nic.bpf.c`).
//!
//! What is the switch's: packets to addresses of pods; packets to addresses of the node by the ports of an overlay, by
//! ports that are reserved for the switch or by ports that lead to pods, answers to its echoes and ICMP errors about what it sent; requests for the MAC
//! address of addresses that it proxies. All of it can be said before the program is attached.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;

use aya::maps::{HashMap, Map, MapData, MapError};

use super::error::XdpError;
use super::loader::Loaded;
use super::program::{
    COUNTS, SOCKETS, Steering, SteeringCounters, failed, failed_chain, open_ours,
};
use crate::wire::MacAddr;

/// Name of a NIC's steering program, as `bpftool prog` shows it.
pub const NIC_STEERING_NAME: &str = "podswitch_nic";
const CONFIG: &str = "podswitch_conf";
const OWN: &str = "podswitch_own";
const HOST_PORTS: &str = "podswitch_port";
/// What each program needs to run; one with sockets has these, too.
const MAPS: [&str; 4] = [COUNTS, CONFIG, OWN, HOST_PORTS];

/// Most UDP ports of overlays.
pub const MAX_OVERLAY_PORTS: usize = 4;
/// Most ranges of reserved ports.
pub const MAX_RESERVED: usize = 8;
/// Where the tap device stands in `struct config`, behind MAC address, VLAN, overlay ports, first and last of each range.
const TAP_AT: usize = 8 + 2 * MAX_OVERLAY_PORTS + 4 * MAX_RESERVED;
/// Bytes of `struct config`.
const CONFIG_BYTES: usize = TAP_AT + 4;

/// What an address is to the switch; a sum of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Roles(u32);

impl Roles {
    /// A pod's: all packets to it are the switch's.
    pub const POD: Roles = Roles(1);
    /// The node's: packets to it by the switch's ports are.
    pub const NODE: Roles = Roles(2);
    /// The switch answers ARP requests and neighbor solicitations for it.
    pub const PROXY: Roles = Roles(4);

    /// Both.
    pub const fn and(self, other: Roles) -> Roles {
        Roles(self.0 | other.0)
    }
}

/// A NIC's steering program and its maps. Dropping it closes our descriptors; an attached program lives on.
pub struct NicSteering {
    steering: Steering,
    config: HashMap<MapData, u32, [u8; CONFIG_BYTES]>,
    own: HashMap<MapData, [u8; 16], u32>,
    host_ports: HashMap<MapData, [u8; 20], u32>,
    settings: Settings,
}

/// `struct config` of the program.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Settings {
    mac: MacAddr,
    vlan: u16,
    overlay: Vec<u16>,
    reserved: Vec<RangeInclusive<u16>>,
    /// Index of a device; 0: none.
    tap: u32,
}

impl Settings {
    fn to_bytes(&self) -> [u8; CONFIG_BYTES] {
        let overlay = |i: usize| self.overlay.get(i).copied().unwrap_or(0);
        // A range that ends before it begins has nothing in it.
        let reserved = |i: usize| {
            let range = self.reserved.get(i);
            range.map_or([1, 0], |range| [*range.start(), *range.end()])
        };
        let numbers = [self.vlan]
            .into_iter()
            .chain((0..MAX_OVERLAY_PORTS).map(overlay))
            .chain((0..MAX_RESERVED).flat_map(reserved));
        let mut bytes = [0; CONFIG_BYTES];
        bytes[..6].copy_from_slice(&self.mac.0);
        for (to, number) in bytes[6..].chunks_exact_mut(2).zip(numbers) {
            to.copy_from_slice(&number.to_ne_bytes());
        }
        bytes[TAP_AT..].copy_from_slice(&self.tap.to_ne_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; CONFIG_BYTES]) -> Settings {
        let (numbers, tap) = bytes.split_at(TAP_AT);
        let (mac, numbers) = numbers.split_at(6);
        let numbers: Vec<u16> = numbers
            .chunks_exact(2)
            .map(|b| u16::from_ne_bytes([b[0], b[1]]))
            .collect();
        let (overlay, reserved) = numbers[1..].split_at(MAX_OVERLAY_PORTS);
        let ranges = reserved.chunks_exact(2).map(|r| r[0]..=r[1]);
        Settings {
            mac: MacAddr(std::array::from_fn(|i| mac[i])),
            vlan: numbers[0],
            overlay: overlay.iter().copied().filter(|p| *p != 0).collect(),
            reserved: ranges.filter(|r| !r.is_empty()).collect(),
            tap: u32::from_ne_bytes(std::array::from_fn(|i| tap[i])),
        }
    }
}

impl NicSteering {
    pub(super) fn from_loaded(mut loaded: Loaded) -> Result<NicSteering, XdpError> {
        let [counts, config, own, host_ports] = MAPS.map(|map| loaded.take(map));
        let sockets = loaded.take(SOCKETS).ok();
        let steering = Steering::from_parts(NIC_STEERING_NAME, loaded.program, sockets, counts?)?;
        NicSteering::from_parts(steering, config?, own?, host_ports?)
    }

    fn from_parts(
        steering: Steering,
        config: Map,
        own: Map,
        host_ports: Map,
    ) -> Result<NicSteering, XdpError> {
        let config = HashMap::try_from(config).map_err(|e| failed_chain(CONFIG, &e))?;
        let settings = match config.get(&0, 0) {
            Ok(bytes) => Settings::from_bytes(&bytes),
            Err(MapError::KeyNotFound) => Settings::default(),
            Err(e) => return Err(failed_chain(CONFIG, &e)),
        };
        Ok(NicSteering {
            steering,
            config,
            own: own.try_into().map_err(|e| failed_chain(OWN, &e))?,
            host_ports: host_ports
                .try_into()
                .map_err(|e| failed_chain(HOST_PORTS, &e))?,
            settings,
        })
    }

    /// Opens a NIC's steering program that is in the kernel already, as [`Steering::open`] does.
    ///
    /// # Errors
    /// [`XdpError::Program`] when there is no program with this id, or it is not a NIC's steering program of ours.
    pub fn open(id: u32) -> Result<NicSteering, XdpError> {
        let (program, maps) = open_ours(id, NIC_STEERING_NAME, MAPS)?;
        let [counts, config, own, host_ports] = maps;
        let sockets = open_ours(id, NIC_STEERING_NAME, [SOCKETS]).ok();
        let sockets = sockets.map(|(_, [sockets])| sockets);
        let steering = Steering::from_parts(NIC_STEERING_NAME, program, sockets, counts)?;
        NicSteering::from_parts(steering, config, own, host_ports)
    }

    /// The program, to be attached with `IFLA_XDP`.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.steering.fd()
    }

    /// The program's id in the kernel.
    ///
    /// # Errors
    /// [`XdpError::Program`] when the kernel does not tell.
    pub fn id(&self) -> Result<u32, XdpError> {
        self.steering.id()
    }

    /// Steers what comes in by `queue` and is the switch's to `socket` from now on.
    ///
    /// # Errors
    /// [`XdpError::Program`] when there is no such queue or the descriptor is no AF_XDP socket.
    pub fn insert(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), XdpError> {
        self.steering.insert(queue, socket)
    }

    /// Drops what comes in by `queue` and is the switch's from now on.
    ///
    /// # Errors
    /// [`XdpError::Program`] when there is no such queue.
    pub fn remove(&mut self, queue: u32) -> Result<(), XdpError> {
        self.steering.remove(queue)
    }

    /// Counts on from where `before`, which this program is to replace, stands now.
    ///
    /// # Errors
    /// [`XdpError::Program`] when one of the maps cannot be read or written.
    pub fn count_on(&mut self, before: &NicSteering) -> Result<(), XdpError> {
        self.steering.count_on(&before.steering)
    }

    /// What the program has counted.
    ///
    /// # Errors
    /// [`XdpError::Program`] when the map cannot be read.
    pub fn counters(&self) -> Result<SteeringCounters, XdpError> {
        self.steering.counters()
    }

    /// The NIC's MAC address: only frames to it are looked at, and to groups for proxied addresses.
    ///
    /// # Errors
    /// [`XdpError::Program`] when the map cannot be written; nothing has changed then. So with the other settings.
    pub fn set_mac(&mut self, mac: MacAddr) -> Result<(), XdpError> {
        let settings = self.settings.clone();
        self.set(Settings { mac, ..settings })
    }

    /// The VLAN whose frames are the switch's, 1 to 4094, or untagged ones.
    ///
    /// # Errors
    /// As [`NicSteering::set_mac`]; also for a number that is no VLAN's.
    pub fn set_vlan(&mut self, vlan: Option<u16>) -> Result<(), XdpError> {
        let vlan = match vlan {
            Some(id @ 1..=4094) => id,
            None => 0,
            Some(id) => {
                let why = format!("VLAN {id} is not within 1 to 4094");
                return Err(failed(NIC_STEERING_NAME, &why));
            }
        };
        let settings = self.settings.clone();
        self.set(Settings { vlan, ..settings })
    }

    /// UDP ports at which overlays arrive, up to [`MAX_OVERLAY_PORTS`].
    ///
    /// # Errors
    /// As [`NicSteering::set_mac`]; also for more than that, and for port 0.
    pub fn set_overlay_ports(&mut self, ports: &[u16]) -> Result<(), XdpError> {
        if ports.len() > MAX_OVERLAY_PORTS || ports.contains(&0) {
            let why =
                format!("overlay ports {ports:?}: there can be {MAX_OVERLAY_PORTS}, and none is 0");
            return Err(failed(NIC_STEERING_NAME, &why));
        }
        let overlay = ports.to_vec();
        let settings = self.settings.clone();
        self.set(Settings {
            overlay,
            ..settings
        })
    }

    /// Ports of the node's addresses that are the switch's (TCP, UDP, SCTP, and identifiers of its echoes), up to
    /// [`MAX_RESERVED`] ranges.
    ///
    /// # Errors
    /// As [`NicSteering::set_mac`]; also for more than that, and for a range that is empty or begins with 0.
    pub fn set_reserved(&mut self, ranges: &[RangeInclusive<u16>]) -> Result<(), XdpError> {
        let fits = |r: &RangeInclusive<u16>| !r.is_empty() && *r.start() > 0;
        if ranges.len() > MAX_RESERVED || !ranges.iter().all(fits) {
            let why = format!(
                "reserved ports {ranges:?}: there can be {MAX_RESERVED} ranges, none empty or with port 0"
            );
            return Err(failed(NIC_STEERING_NAME, &why));
        }
        let reserved = ranges.to_vec();
        let settings = self.settings.clone();
        self.set(Settings {
            reserved,
            ..settings
        })
    }

    /// Index of the tap device that gets what is the switch's, of a program that has no sockets; 0: it is dropped.
    ///
    /// # Errors
    /// As [`NicSteering::set_mac`].
    pub fn set_tap(&mut self, tap: u32) -> Result<(), XdpError> {
        let settings = self.settings.clone();
        self.set(Settings { tap, ..settings })
    }

    fn set(&mut self, settings: Settings) -> Result<(), XdpError> {
        self.config
            .insert(0, settings.to_bytes(), 0)
            .map_err(|e| failed_chain(CONFIG, &e))?;
        self.settings = settings;
        Ok(())
    }

    /// What an address is from now on.
    ///
    /// # Errors
    /// [`XdpError::Program`] when the map cannot be written; it holds 65,536 addresses.
    pub fn set_address(&mut self, address: IpAddr, roles: Roles) -> Result<(), XdpError> {
        let done = self.own.insert(key(address), roles.0, 0);
        done.map_err(|e| failed_chain(&format!("{OWN}: {address}"), &e))
    }

    /// The address is nothing to the switch from now on; false when it was nothing before.
    ///
    /// # Errors
    /// [`XdpError::Program`] when the map cannot be written.
    pub fn remove_address(&mut self, address: IpAddr) -> Result<bool, XdpError> {
        was_there(self.own.remove(&key(address)))
            .map_err(|e| failed_chain(&format!("{OWN}: {address}"), &e))
    }

    /// Packets to this port of the node's addresses are the switch's from now on, but for those of connections that the host began from it.
    ///
    /// # Errors
    /// [`XdpError::Program`] when the map cannot be written; it holds 65,536 ports.
    pub fn set_host_port(&mut self, port: &HostPort) -> Result<(), XdpError> {
        let done = self.host_ports.insert(port.to_bytes(), 1, 0);
        done.map_err(|e| failed_chain(&format!("{HOST_PORTS}: {port}"), &e))
    }

    /// They are the host's from now on; false when they were before.
    ///
    /// # Errors
    /// [`XdpError::Program`] when the map cannot be written.
    pub fn remove_host_port(&mut self, port: &HostPort) -> Result<bool, XdpError> {
        was_there(self.host_ports.remove(&port.to_bytes()))
            .map_err(|e| failed_chain(&format!("{HOST_PORTS}: {port}"), &e))
    }
}

/// A port of the node's that leads to a pod.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct HostPort {
    /// The node's address; the unspecified one of a family: every one of that family.
    pub address: IpAddr,
    /// IP protocol: TCP or UDP.
    pub protocol: u8,
    /// The port.
    pub port: u16,
}

impl HostPort {
    /// `struct host_port` of the program.
    pub(super) fn to_bytes(self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[..16].copy_from_slice(&key(self.address));
        bytes[16..18].copy_from_slice(&self.port.to_be_bytes());
        bytes[18] = self.protocol;
        bytes
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = SocketAddr::new(self.address, self.port);
        write!(f, "{at} of protocol {}", self.protocol)
    }
}

/// Whether there was something to take out of a map.
pub(super) fn was_there(removed: Result<(), MapError>) -> Result<bool, MapError> {
    match removed {
        Ok(()) => Ok(true),
        Err(MapError::KeyNotFound) => Ok(false),
        Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => {
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

/// An address as the program looks it up.
pub(super) fn key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_laid_out_as_the_program_reads_them() {
        let settings = Settings {
            mac: MacAddr([2, 1, 2, 3, 4, 5]),
            vlan: 7,
            overlay: vec![4789],
            reserved: vec![1024..=2047, 9..=9],
            tap: 70_000,
        };
        let bytes = settings.to_bytes();
        let number = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        assert_eq!(bytes[..6], [2, 1, 2, 3, 4, 5]);
        assert_eq!((number(6), number(8), number(10)), (7, 4789, 0));
        let ranges: Vec<_> = (16..48)
            .step_by(4)
            .map(|at| (number(at), number(at + 2)))
            .collect();
        assert_eq!(ranges[..3], [(1024, 2047), (9, 9), (1, 0)]);
        assert_eq!(bytes[48..52], 70_000u32.to_ne_bytes());
        assert_eq!(Settings::from_bytes(&bytes), settings);
    }
}
