// SPDX-License-Identifier: Apache-2.0
//! From Kubernetes objects (namespaces, pods, NetworkPolicies, ClusterNetworkPolicies) and the ports of this node to what the
//! switch decides by: identities of peers, their classes, classes of addresses, and the rules of each port.
//!
//! Pure and incremental: [`Compiler::apply`] takes changes in and says what is different. What a change costs depends on what it touches, not on
//! how large the cluster is; the whole is the same as if all objects had come at once, but for the numbers of things.
//!
//! | module | what is there |
//! |---|---|
//! | [`manifest`] | Kubernetes manifests to objects |
//! | `labels` | selectors, ready to be matched |
//! | `intern` | small numbers for things |
//! | `population` | pods, their identities, the active selectors, and the classes of identities |
//! | `claims` | who has an address |
//! | `blocks` | the active ipBlocks, and the classes of addresses |
//! | `rules` | policies as rules |
//! | `specs` | the rules of a port and direction, shared by ports that have the same |
//! | `compiler` | all of it, change by change |
#![forbid(unsafe_code)]

mod blocks;
mod claims;
mod compiler;
mod intern;
mod labels;
pub mod manifest;
mod population;
mod rules;
mod spec;
mod specs;

pub use compiler::{Change, Compiler};
pub use spec::{
    Action, CidrClassId, ClassId, Direction, DirectionSpec, Endpoint, EndpointPolicy, IdentityId,
    PolicyKey, PortSpec, RuleId, RuleName, RuleSpec, Tier, Update,
};
