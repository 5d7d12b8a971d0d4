// SPDX-License-Identifier: Apache-2.0
//! Frames between two pods through AF_XDP ports and a loop by hand, in native and generic mode.

mod xdp_bed;

use podswitch_datapath::PortId;
use podswitch_datapath::frame::Owner;
use podswitch_host::xdp::Mode;
use xdp_bed::{Bed, bytes, eventually, test_frame};

const LONGEST: usize = 65_549;

fn lengths(mtu: usize) -> Vec<usize> {
    [
        60, 61, 64, 1514, 3839, 3840, 3841, 7680, 7681, 9014, 30_000, 65_280, 65_281, LONGEST,
    ]
    .into_iter()
    .filter(|len| *len <= mtu + 14)
    .collect()
}

fn both_ways(mode: Mode, mtu: u32) {
    let mut bed = Bed::new(mode, mtu, 2);
    let mut a = bed.attach(0);
    let mut b = bed.attach(1);
    for (number, len) in lengths(mtu as usize).into_iter().enumerate() {
        let there = test_frame(len, number as u32);
        bed.pods[0].raw.send(&there);
        a.forward_one(&mut b, &mut bed.pool);
        assert!(bed.pods[1].raw.receive() == there, "{len} bytes there");
        let back = test_frame(len, 1000 + number as u32);
        bed.pods[1].raw.send(&back);
        b.forward_one(&mut a, &mut bed.pool);
        assert!(bed.pods[0].raw.receive() == back, "{len} bytes back");
    }
    let seen = lengths(mtu as usize).len() as u64;
    for side in [&a, &b] {
        assert_eq!(side.steering.counters().unwrap().redirected, seen);
        assert_eq!(side.steering.counters().unwrap().missed, 0);
        assert_eq!(side.port.kernel_drops().unwrap(), Default::default());
    }
    bed.assert_balanced();
    bed.close(a);
    bed.close(b);
    bed.assert_all_free();
}

#[test]
fn native_mode_carries_every_length_both_ways() {
    both_ways(Mode::Native, 65_535);
}

#[test]
fn generic_mode_carries_every_length_both_ways() {
    both_ways(Mode::Generic, 65_535);
}

#[test]
fn an_ordinary_mtu_works_in_both_modes() {
    both_ways(Mode::Native, 1500);
    both_ways(Mode::Generic, 1500);
}

/// Many frames, of mixed lengths, arrive whole and in order. The sender waits for the receiver, as no buffer on the way
/// is unlimited.
fn a_stream(mode: Mode) {
    const FRAMES: u32 = 5_000;
    const WINDOW: u32 = 24;
    let mut bed = Bed::new(mode, 9000, 2);
    let mut a = bed.attach(0);
    let mut b = bed.attach(1);
    let length = |n: u32| 60 + (n as usize * 379) % 8955;
    let (mut sent, mut received) = (0, 0);
    eventually("all frames arrive", || {
        while sent < FRAMES && sent < received + WINDOW {
            bed.pods[0].raw.send(&test_frame(length(sent), sent));
            sent += 1;
        }
        a.forward(&mut b, &mut bed.pool);
        while let Some(frame) = bed.pods[1].raw.try_receive() {
            assert!(
                frame == test_frame(length(received), received),
                "{received}"
            );
            received += 1;
        }
        received == FRAMES
    });
    assert_eq!(a.port.kernel_drops().unwrap(), Default::default());
    bed.close(a);
    bed.close(b);
    bed.assert_all_free();
}

#[test]
fn a_stream_arrives_in_order_in_native_mode() {
    a_stream(Mode::Native);
}

#[test]
fn a_stream_arrives_in_order_in_generic_mode() {
    a_stream(Mode::Generic);
}

#[test]
fn ports_of_one_arena_forward_without_a_copy() {
    let mut bed = Bed::new(Mode::Native, 9000, 2);
    let mut a = bed.attach(0);
    let mut b = bed.attach(1);
    let (area, _) = bed.arena.umem_area();
    let chunk = |at: *const u8| ((at as usize - area as usize) / 4096) as u32;
    bed.pods[0].raw.send(&test_frame(9000, 1));
    let frames = a.receive(&mut bed.pool, 1);
    let chunks: Vec<u32> = frames[0].iter().map(|s| chunk(s.as_ptr())).collect();
    assert_eq!(chunks.len(), 3);
    assert!(frames[0].is_of(b.port.arena()));
    // Between transmit and kick the kernel has the very chunks that the other socket received into.
    let mut outbox = frames.into();
    assert_eq!(b.port.transmit(b.id, &mut bed.pool, &mut outbox), 1);
    for chunk in chunks {
        assert_eq!(bed.arena.owner(chunk), (Owner::Transmit, PortId(1)));
    }
    assert_eq!(b.port.pending(), 3);
    assert!(!b.port.kick());
    assert_eq!(bed.pods[1].raw.receive(), test_frame(9000, 1));
    b.port.reclaim(&mut bed.pool);
    assert_eq!(b.port.pending(), 0);
    bed.close(a);
    bed.close(b);
    bed.assert_all_free();
}

#[test]
fn changed_and_grown_frames_leave_as_they_are() {
    let mut bed = Bed::new(Mode::Native, 9000, 2);
    let mut a = bed.attach(0);
    let mut b = bed.attach(1);
    bed.pods[0].raw.send(&test_frame(5000, 7));
    let mut frames = a.receive(&mut bed.pool, 1);
    let frame = &mut frames[0];
    assert!(frame.pull_front(14) && frame.push_front(18));
    frame.bytes_mut()[..18]
        .copy_from_slice(b"\x02\0\0\0\x09\x09\x02\0\0\0\x08\x08\x81\0\0\x07\x88\xb5");
    let expected = bytes(frame);
    assert_eq!(expected.len(), 5004);
    b.send(&mut bed.pool, frames);
    // The pod's stack takes the VLAN tag off into the frame's metadata, which a packet socket does not show.
    let got = bed.pods[1].raw.receive();
    let untagged = [&expected[..12], &expected[16..]].concat();
    assert!(got == untagged || got == expected, "{} bytes", got.len());
    bed.close(a);
    bed.close(b);
    bed.assert_all_free();
}
