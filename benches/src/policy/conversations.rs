// SPDX-License-Identifier: Apache-2.0
//! TCP conversations between the pods of a node: a pod that gets a segment turns its frame into the next one, and begins a new
//! conversation, from ports that were not used for long, when it was the last.
//!
//! Each frame that circles is a conversation at a time. Which segment it is, its window says: the switch does not look at it.

use std::sync::Arc;

use podswitch_datapath::frame::Frame;
use podswitch_datapath::port::{FrameSource, MemoryDevice};
use podswitch_datapath::wire::checksum::{add, sum};
use podswitch_datapath::wire::tcp::flags::{ACK, FIN, PSH, RST, SYN};

use super::cluster::SERVICE;
use crate::stats::Random;
use crate::traffic::{self, Family, overwrite};
use crate::valve::{Tap, Valve};

/// A segment of a conversation; the client sends the first, its server the next, and so on in turn.
#[derive(Clone, Copy, Debug)]
struct Segment {
    bits: u8,
    seq: u8,
    ack: u8,
    /// It carries [`DATA`] bytes.
    data: bool,
}

const fn segment(bits: u8, seq: u8, ack: u8, data: bool) -> Segment {
    Segment {
        bits,
        seq,
        ack,
        data,
    }
}

/// Bytes in a segment with data: with them, an IPv4 frame has 60.
const DATA: usize = 6;

/// From the first SYN to the last ACK: a server that speaks first, as of SMTP, and hangs up when it has its answer.
const WHOLE: &[Segment] = &[
    segment(SYN, 0, 0, false),
    segment(SYN | ACK, 0, 1, false),
    segment(ACK, 1, 1, false),
    segment(PSH | ACK, 1, 1, true),
    segment(PSH | ACK, 1, 7, true),
    segment(FIN | ACK, 7, 7, false),
    segment(FIN | ACK, 7, 8, false),
    segment(ACK, 8, 8, false),
];
/// A handshake, and a server that gives up at once.
const HANDSHAKE: &[Segment] = &[
    segment(SYN, 0, 0, false),
    segment(SYN | ACK, 0, 1, false),
    segment(ACK, 1, 1, false),
    segment(RST | ACK, 1, 1, false),
];
/// Nobody listens.
const REFUSED: &[Segment] = &[segment(SYN, 0, 0, false), segment(RST | ACK, 0, 1, false)];
/// What the first conversations are made of: a handshake, some segments, a reset.
const FIRST: &[Segment] = &[
    segment(SYN, 0, 0, false),
    segment(SYN | ACK, 0, 1, false),
    segment(ACK, 1, 1, false),
    segment(RST, 1, 0, false),
];

/// How conversations go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Script {
    /// From the first SYN to the last ACK, with data each way.
    Whole,
    /// Three handshake segments and a reset.
    Handshake,
    /// A SYN and a reset.
    Refused,
}

impl Script {
    fn segments(self) -> &'static [Segment] {
        match self {
            Script::Whole => WHOLE,
            Script::Handshake => HANDSHAKE,
            Script::Refused => REFUSED,
        }
    }

    /// Segments of a conversation.
    pub fn length(self) -> usize {
        self.segments().len()
    }

    /// For labels.
    pub fn name(self) -> &'static str {
        match self {
            Script::Whole => "SYN to last ACK, 8 segments",
            Script::Handshake => "handshake and reset, 4 segments",
            Script::Refused => "SYN and reset, 2 segments",
        }
    }
}

/// Which segment of which conversation; it is in the window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// This one of the script.
    Script(u8),
    /// This one of [`FIRST`], and so many more ACKs to come. First conversations are of all lengths, so that the later ones do
    /// not go in step.
    First(u8, u8),
}

/// Most segments that are added to a first conversation.
const MOST_ADDED: usize = 8;

impl Place {
    fn to_window(self) -> [u8; 2] {
        match self {
            Place::Script(n) => [0x40, n],
            Place::First(n, left) => [0x41, n << 4 | left],
        }
    }

    fn from_window([kind, n]: [u8; 2]) -> Place {
        match kind {
            0x40 => Place::Script(n),
            _ => Place::First(n >> 4, n & 15),
        }
    }

    /// The one that answers it.
    fn next(self, script: &[Segment]) -> Option<Place> {
        match self {
            Place::Script(n) => (usize::from(n) + 1 < script.len()).then(|| Place::Script(n + 1)),
            Place::First(2, left) if left > 0 => Some(Place::First(2, left - 1)),
            Place::First(n, left) => {
                (usize::from(n) + 1 < FIRST.len()).then(|| Place::First(n + 1, left))
            }
        }
    }
}

/// What is the same in all frames that a pod sends to one other.
#[derive(Debug)]
struct Peer {
    /// Frames without and with data, their ports and what a segment says 0; and the sum of their checksum.
    frames: [(Vec<u8>, u16); 2],
    /// Conversations begun.
    begun: u32,
}

/// The source of a pod's frames.
#[derive(Debug)]
struct Speaker {
    script: Script,
    pod: usize,
    peers: Vec<Peer>,
    /// Where the TCP header begins, and where the number of the sending pod stands.
    l4: usize,
    number: usize,
    /// Whom it talks to next.
    at: usize,
    random: Random,
    tap: Tap,
}

/// Ports of clients.
const CLIENTS: std::ops::Range<u32> = 1024..65_536;

/// Where the fields of a TCP header are (RFC 9293 section 3.1): sequence numbers to window, checksum.
const SAYS: std::ops::Range<usize> = 4..16;
const CHECKSUM: std::ops::Range<usize> = 16..18;

/// The memory ports of pods `0..pods`; `frames` conversations at a time go on among them while the valve is open.
pub fn devices(
    family: Family,
    script: Script,
    pods: usize,
    frames: u32,
    valve: &Arc<Valve>,
) -> Vec<MemoryDevice> {
    let each = frames.div_ceil(pods as u32);
    let device = |pod| {
        let speaker = Speaker::new(family, script, pod, pods, valve);
        MemoryDevice::circle(each, Box::new(speaker))
    };
    (0..pods).map(device).collect()
}

impl Speaker {
    fn new(family: Family, script: Script, pod: usize, pods: usize, valve: &Arc<Valve>) -> Speaker {
        let l4 = match family {
            Family::V4 => 34,
            Family::V6 => 54,
        };
        let peer = |to: usize| {
            let frame = |data: usize| {
                let mut frame = traffic::ends(pod, to, family).syn_with((0, 0), data);
                let checksum = &frame[l4..][CHECKSUM];
                let whole = !u16::from_be_bytes([checksum[0], checksum[1]]);
                // What a segment says is added when it is known.
                let rest = add(whole, !sum(&frame[l4..][SAYS]));
                frame[l4..][SAYS].fill(0);
                (frame, rest)
            };
            Peer {
                frames: [frame(0), frame(DATA)],
                begun: 0,
            }
        };
        Speaker {
            script,
            pod,
            // Each pod begins with the next one, so that none is sent to by all at once.
            peers: (1..pods).map(|n| peer((pod + n) % pods)).collect(),
            l4,
            // The last bytes of the source address.
            number: match family {
                Family::V4 => 28,
                Family::V6 => 36,
            },
            at: 0,
            random: Random::new(pod as u64),
            tap: Tap::new(valve),
        }
    }

    /// A new conversation: with whom, and between which ports.
    #[inline]
    fn begin(&mut self) -> (usize, [u8; 4]) {
        self.at += 1;
        if self.at >= self.peers.len() {
            self.at = 0;
        }
        let peer = &mut self.peers[self.at];
        let n = peer.begun;
        peer.begun = n.wrapping_add(1);
        let clients = CLIENTS.end - CLIENTS.start;
        let client = (CLIENTS.start + n % clients) as u16;
        let service = SERVICE.0 + (n / clients) as u16 % (SERVICE.1 - SERVICE.0 + 1);
        let ([a, b], [c, d]) = (client.to_be_bytes(), service.to_be_bytes());
        (self.at, [a, b, c, d])
    }

    /// What answers a frame: to whom, between which ports, where in the conversation. None: nothing, that was the last one.
    #[inline]
    fn answer(&self, frame: &[u8]) -> Option<(usize, [u8; 4], Place)> {
        let header = frame.get(self.l4..)?.first_chunk::<20>()?;
        let [high, low] = *frame.get(self.number..)?.first_chunk::<2>()?;
        let place = Place::from_window([header[14], header[15]]);
        let next = place.next(self.script.segments())?;
        let from = usize::from(u16::from_be_bytes([high, low]));
        let pods = self.peers.len() + 1;
        let peer = (from + pods - self.pod).checked_sub(1)? % pods;
        let ports = [header[2], header[3], header[0], header[1]];
        Some((peer, ports, next))
    }

    #[inline]
    fn put(&self, frame: &mut Frame, peer: usize, ports: [u8; 4], place: Place) -> Option<()> {
        let segment = match place {
            Place::Script(n) => self.script.segments().get(usize::from(n))?,
            Place::First(n, _) => FIRST.get(usize::from(n))?,
        };
        let (bytes, rest) = &self.peers.get(peer)?.frames[usize::from(segment.data)];
        if !overwrite(frame, bytes) {
            return None;
        }
        let header = frame.bytes_mut().get_mut(self.l4..)?;
        header[..4].copy_from_slice(&ports);
        let [a, b] = place.to_window();
        let says = [
            0,
            0,
            0,
            segment.seq,
            0,
            0,
            0,
            segment.ack,
            5 << 4,
            segment.bits,
            a,
            b,
        ];
        header[SAYS].copy_from_slice(&says);
        let all = add(*rest, add(sum(&ports), sum(&says)));
        header[CHECKSUM].copy_from_slice(&(!all).to_be_bytes());
        Some(())
    }
}

impl FrameSource for Speaker {
    #[inline]
    fn write(&mut self, frame: &mut Frame) -> bool {
        if frame.is_empty() {
            let added = self.random.below(MOST_ADDED) as u8;
            let (peer, ports) = self.begin();
            return self
                .put(frame, peer, ports, Place::First(0, added))
                .is_some();
        }
        let (peer, ports, place) = match self.answer(frame.bytes()) {
            Some(answer) => answer,
            None => {
                let (peer, ports) = self.begin();
                (peer, ports, Place::Script(0))
            }
        };
        self.put(frame, peer, ports, place).is_some()
    }

    fn ready(&self) -> usize {
        self.tap.ready()
    }

    fn received(&mut self, frames: usize) {
        self.tap.take(frames);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podswitch_datapath::WorkerId;
    use podswitch_datapath::frame::{Arena, Pool};
    use podswitch_tests::frames::internet_checksum;

    fn is_sound(frame: &[u8], family: Family) -> bool {
        let (l4, addresses) = match family {
            Family::V4 => (34, &frame[26..34]),
            Family::V6 => (54, &frame[22..54]),
        };
        let length = (frame.len() - l4) as u16;
        let pseudo = [addresses, &[0, 6], &length.to_be_bytes()].concat();
        internet_checksum(&[&pseudo, &frame[l4..]].concat()) == 0
    }

    /// The bits of each segment of the conversations that follow one another in a frame.
    fn follow(family: Family, script: Script, segments: usize) -> Vec<u8> {
        let arena = Arc::new(Arena::new(WorkerId(0), 8).unwrap());
        let mut pool = Pool::new(WorkerId(0));
        pool.add_arena(arena.clone());
        let mut frame = pool.alloc(&arena).unwrap();
        let speaker = |pod| Speaker::new(family, script, pod, 4, &Valve::open());
        let mut speakers: Vec<Speaker> = (0..4).map(speaker).collect();
        let mut at = 0;
        let mut bits = Vec::new();
        for _ in 0..segments {
            assert!(speakers[at].write(&mut frame));
            let bytes = frame.bytes();
            assert!(is_sound(bytes, family));
            let l4 = speakers[at].l4;
            bits.push(bytes[l4 + 13]);
            let to = if family == Family::V4 { 33 } else { 53 };
            at = usize::from(bytes[to]);
        }
        pool.free(frame);
        bits
    }

    #[test]
    fn conversations_go_by_their_script() {
        for family in [Family::V4, Family::V6] {
            for script in [Script::Whole, Script::Handshake, Script::Refused] {
                let bits = follow(family, script, 200);
                let reset = bits.iter().position(|b| *b == RST).unwrap();
                assert!((3..3 + MOST_ADDED).contains(&reset));
                let expected = script.segments().iter().map(|s| s.bits).cycle();
                let expected: Vec<u8> = expected.take(200 - reset - 1).collect();
                assert_eq!(bits[reset + 1..], expected);
            }
        }
    }
}
