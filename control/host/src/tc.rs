// SPDX-License-Identifier: Apache-2.0
//! Traffic control: BPF filters on the clsact hooks (`man 8 tc-bpf`). A filter stays when the process that attached it
//! is gone, which makes the last word on an interface: [`deny`] drops every frame the host's stack would see.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use crate::bpf::{self, Instruction, ProgramType};
use crate::error::Result;
use crate::link::{self, LinkId};
use crate::netlink::Socket;
use crate::netlink::message::{Request, attr, attrs, string, u32_at};

// include/uapi/linux/pkt_sched.h and pkt_cls.h
const TC_H_CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const TC_H_MIN_INGRESS: u32 = 0xffff_fff2;
const TC_H_MIN_EGRESS: u32 = 0xffff_fff3;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
/// In `TCA_STATS2` (`include/uapi/linux/gen_stats.h`).
const TCA_STATS_QUEUE: u16 = 3;
const TC_ACT_OK: u32 = 0;
const TC_ACT_SHOT: u32 = 2;

/// Name of the filter and of the program of [`deny`].
pub const DENY_NAME: &str = "podswitch_deny";
/// Priority of the filter of [`deny`]: before any other.
pub const DENY_PRIORITY: u16 = 1;

/// Name of the program of [`divert`], whose filter is in the place of [`deny`]'s.
const DIVERT_NAME: &str = "podswitch_tap";
/// Name and priority of the filter of [`filter`].
pub const NIC_NAME: &str = "podswitch_nic";
const NIC_PRIORITY: u16 = 1;

/// Opcodes: `BPF_JMP | BPF_CALL`, and `BPF_ALU64 | BPF_MOV` of a number.
const CALL: u8 = 0x85;
const SET: u8 = 0xb7;
/// Drops every frame.
const DROP: [Instruction; 2] = [Instruction::return_value(TC_ACT_SHOT), Instruction::exit()];

/// Name and priority of the filter of [`push_tag`].
const PUSH_NAME: &str = "podswitch_tag";
const PUSH_PRIORITY: u16 = 2;

/// Which way frames go through a hook, seen from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Received by the interface, on their way into the stack; behind XDP.
    Ingress,
    /// Sent by the stack. Frames of AF_XDP and of other direct senders do not pass here.
    Egress,
}

impl Direction {
    /// Both.
    pub const BOTH: [Direction; 2] = [Direction::Ingress, Direction::Egress];

    fn parent(self) -> u32 {
        match self {
            Direction::Ingress => TC_H_MIN_INGRESS,
            Direction::Egress => TC_H_MIN_EGRESS,
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        })
    }
}

/// A BPF filter on a clsact hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The hook.
    pub direction: Direction,
    /// Order among the filters of a hook, lowest first, never 0.
    pub priority: u16,
    /// Number within its priority, never 0.
    pub handle: u32,
    /// Name given when it was attached.
    pub name: String,
    /// Id of its program, for [`bpf::info`].
    pub program: Option<u32>,
}

/// Makes sure that the interface has the clsact hooks, and says whether they had to be added.
///
/// # Errors
/// EEXIST when an `ingress` qdisc of somebody else's is in the place; the kernel's refusal otherwise.
pub fn ensure_clsact<'a>(socket: &mut Socket, link: impl Into<LinkId<'a>>) -> Result<bool> {
    let link = link.into();
    let index = link::index(socket, link)?;
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let mut request = Request::new(
        libc::RTM_NEWQDISC,
        flags,
        &tcmsg(index, CLSACT_HANDLE, TC_H_CLSACT, 0),
    );
    request.str(libc::TCA_KIND, "clsact");
    match socket.change(format_args!("adding a clsact qdisc to {link}"), request) {
        Ok(()) => Ok(true),
        Err(e) if e.exists() && qdisc_kind(socket, link, index)?.as_deref() == Some("clsact") => {
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

/// Whether the interface has the clsact hooks.
///
/// # Errors
/// The kernel's refusal.
pub fn has_clsact<'a>(socket: &mut Socket, link: impl Into<LinkId<'a>>) -> Result<bool> {
    let link = link.into();
    let index = link::index(socket, link)?;
    Ok(qdisc_kind(socket, link, index)?.as_deref() == Some("clsact"))
}

/// Removes the clsact hooks with every filter on them, and says whether they were there.
///
/// # Errors
/// The kernel's refusal.
pub fn remove_clsact<'a>(socket: &mut Socket, link: impl Into<LinkId<'a>>) -> Result<bool> {
    let link = link.into();
    let index = link::index(socket, link)?;
    if !has_clsact(socket, index)? {
        return Ok(false);
    }
    let mut request = Request::new(
        libc::RTM_DELQDISC,
        0,
        &tcmsg(index, CLSACT_HANDLE, TC_H_CLSACT, 0),
    );
    request.str(libc::TCA_KIND, "clsact");
    socket.change(format_args!("removing the clsact qdisc of {link}"), request)?;
    Ok(true)
}

/// A direct-action program (`SCHED_CLS`) in its place on an interface.
#[derive(Debug, Clone, Copy)]
struct Placed<'a> {
    direction: Direction,
    priority: u16,
    name: &'a str,
    program: BorrowedFd<'a>,
}

impl Placed<'_> {
    /// Attaches it: where nothing is (`NLM_F_EXCL`), or also instead of what is there (`NLM_F_REPLACE`), in one step.
    fn put(&self, socket: &mut Socket, link: LinkId<'_>, index: u32, how: i32) -> Result<()> {
        let header = tcmsg(
            index,
            1,
            self.direction.parent(),
            filter_info(self.priority),
        );
        let mut request = Request::new(libc::RTM_NEWTFILTER, libc::NLM_F_CREATE | how, &header);
        request
            .str(libc::TCA_KIND, "bpf")
            .nest(libc::TCA_OPTIONS, |options| {
                options
                    .i32(TCA_BPF_FD, self.program.as_raw_fd())
                    .str(TCA_BPF_NAME, self.name)
                    .u32(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT);
            });
        let Placed {
            direction, name, ..
        } = self;
        socket.change(
            format_args!("attaching the {direction} filter {name} to {link}"),
            request,
        )
    }
}

/// Attaches a direct-action program (`SCHED_CLS`) under this name and priority, in a place nobody has.
///
/// # Errors
/// [`Error::exists`](crate::Error::exists) when a filter of that priority is there; [`Error::is_gone`](crate::Error::is_gone) without interface;
/// EINVAL with the kernel's explanation without clsact ([`ensure_clsact`]).
pub fn attach<'a>(
    socket: &mut Socket,
    link: impl Into<LinkId<'a>>,
    direction: Direction,
    priority: u16,
    name: &str,
    program: BorrowedFd<'_>,
) -> Result<()> {
    let link = link.into();
    let index = link::index(socket, link)?;
    let placed = Placed {
        direction,
        priority,
        name,
        program,
    };
    placed.put(socket, link, index, libc::NLM_F_EXCL)
}

/// The BPF filters on one hook.
///
/// # Errors
/// [`Error::is_gone`](crate::Error::is_gone) when there is no such interface.
pub fn list<'a>(
    socket: &mut Socket,
    link: impl Into<LinkId<'a>>,
    direction: Direction,
) -> Result<Vec<Filter>> {
    let link = link.into();
    let index = link::index(socket, link)?;
    if qdisc_kind(socket, link, index)?.as_deref() != Some("clsact") {
        return Ok(Vec::new());
    }
    let request = Request::new(
        libc::RTM_GETTFILTER,
        0,
        &tcmsg(index, 0, direction.parent(), 0),
    );
    socket.dump(
        format_args!("listing the {direction} filters of {link}"),
        request,
        |p| parse(p, direction),
    )
}

/// Removes every filter of this name from one hook, and says how many there were.
///
/// # Errors
/// [`Error::is_gone`](crate::Error::is_gone) when there is no such interface.
pub fn remove<'a>(
    socket: &mut Socket,
    link: impl Into<LinkId<'a>>,
    direction: Direction,
    name: &str,
) -> Result<usize> {
    let link = link.into();
    let index = link::index(socket, link)?;
    let mut filters = list(socket, index, direction)?;
    filters.retain(|f| f.name == name);
    for filter in &filters {
        let header = tcmsg(
            index,
            filter.handle,
            direction.parent(),
            filter_info(filter.priority),
        );
        let mut request = Request::new(libc::RTM_DELTFILTER, 0, &header);
        request.str(libc::TCA_KIND, "bpf");
        socket.change(
            format_args!("removing the {direction} filter {name} from {link}"),
            request,
        )?;
    }
    Ok(filters.len())
}

/// Makes sure that a filter of ours drops every frame the interface hands to the host's stack, and every frame the
/// stack sends through it, whether or not any process of podswitch lives. AF_XDP receives before, and sends past it.
/// Says whether anything had to be added.
///
/// # Errors
/// As [`ensure_clsact`] and [`attach`].
pub fn deny<'a>(socket: &mut Socket, link: impl Into<LinkId<'a>>) -> Result<bool> {
    let link = link.into();
    let index = link::index(socket, link)?;
    let mut changed = ensure_clsact(socket, index)?;
    for direction in Direction::BOTH {
        if list(socket, index, direction)?.iter().any(is_deny) {
            continue;
        }
        let program = bpf::load(ProgramType::SchedCls, DENY_NAME, &DROP)?;
        attach(
            socket,
            index,
            direction,
            DENY_PRIORITY,
            DENY_NAME,
            program.as_fd(),
        )?;
        changed = true;
    }
    Ok(changed)
}

/// Has every frame that the interface would hand to the host's stack sent by another interface of this index instead, in the place of [`deny`]:
/// where that one is gone, they are dropped, too.
///
/// # Errors
/// As [`ensure_clsact`] and [`attach`].
pub fn divert<'a>(socket: &mut Socket, link: impl Into<LinkId<'a>>, to: u32) -> Result<()> {
    const REDIRECT: u32 = 23;
    let program = [
        Instruction::any(SET, 1, 0, 0, to),
        Instruction::any(SET, 2, 0, 0, 0),
        Instruction::any(CALL, 0, 0, 0, REDIRECT),
        Instruction::exit(),
    ];
    wall(socket, link.into(), DIVERT_NAME, &program)
}

/// Has them dropped again, if they are [diverted](divert). Says whether they were.
///
/// # Errors
/// As [`ensure_clsact`] and [`attach`].
pub fn end_diversion<'a>(socket: &mut Socket, link: impl Into<LinkId<'a>>) -> Result<bool> {
    let link = link.into();
    let filters = list(socket, link, Direction::Ingress)?;
    let program = filters.iter().find(|f| is_deny(f)).and_then(|f| f.program);
    match program.map(bpf::info).transpose()? {
        Some(program) if program.name == DIVERT_NAME => {
            wall(socket, link, DENY_NAME, &DROP).map(|()| true)
        }
        _ => Ok(false),
    }
}

/// Puts a program in the place of what [`deny`] has put there for what the interface receives.
fn wall(
    socket: &mut Socket,
    link: LinkId<'_>,
    name: &str,
    instructions: &[Instruction],
) -> Result<()> {
    let index = link::index(socket, link)?;
    ensure_clsact(socket, index)?;
    let program = bpf::load(ProgramType::SchedCls, name, instructions)?;
    let placed = Placed {
        direction: Direction::Ingress,
        priority: DENY_PRIORITY,
        name: DENY_NAME,
        program: program.as_fd(),
    };
    placed.put(socket, link, index, libc::NLM_F_REPLACE)
}

/// Has a program of ours decide about what a NIC receives, before all other filters; one of ours there is replaced in one step.
///
/// # Errors
/// [`Error::exists`](crate::Error::exists) when somebody else's filter has the first priority; as [`ensure_clsact`].
pub fn filter<'a>(
    socket: &mut Socket,
    link: impl Into<LinkId<'a>>,
    program: BorrowedFd<'_>,
) -> Result<()> {
    let link = link.into();
    let index = link::index(socket, link)?;
    ensure_clsact(socket, index)?;
    let placed = Placed {
        direction: Direction::Ingress,
        priority: NIC_PRIORITY,
        name: NIC_NAME,
        program,
    };
    let how = match filtered(socket, index)? {
        Some(_) => libc::NLM_F_REPLACE,
        None => libc::NLM_F_EXCL,
    };
    placed.put(socket, link, index, how)
}

/// The id of the program that [`filter`] has attached.
///
/// # Errors
/// [`Error::is_gone`](crate::Error::is_gone) when there is no such interface.
pub fn filtered<'a>(socket: &mut Socket, link: impl Into<LinkId<'a>>) -> Result<Option<u32>> {
    let filters = list(socket, link, Direction::Ingress)?;
    let ours = |f: &&Filter| f.name == NIC_NAME && f.priority == NIC_PRIORITY;
    Ok(filters.iter().find(ours).and_then(|f| f.program))
}

/// Has an 802.1Q tag put on every frame that the stack sends through the interface, and left to the device beside the
/// frame, as a VLAN device on it does (`skb_vlan_push`, net/core/skbuff.c). For tests, where the kernel has no VLAN
/// devices.
///
/// # Errors
/// As [`ensure_clsact`] and [`attach`].
pub fn push_tag<'a>(socket: &mut Socket, link: impl Into<LinkId<'a>>, tci: u16) -> Result<()> {
    const SKB_VLAN_PUSH: u32 = 18;
    let index = link::index(socket, link)?;
    ensure_clsact(socket, index)?;
    let protocol = (libc::ETH_P_8021Q as u16).to_be();
    let push = [
        Instruction::any(SET, 2, 0, 0, protocol.into()),
        Instruction::any(SET, 3, 0, 0, tci.into()),
        Instruction::any(CALL, 0, 0, 0, SKB_VLAN_PUSH),
        Instruction::return_value(TC_ACT_OK),
        Instruction::exit(),
    ];
    let program = bpf::load(ProgramType::SchedCls, PUSH_NAME, &push)?;
    let (egress, fd) = (Direction::Egress, program.as_fd());
    attach(socket, index, egress, PUSH_PRIORITY, PUSH_NAME, fd)
}

/// True when both filters of [`deny`] are in place.
///
/// # Errors
/// [`Error::is_gone`](crate::Error::is_gone) when there is no such interface.
pub fn denied<'a>(socket: &mut Socket, link: impl Into<LinkId<'a>>) -> Result<bool> {
    let index = link::index(socket, link)?;
    for direction in Direction::BOTH {
        if !list(socket, index, direction)?.iter().any(is_deny) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Packets that filters on the clsact hooks have dropped, since the hooks were added; 0 without them.
///
/// # Errors
/// [`Error::is_gone`](crate::Error::is_gone) when there is no such interface.
pub fn dropped<'a>(socket: &mut Socket, link: impl Into<LinkId<'a>>) -> Result<u64> {
    let link = link.into();
    let index = link::index(socket, link)?;
    let found = qdisc(socket, link, index, |payload| {
        let attributes = payload.get(20..)?;
        // struct gnet_stats_queue (include/uapi/linux/gen_stats.h): qlen, backlog, drops, ...
        let queue = attr(attr(attributes, libc::TCA_STATS2)?, TCA_STATS_QUEUE)?;
        u32_at(queue, 8)
    })?;
    Ok(found.unwrap_or(0).into())
}

fn is_deny(filter: &Filter) -> bool {
    filter.name == DENY_NAME && filter.priority == DENY_PRIORITY
}

/// The kind of the qdisc at the clsact or ingress place, if there is one.
fn qdisc_kind(socket: &mut Socket, link: LinkId<'_>, index: u32) -> Result<Option<String>> {
    let kind = |payload: &[u8]| attr(payload.get(20..)?, libc::TCA_KIND).map(string);
    qdisc(socket, link, index, kind)
}

/// What `read` finds in the qdisc at the clsact or ingress place, if there is one.
fn qdisc<T>(
    socket: &mut Socket,
    link: LinkId<'_>,
    index: u32,
    read: impl Fn(&[u8]) -> Option<T>,
) -> Result<Option<T>> {
    // net/sched/sch_api.c answers as a notice, which its cause gets only by asking for an echo.
    let request = Request::new(
        libc::RTM_GETQDISC,
        libc::NLM_F_ECHO,
        &tcmsg(index, 0, TC_H_CLSACT, 0),
    );
    let what = format!("looking up the clsact qdisc of {link}");
    // Without one the kernel answers ENOENT, or nothing once there has been one.
    match socket.get_optional(what, request, read) {
        Err(e) if e.errno() == Some(libc::ENOENT) => Ok(None),
        other => other,
    }
}

fn parse(payload: &[u8], direction: Direction) -> Option<Filter> {
    let mut filter = Filter {
        direction,
        priority: (u32_at(payload, 16)? >> 16) as u16,
        handle: u32_at(payload, 8)?,
        name: String::new(),
        program: None,
    };
    let attributes = payload.get(20..)?;
    // The first message of a chain describes the classifier as a whole, with handle 0.
    if filter.handle == 0 || string(attr(attributes, libc::TCA_KIND)?) != "bpf" {
        return None;
    }
    for (kind, value) in attrs(attr(attributes, libc::TCA_OPTIONS)?) {
        match kind {
            TCA_BPF_NAME => filter.name = string(value),
            TCA_BPF_ID => filter.program = u32_at(value, 0),
            _ => {}
        }
    }
    Some(filter)
}

/// `tcm_info` of a filter: priority, and all protocols in network byte order.
fn filter_info(priority: u16) -> u32 {
    u32::from(priority) << 16 | u32::from((libc::ETH_P_ALL as u16).to_be())
}

/// `struct tcmsg`.
fn tcmsg(link: u32, handle: u32, parent: u32, info: u32) -> [u8; 20] {
    let mut bytes = [0; 20];
    for (at, value) in [(4, link), (8, handle), (12, parent), (16, info)] {
        bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    bytes
}
