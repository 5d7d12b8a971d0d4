// SPDX-License-Identifier: Apache-2.0
//! Commands on objects: `list`, `get`, `add`, `delete`.

use std::net::IpAddr;
use std::str::FromStr;

use clap::{Args, Subcommand, ValueEnum};
use ipnet::IpNet;
use podswitch_api::MacAddr;
use podswitch_api::object::{
    Action, Direction, HOST_INTERFACE, NextHop, PortMapping, PortRange, Protocol, RouteKind,
    UnknownUnicast, XdpMode,
};

/// One object of a kind by its name.
#[derive(Debug, Args)]
pub(crate) struct Selector {
    /// Its name
    pub(crate) name: String,
}

macro_rules! choices {
    ($(#[doc = $doc:literal] $name:ident => $target:ident { $($(#[doc = $vdoc:literal])* $variant:ident),* })*) => {$(
        #[doc = $doc]
        #[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
        pub(crate) enum $name { $($(#[doc = $vdoc])* $variant,)* }

        impl From<$name> for $target {
            fn from(v: $name) -> $target {
                match v { $($name::$variant => $target::$variant,)* }
            }
        }
    )*};
}

choices! {
    /// What a rule or a default does.
    ActionArg => Action { /** Let it pass */ Allow, /** Drop it */ Deny }
    /// Which way a frame passes a port.
    DirectionArg => Direction { /** To the pod */ Ingress, /** From the pod */ Egress }
    /// How an XDP program is attached.
    ModeArg => XdpMode { /** As configured */ Auto, /** In the driver */ Native, /** In the stack */ Generic, /** By traffic control and a tap device */ Tap }
    /// What becomes of a packet that a route matches.
    RouteKindArg => RouteKind {
        /** Forwarded */ Unicast, /** Dropped silently */ Blackhole, /** Answered: host unreachable */ Unreachable,
        /** Answered: prohibited */ Prohibit
    }
    /// What becomes of a frame to an unknown address.
    UnknownArg => UnknownUnicast { /** Sent to every other port */ Flood, /** Dropped */ Drop }
}

#[derive(Debug, Subcommand)]
pub(crate) enum PortCommand {
    /// Lists ports
    List {
        /// Only those of this VRF
        #[arg(long, value_name = "ID")]
        vrf: Option<u32>,
        /// Only those of this L2 segment
        #[arg(long, value_name = "NAME")]
        segment: Option<String>,
        /// Only that with this address
        #[arg(long)]
        address: Option<IpAddr>,
        /// Only those of this sandbox
        #[arg(long, value_name = "ID")]
        container_id: Option<String>,
    },
    /// Shows a port
    Get(Selector),
    /// Adds a port, or replaces the one of this name
    Add(Box<PortAdd>),
    /// Deletes a port with its routes, neighbors, FDB entries and rules
    Delete {
        #[command(flatten)]
        selector: Selector,
        #[command(flatten)]
        missing: MissingArgs,
    },
}

/// What else a port may be than a NIC, the node's stack, a tunnel, or a virtual machine. An option of one of them excludes the others by name: what it requires is not asked for where that is
/// excluded anyway.
const NOT_NIC: [&str; 6] = [
    "interface",
    "host",
    "vxlan",
    "vhost_user",
    "replay",
    "record",
];
const NOT_HOST: [&str; 6] = [
    "interface",
    "nic",
    "vxlan",
    "vhost_user",
    "replay",
    "record",
];
const NOT_VXLAN: [&str; 6] = ["interface", "nic", "host", "vhost_user", "replay", "record"];
const NOT_GUEST: [&str; 6] = ["interface", "nic", "host", "vxlan", "replay", "record"];
const NOT_VETH: [&str; 6] = ["nic", "host", "vxlan", "vhost_user", "replay", "record"];

#[derive(Debug, Args)]
pub(crate) struct PortAdd {
    /// Its name
    pub(crate) name: String,
    /// Host end of the veth pair
    #[arg(long, value_name = "NAME", required_unless_present_any = NOT_VETH, conflicts_with_all = NOT_VETH)]
    pub(crate) interface: Option<String>,
    /// The node's NIC, instead of a veth: it stays the host's, and only what is the switch's comes to the port
    #[arg(long, value_name = "NAME", group = "place", conflicts_with_all = ["vhost_user", "replay", "record", "mac", "address", "mtu", "node", "trunk"])]
    pub(crate) nic: Option<String>,
    /// Routing table of the kernel whose routes by the NIC are the switch's too; 254 is main
    #[arg(long, value_name = "TABLE", requires = "nic", conflicts_with_all = NOT_NIC)]
    pub(crate) routes: Option<u32>,
    /// Connections that pods begin leave by the NIC as the node's own
    #[arg(long, requires = "nic", group = "masking", conflicts_with_all = NOT_NIC)]
    pub(crate) masquerade: bool,
    /// Receive queues of the NIC that are to be in zero-copy mode, from 0 on, such as 4,5: its steering keeps them for the switch
    #[arg(long, value_name = "QUEUES", requires = "nic", value_delimiter = ',', conflicts_with_all = NOT_NIC)]
    pub(crate) zero_copy: Vec<u32>,
    /// They may be queues that the host receives by, too: that hangs on podswitchd then
    #[arg(long, requires = "zero_copy", conflicts_with_all = NOT_NIC)]
    pub(crate) zero_copy_shared: bool,
    /// The node's own network stack, instead of a veth: podswitchd makes this interface of the host's
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = HOST_INTERFACE, requires = "pods", conflicts_with_all = ["nic", "vhost_user", "replay", "record", "mac", "node", "segment"])]
    pub(crate) host: Option<String>,
    /// Prefix of pods that the host's stack reaches through the switch; may be given more than once
    #[arg(long, value_name = "PREFIX", requires = "host", conflicts_with_all = NOT_HOST)]
    pub(crate) pods: Vec<IpNet>,
    /// Interface by which the host's stack forwards packets of pods; may be given more than once
    #[arg(long, value_name = "NAME", requires = "host", group = "masking", conflicts_with_all = NOT_HOST)]
    pub(crate) egress: Vec<String>,
    /// What the host's stack forwards keeps the pod's address
    #[arg(long, requires = "egress", conflicts_with_all = NOT_HOST)]
    pub(crate) no_masquerade: bool,
    /// Destination to which packets keep the pod's address; may be given more than once
    #[arg(
        long,
        value_name = "PREFIX",
        requires = "masking",
        conflicts_with_all = ["no_masquerade", "interface", "vxlan", "vhost_user", "replay", "record"]
    )]
    pub(crate) except: Vec<IpNet>,
    /// A VXLAN tunnel of this network identifier, instead of a device; its neighbors are the other ends
    #[arg(long, value_name = "VNI", conflicts_with_all = ["nic", "host", "vhost_user", "replay", "record", "address", "segment", "node"])]
    pub(crate) vxlan: Option<u32>,
    /// UDP port of a tunnel
    #[arg(long, value_name = "PORT", default_value_t = 4789, requires = "vxlan", conflicts_with_all = NOT_VXLAN)]
    pub(crate) udp_port: u16,
    /// This end's address of a tunnel, one of a family; that of the NIC on the way when absent
    #[arg(long, value_name = "ADDRESS", requires = "vxlan", conflicts_with_all = NOT_VXLAN)]
    pub(crate) local: Vec<IpAddr>,
    /// VRF of a tunnel's outer packets
    #[arg(long, value_name = "ID", default_value_t = 0, requires = "vxlan", conflicts_with_all = NOT_VXLAN)]
    pub(crate) underlay_vrf: u32,
    /// A tunnel's packets over IPv6 go without UDP checksums
    #[arg(long, requires = "vxlan", conflicts_with_all = NOT_VXLAN)]
    pub(crate) udp6_zero_checksum: bool,
    /// A tunnel's packets of pods are marked with their group, and marks of the other ends are believed
    #[arg(long, requires = "vxlan", conflicts_with_all = NOT_VXLAN)]
    pub(crate) group_policy: bool,
    /// A virtual machine, or a DPDK program with virtio-user, instead of a veth: the socket where it is met (vhost-user)
    #[arg(long, value_name = "SOCKET", value_hint = clap::ValueHint::FilePath, conflicts_with_all = ["replay", "record", "node"])]
    pub(crate) vhost_user: Option<String>,
    /// The machine listens on the socket; the switch does when absent
    #[arg(long, requires = "vhost_user", conflicts_with_all = NOT_GUEST)]
    pub(crate) client: bool,
    /// Pairs of queues that the machine may use
    #[arg(long, value_name = "NUMBER", default_value_t = 1, requires = "vhost_user", conflicts_with_all = NOT_GUEST)]
    pub(crate) queues: u16,
    /// Number of the group whose members may connect to the socket
    #[arg(long, value_name = "NUMBER", requires = "vhost_user", conflicts_with = "client", conflicts_with_all = NOT_GUEST)]
    pub(crate) gid: Option<u32>,
    /// How the steering program is attached; on a NIC, auto is native
    #[arg(long, value_enum, default_value_t = ModeArg::Auto, value_name = "MODE", conflicts_with = "vhost_user")]
    pub(crate) mode: ModeArg,
    /// Capture file whose frames come in, instead of an interface
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) replay: Option<String>,
    /// Capture file that records the frames that leave, instead of an interface
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) record: Option<String>,
    /// MAC address of the station behind it; needed without --segment, --nic and --host
    #[arg(long)]
    pub(crate) mac: Option<MacAddr>,
    /// Address of the station; may be given more than once; with --host all of the node's when absent
    #[arg(long)]
    pub(crate) address: Vec<IpAddr>,
    /// VRF of a routed port
    #[arg(long, value_name = "ID", default_value_t = 0)]
    pub(crate) vrf: u32,
    /// MTU in bytes; the configured default when absent
    #[arg(long, value_name = "BYTES")]
    pub(crate) mtu: Option<u32>,
    /// Worker that owns it; the daemon chooses when absent
    #[arg(long, value_name = "NUMBER")]
    pub(crate) worker: Option<u8>,
    /// What becomes of frames from it that no rule matches
    #[arg(long, value_enum, default_value_t = ActionArg::Allow, value_name = "ACTION")]
    pub(crate) egress_default: ActionArg,
    /// What becomes of frames to it that no rule matches
    #[arg(long, value_enum, default_value_t = ActionArg::Allow, value_name = "ACTION")]
    pub(crate) ingress_default: ActionArg,
    /// L2 segment, instead of routing
    #[arg(long, value_name = "NAME", group = "place")]
    pub(crate) segment: Option<String>,
    /// VLAN of its untagged frames; of a NIC, of the frames that are the switch's
    #[arg(long, value_name = "ID", requires = "place", conflicts_with = "trunk")]
    pub(crate) vlan: Option<u16>,
    /// VLANs of its tagged frames
    #[arg(long, value_name = "IDS", requires = "segment", value_delimiter = ',')]
    pub(crate) trunk: Vec<u16>,
    /// The node's own network stack is behind it: pods and their node may always talk to each other
    #[arg(long, conflicts_with = "segment")]
    pub(crate) node: bool,
    /// Port of the node that leads to one of the pod's, such as 8080:80 or udp/192.0.2.1:53:5353; may be given more than once
    #[arg(
        long,
        value_name = "[PROTOCOL/][ADDRESS:]PORT:PORT",
        conflicts_with_all = ["nic", "host", "vxlan", "segment", "node"]
    )]
    pub(crate) host_port: Vec<PortMapping>,
}

/// What to do when there is nothing to delete.
#[derive(Debug, Args)]
pub(crate) struct MissingArgs {
    /// Succeed when there is nothing to delete
    #[arg(long)]
    pub(crate) ignore_not_found: bool,
}

/// Key of an FDB entry.
#[derive(Debug, Args)]
pub(crate) struct FdbKeyArgs {
    /// Name of the segment
    pub(crate) segment: String,
    /// MAC address
    pub(crate) mac: MacAddr,
    /// VLAN; none for ports without VLANs
    #[arg(long, value_name = "ID")]
    pub(crate) vlan: Option<u16>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum FdbCommand {
    /// Lists FDB entries, learned and static
    List {
        /// Only those of this segment
        #[arg(long, value_name = "NAME")]
        segment: Option<String>,
        /// Only those behind this port
        #[arg(long, value_name = "NAME")]
        port: Option<String>,
        /// Only those of this MAC address
        #[arg(long)]
        mac: Option<MacAddr>,
    },
    /// Shows an FDB entry
    Get(FdbKeyArgs),
    /// Fixes a MAC address to a port
    Add {
        #[command(flatten)]
        key: FdbKeyArgs,
        /// Name of the port
        #[arg(long, value_name = "NAME")]
        port: String,
    },
    /// Deletes a static FDB entry
    Delete {
        #[command(flatten)]
        key: FdbKeyArgs,
        #[command(flatten)]
        missing: MissingArgs,
    },
}

/// A next hop with its port and weight.
#[derive(Debug, Clone)]
pub(crate) struct HopArg(pub(crate) NextHop);

impl std::str::FromStr for HopArg {
    type Err = String;

    fn from_str(text: &str) -> Result<HopArg, String> {
        let form = || format!("{text:?} is not ADDRESS@PORT or ADDRESS@PORT*WEIGHT");
        let (via, rest) = text.split_once('@').ok_or_else(form)?;
        let (port, weight) = match rest.rsplit_once('*') {
            Some((port, weight)) => (port, weight.parse().map_err(|_| form())?),
            None => (rest, 1),
        };
        Ok(HopArg(NextHop {
            via: via.parse().map_err(|_| form())?,
            port: port.to_owned(),
            weight,
        }))
    }
}

/// Key of a route.
#[derive(Debug, Args)]
pub(crate) struct RouteKeyArgs {
    /// Destination, such as 10.1.0.0/16 or ::/0
    pub(crate) prefix: IpNet,
    /// VRF
    #[arg(long, value_name = "ID", default_value_t = 0)]
    pub(crate) vrf: u32,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RouteCommand {
    /// Lists routes; the addresses of ports are routes of their own and not shown
    List {
        /// Only those of this VRF
        #[arg(long, value_name = "ID")]
        vrf: Option<u32>,
        /// Only those by this port
        #[arg(long, value_name = "NAME")]
        port: Option<String>,
    },
    /// Shows the route of a prefix
    Get(RouteKeyArgs),
    /// Adds a route, or replaces the one of this prefix
    Add {
        #[command(flatten)]
        key: RouteKeyArgs,
        /// Port to leave by; needed by a unicast route
        #[arg(long, value_name = "NAME")]
        port: Option<String>,
        /// Next hop; the destination itself when absent
        #[arg(long, value_name = "ADDRESS")]
        via: Option<IpAddr>,
        /// One of several next hops, instead of --via and --port: ADDRESS@PORT, or ADDRESS@PORT*WEIGHT; given two times or more
        #[arg(long, value_name = "HOP", conflicts_with_all = ["port", "via"])]
        nexthop: Vec<HopArg>,
        /// What becomes of packets
        #[arg(long = "type", value_enum, default_value_t = RouteKindArg::Unicast, value_name = "TYPE")]
        kind: RouteKindArg,
        /// Largest packet in bytes; the MTU of the port when absent
        #[arg(long, value_name = "BYTES")]
        mtu: Option<u32>,
    },
    /// Deletes a route
    Delete {
        #[command(flatten)]
        key: RouteKeyArgs,
        #[command(flatten)]
        missing: MissingArgs,
    },
}

/// Key of a neighbor.
#[derive(Debug, Args)]
pub(crate) struct NeighborKeyArgs {
    /// Its address
    pub(crate) address: IpAddr,
    /// VRF
    #[arg(long, value_name = "ID", default_value_t = 0)]
    pub(crate) vrf: u32,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NeighborCommand {
    /// Lists neighbors; the addresses of ports need none and are not shown
    List {
        /// Only those of this VRF
        #[arg(long, value_name = "ID")]
        vrf: Option<u32>,
        /// Only those behind this port
        #[arg(long, value_name = "NAME")]
        port: Option<String>,
    },
    /// Shows a neighbor
    Get(NeighborKeyArgs),
    /// Adds a neighbor, or replaces the one of this address
    Add {
        #[command(flatten)]
        key: NeighborKeyArgs,
        /// Its MAC address
        #[arg(long)]
        mac: MacAddr,
        /// Port it is behind
        #[arg(long, value_name = "NAME")]
        port: String,
    },
    /// Deletes a neighbor
    Delete {
        #[command(flatten)]
        key: NeighborKeyArgs,
        #[command(flatten)]
        missing: MissingArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SegmentCommand {
    /// Lists L2 segments
    List,
    /// Shows a segment
    Get(Selector),
    /// Adds a segment, or replaces the one of this name
    Add {
        #[command(flatten)]
        selector: Selector,
        /// Unique number, 1 to 16777215
        #[arg(long)]
        id: u32,
        /// Seconds after which a silent learned address is forgotten
        #[arg(long, value_name = "SECONDS")]
        ageing: Option<u32>,
        /// Learn no addresses
        #[arg(long)]
        no_learn: bool,
        /// What becomes of frames to unknown addresses
        #[arg(long, value_enum, default_value_t = UnknownArg::Flood, value_name = "WHAT")]
        unknown_unicast: UnknownArg,
        /// Most frames to unknown addresses per second
        #[arg(long, value_name = "FRAMES")]
        unknown_unicast_limit: Option<u32>,
        /// Most broadcast and multicast frames per second
        #[arg(long, value_name = "FRAMES")]
        broadcast_limit: Option<u32>,
        /// Most FDB entries
        #[arg(long, value_name = "NUMBER")]
        max_entries: Option<u32>,
    },
    /// Deletes a segment without ports
    Delete {
        #[command(flatten)]
        selector: Selector,
        #[command(flatten)]
        missing: MissingArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RuleCommand {
    /// Lists rules with their counters, in the order of their names
    List {
        /// Only those of this port
        #[arg(long, value_name = "NAME")]
        port: Option<String>,
    },
    /// Shows a rule
    Get(Selector),
    /// Adds a rule, or replaces the one of this name
    Add {
        #[command(flatten)]
        selector: Selector,
        /// Port it protects
        #[arg(long, value_name = "NAME")]
        port: String,
        /// Which frames: from the pod (egress) or to it (ingress)
        #[arg(long, value_enum)]
        direction: DirectionArg,
        /// Lower ones are looked at first
        #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
        priority: u32,
        /// Source prefix
        #[arg(long, value_name = "PREFIX")]
        source: Option<IpNet>,
        /// Destination prefix
        #[arg(long, value_name = "PREFIX")]
        destination: Option<IpNet>,
        /// tcp, udp, sctp, icmp, icmpv6 or a number
        #[arg(long)]
        protocol: Option<Protocol>,
        /// Destination ports, such as 80 or 8000-8099
        #[arg(long, value_name = "RANGE")]
        ports: Option<PortRangeArg>,
        /// What becomes of them
        #[arg(long, value_enum)]
        action: ActionArg,
    },
    /// Deletes a rule
    Delete {
        #[command(flatten)]
        selector: Selector,
        #[command(flatten)]
        missing: MissingArgs,
    },
}

/// Key of a group.
#[derive(Debug, Args)]
pub(crate) struct GroupKeyArgs {
    /// Its number, a Group Policy ID: 1 to 65535
    pub(crate) id: u16,
}

#[derive(Debug, Args)]
pub(crate) struct GroupAdd {
    #[command(flatten)]
    pub(crate) key: GroupKeyArgs,
    /// Namespace of its pods
    #[arg(long, value_name = "NAME")]
    pub(crate) namespace: String,
    /// Label of its pods, which have no other ones; may be given more than once
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) label: Vec<LabelArg>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// Lists groups
    List {
        /// Only those of pods of this namespace
        #[arg(long, value_name = "NAME")]
        namespace: Option<String>,
    },
    /// Shows a group
    Get(GroupKeyArgs),
    /// Adds a group, or replaces the one of this number
    Add(GroupAdd),
    /// Deletes a group
    Delete {
        #[command(flatten)]
        key: GroupKeyArgs,
        #[command(flatten)]
        missing: MissingArgs,
    },
}

/// A label: `app=web`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LabelArg(pub(crate) String, pub(crate) String);

impl FromStr for LabelArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| format!("{text:?} is no label; write KEY=VALUE, such as app=web"))?;
        Ok(LabelArg(key.to_owned(), value.to_owned()))
    }
}

/// A range of ports: `80` or `8000-8099`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PortRangeArg(pub(crate) PortRange);

impl FromStr for PortRangeArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if first <= last => Ok(PortRangeArg(PortRange { first, last })),
            _ => Err(format!(
                "{text:?} is no range of ports; write 80, or 8000-8099 with the lower one first"
            )),
        }
    }
}
