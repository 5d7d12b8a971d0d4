// SPDX-License-Identifier: Apache-2.0
//! podswitchd: keeps the switch equal to a desired state.
//!
//! | module | what it does |
//! |---|---|
//! | [`server`] | the control socket, a mio loop on the main thread |
#![forbid(unsafe_code)]

pub mod server;
