// SPDX-License-Identifier: Apache-2.0
//! The public routing table, from a file in the source of the crate `iptrie` (MIT), which is read where cargo keeps it.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::Command;

use ipnet::{IpNet, Ipv4Net};
use podswitch_datapath::tables::{Edit, PortKindSpec, Route};
use podswitch_datapath::wire::MacAddr;
use podswitch_datapath::{PortId, VrfId};
use serde_json::Value;

use crate::pair;
use crate::stats::Random;

/// The crate, and the file in it: a prefix and the number of an autonomous system on each line.
const CRATE: &str = "iptrie";
const FILE: &str = "benches/bgpas.lpm";
/// Routers on the link, each the next hop of the systems with some numbers.
pub const ROUTERS: u32 = 250;
/// Their link: addresses for benchmarks (RFC 2544), which nobody announces.
const LINK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 24);
/// The node's address there.
pub const NODE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 254);

/// Unicast addresses.
const FIRST: u32 = 1 << 24;
const LAST: u32 = (224 << 24) - 1;

/// Prefixes, and which router each leads to.
#[derive(Clone, Debug)]
pub struct Public {
    /// IPv4 prefixes with the number of a router, 0 to [`ROUTERS`] - 1, in order; no prefix comes twice.
    pub prefixes: Vec<(Ipv4Net, u32)>,
}

impl Public {
    /// Reads it.
    ///
    /// # Panics
    /// When cargo does not say where it is, or it is not what it should be.
    pub fn read() -> Public {
        let text = fs::read_to_string(file()).expect("the crate has the table");
        let line = |line: &str| {
            let (prefix, system) = line.split_once(' ')?;
            let system: u32 = system.parse().ok()?;
            // IPv6 prefixes are in it, too, and a few have bits beyond their lengths.
            let prefix: Ipv4Net = prefix.parse().ok()?;
            Some((prefix.trunc(), system % ROUTERS))
        };
        let prefixes: BTreeMap<_, _> = text.lines().filter_map(line).collect();
        let prefixes: Vec<_> = prefixes.into_iter().collect();
        assert!(prefixes.len() > 1_000_000, "{} prefixes", prefixes.len());
        Public { prefixes }
    }

    /// Unicast addresses, each of a prefix by chance.
    pub fn announced(&self, count: usize, random: &mut Random) -> Vec<u32> {
        let one = || {
            let (prefix, _) = self.prefixes[random.below(self.prefixes.len())];
            let host = random.bits() as u32 & u32::from(prefix.hostmask());
            u32::from(prefix.network()) | host
        };
        // The shortest prefixes cover others, too.
        let all = std::iter::repeat_with(one).filter(|a| (FIRST..=LAST).contains(a));
        all.take(count).collect()
    }
}

/// Unicast addresses, each as likely as the others, announced or not.
pub fn unicast(count: usize, random: &mut Random) -> Vec<u32> {
    let span = (LAST - FIRST) as usize + 1;
    (0..count)
        .map(|_| FIRST + random.below(span) as u32)
        .collect()
}

/// Where cargo keeps the file; never told to anybody.
fn file() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["metadata", "--format-version", "1", "--locked", "--offline"];
    let output = Command::new(cargo).args(arguments).output();
    let output = output.expect("cargo runs");
    let all: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata says JSON");
    let packages = all["packages"].as_array().expect("packages");
    let package = packages.iter().find(|p| p["name"] == CRATE);
    let manifest = package.and_then(|p| p["manifest_path"].as_str());
    let mut path = PathBuf::from(manifest.expect("the crate is a dependency"));
    path.set_file_name(FILE);
    path
}

/// A router's address.
pub fn router(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(LINK.network()) + 1 + number)
}

/// The number of a router's address.
pub fn router_number(address: IpAddr) -> Option<u32> {
    let IpAddr::V4(address) = address else {
        return None;
    };
    let number = u32::from(address).checked_sub(u32::from(router(0)))?;
    (number < ROUTERS).then_some(number)
}

/// The way by a router.
pub fn by(port: PortId, number: u32) -> Route {
    Route::Unicast {
        port,
        via: Some(router(number).into()),
        mtu: None,
    }
}

/// Adds a NIC with the routers on its link.
pub fn set_link(edit: &mut Edit, port: PortId) {
    let kind = PortKindSpec::Uplink {
        vrf: VrfId(0),
        addresses: vec![NODE.into()],
        masquerade: None,
    };
    edit.set_port(pair::port(port, "uplink", pair::nic_mac(1), kind));
    let on_link = Route::Unicast {
        port,
        via: None,
        mtu: None,
    };
    edit.set_route(VrfId(0), IpNet::V4(LINK), on_link);
    for number in 0..ROUTERS {
        let mac = MacAddr([2, 0, 2, 0, 0, number as u8]);
        edit.set_neighbor(VrfId(0), port, router(number).into(), mac);
    }
}

/// Adds every prefix.
pub fn set_prefixes(edit: &mut Edit, public: &Public, port: PortId) {
    for (prefix, number) in &public.prefixes {
        edit.set_route(VrfId(0), IpNet::V4(*prefix), by(port, *number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_of_announced_prefixes() {
        let public = Public {
            prefixes: vec![
                ("192.0.2.0/25".parse().unwrap(), 1),
                ("10.0.0.0/8".parse().unwrap(), 2),
            ],
        };
        let mut random = Random::new(1);
        for address in public.announced(1000, &mut random) {
            let address = Ipv4Addr::from(address);
            assert!(public.prefixes.iter().any(|(p, _)| p.contains(&address)));
        }
        let any = unicast(1000, &mut random);
        assert!(any.iter().all(|a| (1..224).contains(&(a >> 24))));
        assert_eq!(router_number(router(249).into()), Some(249));
        assert_eq!(router_number(NODE.into()), None);
    }
}
