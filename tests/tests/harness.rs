// SPDX-License-Identifier: Apache-2.0
//! The harness itself, on a plain veth pair with no switch between: what it would see if there were one that is perfect.

use std::net::IpAddr;
use std::time::Duration;

use podswitch_tests::frames::{Ends, parse_mac};
use podswitch_tests::kernel::{counter, counter6, offloads, set_sysctl, sysctl};
use podswitch_tests::programs::run;
use podswitch_tests::raw::RawSocket;
use podswitch_tests::traffic::{
    Echo, IperfServer, iperf, ping, ping_fails, tcp_connect, tcp_echo, udp_echo, udp_socket,
};
use podswitch_tests::{HUNG, Netns};

struct Pair {
    left: Netns,
    right: Netns,
}

const RIGHT4: &str = "192.0.2.2";
const RIGHT6: &str = "2001:db8::2";

fn pair() -> Pair {
    let (left, right) = (Netns::new("left"), Netns::new("right"));
    left.ip(&format!(
        "link add eth0 type veth peer name eth0 netns {}",
        right.name()
    ));
    for (netns, number) in [(&left, 1), (&right, 2)] {
        netns.ip(&format!("address add 192.0.2.{number}/24 dev eth0"));
        netns.ip(&format!("address add 2001:db8::{number}/64 dev eth0 nodad"));
        netns.ip("link set eth0 up");
    }
    Pair { left, right }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn traffic_passes_and_is_counted() {
    let Pair { left, right } = pair();
    let server = Echo::start(&right, 7);
    for to in [address(RIGHT4), address(RIGHT6)] {
        ping(&left, to);
        let mut stream = tcp_connect(&left, to, server.port(), HUNG).expect("a connection");
        tcp_echo(&mut stream, &vec![9; 1 << 20]);
        let socket = udp_socket(&left, to, server.port());
        assert!(udp_echo(&socket, &[7; 20_000], HUNG));
    }
    assert_eq!(server.datagrams(), 2);
    assert_eq!(
        counter(&right, "Udp", "InDatagrams") + counter6(&right, "Udp6InDatagrams"),
        2
    );
    assert!(ping_fails(&left, address("192.0.2.77")));
    assert!(
        tcp_connect(&left, address(RIGHT4), 8, HUNG).is_err(),
        "nobody listens there"
    );
}

#[test]
fn iperf_reports_what_it_moved() {
    let Pair { left, right } = pair();
    let server = IperfServer::start(&right, 5201);
    let report = iperf(&left, address(RIGHT4), &server, 1, &[]);
    assert!(
        report["end"]["sum_received"]["bytes"]
            .as_u64()
            .is_some_and(|n| n > 0),
        "{report}"
    );
}

#[test]
fn raw_frames_go_out_and_come_in() {
    let Pair { left, right } = pair();
    let mac = |netns: &Netns| {
        parse_mac(
            netns.ip_json("link show dev eth0")[0]["address"]
                .as_str()
                .expect("a MAC"),
        )
    };
    let (out, back) = (
        RawSocket::open(&left, "eth0"),
        RawSocket::open(&right, "eth0"),
    );
    let ends = Ends {
        source_mac: mac(&left),
        destination_mac: mac(&right),
        from: address("192.0.2.1"),
        to: address(RIGHT4),
    };
    let frame = ends.udp((1, 2), 64, b"by hand");
    out.send(&frame);
    let seen = back
        .receive(HUNG, |f| f.ends_with(b"by hand"))
        .expect("the frame");
    assert_eq!(seen, frame);
    assert!(
        back.receive(Duration::from_millis(100), |f| f == frame)
            .is_none(),
        "once"
    );
    // The checksums are right: the kernel hands it to nobody, and says so.
    let before = counter(&right, "Udp", "InCsumErrors");
    out.send(&frame);
    podswitch_tests::eventually("the port is unreachable", HUNG, || {
        (counter(&right, "Udp", "NoPorts") >= 2).then_some(())
    });
    assert_eq!(counter(&right, "Udp", "InCsumErrors"), before);
    let mut wrong = frame;
    let last = wrong.len() - 1;
    wrong[last] ^= 1;
    out.send(&wrong);
    podswitch_tests::eventually("a wrong checksum is counted", HUNG, || {
        (counter(&right, "Udp", "InCsumErrors") > before).then_some(())
    });
}

#[test]
fn the_kernel_is_asked_in_the_right_namespace() {
    let Pair { left, right } = pair();
    set_sysctl(&left, "net/ipv4/conf/all/forwarding", "1");
    assert_eq!(
        sysctl(&left, "net/ipv4/conf/all/forwarding").as_deref(),
        Some("1")
    );
    assert_eq!(
        sysctl(&right, "net/ipv4/conf/all/forwarding").as_deref(),
        Some("0")
    );
    assert_eq!(sysctl(&left, "net/ipv4/no_such_thing"), None);
    let features = offloads(&left, "eth0");
    assert!(features["tx-checksumming"]);
    run(
        left.command("ethtool").args(["-K", "eth0", "tx", "off"]),
        b"",
        HUNG,
    )
    .success("ethtool -K");
    assert!(!offloads(&left, "eth0")["tx-checksumming"]);
    assert!(offloads(&right, "eth0")["tx-checksumming"]);
    assert_eq!(left.links(), ["eth0"]);
}

#[test]
fn namespaces_go_when_they_are_dropped() {
    let path = {
        let netns = Netns::new("short");
        assert!(netns.path().exists());
        netns.path().to_path_buf()
    };
    assert!(!path.exists());
    let failed = std::panic::catch_unwind(|| {
        let netns = Netns::new("panic");
        assert!(!netns.path().exists(), "{}", netns.path().display());
    });
    let message = failed.expect_err("it panics");
    let message = message.downcast_ref::<String>().expect("a message");
    assert!(
        !std::path::Path::new(message.as_str()).exists(),
        "{message}"
    );
}
