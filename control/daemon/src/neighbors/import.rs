// SPDX-License-Identifier: Apache-2.0
//! A routing table of the kernel's as routes by the node's NICs. Without input or output.
//!
//! What the kernel would use for a prefix counts, the entry with the smallest metric: when that does not lead out of a NIC
//! of the switch, the prefix is not the switch's. Local, broadcast and multicast entries, those that lead nowhere and
//! link-local prefixes are none.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use podswitch_datapath::PortId;
use podswitch_datapath::tables::limits::{MAX_NEXT_HOPS, MTU};
use podswitch_host::route::{Entry, Kind, NextHop};

/// A route by NICs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Where it leads, one or more, each once, in the kernel's order; no more than the tables take.
    pub hops: Vec<Hop>,
    /// Its largest packet, bytes.
    pub mtu: Option<u32>,
}

/// One way of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// The NIC.
    pub port: PortId,
    /// The next hop; none where the destination itself is on the link.
    pub via: Option<IpAddr>,
    /// Its share of the flows, 1 to 255.
    pub weight: u8,
}

/// The routes of a table that lead out of `nics`, which are known by the index of their interface.
pub fn routes(entries: &[Entry], nics: &HashMap<u32, PortId>) -> BTreeMap<IpNet, Imported> {
    let mut best: BTreeMap<IpNet, &Entry> = BTreeMap::new();
    for entry in entries.iter().filter(|e| is_routed(e)) {
        let metric = |e: &Entry| e.route.priority.unwrap_or(0);
        let prefix = entry.route.dst.trunc();
        let better = best.get(&prefix).is_none_or(|b| metric(entry) < metric(b));
        if better {
            best.insert(prefix, entry);
        }
    }
    let imported = best.into_iter();
    imported
        .filter_map(|(prefix, entry)| Some((prefix, import(entry, nics)?)))
        .collect()
}

/// Whether an entry can be for packets of pods at all.
fn is_routed(entry: &Entry) -> bool {
    let to = entry.route.dst.addr();
    let link_local = match to {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    };
    !matches!(entry.route.kind, Kind::Other(_)) && !to.is_multicast() && !link_local
}

fn import(entry: &Entry, nics: &HashMap<u32, PortId>) -> Option<Imported> {
    if entry.route.kind != Kind::Unicast {
        return None;
    }
    let v4 = entry.route.dst.addr().is_ipv4();
    let hop = |hop: &NextHop| {
        // The switch's routes have next hops of their own family.
        let fits = hop.gateway.is_none_or(|via| via.is_ipv4() == v4);
        let port = *nics.get(&hop.link).filter(|_| fits && !hop.dead)?;
        Some(Hop {
            port,
            via: hop.gateway,
            weight: u8::try_from(hop.weight).unwrap_or(u8::MAX),
        })
    };
    let mut hops: Vec<Hop> = Vec::new();
    for hop in entry.next_hops.iter().filter_map(hop) {
        let known = hops.iter().any(|h| (h.port, h.via) == (hop.port, hop.via));
        if !known && hops.len() < MAX_NEXT_HOPS {
            hops.push(hop);
        }
    }
    (!hops.is_empty()).then(|| Imported {
        hops,
        mtu: entry.route.mtu.filter(|mtu| MTU.contains(mtu)),
    })
}

/// What makes `after` of `before`: each prefix that is different, with what it is then.
pub fn differences(
    before: &BTreeMap<IpNet, Imported>,
    after: &BTreeMap<IpNet, Imported>,
) -> Vec<(IpNet, Option<Imported>)> {
    let gone = before.keys().filter(|prefix| !after.contains_key(prefix));
    let gone = gone.map(|prefix| (*prefix, None));
    let there = after
        .iter()
        .filter(|(prefix, route)| before.get(prefix) != Some(route));
    gone.chain(there.map(|(prefix, route)| (*prefix, Some(route.clone()))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use podswitch_host::route::Route;

    const NIC: u32 = 2;
    const OTHER: u32 = 3;
    const SECOND: u32 = 4;

    fn nics() -> HashMap<u32, PortId> {
        HashMap::from([(NIC, PortId(10)), (SECOND, PortId(11))])
    }

    fn entry(dst: &str, hops: &[(&str, u32)]) -> Entry {
        let hop = |(via, link): &(&str, u32)| NextHop {
            gateway: (!via.is_empty()).then(|| via.parse().unwrap()),
            link: *link,
            weight: 1,
            dead: false,
        };
        Entry {
            route: Route::new(dst.parse().unwrap()),
            next_hops: hops.iter().map(hop).collect(),
        }
    }

    fn with(mut entry: Entry, change: impl FnOnce(&mut Entry)) -> Entry {
        change(&mut entry);
        entry
    }

    fn only(entry: Entry) -> Option<Imported> {
        let all = routes(&[entry], &nics());
        assert!(all.len() <= 1);
        all.into_values().next()
    }

    fn hop(port: u16, via: &str) -> Hop {
        Hop {
            port: PortId(port),
            via: (!via.is_empty()).then(|| via.parse().unwrap()),
            weight: 1,
        }
    }

    #[test]
    fn routes_by_a_nic() {
        for (dst, via) in [
            ("0.0.0.0/0", "192.0.2.1"),
            ("192.0.2.0/24", ""),
            ("::/0", "fe80::1"),
            ("fd00::/64", ""),
        ] {
            let found = only(entry(dst, &[(via, NIC)])).unwrap();
            assert_eq!(found.hops, [hop(10, via)], "{dst}");
        }
        let large = with(entry("10.0.0.0/8", &[("", NIC)]), |e| {
            e.route.mtu = Some(9000)
        });
        assert_eq!(only(large).unwrap().mtu, Some(9000));
    }

    #[test]
    fn what_is_not_the_switchs() {
        let of_kind = |kind| with(entry("10.0.0.0/8", &[("", NIC)]), |e| e.route.kind = kind);
        for (what, entry) in [
            ("another interface", entry("10.0.0.0/8", &[("", OTHER)])),
            (
                "nowhere",
                with(entry("10.0.0.0/8", &[]), |e| e.route.kind = Kind::Blackhole),
            ),
            ("local", of_kind(Kind::Other(2))),
            ("broadcast", of_kind(Kind::Other(3))),
            ("multicast", of_kind(Kind::Other(5))),
            ("unreachable", of_kind(Kind::Unreachable)),
            ("a multicast prefix", entry("ff00::/8", &[("", NIC)])),
            ("a link-local prefix", entry("fe80::/64", &[("", NIC)])),
            ("a link-local prefix", entry("169.254.0.0/16", &[("", NIC)])),
            (
                "a next hop of another family",
                entry("10.0.0.0/8", &[("fe80::1", NIC)]),
            ),
            (
                "a dead next hop",
                with(entry("10.0.0.0/8", &[("", NIC)]), |e| {
                    e.next_hops[0].dead = true
                }),
            ),
        ] {
            assert_eq!(only(entry), None, "{what}");
        }
    }

    #[test]
    fn living_next_hops_of_several() {
        let dead = |e: &mut Entry| e.next_hops[1].dead = true;
        let hops = [
            ("192.0.2.1", NIC),
            ("192.0.2.2", NIC),
            ("192.0.2.9", OTHER),
            ("198.51.100.1", SECOND),
        ];
        let found = only(with(entry("10.0.0.0/8", &hops), dead)).unwrap();
        assert_eq!(found.hops, [hop(10, "192.0.2.1"), hop(11, "198.51.100.1")]);
    }

    #[test]
    fn next_hops_come_once_and_no_more_than_the_tables_take() {
        let twice = [
            ("192.0.2.1", NIC),
            ("192.0.2.1", NIC),
            ("192.0.2.1", SECOND),
        ];
        let found = only(entry("10.0.0.0/8", &twice)).unwrap();
        assert_eq!(found.hops, [hop(10, "192.0.2.1"), hop(11, "192.0.2.1")]);
        let many: Vec<String> = (0..200).map(|n| format!("192.0.2.{n}")).collect();
        let many: Vec<(&str, u32)> = many.iter().map(|via| (via.as_str(), NIC)).collect();
        let found = only(entry("10.0.0.0/8", &many)).unwrap();
        assert_eq!(found.hops.len(), MAX_NEXT_HOPS);
    }

    #[test]
    fn the_smallest_metric_decides() {
        let of = |metric, via, link| {
            with(entry("0.0.0.0/0", &[(via, link)]), |e| {
                e.route.priority = metric
            })
        };
        let a = of(Some(100), "192.0.2.1", NIC);
        let b = of(Some(50), "192.0.2.2", NIC);
        let c = of(None, "203.0.113.1", OTHER);
        let found = routes(&[a.clone(), b.clone()], &nics());
        assert_eq!(found.values().next().unwrap().hops, [hop(10, "192.0.2.2")]);
        // The kernel would send them elsewhere.
        assert!(routes(&[a, b, c], &nics()).is_empty());
    }

    #[test]
    fn differences_make_one_of_the_other() {
        let of = |entries: &[Entry]| routes(entries, &nics());
        let before = of(&[
            entry("10.1.0.0/16", &[("", NIC)]),
            entry("10.2.0.0/16", &[("", NIC)]),
            entry("10.3.0.0/16", &[("", NIC)]),
        ]);
        let after = of(&[
            entry("10.2.0.0/16", &[("", NIC)]),
            entry("10.3.0.0/16", &[("", SECOND)]),
            entry("10.4.0.0/16", &[("", NIC)]),
        ]);
        let mut now = before.clone();
        let differences = differences(&before, &after);
        assert_eq!(differences.len(), 3);
        for (prefix, route) in differences {
            match route {
                Some(route) => drop(now.insert(prefix, route)),
                None => drop(now.remove(&prefix)),
            }
        }
        assert_eq!(now, after);
    }
}
