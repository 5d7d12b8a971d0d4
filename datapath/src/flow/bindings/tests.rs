// SPDX-License-Identifier: Apache-2.0
use super::super::{State, Timeouts, Way};
use super::*;
use crate::flow::Signal;
use crate::ids::{PortId, VrfId};
use crate::wire::flow_key::map_v4;
use crate::wire::protocol;

const NODE: [u8; 16] = map([192, 0, 2, 1]);
const SIGNAL: Signal = Signal {
    protocol: protocol::UDP,
    bits: 0,
};

const fn map([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// From a pod's port to the DNS server of this number.
fn key(pod: u8, sport: u16, server: u8) -> FlowKey {
    let (src, dst) = (map_v4([10, 0, 0, pod]), map_v4([198, 51, 100, server]));
    FlowKey::new(VrfId(0), protocol::UDP, src, dst, sport, 53)
}

struct Bench {
    flows: FlowTable,
    binder: Binder,
}

impl Bench {
    fn new(ports: RangeInclusive<u16>) -> Bench {
        let bindings = Bindings::create(4096, ports, 7).unwrap();
        Bench {
            flows: FlowTable::create(4096, 9, Timeouts::default()).unwrap(),
            binder: Binder::new(Arc::new(bindings)),
        }
    }

    /// Binds a connection and has the flow table remember it; the port it got.
    fn begin(&mut self, key: &FlowKey) -> Result<u16, Unbound> {
        let id = self.binder.masquerade(&self.flows, key, NODE, 0)?;
        let conversation = Conversation::of(key, self.flows.seed());
        let way = Way {
            adjacency: 1,
            in_port: PortId(1),
            egress: None,
            ingress: None,
        };
        let state = State::first(SIGNAL).bound(conversation.from, id);
        self.flows.insert(&conversation, way, 1, state, 0).unwrap();
        Ok(self.bindings().known_as(id, key).unwrap().port)
    }

    fn end(&mut self, key: &FlowKey) {
        let conversation = Conversation::of(key, self.flows.seed());
        let found = self.flows.find_now(&conversation, 0).unwrap();
        self.flows.remove(&found);
    }

    fn bindings(&self) -> &Bindings {
        self.binder.bindings()
    }

    /// Who gets what a server sends to a port of the node.
    fn inside(&self, server: u8, port: u16) -> Option<(u8, u16)> {
        let mut outside = key(0, 0, server).reversed();
        (outside.dst, outside.dport) = (NODE, port);
        let (_, to) = self.bindings().find(&outside)?;
        Some((to.address[15], to.port))
    }
}

#[test]
fn an_end_is_known_by_one_port_to_all_it_talks_to() {
    let mut b = Bench::new(61_000..=61_999);
    let port = b.begin(&key(1, 4000, 1)).unwrap();
    assert!((61_000..=61_999).contains(&port));
    for server in 2..200 {
        assert_eq!(b.begin(&key(1, 4000, server)), Ok(port));
    }
    assert_eq!(b.inside(77, port), Some((1, 4000)));
    assert_eq!(b.inside(201, port), None, "never asked");
    // The same connection, again.
    assert_eq!(b.begin(&key(1, 4000, 1)), Ok(port));
    assert_eq!(b.bindings().count(), 199);
}

#[test]
fn no_two_ends_are_one_to_the_same_server_and_all_ports_are_used() {
    let mut b = Bench::new(61_000..=61_031);
    let mut ports: Vec<u16> = (0..32)
        .map(|n| b.begin(&key(n, 4000, 1)).unwrap())
        .collect();
    assert_eq!(b.begin(&key(32, 4000, 1)), Err(Unbound::NoPort));
    assert!(b.begin(&key(32, 4000, 2)).is_ok(), "to another server");
    for (n, port) in ports.iter().enumerate() {
        assert_eq!(b.inside(1, *port), Some((n as u8, 4000)));
    }
    // One that is over makes room.
    b.end(&key(7, 4000, 1));
    assert_eq!(b.begin(&key(33, 4000, 1)), Ok(ports[7]));
    assert_eq!(b.inside(1, ports[7]), Some((33, 4000)));
    ports.sort_unstable();
    assert_eq!(ports, (61_000..=61_031).collect::<Vec<_>>());
}

#[test]
fn bindings_that_no_connection_names_go() {
    let mut b = Bench::new(61_000..=65_535);
    for n in 0..1000 {
        b.begin(&key(1, 1000 + n, 1)).unwrap();
    }
    for n in 0..500 {
        b.end(&key(1, 1000 + n, 1));
    }
    assert_eq!(b.bindings().count(), 1000);
    b.binder.age(&b.flows, 0, 8192);
    assert_eq!(b.bindings().count(), 500);
    // All others are over by their silence.
    b.binder.age(&b.flows, 3_600_000, 8192);
    assert_eq!(b.bindings().count(), 0);
}

#[test]
fn a_binding_is_its_connections_alone() {
    let mut b = Bench::new(61_000..=61_999);
    let mine = key(1, 4000, 1);
    b.begin(&mine).unwrap();
    let conversation = Conversation::of(&mine, b.flows.seed());
    let state = b.flows.find_now(&conversation, 0).unwrap().state();
    let id = state.binding().unwrap();
    assert_eq!(state.binding_of(conversation.from), Some(id));
    assert_eq!(state.binding_of(1 - conversation.from), None);
    for other in [key(2, 4000, 1), key(1, 4001, 1), key(1, 4000, 2)] {
        assert_eq!(b.bindings().known_as(id, &other), None);
    }
}

#[test]
fn a_port_of_ones_own_choice_is_given_once() {
    let mut b = Bench::new(61_000..=61_999);
    let to = Endpoint {
        address: NODE,
        port: 8080,
    };
    let id = b.binder.bind(&b.flows, &key(1, 80, 1), to, 0).unwrap();
    assert_eq!(b.bindings().known_as(id, &key(1, 80, 1)), Some(to));
    let again = b.binder.bind(&b.flows, &key(1, 80, 1), to, 0);
    assert_eq!(again, Ok(id));
    // Nobody names it: whoever comes next has it.
    let other = b.binder.bind(&b.flows, &key(2, 80, 1), to, 0).unwrap();
    assert_eq!(b.bindings().known_as(other, &key(2, 80, 1)), Some(to));
    assert_eq!(b.bindings().count(), 1);
}

#[test]
fn bindings_outlive_the_process_that_made_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bindings-0");
    let open = |ports: RangeInclusive<u16>, seed, boot| {
        let bindings = Bindings::in_file(&path, 4096, ports, seed, boot).unwrap();
        Bench {
            flows: FlowTable::create(4096, 9, Timeouts::default()).unwrap(),
            binder: Binder::new(Arc::new(bindings)),
        }
    };
    let outside = |port| {
        let mut key = key(0, 0, 1).reversed();
        (key.dst, key.dport) = (NODE, port);
        key
    };
    let mut before = open(61_000..=61_999, 1, 5);
    let port = before.begin(&key(1, 4000, 1)).unwrap();
    assert!(!before.bindings().is_kept(&outside(port)));
    drop(before);

    let mut after = open(61_000..=61_999, 2, 5);
    assert_eq!(after.inside(1, port), Some((1, 4000)));
    assert!(after.bindings().is_kept(&outside(port)));
    // Nothing of the connection has been seen: it is kept, but not for ever.
    after.binder.age(&after.flows, 0, 8192);
    assert_eq!(after.bindings().count(), 1);
    // The connection goes on by the same port, and is one like others.
    assert_eq!(after.begin(&key(1, 4000, 1)), Ok(port));
    assert!(!after.bindings().is_kept(&outside(port)));
    drop(after);
    let mut later = open(61_000..=61_999, 3, 5);
    later.binder.age(&later.flows, 0, 1);
    later.binder.age(&later.flows, KEEP, 8192);
    assert_eq!(later.bindings().count(), 0);
    later.begin(&key(1, 4000, 1)).unwrap();
    drop(later);

    // Other ports, or another boot of the machine: nothing of it holds.
    assert_eq!(open(61_000..=61_998, 4, 5).bindings().count(), 0);
    open(61_000..=61_999, 4, 5).begin(&key(1, 4000, 1)).unwrap();
    assert_eq!(open(61_000..=61_999, 4, 6).bindings().count(), 0);
    // A file of another size.
    std::fs::write(&path, b"short").unwrap();
    assert_eq!(open(61_000..=61_999, 4, 6).bindings().count(), 0);
}

#[test]
fn what_is_kept_makes_room_when_ports_run_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bindings-0");
    let open = || {
        let bindings = Bindings::in_file(&path, 4096, 61_000..=61_003, 1, 5).unwrap();
        Bench {
            flows: FlowTable::create(4096, 9, Timeouts::default()).unwrap(),
            binder: Binder::new(Arc::new(bindings)),
        }
    };
    let mut before = open();
    for n in 0..4 {
        before.begin(&key(n, 4000, 1)).unwrap();
    }
    drop(before);
    let mut after = open();
    after.begin(&key(0, 4000, 1)).unwrap();
    after.begin(&key(9, 4000, 1)).unwrap();
    assert_eq!(after.bindings().count(), 4, "one of the others has gone");
}

/// What a client behind a service's address sends there, and a backend.
fn led() -> (FlowKey, Endpoint) {
    let backend = Endpoint {
        address: map_v4([10, 0, 0, 99]),
        port: 8053,
    };
    (key(1, 4000, 1), backend)
}

/// A connection to a service, which the flow table remembers.
fn begin_led(b: &mut Bench, backend: Endpoint, other: Option<BindingId>) -> BindingId {
    let outside = led().0;
    let id = b.binder.lead(&b.flows, &outside, backend, 0).unwrap();
    let inner = outside.with_destination(&backend);
    assert!(b.binder.claim(id, &inner.reversed(), other));
    let conversation = Conversation::of(&inner, b.flows.seed());
    let way = Way {
        adjacency: 1,
        in_port: PortId(1),
        egress: None,
        ingress: None,
    };
    let state = State::first(SIGNAL).bound(1 - conversation.from, id);
    b.flows.insert(&conversation, way, 1, state, 0).unwrap();
    id
}

#[test]
fn a_client_is_led_to_one_backend_at_a_time() {
    let mut b = Bench::new(RangeInclusive::new(1, 0));
    let (outside, backend) = led();
    let id = begin_led(&mut b, backend, None);
    assert_eq!(b.bindings().find(&outside), Some((id, backend)));
    let service = Endpoint {
        address: outside.dst,
        port: outside.dport,
    };
    let back = outside.with_destination(&backend).reversed();
    assert_eq!(b.bindings().known_as(id, &back), Some(service));
    // It may be led elsewhere at any time; what was is nobody's then.
    let other = Endpoint {
        port: 8054,
        ..backend
    };
    let id = begin_led(&mut b, other, None);
    assert_eq!(b.bindings().find(&outside), Some((id, other)));
    assert_eq!(b.bindings().known_as(id, &back), None);
    assert!(!b.binder.claim(id, &back, None));
}

#[test]
fn both_ends_of_a_connection_can_be_bound() {
    let mut b = Bench::new(61_000..=61_007);
    let (outside, backend) = led();
    let inner = outside.with_destination(&backend);
    let masqueraded = b.binder.masquerade(&b.flows, &inner, NODE, 0).unwrap();
    let id = begin_led(&mut b, backend, Some(masqueraded));
    assert_eq!(b.bindings().next(id), Some(masqueraded));
    let age = |b: &mut Bench| b.binder.age(&b.flows, 1, 8192);
    // What was made of late is not looked at.
    for n in 0..FRESH as u16 {
        let outside = key(2, n, 1);
        b.binder.lead(&b.flows, &outside, backend, 0).unwrap();
    }
    age(&mut b);
    assert_eq!(b.bindings().find(&outside), Some((id, backend)));
    assert!(b.bindings().known_as(masqueraded, &inner).is_some());
    b.end(&inner);
    age(&mut b);
    assert_eq!(b.bindings().find(&outside), None);
    assert_eq!(b.bindings().known_as(masqueraded, &inner), None);
}

#[test]
fn what_was_led_of_late_makes_no_room() {
    let mut b = Bench::new(RangeInclusive::new(1, 0));
    let backend = led().1;
    let all: Vec<_> = (0..FRESH as u16).map(|n| key(3, n, 1)).collect();
    for outside in &all {
        b.binder.lead(&b.flows, outside, backend, 0).unwrap();
        b.binder.age(&b.flows, 1, 8192);
    }
    let bindings = b.bindings();
    assert!(all.iter().all(|outside| bindings.find(outside).is_some()));
}
