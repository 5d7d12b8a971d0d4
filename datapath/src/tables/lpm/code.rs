// SPDX-License-Identifier: Apache-2.0
//! Targets in 14 bits, as blocks and octets hold them.
#![forbid(unsafe_code)]

use crate::tables::route::Target;

/// Bits of a code.
pub(super) const BITS: u32 = 14;
/// Nothing.
pub(super) const NONE: u16 = 0;
/// What has no code of its own: the lists say.
pub(super) const SEARCH: u16 = (1 << BITS) - 1;
/// In a block of /24s: the number of a tail follows, in the lower 15 bits.
pub(super) const TAIL: u16 = 1 << 15;

const BLACKHOLE: u16 = 1;
const UNREACHABLE: u16 = 2;
const PROHIBIT: u16 = 3;
/// Codes of links begin here,
const ON_LINK: u16 = 16;
/// of groups of next hops here,
const GROUP: u16 = 3 << 10;
/// and of adjacencies here: indices are given out from the lowest on.
const VIA: u16 = 1 << 12;

/// The code of a target; [`SEARCH`] if its index is too large for one.
pub(super) fn of(target: Target) -> u16 {
    let within = |first: u16, end: u16, index: u32| match index < u32::from(end - first) {
        true => first + index as u16,
        false => SEARCH,
    };
    match target {
        Target::Via(adjacency) => within(VIA, SEARCH, adjacency),
        Target::OnLink(link) => within(ON_LINK, GROUP, link),
        Target::Group(group) => within(GROUP, VIA, group),
        Target::Blackhole => BLACKHOLE,
        Target::Unreachable => UNREACHABLE,
        Target::Prohibit => PROHIBIT,
    }
}

/// The target of a code below [`SEARCH`].
#[inline(always)]
pub(super) fn target(code: u16) -> Option<Target> {
    Some(match code {
        VIA.. => Target::Via(u32::from(code - VIA)),
        GROUP.. => Target::Group(u32::from(code - GROUP)),
        ON_LINK.. => Target::OnLink(u32::from(code - ON_LINK)),
        BLACKHOLE => Target::Blackhole,
        UNREACHABLE => Target::Unreachable,
        PROHIBIT => Target::Prohibit,
        _ => return None,
    })
}

/// The first, unless it is [`NONE`]. Which one it is, nobody foresees.
#[inline(always)]
pub(super) fn or(first: u16, second: u16) -> u16 {
    std::hint::select_unpredictable(first != NONE, first, second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_come_back_from_their_codes() {
        let last = [GROUP - ON_LINK, SEARCH - VIA, VIA - GROUP].map(u32::from);
        let kinds = [Target::Blackhole, Target::Unreachable, Target::Prohibit];
        let mut all = kinds.to_vec();
        for index in [0, 1, last[0] - 1, last[1] - 1] {
            all.push(Target::Via(index));
        }
        all.extend([0, 1, last[0] - 1].map(Target::OnLink));
        all.extend([0, 1, last[2] - 1].map(Target::Group));
        for one in all {
            let code = of(one);
            assert!(code != NONE && code < SEARCH, "{one:?}");
            assert_eq!(target(code), Some(one));
        }
        for wide in [
            Target::OnLink(last[0]),
            Target::Group(last[2]),
            Target::Via(last[1]),
            Target::Via(u32::MAX),
        ] {
            assert_eq!(of(wide), SEARCH, "{wide:?}");
        }
        assert_eq!(target(NONE), None);
    }
}
