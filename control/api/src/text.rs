// SPDX-License-Identifier: Apache-2.0
//! Addresses and prefixes as text, refused with the value that is none.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de};

const ADDRESS: &str = "an IP address; write one such as 10.244.1.7 or fd00::7";
const PREFIX: &str = "a prefix; write one such as 10.244.1.0/24 or fd00::/64";

fn parse<T: FromStr, E: de::Error>(text: &str, what: &str) -> Result<T, E> {
    let shown = || text.chars().take(64).collect::<String>();
    text.parse()
        .map_err(|_| E::custom(format!("\"{}\" is not {what}", shown())))
}

/// Reads an address.
pub(crate) fn address<'de, D: Deserializer<'de>>(from: D) -> Result<IpAddr, D::Error> {
    parse(&String::deserialize(from)?, ADDRESS)
}

/// Reads an address that may be null.
pub(crate) fn optional_address<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<IpAddr>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    text.map(|text| parse(&text, ADDRESS)).transpose()
}

/// Reads a list of addresses.
pub(crate) fn addresses<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpAddr>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    texts.iter().map(|text| parse(text, ADDRESS)).collect()
}

/// Reads a prefix.
pub(crate) fn prefix<'de, D: Deserializer<'de>>(from: D) -> Result<IpNet, D::Error> {
    parse(&String::deserialize(from)?, PREFIX)
}

/// Reads a prefix that may be null.
pub(crate) fn optional_prefix<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<IpNet>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    text.map(|text| parse(&text, PREFIX)).transpose()
}

/// Reads a list of prefixes.
pub(crate) fn prefixes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    texts.iter().map(|text| parse(text, PREFIX)).collect()
}

/// Reads a list of prefixes that may be null.
pub(crate) fn optional_prefixes<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Vec<IpNet>>, D::Error> {
    let texts = Option::<Vec<String>>::deserialize(from)?;
    let read = |texts: Vec<String>| texts.iter().map(|text| parse(text, PREFIX)).collect();
    texts.map(read).transpose()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::Object;

    #[test]
    fn errors_name_the_value() {
        let device = json!({"kind": "veth", "interface": "v"});
        let objects = [
            (
                json!({"kind": "port", "name": "p", "device": device, "addresses": ["10.0.0.1", "10.0.0.256"]}),
                "10.0.0.256",
            ),
            (
                json!({"kind": "route", "prefix": "10.0.0.0/33", "port": "p"}),
                "10.0.0.0/33",
            ),
            (
                json!({"kind": "route", "prefix": "10.0.0.0/8", "port": "p", "via": "here"}),
                "here",
            ),
            (
                json!({"kind": "neighbor", "address": "::g", "port": "p", "mac": "02:00:00:00:00:01"}),
                "::g",
            ),
            (
                json!({"kind": "rule", "name": "r", "port": "p", "direction": "ingress", "priority": 1,
                    "action": "deny", "source": "10.0.0.0/a"}),
                "10.0.0.0/a",
            ),
        ];
        for (object, named) in objects {
            let error = serde_json::from_value::<Object>(object)
                .expect_err(named)
                .to_string();
            assert!(error.contains(&format!("\"{named}\"")), "{error}");
        }
    }
}
