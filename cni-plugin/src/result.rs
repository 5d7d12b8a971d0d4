// SPDX-License-Identifier: Apache-2.0
//! Success results (CNI spec 1.1.0, section "Success"): one model in the newest shape, read from and written in every
//! version the plugin speaks.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::spec::{CniError, Code, Version};

/// An interface the attachment made.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Interface {
    /// Name, in its namespace.
    pub name: String,
    /// MAC address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// MTU in bytes (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Path of the namespace; absent on the host.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// Path of a vhost-user socket (1.1.0).
    #[serde(
        default,
        rename = "socketPath",
        skip_serializing_if = "Option::is_none"
    )]
    pub socket_path: Option<String>,
    /// PCI address (1.1.0).
    #[serde(default, rename = "pciID", skip_serializing_if = "Option::is_none")]
    pub pci_id: Option<String>,
}

/// An address the attachment was given.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ip {
    /// The address with its prefix length.
    pub address: IpNet,
    /// The subnet's gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Index into the interfaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    /// "4" or "6"; only before 1.0.0.
    #[serde(default, skip_serializing, rename = "version")]
    _version: Option<String>,
}

impl Ip {
    /// An address on the interface with this index.
    pub fn new(address: IpNet, gateway: Option<IpAddr>, interface: Option<usize>) -> Ip {
        Ip {
            address,
            gateway,
            interface,
            _version: None,
        }
    }
}

/// A route of the attachment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Route {
    /// Destination.
    pub dst: IpNet,
    /// Next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// MTU in bytes towards the destination (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Other keys of 1.1.0 (advmss, priority, table, scope), carried unchanged.
    #[serde(flatten)]
    pub other: serde_json::Map<String, Value>,
}

impl Route {
    /// A route through `gw`.
    pub fn new(dst: IpNet, gw: Option<IpAddr>) -> Route {
        Route {
            dst,
            gw,
            mtu: None,
            other: serde_json::Map::new(),
        }
    }
}

/// DNS settings, carried from the configuration or from IPAM.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Dns {
    /// Name servers by priority.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// Local domain.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Search domains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Resolver options.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
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
pub struct Attachment {
    /// Interfaces made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    /// Addresses given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<Ip>,
    /// Routes made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// DNS settings.
    #[serde(default, skip_serializing_if = "Dns::is_empty")]
    pub dns: Dns,
}

impl Attachment {
    /// Reads a result of any version the plugin speaks.
    ///
    /// # Errors
    /// Code 6, naming `what` it is and the key at fault.
    pub fn parse(what: &str, value: &Value) -> Result<Attachment, CniError> {
        let fail = |e: &dyn std::fmt::Display| CniError::new(Code::Decode, format!("{what}: {e}"));
        let result: Attachment = serde_json::from_value(value.clone()).map_err(|e| fail(&e))?;
        for ip in &result.ips {
            if let Some(i) = ip
                .interface
                .filter(|i| *i >= result.interfaces.len() && !result.interfaces.is_empty())
            {
                return Err(fail(&format!(
                    "ips[].interface {i} of {} names no interface",
                    ip.address
                )));
            }
        }
        Ok(result)
    }

    /// This result after what an earlier plugin of the chain made.
    pub fn after(mut self, previous: Attachment) -> Attachment {
        let shift = previous.interfaces.len();
        for ip in &mut self.ips {
            ip.interface = ip.interface.map(|i| i + shift);
        }
        let mut all = previous;
        all.interfaces.append(&mut self.interfaces);
        all.ips.append(&mut self.ips);
        all.routes.append(&mut self.routes);
        if !self.dns.is_empty() {
            all.dns = self.dns;
        }
        all
    }

    /// The JSON object in the shape of `version`.
    pub fn to_json(&self, version: Version) -> Value {
        let mut value = serde_json::to_value(self).unwrap_or_else(|_| json!({}));
        value["cniVersion"] = version.as_str().into();
        if version < Version::V1_1_0 {
            for key in ["interfaces", "routes"] {
                for item in value[key].as_array_mut().into_iter().flatten() {
                    strip_new(
                        item,
                        if key == "routes" {
                            &["dst", "gw"]
                        } else {
                            &["name", "mac", "sandbox"]
                        },
                    );
                }
            }
        }
        if version < Version::V1_0_0 {
            for (item, ip) in value["ips"]
                .as_array_mut()
                .into_iter()
                .flatten()
                .zip(&self.ips)
            {
                item["version"] = if ip.address.addr().is_ipv4() {
                    "4"
                } else {
                    "6"
                }
                .into();
            }
        }
        for key in ["interfaces", "ips", "routes"] {
            if value[key].is_null()
                && let Some(object) = value.as_object_mut()
            {
                object.remove(key);
            }
        }
        value
    }
}

fn strip_new(item: &mut Value, known: &[&str]) {
    if let Some(object) = item.as_object_mut() {
        object.retain(|k, _| known.contains(&k.as_str()));
    }
}

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
                ..Default::default()
            }],
            ips: vec![
                Ip::new(
                    "10.0.0.5/32".parse().unwrap(),
                    Some("169.254.1.1".parse().unwrap()),
                    Some(0),
                ),
                Ip::new("fd00::5/128".parse().unwrap(), None, Some(0)),
            ],
            routes: vec![Route::new(
                "0.0.0.0/0".parse().unwrap(),
                Some("169.254.1.1".parse().unwrap()),
            )],
            dns: Dns::default(),
        }
    }

    #[test]
    fn every_version_has_its_shape_and_reads_back() {
        for v in Version::ALL {
            let json = sample().to_json(v);
            assert_eq!(json["cniVersion"], v.as_str());
            assert_eq!(json["ips"][1].get("version").is_some(), v < Version::V1_0_0);
            assert_eq!(
                json["interfaces"][0].get("mtu").is_some(),
                v >= Version::V1_1_0
            );
            assert!(json.get("dns").is_none());
            let back = Attachment::parse("result", &json).unwrap();
            assert_eq!(back.ips[0].address, sample().ips[0].address);
            assert_eq!(back.interfaces[0].name, "eth0");
        }
        assert_eq!(sample().to_json(Version::V0_3_1)["ips"][1]["version"], "6");
        assert_eq!(
            Attachment::default().to_json(Version::LATEST),
            json!({"cniVersion": "1.1.0"})
        );
    }

    #[test]
    fn a_chained_result_keeps_the_first_and_shifts_indices() {
        let all = sample().after(sample());
        assert_eq!(all.interfaces.len(), 2);
        assert_eq!(all.ips[2].interface, Some(1));
    }

    #[test]
    fn an_index_that_names_nothing_is_refused() {
        let bad = json!({"interfaces": [{"name": "a"}], "ips": [{"address": "10.0.0.1/24", "interface": 3}]});
        let e = Attachment::parse("prevResult", &bad).unwrap_err();
        assert_eq!(e.code, 6);
        assert!(e.msg.contains("prevResult") && e.msg.contains('3'), "{e}");
    }
}
