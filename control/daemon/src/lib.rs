// SPDX-License-Identifier: Apache-2.0
//! podswitchd: keeps the switch equal to a desired state.
//!
//! | module | what it does |
//! |---|---|
//! | [`compile`], [`names`] | from differences of the desired state to an edit of the switch's tables |
//! | [`logging`] | structured logs |
//! | [`server`] | the control socket, a mio loop on the main thread |
#![forbid(unsafe_code)]

pub mod compile;
pub mod logging;
pub mod names;
pub mod server;
