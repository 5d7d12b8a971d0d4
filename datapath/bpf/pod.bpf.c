/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Steers every frame that arrives on the host end of a pod's veth to the AF_XDP socket of its queue, with its VLAN tag in
 * it. Without a socket (the switch is down, starting, or gave the port up) the frame is dropped and counted: a pod never
 * reaches the host's own stack through this program. */
#include "abi.h"

enum { REDIRECTED, MISSED, COUNTERS };

/* Index: receive queue. user space sets the number of entries to the number of queues. */
struct {
	UINT(type, MAP_XSKMAP);
	TYPE(key, u32);
	TYPE(value, u32);
	UINT(max_entries, 1);
} podswitch_xsk SEC(".maps");

/* Packets, one u64 per counter and CPU. */
struct {
	UINT(type, MAP_PERCPU_ARRAY);
	TYPE(key, u32);
	TYPE(value, u64);
	UINT(max_entries, COUNTERS);
} podswitch_count SEC(".maps");

enum { MACS = 12, TAG = 4 };

/* Puts a tag that the pod left to its device into the frame, behind the MAC addresses. False when there is no room. */
static inline int put_tag(struct xdp_md *ctx, u16 protocol, u16 tci)
{
	if (adjust_head(ctx, -TAG))
		return 0;

	u32 *macs = (void *)(unsigned long)ctx->data;
	u16 *tag = (void *)macs + MACS;
	void *end = (void *)(unsigned long)ctx->data_end;

	if ((void *)macs + MACS + TAG > end)
		return 0;
	macs[0] = macs[1];
	macs[1] = macs[2];
	macs[2] = macs[3];
	tag[0] = protocol;
	tag[1] = NETWORK16(tci);
	return 1;
}

SEC("xdp.frags")
int podswitch_pod(struct xdp_md *ctx)
{
	u16 protocol = 0, tci = 0;
	int action = XDP_DROP;

	if (rx_vlan_tag(ctx, &protocol, &tci) || put_tag(ctx, protocol, tci))
		action = redirect_map(&podswitch_xsk, ctx->rx_queue_index, XDP_DROP);
	u32 which = action == XDP_REDIRECT ? REDIRECTED : MISSED;
	u64 *count = map_lookup(&podswitch_count, &which);

	if (count)
		*count += 1;
	return action;
}

char podswitch_license[] SEC("license") = "Dual BSD/GPL";
