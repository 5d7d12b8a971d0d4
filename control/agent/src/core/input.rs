// SPDX-License-Identifier: Apache-2.0
//! What the core is told.

use std::net::IpAddr;

use ipnet::IpNet;
use podswitch_api::object::{NamespacedName, Object, Pod};
use serde_json::Value;

/// A kind of objects of the Kubernetes API.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Source {
    /// `nodes`.
    Node,
    /// `namespaces`.
    Namespace,
    /// `pods`.
    Pod,
    /// `services`.
    Service,
    /// `endpointslices` of `discovery.k8s.io`.
    EndpointSlice,
    /// `networkpolicies` of `networking.k8s.io`.
    NetworkPolicy,
    /// `clusternetworkpolicies` of `policy.networking.k8s.io`.
    ClusterNetworkPolicy,
}

impl Source {
    /// Every kind.
    pub const ALL: [Source; 7] = [
        Source::Node,
        Source::Namespace,
        Source::Pod,
        Source::Service,
        Source::EndpointSlice,
        Source::NetworkPolicy,
        Source::ClusterNetworkPolicy,
    ];

    /// Name of its objects, as in `kind`.
    pub fn kind(self) -> &'static str {
        match self {
            Source::Node => "Node",
            Source::Namespace => "Namespace",
            Source::Pod => "Pod",
            Source::Service => "Service",
            Source::EndpointSlice => "EndpointSlice",
            Source::NetworkPolicy => "NetworkPolicy",
            Source::ClusterNetworkPolicy => "ClusterNetworkPolicy",
        }
    }

    /// As in `apiVersion`.
    pub fn api_version(self) -> &'static str {
        match self {
            Source::Node | Source::Namespace | Source::Pod | Source::Service => "v1",
            Source::EndpointSlice => "discovery.k8s.io/v1",
            Source::NetworkPolicy => "networking.k8s.io/v1",
            Source::ClusterNetworkPolicy => "policy.networking.k8s.io/v1alpha2",
        }
    }
}

/// Which object it is, in which version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Its name; the namespace is empty where there is none.
    pub name: NamespacedName,
    /// Its UID.
    pub uid: Box<str>,
    /// `resourceVersion`, where it is a number. Those of one kind are in the order of the changes.
    pub version: Option<u64>,
}

/// An object that is there.
#[derive(Clone, PartialEq, Debug)]
pub struct Seen {
    /// Which.
    pub identity: Identity,
    /// What it says.
    pub what: What,
}

/// What an object says, as far as it matters.
#[derive(Clone, PartialEq, Debug)]
pub enum What {
    /// A node.
    Node(NodeFacts),
    /// A pod.
    Pod {
        /// The object for the daemon.
        object: Box<Pod>,
        /// Who has an address that several pods claim.
        rank: Rank,
    },
    /// A namespace or a policy, as an object for the daemon.
    Object(Object),
    /// A pod, namespace or policy that is no object for the daemon.
    Fault(Box<Fault>),
    /// A Service or an EndpointSlice, as the API writes it, without `managedFields`.
    Raw(Value),
}

/// Of a node, what the ways to it need.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeFacts {
    /// Its addresses (`InternalIP`), in its own order.
    pub addresses: Vec<IpAddr>,
    /// Prefixes of its pods (`spec.podCIDRs`).
    pub pods: Vec<IpNet>,
    /// Its zone (label `topology.kubernetes.io/zone`).
    pub zone: Option<String>,
}

/// The pod with the greatest rank has an address. Field by field, the first difference counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Rank {
    /// It is not being deleted.
    pub stays: bool,
    /// When it was made, in seconds since 1970, by the API server's clock.
    pub created: i64,
}

/// Why an object of the API is no object for the daemon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The field at fault, as a path.
    pub field: String,
    /// What is wrong, with the value.
    pub message: String,
    /// What the daemon is given in its place: it allows nothing that the other could have denied.
    pub closed: Option<Object>,
}

/// Why a kind is not the agent's business.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Away {
    /// It may not be read.
    Forbidden,
    /// The server does not know it.
    Unknown,
}

/// What happened.
#[derive(Clone, PartialEq, Debug)]
pub enum Input {
    /// A list begins.
    Begin(Source),
    /// An object of the list.
    Item(Source, Box<Seen>),
    /// The list is complete: what was not in it is gone.
    End(Source),
    /// An object has come, or is another than before.
    Apply(Source, Box<Seen>),
    /// An object is gone.
    Delete(Source, Identity),
    /// The kind cannot be read for a reason that does not pass by itself: it is not the agent's business.
    Away(Source, Away),
}

impl Input {
    /// The kind it is about.
    pub fn source(&self) -> Source {
        match self {
            Input::Begin(source)
            | Input::Item(source, _)
            | Input::End(source)
            | Input::Apply(source, _)
            | Input::Delete(source, _)
            | Input::Away(source, _) => *source,
        }
    }
}
