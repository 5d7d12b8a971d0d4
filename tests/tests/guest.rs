// SPDX-License-Identifier: Apache-2.0
//! Machines with Debian's kernels and virtio NICs, whose wires end in a namespace here: the switch on another driver and, where Debian's own kernel is
//! 6.1, on the oldest one it is made for; and on a newer one, whose driver has zero-copy.

mod guest {
    pub(crate) mod machine;
    pub(crate) mod zero_copy;
}

use std::net::IpAddr;

use guest::machine::{HOST_PORT, Machine, NODE, PEER, PODS, VLAN, VLAN_NODE, VLAN_PEER, ip};
use podswitch_tests::guest::{GuestNic, Suite, Wire};
use podswitch_tests::traffic::{tcp_connect, tcp_echo};
use podswitch_tests::uplink::Session;
use podswitch_tests::{HUNG, vlan};
use serde_json::json;

/// One whose offloads the switch can turn off, and one whose host merges segments whatever the guest says.
const NICS: [GuestNic; 2] = [
    GuestNic {
        wire: Wire::Tap("tap0"),
        mac: "02:00:00:00:02:01",
        queues: 1,
        properties: "",
    },
    GuestNic {
        wire: Wire::Tap("tap1"),
        mac: "02:00:00:00:02:02",
        queues: 1,
        properties: ",ctrl_guest_offloads=off",
    },
];

#[test]
fn pods_of_a_guest_talk_through_its_virtio_nic() {
    let mut machine = Machine::boot(Suite::Own, &NICS, "");
    let release = machine.guest.run("uname -r");
    assert_eq!(release, machine.guest.release());
    let (status, probe) = machine.guest.try_run("podswitchd --probe");
    println!("kernel {release}\n{probe}");
    assert_eq!(status, 0, "{probe}");
    machine.start_switch();

    // The host's own connection, which nothing below may end.
    machine.guest.run("tcp-echo 2222 & true");
    machine.guest.eventually("tcp-echo ::1 2222 1 2>/dev/null");
    let session = Session::connect(&machine.peer, ip(NODE[0]), 2222);

    // A host that merges segments and cannot be told not to would have frames come larger than they were on the wire.
    for mode in ["auto", "generic"] {
        let change = format!("port add merged --nic eth1 --mode {mode}");
        machine.refused(&change, &["eth1", "rx-gro-hw"]);
    }

    let merging = machine.feature("eth0", "rx-gro-hw: ");
    assert_eq!(merging, "on");
    let mode = machine.open("auto", "");
    println!("virtio_net: {mode}, copy");
    assert_eq!(mode, "native");
    assert_eq!(machine.status()["queues"], json!(["copy"]));
    let direct = "port add uplink --nic eth0 --zero-copy 0 --zero-copy-shared";
    machine.refused(
        direct,
        &["eth0 is driven by virtio_net", "no zero-copy mode"],
    );
    assert_eq!(machine.status()["state"], "up");
    assert_eq!(machine.feature("eth0", "rx-gro-hw: "), "off");
    session.goes_on("attach");
    let pod = machine.pod();
    machine.assert_reach(&pod, PEER);
    session.goes_on("traffic of a pod");

    machine.guest.run("kill -9 $(cat /run/pid)");
    session.goes_on("kill -9");
    machine.start_switch();
    machine.assert_reach(&pod, PEER);
    session.goes_on("the start after it");

    let mode = machine.open("generic", "");
    assert_eq!(mode, "generic");
    machine.assert_reach(&pod, PEER);
    session.goes_on("generic mode");

    by_ports_of_the_node(&mut machine);
    session.goes_on("processes of the host that are led to a pod");

    let (status, said) = machine.ctl("port delete uplink");
    assert_eq!(status, 0, "{said}");
    assert_eq!(machine.feature("eth0", "rx-gro-hw: "), merging);
    session.goes_on("removal of the port");
    in_a_vlan(&mut machine, &pod, &session);
    println!("the longest message took {:?}", session.end());
}

/// The world and the host's own processes reach the pod by a port of the node.
fn by_ports_of_the_node(machine: &mut Machine) {
    let pods: Vec<String> = PODS.iter().map(|p| format!("--pods {p}")).collect();
    let add = format!("port add host --host {}", pods.join(" "));
    let (status, said) = machine.ctl(&add);
    assert_eq!(status, 0, "{said}");
    for at in NODE {
        let stream = tcp_connect(&machine.peer, ip(at), HOST_PORT, HUNG);
        let mut stream = stream.unwrap_or_else(|e| panic!("connect to {at}: {e}"));
        tcp_echo(&mut stream, b"from the world");
    }
    for at in NODE.into_iter().chain(["127.0.0.1", "::1"]) {
        let line = format!("timeout 20 tcp-echo {at} {HOST_PORT} 1000");
        let (status, said) = machine.guest.try_run(&line);
        assert_eq!(status, 0, "{line}: {said}");
    }
    let (status, said) = machine.ctl("port delete host");
    assert_eq!(status, 0, "{said}");
}

/// The same in a VLAN, beside the host's own connection, which has no tag.
fn in_a_vlan(machine: &mut Machine, pod: &[IpAddr], untagged: &Session) {
    let peer = &machine.peer;
    vlan::make(peer, "tap0", "vlan", VLAN);
    peer.ip(&format!("address add {}/24 dev vlan", VLAN_PEER[0]));
    peer.ip(&format!("address add {}/64 dev vlan nodad", VLAN_PEER[1]));
    machine.lead_pods_by(VLAN_NODE);
    let tag = format!("--vlan {VLAN}");
    let change = format!("port add uplink --nic eth0 {tag}");
    machine.refused(&change, &["eth0", "id 100", "ip link add link eth0"]);
    machine.enter_vlan();
    machine.refused(
        "port add uplink --nic eth0.100",
        &["eth0.100", "VLAN device with id 100 on eth0", "`vlan`"],
    );

    // The host's own in the VLAN.
    let session = Session::connect(&machine.peer, ip(VLAN_NODE[0]), 2222);
    for mode in ["native", "generic"] {
        assert_eq!(machine.open(mode, &tag), mode);
        machine.assert_reach(pod, VLAN_PEER);
        session.goes_on("traffic of a pod in its VLAN");
        untagged.goes_on("traffic of a pod in a VLAN");
    }
    let other = "port add other --nic eth0 --vlan 200";
    machine.refused(other, &["interface eth0 belongs to port uplink"]);
    let why = format!("why --from {} --to {} --port 80", pod[0], VLAN_PEER[0]);
    let (status, said) = machine.ctl(&why);
    assert_eq!((status, said.contains("uplink")), (0, true), "{said}");

    machine.guest.run("kill -9 $(cat /run/pid)");
    session.goes_on("kill -9");
    untagged.goes_on("kill -9");
    machine.start_switch();
    machine.assert_reach(pod, VLAN_PEER);
    session.goes_on("the start after it");
    session.end();

    follows_the_device(machine, untagged);
    let (status, said) = machine.ctl("port delete uplink");
    assert_eq!(status, 0, "{said}");
    untagged.goes_on("removal of the VLAN's port");
}

/// Whatever it is called, and when it goes and comes back.
fn follows_the_device(machine: &mut Machine, untagged: &Session) {
    machine.guest.run("ip link set eth0.100 down");
    let message = machine.becomes("down")["message"].to_string();
    assert!(
        message.contains("interface eth0.100 has no link"),
        "{message}"
    );
    machine
        .guest
        .run("ip link set eth0.100 name storage mtu 1400");
    machine.guest.run("ip link set storage up");
    assert_eq!(machine.becomes("up")["mtu"], 1400);
    machine.guest.run("ip link delete storage");
    machine.becomes("faulted");
    untagged.goes_on("deletion of the VLAN's device");
    machine.enter_vlan();
    assert_eq!(machine.becomes("up")["mtu"], 1500);
    for (ping, peer) in ["ping", "ping6"].into_iter().zip(VLAN_PEER) {
        let line = format!("ip netns exec pod {ping} -c 1 -W 1 {peer}");
        machine.guest.eventually(&line);
    }
}
