// SPDX-License-Identifier: Apache-2.0
//! Compiler and tables against the oracle. `PODSWITCH_SEED=n` runs seed n alone, `n-m` those from n to m.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use podswitch_oracle::cluster::Cluster;
use podswitch_oracle::compare::{compare, describe, ends, minimal, seeds};
use podswitch_oracle::generate::{Aim, Change, Packet, Rng, Steps, cluster};
use podswitch_oracle::node::{End, Node, Said};

/// A node after batches of changes, and the cluster that they make.
fn after(batches: &[Vec<Change>]) -> Result<(Node, Cluster), String> {
    let mut node = Node::default();
    let mut all = Cluster {
        node: cluster(&mut Rng::new(0)).node,
        ..Cluster::default()
    };
    for batch in batches {
        node.apply(batch)?;
        batch.iter().for_each(|change| change.apply(&mut all));
    }
    Ok((node, all))
}

/// Ends a test: says what is wrong and how little it takes.
fn fail(
    seed: u64,
    batches: Vec<Vec<Change>>,
    wrong: &dyn Fn(&[Vec<Change>]) -> Option<String>,
) -> ! {
    let first = wrong(&batches);
    let batches = minimal(batches, &|batches| wrong(batches).is_some());
    let text = wrong(&batches).or(first).unwrap_or_default();
    panic!("PODSWITCH_SEED={seed}\n{text}\n{}", describe(&batches));
}

/// What is wrong with a packet after batches of changes.
fn wrong(batches: &[Vec<Change>], packet: &Packet) -> Option<String> {
    let result = after(batches).and_then(|(node, cluster)| compare(&cluster, &node, packet));
    result.err()
}

/// Counts what ends said, so that no kind of answer is missing from the cases.
#[derive(Default)]
struct Tally(BTreeMap<&'static str, usize>);

impl Tally {
    fn add(&mut self, cluster: &Cluster, node: &Node, packet: &Packet) {
        for (end, endpoint) in ends(cluster, packet) {
            let kind = match node.judge(&endpoint.port, end, packet) {
                Some(Said::Pending) => "pending",
                Some(Said::Accept(rule)) if rule.policy.contains('/') => {
                    "accepted by a NetworkPolicy"
                }
                Some(Said::Accept(_)) => "accepted by a ClusterNetworkPolicy",
                Some(Said::Deny(_)) => "denied by a ClusterNetworkPolicy",
                Some(Said::Isolated(_)) => "isolated",
                Some(Said::NoMatch) => "no match",
                None => "no port",
            };
            *self.0.entry(kind).or_default() += 1;
            let end = match end {
                End::Egress => "egress",
                End::Ingress => "ingress",
            };
            *self.0.entry(end).or_default() += 1;
            let known = packet.group.and_then(|group| cluster.group(group));
            if end == "ingress" && known.is_some() {
                *self.0.entry("by group").or_default() += 1;
            }
        }
    }

    /// Each of these was there often enough.
    fn expect(&self, kinds: &[&str], at_least: usize) {
        if std::env::var("PODSWITCH_SEED").is_err() {
            for kind in kinds {
                let count = self.0.get(kind).copied().unwrap_or(0);
                assert!(count >= at_least, "{kind}: {count} of {:?}", self.0);
            }
        }
        println!("{:?}", self.0);
    }
}

const JUDGED: [&str; 8] = [
    "accepted by a NetworkPolicy",
    "accepted by a ClusterNetworkPolicy",
    "denied by a ClusterNetworkPolicy",
    "isolated",
    "no match",
    "egress",
    "ingress",
    "by group",
];

#[test]
fn random_clusters() {
    let mut tally = Tally::default();
    for seed in seeds(1000) {
        let rng = &mut Rng::new(seed);
        let cluster = cluster(rng);
        let mut all = Change::all(&cluster);
        rng.shuffle(&mut all);
        let batches = vec![all];
        let node = match after(&batches) {
            Ok((node, _)) => node,
            Err(_) => fail(seed, batches, &|batches| after(batches).err()),
        };
        let aim = Aim::at(&cluster);
        for _ in 0..200 {
            let packet = aim.marked(rng);
            if compare(&cluster, &node, &packet).is_err() {
                fail(seed, batches, &|batches| wrong(batches, &packet));
            }
            tally.add(&cluster, &node, &packet);
        }
    }
    tally.expect(&JUDGED, 2000);
}

/// What a packet's ends say, and the stamp that its connection would have.
struct Judged {
    said: Vec<(End, String, Option<Said>)>,
    stamp: u32,
}

impl Judged {
    fn new(cluster: &Cluster, node: &Node, packet: &Packet) -> Judged {
        let ends = ends(cluster, packet);
        let said = ends.iter().map(|(end, endpoint)| {
            let said = node.judge(&endpoint.port, *end, packet);
            (*end, endpoint.port.clone(), said)
        });
        let port = |wanted| {
            let found = ends.iter().find(|(end, _)| *end == wanted);
            found.map(|(_, endpoint)| endpoint.port.as_str())
        };
        Judged {
            said: said.collect(),
            stamp: node.stamp([port(End::Egress), port(End::Ingress)], packet),
        }
    }

    /// An end that says something else now, though the stamp is the same. A connection's ports are always the same.
    fn stale(&self, now: &Judged) -> Option<String> {
        let ports = |judged: &Judged| {
            let ports = judged
                .said
                .iter()
                .map(|(end, port, _)| (*end, port.clone()));
            ports.collect::<BTreeSet<_>>()
        };
        // Of two ports with one address only one is the connection's, and it is not said which.
        let one = |end| self.said.iter().filter(|(e, ..)| *e == end).count() <= 1;
        let known = one(End::Egress) && one(End::Ingress);
        let stale = known && self.stamp == now.stamp && ports(self) == ports(now);
        let mut changed = self.said.iter().filter(|said| !now.said.contains(said));
        let changed = changed.next().filter(|_| stale)?;
        Some(format!(
            "{changed:?} is out of date under the same stamp: {:?}",
            now.said
        ))
    }
}

/// Verdict by verdict as a node that hears of everything at once.
fn as_rebuilt(
    cluster: &Cluster,
    node: &Node,
    rebuilt: &Node,
    packet: &Packet,
) -> Result<(), String> {
    for (end, endpoint) in ends(cluster, packet) {
        let grown = node.judge(&endpoint.port, end, packet);
        let made = rebuilt.judge(&endpoint.port, end, packet);
        if grown != made {
            return Err(format!(
                "{packet} {end:?}: {grown:?} after changes, {made:?} from scratch"
            ));
        }
    }
    Ok(())
}

/// What is wrong with a packet after batches of changes, by the oracle, or by what a node says that hears of it at once.
fn wrong_now(batches: &[Vec<Change>], packet: &Packet) -> Option<String> {
    let check = || {
        let (node, cluster) = after(batches)?;
        compare(&cluster, &node, packet)?;
        let (rebuilt, _) = after(&[Change::all(&cluster)])?;
        as_rebuilt(&cluster, &node, &rebuilt, packet)
    };
    check().err()
}

/// More or less in the tables than in those of a node that hears of everything at once.
fn more_or_less(batches: &[Vec<Change>]) -> Option<String> {
    let (node, cluster) = after(batches).ok()?;
    let (rebuilt, _) = after(&[Change::all(&cluster)]).ok()?;
    let (grown, made) = (node.left(), rebuilt.left());
    let text =
        format!("peers, identities, CIDRs, rules: {grown:?} after changes, {made:?} from scratch");
    (grown != made).then_some(text)
}

/// A verdict that the last batch changed without the stamp.
fn stale(batches: &[Vec<Change>], packet: &Packet) -> Option<String> {
    let (last, before) = batches.split_last()?;
    let (mut node, mut cluster) = after(before).ok()?;
    let old = Judged::new(&cluster, &node, packet);
    node.apply(last).ok()?;
    last.iter().for_each(|change| change.apply(&mut cluster));
    old.stale(&Judged::new(&cluster, &node, packet))
}

#[test]
fn random_changes() {
    let mut tally = Tally::default();
    for seed in seeds(300) {
        let rng = &mut Rng::new(seed);
        let mut cluster = cluster(rng);
        let mut batches = vec![Change::all(&cluster)];
        let (mut node, _) = after(&batches).unwrap();
        let mut steps = Steps::default();
        for _ in 0..12 {
            let step = steps.next(rng, &cluster);
            let aim = Aim::at(&cluster);
            let mut packets: Vec<Packet> = (0..15).map(|_| aim.marked(rng)).collect();
            let before: Vec<_> = packets
                .iter()
                .map(|p| Judged::new(&cluster, &node, p))
                .collect();
            batches.push(step.clone());
            if node.apply(&step).is_err() {
                fail(seed, batches, &|batches| after(batches).err());
            }
            step.iter().for_each(|change| change.apply(&mut cluster));
            for (packet, before) in packets.iter().zip(before) {
                if before
                    .stale(&Judged::new(&cluster, &node, packet))
                    .is_some()
                {
                    fail(seed, batches, &|batches| stale(batches, packet));
                }
            }
            let aim = Aim::at(&cluster);
            packets.extend((0..15).map(|_| aim.marked(rng)));
            let (rebuilt, _) = after(&[Change::all(&cluster)]).unwrap();
            for packet in packets {
                if compare(&cluster, &node, &packet).is_err()
                    || as_rebuilt(&cluster, &node, &rebuilt, &packet).is_err()
                {
                    fail(seed, batches, &|batches| wrong_now(batches, &packet));
                }
                tally.add(&cluster, &node, &packet);
            }
            if node.left() != rebuilt.left() {
                fail(seed, batches, &more_or_less);
            }
        }
        takes_no_notice(seed, rng, &cluster, &mut node);
        leaves_nothing(seed, rng, &cluster, &mut node);
    }
    tally.expect(&JUDGED, 1000);
    tally.expect(&["pending"], 100);
}

/// Objects that are there already change nothing.
fn takes_no_notice(seed: u64, rng: &mut Rng, cluster: &Cluster, node: &mut Node) {
    let mut all = Change::all(cluster);
    rng.shuffle(&mut all);
    assert_eq!(
        node.apply(&all),
        Ok(0),
        "PODSWITCH_SEED={seed}: differences"
    );
}

/// When everything goes, in whatever order, nothing is left.
fn leaves_nothing(seed: u64, rng: &mut Rng, cluster: &Cluster, node: &mut Node) {
    let mut all: Vec<Change> = Change::all(cluster).into_iter().map(Change::gone).collect();
    rng.shuffle(&mut all);
    for part in all.chunks(5) {
        assert_eq!(node.apply(part).err(), None, "PODSWITCH_SEED={seed}");
    }
    assert_eq!(
        node.left(),
        [0; 4],
        "PODSWITCH_SEED={seed}: peers, identities, CIDRs, rules"
    );
}
