// SPDX-License-Identifier: Apache-2.0
//! Frontends and guests that do not keep to the protocol.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use podswitch_datapath::port::vhost::feature;
use podswitch_vhost::State;
use proptest::prelude::*;

use crate::bed::Bed;
use crate::driver::{Driver, Guest};
use crate::frontend::{
    ADD_MEM_REG, GET_FEATURES, GET_VRING_BASE, Machine, NET_SET_MTU, REM_MEM_REG, SET_FEATURES,
    SET_MEM_TABLE, SET_PROTOCOL_FEATURES, SET_VRING_ADDR, SET_VRING_CALL, SET_VRING_ENABLE,
    SET_VRING_KICK, SET_VRING_NUM, USUAL, addresses, message, region, state,
};

/// What ends a connection that has everything set up, by a name in the log.
fn fault(request: u32, body: &[u8], files: &[BorrowedFd<'_>]) -> String {
    let bed = Bed::new();
    let mut frontend = bed.connect();
    let mut machine = Machine::new(false);
    machine.boot(&mut frontend, USUAL);
    machine.echo(1);
    frontend.send(&message(request, 1, body), files);
    assert!(frontend.is_ended());
    let why = bed.wait_for_fault();
    // The next one finds the port as it was.
    let mut next = bed.connect();
    let mut machine = Machine::new(false);
    machine.boot(&mut next, USUAL);
    machine.echo(2);
    why
}

#[test]
fn a_queue_that_is_not_there_is_named() {
    for request in [SET_VRING_NUM, SET_VRING_ENABLE, GET_VRING_BASE] {
        let why = fault(request, &state(4, 1), &[]);
        assert!(why.ends_with(": queue 4; there are 4"), "{why}");
    }
    let guest = Machine::new(false);
    let why = fault(SET_VRING_ADDR, &addresses(200, &guest.queues[0]), &[]);
    assert_eq!(why, "SET_VRING_ADDR: queue 200; there are 4");
    let kick = guest.queues[0].kick.as_fd();
    let why = fault(SET_VRING_KICK, &255u64.to_ne_bytes(), &[kick]);
    assert_eq!(why, "SET_VRING_KICK: queue 255; there are 4");
}

#[test]
fn what_was_not_offered_cannot_be_chosen() {
    let chosen = USUAL | 1 << 27;
    let why = fault(SET_FEATURES, &chosen.to_ne_bytes(), &[]);
    assert_eq!(
        why,
        "SET_FEATURES: features 0x148008000, of which 0x8000000 were not offered"
    );
    let why = fault(SET_PROTOCOL_FEATURES, &(1u64 << 20).to_ne_bytes(), &[]);
    assert!(why.contains("of which 0x100000 were not offered"), "{why}");
    let why = fault(NET_SET_MTU, &1500u64.to_ne_bytes(), &[]);
    assert!(why.starts_with("NET_SET_MTU: "), "{why}");
    let why = fault(1000, &[], &[]);
    assert!(why.starts_with("request 1000: "), "{why}");
}

#[test]
fn a_queue_has_a_length() {
    for length in [0, 32769, 65536, u32::MAX] {
        let why = fault(SET_VRING_NUM, &state(0, length), &[]);
        let expected = format!("SET_VRING_NUM: a queue of {length} descriptors; it has 1 to 32768");
        assert_eq!(why, expected);
    }
    let why = fault(SET_VRING_ENABLE, &state(0, 2), &[]);
    assert_eq!(why, "SET_VRING_ENABLE: invalid parameters");
    let why = fault(SET_VRING_ENABLE, &[0; 12], &[]);
    assert_eq!(why, "SET_VRING_ENABLE: a message of 12 bytes; it has 8");
    // A split one is a power of two, which is known when it is started.
    let bed = Bed::new();
    let mut frontend = bed.connect();
    let machine = Machine::new(false);
    frontend.agree(USUAL, 0);
    frontend.tell_memory(&machine.memory);
    let mut odd = Driver::new(&mut Guest::new(1 << 16), 64, false);
    odd.size = 63;
    frontend.start(0, &odd, 0);
    let why = bed.wait_for_fault();
    assert!(why.contains("queue 0 of 63 descriptors at 0x"), "{why}");
}

#[test]
fn a_queue_is_in_the_memory_that_was_told_of() {
    let bed = Bed::new();
    let mut frontend = bed.connect();
    let mut machine = Machine::new(false);
    frontend.agree(USUAL, 0);
    frontend.tell_memory(&machine.memory);
    machine.queues[0].descriptors += machine.memory.bytes;
    frontend.start(0, &machine.queues[0], 0);
    let why = bed.wait_for_fault();
    assert!(
        why.starts_with("SET_VRING_ENABLE: queue 0 of 64 descriptors at 0x7f0000100000, "),
        "{why}"
    );
    // A region that is not there.
    let machine = Machine::new(false);
    let mut slot = [&[0; 8][..], &region(&machine.memory)].concat();
    slot[9] ^= 1;
    let why = fault(REM_MEM_REG, &slot, &[]);
    assert!(
        why.starts_with("REM_MEM_REG: there is no region of 1048576 bytes at 0x40000100"),
        "{why}"
    );
}

#[test]
fn what_a_queue_goes_by_stays_while_it_is_served() {
    let why = fault(SET_VRING_NUM, &state(1, 32), &[]);
    assert_eq!(
        why,
        "SET_VRING_NUM: its length to become 0x20 while queue 1 is served; it is 0x40"
    );
    let other = USUAL | feature::RING_PACKED;
    let why = fault(SET_FEATURES, &other.to_ne_bytes(), &[]);
    assert!(
        why.starts_with("SET_FEATURES: features to become 0x540008000 while queue 0 is served"),
        "{why}"
    );
}

/// More descriptors than a message may have: the kernel leaves some out, and the crate would wait for a rest that never comes.
#[test]
fn descriptors_that_were_left_out_hold_nobody_up() {
    let mut bed = Bed::new();
    let frontend = bed.connect();
    let machine = Machine::new(false);
    let file = machine.memory.file.as_fd();
    let words = [SET_MEM_TABLE, 1, 8].map(u32::to_ne_bytes).concat();
    frontend.send(&[&words[..], &[0; 8]].concat(), &[file; 40]);
    std::thread::sleep(Duration::from_millis(50));
    // The daemon ends a port of which a thread is stuck as it ends any.
    let begun = std::time::Instant::now();
    bed.end();
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    assert!(!bed.path.exists());
}

/// A frontend that lets nobody write to the eventfd by which its driver is called.
#[test]
fn a_frontend_that_holds_the_worker_up_loses_the_connection() {
    let bed = Bed::new();
    let mut frontend = bed.connect();
    let mut machine = Machine::new(false);
    machine.boot(&mut frontend, USUAL);
    machine.echo(1);
    let call = &machine.queues[1].call;
    let flags = rustix::fs::fcntl_getfl(call).unwrap();
    rustix::fs::fcntl_setfl(call, flags - rustix::fs::OFlags::NONBLOCK).unwrap();
    rustix::io::read(call, &mut [0; 8]).unwrap();
    rustix::io::write(call, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    let (memory, queue) = (&machine.memory, &mut machine.queues[1]);
    queue.ask_for_calls(memory, true, false);
    queue.offer(memory, &[(memory.region().guest, 60)], 0, None);
    assert_eq!(
        bed.wait_for_fault(),
        "queue 1: its eventfd lets nobody write to it"
    );
    let mut next = bed.connect();
    let mut machine = Machine::new(false);
    machine.boot(&mut next, USUAL);
    machine.echo(2);
}

#[test]
fn a_queue_is_told_of_before_it_is_started() {
    let bed = Bed::new();
    let mut frontend = bed.connect();
    let machine = Machine::new(false);
    frontend.agree(USUAL, 0);
    frontend.tell_memory(&machine.memory);
    let kick = machine.queues[0].kick.as_fd();
    frontend.say(SET_VRING_KICK, &0u64.to_ne_bytes(), &[kick]);
    frontend.say(SET_VRING_ENABLE, &state(0, 1), &[]);
    let why = bed.wait_for_fault();
    assert!(
        why.starts_with("SET_VRING_ENABLE: queue 0 of 0 descriptors at 0x0"),
        "{why}"
    );
}

#[test]
fn descriptors_are_what_they_should_be() {
    let null = File::open("/dev/null").unwrap();
    for request in [SET_VRING_KICK, SET_VRING_CALL] {
        let why = fault(request, &0u64.to_ne_bytes(), &[null.as_fd()]);
        assert!(
            why.ends_with(": descriptor of /dev/null, not an eventfd"),
            "{why}"
        );
    }
    let machine = Machine::new(false);
    let table = [&1u64.to_ne_bytes()[..], &region(&machine.memory)].concat();
    // A file that a page of which may have to be waited for.
    let slow = File::open("/proc/self/maps").unwrap();
    let why = fault(SET_MEM_TABLE, &table, &[slow.as_fd()]);
    assert!(
        why.contains("on a file system of type 0x9fa0: a worker would have to wait"),
        "{why}"
    );
    // None, and too many of them.
    let file = machine.memory.file.as_fd();
    for files in [&[][..], &[file, file]] {
        let why = fault(SET_MEM_TABLE, &table, files);
        assert!(why.starts_with("SET_MEM_TABLE: "), "{why}");
    }
    // Where none belongs.
    let why = fault(GET_FEATURES, &[], &[file]);
    assert!(why.starts_with("GET_FEATURES: "), "{why}");
}

#[test]
fn memory_is_in_its_file() {
    let machine = Machine::new(false);
    let told = region(&machine.memory);
    let file = machine.memory.file.as_fd();
    for (word, value, expected) in [
        (1, 0u64, "invalid message"),
        (1, 2 << 20, "the file is shorter"),
        (3, u64::MAX - 4096, "invalid message"),
        (0, u64::MAX - 4096, "invalid message"),
        (3, 1 << 40, "the file is shorter"),
    ] {
        let mut told = told.clone();
        told[8 * word..8 * word + 8].copy_from_slice(&value.to_ne_bytes());
        let table = [&1u64.to_ne_bytes()[..], &told].concat();
        let why = fault(SET_MEM_TABLE, &table, &[file]);
        assert!(why.contains(expected), "word {word} {value:#x}: {why}");
        let slot = [&[0; 8][..], &told].concat();
        let why = fault(ADD_MEM_REG, &slot, &[file]);
        assert!(
            why.starts_with("ADD_MEM_REG: "),
            "word {word} {value:#x}: {why}"
        );
    }
}

#[test]
fn a_message_that_does_not_end_is_not_waited_for() {
    let bed = Bed::new();
    for part in [5, 12, 15] {
        let mut frontend = bed.connect();
        let whole = message(SET_FEATURES, 1, &USUAL.to_ne_bytes());
        frontend.send(&whole[..part], &[]);
        assert_eq!(
            bed.wait_for_fault(),
            "it stopped in the middle of a message"
        );
        assert!(frontend.is_ended());
        let mut next = bed.connect();
        next.ask_number(GET_FEATURES);
        drop(next);
        bed.wait_for(|s| *s == State::Waiting);
    }
}

/// One that is killed in the middle of a message has gone as any other, and is not waited for.
#[test]
fn a_message_whose_frontend_has_gone_is_not_waited_for() {
    let bed = Bed::new();
    for part in [5, 12, 15] {
        let frontend = bed.connect();
        bed.wait_for(|s| matches!(s, State::Connected { .. }));
        let whole = message(SET_FEATURES, 1, &USUAL.to_ne_bytes());
        frontend.send(&whole[..part], &[]);
        drop(frontend);
        let state = bed.wait_for(|s| !matches!(s, State::Connected { .. }));
        assert_eq!(state, State::Waiting, "after {part} bytes");
    }
}

#[test]
fn a_frontend_that_reads_no_answers_is_not_waited_for() {
    let bed = Bed::new();
    let frontend = bed.connect();
    let wait = Some(Duration::from_millis(100));
    frontend.stream.set_write_timeout(wait).unwrap();
    let many = message(GET_FEATURES, 1, &[]).repeat(1000);
    let mut all = 0;
    // Both ways are full in the end.
    while all < 1000 && !matches!(bed.state(), State::Faulted(_)) {
        frontend.send(&many, &[]);
        all += 1;
    }
    assert_eq!(bed.wait_for_fault(), "it does not read its answers");
}

#[test]
fn a_driver_that_breaks_a_rule_loses_the_connection() {
    let bed = Bed::new();
    let mut frontend = bed.connect();
    let mut machine = Machine::new(false);
    machine.boot(&mut frontend, USUAL);
    machine.echo(1);
    let (memory, queue) = (&machine.memory, &mut machine.queues[1]);
    queue.offer(memory, &[(0x1000, 60)], 0, None);
    assert!(frontend.is_ended());
    assert_eq!(
        bed.wait_for_fault(),
        "queue 1: 12 bytes at 0x1000 are not memory of the guest"
    );
    let mut next = bed.connect();
    let mut machine = Machine::new(false);
    machine.boot(&mut next, USUAL);
    machine.echo(2);
}

#[test]
fn memory_whose_file_is_cut_ends_the_connection_alone() {
    let bed = Bed::new();
    let mut frontend = bed.connect();
    let mut machine = Machine::new(false);
    machine.boot(&mut frontend, USUAL);
    machine.echo(1);
    machine.memory.file.set_len(0).unwrap();
    assert!(frontend.is_ended());
    let why = bed.wait_for_fault();
    assert!(
        why.ends_with("the file behind the guest's memory was cut"),
        "{why}"
    );
}

fn messages() -> impl Strategy<Value = Vec<(u32, Vec<u8>, u8)>> {
    let number = prop_oneof![0u64..6, any::<u64>(), Just(USUAL), Just(feature::OFFERED)];
    let words = prop::collection::vec(number, 0..6);
    let words = words.prop_map(|words| words.into_iter().flat_map(u64::to_ne_bytes).collect());
    let body = prop_oneof![words, prop::collection::vec(any::<u8>(), 0..80)];
    prop::collection::vec((0u32..45, body, 0u8..4), 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is said, in whatever order, the port serves the next frontend.
    #[test]
    fn no_order_of_messages_harms_the_port(said in messages(), set_up in any::<bool>()) {
        let bed = Bed::new();
        let mut frontend = bed.connect();
        let machine = Machine::new(false);
        if set_up {
            machine.boot(&mut frontend, USUAL);
        }
        let event = machine.queues[0].kick.as_fd();
        let memory = machine.memory.file.as_fd();
        for (request, body, files) in &said {
            let files: &[BorrowedFd<'_>] = match files {
                0 => &[],
                1 => &[event],
                2 => &[memory],
                _ => &[memory, event],
            };
            frontend.send(&message(*request, 1, body), files);
        }
        drop(frontend);
        bed.wait_for(|s| !matches!(s, State::Connected { .. }));
        let mut next = bed.connect();
        let mut machine = Machine::new(false);
        machine.boot(&mut next, USUAL);
        machine.echo(1);
    }
}
