// SPDX-License-Identifier: Apache-2.0
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 10]);
const ANSWER: Said = Said {
    mac: Some(MAC),
    answer: true,
    overrides: true,
};

fn ip(last: u16) -> IpAddr {
    let [a, b] = last.to_be_bytes();
    IpAddr::from([10, 0, a, b])
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A resolver and its clock.
struct Bed {
    r: Resolver,
    start: Instant,
    now: Instant,
}

impl Bed {
    fn new() -> Bed {
        let now = Instant::now();
        Bed {
            r: Resolver::new(7, now),
            start: now,
            now,
        }
    }

    /// Time passes, in steps as the resolver asks for; what it wants done, with when.
    fn pass(&mut self, time: Duration) -> Vec<(Duration, Action)> {
        let end = self.now + time;
        let mut seen = Vec::new();
        self.collect(&mut seen);
        while let Some(next) = self.r.next().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.r.tick(self.now);
            self.collect(&mut seen);
        }
        self.now = end;
        seen
    }

    fn collect(&mut self, seen: &mut Vec<(Duration, Action)>) {
        let at = self.now - self.start;
        seen.extend(self.r.actions().into_iter().map(|a| (at, a)));
    }

    fn known(probe: Probe) -> Bed {
        let mut bed = Bed::new();
        assert!(bed.r.want(ip(1), probe, bed.now));
        bed.pass(ms(0));
        bed.r.heard(ip(1), ANSWER, bed.now);
        let resolved = Action::Resolved {
            address: ip(1),
            mac: MAC,
        };
        assert_eq!(bed.pass(ms(0)), [(ms(0), resolved)]);
        bed
    }

    /// Time passes up to the next question to the known one, which is the next thing to happen; how long that took.
    fn until_asked(&mut self) -> Duration {
        let before = self.now;
        self.now = self.r.next().unwrap();
        self.r.tick(self.now);
        assert_eq!(self.r.actions(), [ask(Some(MAC))]);
        self.now - before
    }

    fn state(&self) -> State {
        self.r.get(ip(1)).unwrap().state
    }
}

fn ask(to: Option<MacAddr>) -> Action {
    Action::Ask { address: ip(1), to }
}

const LOST: fn() -> Action = || Action::Lost { address: ip(1) };

#[test]
fn one_that_is_not_there_is_asked_for_ever_less_often() {
    let mut bed = Bed::new();
    bed.r.want(ip(1), Probe::Keepalive, bed.now);
    let asked: Vec<u64> = bed
        .pass(Duration::from_secs(120))
        .into_iter()
        .map(|(at, action)| {
            assert_eq!(action, ask(None));
            at.as_millis() as u64
        })
        .collect();
    let expected = [0, 250, 500, 1500, 3500, 7500, 15500, 31500, 61500, 91500];
    assert_eq!(asked, expected);
    assert!(matches!(bed.state(), State::Incomplete(10)));
}

#[test]
fn one_that_answers_is_asked_by_itself_now_and_then() {
    let mut bed = Bed::known(Probe::Keepalive);
    let mut pauses = Vec::new();
    for _ in 0..20 {
        pauses.push(bed.until_asked());
        let answer = Said {
            mac: None,
            ..ANSWER
        };
        bed.r.heard(ip(1), answer, bed.now);
        assert_eq!(bed.state(), State::Reachable);
    }
    let (least, most) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
    assert!(*least >= GOOD_FOR_LEAST && *most <= 2 * GOOD_FOR_LEAST);
    assert!(*most - *least > Duration::from_secs(5), "{pauses:?}");
}

const GOOD_FOR_LEAST: Duration = Duration::from_secs(15);

#[test]
fn one_that_stops_answering_is_lost_and_looked_for() {
    let mut bed = Bed::known(Probe::Keepalive);
    let seen = bed.pass(Duration::from_secs(34));
    let first = seen[0].0;
    assert!(first >= GOOD_FOR_LEAST && first <= 2 * GOOD_FOR_LEAST);
    let expected = [
        (first, ask(Some(MAC))),
        (first + ms(1000), ask(Some(MAC))),
        (first + ms(2000), ask(Some(MAC))),
        (first + ms(3000), LOST()),
        (first + ms(3000), ask(None)),
        (first + ms(3250), ask(None)),
    ];
    assert_eq!(seen[..6], expected);
    // Back at another place.
    bed.r.heard(
        ip(1),
        Said {
            mac: Some(OTHER),
            ..ANSWER
        },
        bed.now,
    );
    let back = Action::Resolved {
        address: ip(1),
        mac: OTHER,
    };
    assert_eq!(bed.pass(ms(0))[0].1, back);
}

#[test]
fn a_member_of_a_set_is_lost_within_a_second_whenever_it_dies() {
    for alive in (0..1000).step_by(37) {
        let mut bed = Bed::known(Probe::Fast);
        // It answers at once until it dies.
        let died = bed.now + ms(alive);
        while let Some(next) = bed.r.next().filter(|next| *next <= died) {
            bed.now = next;
            bed.r.tick(next);
            assert_eq!(bed.r.actions(), [ask(Some(MAC))]);
            bed.r.heard(ip(1), ANSWER, next);
        }
        bed.now = died;
        let seen = bed.pass(ms(999));
        assert!(seen.iter().any(|(_, a)| *a == LOST()), "{alive}: {seen:?}");
        // Asked on, mostly by itself, and back with the first answer.
        let seen = bed.pass(Duration::from_secs(10));
        let to_all = seen.iter().filter(|(_, a)| *a == ask(None)).count();
        assert!(
            (45..=55).contains(&seen.len()) && (9..=11).contains(&to_all),
            "{seen:?}"
        );
        bed.r.heard(
            ip(1),
            Said {
                mac: None,
                ..ANSWER
            },
            bed.now,
        );
        let resolved = Action::Resolved {
            address: ip(1),
            mac: MAC,
        };
        assert_eq!(bed.r.actions(), [resolved]);
    }
}

#[test]
fn a_member_of_a_set_that_answers_is_never_lost() {
    let mut bed = Bed::known(Probe::Fast);
    let mut asked = 0;
    while bed.now < bed.start + Duration::from_secs(60) {
        bed.now = bed.r.next().unwrap();
        bed.r.tick(bed.now);
        assert_eq!(bed.r.actions(), [ask(Some(MAC))]);
        asked += 1;
        // Two of three answers are lost on the way.
        if asked % 3 == 0 {
            bed.r.heard(ip(1), ANSWER, bed.now);
        }
    }
    assert!((290..=310).contains(&asked), "{asked}");
}

#[test]
fn what_packets_ask_for_is_given_up_soon_and_kept_while_it_answers() {
    let mut bed = Bed::new();
    assert!(bed.r.demand(ip(1), bed.now));
    let seen = bed.pass(Duration::from_secs(5));
    let at = |n| (ms(n), ask(None));
    assert_eq!(seen, [at(0), at(250), at(500)]);
    assert!(bed.r.is_empty(), "given up");

    bed.r.demand(ip(1), bed.now);
    bed.r.heard(ip(1), ANSWER, bed.now);
    bed.r.actions();
    for _ in 0..10 {
        bed.until_asked();
        bed.r.heard(ip(1), ANSWER, bed.now);
    }
    assert_eq!(bed.state(), State::Reachable);
    let seen = bed.pass(Duration::from_secs(40));
    assert_eq!(seen.last().map(|(_, a)| *a), Some(LOST()));
    assert!(bed.r.is_empty());
}

#[test]
fn packets_cut_a_long_pause_short_but_do_not_make_a_storm() {
    let mut bed = Bed::new();
    bed.r.want(ip(1), Probe::Keepalive, bed.now);
    bed.pass(Duration::from_secs(100));
    let mut asked = 0;
    for _ in 0..1000 {
        bed.r.demand(ip(1), bed.now);
        asked += bed.pass(ms(10)).len();
    }
    assert!((9..=12).contains(&asked), "{asked} questions in 10 s");
}

#[test]
fn what_neighbors_say_unasked() {
    let unasked = |mac, overrides| Said {
        mac: Some(mac),
        answer: false,
        overrides,
    };
    // It moves: believed at once, and verified.
    let mut bed = Bed::known(Probe::Keepalive);
    bed.r.heard(ip(1), unasked(OTHER, true), bed.now);
    let moved = Action::Resolved {
        address: ip(1),
        mac: OTHER,
    };
    let seen = bed.pass(ms(0));
    assert_eq!(seen, [(ms(0), moved), (ms(0), ask(Some(OTHER)))]);
    // Somebody else says so without overriding: not believed, and verified (RFC 4861, 7.2.5).
    let mut bed = Bed::known(Probe::Keepalive);
    bed.r.heard(ip(1), unasked(OTHER, false), bed.now);
    assert_eq!(bed.pass(ms(0)), [(ms(0), ask(Some(MAC)))]);
    // What was known already is no answer.
    let mut bed = Bed::known(Probe::Fast);
    bed.pass(ms(250));
    bed.r.heard(ip(1), unasked(MAC, true), bed.now);
    assert_eq!(bed.state(), State::Probing(1));
    // Nobody asked about this one.
    bed.r.heard(ip(2), ANSWER, bed.now);
    assert_eq!((bed.pass(ms(0)), bed.r.get(ip(2))), (vec![], None));
}

#[test]
fn an_answer_without_a_place_says_nothing_of_one_that_never_was() {
    let mut bed = Bed::new();
    bed.r.want(ip(1), Probe::Keepalive, bed.now);
    bed.r.heard(
        ip(1),
        Said {
            mac: None,
            ..ANSWER
        },
        bed.now,
    );
    assert!(matches!(bed.state(), State::Incomplete(0)));
}

#[test]
fn the_kernels_table_fills_in() {
    for (kernel, state) in [
        (Kernel::Reachable(MAC), State::Reachable),
        (Kernel::Stale(MAC), State::Probing(0)),
        (Kernel::Permanent(MAC), State::Permanent),
    ] {
        let mut bed = Bed::new();
        bed.r.want(ip(1), Probe::Keepalive, bed.now);
        bed.r.kernel(ip(1), kernel, bed.now);
        let resolved = Action::Resolved {
            address: ip(1),
            mac: MAC,
        };
        assert_eq!((bed.r.actions(), bed.state()), (vec![resolved], state));
        assert_eq!(bed.r.get(ip(1)).unwrap().source, Source::Kernel);
    }
}

#[test]
fn what_is_kept_by_hand_is_neither_asked_nor_lost_until_it_is_taken_back() {
    let mut bed = Bed::known(Probe::Keepalive);
    bed.r.kernel(ip(1), Kernel::Permanent(OTHER), bed.now);
    bed.r.actions();
    bed.r.heard(ip(1), ANSWER, bed.now);
    bed.r.kernel(ip(1), Kernel::Failed, bed.now);
    bed.r.kernel(ip(1), Kernel::Permanent(OTHER), bed.now);
    assert_eq!(
        bed.pass(Duration::from_secs(3600)),
        [(ms(0), ask(Some(OTHER)))][..0]
    );
}

#[test]
fn a_kernel_that_gets_no_answer_makes_us_ask() {
    let mut bed = Bed::known(Probe::Keepalive);
    bed.r.kernel(ip(1), Kernel::Failed, bed.now);
    assert_eq!(bed.pass(ms(0)), [(ms(0), ask(Some(MAC)))]);
    // And what it says of itself does not keep a member of a set alive.
    let mut bed = Bed::known(Probe::Fast);
    for _ in 0..10 {
        bed.r.kernel(ip(1), Kernel::Reachable(MAC), bed.now);
        bed.pass(ms(100));
    }
    assert!(matches!(bed.state(), State::Incomplete(_)));
}

#[test]
fn what_is_not_wanted_any_more_is_lost() {
    let mut bed = Bed::known(Probe::Keepalive);
    bed.r.unwant(ip(1));
    bed.r.unwant(ip(1));
    assert_eq!(bed.r.actions(), [LOST()]);
    assert!(bed.r.is_empty() && bed.r.next().is_none());
}

#[test]
fn nobody_is_there_while_the_link_is_down() {
    let resolved = Action::Resolved {
        address: ip(1),
        mac: MAC,
    };
    let mut bed = Bed::known(Probe::Keepalive);
    bed.r.want(ip(2), Probe::Keepalive, bed.now);
    bed.pass(Duration::from_secs(14));
    bed.r.link_down(bed.now);
    bed.r.heard(ip(1), ANSWER, bed.now);
    bed.r.kernel(ip(1), Kernel::Permanent(MAC), bed.now);
    let seen = bed.pass(Duration::from_secs(100));
    assert_eq!(seen, [(Duration::from_secs(14), LOST())]);
    // Back: known ones are taken to be there, and all are asked.
    bed.r.link_up(bed.now);
    let seen: Vec<Action> = bed.pass(ms(0)).into_iter().map(|(_, a)| a).collect();
    let of_second = Action::Ask {
        address: ip(2),
        to: None,
    };
    assert_eq!(seen, [resolved, ask(Some(MAC)), of_second]);
    // A member of a set is to answer first.
    let mut bed = Bed::known(Probe::Fast);
    bed.r.link_down(bed.now);
    bed.r.link_up(bed.now);
    let seen: Vec<Action> = bed.pass(ms(200)).into_iter().map(|(_, a)| a).collect();
    assert_eq!(seen, [LOST(), ask(None), ask(Some(MAC))]);
    bed.r.heard(ip(1), ANSWER, bed.now);
    assert_eq!(bed.r.actions(), [resolved]);
}

#[test]
fn thousands_of_nodes_make_no_storm() {
    let mut bed = Bed::new();
    for n in 0..5000 {
        assert!(bed.r.want(ip(n), Probe::Keepalive, bed.now));
    }
    for _ in 0..10 {
        let asked = bed.pass(Duration::from_secs(1)).len();
        assert!(
            (100..=221).contains(&asked),
            "{asked} questions to everyone"
        );
    }
    for n in 0..5000 {
        bed.r.heard(ip(n), ANSWER, bed.now);
    }
    bed.r.actions();
    let mut of_seconds = vec![0; 60];
    for asked in &mut of_seconds {
        for _ in 0..100 {
            for (_, action) in bed.pass(ms(10)) {
                let Action::Ask {
                    address,
                    to: Some(_),
                } = action
                else {
                    panic!("{action:?}");
                };
                *asked += 1;
                bed.r.heard(address, ANSWER, bed.now);
            }
        }
    }
    // 5000 in 22.5 s on average, from 15 s on.
    let all: u32 = of_seconds.iter().sum();
    assert!((9000..12_000).contains(&all), "{of_seconds:?}");
    assert!(of_seconds.iter().all(|n| *n < 600), "{of_seconds:?}");
}

#[test]
fn there_is_room_for_so_many() {
    let mut bed = Bed::new();
    for n in 0..MAX_ON_DEMAND as u16 {
        assert!(bed.r.demand(ip(n), bed.now));
    }
    bed.r.heard(ip(0), ANSWER, bed.now);
    bed.now += ms(1);
    assert!(bed.r.demand(ip(60000), bed.now), "the oldest goes");
    assert!(bed.r.get(ip(0)).is_some(), "but none that is known before");
    assert_eq!(bed.r.all().count(), MAX_ON_DEMAND);
    for n in 0..MAX as u16 {
        assert!(bed.r.want(ip(n), Probe::Keepalive, bed.now), "{n}");
    }
    assert!(!bed.r.want(ip(50000), Probe::Keepalive, bed.now));
    assert!(!bed.r.demand(ip(50000), bed.now));
    assert_eq!(bed.r.all().count(), MAX);
    for n in 0..MAX as u16 {
        bed.r.want(ip(n), Probe::Fast, bed.now);
    }
    let fast = bed.r.all().filter(|v| v.probe == Probe::Fast).count();
    assert_eq!(fast, MAX_FAST);
}

#[derive(Debug, Clone)]
enum Event {
    Want(u16, Probe),
    Unwant(u16),
    Demand(u16),
    Heard(u16, Said),
    Kernel(u16, Kernel),
    Link(bool),
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let who = 0..6u16;
    let mac = prop_oneof![Just(MAC), Just(OTHER)];
    let probe = prop_oneof![
        Just(Probe::OnDemand),
        Just(Probe::Keepalive),
        Just(Probe::Fast)
    ];
    let said = (
        proptest::option::of(mac.clone()),
        any::<bool>(),
        any::<bool>(),
    );
    let said = said.prop_map(|(mac, answer, overrides)| Said {
        mac,
        answer,
        overrides,
    });
    let kernel = prop_oneof![
        mac.clone().prop_map(Kernel::Permanent),
        mac.clone().prop_map(Kernel::Reachable),
        mac.prop_map(Kernel::Stale),
        Just(Kernel::Failed),
        Just(Kernel::Gone),
    ];
    prop_oneof![
        (who.clone(), probe).prop_map(|(w, p)| Event::Want(w, p)),
        who.clone().prop_map(Event::Unwant),
        who.clone().prop_map(Event::Demand),
        (who.clone(), said).prop_map(|(w, s)| Event::Heard(w, s)),
        (who, kernel).prop_map(|(w, k)| Event::Kernel(w, k)),
        any::<bool>().prop_map(Event::Link),
        (0..40_000u64).prop_map(Event::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whoever follows the actions knows exactly what the resolver says it knows; nothing is told twice; and everyone who
    /// is not kept by hand is asked again within half a minute.
    #[test]
    fn actions_tell_the_whole_story(events in proptest::collection::vec(event(), 1..60)) {
        let mut bed = Bed::new();
        let (mut told, mut down) = (BTreeMap::new(), false);
        for event in events {
            let seen = match event {
                Event::Want(w, probe) => { bed.r.want(ip(w), probe, bed.now); bed.pass(ms(0)) }
                Event::Unwant(w) => { bed.r.unwant(ip(w)); bed.pass(ms(0)) }
                Event::Demand(w) => { bed.r.demand(ip(w), bed.now); bed.pass(ms(0)) }
                Event::Heard(w, said) => { bed.r.heard(ip(w), said, bed.now); bed.pass(ms(0)) }
                Event::Kernel(w, kernel) => { bed.r.kernel(ip(w), kernel, bed.now); bed.pass(ms(0)) }
                Event::Link(up) => {
                    down = !up;
                    match up {
                        true => bed.r.link_up(bed.now),
                        false => bed.r.link_down(bed.now),
                    }
                    bed.pass(ms(0))
                }
                Event::Pass(time) => bed.pass(ms(time)),
            };
            let mut asked = 0;
            for (_, action) in seen {
                match action {
                    Action::Resolved { address, mac } => {
                        prop_assert_ne!(told.insert(address, mac), Some(mac), "told twice");
                    }
                    Action::Lost { address } => prop_assert!(told.remove(&address).is_some()),
                    Action::Ask { address, to } => {
                        asked += 1;
                        prop_assert!(bed.r.get(address).is_some() || to.is_some() || !told.contains_key(&address));
                    }
                }
            }
            prop_assert!(asked <= 6 * 5 * 41 + 60, "{} questions", asked);
            let known: BTreeMap<_, _> = bed.r.all().filter_map(|v| Some((v.address, v.mac?))).collect();
            prop_assert_eq!(&known, &told);
            prop_assert!(!down || (known.is_empty() && bed.r.next().is_none()));
            let next = bed.r.next();
            let waiting = bed.r.all().any(|v| v.state != State::Permanent);
            prop_assert!(down || !waiting || next.is_some_and(|n| n <= bed.now + 2 * GOOD_FOR_LEAST));
        }
    }
}
