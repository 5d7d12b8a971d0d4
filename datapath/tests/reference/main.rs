// SPDX-License-Identifier: Apache-2.0
//! The stages against a reference switch that is as simple as can be: random tables, random frames, with one worker and
//! with two, cold and warm, with changes of the tables in between. Both must send the same bytes out of the same ports,
//! or drop for the same reason (all faults that parsing finds count as one reason).
//!
//! Every case prints its seed when it fails; `PODSWITCH_REFERENCE_SEED=<seed>` runs that case alone.

mod frames;
mod generate;
mod model;
mod setup;
#[allow(dead_code, reason = "shared with the tests of the stages")]
mod world;

use std::collections::BTreeMap;
use std::net::IpAddr;

use generate::Random;
use model::Reference;

use podswitch_datapath::stage::Rate;
use podswitch_datapath::tables::{PortKindSpec, PortSpec};
use podswitch_datapath::wire::MacAddr;
use podswitch_datapath::{PortId, VrfId};
use setup::Setup;
use world::{Out, World};

/// Tables made by each test.
const TABLES: u64 = 300;
/// Frames for each of them, each sent three times.
const FRAMES: u64 = 80;

/// Reasons of the parser, which the reference does not tell apart.
const MALFORMED: &[&str] = &[
    "truncated_ethernet",
    "truncated_vlan",
    "vlan_stack_too_deep",
    "source_mac_invalid",
    "truncated_ipv4",
    "bad_ipv4_version",
    "bad_ipv4_header_length",
    "bad_ipv4_checksum",
    "ipv4_source_route",
    "bad_ipv4_options",
    "truncated_ipv6",
    "bad_ipv6_version",
    "bad_ipv6_extension",
    "ipv6_routing_header",
    "source_address_invalid",
    "destination_address_invalid",
    "truncated_transport",
    "bad_transport_header",
    "bad_fragment",
];

fn class(out: Vec<Out>, routed: bool, workers: u8) -> Vec<Out> {
    let class = |o| match o {
        Out::Dropped(name) if MALFORMED.contains(&name) => Out::Dropped("malformed"),
        // Tags on routed ports are refused before anything else is looked at.
        Out::Dropped("vlan_not_expected") if routed => Out::Dropped("malformed"),
        other => other,
    };
    let mut out: Vec<Out> = out.into_iter().map(class).collect();
    out.sort();
    // The pieces of a packet that was cut are judged one by one where another worker owns the way out.
    if routed && workers > 1 && matches!(out[..], [Out::Dropped(_), ..]) {
        out.dedup();
    }
    out
}

/// What the cases of a test came to.
#[derive(Default)]
struct Tally(BTreeMap<String, u64>);

impl Tally {
    fn count(&mut self, out: &[Out]) {
        let name = match out {
            [] => "nothing",
            [Out::Sent(..)] => "sent",
            [Out::Dropped(name)] => name,
            _ => "several",
        };
        *self.0.entry(name.to_owned()).or_default() += 1;
    }
}

fn apply(world: &mut World, setup: &Setup, old: Option<&Setup>) {
    if let Some(old) = old {
        for port in &old.ports {
            for worker in &mut world.workers {
                worker.fdb.forget_port(port.id);
            }
        }
    }
    world.edit(|edit| setup.apply(old, edit));
}

/// Sends frames in one batch into both and returns what came of them, which must be the same.
fn compare(
    world: &mut World,
    reference: &mut Reference,
    port: &PortSpec,
    frames: &[Vec<u8>],
    workers: u8,
    case: &str,
) -> Vec<Out> {
    let routed = matches!(port.kind, PortKindSpec::Routed { .. });
    let got = class(world.send(port.id.0, frames), routed, workers);
    let one = |frame: &Vec<u8>| reference.send(port.id.0, frame, world.caps);
    let mut want: Vec<Out> = frames.iter().flat_map(one).collect();
    want.sort();
    assert!(
        got == want,
        "{case}\ngot  {got:02x?}\nwant {want:02x?}\nport {port:?}\nframes {frames:02x?}\n{:?}",
        reference.setup
    );
    got
}

/// One table after another on the same workers, so that what they remember of one must not count for the next.
fn run(seed: u64, workers: u8, tally: &mut Tally) {
    let mut r = Random(seed);
    let mut old: Option<Setup> = None;
    let first = generate::setup(&mut r, workers);
    let mut world = World::new(workers, first.gateway, Rate::UNLIMITED);
    for round in 0..3 {
        let setup = if round == 0 {
            first.clone()
        } else {
            Setup {
                gateway: first.gateway,
                ..generate::setup(&mut r, workers)
            }
        };
        if !setup.is_valid() {
            continue;
        }
        apply(&mut world, &setup, old.as_ref());
        let mut reference = Reference::new(setup.clone());
        reference.now = world.now / 1_000_000;
        for n in 0..FRAMES / 3 {
            let port = r.of(&setup.ports).clone();
            let frame = generate::frame(&mut r, &setup, &port);
            world.caps.local_sender = r.once_in(2);
            world.caps.superframes = r.once_in(2);
            let case = format!("seed {seed}, {workers} workers, round {round}, frame {n}");
            for _ in 0..3 {
                let frames = std::slice::from_ref(&frame);
                let got = compare(&mut world, &mut reference, &port, frames, workers, &case);
                tally.count(&got);
            }
            if workers == 1 && r.once_in(4) {
                let many: Vec<_> = (0..20)
                    .map(|_| generate::frame(&mut r, &setup, &port))
                    .filter(|frame| frame.len() < 6000)
                    .collect();
                compare(&mut world, &mut reference, &port, &many, workers, &case);
            }
            let millis = r.below(400);
            world.now += millis * 1_000_000;
            reference.now += millis;
        }
        world.assert_no_leak();
        for told in world.missed() {
            let is = |n: &(VrfId, PortId, IpAddr, MacAddr)| {
                (n.0, n.1, n.2) == (told.vrf, told.port, told.address)
            };
            assert!(
                !setup.neighbors.iter().any(is),
                "seed {seed}: {told} is known"
            );
            let port = world.tables.port(told.port);
            assert_eq!(port.map(|p| p.vrf), Some(told.vrf), "seed {seed}");
        }
        old = Some(setup);
    }
    let gone = world.send_one(77, &[0; 60]);
    assert_eq!(gone, vec![Out::Dropped("port_gone")]);
}

fn cases(workers: u8) {
    let mut tally = Tally::default();
    match std::env::var("PODSWITCH_REFERENCE_SEED") {
        Ok(seed) => run(seed.parse().expect("a number"), workers, &mut tally),
        Err(_) => (0..TABLES).for_each(|n| run(n, workers, &mut tally)),
    }
    println!("{workers} workers: {:#?}", tally.0);
    let cases: u64 = tally.0.values().sum();
    if std::env::var_os("PODSWITCH_REFERENCE_SEED").is_none() {
        assert!(cases >= 10_000, "only {cases} cases");
        // The frames must reach every decision, or the comparison means little.
        for name in EVERY {
            assert!(tally.0.contains_key(*name), "no case ended with {name}");
        }
    }
}

/// What cases must come to, each at least once.
const EVERY: &[&str] = &[
    "sent",
    "several",
    "nothing",
    "malformed",
    "spoofed_mac",
    "spoofed_address",
    "not_for_us",
    "multicast_not_routed",
    "ethertype_unknown",
    "arp_unanswered",
    "nd_unanswered",
    "gateway_unhandled",
    "link_local_not_routed",
    "policy_denied_egress",
    "policy_default_egress",
    "policy_denied_ingress",
    "policy_default_ingress",
    "no_route",
    "route_blackhole",
    "route_unreachable",
    "route_prohibit",
    "neighbor_unresolved",
    "ttl_exceeded",
    "packet_too_big",
    "vlan_not_expected",
    "fdb_move",
    "same_port",
    "unknown_unicast_limit",
    "link_local_control",
];

#[test]
fn one_worker() {
    cases(1);
}

#[test]
fn two_workers() {
    cases(2);
}
