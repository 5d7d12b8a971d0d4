// SPDX-License-Identifier: Apache-2.0
//! The two commands of bpf(2) that find a program by its id (include/uapi/linux/bpf.h).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
/// More maps than any program of ours has.
const MAX_MAPS: usize = 8;

/// What the kernel tells about a program.
#[derive(Debug)]
pub(super) struct ProgramInfo {
    pub(super) id: u32,
    pub(super) name: String,
    /// Ids of its maps.
    pub(super) maps: Vec<u32>,
}

/// The part of `union bpf_attr` for commands that take an id.
#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// The part of `union bpf_attr` for BPF_OBJ_GET_INFO_BY_FD.
#[repr(C)]
struct InfoByFd {
    fd: u32,
    info_len: u32,
    info: u64,
}

/// The start of `struct bpf_prog_info`, up to the name.
#[repr(C)]
#[derive(Default)]
struct RawProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_len: u32,
    xlated_len: u32,
    jited: u64,
    xlated: u64,
    load_time: u64,
    created_by_uid: u32,
    nr_map_ids: u32,
    map_ids: u64,
    name: [u8; 16],
}

/// # Safety
/// (X5) `T` is the part of `union bpf_attr` that the command reads, and every address in it is of live memory as long
/// as the attribute says.
unsafe fn bpf<T>(command: libc::c_int, attribute: &mut T) -> io::Result<libc::c_long> {
    let at: *mut T = attribute;
    // SAFETY: (X5) `attribute` is a live, exclusively borrowed value of the size said; the rest the caller vouches for.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, at, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// A descriptor of the program with this id.
pub(super) fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attribute = ById {
        id,
        ..ById::default()
    };
    // SAFETY: (X5) the attribute of this command, which holds no address.
    let fd = unsafe { bpf(BPF_PROG_GET_FD_BY_ID, &mut attribute) }?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: (X5) the kernel just gave us this descriptor, with close-on-exec set.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What the kernel tells about the program behind a descriptor.
pub(super) fn program_info(program: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    let mut maps = [0u32; MAX_MAPS];
    let mut raw = RawProgramInfo {
        nr_map_ids: MAX_MAPS as u32,
        map_ids: maps.as_mut_ptr() as u64,
        ..RawProgramInfo::default()
    };
    let mut attribute = InfoByFd {
        fd: program.as_raw_fd() as u32,
        info_len: size_of::<RawProgramInfo>() as u32,
        info: std::ptr::from_mut(&mut raw) as u64,
    };
    // SAFETY: (X5) `raw` and `maps` live until after the call and are as long as `info_len` and `nr_map_ids` say.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attribute) }?;
    let name_len = raw
        .name
        .iter()
        .position(|&b| b == 0)
        .unwrap_or(raw.name.len());
    let count = (raw.nr_map_ids as usize).min(MAX_MAPS);
    Ok(ProgramInfo {
        id: raw.id,
        name: String::from_utf8_lossy(&raw.name[..name_len]).into_owned(),
        maps: maps[..count].to_vec(),
    })
}
