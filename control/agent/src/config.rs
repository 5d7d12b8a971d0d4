// SPDX-License-Identifier: Apache-2.0
//! The agent's configuration: a TOML file (1.0.0). docs/agent.md describes every key.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use podswitch_api::DEFAULT_SOCKET;
use podswitch_api::limits::{MAX_INTERFACE_LENGTH, MAX_VRF};
use podswitch_api::object::XdpMode;
use podswitch_state::config::LogConfig;
use serde::{Deserialize, Serialize};

use crate::core::{Egress, Mode, WaysConfig};

/// Longest configuration file, in bytes.
const MAX_BYTES: u64 = 1 << 20;
/// Most prefixes that a port leaves unmasqueraded.
const MAX_PREFIXES: usize = 64;

/// The agent's configuration.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields, default)]
pub struct Config {
    /// Path of podswitchd's control socket.
    pub socket: PathBuf,
    /// Where `/healthz`, `/readyz` and `/metrics` are served.
    pub listen: SocketAddr,
    /// Logging.
    pub log: LogConfig,
    /// The cluster's API.
    pub kubernetes: KubernetesConfig,
    /// The ways to other nodes.
    pub nodes: NodesConfig,
    /// The network configuration for the container runtime.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cni: Option<CniConfig>,
}

/// The cluster's API.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields, default)]
pub struct KubernetesConfig {
    /// A kubeconfig file; none: the service account of the agent's pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
    /// URL of an API server, instead of that of the kubeconfig or of the Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_server: Option<String>,
}

/// The ways to other nodes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields, default)]
pub struct NodesConfig {
    /// How packets of pods get to other nodes.
    pub mode: Mode,
    /// The node's NIC; none: that of the default route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// How the program is attached to it.
    pub xdp: XdpMode,
    /// How packets of pods get to the world.
    pub egress: Egress,
    /// Prefixes of all pods of the cluster.
    pub cluster_cidrs: Vec<IpNet>,
    /// Prefixes of the addresses of Services.
    pub service_cidrs: Vec<IpNet>,
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP port of VXLAN.
    pub udp_port: u16,
    /// VRF of the NIC in mode `vxlan`.
    pub underlay_vrf: u32,
}

impl Default for NodesConfig {
    fn default() -> Self {
        NodesConfig {
            mode: Mode::None,
            interface: None,
            xdp: XdpMode::Auto,
            egress: Egress::Host,
            cluster_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            vni: 1,
            udp_port: 4789,
            underlay_vrf: 1,
        }
    }
}

/// The network configuration for the container runtime.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct CniConfig {
    /// The file that is copied.
    pub template: PathBuf,
    /// The directory that the runtime reads.
    #[serde(default = "CniConfig::default_dir")]
    pub dir: PathBuf,
    /// Its name there.
    #[serde(default = "CniConfig::default_name")]
    pub name: String,
}

impl CniConfig {
    fn default_dir() -> PathBuf {
        "/etc/cni/net.d".into()
    }

    fn default_name() -> String {
        "10-podswitch.conflist".to_owned()
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            socket: DEFAULT_SOCKET.into(),
            listen: (Ipv4Addr::LOCALHOST, 9470).into(),
            log: LogConfig::default(),
            kubernetes: KubernetesConfig::default(),
            nodes: NodesConfig::default(),
            cni: None,
        }
    }
}

podswitch_api::by_name!(Config, KubernetesConfig, NodesConfig, CniConfig);

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{path}: {source}; give the path of a configuration file with --config", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not a configuration: the message has line, column and key.
    #[error("{path}: {message}\nhint: docs/agent.md describes every key", path = path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        message: String,
    },
    /// A value that cannot be.
    #[error("{path}: {key} = {value}: {message}", path = path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The key, as a path.
        key: &'static str,
        /// The value.
        value: String,
        /// What is wrong with it, and what to do.
        message: &'static str,
    },
}

/// A value that cannot be: key, value, and what to do.
type Problem = (&'static str, String, &'static str);

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`], naming file, key and value.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let owned = || path.to_owned();
        let text = read(path).map_err(|source| ConfigError::Read {
            path: owned(),
            source,
        })?;
        let config: Config = toml::from_str(&text).map_err(|e| ConfigError::Parse {
            path: owned(),
            message: e.to_string().trim_end().to_owned(),
        })?;
        match config.check() {
            None => Ok(config),
            Some((key, value, message)) => Err(ConfigError::Invalid {
                path: owned(),
                key,
                value,
                message,
            }),
        }
    }

    /// The first value that cannot be.
    fn check(&self) -> Option<Problem> {
        let nodes = &self.nodes;
        let bad = |key, value: &dyn fmt::Display, message| Some((key, value.to_string(), message));
        if let Some(path) = [Some(&self.socket), self.kubernetes.kubeconfig.as_ref()]
            .into_iter()
            .chain(
                self.cni
                    .iter()
                    .flat_map(|c| [Some(&c.template), Some(&c.dir)]),
            )
            .flatten()
            .find(|path| !path.is_absolute())
        {
            return bad("path", &path.display(), "not absolute; begin it with /");
        }
        if let Some(cni) = self.cni.as_ref().filter(|c| !is_file_name(&c.name)) {
            return bad(
                "cni.name",
                &cni.name,
                "not the name of a file; name one such as 10-podswitch.conflist",
            );
        }
        if let Some(name) = nodes
            .interface
            .as_ref()
            .filter(|n| n.is_empty() || n.len() > MAX_INTERFACE_LENGTH)
        {
            return bad(
                "nodes.interface",
                name,
                "not the name of an interface; use 1 to 15 characters",
            );
        }
        for (key, all) in [
            ("nodes.cluster_cidrs", &nodes.cluster_cidrs),
            ("nodes.service_cidrs", &nodes.service_cidrs),
        ] {
            if all.len() > MAX_PREFIXES {
                return bad(key, &all.len(), "too many prefixes; name at most 64");
            }
        }
        if nodes.mode != Mode::None
            && nodes.egress != Egress::None
            && nodes.cluster_cidrs.is_empty()
        {
            return bad(
                "nodes.cluster_cidrs",
                &"[]",
                "packets between pods would be masqueraded; name the prefixes of the cluster's pods",
            );
        }
        if nodes.mode == Mode::Vxlan && nodes.egress == Egress::Uplink {
            return bad(
                "nodes.egress",
                &"uplink",
                "in mode vxlan the NIC is in another VRF than the pods; choose host or none",
            );
        }
        if nodes.vni >= 1 << 24 {
            return bad(
                "nodes.vni",
                &nodes.vni,
                "out of range; choose 0 to 16777215",
            );
        }
        if nodes.udp_port == 0 {
            return bad(
                "nodes.udp_port",
                &nodes.udp_port,
                "out of range; choose 1 to 65535",
            );
        }
        if !(1..=MAX_VRF).contains(&nodes.underlay_vrf) {
            return bad(
                "nodes.underlay_vrf",
                &nodes.underlay_vrf,
                "out of range; choose 1 to 16777215",
            );
        }
        None
    }

    /// What it says about ways, for the node of this name.
    pub fn ways(&self, node: String) -> WaysConfig {
        let nodes = &self.nodes;
        WaysConfig {
            node,
            mode: nodes.mode,
            egress: nodes.egress,
            cluster: nodes.cluster_cidrs.iter().map(IpNet::trunc).collect(),
            services: nodes.service_cidrs.iter().map(IpNet::trunc).collect(),
            vni: nodes.vni,
            udp_port: nodes.udp_port,
            underlay_vrf: nodes.underlay_vrf,
            xdp: nodes.xdp,
        }
    }
}

fn is_file_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0'])
}

/// The text of a file that is not too long.
fn read(path: &Path) -> io::Result<String> {
    let length = std::fs::metadata(path)?.len();
    if length > MAX_BYTES {
        let message =
            format!("{length} bytes are more than the {MAX_BYTES} that a configuration may have");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    std::fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::load(file.path()).map_err(|e| e.to_string())
    }

    #[test]
    fn an_empty_file_is_right() {
        assert_eq!(load("").unwrap(), Config::default());
    }

    #[test]
    fn the_example_holds_every_default() {
        let example = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docs/podswitch-agent.example.toml"
        );
        assert_eq!(Config::load(Path::new(example)).unwrap(), Config::default());
    }

    #[test]
    fn errors_name_key_and_value() {
        for (text, words) in [
            ("sokket = 1", ["sokket", "unknown field"]),
            ("[nodes]\nmode = \"bridge\"", ["mode", "bridge"]),
            ("[nodes]\nvni = 16777216", ["nodes.vni", "16777216"]),
            ("[nodes]\nmode = \"native\"", ["nodes.cluster_cidrs", "[]"]),
            (
                "[nodes]\nmode = \"vxlan\"\negress = \"uplink\"\ncluster_cidrs = [\"10.0.0.0/8\"]",
                ["nodes.egress", "uplink"],
            ),
            (
                "[cni]\ntemplate = \"/a\"\nname = \"a/b\"",
                ["cni.name", "a/b"],
            ),
            ("[cni]\ntemplate = \"a\"", ["path", "a"]),
            ("[nodes]\nudp_port = 0", ["nodes.udp_port", "0"]),
            ("[nodes]\nunderlay_vrf = 0", ["nodes.underlay_vrf", "0"]),
        ] {
            let error = load(text).unwrap_err();
            assert!(words.iter().all(|w| error.contains(w)), "{text}: {error}");
        }
    }
}
