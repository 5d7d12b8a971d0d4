// SPDX-License-Identifier: Apache-2.0
mod basic;
mod edits;
mod model;
mod policy;
mod refused;
mod sharing;
mod trie;
