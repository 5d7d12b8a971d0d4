// SPDX-License-Identifier: Apache-2.0
//! CNI plugin that attaches pods to podswitch.

fn main() {}
