// SPDX-License-Identifier: Apache-2.0
//! The table against a map of prefixes that is searched from the longest to the shortest.
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::list::{LOCAL, cleared};
use super::v4::V4;
use crate::tables::route::Target;

/// Address, length and, if it is set and not taken out, the target.
type Change = (u32, u8, Option<Target>);
type Map = BTreeMap<(u32, u8), Target>;

fn naive(map: &Map, address: u32) -> Option<Target> {
    let lengths = (0..=LOCAL).rev();
    let mut found = lengths.map(|length| map.get(&(cleared(address, length), length)));
    found.find_map(|target| target.copied())
}

fn targets() -> impl Strategy<Value = Target> {
    prop_oneof![
        (0..300u32).prop_map(Target::Via),
        (0..40u32).prop_map(Target::OnLink),
        // Some have no code.
        (12_200..12_400u32).prop_map(Target::Via),
        (4000..4100u32).prop_map(Target::OnLink),
        Just(Target::Blackhole),
        Just(Target::Unreachable),
        Just(Target::Prohibit),
    ]
}

/// Addresses that share leading bits often, so that prefixes nest and parts of the table fill up.
fn addresses() -> impl Strategy<Value = u32> {
    let few = |bits: u32| any::<u32>().prop_map(move |a| 0x0a01_0200 | (a % (1 << bits)));
    prop_oneof![any::<u32>(), few(5), few(9), few(12), few(17), few(24)]
}

fn changes(most: usize) -> impl Strategy<Value = Vec<Change>> {
    let length = prop_oneof![0..=LOCAL, 24..=LOCAL, Just(24), Just(32), Just(LOCAL)];
    let target = proptest::option::weighted(0.75, targets());
    let change = (addresses(), length, target);
    let change =
        change.prop_map(|(address, length, target)| (cleared(address, length), length, target));
    proptest::collection::vec(change, 1..most)
}

fn content(table: &V4, address: u32, length: u8) -> Map {
    let mut all = Map::new();
    table.visit_within(address, length, &mut |item| {
        let key = (item.address, item.length);
        assert_eq!(all.insert(key, item.target), None, "twice");
    });
    all
}

/// The ends of what is in it, their neighbors, and more.
fn probes(map: &Map, more: &[u32]) -> Vec<u32> {
    let mut all = more.to_vec();
    for (address, length) in map.keys() {
        let last = address | u32::MAX.checked_shr(u32::from(*length)).unwrap_or(0);
        all.extend([
            *address,
            last,
            address.wrapping_sub(1),
            last.wrapping_add(1),
        ]);
    }
    all
}

fn check(changes: &[Change], more: &[u32]) {
    let (mut table, mut map) = (V4::default(), Map::new());
    let mut versions = Vec::new();
    for (n, &(address, length, target)) in changes.iter().enumerate() {
        let old = table.set(address, length, target);
        let expected = match target {
            Some(target) => map.insert((address, length), target),
            None => map.remove(&(address, length)),
        };
        assert_eq!(old, expected);
        assert_eq!(table.len(), map.len());
        assert_eq!(table.get(address, length), target);
        // Changes with and without a version that shares what they change.
        if n % 3 > 0 {
            versions.push((table.clone(), map.clone()));
        }
    }
    versions.push((table.clone(), map.clone()));
    for (table, map) in versions {
        for address in probes(&map, more) {
            assert_eq!(table.lookup(address), naive(&map, address), "{address:x}");
        }
        assert_eq!(content(&table, 0, 0), map, "versions do not change later");
    }
    for &(address, length, _) in changes {
        let last = address | u32::MAX.checked_shr(length.into()).unwrap_or(0);
        let mut expected = map.clone();
        expected.retain(|(a, l), _| *l >= length && (address..=last).contains(a));
        assert_eq!(content(&table, address, length), expected);
    }
    for (address, length) in map.into_keys() {
        assert!(table.set(address, length, None).is_some());
    }
    let mut left = 0;
    table.visit_allocations(&mut |_, bytes| left += bytes);
    assert_eq!((table.len(), left), (0, 0));
}

proptest! {
    #[test]
    fn a_few_changes_as_naive(c in changes(60), p in proptest::collection::vec(addresses(), 20)) {
        check(&c, &p);
    }

    #[test]
    fn many_changes_as_naive(c in changes(400), p in proptest::collection::vec(addresses(), 20)) {
        check(&c, &p);
    }
}

#[test]
fn what_is_full_at_every_level_is_found() {
    let (mut table, mut map) = (V4::default(), Map::new());
    let mut set = |address: u32, length: u8, n: u32| {
        table.set(address, length, Some(Target::Via(n)));
        map.insert((address, length), Target::Via(n));
    };
    for n in 0..=255u32 {
        set(n << 24, 8, n);
        set(0x0a00_0000 | n << 16, 16, 300 + n);
        set(0x0a01_0000 | n << 8, 24, 600 + n);
        set(0x0a01_0200 | n, 32, 900 + n);
        set(0x0a01_0300 | n, LOCAL, 1200 + n);
        set(0x0a02_0000 | n << 8 | n, LOCAL, 1500 + n);
    }
    for address in probes(&map, &[]) {
        assert_eq!(table.lookup(address), naive(&map, address), "{address:x}");
    }
}
