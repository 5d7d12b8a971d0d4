// SPDX-License-Identifier: Apache-2.0
//! Kubernetes manifests: what is taken from them, and what is refused by name.
#![forbid(unsafe_code)]

use podswitch_api::desired::{Bounds, check_object};
use podswitch_api::object::Object;
use podswitch_policy::manifest::{keys, read};
use serde_json::{Value, json};

/// The objects of a manifest, as the control protocol has them.
#[track_caller]
fn objects(manifest: Value) -> Value {
    let objects = read(&manifest).unwrap_or_else(|e| panic!("{e}: {manifest}"));
    let named: Vec<_> = objects.iter().map(Object::key).collect();
    assert_eq!(keys(&manifest).unwrap(), named);
    for object in &objects {
        check_object(object, &Bounds::default()).unwrap();
    }
    serde_json::to_value(&objects).unwrap()
}

fn pod(spec: Value, status: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": "web-0", "uid": "u-1",
        "labels": {"app": "web"}, "annotations": {"a": 1}}, "spec": spec, "status": status})
}

fn policy(spec: Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p"}, "spec": spec})
}

fn cluster_policy(spec: Value) -> Value {
    json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": "c"},
        "spec": spec})
}

#[test]
fn a_namespace_has_labels() {
    let manifest = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "a"},
        "resourceVersion": "7"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
    assert_eq!(
        objects(manifest),
        json!([{"kind": "namespace", "name": "shop", "labels": {"team": "a"}}])
    );
    let bare = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": null}});
    assert_eq!(
        objects(bare),
        json!([{"kind": "namespace", "name": "shop"}])
    );
}

#[test]
fn a_pod_has_addresses_and_the_named_ports_of_what_goes_on_running() {
    let spec = json!({
        "hostNetwork": false,
        "containers": [
            {"name": "a", "image": "x", "ports": [{"containerPort": 80}, {"name": "http", "containerPort": 8080, "protocol": "TCP"}]},
            {"name": "b", "ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}, {"name": "http", "containerPort": 8080}]},
        ],
        "initContainers": [
            {"name": "setup", "ports": [{"name": "gone", "containerPort": 1}]},
            {"name": "proxy", "restartPolicy": "Always", "ports": [{"name": "admin", "containerPort": 15000}]},
        ],
    });
    let status = json!({"phase": "Running", "hostIP": "192.0.2.1", "podIP": "10.0.0.7",
        "podIPs": [{"ip": "10.0.0.7"}, {"ip": "fd00::7"}]});
    assert_eq!(
        objects(pod(spec, status)),
        json!([{"kind": "pod", "namespace": "shop", "name": "web-0", "uid": "u-1", "labels": {"app": "web"},
            "addresses": ["10.0.0.7", "fd00::7"],
            "ports": [{"name": "http", "containerPort": 8080}, {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                {"name": "admin", "containerPort": 15000}]}])
    );
}

#[test]
fn a_pod_has_addresses_while_it_is_there() {
    for (status, addresses) in [
        (json!({"podIP": "10.0.0.7"}), json!(["10.0.0.7"])),
        (
            json!({"podIP": "10.0.0.7", "podIPs": []}),
            json!(["10.0.0.7"]),
        ),
        (json!({"phase": "Pending", "podIP": ""}), Value::Null),
        (
            json!({"phase": "Succeeded", "podIP": "10.0.0.7"}),
            Value::Null,
        ),
        (
            json!({"phase": "Failed", "podIPs": [{"ip": "10.0.0.7"}]}),
            Value::Null,
        ),
        (Value::Null, Value::Null),
    ] {
        assert_eq!(
            objects(pod(json!({}), status.clone()))[0]["addresses"],
            addresses,
            "{status}"
        );
    }
    let host = pod(json!({"hostNetwork": true}), json!({"podIP": "192.0.2.1"}));
    assert_eq!(objects(host)[0]["host_network"], true);
}

#[test]
fn a_policy_without_a_namespace_is_in_default() {
    let spec = json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"namespaceSelector": {}}], "ports": [{"port": "http"}, {"port": 80, "endPort": 90}]}]});
    assert_eq!(
        objects(policy(spec.clone())),
        json!([{"kind": "network_policy", "namespace": "default", "name": "p", "spec": spec}])
    );
    let spec = json!({"tier": "Admin", "priority": 7, "subject": {"namespaces": {}},
        "egress": [{"action": "Deny", "to": [{"networks": ["192.0.2.0/24"]}]}]});
    assert_eq!(
        objects(cluster_policy(spec.clone())),
        json!([{"kind": "cluster_network_policy", "name": "c", "spec": spec}])
    );
}

#[test]
fn what_is_null_is_not_there() {
    let written = policy(
        json!({"podSelector": null, "ingress": [{"from": null, "ports": [{"port": 80, "endPort": null}]}],
        "egress": null, "policyTypes": null}),
    );
    let bare = policy(json!({"ingress": [{"ports": [{"port": 80}]}]}));
    assert_eq!(objects(written), objects(bare));
    // A peer that is null is not a peer that is not there.
    assert!(read(&policy(json!({"ingress": [{"from": [null]}]}))).is_err());
    // Without a spec a policy isolates every pod of the namespace.
    let bare = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p"}});
    assert_eq!(objects(bare), objects(policy(json!({"podSelector": {}}))));
}

#[test]
fn peers_and_ports_of_unknown_kinds_are_kept_as_such() {
    let spec =
        json!({"ingress": [{"from": [{"serviceSelector": {}}], "ports": [{"portSet": "a"}]}]});
    let rule = &objects(policy(spec))[0]["spec"]["ingress"][0];
    assert_eq!(
        (&rule["from"][0]["unknown"], &rule["ports"][0]["unknown"]),
        (&json!(true), &json!(true))
    );
}

#[test]
fn lists_stand_for_their_items() {
    let namespace =
        |name: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let mixed = json!({"apiVersion": "v1", "kind": "List", "items": [namespace("a"), policy(json!({})),
        {"apiVersion": "v1", "kind": "List", "items": [namespace("b")]}]});
    let read_of = |manifest: Value| objects(manifest).as_array().unwrap().len();
    assert_eq!(read_of(mixed), 3);
    let typed = json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicyList", "metadata": {"continue": ""},
        "items": [{"metadata": {"name": "c"}, "spec": {"tier": "Baseline", "priority": 0, "subject": {"namespaces": {}}}}]});
    assert_eq!(objects(typed)[0]["kind"], "cluster_network_policy");
    for items in [json!([]), Value::Null] {
        assert_eq!(
            read_of(json!({"apiVersion": "v1", "kind": "PodList", "items": items})),
            0
        );
    }
}

#[test]
fn keys_need_no_spec() {
    let bare = json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": "c"}});
    assert_eq!(
        keys(&bare).unwrap()[0].to_string(),
        "cluster_network_policy c"
    );
    let wrong = policy(json!({"podSelectors": {}}));
    assert_eq!(
        keys(&wrong).unwrap()[0].to_string(),
        "network_policy default/p"
    );
}

/// Every word is in the complaint.
#[track_caller]
fn refused(manifest: Value, words: &[&str]) {
    let error = read(&manifest).expect_err(&manifest.to_string());
    let text = error.to_string();
    assert!(!error.hint.is_empty() && text.len() < 2048, "{text}");
    words
        .iter()
        .for_each(|word| assert!(text.contains(word), "{word} is not in {text}"));
}

#[test]
fn errors_name_the_document_the_field_and_the_value() {
    refused(
        json!([]),
        &["not an object", "apiVersion, kind and metadata"],
    );
    refused(
        json!({"apiVersion": "v1", "metadata": {"name": "a"}}),
        &["kind: not a word"],
    );
    refused(
        json!({"kind": "Pod", "metadata": {"name": "a"}}),
        &["apiVersion: not a word"],
    );
    let deployment =
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}});
    refused(
        deployment,
        &[
            "kind",
            "Deployment",
            "not known",
            "NetworkPolicy, ClusterNetworkPolicy",
        ],
    );
    let admin =
        json!({"apiVersion": "policy.networking.k8s.io/v1alpha1", "kind": "AdminNetworkPolicy"});
    refused(admin, &["AdminNetworkPolicy", "as a ClusterNetworkPolicy"]);
    let old = json!({"apiVersion": "extensions/v1beta1", "kind": "NetworkPolicy", "metadata": {"name": "a"}});
    refused(old, &["extensions/v1beta1", "networking.k8s.io/v1"]);
    let list = json!({"apiVersion": "networking.k8s.io/v1", "kind": "PodList", "items": []});
    refused(
        list,
        &["PodList", "networking.k8s.io/v1", "Pod is read as v1"],
    );
    let list = json!({"apiVersion": "v1", "kind": "PodList", "items": {}});
    refused(list, &["items", "{}"]);
    let list = json!({"apiVersion": "v1", "kind": "PodList", "items": [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}]});
    refused(list, &["items[0].kind", "Namespace", "kind List"]);
    refused(
        json!({"apiVersion": "v1", "kind": "Pod"}),
        &["Pod", "metadata.name", "give it one"],
    );
    let generated = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "a-"}});
    refused(generated, &["metadata.name"]);
    let placed = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "namespace": "b"}});
    refused(
        placed,
        &["Namespace a", "metadata.namespace", "\"b\"", "leave it out"],
    );
}

#[test]
fn errors_of_fields_have_their_path() {
    let labels = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "labels": {"version": 1}}});
    refused(
        labels,
        &["Namespace a", "metadata.labels.version", "1", "string"],
    );
    refused(
        pod(
            json!({"containers": [{"ports": [{"name": "a", "containerPort": 70_000}]}]}),
            json!({}),
        ),
        &[
            "Pod shop/web-0",
            "spec.containers[0].ports[0].containerPort",
            "70000",
        ],
    );
    refused(
        pod(
            json!({}),
            json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.256"}]}),
        ),
        &["status.podIPs[1].ip", "10.0.0.256", "not an IP address"],
    );
    refused(
        policy(json!({"podSelectors": {}})),
        &["NetworkPolicy default/p", "spec", "podSelectors"],
    );
    refused(policy(json!([])), &["spec", "[]"]);
    let block = policy(json!({"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}]}));
    refused(
        json!({"apiVersion": "v1", "kind": "List", "items": [block]}),
        &[
            "NetworkPolicy default/p",
            "items[0].spec.ingress[0].from[0].ipBlock.cidr",
            "10.0.0.0/33",
        ],
    );
    let bare = json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": "c"}});
    refused(bare, &["ClusterNetworkPolicy c", "spec"]);
    refused(
        cluster_policy(json!({"tier": "Admin", "priority": -1, "subject": {"namespaces": {}}})),
        &["spec.priority", "-1"],
    );
    refused(
        policy(json!({"x".repeat(1 << 20): "y".repeat(1 << 20)})),
        &["unknown field"],
    );
}
