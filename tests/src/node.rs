// SPDX-License-Identifier: Apache-2.0
//! A namespace that plays the node, with a daemon, and the pods on it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cni::{self, Call, Reply};
use crate::ctl::Ctl;
use crate::daemon::Daemon;
use crate::netns::Netns;
use crate::programs::bin_dir;

/// How a test wants its node.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Cores of the workers.
    pub workers: Vec<u32>,
    /// More lines for the daemon's configuration: top-level keys first, then TOML tables.
    pub daemon: String,
    /// MTU of the pods' interfaces.
    pub mtu: u32,
    /// The `ipam` object of the network configuration.
    pub ipam: Value,
    /// `cniVersion` of the network configuration.
    pub cni_version: String,
}

impl Default for NodeConfig {
    fn default() -> NodeConfig {
        NodeConfig {
            workers: vec![0],
            daemon: String::new(),
            mtu: 1500,
            ipam: json!({
                "type": "podswitch",
                "ranges": [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:244:1::/64"}]],
            }),
            cni_version: "1.1.0".to_owned(),
        }
    }
}

/// A node. Dropping it kills the daemon and deletes the namespace with every interface in it; if the test is failing,
/// the daemon's log is printed.
#[derive(Debug)]
pub struct Node {
    // Declared, so dropped, in this order.
    daemon: Option<Daemon>,
    netns: Netns,
    dir: TempDir,
    config: NodeConfig,
    next: AtomicU32,
}

impl Node {
    /// A node with the daemon running.
    #[track_caller]
    pub fn new(config: NodeConfig) -> Node {
        let mut node = Node::without_daemon(config);
        node.start();
        node
    }

    /// A node whose daemon has not been started yet.
    #[track_caller]
    pub fn without_daemon(config: NodeConfig) -> Node {
        let dir = tempfile::Builder::new()
            .prefix("pst")
            .tempdir()
            .expect("a temporary folder");
        let node = Node {
            daemon: None,
            netns: Netns::new("node"),
            dir,
            config,
            next: AtomicU32::new(0),
        };
        node.write_config("");
        node
    }

    /// Writes the daemon's configuration file, with more lines before the ones of [`NodeConfig::daemon`].
    pub fn write_config(&self, more: &str) {
        let text = format!(
            "socket = {:?}\nstate_dir = {:?}\nworkers = {:?}\n{more}\n{}\n",
            self.socket(),
            self.state_dir(),
            self.config.workers,
            self.config.daemon
        );
        std::fs::write(self.config_file(), text).expect("write the daemon's configuration");
    }

    /// The namespace that plays the node.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// A folder of the test's own, deleted with the node.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.dir().join("podswitch.sock")
    }

    /// The daemon's `state_dir`.
    pub fn state_dir(&self) -> PathBuf {
        self.dir().join("state")
    }

    /// The `dataDir` of the built-in IPAM.
    pub fn leases_dir(&self) -> PathBuf {
        self.dir().join("leases")
    }

    /// Addresses that the built-in IPAM has leased, from its files.
    pub fn leases(&self) -> Vec<String> {
        let network = self.leases_dir().join("podnet");
        let entries = std::fs::read_dir(network).into_iter().flatten().flatten();
        let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
        // What is no address is the IPAM's own bookkeeping.
        let mut names: Vec<String> = names.filter(|n| n.parse::<IpAddr>().is_ok()).collect();
        names.sort();
        names
    }

    /// The daemon's configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.dir().join("podswitchd.toml")
    }

    /// The daemon's log.
    pub fn log_file(&self) -> PathBuf {
        self.dir().join("podswitchd.log")
    }

    /// What the daemon, and those before it, have printed.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// The running daemon.
    ///
    /// # Panics
    /// If it has been stopped.
    #[track_caller]
    pub fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("the daemon runs")
    }

    /// Starts the daemon and waits until it listens.
    #[track_caller]
    pub fn start(&mut self) {
        assert!(self.daemon.is_none(), "the daemon runs already");
        self.daemon = Some(Daemon::start(
            &self.netns,
            &self.config_file(),
            &self.socket(),
            &self.log_file(),
        ));
    }

    /// SIGTERM, and waits for the orderly end.
    #[track_caller]
    pub fn terminate(&mut self) {
        self.daemon.take().expect("the daemon runs").terminate();
    }

    /// SIGKILL, and waits for the end.
    #[track_caller]
    pub fn kill(&mut self) {
        self.daemon.take().expect("the daemon runs").kill();
    }

    /// podswitchctl of this node.
    pub fn ctl(&self) -> Ctl<'_> {
        Ctl {
            node: &self.netns,
            socket: self.socket(),
        }
    }

    /// The network configuration of this node's pods.
    pub fn conf(&self) -> Value {
        let mut ipam = self.config.ipam.clone();
        if ipam.get("dataDir").is_none() {
            // Leases are kept by network name: those of another test's node must not be found.
            ipam["dataDir"] = json!(self.leases_dir());
        }
        json!({
            "cniVersion": self.config.cni_version,
            "name": "podnet",
            "type": "podswitch",
            "socket": self.socket(),
            "mtu": self.config.mtu,
            "ipam": ipam,
        })
    }

    /// A call of the plugin with this node's configuration, to be changed and then executed by [`Node::execute`].
    pub fn call(&self, command: &str, container: &str, netns: &str) -> Call {
        Call::new(command, container, netns, bin_dir(), &self.conf())
    }

    /// Executes a call of podswitch-cni inside the node.
    #[track_caller]
    pub fn execute(&self, call: &Call) -> Reply {
        call.execute(&self.netns, &bin_dir().join("podswitch-cni"))
    }

    /// A container id that no other test has.
    pub fn container_id(&self) -> String {
        format!(
            "{}-{:04}",
            self.netns.name(),
            self.next.fetch_add(1, Ordering::Relaxed)
        )
    }

    /// A pod, attached by ADD.
    ///
    /// # Panics
    /// If ADD fails.
    #[track_caller]
    pub fn pod(&self) -> Pod {
        self.pod_with(|_| {})
    }

    /// A pod, attached by an ADD whose network configuration was changed first.
    #[track_caller]
    pub fn pod_with(&self, change: impl FnOnce(&mut Value)) -> Pod {
        let mut conf = self.conf();
        change(&mut conf);
        self.add(conf, |_| {})
    }

    /// A pod, attached by an ADD that was changed first.
    ///
    /// # Panics
    /// If ADD fails.
    #[track_caller]
    pub fn pod_called(&self, change: impl FnOnce(&mut Call)) -> Pod {
        self.add(self.conf(), change)
    }

    #[track_caller]
    fn add(&self, conf: Value, change: impl FnOnce(&mut Call)) -> Pod {
        let netns = Netns::new("pod");
        let container = self.container_id();
        let mut call = self.call("ADD", &container, &netns.path().to_string_lossy());
        call.stdin = conf.to_string().into_bytes();
        change(&mut call);
        let result = self.execute(&call).result();
        Pod {
            netns,
            container,
            conf,
            result,
        }
    }

    /// Executes a command for a pod as a runtime does after ADD: with its result as `prevResult`.
    #[track_caller]
    pub fn execute_for(&self, command: &str, pod: &Pod) -> Reply {
        let mut conf = pod.conf.clone();
        conf["prevResult"] = pod.result.clone();
        let mut call = self.call(command, &pod.container, &pod.netns.path().to_string_lossy());
        call.stdin = conf.to_string().into_bytes();
        self.execute(&call)
    }

    /// DEL of a pod.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn delete(&self, pod: &Pod) {
        self.execute_for("DEL", pod).result();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "---- log of podswitchd in {}\n{}----",
                self.netns.name(),
                self.log()
            );
        }
    }
}

/// A pod: a namespace with `eth0` attached to the switch.
#[derive(Debug)]
pub struct Pod {
    /// Its namespace.
    pub netns: Netns,
    /// Its container id.
    pub container: String,
    /// The network configuration it was attached with.
    pub conf: Value,
    /// The result of its ADD.
    pub result: Value,
}

impl Pod {
    /// Its first IPv4 address.
    ///
    /// # Panics
    /// If it has none.
    #[track_caller]
    pub fn v4(&self) -> IpAddr {
        let all = cni::addresses(&self.result);
        all.into_iter()
            .find(IpAddr::is_ipv4)
            .expect("an IPv4 address")
    }

    /// Its first IPv6 address.
    ///
    /// # Panics
    /// If it has none.
    #[track_caller]
    pub fn v6(&self) -> IpAddr {
        let all = cni::addresses(&self.result);
        all.into_iter()
            .find(IpAddr::is_ipv6)
            .expect("an IPv6 address")
    }

    /// MAC address of its `eth0`.
    ///
    /// # Panics
    /// If the result holds none.
    #[track_caller]
    pub fn mac(&self) -> [u8; 6] {
        let interface = cni::sandbox_interface(&self.result);
        crate::frames::parse_mac(interface["mac"].as_str().expect("a MAC address"))
    }
}
