// SPDX-License-Identifier: Apache-2.0
//! What is in `deploy`: the manifest is the chart's, every field of it is one that Kubernetes has, and the programs take their configurations.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use podswitch_deploy::render;
use podswitch_state::config::Config;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Templates in the order in which the manifest has them.
const TEMPLATES: [&str; 4] = ["namespace", "rbac", "configmap", "daemonset"];

const HEAD: &str = "# SPDX-License-Identifier: Apache-2.0\n# The chart in deploy/chart with its default values, in a namespace of its own. docs/install.md says what to change.\n";

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn yaml(text: &str) -> Value {
    serde_yaml_ng::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// The chart with its values, changed.
fn rendered(change: impl FnOnce(&mut Value)) -> String {
    let chart = yaml(&text(&deploy().join("chart/Chart.yaml")));
    let mut values = yaml(&text(&deploy().join("chart/values.yaml")));
    change(&mut values);
    let context = json!({"Values": values, "Chart": {"AppVersion": chart["appVersion"]}, "Release": {"Name": "podswitch", "Namespace": "podswitch"}});
    let documents = TEMPLATES.iter().filter_map(|name| {
        let template = text(&deploy().join(format!("chart/templates/{name}.yaml")));
        let document = render(&template, &context).unwrap_or_else(|e| panic!("{name}.yaml: {e}"));
        (!document.trim().is_empty()).then_some(document)
    });
    HEAD.to_owned() + &documents.collect::<Vec<_>>().join("---\n")
}

fn documents(manifest: &str) -> Vec<Value> {
    manifest.split("\n---\n").map(yaml).collect()
}

/// Reads a document as Kubernetes' type. A field that the type does not have is lost on the way, and missed.
#[track_caller]
fn strictly<T: DeserializeOwned + Serialize>(document: &Value) -> T {
    let read: T =
        serde_json::from_value(document.clone()).unwrap_or_else(|e| panic!("{e}: {document:#}"));
    let back = serde_json::to_value(&read).expect("a value");
    let lost = missing("", document, &back);
    assert!(lost.is_empty(), "no such fields: {lost:?}");
    read
}

/// Paths of what is in one value and not in the other.
fn missing(path: &str, there: &Value, back: &Value) -> Vec<String> {
    match (there, back) {
        (Value::Object(there), Value::Object(back)) => {
            let each = there.iter().flat_map(|(name, value)| {
                let path = format!("{path}.{name}");
                match back.get(name) {
                    Some(other) => missing(&path, value, other),
                    None => vec![path],
                }
            });
            each.collect()
        }
        (Value::Array(there), Value::Array(back)) if there.len() == back.len() => {
            let each = there.iter().zip(back).enumerate();
            each.flat_map(|(i, (a, b))| missing(&format!("{path}[{i}]"), a, b))
                .collect()
        }
        (a, b) if a == b => Vec::new(),
        _ => vec![path.to_owned()],
    }
}

fn check(document: &Value) {
    match document["kind"].as_str().expect("a kind") {
        "Namespace" => drop(strictly::<Namespace>(document)),
        "ServiceAccount" => drop(strictly::<ServiceAccount>(document)),
        "ClusterRole" => drop(strictly::<ClusterRole>(document)),
        "ClusterRoleBinding" => drop(strictly::<ClusterRoleBinding>(document)),
        "ConfigMap" => drop(strictly::<ConfigMap>(document)),
        "DaemonSet" => drop(strictly::<DaemonSet>(document)),
        other => panic!("{other} is nothing that the chart has"),
    }
}

fn of_kind<T: DeserializeOwned + Serialize>(manifest: &str, kind: &str) -> T {
    let all = documents(manifest);
    strictly(all.iter().find(|d| d["kind"] == kind).expect("it is there"))
}

fn default_manifest() -> String {
    rendered(|values| values["createNamespace"] = json!(true))
}

#[test]
fn the_manifest_is_the_charts() {
    let path = deploy().join("podswitch.yaml");
    let made = default_manifest();
    if std::env::var_os("PODSWITCH_WRITE_MANIFEST").is_some() {
        std::fs::write(&path, &made).expect("the manifest is written");
    }
    assert!(
        text(&path) == made,
        "deploy/podswitch.yaml differs from the chart: run `PODSWITCH_WRITE_MANIFEST=1 cargo test -p podswitch-deploy`"
    );
}

#[test]
fn every_field_is_one_that_kubernetes_has() {
    let without_agent = rendered(|values| values["agent"]["enabled"] = json!(false));
    for (manifest, count) in [(default_manifest(), 6), (without_agent, 2)] {
        let all = documents(&manifest);
        assert_eq!(all.len(), count);
        all.iter().for_each(check);
    }
}

#[test]
fn a_field_that_kubernetes_has_not_is_missed() {
    let bad = json!({"spec": {"selector": {}, "template": {"spec": {"containers": [{"name": "a", "imagePulPolicy": "Always"}]}}}});
    let read: DaemonSet = serde_json::from_value(bad.clone()).expect("it is read all the same");
    let back = serde_json::to_value(read).expect("a value");
    assert_eq!(
        missing("", &bad, &back),
        [".spec.template.spec.containers[0].imagePulPolicy"]
    );
}

#[test]
fn podswitchd_takes_its_configuration() {
    let map: ConfigMap = of_kind(&default_manifest(), "ConfigMap");
    let data = map.data.expect("data");
    let config = Config::parse(&data["podswitchd.toml"]).expect("a configuration");
    assert!(config.check().is_empty(), "{:?}", config.check());
    let conflist: Value = serde_json::from_str(&data["podswitch.conflist"]).expect("JSON");
    assert_eq!(conflist["plugins"][0]["type"], "podswitch");
}

/// No container is privileged, and each has no more than it needs.
#[test]
fn privileges_are_few() {
    let set: DaemonSet = of_kind(&default_manifest(), "DaemonSet");
    let pod = set.spec.expect("a spec").template.spec.expect("a pod");
    assert_eq!(pod.automount_service_account_token, Some(false));
    let all = pod.init_containers.iter().flatten().chain(&pod.containers);
    for container in all.clone() {
        let security = container
            .security_context
            .clone()
            .expect("a security context");
        assert_eq!(security.privileged, None, "{}", container.name);
        assert_eq!(security.read_only_root_filesystem, Some(true));
        let capabilities = security.capabilities.expect("capabilities");
        assert_eq!(capabilities.drop, Some(vec!["ALL".to_owned()]));
        let added: Vec<String> = capabilities.add.unwrap_or_default();
        assert_eq!(
            added.is_empty(),
            container.name != "podswitchd",
            "{added:?}"
        );
    }
    let mounts = |c: &Container| -> Vec<String> {
        let mounts = c.volume_mounts.iter().flatten();
        mounts.map(|m| m.name.clone()).collect()
    };
    let mounted: BTreeSet<String> = all.flat_map(mounts).collect();
    let volumes = pod.volumes.iter().flatten().map(|v| v.name.clone());
    assert_eq!(mounted, volumes.collect(), "each volume is somebody's");
}

#[test]
fn the_agent_only_reads_but_for_events() {
    let role: ClusterRole = of_kind(&default_manifest(), "ClusterRole");
    for rule in role.rules.expect("rules") {
        let resources = rule.resources.unwrap_or_default();
        let expected: &[&str] = match resources.as_slice() {
            [one] if one == "events" => &["create"],
            _ => &["list", "watch"],
        };
        assert_eq!(rule.verbs, expected, "{resources:?}");
    }
}
