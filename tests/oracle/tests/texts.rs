// SPDX-License-Identifier: Apache-2.0
//! The oracle itself: connections whose verdict the Kubernetes texts leave no doubt about.
#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::path::Path;

use podswitch_oracle::cluster::{Cluster, Labels, NamedPort, Namespace, Pod};
use podswitch_oracle::corpus;
use podswitch_oracle::oracle::{Peer, allowed};

/// Namespaces and their labels.
const NAMESPACES: &str = "
    shop stage=production
    ops team=ops
    monitoring
    ingress
    kube-system
    acme-prod tenant=acme
    acme-test tenant=acme,stage=canary
    rival tenant=rival
    vault stage=sensitive
    strange stage=strange
";

/// Pods, their labels and named ports. The n-th one has 10.0.0.n and fd00::n.
const PODS: &str = "
    shop/web app=web http:TCP:8080
    shop/db app=db,tier=backend
    shop/api app=api dns:UDP:5353,http:UDP:8080
    shop/scraper role=scraper
    shop/exporter role=exporter
    shop/media role=media
    shop/mme app=mme s1ap:SCTP:36413
    shop/enb app=enb
    ops/scraper role=scraper
    ops/other app=other
    monitoring/prometheus app=prometheus
    ingress/proxy app=proxy
    kube-system/dns k8s-app=kube-dns
    acme-prod/web app=web metrics:TCP:9100
    acme-test/client app=client
    rival/client app=client,quarantine=true
    vault/secrets app=secrets
    strange/pod app=web
";

fn labels(text: &str) -> Labels {
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=').unwrap();
        (key.to_owned(), value.to_owned())
    };
    text.split(',').map(pair).collect()
}

fn named_port(text: &str) -> NamedPort {
    let parts: Vec<&str> = text.split(':').collect();
    let protocol = ["TCP", "UDP", "SCTP"].into_iter().find(|p| *p == parts[1]);
    NamedPort {
        name: parts[0].to_owned(),
        protocol: protocol.unwrap(),
        number: parts[2].parse().unwrap(),
    }
}

fn words(table: &str) -> impl Iterator<Item = Vec<&str>> {
    let lines = table.lines().map(|l| l.split_whitespace().collect());
    lines.filter(|words: &Vec<&str>| !words.is_empty())
}

fn cluster(file: &str) -> Cluster {
    let mut cluster = Cluster {
        node: vec!["172.30.0.11".parse().unwrap()],
        ..Cluster::default()
    };
    for line in words(NAMESPACES) {
        cluster.namespaces.push(Namespace {
            name: line[0].to_owned(),
            labels: line.get(1).map(|l| labels(l)).unwrap_or_default(),
        });
    }
    for (n, line) in words(PODS).enumerate() {
        let (namespace, name) = line[0].split_once('/').unwrap();
        let ports = line.get(2).map(|p| p.split(',').map(named_port).collect());
        cluster.pods.push(Pod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: format!("uid-{n}"),
            labels: labels(line[1]),
            addresses: vec![
                format!("10.0.0.{n}").parse().unwrap(),
                format!("fd00::{n}").parse().unwrap(),
            ],
            ports: ports.unwrap_or_default(),
            host_network: false,
        });
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("corpus/{file}.yaml"));
    for policy in corpus::manifests(&std::fs::read_to_string(path).unwrap()).unwrap() {
        match policy["kind"] == "NetworkPolicy" {
            true => cluster.network_policies.push(policy),
            false => cluster.cluster_policies.push(policy),
        }
    }
    cluster
}

fn peer(cluster: &Cluster, text: &str, v6: bool) -> Peer {
    match text.split_once('/') {
        Some((namespace, name)) => {
            let pod = cluster.pod(namespace, name).expect(text);
            Peer::pod(pod, pod.addresses[usize::from(v6)])
        }
        None if text == "node" => Peer::Node(cluster.node[0]),
        None => Peer::World(text.parse::<IpAddr>().expect(text)),
    }
}

/// Lines of `source destination protocol/port yes|no`.
fn hold(file: &str, table: &str) {
    let cluster = cluster(file);
    for line in words(table) {
        let v6 = line[..2].iter().any(|peer| peer.contains("::"));
        let (source, destination) = (peer(&cluster, line[0], v6), peer(&cluster, line[1], v6));
        let (protocol, port) = line[2].split_once('/').unwrap();
        let protocol = match protocol {
            "tcp" => 6,
            "udp" => 17,
            "sctp" => 132,
            "icmp" => 1,
            other => panic!("{other}"),
        };
        let port = port.parse().unwrap();
        let verdict = allowed(&cluster, &source, &destination, protocol, port);
        assert_eq!(
            verdict.passes(),
            line[3] == "yes",
            "{file}: {}: {verdict}",
            line.join(" ")
        );
    }
}

#[test]
fn isolation_is_of_a_pod_and_a_direction() {
    hold(
        "np-deny-all",
        "
        shop/web  shop/db   tcp/80 no
        ops/other shop/web  tcp/80 no
        shop/web  ops/other tcp/80 no
        shop/web  8.8.8.8   icmp/0 no
        ops/other monitoring/prometheus tcp/80 yes
        shop/web  shop/web  tcp/80 yes
        node      shop/web  tcp/80 yes
        shop/web  node      tcp/80 yes",
    );
    hold(
        "np-deny-ingress",
        "
        shop/web  ops/other tcp/80 yes
        ops/other shop/web  tcp/80 no",
    );
    hold(
        "np-deny-egress",
        "
        shop/web  ops/other tcp/80 no
        ops/other shop/web  tcp/80 yes",
    );
    // Without policyTypes: ingress, and egress only with egress rules.
    hold(
        "np-deny-one-app",
        "
        shop/web shop/db  tcp/80 no
        shop/web shop/api tcp/80 yes
        shop/db  8.8.8.8  tcp/80 yes",
    );
    hold(
        "np-allow-all-ingress",
        "
        8.8.8.8 shop/web icmp/0 yes
        2001:db8::1 shop/web tcp/1 yes",
    );
    hold("np-allow-all-egress", "shop/web 8.8.8.8 sctp/1 yes");
}

#[test]
fn peers_are_pods_namespaces_or_blocks() {
    hold(
        "np-same-namespace",
        "
        shop/web  shop/db tcp/1 yes
        ops/other shop/db tcp/1 no
        8.8.8.8   shop/db tcp/1 no",
    );
    hold(
        "np-any-namespace",
        "
        rival/client shop/web tcp/1 yes
        8.8.8.8      shop/web tcp/1 no
        8.8.8.8      shop/db  tcp/1 yes",
    );
    hold(
        "np-from-labelled-namespace",
        "
        shop/db   shop/web tcp/1 yes
        acme-test/client shop/web tcp/1 no",
    );
    hold(
        "np-from-pods-of-namespaces",
        "
        ops/scraper  shop/web tcp/1 yes
        ops/other    shop/web tcp/1 no
        shop/scraper shop/web tcp/1 no",
    );
    hold(
        "np-from-pods-or-namespaces",
        "
        ops/scraper  shop/web tcp/1 yes
        ops/other    shop/web tcp/1 yes
        shop/scraper shop/web tcp/1 yes
        shop/db      shop/web tcp/1 no",
    );
    hold(
        "np-from-outside-only",
        "
        8.8.8.8     shop/web tcp/1 yes
        10.9.9.9    shop/web tcp/1 no
        shop/db     shop/web tcp/1 no
        2001:db8::1 shop/web tcp/1 yes
        fd01::1     shop/web tcp/1 no",
    );
    hold(
        "np-egress-to-network",
        "
        shop/exporter 198.51.100.127 tcp/5978 yes
        shop/exporter 198.51.100.128 tcp/5978 no
        shop/exporter 198.51.101.0   tcp/5978 no
        shop/exporter 2001:db8:5::1  tcp/5978 yes
        shop/exporter 2001:db8:6::1  tcp/5978 no
        shop/exporter 198.51.100.127 udp/5978 no",
    );
    hold(
        "np-egress-cluster-only",
        "
        shop/db ops/other tcp/1  yes
        shop/db 8.8.8.8   tcp/1  no
        shop/db 8.8.8.8   udp/53 yes",
    );
    hold(
        "np-expressions",
        "
        shop/exporter shop/web tcp/1 yes
        acme-test/client shop/web tcp/1 yes
        ops/other     shop/web tcp/1 no
        ops/other     shop/exporter tcp/1 yes",
    );
}

#[test]
fn ports_are_of_the_destination() {
    hold(
        "np-from-outside",
        "
        8.8.8.8 shop/web tcp/443 yes
        8.8.8.8 shop/web udp/443 no
        8.8.8.8 shop/web tcp/444 no
        8.8.8.8 shop/web icmp/0  no",
    );
    hold(
        "np-port-range",
        "
        8.8.8.8    shop/media udp/16384 yes
        8.8.8.8    shop/media udp/16383 no
        8.8.8.8    shop/media udp/32767 yes
        8.8.8.8    shop/media udp/32768 no
        8.8.8.8    shop/media tcp/20000 no
        shop/media 10.244.0.9 tcp/32768 yes
        shop/media 10.244.1.9 tcp/32768 no",
    );
    hold(
        "np-sctp",
        "
        shop/enb shop/mme sctp/36412 yes
        shop/enb shop/mme sctp/36413 yes
        shop/enb shop/mme tcp/36413  no
        shop/web shop/mme sctp/36412 no",
    );
    hold(
        "np-named-ports",
        "
        ops/other shop/web tcp/8080 yes
        ops/other shop/web tcp/80   no
        shop/web  shop/api udp/5353 yes
        shop/web  shop/api tcp/8080 no
        shop/web  shop/db  tcp/8080 no
        shop/web  8.8.8.8  tcp/8080 no",
    );
    hold(
        "np-whole-protocol",
        "
        shop/web shop/db udp/65535 yes
        shop/web shop/db tcp/53    no",
    );
    hold(
        "np-egress-dns-only",
        "
        shop/web kube-system/dns udp/53 yes
        shop/web kube-system/dns tcp/53 yes
        shop/web kube-system/dns tcp/54 no
        shop/web ops/other       udp/53 no",
    );
    hold(
        "np-from-named-namespace",
        "monitoring/prometheus shop/web tcp/8080 no",
    );
}

#[test]
fn policies_add_up() {
    hold(
        "np-three-tiers",
        "
        ingress/proxy shop/web tcp/8080 yes
        ingress/proxy shop/api tcp/8080 no
        shop/web shop/api tcp/8080 yes
        shop/api shop/web tcp/8080 no
        shop/api shop/db  tcp/5432 yes
        shop/web shop/db  tcp/5432 no
        shop/api 203.0.113.1 udp/9 yes
        shop/db  203.0.113.1 udp/9 no",
    );
}

#[test]
fn tiers_come_one_after_the_other() {
    hold(
        "cnp-admin-deny-sensitive",
        "
        shop/web vault/secrets tcp/1 no
        8.8.8.8  vault/secrets tcp/1 yes
        vault/secrets shop/web tcp/1 yes",
    );
    hold(
        "cnp-admin-accept-dns",
        "
        shop/web kube-system/dns udp/53 yes
        shop/web kube-system/dns udp/54 yes",
    );
    hold(
        "cnp-all-tiers",
        "
        monitoring/prometheus acme-prod/web tcp/9100 yes
        monitoring/prometheus acme-prod/web tcp/9101 no
        acme-test/client acme-prod/web tcp/80 yes
        acme-test/client acme-prod/web tcp/81 no
        rival/client     acme-prod/web tcp/80 no
        acme-prod/web    acme-test/client tcp/81 yes
        acme-prod/web    rival/client tcp/80 yes
        acme-prod/web    shop/db tcp/80 yes
        rival/client     shop/db tcp/80 no
        shop/web         shop/db tcp/80 no
        shop/web         acme-prod/web tcp/80 no
        8.8.8.8          shop/db tcp/80 yes",
    );
    hold(
        "cnp-admin-networks",
        "
        shop/web ops/other       tcp/1  yes
        shop/web 169.254.169.254 tcp/80 no
        shop/web fd00:ec2::254   udp/80 no
        shop/web 8.8.8.8         tcp/80 yes",
    );
    hold(
        "cnp-baseline-deny",
        "
        shop/web ops/other tcp/1 no
        shop/web 8.8.8.8   tcp/1 no
        8.8.8.8  shop/web  tcp/1 yes",
    );
}

#[test]
fn what_is_not_known_is_closed() {
    hold(
        "cnp-unknown-peers",
        "
        strange/pod ops/other tcp/80 yes
        strange/pod 8.8.8.8   tcp/80 no
        strange/pod ops/other tcp/81 no
        ops/other strange/pod tcp/81 yes",
    );
}
