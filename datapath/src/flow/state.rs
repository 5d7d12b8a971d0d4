// SPDX-License-Identifier: Apache-2.0
//! The state of a connection: how far it has come, who began it, and how long it may be silent.
//!
//! TCP is followed by its control bits alone (RFC 9293 section 3.3.2); sequence numbers and windows are not looked at. SCTP is
//! followed by the type of the first chunk (RFC 9260 section 3.2). Everything else has two states: asked, and answered.
#![forbid(unsafe_code)]

use super::bindings::{BindingId, MAX_LINES};
use crate::ids::GroupId;
use crate::wire::protocol;
use crate::wire::tcp::flags::{ACK, FIN, RST, SYN};

/// How far a connection has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum Phase {
    /// TCP: a SYN was seen, or one from each end.
    #[default]
    TcpSynSent,
    /// TCP: the SYN was answered.
    TcpSynReceived,
    /// TCP: open, as far as both ends have shown.
    TcpEstablished,
    /// TCP: one end has sent its FIN.
    TcpHalfClosed,
    /// TCP: both ends have sent their FIN.
    TcpTimeWait,
    /// TCP: reset.
    TcpClosed,
    /// UDP: nobody has answered yet.
    UdpNew,
    /// UDP: answered.
    UdpReplied,
    /// ICMP or ICMPv6 query.
    Icmp,
    /// SCTP: being set up.
    SctpNew,
    /// SCTP: open.
    SctpEstablished,
    /// SCTP: shut down or aborted.
    SctpClosed,
    /// Any other protocol.
    Other,
}

impl Phase {
    /// Every phase, in the order of their numbers.
    pub const ALL: [Phase; 13] = [
        Phase::TcpSynSent,
        Phase::TcpSynReceived,
        Phase::TcpEstablished,
        Phase::TcpHalfClosed,
        Phase::TcpTimeWait,
        Phase::TcpClosed,
        Phase::UdpNew,
        Phase::UdpReplied,
        Phase::Icmp,
        Phase::SctpNew,
        Phase::SctpEstablished,
        Phase::SctpClosed,
        Phase::Other,
    ];

    /// The connection is over; its entry is kept for stragglers, and is the first to make room.
    #[inline(always)]
    pub fn is_over(self) -> bool {
        matches!(
            self,
            Phase::TcpTimeWait | Phase::TcpClosed | Phase::SctpClosed
        )
    }
}

/// Milliseconds without a packet after which a connection is forgotten, by [`Phase`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts([u32; 16]);

impl Timeouts {
    /// Longest timeout, milliseconds: a third of the time after which the clock wraps around.
    pub const MAX: u32 = 1_400_000_000;

    /// The timeout of a phase.
    #[inline(always)]
    pub fn of(&self, phase: Phase) -> u32 {
        self.0[phase as usize & 15]
    }

    /// Sets it, at most to [`Timeouts::MAX`].
    pub fn set(&mut self, phase: Phase, millis: u32) {
        self.0[phase as usize & 15] = millis.min(Self::MAX);
    }
}

impl Default for Timeouts {
    /// As Linux has them (`nf_conntrack_proto_*.c`), but for shorter ones of what is over: 30 and 10 seconds.
    fn default() -> Timeouts {
        let mut timeouts = Timeouts([0; 16]);
        let seconds = [
            (Phase::TcpSynSent, 120),
            (Phase::TcpSynReceived, 60),
            (Phase::TcpEstablished, 432_000),
            (Phase::TcpHalfClosed, 120),
            (Phase::TcpTimeWait, 30),
            (Phase::TcpClosed, 10),
            (Phase::UdpNew, 30),
            (Phase::UdpReplied, 120),
            (Phase::Icmp, 30),
            (Phase::SctpNew, 30),
            (Phase::SctpEstablished, 210),
            (Phase::SctpClosed, 10),
            (Phase::Other, 600),
        ];
        for (phase, seconds) in seconds {
            timeouts.set(phase, seconds * 1000);
        }
        timeouts
    }
}

/// What of a packet moves a connection's state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Signal {
    /// IP protocol.
    pub protocol: u8,
    /// TCP: control bits. SCTP: type of the first chunk. Else 0, as in later fragments.
    pub bits: u8,
}

/// Types of SCTP chunks (RFC 9260 section 3.2).
mod chunk {
    pub(super) const INIT: u8 = 1;
    pub(super) const ABORT: u8 = 6;
    pub(super) const COOKIE_ECHO: u8 = 10;
    pub(super) const COOKIE_ACK: u8 = 11;
    pub(super) const SHUTDOWN_COMPLETE: u8 = 14;
}

/// What a packet that belongs to no connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opening {
    /// It opens one.
    Opens,
    /// It belongs to one that began earlier, if to any: TCP beyond its SYN, SCTP beyond its INIT.
    Joins,
    /// It ends one, or makes no sense.
    Ends,
}

impl Signal {
    /// Whether it moves no state of an open TCP connection.
    #[inline(always)]
    pub fn is_plain_tcp(self) -> bool {
        self.bits & (SYN | FIN | RST) == 0
    }

    /// What it is to a connection that is not known.
    pub fn opening(self) -> Opening {
        match self.protocol {
            protocol::TCP => match self.bits & (SYN | ACK | FIN | RST) {
                SYN => Opening::Opens,
                bits if bits & (SYN | RST) != 0 || bits == 0 => Opening::Ends,
                _ => Opening::Joins,
            },
            protocol::SCTP => match self.bits {
                chunk::INIT => Opening::Opens,
                chunk::ABORT | chunk::SHUTDOWN_COMPLETE => Opening::Ends,
                _ => Opening::Joins,
            },
            _ => Opening::Opens,
        }
    }
}

/// The state of a connection, in 32 bits: phase (0 to 3), the end that began it (4), ends that sent a FIN (5 and 6), ends that
/// sent a SYN (7 and 8), the other end has answered (9), the end that the other one knows by another address (10), and its binding's number plus
/// one (11 to 31; 0: there is none). No connection has both a binding and a group: those with a group begin in a tunnel. So a group stands in the place
/// of the binding, above the numbers of all bindings.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct State(u32);

const BEGUN_BY: u32 = 4;
const FIN_FROM: u32 = 5;
const SYN_FROM: u32 = 7;
const ANSWERED: u32 = 1 << 9;
const BOUND_END: u32 = 10;
const BINDING: u32 = 11;
/// Largest number of a binding plus one; groups follow.
const BINDINGS: u32 = MAX_LINES as u32;
const _: () = assert!(MAX_LINES + (u16::MAX as usize) < 1 << (u32::BITS - BINDING));
/// Bits of the binding and its end.
const BOUND: u32 = u32::MAX << BOUND_END;
const TCP_ESTABLISHED: u32 = Phase::TcpEstablished as u32;
const UDP_NEW: u32 = Phase::UdpNew as u32;
const UDP_REPLIED: u32 = Phase::UdpReplied as u32;

impl State {
    /// Of a connection whose first packet is this one. TCP and SCTP that are joined midway count as open.
    pub fn first(signal: Signal) -> State {
        let phase = match (signal.protocol, signal.opening()) {
            (protocol::TCP, Opening::Opens) => Phase::TcpSynSent,
            (protocol::TCP, _) => Phase::TcpEstablished,
            (protocol::UDP, _) => Phase::UdpNew,
            (protocol::ICMP | protocol::ICMPV6, _) => Phase::Icmp,
            (protocol::SCTP, Opening::Opens) => Phase::SctpNew,
            (protocol::SCTP, _) => Phase::SctpEstablished,
            _ => Phase::Other,
        };
        let syn = u32::from(phase == Phase::TcpSynSent);
        State(phase as u32 | syn << SYN_FROM)
    }

    /// The same, of a connection that end `from` began.
    pub(super) fn begun_by(self, from: usize) -> State {
        let syn = self.0 >> SYN_FROM & 3;
        let kept = self.0 & (15 | BOUND);
        let from = from as u32 & 1;
        State(kept | from << BEGUN_BY | (syn & 1) << (SYN_FROM + from))
    }

    /// The same, of a connection whose end `end` is known to the other one by a binding.
    #[must_use]
    pub fn bound(self, end: usize, binding: BindingId) -> State {
        let end = end as u32 & 1;
        State(self.0 & !BOUND | end << BOUND_END | (binding.0 + 1) << BINDING)
    }

    /// The same, of a connection whose beginning end's packets are marked with this group. Of one that is bound, nothing changes.
    #[must_use]
    pub fn marked(self, group: Option<GroupId>) -> State {
        let is_bound = self.binding().is_some();
        match group {
            _ if is_bound => self,
            None => State(self.0 & !BOUND),
            Some(group) => {
                let number = BINDINGS + u32::from(group.get());
                State(self.0 & !BOUND | number << BINDING)
            }
        }
    }

    /// The group that packets of the end which began it are marked with.
    #[inline(always)]
    pub fn group(self) -> Option<GroupId> {
        let number = (self.0 >> BINDING).checked_sub(BINDINGS)?;
        GroupId::new(number as u16)
    }

    /// The binding of a connection, whichever end is bound.
    #[inline(always)]
    pub fn binding(self) -> Option<BindingId> {
        let number = (self.0 >> BINDING).checked_sub(1)?;
        (number < BINDINGS).then_some(BindingId(number))
    }

    /// The binding that packets from end `from` leave under.
    #[inline(always)]
    pub fn binding_of(self, from: usize) -> Option<BindingId> {
        match self.0 >> BOUND_END & 1 == from as u32 & 1 {
            true => self.binding(),
            false => None,
        }
    }

    /// How far it has come.
    #[inline(always)]
    pub fn phase(self) -> Phase {
        *Phase::ALL
            .get(self.0 as usize & 15)
            .unwrap_or(&Phase::Other)
    }

    /// The end that began it: 0 the lower one of the key, 1 the other.
    #[inline(always)]
    pub fn origin(self) -> usize {
        (self.0 >> BEGUN_BY & 1) as usize
    }

    /// Whether the other end has answered.
    pub fn is_answered(self) -> bool {
        self.0 & ANSWERED != 0
    }

    fn with(self, phase: Phase) -> State {
        State(self.0 & !15 | phase as u32)
    }

    /// Whether a packet from end `from` leaves the state as it is, which is so for all but a few.
    #[inline(always)]
    pub fn stays(self, from: usize, signal: Signal) -> bool {
        let phase = self.0 & 15;
        let nothing_new = self.0 & ANSWERED != 0 || from == self.origin();
        match phase {
            TCP_ESTABLISHED => signal.is_plain_tcp() && nothing_new,
            UDP_NEW | UDP_REPLIED => nothing_new,
            _ => false,
        }
    }

    /// The state after a packet from end `from`.
    #[must_use]
    pub fn next(self, from: usize, signal: Signal) -> State {
        let answer = from & 1 != self.origin();
        let state = match answer {
            true => State(self.0 | ANSWERED),
            false => self,
        };
        match state.phase() {
            Phase::UdpNew if answer => state.with(Phase::UdpReplied),
            Phase::SctpNew | Phase::SctpEstablished => state.after_chunk(signal.bits),
            phase if phase <= Phase::TcpClosed => state.after_segment(from, answer, signal.bits),
            _ => state,
        }
    }

    fn after_segment(self, from: usize, answer: bool, bits: u8) -> State {
        if bits & RST != 0 {
            // A refusal is as good an end as any; what is over already stays so.
            return self.with(Phase::TcpClosed);
        }
        let mut state = self;
        if bits & SYN != 0 {
            state.0 |= 1 << (SYN_FROM + (from as u32 & 1));
        }
        let both_syn = state.0 >> SYN_FROM & 3 == 3;
        if bits & FIN != 0 {
            state.0 |= 1 << (FIN_FROM + (from as u32 & 1));
        }
        let fins = state.0 >> FIN_FROM & 3;
        let phase = match (state.phase(), fins) {
            (Phase::TcpClosed, _) => Phase::TcpClosed,
            (_, 3) => Phase::TcpTimeWait,
            (_, 1 | 2) => Phase::TcpHalfClosed,
            (Phase::TcpSynSent, _) if both_syn => match bits & ACK != 0 {
                true => Phase::TcpSynReceived,
                // Both ends open at the same time (RFC 9293 section 3.5).
                false => Phase::TcpSynSent,
            },
            (Phase::TcpSynReceived, _) if !answer && bits & ACK != 0 => Phase::TcpEstablished,
            (phase, _) => phase,
        };
        state.with(phase)
    }

    fn after_chunk(self, kind: u8) -> State {
        match kind {
            chunk::ABORT | chunk::SHUTDOWN_COMPLETE => self.with(Phase::SctpClosed),
            chunk::COOKIE_ECHO | chunk::COOKIE_ACK if self.is_answered() => {
                self.with(Phase::SctpEstablished)
            }
            _ => self,
        }
    }

    /// Whether this packet begins the connection anew: the one before is over.
    pub fn begins_anew(self, signal: Signal) -> bool {
        self.phase().is_over() && signal.opening() == Opening::Opens
    }

    #[inline(always)]
    pub(super) fn to_bits(self) -> u32 {
        self.0
    }

    #[inline(always)]
    pub(super) fn from_bits(bits: u32) -> State {
        State(bits)
    }
}
