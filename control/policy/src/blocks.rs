// SPDX-License-Identifier: Apache-2.0
//! The ipBlocks in use, and the classes of addresses: which blocks an address is in.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use podswitch_api::object::kubernetes::IpBlock;

use crate::intern::Interner;
use crate::spec::CidrClassId;

/// Blocks in use, and the class of each prefix that they tell apart.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    blocks: Interner<IpBlock>,
    classes: Interner<Vec<u32>>,
    prefixes: BTreeMap<IpNet, u32>,
    /// A block came or went since the classes were made.
    stale: bool,
}

/// What came of making the classes again.
#[derive(Debug, Default)]
pub(crate) struct BlockChanges {
    /// Prefixes whose class differs.
    pub(crate) prefixes: Vec<(IpNet, Option<CidrClassId>)>,
    /// There are other classes than before.
    pub(crate) classes: bool,
}

/// The block in the form in which equal ones are equal.
fn canonical(block: &IpBlock) -> IpBlock {
    let mut except: Vec<IpNet> = block.except.iter().map(IpNet::trunc).collect();
    except.sort();
    except.dedup();
    IpBlock {
        cidr: block.cidr.trunc(),
        except,
    }
}

impl Blocks {
    /// The number of a block, for one user more.
    pub(crate) fn activate(&mut self, block: &IpBlock) -> u32 {
        let (number, new) = self.blocks.acquire(canonical(block));
        self.stale |= new;
        number
    }

    /// One user of a block fewer.
    pub(crate) fn release(&mut self, number: u32, unused: &mut BTreeSet<u32>) {
        if self.blocks.release(number) {
            unused.insert(number);
        }
    }

    /// Gives up blocks that nobody uses any more.
    pub(crate) fn deactivate_unused(&mut self, unused: BTreeSet<u32>) {
        for number in unused {
            self.stale |= self.blocks.free(number);
        }
    }

    /// Makes the classes again, if blocks came or went.
    pub(crate) fn classify(&mut self) -> BlockChanges {
        let mut changes = BlockChanges::default();
        if !std::mem::take(&mut self.stale) {
            return changes;
        }
        let mut next = BTreeMap::new();
        for (prefix, blocks) in self.sets() {
            let (class, new) = self.classes.acquire(blocks);
            changes.classes |= new;
            next.insert(prefix, class);
        }
        let before = std::mem::replace(&mut self.prefixes, next);
        for class in before.values() {
            if self.classes.release(*class) && self.classes.free(*class) {
                changes.classes = true;
            }
        }
        for prefix in before.keys() {
            if !self.prefixes.contains_key(prefix) {
                changes.prefixes.push((*prefix, None));
            }
        }
        for (prefix, class) in &self.prefixes {
            if before.get(prefix) != Some(class) {
                changes.prefixes.push((*prefix, Some(CidrClassId(*class))));
            }
        }
        changes
    }

    /// The blocks that an address is in whose longest prefix this is, for every prefix.
    fn sets(&self) -> Vec<(IpNet, Vec<u32>)> {
        // By prefix: blocks that begin there, blocks that end there.
        let mut marks: BTreeMap<IpNet, (Vec<u32>, Vec<u32>)> = BTreeMap::new();
        for (number, block, _) in self.blocks.iter() {
            marks.entry(block.cidr).or_default().0.push(number);
            for except in &block.except {
                marks.entry(*except).or_default().1.push(number);
            }
        }
        // In their order a prefix comes right before those within it.
        let mut around: Vec<(IpNet, BTreeSet<u32>)> = Vec::new();
        let mut sets = Vec::with_capacity(marks.len());
        for (prefix, (begin, end)) in marks {
            while around
                .last()
                .is_some_and(|(outer, _)| !outer.contains(&prefix))
            {
                around.pop();
            }
            let mut blocks = around.last().map(|(_, b)| b.clone()).unwrap_or_default();
            blocks.extend(begin);
            end.iter().for_each(|number| {
                blocks.remove(number);
            });
            sets.push((prefix, blocks.iter().copied().collect()));
            around.push((prefix, blocks));
        }
        sets
    }

    /// Every class with its blocks.
    pub(crate) fn classes(&self) -> impl Iterator<Item = (CidrClassId, &[u32])> {
        self.classes
            .iter()
            .map(|(n, blocks, _)| (CidrClassId(n), &blocks[..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{IpAddr, Ipv4Addr};

    fn block(cidr: &str, except: &[&str]) -> IpBlock {
        IpBlock {
            cidr: cidr.parse().unwrap(),
            except: except.iter().map(|e| e.parse().unwrap()).collect(),
        }
    }

    /// What a mirror of the prefixes says of an address.
    fn blocks_of(blocks: &Blocks, mirror: &BTreeMap<IpNet, u32>, address: IpAddr) -> Vec<u32> {
        let covering = mirror.iter().filter(|(p, _)| p.contains(&address));
        let longest = covering.max_by_key(|(p, _)| p.prefix_len());
        let class = longest.map(|(_, class)| CidrClassId(*class));
        let found = class.and_then(|class| blocks.classes().find(|(c, _)| *c == class));
        found.map(|(_, b)| b.to_vec()).unwrap_or_default()
    }

    #[test]
    fn blocks_overlap_and_have_exceptions() {
        let mut blocks = Blocks::default();
        let a = blocks.activate(&block("10.0.0.0/8", &["10.1.0.0/16"]));
        let b = blocks.activate(&block("10.1.2.3/16", &["10.1.2.0/24"]));
        assert_eq!(a, blocks.activate(&block("10.9.9.9/8", &["10.1.0.0/16"])));
        let changes = blocks.classify();
        let mirror: BTreeMap<IpNet, u32> = changes
            .prefixes
            .iter()
            .map(|(p, c)| (*p, c.unwrap().0))
            .collect();
        let at = |text: &str| blocks_of(&blocks, &mirror, text.parse().unwrap());
        assert_eq!(at("10.2.0.1"), [a]);
        assert_eq!(at("10.1.0.1"), [b]);
        assert!(at("10.1.2.1").is_empty());
        assert!(at("11.0.0.1").is_empty());
        assert!(blocks.classify().prefixes.is_empty(), "nothing new");
    }

    fn any_block() -> impl Strategy<Value = IpBlock> {
        let net = |bits: u8, length: u8| {
            let address = Ipv4Addr::new(10, 0, 0, bits);
            IpNet::new(address.into(), length).unwrap().trunc()
        };
        let except = (any::<u8>(), 28u8..33);
        (
            any::<u8>(),
            24u8..30,
            proptest::collection::vec(except, 0..3),
        )
            .prop_map(move |(bits, length, except)| {
                let cidr = net(bits, length);
                let within = |(b, l): (u8, u8)| net(b, l);
                let except = except.into_iter().map(within);
                let proper = |e: &IpNet| cidr.contains(e) && e.prefix_len() > cidr.prefix_len();
                IpBlock {
                    cidr,
                    except: except.filter(proper).collect(),
                }
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever blocks come and go, the prefixes say of each address which blocks it is in.
        #[test]
        fn prefixes_say_what_blocks_say(
            steps in proptest::collection::vec((any_block(), any::<bool>(), any::<u8>()), 1..20)
        ) {
            let mut blocks = Blocks::default();
            let mut live: Vec<(u32, IpBlock)> = Vec::new();
            let mut mirror = BTreeMap::new();
            for (block, remove, which) in steps {
                if remove && !live.is_empty() {
                    let (number, _) = live.remove(usize::from(which) % live.len());
                    let mut unused = BTreeSet::new();
                    blocks.release(number, &mut unused);
                    blocks.deactivate_unused(unused);
                } else {
                    live.push((blocks.activate(&block), block));
                }
                for (prefix, class) in blocks.classify().prefixes {
                    match class {
                        Some(class) => mirror.insert(prefix, class.0),
                        None => mirror.remove(&prefix),
                    };
                }
                for last in 0..=255 {
                    let address = IpAddr::from(Ipv4Addr::new(10, 0, 0, last));
                    let is_in = |b: &IpBlock| b.cidr.contains(&address) && !b.except.iter().any(|e| e.contains(&address));
                    let want: BTreeSet<u32> = live.iter().filter(|(_, b)| is_in(b)).map(|(n, _)| *n).collect();
                    let got: BTreeSet<u32> = blocks_of(&blocks, &mirror, address).into_iter().collect();
                    prop_assert_eq!(got, want, "{}", address);
                }
            }
        }
    }
}
