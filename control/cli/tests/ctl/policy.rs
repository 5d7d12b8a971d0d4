// SPDX-License-Identifier: Apache-2.0
//! `podswitchctl policy`: manifests of Kubernetes.

use crate::common::{Daemon, ctl};
use serde_json::{Value, json};

const SHOP: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: a}}
---
# Nothing.
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {namespace: shop, name: web-0, labels: {app: web}}
  spec: {containers: [{name: web, image: web, ports: [{name: http, containerPort: 8080}]}]}
  status: {podIPs: [{ip: 10.0.0.1}]}
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata: {namespace: shop, name: web}
  spec:
    podSelector: {matchLabels: {app: web}}
    ingress:
    - ports: [{port: http}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: dns}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {}}
  egress:
  - {action: Accept, to: [{namespaces: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}], protocols: [{udp: {destinationPort: {number: 53}}}]}
";

fn policies(daemon: &Daemon, more: &[&str]) -> Vec<Value> {
    let words = [&["policy", "list", "-o", "json"], more].concat();
    serde_json::from_str(&daemon.ctl(&words).ok()).unwrap()
}

#[test]
fn manifests_are_applied_listed_and_deleted() {
    let daemon = Daemon::start();
    assert_eq!(daemon.ctl(&["policy", "list"]).ok(), "nothing to show\n");
    let apply = ["policy", "apply", "-f", "-"];
    assert_eq!(
        daemon.ctl_with(&apply, SHOP).ok(),
        "5 changed, generation 1\n"
    );
    assert_eq!(
        daemon.ctl_with(&apply, SHOP).ok(),
        "0 changed, generation 1\n"
    );
    assert_eq!(
        daemon.ctl(&["policy", "list"]).ok(),
        "ClusterNetworkPolicies\n\
         TIER   PRIORITY  NAME  INGRESS  EGRESS\n\
         Admin        10  dns         0       1\n\
         \n\
         NetworkPolicies\n\
         NAMESPACE  NAME  PODS     ISOLATES        INGRESS  EGRESS\n\
         default    deny  all      ingress,egress        0       0\n\
         shop       web   app=web  ingress               1       0\n"
    );
    let shop = policies(&daemon, &["--namespace", "shop"]);
    assert_eq!((shop.len(), &shop[0]["object"]["name"]), (1, &json!("web")));
    // What is listed is of the control protocol, and can be applied as such.
    let listed = serde_json::to_string(&policies(&daemon, &[])).unwrap();
    assert_eq!(
        daemon.ctl_with(&["apply", "-f", "-"], &listed).ok(),
        "0 changed, generation 1\n"
    );
    let delete = ["policy", "delete", "-f", "-"];
    assert_eq!(
        daemon.ctl_with(&delete, SHOP).ok(),
        "5 deleted, generation 2\n"
    );
    assert!(policies(&daemon, &[]).is_empty());
}

#[test]
fn pods_and_namespaces_are_listed() {
    let daemon = Daemon::start();
    let list = |words: &[&str]| {
        let words = [&["policy", "list"], words].concat();
        daemon.ctl(&words).ok()
    };
    assert_eq!(list(&["namespaces"]), "NAME  LABELS\n");
    let more = "---
{apiVersion: v1, kind: Namespace, metadata: {name: mon}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: mon, name: probe}, status: {podIPs: [{ip: 10.0.0.2}, {ip: 'fd00::2'}]}}";
    let text = format!("{SHOP}{more}");
    daemon.ctl_with(&["policy", "apply", "-f", "-"], &text).ok();
    assert_eq!(
        list(&["namespaces"]),
        "NAME  LABELS\n\
         mon   -\n\
         shop  team=a\n"
    );
    assert_eq!(
        list(&["pods"]),
        "NAMESPACE  NAME   ADDRESSES         LABELS   PORTS\n\
         mon        probe  10.0.0.2,fd00::2  -        -\n\
         shop       web-0  10.0.0.1          app=web  http=8080/tcp\n"
    );
    for (what, name) in [("namespaces", "shop"), ("pods", "web-0")] {
        let listed = list(&[what, "-n", "shop", "-o", "json"]);
        let listed: Vec<Value> = serde_json::from_str(&listed).unwrap();
        assert_eq!(listed.len(), 1, "{what}");
        assert_eq!(listed[0]["object"]["name"], name);
    }
    ctl(&["policy", "list", "services"]).fails(2, &["services", "namespaces"]);
}

#[test]
fn a_file_is_applied_whole_or_not_at_all() {
    let daemon = Daemon::start();
    let apply = ["policy", "apply", "-f", "-"];
    let bad = SHOP.to_owned()
        + "---\n{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: bad}, spec: {podSelectors: {}}}";
    daemon.ctl_with(&apply, &bad).fails(
        2,
        &["document 6", "NetworkPolicy default/bad", "podSelectors"],
    );
    // What the daemon refuses.
    let bad = bad.replace(
        "{podSelectors: {}}",
        "{egress: [{ports: [{port: 90, endPort: 80}]}]}",
    );
    daemon
        .ctl_with(&apply, &bad)
        .fails(1, &["network_policy default/bad", "endPort 80"]);
    assert!(policies(&daemon, &[]).is_empty());
}

#[test]
fn what_is_not_there_is_not_deleted_in_silence() {
    let daemon = Daemon::start();
    daemon.ctl_with(&["policy", "apply", "-f", "-"], SHOP).ok();
    // Only the names count.
    let deny =
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: deny}}\n---\n";
    let other = deny.replace("name: deny", "name: other");
    let both = format!("{deny}{other}");
    let delete = ["policy", "delete", "-f", "-"];
    let words = ["network_policy default/other", "--ignore-not-found"];
    daemon.ctl_with(&delete, &other).fails(1, &words);
    daemon.ctl_with(&delete, &both).fails(1, &words);
    assert_eq!(policies(&daemon, &[]).len(), 3);
    let forgiving = [&delete[..], &["--ignore-not-found"]].concat();
    assert_eq!(
        daemon.ctl_with(&forgiving, &both).ok(),
        "1 deleted, generation 2\n"
    );
    assert_eq!(
        daemon.ctl_with(&forgiving, &both).ok(),
        "0 deleted, generation 2\n"
    );
    let pod = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": "web-0"}}"#;
    daemon.ctl_with(&delete, pod).ok();
    daemon
        .ctl_with(&delete, pod)
        .fails(1, &["pod shop/web-0", "nothing was deleted"]);
}

#[test]
fn files_that_make_no_sense_are_named() {
    let daemon = Daemon::start();
    let twice = format!("{SHOP}---{SHOP}");
    for (text, words) in [
        ("", vec!["-: no manifest", "docs/network-policy.md"]),
        ("a: b: c", vec!["not YAML"]),
        (
            "kind: network_policy\nname: a\n",
            vec!["document 1", "apiVersion"],
        ),
        (
            "{\"apiVersion\": \"apps/v1\", \"kind\": \"Deployment\"}",
            vec!["Deployment", "leave it out"],
        ),
        ("[]", vec!["not an object"]),
        (
            "{apiVersion: v1, kind: Namespace, metadata: {name: a, name: b}}",
            vec!["\"name\" comes twice"],
        ),
        (
            &twice,
            vec!["document 6", "namespace shop is in document 1, too"],
        ),
    ] {
        for verb in ["apply", "delete"] {
            daemon
                .ctl_with(&["policy", verb, "-f", "-"], text)
                .fails(2, &words);
        }
    }
    ctl(&["policy", "apply", "-f", "/nowhere.yaml"]).fails(2, &["/nowhere.yaml"]);
    ctl(&["policy", "apply"]).fails(2, &["--file"]);
    ctl(&["--socket", "/nowhere/s", "policy", "list"]).fails(3, &["is podswitchd running"]);
    daemon
        .ctl_with(&["apply", "-f", "-"], SHOP)
        .fails(2, &["document 1", "podswitchctl policy apply"]);
}
