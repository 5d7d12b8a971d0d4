// SPDX-License-Identifier: Apache-2.0
//! XDP programs of interfaces, attached over netlink so that they outlive the process (`IFLA_XDP`,
//! `net/core/dev.c`, `dev_xdp_attach`). A foreign program is never replaced and never removed.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use crate::bpf;
use crate::error::{Error, Result};
use crate::link::{self, IfInfo, LinkId};
use crate::netlink::Socket;
use crate::netlink::message::{Request, attrs, u8_at, u32_at};

// include/uapi/linux/if_link.h
const IFLA_XDP_FD: u16 = 1;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_FLAGS: u16 = 3;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
const IFLA_XDP_HW_PROG_ID: u16 = 7;
const IFLA_XDP_EXPECTED_FD: u16 = 8;
const XDP_FLAGS_UPDATE_IF_NOEXIST: u32 = 1;
const XDP_FLAGS_SKB_MODE: u32 = 2;
const XDP_FLAGS_DRV_MODE: u32 = 4;
const XDP_FLAGS_HW_MODE: u32 = 8;
const XDP_FLAGS_REPLACE: u32 = 16;

/// Where in the kernel an XDP program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// In the driver, before an skb is made.
    Native,
    /// In the stack, on an skb.
    Generic,
    /// On the device itself.
    Offload,
}

impl Mode {
    fn flag(self) -> u32 {
        match self {
            Mode::Native => XDP_FLAGS_DRV_MODE,
            Mode::Generic => XDP_FLAGS_SKB_MODE,
            Mode::Offload => XDP_FLAGS_HW_MODE,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Native => "native",
            Mode::Generic => "generic",
            Mode::Offload => "offload",
        })
    }
}

/// The ids of the programs attached to an interface, by mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attached {
    /// In native mode.
    pub native: Option<u32>,
    /// In generic mode.
    pub generic: Option<u32>,
    /// On the device.
    pub offload: Option<u32>,
}

impl Attached {
    /// The id of the program in this mode.
    pub fn in_mode(&self, mode: Mode) -> Option<u32> {
        match mode {
            Mode::Native => self.native,
            Mode::Generic => self.generic,
            Mode::Offload => self.offload,
        }
    }

    /// The mode and program id that sees frames first; none when nothing is attached.
    pub fn first(&self) -> Option<(Mode, u32)> {
        [Mode::Offload, Mode::Native, Mode::Generic]
            .into_iter()
            .find_map(|mode| Some((mode, self.in_mode(mode)?)))
    }

    /// True when no program is attached.
    pub fn is_empty(&self) -> bool {
        *self == Attached::default()
    }
}

/// What is attached to an interface.
///
/// # Errors
/// [`Error::is_gone`] when there is no such interface.
pub fn query<'a>(socket: &mut Socket, link: impl Into<LinkId<'a>>) -> Result<Attached> {
    link::get(socket, link).map(|l| l.xdp)
}

/// Attaches a program. Without `expected` it is attached only where no program is; with it, it takes the place of
/// exactly that one.
///
/// # Errors
/// [`Error::ForeignXdp`] when another program than podswitch's is attached; EBUSY when one of podswitch's is and none
/// was expected; EEXIST when the one attached is not the expected one; otherwise the driver's refusal with the kernel's
/// explanation (ERANGE or EINVAL for an MTU too large for a program without frags, EOPNOTSUPP without driver support).
pub fn attach<'a>(
    socket: &mut Socket,
    link: impl Into<LinkId<'a>>,
    program: BorrowedFd<'_>,
    mode: Mode,
    expected: Option<BorrowedFd<'_>>,
) -> Result<()> {
    let link = link.into();
    let index = link::index(socket, link)?;
    let what = format!("attaching an XDP program to {link} in {mode} mode");
    let guard = if expected.is_some() {
        XDP_FLAGS_REPLACE
    } else {
        XDP_FLAGS_UPDATE_IF_NOEXIST
    };
    let done = set(
        socket,
        what,
        index,
        program.as_raw_fd(),
        mode.flag() | guard,
        expected,
    );
    match done {
        Err(refused) if matches!(refused.errno(), Some(libc::EBUSY | libc::EEXIST)) => {
            let attached = query(socket, index)?;
            Err(foreign(link, attached)?.unwrap_or(refused))
        }
        other => other,
    }
}

/// Attaches a program where nothing is, or puts it in the place of a program of podswitch in one step, so that no frame
/// passes in between. Gives the id of the program it replaced.
///
/// # Errors
/// [`Error::ForeignXdp`] when the program there is not podswitch's; [`Error::XdpMode`] when podswitch's is attached in
/// another mode ([`detach`] it first); as [`attach`] otherwise.
pub fn install<'a>(
    socket: &mut Socket,
    link: impl Into<LinkId<'a>>,
    program: BorrowedFd<'_>,
    mode: Mode,
) -> Result<Option<u32>> {
    let found = link::get(socket, link)?;
    let before = match found.xdp.first() {
        None => None,
        Some((attached, id)) => {
            let fd = bpf::open(id)?;
            let info = bpf::info_of(fd.as_fd())?;
            if !info.is_ours() {
                return Err(Error::ForeignXdp {
                    link: found.name,
                    program: info.to_string(),
                    mode: attached,
                });
            }
            if attached != mode {
                return Err(Error::XdpMode {
                    link: found.name,
                    attached,
                    asked: mode,
                });
            }
            Some((id, fd))
        }
    };
    attach(
        socket,
        &found,
        program,
        mode,
        before.as_ref().map(|(_, fd)| fd.as_fd()),
    )?;
    Ok(before.map(|(id, _)| id))
}

/// Removes podswitch's program from an interface, and says whether there was one.
///
/// # Errors
/// [`Error::XdpMode`] when a program is attached, but in another mode; [`Error::ForeignXdp`] when it is not
/// podswitch's; [`Error::is_gone`] when there is no such interface.
pub fn detach<'a>(socket: &mut Socket, link: impl Into<LinkId<'a>>, mode: Mode) -> Result<bool> {
    let link = link.into();
    let found = link::get(socket, link)?;
    let Some(id) = found.xdp.in_mode(mode) else {
        return match found.xdp.first() {
            None => Ok(false),
            Some((attached, _)) => Err(Error::XdpMode {
                link: found.name,
                attached,
                asked: mode,
            }),
        };
    };
    let program = bpf::open(id)?;
    let info = bpf::info_of(program.as_fd())?;
    if !info.is_ours() {
        return Err(Error::ForeignXdp {
            link: found.name,
            program: info.to_string(),
            mode,
        });
    }
    // Naming the program closes the gap between looking and removing.
    let what = format!("removing the XDP program {info} from {link}");
    let flags = mode.flag() | XDP_FLAGS_REPLACE;
    set(socket, what, found.index, -1, flags, Some(program.as_fd()))?;
    Ok(true)
}

/// Refuses an interface that has a program of somebody else's, in whichever mode.
///
/// # Errors
/// [`Error::ForeignXdp`], naming it.
pub fn refuse_foreign(link: &link::Link) -> Result<()> {
    foreign(LinkId::Name(&link.name), link.xdp)?.map_or(Ok(()), Err)
}

/// The error for a foreign program among those attached, if there is one.
fn foreign(link: LinkId<'_>, attached: Attached) -> Result<Option<Error>> {
    for mode in [Mode::Offload, Mode::Native, Mode::Generic] {
        let Some(id) = attached.in_mode(mode) else {
            continue;
        };
        let info = bpf::info(id)?;
        if !info.is_ours() {
            return Ok(Some(Error::ForeignXdp {
                link: link.to_string(),
                program: info.to_string(),
                mode,
            }));
        }
    }
    Ok(None)
}

fn set(
    socket: &mut Socket,
    what: String,
    index: u32,
    program: i32,
    flags: u32,
    expected: Option<BorrowedFd<'_>>,
) -> Result<()> {
    let header = IfInfo {
        index,
        ..IfInfo::default()
    }
    .bytes();
    let mut request = Request::new(libc::RTM_SETLINK, 0, &header);
    request.nest(libc::IFLA_XDP, |xdp| {
        xdp.i32(IFLA_XDP_FD, program).u32(IFLA_XDP_FLAGS, flags);
        if let Some(expected) = expected {
            xdp.i32(IFLA_XDP_EXPECTED_FD, expected.as_raw_fd());
        }
    });
    socket.change(what, request)
}

/// Reads the attributes inside `IFLA_XDP`.
pub(crate) fn parse(nest: &[u8]) -> Attached {
    let mut attached = Attached::default();
    let (mut how, mut single) = (0, None);
    for (kind, value) in attrs(nest) {
        match kind {
            IFLA_XDP_ATTACHED => how = u8_at(value, 0).unwrap_or(0),
            IFLA_XDP_PROG_ID => single = u32_at(value, 0),
            IFLA_XDP_DRV_PROG_ID => attached.native = u32_at(value, 0),
            IFLA_XDP_SKB_PROG_ID => attached.generic = u32_at(value, 0),
            IFLA_XDP_HW_PROG_ID => attached.offload = u32_at(value, 0),
            _ => {}
        }
    }
    // XDP_ATTACHED_*: kernels name the program by its mode as well; the plain id serves where one does not.
    match how {
        1 => attached.native = attached.native.or(single),
        2 => attached.generic = attached.generic.or(single),
        3 => attached.offload = attached.offload.or(single),
        _ => {}
    }
    attached
}
