// SPDX-License-Identifier: Apache-2.0
//! podswitch-agent: keeps the desired state of podswitchd equal to what a Kubernetes cluster's API says.
//!
//! | module | holds |
//! |---|---|
//! | [`core`] | the state of the cluster and what it makes of the daemon's; no input and output |
//! | [`slim`] | objects of the API, as far as they matter |
//! | [`watch`] | reading one kind of the API |
//! | [`keeper`] | the thread that has the daemon's state follow |
//! | [`config`] | the configuration |
//! | [`kubernetes`], [`events`] | a client of the API; events on objects that are refused |
//! | [`services`], [`balancers`] | Services, and what load balancers are told of them |
//! | [`link`] | the node's NIC |
//! | [`conflist`] | the network configuration for the container runtime |
//! | [`http`], [`metrics`] | health and counters |
//! | [`agent`] | all of it together |
#![forbid(unsafe_code)]

pub mod agent;
pub mod balancers;
pub mod config;
pub mod conflist;
pub mod core;
mod daemon;
pub mod events;
pub mod http;
pub mod keeper;
pub mod kubernetes;
pub mod link;
pub mod metrics;
pub mod services;
pub mod slim;
pub mod watch;
