// SPDX-License-Identifier: Apache-2.0
//! What a frontend has its backend keep: a log of the pages that it writes to, and where packed queues stand.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use podswitch_datapath::port::vhost::feature;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use crate::bed::Bed;
use crate::driver::GUEST;
use crate::frontend::{
    Frontend, GET_INFLIGHT_FD, INFLIGHT_SHMFD, LOG_SHMFD, Machine, REPLY_ACK, SET_FEATURES,
    SET_INFLIGHT_FD, SET_LOG_BASE, SET_VRING_ADDR, USUAL, addresses, message,
};

const PACKED: u64 = USUAL | feature::RING_PACKED;
const PAGE: u64 = 4096;
/// Bytes of a log with a bit for each page of the guest, and where it is in its file.
const LOG: u64 = (GUEST + (1 << 20)) / PAGE / 8;
const OFFSET: u64 = 64;

fn memory(bytes: u64) -> File {
    let file = File::from(memfd_create("kept", MemfdFlags::CLOEXEC).unwrap());
    ftruncate(&file, bytes).unwrap();
    file
}

/// Has pages noted from now on, as QEMU does: the log, then the feature, then the queues once more.
fn log(frontend: &mut Frontend, machine: &Machine, features: u64, on: bool) {
    let features = features | if on { feature::LOG_ALL } else { 0 };
    frontend.say(SET_FEATURES, &features.to_ne_bytes(), &[]);
    for (index, queue) in (0..).zip(&machine.queues) {
        frontend.say(SET_VRING_ADDR, &addresses(index, queue), &[]);
    }
}

fn noted(file: &File) -> usize {
    let mut log = vec![0; LOG as usize];
    file.read_exact_at(&mut log, OFFSET).unwrap();
    file.write_all_at(&vec![0; log.len()], OFFSET).unwrap();
    log.iter().map(|byte| byte.count_ones() as usize).sum()
}

#[test]
fn pages_are_noted_while_a_guest_moves() {
    for features in [USUAL, PACKED] {
        let bed = Bed::new();
        let mut frontend = bed.connect();
        let mut machine = Machine::new(features == PACKED);
        frontend.agree(features, REPLY_ACK | LOG_SHMFD);
        machine.begin(&mut frontend, features);
        machine.echo(1);
        let file = memory(OFFSET + LOG);
        let told = [LOG, OFFSET].map(u64::to_ne_bytes).concat();
        let request = message(SET_LOG_BASE, 1, &told);
        frontend.send(&request, &[file.as_fd()]);
        assert_eq!(frontend.answer(SET_LOG_BASE), told);
        machine.echo(2);
        assert_eq!(noted(&file), 0, "it was not asked for so far");
        log(&mut frontend, &machine, features, true);
        machine.echo(3);
        assert!(noted(&file) > 0);
        log(&mut frontend, &machine, features, false);
        noted(&file);
        machine.echo(4);
        assert_eq!(noted(&file), 0, "it is not asked for any more");
        // Other features stay while queues are served.
        let other = features ^ feature::MRG_RXBUF;
        frontend.send(&message(SET_FEATURES, 1, &other.to_ne_bytes()), &[]);
        let why = bed.wait_for_fault();
        assert!(why.contains("features to become"), "{why}");
    }
}

#[test]
fn a_log_is_memory_and_as_long_as_it_is_said_to_be() {
    let short = memory(100);
    let other = File::open("/proc/self/maps").unwrap();
    for (file, expected) in [
        (
            &short,
            "SET_LOG_BASE: a log of written pages of 200 bytes at offset 0x40: the file is shorter",
        ),
        (&other, "SET_LOG_BASE: memory in /proc/"),
    ] {
        let bed = Bed::new();
        let mut frontend = bed.connect();
        frontend.agree(USUAL, LOG_SHMFD);
        let told = [200, OFFSET].map(u64::to_ne_bytes).concat();
        let request = message(SET_LOG_BASE, 1, &told);
        frontend.send(&request, &[file.as_fd()]);
        let why = bed.wait_for_fault();
        assert!(why.starts_with(expected), "{why}");
    }
}

/// `VhostUserInflight`: bytes, offset, queues and their length.
fn inflight(bytes: u64, queues: u16, length: u16) -> Vec<u8> {
    let mut all = [bytes, 0].map(u64::to_ne_bytes).concat();
    all.extend([queues, length].map(u16::to_ne_bytes).concat());
    all.extend([0; 4]);
    all
}

/// A frontend that has agreed on this, and has what is in flight kept.
fn keeping(bed: &Bed, features: u64) -> Frontend {
    let mut frontend = bed.connect();
    frontend.agree(features, REPLY_ACK | INFLIGHT_SHMFD);
    frontend
}

#[test]
fn the_next_daemon_goes_on_where_a_packed_queue_stands() {
    for features in [USUAL, PACKED] {
        let mut bed = Bed::new();
        let mut frontend = keeping(&bed, features);
        let mut machine = Machine::new(features == PACKED);
        let request = message(GET_INFLIGHT_FD, 1, &inflight(0, 2, 64));
        frontend.send(&request, &[]);
        let (told, file) = frontend.answer_with(GET_INFLIGHT_FD);
        let file = file.expect("memory");
        let bytes = u64::from_ne_bytes(told[..8].try_into().unwrap());
        // What follows is padding.
        assert_eq!(told[..20], inflight(bytes, 2, 64)[..20]);
        assert_eq!(file.metadata().unwrap().len(), bytes);
        frontend.say(SET_INFLIGHT_FD, &told, &[file.as_fd()]);
        machine.begin(&mut frontend, features);
        (0..100).for_each(|n| machine.echo(n));
        for _ in 0..3 {
            // It says nothing of where the queues stand, as if it were killed; the frontend begins as it did.
            bed.end();
            bed = Bed::new();
            frontend = keeping(&bed, features);
            frontend.say(SET_INFLIGHT_FD, &told, &[file.as_fd()]);
            machine.begin(&mut frontend, features);
            (0..30).for_each(|n| machine.echo(n));
        }
    }
}

#[test]
fn what_is_in_flight_is_of_queues_that_there_are() {
    let cases = [
        (0, 64, "of 0 queues of 64 descriptors"),
        (5, 64, "of 5 queues of 64 descriptors; there are 4 queues"),
        (2, 0, "of 2 queues of 0 descriptors"),
        (2, 40_000, "of 2 queues of 40000 descriptors"),
    ];
    for (queues, length, expected) in cases {
        let bed = Bed::new();
        let frontend = keeping(&bed, PACKED);
        let request = message(GET_INFLIGHT_FD, 1, &inflight(0, queues, length));
        frontend.send(&request, &[]);
        let why = bed.wait_for_fault();
        assert!(why.contains(expected) || why.contains("invalid"), "{why}");
    }
    let file = memory(4096);
    let told = inflight(4096, 4, 1024);
    let bed = Bed::new();
    let frontend = keeping(&bed, PACKED);
    let request = message(SET_INFLIGHT_FD, 1, &told);
    frontend.send(&request, &[file.as_fd()]);
    let why = bed.wait_for_fault();
    assert!(why.contains("too short for its queues"), "{why}");
}
