// SPDX-License-Identifier: Apache-2.0
//! Integration tests of podswitch in network namespaces: the harness.
//!
//! A test makes a [`Node`] (a fresh network namespace that plays the node, with a daemon of its own in it), adds
//! [`Pod`]s to it by the CNI contract and looks at what arrives. Everything has its own names, paths and addresses, so
//! tests run in parallel, and dropping the values takes everything apart, also when a test panics.
//!
//! The programs under test are `target/release/*`, or those in the folder that `PODSWITCH_BIN_DIR` names.
#![forbid(unsafe_code)]

pub mod agent;
pub mod agent_scene;
pub mod api_server;
pub mod cgroup;
pub mod cluster;
pub mod cni;
pub mod containerd;
pub mod cri;
pub mod ctl;
pub mod daemon;
pub mod disk;
pub mod fabric;
pub mod forwarder;
pub mod frames;
pub mod guest;
pub mod initramfs;
pub mod kernel;
pub mod netns;
pub mod node;
pub mod objects;
pub mod oci;
pub mod programs;
pub mod raw;
pub mod records;
pub mod schema;
pub mod testpmd;
pub mod traffic;
pub mod uplink;
pub mod vlan;
pub mod wait;

pub use netns::Netns;
pub use node::{Node, NodeConfig, Pod};
pub use wait::{HUNG, eventually};
