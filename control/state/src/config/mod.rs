// SPDX-License-Identifier: Apache-2.0
//! The daemon's configuration: a TOML file (1.0.0). docs/configuration.md describes every key.

mod check;
mod conntrack;
mod values;

use std::io;
use std::path::{Path, PathBuf};

use podswitch_api::desired::{Bounds, Gateway};
use podswitch_api::{DEFAULT_SOCKET, Limits};
use serde::{Deserialize, Serialize};

pub use check::Problem;
pub use conntrack::{ConntrackConfig, PolicyConfig};
pub use values::{
    FileMode, GatewayConfig, IcmpConfig, IdleConfig, LimitsConfig, LogConfig, LogFormat, LogLevel,
    MasqueradeConfig, MemoryConfig, XdpConfig,
};

/// Longest configuration file, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// The daemon's configuration.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Config {
    /// Path of the control socket.
    #[serde(default = "Config::default_socket")]
    pub socket: PathBuf,
    /// Permissions of the control socket.
    #[serde(default)]
    pub socket_mode: FileMode,
    /// Group of the control socket, by name or number; none: the daemon's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket_group: Option<String>,
    /// Directory of the desired state.
    #[serde(default = "Config::default_state_dir")]
    pub state_dir: PathBuf,
    /// The cores workers run on, one worker each, in the order of their numbers.
    pub workers: Vec<u32>,
    /// MTU of ports that name none, in bytes.
    #[serde(default = "Config::default_mtu")]
    pub mtu: u32,
    /// Control group (version 2) whose processes are led to pods by ports of the node; none: that which is mounted, with all of its processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PathBuf>,
    /// Logging.
    #[serde(default)]
    pub log: LogConfig,
    /// The switch's own addresses.
    #[serde(default)]
    pub gateway: GatewayConfig,
    /// What workers do without work.
    #[serde(default)]
    pub idle: IdleConfig,
    /// Packet memory.
    #[serde(default)]
    pub memory: MemoryConfig,
    /// How much there may be of everything.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// AF_XDP ports.
    #[serde(default)]
    pub xdp: XdpConfig,
    /// ICMP and ICMPv6 errors.
    #[serde(default)]
    pub icmp: IcmpConfig,
    /// Connections.
    #[serde(default)]
    pub conntrack: ConntrackConfig,
    /// Network policy.
    #[serde(default)]
    pub policy: PolicyConfig,
    /// Masquerading.
    #[serde(default)]
    pub masquerade: MasqueradeConfig,
}

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
    #[error("{path}: {message}\nhint: docs/configuration.md describes every key", path = path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        message: String,
    },
    /// Values that cannot be.
    #[error("{path}: {problems}", path = path.display(), problems = list(problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All of them, at least one.
        problems: Vec<Problem>,
    },
}

fn list(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    lines.join("\n")
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`], naming file, key and value.
    pub fn load(path: impl AsRef<Path>) -> Result<Config, ConfigError> {
        let path = path.as_ref();
        let text = read(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let config = Self::parse(&text).map_err(|message| ConfigError::Parse {
            path: path.to_owned(),
            message,
        })?;
        match config.check() {
            problems if problems.is_empty() => Ok(config),
            problems => Err(ConfigError::Invalid {
                path: path.to_owned(),
                problems,
            }),
        }
    }

    /// Reads TOML text without judging the values.
    ///
    /// # Errors
    /// What is wrong, with line, column and key.
    pub fn parse(text: &str) -> Result<Config, String> {
        toml::from_str(text).map_err(|e| e.to_string().trim_end().to_owned())
    }

    /// Judges the values: everything that is wrong with them by themselves. Whether cores and groups exist is for the machine to say.
    pub fn check(&self) -> Vec<Problem> {
        check::check(self)
    }

    /// A configuration with defaults for everything but the cores.
    pub fn new(workers: Vec<u32>) -> Config {
        Config {
            socket: Self::default_socket(),
            socket_mode: FileMode::default(),
            socket_group: None,
            state_dir: Self::default_state_dir(),
            workers,
            mtu: Self::default_mtu(),
            cgroup: None,
            log: LogConfig::default(),
            gateway: GatewayConfig::default(),
            idle: IdleConfig::default(),
            memory: MemoryConfig::default(),
            limits: LimitsConfig::default(),
            xdp: XdpConfig::default(),
            icmp: IcmpConfig::default(),
            conntrack: ConntrackConfig::default(),
            policy: PolicyConfig::default(),
            masquerade: MasqueradeConfig::default(),
        }
    }

    /// What objects of the desired state are judged by.
    pub fn bounds(&self) -> Bounds {
        Bounds {
            limits: Limits::from(self.limits),
            gateway: Gateway::from(self.gateway),
            default_mtu: self.mtu,
            workers: u8::try_from(self.workers.len()).unwrap_or(u8::MAX),
            memory_ports: false,
        }
    }

    /// Where it stands which masqueraded connection of a worker's left by which port: beside the socket.
    pub fn bindings_file(&self, worker: usize) -> PathBuf {
        self.socket.with_file_name(format!("bindings-{worker}"))
    }

    fn default_socket() -> PathBuf {
        DEFAULT_SOCKET.into()
    }

    fn default_state_dir() -> PathBuf {
        "/var/lib/podswitch".into()
    }

    fn default_mtu() -> u32 {
        1500
    }
}

fn read(path: &Path) -> io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    file.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("longer than {MAX_BYTES} bytes"),
        ));
    }
    Ok(text)
}

podswitch_api::by_name!(Config);
