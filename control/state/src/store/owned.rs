// SPDX-License-Identifier: Apache-2.0
//! What was changed in the kernel, and how it was before.

use podswitch_host::Error;
use podswitch_host::sysctl::Key;
use serde::{Deserialize, Serialize};

/// An interface that podswitch changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct OwnedInterface {
    /// Its name.
    pub name: String,
    /// Its index; another interface of the same name has another one and is not meant.
    pub index: u32,
    /// Whether the clsact hooks were added by podswitch.
    pub clsact: bool,
    /// Whether `IFF_NOARP` was set by podswitch.
    pub noarp: bool,
    /// Settings that were changed, in the order of their changes.
    #[serde(default)]
    pub settings: Vec<SavedSetting>,
    /// Features of the device (`ethtool -k`) that were changed, in the order of their changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<SavedFeature>,
    /// Tables of the host's nftables, of the family `inet`, that were made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<String>,
}

/// A setting under `/proc/sys` that was changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct SavedSetting {
    /// Path of its file.
    pub path: String,
    /// Its value before.
    pub before: String,
    /// Its value since.
    pub after: String,
}

/// A feature of a device that was changed, by the kernel's name of it (`rx-lro`, ...).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct SavedFeature {
    /// Its name.
    pub name: String,
    /// Whether it was on before. Since, it is the other way round.
    pub before: bool,
}

impl OwnedInterface {
    /// The note of one of which nothing was changed.
    pub fn unchanged(name: impl Into<String>, index: u32) -> OwnedInterface {
        OwnedInterface {
            name: name.into(),
            index,
            clsact: false,
            noarp: false,
            settings: Vec::new(),
            features: Vec::new(),
            tables: Vec::new(),
        }
    }
}

impl SavedSetting {
    /// Which setting it is.
    ///
    /// # Errors
    /// When the path is none of a setting.
    pub fn key(&self) -> Result<Key, Error> {
        let path = self.path.trim_start_matches("/proc/sys/");
        Key::new(&path.split('/').collect::<Vec<&str>>())
    }
}

podswitch_api::by_name!(OwnedInterface, SavedSetting, SavedFeature);
