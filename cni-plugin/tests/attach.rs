// SPDX-License-Identifier: Apache-2.0
//! What ADD makes, in real namespaces.

mod common;

use std::net::{IpAddr, UdpSocket};

use common::{Node, eventually, is_link_local, links, namespace};
use ipnet::IpNet;
use podswitch_api::object::{Action, Device, XdpMode};
use podswitch_host::route::{self, Family};
use podswitch_host::sysctl::{self, Key};
use podswitch_host::{addr, deaf, link, tc};
use serde_json::{Value, json};

fn mac(text: &Value) -> Option<[u8; 6]> {
    let mac: podswitch_api::MacAddr = text.as_str().unwrap().parse().unwrap();
    Some(mac.0)
}

/// The address a packet to `to` would have as its source.
fn source(pod: &common::Pod, to: &str) -> IpAddr {
    let to: IpAddr = to.parse().unwrap();
    pod.inside(|_| {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.connect((to, 9)).unwrap();
        socket.local_addr().unwrap().ip()
    })
}

#[test]
fn the_pair_is_as_the_result_says() {
    let node = Node::new();
    let pod = node.pod("c1");
    let (host, inside) = (&pod.result["interfaces"][0], &pod.result["interfaces"][1]);
    let eth0 = pod.eth0();
    let host_end = link::get(&mut node.netns.socket().unwrap(), &pod.host()).unwrap();
    assert_eq!(inside["name"], "eth0");
    assert_eq!(inside["sandbox"], json!(pod.netns.path()));
    assert_eq!(host.get("sandbox"), None);
    for (described, there) in [(host, &host_end), (inside, &eth0)] {
        assert_eq!(mac(&described["mac"]), there.mac);
        assert_eq!(described["mtu"], there.mtu);
        assert!(there.flags.up() && there.flags.lower_up(), "{there:?}");
        assert_eq!(there.kind.as_deref(), Some("veth"));
    }
    assert_eq!(eth0.mtu, 1500);
    assert_eq!(eth0.peer.unwrap().index, host_end.index);
    assert_eq!(host_end.alias.as_deref(), Some("podswitch:net:c1:eth0"));
    assert_eq!(links(&pod.netns), ["eth0"]);
}

#[test]
fn the_host_end_is_deaf_and_closed() {
    let node = Node::new();
    let pod = node.pod("c1");
    let mut socket = node.netns.socket().unwrap();
    let host = pod.host();
    assert!(tc::denied(&mut socket, host.as_str()).unwrap());
    assert_eq!(addr::list(&mut socket, host.as_str()).unwrap(), []);
    let is_deaf = || deaf::is_deaf(&mut socket, &host);
    assert!(node.netns.netns().run(is_deaf).unwrap().unwrap());
}

#[test]
fn addresses_stand_alone_and_are_usable_at_once() {
    let node = Node::new();
    let pod = node.pod("c1");
    let there = pod.addresses();
    let expected: Vec<IpNet> = pod.ips().into_iter().map(IpNet::from).collect();
    assert_eq!(expected.len(), 2);
    for net in &expected {
        let found = there.iter().find(|a| a.net == *net).unwrap();
        assert!(!found.tentative());
        assert!(net.addr().is_ipv4() || found.flags & libc::IFA_F_NODAD != 0);
    }
    assert_eq!(there.len(), 2);
    assert_eq!(source(&pod, "192.0.2.1"), pod.ips()[0]);
    assert_eq!(source(&pod, "2001:db8::1"), pod.ips()[1]);
    // The link-local one waits for nobody either: with detection it would be tentative for a second or more.
    let key = Key::ipv6_conf("eth0", "accept_dad").unwrap();
    assert_eq!(pod.inside(|_| sysctl::get(&key)).unwrap(), "0");
    eventually("the link-local address is usable", || {
        let all = pod.inside(|s| addr::list(s, "eth0")).unwrap();
        all.iter().any(|a| is_link_local(a.ip()) && !a.tentative())
    });
}

#[test]
fn routes_lead_to_a_gateway_on_no_subnet() {
    let node = Node::new();
    let pod = node.pod_of("c1", |call| {
        call.with(|conf| {
            conf["ipam"]["routes"] = json!([{"dst": "10.0.0.0/8", "gw": "10.244.1.1", "mtu": 1400},
                {"dst": "fd00::/8", "priority": 50}, {"dst": "::/0", "mtu": 1300}, {"dst": "192.0.2.0/24", "table": 100}]);
        })
    });
    let index = pod.eth0().index;
    let main = |family| pod.inside(move |s| route::list(s, family, 254)).unwrap();
    let v4: Vec<_> = main(Family::V4);
    let shown = |r: &route::Route| (r.dst.to_string(), r.gateway.map(|g| g.to_string()), r.mtu);
    let gateway = Some("169.254.1.1".to_owned());
    assert_eq!(
        v4.iter().map(shown).collect::<Vec<_>>(),
        [
            ("0.0.0.0/0".to_owned(), gateway.clone(), None),
            ("10.0.0.0/8".to_owned(), gateway, Some(1400))
        ]
    );
    assert!(v4.iter().all(|r| r.onlink && r.link == Some(index)));
    let v6 = main(Family::V6);
    let via = |dst: &str| v6.iter().find(|r| r.dst.to_string() == dst).unwrap();
    assert_eq!(via("::/0").mtu, Some(1300));
    assert_eq!(via("fd00::/8").priority, Some(50));
    for dst in ["::/0", "fd00::/8"] {
        assert_eq!(via(dst).gateway, "fe80::1".parse().ok());
    }
    let other = pod.inside(|s| route::list(s, Family::V4, 100)).unwrap();
    assert_eq!(other.len(), 1);
    assert_eq!(
        pod.result["routes"],
        json!([{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}, {"dst": "10.0.0.0/8", "gw": "169.254.1.1", "mtu": 1400},
            {"dst": "192.0.2.0/24", "gw": "169.254.1.1", "table": 100},
            {"dst": "fd00::/8", "gw": "fe80::1", "priority": 50}, {"dst": "::/0", "gw": "fe80::1", "mtu": 1300}])
    );
    node.again("CHECK", &pod).run().done();
}

#[test]
fn the_daemon_is_given_the_port_with_its_pod() {
    let node = Node::new();
    let pod = node.pod_of("c1", |call| {
        call.args("K8S_POD_UID=u-1;K8S_POD_NAME=web;IgnoreUnknown=1;K8S_POD_NAMESPACE=shop")
            .with(|conf| {
                conf["vrf"] = json!(7);
                conf["mode"] = json!("generic");
                conf["ingressDefault"] = json!("deny");
            })
    });
    let ports = node.daemon.ports();
    let port = &ports[0];
    assert_eq!(port.name, pod.host());
    let device = Device::Veth {
        interface: pod.host(),
        mode: XdpMode::Generic,
    };
    assert_eq!(port.device, device);
    assert_eq!(port.mac.map(|m| m.0), pod.eth0().mac);
    assert_eq!(port.addresses, pod.ips());
    assert_eq!((port.vrf, port.mtu), (7, Some(1500)));
    assert_eq!(
        (port.egress_default, port.ingress_default),
        (Action::Allow, Action::Deny)
    );
    let described = port.pod.clone().unwrap();
    assert_eq!(
        (described.namespace.as_str(), described.name.as_str()),
        ("shop", "web")
    );
    assert_eq!(described.uid.as_deref(), Some("u-1"));
    assert_eq!(
        (described.container_id.as_str(), described.ifname.as_str()),
        ("c1", "eth0")
    );
    assert_eq!(described.network.as_deref(), Some("net"));
    assert_eq!(described.netns.as_deref(), pod.netns.path().to_str());
}

#[test]
fn the_mtu_is_the_configurations_or_the_daemons() {
    let node = Node::new();
    node.daemon.set_mtu(8900);
    assert_eq!(node.pod("c1").eth0().mtu, 8900);
    for mtu in [1280, 65_535] {
        let pod = node.pod_of(&format!("c{mtu}"), |c| {
            c.with(|conf| conf["mtu"] = json!(mtu))
        });
        assert_eq!(pod.eth0().mtu, mtu);
        assert_eq!(pod.result["interfaces"][0]["mtu"], mtu);
    }
    let pod = node.pod_of("v4", |c| {
        c.with(|conf| {
            conf["mtu"] = json!(68);
            conf["ipam"]["ranges"] = json!([[{"subnet": "10.1.0.0/24"}]]);
        })
    });
    assert_eq!(pod.eth0().mtu, 68);
    let netns = namespace();
    let call = node.call("ADD", "small", netns.path());
    call.with(|conf| conf["mtu"] = json!(1279))
        .run()
        .error(7, "1279");
    assert!(links(&netns).is_empty());
    assert_eq!(node.leases().len(), 7, "the refused one gave its back");
}

#[test]
fn a_pod_may_have_one_family_or_none() {
    let node = Node::new();
    for (ranges, v4, v6) in [
        (json!([[{"subnet": "10.1.0.0/24"}]]), 1, 0),
        (json!([[{"subnet": "fd01::/64"}]]), 0, 1),
        (
            json!([[{"subnet": "10.2.0.0/24"}], [{"subnet": "10.3.0.0/24"}]]),
            2,
            0,
        ),
    ] {
        let id = format!("c{v4}{v6}");
        let pod = node.pod_of(&id, |c| c.with(|conf| conf["ipam"]["ranges"] = ranges));
        let there = pod.addresses();
        assert_eq!(there.iter().filter(|a| a.ip().is_ipv4()).count(), v4);
        assert_eq!(there.iter().filter(|a| a.ip().is_ipv6()).count(), v6);
        assert_eq!(pod.result["routes"].as_array().unwrap().len(), 1);
        node.again("CHECK", &pod).run().done();
    }
    for ipam in [json!({}), Value::Null] {
        let id = format!("none-{ipam}").replace(['{', '}'], "x");
        let pod = node.pod_of(&id, |c| c.with(|conf| conf["ipam"] = ipam));
        assert!(pod.addresses().is_empty());
        assert!(pod.eth0().flags.up());
        assert_eq!(pod.result.get("ips"), None);
        node.again("CHECK", &pod).run().done();
        node.again("DEL", &pod).run().done();
    }
}

#[test]
fn a_namespace_where_ipv6_is_off_gets_it_on_this_interface() {
    let node = Node::new();
    let netns = namespace();
    let conf = |interface: &str| Key::ipv6_conf(interface, "disable_ipv6").unwrap();
    netns
        .netns()
        .run(|| {
            for interface in ["all", "default"] {
                sysctl::set(&conf(interface), "1").unwrap();
            }
            assert_eq!(sysctl::get(&conf("lo")).unwrap(), "1");
        })
        .unwrap();
    let result = node.call("ADD", "c1", netns.path()).run().result();
    let v6: IpAddr = result["ips"][1]["address"]
        .as_str()
        .and_then(|a| a.strip_suffix("/128"))
        .unwrap()
        .parse()
        .unwrap();
    let to_itself = netns.netns().run(|| {
        let (a, b) = (
            UdpSocket::bind((v6, 0)).unwrap(),
            UdpSocket::bind((v6, 0)).unwrap(),
        );
        a.send_to(b"x", b.local_addr().unwrap()).unwrap();
        b.set_read_timeout(Some(std::time::Duration::from_secs(20)))
            .unwrap();
        b.recv(&mut [0; 1]).unwrap()
    });
    assert_eq!(to_itself.unwrap(), 1);
}

#[test]
fn a_pod_in_two_networks_keeps_the_default_route_of_the_first() {
    let node = Node::new();
    let pod = node.pod("c1");
    let second = node
        .call("ADD", "c1", pod.netns.path())
        .ifname("net1")
        .with(|conf| {
            conf["name"] = json!("other");
            conf["ipam"]["ranges"] =
                json!([[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd09::/64"}]]);
            conf["ipam"]["routes"] = json!([{"dst": "10.8.0.0/16"}]);
        });
    let result = second.run().result();
    assert_eq!(
        result["routes"],
        json!([{"dst": "10.8.0.0/16", "gw": "169.254.1.1"}])
    );
    assert_eq!(links(&pod.netns), ["eth0", "net1"]);
    assert_eq!(source(&pod, "192.0.2.1"), pod.ips()[0]);
    assert_eq!(source(&pod, "10.8.1.1").to_string(), "10.9.0.2");
    let mut check = node.call("CHECK", "c1", pod.netns.path()).ifname("net1");
    check.conf = second.conf.clone();
    check.conf["prevResult"] = result;
    check.run().done();
    node.again("CHECK", &pod).run().done();
    check.command = "DEL".into();
    check.run().done();
    assert_eq!(links(&pod.netns), ["eth0"]);
    node.again("CHECK", &pod).run().done();
}

#[test]
fn capabilities_and_arguments_choose_addresses_and_mac() {
    let node = Node::new();
    let pod = node.pod_of("c1", |c| {
        c.args("IP=10.244.1.99;MAC=02:00:00:00:00:63").with(|conf| {
            conf["runtimeConfig"] = json!({
                "ips": ["10.244.1.77/24", "fd00:244:1::77"],
                "mac": "02:11:22:33:44:55",
                "ipRanges": [[{"subnet": "10.99.0.0/24", "gateway": "10.99.0.9"}]],
                "dns": {"Servers": ["10.96.0.10"], "Searches": ["svc.cluster.local"], "Options": null},
            });
        })
    });
    let ips: Vec<String> = pod.ips().iter().map(ToString::to_string).collect();
    assert_eq!(ips, ["10.99.0.1", "10.244.1.77", "fd00:244:1::77"]);
    assert_eq!(pod.eth0().mac, Some([2, 0x11, 0x22, 0x33, 0x44, 0x55]));
    assert_eq!(
        pod.result["dns"],
        json!({"nameservers": ["10.96.0.10"], "search": ["svc.cluster.local"]})
    );
    node.again("CHECK", &pod).run().done();
    let pod = node.pod_of("c2", |c| c.args("MAC=02:00:00:00:00:63;IP=10.244.1.99"));
    assert_eq!(pod.ips()[0].to_string(), "10.244.1.99");
    assert_eq!(pod.eth0().mac, Some([2, 0, 0, 0, 0, 0x63]));
    let netns = namespace();
    let add = || node.call("ADD", "c3", netns.path());
    let wants = |config: Value| add().with(|conf| conf["runtimeConfig"] = config);
    wants(json!({"mac": "03:00:00:00:00:01"}))
        .run()
        .error(7, "03:00:00:00:00:01");
    wants(json!({"ips": ["10.244.1.77"]}))
        .run()
        .error(7, "held by container c1");
    wants(json!({"ips": ["10.1.1.1"]}))
        .run()
        .error(7, "10.1.1.1");
    wants(json!({"ips": ["10.244.1.1"]}))
        .with(|conf| conf["ipam"] = json!({}))
        .run()
        .error(7, "runtimeConfig.ips");
    wants(json!({"bandwidth": {"ingressRate": 8}}))
        .run()
        .error(2, "bandwidth");
    wants(json!({"portMappings": [{"hostPort": 80, "containerPort": 80, "protocol": "sctp"}]}))
        .run()
        .error(2, "portMappings");
    add().args("MAC=zero").run().error(4, "MAC=zero");
    add().args("IP=one").run().error(4, "IP=one");
    assert!(links(&netns).is_empty());
    assert_eq!(node.leases().len(), 5);
}
