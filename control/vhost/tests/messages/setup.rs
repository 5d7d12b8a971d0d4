// SPDX-License-Identifier: Apache-2.0
//! Frontends that keep to the protocol.

use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;

use podswitch_datapath::port::vhost::feature;
use podswitch_vhost::{Mode, State};

use crate::bed::Bed;
use crate::driver::{Driver, Guest};
use crate::frontend::{
    ADD_MEM_REG, Frontend, GET_FEATURES, GET_MAX_MEM_SLOTS, GET_QUEUE_NUM, GET_VRING_BASE, MQ,
    Machine, REM_MEM_REG, REPLY_ACK, SET_FEATURES, SET_VRING_CALL, SET_VRING_ENABLE, SLOTS, USUAL,
    region, state,
};

const PACKED: u64 = USUAL | feature::RING_PACKED;
/// What is said of a packed queue that begins.
const BEGIN: u32 = 0x8000_8000;

#[test]
fn frames_pass_when_queues_are_set_up() {
    for features in [USUAL, PACKED] {
        let bed = Bed::new();
        assert_eq!(bed.state(), State::Waiting);
        let mut frontend = bed.connect();
        let mut machine = Machine::new(features == PACKED);
        machine.boot(&mut frontend, features);
        machine.echo(1);
        let ready = State::Connected {
            ready: true,
            features,
        };
        bed.wait_for(|s| *s == ready);
        drop(frontend);
        bed.wait_for(|s| *s == State::Waiting);
    }
}

/// As the first version of the protocol has it: no answers, nothing to enable.
#[test]
fn a_frontend_that_knows_no_more_than_the_first_version_is_served() {
    let bed = Bed::new();
    let mut frontend = bed.connect();
    let mut machine = Machine::new(false);
    frontend.agree(feature::VERSION_1, 0);
    frontend.tell_memory(&machine.memory);
    for (index, queue) in machine.queues.iter().enumerate() {
        let index = index as u32;
        frontend.say(8, &state(index, queue.size.into()), &[]);
        frontend.say(9, &crate::frontend::addresses(index, queue), &[]);
        let number = u64::from(index).to_ne_bytes();
        frontend.say(12, &number, &[queue.kick.as_fd()]);
    }
    machine.echo(1);
}

#[test]
fn a_queue_goes_on_where_it_was_stopped() {
    for features in [USUAL, PACKED] {
        let bed = Bed::new();
        let mut frontend = bed.connect();
        let mut machine = Machine::new(features == PACKED);
        machine.boot(&mut frontend, features);
        // More than once round the queue.
        (0..100).for_each(|n| machine.echo(n));
        let bases = [0, 1].map(|index| {
            let answer = frontend.ask(GET_VRING_BASE, &state(index, 0));
            assert_eq!(answer[..4], index.to_ne_bytes());
            u32::from_ne_bytes(answer[4..].try_into().unwrap())
        });
        let expected = match features {
            PACKED => BEGIN & !0x8000_8000 | 36 | 36 << 16,
            _ => 100,
        };
        assert_eq!(bases, [expected; 2]);
        bed.wait_for(|s| matches!(s, State::Connected { ready: false, .. }));
        machine.start(&mut frontend, bases);
        (0..100).for_each(|n| machine.echo(n));
    }
}

/// virtio-user of DPDK says of a packed queue only where the next buffer is taken.
#[test]
fn a_packed_queue_begins_where_it_is_taken_from() {
    let bed = Bed::new();
    let mut frontend = bed.connect();
    let mut machine = Machine::new(true);
    frontend.agree(PACKED, REPLY_ACK);
    frontend.tell_memory(&machine.memory);
    machine.start(&mut frontend, [0x8000; 2]);
    machine.echo(1);
}

/// virtio-user of DPDK does so on a new connection, of what it had on the one before, and QEMU before the guest's driver is there.
#[test]
fn queues_may_be_disabled_and_enabled_before_anything_is_agreed_on() {
    let bed = Bed::new();
    let mut frontend = bed.connect();
    for index in 0..2 {
        frontend.say(SET_VRING_ENABLE, &state(index, 0), &[]);
        frontend.ask(GET_VRING_BASE, &state(index, 0));
        frontend.say(SET_VRING_ENABLE, &state(index, 1), &[]);
    }
    let mut machine = Machine::new(false);
    machine.boot(&mut frontend, USUAL);
    machine.echo(1);
}

#[test]
fn a_queue_that_is_disabled_waits() {
    let bed = Bed::new();
    let mut frontend = bed.connect();
    let mut machine = Machine::new(false);
    machine.boot(&mut frontend, USUAL);
    machine.echo(1);
    for index in 0..2 {
        frontend.say(SET_VRING_ENABLE, &state(index, 0), &[]);
    }
    bed.wait_for(|s| matches!(s, State::Connected { ready: false, .. }));
    for index in 0..2 {
        frontend.say(SET_VRING_ENABLE, &state(index, 1), &[]);
    }
    machine.echo(2);
}

/// vhost-user, "Ring states": a driver has back what it sends, and nobody else has it.
#[test]
fn what_is_sent_by_a_queue_that_is_disabled_is_given_back() {
    for features in [USUAL, PACKED] {
        let bed = Bed::new();
        let mut frontend = bed.connect();
        let mut machine = Machine::new(features == PACKED);
        machine.boot(&mut frontend, features);
        machine.echo(1);
        frontend.say(SET_VRING_ENABLE, &state(1, 0), &[]);
        // More than once round the queue.
        (0..100).for_each(|_| machine.send_and_have_back());
        frontend.say(SET_VRING_ENABLE, &state(1, 1), &[]);
        machine.echo(2);
        // Also when it is stopped while it is disabled.
        frontend.say(SET_VRING_ENABLE, &state(1, 0), &[]);
        machine.send_and_have_back();
        let base = frontend.ask(GET_VRING_BASE, &state(1, 0));
        let base = u32::from_ne_bytes(base[4..].try_into().unwrap());
        frontend.start(1, &machine.queues[1], base);
        machine.echo(3);
        bed.wait_for(|s| matches!(s, State::Connected { ready: true, .. }));
    }
}

/// What it holds then was sent to a backend that was killed.
#[test]
fn what_is_in_a_queue_before_it_is_enabled_for_the_first_time_is_not_lost() {
    let mut bed = Bed::new();
    let mut frontend = bed.connect();
    let mut machine = Machine::new(false);
    machine.boot(&mut frontend, USUAL);
    machine.echo(1);
    bed.end();
    machine.send(2);
    let bed = Bed::new();
    let mut frontend = bed.connect();
    frontend.agree(USUAL, REPLY_ACK);
    frontend.tell_memory(&machine.memory);
    for (index, queue) in (0..).zip(&machine.queues) {
        frontend.set_up(index, queue, 0);
        frontend.say(SET_VRING_ENABLE, &state(index, 0), &[]);
    }
    for index in 0..2 {
        frontend.say(SET_VRING_ENABLE, &state(index, 1), &[]);
    }
    machine.has_back(2);
}

/// Of what a queue that is disabled goes by everything may change.
#[test]
fn a_queue_that_is_disabled_may_be_set_up_anew() {
    let bed = Bed::new();
    let mut frontend = bed.connect();
    let mut machine = Machine::new(false);
    machine.boot(&mut frontend, USUAL);
    machine.echo(1);
    for index in 0..2 {
        frontend.say(SET_VRING_ENABLE, &state(index, 0), &[]);
    }
    machine.send_and_have_back();
    let mut other = Machine::new(true);
    frontend.say(SET_FEATURES, &PACKED.to_ne_bytes(), &[]);
    frontend.tell_memory(&other.memory);
    other.start(&mut frontend, [BEGIN; 2]);
    other.echo(2);
}

/// A switch that was killed could not say where the queues stood. Their memory does.
#[test]
fn a_split_queue_goes_on_behind_a_backend_that_was_killed() {
    let mut bed = Bed::new();
    let mut frontend = bed.connect();
    let mut machine = Machine::new(false);
    machine.boot(&mut frontend, USUAL);
    (0..100).for_each(|n| machine.echo(n));
    bed.end();
    assert!(frontend.is_ended());
    // What it makes available meanwhile is not lost either.
    let bed = Bed::new();
    let mut frontend = bed.connect();
    machine.boot(&mut frontend, USUAL);
    (0..100).for_each(|n| machine.echo(n));
}

#[test]
fn a_frontend_that_was_killed_leaves_the_port_to_the_next() {
    let bed = Bed::new();
    for n in 0..3 {
        let mut frontend = bed.connect();
        let mut machine = Machine::new(n % 2 == 1);
        let features = if n % 2 == 1 { PACKED } else { USUAL };
        machine.boot(&mut frontend, features);
        machine.echo(n);
    }
}

#[test]
fn the_switch_connects_to_a_frontend_that_listens() {
    let bed = Bed::of(Mode::Client, 1);
    assert_eq!(bed.state(), State::Waiting);
    for n in 0..2 {
        let listener = UnixListener::bind(&bed.path).unwrap();
        let mut frontend = Frontend::new(listener.accept().unwrap().0);
        let mut machine = Machine::new(false);
        machine.boot(&mut frontend, USUAL);
        machine.echo(n);
        drop((frontend, listener));
        std::fs::remove_file(&bed.path).unwrap();
        bed.wait_for(|s| *s == State::Waiting);
    }
}

#[test]
fn memory_comes_and_goes_in_slots() {
    let bed = Bed::new();
    let mut frontend = bed.connect();
    let mut machine = Machine::new(false);
    frontend.agree(USUAL, REPLY_ACK | SLOTS);
    assert_eq!(frontend.ask_number(GET_MAX_MEM_SLOTS), 64);
    let slot = |guest: &Guest| [&[0; 8][..], &region(guest)].concat();
    let own = slot(&machine.memory);
    frontend.say(ADD_MEM_REG, &own, &[machine.memory.file.as_fd()]);
    machine.start(&mut frontend, [0; 2]);
    machine.echo(1);
    // Beside it; queues go on.
    let more = Guest::new(1 << 16);
    let mut beside = slot(&more);
    beside[8..16].copy_from_slice(&0x1_0000_0000u64.to_ne_bytes());
    beside[24..32].copy_from_slice(&0x7e00_0000_0000u64.to_ne_bytes());
    frontend.say(ADD_MEM_REG, &beside, &[more.file.as_fd()]);
    machine.echo(2);
    frontend.say(REM_MEM_REG, &beside, &[]);
    machine.echo(3);
    // That in which the queues are: they wait, and go on in what comes in its place.
    for n in 4..6 {
        frontend.say(REM_MEM_REG, &own, &[]);
        bed.wait_for(|s| matches!(s, State::Connected { ready: false, .. }));
        frontend.say(ADD_MEM_REG, &own, &[machine.memory.file.as_fd()]);
        machine.echo(n);
    }
}

#[test]
fn memory_may_change_under_queues_that_go_on() {
    let bed = Bed::new();
    let mut frontend = bed.connect();
    let mut machine = Machine::new(false);
    machine.boot(&mut frontend, USUAL);
    machine.echo(1);
    frontend.tell_memory(&machine.memory);
    machine.echo(2);
    // Another eventfd, as a guest that moves its interrupts gives.
    let other = Driver::new(&mut machine.memory, 4, false).call;
    frontend.say(SET_VRING_CALL, &0u64.to_ne_bytes(), &[other.as_fd()]);
    machine.echo(3);
}

#[test]
fn a_frontend_is_told_what_there_is() {
    let bed = Bed::of(Mode::Server, 1);
    let mut frontend = bed.connect();
    let offered = frontend.ask_number(GET_FEATURES);
    assert_eq!(offered, feature::OFFERED & !feature::MQ);
    let bed = Bed::of(Mode::Server, 4);
    let mut frontend = bed.connect();
    frontend.agree(USUAL | feature::MQ, MQ);
    assert_eq!(frontend.ask_number(GET_QUEUE_NUM), 4);
    frontend.say(SET_FEATURES, &feature::OFFERED.to_ne_bytes(), &[]);
    let all = State::Connected {
        ready: false,
        features: feature::OFFERED,
    };
    bed.wait_for(|s| *s == all);
}

#[test]
fn a_port_has_one_frontend_at_a_time() {
    let bed = Bed::new();
    let mut first = bed.connect();
    let mut machine = Machine::new(false);
    machine.boot(&mut first, USUAL);
    let mut second = bed.connect();
    assert!(second.is_ended());
    machine.echo(1);
    drop(first);
    bed.wait_for(|s| *s == State::Waiting);
    let mut third = bed.connect();
    Machine::new(false).boot(&mut third, USUAL);
}

#[test]
fn the_socket_goes_with_the_port() {
    let mut bed = Bed::new();
    let _frontend = bed.connect();
    assert!(bed.path.exists());
    bed.end();
    assert!(!bed.path.exists());
}
