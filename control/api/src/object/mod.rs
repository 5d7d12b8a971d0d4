// SPDX-License-Identifier: Apache-2.0
//! What can be configured. Every object has a key that is unique and never changes; setting an object replaces it whole.

mod key;
pub mod kubernetes;
mod port;
mod port_mapping;
mod read;
mod route;
mod rule;
mod segment;
mod service;

pub use key::{FdbKey, Key, Kind, NeighborKey, RouteKey};
pub use kubernetes::{ClusterNetworkPolicy, Group, Namespace, NamespacedName, NetworkPolicy, Pod};
pub use port::{
    Device, HOST_INTERFACE, HOST_MAC, HOST_POLLED, HostEgress, PodRef, Port, SegmentMembership,
    SocketMode, Vlan, XdpMode,
};
pub use port_mapping::PortMapping;
pub use read::ReadError;
pub use route::{Neighbor, NextHop, Route, RouteKind};
pub use rule::{Action, Direction, PortRange, Protocol, Rule};
pub use segment::{FdbEntry, Segment, UnknownUnicast};
pub use service::{Backend, ExternalAddress, Service, TrafficPolicy};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One object of the desired state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(
    remote = "Self",
    tag = "kind",
    rename_all = "snake_case",
    deny_unknown_fields
)]
pub enum Object {
    /// A port of the switch.
    Port(Box<Port>),
    /// A route of a VRF.
    Route(Route),
    /// The MAC address of a next hop.
    Neighbor(Neighbor),
    /// An L2 segment.
    Segment(Segment),
    /// A MAC address of an L2 segment, fixed to a port.
    Fdb(FdbEntry),
    /// A policy rule of a port.
    Rule(Rule),
    /// A Kubernetes namespace.
    Namespace(Namespace),
    /// A pod of the cluster.
    Pod(Box<Pod>),
    /// A NetworkPolicy.
    NetworkPolicy(Box<NetworkPolicy>),
    /// A ClusterNetworkPolicy.
    ClusterNetworkPolicy(Box<ClusterNetworkPolicy>),
    /// Whom packets in VXLAN tunnels are from.
    Group(Group),
    /// Virtual addresses, and whom packets to them go to.
    Service(Box<Service>),
}

impl Object {
    /// The key, unique among all objects.
    pub fn key(&self) -> Key {
        match self {
            Object::Port(o) => Key::Port {
                name: o.name.clone(),
            },
            Object::Route(o) => Key::Route(o.key()),
            Object::Neighbor(o) => Key::Neighbor(o.key()),
            Object::Segment(o) => Key::Segment {
                name: o.name.clone(),
            },
            Object::Fdb(o) => Key::Fdb(o.key()),
            Object::Rule(o) => Key::Rule {
                name: o.name.clone(),
            },
            Object::Namespace(o) => Key::Namespace {
                name: o.name.clone(),
            },
            Object::Pod(o) => Key::Pod(o.key()),
            Object::NetworkPolicy(o) => Key::NetworkPolicy(o.key()),
            Object::ClusterNetworkPolicy(o) => Key::ClusterNetworkPolicy {
                name: o.name.clone(),
            },
            Object::Group(o) => Key::Group { id: o.id },
            Object::Service(o) => Key::Service {
                name: o.name.clone(),
            },
        }
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        match self {
            Object::Port(_) => Kind::Port,
            Object::Route(_) => Kind::Route,
            Object::Neighbor(_) => Kind::Neighbor,
            Object::Segment(_) => Kind::Segment,
            Object::Fdb(_) => Kind::Fdb,
            Object::Rule(_) => Kind::Rule,
            Object::Namespace(_) => Kind::Namespace,
            Object::Pod(_) => Kind::Pod,
            Object::NetworkPolicy(_) => Kind::NetworkPolicy,
            Object::ClusterNetworkPolicy(_) => Kind::ClusterNetworkPolicy,
            Object::Group(_) => Kind::Group,
            Object::Service(_) => Kind::Service,
        }
    }
}

macro_rules! into_object {
    ($($variant:ident($ty:ty)),*) => {$(
        impl From<$ty> for Object {
            fn from(o: $ty) -> Object {
                Object::$variant(o)
            }
        }
    )*};
}
into_object!(
    Route(Route),
    Neighbor(Neighbor),
    Segment(Segment),
    Fdb(FdbEntry),
    Rule(Rule),
    Namespace(Namespace),
    Group(Group)
);

macro_rules! into_boxed_object {
    ($($variant:ident),*) => {$(
        impl From<$variant> for Object {
            fn from(o: $variant) -> Object {
                Object::$variant(Box::new(o))
            }
        }
    )*};
}
into_boxed_object!(Port, Pod, NetworkPolicy, ClusterNetworkPolicy, Service);

/// For `skip_serializing_if`: the value is its type's default.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

crate::by_name!(Object);
