// SPDX-License-Identifier: Apache-2.0
//! The system calls this crate makes itself. Every `unsafe` block of the crate is here; the numbered invariants are in
//! `docs/unsafe.md` under "control/host".

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Puts the calling thread into a network namespace.
pub(crate) fn setns_net(netns: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: H1: plain integers; the descriptor is borrowed and so open.
    check(unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// `getsockopt(SO_PEERGROUPS)`, retried with the length the kernel asks for.
pub(crate) fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<libc::gid_t>> {
    let size = size_of::<libc::gid_t>();
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut bytes = (groups.len() * size) as libc::socklen_t;
        // SAFETY: H3: the kernel writes at most `bytes` bytes, the length of the vector in bytes.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let needed = bytes as usize / size;
        match check(result) {
            Ok(_) => {
                groups.truncate(needed);
                return Ok(groups);
            }
            Err(e) if e.raw_os_error() == Some(libc::ERANGE) && needed > groups.len() => {
                groups.resize(needed, 0);
            }
            Err(e) => return Err(e),
        }
    }
}

/// `getsockopt(SO_NETNS_COOKIE)`: what the socket's network namespace is known by.
pub(crate) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut bytes = size_of_val(&cookie) as libc::socklen_t;
    // SAFETY: H3: the kernel writes at most `bytes` bytes, the size of the number.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut bytes,
        )
    })?;
    Ok(cookie)
}

/// Puts the calling thread into a new network namespace.
pub(crate) fn unshare_net() -> io::Result<()> {
    // SAFETY: H1: a plain integer; a new network namespace shares no memory and no descriptor.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).map(drop)
}

/// `mount(2)` without a file system type or data.
pub(crate) fn mount(source: &Path, target: &Path, flags: libc::c_ulong) -> io::Result<()> {
    let (source, target) = (c_path(source)?, c_path(target)?);
    // SAFETY: H2: both strings end in NUL and outlive the call; type and data may be null for these flags.
    check(unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            ptr::null(),
            flags,
            ptr::null(),
        )
    })
    .map(drop)
}

/// `umount2(2)`, detaching a mount that is in use.
pub(crate) fn umount_detach(target: &Path) -> io::Result<()> {
    let target = c_path(target)?;
    // SAFETY: H2: the string ends in NUL and outlives the call.
    check(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) }).map(drop)
}

/// The magic number of the file system a file is on.
pub(crate) fn filesystem_magic(file: &File) -> io::Result<i64> {
    let mut stat = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: H3: the kernel writes a whole `statfs` there when it succeeds.
    check(unsafe { libc::fstatfs(file.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: H3: it succeeded.
    Ok(unsafe { stat.assume_init() }.f_type)
}

/// The `CLONE_NEW*` number of the kind of namespace a namespace file is (`man 2 ioctl_ns`).
pub(crate) fn namespace_kind(file: &File) -> io::Result<libc::c_int> {
    // SAFETY: H1: the request takes no argument.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::NS_GET_NSTYPE) })
}

/// The CPUs the calling thread may run on, ascending.
pub(crate) fn affinity() -> io::Result<Vec<usize>> {
    let mut set = MaybeUninit::<libc::cpu_set_t>::zeroed();
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: H3: the kernel writes at most `size` bytes there; all zero is a valid set.
    check(unsafe { libc::sched_getaffinity(0, size, set.as_mut_ptr()) })?;
    // SAFETY: H3: zeroed before the call.
    let set = unsafe { set.assume_init() };
    // SAFETY: H3: CPU_ISSET reads one bit of a whole set, and the number is below the set's size.
    Ok((0..libc::CPU_SETSIZE as usize)
        .filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) })
        .collect())
}

/// `bpf(2)` with an attribute block of `words` (its first bytes; the kernel takes the rest as zero). The kernel may
/// write its answer into the block.
///
/// # Safety
/// H4: every user-space address in the block must be valid for what the command reads or writes there.
unsafe fn bpf(command: u32, block: &mut [u64]) -> io::Result<libc::c_int> {
    // SAFETY: H4: the block is exclusively borrowed and its size is passed; addresses in it: the caller's promise.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            block.as_mut_ptr(),
            size_of_val(block),
        )
    };
    check(result as libc::c_int)
}

const BPF_MAP_LOOKUP_ELEM: u32 = 1;
const BPF_PROG_LOAD: u32 = 5;
const BPF_PROG_ATTACH: u32 = 8;
const BPF_PROG_DETACH: u32 = 9;
const BPF_PROG_TEST_RUN: u32 = 10;
const BPF_PROG_GET_FD_BY_ID: u32 = 13;
const BPF_MAP_GET_FD_BY_ID: u32 = 14;
const BPF_OBJ_GET_INFO_BY_FD: u32 = 15;
const BPF_PROG_QUERY: u32 = 16;
const BPF_F_ALLOW_MULTI: u32 = 2;
const BPF_F_REPLACE: u32 = 4;

/// Puts two 32-bit fields of a C structure into one 8-byte word.
fn pair(first: u32, second: u32) -> u64 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes[4..].copy_from_slice(&second.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

/// The other way round.
fn halves(word: u64) -> [u32; 2] {
    let bytes = word.to_ne_bytes();
    let half = |at: usize| u32::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]));
    [half(0), half(4)]
}

/// Loads a program of these instructions; `log` gets the verifier's words when it is not empty.
pub(crate) fn bpf_prog_load(
    kind: u32,
    instructions: &[u64],
    license: &CStr,
    name: &[u8; 16],
    log: &mut [u8],
) -> io::Result<OwnedFd> {
    let count =
        u32::try_from(instructions.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let log_size =
        u32::try_from(log.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let (name_low, name_high) = name.split_at(8);
    let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
    // The fields of `union bpf_attr` for BPF_PROG_LOAD, up to prog_name (include/uapi/linux/bpf.h).
    let mut block = [
        pair(kind, count),
        instructions.as_ptr().expose_provenance() as u64,
        license.as_ptr().expose_provenance() as u64,
        pair(u32::from(log_size > 0), log_size),
        if log.is_empty() {
            0
        } else {
            log.as_mut_ptr().expose_provenance() as u64
        },
        pair(0, 0),
        word(name_low),
        word(name_high),
    ];
    // SAFETY: H4: instructions and licence are borrowed for the call and read only; the log is exclusively borrowed
    // and its size is passed.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &mut block) }?;
    // SAFETY: H5: the kernel made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens a loaded program by its id.
pub(crate) fn bpf_prog_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut block = [pair(id, 0), 0];
    // SAFETY: H4: the block holds no address.
    let fd = unsafe { bpf(BPF_PROG_GET_FD_BY_ID, &mut block) }?;
    // SAFETY: H5: the kernel made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The first bytes of a program's `struct bpf_prog_info`, as 8-byte words.
pub(crate) fn bpf_prog_info(program: BorrowedFd<'_>, info: &mut [u64]) -> io::Result<()> {
    info.fill(0);
    let mut block = [
        pair(
            program.as_raw_fd().cast_unsigned(),
            size_of_val(info) as u32,
        ),
        info.as_mut_ptr().expose_provenance() as u64,
    ];
    // SAFETY: H4: `info` is exclusively borrowed and its size is passed; it is all zero, so that it asks the kernel to
    // write to no other address.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut block) }.map(drop)
}

/// Ids of a program's maps, as many as fit.
pub(crate) fn bpf_prog_maps<'a>(
    program: BorrowedFd<'_>,
    maps: &'a mut [u32],
) -> io::Result<&'a [u32]> {
    // `struct bpf_prog_info` up to map_ids; nr_map_ids, before that, says how many fit and then how many there are.
    let mut info = [0; 8];
    info[6] = pair(0, maps.len() as u32);
    info[7] = maps.as_mut_ptr().expose_provenance() as u64;
    let mut block = [
        pair(
            program.as_raw_fd().cast_unsigned(),
            size_of_val(&info) as u32,
        ),
        info.as_mut_ptr().expose_provenance() as u64,
    ];
    // SAFETY: H4: `info` and `maps` are exclusively borrowed and their sizes are passed; there is no other address.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut block) }?;
    let [_, count] = halves(info[6]);
    Ok(&maps[..maps.len().min(count as usize)])
}

/// Opens a map by its id.
pub(crate) fn bpf_map_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut block = [pair(id, 0), 0];
    // SAFETY: H4: the block holds no address.
    let fd = unsafe { bpf(BPF_MAP_GET_FD_BY_ID, &mut block) }?;
    // SAFETY: H5: the kernel made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The first bytes of a map's `struct bpf_map_info`, up to its name: words of 8 bytes.
pub(crate) fn bpf_map_info(map: BorrowedFd<'_>) -> io::Result<[u64; 5]> {
    let mut info = [0; 5];
    let mut block = [
        pair(map.as_raw_fd().cast_unsigned(), size_of_val(&info) as u32),
        info.as_mut_ptr().expose_provenance() as u64,
    ];
    // SAFETY: H4: `info` is exclusively borrowed and its size is passed; it is all zero.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut block) }?;
    Ok(info)
}

/// The number at index 0 of a map whose keys have 4 bytes and whose values 8; EINVAL for any other.
pub(crate) fn bpf_map_first(map: BorrowedFd<'_>) -> io::Result<u64> {
    let [_, sizes, ..] = bpf_map_info(map)?;
    if halves(sizes) != [4, 8] {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let (key, mut value) = (0u32, 0u64);
    let mut block = [
        pair(map.as_raw_fd().cast_unsigned(), 0),
        (&raw const key).expose_provenance() as u64,
        (&raw mut value).expose_provenance() as u64,
        0,
    ];
    // SAFETY: H4: key and value live until after the call and have the sizes that the map says.
    unsafe { bpf(BPF_MAP_LOOKUP_ELEM, &mut block) }?;
    Ok(value)
}

/// Attaches a program to a control group beside others, in the place of `replaced` if that is given.
pub(crate) fn bpf_cgroup_attach(
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
    program: BorrowedFd<'_>,
    replaced: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let number = |fd: BorrowedFd<'_>| fd.as_raw_fd().cast_unsigned();
    let flags = BPF_F_ALLOW_MULTI | replaced.map_or(0, |_| BPF_F_REPLACE);
    let mut block = [
        pair(number(cgroup), number(program)),
        pair(attach_type, flags),
        pair(replaced.map_or(0, number), 0),
    ];
    // SAFETY: H4: the block holds no address.
    unsafe { bpf(BPF_PROG_ATTACH, &mut block) }.map(drop)
}

/// Takes a program off a control group.
pub(crate) fn bpf_cgroup_detach(
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
    program: BorrowedFd<'_>,
) -> io::Result<()> {
    let number = |fd: BorrowedFd<'_>| fd.as_raw_fd().cast_unsigned();
    let mut block = [
        pair(number(cgroup), number(program)),
        pair(attach_type, 0),
        0,
    ];
    // SAFETY: H4: the block holds no address.
    unsafe { bpf(BPF_PROG_DETACH, &mut block) }.map(drop)
}

/// Ids of the programs that are attached to a control group itself, as many as fit; ENOSPC when there are more.
pub(crate) fn bpf_cgroup_query<'a>(
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
    ids: &'a mut [u32],
) -> io::Result<&'a [u32]> {
    let mut block = [
        pair(cgroup.as_raw_fd().cast_unsigned(), attach_type),
        0,
        ids.as_mut_ptr().expose_provenance() as u64,
        pair(ids.len() as u32, 0),
        // What other kernels write there as well: flags of each, and the number of the change.
        0,
        0,
        0,
    ];
    // SAFETY: H4: `ids` is exclusively borrowed and its size is passed; there is no other address.
    unsafe { bpf(BPF_PROG_QUERY, &mut block) }?;
    let [count, _] = halves(block[3]);
    Ok(&ids[..ids.len().min(count as usize)])
}

/// Runs an XDP program on `frames` live copies of a frame.
pub(crate) fn bpf_prog_run_live(
    program: BorrowedFd<'_>,
    frame: &[u8],
    frames: u32,
) -> io::Result<()> {
    const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
    let size = u32::try_from(frame.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    // The fields of `union bpf_attr` for BPF_PROG_TEST_RUN, up to batch_size (include/uapi/linux/bpf.h). Without an
    // address for data or context to go to, none comes back.
    let mut block = [
        pair(program.as_raw_fd().cast_unsigned(), 0),
        pair(size, 0),
        frame.as_ptr().expose_provenance() as u64,
        0,
        pair(frames, 0),
        0,
        0,
        0,
        pair(BPF_F_TEST_XDP_LIVE_FRAMES, 0),
        0,
    ];
    // SAFETY: H4: the frame is borrowed for the call and read only; there is no other address.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut block) }.map(drop)
}

/// The answer of an XDP program about one frame.
pub(crate) fn bpf_prog_answer(program: BorrowedFd<'_>, frame: &[u8]) -> io::Result<u32> {
    let size = u32::try_from(frame.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    // The fields up to data_out. Without an address for data to go to, none comes back; the answer is in the block.
    let mut block = [
        pair(program.as_raw_fd().cast_unsigned(), 0),
        pair(size, 0),
        frame.as_ptr().expose_provenance() as u64,
        0,
        pair(1, 0),
    ];
    // SAFETY: H4: the frame is borrowed for the call and read only; there is no other address.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut block) }?;
    let [_, answer] = halves(block[0]);
    Ok(answer)
}

/// Private memory whose end lies right before an inaccessible page: the kernel cannot write past it, whatever size it
/// thinks the buffer has (it answers EFAULT).
pub(crate) struct Fenced {
    map: *mut libc::c_void,
    mapped: usize,
    start: *mut u8,
    length: usize,
}

impl Fenced {
    /// `words` 8-byte words, all zero.
    pub(crate) fn new(words: usize) -> io::Result<Self> {
        // SAFETY: H1: a plain integer.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) })
            .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        let length = words
            .max(1)
            .checked_mul(8)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let usable = length
            .checked_next_multiple_of(page)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let mapped = usable.checked_add(page).ok_or(io::ErrorKind::OutOfMemory)?;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: H6: a new anonymous mapping, where the kernel likes.
        let map = unsafe { libc::mmap(ptr::null_mut(), mapped, access, flags, -1, 0) };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: H6: `length <= usable < mapped`, so this is inside the mapping.
        let start = unsafe { map.byte_add(usable - length) }.cast();
        let fenced = Fenced {
            map,
            mapped,
            start,
            length,
        };
        // SAFETY: H6: the last page of our own mapping.
        check(unsafe { libc::mprotect(map.byte_add(usable), page, libc::PROT_NONE) })?;
        Ok(fenced)
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: H6: `length` readable and writable bytes of our own mapping, borrowed with the struct.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.length) }
    }
}

impl Drop for Fenced {
    fn drop(&mut self) {
        // SAFETY: H6: our own mapping, and no reference into it outlives the struct.
        unsafe { libc::munmap(self.map, self.mapped) };
    }
}

/// An `ifreq` with this name, and zeros.
fn interface_request(name: &str) -> io::Result<libc::ifreq> {
    let bytes = name.as_bytes();
    if bytes.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    // SAFETY: H7: all zero is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    Ok(request)
}

/// `TUNSETIFF` on a descriptor of /dev/net/tun: the device's name, for which `name` may be a pattern.
pub(crate) fn tun_attach(
    tun: BorrowedFd<'_>,
    name: &str,
    flags: libc::c_int,
) -> io::Result<String> {
    let mut request = interface_request(name)?;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: H3: the kernel reads and writes one whole `ifreq`.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    let name = request.ifr_name.iter().take_while(|c| **c != 0);
    let name = name.map(|c| *c as u8).collect();
    String::from_utf8(name).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// `TUNSETOFFLOAD`: what the reader of a tap device takes.
pub(crate) fn tun_offload(tun: BorrowedFd<'_>, offloads: libc::c_uint) -> io::Result<()> {
    let offloads = libc::c_ulong::from(offloads);
    // SAFETY: H1: a plain integer.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETOFFLOAD, offloads) }).map(drop)
}

/// `SIOCETHTOOL` on an interface of the namespace `socket` was opened in. `data` starts with the command number.
pub(crate) fn ethtool(socket: BorrowedFd<'_>, name: &str, data: &mut Fenced) -> io::Result<()> {
    let mut request = interface_request(name)?;
    request.ifr_ifru.ifru_data = data.start.cast();
    // SAFETY: H7: the structure is whole, the name ends in NUL, and the data lies in front of an inaccessible page.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) }).map(drop)
}

const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// A packet socket that is bound to an interface and hears what this filter lets through of what the interface receives,
/// in every protocol; not what it sends. It never blocks.
pub(crate) fn packet_socket(interface: u32, filter: &[libc::sock_filter]) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // With protocol 0 it hears nothing until it is bound.
    // SAFETY: H1: plain integers.
    let fd = check(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
    // SAFETY: H5: the kernel made this descriptor for us.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: H8: the instructions are borrowed for the call, their number is beside them.
    unsafe { set_option(&fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program) }?;
    let yes: libc::c_int = 1;
    // SAFETY: H8: an integer, which holds no address.
    unsafe { set_option(&fd, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &yes) }?;
    // SAFETY: H3: all zero is a valid address.
    let mut address: libc::sockaddr_ll = unsafe { MaybeUninit::zeroed().assume_init() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = interface.cast_signed();
    let size = size_of_val(&address) as libc::socklen_t;
    // SAFETY: H3: one whole address, read only, and its size.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size) })?;
    // Solicitations for addresses of pods go to groups that the host itself is not in; the device stays in them as long as the socket is there.
    let all_groups = libc::packet_mreq {
        mr_ifindex: interface.cast_signed(),
        mr_type: libc::PACKET_MR_ALLMULTI as libc::c_ushort,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    // SAFETY: H8: integers, which hold no address.
    unsafe {
        set_option(
            &fd,
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            &all_groups,
        )
    }?;
    Ok(fd)
}

/// `include/uapi/linux/if_packet.h`.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// `setsockopt(2)`.
///
/// # Safety
/// H8: every address in `value` must be valid for what the kernel reads there.
unsafe fn set_option<T>(
    fd: &OwnedFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let size = size_of_val(value) as libc::socklen_t;
    // SAFETY: H8: a whole value, read only, and its size; addresses in it: the caller's promise.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const *value).cast(),
            size,
        )
    };
    check(result).map(drop)
}
