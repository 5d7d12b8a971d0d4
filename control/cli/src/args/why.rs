// SPDX-License-Identifier: Apache-2.0
//! Arguments of `why`.

use std::net::IpAddr;
use std::str::FromStr;

use clap::Args;
use podswitch_api::method::WhyEnd;
use podswitch_api::object::{NamespacedName, Protocol};

#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// Who begins the connection: a pod as NAMESPACE/NAME, a port of the switch as port:NAME, or an address
    #[arg(long, value_name = "POD|ADDRESS")]
    pub(crate) from: End,
    /// Whom it is for
    #[arg(long, value_name = "POD|ADDRESS")]
    pub(crate) to: End,
    /// Destination port and protocol, such as 443/tcp; tcp if there is no protocol
    #[arg(
        long,
        value_name = "PORT[/PROTOCOL]",
        required_unless_present = "protocol",
        conflicts_with = "protocol"
    )]
    pub(crate) port: Option<PortArg>,
    /// Protocol without ports, such as icmp
    #[arg(long)]
    pub(crate) protocol: Option<Protocol>,
    /// Source port
    #[arg(long, value_name = "PORT", requires = "port")]
    pub(crate) source_port: Option<u16>,
    /// VRF of both
    #[arg(long, value_name = "ID")]
    pub(crate) vrf: Option<u32>,
    /// Group that its packets are marked with, in a tunnel with group policy
    #[arg(long, value_name = "NUMBER")]
    pub(crate) group: Option<u16>,
}

/// An end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct End(pub(crate) WhyEnd);

impl FromStr for End {
    type Err = String;

    fn from_str(text: &str) -> Result<End, String> {
        let none = WhyEnd::default();
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(End(WhyEnd {
                address: Some(address),
                ..none
            }));
        }
        if let Some(port) = text.strip_prefix("port:") {
            return Ok(End(WhyEnd {
                port: Some(port.to_owned()),
                ..none
            }));
        }
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
                Ok(End(WhyEnd {
                    pod: Some(NamespacedName {
                        namespace: namespace.to_owned(),
                        name: name.to_owned(),
                    }),
                    ..none
                }))
            }
            _ => Err(format!(
                "{text:?} is neither a pod, a port nor an address; write NAMESPACE/NAME, port:NAME or an address"
            )),
        }
    }
}

/// A port with its protocol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PortArg {
    pub(crate) port: u16,
    pub(crate) protocol: Protocol,
}

impl FromStr for PortArg {
    type Err = String;

    fn from_str(text: &str) -> Result<PortArg, String> {
        let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let bad = || format!("{text:?} is not a port; write one such as 443/tcp");
        Ok(PortArg {
            port: port.parse().map_err(|_| bad())?,
            protocol: protocol.parse::<Protocol>().map_err(|e| e.to_string())?,
        })
    }
}
