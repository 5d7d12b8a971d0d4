// SPDX-License-Identifier: Apache-2.0
//! A real container runtime, Debian's containerd, loads our network configuration and makes pods over CRI.

use podswitch_tests::containerd::{Containerd, conflist};
use podswitch_tests::{HUNG, Netns, eventually, traffic};
use serde_json::json;

#[test]
fn bridge_proof() {
    let node = Netns::new("node");
    let dir = tempfile::tempdir().unwrap();
    let conf = json!({"cniVersion":"1.0.0","name":"k8snet","type":"bridge","bridge":"cni0","isGateway":true,"isDefaultGateway":true,
      "ipam":{"type":"host-local","dataDir":dir.path(),"ranges":[[{"subnet":"10.244.0.0/24"}],[{"subnet":"fd00:10:244::/64"}]]}});
    let ctr = Containerd::start(&node, &conflist(&conf), &[]);
    let a = ctr.pod("a");
    let b = ctr.pod("b");
    eprintln!("{a:?} {b:?}");
    let na = ctr.netns(&a);
    for ip in &b.ips {
        traffic::ping(&na, *ip);
    }
    for p in [&a, &b] {
        ctr.cri().stop(&p.id).unwrap();
        ctr.cri().remove(&p.id).unwrap();
    }
    eventually("no namespace is left", HUNG, || {
        ctr.netns_left().is_empty().then_some(())
    });
    assert_eq!(node.links(), ["cni0"]);
}
