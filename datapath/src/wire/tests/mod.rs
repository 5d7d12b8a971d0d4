// SPDX-License-Identifier: Apache-2.0
//! Unit and property tests of the layouts.

mod vectors;
