// SPDX-License-Identifier: Apache-2.0
//! What podswitchd and podswitchctl both need besides the protocol.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | the daemon's configuration file |
//! | [`store`] | the desired state on disk, and what was changed in the kernel |
//! | [`teardown`](mod@teardown) | taking everything apart |
#![forbid(unsafe_code)]

pub mod config;
mod plugin_files;
pub mod store;
pub mod teardown;
