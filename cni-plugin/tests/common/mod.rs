// SPDX-License-Identifier: Apache-2.0
//! A namespace that plays the node, with a daemon of the test's own, and calls of the plugin in it.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses its own part of this module"
)]

pub mod daemon;

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use podswitch_host::netns::Named;
use podswitch_host::{Link, Socket, addr, link};
use serde_json::{Value, json};

use daemon::Daemon;

/// Longer than anything here takes on a busy machine; reaching it means "hung".
const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until a condition holds.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {what}"
        );
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// The program under test.
pub fn plugin() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_podswitch-cni"))
}

pub fn namespace() -> Named {
    Named::unique("ps-cni").unwrap()
}

/// A node: namespace, daemon, socket, leases.
pub struct Node {
    pub daemon: Daemon,
    pub netns: Named,
    pub dir: tempfile::TempDir,
}

impl Node {
    pub fn new() -> Node {
        let dir = tempfile::Builder::new()
            .prefix("ps-cni-")
            .tempdir()
            .unwrap();
        Node {
            daemon: Daemon::start(&dir.path().join("s")),
            netns: namespace(),
            dir,
        }
    }

    /// A configuration with both families from the built-in IPAM.
    pub fn conf(&self) -> Value {
        json!({
            "cniVersion": "1.1.0",
            "name": "net",
            "type": "podswitch",
            "socket": self.dir.path().join("s"),
            "ipam": {
                "type": "podswitch",
                "dataDir": self.dir.path().join("leases"),
                "ranges": [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:244:1::/64"}]],
            },
        })
    }

    pub fn call(&self, command: &str, container: &str, netns: impl AsRef<Path>) -> Call<'_> {
        Call {
            node: self,
            command: command.into(),
            container: container.into(),
            netns: netns.as_ref().into(),
            ifname: "eth0".into(),
            args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web".into(),
            path: PathBuf::from("/usr/lib/cni"),
            conf: self.conf(),
        }
    }

    /// A call about no container.
    pub fn plain(&self, command: &str) -> Call<'_> {
        Call {
            ifname: String::new(),
            args: String::new(),
            ..self.call(command, "", "")
        }
    }

    /// GC with these containers' `eth0` still valid.
    pub fn gc(&self, valid: &[&str]) -> Call<'_> {
        let valid: Vec<Value> = valid
            .iter()
            .map(|id| json!({"containerID": id, "ifname": "eth0"}))
            .collect();
        self.plain("GC")
            .with(|conf| conf["cni.dev/valid-attachments"] = json!(valid))
    }

    /// A pod attached by ADD.
    #[track_caller]
    pub fn pod(&self, container: &str) -> Pod {
        self.pod_of(container, |c| c)
    }

    /// A pod attached by a changed ADD.
    #[track_caller]
    pub fn pod_of<'a>(&'a self, container: &str, change: impl FnOnce(Call<'a>) -> Call<'a>) -> Pod {
        let netns = namespace();
        let call = change(self.call("ADD", container, netns.path()));
        let result = call.run().result();
        Pod {
            netns,
            container: container.into(),
            conf: call.conf,
            result,
        }
    }

    /// A call about a pod as a runtime makes it after ADD: the same configuration, and the result.
    pub fn again(&self, command: &str, pod: &Pod) -> Call<'_> {
        let mut call = self.call(command, &pod.container, pod.netns.path());
        call.conf = pod.conf.clone();
        call.with(|conf| conf["prevResult"] = pod.result.clone())
    }

    /// Links in the node's namespace but loopback.
    pub fn links(&self) -> Vec<String> {
        links(&self.netns)
    }

    /// Addresses leased by the built-in IPAM, of every network.
    pub fn leases(&self) -> Vec<IpAddr> {
        let networks = std::fs::read_dir(self.dir.path().join("leases"));
        let files = networks
            .into_iter()
            .flatten()
            .flatten()
            .flat_map(|network| std::fs::read_dir(network.path()).unwrap());
        let mut all: Vec<IpAddr> = files
            .filter_map(|f| f.unwrap().file_name().to_str()?.parse().ok())
            .collect();
        all.sort();
        all
    }

    /// Nothing of any pod is left on the node.
    #[track_caller]
    pub fn assert_clean(&self, when: &str) {
        assert_eq!(self.links(), Vec::<String>::new(), "interfaces, {when}");
        assert_eq!(self.leases(), Vec::<IpAddr>::new(), "leases, {when}");
        assert_eq!(self.daemon.ports(), Vec::new(), "ports, {when}");
    }

    /// A folder for plugins with one script in it.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let dir = self.dir.path().join("plugins");
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        dir
    }
}

/// Links in a namespace but loopback.
pub fn links(netns: &Named) -> Vec<String> {
    let all = link::list(&mut netns.socket().unwrap()).unwrap();
    let mut names: Vec<String> = all
        .into_iter()
        .map(|l| l.name)
        .filter(|n| n != "lo")
        .collect();
    names.sort();
    names
}

/// An attached pod.
pub struct Pod {
    pub netns: Named,
    pub container: String,
    pub conf: Value,
    pub result: Value,
}

impl Pod {
    /// Runs inside, with an rtnetlink socket.
    pub fn inside<T: Send>(&self, work: impl FnOnce(&mut Socket) -> T + Send) -> T {
        let run = || work(&mut Socket::open().unwrap());
        self.netns.netns().run(run).unwrap()
    }

    pub fn eth0(&self) -> Link {
        self.inside(|s| link::get(s, "eth0")).unwrap()
    }

    /// Addresses of eth0 but the link-local one, with their flags.
    pub fn addresses(&self) -> Vec<addr::Address> {
        let all = self.inside(|s| addr::list(s, "eth0")).unwrap();
        all.into_iter().filter(|a| !is_link_local(a.ip())).collect()
    }

    /// Addresses of the result.
    pub fn ips(&self) -> Vec<IpAddr> {
        let ips = self.result["ips"].as_array().unwrap();
        ips.iter()
            .map(|ip| {
                ip["address"]
                    .as_str()
                    .unwrap()
                    .split('/')
                    .next()
                    .unwrap()
                    .parse()
                    .unwrap()
            })
            .collect()
    }

    /// Name of the host end, from the result.
    pub fn host(&self) -> String {
        self.result["interfaces"][0]["name"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

pub fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// One execution of the plugin.
pub struct Call<'a> {
    pub node: &'a Node,
    pub command: String,
    pub container: String,
    pub netns: PathBuf,
    pub ifname: String,
    pub args: String,
    pub path: PathBuf,
    pub conf: Value,
}

impl Call<'_> {
    /// With another configuration.
    pub fn with(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.conf);
        self
    }

    pub fn ifname(mut self, name: &str) -> Self {
        self.ifname = name.into();
        self
    }

    pub fn args(mut self, args: &str) -> Self {
        self.args = args.into();
        self
    }

    /// With plugins from another folder.
    pub fn path(mut self, path: impl Into<PathBuf>) -> Self {
        self.path = path.into();
        self
    }

    /// Puts the call into a command's environment.
    pub fn environment<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command
            .env("CNI_COMMAND", &self.command)
            .env("CNI_CONTAINERID", &self.container)
            .env("CNI_NETNS", &self.netns)
            .env("CNI_IFNAME", &self.ifname)
            .env("CNI_ARGS", &self.args)
            .env("CNI_PATH", &self.path)
    }

    /// Executes the plugin.
    pub fn run(&self) -> Reply {
        self.run_as(
            &mut Command::new(plugin()),
            self.conf.to_string().as_bytes(),
        )
    }

    /// Executes a command in the node's namespace with the call in its environment.
    pub fn run_as(&self, command: &mut Command, input: &[u8]) -> Reply {
        let command = self
            .environment(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let output = self.node.netns.netns().run(|| {
            let mut child = command.spawn().unwrap();
            // A plugin that reads only a part has its reasons.
            let _ = child.stdin.take().unwrap().write_all(input);
            child.wait_with_output().unwrap()
        });
        let output = output.unwrap();
        Reply {
            what: format!("{} of {}", self.command, self.container),
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// What an execution left behind.
#[derive(Debug)]
pub struct Reply {
    pub what: String,
    /// Exit status, none when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Reply {
    /// What a success printed; null when nothing.
    #[track_caller]
    pub fn result(&self) -> Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        match self.stdout.trim() {
            "" => Value::Null,
            text => serde_json::from_str(text).unwrap(),
        }
    }

    /// A success that printed nothing.
    #[track_caller]
    pub fn done(&self) {
        assert_eq!(self.result(), Value::Null, "{self:?}");
    }

    /// The error object of a failure with this code, whose message or details hold the word.
    #[track_caller]
    pub fn error(&self, code: u64, word: &str) -> Value {
        assert_eq!(self.code, Some(1), "{self:?}");
        let error: Value = serde_json::from_str(&self.stdout).unwrap();
        assert_eq!(error["code"], code, "{self:?}");
        assert!(self.stdout.contains(word), "{word}: {self:?}");
        assert!(error["cniVersion"].is_string() && error["msg"].is_string());
        error
    }
}
