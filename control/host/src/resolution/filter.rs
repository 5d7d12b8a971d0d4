// SPDX-License-Identifier: Apache-2.0
//! Which frames are copied up: a classic BPF program (`Documentation/networking/filter.rst`).

use libc::sock_filter;

const LD_W_ABS: u16 = 0x20;
const LD_H_ABS: u16 = 0x28;
const LD_B_ABS: u16 = 0x30;
const ALU_AND: u16 = 0x54;
const JMP_JEQ: u16 = 0x15;
const RET: u16 = 0x06;

/// `SKF_AD_OFF` (`include/uapi/linux/filter.h`): what lies here is about the frame, not in it.
const ABOUT: u32 = 0xffff_f000;
/// `SKF_AD_VLAN_TAG`: the tag control information, which the kernel has taken out of the frame. Before Linux 6.2 it stays there when a VLAN
/// device has taken the tag off.
const VLAN_TAG: u32 = ABOUT + 44;
/// `SKF_AD_VLAN_TAG_PRESENT`: 1 when there is one, else 0.
const VLAN_TAG_PRESENT: u32 = ABOUT + 48;
const VLAN_ID_MASK: u32 = 0xfff;

/// Where fields are in an untagged frame: Ethernet 14 bytes, IPv6 40 bytes.
const ETHERTYPE: u32 = 12;
const NEXT_HEADER: u32 = 14 + 6;
const ICMPV6_TYPE: u32 = 14 + 40;

const ARP: u32 = 0x0806;
const IPV6: u32 = 0x86dd;
const ICMPV6: u32 = 58;
const SOLICITATION: u32 = 135;
const ADVERTISEMENT: u32 = 136;

/// ARP, and neighbour solicitations and advertisements right behind the IPv6 header (RFC 6980 forbids fragments of them,
/// nobody sends other extension headers), of no VLAN. An id of 0 is a priority and no VLAN (IEEE 802.1Q, 9.6).
pub(super) fn program() -> [sock_filter; 15] {
    [
        instruction(LD_W_ABS, 0, 0, VLAN_TAG_PRESENT),
        instruction(JMP_JEQ, 3, 0, 0),
        instruction(LD_W_ABS, 0, 0, VLAN_TAG),
        instruction(ALU_AND, 0, 0, VLAN_ID_MASK),
        instruction(JMP_JEQ, 0, 9, 0),
        instruction(LD_H_ABS, 0, 0, ETHERTYPE),
        instruction(JMP_JEQ, 6, 0, ARP),
        instruction(JMP_JEQ, 0, 6, IPV6),
        instruction(LD_B_ABS, 0, 0, NEXT_HEADER),
        instruction(JMP_JEQ, 0, 4, ICMPV6),
        instruction(LD_B_ABS, 0, 0, ICMPV6_TYPE),
        instruction(JMP_JEQ, 1, 0, SOLICITATION),
        instruction(JMP_JEQ, 0, 1, ADVERTISEMENT),
        instruction(RET, 0, 0, u32::MAX),
        instruction(RET, 0, 0, 0),
    ]
}

/// An instruction; a jump goes `yes` or `no` instructions further than to the next one.
const fn instruction(code: u16, yes: u8, no: u8, k: u32) -> sock_filter {
    sock_filter {
        code,
        jt: yes,
        jf: no,
        k,
    }
}
