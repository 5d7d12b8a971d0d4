// SPDX-License-Identifier: Apache-2.0
//! The outer headers heard of late by which packets belong to a tunnel: the next ones of the same tunnel from the same other end need no lookups.

use crate::ids::PortId;
use crate::tables::Tables;
use crate::wire::vxlan::Outer;

/// Other ends whose packets are told apart; more share lines.
const LINES: usize = 64;

/// What was found by the tables of one generation.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct Line {
    outer: Outer,
    /// 0, which no tables are: nothing yet.
    generation: u64,
    uplink: PortId,
    tunnel: PortId,
}

/// A worker's own.
#[derive(Debug)]
pub struct Heard {
    lines: Box<[Line; LINES]>,
}

impl Default for Heard {
    fn default() -> Self {
        Heard {
            lines: Box::new([Line::default(); LINES]),
        }
    }
}

impl Heard {
    /// The tunnel of a packet that came in by an uplink.
    #[inline(always)]
    pub(super) fn find(&self, tables: &Tables, uplink: PortId, outer: &Outer) -> Option<PortId> {
        let line = &self.lines[at(outer)];
        let known = (line.outer == *outer)
            & (line.generation == tables.generation())
            & (line.uplink == uplink);
        known.then_some(line.tunnel)
    }

    /// Notes what was found.
    pub(super) fn note(&mut self, tables: &Tables, uplink: PortId, outer: Outer, tunnel: PortId) {
        self.lines[at(&outer)] = Line {
            outer,
            generation: tables.generation(),
            uplink,
            tunnel,
        };
    }
}

#[inline(always)]
fn at(outer: &Outer) -> usize {
    outer.hash() as usize % LINES
}
