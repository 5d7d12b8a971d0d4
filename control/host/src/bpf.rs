// SPDX-License-Identifier: Apache-2.0
//! The little of bpf(2) that interfaces need (`man 2 bpf`): load a program of a few instructions, and say what a
//! loaded program is by its id.

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

    const fn encode(opcode: u8, immediate: u32) -> Self {
        let imm = immediate.to_ne_bytes();
        Instruction(u64::from_ne_bytes([
            opcode, 0, 0, 0, imm[0], imm[1], imm[2], imm[3],
        ]))
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
