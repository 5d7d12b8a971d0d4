// SPDX-License-Identifier: Apache-2.0
mod basic;
mod changes;
mod direction;
mod edits;
mod model;
mod peers;
mod policy;
mod refused;
mod services;
mod sharing;
mod stamps;
mod trie;
