// SPDX-License-Identifier: Apache-2.0
//! What this kernel can do for AF_XDP ports. Nothing is derived from the version but the floor: each feature is tried on
//! scratch sockets, bound to the loopback interfaces of two scratch network namespaces that live as long as the probe.

use std::collections::VecDeque;
use std::fmt;
use std::fs;
use std::io;
use std::sync::Arc;

use super::error::XdpError;
use super::loader::Loader;
use super::plan::{PortPlan, RingSizes};
use super::port::XdpPort;
use super::socket::{DEFAULT_TX_BUDGET, Queue, Socket};
use super::umem::{Umem, XdpConfig};
use crate::frame::{Arena, Offload, Pool};
use crate::ids::{PortId, WorkerId};
use crate::port::packet::{PacketWay, Taken};

/// Oldest kernel the switch runs on.
pub const KERNEL_FLOOR: (u32, u32) = (6, 1);
/// Where the kernel says whether shared memory gets huge pages.
const SHMEM_HUGE: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// Optional features that ports use where the kernel has them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features {
    /// Frames of several chunks (`XDP_USE_SG`, Linux 6.6).
    pub segments: bool,
    /// Partial checksums passed on (`XDP_UMEM_TX_METADATA_LEN`, Linux 6.10).
    pub tx_metadata: bool,
    /// More than 32 descriptors a transmit call (`XDP_MAX_TX_SKB_BUDGET`, Linux 6.17).
    pub tx_budget: bool,
    /// TCP by packet sockets, segments of a burst together (`PACKET_VNET_HDR`).
    pub joined_segments: bool,
}

/// What came of trying a feature.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It works and is used.
    Available,
    /// It does not; the detail says what is done instead.
    Fallback,
    /// It does not, and the switch cannot do without; the detail says why.
    Refused,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Outcome::Available => "available",
            Outcome::Fallback => "fallback",
            Outcome::Refused => "refused",
        })
    }
}

/// One feature.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProbeRow {
    /// Its name.
    pub feature: &'static str,
    /// What came of trying it.
    pub outcome: Outcome,
    /// What is done instead, why it is refused, or what was found.
    pub detail: String,
}

/// The table of features.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probe {
    /// The kernel's release, as `uname -r` prints it.
    pub release: String,
    /// Every feature, those the switch cannot do without first.
    pub rows: Vec<ProbeRow>,
    features: Features,
}

impl Probe {
    /// Tries everything; takes some tens of milliseconds and leaves nothing behind.
    pub fn run() -> Probe {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let release = release.trim().to_owned();
        let mut table = Table::default();
        table.kernel(&release);
        let scratch = std::thread::spawn(move || {
            table.sockets();
            table.programs();
            table
        });
        let mut table = scratch.join().unwrap_or_else(|_| {
            let mut table = Table::default();
            table.refuse("probe", "the probing thread panicked".into());
            table
        });
        table.huge_pages();
        Probe {
            release,
            rows: table.rows,
            features: table.features,
        }
    }

    /// The optional features to use.
    ///
    /// # Errors
    /// Every refused feature with its reason, when there is one.
    pub fn features(&self) -> Result<Features, Refusal> {
        let refused: Vec<ProbeRow> = self
            .rows
            .iter()
            .filter(|r| r.outcome == Outcome::Refused)
            .cloned()
            .collect();
        if refused.is_empty() {
            Ok(self.features)
        } else {
            Err(Refusal(refused))
        }
    }
}

/// Features the switch cannot do without and this node does not have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal(pub Vec<ProbeRow>);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this node cannot run AF_XDP ports")?;
        for row in &self.0 {
            write!(f, "; {}: {}", row.feature, row.detail)?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.rows {
            writeln!(f, "{:<28} {:<10} {}", row.feature, row.outcome, row.detail)?;
        }
        Ok(())
    }
}

/// Major and minor version of a release such as `6.18.44-generic`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[derive(Default)]
struct Table {
    rows: Vec<ProbeRow>,
    features: Features,
}

impl Table {
    fn row(&mut self, feature: &'static str, outcome: Outcome, detail: String) {
        self.rows.push(ProbeRow {
            feature,
            outcome,
            detail,
        });
    }

    fn found(&mut self, feature: &'static str, detail: &str) {
        self.row(feature, Outcome::Available, detail.into());
    }

    fn refuse(&mut self, feature: &'static str, why: String) {
        self.row(feature, Outcome::Refused, why);
    }

    /// A feature the switch cannot do without.
    fn need<T>(
        &mut self,
        feature: &'static str,
        tried: Result<T, impl fmt::Display>,
        found: &str,
    ) -> Option<T> {
        match tried {
            Ok(value) => {
                self.found(feature, found);
                Some(value)
            }
            Err(e) => {
                self.refuse(feature, e.to_string());
                None
            }
        }
    }

    /// A feature with something else in its place.
    fn want(
        &mut self,
        feature: &'static str,
        tried: Result<(), impl fmt::Display>,
        found: &str,
        instead: &str,
    ) -> bool {
        match tried {
            Ok(()) => self.found(feature, found),
            Err(ref e) => self.row(feature, Outcome::Fallback, format!("{instead} ({e})")),
        }
        tried.is_ok()
    }

    fn kernel(&mut self, release: &str) {
        let (major, minor) = KERNEL_FLOOR;
        match version(release) {
            Some(v) if v >= KERNEL_FLOOR => self.found("kernel", release),
            _ => self.refuse(
                "kernel",
                format!("release {release:?}: Linux {major}.{minor} or later is needed"),
            ),
        }
    }

    /// Everything about sockets, in this thread's own network namespace.
    fn sockets(&mut self) {
        let Some(()) = self.need(
            "scratch network namespace",
            scratch_namespace(),
            "probes run in it",
        ) else {
            return;
        };
        let opened = Socket::open(LOOPBACK, false);
        let Some(socket) = self.need("AF_XDP sockets", opened, "") else {
            return;
        };
        let plain = Scratch::open(Features::default());
        let Some(_) = self.need(
            "AF_XDP memory from a memfd",
            plain,
            "registered and bound in copy mode with need-wakeup",
        ) else {
            return;
        };
        let segments = try_segments();
        self.features.segments = self.want(
            "multi-buffer",
            segments,
            "frames of up to 18 chunks",
            "frames beyond 3840 bytes are dropped: keep pod MTUs at 3498 or below",
        );
        let metadata = try_metadata(self.features);
        self.features.tx_metadata = self.want(
            "transmit metadata",
            metadata,
            "partial checksums are passed on",
            "the switch fills partial checksums itself",
        );
        let budget = try_budget(&socket);
        self.features.tx_budget = self.want(
            "transmit budget",
            budget,
            "set per socket",
            &format!("{DEFAULT_TX_BUDGET} descriptors a transmit call"),
        );
        let packets = PacketWay::open(LOOPBACK.interface, false, false, Taken::Marked).map(|_| ());
        self.features.joined_segments = self.want(
            "joined TCP segments",
            packets,
            "sent by packet sockets with PACKET_VNET_HDR",
            "each segment is sent for itself, by AF_XDP",
        );
        let shared = try_sharing(self.features);
        self.need(
            "shared AF_XDP memory",
            shared,
            "across interfaces and network namespaces",
        );
    }

    fn programs(&mut self) {
        let mut loader = Loader::new();
        let steering = loader.steering(1, None).and_then(|s| s.counters());
        self.need("XDP program with fragments", steering, "loaded");
        let tags = loader.sees_tags().then_some(());
        self.want(
            "VLAN tags left to devices",
            tags.ok_or("the kernel has no function that tells them (Linux 6.8)"),
            "put back into the frames, in native mode",
            "frames of pods' VLAN devices count as untagged",
        );
    }

    fn huge_pages(&mut self) {
        let setting = fs::read_to_string(SHMEM_HUGE).unwrap_or_default();
        let chosen = setting
            .split(['[', ']'])
            .nth(1)
            .filter(|s| matches!(*s, "always" | "within_size" | "advise" | "force"));
        let tried = chosen
            .map(|_| ())
            .ok_or_else(|| format!("{SHMEM_HUGE} is {:?}", setting.trim()));
        self.want(
            "huge pages",
            tried,
            "arenas ask for them",
            "arenas use ordinary pages",
        );
    }
}

/// The loopback interface, which has index 1 in every network namespace.
const LOOPBACK: Queue = Queue {
    interface: 1,
    queue: 0,
};

/// A port of a small arena on the loopback interface.
struct Scratch {
    umem: Umem,
    pool: Pool,
    port: XdpPort,
}

const SCRATCH_RING: u32 = 64;

fn scratch_config(id: u16) -> XdpConfig {
    let plan = PortPlan {
        fill: 8,
        transmit: 8,
        backlog: 8,
        rings: RingSizes {
            rx: SCRATCH_RING,
            tx: SCRATCH_RING,
            fill: SCRATCH_RING,
            completion: SCRATCH_RING,
        },
    };
    XdpConfig::new(PortId(id), LOOPBACK, plan)
}

impl Scratch {
    fn open(features: Features) -> Result<Scratch, XdpError> {
        let what = "a scratch arena";
        let arena =
            Arena::new(WorkerId(0), 8).map_err(|e| XdpError::call("memfd_create", what, e))?;
        let arena = Arc::new(arena);
        let mut pool = Pool::new(WorkerId(0));
        pool.add_arena(arena.clone());
        let mut umem = Umem::new(arena, features);
        let port = umem.open(&scratch_config(0))?;
        Ok(Scratch { umem, pool, port })
    }

    /// Sends a frame of `len` bytes and takes its chunks back. Loopback completes a frame before the call returns.
    fn send(&mut self, len: usize, offload: Offload) -> Result<(), String> {
        let mut bytes = vec![0u8; len];
        // EtherType for local experiments (IEEE 802), so that the scratch namespace's stack drops it.
        bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
        let frame = self.pool.alloc_bytes(self.umem.arena(), &bytes);
        let mut frame = frame.ok_or("no chunk for a frame")?;
        frame.offload = offload;
        let mut outbox = VecDeque::from([frame]);
        let sent = self.port.transmit(PortId(0), &mut self.pool, &mut outbox);
        self.port.kick();
        self.port.reclaim(&mut self.pool);
        let invalid = self
            .port
            .kernel_drops()
            .map_err(|e| e.to_string())?
            .tx_invalid;
        if sent != 1 || self.port.pending() != 0 || invalid != 0 {
            return Err(format!(
                "a frame of {len} bytes was not sent: {invalid} descriptors refused, {:?}",
                self.port.kick_causes()
            ));
        }
        Ok(())
    }
}

fn try_segments() -> Result<(), String> {
    let features = Features {
        segments: true,
        ..Features::default()
    };
    let mut scratch = Scratch::open(features).map_err(|e| e.to_string())?;
    scratch.send(9000, Offload::default())
}

fn try_metadata(features: Features) -> Result<(), String> {
    let features = Features {
        tx_metadata: true,
        ..features
    };
    let mut scratch = Scratch::open(features).map_err(|e| e.to_string())?;
    let offload = Offload {
        partial_checksum: true,
        csum_start: 14,
        csum_offset: 2,
        ..Offload::default()
    };
    scratch.send(60, offload)
}

fn try_budget(socket: &Socket) -> Result<(), String> {
    let rings = scratch_config(0).plan.rings;
    socket.size_rings(&rings).map_err(|e| e.to_string())?;
    match socket.set_tx_budget(SCRATCH_RING) {
        Ok(true) => Ok(()),
        Ok(false) => Err("the kernel has no such option".into()),
        Err(e) => Err(e.to_string()),
    }
}

fn try_sharing(features: Features) -> Result<(), String> {
    let mut first = Scratch::open(features).map_err(|e| e.to_string())?;
    scratch_namespace().map_err(|e| e.to_string())?;
    let second = first.umem.open(&scratch_config(1));
    second.map(|_| ()).map_err(|e| e.to_string())
}

/// Moves the calling thread into a new network namespace with its loopback interface up.
fn scratch_namespace() -> io::Result<()> {
    // SAFETY: (X5) no memory is passed; only this thread's namespace changes.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 {
        let e = io::Error::last_os_error();
        return Err(io::Error::new(
            e.kind(),
            format!("unshare: {e}; run as root or grant CAP_SYS_ADMIN"),
        ));
    }
    let control = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: (X5) an ifreq of zeroes is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_LOOPBACK) as libc::c_short;
    use std::os::fd::AsRawFd;
    // SAFETY: (X5) `request` is a live ifreq with a NUL-terminated name.
    if unsafe { libc::ioctl(control.as_raw_fd(), libc::SIOCSIFFLAGS, &request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        for (release, expected) in [
            ("6.18.44-fc-v595", Some((6, 18))),
            ("6.1.0", Some((6, 1))),
            ("10.0", Some((10, 0))),
            ("6", None),
            ("", None),
        ] {
            assert_eq!(version(release), expected, "{release}");
        }
        let mut table = Table::default();
        table.kernel("5.15.0");
        table.kernel("6.1.192");
        assert_eq!(table.rows[0].outcome, Outcome::Refused);
        assert_eq!(table.rows[1].outcome, Outcome::Available);
    }

    #[test]
    fn a_refusal_names_the_feature() {
        let mut table = Table::default();
        table.refuse("multi-something", "not there".into());
        let probe = Probe {
            release: String::new(),
            rows: table.rows,
            features: table.features,
        };
        let text = probe.features().unwrap_err().to_string();
        assert!(text.ends_with("; multi-something: not there"), "{text}");
    }
}
