// SPDX-License-Identifier: Apache-2.0
//! The podswitch daemon.

fn main() {}
