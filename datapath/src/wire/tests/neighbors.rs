// SPDX-License-Identifier: Apache-2.0
//! Neighbor discovery.

use super::frames::{
    DST, SRC, V6, V6_DST, V6_SRC, extension, icmp, naive_pseudo, parse_all, tagged,
};
use crate::wire::nd::{self, Advertisement, Message, Neighbor, flags};
use crate::wire::{ipv6, protocol};

const UNSPECIFIED: [u8; 16] = [0; 16];

/// A message to be.
#[derive(Clone)]
struct Nd {
    src: [u8; 16],
    dst: [u8; 16],
    kind: u8,
    code: u8,
    flags: u8,
    target: [u8; 16],
    options: Vec<u8>,
    hop_limit: u8,
}

impl Default for Nd {
    /// Who has `V6_DST`? from `V6_SRC`.
    fn default() -> Self {
        let mut options = vec![1, 1];
        options.extend_from_slice(&SRC.0);
        Nd {
            src: V6_SRC,
            dst: ipv6::solicited_node(&V6_DST),
            kind: 135,
            code: 0,
            flags: 0,
            target: V6_DST,
            options,
            hop_limit: 255,
        }
    }
}

impl Nd {
    /// `V6_DST` is here.
    fn advertisement(flags: u8) -> Self {
        let mut options = vec![2, 1];
        options.extend_from_slice(&SRC.0);
        Nd {
            src: V6_DST,
            dst: V6_SRC,
            kind: 136,
            flags,
            options,
            ..Nd::default()
        }
    }

    fn packet(&self) -> V6 {
        let data = [&self.target[..], &self.options].concat();
        let pseudo = naive_pseudo(&self.src, &self.dst, protocol::ICMPV6, 8 + data.len());
        V6 {
            src: self.src,
            dst: self.dst,
            next_header: protocol::ICMPV6,
            hop_limit: self.hop_limit,
            class: 0,
            payload: icmp(self.kind, self.code, [self.flags, 0, 0, 0], &data, pseudo),
        }
    }

    fn read(&self) -> Option<Neighbor> {
        read(&self.packet().frame())
    }
}

fn read(frame: &[u8]) -> Option<Neighbor> {
    Neighbor::read(frame, &parse_all(frame).unwrap())
}

#[test]
fn solicitations() {
    let n = Nd::default().read().unwrap();
    assert_eq!(n.message, Message::Solicitation);
    assert_eq!(
        (n.src, n.dst, n.target),
        (V6_SRC, ipv6::solicited_node(&V6_DST), V6_DST)
    );
    assert_eq!(n.link_address, Some(SRC));
    assert!(!n.is_dad());
    // Unicast solicitations probe for reachability, and need no option.
    let n = Nd {
        dst: V6_DST,
        options: vec![],
        ..Nd::default()
    }
    .read()
    .unwrap();
    assert_eq!((n.dst, n.link_address), (V6_DST, None));
    let tagged = tagged(&Nd::default().packet().frame(), &[(0x8100, 7)]);
    assert!(read(&tagged).is_some());
}

#[test]
fn duplicate_address_detection() {
    let dad = Nd {
        src: UNSPECIFIED,
        options: vec![],
        ..Nd::default()
    };
    assert!(dad.read().unwrap().is_dad());
    // With the nonce of RFC 7527 too; but never with a link-layer address, nor to another group.
    let nonce = Nd {
        options: vec![14, 1, 1, 2, 3, 4, 5, 6],
        ..dad.clone()
    };
    assert!(nonce.read().unwrap().is_dad());
    assert_eq!(
        Nd {
            src: UNSPECIFIED,
            ..Nd::default()
        }
        .read(),
        None
    );
    let mut all_nodes = [0; 16];
    (all_nodes[0], all_nodes[1], all_nodes[15]) = (0xff, 2, 1);
    assert_eq!(
        Nd {
            dst: all_nodes,
            ..dad
        }
        .read(),
        None
    );
}

#[test]
fn advertisements() {
    let n = Nd::advertisement(flags::SOLICITED | flags::OVERRIDE)
        .read()
        .unwrap();
    assert_eq!(n.message, Message::Advertisement { flags: 0x60 });
    assert_eq!((n.target, n.link_address), (V6_DST, Some(SRC)));
    // A source link-layer address says nothing in an advertisement.
    let other = Nd {
        options: Nd::default().options,
        ..Nd::advertisement(0)
    };
    assert_eq!(other.read().unwrap().link_address, None);
    let group = ipv6::solicited_node(&V6_DST);
    assert!(
        Nd {
            dst: group,
            ..Nd::advertisement(flags::OVERRIDE)
        }
        .read()
        .is_some()
    );
    assert_eq!(
        Nd {
            dst: group,
            ..Nd::advertisement(flags::SOLICITED)
        }
        .read(),
        None
    );
}

#[test]
fn what_rfc_4861_section_7_1_discards() {
    let ok = Nd::default();
    let bad = [
        (
            "hop limit",
            Nd {
                hop_limit: 254,
                ..ok.clone()
            },
        ),
        (
            "code",
            Nd {
                code: 1,
                ..ok.clone()
            },
        ),
        (
            "type",
            Nd {
                kind: 134,
                ..ok.clone()
            },
        ),
        (
            "multicast target",
            Nd {
                target: ipv6::solicited_node(&V6_DST),
                ..ok.clone()
            },
        ),
        (
            "option of length 0",
            Nd {
                options: vec![1, 0, 0, 0, 0, 0, 0, 0],
                ..ok.clone()
            },
        ),
        (
            "option too long",
            Nd {
                options: vec![1, 2, 0, 0, 0, 0, 0, 0],
                ..ok.clone()
            },
        ),
        (
            "rest of an option",
            Nd {
                options: vec![1],
                ..ok.clone()
            },
        ),
        ("advertisement from nowhere", {
            let mut group = ipv6::solicited_node(&V6_DST);
            group[12] = 0;
            Nd {
                src: UNSPECIFIED,
                dst: group,
                ..Nd::advertisement(0)
            }
        }),
    ];
    for (name, nd) in bad {
        assert_eq!(nd.read(), None, "{name}");
    }
    let frame = ok.packet().frame();
    for byte in 54..frame.len() {
        let mut bad = frame.clone();
        bad[byte] ^= 0x10;
        assert_eq!(read(&bad), None, "byte {byte} under the checksum");
    }
    let mut short = ok.packet();
    short.payload.truncate(16);
    assert_eq!(read(&short.frame()), None, "no target");
}

#[test]
fn what_is_no_neighbor_message() {
    assert_eq!(read(&V6::default().frame()), None);
    assert_eq!(read(&super::frames::V4::default().frame()), None);
    let parsed = parse_all(&Nd::default().packet().frame()).unwrap();
    assert_eq!(
        Neighbor::read(&[], &parsed),
        None,
        "a frame the parse is not of"
    );
    // Behind extension headers it is still one.
    let v6 = Nd::default().packet();
    let payload = [extension(protocol::ICMPV6, 1), v6.payload.clone()].concat();
    assert!(
        read(
            &V6 {
                next_header: protocol::IPV6_DEST_OPTS,
                payload,
                ..v6
            }
            .frame()
        )
        .is_some()
    );
}

#[test]
fn an_advertisement_reads_back() {
    let a = Advertisement {
        dst_mac: SRC,
        src_mac: DST,
        src: V6_DST,
        dst: V6_SRC,
        target: V6_DST,
        link_address: DST,
        flags: flags::ROUTER | flags::SOLICITED | flags::OVERRIDE,
    };
    let mut out = [0xaa; 100];
    assert_eq!(
        nd::write_advertisement(&a, &mut out),
        Some(nd::ADVERTISEMENT_FRAME)
    );
    let frame = &out[..nd::ADVERTISEMENT_FRAME];
    assert_eq!((&frame[..6], &frame[6..12]), (&SRC.0[..], &DST.0[..]));
    assert_eq!(frame.len() as u32, parse_all(frame).unwrap().frame_len());
    let want = Neighbor {
        message: Message::Advertisement { flags: 0xe0 },
        src: V6_DST,
        dst: V6_SRC,
        target: V6_DST,
        link_address: Some(DST),
    };
    assert_eq!(read(frame), Some(want));
    assert_eq!(
        out[nd::ADVERTISEMENT_FRAME..],
        [0xaa; 100 - nd::ADVERTISEMENT_FRAME]
    );
    let mut small = [0xaa; nd::ADVERTISEMENT_FRAME - 1];
    assert_eq!(nd::write_advertisement(&a, &mut small), None);
    assert!(small.iter().all(|b| *b == 0xaa));
}
