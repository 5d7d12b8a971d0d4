// SPDX-License-Identifier: Apache-2.0
//! podswitchd: keeps the switch equal to a desired state.
//!
//! | module | what it does |
//! |---|---|
//! | [`daemon`] | puts the parts together |
//! | [`engine`] | carries requests out: desired state to store, switch and kernel |
//! | [`kernel`] | the host end of a pod's veth |
//! | [`compile`], [`names`] | from differences of the desired state to an edit of the switch's tables |
//! | [`host_ports`] | ports of the node that lead to pods |
//! | [`neighbors`] | who is on the links behind the NICs, and at which Ethernet address |
//! | [`policy`] | network policy: from the same differences, by the policy compiler, to the same edit |
//! | [`logging`] | structured logs |
//! | [`server`] | the control socket, a mio loop on the main thread |
//! | [`watchdog`] | ends the daemon when it stops while the host's receive hangs on it |
#![forbid(unsafe_code)]

pub mod compile;
pub mod daemon;
pub mod engine;
pub mod host_ports;
pub mod kernel;
pub mod logging;
pub mod names;
pub mod neighbors;
pub mod policy;
pub mod probe;
pub mod server;
pub mod services;
pub mod watchdog;
