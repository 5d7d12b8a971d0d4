// SPDX-License-Identifier: Apache-2.0
//! The trie against a map of prefixes that is searched from the longest to the shortest.
use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::tables::trie::{Key, Trie};

/// Inserts (with a value) and removals.
type Changes<K> = Vec<(K, u8, Option<u16>)>;

struct Naive<K>(BTreeMap<(K, u8), u16>);

impl<K: Key + Ord> Naive<K> {
    fn lookup(&self, key: K) -> Option<u16> {
        (0..=K::BITS as u8).rev().find_map(|l| {
            self.0
                .get(&(key.cleared(K::BITS - u32::from(l)), l))
                .copied()
        })
    }
}

/// Keys that share leading bits often, so that prefixes nest.
fn keys<K: Key + Arbitrary + std::fmt::Debug>() -> impl Strategy<Value = K> {
    (any::<K>(), 0..=K::BITS, 0..3u8).prop_map(|(key, cut, how)| match how {
        0 => key.cleared(cut),
        1 => K::ZERO.with(1, (cut % K::BITS) as u8),
        _ => key,
    })
}

fn changes<K: Key + Arbitrary>() -> impl Strategy<Value = Changes<K>> {
    let length = prop_oneof![0..=K::BITS as u8, Just(K::BITS as u8), Just(24)];
    let value = proptest::option::weighted(0.7, any::<u16>());
    proptest::collection::vec((keys(), length, value), 1..80)
}

fn check<K: Key + Ord>(changes: &Changes<K>, probes: &[K]) {
    let mut trie = Trie::default();
    let mut naive = Naive(BTreeMap::new());
    let mut versions = Vec::new();
    for (key, length, value) in changes {
        let at = (key.cleared(K::BITS - u32::from(*length)), *length);
        let (old, expected) = match value {
            Some(value) => (
                trie.insert(*key, *length, *value),
                naive.0.insert(at, *value),
            ),
            None => (trie.remove(*key, *length), naive.0.remove(&at)),
        };
        assert_eq!(old, expected);
        assert_eq!(trie.len(), naive.0.len());
        versions.push((trie.clone(), naive.0.clone()));
    }
    for (trie, map) in &versions {
        let mut all = BTreeMap::new();
        trie.visit(&mut |key, length, value| {
            assert_eq!(all.insert((key, length), *value), None);
        });
        assert_eq!(&all, map, "versions do not change later");
    }
    let mut fresh = Trie::default();
    for ((key, length), value) in naive.0.iter().rev() {
        fresh.insert(*key, *length, *value);
    }
    assert_eq!(
        format!("{trie:?}"),
        format!("{fresh:?}"),
        "the shape follows from the content"
    );
    for (key, length, _) in changes {
        let rest = K::BITS - u32::from(*length);
        let at = (key.cleared(rest), *length);
        assert_eq!(trie.get(*key, *length), naive.0.get(&at));
        let mut within = BTreeMap::new();
        trie.visit_within(*key, *length, &mut |k, l, v| {
            within.insert((k, l), *v);
        });
        let mut expected = naive.0.clone();
        expected.retain(|(k, l), _| l >= length && k.cleared(rest) == at.0);
        assert_eq!(within, expected);
    }
    for key in probes.iter().chain(changes.iter().map(|(key, ..)| key)) {
        assert_eq!(trie.lookup(*key).copied(), naive.lookup(*key));
        assert_eq!(trie.get_exact(*key), naive.0.get(&(*key, K::BITS as u8)));
    }
}

proptest! {
    #[test]
    fn ipv4_keys_as_naive(c in changes::<u32>(), p in proptest::collection::vec(keys(), 20)) {
        check(&c, &p);
    }

    #[test]
    fn mac_keys_as_naive(c in changes::<u64>(), p in proptest::collection::vec(keys(), 20)) {
        check(&c, &p);
    }

    #[test]
    fn ipv6_keys_as_naive(c in changes::<u128>(), p in proptest::collection::vec(keys(), 20)) {
        check(&c, &p);
    }
}
