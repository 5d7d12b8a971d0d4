// SPDX-License-Identifier: Apache-2.0
//! Wires between nodes that are worse than others: they lose frames, let some overtake others, or lead over a router that takes less in one direction.

use std::net::{IpAddr, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use podswitch_tests::fabric::{
    Way, assert_checksums_right, assert_reach, at, end_at, ip, nic_port, node_at, objects, pods_of,
    prepared, settle, tunnel, wire,
};
use podswitch_tests::forwarder::Forwarder;
use podswitch_tests::kernel::set_sysctl;
use podswitch_tests::objects::set;
use podswitch_tests::traffic::{Echo, ping, tcp_connect, tcp_echo, udp_echo, udp_socket};
use podswitch_tests::uplink::plug;
use podswitch_tests::{HUNG, Netns, Node, Pod, eventually};
use serde_json::{Value, json};

const ENDS: [&str; 2] = ["end1", "end2"];

/// Two nodes with a pod each, whose wires end in a namespace between them.
fn two_nodes(between: &Netns, of: impl Fn(u8, u8) -> Vec<Value>) -> [(Node, Pod); 2] {
    [(1, 2), (2, 1)].map(|(n, other)| {
        let mut node = prepared(n);
        let end = ENDS[usize::from(n) - 1];
        wire(node.netns(), between, end);
        plug(between, end);
        settle(node.netns(), n);
        node.start();
        node.apply(&of(n, other));
        let pod = node.pod();
        (node, pod)
    })
}

fn lossy(way: Way, seed: u64) {
    let between = Netns::new("wire");
    let nodes = two_nodes(&between, |n, other| objects(n, &[other], way));
    let bad = Forwarder::start(&between, ENDS, seed);
    let [(_, one), (_, two)] = &nodes;
    for to in at(two) {
        ping(&one.netns, to);
    }
    // The right bytes, in spite of it.
    bad.set(20, 100);
    for [from, to] in [[one, two], [two, one]] {
        assert_reach(&from.netns, &to.netns, at(to));
    }
    let (lost, overtaken) = bad.done();
    assert!(lost > 0 && overtaken > 0, "{lost} and {overtaken} frames");
    // Fragments overtake one another; nothing is lost, so that every datagram comes back.
    bad.set(0, 400);
    let echo = Echo::start(&two.netns, 9);
    let datagram: Vec<u8> = (0..4000u32).map(|i| (i >> 2) as u8).collect();
    for to in at(two) {
        let socket = udp_socket(&one.netns, to, echo.port());
        // The way's MTU is found first.
        eventually("a datagram in fragments comes back", HUNG, || {
            udp_echo(&socket, &datagram, Duration::from_millis(200)).then_some(())
        });
        for i in 0..40 {
            assert!(udp_echo(&socket, &datagram, HUNG), "datagram {i} to {to}");
        }
    }
    assert!(bad.done().1 > overtaken + 20);
    println!("{way:?}: {lost} frames lost, {} overtaken", bad.done().1);
    assert_checksums_right(&one.netns);
    assert_checksums_right(&two.netns);
}

#[test]
fn a_wire_that_loses_and_reorders_natively() {
    lossy(Way::Native, 1);
}

#[test]
fn a_wire_that_loses_and_reorders_under_vxlan() {
    lossy(Way::Vxlan4, 2);
}

/// The router's addresses on the wire of a node.
const ROUTER: [&str; 2] = ["192.0.2.200", "2001:db8::200"];
/// What the router takes on its way to the second node.
const LESS: u32 = 1400;

/// The ways of a node whose NIC leads to the router alone, to the pods and the end of tunnels of another.
fn behind_the_router(other: u8, router_mac: &str) -> Vec<Value> {
    let mut all = nic_port(&[]);
    for (family, via) in ROUTER.into_iter().enumerate() {
        all.push(set(
            json!({"kind": "neighbor", "port": "uplink", "address": via, "mac": router_mac}),
        ));
        let length = ["32", "128"][family];
        for prefix in [
            pods_of(other)[family].clone(),
            format!("{}/{length}", end_at(other)[family]),
        ] {
            all.push(set(
                json!({"kind": "route", "prefix": prefix, "port": "uplink", "via": via}),
            ));
        }
    }
    all
}

/// What a pod's kernel has learned of the way to an address: its MTU.
fn learned(pod: &Pod, to: IpAddr) -> Option<u64> {
    let route = pod.netns.ip_json(&format!("route get {to}"));
    route[0]["metrics"][0]["mtu"].as_u64()
}

/// The pods forget what they have learned, and then learn that so much fits from the first to the second, and so much back.
#[track_caller]
fn assert_learned(one: &Pod, two: &Pod, there: u32, back: Option<u32>) {
    for pod in [one, two] {
        pod.netns.ip("route flush cache");
        pod.netns.ip("-6 route flush cache");
    }
    let bytes: Vec<u8> = (0..300_000u32).map(|i| (i >> 3) as u8).collect();
    for (to, from) in at(two).into_iter().zip(at(one)) {
        ping(&one.netns, to);
        let echo = Echo::start(&two.netns, 7);
        let stream = tcp_connect(&one.netns, to, echo.port(), HUNG);
        tcp_echo(&mut stream.expect("a connection"), &bytes);
        assert_eq!(learned(one, to), Some(there.into()), "to {to}");
        assert_eq!(learned(two, from), back.map(u64::from), "to {from}");
    }
}

#[test]
fn a_router_that_takes_less_one_way_is_heard_there_alone() {
    let router = Netns::new("router");
    for family in ["ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding"] {
        set_sysctl(&router, &format!("net/{family}"), "1");
    }
    let mac = |n: u8| format!("02:00:5e:00:03:{n:02x}");
    let nodes = two_nodes(&router, |n, other| behind_the_router(other, &mac(n)));
    for n in [1, 2] {
        let end = ENDS[usize::from(n) - 1];
        router.ip(&format!("link set {end} address {}", mac(n)));
        router.ip(&format!("address add {}/32 dev {end}", ROUTER[0]));
        router.ip(&format!("address add {}/128 dev {end} nodad", ROUTER[1]));
        let mtu = match n {
            2 => format!("mtu lock {LESS}"),
            _ => String::new(),
        };
        for (family, node) in node_at(n).into_iter().enumerate() {
            router.ip(&format!("route add {node} dev {end}"));
            for behind in [&pods_of(n)[family], &end_at(n)[family]] {
                router.ip(&format!("route add {behind} via {node} dev {end} {mtu}"));
            }
        }
    }
    let [(a, one), (b, two)] = &nodes;
    assert_learned(one, two, LESS, None);
    // Through tunnels the router speaks to the node, and the node to the pod. What the NIC does not take is known at once.
    for (over_v6, overhead) in [(false, 50), (true, 70)] {
        a.apply(&tunnel(1, &[2], over_v6));
        b.apply(&tunnel(2, &[1], over_v6));
        assert_learned(one, two, LESS - overhead, Some(1500 - overhead));
        assert!(a.drops().of("tunnel_path_mtu") > 0);
        assert_eq!(b.drops().of("tunnel_path_mtu"), 0);
    }
}

/// Beyond both routers.
const BEYOND: [&str; 2] = ["203.0.113.9", "2001:db8:2::9"];
const FLOWS: usize = 32;
/// No flow is silent for longer: 0.8 s by design, and what a loaded test machine adds.
const SILENCE: Duration = Duration::from_secs(2);

/// Says that it is over when dropped.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// When a datagram of each flow came last, and the longest time in between.
type Arrivals = Mutex<[(Instant, Duration); FLOWS]>;

/// Takes datagrams, which say whose they are, in a namespace until it is to stop; how many came.
fn sink(netns: &Netns, to: IpAddr, arrivals: &Arrivals, stop: &AtomicBool) -> u64 {
    let socket = netns.run(|| UdpSocket::bind((to, 9)).expect("a socket"));
    let pause = Some(Duration::from_millis(20));
    socket.set_read_timeout(pause).expect("a timeout");
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut flow = [0];
        if socket.recv(&mut flow).is_ok() {
            let (last, longest) = &mut arrivals.lock().expect("no panic")[usize::from(flow[0])];
            *longest = (*longest).max(last.elapsed());
            *last = Instant::now();
            count += 1;
        }
    }
    count
}

/// Sends a datagram of each flow every few milliseconds until it is to stop; how many.
fn load(pod: &Pod, stop: &AtomicBool) -> u64 {
    let flows: Vec<UdpSocket> = (0..FLOWS)
        .map(|flow| udp_socket(&pod.netns, ip(BEYOND[flow % 2]), 9))
        .collect();
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        for (flow, socket) in flows.iter().enumerate() {
            // An error is what the switch has said of an earlier one.
            let _ = socket.send(&[u8::try_from(flow).expect("few flows")]);
            count += 1;
        }
        // The pace of the load, not a wait for something.
        std::thread::sleep(Duration::from_millis(4));
    }
    count
}

#[test]
fn a_router_that_dies_under_load_is_left_within_a_second() {
    let hub = Netns::new("wire");
    hub.ip("link add bridge0 type bridge mcast_snooping 0");
    hub.ip("link set bridge0 up");
    let join = |netns: &Netns, n: u8| {
        wire(netns, &hub, &format!("port{n}"));
        hub.ip(&format!("link set port{n} master bridge0 up"));
        settle(netns, n);
    };
    let routers = [2, 3].map(|n| {
        let router = Netns::new("router");
        join(&router, n);
        router.ip(&format!("address add {}/32 dev lo", BEYOND[0]));
        router.ip(&format!("address add {}/128 dev lo nodad", BEYOND[1]));
        router
    });
    let mut node = prepared(1);
    join(node.netns(), 1);
    node.start();
    let mut objects = nic_port(&[]);
    for (family, prefix) in ["203.0.113.0/24", "2001:db8:2::/64"].iter().enumerate() {
        let hop = |n| json!({"via": node_at(n)[family], "port": "uplink"});
        objects.push(set(
            json!({"kind": "route", "prefix": prefix, "nexthops": [hop(2), hop(3)]}),
        ));
    }
    node.apply(&objects);
    let pod = node.pod();
    for n in [2, 3] {
        for address in node_at(n) {
            eventually("the routers are found", HUNG, || {
                let found = node.get("neighbor", &json!({"address": address}));
                (!found.is_empty()).then_some(())
            });
        }
    }

    let arrivals: Arrivals = Mutex::new([(Instant::now(), Duration::ZERO); FLOWS]);
    let stop = AtomicBool::new(false);
    let reset = || {
        let mut all = arrivals.lock().expect("no panic");
        all.iter_mut()
            .for_each(|(_, longest)| *longest = Duration::ZERO);
    };
    let all_since = |when: Instant| {
        let all = arrivals.lock().expect("no panic");
        all.iter().all(|(last, _)| *last > when).then_some(())
    };
    let (sent, came) = std::thread::scope(|scope| {
        // Ends the threads also when this one panics.
        let _end = End(&stop);
        let sinks = routers
            .each_ref()
            .map(|router| BEYOND.map(|to| scope.spawn(|| sink(router, ip(to), &arrivals, &stop))));
        let sender = scope.spawn(|| load(&pod, &stop));
        let begun = Instant::now();
        eventually("every flow arrives", HUNG, || all_since(begun));
        reset();
        hub.ip("link set port3 down");
        let died = Instant::now();
        // Longer than any flow may be silent, and then until none is.
        let later = died + SILENCE;
        eventually("every flow arrives by the other", HUNG, || all_since(later));
        stop.store(true, Ordering::Relaxed);
        let sent = sender.join().expect("the sender");
        let came = sinks
            .into_iter()
            .flatten()
            .map(|s| s.join().expect("a sink"));
        (sent, came.sum::<u64>())
    });
    let mut silent: Vec<Duration> = arrivals
        .into_inner()
        .expect("no panic")
        .iter()
        .map(|a| a.1)
        .collect();
    silent.sort();
    let longest = silent[FLOWS - 1];
    println!(
        "{} of {sent} datagrams lost, a flow silent for {longest:?} at most: {silent:?}",
        sent - came
    );
    assert!(sent > came, "no flow went by the router that died");
    assert!(longest < SILENCE, "{longest:?}");
}
