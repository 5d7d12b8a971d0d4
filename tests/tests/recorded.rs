// SPDX-License-Identifier: Apache-2.0
//! The calls that real runtimes made, replayed against podswitch-cni.
//!
//! Environment and configuration are as recorded, less what belongs to the plugin that was called then: its type, its own
//! keys, the paths of namespaces that are gone, and addresses in a `prevResult`, which are those of our own ADD. The plugins
//! before and behind it, `loopback` and `portmap`, are Debian's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use podswitch_tests::cni::{Call, Reply, addresses, sandbox_interface, valid_attachments};
use podswitch_tests::programs::{bin_dir, run};
use podswitch_tests::records::{Record, load};
use podswitch_tests::traffic::ping;
use podswitch_tests::{HUNG, Netns, Node, NodeConfig};
use serde_json::{Value, json};

/// Keys of the reference `bridge` plugin's own.
const BRIDGE_KEYS: [&str; 5] = [
    "bridge",
    "hairpinMode",
    "isDefaultGateway",
    "isGateway",
    "ipMasq",
];

/// Where Debian has the reference plugins.
const REFERENCE: &str = "/usr/lib/cni";

/// One node on which a scenario happens again.
struct Replay {
    node: Node,
    /// Namespaces by the path they had.
    namespaces: BTreeMap<String, Netns>,
    /// Results of the ADDs that have not been undone, by container.
    results: BTreeMap<String, Value>,
}

impl Replay {
    fn new() -> Replay {
        Replay {
            node: Node::new(NodeConfig::default()),
            namespaces: BTreeMap::new(),
            results: BTreeMap::new(),
        }
    }

    /// The folder of this scenario's leases.
    fn leases(&self) -> PathBuf {
        self.node.leases_dir().join("k8snet")
    }

    /// The call as it would be for us.
    fn call(&mut self, record: &Record) -> Call {
        let mut conf = record.stdin.clone();
        if record.plugin == "bridge" {
            make_ours(&mut conf, &self.node);
        }
        if conf.get("prevResult").is_some() {
            // A runtime hands back what the ADD gave it.
            if let Some(result) = self.results.get(record.var("CNI_CONTAINERID")) {
                conf["prevResult"] = result.clone();
            }
        }
        let recorded = record.var("CNI_NETNS").to_owned();
        let netns = if recorded.is_empty() {
            String::new()
        } else {
            let netns = self
                .namespaces
                .entry(recorded)
                .or_insert_with(|| Netns::new("pod"));
            netns.path().to_string_lossy().into_owned()
        };
        let mut call = Call::new(
            record.var("CNI_COMMAND"),
            record.var("CNI_CONTAINERID"),
            &netns,
            bin_dir(),
            &conf,
        );
        call.ifname = record.var("CNI_IFNAME").to_owned();
        call.args = record.var("CNI_ARGS").to_owned();
        call
    }

    /// Makes a recorded call and holds the answer to the contract.
    fn step(&mut self, record: &Record) {
        let call = self.call(record);
        if record.injected {
            return self.failing_step(record, &call);
        }
        if record.plugin != "bridge" {
            return self.step_of_another(record, &call);
        }
        let reply = self.node.execute(&call);
        assert_eq!(
            reply.status(),
            record.rc,
            "{record:?}\nanswered {}",
            reply.stdout()
        );
        match call.command.as_str() {
            "ADD" => self.added(record, &call, &reply),
            "DEL" => {
                assert_eq!(reply.result(), Value::Null, "DEL prints nothing");
                self.results.remove(&call.container);
                assert!(
                    self.node
                        .get("port", &json!({"container_id": call.container}))
                        .is_empty()
                );
                if let Some(netns) = self.namespaces.get(record.var("CNI_NETNS")) {
                    assert_eq!(
                        netns.links(),
                        Vec::<String>::new(),
                        "DEL leaves nothing in the pod"
                    );
                }
                // A runtime that passes no namespace has deleted it.
                if call.netns.is_empty() {
                    self.namespaces.retain(|_, netns| !netns.links().is_empty());
                }
            }
            _ => assert_eq!(
                reply.result(),
                Value::Null,
                "{} prints nothing",
                call.command
            ),
        }
    }

    /// A call of a plugin before or behind ours.
    fn step_of_another(&mut self, record: &Record, call: &Call) {
        let plugin = Path::new(REFERENCE).join(&record.plugin);
        let reply = call.execute(self.node.netns(), &plugin);
        assert_eq!(reply.status(), record.rc, "{record:?}: {}", reply.stdout());
        let result = reply.result();
        if record.plugin == "portmap" {
            let ours = self.results.get(&call.container);
            if call.command == "ADD" {
                // What the runtime keeps is the answer of the last plugin.
                let ours = ours.expect("podswitch came first");
                for key in ["cniVersion", "interfaces", "ips", "routes"] {
                    assert_eq!(result[key], ours[key], "{key} as podswitch gave it");
                }
                self.results.insert(call.container.clone(), result);
            }
            let mapped = record.stdin["runtimeConfig"]["portMappings"].as_array();
            let mut save = self.node.netns().command("iptables-save");
            let rules = run(save.args(["-t", "nat"]), b"", HUNG).success("iptables-save");
            for mapping in mapped.into_iter().flatten() {
                let host = format!("--dport {} -j DNAT", mapping["HostPort"]);
                let to = self.results.get(&call.container).map(addresses);
                let to = to.into_iter().flatten().find(std::net::IpAddr::is_ipv4);
                let to = to
                    .map(|ip| format!("{host} --to-destination {ip}:{}", mapping["ContainerPort"]));
                let there = to.is_some_and(|to| rules.contains(&to));
                assert_eq!(there, call.command == "ADD", "{host}: {rules}");
                assert!(there || !rules.contains(&host), "{rules}");
            }
        }
    }

    fn added(&mut self, record: &Record, call: &Call, reply: &Reply) {
        let result = reply.result();
        assert_eq!(result["cniVersion"], record.stdin["cniVersion"]);
        let inside = sandbox_interface(&result);
        assert_eq!(inside["name"], call.ifname.as_str());
        assert_eq!(inside["sandbox"], call.netns.as_str());
        let ours = addresses(&result);
        let theirs = addresses(&record.stdout);
        let families = |all: &[std::net::IpAddr]| {
            all.iter()
                .map(std::net::IpAddr::is_ipv4)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            families(&ours),
            families(&theirs),
            "as many addresses as were recorded, in the same order"
        );
        let netns = &self.namespaces[record.var("CNI_NETNS")];
        for other in self.results.values() {
            for address in addresses(other) {
                ping(netns, address);
            }
        }
        let ports = self
            .node
            .get("port", &json!({"container_id": call.container}));
        let pod = &ports[0]["object"]["pod"];
        for (key, arg) in [
            ("name", "K8S_POD_NAME"),
            ("namespace", "K8S_POD_NAMESPACE"),
            ("uid", "K8S_POD_UID"),
        ] {
            let given = call
                .args
                .split(';')
                .find_map(|pair| pair.strip_prefix(&format!("{arg}=")));
            assert_eq!(
                pod[key].as_str(),
                given,
                "{arg} in whatever order of CNI_ARGS: {pod}"
            );
        }
        self.results.insert(call.container.clone(), result);
    }

    /// A call that failed then because the shim made it fail: here the daemon is away. DEL works without it, and fails when
    /// addresses cannot be given back; the runtime repeats it.
    fn failing_step(&mut self, record: &Record, call: &Call) {
        if call.command == "DEL" {
            return self.failing_del(call);
        }
        self.node.kill();
        let reply = self.node.execute(call);
        match call.command.as_str() {
            "ADD" => {
                assert_eq!(reply.error().code, 11, "try again later");
                let netns = &self.namespaces[record.var("CNI_NETNS")];
                assert_eq!(
                    netns.links(),
                    Vec::<String>::new(),
                    "a failed ADD leaves nothing in the pod"
                );
            }
            "STATUS" => assert!([50, 51].contains(&reply.error().code)),
            other => panic!("no {other} was made to fail"),
        }
        self.node.start();
    }

    fn failing_del(&mut self, call: &Call) {
        let (lock, away) = (self.leases().join("lock"), self.leases().join("away"));
        let held = leased(&self.leases());
        std::fs::rename(&lock, &away).expect("a lock of the leases");
        std::fs::create_dir(&lock).unwrap();
        let error = self.node.execute(call).error();
        std::fs::remove_dir(&lock).unwrap();
        std::fs::rename(&away, &lock).unwrap();
        assert_eq!(error.code, 5, "{error:?}");
        assert!(error.mentions(&lock.to_string_lossy()), "{error:?}");
        assert_eq!(leased(&self.leases()), held, "addresses stay taken");
        assert_eq!(self.node.netns().links(), Vec::<String>::new());
    }

    /// What is left at the end is what was never deleted; GC takes it away.
    fn finish(self) {
        let left: Vec<&str> = self.results.keys().map(String::as_str).collect();
        assert_eq!(self.node.get("port", &json!({})).len(), left.len());
        assert_eq!(self.node.netns().links().len(), left.len());
        let mut conf = self.node.conf();
        conf["name"] = json!("k8snet");
        conf["cni.dev/valid-attachments"] = valid_attachments(&left);
        let mut call = self.node.call("GC", "", "");
        call.stdin = conf.to_string().into_bytes();
        self.node.execute(&call).result();
        assert_eq!(
            self.node.get("port", &json!({})).len(),
            left.len(),
            "GC keeps what is valid"
        );
        conf["cni.dev/valid-attachments"] = json!([]);
        call.stdin = conf.to_string().into_bytes();
        self.node.execute(&call).result();
        assert!(self.node.get("port", &json!({})).is_empty());
        assert_eq!(self.node.netns().links(), Vec::<String>::new());
        assert_eq!(leased(&self.leases()), Vec::<String>::new());
    }
}

/// Makes a configuration of the reference `bridge` plugin one of ours.
fn make_ours(conf: &mut Value, node: &Node) {
    let object = conf.as_object_mut().expect("a configuration is an object");
    for key in BRIDGE_KEYS {
        object.remove(key);
    }
    object.insert("type".to_owned(), json!("podswitch"));
    object.insert("socket".to_owned(), json!(node.socket()));
    conf["ipam"]["type"] = json!("podswitch");
    conf["ipam"]["dataDir"] = json!(node.leases_dir());
}

/// Addresses that have a lease in a network's folder.
fn leased(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names
        .filter(|n| n.parse::<std::net::IpAddr>().is_ok())
        .collect();
    names.sort();
    names
}

/// Replays the calls of a scenario, but those that the main plugin made of its own; `on` chooses the node where there was
/// more than one.
fn replay(scenario: &str, on: Option<&str>) {
    let records = load(scenario)
        .into_iter()
        .filter(|r| r.plugin != "host-local" && r.node.as_deref() == on);
    let records: Vec<Record> = records.collect();
    assert!(records.len() >= 4, "{} calls in {scenario}", records.len());
    let mut replay = Replay::new();
    for record in &records {
        replay.step(record);
    }
    replay.finish();
}

#[test]
fn containerd_over_cri() {
    let chain = load("cri");
    let with_ports = |r: &&Record| r.stdin["runtimeConfig"]["portMappings"].is_array();
    assert_eq!(chain.iter().filter(with_ports).count(), 3);
    replay("cri", None);
}

#[test]
fn containerd_under_kubelet_on_the_first_node() {
    replay("kubelet", Some("n1"));
}

#[test]
fn containerd_under_kubelet_on_the_second_node() {
    replay("kubelet", Some("n2"));
}

#[test]
fn failing_calls() {
    replay("faults", None);
}

#[test]
fn containerd_2() {
    replay("containerd2", None);
}

#[test]
fn cnitool() {
    let records: Vec<Record> = load("cnitool")
        .into_iter()
        .filter(|r| r.plugin == "bridge")
        .collect();
    let mut replay = Replay::new();
    for record in &records {
        if record.var("CNI_COMMAND") == "GC"
            && record.stdin.get("cni.dev/valid-attachments").is_none()
        {
            // This cnitool left the list out, which the specification does not allow: nothing may be collected by it.
            let call = replay.call(record);
            let error = replay.node.execute(&call).error();
            assert_eq!(error.code, 7);
            assert!(error.mentions("cni.dev/valid-attachments"), "{error:?}");
        } else {
            replay.step(record);
        }
    }
    replay.finish();
}

/// What the reference plugin passed to its IPAM plugin is what ours passes to any: the environment, and its own
/// configuration unchanged (CNI specification, section 4).
#[test]
fn delegated_ipam_is_called_as_recorded() {
    use std::os::unix::fs::PermissionsExt;
    let mut replay = Replay::new();
    let records = load("cri");
    let delegate = replay.node.dir().join("host-local");
    let seen = replay.node.dir().join("seen");
    let answer = replay.node.dir().join("answer");
    let script = format!(
        "#!/bin/sh\nenv | grep ^CNI_ > {0}/env\ncat > {0}/stdin\n[ \"$CNI_COMMAND\" != ADD ] || cat {1}\n",
        seen.display(),
        answer.display()
    );
    std::fs::create_dir(&seen).unwrap();
    std::fs::write(&delegate, script).unwrap();
    std::fs::set_permissions(&delegate, std::fs::Permissions::from_mode(0o755)).unwrap();

    let mut compared = 0;
    for (at, record) in records
        .iter()
        .enumerate()
        .filter(|(_, r)| r.plugin == "bridge")
    {
        let command = record.var("CNI_COMMAND");
        let same = |r: &&Record| {
            r.plugin == "host-local"
                && r.var("CNI_COMMAND") == command
                && r.var("CNI_CONTAINERID") == record.var("CNI_CONTAINERID")
        };
        let Some(delegated) = records[at..].iter().find(same) else {
            continue;
        };
        std::fs::write(&answer, delegated.stdout.to_string()).unwrap();
        let _ = std::fs::remove_file(seen.join("env"));
        let mut call = replay.call(record);
        let mut conf: Value = serde_json::from_slice(&call.stdin).unwrap();
        conf["ipam"]["type"] = json!("host-local");
        call.stdin = conf.to_string().into_bytes();
        call.path = replay.node.dir().to_path_buf();
        let reply = replay.node.execute(&call);
        let result = reply.result();
        if command == "ADD" {
            assert_eq!(
                addresses(&result),
                addresses(&delegated.stdout),
                "the addresses are the delegate's"
            );
            replay.results.insert(call.container.clone(), result);
        }
        let stdin: Value =
            serde_json::from_slice(&std::fs::read(seen.join("stdin")).expect("it was called"))
                .unwrap();
        let without = |mut v: Value| {
            v.as_object_mut().map(|o| o.remove("prevResult"));
            v
        };
        assert_eq!(without(stdin), without(conf), "the whole configuration");
        let env = std::fs::read_to_string(seen.join("env")).expect("it was called");
        let env: BTreeMap<_, _> = env.lines().filter_map(|l| l.split_once('=')).collect();
        for name in delegated.env.keys() {
            let expected = match name.as_str() {
                "CNI_NETNS" => call.netns.clone(),
                "CNI_PATH" => call.path.to_string_lossy().into_owned(),
                other => delegated.var(other).to_owned(),
            };
            assert_eq!(
                env.get(name.as_str()).copied(),
                Some(expected.as_str()),
                "{name} of {command}"
            );
        }
        compared += 1;
    }
    assert!(compared >= 4, "{compared} calls compared");
}

/// The configuration of the plugin at `at` in the list of a libcni cache entry, put together as libcni does for a call after
/// ADD: name and version of the list, of the capabilities what the plugin declares, the cached result.
fn from_cache(entry: &Value, at: usize) -> Value {
    let encoded = entry["config"].as_str().expect("text");
    let list = run(
        std::process::Command::new("base64").arg("--decode"),
        encoded.as_bytes(),
        HUNG,
    );
    let list: Value = serde_json::from_str(&list.success("base64")).expect("a list of plugins");
    let mut conf = list["plugins"][at].clone();
    conf["cniVersion"] = list["cniVersion"].clone();
    conf["name"] = list["name"].clone();
    conf["prevResult"] = entry["result"].clone();
    // Ours has a capability that the plugin of then had not.
    conf["capabilities"] = json!({"dns": true});
    conf["runtimeConfig"] = json!({"dns": entry["capabilityArgs"]["dns"]});
    conf
}

/// What containerd kept on disk is all that CHECK and DEL get after it was restarted.
#[test]
fn a_cache_entry_of_libcni_is_enough_for_check_and_del() {
    let text = include_str!("../data/cni/libcni-cache.json");
    let entry: Value = serde_json::from_str(text).expect("JSON");
    let container = entry["containerId"].as_str().expect("text");
    let pairs = entry["cniArgs"].as_array().expect("pairs").iter();
    let args: Vec<String> = pairs
        .map(|p| format!("{}={}", p[0].as_str().unwrap(), p[1].as_str().unwrap()))
        .collect();
    let node = Node::new(NodeConfig::default());
    let netns = Netns::new("pod");
    let call = |command: &str, conf: &Value| {
        let path = netns.path().to_string_lossy().into_owned();
        let mut call = Call::new(command, container, &path, bin_dir(), conf);
        call.args = args.join(";");
        call.ifname = entry["ifName"].as_str().expect("text").to_owned();
        node.execute(&call)
    };
    let mut conf = from_cache(&entry, 0);
    make_ours(&mut conf, &node);
    let mut fresh = conf.clone();
    fresh.as_object_mut().unwrap().remove("prevResult");
    let result = call("ADD", &fresh).result();
    let (ours, theirs) = (addresses(&result), addresses(&entry["result"]));
    assert_eq!(ours.len(), theirs.len());
    assert_eq!(
        result["dns"],
        json!({"nameservers": ["127.0.0.1", "::1"], "search": ["."]}),
        "as containerd writes the capability"
    );
    let kept = json!({"result": result, "config": entry["config"], "capabilityArgs": entry["capabilityArgs"]});
    let mut conf_of_ours = from_cache(&kept, 0);
    make_ours(&mut conf_of_ours, &node);
    assert_eq!(call("CHECK", &conf_of_ours).result(), Value::Null);
    // The entry of another plugin's attachment: CHECK sees that this is not it, DEL takes away what there is.
    let error = call("CHECK", &conf).error();
    assert_eq!(error.code, 102, "{error:?}");
    assert_eq!(call("DEL", &conf).result(), Value::Null);
    assert_eq!(netns.links(), Vec::<String>::new());
    assert_eq!(
        leased(&node.leases_dir().join("k8snet")),
        Vec::<String>::new()
    );
    assert!(node.get("port", &json!({})).is_empty());
    assert_eq!(call("DEL", &conf_of_ours).result(), Value::Null);
}
