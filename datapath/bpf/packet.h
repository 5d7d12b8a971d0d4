/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Layouts of headers, as on the wire. */
#ifndef PODSWITCH_BPF_PACKET_H
#define PODSWITCH_BPF_PACKET_H

#include "abi.h"

/* IEEE 802 numbers, network byte order. */
enum {
	ETH_IPV4 = NETWORK16(0x0800),
	ETH_ARP = NETWORK16(0x0806),
	ETH_VLAN = NETWORK16(0x8100),
	ETH_IPV6 = NETWORK16(0x86dd),
};

/* IANA protocol numbers. */
enum {
	HOP_BY_HOP = 0,
	ICMP = 1,
	TCP = 6,
	UDP = 17,
	ROUTING = 43,
	FRAGMENT = 44,
	ICMPV6 = 58,
	DESTINATION_OPTIONS = 60,
	SCTP = 132,
};

struct eth {
	u16 to[3], from[3], type;
};

/* IEEE 802.1Q, behind the MAC addresses and the tag's own EtherType. */
struct vlan {
	u16 tci, type;
};

/* RFC 826, for Ethernet and IPv4. */
struct arp {
	u16 hardware, protocol;
	u8 hardware_len, protocol_len;
	u16 operation;
	u16 sender_mac[3], sender[2], target_mac[3], target[2];
};

/* RFC 791. */
struct ipv4 {
	u8 version_len, service;
	u16 len, id, fragment;
	u8 ttl, protocol;
	u16 checksum;
	u32 from, to;
};

/* RFC 8200. */
struct ipv6 {
	u8 version, label[3];
	u16 len;
	u8 next, hops;
	u32 from[4], to[4];
};

/* An extension header of IPv6; of a fragment header the second byte is reserved and the third field has meaning. */
struct extension {
	u8 next, len;
	u16 offset;
	u32 id;
};

/* How TCP, UDP and SCTP begin. */
struct ports {
	u16 from, to;
};

/* RFC 792 and RFC 4443: what errors and echoes have in common. */
struct icmp {
	u8 type, code;
	u16 checksum, id, sequence;
};

/* RFC 4861 section 4.3. */
struct solicitation {
	u8 type, code;
	u16 checksum;
	u32 reserved, target[4];
};

#define HAS(at, end, type) ((void *)(at) + sizeof(type) <= (end))

#endif
