// SPDX-License-Identifier: Apache-2.0
//! Connections, and the policy that judges them.

use serde::{Deserialize, Serialize};

/// Longest timeout, seconds: a third of the time after which the datapath's clock of milliseconds wraps around
/// (`podswitch_datapath::flow::Timeouts::MAX`).
pub(super) const MAX_TIMEOUT: u32 = 1_400_000;

/// Connections. Timeouts are seconds after the last packet of a connection in that state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields, default)]
pub struct ConntrackConfig {
    /// Connections each worker tracks; a power of two.
    pub entries: u32,
    /// Most of them that any one port may have begun; none: as many as are free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entries_per_port: Option<u32>,
    /// Packets in fragments that each worker follows at a time.
    pub fragments: u32,
    /// For how long after a start that found ports in its stored state connections may be joined that began before it.
    pub join_seconds: u32,
    /// TCP: a SYN.
    pub tcp_syn_sent: u32,
    /// TCP: a SYN and its answer.
    pub tcp_syn_received: u32,
    /// TCP: open.
    pub tcp_established: u32,
    /// TCP: one side has ended.
    pub tcp_half_closed: u32,
    /// TCP: both sides have ended.
    pub tcp_time_wait: u32,
    /// TCP: reset.
    pub tcp_closed: u32,
    /// UDP without an answer.
    pub udp: u32,
    /// UDP with one.
    pub udp_replied: u32,
    /// Queries of ICMP and ICMPv6.
    pub icmp: u32,
    /// SCTP: not open yet.
    pub sctp_new: u32,
    /// SCTP: open.
    pub sctp_established: u32,
    /// SCTP: over.
    pub sctp_closed: u32,
    /// Any other protocol.
    pub other: u32,
}

impl ConntrackConfig {
    /// Every timeout with its key.
    pub fn timeouts(&self) -> [(&'static str, u32); 13] {
        [
            ("conntrack.tcp_syn_sent", self.tcp_syn_sent),
            ("conntrack.tcp_syn_received", self.tcp_syn_received),
            ("conntrack.tcp_established", self.tcp_established),
            ("conntrack.tcp_half_closed", self.tcp_half_closed),
            ("conntrack.tcp_time_wait", self.tcp_time_wait),
            ("conntrack.tcp_closed", self.tcp_closed),
            ("conntrack.udp", self.udp),
            ("conntrack.udp_replied", self.udp_replied),
            ("conntrack.icmp", self.icmp),
            ("conntrack.sctp_new", self.sctp_new),
            ("conntrack.sctp_established", self.sctp_established),
            ("conntrack.sctp_closed", self.sctp_closed),
            ("conntrack.other", self.other),
        ]
    }
}

impl Default for ConntrackConfig {
    fn default() -> Self {
        ConntrackConfig {
            entries: 65_536,
            entries_per_port: None,
            fragments: 4096,
            join_seconds: 60,
            tcp_syn_sent: 120,
            tcp_syn_received: 60,
            tcp_established: 432_000,
            tcp_half_closed: 120,
            tcp_time_wait: 30,
            tcp_closed: 10,
            udp: 30,
            udp_replied: 120,
            icmp: 30,
            sctp_new: 30,
            sctp_established: 210,
            sctp_closed: 10,
            other: 600,
        }
    }
}

/// Network policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields, default)]
pub struct PolicyConfig {
    /// Somebody describes every pod: a pod's port is closed until its pod and its namespace are here.
    pub expect: bool,
    /// Seconds after which a port that is still closed for that is a problem.
    pub deadline_seconds: u32,
}

impl Default for PolicyConfig {
    fn default() -> Self {
        PolicyConfig {
            expect: false,
            deadline_seconds: 30,
        }
    }
}

podswitch_api::by_name!(ConntrackConfig, PolicyConfig);
