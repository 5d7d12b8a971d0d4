// SPDX-License-Identifier: Apache-2.0
//! Frames through a switch of one and of two workers against the oracle: first packets, answers, and what becomes of connections when
//! policies change. `PODSWITCH_SEED=n` runs seed n alone, `n-m` those from n to m.
#![forbid(unsafe_code)]

mod bed;
mod packets;

use std::collections::BTreeSet;
use std::net::IpAddr;

use bed::Bed;
use packets::Part;
use podswitch_oracle::cluster::Cluster;
use podswitch_oracle::compare::{ends, passes, seeds};
use podswitch_oracle::generate::{Aim, Change, Packet, Rng, Steps, cluster};

/// A connection that began.
struct Connection {
    packet: Packet,
    own: u16,
}

/// Whether a packet is one that hosts send: from and to a host, at least one of them here, and another one.
fn is_fair(cluster: &Cluster, packet: &Packet) -> bool {
    let host = |address: IpAddr| match address {
        IpAddr::V4(a) => matches!(a.octets()[0], 9..=11 | 172 | 192),
        IpAddr::V6(a) => a.is_unique_local() || a.segments()[0] == 0x2001,
    };
    let has_port = packet.port != 0 || !matches!(packet.protocol, 6 | 17 | 132);
    let hosts = host(packet.source) && host(packet.destination);
    hosts && has_port && packet.source != packet.destination && !ends(cluster, packet).is_empty()
}

/// Changes that leave ports and their pods' addresses as they are.
fn about_policy(cluster: &Cluster, changes: Vec<Change>) -> Vec<Change> {
    let same = |change: &Change| match change {
        Change::Endpoint(..) => false,
        Change::Pod(namespace, name, new) => {
            let old = cluster.pod(namespace, name);
            let identity = |p: &podswitch_oracle::cluster::Pod| {
                (p.uid.clone(), p.addresses.clone(), p.host_network)
            };
            old.map(identity) == new.as_ref().map(identity)
        }
        _ => true,
    };
    changes.into_iter().filter(same).collect()
}

#[test]
fn frames_fare_as_the_oracle_says() {
    let (mut first, mut later, mut ended) = (0, 0, 0);
    for seed in seeds(150) {
        for workers in [1, 2] {
            let rng = &mut Rng::new(seed);
            let mut now = cluster(rng);
            let mut bed = Bed::new(&now, workers);
            let mut open: Vec<Connection> = Vec::new();
            let (mut steps, mut portless, mut own) = (Steps::default(), BTreeSet::new(), 20_000);
            for _ in 0..5 {
                let aim = Aim::at(&now);
                for _ in 0..25 {
                    let packet = aim.packet(rng);
                    let (a, b) = (packet.source, packet.destination);
                    // Of protocols without ports, all between two hosts is one connection.
                    let known = packet.protocol == 47 && !portless.insert((a.min(b), a.max(b)));
                    if known || !is_fair(&now, &packet) {
                        continue;
                    }
                    own += 1;
                    let wanted = passes(&now, &packet);
                    let what = format!("PODSWITCH_SEED={seed} {workers} workers: {packet}");
                    assert_eq!(bed.would_pass(&packet, own), wanted, "{what}: explained");
                    assert_eq!(bed.passes(&packet, own, Part::First), wanted, "{what}");
                    first += 1;
                    if wanted && packet.protocol != 47 {
                        assert!(bed.passes(&packet, own, Part::Answer), "{what}: the answer");
                        open.push(Connection { packet, own });
                    }
                }
                let changes = about_policy(&now, steps.next(rng, &now));
                bed.node.apply(&changes).expect("changes that can be read");
                changes.iter().for_each(|change| change.apply(&mut now));
                bed.publish();
                open.retain(|Connection { packet, own }| {
                    let wanted = passes(&now, packet);
                    let part = if rng.percent(50) {
                        Part::Later
                    } else {
                        Part::Answer
                    };
                    let what =
                        format!("PODSWITCH_SEED={seed} {workers} workers: {packet} {part:?}");
                    assert_eq!(
                        bed.passes(packet, *own, part),
                        wanted,
                        "{what}, after changes"
                    );
                    later += 1;
                    ended += usize::from(!wanted);
                    wanted
                });
            }
        }
    }
    println!("{first} connections, {later} later packets, {ended} connections ended by changes");
    if std::env::var("PODSWITCH_SEED").is_err() {
        assert!(first >= 10_000 && later >= 10_000 && ended >= 500);
    }
}
