// SPDX-License-Identifier: Apache-2.0
//! The driver's side of an interface: its name, channels, rings, features and own counters
//! (`include/uapi/linux/ethtool.h`, over `SIOCETHTOOL`; the generic-netlink form has no driver counters).

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;

use crate::error::{Error, Result};
use crate::link::check_name;
use crate::netlink::message::{string, u32_at, u64_at};
use crate::sys::{self, Fenced};

const GDRVINFO: u32 = 0x03;
const GRINGPARAM: u32 = 0x10;
const GSTRINGS: u32 = 0x1b;
const GSTATS: u32 = 0x1d;
const GSSET_INFO: u32 = 0x37;
const GRXFHINDIR: u32 = 0x38;
const GFEATURES: u32 = 0x3a;
const SFEATURES: u32 = 0x3b;
const GCHANNELS: u32 = 0x3c;
/// Size of `struct ethtool_drvinfo`.
const DRVINFO_BYTES: usize = 196;
const SET_STATS: u32 = 1;
const SET_FEATURES: u32 = 4;
/// Bytes of one name (`ETH_GSTRING_LEN`).
const STRING_BYTES: usize = 32;

/// Reads and sets what drivers know of interfaces, in the network namespace it was opened in.
#[derive(Debug)]
pub struct Ethtool {
    socket: UnixDatagram,
}

/// Who drives an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Driver {
    /// "veth", "mlx5_core", ...
    pub name: String,
    /// Firmware version, empty for virtual devices.
    pub firmware: String,
    /// Bus address, empty for virtual devices.
    pub bus: String,
}

/// Queues in use and their upper bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Channels {
    /// Receive-only queues.
    pub rx: u32,
    /// Transmit-only queues.
    pub tx: u32,
    /// Queues for both directions.
    pub combined: u32,
    /// Most receive-only queues.
    pub max_rx: u32,
    /// Most transmit-only queues.
    pub max_tx: u32,
    /// Most combined queues.
    pub max_combined: u32,
}

/// Ring sizes in descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rings {
    /// Receive ring.
    pub rx: u32,
    /// Transmit ring.
    pub tx: u32,
    /// Largest receive ring.
    pub max_rx: u32,
    /// Largest transmit ring.
    pub max_tx: u32,
}

/// One feature of a device (`ethtool -k`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    /// In effect.
    pub active: bool,
    /// Can be changed.
    pub changeable: bool,
}

impl Ethtool {
    /// Works on the interfaces of the calling thread's network namespace.
    ///
    /// # Errors
    /// [`Error::Io`] when the kernel gives no socket.
    pub fn open() -> Result<Self> {
        // Interface ioctls work on a socket of any family; it belongs to the namespace it is made in.
        let socket = UnixDatagram::unbound()
            .map_err(|source| Error::io("opening a socket for ethtool", source))?;
        Ok(Ethtool { socket })
    }

    /// Who drives the interface.
    ///
    /// # Errors
    /// [`Error::is_gone`] without such an interface, [`Error::is_unsupported`] when the driver does not say; likewise
    /// for the other functions.
    pub fn driver(&self, interface: &str) -> Result<Driver> {
        let mut data = command(&[GDRVINFO], DRVINFO_BYTES)?;
        let bytes = self.call(interface, "driver", &mut data)?;
        Ok(Driver {
            name: string(&bytes[4..36]),
            firmware: string(&bytes[68..100]),
            bus: string(&bytes[100..132]),
        })
    }

    /// Queues.
    ///
    /// # Errors
    /// As [`driver`](Ethtool::driver).
    pub fn channels(&self, interface: &str) -> Result<Channels> {
        let mut data = command(&[GCHANNELS], 36)?;
        let bytes = self.call(interface, "channels", &mut data)?;
        let field = |n: usize| u32_at(bytes, n * 4).unwrap_or(0);
        Ok(Channels {
            max_rx: field(1),
            max_tx: field(2),
            max_combined: field(4),
            rx: field(5),
            tx: field(6),
            combined: field(8),
        })
    }

    /// Receive queues that the device spreads packets to by their hash (RSS): those in its main indirection table. Rules (ntuple) may lead
    /// packets to others, and further tables too.
    ///
    /// # Errors
    /// As [`driver`](Ethtool::driver); unsupported also where the device has no such table.
    pub fn rss_queues(&self, interface: &str) -> Result<BTreeSet<u32>> {
        // struct ethtool_rxfh_indir: command, size, then a queue for each hash. Asked for none, the kernel tells the size.
        let mut data = command(&[GRXFHINDIR, 0], 8)?;
        let bytes = self.call(interface, "RSS table", &mut data)?;
        let size = u32_at(bytes, 4).unwrap_or(0);
        let mut data = command(&[GRXFHINDIR, size], 8 + size as usize * 4)?;
        let bytes = self.call(interface, "RSS table", &mut data)?;
        let queue = |n: usize| u32_at(bytes, 8 + n * 4);
        Ok((0..size as usize).filter_map(queue).collect())
    }

    /// Ring sizes.
    ///
    /// # Errors
    /// As [`driver`](Ethtool::driver).
    pub fn rings(&self, interface: &str) -> Result<Rings> {
        let mut data = command(&[GRINGPARAM], 36)?;
        let bytes = self.call(interface, "ring sizes", &mut data)?;
        let field = |n: usize| u32_at(bytes, n * 4).unwrap_or(0);
        Ok(Rings {
            max_rx: field(1),
            max_tx: field(4),
            rx: field(5),
            tx: field(8),
        })
    }

    /// The driver's own counters, by name. For a veth: `rx_queue_0_xdp_packets`, `rx_queue_0_xdp_drops`, ...
    ///
    /// # Errors
    /// As [`driver`](Ethtool::driver); EFAULT when the number of counters changed while they were read: try again.
    pub fn stats(&self, interface: &str) -> Result<BTreeMap<String, u64>> {
        let names = self.strings(interface, SET_STATS)?;
        let count = names.len();
        if count == 0 {
            return Ok(BTreeMap::new());
        }
        let mut data = command(&[GSTATS, count as u32], 8 + count * 8)?;
        let bytes = self.call(interface, "counters", &mut data)?;
        if u32_at(bytes, 4) != Some(count as u32) {
            return Err(Error::answer(
                format_args!("reading the counters of interface {interface}"),
                "their number changed meanwhile; try again",
            ));
        }
        Ok(names
            .into_iter()
            .enumerate()
            .map(|(n, name)| (name, u64_at(bytes, 8 + n * 8).unwrap_or(0)))
            .collect())
    }

    /// All features of the device, by the kernel's names (`tx-checksum-ip-generic`, `rx-gro`, ...).
    ///
    /// # Errors
    /// As [`driver`](Ethtool::driver).
    pub fn features(&self, interface: &str) -> Result<BTreeMap<String, Feature>> {
        let names = self.strings(interface, SET_FEATURES)?;
        let blocks = names.len().div_ceil(32);
        let mut data = command(&[GFEATURES, blocks as u32], 8 + blocks * 16)?;
        let bytes = self.call(interface, "features", &mut data)?;
        let bit = |n: usize, field: usize| {
            let word = u32_at(bytes, 8 + (n / 32) * 16 + field * 4).unwrap_or(0);
            word >> (n % 32) & 1 != 0
        };
        // A block is: available, requested, active, never changed.
        let read = |n| Feature {
            active: bit(n, 2),
            changeable: bit(n, 0) && !bit(n, 3),
        };
        Ok(names
            .into_iter()
            .enumerate()
            .filter(|(_, s)| !s.is_empty())
            .map(|(n, s)| (s, read(n)))
            .collect())
    }

    /// Turns features on or off.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the feature when the kernel does not know it or did not do as asked; as
    /// [`driver`](Ethtool::driver) otherwise.
    pub fn set_features(&self, interface: &str, wanted: &[(&str, bool)]) -> Result<()> {
        let names = self.strings(interface, SET_FEATURES)?;
        let blocks = names.len().div_ceil(32);
        let mut data = command(&[SFEATURES, blocks as u32], 8 + blocks * 8)?;
        for &(wish, on) in wanted {
            let Some(n) = names.iter().position(|name| name == wish) else {
                return Err(Error::invalid(
                    "device feature",
                    wish,
                    "is not known to this kernel",
                ));
            };
            // A block is: valid, requested.
            let (word, bit) = (8 + (n / 32) * 8, 1 << (n % 32));
            or_u32(data.bytes(), word, bit);
            if on {
                or_u32(data.bytes(), word + 4, bit);
            }
        }
        self.call(interface, "features", &mut data)?;
        let now = self.features(interface)?;
        for &(wish, on) in wanted {
            if now.get(wish).is_none_or(|f| f.active != on) {
                let why = format!(
                    "cannot be turned {} on interface {interface}",
                    if on { "on" } else { "off" }
                );
                return Err(Error::invalid("device feature", wish, why));
            }
        }
        Ok(())
    }

    /// The names of a string set; the order is that of the values.
    fn strings(&self, interface: &str, set: u32) -> Result<Vec<String>> {
        // struct ethtool_sset_info: command, reserved, 64-bit mask, then a count for each bit set.
        let mut info = command(&[GSSET_INFO, 0], 20)?;
        info.bytes()[8..16].copy_from_slice(&(1u64 << set).to_ne_bytes());
        let bytes = self.call(interface, "names of counters or features", &mut info)?;
        let known = u64_at(bytes, 8).unwrap_or(0) != 0;
        let count = if known {
            u32_at(bytes, 16).unwrap_or(0)
        } else {
            0
        };
        if count == 0 {
            return Ok(Vec::new());
        }
        let length = count as usize * STRING_BYTES;
        let mut data = command(&[GSTRINGS, set, count], 12 + length)?;
        let bytes = self.call(interface, "names of counters or features", &mut data)?;
        Ok(bytes[12..12 + length]
            .chunks_exact(STRING_BYTES)
            .map(string)
            .collect())
    }

    fn call<'a>(&self, interface: &str, what: &str, data: &'a mut Fenced) -> Result<&'a [u8]> {
        check_name(interface)?;
        sys::ethtool(self.socket.as_fd(), interface, data).map_err(|source| {
            Error::io(
                format_args!("ethtool: {what} of interface {interface}"),
                source,
            )
        })?;
        Ok(data.bytes())
    }
}

/// A buffer of at least `bytes` that begins with these words.
fn command(words: &[u32], bytes: usize) -> Result<Fenced> {
    let mut data = Fenced::new(bytes.div_ceil(8))
        .map_err(|source| Error::io("allocating a buffer for ethtool", source))?;
    for (to, word) in data.bytes().chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    Ok(data)
}

fn or_u32(bytes: &mut [u8], at: usize, bits: u32) {
    let word = u32_at(bytes, at).unwrap_or(0) | bits;
    bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
}
