// SPDX-License-Identifier: Apache-2.0
//! What a lookup costs.

use std::hint::black_box;
use std::net::Ipv4Addr;

use iptrie::{Ipv4LCTrieMap, Ipv4Prefix, Ipv4RTrieMap};
use podswitch_datapath::VrfId;
use podswitch_datapath::tables::{Hop, Tables};
use podswitch_datapath::wire::FlowKey;
use podswitch_datapath::wire::flow_key::map_v4;
use podswitch_datapath::worker::clock::cycles;

use super::table::{Public, ROUTERS, router_number};
use crate::outcome::Outcome;
use crate::stats::{self, by_round};

/// Keys that are looked up together.
const BATCH: usize = 32;
/// Addresses of a sample; what comes next has left the caches.
const SAMPLE: usize = 1 << 18;
/// Addresses of all samples, which then begin again.
pub const ADDRESSES: usize = 1 << 23;
const VRF: VrfId = VrfId(0);
const UNIT: &str = "cycles a lookup";

/// The peer.
pub type Peer = Ipv4LCTrieMap<u32>;

/// What is measured, in the order of the report.
#[derive(Clone, Copy, Debug)]
enum Side {
    /// Codes of a batch are asked for first.
    Prefetched,
    /// One after the other; the processor may begin with the next ones.
    Independent,
    /// The next address depends on what the last one gave.
    Dependent,
    PeerIndependent,
    PeerDependent,
    /// All but the lookup.
    Nothing,
}

const SIDES: [(Side, &str); 6] = [
    (Side::Prefetched, "batch of 32, prefetched"),
    (Side::Independent, "one after the other"),
    (Side::Dependent, "each waits for the last"),
    (Side::PeerIndependent, "iptrie, one after the other"),
    (Side::PeerDependent, "iptrie, each waits for the last"),
    (Side::Nothing, "no lookup"),
];

/// The same table in the peer.
pub fn peer(public: &Public) -> Peer {
    // What no prefix covers leads to nobody.
    let mut map = Ipv4RTrieMap::with_root(ROUTERS);
    for (prefix, router) in &public.prefixes {
        let prefix = Ipv4Prefix::new(prefix.addr(), prefix.prefix_len());
        map.insert(prefix.expect("a prefix"), *router);
    }
    map.compress()
}

/// A key of a packet to somewhere.
fn key() -> FlowKey {
    const UDP: u8 = 17;
    let source = map_v4([10, 0, 0, 0]);
    FlowKey::new(VRF, UDP, source, map_v4([0; 4]), 20_000, 9000)
}

fn aim(key: &mut FlowKey, address: u32) {
    // In whole words, as the parser writes it: a reader need not wait for narrower stores.
    key.dst = (0xffff_0000_0000 | u128::from(address)).to_be_bytes();
}

#[inline(always)]
fn index(hop: Hop<'_>) -> u32 {
    match hop {
        Hop::Adjacency(way) => way.index,
        Hop::Drop(_) => 0,
    }
}

/// Looks all addresses up in one way; something made of the results.
#[inline(never)]
fn look_up(side: Side, tables: &Tables, peer: &Peer, addresses: &[u32]) -> u32 {
    let (mut keys, ways) = ([key(); BATCH], tables.ways(VRF));
    // Zero, which the compiler does not know.
    let (mut sum, nothing) = (0u32, black_box(0u32));
    for batch in addresses.chunks_exact(BATCH) {
        for (key, address) in keys.iter_mut().zip(batch) {
            aim(key, *address);
        }
        match side {
            Side::Prefetched => {
                keys.iter().for_each(|k| ways.prefetch(k));
                let found = keys.iter().map(|k| index(ways.route(k)));
                sum = found.fold(sum, u32::wrapping_add);
            }
            Side::Independent => {
                let found = keys.iter().map(|k| index(ways.route(k)));
                sum = found.fold(sum, u32::wrapping_add);
            }
            Side::Dependent => {
                for (key, address) in keys.iter_mut().zip(batch) {
                    aim(key, address ^ (sum & nothing));
                    sum = sum.wrapping_add(index(ways.route(key)));
                }
            }
            Side::PeerIndependent => {
                let found = batch.iter().map(|a| *peer.lookup(&Ipv4Addr::from(*a)).1);
                sum = found.fold(sum, u32::wrapping_add);
            }
            Side::PeerDependent => {
                for address in batch {
                    let address = Ipv4Addr::from(address ^ (sum & nothing));
                    sum = sum.wrapping_add(*peer.lookup(&address).1);
                }
            }
            Side::Nothing => sum = sum.wrapping_add(u32::from(black_box(&keys)[0].dport)),
        }
    }
    sum
}

/// Sees to it that both say the same of these addresses.
///
/// # Panics
/// When they do not.
pub fn check(tables: &Tables, peer: &Peer, addresses: &[u32]) {
    let mut key = key();
    for address in addresses {
        aim(&mut key, *address);
        let found = match tables.route(VRF, &key) {
            Hop::Adjacency(way) => router_number(way.address).unwrap_or(ROUTERS),
            Hop::Drop(_) => ROUTERS,
        };
        let address = Ipv4Addr::from(*address);
        assert_eq!(found, *peer.lookup(&address).1, "{address}");
    }
}

/// Measures lookups of addresses, [`ADDRESSES`] in all.
pub fn measure(
    outcome: &mut Outcome,
    what: &str,
    (tables, peer): (&Tables, &Peer),
    (rounds, addresses): (usize, &[u32]),
) {
    check(tables, peer, &addresses[..SAMPLE]);
    let mut samples = addresses.chunks_exact(SAMPLE).cycle();
    let taken: [Vec<f64>; SIDES.len()] = stats::rounds(rounds, |n| {
        let sample = samples.next().expect("they begin again");
        let start = cycles();
        black_box(look_up(SIDES[n].0, tables, peer, sample));
        cycles().wrapping_sub(start) as f64 / SAMPLE as f64
    });
    let [ahead, free, waiting, peer_free, peer_waiting, nothing] = &taken;
    for (label, side) in [
        (SIDES[0].1, ahead),
        (SIDES[1].1, free),
        (SIDES[2].1, waiting),
    ] {
        let net = by_round(side, nothing, |a, b| a - b);
        outcome.add_comparison(&format!("{what}: {label}, without the loop"), UNIT, net);
        let least = side.iter().copied().fold(f64::INFINITY, f64::min);
        outcome.add_figure(&format!("{what}: {label}, least"), least, UNIT);
    }
    for (label, ours, theirs) in [
        ("one after the other", free, peer_free),
        ("each waits for the last", waiting, peer_waiting),
    ] {
        let ratio = by_round(ours, theirs, |a, b| a / b);
        outcome.add_comparison(&format!("{what}: {label}, switch / iptrie"), "ratio", ratio);
    }
    for ((_, label), samples) in SIDES.iter().zip(taken) {
        outcome.add_series(&format!("{what}: {label}"), UNIT, samples);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::table::{set_link, set_prefixes};
    use crate::stats::Random;
    use crate::traffic;
    use podswitch_datapath::PortId;
    use podswitch_datapath::tables::Edit;

    #[test]
    fn the_switch_and_its_peer_agree_on_a_small_table() {
        let prefix = |text: &str, router| (text.parse().unwrap(), router);
        let public = Public {
            prefixes: vec![
                prefix("1.0.0.0/8", 1),
                prefix("1.2.0.0/16", 2),
                prefix("1.2.3.0/24", 3),
                prefix("1.2.3.128/25", 4),
            ],
        };
        let empty = traffic::empty_tables();
        let mut edit = Edit::new(&empty, empty.generation());
        set_link(&mut edit, PortId(1));
        set_prefixes(&mut edit, &public, PortId(1));
        let (tables, peer) = (edit.build().unwrap(), peer(&public));
        let mut addresses = public.announced(2048, &mut Random::new(3));
        check(&tables, &peer, &addresses);
        addresses.truncate(BATCH * 8);
        let sums = [Side::Prefetched, Side::Independent, Side::Dependent];
        let sums = sums.map(|side| look_up(side, &tables, &peer, &addresses));
        assert!(
            sums[0] > 0 && sums.iter().all(|s| *s == sums[0]),
            "{sums:?}"
        );
        let peers = [Side::PeerIndependent, Side::PeerDependent];
        let peers = peers.map(|side| look_up(side, &tables, &peer, &addresses));
        assert_eq!(peers[0], peers[1]);
    }
}
