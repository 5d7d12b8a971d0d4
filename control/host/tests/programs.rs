// SPDX-License-Identifier: Apache-2.0
//! XDP programs and tc filters on veths in namespaces of their own.

mod common;

use std::env;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;

use common::{HOST_MAC, POD_MAC, Pair, readable};
use podswitch_host::bpf::{self, Instruction, ProgramType};
use podswitch_host::tc::{self, Direction};
use podswitch_host::xdp::{self, Mode};
use podswitch_host::{Error, Socket, addr, neigh, netns};

const XDP_PASS: u32 = 2;
const TC_ACT_OK: u32 = 0;
/// Set in the child of the test that needs a process to end.
const CHILD: &str = "PODSWITCH_TEST_DENY_IN";

fn program(kind: ProgramType, name: &str, verdict: u32) -> OwnedFd {
    bpf::load(
        kind,
        name,
        &[Instruction::return_value(verdict), Instruction::exit()],
    )
    .unwrap()
}

fn id(program: &OwnedFd) -> u32 {
    bpf::info_of(program.as_fd()).unwrap().id
}

fn pair() -> Pair {
    Pair::new("ps-host-prog")
}

#[test]
fn a_program_says_what_it_is() {
    let ours = program(ProgramType::Xdp, "podswitch_test", XDP_PASS);
    let info = bpf::info(id(&ours)).unwrap();
    assert_eq!(
        (info.name.as_str(), info.kind),
        ("podswitch_test", ProgramType::Xdp)
    );
    assert!(info.is_ours() && info.tag != [0; 8]);
    assert_eq!(info, bpf::info_of(ours.as_fd()).unwrap());
    let text = bpf::info(u32::MAX).unwrap_err();
    assert!(
        text.is_gone() && text.to_string().contains(&u32::MAX.to_string()),
        "{text}"
    );
}

#[test]
fn the_verifier_is_quoted() {
    let text = bpf::load(ProgramType::Xdp, "podswitch_bad", &[Instruction::exit()])
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("podswitch_bad") && text.contains("R0 !read_ok"),
        "{text}"
    );
}

#[test]
fn xdp_outlives_its_descriptor_in_both_modes() {
    let mut p = pair();
    p.up();
    for mode in [Mode::Native, Mode::Generic] {
        let ours = program(ProgramType::Xdp, "podswitch_test", XDP_PASS);
        xdp::attach(&mut p.node_socket, "host0", ours.as_fd(), mode, None).unwrap();
        let expected = id(&ours);
        drop(ours);
        let attached = xdp::query(&mut p.node_socket, "host0").unwrap();
        assert_eq!(attached.first(), Some((mode, expected)));
        assert_eq!(attached.in_mode(mode), Some(expected));
        assert!(xdp::detach(&mut p.node_socket, "host0", mode).unwrap());
        assert!(!xdp::detach(&mut p.node_socket, "host0", mode).unwrap());
        assert!(xdp::query(&mut p.node_socket, "host0").unwrap().is_empty());
    }
}

#[test]
fn only_the_expected_program_is_replaced() {
    let mut p = pair();
    let [first, second, third] =
        [0; 3].map(|_| program(ProgramType::Xdp, "podswitch_test", XDP_PASS));
    let socket = &mut p.node_socket;
    let mode = Mode::Native;
    xdp::attach(socket, "host0", first.as_fd(), mode, None).unwrap();
    let error = xdp::attach(socket, "host0", second.as_fd(), mode, None).unwrap_err();
    assert_eq!(error.errno(), Some(libc::EBUSY), "{error}");
    let error =
        xdp::attach(socket, "host0", second.as_fd(), mode, Some(third.as_fd())).unwrap_err();
    assert_eq!(error.errno(), Some(libc::EEXIST), "{error}");
    assert!(
        error.to_string().contains("host0") && error.to_string().contains("does not match"),
        "{error}"
    );
    assert_eq!(
        xdp::query(socket, "host0").unwrap().native,
        Some(id(&first))
    );
    xdp::attach(socket, "host0", second.as_fd(), mode, Some(first.as_fd())).unwrap();
    assert_eq!(
        xdp::query(socket, "host0").unwrap().native,
        Some(id(&second))
    );
}

#[test]
fn installing_takes_the_place_of_our_own_only() {
    let mut p = pair();
    let socket = &mut p.node_socket;
    let [first, second] = [0; 2].map(|_| program(ProgramType::Xdp, "podswitch_test", XDP_PASS));
    let theirs = program(ProgramType::Xdp, "their_firewall", XDP_PASS);
    assert_eq!(
        xdp::install(socket, "host0", first.as_fd(), Mode::Native).unwrap(),
        None
    );
    assert_eq!(
        xdp::install(socket, "host0", second.as_fd(), Mode::Native).unwrap(),
        Some(id(&first))
    );
    assert_eq!(
        xdp::query(socket, "host0").unwrap().first(),
        Some((Mode::Native, id(&second)))
    );
    let error = xdp::install(socket, "host0", first.as_fd(), Mode::Generic).unwrap_err();
    assert!(
        matches!(
            error,
            Error::XdpMode {
                attached: Mode::Native,
                ..
            }
        ),
        "{error}"
    );
    assert!(xdp::detach(socket, "host0", Mode::Native).unwrap());
    xdp::attach(socket, "host0", theirs.as_fd(), Mode::Generic, None).unwrap();
    for mode in [Mode::Native, Mode::Generic] {
        let error = xdp::install(socket, "host0", first.as_fd(), mode).unwrap_err();
        assert!(matches!(error, Error::ForeignXdp { .. }), "{error}");
    }
    assert_eq!(
        xdp::query(socket, "host0").unwrap().first(),
        Some((Mode::Generic, id(&theirs)))
    );
}

#[test]
fn a_foreign_program_is_neither_replaced_nor_removed() {
    let ours = program(ProgramType::Xdp, "podswitch_test", XDP_PASS);
    let other = program(ProgramType::Xdp, "podswitch_else", XDP_PASS);
    let theirs = program(ProgramType::Xdp, "their_firewall", XDP_PASS);
    for (their_mode, our_mode) in [
        (Mode::Native, Mode::Native),
        (Mode::Generic, Mode::Generic),
        (Mode::Generic, Mode::Native),
    ] {
        let mut p = pair();
        let socket = &mut p.node_socket;
        xdp::attach(socket, "host0", theirs.as_fd(), their_mode, None).unwrap();
        let refusals = [
            xdp::attach(socket, "host0", ours.as_fd(), our_mode, None),
            xdp::attach(socket, "host0", ours.as_fd(), our_mode, Some(other.as_fd())),
            xdp::detach(socket, "host0", their_mode).map(drop),
        ];
        for error in refusals.map(Result::unwrap_err) {
            assert!(matches!(error, Error::ForeignXdp { .. }), "{error}");
            let text = error.to_string();
            assert!(
                text.contains("host0") && text.contains("their_firewall"),
                "{text}"
            );
            assert!(text.contains(&format!("{their_mode} mode")), "{text}");
        }
        assert_eq!(
            xdp::query(socket, "host0").unwrap().first(),
            Some((their_mode, id(&theirs)))
        );
    }
}

#[test]
fn detaching_names_the_mode_it_was_attached_in() {
    let mut p = pair();
    let ours = program(ProgramType::Xdp, "podswitch_test", XDP_PASS);
    xdp::attach(
        &mut p.node_socket,
        "host0",
        ours.as_fd(),
        Mode::Generic,
        None,
    )
    .unwrap();
    let error = xdp::detach(&mut p.node_socket, "host0", Mode::Native).unwrap_err();
    assert!(
        matches!(
            error,
            Error::XdpMode {
                attached: Mode::Generic,
                asked: Mode::Native,
                ..
            }
        ),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.contains("host0") && text.contains("generic mode") && text.contains("native mode"),
        "{text}"
    );
    assert_eq!(
        xdp::query(&mut p.node_socket, "host0").unwrap().generic,
        Some(id(&ours))
    );
}

#[test]
fn an_mtu_too_large_for_a_program_without_frags_is_explained() {
    let mut p = pair();
    let ours = program(ProgramType::Xdp, "podswitch_test", XDP_PASS);
    podswitch_host::link::set_mtu(&mut p.node_socket, "host0", 9000).unwrap();
    podswitch_host::link::set_mtu(&mut p.pod_socket, "eth0", 9000).unwrap();
    let error = xdp::attach(
        &mut p.node_socket,
        "host0",
        ours.as_fd(),
        Mode::Native,
        None,
    )
    .unwrap_err();
    assert!(
        error.to_string().contains("Peer MTU is too large"),
        "{error}"
    );
    assert!(
        error.to_string().contains("host0") && error.to_string().contains("native"),
        "{error}"
    );
}

#[test]
fn xdp_on_a_missing_interface_names_it() {
    let mut p = pair();
    let ours = program(ProgramType::Xdp, "podswitch_test", XDP_PASS);
    let error = xdp::attach(
        &mut p.node_socket,
        "gone0",
        ours.as_fd(),
        Mode::Native,
        None,
    )
    .unwrap_err();
    assert!(
        error.is_gone() && error.to_string().contains("gone0"),
        "{error}"
    );
    let error = xdp::detach(&mut p.node_socket, 4242, Mode::Native).unwrap_err();
    assert!(
        error.is_gone() && error.to_string().contains("4242"),
        "{error}"
    );
}

#[test]
fn filters_are_listed_and_removed_by_name() {
    let mut p = pair();
    let socket = &mut p.node_socket;
    let ok = program(ProgramType::SchedCls, "podswitch_ok", TC_ACT_OK);
    let error =
        tc::attach(socket, "host0", Direction::Ingress, 7, "first", ok.as_fd()).unwrap_err();
    assert!(
        error.to_string().contains("host0") && error.to_string().contains("first"),
        "{error}"
    );
    assert_eq!(tc::list(socket, "host0", Direction::Ingress).unwrap(), []);

    assert!(tc::ensure_clsact(socket, "host0").unwrap());
    assert!(!tc::ensure_clsact(socket, "host0").unwrap());
    tc::attach(socket, "host0", Direction::Ingress, 7, "first", ok.as_fd()).unwrap();
    tc::attach(socket, "host0", Direction::Ingress, 8, "second", ok.as_fd()).unwrap();
    let error =
        tc::attach(socket, "host0", Direction::Ingress, 8, "third", ok.as_fd()).unwrap_err();
    assert!(error.exists(), "{error}");

    let found = tc::list(socket, "host0", Direction::Ingress).unwrap();
    let seen: Vec<_> = found
        .iter()
        .map(|f| (f.priority, f.name.as_str(), f.program))
        .collect();
    assert_eq!(
        seen,
        [(7, "first", Some(id(&ok))), (8, "second", Some(id(&ok)))]
    );
    assert_eq!(tc::list(socket, "host0", Direction::Egress).unwrap(), []);
    assert_eq!(
        tc::remove(socket, "host0", Direction::Ingress, "first").unwrap(),
        1
    );
    assert_eq!(
        tc::remove(socket, "host0", Direction::Ingress, "first").unwrap(),
        0
    );
    assert_eq!(
        tc::list(socket, "host0", Direction::Ingress).unwrap().len(),
        1
    );
    assert!(tc::remove_clsact(socket, "host0").unwrap());
    assert!(!tc::remove_clsact(socket, "host0").unwrap());
}

/// `host0` and `eth0` with addresses that need no ARP.
fn addressed() -> Pair {
    let mut p = pair();
    p.up();
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    addr::add(
        &mut p.node_socket,
        "host0",
        "10.1.0.1/24".parse().unwrap(),
        addr::Options::default(),
    )
    .unwrap();
    addr::add(
        &mut p.pod_socket,
        "eth0",
        "10.1.0.2/24".parse().unwrap(),
        addr::Options::default(),
    )
    .unwrap();
    neigh::set_permanent(&mut p.node_socket, "host0", ip("10.1.0.2"), POD_MAC).unwrap();
    neigh::set_permanent(&mut p.pod_socket, "eth0", ip("10.1.0.1"), HOST_MAC).unwrap();
    p
}

/// Sends from one socket to the other and gives what arrives first.
fn first_arrival(to: &UdpSocket) -> u8 {
    assert!(readable(to, common::DEADLINE), "nothing arrived");
    let mut byte = [0];
    to.recv(&mut byte).unwrap();
    byte[0]
}

#[test]
fn the_drop_filter_drops_both_ways_after_its_process_has_ended() {
    if let Ok(path) = env::var(CHILD) {
        let work = || tc::deny(&mut Socket::open()?, "host0");
        assert!(netns::run_in(path, work).unwrap().unwrap());
        return;
    }
    let mut p = addressed();
    let host = p
        .node
        .netns()
        .run(|| UdpSocket::bind("10.1.0.1:4000").unwrap())
        .unwrap();
    let pod = p
        .pod
        .netns()
        .run(|| UdpSocket::bind("10.1.0.2:4000").unwrap())
        .unwrap();
    let send = |from: &UdpSocket, to: &UdpSocket, byte| {
        // Egress drops may be reported to the sender; what counts is what arrives.
        let _ = from.send_to(&[byte], to.local_addr().unwrap());
    };
    for (from, to) in [(&pod, &host), (&host, &pod)] {
        send(from, to, b'a');
        assert_eq!(first_arrival(to), b'a', "open before");
    }

    let name = "the_drop_filter_drops_both_ways_after_its_process_has_ended";
    let mut child = Command::new(env::current_exe().unwrap());
    let done = child
        .args(["--exact", name])
        .env(CHILD, p.node.path())
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stdout)
    );
    assert!(tc::denied(&mut p.node_socket, "host0").unwrap());
    assert!(
        !tc::deny(&mut p.node_socket, "host0").unwrap(),
        "a second time changes nothing"
    );

    let before = podswitch_host::link::get(&mut p.node_socket, "host0")
        .unwrap()
        .stats
        .rx_packets;
    for (from, to) in [(&pod, &host), (&host, &pod)] {
        send(from, to, b'b');
    }
    common::eventually("the pod's datagram is on the host end", || {
        podswitch_host::link::get(&mut p.node_socket, "host0")
            .unwrap()
            .stats
            .rx_packets
            > before
    });
    common::eventually("the filter's drops are counted", || {
        tc::dropped(&mut p.node_socket, "host0").unwrap() >= 1
    });
    for direction in Direction::BOTH {
        assert_eq!(
            tc::remove(&mut p.node_socket, "host0", direction, tc::DENY_NAME).unwrap(),
            1
        );
    }
    for (from, to) in [(&pod, &host), (&host, &pod)] {
        send(from, to, b'c');
        assert_eq!(
            first_arrival(to),
            b'c',
            "nothing of what was sent in between arrives"
        );
    }
    assert!(!tc::denied(&mut p.node_socket, "host0").unwrap());
}
