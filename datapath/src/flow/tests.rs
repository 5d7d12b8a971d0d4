// SPDX-License-Identifier: Apache-2.0
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::*;
use crate::ids::{GroupId, RuleId, VrfId};
use crate::wire::protocol::{TCP, UDP};

const SEED: u64 = 0x1234_5678_9abc_def1;
const IDLE: u32 = 30_000;

fn table(entries: usize) -> FlowTable {
    FlowTable::create(entries, SEED, Timeouts::default()).unwrap()
}

/// Of the end at 1 to the end at 2, or back.
fn key(n: u32, back: bool) -> FlowKey {
    let key = FlowKey::new(VrfId(7), UDP, [1; 16], [2; 16], (n >> 16) as u16, n as u16);
    if back { key.reversed() } else { key }
}

fn way(adjacency: u32, in_port: u16) -> Way {
    Way {
        adjacency,
        in_port: PortId(in_port),
        egress: Some(RuleId(1)),
        ingress: None,
    }
}

const UDP_PACKET: Signal = Signal {
    protocol: UDP,
    bits: 0,
};

fn put(t: &mut FlowTable, n: u32, port: u16, adjacency: u32, now: u32) -> Result<(), Refused> {
    let key = key(n, false);
    let conversation = Conversation::of(&key, t.seed());
    t.insert(
        &conversation,
        way(adjacency, port),
        9,
        State::first(UDP_PACKET),
        now,
    )
}

fn look(t: &mut FlowTable, n: u32, back: bool, now: u32) -> Option<Found> {
    let key = key(n, back);
    let conversation = Conversation::of(&key, t.seed());
    t.prefetch(conversation.hash);
    let found = t.find_now(&conversation, now)?;
    let state = found.state().next(conversation.from, UDP_PACKET);
    t.seen(&found, state, now);
    Some(found)
}

fn file(table: &FlowTable) -> File {
    File::from(table.memfd().try_clone_to_owned().unwrap())
}

#[test]
fn both_directions_are_one_connection() {
    let mut t = table(1000);
    assert!(t.is_empty());
    put(&mut t, 1, 3, 42, 0).unwrap();
    let found = look(&mut t, 1, false, 1).unwrap();
    assert_eq!((found.stamp(), found.begun_at()), (9, PortId(3)));
    assert!(!found.state().is_answered());
    let mut back = look(&mut t, 1, true, 1).unwrap();
    let from = 1 - found.state().origin();
    assert_eq!(back.way(from), None, "not known yet");
    t.judged(&mut back, 9, from, way(43, 4));
    let found = look(&mut t, 1, false, 2).unwrap();
    assert_eq!(found.state().phase(), Phase::UdpReplied);
    assert_eq!(found.way(found.state().origin()), Some(way(42, 3)));
    assert_eq!(found.way(from), Some(way(43, 4)));
    assert_eq!((t.len(), look(&mut t, 2, false, 1)), (1, None));
}

#[test]
fn what_is_judged_under_a_new_stamp_forgets_the_other_way() {
    let mut t = table(64);
    put(&mut t, 1, 3, 42, 0).unwrap();
    let mut found = look(&mut t, 1, false, 0).unwrap();
    let origin = found.state().origin();
    t.judged(&mut found, 9, 1 - origin, way(43, 4));
    t.judged(&mut found, 10, 1 - origin, way(44, 4));
    let found = look(&mut t, 1, false, 0).unwrap();
    assert_eq!((found.stamp(), found.way(origin)), (10, None));
    assert_eq!(found.way(1 - origin), Some(way(44, 4)));
    assert_eq!(found.begun_at(), PortId(3));
}

#[test]
fn connections_end_by_the_timeout_of_their_state() {
    let mut t = table(64);
    // Times cross the wrap of the clock.
    let start = u32::MAX - 1000;
    put(&mut t, 1, 3, 42, start).unwrap();
    assert!(look(&mut t, 1, false, start.wrapping_add(IDLE - 1)).is_some());
    let start = start.wrapping_add(IDLE - 1);
    assert!(look(&mut t, 1, false, start.wrapping_add(IDLE)).is_none());
    put(&mut t, 1, 3, 42, start).unwrap();
    assert!(look(&mut t, 1, true, start).is_some(), "answered");
    assert!(look(&mut t, 1, false, start.wrapping_add(100_000)).is_some());
    assert_eq!(t.age(start.wrapping_add(100_000), usize::MAX), 0);
    assert_eq!(t.age(start.wrapping_add(220_000), usize::MAX), 1);
    assert_eq!((t.len(), t.held_by(PortId(3))), (0, 0));
}

#[test]
fn a_full_table_refuses_and_disturbs_nobody() {
    let mut t = table(1024);
    // 64 ports with as many connections as they get, then again.
    let mut held = Vec::new();
    let mut refused = [0; 2];
    for n in 0..100_000u32 {
        match put(&mut t, n, (n % 64) as u16, n, 0) {
            Ok(()) => held.push(n),
            Err(Refused::Full) => refused[0] += 1,
            Err(Refused::Quota) => refused[1] += 1,
        }
    }
    assert!((900..=1024).contains(&held.len()), "{}", held.len());
    assert!(refused[1] > 0, "{refused:?}");
    for n in held {
        assert!(look(&mut t, n, true, 1).is_some(), "{n}");
    }
}

#[test]
fn one_port_leaves_half_to_the_others_and_keeps_to_its_quota() {
    let mut t = table(1024);
    let taken = |t: &mut FlowTable, port: u16| {
        let put = |n: &u32| put(t, u32::from(port) << 20 | n, port, 1, 0).is_ok();
        (0..10_000).filter(put).count()
    };
    assert!((500..=512).contains(&taken(&mut t, 1)));
    assert!((250..=256).contains(&taken(&mut t, 2)));
    t.set_quota(10);
    assert_eq!(taken(&mut t, 3), 10);
    assert_eq!(t.held_by(PortId(3)), 10);
}

#[test]
fn connections_that_are_over_make_room_the_oldest_first() {
    let mut t = table(32);
    let syn = Signal {
        protocol: TCP,
        bits: 2,
    };
    let rst = Signal {
        protocol: TCP,
        bits: 4,
    };
    let key = |n: u32| FlowKey::new(VrfId(0), TCP, [1; 16], [2; 16], n as u16, 80);
    for n in 0..10_000u32 {
        let (key_n, now) = (key(n), n);
        let conversation = Conversation::of(&key_n, SEED);
        t.insert(&conversation, way(1, 1), 1, State::first(syn), now)
            .unwrap();
        let found = t.find_now(&conversation, now).unwrap();
        let state = found.state().next(1 - conversation.from, rst);
        assert_eq!(state.phase(), Phase::TcpClosed);
        t.seen(&found, state, now);
        assert_eq!(t.held_by(PortId(1)), 0);
        // A bucket has room for this one and the seven before it, at least.
        for n in n.saturating_sub(7)..=n {
            let found = t.find_now(&Conversation::of(&key(n), SEED), now);
            let found = found.expect("kept for stragglers");
            assert!(found.state().begins_anew(syn) && !found.state().begins_anew(rst));
        }
    }
}

#[test]
fn an_adopted_table_keeps_connections_that_must_be_judged_again() {
    let mut t = table(64);
    put(&mut t, 1, 3, 42, 5).unwrap();
    let fd = t.memfd().try_clone_to_owned().unwrap();
    drop(t);
    let mut t = FlowTable::adopt(fd, Timeouts::default()).unwrap();
    assert_eq!((t.len(), t.capacity(), t.seed()), (1, 64, SEED));
    assert_eq!(t.held_by(PortId(3)), 1);
    let mut found = look(&mut t, 1, false, 6).unwrap();
    assert_eq!(
        (found.stamp(), found.way(found.state().origin())),
        (0, None)
    );
    let origin = found.state().origin();
    t.judged(&mut found, 4, origin, way(7, 3));
    assert_eq!(look(&mut t, 1, true, 6).unwrap().stamp(), 4);
}

#[test]
fn a_group_stays_with_its_connection() {
    let mut t = table(64);
    let all = [1, 0x8000, u16::MAX].map(|n| GroupId::new(n).unwrap());
    for (n, group) in (1..).zip(all) {
        let key = key(n, true);
        let conversation = Conversation::of(&key, t.seed());
        let state = State::first(UDP_PACKET).marked(Some(group));
        t.insert(&conversation, way(42, 3), 9, state, 5).unwrap();
    }
    put(&mut t, 9, 3, 42, 5).unwrap();
    let mut t = reopened(&t);
    for (n, group) in (1..).zip(all) {
        look(&mut t, n, false, 6).unwrap();
        let state = look(&mut t, n, true, 7).unwrap().state();
        assert_eq!((state.group(), state.binding()), (Some(group), None));
        assert_eq!([0, 1].map(|end| state.binding_of(end)), [None; 2]);
        assert_eq!(state.phase(), Phase::UdpReplied);
        let other = state.marked(Some(all[0]));
        assert_eq!(
            (other.group(), other.phase()),
            (Some(all[0]), state.phase())
        );
        assert_eq!(
            (other.marked(None).group(), other.origin()),
            (None, state.origin())
        );
    }
    assert_eq!(look(&mut t, 9, true, 6).unwrap().state().group(), None);
    // A binding, of whatever number, is no group, and stays.
    for number in [0, 1, bindings::MAX_LINES as u32 - 1] {
        let bound = State::first(UDP_PACKET).bound(1, BindingId(number));
        let marked = bound.marked(Some(all[0]));
        assert_eq!((marked.group(), marked), (None, bound));
        assert_eq!(bound.binding_of(1), Some(BindingId(number)));
    }
}

#[test]
fn what_is_no_flow_table_is_refused_by_name() {
    let refused = |word: u64, value: u64| {
        let t = table(64);
        file(&t)
            .write_all_at(&value.to_ne_bytes(), word * 8)
            .unwrap();
        let fd = t.memfd().try_clone_to_owned().unwrap();
        FlowTable::adopt(fd, Timeouts::default()).unwrap_err()
    };
    assert!(matches!(
        refused(0, 5),
        FlowTableError::NotAFlowTable { found: 5 }
    ));
    assert!(matches!(
        refused(1, 1),
        FlowTableError::OtherLayout { version: 1, .. }
    ));
    assert!(matches!(
        refused(2, 3),
        FlowTableError::OtherLayout { layout: 3, .. }
    ));
    for buckets in [0, 4, 7, 32, 1 << 40, u64::MAX] {
        assert!(matches!(
            refused(4, buckets),
            FlowTableError::WrongSize { .. }
        ));
    }
    let plain = tempfile::tempfile().unwrap();
    plain.set_len(1 << 20).unwrap();
    let error = FlowTable::adopt(plain.into(), Timeouts::default()).unwrap_err();
    assert!(error.to_string().contains("sealed"), "{error}");
    assert!(matches!(
        FlowTable::create(FlowTable::MAX_ENTRIES + 1, SEED, Timeouts::default()),
        Err(FlowTableError::TooLarge { .. })
    ));
}

#[test]
fn the_memory_cannot_shrink_under_the_table() {
    let t = table(64);
    assert!(file(&t).set_len(0).is_err());
    assert!(file(&t).set_len(1 << 30).is_err());
}

#[derive(Clone, Debug)]
enum Step {
    Put {
        n: u32,
        in_port: u16,
        adjacency: u32,
    },
    Look {
        n: u32,
        back: bool,
    },
    Remove {
        n: u32,
    },
    Age,
    Tick(u32),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let (n, port) = (0u32..40, 0u16..2);
    prop_oneof![
        6 => (n.clone(), port, 0u32..1 << 19).prop_map(
            |(n, in_port, adjacency)| Step::Put { n, in_port, adjacency }),
        6 => (n.clone(), any::<bool>()).prop_map(|(n, back)| Step::Look { n, back }),
        1 => n.prop_map(|n| Step::Remove { n }),
        1 => Just(Step::Age),
        2 => (0u32..20_000).prop_map(Step::Tick),
        1 => Just(Step::Reopen),
    ]
}

fn reopened(t: &FlowTable) -> FlowTable {
    FlowTable::adopt(t.memfd().try_clone_to_owned().unwrap(), Timeouts::default()).unwrap()
}

/// What a hash map knows of a connection.
struct Known {
    adjacency: Option<u32>,
    port: u16,
    answered: bool,
    over: u32,
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    /// A table with room does what a hash map would do.
    #[test]
    fn behaves_as_a_map(steps in proptest::collection::vec(step(), 1..200)) {
        let mut t = table(4096);
        let mut model: HashMap<u32, Known> = HashMap::new();
        let mut now = u32::MAX - 30;
        let past = |k: &Known, now: u32| now.wrapping_sub(k.over) as i32 >= 0;
        for s in steps {
            match s {
                Step::Put { n, in_port, adjacency } => {
                    prop_assert!(put(&mut t, n, in_port, adjacency, now).is_ok());
                    model.insert(n, Known {
                        adjacency: Some(adjacency), port: in_port, answered: false, over: now.wrapping_add(IDLE),
                    });
                }
                Step::Look { n, back } => {
                    let got = look(&mut t, n, back, now).map(|f| (f.way(f.state().origin()).map(|w| w.adjacency), f.begun_at()));
                    let want = model.get_mut(&n).filter(|k| !past(k, now)).map(|k| {
                        let was_answered = k.answered;
                        k.answered |= back;
                        let over = now.wrapping_add(if k.answered { 120_000 } else { IDLE });
                        if was_answered != k.answered || over.wrapping_sub(k.over) >= GRAIN {
                            k.over = over;
                        }
                        (k.adjacency, PortId(k.port))
                    });
                    prop_assert_eq!(got, want);
                }
                Step::Remove { n } => {
                    let key = key(n, false);
                    if let Some(found) = t.find_now(&Conversation::of(&key, SEED), now) {
                        t.remove(&found);
                        model.remove(&n);
                    }
                }
                Step::Age => {
                    let before = model.len();
                    model.retain(|_, k| !past(k, now));
                    prop_assert_eq!(t.age(now, usize::MAX), before - model.len());
                }
                Step::Tick(n) => now = now.wrapping_add(n),
                Step::Reopen => {
                    t = reopened(&t);
                    model.values_mut().for_each(|k| k.adjacency = None);
                }
            }
            prop_assert_eq!(t.len(), model.len());
            for port in 0..2 {
                let held = model.values().filter(|k| k.port == port).count();
                prop_assert_eq!(t.held_by(PortId(port)) as usize, held);
            }
        }
    }

    /// Whatever stands in adopted memory, the table works on: it neither panics nor leaves its mapping.
    #[test]
    fn survives_any_content(
        words in proptest::collection::vec((512u64..512 + 72 * 8, any::<u64>()), 0..200),
        fill in any::<u8>(),
        steps in proptest::collection::vec(step(), 1..50),
    ) {
        let t = table(32);
        let f = file(&t);
        f.write_all_at(&[fill; 72 * 64], 4096).unwrap();
        for (word, value) in words {
            f.write_all_at(&value.to_ne_bytes(), word * 8).unwrap();
        }
        let mut t = reopened(&t);
        let mut now = 0;
        for s in steps {
            match s {
                Step::Put { n, in_port, adjacency } => {
                    if put(&mut t, n, in_port, adjacency, now).is_ok() {
                        let found = look(&mut t, n, false, now).unwrap();
                        prop_assert_eq!(found.way(found.state().origin()), Some(way(adjacency, in_port)));
                    }
                }
                Step::Look { n, back } => { look(&mut t, n, back, now); }
                Step::Remove { n } => {
                    let key = key(n, true);
                    if let Some(found) = t.find_now(&Conversation::of(&key, SEED), now) {
                        t.remove(&found);
                    }
                }
                Step::Age => { t.age(now, 3); }
                Step::Tick(n) => now += n,
                Step::Reopen => t = reopened(&t),
            }
        }
    }
}

mod states {
    use super::*;
    use crate::wire::tcp::flags::{ACK, FIN, RST, SYN};

    /// The phases that segments (end 0 began it) lead through.
    fn phases(segments: &[(usize, u8)]) -> Vec<Phase> {
        let signal = |bits| Signal {
            protocol: TCP,
            bits,
        };
        let mut state = State::first(signal(segments[0].1)).begun_by(segments[0].0);
        let mut all = vec![state.phase()];
        for &(from, bits) in &segments[1..] {
            let next = state.next(from, signal(bits));
            assert!(!state.stays(from, signal(bits)) || state == next);
            state = next;
            all.push(state.phase());
        }
        all
    }

    use Phase::*;

    #[test]
    fn a_connection_from_syn_to_the_last_ack() {
        let segments = [
            (1, SYN),
            (1, SYN),
            (0, SYN | ACK),
            (0, SYN | ACK),
            (1, ACK),
            (0, ACK),
            (0, FIN | ACK),
            (1, ACK),
            (1, FIN | ACK),
            (0, ACK),
        ];
        assert_eq!(
            phases(&segments),
            [
                TcpSynSent,
                TcpSynSent,
                TcpSynReceived,
                TcpSynReceived,
                TcpEstablished,
                TcpEstablished,
                TcpHalfClosed,
                TcpHalfClosed,
                TcpTimeWait,
                TcpTimeWait
            ]
        );
    }

    #[test]
    fn simultaneous_open_and_close_resets_and_refusals() {
        let both = [
            (0, SYN),
            (1, SYN),
            (0, SYN | ACK),
            (1, SYN | ACK),
            (0, ACK),
            (1, FIN | ACK),
            (0, FIN | ACK),
        ];
        assert_eq!(
            phases(&both),
            [
                TcpSynSent,
                TcpSynSent,
                TcpSynReceived,
                TcpSynReceived,
                TcpEstablished,
                TcpHalfClosed,
                TcpTimeWait
            ]
        );
        assert_eq!(phases(&[(0, SYN), (1, RST | ACK)]), [TcpSynSent, TcpClosed]);
        assert_eq!(
            phases(&[(0, SYN), (1, SYN | ACK), (0, RST), (1, ACK)]),
            [TcpSynSent, TcpSynReceived, TcpClosed, TcpClosed]
        );
    }

    #[test]
    fn only_what_opens_opens() {
        let opening = |protocol, bits| Signal { protocol, bits }.opening();
        assert_eq!(opening(TCP, SYN), Opening::Opens);
        for bits in [
            RST,
            RST | ACK,
            SYN | ACK,
            SYN | RST,
            SYN | FIN,
            0,
            SYN | FIN | ACK,
        ] {
            assert_eq!(opening(TCP, bits), Opening::Ends, "{bits:#x}");
        }
        for bits in [ACK, FIN | ACK, FIN, ACK | 8] {
            assert_eq!(opening(TCP, bits), Opening::Joins, "{bits:#x}");
        }
        assert_eq!(opening(UDP, 0), Opening::Opens);
        let sctp = |bits| opening(crate::wire::protocol::SCTP, bits);
        assert_eq!(
            (sctp(1), sctp(0), sctp(6)),
            (Opening::Opens, Opening::Joins, Opening::Ends)
        );
    }

    #[test]
    fn an_association_of_sctp() {
        let signal = |bits| Signal {
            protocol: crate::wire::protocol::SCTP,
            bits,
        };
        let mut state = State::first(signal(1)).begun_by(0);
        let mut all = vec![state.phase()];
        for (from, kind) in [(1, 2), (0, 10), (1, 11), (0, 0), (1, 14)] {
            state = state.next(from, signal(kind));
            all.push(state.phase());
        }
        let open = SctpEstablished;
        assert_eq!(all, [SctpNew, SctpNew, open, open, open, SctpClosed]);
    }
}
