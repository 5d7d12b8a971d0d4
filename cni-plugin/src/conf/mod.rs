// SPDX-License-Identifier: Apache-2.0
//! The network configuration on standard input (CNI spec 1.1.0, section 1 and "Deriving request configuration").

mod guest;
mod runtime;

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use podswitch_api::limits::{MAX_MTU, MAX_VRF, MIN_MTU};
use podswitch_api::strict;
use serde::Deserialize;
use serde_json::{Map, Value};

pub use guest::{FOLDER, PortKind, VhostUser};
pub use podswitch_api::object::SocketMode;
pub use runtime::{RuntimeConfig, RuntimeDns};

use crate::invocation::{Command, Invocation, bad};
use crate::ipam::Ipam;
use crate::json::{invalid, only, take, unsupported};
use crate::result::{Dns, Previous};
use crate::spec::{CniError, Code, Version};

/// Most bytes of a configuration; libcni's own are a few kilobytes.
pub const MAX_BYTES: u64 = 4 << 20;
/// Longest path of a unix socket, bytes: `sun_path` less the terminating NUL (`man 7 unix`).
const MAX_SOCKET: usize = 107;

/// Keys this plugin reads itself, then those the specification defines or that runtimes put in for every plugin.
const KEYS: &[&str] = &[
    "socket",
    "mtu",
    "ipam",
    "vrf",
    "mode",
    "port",
    "vhostUser",
    "egressDefault",
    "ingressDefault",
    "dns",
    "cniVersion",
    "cniVersions",
    "name",
    "type",
    "args",
    "ipMasq",
    "capabilities",
    "runtimeConfig",
    "prevResult",
    "disableCheck",
    "disableGC",
    "loadOnlyInlinedPlugins",
];

/// An attachment in `cni.dev/valid-attachments`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize)]
#[serde(remote = "Self")]
pub struct ValidAttachment {
    /// `CNI_CONTAINERID`
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// `CNI_IFNAME`
    pub ifname: String,
}

/// AF_XDP mode of the pod's port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(remote = "Self", rename_all = "lowercase")]
pub enum Mode {
    /// What the daemon's configuration says.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// In the kernel's generic receive path.
    Generic,
    /// Not at all: by traffic control and a tap device.
    Tap,
}

/// What happens to a packet of the pod that no rule matches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(remote = "Self", rename_all = "lowercase")]
pub enum DefaultAction {
    /// It passes.
    #[default]
    Allow,
    /// It is dropped.
    Deny,
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct NetConf {
    /// `cniVersion`
    pub version: Version,
    /// `name`: the network.
    pub name: String,
    /// `socket`: where podswitchd listens.
    pub socket: PathBuf,
    /// `mtu`: bytes of the pod's interface; the daemon's default when absent.
    pub mtu: Option<u32>,
    /// `vrf`: forwarding table of the pod.
    pub vrf: u32,
    /// `mode`
    pub mode: Mode,
    /// `vhostUser`, of pods that are virtual machines or DPDK programs (`port`); for DEL and GC, what they may have left.
    pub guest: Option<VhostUser>,
    /// `egressDefault`
    pub egress_default: DefaultAction,
    /// `ingressDefault`
    pub ingress_default: DefaultAction,
    /// `ipam`
    pub ipam: Option<Ipam>,
    /// `dns`
    pub dns: Dns,
    /// `runtimeConfig`
    pub runtime: RuntimeConfig,
    /// `args.cni.ips`
    pub args_ips: Vec<String>,
    /// `prevResult`
    pub previous: Option<Previous>,
    /// `cni.dev/valid-attachments`; only GC has it.
    pub valid: Option<Vec<ValidAttachment>>,
    /// The bytes as they came, for a delegate.
    pub input: Vec<u8>,
}

impl NetConf {
    /// The version named in `bytes`, if any can be read: an error about the rest is printed in it.
    pub fn version_of(bytes: &[u8]) -> Option<Version> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        Version::parse(value.get("cniVersion")?.as_str()?).ok()
    }

    /// Parses and checks what `command` needs. DEL and GC need little: a key that ADD would refuse must not keep a pod
    /// from going.
    ///
    /// # Errors
    /// Code 6 when it is not a JSON object or one with a key twice (for DEL and GC the later one counts), 1 for a version not spoken, 2 for an unknown key and 7 for a bad value, each
    /// naming key and value.
    pub fn parse(bytes: &[u8], command: Command) -> Result<NetConf, CniError> {
        let raw = object(bytes, command)?;
        let version: String = take(&raw, "cniVersion")?.unwrap_or_default();
        let mut conf = NetConf {
            version: Version::parse(&version)?,
            name: name(&raw)?,
            socket: podswitch_api::DEFAULT_SOCKET.into(),
            mtu: None,
            vrf: 0,
            mode: Mode::Auto,
            guest: None,
            egress_default: DefaultAction::Allow,
            ingress_default: DefaultAction::Allow,
            ipam: None,
            dns: Dns::default(),
            runtime: RuntimeConfig::default(),
            args_ips: Vec::new(),
            previous: None,
            valid: None,
            input: bytes.to_vec(),
        };
        if command.cleans_up() {
            conf.read_for_cleanup(&raw, command)?;
        } else {
            conf.read(&raw)?;
        }
        Ok(conf)
    }

    fn read_for_cleanup(
        &mut self,
        raw: &Map<String, Value>,
        command: Command,
    ) -> Result<(), CniError> {
        // Without a socket that can be one there is no daemon to ask.
        if let Ok(Some(path)) = socket(raw) {
            self.socket = path;
        }
        self.guest = Some(VhostUser::for_cleanup(raw));
        self.ipam = Ipam::for_cleanup(raw)?;
        if command == Command::Gc {
            self.valid = valid(raw)?;
        }
        Ok(())
    }

    fn read(&mut self, raw: &Map<String, Value>) -> Result<(), CniError> {
        let own: Map<_, _> = raw
            .iter()
            .filter(|(key, _)| !key.starts_with("cni.dev/"))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        only(&own, KEYS, "")?;
        if let Some(masq) = raw.get("ipMasq").filter(|v| **v == Value::Bool(true)) {
            return Err(unsupported(
                "ipMasq",
                masq,
                "podswitch masquerades by the port of the NIC (`masquerade`), not for a network",
            ));
        }
        if let Some(path) = socket(raw)? {
            self.socket = path;
        }
        self.runtime = RuntimeConfig::parse(raw)?;
        self.ipam = Ipam::parse(raw, &self.runtime.ip_ranges)?;
        self.mtu = take(raw, "mtu")?.filter(|m| *m != 0);
        if let Some(m) = self.mtu.filter(|m| !(MIN_MTU..=MAX_MTU).contains(m)) {
            let why = format!("an MTU is {MIN_MTU} to {MAX_MTU} bytes, or 0 for the default");
            return Err(invalid("mtu", &m.into(), why));
        }
        self.vrf = take(raw, "vrf")?.unwrap_or(0);
        if self.vrf > MAX_VRF {
            return Err(invalid("vrf", &self.vrf.into(), "a VRF id has 24 bits"));
        }
        self.mode = take(raw, "mode")?.unwrap_or_default();
        self.guest = VhostUser::parse(raw)?;
        if self.guest.is_some() && self.mode != Mode::Auto {
            let why = "there is no steering program on virtqueues; leave it out";
            return Err(invalid("mode", &raw["mode"], why));
        }
        self.egress_default = take(raw, "egressDefault")?.unwrap_or_default();
        self.ingress_default = take(raw, "ingressDefault")?.unwrap_or_default();
        self.dns = take(raw, "dns")?.unwrap_or_default();
        self.args_ips = runtime::args_ips(raw)?;
        self.previous = match raw.get("prevResult") {
            None | Some(Value::Null) => None,
            Some(value) => Some(Previous::parse(value)?),
        };
        Ok(())
    }

    /// Every address asked for, without prefix lengths: capability `ips` and `args.cni.ips`, or, when there is none, `IP`
    /// of `CNI_ARGS` (conventions: who understands the former must ignore the latter).
    ///
    /// # Errors
    /// Code 7, or 4 for `CNI_ARGS`, naming what is no address.
    pub fn wanted_ips(&self, call: &Invocation) -> Result<Vec<IpAddr>, CniError> {
        let named = |texts: &'_ [String], key: &str| {
            let read = |t: &String| {
                ip(t).ok_or_else(|| invalid(key, &t.as_str().into(), "not an IP address"))
            };
            texts.iter().map(read).collect::<Result<Vec<_>, _>>()
        };
        let mut ips = named(&self.runtime.ips, "runtimeConfig.ips")?;
        ips.extend(named(&self.args_ips, "args.cni.ips")?);
        if let Some(arg) = call.arg("IP").filter(|_| ips.is_empty()) {
            let read = |t: &str| {
                ip(t).ok_or_else(|| bad("CNI_ARGS", &format!("IP={arg}"), "not an IP address"))
            };
            ips = arg.split(',').map(read).collect::<Result<_, _>>()?;
        }
        let mut once = Vec::new();
        for ip in ips {
            if !once.contains(&ip) {
                once.push(ip);
            }
        }
        Ok(once)
    }

    /// DNS settings of the result: the runtime's before the configuration's.
    pub fn result_dns(&self) -> Dns {
        let d = &self.runtime.dns;
        if *d == RuntimeDns::default() {
            return self.dns.clone();
        }
        Dns {
            nameservers: d.servers.clone(),
            domain: String::new(),
            search: d.searches.clone(),
            options: d.options.clone(),
        }
    }
}

fn object(bytes: &[u8], command: Command) -> Result<Map<String, Value>, CniError> {
    let decode = |why: String| CniError::new(Code::Decode, format!("standard input: {why}"));
    if bytes.len() as u64 > MAX_BYTES {
        return Err(decode(format!(
            "the network configuration is larger than {MAX_BYTES} bytes"
        )));
    }
    let read = match command.cleans_up() {
        true => serde_json::from_slice(bytes),
        false => strict::value(bytes),
    };
    match read {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(decode(
            "the network configuration is not a JSON object".into(),
        )),
        Err(e) => Err(decode(e.to_string())),
    }
}

/// `<ip>[/<prefix>]` (conventions, capability `ips`).
fn ip(text: &str) -> Option<IpAddr> {
    let ip = match text.parse::<IpNet>() {
        Ok(net) => net.addr(),
        Err(_) => text.parse().ok()?,
    };
    Some(ip.to_canonical())
}

fn socket(raw: &Map<String, Value>) -> Result<Option<PathBuf>, CniError> {
    let Some(path) = take::<PathBuf>(raw, "socket")? else {
        return Ok(None);
    };
    let fits = path.is_absolute() && path.as_os_str().len() <= MAX_SOCKET;
    if fits && !path.to_string_lossy().contains('\0') {
        return Ok(Some(path));
    }
    let why = format!(
        "the daemon's socket is an absolute path of at most {MAX_SOCKET} bytes; `socket` in its configuration says which"
    );
    Err(invalid("socket", &raw["socket"], why))
}

/// `cni.dev/valid-attachments`; libcni writes an empty list as `null`.
fn valid(raw: &Map<String, Value>) -> Result<Option<Vec<ValidAttachment>>, CniError> {
    let key = "cni.dev/valid-attachments";
    match raw.contains_key(key) {
        true => Ok(Some(take(raw, key)?.unwrap_or_default())),
        false => Ok(None),
    }
}

/// Section 1: a network's name has the characters of a container ID. It names a directory and an alias here.
fn name(raw: &Map<String, Value>) -> Result<String, CniError> {
    let name: String = take(raw, "name")?.unwrap_or_default();
    let ok = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
        && name.len() <= 64;
    if ok {
        return Ok(name);
    }
    Err(invalid(
        "name",
        &name.into(),
        "a network name begins with a letter or digit, goes on with those or _ . -, and has at most 64",
    ))
}

podswitch_api::by_name!(read: ValidAttachment);

podswitch_api::by_word!(read: Mode, DefaultAction);

#[cfg(test)]
mod tests;
