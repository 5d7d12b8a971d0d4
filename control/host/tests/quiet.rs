// SPDX-License-Identifier: Apache-2.0
//! A deaf interface: says nothing, hears nothing.

mod common;

use std::time::Duration;

use common::{Capture, DEADLINE, HOST_MAC, POD_MAC, Pair, eventually};
use podswitch_host::deaf::{self, Deafened};
use podswitch_host::route::{self, Route};
use podswitch_host::sysctl::{self, Key};
use podswitch_host::{addr, link, tc};

const ICMPV6_ROUTER_SOLICITATION: u8 = 133;

fn pair() -> Pair {
    Pair::new("ps-host-deaf")
}

fn deafen(p: &mut Pair) -> Deafened {
    let socket = &mut p.node_socket;
    p.node
        .netns()
        .run(|| deaf::deafen(socket, "host0"))
        .unwrap()
        .unwrap()
}

fn capture_in_pod(p: &Pair) -> Capture {
    p.pod
        .netns()
        .run(|| Capture::open(p.eth0.index))
        .unwrap()
        .unwrap()
}

/// Frames the host end sent: not the pod's own, which a capture sees too.
fn from_host(frame: &[u8]) -> bool {
    frame[6..12] == HOST_MAC
}

/// An Ethernet ARP request of the pod for this address (RFC 826).
fn arp_request(target: [u8; 4]) -> Vec<u8> {
    let mut frame = [[0xff; 6], POD_MAC].concat();
    frame.extend_from_slice(&[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend_from_slice(&POD_MAC);
    frame.extend_from_slice(&[10, 1, 0, 2, 0, 0, 0, 0, 0, 0]);
    frame.extend_from_slice(&target);
    frame
}

fn is_arp_reply(frame: &[u8]) -> bool {
    frame[12..14] == [0x08, 0x06] && frame[20..22] == [0, 2]
}

#[test]
fn a_deaf_interface_says_nothing() {
    let (mut deaf, mut control) = (pair(), pair());
    let done = deafen(&mut deaf);
    let (mut deaf_frames, mut control_frames) = (capture_in_pod(&deaf), capture_in_pod(&control));
    deaf.up();
    control.up();
    // The control shows that the listener works, and how long a host takes to say the last of what it says unasked: a
    // router solicitation follows duplicate address detection.
    if done.has_ipv6() {
        let mut solicited = false;
        while !solicited {
            let frame = control_frames
                .next(DEADLINE)
                .expect("the control interface says something");
            solicited = from_host(&frame)
                && frame[12..14] == [0x86, 0xdd]
                && frame[54] == ICMPV6_ROUTER_SOLICITATION;
        }
    }
    while let Some(frame) = deaf_frames.next(Duration::from_millis(500)) {
        assert!(!from_host(&frame), "the deaf interface sent {frame:02x?}");
    }
    assert_eq!(
        link::get(&mut deaf.node_socket, "host0")
            .unwrap()
            .stats
            .tx_packets,
        0
    );
    assert_eq!(addr::list(&mut deaf.node_socket, "host0").unwrap(), []);
}

#[test]
fn what_deafening_changes_is_known_before() {
    let mut p = pair();
    let (node, socket) = (p.node.netns(), &mut p.node_socket);
    let plan = |socket: &mut podswitch_host::Socket| {
        node.run(|| deaf::plan(socket, "host0")).unwrap().unwrap()
    };
    let planned = plan(socket);
    let had_clsact = tc::has_clsact(socket, "host0").unwrap();
    let done = node.run(|| deaf::deafen(socket, "host0")).unwrap().unwrap();
    let changed: Vec<_> = done
        .changes
        .into_iter()
        .filter(|c| c.before != c.after)
        .collect();
    assert!(!planned.is_empty() && !had_clsact);
    assert_eq!(planned, changed);
    assert_eq!(plan(socket), []);
}

#[test]
fn a_deaf_interface_answers_no_arp() {
    let (mut deaf, mut control) = (pair(), pair());
    deafen(&mut deaf);
    for p in [&mut deaf, &mut control] {
        p.up();
        // An address of the host that it would answer for on any interface.
        addr::add(
            &mut p.node_socket,
            "lo",
            "10.9.9.1/32".parse().unwrap(),
            addr::Options::default(),
        )
        .unwrap();
    }
    let (mut deaf_frames, mut control_frames) = (capture_in_pod(&deaf), capture_in_pod(&control));
    // With a way back to the pod, reverse-path filtering does not hide the answer.
    for p in [&mut deaf, &mut control] {
        let back = Route::new("10.1.0.2/32".parse().unwrap()).dev(p.host.index);
        route::add(&mut p.node_socket, &back).unwrap();
    }
    control_frames.send(&arp_request([10, 9, 9, 1]));
    deaf_frames.send(&arp_request([10, 9, 9, 1]));
    eventually("the control answers", || {
        control_frames
            .next(DEADLINE)
            .is_some_and(|f| from_host(&f) && is_arp_reply(&f))
    });
    while let Some(frame) = deaf_frames.next(Duration::from_millis(300)) {
        assert!(!from_host(&frame), "the deaf interface sent {frame:02x?}");
    }
}

#[test]
fn what_was_set_is_told_and_can_be_put_back() {
    let mut p = pair();
    let socket = &mut p.node_socket;
    let is_deaf = |socket: &mut _| {
        p.node
            .netns()
            .run(|| deaf::is_deaf(socket, "host0"))
            .unwrap()
            .unwrap()
    };
    assert!(!is_deaf(socket));
    let done = p
        .node
        .netns()
        .run(|| deaf::deafen(socket, "host0"))
        .unwrap()
        .unwrap();
    assert!(is_deaf(socket));
    assert!(link::get(socket, "host0").unwrap().flags.noarp());
    assert!(
        done.changes
            .iter()
            .any(|c| c.key.to_string().ends_with("ipv4/conf/host0/arp_ignore"))
    );
    p.node
        .netns()
        .run(|| {
            for change in &done.changes {
                assert_eq!(
                    sysctl::get(&change.key).unwrap(),
                    change.after,
                    "{}",
                    change.key
                );
                change.restore().unwrap();
                assert_eq!(
                    sysctl::get(&change.key).unwrap(),
                    change.before,
                    "{}",
                    change.key
                );
            }
        })
        .unwrap();
    assert!(!is_deaf(socket));
}

#[test]
fn a_name_with_a_dot_is_one_interface() {
    let mut p = pair();
    link::rename(&mut p.node_socket, "host0", "ps.web.0").unwrap();
    let socket = &mut p.node_socket;
    let forwarding = p
        .node
        .netns()
        .run(|| {
            deaf::deafen(socket, "ps.web.0").unwrap();
            sysctl::get(&Key::ipv4_conf("ps.web.0", "arp_ignore").unwrap()).unwrap()
        })
        .unwrap();
    assert_eq!(forwarding, "8");
}

#[test]
fn a_missing_interface_is_named() {
    let mut p = pair();
    let socket = &mut p.node_socket;
    let error = p
        .node
        .netns()
        .run(|| deaf::deafen(socket, "gone0"))
        .unwrap()
        .unwrap_err();
    assert!(
        error.is_gone() && error.to_string().contains("gone0"),
        "{error}"
    );
}

#[test]
fn settings_the_kernel_refuses_are_named_with_their_value() {
    let p = pair();
    let key = Key::ipv4_conf("host0", "forwarding").unwrap();
    let error = p
        .node
        .netns()
        .run(|| sysctl::set(&key, "maybe"))
        .unwrap()
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("host0/forwarding") && text.contains("\"maybe\"") && text.contains("Invalid"),
        "{text}"
    );
}

#[test]
fn deaf_and_denied_together_before_coming_up() {
    let mut p = pair();
    deafen(&mut p);
    assert!(tc::deny(&mut p.node_socket, &p.host).unwrap());
    p.up();
    assert!(tc::denied(&mut p.node_socket, &p.host).unwrap());
    assert!(
        link::get(&mut p.node_socket, &p.host)
            .unwrap()
            .flags
            .lower_up()
    );
}
