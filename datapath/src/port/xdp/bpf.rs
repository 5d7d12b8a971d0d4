// SPDX-License-Identifier: Apache-2.0
//! The commands of bpf(2) that load a program and find one by its id (include/uapi/linux/bpf.h).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use aya_obj::generated::bpf_insn;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
/// `BPF_PROG_TYPE_XDP` and the attach type `BPF_XDP`.
const XDP: (u32, u32) = (6, 37);
/// `BPF_PROG_TYPE_SCHED_CLS`.
const SCHED_CLS: u32 = 3;
/// `BPF_PROG_TYPE_CGROUP_SOCK_ADDR`.
const SOCK_ADDR: u32 = 18;
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
const BPF_F_XDP_DEV_BOUND_ONLY: u32 = 1 << 6;
/// Room for the verifier's words.
const LOG_BYTES: usize = 16 << 10;
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

/// The part of `union bpf_attr` for BPF_PROG_LOAD, up to the attach type.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
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

/// Loads an XDP program that takes frames of several buffers, `bound_to` the interface of the calling thread's network
/// namespace with this index, if any. The error has the verifier's words.
pub(super) fn load_xdp(
    name: &str,
    license: &CStr,
    instructions: &[bpf_insn],
    bound_to: Option<u32>,
) -> io::Result<OwnedFd> {
    let attribute = Load {
        kind: XDP.0,
        flags: BPF_F_XDP_HAS_FRAGS | bound_to.map_or(0, |_| BPF_F_XDP_DEV_BOUND_ONLY),
        interface: bound_to.unwrap_or(0),
        attach_type: XDP.1,
        ..Load::default()
    };
    load(name, license, instructions, attribute)
}

/// Loads a traffic-control program. The error has the verifier's words.
pub(super) fn load_sched_cls(
    name: &str,
    license: &CStr,
    instructions: &[bpf_insn],
) -> io::Result<OwnedFd> {
    let attribute = Load {
        kind: SCHED_CLS,
        ..Load::default()
    };
    load(name, license, instructions, attribute)
}

/// Loads a program that is told of the peers of sockets, to be attached to a control group as this type. The error has the verifier's words.
pub(super) fn load_sock_addr(
    name: &str,
    license: &CStr,
    instructions: &[bpf_insn],
    attach_type: u32,
) -> io::Result<OwnedFd> {
    let attribute = Load {
        kind: SOCK_ADDR,
        attach_type,
        ..Load::default()
    };
    load(name, license, instructions, attribute)
}

/// `attribute`: what is special about the program.
fn load(
    name: &str,
    license: &CStr,
    instructions: &[bpf_insn],
    attribute: Load,
) -> io::Result<OwnedFd> {
    let mut attribute = Load {
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..attribute
    };
    let len = name.len().min(attribute.name.len() - 1);
    attribute.name[..len].copy_from_slice(&name.as_bytes()[..len]);
    // SAFETY: (X5) the attribute of this command; instructions and license live until after the call, the first are as
    // long as it says, and the license ends with a zero byte.
    if let Ok(program) = unsafe { bpf_program(BPF_PROG_LOAD, &mut attribute) } {
        return Ok(program);
    }
    // Once more, for the words: they cost time, and a log that is too short would be a failure of its own.
    let mut log = vec![0u8; LOG_BYTES];
    attribute.log_level = 1;
    attribute.log_size = LOG_BYTES as u32;
    attribute.log = log.as_mut_ptr() as u64;
    // SAFETY: (X5) as above; the log is as long as said and lives until after the call.
    let loaded = unsafe { bpf_program(BPF_PROG_LOAD, &mut attribute) };
    loaded.map_err(|e| {
        let end = log.iter().position(|&b| b == 0).unwrap_or(log.len());
        let said = String::from_utf8_lossy(&log[..end]);
        match said.trim() {
            "" => e,
            said => io::Error::new(e.kind(), format!("{e}: {said}")),
        }
    })
}

/// A command that answers with a descriptor of a program.
///
/// # Safety
/// (X5) As [`bpf`]; the command answers with a descriptor.
unsafe fn bpf_program<T>(command: libc::c_int, attribute: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: (X5) the caller's promise.
    let fd = unsafe { bpf(command, attribute) }?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: (X5) the kernel just gave us this descriptor, with close-on-exec set.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A descriptor of the program with this id.
pub(super) fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attribute = ById {
        id,
        ..ById::default()
    };
    // SAFETY: (X5) the attribute of this command, which holds no address.
    unsafe { bpf_program(BPF_PROG_GET_FD_BY_ID, &mut attribute) }
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
