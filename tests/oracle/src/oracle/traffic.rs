// SPDX-License-Identifier: Apache-2.0
//! What policies can tell of a connection beside its ends: protocol and destination port.

use serde_json::Value;

use super::Side;
use crate::cluster::NamedPort;

/// A connection's protocol and destination port.
pub(super) struct Traffic<'a> {
    /// `TCP`, `UDP` or `SCTP`; other protocols have no ports, and no policy can name them.
    pub(super) protocol: Option<&'static str>,
    pub(super) port: u16,
    /// Named ports of the destination; only pods have some.
    named: &'a [NamedPort],
}

impl<'a> Traffic<'a> {
    pub(super) fn new(protocol: u8, port: u16, destination: &Side<'a>) -> Traffic<'a> {
        Traffic {
            protocol: match protocol {
                6 => Some("TCP"),
                17 => Some("UDP"),
                132 => Some("SCTP"),
                _ => None,
            },
            port,
            named: destination
                .pod
                .as_ref()
                .map_or(&[], |(pod, _)| pod.ports.as_slice()),
        }
    }

    /// Whether it goes to a port of this name, of its own protocol.
    pub(super) fn is_to(&self, name: &str) -> bool {
        self.named.iter().any(|named| {
            named.name == name && Some(named.protocol) == self.protocol && named.number == self.port
        })
    }

    /// Whether it goes to a port from `first` to `last`; numbers of manifests.
    pub(super) fn is_within(&self, first: &Value, last: &Value) -> bool {
        match (first.as_u64(), last.as_u64()) {
            (Some(first), Some(last)) => (first..=last).contains(&u64::from(self.port)),
            _ => false,
        }
    }
}
