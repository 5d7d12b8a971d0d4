// SPDX-License-Identifier: Apache-2.0
//! Frame path, tables and rings of the podswitch userspace switch.

pub mod counters;
pub mod flow;
pub mod frame;
pub mod handoff;
pub mod ids;
pub mod port;
pub mod publish;
pub mod stage;
pub mod switch;
mod sync;
pub mod tables;
pub mod verdict;
pub mod wire;
pub mod worker;

pub use ids::{PortId, RuleId, VrfId, WorkerId};
pub use verdict::{Reason, Verdict};
