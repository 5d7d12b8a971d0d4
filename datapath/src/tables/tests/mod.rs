// SPDX-License-Identifier: Apache-2.0
mod basic;
mod policy;
mod trie;
