// SPDX-License-Identifier: Apache-2.0
//! The podswitch CNI plugin (CNI spec 1.1.0; speaks 0.3.0 to 1.1.0).
//!
//! The plugin does its work in the pod's network namespace itself and gives podswitchd the host end of a veth pair by
//! name. What it makes can be found again from the container ID and the interface name alone, so that DEL and GC clean
//! up after a plugin that was killed at any step.
//!
//! | module | holds |
//! |---|---|
//! | [`invocation`], [`conf`] | what the runtime says: environment and configuration |
//! | [`result`], [`spec`] | what it is told: results, errors, versions |
//! | [`ipam`] | where addresses come from |
//! | [`attach`] | the veth pair, addresses and routes of a pod |
//! | [`guest`] | the folder, and the socket in it, of a virtual machine or a DPDK program |
//! | [`switch`] | the daemon |
//! | [`command`] | ADD, DEL, CHECK, STATUS, GC, VERSION |
#![forbid(unsafe_code)]

pub mod attach;
pub mod command;
pub mod conf;
pub mod guest;
pub mod invocation;
pub mod ipam;
mod json;
mod lock;
pub mod result;
pub mod spec;
pub mod switch;
