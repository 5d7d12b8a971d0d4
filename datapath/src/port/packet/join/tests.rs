// SPDX-License-Identifier: Apache-2.0
//! What leaves together, cut again as a device would, is what there was.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::frame::{Arena, Pool};
use crate::ids::WorkerId;
use crate::wire::{parse, partial};

const VLAN: u16 = 100;

/// A segment to be made.
#[derive(Clone, Debug)]
struct Segment {
    flow: u8,
    payload: usize,
    flags: u8,
    window: u16,
    tos: u8,
    timestamp: u8,
    /// The stack left its checksum to the device.
    partial: bool,
    damaged: bool,
    /// Identifications left out before it, and sequence numbers.
    gap: u16,
    hole: u32,
}

const PLAIN_SEGMENT: Segment = Segment {
    flow: 0,
    payload: 100,
    flags: flags::ACK,
    window: 1000,
    tos: 0,
    timestamp: 1,
    partial: true,
    damaged: false,
    gap: 0,
    hole: 0,
};

/// What comes next in a flow.
#[derive(Default)]
struct Flow {
    seq: u32,
    id: u16,
}

/// Makes frames of segments. Even flows are of IPv4, every second of them without DF.
struct Bed {
    /// They leave with the tag of [`VLAN`].
    tagged: bool,
    pool: Pool,
    arena: Arc<Arena>,
    flows: BTreeMap<u8, Flow>,
}

impl Bed {
    fn new(tagged: bool) -> Bed {
        let arena = Arc::new(Arena::new(WorkerId(0), 256).unwrap());
        let mut pool = Pool::new(WorkerId(0));
        pool.add_arena(arena.clone());
        Bed {
            tagged,
            pool,
            arena,
            flows: BTreeMap::new(),
        }
    }

    /// The frame, marked, and its bytes as they are to be on the wire.
    fn frame(&mut self, s: &Segment) -> (Frame, Vec<u8>) {
        let flow = self.flows.entry(s.flow).or_insert(Flow {
            seq: 0xffff_fe00,
            id: 0xfffe,
        });
        flow.id = flow.id.wrapping_add(1 + s.gap);
        flow.seq = flow.seq.wrapping_add(s.hole);
        let mut bytes = segment(s, flow);
        flow.seq = flow.seq.wrapping_add(s.payload as u32);
        if s.damaged && s.payload > 0 {
            *bytes.last_mut().unwrap() ^= 0x10;
        }
        let whole = bytes.clone();
        let parsed = parse(&bytes, bytes.len() as u32, false).unwrap();
        let partial = s.partial && !s.damaged;
        if partial {
            let sum = partial::pseudo_sum(&bytes, &parsed).unwrap();
            let at = usize::from(parsed.l4 + tcp::CHECKSUM_OFFSET);
            bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        let mut frame = self.pool.alloc_bytes(&self.arena, &bytes).unwrap();
        frame.offload.partial_checksum = partial;
        frame.offload.csum_start = parsed.l4;
        frame.offload.csum_offset = tcp::CHECKSUM_OFFSET;
        mark(&mut frame, &parsed);
        assert!(is_marked(&frame));
        assert!(!self.tagged || frame.push_tag(VLAN));
        (frame, whole)
    }
}

/// The bytes of a segment, checksums right.
fn segment(s: &Segment, flow: &Flow) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let ip = match s.flow % 2 {
        0 => {
            let mut ip = etherparse::Ipv4Header::new(
                0,
                9,
                etherparse::IpNumber::TCP,
                [10, 0, 0, 1],
                [10, 0, 0, 2],
            )
            .unwrap();
            ip.dont_fragment = s.flow.is_multiple_of(4);
            ip.identification = flow.id;
            ip.ecn = etherparse::IpEcn::try_new(s.tos).unwrap();
            etherparse::IpHeaders::Ipv4(ip, Default::default())
        }
        _ => {
            let ip = etherparse::Ipv6Header {
                traffic_class: s.tos,
                next_header: etherparse::IpNumber::TCP,
                hop_limit: 9,
                source: [0xfd; 16],
                destination: [0xfc; 16],
                ..Default::default()
            };
            etherparse::IpHeaders::Ipv6(ip, Default::default())
        }
    };
    let mut tcp = etherparse::TcpHeader::new(4000 + u16::from(s.flow), 80, flow.seq, s.window);
    tcp.acknowledgment_number = 7;
    tcp.ack = s.flags & flags::ACK != 0;
    tcp.psh = s.flags & flags::PSH != 0;
    tcp.fin = s.flags & flags::FIN != 0;
    tcp.syn = s.flags & flags::SYN != 0;
    tcp.cwr = s.flags & flags::CWR != 0;
    tcp.ece = s.flags & flags::ECE != 0;
    tcp.set_options_raw(&[1, 1, 8, 10, 0, 0, 0, s.timestamp, 5, 6, 7, 8])
        .unwrap();
    let payload: Vec<u8> = (0..s.payload)
        .map(|i| (i * 7 + flow.seq as usize) as u8)
        .collect();
    let mut bytes = Vec::new();
    builder
        .ip(ip)
        .tcp_header(tcp)
        .write(&mut bytes, &payload)
        .unwrap();
    bytes
}

/// What a device makes of a superframe.
fn cut(headers: &[u8], payload: &[u8], size: usize) -> Vec<Vec<u8>> {
    let l4 = match headers[14] >> 4 {
        4 => 34,
        _ => 54,
    };
    let count = payload.len().div_ceil(size);
    let piece = |(i, data): (usize, &[u8])| {
        let mut bytes = [headers, data].concat();
        let packet = bytes.len() - eth::HEADER_LEN;
        let network = &mut bytes[eth::HEADER_LEN..l4];
        match Ipv4Header::read_mut(network).filter(|_| l4 == 34) {
            Some(ip) => {
                ip.total_length.set(packet as u16);
                ip.id.set(ip.id.get().wrapping_add(i as u16));
                ipv4::fill_checksum(network);
            }
            None => Ipv6Header::read_mut(network)
                .unwrap()
                .payload_length
                .set((packet - ipv6::HEADER_LEN) as u16),
        }
        let tcp = TcpHeader::read_mut(&mut bytes[l4..]).unwrap();
        tcp.seq.set(tcp.seq.get().wrapping_add((i * size) as u32));
        if i + 1 < count {
            tcp.flags &= !LAST;
        }
        finish(&mut bytes);
        bytes
    };
    payload.chunks(size).enumerate().map(piece).collect()
}

/// Fills the transport checksum.
fn finish(bytes: &mut [u8]) {
    let parsed = parse(bytes, bytes.len() as u32, false).unwrap();
    let sum = partial::pseudo_sum(bytes, &parsed).unwrap();
    let (start, offset) = (parsed.l4, tcp::CHECKSUM_OFFSET);
    let at = usize::from(start + offset);
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    let len = bytes.len() as u32;
    assert!(partial::fill(
        partial::PartialChecksum { start, offset },
        len,
        [bytes]
    ));
}

/// A frame without the tag that it has, if it is to have one.
fn untagged(mut bytes: Vec<u8>, tagged: bool) -> Vec<u8> {
    if tagged {
        let tag: Vec<u8> = bytes.drain(12..16).collect();
        assert_eq!(tag, [0x81, 0, 0, VLAN as u8]);
    }
    bytes
}

/// What each group is on the wire, in order, but for the tags.
fn sent(plan: &Plan, frames: &[Frame], tagged: bool) -> Vec<Vec<u8>> {
    let bytes = |at: usize| frames[at].iter().flatten().copied().collect::<Vec<u8>>();
    let mut out = Vec::new();
    for group in plan.groups() {
        let places: Vec<usize> = plan.frames_of(group).collect();
        assert_eq!(places.last(), Some(&group.last()));
        assert!(places.is_sorted());
        let first = &frames[places[0]];
        if places.len() == 1 {
            let mut alone = untagged(bytes(places[0]), tagged);
            if first.offload.partial_checksum {
                finish(&mut alone);
            }
            out.push(alone);
            continue;
        }
        let mut headers = [0; MAX_HEADERS];
        let len = write_headers(group, first, &frames[group.last()], &mut headers).unwrap();
        let headers = &untagged(headers[..len].to_vec(), tagged)[..];
        let payload: Vec<u8> = places
            .iter()
            .flat_map(|at| bytes(*at)[len..].to_vec())
            .collect();
        // The checksum is that of the pseudo-header of the whole, as the kernel wants it.
        let whole = [headers, &payload].concat();
        let parsed = parse(&whole, whole.len() as u32, false).unwrap();
        assert!(partial::detect(&whole, &parsed).is_some());
        out.extend(cut(headers, &payload, first.offload.gso_size.into()));
    }
    out
}

/// Plans for segments, checks what would be on the wire, and says of how many frames each group is, which a tag does not change.
fn plan(segments: &[Segment]) -> Vec<u16> {
    let counts = plan_of(segments, false);
    assert_eq!(plan_of(segments, true), counts);
    counts
}

fn plan_of(segments: &[Segment], tagged: bool) -> Vec<u16> {
    let mut bed = Bed::new(tagged);
    let (frames, whole): (Vec<Frame>, Vec<Vec<u8>>) = segments.iter().map(|s| bed.frame(s)).unzip();
    let mut plan = Plan::default();
    plan.make(&frames, true, 1000, 4096);
    let flow = |bytes: &Vec<u8>| bytes[if bytes[14] >> 4 == 4 { 34 } else { 54 }..][..2].to_vec();
    let by_flow = |all: Vec<Vec<u8>>| {
        let mut flows: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for bytes in all {
            flows.entry(flow(&bytes)).or_default().push(bytes);
        }
        flows
    };
    let out = sent(&plan, &frames, tagged);
    // Identifications of atomic datagrams may be counted anew.
    let forget = |mut bytes: Vec<u8>| {
        if bytes[14] >> 4 == 4 && bytes[20] & 0x40 != 0 {
            bytes[18..20].fill(0);
            ipv4::fill_checksum(&mut bytes[14..34]);
        }
        bytes
    };
    let forget_all = |all: Vec<Vec<u8>>| all.into_iter().map(forget).collect();
    assert_eq!(by_flow(forget_all(out)), by_flow(forget_all(whole)));
    let counts = plan.groups().iter().map(|g| g.frames).collect();
    frames.into_iter().for_each(|f| bed.pool.free(f));
    counts
}

fn segments(n: usize, change: impl Fn(usize, &mut Segment)) -> Vec<Segment> {
    let make = |i| {
        let mut segment = PLAIN_SEGMENT;
        change(i, &mut segment);
        segment
    };
    (0..n).map(make).collect()
}

#[test]
fn a_stream_leaves_as_one() {
    for flow in 0..3 {
        for partial in [false, true] {
            let all = segments(10, |i, s| {
                (s.flow, s.partial) = (flow, partial);
                if i == 9 {
                    (s.payload, s.flags) = (37, flags::ACK | flags::PSH | flags::FIN);
                }
            });
            assert_eq!(plan(&all), [10], "flow {flow}, partial {partial}");
        }
    }
}

#[test]
fn connections_are_told_apart() {
    assert_eq!(plan(&segments(20, |i, s| s.flow = i as u8 % 2)), [10, 10]);
}

#[test]
fn no_more_than_a_packet_holds() {
    let all = segments(60, |_, s| s.payload = 1448);
    assert_eq!(plan(&all), [45, 15]);
    assert_eq!(plan(&segments(70, |_, s| s.payload = 10)), [64, 6]);
}

#[test]
fn what_differs_begins_anew() {
    let at_5 = |change: fn(&mut Segment)| {
        plan(&segments(10, |i, s| {
            if i == 5 {
                change(s);
            }
        }))
    };
    // It ends its superframe.
    assert_eq!(at_5(|s| s.payload = 99), [6, 4]);
    assert_eq!(at_5(|s| s.flags |= flags::PSH), [6, 4]);
    // It is one for itself.
    assert_eq!(
        at_5(|s| s.payload = 101),
        [5, 2, 3],
        "the next one is shorter"
    );
    assert_eq!(at_5(|s| s.payload = 0), [5, 1, 4]);
    assert_eq!(at_5(|s| s.damaged = true), [5, 1, 4]);
    assert_eq!(at_5(|s| s.flags |= flags::SYN), [5, 1, 4]);
    assert_eq!(at_5(|s| s.flags |= flags::CWR), [5, 1, 4]);
    assert_eq!(at_5(|s| s.window += 1), [5, 1, 4]);
    assert_eq!(at_5(|s| s.tos = 3), [5, 1, 4]);
    assert_eq!(at_5(|s| s.timestamp += 1), [5, 1, 4]);
    // Those behind go on after it.
    assert_eq!(at_5(|s| s.hole = 1), [5, 5]);
    assert_eq!(
        at_5(|s| s.gap = 1),
        [10],
        "with DF identifications mean nothing"
    );
    let without_df = segments(10, |i, s| (s.flow, s.gap) = (2, u16::from(i == 5)));
    assert_eq!(plan(&without_df), [5, 5]);
}

#[test]
fn a_damaged_first_segment_takes_nobody_along() {
    let all = segments(4, |i, s| (s.damaged, s.partial) = (i == 0, false));
    assert_eq!(plan(&all), [1, 3]);
}

#[test]
fn limits_of_a_call_are_kept() {
    let mut bed = Bed::new(false);
    let all = segments(10, |i, s| s.flow = i as u8 % 3 * 2);
    let frames: Vec<Frame> = all.iter().map(|s| bed.frame(s).0).collect();
    let mut plan = Plan::default();
    let mut planned = |joining, most, pieces| {
        plan.make(&frames, joining, most, pieces);
        (0..10)
            .filter(|at| plan.group_of(*at) < plan.groups().len())
            .count()
    };
    assert_eq!(planned(true, 3, 100), 10);
    assert_eq!(
        planned(true, 2, 100),
        2,
        "the third connection finds no place"
    );
    assert_eq!(planned(false, 4, 100), 4);
    assert_eq!(planned(true, 3, 11), 5, "a frame is two pieces at most");
    frames.into_iter().for_each(|f| bed.pool.free(f));
}

fn any_segment() -> impl Strategy<Value = Segment> {
    let usual = |n| proptest::bool::weighted(n);
    let size = prop_oneof![6 => Just(100usize), 1 => Just(60), 1 => Just(140), 1 => Just(0), 1 => Just(3000)];
    let flags = prop_oneof![8 => Just(flags::ACK), 1 => Just(flags::ACK | flags::PSH), 1 => any::<u8>().prop_map(|f| f & 0xdf)];
    let odd = (
        usual(0.05),
        usual(0.05),
        usual(0.05),
        usual(0.05),
        usual(0.05),
        usual(0.05),
    );
    (0u8..4, size, flags, usual(0.5), odd).prop_map(|(flow, payload, flags, partial, odd)| {
        Segment {
            flow,
            payload,
            flags,
            window: 1000 + u16::from(odd.0),
            tos: u8::from(odd.1),
            timestamp: u8::from(odd.2),
            partial,
            damaged: odd.3,
            gap: odd.4.into(),
            hole: odd.5.into(),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn what_leaves_is_what_came(all in proptest::collection::vec(any_segment(), 1..80)) {
        plan(&all);
    }
}

/// A frame that a pod's stack has left to be cut to an MTU; whether it may be.
fn left_whole(bed: &mut Bed, flow: u8, flags: u8, mtu: u32) -> (Frame, bool) {
    let tagged = std::mem::replace(&mut bed.tagged, false);
    let (mut frame, _) = bed.frame(&Segment {
        flow,
        payload: 3000,
        flags,
        ..PLAIN_SEGMENT
    });
    bed.tagged = tagged;
    frame.offload = Offload {
        gso_type: 0,
        gso_size: 0,
        hdr_len: 0,
        ..frame.offload
    };
    let before = frame.offload;
    let parsed = parse(frame.bytes(), frame.len(), false).unwrap();
    let whole = mark_whole(&mut frame, &parsed, mtu);
    assert_eq!(whole, is_whole(&frame));
    assert!(whole || frame.offload == before);
    assert!(!tagged || frame.push_tag(VLAN));
    (frame, whole)
}

/// What came as a superframe leaves as one, whatever its neighbors are.
#[test]
fn what_came_whole_stays_by_itself() {
    for (tagged, flow) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
        let mut bed = Bed::new(tagged);
        let segment = Segment {
            flow,
            payload: 1000,
            ..PLAIN_SEGMENT
        };
        let mut frames: Vec<Frame> = (0..3).map(|_| bed.frame(&segment).0).collect();
        assert!(!frames.iter().any(is_whole));
        let (whole, is) = left_whole(&mut bed, flow, flags::ACK, 1500);
        assert!(is && is_whole(&whole) && is_marked(&whole));
        assert_eq!(
            u32::from(whole.offload.gso_size),
            1500 - headers_len(&whole)
        );
        frames.insert(1, whole);
        let mut plan = Plan::default();
        plan.make(&frames, true, 1000, 4096);
        let counts: Vec<u16> = plan.groups().iter().map(|g| g.frames).collect();
        assert_eq!(counts, [1, 1, 2], "tagged {tagged}, flow {flow}");
        frames.into_iter().for_each(|frame| bed.pool.free(frame));
    }
}

/// None is one whose flags are more than repeated, that has no room for payload, or that fits.
#[test]
fn what_a_device_could_not_cut_is_not_left_to_it() {
    const ACK: u8 = flags::ACK;
    for flow in [0, 1] {
        let mut bed = Bed::new(false);
        for (flags, mtu) in [
            (ACK | flags::CWR, 1500),
            (ACK | flags::SYN, 1500),
            (0, 1500),
            (ACK, 40),
            (ACK, 9000),
        ] {
            let (frame, whole) = left_whole(&mut bed, flow, flags, mtu);
            assert!(!whole, "{flags:#x}, MTU {mtu}");
            bed.pool.free(frame);
        }
    }
}
