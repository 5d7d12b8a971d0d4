// SPDX-License-Identifier: Apache-2.0
//! The socket of a port, and what waits on it.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{OFlags, open as fs_open};
use rustix::io::{Errno, ioctl_fionbio, ioctl_fionread};
use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, socket_with,
};

/// Bytes of a message's header: request, flags, and bytes of what follows, of 4 each.
const HEADER: usize = 12;
/// Most bytes that follow it; a longer message is refused when its header is there.
const MAX_BODY: usize = 4096;
/// Who may connect, where the folder lets them.
const MODE: u32 = 0o660;

/// Who listens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// The switch does.
    Server,
    /// The frontend does, and the switch connects as soon as it can.
    Client,
}

/// Where a port meets its frontend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Of the socket.
    pub path: PathBuf,
    /// Who listens there.
    pub mode: Mode,
    /// The group whose members may connect where the switch listens, beside the superuser.
    pub gid: Option<u32>,
}

/// A socket that is the switch's, or a place where one will be; it goes with this.
#[derive(Clone, Debug)]
pub struct Meeting {
    pub(crate) path: PathBuf,
    /// None where the frontend listens.
    pub(crate) listener: Option<Arc<Listener>>,
}

impl Meeting {
    /// Listens, where the switch is to. Nobody is answered before a service is started.
    ///
    /// # Errors
    /// [`SocketError`], when something else is at the path, or the kernel refuses.
    pub fn open(endpoint: &Endpoint) -> Result<Meeting, SocketError> {
        let listener = match endpoint.mode {
            Mode::Server => Some(Arc::new(Listener::bind(&endpoint.path, endpoint.gid)?)),
            Mode::Client => None,
        };
        Ok(Meeting {
            path: endpoint.path.clone(),
            listener,
        })
    }
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody else is there.
    #[error("{} is there already: {what}", path.display())]
    Taken {
        /// The path.
        path: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// The kernel's word.
    #[error("{}: {source}", path.display())]
    System {
        /// The path.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// A socket that the switch listens on; it goes with this.
#[derive(Debug)]
pub(crate) struct Listener {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of what was made at the path.
    made: (u64, u64),
}

impl Listener {
    /// Listens at a path. A socket there that nobody listens on is left over, and goes.
    ///
    /// # Errors
    /// [`SocketError`], when something else is there, or the kernel refuses.
    pub(crate) fn bind(path: &Path, gid: Option<u32>) -> Result<Listener, SocketError> {
        let system = |source| SocketError::System {
            path: path.to_owned(),
            source,
        };
        remove_left_over(path)?;
        let listener = UnixListener::bind(path).map_err(system)?;
        listener.set_nonblocking(true).map_err(system)?;
        // What is there now may be somebody else's link: whatever is done to it is done to what was looked at.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let at = fs_open(path, flags, rustix::fs::Mode::empty());
        let at = fs::File::from(at.map_err(|e| system(e.into()))?);
        let made = at.metadata().map_err(system)?;
        let listener = Listener {
            listener,
            path: path.to_owned(),
            made: (made.dev(), made.ino()),
        };
        if !made.file_type().is_socket() {
            return Err(system(io::ErrorKind::AlreadyExists.into()));
        }
        let at = format!("/proc/self/fd/{}", at.as_raw_fd());
        chown(&at, None, gid).map_err(system)?;
        fs::set_permissions(&at, fs::Permissions::from_mode(MODE)).map_err(system)?;
        Ok(listener)
    }

    /// Takes the socket away, if it is still ours.
    pub(crate) fn unlink(&self) {
        let is_ours = |m: fs::Metadata| (m.dev(), m.ino()) == self.made;
        if fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            let _ = fs::remove_file(&self.path);
        }
    }

    /// A frontend that has connected.
    pub(crate) fn accept(&self) -> io::Result<Option<UnixStream>> {
        match self.listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                Ok(Some(stream))
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.unlink();
    }
}

fn remove_left_over(path: &Path) -> Result<(), SocketError> {
    let taken = |what| SocketError::Taken {
        path: path.to_owned(),
        what,
    };
    let Ok(there) = fs::symlink_metadata(path) else {
        // Nothing, or nothing that can be seen: binding says which.
        return Ok(());
    };
    if !there.file_type().is_socket() {
        return Err(taken("it is no socket"));
    }
    match try_connect(path) {
        Err(Errno::CONNREFUSED) => {}
        _ => return Err(taken("somebody listens there")),
    }
    fs::remove_file(path).map_err(|source| SocketError::System {
        path: path.to_owned(),
        source,
    })
}

/// Connects, without waiting for a listener whose queue is full.
fn try_connect(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Connects to a frontend; `None` when it does not listen yet.
///
/// # Errors
/// What will not be otherwise when it is tried again.
pub(crate) fn connect_to(path: &Path) -> io::Result<Option<UnixStream>> {
    match try_connect(path) {
        Ok(socket) => {
            ioctl_fionbio(&socket, false)?;
            Ok(Some(UnixStream::from(socket)))
        }
        Err(Errno::NOENT | Errno::CONNREFUSED | Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// How far the next message has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Arrived {
    Nothing,
    Part,
    /// All of it. By this number it is asked for.
    Whole(u32),
    /// There will be no more.
    End,
}

/// Looks at the next message without taking it.
pub(crate) fn arrived(socket: &UnixStream) -> io::Result<Arrived> {
    let mut header = [0; HEADER];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let seen = match recv(socket, &mut header[..], flags) {
        Ok((seen, _)) => seen,
        Err(Errno::AGAIN | Errno::INTR) => return Ok(Arrived::Nothing),
        Err(Errno::CONNRESET) => return Ok(Arrived::End),
        Err(e) => return Err(e.into()),
    };
    if seen == 0 {
        return Ok(Arrived::End);
    }
    if seen < HEADER {
        return Ok(Arrived::Part);
    }
    let word = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|n| header[at + n]));
    let body = word(8) as usize;
    let there = ioctl_fionread(socket)? as usize;
    Ok(match body > MAX_BODY || there >= HEADER + body {
        true => Arrived::Whole(word(0)),
        false => Arrived::Part,
    })
}

/// Takes the next message, which has come as a whole and is of `N` words: its flags, and what follows its header.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`], when it is of another length; otherwise what the kernel said.
pub(crate) fn take<const N: usize>(socket: &UnixStream) -> io::Result<(u32, [u32; N])> {
    let mut header = [0; HEADER];
    let mut body = [[0; 4]; N];
    let short = |(length, _): (usize, usize), whole: usize| match length == whole {
        true => Ok(()),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a message in pieces",
        )),
    };
    short(recv(socket, &mut header[..], RecvFlags::DONTWAIT)?, HEADER)?;
    let word = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|n| header[at + n]));
    if word(8) as usize != 4 * N {
        let what = format!("a message of {} bytes; it has {}", word(8), 4 * N);
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    short(
        recv(socket, body.as_flattened_mut(), RecvFlags::DONTWAIT)?,
        4 * N,
    )?;
    Ok((word(4), body.map(u32::from_ne_bytes)))
}

/// Answers a request with a number, for which there is room.
pub(crate) fn answer(mut socket: &UnixStream, request: u32, number: u64) -> io::Result<()> {
    // Version 1, an answer, and what follows.
    let header = [request, 5, 8].map(u32::to_ne_bytes).concat();
    socket.write_all(&[&header[..], &number.to_ne_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(request: u32, body: &[u8]) -> Vec<u8> {
        let words = [request, 1, body.len() as u32].map(u32::to_ne_bytes);
        [&words.concat()[..], body].concat()
    }

    #[test]
    fn a_message_has_come_when_all_of_it_has() {
        let (here, mut there) = UnixStream::pair().unwrap();
        let whole = message(7, b"12345678");
        let mut sent = 0;
        for upto in [0, 1, 11, 12, 13, 19] {
            there.write_all(&whole[sent..upto]).unwrap();
            sent = upto;
            let expected = if upto == 0 {
                Arrived::Nothing
            } else {
                Arrived::Part
            };
            assert_eq!(arrived(&here).unwrap(), expected, "{upto} bytes");
        }
        there.write_all(&whole[sent..]).unwrap();
        assert_eq!(arrived(&here).unwrap(), Arrived::Whole(7));
        there.write_all(&message(8, b"")).unwrap();
        assert_eq!(
            arrived(&here).unwrap(),
            Arrived::Whole(7),
            "it was not taken"
        );
    }

    #[test]
    fn a_message_that_is_too_long_is_not_waited_for() {
        let (here, mut there) = UnixStream::pair().unwrap();
        let words = [5, 1, u32::MAX].map(u32::to_ne_bytes);
        there.write_all(&words.concat()).unwrap();
        assert_eq!(arrived(&here).unwrap(), Arrived::Whole(5));
    }

    #[test]
    fn a_closed_socket_has_ended_also_in_mid_message() {
        let (here, mut there) = UnixStream::pair().unwrap();
        there.write_all(&message(7, b"")).unwrap();
        drop(there);
        assert_eq!(arrived(&here).unwrap(), Arrived::Whole(7));
        let (here, there) = UnixStream::pair().unwrap();
        drop(there);
        assert_eq!(arrived(&here).unwrap(), Arrived::End);
    }

    #[test]
    fn what_is_left_over_goes_and_what_is_in_use_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        // A daemon that was killed leaves its socket.
        drop(UnixListener::bind(&path).unwrap());
        let listener = Listener::bind(&path, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, MODE);
        // Of whichever group this process may give it to.
        let own = fs::metadata(folder.path()).unwrap().gid();
        let other = Listener::bind(&folder.path().join("t"), Some(own)).unwrap();
        assert_eq!(fs::metadata(&other.path).unwrap().gid(), own);
        let text = Listener::bind(&path, None).unwrap_err().to_string();
        assert!(
            text.ends_with("is there already: somebody listens there"),
            "{text}"
        );
        drop(listener);
        assert!(!path.exists());
        fs::write(&path, "mine").unwrap();
        let text = Listener::bind(&path, None).unwrap_err().to_string();
        assert!(text.ends_with("it is no socket"), "{text}");
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn a_socket_that_another_has_put_in_its_place_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = Listener::bind(&path, None).unwrap();
        fs::rename(&path, folder.path().join("t")).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(listener);
        assert!(path.exists());
    }

    #[test]
    fn a_frontend_that_does_not_listen_yet_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        assert!(connect_to(&path).unwrap().is_none());
        drop(UnixListener::bind(&path).unwrap());
        assert!(connect_to(&path).unwrap().is_none(), "it has ended");
        fs::remove_file(&path).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        let mut stream = connect_to(&path).unwrap().unwrap();
        stream.write_all(b"x").unwrap();
        listener.accept().unwrap();
        let long = folder.path().join("x".repeat(200));
        assert!(connect_to(&long).is_err());
        assert!(Listener::bind(&long, None).is_err());
    }
}
