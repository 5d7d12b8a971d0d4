// SPDX-License-Identifier: Apache-2.0
//! Ports by vhost-user, with dpdk-testpmd behind them: in both modes of the socket, over the death of either side.

use std::fs;
use std::path::{Path, PathBuf};

use podswitch_tests::objects::{delete, rule, set};
use podswitch_tests::testpmd::{Device, Testpmd};
use podswitch_tests::traffic::{ping, ping_fails};
use podswitch_tests::{HUNG, Node, NodeConfig, Pod, eventually};
use serde_json::{Value, json};

const NAME: &str = "dpdk";
const MAC: &str = "02:00:00:00:00:0b";
const ADDRESS: &str = "10.244.9.1";

/// A node with a pod and a port for a DPDK program.
struct Bed {
    node: Node,
    pod: Pod,
}

impl Bed {
    fn new(device: Value) -> Bed {
        let node = Node::new(NodeConfig::default());
        let pod = node.pod();
        let bed = Bed { node, pod };
        bed.node.apply(&[bed.port(device, &[ADDRESS])]);
        bed
    }

    /// The switch listens.
    fn server() -> Bed {
        Bed::new(json!({}))
    }

    fn port(&self, device: Value, addresses: &[&str]) -> Value {
        let mut whole = json!({"kind": "vhost_user", "socket": self.socket()});
        for (key, value) in device.as_object().into_iter().flatten() {
            whole[key] = value.clone();
        }
        set(
            json!({"kind": "port", "name": NAME, "device": whole, "mac": MAC, "addresses": addresses}),
        )
    }

    fn socket(&self) -> PathBuf {
        self.node.dir().join("dpdk.sock")
    }

    fn testpmd(&self, server: bool, packed: bool, queues: u16) -> Testpmd {
        let device = Device {
            socket: &self.socket(),
            mac: MAC,
            server,
            packed,
            queues,
        };
        Testpmd::start(&device, &self.node.dir().join("testpmd.log"))
    }

    fn status(&self) -> Value {
        let ports = self.node.get("port", &json!({}));
        let mut ports = ports.into_iter().filter(|p| p["object"]["name"] == NAME);
        ports.next().expect("the port")["status"].clone()
    }

    #[track_caller]
    fn wait_for(&self, state: &str) -> Value {
        eventually(&format!("the port is {state}"), HUNG, || {
            let status = self.status();
            (status["state"] == state).then_some(status)
        })
    }

    #[track_caller]
    fn talks(&self) {
        ping(&self.pod.netns, ADDRESS.parse().expect("an address"));
    }

    fn is_cut_off(&self) -> bool {
        ping_fails(&self.pod.netns, ADDRESS.parse().expect("an address"))
    }
}

#[test]
fn a_dpdk_pod_and_a_pod_talk() {
    for packed in [false, true] {
        let bed = Bed::server();
        let status = bed.status();
        assert_eq!(status["state"], "down");
        let message = format!("no frontend is connected to {}", bed.socket().display());
        assert_eq!(status["message"], message);
        let _testpmd = bed.testpmd(false, packed, 1).forwards();
        let status = bed.wait_for("up");
        let features: Vec<&str> = status["features"]
            .as_array()
            .expect("features")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        assert_eq!(features.contains(&"ring_packed"), packed, "{features:?}");
        assert!(features.contains(&"version_1"), "{features:?}");
        bed.talks();
    }
}

#[test]
fn one_that_listens_is_found() {
    for packed in [false, true] {
        let bed = Bed::new(json!({"mode": "client", "queues": 2}));
        let status = bed.status();
        let message = format!("no frontend listens at {}", bed.socket().display());
        assert_eq!(status["message"], message);
        let _testpmd = bed.testpmd(true, packed, 2).forwards();
        bed.wait_for("up");
        bed.talks();
    }
}

/// The port keeps its place, and its rules, while nobody is there.
#[test]
fn one_that_was_killed_comes_back() {
    for server in [false, true] {
        let mode = if server { "client" } else { "server" };
        let bed = Bed::new(json!({ "mode": mode }));
        let before = bed.status()["id"].clone();
        for _ in 0..2 {
            let testpmd = bed.testpmd(server, false, 1).forwards();
            bed.wait_for("up");
            bed.talks();
            testpmd.kill();
            bed.wait_for("down");
            assert!(bed.is_cut_off());
            // It has left its socket, which it does not take away the next time.
            if server {
                fs::remove_file(bed.socket()).expect("testpmd's socket");
            }
        }
        assert_eq!(bed.status()["id"], before);
    }
}

/// testpmd that listens takes the next switch.
#[test]
fn a_switch_that_was_killed_comes_back() {
    for packed in [false, true] {
        let mut bed = Bed::new(json!({"mode": "client"}));
        let _testpmd = bed.testpmd(true, packed, 1).forwards();
        bed.wait_for("up");
        (0..5).for_each(|_| bed.talks());
        for _ in 0..2 {
            bed.node.kill();
            bed.node.start();
            bed.wait_for("up");
            (0..5).for_each(|_| bed.talks());
        }
    }
}

#[test]
fn what_it_may_is_what_any_pod_may() {
    let bed = Bed::server();
    let _testpmd = bed.testpmd(false, false, 1).forwards();
    bed.wait_for("up");
    bed.talks();
    let deny = rule("no", NAME, "ingress", "deny", &json!({"protocol": "icmp"}));
    bed.node.apply(&[set(deny)]);
    assert!(bed.is_cut_off());
    let why = bed.node.ctl();
    let pod = bed.pod.v4().to_string();
    let why = why.run(&["why", "--from", &pod, "--to", ADDRESS, "--protocol", "icmp"]);
    assert!(why.stdout.contains("no"), "{why:?}");
    bed.node
        .apply(&[delete(json!({"kind": "rule", "name": "no"}))]);
    bed.talks();
    // It answers as whoever it is asked for; only what is its own leaves the port.
    let route = json!({"kind": "route", "prefix": "10.244.8.0/24", "port": NAME, "via": ADDRESS});
    bed.node.apply(&[set(route)]);
    let before = bed.node.drops();
    assert!(ping_fails(
        &bed.pod.netns,
        "10.244.8.1".parse().expect("an address")
    ));
    let drops = bed.node.drops().since(&before);
    assert!(drops.contains_key("spoofed_address"), "{drops:?}");
}

/// As a runtime calls the plugin: the socket is in the result, and everything goes with DEL, also while nobody is there to be told.
#[test]
fn the_plugin_attaches_it() {
    let mut node = Node::new(NodeConfig::default());
    let other = node.pod();
    let info = node.dir().join("devinfo").join("one");
    let dans = node.dir().join("dans");
    let change = |conf: &mut Value| {
        conf["port"] = json!("vhost-user");
        conf["vhostUser"] = json!({"path": node.dir().join("v"), "danDir": dans, "gid": 0});
        conf["runtimeConfig"] = json!({"CNIDeviceInfoFile": info, "mac": MAC});
    };
    let pod = node.pod_with(change);
    let interface = &pod.result["interfaces"][0];
    assert_eq!(
        (&interface["name"], &interface["mac"]),
        (&json!("eth0"), &json!(MAC))
    );
    let socket = PathBuf::from(interface["socketPath"].as_str().expect("a socket"));
    assert!(socket.exists());
    let told = |file: &Path| -> Value {
        let bytes = fs::read(file).expect("a file");
        serde_json::from_slice(&bytes).expect("JSON")
    };
    assert_eq!(
        told(&info)["vhost-user"],
        json!({"mode": "client", "path": socket})
    );
    let dan = dans.join(format!("{}.json", pod.container));
    assert_eq!(told(&dan)["devices"][0]["device"]["path"], json!(socket));
    node.execute_for("CHECK", &pod).result();
    let device = Device {
        socket: &socket,
        mac: MAC,
        server: false,
        packed: false,
        queues: 1,
    };
    let testpmd = Testpmd::start(&device, &node.dir().join("testpmd.log")).forwards();
    eventually("the port is up", HUNG, || {
        (node.port(&pod)?["status"]["state"] == "up").then_some(())
    });
    ping(&other.netns, pod.v4());
    node.execute_for("CHECK", &pod).result();
    node.delete(&pod);
    for gone in [
        &dan,
        &socket,
        &socket.parent().expect("a folder").to_owned(),
    ] {
        assert!(!gone.exists(), "{}", gone.display());
    }
    assert_eq!(node.port(&pod), None);
    testpmd.kill();

    // A pod that ends while no daemon runs is dropped by the next one; one that does not stays.
    let change = |conf: &mut Value| {
        conf["port"] = json!("vhost-user");
        conf["vhostUser"] = json!({"path": node.dir().join("v")});
    };
    let (ends, stays) = (node.pod_with(change), node.pod_with(change));
    node.kill();
    node.delete(&ends);
    node.start();
    assert_eq!(node.port(&ends), None);
    let left = node.port(&stays).expect("the other's port");
    assert_eq!(left["status"]["state"], "down");
    // Nobody knows it any more.
    let mut gc = node.call("GC", "", "");
    let mut conf = stays.conf.clone();
    conf["cni.dev/valid-attachments"] = json!([{"containerID": other.container, "ifname": "eth0"}]);
    gc.stdin = conf.to_string().into_bytes();
    node.execute(&gc).result();
    assert_eq!(node.port(&stays), None);
    let folders = fs::read_dir(node.dir().join("v")).expect("a folder");
    assert_eq!(folders.count(), 0);
    ping(&other.netns, "169.254.1.1".parse().expect("an address"));
}

/// Neither a stalled frontend nor one that says nonsense costs anybody else anything.
#[test]
fn a_frontend_out_of_order_has_its_port_faulted() {
    let bed = Bed::server();
    let mut stream = std::os::unix::net::UnixStream::connect(bed.socket()).expect("a connection");
    use std::io::Write;
    // SET_FEATURES, half of it.
    let words = [2u32, 1, 8].map(u32::to_ne_bytes).concat();
    stream.write_all(&words).expect("half a message");
    let status = bed.wait_for("faulted");
    let message = status["message"].as_str().expect("a message");
    assert!(
        message.ends_with("it stopped in the middle of a message"),
        "{message}"
    );
    drop(stream);
    let _testpmd = bed.testpmd(false, false, 1).forwards();
    bed.wait_for("up");
    bed.talks();
}

/// A change that cannot be made leaves the port as it was, with its frontend.
#[test]
fn a_change_that_is_refused_changes_nothing() {
    let bed = Bed::new(json!({"mode": "client"}));
    let _testpmd = bed.testpmd(true, false, 1).forwards();
    bed.wait_for("up");
    let port = json!({"kind": "port", "name": NAME, "device": {"kind": "veth", "interface": "nowhere0"},
        "mac": MAC, "addresses": [ADDRESS]});
    let changes = json!({"changes": [set(port)]});
    let refused = bed.node.rpc("apply", &changes).expect_err("no interface");
    assert!(refused.to_string().contains("nowhere0"), "{refused}");
    bed.wait_for("up");
    bed.talks();
}

/// What was in the way when the daemon started may go.
#[test]
fn a_port_whose_socket_could_not_be_made_is_tried_again() {
    let mut bed = Bed::server();
    bed.node.kill();
    fs::remove_file(bed.socket()).expect("the socket");
    fs::write(bed.socket(), "mine").expect("a file");
    bed.node.start();
    let status = bed.wait_for("faulted");
    let message = status["message"].as_str().expect("a message");
    assert!(message.contains("it is no socket"), "{message}");
    fs::remove_file(bed.socket()).expect("the file");
    bed.wait_for("down");
    let _testpmd = bed.testpmd(false, false, 1).forwards();
    bed.wait_for("up");
    bed.talks();
}

#[test]
fn what_is_at_the_path_is_not_taken_away() {
    let bed = Bed::server();
    let other = bed.node.dir().join("other.sock");
    fs::write(&other, "mine").expect("a file");
    let port = json!({"kind": "port", "name": "more", "device": {"kind": "vhost_user", "socket": other},
        "mac": "02:00:00:00:00:0c", "addresses": ["10.244.9.2"]});
    let refused = bed
        .node
        .rpc("apply", &json!({"changes": [set(port)]}))
        .expect_err("a conflict");
    let text = refused.to_string();
    assert!(
        text.contains("it is no socket") && text.contains("device.socket"),
        "{text}"
    );
    assert_eq!(fs::read(&other).expect("the file"), b"mine");
    // The port's own goes with it.
    assert!(bed.socket().exists());
    bed.node
        .apply(&[delete(json!({"kind": "port", "name": NAME}))]);
    assert!(!bed.socket().exists());
}
