// SPDX-License-Identifier: Apache-2.0
//! Whole switches on memory ports: workers with threads and without.

#![allow(unreachable_pub, reason = "a test binary exports nothing")]

mod fairness;
#[path = "../reference/frames.rs"]
#[allow(
    dead_code,
    reason = "shared with the tests of the stages, which use all of it"
)]
mod frames;
mod health;
mod inline;
mod node;
mod removal;
mod sleep;
mod traffic;
