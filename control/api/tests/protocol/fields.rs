// SPDX-License-Identifier: Apache-2.0
//! What one object must be by itself.

use podswitch_api::ErrorCode;
use podswitch_api::desired::{Bounds, check_object};
use podswitch_api::object::{HOST_MAC, HOST_POLLED};
use serde_json::{Value, json};

use super::common::*;

#[test]
fn every_field_out_of_its_range_is_refused_by_name() {
    let segment = json!({"kind": "segment", "name": "s", "id": 5});
    let route = json!({"kind": "route", "prefix": "10.1.0.0/16", "port": "a"});
    let neighbor =
        json!({"kind": "neighbor", "port": "a", "address": "10.0.0.9", "mac": "02:00:00:00:00:09"});
    let fdb = json!({"kind": "fdb", "segment": "s", "mac": "02:00:00:00:00:09", "port": "a"});
    let rule = rule("r", "a");
    let l2 = l2_port("l", 1, json!({"name": "s"}));
    let nic = json!({"kind": "port", "name": "up", "device": {"kind": "nic", "interface": "eth0"}});
    let given = |field: &str, value: Value| {
        let mut nic = nic.clone();
        nic[field] = value;
        nic
    };
    let tunnel = |path: &str, value: Value| {
        let device = json!({"kind": "vxlan", "vni": 7});
        let port =
            json!({"kind": "port", "name": "t", "mac": "02:00:00:00:00:07", "device": device});
        with(port, path, value)
    };
    let host = |path: &str, value: Value| {
        let device = json!({"kind": "host", "pods": ["10.244.1.0/24"], "egress": ["eth0"]});
        with(
            json!({"kind": "port", "name": "h", "device": device}),
            path,
            value,
        )
    };
    let guest = |path: &str, value: Value| {
        let device = json!({"kind": "vhost_user", "socket": "/run/g", "gid": 107});
        with(with(port("a", 1), "/device", device), path, value)
    };
    let led = |mappings: Value| with(port("a", 1), "/host_ports", mappings);
    let group = |path: &str, value: Value| {
        let group =
            json!({"kind": "group", "id": 7, "namespace": "shop", "labels": {"app": "web"}});
        with(group, path, value)
    };
    let service = |path: &str, value: Value| with(service("web", "10.96.0.1"), path, value);
    let external = |value: Value| service("/external", json!([value]));
    let hop = json!({"via": "10.0.0.9", "port": "a"});
    let other = json!({"via": "10.0.0.8", "port": "a", "weight": 3});
    let hops = |hops: Value| json!({"kind": "route", "prefix": "10.1.0.0/16", "nexthops": hops});
    let cases = [
        (service("/name", json!("a b")), "name"),
        (service("/protocol", json!("icmp")), "protocol"),
        (service("/port", json!(0)), "port"),
        (service("/node_port", json!(0)), "node_port"),
        (service("/addresses", json!([])), "addresses"),
        (service("/addresses", json!(["0.0.0.0"])), "addresses[0]"),
        (service("/addresses", json!(["127.0.0.1"])), "addresses[0]"),
        (service("/addresses", json!(["224.0.0.1"])), "addresses[0]"),
        (
            service("/addresses", json!(["169.254.0.9"])),
            "addresses[0]",
        ),
        (
            service("/addresses", json!(["169.254.1.1"])),
            "addresses[0]",
        ),
        (
            service("/addresses", json!(["10.96.0.1", "fd00::1"])),
            "addresses[1]",
        ),
        (
            service("/addresses", json!(["10.96.0.1", "10.96.0.1"])),
            "addresses[1]",
        ),
        (
            external(json!({"address": "10.96.0.1"})),
            "external[0].address",
        ),
        (
            external(json!({"address": "fd00::7"})),
            "external[0].address",
        ),
        (
            external(json!({"address": "192.0.2.1", "sources": ["10.0.0.1/8"]})),
            "external[0].sources[0]",
        ),
        (
            external(json!({"address": "192.0.2.1", "sources": ["fd00::/8"]})),
            "external[0].sources[0]",
        ),
        (service("/affinity_seconds", json!(0)), "affinity_seconds"),
        (
            service("/affinity_seconds", json!(86_401)),
            "affinity_seconds",
        ),
        (
            service("/backends", json!([{"address": "fe80::1", "port": 1}])),
            "backends[0].address",
        ),
        (
            service("/backends", json!([{"address": "10.0.0.1", "port": 0}])),
            "backends[0].port",
        ),
        (
            service(
                "/local_backends",
                json!([{"address": "10.0.0.1", "port": 1}, {"address": "10.0.0.1", "port": 1}]),
            ),
            "local_backends[1]",
        ),
        (group("/id", json!(0)), "id"),
        (group("/namespace", json!("Shop")), "namespace"),
        (group("/labels", json!({"a b": "c"})), "labels"),
        (group("/labels", json!({"app": "-"})), "labels.app"),
        (guest("/device/socket", json!("run/g")), "device.socket"),
        (
            guest("/device/socket", json!(format!("/{}", "g".repeat(107)))),
            "device.socket",
        ),
        (guest("/device/queues", json!(0)), "device.queues"),
        (guest("/device/queues", json!(33)), "device.queues"),
        (guest("/device/mode", json!("client")), "device.gid"),
        (
            with(nic.clone(), "/device/interface", json!("a b")),
            "device.interface",
        ),
        (
            with(
                nic.clone(),
                "/device",
                json!({"kind": "nic", "interface": "eth0", "vlan": 0}),
            ),
            "device.vlan",
        ),
        (
            with(
                nic.clone(),
                "/device",
                json!({"kind": "nic", "interface": "eth0", "vlan": 4095}),
            ),
            "device.vlan",
        ),
        (
            with(
                nic.clone(),
                "/device",
                json!({"kind": "nic", "interface": "eth0", "zero_copy_queues": [1, 1]}),
            ),
            "device.zero_copy_queues",
        ),
        (
            with(
                nic.clone(),
                "/device",
                json!({"kind": "nic", "interface": "eth0", "mode": "generic", "zero_copy_queues": [1]}),
            ),
            "device.zero_copy_queues",
        ),
        (
            with(
                nic.clone(),
                "/device",
                json!({"kind": "nic", "interface": "eth0", "zero_copy_shared": true}),
            ),
            "device.zero_copy_shared",
        ),
        (tunnel("/device/vni", json!(1 << 24)), "device.vni"),
        (tunnel("/device/udp_port", json!(0)), "device.udp_port"),
        (
            tunnel("/device/underlay_vrf", json!(1 << 24)),
            "device.underlay_vrf",
        ),
        (
            tunnel("/device/local", json!(["192.0.2.1", "192.0.2.2"])),
            "device.local",
        ),
        (
            tunnel("/device/local", json!(["224.0.0.1"])),
            "device.local",
        ),
        (tunnel("/addresses", json!(["10.0.0.1"])), "addresses"),
        (tunnel("/segment", json!({"name": "s"})), "segment"),
        (tunnel("/node", json!(true)), "node"),
        (tunnel("/mac", Value::Null), "mac"),
        (host("/device/interface", json!("a*")), "device.interface"),
        (
            host("/device/interface", json!(HOST_POLLED)),
            "device.interface",
        ),
        (host("/device/pods", json!([])), "device.pods"),
        (host("/device/pods", json!(["::/0"])), "device.pods"),
        (
            host("/device/pods", json!(["10.244.1.1/24"])),
            "device.pods",
        ),
        (
            host("/device/pods", json!(["fd00::/64", "fd00::/64"])),
            "device.pods",
        ),
        (
            host("/device/egress", json!(["podswitch0"])),
            "device.egress",
        ),
        (
            host("/device/egress", json!(["eth0", "eth0"])),
            "device.egress",
        ),
        (
            host(
                "/device",
                json!({"kind": "host", "pods": ["10.244.1.0/24"], "except": ["10.0.0.0/8"]}),
            ),
            "device.except",
        ),
        (
            host(
                "/device",
                json!({"kind": "host", "pods": ["10.244.1.0/24"], "masquerade": false}),
            ),
            "device.masquerade",
        ),
        (host("/mac", json!("02:00:00:00:00:07")), "mac"),
        (host("/segment", json!({"name": "s"})), "segment"),
        (host("/node", json!(true)), "node"),
        (host("/addresses", json!(["127.0.0.1"])), "addresses"),
        (hops(json!([hop])), "nexthops"),
        (hops(json!([hop, hop])), "nexthops.via"),
        (
            hops(json!([hop, {"via": "10.0.0.8", "port": "a", "weight": 0}])),
            "nexthops.weight",
        ),
        (
            hops(json!([hop, {"via": "224.0.0.1", "port": "a"}])),
            "nexthops.via",
        ),
        (
            hops(json!([hop, {"via": "10.0.0.8", "port": ""}])),
            "nexthops.port",
        ),
        (
            with(hops(json!([hop, other])), "/via", json!("10.0.0.7")),
            "via",
        ),
        (with(hops(json!([hop, other])), "/port", json!("a")), "port"),
        (
            with(hops(json!([hop, other])), "/type", json!("blackhole")),
            "nexthops",
        ),
        (
            with(
                nic.clone(),
                "/device",
                json!({"kind": "nic", "interface": "eth0", "routes": 0}),
            ),
            "device.routes",
        ),
        (
            with(
                nic.clone(),
                "/device",
                json!({"kind": "nic", "interface": "eth0", "routes": 255}),
            ),
            "device.routes",
        ),
        (
            with(
                with(nic.clone(), "/device/routes", json!(254)),
                "/vrf",
                json!(7),
            ),
            "device.routes",
        ),
        (given("mac", json!("02:00:00:00:00:01")), "mac"),
        (given("mtu", json!(1500)), "mtu"),
        (given("addresses", json!(["10.0.0.1"])), "addresses"),
        (given("segment", json!({"name": "s"})), "segment"),
        (
            given("pod", json!({"container_id": "c", "ifname": "eth0"})),
            "pod",
        ),
        (given("node", json!(true)), "node"),
        (given("vrf", json!(1 << 24)), "vrf"),
        (
            given("host_ports", json!([{"host_port": 1, "container_port": 1}])),
            "host_ports",
        ),
        (
            with(
                l2.clone(),
                "/host_ports",
                json!([{"host_port": 1, "container_port": 1}]),
            ),
            "host_ports",
        ),
        (
            led(json!([{"host_port": 0, "container_port": 1}])),
            "host_ports",
        ),
        (
            led(json!([{"host_port": 1, "container_port": 0}])),
            "host_ports",
        ),
        (
            led(json!([{"protocol": "sctp", "host_port": 1, "container_port": 1}])),
            "host_ports.protocol",
        ),
        (
            led(json!([{"host_ip": "127.0.0.1", "host_port": 1, "container_port": 1}])),
            "host_ports.host_ip",
        ),
        // The port has no address of this family.
        (
            with(
                led(json!([{"host_ip": "::", "host_port": 1, "container_port": 1}])),
                "/addresses",
                json!(["10.0.0.1"]),
            ),
            "host_ports",
        ),
        (
            led(
                json!([{"host_port": 1, "container_port": 1}, {"host_ip": "0.0.0.0", "host_port": 1, "container_port": 2}]),
            ),
            "host_ports",
        ),
        (port("", 1), "name"),
        (port("a b", 1), "name"),
        (port(&"x".repeat(129), 1), "name"),
        (
            with(port("a", 1), "/device/interface", json!("a/b")),
            "device.interface",
        ),
        (
            with(port("a", 1), "/device/interface", json!("sixteen-bytes-xx")),
            "device.interface",
        ),
        (
            with(port("a", 1), "/device", json!({"kind": "memory"})),
            "device",
        ),
        (
            with(port("a", 1), "/device", json!({"kind": "pcap"})),
            "device",
        ),
        (
            with(
                port("a", 1),
                "/device",
                json!({"kind": "pcap", "replay": "in"}),
            ),
            "device.replay",
        ),
        (
            with(
                port("a", 1),
                "/device",
                json!({"kind": "pcap", "replay": "/f", "record": "/f"}),
            ),
            "device.record",
        ),
        (
            with(port("a", 1), "/mac", json!("ff:ff:ff:ff:ff:ff")),
            "mac",
        ),
        (
            with(port("a", 1), "/mac", json!("02:70:6f:64:73:77")),
            "mac",
        ),
        (with(port("a", 1), "/mac", Value::Null), "mac"),
        (
            with(port("a", 1), "/addresses", json!(["169.254.1.1"])),
            "addresses",
        ),
        (
            with(port("a", 1), "/addresses", json!(["fe80::1"])),
            "addresses",
        ),
        (
            with(port("a", 1), "/addresses", json!(["127.0.0.1"])),
            "addresses",
        ),
        (
            with(port("a", 1), "/addresses", json!(["0.0.0.0"])),
            "addresses",
        ),
        (
            with(port("a", 1), "/addresses", json!(["224.0.0.1"])),
            "addresses",
        ),
        (
            with(port("a", 1), "/addresses", json!(["255.255.255.255"])),
            "addresses",
        ),
        (
            with(port("a", 1), "/addresses", json!(["::ffff:10.0.0.1"])),
            "addresses",
        ),
        (
            with(port("a", 1), "/addresses", json!(["10.0.0.1", "10.0.0.1"])),
            "addresses",
        ),
        (with(port("a", 1), "/vrf", json!(1 << 24)), "vrf"),
        (with(port("a", 1), "/mtu", json!(67)), "mtu"),
        (with(port("a", 1), "/mtu", json!(65536)), "mtu"),
        (with(port("a", 1), "/mtu", json!(1279)), "mtu"),
        (with(port("a", 1), "/worker", json!(1)), "worker"),
        (
            with(
                port("a", 1),
                "/pod",
                json!({"container_id": "", "ifname": "eth0"}),
            ),
            "pod.container_id",
        ),
        (
            with(
                port("a", 1),
                "/pod",
                json!({"container_id": "c", "ifname": ""}),
            ),
            "pod.ifname",
        ),
        (
            with(
                port("a", 1),
                "/pod",
                json!({"container_id": "c\n", "ifname": "eth0"}),
            ),
            "pod.container_id",
        ),
        (
            with(
                with(port("a", 1), "/node", json!(true)),
                "/pod",
                json!({"container_id": "c", "ifname": "eth0"}),
            ),
            "node",
        ),
        (with(l2.clone(), "/node", json!(true)), "node"),
        (
            with(l2.clone(), "/addresses", json!(["10.0.0.1"])),
            "addresses",
        ),
        (with(l2.clone(), "/vrf", json!(1)), "vrf"),
        (
            with(l2.clone(), "/segment/vlan", json!({"access": 0})),
            "segment.vlan",
        ),
        (
            with(l2.clone(), "/segment/vlan", json!({"access": 4095})),
            "segment.vlan",
        ),
        (
            with(l2.clone(), "/segment/vlan", json!({"trunk": []})),
            "segment.vlan",
        ),
        (
            with(l2.clone(), "/segment/vlan", json!({"trunk": [2, 1]})),
            "segment.vlan",
        ),
        (
            with(l2, "/segment/vlan", json!({"trunk": [1, 1]})),
            "segment.vlan",
        ),
        (with(segment.clone(), "/id", json!(0)), "id"),
        (with(segment.clone(), "/id", json!(1 << 24)), "id"),
        (
            with(segment.clone(), "/ageing_seconds", json!(0)),
            "ageing_seconds",
        ),
        (with(segment, "/max_entries", json!(0)), "max_entries"),
        (
            with(route.clone(), "/prefix", json!("10.1.0.1/16")),
            "prefix",
        ),
        (
            with(route.clone(), "/prefix", json!("224.0.0.0/4")),
            "prefix",
        ),
        (
            with(route.clone(), "/prefix", json!("169.254.1.1/32")),
            "prefix",
        ),
        (with(route.clone(), "/port", Value::Null), "port"),
        (with(route.clone(), "/type", json!("blackhole")), "port"),
        (with(route.clone(), "/via", json!("169.254.1.1")), "via"),
        (with(route, "/mtu", json!(20)), "mtu"),
        (
            with(neighbor.clone(), "/mac", json!("01:00:00:00:00:01")),
            "mac",
        ),
        (
            with(neighbor.clone(), "/address", json!("169.254.1.1")),
            "address",
        ),
        (with(neighbor, "/vrf", json!(1 << 24)), "vrf"),
        (with(fdb.clone(), "/mac", json!("00:00:00:00:00:00")), "mac"),
        (with(fdb, "/vlan", json!(4095)), "vlan"),
        (with(rule.clone(), "/source", json!("10.0.0.1/8")), "source"),
        (
            with(
                with(rule.clone(), "/source", json!("10.0.0.0/8")),
                "/destination",
                json!("fd00::/8"),
            ),
            "destination",
        ),
        (
            with(rule.clone(), "/ports", json!({"first": 1, "last": 2})),
            "ports",
        ),
        (
            with(
                with(rule.clone(), "/ports", json!({"first": 2, "last": 1})),
                "/protocol",
                json!("tcp"),
            ),
            "ports",
        ),
        (
            with(
                with(rule.clone(), "/ports", json!({"first": 1, "last": 1})),
                "/protocol",
                json!("icmp"),
            ),
            "ports",
        ),
        (
            with(
                with(rule.clone(), "/source", json!("fd00::/8")),
                "/protocol",
                json!("icmp"),
            ),
            "protocol",
        ),
        (
            with(
                with(rule, "/source", json!("10.0.0.0/8")),
                "/protocol",
                json!("icmpv6"),
            ),
            "protocol",
        ),
    ];
    for (value, field) in cases {
        let o = object(value.clone());
        let error = check_object(&o, &Bounds::default()).unwrap_err();
        let data = error.data.clone().unwrap();
        assert_eq!(data.field.as_deref(), Some(field), "{error} for {value}");
        assert_eq!(data.kind.as_deref(), Some(o.kind().name()));
        assert!(data.hint.is_some() && data.key.is_some(), "{error:?}");
        assert!(
            error.message.starts_with(o.kind().name()) && error.message.contains(field),
            "{error}"
        );
    }
}

/// A next hop is of the prefix's family, unless it is the other end of a tunnel.
#[test]
fn a_next_hop_of_another_family_needs_a_tunnel() {
    let device = json!({"kind": "vxlan", "vni": 7});
    let tunnel = json!({"kind": "port", "name": "t", "mac": "02:00:00:00:00:07", "device": device});
    let mut model = model(&[set(port("a", 1)), set(tunnel)]);
    let route = |port: &str, via: Value| {
        let mut route = json!({"kind": "route", "prefix": "10.1.0.0/16", "port": port});
        route["via"] = via;
        set(route)
    };
    let words = ["fd00::9", "family"];
    let by_pod = [route("a", json!("fd00::9"))];
    refused(&mut model, &by_pod, ErrorCode::Refused, &words);
    let on_link = [route("t", Value::Null)];
    refused(&mut model, &on_link, ErrorCode::Refused, &["t", "tunnel"]);
    model.apply(&[route("t", json!("fd00::9"))]).unwrap();
}

/// Two frontends at one place would be served in turns.
#[test]
fn a_socket_is_one_ports() {
    let guest = |name: &str, n: u8| {
        let device = json!({"kind": "vhost_user", "socket": "/run/g"});
        set(with(port(name, n), "/device", device))
    };
    let mut model = model(&[guest("a", 1)]);
    let words = ["b", "a", "socket /run/g"];
    refused(&mut model, &[guest("b", 2)], ErrorCode::Conflict, &words);
}

/// Programs on NICs look for so many UDP ports.
#[test]
fn tunnels_end_at_few_udp_ports() {
    let tunnel = |n: u8, udp_port: u16| {
        let device = json!({"kind": "vxlan", "vni": n, "udp_port": udp_port});
        let mac = format!("02:00:00:00:01:{n:02x}");
        set(json!({"kind": "port", "name": format!("t{n}"), "mac": mac, "device": device}))
    };
    let four: Vec<_> = (0..4).map(|n| tunnel(n, 4789 + u16::from(n))).collect();
    let mut model = model(&four);
    let fifth = [tunnel(4, 5000)];
    let error = refused(&mut model, &fifth, ErrorCode::Limit, &["t4", "5 UDP ports"]);
    let data = error.data.unwrap();
    assert_eq!(data.field.as_deref(), Some("device.udp_port"));
    model.apply(&[tunnel(4, 4789)]).unwrap();
    model.apply(&[tunnel(3, 5000)]).unwrap();
}

/// The node has one stack, and its interfaces are nobody else's.
#[test]
fn there_is_one_host_and_its_interfaces_are_its_own() {
    let host = |name: &str, interface: &str| {
        let device = json!({"kind": "host", "interface": interface, "pods": ["10.244.1.0/24"]});
        set(json!({"kind": "port", "name": name, "device": device}))
    };
    let mut model = model(&[host("h", "podswitch0")]);
    let second = [host("i", "second0")];
    refused(
        &mut model,
        &second,
        ErrorCode::Conflict,
        &["i", "h", "stack"],
    );
    let veth = |interface: &str| {
        let mut veth = port("a", 1);
        veth["device"]["interface"] = json!(interface);
        [set(veth)]
    };
    for taken in ["podswitch0", HOST_POLLED] {
        refused(&mut model, &veth(taken), ErrorCode::Conflict, &[taken, "h"]);
    }
    let mut mac = port("a", 1);
    mac["mac"] = json!(HOST_MAC);
    refused(
        &mut model,
        &[set(mac)],
        ErrorCode::Conflict,
        &["02:70", "h"],
    );
}
