// SPDX-License-Identifier: Apache-2.0
//! A second way out of an interface, beside AF_XDP: a packet socket, for TCP.
//!
//! AF_XDP knows nothing of segmentation, so each segment of a stream costs the kernel, and the stack of a pod that gets
//! it, as much as a packet of its own. A packet socket takes a `struct virtio_net_hdr` in front of a frame (packet(7)): what a burst
//! has of one connection leaves as one superframe ([`join`]), which a pod's stack takes whole, and which a NIC or the kernel
//! in front of it cuts again into the segments it was made of. Nothing waits for more to come.
//!
//! All TCP of a port goes this way, segments that stay alone too, and everything else by AF_XDP, so that both ways cannot put a
//! connection in disorder. The kernel has copied a frame when the call returns: its chunks are free at once, and may be of
//! any arena.

mod join;
mod socket;

use std::collections::VecDeque;
use std::fmt;
use std::io;

pub(crate) use join::{is_marked, is_whole, mark, mark_whole};

use super::{Link, PortCounters};
use crate::frame::{Frame, Offload, Pool};
use join::{Group, MAX_HEADERS, Plan};
pub(super) use join::{TCP_OVER_V4, TCP_OVER_V6};
pub(super) use socket::VIRTIO_HEADER;
use socket::{MOST_MESSAGES, MOST_PIECES, PacketSocket};

/// Most frames that are looked at together.
const MOST_FRAMES: usize = 128;
/// Frames that leave as single segments after a device has refused a superframe, before another is tried.
const PAUSE: u32 = 4096;
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
pub(super) const NEEDS_CHECKSUM: u8 = 1;

/// What is in front of a message's payload: the virtio-net header, and the headers of a superframe.
type Front = [u8; VIRTIO_HEADER + MAX_HEADERS];

/// Which frames are sent by a packet socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Taken {
    /// Those that are [marked](mark).
    Marked,
    /// All.
    All,
}

impl Taken {
    fn takes(self, frame: &Frame) -> bool {
        self == Taken::All || is_marked(frame)
    }
}

/// A packet socket on an interface; it only sends.
pub(crate) struct PacketWay {
    socket: PacketSocket,
    takes: Taken,
    /// A pod's veth: see [`PacketSocket::open`].
    direct: bool,
    staged: Vec<Frame>,
    plan: Plan,
    fronts: Vec<(Front, usize)>,
    /// So many frames are not joined.
    pause: u32,
}

impl fmt::Debug for PacketWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PacketWay")
            .field("direct", &self.direct)
            .field("pause", &self.pause)
            .finish_non_exhaustive()
    }
}

/// How a burst ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nothing is left.
    Done,
    /// The rest is to be planned anew.
    Again,
    /// The device takes no more for now.
    Blocked,
}

impl PacketWay {
    /// Opens one in the calling thread's network namespace, to a wire or to a pod; `tagged`: all frames have an 802.1Q tag.
    ///
    /// # Errors
    /// What the kernel said.
    pub(crate) fn open(
        interface: u32,
        wire: bool,
        tagged: bool,
        takes: Taken,
    ) -> io::Result<PacketWay> {
        // Traffic control on a pod's veth drops whatever comes by it. Superframes to a wire must pass there, where the kernel
        // segments for devices that do not.
        let direct = !wire;
        Ok(PacketWay {
            socket: PacketSocket::open(interface, direct, tagged)?,
            takes,
            direct,
            staged: Vec::with_capacity(MOST_FRAMES),
            plan: Plan::with_capacity(MOST_MESSAGES, MOST_FRAMES),
            fronts: Vec::with_capacity(MOST_MESSAGES),
            pause: 0,
        })
    }

    /// Whether it takes frames that are [whole](mark_whole).
    #[inline]
    pub(crate) fn takes_whole(&self) -> bool {
        self.pause == 0
    }

    /// Sends the frames of `outbox` that it takes, in order, and leaves the others in theirs; what the device takes
    /// no more of is put back in front. Says how many were sent.
    pub(crate) fn transmit(
        &mut self,
        pool: &mut Pool,
        outbox: &mut VecDeque<Frame>,
        link: &mut Link,
        counters: &mut PortCounters,
    ) -> usize {
        let mut sent = 0;
        loop {
            self.stage(outbox);
            if self.staged.is_empty() {
                return sent;
            }
            let joining = self.pause == 0;
            self.plan
                .make(&self.staged, joining, MOST_MESSAGES, MOST_PIECES);
            let refused = counters.tx_refused;
            let (groups, end) = self.burst(link, counters);
            let freed = self.clear(groups, pool, outbox);
            sent += freed - (counters.tx_refused - refused) as usize;
            if end == End::Blocked {
                return sent;
            }
        }
    }

    /// Takes frames that are to be sent out of the outbox, as many as are looked at together.
    fn stage(&mut self, outbox: &mut VecDeque<Frame>) {
        let takes = self.takes;
        if !outbox.iter().any(|frame| takes.takes(frame)) {
            return;
        }
        for _ in 0..outbox.len() {
            let Some(frame) = outbox.pop_front() else {
                return;
            };
            match takes.takes(&frame) && self.staged.len() < MOST_FRAMES {
                true => self.staged.push(frame),
                false => outbox.push_back(frame),
            }
        }
    }

    /// Sends what is planned; how many groups are done with, sent or refused.
    fn burst(&mut self, link: &mut Link, counters: &mut PortCounters) -> (usize, End) {
        let PacketWay {
            socket,
            takes: _,
            direct,
            staged,
            plan,
            fronts,
            pause,
        } = self;
        let groups = plan.groups();
        fronts.clear();
        fronts.extend(groups.iter().map(|group| front(group, staged)));
        let mut burst = socket.burst();
        for (group, (front, len)) in groups.iter().zip(fronts.iter()) {
            burst.piece(&front[..*len]);
            let written = len - VIRTIO_HEADER;
            for at in plan.frames_of(group) {
                pieces(&staged[at], written, |piece| burst.piece(piece));
            }
            burst.end();
        }
        let mut ready = burst.ready();
        let mut done = 0;
        while let Some(next) = groups.get(done) {
            counters.kicks += 1;
            let errno = match ready.send(done) {
                Ok(sent) => {
                    let joined = groups[done..].iter().take(sent).filter(|g| g.frames > 1);
                    counters.tx_joined += joined.map(|g| u64::from(g.frames)).sum::<u64>();
                    done += sent;
                    *link = Link::Up;
                    continue;
                }
                Err(errno) => errno,
            };
            let fate = judge(errno, *direct, next.frames > 1);
            if fate.is_for_good(errno, *direct) && is_whole(&staged[usize::from(next.first)]) {
                *pause = PAUSE;
            }
            match fate {
                Fate::Waits(state) => {
                    counters.kicks_again += u64::from(state == Link::Up);
                    *link = state;
                    return (done, End::Blocked);
                }
                Fate::Alone => {
                    *pause = PAUSE;
                    return (done, End::Again);
                }
                Fate::Again => {}
                Fate::Dropped => done += 1,
                Fate::Refused => {
                    let bytes = plan.frames_of(next).map(|at| u64::from(staged[at].len()));
                    counters.tx_refused += u64::from(next.frames);
                    counters.tx_refused_bytes += bytes.sum::<u64>();
                    done += 1;
                }
            }
        }
        *pause = pause.saturating_sub(staged.len() as u32);
        (done, End::Done)
    }

    /// Frees the frames of the first `groups` and says how many they were; puts the others back.
    fn clear(&mut self, groups: usize, pool: &mut Pool, outbox: &mut VecDeque<Frame>) -> usize {
        let mut freed = 0;
        while let Some(frame) = self.staged.pop() {
            match self.plan.group_of(self.staged.len()) < groups {
                true => {
                    pool.free(frame);
                    freed += 1;
                }
                false => outbox.push_front(frame),
            }
        }
        freed
    }
}

/// What becomes of a message that was not sent.
enum Fate {
    /// It is tried again at once.
    Again,
    /// It is tried again later, the device being so.
    Waits(Link),
    /// Its frames are sent one by one.
    Alone,
    /// The device has dropped it, and says so in its own statistics.
    Dropped,
    /// It is lost.
    Refused,
}

impl Fate {
    /// Whether the next one like it would end so, too: a full queue of a wire takes others later.
    fn is_for_good(&self, errno: i32, direct: bool) -> bool {
        let is_full = errno == libc::ENOBUFS && !direct;
        matches!(self, Fate::Dropped | Fate::Refused) && !is_full
    }
}

/// From the error number; `direct` as the socket is, `joined`: it is of several frames.
fn judge(errno: i32, direct: bool, joined: bool) -> Fate {
    match errno {
        libc::EINTR => Fate::Again,
        libc::EAGAIN => Fate::Waits(Link::Up),
        libc::ENETDOWN => Fate::Waits(Link::Down),
        libc::ENXIO | libc::ENODEV | libc::EBADF => Fate::Waits(Link::Gone),
        // The device does not segment, or its peer has no room for now.
        libc::ENOBUFS if direct && joined => Fate::Alone,
        libc::ENOBUFS if direct => Fate::Dropped,
        _ => Fate::Refused,
    }
}

/// What is written in front of a group, and how much of it.
fn front(group: &Group, frames: &[Frame]) -> (Front, usize) {
    let mut front = [0; VIRTIO_HEADER + MAX_HEADERS];
    let first = &frames[usize::from(group.first)];
    if group.frames > 1
        && let Some((virtio, headers)) = front.split_first_chunk_mut::<VIRTIO_HEADER>()
        && let Ok(headers) = headers.try_into()
        && let Some(len) = join::write_headers(group, first, &frames[group.last()], headers)
    {
        let whole = Offload {
            partial_checksum: true,
            ..first.offload
        };
        *virtio = virtio_header(&whole);
        return (front, VIRTIO_HEADER + len);
    }
    let alone = match is_whole(first) {
        true => first.offload,
        false => Offload {
            gso_type: 0,
            gso_size: 0,
            ..first.offload
        },
    };
    front[..VIRTIO_HEADER].copy_from_slice(&virtio_header(&alone));
    (front, VIRTIO_HEADER)
}

/// `struct virtio_net_hdr`, in the byte order of this machine.
fn virtio_header(offload: &Offload) -> [u8; VIRTIO_HEADER] {
    let mut out = [0; VIRTIO_HEADER];
    if offload.partial_checksum {
        out[0] = NEEDS_CHECKSUM;
        out[6..8].copy_from_slice(&offload.csum_start.to_ne_bytes());
        out[8..10].copy_from_slice(&offload.csum_offset.to_ne_bytes());
    }
    out[1] = offload.gso_type;
    out[2..4].copy_from_slice(&offload.hdr_len.to_ne_bytes());
    out[4..6].copy_from_slice(&offload.gso_size.to_ne_bytes());
    out
}

/// Gives `add` the bytes of a frame piece by piece, without its own headers if `written` bytes of headers stand in front of all.
fn pieces<'a>(frame: &'a Frame, written: usize, mut add: impl FnMut(&'a [u8])) {
    let mut skip = written;
    for segment in frame.iter() {
        let begin = skip.min(segment.len());
        skip -= begin;
        if begin < segment.len() {
            add(&segment[begin..]);
        }
    }
}
