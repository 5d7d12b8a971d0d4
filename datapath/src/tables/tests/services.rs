// SPDX-License-Identifier: Apache-2.0
//! Services: who serves, and how evenly.

use crate::ids::VrfId;
use crate::tables::{
    Backends, Client, Edit, Frontend, FrontendKey, Gateway, Place, Service, TableError, Tables,
    Traffic,
};
use crate::verdict::Reason;
use crate::wire::flow_key::map_v4;
use crate::wire::translate::Endpoint;
use crate::wire::{FlowKey, protocol};
use std::sync::Arc;

fn end(n: u32) -> Endpoint {
    Endpoint {
        address: map_v4((0x0af4_0000 + n).to_be_bytes()),
        port: 8080,
    }
}

fn backends(numbers: impl Iterator<Item = u32>) -> Backends {
    Backends::new(numbers.map(end).collect())
}

const CONNECTIONS: u64 = 200_000;

fn hashes() -> impl Iterator<Item = u64> {
    (0..CONNECTIONS).map(|n| {
        let key = FlowKey::new(VrfId(0), 6, [1; 16], [2; 16], n as u16, (n >> 16) as u16);
        key.hash(9)
    })
}

#[test]
fn backends_get_nearly_the_same_shares() {
    for count in [1, 2, 3, 10, 100, 997] {
        let all = backends(0..count);
        let mut shares = std::collections::HashMap::new();
        for hash in hashes() {
            *shares
                .entry(all.choose(hash).unwrap().address)
                .or_insert(0u64) += 1;
        }
        assert_eq!(shares.len(), count as usize);
        let mean = CONNECTIONS / u64::from(count);
        // The places are even to one; the rest is chance: five standard deviations.
        let chance = 5 * mean.isqrt() + mean / 50;
        for share in shares.values() {
            assert!(share.abs_diff(mean) <= chance, "{count}: {share} of {mean}");
        }
    }
}

#[test]
fn one_that_goes_or_comes_moves_few_others() {
    for count in [2u32, 10, 100, 200, 500] {
        let all = backends(0..count);
        for gone in [0, count / 2, count - 1] {
            let rest = backends((0..count).filter(|n| *n != gone));
            let moved = hashes().filter(|hash| {
                let (before, after) = (all.choose(*hash).unwrap(), rest.choose(*hash).unwrap());
                before != after && *before != end(gone)
            });
            let share = moved.count() as f64 / CONNECTIONS as f64;
            let most = if count > 128 { 0.02 } else { 0.0 };
            assert!(share <= most, "{count} without {gone}: {share}");
        }
    }
}

#[test]
fn what_is_named_twice_or_in_another_order_is_the_same() {
    let one = backends([3, 1, 2, 3, 1].into_iter());
    let other = backends(1..4);
    assert_eq!(one.ends(), other.ends());
    assert!(hashes().all(|hash| one.choose(hash) == other.choose(hash)));
    assert!(one.has(&end(2)) && !one.has(&end(4)));
    assert!(backends(0..0).choose(7).is_none());
}

fn service(cluster: u32, local: u32) -> Arc<Service> {
    Arc::new(Service {
        name: "shop/web".into(),
        cluster: backends(0..cluster),
        local: backends(0..local),
        internal: Traffic::Cluster,
        external: Traffic::Local,
        affinity: None,
    })
}

fn at(address: [u8; 4], port: u16) -> FrontendKey {
    FrontendKey {
        place: Place::Address(address.into()),
        protocol: protocol::TCP,
        port,
    }
}

fn frontend(service: &Arc<Service>, is_external: bool) -> Option<Frontend> {
    Some(Frontend {
        service: service.clone(),
        is_external,
        sources: None,
    })
}

fn tables() -> Tables {
    Tables::new(Gateway {
        mac: crate::wire::MacAddr([2, 0, 0, 0, 0, 1]),
        v4: [169, 254, 1, 1].into(),
        v6: "fe80::1".parse().unwrap(),
    })
}

fn edit(tables: &Tables, change: impl FnOnce(&mut Edit)) -> Tables {
    let mut edit = Edit::new(tables, tables.generation());
    change(&mut edit);
    edit.build().unwrap()
}

fn key(dst: [u8; 4], dport: u16) -> FlowKey {
    let client = map_v4([10, 244, 0, 9]);
    FlowKey::new(VrfId(0), protocol::TCP, client, map_v4(dst), 4000, dport)
}

const VIP: [u8; 4] = [10, 96, 0, 1];
const PUBLIC: [u8; 4] = [203, 0, 113, 1];

#[test]
fn services_come_and_go() {
    let none = tables();
    assert!(!none.may_be_service(&map_v4(VIP)));
    let some = edit(&none, |e| {
        let service = service(3, 0);
        e.set_frontend(at(VIP, 80), frontend(&service, false));
        e.set_frontend(at(VIP, 443), frontend(&service, false));
        e.set_frontend(at(PUBLIC, 80), frontend(&service, true));
    });
    let why = |tables: &Tables, key: &FlowKey, client| {
        tables.service(key, client).map(|served| served.err())
    };
    assert!(some.may_be_service(&map_v4(VIP)));
    assert_eq!(some.counts().frontends, 3);
    assert_eq!(why(&some, &key(VIP, 80), Client::Inside), Some(None));
    let no_port = Some(Some(Reason::ServiceNoPort));
    assert_eq!(why(&some, &key(VIP, 81), Client::Inside), no_port);
    assert_eq!(why(&some, &key(PUBLIC, 81), Client::Inside), None);
    assert_eq!(why(&some, &key(PUBLIC, 80), Client::Inside), Some(None));
    let not_here = Some(Some(Reason::ServiceNoLocalBackend));
    assert_eq!(why(&some, &key(PUBLIC, 80), Client::Outside), not_here);
    // Another VRF has no services.
    let mut elsewhere = key(VIP, 80);
    elsewhere.set_vrf(VrfId(7));
    assert_eq!(why(&some, &elsewhere, Client::Inside), None);
    let gone = edit(&some, |e| {
        for key in [at(VIP, 80), at(VIP, 443), at(PUBLIC, 80), at(PUBLIC, 81)] {
            e.set_frontend(key, None);
        }
    });
    assert_eq!(gone.counts().frontends, 0);
    assert_eq!(why(&gone, &key(VIP, 80), Client::Inside), None);
    // Connections to it may go on.
    assert!(gone.may_be_service(&map_v4(VIP)));
}

#[test]
fn connections_to_a_backend_that_goes_are_judged_again() {
    let before = edit(&tables(), |e| {
        e.set_frontend(at(VIP, 80), frontend(&service(3, 0), false));
    });
    let stamp = |tables: &Tables, n| tables.address_stamp(&end(n).address);
    let after = edit(&before, |e| {
        e.set_frontend(at(VIP, 80), frontend(&service(2, 0), false));
    });
    assert_ne!(stamp(&before, 2), stamp(&after, 2));
    for n in [0, 1] {
        assert_eq!(stamp(&before, n), stamp(&after, n));
    }
    assert_eq!(before.common_stamp(), after.common_stamp());
}

#[test]
fn what_can_never_be_is_refused() {
    let refused = |key: FrontendKey| {
        let tables = tables();
        let mut edit = Edit::new(&tables, tables.generation());
        edit.set_frontend(key, frontend(&service(1, 0), false));
        edit.build().unwrap_err()
    };
    let icmp = FrontendKey {
        protocol: protocol::ICMP,
        ..at(VIP, 80)
    };
    assert_eq!(
        refused(icmp).to_string(),
        "service at 10.96.0.1 port 80: protocol 1 is none of TCP, UDP and SCTP"
    );
    assert!(matches!(refused(at(VIP, 0)), TableError::Invalid { .. }));
}
