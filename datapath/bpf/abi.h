/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The few pieces of the kernel's BPF interface that the programs use, so that building them needs a compiler
 * and no header package. Values are those of include/uapi/linux/bpf.h, which are stable. */
#ifndef PODSWITCH_BPF_ABI_H
#define PODSWITCH_BPF_ABI_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define UINT(name, value) int(*name)[value]
#define TYPE(name, value) value *name

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define NETWORK16(value) ((u16)__builtin_bswap16(value))
#define NETWORK32(value) __builtin_bswap32(value)
#else
#define NETWORK16(value) (value)
#define NETWORK32(value) (value)
#endif

/* The loader takes one function, so nothing may be left to be called. */
#define INLINE static inline __attribute__((always_inline))

enum { MAP_HASH = 1, MAP_ARRAY = 2, MAP_PERCPU_ARRAY = 6, MAP_LRU_HASH = 9, MAP_XSKMAP = 17 };
/* Memory for an element is taken when it comes. */
enum { MAP_NO_PREALLOC = 1 };
/* Of map_update: an element that is there is replaced. */
enum { MAP_ANY = 0 };
enum { XDP_DROP = 1, XDP_PASS = 2, XDP_REDIRECT = 4 };

struct xdp_md {
	u32 data;
	u32 data_end;
	u32 data_meta;
	u32 ingress_ifindex;
	u32 rx_queue_index;
	u32 egress_ifindex;
};

/* struct __sk_buff, as far as it is read. */
struct sk_buff {
	u32 len, pkt_type, mark, queue_mapping, protocol;
	u32 vlan_present, vlan_tci, vlan_proto;
	u32 priority, ingress_ifindex, ifindex, tc_index, cb[5], hash, tc_classid;
	u32 data;
	u32 data_end;
};

enum { TC_UNSPEC = -1, TC_SHOT = 2, TC_REDIRECT = 7 };

static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static long (*const map_update)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static long (*const map_delete)(void *map, const void *key) = (void *)3;
/* Sends the buffer by an interface; where there is none any more, it is dropped. */
static long (*const redirect)(u32 ifindex, u64 flags) = (void *)23;
/* Makes so many bytes of the buffer lie in one piece. */
static long (*const pull_data)(struct sk_buff *ctx, u32 len) = (void *)39;
/* Nanoseconds since the machine was started. */
static u64 (*const monotonic_ns)(void) = (void *)5;
/* A socket of a network namespace by the addresses and ports of a packet to it (bpf_sk_lookup_tcp, bpf_sk_lookup_udp); to be given back. */
static struct sock *(*const sk_lookup_tcp)(void *ctx, const void *tuple, u32 size, u64 netns, u64 flags) = (void *)84;
static struct sock *(*const sk_lookup_udp)(void *ctx, const void *tuple, u32 size, u64 netns, u64 flags) = (void *)85;
static long (*const sk_release)(struct sock *sock) = (void *)86;
/* The network namespace of the device, or of the socket. */
static const u64 SAME_NETNS = -1ull;

/* struct bpf_sock_tuple, network byte order. */
struct tuple4 {
	u32 from, to;
	u16 from_port, to_port;
};
struct tuple6 {
	u32 from[4], to[4];
	u16 from_port, to_port;
};

/* struct bpf_sock, as far as it is read here. */
struct sock {
	u32 interface, family, type, protocol, mark, priority;
	/* Its own address, network byte order. */
	u32 own4, own6[4];
	u32 between[7];
	/* As in include/net/tcp_states.h; of UDP, too. */
	u32 state;
};

enum { ESTABLISHED = 1, LISTEN = 10 };
enum { INET = 2 };

/* struct bpf_sock_addr: the peer that a process names or is told of, network byte order. */
struct sock_addr {
	u32 family, v4, v6[4], port;
	u32 sock_family, sock_type, protocol;
	u32 from4, from6[4];
	struct sock *sock;
};

/* What a socket, and the network namespace of one, is known by for as long as it lives; never given again. */
static u64 (*const socket_cookie)(struct sock_addr *ctx) = (void *)46;
static u64 (*const netns_cookie)(struct sock_addr *ctx) = (void *)122;

static long (*const adjust_head)(struct xdp_md *ctx, int delta) = (void *)44;
static long (*const redirect_map)(void *map, u64 key, u64 flags) = (void *)51;

/* Stands for the kernel function bpf_xdp_metadata_rx_vlan_tag: whoever loads the program puts that in, or a failure where
 * it cannot be had. Protocol in network byte order. */
static int (*const rx_vlan_tag)(struct xdp_md *ctx, u16 *protocol, u16 *tci) = (void *)0x7fff0001;

#endif
