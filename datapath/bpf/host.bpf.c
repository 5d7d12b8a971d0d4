/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Leads connections that processes of the host begin to ports of the node to the pods behind them. What a process sends to its own node never
 * leaves the host's stack, so it is told the pod's address where it names its peer: when a socket is connected, and for each datagram of one that is
 * not. What it is told of its peer afterwards is the node's address again. No packet is looked at.
 *
 * The programs are attached to a control group, whose processes may be in any network namespace: only sockets of one are meant. */
#include "abi.h"

enum { TCP = 6, UDP = 17 };

/* IPv6, or IPv4 mapped into it (RFC 4291 section 2.5.5.2). */
struct address {
	u32 word[4];
};

/* An address and a port, network byte order; of a port of the node all zeros behind the family are every address of the node's. */
struct end {
	struct address address;
	u16 port;
	/* TCP or UDP; 0 of a pod's. */
	u8 protocol, zero;
};

/* The cookie of the network namespace whose sockets are meant. */
struct {
	UINT(type, MAP_ARRAY);
	TYPE(key, u32);
	TYPE(value, u64);
	UINT(max_entries, 1);
} podswitch_netns SEC(".maps");

/* Where ports of the node lead. */
struct {
	UINT(type, MAP_HASH);
	TYPE(key, struct end);
	TYPE(value, struct end);
	UINT(max_entries, 65536);
	UINT(map_flags, MAP_NO_PREALLOC);
} podswitch_led SEC(".maps");

/* The node's addresses. */
struct {
	UINT(type, MAP_HASH);
	TYPE(key, struct address);
	TYPE(value, u32);
	UINT(max_entries, 65536);
	UINT(map_flags, MAP_NO_PREALLOC);
} podswitch_here SEC(".maps");

/* What a socket calls the pod that it was led to. */
struct led {
	/* The socket's. */
	u64 cookie;
	struct end pod;
	u32 zero;
};

struct {
	UINT(type, MAP_LRU_HASH);
	TYPE(key, struct led);
	TYPE(value, struct end);
	UINT(max_entries, 65536);
} podswitch_seen SEC(".maps");

INLINE struct address mapped(u32 v4)
{
	return (struct address){{0, 0, NETWORK32(0xffff), v4}};
}

INLINE int is_mapped(const struct address *is)
{
	return !is->word[0] && !is->word[1] && is->word[2] == NETWORK32(0xffff);
}

INLINE int is_loopback(const struct address *is)
{
	const u32 *word = is->word;

	if (is_mapped(is))
		return (word[3] & NETWORK32(0xff000000)) == NETWORK32(0x7f000000);
	return !word[0] && !word[1] && !word[2] && word[3] == NETWORK32(1);
}

INLINE int is_meant(struct sock_addr *ctx)
{
	u32 first = 0;
	u64 *cookie = map_lookup(&podswitch_netns, &first);

	return cookie && netns_cookie(ctx) == *cookie;
}

/* Whether a server of the host is there: loopback is the host's own, and it may wait at a port there that leads to a pod elsewhere. */
INLINE int is_served(struct sock_addr *ctx, const struct end *at)
{
	const u32 *to = at->address.word;
	union {
		struct tuple4 v4;
		struct tuple6 v6;
	} tuple = {.v6 = {{0, 0, 0, 0}, {to[0], to[1], to[2], to[3]}, 0, at->port}};
	u32 size = sizeof(tuple.v6);
	struct sock *sock;

	if (is_mapped(&at->address)) {
		tuple.v4 = (struct tuple4){0, to[3], 0, at->port};
		size = sizeof(tuple.v4);
	}
	sock = at->protocol == TCP ? sk_lookup_tcp(ctx, &tuple, size, SAME_NETNS, 0)
				   : sk_lookup_udp(ctx, &tuple, size, SAME_NETNS, 0);
	if (!sock)
		return 0;
	sk_release(sock);
	return 1;
}

/* Whether a socket has taken a loopback address as its own: what leaves with it comes to no pod. */
INLINE int is_bound_to_loopback(struct sock_addr *ctx)
{
	struct sock *sock = ctx->sock;
	struct address own;

	if (!sock)
		return 0;
	own = sock->family == INET ? mapped(sock->own4)
				   : (struct address){{sock->own6[0], sock->own6[1], sock->own6[2], sock->own6[3]}};
	return is_loopback(&own);
}

/* Where a port of the node leads for the host's own processes; none where it is nobody's, or a server of the host's. */
INLINE struct end *find(struct sock_addr *ctx, const struct end *at)
{
	struct end any = *at, *pod = map_lookup(&podswitch_led, at);

	if (!pod) {
		if (is_mapped(&at->address))
			any.address.word[3] = 0;
		else
			any.address = (struct address){{0, 0, 0, 0}};
		pod = map_lookup(&podswitch_led, &any);
		if (!pod)
			return 0;
	}
	if (is_loopback(&at->address))
		return is_served(ctx, at) || is_bound_to_loopback(ctx) ? 0 : pod;
	/* A port may name an address that is not the node's, or no longer. */
	return map_lookup(&podswitch_here, &at->address) ? pod : 0;
}

/* Where the process is to be led, which calls its peer `at`; none: it is left alone. */
INLINE struct end *lead(struct sock_addr *ctx, struct end *at)
{
	struct led led = {};
	struct end *pod;

	if (ctx->protocol != TCP && ctx->protocol != UDP)
		return 0;
	if (!is_meant(ctx))
		return 0;
	at->port = ctx->port;
	at->protocol = ctx->protocol;
	pod = find(ctx, at);
	if (!pod)
		return 0;
	led.cookie = socket_cookie(ctx);
	led.pod = *pod;
	map_update(&podswitch_seen, &led, at, MAP_ANY);
	ctx->port = pod->port;
	return pod;
}

/* What the process calls its peer, which is at `pod`; none: as it is. */
INLINE struct end *name(struct sock_addr *ctx, const struct address *pod)
{
	struct led led = {};
	struct end *at;

	if (!is_meant(ctx))
		return 0;
	led.cookie = socket_cookie(ctx);
	led.pod.address = *pod;
	led.pod.port = ctx->port;
	at = map_lookup(&podswitch_seen, &led);
	if (at)
		ctx->port = at->port;
	return at;
}

INLINE struct address v6_of(const struct sock_addr *ctx)
{
	return (struct address){{ctx->v6[0], ctx->v6[1], ctx->v6[2], ctx->v6[3]}};
}

INLINE void set_v6(struct sock_addr *ctx, const struct address *to)
{
	ctx->v6[0] = to->word[0];
	ctx->v6[1] = to->word[1];
	ctx->v6[2] = to->word[2];
	ctx->v6[3] = to->word[3];
}

INLINE int lead_v4(struct sock_addr *ctx)
{
	struct end at = {mapped(ctx->v4), 0, 0, 0}, *pod = lead(ctx, &at);

	if (pod)
		ctx->v4 = pod->address.word[3];
	return 1;
}

/* Also of sockets of IPv6 that mean an IPv4 address. */
INLINE int lead_v6(struct sock_addr *ctx)
{
	struct end at = {v6_of(ctx), 0, 0, 0}, *pod = lead(ctx, &at);

	if (pod)
		set_v6(ctx, &pod->address);
	return 1;
}

INLINE int name_v4(struct sock_addr *ctx)
{
	struct address pod = mapped(ctx->v4);
	struct end *at = name(ctx, &pod);

	if (at)
		ctx->v4 = at->address.word[3];
	return 1;
}

INLINE int name_v6(struct sock_addr *ctx)
{
	struct address pod = v6_of(ctx);
	struct end *at = name(ctx, &pod);

	if (at)
		set_v6(ctx, &at->address);
	return 1;
}

SEC("cgroup/connect4")
int podswitch_con4(struct sock_addr *ctx)
{
	return lead_v4(ctx);
}

SEC("cgroup/connect6")
int podswitch_con6(struct sock_addr *ctx)
{
	return lead_v6(ctx);
}

SEC("cgroup/sendmsg4")
int podswitch_snd4(struct sock_addr *ctx)
{
	return lead_v4(ctx);
}

SEC("cgroup/sendmsg6")
int podswitch_snd6(struct sock_addr *ctx)
{
	return lead_v6(ctx);
}

SEC("cgroup/recvmsg4")
int podswitch_rcv4(struct sock_addr *ctx)
{
	return name_v4(ctx);
}

SEC("cgroup/recvmsg6")
int podswitch_rcv6(struct sock_addr *ctx)
{
	return name_v6(ctx);
}

SEC("cgroup/getpeername4")
int podswitch_peer4(struct sock_addr *ctx)
{
	return name_v4(ctx);
}

SEC("cgroup/getpeername6")
int podswitch_peer6(struct sock_addr *ctx)
{
	return name_v6(ctx);
}

char podswitch_license[] SEC("license") = "Dual BSD/GPL";
