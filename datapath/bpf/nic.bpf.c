/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Steers what is the switch's of the frames that arrive on the node's NIC to the AF_XDP socket of their queue, or into a tap device (TAP),
 * and leaves everything else to the host's stack, untouched.
 *
 * What is the switch's and finds no socket or device (the switch is down, starting, or gave the port up) is dropped and counted. The
 * host's stack knows nothing of the switch's connections and would answer them with resets and ICMP errors, so that none
 * outlived a restart. Pods fail closed, the host fails open. */
#include "packet.h"
#ifdef TAP
#include "tap.h"
#else
#include "steer.h"
#endif

/* What an address is. A pod's: all of its packets are the switch's. The node's: those by the switch's ports are. Proxied:
 * the switch answers ARP and neighbor solicitations for it. */
enum { POD = 1, NODE = 2, PROXY = 4 };

enum { OVERLAYS = 4, RANGES = 8, EXTENSIONS = 6 };

/* Numbers in host byte order. A range that is not used ends before it begins, an overlay port that is not used is 0. */
struct config {
	/* The NIC's. */
	u16 mac[3];
	/* The VLAN of the frames; 0: untagged ones, and those with a priority alone. */
	u16 vlan;
	u16 overlay[OVERLAYS];
	struct {
		u16 first, last;
	} reserved[RANGES];
	/* Index of the tap device; 0: there is none. */
	u32 tap;
};

/* One element, replaced whole: a hash map shows the old or the new one, an array would show parts of both. */
struct {
	UINT(type, MAP_HASH);
	TYPE(key, u32);
	TYPE(value, struct config);
	UINT(max_entries, 1);
} podswitch_conf SEC(".maps");

/* IPv6, or IPv4 mapped into it (RFC 4291 section 2.5.5.2). */
struct address {
	u32 word[4];
};

/* What addresses are: a sum of POD, NODE and PROXY. */
struct {
	UINT(type, MAP_HASH);
	TYPE(key, struct address);
	TYPE(value, u32);
	UINT(max_entries, 65536);
	UINT(map_flags, MAP_NO_PREALLOC);
} podswitch_own SEC(".maps");

/* A port of the node that leads to a pod: all zeros behind the family of the address are every address of the node's. */
struct host_port {
	struct address address;
	/* Network byte order. */
	u16 port;
	u8 protocol, zero;
};

struct {
	UINT(type, MAP_HASH);
	TYPE(key, struct host_port);
	TYPE(value, u32);
	UINT(max_entries, 65536);
	UINT(map_flags, MAP_NO_PREALLOC);
} podswitch_port SEC(".maps");

/* A packet in fragments. */
struct packet {
	struct address from, to;
	u32 id, protocol;
};

/* When the first fragment of a packet to the node that is the switch's came, nanoseconds: the later ones have no ports. */
struct {
	UINT(type, MAP_LRU_HASH);
	TYPE(key, struct packet);
	TYPE(value, u64);
	UINT(max_entries, 4096);
} podswitch_frag SEC(".maps");

/* As long as Linux waits for fragments of an IPv4 packet (net.ipv4.ipfrag_time); its number may come again after that. */
static const u64 REASSEMBLY_NS = 30ull * 1000 * 1000 * 1000;

enum { OFFSET = 0x1fff, MORE = 0x2000 };
enum { OFFSET6 = 0xfff8, MORE6 = 1 };
/* Types of messages: RFC 792, RFC 4443, RFC 4861. */
enum { ECHO_REPLY = 0, UNREACHABLE = 3, ECHO = 8, TIME_EXCEEDED = 11, PARAMETER_PROBLEM = 12 };
enum { FIRST_ERROR6 = 1, LAST_ERROR6 = 4, ECHO6 = 128, ECHO_REPLY6 = 129 };
enum { FIRST_DISCOVERY = 133, SOLICITATION = 135, LAST_DISCOVERY = 137 };

INLINE struct address mapped(u32 v4)
{
	return (struct address){{0, 0, NETWORK32(0xffff), v4}};
}

INLINE struct address plain(const u32 *v6)
{
	return (struct address){{v6[0], v6[1], v6[2], v6[3]}};
}

/* What an address is to the switch. */
INLINE u32 roles(const struct address *is)
{
	u32 *flags = map_lookup(&podswitch_own, is);

	return flags ? *flags : 0;
}

/* What in a packet says whose it is: it is the switch's when `port` is in a reserved range or leads to a pod, or `overlay` is
 * an overlay's port. Network byte order; 0: there is none. */
struct sign {
	u16 port, overlay;
	/* The other end's port. */
	u16 peer;
	/* Of the ports: TCP, UDP, SCTP; 0 of identifiers. */
	u8 protocol;
	struct address remote;
};

static const struct sign NONE = {0, 0, 0, 0, {{0, 0, 0, 0}}};

INLINE int is_mapped(const struct address *is)
{
	return !is->word[0] && !is->word[1] && is->word[2] == NETWORK32(0xffff);
}

/* Whether the host has a connection by a port of its own that also leads to a pod: it began it itself, from that port. Who
 * waits at that port waits in vain. */
INLINE int has_connection(context *ctx, const struct address *at, const struct sign *sign)
{
	const u32 *from = sign->remote.word, *to = at->word;
	union {
		struct tuple4 v4;
		struct tuple6 v6;
	} tuple = {.v6 = {{from[0], from[1], from[2], from[3]}, {to[0], to[1], to[2], to[3]}, sign->peer, sign->port}};
	u32 size = sizeof(tuple.v6);
	int has;

	if (is_mapped(at)) {
		tuple.v4 = (struct tuple4){from[3], to[3], sign->peer, sign->port};
		size = sizeof(tuple.v4);
	}

	struct sock *sock = sign->protocol == TCP ? sk_lookup_tcp(ctx, &tuple, size, SAME_NETNS, 0)
						  : sk_lookup_udp(ctx, &tuple, size, SAME_NETNS, 0);

	if (!sock)
		return 0;
	has = sign->protocol == TCP ? sock->state != LISTEN : sock->state == ESTABLISHED;
	sk_release(sock);
	return has;
}

/* Whether a port of an address of the node's leads to a pod. */
INLINE int leads_to_pod(context *ctx, const struct address *at, const struct sign *sign)
{
	struct host_port port = {*at, sign->port, sign->protocol, 0};

	if (sign->protocol != TCP && sign->protocol != UDP)
		return 0;
	if (!map_lookup(&podswitch_port, &port)) {
		if (is_mapped(at))
			port.address.word[3] = 0;
		else
			port.address = (struct address){{0, 0, 0, 0}};
		if (!map_lookup(&podswitch_port, &port))
			return 0;
	}
	return !has_connection(ctx, at, sign);
}

/* Of a packet to an address of the node's. */
INLINE int is_of_switch(context *ctx, const struct config *config, const struct address *at, struct sign sign)
{
	u16 port = NETWORK16(sign.port), overlay = NETWORK16(sign.overlay);

	/* Left at the first match: the verifier would look at every combination of results that are gathered. */
	for (int i = 0; port && i < RANGES; i++)
		if (config->reserved[i].first <= port && port <= config->reserved[i].last)
			return 1;
	for (int i = 0; overlay && i < OVERLAYS; i++)
		if (config->overlay[i] == overlay)
			return 1;
	return leads_to_pod(ctx, at, &sign);
}

/* What an ICMP error quotes from behind the IP header on: the switch sent it by a port of its own, or to an overlay. */
INLINE struct sign quoted(u8 protocol, const struct address *to, void *at, void *end)
{
	struct ports *ports = at;
	struct icmp *icmp = at;

	if (!HAS(at, end, struct icmp))
		return NONE;
	if (protocol == UDP)
		return (struct sign){ports->from, ports->to, ports->to, UDP, *to};
	if (protocol == TCP || protocol == SCTP)
		return (struct sign){ports->from, 0, ports->to, protocol, *to};
	if ((protocol == ICMP && icmp->type == ECHO) || (protocol == ICMPV6 && icmp->type == ECHO6))
		return (struct sign){.port = icmp->id};
	return NONE;
}

INLINE struct sign quoted_v4(void *at, void *end)
{
	struct ipv4 *ip = at;

	if (!HAS(at, end, struct ipv4) || ip->fragment & NETWORK16(OFFSET))
		return NONE;

	struct address from = mapped(ip->from), to = mapped(ip->to);
	u32 len = (ip->version_len & 15) * 4;

	if (ip->version_len >> 4 != 4 || len < sizeof(*ip) || !(roles(&from) & NODE))
		return NONE;
	return quoted(ip->protocol, &to, at + len, end);
}

INLINE struct sign quoted_v6(void *at, void *end)
{
	struct ipv6 *ip = at;

	if (!HAS(at, end, struct ipv6) || ip->version >> 4 != 6)
		return NONE;

	struct address from = plain(ip->from), to = plain(ip->to);
	struct extension *fragment = at + sizeof(*ip);
	u8 protocol = ip->next;

	if (!(roles(&from) & NODE))
		return NONE;
	at = fragment;
	if (protocol == FRAGMENT) {
		if (!HAS(at, end, struct extension) || fragment->offset & NETWORK16(OFFSET6))
			return NONE;
		protocol = fragment->next;
		at = fragment + 1;
	}
	return quoted(protocol, &to, at, end);
}

/* Answers to the switch's echoes, and errors about what the switch sent (RFC 792, RFC 4443). */
INLINE struct sign icmp_sign(u8 protocol, void *at, void *end)
{
	struct icmp *icmp = at;

	if (!HAS(at, end, struct icmp))
		return NONE;
	if (icmp->type == (protocol == ICMP ? ECHO_REPLY : ECHO_REPLY6))
		return (struct sign){.port = icmp->id};
	if (protocol == ICMPV6)
		return icmp->type >= FIRST_ERROR6 && icmp->type <= LAST_ERROR6 ? quoted_v6(icmp + 1, end) : NONE;
	if (icmp->type == UNREACHABLE || icmp->type == TIME_EXCEEDED || icmp->type == PARAMETER_PROBLEM)
		return quoted_v4(icmp + 1, end);
	return NONE;
}

/* Of a packet to the node, from behind the IP header on. */
INLINE struct sign transport_sign(u8 protocol, const struct address *from, void *at, void *end)
{
	struct ports *ports = at;

	if (protocol == ICMP || protocol == ICMPV6)
		return icmp_sign(protocol, at, end);
	if ((protocol != TCP && protocol != UDP && protocol != SCTP) || !HAS(at, end, struct ports))
		return NONE;
	return (struct sign){ports->to, protocol == UDP ? ports->to : 0, ports->from, protocol, *from};
}

/* Notes whose the first fragment of a packet was. What was noted of an older packet with its number goes. */
INLINE void first_fragment(const struct packet *packet, int ours)
{
	u64 now = monotonic_ns();

	if (ours)
		map_update(&podswitch_frag, packet, &now, MAP_ANY);
	else
		map_delete(&podswitch_frag, packet);
}

/* Whether the first fragment was the switch's. */
INLINE int later_fragment(const struct packet *packet)
{
	u64 *since = map_lookup(&podswitch_frag, packet);

	return since && monotonic_ns() - *since < REASSEMBLY_NS;
}

INLINE int v4_is_ours(context *ctx, const struct config *config, void *at, void *end)
{
	struct ipv4 *ip = at;

	if (!HAS(at, end, struct ipv4) || ip->version_len >> 4 != 4)
		return 0;

	struct packet packet = {mapped(ip->from), mapped(ip->to), ip->id, ip->protocol};
	u32 is = roles(&packet.to);
	u32 len = (ip->version_len & 15) * 4;

	if (is & POD)
		return 1;
	if (!(is & NODE) || len < sizeof(*ip))
		return 0;
	if (ip->fragment & NETWORK16(OFFSET))
		return later_fragment(&packet);

	struct sign sign = transport_sign(ip->protocol, &packet.from, at + len, end);
	int ours = is_of_switch(ctx, config, &packet.to, sign);

	if (ip->fragment & NETWORK16(MORE))
		first_fragment(&packet, ours);
	return ours;
}

/* Where the extension headers of a packet end (RFC 8200 section 4), or the switch stops to look. */
struct walk {
	void *at;
	/* Of what is there. */
	u8 protocol;
	/* Of the fragment header: its offset and whether more follow, network byte order; the packet's number. */
	u16 offset;
	u32 id;
};

INLINE struct walk walk(u8 protocol, void *at, void *end)
{
	struct walk walk = {at, protocol, 0, 0};

	for (int i = 0; i < EXTENSIONS; i++) {
		struct extension *header = walk.at;
		u32 len = 8;

		if (walk.protocol != HOP_BY_HOP && walk.protocol != DESTINATION_OPTIONS &&
		    walk.protocol != ROUTING && walk.protocol != FRAGMENT)
			return walk;
		if (!HAS(header, end, struct extension))
			return walk;
		if (walk.protocol == FRAGMENT) {
			walk.offset = header->offset;
			walk.id = header->id;
		} else {
			len = (header->len + 1) * 8;
		}
		walk.protocol = header->next;
		walk.at += len;
		/* What follows the header of a later fragment is the middle of something. */
		if (walk.offset & NETWORK16(OFFSET6))
			return walk;
	}
	return walk;
}

/* Solicitations for proxied addresses (RFC 4861 section 7.1.1). */
INLINE int solicits_proxied(const struct ipv6 *ip, void *at, void *end)
{
	struct solicitation *asks = at;

	if (ip->hops != 255 || !HAS(at, end, struct solicitation) || asks->type != SOLICITATION)
		return 0;

	struct address target = plain(asks->target);

	return (roles(&target) & PROXY) != 0;
}

/* Router and neighbor solicitations and advertisements, and redirects. */
INLINE int is_discovery(u8 protocol, void *at, void *end)
{
	u8 *type = at;

	return protocol == ICMPV6 && HAS(at, end, u8) && *type >= FIRST_DISCOVERY && *type <= LAST_DISCOVERY;
}

INLINE int v6_is_ours(context *ctx, const struct config *config, void *at, void *end, int to_group)
{
	struct ipv6 *ip = at;

	if (!HAS(at, end, struct ipv6) || ip->version >> 4 != 6)
		return 0;
	if (is_discovery(ip->next, ip + 1, end))
		return solicits_proxied(ip, ip + 1, end);
	if (to_group)
		return 0;

	struct packet packet = {plain(ip->from), plain(ip->to), 0, 0};
	u32 is = roles(&packet.to);

	if (is & POD)
		return 1;
	if (!(is & NODE))
		return 0;

	struct walk headers = walk(ip->next, ip + 1, end);

	packet.id = headers.id;
	if (headers.offset & NETWORK16(OFFSET6))
		return later_fragment(&packet);

	struct sign sign = transport_sign(headers.protocol, &packet.from, headers.at, end);
	int ours = is_of_switch(ctx, config, &packet.to, sign);

	if (headers.offset & NETWORK16(MORE6))
		first_fragment(&packet, ours);
	return ours;
}

/* Requests for proxied addresses. */
INLINE int arp_is_ours(void *at, void *end)
{
	struct arp *arp = at;

	if (!HAS(at, end, struct arp) || arp->operation != NETWORK16(1))
		return 0;
	if (arp->hardware != NETWORK16(1) || arp->protocol != ETH_IPV4 || arp->hardware_len != 6 ||
	    arp->protocol_len != 4)
		return 0;

	struct address target = mapped(*(u32 *)arp->target);

	return (roles(&target) & PROXY) != 0;
}

INLINE struct config *config(void)
{
	u32 first = 0;

	return map_lookup(&podswitch_conf, &first);
}

INLINE int is_ours(context *ctx, const struct config *config, const struct tag *tag)
{
	void *at = (void *)(unsigned long)ctx->data, *end = (void *)(unsigned long)ctx->data_end;
	struct eth *eth = at;

	if (!HAS(at, end, struct eth))
		return 0;

	u16 type = eth->type, tci = tag->beside ? tag->tci : 0;
	int own = eth->to[0] == config->mac[0] && eth->to[1] == config->mac[1] && eth->to[2] == config->mac[2];
	int to_group = *(u8 *)eth & 1;

	at = eth + 1;
	if (tag->beside) {
		if (tag->protocol != ETH_VLAN)
			return 0;
	} else if (type == ETH_VLAN) {
		struct vlan *vlan = at;

		if (!HAS(at, end, struct vlan))
			return 0;
		tci = NETWORK16(vlan->tci);
		type = vlan->type;
		at = vlan + 1;
	}
	if ((tci & 0xfff) != config->vlan || (!own && !to_group))
		return 0;
	if (type == ETH_ARP)
		return arp_is_ours(at, end);
	if (type == ETH_IPV6)
		return v6_is_ours(ctx, config, at, end, to_group);
	return type == ETH_IPV4 && own && v4_is_ours(ctx, config, at, end);
}

#ifdef TAP
SEC("classifier")
int podswitch_nic(context *ctx)
{
	const struct config *is = config();

	reach(ctx);

	struct tag tag = read_tag(ctx);

	return counted(is && is_ours(ctx, is, &tag) ? steer(is->tap) : TC_UNSPEC);
}
#else
SEC("xdp.frags")
int podswitch_nic(context *ctx)
{
	const struct config *is = config();
	struct tag tag = read_tag(ctx);

	return counted(is && is_ours(ctx, is, &tag) ? steer(ctx, &tag) : XDP_PASS);
}
#endif

char podswitch_license[] SEC("license") = "Dual BSD/GPL";
