// SPDX-License-Identifier: Apache-2.0
//! Tables of the configuration, with their defaults.

use std::net::{Ipv4Addr, Ipv6Addr};

use podswitch_api::desired::Gateway;
use podswitch_api::limits::DEFAULT_REQUEST_BYTES;
use podswitch_api::object::{PortRange, XdpMode};
use podswitch_api::{Limits, MacAddr};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Permissions of a file, written in octal: `"0660"`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileMode(pub u32);

impl Default for FileMode {
    fn default() -> Self {
        FileMode(0o660)
    }
}

impl Serialize for FileMode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:04o}", self.0))
    }
}

impl<'de> Deserialize<'de> for FileMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let octal = !text.is_empty() && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if octal && mode <= 0o777 => Ok(FileMode(mode)),
            _ => Err(de::Error::custom(format!(
                "{text:?} is no file mode; write up to four octal digits, such as \"0660\""
            ))),
        }
    }
}

/// Logging.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields, default)]
pub struct LogConfig {
    /// Least important messages that are written.
    pub level: LogLevel,
    /// How they are written, to standard error.
    pub format: LogFormat,
}

/// Importance of a log message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(remote = "Self", rename_all = "snake_case")]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something is not as it should be.
    Warn,
    /// What happens.
    #[default]
    Info,
    /// Why it happens.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// Name in the file.
    pub fn name(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

/// Form of log messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(remote = "Self", rename_all = "snake_case")]
pub enum LogFormat {
    /// A line of text.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// The switch's own addresses, the same in every VRF.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields, default)]
pub struct GatewayConfig {
    /// IPv4 address that pods have as their gateway.
    pub ipv4: Ipv4Addr,
    /// IPv6 address that pods have as their gateway.
    pub ipv6: Ipv6Addr,
    /// MAC address of both.
    pub mac: MacAddr,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        let Gateway { ipv4, ipv6, mac } = Gateway::default();
        GatewayConfig { ipv4, ipv6, mac }
    }
}

impl From<GatewayConfig> for Gateway {
    fn from(c: GatewayConfig) -> Gateway {
        Gateway {
            ipv4: c.ipv4,
            ipv6: c.ipv6,
            mac: c.mac,
        }
    }
}

/// What a worker does without work: it looks for some for `spin_us`, then sleeps until it is woken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields, default)]
pub struct IdleConfig {
    /// Microseconds without work after which a worker may sleep.
    pub spin_us: u32,
    /// Microseconds that waking up may take; 0: never sleep.
    pub latency_us: u32,
}

impl Default for IdleConfig {
    fn default() -> Self {
        IdleConfig {
            spin_us: 50,
            latency_us: 500,
        }
    }
}

/// Packet memory: arenas of 4096-byte chunks, each shared by some ports of a worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields, default)]
pub struct MemoryConfig {
    /// Ports that share an arena; none: 3, 5, 8 and then 16.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports_per_arena: Option<u32>,
    /// Chunks of an arena for each of its ports; none: what the port's MTU asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunks_per_port: Option<u32>,
}

/// Masquerading.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields, default)]
pub struct MasqueradeConfig {
    /// TCP and UDP ports, and identifiers of ICMP queries, that masqueraded connections leave by; shared out evenly among the workers. None:
    /// nothing can be masqueraded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<PortRange>,
}

/// How much there may be of everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Clients of the control socket at one time.
    pub clients: u32,
    /// Bytes of a request line.
    pub request_bytes: u32,
    /// Ports.
    pub ports: u32,
    /// Addresses of one port.
    pub addresses_per_port: u32,
    /// VLANs of one trunk port.
    pub vlans_per_port: u32,
    /// Routes.
    pub routes: u32,
    /// Neighbors.
    pub neighbors: u32,
    /// L2 segments.
    pub segments: u32,
    /// Static FDB entries.
    pub fdb_entries: u32,
    /// FDB entries of one segment, learned ones included.
    pub fdb_entries_per_segment: u32,
    /// Policy rules.
    pub rules: u32,
    /// Kubernetes namespaces.
    pub namespaces: u32,
    /// Pods of the cluster.
    pub pods: u32,
    /// NetworkPolicies.
    pub network_policies: u32,
    /// ClusterNetworkPolicies.
    pub cluster_network_policies: u32,
    /// Groups.
    pub groups: u32,
    /// Services.
    pub services: u32,
    /// Backends of all services together.
    pub service_backends: u32,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        let l = Limits::MAX;
        LimitsConfig {
            clients: 64,
            request_bytes: DEFAULT_REQUEST_BYTES as u32,
            ports: l.ports,
            addresses_per_port: l.addresses_per_port,
            vlans_per_port: l.vlans_per_port,
            routes: l.routes,
            neighbors: l.neighbors,
            segments: l.segments,
            fdb_entries: l.fdb_entries,
            fdb_entries_per_segment: l.fdb_entries_per_segment,
            rules: l.rules,
            namespaces: l.namespaces,
            pods: l.pods,
            network_policies: l.network_policies,
            cluster_network_policies: l.cluster_network_policies,
            groups: l.groups,
            services: l.services,
            service_backends: l.service_backends,
        }
    }
}

impl From<LimitsConfig> for Limits {
    fn from(c: LimitsConfig) -> Limits {
        Limits {
            ports: c.ports,
            addresses_per_port: c.addresses_per_port,
            vlans_per_port: c.vlans_per_port,
            routes: c.routes,
            neighbors: c.neighbors,
            segments: c.segments,
            fdb_entries: c.fdb_entries,
            fdb_entries_per_segment: c.fdb_entries_per_segment,
            rules: c.rules,
            namespaces: c.namespaces,
            pods: c.pods,
            network_policies: c.network_policies,
            cluster_network_policies: c.cluster_network_policies,
            groups: c.groups,
            services: c.services,
            service_backends: c.service_backends,
        }
    }
}

/// AF_XDP ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields, default)]
pub struct XdpConfig {
    /// How steering programs are attached to ports whose mode is `auto`; `auto` here: native where the device can, else generic.
    pub mode: XdpMode,
    /// Most calls that ask the kernel to transmit, per port and turn.
    pub kick_budget: u32,
    /// Milliseconds without a turn of a worker that serves queues in zero-copy mode, after which the daemon is ended.
    pub watchdog_ms: u32,
}

impl Default for XdpConfig {
    fn default() -> Self {
        XdpConfig {
            mode: XdpMode::Auto,
            kick_budget: 4,
            watchdog_ms: 1000,
        }
    }
}

/// ICMP and ICMPv6 errors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields, default)]
pub struct IcmpConfig {
    /// Most errors sent to each port per second (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4); 0: none.
    pub errors_per_second: u32,
}

impl Default for IcmpConfig {
    fn default() -> Self {
        IcmpConfig {
            errors_per_second: 100,
        }
    }
}

podswitch_api::by_name!(
    LogConfig,
    GatewayConfig,
    IdleConfig,
    MemoryConfig,
    LimitsConfig,
    XdpConfig,
    IcmpConfig,
    MasqueradeConfig
);

podswitch_api::by_word!(LogLevel, LogFormat);
