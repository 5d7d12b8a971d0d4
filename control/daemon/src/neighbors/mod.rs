// SPDX-License-Identifier: Apache-2.0
//! Neighbours on the links behind the node's NICs: who is there, and at which Ethernet address.

pub mod resolver;
