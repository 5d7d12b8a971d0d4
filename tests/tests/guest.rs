// SPDX-License-Identifier: Apache-2.0
//! A machine with Debian's kernel and virtio NICs, whose wires end in a namespace here: the switch on another driver and, where Debian's kernel is
//! 6.1, on the oldest one it is made for.

use std::net::IpAddr;

use podswitch_tests::cni::addresses;
use podswitch_tests::guest::{Guest, GuestNic};
use podswitch_tests::kernel::counter;
use podswitch_tests::traffic::{Echo, ping, tcp_connect, tcp_echo};
use podswitch_tests::uplink::Session;
use podswitch_tests::{HUNG, Netns, eventually, vlan};
use serde_json::{Value, json};

/// One whose offloads the switch can turn off, and one whose host merges segments whatever the guest says.
const NICS: [GuestNic; 2] = [
    GuestNic {
        tap: "tap0",
        mac: "02:00:00:00:02:01",
        properties: "",
    },
    GuestNic {
        tap: "tap1",
        mac: "02:00:00:00:02:02",
        properties: ",ctrl_guest_offloads=off",
    },
];
const CONFIG: &str = r#"socket = "/run/podswitch.sock"
state_dir = "/run/state"
workers = [1]
"#;
/// Of the guest and its peer, on the wire.
const NODE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const PEER: [&str; 2] = ["192.0.2.9", "2001:db8::9"];
/// The same in a VLAN on it.
const VLAN: u16 = 100;
const VLAN_NODE: [&str; 2] = ["198.51.100.1", "2001:db8:100::1"];
const VLAN_PEER: [&str; 2] = ["198.51.100.9", "2001:db8:100::9"];
const PODS: [&str; 2] = ["10.244.1.0/24", "fd00:244:1::/64"];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The guest with its switch, and the peer at the other end of its first wire.
struct Machine {
    // Declared, so dropped, in this order.
    guest: Guest,
    peer: Netns,
}

impl Machine {
    #[track_caller]
    fn boot() -> Machine {
        let peer = Netns::new("peer");
        let mut guest = Guest::boot(&peer, &NICS);
        peer.ip(&format!("address add {}/24 dev tap0", PEER[0]));
        peer.ip(&format!("address add {}/64 dev tap0 nodad", PEER[1]));
        peer.ip("link set tap0 up");
        guest.run(&format!("ip address add {}/24 dev eth0", NODE[0]));
        guest.run(&format!("ip address add {}/64 dev eth0 nodad", NODE[1]));
        guest.run("ip link set eth0 up");
        guest.run(&format!(
            "printf '{}' >/run/podswitchd.toml",
            CONFIG.replace('\n', "\\n")
        ));
        let machine = Machine { guest, peer };
        machine.lead_pods_by(NODE);
        machine
    }

    /// The peer's way to the pods.
    #[track_caller]
    fn lead_pods_by(&self, node: [&str; 2]) {
        for (pods, node) in PODS.into_iter().zip(node) {
            self.peer.ip(&format!("route replace {pods} via {node}"));
        }
    }

    /// Brings the node's device of the VLAN up, with its addresses.
    #[track_caller]
    fn enter_vlan(&mut self) {
        let add = format!("ip link add link eth0 name eth0.{VLAN} type vlan id {VLAN}");
        self.guest.run(&add);
        for (address, length) in VLAN_NODE.into_iter().zip(["24", "64 nodad"]) {
            let add = format!("ip address add {address}/{length} dev eth0.{VLAN}");
            self.guest.run(&add);
        }
        self.guest.run(&format!("ip link set eth0.{VLAN} up"));
    }

    #[track_caller]
    fn start_switch(&mut self) {
        self.guest
            .run("podswitchd --config /run/podswitchd.toml >>/run/log 2>&1 & echo $! >/run/pid");
        self.guest.eventually("podswitchctl --socket /run/podswitch.sock version >/dev/null 2>&1 || { cat /run/log; false; }");
    }

    /// podswitchctl with these words: its status, and what it printed.
    #[track_caller]
    fn ctl(&mut self, words: &str) -> (i32, String) {
        let line = format!("podswitchctl --socket /run/podswitch.sock {words} 2>&1");
        self.guest.try_run(&line)
    }

    /// Opens the port on the first NIC, with the kernel's routes and what these words say; how the program is attached.
    #[track_caller]
    fn open(&mut self, mode: &str, more: &str) -> String {
        let words = format!("port add uplink --nic eth0 --mode {mode} --routes 254 {more}");
        let (status, said) = self.ctl(&words);
        assert_eq!(status, 0, "{said}");
        let mode = self.status()["mode"].clone();
        mode.as_str().expect("a mode").to_owned()
    }

    /// A change that has to be refused, with all of these words.
    #[track_caller]
    fn refused(&mut self, change: &str, words: &[&str]) {
        let (status, said) = self.ctl(change);
        assert_ne!(status, 0, "{said}");
        assert!(words.iter().all(|w| said.contains(w)), "{said}");
    }

    /// What is said of the port on the first NIC.
    #[track_caller]
    fn status(&mut self) -> Value {
        let (_, ports) = self.ctl("port list -o json");
        let ports: Value = serde_json::from_str(&ports).expect("JSON");
        let port = ports.as_array().expect("a list").iter();
        let port = port.clone().find(|p| p["object"]["name"] == "uplink");
        port.expect("the port")["status"].clone()
    }

    /// Waits until the port has this state.
    #[track_caller]
    fn becomes(&mut self, state: &str) -> Value {
        eventually(state, HUNG, || {
            let status = self.status();
            (status["state"] == state).then_some(status)
        })
    }

    /// A pod attached by CNI; its addresses.
    #[track_caller]
    fn pod(&mut self) -> Vec<IpAddr> {
        let ranges = PODS.map(|subnet| json!([{ "subnet": subnet }]));
        let conf = json!({"cniVersion": "1.1.0", "name": "podnet", "type": "podswitch", "socket": "/run/podswitch.sock",
            "ipam": {"type": "podswitch", "ranges": ranges}});
        self.guest.run("ip netns add pod");
        let added = self.guest.run(&format!(
            "printf '%s' '{conf}' | CNI_COMMAND=ADD CNI_CONTAINERID=pod CNI_NETNS=/run/netns/pod CNI_IFNAME=eth0 \
             CNI_PATH=/usr/sbin podswitch-cni"
        ));
        let added: Value = serde_json::from_str(&added).unwrap_or_else(|e| panic!("{e}: {added}"));
        self.guest.run("ip netns exec pod tcp-echo 7 & true");
        addresses(&added)
    }

    /// Echo and TCP, both ways, with whole checksums.
    #[track_caller]
    fn assert_reach(&mut self, pod: &[IpAddr], peers: [&str; 2]) {
        let bytes: Vec<u8> = (0..200_000u32).map(|i| (i >> 3) as u8).collect();
        let echo = Echo::start(&self.peer, 7);
        for (at, peer) in pod.iter().zip(peers) {
            let ping_of = if at.is_ipv4() { "ping" } else { "ping6" };
            self.guest
                .eventually(&format!("ip netns exec pod {ping_of} -c 1 -W 1 {peer}"));
            ping(&self.peer, *at);
            let port = echo.port();
            let line = format!("ip netns exec pod timeout 20 tcp-echo {peer} {port} 200000");
            let (status, said) = self.guest.try_run(&line);
            if status != 0 {
                panic!("{line}: {said}\n{}", self.ctl("stats").1);
            }
            let stream = tcp_connect(&self.peer, *at, 7, HUNG);
            let mut stream = stream.unwrap_or_else(|e| panic!("connect to {at}: {e}"));
            tcp_echo(&mut stream, &bytes);
        }
        assert_eq!(counter(&self.peer, "Tcp", "InCsumErrors"), 0);
        let tcp = self.guest.run("ip netns exec pod cat /proc/net/snmp");
        let tcp: Vec<&str> = tcp.lines().filter(|l| l.starts_with("Tcp:")).collect();
        let wrong = tcp[1].split_whitespace().last();
        assert_eq!(wrong, Some("0"), "checksums that the pod found wrong");
    }

    /// A feature of a NIC, as ethtool prints it.
    #[track_caller]
    fn feature(&mut self, nic: &str, name: &str) -> String {
        let all = self.guest.run(&format!("ethtool -k {nic}"));
        let line = all.lines().find_map(|l| l.trim().strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name}: {all}"))
            .to_owned()
    }
}

#[test]
fn pods_of_a_guest_talk_through_its_virtio_nic() {
    let mut machine = Machine::boot();
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
    let log = machine.guest.run("cat /run/log");
    assert!(log.contains("AF_XDP in copy mode"), "{log}");
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

    let (status, said) = machine.ctl("port delete uplink");
    assert_eq!(status, 0, "{said}");
    assert_eq!(machine.feature("eth0", "rx-gro-hw: "), merging);
    session.goes_on("removal of the port");
    in_a_vlan(&mut machine, &pod, &session);
    println!("the longest message took {:?}", session.end());
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
