// SPDX-License-Identifier: Apache-2.0
//! The listening socket: one owner, right mode and group, and who may connect.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};

use mio::net::{UnixListener, UnixStream};

/// Who may connect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// Permission bits of the socket.
    pub mode: u32,
    /// Group of the socket, whose members may connect; none: root and the daemon's own user alone.
    pub group: Option<u32>,
}

/// Why the socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process listens there.
    #[error("another process listens on {0}; stop it first, or configure another `socket`")]
    Taken(PathBuf),
    /// A file that is no socket is in the way.
    #[error("{0} exists and is not a socket; remove it, or configure another `socket`")]
    NotSocket(PathBuf),
    /// The system refused.
    #[error("control socket {path}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The listening socket; its file goes with it.
pub struct Listener {
    inner: UnixListener,
    path: PathBuf,
    access: Access,
    /// Device and inode of the socket's file.
    file: (u64, u64),
}

fn file_of(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|m| (m.dev(), m.ino()))
}

impl Listener {
    /// Listens on `path`, taking over what a dead process left there.
    ///
    /// # Errors
    /// [`ListenError`], naming the path.
    pub fn bind(path: &Path, access: Access) -> Result<Listener, ListenError> {
        let failed = |source| ListenError::Io {
            path: path.to_owned(),
            source,
        };
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        match fs::symlink_metadata(path) {
            Ok(m) if !m.file_type().is_socket() => {
                return Err(ListenError::NotSocket(path.to_owned()));
            }
            Ok(_) if StdStream::connect(path).is_ok() => {
                return Err(ListenError::Taken(path.to_owned()));
            }
            Ok(_) => fs::remove_file(path).map_err(failed)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(e)),
        }
        // Nobody may connect before mode and group are set.
        let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
        let bound = StdListener::bind(path);
        rustix::process::umask(before);
        let inner = bound.map_err(failed)?;
        let own = || {
            inner.set_nonblocking(true)?;
            if let Some(group) = access.group {
                std::os::unix::fs::chown(path, None, Some(group))?;
            }
            fs::set_permissions(path, fs::Permissions::from_mode(access.mode))?;
            file_of(path)
        };
        let file = own().map_err(failed)?;
        Ok(Listener {
            inner: UnixListener::from_std(inner),
            path: path.to_owned(),
            access,
            file,
        })
    }

    pub(super) fn source(&mut self) -> &mut UnixListener {
        &mut self.inner
    }

    /// The next client that waits, if there is one.
    pub(super) fn accept(&self) -> io::Result<Option<UnixStream>> {
        loop {
            match self.inner.accept() {
                Ok((stream, _)) => return Ok(Some(stream)),
                Err(e) => match e.kind() {
                    io::ErrorKind::WouldBlock => return Ok(None),
                    // One who left before its turn; others may wait behind it.
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => {}
                    _ => return Err(e),
                },
            }
        }
    }

    /// Root, the daemon's own user and the socket's group may; `SO_PEERCRED` and `SO_PEERGROUPS` say who it is
    /// (socket(7), unix(7)).
    pub(super) fn check_peer(&self, stream: &UnixStream) -> Result<(), String> {
        let peer = rustix::net::sockopt::socket_peercred(stream)
            .map_err(|e| format!("who connects is not known: {e}"))?;
        let (uid, gid) = (peer.uid.as_raw(), peer.gid.as_raw());
        if uid == 0 || uid == rustix::process::geteuid().as_raw() {
            return Ok(());
        }
        if let Some(group) = self.access.group {
            let member = gid == group
                || podswitch_host::peer::groups(stream).is_ok_and(|groups| groups.contains(&group));
            if member {
                return Ok(());
            }
        }
        Err(format!(
            "user {uid} (group {gid}, process {}) may not use this socket",
            peer.pid.as_raw_nonzero()
        ))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // The file may be another daemon's by now. One left behind is taken over by a successor.
        if file_of(&self.path).is_ok_and(|file| file == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
