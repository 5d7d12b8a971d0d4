// SPDX-License-Identifier: Apache-2.0
//! Network policy and connections in a large cluster, on ports in memory and one worker that the benchmarks turn.
//!
//! | module | |
//! |---|---|
//! | [`cluster`] | a made-up cluster: namespaces, pods, policies |
//! | [`control`] | its policies compiled, and put into a switch |
//! | [`flows`] | established flows of datagrams |
//! | [`attack`], [`siege`] | what a pod floods its worker with, and a node that one does it to |

pub mod attack;
pub mod cluster;
pub mod connections;
pub mod control;
pub mod conversations;
pub mod floods;
pub mod flows;
pub mod node;
pub mod path;
pub mod siege;
mod tiers;
