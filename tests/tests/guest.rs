// SPDX-License-Identifier: Apache-2.0
//! A machine with Debian's kernel and virtio NICs, whose wires end in a namespace here: the switch on another driver and, where Debian's kernel is
//! 6.1, on the oldest one it is made for.

use std::net::IpAddr;

use podswitch_tests::cni::addresses;
use podswitch_tests::guest::{Guest, GuestNic};
use podswitch_tests::kernel::counter;
use podswitch_tests::traffic::{Echo, ping, tcp_connect, tcp_echo};
use podswitch_tests::uplink::Session;
use podswitch_tests::{HUNG, Netns};
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
        for (pods, node) in PODS.into_iter().zip(NODE) {
            peer.ip(&format!("route add {pods} via {node}"));
        }
        guest.run(&format!(
            "printf '{}' >/run/podswitchd.toml",
            CONFIG.replace('\n', "\\n")
        ));
        Machine { guest, peer }
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

    /// Opens the port on the first NIC, with the kernel's routes; how the program is attached.
    #[track_caller]
    fn open(&mut self, mode: &str) -> String {
        let words = format!("port add uplink --nic eth0 --mode {mode} --routes 254");
        let (status, said) = self.ctl(&words);
        assert_eq!(status, 0, "{said}");
        let (_, ports) = self.ctl("port list -o json");
        let ports: Value = serde_json::from_str(&ports).expect("JSON");
        let port = ports.as_array().expect("a list").iter();
        let port = port.clone().find(|p| p["object"]["name"] == "uplink");
        let mode = port.expect("the port")["status"]["mode"].clone();
        mode.as_str().expect("a mode").to_owned()
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
    fn assert_reach(&mut self, pod: &[IpAddr]) {
        let bytes: Vec<u8> = (0..200_000u32).map(|i| (i >> 3) as u8).collect();
        let echo = Echo::start(&self.peer, 7);
        for (at, peer) in pod.iter().zip(PEER) {
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
        let (status, said) = machine.ctl(&format!("port add merged --nic eth1 --mode {mode}"));
        assert_ne!(status, 0, "{said}");
        let named = ["eth1", "rx-gro-hw"].iter().all(|w| said.contains(w));
        assert!(named, "{said}");
    }

    let merging = machine.feature("eth0", "rx-gro-hw: ");
    assert_eq!(merging, "on");
    let mode = machine.open("auto");
    println!("virtio_net: {mode}, copy");
    assert_eq!(mode, "native");
    let log = machine.guest.run("cat /run/log");
    assert!(log.contains("AF_XDP in copy mode"), "{log}");
    assert_eq!(machine.feature("eth0", "rx-gro-hw: "), "off");
    session.goes_on("attach");
    let pod = machine.pod();
    machine.assert_reach(&pod);
    session.goes_on("traffic of a pod");

    machine.guest.run("kill -9 $(cat /run/pid)");
    session.goes_on("kill -9");
    machine.start_switch();
    machine.assert_reach(&pod);
    session.goes_on("the start after it");

    let mode = machine.open("generic");
    assert_eq!(mode, "generic");
    machine.assert_reach(&pod);
    session.goes_on("generic mode");

    let (status, said) = machine.ctl("port delete uplink");
    assert_eq!(status, 0, "{said}");
    assert_eq!(machine.feature("eth0", "rx-gro-hw: "), merging);
    session.goes_on("removal of the port");
    println!("the longest message took {:?}", session.end());
}
