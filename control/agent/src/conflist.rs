// SPDX-License-Identifier: Apache-2.0
//! The network configuration for the container runtime. It is there once pods can be attached and described, and not before: the node is
//! ready for pods when the runtime has it.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use crate::config::CniConfig;

/// Longest template, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Why there is no network configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConflistError {
    /// A file could not be read, written or removed.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Nobody has said yet which addresses the node's pods have.
    #[error("{path}: its IPAM has no `ranges`, and this node's Node object has no podCIDRs; set either", path = path.display())]
    NoRanges {
        /// The template.
        path: PathBuf,
    },
    /// The template is no network configuration.
    #[error("{path}: {message}; write a network configuration list (CNI specification, section 1)", path = path.display())]
    Template {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
}

/// Copies the template to its place, unless it is there already; whether anything was written. podswitch's own IPAM gets the node's prefixes of pods
/// where the template names no ranges. Runtimes look at what is renamed, not at what is created: it is written under another name beside it first.
///
/// # Errors
/// [`ConflistError`], naming the file.
pub fn write(config: &CniConfig, pods: &[IpNet]) -> Result<bool, ConflistError> {
    let text = template(config, pods)?;
    let path = config.dir.join(&config.name);
    let failed = |path: &PathBuf| {
        let path = path.clone();
        move |source| ConflistError::File { path, source }
    };
    if fs::read(&path).is_ok_and(|there| there == text) {
        return Ok(false);
    }
    // Names with a dot at the beginning, and without one of the known endings, no runtime reads.
    let new = config.dir.join(format!(".{}.new", config.name));
    let mut file = fs::File::create(&new).map_err(failed(&new))?;
    file.write_all(&text).map_err(failed(&new))?;
    file.sync_all().map_err(failed(&new))?;
    fs::rename(&new, &path).map_err(failed(&path))?;
    Ok(true)
}

/// Removes it; whether it was there.
///
/// # Errors
/// [`ConflistError::File`].
pub fn remove(config: &CniConfig) -> Result<bool, ConflistError> {
    let path = config.dir.join(&config.name);
    match fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(ConflistError::File { path, source }),
    }
}

fn template(config: &CniConfig, pods: &[IpNet]) -> Result<Vec<u8>, ConflistError> {
    let path = || config.template.clone();
    let file = |source| ConflistError::File {
        path: path(),
        source,
    };
    let wrong = |message: String| ConflistError::Template {
        path: path(),
        message,
    };
    let length = fs::metadata(&config.template).map_err(file)?.len();
    if length > MAX_BYTES {
        return Err(wrong(format!("{length} bytes are more than {MAX_BYTES}")));
    }
    let text = fs::read(&config.template).map_err(file)?;
    let mut value: Value = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
    for field in ["cniVersion", "name", "plugins"] {
        if value.get(field).is_none() {
            return Err(wrong(format!("it has no `{field}`")));
        }
    }
    let plugins = value.get_mut("plugins").and_then(Value::as_array_mut);
    let ipam = plugins.into_iter().flatten().find_map(without_ranges);
    let Some(ipam) = ipam else { return Ok(text) };
    if pods.is_empty() {
        return Err(ConflistError::NoRanges { path: path() });
    }
    let ranges = pods
        .iter()
        .map(|prefix| json!([{"subnet": prefix.trunc()}]));
    ipam.insert("ranges".to_owned(), ranges.collect());
    Ok(format!("{value:#}\n").into_bytes())
}

/// The `ipam` of our plugin, if it is our own and names no ranges.
fn without_ranges(plugin: &mut Value) -> Option<&mut Map<String, Value>> {
    let ours = plugin.get("type").is_some_and(|t| t == "podswitch");
    let ipam = plugin.get_mut("ipam").filter(|_| ours)?.as_object_mut()?;
    let own = ipam.get("type").is_some_and(|t| t == "podswitch");
    (own && !ipam.contains_key("ranges")).then_some(ipam)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{"cniVersion":"1.1.0","name":"podnet","plugins":[{"type":"podswitch"}]}"#;

    fn config(dir: &tempfile::TempDir, text: &str) -> CniConfig {
        let template = dir.path().join("template");
        fs::write(&template, text).unwrap();
        CniConfig {
            template,
            dir: dir.path().to_owned(),
            name: "10-a.conflist".to_owned(),
        }
    }

    #[test]
    fn it_is_written_once_and_removed_once() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir, TEXT);
        assert!(write(&config, &[]).unwrap());
        assert!(!write(&config, &[]).unwrap(), "it is there");
        assert_eq!(
            fs::read_to_string(dir.path().join(&config.name)).unwrap(),
            TEXT
        );
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            2,
            "nothing is left beside it"
        );
        assert!(remove(&config).unwrap());
        assert!(!remove(&config).unwrap());
    }

    #[test]
    fn what_is_no_configuration_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for (text, word) in [("{", "EOF"), (r#"{"name":"a"}"#, "cniVersion")] {
            let error = write(&config(&dir, text), &[]).unwrap_err().to_string();
            assert!(
                error.contains(word) && error.contains("template"),
                "{error}"
            );
        }
        let mut config = config(&dir, TEXT);
        config.dir = dir.path().join("none");
        assert!(
            write(&config, &[])
                .unwrap_err()
                .to_string()
                .contains("none")
        );
    }

    #[test]
    fn the_nodes_prefixes_are_the_ranges_where_none_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"cniVersion":"1.1.0","name":"podnet","plugins":[{"type":"podswitch","mtu":1400,"ipam":{"type":"podswitch"}}]}"#;
        let config = config(&dir, text);
        let error = write(&config, &[]).unwrap_err().to_string();
        assert!(error.contains("podCIDRs"), "{error}");
        let pods = ["10.244.3.0/24", "fd00:244:3::/64"].map(|p| p.parse().unwrap());
        assert!(write(&config, &pods).unwrap());
        assert!(!write(&config, &pods).unwrap(), "it is there");
        let written = fs::read(dir.path().join(&config.name)).unwrap();
        let written: Value = serde_json::from_slice(&written).unwrap();
        let expected = json!([[{"subnet": "10.244.3.0/24"}], [{"subnet": "fd00:244:3::/64"}]]);
        assert_eq!(written["plugins"][0]["ipam"]["ranges"], expected);
        assert_eq!(written["plugins"][0]["mtu"], 1400);
    }
}
