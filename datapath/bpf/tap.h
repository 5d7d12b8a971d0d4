/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How a traffic-control program gives frames to the switch: by a tap device, which puts the tag into the frame. */
#ifndef PODSWITCH_BPF_TAP_H
#define PODSWITCH_BPF_TAP_H

#include "count.h"

/* What a program is run on. */
typedef struct sk_buff context;

/* Headers of an ICMPv6 error and of the packet in it, with a tag, are shorter. */
enum { REACH = 192 };

/* Headers may lie in pieces of the buffer that a program does not reach. */
INLINE void reach(context *ctx)
{
	void *at = (void *)(unsigned long)ctx->data, *end = (void *)(unsigned long)ctx->data_end;
	u64 wanted = ctx->len < REACH ? ctx->len : REACH;

	if (at + wanted > end)
		pull_data(ctx, wanted);
}

INLINE struct tag read_tag(context *ctx)
{
	return (struct tag){ctx->vlan_present, ctx->vlan_proto, ctx->vlan_tci};
}

/* Sends the frame into the device; without one it is dropped. */
INLINE int steer(u32 device)
{
	return device ? redirect(device, 0) : TC_SHOT;
}

/* Counts what becomes of the frame, and says it. Other filters are asked about what is passed. */
INLINE int counted(int action)
{
	count_one(action == TC_REDIRECT ? REDIRECTED : action == TC_SHOT ? MISSED : PASSED);
	return action;
}

#endif
