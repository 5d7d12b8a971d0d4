// SPDX-License-Identifier: Apache-2.0
//! The network configuration on standard input (CNI spec 1.1.0, section 1 and "Deriving execution configuration").

use std::net::IpAddr;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::ipam::Ipam;
use crate::result::{Attachment, Dns};
use crate::spec::{CniError, Code, Version};

/// Most bytes of a configuration; libcni's own are a few kilobytes.
pub const MAX_BYTES: u64 = 4 << 20;

/// Keys this plugin reads itself.
const OWN: &[&str] = &[
    "socket",
    "mtu",
    "ipam",
    "vrf",
    "mode",
    "egressDefault",
    "ingressDefault",
];
/// Keys the specification defines or that runtimes put in for every plugin.
const COMMON: &[&str] = &[
    "cniVersion",
    "name",
    "type",
    "args",
    "ipMasq",
    "dns",
    "capabilities",
    "runtimeConfig",
    "prevResult",
    "disableCheck",
    "disableGC",
    "loadOnlyInlinedPlugins",
];

/// What a veth takes as MTU, in bytes.
const MTU: std::ops::RangeInclusive<u32> = 68..=65_535;

/// Filled from the runtime's `runtimeConfig` by capability.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
pub struct RuntimeConfig {
    /// Capability `ips`: addresses wanted, with or without a prefix length.
    #[serde(default)]
    pub ips: Vec<String>,
    /// Capability `mac`: MAC address wanted.
    #[serde(default)]
    pub mac: Option<String>,
    /// Capability `ipRanges`: range sets to try before the configured ones.
    #[serde(default, rename = "ipRanges")]
    pub ip_ranges: Vec<Vec<crate::ipam::RangeConf>>,
    /// Capability `dns`.
    #[serde(default)]
    pub dns: Option<RuntimeDns>,
}

/// Capability `dns` as runtimes write it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
pub struct RuntimeDns {
    /// Name servers.
    #[serde(default)]
    pub servers: Vec<String>,
    /// Search domains.
    #[serde(default)]
    pub searches: Vec<String>,
    /// Resolver options.
    #[serde(default)]
    pub options: Vec<String>,
}

/// An attachment in `cni.dev/valid-attachments`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize)]
pub struct ValidAttachment {
    /// `CNI_CONTAINERID`
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// `CNI_IFNAME`
    pub ifname: String,
}

/// AF_XDP mode of the pod's port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// What the daemon's configuration says.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// In the kernel's generic receive path.
    Generic,
}

/// What happens to a packet of the pod that no rule matches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
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
    pub previous: Option<Attachment>,
    /// `cni.dev/valid-attachments`; only GC has it.
    pub valid: Option<Vec<ValidAttachment>>,
    /// The bytes as they came, for a delegate.
    pub raw: Map<String, Value>,
}

fn invalid(key: &str, value: &Value, why: impl std::fmt::Display) -> CniError {
    let mut shown = value.to_string();
    if shown.len() > 200 {
        shown = shown.chars().take(200).chain("...".chars()).collect();
    }
    CniError::new(
        Code::InvalidConfig,
        format!("network configuration key \"{key}\" = {shown}: {why}"),
    )
}

/// Reads one key as a type.
fn take<T: serde::de::DeserializeOwned>(
    raw: &Map<String, Value>,
    key: &str,
) -> Result<Option<T>, CniError> {
    match raw.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => serde_json::from_value(value.clone())
            .map(Some)
            .map_err(|e| invalid(key, value, e)),
    }
}

impl NetConf {
    /// The version named in `bytes`, if any can be read: an error about the rest is printed in it.
    pub fn version_of(bytes: &[u8]) -> Option<Version> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        Version::parse(value.get("cniVersion")?.as_str()?).ok()
    }

    /// Parses and checks.
    ///
    /// # Errors
    /// Code 6 when it is not a JSON object, 1 for a version not spoken, 7 naming the key and its value.
    pub fn parse(bytes: &[u8]) -> Result<NetConf, CniError> {
        let decode = |why: String| CniError::new(Code::Decode, format!("standard input: {why}"));
        if bytes.len() as u64 > MAX_BYTES {
            return Err(decode(format!(
                "the network configuration is larger than {MAX_BYTES} bytes"
            )));
        }
        let value: Value = serde_json::from_slice(bytes).map_err(|e| decode(e.to_string()))?;
        let Value::Object(raw) = value else {
            return Err(decode(
                "the network configuration is not a JSON object".into(),
            ));
        };
        let version: String = take(&raw, "cniVersion")?.unwrap_or_default();
        let version = Version::parse(&version)?;
        for key in raw.keys() {
            if !OWN.contains(&key.as_str())
                && !COMMON.contains(&key.as_str())
                && !key.starts_with("cni.dev/")
            {
                let known = OWN.join(", ");
                return Err(invalid(key, &raw[key], "unknown key").details(format!(
                    "beside the specification's own keys, podswitch reads: {known}"
                )));
            }
        }
        let name: String = take(&raw, "name")?.unwrap_or_default();
        network_name(&name)?;
        let runtime: RuntimeConfig = take(&raw, "runtimeConfig")?.unwrap_or_default();
        let ipam = match raw.get("ipam") {
            None | Some(Value::Null) => None,
            Some(value) => Ipam::parse(value, &runtime.ip_ranges)
                .map_err(|e| e.context("network configuration key \"ipam\""))?,
        };
        let mtu: Option<u32> = take(&raw, "mtu")?.filter(|m| *m != 0);
        if let Some(m) = mtu.filter(|m| !MTU.contains(m)) {
            return Err(invalid(
                "mtu",
                &m.into(),
                format!(
                    "an MTU is {} to {} bytes, or 0 for the default",
                    MTU.start(),
                    MTU.end()
                ),
            ));
        }
        let vrf: u32 = take(&raw, "vrf")?.unwrap_or(0);
        if vrf >= 1 << 24 {
            return Err(invalid("vrf", &vrf.into(), "a VRF id has 24 bits"));
        }
        let previous = match raw.get("prevResult") {
            None | Some(Value::Null) => None,
            Some(value) => Some(Attachment::parse("prevResult", value)?),
        };
        Ok(NetConf {
            version,
            name,
            socket: take(&raw, "socket")?.unwrap_or_else(|| podswitch_api::DEFAULT_SOCKET.into()),
            mtu,
            vrf,
            mode: take(&raw, "mode")?.unwrap_or_default(),
            egress_default: take(&raw, "egressDefault")?.unwrap_or_default(),
            ingress_default: take(&raw, "ingressDefault")?.unwrap_or_default(),
            ipam,
            dns: take(&raw, "dns")?.unwrap_or_default(),
            args_ips: args_ips(&raw)?,
            runtime,
            previous,
            valid: take(&raw, "cni.dev/valid-attachments")?,
            raw,
        })
    }

    /// Every address asked for: capability `ips`, `args.cni.ips` and `CNI_ARGS` `IP`, without prefix lengths.
    ///
    /// # Errors
    /// Code 7 naming what is no address.
    pub fn wanted_ips(&self, cni_arg: Option<&str>) -> Result<Vec<IpAddr>, CniError> {
        let texts = self
            .runtime
            .ips
            .iter()
            .chain(&self.args_ips)
            .map(String::as_str);
        let from_env = cni_arg
            .into_iter()
            .flat_map(|t| t.split(','))
            .filter(|t| !t.is_empty());
        let mut ips = Vec::new();
        for text in texts.chain(from_env) {
            let bare = text.split('/').next().unwrap_or(text);
            let ip = bare
                .parse()
                .map_err(|_| invalid("ips", &text.into(), "not an IP address"))?;
            if !ips.contains(&ip) {
                ips.push(ip);
            }
        }
        Ok(ips)
    }

    /// DNS settings of the result: the runtime's before the configuration's.
    pub fn result_dns(&self) -> Dns {
        match &self.runtime.dns {
            Some(d) => Dns {
                nameservers: d.servers.clone(),
                domain: String::new(),
                search: d.searches.clone(),
                options: d.options.clone(),
            },
            None => self.dns.clone(),
        }
    }
}

/// Section 1: a network's name has the characters of a container ID. It names a directory and an alias here.
fn network_name(name: &str) -> Result<(), CniError> {
    let ok = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
        && name.len() <= 64;
    if ok {
        return Ok(());
    }
    Err(invalid(
        "name",
        &name.into(),
        "a network name begins with a letter or digit, goes on with those or _ . -, and has at most 64",
    ))
}

/// `args.cni.ips`, the older way to ask for addresses (CNI conventions, "args in network configuration").
fn args_ips(raw: &Map<String, Value>) -> Result<Vec<String>, CniError> {
    match raw
        .get("args")
        .and_then(|a| a.get("cni"))
        .and_then(|c| c.get("ips"))
    {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(value) => {
            serde_json::from_value(value.clone()).map_err(|e| invalid("args.cni.ips", value, e))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: Value) -> Result<NetConf, CniError> {
        NetConf::parse(value.to_string().as_bytes())
    }

    fn base() -> Value {
        json!({"cniVersion": "1.1.0", "name": "k8s-net", "type": "podswitch", "socket": "/tmp/s", "mtu": 9000,
               "ipam": {"type": "podswitch", "ranges": [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:244:1::/64"}]]}})
    }

    #[test]
    fn the_documented_configuration_is_read() {
        let conf = parse(base()).unwrap();
        assert_eq!(conf.name, "k8s-net");
        assert_eq!(conf.mtu, Some(9000));
        assert!(matches!(conf.ipam, Some(Ipam::BuiltIn(_))));
    }

    #[test]
    fn every_bad_key_is_named_with_its_value() {
        for (key, value, code) in [
            ("cniVersion", json!("9.9.9"), 1),
            ("cniVersion", json!(1), 7),
            ("name", json!(""), 7),
            ("name", json!("../../etc"), 7),
            ("mtu", json!(67), 7),
            ("mtu", json!(70_000), 7),
            ("mtu", json!(-5), 7),
            ("mtu", json!("big"), 7),
            ("vrf", json!(1 << 24), 7),
            ("mode", json!("fast"), 7),
            ("ingressDefault", json!("maybe"), 7),
            ("mtuu", json!(1500), 7),
            (
                "ipam",
                json!({"type": "podswitch", "ranges": [[{"subnet": "10.0.0.0/33"}]]}),
                7,
            ),
            ("runtimeConfig", json!({"ips": 5}), 7),
            ("prevResult", json!({"ips": [{"address": "x"}]}), 6),
        ] {
            let mut conf = base();
            conf[key] = value.clone();
            let e = parse(conf).unwrap_err();
            assert_eq!(e.code, code, "{key}: {e}");
            assert!(e.msg.contains(key), "{key}: {e}");
        }
    }

    #[test]
    fn what_is_no_object_is_a_decode_failure() {
        for text in ["", "[]", "5", "{", "\u{1}"] {
            assert_eq!(
                NetConf::parse(text.as_bytes()).unwrap_err().code,
                6,
                "{text}"
            );
        }
    }

    #[test]
    fn wanted_addresses_come_from_three_places_without_repeats() {
        let mut conf = base();
        conf["runtimeConfig"] = json!({"ips": ["10.244.1.7/24", "fd00:244:1::7"]});
        conf["args"] = json!({"cni": {"ips": ["10.244.1.7"]}});
        let conf = parse(conf).unwrap();
        let ips = conf.wanted_ips(Some("10.244.1.9")).unwrap();
        assert_eq!(
            ips.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.244.1.7", "fd00:244:1::7", "10.244.1.9"]
        );
        assert!(
            conf.wanted_ips(Some("nine"))
                .unwrap_err()
                .msg
                .contains("nine")
        );
    }
}
