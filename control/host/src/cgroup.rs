// SPDX-License-Identifier: Apache-2.0
//! BPF programs of control groups (version 2) that are told of the peers of sockets. They are attached beside those of others, and outlive the process
//! until they are taken off or the group is removed. Ours are known by their names, and for which network namespace each is by a map of its own.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use crate::bpf::{self, ProgramInfo};
use crate::error::{Error, Result};
use crate::netlink::message::string;
use crate::sys;

/// Name of the map whose first element is the cookie of the network namespace that a program of ours is for.
pub const NETNS_MAP: &str = "podswitch_netns";
/// Where ours may be attached: connect, sendmsg, recvmsg and getpeername of both families (`enum bpf_attach_type`).
const ATTACH_TYPES: [u32; 8] = [10, 11, 14, 15, 19, 20, 29, 30];
/// More programs than the kernel takes at one place of one group (`BPF_CGROUP_MAX_PROGS`).
const MAX_PROGRAMS: usize = 128;
/// More maps than a program of ours has.
const MAX_MAPS: usize = 16;

/// A program of ours on a control group.
#[derive(Debug)]
pub struct Attached {
    /// Where it is attached (`enum bpf_attach_type`).
    pub attach_type: u32,
    /// What it is.
    pub info: ProgramInfo,
    /// It itself.
    pub program: OwnedFd,
}

/// Where the control groups of this machine are, as far as this process sees them.
///
/// # Errors
/// [`Error::Io`]: no file system of control groups of version 2 is mounted, or the mounts cannot be read.
pub fn root() -> Result<PathBuf> {
    let what = "looking for the mount of cgroup2 in /proc/self/mountinfo";
    let mounts = fs::read("/proc/self/mountinfo").map_err(|e| Error::io(what, e))?;
    let mounts = String::from_utf8_lossy(&mounts);
    let found = mounts.lines().find_map(mounted);
    found.ok_or_else(|| Error::io(what, std::io::ErrorKind::NotFound.into()))
}

/// Where a line says that control groups of version 2 are mounted (proc_pid_mountinfo(5)).
fn mounted(line: &str) -> Option<PathBuf> {
    let (mount, kind) = line.split_once(" - ")?;
    kind.starts_with("cgroup2 ").then_some(())?;
    let at = mount.split(' ').nth(4)?;
    // The kernel writes blanks so.
    Some(at.replace("\\040", " ").into())
}

/// What the calling thread's network namespace is known by, for as long as the machine runs.
///
/// # Errors
/// [`Error::Io`] when the kernel does not say.
pub fn netns_cookie() -> Result<u64> {
    let cookie = UnixDatagram::unbound().and_then(|socket| sys::netns_cookie(socket.as_fd()));
    cookie.map_err(|e| Error::io("asking for the cookie of the network namespace", e))
}

/// Opens a control group.
///
/// # Errors
/// [`Error::is_gone`] when there is none; [`Error::Io`] otherwise.
pub fn open(path: &Path) -> Result<File> {
    let what = format_args!("opening the control group {}", path.display());
    File::open(path).map_err(|e| Error::io(what, e))
}

/// Attaches a program beside others, or in the place of one of ours in one step.
///
/// # Errors
/// [`Error::Io`]: EPERM when somebody else's program is there that wants to be alone, EBADF when it is no group of version 2.
pub fn attach(
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
    program: BorrowedFd<'_>,
    replaced: Option<BorrowedFd<'_>>,
) -> Result<()> {
    sys::bpf_cgroup_attach(cgroup, attach_type, program, replaced)
        .map_err(|e| Error::io("attaching a BPF program to the control group", e))
}

/// Takes a program off.
///
/// # Errors
/// [`Error::is_gone`] when it is not there.
pub fn detach(cgroup: BorrowedFd<'_>, attach_type: u32, program: BorrowedFd<'_>) -> Result<()> {
    sys::bpf_cgroup_detach(cgroup, attach_type, program)
        .map_err(|e| Error::io("taking a BPF program off the control group", e))
}

/// Our programs on a group that are for the network namespace with this cookie, in the order of where they are attached.
///
/// # Errors
/// [`Error::Io`] when the kernel does not say.
pub fn ours(cgroup: BorrowedFd<'_>, netns: u64) -> Result<Vec<Attached>> {
    let mut found = Vec::new();
    for attach_type in ATTACH_TYPES {
        let mut ids = [0; MAX_PROGRAMS];
        let ids = sys::bpf_cgroup_query(cgroup, attach_type, &mut ids)
            .map_err(|e| Error::io("asking for the BPF programs of the control group", e))?;
        for id in ids {
            let program = match bpf::open(*id) {
                Ok(program) => program,
                Err(e) if e.is_gone() => continue,
                Err(e) => return Err(e),
            };
            let info = bpf::info_of(program.as_fd())?;
            if info.is_ours() && netns_of(program.as_fd())? == Some(netns) {
                found.push(Attached {
                    attach_type,
                    info,
                    program,
                });
            }
        }
    }
    Ok(found)
}

/// For which network namespace a program is; none where it does not say.
fn netns_of(program: BorrowedFd<'_>) -> Result<Option<u64>> {
    let fail = |e| Error::io("reading the maps of a BPF program", e);
    let mut ids = [0; MAX_MAPS];
    for id in sys::bpf_prog_maps(program, &mut ids).map_err(fail)? {
        let map = sys::bpf_map_by_id(*id).map_err(fail)?;
        let info = sys::bpf_map_info(map.as_fd()).map_err(fail)?;
        let bytes: Vec<u8> = info[3..].iter().flat_map(|w| w.to_ne_bytes()).collect();
        if string(&bytes) == NETNS_MAP {
            return sys::bpf_map_first(map.as_fd()).map(Some).map_err(fail);
        }
    }
    Ok(None)
}

/// Takes our programs off that are for the calling thread's network namespace; how many there were. A group that is gone has none.
///
/// # Errors
/// What the kernel says.
pub fn remove_ours(path: &Path) -> Result<usize> {
    let cgroup = match open(path) {
        Ok(cgroup) => cgroup,
        Err(e) if e.is_gone() => return Ok(0),
        Err(e) => return Err(e),
    };
    let ours = ours(cgroup.as_fd(), netns_cookie()?)?;
    for attached in &ours {
        detach(
            cgroup.as_fd(),
            attached.attach_type,
            attached.program.as_fd(),
        )?;
    }
    Ok(ours.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_among_others() {
        let lines = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
            35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
            41 31 0:38 / /sys/fs/cgroup/all\\040of\\040them rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        let found: Vec<PathBuf> = lines.lines().filter_map(mounted).collect();
        assert_eq!(found, [PathBuf::from("/sys/fs/cgroup/all of them")]);
    }

    #[test]
    fn a_network_namespace_has_one_cookie() {
        assert_eq!(netns_cookie().unwrap(), netns_cookie().unwrap());
    }
}
