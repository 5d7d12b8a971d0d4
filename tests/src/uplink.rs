// SPDX-License-Identifier: Apache-2.0
//! A node's NIC: a veth that plays a wire between the node and a peer on it, and a connection of the host's own over it.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::frames::{Ends, parse_mac};
use crate::netns::Netns;
use crate::node::Node;
use crate::objects::set;
use crate::programs::run;
use crate::traffic::{Echo, tcp_connect};
use crate::wait::{HUNG, eventually};

/// The NIC's name in the node, and that of the peer's end.
pub const NIC: &str = "eth0";
/// The node's address on the wire.
pub const NODE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The peer's.
pub const PEER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
/// The node's IPv6 address, where there are any.
pub const NODE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 1);
/// The peer's.
pub const PEER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 9);
/// Between two messages of a [`Session`].
const EVERY: Duration = Duration::from_millis(10);

/// Brings an end of a veth up as that of a wire: it finishes checksums, as a wire carries whole ones.
///
/// # Panics
/// If there is no such interface, or no ethtool.
#[track_caller]
pub fn plug(netns: &Netns, interface: &str) {
    let mut ethtool = netns.command("ethtool");
    let off = ethtool.args(["-K", interface, "tx", "off"]);
    run(off, b"", HUNG).success("ethtool -K");
    netns.ip(&format!("link set {interface} up"));
}

/// A peer on a wire that ends in a NIC of the node.
#[derive(Debug)]
pub struct Uplink {
    /// Where the peer is.
    pub peer: Netns,
}

impl Uplink {
    /// Makes the wire: a veth with so many queues on the node's end, both ends plugged in, with addresses of one subnet.
    #[track_caller]
    pub fn new(node: &Node, queues: u32) -> Uplink {
        let peer = Netns::new("peer");
        let netns = node.netns();
        netns.ip(&format!(
            "link add {NIC} numrxqueues {queues} numtxqueues {queues} type veth peer name {NIC} netns {} numrxqueues {queues} \
             numtxqueues {queues}",
            peer.name()
        ));
        for (end, address) in [(netns, NODE_V4), (&peer, PEER_V4)] {
            end.ip(&format!("address add {address}/24 dev {NIC}"));
            plug(end, NIC);
        }
        Uplink { peer }
    }

    /// The same with IPv6 addresses, too.
    #[track_caller]
    pub fn of_both_families(node: &Node, queues: u32) -> Uplink {
        let uplink = Uplink::new(node, queues);
        for (end, address) in [(node.netns(), NODE_V6), (&uplink.peer, PEER_V6)] {
            end.ip(&format!("address add {address}/64 dev {NIC} nodad"));
        }
        uplink
    }

    /// Changes that make the peer the way to everybody, of both families.
    pub fn default_routes() -> [Value; 2] {
        [("0.0.0.0/0", PEER_V4.into()), ("::/0", PEER_V6.into())].map(
            |(prefix, via): (_, IpAddr)| {
                set(json!({"kind": "route", "prefix": prefix, "port": "uplink", "via": via}))
            },
        )
    }

    /// The port on the NIC, as an object.
    pub fn port(&self, mode: &str) -> Value {
        json!({"kind": "port", "name": "uplink", "device": {"kind": "nic", "interface": NIC, "mode": mode}})
    }

    /// MAC address of an end.
    #[track_caller]
    pub fn mac(netns: &Netns) -> [u8; 6] {
        let links = netns.ip_json(&format!("link show dev {NIC}"));
        parse_mac(links[0]["address"].as_str().expect("a MAC address"))
    }

    /// Ends of packets from the peer to an address, by the node.
    #[track_caller]
    pub fn ends(&self, node: &Node, to: IpAddr) -> Ends {
        Ends {
            source_mac: Uplink::mac(&self.peer),
            destination_mac: Uplink::mac(node.netns()),
            from: PEER_V4.into(),
            to,
        }
    }
}

/// A TCP connection of the host's own: the peer sends a numbered message every 10 ms, the node's own stack echoes it.
#[derive(Debug)]
pub struct Session {
    stop: Arc<AtomicBool>,
    echoed: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<Duration, String>>>,
    _server: Option<Echo>,
}

impl Session {
    /// Connects to a server that it starts in the node's namespace.
    #[track_caller]
    pub fn start(node: &Node, uplink: &Uplink) -> Session {
        let server = Echo::start(node.netns(), 2222);
        let port = server.port();
        Session::with(&uplink.peer, NODE_V4.into(), port, Some(server))
    }

    /// Connects to an echo server that runs there already.
    #[track_caller]
    pub fn connect(peer: &Netns, to: IpAddr, port: u16) -> Session {
        Session::with(peer, to, port, None)
    }

    #[track_caller]
    fn with(peer: &Netns, to: IpAddr, port: u16, server: Option<Echo>) -> Session {
        let stream = tcp_connect(peer, to, port, HUNG);
        let stream = stream.expect("a connection to the node itself");
        let (stop, echoed) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopped, count) = (stop.clone(), echoed.clone());
        let session = Session {
            stop,
            echoed,
            thread: Some(std::thread::spawn(move || {
                exchange(stream, &stopped, &count)
            })),
            _server: server,
        };
        session.goes_on("connecting");
        session
    }

    /// Waits until some more messages have come back.
    ///
    /// # Panics
    /// When they do not.
    #[track_caller]
    pub fn goes_on(&self, after: &str) {
        let before = self.echoed.load(Ordering::Relaxed);
        let what = format!("the host's connection goes on after {after}");
        eventually(&what, HUNG, || {
            let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            assert!(!ended, "the host's connection ended after {after}");
            (self.echoed.load(Ordering::Relaxed) >= before + 20).then_some(())
        });
    }

    /// Whether no message comes back for so long.
    pub fn is_silent(&self, time: Duration) -> bool {
        let before = self.echoed.load(Ordering::Relaxed);
        std::thread::sleep(time);
        self.echoed.load(Ordering::Relaxed) == before
    }

    /// Ends it, and gives the longest time that a message took to come back.
    ///
    /// # Panics
    /// When it was reset, or something came back that was not sent.
    #[track_caller]
    pub fn end(mut self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it ends once");
        let longest = thread.join().expect("the connection's thread");
        longest.expect("the host's connection")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sends and receives in turn; gives the longest time of one.
fn exchange(
    mut stream: TcpStream,
    stop: &AtomicBool,
    echoed: &AtomicU64,
) -> Result<Duration, String> {
    let said = |what: &'static str| move |e: std::io::Error| format!("{what}: {e}");
    stream.set_nodelay(true).map_err(said("TCP_NODELAY"))?;
    let timeout = stream.set_read_timeout(Some(HUNG));
    timeout.map_err(said("read timeout"))?;
    let mut longest = Duration::ZERO;
    let mut number = 0u64;
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        stream
            .write_all(&number.to_be_bytes())
            .map_err(said("send"))?;
        let mut back = [0; 8];
        stream.read_exact(&mut back).map_err(said("receive"))?;
        if u64::from_be_bytes(back) != number {
            return Err(format!("{back:02x?} came back for message {number}"));
        }
        longest = longest.max(began.elapsed());
        number += 1;
        echoed.store(number, Ordering::Relaxed);
        // The pace of the connection, not a wait for something.
        std::thread::sleep(EVERY);
    }
    Ok(longest)
}
