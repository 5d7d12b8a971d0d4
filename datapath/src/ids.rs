// SPDX-License-Identifier: Apache-2.0
//! Small integers that name things on the frame path.
#![forbid(unsafe_code)]

use std::num::NonZeroU16;

/// Most ports a switch can hold; a [`PortId`] is below it.
pub const MAX_PORTS: usize = 4096;
/// Most workers of a switch; a [`WorkerId`] is below it.
pub const MAX_WORKERS: usize = 64;
/// Most static rules, and most policy rules of a port in one direction; a [`RuleId`] is below it. One less than 16 bits can
/// say, so that they can say "none" too.
pub const MAX_RULES: usize = 65_535;

/// Most policy rules; a [`PolicyRuleId`] is below it.
pub const MAX_POLICY_RULES: usize = 1 << 20;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub $int);

        impl $name {
            /// As an index into a dense array.
            #[inline]
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A port of the switch, dense from 0, stable while the port lives; an id may be reused after its port is gone.
    PortId(u16)
);
id!(
    /// A forwarding table's name: routed ports of different VRFs (or frames of different L2 segments) never meet.
    /// 0 is the default VRF. 24 bits are significant, as in a VXLAN network identifier (RFC 7348 section 5).
    VrfId(u32)
);
id!(
    /// A worker: one thread on one core.
    WorkerId(u8)
);
id!(
    /// A static rule's place in the counter arrays; stable while the rule lives.
    RuleId(u32)
);
id!(
    /// A policy rule's place in the counter arrays; stable while the rule lives.
    PolicyRuleId(u32)
);
id!(
    /// What policy can tell of a peer: its namespace and the labels and named ports that selectors look at. Dense
    /// from 0, of this node alone; a number may be reused after nobody has it any more.
    IdentityId(u32)
);
id!(
    /// The set of selectors that an identity matches, dense from 0.
    PeerClass(u32)
);
id!(
    /// The set of ipBlocks that an address is in, dense from 0.
    CidrClass(u32)
);

/// A Group Policy ID (draft-smith-vxlan-group-policy section 2.1): a number that the packets of some pods bear in a tunnel, 1 to 65535. The
/// draft leaves the meaning of 0 open; here it is no group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupId(NonZeroU16);

impl GroupId {
    /// The group of this number; none of 0.
    #[inline(always)]
    pub const fn new(number: u16) -> Option<GroupId> {
        match NonZeroU16::new(number) {
            Some(number) => Some(GroupId(number)),
            None => None,
        }
    }

    /// Its number.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

impl std::fmt::Display for GroupId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A set of ports.
#[derive(Clone, Debug)]
pub struct PortSet([u64; MAX_PORTS / 64]);

impl Default for PortSet {
    fn default() -> PortSet {
        PortSet([0; MAX_PORTS / 64])
    }
}

impl PortSet {
    /// Whether a port is in it.
    #[inline]
    pub fn contains(&self, port: PortId) -> bool {
        let word = self.0.get(port.index() / 64);
        word.is_some_and(|word| word >> (port.index() % 64) & 1 != 0)
    }

    /// Puts a port in, or takes it out.
    #[inline]
    pub fn set(&mut self, port: PortId, is_in: bool) {
        if let Some(word) = self.0.get_mut(port.index() / 64) {
            let bit = port.index() % 64;
            *word = *word & !(1 << bit) | u64::from(is_in) << bit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_put_into_a_set_and_taken_out() {
        let mut set = PortSet::default();
        let ports = [0, 1, 63, 64, 4095].map(PortId);
        for port in ports {
            assert!(!set.contains(port));
            set.set(port, true);
            set.set(port, true);
            assert!(set.contains(port));
        }
        set.set(PortId(63), false);
        let left = (0..u16::MAX).map(PortId).filter(|p| set.contains(*p));
        assert!(left.eq([0, 1, 64, 4095].map(PortId)));
        set.set(PortId(4096), true);
        assert!(!set.contains(PortId(4096)), "no port has it");
    }
}
