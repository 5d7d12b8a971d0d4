// SPDX-License-Identifier: Apache-2.0
//! What is kept of an object of the API.

use std::net::IpAddr;

use ipnet::IpNet;
use podswitch_api::Kind;
use podswitch_api::object::{Key, NamespacedName, Object};

use super::input::{Fault, NodeFacts, Rank, Source, What};

/// What is kept of an object.
#[derive(PartialEq, Debug)]
pub(super) enum Record {
    Node(NodeFacts),
    /// A pod: its text with all of its addresses, and those that no other pod may have.
    Pod {
        text: Box<str>,
        addresses: Box<[IpAddr]>,
        rank: Rank,
    },
    /// Any other object for the daemon.
    Text(Box<str>),
    Fault(Box<Fault>),
    /// The translator keeps it.
    Name,
}

impl Record {
    /// What is kept of an object, and what the translator is told.
    pub(super) fn of(what: What) -> (Record, Option<serde_json::Value>) {
        let record = match what {
            What::Raw(value) => return (Record::Name, Some(value)),
            What::Node(facts) => Record::Node(facts),
            What::Fault(fault) => Record::Fault(fault),
            What::Object(object) => Record::Text(text(&object)),
            What::Pod { object, rank } => {
                // The node's addresses are shared by all pods that have its network.
                let addresses = match object.host_network {
                    true => Box::default(),
                    false => object.addresses.clone().into_boxed_slice(),
                };
                Record::Pod {
                    text: text(&Object::Pod(object)),
                    addresses,
                    rank,
                }
            }
        };
        (record, None)
    }

    /// Prefixes of a node's pods.
    pub(super) fn pods(&self) -> &[IpNet] {
        match self {
            Record::Node(facts) => &facts.pods,
            _ => &[],
        }
    }

    pub(super) fn addresses(&self) -> &[IpAddr] {
        match self {
            Record::Pod { addresses, .. } => addresses,
            _ => &[],
        }
    }
}

/// An object as its text. That of every object can be written.
pub(super) fn text(object: &Object) -> Box<str> {
    serde_json::to_string(object)
        .unwrap_or_default()
        .into_boxed_str()
}

/// Kind of the daemon's objects that a kind of the API's makes.
pub(super) fn kind_of(source: Source) -> Option<Kind> {
    match source {
        Source::Namespace => Some(Kind::Namespace),
        Source::Pod => Some(Kind::Pod),
        Source::NetworkPolicy => Some(Kind::NetworkPolicy),
        Source::ClusterNetworkPolicy => Some(Kind::ClusterNetworkPolicy),
        Source::Node | Source::Service | Source::EndpointSlice => None,
    }
}

pub(super) fn key_of(source: Source, name: &NamespacedName) -> Option<Key> {
    let short = || name.name.clone();
    Some(match kind_of(source)? {
        Kind::Namespace => Key::Namespace { name: short() },
        Kind::Pod => Key::Pod(name.clone()),
        Kind::NetworkPolicy => Key::NetworkPolicy(name.clone()),
        _ => Key::ClusterNetworkPolicy { name: short() },
    })
}

/// Name of the API's object that a key's object comes of; for others, what they are called.
pub(super) fn name_of(key: &Key) -> NamespacedName {
    match key {
        Key::Pod(name) | Key::NetworkPolicy(name) => name.clone(),
        Key::Namespace { name } | Key::ClusterNetworkPolicy { name } => NamespacedName {
            namespace: String::new(),
            name: name.clone(),
        },
        key => NamespacedName {
            namespace: String::new(),
            name: key.to_string(),
        },
    }
}
