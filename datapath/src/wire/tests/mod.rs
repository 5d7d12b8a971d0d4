// SPDX-License-Identifier: Apache-2.0
//! Unit and property tests of the layouts.

mod answers;
mod checksums;
mod errors;
mod flow_keys;
mod frames;
mod hostile;
mod links;
mod neighbors;
mod oracle;
mod packets_v4;
mod packets_v6;
mod partials;
mod vectors;
mod vxlan;
