// SPDX-License-Identifier: Apache-2.0
//! A port of a tap device: what traffic control diverts into it comes in whole, and what leaves goes out of the interface.

mod xdp_bed;

use std::collections::VecDeque;

use podswitch_datapath::PortId;
use podswitch_datapath::frame::{Batch, Frame};
use podswitch_datapath::port::xdp::{ArenaPlan, Link};
use podswitch_datapath::port::{Port, TapPort};
use podswitch_host::xdp::Mode;
use podswitch_host::{link, tap, tc};
use xdp_bed::{Bed, bytes, eventually, features, test_frame};

const ID: PortId = PortId(0);

/// A port on the first pod's veth, and the device.
fn open(bed: &mut Bed) -> (Port, u32) {
    let interface = bed.pods[0].ifindex;
    let _guard = bed.node.netns().enter().unwrap();
    let tap = tap::create(&mut bed.links).unwrap();
    tc::divert(&mut bed.links, interface, tap.index).unwrap();
    let port = TapPort::open(tap.fd, bed.arena.clone(), interface, None, 512).unwrap();
    (Port::Tap(Box::new(port)), tap.index)
}

fn bed(mtu: u32) -> Bed {
    Bed::new(Mode::Native, mtu, 1)
}

/// What has come in, as far as the device tells.
fn receive(port: &mut Port, bed: &mut Bed) -> Vec<Frame> {
    port.announce();
    let mut batch = Batch::new();
    port.receive(ID, &mut bed.pool, &mut batch, 64);
    batch.drain().map(|packet| packet.frame).collect()
}

/// Receives as many frames.
#[track_caller]
fn receive_all(port: &mut Port, bed: &mut Bed, count: usize) -> Vec<Frame> {
    let mut all = Vec::new();
    eventually("the frames arrive", || {
        all.extend(receive(port, bed));
        all.len() >= count
    });
    all
}

fn close(port: Port, bed: &mut Bed) {
    drop(port.close(ID, &mut bed.pool));
    bed.assert_all_free();
}

#[test]
fn frames_of_every_size_come_in_and_go_out_as_they_are() {
    let mut bed = bed(65_535);
    let (mut port, _) = open(&mut bed);
    let sizes = [14, 60, 1514, 3839, 3840, 3841, 7680, 9014, 65_549];
    for (number, len) in sizes.into_iter().enumerate() {
        let sent = test_frame(len.max(18), number as u32);
        bed.pods[0].raw.send(&sent);
        let frame = receive_all(&mut port, &mut bed, 1).pop().unwrap();
        assert_eq!(bytes(&frame), sent, "{len} bytes in");
        assert!(!frame.offload.partial_checksum);
        let mut outbox = VecDeque::from([frame]);
        assert_eq!(port.transmit(ID, &mut bed.pool, &mut outbox), 1);
        assert_eq!(bed.pods[0].raw.receive(), sent, "{len} bytes out");
    }
    assert!(receive(&mut port, &mut bed).is_empty());
    assert!(!port.has_work());
    close(port, &mut bed);
}

/// Also in a worker without room: frames wait in the device.
#[test]
fn without_chunks_nothing_is_lost() {
    let plan = ArenaPlan {
        chunks: 24,
        ..ArenaPlan::new(1500, 1)
    };
    let mut bed = Bed::with(Mode::Native, 1500, 1, plan, features());
    let (mut port, _) = open(&mut bed);
    for number in 0..40 {
        bed.pods[0].raw.send(&test_frame(100, number));
    }
    let mut held = receive_all(&mut port, &mut bed, 7);
    eventually("chunks are short", || {
        held.extend(receive(&mut port, &mut bed));
        port.starved()
    });
    let mut numbers = Vec::new();
    while numbers.len() < 40 {
        for frame in held.drain(..) {
            numbers.push(bytes(&frame)[17]);
            bed.pool.free(frame);
        }
        held = receive(&mut port, &mut bed);
    }
    assert_eq!(numbers, (0..40).collect::<Vec<u8>>());
    assert!(port.counters().fill_starved > 0);
    close(port, &mut bed);
}

/// A device that somebody deletes, and a port that is told so.
#[test]
fn a_device_that_is_gone_ends_the_port() {
    let mut bed = bed(1500);
    let (mut port, index) = open(&mut bed);
    bed.pods[0].raw.send(&test_frame(100, 1));
    let frame = receive_all(&mut port, &mut bed, 1).pop().unwrap();
    link::delete(&mut bed.links, index).unwrap();
    // What is diverted to nowhere is dropped.
    bed.pods[0].raw.send(&test_frame(100, 2));
    eventually("the port notices", || {
        assert!(receive(&mut port, &mut bed).is_empty());
        port.link() == Link::Gone
    });
    let mut outbox = VecDeque::from([frame]);
    assert_eq!(port.transmit(ID, &mut bed.pool, &mut outbox), 0);
    assert!(outbox.is_empty());
    assert_eq!(port.counters().tx_refused, 1);
    close(port, &mut bed);
}
