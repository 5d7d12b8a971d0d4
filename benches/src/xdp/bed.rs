// SPDX-License-Identifier: Apache-2.0
//! Namespaces with a node and its pods, and veths between them.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use podswitch_datapath::port::xdp::{Loader, Queue, Steering};
use podswitch_host::link::{self, Veth, VethEnd};
use podswitch_host::netns::Named;
use podswitch_host::xdp::{self, Mode};

/// MTU of the pods.
pub(super) const MTU: u32 = 1500;
/// Begins the names of the namespaces.
const PREFIX: &str = "ps-bench";
const CARRIER: Duration = Duration::from_secs(20);

/// A pod: a namespace with an `eth0`.
pub(super) struct Pod {
    /// The namespace.
    pub(super) netns: Named,
    /// Name of the node's end.
    host: String,
    /// Where the node's end receives.
    pub(super) queue: Queue,
    links: podswitch_host::Socket,
}

/// A node's namespace, and its pods in namespaces of their own. Dropping it deletes them.
pub(super) struct Bed {
    /// The node.
    pub(super) node: Named,
    links: podswitch_host::Socket,
    loader: Loader,
    /// The pods.
    pub(super) pods: Vec<Pod>,
}

/// A namespace in which nothing is sent but by us.
fn quiet() -> Named {
    let named = Named::unique(PREFIX).expect("a network namespace (needs root)");
    let silence = || {
        for scope in ["all", "default"] {
            let path = format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6");
            if Path::new(&path).exists() {
                std::fs::write(path, "1").expect("IPv6 can be turned off");
            }
        }
    };
    named.netns().run(silence).expect("a thread in it");
    named
}

impl Bed {
    /// With so many pods.
    ///
    /// # Panics
    /// When the kernel refuses; what was made is taken apart.
    pub(super) fn new(pods: usize) -> Bed {
        let node = quiet();
        let mut links = node.socket().expect("an rtnetlink socket");
        let pods = (0..pods).map(|n| Pod::new(&mut links, n)).collect();
        Bed {
            node,
            links,
            loader: Loader::new(),
            pods,
        }
    }

    /// Has a pod's frames go to an AF_XDP socket, as long as the result lives.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub(super) fn steer(&mut self, pod: usize, socket: impl AsFd) -> Steering {
        let queue = self.pods[pod].queue;
        let steering = {
            let _guard = self.node.netns().enter().expect("the node's namespace");
            self.loader.steering(1, Some(queue.interface))
        };
        let mut steering = steering.expect("the steering program loads");
        steering
            .insert(0, socket.as_fd())
            .expect("a socket in the program's map");
        let host = self.pods[pod].host.as_str();
        xdp::install(&mut self.links, host, steering.fd(), Mode::Native)
            .expect("a native XDP program on a veth");
        steering
    }
}

impl Pod {
    fn new(links: &mut podswitch_host::Socket, number: usize) -> Pod {
        let netns = quiet();
        let host = format!("pod{number}");
        // Not the address that the switch knows the pod by: what arrives is another host's, and is dropped first thing
        // in the stack, so that the receiver costs as little as it can.
        let mac = |side: u8| [2, 0, 0, 1, side, number as u8];
        let end = |name, side| VethEnd {
            name,
            mac: mac(side),
            mtu: MTU,
        };
        let veth = Veth::new(end(&host, 1), end("eth0", 2)).peer_in(netns.netns().as_fd());
        let index = link::create_veth(links, &veth).expect("a veth pair").index;
        let mut inside = netns.socket().expect("an rtnetlink socket");
        link::set_up(&mut inside, "eth0", true).expect("eth0 up");
        link::set_up(links, host.as_str(), true).expect("the node's end up");
        let deadline = Instant::now() + CARRIER;
        while !link::get(links, host.as_str()).is_ok_and(|l| l.flags.lower_up()) {
            assert!(Instant::now() < deadline, "{host} has no carrier");
            std::thread::yield_now();
        }
        Pod {
            netns,
            host,
            queue: Queue {
                interface: index,
                queue: 0,
            },
            links: inside,
        }
    }

    /// Index of the pod's own end, to send from.
    ///
    /// # Panics
    /// When it is gone.
    pub(super) fn own_index(&mut self) -> u32 {
        link::get(&mut self.links, "eth0").expect("eth0").index
    }

    /// Frames that have arrived at the pod's `eth0`.
    ///
    /// # Panics
    /// When it is gone.
    pub(super) fn received(&mut self) -> u64 {
        let link = link::get(&mut self.links, "eth0").expect("eth0");
        link.stats.rx_packets
    }
}
