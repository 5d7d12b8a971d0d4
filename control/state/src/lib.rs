// SPDX-License-Identifier: Apache-2.0
//! What podswitchd and podswitchctl both need besides the protocol.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | the daemon's configuration file |
#![forbid(unsafe_code)]

pub mod config;
