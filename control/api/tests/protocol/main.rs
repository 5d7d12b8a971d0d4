// SPDX-License-Identifier: Apache-2.0
//! Requests and responses as they are read and written, and the desired state they change: rules one by one, and what holds for
//! any of them.
#![forbid(unsafe_code)]

mod admission;
mod arbitrary;
mod common;
mod fields;
mod pages;
mod policies;
mod properties;
mod rpc;
mod services;
mod strict;
mod transactions;
