// SPDX-License-Identifier: Apache-2.0
//! Bytes of frames that stay where the guest has them until they are on their way: what is copied once, and what is copied before it is looked at.

use std::collections::VecDeque;

use etherparse::PacketBuilder;
use podswitch_datapath::port::vhost::feature::{GUEST_CSUM, MRG_RXBUF, RING_PACKED, VERSION_1};
use proptest::prelude::*;

use crate::bed::{Bed, HEADER, ID, USUAL};
use crate::driver::GUEST;

/// What is copied of a long frame before it is judged.
const HEAD: usize = 192;
/// Shorter ones are copied whole.
const LONG: usize = 512;

/// A TCP or UDP packet of either family in a frame of `len` bytes.
fn plain(len: usize, tcp: bool, v6: bool) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let ip = match v6 {
        true => builder.ipv6([0xfd; 16], [0xfc; 16], 9),
        false => builder.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9),
    };
    let headers = if v6 { 54 } else { 34 };
    let transport = if tcp { 20 } else { 8 };
    let payload: Vec<u8> = (0..len - headers - transport)
        .map(|i| (i * 31 + i / 256) as u8)
        .collect();
    let mut bytes = Vec::new();
    match tcp {
        true => ip.tcp(4000, 80, 1, 1000).write(&mut bytes, &payload),
        false => ip.udp(4000, 80).write(&mut bytes, &payload),
    }
    .unwrap();
    bytes
}

/// A guest that has sent these bytes and then writes others over them, while the frame is under way.
struct Rewritten {
    bed: Bed,
    frames: Vec<podswitch_datapath::frame::Frame>,
    id: u16,
}

fn rewritten(features: u64, sent: &[u8], lengths: &[usize]) -> Rewritten {
    let mut bed = Bed::new(features, 64);
    let all = [&[0; HEADER][..], sent].concat();
    let parts = bed.parts(&all, lengths);
    let id = bed.queues[1].offer(&bed.guest, &parts, 0, None);
    let frames = bed.receive_lent();
    assert_eq!(frames.len(), 1);
    let others: Vec<u8> = all.iter().map(|b| !b).collect();
    bed.guest.write(parts[0].0, &others);
    Rewritten { bed, frames, id }
}

/// The head of what was sent, and the rest of what was written over it.
fn mixed(sent: &[u8]) -> Vec<u8> {
    let rest = sent[HEAD..].iter().map(|b| !b);
    sent[..HEAD].iter().copied().chain(rest).collect()
}

fn received(bed: &mut Bed, at: u64, len: usize) -> Vec<u8> {
    let (_, written) = bed.queues[0].used(&bed.guest).expect("a buffer");
    assert_eq!(written as usize, HEADER + len);
    bed.guest.read(at + HEADER as u64, len)
}

#[test]
fn a_guest_that_rewrites_its_frame_gets_nothing_but_another_payload() {
    for features in [USUAL, USUAL | RING_PACKED] {
        for (tcp, v6) in [(true, false), (false, true)] {
            for len in [LONG, 1514, 65_549] {
                let sent = plain(len, tcp, v6);
                let mut now = rewritten(features, &sent, &[]);
                let at = now.bed.guest_gives(70_000);
                assert_eq!(now.bed.queues[1].used(&now.bed.guest), None, "given back");
                assert_eq!(now.bed.send(now.frames), 0);
                assert_eq!(received(&mut now.bed, at, len), mixed(&sent));
                assert_eq!(now.bed.queues[1].used(&now.bed.guest), None, "given back");
                now.bed.port.release(&mut now.bed.pool);
                let used = now.bed.queues[1].used(&now.bed.guest);
                assert_eq!(used, Some((now.id, 0)));
                now.bed.assert_all_free();
            }
        }
    }
}

#[test]
fn what_is_fetched_is_the_guests_no_more() {
    let sent = plain(9000, true, false);
    let mut bed = Bed::new(USUAL, 64);
    bed.guest_sends(&sent);
    let mut frames = bed.receive_lent();
    assert_eq!(frames[0].segments(), 1);
    assert!(bed.pool.fetch(&mut frames[0]));
    assert_eq!(frames[0].segments(), 3);
    bed.port.release(&mut bed.pool);
    assert_eq!(bed.bytes(frames), [sent]);
}

#[test]
fn what_waits_for_buffers_can_be_fetched_and_sent_later() {
    let sent = plain(9000, true, false);
    let mut now = rewritten(USUAL, &sent, &[]);
    let mut outbox: VecDeque<_> = now.frames.into();
    let bed = &mut now.bed;
    assert_eq!(bed.port.transmit(ID, &mut bed.pool, &mut outbox), 0);
    assert!(bed.pool.fetch(&mut outbox[0]));
    bed.port.release(&mut bed.pool);
    let at = bed.guest_gives(10_000);
    assert_eq!(bed.port.transmit(ID, &mut bed.pool, &mut outbox), 1);
    assert_eq!(received(bed, at, sent.len()), mixed(&sent));
    bed.assert_all_free();
}

#[test]
fn without_chunks_nothing_is_fetched_and_nothing_lost() {
    let sent = plain(65_000, true, false);
    let mut bed = Bed::new(USUAL, 64);
    bed.guest_sends(&sent);
    let mut frames = bed.receive_lent();
    let others: Vec<_> = std::iter::from_fn(|| bed.pool.alloc(&bed.arena)).collect();
    assert!(!bed.pool.fetch(&mut frames[0]));
    assert_eq!(frames[0].len() as usize, sent.len());
    others.into_iter().for_each(|frame| bed.pool.free(frame));
    assert!(bed.pool.fetch(&mut frames[0]));
    bed.port.release(&mut bed.pool);
    assert_eq!(bed.bytes(frames), [sent]);
    bed.assert_all_free();
}

#[test]
fn a_padded_frame_loses_its_padding_wherever_it_is() {
    let sent = plain(2000, true, false);
    for len in [100, HEAD as u32, 193, 1900, 2000, 3000] {
        let mut bed = Bed::new(USUAL, 64);
        bed.guest_sends(&sent);
        let mut frames = bed.receive_lent();
        bed.pool.truncate(&mut frames[0], len);
        assert!(bed.pool.fetch(&mut frames[0]));
        bed.port.release(&mut bed.pool);
        let kept = sent.len().min(len as usize);
        assert_eq!(bed.bytes(frames), [&sent[..kept]]);
        bed.assert_all_free();
    }
}

#[test]
fn what_may_have_headers_further_on_is_copied_whole() {
    let plain = plain(1514, false, false);
    let with = |at: usize, byte: u8| {
        let mut other = plain.clone();
        other[at] = byte;
        other
    };
    let cases = [
        ("a tag", with(12, 0x81)),
        ("options", with(14, 0x46)),
        ("more fragments", with(20, 0x20)),
        ("a later fragment", with(21, 1)),
        ("ICMP", with(23, 1)),
        ("SCTP", with(23, 132)),
    ];
    for (what, sent) in cases {
        let mut now = rewritten(USUAL, &sent, &[]);
        now.bed.port.release(&mut now.bed.pool);
        assert_eq!(now.bed.bytes(now.frames), [sent], "{what}");
    }
    let extended = {
        let mut v6 = self::plain(1514, true, true);
        v6[20] = 0;
        v6
    };
    let mut now = rewritten(USUAL, &extended, &[]);
    now.bed.port.release(&mut now.bed.pool);
    assert_eq!(now.bed.bytes(now.frames), [extended]);
    let short = self::plain(LONG - 1, true, false);
    let mut now = rewritten(USUAL, &short, &[]);
    now.bed.port.release(&mut now.bed.pool);
    assert_eq!(now.bed.bytes(now.frames), [short]);
}

#[test]
fn a_checksum_that_the_receiver_does_not_finish_is_of_what_it_gets() {
    // It was offered to finish them, and has not taken that.
    let features = VERSION_1 | MRG_RXBUF | podswitch_datapath::port::vhost::feature::CSUM;
    assert_eq!(features & GUEST_CSUM, 0);
    let sent = plain(1514, false, false);
    let mut bed = Bed::new(features, 64);
    let mut header = [0; HEADER];
    // VIRTIO_NET_HDR_F_NEEDS_CSUM, of a UDP datagram.
    (header[0], header[6], header[8]) = (1, 34, 6);
    bed.guest_sends_with(header, &sent);
    let at = bed.guest_gives(2000);
    let frames = bed.receive_lent();
    assert!(frames[0].offload.partial_checksum);
    assert_eq!(bed.send(frames), 0);
    bed.port.release(&mut bed.pool);
    let got = received(&mut bed, at, sent.len());
    // Of the whole datagram, with what was in the field, which stands for the pseudo-header: 0 in one's complement.
    let datagram = [&got[34..], &sent[40..42]].concat();
    let sum = datagram.chunks(2).fold(0u32, |sum, word| {
        let sum = sum + u32::from(u16::from_be_bytes([word[0], word[1]]));
        (sum >> 16) + (sum & 0xffff)
    });
    assert_eq!(sum, 0xffff);
    bed.assert_all_free();
}

#[test]
fn what_is_lent_may_lie_in_several_regions() {
    let mut bed = Bed::new(USUAL, 16);
    let backend = bed.backend_of_halves();
    bed.publish(backend);
    let middle = GUEST + bed.guest.bytes / 2;
    let sent = plain(3000, false, false);
    let all = [&[0; HEADER][..], &sent].concat();
    for before in [100, HEADER as u64 + HEAD as u64, 1500] {
        bed.guest.write(middle - before, &all);
        let part = (middle - before, all.len() as u32);
        bed.queues[1].offer(&bed.guest, &[part], 0, None);
        let at = bed.guest_gives(4000);
        let frames = bed.receive_lent();
        assert_eq!(bed.send(frames), 0);
        bed.port.release(&mut bed.pool);
        assert_eq!(received(&mut bed, at, sent.len()), sent);
        bed.queues[1].used(&bed.guest).expect("the buffer");
    }
}

proptest! {
    #[test]
    fn frames_in_any_pieces_arrive_whole_in_any_buffers(
        len in LONG..20_000,
        tcp: bool,
        v6: bool,
        packed: bool,
        lengths in prop::collection::vec(0usize..5000, 0..6),
        size in 300u32..30_000,
    ) {
        let features = if packed { USUAL | RING_PACKED } else { USUAL };
        let sent = plain(len, tcp, v6);
        let mut bed = Bed::new(features, 128);
        let all = [&[0; HEADER][..], &sent].concat();
        let parts = bed.parts(&all, &lengths);
        bed.queues[1].offer(&bed.guest, &parts, 0, None);
        let needed = (len + HEADER).div_ceil(size as usize);
        let buffers: Vec<u64> = (0..needed).map(|_| bed.guest_gives(size)).collect();
        let frames = bed.receive_lent();
        prop_assert_eq!(frames.len(), 1);
        prop_assert_eq!(bed.send(frames), 0);
        bed.port.release(&mut bed.pool);
        let mut got = Vec::new();
        for at in buffers {
            let (_, written) = bed.queues[0].used(&bed.guest).expect("a buffer");
            got.extend(bed.guest.read(at, written as usize));
        }
        prop_assert!(got[HEADER..] == sent);
        bed.assert_all_free();
    }
}
