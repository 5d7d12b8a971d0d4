// SPDX-License-Identifier: Apache-2.0
//! Address resolution with real kernels at the other end.

mod common;

use std::net::{IpAddr, UdpSocket};
use std::time::Instant;

use common::{DEADLINE, HOST_MAC, POD_MAC, Pair, eventually, readable};
use podswitch_host::addr::{self, Options};
use podswitch_host::resolution::{Heard, Message, Socket};
use podswitch_host::{link, neigh, tc};

const NODAD: Options = Options {
    nodad: true,
    noprefixroute: false,
};

/// Both ends up, the pod's with addresses.
fn pair() -> Pair {
    let mut p = Pair::new("ps-host-resolve");
    for net in ["10.1.0.2/24", "fd00::2/64"] {
        addr::add(&mut p.pod_socket, "eth0", net.parse().unwrap(), NODAD).unwrap();
    }
    for net in ["10.1.0.1/24", "fd00::1/64"] {
        addr::add(&mut p.node_socket, "host0", net.parse().unwrap(), NODAD).unwrap();
    }
    p.up();
    p
}

fn open(p: &Pair) -> Socket {
    let open = || Socket::open("host0");
    p.node.netns().run(open).unwrap().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ask(target: &str, to: Option<[u8; 6]>) -> Message {
    match (ip(target), ip("10.1.0.1"), ip("fd00::1")) {
        (IpAddr::V4(target), IpAddr::V4(from), _) => Message::Request { target, from, to },
        (IpAddr::V6(target), _, IpAddr::V6(from)) => Message::Solicitation { target, from, to },
        _ => unreachable!(),
    }
}

/// Asks until somebody answers; questions to an interface that has just come up may be lost.
#[track_caller]
fn answer(socket: &mut Socket, message: &Message, address: IpAddr) -> Heard {
    let start = Instant::now();
    while start.elapsed() < DEADLINE {
        socket.send(HOST_MAC, message).unwrap();
        let again = std::time::Duration::from_millis(200);
        while readable(socket, again) {
            let mut found = None;
            socket
                .receive(HOST_MAC, |heard| {
                    found = found.or((heard.answer && heard.address == address).then_some(heard));
                })
                .unwrap();
            if let Some(heard) = found {
                return heard;
            }
        }
    }
    panic!("no answer to {message:?} within {DEADLINE:?}");
}

#[test]
fn a_kernel_answers_questions_to_everyone_and_to_itself() {
    let p = pair();
    let mut socket = open(&p);
    for target in ["10.1.0.2", "fd00::2"] {
        for to in [None, Some(POD_MAC)] {
            let heard = answer(&mut socket, &ask(target, to), ip(target));
            assert!(
                heard.mac.is_none_or(|mac| mac == POD_MAC) && (heard.mac.is_some() || to.is_some()),
                "{heard:?}"
            );
        }
    }
}

#[test]
fn a_question_without_an_address_of_our_own_is_answered() {
    let p = pair();
    let mut socket = open(&p);
    let probe = Message::Request {
        target: "10.1.0.2".parse().unwrap(),
        from: "0.0.0.0".parse().unwrap(),
        to: None,
    };
    let heard = answer(&mut socket, &probe, ip("10.1.0.2"));
    assert_eq!(heard.mac, Some(POD_MAC));
}

#[test]
fn what_is_of_a_vlan_is_not_heard() {
    let mut p = pair();
    let mut here = open(&p);
    let open_at_pod = || Socket::open("eth0");
    let mut there = p.pod.netns().run(open_at_pod).unwrap().unwrap();
    // An id of 0 is none.
    let vlans = [7, 0];
    let address = |vlan: u16| IpAddr::from([10, 9, 0, vlan as u8]);
    for vlan in vlans {
        tc::remove_clsact(&mut p.pod_socket, "eth0").unwrap();
        tc::push_tag(&mut p.pod_socket, "eth0", vlan).unwrap();
        let message = Message::Announcement {
            address: address(vlan),
        };
        assert!(there.send(POD_MAC, &message).unwrap());
    }
    let mut heard = Vec::new();
    eventually("the announcement is heard", || {
        here.receive(HOST_MAC, |h| heard.push(h.address)).unwrap();
        heard.contains(&address(0))
    });
    heard.retain(|a| a.to_string().starts_with("10.9."));
    assert_eq!(heard, [address(0)]);
}

#[test]
fn an_announcement_changes_what_the_other_kernel_knows() {
    let mut p = pair();
    let mut socket = open(&p);
    let moved = [2, 0, 0, 0, 0, 0x77];
    for address in ["10.1.0.1", "fd00::1"] {
        // The peer comes to know the address at the node's own interface.
        let from = if ip(address).is_ipv4() {
            "10.1.0.2:0"
        } else {
            "[fd00::2]:0"
        };
        let say = || UdpSocket::bind(from)?.send_to(b"?", (ip(address), 9));
        let knows = |p: &mut Pair, mac| {
            let all = neigh::list(&mut p.pod_socket, "eth0").unwrap();
            all.iter()
                .any(|n| n.ip == ip(address) && n.mac == Some(mac))
        };
        eventually("the peer knows the node", || {
            p.pod.netns().run(say).unwrap().unwrap();
            knows(&mut p, HOST_MAC)
        });
        let message = Message::Announcement {
            address: ip(address),
        };
        // A kernel keeps a fresh entry for a second (net.ipv4.neigh.*.locktime).
        eventually("the peer has learned where it is now", || {
            assert!(socket.send(moved, &message).unwrap());
            knows(&mut p, moved)
        });
    }
}

#[test]
fn nothing_else_is_copied_up_and_the_kernel_keeps_its_own() {
    let p = pair();
    let mut socket = open(&p);
    // A conversation of the two kernels: they resolve each other beside us, and their datagrams are not for us.
    let (node, pod) = (p.node.netns(), p.pod.netns());
    for (a, b) in [("10.1.0.1:7", "10.1.0.2:7"), ("[fd00::1]:7", "[fd00::2]:7")] {
        let server = pod.run(|| UdpSocket::bind(b)).unwrap().unwrap();
        let client = node.run(|| UdpSocket::bind(a)).unwrap().unwrap();
        server.set_read_timeout(Some(DEADLINE)).unwrap();
        client.send_to(b"hello", b).unwrap();
        let (mut buffer, mut heard) = ([0; 16], Vec::new());
        assert_eq!(server.recv(&mut buffer).unwrap(), 5);
        socket.receive(HOST_MAC, |h| heard.push(h)).unwrap();
        let address = b.parse::<std::net::SocketAddr>().unwrap().ip();
        assert!(
            heard.iter().any(|h| h.address == address && h.answer),
            "{heard:?}"
        );
    }
}

#[test]
fn an_interface_that_is_down_or_gone() {
    let mut p = pair();
    let mut socket = open(&p);
    answer(&mut socket, &ask("10.1.0.2", None), ip("10.1.0.2"));
    link::set_up(&mut p.node_socket, "host0", false).unwrap();
    assert!(!socket.send(HOST_MAC, &ask("10.1.0.2", None)).unwrap());
    socket.receive(HOST_MAC, |_| {}).unwrap();
    link::set_up(&mut p.node_socket, "host0", true).unwrap();
    answer(&mut socket, &ask("10.1.0.2", None), ip("10.1.0.2"));
    link::delete(&mut p.node_socket, "host0").unwrap();
    let error = socket.send(HOST_MAC, &ask("10.1.0.2", None)).unwrap_err();
    assert!(error.is_gone(), "{error}");
    socket.receive(HOST_MAC, |_| {}).unwrap();
}

#[test]
fn what_cannot_be_opened_is_named() {
    let p = pair();
    let open = || Socket::open("no-such");
    let opened = p.node.netns().run(open).unwrap();
    assert!(opened.unwrap_err().to_string().contains("no-such"));
}
