// SPDX-License-Identifier: Apache-2.0
//! What a runtime adds to the configuration: `runtimeConfig`, by capability, and `args` (CNI conventions, "Well-known
//! Capabilities" and "args in network config").

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::ipam::RangeConf;
use crate::json::{from_go, invalid, nullable, take, take_at, unsupported};
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
            let known = ["ips", "mac", "ipRanges", "dns"].contains(&key.as_str());
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
                    "ipRanges" | "dns" => from_go(value),
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
        })
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

podswitch_api::by_name!(read: RuntimeDns);

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
        }))
        .unwrap();
        assert_eq!(conf.dns.servers, ["127.0.0.1", "::1"]);
        assert_eq!(conf.dns.searches, ["."]);
        assert!(conf.dns.options.is_empty());
        assert_eq!(conf.ip_ranges.len(), 1);
        assert_eq!(conf.mac, None);
        assert_eq!(parse(Value::Null).unwrap(), RuntimeConfig::default());
    }

    #[test]
    fn a_capability_that_asks_for_something_else_is_refused() {
        let e = parse(json!({"portMappings": [{"hostPort": 80}]})).unwrap_err();
        assert_eq!(e.code, 2);
        assert!(
            e.msg.contains("portMappings") && e.msg.contains("hostPort"),
            "{e}"
        );
        // What asks for nothing, and what only informs, is passed over.
        parse(json!({"portMappings": [], "bandwidth": {"ingressRate": 0}, "aliases": null,
                     "cgroupPath": "/kubelet/pod1", "io.kubernetes.cri.pod-annotations": {"a": "b"}}))
        .unwrap();
    }
}
