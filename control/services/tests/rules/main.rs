// SPDX-License-Identifier: Apache-2.0
//! From Services and EndpointSlices to objects: rule by rule, from records of a real API server, and event by event.
#![forbid(unsafe_code)]

mod addresses;
mod common;
mod conflicts;
mod endpoints;
mod incremental;
mod recorded;
