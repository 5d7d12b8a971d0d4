// SPDX-License-Identifier: Apache-2.0
//! What a runtime adds to the configuration: `runtimeConfig`, by capability, and `args` (CNI conventions, "Well-known
//! Capabilities" and "args in network config").

use std::net::IpAddr;
use std::path::PathBuf;

use podswitch_api::object::{PortMapping, Protocol};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::ipam::RangeConf;
use crate::json::{from_go, invalid, nullable, optional_ip, take, take_at, unsupported};
use crate::spec::CniError;

/// Capabilities that tell something and ask for nothing.
const INFORMATIVE: [&str; 2] = ["cgroupPath", "io.kubernetes.cri.pod-annotations"];

/// `runtimeConfig`: the capabilities podswitch has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RuntimeConfig {
    /// Capability `ips`: addresses wanted, with or without a prefix length.
    pub ips: Vec<String>,
    /// Capability `mac`: MAC address wanted.
    pub mac: Option<String>,
    /// Capability `ipRanges`: range sets beside the configured ones.
    pub ip_ranges: Vec<Vec<RangeConf>>,
    /// Capability `dns`.
    pub dns: RuntimeDns,
    /// Capability `portMappings`.
    pub port_mappings: Vec<PortMapping>,
    /// Capability `CNIDeviceInfoFile`: where to tell of a device that is no interface.
    pub device_info: Option<PathBuf>,
}

/// One of capability `portMappings`.
#[derive(Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase", deny_unknown_fields)]
struct Mapping {
    host_port: i64,
    container_port: i64,
    #[serde(default)]
    protocol: String,
    #[serde(default, rename = "hostIP", deserialize_with = "optional_ip")]
    host_ip: Option<IpAddr>,
}

impl Mapping {
    /// As podswitchd takes it; a protocol that is none or empty is TCP.
    fn read(&self, shown: &Value) -> Result<PortMapping, CniError> {
        let port = |number: i64| {
            let port = u16::try_from(number).ok().filter(|port| *port > 0);
            port.ok_or_else(|| invalid(PORT_MAPPINGS, shown, "a port is 1 to 65535"))
        };
        let protocol = match self.protocol.to_ascii_lowercase().as_str() {
            "" | "tcp" => Protocol::TCP,
            "udp" => Protocol::UDP,
            _ => {
                let why = "podswitch leads ports of TCP and UDP to pods, no others";
                return Err(unsupported(PORT_MAPPINGS, shown, why));
            }
        };
        Ok(PortMapping {
            protocol,
            host_ip: self.host_ip,
            host_port: port(self.host_port)?,
            container_port: port(self.container_port)?,
        })
    }
}

const PORT_MAPPINGS: &str = "runtimeConfig.portMappings";

fn port_mappings(own: &Map<String, Value>) -> Result<Vec<PortMapping>, CniError> {
    let all: Vec<Mapping> = take_at(own, "portMappings", PORT_MAPPINGS)?.unwrap_or_default();
    let shown = own.get("portMappings").and_then(Value::as_array);
    let shown = shown.into_iter().flatten();
    let read = all.iter().zip(shown).map(|(one, shown)| one.read(shown));
    read.collect()
}

/// Capability `dns`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(remote = "Self")]
pub struct RuntimeDns {
    /// Name servers.
    #[serde(default, deserialize_with = "nullable")]
    pub servers: Vec<String>,
    /// Search domains.
    #[serde(default, deserialize_with = "nullable")]
    pub searches: Vec<String>,
    /// Resolver options.
    #[serde(default, deserialize_with = "nullable")]
    pub options: Vec<String>,
}

impl RuntimeConfig {
    /// Reads `runtimeConfig`; a runtime puts in only what the configuration's `capabilities` ask for.
    ///
    /// # Errors
    /// Code 7 naming a key and its value; 2 for a capability that podswitch cannot serve.
    pub(super) fn parse(conf: &Map<String, Value>) -> Result<RuntimeConfig, CniError> {
        let object: Map<String, Value> = take(conf, "runtimeConfig")?.unwrap_or_default();
        let path = |key: &str| format!("runtimeConfig.{key}");
        for (key, value) in &object {
            let known = [
                "ips",
                "mac",
                "ipRanges",
                "dns",
                "portMappings",
                "CNIDeviceInfoFile",
            ];
            let known = known.contains(&key.as_str());
            if !known && !INFORMATIVE.contains(&key.as_str()) && !is_empty(value) {
                let e = unsupported(&path(key), value, "podswitch has no such capability");
                return Err(
                    e.details("take it out of \"capabilities\", and chain the plugin that has it")
                );
            }
        }
        let own: Map<String, Value> = object
            .into_iter()
            .map(|(key, value)| {
                let value = match key.as_str() {
                    "ipRanges" | "dns" | "portMappings" => from_go(value),
                    _ => value,
                };
                (key, value)
            })
            .collect();
        let mac: Option<String> = take_at(&own, "mac", &path("mac"))?;
        Ok(RuntimeConfig {
            ips: take_at(&own, "ips", &path("ips"))?.unwrap_or_default(),
            mac: mac.filter(|m| !m.is_empty()),
            ip_ranges: take_at(&own, "ipRanges", &path("ipRanges"))?.unwrap_or_default(),
            dns: take_at(&own, "dns", &path("dns"))?.unwrap_or_default(),
            port_mappings: port_mappings(&own)?,
            device_info: device_info(&own)?,
        })
    }
}

fn device_info(own: &Map<String, Value>) -> Result<Option<PathBuf>, CniError> {
    let path = "runtimeConfig.CNIDeviceInfoFile";
    let file: Option<PathBuf> = take_at(own, "CNIDeviceInfoFile", path)?;
    match file.filter(|file| !file.as_os_str().is_empty()) {
        Some(file) if !file.is_absolute() => Err(invalid(
            path,
            &own["CNIDeviceInfoFile"],
            "not an absolute path",
        )),
        file => Ok(file),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.values().all(is_empty),
        Value::Number(n) => n.as_u64() == Some(0),
        Value::Bool(b) => !b,
    }
}

/// `args.cni.ips`, the older way to ask for addresses.
///
/// # Errors
/// Code 7 when it is no list of strings; what else is in `args` may be anything.
pub(super) fn args_ips(conf: &Map<String, Value>) -> Result<Vec<String>, CniError> {
    let ips = conf
        .get("args")
        .and_then(|a| a.get("cni"))
        .and_then(|c| c.get("ips"));
    match ips {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(value) => Vec::deserialize(value).map_err(|e| invalid("args.cni.ips", value, e)),
    }
}

podswitch_api::by_name!(read: RuntimeDns, Mapping);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: Value) -> Result<RuntimeConfig, CniError> {
        RuntimeConfig::parse(json!({"runtimeConfig": value}).as_object().unwrap())
    }

    #[test]
    fn capabilities_are_read_as_containerd_writes_them() {
        // As in containerd's cache of results: fields of Go structs without names of their own.
        let conf = parse(json!({
            "dns": {"Servers": ["127.0.0.1", "::1"], "Searches": ["."], "Options": null},
            "ipRanges": [[{"Subnet": "10.9.0.0/24", "RangeStart": "", "RangeEnd": "", "Gateway": ""}]],
            "ips": null, "mac": "",
            "portMappings": [{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""},
                             {"HostPort": 53, "ContainerPort": 5353, "Protocol": "udp", "HostIP": "192.0.2.1"}],
        }))
        .unwrap();
        assert_eq!(conf.dns.servers, ["127.0.0.1", "::1"]);
        assert_eq!(conf.dns.searches, ["."]);
        assert!(conf.dns.options.is_empty());
        assert_eq!(conf.ip_ranges.len(), 1);
        assert_eq!(conf.mac, None);
        let mapped: Vec<String> = conf.port_mappings.iter().map(|m| m.to_string()).collect();
        assert_eq!(mapped, ["tcp/8080:80", "udp/192.0.2.1:53:5353"]);
        assert_eq!(parse(Value::Null).unwrap(), RuntimeConfig::default());
    }

    #[test]
    fn a_capability_that_asks_for_something_else_is_refused() {
        let e = parse(json!({"bandwidth": {"ingressRate": 9}})).unwrap_err();
        assert_eq!(e.code, 2);
        assert!(e.msg.contains("bandwidth") && e.msg.contains("9"), "{e}");
        // What asks for nothing, and what only informs, is passed over.
        parse(json!({"portMappings": [], "bandwidth": {"ingressRate": 0}, "aliases": null,
                     "cgroupPath": "/kubelet/pod1", "io.kubernetes.cri.pod-annotations": {"a": "b"}}))
        .unwrap();
    }

    #[test]
    fn mappings_that_cannot_be_are_refused_by_name() {
        let of = |mapping: Value| parse(json!({"portMappings": [mapping]}));
        for (mapping, code, named) in [
            (json!({"hostPort": 80}), 7, "containerPort"),
            (json!({"hostPort": 0, "containerPort": 80}), 7, "0"),
            (json!({"hostPort": 80, "containerPort": 65536}), 7, "65536"),
            (json!({"hostPort": 80, "containerPort": -1}), 7, "-1"),
            (
                json!({"hostPort": 80, "containerPort": 80, "hostIP": "node"}),
                7,
                "node",
            ),
            (
                json!({"hostPort": 80, "containerPort": 80, "name": "web"}),
                7,
                "name",
            ),
            (
                json!({"hostPort": 80, "containerPort": 80, "protocol": "sctp"}),
                2,
                "sctp",
            ),
        ] {
            let e = of(mapping).unwrap_err();
            assert_eq!(e.code, code, "{e}");
            assert!(
                e.msg.contains("portMappings") && e.msg.contains(named),
                "{e}"
            );
        }
        let plain = of(json!({"hostPort": 80, "containerPort": 8080, "protocol": "UDP"})).unwrap();
        assert_eq!(plain.port_mappings[0].to_string(), "udp/80:8080");
    }
}
