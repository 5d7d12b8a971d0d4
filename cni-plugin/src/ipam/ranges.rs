// SPDX-License-Identifier: Apache-2.0
//! Address ranges as host-local writes them: a list of range sets, one address from each set.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::leases::Leases;
use crate::attach::PodRoute;
use crate::json::{invalid, only, take_at};
use crate::result::Route;
use crate::spec::{CniError, Code};

/// Where leases are kept unless `dataDir` says otherwise: gone with the kernel, as the pods are.
const DATA_DIR: &str = "/run/podswitch/ipam";

/// A range as it is written.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct RangeConf {
    subnet: IpNet,
    #[serde(default, rename = "rangeStart")]
    start: Option<IpAddr>,
    #[serde(default, rename = "rangeEnd")]
    end: Option<IpAddr>,
    #[serde(default)]
    gateway: Option<IpAddr>,
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
                format!("ipam range {}: {what}", conf.subnet),
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
        // Pods reach the switch by the switch's own gateway address; this one is only kept free, for whoever has it.
        let gateway = match conf.gateway {
            Some(ip) if ip.is_ipv4() != subnet.addr().is_ipv4() => {
                return Err(bad(format!("gateway {ip} is of the other family")));
            }
            Some(ip) => ip,
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

    /// Its addresses among these numbers.
    fn within(&self, numbers: std::ops::RangeInclusive<u128>) -> impl Iterator<Item = IpAddr> + '_ {
        numbers
            .map(|n| address(n, self.is_ipv4()))
            .filter(|ip| *ip != self.gateway)
    }
}

/// One address is taken from each set; a set's ranges are tried in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RangeSet(Vec<Range>);

impl RangeSet {
    fn new(conf: &[RangeConf]) -> Result<RangeSet, CniError> {
        let ranges = conf.iter().map(Range::new).collect::<Result<Vec<_>, _>>()?;
        let v4 = ranges.first().is_none_or(Range::is_ipv4);
        match ranges.iter().find(|r| r.is_ipv4() != v4) {
            Some(odd) => Err(CniError::new(
                Code::InvalidConfig,
                format!(
                    "ipam range {}: a set mixes IPv4 and IPv6; make two sets of it",
                    odd.subnet
                ),
            )),
            None => Ok(RangeSet(ranges)),
        }
    }

    /// Whether any of its ranges may give this address away.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|r| r.contains(ip))
    }

    /// Every address once, beginning after the one given last, through all ranges and round to it.
    pub fn candidates(&self, last: Option<IpAddr>) -> impl Iterator<Item = IpAddr> + '_ {
        let begin = last.and_then(|ip| self.0.iter().position(|r| r.contains(ip)));
        let after = last.filter(|_| begin.is_some()).map(number);
        let begin = begin.unwrap_or(0);
        let (before, from) = self.0.split_at(begin.min(self.0.len()));
        let (first, others) = match from.split_first() {
            Some((first, later)) => (Some(first), later.iter().chain(before)),
            None => (None, [].iter().chain(before)),
        };
        let rest = first.into_iter().filter_map(move |r| {
            let next = after.map_or(Some(r.first), |n| n.checked_add(1))?;
            Some(r.within(next..=r.last))
        });
        let round = first
            .into_iter()
            .filter_map(move |r| Some(r.within(r.first..=after?)));
        rest.flatten()
            .chain(others.flat_map(|r| r.within(r.first..=r.last)))
            .chain(round.flatten())
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
    /// Code 7 naming the key and value, 2 for an unknown key.
    pub fn parse(
        section: &Map<String, Value>,
        runtime: &[Vec<RangeConf>],
    ) -> Result<BuiltIn, CniError> {
        only(section, &["type", "ranges", "routes", "dataDir"], "ipam.")?;
        let ranges: Vec<Vec<RangeConf>> =
            take_at(section, "ranges", "ipam.ranges")?.unwrap_or_default();
        let mut sets = Vec::new();
        for set in runtime.iter().chain(&ranges).filter(|s| !s.is_empty()) {
            sets.push(RangeSet::new(set)?);
        }
        if sets.is_empty() {
            let value = section.get("ranges").unwrap_or(&Value::Null);
            return Err(invalid(
                "ipam.ranges",
                value,
                "at least one range is needed",
            ));
        }
        no_overlap(&sets)?;
        let routes: Vec<Route> = take_at(section, "routes", "ipam.routes")?.unwrap_or_default();
        for route in &routes {
            PodRoute::of(route)?;
        }
        Ok(BuiltIn {
            sets,
            routes,
            data_dir: data_dir(section)?,
        })
    }

    /// Reads where the leases are; it has no ranges to give addresses from.
    ///
    /// # Errors
    /// Code 7 naming the key and value.
    pub fn for_cleanup(section: &Map<String, Value>) -> Result<BuiltIn, CniError> {
        Ok(BuiltIn {
            sets: Vec::new(),
            routes: Vec::new(),
            data_dir: data_dir(section)?,
        })
    }

    /// The leases of a network.
    pub fn leases(&self, network: &str) -> Leases {
        Leases::new(self.data_dir.join(network))
    }
}

fn data_dir(section: &Map<String, Value>) -> Result<PathBuf, CniError> {
    let dir: Option<PathBuf> = take_at(section, "dataDir", "ipam.dataDir")?;
    let dir = dir.unwrap_or_else(|| DATA_DIR.into());
    if dir.is_absolute() && !dir.to_string_lossy().contains(char::is_control) {
        return Ok(dir);
    }
    let why = "an absolute path without control characters is needed";
    Err(invalid("ipam.dataDir", &section["dataDir"], why))
}

fn no_overlap(sets: &[RangeSet]) -> Result<(), CniError> {
    let all: Vec<&Range> = sets.iter().flat_map(|s| &s.0).collect();
    for (i, a) in all.iter().enumerate() {
        for b in &all[i + 1..] {
            if a.is_ipv4() == b.is_ipv4() && a.first <= b.last && b.first <= a.last {
                let why = format!("ranges {} and {} overlap", a.subnet, b.subnet);
                return Err(CniError::new(Code::InvalidConfig, format!("ipam: {why}")));
            }
        }
    }
    Ok(())
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

podswitch_api::by_name!(read: RangeConf);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn section(value: Value) -> Result<BuiltIn, CniError> {
        BuiltIn::parse(value.as_object().unwrap(), &[])
    }

    fn set(text: Value) -> Result<BuiltIn, CniError> {
        section(json!({"type": "podswitch", "ranges": text}))
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
        assert_eq!(
            ips(&b, Some("10.1.0.2")),
            ["10.1.0.3", "10.0.0.5", "10.0.0.6", "10.1.0.1", "10.1.0.2"]
        );
    }

    #[test]
    fn every_address_of_any_range_comes_once_wherever_one_begins() {
        let b = set(json!([[{"subnet": "10.0.0.0/28", "rangeStart": "10.0.0.9"},
            {"subnet": "10.1.0.0/29", "gateway": "10.9.9.9"}, {"subnet": "10.2.0.0/30"}]]))
        .unwrap();
        let mut all = ips(&b, None);
        all.sort();
        assert_eq!(all.len() as u128, b.sets[0].size());
        for last in all
            .iter()
            .map(String::as_str)
            .chain(["10.7.7.7", "fd00::1"])
        {
            let mut again = ips(&b, Some(last));
            assert!(all.len() < 2 || again[0] != last);
            again.sort();
            assert_eq!(again, all, "after {last}");
        }
    }

    #[test]
    fn the_widest_ranges_begin_at_once() {
        let b = set(json!([[{"subnet": "fd00::/8"}], [{"subnet": "10.0.0.0/8"}]])).unwrap();
        assert_eq!(
            b.sets[0].candidates(None).next().unwrap().to_string(),
            "fd00::2"
        );
        assert_eq!(b.sets[0].size(), (1 << 120) - 2);
        let b = set(json!([[{"subnet": "::/0"}]])).unwrap();
        let last = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap();
        assert_eq!(
            b.sets[0].candidates(Some(last)).next().unwrap().to_string(),
            "::2"
        );
        assert_eq!(b.sets[0].size(), u128::MAX - 1);
    }

    #[test]
    fn a_section_says_where_leases_are_and_no_more_than_it_may() {
        let with = |key: &str, value: Value| {
            let mut s = json!({"type": "podswitch", "ranges": [[{"subnet": "10.0.0.0/24"}]]});
            s[key] = value;
            section(s)
        };
        assert_eq!(
            with("dataDir", Value::Null).unwrap().data_dir,
            PathBuf::from(DATA_DIR)
        );
        for (key, value, code, named) in [
            ("dataDir", json!("leases"), 7, "ipam.dataDir"),
            ("dataDir", json!("/run/a\u{0}b"), 7, "ipam.dataDir"),
            ("resolvConf", json!("/etc/resolv.conf"), 2, "resolv.conf"),
            ("routes", json!([{"dst": "10.0.0.0"}]), 7, "ipam.routes"),
            (
                "routes",
                json!([{"dst": "10.0.0.0/8", "advmss": 1400}]),
                2,
                "advmss",
            ),
            ("ranges", json!([[]]), 7, "ipam.ranges"),
        ] {
            let e = with(key, value).unwrap_err();
            assert!(e.code == code && e.msg.contains(named), "{key}: {e}");
        }
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
            (
                json!([[{"subnet": "10.0.0.0/24", "gateway": "fd00::1"}]]),
                "fd00::1",
            ),
        ] {
            let e = set(text.clone()).unwrap_err();
            assert_eq!(e.code, 7);
            assert!(e.msg.contains(named), "{text}: {e}");
        }
    }
}
