// SPDX-License-Identifier: Apache-2.0
//! A guest with its switch, and the peer at the other end of its first wire.

use std::net::IpAddr;

use podswitch_tests::cni::addresses;
use podswitch_tests::guest::{Guest, GuestNic, Suite};
use podswitch_tests::kernel::counter;
use podswitch_tests::traffic::{Echo, ping, tcp_connect, tcp_echo};
use podswitch_tests::{HUNG, Netns, eventually};
use serde_json::{Value, json};

/// With more of it behind.
const CONFIG: &str = r#"socket = "/run/podswitch.sock"
state_dir = "/run/state"
workers = [1]
"#;
/// Of the guest and its peer, on the wire.
pub(crate) const NODE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
pub(crate) const PEER: [&str; 2] = ["192.0.2.9", "2001:db8::9"];
/// Port of the node that leads to the pod's echo server.
pub(crate) const HOST_PORT: u16 = 8080;
/// The same in a VLAN on it.
pub(crate) const VLAN: u16 = 100;
pub(crate) const VLAN_NODE: [&str; 2] = ["198.51.100.1", "2001:db8:100::1"];
pub(crate) const VLAN_PEER: [&str; 2] = ["198.51.100.9", "2001:db8:100::9"];
pub(crate) const PODS: [&str; 2] = ["10.244.1.0/24", "fd00:244:1::/64"];

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The guest with its switch, and the peer at the other end of its first wire.
pub(crate) struct Machine {
    // Declared, so dropped, in this order.
    pub(crate) guest: Guest,
    pub(crate) peer: Netns,
}

impl Machine {
    #[track_caller]
    pub(crate) fn boot(suite: Suite, nics: &[GuestNic], config: &str) -> Machine {
        let peer = Netns::new("peer");
        let mut guest = Guest::boot(suite, &peer, nics);
        peer.ip(&format!("address add {}/24 dev tap0", PEER[0]));
        peer.ip(&format!("address add {}/64 dev tap0 nodad", PEER[1]));
        peer.ip("link set tap0 up");
        guest.run(&format!("ip address add {}/24 dev eth0", NODE[0]));
        guest.run(&format!("ip address add {}/64 dev eth0 nodad", NODE[1]));
        guest.run("ip link set eth0 up");
        guest.run(&format!(
            "printf '{}' >/run/podswitchd.toml",
            format!("{CONFIG}{config}").replace('\n', "\\n")
        ));
        let machine = Machine { guest, peer };
        machine.lead_pods_by(NODE);
        machine
    }

    /// The peer's way to the pods.
    #[track_caller]
    pub(crate) fn lead_pods_by(&self, node: [&str; 2]) {
        for (pods, node) in PODS.into_iter().zip(node) {
            self.peer.ip(&format!("route replace {pods} via {node}"));
        }
    }

    /// Brings the node's device of the VLAN up, with its addresses.
    #[track_caller]
    pub(crate) fn enter_vlan(&mut self) {
        let add = format!("ip link add link eth0 name eth0.{VLAN} type vlan id {VLAN}");
        self.guest.run(&add);
        for (address, length) in VLAN_NODE.into_iter().zip(["24", "64 nodad"]) {
            let add = format!("ip address add {address}/{length} dev eth0.{VLAN}");
            self.guest.run(&add);
        }
        self.guest.run(&format!("ip link set eth0.{VLAN} up"));
    }

    #[track_caller]
    pub(crate) fn start_switch(&mut self) {
        self.guest
            .run("podswitchd --config /run/podswitchd.toml >>/run/log 2>&1 & echo $! >/run/pid");
        self.guest.eventually("podswitchctl --socket /run/podswitch.sock version >/dev/null 2>&1 || { cat /run/log; false; }");
    }

    /// podswitchctl with these words: its status, and what it printed.
    #[track_caller]
    pub(crate) fn ctl(&mut self, words: &str) -> (i32, String) {
        let line = format!("podswitchctl --socket /run/podswitch.sock {words} 2>&1");
        self.guest.try_run(&line)
    }

    /// Opens the port on the first NIC, with the kernel's routes and what these words say; how the program is attached.
    #[track_caller]
    pub(crate) fn open(&mut self, mode: &str, more: &str) -> String {
        let words = format!("port add uplink --nic eth0 --mode {mode} --routes 254 {more}");
        let (status, said) = self.ctl(&words);
        assert_eq!(status, 0, "{said}");
        let mode = self.status()["mode"].clone();
        mode.as_str().expect("a mode").to_owned()
    }

    /// A change that has to be refused, with all of these words.
    #[track_caller]
    pub(crate) fn refused(&mut self, change: &str, words: &[&str]) {
        let (status, said) = self.ctl(change);
        assert_ne!(status, 0, "{said}");
        assert!(words.iter().all(|w| said.contains(w)), "{said}");
    }

    /// What is said of the port on the first NIC.
    #[track_caller]
    pub(crate) fn status(&mut self) -> Value {
        let (_, ports) = self.ctl("port list -o json");
        let ports: Value = serde_json::from_str(&ports).expect("JSON");
        let port = ports.as_array().expect("a list").iter();
        let port = port.clone().find(|p| p["object"]["name"] == "uplink");
        port.expect("the port")["status"].clone()
    }

    /// Waits until the port has this state.
    #[track_caller]
    pub(crate) fn becomes(&mut self, state: &str) -> Value {
        eventually(state, HUNG, || {
            let status = self.status();
            (status["state"] == state).then_some(status)
        })
    }

    /// A pod attached by CNI, to which a port of the node leads; its addresses.
    #[track_caller]
    pub(crate) fn pod(&mut self) -> Vec<IpAddr> {
        let ranges = PODS.map(|subnet| json!([{ "subnet": subnet }]));
        let conf = json!({"cniVersion": "1.1.0", "name": "podnet", "type": "podswitch", "socket": "/run/podswitch.sock",
            "ipam": {"type": "podswitch", "ranges": ranges},
            "runtimeConfig": {"portMappings": [{"hostPort": HOST_PORT, "containerPort": 7, "protocol": "tcp"}]}});
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
    pub(crate) fn assert_reach(&mut self, pod: &[IpAddr], peers: [&str; 2]) {
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
    pub(crate) fn feature(&mut self, nic: &str, name: &str) -> String {
        let all = self.guest.run(&format!("ethtool -k {nic}"));
        let line = all.lines().find_map(|l| l.trim().strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name}: {all}"))
            .to_owned()
    }
}
