// SPDX-License-Identifier: Apache-2.0
//! A containerd of the test's own inside a node: own folders, own mount and process namespaces, the node's network
//! namespace. The machine's own containerd, if there is one, is never touched.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cri::{Cri, Metadata, PortMapping, Sandbox};
use crate::netns::{Netns, unique};
use crate::oci;
use crate::programs::{Running, run};
use crate::wait::{HUNG, poll};

/// Where Debian keeps the reference CNI plugins; containerd itself calls `loopback`.
const REFERENCE_PLUGINS: &str = "/usr/lib/cni";
const PAUSE_IMAGE: &str = "localhost/podswitch-pause:test";

/// Prepares the mount namespace, then becomes containerd. `$1` is a folder for itself, `$2` the configuration.
/// Shims keep their sockets in /run/containerd whatever the configuration says, and /sys must show the node's devices.
const START: &str = r#"
set -e
mkdir -p /run/containerd "$1/cgroup"
mount -t tmpfs tmpfs /run/containerd
mount --rbind /sys/fs/cgroup "$1/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$1/cgroup" /sys/fs/cgroup
exec containerd --config "$2"
"#;

/// A running containerd. Dropping it kills every process of its process namespace, pods too.
#[derive(Debug)]
pub struct Containerd {
    // Declared, so dropped, in this order: the processes end before their folders go.
    cri: Cri,
    running: Running,
    cgroup: Cgroup,
    dir: TempDir,
}

impl Containerd {
    /// Starts it inside `node` with the CNI configuration list `conflist` and the plugins of `plugins` (links to the
    /// reference plugins are added where missing), and waits until it says it is ready.
    ///
    /// # Panics
    /// If it does not become ready, with its log.
    #[track_caller]
    pub fn start(node: &Netns, conflist: &Value, plugins: &[(&str, &Path)]) -> Containerd {
        let dir = tempfile::Builder::new()
            .prefix("pst-ctr")
            .tempdir()
            .expect("a temporary folder");
        link_plugins(&dir.path().join("bin"), plugins);
        std::fs::create_dir_all(dir.path().join("net.d"))
            .expect("a folder for network configurations");
        write_renamed(
            &dir.path().join("net.d/10-test.conflist"),
            conflist.to_string().as_bytes(),
        );
        let config = dir.path().join("config.toml");
        std::fs::write(&config, config_text(dir.path())).expect("containerd's configuration");

        let running = spawn(node, dir.path(), &config);
        let socket = dir.path().join("containerd.sock");
        let log = dir.path().join("log");
        let Some(cri) = poll(2 * HUNG, || Cri::connect(&socket).ok()) else {
            panic!("containerd does not listen:\n{}", read(&log));
        };
        let containerd = Containerd {
            cri,
            running,
            cgroup: Cgroup(unique("cri")),
            dir,
        };
        containerd.import_image();
        let mut last = None;
        let ready = poll(2 * HUNG, || {
            last = containerd.cri.not_ready();
            last.is_none().then_some(())
        });
        assert!(
            ready.is_some(),
            "containerd is not ready: {last:?}\n{}",
            containerd.log()
        );
        containerd
    }

    #[track_caller]
    fn import_image(&self) {
        let image = oci::pause_image(&self.dir.path().join("image"), PAUSE_IMAGE);
        let mut ctr = Command::new("ctr");
        ctr.arg("--address")
            .arg(self.dir.path().join("containerd.sock"));
        ctr.args([
            "--namespace",
            "k8s.io",
            "images",
            "import",
            "--snapshotter",
            "native",
        ])
        .arg(image);
        let imported = run(&mut ctr, b"", 2 * HUNG);
        assert_eq!(
            imported.status,
            0,
            "ctr images import: {}\n{}",
            imported.stderr,
            self.log()
        );
    }

    /// What containerd has printed.
    pub fn log(&self) -> String {
        read(&self.dir.path().join("log"))
    }

    /// The CRI client.
    pub fn cri(&self) -> &Cri {
        &self.cri
    }

    /// Runs a pod of this name; a try that fails may be made again with the next `attempt`.
    pub fn try_pod(&self, name: &str, attempt: u32) -> Result<Sandbox, String> {
        self.try_pod_with(name, attempt, &[])
    }

    /// The same for one with ports of the node that lead to it.
    ///
    /// # Errors
    /// What the runtime says.
    pub fn try_pod_with(
        &self,
        name: &str,
        attempt: u32,
        ports: &[PortMapping],
    ) -> Result<Sandbox, String> {
        let metadata = Metadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "default".to_owned(),
            attempt,
        };
        let id = self
            .cri
            .run(metadata, ports, &format!("/{}", self.cgroup.0))
            .map_err(|s| s.message().to_owned())?;
        self.cri.status(&id).map_err(|s| s.message().to_owned())
    }

    /// Runs a pod.
    ///
    /// # Panics
    /// If the runtime refuses, with containerd's log.
    #[track_caller]
    pub fn pod(&self, name: &str) -> Sandbox {
        self.try_pod(name, 0)
            .unwrap_or_else(|e| panic!("RunPodSandbox {name}: {e}\n{}", self.log()))
    }

    /// The network namespace of a pod, seen from here.
    ///
    /// # Panics
    /// If containerd has ended.
    #[track_caller]
    pub fn netns(&self, pod: &Sandbox) -> Netns {
        let parent = self.running.pid();
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))
            .expect("children");
        let containerd = children
            .split_whitespace()
            .next()
            .expect("containerd runs")
            .to_owned();
        Netns::at(PathBuf::from(format!(
            "/proc/{containerd}/root{}",
            pod.netns
        )))
    }

    /// Network namespaces that the runtime still holds.
    pub fn netns_left(&self) -> Vec<String> {
        let dir = self
            .dir
            .path()
            .join("state/io.containerd.grpc.v1.cri/netns");
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect()
    }

    /// Puts another network configuration list in place, as an installer does.
    pub fn replace_conflist(&self, conflist: &Value) {
        write_renamed(
            &self.dir.path().join("net.d/10-test.conflist"),
            conflist.to_string().as_bytes(),
        );
    }
}

/// A cgroup parent of the test's own, in every hierarchy.
#[derive(Debug)]
struct Cgroup(String);

impl Drop for Cgroup {
    fn drop(&mut self) {
        let root = Path::new("/sys/fs/cgroup");
        let mut hierarchies = vec![root.to_path_buf()];
        hierarchies.extend(
            std::fs::read_dir(root)
                .into_iter()
                .flatten()
                .flatten()
                .map(|e| e.path()),
        );
        for hierarchy in hierarchies {
            remove_cgroup(&hierarchy.join(&self.0));
        }
    }
}

/// Removes a cgroup and those below it; processes killed a moment ago may still keep one busy.
fn remove_cgroup(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path());
        }
    }
    if dir.exists() && poll(HUNG, || std::fs::remove_dir(dir).ok()).is_none() {
        eprintln!("{} is still busy", dir.display());
    }
}

fn config_text(dir: &Path) -> String {
    let d = dir.display();
    format!(
        r#"version = 2
root = "{d}/root"
state = "{d}/state"
[grpc]
address = "{d}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{d}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{d}/bin"
conf_dir = "{d}/net.d"
"#
    )
}

fn spawn(node: &Netns, dir: &Path, config: &Path) -> Running {
    let out = File::create(dir.join("log")).expect("containerd's log");
    let err = out.try_clone().expect("containerd's log");
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", node.path().display()));
    // Mounts that others undo must go here too, or their namespaces would live on: hence slave, not private.
    command.args([
        "unshare",
        "--mount",
        "--propagation",
        "slave",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]);
    command.args(["sh", "-c", START, "sh"]).arg(dir).arg(config);
    Running::start(command.stdin(Stdio::null()).stdout(out).stderr(err))
}

fn link_plugins(bin: &Path, plugins: &[(&str, &Path)]) {
    std::fs::create_dir_all(bin).expect("a folder for plugins");
    for (name, program) in plugins {
        std::os::unix::fs::symlink(program, bin.join(name)).expect("a link to a plugin");
    }
    let reference = std::fs::read_dir(REFERENCE_PLUGINS).unwrap_or_else(|e| {
        panic!("{REFERENCE_PLUGINS}: {e}: install the package containernetworking-plugins")
    });
    for entry in reference.flatten() {
        let link = bin.join(entry.file_name());
        if !link.exists() {
            std::os::unix::fs::symlink(entry.path(), link).expect("a link to a reference plugin");
        }
    }
}

/// Runtimes watch for a rename, not for a write.
fn write_renamed(path: &Path, bytes: &[u8]) {
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, bytes).expect("write a file");
    std::fs::rename(&temporary, path).expect("rename a file");
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// A network configuration list of one plugin.
pub fn conflist(plugin: &Value) -> Value {
    let mut plugin = plugin.clone();
    let version = plugin["cniVersion"].take();
    let name = plugin["name"].take();
    let object = plugin
        .as_object_mut()
        .expect("a network configuration is an object");
    object.remove("cniVersion");
    object.remove("name");
    json!({"cniVersion": version, "name": name, "plugins": [plugin]})
}
