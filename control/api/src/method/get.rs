// SPDX-License-Identifier: Apache-2.0
//! `get`.

use std::net::IpAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::mac::MacAddr;
use crate::method::TeardownItem;
use crate::object::{Kind, Object};
use crate::schema::Prefix;

/// Parameters of `get`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct GetParams {
    /// Which kind.
    pub kind: Kind,
    /// Which of them; all when absent.
    #[serde(default, skip_serializing_if = "Filter::is_empty")]
    pub filter: Filter,
    /// Most objects to return, 1 to 1000 (the default).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// `continue` of the page before, as it was.
    #[serde(default, rename = "continue", skip_serializing_if = "Option::is_none")]
    pub resume: Option<String>,
}

impl GetParams {
    /// The first page of all objects of a kind.
    pub fn all(kind: Kind) -> GetParams {
        GetParams {
            kind,
            filter: Filter::default(),
            limit: None,
            resume: None,
        }
    }
}

/// Conditions that an object meets all of. One that no object of the kind could meet is refused as `invalid_params`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Filter {
    /// Name of a port, segment, rule, namespace, pod, policy or service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Number of a segment or group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// Namespace of a pod, NetworkPolicy or group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of the port that a route, neighbor, FDB entry or rule refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// VRF of a routed port, route or neighbor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vrf: Option<u32>,
    /// Segment of an L2 port or FDB entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<String>,
    /// Prefix of a route, exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Prefix>")]
    #[serde(deserialize_with = "crate::text::optional_prefix")]
    pub prefix: Option<IpNet>,
    /// Address of a port, neighbor, pod or service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "crate::text::optional_address")]
    pub address: Option<IpAddr>,
    /// MAC address of a port, neighbor or FDB entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Sandbox id of a port's pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// CNI network of a port's pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
}

impl Filter {
    /// Whether it has no condition.
    pub fn is_empty(&self) -> bool {
        *self == Filter::default()
    }
}

/// Result of `get`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct GetResult {
    /// Generation of the desired state that was read.
    pub generation: u64,
    /// The objects, in the order of their keys.
    pub objects: Vec<Entry>,
    /// Where the next page begins; absent on the last one. Objects that change between pages are seen as they are then.
    #[serde(default, rename = "continue", skip_serializing_if = "Option::is_none")]
    pub resume: Option<String>,
}

/// An object and what became of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Entry {
    /// The object as desired; a learned FDB entry, a neighbor that was found and a route of the kernel's in the same form.
    pub object: Object,
    /// What the switch knows of it; absent where there is nothing to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

/// What the switch knows of an object.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(
    remote = "Self",
    tag = "kind",
    rename_all = "snake_case",
    deny_unknown_fields
)]
pub enum Status {
    /// Of a port.
    Port(PortStatus),
    /// Of a segment.
    Segment(SegmentStatus),
    /// Of a route.
    Route(RouteStatus),
    /// Of a neighbor.
    Neighbor(NeighborStatus),
    /// Of an FDB entry.
    Fdb(FdbStatus),
    /// Of a rule.
    Rule(RuleStatus),
    /// Of a service.
    Service(ServiceStatus),
}

/// State of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "snake_case")]
pub enum PortState {
    /// Frames pass.
    Up,
    /// The device is there, its link is down.
    Down,
    /// Its device could not be opened, or failed; `message` says why, and nothing passes.
    Faulted,
}

impl PortState {
    /// Name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            PortState::Up => "up",
            PortState::Down => "down",
            PortState::Faulted => "faulted",
        }
    }
}

/// What the switch knows of a port.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct PortStatus {
    /// Its state.
    pub state: PortState,
    /// Number of the port in this run of the daemon.
    pub id: u16,
    /// Worker that owns it, an index into the configured list.
    pub worker: u8,
    /// MTU in force, in bytes.
    pub mtu: u32,
    /// How the steering program is attached: `native` or `generic`; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// How frames get from each receive queue of a NIC, from 0 on, to the switch, by the kernel's word: `copy`, or `zero-copy`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub queues: Vec<String>,
    /// What the driver of a virtual machine agreed on, by the names of virtio (VIRTIO_NET_F_MRG_RXBUF is `mrg_rxbuf`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
    /// Interface index, of a device that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifindex: Option<u32>,
    /// Why it is not up, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The node's addresses that packets go to by it, of the host's port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[serde(deserialize_with = "crate::text::addresses")]
    pub addresses: Vec<IpAddr>,
    /// What is on the host for it, in words of [`TeardownItem`], of the host's port: all of it goes with the port, or is put back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on_host: Vec<TeardownItem>,
}

/// What the switch knows of a segment.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct SegmentStatus {
    /// Its ports.
    pub ports: u32,
    /// FDB entries in force, learned and static.
    pub entries: u32,
    /// Learned ones among them.
    pub learned: u32,
}

/// What the switch knows of an FDB entry.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct FdbStatus {
    /// Learned, not configured: neither stored nor deleted by `apply`.
    pub dynamic: bool,
    /// Milliseconds since a learned address was last heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
}

/// What the switch knows of a route.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct RouteStatus {
    /// Followed from the kernel, not configured: neither stored nor deleted by `apply`.
    pub dynamic: bool,
    /// The kernel's routing table that a followed one is from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
}

/// What the switch knows of a neighbor.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct NeighborStatus {
    /// Found, not configured: neither stored nor deleted by `apply`.
    pub dynamic: bool,
    /// How sure that is, of one that was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<NeighborState>,
    /// Who said where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<NeighborSource>,
    /// Milliseconds since it came to be known there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
}

/// How sure it is where a neighbor is (RFC 4861, 7.3.2, for both families).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "snake_case")]
pub enum NeighborState {
    /// It has answered lately.
    Reachable,
    /// It is being asked.
    Probe,
    /// The kernel's table has it by hand.
    Permanent,
}

impl NeighborState {
    /// Name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            NeighborState::Reachable => "reachable",
            NeighborState::Probe => "probe",
            NeighborState::Permanent => "permanent",
        }
    }
}

/// Who has said where a neighbor is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "snake_case")]
pub enum NeighborSource {
    /// The neighbor, on the link.
    Wire,
    /// The kernel's table.
    Kernel,
}

impl NeighborSource {
    /// Name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            NeighborSource::Wire => "wire",
            NeighborSource::Kernel => "kernel",
        }
    }
}

/// What the switch knows of a rule.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct RuleStatus {
    /// Frames it decided.
    pub packets: u64,
    /// Bytes of these frames.
    pub bytes: u64,
}

/// What the switch knows of a service.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct ServiceStatus {
    /// How many backends serve the whole cluster.
    pub backends: u32,
    /// How many serve this node alone.
    pub local_backends: u32,
}

crate::by_name!(
    GetParams,
    Filter,
    GetResult,
    Entry,
    Status,
    PortStatus,
    SegmentStatus,
    RouteStatus,
    NeighborStatus,
    FdbStatus,
    RuleStatus,
    ServiceStatus
);

crate::by_word!(PortState, NeighborState, NeighborSource);
