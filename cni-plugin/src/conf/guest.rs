// SPDX-License-Identifier: Apache-2.0
//! `port` and `vhostUser`: what is behind a pod's port, and how a virtual machine or a DPDK program is met.

use std::path::PathBuf;

use podswitch_api::object::SocketMode;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::json::{invalid, take, take_at};
use crate::spec::CniError;

/// Where sockets are, where nothing else is said.
pub const FOLDER: &str = "/run/podswitch/vhost-user";
/// Bytes of the path of the folder with all sockets: what [`crate::guest`] puts behind it makes the path of a socket, of 107 bytes (unix(7)).
const MAX_FOLDER: usize = 107 - "/psw0123456789ab/vhost.sock".len();
/// Pairs of queues of a port.
const MAX_QUEUES: u16 = 32;

/// What is behind a pod's port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(remote = "Self", rename_all = "kebab-case")]
pub enum PortKind {
    /// The pod's end of a veth pair.
    #[default]
    Veth,
    /// Virtqueues of a virtual machine or a DPDK program.
    VhostUser,
}

/// `vhostUser`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VhostUser {
    /// `mode`
    pub mode: SocketMode,
    /// `path`: the folder in which each attachment has one of its own, with its socket.
    pub path: PathBuf,
    /// `queues`: pairs of queues.
    pub queues: u16,
    /// `gid`: the group that may reach the socket.
    pub gid: Option<u32>,
    /// `danDir`: the folder in which Kata Containers looks for what is attached to a sandbox.
    pub dan: Option<PathBuf>,
}

impl Default for VhostUser {
    fn default() -> VhostUser {
        VhostUser {
            mode: SocketMode::Server,
            path: FOLDER.into(),
            queues: 1,
            gid: None,
            dan: None,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    #[serde(default)]
    mode: SocketMode,
    path: Option<PathBuf>,
    queues: Option<u16>,
    gid: Option<u32>,
    dan_dir: Option<PathBuf>,
}

impl VhostUser {
    /// Reads both keys; none when a pod has a veth.
    ///
    /// # Errors
    /// Code 7, naming key and value.
    pub(super) fn parse(raw: &Map<String, Value>) -> Result<Option<VhostUser>, CniError> {
        let kind: PortKind = take(raw, "port")?.unwrap_or_default();
        let written: Option<Written> = take(raw, "vhostUser")?;
        if kind == PortKind::Veth {
            return match written {
                None => Ok(None),
                Some(_) => Err(invalid(
                    "vhostUser",
                    &raw["vhostUser"],
                    "pods of this network have veths; give \"port\": \"vhost-user\", or leave it out",
                )),
            };
        }
        let written = written.unwrap_or_default();
        let bad = |key: &str, value: Value, why: String| {
            Err(invalid(&format!("vhostUser.{key}"), &value, why))
        };
        let read = VhostUser {
            mode: written.mode,
            path: written.path.unwrap_or_else(|| FOLDER.into()),
            queues: written.queues.unwrap_or(1),
            gid: written.gid,
            dan: written.dan_dir,
        };
        let length = read.path.as_os_str().len();
        if !read.path.is_absolute() || length > MAX_FOLDER {
            let why =
                format!("a folder for sockets is an absolute path of at most {MAX_FOLDER} bytes");
            return bad("path", read.path.to_string_lossy().into(), why);
        }
        if let Some(dan) = read.dan.as_ref().filter(|dan| !dan.is_absolute()) {
            return bad(
                "danDir",
                dan.to_string_lossy().into(),
                "not an absolute path".into(),
            );
        }
        if !(1..=MAX_QUEUES).contains(&read.queues) {
            let why = format!("a port has 1 to {MAX_QUEUES} pairs of queues");
            return bad("queues", read.queues.into(), why);
        }
        Ok(Some(read))
    }

    /// What cleaning up needs: the folders, as far as they can be read.
    pub(super) fn for_cleanup(raw: &Map<String, Value>) -> VhostUser {
        let object = match raw.get("vhostUser") {
            Some(Value::Object(object)) => object,
            _ => return VhostUser::default(),
        };
        let folder = |key: &str| {
            let path: Option<PathBuf> = take_at(object, key, key).ok()?;
            path.filter(|path| path.is_absolute())
        };
        VhostUser {
            path: folder("path").unwrap_or_else(|| FOLDER.into()),
            dan: folder("danDir"),
            ..VhostUser::default()
        }
    }
}

podswitch_api::by_word!(read: PortKind);
podswitch_api::by_name!(read: Written);
