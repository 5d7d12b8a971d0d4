// SPDX-License-Identifier: Apache-2.0
//! Network policy and connections in a large cluster, on ports in memory and one worker, which the benchmarks turn
//! unless it is said otherwise.
//!
//! | module | |
//! |---|---|
//! | [`cluster`] | a made-up cluster: namespaces, pods, policies |
//! | [`control`] | its policies compiled, and put into a switch |
//! | [`conversations`] | TCP conversations |
//! | [`flows`] | established flows of datagrams |
//! | [`node`] | a switch with the cluster's pods |
//! | [`path`], [`connections`] | what packets and connections cost on it |
//! | [`rig`], [`probe`] | a node whose worker has a thread, and what its sources see of the worker |
//! | [`changes`], [`swap`], [`update`] | changes of policy meanwhile |
//! | [`attack`], [`siege`], [`floods`] | what a pod floods its worker with, and a node that one does it to |
//! | [`footprint`] | memory |

pub mod attack;
pub mod changes;
pub mod cluster;
pub mod connections;
pub mod control;
pub mod conversations;
pub mod floods;
pub mod flows;
pub mod footprint;
pub mod node;
pub mod path;
pub mod probe;
pub mod rig;
pub mod siege;
pub mod swap;
mod tiers;
pub mod update;
