// SPDX-License-Identifier: Apache-2.0
//! What the AF_XDP tests stand on: network namespaces that play a node and its pods, veths between them, ports on the
//! node's ends, and raw sockets on the pods' ends. Everything is taken apart when the values are dropped.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses its own part of this module"
)]

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType};
use podswitch_datapath::PortId;
use podswitch_datapath::WorkerId;
use podswitch_datapath::frame::{Arena, Audit, BATCH_SIZE, Batch, Frame, Pool};
use podswitch_datapath::port::xdp::{
    ArenaPlan, Features, Loader, Probe, Queue, Steering, Umem, XdpConfig, XdpPort,
};
use podswitch_host::link::{self, Veth, VethEnd};
use podswitch_host::netns::{Named, Netns};
use podswitch_host::xdp::{self, Mode};

/// Longer than anything here takes on a busy machine; reaching it means "hung".
pub const DEADLINE: Duration = Duration::from_secs(20);

/// An EtherType for local experiments (IEEE 802): no stack answers it.
pub const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

/// Waits until a condition holds.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {what}"
        );
        std::thread::yield_now();
    }
}

/// A namespace without IPv6, so that nothing is sent in it but by the test.
pub fn quiet_namespace() -> Named {
    let named = Named::unique("ps-xdp").unwrap();
    named
        .netns()
        .run(|| {
            for scope in ["all", "default"] {
                let path = format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6");
                // Without IPv6 in the kernel there is no such file, and nothing to turn off.
                if std::path::Path::new(&path).exists() {
                    std::fs::write(path, "1").unwrap();
                }
            }
        })
        .unwrap();
    named
}

/// A pod: a namespace with an `eth0`, and a raw socket on it.
pub struct Pod {
    pub netns: Named,
    /// Name of the node's end.
    pub host: String,
    /// Index of the node's end.
    pub ifindex: u32,
    pub raw: RawSocket,
}

/// A node with pods, and one worker's memory. Ports are opened by the tests.
pub struct Bed {
    pub node: Named,
    pub links: podswitch_host::Socket,
    pub pods: Vec<Pod>,
    pub arena: Arc<Arena>,
    pub umem: Umem,
    pub pool: Pool,
    pub loader: Loader,
    pub plan: ArenaPlan,
    pub features: Features,
    pub mode: Mode,
}

/// What a test forwards through.
pub struct Attached {
    pub id: PortId,
    pub port: XdpPort,
    pub steering: Steering,
}

/// What this kernel can do; probed once.
pub fn features() -> Features {
    static FEATURES: std::sync::OnceLock<Features> = std::sync::OnceLock::new();
    *FEATURES.get_or_init(|| Probe::run().features().unwrap())
}

impl Bed {
    pub fn new(mode: Mode, mtu: u32, pods: usize) -> Bed {
        let plan = ArenaPlan::new(mtu, pods as u32);
        Bed::with(mode, mtu, pods, plan, features())
    }

    pub fn with(mode: Mode, mtu: u32, pods: usize, plan: ArenaPlan, features: Features) -> Bed {
        Bed::with_queues(mode, mtu, &vec![1; pods], plan, features)
    }

    /// With so many queues on the veth of each pod.
    pub fn with_queues(
        mode: Mode,
        mtu: u32,
        queues: &[u32],
        plan: ArenaPlan,
        features: Features,
    ) -> Bed {
        let node = quiet_namespace();
        let mut links = node.socket().unwrap();
        let pod = |(i, queues): (usize, &u32)| Pod::new(&mut links, i, mtu, *queues);
        let pods = queues.iter().enumerate().map(pod).collect();
        let arena = Arc::new(Arena::new(WorkerId(0), plan.chunks).unwrap());
        let mut pool = Pool::new(WorkerId(0));
        pool.add_arena(arena.clone());
        Bed {
            node,
            links,
            pods,
            umem: Umem::new(arena.clone(), features),
            arena,
            pool,
            loader: Loader::new(),
            plan,
            features,
            mode,
        }
    }

    pub fn queue(&self, pod: usize) -> Queue {
        Queue {
            interface: self.pods[pod].ifindex,
            queue: 0,
        }
    }

    pub fn config(&self, pod: usize) -> XdpConfig {
        XdpConfig::new(PortId(pod as u16), self.queue(pod), self.plan.port)
    }

    /// Opens a port on a pod's veth and steers its frames there.
    pub fn attach(&mut self, pod: usize) -> Attached {
        let config = self.config(pod);
        self.attach_with(pod, &config)
    }

    pub fn attach_with(&mut self, pod: usize, config: &XdpConfig) -> Attached {
        let umem = &mut self.umem;
        let _guard = self.node.netns().enter().unwrap();
        let mut port = umem.open(config).unwrap();
        port.reclaim(&mut self.pool);
        let native = (self.mode == Mode::Native).then_some(self.pods[pod].ifindex);
        let mut steering = self.loader.steering(1, native).unwrap();
        steering.insert(0, port.socket()).unwrap();
        xdp::install(
            &mut self.links,
            self.pods[pod].host.as_str(),
            steering.fd(),
            self.mode,
        )
        .unwrap();
        Attached {
            id: config.id,
            port,
            steering,
        }
    }

    /// A [`test_frame`] in the arena.
    #[track_caller]
    pub fn frame(&mut self, len: usize, number: u32) -> Frame {
        let bytes = test_frame(len, number);
        self.pool.alloc_bytes(&self.arena, &bytes).unwrap()
    }

    /// Closes a port and settles its chunks.
    pub fn close(&mut self, attached: Attached) -> podswitch_datapath::port::xdp::Settled {
        let closing = attached.port.close(attached.id, &mut self.pool);
        closing.finish(DEADLINE).settle(&mut self.pool)
    }

    pub fn audit(&self) -> Audit {
        self.pool.audit()[0]
    }

    /// Every chunk is free again.
    #[track_caller]
    pub fn assert_all_free(&self) {
        let audit = self.audit();
        assert_eq!(
            (audit.free, audit.listed, audit.refused),
            (audit.chunks, audit.chunks, 0),
            "{audit:?}"
        );
    }

    /// Every chunk is accounted for.
    #[track_caller]
    pub fn assert_balanced(&self) {
        let a = self.audit();
        let sum = a.free + a.user + a.fill + a.transmit + a.handoff + a.quarantine + a.closing;
        assert_eq!((sum, a.listed, a.refused), (a.chunks, a.free, 0), "{a:?}");
    }
}

impl Pod {
    fn new(links: &mut podswitch_host::Socket, number: usize, mtu: u32, queues: u32) -> Pod {
        let netns = quiet_namespace();
        let host = format!("pod{number}");
        let mac = |side: u8| [0x02, 0, 0, 0, side, number as u8];
        let end = |name, side| VethEnd {
            name,
            mac: mac(side),
            mtu,
        };
        let veth = Veth {
            queues,
            ..Veth::new(end(&host, 1), end("eth0", 2)).peer_in(netns.netns().as_fd())
        };
        let ifindex = link::create_veth(links, &veth).unwrap().index;
        let mut inside = netns.socket().unwrap();
        link::set_up(&mut inside, "eth0", true).unwrap();
        link::set_up(links, host.as_str(), true).unwrap();
        eventually("the veth has a carrier", || {
            link::get(links, host.as_str()).unwrap().flags.lower_up()
        });
        let raw = RawSocket::open(netns.netns(), "eth0");
        Pod {
            netns,
            host,
            ifindex,
            raw,
        }
    }
}

impl Attached {
    /// Receives until `count` frames are there.
    #[track_caller]
    pub fn receive(&mut self, pool: &mut Pool, count: usize) -> Vec<Frame> {
        let mut frames = Vec::new();
        eventually("frames arrive", || {
            frames.append(&mut self.poll(pool));
            frames.len() >= count
        });
        frames
    }

    /// Receives what is there.
    pub fn poll(&mut self, pool: &mut Pool) -> Vec<Frame> {
        let mut batch = Batch::new();
        self.port.receive(self.id, pool, &mut batch, BATCH_SIZE);
        let frames = batch.drain().map(|p| p.frame).collect();
        self.port.reclaim(pool);
        frames
    }

    /// Sends frames and waits until all have been completed.
    #[track_caller]
    pub fn send(&mut self, pool: &mut Pool, frames: Vec<Frame>) {
        let mut outbox = VecDeque::from(frames);
        eventually("frames are sent", || {
            self.port.transmit(self.id, pool, &mut outbox);
            self.port.kick();
            self.port.reclaim(pool);
            outbox.is_empty() && self.port.pending() == 0
        });
    }

    /// Moves what has come in at `self` out of `other`, as a worker's turn would.
    pub fn forward(&mut self, other: &mut Attached, pool: &mut Pool) -> usize {
        let mut outbox = VecDeque::from(self.poll(pool));
        let moved = outbox.len();
        eventually("frames are taken", || {
            other.port.transmit(other.id, pool, &mut outbox);
            other.port.kick();
            other.port.reclaim(pool);
            outbox.is_empty()
        });
        moved
    }

    /// Waits for one frame at `self`, and moves it out of `other`.
    #[track_caller]
    pub fn forward_one(&mut self, other: &mut Attached, pool: &mut Pool) {
        let start = Instant::now();
        while self.forward(other, pool) == 0 {
            assert!(
                start.elapsed() < DEADLINE,
                "no frame within {DEADLINE:?}; {:?}, {:?}, {} chunks to be filled",
                self.steering.counters(),
                self.port.counters(),
                self.port.filling()
            );
            std::thread::yield_now();
        }
    }
}

/// Bytes of a frame.
pub fn bytes(frame: &Frame) -> Vec<u8> {
    frame.iter().flatten().copied().collect()
}

/// A frame for no stack: addresses, the experimental EtherType, and a pattern that depends on number and length.
pub fn test_frame(len: usize, number: u32) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len)
        .map(|i| (i as u32).wrapping_mul(number | 1).to_le_bytes()[usize::from(i % 3 == 0)])
        .collect();
    frame[0..6].copy_from_slice(&[0x02, 0, 0, 0, 9, 9]);
    frame[6..12].copy_from_slice(&[0x02, 0, 0, 0, 8, 8]);
    frame[12..14].copy_from_slice(&ETHERTYPE);
    frame[14..18].copy_from_slice(&number.to_be_bytes());
    frame
}

/// A packet(7) socket on one device.
pub struct RawSocket {
    fd: OwnedFd,
}

impl RawSocket {
    pub fn open(netns: &Netns, device: &str) -> RawSocket {
        netns
            .run(|| {
                let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
                let all = SockProtocol::EthAll;
                let fd = socket::socket(AddressFamily::Packet, SockType::Raw, flags, all).unwrap();
                let address = nix::ifaddrs::getifaddrs()
                    .unwrap()
                    .filter(|a| a.interface_name == device)
                    .find_map(|a| a.address?.as_link_addr().copied())
                    .unwrap();
                socket::bind(fd.as_raw_fd(), &link_address(&address)).unwrap();
                // Frames of 64 KiB count with their full size.
                socket::setsockopt(&fd, socket::sockopt::RcvBufForce, &(32 << 20)).unwrap();
                socket::setsockopt(&fd, socket::sockopt::SndBuf, &(4 << 20)).unwrap();
                RawSocket { fd }
            })
            .unwrap()
    }

    #[track_caller]
    pub fn send(&self, frame: &[u8]) {
        eventually("the raw socket takes a frame", || {
            match socket::send(self.fd.as_raw_fd(), frame, MsgFlags::empty()) {
                Ok(sent) => {
                    assert_eq!(sent, frame.len());
                    true
                }
                Err(Errno::EAGAIN | Errno::ENOBUFS) => false,
                Err(e) => panic!("sending {} bytes: {e}", frame.len()),
            }
        });
    }

    /// The next frame the device received; frames this socket sent are not seen.
    pub fn try_receive(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 70_000];
        match socket::recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => {
                buffer.truncate(length);
                Some(buffer)
            }
            Err(Errno::EAGAIN | Errno::ENETDOWN) => None,
            Err(e) => panic!("receiving: {e}"),
        }
    }

    #[track_caller]
    pub fn receive(&self) -> Vec<u8> {
        let mut frame = None;
        eventually("a frame comes out of the raw socket", || {
            frame = self.try_receive();
            frame.is_some()
        });
        frame.unwrap()
    }
}

/// The address of a device for binding a packet socket to all protocols.
fn link_address(address: &LinkAddr) -> LinkAddr {
    use nix::sys::socket::SockaddrLike;
    let mut raw = nix::libc::sockaddr_ll {
        sll_family: nix::libc::AF_PACKET as u16,
        sll_protocol: (nix::libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: address.ifindex() as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let at = std::ptr::from_mut(&mut raw).cast();
    // SAFETY: (X5) a whole sockaddr_ll.
    unsafe { LinkAddr::from_raw(at, Some(size_of_val(&raw) as u32)) }.unwrap()
}
