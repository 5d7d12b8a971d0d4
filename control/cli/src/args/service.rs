// SPDX-License-Identifier: Apache-2.0
//! Commands on services.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use clap::{Args, Subcommand, ValueEnum};
use ipnet::IpNet;
use podswitch_api::object::{ExternalAddress, Protocol, TrafficPolicy};

use super::object::{MissingArgs, Selector};

/// Which backends serve.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum TrafficArg {
    /// Those of the whole cluster
    Cluster,
    /// Those of this node
    Local,
}

impl From<TrafficArg> for TrafficPolicy {
    fn from(v: TrafficArg) -> TrafficPolicy {
        match v {
            TrafficArg::Cluster => TrafficPolicy::Cluster,
            TrafficArg::Local => TrafficPolicy::Local,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ServiceAdd {
    #[command(flatten)]
    pub(crate) selector: Selector,
    /// tcp, udp or sctp
    #[arg(long, default_value_t = Protocol::TCP)]
    pub(crate) protocol: Protocol,
    /// Port at its addresses
    #[arg(long, value_name = "PORT")]
    pub(crate) port: u16,
    /// Virtual address inside the cluster; may be given more than once
    #[arg(long, value_name = "ADDRESS", required = true)]
    pub(crate) address: Vec<IpAddr>,
    /// Address for clients outside, all of them or those from these prefixes; may be given more than once
    #[arg(long, value_name = "ADDRESS[=PREFIX,...]")]
    pub(crate) external: Vec<ExternalArg>,
    /// Port of every address of the node
    #[arg(long, value_name = "PORT")]
    pub(crate) node_port: Option<u16>,
    /// Which backends serve the addresses inside the cluster
    #[arg(long, value_enum, default_value_t = TrafficArg::Cluster)]
    pub(crate) internal_traffic: TrafficArg,
    /// Which backends serve clients from outside
    #[arg(long, value_enum, default_value_t = TrafficArg::Cluster)]
    pub(crate) external_traffic: TrafficArg,
    /// Seconds of silence for which a client stays with its backend
    #[arg(long, value_name = "SECONDS")]
    pub(crate) affinity: Option<u32>,
    /// Backend for the whole cluster; may be given more than once
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) backend: Vec<SocketAddr>,
    /// Backend on this node; may be given more than once
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) local_backend: Vec<SocketAddr>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// Lists services
    List {
        /// Only those at this address
        #[arg(long, value_name = "ADDRESS")]
        address: Option<IpAddr>,
    },
    /// Shows a service
    Get(Selector),
    /// Adds a service, or replaces the one of this name
    Add(Box<ServiceAdd>),
    /// Deletes a service
    Delete {
        #[command(flatten)]
        selector: Selector,
        #[command(flatten)]
        missing: MissingArgs,
    },
}

/// An address for clients outside: `192.0.2.1`, or `192.0.2.1=198.51.100.0/24,203.0.113.0/24`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ExternalArg(pub(crate) ExternalAddress);

impl FromStr for ExternalArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "{text:?} is no address with prefixes; write 192.0.2.1, or 192.0.2.1=198.51.100.0/24,203.0.113.0/24"
            )
        };
        let (address, sources) = match text.split_once('=') {
            Some((address, sources)) => (address, Some(sources)),
            None => (text, None),
        };
        let sources = sources.iter().flat_map(|s| s.split(','));
        let sources: Result<Vec<IpNet>, _> = sources.map(str::parse).collect();
        Ok(ExternalArg(ExternalAddress {
            address: address.parse().map_err(|_| bad())?,
            sources: sources.map_err(|_| bad())?,
        }))
    }
}
