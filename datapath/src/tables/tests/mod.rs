// SPDX-License-Identifier: Apache-2.0
mod basic;
mod direction;
mod edits;
mod model;
mod policy;
mod refused;
mod sharing;
mod trie;
