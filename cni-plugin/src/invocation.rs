// SPDX-License-Identifier: Apache-2.0
//! What the runtime says through environment variables (CNI spec 1.1.0, section "Parameters").

use std::collections::BTreeMap;

use crate::spec::{CniError, Code};

/// `CNI_COMMAND`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Attach a container.
    Add,
    /// Detach it.
    Del,
    /// Look whether it is attached as it should be.
    Check,
    /// Say whether the plugin can serve.
    Status,
    /// Remove what no longer exists.
    Gc,
    /// Print the versions spoken.
    Version,
}

impl Command {
    /// Whether it takes things away: such a call must get as far as it can.
    pub fn cleans_up(self) -> bool {
        matches!(self, Command::Del | Command::Gc)
    }

    fn parse(text: &str) -> Option<Command> {
        Some(match text {
            "ADD" => Command::Add,
            "DEL" => Command::Del,
            "CHECK" => Command::Check,
            "STATUS" => Command::Status,
            "GC" => Command::Gc,
            "VERSION" => Command::Version,
            _ => return None,
        })
    }
}

/// One execution's environment. Which fields are there depends on the command and is checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Invocation {
    /// `CNI_COMMAND`
    pub command: Command,
    /// `CNI_CONTAINERID`; empty for STATUS, GC and VERSION.
    pub container_id: String,
    /// `CNI_NETNS`; may be empty for DEL.
    pub netns: String,
    /// `CNI_IFNAME`; empty for STATUS, GC and VERSION.
    pub ifname: String,
    /// `CNI_ARGS`, by key.
    pub args: BTreeMap<String, String>,
    /// `CNI_PATH`: directories with plugins.
    pub path: Vec<String>,
}

impl Invocation {
    /// Reads the environment through `var`.
    ///
    /// # Errors
    /// Code 4, naming the variable and its value.
    pub fn read(var: impl Fn(&str) -> Option<String>) -> Result<Invocation, CniError> {
        let get = |name: &str| var(name).unwrap_or_default();
        let command = get("CNI_COMMAND");
        let command = Command::parse(&command).ok_or_else(|| {
            bad(
                "CNI_COMMAND",
                &command,
                "one of ADD, DEL, CHECK, STATUS, GC, VERSION is needed",
            )
        })?;
        let of_container = matches!(command, Command::Add | Command::Del | Command::Check);
        let (container_id, ifname) = if of_container {
            (
                container_id(get("CNI_CONTAINERID"))?,
                ifname(get("CNI_IFNAME"))?,
            )
        } else {
            (String::new(), String::new())
        };
        let netns = if of_container {
            get("CNI_NETNS")
        } else {
            String::new()
        };
        if netns.is_empty() && matches!(command, Command::Add | Command::Check) {
            return Err(bad(
                "CNI_NETNS",
                "",
                "the path of the container's network namespace is needed",
            ));
        }
        // A clean-up must not fail over arguments it does not use.
        let args = if command == Command::Add {
            args(&get("CNI_ARGS"))?
        } else {
            BTreeMap::new()
        };
        let path = get("CNI_PATH")
            .split(':')
            .filter(|p| !p.is_empty())
            .map(str::to_owned)
            .collect();
        Ok(Invocation {
            command,
            container_id,
            netns,
            ifname,
            args,
            path,
        })
    }

    /// A key of `CNI_ARGS`, unless it is empty.
    pub fn arg(&self, key: &str) -> Option<&str> {
        self.args
            .get(key)
            .map(String::as_str)
            .filter(|v| !v.is_empty())
    }
}

/// Code 4, naming a variable and its value.
pub(crate) fn bad(name: &str, value: &str, why: &str) -> CniError {
    CniError::new(
        Code::InvalidEnvironment,
        format!("{name}=\"{value}\": {why}"),
    )
}

/// Section "Parameters": must start with an alphanumeric character, then alphanumerics, `_`, `.` or `-`.
fn container_id(id: String) -> Result<String, CniError> {
    let ok = id.starts_with(|c: char| c.is_ascii_alphanumeric())
        && id
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    if ok && id.len() <= 255 {
        return Ok(id);
    }
    Err(bad(
        "CNI_CONTAINERID",
        &id,
        "it must begin with a letter or digit, go on with those or _ . -, and have at most 255",
    ))
}

/// Linux net/core/dev.c dev_valid_name; a percent sign would be taken for a template (dev_alloc_name).
fn ifname(name: String) -> Result<String, CniError> {
    let ok = (1..=15).contains(&name.len())
        && name != "."
        && name != ".."
        && name
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b"/:%".contains(&b));
    if ok {
        return Ok(name);
    }
    Err(bad(
        "CNI_IFNAME",
        &name,
        "an interface name has 1 to 15 printable ASCII characters without / : % and spaces",
    ))
}

/// `KEY=VALUE;KEY=VALUE`, in any order.
fn args(text: &str) -> Result<BTreeMap<String, String>, CniError> {
    let mut map = BTreeMap::new();
    for pair in text.split(';').filter(|p| !p.is_empty()) {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| bad("CNI_ARGS", pair, "a pair is written KEY=VALUE"))?;
        map.insert(key.to_owned(), value.to_owned());
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<Invocation, CniError> {
        Invocation::read(|n| {
            vars.iter()
                .find(|(k, _)| *k == n)
                .map(|(_, v)| (*v).to_owned())
        })
    }

    const ADD: [(&str, &str); 5] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "abc-1"),
        ("CNI_NETNS", "/run/netns/x"),
        ("CNI_IFNAME", "eth0"),
        (
            "CNI_ARGS",
            "K8S_POD_NAME=web;IgnoreUnknown=1;K8S_POD_NAMESPACE=shop",
        ),
    ];

    #[test]
    fn a_kubelets_add_is_read() {
        let i = read(&ADD).unwrap();
        assert_eq!(i.command, Command::Add);
        assert_eq!(i.arg("K8S_POD_NAMESPACE"), Some("shop"));
        assert_eq!(i.arg("K8S_POD_UID"), None);
    }

    #[test]
    fn arguments_nobody_knows_and_empty_ones_are_no_error() {
        let vars = ADD.map(|(k, v)| match k {
            "CNI_ARGS" => (k, ";FOO=a=b;K8S_POD_UID=;;MAC=x;"),
            _ => (k, v),
        });
        let i = read(&vars).unwrap();
        assert_eq!(i.arg("FOO"), Some("a=b"));
        assert_eq!(i.arg("K8S_POD_UID"), None);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (name, value) in [
            ("CNI_COMMAND", "EAT"),
            ("CNI_CONTAINERID", ""),
            ("CNI_CONTAINERID", "-x"),
            ("CNI_CONTAINERID", "a/b"),
            ("CNI_NETNS", ""),
            ("CNI_IFNAME", ""),
            ("CNI_IFNAME", "sixteen-letters!"),
            ("CNI_IFNAME", "a/b"),
            ("CNI_IFNAME", "eth%d"),
            ("CNI_IFNAME", ".."),
            ("CNI_ARGS", "novalue"),
        ] {
            let vars = ADD.map(|(k, v)| if k == name { (k, value) } else { (k, v) });
            let e = read(&vars).unwrap_err();
            assert_eq!(e.code, 4, "{name}={value}");
            assert!(e.msg.contains(name), "{e}");
        }
    }

    #[test]
    fn del_needs_no_netns_and_status_needs_nothing() {
        let vars = [
            ("CNI_COMMAND", "DEL"),
            ("CNI_CONTAINERID", "c"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", ""),
            ("CNI_ARGS", "junk"),
        ];
        assert_eq!(read(&vars).unwrap().netns, "");
        let vars = [
            ("CNI_COMMAND", "STATUS"),
            ("CNI_CONTAINERID", ""),
            ("CNI_NETNS", ""),
            ("CNI_IFNAME", ""),
        ];
        assert_eq!(read(&vars).unwrap().command, Command::Status);
    }
}
