// SPDX-License-Identifier: Apache-2.0
//! TCP leaves an AF_XDP port by a packet socket: together where the device or the kernel segments, else one by one, and all of it.

mod xdp_bed;

use std::collections::VecDeque;

use podswitch_datapath::frame::Frame;
use podswitch_datapath::port::xdp::Link;
use podswitch_host::ethtool::Ethtool;
use podswitch_host::link;
use podswitch_host::xdp::Mode;
use xdp_bed::{Attached, Bed, eventually, test_frame};

const HEADERS: usize = 54;
const EACH: usize = 100;
const COUNT: usize = 10;

/// Segments of a connection, as they are on the wire.
fn segments() -> Vec<Vec<u8>> {
    let segment = |n: usize| {
        let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 1, 0], [2, 0, 0, 0, 2, 0]);
        let (from, to) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let mut ip =
            etherparse::Ipv4Header::new(0, 9, etherparse::IpNumber::TCP, from, to).unwrap();
        ip.identification = 7 + n as u16;
        let ip = etherparse::IpHeaders::Ipv4(ip, Default::default());
        let mut tcp = etherparse::TcpHeader::new(4000, 80, (n * EACH) as u32, 1000);
        (tcp.ack, tcp.psh) = (true, n + 1 == COUNT);
        let mut bytes = Vec::new();
        let builder = builder.ip(ip).tcp_header(tcp);
        builder.write(&mut bytes, &[n as u8; EACH]).unwrap();
        bytes
    };
    (0..COUNT).map(segment).collect()
}

/// Their frames, with what the worker notes of them, and the tag of the port's VLAN.
fn frames(bed: &mut Bed, vlan: Option<u16>) -> VecDeque<Frame> {
    let frame = |bytes: Vec<u8>| {
        let mut frame = bed.pool.alloc_bytes(&bed.arena, &bytes).unwrap();
        let offload = &mut frame.offload;
        (offload.gso_type, offload.hdr_len, offload.gso_size) = (1, HEADERS as u16, EACH as u16);
        (offload.csum_start, offload.csum_offset) = (34, 16);
        assert!(vlan.is_none_or(|vlan| frame.push_tag(vlan)));
        frame
    };
    segments().into_iter().map(frame).collect()
}

/// A bed of one pod, whose veth's host end segments or not, and its port.
fn bed(segments: bool, wire: bool) -> (Bed, Attached) {
    bed_of(segments, wire, None)
}

fn bed_of(segments: bool, wire: bool, vlan: Option<u16>) -> (Bed, Attached) {
    let mut bed = Bed::new(Mode::Native, 1500, 1);
    let mut config = bed.config(0);
    (config.wire, config.vlan) = (wire, vlan);
    let attached = bed.attach_with(0, &config);
    assert!(attached.port.caps().joins_segments);
    let set = || {
        let ethtool = Ethtool::open().unwrap();
        // A wire carries whole checksums.
        let features = [
            ("tx-tcp-segmentation", segments),
            ("tx-checksum-ip-generic", !wire),
        ];
        ethtool.set_features("pod0", &features)
    };
    bed.node.netns().run(set).unwrap().unwrap();
    (bed, attached)
}

/// Sends them, with a frame of no connection among them, and says what the pod got of each kind.
fn send(bed: &mut Bed, a: &mut Attached) -> Vec<Vec<u8>> {
    let mut outbox = frames(bed, a.port.caps().vlan);
    let other = bed.frame(200, 5);
    outbox.insert(3, other);
    assert_eq!(a.port.transmit(a.id, &mut bed.pool, &mut outbox), COUNT + 1);
    assert!(outbox.is_empty());
    a.port.kick();
    let bytes = |all: &[Vec<u8>]| -> usize { all.iter().map(|f| f.len() - HEADERS).sum() };
    let (mut streams, mut others) = (Vec::new(), Vec::new());
    eventually("all arrives", || {
        while let Some(frame) = bed.pods[0].raw.try_receive() {
            match frame[12..14] == [8, 0] {
                true => streams.push(frame),
                false => others.push(frame),
            }
        }
        bytes(&streams) == COUNT * EACH && !others.is_empty()
    });
    assert_eq!(others, [test_frame(200, 5)]);
    assert_eq!(a.port.counters().tx_refused, 0);
    streams
}

fn close(mut bed: Bed, attached: Attached) {
    bed.close(attached);
    bed.assert_all_free();
}

#[test]
fn a_pod_gets_them_as_one() {
    let (mut bed, mut a) = bed(true, false);
    let got = send(&mut bed, &mut a);
    assert_eq!(got.len(), 1);
    let payload: Vec<u8> = segments()
        .iter()
        .flat_map(|s| s[HEADERS..].to_vec())
        .collect();
    assert_eq!(got[0][HEADERS..], payload);
    assert_eq!(a.port.counters().tx_joined, COUNT as u64);
    close(bed, a);
}

#[test]
fn a_pods_device_that_does_not_segment_gets_them_one_by_one() {
    let (mut bed, mut a) = bed(false, false);
    assert_eq!(send(&mut bed, &mut a), segments());
    assert_eq!(a.port.counters().tx_joined, 0);
    close(bed, a);
}

#[test]
fn the_kernel_segments_for_a_wire() {
    let (mut bed, mut a) = bed(false, true);
    assert_eq!(send(&mut bed, &mut a), segments());
    assert_eq!(a.port.counters().tx_joined, COUNT as u64);
    close(bed, a);
}

/// The stack at the other end takes the tag out of what it hears.
#[test]
fn the_kernel_segments_what_is_of_a_vlan() {
    let (mut bed, mut a) = bed_of(false, true, Some(7));
    assert_eq!(send(&mut bed, &mut a), segments());
    assert_eq!(a.port.counters().tx_joined, COUNT as u64);
    close(bed, a);
}

#[test]
fn they_wait_for_a_link_and_end_with_the_interface() {
    let (mut bed, mut a) = bed(true, false);
    link::set_up(&mut bed.links, "pod0", false).unwrap();
    let mut outbox = frames(&mut bed, None);
    assert_eq!(a.port.transmit(a.id, &mut bed.pool, &mut outbox), 0);
    assert_eq!((a.port.link(), outbox.len()), (Link::Down, COUNT));
    link::set_up(&mut bed.links, "pod0", true).unwrap();
    assert_eq!(a.port.transmit(a.id, &mut bed.pool, &mut outbox), COUNT);
    assert_eq!((a.port.link(), outbox.len()), (Link::Up, 0));
    link::delete(&mut bed.links, "pod0").unwrap();
    let mut outbox = frames(&mut bed, None);
    assert_eq!(a.port.transmit(a.id, &mut bed.pool, &mut outbox), 0);
    assert_eq!((a.port.link(), outbox.len()), (Link::Gone, 0));
    let counters = a.port.counters();
    assert_eq!(counters.tx_refused, COUNT as u64);
    assert_eq!(counters.tx_refused_bytes, (COUNT * (HEADERS + EACH)) as u64);
    close(bed, a);
}
