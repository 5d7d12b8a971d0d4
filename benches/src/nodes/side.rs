// SPDX-License-Identifier: Apache-2.0
//! A pod on each of two nodes that a wire joins, whoever forwards between them.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use podswitch_tests::fabric::nic_mac;
use podswitch_tests::frames::{Ends, parse_mac};
use podswitch_tests::programs::run;
use podswitch_tests::traffic::{Echo, udp_echo};
use podswitch_tests::wait::HUNG;
use podswitch_tests::{Netns, uplink};

use crate::traffic;
use crate::xdp::generator::Sender;

/// The port of the datagrams.
pub const UDP: u16 = 9000;
/// The port of the TCP stream.
pub const TCP: u16 = 9001;
/// Policies that are loaded.
pub const POLICIES: usize = 1000;
/// Flows of datagrams, which differ by source port, and the first one's.
pub const FLOWS: u16 = 500;
const FIRST: u16 = 20_000;
/// How often an unanswered datagram is sent again, and how long each is waited for.
const TRIES: usize = 20;
const ANSWER: Duration = Duration::from_millis(500);

/// A node's address on the wire.
pub fn node(n: u8) -> String {
    format!("192.0.2.{n}")
}

/// The pods of a node.
pub fn pods_of(n: u8) -> String {
    format!("10.244.{n}.0/24")
}

/// The peer that policy `n` lets on; the last one is the pod of the other node.
pub fn peer(n: usize) -> String {
    match n + 1 == POLICIES {
        true => pods_of(1),
        false => format!("10.9.{}.{}/32", n >> 8, n & 255),
    }
}

/// Joins two nodes by a wire: `nic0` in both, with an address, and without offloads, as a wire has none.
pub fn wire(a: &Netns, b: &Netns) {
    a.ip(&format!(
        "link add nic0 type veth peer name nic0 netns {}",
        b.name()
    ));
    for (netns, n) in [(a, 1), (b, 2)] {
        netns.ip(&format!("link set nic0 address {}", nic_mac(n)));
        netns.ip(&format!("address add {}/24 dev nic0", node(n)));
        uplink::plug(netns, "nic0");
    }
}

/// What forwards between the two pods; when it is dropped, all of it goes.
pub trait Forwarder {
    /// The pods' namespaces: the sender's, the receiver's.
    fn pods(&self) -> [&Netns; 2];
    /// Their addresses.
    fn addresses(&self) -> [IpAddr; 2];
    /// The nodes.
    fn nodes(&self) -> [&Netns; 2];
    /// Sees to it that it worked as it should.
    ///
    /// # Panics
    /// When it did not.
    fn check(&self) {}
}

/// One of the things that are compared.
pub struct Side {
    /// What it is.
    pub label: &'static str,
    forwarder: Box<dyn Forwarder>,
}

impl Side {
    /// Its flows are known in both directions, and datagrams end where the receiver gets them.
    ///
    /// # Panics
    /// When the pods cannot reach each other.
    pub fn new(label: &'static str, forwarder: Box<dyn Forwarder>) -> Side {
        let side = Side { label, forwarder };
        side.establish();
        // The stack of the receiver is not what is measured.
        let rules = format!(
            "table netdev bench {{ chain ingress {{ type filter hook ingress device eth0 priority 0; udp dport {UDP} drop; }}; }}"
        );
        nft(side.server(), &rules);
        side
    }

    /// The pod that sends.
    pub fn client(&self) -> &Netns {
        self.forwarder.pods()[0]
    }

    /// The pod that receives.
    pub fn server(&self) -> &Netns {
        self.forwarder.pods()[1]
    }

    /// The receiver's address.
    pub fn server_at(&self) -> IpAddr {
        self.forwarder.addresses()[1]
    }

    /// Has each flow's first datagram answered: the kernel knows a flow as established only then.
    fn establish(&self) {
        let echo = Echo::start(self.server(), UDP);
        let (from, to) = (
            self.forwarder.addresses()[0],
            (self.server_at(), echo.port()),
        );
        for port in FIRST..FIRST + FLOWS {
            let socket = self.client().run(|| {
                let socket = UdpSocket::bind((from, port));
                let socket = socket.expect("the flow's port");
                socket.connect(to).expect("a way to the receiver");
                socket
            });
            let answered = (0..TRIES).any(|_| udp_echo(&socket, b"first", ANSWER));
            assert!(answered, "{}: no answer to port {port}", self.label);
        }
    }

    /// What sends its datagrams.
    ///
    /// # Panics
    /// When the kernel does not take the generator's program.
    pub(crate) fn sender(&self) -> Sender {
        let client = self.client();
        let links = client.ip_json("link show dev eth0");
        let index = links[0]["ifindex"].as_u64().expect("an index") as u32;
        let [from, to] = self.forwarder.addresses();
        let ends = Ends {
            source_mac: parse_mac(links[0]["address"].as_str().expect("a MAC address")),
            destination_mac: self.gateway_mac(),
            from,
            to,
        };
        let frame = traffic::datagram(&ends, (FIRST, UDP));
        let netns = podswitch_host::netns::open(client.path()).expect("the pod's namespace");
        Sender::open(&netns, index, frame, FLOWS)
    }

    /// To whom the pod sends what is for elsewhere: it has spoken to nobody else.
    fn gateway_mac(&self) -> [u8; 6] {
        let neighbors = self.client().ip_json("-4 neigh show dev eth0");
        let mac = neighbors.iter().find_map(|n| n["lladdr"].as_str());
        parse_mac(mac.expect("the gateway's MAC address"))
    }

    /// Datagrams and whatever else has arrived at the receiver's `eth0`.
    ///
    /// # Panics
    /// When it is gone.
    pub fn received(&self) -> u64 {
        let text = self
            .server()
            .run(|| std::fs::read_to_string("/proc/thread-self/net/dev"));
        let text = text.expect("the interfaces' counters");
        let line = text.lines().find_map(|l| l.trim().strip_prefix("eth0:"));
        let words = line.map(|l| l.split_whitespace().collect::<Vec<_>>());
        let packets = words.as_ref().and_then(|w| w.get(1)?.parse().ok());
        packets.expect("packets that eth0 received")
    }

    /// Has the NICs merge the segments of a stream that they receive.
    pub fn merge(&self) {
        for node in self.forwarder.nodes() {
            let mut ethtool = node.command("ethtool");
            let on = ethtool.args(["-K", "nic0", "gro", "on"]);
            run(on, b"", HUNG).success("ethtool -K");
        }
    }

    /// Sees to it that it worked as it should.
    pub fn check(&self) {
        self.forwarder.check();
    }
}

/// Gives nft(8) rules in a namespace.
///
/// # Panics
/// When it refuses them.
pub fn nft(netns: &Netns, rules: &str) {
    let mut nft = netns.command("nft");
    run(nft.args(["-f", "-"]), rules.as_bytes(), HUNG).success("nft");
}
