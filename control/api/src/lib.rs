// SPDX-License-Identifier: Apache-2.0
//! Control protocol of podswitch: objects, requests, replies and a blocking client.
//!
//! | module | holds |
//! |---|---|
//! | [`object`] | what can be configured: ports, routes, neighbors, segments, FDB entries, rules, and their keys |
//! | [`desired`] | a whole desired state, its rules, transactions, differences, and `get` |
//! | [`method`] | every method of the protocol with its parameters and its result |
//! | [`rpc`] | the JSON-RPC 2.0 envelope: one object a line |
//! | [`error`] | error codes and what an error carries |
//! | [`limits`] | how much of everything there may be |
//! | [`client`] | a blocking client |
//! | [`schema`] | the JSON Schema of the protocol, generated from these types |
//! | [`strict`] | reading objects by name alone, no key twice |
#![forbid(unsafe_code)]

pub mod client;
pub mod desired;
pub mod error;
pub mod limits;
pub mod mac;
pub mod method;
pub mod object;
pub mod rpc;
pub mod schema;
pub mod strict;
mod text;

pub use client::{Client, ClientError};
pub use error::{ErrorCode, ErrorData, RpcError};
pub use limits::Limits;
pub use mac::MacAddr;
pub use object::{Key, Kind, Object};

/// Version of the control protocol. It changes when a client written for the former one would be misunderstood.
pub const PROTOCOL_VERSION: u32 = 1;

/// Where the daemon's control socket is unless configured otherwise.
pub const DEFAULT_SOCKET: &str = "/run/podswitch/podswitchd.sock";
