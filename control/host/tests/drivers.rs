// SPDX-License-Identifier: Apache-2.0
//! What a veth's driver says of itself.

mod common;

use common::Pair;
use podswitch_host::ethtool::Ethtool;
use podswitch_host::link::{self, Veth};

fn pair() -> Pair {
    Pair::new("ps-host-drv")
}

fn ethtool(p: &Pair) -> Ethtool {
    p.node.netns().run(Ethtool::open).unwrap().unwrap()
}

#[test]
fn driver_and_channels() {
    let mut p = pair();
    let tool = ethtool(&p);
    assert_eq!(tool.driver("host0").unwrap().name, "veth");
    let channels = tool.channels("host0").unwrap();
    assert_eq!((channels.rx, channels.tx, channels.combined), (1, 1, 0));
    assert_eq!(
        (channels.max_rx, channels.max_tx, channels.max_combined),
        (1, 1, 0)
    );

    let a = link::VethEnd {
        name: "a",
        mac: [2, 0, 0, 0, 0, 7],
        mtu: 1500,
    };
    let b = link::VethEnd {
        name: "b",
        mac: [2, 0, 0, 0, 0, 8],
        mtu: 1500,
    };
    link::create_veth(
        &mut p.node_socket,
        &Veth {
            queues: 4,
            ..Veth::new(a, b)
        },
    )
    .unwrap();
    assert_eq!(tool.channels("a").unwrap().max_rx, 4);
}

#[test]
fn counters_of_the_driver_count() {
    let mut p = pair();
    p.up();
    let tool = ethtool(&p);
    let stats = tool.stats("host0").unwrap();
    for name in [
        "peer_ifindex",
        "rx_queue_0_xdp_packets",
        "rx_queue_0_xdp_drops",
        "rx_queue_0_drops",
    ] {
        assert!(stats.contains_key(name), "{name} in {stats:?}");
    }
    assert_eq!(stats["peer_ifindex"], u64::from(p.eth0.index));
}

#[test]
fn features_are_read_and_set() {
    let p = pair();
    let tool = ethtool(&p);
    let features = tool.features("host0").unwrap();
    assert!(
        features["tx-checksum-ip-generic"].active && features["tx-checksum-ip-generic"].changeable
    );
    assert!(!features["hw-tc-offload"].changeable);
    tool.set_features(
        "host0",
        &[("tx-checksum-ip-generic", false), ("rx-gro", true)],
    )
    .unwrap();
    let features = tool.features("host0").unwrap();
    assert!(!features["tx-checksum-ip-generic"].active && features["rx-gro"].active);

    let text = tool
        .set_features("host0", &[("no-such-feature", true)])
        .unwrap_err()
        .to_string();
    assert!(text.contains("no-such-feature"), "{text}");
    let text = tool
        .set_features("host0", &[("hw-tc-offload", true)])
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("hw-tc-offload") && text.contains("host0"),
        "{text}"
    );
}

#[test]
fn what_a_veth_does_not_have_is_said() {
    let p = pair();
    let tool = ethtool(&p);
    let error = tool.rings("lo").unwrap_err();
    assert!(
        error.is_unsupported() && error.to_string().contains("lo"),
        "{error}"
    );
    assert!(tool.stats("lo").unwrap().is_empty());
    let error = tool.driver("gone0").unwrap_err();
    assert!(
        error.is_gone() && error.to_string().contains("gone0"),
        "{error}"
    );
    assert!(
        tool.driver("sixteen-bytes-ab")
            .unwrap_err()
            .to_string()
            .contains("sixteen-bytes-ab")
    );
}
