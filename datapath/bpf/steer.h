/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How an XDP program gives frames to the switch: by AF_XDP sockets, with the tag in the frame. */
#ifndef PODSWITCH_BPF_STEER_H
#define PODSWITCH_BPF_STEER_H

#include "count.h"

/* What a program is run on. */
typedef struct xdp_md context;

/* Index: receive queue. user space sets the number of entries to the number of queues. */
struct {
	UINT(type, MAP_XSKMAP);
	TYPE(key, u32);
	TYPE(value, u32);
	UINT(max_entries, 1);
} podswitch_xsk SEC(".maps");

enum { MACS = 12, TAG = 4 };

INLINE struct tag read_tag(struct xdp_md *ctx)
{
	u16 protocol = 0, tci = 0;
	int beside = !rx_vlan_tag(ctx, &protocol, &tci);

	return (struct tag){beside, protocol, tci};
}

/* Puts the tag into the frame, behind the MAC addresses. False when there is no room. */
INLINE int put_tag(struct xdp_md *ctx, const struct tag *is)
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
	tag[0] = is->protocol;
	tag[1] = NETWORK16(is->tci);
	return 1;
}

/* Sends the frame to the socket of its queue, with its tag in it; without a socket it is dropped. */
INLINE int steer(struct xdp_md *ctx, const struct tag *tag)
{
	if (tag->beside && !put_tag(ctx, tag))
		return XDP_DROP;
	return redirect_map(&podswitch_xsk, ctx->rx_queue_index, XDP_DROP);
}

/* Counts what becomes of the frame, and says it. */
INLINE int counted(int action)
{
	count_one(action == XDP_REDIRECT ? REDIRECTED : action == XDP_PASS ? PASSED : MISSED);
	return action;
}

#endif
