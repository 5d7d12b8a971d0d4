// SPDX-License-Identifier: Apache-2.0
//! Address ranges as host-local writes them: a list of range sets, one address from each set.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use super::leases::Leases;
use crate::result::Route;
use crate::spec::{CniError, Code};

/// Where leases are kept unless `dataDir` says otherwise.
const DATA_DIR: &str = "/var/lib/podswitch/ipam";

/// A range as it is written.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RangeConf {
    subnet: IpNet,
    #[serde(default, rename = "rangeStart")]
    start: Option<IpAddr>,
    #[serde(default, rename = "rangeEnd")]
    end: Option<IpAddr>,
    #[serde(default)]
    gateway: Option<IpAddr>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    #[serde(rename = "type")]
    _type: String,
    #[serde(default)]
    ranges: Vec<Vec<RangeConf>>,
    #[serde(default)]
    routes: Vec<Route>,
    #[serde(default, rename = "dataDir")]
    data_dir: Option<PathBuf>,
}

/// A checked range: both ends inclusive, in the numbers of its family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Range {
    subnet: IpNet,
    first: u128,
    last: u128,
    gateway: IpAddr,
}

impl Range {
    fn new(conf: &RangeConf) -> Result<Range, CniError> {
        let subnet = conf.subnet.trunc();
        let bad = |what: String| {
            CniError::new(
                Code::InvalidConfig,
                format!("range {}: {what}", conf.subnet),
            )
        };
        if subnet != conf.subnet {
            return Err(bad(format!("host bits are set; write {subnet}")));
        }
        let host_bits = u32::from(subnet.max_prefix_len() - subnet.prefix_len());
        if host_bits < 2 {
            return Err(bad(
                "too small: a subnet of at least four addresses is needed".into(),
            ));
        }
        let base = number(subnet.network());
        let top = number(subnet.broadcast());
        // The network address (RFC 4291 section 2.6.1: the subnet-router anycast address) and IPv4's broadcast address
        // are nobody's.
        let usable = (
            base + 1,
            if subnet.addr().is_ipv4() {
                top - 1
            } else {
                top
            },
        );
        let inside = |key: &str, ip: IpAddr| {
            if subnet.contains(&ip) && (usable.0..=usable.1).contains(&number(ip)) {
                Ok(number(ip))
            } else {
                Err(bad(format!("{key} {ip} is not a usable address of it")))
            }
        };
        let first = conf
            .start
            .map_or(Ok(usable.0), |ip| inside("rangeStart", ip))?;
        let last = conf.end.map_or(Ok(usable.1), |ip| inside("rangeEnd", ip))?;
        if first > last {
            return Err(bad("rangeStart is after rangeEnd".into()));
        }
        let gateway = match conf.gateway {
            Some(ip) => address(inside("gateway", ip)?, ip.is_ipv4()),
            None => address(usable.0, subnet.addr().is_ipv4()),
        };
        Ok(Range {
            subnet,
            first,
            last,
            gateway,
        })
    }

    /// Whether it may give this address away.
    fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.is_ipv4()
            && (self.first..=self.last).contains(&number(ip))
            && ip != self.gateway
    }

    fn is_ipv4(&self) -> bool {
        self.subnet.addr().is_ipv4()
    }

    /// Its addresses from `after` on, once around. `None` begins at the first.
    fn from(&self, after: Option<IpAddr>) -> impl Iterator<Item = IpAddr> + '_ {
        let start = match after
            .filter(|ip| ip.is_ipv4() == self.is_ipv4())
            .map(number)
        {
            Some(n) if n >= self.first && n < self.last => n + 1,
            _ => self.first,
        };
        (start..=self.last)
            .chain(self.first..start)
            .map(|n| address(n, self.is_ipv4()))
            .filter(|ip| *ip != self.gateway)
    }
}

/// One address is taken from each set; a set's ranges are tried in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RangeSet(Vec<Range>);

impl RangeSet {
    /// Whether any of its ranges may give this address away.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|r| r.contains(ip))
    }

    /// Every address, beginning after the one given last.
    pub fn candidates(&self, last: Option<IpAddr>) -> impl Iterator<Item = IpAddr> + '_ {
        let begin = last
            .and_then(|ip| self.0.iter().position(|r| r.contains(ip)))
            .unwrap_or(0);
        let rest = self
            .0
            .iter()
            .cycle()
            .skip(begin + 1)
            .take(self.0.len().saturating_sub(1));
        self.0
            .get(begin)
            .into_iter()
            .flat_map(move |r| r.from(last))
            .chain(rest.flat_map(|r| r.from(None)))
    }

    /// Its subnets, for messages.
    pub fn describe(&self) -> String {
        self.0
            .iter()
            .map(|r| r.subnet.to_string())
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// How many addresses it can give at most.
    pub fn size(&self) -> u128 {
        let of = |r: &Range| {
            let gateway = (r.first..=r.last).contains(&number(r.gateway));
            (r.last - r.first).saturating_add(1) - u128::from(gateway)
        };
        self.0.iter().map(of).fold(0, u128::saturating_add)
    }
}

/// The built-in IPAM's section.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BuiltIn {
    /// One address is taken from each.
    pub sets: Vec<RangeSet>,
    /// Routes for the result beside the default ones.
    pub routes: Vec<Route>,
    data_dir: PathBuf,
}

impl BuiltIn {
    /// Reads the section; the runtime's ranges go before the configured ones.
    ///
    /// # Errors
    /// Code 7 naming the key and value.
    pub fn parse(value: &Value, runtime: &[Vec<RangeConf>]) -> Result<BuiltIn, CniError> {
        let bad = |why: String| CniError::new(Code::InvalidConfig, why);
        let section: Section =
            serde_json::from_value(value.clone()).map_err(|e| bad(e.to_string()))?;
        let mut sets = Vec::new();
        for set in runtime
            .iter()
            .chain(&section.ranges)
            .filter(|s| !s.is_empty())
        {
            let ranges = set.iter().map(Range::new).collect::<Result<Vec<_>, _>>()?;
            if let Some(odd) = ranges.iter().find(|r| r.is_ipv4() != ranges[0].is_ipv4()) {
                return Err(bad(format!(
                    "range {}: a set mixes IPv4 and IPv6; make two sets of it",
                    odd.subnet
                )));
            }
            sets.push(RangeSet(ranges));
        }
        if sets.is_empty() {
            return Err(bad("ranges: at least one range is needed".into()));
        }
        let all: Vec<&Range> = sets.iter().flat_map(|s| &s.0).collect();
        for (i, a) in all.iter().enumerate() {
            for b in &all[i + 1..] {
                if a.is_ipv4() == b.is_ipv4() && a.first <= b.last && b.first <= a.last {
                    return Err(bad(format!("ranges {} and {} overlap", a.subnet, b.subnet)));
                }
            }
        }
        Ok(BuiltIn {
            sets,
            routes: section.routes,
            data_dir: section.data_dir.unwrap_or_else(|| DATA_DIR.into()),
        })
    }

    /// The leases of a network.
    pub fn leases(&self, network: &str) -> Leases {
        Leases::new(self.data_dir.join(network))
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

fn address(n: u128, ipv4: bool) -> IpAddr {
    if ipv4 {
        Ipv4Addr::from(n as u32).into()
    } else {
        Ipv6Addr::from(n).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(text: Value) -> Result<BuiltIn, CniError> {
        BuiltIn::parse(&json!({"type": "podswitch", "ranges": text}), &[])
    }

    fn ips(b: &BuiltIn, last: Option<&str>) -> Vec<String> {
        b.sets[0]
            .candidates(last.map(|l| l.parse().unwrap()))
            .map(|ip| ip.to_string())
            .collect()
    }

    #[test]
    fn a_small_range_leaves_out_network_gateway_and_broadcast() {
        let b = set(json!([[{"subnet": "10.0.0.0/29"}]])).unwrap();
        assert_eq!(
            ips(&b, None),
            ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]
        );
        assert_eq!(
            ips(&b, Some("10.0.0.4")),
            ["10.0.0.5", "10.0.0.6", "10.0.0.2", "10.0.0.3", "10.0.0.4"]
        );
        assert_eq!(b.sets[0].size(), 5);
        let b = set(json!([[{"subnet": "fd00::/126"}]])).unwrap();
        assert_eq!(ips(&b, None), ["fd00::2", "fd00::3"]);
    }

    #[test]
    fn ranges_of_a_set_follow_each_other_and_wrap() {
        let b = set(json!([[{"subnet": "10.0.0.0/29", "rangeStart": "10.0.0.5"}, {"subnet": "10.1.0.0/29", "rangeEnd": "10.1.0.3", "gateway": "10.1.0.6"}]])).unwrap();
        assert_eq!(
            ips(&b, None),
            ["10.0.0.5", "10.0.0.6", "10.1.0.1", "10.1.0.2", "10.1.0.3"]
        );
        let wrapped = ips(&b, Some("10.1.0.3"));
        assert_eq!(wrapped.len(), 5);
        assert_eq!(wrapped[3], "10.0.0.5");
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (text, named) in [
            (json!([]), "ranges"),
            (json!([[{"subnet": "10.0.0.1/24"}]]), "10.0.0.0/24"),
            (json!([[{"subnet": "10.0.0.0/31"}]]), "10.0.0.0/31"),
            (
                json!([[{"subnet": "10.0.0.0/24", "rangeStart": "10.0.1.1"}]]),
                "rangeStart 10.0.1.1",
            ),
            (
                json!([[{"subnet": "10.0.0.0/24", "rangeEnd": "10.0.0.255"}]]),
                "rangeEnd 10.0.0.255",
            ),
            (
                json!([[{"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.8"}]]),
                "rangeStart",
            ),
            (
                json!([[{"subnet": "10.0.0.0/24"}, {"subnet": "fd00::/64"}]]),
                "fd00::/64",
            ),
            (
                json!([[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.0.0.128/25"}]]),
                "overlap",
            ),
            (
                json!([[{"subnet": "10.0.0.0/24", "rangeBegin": "10.0.0.2"}]]),
                "rangeBegin",
            ),
        ] {
            let e = set(text.clone()).unwrap_err();
            assert_eq!(e.code, 7);
            assert!(e.msg.contains(named), "{text}: {e}");
        }
    }
}
