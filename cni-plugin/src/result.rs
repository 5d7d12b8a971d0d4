// SPDX-License-Identifier: Apache-2.0
//! Success results (CNI spec 1.1.0, section "ADD Success"): one model in the newest shape, read from and written in
//! every version the plugin speaks.

use std::net::IpAddr;

use ipnet::IpNet;
use podswitch_api::strict;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::json::{nullable, optional_ip};
use crate::spec::{CniError, Code, Version};

/// An interface the attachment made.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Interface {
    /// Name, in its namespace.
    pub name: String,
    /// MAC address.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub mac: String,
    /// MTU in bytes (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Path of the namespace; absent on the host.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub sandbox: String,
    /// Path of the socket by which it is reached, of one that is no kernel's (1.1.0).
    #[serde(
        default,
        rename = "socketPath",
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub socket_path: String,
}

/// An address the attachment was given.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Ip {
    /// The address with its prefix length.
    pub address: IpNet,
    /// The subnet's gateway.
    #[serde(
        default,
        deserialize_with = "optional_ip",
        skip_serializing_if = "Option::is_none"
    )]
    pub gateway: Option<IpAddr>,
    /// Index into the interfaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
}

/// A route of the attachment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Route {
    /// Destination.
    pub dst: IpNet,
    /// Next hop.
    #[serde(
        default,
        deserialize_with = "optional_ip",
        skip_serializing_if = "Option::is_none"
    )]
    pub gw: Option<IpAddr>,
    /// MTU in bytes towards the destination (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Largest TCP segment to announce, bytes (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// Preference, lower first (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Routing table (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// Scope of the destination: 0 global, 253 link, 254 host (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u32>,
}

impl Route {
    /// A route through `gw`.
    pub fn new(dst: IpNet, gw: Option<IpAddr>) -> Route {
        Route {
            dst,
            gw,
            mtu: None,
            advmss: None,
            priority: None,
            table: None,
            scope: None,
        }
    }
}

/// DNS settings, carried from the configuration or from IPAM.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Dns {
    /// Name servers by priority.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub nameservers: Vec<String>,
    /// Local domain.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub domain: String,
    /// Search domains.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub search: Vec<String>,
    /// Resolver options.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub options: Vec<String>,
}

impl Dns {
    /// Nothing set.
    pub fn is_empty(&self) -> bool {
        *self == Dns::default()
    }
}

/// What ADD prints, what `prevResult` holds, and what an IPAM delegate answers (without interfaces).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Attachment {
    /// Interfaces made.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub interfaces: Vec<Interface>,
    /// Addresses given.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub ips: Vec<Ip>,
    /// Routes made.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub routes: Vec<Route>,
    /// DNS settings.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Dns::is_empty"
    )]
    pub dns: Dns,
}

impl Attachment {
    /// Reads a result of any version the plugin speaks.
    ///
    /// # Errors
    /// Code 6, naming `what` it is and the key at fault.
    pub fn parse(what: &str, value: &Value) -> Result<Attachment, CniError> {
        strict::read(value).map_err(|e| {
            let (path, shown) = (e.path, e.value.unwrap_or_default());
            let at = if path.is_empty() { "it" } else { &path };
            CniError::new(
                Code::Decode,
                format!("{what}: {at} = {shown}: {}", e.message),
            )
        })
    }

    /// The JSON object in the shape of `version`.
    pub fn to_json(&self, version: Version) -> Value {
        let mut value = serde_json::to_value(self).unwrap_or_else(|_| json!({}));
        value["cniVersion"] = version.as_str().into();
        if version < Version::V1_1_0 {
            keep_keys(value.get_mut("interfaces"), &["name", "mac", "sandbox"]);
            keep_keys(value.get_mut("routes"), &["dst", "gw"]);
        }
        if version < Version::V1_0_0
            && let Some(Value::Array(ips)) = value.get_mut("ips")
        {
            for (item, ip) in ips.iter_mut().zip(&self.ips) {
                let v4 = ip.address.addr().is_ipv4();
                item["version"] = if v4 { "4" } else { "6" }.into();
            }
        }
        value
    }
}

fn keep_keys(items: Option<&mut Value>, known: &[&str]) {
    let items = items.and_then(Value::as_array_mut).into_iter().flatten();
    for object in items.filter_map(Value::as_object_mut) {
        object.retain(|k, _| known.contains(&k.as_str()));
    }
}

/// `prevResult`: what the plugins before this one in the chain made.
#[derive(Clone, PartialEq, Debug)]
pub struct Previous {
    /// As understood here.
    pub result: Attachment,
    raw: Map<String, Value>,
}

impl Previous {
    /// Reads `prevResult`.
    ///
    /// # Errors
    /// As [`Attachment::parse`], and for an address on an interface that it does not list.
    pub fn parse(value: &Value) -> Result<Previous, CniError> {
        let result = Attachment::parse("prevResult", value)?;
        let count = result.interfaces.len();
        let lost = |ip: &&Ip| ip.interface.is_some_and(|i| i >= count);
        if let Some(ip) = result.ips.iter().find(lost) {
            let (index, address) = (ip.interface.unwrap_or_default(), ip.address);
            let msg =
                format!("prevResult: ips[].interface {index} of {address} names no interface");
            return Err(CniError::new(Code::Decode, msg));
        }
        let raw = value.as_object().cloned().unwrap_or_default();
        Ok(Previous { result, raw })
    }

    /// The result of the chain: everything that was there, untouched, and `ours` after it (section "ADD Success": a
    /// `prevResult` must be output with the plugin's own modifications).
    pub fn and(&self, ours: &Attachment, version: Version) -> Value {
        let shift = self.result.interfaces.len();
        let mut ours = ours.clone();
        for ip in &mut ours.ips {
            ip.interface = ip.interface.map(|i| i + shift);
        }
        let Value::Object(ours) = ours.to_json(version) else {
            return Value::Null;
        };
        let mut all = self.raw.clone();
        for (key, value) in ours {
            match (all.get_mut(&key), value) {
                (Some(Value::Array(there)), Value::Array(mut more)) => there.append(&mut more),
                (_, value) => drop(all.insert(key, value)),
            }
        }
        Value::Object(all)
    }
}

podswitch_api::by_name!(Interface, Ip, Route, Dns, Attachment);

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Attachment {
        Attachment {
            interfaces: vec![Interface {
                name: "eth0".into(),
                mac: "02:00:00:00:00:01".into(),
                mtu: Some(1500),
                sandbox: "/run/netns/a".into(),
                socket_path: "/run/a".into(),
            }],
            ips: ["10.0.0.5/32", "fd00::5/128"]
                .map(|a| Ip {
                    address: a.parse().unwrap(),
                    gateway: None,
                    interface: Some(0),
                })
                .to_vec(),
            routes: vec![Route {
                mtu: Some(1400),
                ..Route::new("0.0.0.0/0".parse().unwrap(), "169.254.1.1".parse().ok())
            }],
            dns: Dns::default(),
        }
    }

    #[test]
    fn every_version_has_its_shape_and_reads_back() {
        for v in Version::ALL {
            let json = sample().to_json(v);
            assert_eq!(json["cniVersion"], v.as_str());
            assert_eq!(json["ips"][1].get("version").is_some(), v < Version::V1_0_0);
            for (key, newer) in [
                ("interfaces", "mtu"),
                ("interfaces", "socketPath"),
                ("routes", "mtu"),
            ] {
                assert_eq!(
                    json[key][0].get(newer).is_some(),
                    v >= Version::V1_1_0,
                    "{key} in {v}"
                );
            }
            assert!(json.get("dns").is_none());
            let back = Attachment::parse("result", &json).unwrap();
            assert_eq!(back.ips, sample().ips);
            assert_eq!(back.interfaces[0].name, "eth0");
        }
        assert_eq!(sample().to_json(Version::V0_3_1)["ips"][1]["version"], "6");
        assert_eq!(
            Attachment::default().to_json(Version::LATEST),
            json!({"cniVersion": "1.1.0"})
        );
    }

    #[test]
    fn what_go_programs_leave_empty_is_empty() {
        let json = json!({"cniVersion": "0.4.0", "interfaces": null, "routes": null, "dns": {"search": null},
            "ips": [{"version": "4", "address": "10.0.0.1/24", "gateway": "", "interface": null}]});
        let result = Attachment::parse("result", &json).unwrap();
        assert_eq!(result.ips[0].gateway, None);
        assert!(result.routes.is_empty() && result.dns.is_empty());
    }

    #[test]
    fn a_chained_result_keeps_the_first_untouched_and_shifts_indices() {
        let first = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "cni0", "mtu": 9000, "new": 1}, {"name": "lo"}],
            "ips": null, "dns": {"search": ["a"]}, "x": {"y": 2}});
        let all = Previous::parse(&first)
            .unwrap()
            .and(&sample(), Version::V1_0_0);
        assert_eq!(all["interfaces"][0], first["interfaces"][0]);
        assert_eq!(
            all["interfaces"][2],
            json!({"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/a"})
        );
        assert_eq!(all["ips"][1]["interface"], 2);
        assert_eq!(
            (&all["dns"], &all["x"]),
            (&json!({"search": ["a"]}), &json!({"y": 2}))
        );
        let with_dns = Attachment {
            dns: Dns {
                search: vec!["b".into()],
                ..Dns::default()
            },
            ..sample()
        };
        let all = Previous::parse(&first)
            .unwrap()
            .and(&with_dns, Version::V1_0_0);
        assert_eq!(all["dns"], json!({"search": ["b"]}));
    }

    #[test]
    fn an_index_that_names_nothing_is_refused() {
        for interfaces in [json!([{"name": "a"}]), json!([])] {
            let bad = json!({"interfaces": interfaces, "ips": [{"address": "10.0.0.1/24", "interface": 3}]});
            let e = Previous::parse(&bad).unwrap_err();
            assert_eq!(e.code, 6);
            assert!(e.msg.contains("prevResult") && e.msg.contains('3'), "{e}");
            // An IPAM plugin knows no interfaces; what it says of them is not looked at.
            Attachment::parse("result", &bad).unwrap();
        }
        for (key, value) in [
            ("ips", json!([{"address": "10.0.0.1/24", "interface": -1}])),
            ("ips", json!([{"address": "10.0.0.1"}])),
            ("ips", json!([{"address": "10.0.0.1/24", "gateway": "x"}])),
            ("routes", json!([{"gw": "10.0.0.1"}])),
            ("interfaces", json!({})),
        ] {
            let e = Attachment::parse("prevResult", &json!({key: value})).unwrap_err();
            assert_eq!(e.code, 6, "{e}");
        }
    }
}
