// SPDX-License-Identifier: Apache-2.0
//! L2 segments.

use podswitch_datapath::counters::Event;
use podswitch_datapath::stage::{Now, Rate};
use podswitch_datapath::tables::{
    Action, Direction, PortKindSpec, PortSpec, Rule, SegmentSpec, Vlan, VlanSet,
};
use podswitch_datapath::wire::MacAddr;
use podswitch_datapath::{PortId, Reason, VrfId, WorkerId};

use crate::frames::{self, V4};
use crate::node::*;
use crate::world::{Out, World, gateway};

const SEGMENT: VrfId = VrfId(100);

fn spec() -> SegmentSpec {
    SegmentSpec {
        id: SEGMENT,
        name: "segment".into(),
        ageing_seconds: 300,
        learn: true,
        flood_unknown: true,
        unknown_unicast_limit: 1000,
        broadcast_limit: 1000,
        max_entries: 100,
    }
}

fn l2(n: u16, vlan: Vlan) -> PortSpec {
    PortSpec {
        mac: MacAddr::ZERO,
        check_source: false,
        kind: PortKindSpec::L2 {
            segment: SEGMENT,
            vlan,
            fixed_mac: false,
        },
        ..pod(n)
    }
}

fn segment_of(workers: u8, spec: SegmentSpec, ports: Vec<PortSpec>) -> World {
    let mut w = World::new(workers, gateway(), Rate::UNLIMITED);
    w.edit(|e| {
        e.set_segment(spec);
        for mut port in ports {
            port.worker = WorkerId((port.id.0 % u16::from(workers)) as u8);
            e.set_port(port);
        }
    });
    w
}

fn plain(workers: u8) -> World {
    segment_of(
        workers,
        spec(),
        (1..=4).map(|n| l2(n, Vlan::None)).collect(),
    )
}

fn frame(src: u16, dst: MacAddr) -> Vec<u8> {
    frames::ethernet(dst, mac(src), 0x88b5, &[1; 46])
}

fn copies(ports: &[u16], frame: &[u8]) -> Vec<Out> {
    ports
        .iter()
        .map(|p| Out::Sent(*p, frame.to_vec()))
        .collect()
}

#[test]
fn learns_floods_and_moves() {
    for workers in [1, 2, 3] {
        let mut w = plain(workers);
        let all = frame(11, MacAddr::BROADCAST);
        assert_eq!(w.send_one(1, &all), copies(&[2, 3, 4], &all));
        let unknown = frame(11, mac(12));
        assert_eq!(w.send_one(1, &unknown), copies(&[2, 3, 4], &unknown));
        let answer = frame(12, mac(11));
        assert_eq!(w.send_one(2, &answer), copies(&[1], &answer));
        assert_eq!(w.send_one(1, &unknown), copies(&[2], &unknown));
        // 12 moves to port 3 and says so.
        let hello = frame(12, MacAddr::BROADCAST);
        assert_eq!(w.send_one(3, &hello), copies(&[1, 2, 4], &hello));
        assert_eq!(w.send_one(1, &unknown), copies(&[3], &unknown));
        let same = frame(13, mac(12));
        assert_eq!(w.send_one(3, &same), dropped("same_port"));
        assert!(w.counters().event(Event::FdbMoved) >= 1);
        w.assert_no_leak();
    }
}

#[test]
fn what_is_not_heard_is_forgotten() {
    let mut w = plain(1);
    w.send_one(1, &frame(11, MacAddr::BROADCAST));
    let to_11 = frame(12, mac(11));
    w.now += 300_000_000_000;
    assert_eq!(w.send_one(2, &to_11), copies(&[1], &to_11));
    w.now += 1_000_000;
    assert_eq!(w.send_one(2, &to_11), copies(&[1, 3, 4], &to_11));
    let now = Now(w.now);
    let state = &mut w.workers[0];
    assert_eq!(state.fdb.entries(now).count(), 2);
    state.fdb.age(&w.tables, now, usize::MAX, &state.counters);
    let left: Vec<_> = state.fdb.entries(now).collect();
    assert_eq!(left.len(), 1);
    assert_eq!(
        (left[0].mac, left[0].port, left[0].idle),
        (mac(12), PortId(2), 0)
    );
    assert_eq!(w.counters().event(Event::FdbAged), 1);
}

#[test]
fn vlans_are_kept_apart() {
    let trunk = |vlans: &[u16]| Vlan::Trunk(VlanSet::new(vlans.iter().copied()).unwrap());
    let mut w = segment_of(
        1,
        spec(),
        vec![
            l2(1, Vlan::Access(10)),
            l2(2, Vlan::Access(20)),
            l2(3, trunk(&[10, 20])),
            l2(4, trunk(&[10])),
            l2(5, Vlan::None),
            l2(6, Vlan::Access(10)),
        ],
    );
    let f = frame(11, MacAddr::BROADCAST);
    let in_10 = frames::tagged(&f, 10);
    let mut want = copies(&[3, 4], &in_10);
    want.extend(copies(&[6], &f));
    assert_eq!(w.send_one(1, &f), want);
    // A priority tag is no VLAN, but its priority goes along.
    let mut want = copies(&[3, 4], &frames::tagged(&f, 0xa000 | 10));
    want.extend(copies(&[6], &f));
    assert_eq!(w.send_one(1, &frames::tagged(&f, 0xa000)), want);
    let f = frame(12, MacAddr::BROADCAST);
    assert_eq!(
        w.send_one(3, &frames::tagged(&f, 0xe000 | 20)),
        copies(&[2], &f)
    );
    // Learned in its VLAN only.
    let to_12 = frame(13, mac(12));
    assert_eq!(
        w.send_one(2, &to_12),
        copies(&[3], &frames::tagged(&to_12, 20))
    );
    let elsewhere = w.send_one(1, &to_12);
    assert_eq!(elsewhere.len(), 3, "unknown in VLAN 10: {elsewhere:?}");
    let unexpected = dropped("vlan_not_expected");
    assert_eq!(
        w.send_one(1, &in_10),
        unexpected,
        "tagged on an access port"
    );
    assert_eq!(w.send_one(5, &in_10), unexpected);
    assert_eq!(w.send_one(3, &frames::tagged(&f, 30)), unexpected);
    assert_eq!(w.send_one(3, &f), unexpected, "untagged on a trunk");
    assert_eq!(w.send_one(5, &f), vec![], "nobody else without a VLAN");
    w.assert_no_leak();
}

/// A tag behind the first one must never come to light.
#[test]
fn no_tag_hides_behind_another() {
    let trunk = Vlan::Trunk(VlanSet::new([10, 20]).unwrap());
    let mut w = segment_of(
        1,
        spec(),
        vec![
            l2(1, Vlan::Access(10)),
            l2(2, trunk.clone()),
            l2(3, trunk),
            l2(4, Vlan::None),
        ],
    );
    let inner = frames::tagged(&frame(11, MacAddr::BROADCAST), 20);
    let priority_over = frames::tagged(&inner, 0);
    assert_eq!(w.send_one(1, &priority_over), dropped("vlan_not_expected"));
    assert_eq!(w.send_one(4, &priority_over), dropped("vlan_not_expected"));
    let stacked = frames::tagged(&inner, 10);
    let mut want = dropped("vlan_not_expected");
    want.extend(copies(&[3], &stacked));
    want.sort();
    assert_eq!(w.send_one(2, &stacked), want);
    let mut service = stacked.clone();
    service[12..14].copy_from_slice(&[0x88, 0xa8]);
    assert_eq!(w.send_one(2, &service), dropped("vlan_not_expected"));
}

#[test]
fn fixed_addresses_stay_where_they_are() {
    let mut fixed = l2(2, Vlan::None);
    fixed.mac = mac(2);
    fixed.kind = PortKindSpec::L2 {
        segment: SEGMENT,
        vlan: Vlan::None,
        fixed_mac: true,
    };
    let mut w = segment_of(
        1,
        spec(),
        vec![l2(1, Vlan::None), fixed.clone(), l2(3, Vlan::None)],
    );
    w.edit(|e| {
        e.set_fdb(SEGMENT, 0, mac(50), PortId(3));
    });
    let f = frame(11, mac(2));
    assert_eq!(
        w.send_one(1, &f),
        copies(&[2], &f),
        "known without ever having spoken"
    );
    let f = frame(11, mac(50));
    assert_eq!(w.send_one(1, &f), copies(&[3], &f));
    assert_eq!(
        w.send_one(1, &frame(2, MacAddr::BROADCAST)),
        dropped("fdb_move")
    );
    assert_eq!(
        w.send_one(1, &frame(50, MacAddr::BROADCAST)),
        dropped("fdb_move")
    );
    // Without a source check a fixed port may speak for others, but nothing is learned of them.
    let f = frame(60, MacAddr::BROADCAST);
    assert_eq!(w.send_one(2, &f), copies(&[1, 3], &f));
    let f = frame(11, mac(60));
    assert_eq!(w.send_one(1, &f), copies(&[2, 3], &f));
    w.edit(|e| {
        e.set_port(PortSpec {
            check_source: true,
            ..fixed
        });
    });
    assert_eq!(
        w.send_one(2, &frame(60, MacAddr::BROADCAST)),
        dropped("spoofed_mac")
    );
    w.edit(|e| {
        e.set_segment(SegmentSpec {
            learn: false,
            ..spec()
        });
    });
    w.send_one(1, &frame(70, MacAddr::BROADCAST));
    let f = frame(50, mac(70));
    assert_eq!(
        w.send_one(3, &f),
        copies(&[1, 2], &f),
        "the segment does not learn"
    );
}

#[test]
fn limits_hold() {
    let tight = SegmentSpec {
        unknown_unicast_limit: 5,
        broadcast_limit: 3,
        max_entries: 2,
        ..spec()
    };
    let mut w = segment_of(
        1,
        tight.clone(),
        (1..=3).map(|n| l2(n, Vlan::None)).collect(),
    );
    let flooded = |w: &mut World, f: &[u8], reason| {
        let out: Vec<_> = (0..20).map(|_| w.send_one(1, f)).collect();
        let n = out.iter().filter(|o| **o == copies(&[2, 3], f)).count();
        assert!(out.iter().all(|o| o.len() == 2 || *o == dropped(reason)));
        n
    };
    assert_eq!(
        flooded(&mut w, &frame(11, mac(99)), "unknown_unicast_limit"),
        5
    );
    assert_eq!(
        flooded(&mut w, &frame(11, MacAddr::BROADCAST), "broadcast_limit"),
        3
    );
    w.now += 1_000_000_000;
    assert_eq!(
        flooded(
            &mut w,
            &frame(11, MacAddr([1, 0, 0x5e, 0, 0, 9])),
            "broadcast_limit"
        ),
        3
    );
    w.now += 10_000_000_000;
    w.send_one(2, &frame(12, mac(11)));
    w.send_one(3, &frame(13, mac(11)));
    let to_13 = frame(11, mac(13));
    assert_eq!(
        w.send_one(1, &to_13),
        copies(&[2, 3], &to_13),
        "no room to learn 13"
    );
    assert_eq!(w.counters().event(Event::FdbFull), 1);
    w.edit(|e| {
        e.set_segment(SegmentSpec {
            flood_unknown: false,
            ..tight
        });
    });
    assert_eq!(w.send_one(1, &to_13), dropped("unknown_unicast_limit"));
    assert_eq!(w.counters().dropped(Reason::UnknownUnicastLimit), 16);
}

#[test]
fn control_frames_end_and_policy_holds() {
    for workers in [1, 2] {
        let mut w = plain(workers);
        for last in 0..16 {
            let f = frame(11, MacAddr([1, 0x80, 0xc2, 0, 0, last]));
            assert_eq!(w.send_one(1, &f), dropped("link_local_control"));
        }
        let f = frame(11, MacAddr([1, 0x80, 0xc2, 0, 0, 16]));
        assert_eq!(w.send_one(1, &f).len(), 3);
        let f = frames::ethernet(
            MacAddr::BROADCAST,
            MacAddr([3, 0, 0, 0, 0, 1]),
            0x88b5,
            &[1; 46],
        );
        assert_eq!(w.send_one(1, &f), dropped("source_mac_invalid"));
        w.edit(|e| {
            for (port, direction) in [(2, Direction::Ingress), (3, Direction::Egress)] {
                let deny = Rule {
                    name: "no-dns".into(),
                    priority: 1,
                    source: None,
                    destination: None,
                    protocol: Some(frames::UDP),
                    ports: Some(53..=53),
                    action: Action::Deny,
                };
                e.set_rule(PortId(port), direction, deny);
            }
        });
        let packet = udp4(v4(1), v4(2), 53).bytes();
        let f = frames::ethernet(mac(12), mac(11), 0x0800, &packet);
        let mut want = dropped("policy_denied_ingress");
        want.extend(copies(&[3, 4], &f));
        want.sort();
        assert_eq!(w.send_one(1, &f), want, "flooded to those that may have it");
        w.send_one(2, &frame(12, MacAddr::BROADCAST));
        assert_eq!(w.send_one(1, &f), dropped("policy_denied_ingress"));
        assert_eq!(
            w.send_one(3, &frames::ethernet(mac(12), mac(13), 0x0800, &packet)),
            dropped("policy_denied_egress")
        );
        w.edit(|e| {
            e.set_port(PortSpec {
                mtu: 68,
                worker: WorkerId(2 % workers),
                ..l2(2, Vlan::None)
            });
        });
        let big = frames::ethernet(mac(12), mac(11), 0x88b5, &[0; 69]);
        assert_eq!(w.send_one(1, &big), dropped("packet_too_big"));
        w.assert_no_leak();
    }
}

#[test]
fn a_port_that_is_gone_is_unknown() {
    let mut w = plain(1);
    w.send_one(2, &frame(12, MacAddr::BROADCAST));
    w.edit(|e| {
        e.remove_port(PortId(2));
    });
    let f = frame(11, mac(12));
    assert_eq!(w.send_one(1, &f), copies(&[3, 4], &f));
    w.edit(|e| {
        e.set_port(pod(2));
    });
    assert_eq!(w.send_one(1, &f), copies(&[3, 4], &f), "routed now");
    w.workers[0].fdb.forget_port(PortId(2));
    w.edit(|e| {
        e.set_port(l2(2, Vlan::None));
    });
    assert_eq!(w.send_one(1, &f), copies(&[2, 3, 4], &f));
}

/// TCP data and a frame that carries it as one superframe: too large, its checksum left to a device.
fn superframe(src: u16, dst: MacAddr, len: usize) -> (Vec<u8>, Vec<u8>) {
    let data: Vec<u8> = (0..len).map(|i| (i * 7 % 251) as u8).collect();
    let (from, to) = (v4(1).into(), v4(2).into());
    let mut segment = frames::tcp(from, to, 1, 2, 0x18, &data);
    let sum = frames::pseudo(from, to, frames::TCP, segment.len());
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    let packet = V4::new(v4(1), v4(2), frames::TCP, segment).bytes();
    (data, frames::ethernet(dst, mac(src), 0x0800, &packet))
}

/// The data of TCP segments that `port` got, in order, each in front of it `headers` bytes and no larger than `mtu`.
fn stream(out: &[Out], port: u16, headers: usize, mtu: usize) -> Vec<u8> {
    let mut segments: Vec<(u32, &[u8])> = Vec::new();
    for o in out {
        let Out::Sent(p, frame) = o else {
            panic!("{o:?}")
        };
        if *p != port {
            continue;
        }
        let (l4, data) = frame[headers - 20..].split_at(20);
        assert!(frame.len() - headers + 40 <= mtu, "{}", frame.len());
        let pseudo = frames::pseudo(v4(1).into(), v4(2).into(), frames::TCP, 20 + data.len());
        assert_eq!(frames::sum(&frame[headers - 20..], pseudo.into()), 0xffff);
        segments.push((u32::from_be_bytes([l4[4], l4[5], l4[6], l4[7]]), data));
    }
    segments.sort_unstable();
    segments.into_iter().flat_map(|(_, d)| d).copied().collect()
}

#[test]
fn a_superframe_is_cut_for_whom_it_is() {
    let trunk = Vlan::Trunk(VlanSet::new([10]).unwrap());
    for workers in [1, 2] {
        let mut small = l2(2, Vlan::Access(10));
        small.mtu = 1280;
        let mut large = l2(4, Vlan::Access(10));
        large.mtu = 9000;
        let ports = vec![l2(1, Vlan::Access(10)), small, l2(3, trunk.clone()), large];
        let mut w = segment_of(workers, spec(), ports);
        w.send_one(2, &frame(12, MacAddr::BROADCAST));
        w.send_one(3, &frames::tagged(&frame(13, MacAddr::BROADCAST), 10));
        w.send_one(4, &frame(14, MacAddr::BROADCAST));
        let (data, f) = superframe(11, mac(12), 20_000);
        let out = w.send_one(1, &f);
        assert_eq!(out.len(), 20_000usize.div_ceil(1240));
        assert_eq!(stream(&out, 2, 54, 1280), data);
        let (data, f) = superframe(11, mac(13), 20_000);
        let out = w.send_one(1, &f);
        assert_eq!(out.len(), 20_000usize.div_ceil(1460));
        assert_eq!(stream(&out, 3, 58, 1500), data, "behind a tag");
        // What fits stays whole.
        let (data, f) = superframe(11, mac(14), 8000);
        assert_eq!(stream(&w.send_one(1, &f), 4, 54, 9000), data);
        assert_eq!(w.counters().event(Event::Segmented), 2);
        let (data, f) = superframe(11, mac(14), 9000);
        assert_eq!(stream(&w.send_one(1, &f), 4, 54, 9000), data);
        // One that its sender's MTU allows.
        let (data, f) = superframe(11, mac(12), 1400);
        assert_eq!(stream(&w.send_one(1, &f), 2, 54, 1280), data);
        assert_eq!(w.counters().event(Event::Segmented), 4);
        // Large, but no device was to cut it.
        let mut whole = f.clone();
        whole[14 + 20 + 16] ^= 1;
        assert_eq!(w.send_one(1, &whole), dropped("packet_too_big"));
        w.caps.superframes = false;
        assert_eq!(w.send_one(1, &f), dropped("packet_too_big"));
        assert_eq!(w.counters().event(Event::Segmented), 4);
        w.assert_no_leak();
    }
}

#[test]
fn a_flooded_superframe_counts_as_its_segments() {
    let mut w = segment_of(
        1,
        SegmentSpec {
            unknown_unicast_limit: 50,
            ..spec()
        },
        (1..=3).map(|n| l2(n, Vlan::None)).collect(),
    );
    let (data, f) = superframe(11, mac(12), 20 * 1460);
    let out = w.send_one(1, &f);
    for port in [2, 3] {
        assert_eq!(stream(&out, port, 54, 1500), data);
    }
    // A burst is of 32 frames.
    let mut out = w.send_one(1, &f);
    let lost = out.iter().filter(|o| matches!(o, Out::Dropped(_))).count();
    assert_eq!(lost, 8);
    assert_eq!(w.counters().dropped(Reason::UnknownUnicastLimit), 8);
    out.retain(|o| matches!(o, Out::Sent(..)));
    for port in [2, 3] {
        assert_eq!(stream(&out, port, 54, 1500), data[..12 * 1460]);
    }
    assert_eq!(w.send_one(1, &f), dropped("unknown_unicast_limit"));
    w.assert_no_leak();
}
