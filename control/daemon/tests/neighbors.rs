// SPDX-License-Identifier: Apache-2.0
//! The thread that watches the links of NICs, with real kernels at both ends of the link.

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use podswitch_api::MacAddr;
use podswitch_datapath::events::MissReader;
use podswitch_datapath::{PortId, VrfId};
use podswitch_host::addr::{self, Options};
use podswitch_host::link::{self, Veth, VethEnd};
use podswitch_host::netns::Named;
use podswitch_host::resolution::Socket as Resolution;
use podswitch_host::route::{self, Route};
use podswitch_host::{Link, Socket, neigh, sysctl};
use podswitchd::neighbors::import::{Hop, Imported};
use podswitchd::neighbors::resolver::{Probe, Source, State};
use podswitchd::neighbors::service::{Command, Open, Report, Service};

const NIC_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const MOVED_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];
const PORT: PortId = PortId(7);
const TABLE: u32 = 254;
/// Longer than anything here takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);
const NODAD: Options = Options {
    nodad: true,
    noprefixroute: false,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A node with a NIC, a peer on its link, and the thread in the node's namespace.
struct Bed {
    node: Named,
    peer: Named,
    node_socket: Socket,
    peer_socket: Socket,
    nic: Link,
    service: Service,
    reports: Receiver<Report>,
    /// What the reports come to.
    neighbors: BTreeMap<IpAddr, MacAddr>,
    routes: BTreeMap<IpNet, Imported>,
}

impl Bed {
    fn new() -> Bed {
        let named = || Named::unique("ps-neigh").unwrap();
        let (node, peer) = (named(), named());
        let (mut node_socket, mut peer_socket) = (node.socket().unwrap(), peer.socket().unwrap());
        let end = |name, mac| VethEnd {
            name,
            mac,
            mtu: 1500,
        };
        let veth =
            Veth::new(end("nic0", NIC_MAC), end("peer0", PEER_MAC)).peer_in(peer.netns().as_fd());
        let nic = link::create_veth(&mut node_socket, &veth).unwrap();
        let addresses = [
            (&mut node_socket, "nic0", ["192.0.2.1/24", "fd00::1/64"]),
            (&mut peer_socket, "peer0", ["192.0.2.2/24", "fd00::2/64"]),
        ];
        for (socket, name, nets) in addresses {
            for net in nets {
                addr::add(socket, name, net.parse().unwrap(), NODAD).unwrap();
            }
            link::set_up(socket, name, true).unwrap();
        }
        let (tell, reports) = channel();
        let start = || {
            let report = move |report| tell.send(report).is_ok();
            Service::start(MissReader::new().unwrap(), report).unwrap()
        };
        let service = node.netns().run(start).unwrap();
        let open = || Resolution::open("nic0").unwrap();
        let socket = node.netns().run(open).unwrap();
        service.send(Command::Open(Open {
            port: PORT,
            vrf: VrfId(0),
            socket,
            table: Some(TABLE),
        }));
        Bed {
            node,
            peer,
            node_socket,
            peer_socket,
            nic,
            service,
            reports,
            neighbors: BTreeMap::new(),
            routes: BTreeMap::new(),
        }
    }

    fn want(&self, wanted: &[(&str, Probe)]) {
        let wanted = wanted.iter().map(|(a, probe)| (ip(a), *probe)).collect();
        self.service.send(Command::Want(PORT, wanted));
    }

    /// Takes reports in until what they come to is as wanted; how long that took.
    #[track_caller]
    fn until(&mut self, what: &str, holds: impl Fn(&Bed) -> bool) -> Duration {
        let begun = Instant::now();
        while !holds(self) {
            let left = DEADLINE.saturating_sub(begun.elapsed());
            let Ok(report) = self.reports.recv_timeout(left) else {
                panic!(
                    "not within {DEADLINE:?}: {what}: {:?} {:?}",
                    self.neighbors, self.routes
                );
            };
            self.take(report);
        }
        begun.elapsed()
    }

    fn take(&mut self, report: Report) {
        match report {
            Report::Neighbors(changes) => {
                for change in changes {
                    assert_eq!((change.port, change.vrf), (PORT, VrfId(0)));
                    match change.mac {
                        Some(mac) => drop(self.neighbors.insert(change.address, mac)),
                        None => assert!(self.neighbors.remove(&change.address).is_some()),
                    }
                }
            }
            Report::Routes { table, changes } => {
                assert_eq!(table, TABLE);
                for (prefix, route) in changes {
                    match route {
                        Some(route) => drop(self.routes.insert(prefix, route)),
                        None => assert!(self.routes.remove(&prefix).is_some()),
                    }
                }
            }
        }
    }

    fn knows(&self, address: &str, mac: [u8; 6]) -> bool {
        self.neighbors.get(&ip(address)) == Some(&MacAddr(mac))
    }

    #[track_caller]
    fn until_at(&mut self, address: &str, mac: [u8; 6]) -> Duration {
        self.until(&format!("{address} is known"), |b| b.knows(address, mac))
    }

    #[track_caller]
    fn until_lost(&mut self, address: &str) -> Duration {
        self.until(&format!("{address} is lost"), |b| {
            !b.neighbors.contains_key(&ip(address))
        })
    }
}

#[test]
fn neighbors_are_found_lost_and_found_again() {
    let mut bed = Bed::new();
    let both = ["192.0.2.2", "fd00::2"];
    bed.want(&both.map(|a| (a, Probe::Fast)));
    for address in both {
        bed.until_at(address, PEER_MAC);
    }
    for (address, net) in both.into_iter().zip(["192.0.2.2/24", "fd00::2/64"]) {
        let net = net.parse().unwrap();
        addr::delete(&mut bed.peer_socket, "peer0", net).unwrap();
        let gone = bed.until_lost(address);
        assert!(gone < Duration::from_secs(1), "{address} after {gone:?}");
        addr::add(&mut bed.peer_socket, "peer0", net, NODAD).unwrap();
        bed.until_at(address, PEER_MAC);
    }
    bed.want(&[("192.0.2.2", Probe::Fast)]);
    bed.until_lost("fd00::2");
    assert!(bed.knows("192.0.2.2", PEER_MAC));
}

#[test]
fn a_neighbor_at_another_ethernet_address_is_followed() {
    let mut bed = Bed::new();
    bed.want(&[("192.0.2.2", Probe::Fast), ("fd00::2", Probe::Fast)]);
    bed.until_at("192.0.2.2", PEER_MAC);
    bed.until_at("fd00::2", PEER_MAC);
    link::set_mac(&mut bed.peer_socket, "peer0", MOVED_MAC).unwrap();
    bed.until_at("192.0.2.2", MOVED_MAC);
    bed.until_at("fd00::2", MOVED_MAC);
}

#[test]
fn one_that_says_so_is_followed_at_once() {
    let mut bed = Bed::new();
    bed.want(&[("192.0.2.2", Probe::Keepalive)]);
    bed.until_at("192.0.2.2", PEER_MAC);
    // The peer announces its address when it changes (Documentation/networking/ip-sysctl.rst, arp_notify).
    let notify = || sysctl::set(&sysctl::Key::ipv4_conf("peer0", "arp_notify")?, "1");
    bed.peer.netns().run(notify).unwrap().unwrap();
    link::set_mac(&mut bed.peer_socket, "peer0", MOVED_MAC).unwrap();
    let took = bed.until_at("192.0.2.2", MOVED_MAC);
    assert!(
        took < Duration::from_secs(10),
        "{took:?}: only found out by asking"
    );
}

#[test]
fn the_kernels_table_is_the_other_source() {
    let mut bed = Bed::new();
    // Nobody answers for these; one is there before it is wanted.
    let (before, after) = ("192.0.2.77", "fd00::77");
    let index = bed.nic.index;
    neigh::set_permanent(&mut bed.node_socket, index, ip(before), MOVED_MAC).unwrap();
    bed.want(&[(before, Probe::Keepalive), (after, Probe::Keepalive)]);
    bed.until_at(before, MOVED_MAC);
    neigh::set_permanent(&mut bed.node_socket, index, ip(after), MOVED_MAC).unwrap();
    bed.until_at(after, MOVED_MAC);
    let listed = bed.service.list(DEADLINE);
    assert_eq!(listed.len(), 2);
    for neighbor in listed {
        let view = neighbor.view;
        assert_eq!(
            (view.state, view.source),
            (State::Permanent, Source::Kernel)
        );
    }
    // Taken back: asked for, and not there.
    neigh::delete(&mut bed.node_socket, index, ip(before)).unwrap();
    bed.until_lost(before);
}

#[test]
fn what_the_host_finds_out_is_known_without_a_question() {
    let mut bed = Bed::new();
    // The peer is silent once the host has its answer.
    let say = || UdpSocket::bind("192.0.2.1:0")?.send_to(b"?", "192.0.2.2:9");
    bed.node.netns().run(say).unwrap().unwrap();
    let known = |bed: &mut Bed| {
        let all = neigh::list(&mut bed.node_socket, "nic0").unwrap();
        all.iter()
            .any(|n| n.ip == ip("192.0.2.2") && n.mac == Some(PEER_MAC))
    };
    let begun = Instant::now();
    while !known(&mut bed) {
        assert!(begun.elapsed() < DEADLINE);
        std::thread::park_timeout(Duration::from_millis(2));
    }
    let deaf = || sysctl::set(&sysctl::Key::ipv4_conf("peer0", "arp_ignore")?, "8");
    bed.peer.netns().run(deaf).unwrap().unwrap();
    bed.want(&[("192.0.2.2", Probe::Keepalive)]);
    bed.until_at("192.0.2.2", PEER_MAC);
    assert_eq!(bed.service.list(DEADLINE)[0].view.source, Source::Kernel);
}

#[test]
fn nobody_is_there_while_the_link_is_down() {
    let mut bed = Bed::new();
    bed.want(&[("192.0.2.2", Probe::Keepalive), ("fd00::2", Probe::Fast)]);
    bed.until_at("192.0.2.2", PEER_MAC);
    bed.until_at("fd00::2", PEER_MAC);
    link::set_up(&mut bed.peer_socket, "peer0", false).unwrap();
    let took = bed.until("nobody is there", |b| b.neighbors.is_empty());
    assert!(took < Duration::from_secs(10), "{took:?}");
    link::set_up(&mut bed.peer_socket, "peer0", true).unwrap();
    // IPv6 addresses go with a link that is set down (Documentation/networking/ip-sysctl.rst, keep_addr_on_down).
    let net = "fd00::2/64".parse().unwrap();
    addr::ensure(&mut bed.peer_socket, "peer0", net, NODAD).unwrap();
    bed.until_at("192.0.2.2", PEER_MAC);
    bed.until_at("fd00::2", PEER_MAC);
    // The thread goes on without the interface.
    link::delete(&mut bed.node_socket, "nic0").unwrap();
    bed.until("nobody is there", |b| b.neighbors.is_empty());
    bed.service.send(Command::Close(PORT));
    assert_eq!(bed.service.list(DEADLINE), []);
}

#[test]
fn closing_loses_all() {
    let mut bed = Bed::new();
    bed.want(&[("192.0.2.2", Probe::Keepalive)]);
    bed.until_at("192.0.2.2", PEER_MAC);
    bed.until("routes are read", |b| !b.routes.is_empty());
    bed.service.send(Command::Close(PORT));
    bed.until("all is lost", |b| {
        b.neighbors.is_empty() && b.routes.is_empty()
    });
}

#[test]
fn addresses_that_come_to_the_node_are_announced() {
    let mut bed = Bed::new();
    // The peer has come to know these addresses elsewhere.
    for (pod, from) in [("192.0.2.99", "192.0.2.2:0"), ("fd00::99", "[fd00::2]:0")] {
        let say = || UdpSocket::bind(from)?.send_to(b"?", (ip(pod), 9));
        bed.peer.netns().run(say).unwrap().unwrap();
        let listed = |bed: &mut Bed, fits: &dyn Fn(&neigh::Neighbor) -> bool| {
            let all = neigh::list(&mut bed.peer_socket, "peer0").unwrap();
            all.iter().any(|n| n.ip == ip(pod) && fits(n))
        };
        assert!(listed(&mut bed, &|_| true), "it is looked for");
        bed.service.send(Command::Announce(VrfId(0), ip(pod)));
        let begun = Instant::now();
        while !listed(&mut bed, &|n| n.mac == Some(NIC_MAC)) {
            assert!(begun.elapsed() < DEADLINE, "{pod} is not known at the NIC");
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }
}

#[test]
fn routes_of_the_kernels_table_are_followed() {
    let mut bed = Bed::new();
    let net = |text: &str| text.parse::<IpNet>().unwrap();
    let by = |via: &str| Imported {
        hops: vec![Hop {
            port: PORT,
            via: (!via.is_empty()).then(|| ip(via)),
            weight: 1,
        }],
        mtu: None,
    };
    bed.until("those of its subnets", |b| {
        b.routes == BTreeMap::from([(net("192.0.2.0/24"), by("")), (net("fd00::/64"), by(""))])
    });
    let index = bed.nic.index;
    for (dst, via) in [("10.0.0.0/8", "192.0.2.2"), ("::/0", "fe80::2")] {
        let route = Route::new(net(dst)).via(ip(via)).dev(index).onlink();
        route::add(&mut bed.node_socket, &route).unwrap();
        bed.until("a new one", |b| b.routes.get(&net(dst)) == Some(&by(via)));
        route::replace(&mut bed.node_socket, &route.mtu(1400)).unwrap();
        bed.until("a changed one", |b| {
            b.routes.get(&net(dst)).is_some_and(|r| r.mtu == Some(1400))
        });
        route::delete(&mut bed.node_socket, &route).unwrap();
        bed.until("one that is gone", |b| !b.routes.contains_key(&net(dst)));
    }
    // Of another table, or with a better one elsewhere.
    let mut other = Route::new(net("10.1.0.0/16"))
        .via(ip("192.0.2.2"))
        .dev(index);
    other.table = 100;
    route::add(&mut bed.node_socket, &other).unwrap();
    let mut route = Route::new(net("10.2.0.0/16"))
        .via(ip("192.0.2.2"))
        .dev(index);
    route.priority = Some(50);
    route::add(&mut bed.node_socket, &route).unwrap();
    bed.until("the one of its table", |b| {
        b.routes.contains_key(&net("10.2.0.0/16"))
    });
    assert!(!bed.routes.contains_key(&net("10.1.0.0/16")));
    let mut hole = Route::new(net("10.2.0.0/16"));
    hole.kind = route::Kind::Blackhole;
    hole.priority = Some(10);
    route::add(&mut bed.node_socket, &hole).unwrap();
    bed.until("a better one leads nowhere", |b| {
        !b.routes.contains_key(&net("10.2.0.0/16"))
    });
    // The kernel says nothing of those that go with the link.
    link::set_up(&mut bed.node_socket, "nic0", false).unwrap();
    bed.until("none", |b| b.routes.is_empty());
}
