// SPDX-License-Identifier: Apache-2.0
//! podswitchctl as a program: run with a thread that plays the daemon, and without one.
#![forbid(unsafe_code)]

mod commands;
mod common;
mod doctor;
mod generated;
mod policy;
