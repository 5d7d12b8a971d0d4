// SPDX-License-Identifier: Apache-2.0
//! Two nodes that the kernel forwards on: routes, nftables, its VXLAN device.

use std::net::IpAddr;

use podswitch_tests::Netns;
use podswitch_tests::fabric::{VNI, nic_mac, vtep_mac};
use podswitch_tests::kernel::set_sysctl;
use podswitch_tests::programs::run;
use podswitch_tests::wait::HUNG;

use super::side::{Forwarder, POLICIES, TCP, UDP, nft, node, peer, pods_of, wire};

/// The other end of the tunnel as a next hop, as flannel names it.
const FAR: &str = "169.254.7.1";
const GATEWAY: &str = "169.254.1.1";
const GATEWAY_MAC: &str = "02:00:5e:00:03:01";

/// How policies are asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rules {
    /// At its best: established flows first, a verdict map by pod, then a set.
    Sets {
        /// Established flows bypass even that.
        flowtable: bool,
    },
    /// A list from the top for each packet.
    List,
}

/// The two nodes and their pods.
pub struct Kernels {
    nodes: [Netns; 2],
    pods: [Netns; 2],
    rules: Rules,
}

fn pod_address(n: u8) -> String {
    pods_of(n).replace("0/24", "2")
}

impl Kernels {
    /// The work of both on one core, as that of the switch's workers.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn new(core: usize, vxlan: bool, rules: Rules) -> Kernels {
        let nodes = [Netns::new("kernel"), Netns::new("kernel")];
        let pods = [Netns::new("pod"), Netns::new("pod")];
        wire(&nodes[0], &nodes[1]);
        for (at, (n, other)) in [(1, 2), (2, 1)].into_iter().enumerate() {
            attach(&nodes[at], &pods[at], n);
            let far = match vxlan {
                true => tunnel(&nodes[at], n, other),
                false => format!("via {} dev nic0", node(other)),
            };
            nodes[at].ip(&format!("route add {} {far}", pods_of(other)));
            let device = if vxlan { "vx0" } else { "nic0" };
            nft(&nodes[at], &policy(n, rules, device));
        }
        move_to(&nodes[0], "pod0", core);
        Kernels { nodes, pods, rules }
    }
}

/// A pod on a veth, routed.
fn attach(netns: &Netns, pod: &Netns, n: u8) {
    netns.ip(&format!(
        "link add pod0 address {GATEWAY_MAC} type veth peer name eth0 netns {}",
        pod.name()
    ));
    netns.ip("link set pod0 up");
    let address = pod_address(n);
    pod.ip("link set eth0 up");
    pod.ip(&format!("address add {address}/32 dev eth0"));
    pod.ip(&format!("route add {GATEWAY} dev eth0 scope link"));
    pod.ip(&format!("route add default via {GATEWAY} dev eth0"));
    pod.ip(&format!(
        "neigh add {GATEWAY} lladdr {GATEWAY_MAC} dev eth0 nud permanent"
    ));
    let mac = pod.ip_json("link show dev eth0")[0]["address"].clone();
    let mac = mac.as_str().expect("a MAC address").to_owned();
    netns.ip(&format!("route add {address}/32 dev pod0"));
    netns.ip(&format!(
        "neigh add {address} lladdr {mac} dev pod0 nud permanent"
    ));
    set_sysctl(netns, "net/ipv4/ip_forward", "1");
    // With it the host's end takes frames that an XDP program sends.
    for end in ["pod0", "nic0"] {
        let mut ethtool = netns.command("ethtool");
        run(ethtool.args(["-K", end, "gro", "on"]), b"", HUNG).success("ethtool -K");
    }
}

/// The kernel's VXLAN device to the other node; what routes by it say.
fn tunnel(netns: &Netns, n: u8, other: u8) -> String {
    let (own, far) = (vtep_mac(n), vtep_mac(other));
    netns.ip(&format!(
        "link add vx0 address {own} type vxlan id {VNI} dstport 4789 local {} nolearning",
        node(n)
    ));
    netns.ip("link set vx0 up");
    netns.ip(&format!(
        "neigh add {FAR} lladdr {far} dev vx0 nud permanent"
    ));
    let bridge = ["fdb", "append", &far, "dev", "vx0", "dst", &node(other)];
    run(netns.command("bridge").args(bridge), b"", HUNG).success("bridge fdb");
    netns.ip(&format!(
        "neigh replace {} lladdr {} dev nic0 nud permanent",
        node(other),
        nic_mac(other)
    ));
    format!("via {FAR} dev vx0 onlink")
}

/// Whether the kernel has flowtables.
pub fn has_flowtable() -> bool {
    let netns = Netns::new("probe");
    let mut nft = netns.command("nft");
    let rules = format!("table inet bench {{ {} }}", flowtable("lo"));
    run(nft.args(["-f", "-"]), rules.as_bytes(), HUNG).status == 0
}

fn flowtable(devices: &str) -> String {
    format!("flowtable fast {{ hook ingress priority 0; devices = {{ {devices} }}; }};")
}

/// The rules of a node; the second one has the policies.
fn policy(n: u8, rules: Rules, device: &str) -> String {
    const FORWARD: &str = "type filter hook forward priority 0;";
    let server = pod_address(2);
    let (table, offload) = match rules {
        Rules::Sets { flowtable: true } => (
            flowtable(&format!("pod0, {device}")),
            "meta l4proto { tcp, udp } flow add @fast;",
        ),
        _ => (String::new(), ""),
    };
    let own = match (rules, n) {
        (_, 1) => format!("chain forward {{ {FORWARD} {offload} }};"),
        (Rules::Sets { .. }, _) => {
            let peers = (0..POLICIES).map(peer);
            let elements: Vec<String> = peers
                .flat_map(|p| [format!("{p} . udp . {UDP}"), format!("{p} . tcp . {TCP}")])
                .collect();
            format!(
                "set peers {{ type ipv4_addr . inet_proto . inet_service; flags interval; elements = {{ {} }}; }};
                 chain server {{ ip saddr . meta l4proto . th dport @peers accept; drop; }};
                 chain forward {{ {FORWARD} {offload} ct state established,related accept;
                   ip daddr vmap {{ {server} : jump server }}; }};",
                elements.join(", ")
            )
        }
        (Rules::List, _) => {
            let rule = |p| {
                format!(
                    "ip saddr {p} ip daddr {server} udp dport {UDP} accept; ip saddr {p} ip daddr {server} tcp dport {TCP} accept;\n"
                )
            };
            let list: String = (0..POLICIES).map(peer).map(rule).collect();
            format!("chain forward {{ {FORWARD} {list} ip daddr {server} drop; }};")
        }
    };
    format!("table inet bench {{ {table} {own} }}")
}

/// Has what an interface receives handled by a core (receive packet steering), and not by the sender's. What follows from it stays there.
fn move_to(netns: &Netns, interface: &str, core: usize) {
    let mask = format!("{:x}", 1u64 << core.min(63));
    let mut write = netns.command("sh");
    let script = format!("echo {mask} > /sys/class/net/{interface}/queues/rx-0/rps_cpus");
    run(write.args(["-c", &script]), b"", HUNG).success("receive packet steering");
}

impl Forwarder for Kernels {
    fn pods(&self) -> [&Netns; 2] {
        [&self.pods[0], &self.pods[1]]
    }

    fn addresses(&self) -> [IpAddr; 2] {
        [1, 2].map(|n| pod_address(n).parse().expect("an address"))
    }

    fn nodes(&self) -> [&Netns; 2] {
        [&self.nodes[0], &self.nodes[1]]
    }

    /// Flows are in the flowtable.
    fn check(&self) {
        if self.rules == (Rules::Sets { flowtable: true }) {
            let read = || std::fs::read_to_string("/proc/thread-self/net/nf_conntrack");
            // Not every kernel has the file.
            if let Ok(text) = self.nodes[1].run(read) {
                assert!(text.contains("[OFFLOAD]"), "no flow in the flowtable");
            }
        }
    }
}
