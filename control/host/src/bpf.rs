// SPDX-License-Identifier: Apache-2.0
//! The little of bpf(2) that interfaces need (`man 2 bpf`): load a program of a few instructions, say what a
//! loaded program is by its id, and have an XDP program send frames.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::error::{Error, Result};
use crate::netlink::message::{string, u32_at};
use crate::sys;

/// What the names of all programs of podswitch start with; a program with another name is foreign.
pub const NAME_PREFIX: &str = "podswitch";
/// Longest name of a program, bytes (`BPF_OBJ_NAME_LEN` less the NUL).
pub const NAME_MAX: usize = 15;
/// Words of `struct bpf_prog_info` that are read: up to and with `name`.
const INFO_WORDS: usize = 10;
const LOG_BYTES: usize = 4096;

/// Where a program can be attached (`enum bpf_prog_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgramType {
    /// A tc filter.
    SchedCls,
    /// An XDP program.
    Xdp,
    /// Any other, as read from the kernel.
    Other(u32),
}

impl ProgramType {
    fn number(self) -> u32 {
        match self {
            ProgramType::SchedCls => 3,
            ProgramType::Xdp => 6,
            ProgramType::Other(n) => n,
        }
    }

    fn read(n: u32) -> Self {
        match n {
            3 => ProgramType::SchedCls,
            6 => ProgramType::Xdp,
            other => ProgramType::Other(other),
        }
    }
}

/// A loaded program, as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramInfo {
    /// Id, unique while the program lives.
    pub id: u32,
    /// Name, possibly empty.
    pub name: String,
    /// Hash of the instructions.
    pub tag: [u8; 8],
    /// Type.
    pub kind: ProgramType,
}

impl ProgramInfo {
    /// True for a program of podswitch, by its name.
    pub fn is_ours(&self) -> bool {
        self.name.starts_with(NAME_PREFIX)
    }
}

impl fmt::Display for ProgramInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.name.is_empty() {
            "(without a name)"
        } else {
            &self.name
        };
        write!(f, "{name} (id {})", self.id)
    }
}

/// One instruction in the kernel's layout (`struct bpf_insn`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction(u64);

impl Instruction {
    /// `r0 = value`, 32 bits.
    pub const fn return_value(value: u32) -> Self {
        Instruction::encode(0xb4, value)
    }

    /// Ends the program with the value of `r0`.
    pub const fn exit() -> Self {
        Instruction::encode(0x95, 0)
    }

    /// Any instruction (`Documentation/bpf/standardization/instruction-set.rst`): opcode, destination and source
    /// register, offset and immediate value. Whether it makes sense is for the verifier to say.
    pub const fn any(opcode: u8, destination: u8, source: u8, offset: i16, immediate: u32) -> Self {
        // The registers are bit fields, so their order is the machine's.
        let registers = if cfg!(target_endian = "little") {
            destination | source << 4
        } else {
            destination << 4 | source
        };
        let (off, imm) = (offset.to_ne_bytes(), immediate.to_ne_bytes());
        Instruction(u64::from_ne_bytes([
            opcode, registers, off[0], off[1], imm[0], imm[1], imm[2], imm[3],
        ]))
    }

    const fn encode(opcode: u8, immediate: u32) -> Self {
        Instruction::any(opcode, 0, 0, 0, immediate)
    }
}

/// Loads a program. It lives as long as the descriptor or anything it is attached to.
///
/// # Errors
/// [`Error::Invalid`] for a name that is too long or has other characters than letters, digits, `_` and `.`;
/// [`Error::Io`] with the verifier's words when the kernel refuses the program.
pub fn load(kind: ProgramType, name: &str, instructions: &[Instruction]) -> Result<OwnedFd> {
    let fits = name.len() <= NAME_MAX;
    if !fits
        || !name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.'))
    {
        let why = format!("must be at most {NAME_MAX} letters, digits, '_' or '.'");
        return Err(Error::invalid("BPF program name", name, why));
    }
    let mut name_field = [0; 16];
    name_field[..name.len()].copy_from_slice(name.as_bytes());
    let words: Vec<u64> = instructions.iter().map(|i| i.0).collect();
    let mut log = [0; LOG_BYTES];
    sys::bpf_prog_load(
        kind.number(),
        &words,
        c"Dual BSD/GPL",
        &name_field,
        &mut log,
    )
    .map_err(|source| {
        let said = string(&log);
        let said = said.trim();
        let colon = if said.is_empty() {
            ""
        } else {
            ": the verifier says: "
        };
        Error::io(
            format_args!("loading the BPF program {name}{colon}{said}"),
            source,
        )
    })
}

/// Opens a loaded program by its id.
///
/// # Errors
/// [`Error::is_gone`] when there is none (any more); EPERM without `CAP_SYS_ADMIN`.
pub fn open(id: u32) -> Result<OwnedFd> {
    sys::bpf_prog_by_id(id)
        .map_err(|source| Error::io(format_args!("opening the BPF program with id {id}"), source))
}

/// Describes a program by its descriptor.
///
/// # Errors
/// [`Error::Io`] when the descriptor is not a program's.
pub fn info_of(program: BorrowedFd<'_>) -> Result<ProgramInfo> {
    let mut words = [0; INFO_WORDS];
    sys::bpf_prog_info(program, &mut words)
        .map_err(|source| Error::io("describing a BPF program", source))?;
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
    let mut tag = [0; 8];
    tag.copy_from_slice(&bytes[8..16]);
    Ok(ProgramInfo {
        kind: ProgramType::read(u32_at(&bytes, 0).unwrap_or(0)),
        id: u32_at(&bytes, 4).unwrap_or(0),
        tag,
        name: string(&bytes[64..]),
    })
}

/// Describes a program by its id.
///
/// # Errors
/// As [`open`] and [`info_of`].
pub fn info(id: u32) -> Result<ProgramInfo> {
    info_of(open(id)?.as_fd())
}

/// Has an XDP program decide about `frames` copies of a frame as if they had come in by the loopback device of the
/// calling thread's network namespace, and does with them what it says: with `bpf_redirect` they are sent. The kernel
/// keeps up to 64 copies and uses them again as they come back, with what the program has written into them
/// (`Documentation/bpf/bpf_prog_run.rst`, live frame mode, Linux 5.18).
///
/// # Errors
/// [`Error::Io`]: EINVAL for a program of another type, a frame shorter than an Ethernet header or longer than about
/// 3.4 KiB, no frames or a kernel without this; EPERM without `CAP_NET_ADMIN` and `CAP_BPF`.
pub fn run_on_frames(program: BorrowedFd<'_>, frame: &[u8], frames: u32) -> Result<()> {
    sys::bpf_prog_run_live(program, frame, frames)
        .map_err(|source| Error::io("running an XDP program on frames", source))
}

/// What an XDP program says about a frame that comes in by the first queue of the loopback device of the calling thread's network
/// namespace (`XDP_PASS`, ...; include/uapi/linux/bpf.h). Nothing becomes of the frame.
///
/// # Errors
/// [`Error::Io`]: EINVAL for a program of another type or bound to a device, and for a frame shorter than an Ethernet header; EPERM
/// without `CAP_NET_ADMIN` and `CAP_BPF`.
pub fn answer(program: BorrowedFd<'_>, frame: &[u8]) -> Result<u32> {
    sys::bpf_prog_answer(program, frame)
        .map_err(|source| Error::io("asking an XDP program about a frame", source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_program_names_are_named() {
        for bad in ["sixteen_bytes_ab", "no-dashes", "a b"] {
            let text = load(ProgramType::Xdp, bad, &[]).unwrap_err().to_string();
            assert!(text.contains(bad), "{text}");
        }
    }
}
