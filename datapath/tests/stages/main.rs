// SPDX-License-Identifier: Apache-2.0
//! The stages, decision by decision, on frames written out by hand.

#[path = "../reference/frames.rs"]
#[allow(dead_code, reason = "shared with the reference test")]
mod frames;
#[path = "../reference/world.rs"]
#[allow(dead_code, reason = "shared with the reference test")]
mod world;

mod connections;
mod errors;
mod fragments;
mod groups;
mod hairpin;
mod handoff;
mod heard;
mod host;
mod local;
mod masquerade;
mod node;
mod rejudged;
mod routed;
mod segments;
mod services;
mod services_beyond;
mod tunnels;
mod vlans;
