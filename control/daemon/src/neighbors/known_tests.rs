// SPDX-License-Identifier: Apache-2.0
use podswitch_api::object::{Device, Neighbor, RouteKind, XdpMode};
use podswitch_datapath::WorkerId;
use podswitch_datapath::tables::{
    Action, Gateway, Hop as TableHop, PortKindSpec, PortSpec, Tables,
};
use podswitch_datapath::wire::FlowKey;
use podswitch_datapath::wire::flow_key::map_v4;

use super::*;

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 10]);

/// A node with a NIC, what is known of its link, and the tables of both.
struct Bed {
    names: Names,
    nic: PortId,
    state: DesiredState,
    known: Known,
    tables: Tables,
}

fn nic() -> Port {
    Port {
        name: "nic".into(),
        device: Device::Nic {
            interface: "eth0".into(),
            mode: XdpMode::Auto,
            vlan: None,
            routes: None,
            masquerade: false,
            except: Vec::new(),
            zero_copy_queues: Vec::new(),
            zero_copy_shared: false,
        },
        mac: None,
        addresses: Vec::new(),
        vrf: 0,
        mtu: None,
        worker: None,
        egress_default: object::Action::Allow,
        ingress_default: object::Action::Allow,
        segment: None,
        node: false,
        pod: None,
        host_ports: Vec::new(),
    }
}

fn spec(id: PortId) -> PortSpec {
    PortSpec {
        id,
        name: "nic".into(),
        worker: WorkerId(0),
        mac: wire::MacAddr([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        kind: PortKindSpec::Routed {
            vrf: VrfId(0),
            addresses: Vec::new(),
        },
        check_source: false,
        node: false,
        egress_default: Action::Allow,
        ingress_default: Action::Allow,
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

impl Bed {
    fn new() -> Bed {
        let mut names = Names::default();
        let nic = names.assign("nic").unwrap();
        let gateway = Gateway {
            mac: wire::MacAddr([2, 0, 0, 0, 0, 2]),
            v4: [169, 254, 1, 1].into(),
            v6: "fe80::1".parse().unwrap(),
        };
        let mut bed = Bed {
            names,
            nic,
            state: DesiredState::default(),
            known: Known::default(),
            tables: Tables::new(gateway),
        };
        bed.edit(|_, edit| {
            edit.set_port(spec(nic));
            let on_link = Route::Unicast {
                port: nic,
                via: None,
                mtu: None,
            };
            edit.set_route(VrfId(0), net("192.0.2.0/24"), on_link);
        });
        bed
    }

    fn edit(&mut self, change: impl FnOnce(&Bed, &mut Edit)) {
        let mut edit = Edit::new(&self.tables, self.tables.generation());
        change(self, &mut edit);
        self.tables = edit.build().unwrap();
    }

    /// It comes to be known where a neighbour is, or no longer.
    fn hear(&mut self, address: &str, mac: Option<MacAddr>) {
        let change = Change {
            port: self.nic,
            vrf: VrfId(0),
            address: ip(address),
            mac,
        };
        self.known.note_neighbor(&change);
        let at = (change.vrf, change.port, change.address);
        self.edit(|bed, edit| bed.known.put_neighbor(edit, at, &bed.state, &bed.names));
    }

    fn import(&mut self, table: u32, prefix: &str, via: Option<&str>) {
        let route = via.map(|via| Imported {
            hops: vec![Hop {
                port: self.nic,
                via: Some(ip(via)),
                weight: 1,
            }],
            mtu: None,
        });
        self.known.note_route(table, net(prefix), route);
        self.edit(|bed, edit| bed.known.put_route(edit, net(prefix), &bed.state, None));
    }

    /// The desired state changes: `put` is what is compiled of the difference itself.
    fn change(
        &mut self,
        before: Option<Object>,
        after: Option<Object>,
        put: impl FnOnce(&Bed, &mut Edit),
    ) {
        if let Some(before) = &before {
            self.state.remove(&before.key());
        }
        if let Some(after) = &after {
            self.state.insert_new(after.clone()).unwrap();
        }
        let difference = Difference::new(before, after).unwrap();
        self.edit(|bed, edit| {
            put(bed, edit);
            let differences = std::slice::from_ref(&difference);
            bed.known.amend(edit, differences, &bed.state, &bed.names);
        });
    }

    /// Where a packet to an address goes.
    fn mac_of(&self, address: &str) -> Option<MacAddr> {
        let IpAddr::V4(to) = ip(address) else {
            unreachable!()
        };
        let key = FlowKey::new(
            VrfId(0),
            17,
            map_v4([10, 0, 0, 1]),
            map_v4(to.octets()),
            1,
            2,
        );
        match self.tables.route(VrfId(0), &key) {
            TableHop::Adjacency(way) => Some(MacAddr(way.dst_mac.0)),
            TableHop::Drop(_) => None,
        }
    }
}

fn neighbor(mac: MacAddr) -> Object {
    Object::Neighbor(Neighbor {
        vrf: 0,
        port: "nic".into(),
        address: ip("192.0.2.9"),
        mac,
    })
}

fn route(via: &str) -> Object {
    Object::Route(object::Route {
        vrf: 0,
        prefix: net("10.0.0.0/8"),
        kind: RouteKind::Unicast,
        via: Some(ip(via)),
        port: Some("nic".into()),
        nexthops: Vec::new(),
        mtu: None,
    })
}

#[test]
fn neighbors_are_in_the_tables_while_they_are_known() {
    let mut bed = Bed::new();
    bed.hear("192.0.2.9", Some(MAC));
    assert_eq!(bed.mac_of("192.0.2.9"), Some(MAC));
    bed.hear("192.0.2.9", Some(OTHER));
    assert_eq!(bed.mac_of("192.0.2.9"), Some(OTHER));
    bed.hear("192.0.2.9", None);
    assert_eq!(bed.mac_of("192.0.2.9"), None);
}

#[test]
fn a_desired_neighbor_goes_before_what_is_known_and_gives_way_to_it() {
    let mut bed = Bed::new();
    let at = (VrfId(0), bed.nic, ip("192.0.2.9"));
    let set = move |edit: &mut Edit| {
        edit.set_neighbor(at.0, at.1, at.2, wire::MacAddr(MAC.0));
    };
    let remove = move |edit: &mut Edit| {
        edit.remove_neighbor(at.0, at.1, at.2);
    };
    bed.hear("192.0.2.9", Some(OTHER));
    bed.change(None, Some(neighbor(MAC)), |_, edit| set(edit));
    assert_eq!(bed.mac_of("192.0.2.9"), Some(MAC));
    for heard in [None, Some(OTHER)] {
        bed.hear("192.0.2.9", heard);
        assert_eq!(bed.mac_of("192.0.2.9"), Some(MAC));
    }
    bed.change(Some(neighbor(MAC)), None, |_, edit| remove(edit));
    assert_eq!(bed.mac_of("192.0.2.9"), Some(OTHER));
    // One that nobody has found is gone with it.
    bed.hear("192.0.2.9", None);
    bed.change(None, Some(neighbor(MAC)), |_, edit| set(edit));
    bed.change(Some(neighbor(MAC)), None, |_, edit| remove(edit));
    assert_eq!(bed.mac_of("192.0.2.9"), None);
}

#[test]
fn a_desired_route_goes_before_the_kernels_and_gives_way_to_it() {
    let mut bed = Bed::new();
    bed.hear("192.0.2.9", Some(MAC));
    bed.hear("192.0.2.10", Some(OTHER));
    bed.import(254, "10.0.0.0/8", Some("192.0.2.9"));
    assert_eq!(bed.mac_of("10.1.1.1"), Some(MAC));
    let desired = route("192.0.2.10");
    bed.change(None, Some(desired.clone()), |bed, edit| {
        let by = Route::Unicast {
            port: bed.nic,
            via: Some(ip("192.0.2.10")),
            mtu: None,
        };
        edit.set_route(VrfId(0), net("10.0.0.0/8"), by);
    });
    assert_eq!(bed.mac_of("10.1.1.1"), Some(OTHER));
    assert_eq!(bed.known.routes_beside(&bed.state).count(), 0);
    bed.import(254, "10.0.0.0/8", Some("192.0.2.9"));
    assert_eq!(bed.mac_of("10.1.1.1"), Some(OTHER));
    bed.change(Some(desired), None, |_, edit| {
        edit.remove_route(VrfId(0), net("10.0.0.0/8"));
    });
    assert_eq!(bed.mac_of("10.1.1.1"), Some(MAC));
    let beside: Vec<_> = bed.known.routes_beside(&bed.state).collect();
    assert_eq!(
        (beside.len(), beside[0].0, beside[0].1),
        (1, net("10.0.0.0/8"), 254)
    );
    bed.import(254, "10.0.0.0/8", None);
    assert_eq!(bed.mac_of("10.1.1.1"), None);
}

#[test]
fn several_next_hops_of_the_kernels_are_a_set() {
    let mut bed = Bed::new();
    let hops = ["192.0.2.9", "192.0.2.10"].map(|via| Hop {
        port: bed.nic,
        via: Some(ip(via)),
        weight: 1,
    });
    let route = Imported {
        hops: hops.to_vec(),
        mtu: None,
    };
    assert_eq!(probe(&route), Probe::Fast);
    bed.known.note_route(254, net("10.0.0.0/8"), Some(route));
    bed.edit(|bed, edit| {
        bed.known
            .put_route(edit, net("10.0.0.0/8"), &bed.state, None);
    });
    // Each flow goes where somebody is.
    assert_eq!(bed.mac_of("10.1.1.1"), None);
    bed.hear("192.0.2.10", Some(OTHER));
    for last in 0..50 {
        assert_eq!(bed.mac_of(&format!("10.1.1.{last}")), Some(OTHER));
    }
    bed.hear("192.0.2.9", Some(MAC));
    let spread = (0..50).filter(|last| bed.mac_of(&format!("10.1.1.{last}")) == Some(MAC));
    assert!((5..45).contains(&spread.count()));
}

#[test]
fn of_two_tables_the_first_one_counts() {
    let mut bed = Bed::new();
    bed.hear("192.0.2.9", Some(MAC));
    bed.hear("192.0.2.10", Some(OTHER));
    bed.import(254, "10.0.0.0/8", Some("192.0.2.9"));
    bed.import(100, "10.0.0.0/8", Some("192.0.2.10"));
    assert_eq!(bed.mac_of("10.1.1.1"), Some(OTHER));
    bed.import(100, "10.0.0.0/8", None);
    assert_eq!(bed.mac_of("10.1.1.1"), Some(MAC));
}

#[test]
fn a_port_that_goes_takes_what_is_behind_it_along() {
    let mut bed = Bed::new();
    bed.hear("192.0.2.9", Some(MAC));
    bed.import(254, "10.0.0.0/8", Some("192.0.2.9"));
    let nic_object = Object::Port(Box::new(nic()));
    bed.state.insert_new(nic_object.clone()).unwrap();
    let id = bed.nic;
    // Were anything left behind it, the tables would refuse.
    bed.change(Some(nic_object), None, |_, edit| {
        edit.remove_port(id);
        edit.remove_route(VrfId(0), net("192.0.2.0/24"));
    });
    assert_eq!(bed.mac_of("192.0.2.9"), None);
    assert_eq!(bed.mac_of("10.1.1.1"), None);
    // And when it has another setting only, all stays.
    let mut bed = Bed::new();
    bed.hear("192.0.2.9", Some(MAC));
    let before = Object::Port(Box::new(nic()));
    bed.state.insert_new(before.clone()).unwrap();
    let after = Port {
        egress_default: object::Action::Deny,
        ..nic()
    };
    let after = Object::Port(Box::new(after));
    bed.change(Some(before), Some(after), |_, _| {});
    assert_eq!(bed.mac_of("192.0.2.9"), Some(MAC));
}
