// SPDX-License-Identifier: Apache-2.0
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::*;
use crate::ids::VrfId;

const SEED: u64 = 0x1234_5678_9abc_def1;

fn key(n: u32) -> FlowKey {
    FlowKey::new(VrfId(7), 6, [1; 16], [2; 16], (n >> 16) as u16, n as u16)
}

fn decision(adjacency: u32) -> Decision {
    let half = |rule| Half {
        drop: None,
        rule: Some(RuleId(rule)),
    };
    Decision {
        adjacency,
        egress: half(1),
        ingress: half(2),
    }
}

/// Inserts for (port, generation, adjacency).
fn put(table: &mut FlowTable, n: u32, entry: (u16, u32, u32), now: u32) -> Inserted {
    let (key, seed) = (key(n), table.seed());
    let (in_port, generation, adjacency) = entry;
    let decision = decision(adjacency);
    table.insert(
        &key,
        PortId(in_port),
        key.hash(seed),
        generation,
        now,
        &decision,
    )
}

fn look(table: &mut FlowTable, n: u32, in_port: u16, generation: u32, now: u32) -> Option<u32> {
    let (key, seed) = (key(n), table.seed());
    table.prefetch(key.hash(seed));
    let candidate = table.candidate(key.hash(seed));
    let found = table.lookup(candidate, &key, PortId(in_port), generation, now)?;
    Some(found.adjacency)
}

fn file(table: &FlowTable) -> File {
    File::from(table.memfd().try_clone_to_owned().unwrap())
}

#[test]
fn remembers_by_key_port_and_generation() {
    let mut t = FlowTable::create(1000, SEED).unwrap();
    assert_eq!(t.capacity(), 1024);
    assert!(t.is_empty());
    assert_eq!(put(&mut t, 1, (3, 9, 42), 0), Inserted::New);
    assert_eq!(put(&mut t, 1, (4, 9, 43), 0), Inserted::New);
    assert_eq!(look(&mut t, 1, 3, 9, 1).unwrap(), 42);
    assert_eq!(look(&mut t, 1, 4, 9, 1).unwrap(), 43);
    assert_eq!(look(&mut t, 1, 5, 9, 1), None);
    assert_eq!(look(&mut t, 2, 3, 9, 1), None);
    assert_eq!(look(&mut t, 1, 3, 10, 1), None, "judged under other tables");
    assert_eq!(put(&mut t, 1, (3, 10, 44), 2), Inserted::Updated);
    assert_eq!(look(&mut t, 1, 3, 10, 2).unwrap(), 44);
    assert_eq!(t.len(), 2);
}

#[test]
fn generation_zero_never_counts() {
    let mut t = FlowTable::create(64, SEED).unwrap();
    put(&mut t, 1, (3, 0, 42), 0);
    assert_eq!(look(&mut t, 1, 3, 0, 0), None);
}

#[test]
fn full_bucket_gives_up_the_entry_unseen_for_longest() {
    let mut t = FlowTable::create(1, SEED).unwrap();
    assert_eq!(t.capacity(), 64);
    let mut same = (0..).filter(|&n| key(n).hash(SEED) & 7 == 0);
    let ns: Vec<u32> = same.by_ref().take(9).collect();
    // Times cross the wrap of the clock.
    let time = |i: usize| (u32::MAX - 3).wrapping_add(i as u32);
    for (i, &n) in ns[..8].iter().enumerate() {
        assert_eq!(put(&mut t, n, (0, 1, n), time(i)), Inserted::New);
    }
    assert!(look(&mut t, ns[0], 0, 1, time(9)).is_some());
    assert_eq!(put(&mut t, ns[8], (0, 1, 0), time(10)), Inserted::Evicted);
    assert_eq!(t.len(), 8);
    assert_eq!(look(&mut t, ns[1], 0, 1, time(10)), None);
    for i in [0, 2, 3, 4, 5, 6, 7, 8] {
        assert!(look(&mut t, ns[i], 0, 1, time(10)).is_some(), "slot {i}");
    }
}

#[test]
fn ages_a_little_at_a_time() {
    let mut t = FlowTable::create(64, SEED).unwrap();
    for n in 0..20 {
        put(&mut t, n, (0, 1, n), 0);
    }
    let kept = t.len();
    look(&mut t, 0, 0, 1, 100);
    let mut freed = 0;
    for _ in 0..8 {
        let n = t.age(150, 100, 1);
        assert!(n <= 8);
        freed += n;
    }
    assert_eq!(freed, kept - 1);
    assert_eq!(t.len(), 1);
    assert!(look(&mut t, 0, 0, 1, 150).is_some());
}

#[test]
fn an_adopted_table_keeps_entries_that_must_be_judged_again() {
    let mut t = FlowTable::create(64, SEED).unwrap();
    put(&mut t, 1, (3, 9, 42), 5);
    let fd = t.memfd().try_clone_to_owned().unwrap();
    drop(t);
    let mut t = FlowTable::adopt(fd).unwrap();
    assert_eq!((t.len(), t.capacity(), t.seed()), (1, 64, SEED));
    assert_eq!(look(&mut t, 1, 3, 9, 6), None);
    assert_eq!(put(&mut t, 1, (3, 9, 42), 6), Inserted::Updated);
    assert!(look(&mut t, 1, 3, 9, 6).is_some());
}

#[test]
fn what_is_no_flow_table_is_refused_by_name() {
    let refused = |word: u64, value: u64| {
        let t = FlowTable::create(64, SEED).unwrap();
        file(&t)
            .write_all_at(&value.to_ne_bytes(), word * 8)
            .unwrap();
        FlowTable::adopt(t.memfd().try_clone_to_owned().unwrap()).unwrap_err()
    };
    assert!(matches!(
        refused(0, 5),
        FlowTableError::NotAFlowTable { found: 5 }
    ));
    assert!(matches!(
        refused(1, 2),
        FlowTableError::OtherLayout { version: 2, .. }
    ));
    assert!(matches!(
        refused(2, 3),
        FlowTableError::OtherLayout { layout: 3, .. }
    ));
    for buckets in [0, 4, 7, 16, 1 << 40, u64::MAX] {
        assert!(matches!(
            refused(4, buckets),
            FlowTableError::WrongSize { .. }
        ));
    }
    let plain = tempfile::tempfile().unwrap();
    plain.set_len(1 << 20).unwrap();
    let error = FlowTable::adopt(plain.into()).unwrap_err();
    assert!(error.to_string().contains("sealed"), "{error}");
    assert!(matches!(
        FlowTable::create(FlowTable::MAX_ENTRIES + 1, SEED),
        Err(FlowTableError::TooLarge { .. })
    ));
}

#[test]
fn the_memory_cannot_shrink_under_the_table() {
    let t = FlowTable::create(64, SEED).unwrap();
    assert!(file(&t).set_len(0).is_err());
    assert!(file(&t).set_len(1 << 30).is_err());
}

#[derive(Clone, Debug)]
enum Step {
    Put {
        n: u32,
        in_port: u16,
        generation: u32,
        adjacency: u32,
    },
    Look {
        n: u32,
        in_port: u16,
        generation: u32,
    },
    Age {
        idle: u32,
    },
    Tick(u32),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let (n, port, generation) = (0u32..40, 0u16..2, 1u32..3);
    prop_oneof![
        6 => (n.clone(), port.clone(), generation.clone(), any::<u32>()).prop_map(
            |(n, in_port, generation, adjacency)| Step::Put { n, in_port, generation, adjacency }),
        6 => (n, port, generation).prop_map(
            |(n, in_port, generation)| Step::Look { n, in_port, generation }),
        1 => (0u32..20).prop_map(|idle| Step::Age { idle }),
        2 => (0u32..5).prop_map(Step::Tick),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    /// A table large enough not to evict does what a hash map would do.
    #[test]
    fn behaves_as_a_map(steps in proptest::collection::vec(step(), 1..200)) {
        let mut t = FlowTable::create(4096, SEED).unwrap();
        let mut model: HashMap<(u32, u16), (u32, u32, u32)> = HashMap::new();
        let mut now = u32::MAX - 30;
        for s in steps {
            match s {
                Step::Put { n, in_port, generation, adjacency } => {
                    let inserted = put(&mut t, n, (in_port, generation, adjacency), now);
                    let old = model.insert((n, in_port), (generation, adjacency, now));
                    prop_assert_eq!(inserted, if old.is_some() { Inserted::Updated } else { Inserted::New });
                }
                Step::Look { n, in_port, generation } => {
                    let got = look(&mut t, n, in_port, generation, now);
                    let want = model.get_mut(&(n, in_port)).filter(|e| e.0 == generation).map(|e| {
                        e.2 = now;
                        e.1
                    });
                    prop_assert_eq!(got, want);
                }
                Step::Age { idle } => {
                    let before = model.len();
                    model.retain(|_, e| now.wrapping_sub(e.2) <= idle);
                    let freed = t.age(now, idle, usize::MAX);
                    prop_assert_eq!(freed, before - model.len());
                }
                Step::Tick(n) => now = now.wrapping_add(n),
                Step::Reopen => {
                    t = FlowTable::adopt(t.memfd().try_clone_to_owned().unwrap()).unwrap();
                    model.values_mut().for_each(|e| e.0 = 0);
                }
            }
            prop_assert_eq!(t.len(), model.len());
        }
    }

    /// Whatever stands in adopted memory, the table works on: it neither panics nor leaves its mapping.
    #[test]
    fn survives_any_content(
        words in proptest::collection::vec((512u64..512 + 72 * 8, any::<u64>()), 0..200),
        fill in any::<u8>(),
        steps in proptest::collection::vec(step(), 1..50),
    ) {
        let t = FlowTable::create(64, SEED).unwrap();
        let f = file(&t);
        f.write_all_at(&[fill; 72 * 64], 4096).unwrap();
        for (word, value) in words {
            f.write_all_at(&value.to_ne_bytes(), word * 8).unwrap();
        }
        let mut t = FlowTable::adopt(t.memfd().try_clone_to_owned().unwrap()).unwrap();
        let mut now = 0;
        for s in steps {
            match s {
                Step::Put { n, in_port, generation, adjacency } => {
                    put(&mut t, n, (in_port, generation, adjacency), now);
                    prop_assert_eq!(look(&mut t, n, in_port, generation, now), Some(adjacency));
                }
                Step::Look { n, in_port, generation } => {
                    let _ = look(&mut t, n, in_port, generation, now);
                }
                Step::Age { idle } => { t.age(now, idle, 3); }
                Step::Tick(n) => now += n,
                Step::Reopen => t = FlowTable::adopt(t.memfd().try_clone_to_owned().unwrap()).unwrap(),
            }
        }
    }
}
