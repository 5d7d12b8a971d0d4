// SPDX-License-Identifier: Apache-2.0
//! The CNI plugin, its configuration, and those of others that the runtime would take first.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Finding, Machine, Severity};

/// Names that the plugin's file has.
const OURS: [&str; 2] = ["podswitch", "podswitch-cni"];

/// A network configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Configuration {
    file: String,
    /// Plugins that it calls, in their order; what is wrong where it cannot be read.
    plugins: Result<Vec<String>, String>,
}

impl Configuration {
    fn is_ours(&self) -> bool {
        let plugins = self.plugins.as_ref();
        plugins.is_ok_and(|all| all.iter().any(|p| OURS.contains(&p.as_str())))
    }
}

/// What there is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Cni {
    /// The plugin's file, if it is there.
    plugin: Option<PathBuf>,
    /// Configurations in the order in which the runtime takes them: the first one counts.
    configurations: Vec<Configuration>,
}

pub(super) fn look(machine: &Machine) -> Cni {
    let plugin = OURS.iter().map(|name| machine.cni_bin_dir.join(name));
    let mut files: Vec<PathBuf> = match std::fs::read_dir(machine.path(&machine.cni_conf_dir)) {
        Ok(entries) => entries.flatten().map(|e| e.path()).collect(),
        Err(_) => Vec::new(),
    };
    // As runtimes do.
    let known = |f: &PathBuf| {
        let extension = f.extension().map(|e| e.to_string_lossy().into_owned());
        extension.is_some_and(|e| ["conf", "conflist", "json"].contains(&e.as_str()))
    };
    files.retain(known);
    files.sort();
    Cni {
        plugin: plugin.into_iter().find(|f| machine.path(f).is_file()),
        configurations: files.iter().map(|f| configuration(f)).collect(),
    }
}

fn configuration(path: &Path) -> Configuration {
    let file = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string());
    let read = text.and_then(|t| serde_json::from_str::<Value>(&t).map_err(|e| e.to_string()));
    Configuration {
        file,
        plugins: read.map(|conf| plugins(&conf)),
    }
}

/// Plugins that a configuration calls, those for addresses, too.
fn plugins(conf: &Value) -> Vec<String> {
    let all = match conf["plugins"].as_array() {
        Some(all) => all.iter().collect(),
        None => vec![conf],
    };
    let kind = |value: &Value| value["type"].as_str().map(str::to_owned);
    all.into_iter()
        .flat_map(|plugin| {
            let own = kind(plugin);
            // The plugin's own, which is no file.
            let ipam = kind(&plugin["ipam"]).filter(|ipam| Some(ipam) != own.as_ref());
            own.into_iter().chain(ipam)
        })
        .collect()
}

impl Cni {
    /// Whether something of podswitch's is there already.
    pub(super) fn is_installed(&self) -> bool {
        self.plugin.is_some() || self.configurations.iter().any(Configuration::is_ours)
    }

    /// With `installed`, what is missing is an error.
    pub(super) fn judge(&self, machine: &Machine, installed: bool) -> Vec<Finding> {
        let missing = match installed {
            true => Severity::Error,
            false => Severity::Info,
        };
        let mut found = vec![self.judge_plugin(machine, missing)];
        found.extend(self.judge_order(machine, missing));
        let ours = self.configurations.iter().find(|c| c.is_ours());
        let called = ours.and_then(|c| c.plugins.as_ref().ok());
        for plugin in called.into_iter().flatten() {
            let file = machine.cni_bin_dir.join(plugin);
            if !machine.path(&file).is_file() {
                let message = format!(
                    "{} is not there, but is called by the configuration",
                    file.display()
                );
                let hint = "install that plugin, or take it out of the configuration";
                found.push(Finding::new(Severity::Error, "cni plugin", message).hint(hint));
            }
        }
        found
    }

    fn judge_plugin(&self, machine: &Machine, missing: Severity) -> Finding {
        let Some(plugin) = &self.plugin else {
            let message = format!("podswitch-cni is not in {}", machine.cni_bin_dir.display());
            return Finding::new(missing, "cni plugin", message)
                .hint("put it there under the name podswitch; docs/cni.md says how");
        };
        let mode = std::fs::metadata(machine.path(plugin)).map(|m| m.permissions().mode());
        match mode.is_ok_and(|mode| mode & 0o100 != 0) {
            true => Finding::ok("cni plugin", plugin.display().to_string()),
            false => Finding::new(
                Severity::Error,
                "cni plugin",
                format!("{} cannot be executed", plugin.display()),
            )
            .hint("chmod 755 it"),
        }
    }

    fn judge_order(&self, machine: &Machine, missing: Severity) -> Vec<Finding> {
        let folder = machine.cni_conf_dir.display();
        let finding =
            |severity, message: String| Finding::new(severity, "cni configuration", message);
        let Some(first) = self.configurations.first() else {
            let message = format!("none in {folder}");
            let hint = "write one there; docs/cni.md has an example";
            return vec![finding(missing, message).hint(hint)];
        };
        let ours = self.configurations.iter().find(|c| c.is_ours());
        let name = |c: &Configuration| format!("{folder}/{}", c.file);
        match (&first.plugins, ours) {
            (Err(e), _) => {
                let message = format!("{} comes first and cannot be read: {e}", name(first));
                vec![finding(Severity::Error, message).hint("mend it, or move it away")]
            }
            (Ok(_), Some(ours)) if ours == first => {
                let others = self.configurations.iter().skip(1).map(|c| c.file.as_str());
                let others: Vec<&str> = others.collect();
                let mut found = vec![finding(Severity::Ok, name(first))];
                if !others.is_empty() {
                    let message = format!("others come after it: {}", others.join(", "));
                    let hint =
                        "move them away, so that none is taken when podswitch's is not there";
                    found.push(finding(Severity::Info, message).hint(hint));
                }
                found
            }
            (Ok(plugins), Some(ours)) => {
                let message = format!(
                    "{} ({}) comes before {}: the runtime takes the first one",
                    name(first),
                    plugins.join(", "),
                    ours.file
                );
                let hint = "move the others away; pods that they made keep their network until they are made anew";
                vec![finding(Severity::Error, message).hint(hint)]
            }
            (Ok(plugins), None) => {
                let message = format!(
                    "{} is another network's ({})",
                    name(first),
                    plugins.join(", ")
                );
                let hint = "take that network away before podswitch comes; pods that it made keep it until they are made anew";
                let severity = missing.max(Severity::Warning);
                vec![finding(severity, message).hint(hint)]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{machine, short};
    use super::*;

    const CONF: &str = r#"{"name": "pods", "plugins": [{"type": "podswitch", "ipam": {"type": "podswitch"}}, {"type": "tuning"}]}"#;
    const OTHER: &str = r#"{"name": "x", "type": "bridge", "ipam": {"type": "host-local"}}"#;

    fn executable(machine: &Machine, path: &str) {
        let path = machine.path(path);
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(path, mode).unwrap();
    }

    #[test]
    fn before_it_is_installed_nothing_is_an_error() {
        let (_root, empty) = machine(&[]);
        let cni = look(&empty);
        assert!(!cni.is_installed());
        let info = |check| (Severity::Info, check);
        let found = cni.judge(&empty, false);
        assert_eq!(
            short(&found),
            [info("cni plugin"), info("cni configuration")]
        );
        let error = |check| (Severity::Error, check);
        let found = cni.judge(&empty, true);
        assert_eq!(
            short(&found),
            [error("cni plugin"), error("cni configuration")]
        );
        let (_root, other) = machine(&[("/etc/cni/net.d/10-x.conf", OTHER)]);
        let found = look(&other).judge(&other, false);
        assert_eq!(short(&found)[1], (Severity::Warning, "cni configuration"));
        assert!(
            found[1]
                .message
                .contains("10-x.conf is another network's (bridge, host-local)")
        );
    }

    #[test]
    fn all_is_there() {
        let (_root, machine) = machine(&[
            ("/etc/cni/net.d/05-podswitch.conflist", CONF),
            ("/etc/cni/net.d/10-x.conf", OTHER),
            ("/etc/cni/net.d/00-note.txt", "no configuration"),
            ("/opt/cni/bin/podswitch", ""),
            ("/opt/cni/bin/tuning", ""),
        ]);
        let cni = look(&machine);
        assert!(cni.is_installed());
        let found = cni.judge(&machine, true);
        assert_eq!(
            short(&found)[0],
            (Severity::Error, "cni plugin"),
            "not executable"
        );
        executable(&machine, "/opt/cni/bin/podswitch");
        let found = look(&machine).judge(&machine, true);
        let ok = |check| (Severity::Ok, check);
        let after = (Severity::Info, "cni configuration");
        assert_eq!(
            short(&found),
            [ok("cni plugin"), ok("cni configuration"), after]
        );
    }

    #[test]
    fn what_comes_first_counts() {
        let (_root, machine) = machine(&[
            ("/etc/cni/net.d/20-podswitch.conflist", CONF),
            ("/etc/cni/net.d/10-x.conf", OTHER),
            ("/opt/cni/bin/podswitch", ""),
        ]);
        executable(&machine, "/opt/cni/bin/podswitch");
        let found = look(&machine).judge(&machine, true);
        let error = |check| (Severity::Error, check);
        assert_eq!(
            short(&found)[1..],
            [error("cni configuration"), error("cni plugin")],
            "{found:?}"
        );
        assert!(
            found[1]
                .message
                .contains("10-x.conf (bridge, host-local) comes before 20-podswitch.conflist")
        );
        assert!(
            found[2]
                .message
                .contains("/opt/cni/bin/tuning is not there")
        );
        std::fs::write(machine.path("/etc/cni/net.d/00-bad.conf"), "{").unwrap();
        let found = look(&machine).judge(&machine, true);
        assert!(
            found[1]
                .message
                .contains("00-bad.conf comes first and cannot be read")
        );
    }
}
