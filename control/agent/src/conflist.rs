// SPDX-License-Identifier: Apache-2.0
//! The network configuration for the container runtime. It is there once pods can be attached and described, and not before: the node is
//! ready for pods when the runtime has it.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

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
    /// The template is no network configuration.
    #[error("{path}: {message}; write a network configuration list (CNI specification, section 1)", path = path.display())]
    Template {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
}

/// Copies the template to its place, unless it is there already; whether anything was written. Runtimes look at what is renamed, not at what
/// is created: it is written under another name beside it first.
///
/// # Errors
/// [`ConflistError`], naming the file.
pub fn write(config: &CniConfig) -> Result<bool, ConflistError> {
    let text = template(config)?;
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

fn template(config: &CniConfig) -> Result<Vec<u8>, ConflistError> {
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
    let value: serde_json::Value =
        serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
    for field in ["cniVersion", "name", "plugins"] {
        if value.get(field).is_none() {
            return Err(wrong(format!("it has no `{field}`")));
        }
    }
    Ok(text)
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
        assert!(write(&config).unwrap());
        assert!(!write(&config).unwrap(), "it is there");
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
            let error = write(&config(&dir, text)).unwrap_err().to_string();
            assert!(
                error.contains(word) && error.contains("template"),
                "{error}"
            );
        }
        let mut config = config(&dir, TEXT);
        config.dir = dir.path().join("none");
        assert!(write(&config).unwrap_err().to_string().contains("none"));
    }
}
