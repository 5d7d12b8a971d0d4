// SPDX-License-Identifier: Apache-2.0
//! Small clusters in which much overlaps, what may be sent in them, and what may change in them; all from a seed.

mod address;
mod change;
mod cluster;
mod packet;
mod policy;
mod rng;

pub use change::{Change, Steps};
pub use cluster::cluster;
pub use packet::{Aim, Packet};
pub use rng::Rng;
