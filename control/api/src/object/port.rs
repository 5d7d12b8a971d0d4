// SPDX-License-Identifier: Apache-2.0
//! Ports.

use std::net::IpAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::is_default;
use super::port_mapping::PortMapping;
use super::rule::Action;
use crate::mac::MacAddr;
use crate::schema::Prefix;

/// A port of the switch: a device with one station behind it. With a `segment` it is an L2 port, without one it is routed and
/// reached by its `addresses`, each an implied /32 or /128 route of its VRF. Behind a NIC is a wire with many stations, reached by
/// routes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Port {
    /// Unique name: 1 to 128 characters of `A-Z a-z 0-9 . _ : / -`.
    pub name: String,
    /// What moves its frames.
    pub device: Device,
    /// MAC address of the station behind it. Needed on a routed port, but on a NIC's, which has none, and on the host's, which gets one. An L2 port with one is fixed to it and does not learn;
    /// without one it learns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// The station's addresses. No two ports of a VRF share one. An L2 port has none. The host's port has the node's, as long as they are
    /// there, where none are named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[serde(deserialize_with = "crate::text::addresses")]
    pub addresses: Vec<IpAddr>,
    /// VRF of a routed port, 24 bits, 0 by default.
    #[serde(default, skip_serializing_if = "is_default")]
    pub vrf: u32,
    /// MTU of the device in bytes, 68 to 65535; none takes the configured default. A NIC's is the interface's; a tunnel's is what its way
    /// takes, if that is less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The worker that owns it, an index into the configured list; none lets the daemon choose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<u8>,
    /// What becomes of a frame from the port that no egress rule matches.
    #[serde(default)]
    pub egress_default: Action,
    /// What becomes of a frame to the port that no ingress rule matches.
    #[serde(default)]
    pub ingress_default: Action,
    /// Membership of an L2 segment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<SegmentMembership>,
    /// The node's own network stack is behind it, and its addresses are the node's: pods and their node may always talk to each other.
    /// Goes without saying for the host's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub node: bool,
    /// The pod behind it, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodRef>,
    /// Ports of the node's addresses that lead to it (hostPort of Kubernetes, `portMappings` of CNI); at most 64. No socket of the host may
    /// have one of them when it is added.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<PortMapping>,
}

impl Port {
    /// The station's first address of a family, to which ports of the node lead.
    pub fn first_address(&self, v4: bool) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|a| a.is_ipv4() == v4)
    }

    /// Whether the node's own network stack is behind it.
    pub fn is_node(&self) -> bool {
        self.node || self.device.is_host()
    }
}

/// What moves a port's frames.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(
    remote = "Self",
    tag = "kind",
    rename_all = "snake_case",
    deny_unknown_fields
)]
pub enum Device {
    /// AF_XDP on the host end of a veth pair.
    Veth {
        /// Name of the host end, in the daemon's network namespace.
        interface: String,
        /// How the steering program is attached.
        #[serde(default)]
        mode: XdpMode,
    },
    /// AF_XDP on every queue of the node's NIC, which stays the host's, in copy mode where nothing else is said: only what is the switch's comes to the
    /// port, everything else goes to the host's stack. MAC address and MTU of the port are the interface's, or those of the VLAN's device on it.
    Nic {
        /// Name of the interface, in the daemon's network namespace.
        interface: String,
        /// How the steering program is attached: `auto` and `native`, in the driver, or the port is refused; `generic` when asked for.
        #[serde(default)]
        mode: XdpMode,
        /// VLAN whose frames are the switch's, of which the host has a device on the interface; none: untagged ones.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vlan: Option<u16>,
        /// Number of the kernel's routing table whose routes by this interface are the switch's too (254 is main), in VRF 0, as
        /// long as they are there; a route object of the same prefix goes before. None: no routes are taken.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        routes: Option<u32>,
        /// Connections that pods begin leave by the NIC as the node's own: TCP, UDP and ICMP queries, from its first address of the family, by one of
        /// the ports that the configuration reserves. Nothing else that pods begin leaves, but to what is excepted.
        #[serde(default, skip_serializing_if = "is_default")]
        masquerade: bool,
        /// Destinations to which everything leaves as it is; at most 64.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[serde(deserialize_with = "crate::text::prefixes")]
        #[schemars(with = "Vec<Prefix>")]
        except: Vec<IpNet>,
        /// Receive queues, from 0 on, whose frames the NIC is to write into the port's memory itself (zero-copy), or the port is refused. Steering of
        /// the NIC has to keep them for the switch: whatever the host receives by them hangs on the worker that serves the port.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        zero_copy_queues: Vec<u32>,
        /// They may be queues that the host receives by, too, or of which the NIC does not tell.
        #[serde(default, skip_serializing_if = "is_default")]
        zero_copy_shared: bool,
    },
    /// The node's own network stack, behind a veth pair that the daemon makes: one end is the host's interface, the other the switch's. What the
    /// daemon makes and changes on the host goes with the port.
    Host {
        /// Name of the host's interface, in the daemon's network namespace; no other may be there.
        #[serde(default = "host_interface")]
        interface: String,
        /// How the steering program is attached.
        #[serde(default)]
        mode: XdpMode,
        /// Prefixes of pods that the host's stack reaches through the switch: each becomes a route of the host's.
        #[schemars(with = "Vec<Prefix>")]
        #[serde(deserialize_with = "crate::text::prefixes")]
        pods: Vec<IpNet>,
        /// The host's stack forwards what routes of the switch lead to this port: interfaces of the host that packets of pods leave by and
        /// answers come in by. None: the port is the way to the node alone.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        egress: Vec<String>,
        /// Whether what the host's stack forwards takes the host's address for its source.
        #[serde(default = "yes", skip_serializing_if = "is_yes")]
        masquerade: bool,
        /// Destinations to which it keeps the pod's.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[schemars(with = "Vec<Prefix>")]
        #[serde(deserialize_with = "crate::text::prefixes")]
        except: Vec<IpNet>,
    },
    /// A VXLAN tunnel (RFC 7348) instead of a device. Its neighbors are the other ends, by their underlay addresses, each with the MAC
    /// address that inner frames to it bear; nobody else is heard. Routes by it have one of them as next hop. The port's MAC address is
    /// that of this end.
    Vxlan {
        /// Network identifier, 0 to 16777215; no two ports have the same.
        vni: u32,
        /// UDP port on both ends.
        #[serde(default = "vxlan_port", skip_serializing_if = "is_vxlan_port")]
        udp_port: u16,
        /// This end's addresses, one of a family at most; none: the first one of that family on the NIC that leads to the other end.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[serde(deserialize_with = "crate::text::addresses")]
        local: Vec<IpAddr>,
        /// VRF of the underlay: that of the NICs' ports.
        #[serde(default, skip_serializing_if = "is_default")]
        underlay_vrf: u32,
        /// Whether outer packets over IPv6 go without UDP checksums; the other ends must accept that (RFC 6935).
        #[serde(default, skip_serializing_if = "is_default")]
        udp6_zero_checksum: bool,
        /// Packets of pods that are of a `group` are marked with it (draft-smith-vxlan-group-policy), and packets that the other ends
        /// have marked are judged by that, not by their source address.
        #[serde(default, skip_serializing_if = "is_default")]
        group_policy: bool,
    },
    /// Virtqueues of a virtual machine, or of a DPDK program with virtio-user, set up by vhost-user on a UNIX socket.
    VhostUser {
        /// Path of the socket.
        socket: String,
        /// What the switch does there.
        #[serde(default)]
        mode: SocketMode,
        /// Pairs of queues that the frontend may use, 1 to 32.
        #[serde(default = "one_pair", skip_serializing_if = "is_one_pair")]
        queues: u16,
        /// Number of the group whose members may connect where the switch listens, beside the superuser.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gid: Option<u32>,
    },
    /// Capture files instead of a device.
    Pcap {
        /// File whose frames arrive on the port, once, as fast as they are taken.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replay: Option<String>,
        /// File that records the frames that leave by the port; written anew.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        record: Option<String>,
    },
    /// Memory of the same process; for tests and benches, refused by a daemon.
    Memory {},
}

/// How the host's stack forwards for pods.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostEgress<'a> {
    /// Interfaces of the host that packets of pods leave by and answers come in by.
    pub interfaces: &'a [String],
    /// Whether what leaves takes the host's address for its source.
    pub masquerade: bool,
    /// Destinations to which it keeps the pod's.
    pub except: &'a [IpNet],
}

fn yes() -> bool {
    true
}

fn is_yes(word: &bool) -> bool {
    *word
}

/// The host's interface of a node's port, where nothing else is said.
pub const HOST_INTERFACE: &str = "podswitch0";
/// The switch's end of a node's port.
pub const HOST_POLLED: &str = "psw686f73740000";
/// MAC address of the host's interface of a node's port.
pub const HOST_MAC: MacAddr = MacAddr(*b"\x02phost");

fn host_interface() -> String {
    HOST_INTERFACE.to_owned()
}

fn one_pair() -> u16 {
    1
}

fn is_one_pair(queues: &u16) -> bool {
    *queues == one_pair()
}

/// The port of VXLAN (IANA).
fn vxlan_port() -> u16 {
    4789
}

fn is_vxlan_port(port: &u16) -> bool {
    *port == vxlan_port()
}

impl Device {
    /// The interface it is on, of one that is on an interface.
    pub fn interface(&self) -> Option<&str> {
        match self {
            Device::Veth { interface, .. }
            | Device::Nic { interface, .. }
            | Device::Host { interface, .. } => Some(interface),
            Device::Vxlan { .. }
            | Device::VhostUser { .. }
            | Device::Pcap { .. }
            | Device::Memory {} => None,
        }
    }

    /// The interface whose frames the switch takes, of one that is on an interface.
    pub fn polled(&self) -> Option<&str> {
        match self {
            Device::Host { .. } => Some(HOST_POLLED),
            other => other.interface(),
        }
    }

    /// Whether it is the node's own network stack.
    pub fn is_host(&self) -> bool {
        matches!(self, Device::Host { .. })
    }

    /// How the host's stack forwards, where it does.
    pub fn egress(&self) -> Option<HostEgress<'_>> {
        match self {
            Device::Host {
                egress,
                masquerade,
                except,
                ..
            } if !egress.is_empty() => Some(HostEgress {
                interfaces: egress,
                masquerade: *masquerade,
                except,
            }),
            _ => None,
        }
    }

    /// The VRF and UDP port that it ends at, of a tunnel.
    pub fn tunnel_end(&self) -> Option<(u32, u16)> {
        match self {
            Device::Vxlan {
                underlay_vrf,
                udp_port,
                ..
            } => Some((*underlay_vrf, *udp_port)),
            _ => None,
        }
    }

    /// The UDP port that it ends at, of a tunnel.
    pub fn tunnel_port(&self) -> Option<u16> {
        self.tunnel_end().map(|(_, port)| port)
    }

    /// Whether it is a tunnel.
    pub fn is_tunnel(&self) -> bool {
        self.tunnel_port().is_some()
    }

    /// Whether it is the node's NIC.
    pub fn is_nic(&self) -> bool {
        matches!(self, Device::Nic { .. })
    }

    /// The VLAN whose frames are the switch's, of a NIC.
    pub fn vlan(&self) -> Option<u16> {
        match self {
            Device::Nic { vlan, .. } => *vlan,
            _ => None,
        }
    }

    /// The kernel's routing table that routes are taken from.
    pub fn routes(&self) -> Option<u32> {
        match self {
            Device::Nic { routes, .. } => *routes,
            _ => None,
        }
    }

    /// Queues of a NIC that are to be in zero-copy mode.
    pub fn zero_copy_queues(&self) -> &[u32] {
        match self {
            Device::Nic {
                zero_copy_queues, ..
            } => zero_copy_queues,
            _ => &[],
        }
    }

    /// Destinations to which everything leaves as it is, of a NIC by which the rest leaves as the node's own.
    pub fn masquerade_except(&self) -> Option<&[IpNet]> {
        match self {
            Device::Nic {
                masquerade: true,
                except,
                ..
            } => Some(except),
            _ => None,
        }
    }

    /// Name as in `kind` on the wire.
    pub fn kind(&self) -> &'static str {
        match self {
            Device::Veth { .. } => "veth",
            Device::Nic { .. } => "nic",
            Device::Host { .. } => "host",
            Device::Vxlan { .. } => "vxlan",
            Device::VhostUser { .. } => "vhost_user",
            Device::Pcap { .. } => "pcap",
            Device::Memory {} => "memory",
        }
    }
}

/// Who listens on the socket of a virtual machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "snake_case")]
pub enum SocketMode {
    /// The switch makes the socket and listens.
    #[default]
    Server,
    /// The frontend does, and the switch connects as soon as it can.
    Client,
}

/// How frames come from an interface: by an XDP program and AF_XDP, or by traffic control and a tap device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "snake_case")]
pub enum XdpMode {
    /// The configured default.
    #[default]
    Auto,
    /// In the driver: keeps every frame as the pod sent it.
    Native,
    /// In the stack, after an skb was made: keeps the pod's segmentation offload, loses the sizes of segments.
    Generic,
    /// No XDP program: traffic control sends frames into a tap device. Keeps the pod's segmentation offload and everything it says, has what comes
    /// by a wire merged; each frame costs a call.
    Tap,
}

impl XdpMode {
    /// Name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            XdpMode::Auto => "auto",
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
            XdpMode::Tap => "tap",
        }
    }
}

/// Membership of an L2 segment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct SegmentMembership {
    /// Name of the segment.
    pub name: String,
    /// VLANs; none: untagged frames alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<Vlan>,
}

/// VLANs of an L2 port (IEEE 802.1Q).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Vlan {
    /// Untagged frames belong to this VLAN; tagged ones are dropped.
    Access(u16),
    /// Frames tagged with one of these VLANs pass, tag and all; others and untagged ones are dropped.
    Trunk(Vec<u16>),
}

impl Vlan {
    /// Whether frames of `vlan` belong to the port.
    pub fn contains(&self, vlan: u16) -> bool {
        match self {
            Vlan::Access(id) => *id == vlan,
            Vlan::Trunk(ids) => ids.contains(&vlan),
        }
    }
}

/// The pod behind a port, as the container runtime named it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct PodRef {
    /// Kubernetes namespace (`K8S_POD_NAMESPACE`), empty outside Kubernetes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Kubernetes name (`K8S_POD_NAME`), empty outside Kubernetes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Kubernetes UID (`K8S_POD_UID`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The runtime's id of the sandbox (`CNI_CONTAINERID`).
    pub container_id: String,
    /// Interface in the pod (`CNI_IFNAME`).
    pub ifname: String,
    /// Path of the sandbox's network namespace (`CNI_NETNS`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// Name of the CNI network the attachment belongs to, so that two networks never collect each other's attachments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
}

crate::by_name!(Port, Device, SegmentMembership, PodRef);

crate::by_word!(XdpMode, SocketMode);
