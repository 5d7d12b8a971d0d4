// SPDX-License-Identifier: Apache-2.0
//! A pod's way to the switch: a veth pair with one end in the pod, routed by a gateway that is on no subnet. Everything
//! is named after the container ID and the interface name, so that it is found again without any record.

mod check;
mod create;
mod remove;

pub use check::check;
pub use create::{Made, create, ensure_free, open, still_there};
pub use remove::{delete, delete_host, list};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use ipnet::IpNet;
use podswitch_api::limits::{MAX_MTU, MIN_MTU, MIN_MTU_IPV6};
use podswitch_api::object::Port;
use serde_json::json;

use crate::conf::NetConf;
use crate::invocation::Invocation;
use crate::json::{invalid, unsupported};
use crate::lock::Lock;
use crate::result::Route;
use crate::spec::{CniError, Code};

/// How host ends are called: this and twelve hexadecimal digits.
pub const HOST_PREFIX: &str = "psw";
/// Held while a host end has no alias yet, so that GC never takes one in the making for a left-over.
const LOCK: &str = "/run/podswitch/cni.lock";

/// FNV-1a with a final mix (parameters: draft-eastlake-fnv section 5); what it names must stay the same in all versions.
fn hash(parts: &[&str]) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325u64;
    for byte in parts.iter().flat_map(|p| p.bytes().chain([0])) {
        h = (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    h ^= h >> 32;
    h.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Name of the host end, and of the port, of an attachment.
pub fn host_name(container_id: &str, ifname: &str) -> String {
    format!("{HOST_PREFIX}{:012x}", hash(&[container_id, ifname]) >> 16)
}

pub(crate) fn is_host_name(name: &str) -> bool {
    name.strip_prefix(HOST_PREFIX)
        .is_some_and(|h| h.len() == 12 && h.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// A locally administered unicast address (IEEE 802-2014 section 8.4) for one end.
fn mac(container_id: &str, ifname: &str, end: &str) -> [u8; 6] {
    let h = hash(&[container_id, ifname, end]).to_be_bytes();
    [h[0] & 0xfc | 0x02, h[1], h[2], h[3], h[4], h[5]]
}

/// `podswitch:NETWORK:REST`, at most 255 bytes (IFALIASZ); GC needs the front, people read the rest.
pub(crate) fn alias_of(network: &str, rest: &str) -> String {
    let mut alias = format!("podswitch:{network}:{rest}");
    // All of it is ASCII, so every byte is a boundary.
    alias.truncate(255);
    alias
}

/// One attachment's interfaces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Host end, and name of the port.
    pub host: String,
    network: String,
    container_id: String,
    ifname: String,
    netns: String,
}

impl Link {
    /// The interfaces a call is about.
    pub fn of(conf: &NetConf, call: &Invocation) -> Link {
        Link {
            host: host_name(&call.container_id, &call.ifname),
            network: conf.name.clone(),
            container_id: call.container_id.clone(),
            ifname: call.ifname.clone(),
            netns: call.netns.clone(),
        }
    }

    /// `CNI_CONTAINERID`
    pub fn container_id(&self) -> &str {
        &self.container_id
    }

    /// `CNI_IFNAME`
    pub fn ifname(&self) -> &str {
        &self.ifname
    }

    /// `CNI_NETNS`
    pub fn netns(&self) -> &str {
        &self.netns
    }

    /// Says on the interface itself whose it is.
    pub fn alias(&self) -> String {
        let rest = format!("{}:{}", self.container_id, self.ifname);
        alias_of(&self.network, &rest)
    }

    /// Whether a port of this name is this attachment's, and not one that has the name by chance.
    pub fn owns(&self, port: &Port) -> bool {
        port.pod.as_ref().is_some_and(|pod| {
            pod.container_id == self.container_id
                && pod.ifname == self.ifname
                && pod.network.as_ref() == Some(&self.network)
        })
    }
}

/// A destination that pods reach through the gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PodRoute {
    /// Destination, without host bits.
    pub dst: IpNet,
    /// Route MTU, bytes.
    pub mtu: Option<u32>,
    /// Preference, lower first.
    pub priority: Option<u32>,
    /// Routing table; main when none.
    pub table: Option<u32>,
}

impl PodRoute {
    /// What of a configured or allocated route podswitch makes: everything but the next hop, which is the switch.
    ///
    /// # Errors
    /// Code 2 for what it does not make, 7 for an MTU that cannot be, naming the route.
    pub fn of(route: &Route) -> Result<PodRoute, CniError> {
        let shown = json!(route);
        if route.advmss.is_some_and(|m| m != 0) {
            return Err(unsupported("routes", &shown, "podswitch sets no advmss"));
        }
        if route.scope.is_some_and(|s| s != 0) {
            let why = "a route through a gateway has the global scope (0)";
            return Err(unsupported("routes", &shown, why));
        }
        let mtu = route.mtu.filter(|m| *m != 0);
        if mtu.is_some_and(|m| !(MIN_MTU..=MAX_MTU).contains(&m)) {
            let why = format!("an MTU is {MIN_MTU} to {MAX_MTU} bytes");
            return Err(invalid("routes", &shown, why));
        }
        Ok(PodRoute {
            dst: route.dst.trunc(),
            mtu,
            priority: route.priority.filter(|p| *p != 0),
            table: route.table.filter(|t| *t != 0),
        })
    }

    fn default(v4: bool) -> PodRoute {
        PodRoute {
            dst: if v4 {
                IpNet::V4(Default::default())
            } else {
                IpNet::V6(Default::default())
            },
            mtu: None,
            priority: None,
            table: None,
        }
    }

    fn is_ipv4(&self) -> bool {
        self.dst.addr().is_ipv4()
    }
}

/// What a pod is to get.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// MTU of both ends, bytes.
    pub mtu: u32,
    /// MAC address wanted for the pod's end.
    pub mac: Option<[u8; 6]>,
    /// Addresses, each alone (/32, /128).
    pub addresses: Vec<IpAddr>,
    /// The switch's IPv4 gateway.
    pub gateway_v4: Ipv4Addr,
    /// The switch's IPv6 gateway, a link-local address.
    pub gateway_v6: Ipv6Addr,
    /// Destinations beside the default routes, or with something to say about those.
    pub routes: Vec<PodRoute>,
}

impl Plan {
    /// Refuses what the kernel would refuse later and less clearly.
    ///
    /// # Errors
    /// Code 7 for an MTU too small for IPv6, naming it.
    pub fn check(&self) -> Result<(), CniError> {
        if self.has(false) && self.mtu < MIN_MTU_IPV6 {
            let why = format!(
                "IPv6 needs {MIN_MTU_IPV6} bytes or more (RFC 8200 section 5); raise it, or give no IPv6 addresses"
            );
            return Err(invalid("mtu", &self.mtu.into(), why));
        }
        Ok(())
    }

    /// The gateway of a family.
    pub fn gateway(&self, v4: bool) -> IpAddr {
        if v4 {
            self.gateway_v4.into()
        } else {
            self.gateway_v6.into()
        }
    }

    fn has(&self, v4: bool) -> bool {
        self.addresses.iter().any(|ip| ip.is_ipv4() == v4)
    }

    /// A default route for each family that has an address, unless a route says something else of it, and the routes of
    /// such a family.
    pub(crate) fn all_routes(&self) -> Vec<PodRoute> {
        let of_family = |v4| {
            let default = PodRoute::default(v4);
            let given = self.routes.iter().filter(move |r| r.is_ipv4() == v4);
            let said = given.clone().any(|r| {
                (r.dst, r.priority, r.table) == (default.dst, default.priority, default.table)
            });
            let default = (!said).then_some(default);
            default.into_iter().chain(given.copied())
        };
        let families = [true, false].into_iter().filter(|v4| self.has(*v4));
        families.flat_map(of_family).collect()
    }
}

fn host_error(e: podswitch_host::Error) -> CniError {
    let code = match &e {
        podswitch_host::Error::NetnsGone { .. } | podswitch_host::Error::NotNetns { .. } => {
            Code::UnknownContainer
        }
        _ => Code::Network,
    };
    CniError::new(code, e.to_string())
}

pub(crate) fn lock() -> Result<Lock, CniError> {
    Lock::take(Path::new(LOCK)).map_err(|e| CniError::io(format_args!("lock {LOCK}"), &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable_and_fit_an_interface() {
        let name = host_name("a1b2", "eth0");
        assert_eq!(name, host_name("a1b2", "eth0"));
        assert!(is_host_name(&name) && name.len() == 15, "{name}");
        assert_ne!(name, host_name("a1b2", "eth1"));
        assert_ne!(host_name("ab", "c"), host_name("a", "bc"));
        // Names outlive an upgrade of the plugin.
        assert_eq!(name, "psw570a281791dc");
    }

    #[test]
    fn macs_are_local_unicast_and_differ() {
        let (host, pod) = (mac("c", "eth0", "host"), mac("c", "eth0", "pod"));
        assert_ne!(host, pod);
        for m in [host, pod] {
            assert_eq!(m[0] & 3, 2);
        }
    }

    #[test]
    fn an_alias_fits_and_begins_with_the_network() {
        let alias = alias_of(&"n".repeat(64), &"c".repeat(255));
        assert_eq!(alias.len(), 255);
        assert!(alias.starts_with(&alias_of(&"n".repeat(64), "")));
    }

    fn plan() -> Plan {
        Plan {
            mtu: 1500,
            mac: None,
            addresses: vec!["10.0.0.1".parse().unwrap()],
            gateway_v4: Ipv4Addr::new(169, 254, 1, 1),
            gateway_v6: "fe80::1".parse().unwrap(),
            routes: Vec::new(),
        }
    }

    fn route(dst: &str) -> PodRoute {
        PodRoute::of(&Route::new(dst.parse().unwrap(), None)).unwrap()
    }

    #[test]
    fn routes_follow_the_families_that_have_addresses() {
        let narrow = PodRoute {
            mtu: Some(1400),
            ..route("0.0.0.0/0")
        };
        let elsewhere = PodRoute {
            table: Some(100),
            ..route("::/0")
        };
        let mut plan = Plan {
            routes: vec![narrow, route("fd00::7/8"), elsewhere],
            ..plan()
        };
        assert_eq!(plan.all_routes(), [narrow]);
        plan.addresses.push("fd00::1".parse().unwrap());
        assert_eq!(
            plan.all_routes(),
            [narrow, route("::/0"), route("fd00::/8"), elsewhere]
        );
    }

    #[test]
    fn an_mtu_too_small_for_ipv6_is_refused_where_there_is_ipv6() {
        let mut plan = Plan {
            mtu: 1279,
            ..plan()
        };
        plan.check().unwrap();
        plan.addresses.push("fd00::1".parse().unwrap());
        let e = plan.check().unwrap_err();
        assert!(e.code == 7 && e.msg.contains("1279"), "{e}");
        plan.mtu = 1280;
        plan.check().unwrap();
    }

    #[test]
    fn what_no_route_of_ours_has_is_refused_by_name() {
        let with = |change: fn(&mut Route)| {
            let mut route = Route::new("10.0.0.0/8".parse().unwrap(), "10.0.0.1".parse().ok());
            change(&mut route);
            PodRoute::of(&route)
        };
        for (change, code, named) in [
            ((|r| r.advmss = Some(1400)) as fn(&mut Route), 2, "advmss"),
            (|r| r.scope = Some(253), 2, "scope"),
            (|r| r.mtu = Some(67), 7, "67"),
            (|r| r.mtu = Some(70_000), 7, "70000"),
        ] {
            let e = with(change).unwrap_err();
            assert!(e.code == code && e.msg.contains(named), "{e}");
        }
        let zeros = with(|r| {
            (r.advmss, r.scope, r.mtu) = (Some(0), Some(0), Some(0));
            (r.priority, r.table) = (Some(0), Some(0));
        });
        assert_eq!(zeros.unwrap(), route("10.0.0.0/8"));
    }
}
