// SPDX-License-Identifier: Apache-2.0
//! What a real API server said, in `tests/data`.

use std::collections::BTreeMap;
use std::path::Path;

use podswitch_services::{Event, Node, Services};
use serde_json::Value;

use super::common::*;

fn lines(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

fn version(event: &Value) -> u64 {
    let text = event["object"]["metadata"]["resourceVersion"]
        .as_str()
        .unwrap();
    text.parse().unwrap()
}

/// The node `name` with what two lists say.
fn listed(name: &str, when: &str) -> Services {
    let mut all = Services::new(Node {
        name: name.to_owned(),
        ..Node::default()
    });
    for o in lines(&format!("services-{when}.jsonl")) {
        set_service(&mut all, &o);
    }
    for o in lines(&format!("endpointslices-{when}.jsonl")) {
        set_slice(&mut all, &o);
    }
    all
}

/// One event; whether anything came of it.
fn replay(
    all: &mut Services,
    followed: &mut BTreeMap<String, podswitch_api::object::Service>,
    event: &Value,
) -> bool {
    let o = &event["object"];
    let is_service = o["kind"] == "Service";
    let update = match (is_service, event["type"] == "DELETED") {
        (true, false) => set_service(all, o),
        (false, false) => set_slice(all, o),
        (true, true) => all.apply([Event::NoService(&read_service(o).metadata.key())]),
        (false, true) => all.apply([Event::NoSlice(&read_slice(o).metadata.key())]),
    };
    follow(followed, &update);
    assert_eq!(*followed, objects(all));
    !update.changes.is_empty()
}

#[test]
fn a_watch_leads_from_one_list_to_the_other() {
    for node in ["n1", "n2"] {
        let mut all = listed(node, "before");
        let mut followed = objects(&all);
        assert_eq!(followed.len(), 1, "kubernetes alone");
        let mut events = lines("services-watch.jsonl");
        events.extend(lines("endpointslices-watch.jsonl"));
        events.sort_by_key(version);
        let mut most = 0;
        for event in &events {
            // A headless Service that flaps is nobody's business.
            let changed = replay(&mut all, &mut followed, event);
            let of = event["object"]["metadata"]["name"].as_str().unwrap();
            assert!(!(changed && of.starts_with("pg")), "{event}");
            most = most.max(followed.len());
            if version(event) == 838 {
                // One pod ends while others are ready.
                let web = &followed["shop/web:http:ipv4"];
                assert_eq!(texts(&web.backends), ["10.244.0.3:8080", "10.244.1.4:8080"]);
            }
            if let Some(np) = followed.get("shop/web-np::ipv4") {
                assert_eq!(
                    (np.node_port, np.affinity_seconds),
                    (Some(30_080), Some(10_800))
                );
                let here = np.local_backends.len();
                let most = if node == "n1" { 1 } else { 2 };
                assert!(here <= most, "{np:?}");
            }
        }
        assert_eq!(
            most, 7,
            "three ports of web in two families, and kubernetes"
        );
        assert_eq!(problems(&all), [""; 0]);
        assert_eq!(followed, objects(&listed(node, "after")));
        let web = &followed["shop/web:m:ipv6"];
        assert_eq!(web.port, 9090);
        assert_eq!(
            texts(&web.backends),
            ["[fd00:10:244::3]:9090", "[fd00:10:244:1::4]:9090"]
        );
        assert_eq!(
            texts(&followed["default/kubernetes:https:ipv4"].backends),
            ["172.30.0.10:6443"]
        );
    }
}
