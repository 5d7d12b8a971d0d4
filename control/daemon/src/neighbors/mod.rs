// SPDX-License-Identifier: Apache-2.0
//! Neighbours on the links behind the node's NICs: who is there, and at which Ethernet address. And what else is followed
//! of these links: the kernel's routes by them.
//!
//! | module | what it does |
//! |---|---|
//! | [`resolver`] | whom to ask when, and what the answers mean: a state machine |
//! | [`announce`] | which addresses of ours to announce when |
//! | [`wants`] | which neighbours are wanted, counted |
//! | [`known`] | what has been found out, into the tables |
//! | [`import`] | a routing table of the kernel's, as routes by the NICs |
//! | `uplink` | one NIC: its socket, its resolver, its announcements |
//! | [`service`] | the thread that serves all NICs, as the engine sees it |
//! | `watcher` | what that thread does |

pub mod announce;
mod budget;
pub mod import;
pub mod known;
pub mod resolver;
pub mod service;
mod uplink;
pub mod wants;
mod watcher;
