// SPDX-License-Identifier: Apache-2.0
//! The steering program: misses are dropped and counted, a successor's takes its place in one step, and what is behind it
//! keeps the pod out when it is gone.

mod xdp_bed;

use podswitch_datapath::port::xdp::{Probe, STEERING_NAME, Steering};
use podswitch_host::xdp::{self, Mode};
use podswitch_host::{addr, bpf, tc};
use xdp_bed::{Bed, RawSocket, bytes, eventually, features, test_frame};

fn missed(steering: &Steering) -> u64 {
    steering.counters().unwrap().missed
}

/// A pod whose switch is gone reaches nobody: the program drops and counts.
fn dead_switch(mode: Mode) {
    let mut bed = Bed::new(mode, 1500, 1);
    let host_side = RawSocket::open(bed.node.netns(), "pod0");
    let a = bed.attach(0);
    let id = a.steering.id().unwrap();
    drop(a.steering);
    // All descriptors of socket, program and maps are closed, as when the process dies.
    let closing = a.port.close(a.id, &mut bed.pool);
    let _ = closing.finish(xdp_bed::DEADLINE).settle(&mut bed.pool);
    for n in 0..3 {
        bed.pods[0].raw.send(&test_frame(100, n));
    }
    let left = Steering::open(id).unwrap();
    eventually("misses are counted", || missed(&left) == 3);
    assert_eq!(left.counters().unwrap().redirected, 0);
    assert!(host_side.try_receive().is_none(), "the host hears nothing");
    bed.assert_all_free();
}

#[test]
fn without_a_socket_frames_are_dropped_and_counted_in_native_mode() {
    dead_switch(Mode::Native);
}

#[test]
fn without_a_socket_frames_are_dropped_and_counted_in_generic_mode() {
    dead_switch(Mode::Generic);
}

#[test]
fn a_program_is_found_again_by_its_id_and_takes_another_socket() {
    let mut bed = Bed::new(Mode::Native, 1500, 1);
    let a = bed.attach(0);
    let id = xdp::query(&mut bed.links, "pod0").unwrap().native.unwrap();
    assert_eq!(a.steering.id().unwrap(), id);
    assert_eq!(bpf::info(id).unwrap().name, STEERING_NAME);
    bed.pods[0].raw.send(&test_frame(100, 1));
    let mut a = a;
    let frames = a.receive(&mut bed.pool, 1);
    frames.into_iter().for_each(|f| bed.pool.free(f));
    bed.close(a);
    bed.pods[0].raw.send(&test_frame(100, 2));
    // A new start: a new socket, put into the map of the program that is still attached.
    let mut found = Steering::open(id).unwrap();
    eventually("the frame in between is counted", || missed(&found) == 1);
    let config = bed.config(0);
    let mut port = {
        let _guard = bed.node.netns().enter().unwrap();
        bed.umem.open(&config).unwrap()
    };
    port.reclaim(&mut bed.pool);
    found.insert(0, port.socket()).unwrap();
    bed.pods[0].raw.send(&test_frame(100, 3));
    let mut again = xdp_bed::Attached {
        id: config.id,
        port,
        steering: found,
    };
    let frames = again.receive(&mut bed.pool, 1);
    assert_eq!(bytes(&frames[0]), test_frame(100, 3));
    frames.into_iter().for_each(|f| bed.pool.free(f));
    let counters = again.steering.counters().unwrap();
    assert_eq!((counters.redirected, counters.missed), (2, 1));
    again.steering.remove(0).unwrap();
    bed.pods[0].raw.send(&test_frame(100, 4));
    eventually("a removed socket gets nothing", || {
        missed(&again.steering) == 2
    });
    assert!(
        again.steering.insert(1, again.port.socket()).is_err(),
        "one queue"
    );
    bed.close(again);
    bed.assert_all_free();
}

#[test]
fn only_programs_of_ours_are_opened() {
    use std::os::fd::AsFd;
    let error = Steering::open(u32::MAX).err().unwrap().to_string();
    assert!(error.contains(&u32::MAX.to_string()), "{error}");
    let returns_two = [bpf::Instruction::return_value(2), bpf::Instruction::exit()];
    let other = bpf::load(bpf::ProgramType::SchedCls, "somebody", &returns_two).unwrap();
    let id = bpf::info_of(other.as_fd()).unwrap().id;
    let error = Steering::open(id).err().unwrap().to_string();
    assert!(error.contains("somebody"), "{error}");
}

#[test]
fn a_successors_program_replaces_the_first_without_losing_a_frame() {
    let mut bed = Bed::new(Mode::Native, 1500, 1);
    let mut a = bed.attach(0);
    let before = a.steering.id().unwrap();
    let mut received = 0;
    for round in 0..50u32 {
        bed.pods[0].raw.send(&test_frame(100, round));
        if round % 5 == 0 {
            let mut fresh = bed.loader.steering(1, None).unwrap();
            fresh.insert(0, a.port.socket()).unwrap();
            xdp::install(&mut bed.links, "pod0", fresh.fd(), Mode::Native).unwrap();
            a.steering = fresh;
        }
        for frame in a.poll(&mut bed.pool) {
            assert_eq!(bytes(&frame), test_frame(100, received));
            received += 1;
            bed.pool.free(frame);
        }
    }
    while received < 50 {
        for frame in a.receive(&mut bed.pool, 1) {
            assert_eq!(bytes(&frame), test_frame(100, received));
            received += 1;
            bed.pool.free(frame);
        }
    }
    assert_ne!(a.steering.id().unwrap(), before);
    assert_eq!(missed(&a.steering), 0);
    bed.close(a);
    bed.assert_all_free();
}

#[test]
fn the_drop_behind_the_program_holds_when_the_program_is_detached() {
    let mut bed = Bed::new(Mode::Native, 1500, 1);
    tc::deny(&mut bed.links, "pod0").unwrap();
    let mut a = bed.attach(0);
    // Both ways past it while the program is there.
    bed.pods[0].raw.send(&test_frame(100, 1));
    let frames = a.receive(&mut bed.pool, 1);
    a.send(&mut bed.pool, frames);
    assert_eq!(bed.pods[0].raw.receive(), test_frame(100, 1));
    xdp::detach(&mut bed.links, "pod0", Mode::Native).unwrap();
    // A route to the pod, so that the host's stack would answer it.
    let address = "10.99.0.1/24".parse().unwrap();
    addr::add(&mut bed.links, "pod0", address, addr::Options::default()).unwrap();
    let mut echo = test_frame(42, 0);
    arp_request(&mut echo, [10, 99, 0, 2], [10, 99, 0, 1]);
    bed.pods[0].raw.send(&echo);
    let received = || {
        podswitch_host::link::get(&mut bed.node.socket().unwrap(), "pod0")
            .unwrap()
            .stats
            .rx_packets
    };
    eventually("the frame has passed the device", || received() > 0);
    assert!(bed.pods[0].raw.try_receive().is_none(), "no answer");
    assert!(a.poll(&mut bed.pool).is_empty());
    bed.close(a);
    bed.assert_all_free();
}

/// So does a VLAN device in the pod.
#[test]
fn tags_left_to_the_device_are_in_the_frame() {
    for mtu in [1500, 9000] {
        let mut bed = Bed::new(Mode::Native, mtu, 1);
        let mut a = bed.attach(0);
        let mut inside = bed.pods[0].netns.socket().unwrap();
        tc::push_tag(&mut inside, "eth0", 0xa00a).unwrap();
        for len in [60, mtu as usize] {
            let plain = test_frame(len, 1);
            bed.pods[0].raw.send(&plain);
            let frames = a.receive(&mut bed.pool, 1);
            let expected = [&plain[..12], &[0x81, 0, 0xa0, 0x0a], &plain[12..]].concat();
            assert_eq!(bytes(&frames[0]), expected);
            frames.into_iter().for_each(|f| bed.pool.free(f));
        }
        bed.close(a);
        bed.assert_all_free();
    }
}

/// An ARP request (RFC 826) from `from` for `to`, in place.
fn arp_request(frame: &mut [u8], from: [u8; 4], to: [u8; 4]) {
    frame[0..6].fill(0xff);
    frame[12..14].copy_from_slice(&[0x08, 0x06]);
    frame[14..22].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    frame[22..28].copy_from_slice(&[0x02, 0, 0, 0, 8, 8]);
    frame[28..32].copy_from_slice(&from);
    frame[32..38].fill(0);
    frame[38..42].copy_from_slice(&to);
}

#[test]
fn the_probe_names_every_feature_and_leaves_no_namespace_behind() {
    let probe = Probe::run();
    let names: Vec<&str> = probe.rows.iter().map(|r| r.feature).collect();
    for name in [
        "kernel",
        "AF_XDP sockets",
        "AF_XDP memory from a memfd",
        "multi-buffer",
        "transmit metadata",
        "transmit budget",
        "shared AF_XDP memory",
        "XDP program with fragments",
        "VLAN tags left to devices",
        "huge pages",
    ] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    assert_eq!(probe.features().unwrap(), features());
    let table = probe.to_string();
    assert_eq!(table.lines().count(), probe.rows.len());
    println!("{table}");
}
