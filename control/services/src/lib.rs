// SPDX-License-Identifier: Apache-2.0
//! From Kubernetes Services and EndpointSlices to the `service` objects of the control protocol, for one node, by the rules that kube-proxy has.
//!
//! Pure and incremental: [`Services::apply`] takes events in and says which objects are different. A change of a slice costs work for its own Service
//! alone, a change of a Service also for those that want one of its addresses or ports; the whole is the same as if everything had come at once, in any order.
//!
//! | module | what is there |
//! |---|---|
//! | [`kubernetes`] | Services and EndpointSlices, as the API server writes them |
//! | `plan` | what a Service asks for: addresses, ports, policies |
//! | `names` | names of objects |
//! | `claims` | who of several Services gets an address or a port of the node |
//! | `slice` | endpoints of an EndpointSlice |
//! | `choice` | which endpoints serve: readiness, topology, locality |
//! | `compiler` | all of it, event by event |
#![forbid(unsafe_code)]

mod choice;
mod claims;
mod compiler;
pub mod kubernetes;
mod names;
mod plan;
mod slice;

pub use compiler::{Event, Health, Problem, Services, Update};

use ipnet::IpNet;

/// What matters of the node that the services are for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Node {
    /// Its name; endpoints with this `nodeName` are local.
    pub name: String,
    /// Its zone (label `topology.kubernetes.io/zone`); without one, hints for zones are not heeded.
    pub zone: Option<String>,
    /// Prefixes in which no Service is given an address here, such as those of pods: whoever may make Services could take over a pod's address otherwise.
    pub reserved: Vec<IpNet>,
}
