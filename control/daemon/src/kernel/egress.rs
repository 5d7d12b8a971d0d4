// SPDX-License-Identifier: Apache-2.0
//! The host's stack as the way to the world: what has to be set so that it forwards for pods, and rules by which they take its address.

use std::fmt::Write;
use std::net::IpAddr;

use ipnet::IpNet;
use podswitch_api::object::HostEgress;
use podswitch_host::sysctl::{self, Key};
use podswitch_host::{Error, nft};
use podswitch_state::store::SavedSetting;

use super::KernelError;
use super::host::Wanted;

/// Name of the table, of the family `inet`, that is ours alone.
pub const TABLE: &str = "podswitch";

/// The settings that are to be, as they are now. IPv4 forwards what comes in by an interface where that interface says so; `ip_forward` would
/// say it of all, those of pods included.
///
/// # Errors
/// [`KernelError`], naming an interface that is not there, or IPv6 where this kernel forwards by all interfaces or none.
pub fn settings(
    wanted: &Wanted<'_>,
    egress: &HostEgress<'_>,
) -> Result<Vec<SavedSetting>, KernelError> {
    let interfaces = || {
        let others = egress.interfaces.iter().map(String::as_str);
        std::iter::once(wanted.interface).chain(others)
    };
    let mut settings = Vec::new();
    if wanted.has(true) {
        for interface in interfaces() {
            settings.push(forwarding(
                interface,
                Key::ipv4_conf(interface, "forwarding")?,
            )?);
        }
    }
    if wanted.has(false) && sysctl::get(&Key::ipv6_conf("all", "forwarding")?)? == "0" {
        for interface in interfaces() {
            let key = Key::ipv6_conf(interface, "force_forwarding")?;
            if sysctl::get(&Key::ipv6_conf(interface, "forwarding")?).is_ok() && !is_there(&key)? {
                return Err(KernelError::NoForwarding);
            }
            settings.push(forwarding(interface, key)?);
        }
    }
    Ok(settings)
}

fn is_there(key: &Key) -> Result<bool, Error> {
    match sysctl::get(key) {
        Ok(_) => Ok(true),
        Err(e) if e.is_gone() => Ok(false),
        Err(e) => Err(e),
    }
}

fn forwarding(interface: &str, key: Key) -> Result<SavedSetting, KernelError> {
    let before = sysctl::get(&key).map_err(|e| match e.is_gone() {
        true => KernelError::Missing(interface.to_owned()),
        false => e.into(),
    })?;
    Ok(SavedSetting {
        path: key.to_string(),
        before,
        after: "1".to_owned(),
    })
}

/// Makes settings what they are to be. To be called when it was noted how they were.
///
/// # Errors
/// [`KernelError`], naming the setting.
pub fn set(settings: &[SavedSetting]) -> Result<(), KernelError> {
    for setting in settings {
        sysctl::set(&setting.key()?, &setting.after)?;
    }
    Ok(())
}

/// Puts our rules into the host's nftables, in one step in the place of those that are there.
///
/// # Errors
/// [`KernelError`] with what `nft` says, or that it is not there.
pub fn masquerade(wanted: &Wanted<'_>, egress: &HostEgress<'_>) -> Result<(), KernelError> {
    Ok(nft::apply(&script(wanted, egress))?)
}

/// Refuses a table of somebody else's that has the name of ours.
///
/// # Errors
/// [`KernelError`], naming it.
pub fn refuse_foreign() -> Result<(), KernelError> {
    match nft::has_table(TABLE)? {
        true => Err(KernelError::TableTaken(TABLE)),
        false => Ok(()),
    }
}

/// What keeps packets from getting through, each with what to do.
pub fn problems(egress: &HostEgress<'_>) -> Vec<(String, &'static str)> {
    let mut problems = Vec::new();
    for chain in nft::forward_droppers().unwrap_or_default() {
        problems.push((
            format!(
                "chain {chain} of the host drops what is forwarded, unless a rule there accepts it"
            ),
            "accept there what comes in and goes out by the host's interface of the port",
        ));
    }
    if egress.masquerade && matches!(nft::has_table(TABLE), Ok(false)) {
        problems.push((
            format!("table inet {TABLE} is gone from the host's nftables: nothing is masqueraded"),
            "restart podswitchd to have it again, and see who has flushed it",
        ));
    }
    problems
}

fn script(wanted: &Wanted<'_>, egress: &HostEgress<'_>) -> String {
    let mut rules = String::new();
    for (v4, word) in [(true, "ip"), (false, "ip6")] {
        let Some(pods) = set_of(wanted.pods, v4) else {
            continue;
        };
        let except = set_of(egress.except, v4);
        let except = except.map_or(String::new(), |all| format!(" {word} daddr != {all}"));
        let name = wanted.interface;
        let _ = writeln!(
            rules,
            "iifname \"{name}\" oifname != \"{name}\" {word} saddr {pods}{except} masquerade"
        );
    }
    format!(
        "table inet {TABLE} {{ }}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\nchain postrouting {{\n\
         type nat hook postrouting priority srcnat; policy accept;\n{rules}}}\n}}\n"
    )
}

/// The prefixes of a family as nftables has them: apart from each other.
fn set_of(prefixes: &[IpNet], v4: bool) -> Option<String> {
    let of_family = |p: &&IpNet| matches!(p.addr(), IpAddr::V4(_)) == v4;
    let all: Vec<IpNet> = prefixes.iter().filter(of_family).copied().collect();
    let apart: Vec<String> = IpNet::aggregate(&all)
        .iter()
        .map(ToString::to_string)
        .collect();
    (!apart.is_empty()).then(|| format!("{{ {} }}", apart.join(", ")))
}

#[cfg(test)]
mod tests {
    use podswitch_api::desired::Gateway;

    use super::*;

    #[test]
    fn rules_are_of_the_families_of_pods_and_sets_do_not_overlap() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let pods = [net("10.244.0.0/16"), net("10.244.1.0/24")];
        let wanted = Wanted {
            interface: "podswitch0",
            mtu: 1500,
            pods: &pods,
            gateway: Gateway::default(),
        };
        let egress = HostEgress {
            interfaces: &["eth0".to_owned()],
            masquerade: true,
            except: &[net("10.0.0.0/8"), net("fd00::/8")],
        };
        let script = script(&wanted, &egress);
        let rule = "iifname \"podswitch0\" oifname != \"podswitch0\" ip saddr { 10.244.0.0/16 } ip daddr != { 10.0.0.0/8 } masquerade";
        assert!(script.lines().any(|line| line == rule), "{script}");
        assert!(!script.contains("ip6"), "{script}");
    }
}
