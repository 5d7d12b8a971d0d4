// SPDX-License-Identifier: Apache-2.0
//! What a frontend has kept for it: which pages were written to, for a guest that moves, and where a packed queue stands, for the next backend.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use podswitch_datapath::port::vhost::feature::{EVENT_IDX, LOG_ALL, MRG_RXBUF, RING_PACKED};
use podswitch_datapath::port::vhost::{Backend, DirtyLog, Inflight, RingFault, inflight_bytes};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use crate::bed::{Bed, HEADER, USUAL, packet};
use crate::driver::GUEST;

const PAGE: u64 = 4096;
/// Bytes of a log that has a bit for each page of the guest.
const LOG: u64 = (GUEST + (1 << 20)) / PAGE / 8;

fn memory(bytes: u64) -> File {
    let file = File::from(memfd_create("kept", MemfdFlags::CLOEXEC).unwrap());
    ftruncate(&file, bytes).unwrap();
    file
}

/// A guest whose pages are noted from now on.
fn logged(bed: &mut Bed, file: &File) -> Backend {
    let regions = [bed.guest.region()];
    let mut backend = bed.backend(&regions);
    backend.log = Some(Arc::new(DirtyLog::new(file, 0, LOG).unwrap()));
    backend
}

/// The pages that are noted, from the first of the guest's on; and they are noted no more.
fn take(file: &File) -> Vec<u64> {
    let mut log = vec![0; LOG as usize];
    file.read_exact_at(&mut log, 0).unwrap();
    file.write_all_at(&vec![0; log.len()], 0).unwrap();
    let is = |page: &u64| log[(page / 8) as usize] & 1 << (page % 8) != 0;
    let pages = (0..LOG * 8).filter(is);
    pages.map(|page| page - GUEST / PAGE).collect()
}

/// All pages of the guest.
fn pages(bed: &Bed) -> Vec<Vec<u8>> {
    let all = bed.guest.read(GUEST, bed.guest.bytes as usize);
    all.chunks(PAGE as usize).map(<[u8]>::to_vec).collect()
}

#[test]
fn every_page_that_is_written_to_is_noted_and_no_other() {
    for features in [
        USUAL,
        USUAL | EVENT_IDX,
        USUAL | RING_PACKED,
        USUAL | RING_PACKED | EVENT_IDX,
    ] {
        let file = memory(LOG);
        let mut bed = Bed::new(features | LOG_ALL, 16);
        let backend = logged(&mut bed, &file);
        bed.publish(backend);
        // Buffers of two that lie apart, and one that stays empty.
        let mut places = Vec::new();
        for len in [3000, 9000, 5000] {
            bed.guest.room(5 * PAGE, PAGE);
            places.push((bed.guest_gives(len), u64::from(len)));
        }
        bed.guest_sends(&packet(2000, 7));
        take(&file);
        let before = pages(&bed);
        let sent = [packet(2000, 1), packet(8500, 2)];
        let frames = sent.each_ref().map(|p| bed.frame(p));
        let received = bed.receive();
        assert_eq!(bed.send(frames), 0);
        let after = pages(&bed);
        let noted = take(&file);
        let changed = (0..).zip(before.iter().zip(&after));
        let changed: Vec<u64> = changed
            .filter_map(|(page, (a, b))| (a != b).then_some(page))
            .collect();
        let missing: Vec<_> = changed.iter().filter(|p| !noted.contains(p)).collect();
        assert!(missing.is_empty(), "{missing:?} of {changed:?}");
        // What may have been written: frames with their headers, and the queues.
        let last_of_queues = bed.queues.iter().map(|q| q.used + 6 + 8 * 16).max();
        let lengths = sent.each_ref().map(|p| (p.len() + HEADER) as u64);
        let may = |page: u64| {
            let at = GUEST + page * PAGE;
            let written = places.iter().zip(lengths);
            at < last_of_queues.unwrap()
                || written
                    .into_iter()
                    .any(|((begin, _), len)| (begin & !(PAGE - 1)..begin + len).contains(&at))
        };
        assert!(noted.iter().all(|page| may(*page)), "{noted:?}");
        bed.bytes(received);
    }
}

#[test]
fn what_the_worker_says_before_it_sleeps_is_noted() {
    let file = memory(LOG);
    let mut bed = Bed::new(USUAL | LOG_ALL, 16);
    let backend = logged(&mut bed, &file);
    bed.publish(backend);
    take(&file);
    let before = pages(&bed);
    bed.port.doze(false);
    assert_ne!(pages(&bed), before);
    let queue = (bed.queues[1].used - GUEST) / PAGE;
    assert!(take(&file).contains(&queue));
}

#[test]
fn nothing_is_noted_in_a_log_that_was_cut() {
    let file = memory(LOG);
    let mut bed = Bed::new(USUAL | LOG_ALL, 16);
    let backend = logged(&mut bed, &file);
    bed.publish(backend);
    ftruncate(&file, 0).unwrap();
    bed.guest_gives(2000);
    let frame = bed.frame(&packet(100, 1));
    bed.send([frame]);
    let broken = bed.handle.take_broken().map(|b| b.fault);
    assert_eq!(broken, Some(RingFault::Lost));
}

/// A guest with packed queues whose backend has ended and told nobody where it stood.
fn killed(bed: &mut Bed, inflight: Option<&File>) -> Bed {
    let mut next = taken_over(bed);
    serve(&mut next, inflight);
    next
}

/// The same, not served so far.
fn taken_over(bed: &mut Bed) -> Bed {
    let mut next = Bed::new(USUAL | RING_PACKED, 16);
    std::mem::swap(&mut next.guest, &mut bed.guest);
    std::mem::swap(&mut next.queues, &mut bed.queues);
    next
}

fn serve(bed: &mut Bed, inflight: Option<&File>) {
    let backend = keeping(bed, inflight);
    bed.publish(backend);
}

/// The frontend knows nothing but how queues begin.
fn keeping(bed: &mut Bed, inflight: Option<&File>) -> Backend {
    let regions = [bed.guest.region()];
    let mut backend = bed.backend(&regions);
    let all = inflight.map(|file| Inflight::new(file, 0, (2, 16), true).unwrap());
    backend.inflight = all.map(Arc::new);
    backend
}

#[test]
fn the_next_backend_goes_on_where_a_packed_queue_stands() {
    let file = memory(inflight_bytes(2, 16, true));
    let mut bed = Bed::new(USUAL | RING_PACKED | MRG_RXBUF, 16);
    serve(&mut bed, Some(&file));
    for round in 0..40 {
        // Some are left from one backend to the next.
        for number in 0..3 {
            bed.guest_sends(&packet(60, 10 * round + number));
            bed.guest_gives(200);
        }
        let received = bed.receive();
        assert_eq!(received.len(), 3, "round {round}");
        let expected: Vec<_> = (0..3).map(|n| packet(60, 10 * round + n)).collect();
        assert_eq!(bed.bytes(received), expected);
        let frame = bed.frame(&packet(80, round));
        assert_eq!(bed.send([frame]), 0);
        for (queue, count) in [(1, 3), (0, 1)] {
            for _ in 0..count {
                bed.queues[queue].used(&bed.guest).expect("a buffer");
            }
        }
        let more = bed.queues[0].used(&bed.guest);
        assert_eq!(more, None);
        let rest = [(); 2].map(|()| bed.frame(&packet(80, round)));
        if round % 3 == 0 {
            bed = killed(&mut bed, Some(&file));
            let again = [(); 2].map(|()| bed.frame(&packet(80, round)));
            assert_eq!(bed.send(again), 0);
        } else {
            assert_eq!(bed.send(rest), 0);
        }
        for _ in 0..2 {
            bed.queues[0].used(&bed.guest).expect("a buffer");
        }
    }
}

/// Where the region of a queue says how far it is: next to be shown, and shown.
fn place(queue: u64) -> u64 {
    queue * (inflight_bytes(2, 16, true) / 2) + 16
}

/// A backend ends while it shows what it has given back: the queue is as it was, has all but the first, or all, and the region is as it is then.
#[derive(Clone, Copy, Debug)]
enum Shown {
    Nothing,
    AllButTheFirst,
    All,
}

/// Puts a queue and its region back to the moment of the end, from what they were before and are now.
fn end_at(bed: &Bed, file: &File, queue: usize, shown: Shown, before: &(Vec<u8>, [u8; 8])) {
    let at = bed.queues[queue].descriptors;
    let ring = &before.0;
    match shown {
        Shown::Nothing => bed.guest.write(at, ring),
        Shown::AllButTheFirst => {
            let first = usize::from(u16::from_le_bytes([before.1[0], before.1[1]]));
            let slot = &ring[16 * first..16 * (first + 1)];
            bed.guest.write(at + 16 * first as u64, slot);
        }
        Shown::All => {}
    }
    let mut word = now(file, queue);
    word[2..4].copy_from_slice(&before.1[2..4]);
    word[5] = before.1[5];
    file.write_all_at(&word, place(queue as u64)).unwrap();
}

fn now(file: &File, queue: usize) -> [u8; 8] {
    let mut word = [0; 8];
    file.read_exact_at(&mut word, place(queue as u64)).unwrap();
    word
}

#[test]
fn what_was_about_to_be_shown_is_shown_by_the_next_backend() {
    for shown in [Shown::Nothing, Shown::AllButTheFirst, Shown::All] {
        let file = memory(inflight_bytes(2, 16, true));
        let mut bed = Bed::new(USUAL | RING_PACKED | MRG_RXBUF, 16);
        serve(&mut bed, Some(&file));
        // Twice round the queues, so that it comes to the end of a round in between.
        for round in 0..8 {
            let mut ids = Vec::new();
            for number in 0..3 {
                let sent = packet(60, 10 * round + number);
                let parts = bed.parts(&[&[0; HEADER][..], &sent].concat(), &[20]);
                ids.push(bed.queues[1].offer(&bed.guest, &parts, 0, None));
                bed.guest_gives(200);
            }
            let state = |bed: &Bed, queue: usize| {
                let ring = bed.guest.read(bed.queues[queue].descriptors, 16 * 16);
                (ring, now(&file, queue))
            };
            let before = [0, 1].map(|queue| state(&bed, queue));
            let frames = [(); 3].map(|()| bed.frame(&packet(80, round)));
            assert_eq!(bed.send(frames), 0);
            let received = bed.receive();
            assert_eq!(bed.bytes(received).len(), 3);
            for (queue, before) in before.iter().enumerate() {
                end_at(&bed, &file, queue, shown, before);
            }
            bed = killed(&mut bed, Some(&file));
            for id in ids {
                let used = bed.queues[1].used(&bed.guest);
                assert_eq!(used, Some((id, 0)), "{shown:?}, round {round}");
                let (_, written) = bed.queues[0].used(&bed.guest).expect("a buffer");
                assert_eq!(written, 80 + HEADER as u32);
            }
            assert!(bed.receive().is_empty(), "{shown:?}, round {round}");
        }
    }
}

#[test]
fn a_slot_that_the_driver_has_used_again_was_shown() {
    let file = memory(inflight_bytes(2, 16, true));
    let mut bed = Bed::new(USUAL | RING_PACKED | MRG_RXBUF, 16);
    serve(&mut bed, Some(&file));
    let before = (Vec::new(), now(&file, 1));
    for number in 0..16 {
        bed.guest_sends(&packet(60, number));
    }
    let received = bed.receive();
    assert_eq!(bed.bytes(received).len(), 16);
    for number in 0..16 {
        bed.queues[1].used(&bed.guest).expect("a buffer");
        bed.guest_sends(&packet(60, 16 + number));
    }
    end_at(&bed, &file, 1, Shown::All, &before);
    let mut next = taken_over(&mut bed);
    let backend = keeping(&mut next, Some(&file));
    next.handle.publish(backend);
    let received = next.receive();
    let expected: Vec<_> = (0..16).map(|n| packet(60, 16 + n)).collect();
    assert_eq!(next.bytes(received), expected);
}

#[test]
fn without_such_a_region_its_place_is_lost() {
    let mut bed = Bed::new(USUAL | RING_PACKED, 16);
    bed.guest_sends(&packet(60, 1));
    let received = bed.receive();
    assert_eq!(bed.bytes(received).len(), 1);
    bed.queues[1].used(&bed.guest).expect("the buffer");
    let mut next = killed(&mut bed, None);
    next.guest_sends(&packet(60, 2));
    assert!(next.receive().is_empty());
}
